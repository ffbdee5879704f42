/* Dequantization, plainly, as bitsandbytes 0.50 has it on CUDA (kDequantizeBlockwise in kernels.cu,
 * dequantize_4bit in functional.py):
 *
 * - A weight is table[code] * absmax: both f32, the product rounded to f32 and then once more to
 *   the type of the output. The table is a constant of the kernel; a checkpoint's quant_map holds
 *   the same 16 values (FP4's code 8 as +0), and CUDA does not look at it.
 * - A nested absmax is dequantized by a kernel of its own, which writes f32 to memory; torch then
 *   adds the offset. So the product is rounded before the sum: no fused multiply-add. (The fused
 *   product kernel for a few tokens, gemm_4bit, does contract the two; dequantize_4bit decides.)
 * - The kernels are built with --use_fast_math, hence -ftz=true: a product below 2^-126 becomes
 *   zero and keeps its sign. torch's sum is not built so.
 *
 * bitsandbytes' CPU code has the same products without the flush, and two differences: code 8 of
 * FP4 is +0 in its vector path and -0 in its scalar path, as on CUDA; and with AVX-512 it takes the
 * wrong absmax where a row is no multiple of the block.
 */
#include "quant/quant.h"

#include "base/checked.h"
#include "base/float16.h"
#include "quant/flush.h"

#include <stdbool.h>

/* Quantiles of the standard normal distribution, scaled to [-1, 1], with an exact zero. */
const float nb_nf4_values[16] = {
    -1.0f,
    -0.6961928009986877f,
    -0.5250730514526367f,
    -0.39491748809814453f,
    -0.28444138169288635f,
    -0.18477343022823334f,
    -0.09105003625154495f,
    0.0f,
    0.07958029955625534f,
    0.16093020141124725f,
    0.24611230194568634f,
    0.33791524171829224f,
    0.44070982933044434f,
    0.5626170039176941f,
    0.7229568362236023f,
    1.0f,
};

/* Sign, two bits of exponent, one of mantissa: {0, 1/16, 8, 12, 4, 6, 2, 3} / 12, in that order. */
const float nb_fp4_values[16] = {
    0.0f,  0.0625f / 12,  8.0f / 12,  1.0f,  4.0f / 12,  0.5f,  2.0f / 12,  0.25f,
    -0.0f, -0.0625f / 12, -8.0f / 12, -1.0f, -4.0f / 12, -0.5f, -2.0f / 12, -0.25f,
};

const float *nb_quant_values(enum nb_quant_type type) {
    return type == NB_QUANT_FP4 ? nb_fp4_values : nb_nf4_values;
}

const char *nb_quant_type_name(enum nb_quant_type type) {
    return type == NB_QUANT_FP4 ? "fp4" : "nf4";
}

size_t nb_quant_code_bytes(size_t n) {
    return nb_div_up(n, 2);
}

size_t nb_quant_blocks(size_t n, size_t block) {
    return nb_div_up(n, block);
}

size_t nb_quant_nested_blocks(size_t n, size_t block, size_t nested_block) {
    return nb_div_up(nb_div_up(n, block), nested_block);
}

static bool is_power_of_two(size_t n) {
    return n && !(n & (n - 1));
}

enum nb_status nb_quant_check_shape(enum nb_quant_type type, size_t block, struct nb_error *err) {
    if (type != NB_QUANT_NF4 && type != NB_QUANT_FP4)
        return nb_fail(err, NB_ERR_FORMAT, "quantization type %d: expected NF4 (%d) or FP4 (%d)",
                       (int)type, (int)NB_QUANT_NF4, (int)NB_QUANT_FP4);
    if (!is_power_of_two(block) || block < NB_QUANT_MIN_BLOCK || block > NB_QUANT_MAX_BLOCK)
        return nb_fail(err, NB_ERR_FORMAT,
                       "block of %zu weights: expected a power of two, %d to %d", block,
                       NB_QUANT_MIN_BLOCK, NB_QUANT_MAX_BLOCK);
    return NB_OK;
}

enum nb_status nb_quant_check(const struct nb_quant_view *view, struct nb_error *err) {
    enum nb_status status = nb_quant_check_shape(view->type, view->block, err);
    if (status != NB_OK)
        return status;
    if (!view->values)
        return nb_fail(err, NB_ERR_FORMAT, "quantized tensor without quant_map");
    if (view->n && !view->codes)
        return nb_fail(err, NB_ERR_FORMAT, "quantized tensor without codes");
    if (view->absmax && view->absmax_code)
        return nb_fail(err, NB_ERR_FORMAT, "absmax is there both plain and double quantized");
    if (view->absmax || !view->n)
        return NB_OK;
    if (!view->absmax_code)
        return nb_fail(err, NB_ERR_FORMAT, "quantized tensor without absmax");
    if (!view->nested_absmax || !view->nested_values)
        return nb_fail(err, NB_ERR_FORMAT, "double quantized absmax without %s",
                       view->nested_absmax ? "nested_quant_map" : "nested_absmax");
    if (!is_power_of_two(view->nested_block))
        return nb_fail(err, NB_ERR_FORMAT,
                       "nested block of %zu absmax values: expected a power of two",
                       view->nested_block);
    return NB_OK;
}

float nb_quant_absmax(const struct nb_quant_view *view, size_t i) {
    if (view->absmax)
        return view->absmax[i];
    float product = nb_mul_flushed(view->nested_values[view->absmax_code[i]],
                                   view->nested_absmax[i / view->nested_block]);
    return product + view->nested_offset;
}

static inline unsigned code_of(const uint8_t *codes, size_t i) {
    return i & 1 ? codes[i / 2] & 0xFU : codes[i / 2] >> 4;
}

/* What the 16 codes stand for in the block of weight `first`; returns where that block, or the
 * range that ends at `end`, is over. */
static size_t block_products(const struct nb_quant_view *view, size_t first, size_t end,
                             float products[16]) {
    size_t block = first / view->block, left = view->block - first % view->block;
    float absmax = nb_quant_absmax(view, block);
    for (int code = 0; code < 16; code++)
        products[code] = nb_mul_flushed(view->values[code], absmax);
    return end - first < left ? end : first + left;
}

void nb_dequantize_f32(const struct nb_quant_view *view, size_t first, size_t count, float *out) {
    for (size_t end = first + count; first < end;) {
        float products[16];
        size_t stop = block_products(view, first, end, products);
        for (; first < stop; first++)
            *out++ = products[code_of(view->codes, first)];
    }
}

void nb_dequantize_bf16(const struct nb_quant_view *view, size_t first, size_t count,
                        uint16_t *out) {
    for (size_t end = first + count; first < end;) {
        float products[16];
        uint16_t rounded[16];
        size_t stop = block_products(view, first, end, products);
        for (int code = 0; code < 16; code++)
            rounded[code] = nb_f32_to_bf16(products[code]);
        for (; first < stop; first++)
            *out++ = rounded[code_of(view->codes, first)];
    }
}

void nb_dequantize_f16(const struct nb_quant_view *view, size_t first, size_t count,
                       uint16_t *out) {
    for (size_t end = first + count; first < end;) {
        float products[16];
        uint16_t rounded[16];
        size_t stop = block_products(view, first, end, products);
        for (int code = 0; code < 16; code++)
            rounded[code] = nb_f32_to_f16(products[code]);
        for (; first < stop; first++)
            *out++ = rounded[code_of(view->codes, first)];
    }
}
