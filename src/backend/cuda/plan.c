#include "backend/cuda/plan.h"

#include "base/checked.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- what a layer is loaded from ---- */

void nb_cuda_nested_values(const struct nb_model *model, float out[256]) {
    nb_dynamic_values(out);
    for (int i = 0; model && i < model->config.n_layers; i++) {
        const struct nb_layer *l = &model->layers[i];
        const struct nb_matrix *some[] = {&l->q, &l->k, &l->v, &l->o, &l->experts[0].gate};
        for (size_t k = 0; k < sizeof some / sizeof *some; k++) {
            if (some[k]->type == NB_WEIGHT_4BIT && some[k]->quant.absmax_code) {
                memcpy(out, some[k]->quant.nested_values, 256 * sizeof *out);
                return;
            }
        }
    }
}

/* What a layer's matrices are made from: the layer, if there is one, and how. */
struct maker {
    const struct nb_quantize_options *quantize;
    const float *nested_values;
    struct nb_matrix *next; /* of the copies */
};

/* A matrix as it will be loaded; m is NULL for one that only its shape is known of. */
static const struct nb_matrix *loaded(struct maker *maker, const struct nb_matrix *m, int32_t rows,
                                      int32_t columns) {
    static const uint8_t no_code[1] = {0}; /* a place that is never read */
    struct nb_matrix *copy = maker->next++;
    const struct nb_quantize_options *how = m ? maker->quantize : &nb_quantize_defaults;
    *copy = m ? *m : (struct nb_matrix){.rows = rows, .columns = columns};
    if ((m && m->type == NB_WEIGHT_4BIT) || !how)
        return copy;
    copy->type = NB_WEIGHT_4BIT;
    copy->quant = (struct nb_quant_view){
        .type = how->type,
        .n = (size_t)rows * (size_t)columns,
        .block = how->block,
        .codes = no_code,
        .values = nb_quant_values(how->type),
        .absmax_code = how->nested ? no_code : NULL,
        .nested_values = how->nested ? maker->nested_values : NULL,
        .nested_block = how->nested ? NB_NESTED_BLOCK : 0,
    };
    return copy;
}

enum nb_status nb_cuda_layer_sources(const struct nb_config *config, const struct nb_layer *layer,
                                     const struct nb_quantize_options *quantize,
                                     const float *nested_values, struct nb_arena *arena,
                                     struct nb_cuda_layer_sources *out, struct nb_error *err) {
    const struct nb_config *c = config;
    size_t experts = (size_t)c->n_experts;
    struct maker maker = {quantize, nested_values, NULL};
    *out = (struct nb_cuda_layer_sources){0};
    out->gate_up = nb_arena_alloc(arena, experts, sizeof *out->gate_up);
    out->down = nb_arena_alloc(arena, experts, sizeof *out->down);
    maker.next = nb_arena_alloc(arena, 4 + 3 * experts, sizeof *maker.next);
    if (!out->gate_up || !out->down || !maker.next)
        return nb_fail_memory(err, experts * 3 * sizeof *maker.next, "the list of experts");
    int32_t q = c->n_heads * c->head_width, kv = c->n_kv_heads * c->head_width;
    out->qkv = (struct nb_cuda_source){
        .parts = {loaded(&maker, layer ? &layer->q : NULL, q, c->width),
                  loaded(&maker, layer ? &layer->k : NULL, kv, c->width),
                  loaded(&maker, layer ? &layer->v : NULL, kv, c->width)},
        .n_parts = 3,
    };
    if (c->head_width % NB_CUDA_TILE == 0) {
        out->qkv.order = NB_CUDA_ROTARY;
        out->qkv.n_rotary = 2;
        out->qkv.head_rows = c->head_width;
    }
    out->o = (struct nb_cuda_source){
        .parts = {loaded(&maker, layer ? &layer->o : NULL, c->width, q)}, .n_parts = 1};
    for (size_t i = 0; i < experts; i++) {
        const struct nb_expert *e = layer ? &layer->experts[i] : NULL;
        out->gate_up[i] = (struct nb_cuda_source){
            .parts = {loaded(&maker, e ? &e->gate : NULL, c->expert_width, c->width),
                      loaded(&maker, e ? &e->up : NULL, c->expert_width, c->width)},
            .n_parts = 2,
            .order = NB_CUDA_GATE_UP,
        };
        out->down[i] = (struct nb_cuda_source){
            .parts = {loaded(&maker, e ? &e->down : NULL, c->width, c->expert_width)},
            .n_parts = 1,
        };
    }
    nb_cuda_shape_of(&out->qkv, 1, nested_values, &out->qkv_shape);
    nb_cuda_shape_of(&out->o, 1, nested_values, &out->o_shape);
    nb_cuda_shape_of(out->gate_up, experts, nested_values, &out->gate_up_shape);
    nb_cuda_shape_of(out->down, experts, nested_values, &out->down_shape);
    return NB_OK;
}

void nb_cuda_head_shape(const struct nb_config *config, const struct nb_model *model,
                        const float *nested_values, struct nb_cuda_shape *out) {
    struct nb_matrix bf16 = {
        .rows = config->n_vocab, .columns = config->width, .type = NB_WEIGHT_BF16};
    struct nb_cuda_source source = {.parts = {model ? &model->head : &bf16}, .n_parts = 1};
    nb_cuda_shape_of(&source, 1, nested_values, out);
}

/* ---- bytes ---- */

static uint64_t aligned(uint64_t bytes) {
    return (bytes + NB_CUDA_ALIGN - 1) / NB_CUDA_ALIGN * NB_CUDA_ALIGN;
}

uint64_t nb_cuda_logit_bytes(const struct nb_config *config) {
    return aligned((uint64_t)NB_CUDA_LOGIT_ROWS * (uint64_t)config->n_vocab * 4);
}

/* Weights by part. */
static enum nb_status plan_weights(const struct nb_config *c, const struct nb_model *model,
                                   const struct nb_cuda_plan_options *o, struct nb_cuda_plan *p,
                                   struct nb_error *err) {
    float nested_values[256];
    nb_cuda_nested_values(model, nested_values);
    struct nb_arena arena = {0};
    uint64_t experts = (uint64_t)c->n_experts, width = (uint64_t)c->width;
    enum nb_status s = NB_OK;
    for (int i = 0; i < c->n_layers && s == NB_OK; i++) {
        struct nb_cuda_layer_sources l;
        s = nb_cuda_layer_sources(c, model ? &model->layers[i] : NULL, o->quantize, nested_values,
                                  &arena, &l, err);
        if (s != NB_OK)
            break;
        p->attention += aligned(l.qkv_shape.bytes) + aligned(l.o_shape.bytes);
        p->experts +=
            aligned(experts * l.gate_up_shape.bytes) + aligned(experts * l.down_shape.bytes);
        nb_arena_free(&arena);
    }
    nb_arena_free(&arena);
    struct nb_cuda_shape head;
    nb_cuda_head_shape(c, model, nested_values, &head);
    p->head = aligned(head.bytes);
    p->embedding = c->tied ? 0 : aligned((uint64_t)c->n_vocab * width * 2);
    uint64_t floats = (2 * (uint64_t)c->n_layers + 1) * width + (uint64_t)c->head_width / 2;
    if (c->qk_norm)
        floats += 2 * (uint64_t)c->n_layers * (uint64_t)c->head_width;
    if (!c->dense)
        floats += (uint64_t)c->n_layers * experts * width;
    /* Each of at most 5 vectors a layer is aligned; a layer's struct takes less than 1,024 bytes.
     */
    p->small = aligned(floats * 4 + (uint64_t)c->n_layers * (5 * NB_CUDA_ALIGN + 1024) + 8192);
    return s;
}

/* An estimate, from above, of what a forward pass of the kernels writes besides keys and values. */
static uint64_t estimate_workspace(const struct nb_config *c, size_t tokens) {
    uint64_t n = tokens, D = (uint64_t)c->width, q = (uint64_t)c->n_heads * (uint64_t)c->head_width,
             kv = (uint64_t)c->n_kv_heads * (uint64_t)c->head_width,
             k = (uint64_t)c->experts_per_token, F = (uint64_t)c->expert_width;
    uint64_t stream = n * D * (4 + 2 + 2), attention = n * ((q + 2 * kv) * 4 + q * 2),
             experts = n * k * (F * 2 + D * 4);
    return stream + attention + experts + ((uint64_t)64 << 20);
}

/* Loading borrows it, so that it is never so small that little is on its way at a time. */
static uint64_t workspace_of(const struct nb_config *c, const struct nb_cuda_plan_options *o,
                             size_t tokens) {
    const uint64_t least = (uint64_t)48 << 20;
    uint64_t bytes =
        o->workspace ? o->workspace(o->workspace_context, tokens) : estimate_workspace(c, tokens);
    return aligned(bytes > least ? bytes : least);
}

/* Completes a plan for batches of so many tokens. */
static void set_batch(const struct nb_config *c, const struct nb_cuda_plan_options *o,
                      size_t tokens, bool on_host, struct nb_cuda_plan *p) {
    uint64_t tables =
        (uint64_t)NB_CUDA_MAX_SEQUENCES * nb_div_up((size_t)o->context, NB_PAGE_TOKENS);
    p->max_batch_tokens = tokens;
    p->workspace = workspace_of(c, o, tokens);
    p->step = aligned((4 * (uint64_t)tokens + tables) * 4) + nb_cuda_logit_bytes(c);
    p->embedding_on_host = on_host && p->embedding;
    p->on_host = p->embedding_on_host ? p->embedding : 0;
    p->total = p->experts + p->attention + p->head + p->small + p->kv + p->workspace + p->step +
               (p->embedding_on_host ? 0 : p->embedding);
}

/* ---- verdicts ---- */

static double gib(uint64_t bytes) {
    return (double)bytes / (double)((uint64_t)1 << 30);
}

/* The longest context, a multiple of 256, that what is left has room for. */
static int32_t context_that_fits(const struct nb_cuda_plan_options *o, const struct nb_cuda_plan *p,
                                 uint64_t kv_page) {
    uint64_t fixed = p->total - p->kv,
             sequences = o->n_pages / nb_div_up((size_t)o->context, NB_PAGE_TOKENS);
    if (o->available <= fixed || !sequences)
        return 0;
    uint64_t positions = (o->available - fixed) / kv_page / sequences * NB_PAGE_TOKENS;
    return positions >= (uint64_t)o->context ? o->context : (int32_t)(positions - positions % 256);
}

/* The refusal: *p is the least that the model takes. */
static enum nb_status refuse(const struct nb_config *c, const struct nb_cuda_plan_options *o,
                             const struct nb_cuda_plan *p, struct nb_error *err) {
    char hint[256];
    int32_t context = context_that_fits(o, p, p->kv_page);
    int32_t fp8 = o->kv_fp8 ? 0 : context_that_fits(o, p, p->kv_page / 2);
    size_t sequences = o->n_pages / nb_div_up((size_t)o->context, NB_PAGE_TOKENS);
    if (fp8 >= o->context)
        snprintf(hint, sizeof hint, "it fits with --kv-type fp8%s%.0d%s",
                 context >= 256 ? ", or with --context " : "", context >= 256 ? context : 0, "");
    else if (context >= 256)
        snprintf(hint, sizeof hint, "it fits with --context %d%s", context,
                 o->kv_fp8 ? "" : ", and with --kv-type fp8 up to twice that");
    else if (fp8 >= 256)
        snprintf(hint, sizeof hint, "it fits with --kv-type fp8 and --context %d", fp8);
    else
        snprintf(hint, sizeof hint,
                 "no context fits: it takes a GPU, or a limit, of at least %.2f GiB, or --backend "
                 "cpu",
                 gib(p->total - p->kv + (p->kv / (o->n_pages ? o->n_pages : 1)) * 16));
    (void)c;
    return nb_fail(err, NB_ERR_MEMORY,
                   "the model takes %.2f GiB of the GPU's memory (weights %.2f, keys and values of "
                   "%zu x %d positions %.2f, scratch %.2f), and %.2f GiB are there; %s",
                   gib(p->total),
                   gib(p->experts + p->attention + p->head + p->small +
                       (p->embedding_on_host ? 0 : p->embedding)),
                   sequences, o->context, gib(p->kv), gib(p->workspace + p->step),
                   gib(o->available), hint);
}

enum nb_status nb_cuda_plan(const struct nb_config *config, const struct nb_model *model,
                            const struct nb_cuda_plan_options *options, struct nb_cuda_plan *out,
                            struct nb_error *err) {
    const struct nb_cuda_plan_options *o = options;
    *out = (struct nb_cuda_plan){0};
    enum nb_status s = plan_weights(config, model, o, out, err);
    if (s != NB_OK)
        return s;
    out->kv_token = 2 * (uint64_t)config->n_layers * (uint64_t)config->n_kv_heads *
                    (uint64_t)config->head_width * (o->kv_fp8 ? 1 : 2);
    out->kv_page = out->kv_token * NB_PAGE_TOKENS;
    out->kv = aligned(out->kv_page * o->n_pages);
    /* Larger batches keep the tensor cores busier in prefill; the embedding, of which a step reads
     * one row a token, is what the host may keep. */
    static const struct {
        size_t tokens;
        bool on_host;
    } choices[] = {{8192, false}, {4096, false}, {2048, false}, {2048, true}, {1024, false},
                   {1024, true},  {512, false},  {512, true},   {256, true},  {64, true}};
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        size_t tokens = o->max_batch_tokens ? o->max_batch_tokens : choices[i].tokens;
        set_batch(config, o, tokens, choices[i].on_host, out);
        if (!o->available || out->total <= o->available)
            return NB_OK;
    }
    return refuse(config, o, out, err);
}
