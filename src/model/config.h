/* config.json of a checkpoint, as Hugging Face transformers writes it. */
#ifndef NB_MODEL_CONFIG_H
#define NB_MODEL_CONFIG_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

enum { NB_MAX_EOS = 8, NB_MAX_EXPERTS_PER_TOKEN = 16 };

/* Rotary position embeddings. */
struct nb_rope {
    double theta;
    /* Llama 3's scaling, where factor is not 0: wavelengths above original_context / low_factor are
     * stretched by factor, those below original_context / high_factor are left, smoothly between.
     */
    double factor, low_factor, high_factor, original_context;
};

struct nb_config {
    char model_type[32]; /* "mixtral" */
    int32_t n_vocab;
    int32_t n_layers;
    int32_t width;             /* hidden_size */
    int32_t n_heads;           /* of queries */
    int32_t n_kv_heads;        /* divides n_heads: each serves n_heads / n_kv_heads query heads */
    int32_t head_width;        /* of a head; even */
    int32_t n_experts;         /* a layer; 1 in a dense model, which has no router */
    int32_t experts_per_token; /* the router's top k; 1 in a dense model */
    int32_t expert_width;      /* of an expert, or of a dense model's only one */
    int32_t context;           /* max_position_embeddings: positions the model was made for */
    int32_t window;            /* positions that a token attends to, its own included; 0: all */
    float rms_eps;
    struct nb_rope rope;
    bool qk_norm;           /* RMSNorm of each query and key head before rope */
    bool normalize_experts; /* the weights of a token's experts are made to sum to 1 */
    bool dense;             /* no router: the only expert does all */
    bool tied;              /* the head is the embedding matrix */
    int32_t bos;
    int32_t eos[NB_MAX_EOS];
    int32_t n_eos;
};

/* Whether a token ends a text. */
bool nb_config_is_end(const struct nb_config *config, int32_t id);

/* The angle a position turns each of a head's pairs by: out [head_width / 2] f32. */
void nb_rope_frequencies(const struct nb_config *config, float *out);

/* Reads folder/config.json, and the end tokens of generation_config.json where there is one. What
 * nibble cannot run is NB_ERR_UNSUPPORTED and names the field. */
enum nb_status nb_config_read(const char *folder, struct nb_config *out, struct nb_error *err);

/* Hears of a field that nibble cannot run, as an error would have it. */
typedef void (*nb_reason_fn)(void *context, const struct nb_error *reason);

/* As nb_config_read, but goes on after a field that nibble cannot run, so that `hear` hears of all
 * of them; the result is that of the first. */
enum nb_status nb_config_explain(const char *folder, struct nb_config *out, nb_reason_fn hear,
                                 void *context, struct nb_error *err);

#endif
