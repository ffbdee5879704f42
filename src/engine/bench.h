/* How fast a model runs here, and how fast the memory would let it. */
#ifndef NB_ENGINE_BENCH_H
#define NB_ENGINE_BENCH_H

#include "engine/structure_bench.h"

enum {
    NB_BENCH_MAX = 16,        /* figures of a kind */
    NB_BENCH_MAX_BATCH = 64,  /* sequences of a decode step */
    NB_BENCH_MAX_STEPS = 256, /* timed for one figure of decode */
};

/* What to measure. Zero means the default of each. */
struct nb_bench_options {
    const char *model;     /* a checkpoint, or NULL and: */
    const char *synthetic; /* the name of a synthetic model */
    struct nb_options options;
    int n_batches, n_prefills, n_requests;
    int32_t batches[NB_BENCH_MAX];        /* decode: sequences in a step */
    int32_t depths[NB_BENCH_MAX];         /* positions that they already have; 0: depth */
    int32_t prefills[NB_BENCH_MAX];       /* prompt tokens */
    int32_t requests[NB_BENCH_MAX][2];    /* prompt tokens and generated ones of whole requests */
    int32_t depth;                        /* at least 1 */
    double seconds;                       /* at least for each figure */
    const struct nb_structure *structure; /* what answers follow; NULL: not measured */
    const char *tokenizer; /* of a synthetic model, a file: structures need one; NULL: none */
};

struct nb_bench_decode {
    int32_t batch;
    int32_t context;       /* positions of each sequence, on average */
    double tokens_per_s;   /* of all sequences together: the median step's */
    double bytes_per_step; /* weights and KV memory that a step must read once */
    double gb_per_s;       /* bytes_per_step over the median step's time */
    double limit;          /* tokens a second if reading those bytes were all */
    double share_of_limit;
};

struct nb_bench_prefill {
    int32_t tokens;
    double tokens_per_s;
};

/* A whole greedy generation by nb_generate, the fastest of those that were done. */
struct nb_bench_request {
    int32_t prompt, generated;
    double seconds, prefill_seconds;
};

struct nb_bench {
    char backend[16], device[128], model[128];
    uint64_t model_bytes, step_bytes; /* nb_model_size */
    uint64_t prefill_parameters;      /* that work on a token whose logits nobody wants */
    int32_t attention_width, layers;  /* of all query heads together; how many */
    double read_gb_per_s;             /* the median of passes over the whole run */
    double load_seconds;              /* from a checkpoint, or a model in memory, to an engine */
    uint64_t device_bytes;            /* allocated on a device; 0 of the CPU */
    size_t max_batch_tokens;
    int n_decode, n_prefill, n_requests;
    struct nb_bench_request request[NB_BENCH_MAX];
    struct nb_bench_decode decode[NB_BENCH_MAX];
    struct nb_bench_prefill prefill[NB_BENCH_MAX];
    bool structured;
    struct nb_structure_bench structure;
};

/* Measures all of it. `progress` (may be NULL) hears what is being done. */
enum nb_status nb_bench_run(const struct nb_bench_options *options,
                            void (*progress)(void *context, const char *what),
                            void *progress_context, struct nb_bench *out, struct nb_error *err);

#endif
