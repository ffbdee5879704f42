#include "engine/sampler.h"

#include "base/error.h"

#include <math.h>
#include <stdlib.h>

struct nb_candidate {
    double logit; /* then the probability */
    int32_t token;
};

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
    if (how->top_p == 0)
        out->how.top_p = 1;
    if (how->temperature > 0) {
        out->candidates = calloc(n_vocab, sizeof *out->candidates);
        if (!out->candidates)
            return nb_fail_memory(err, n_vocab * sizeof *out->candidates, "the sampler");
    }
    uint64_t x = how->seed;
    for (int i = 0; i < 4; i++)
        out->state[i] = split_mix(&x);
    return NB_OK;
}

void nb_sampler_close(struct nb_sampler *sampler) {
    free(sampler->candidates);
    *sampler = (struct nb_sampler){0};
}

static int32_t most_probable(const float *logits, size_t n) {
    int32_t best = -1;
    for (size_t i = 0; i < n; i++) {
        if (!isnan(logits[i]) && (best < 0 || logits[i] > logits[best]))
            best = (int32_t)i;
    }
    return best < 0 ? 0 : best;
}

/* Largest first, then lowest id. */
static int by_logit(const void *a, const void *b) {
    const struct nb_candidate *x = a, *y = b;
    if (x->logit != y->logit)
        return x->logit > y->logit ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

int32_t nb_sample(struct nb_sampler *sampler, const float *logits) {
    const struct nb_sampling *how = &sampler->how;
    int32_t best = most_probable(logits, sampler->n_vocab);
    if (how->temperature == 0)
        return best;
    struct nb_candidate *c = sampler->candidates;
    size_t n = 0;
    for (size_t i = 0; i < sampler->n_vocab; i++) {
        /* What is 60 nats below the best would be drawn once in 10^26 times. */
        double d = ((double)logits[i] - (double)logits[best]) / how->temperature;
        if (d > -60)
            c[n++] = (struct nb_candidate){d, (int32_t)i};
    }
    if (n == 0)
        return best;
    qsort(c, n, sizeof *c, by_logit);
    if (how->top_k && (size_t)how->top_k < n)
        n = (size_t)how->top_k;
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += c[i].logit = exp(c[i].logit);
    double kept = 0;
    size_t keep = 0;
    while (keep < n && (keep == 0 || how->top_p >= 1 || kept < how->top_p * sum))
        kept += c[keep++].logit;
    double draw = next_unit(sampler->state) * kept;
    for (size_t i = 0; i < keep; i++) {
        draw -= c[i].logit;
        if (draw < 0)
            return c[i].token;
    }
    return c[keep - 1].token;
}

double nb_log_probability(const float *logits, size_t n_vocab, int32_t token) {
    double max = -INFINITY, sum = 0;
    for (size_t i = 0; i < n_vocab; i++)
        max = logits[i] > max ? logits[i] : max;
    for (size_t i = 0; i < n_vocab; i++)
        sum += isnan(logits[i]) ? 0 : exp(logits[i] - max);
    return logits[token] - max - log(sum);
}
