/* Products of 4-bit weights that were laid out anew with activations in fixed point, for AVX2; the
 * arithmetic is that of kernels_packed.c.
 *
 * vpshufb looks up bytes: the low and the high byte of each weight, which unpacking joins. 32 bytes
 * of codes, 8 rows by 8 columns, become four vectors of 4 rows by the 4 odd or even columns, and
 * vpmaddwd leaves two sums of each row beside each other, which are added at the end of a block.
 */
#include "backend/cpu/kernels_x86.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <math.h>
#include <stdalign.h>
#include <string.h>

#define AVX2   __attribute__((target("avx2,fma")))
#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

enum {
    BLOCK = NB_FIXED_BLOCK,
    ROWS = NB_FIXED_ROWS,
    LANES = 8,                 /* rows of a vector */
    GROUP = ROWS * 4,          /* bytes of codes of 8 columns */
    PIECE = BLOCK / 8 * GROUP, /* of 64 */
    MOST_TOKENS = 3,           /* at a time: twice as many sums, in registers */
    AHEAD = 4096,              /* bytes that are fetched before they are needed */
};

/* What 1 stands for in a block of activations, as in kernels_fixed.c. */
AVX2 INLINE float scale_of_block(const float *x) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 most = _mm256_setzero_ps(), sum = _mm256_setzero_ps();
    for (int i = 0; i < BLOCK; i += 8) {
        __m256 v = _mm256_andnot_ps(sign, _mm256_loadu_ps(x + i));
        most = _mm256_max_ps(most, v);
        sum = _mm256_add_ps(sum, v);
    }
    float m[8], s[8], all = 0, one = 0;
    _mm256_storeu_ps(m, most);
    _mm256_storeu_ps(s, sum);
    for (int i = 0; i < 8; i++) {
        all += s[i];
        one = m[i] > one ? m[i] : one;
    }
    all /= NB_FIXED_X_SUM;
    one /= NB_FIXED_X_MAX;
    if (!(all < INFINITY))
        return NAN;
    float scale = all > one ? all : one;
    return scale < 1e-34f ? 0 : scale;
}

/* A token's activations to integers. q[8 g + i] belongs to column 8 g + (1, 3, 5, 7, 0, 2, 4,
 * 6)[i], as weights come out of the low and high halves of bytes. */
AVX2 static void to_fixed(const float *x, size_t n, int16_t *q, float *scale) {
    const __m256i order = _mm256_setr_epi32(1, 3, 5, 7, 0, 2, 4, 6);
    for (size_t k = 0; k < nb_fixed_columns(n); k += BLOCK) {
        float unit = k < n ? scale_of_block(x + k) : 0;
        __m256 to = _mm256_set1_ps(unit == 0 ? 0 : 1 / unit);
        scale[k / BLOCK] = unit;
        for (size_t i = k; i < k + BLOCK; i += 8) {
            __m256i v = _mm256_setzero_si256();
            if (k < n)
                v = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), to));
            v = _mm256_permutevar8x32_epi32(v, order);
            _mm_storeu_si128((__m128i *)(q + i), _mm_packs_epi32(_mm256_castsi256_si128(v),
                                                                 _mm256_extracti128_si256(v, 1)));
        }
    }
}

/* The values as integers of 13 bits and a sign, their bytes apart, twice over. */
struct table {
    __m256i low, high;
    float unit; /* what 1 stands for */
};

AVX2 INLINE struct table value_table(const struct nb_quant_view *view) {
    float most = 0;
    for (int i = 0; i < 16; i++)
        most = fmaxf(most, fabsf(view->values[i]));
    struct table t = {.unit = most / NB_FIXED_W_MAX};
    uint8_t low[16], high[16];
    for (int i = 0; i < 16; i++) {
        int w = _mm_cvtss_si32(_mm_set_ss(view->values[i] / t.unit));
        low[i] = (uint8_t)(w & 0xFF);
        high[i] = (uint8_t)(w >> 8 & 0xFF);
    }
    t.low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)low));
    t.high = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)high));
    return t;
}

/* out[ROWS] = absmax of a strip's rows for 64 columns. `nested` has those of the rows up to the
 * piece *until. */
AVX2 static void load_absmax(const struct nb_fixed_job *job, size_t piece, float *nested,
                             size_t *until, float *out) {
    size_t strip = job->row / ROWS, pieces = job->columns / BLOCK;
    if (job->packed->absmax) {
        memcpy(out, job->packed->absmax + (strip * pieces + piece) * ROWS, ROWS * sizeof *out);
        return;
    }
    if (piece >= *until)
        *until = nb_fixed_nested(job, piece, nested);
    const uint8_t *codes = job->packed->absmax_code + (strip * pieces + piece / 2 * 2) * ROWS;
    UNROLL
    for (size_t r = 0; r < ROWS; r++)
        out[r] = job->w->nested_values[codes[nb_fixed_packed_place(r, piece % 2)]];
    for (size_t r = 0; r < ROWS; r++)
        out[r] = out[r] * nested[r] + job->w->nested_offset;
}

/* sums[t * ROWS + r] += what 64 columns of 8 rows give, `tokens` constant. codes: of the first of
 * the rows; q: [tokens, q_stride], scale: [tokens, scale_stride], at the columns' place; absmax:
 * [8] */
AVX2 INLINE void piece(const uint8_t *codes, const int16_t *q, size_t q_stride, const float *scale,
                       size_t scale_stride, const float *absmax, const struct table *table,
                       int tokens, float *sums) {
    const __m256i nibble = _mm256_set1_epi8(0x0F);
    __m256i acc[2 * MOST_TOKENS];
    UNROLL
    for (int i = 0; i < 2 * tokens; i++)
        acc[i] = _mm256_setzero_si256();
    for (size_t g = 0; g < BLOCK / 8; g++) {
        __m256i c = _mm256_loadu_si256((const __m256i *)(codes + g * GROUP));
        UNROLL
        for (int half = 0; half < 2; half++) { /* odd columns, then even ones */
            __m256i i = _mm256_and_si256(half ? _mm256_srli_epi16(c, 4) : c, nibble);
            __m256i low = _mm256_shuffle_epi8(table->low, i);
            __m256i high = _mm256_shuffle_epi8(table->high, i);
            __m256i w0 = _mm256_unpacklo_epi8(low, high), w1 = _mm256_unpackhi_epi8(low, high);
            UNROLL
            for (int t = 0; t < tokens; t++) {
                int64_t four;
                memcpy(&four, q + (size_t)t * q_stride + g * 8 + (size_t)half * 4, sizeof four);
                __m256i x = _mm256_set1_epi64x(four);
                acc[t * 2] = _mm256_add_epi32(acc[t * 2], _mm256_madd_epi16(w0, x));
                acc[t * 2 + 1] = _mm256_add_epi32(acc[t * 2 + 1], _mm256_madd_epi16(w1, x));
            }
        }
    }
    UNROLL
    for (int t = 0; t < tokens; t++) {
        float *sum = sums + t * ROWS;
        __m256 factor =
            _mm256_mul_ps(_mm256_loadu_ps(absmax), _mm256_set1_ps(scale[(size_t)t * scale_stride]));
        __m256i all = _mm256_hadd_epi32(acc[t * 2], acc[t * 2 + 1]);
        _mm256_storeu_ps(sum,
                         _mm256_fmadd_ps(_mm256_cvtepi32_ps(all), factor, _mm256_loadu_ps(sum)));
    }
}

/* y[t, r] of a strip for `tokens` tokens, constant. */
AVX2 INLINE void strip(const struct nb_fixed_job *job, const struct table *table, size_t token,
                       int tokens) {
    const uint8_t *codes = job->packed->codes + job->row / ROWS * job->packed->stride;
    const int16_t *q = job->x.q + token * job->x.q_stride;
    const float *scale = job->x.scale + token * job->x.scale_stride;
    alignas(32) float sums[MOST_TOKENS * ROWS] = {0}, absmax[ROWS], nested[ROWS];
    size_t until = 0;
    for (size_t i = 0; i < job->columns / BLOCK; i++, codes += PIECE, q += BLOCK) {
        load_absmax(job, i, nested, &until, absmax);
        for (size_t at = 0; at < PIECE; at += 64)
            _mm_prefetch((const char *)codes + AHEAD + at, _MM_HINT_T1);
        for (int r = 0; r < ROWS; r += LANES)
            piece(codes + r * 4, q, job->x.q_stride, scale + i, job->x.scale_stride, absmax + r,
                  table, tokens, sums + r);
    }
    for (size_t t = 0; t < (size_t)tokens; t++) {
        float *y = job->y + (token + t) * job->y_stride + job->row;
        for (size_t r = 0; r < ROWS; r++)
            y[r] = sums[t * ROWS + r] * table->unit;
    }
}

AVX2 static void products(const struct nb_fixed_job *job) {
    struct table table = value_table(job->w);
    size_t groups = (job->tokens + MOST_TOKENS - 1) / MOST_TOKENS;
    for (size_t g = 0; g < groups; g++) { /* groups as alike in size as can be */
        size_t t = job->tokens * g / groups, end = job->tokens * (g + 1) / groups;
        switch (end - t) {
        case 1:
            strip(job, &table, t, 1);
            break;
        case 2:
            strip(job, &table, t, 2);
            break;
        case 3:
            strip(job, &table, t, 3);
            break;
        }
    }
}

const struct nb_fixed_kernels nb_fixed_avx2 = {
    .packed_only = true,
    .to_fixed = to_fixed,
    .products = products,
};

#endif
