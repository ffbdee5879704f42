#include "model/convert.h"

#include "model/json.h"
#include "model/writer.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    COPY_BYTES = 8 << 20,  /* of a tensor that is copied, at a time */
    MAX_STATE_BYTES = 256, /* of quant_state */
    MAX_CONFIG_BYTES = 16 << 20,
};
static const size_t MAX_FILE_BYTES = 5000000000; /* transformers' max_shard_size */

/* The parts of a quantized weight, in the order of bitsandbytes' state_dict. */
enum part { CODES, ABSMAX, MAP, NESTED_ABSMAX, NESTED_MAP, STATE, N_PARTS };

/* A weight and its tensors: parts [part] where it is quantized, otherwise just the first. */
struct item {
    const struct nb_weight *weight;
    bool quantized;
    struct nb_new_tensor *tensors[N_PARTS]; /* NULL: there is none */
    const void *data;                       /* of what is copied */
    size_t bytes;                           /* of the source */
};

/* A conversion under way. */
struct job {
    const char *source;
    const struct nb_convert_options *options;
    struct nb_pool *pool;
    struct nb_error *err;
    struct nb_model model;
    struct nb_arena arena;
    struct item *items;
    size_t n_items;
    struct nb_new_tensor *tensors;
    size_t n_tensors;
    struct nb_new_folder folder;
    struct nb_shards shards;
    struct nb_quantized scratch; /* for the largest matrix */
    float nested_values[256];
    uint64_t done, total; /* bytes read */
};

/* ---- what is written ---- */

static enum nb_dtype dtype_of(enum nb_weight_type type) {
    static const enum nb_dtype dtypes[] = {NB_DTYPE_F32, NB_DTYPE_F16, NB_DTYPE_BF16};
    return dtypes[type];
}

/* torch's name of a type. */
static const char *torch_name(enum nb_weight_type type) {
    static const char *const names[] = {"float32", "float16", "bfloat16"};
    return names[type];
}

/* A new tensor called name + suffix, [rows] or [rows, columns] with columns not 0. */
static struct nb_new_tensor *add_tensor(struct job *j, const char *name, const char *suffix,
                                        enum nb_dtype dtype, size_t rows, size_t columns) {
    struct nb_new_tensor *t = &j->tensors[j->n_tensors];
    size_t n = strlen(name), m = strlen(suffix);
    char *text = nb_arena_alloc(&j->arena, n + m + 1, 1);
    if (!text)
        return NULL;
    memcpy(text, name, n);
    memcpy(text + n, suffix, m + 1);
    *t = (struct nb_new_tensor){.name = text,
                                .dtype = dtype,
                                .n_dims = columns ? 2 : 1,
                                .shape = {(int64_t)rows, (int64_t)columns},
                                .bytes = rows * (columns ? columns : 1) * nb_dtype_bytes(dtype)};
    j->n_tensors++;
    return t;
}

static bool plan_copied(struct job *j, struct item *item) {
    const struct nb_matrix *m = item->weight->matrix;
    const struct nb_vector *v = item->weight->vector;
    size_t rows = (size_t)(m ? m->rows : v->n), columns = m ? (size_t)m->columns : 0;
    item->data = m ? m->data : v->data;
    item->tensors[0] =
        add_tensor(j, item->weight->name, "", dtype_of(m ? m->type : v->type), rows, columns);
    if (item->tensors[0])
        item->bytes = item->tensors[0]->bytes;
    return item->tensors[0] != NULL;
}

static bool plan_quantized(struct job *j, struct item *item) {
    const struct nb_quantize_options *how = &j->options->how;
    const struct nb_matrix *m = item->weight->matrix;
    const char *name = item->weight->name;
    size_t n = (size_t)m->rows * (size_t)m->columns, blocks = nb_quant_blocks(n, how->block);
    struct nb_new_tensor **t = item->tensors;
    item->bytes = (size_t)nb_matrix_bytes(m);
    bool ok = (t[CODES] = add_tensor(j, name, "", NB_DTYPE_U8, nb_quant_code_bytes(n), 1)) &&
              (t[ABSMAX] = add_tensor(j, name, ".absmax", how->nested ? NB_DTYPE_U8 : NB_DTYPE_F32,
                                      blocks, 0)) &&
              (t[MAP] = add_tensor(j, name, ".quant_map", NB_DTYPE_F32, 16, 0));
    if (ok && how->nested)
        ok = (t[NESTED_ABSMAX] =
                  add_tensor(j, name, ".nested_absmax", NB_DTYPE_F32,
                             nb_quant_nested_blocks(n, how->block, NB_NESTED_BLOCK), 0)) &&
             (t[NESTED_MAP] = add_tensor(j, name, ".nested_quant_map", NB_DTYPE_F32, 256, 0));
    char suffix[64];
    snprintf(suffix, sizeof suffix, ".quant_state.bitsandbytes__%s", nb_quant_type_name(how->type));
    ok = ok && (t[STATE] = add_tensor(j, name, suffix, NB_DTYPE_U8, MAX_STATE_BYTES, 0));
    if (ok)
        t[STATE]->late = true;
    return ok;
}

/* That every --skip names a linear layer. */
static enum nb_status check_skip(const struct job *j, const struct nb_weight *weights, size_t n) {
    const struct nb_quantize_options *how = &j->options->how;
    for (size_t i = 0; i < how->n_skip; i++) {
        struct nb_quantize_options one = *how;
        one.skip = &how->skip[i];
        one.n_skip = 1;
        bool found = false;
        for (size_t k = 0; k < n && !found; k++)
            found = weights[k].linear && !nb_weight_quantizes(&weights[k], &one);
        if (!found && strcmp(how->skip[i], "lm_head") != 0)
            return nb_fail(j->err, NB_ERR_ARGUMENT,
                           "%s: has no linear layer that \"%.64s\" would skip; expected a module's "
                           "name such as \"%.*s\", or the last part of one",
                           j->source, how->skip[i], (int)strlen(weights[1].name) - 7,
                           weights[1].name);
    }
    return NB_OK;
}

static enum nb_status make_plan(struct job *j) {
    struct nb_weight *weights;
    enum nb_status s = nb_model_weights(&j->model, &j->arena, &weights, &j->n_items, j->err);
    if (s == NB_OK)
        s = check_skip(j, weights, j->n_items);
    if (s != NB_OK)
        return s;
    j->items = nb_arena_alloc(&j->arena, j->n_items, sizeof *j->items);
    j->tensors = nb_arena_alloc(&j->arena, j->n_items * N_PARTS, sizeof *j->tensors);
    bool ok = j->items && j->tensors;
    for (size_t i = 0; i < j->n_items && ok; i++) {
        struct item *item = &j->items[i];
        item->weight = &weights[i];
        item->quantized = nb_weight_quantizes(&weights[i], &j->options->how);
        ok = item->quantized ? plan_quantized(j, item) : plan_copied(j, item);
        j->total += item->bytes;
    }
    return ok ? NB_OK
              : nb_fail_memory(j->err, j->n_items * N_PARTS * sizeof *j->tensors, j->source);
}

/* Room for the largest quantized matrix. */
static enum nb_status make_scratch(struct job *j) {
    size_t codes = 0, blocks = 0;
    for (size_t i = 0; i < j->n_items; i++) {
        const struct nb_matrix *m = j->items[i].weight->matrix;
        if (!j->items[i].quantized)
            continue;
        size_t n = (size_t)m->rows * (size_t)m->columns;
        codes = nb_quant_code_bytes(n) > codes ? nb_quant_code_bytes(n) : codes;
        n = nb_quant_blocks(n, j->options->how.block);
        blocks = n > blocks ? n : blocks;
    }
    j->scratch.codes = nb_arena_alloc(&j->arena, codes, 1);
    j->scratch.absmax = nb_arena_alloc(&j->arena, blocks, sizeof *j->scratch.absmax);
    j->scratch.absmax_code = nb_arena_alloc(&j->arena, blocks, 1);
    j->scratch.nested_absmax =
        nb_arena_alloc(&j->arena, blocks / NB_NESTED_BLOCK + 1, sizeof *j->scratch.nested_absmax);
    if (!j->scratch.codes || !j->scratch.absmax || !j->scratch.absmax_code ||
        !j->scratch.nested_absmax)
        return nb_fail_memory(j->err, codes + blocks * 6, j->source);
    nb_dynamic_values(j->nested_values);
    return NB_OK;
}

/* ---- writing it ---- */

static enum nb_status read_so_far(struct job *j, size_t bytes) {
    j->done += bytes;
    const struct nb_convert_options *o = j->options;
    if (o->progress && !o->progress(o->progress_context, j->done, j->total))
        return nb_fail(j->err, NB_ERR_STOPPED, "%s: stopped; nothing is left behind",
                       j->folder.target);
    return NB_OK;
}

static enum nb_status copy(struct job *j, const struct item *item) {
    enum nb_status s = NB_OK;
    for (size_t at = 0; at < item->bytes && s == NB_OK; at += COPY_BYTES) {
        size_t n = item->bytes - at < COPY_BYTES ? item->bytes - at : COPY_BYTES;
        const char *from = (const char *)item->data + at;
        if (item->weight->mapped && item->bytes - at > 3 * (size_t)COPY_BYTES)
            nb_prefetch_pages(from + 2 * (size_t)COPY_BYTES, COPY_BYTES);
        s = nb_shards_write(&j->shards, item->tensors[0], at, from, n, j->err);
        if (item->weight->mapped)
            nb_release_pages(from, n);
        if (s == NB_OK)
            s = read_so_far(j, n);
    }
    return s;
}

/* The JSON beside the codes, as bitsandbytes spells it. */
static enum nb_status put_state(struct job *j, const struct item *item) {
    const struct nb_matrix *m = item->weight->matrix;
    const struct nb_quantize_options *how = &j->options->how;
    char text[MAX_STATE_BYTES], offset[32];
    int n = snprintf(text, sizeof text,
                     "{\"quant_type\": \"%s\", \"blocksize\": %zu, \"dtype\": \"%s\", \"shape\": "
                     "[%d, %d]",
                     nb_quant_type_name(how->type), how->block, torch_name(m->type), m->rows,
                     m->columns);
    nb_python_number((double)j->scratch.nested_offset, offset);
    if (how->nested)
        n += snprintf(text + n, sizeof text - (size_t)n,
                      ", \"nested_blocksize\": %d, \"nested_dtype\": \"float32\", "
                      "\"nested_offset\": %s",
                      NB_NESTED_BLOCK, offset);
    n += snprintf(text + n, sizeof text - (size_t)n, "}");
    const char *kept = nb_arena_string(&j->arena, text, (size_t)n);
    if (!kept)
        return nb_fail_memory(j->err, (size_t)n, j->source);
    nb_shards_put_late(item->tensors[STATE], kept, (size_t)n);
    return NB_OK;
}

/* FP4's table as bitsandbytes stores it has +0 for code 8, too. */
static void quant_map(enum nb_quant_type type, float out[16]) {
    for (int i = 0; i < 16; i++)
        out[i] = nb_quant_values(type)[i] + 0.0f;
}

static enum nb_status quantize(struct job *j, const struct item *item) {
    const struct nb_quantize_options *how = &j->options->how;
    float map[16];
    quant_map(how->type, map);
    enum nb_status s = nb_weight_quantize(item->weight, how, j->pool, &j->scratch, j->err);
    const void *parts[N_PARTS] = {
        [CODES] = j->scratch.codes,
        [ABSMAX] = how->nested ? (const void *)j->scratch.absmax_code : j->scratch.absmax,
        [MAP] = map,
        [NESTED_ABSMAX] = j->scratch.nested_absmax,
        [NESTED_MAP] = j->nested_values,
    };
    for (int i = 0; i < STATE && s == NB_OK; i++) {
        const struct nb_new_tensor *t = item->tensors[i];
        if (t)
            s = nb_shards_write(&j->shards, t, 0, parts[i], t->bytes, j->err);
    }
    if (s == NB_OK)
        s = put_state(j, item);
    return s == NB_OK ? read_so_far(j, item->bytes) : s;
}

static enum nb_status write_tensors(struct job *j) {
    size_t most = j->options->max_file_bytes ? j->options->max_file_bytes : MAX_FILE_BYTES;
    enum nb_status s =
        nb_shards_open(&j->folder, j->tensors, j->n_tensors, most, &j->shards, j->err);
    for (size_t i = 0; i < j->n_items && i < NB_PREFETCH_WEIGHTS; i++)
        nb_weight_prefetch(j->items[i].weight);
    for (size_t i = 0; i < j->n_items && s == NB_OK; i++) {
        if (i + NB_PREFETCH_WEIGHTS < j->n_items)
            nb_weight_prefetch(j->items[i + NB_PREFETCH_WEIGHTS].weight);
        s = j->items[i].quantized ? quantize(j, &j->items[i]) : copy(j, &j->items[i]);
    }
    if (s == NB_OK)
        s = nb_shards_finish(&j->shards, nb_model_size(&j->model).parameters, j->err);
    return s == NB_OK ? read_so_far(j, 0) : s; /* a last chance to stop, after the long fsync */
}

/* ---- the rest of the folder ---- */

/* transformers' BitsAndBytesConfig. The modules that it skips unasked are null; once asked, it
 * skips only what it is told, so the head is named then. */
static json_t *quantization_config(const struct job *j) {
    const struct nb_quantize_options *how = &j->options->how;
    json_t *skip = how->n_skip ? json_array() : json_null();
    bool head = false;
    for (size_t i = 0; i < how->n_skip; i++) {
        json_array_append_new(skip, json_string(how->skip[i]));
        head |= strcmp(how->skip[i], "lm_head") == 0;
    }
    if (how->n_skip && !head)
        json_array_append_new(skip, json_string("lm_head"));
    return json_pack(
        "{s:b, s:b, s:s, s:s, s:s, s:b, s:b, s:b, s:o, s:f, s:b, s:b, s:s}", "_load_in_4bit", 1,
        "_load_in_8bit", 0, "bnb_4bit_compute_dtype", torch_name(j->model.layers[0].q.type),
        "bnb_4bit_quant_storage", "uint8", "bnb_4bit_quant_type", nb_quant_type_name(how->type),
        "bnb_4bit_use_double_quant", (int)how->nested, "llm_int8_enable_fp32_cpu_offload", 0,
        "llm_int8_has_fp16_weight", 0, "llm_int8_skip_modules", skip, "llm_int8_threshold", 6.0,
        "load_in_4bit", 1, "load_in_8bit", 0, "quant_method", "bitsandbytes");
}

/* transformers 5 keeps rope_theta and the scaling in rope_parameters, where transformers 4 does not
 * look: what it reads is added. */
static bool add_rope(json_t *config) {
    const json_t *rope = json_object_get(config, "rope_parameters");
    json_t *theta = json_object_get(rope, "rope_theta");
    const char *type = json_string_value(json_object_get(rope, "rope_type"));
    bool ok = true;
    if (theta && !json_object_get(config, "rope_theta"))
        ok = json_object_set(config, "rope_theta", theta) == 0;
    if (ok && type && strcmp(type, "default") != 0 && !json_object_get(config, "rope_scaling")) {
        json_t *scaling = json_deep_copy(rope);
        json_object_del(scaling, "rope_theta");
        ok = json_object_set_new(config, "rope_scaling", scaling) == 0;
    }
    return ok;
}

static enum nb_status write_config(struct job *j) {
    char path[PATH_MAX];
    json_t *config;
    if (!nb_path_join(path, sizeof path, j->source, "config.json"))
        return nb_fail(j->err, NB_ERR_ARGUMENT, "%s: path too long", j->source);
    enum nb_status s = nb_json_read(path, MAX_CONFIG_BYTES, &config, j->err);
    if (s != NB_OK)
        return s;
    struct nb_buf text = {0};
    bool ok = add_rope(config) &&
              json_object_set_new(config, "quantization_config", quantization_config(j)) == 0;
    nb_python_json(config, &text);
    nb_buf_add_string(&text, "\n");
    if (!ok || text.failed)
        s = nb_fail_memory(j->err, text.len, path);
    else
        s = nb_new_folder_write(&j->folder, "config.json", text.data, text.len, j->err);
    nb_buf_free(&text);
    json_decref(config);
    return s;
}

/* Files that are not copied: weights in whatever format, their indices, and what is written anew.
 */
static bool is_copied(const char *name) {
    static const char *const endings[] = {
        ".safetensors", ".index.json", ".bin", ".pt",   ".pth",  ".gguf",
        ".h5",          ".msgpack",    ".npz", ".onnx", ".ckpt",
    };
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t m = strlen(endings[i]);
        if (n >= m && strcmp(name + n - m, endings[i]) == 0)
            return false;
    }
    return name[0] != '.' && strcmp(name, "config.json") != 0;
}

static enum nb_status copy_files(struct job *j) {
    DIR *dir = opendir(j->source);
    if (!dir)
        return nb_fail(j->err, NB_ERR_IO, "%s: cannot read the folder", j->source);
    enum nb_status s = NB_OK;
    for (struct dirent *e; s == NB_OK && (e = readdir(dir));) {
        char path[PATH_MAX];
        if (!is_copied(e->d_name))
            continue;
        if (!nb_path_join(path, sizeof path, j->source, e->d_name))
            s = nb_fail(j->err, NB_ERR_ARGUMENT, "%s/%s: path too long", j->source, e->d_name);
        else if (nb_is_file(path))
            s = nb_new_folder_copy(&j->folder, e->d_name, path, j->err);
    }
    closedir(dir);
    return s;
}

static enum nb_status convert(struct job *j, const char *target) {
    enum nb_status s = nb_model_open(j->source, &j->model, j->err);
    if (s == NB_OK && nb_model_is_quantized(&j->model))
        s = nb_fail(j->err, NB_ERR_UNSUPPORTED,
                    "%s: is quantized already; start from the checkpoint in bf16, fp16 or fp32",
                    j->source);
    if (s == NB_OK)
        s = make_plan(j);
    if (s == NB_OK)
        s = make_scratch(j);
    if (s == NB_OK)
        s = nb_new_folder_begin(target, &j->folder, j->err);
    if (s == NB_OK)
        s = write_config(j);
    if (s == NB_OK)
        s = copy_files(j);
    if (s == NB_OK)
        s = write_tensors(j);
    if (s == NB_OK)
        s = nb_new_folder_commit(&j->folder, j->err);
    return s;
}

enum nb_status nb_checkpoint_quantize(const char *source, const char *target,
                                      const struct nb_convert_options *options,
                                      struct nb_pool *pool, struct nb_converted *out,
                                      struct nb_error *err) {
    struct job *j = calloc(1, sizeof *j);
    if (!j)
        return nb_fail_memory(err, sizeof *j, source);
    j->source = source;
    j->options = options;
    j->pool = pool;
    j->err = err;
    enum nb_status s = nb_quant_check_shape(options->how.type, options->how.block, err);
    if (s == NB_OK)
        s = convert(j, target);
    *out = (struct nb_converted){
        .read_bytes = j->done, .written_bytes = j->shards.bytes, .files = j->shards.n_shards};
    for (size_t i = 0; i < j->n_items && j->items; i++) {
        out->quantized += j->items[i].quantized;
        out->kept += !j->items[i].quantized;
    }
    nb_shards_close(&j->shards);
    nb_new_folder_abandon(&j->folder);
    nb_model_close(&j->model);
    nb_arena_free(&j->arena);
    free(j);
    return s;
}
