/* config.json of a checkpoint, as Hugging Face transformers writes it. */
#ifndef NB_MODEL_CONFIG_H
#define NB_MODEL_CONFIG_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

enum { NB_MAX_EOS = 8, NB_MAX_EXPERTS_PER_TOKEN = 16 };

struct nb_config {
    char model_type[32]; /* "mixtral" */
    int32_t n_vocab;
    int32_t n_layers;
    int32_t width;             /* hidden_size */
    int32_t n_heads;           /* of queries */
    int32_t n_kv_heads;        /* divides n_heads: each serves n_heads / n_kv_heads query heads */
    int32_t head_width;        /* of a head; even */
    int32_t n_experts;         /* a layer */
    int32_t experts_per_token; /* the router's top k */
    int32_t expert_width;      /* intermediate_size */
    int32_t context;           /* max_position_embeddings: positions the model was made for */
    float rms_eps;
    double rope_theta;
    bool tied; /* the head is the embedding matrix */
    int32_t bos;
    int32_t eos[NB_MAX_EOS];
    int32_t n_eos;
};

/* Reads folder/config.json, and the end tokens of generation_config.json where there is one. What
 * nibble cannot run is NB_ERR_UNSUPPORTED and names the field. */
enum nb_status nb_config_read(const char *folder, struct nb_config *out, struct nb_error *err);

#endif
