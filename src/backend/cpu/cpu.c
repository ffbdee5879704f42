/* The CPU backend: the forward pass of a Mixtral and its relatives, in f32, as its definition
 * reads.
 *
 * Weights stay where the checkpoint maps them, in their own type, or 4-bit ones are copied into the
 * order that kernels read fastest. Where there is no better kernel, a few rows at a time are
 * widened to f32 and multiplied with every token of the batch. The architecture: Jiang et al.,
 * "Mixtral of Experts", 2024; rope: Su et al., "RoFormer", 2021, with the halves paired as
 * transformers does; SwiGLU: Shazeer, 2020.
 */
#include "backend/backend.h"

#include "backend/cpu/kernels.h"
#include "backend/cpu/phases.h"
#include "base/checked.h"
#include "base/float16.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/pool.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    BATCH_TOKENS = 512,              /* of a batch, where nobody says otherwise */
    QUICK_PACK = 1 << 30,            /* bytes that are laid out anew without being asked */
    PIECE_BYTES = 1 << 17,           /* of weights, for which a thread returns to the pool */
    GATED_ROWS = 2 * NB_FIXED_BLOCK, /* of gate and up, that are done together: where the kernels'
                                        order of columns repeats itself */
};

/* A matrix, and the same laid out anew if it was. */
struct weights {
    const struct nb_matrix *m;
    struct nb_fixed_packed packed;
};

struct expert {
    struct weights gate, up, down;
};

struct layer {
    struct weights q, k, v, o, router;
    struct expert *experts; /* [E] */
};

/* A product to be done: y[t, r] = sum over k of x[t, k] * w[r, k]. */
struct product {
    const struct weights *w; /* [rows, columns] */
    const float *x;          /* [n_tokens, columns] */
    float *y;                /* [n_tokens, rows] */
    size_t n_tokens;
};

/* What a token is given to by the router. */
struct choice {
    int32_t expert;
    float weight;
};

struct cpu {
    struct nb_backend base;
    struct nb_pool *pool;
    const struct nb_kernels *kernels;
    size_t max_tokens; /* of a batch */
    int32_t context;   /* of a sequence */

    const struct nb_model *model;
    struct layer *layers; /* [n_layers] */
    struct weights head;
    void *packed; /* memory of what was laid out anew, or NULL */
    size_t packed_bytes;
    const char *layout;   /* "mapped", "packed", or NULL for what memory allows */
    size_t pages_to_come; /* of KV memory, for which room is to be left */
    float *norms;         /* f32: [n_layers, 2, D] and [D] */
    float *head_norms;    /* f32: [n_layers, 2, d] of queries and keys, where config.qk_norm */
    float *frequencies;   /* [d / 2] of rope */

    /* KV memory: a page holds, for each layer, keys [G, NB_PAGE_TOKENS, d] and then values alike.
     */
    float *kv;
    size_t n_pages;

    /* Scratch for a batch of T = max_tokens tokens; k = experts_per_token. */
    struct nb_arena arena;
    float *x;                 /* [T, D] the residual stream */
    float *normed;            /* [T, D] */
    float *q;                 /* [T, H * d] */
    float *k, *v;             /* [T, G * d] */
    float *attended;          /* [T, H * d] */
    float *cosine, *sine;     /* [T, d / 2] */
    float *router;            /* [T, E] */
    struct choice *choices;   /* [T, k] */
    float *gathered;          /* [T * k, D] inputs of the experts, grouped by expert */
    float *gate, *up;         /* [T * k, F] */
    float *down;              /* [T * k, D] outputs in the same order */
    int32_t *slot;            /* [T, k] the row of `gathered` where a token's choice is */
    size_t *expert_begin;     /* [E + 1] first row of each expert in `gathered` */
    struct product *products; /* [3 E] */
    float **rows;             /* [threads]: NB_TILE_ROWS rows of weights, widened */
    struct nb_fixed fixed;    /* [T * k] inputs of products, where the kernels want fixed point */
    struct nb_fixed fixed_inner;            /* [T * k] inputs of the experts' last, likewise */
    struct nb_fixed_scratch *fixed_scratch; /* [threads] */
    float **scores;                         /* [threads]: [context] of attention */
    struct nb_phases phases;
};

/* ---- products with weights ---- */

/* Row r of a matrix as f32. */
static void widen_row(const struct nb_kernels *kernels, const struct nb_matrix *m, size_t r,
                      float *out) {
    size_t n = (size_t)m->columns, first = r * n;
    switch (m->type) {
    case NB_WEIGHT_F32:
        memcpy(out, (const float *)m->data + first, n * sizeof *out);
        break;
    case NB_WEIGHT_F16:
        for (size_t i = 0; i < n; i++)
            out[i] = nb_f16_to_f32(((const uint16_t *)m->data)[first + i]);
        break;
    case NB_WEIGHT_BF16:
        kernels->widen_bf16((const uint16_t *)m->data + first, n, out);
        break;
    case NB_WEIGHT_4BIT:
        kernels->dequantize(&m->quant, first, n, out);
        break;
    }
}

/* Rows [r, r + rows) of one product, for all its tokens. */
static void multiply_rows(struct cpu *cpu, const struct product *p, size_t r, int rows,
                          float *scratch) {
    const struct nb_matrix *w = p->w->m;
    size_t n = (size_t)w->columns, n_rows = (size_t)w->rows;
    const uint16_t *bf16 = w->type == NB_WEIGHT_BF16 && cpu->kernels->products_bf16
                               ? (const uint16_t *)w->data + r * n
                               : NULL;
    for (int i = 0; !bf16 && i < rows; i++)
        widen_row(cpu->kernels, w, r + (size_t)i, scratch + (size_t)i * n);
    for (size_t t = 0; t < p->n_tokens; t += NB_TILE_TOKENS) {
        size_t left = p->n_tokens - t;
        int tokens = left < NB_TILE_TOKENS ? (int)left : NB_TILE_TOKENS;
        float *y = p->y + t * n_rows + r;
        if (bf16)
            cpu->kernels->products_bf16(p->x + t * n, n, tokens, bf16, n, rows, n, y, n_rows);
        else
            cpu->kernels->products(p->x + t * n, n, tokens, scratch, n, rows, n, y, n_rows);
    }
}

struct products_job {
    struct cpu *cpu;
    const struct product *products;
    size_t n;
    const float *x; /* [tokens, columns] of all products: each has its own rows or the same */
    size_t columns;
    const struct nb_fixed *fixed; /* x in fixed point, or NULL where no product takes it */
};

/* Whether a matrix is multiplied in fixed point. */
static bool in_fixed(const struct cpu *cpu, const struct weights *w) {
    const struct nb_fixed_kernels *fixed = cpu->kernels->fixed;
    return w->packed.codes || (fixed && !fixed->packed_only && nb_fixed_takes(w->m));
}

/* Rows [r, r + rows) of one product, a strip. */
static void multiply_strip(const struct products_job *job, int thread, const struct product *p,
                           size_t r, size_t rows) {
    struct cpu *cpu = job->cpu;
    if (job->fixed && in_fixed(cpu, p->w)) {
        const struct nb_fixed *x = job->fixed;
        size_t token = (size_t)(p->x - job->x) / job->columns;
        const struct nb_fixed_job fixed = {
            .w = &p->w->m->quant,
            .packed = p->w->packed.codes ? &p->w->packed : NULL,
            .columns = job->columns,
            .row = r,
            .rows = rows,
            .x = {x->q + token * x->q_stride, x->scale + token * x->scale_stride, x->q_stride,
                  x->scale_stride},
            .tokens = p->n_tokens,
            .y = p->y,
            .y_stride = (size_t)p->w->m->rows,
            .scratch = &cpu->fixed_scratch[thread],
        };
        cpu->kernels->fixed->products(&fixed);
        return;
    }
    for (size_t i = 0; i < rows; i += NB_TILE_ROWS)
        multiply_rows(cpu, p, r + i, (int)(rows - i < NB_TILE_ROWS ? rows - i : NB_TILE_ROWS),
                      cpu->rows[thread]);
}

/* Strips of NB_FIXED_ROWS rows, numbered through all products of the job. */
static void run_strips(void *context, int thread, size_t begin, size_t end) {
    struct products_job *job = context;
    size_t strip = begin;
    for (size_t i = 0; i < job->n && strip < end; i++) {
        const struct product *p = &job->products[i];
        size_t rows = (size_t)p->w->m->rows, strips = nb_div_up(rows, NB_FIXED_ROWS);
        for (; strip < strips && strip < end; strip++) {
            size_t r = strip * NB_FIXED_ROWS, left = rows - r;
            multiply_strip(job, thread, p, r, left < NB_FIXED_ROWS ? left : NB_FIXED_ROWS);
        }
        if (end <= strips)
            return;
        strip -= strips;
        end -= strips;
    }
}

struct to_fixed_job {
    struct cpu *cpu;
    const float *x;
    size_t columns;
    const struct nb_fixed *to;
};

/* Tokens [begin, end) of x to fixed point. */
static void run_to_fixed(void *context, int thread, size_t begin, size_t end) {
    (void)thread;
    struct to_fixed_job *job = context;
    const struct nb_fixed *to = job->to;
    for (size_t t = begin; t < end; t++)
        job->cpu->kernels->fixed->to_fixed(job->x + t * job->columns, job->columns,
                                           to->q + t * to->q_stride,
                                           to->scale + t * to->scale_stride);
}

/* Whether one of the products takes fixed point. */
static bool any_fixed(const struct cpu *cpu, const struct product *products, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (in_fixed(cpu, products[i].w))
            return true;
    }
    return false;
}

/* A job of products that share their number of columns and take their inputs from x, [tokens,
 * columns]; with x in fixed point, where one of them takes that. */
static struct products_job make_job(struct cpu *cpu, const float *x, size_t tokens,
                                    const struct product *products, size_t n) {
    size_t columns = (size_t)products[0].w->m->columns;
    const struct nb_fixed *fixed = any_fixed(cpu, products, n) ? &cpu->fixed : NULL;
    if (fixed) {
        struct to_fixed_job to_fixed = {cpu, x, columns, fixed};
        nb_pool_run(cpu->pool, tokens, 4, run_to_fixed, &to_fixed);
    }
    return (struct products_job){cpu, products, n, x, columns, fixed};
}

static uint64_t bytes_of(const struct product *products, size_t n) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += nb_matrix_bytes(products[i].w->m);
    return bytes;
}

/* All products of a job at once, so that threads meet at one barrier. */
static void run_products(struct products_job *job, enum nb_phase phase) {
    enum { PIECES = 64 }; /* for each thread, or more: none waits long for another at the end */
    struct nb_pool *pool = job->cpu->pool;
    size_t strips = 0;
    for (size_t i = 0; i < job->n; i++)
        strips += nb_div_up((size_t)job->products[i].w->m->rows, NB_FIXED_ROWS);
    uint64_t bytes = bytes_of(job->products, job->n);
    size_t grain = strips / ((size_t)nb_pool_size(pool) * PIECES),
           most = strips * PIECE_BYTES / (bytes + 1); /* strips of PIECE_BYTES */
    grain = grain < most ? grain : most;
    nb_pool_run_shares(pool, strips, grain ? grain : 1, run_strips, job);
    nb_phases_mark(&job->cpu->phases, phase, bytes);
}

static void multiply(struct cpu *cpu, enum nb_phase phase, const float *x, size_t tokens,
                     const struct product *products, size_t n) {
    struct products_job job = make_job(cpu, x, tokens, products, n);
    run_products(&job, phase);
}

/* ---- the parts of a layer ---- */

/* y[n] = x[n] / sqrt(mean(x^2) + eps) * w[n]: RMSNorm, Zhang and Sennrich, 2019. */
static void rms_norm(const float *x, const float *w, size_t n, float eps, float *y) {
    double part[8] = {0}, sum = 0; /* sums that do not wait for each other */
    size_t even = n - n % 8;
    for (size_t i = 0; i < even; i += 8) {
        for (size_t j = 0; j < 8; j++)
            part[j] += (double)x[i + j] * x[i + j];
    }
    for (size_t i = even; i < n; i++)
        sum += (double)x[i] * x[i];
    for (size_t j = 0; j < 8; j++)
        sum += part[j];
    float scale = 1.0f / sqrtf((float)(sum / (double)n) + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] * scale * w[i];
}

static void norm_all(struct cpu *cpu, const float *w, size_t n_tokens) {
    size_t width = (size_t)cpu->model->config.width;
    for (size_t t = 0; t < n_tokens; t++)
        rms_norm(cpu->x + t * width, w, width, cpu->model->config.rms_eps, cpu->normed + t * width);
    nb_phases_mark(&cpu->phases, NB_PHASE_NORM, 0);
}

/* Turns each pair (x[i], x[i + d/2]) of a head by its angle. */
static void rotate(float *head, size_t half, const float *cosine, const float *sine) {
    for (size_t i = 0; i < half; i++) {
        float a = head[i], b = head[i + half];
        head[i] = a * cosine[i] - b * sine[i];
        head[i + half] = b * cosine[i] + a * sine[i];
    }
}

/* Keys of a layer in a page; its values follow. [G, NB_PAGE_TOKENS, d] */
static float *page_keys(const struct cpu *cpu, int32_t page, int layer) {
    const struct nb_config *c = &cpu->model->config;
    size_t part = (size_t)c->n_kv_heads * NB_PAGE_TOKENS * (size_t)c->head_width;
    return cpu->kv + ((size_t)page * (size_t)c->n_layers + (size_t)layer) * 2 * part;
}

static float *page_values(const struct cpu *cpu, int32_t page, int layer) {
    const struct nb_config *c = &cpu->model->config;
    return page_keys(cpu, page, layer) +
           (size_t)c->n_kv_heads * NB_PAGE_TOKENS * (size_t)c->head_width;
}

/* Norms each head of the batch's queries or keys, in place. heads: [n, d], w: [d] */
static void norm_heads(const struct cpu *cpu, float *heads, size_t n, const float *w) {
    size_t d = (size_t)cpu->model->config.head_width;
    for (size_t i = 0; i < n; i++)
        rms_norm(heads + i * d, w, d, cpu->model->config.rms_eps, heads + i * d);
}

/* Rotates queries and keys and puts keys and values of the batch into their pages. */
static void store_kv(struct cpu *cpu, const struct nb_batch *batch, int layer) {
    const struct nb_config *c = &cpu->model->config;
    size_t d = (size_t)c->head_width, half = d / 2, heads = (size_t)c->n_heads,
           kv_heads = (size_t)c->n_kv_heads;
    for (size_t t = 0; t < batch->n_tokens; t++) {
        const float *cosine = cpu->cosine + t * half, *sine = cpu->sine + t * half;
        for (size_t h = 0; h < heads; h++)
            rotate(cpu->q + (t * heads + h) * d, half, cosine, sine);
        int32_t position = batch->position[t];
        int32_t page = batch->pages[batch->sequence[t]][position / NB_PAGE_TOKENS];
        size_t at = (size_t)(position % NB_PAGE_TOKENS);
        float *keys = page_keys(cpu, page, layer), *values = page_values(cpu, page, layer);
        for (size_t g = 0; g < kv_heads; g++) {
            float *k = cpu->k + (t * kv_heads + g) * d;
            rotate(k, half, cosine, sine);
            memcpy(keys + (g * NB_PAGE_TOKENS + at) * d, k, d * sizeof *k);
            memcpy(values + (g * NB_PAGE_TOKENS + at) * d, cpu->v + (t * kv_heads + g) * d,
                   d * sizeof *k);
        }
    }
}

/* Fetches n floats that are needed soon. The processor foresees what follows in memory, not where
 * the next page of keys is. */
static void fetch(const float *p, size_t n) {
    for (size_t i = 0; i < n; i += 64 / sizeof *p)
        __builtin_prefetch(p + i, 0, 2);
}

struct attention_job {
    struct cpu *cpu;
    const struct nb_batch *batch;
    int layer;
};

/* The query heads of one token that share KV head g, over all positions up to its own: keys and
 * values are read once for all of them. scores: [heads of the group, context] */
static void attend(struct attention_job *job, size_t t, size_t g, float *scores) {
    struct cpu *cpu = job->cpu;
    const struct nb_config *c = &cpu->model->config;
    size_t d = (size_t)c->head_width, heads = (size_t)c->n_heads,
           group = heads / (size_t)c->n_kv_heads, stride = (size_t)cpu->context;
    const int32_t *pages = job->batch->pages[job->batch->sequence[t]];
    /* Positions [first, n): all, or those within the window; pages begin at multiples of a tile. */
    size_t n = (size_t)job->batch->position[t] + 1, window = (size_t)c->window;
    size_t first = window && n > window ? n - window : 0;
    const float *q = cpu->q + (t * heads + g * group) * d;
    size_t begin = first - first % NB_TILE_ROWS, part = g * NB_PAGE_TOKENS * d,
           whole = NB_PAGE_TOKENS * d; /* where a page has the group's, and how many */
    for (size_t p = begin; p < n; p += NB_TILE_ROWS) {
        int rows = n - p < NB_TILE_ROWS ? (int)(n - p) : NB_TILE_ROWS;
        size_t page = p / NB_PAGE_TOKENS, at = p % NB_PAGE_TOKENS;
        const float *keys = page_keys(cpu, pages[page], job->layer) + part + at * d;
        if (at == 0 || p == begin)
            fetch(part + ((page + 1) * NB_PAGE_TOKENS < n
                              ? page_keys(cpu, pages[page + 1], job->layer)
                              : page_values(cpu, pages[first / NB_PAGE_TOKENS], job->layer)),
                  whole);
        for (size_t h = 0; h < group; h += NB_TILE_TOKENS) {
            int tile = group - h < NB_TILE_TOKENS ? (int)(group - h) : NB_TILE_TOKENS;
            cpu->kernels->products(q + h * d, d, tile, keys, d, rows, d, scores + h * stride + p,
                                   stride);
        }
    }
    for (size_t h = 0; h < group; h++)
        cpu->kernels->softmax(scores + h * stride + first, n - first, 1.0f / sqrtf((float)d));
    float *out = cpu->attended + (t * heads + g * group) * d;
    memset(out, 0, group * d * sizeof *out);
    for (size_t p = first, rows; p < n; p += rows) { /* as far as the page goes */
        rows = NB_PAGE_TOKENS - p % NB_PAGE_TOKENS;
        rows = n - p < rows ? n - p : rows;
        const float *values =
            page_values(cpu, pages[p / NB_PAGE_TOKENS], job->layer) + part + p % NB_PAGE_TOKENS * d;
        if (p + rows < n)
            fetch(page_values(cpu, pages[p / NB_PAGE_TOKENS + 1], job->layer) + part, whole);
        cpu->kernels->add_weighted(scores + p, stride, (int)group, values, (int)rows, d, out, d);
    }
}

static void run_groups(void *context, int thread, size_t begin, size_t end) {
    struct attention_job *job = context;
    size_t groups = (size_t)job->cpu->model->config.n_kv_heads;
    for (size_t i = begin; i < end; i++)
        attend(job, i / groups, i % groups, job->cpu->scores[thread]);
}

/* x += o(attention(q, k, v of norm(x))) */
static void attention(struct cpu *cpu, const struct nb_batch *batch, int layer) {
    const struct layer *l = &cpu->layers[layer];
    const struct nb_config *c = &cpu->model->config;
    size_t n = batch->n_tokens, width = (size_t)c->width;
    norm_all(cpu, cpu->norms + (size_t)layer * 2 * width, n);
    const struct product qkv[] = {
        {&l->q, cpu->normed, cpu->q, n},
        {&l->k, cpu->normed, cpu->k, n},
        {&l->v, cpu->normed, cpu->v, n},
    };
    multiply(cpu, NB_PHASE_QKV, cpu->normed, n, qkv, 3);
    if (c->qk_norm) {
        const float *w = cpu->head_norms + (size_t)layer * 2 * (size_t)c->head_width;
        norm_heads(cpu, cpu->q, n * (size_t)c->n_heads, w);
        norm_heads(cpu, cpu->k, n * (size_t)c->n_kv_heads, w + c->head_width);
    }
    store_kv(cpu, batch, layer);
    nb_phases_mark(&cpu->phases, NB_PHASE_ROPE, 0);
    struct attention_job job = {cpu, batch, layer};
    nb_pool_run(cpu->pool, n * (size_t)c->n_kv_heads, 1, run_groups, &job);
    nb_phases_mark(&cpu->phases, NB_PHASE_ATTEND, 0);
    const struct product o = {&l->o, cpu->attended, cpu->normed, n};
    multiply(cpu, NB_PHASE_O, cpu->attended, n, &o, 1);
    for (size_t i = 0; i < n * width; i++)
        cpu->x[i] += cpu->normed[i];
    nb_phases_mark(&cpu->phases, NB_PHASE_ADD, 0);
}

/* The k largest of E router logits, largest first, ties to the lower expert, and their softmax:
 * over the k, which is what softmax over all and normalizing the chosen gives, or over all. NaN is
 * never the largest. */
static void choose(const float *logits, const struct nb_config *c, struct choice *out) {
    for (int i = 0; i < c->experts_per_token; i++) {
        int best = -1;
        for (int e = 0; e < c->n_experts; e++) {
            bool taken = false;
            for (int j = 0; j < i; j++)
                taken |= out[j].expert == e;
            bool better = best < 0 || logits[e] > logits[best] || isnan(logits[best]);
            if (!taken && better)
                best = e;
        }
        out[i].expert = best;
    }
    float max = logits[out[0].expert], sum = 0;
    for (int i = 0; i < c->experts_per_token; i++) {
        out[i].weight = expf(logits[out[i].expert] - max);
        sum += out[i].weight;
    }
    if (!c->normalize_experts) {
        sum = 0;
        for (int e = 0; e < c->n_experts; e++)
            sum += expf(logits[e] - max);
    }
    for (int i = 0; i < c->experts_per_token; i++)
        out[i].weight /= sum;
}

/* Chooses experts for every token, and copies each token's input once for each of its experts,
 * grouped by expert. */
static void route(struct cpu *cpu, size_t n) {
    const struct nb_config *c = &cpu->model->config;
    size_t width = (size_t)c->width, k = (size_t)c->experts_per_token,
           experts = (size_t)c->n_experts;
    size_t *begin = cpu->expert_begin;
    memset(begin, 0, (experts + 1) * sizeof *begin);
    for (size_t t = 0; t < n; t++) {
        choose(cpu->router + t * experts, c, cpu->choices + t * k);
        for (size_t j = 0; j < k; j++)
            begin[cpu->choices[t * k + j].expert + 1]++;
    }
    for (size_t e = 0; e < experts; e++)
        begin[e + 1] += begin[e];
    for (size_t i = 0; i < n * k; i++) { /* in order of tokens; `begin` moves up while it fills */
        size_t row = begin[cpu->choices[i].expert]++;
        cpu->slot[i] = (int32_t)row;
        memcpy(cpu->gathered + row * width, cpu->normed + i / k * width, width * sizeof(float));
    }
    memmove(begin + 1, begin, experts * sizeof *begin); /* each end is the next one's beginning */
    begin[0] = 0;
}

/* The first two products of several experts: gate and up of each, one after the other. */
struct gated_job {
    struct products_job products;
    const struct nb_fixed *to; /* fixed point for the third, or NULL */
};

/* Rows [r, r + rows) of an expert's gate and up to the same columns of silu(gate) * up, for all its
 * tokens: to where gate's were and, if asked, to fixed point. They are in the thread's own cache
 * here. */
static void gate_rows(const struct gated_job *job, int thread, const struct product *gate, size_t r,
                      size_t rows) {
    const struct products_job *p = &job->products;
    const struct nb_kernels *kernels = p->cpu->kernels;
    for (size_t at = 0; at < rows; at += NB_FIXED_ROWS) {
        for (int i = 0; i < 2; i++) /* strip by strip: so they lie if they were laid out anew */
            multiply_strip(p, thread, gate + i, r + at,
                           rows - at < NB_FIXED_ROWS ? rows - at : NB_FIXED_ROWS);
    }
    size_t inner = (size_t)gate->w->m->rows, first = (size_t)(gate->x - p->x) / p->columns;
    for (size_t t = 0; t < gate->n_tokens; t++) {
        float *y = gate[0].y + t * inner + r;
        kernels->silu_times(y, gate[1].y + t * inner + r, rows);
        if (job->to)
            kernels->fixed->to_fixed(y, rows, job->to->q + (first + t) * job->to->q_stride + r,
                                     job->to->scale + (first + t) * job->to->scale_stride +
                                         r / NB_FIXED_BLOCK);
    }
}

/* Pieces of GATED_ROWS rows, numbered through all experts. */
static void run_gated(void *context, int thread, size_t begin, size_t end) {
    const struct gated_job *job = context;
    size_t rows = (size_t)job->products.products[0].w->m->rows,
           pieces = nb_div_up(rows, GATED_ROWS);
    for (size_t i = begin; i < end; i++) {
        size_t r = i % pieces * GATED_ROWS, left = rows - r;
        gate_rows(job, thread, &job->products.products[i / pieces * 2], r,
                  left < GATED_ROWS ? left : GATED_ROWS);
    }
}

/* x += sum over the chosen experts of weight * down(silu(gate h) * up h), h = norm(x) */
static void experts(struct cpu *cpu, size_t n, int layer) {
    const struct layer *l = &cpu->layers[layer];
    const struct nb_config *c = &cpu->model->config;
    size_t width = (size_t)c->width, k = (size_t)c->experts_per_token,
           inner = (size_t)c->expert_width;
    norm_all(cpu, cpu->norms + ((size_t)layer * 2 + 1) * width, n);
    const struct product router = {&l->router, cpu->normed, cpu->router, n};
    if (!c->dense) /* a dense model's only expert is chosen whatever its logit, 0 from calloc */
        multiply(cpu, NB_PHASE_ROUTER, cpu->normed, n, &router, 1);
    route(cpu, n);
    nb_phases_mark(&cpu->phases, NB_PHASE_ROUTER, 0);
    struct product *gated = cpu->products, *down = cpu->products + 2 * (size_t)c->n_experts;
    size_t chosen = 0;
    for (int e = 0; e < c->n_experts; e++) {
        size_t first = cpu->expert_begin[e], count = cpu->expert_begin[e + 1] - first;
        if (!count)
            continue;
        const struct expert *w = &l->experts[e];
        const float *x = cpu->gathered + first * width;
        float *gate = cpu->gate + first * inner;
        gated[2 * chosen] = (struct product){&w->gate, x, gate, count};
        gated[2 * chosen + 1] = (struct product){&w->up, x, cpu->up + first * inner, count};
        down[chosen++] = (struct product){&w->down, gate, cpu->down + first * width, count};
    }
    struct gated_job job = {make_job(cpu, cpu->gathered, n * k, gated, 2 * chosen),
                            any_fixed(cpu, down, chosen) ? &cpu->fixed_inner : NULL};
    nb_pool_run_shares(cpu->pool, chosen * nb_div_up(inner, GATED_ROWS), 1, run_gated, &job);
    nb_phases_mark(&cpu->phases, NB_PHASE_GATE_UP, bytes_of(gated, 2 * chosen));
    struct products_job down_job = {cpu, down, chosen, cpu->gate, inner, job.to};
    run_products(&down_job, NB_PHASE_DOWN);
    for (size_t i = 0; i < n * k; i++)
        cpu->kernels->add_scaled(cpu->choices[i].weight, cpu->down + (size_t)cpu->slot[i] * width,
                                 width, cpu->x + i / k * width);
    nb_phases_mark(&cpu->phases, NB_PHASE_ADD, 0);
}

/* ---- the pass ---- */

static void embed(struct cpu *cpu, const struct nb_batch *batch) {
    const struct nb_model *m = cpu->model;
    size_t width = (size_t)m->config.width, half = (size_t)m->config.head_width / 2;
    for (size_t t = 0; t < batch->n_tokens; t++) {
        widen_row(cpu->kernels, &m->embedding, (size_t)batch->token[t], cpu->x + t * width);
        for (size_t i = 0; i < half; i++) {
            float angle = (float)batch->position[t] * cpu->frequencies[i];
            cpu->cosine[t * half + i] = cosf(angle);
            cpu->sine[t * half + i] = sinf(angle);
        }
    }
}

static void write_logits(struct cpu *cpu, const struct nb_batch *batch) {
    const struct nb_model *m = cpu->model;
    const struct nb_config *c = &m->config;
    size_t width = (size_t)c->width;
    const float *norm = cpu->norms + (size_t)c->n_layers * 2 * width;
    for (size_t i = 0; i < batch->n_logits; i++)
        rms_norm(cpu->x + (size_t)batch->logits_of[i] * width, norm, width, c->rms_eps,
                 cpu->normed + i * width);
    nb_phases_mark(&cpu->phases, NB_PHASE_NORM, 0);
    const struct product head = {&cpu->head, cpu->normed, batch->logits, batch->n_logits};
    if (batch->n_logits)
        multiply(cpu, NB_PHASE_HEAD, cpu->normed, batch->n_logits, &head, 1);
}

/* The engine is trusted with page tables; ids and sizes are checked, for they are cheap to check.
 */
static enum nb_status check_batch(const struct cpu *cpu, const struct nb_batch *batch,
                                  struct nb_error *err) {
    if (!cpu->model || !cpu->kv)
        return nb_fail(err, NB_ERR_INTERNAL, "cpu: forward before load and kv_alloc");
    if (batch->n_tokens == 0 || batch->n_tokens > cpu->max_tokens ||
        batch->n_logits > batch->n_tokens)
        return nb_fail(err, NB_ERR_INTERNAL,
                       "cpu: a batch of %zu tokens and %zu logits, at most %zu", batch->n_tokens,
                       batch->n_logits, cpu->max_tokens);
    for (size_t t = 0; t < batch->n_tokens; t++) {
        if (batch->token[t] < 0 || batch->token[t] >= cpu->model->config.n_vocab)
            return nb_fail(err, NB_ERR_ARGUMENT, "token id %d is not below the vocabulary's %d",
                           batch->token[t], cpu->model->config.n_vocab);
        if (batch->position[t] < 0 || batch->position[t] >= cpu->context)
            return nb_fail(err, NB_ERR_LIMIT, "position %d is beyond the context of %d",
                           batch->position[t], cpu->context);
    }
    return NB_OK;
}

static enum nb_status forward(struct nb_backend *backend, const struct nb_batch *batch,
                              struct nb_error *err) {
    struct cpu *cpu = (struct cpu *)backend;
    enum nb_status s = check_batch(cpu, batch, err);
    if (s != NB_OK)
        return s;
    nb_phases_begin(&cpu->phases);
    embed(cpu, batch);
    nb_phases_mark(&cpu->phases, NB_PHASE_EMBED, 0);
    for (int i = 0; i < cpu->model->config.n_layers; i++) {
        attention(cpu, batch, i);
        experts(cpu, batch->n_tokens, i);
    }
    write_logits(cpu, batch);
    nb_phases_end(&cpu->phases, batch->n_tokens);
    return NB_OK;
}

/* ---- opening, loading, KV memory ---- */

static void versions(char *out, size_t size) {
    nb_kernels_names(out, size);
}

static void cpu_close(struct nb_backend *backend) {
    struct cpu *cpu = (struct cpu *)backend;
    if (!cpu)
        return;
    nb_phases_log(&cpu->phases);
    nb_pool_free(cpu->pool);
    nb_arena_free(&cpu->arena);
    if (cpu->packed)
        munmap(cpu->packed, cpu->packed_bytes);
    free(cpu->kv);
    free(cpu);
}

static enum nb_status cpu_open(const struct nb_backend_options *options, struct nb_backend **out,
                               struct nb_error *err) {
    *out = NULL;
    const struct nb_kernels *kernels = nb_kernels_find(options->cpu);
    if (!kernels) {
        char names[64];
        return nb_fail(err, NB_ERR_ARGUMENT,
                       "cpu: no version \"%.32s\" for this processor, only %s", options->cpu,
                       nb_kernels_names(names, sizeof names));
    }
    const char *layout = options->weights;
    if (layout && strcmp(layout, "mapped") != 0 && strcmp(layout, "packed") != 0 &&
        strcmp(layout, "auto") != 0)
        return nb_fail(err, NB_ERR_ARGUMENT,
                       "weights are \"%.32s\", expected mapped, packed or auto", layout);
    struct cpu *cpu = calloc(1, sizeof *cpu);
    if (!cpu)
        return nb_fail_memory(err, sizeof *cpu, "the CPU backend");
    cpu->layout = layout;
    cpu->pages_to_come = options->n_pages;
    cpu->base.ops = &nb_cpu_backend;
    cpu->kernels = kernels;
    cpu->max_tokens = options->max_batch_tokens ? options->max_batch_tokens : BATCH_TOKENS;
    cpu->context = options->context;
    enum nb_status s = nb_pool_create(options->threads, &cpu->pool, err);
    if (s != NB_OK) {
        cpu_close(&cpu->base);
        return s;
    }
    *out = &cpu->base;
    return NB_OK;
}

static void capabilities(const struct nb_backend *backend, struct nb_capabilities *out) {
    const struct cpu *cpu = (const struct cpu *)backend;
    int threads = nb_pool_size(cpu->pool);
    snprintf(out->device, sizeof out->device, "%d thread%s, %s", threads, threads == 1 ? "" : "s",
             cpu->kernels->name);
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    out->memory_bytes = pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
    out->used_bytes = 0;
    out->max_batch_tokens = cpu->max_tokens;
}

/* A vector as f32. */
static void widen_vector(const struct nb_vector *v, float *out) {
    for (int32_t i = 0; i < v->n; i++) {
        if (v->type == NB_WEIGHT_F32)
            out[i] = ((const float *)v->data)[i];
        else if (v->type == NB_WEIGHT_F16)
            out[i] = nb_f16_to_f32(((const uint16_t *)v->data)[i]);
        else
            out[i] = nb_bf16_to_f32(((const uint16_t *)v->data)[i]);
    }
}

static size_t largest(size_t a, size_t b) {
    return a > b ? a : b;
}

/* Memory of n * size bytes at a multiple of 64. */
static void *alloc_aligned(struct nb_arena *arena, size_t n, size_t size) {
    size_t bytes;
    if (!nb_mul_size(n, size, &bytes) || !nb_add_size(bytes, 63, &bytes))
        return NULL;
    uintptr_t at = (uintptr_t)nb_arena_alloc(arena, bytes, 1);
    return at ? (void *)((at + 63) & ~(uintptr_t)63) : NULL;
}

/* Room for `rows` inputs of `columns` in fixed point. */
static bool make_fixed(struct cpu *cpu, size_t rows, size_t columns, struct nb_fixed *out) {
    /* A line more than a row takes: rows whose distance is a multiple of 4096 bytes would all fall
     * into the same few lines of the cache. */
    out->q_stride = nb_fixed_columns(columns) + 64 / sizeof *out->q;
    out->scale_stride = nb_fixed_scales(columns);
    out->q = alloc_aligned(&cpu->arena, rows, out->q_stride * sizeof *out->q);
    out->scale = alloc_aligned(&cpu->arena, rows, out->scale_stride * sizeof *out->scale);
    return out->q && out->scale;
}

/* What products in fixed point need, for `rows` inputs: of `columns`, or of `inner` to the experts'
 * last. */
static bool make_fixed_scratch(struct cpu *cpu, size_t rows, size_t columns, size_t inner) {
    size_t threads = (size_t)nb_pool_size(cpu->pool);
    cpu->fixed_scratch = nb_arena_alloc(&cpu->arena, threads, sizeof *cpu->fixed_scratch);
    if (!make_fixed(cpu, rows, columns, &cpu->fixed) ||
        !make_fixed(cpu, rows, inner, &cpu->fixed_inner) || !cpu->fixed_scratch)
        return false;
    columns = largest(columns, inner);
    for (size_t i = 0; i < threads; i++) {
        struct nb_fixed_scratch *s = &cpu->fixed_scratch[i];
        size_t scales = nb_fixed_scales(columns);
        s->weights = alloc_aligned(&cpu->arena, NB_FIXED_ROWS, NB_FIXED_DEPTH * sizeof *s->weights);
        s->absmax = alloc_aligned(&cpu->arena, NB_FIXED_ROWS, scales * sizeof *s->absmax);
        s->sums = alloc_aligned(&cpu->arena, NB_FIXED_ROWS,
                                largest(cpu->max_tokens, scales) * sizeof *s->sums);
        if (!s->weights || !s->absmax || !s->sums)
            return false;
    }
    return true;
}

/* The scratch of struct cpu, in its arena; false if memory ran out. Sizes are products of fields of
 * config.json, checked by nb_arena_alloc. */
static bool make_scratch(struct cpu *cpu) {
    const struct nb_config *c = &cpu->model->config;
    size_t T = cpu->max_tokens, D = (size_t)c->width, d = (size_t)c->head_width,
           H = (size_t)c->n_heads, G = (size_t)c->n_kv_heads, E = (size_t)c->n_experts,
           F = (size_t)c->expert_width, k = (size_t)c->experts_per_token, Tk;
    if (!nb_mul_size(T, k, &Tk))
        return false;
    struct {
        float **out;
        size_t n, width;
    } parts[] = {
        {&cpu->norms, 2 * (size_t)c->n_layers + 1, D},
        {&cpu->head_norms, 2 * (size_t)c->n_layers, c->qk_norm ? d : 0},
        {&cpu->frequencies, d / 2, 1},
        {&cpu->x, T, D},
        {&cpu->normed, T, D},
        {&cpu->q, T, H * d},
        {&cpu->k, T, G * d},
        {&cpu->v, T, G * d},
        {&cpu->attended, T, H * d},
        {&cpu->cosine, T, d / 2},
        {&cpu->sine, T, d / 2},
        {&cpu->router, T, E},
        {&cpu->gathered, Tk, D},
        {&cpu->gate, Tk, F},
        {&cpu->up, Tk, F},
        {&cpu->down, Tk, D},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].out = nb_arena_alloc(&cpu->arena, parts[i].n, parts[i].width * sizeof(float));
        if (!*parts[i].out)
            return false;
    }
    size_t threads = (size_t)nb_pool_size(cpu->pool);
    cpu->choices = nb_arena_alloc(&cpu->arena, Tk, sizeof *cpu->choices);
    cpu->slot = nb_arena_alloc(&cpu->arena, Tk, sizeof *cpu->slot);
    cpu->expert_begin = nb_arena_alloc(&cpu->arena, E + 1, sizeof *cpu->expert_begin);
    cpu->products = nb_arena_alloc(&cpu->arena, 3 * E, sizeof *cpu->products);
    cpu->rows = nb_arena_alloc(&cpu->arena, threads, sizeof *cpu->rows);
    cpu->scores = nb_arena_alloc(&cpu->arena, threads, sizeof *cpu->scores);
    if (!cpu->choices || !cpu->slot || !cpu->expert_begin || !cpu->products || !cpu->rows ||
        !cpu->scores)
        return false;
    size_t columns = largest(D, H * d);
    if (cpu->kernels->fixed && !make_fixed_scratch(cpu, Tk, columns, F))
        return false;
    columns = largest(columns, F);
    for (size_t i = 0; i < threads; i++) {
        cpu->rows[i] = nb_arena_alloc(&cpu->arena, columns, NB_TILE_ROWS * sizeof(float));
        cpu->scores[i] = nb_arena_alloc(&cpu->arena, (size_t)cpu->context, H / G * sizeof(float));
        if (!cpu->rows[i] || !cpu->scores[i])
            return false;
    }
    return true;
}

static size_t kv_page_bytes(const struct nb_backend *backend) {
    const struct nb_config *c = &((const struct cpu *)backend)->model->config;
    return 2 * (size_t)c->n_layers * (size_t)c->n_kv_heads * NB_PAGE_TOKENS *
           (size_t)c->head_width * sizeof(float);
}

/* ---- laying weights out anew ---- */

/* Calls `each` with every matrix of the layers, experts' gate and up together. */
static void each_weights(struct cpu *cpu,
                         void (*each)(struct weights *const *w, size_t n, void *context),
                         void *context) {
    const struct nb_config *c = &cpu->model->config;
    for (int i = 0; i < c->n_layers; i++) {
        struct layer *l = &cpu->layers[i];
        struct weights *of_layer[] = {&l->q, &l->k, &l->v, &l->o, &l->router};
        for (int j = 0; j < 5; j++)
            each(&of_layer[j], 1, context);
        for (int e = 0; e < c->n_experts; e++) {
            struct weights *of_expert[] = {&l->experts[e].gate, &l->experts[e].up,
                                           &l->experts[e].down};
            each(of_expert, 2, context);
            each(of_expert + 2, 1, context);
        }
    }
}

static void place_weights(struct weights *const *w, size_t n, void *context) {
    const struct nb_matrix *m[2];
    struct nb_fixed_packed packed[2];
    size_t packs = 0;
    for (size_t i = 0; i < n; i++) {
        m[i] = w[i]->m;
        packs += m[i] && m[i]->rows && nb_fixed_packs(m[i]);
    }
    if (packs == 0)
        return;
    if (packs < n) { /* each for itself */
        for (size_t i = 0; i < n; i++)
            place_weights(w + i, 1, context);
        return;
    }
    nb_fixed_place(m, n, context, packed);
    for (size_t i = 0; i < n; i++)
        w[i]->packed = packed[i];
}

static void run_pack(void *context, int thread, size_t begin, size_t end) {
    (void)thread;
    const struct weights *w = context;
    nb_fixed_pack(w->m, &w->packed, begin, end);
}

struct packing {
    struct cpu *cpu;
    uint64_t done;
    void (*progress)(void *context, uint64_t done, uint64_t total);
    void *context;
};

static void pack_weights(struct weights *const *w, size_t n, void *context) {
    struct packing *p = context;
    for (size_t i = 0; i < n && w[i]->packed.codes; i++) {
        nb_pool_run(p->cpu->pool, (size_t)w[i]->m->rows / NB_FIXED_ROWS, 4, run_pack, w[i]);
        p->done += nb_matrix_bytes(w[i]->m);
        if (p->progress)
            p->progress(p->context, p->done, p->cpu->packed_bytes);
    }
}

/* Copies of 4-bit matrices, laid out as the kernels read them fastest, in huge pages where the
 * system gives them. With "auto", only where they take no more than three quarters of the memory
 * that is left: what lies in a checkpoint's map can be dropped and read again, they cannot. Without
 * being asked at all, only where that is done in a moment, too: it reads every weight before the
 * first token. */
static enum nb_status pack(struct cpu *cpu,
                           void (*progress)(void *context, uint64_t done, uint64_t total),
                           void *context, struct nb_error *err) {
    bool asked = cpu->layout && strcmp(cpu->layout, "packed") == 0;
    if (!cpu->kernels->fixed || (cpu->layout && strcmp(cpu->layout, "mapped") == 0))
        return NB_OK;
    struct nb_layout layout = {0};
    each_weights(cpu, place_weights, &layout);
    uint64_t available = nb_memory_available();
    size_t kv;
    if (!nb_mul_size(cpu->pages_to_come, kv_page_bytes(&cpu->base), &kv))
        kv = SIZE_MAX;
    available -= kv < available ? kv : available;
    if (layout.used == 0)
        return NB_OK;
    if (asked || (layout.used <= available / 4 * 3 && (cpu->layout || layout.used <= QUICK_PACK))) {
        void *p =
            mmap(NULL, layout.used, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        layout.base = p == MAP_FAILED ? NULL : p;
    }
    if (!layout.base && asked)
        return nb_fail(
            err, NB_ERR_MEMORY,
            "out of memory: %zu bytes for weights laid out anew; \"mapped\" does without",
            layout.used);
    nb_log(NB_LOG_INFO, "cpu: weights %s: %zu bytes to lay out anew, %llu available",
           layout.base ? "packed" : "mapped", layout.used, (unsigned long long)available);
    cpu->packed = layout.base;
    cpu->packed_bytes = layout.used;
    layout.used = 0;
    each_weights(cpu, place_weights, &layout); /* no memory: to NULL */
    if (cpu->packed) {
        madvise(cpu->packed, cpu->packed_bytes, MADV_HUGEPAGE);
        struct packing packing = {cpu, 0, progress, context};
        each_weights(cpu, pack_weights, &packing);
    }
    return NB_OK;
}

/* The backend's own list of the model's matrices; false if memory ran out. */
static bool list_weights(struct cpu *cpu) {
    const struct nb_model *m = cpu->model;
    size_t n_layers = (size_t)m->config.n_layers, n_experts = (size_t)m->config.n_experts;
    cpu->layers = nb_arena_alloc(&cpu->arena, n_layers, sizeof *cpu->layers);
    if (!cpu->layers)
        return false;
    cpu->head.m = &m->head;
    for (size_t i = 0; i < n_layers; i++) {
        const struct nb_layer *from = &m->layers[i];
        struct layer *l = &cpu->layers[i];
        *l = (struct layer){.q = {&from->q},
                            .k = {&from->k},
                            .v = {&from->v},
                            .o = {&from->o},
                            .router = {&from->router}};
        l->experts = nb_arena_alloc(&cpu->arena, n_experts, sizeof *l->experts);
        if (!l->experts)
            return false;
        for (size_t e = 0; e < n_experts; e++) {
            const struct nb_expert *x = &from->experts[e];
            l->experts[e] = (struct expert){{&x->gate}, {&x->up}, {&x->down}};
        }
    }
    return true;
}

static enum nb_status load(struct nb_backend *backend, const struct nb_model *model,
                           void (*progress)(void *context, uint64_t done, uint64_t total),
                           void *context, struct nb_error *err) {
    struct cpu *cpu = (struct cpu *)backend;
    cpu->model = model;
    if (!list_weights(cpu) || !make_scratch(cpu)) {
        cpu->model = NULL;
        return nb_fail(err, NB_ERR_MEMORY, "out of memory: scratch for batches of %zu tokens",
                       cpu->max_tokens);
    }
    const struct nb_config *c = &model->config;
    size_t width = (size_t)c->width;
    for (int i = 0; i < c->n_layers; i++) {
        widen_vector(&model->layers[i].attention_norm, cpu->norms + (size_t)i * 2 * width);
        widen_vector(&model->layers[i].expert_norm, cpu->norms + ((size_t)i * 2 + 1) * width);
        if (c->qk_norm) {
            size_t d = (size_t)c->head_width;
            widen_vector(&model->layers[i].q_norm, cpu->head_norms + (size_t)i * 2 * d);
            widen_vector(&model->layers[i].k_norm, cpu->head_norms + ((size_t)i * 2 + 1) * d);
        }
    }
    widen_vector(&model->norm, cpu->norms + (size_t)c->n_layers * 2 * width);
    nb_rope_frequencies(c, cpu->frequencies);
    enum nb_status s = pack(cpu, progress, context, err);
    if (s != NB_OK)
        return s;
    if (progress)
        progress(context, model->tensors.bytes, model->tensors.bytes);
    nb_log(NB_LOG_INFO, "cpu: %zu bytes of scratch, kernels %s", cpu->arena.allocated_bytes,
           cpu->kernels->name);
    return NB_OK;
}

/* Memory of whole huge pages, where the system gives them: what is read at random, or all of, would
 * wait for address translation. Freed by free. */
static void *alloc_huge(size_t bytes) {
    enum { HUGE = 2 << 20 };
    size_t all;
    if (bytes < HUGE)
        return malloc(bytes);
    if (!nb_add_size(bytes, HUGE - 1, &all))
        return NULL;
    void *p = aligned_alloc(HUGE, all / HUGE * HUGE);
    if (p)
        madvise(p, all / HUGE * HUGE, MADV_HUGEPAGE);
    return p;
}

static enum nb_status kv_alloc(struct nb_backend *backend, size_t n_pages, struct nb_error *err) {
    struct cpu *cpu = (struct cpu *)backend;
    size_t bytes;
    free(cpu->kv);
    cpu->kv = NULL;
    cpu->n_pages = 0;
    if (!nb_mul_size(n_pages, kv_page_bytes(backend), &bytes) || !(cpu->kv = alloc_huge(bytes)))
        return nb_fail(err, NB_ERR_MEMORY,
                       "out of memory: %zu pages of %zu bytes for keys and values; ask for a "
                       "shorter context",
                       n_pages, kv_page_bytes(backend));
    cpu->n_pages = n_pages;
    return NB_OK;
}

static void kv_free(struct nb_backend *backend) {
    struct cpu *cpu = (struct cpu *)backend;
    free(cpu->kv);
    cpu->kv = NULL;
    cpu->n_pages = 0;
}

static enum nb_status kv_copy(struct nb_backend *backend, int32_t from, int32_t to,
                              struct nb_error *err) {
    struct cpu *cpu = (struct cpu *)backend;
    if (from < 0 || to < 0 || (size_t)from >= cpu->n_pages || (size_t)to >= cpu->n_pages)
        return nb_fail(err, NB_ERR_INTERNAL, "cpu: kv_copy of page %d to %d of %zu", from, to,
                       cpu->n_pages);
    memcpy(page_keys(cpu, to, 0), page_keys(cpu, from, 0), kv_page_bytes(backend));
    return NB_OK;
}

const struct nb_backend_ops nb_cpu_backend = {
    .name = "cpu",
    .versions = versions,
    .open = cpu_open,
    .close = cpu_close,
    .capabilities = capabilities,
    .load = load,
    .kv_alloc = kv_alloc,
    .kv_free = kv_free,
    .kv_copy = kv_copy,
    .kv_page_bytes = kv_page_bytes,
    .forward = forward,
};
