/* GPUs that people rent and buy, and what CUDA and which driver they need: data/gpus.json, which
 * the program carries. */
#ifndef NB_DOCTOR_GPU_H
#define NB_DOCTOR_GPU_H

#include "base/arena.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nb_gpu {
    const char *name;
    int capability; /* 120 for 12.0 */
    uint64_t memory_bytes;
    bool nominal; /* memory_bytes is the data sheet's; else what the driver reports as total */
    double bandwidth_bytes_s;
    const char *source;
    const char *const *aliases; /* [n_aliases] */
    size_t n_aliases;
};

struct nb_gpu_architecture {
    int capability;
    const char *name;         /* "Blackwell" */
    int first_cuda;           /* 12080: the first version that compiles for it */
    const char *first_driver; /* "570.26": the first Linux driver that runs it */
    const char *source;
};

struct nb_cuda_driver {
    int cuda;            /* 12040 */
    const char *driver;  /* the Linux driver that came with it */
    const char *minimum; /* the oldest that runs programs made with it, of the same major version */
};

struct nb_gpu_table {
    struct nb_arena arena;
    struct nb_gpu *gpus; /* [n_gpus] */
    size_t n_gpus;
    struct nb_gpu_architecture *architectures; /* [n_architectures], by capability */
    size_t n_architectures;
    struct nb_cuda_driver *drivers; /* [n_drivers], by version */
    size_t n_drivers;
};

/* The table that the program carries. The caller frees it. */
enum nb_status nb_gpu_table_open(struct nb_gpu_table *out, struct nb_error *err);

/* The same from text, as data/gpus.json has it. `name` is what messages speak of. */
enum nb_status nb_gpu_table_parse(const char *text, size_t n, const char *name,
                                  struct nb_gpu_table *out, struct nb_error *err);
void nb_gpu_table_free(struct nb_gpu_table *table);

/* The GPU of a name, of which case, spaces, hyphens and the words NVIDIA, GeForce and Tesla do not
 * matter. NB_ERR_ARGUMENT if there is none; the message lists names that come near. */
enum nb_status nb_gpu_find(const struct nb_gpu_table *table, const char *name,
                           const struct nb_gpu **out, struct nb_error *err);

/* NULL if the table does not have it. */
const struct nb_gpu_architecture *nb_gpu_architecture(const struct nb_gpu_table *table,
                                                      int capability);

/* The row of a CUDA version, or of the newest before it of the same major version: all of those run
 * with one minimum driver. NULL if there is none. */
const struct nb_cuda_driver *nb_cuda_driver(const struct nb_gpu_table *table, int cuda);

/* "12.4" to 12040; 0 if it is no such version. */
int nb_cuda_version(const char *text);

#endif
