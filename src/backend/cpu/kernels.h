/* The inner loops of the CPU backend: plain C, which defines them, and vector versions chosen at
 * run time. Tests hold each version to the plain one. */
#ifndef NB_BACKEND_CPU_KERNELS_H
#define NB_BACKEND_CPU_KERNELS_H

#include "model/model.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a tile product works on at a time: NB_TILE_ROWS rows of W by NB_TILE_TOKENS tokens. */
enum { NB_TILE_ROWS = 8, NB_TILE_TOKENS = 4 };

struct nb_kernels {
    const char *name;

    /* out[0..n) f32 = weights [first, first + n). */
    void (*dequantize)(const struct nb_quant_view *view, size_t first, size_t n, float *out);
    void (*widen_bf16)(const uint16_t *in, size_t n, float *out);

    /* y[t * y_stride + r] = sum over k < n of x[t * x_stride + k] * w[r * w_stride + k], for
     * t < tokens <= NB_TILE_TOKENS and r < rows <= NB_TILE_ROWS. The sum of a pair (t, r) does not
     * depend on the others in the tile, so that a token's result is the same in any batch. */
    void (*products)(const float *x, size_t x_stride, int tokens, const float *w, size_t w_stride,
                     int rows, size_t n, float *y, size_t y_stride);

    /* y[0..n) += a * x[0..n) */
    void (*add_scaled)(float a, const float *x, size_t n, float *y);
};

extern const struct nb_kernels nb_kernels_plain;

/* The version of a name, or the best for NULL; NULL if this processor cannot run it, or there is
 * none of that name. */
const struct nb_kernels *nb_kernels_find(const char *name);

/* "plain, avx2, avx512": the names that this processor can run, into out. Returns out. */
const char *nb_kernels_names(char *out, size_t size);

#endif
