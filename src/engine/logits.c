#include "engine/logits.h"

#include <math.h>
#include <string.h>
#if defined __SSE2__
#include <emmintrin.h>
#endif

/* Loops over a chunk have no branch and lanes of their own for what they sum, so that compilers
 * make vectors of them; everything is inlined into a version for each kind of processor. */
enum { CHUNK = 64 };
#define PASS static inline __attribute__((always_inline))

#if defined __x86_64__
#define AVX2 __attribute__((target("avx2")))
static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2");
}
#else
#define AVX2
static bool has_avx2(void) {
    return false;
}
#endif

/* nb_logits_NAME, which runs NAME as it is compiled for this processor. */
#define VERSIONS(type, name, parameters, arguments)                                                \
    AVX2 static type name##_avx2 parameters {                                                      \
        return name arguments;                                                                     \
    }                                                                                              \
    type nb_logits_##name parameters {                                                             \
        return has_avx2() ? name##_avx2 arguments : name arguments;                                \
    }

/* ---- the largest ---- */

/* Whether one of a chunk is above a limit. */
PASS bool any_above(const float *x, float limit) {
    int found = 0;
    for (size_t k = 0; k < CHUNK; k++)
        found |= x[k] > limit;
    return found;
}

/* Which of x [n] are above a limit, n being CHUNK at most. */
PASS uint64_t which_above(const float *x, size_t n, float limit) {
    uint64_t bits = 0;
#if defined __SSE2__
    for (size_t k = 0; n == CHUNK && k < CHUNK; k += 4) {
        __m128 above = _mm_cmpgt_ps(_mm_loadu_ps(x + k), _mm_set1_ps(limit));
        bits |= (uint64_t)(unsigned)_mm_movemask_ps(above) << k;
    }
    if (n == CHUNK)
        return bits;
#endif
    for (size_t k = 0; k < n; k++)
        bits |= (uint64_t)(x[k] > limit) << k;
    return bits;
}

PASS bool any_equal(const float *x, float value) {
    int found = 0;
    for (size_t k = 0; k < CHUNK; k++)
        found |= x[k] == value;
    return found;
}

PASS void range(const float *logits, size_t n, float *most, float *least) {
    float high[CHUNK], low[CHUNK];
    size_t i = 0;
    for (size_t k = 0; k < CHUNK; k++)
        high[k] = -INFINITY, low[k] = INFINITY;
    for (; i + CHUNK <= n; i += CHUNK) {
        const float *x = logits + i;
        for (size_t k = 0; k < CHUNK; k++) {
            float above = x[k] > -INFINITY ? x[k] : INFINITY;
            high[k] = x[k] > high[k] ? x[k] : high[k];
            low[k] = above < low[k] ? above : low[k];
        }
    }
    *most = -INFINITY;
    *least = INFINITY;
    for (size_t k = 0; k < CHUNK; k++) {
        *most = high[k] > *most ? high[k] : *most;
        *least = low[k] < *least ? low[k] : *least;
    }
    for (; i < n; i++) {
        *most = logits[i] > *most ? logits[i] : *most;
        *least = logits[i] > -INFINITY && logits[i] < *least ? logits[i] : *least;
    }
}
VERSIONS(void, range, (const float *logits, size_t n, float *most, float *least),
         (logits, n, most, least))

PASS int32_t best(const float *logits, size_t n) {
    float high[CHUNK], most = -INFINITY;
    size_t whole = n - n % CHUNK, i = 0;
    for (size_t k = 0; k < CHUNK; k++)
        high[k] = -INFINITY;
    for (; i < whole; i += CHUNK) {
        for (size_t k = 0; k < CHUNK; k++)
            high[k] = logits[i + k] > high[k] ? logits[i + k] : high[k];
    }
    for (size_t k = 0; k < CHUNK; k++)
        most = high[k] > most ? high[k] : most;
    for (; i < n; i++)
        most = logits[i] > most ? logits[i] : most;
    for (i = 0; i < whole && !any_equal(logits + i, most);)
        i += CHUNK;
    for (; i < n; i++) {
        if (logits[i] == most)
            return most > -INFINITY ? (int32_t)i : 0;
    }
    return 0;
}
VERSIONS(int32_t, best, (const float *logits, size_t n), (logits, n))

PASS size_t equal(const float *logits, size_t n, float value, int32_t *ids) {
    size_t found = 0;
    for (size_t i = 0; i < n; i += CHUNK) {
        size_t end = n - i < CHUNK ? n - i : CHUNK;
        if (end == CHUNK && !any_equal(logits + i, value))
            continue;
        for (size_t j = i; j < i + end; j++) {
            if (logits[j] == value)
                ids[found++] = (int32_t)j;
        }
    }
    return found;
}
VERSIONS(size_t, equal, (const float *logits, size_t n, float value, int32_t *ids),
         (logits, n, value, ids))

/* ---- a grammar's mask ---- */

PASS void keep(float *logits, size_t n, const uint64_t *bits, size_t n_words) {
    static const uint32_t bit[32] = {
        1u << 0,  1u << 1,  1u << 2,  1u << 3,  1u << 4,  1u << 5,  1u << 6,  1u << 7,
        1u << 8,  1u << 9,  1u << 10, 1u << 11, 1u << 12, 1u << 13, 1u << 14, 1u << 15,
        1u << 16, 1u << 17, 1u << 18, 1u << 19, 1u << 20, 1u << 21, 1u << 22, 1u << 23,
        1u << 24, 1u << 25, 1u << 26, 1u << 27, 1u << 28, 1u << 29, 1u << 30, 1u << 31};
    for (size_t i = 0; i < n; i += 64) {
        uint64_t word = i / 64 < n_words ? bits[i / 64] : 0;
        float *x = logits + i;
        if (word == ~UINT64_C(0))
            continue;
        if (n - i < 64) {
            for (size_t k = 0; k < n - i; k++)
                x[k] = word >> k & 1 ? x[k] : -INFINITY;
            continue;
        }
        uint32_t low = (uint32_t)word, high = (uint32_t)(word >> 32);
        for (size_t k = 0; k < 32; k++)
            x[k] = low & bit[k] ? x[k] : -INFINITY;
        for (size_t k = 0; k < 32; k++)
            x[32 + k] = high & bit[k] ? x[32 + k] : -INFINITY;
    }
}
VERSIONS(void, keep, (float *logits, size_t n, const uint64_t *bits, size_t n_words),
         (logits, n, bits, n_words))

/* ---- sums of probabilities ---- */

PASS uint64_t bits_of(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

PASS double double_of(uint64_t bits) {
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* a * b + c, `fused` as one operation: with the instructions for it, half the work. */
PASS double mul_add(bool fused, double a, double b, double c) {
    return fused ? __builtin_fma(a, b, c) : a * b + c;
}

/* exp(x) for x from -700 to 0: 2^n exp(r) with n whole and r of ln 2 / 2 at most, by its Taylor
 * series, of which what is left out is below 2^-57. */
PASS double exp_below_0(bool fused, double x) {
    const double magic = 0x1.8p52; /* a sum with it is whole, in its lowest bits */
    double shifted = mul_add(fused, x, 0x1.71547652b82fep0, magic), n = shifted - magic;
    /* ln 2 in two parts, the first so short that its product with n is exact */
    double r = mul_add(fused, n, -0x1.62e42fee00000p-1, x);
    r = mul_add(fused, n, -0x1.a39ef35793c76p-33, r);
    /* Even and odd terms by themselves: half as long to wait for. */
    double rr = r * r, even = 1. / 479001600, odd = 1. / 6227020800;
    even = mul_add(fused, even, rr, 1. / 3628800);
    odd = mul_add(fused, odd, rr, 1. / 39916800);
    even = mul_add(fused, even, rr, 1. / 40320);
    odd = mul_add(fused, odd, rr, 1. / 362880);
    even = mul_add(fused, even, rr, 1. / 720);
    odd = mul_add(fused, odd, rr, 1. / 5040);
    even = mul_add(fused, even, rr, 1. / 24);
    odd = mul_add(fused, odd, rr, 1. / 120);
    even = mul_add(fused, even, rr, 1. / 2);
    odd = mul_add(fused, odd, rr, 1. / 6);
    odd = mul_add(fused, odd, rr, 1);
    double sum = 1 + mul_add(fused, odd, r, even * rr);
    return double_of(bits_of(sum) + (bits_of(shifted) << 52));
}

/* Loops of their own for what is chosen: beside the rest, compilers make branches of it. */
PASS void add_exps(bool fused, const float *x, size_t n, double max, double *sum) {
    double below[CHUNK], e[CHUNK];
    for (size_t k = 0; k < n; k++) {
        double d = (double)x[k] - max;
        below[k] = d > -700 ? d : -700; /* NaN, too */
    }
    for (size_t k = 0; k < n; k++)
        e[k] = exp_below_0(fused, below[k]);
    for (size_t k = 0; k < n; k++)
        sum[k] += below[k] > -700 ? e[k] : 0;
}

PASS double exp_sum(bool fused, const float *logits, size_t n, double max) {
    double sum[CHUNK] = {0};
    size_t i = 0;
    for (; i + CHUNK <= n; i += CHUNK)
        add_exps(fused, logits + i, CHUNK, max, sum);
    add_exps(fused, logits + i, n - i, max, sum);
    for (size_t k = 1; k < CHUNK; k++)
        sum[0] += sum[k];
    return sum[0];
}

#if defined __x86_64__
__attribute__((target("avx2,fma"))) static double exp_sum_fma(const float *logits, size_t n,
                                                              double max) {
    return exp_sum(true, logits, n, max);
}
#endif

double nb_logits_exp_sum(const float *logits, size_t n, double max) {
#if defined __x86_64__
    if (has_avx2() && __builtin_cpu_supports("fma"))
        return exp_sum_fma(logits, n, max);
#endif
    return exp_sum(false, logits, n, max);
}

/* ---- by size ---- */

/* The bucket of each logit of a chunk, and its probability over that in the bucket's middle. */
PASS void place(const float *x, size_t n, const struct nb_buckets *b, int32_t *bucket,
                double *ratio) {
    double best = b->best, per_logit = b->per_logit, nats = b->nats, at[CHUNK];
    for (size_t k = 0; k < n; k++) {
        double y = (best - (double)x[k]) * per_logit;
        at[k] = y < NB_BUCKETS ? y : NB_BUCKETS; /* NaN, too */
    }
    for (size_t k = 0; k < n; k++) {
        bucket[k] = (int32_t)at[k];
        /* of 1 / 64 at most, so that its 6th power does not count */
        double r = ((double)bucket[k] + 0.5 - at[k]) * nats;
        double sum = 1. / 120;
        sum = sum * r + 1. / 24;
        sum = sum * r + 1. / 6;
        sum = sum * r + 1. / 2;
        sum = sum * r + 1;
        ratio[k] = sum * r + 1;
    }
}

PASS void add(size_t n, const int32_t *bucket, const double *ratio, bool count,
              struct nb_buckets *b, uint16_t *of) {
    for (size_t k = 0; k < n; k++)
        of[k] = (uint16_t)bucket[k];
    for (size_t k = 0; k < n; k++)
        b->mass[bucket[k]] += ratio[k];
    for (size_t k = 0; count && k < n; k++)
        b->counts[bucket[k]]++;
}

/* Those of a chunk that are in a bucket, of which there are few. */
PASS void add_few(const float *x, uint64_t which, bool count, struct nb_buckets *b, uint16_t *of) {
    for (size_t k = 0; k < CHUNK; k++)
        of[k] = NB_BUCKETS;
    for (; which; which &= which - 1) {
        size_t k = (size_t)__builtin_ctzll(which);
        int32_t bucket;
        double ratio;
        place(x + k, 1, b, &bucket, &ratio);
        add(1, &bucket, &ratio, count, b, of + k);
    }
}

enum { FEW = 16 }; /* of a chunk: all of it takes as long as these one by one */

PASS void buckets(const float *logits, size_t n, bool count, struct nb_buckets *b, uint16_t *of) {
    int32_t bucket[CHUNK];
    double ratio[CHUNK], end = b->best - NB_BUCKETS / b->per_logit;
    float below = end > -3e38 ? nextafterf((float)end, -INFINITY) : -INFINITY;
    size_t i = 0;
    memset(b->mass, 0, sizeof b->mass);
    if (count)
        memset(b->counts, 0, sizeof b->counts);
    for (; i + CHUNK <= n; i += CHUNK) {
        uint64_t which = 0;
        if (any_above(logits + i, below))
            which = which_above(logits + i, CHUNK, below);
        if (__builtin_popcountll(which) <= FEW) {
            add_few(logits + i, which, count, b, of + i);
        } else {
            place(logits + i, CHUNK, b, bucket, ratio);
            add(CHUNK, bucket, ratio, count, b, of + i);
        }
    }
    place(logits + i, n - i, b, bucket, ratio);
    add(n - i, bucket, ratio, count, b, of + i);
    double middle = exp(-0.5 * b->nats), next = exp(-b->nats);
    for (size_t k = 0; k < NB_BUCKETS; k++) {
        b->mass[k] *= middle;
        middle *= next;
    }
}
VERSIONS(void, buckets,
         (const float *logits, size_t n, bool count, struct nb_buckets *b, uint16_t *of),
         (logits, n, count, b, of))

PASS size_t in_bucket(const uint16_t *of, size_t n, uint16_t bucket, int32_t *ids) {
    size_t found = 0;
    for (size_t i = 0; i < n; i += CHUNK) {
        size_t end = n - i < CHUNK ? n - i : CHUNK;
        int any = end < CHUNK;
        for (size_t k = 0; end == CHUNK && k < CHUNK; k++)
            any |= of[i + k] == bucket;
        for (size_t k = 0; any && k < end; k++) {
            if (of[i + k] == bucket)
                ids[found++] = (int32_t)(i + k);
        }
    }
    return found;
}
VERSIONS(size_t, in_bucket, (const uint16_t *of, size_t n, uint16_t bucket, int32_t *ids),
         (of, n, bucket, ids))

/* ---- in order ---- */

uint64_t nb_logits_key(float logit, int32_t id) {
    uint32_t bits;
    if (!(logit > -INFINITY))
        return (uint32_t)id;
    logit += 0.0f; /* -0 and 0 are equal */
    memcpy(&bits, &logit, sizeof bits);
    bits = bits >> 31 ? ~bits : bits | UINT32_C(1) << 31;
    return (uint64_t)bits << 32 | (uint32_t)id;
}

/* By digits of 8 bits, the last first; where all have the same digit there is nothing to do. */
void nb_logits_sort(uint64_t *keys, uint64_t *other, size_t n) {
    if (n <= 32) {
        for (size_t i = 1; i < n; i++) {
            uint64_t key = keys[i];
            size_t at = i;
            for (; at > 0 && keys[at - 1] >> 32 < key >> 32; at--)
                keys[at] = keys[at - 1];
            keys[at] = key;
        }
        return;
    }
    size_t begin[4][256] = {0};
    for (size_t i = 0; i < n; i++) {
        for (int digit = 0; digit < 4; digit++)
            begin[digit][keys[i] >> (32 + 8 * digit) & 255]++;
    }
    uint64_t *from = keys, *to = other;
    for (int digit = 0; digit < 4; digit++) {
        int shift = 32 + 8 * digit;
        size_t sum = 0, *at = begin[digit];
        if (at[keys[0] >> shift & 255] == n)
            continue;
        for (size_t k = 256; k-- > 0;) {
            size_t count = at[k];
            at[k] = sum;
            sum += count;
        }
        for (size_t i = 0; i < n; i++)
            to[at[from[i] >> shift & 255]++] = from[i];
        uint64_t *was = from;
        from = to;
        to = was;
    }
    if (from != keys)
        memcpy(keys, from, n * sizeof *keys);
}

/* Candidates for the k largest gather until there are twice as many, or some more; of these the k
 * largest stay, and from then on only what is above the last of them is a candidate. */
PASS size_t top(const float *logits, size_t n, size_t k, int32_t *ids) {
    uint64_t keys[2 * NB_TOP_MOST + 2 * CHUNK], other[2 * NB_TOP_MOST + 2 * CHUNK];
    size_t found = 0, room = 2 * k + 2 * CHUNK;
    float least = -INFINITY;
    k = k < n ? k : n;
    for (size_t i = 0; k && i < n; i += CHUNK) {
        size_t end = n - i < CHUNK ? n - i : CHUNK;
        if (end == CHUNK && !any_above(logits + i, least))
            continue;
        for (uint64_t left = which_above(logits + i, end, least); left; left &= left - 1) {
            size_t id = i + (size_t)__builtin_ctzll(left);
            keys[found++] = nb_logits_key(logits[id], (int32_t)id);
        }
        if (found + CHUNK <= room)
            continue;
        nb_logits_sort(keys, other, found);
        found = k;
        least = logits[(uint32_t)keys[k - 1]];
    }
    nb_logits_sort(keys, other, found);
    found = found < k ? found : k;
    for (size_t i = 0; i < found; i++)
        ids[i] = (int32_t)(uint32_t)keys[i];
    for (size_t i = 0; found < k; i++) {
        if (!(logits[i] > -INFINITY))
            ids[found++] = (int32_t)i;
    }
    return found;
}
VERSIONS(size_t, top, (const float *logits, size_t n, size_t k, int32_t *ids), (logits, n, k, ids))
