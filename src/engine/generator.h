/* One answer in the making: from a prompt to the tokens to append, and from logits to the next of
 * them. It does no step itself, so that one caller runs a single sequence with it and another many
 * in a batch.
 *
 *     open;  until done: append `next` to the sequence, give the logits of the last to
 * nb_generator_take;  finish
 */
#ifndef NB_ENGINE_GENERATOR_H
#define NB_ENGINE_GENERATOR_H

#include "engine/engine.h"
#include "engine/sampler.h"
#include "engine/structure.h"
#include "engine/trigger.h"

struct nb_generator {
    struct nb_engine *engine;
    struct nb_generate_options options;
    struct nb_sampler sampler;
    struct nb_tokens prompt, generated;
    struct nb_buf text;
    struct nb_decoder decoder;
    struct nb_follower follower; /* of options.grammar */
    struct nb_watch watch;       /* of options.trigger */
    enum nb_finish finish;
    bool done;

    /* What is to be appended to the sequence before the next logits: first the prompt, then what
     * was drawn. Owned by the generator; nothing once it is done. */
    const int32_t *next;
    size_t n_next;

    double *logprobs; /* [cap_logprobs], and its tops [cap_logprobs, options.top_logprobs] */
    int32_t *top_ids;
    double *top_logprobs;
    size_t cap_logprobs;
    float *raw; /* [n_vocab] logits before a grammar's mask, where logprobs are asked for */
};

/* Checks the options, and makes token ids of the prompt. What the options point to, the prompt
 * aside, must stay until the generator is closed. Touches nothing of the engine that a step
 * changes, so that it may run while another thread steps. On failure nothing is left open. */
enum nb_status nb_generator_open(struct nb_engine *engine,
                                 const struct nb_generate_options *options,
                                 struct nb_generator *out, struct nb_error *err);

/* Draws a token from logits [n_vocab] f32, which it may change, notes it, tells the callback, and
 * sets `next` or `done`. */
enum nb_status nb_generator_take(struct nb_generator *generator, float *logits,
                                 struct nb_error *err);

/* Text that waited for the end of a character: to the text, and, with `tell`, to the callback.
 * Once, after the last take. */
void nb_generator_end_text(struct nb_generator *generator, bool tell);

/* Moves what was generated to *out, which the caller frees with nb_generation_free; its times are
 * 0. */
enum nb_status nb_generator_finish(struct nb_generator *generator, struct nb_generation *out,
                                   struct nb_error *err);

void nb_generator_close(struct nb_generator *generator); /* all zero is allowed */

#endif
