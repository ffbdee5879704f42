/* Quantization, plainly: the codes and the absmax of bitsandbytes 0.50's CUDA kernels
 * (kQuantizeBlockwise and kQuantizeBlockwiseSmall in kernels.cu, built with --use_fast_math):
 *
 * - absmax is the largest |x| of a block; what is below 2^-126 counts as zero, NaN is passed over.
 * - x is scaled by a multiplication with 1 / absmax, which the GPU approximates (reciprocal.c), not
 *   by a division. An absmax above 2^126 has a reciprocal below 2^-126, hence zero: all codes stand
 * for 0.
 * - A scaled x gets the code that lies between constant thresholds, which are rounded somewhat
 *   otherwise than the midpoints of the table; a tie goes down. In a zero block 0 * (1 / 0) is NaN,
 *   above no threshold: every code is 0, which for NF4 stands for -1 (times an absmax of 0).
 * - A last odd weight is followed by one that is 0.
 *
 * bitsandbytes' CPU code differs: it takes an exact reciprocal, compares with the midpoints, gives
 * zero blocks the code of 0, clamps the absmax of a last, partial block to at least 1e-38 and
 * divides by it, swaps FP4's +0 and -0, and codes the nested absmax by a table of 65,536 steps. Of
 * 16 million normal weights that changed no NF4 code from bf16, 2 from f32, 0.6 % of FP4's codes
 * (most in the sign of zero) and 0.2 % of the nested codes.
 */
#include "quant/quant.h"

#include "base/checked.h"
#include "base/float16.h"
#include "quant/flush.h"
#include "quant/reciprocal.h"
#include "quant/thresholds.h"

#include <stdbool.h>

/* No threshold is near 0, so that it does not matter here whether the product is flushed. */
static void nf4_codes(const float *x, size_t n, float scale, uint8_t *codes) {
    for (size_t i = 0; i < n; i++) {
        float v = nb_flush(x[i]) * scale;
        int code = 0;
        for (int t = 0; t < 15; t++)
            code += v > nb_nf4_thresholds[t];
        codes[i] = (uint8_t)code;
    }
}

static void fp4_codes(const float *x, size_t n, float scale, uint8_t *codes) {
    for (size_t i = 0; i < n; i++) {
        float v = nb_mul_flushed(x[i], scale), size = fabsf(v);
        int code = v < 0 ? 8 : 0;
        for (int t = 0; t < 7; t++)
            code += size > nb_fp4_thresholds[t] ? nb_fp4_steps[t] : 0;
        codes[i] = (uint8_t)code;
    }
}

static float absmax_of(const float *x, size_t n) {
    float most = 0;
    for (size_t i = 0; i < n; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return nb_flush(most);
}

/* One block: x [n] f32, n even, to codes [n / 2] packed. Returns the absmax. */
static float quantize_block(enum nb_quant_type type, const float *x, size_t n, uint8_t *packed) {
    uint8_t codes[NB_QUANT_MAX_BLOCK];
    float absmax = absmax_of(x, n), scale = nb_gpu_reciprocal(absmax);
    (type == NB_QUANT_FP4 ? fp4_codes : nf4_codes)(x, n, scale, codes);
    for (size_t i = 0; i < n / 2; i++)
        packed[i] = (uint8_t)(codes[2 * i] << 4 | codes[2 * i + 1]);
    return absmax;
}

typedef void (*widen_fn)(const void *x, size_t first, size_t n, float *out);

static void widen_f32(const void *x, size_t first, size_t n, float *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = ((const float *)x)[first + i];
}

static void widen_bf16(const void *x, size_t first, size_t n, float *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = nb_bf16_to_f32(((const uint16_t *)x)[first + i]);
}

static void widen_f16(const void *x, size_t first, size_t n, float *out) {
    for (size_t i = 0; i < n; i++)
        out[i] = nb_f16_to_f32(((const uint16_t *)x)[first + i]);
}

static enum nb_status quantize(enum nb_quant_type type, size_t block, const void *x, size_t n,
                               widen_fn widen, uint8_t *codes, float *absmax,
                               struct nb_error *err) {
    enum nb_status status = nb_quant_check_shape(type, block, err);
    if (status != NB_OK)
        return status;
    float wide[NB_QUANT_MAX_BLOCK];
    for (size_t first = 0, m; first < n; first += m) {
        m = n - first < block ? n - first : block;
        widen(x, first, m, wide);
        if (m & 1)
            wide[m] = 0;
        absmax[first / block] = quantize_block(type, wide, m + (m & 1), codes + first / 2);
    }
    return NB_OK;
}

enum nb_status nb_quantize_f32(enum nb_quant_type type, size_t block, const float *x, size_t n,
                               uint8_t *codes, float *absmax, struct nb_error *err) {
    return quantize(type, block, x, n, widen_f32, codes, absmax, err);
}

enum nb_status nb_quantize_bf16(enum nb_quant_type type, size_t block, const uint16_t *x, size_t n,
                                uint8_t *codes, float *absmax, struct nb_error *err) {
    return quantize(type, block, x, n, widen_bf16, codes, absmax, err);
}

enum nb_status nb_quantize_f16(enum nb_quant_type type, size_t block, const uint16_t *x, size_t n,
                               uint8_t *codes, float *absmax, struct nb_error *err) {
    return quantize(type, block, x, n, widen_f16, codes, absmax, err);
}

/* torch.linspace(0.1, 1, n + 1)[i] in f32: from the nearer end, by a fused multiply-add (here in
 * double, where both operations are exact). */
static float tenth_to_one(int i, int n) {
    float step = (1.0f - 0.1f) / (float)n;
    if (i < (n + 1) / 2)
        return (float)((double)0.1f + (double)step * i);
    return (float)(1 - (double)step * (n - i));
}

void nb_dynamic_values(float values[256]) {
    static const float powers[7] = {1e-6f, 1e-5f, 1e-4f, 1e-3f, 1e-2f, 1e-1f, 1};
    values[127] = 0;
    values[255] = 1;
    for (int e = 0, at = 128; e < 7; e++)
        for (int i = 0, n = 1 << e; i < n; i++, at++) {
            float mean = (tenth_to_one(i, n) + tenth_to_one(i + 1, n)) / 2;
            values[at] = powers[e] * mean;
            values[254 - at] = -values[at];
        }
}

float nb_absmax_mean(const float *absmax, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)absmax[i];
    return n ? (float)(sum / (double)n) : 0;
}

/* The code of the nearest value; halfway between two, the even code (dQuantize in kernels.cu). NaN,
 * in a block of zeros, is above nothing and gets code 0. */
static uint8_t dynamic_code(const float values[256], float x) {
    unsigned low = 0, high = 255;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        float halfway = (values[middle] + values[middle + 1]) * 0.5f;
        if (x > halfway || (x == halfway && (middle & 1)))
            low = middle + 1;
        else
            high = middle;
    }
    return (uint8_t)low;
}

void nb_quantize_absmax(const float *absmax, size_t n, float offset, uint8_t *codes,
                        float *nested_absmax) {
    float values[256], centred[NB_NESTED_BLOCK];
    nb_dynamic_values(values);
    for (size_t first = 0, m; first < n; first += m) {
        m = n - first < NB_NESTED_BLOCK ? n - first : NB_NESTED_BLOCK;
        for (size_t i = 0; i < m; i++)
            centred[i] = absmax[first + i] - offset;
        float most = absmax_of(centred, m), scale = nb_gpu_reciprocal(most);
        for (size_t i = 0; i < m; i++)
            codes[first + i] = dynamic_code(values, nb_mul_flushed(centred[i], scale));
        nested_absmax[first / NB_NESTED_BLOCK] = most;
    }
}
