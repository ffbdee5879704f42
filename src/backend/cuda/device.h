/* The model and a step as kernels see them: plain structs with device pointers, passed by value or
 * kept in constant or device memory. Only files of src/backend/cuda include this.
 *
 * D = width, H = n_heads, G = n_kv_heads, d = head_width, E = n_experts, F = expert_width,
 * V = n_vocab, K = experts_per_token, T = tokens of a batch.
 */
#ifndef NB_BACKEND_CUDA_DEVICE_H
#define NB_BACKEND_CUDA_DEVICE_H

#include "backend/cuda/layout.h"

#include <cuda_runtime.h>
#ifdef __cplusplus
#include <cuda_bf16.h>
extern "C" {
#else
typedef struct __nv_bfloat16 __nv_bfloat16; /* which cuda_bf16.h has in C++ alone */
#endif

struct nb_cuda_matrix {
    struct nb_cuda_shape shape;
    const uint8_t *data; /* shape.bytes on the device, aligned to 256 */
    int32_t values;      /* which table of 16 values: enum nb_quant_type */
};

struct nb_cuda_layer {
    const float *attention_norm, *expert_norm; /* [D] f32 */
    const float *q_norm, *k_norm;              /* [d] f32, NULL without config.qk_norm */
    struct nb_cuda_matrix
        qkv;                 /* [(H + 2 G) d, D]: q, k, v; q and k rows in NB_CUDA_ROTARY order
                              * if d % 16 == 0 (else natural), v rows natural. One matrix of tiles:
                              * where the three differ in kind, all three are made the common kind */
    struct nb_cuda_matrix o; /* [D, H d] natural */
    const float *router;     /* [E, D] f32, dequantized; NULL in a dense model */
    /* Experts lie one after the other, each shape.bytes apart from the last: expert e's units begin
     * at data + e * shape.bytes. */
    struct nb_cuda_matrix gate_up; /* [2 F, D] NB_CUDA_GATE_UP, E of them */
    struct nb_cuda_matrix down;    /* [D, F] natural, E of them */
};

struct nb_cuda_model {
    int32_t n_vocab, n_layers, width, n_heads, n_kv_heads, head_width, n_experts, experts_per_token,
        expert_width, window, context;
    float rms_eps;
    int32_t qk_norm, normalize_experts, dense;
    int32_t tied;                       /* embedding is read from head's tiles */
    const struct nb_cuda_layer *layers; /* [n_layers] on the device */
    const struct nb_cuda_layer
        *host_layers;               /* [n_layers] the same on the host (device pointers inside) */
    const __nv_bfloat16 *embedding; /* [V, D] natural; device memory or mapped host memory */
    const float *norm;              /* [D] f32 */
    struct nb_cuda_matrix head;     /* [V, D], NB_CUDA_BF16 or 4 bits */
    const float *frequencies;       /* [d / 2] f32: angle a position turns each rotary pair by */
    const float *values;            /* [2, 16] f32: nb_quant_values of both types */
    const float *nested_values;     /* [256] f32: the dynamic code */
    /* KV memory: page p of layer l begins at kv + ((size_t)l * n_pages + p) * page_stride elements:
     * keys [G, NB_PAGE_TOKENS, d], then values [G, NB_PAGE_TOKENS, d]; bf16, or fp8 e4m3 (kv_fp8).
     */
    void *kv;
    int32_t n_pages, kv_fp8;
    int64_t page_stride;
};

/* A batch on the device. The host writes `input` (pinned) in one piece and copies it in one copy.
 */
struct nb_cuda_step {
    int32_t n_tokens, n_logits, max_pages;
    const int32_t *token, *position; /* [T] */
    const int32_t *sequence;         /* [T] row of `pages` */
    const int32_t *pages;            /* [n_sequences, max_pages] */
    const int32_t *logits_of;        /* [n_logits] */
    float *logits;        /* [n_logits, V] f32, device memory or mapped pinned host memory */
    int32_t max_position; /* largest of position[] */
    int32_t longest_run;  /* most tokens that one sequence has in this batch: 1 in pure decode */
};

/* The three ways to do a step; each needs workspace of its own, whose size it tells from the
 * model's shape (before anything is allocated), and each does a whole forward pass on `stream`,
 * allocating nothing. All three must agree to within rounding, and each gives the same bits on
 * every run. */
struct nb_cuda_limits {
    int32_t max_tokens, max_sequences, context, sm_count, compute_capability; /* 90 for 9.0 */
};

/* plain.cu: one obvious kernel for each part, f32 activations; the reference. Any batch, any GPU.
 */
size_t nb_cuda_plain_workspace(const struct nb_cuda_model *m, const struct nb_cuda_limits *l);
cudaError_t nb_cuda_plain_forward(const struct nb_cuda_model *m, const struct nb_cuda_step *s,
                                  void *workspace, const struct nb_cuda_limits *l,
                                  cudaStream_t stream);

/* decode.cu: one persistent kernel for up to NB_CUDA_DECODE_TOKENS tokens (sm_90 and later; 0 bytes
 * and never called where it does not support the model or the GPU: nb_cuda_decode_supports). */
enum { NB_CUDA_DECODE_TOKENS = 8 };
/* How many it is given: with 5 to 8, batch.cu's kernels are as fast at short contexts, and at long
 * ones this one's attention is slow (45 us a layer for 8 tokens of 2,048 positions). */
enum { NB_CUDA_DECODE_GIVEN = 4 };
int nb_cuda_decode_supports(const struct nb_cuda_model *m, const struct nb_cuda_limits *l);
size_t nb_cuda_decode_workspace(const struct nb_cuda_model *m, const struct nb_cuda_limits *l);
cudaError_t nb_cuda_decode_forward(const struct nb_cuda_model *m, const struct nb_cuda_step *s,
                                   void *workspace, const struct nb_cuda_limits *l,
                                   cudaStream_t stream);

/* batch.cu: tokens grouped by expert, tensor-core tiles, flash attention over pages: prefill chunks
 * and batches of any size; every supported GPU (mma.sync), wgmma on sm_90a. */
int nb_cuda_batch_supports(const struct nb_cuda_model *m, const struct nb_cuda_limits *l);
size_t nb_cuda_batch_workspace(const struct nb_cuda_model *m, const struct nb_cuda_limits *l);
cudaError_t nb_cuda_batch_forward(const struct nb_cuda_model *m, const struct nb_cuda_step *s,
                                  void *workspace, const struct nb_cuda_limits *l,
                                  cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
