#include "model/safetensors.h"

#include "base/checked.h"
#include "model/json.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* The reference implementation refuses longer headers, too. */
static const size_t MAX_HEADER_BYTES = 100 * 1000 * 1000;
static const size_t MAX_INDEX_BYTES = 100 * 1000 * 1000;
enum { MAX_SHARDS = 10000 };

static const struct {
    const char *name;
    size_t bytes;
} dtypes[] = {
    [NB_DTYPE_F64] = {"F64", 8},         [NB_DTYPE_F32] = {"F32", 4},
    [NB_DTYPE_F16] = {"F16", 2},         [NB_DTYPE_BF16] = {"BF16", 2},
    [NB_DTYPE_I64] = {"I64", 8},         [NB_DTYPE_I32] = {"I32", 4},
    [NB_DTYPE_I16] = {"I16", 2},         [NB_DTYPE_I8] = {"I8", 1},
    [NB_DTYPE_U64] = {"U64", 8},         [NB_DTYPE_U32] = {"U32", 4},
    [NB_DTYPE_U16] = {"U16", 2},         [NB_DTYPE_U8] = {"U8", 1},
    [NB_DTYPE_BOOL] = {"BOOL", 1},       [NB_DTYPE_F8_E4M3] = {"F8_E4M3", 1},
    [NB_DTYPE_F8_E5M2] = {"F8_E5M2", 1},
};

const char *nb_dtype_name(enum nb_dtype dtype) {
    return dtypes[dtype].name;
}

size_t nb_dtype_bytes(enum nb_dtype dtype) {
    return dtypes[dtype].bytes;
}

const char *nb_shape_text(const struct nb_tensor *tensor, char *out, size_t size) {
    size_t used = (size_t)snprintf(out, size, "[");
    for (int i = 0; i < tensor->n_dims && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%" PRId64, i ? ", " : "",
                                 tensor->shape[i]);
    if (used < size)
        snprintf(out + used, size - used, "]");
    return out;
}

/* Where a tensor's entry in the header is, for messages. */
struct entry {
    const char *path, *name;
    struct nb_error *err;
};

static enum nb_status read_dtype(const struct entry *e, const json_t *value, enum nb_dtype *out) {
    const char *text = json_string_value(value);
    for (size_t i = 0; text && i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(dtypes[i].name, text) == 0) {
            *out = (enum nb_dtype)i;
            return NB_OK;
        }
    }
    return nb_fail(e->err, text ? NB_ERR_UNSUPPORTED : NB_ERR_FORMAT,
                   "%s: tensor %s: dtype is %s%.32s, expected one such as \"BF16\"", e->path,
                   e->name, text ? "" : nb_json_type(value), text ? text : "");
}

/* Shape and offsets to a view into data[0..data_bytes), everything checked. */
static enum nb_status read_extent(const struct entry *e, const json_t *object, const uint8_t *data,
                                  size_t data_bytes, struct nb_tensor *t) {
    const json_t *shape = json_object_get(object, "shape");
    if (!json_is_array(shape))
        return nb_fail(e->err, NB_ERR_FORMAT, "%s: tensor %s: shape is %s, expected an array",
                       e->path, e->name, nb_json_type(shape));
    if (json_array_size(shape) > NB_MAX_DIMS)
        return nb_fail(e->err, NB_ERR_UNSUPPORTED,
                       "%s: tensor %s: shape has %zu dimensions, at most %d are read", e->path,
                       e->name, json_array_size(shape), NB_MAX_DIMS);
    t->n_dims = (int)json_array_size(shape);
    size_t bytes = nb_dtype_bytes(t->dtype);
    for (int i = 0; i < t->n_dims; i++) {
        const json_t *v = json_array_get(shape, (size_t)i);
        t->shape[i] = json_integer_value(v);
        if (!json_is_integer(v) || t->shape[i] < 0)
            return nb_fail(e->err, NB_ERR_FORMAT,
                           "%s: tensor %s: shape[%d] is not a size of 0 or more", e->path, e->name,
                           i);
        if (!nb_mul_size(bytes, (size_t)t->shape[i], &bytes))
            return nb_fail(e->err, NB_ERR_FORMAT, "%s: tensor %s: the shape's size overflows",
                           e->path, e->name);
    }
    const json_t *offsets = json_object_get(object, "data_offsets");
    const json_t *begin = json_array_get(offsets, 0), *end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return nb_fail(e->err, NB_ERR_FORMAT,
                       "%s: tensor %s: data_offsets is %s, expected [begin, end]", e->path, e->name,
                       nb_json_type(offsets));
    json_int_t b = json_integer_value(begin), n = json_integer_value(end);
    if (b < 0 || n < b || (uint64_t)n > data_bytes)
        return nb_fail(e->err, NB_ERR_FORMAT,
                       "%s: tensor %s: data_offsets [%lld, %lld] do not lie within the file's %zu "
                       "bytes of data; the file may be cut short: download it again",
                       e->path, e->name, (long long)b, (long long)n, data_bytes);
    if ((size_t)(n - b) != bytes) {
        char text[160];
        return nb_fail(e->err, NB_ERR_FORMAT,
                       "%s: tensor %s: data_offsets span %lld bytes, but %s %s takes %zu", e->path,
                       e->name, (long long)(n - b), nb_dtype_name(t->dtype),
                       nb_shape_text(t, text, sizeof text), bytes);
    }
    t->data = data + b;
    t->bytes = bytes;
    return NB_OK;
}

static int by_data(const void *a, const void *b) {
    const struct nb_tensor *x = *(const struct nb_tensor *const *)a,
                           *y = *(const struct nb_tensor *const *)b;
    if (x->data != y->data)
        return x->data < y->data ? -1 : 1;
    /* An empty tensor stands before the one that begins where it does. */
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* That n tensors cover data[0..bytes) exactly once. */
static enum nb_status check_cover(struct nb_tensor *tensors, size_t n, const uint8_t *data,
                                  size_t bytes, const char *path, struct nb_error *err) {
    const struct nb_tensor **order = calloc(n ? n : 1, sizeof(struct nb_tensor *));
    if (!order)
        return nb_fail_memory(err, n * sizeof *order, path);
    for (size_t i = 0; i < n; i++)
        order[i] = &tensors[i];
    qsort(order, n, sizeof *order, by_data);
    enum nb_status s = NB_OK;
    size_t at = 0;
    for (size_t i = 0; i < n && s == NB_OK; i++) {
        size_t begin = (size_t)(order[i]->data - data);
        if (begin < at)
            s = nb_fail(err, NB_ERR_FORMAT, "%s: tensors %s and %s overlap", path,
                        order[i - 1]->name, order[i]->name);
        else if (begin > at)
            s = nb_fail(err, NB_ERR_FORMAT,
                        "%s: bytes %zu to %zu of the data belong to no tensor (before %s)", path,
                        at, begin, order[i]->name);
        at = begin + order[i]->bytes;
    }
    if (s == NB_OK && at != bytes)
        s = nb_fail(err, NB_ERR_FORMAT, "%s: the tensors end at byte %zu of the data's %zu", path,
                    at, bytes);
    free(order);
    return s;
}

/* The header's bytes: checks the length in front of it. */
static enum nb_status find_header(const struct nb_map *map, const char *path, size_t *header_bytes,
                                  struct nb_error *err) {
    if (map->size < 8)
        return nb_fail(err, NB_ERR_FORMAT,
                       "%s: %zu bytes, too short for a safetensors file: download it again", path,
                       map->size);
    uint64_t n = 0;
    for (int i = 7; i >= 0; i--)
        n = n << 8 | map->data[i];
    if (n > MAX_HEADER_BYTES || n > map->size - 8) {
        static const char pointer[] = "version https://git-lfs";
        if (map->size >= sizeof pointer && memcmp(map->data, pointer, sizeof pointer - 1) == 0)
            return nb_fail(
                err, NB_ERR_FORMAT,
                "%s: is Git LFS's pointer to the file, not the file: run git lfs pull in "
                "its folder, or fetch the checkpoint with hf download",
                path);
        if (map->data[0] == '<')
            return nb_fail(err, NB_ERR_FORMAT,
                           "%s: begins with \"<\", perhaps a web page that was saved in place of "
                           "the file for want of access; fetch the checkpoint with hf download",
                           path);
        return nb_fail(err, NB_ERR_FORMAT,
                       "%s: header of %" PRIu64 " bytes in a file of %zu; the file is cut short or "
                       "is no safetensors file: download it again",
                       path, n, map->size);
    }
    *header_bytes = (size_t)n;
    return NB_OK;
}

/* The tensors of one mapped file, appended to out->tensors, which has room for them. */
static enum nb_status add_tensors(struct nb_tensors *out, const json_t *header, const char *path,
                                  const uint8_t *data, size_t data_bytes, struct nb_error *err) {
    size_t first = out->n;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)header, key, value) {
        if (strcmp(key, "__metadata__") == 0)
            continue;
        struct entry e = {path, key, err};
        struct nb_tensor *t = &out->tensors[out->n];
        if (!json_is_object(value))
            return nb_fail(err, NB_ERR_FORMAT, "%s: tensor %s: found %s, expected an object", path,
                           key, nb_json_type(value));
        enum nb_status s = read_dtype(&e, json_object_get(value, "dtype"), &t->dtype);
        if (s == NB_OK)
            s = read_extent(&e, value, data, data_bytes, t);
        if (s != NB_OK)
            return s;
        t->name = nb_arena_string(&out->arena, key, strlen(key));
        t->file = path;
        if (!t->name)
            return nb_fail_memory(err, strlen(key), path);
        out->bytes += t->bytes;
        out->n++;
    }
    return check_cover(first ? out->tensors + first : out->tensors, out->n - first, data,
                       data_bytes, path, err);
}

/* Room for n tensors. Doubling keeps what earlier arrays leave in the arena below what is used. */
static enum nb_status reserve(struct nb_tensors *out, size_t n, const char *path,
                              struct nb_error *err) {
    if (n <= out->cap)
        return NB_OK;
    if (n < out->cap * 2)
        n = out->cap * 2;
    struct nb_tensor *grown = nb_arena_alloc(&out->arena, n, sizeof *grown);
    if (!grown)
        return nb_fail_memory(err, n * sizeof *grown, path);
    if (out->n)
        memcpy(grown, out->tensors, out->n * sizeof *grown);
    out->tensors = grown;
    out->cap = n;
    return NB_OK;
}

/* Maps the file and appends its tensors. `path` lives in out->arena. */
static enum nb_status add_file(struct nb_tensors *out, const char *path, struct nb_error *err) {
    struct nb_map *map = &out->maps[out->n_files];
    enum nb_status s = nb_map_open(path, map, err);
    if (s != NB_OK)
        return s;
    out->n_files++;
    size_t header_bytes = 0;
    s = find_header(map, path, &header_bytes, err);
    if (s != NB_OK)
        return s;
    char name[PATH_MAX + 32];
    snprintf(name, sizeof name, "%s: header", path);
    json_t *header;
    s = nb_json_parse((const char *)map->data + 8, header_bytes, name, &header, err);
    if (s != NB_OK)
        return s;
    s = reserve(out, out->n + json_object_size(header), path, err);
    if (s == NB_OK)
        s = add_tensors(out, header, path, map->data + 8 + header_bytes,
                        map->size - 8 - header_bytes, err);
    json_decref(header);
    return s;
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct nb_tensor *)a)->name, ((const struct nb_tensor *)b)->name);
}

/* Puts the tensors in order; two of one name are an error. */
static enum nb_status sort_tensors(struct nb_tensors *t, struct nb_error *err) {
    if (t->n)
        qsort(t->tensors, t->n, sizeof *t->tensors, by_name);
    for (size_t i = 1; i < t->n; i++) {
        if (by_name(&t->tensors[i - 1], &t->tensors[i]) == 0)
            return nb_fail(err, NB_ERR_FORMAT, "tensor %s is in both %s and %s", t->tensors[i].name,
                           t->tensors[i - 1].file, t->tensors[i].file);
    }
    return NB_OK;
}

const struct nb_tensor *nb_tensors_find(const struct nb_tensors *tensors, const char *name) {
    if (!tensors->n)
        return NULL;
    struct nb_tensor key = {.name = name};
    return bsearch(&key, tensors->tensors, tensors->n, sizeof key, by_name);
}

static enum nb_status start(struct nb_tensors *out, size_t n_files, const char *path,
                            struct nb_error *err) {
    out->maps = nb_arena_alloc(&out->arena, n_files, sizeof *out->maps);
    return out->maps ? NB_OK : nb_fail_memory(err, n_files * sizeof *out->maps, path);
}

/* folder/name in the arena. */
static enum nb_status join(struct nb_tensors *out, const char *folder, const char *name,
                           const char **path, struct nb_error *err) {
    char text[PATH_MAX];
    if (!nb_path_join(text, sizeof text, folder, name))
        return nb_fail(err, NB_ERR_ARGUMENT, "%s/%s: path too long", folder, name);
    *path = nb_arena_string(&out->arena, text, strlen(text));
    return *path ? NB_OK : nb_fail_memory(err, strlen(text), folder);
}

/* Each name of the index must be in the shard that the index says. */
static enum nb_status check_index(const struct nb_tensors *out, const json_t *weight_map,
                                  const char *index, struct nb_error *err) {
    const char *name;
    json_t *shard;
    json_object_foreach((json_t *)weight_map, name, shard) {
        const struct nb_tensor *t = nb_tensors_find(out, name);
        const char *file = t ? strrchr(t->file, '/') : NULL;
        if (!t || strcmp(file ? file + 1 : t->file, json_string_value(shard)) != 0)
            return nb_fail(err, NB_ERR_FORMAT, "%s: weight_map has %s in %s, which is not there",
                           index, name, json_string_value(shard));
    }
    return NB_OK;
}

/* An error if a file of the set `names` is not there, which is how half a download looks. */
static enum nb_status find_shards(const char *folder, json_t *names, struct nb_error *err) {
    char path[PATH_MAX], first[PATH_MAX] = "";
    const char *name;
    json_t *value;
    size_t missing = 0;
    json_object_foreach(names, name, value) {
        struct stat st;
        if (!nb_path_join(path, sizeof path, folder, name) || stat(path, &st) == 0 ||
            errno != ENOENT)
            continue;
        if (missing++ == 0)
            snprintf(first, sizeof first, "%s", path);
    }
    if (!missing)
        return NB_OK;
    return nb_fail(err, NB_ERR_IO,
                   "%s: cannot open: no such file; of the %zu files that "
                   "model.safetensors.index.json names, %zu are missing: a download did not "
                   "finish; hf download fetches the rest",
                   first, json_object_size(names), missing);
}

/* Maps every file that weight_map names, once. */
static enum nb_status add_shards(struct nb_tensors *out, const char *folder, const char *index,
                                 const json_t *weight_map, struct nb_error *err) {
    if (json_object_size(weight_map) == 0)
        return nb_fail(err, NB_ERR_FORMAT, "%s: weight_map is %s, expected tensor names and files",
                       index, json_is_object(weight_map) ? "empty" : nb_json_type(weight_map));
    json_t *seen = json_object(); /* a set of file names */
    if (!seen)
        return nb_fail_memory(err, 64, index);
    enum nb_status s = NB_OK;
    const char *name;
    json_t *shard;
    json_object_foreach((json_t *)weight_map, name, shard) {
        const char *file = json_string_value(shard);
        if (!file || !*file || strchr(file, '/') || strcmp(file, ".") == 0 ||
            strcmp(file, "..") == 0) {
            s = nb_fail(err, NB_ERR_FORMAT,
                        "%s: weight_map of %s is %s, expected the name of a file in this folder",
                        index, name, file ? file : nb_json_type(shard));
            break;
        }
        if (json_object_set_new_nocheck(seen, file, json_true()) != 0) {
            s = nb_fail_memory(err, 64, index);
            break;
        }
    }
    if (s == NB_OK && json_object_size(seen) > MAX_SHARDS)
        s = nb_fail(err, NB_ERR_LIMIT, "%s: names %zu files, at most %d are read", index,
                    json_object_size(seen), MAX_SHARDS);
    if (s == NB_OK)
        s = start(out, json_object_size(seen), index, err);
    if (s == NB_OK)
        s = find_shards(folder, seen, err);
    json_object_foreach(seen, name, shard) {
        const char *path = NULL;
        if (s == NB_OK)
            s = join(out, folder, name, &path, err);
        if (s == NB_OK)
            s = add_file(out, path, err);
    }
    json_decref(seen);
    if (s == NB_OK)
        s = sort_tensors(out, err);
    return s == NB_OK ? check_index(out, weight_map, index, err) : s;
}

enum nb_status nb_tensors_open_file(const char *path, struct nb_tensors *out,
                                    struct nb_error *err) {
    *out = (struct nb_tensors){0};
    enum nb_status s = start(out, 1, path, err);
    const char *copy = s == NB_OK ? nb_arena_string(&out->arena, path, strlen(path)) : NULL;
    if (s == NB_OK && !copy)
        s = nb_fail_memory(err, strlen(path), path);
    if (s == NB_OK)
        s = add_file(out, copy, err);
    if (s == NB_OK)
        s = sort_tensors(out, err);
    if (s != NB_OK)
        nb_tensors_close(out);
    return s;
}

/* The name of a *.gguf in the folder. */
static bool find_gguf(const char *folder, char *name, size_t size) {
    DIR *dir = opendir(folder);
    bool found = false;
    for (struct dirent *e; dir && !found && (e = readdir(dir));) {
        size_t n = strlen(e->d_name);
        found = n > 5 && strcmp(e->d_name + n - 5, ".gguf") == 0 &&
                snprintf(name, size, "%s", e->d_name) < (int)size;
    }
    if (dir)
        closedir(dir);
    return found;
}

/* What the folder has instead of safetensors, to say what to do. */
static enum nb_status no_tensors(const char *folder, struct nb_error *err) {
    char path[PATH_MAX];
    static const char *const pickles[] = {"pytorch_model.bin", "pytorch_model.bin.index.json"};
    for (size_t i = 0; i < 2; i++) {
        if (nb_path_join(path, sizeof path, folder, pickles[i]) && nb_is_file(path))
            return nb_fail(err, NB_ERR_UNSUPPORTED,
                           "%s: has %s but no model.safetensors; nibble reads safetensors only: "
                           "save the model with save_pretrained(safe_serialization=True)",
                           folder, pickles[i]);
    }
    if (find_gguf(folder, path, sizeof path))
        return nb_fail(
            err, NB_ERR_UNSUPPORTED,
            "%s: has %.200s but no model.safetensors; nibble reads safetensors only: take "
            "the checkpoint that the GGUF was made from",
            folder, path);
    return nb_fail(
        err, NB_ERR_IO,
        "%s: has neither model.safetensors nor model.safetensors.index.json: the weights "
        "were not fetched, or not to the end; hf download fetches what is missing (a "
        "gated repository's after its terms are accepted and hf auth login)",
        folder);
}

enum nb_status nb_tensors_open(const char *folder, struct nb_tensors *out, struct nb_error *err) {
    *out = (struct nb_tensors){0};
    char path[PATH_MAX];
    if (!nb_path_join(path, sizeof path, folder, "model.safetensors"))
        return nb_fail(err, NB_ERR_ARGUMENT, "%s: path too long", folder);
    if (nb_is_file(path))
        return nb_tensors_open_file(path, out, err);
    if (!nb_path_join(path, sizeof path, folder, "model.safetensors.index.json"))
        return nb_fail(err, NB_ERR_ARGUMENT, "%s: path too long", folder);
    if (!nb_is_file(path))
        return no_tensors(folder, err);
    json_t *index;
    enum nb_status s = nb_json_read(path, MAX_INDEX_BYTES, &index, err);
    if (s != NB_OK)
        return s;
    s = add_shards(out, folder, path, json_object_get(index, "weight_map"), err);
    json_decref(index);
    if (s != NB_OK)
        nb_tensors_close(out);
    return s;
}

void nb_tensors_close(struct nb_tensors *tensors) {
    for (size_t i = 0; i < tensors->n_files; i++)
        nb_map_close(&tensors->maps[i]);
    nb_arena_free(&tensors->arena);
    *tensors = (struct nb_tensors){0};
}
