/* What a model takes on a GPU, to the byte, before anything is allocated there. Plain C without a
 * CUDA header: `nibble plan` uses it where there is no GPU, and no nvcc either.
 */
#ifndef NB_BACKEND_CUDA_PLAN_H
#define NB_BACKEND_CUDA_PLAN_H

#include "backend/backend.h"
#include "backend/cuda/layout.h"
#include "base/arena.h"

enum {
    NB_CUDA_ALIGN = 256, /* of everything in device memory */
    /* Sequences that a batch may hold. */
    NB_CUDA_MAX_SEQUENCES = 512,
    /* Rows of logits that there is memory for on the device: those of larger batches are copied,
     * where one row is written to memory of the host straight away. */
    NB_CUDA_LOGIT_ROWS = 64,
};

struct nb_cuda_plan_options {
    int32_t context;         /* positions of a sequence */
    size_t n_pages;          /* of KV memory */
    size_t max_batch_tokens; /* 0: as many as pay, and fewer where memory is short */
    bool kv_fp8;
    uint64_t available; /* bytes that may be allocated: the limit, or what is free; 0: any number */
    const struct nb_quantize_options *quantize; /* what becomes of linear layers in floats, or NULL
                                                 */

    /* Bytes of scratch for batches of so many tokens; NULL: an estimate from the shape. */
    uint64_t (*workspace)(void *context, size_t tokens);
    void *workspace_context;
};

/* Bytes. The parts add up to `total`, which the backend allocates in one piece. */
struct nb_cuda_plan {
    uint64_t experts;   /* gate, up and down of all experts, or of a dense model's only one */
    uint64_t attention; /* q, k, v and o */
    uint64_t head, embedding;
    uint64_t small; /* routers and norms in f32, tables */
    uint64_t kv, workspace;
    uint64_t step;     /* tokens, page tables and logits of a batch */
    uint64_t total;    /* of the device's memory */
    uint64_t on_host;  /* pinned memory of the host: the embedding, where it stays there */
    uint64_t kv_page;  /* one of n_pages */
    uint64_t kv_token; /* keys and values of one position */
    size_t max_batch_tokens;
    bool embedding_on_host;
};

/* Plans a model: `model` as it was opened, or NULL for one of that config whose linear layers are
 * NF4 with double quantization and whose embedding and head are bf16. NB_ERR_MEMORY if it takes
 * more than is available: *out is then the least that it takes, and the message says what is
 * needed, what there is, and which context or option would fit. */
enum nb_status nb_cuda_plan(const struct nb_config *config, const struct nb_model *model,
                            const struct nb_cuda_plan_options *options, struct nb_cuda_plan *out,
                            struct nb_error *err);

/* Of `step`, what logits take: NB_CUDA_LOGIT_ROWS rows, at its end. */
uint64_t nb_cuda_logit_bytes(const struct nb_config *config);

/* ---- what a layer is loaded from ---- */

/* The matrices of a layer as they will be loaded: those in floats that are to be quantized as 4-bit
 * ones that have no codes yet. */
struct nb_cuda_layer_sources {
    struct nb_cuda_source qkv, o;
    struct nb_cuda_source *gate_up, *down;                              /* [E] */
    struct nb_cuda_shape qkv_shape, o_shape, gate_up_shape, down_shape; /* the last two of each */
};

/* Makes them in `arena`, from a layer or from the config alone. nested_values: [256], of
 * nb_cuda_nested_values; must outlive them. */
enum nb_status nb_cuda_layer_sources(const struct nb_config *config, const struct nb_layer *layer,
                                     const struct nb_quantize_options *quantize,
                                     const float *nested_values, struct nb_arena *arena,
                                     struct nb_cuda_layer_sources *out, struct nb_error *err);

/* The head: [V, D]. */
void nb_cuda_head_shape(const struct nb_config *config, const struct nb_model *model,
                        const float *nested_values, struct nb_cuda_shape *out);

/* What codes of absmax mean: the table of the model's first doubly quantized matrix, or the one
 * that quantizing uses. */
void nb_cuda_nested_values(const struct nb_model *model, float out[256]);

#endif
