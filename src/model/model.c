#include "model/model.h"

#include "base/checked.h"
#include "base/log.h"
#include "model/json.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* The checkpoint being opened. */
struct reader {
    const char *folder;
    struct nb_model *model;
    struct nb_error *err;
};

const char *nb_weight_type_name(enum nb_weight_type type) {
    static const char *const names[] = {"fp32", "fp16", "bf16", "4-bit"};
    return names[type];
}

enum { NAME_BYTES = 256 };

/* The tensor called base + suffix; NULL if there is none. */
static const struct nb_tensor *find(const struct reader *r, const char *base, const char *suffix) {
    char name[NAME_BYTES];
    int n = snprintf(name, sizeof name, "%s%s", base, suffix);
    return n < (int)sizeof name ? nb_tensors_find(&r->model->tensors, name) : NULL;
}

static enum nb_status missing(const struct reader *r, const char *base, const char *suffix) {
    return nb_fail(r->err, NB_ERR_FORMAT, "%s: tensor %s%s is missing", r->folder, base, suffix);
}

/* The tensor's bytes at an address that suits `alignment`: in place, or a copy where the file's
 * writer did not align them. */
static enum nb_status aligned_data(const struct reader *r, const struct nb_tensor *t,
                                   size_t alignment, const void **out) {
    *out = t->data;
    if ((uintptr_t)t->data % alignment == 0)
        return NB_OK;
    void *copy = nb_arena_alloc(&r->model->arena, t->bytes ? t->bytes : 1, 1);
    if (!copy)
        return nb_fail_memory(r->err, t->bytes, t->name);
    memcpy(copy, t->data, t->bytes);
    *out = copy;
    return NB_OK;
}

static bool float_type(enum nb_dtype dtype, enum nb_weight_type *out) {
    switch (dtype) {
    case NB_DTYPE_F32:
        *out = NB_WEIGHT_F32;
        return true;
    case NB_DTYPE_F16:
        *out = NB_WEIGHT_F16;
        return true;
    case NB_DTYPE_BF16:
        *out = NB_WEIGHT_BF16;
        return true;
    default:
        return false;
    }
}

static enum nb_status wrong_dtype(const struct reader *r, const struct nb_tensor *t,
                                  const char *expected) {
    return nb_fail(r->err, NB_ERR_UNSUPPORTED, "%s: tensor %s is %s, expected %s", t->file, t->name,
                   nb_dtype_name(t->dtype), expected);
}

/* A tensor of a known dtype and number of elements that the quantization needs beside the codes. */
static enum nb_status find_part(const struct reader *r, const char *name, const char *suffix,
                                enum nb_dtype dtype, size_t count, const void **out) {
    const struct nb_tensor *t = find(r, name, suffix);
    if (!t)
        return missing(r, name, suffix);
    if (t->dtype != dtype)
        return wrong_dtype(r, t, nb_dtype_name(dtype));
    size_t bytes;
    if (!nb_mul_size(count, nb_dtype_bytes(dtype), &bytes) || t->bytes != bytes) {
        char shape[160];
        return nb_fail(r->err, NB_ERR_FORMAT, "%s: tensor %s has shape %s, expected %zu values",
                       t->file, t->name, nb_shape_text(t, shape, sizeof shape), count);
    }
    return aligned_data(r, t, nb_dtype_bytes(dtype), out);
}

/* What weight.quant_state.bitsandbytes__nf4 says: JSON in a U8 tensor. */
struct quant_state {
    int64_t rows, columns, block;
    bool nested;
    int64_t nested_block;
    double nested_offset;
};

static enum nb_status parse_quant_state(const struct reader *r, const struct nb_tensor *t,
                                        enum nb_quant_type type, struct quant_state *out) {
    char name[NAME_BYTES + 64];
    snprintf(name, sizeof name, "%s: tensor %s", t->file, t->name);
    json_t *json;
    enum nb_status s = nb_json_parse((const char *)t->data, t->bytes, name, &json, r->err);
    if (s != NB_OK)
        return s;
    *out = (struct quant_state){.nested_offset = NAN};
    const char *quant_type = "";
    s = nb_json_string(json, "quant_type", &quant_type, name, r->err);
    if (s == NB_OK && strcmp(quant_type, nb_quant_type_name(type)) != 0)
        s = nb_fail(r->err, NB_ERR_FORMAT, "%s: quant_type is \"%.32s\", expected \"%s\"", name,
                    quant_type, nb_quant_type_name(type));
    if (s == NB_OK)
        s = nb_json_int(json, "blocksize", 1, 1 << 20, &out->block, name, r->err);
    if (s == NB_OK && out->block == 0)
        s = nb_fail(r->err, NB_ERR_FORMAT, "%s: blocksize is missing", name);
    if (s == NB_OK && nb_quant_check_shape(type, (size_t)out->block, NULL) != NB_OK)
        s = nb_fail(r->err, NB_ERR_UNSUPPORTED,
                    "%s: blocksize is %" PRId64 ", expected a power of two from %d to %d", name,
                    out->block, NB_QUANT_MIN_BLOCK, NB_QUANT_MAX_BLOCK);
    const json_t *shape = json_object_get(json, "shape");
    if (s == NB_OK && (json_array_size(shape) != 2 || !json_is_integer(json_array_get(shape, 0)) ||
                       !json_is_integer(json_array_get(shape, 1))))
        s = nb_fail(r->err, NB_ERR_FORMAT, "%s: shape is not two sizes", name);
    if (s == NB_OK) {
        out->rows = json_integer_value(json_array_get(shape, 0));
        out->columns = json_integer_value(json_array_get(shape, 1));
        out->nested = json_object_get(json, "nested_blocksize") != NULL;
        s = nb_json_int(json, "nested_blocksize", 1, 1 << 20, &out->nested_block, name, r->err);
    }
    if (s == NB_OK)
        s = nb_json_number(json, "nested_offset", -3e38, 3e38, &out->nested_offset, name, r->err);
    if (s == NB_OK && out->nested && out->nested_block == 0)
        s = nb_fail(r->err, NB_ERR_FORMAT, "%s: nested_blocksize is null", name);
    if (s == NB_OK && (out->nested_block & (out->nested_block - 1)))
        s = nb_fail(r->err, NB_ERR_UNSUPPORTED,
                    "%s: nested_blocksize is %" PRId64 ", expected a power of two", name,
                    out->nested_block);
    if (s == NB_OK && out->nested && isnan(out->nested_offset))
        s = nb_fail(r->err, NB_ERR_FORMAT, "%s: nested_offset is missing", name);
    json_decref(json);
    return s;
}

/* The parts of double quantization. */
static enum nb_status read_nested_absmax(const struct reader *r, const struct nb_tensor *t,
                                         const struct quant_state *q, struct nb_quant_view *v) {
    size_t blocks = nb_quant_blocks(v->n, v->block);
    v->nested_block = (size_t)q->nested_block;
    v->nested_offset = (float)q->nested_offset;
    enum nb_status s =
        find_part(r, t->name, ".absmax", NB_DTYPE_U8, blocks, (const void **)&v->absmax_code);
    if (s == NB_OK)
        s = find_part(r, t->name, ".nested_quant_map", NB_DTYPE_F32, 256,
                      (const void **)&v->nested_values);
    if (s == NB_OK)
        s = find_part(r, t->name, ".nested_absmax", NB_DTYPE_F32,
                      nb_div_up(blocks, v->nested_block), (const void **)&v->nested_absmax);
    return s;
}

/* The 4-bit matrix whose codes are tensor t, described by `state`. */
static enum nb_status read_quantized(const struct reader *r, const struct nb_tensor *t,
                                     const struct nb_tensor *state, enum nb_quant_type type,
                                     struct nb_matrix *m) {
    struct quant_state q;
    enum nb_status s = parse_quant_state(r, state, type, &q);
    if (s != NB_OK)
        return s;
    if (q.rows != m->rows || q.columns != m->columns)
        return nb_fail(r->err, NB_ERR_FORMAT,
                       "%s: tensor %s: the quantized shape is [%" PRId64 ", %" PRId64
                       "], expected [%d, %d] from config.json",
                       t->file, t->name, q.rows, q.columns, m->rows, m->columns);
    size_t n = (size_t)m->rows * (size_t)m->columns, blocks = nb_quant_blocks(n, (size_t)q.block);
    if (t->bytes != nb_quant_code_bytes(n))
        return nb_fail(r->err, NB_ERR_FORMAT,
                       "%s: tensor %s has %zu bytes of codes, expected %zu for [%d, %d]", t->file,
                       t->name, t->bytes, nb_quant_code_bytes(n), m->rows, m->columns);
    struct nb_quant_view *v = &m->quant;
    m->type = NB_WEIGHT_4BIT;
    *v = (struct nb_quant_view){.type = type, .n = n, .block = (size_t)q.block, .codes = t->data};
    /* Every checkpoint has the table, but only bitsandbytes' CPU code looks at it. */
    s = find_part(r, t->name, ".quant_map", NB_DTYPE_F32, 16, (const void **)&v->values);
    v->values = nb_quant_values(type);
    if (s == NB_OK && q.nested)
        s = read_nested_absmax(r, t, &q, v);
    else if (s == NB_OK)
        s = find_part(r, t->name, ".absmax", NB_DTYPE_F32, blocks, (const void **)&v->absmax);
    if (s == NB_OK && nb_quant_check(v, r->err) != NB_OK)
        s = nb_fail_prefix(r->err, NB_ERR_FORMAT, "%s: tensor %s", t->file, t->name);
    return s;
}

/* Tensor `name`, [rows, columns], in floats or in 4 bits. */
static enum nb_status read_matrix(const struct reader *r, const char *name, int32_t rows,
                                  int32_t columns, struct nb_matrix *m) {
    const struct nb_tensor *t = find(r, name, "");
    if (!t)
        return missing(r, name, "");
    *m = (struct nb_matrix){.name = t->name, .rows = rows, .columns = columns};
    const struct nb_tensor *state = find(r, name, ".quant_state.bitsandbytes__nf4");
    if (state)
        return read_quantized(r, t, state, NB_QUANT_NF4, m);
    state = find(r, name, ".quant_state.bitsandbytes__fp4");
    if (state)
        return read_quantized(r, t, state, NB_QUANT_FP4, m);
    if (!float_type(t->dtype, &m->type))
        return wrong_dtype(r, t, "BF16, F16 or F32, or codes with a quant_state beside them");
    if (t->n_dims != 2 || t->shape[0] != rows || t->shape[1] != columns) {
        char shape[160];
        return nb_fail(r->err, NB_ERR_FORMAT,
                       "%s: tensor %s has shape %s, expected [%d, %d] from config.json", t->file,
                       t->name, nb_shape_text(t, shape, sizeof shape), rows, columns);
    }
    return aligned_data(r, t, nb_dtype_bytes(t->dtype), &m->data);
}

static enum nb_status read_vector(const struct reader *r, const char *name, int32_t n,
                                  struct nb_vector *v) {
    const struct nb_tensor *t = find(r, name, "");
    if (!t)
        return missing(r, name, "");
    *v = (struct nb_vector){.name = t->name, .n = n};
    if (!float_type(t->dtype, &v->type))
        return wrong_dtype(r, t, "BF16, F16 or F32");
    if (t->n_dims != 1 || t->shape[0] != n) {
        char shape[160];
        return nb_fail(r->err, NB_ERR_FORMAT,
                       "%s: tensor %s has shape %s, expected [%d] from config.json", t->file,
                       t->name, nb_shape_text(t, shape, sizeof shape), n);
    }
    return aligned_data(r, t, nb_dtype_bytes(t->dtype), &v->data);
}

/* What an expert's matrices are called: Mixtral's own names, and everyone else's. */
static const struct expert_names {
    const char *gate, *up, *down;
} mixtral_names = {"w1", "w3", "w2"}, common_names = {"gate_proj", "up_proj", "down_proj"};

static enum nb_status read_expert(const struct reader *r, const char *prefix,
                                  const struct expert_names *names, struct nb_expert *out) {
    const struct nb_config *c = &r->model->config;
    const struct {
        const char *name;
        int32_t rows, columns;
        struct nb_matrix *out;
    } parts[] = {
        {names->gate, c->expert_width, c->width, &out->gate},
        {names->up, c->expert_width, c->width, &out->up},
        {names->down, c->width, c->expert_width, &out->down},
    };
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < 3 && s == NB_OK; i++) {
        char name[NAME_BYTES];
        snprintf(name, sizeof name, "%s.%s.weight", prefix, parts[i].name);
        s = read_matrix(r, name, parts[i].rows, parts[i].columns, parts[i].out);
    }
    return s;
}

/* The slice [first, first + rows) of a fused tensor's rows as a matrix. */
static struct nb_matrix slice(const struct nb_tensor *t, enum nb_weight_type type, const void *data,
                              size_t first, int32_t rows, int32_t columns) {
    size_t bytes = first * (size_t)columns * nb_dtype_bytes(t->dtype);
    return (struct nb_matrix){.name = t->name,
                              .rows = rows,
                              .columns = columns,
                              .type = type,
                              .data = (const char *)data + bytes};
}

/* A tensor [experts, rows, columns] in floats. */
static enum nb_status find_fused(const struct reader *r, const char *prefix, const char *suffix,
                                 int32_t rows, int32_t columns, const struct nb_tensor **t,
                                 enum nb_weight_type *type, const void **data) {
    *t = find(r, prefix, suffix);
    if (!*t)
        return missing(r, prefix, suffix);
    if (!float_type((*t)->dtype, type))
        return wrong_dtype(r, *t, "BF16, F16 or F32");
    int32_t experts = r->model->config.n_experts;
    if ((*t)->n_dims != 3 || (*t)->shape[0] != experts || (*t)->shape[1] != rows ||
        (*t)->shape[2] != columns) {
        char shape[160];
        return nb_fail(r->err, NB_ERR_FORMAT,
                       "%s: tensor %s has shape %s, expected [%d, %d, %d] from config.json",
                       (*t)->file, (*t)->name, nb_shape_text(*t, shape, sizeof shape), experts,
                       rows, columns);
    }
    return aligned_data(r, *t, nb_dtype_bytes((*t)->dtype), data);
}

/* transformers 5's layout: gate_up_proj [E, 2 F, D], gate first, and down_proj [E, D, F]. */
static enum nb_status read_fused_experts(const struct reader *r, const char *prefix,
                                         struct nb_layer *out) {
    const struct nb_config *c = &r->model->config;
    const struct nb_tensor *gate_up, *down;
    enum nb_weight_type gate_up_type, down_type;
    const void *gate_up_data, *down_data;
    enum nb_status s = find_fused(r, prefix, ".gate_up_proj", 2 * c->expert_width, c->width,
                                  &gate_up, &gate_up_type, &gate_up_data);
    if (s == NB_OK)
        s = find_fused(r, prefix, ".down_proj", c->width, c->expert_width, &down, &down_type,
                       &down_data);
    for (int e = 0; e < c->n_experts && s == NB_OK; e++) {
        size_t f = (size_t)c->expert_width, row = (size_t)e * 2 * f;
        struct nb_expert *x = &out->experts[e];
        x->gate = slice(gate_up, gate_up_type, gate_up_data, row, c->expert_width, c->width);
        x->up = slice(gate_up, gate_up_type, gate_up_data, row + f, c->expert_width, c->width);
        x->down = slice(down, down_type, down_data, (size_t)e * (size_t)c->width, c->width,
                        c->expert_width);
    }
    return s;
}

/* Router and experts of a layer, in whichever layout they are. */
static enum nb_status read_experts(const struct reader *r, int layer, struct nb_layer *out) {
    const struct nb_config *c = &r->model->config;
    out->experts = nb_arena_alloc(&r->model->arena, (size_t)c->n_experts, sizeof *out->experts);
    if (!out->experts)
        return nb_fail_memory(r->err, (size_t)c->n_experts * sizeof *out->experts, r->folder);
    char block[NAME_BYTES / 2], name[NAME_BYTES];
    snprintf(block, sizeof block, "model.layers.%d.mlp", layer);
    if (c->dense)
        return read_expert(r, block, &common_names, &out->experts[0]);
    const struct expert_names *names = &common_names;
    if (!find(r, block, ".gate.weight")) {
        snprintf(block, sizeof block, "model.layers.%d.block_sparse_moe", layer);
        names = &mixtral_names;
    }
    snprintf(name, sizeof name, "%s.gate.weight", block);
    enum nb_status s = read_matrix(r, name, c->n_experts, c->width, &out->router);
    snprintf(name, sizeof name, "%s.experts", block);
    if (s == NB_OK && find(r, name, ".gate_up_proj"))
        return read_fused_experts(r, name, out);
    for (int e = 0; e < c->n_experts && s == NB_OK; e++) {
        snprintf(name, sizeof name, "%s.experts.%d", block, e);
        s = read_expert(r, name, names, &out->experts[e]);
    }
    return s;
}

static enum nb_status read_layer(const struct reader *r, int layer, struct nb_layer *out) {
    const struct nb_config *c = &r->model->config;
    int32_t q_width = c->n_heads * c->head_width, kv_width = c->n_kv_heads * c->head_width;
    const struct {
        const char *name;
        int32_t rows, columns;
        struct nb_matrix *out;
    } matrices[] = {
        {"self_attn.q_proj", q_width, c->width, &out->q},
        {"self_attn.k_proj", kv_width, c->width, &out->k},
        {"self_attn.v_proj", kv_width, c->width, &out->v},
        {"self_attn.o_proj", c->width, q_width, &out->o},
    };
    const struct {
        const char *name;
        bool there;
        int32_t n;
        struct nb_vector *out;
    } vectors[] = {
        {"input_layernorm", true, c->width, &out->attention_norm},
        {"post_attention_layernorm", true, c->width, &out->expert_norm},
        {"self_attn.q_norm", c->qk_norm, c->head_width, &out->q_norm},
        {"self_attn.k_norm", c->qk_norm, c->head_width, &out->k_norm},
    };
    char name[NAME_BYTES];
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < sizeof matrices / sizeof *matrices && s == NB_OK; i++) {
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, matrices[i].name);
        s = read_matrix(r, name, matrices[i].rows, matrices[i].columns, matrices[i].out);
    }
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors && s == NB_OK; i++) {
        if (!vectors[i].there)
            continue;
        snprintf(name, sizeof name, "model.layers.%d.%s.weight", layer, vectors[i].name);
        s = read_vector(r, name, vectors[i].n, vectors[i].out);
    }
    return s == NB_OK ? read_experts(r, layer, out) : s;
}

static enum nb_status read_weights(const struct reader *r) {
    struct nb_model *m = r->model;
    const struct nb_config *c = &m->config;
    enum nb_status s =
        read_matrix(r, "model.embed_tokens.weight", c->n_vocab, c->width, &m->embedding);
    if (s == NB_OK)
        s = read_vector(r, "model.norm.weight", c->width, &m->norm);
    if (s == NB_OK && c->tied)
        m->head = m->embedding;
    else if (s == NB_OK)
        s = read_matrix(r, "lm_head.weight", c->n_vocab, c->width, &m->head);
    if (s != NB_OK)
        return s;
    m->layers = nb_arena_alloc(&m->arena, (size_t)c->n_layers, sizeof *m->layers);
    if (!m->layers)
        return nb_fail_memory(r->err, (size_t)c->n_layers * sizeof *m->layers, r->folder);
    for (int i = 0; i < c->n_layers && s == NB_OK; i++)
        s = read_layer(r, i, &m->layers[i]);
    return s;
}

enum nb_status nb_model_open(const char *folder, struct nb_model *out, struct nb_error *err) {
    *out = (struct nb_model){0};
    if (!nb_is_folder(folder))
        return nb_fail(err, NB_ERR_IO,
                       "%s: %s; a checkpoint is a folder with config.json and safetensors", folder,
                       nb_is_file(folder) ? "is a file" : "no such folder");
    struct reader r = {folder, out, err};
    enum nb_status s = nb_config_read(folder, &out->config, err);
    if (s == NB_OK)
        s = nb_tensors_open(folder, &out->tensors, err);
    if (s == NB_OK)
        s = read_weights(&r);
    if (s != NB_OK)
        nb_model_close(out);
    else
        nb_log(NB_LOG_INFO, "%s: %zu tensors, %zu bytes in %zu files mapped", folder,
               out->tensors.n, out->tensors.bytes, out->tensors.n_files);
    return s;
}

void nb_model_close(struct nb_model *model) {
    nb_map_close(&model->quantized);
    nb_tensors_close(&model->tensors);
    nb_arena_free(&model->arena);
    *model = (struct nb_model){0};
}

uint64_t nb_matrix_bytes(const struct nb_matrix *m) {
    uint64_t n = (uint64_t)m->rows * (uint64_t)m->columns;
    switch (m->type) {
    case NB_WEIGHT_F32:
        return n * 4;
    case NB_WEIGHT_F16:
    case NB_WEIGHT_BF16:
        return n * 2;
    case NB_WEIGHT_4BIT:
        break;
    }
    uint64_t blocks = nb_div_up(n, m->quant.block);
    uint64_t absmax =
        m->quant.absmax ? blocks * 4 : blocks + nb_div_up(blocks, m->quant.nested_block) * 4;
    return nb_div_up(n, 2) + absmax;
}

/* Adds a matrix, which works on every token or is an expert that was not chosen. */
static void add_matrix(struct nb_model_size *size, const struct nb_matrix *m, bool active) {
    uint64_t n = (uint64_t)m->rows * (uint64_t)m->columns;
    size->parameters += n;
    if (active) {
        size->active_parameters += n;
        size->step_bytes += nb_matrix_bytes(m);
    }
}

struct nb_model_size nb_model_size(const struct nb_model *model) {
    const struct nb_config *c = &model->config;
    struct nb_model_size size = {.bytes = model->tensors.bytes};
    add_matrix(&size, &model->embedding, false);
    if (c->tied) {
        size.active_parameters += size.parameters;
        size.step_bytes += nb_matrix_bytes(&model->head);
    } else {
        add_matrix(&size, &model->head, true);
    }
    for (int i = 0; i < c->n_layers; i++) {
        const struct nb_layer *l = &model->layers[i];
        const struct nb_matrix *attention[] = {&l->q, &l->k, &l->v, &l->o, &l->router};
        for (size_t j = 0; j < (c->dense ? 4 : 5); j++)
            add_matrix(&size, attention[j], true);
        for (int e = 0; e < c->n_experts; e++) {
            /* Experts are alike in size: the first ones stand for those that are chosen. */
            bool active = e < c->experts_per_token;
            add_matrix(&size, &l->experts[e].gate, active);
            add_matrix(&size, &l->experts[e].up, active);
            add_matrix(&size, &l->experts[e].down, active);
        }
    }
    uint64_t norms = (uint64_t)c->width * (2 * (uint64_t)c->n_layers + 1);
    if (c->qk_norm)
        norms += 2 * (uint64_t)c->head_width * (uint64_t)c->n_layers;
    size.parameters += norms;
    size.active_parameters += norms;
    size.step_bytes += norms * 2;
    return size;
}
