/* What the two files of products in fixed point share: kernels_fixed.c, whose weights lie as in the
 * checkpoint, and kernels_packed.c, whose weights were laid out anew. For AVX-512 with VNNI and
 * VBMI. */
#ifndef NB_BACKEND_CPU_KERNELS_FIXED_H
#define NB_BACKEND_CPU_KERNELS_FIXED_H

#include "backend/cpu/kernels_x86.h"

#if defined(__x86_64__)

#include <immintrin.h>
#include <stdalign.h>

#define VNNI                                                                                       \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma")))
#define INLINE static inline __attribute__((always_inline))
/* Before each loop over what lies in registers: unrolled early, arrays become registers. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

enum {
    BLOCK = NB_FIXED_BLOCK, /* columns that share a scale */
    CHUNK = 2 * BLOCK,      /* columns whose codes fill a vector */
    X_MAX = NB_FIXED_X_MAX,
    X_SUM = NB_FIXED_X_SUM,
    W_MAX_ROWS = NB_FIXED_W_MAX,
};

/* The values as integers up to `max`, twice over, so that the fifth bit of an index says nothing.
 * *unit is what 1 stands for. */
VNNI INLINE __m512i value_table(const struct nb_quant_view *view, int max, float *unit) {
    __m512 values = _mm512_loadu_ps(view->values);
    *unit = _mm512_reduce_max_ps(_mm512_abs_ps(values)) / (float)max;
    __m256i words =
        _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(_mm512_div_ps(values, _mm512_set1_ps(*unit))));
    return _mm512_broadcast_i64x4(words);
}

/* A byte of the values of 64 codes. */
VNNI INLINE __m512i look_up_plane(const uint8_t at[256], __m512i codes) {
    __m512i low =
        _mm512_permutex2var_epi8(_mm512_load_si512(at), codes, _mm512_load_si512(at + 64));
    __m512i high =
        _mm512_permutex2var_epi8(_mm512_load_si512(at + 128), codes, _mm512_load_si512(at + 192));
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(codes), low, high);
}

/* The values of 64 codes, of which value[i] has those at bytes 16 * (lane / 4) + 4 * i + lane % 4:
 * unpacking works within quarters of a vector. planes: [4, 256] */
VNNI INLINE void values_of_codes(const uint8_t *planes, __m512i codes, __m512 value[4]) {
    __m512i b[4];
    UNROLL
    for (int p = 0; p < 4; p++)
        b[p] = look_up_plane(planes + p * 256, codes);
    __m512i low0 = _mm512_unpacklo_epi8(b[0], b[1]), low1 = _mm512_unpackhi_epi8(b[0], b[1]);
    __m512i high0 = _mm512_unpacklo_epi8(b[2], b[3]), high1 = _mm512_unpackhi_epi8(b[2], b[3]);
    value[0] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(low0, high0));
    value[1] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(low0, high0));
    value[2] = _mm512_castsi512_ps(_mm512_unpacklo_epi16(low1, high1));
    value[3] = _mm512_castsi512_ps(_mm512_unpackhi_epi16(low1, high1));
}

void nb_fixed_products_packed(const struct nb_fixed_job *job);

#endif

#endif
