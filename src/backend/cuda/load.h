/* Bringing a model's weights into device memory. Errors of CUDA are made into nibble's here, too.
 */
#ifndef NB_BACKEND_CUDA_LOAD_H
#define NB_BACKEND_CUDA_LOAD_H

#include "backend/cuda/device.h"
#include "backend/cuda/plan.h"

/* NB_OK, or what CUDA said while doing `what`: NB_ERR_MEMORY if memory ran out, NB_ERR_UNSUPPORTED
 * where there is no driver, device or code for it, otherwise NB_ERR_IO. */
enum nb_status nb_cuda_check(cudaError_t code, const char *what, struct nb_error *err);

struct nb_cuda_load {
    const struct nb_model *model;
    const struct nb_quantize_options *quantize; /* or NULL */
    const struct nb_cuda_plan *plan;
    int device, threads; /* 0: one for each processor */
    void (*progress)(void *context, uint64_t done, uint64_t total);
    void *progress_context;

    /* Device memory, aligned to NB_CUDA_ALIGN: plan->experts + attention + head + small, and the
     * embedding's unless it stays on the host. */
    uint8_t *weights;
    void *embedding_host;              /* [V, D] bf16 in memory of the host, where it stays there */
    const void *embedding_host_device; /* the same as the device addresses it */

    /* Device memory that is free for the time being. */
    uint8_t *scratch;
    uint64_t scratch_bytes;
};

/* What a model looks like before it is loaded: everything but pointers, for what is asked before
 * there is memory. host_layers are in `arena`. */
enum nb_status nb_cuda_describe(const struct nb_model *model,
                                const struct nb_quantize_options *quantize, struct nb_arena *arena,
                                struct nb_cuda_model *out, struct nb_error *err);

/* Loads, and completes what nb_cuda_describe began: all pointers but kv. Threads read the
 * checkpoint into pinned memory, from where it is copied, several streams at a time, and repacked
 * by kernels.
 */
enum nb_status nb_cuda_load(const struct nb_cuda_load *load, struct nb_cuda_model *model,
                            struct nb_error *err);

#endif
