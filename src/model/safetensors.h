/* Tensors of a checkpoint, mapped from safetensors files: one file, or shards with an index.
 *
 * The format (huggingface/safetensors): 8 bytes, the length of the header, little-endian; the
 * header, a JSON object of {"name": {"dtype", "shape", "data_offsets": [begin, end)}}, offsets from
 * the header's end; the data, which the tensors cover without holes or overlaps.
 */
#ifndef NB_MODEL_SAFETENSORS_H
#define NB_MODEL_SAFETENSORS_H

#include "base/arena.h"
#include "base/error.h"
#include "base/file.h"

#include <stddef.h>
#include <stdint.h>

enum nb_dtype {
    NB_DTYPE_F64,
    NB_DTYPE_F32,
    NB_DTYPE_F16,
    NB_DTYPE_BF16,
    NB_DTYPE_I64,
    NB_DTYPE_I32,
    NB_DTYPE_I16,
    NB_DTYPE_I8,
    NB_DTYPE_U64,
    NB_DTYPE_U32,
    NB_DTYPE_U16,
    NB_DTYPE_U8,
    NB_DTYPE_BOOL,
    NB_DTYPE_F8_E4M3,
    NB_DTYPE_F8_E5M2,
};

enum { NB_MAX_DIMS = 8 };

struct nb_tensor {
    const char *name;
    enum nb_dtype dtype;
    int n_dims;
    int64_t shape[NB_MAX_DIMS];
    const uint8_t *data; /* in the mapped file, and aligned for its dtype only by luck */
    size_t bytes;
    const char *file; /* the path it came from, for messages */
};

struct nb_tensors {
    struct nb_arena arena; /* names, paths and the two arrays below */
    struct nb_map *maps;   /* [n_files] */
    size_t n_files;
    struct nb_tensor *tensors; /* [n], in order of their names */
    size_t n, cap;
    size_t bytes; /* of all tensors' data */
};

/* Maps a single file. */
enum nb_status nb_tensors_open_file(const char *path, struct nb_tensors *out, struct nb_error *err);

/* Maps the checkpoint in a folder: model.safetensors, or the shards that
 * model.safetensors.index.json names. */
enum nb_status nb_tensors_open(const char *folder, struct nb_tensors *out, struct nb_error *err);

/* Unmaps; every nb_tensor's data is gone. Allowed on an all-zero struct. */
void nb_tensors_close(struct nb_tensors *tensors);

/* NULL if there is none of that name. */
const struct nb_tensor *nb_tensors_find(const struct nb_tensors *tensors, const char *name);

const char *nb_dtype_name(enum nb_dtype dtype); /* as safetensors writes it: "BF16" */
size_t nb_dtype_bytes(enum nb_dtype dtype);

/* "[4096, 14336]" into out[0..size), cut short if it does not fit. Returns out. */
const char *nb_shape_text(const struct nb_tensor *tensor, char *out, size_t size);

#endif
