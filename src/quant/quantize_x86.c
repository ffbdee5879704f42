/* Quantization with AVX2. quantize.c is the definition; this does the same operations in the same
 * precision on 8 weights at a time, so that its results are the same bytes:
 *
 * - The reciprocal is taken once a block, by the same function.
 * - A code is still a count of thresholds below the scaled weight. A comparison with NaN is false
 * in both, and _mm256_max_ps(x, most) keeps `most` where x is NaN.
 * - Weights below 2^-126 become zero before they are scaled; a zero's sign decides nothing.
 */
#include "quant/quantize_fast.h"

#include "quant/flush.h"
#include "quant/reciprocal.h"
#include "quant/thresholds.h"

#include <stdbool.h>

static enum nb_status quantize_plain(enum nb_quant_type type, size_t block,
                                     enum nb_quant_input input, const void *x, size_t n,
                                     uint8_t *codes, float *absmax, struct nb_error *err) {
    switch (input) {
    case NB_QUANT_F16:
        return nb_quantize_f16(type, block, x, n, codes, absmax, err);
    case NB_QUANT_BF16:
        return nb_quantize_bf16(type, block, x, n, codes, absmax, err);
    case NB_QUANT_F32:
        break;
    }
    return nb_quantize_f32(type, block, x, n, codes, absmax, err);
}

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#define AVX2        __attribute__((target("avx2,f16c")))
#define AVX2_INLINE __attribute__((target("avx2,f16c"), always_inline)) static inline

/* x[8 i, 8 i + 8) of an input as f32. */
AVX2_INLINE __m256 load(enum nb_quant_input input, const void *x, size_t i) {
    if (input == NB_QUANT_F32)
        return _mm256_loadu_ps((const float *)x + 8 * i);
    __m128i half = _mm_loadu_si128((const __m128i *)x + i);
    if (input == NB_QUANT_F16)
        return _mm256_cvtph_ps(half);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}

AVX2_INLINE __m256 magnitude(__m256 x) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

AVX2_INLINE float largest(__m256 x) {
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

/* Zero for what is below 2^-126, but not for NaN. */
AVX2_INLINE __m256 flush(__m256 x) {
    return _mm256_and_ps(x, _mm256_cmp_ps(magnitude(x), _mm256_set1_ps(0x1p-126f), _CMP_NLT_UQ));
}

AVX2_INLINE __m256i nf4_codes(__m256 x, __m256 scale) {
    __m256 v = _mm256_mul_ps(flush(x), scale);
    __m256i codes = _mm256_setzero_si256();
    for (int t = 0; t < 15; t++) {
        __m256 above = _mm256_cmp_ps(v, _mm256_set1_ps(nb_nf4_thresholds[t]), _CMP_GT_OQ);
        codes = _mm256_sub_epi32(codes, _mm256_castps_si256(above));
    }
    return codes;
}

/* The sign counts where the product is not flushed: as in nb_mul_flushed, scaled by 2^24. */
AVX2_INLINE __m256i fp4_codes(__m256 x, __m256 scale) {
    x = flush(x);
    __m256 size = magnitude(_mm256_mul_ps(x, scale));
    __m256 scaled = _mm256_mul_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1p24f)), scale);
    __m256 negative = _mm256_cmp_ps(scaled, _mm256_set1_ps(-0x1p-102f), _CMP_LE_OQ);
    __m256i codes = _mm256_and_si256(_mm256_castps_si256(negative), _mm256_set1_epi32(8));
    for (int t = 0; t < 7; t++) {
        __m256 above = _mm256_cmp_ps(size, _mm256_set1_ps(nb_fp4_thresholds[t]), _CMP_GT_OQ);
        codes = _mm256_add_epi32(codes, _mm256_and_si256(_mm256_castps_si256(above),
                                                         _mm256_set1_epi32(nb_fp4_steps[t])));
    }
    return codes;
}

/* 32 codes in four vectors to 16 bytes, the first of two in the high nibble. The two packs leave
 * groups of four codes in the order 0 2 4 6 1 3 5 7. */
AVX2_INLINE __m128i pack(const __m256i codes[4]) {
    __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(codes[0], codes[1]),
                                        _mm256_packs_epi32(codes[2], codes[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    __m256i pairs = _mm256_maddubs_epi16(bytes, _mm256_set1_epi16(1 << 8 | 16));
    __m256i packed = _mm256_packus_epi16(pairs, _mm256_setzero_si256());
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 2 << 2 | 0));
}

/* A whole block, a multiple of 32 weights. Returns the absmax. */
AVX2_INLINE float quantize_block(enum nb_quant_type type, enum nb_quant_input input, const void *x,
                                 size_t block, uint8_t *packed) {
    __m256 most = _mm256_setzero_ps();
    for (size_t i = 0; i < block / 8; i++)
        most = _mm256_max_ps(magnitude(load(input, x, i)), most);
    float absmax = nb_flush(largest(most));
    __m256 scale = _mm256_set1_ps(nb_gpu_reciprocal(absmax));
    for (size_t i = 0; i < block / 8; i += 4) {
        __m256i codes[4];
        for (size_t j = 0; j < 4; j++) {
            __m256 v = load(input, x, i + j);
            codes[j] = type == NB_QUANT_FP4 ? fp4_codes(v, scale) : nf4_codes(v, scale);
        }
        _mm_storeu_si128((__m128i *)packed + i / 4, pack(codes));
    }
    return absmax;
}

AVX2_INLINE void quantize_blocks(enum nb_quant_type type, enum nb_quant_input input, const void *x,
                                 size_t block, size_t n_blocks, uint8_t *codes, float *absmax) {
    size_t bytes = block * (input == NB_QUANT_F32 ? 4 : 2);
    for (size_t b = 0; b < n_blocks; b++)
        absmax[b] =
            quantize_block(type, input, (const char *)x + b * bytes, block, codes + b * block / 2);
}

/* One copy of the loops for each type of input and of code. */
AVX2 static void quantize_avx2(enum nb_quant_type type, enum nb_quant_input input, const void *x,
                               size_t block, size_t n_blocks, uint8_t *codes, float *absmax) {
    if (type == NB_QUANT_FP4 && input == NB_QUANT_F32)
        quantize_blocks(NB_QUANT_FP4, NB_QUANT_F32, x, block, n_blocks, codes, absmax);
    else if (type == NB_QUANT_FP4 && input == NB_QUANT_F16)
        quantize_blocks(NB_QUANT_FP4, NB_QUANT_F16, x, block, n_blocks, codes, absmax);
    else if (type == NB_QUANT_FP4)
        quantize_blocks(NB_QUANT_FP4, NB_QUANT_BF16, x, block, n_blocks, codes, absmax);
    else if (input == NB_QUANT_F32)
        quantize_blocks(NB_QUANT_NF4, NB_QUANT_F32, x, block, n_blocks, codes, absmax);
    else if (input == NB_QUANT_F16)
        quantize_blocks(NB_QUANT_NF4, NB_QUANT_F16, x, block, n_blocks, codes, absmax);
    else
        quantize_blocks(NB_QUANT_NF4, NB_QUANT_BF16, x, block, n_blocks, codes, absmax);
}

/* clang 14 has no name for F16C in __builtin_cpu_supports. */
static bool has_avx2(void) {
    unsigned a, b, c = 0, d;
    return __builtin_cpu_supports("avx2") && __get_cpuid(1, &a, &b, &c, &d) && c & bit_F16C;
}
#else
static bool has_avx2(void) {
    return false;
}

static void quantize_avx2(enum nb_quant_type type, enum nb_quant_input input, const void *x,
                          size_t block, size_t n_blocks, uint8_t *codes, float *absmax) {
    (void)type, (void)input, (void)x, (void)block, (void)n_blocks, (void)codes, (void)absmax;
}
#endif

const char *nb_quantize_version(void) {
    return has_avx2() ? "avx2" : "plain";
}

enum nb_status nb_quantize_fast(enum nb_quant_type type, size_t block, enum nb_quant_input input,
                                const void *x, size_t n, uint8_t *codes, float *absmax,
                                struct nb_error *err) {
    enum nb_status s = nb_quant_check_shape(type, block, err);
    if (s != NB_OK)
        return s;
    size_t blocks = has_avx2() ? n / block : 0, done = blocks * block;
    if (blocks)
        quantize_avx2(type, input, x, block, blocks, codes, absmax);
    const char *rest = (const char *)x + done * (input == NB_QUANT_F32 ? 4 : 2);
    return quantize_plain(type, block, input, rest, n - done, codes + done / 2, absmax + blocks,
                          err);
}
