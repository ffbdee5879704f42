/* The contract between the engine and whatever computes. A backend owns its weight layout, its
 * kernels and its KV memory, and does a whole forward pass at a time, so that it may fuse as it
 * likes. One thread at a time calls a backend.
 */
#ifndef NB_BACKEND_BACKEND_H
#define NB_BACKEND_BACKEND_H

#include "base/error.h"
#include "model/model.h"
#include "model/quantize.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NB_PAGE_TOKENS = 16 }; /* positions in a page of KV memory */

/* Tokens of one or more sequences, prefill chunks and decode tokens mixed. A token attends to all
 * positions of its sequence up to its own: those that the page table holds from earlier batches,
 * and those in this one. The positions of a sequence within a batch are consecutive and ascending,
 * and go on where its pages end. */
struct nb_batch {
    size_t n_tokens;         /* 1 to max_batch_tokens */
    const int32_t *token;    /* [n_tokens] ids below n_vocab */
    const int32_t *position; /* [n_tokens] from 0 */
    const int32_t *sequence; /* [n_tokens] index into `pages` */
    size_t n_sequences;
    const int32_t *const
        *pages; /* [n_sequences]: page of position p is pages[s][p / NB_PAGE_TOKENS] */
    size_t n_logits;
    const int32_t *logits_of; /* [n_logits] indices into `token`, ascending */
    float *logits;            /* out: [n_logits, n_vocab] f32, on the host */
};

struct nb_backend_options {
    int threads;             /* of the CPU; 0: one for each processor */
    const char *cpu;         /* "plain", "avx2", "avx512"; NULL: the best that this processor has */
    const char *weights;     /* of the CPU: "mapped" or "packed"; NULL: as nb_options says */
    size_t max_batch_tokens; /* the most a batch may hold; scratch is made for it. 0: the backend's
                              * choice, which capabilities tells after load */
    int32_t context;         /* positions a sequence may have; scratch is made for it, too */
    size_t n_pages;          /* of KV memory: what kv_alloc will ask for */

    /* Of devices alone. */
    uint64_t memory_limit; /* bytes that may be allocated on it; 0: what is free */
    const char *kv_type;   /* "bf16" or "fp8" (e4m3); NULL: bf16 */

    /* What a backend with `quantizes` makes of a model's linear layers that are in floats, while it
     * loads them; NULL: they stay as they are. Must outlive load. */
    const struct nb_quantize_options *quantize;
};

struct nb_capabilities {
    char device[128];      /* "2 threads, avx512" or a GPU's name */
    uint64_t memory_bytes; /* of the device */
    uint64_t used_bytes;   /* of it that this backend has allocated so far; 0 if it doesn't count */
    size_t max_batch_tokens; /* after load */
};

struct nb_backend;

struct nb_backend_ops {
    const char *name; /* "cpu" */
    bool quantizes;   /* load quantizes as options.quantize says; elsewhere it is done before */

    /* The kernels that this machine can run, "plain, avx2", into out[0..size), size > 0. Must not
     * need the device. */
    void (*versions)(char *out, size_t size);

    /* Finds the device and makes what does not depend on a model. NB_ERR_UNSUPPORTED if there is
     * no device, no driver or none that can be used: another backend may do. */
    enum nb_status (*open)(const struct nb_backend_options *options, struct nb_backend **out,
                           struct nb_error *err);
    void (*close)(struct nb_backend *backend);
    void (*capabilities)(const struct nb_backend *backend, struct nb_capabilities *out);

    /* Takes a model, which must stay open while the backend is. `progress` (may be NULL) hears of
     * bytes done of bytes in all. Once, before anything below. */
    enum nb_status (*load)(struct nb_backend *backend, const struct nb_model *model,
                           void (*progress)(void *context, uint64_t done, uint64_t total),
                           void *context, struct nb_error *err);

    /* Memory that the device writes logits to without a copy, for at least `rows` of n_vocab f32,
     * after load: the backend's own, good until close. NULL if it has no such memory, or less.
     * The op itself may be NULL. */
    float *(*logits_memory)(struct nb_backend *backend, size_t rows);

    /* Bytes of the device's memory that a kernel reads in one pass, as fast as it can, and the
     * seconds that took: the measure of what a step could reach. May be NULL; after load. */
    enum nb_status (*read_memory)(struct nb_backend *backend, uint64_t *bytes, double *seconds,
                                  struct nb_error *err);

    /* KV memory for n_pages pages, numbered from 0; once. The bytes that a page takes. */
    enum nb_status (*kv_alloc)(struct nb_backend *backend, size_t n_pages, struct nb_error *err);
    void (*kv_free)(struct nb_backend *backend);
    enum nb_status (*kv_copy)(struct nb_backend *backend, int32_t from, int32_t to,
                              struct nb_error *err);
    size_t (*kv_page_bytes)(const struct nb_backend *backend);

    /* One step. Allocates nothing. After a failure the pages that the batch wrote to hold anything
     * at the batch's positions, and what was there before is untouched. */
    enum nb_status (*forward)(struct nb_backend *backend, const struct nb_batch *batch,
                              struct nb_error *err);
};

/* What every backend begins with. */
struct nb_backend {
    const struct nb_backend_ops *ops;
};

extern const struct nb_backend_ops nb_cpu_backend;

/* The backends that this build has, the one to prefer first, and NULL after the last. */
extern const struct nb_backend_ops *const nb_all_backends[];

/* The one of that name; NULL if this build has none. */
const struct nb_backend_ops *nb_backend_find(const char *name);

#endif
