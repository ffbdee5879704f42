/* The inner loops of the CPU backend: plain C, which defines them, and vector versions chosen at
 * run time. Tests hold each version to the plain one. */
#ifndef NB_BACKEND_CPU_KERNELS_H
#define NB_BACKEND_CPU_KERNELS_H

#include "base/layout.h"
#include "model/model.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- fixed point: 4-bit weights times activations of 14 bits ---- */

enum {
    NB_FIXED_BLOCK = 64,  /* columns of activations that share a scale */
    NB_FIXED_ROWS = 32,   /* of a strip, the unit in which work is given to threads */
    NB_FIXED_DEPTH = 256, /* columns of a strip that are worked on at a time */

    /* Sums of products must fit 32 bits, whatever the numbers are. Where lanes are rows, all 64
     * products of a block go into a sum: its activations are therefore made to have magnitudes that
     * sum to no more than X_SUM, of weights up to W_MAX. Gaussian activations then reach about
     * 14,000, and are off by 1 in 10,000 of their standard deviation. */
    NB_FIXED_X_MAX = 16383,
    NB_FIXED_X_SUM = 262000,
    NB_FIXED_W_MAX = 8191,
};
_Static_assert((NB_FIXED_X_SUM + NB_FIXED_BLOCK / 2 + 1LL) * NB_FIXED_W_MAX < INT32_MAX,
               "sums of products overflow");

/* Activations of several tokens: x[t, k] is q[t * q_stride + place of k] * scale[t * scale_stride +
 * k / NB_FIXED_BLOCK]. The place is up to the version; the last of an odd number of blocks has an
 * empty one after it. */
struct nb_fixed {
    int16_t *q;
    float *scale;
    size_t q_stride, scale_stride;
};

/* Where columns of a token end in `q`, and what a row of `scale` must have room for. */
static inline size_t nb_fixed_columns(size_t n) {
    return (n + 2 * NB_FIXED_BLOCK - 1) / (2 * NB_FIXED_BLOCK) * (2 * NB_FIXED_BLOCK);
}
static inline size_t nb_fixed_scales(size_t n) {
    return (n / NB_FIXED_BLOCK + 15) / 16 * 16 + 64; /* versions may write 64 at a time */
}

/* A matrix laid out anew, in strips of NB_FIXED_ROWS rows, which are read from beginning to end:
 * 4 bytes of codes of each row in turn. Strips of matrices that are read together take turns. Each
 * 64 columns of a row have an absmax, or a code of one, even where a block of the checkpoint is
 * longer. codes NULL: not laid out. */
struct nb_fixed_packed {
    const uint8_t *codes;       /* [rows / 32] strips of [columns / 8, 32, 4] */
    size_t stride;              /* bytes from a strip's codes to the next one's of this matrix */
    const float *absmax;        /* [rows / 32, columns / 64, 32]; NULL if double quantized */
    const uint8_t *absmax_code; /* [rows / 32, columns / 128, 64], at nb_fixed_packed_place */
    const uint8_t *planes;      /* [4, 256]: byte p of the value of each absmax code; shared by
                                   matrices whose strips take turns, if it is the same */
};

/* Where among 64 absmax codes that of a row is, for the first or second 64 of 128 columns: such
 * that the bytes of their values, unpacked in lanes of 128 bits, come out in order. */
static inline size_t nb_fixed_packed_place(size_t row, size_t half) {
    return row % 16 / 4 * 16 + half * 8 + row / 16 * 4 + row % 4;
}

/* What a thread needs. */
struct nb_fixed_scratch {
    int16_t *weights; /* [NB_FIXED_ROWS * NB_FIXED_DEPTH], aligned to 64 bytes */
    float *absmax;    /* [NB_FIXED_ROWS, nb_fixed_scales(most columns)], aligned to 64 bytes */
    float *sums;      /* [most tokens, NB_FIXED_ROWS], no shorter than half of absmax; aligned */
};

/* y[t * y_stride + r] = sum over k of x[t, k] * w[r, k] for t < tokens and row <= r < row + rows.
 */
struct nb_fixed_job {
    const struct nb_quant_view *w;        /* one that nb_fixed_takes */
    const struct nb_fixed_packed *packed; /* of the same matrix, or NULL */
    size_t columns;
    size_t row, rows; /* rows <= NB_FIXED_ROWS */
    struct nb_fixed x;
    size_t tokens;
    float *y;
    size_t y_stride;
    const struct nb_fixed_scratch *scratch;
};

struct nb_fixed_kernels {
    bool packed_only; /* jobs need a packed matrix */

    /* A token's activations x[n], n a multiple of NB_FIXED_BLOCK, to fixed point. */
    void (*to_fixed)(const float *x, size_t n, int16_t *q, float *scale);

    /* The sums' last bits depend on how many tokens there are, unless the matrix is packed. */
    void (*products)(const struct nb_fixed_job *job);
};

/* Whether a matrix fits fixed point: no block shorter than NB_FIXED_BLOCK, rows of whole such
 * blocks, and values that are numbers. */
bool nb_fixed_takes(const struct nb_matrix *m);

/* Whether it can be laid out anew: whole strips, whole chunks of 128 columns. */
bool nb_fixed_packs(const struct nb_matrix *m);

/* The parts of n matrices of one shape that nb_fixed_packs, in a layout whose sizes are being
 * learnt or that has memory, to out[n]. */
void nb_fixed_place(const struct nb_matrix *const *m, size_t n, struct nb_layout *layout,
                    struct nb_fixed_packed *out);

/* What versions share: the nested absmax of each row of a job's strip for its columns from
 * piece * NB_FIXED_BLOCK on, to out[NB_FIXED_ROWS]. Returns the piece at which one of them changes.
 */
size_t nb_fixed_nested(const struct nb_fixed_job *job, size_t piece, float *out);

/* Fills strips [begin, end) of a matrix that was placed; the planes with strip 0. */
void nb_fixed_pack(const struct nb_matrix *m, const struct nb_fixed_packed *to, size_t begin,
                   size_t end);

/* ---- all kernels ---- */

/* What a tile product works on at a time: NB_TILE_ROWS rows of W by NB_TILE_TOKENS tokens. */
enum { NB_TILE_ROWS = 8, NB_TILE_TOKENS = 4 };

struct nb_kernels {
    const char *name;

    const struct nb_fixed_kernels *fixed; /* NULL: 4-bit weights are widened to f32 like others */

    /* out[0..n) f32 = weights [first, first + n). */
    void (*dequantize)(const struct nb_quant_view *view, size_t first, size_t n, float *out);
    void (*widen_bf16)(const uint16_t *in, size_t n, float *out);

    /* y[t * y_stride + r] = sum over k < n of x[t * x_stride + k] * w[r * w_stride + k], for
     * t < tokens <= NB_TILE_TOKENS and r < rows <= NB_TILE_ROWS. The sum of a pair (t, r) does not
     * depend on the others in the tile, so that a token's result is the same in any batch. */
    void (*products)(const float *x, size_t x_stride, int tokens, const float *w, size_t w_stride,
                     int rows, size_t n, float *y, size_t y_stride);

    /* The same with w in bf16, read once: NULL where rows are better widened first. */
    void (*products_bf16)(const float *x, size_t x_stride, int tokens, const uint16_t *w,
                          size_t w_stride, int rows, size_t n, float *y, size_t y_stride);

    /* y[t * y_stride + i] += sum over r < rows of s[t * s_stride + r] * v[r * n + i], in order of
     * r, for t < tokens and i < n: the values of a page, weighted by the scores of several heads.
     */
    void (*add_weighted)(const float *s, size_t s_stride, int tokens, const float *v, int rows,
                         size_t n, float *y, size_t y_stride);

    /* x[0..n) to softmax(x * scale), n > 0, scale > 0. */
    void (*softmax)(float *x, size_t n, float scale);

    /* gate[0..n) = silu(gate) * up, silu(x) = x / (1 + e^-x) */
    void (*silu_times)(float *gate, const float *up, size_t n);

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
