/* Prompts: a template with places for what the caller says and for the document, and the tokens
 * that come of it. What stands before the document is the same for all documents of a caller. */
#ifndef NB_TASK_PROMPT_H
#define NB_TASK_PROMPT_H

#include "engine/engine.h"
#include "model/chat.h"
#include "task/job.h"

/* What a template can hold: {{company}}, {{document_types}}, {{actions}} (a line each, with their
 * descriptions), {{instructions}}, {{schema}}, and once {{document}}. */
struct nb_prompt_values {
    const char *company, *instructions, *schema; /* NULL: none */
    const struct nb_names *document_types, *actions;
};

enum nb_prompt_form {
    NB_PROMPT_TRAINED, /* the template of a checkpoint that was trained on it: special tokens in it
                        * are such, every piece of it and every value is tokenized on its own */
    NB_PROMPT_CHAT,    /* a user's message, as the checkpoint's chat template puts it */
    NB_PROMPT_PLAIN,   /* a text to be continued */
};

struct nb_prompt {
    struct nb_engine *engine;
    enum nb_prompt_form form;
    struct nb_chat chat;
    struct nb_tokens before, after; /* of a trained form */
    struct nb_buf head, tail;       /* of the others: text */
    size_t fixed;                   /* tokens that every prompt begins with */
    size_t frame;                   /* tokens of a prompt without its document */
};

/* Fills a template, text[0..n). `name` begins messages: an unknown place, or not exactly one
 * document, is NB_ERR_FORMAT. Of a trained form descriptions of actions are left out where what
 * comes before the document takes more than `most` tokens with them. The caller closes *out, after
 * failures, too. */
enum nb_status nb_prompt_open(struct nb_engine *engine, enum nb_prompt_form form,
                              const struct nb_chat *chat, const char *text, size_t n,
                              const char *name, const struct nb_prompt_values *values, size_t most,
                              struct nb_prompt *out, struct nb_error *err);
void nb_prompt_close(struct nb_prompt *prompt);

/* Appends the prompt of a document to *out: at most `room` tokens. Of a document that is too long
 * the first two thirds and the last third of what fits are there, and *truncated is true.
 * NB_ERR_LIMIT if there is no room for 16 tokens of it. */
enum nb_status nb_prompt_make(const struct nb_prompt *prompt, const char *document, size_t n,
                              size_t room, struct nb_tokens *out, bool *truncated,
                              struct nb_error *err);

#endif
