/* What a model takes of a GPU's memory, and on which GPUs it fits: the numbers of the CUDA
 * backend's own plan (backend/cuda/plan.h), by which it allocates. Without a GPU, and without CUDA.
 */
#ifndef NB_DOCTOR_MEMORY_H
#define NB_DOCTOR_MEMORY_H

#include "doctor/gpu.h"
#include "model/model.h"

enum {
    /* The oldest compute capability that nibble's CUDA code is compiled for. */
    NB_PLAN_CAPABILITY = 80,
};

/* What the driver takes for a program that uses a GPU, beside what the program allocates: the
 * context with its kernels. Measured on an H200 with driver 580.159: nvidia-smi's "used" less what
 * was allocated is 539.6 MiB with a context of 1,088 positions and 540.5 with 10,064. */
#define NB_PLAN_CONTEXT_BYTES ((uint64_t)541 << 20)

/* What of a GPU's total is never a program's: nvidia-smi's "reserved", 616 MiB on that H200 (454 on
 * an RTX A6000), and the 128 MiB that the backend leaves for launches. */
#define NB_PLAN_RESERVED_BYTES ((uint64_t)(616 + 128) << 20)

struct nb_plan_options {
    int32_t context; /* positions of a sequence; 0: the model's, 8192 at most, as the engine does */
    int32_t sequences; /* that long at a time; 0: one */
    bool kv_fp8;
    const char *quantize; /* what weights in floats become: "nf4", "fp4", "none"; NULL: "nf4" */
};

/* Bytes, unless they say otherwise. */
struct nb_plan {
    bool weights_known; /* false: planned from the config alone, as NF4 with bf16 embedding and head
                         */
    int32_t context, sequences;
    uint64_t experts, attention, head, embedding, small;
    uint64_t weights; /* the sum of those */
    uint64_t kv_per_token, kv;
    uint64_t workspace; /* an estimate from the shape; the backend asks its kernels */
    uint64_t step;      /* tokens and page tables of a batch */
    uint64_t total;     /* what the backend allocates */
    uint64_t driver;    /* NB_PLAN_CONTEXT_BYTES */
    size_t max_batch_tokens;
    uint64_t step_bytes; /* read for a token at batch 1, KV aside; 0: not known */
};

/* What a GPU, or an amount of memory, is good for. */
struct nb_plan_fit {
    bool fits;
    bool too_old;           /* its capability is below NB_PLAN_CAPABILITY */
    uint64_t free_bytes;    /* left beside the plan; 0 where it does not fit */
    uint64_t missing_bytes; /* 0 where it fits */
    int32_t max_context;    /* for as many sequences; 0: not one page */
    int32_t max_sequences;  /* of the planned context */
    bool embedding_on_host; /* it fits with the embedding in the host's memory */
    size_t max_batch_tokens;
};

/* A checkpoint that is planned: opened, or its config alone. */
struct nb_plan_model {
    struct nb_model model; /* all zero but for the config where the weights are not there */
    bool open;
};

/* Opens folder's weights; a folder with config.json and no weights is planned from the config. The
 * caller closes *out. */
enum nb_status nb_plan_open(const char *folder, struct nb_plan_model *out, struct nb_error *err);
void nb_plan_close(struct nb_plan_model *model);

enum nb_status nb_plan_make(const struct nb_plan_model *model,
                            const struct nb_plan_options *options, struct nb_plan *out,
                            struct nb_error *err);

/* Whether it fits into a GPU of so many bytes, of which the driver takes NB_PLAN_CONTEXT_BYTES and
 * keeps NB_PLAN_RESERVED_BYTES. capability 0: any. */
enum nb_status nb_plan_fit(const struct nb_plan_model *model, const struct nb_plan_options *options,
                           uint64_t memory_bytes, int capability, struct nb_plan_fit *out,
                           struct nb_error *err);

#endif
