/* Tools in conversations: how a chat template tells a model of functions it may call, and how calls
 * and their results stand in a prompt. What templates do with plain messages is in chat.c; this
 * page makes plain messages of the others, where a template does nothing more than that. */
#ifndef NB_MODEL_CHAT_TOOLS_H
#define NB_MODEL_CHAT_TOOLS_H

#include "base/buf.h"
#include "model/chat.h"

#include <jansson.h>

/* Messages made of others: [n] in `messages`, whose texts are in texts [n_texts] or the caller's.
 */
struct nb_chat_plain {
    struct nb_chat_message *messages;
    size_t n, n_texts;
    struct nb_buf *texts;
};
void nb_chat_plain_free(struct nb_chat_plain *plain);

/* As Qwen 2.5 and Hermes have it: the tools in the system prompt, which is the first message's or
 * `default_system` (may be NULL) or one made for them; where `system_refused`, in front of the
 * first user's message. A call is "<tool_call>\n{"name": …, "arguments": …}\n</tool_call>" in an
 * answer; results that follow each other are one message of the user. doubled: the braces of the
 * example are doubled, which one published template does. The caller frees *out, also after a
 * failure. */
enum nb_status nb_chat_tag_tools(const struct nb_chat_talk *talk, const char *default_system,
                                 bool system_refused, bool doubled, struct nb_chat_plain *out,
                                 struct nb_error *err);

/* As Llama 3.1 and 3.2 have it: the tools in the first message after the system prompt, a call as
 * the whole answer, its result as the message of "ipython". */
enum nb_status nb_chat_llama_tools(const struct nb_chat_talk *talk, struct nb_chat_plain *out,
                                   struct nb_error *err);

/* "[{"type": "function", "function": {…}}, …]" as Mistral's templates write it. */
void nb_chat_mistral_tools(const json_t *tools, struct nb_buf *out);

/* "[{"name": …, "arguments": …, "id": …}]" of a message's calls, likewise; NB_ERR_ARGUMENT if an id
 * is not of nine characters, for which the template stops. */
enum nb_status nb_chat_mistral_calls(const struct nb_chat_message *message, size_t index,
                                     struct nb_buf *out, struct nb_error *err);

/* Appends a document as Python's json.dumps(value, ensure_ascii=False) writes it, members in their
 * order; indent: of each level, 0: all in one line. */
void nb_json_write_python(const json_t *value, int indent, struct nb_buf *out);

#endif
