#include "engine/sampler.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>

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
        if (!out->penalized || !out->seen) {
            nb_sampler_close(out);
            return nb_fail_memory(err, n_vocab * sizeof *out->penalized, "the sampler");
        }
    }
    if (how->temperature > 0) {
        out->candidates = calloc(n_vocab, sizeof *out->candidates);
        if (!out->candidates) {
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
    *sampler = (struct nb_sampler){0};
}

/* The first of the largest; NaN is never it. This is between two steps of a GPU that take a
 * millisecond each: lanes of their own, so that compilers make vectors of them. */
static int32_t most_probable(const float *logits, size_t n) {
    enum { LANES = 32 };
    float most[LANES], best = -INFINITY;
    size_t whole = n - n % LANES;
    for (size_t k = 0; k < LANES; k++)
        most[k] = -INFINITY;
    for (size_t i = 0; i < whole; i += LANES) {
        for (size_t k = 0; k < LANES; k++)
            most[k] = logits[i + k] > most[k] ? logits[i + k] : most[k];
    }
    for (size_t k = 0; k < LANES; k++)
        best = most[k] > best ? most[k] : best;
    for (size_t i = whole; i < n; i++)
        best = logits[i] > best ? logits[i] : best;
    for (size_t i = 0; i < whole; i += LANES) {
        int found = 0;
        for (size_t k = 0; k < LANES; k++)
            found |= logits[i + k] == best;
        if (found) {
            whole = i;
            break;
        }
    }
    for (size_t i = whole; i < n; i++) {
        if (logits[i] == best)
            return (int32_t)i;
    }
    return 0;
}

/* Largest first, then lowest id. */
static int by_p(const void *a, const void *b) {
    const struct nb_candidate *x = a, *y = b;
    if (x->p != y->p)
        return x->p > y->p ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

void nb_sampler_saw(struct nb_sampler *sampler, int32_t token) {
    if (sampler->seen && token >= 0 && (size_t)token < sampler->n_vocab)
        sampler->seen[token] = true;
}

/* Keskar et al., "CTRL", 2019. */
static const float *penalize(struct nb_sampler *sampler, const float *logits) {
    if (!sampler->seen)
        return logits;
    float penalty = (float)sampler->how.repetition_penalty;
    for (size_t i = 0; i < sampler->n_vocab; i++) {
        float x = logits[i];
        sampler->penalized[i] = !sampler->seen[i] ? x : x < 0 ? x * penalty : x / penalty;
    }
    return sampler->penalized;
}

/* Candidates whose logits, less the best and divided by temperature, are in `p`; in order. */
static size_t collect(struct nb_sampler *sampler, const float *logits, int32_t best) {
    struct nb_candidate *c = sampler->candidates;
    size_t n = 0;
    for (size_t i = 0; i < sampler->n_vocab; i++) {
        /* What is 60 nats below the best would be drawn once in 10^26 times. */
        double d = ((double)logits[i] - (double)logits[best]) / sampler->how.temperature;
        if (d > -60)
            c[n++] = (struct nb_candidate){d, (int32_t)i};
    }
    qsort(c, n, sizeof *c, by_p);
    return n;
}

size_t nb_sampler_candidates(struct nb_sampler *sampler, const float *logits) {
    const struct nb_sampling *how = &sampler->how;
    struct nb_candidate *c = sampler->candidates;
    logits = penalize(sampler, logits);
    size_t n = collect(sampler, logits, most_probable(logits, sampler->n_vocab));
    if (how->top_k && (size_t)how->top_k < n) {
        size_t last = (size_t)how->top_k;
        while (last < n && c[last].p == c[last - 1].p) /* ties with the last one stay */
            last++;
        n = last;
    }
    double sum = 0, kept = 0;
    for (size_t i = 0; i < n; i++)
        sum += c[i].p = exp(c[i].p);
    size_t keep = 0;
    while (keep < n && (keep == 0 || how->top_p >= 1 || kept < how->top_p * sum))
        kept += c[keep++].p;
    while (keep > 1 && c[keep - 1].p < how->min_p * c[0].p)
        kept -= c[--keep].p;
    for (size_t i = 0; i < keep; i++)
        c[i].p /= kept;
    return keep;
}

int32_t nb_sample(struct nb_sampler *sampler, const float *logits) {
    if (sampler->how.temperature == 0)
        return most_probable(penalize(sampler, logits), sampler->n_vocab);
    const struct nb_candidate *c = sampler->candidates;
    size_t n = nb_sampler_candidates(sampler, logits);
    if (n == 0) /* every logit is NaN or minus infinity */
        return most_probable(logits, sampler->n_vocab);
    double draw = next_unit(sampler->state);
    for (size_t i = 0; i + 1 < n; i++) {
        draw -= c[i].p;
        if (draw < 0)
            return c[i].token;
    }
    return c[n - 1].token;
}

double nb_log_normalizer(const float *logits, size_t n_vocab) {
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < n_vocab; i++)
        max = logits[i] > max ? logits[i] : max;
    if (isinf(max))
        return max;
    for (size_t i = 0; i < n_vocab; i++)
        sum += isnan(logits[i]) ? 0 : exp(logits[i] - max);
    return max + log(sum);
}

double nb_log_probability(const float *logits, size_t n_vocab, int32_t token) {
    double normalizer = nb_log_normalizer(logits, n_vocab);
    if (isnan(logits[token]) || logits[token] == -INFINITY)
        return -INFINITY;
    return logits[token] == normalizer ? 0 : logits[token] - normalizer;
}
