/* AVX2 and AVX-512 versions. Each function names the instructions it is compiled for, so that the
 * file builds anywhere on x86-64 and runs only where nb_kernels_find has looked. */
#include "backend/cpu/kernels_x86.h"

#if defined(__x86_64__)

#include <immintrin.h>

#define AVX2   __attribute__((target("avx2,fma")))
#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx2,fma")))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
/* Templates below are instantiated with constant sizes, so that the sums stay in registers. */
#define INLINE static inline __attribute__((always_inline))

/* The 16 nibbles of 8 bytes of codes, one a byte, high nibble first. */
AVX2 static inline __m128i nibbles(const uint8_t *codes) {
    __m128i bytes = _mm_loadl_epi64((const __m128i *)codes);
    __m128i mask = _mm_set1_epi8(0x0F);
    __m128i high = _mm_and_si128(_mm_srli_epi16(bytes, 4), mask);
    return _mm_unpacklo_epi8(high, _mm_and_si128(bytes, mask));
}

/* Whether [first, first + n) falls into runs of 16 weights that lie within a block and begin at a
 * byte. Blocks are powers of two of at least 32. */
static inline bool runs_of_16(size_t first, size_t n) {
    return first % 16 == 0 && n % 16 == 0;
}

AVX2 static void dequantize_avx2(const struct nb_quant_view *view, size_t first, size_t n,
                                 float *out) {
    if (!runs_of_16(first, n)) {
        nb_dequantize_f32(view, first, n, out);
        return;
    }
    /* vpermps takes from 8 values: look up in both halves of the table, choose by the code's top
     * bit. */
    __m256 low = _mm256_loadu_ps(view->values), high = _mm256_loadu_ps(view->values + 8);
    for (size_t i = 0; i < n;) {
        size_t at = first + i, left = view->block - at % view->block;
        size_t end = n - i < left ? n : i + left;
        __m256 absmax = _mm256_set1_ps(nb_quant_absmax(view, at / view->block));
        for (; i < end; i += 16) {
            __m128i q = nibbles(view->codes + (first + i) / 2);
            for (int half = 0; half < 2; half++) {
                __m256i code = _mm256_cvtepu8_epi32(half ? _mm_srli_si128(q, 8) : q);
                __m256 choose = _mm256_castsi256_ps(_mm256_slli_epi32(code, 28));
                __m256 v = _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, code),
                                            _mm256_permutevar8x32_ps(high, code), choose);
                _mm256_storeu_ps(out + i + half * 8, _mm256_mul_ps(v, absmax));
            }
        }
    }
}

AVX512 static void dequantize_avx512(const struct nb_quant_view *view, size_t first, size_t n,
                                     float *out) {
    if (!runs_of_16(first, n)) {
        nb_dequantize_f32(view, first, n, out);
        return;
    }
    __m512 values = _mm512_loadu_ps(view->values);
    for (size_t i = 0; i < n;) {
        size_t at = first + i, left = view->block - at % view->block;
        size_t end = n - i < left ? n : i + left;
        __m512 absmax = _mm512_set1_ps(nb_quant_absmax(view, at / view->block));
        for (; i < end; i += 16) {
            __m512i code = _mm512_cvtepu8_epi32(nibbles(view->codes + (first + i) / 2));
            __m512 v = _mm512_permutexvar_ps(code, values);
            _mm512_storeu_ps(out + i, _mm512_mul_ps(v, absmax));
        }
    }
}

AVX2 static void widen_bf16_avx2(const uint16_t *in, size_t n, float *out) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(in + i)));
        _mm256_storeu_ps(out + i, _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
    }
    nb_kernels_plain.widen_bf16(in + i, n - i, out + i);
}

AVX2 static inline float sum8(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

/* Loads the first `count` < 8 of 8 floats, the others zero. */
AVX2 static inline __m256 load_part8(const float *p, size_t count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), lane));
}

AVX2 INLINE void tile_avx2(const float *x, size_t x_stride, int tokens, const float *w,
                           size_t w_stride, int rows, size_t n, float *y, size_t y_stride) {
    __m256 sum[8] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                     _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                     _mm256_setzero_ps(), _mm256_setzero_ps()};
    size_t k = 0;
    for (; k + 8 <= n; k += 8) {
        for (int t = 0; t < tokens; t++) {
            __m256 a = _mm256_loadu_ps(x + (size_t)t * x_stride + k);
            for (int r = 0; r < rows; r++)
                sum[t * rows + r] = _mm256_fmadd_ps(
                    a, _mm256_loadu_ps(w + (size_t)r * w_stride + k), sum[t * rows + r]);
        }
    }
    if (k < n) {
        for (int t = 0; t < tokens; t++) {
            __m256 a = load_part8(x + (size_t)t * x_stride + k, n - k);
            for (int r = 0; r < rows; r++)
                sum[t * rows + r] = _mm256_fmadd_ps(
                    a, load_part8(w + (size_t)r * w_stride + k, n - k), sum[t * rows + r]);
        }
    }
    for (int t = 0; t < tokens; t++) {
        for (int r = 0; r < rows; r++)
            y[(size_t)t * y_stride + (size_t)r] = sum8(sum[t * rows + r]);
    }
}

AVX2 static void products_avx2(const float *x, size_t x_stride, int tokens, const float *w,
                               size_t w_stride, int rows, size_t n, float *y, size_t y_stride) {
    int t = 0;
    for (; t + 2 <= tokens; t += 2) {
        int r = 0;
        for (; r + 4 <= rows; r += 4)
            tile_avx2(x + (size_t)t * x_stride, x_stride, 2, w + (size_t)r * w_stride, w_stride, 4,
                      n, y + (size_t)t * y_stride + r, y_stride);
        for (; r < rows; r++)
            tile_avx2(x + (size_t)t * x_stride, x_stride, 2, w + (size_t)r * w_stride, w_stride, 1,
                      n, y + (size_t)t * y_stride + r, y_stride);
    }
    for (; t < tokens; t++) {
        int r = 0;
        for (; r + 8 <= rows; r += 8)
            tile_avx2(x + (size_t)t * x_stride, x_stride, 1, w + (size_t)r * w_stride, w_stride, 8,
                      n, y + (size_t)t * y_stride + r, y_stride);
        for (; r < rows; r++)
            tile_avx2(x + (size_t)t * x_stride, x_stride, 1, w + (size_t)r * w_stride, w_stride, 1,
                      n, y + (size_t)t * y_stride + r, y_stride);
    }
}

AVX2 static void add_scaled_avx2(float a, const float *x, size_t n, float *y) {
    __m256 va = _mm256_set1_ps(a);
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        _mm256_storeu_ps(y + i,
                         _mm256_fmadd_ps(va, _mm256_loadu_ps(x + i), _mm256_loadu_ps(y + i)));
    nb_kernels_plain.add_scaled(a, x + i, n - i, y + i);
}

AVX512 INLINE void tile_avx512(const float *x, size_t x_stride, int tokens, const float *w,
                               size_t w_stride, int rows, size_t n, float *y, size_t y_stride) {
    __m512 sum[16];
    for (int i = 0; i < tokens * rows; i++)
        sum[i] = _mm512_setzero_ps();
    size_t k = 0;
    for (; k + 16 <= n; k += 16) {
        for (int t = 0; t < tokens; t++) {
            __m512 a = _mm512_loadu_ps(x + (size_t)t * x_stride + k);
            for (int r = 0; r < rows; r++)
                sum[t * rows + r] = _mm512_fmadd_ps(
                    a, _mm512_loadu_ps(w + (size_t)r * w_stride + k), sum[t * rows + r]);
        }
    }
    if (k < n) {
        __mmask16 part = (__mmask16)((1u << (n - k)) - 1);
        for (int t = 0; t < tokens; t++) {
            __m512 a = _mm512_maskz_loadu_ps(part, x + (size_t)t * x_stride + k);
            for (int r = 0; r < rows; r++)
                sum[t * rows + r] =
                    _mm512_fmadd_ps(a, _mm512_maskz_loadu_ps(part, w + (size_t)r * w_stride + k),
                                    sum[t * rows + r]);
        }
    }
    for (int t = 0; t < tokens; t++) {
        for (int r = 0; r < rows; r++)
            y[(size_t)t * y_stride + (size_t)r] = _mm512_reduce_add_ps(sum[t * rows + r]);
    }
}

AVX512 static void products_avx512(const float *x, size_t x_stride, int tokens, const float *w,
                                   size_t w_stride, int rows, size_t n, float *y, size_t y_stride) {
    int t = 0;
    for (; t + 4 <= tokens; t += 4) {
        int r = 0;
        for (; r + 4 <= rows; r += 4)
            tile_avx512(x + (size_t)t * x_stride, x_stride, 4, w + (size_t)r * w_stride, w_stride,
                        4, n, y + (size_t)t * y_stride + r, y_stride);
        for (; r < rows; r++)
            tile_avx512(x + (size_t)t * x_stride, x_stride, 4, w + (size_t)r * w_stride, w_stride,
                        1, n, y + (size_t)t * y_stride + r, y_stride);
    }
    for (; t < tokens; t++) {
        int r = 0;
        for (; r + 8 <= rows; r += 8)
            tile_avx512(x + (size_t)t * x_stride, x_stride, 1, w + (size_t)r * w_stride, w_stride,
                        8, n, y + (size_t)t * y_stride + r, y_stride);
        for (; r < rows; r++)
            tile_avx512(x + (size_t)t * x_stride, x_stride, 1, w + (size_t)r * w_stride, w_stride,
                        1, n, y + (size_t)t * y_stride + r, y_stride);
    }
}

/* e^x to within two units of the last place; 0 below -104, infinite above 89, NaN for NaN. x = n ln
 * 2
 * + r with |r| <= ln 2 / 2, ln 2 in two parts; e^r by its Taylor series. */
AVX512 INLINE __m512 exp16(__m512 x) {
    /* The operand that is returned for NaN is the second. */
    x = _mm512_max_ps(_mm512_set1_ps(-104), _mm512_min_ps(_mm512_set1_ps(89), x));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
    static const float factors[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24,
                                    1.0f / 6,    0.5f,       1,          1};
    __m512 sum = _mm512_set1_ps(factors[0]);
    UNROLL
    for (int i = 1; i < 8; i++)
        sum = _mm512_fmadd_ps(sum, r, _mm512_set1_ps(factors[i]));
    return _mm512_scalef_ps(sum, n);
}

AVX512 INLINE __mmask16 lanes_left(size_t left) {
    return left < 16 ? (__mmask16)((1u << left) - 1) : 0xFFFF;
}

AVX512 static void softmax_avx512(float *x, size_t n, float scale) {
    __m512 most = _mm512_set1_ps(x[0]), sum = _mm512_setzero_ps(), by = _mm512_set1_ps(scale);
    for (size_t i = 0; i < n; i += 16)
        most = _mm512_max_ps(_mm512_mask_loadu_ps(most, lanes_left(n - i), x + i), most);
    most = _mm512_set1_ps(_mm512_reduce_max_ps(most));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 part = lanes_left(n - i);
        __m512 v = _mm512_maskz_loadu_ps(part, x + i);
        v = exp16(_mm512_mul_ps(_mm512_sub_ps(v, most), by));
        sum = _mm512_mask_add_ps(sum, part, sum, v);
        _mm512_mask_storeu_ps(x + i, part, v);
    }
    __m512 all = _mm512_set1_ps(_mm512_reduce_add_ps(sum));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 part = lanes_left(n - i);
        _mm512_mask_storeu_ps(x + i, part, _mm512_div_ps(_mm512_maskz_loadu_ps(part, x + i), all));
    }
}

AVX512 static void silu_times_avx512(float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 part = lanes_left(n - i);
        __m512 g = _mm512_maskz_loadu_ps(part, gate + i), u = _mm512_maskz_loadu_ps(part, up + i);
        __m512 e = exp16(_mm512_sub_ps(_mm512_setzero_ps(), g));
        g = _mm512_div_ps(g, _mm512_add_ps(_mm512_set1_ps(1), e));
        _mm512_mask_storeu_ps(gate + i, part, _mm512_mul_ps(g, u));
    }
}

AVX512 INLINE void add_weighted_tile(const float *s, size_t s_stride, int tokens, const float *v,
                                     int rows, size_t n, float *y, size_t y_stride) {
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 part = lanes_left(n - i);
        __m512 sum[4];
        UNROLL
        for (int t = 0; t < tokens; t++)
            sum[t] = _mm512_maskz_loadu_ps(part, y + (size_t)t * y_stride + i);
        for (int r = 0; r < rows; r++) {
            __m512 row = _mm512_maskz_loadu_ps(part, v + (size_t)r * n + i);
            UNROLL
            for (int t = 0; t < tokens; t++)
                sum[t] = _mm512_fmadd_ps(_mm512_set1_ps(s[(size_t)t * s_stride + (size_t)r]), row,
                                         sum[t]);
        }
        UNROLL
        for (int t = 0; t < tokens; t++)
            _mm512_mask_storeu_ps(y + (size_t)t * y_stride + i, part, sum[t]);
    }
}

AVX512 static void add_weighted_avx512(const float *s, size_t s_stride, int tokens, const float *v,
                                       int rows, size_t n, float *y, size_t y_stride) {
    int t = 0;
    for (; t + 4 <= tokens; t += 4)
        add_weighted_tile(s + (size_t)t * s_stride, s_stride, 4, v, rows, n,
                          y + (size_t)t * y_stride, y_stride);
    for (; t < tokens; t++)
        add_weighted_tile(s + (size_t)t * s_stride, s_stride, 1, v, rows, n,
                          y + (size_t)t * y_stride, y_stride);
}

/* The values of a page, a row at a time. */
AVX2 static void add_weighted_avx2(const float *s, size_t s_stride, int tokens, const float *v,
                                   int rows, size_t n, float *y, size_t y_stride) {
    for (int t = 0; t < tokens; t++) {
        for (int r = 0; r < rows; r++)
            add_scaled_avx2(s[(size_t)t * s_stride + (size_t)r], v + (size_t)r * n, n,
                            y + (size_t)t * y_stride);
    }
}

static void softmax_plain(float *x, size_t n, float scale) {
    nb_kernels_plain.softmax(x, n, scale);
}

static void silu_times_plain(float *gate, const float *up, size_t n) {
    nb_kernels_plain.silu_times(gate, up, n);
}

/* 16 of bf16 to f32; of the last ones, `count` < 16. */
AVX512 INLINE __m512 load_bf16(const uint16_t *p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

AVX512 INLINE __m512 load_part_bf16(const uint16_t *p, __mmask16 part) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(part, p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

AVX512 INLINE void tile_bf16_avx512(const float *x, size_t x_stride, int tokens, const uint16_t *w,
                                    size_t w_stride, int rows, size_t n, float *y,
                                    size_t y_stride) {
    __m512 sum[16], v[4];
    UNROLL
    for (int i = 0; i < tokens * rows; i++)
        sum[i] = _mm512_setzero_ps();
    size_t k = 0;
    for (; k < n; k += 16) {
        __mmask16 part = n - k < 16 ? (__mmask16)((1u << (n - k)) - 1) : 0xFFFF;
        UNROLL
        for (int r = 0; r < rows; r++) {
            const uint16_t *at = w + (size_t)r * w_stride + k;
            v[r] = part == 0xFFFF ? load_bf16(at) : load_part_bf16(at, part);
            if (k % 32 == 0) /* a line; the next rows follow these */
                _mm_prefetch((const char *)(at + (size_t)rows * w_stride), _MM_HINT_T1);
        }
        UNROLL
        for (int t = 0; t < tokens; t++) {
            __m512 a = _mm512_maskz_loadu_ps(part, x + (size_t)t * x_stride + k);
            UNROLL
            for (int r = 0; r < rows; r++)
                sum[t * rows + r] = _mm512_fmadd_ps(a, v[r], sum[t * rows + r]);
        }
    }
    UNROLL
    for (int t = 0; t < tokens; t++) {
        UNROLL
        for (int r = 0; r < rows; r++)
            y[(size_t)t * y_stride + (size_t)r] = _mm512_reduce_add_ps(sum[t * rows + r]);
    }
}

AVX512 static void products_bf16_avx512(const float *x, size_t x_stride, int tokens,
                                        const uint16_t *w, size_t w_stride, int rows, size_t n,
                                        float *y, size_t y_stride) {
    int t = 0;
    for (; t + 4 <= tokens; t += 4) {
        int r = 0;
        for (; r + 4 <= rows; r += 4)
            tile_bf16_avx512(x + (size_t)t * x_stride, x_stride, 4, w + (size_t)r * w_stride,
                             w_stride, 4, n, y + (size_t)t * y_stride + r, y_stride);
        for (; r < rows; r++)
            tile_bf16_avx512(x + (size_t)t * x_stride, x_stride, 4, w + (size_t)r * w_stride,
                             w_stride, 1, n, y + (size_t)t * y_stride + r, y_stride);
    }
    for (; t < tokens; t++) {
        int r = 0;
        for (; r + 4 <= rows; r += 4)
            tile_bf16_avx512(x + (size_t)t * x_stride, x_stride, 1, w + (size_t)r * w_stride,
                             w_stride, 4, n, y + (size_t)t * y_stride + r, y_stride);
        for (; r < rows; r++)
            tile_bf16_avx512(x + (size_t)t * x_stride, x_stride, 1, w + (size_t)r * w_stride,
                             w_stride, 1, n, y + (size_t)t * y_stride + r, y_stride);
    }
}

const struct nb_kernels nb_kernels_avx2 = {
    .name = "avx2",
    .fixed = &nb_fixed_avx2,
    .dequantize = dequantize_avx2,
    .widen_bf16 = widen_bf16_avx2,
    .products = products_avx2,
    .add_weighted = add_weighted_avx2,
    .softmax = softmax_plain,
    .silu_times = silu_times_plain,
    .add_scaled = add_scaled_avx2,
};

const struct nb_kernels nb_kernels_avx512 = {
    .name = "avx512",
    .fixed = &nb_fixed_avx512,
    .dequantize = dequantize_avx512,
    .widen_bf16 = widen_bf16_avx2,
    .products = products_avx512,
    .products_bf16 = products_bf16_avx512,
    .add_weighted = add_weighted_avx512,
    .softmax = softmax_avx512,
    .silu_times = silu_times_avx512,
    .add_scaled = add_scaled_avx2,
};

bool nb_kernels_avx2_runs(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

bool nb_kernels_avx512_runs(void) {
    return nb_kernels_avx2_runs() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512vnni");
}

#endif
