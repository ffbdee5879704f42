/* A model: its config and its weights, mapped from a checkpoint and checked. Immutable; a backend
 * makes of it what it computes with. This page is the whole vocabulary of what is computed.
 *
 * Shapes are [rows, columns], as PyTorch's linear layers have them: y[rows] = W x[columns].
 * D = width, H = n_heads, G = n_kv_heads, d = head_width, E = n_experts, F = expert_width, V =
 * n_vocab.
 */
#ifndef NB_MODEL_MODEL_H
#define NB_MODEL_MODEL_H

#include "base/arena.h"
#include "model/config.h"
#include "model/safetensors.h"
#include "quant/quant.h"

enum nb_weight_type {
    NB_WEIGHT_F32,
    NB_WEIGHT_F16,
    NB_WEIGHT_BF16,
    NB_WEIGHT_4BIT, /* NF4 or FP4 */
};

struct nb_matrix {
    const char *name; /* of its tensor */
    int32_t rows, columns;
    enum nb_weight_type type;
    const void *data;           /* [rows, columns], row by row, aligned; NULL for 4 bits */
    struct nb_quant_view quant; /* weights in the same order, for 4 bits */
};

struct nb_vector {
    const char *name;
    int32_t n;
    enum nb_weight_type type; /* never 4 bits */
    const void *data;         /* [n], aligned */
};

struct nb_expert {
    struct nb_matrix gate; /* [F, D]; Mixtral's w1 */
    struct nb_matrix up;   /* [F, D]; Mixtral's w3 */
    struct nb_matrix down; /* [D, F]; Mixtral's w2: y = down (silu(gate x) * up x) */
};

struct nb_layer {
    struct nb_vector attention_norm; /* [D] RMSNorm before attention */
    struct nb_matrix q;              /* [H * d, D] */
    struct nb_matrix k;              /* [G * d, D] */
    struct nb_matrix v;              /* [G * d, D] */
    struct nb_matrix o;              /* [D, H * d] */
    struct nb_vector q_norm, k_norm; /* [d] RMSNorm of each head, where config.qk_norm */
    struct nb_vector expert_norm;    /* [D] RMSNorm before the experts */
    struct nb_matrix router;         /* [E, D]; none where config.dense */
    struct nb_expert *experts;       /* [E] */
};

struct nb_model {
    struct nb_config config;
    struct nb_matrix embedding; /* [V, D] */
    struct nb_layer *layers;    /* [n_layers] */
    struct nb_vector norm;      /* [D] RMSNorm after the last layer */
    struct nb_matrix head;      /* [V, D]: logits; the embedding's own data where they are tied */
    struct nb_tensors tensors;  /* what all of it points into */
    struct nb_map quantized;    /* or into this, where weights were quantized after opening */
    struct nb_arena arena;
};

/* Opens a checkpoint: a folder with config.json and safetensors. Every weight that the config asks
 * for must be there in the shape that it asks for. On failure nothing is left open. */
enum nb_status nb_model_open(const char *folder, struct nb_model *out, struct nb_error *err);

/* Allowed on an all-zero struct. */
void nb_model_close(struct nb_model *model);

/* Weights in all, and those that work on one token (the experts that are not chosen do not; nor
 * does the embedding, of which one row is read). */
struct nb_model_size {
    uint64_t parameters, active_parameters;
    uint64_t bytes;      /* of all tensors */
    uint64_t step_bytes; /* read for one token at batch 1, KV cache aside */
};
struct nb_model_size nb_model_size(const struct nb_model *model);

/* Bytes of a matrix as a checkpoint holds it, absmax included. */
uint64_t nb_matrix_bytes(const struct nb_matrix *m);

const char *nb_weight_type_name(enum nb_weight_type type);

#endif
