/* bitsandbytes' 4-bit codec, to the bit: NF4 and FP4 codes, blocks that share one absmax, and the
 * 8-bit dynamic code that compresses the absmax itself (double quantization). The plain reference:
 * backends have fast versions of their own and are held to this one by tests.
 *
 * Source of the formats: bitsandbytes 0.50 (functional.py and its CUDA kernels, which decide where
 * its CPU code differs); NF4: Dettmers et al., "QLoRA", 2023; the dynamic code: Dettmers, "8-bit
 * Approximations for Parallelism", 2015. quant.c says what holds and how it was found out.
 */
#ifndef NB_QUANT_QUANT_H
#define NB_QUANT_QUANT_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

/* ---- The formats ---- */

enum nb_quant_type { NB_QUANT_NF4, NB_QUANT_FP4 };

enum {
    NB_QUANT_MIN_BLOCK = 32,
    NB_QUANT_MAX_BLOCK = 4096,
    NB_NESTED_BLOCK = 256, /* absmax values that share one nested absmax */
};

/* The 16 values of a type, code 0 to 15, within [-1, 1]. */
extern const float nb_nf4_values[16];
extern const float nb_fp4_values[16];
const float *nb_quant_values(enum nb_quant_type type);

/* "nf4" or "fp4". */
const char *nb_quant_type_name(enum nb_quant_type type);

/* A 4-bit matrix or vector of n weights as a checkpoint holds it; nothing is copied or owned. */
struct nb_quant_view {
    enum nb_quant_type type;
    size_t n;             /* weights */
    size_t block;         /* weights that share an absmax: a power of two, 32 to 4096 */
    const uint8_t *codes; /* [(n + 1) / 2] u8: weight 2i in the high nibble, 2i + 1 in the low */
    const float *values;  /* [16] f32: what each code stands for times absmax: quant_map, or better
                           * nb_quant_values(type), which alone has FP4's code 8 as -0 */
    const float *absmax;  /* [ceil(n / block)] f32; NULL if double quantized */
    const uint8_t *absmax_code; /* [ceil(n / block)] u8, with double quantization */
    const float *nested_values; /* [256] f32: what an absmax code stands for times nested absmax */
    const float *nested_absmax; /* [ceil(ceil(n / block) / nested_block)] f32 */
    size_t nested_block;        /* absmax values that share a nested absmax */
    float nested_offset;        /* the mean that was taken off each absmax before coding */
};

/* How long the arrays of n weights are; none of the three can overflow. */
size_t nb_quant_code_bytes(size_t n);
size_t nb_quant_blocks(size_t n, size_t block);
size_t nb_quant_nested_blocks(size_t n, size_t block, size_t nested_block);

/* NB_ERR_FORMAT if the type is unknown or the block is no power of two from 32 to 4096. */
enum nb_status nb_quant_check_shape(enum nb_quant_type type, size_t block, struct nb_error *err);

/* NB_ERR_FORMAT if a view makes no sense: an unknown type, a block that is no power of two from 32
 * to 4096, an array that is missing, or both absmax and absmax_code. A view that came from outside
 * is checked once, when it is made; the functions below trust it. */
enum nb_status nb_quant_check(const struct nb_quant_view *view, struct nb_error *err);

/* ---- Dequantize ---- */

/* absmax of block i: absmax[i], or with double quantization nested_values[absmax_code[i]] *
 * nested_absmax[i / nested_block] rounded to f32, then nested_offset added and rounded again: two
 * operations, never a fused one. The product, not the sum, is flushed as below. */
float nb_quant_absmax(const struct nb_quant_view *view, size_t i);

/* out[0..count) f32 = weights [first, first + count) of the view: values[code] * absmax, rounded to
 * f32, and zero of the same sign where that is below 2^-126. first and count may be anything that
 * lies within the view, block boundaries or not. */
void nb_dequantize_f32(const struct nb_quant_view *view, size_t first, size_t count, float *out);

/* The same rounded once more, to nearest even, to bf16 or fp16 bits. */
void nb_dequantize_bf16(const struct nb_quant_view *view, size_t first, size_t count,
                        uint16_t *out);
void nb_dequantize_f16(const struct nb_quant_view *view, size_t first, size_t count, uint16_t *out);

/* ---- Quantize ---- */

/* x [n] to codes [(n + 1) / 2] and absmax [ceil(n / block)], the same bytes that bitsandbytes' CUDA
 * kernels write; quantize.c tells where its CPU code differs. The low nibble after an odd n holds
 * the code of 0. A block of zeros gets absmax 0; NaN gets code 0 and does not count in absmax.
 * Fails as nb_quant_check_shape does, and then writes nothing. */
enum nb_status nb_quantize_f32(enum nb_quant_type type, size_t block, const float *x, size_t n,
                               uint8_t *codes, float *absmax, struct nb_error *err);
enum nb_status nb_quantize_bf16(enum nb_quant_type type, size_t block, const uint16_t *x, size_t n,
                                uint8_t *codes, float *absmax, struct nb_error *err);
enum nb_status nb_quantize_f16(enum nb_quant_type type, size_t block, const uint16_t *x, size_t n,
                               uint8_t *codes, float *absmax, struct nb_error *err);

/* Double quantization of absmax [n]: each less the offset, in blocks of NB_NESTED_BLOCK, to codes
 * [n] and nested_absmax [ceil(n / NB_NESTED_BLOCK)], again as on CUDA. */
void nb_quantize_absmax(const float *absmax, size_t n, float offset, uint8_t *codes,
                        float *nested_absmax);

/* The offset that bitsandbytes takes is torch's mean of absmax, whose last bits depend on the
 * device it was summed on. This one is summed in double, in order, and rounded once; 0 for n = 0.
 */
float nb_absmax_mean(const float *absmax, size_t n);

/* The values of the 8-bit dynamic code, ascending: bitsandbytes' create_dynamic_map(). */
void nb_dynamic_values(float values[256]);

#endif
