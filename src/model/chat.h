/* Conversations as the prompts that a model was trained on: the chat template of a checkpoint.
 *
 * A checkpoint says in Jinja how messages become text. nibble knows the published templates of
 * Mistral, Llama 3 and ChatML models (Qwen and many more), and writes what they write; any other
 * template is refused, for a prompt that is nearly right gives answers that are nearly right. */
#ifndef NB_MODEL_CHAT_H
#define NB_MODEL_CHAT_H

#include "base/error.h"
#include "model/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>

struct nb_chat_format; /* what a template does; one of a few constants */

/* Nothing in it is to be freed. */
struct nb_chat {
    const struct nb_chat_format *format;
    char bos[64], eos[64]; /* empty if the checkpoint has none */
    char date[32];         /* of today, "22 Nov 2026": Llama 3.2 tells it to the model */
};

struct nb_chat_message {
    const char *role; /* "system", "user" or "assistant" */
    const char *content;
    size_t bytes;
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

/* The format that a template text asks for. */
enum nb_status nb_chat_recognize(const char *text, size_t n, const struct nb_chat_format **out,
                                 struct nb_error *err);

/* "mistral-v3", "chatml", …; and the format of that name, or NULL. */
const char *nb_chat_format_name(const struct nb_chat_format *format);
const struct nb_chat_format *nb_chat_format_find(const char *name);

#endif
