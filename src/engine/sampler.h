/* From logits to a token. */
#ifndef NB_ENGINE_SAMPLER_H
#define NB_ENGINE_SAMPLER_H

#include "nibble/nibble.h"

#include <stddef.h>
#include <stdint.h>

struct nb_sampler {
    struct nb_sampling how;
    uint64_t state[4];               /* of the generator */
    struct nb_candidate *candidates; /* [n_vocab] scratch */
    size_t n_vocab;
};

/* NB_ERR_ARGUMENT, naming the option, for a value out of range. */
enum nb_status nb_sampler_open(const struct nb_sampling *how, size_t n_vocab,
                               struct nb_sampler *out, struct nb_error *err);
void nb_sampler_close(struct nb_sampler *sampler);

/* logits [n_vocab] f32. NaN counts as minus infinity; of equal ones the lowest id is first. */
int32_t nb_sample(struct nb_sampler *sampler, const float *logits);

/* log of the softmax at `token`, in double: logits[token] - log(sum(exp(logits))). */
double nb_log_probability(const float *logits, size_t n_vocab, int32_t token);

#endif
