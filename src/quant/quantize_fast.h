/* Quantization at the speed of memory: what nb_quantize_f32 and its kin write, byte for byte, with
 * vectors where the processor has them. */
#ifndef NB_QUANT_QUANTIZE_FAST_H
#define NB_QUANT_QUANTIZE_FAST_H

#include "quant/quant.h"

enum nb_quant_input { NB_QUANT_F32, NB_QUANT_F16, NB_QUANT_BF16 };

/* x [n] of that type, aligned for it; otherwise as nb_quantize_f32 in quant.h. */
enum nb_status nb_quantize_fast(enum nb_quant_type type, size_t block, enum nb_quant_input input,
                                const void *x, size_t n, uint8_t *codes, float *absmax,
                                struct nb_error *err);

/* "avx2", or "plain" where nb_quantize_fast has nothing faster than the reference. */
const char *nb_quantize_version(void);

#endif
