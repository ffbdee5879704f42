/* Models with random weights in a real model's shape, to measure speed without the checkpoint. */
#ifndef NB_MODEL_SYNTHETIC_H
#define NB_MODEL_SYNTHETIC_H

#include "base/pool.h"
#include "model/model.h"

/* Makes the model that `spec` names, "mixtral-8x7b", or "mixtral-8x7b:8" for its first 8 layers,
 * or "mixtral-8x7b-bf16:8" for the same with linear layers in bf16, to be quantized: otherwise
 * NF4 with double quantization, embeddings and head in bf16, as bitsandbytes lays them out. Scales
 * are such that activations stay near 1. The same spec gives the same weights. nb_model_close frees
 * it. The pool shares the filling: a gigabyte takes about half a second of two cores. */
enum nb_status nb_model_synthetic(const char *spec, struct nb_pool *pool, struct nb_model *out,
                                  struct nb_error *err);

/* "mixtral-8x7b, mixtral-8x22b, …": the shapes that there are, into out. Returns out. */
const char *nb_synthetic_names(char *out, size_t size);

#endif
