/* Writing a model that is in memory as a checkpoint. */
#ifndef NB_MODEL_SAVE_H
#define NB_MODEL_SAVE_H

#include "base/pool.h"
#include "model/model.h"

/* Makes the folder `target`, which must not exist, from a Mixtral or Qwen3 mixture whose matrices
 * are in 4 bits or floats: safetensors as transformers with bitsandbytes writes them, and a
 * config.json with what nb_config_read reads. No tokenizer. On failure nothing is left behind. */
enum nb_status nb_model_save(const struct nb_model *model, const char *target, struct nb_pool *pool,
                             struct nb_error *err);

#endif
