#include "engine/bench.h"

#include "base/clock.h"
#include "base/pool.h"
#include "engine/engine.h"
#include "model/quantize.h"
#include "model/synthetic.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    READ_BYTES = 512 << 20, /* many times what any cache holds */
    READ_GRAIN = 1 << 20,
    STEPS_PER_PASS = 4, /* of decode between two passes over memory */
    MAX_TIMES = 1024,
    MIN_STEPS = 5,
    MIN_PREFILLS = 2,
    MIN_REQUESTS = 2,
    DEFAULT_DEPTH = 128,
};

/* Measured times, in seconds. */
struct times {
    int n;
    double total, at[MAX_TIMES];
};

struct bench {
    const struct nb_bench_options *options;
    struct nb_engine *engine;
    struct nb_pool *pool;
    uint64_t *memory; /* [READ_BYTES / 8] */
    struct times reads;
    uint64_t read_bytes; /* of a pass */
    double load_seconds;
    void (*progress)(void *context, const char *what);
    void *progress_context;
    uint64_t sum; /* of what was read, so that reading it is not optimized away */
    uint64_t random;
};

static void add_time(struct times *times, double s) {
    if (times->n < MAX_TIMES)
        times->at[times->n++] = s;
    times->total += s;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(struct times *times) {
    qsort(times->at, (size_t)times->n, sizeof *times->at, compare);
    int half = times->n / 2;
    return times->n % 2 ? times->at[half] : (times->at[half - 1] + times->at[half]) / 2;
}

/* ---- memory ---- */

static void read_words(void *context, int thread, size_t begin, size_t end) {
    (void)thread;
    struct bench *b = context;
    const uint64_t *p = b->memory;
    uint64_t sum[8] = {0}; /* as many as two cache lines' worth of vectors */
    for (size_t i = begin; i + 8 <= end; i += 8) {
        __builtin_prefetch(p + i + 256);
        for (size_t j = 0; j < 8; j++)
            sum[j] ^= p[i + j];
    }
    for (size_t j = 1; j < 8; j++)
        sum[0] ^= sum[j];
    __atomic_fetch_xor(&b->sum, sum[0], __ATOMIC_RELAXED);
}

/* A pass over the device's memory, if it has its own, or else over the machine's. */
static enum nb_status read_memory(struct bench *b, struct nb_error *err) {
    const struct nb_backend_ops *ops = b->engine->backend->ops;
    if (ops->read_memory) {
        double seconds;
        enum nb_status s = ops->read_memory(b->engine->backend, &b->read_bytes, &seconds, err);
        if (s == NB_OK)
            add_time(&b->reads, seconds);
        return s;
    }
    int64_t start = nb_now_us();
    nb_pool_run(b->pool, READ_BYTES / sizeof *b->memory, READ_GRAIN / sizeof *b->memory, read_words,
                b);
    add_time(&b->reads, (double)(nb_now_us() - start) * 1e-6);
    b->read_bytes = READ_BYTES;
    return NB_OK;
}

/* Huge pages where the system gives them: the limit should be the memory's, not that of address
 * translation. */
static enum nb_status take_memory(struct bench *b, struct nb_error *err) {
    if (!b->engine->backend->ops->read_memory) {
        void *p =
            mmap(NULL, READ_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            return nb_fail_memory(err, READ_BYTES, "measuring memory");
        madvise(p, READ_BYTES, MADV_HUGEPAGE);
        memset(p, 1, READ_BYTES);
        b->memory = p;
    }
    enum nb_status s = NB_OK;
    for (int i = 0; i < 3 && s == NB_OK; i++)
        s = read_memory(b, err);
    b->reads = (struct times){0}; /* those were to wake the machine up */
    return s;
}

/* ---- the model ---- */

static enum nb_status take_tokenizer(struct bench *b, struct nb_error *err) {
    struct nb_engine *e = b->engine;
    enum nb_status s = nb_tokenizer_open(b->options->tokenizer, &e->tokenizer, err);
    if (s == NB_OK && nb_tokenizer_size(e->tokenizer) > e->model.config.n_vocab)
        s = nb_fail(err, NB_ERR_ARGUMENT, "%s: has %d tokens, but the model's vocabulary %d",
                    b->options->tokenizer, nb_tokenizer_size(e->tokenizer),
                    e->model.config.n_vocab);
    return s;
}

static enum nb_status open_engine(struct bench *b, int32_t sequences, int32_t context,
                                  struct nb_error *err) {
    const struct nb_bench_options *o = b->options;
    struct nb_options options = o->options;
    options.sequences = sequences;
    options.context = context;
    struct nb_model model;
    enum nb_status s = NB_OK;
    if (!o->model)
        s = nb_model_synthetic(o->synthetic, b->pool, &model, err);
    int64_t start = nb_now_us();
    if (o->model)
        s = nb_engine_open(o->model, &options, &b->engine, err);
    else if (s == NB_OK)
        s = nb_engine_open_model(&model, o->synthetic, &options, &b->engine, err);
    b->load_seconds = (double)(nb_now_us() - start) * 1e-6;
    if (s == NB_OK && o->tokenizer)
        s = take_tokenizer(b, err);
    return s;
}

/* Bytes of a linear layer as the backend has it, quantized if it was in floats and asked to be. */
static double linear_bytes(const struct nb_engine *e, const struct nb_matrix *m) {
    double n = (double)m->rows * m->columns;
    if (!e->quantized || m->type == NB_WEIGHT_4BIT)
        return (double)nb_matrix_bytes(m);
    double blocks = n / (double)nb_quantize_defaults.block;
    return n / 2 + blocks + blocks / NB_NESTED_BLOCK * 4;
}

/* Bytes of one expert of every layer. */
static double expert_bytes(const struct nb_engine *engine) {
    const struct nb_model *m = &engine->model;
    double bytes = 0;
    for (int i = 0; i < m->config.n_layers; i++) {
        const struct nb_expert *e = &m->layers[i].experts[0];
        bytes += linear_bytes(engine, &e->gate) + linear_bytes(engine, &e->up) +
                 linear_bytes(engine, &e->down);
    }
    return bytes;
}

/* What one token reads of the weights: what nb_model_size says, of a model that is not quantized
 * while it is loaded. */
static double token_bytes(const struct nb_engine *e) {
    const struct nb_config *c = &e->model.config;
    double bytes = (double)nb_model_size(&e->model).step_bytes;
    for (int i = 0; i < c->n_layers && e->quantized; i++) {
        const struct nb_layer *l = &e->model.layers[i];
        const struct nb_matrix *all[] = {&l->q,
                                         &l->k,
                                         &l->v,
                                         &l->o,
                                         &l->experts[0].gate,
                                         &l->experts[0].up,
                                         &l->experts[0].down,
                                         &l->router};
        for (size_t k = 0; k < (c->dense ? 7 : 8); k++)
            bytes += (linear_bytes(e, all[k]) - (double)nb_matrix_bytes(all[k])) *
                     (k >= 4 && k < 7 ? c->experts_per_token : 1);
    }
    return bytes;
}

/* What a step of `batch` sequences with `context` positions each must read. A token finds an expert
 * that it did not choose with probability 1 - k / E, if all are as likely: so E (1 - (1 - k / E) ^
 * batch) experts are expected to be read. */
static double step_bytes(const struct nb_engine *engine, int32_t batch, double context) {
    const struct nb_config *c = &engine->model.config;
    double experts = c->n_experts, chosen = c->experts_per_token,
           read = experts * (1 - pow(1 - chosen / experts, batch)),
           kv = (double)engine->backend->ops->kv_page_bytes(engine->backend) / NB_PAGE_TOKENS;
    return token_bytes(engine) + (read - chosen) * expert_bytes(engine) + kv * context * batch;
}

static int32_t random_token(struct bench *b) {
    b->random = b->random * 6364136223846793005 + 1442695040888963407; /* Knuth's MMIX */
    return (int32_t)((b->random >> 33) % (uint64_t)b->engine->model.config.n_vocab);
}

/* A sequence with n positions, the first page of them computed and the others copies of that page:
 * as heavy to attend to as any. */
static enum nb_status deepen(struct bench *b, struct nb_sequence *q, int32_t n,
                             struct nb_error *err) {
    struct nb_engine *e = b->engine;
    int32_t ids[NB_PAGE_TOKENS];
    for (int i = 0; i < NB_PAGE_TOKENS; i++)
        ids[i] = random_token(b);
    int32_t first = n < NB_PAGE_TOKENS ? n : NB_PAGE_TOKENS;
    enum nb_status s = nb_sequence_append(q, ids, (size_t)first, 1, NULL, err);
    while (s == NB_OK && q->n_pages * NB_PAGE_TOKENS < (size_t)n) {
        q->pages[q->n_pages++] = nb_pages_take(&e->pages);
        s = e->backend->ops->kv_copy(e->backend, q->pages[0], q->pages[q->n_pages - 1], err);
    }
    if (s == NB_OK)
        q->n = n;
    return s;
}

/* ---- what is measured ---- */

static enum nb_status decode_steps(struct bench *b, struct nb_sequence *sequences, int32_t batch,
                                   struct times *times, struct nb_error *err) {
    struct nb_step_part parts[NB_BENCH_MAX_BATCH];
    int32_t ids[NB_BENCH_MAX_BATCH];
    enum nb_status s = NB_OK;
    for (int step = 0; s == NB_OK; step++) {
        bool enough = times->n >= MIN_STEPS && times->total >= b->options->seconds;
        if (enough || times->n == NB_BENCH_MAX_STEPS)
            break;
        if (step % STEPS_PER_PASS == 0)
            s = read_memory(b, err);
        if (s != NB_OK)
            break;
        for (int32_t i = 0; i < batch; i++) {
            ids[i] = random_token(b);
            parts[i] = (struct nb_step_part){&sequences[i], &ids[i], 1, 1};
        }
        int64_t start = nb_now_us();
        s = nb_engine_step(b->engine, parts, (size_t)batch, NULL, err);
        if (step) /* the first one touches pages that nobody has */
            add_time(times, (double)(nb_now_us() - start) * 1e-6);
    }
    return s;
}

static enum nb_status measure_decode(struct bench *b, int32_t batch, int32_t depth,
                                     struct nb_bench_decode *out, struct nb_error *err) {
    struct nb_sequence sequences[NB_BENCH_MAX_BATCH] = {0};
    struct times *times = calloc(1, sizeof *times);
    enum nb_status s = times ? NB_OK : nb_fail_memory(err, sizeof *times, "bench");
    for (int32_t i = 0; i < batch && s == NB_OK; i++) {
        s = nb_sequence_open(b->engine, &sequences[i], err);
        if (s == NB_OK)
            s = deepen(b, &sequences[i], depth, err);
    }
    if (s == NB_OK)
        s = decode_steps(b, sequences, batch, times, err);
    if (s == NB_OK) {
        double context = ((double)depth + sequences[0].n) / 2, seconds = median(times);
        *out = (struct nb_bench_decode){
            .batch = batch,
            .context = (int32_t)context,
            .tokens_per_s = batch / seconds,
            .bytes_per_step = step_bytes(b->engine, batch, context),
        };
        out->gb_per_s = out->bytes_per_step / seconds * 1e-9;
    }
    for (int32_t i = 0; i < batch; i++)
        nb_sequence_close(&sequences[i]);
    free(times);
    return s;
}

static enum nb_status measure_prefill(struct bench *b, int32_t n, struct nb_bench_prefill *out,
                                      struct nb_error *err) {
    struct nb_sequence q = {0};
    struct times *times = calloc(1, sizeof *times);
    int32_t *ids = calloc((size_t)n, sizeof *ids);
    enum nb_status s = times && ids ? NB_OK : nb_fail_memory(err, (size_t)n * 4, "bench");
    for (int32_t i = 0; s == NB_OK && i < n; i++)
        ids[i] = random_token(b);
    if (s == NB_OK)
        s = nb_sequence_open(b->engine, &q, err);
    bool device = b->engine->backend->ops->read_memory;
    for (int i = 0; s == NB_OK && times->n < MAX_TIMES; i++) {
        if (times->n >= MIN_PREFILLS && times->total >= b->options->seconds)
            break;
        nb_sequence_truncate(&q, 0);
        int64_t start = nb_now_us();
        s = nb_sequence_append(&q, ids, (size_t)n, 1, NULL, err);
        if (i || !device) /* a device loads its code when it is first wanted */
            add_time(times, (double)(nb_now_us() - start) * 1e-6);
    }
    if (s == NB_OK)
        *out = (struct nb_bench_prefill){n, n / median(times)};
    nb_sequence_close(&q);
    free(ids);
    free(times);
    return s;
}

static enum nb_status measure_request(struct bench *b, int32_t prompt, int32_t generated,
                                      struct nb_bench_request *out, struct nb_error *err) {
    int32_t *ids = calloc((size_t)prompt, sizeof *ids);
    enum nb_status s = ids ? NB_OK : nb_fail_memory(err, (size_t)prompt * sizeof *ids, "bench");
    double total = 0;
    *out = (struct nb_bench_request){prompt, generated, INFINITY, 0};
    for (int i = 0; s == NB_OK && (i < MIN_REQUESTS || total < b->options->seconds); i++) {
        struct nb_generation g;
        for (int32_t k = 0; k < prompt; k++) /* another prompt each time: no page is found again */
            ids[k] = random_token(b);
        const struct nb_generate_options o = {.prompt_ids = ids,
                                              .n_prompt_ids = (size_t)prompt,
                                              .max_tokens = generated,
                                              .ignore_eos = true};
        int64_t start = nb_now_us();
        s = nb_generate(b->engine, &o, &g, err);
        double seconds = (double)(nb_now_us() - start) * 1e-6;
        total += seconds;
        if (s == NB_OK && seconds < out->seconds) {
            out->seconds = seconds;
            out->prefill_seconds = g.prefill_ms * 1e-3;
        }
        if (s == NB_OK)
            nb_generation_free(&g);
    }
    free(ids);
    return s;
}

static void say(struct bench *b, const char *what, int32_t n) {
    char text[64];
    snprintf(text, sizeof text, what, n);
    if (b->progress)
        b->progress(b->progress_context, text);
}

static enum nb_status measure(struct bench *b, struct nb_bench *out, struct nb_error *err) {
    const struct nb_bench_options *o = b->options;
    enum nb_status s = NB_OK;
    for (int i = 0; i < o->n_batches && s == NB_OK; i++) {
        say(b, "decode, batch %d", o->batches[i]);
        s = measure_decode(b, o->batches[i], o->depths[i] ? o->depths[i] : o->depth,
                           &out->decode[out->n_decode++], err);
    }
    for (int i = 0; i < o->n_prefills && s == NB_OK; i++) {
        say(b, "prefill of %d tokens", o->prefills[i]);
        s = measure_prefill(b, o->prefills[i], &out->prefill[out->n_prefill++], err);
    }
    for (int i = 0; i < o->n_requests && s == NB_OK; i++) {
        say(b, "a request of %d tokens", o->requests[i][0]);
        s = measure_request(b, o->requests[i][0], o->requests[i][1],
                            &out->request[out->n_requests++], err);
    }
    if (o->structure && s == NB_OK) {
        say(b, "a schema's answers, up to %d tokens", NB_STRUCTURE_BENCH_TOKENS);
        out->structured = true;
        s = nb_structure_bench_run(b->engine, o->structure, o->seconds, &out->structure, err);
    }
    for (int i = 0; i < MIN_STEPS && s == NB_OK && b->reads.n < MIN_STEPS; i++)
        s = read_memory(b, err);
    if (s != NB_OK)
        return s;
    out->read_gb_per_s = (double)b->read_bytes / median(&b->reads) * 1e-9;
    for (int i = 0; i < out->n_decode; i++) {
        struct nb_bench_decode *d = &out->decode[i];
        d->share_of_limit = d->gb_per_s / out->read_gb_per_s;
        d->limit = d->tokens_per_s / d->share_of_limit;
    }
    return NB_OK;
}

/* Whether the options will end up on a device: known before the engine is there by whether one
 * opens. */
static bool is_device(const struct nb_options *options) {
    const char *wanted = options->backend ? options->backend : options->cpu ? "cpu" : "auto";
    struct nb_backend_options o = {.context = 1};
    for (size_t i = 0; nb_all_backends[i]; i++) {
        const struct nb_backend_ops *ops = nb_all_backends[i];
        struct nb_backend *backend;
        if ((strcmp(wanted, "auto") != 0 && strcmp(wanted, ops->name) != 0) || !ops->read_memory)
            continue;
        if (ops->open(&o, &backend, NULL) == NB_OK) {
            ops->close(backend);
            return true;
        }
    }
    return false;
}

/* What is measured where nobody says what: of a GPU more than of a CPU, which takes its time. */
static void choose_figures(struct nb_bench_options *o) {
    static const int32_t gpu[][2] = {{1, 0}, {1, 8192}, {8, 0}, {32, 0}};
    if (!is_device(&o->options)) {
        o->n_batches = o->n_prefills = 2;
        o->batches[0] = 1, o->batches[1] = 8;
        o->prefills[0] = 128, o->prefills[1] = 512;
        return;
    }
    o->n_batches = 4;
    for (int i = 0; i < 4; i++) {
        o->batches[i] = gpu[i][0];
        o->depths[i] = gpu[i][1];
    }
    o->n_prefills = 3;
    o->prefills[0] = 512, o->prefills[1] = 2048, o->prefills[2] = 8192;
    o->n_requests = 1;
    o->requests[0][0] = 10000, o->requests[0][1] = 500;
}

static int32_t larger(int32_t a, int32_t b) {
    return a > b ? a : b;
}

/* What was not said, how long a sequence gets, and for how many of that length there is memory. */
static int32_t complete(const struct nb_bench_options *given, struct nb_bench_options *o,
                        int32_t *sequences) {
    *o = *given;
    bool chosen = !o->n_batches && !o->n_prefills && !o->n_requests && !o->structure;
    if (chosen)
        choose_figures(o);
    if (o->depth == 0)
        o->depth = DEFAULT_DEPTH;
    if (o->seconds <= 0)
        o->seconds = o->n_requests && chosen ? 1 : 3;
    int32_t context = 1;
    int64_t positions = 1;
    for (int i = 0; i < o->n_batches; i++) {
        int32_t n = (o->depths[i] ? o->depths[i] : o->depth) + NB_BENCH_MAX_STEPS + 1;
        context = larger(context, n);
        n = (n + NB_PAGE_TOKENS - 1) / NB_PAGE_TOKENS * NB_PAGE_TOKENS;
        if ((int64_t)n * o->batches[i] > positions)
            positions = (int64_t)n * o->batches[i];
    }
    for (int i = 0; i < o->n_prefills; i++)
        context = larger(context, o->prefills[i]);
    if (o->structure) /* an answer may end with a run that must come */
        context = larger(context, NB_STRUCTURE_BENCH_PROMPT + 2 * NB_STRUCTURE_BENCH_TOKENS);
    for (int i = 0; i < o->n_requests; i++)
        context = larger(context, o->requests[i][0] + o->requests[i][1]);
    context = (context + NB_PAGE_TOKENS - 1) / NB_PAGE_TOKENS * NB_PAGE_TOKENS;
    *sequences = (int32_t)((positions + context - 1) / context);
    return context;
}

enum nb_status nb_bench_run(const struct nb_bench_options *options,
                            void (*progress)(void *context, const char *what),
                            void *progress_context, struct nb_bench *out, struct nb_error *err) {
    struct nb_bench_options o;
    int32_t sequences, context = complete(options, &o, &sequences);
    *out = (struct nb_bench){0};
    struct bench *b = calloc(1, sizeof *b);
    if (!b)
        return nb_fail_memory(err, sizeof *b, "bench");
    b->options = &o;
    b->progress = progress;
    b->progress_context = progress_context;
    enum nb_status s = nb_pool_create(o.options.threads, &b->pool, err);
    say(b, "making %d sequences' worth of model and memory", sequences);
    if (s == NB_OK)
        s = open_engine(b, sequences, context, err);
    if (s == NB_OK)
        s = take_memory(b, err);
    if (s == NB_OK) {
        struct nb_capabilities capabilities;
        struct nb_model_size size = nb_model_size(&b->engine->model);
        b->engine->backend->ops->capabilities(b->engine->backend, &capabilities);
        snprintf(out->backend, sizeof out->backend, "%s", b->engine->backend->ops->name);
        snprintf(out->device, sizeof out->device, "%s", capabilities.device);
        snprintf(out->model, sizeof out->model, "%s", nb_engine_name(b->engine));
        out->model_bytes = size.bytes;
        out->step_bytes = (uint64_t)token_bytes(b->engine);
        const struct nb_config *c = &b->engine->model.config;
        out->prefill_parameters =
            size.active_parameters - (uint64_t)c->n_vocab * (uint64_t)c->width;
        out->layers = c->n_layers;
        out->attention_width = c->n_heads * c->head_width;
        out->load_seconds = b->load_seconds;
        out->device_bytes = capabilities.used_bytes;
        out->max_batch_tokens = b->engine->max_batch_tokens;
        s = measure(b, out, err);
    }
    if (b->memory)
        munmap(b->memory, READ_BYTES);
    nb_engine_close(b->engine);
    nb_pool_free(b->pool);
    free(b);
    return s;
}
