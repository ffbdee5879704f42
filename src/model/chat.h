/* Conversations as the prompts that a model was trained on: the chat template of a checkpoint.
 *
 * A checkpoint says in Jinja how messages become text. nibble knows the published templates of
 * Mistral, Llama 3 and ChatML models (Qwen and many more), and writes what they write; any other
 * template is refused, for a prompt that is nearly right gives answers that are nearly right. */
#ifndef NB_MODEL_CHAT_H
#define NB_MODEL_CHAT_H

#include "base/error.h"
#include "model/tokenizer.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

struct nb_chat_format; /* what a template does; one of a few constants */

/* Nothing in it is to be freed. */
struct nb_chat {
    const struct nb_chat_format *format;
    char bos[64], eos[64]; /* empty if the checkpoint has none */
    char date[32];         /* of today, "22 Nov 2026": Llama 3.2 tells it to the model */
};

/* A call of a function, in an assistant's message. */
struct nb_chat_call {
    const char *id;   /* NULL: none */
    const char *name; /* of letters, digits, "_" and "-" */
    const json_t *arguments;
};

struct nb_chat_message {
    const char *role; /* "system", "user", "assistant", or "tool": what a call gave */
    const char *content;
    size_t bytes;

    const struct nb_chat_call *calls; /* [n_calls], of an assistant */
    size_t n_calls;
    const char *call_id; /* of a tool: which call this is the result of; NULL: not said */
    bool whole;          /* its text is written as it is where others' would be trimmed */
};

/* A message's text without white space at its ends, as Python's str.strip leaves it. */
struct nb_chat_message nb_chat_trimmed(const struct nb_chat_message *message);

/* How a model calls functions. */
enum nb_chat_calls {
    NB_CHAT_CALLS_TAGGED, /* <tool_call>\n{"name": …, "arguments": …}\n</tool_call>, any number */
    NB_CHAT_CALLS_MISTRAL, /* [TOOL_CALLS] [{"name": …, "arguments": …}, …], and nothing else */
    NB_CHAT_CALLS_LLAMA,   /* {"name": …, "parameters": …}, and nothing else */
    NB_CHAT_CALLS_REFUSED, /* in a way that nibble does not know: tools are refused */
};
enum nb_chat_calls nb_chat_calls(const struct nb_chat *chat);

/* The id of the special token [TOOL_CALLS]; -1 where calls do not begin with one. */
int32_t nb_chat_calls_token(const struct nb_chat *chat, const struct nb_tokenizer *tokenizer);

/* A conversation, with what the model may call. */
struct nb_chat_talk {
    const struct nb_chat_message *messages;
    size_t n;
    const json_t *tools; /* [{"type": "function", "function": {"name", …}}, …], or NULL */
    bool add_generation_prompt;
    bool begin_call; /* with add_generation_prompt: the answer is a call, and what stands before
                      * its JSON object is written, too */
};

/* Reads the template of a checkpoint: chat_template.jinja, or else chat_template in
 * tokenizer_config.json, a string or a list of {name, template} of which "default" is taken.
 * NB_ERR_UNSUPPORTED if there is none, or one that nibble does not know. */
enum nb_status nb_chat_open(const char *folder, struct nb_chat *out, struct nb_error *err);

/* Appends the ids of messages[0..n), n > 0, and, where add_generation_prompt, of what comes before
 * the assistant's answer. They are those of transformers' apply_chat_template(tokenize=True), but
 * that special tokens written in a message are ordinary text. Where the template would stop with
 * an error, for roles in a wrong order or a system prompt that it has no place for, this is
 * NB_ERR_ARGUMENT. On failure *out holds what it held before. */
enum nb_status nb_chat_encode(const struct nb_chat *chat, const struct nb_tokenizer *tokenizer,
                              const struct nb_chat_message *messages, size_t n,
                              bool add_generation_prompt, struct nb_tokens *out,
                              struct nb_error *err);

/* The same for a conversation with tools. Formats whose templates have a place for tools write what
 * those write, in transformers' words; the others are told of them as Qwen 2.5 is, in the system
 * prompt, for a model may follow that, and a call that is forced is written by a grammar in any
 * case. NB_ERR_UNSUPPORTED for NB_CHAT_CALLS_REFUSED. */
enum nb_status nb_chat_encode_talk(const struct nb_chat *chat, const struct nb_tokenizer *tokenizer,
                                   const struct nb_chat_talk *talk, struct nb_tokens *out,
                                   struct nb_error *err);

/* The format that a template text asks for. */
enum nb_status nb_chat_recognize(const char *text, size_t n, const struct nb_chat_format **out,
                                 struct nb_error *err);

/* "mistral-v3", "chatml", …; and the format of that name, or NULL. */
const char *nb_chat_format_name(const struct nb_chat_format *format);
const struct nb_chat_format *nb_chat_format_find(const char *name);

#endif
