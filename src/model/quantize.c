#include "model/quantize.h"

#include "base/checked.h"
#include "base/layout.h"
#include "quant/quantize_fast.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Weights that a thread takes at a time: a multiple of every block, and of 64 nested blocks of the
 * usual 64 weights. */
enum { PIECE = 1 << 20, NESTED_PIECE = 16 * NB_NESTED_BLOCK };

/* Bytes of a mapped file that are read ahead of where the threads are. */
enum { AHEAD_BYTES = 16 << 20 };

const struct nb_quantize_options nb_quantize_defaults = {NB_QUANT_NF4, 64, true, NULL, 0};

/* ---- what a model consists of ---- */

/* A list of weights that grows in an arena. */
struct weights {
    struct nb_arena *arena;
    struct nb_weight *list;
    size_t n, cap;
    bool failed;
};

static struct nb_weight *add(struct weights *w, const char *prefix, const char *name) {
    static struct nb_weight dropped;
    char text[256];
    int n = snprintf(text, sizeof text, "%s%s.weight", prefix, name);
    const char *copy = nb_arena_string(w->arena, text, (size_t)n);
    w->failed |= !copy || w->n == w->cap;
    if (w->failed)
        return &dropped;
    w->list[w->n] = (struct nb_weight){.name = copy};
    return &w->list[w->n++];
}

static void add_linear(struct weights *w, const char *prefix, const char *name,
                       struct nb_matrix *m) {
    struct nb_weight *weight = add(w, prefix, name);
    weight->matrix = m;
    weight->linear = true;
}

static void add_vector(struct weights *w, const char *prefix, const char *name,
                       struct nb_vector *v) {
    add(w, prefix, name)->vector = v;
}

/* The feed-forward part of a layer, under `prefix` with its dot. Mixtral's experts stand in the
 * order of their names, everyone else's in the order gate, up, down. */
static void add_expert(struct weights *w, const char *prefix, bool mixtral, struct nb_expert *e) {
    add_linear(w, prefix, mixtral ? "w1" : "gate_proj", &e->gate);
    add_linear(w, prefix, mixtral ? "w2" : "up_proj", mixtral ? &e->down : &e->up);
    add_linear(w, prefix, mixtral ? "w3" : "down_proj", mixtral ? &e->up : &e->down);
}

static void add_layer(struct weights *w, const struct nb_config *c, int layer, struct nb_layer *l) {
    bool mixtral = strcmp(c->model_type, "mixtral") == 0;
    char prefix[64], part[128];
    snprintf(prefix, sizeof prefix, "model.layers.%d.", layer);
    add_linear(w, prefix, "self_attn.q_proj", &l->q);
    add_linear(w, prefix, "self_attn.k_proj", &l->k);
    add_linear(w, prefix, "self_attn.v_proj", &l->v);
    add_linear(w, prefix, "self_attn.o_proj", &l->o);
    if (c->qk_norm) {
        add_vector(w, prefix, "self_attn.q_norm", &l->q_norm);
        add_vector(w, prefix, "self_attn.k_norm", &l->k_norm);
    }
    const char *block = mixtral ? "block_sparse_moe." : "mlp.";
    snprintf(part, sizeof part, "%s%s", prefix, block);
    if (!c->dense)
        add_linear(w, part, "gate", &l->router);
    for (int e = 0; e < c->n_experts; e++) {
        if (!c->dense)
            snprintf(part, sizeof part, "%s%sexperts.%d.", prefix, block, e);
        add_expert(w, part, mixtral, &l->experts[e]);
    }
    add_vector(w, prefix, "input_layernorm", &l->attention_norm);
    add_vector(w, prefix, "post_attention_layernorm", &l->expert_norm);
}

/* Whether an address is in a mapped file: what was not aligned there is a copy elsewhere. */
static bool is_mapped(const struct nb_model *model, const void *data) {
    for (size_t i = 0; i < model->tensors.n_files; i++) {
        const struct nb_map *map = &model->tensors.maps[i];
        if ((uintptr_t)data - (uintptr_t)map->data < map->size)
            return true;
    }
    return false;
}

enum nb_status nb_model_weights(const struct nb_model *model, struct nb_arena *arena,
                                struct nb_weight **out, size_t *n, struct nb_error *err) {
    const struct nb_config *c = &model->config;
    struct nb_model *m =
        (struct nb_model *)model; /* the list is for those who may change it, too */
    size_t cap = 3 + (size_t)c->n_layers * (9 + 3 * (size_t)c->n_experts);
    struct weights w = {.arena = arena, .cap = cap};
    w.list = nb_arena_alloc(arena, cap, sizeof *w.list);
    if (!w.list)
        return nb_fail_memory(err, cap * sizeof *w.list, "the list of weights");
    add(&w, "", "model.embed_tokens")->matrix = &m->embedding;
    for (int i = 0; i < c->n_layers; i++)
        add_layer(&w, c, i, &m->layers[i]);
    add_vector(&w, "", "model.norm", &m->norm);
    if (!c->tied)
        add(&w, "", "lm_head")->matrix = &m->head;
    if (w.failed)
        return nb_fail_memory(err, cap * 64, "the names of weights");
    for (size_t i = 0; i < w.n; i++)
        w.list[i].mapped = w.list[i].matrix && is_mapped(model, w.list[i].matrix->data);
    *out = w.list;
    *n = w.n;
    return NB_OK;
}

/* Whether transformers' _replace_with_bnb_linear skips module[0..n) for `key`. */
static bool skips(const char *key, const char *module, size_t n) {
    size_t k = strlen(key);
    const char *last = memrchr(module, '.', n);
    size_t n_last = last ? (size_t)(module + n - last - 1) : n;
    if (k == n_last && memcmp(key, module + n - k, k) == 0)
        return true;
    if (k == n && memcmp(key, module, k) == 0)
        return true;
    for (size_t i = 0; i + k < n; i++) {
        if (module[i + k] == '.' && memcmp(key, module + i, k) == 0)
            return true;
    }
    return false;
}

bool nb_weight_quantizes(const struct nb_weight *weight,
                         const struct nb_quantize_options *options) {
    size_t n = strlen(weight->name) - strlen(".weight");
    for (size_t i = 0; i < options->n_skip; i++) {
        if (skips(options->skip[i], weight->name, n))
            return false;
    }
    return weight->linear;
}

bool nb_model_is_quantized(const struct nb_model *model) {
    const struct nb_config *c = &model->config;
    for (int i = 0; i < c->n_layers; i++) {
        const struct nb_layer *l = &model->layers[i];
        const struct nb_matrix *matrices[] = {&l->q, &l->k, &l->v, &l->o, &l->router};
        for (size_t j = 0; j < (c->dense ? 4 : 5); j++) {
            if (matrices[j]->type == NB_WEIGHT_4BIT)
                return true;
        }
        for (int e = 0; e < c->n_experts; e++) {
            const struct nb_expert *x = &l->experts[e];
            if (x->gate.type == NB_WEIGHT_4BIT || x->up.type == NB_WEIGHT_4BIT ||
                x->down.type == NB_WEIGHT_4BIT)
                return true;
        }
    }
    return model->embedding.type == NB_WEIGHT_4BIT || model->head.type == NB_WEIGHT_4BIT;
}

/* ---- quantizing ---- */

static size_t n_weights(const struct nb_matrix *m) {
    return (size_t)m->rows * (size_t)m->columns;
}

/* Pages that lie wholly within data[0..bytes). */
static void advise(const void *data, size_t bytes, int advice) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)data;
    uintptr_t begin = (at + page - 1) & ~(page - 1), end = (at + bytes) & ~(page - 1);
    if (begin < end)
        madvise((void *)begin, end - begin, advice);
}

void nb_release_pages(const void *data, size_t bytes) {
    advise(data, bytes, MADV_DONTNEED);
}

void nb_prefetch_pages(const void *data, size_t bytes) {
    advise(data, bytes, MADV_WILLNEED);
}

void nb_weight_prefetch(const struct nb_weight *weight) {
    if (!weight->mapped)
        return;
    uint64_t bytes = nb_matrix_bytes(weight->matrix);
    nb_prefetch_pages(weight->matrix->data, bytes < AHEAD_BYTES ? (size_t)bytes : AHEAD_BYTES);
}

/* A matrix being quantized. */
struct work {
    const struct nb_quantize_options *options;
    enum nb_quant_input input;
    const char *data;
    bool mapped;
    size_t element_bytes, n, blocks;
    const struct nb_quantized *out;
};

/* The piece that is AHEAD_BYTES after weight `at`. */
static void prefetch_ahead(const struct work *w, size_t at) {
    size_t ahead = at + AHEAD_BYTES / w->element_bytes;
    if (ahead < w->n)
        nb_prefetch_pages(w->data + ahead * w->element_bytes,
                          (w->n - ahead < PIECE ? w->n - ahead : PIECE) * w->element_bytes);
}

/* Codes and absmax of weights [begin, end). */
static void quantize_piece(void *context, int thread, size_t begin, size_t end) {
    (void)thread;
    const struct work *w = context;
    for (size_t at = begin; at < end; at += PIECE) {
        size_t n = end - at < PIECE ? end - at : PIECE;
        const void *x = w->data + at * w->element_bytes;
        if (w->mapped)
            prefetch_ahead(w, at);
        nb_quantize_fast(w->options->type, w->options->block, w->input, x, n,
                         w->out->codes + at / 2, w->out->absmax + at / w->options->block, NULL);
        if (w->mapped)
            nb_release_pages(x, n * w->element_bytes);
    }
}

/* Absmax codes of blocks [begin, end), which begin with a nested block. */
static void quantize_nested(void *context, int thread, size_t begin, size_t end) {
    (void)thread;
    const struct work *w = context;
    nb_quantize_absmax(w->out->absmax + begin, end - begin, w->out->nested_offset,
                       w->out->absmax_code + begin,
                       w->out->nested_absmax + begin / NB_NESTED_BLOCK);
}

enum nb_status nb_weight_quantize(const struct nb_weight *weight,
                                  const struct nb_quantize_options *options, struct nb_pool *pool,
                                  struct nb_quantized *out, struct nb_error *err) {
    const struct nb_matrix *m = weight->matrix;
    enum nb_status s = nb_quant_check_shape(options->type, options->block, err);
    if (s != NB_OK)
        return s;
    if (m->type == NB_WEIGHT_4BIT)
        return nb_fail(err, NB_ERR_UNSUPPORTED, "tensor %s is in 4 bits already", m->name);
    static const enum nb_quant_input inputs[] = {NB_QUANT_F32, NB_QUANT_F16, NB_QUANT_BF16};
    struct work w = {
        .options = options,
        .input = inputs[m->type],
        .data = m->data,
        .mapped = weight->mapped,
        .element_bytes = m->type == NB_WEIGHT_F32 ? 4 : 2,
        .n = n_weights(m),
        .blocks = nb_quant_blocks(n_weights(m), options->block),
        .out = out,
    };
    nb_pool_run(pool, w.n, PIECE, quantize_piece, &w);
    if (options->nested) {
        out->nested_offset = nb_absmax_mean(out->absmax, w.blocks);
        if (!isfinite(out->nested_offset)) /* all of the matrix would become NaN */
            return nb_fail(err, NB_ERR_FORMAT,
                           "tensor %s holds infinite values, which double quantization cannot code",
                           m->name);
        nb_pool_run(pool, w.blocks, NESTED_PIECE, quantize_nested, &w);
    }
    return NB_OK;
}

/* ---- a model in memory ---- */

/* Room for matrix m in 4 bits, and for its absmax before that is quantized, in `scratch`. */
static struct nb_quantized place_matrix(struct nb_layout *layout, const struct nb_matrix *m,
                                        const struct nb_quantize_options *o, float *scratch) {
    size_t n = n_weights(m), blocks = nb_quant_blocks(n, o->block);
    struct nb_quantized q = {.codes = nb_layout_place(layout, nb_quant_code_bytes(n)),
                             .absmax = scratch};
    if (!o->nested) {
        q.absmax = nb_layout_place(layout, blocks * sizeof *q.absmax);
        return q;
    }
    q.absmax_code = nb_layout_place(layout, blocks);
    q.nested_absmax = nb_layout_place(layout, nb_quant_nested_blocks(n, o->block, NB_NESTED_BLOCK) *
                                                  sizeof *q.nested_absmax);
    return q;
}

static enum nb_status quantize_in_place(const struct nb_weight *weight, struct nb_layout *layout,
                                        float *scratch, const float *nested_values,
                                        const struct nb_quantize_options *o, struct nb_pool *pool,
                                        struct nb_error *err) {
    struct nb_matrix *m = weight->matrix;
    struct nb_quantized q = place_matrix(layout, m, o, scratch);
    enum nb_status s = nb_weight_quantize(weight, o, pool, &q, err);
    if (s != NB_OK)
        return s;
    m->type = NB_WEIGHT_4BIT;
    m->data = NULL;
    m->quant = (struct nb_quant_view){
        .type = o->type,
        .n = n_weights(m),
        .block = o->block,
        .codes = q.codes,
        .values = nb_quant_values(o->type),
    };
    if (o->nested) {
        m->quant.absmax_code = q.absmax_code;
        m->quant.nested_values = nested_values;
        m->quant.nested_absmax = q.nested_absmax;
        m->quant.nested_block = NB_NESTED_BLOCK;
        m->quant.nested_offset = q.nested_offset;
    } else {
        m->quant.absmax = q.absmax;
    }
    s = nb_quant_check(&m->quant, err);
    return s == NB_OK ? s : nb_fail_prefix(err, s, "tensor %s", m->name);
}

/* What quantizing a model takes. */
struct plan {
    struct nb_weight *weights; /* those that are quantized */
    size_t n;
    size_t bytes;   /* of the result, the 256 nested values at the front */
    size_t scratch; /* absmax of the largest matrix */
    uint64_t source_bytes;
};

static enum nb_status make_plan(const struct nb_model *model,
                                const struct nb_quantize_options *options, struct nb_arena *arena,
                                struct plan *out, struct nb_error *err) {
    *out = (struct plan){0};
    size_t n = 0;
    enum nb_status s = nb_model_weights(model, arena, &out->weights, &n, err);
    struct nb_layout layout = {0};
    nb_layout_place(&layout, 256 * sizeof(float));
    for (size_t i = 0; s == NB_OK && i < n; i++) {
        struct nb_weight *w = &out->weights[i];
        if (!nb_weight_quantizes(w, options))
            continue;
        place_matrix(&layout, w->matrix, options, NULL);
        size_t blocks = nb_quant_blocks(n_weights(w->matrix), options->block);
        out->scratch = blocks > out->scratch ? blocks : out->scratch;
        out->source_bytes += nb_matrix_bytes(w->matrix);
        out->weights[out->n++] = *w;
    }
    out->bytes = layout.used;
    return s;
}

/* The plan's weights one after the other, into memory that the model then owns. */
static enum nb_status carry_out(struct nb_model *model, const struct plan *plan,
                                const struct nb_quantize_options *options, float *scratch,
                                struct nb_pool *pool,
                                void (*progress)(void *context, uint64_t done, uint64_t total),
                                void *context, struct nb_error *err) {
    struct nb_layout layout = {0};
    layout.base =
        mmap(NULL, plan->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!scratch || layout.base == MAP_FAILED)
        return nb_fail_memory(err, plan->bytes, "the quantized weights");
    model->quantized = (struct nb_map){layout.base, plan->bytes};
    model->tensors.bytes += plan->bytes - plan->source_bytes;
    float *nested_values = nb_layout_place(&layout, 256 * sizeof *nested_values);
    nb_dynamic_values(nested_values);
    uint64_t done = 0;
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < plan->n && i < NB_PREFETCH_WEIGHTS; i++)
        nb_weight_prefetch(&plan->weights[i]);
    for (size_t i = 0; i < plan->n && s == NB_OK; i++) {
        if (i + NB_PREFETCH_WEIGHTS < plan->n)
            nb_weight_prefetch(&plan->weights[i + NB_PREFETCH_WEIGHTS]);
        done += nb_matrix_bytes(plan->weights[i].matrix);
        s = quantize_in_place(&plan->weights[i], &layout, scratch, nested_values, options, pool,
                              err);
        if (progress)
            progress(context, done, plan->source_bytes);
    }
    return s;
}

enum nb_status nb_model_quantize(struct nb_model *model, const struct nb_quantize_options *options,
                                 struct nb_pool *pool,
                                 void (*progress)(void *context, uint64_t done, uint64_t total),
                                 void *context, struct nb_error *err) {
    struct nb_arena arena = {0};
    struct plan plan;
    enum nb_status s = nb_quant_check_shape(options->type, options->block, err);
    if (s == NB_OK)
        s = make_plan(model, options, &arena, &plan, err);
    if (s == NB_OK && plan.n) {
        float *scratch = nb_arena_alloc(&arena, plan.scratch, sizeof *scratch);
        s = carry_out(model, &plan, options, scratch, pool, progress, context, err);
    }
    nb_arena_free(&arena);
    return s;
}
