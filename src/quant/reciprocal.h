/* 1 / x as an NVIDIA GPU approximates it. */
#ifndef NB_QUANT_RECIPROCAL_H
#define NB_QUANT_RECIPROCAL_H

/* PTX's rcp.approx.ftz.f32, bit for bit, for x >= 0: what 1.0f / x becomes under --use_fast_math.
 */
float nb_gpu_reciprocal(float x);

#endif
