/* Products of 4-bit weights that were laid out anew with activations in fixed point; see
 * kernels_fixed.c for the arithmetic.
 *
 * A strip of 32 rows is one stream: a vector holds 4 bytes of each of 16 rows, 8 columns, and
 * looking it up gives 4 vectors of pairs of weights, which are multiplied with pairs of activations
 * that all rows share. So a row's sum stays in its lane: nothing is summed across a vector, and
 * scales are applied once for 64 columns of 16 rows. That takes 11.4 operations for 64 bytes of
 * codes where rows as they lie take 14. What a token gives does not depend on the tokens beside it,
 * to the bit.
 */
#include "backend/cpu/kernels_fixed.h"

#if defined(__x86_64__)

#include <string.h>

enum {
    ROWS = NB_FIXED_ROWS,
    VECTORS = ROWS / 16,
    GROUP = VECTORS * 64,      /* bytes of codes of 8 columns */
    PIECE = BLOCK / 8 * GROUP, /* of 64 */
    MOST_TOKENS = 8,           /* at a time: VECTORS times as many sums, in registers */
    AHEAD = 4096,              /* bytes that are fetched before they are needed */
};

/* The nested absmax of each row of a strip, up to the piece at which one of them changes. */
struct nested {
    alignas(64) float at[ROWS];
    size_t until;
};

/* absmax of 128 columns: a[half * VECTORS + v]. */
VNNI INLINE void load_absmax(const struct nb_fixed_job *job, size_t piece, struct nested *nested,
                             __m512 a[2 * VECTORS]) {
    size_t at = (job->row / ROWS * (job->columns / BLOCK) + piece) * ROWS;
    if (job->packed->absmax) {
        UNROLL
        for (int i = 0; i < 2 * VECTORS; i++)
            a[i] = _mm512_loadu_ps(job->packed->absmax + at + i * 16);
        return;
    }
    if (piece >= nested->until)
        nested->until = nb_fixed_nested(job, piece, nested->at);
    const uint8_t *codes = job->packed->absmax_code + at;
    _mm_prefetch((const char *)codes + AHEAD / 32, _MM_HINT_T1);
    values_of_codes(job->packed->planes, _mm512_loadu_si512(codes), a);
    UNROLL
    for (int i = 0; i < 2 * VECTORS; i++)
        a[i] = _mm512_add_ps(_mm512_mul_ps(a[i], _mm512_load_ps(nested->at + i % VECTORS * 16)),
                             _mm512_set1_ps(job->w->nested_offset));
}

/* sum[t * VECTORS + v] += what the 64 columns of `codes` give. q: [tokens, q_stride] at the place
 * of the first of them; scale: [tokens, scale_stride] likewise; a: absmax */
VNNI INLINE void piece(const uint8_t *codes, const int16_t *q, size_t q_stride, const float *scale,
                       size_t scale_stride, const __m512 *a, __m512i table, int tokens,
                       __m512 *sum) {
    enum { CHAINS = 2 }; /* of sums of one token: a product waits for the one before it */
    const int chains = tokens == 1 ? CHAINS : 1;
    __m512i acc[CHAINS * VECTORS * MOST_TOKENS];
    UNROLL
    for (int i = 0; i < chains * VECTORS * tokens; i++)
        acc[i] = _mm512_setzero_si512();
    for (size_t o = 0; o < BLOCK / 8; o++, codes += GROUP, q += 2) {
        __m512i w[VECTORS][4];
        /* The processor fetches pairs of lines; with several tokens, too late. */
        _mm_prefetch((const char *)codes + AHEAD, _MM_HINT_T1);
        if (tokens > 1)
            _mm_prefetch((const char *)codes + AHEAD + 64, _MM_HINT_T1);
        UNROLL
        for (int v = 0; v < VECTORS; v++) {
            __m512i c = _mm512_loadu_si512(codes + v * 64);
            UNROLL
            for (unsigned j = 0; j < 4; j++)
                w[v][j] = _mm512_permutexvar_epi16(j ? _mm512_srli_epi16(c, j * 4) : c, table);
        }
        UNROLL
        for (int j = 0; j < 4; j++) {
            UNROLL
            for (int t = 0; t < tokens; t++) {
                int32_t pair;
                memcpy(&pair, q + (size_t)t * q_stride + j * 32, sizeof pair);
                __m512i x = _mm512_set1_epi32(pair);
                UNROLL
                for (int v = 0; v < VECTORS; v++) {
                    int at = (t * VECTORS + v) * chains + j % chains;
                    acc[at] = _mm512_dpwssd_epi32(acc[at], w[v][j], x);
                }
            }
        }
    }
    UNROLL
    for (int t = 0; t < tokens; t++) {
        __m512 s = _mm512_set1_ps(scale[(size_t)t * scale_stride]);
        UNROLL
        for (int v = 0; v < VECTORS; v++) {
            int at = t * VECTORS + v;
            __m512i all =
                chains == 1 ? acc[at] : _mm512_add_epi32(acc[at * chains], acc[at * chains + 1]);
            sum[at] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(all), _mm512_mul_ps(a[v], s), sum[at]);
        }
    }
}

/* y[t, r] of a strip for `tokens` tokens, constant. */
VNNI INLINE void strip(const struct nb_fixed_job *job, size_t token, int tokens) {
    const uint8_t *codes = job->packed->codes + job->row / ROWS * job->packed->stride;
    const int16_t *q = job->x.q + token * job->x.q_stride;
    const float *scale = job->x.scale + token * job->x.scale_stride;
    float unit;
    __m512i table = value_table(job->w, W_MAX_ROWS, &unit);
    struct nested nested = {.until = 0};
    __m512 sum[VECTORS * MOST_TOKENS];
    UNROLL
    for (int i = 0; i < VECTORS * tokens; i++)
        sum[i] = _mm512_setzero_ps();
    for (size_t i = 0; i < job->columns / BLOCK; i += 2, q += CHUNK, codes += 2 * PIECE) {
        __m512 a[2 * VECTORS];
        load_absmax(job, i, &nested, a);
        for (size_t half = 0; half < 2; half++)
            piece(codes + half * PIECE, q + half * (CHUNK / 8), job->x.q_stride, scale + i + half,
                  job->x.scale_stride, a + half * VECTORS, table, tokens, sum);
    }
    UNROLL
    for (int t = 0; t < tokens; t++) {
        float *y = job->y + (token + (size_t)t) * job->y_stride + job->row;
        UNROLL
        for (int v = 0; v < VECTORS; v++)
            _mm512_storeu_ps(y + v * 16, _mm512_mul_ps(sum[t * VECTORS + v], _mm512_set1_ps(unit)));
    }
}

#define STRIP(count)                                                                               \
    case count:                                                                                    \
        strip(job, t, count);                                                                      \
        break

VNNI void nb_fixed_products_packed(const struct nb_fixed_job *job) {
    size_t groups = (job->tokens + MOST_TOKENS - 1) / MOST_TOKENS;
    for (size_t g = 0; g < groups; g++) { /* groups as alike in size as can be */
        size_t t = job->tokens * g / groups, end = job->tokens * (g + 1) / groups;
        switch (end - t) {
            STRIP(1);
            STRIP(2);
            STRIP(3);
            STRIP(4);
            STRIP(5);
            STRIP(6);
            STRIP(7);
            STRIP(8);
        }
    }
}

#endif
