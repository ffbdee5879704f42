/* Writing checkpoints: a folder that appears all at once or not at all, and safetensors files whose
 * tensors come in any order. */
#ifndef NB_MODEL_WRITER_H
#define NB_MODEL_WRITER_H

#include "base/buf.h"
#include "base/error.h"
#include "model/safetensors.h"

#include <jansson.h>
#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- a folder ---- */

/* A folder being written: a temporary one beside its place, ".NAME.PID.nibble". */
struct nb_new_folder {
    char target[PATH_MAX]; /* without slashes at its end */
    char path[PATH_MAX];   /* the temporary one; empty if there is none */
};

/* Makes the temporary folder. It is an error if there is anything at `target`. */
enum nb_status nb_new_folder_begin(const char *target, struct nb_new_folder *out,
                                   struct nb_error *err);

/* A file of n bytes in it, on disk when this returns. */
enum nb_status nb_new_folder_write(const struct nb_new_folder *folder, const char *name,
                                   const void *bytes, size_t n, struct nb_error *err);

/* Likewise, a copy of the file `from`. */
enum nb_status nb_new_folder_copy(const struct nb_new_folder *folder, const char *name,
                                  const char *from, struct nb_error *err);

/* Gives the folder its name. Nothing that has come to be there in the meantime is replaced. */
enum nb_status nb_new_folder_commit(struct nb_new_folder *folder, struct nb_error *err);

/* Removes the temporary folder and what is in it; after a commit, does nothing. */
void nb_new_folder_abandon(struct nb_new_folder *folder);

/* ---- safetensors ---- */

/* A tensor to be written. */
struct nb_new_tensor {
    const char *name; /* nothing that JSON would escape */
    enum nb_dtype dtype;
    int n_dims;
    int64_t shape[2];
    size_t bytes; /* of a late one: the most it may be, until nb_shards_put_late */
    bool late;    /* one-dimensional U8 whose length is known only at the end */

    /* The writer's own. */
    size_t shard, offset; /* of the data, from the file's beginning */
    const void *late_data;
};

struct nb_shards {
    const struct nb_new_folder *folder;
    struct nb_new_tensor *tensors; /* [n], the caller's */
    size_t n;
    struct nb_arena arena;
    struct nb_new_tensor **order; /* [n] as they lie in the files */
    struct nb_shard *shards;      /* [n_shards] */
    size_t n_shards;
    uint64_t bytes; /* of all tensors, once finished */
};

/* Assigns the tensors to files of at most max_bytes of data (a longer tensor gets one of its own),
 * in order, as transformers does, and makes the files: model.safetensors, or
 * model-00001-of-00002.safetensors and so on. Disk space is asked for at once. The tensors must
 * outlive *out, which nb_shards_close frees in any case. */
enum nb_status nb_shards_open(const struct nb_new_folder *folder, struct nb_new_tensor *tensors,
                              size_t n, size_t max_bytes, struct nb_shards *out,
                              struct nb_error *err);

/* Writes n bytes of a tensor from its byte `at` on. Threads may do so at once. */
enum nb_status nb_shards_write(const struct nb_shards *shards, const struct nb_new_tensor *tensor,
                               size_t at, const void *bytes, size_t n, struct nb_error *err);

/* Sets a late tensor, of at most as many bytes as were announced; `bytes` must stay until
 * nb_shards_finish. */
void nb_shards_put_late(struct nb_new_tensor *tensor, const void *bytes, size_t n);

/* Writes late tensors, headers and, for several files, the index; all is then on disk. */
enum nb_status nb_shards_finish(struct nb_shards *shards, uint64_t parameters,
                                struct nb_error *err);

void nb_shards_close(struct nb_shards *shards); /* allowed on an all-zero struct */

/* ---- JSON ---- */

/* A number as Python writes it: the fewest digits that give the same double back. */
void nb_python_number(double x, char out[32]);

/* A value as Python's json.dumps(value, indent=2, sort_keys=True) writes it. */
void nb_python_json(const json_t *value, struct nb_buf *out);

#endif
