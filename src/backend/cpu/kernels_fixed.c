/* Products of 4-bit weights with activations in fixed point, for AVX-512 with VNNI and
 * VBMI.
 *
 * A 4-bit code is a number for vpermw to look up: 32 of them at a time become 16-bit integers, and
 * vpdpwssd multiplies pairs of those with pairs of 16-bit activations, exactly, at twice the rate
 * of f32. What a block of weights gave is scaled by its absmax and the activations' scale in f32.
 * bf16 would run at the same rate, but keeps 8 bits of each factor where this keeps 13 to 16.
 *
 * Here rows lie as in the checkpoint; kernels_packed.c has those that were laid out anew.
 *
 * Few tokens: a vector holds 32 weights of one row, and a row is summed across the vector at its
 * end; memory is what limits. Many tokens: a vector holds a pair of weights of each of 16 rows,
 * and codes are looked up once for all tokens; arithmetic is what limits.
 */
#include "backend/cpu/kernels_fixed.h"

#if defined(__x86_64__)

#include <math.h>
#include <string.h>

enum {
    W_MAX_ROW = 16383, /* where a vector holds a row, 8 products go into a sum */
};
_Static_assert(8LL * X_MAX * W_MAX_ROW < INT32_MAX, "sums of products overflow");

/* ---- activations ---- */

/* What 1 stands for in a block of activations, x[64]; 0 if all are too small to matter, NaN if one
 * is NaN. */
VNNI INLINE float scale_of_block(const float *x) {
    __m512 most = _mm512_setzero_ps(), sum = _mm512_setzero_ps();
    UNROLL
    for (int i = 0; i < BLOCK; i += 16) {
        __m512 v = _mm512_abs_ps(_mm512_loadu_ps(x + i));
        most = _mm512_max_ps(most, v);
        sum = _mm512_add_ps(sum, v);
    }
    float all = _mm512_reduce_add_ps(sum) / X_SUM, one = _mm512_reduce_max_ps(most) / X_MAX;
    if (!(all < INFINITY))
        return NAN;
    float scale = all > one ? all : one;
    return scale < 1e-34f ? 0 : scale;
}

/* Codes lie in memory as bytes of two; as a 16-bit word w of a chunk, they are the weights 4w + 1,
 * 4w, 4w + 3, 4w + 2 from the lowest nibble up. So shifting a chunk of codes right by 0, 4, 8, 12
 * bits leaves at the bottom of word w the weight 4w + (j ^ 1) for j = 0 to 3. Activations are put
 * into that order: q[j * 32 + w] of a chunk belongs to column 4w + (j ^ 1). */
VNNI static void to_fixed(const float *x, size_t n, int16_t *q, float *scale) {
    alignas(64) static const uint16_t odd_even[2][32] = {
        {1, 5, 9, 13, 17, 21, 25, 29, 33, 37, 41, 45, 49, 53, 57, 61,
         0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 48, 52, 56, 60},
        {3, 7, 11, 15, 19, 23, 27, 31, 35, 39, 43, 47, 51, 55, 59, 63,
         2, 6, 10, 14, 18, 22, 26, 30, 34, 38, 42, 46, 50, 54, 58, 62},
    };
    size_t padded = nb_fixed_columns(n);
    for (size_t k = 0; k < padded; k += BLOCK) {
        int16_t *out = q + k / CHUNK * CHUNK + k % CHUNK / 4;
        float unit = k < n ? scale_of_block(x + k) : 0;
        scale[k / BLOCK] = unit;
        __m512 to = _mm512_set1_ps(unit == 0 ? 0 : 1 / unit);
        __m512i word[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
        for (int i = 0; k < n && i < 2; i++) {
            __m512 low = _mm512_mul_ps(_mm512_loadu_ps(x + k + i * 32), to);
            __m512 high = _mm512_mul_ps(_mm512_loadu_ps(x + k + i * 32 + 16), to);
            word[i] = _mm512_inserti64x4(
                _mm512_castsi256_si512(_mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(low))),
                _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(high)), 1);
        }
        for (int i = 0; i < 2; i++) {
            __m512i v = _mm512_permutex2var_epi16(word[0], _mm512_load_si512(odd_even[i]), word[1]);
            _mm256_storeu_si256((__m256i *)(out + i * 64), _mm512_castsi512_si256(v));
            _mm256_storeu_si256((__m256i *)(out + i * 64 + 32), _mm512_extracti64x4_epi64(v, 1));
        }
    }
}

/* ---- weights ---- */

/* 256 floats as bytes: planes[i] holds byte i of each, for vpermi2b to look up. */
struct planes {
    alignas(64) uint8_t at[4][256];
};

VNNI static void make_planes(const float *values, struct planes *out) {
    for (int i = 0; i < 256; i += 16) {
        __m512i v = _mm512_loadu_si512(values + i);
        for (unsigned p = 0; p < 4; p++)
            _mm_store_si128((__m128i *)(out->at[p] + i),
                            _mm512_cvtepi32_epi8(_mm512_srli_epi32(v, p * 8)));
    }
}

/* out[0..64) = absmax of up to 64 pieces of double quantized blocks with one nested absmax. */
VNNI INLINE void nested_absmax64(const struct planes *planes, const uint8_t *codes, size_t n,
                                 float nested, float offset, float *out) {
    /* Unpacking four bytes each works within quarters of a vector: the order that undoes it. */
    const __m512i quarters =
        _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __mmask64 there = n < 64 ? ((__mmask64)1 << n) - 1 : ~(__mmask64)0;
    __m512 value[4];
    values_of_codes(planes->at[0],
                    _mm512_permutexvar_epi32(quarters, _mm512_maskz_loadu_epi8(there, codes)),
                    value);
    UNROLL
    for (int i = 0; i < 4; i++)
        _mm512_storeu_ps(
            out + i * 16,
            _mm512_add_ps(_mm512_mul_ps(value[i], _mm512_set1_ps(nested)), _mm512_set1_ps(offset)));
}

/* out[r][pieces, with room for 64] = absmax of the 64-column pieces of rows [row, row + rows); what
 * follows a row's pieces, and the one after an odd number of them, means nothing. A block of
 * weights is one or more pieces: 2^shift. */
VNNI static void load_absmax(const struct nb_fixed_job *job, const struct planes *planes,
                             size_t row, size_t rows, float *out) {
    const struct nb_quant_view *view = job->w;
    size_t pieces = job->columns / BLOCK, padded = nb_fixed_scales(job->columns);
    int shift = __builtin_ctzll(view->block / BLOCK);
    for (size_t r = row; r < row + rows; r++, out += padded) {
        size_t first = r * pieces, i = 0;
        if (view->absmax && shift == 0) {
            memcpy(out, view->absmax + first, pieces * sizeof *out);
            i = pieces;
        }
        while (!view->absmax && shift == 0 && i < pieces) {
            size_t block = (first + i) / view->nested_block,
                   same = (block + 1) * view->nested_block - (first + i), n = pieces - i;
            n = n < same ? n : same;
            n = n < 64 ? n : 64;
            nested_absmax64(planes, view->absmax_code + first + i, n, view->nested_absmax[block],
                            view->nested_offset, out + i);
            i += n;
        }
        for (; i < pieces; i++)
            out[i] = nb_quant_absmax(view, (first + i) >> shift);
        if (pieces % 2)
            out[pieces] = 0; /* the empty half of the last chunk's */
    }
}

/* The planes of a job's double quantization, where it has one. */
VNNI INLINE void job_planes(const struct nb_fixed_job *job, struct planes *out) {
    if (!job->w->absmax)
        make_planes(job->w->nested_values, out);
}

/* ---- few tokens ---- */

/* Lanes 0 to 7 take scale 2i, lanes 8 to 15 scale 2i + 1: a chunk's two blocks. */
#define TWICE8(a, b)                                                                               \
    { a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b }
alignas(64) static const int32_t pair_of_scales[8][16] = {
    TWICE8(0, 1), TWICE8(2, 3),   TWICE8(4, 5),   TWICE8(6, 7),
    TWICE8(8, 9), TWICE8(10, 11), TWICE8(12, 13), TWICE8(14, 15),
};

/* A chunk of codes to vectors of integers. */
VNNI INLINE void look_up_chunk(__m512i c, __m512i table, __m512i w[4]) {
    UNROLL
    for (unsigned j = 0; j < 4; j++)
        w[j] = _mm512_permutexvar_epi16(j ? _mm512_srli_epi16(c, j * 4) : c, table);
}

/* What `few` needs in its loop. */
struct few {
    const uint8_t *codes; /* of the first row */
    const int16_t *q;     /* of the first token */
    size_t row_bytes, q_stride;
    __m512i table;
};

/* sum[r * tokens + t] += what a chunk gives, the i-th of the eight whose factors, [rows * tokens]
 * of 16, are given; of a `half` chunk only the first block is there. Rows, one or an even number,
 * are looked up two at a time, so that what is loaded of a token's activations serves both. */
VNNI INLINE void few_chunk(const struct few *f, size_t chunk, size_t i, bool half, int rows,
                           int tokens, const __m512 *factors, __m512 *sum) {
    enum { PAIR = 2 };
    const int together = rows < PAIR ? rows : PAIR;
    const uint8_t *codes = f->codes + chunk * CHUNK / 2;
    __m512i lanes = _mm512_load_si512(pair_of_scales[i]);
    UNROLL
    for (int r = 0; r < rows; r += PAIR) {
        __m512i w[PAIR][4];
        UNROLL
        for (int p = 0; p < together; p++) {
            const uint8_t *at = codes + (size_t)(r + p) * f->row_bytes;
            _mm_prefetch((const char *)at + (size_t)rows * f->row_bytes, _MM_HINT_T1);
            look_up_chunk(half ? _mm512_maskz_loadu_epi8(0xFFFFFFFF, at) : _mm512_loadu_si512(at),
                          f->table, w[p]);
        }
        UNROLL
        for (int t = 0; t < tokens; t++) {
            const int16_t *x = f->q + (size_t)t * f->q_stride + chunk * CHUNK;
            __m512i products[PAIR] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
            UNROLL
            for (int j = 0; j < 4; j++) {
                __m512i xj = _mm512_loadu_si512(x + j * 32);
                UNROLL
                for (int p = 0; p < together; p++)
                    products[p] = _mm512_dpwssd_epi32(products[p], w[p][j], xj);
            }
            UNROLL
            for (int p = 0; p < together; p++) {
                int at = (r + p) * tokens + t;
                sum[at] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[p]),
                                          _mm512_permutexvar_ps(lanes, factors[at]), sum[at]);
            }
        }
    }
}

/* y[t, r] for `rows` rows from `row` on and `tokens` tokens, both constant. */
VNNI INLINE void few(const struct nb_fixed_job *job, const struct planes *planes, __m512i table,
                     float unit, size_t row, int rows, size_t token, int tokens) {
    enum { AT_ONCE = 8 }; /* chunks that 16 scales serve */
    size_t n = job->columns, pieces = n / BLOCK, chunks = (pieces + 1) / 2,
           padded = nb_fixed_scales(n), scale_stride = job->x.scale_stride;
    const struct few f = {.codes = job->w->codes + row * (n / 2),
                          .q = job->x.q + token * job->x.q_stride,
                          .row_bytes = n / 2,
                          .q_stride = job->x.q_stride,
                          .table = table};
    const float *scale = job->x.scale + token * scale_stride, *absmax = job->scratch->absmax;
    load_absmax(job, planes, row, (size_t)rows, job->scratch->absmax);
    __m512 sum[16], factors[16];
    UNROLL
    for (int i = 0; i < rows * tokens; i++)
        sum[i] = _mm512_setzero_ps();
    for (size_t chunk = 0; chunk < chunks; chunk += AT_ONCE) {
        UNROLL
        for (int r = 0; r < rows; r++) {
            __m512 a = _mm512_load_ps(absmax + (size_t)r * padded + chunk * 2);
            UNROLL
            for (int t = 0; t < tokens; t++)
                factors[r * tokens + t] =
                    _mm512_mul_ps(a, _mm512_loadu_ps(scale + (size_t)t * scale_stride + chunk * 2));
        }
        size_t whole = pieces / 2 - chunk, end = whole < AT_ONCE ? whole : AT_ONCE;
        for (size_t i = 0; i < end; i++)
            few_chunk(&f, chunk + i, i, false, rows, tokens, factors, sum);
        if (end < AT_ONCE && pieces % 2)
            few_chunk(&f, chunk + end, end, true, rows, tokens, factors, sum);
    }
    UNROLL
    for (int r = 0; r < rows; r++) {
        UNROLL
        for (int t = 0; t < tokens; t++)
            job->y[(token + (size_t)t) * job->y_stride + row + (size_t)r] =
                _mm512_reduce_add_ps(sum[r * tokens + t]) * unit;
    }
}

/* All rows of the job, four at a time: what is loaded of the activations serves them all. */
VNNI INLINE void few_rows(const struct nb_fixed_job *job, size_t token, int tokens) {
    enum { AT_A_TIME = 4 };
    float unit;
    __m512i table = value_table(job->w, W_MAX_ROW, &unit);
    struct planes planes;
    job_planes(job, &planes);
    size_t r = job->row, end = job->row + job->rows;
    for (; r + AT_A_TIME <= end; r += AT_A_TIME)
        few(job, &planes, table, unit, r, AT_A_TIME, token, tokens);
    for (; r < end; r++)
        few(job, &planes, table, unit, r, 1, token, tokens);
}

VNNI static void few_tokens(const struct nb_fixed_job *job) {
    for (size_t t = 0; t < job->tokens;) {
        switch (job->tokens - t) {
        case 1:
            few_rows(job, t, 1);
            return;
        case 2:
            few_rows(job, t, 2);
            return;
        case 3:
            few_rows(job, t, 3);
            return;
        default:
            few_rows(job, t, 4);
            t += 4;
        }
    }
}

/* ---- many tokens ---- */

enum {
    ROWS = NB_FIXED_ROWS, /* of a strip: two vectors of 16 */
    VECTORS = ROWS / 16,
    DEPTH = NB_FIXED_DEPTH, /* columns of a strip that are looked up at a time: 16 KB of weights */
    FEW = 6,                /* tokens, up to which looking up again for each four is faster */
    MOST_TOKENS = 12,       /* times VECTORS sums in registers */
};
_Static_assert(DEPTH % CHUNK == 0, "whole chunks");

/* 16 rows of 16 words of 32 bits to 16 columns of them. */
VNNI INLINE void transpose16(__m512i v[16]) {
    __m512i a[16];
    for (int i = 0; i < 16; i += 2) {
        a[i] = _mm512_unpacklo_epi32(v[i], v[i + 1]);
        a[i + 1] = _mm512_unpackhi_epi32(v[i], v[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        v[i] = _mm512_unpacklo_epi64(a[i], a[i + 2]);
        v[i + 1] = _mm512_unpackhi_epi64(a[i], a[i + 2]);
        v[i + 2] = _mm512_unpacklo_epi64(a[i + 1], a[i + 3]);
        v[i + 3] = _mm512_unpackhi_epi64(a[i + 1], a[i + 3]);
    }
    UNROLL
    for (int i = 0; i < 4; i++) { /* quarters of rows 0-3, 4-7, 8-11, 12-15 */
        a[i] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0x88);
        a[i + 4] = _mm512_shuffle_i32x4(v[i], v[i + 4], 0xDD);
        a[i + 8] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0x88);
        a[i + 12] = _mm512_shuffle_i32x4(v[i + 8], v[i + 12], 0xDD);
    }
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0x88);
        v[i + 8] = _mm512_shuffle_i32x4(a[i], a[i + 8], 0xDD);
        v[i + 4] = _mm512_shuffle_i32x4(a[i + 4], a[i + 12], 0x88);
        v[i + 12] = _mm512_shuffle_i32x4(a[i + 4], a[i + 12], 0xDD);
    }
}

/* Columns [k, k + n) of a strip as integers: w[pair of columns][VECTORS] of 16 pairs, in the order
 * in which `many` meets them. */
VNNI static void look_up(const struct nb_fixed_job *job, __m512i table, size_t k, size_t n,
                         __m512i *w) {
    size_t row_bytes = job->columns / 2;
    /* What comes next, while tokens are multiplied: further along, or the next strip's beginning.
     */
    size_t next = k + n < job->columns ? DEPTH / 2 : ROWS * row_bytes - k / 2;
    for (size_t i = 0; i < n; i += CHUNK) {
        __mmask64 there = n - i == BLOCK ? 0xFFFFFFFF : ~(__mmask64)0;
        size_t words = n - i == BLOCK ? 8 : 16;
        UNROLL
        for (int v = 0; v < VECTORS; v++) {
            const uint8_t *codes =
                job->w->codes + (job->row + (size_t)v * 16) * row_bytes + (k + i) / 2;
            __m512i c[16];
            for (size_t r = 0; r < 16; r++) {
                c[r] = _mm512_maskz_loadu_epi8(there, codes + r * row_bytes);
                _mm_prefetch((const char *)codes + r * row_bytes + next, _MM_HINT_T1);
            }
            transpose16(c);
            __m512i *out = w + i / 2 * VECTORS + (size_t)v;
            for (size_t o = 0; o < words; o++) {
                for (size_t j = 0; j < 4; j++)
                    out[(o * 4 + j) * VECTORS] =
                        _mm512_permutexvar_epi16(_mm512_srli_epi16(c[o], (unsigned)j * 4), table);
            }
        }
    }
}

/* absmax of a strip as the sums need it: out[piece][ROWS]. */
VNNI static void strip_absmax(const struct nb_fixed_job *job, float *out) {
    size_t padded = nb_fixed_scales(job->columns);
    float *by_row = job->scratch->sums; /* [16][padded], not in use yet */
    struct planes planes;
    job_planes(job, &planes);
    for (size_t v = 0; v < VECTORS; v++) {
        load_absmax(job, &planes, job->row + v * 16, 16, by_row);
        for (size_t i = 0; i < padded; i += 16) {
            __m512i a[16];
            for (size_t r = 0; r < 16; r++)
                a[r] = _mm512_load_si512(by_row + r * padded + i);
            transpose16(a);
            for (size_t j = 0; j < 16; j++)
                _mm512_store_si512(out + (i + j) * ROWS + v * 16, a[j]);
        }
    }
}

/* sums[t][ROWS] += what columns [k, k + n) give, for `tokens` tokens, constant. */
VNNI INLINE void many(const struct nb_fixed_job *job, size_t k, size_t n, const __m512i *w,
                      const float *absmax, size_t token, int tokens, float *sums) {
    for (size_t i = 0; i < n; i += BLOCK) {
        const int16_t *q =
            job->x.q + token * job->x.q_stride + (k + i) / CHUNK * CHUNK + (k + i) % CHUNK / 4;
        __m512i sum[VECTORS * MOST_TOKENS];
        UNROLL
        for (int s = 0; s < VECTORS * tokens; s++)
            sum[s] = _mm512_setzero_si512();
        for (size_t o = 0; o < 8; o++, q += 2) {
            UNROLL
            for (int j = 0; j < 4; j++, w += VECTORS) {
                UNROLL
                for (int t = 0; t < tokens; t++) {
                    int32_t pair;
                    memcpy(&pair, q + (size_t)t * job->x.q_stride + j * 32, sizeof pair);
                    __m512i x = _mm512_set1_epi32(pair);
                    UNROLL
                    for (int v = 0; v < VECTORS; v++)
                        sum[t * VECTORS + v] = _mm512_dpwssd_epi32(sum[t * VECTORS + v], w[v], x);
                }
            }
        }
        UNROLL
        for (int v = 0; v < VECTORS; v++) {
            __m512 a = _mm512_load_ps(absmax + (k + i) / BLOCK * ROWS + v * 16);
            UNROLL
            for (int t = 0; t < tokens; t++) {
                float *out = sums + t * ROWS + v * 16;
                __m512 factor = _mm512_mul_ps(
                    a,
                    _mm512_set1_ps(
                        job->x.scale[(token + (size_t)t) * job->x.scale_stride + (k + i) / BLOCK]));
                _mm512_storeu_ps(out, _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum[t * VECTORS + v]),
                                                      factor, _mm512_loadu_ps(out)));
            }
        }
    }
}

#define MANY(count)                                                                                \
    case count:                                                                                    \
        many(job, k, n, w, absmax, t, count, sums + t * ROWS);                                     \
        break

VNNI static void many_tokens(const struct nb_fixed_job *job) {
    float unit, *sums = job->scratch->sums, *absmax = job->scratch->absmax;
    __m512i *w = (__m512i *)job->scratch->weights;
    __m512i table = value_table(job->w, W_MAX_ROWS, &unit);
    strip_absmax(job, absmax);
    memset(sums, 0, job->tokens * ROWS * sizeof *sums);
    size_t groups = (job->tokens + MOST_TOKENS - 1) / MOST_TOKENS;
    for (size_t k = 0; k < job->columns; k += DEPTH) {
        size_t n = job->columns - k < DEPTH ? job->columns - k : DEPTH;
        look_up(job, table, k, n, w);
        for (size_t g = 0; g < groups; g++) { /* groups as alike in size as can be */
            size_t t = job->tokens * g / groups, end = job->tokens * (g + 1) / groups;
            switch (end - t) {
                MANY(1);
                MANY(2);
                MANY(3);
                MANY(4);
                MANY(5);
                MANY(6);
                MANY(7);
                MANY(8);
                MANY(9);
                MANY(10);
                MANY(11);
                MANY(12);
            }
        }
    }
    __m512 units = _mm512_set1_ps(unit);
    for (size_t t = 0; t < job->tokens; t++) {
        for (size_t v = 0; v < ROWS; v += 16)
            _mm512_storeu_ps(job->y + t * job->y_stride + job->row + v,
                             _mm512_mul_ps(_mm512_loadu_ps(sums + t * ROWS + v), units));
    }
}

VNNI static void products_fixed(const struct nb_fixed_job *job) {
    if (job->packed)
        nb_fixed_products_packed(job);
    else if (job->rows == ROWS && job->tokens > FEW)
        many_tokens(job);
    else
        few_tokens(job);
}

const struct nb_fixed_kernels nb_fixed_avx512 = {
    .to_fixed = to_fixed,
    .products = products_fixed,
};

#endif
