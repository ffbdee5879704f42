#include "engine/engine.h"

#include "engine/structure.h"

#include "base/checked.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "engine/sampler.h"
#include "model/cache.h"
#include "model/convert.h"
#include "model/quantize.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    /* Without being asked, no more positions than these: models made for 32,768 take 4 GB of keys
     * and values for them, which few prompts need. */
    DEFAULT_CONTEXT = 8192,
};

const char *nb_version(void) {
    return NB_VERSION;
}

const char *nb_backends(char *out, size_t size) {
    size_t used = 0;
    for (size_t i = 0; nb_all_backends[i] && used < size; i++) {
        char kernels[128];
        nb_all_backends[i]->versions(kernels, sizeof kernels);
        used += (size_t)snprintf(out + used, size - used, "%s%s (%s)", i ? ", " : "",
                                 nb_all_backends[i]->name, kernels);
    }
    return out;
}

/* The last part of a path: "Mixtral-8x7B" of "/models/Mixtral-8x7B/". */
static void name_of(const char *path, char *out, size_t size) {
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    snprintf(out, size, "%.*s", (int)(end - begin < size ? end - begin : size - 1), path + begin);
}

static enum nb_status open_tokenizer(struct nb_engine *e, struct nb_error *err) {
    char path[PATH_MAX];
    if (!nb_tokenizer_path(e->folder, path, sizeof path))
        return NB_OK;
    enum nb_status s = nb_tokenizer_open(path, &e->tokenizer, err);
    if (s == NB_OK && nb_tokenizer_size(e->tokenizer) > e->model.config.n_vocab)
        s = nb_fail(err, NB_ERR_FORMAT, "%s: has token id %d, but vocab_size in config.json is %d",
                    path, nb_tokenizer_size(e->tokenizer) - 1, e->model.config.n_vocab);
    return s;
}

/* KV memory, and the arrays of a step. */
static enum nb_status make_pages(struct nb_engine *e, size_t n_pages, struct nb_error *err) {
    size_t n = e->max_batch_tokens;
    e->token = calloc(n, sizeof *e->token);
    e->position = calloc(n, sizeof *e->position);
    e->sequence = calloc(n, sizeof *e->sequence);
    e->logits_of = calloc(n, sizeof *e->logits_of);
    e->page_tables = calloc(n, sizeof *e->page_tables);
    if (!e->token || !e->position || !e->sequence || !e->logits_of || !e->page_tables)
        return nb_fail_memory(err, n * sizeof *e->token, "the engine");
    enum nb_status s = nb_pages_open(n_pages, &e->pages, err);
    return s == NB_OK ? e->backend->ops->kv_alloc(e->backend, n_pages, err) : s;
}

/* What the options make of a model in floats: *how, or none (false). */
static enum nb_status read_quantize(const struct nb_options *options,
                                    struct nb_quantize_options *how, bool *wanted,
                                    struct nb_error *err) {
    const char *type = options->quantize ? options->quantize : "nf4";
    *how = nb_quantize_defaults;
    *wanted = strcmp(type, "none") != 0;
    if (strcmp(type, "fp4") == 0)
        how->type = NB_QUANT_FP4;
    else if (*wanted && strcmp(type, "nf4") != 0)
        return nb_fail(err, NB_ERR_ARGUMENT, "quantize is \"%.32s\", expected none, nf4 or fp4",
                       type);
    return NB_OK;
}

static enum nb_status quantize_on_host(struct nb_engine *e, const struct nb_options *options,
                                       const struct nb_quantize_options *how,
                                       struct nb_error *err) {
    struct nb_pool *pool;
    enum nb_status s = nb_pool_create(options->threads, &pool, err);
    if (s != NB_OK)
        return s;
    s = nb_model_quantize(&e->model, how, pool, options->progress, options->progress_context, err);
    nb_pool_free(pool);
    return s;
}

/* The backend of that name, or without one the first that has a device; the CPU, if one of its
 * versions is asked for. */
static enum nb_status open_backend(struct nb_engine *e, const struct nb_options *options,
                                   const struct nb_backend_options *how, struct nb_error *err) {
    const char *wanted = options->backend ? options->backend : options->cpu ? "cpu" : NULL;
    if (wanted && strcmp(wanted, "auto") != 0) {
        const struct nb_backend_ops *ops = nb_backend_find(wanted);
        char names[256];
        return ops ? ops->open(how, &e->backend, err)
                   : nb_fail(err, NB_ERR_ARGUMENT, "no backend \"%.32s\" in this build, only %s",
                             wanted, nb_backends(names, sizeof names));
    }
    enum nb_status s = NB_ERR_UNSUPPORTED;
    for (size_t i = 0; nb_all_backends[i] && s == NB_ERR_UNSUPPORTED; i++) {
        struct nb_error why;
        s = nb_all_backends[i]->open(how, &e->backend, &why);
        if (s == NB_ERR_UNSUPPORTED)
            nb_log(NB_LOG_INFO, "%s", why.message);
        if (s != NB_OK && err)
            *err = why;
    }
    return s;
}

/* Opens a backend and gives it the model, quantized if that was asked for. */
static enum nb_status load(struct nb_engine *e, const struct nb_options *options, size_t n_pages,
                           struct nb_error *err) {
    struct nb_quantize_options how;
    bool quantize;
    enum nb_status s = read_quantize(options, &how, &quantize, err);
    if (s != NB_OK)
        return s;
    quantize = quantize && !nb_model_is_quantized(&e->model);
    struct nb_backend_options o = {
        .threads = options->threads,
        .cpu = options->cpu,
        .weights = options->weights,
        .context = e->context,
        .n_pages = n_pages,
        .memory_limit = options->memory_limit,
        .kv_type = options->kv_type,
        .quantize = quantize ? &how : NULL,
    };
    s = open_backend(e, options, &o, err);
    if (s == NB_OK && quantize && !e->backend->ops->quantizes)
        s = quantize_on_host(e, options, &how, err);
    if (s == NB_OK)
        s = e->backend->ops->load(e->backend, &e->model, options->progress,
                                  options->progress_context, err);
    if (s != NB_OK)
        return s;
    e->quantized = quantize && e->backend->ops->quantizes;
    struct nb_capabilities capabilities;
    e->backend->ops->capabilities(e->backend, &capabilities);
    e->max_batch_tokens = capabilities.max_batch_tokens;
    return NB_OK;
}

/* Makes an engine of a model that is open: all but the tokenizer. */
static enum nb_status start(struct nb_engine *e, const struct nb_options *options,
                            struct nb_error *err) {
    int32_t most = e->model.config.context;
    e->context = most < DEFAULT_CONTEXT ? most : DEFAULT_CONTEXT;
    if (options->context < 0 || options->context > most)
        return nb_fail(err, NB_ERR_ARGUMENT, "context is %d, expected 1 to the model's %d",
                       options->context, most);
    if (options->context)
        e->context = options->context;
    size_t sequences = options->sequences > 0 ? (size_t)options->sequences : 1,
           n_pages = nb_div_up((size_t)e->context, NB_PAGE_TOKENS) * sequences;
    if (n_pages > INT32_MAX)
        return nb_fail(err, NB_ERR_ARGUMENT, "%zu sequences of %d positions are too many",
                       sequences, e->context);
    enum nb_status s = nb_structures_open(&e->structures, err);
    if (s == NB_OK)
        s = load(e, options, n_pages, err);
    return s == NB_OK ? make_pages(e, n_pages, err) : s;
}

static bool tell(void *context, uint64_t done, uint64_t total) {
    const struct nb_options *o = *(const struct nb_options **)context;
    if (o->progress)
        o->progress(o->progress_context, done, total);
    return true;
}

/* Quantizes the checkpoint in e->folder, a model in floats, to the folder that the options name. */
static enum nb_status write_quantized(struct nb_engine *e, const struct nb_options *options,
                                      struct nb_error *err) {
    struct nb_pool *pool;
    struct nb_convert_options convert = {.progress = tell, .progress_context = &options};
    struct nb_converted done;
    bool wanted;
    enum nb_status s = read_quantize(options, &convert.how, &wanted, err);
    if (s == NB_OK && !wanted)
        s = nb_fail(err, NB_ERR_ARGUMENT,
                    "save_quantized: quantize is none, there is nothing to "
                    "save");
    if (s == NB_OK)
        s = nb_pool_create(options->threads, &pool, err);
    if (s != NB_OK)
        return s;
    s = nb_checkpoint_quantize(e->folder, options->save_quantized, &convert, pool, &done, err);
    nb_pool_free(pool);
    return s;
}

/* Makes e->folder the quantized checkpoint that the options name, which is written if it is not
 * there. */
static enum nb_status use_quantized(struct nb_engine *e, const struct nb_options *options,
                                    struct nb_error *err) {
    struct nb_config wanted, kept;
    enum nb_status s = nb_config_read(e->folder, &wanted, err);
    if (s == NB_OK && !nb_is_folder(options->save_quantized))
        s = write_quantized(e, options, err);
    if (s == NB_OK)
        s = nb_config_read(options->save_quantized, &kept, err);
    if (s != NB_OK)
        return s;
    if (kept.n_layers != wanted.n_layers || kept.width != wanted.width ||
        kept.n_vocab != wanted.n_vocab || kept.expert_width != wanted.expert_width ||
        kept.n_experts != wanted.n_experts)
        return nb_fail(err, NB_ERR_ARGUMENT,
                       "%s: is there already, and its shape is not that of %s; name another folder",
                       options->save_quantized, e->folder);
    snprintf(e->folder, sizeof e->folder, "%s", options->save_quantized);
    return NB_OK;
}

enum nb_status nb_engine_open(const char *checkpoint, const struct nb_options *options,
                              struct nb_engine **out, struct nb_error *err) {
    static const struct nb_options defaults = {0};
    *out = NULL;
    if (!options)
        options = &defaults;
    int64_t begin = nb_now_us();
    struct nb_engine *e = calloc(1, sizeof *e);
    if (!e)
        return nb_fail_memory(err, sizeof *e, "the engine");
    name_of(checkpoint, e->name, sizeof e->name);
    enum nb_status s = nb_checkpoint_find(checkpoint, e->folder, sizeof e->folder, err);
    if (s == NB_OK && options->save_quantized)
        s = use_quantized(e, options, err);
    if (s == NB_OK)
        s = nb_model_open(e->folder, &e->model, err);
    if (s == NB_OK)
        s = open_tokenizer(e, err);
    if (s == NB_OK)
        s = start(e, options, err);
    if (s != NB_OK) {
        nb_engine_close(e);
        return s;
    }
    nb_log(NB_LOG_INFO, "%s: ready after %lld us, context %d", e->name,
           (long long)(nb_now_us() - begin), e->context);
    *out = e;
    return NB_OK;
}

enum nb_status nb_engine_open_model(struct nb_model *model, const char *name,
                                    const struct nb_options *options, struct nb_engine **out,
                                    struct nb_error *err) {
    *out = NULL;
    struct nb_engine *e = calloc(1, sizeof *e);
    if (!e) {
        nb_model_close(model);
        return nb_fail_memory(err, sizeof *e, "the engine");
    }
    snprintf(e->name, sizeof e->name, "%s", name);
    e->model = *model;
    *model = (struct nb_model){0};
    enum nb_status s = start(e, options, err);
    if (s == NB_OK)
        *out = e;
    else
        nb_engine_close(e);
    return s;
}

void nb_engine_close(struct nb_engine *e) {
    if (!e)
        return;
    if (e->backend)
        e->backend->ops->close(e->backend);
    nb_structures_close(e->structures);
    nb_tokenizer_close(e->tokenizer);
    nb_model_close(&e->model);
    nb_pages_close(&e->pages);
    free(e->token);
    free(e->position);
    free(e->sequence);
    free(e->logits_of);
    free(e->page_tables);
    free(e->logits);
    free(e);
}

const char *nb_engine_name(const struct nb_engine *engine) {
    return engine->name;
}

bool nb_engine_has_tokenizer(const struct nb_engine *engine) {
    return engine->tokenizer != NULL;
}

void nb_engine_device(const struct nb_engine *engine, struct nb_device *out) {
    struct nb_capabilities c = {0};
    engine->backend->ops->capabilities(engine->backend, &c);
    bool gpu = engine->backend->ops != &nb_cpu_backend;
    *out = (struct nb_device){.memory_bytes = gpu ? c.memory_bytes : 0,
                              .used_bytes = gpu ? c.used_bytes : 0};
    snprintf(out->backend, sizeof out->backend, "%s", engine->backend->ops->name);
    snprintf(out->name, sizeof out->name, "%s", c.device);
}

const char *nb_token_text(const struct nb_engine *engine, int32_t id, size_t *n) {
    *n = 0;
    return engine->tokenizer ? nb_tokenizer_bytes(engine->tokenizer, id, n) : "";
}

enum nb_status nb_sequence_open(struct nb_engine *engine, struct nb_sequence *out,
                                struct nb_error *err) {
    *out = (struct nb_sequence){.engine = engine};
    size_t n = nb_div_up((size_t)engine->context, NB_PAGE_TOKENS);
    out->pages = calloc(n, sizeof *out->pages);
    out->prefixes = calloc(n, sizeof *out->prefixes);
    if (out->pages && out->prefixes)
        return NB_OK;
    nb_sequence_close(out);
    return nb_fail_memory(err, n * (sizeof *out->pages + sizeof *out->prefixes), "a sequence");
}

size_t nb_sequence_pages_for(const struct nb_sequence *q, size_t n) {
    size_t all = nb_div_up((size_t)q->n + n, NB_PAGE_TOKENS),
           need = all > q->n_pages ? all - q->n_pages : 0;
    bool copy = n && q->n % NB_PAGE_TOKENS != 0 &&
                !nb_pages_writable(&q->engine->pages, q->pages[q->n / NB_PAGE_TOKENS]);
    return need + copy;
}

void nb_sequence_truncate(struct nb_sequence *sequence, int32_t n) {
    if (n < sequence->n)
        sequence->n = n;
    size_t keep = nb_div_up((size_t)sequence->n, NB_PAGE_TOKENS),
           full = (size_t)sequence->n / NB_PAGE_TOKENS;
    /* The last ones first, so that of a published prefix the end is forgotten before its beginning.
     */
    while (sequence->n_pages > keep)
        nb_pages_release(&sequence->engine->pages, sequence->pages[--sequence->n_pages]);
    if (sequence->n_known > full)
        sequence->n_known = full;
}

void nb_sequence_close(struct nb_sequence *sequence) {
    if (sequence->pages)
        nb_sequence_truncate(sequence, 0);
    free(sequence->pages);
    free(sequence->prefixes);
    *sequence = (struct nb_sequence){0};
}

int32_t nb_sequence_reuse(struct nb_sequence *q, const int32_t *tokens, size_t n) {
    struct nb_pages *pages = &q->engine->pages;
    size_t most = nb_div_up((size_t)q->engine->context, NB_PAGE_TOKENS);
    nb_prefix before = 0;
    for (size_t i = 0; i < most && (i + 1) * NB_PAGE_TOKENS < n; i++) {
        int32_t page = nb_pages_find(pages, before, tokens + i * NB_PAGE_TOKENS, &before);
        if (page < 0)
            break;
        q->prefixes[q->n_pages] = before;
        q->pages[q->n_pages++] = page;
    }
    q->n_known = q->n_pages;
    q->n = (int32_t)(q->n_pages * NB_PAGE_TOKENS);
    return q->n;
}

void nb_sequence_publish(struct nb_sequence *q, const int32_t *tokens) {
    size_t full = (size_t)q->n / NB_PAGE_TOKENS;
    for (size_t i = q->n_known; i < full; i++)
        q->prefixes[i] = nb_pages_publish(&q->engine->pages, q->pages[i],
                                          i ? q->prefixes[i - 1] : 0, tokens + i * NB_PAGE_TOKENS);
    q->n_known = full;
}

/* Makes the page that a sequence writes to next its own, where it holds positions already. */
static enum nb_status own_last_page(struct nb_sequence *q, struct nb_error *err) {
    struct nb_engine *e = q->engine;
    size_t last = (size_t)q->n / NB_PAGE_TOKENS;
    if (q->n % NB_PAGE_TOKENS == 0 || nb_pages_writable(&e->pages, q->pages[last]))
        return NB_OK;
    int32_t page = nb_pages_take(&e->pages);
    if (page < 0)
        return nb_fail(err, NB_ERR_MEMORY, "a page of KV memory is wanted, 0 of %zu are free",
                       e->pages.n_pages);
    enum nb_status s = e->backend->ops->kv_copy(e->backend, q->pages[last], page, err);
    if (s != NB_OK) {
        nb_pages_release(&e->pages, page);
        return s;
    }
    nb_pages_release(&e->pages, q->pages[last]);
    q->pages[last] = page;
    return NB_OK;
}

/* Pages for n more positions. */
static enum nb_status grow(struct nb_sequence *q, size_t n, struct nb_error *err) {
    struct nb_engine *e = q->engine;
    if (n > (size_t)(e->context - q->n))
        return nb_fail(err, NB_ERR_LIMIT, "%zu tokens after %d do not fit into a context of %d", n,
                       q->n, e->context);
    size_t need = nb_div_up((size_t)q->n + n, NB_PAGE_TOKENS),
           available = nb_pages_available(&e->pages);
    if (need > q->n_pages && need - q->n_pages > available)
        return nb_fail(err, NB_ERR_MEMORY, "%zu pages of KV memory are wanted, %zu of %zu are free",
                       need - q->n_pages, available, e->pages.n_pages);
    enum nb_status s = n ? own_last_page(q, err) : NB_OK;
    while (s == NB_OK && q->n_pages < need) {
        int32_t page = nb_pages_take(&e->pages);
        if (page < 0)
            return nb_fail(err, NB_ERR_MEMORY, "the pages of KV memory are all in use: %zu",
                           e->pages.n_pages);
        q->pages[q->n_pages++] = page;
    }
    return s;
}

/* Where so many rows of logits go: where the device writes them itself, or into e->logits. */
static enum nb_status reserve_logits(struct nb_engine *e, size_t rows, float **out,
                                     struct nb_error *err) {
    const struct nb_backend_ops *ops = e->backend->ops;
    if (ops->logits_memory && (*out = ops->logits_memory(e->backend, rows)))
        return NB_OK;
    *out = e->logits;
    if (rows <= e->n_logit_rows)
        return NB_OK;
    size_t bytes;
    float *grown = NULL;
    if (nb_mul_size(rows, (size_t)e->model.config.n_vocab * sizeof(float), &bytes))
        grown = realloc(e->logits, bytes);
    if (!grown)
        return nb_fail(err, NB_ERR_MEMORY, "out of memory: logits of %zu tokens", rows);
    *out = e->logits = grown;
    e->n_logit_rows = rows;
    return NB_OK;
}

/* Where a step is: the next token to be put into a batch. */
struct cursor {
    size_t part, token;
    size_t logits; /* rows done */
};

/* Fills the engine's batch from where the cursor is, and moves it. */
static void fill_batch(struct nb_engine *e, const struct nb_step_part *parts, size_t n_parts,
                       struct cursor *at, float *logits, struct nb_batch *batch) {
    *batch = (struct nb_batch){
        .token = e->token,
        .position = e->position,
        .sequence = e->sequence,
        .pages = e->page_tables,
        .logits_of = e->logits_of,
        .logits = logits ? logits + at->logits * (size_t)e->model.config.n_vocab : NULL,
    };
    while (at->part < n_parts && batch->n_tokens < e->max_batch_tokens) {
        const struct nb_step_part *p = &parts[at->part];
        size_t left = p->n - at->token, room = e->max_batch_tokens - batch->n_tokens;
        size_t n = left < room ? left : room;
        if (n)
            e->page_tables[batch->n_sequences++] = p->sequence->pages;
        for (size_t i = 0; i < n; i++, at->token++) {
            size_t row = batch->n_tokens++;
            e->token[row] = p->tokens[at->token];
            e->position[row] = p->sequence->n + (int32_t)at->token;
            e->sequence[row] = (int32_t)batch->n_sequences - 1;
            if (at->token >= p->n - p->n_logits)
                e->logits_of[batch->n_logits++] = (int32_t)row;
        }
        if (at->token == p->n) {
            at->part++;
            at->token = 0;
        }
    }
    at->logits += batch->n_logits;
}

enum nb_status nb_engine_step(struct nb_engine *engine, const struct nb_step_part *parts,
                              size_t n_parts, float **logits, struct nb_error *err) {
    size_t rows = 0;
    float *out = NULL;
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < n_parts && s == NB_OK; i++) {
        if (parts[i].n_logits > parts[i].n)
            s = nb_fail(err, NB_ERR_INTERNAL, "engine: %zu logits of %zu tokens", parts[i].n_logits,
                        parts[i].n);
        rows += parts[i].n_logits;
        if (s == NB_OK)
            s = grow(parts[i].sequence, parts[i].n, err);
    }
    if (s == NB_OK)
        s = reserve_logits(engine, rows, &out, err);
    struct cursor at = {0};
    while (s == NB_OK && at.part < n_parts) {
        struct nb_batch batch;
        fill_batch(engine, parts, n_parts, &at, out, &batch);
        if (batch.n_tokens)
            s = engine->backend->ops->forward(engine->backend, &batch, err);
    }
    for (size_t i = 0; i < n_parts; i++) {
        if (s == NB_OK)
            parts[i].sequence->n += (int32_t)parts[i].n;
        nb_sequence_truncate(parts[i].sequence, parts[i].sequence->n); /* frees what was not used */
    }
    if (logits)
        *logits = s == NB_OK ? out : NULL;
    return s;
}

enum nb_status nb_sequence_append(struct nb_sequence *sequence, const int32_t *tokens, size_t n,
                                  size_t n_logits, float **logits, struct nb_error *err) {
    struct nb_engine *e = sequence->engine;
    int32_t before = sequence->n;
    enum nb_status s = NB_OK;
    size_t done = 0;
    do {
        size_t left = n - done, plain = n_logits < left ? left - n_logits : 0;
        struct nb_step_part part = {sequence, tokens + done, left, n_logits};
        if (e->meanwhile && plain > e->max_batch_tokens) {
            part.n = e->max_batch_tokens;
            part.n_logits = 0;
        }
        if (e->meanwhile)
            s = e->meanwhile(e->meanwhile_context, nb_sequence_pages_for(sequence, part.n), err);
        if (s == NB_OK)
            s = nb_engine_step(e, &part, 1, logits, err);
        done += part.n;
    } while (s == NB_OK && done < n);
    if (s != NB_OK)
        nb_sequence_truncate(sequence, before);
    return s;
}
