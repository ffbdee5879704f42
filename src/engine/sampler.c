#include "engine/sampler.h"

#include "base/error.h"
#include "engine/draw.h"
#include "engine/logits.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* xoshiro256**, seeded by splitmix64: Blackman and Vigna, "Scrambled Linear Pseudorandom Number
 * Generators", 2018. */
static uint64_t split_mix(uint64_t *x) {
    uint64_t z = *x += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return z ^ z >> 31;
}

static uint64_t rotate_left(uint64_t x, int k) {
    return x << k | x >> (64 - k);
}

static uint64_t next_random(uint64_t s[4]) {
    uint64_t result = rotate_left(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

/* Uniform in [0, 1). */
static double next_unit(uint64_t s[4]) {
    return (double)(next_random(s) >> 11) * 0x1p-53;
}

enum nb_status nb_sampler_open(const struct nb_sampling *how, size_t n_vocab,
                               struct nb_sampler *out, struct nb_error *err) {
    *out = (struct nb_sampler){.how = *how, .n_vocab = n_vocab};
    if (!(how->temperature >= 0 && how->temperature <= 100))
        return nb_fail(err, NB_ERR_ARGUMENT, "temperature is %g, expected 0 to 100",
                       how->temperature);
    if (how->top_k < 0)
        return nb_fail(err, NB_ERR_ARGUMENT, "top_k is %d, expected 0 (all) or more", how->top_k);
    if (!(how->top_p >= 0 && how->top_p <= 1))
        return nb_fail(err, NB_ERR_ARGUMENT, "top_p is %g, expected 0 to 1", how->top_p);
    if (!(how->min_p >= 0 && how->min_p <= 1))
        return nb_fail(err, NB_ERR_ARGUMENT, "min_p is %g, expected 0 to 1", how->min_p);
    if (!(how->repetition_penalty >= 0 && how->repetition_penalty <= 1e6))
        return nb_fail(err, NB_ERR_ARGUMENT, "repetition_penalty is %g, expected above 0",
                       how->repetition_penalty);
    if (how->top_p == 0)
        out->how.top_p = 1;
    if (how->repetition_penalty == 0)
        out->how.repetition_penalty = 1;
    if (out->how.repetition_penalty != 1) {
        out->penalized = calloc(n_vocab, sizeof *out->penalized);
        out->seen = calloc(n_vocab, sizeof *out->seen);
        out->seen_ids = calloc(n_vocab, sizeof *out->seen_ids);
        if (!out->penalized || !out->seen || !out->seen_ids) {
            nb_sampler_close(out);
            return nb_fail_memory(err, n_vocab * sizeof *out->penalized, "the sampler");
        }
    }
    if (how->temperature > 0) {
        out->candidates = calloc(n_vocab, sizeof *out->candidates);
        out->draw = nb_draw_open(n_vocab);
        if (!out->candidates || !out->draw) {
            nb_sampler_close(out);
            return nb_fail_memory(err, n_vocab * sizeof *out->candidates, "the sampler");
        }
    }
    uint64_t x = how->seed;
    for (int i = 0; i < 4; i++)
        out->state[i] = split_mix(&x);
    return NB_OK;
}

void nb_sampler_close(struct nb_sampler *sampler) {
    free(sampler->candidates);
    free(sampler->penalized);
    free(sampler->seen);
    free(sampler->seen_ids);
    nb_draw_close(sampler->draw);
    *sampler = (struct nb_sampler){0};
}

/* Largest first, then lowest id. */
static int by_logit(const void *a, const void *b) {
    const struct nb_candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

void nb_sampler_saw(struct nb_sampler *sampler, int32_t token) {
    if (!sampler->seen || token < 0 || (size_t)token >= sampler->n_vocab || sampler->seen[token])
        return;
    sampler->seen[token] = true;
    sampler->seen_ids[sampler->n_seen++] = token;
}

/* Keskar et al., "CTRL", 2019. */
static const float *penalize(struct nb_sampler *sampler, const float *logits) {
    if (!sampler->n_seen)
        return logits;
    float penalty = (float)sampler->how.repetition_penalty;
    memcpy(sampler->penalized, logits, sampler->n_vocab * sizeof *logits);
    for (size_t i = 0; i < sampler->n_seen; i++) {
        float *x = &sampler->penalized[sampler->seen_ids[i]];
        *x = *x < 0 ? *x * penalty : *x / penalty;
    }
    return sampler->penalized;
}

/* All that is not too far below the best, in order. */
static size_t collect(struct nb_sampler *sampler, const float *logits) {
    struct nb_candidate *c = sampler->candidates;
    float best = logits[nb_logits_best(logits, sampler->n_vocab)];
    size_t n = 0;
    for (size_t i = 0; i < sampler->n_vocab; i++) {
        if (nb_draw_nats(logits[i], best, sampler->how.temperature) > -NB_DRAW_NATS)
            c[n++] = (struct nb_candidate){.logit = logits[i], .token = (int32_t)i};
    }
    qsort(c, n, sizeof *c, by_logit);
    return n;
}

static size_t candidates(struct nb_sampler *sampler, const float *logits) {
    return nb_draw_keep(&sampler->how, sampler->candidates, collect(sampler, logits));
}

size_t nb_sampler_candidates(struct nb_sampler *sampler, const float *logits) {
    return candidates(sampler, penalize(sampler, logits));
}

static int32_t draw_plain(struct nb_sampler *sampler, const float *logits, double unit) {
    return nb_draw_first(sampler->candidates, candidates(sampler, logits), unit);
}

static int32_t draw_fast(struct nb_sampler *sampler, const float *logits, double unit) {
    int32_t token;
    if (nb_draw(sampler->draw, &sampler->how, logits, sampler->n_vocab, sampler->candidates, unit,
                &token))
        return token;
    return draw_plain(sampler, logits, unit);
}

int32_t nb_sampler_plain(struct nb_sampler *sampler, const float *logits, double unit) {
    return draw_plain(sampler, penalize(sampler, logits), unit);
}

int32_t nb_sampler_fast(struct nb_sampler *sampler, const float *logits, double unit) {
    return draw_fast(sampler, penalize(sampler, logits), unit);
}

int32_t nb_sample(struct nb_sampler *sampler, const float *logits) {
    logits = penalize(sampler, logits);
    if (sampler->how.temperature == 0)
        return nb_logits_best(logits, sampler->n_vocab);
    uint64_t state[4];
    memcpy(state, sampler->state, sizeof state);
    int32_t token = draw_fast(sampler, logits, next_unit(sampler->state));
    if (token >= 0)
        return token;
    memcpy(sampler->state, state, sizeof state); /* nothing was drawn */
    return nb_logits_best(logits, sampler->n_vocab);
}

double nb_log_normalizer(const float *logits, size_t n_vocab) {
    double max = n_vocab ? logits[nb_logits_best(logits, n_vocab)] : -INFINITY;
    if (!isfinite(max))
        return max > 0 ? max : -INFINITY;
    return max + log(nb_logits_exp_sum(logits, n_vocab, max));
}

double nb_log_probability(const float *logits, size_t n_vocab, int32_t token) {
    double normalizer = nb_log_normalizer(logits, n_vocab);
    if (isnan(logits[token]) || logits[token] == -INFINITY)
        return -INFINITY;
    return logits[token] == normalizer ? 0 : logits[token] - normalizer;
}
