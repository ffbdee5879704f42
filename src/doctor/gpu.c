#include "doctor/gpu.h"

#include "base/buf.h"
#include "model/json.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

extern const unsigned char nb_data_gpus[];
extern const size_t nb_data_gpus_bytes;

int nb_cuda_version(const char *text) {
    char *end;
    long major = strtol(text, &end, 10), minor = 0;
    if (end == text || major < 1 || major > 99)
        return 0;
    if (*end == '.')
        minor = strtol(end + 1, NULL, 10);
    return minor < 0 || minor > 99 ? 0 : (int)(major * 1000 + minor * 10);
}

static enum nb_status copy_string(struct nb_arena *arena, const json_t *row, const char *key,
                                  const char *name, const char **out, struct nb_error *err) {
    const char *s = NULL;
    enum nb_status status = nb_json_string(row, key, &s, name, err);
    if (status != NB_OK)
        return status;
    if (!s)
        return nb_fail(err, NB_ERR_FORMAT, "%s: a row has no %s", name, key);
    *out = nb_arena_string(arena, s, strlen(s));
    return *out ? NB_OK : nb_fail_memory(err, strlen(s), name);
}

static enum nb_status copy_version(const json_t *row, const char *key, const char *name, int *out,
                                   struct nb_error *err) {
    const char *s = NULL;
    enum nb_status status = nb_json_string(row, key, &s, name, err);
    if (status == NB_OK && (!s || !(*out = nb_cuda_version(s))))
        status = nb_fail(err, NB_ERR_FORMAT, "%s: %s is \"%s\", expected a version such as 12.8",
                         name, key, s ? s : "");
    return status;
}

static enum nb_status read_aliases(struct nb_arena *arena, const json_t *row, const char *name,
                                   struct nb_gpu *gpu, struct nb_error *err) {
    const json_t *list = json_object_get(row, "aliases");
    size_t n = json_array_size(list);
    const char **aliases = nb_arena_alloc(arena, n, sizeof *aliases);
    if (!aliases)
        return nb_fail_memory(err, n, name);
    for (size_t i = 0; i < n; i++) {
        const char *s = json_string_value(json_array_get(list, i));
        aliases[i] = nb_arena_string(arena, s ? s : "", s ? strlen(s) : 0);
        if (!aliases[i])
            return nb_fail_memory(err, n, name);
    }
    gpu->aliases = aliases;
    gpu->n_aliases = n;
    return NB_OK;
}

static enum nb_status read_gpu(struct nb_arena *arena, const json_t *row, const char *name,
                               struct nb_gpu *gpu, struct nb_error *err) {
    int64_t capability = 0, mib = 0;
    const char *memory = "reported";
    enum nb_status s = copy_string(arena, row, "name", name, &gpu->name, err);
    if (s == NB_OK)
        s = copy_string(arena, row, "source", name, &gpu->source, err);
    if (s == NB_OK)
        s = nb_json_int(row, "capability", 10, 999, &capability, name, err);
    if (s == NB_OK)
        s = nb_json_int(row, "memory_mib", 1, 1 << 30, &mib, name, err);
    if (s == NB_OK)
        s = nb_json_string(row, "memory", &memory, name, err);
    if (s == NB_OK)
        s = nb_json_number(row, "bandwidth_gb_s", 1, 1e6, &gpu->bandwidth_bytes_s, name, err);
    if (s == NB_OK && (!capability || !mib || gpu->bandwidth_bytes_s <= 0))
        s = nb_fail(err, NB_ERR_FORMAT,
                    "%s: %s lacks one of capability, memory_mib and bandwidth_gb_s", name,
                    gpu->name);
    gpu->capability = (int)capability;
    gpu->memory_bytes = (uint64_t)mib << 20;
    gpu->nominal = strcmp(memory, "nominal") == 0;
    gpu->bandwidth_bytes_s *= 1e9;
    return s == NB_OK ? read_aliases(arena, row, name, gpu, err) : s;
}

static enum nb_status read_architecture(struct nb_arena *arena, const json_t *row, const char *name,
                                        struct nb_gpu_architecture *a, struct nb_error *err) {
    int64_t capability = 0;
    enum nb_status s = nb_json_int(row, "capability", 10, 999, &capability, name, err);
    a->capability = (int)capability;
    if (s == NB_OK)
        s = copy_string(arena, row, "name", name, &a->name, err);
    if (s == NB_OK)
        s = copy_string(arena, row, "driver", name, &a->first_driver, err);
    if (s == NB_OK)
        s = copy_string(arena, row, "source", name, &a->source, err);
    return s == NB_OK ? copy_version(row, "cuda", name, &a->first_cuda, err) : s;
}

static enum nb_status read_driver(struct nb_arena *arena, const json_t *row, const char *name,
                                  struct nb_cuda_driver *d, struct nb_error *err) {
    enum nb_status s = copy_version(row, "cuda", name, &d->cuda, err);
    if (s == NB_OK)
        s = copy_string(arena, row, "driver", name, &d->driver, err);
    return s == NB_OK ? copy_string(arena, row, "minimum", name, &d->minimum, err) : s;
}

static enum nb_status read_table(const json_t *root, const char *name, struct nb_gpu_table *t,
                                 struct nb_error *err) {
    const json_t *gpus = json_object_get(root, "gpus"), *row;
    const json_t *architectures = json_object_get(root, "architectures");
    const json_t *drivers = json_object_get(root, "cuda_drivers");
    t->gpus = nb_arena_alloc(&t->arena, json_array_size(gpus), sizeof *t->gpus);
    t->architectures =
        nb_arena_alloc(&t->arena, json_array_size(architectures), sizeof *t->architectures);
    t->drivers = nb_arena_alloc(&t->arena, json_array_size(drivers), sizeof *t->drivers);
    if (!t->gpus || !t->architectures || !t->drivers)
        return nb_fail_memory(err, json_array_size(gpus) * sizeof *t->gpus, name);
    size_t i;
    enum nb_status s = NB_OK;
    json_array_foreach(gpus, i, row) {
        if (s == NB_OK)
            s = read_gpu(&t->arena, row, name, &t->gpus[t->n_gpus++], err);
    }
    json_array_foreach(architectures, i, row) {
        if (s == NB_OK)
            s = read_architecture(&t->arena, row, name, &t->architectures[t->n_architectures++],
                                  err);
    }
    json_array_foreach(drivers, i, row) {
        if (s == NB_OK)
            s = read_driver(&t->arena, row, name, &t->drivers[t->n_drivers++], err);
    }
    return s;
}

enum nb_status nb_gpu_table_parse(const char *text, size_t n, const char *name,
                                  struct nb_gpu_table *out, struct nb_error *err) {
    *out = (struct nb_gpu_table){0};
    json_t *root;
    enum nb_status s = nb_json_parse(text, n, name, &root, err);
    if (s != NB_OK)
        return s;
    s = read_table(root, name, out, err);
    json_decref(root);
    if (s != NB_OK)
        nb_gpu_table_free(out);
    return s;
}

enum nb_status nb_gpu_table_open(struct nb_gpu_table *out, struct nb_error *err) {
    return nb_gpu_table_parse((const char *)nb_data_gpus, nb_data_gpus_bytes, "gpus.json", out,
                              err);
}

void nb_gpu_table_free(struct nb_gpu_table *table) {
    nb_arena_free(&table->arena);
    *table = (struct nb_gpu_table){0};
}

/* A name without what does not tell GPUs apart: "NVIDIA GeForce RTX 5090" is "rtx5090". */
static void simplify(const char *name, char *out, size_t size) {
    static const char *const drop[] = {"nvidia", "geforce", "tesla", "graphics", "generation"};
    size_t n = 0;
    while (*name && n + 1 < size) {
        size_t skip = 0;
        for (size_t i = 0; i < sizeof drop / sizeof *drop; i++) {
            if (strncasecmp(name, drop[i], strlen(drop[i])) == 0)
                skip = strlen(drop[i]);
        }
        if (!skip && isalnum((unsigned char)*name))
            out[n++] = (char)tolower((unsigned char)*name);
        name += skip ? skip : 1;
    }
    out[n] = 0;
}

static bool is_called(const struct nb_gpu *gpu, const char *simple) {
    char name[128];
    simplify(gpu->name, name, sizeof name);
    if (strcmp(name, simple) == 0)
        return true;
    /* "5090" is enough for "RTX 5090". */
    if (strncmp(name, "rtx", 3) == 0 && strcmp(name + 3, simple) == 0)
        return true;
    for (size_t i = 0; i < gpu->n_aliases; i++) {
        simplify(gpu->aliases[i], name, sizeof name);
        if (strcmp(name, simple) == 0)
            return true;
    }
    return false;
}

enum nb_status nb_gpu_find(const struct nb_gpu_table *table, const char *name,
                           const struct nb_gpu **out, struct nb_error *err) {
    char simple[128], other[128];
    simplify(name, simple, sizeof simple);
    *out = NULL;
    for (size_t i = 0; i < table->n_gpus && !*out; i++) {
        if (is_called(&table->gpus[i], simple))
            *out = &table->gpus[i];
    }
    if (*out)
        return NB_OK;
    struct nb_buf near = {0};
    for (size_t i = 0; i < table->n_gpus && near.len < 400; i++) {
        simplify(table->gpus[i].name, other, sizeof other);
        if (simple[0] && (strstr(other, simple) || strstr(simple, other)))
            nb_buf_printf(&near, "%s\"%s\"", near.len ? ", " : "", table->gpus[i].name);
    }
    enum nb_status s = nb_fail(err, NB_ERR_ARGUMENT,
                               "no GPU \"%s\" in the table%s%s; nibble doctor --list-gpus has all",
                               name, near.len ? ", but " : "", near.data ? near.data : "");
    nb_buf_free(&near);
    return s;
}

const struct nb_gpu_architecture *nb_gpu_architecture(const struct nb_gpu_table *table,
                                                      int capability) {
    for (size_t i = 0; i < table->n_architectures; i++) {
        if (table->architectures[i].capability == capability)
            return &table->architectures[i];
    }
    return NULL;
}

const struct nb_cuda_driver *nb_cuda_driver(const struct nb_gpu_table *table, int cuda) {
    const struct nb_cuda_driver *best = NULL;
    for (size_t i = 0; i < table->n_drivers; i++) {
        const struct nb_cuda_driver *d = &table->drivers[i];
        if (d->cuda / 1000 == cuda / 1000 && d->cuda <= cuda && (!best || d->cuda > best->cuda))
            best = d;
    }
    return best;
}
