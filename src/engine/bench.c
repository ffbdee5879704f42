#include "engine/bench.h"

#include "base/clock.h"
#include "base/pool.h"
#include "engine/engine.h"
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

/* ---- memory ------------------------------------------------------------------------------------
 */

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

static void read_memory(struct bench *b) {
    int64_t start = nb_now_us();
    nb_pool_run(b->pool, READ_BYTES / sizeof *b->memory, READ_GRAIN / sizeof *b->memory, read_words,
                b);
    add_time(&b->reads, (double)(nb_now_us() - start) * 1e-6);
}

/* Huge pages where the system gives them: the limit should be the memory's, not that of address
 * translation. */
static enum nb_status take_memory(struct bench *b, struct nb_error *err) {
    void *p = mmap(NULL, READ_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return nb_fail_memory(err, READ_BYTES, "measuring memory");
    madvise(p, READ_BYTES, MADV_HUGEPAGE);
    memset(p, 1, READ_BYTES);
    b->memory = p;
    for (int i = 0; i < 3; i++)
        read_memory(b);
    b->reads = (struct times){0}; /* those were to wake the machine up */
    return NB_OK;
}

/* ---- the model ---------------------------------------------------------------------------------
 */

static enum nb_status open_engine(struct bench *b, int32_t sequences, int32_t context,
                                  struct nb_error *err) {
    const struct nb_bench_options *o = b->options;
    struct nb_options options = o->options;
    options.sequences = sequences;
    options.context = context;
    if (o->model)
        return nb_engine_open(o->model, &options, &b->engine, err);
    struct nb_model model;
    enum nb_status s = nb_model_synthetic(o->synthetic, b->pool, &model, err);
    return s == NB_OK ? nb_engine_open_model(&model, o->synthetic, &options, &b->engine, err) : s;
}

/* Bytes of one expert of every layer. */
static double expert_bytes(const struct nb_model *m) {
    double bytes = 0;
    for (int i = 0; i < m->config.n_layers; i++) {
        const struct nb_expert *e = &m->layers[i].experts[0];
        bytes += (double)(nb_matrix_bytes(&e->gate) + nb_matrix_bytes(&e->up) +
                          nb_matrix_bytes(&e->down));
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
    return (double)nb_model_size(&engine->model).step_bytes +
           (read - chosen) * expert_bytes(&engine->model) + kv * context * batch;
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

/* ---- what is measured --------------------------------------------------------------------------
 */

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
            read_memory(b);
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
    while (s == NB_OK && (times->n < MIN_PREFILLS || times->total < b->options->seconds)) {
        nb_sequence_truncate(&q, 0);
        int64_t start = nb_now_us();
        s = nb_sequence_append(&q, ids, (size_t)n, 1, NULL, err);
        add_time(times, (double)(nb_now_us() - start) * 1e-6);
    }
    if (s == NB_OK)
        *out = (struct nb_bench_prefill){n, n / median(times)};
    nb_sequence_close(&q);
    free(ids);
    free(times);
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
        s = measure_decode(b, o->batches[i], o->depth, &out->decode[out->n_decode++], err);
    }
    for (int i = 0; i < o->n_prefills && s == NB_OK; i++) {
        say(b, "prefill of %d tokens", o->prefills[i]);
        s = measure_prefill(b, o->prefills[i], &out->prefill[out->n_prefill++], err);
    }
    if (s != NB_OK)
        return s;
    out->read_gb_per_s = READ_BYTES / median(&b->reads) * 1e-9;
    for (int i = 0; i < out->n_decode; i++) {
        struct nb_bench_decode *d = &out->decode[i];
        d->share_of_limit = d->gb_per_s / out->read_gb_per_s;
        d->limit = d->tokens_per_s / d->share_of_limit;
    }
    return NB_OK;
}

/* What was not said, and how long a sequence gets. */
static int32_t complete(const struct nb_bench_options *given, struct nb_bench_options *o,
                        int32_t *sequences) {
    *o = *given;
    if (!o->n_batches && !o->n_prefills) {
        o->n_batches = o->n_prefills = 2;
        o->batches[0] = 1, o->batches[1] = 8;
        o->prefills[0] = 128, o->prefills[1] = 512;
    }
    if (o->depth == 0)
        o->depth = DEFAULT_DEPTH;
    if (o->seconds <= 0)
        o->seconds = 3;
    int32_t context = o->n_batches ? o->depth + NB_BENCH_MAX_STEPS + 1 : 1;
    *sequences = 1;
    for (int i = 0; i < o->n_batches; i++)
        *sequences = o->batches[i] > *sequences ? o->batches[i] : *sequences;
    for (int i = 0; i < o->n_prefills; i++)
        context = o->prefills[i] > context ? o->prefills[i] : context;
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
        out->step_bytes = size.step_bytes;
        s = measure(b, out, err);
    }
    if (b->memory)
        munmap(b->memory, READ_BYTES);
    nb_engine_close(b->engine);
    nb_pool_free(b->pool);
    free(b);
    return s;
}
