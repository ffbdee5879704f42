#include "model/synthetic.h"

#include "base/checked.h"
#include "base/layout.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const struct shape {
    const char *name;
    int32_t n_layers, width, n_heads, n_kv_heads, head_width, n_experts, experts_per_token,
        expert_width, n_vocab, context;
    bool qk_norm;
} shapes[] = {
    {"mixtral-8x7b", 32, 4096, 32, 8, 128, 8, 2, 14336, 32000, 32768, false},
    {"mixtral-8x22b", 56, 6144, 48, 8, 128, 8, 2, 16384, 32768, 65536, false},
    {"qwen3-30b-a3b", 48, 2048, 32, 4, 128, 128, 8, 768, 151936, 32768, true},
    {"tiny", 2, 256, 4, 2, 64, 4, 2, 320, 512, 1024, false}, /* these two for tests */
    {"small", 3, 512, 4, 2, 128, 8, 2, 448, 512, 1024, false},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes, BLOCK = 64 };

const char *nb_synthetic_names(char *out, size_t size) {
    size_t used = 0;
    out[0] = 0;
    for (size_t i = 0; i < N_SHAPES && used < size; i++)
        used += (size_t)snprintf(out + used, size - used, "%s%s", i ? ", " : "", shapes[i].name);
    return out;
}

/* What all 4-bit matrices share. Values of the absmax codes from -1 to 1, evenly: real ones crowd
 * around 0, which takes no longer. */
struct tables {
    float dynamic[256];
    bool bf16; /* linear layers are not in 4 bits */
};

static void place_bf16(struct nb_layout *layout, int32_t rows, int32_t columns,
                       struct nb_matrix *m) {
    *m = (struct nb_matrix){
        .name = "synthetic",
        .rows = rows,
        .columns = columns,
        .type = NB_WEIGHT_BF16,
        .data = nb_layout_place(layout, (size_t)rows * (size_t)columns * 2),
    };
}

/* A linear layer, [rows, columns], in 4 bits or bf16, whose outputs are about as large as its
 * inputs (NF4's codes, evenly drawn, have a mean square near 1/4). Scales have both signs, which
 * real ones do not: NF4's codes, evenly drawn, have a mean of 0.02, and with scales of one sign
 * that mean, common to all weights, outgrows everything else within a few layers: all tokens become
 * alike and choose the same experts, and a step of many reads too little. */
static void place_linear(struct nb_layout *layout, const struct tables *tables, int32_t rows,
                         int32_t columns, struct nb_matrix *m) {
    if (tables->bf16) {
        place_bf16(layout, rows, columns, m);
        return;
    }
    size_t n = (size_t)rows * (size_t)columns, blocks = nb_quant_blocks(n, BLOCK),
           nested = nb_quant_nested_blocks(n, BLOCK, NB_NESTED_BLOCK);
    uint8_t *codes = nb_layout_place(layout, nb_quant_code_bytes(n)),
            *absmax = nb_layout_place(layout, blocks);
    float *nested_absmax = nb_layout_place(layout, nested * sizeof *nested_absmax);
    float mean = 2.0f / sqrtf((float)columns);
    for (size_t i = 0; nested_absmax && i < nested; i++)
        nested_absmax[i] = 1.8f * mean;
    *m = (struct nb_matrix){
        .name = "synthetic",
        .rows = rows,
        .columns = columns,
        .type = NB_WEIGHT_4BIT,
        .quant = {.type = NB_QUANT_NF4,
                  .n = n,
                  .block = BLOCK,
                  .codes = codes,
                  .values = nb_nf4_values,
                  .absmax_code = absmax,
                  .nested_values = tables->dynamic,
                  .nested_absmax = nested_absmax,
                  .nested_block = NB_NESTED_BLOCK,
                  .nested_offset = 0},
    };
}

static void place_ones(struct nb_layout *layout, int32_t n, struct nb_vector *v) {
    uint16_t *data = nb_layout_place(layout, (size_t)n * 2);
    for (int32_t i = 0; data && i < n; i++)
        data[i] = 0x3F80;
    *v = (struct nb_vector){.name = "synthetic", .n = n, .type = NB_WEIGHT_BF16, .data = data};
}

static void place_layer(struct nb_layout *layout, const struct tables *tables,
                        const struct nb_config *c, struct nb_layer *l) {
    int32_t q = c->n_heads * c->head_width, kv = c->n_kv_heads * c->head_width;
    place_ones(layout, c->width, &l->attention_norm);
    place_linear(layout, tables, q, c->width, &l->q);
    place_linear(layout, tables, kv, c->width, &l->k);
    place_linear(layout, tables, kv, c->width, &l->v);
    place_linear(layout, tables, c->width, q, &l->o);
    if (c->qk_norm) {
        place_ones(layout, c->head_width, &l->q_norm);
        place_ones(layout, c->head_width, &l->k_norm);
    }
    place_ones(layout, c->width, &l->expert_norm);
    place_linear(layout, tables, c->n_experts, c->width, &l->router);
    for (int e = 0; e < c->n_experts; e++) {
        place_linear(layout, tables, c->expert_width, c->width, &l->experts[e].gate);
        place_linear(layout, tables, c->expert_width, c->width, &l->experts[e].up);
        place_linear(layout, tables, c->width, c->expert_width, &l->experts[e].down);
    }
}

static void place_all(struct nb_layout *layout, const struct tables *tables, struct nb_model *m) {
    const struct nb_config *c = &m->config;
    place_bf16(layout, c->n_vocab, c->width, &m->embedding);
    for (int i = 0; i < c->n_layers; i++)
        place_layer(layout, tables, c, &m->layers[i]);
    place_ones(layout, c->width, &m->norm);
    place_bf16(layout, c->n_vocab, c->width, &m->head);
}

/* splitmix64, Steele, Lea and Flood, 2014: good bits from a counter, so that threads need not take
 * turns. */
static uint64_t random_at(uint64_t i) {
    uint64_t z = (i + 1) * 0x9E3779B97F4A7C15;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
    z = (z ^ z >> 27) * 0x94D049BB133111EB;
    return z ^ z >> 31;
}

static void fill_words(void *context, int thread, size_t begin, size_t end) {
    (void)thread;
    uint64_t *words = context;
    for (size_t i = begin; i < end; i++)
        words[i] = random_at(i);
}

struct shape_job {
    uint16_t *data;
    int exponent;
};

static void shape_range(void *context, int thread, size_t begin, size_t end) {
    (void)thread;
    struct shape_job *job = context;
    for (size_t i = begin; i < end; i++)
        job->data[i] = (uint16_t)((job->data[i] & 0x807F) | (127 + job->exponent) << 7);
}

/* Random bits to bf16: sign and mantissa stay, the exponent makes it [2^exponent, 2^(exponent+1)).
 */
static void shape_bf16(struct nb_pool *pool, const struct nb_matrix *m, int exponent) {
    struct shape_job job = {(uint16_t *)m->data, exponent};
    nb_pool_run(pool, (size_t)m->rows * (size_t)m->columns, 1 << 20, shape_range, &job);
}

/* The linear layers of a model in bf16: outputs about as large as inputs. */
static void shape_layers(struct nb_pool *pool, struct nb_model *m) {
    for (int i = 0; i < m->config.n_layers; i++) {
        struct nb_layer *l = &m->layers[i];
        const struct nb_matrix *rest[] = {&l->q, &l->k, &l->v, &l->o, &l->router};
        for (size_t k = 0; k < sizeof rest / sizeof *rest; k++)
            shape_bf16(pool, rest[k], -(ilogbf(sqrtf((float)rest[k]->columns)) + 1));
        for (int e = 0; e < m->config.n_experts; e++) {
            const struct nb_matrix *of[] = {&l->experts[e].gate, &l->experts[e].up,
                                            &l->experts[e].down};
            for (size_t k = 0; k < 3; k++)
                shape_bf16(pool, of[k], -(ilogbf(sqrtf((float)of[k]->columns)) + 1));
        }
    }
}

static enum nb_status read_spec(const char *spec, struct nb_config *out, bool *bf16,
                                struct nb_error *err) {
    static const char suffix[] = "-bf16";
    size_t whole = strcspn(spec, ":"), n = whole, m = sizeof suffix - 1;
    *bf16 = whole > m && memcmp(spec + whole - m, suffix, m) == 0;
    n -= *bf16 ? m : 0;
    const struct shape *s = NULL;
    for (size_t i = 0; i < N_SHAPES; i++) {
        if (strlen(shapes[i].name) == n && memcmp(shapes[i].name, spec, n) == 0)
            s = &shapes[i];
    }
    char names[128];
    if (!s)
        return nb_fail(err, NB_ERR_ARGUMENT, "no synthetic model \"%.64s\", only %s", spec,
                       nb_synthetic_names(names, sizeof names));
    long layers = s->n_layers;
    if (spec[whole]) {
        char *end;
        errno = 0;
        layers = strtol(spec + whole + 1, &end, 10);
        if (end == spec + whole + 1 || *end || errno || layers < 1 || layers > s->n_layers)
            return nb_fail(err, NB_ERR_ARGUMENT,
                           "synthetic model \"%.64s\": expected 1 to %d layers after the colon",
                           spec, s->n_layers);
    }
    *out = (struct nb_config){
        .model_type = "",
        .n_vocab = s->n_vocab,
        .n_layers = (int32_t)layers,
        .width = s->width,
        .n_heads = s->n_heads,
        .n_kv_heads = s->n_kv_heads,
        .head_width = s->head_width,
        .n_experts = s->n_experts,
        .experts_per_token = s->experts_per_token,
        .expert_width = s->expert_width,
        .context = s->context,
        .rms_eps = 1e-5f,
        .rope = {.theta = 1e6},
        .normalize_experts = true,
        .qk_norm = s->qk_norm,
        .bos = 1,
        .eos = {2},
        .n_eos = 1,
    };
    snprintf(out->model_type, sizeof out->model_type, s->qk_norm ? "qwen3_moe" : "mixtral");
    return NB_OK;
}

/* Layers, tables and the list of maps, which own the memory once it is there. */
static struct tables *make_frame(struct nb_model *m, bool bf16) {
    const struct nb_config *c = &m->config;
    struct tables *tables = nb_arena_alloc(&m->arena, 1, sizeof *tables);
    m->layers = nb_arena_alloc(&m->arena, (size_t)c->n_layers, sizeof *m->layers);
    m->tensors.maps = nb_arena_alloc(&m->tensors.arena, 1, sizeof *m->tensors.maps);
    if (!tables || !m->layers || !m->tensors.maps)
        return NULL;
    for (int i = 0; i < c->n_layers; i++) {
        m->layers[i].experts =
            nb_arena_alloc(&m->arena, (size_t)c->n_experts, sizeof *m->layers[i].experts);
        if (!m->layers[i].experts)
            return NULL;
    }
    tables->bf16 = bf16;
    for (int i = 0; i < 256; i++)
        tables->dynamic[i] = ((float)i - 127.5f) / 127.5f;
    return tables;
}

enum nb_status nb_model_synthetic(const char *spec, struct nb_pool *pool, struct nb_model *out,
                                  struct nb_error *err) {
    *out = (struct nb_model){0};
    bool bf16;
    enum nb_status s = read_spec(spec, &out->config, &bf16, err);
    if (s != NB_OK)
        return s;
    struct tables *tables = make_frame(out, bf16);
    struct nb_layout layout = {0};
    if (tables) {
        place_all(&layout, tables, out);
        layout.base =
            mmap(NULL, layout.used, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    if (!tables || layout.base == MAP_FAILED) {
        nb_model_close(out);
        return nb_fail_memory(err, layout.used, spec);
    }
    madvise(layout.base, layout.used, MADV_HUGEPAGE);
    out->tensors.maps[0] = (struct nb_map){layout.base, layout.used};
    out->tensors.n_files = 1;
    out->tensors.bytes = layout.used;
    nb_pool_run(pool, layout.used / sizeof(uint64_t), 1 << 20, fill_words, layout.base);
    layout.used = 0;
    place_all(&layout, tables, out);
    shape_bf16(pool, &out->embedding, -1);
    shape_bf16(pool, &out->head, -6);
    if (tables->bf16)
        shape_layers(pool, out);
    return NB_OK;
}
