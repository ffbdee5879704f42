/* Products of 4-bit (or bf16) matrices in the layout of layout.h with many tokens on the tensor
 * cores. */
#ifndef NB_BACKEND_CUDA_GEMM_H
#define NB_BACKEND_CUDA_GEMM_H

#include "backend/cuda/device.h"

#ifdef __cplusplus
extern "C" {
#endif

enum nb_cuda_epilogue {
    NB_CUDA_STORE_F32,  /* y f32 [n, rows], rows in the checkpoint's order (ROTARY and NATURAL
                           undone) */
    NB_CUDA_STORE_BF16, /* y bf16 [n, rows], likewise */
    NB_CUDA_SILU,       /* NB_CUDA_GATE_UP alone: y bf16 [n, F rounded up to 64] = silu(gate) * up,
                           permuted within chunks as x is, padding 0: x of the product with down */
};

/* Where the sums of a product lie that blocks left in parts, each of some columns of x: part k at
 * y + k stride, its sum over k is the product (common.cuh adds them). How many parts there are
 * depends on the row and the token. */
struct nb_cuda_parts {
    int32_t block_steps;        /* steps that a block takes of all tiles in turn; 0: y is whole */
    int32_t steps;              /* of a tile */
    int32_t tile_rows;          /* rows of the matrix that a tile has */
    int32_t tiles, tile_tokens; /* tiles side by side, and the rows of y in each */
    size_t stride;              /* in floats */
};

/* y[i] = W_e x[row(i)] for rows i of group e, i in [begin[e], begin[e + 1]), row(i) = gather ?
 * gather[i] : i. */
struct nb_cuda_gemm {
    struct nb_cuda_matrix w; /* group e's matrix is at w.data + e * w.shape.bytes */
    int32_t n_groups;        /* 1 for an ordinary matrix */
    const int32_t *begin;    /* device [n_groups + 1], ascending; NULL: one group of n rows */
    /* Instead of begin and gather, where nb_cuda_gemm_sorts: device [n], the group that each choice
     * is for. A group's rows are its choices in their order; that of choice i has x's row i /
     * choices_of_x, or, where that is 0, x's rows are in y's order. */
    const int32_t *choice;
    int32_t choices_of_x;
    int32_t *slot; /* out: device [n], the row of y of each choice; or NULL */
    bool settled;  /* the kernel before this one is a product with the same `begin` or `choice`,
                    * which  was not settled: that is there before this kernel starts */
    int32_t n;     /* rows of y in all: begin[n_groups], known to the host (T or T * K) */
    const __nv_bfloat16
        *x; /* [*, columns rounded up to 64] bf16, each chunk of 64 permuted: logical place
             * 16 j + kk holds column NB_CUDA_K_OF(j, kk); padding is 0 */
    const int32_t *gather; /* device [n] or NULL */
    enum nb_cuda_epilogue epilogue;
    int32_t head_rows;   /* d, for NB_CUDA_ROTARY */
    int32_t rotary_rows; /* the first rows that are in rotary order: (H + G) d of qkv */
    void *y;
    /* NULL, or, of one group with NB_CUDA_STORE_F32: parts need not be added where y has room, in
     * rows, for each part to have n; *parts says what became of it. */
    struct nb_cuda_parts *parts;
    int32_t room;
};

/* Bytes of scratch for the largest call that limits allow, aligned to 256, and the launch. The
 * first NB_CUDA_GEMM_FLAGS bytes of the scratch must be zero before the first call, and every call
 * leaves them so. The result has the same bits on every run; a row's result does not depend on
 * which other rows are in the batch beyond rounding. From compute capability 9.0 on the kernel
 * starts while the one before in the stream ends (programmatic dependent launch); it reads and
 * writes nothing but weights and tables until that one has ended. cudaErrorInvalidValue for more
 * than 1,024 groups. */
enum { NB_CUDA_GEMM_FLAGS = 65536 };
size_t nb_cuda_gemm_workspace(const struct nb_cuda_model *m, const struct nb_cuda_limits *l);
/* Whether the call puts up to so many choices in order itself. */
enum { NB_CUDA_GEMM_CHOICES = 256 };
int nb_cuda_gemm_sorts(const struct nb_cuda_gemm *g, const struct nb_cuda_limits *l);
cudaError_t nb_cuda_gemm(const struct nb_cuda_gemm *g, const struct nb_cuda_model *m,
                         const struct nb_cuda_limits *l, void *workspace, cudaStream_t stream);

/* The same by a given kernel, for tests and measurements; cudaErrorNotSupported where the GPU or
 * the build has no wgmma and the kernel needs it. */
enum nb_cuda_gemm_kernel {
    NB_CUDA_GEMM_ANY,    /* whatever is fastest: nb_cuda_gemm */
    NB_CUDA_GEMM_PLAIN,  /* mma.sync */
    NB_CUDA_GEMM_STREAM, /* wgmma, for few tokens a group */
    NB_CUDA_GEMM_WIDE,   /* wgmma, for many */
};
cudaError_t nb_cuda_gemm_by(enum nb_cuda_gemm_kernel kernel, const struct nb_cuda_gemm *g,
                            const struct nb_cuda_model *m, const struct nb_cuda_limits *l,
                            void *workspace, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
