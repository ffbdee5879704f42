/* Products as a GPU makes them under nvcc's --use_fast_math (-ftz=true), which bitsandbytes is
 * built with: what is below 2^-126, operand or result, is zero and keeps its sign. */
#ifndef NB_QUANT_FLUSH_H
#define NB_QUANT_FLUSH_H

#include <float.h>
#include <math.h>

static inline float nb_flush(float x) {
    return fabsf(x) < FLT_MIN ? copysignf(0, x) : x;
}

/* A result is flushed if it is below 2^-126 once rounded to 24 bits as if exponents had no end; a
 * product scaled by 2^24 shows that, where f32 has already rounded to fewer bits. */
static inline float nb_mul_flushed(float a, float b) {
    a = nb_flush(a), b = nb_flush(b);
    return fabsf(a * 0x1p24f * b) < 0x1p-102f ? copysignf(0, a * b) : a * b;
}

#endif
