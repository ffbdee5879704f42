/* What an answer must be: grammars over an engine's vocabulary, kept while there is room, and the
 * part of a generator that follows one. */
#ifndef NB_ENGINE_STRUCTURE_H
#define NB_ENGINE_STRUCTURE_H

#include "engine/engine.h"
#include "grammar/grammar.h"

/* An engine's vocabulary and compiled grammars. */
struct nb_structures;

enum nb_status nb_structures_open(struct nb_structures **out, struct nb_error *err);
void nb_structures_close(struct nb_structures *structures); /* NULL is allowed */

/* The vocabulary of the engine's tokenizer, made by the first call; NB_ERR_UNSUPPORTED without a
 * tokenizer. Owned by the engine. */
enum nb_status nb_engine_vocabulary(struct nb_engine *engine, const struct nb_vocabulary **out,
                                    struct nb_error *err);

/* Follows a grammar along one answer. */
struct nb_follower {
    struct nb_engine *engine;
    struct nb_matcher *matcher; /* NULL: no grammar */
    const struct nb_vocabulary *vocabulary;
    struct nb_buf bytes; /* of the answer, as its tokens make them */
    size_t first;        /* tokens of the answer that stand before the grammar's text */
};

enum nb_status nb_follower_open(struct nb_engine *engine, struct nb_grammar *grammar,
                                struct nb_follower *out, struct nb_error *err);
void nb_follower_close(struct nb_follower *follower); /* all zero is allowed */

/* Takes away the logits [n_vocab] of tokens that may not come. *only_end: nothing may but the
 * end. */
enum nb_status nb_follower_mask(struct nb_follower *follower, float *logits, bool *only_end,
                                struct nb_error *err);

/* Whether the answer can be finished after a token that the mask allows. */
bool nb_follower_viable(struct nb_follower *follower, int32_t token);

/* The first token of a short text that finishes the answer, or -1. */
int32_t nb_follower_way_out(struct nb_follower *follower);

/* The token that was drawn, and what must come after it: tokens->ids[n_before] is it, n_before
 * those that stand before it. Where a text is forced, it and the forced text become the tokens that
 * the tokenizer makes of the whole, but for a last one that the model may want to be longer. */
enum nb_status nb_follower_take(struct nb_follower *follower, struct nb_tokens *tokens,
                                size_t n_before, bool jump, struct nb_error *err);

/* Whether the answer is whole, and nothing more may come. */
bool nb_follower_ended(struct nb_follower *follower);

/* Appends the tokens of the shortest text that ends the answer; false if none was found. */
bool nb_follower_finish(struct nb_follower *follower, struct nb_tokens *tokens);

#endif
