#include "model/save.h"

#include "model/quantize.h"
#include "model/writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_STATE_BYTES = 256, MAX_PARTS = 6 };
static const size_t MAX_FILE_BYTES = 5000000000; /* transformers' max_shard_size */

/* A tensor, and where its bytes are. */
struct piece {
    struct nb_new_tensor *tensor;
    const void *data;
};

struct saver {
    const struct nb_model *model;
    struct nb_arena arena;
    struct nb_new_tensor *tensors;
    struct piece *pieces;
    size_t n;
    bool failed; /* memory ran out */
    struct nb_new_folder folder;
    struct nb_shards shards;
    enum nb_status status; /* the first failure of a thread */
    struct nb_error error;
};

static const enum nb_dtype dtypes[] = {NB_DTYPE_F32, NB_DTYPE_F16, NB_DTYPE_BF16};

/* name + suffix, [rows] or [rows, columns] with columns not 0, whose bytes are at `data`. */
static struct nb_new_tensor *add(struct saver *s, const char *name, const char *suffix,
                                 enum nb_dtype dtype, size_t rows, size_t columns,
                                 const void *data) {
    struct nb_new_tensor *t = &s->tensors[s->n];
    size_t n = strlen(name) + strlen(suffix) + 1;
    char *text = nb_arena_alloc(&s->arena, n, 1);
    if (!text) {
        s->failed = true;
        return t;
    }
    snprintf(text, n, "%s%s", name, suffix);
    *t = (struct nb_new_tensor){.name = text,
                                .dtype = dtype,
                                .n_dims = columns ? 2 : 1,
                                .shape = {(int64_t)rows, (int64_t)columns},
                                .bytes = rows * (columns ? columns : 1) * nb_dtype_bytes(dtype)};
    s->pieces[s->n++] = (struct piece){t, data};
    return t;
}

/* The JSON beside the codes, as bitsandbytes spells it. */
static const char *state_text(struct saver *s, const struct nb_matrix *m) {
    const struct nb_quant_view *v = &m->quant;
    char text[MAX_STATE_BYTES], nested[128] = "", offset[32];
    nb_python_number((double)v->nested_offset, offset);
    if (v->absmax_code)
        snprintf(
            nested, sizeof nested,
            ", \"nested_blocksize\": %zu, \"nested_dtype\": \"float32\", \"nested_offset\": %s",
            v->nested_block, offset);
    int n = snprintf(text, sizeof text,
                     "{\"quant_type\": \"%s\", \"blocksize\": %zu, \"dtype\": \"bfloat16\", "
                     "\"shape\": [%d, %d]%s}",
                     nb_quant_type_name(v->type), v->block, m->rows, m->columns, nested);
    return nb_arena_string(&s->arena, text, (size_t)n);
}

static void add_quantized(struct saver *s, const char *name, const struct nb_matrix *m) {
    const struct nb_quant_view *v = &m->quant;
    size_t blocks = nb_quant_blocks(v->n, v->block);
    char suffix[64];
    const char *state = state_text(s, m);
    add(s, name, "", NB_DTYPE_U8, nb_quant_code_bytes(v->n), 1, v->codes);
    if (v->absmax_code) {
        add(s, name, ".absmax", NB_DTYPE_U8, blocks, 0, v->absmax_code);
        add(s, name, ".nested_absmax", NB_DTYPE_F32,
            nb_quant_nested_blocks(v->n, v->block, v->nested_block), 0, v->nested_absmax);
        add(s, name, ".nested_quant_map", NB_DTYPE_F32, 256, 0, v->nested_values);
    } else {
        add(s, name, ".absmax", NB_DTYPE_F32, blocks, 0, v->absmax);
    }
    add(s, name, ".quant_map", NB_DTYPE_F32, 16, 0, v->values);
    snprintf(suffix, sizeof suffix, ".quant_state.bitsandbytes__%s", nb_quant_type_name(v->type));
    s->failed |= !state;
    if (state)
        add(s, name, suffix, NB_DTYPE_U8, strlen(state), 0, state);
}

static enum nb_status list_tensors(struct saver *s, struct nb_error *err) {
    struct nb_weight *weights;
    size_t n;
    enum nb_status status = nb_model_weights(s->model, &s->arena, &weights, &n, err);
    if (status != NB_OK)
        return status;
    s->tensors = nb_arena_alloc(&s->arena, n * MAX_PARTS, sizeof *s->tensors);
    s->pieces = nb_arena_alloc(&s->arena, n * MAX_PARTS, sizeof *s->pieces);
    if (!s->tensors || !s->pieces)
        return nb_fail_memory(err, n * MAX_PARTS * sizeof *s->tensors, "the list of tensors");
    for (size_t i = 0; i < n && !s->failed; i++) {
        const struct nb_matrix *m = weights[i].matrix;
        const struct nb_vector *v = weights[i].vector;
        if (v)
            add(s, weights[i].name, "", dtypes[v->type], (size_t)v->n, 0, v->data);
        else if (m->type == NB_WEIGHT_4BIT)
            add_quantized(s, weights[i].name, m);
        else
            add(s, weights[i].name, "", dtypes[m->type], (size_t)m->rows, (size_t)m->columns,
                m->data);
    }
    return s->failed ? nb_fail_memory(err, n * 64, "the names of tensors") : NB_OK;
}

/* What nb_config_read reads, under the names of the architecture. */
static json_t *config_json(const struct nb_config *c, bool nested) {
    bool qwen = strcmp(c->model_type, "qwen3_moe") == 0;
    json_t *quantization =
        json_pack("{s:s, s:b, s:s, s:b, s:s}", "quant_method", "bitsandbytes", "load_in_4bit", 1,
                  "bnb_4bit_quant_type", "nf4", "bnb_4bit_use_double_quant", (int)nested,
                  "bnb_4bit_compute_dtype", "bfloat16");
    return json_pack(
        "{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:b, s:b, s:i, s:i, "
        "s:s, "
        "s:s, s:o}",
        "model_type", c->model_type, "vocab_size", (int)c->n_vocab, "num_hidden_layers",
        (int)c->n_layers, "hidden_size", (int)c->width, "num_attention_heads", (int)c->n_heads,
        "num_key_value_heads", (int)c->n_kv_heads, "head_dim", (int)c->head_width,
        qwen ? "num_experts" : "num_local_experts", (int)c->n_experts, "num_experts_per_tok",
        (int)c->experts_per_token, qwen ? "moe_intermediate_size" : "intermediate_size",
        (int)c->expert_width, "max_position_embeddings", (int)c->context, "rms_norm_eps",
        (double)c->rms_eps, "rope_theta", c->rope.theta, "norm_topk_prob",
        (int)c->normalize_experts, "tie_word_embeddings", (int)c->tied, "bos_token_id", (int)c->bos,
        "eos_token_id", (int)c->eos[0], "hidden_act", "silu", "torch_dtype", "bfloat16",
        "quantization_config", quantization);
}

static enum nb_status write_config(struct saver *s, struct nb_error *err) {
    json_t *config = config_json(&s->model->config, s->model->layers[0].q.quant.absmax_code);
    struct nb_buf text = {0};
    enum nb_status status = NB_OK;
    if (config)
        nb_python_json(config, &text);
    nb_buf_add_string(&text, "\n");
    if (!config || text.failed)
        status = nb_fail_memory(err, text.len, "config.json");
    else
        status = nb_new_folder_write(&s->folder, "config.json", text.data, text.len, err);
    nb_buf_free(&text);
    json_decref(config);
    return status;
}

static void write_pieces(void *context, int thread, size_t begin, size_t end) {
    (void)thread;
    struct saver *s = context;
    for (size_t i = begin; i < end && !__atomic_load_n(&s->failed, __ATOMIC_ACQUIRE); i++) {
        const struct piece *p = &s->pieces[i];
        struct nb_error err;
        enum nb_status status =
            nb_shards_write(&s->shards, p->tensor, 0, p->data, p->tensor->bytes, &err);
        if (status != NB_OK && !__atomic_exchange_n(&s->failed, true, __ATOMIC_ACQ_REL)) {
            s->status = status;
            s->error = err;
        }
    }
}

static enum nb_status save(struct saver *s, const char *target, struct nb_pool *pool,
                           struct nb_error *err) {
    const char *type = s->model->config.model_type;
    if (strcmp(type, "mixtral") != 0 && strcmp(type, "qwen3_moe") != 0)
        return nb_fail(err, NB_ERR_UNSUPPORTED,
                       "%s: cannot write a model of type \"%s\", only mixtral and qwen3_moe",
                       target, type);
    enum nb_status status = list_tensors(s, err);
    if (status == NB_OK)
        status = nb_new_folder_begin(target, &s->folder, err);
    if (status == NB_OK)
        status = write_config(s, err);
    if (status == NB_OK)
        status = nb_shards_open(&s->folder, s->tensors, s->n, MAX_FILE_BYTES, &s->shards, err);
    if (status == NB_OK) {
        nb_pool_run(pool, s->n, 1, write_pieces, s);
        status = s->status;
        if (status != NB_OK && err)
            *err = s->error;
    }
    if (status == NB_OK)
        status = nb_shards_finish(&s->shards, nb_model_size(s->model).parameters, err);
    return status == NB_OK ? nb_new_folder_commit(&s->folder, err) : status;
}

enum nb_status nb_model_save(const struct nb_model *model, const char *target, struct nb_pool *pool,
                             struct nb_error *err) {
    struct saver *s = calloc(1, sizeof *s);
    if (!s)
        return nb_fail_memory(err, sizeof *s, target);
    s->model = model;
    enum nb_status status = save(s, target, pool, err);
    nb_shards_close(&s->shards);
    nb_new_folder_abandon(&s->folder);
    nb_arena_free(&s->arena);
    free(s);
    return status;
}
