/* From logits to a token. */
#ifndef NB_ENGINE_SAMPLER_H
#define NB_ENGINE_SAMPLER_H

#include "nibble/nibble.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nb_draw; /* draw.h */

struct nb_candidate {
    double p; /* its probability */
    float logit;
    int32_t token;
};

struct nb_sampler {
    struct nb_sampling how;
    uint64_t state[4]; /* of the generator */
    size_t n_vocab;

    /* With a repetition penalty, else NULL: */
    float *penalized;  /* [n_vocab] scratch */
    bool *seen;        /* [n_vocab] tokens that are penalized, */
    int32_t *seen_ids; /* [n_vocab] and the first n_seen of them, */
    size_t n_seen;     /* each once */

    /* Scratch where temperature is not 0, else NULL: */
    struct nb_candidate *candidates; /* [n_vocab] */
    struct nb_draw *draw;
};

/* NB_ERR_ARGUMENT, naming the option, for a value out of range. */
enum nb_status nb_sampler_open(const struct nb_sampling *how, size_t n_vocab,
                               struct nb_sampler *out, struct nb_error *err);
void nb_sampler_close(struct nb_sampler *sampler);

/* Tells the sampler of a token of the prompt or the answer. */
void nb_sampler_saw(struct nb_sampler *sampler, int32_t token);

/* What may be drawn, most probable first, into sampler->candidates, with probabilities that sum to
 * 1; how many there are. Temperature must not be 0. The definition of a draw, in milliseconds, for
 * all of them are sorted: of those in order the first whose sum of probabilities is above a random
 * number in [0, 1) is drawn. nb_sample gives the same token, without sorting them. */
size_t nb_sampler_candidates(struct nb_sampler *sampler, const float *logits);

/* The token that is drawn where the random number is `unit`, in [0, 1); as the definition has it,
 * and the fast way to the same one. -1: nothing may be drawn, for all logits are NaN or minus
 * infinity, or one is infinity. */
int32_t nb_sampler_plain(struct nb_sampler *sampler, const float *logits, double unit);
int32_t nb_sampler_fast(struct nb_sampler *sampler, const float *logits, double unit);

/* logits [n_vocab] f32. NaN counts as minus infinity; of equal ones the lowest id is first. */
int32_t nb_sample(struct nb_sampler *sampler, const float *logits);

/* log(sum(exp(logits))), and the log of the softmax at `token`, which is logits[token] less that;
 * in double, NaN not counted. */
double nb_log_normalizer(const float *logits, size_t n_vocab);
double nb_log_probability(const float *logits, size_t n_vocab, int32_t token);

#endif
