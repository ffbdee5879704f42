/* Attention of a batch over pages of KV memory: prefill chunks and decode tokens mixed, several
 * sequences, causal, with or without a window. Part of batch.cu's pass.
 */
#ifndef NB_BACKEND_CUDA_ATTENTION_H
#define NB_BACKEND_CUDA_ATTENTION_H

#include "backend/cuda/gemm.h"

/* The tokens that attend: all of a step, or some. */
struct nb_cuda_queries {
    int32_t n;
    int32_t longest_run; /* as in the step, or more */
    int32_t one_run;     /* whether they are one run of tokens side by side */
    const int32_t *row;  /* [n] on the device: the token of the step, and row of q, that each is;
                          * NULL: their own numbers */
};

/* Whether there are kernels: heads of 64 or 128. */
int nb_cuda_attention_supports(const struct nb_cuda_model *m, const struct nb_cuda_limits *l);

/* Bytes for the plan of up to max_tokens queries and what its kernels leave for one another. */
size_t nb_cuda_attention_workspace(const struct nb_cuda_model *m, const struct nb_cuda_limits *l);

/* Divides the work of `queries` among blocks, on the device; once a pass, for all its layers. What
 * calls nb_cuda_attention may overlap with what comes before it, but none may begin before the plan
 * is made: a kernel between them that does not overlap sees to that. */
cudaError_t nb_cuda_attention_plan(const struct nb_cuda_model *m, const struct nb_cuda_step *s,
                                   const struct nb_cuda_queries *queries, void *workspace,
                                   const struct nb_cuda_limits *l, cudaStream_t stream);

/* Queries, keys and values of a layer as their product leaves them: qkv [n, (H + 2 G) d] f32, in
 * parts. */
struct nb_cuda_projected {
    const float *qkv;
    struct nb_cuda_parts parts;
    const float *q_norm, *k_norm; /* [d] or NULL */
    const float2 *turns;          /* [n, d / 2] cosine and sine of each token's position */
};

/* Whether nb_cuda_attention takes such queries from the product as they are. */
int nb_cuda_attention_rotates(const struct nb_cuda_queries *queries);

/* out [n, H d rounded up to 64] bf16, permuted as products want x (gemm.h): softmax(q k) v over the
 * positions of each query's sequence up to its own, which are in KV memory, its own included. q
 * [rows, H, d] bf16, normed and rotated; or, with `projected`, which is NULL otherwise, queries are
 * normed and rotated here, and keys and values, which are not in KV memory yet, go there. The
 * workspace is that of the plan. */
cudaError_t nb_cuda_attention(const struct nb_cuda_model *m, const struct nb_cuda_step *s,
                              const struct nb_cuda_queries *queries, int32_t layer,
                              const struct nb_cuda_projected *projected, const __nv_bfloat16 *q,
                              __nv_bfloat16 *out, void *workspace, const struct nb_cuda_limits *l,
                              cudaStream_t stream);

#endif
