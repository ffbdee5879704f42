/* Quantizing a checkpoint on disk to another one, which transformers 4.57 with bitsandbytes loads
 * as if it had saved it. */
#ifndef NB_MODEL_CONVERT_H
#define NB_MODEL_CONVERT_H

#include "model/quantize.h"

struct nb_convert_options {
    struct nb_quantize_options how;
    size_t max_file_bytes; /* of a safetensors file's data; 0: 5 GB, as transformers has it */

    /* Hears of bytes read of bytes in all; returns false to stop. May be NULL. */
    bool (*progress)(void *context, uint64_t done, uint64_t total);
    void *progress_context;
};

struct nb_converted {
    uint64_t read_bytes, written_bytes; /* of tensors */
    size_t quantized;                   /* matrices */
    size_t kept;                        /* other tensors */
    size_t files;                       /* of safetensors */
};

/* Reads the checkpoint in the folder `source`, in floats, and makes the folder `target`, which must
 * not exist: safetensors (fused experts one by one), config.json with quantization_config, and
 * whatever else lies in source and is no weights. Memory holds a matrix at a time. On failure, also
 * for want of disk space (NB_ERR_IO) and when progress says so (NB_ERR_STOPPED), nothing is left
 * behind. */
enum nb_status nb_checkpoint_quantize(const char *source, const char *target,
                                      const struct nb_convert_options *options,
                                      struct nb_pool *pool, struct nb_converted *out,
                                      struct nb_error *err);

#endif
