/* The engine: a checkpoint opened on a backend, KV pages, sequences, and steps over them. */
#ifndef NB_ENGINE_ENGINE_H
#define NB_ENGINE_ENGINE_H

#include "backend/backend.h"
#include "engine/pages.h"
#include "model/tokenizer.h"
#include "nibble/nibble.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nb_engine {
    struct nb_model model;
    struct nb_tokenizer *tokenizer; /* NULL where the checkpoint has none: ids only */
    struct nb_backend *backend;
    struct nb_structures *structures; /* grammars: see structure.h */
    char name[128];                   /* of the model: the last part of the checkpoint's path */
    char folder[4096];                /* the checkpoint */
    int32_t context;                  /* the most positions a sequence may have */
    size_t max_batch_tokens;          /* of a step */
    bool quantized; /* the backend quantized the model's floats, which are in `model` */

    struct nb_pages pages; /* of KV memory */

    /* The batch of a step: [max_batch_tokens] each. */
    int32_t *token, *position, *sequence, *logits_of;
    const int32_t **page_tables;
    float *logits; /* [n_logit_rows, n_vocab] */
    size_t n_logit_rows;

    /* Whoever else has sequences on this engine, while one is appended to by itself: called before
     * each step of nb_sequence_append, on its thread, to run steps of its own and to leave `pages`
     * pages available if it can. A failure is the append's: NB_ERR_STOPPED where what appends is to
     * end. NULL: nobody. */
    enum nb_status (*meanwhile)(void *context, size_t pages, struct nb_error *err);
    void *meanwhile_context;
};

/* Takes a model that is open, and empties *model, whether it succeeds or not; an engine without a
 * tokenizer. */
enum nb_status nb_engine_open_model(struct nb_model *model, const char *name,
                                    const struct nb_options *options, struct nb_engine **out,
                                    struct nb_error *err);

/* A run of tokens that attend to each other. Its pages come from the engine as it grows, and may be
 * shared with sequences that begin alike: one that is written to is its own. */
struct nb_sequence {
    struct nb_engine *engine;
    int32_t *pages; /* [context / NB_PAGE_TOKENS, rounded up], the first n_pages of them taken */
    size_t n_pages;
    int32_t n; /* positions that are in the pages */

    nb_prefix
        *prefixes; /* [context / NB_PAGE_TOKENS, rounded up]: what the first n_known pages hold */
    size_t n_known;
};

enum nb_status nb_sequence_open(struct nb_engine *engine, struct nb_sequence *out,
                                struct nb_error *err);
void nb_sequence_close(
    struct nb_sequence *sequence); /* gives its pages back; all zero is allowed */

/* Pages that a sequence takes from the engine for n more positions. */
size_t nb_sequence_pages_for(const struct nb_sequence *sequence, size_t n);

/* Forgets all positions from n on. */
void nb_sequence_truncate(struct nb_sequence *sequence, int32_t n);

/* Starts an empty sequence with pages that hold the beginning of tokens [n] already; at least the
 * last token is left to be appended. Returns how many positions there are. */
int32_t nb_sequence_reuse(struct nb_sequence *sequence, const int32_t *tokens, size_t n);

/* Lets other sequences find this one's full pages. tokens: all that are in it, [sequence->n]. */
void nb_sequence_publish(struct nb_sequence *sequence, const int32_t *tokens);

/* Tokens to append to a sequence in a step. */
struct nb_step_part {
    struct nb_sequence *sequence; /* no two parts of a step share one */
    const int32_t *tokens;
    size_t n;
    size_t n_logits; /* logits of the last n_logits of the tokens are wanted */
};

/* Appends the tokens of all parts to their sequences, in batches of at most max_batch_tokens, and
 * leaves the wanted logits, part by part, in *logits: [sum of n_logits, n_vocab] f32, owned by the
 * engine until the next step. On failure every sequence is as it was. */
enum nb_status nb_engine_step(struct nb_engine *engine, const struct nb_step_part *parts,
                              size_t n_parts, float **logits, struct nb_error *err);

/* The same for one sequence. Where others share the engine, a step takes max_batch_tokens at most,
 * but for the tokens whose logits are wanted, and theirs are run in between. */
enum nb_status nb_sequence_append(struct nb_sequence *sequence, const int32_t *tokens, size_t n,
                                  size_t n_logits, float **logits, struct nb_error *err);

#endif
