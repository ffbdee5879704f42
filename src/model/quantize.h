/* Quantizing the linear layers of an opened model, as transformers 4.57 with bitsandbytes does when
 * it loads in 4 bits: all of them but the head, routers included; embeddings and norms stay. */
#ifndef NB_MODEL_QUANTIZE_H
#define NB_MODEL_QUANTIZE_H

#include "base/pool.h"
#include "model/model.h"

#include <stdbool.h>

struct nb_quantize_options {
    enum nb_quant_type type;
    size_t block; /* weights that share an absmax: a power of two, 32 to 4096 */
    bool nested;  /* double quantization: the absmax in 8 bits */
    /* Modules to leave alone. As in transformers' llm_int8_skip_modules: the last part of a
     * module's name ("gate"), its whole name, or a part that the name has with a dot after it
     * ("layers.0" leaves all of that layer; "0" all modules below any numbered 0). */
    const char *const *skip;
    size_t n_skip;
};

/* NF4 in blocks of 64, double quantized. */
extern const struct nb_quantize_options nb_quantize_defaults;

/* ---- what a model consists of ---- */

/* A weight under the name that transformers 4 gives its tensor: "….mlp.gate.weight". Fused experts
 * appear one by one. */
struct nb_weight {
    const char *name;
    struct nb_matrix *matrix; /* either this */
    struct nb_vector *vector; /* or this */
    bool linear;              /* a linear layer other than the head */
    bool mapped;              /* its data is in a mapped file, not in a copy */
};

/* All weights of a model in the order of transformers' state_dict, in `arena`; a tied head is not
 * among them. NB_ERR_MEMORY is the only failure. */
enum nb_status nb_model_weights(const struct nb_model *model, struct nb_arena *arena,
                                struct nb_weight **out, size_t *n, struct nb_error *err);

/* Whether a weight is to be quantized under these options. */
bool nb_weight_quantizes(const struct nb_weight *weight, const struct nb_quantize_options *options);

/* Whether any matrix of the model is in 4 bits. */
bool nb_model_is_quantized(const struct nb_model *model);

/* ---- quantizing ---- */

/* Where the parts of a quantized matrix go; nb_quant_view has their shapes. */
struct nb_quantized {
    uint8_t *codes;
    float *absmax; /* also with double quantization, as scratch */
    uint8_t *absmax_code;
    float *nested_absmax;
    float nested_offset; /* out */
};

/* Quantizes a matrix that is in floats, on all threads of the pool. Pages of a mapped file are let
 * go as they have been read. */
enum nb_status nb_weight_quantize(const struct nb_weight *weight,
                                  const struct nb_quantize_options *options, struct nb_pool *pool,
                                  struct nb_quantized *out, struct nb_error *err);

/* Has the system begin to read the weight's first pages, where they are in a mapped file. */
void nb_weight_prefetch(const struct nb_weight *weight);
enum { NB_PREFETCH_WEIGHTS = 4 }; /* how many weights ahead that is worth doing */

/* Tells the system that the pages which lie wholly within data[0..bytes) of a mapped file are no
 * longer needed, so that they do not count as this process's memory. */
void nb_release_pages(const void *data, size_t bytes);

/* Has the system begin to read those pages. */
void nb_prefetch_pages(const void *data, size_t bytes);

/* Replaces the linear layers of a model in floats by quantized ones, in memory that the model owns.
 * The model's own floats are read once and never held as a whole. `progress` (may be NULL) hears of
 * bytes read of bytes in all. On failure the model must still be closed. */
enum nb_status nb_model_quantize(struct nb_model *model, const struct nb_quantize_options *options,
                                 struct nb_pool *pool,
                                 void (*progress)(void *context, uint64_t done, uint64_t total),
                                 void *context, struct nb_error *err);

#endif
