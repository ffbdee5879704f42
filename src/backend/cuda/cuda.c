/* The CUDA backend: what the engine sees of it. Memory is planned (plan.h), then taken in one
 * piece; load.c fills it; a step is one copy of its tokens and page tables, and one of three ways
 * to do it: decode.cu for a few tokens, batch.cu for many, plain.cu for what neither supports.
 */
#include "backend/backend.h"

#include "backend/cuda/load.h"
#include "backend/cuda/repack.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Ways that this build does without. */
#ifndef NB_CUDA_HAS_DECODE
#define nb_cuda_decode_supports(m, l) 0
#define nb_cuda_decode_workspace      nb_cuda_plain_workspace
#define nb_cuda_decode_forward        nb_cuda_plain_forward
#endif
#ifndef NB_CUDA_HAS_BATCH
#define nb_cuda_batch_supports(m, l) 0
#define nb_cuda_batch_workspace      nb_cuda_plain_workspace
#define nb_cuda_batch_forward        nb_cuda_plain_forward
#endif

extern const struct nb_backend_ops nb_cuda_backend;

/* The ways to do a step. */
enum way { DECODE, BATCH, PLAIN, N_WAYS };
static const char *const way_names[N_WAYS] = {"decode", "batch", "plain"};

struct cuda {
    struct nb_backend base;
    struct nb_backend_options options;
    enum way best; /* what options.cpu leaves: ways before it are not taken */
    int device;
    struct cudaDeviceProp properties;
    cudaStream_t stream;

    /* A device that failed stays failed: what it said first, for every call from then on. */
    bool lost;
    struct nb_error why;

    const struct nb_model *source;
    struct nb_arena arena;
    struct nb_cuda_plan plan;
    struct nb_cuda_model model;
    struct nb_cuda_limits limits;
    bool has[N_WAYS];
    size_t workspace_bytes[N_WAYS];
    void *workspace[N_WAYS];
    size_t n_pages;
    size_t used_bytes;

    uint8_t *memory; /* plan.total bytes on the device */
    void *embedding; /* pinned, where it stays on the host */
    uint8_t *kv;

    int32_t *input_host, *input; /* of a step: pinned, and on the device */
    float *logits_host;          /* [logit_rows, V] pinned */
    float *logits_mapped;        /* the same as the device addresses it */
    float *logits_device;        /* [NB_CUDA_LOGIT_ROWS, V] */
    size_t logit_rows;
};

static size_t align_up(size_t n) {
    return (n + NB_CUDA_ALIGN - 1) / NB_CUDA_ALIGN * NB_CUDA_ALIGN;
}

static double gib(uint64_t bytes) {
    return (double)bytes / (double)((uint64_t)1 << 30);
}

/* As nb_cuda_check, and what is not for want of memory ends the device for good. */
static enum nb_status check(struct cuda *c, cudaError_t code, const char *what,
                            struct nb_error *err) {
    struct nb_error why;
    enum nb_status s = nb_cuda_check(code, what, &why);
    if (s == NB_OK)
        return s;
    if (s != NB_ERR_MEMORY && !c->lost) {
        c->lost = true;
        c->why = why;
        nb_log(NB_LOG_ERROR, "%s", why.message);
    }
    if (err)
        *err = why;
    return s;
}

static enum nb_status check_lost(const struct cuda *c, struct nb_error *err) {
    if (!c->lost)
        return NB_OK;
    return nb_fail(err, NB_ERR_IO, "cuda: the GPU has failed before, start again: %s",
                   c->why.message);
}

/* ---- opening ---- */

static void versions(char *out, size_t size) {
    snprintf(out, size, "%s", NB_CUDA_ARCHS);
}

static void cuda_close(struct nb_backend *backend) {
    struct cuda *c = (struct cuda *)backend;
    if (!c)
        return;
    if (c->stream) {
        cudaStreamSynchronize(c->stream);
        cudaStreamDestroy(c->stream);
    }
    cudaFree(c->memory);
    cudaFreeHost(c->embedding);
    cudaFreeHost(c->input_host);
    cudaFreeHost(c->logits_host);
    nb_arena_free(&c->arena);
    free(c);
}

/* That this build has kernels for the device. */
static enum nb_status check_code(const struct cuda *c, struct nb_error *err) {
    cudaError_t code = nb_cuda_check_image();
    switch (code) {
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
    case cudaErrorInvalidPtx:
    case cudaErrorUnsupportedPtxVersion:
        cudaGetLastError();
        return nb_fail(err, NB_ERR_UNSUPPORTED,
                       "cuda: %s has compute capability %d.%d, and this build has code for %s; "
                       "build with -Dcuda-archs=%d%d (8.0 is the least), or use --backend cpu",
                       c->properties.name, c->properties.major, c->properties.minor, NB_CUDA_ARCHS,
                       c->properties.major, c->properties.minor);
    default:
        return nb_cuda_check(code, "looking for the GPU's kernels", err);
    }
}

/* The device that is visible first; NB_ERR_UNSUPPORTED says why there is none. */
static enum nb_status find_device(struct cuda *c, struct nb_error *err) {
    int n = 0;
    cudaError_t code = cudaGetDeviceCount(&n);
    if (code == cudaErrorInsufficientDriver || code == cudaErrorStubLibrary) {
        int driver = 0;
        cudaDriverGetVersion(&driver);
        if (driver == 0)
            return nb_fail(err, NB_ERR_UNSUPPORTED,
                           "cuda: no CUDA driver: install NVIDIA's, or give the container the GPU "
                           "(--gpus all); or use --backend cpu");
        return nb_fail(err, NB_ERR_UNSUPPORTED,
                       "cuda: the driver is for CUDA %d.%d, this build needs %d.%d or later: a "
                       "newer driver, or --backend cpu",
                       driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000,
                       CUDART_VERSION % 1000 / 10);
    }
    if (code == cudaErrorNoDevice || (code == cudaSuccess && n == 0))
        return nb_fail(
            err, NB_ERR_UNSUPPORTED,
            "cuda: the driver is there, but no GPU: CUDA_VISIBLE_DEVICES may hide it; or "
            "use --backend cpu");
    enum nb_status s = nb_cuda_check(code, "looking for GPUs", err);
    /* The thread that waits for a step spins: a wake-up takes longer than a layer does. */
    if (s == NB_OK)
        s = nb_cuda_check(cudaInitDevice(c->device, cudaDeviceScheduleSpin | cudaDeviceMapHost,
                                         cudaInitDeviceFlagsAreValid),
                          "setting up the GPU", err);
    if (s == NB_OK)
        s = nb_cuda_check(cudaSetDevice(c->device), "choosing the GPU", err);
    if (s == NB_OK)
        s = nb_cuda_check(cudaGetDeviceProperties(&c->properties, c->device),
                          "asking what the GPU is", err);
    return s == NB_OK ? check_code(c, err) : s;
}

static enum nb_status check_options(struct cuda *c, struct nb_error *err) {
    const struct nb_backend_options *o = &c->options;
    if (o->kv_type && strcmp(o->kv_type, "bf16") != 0 && strcmp(o->kv_type, "fp8") != 0)
        return nb_fail(err, NB_ERR_ARGUMENT, "kv_type is \"%.32s\", expected bf16 or fp8",
                       o->kv_type);
    for (c->best = DECODE; o->cpu && c->best < N_WAYS; c->best++) {
        if (strcmp(o->cpu, way_names[c->best]) == 0)
            break;
    }
    if (c->best == N_WAYS)
        return nb_fail(err, NB_ERR_ARGUMENT,
                       "cuda: no kernels \"%.32s\", only decode, batch and plain", o->cpu);
    return NB_OK;
}

static enum nb_status cuda_open(const struct nb_backend_options *options, struct nb_backend **out,
                                struct nb_error *err) {
    *out = NULL;
    struct cuda *c = calloc(1, sizeof *c);
    if (!c)
        return nb_fail_memory(err, sizeof *c, "the CUDA backend");
    c->base.ops = &nb_cuda_backend;
    c->options = *options;
    int64_t begin = nb_now_us();
    enum nb_status s = check_options(c, err);
    if (s == NB_OK)
        s = find_device(c, err);
    if (s == NB_OK)
        s = nb_cuda_check(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking),
                          "making a stream", err);
    if (s != NB_OK) {
        cuda_close(&c->base);
        return s;
    }
    nb_log(NB_LOG_INFO, "cuda: %s ready after %.3f s", c->properties.name,
           (double)(nb_now_us() - begin) * 1e-6);
    *out = &c->base;
    return NB_OK;
}

static void capabilities(const struct nb_backend *backend, struct nb_capabilities *out) {
    const struct cuda *c = (const struct cuda *)backend;
    snprintf(out->device, sizeof out->device, "%.100s, sm_%d%d", c->properties.name,
             c->properties.major, c->properties.minor);
    out->memory_bytes = c->properties.totalGlobalMem;
    out->used_bytes = c->used_bytes;
    out->max_batch_tokens = c->plan.max_batch_tokens;
}

/* ---- loading ---- */

typedef size_t (*workspace_fn)(const struct nb_cuda_model *, const struct nb_cuda_limits *);

/* Which ways there are for batches of so many tokens, and what each takes. */
static void choose_ways(struct cuda *c, size_t tokens) {
    struct nb_cuda_limits *l = &c->limits;
    *l = (struct nb_cuda_limits){
        .max_tokens = (int32_t)tokens,
        .max_sequences = NB_CUDA_MAX_SEQUENCES,
        .context = c->options.context,
        .sm_count = c->properties.multiProcessorCount,
        .compute_capability = c->properties.major * 10 + c->properties.minor,
    };
    c->has[DECODE] = c->best <= DECODE && nb_cuda_decode_supports(&c->model, l);
    c->has[BATCH] = c->best <= BATCH && nb_cuda_batch_supports(&c->model, l);
    c->has[PLAIN] = !c->has[BATCH];
    static const workspace_fn bytes[N_WAYS] = {nb_cuda_decode_workspace, nb_cuda_batch_workspace,
                                               nb_cuda_plain_workspace};
    for (int i = 0; i < N_WAYS; i++)
        c->workspace_bytes[i] = c->has[i] ? align_up(bytes[i](&c->model, l)) : 0;
}

static uint64_t workspace_of(void *context, size_t tokens) {
    struct cuda *c = context;
    uint64_t sum = 0;
    choose_ways(c, tokens);
    for (int i = 0; i < N_WAYS; i++)
        sum += c->workspace_bytes[i];
    return sum;
}

static enum nb_status make_plan(struct cuda *c, struct nb_error *err) {
    const struct nb_backend_options *o = &c->options;
    size_t free_bytes, all;
    enum nb_status s = check(c, cudaMemGetInfo(&free_bytes, &all), "asking for free memory", err);
    if (s != NB_OK)
        return s;
    /* What is free is not all to be had: the driver keeps some for launches and printf. */
    uint64_t margin = (uint64_t)128 << 20,
             available = free_bytes > margin ? free_bytes - margin : 1;
    if (o->memory_limit && o->memory_limit < available)
        available = o->memory_limit;
    const struct nb_cuda_plan_options options = {
        .context = o->context,
        .n_pages = o->n_pages,
        .max_batch_tokens = o->max_batch_tokens,
        .kv_fp8 = c->model.kv_fp8,
        .available = available,
        .quantize = o->quantize,
        .workspace = workspace_of,
        .workspace_context = c,
    };
    s = nb_cuda_plan(&c->source->config, c->source, &options, &c->plan, err);
    return s == NB_OK ? s : nb_fail_prefix(err, s, "%s", c->properties.name);
}

/* Takes all memory, and says where in it everything is. */
static enum nb_status take_memory(struct cuda *c, uint8_t **weights, uint8_t **scratch,
                                  struct nb_error *err) {
    const struct nb_cuda_plan *p = &c->plan;
    enum nb_status s =
        check(c, cudaMalloc((void **)&c->memory, p->total), "taking the GPU's memory", err);
    if (s == NB_OK && p->embedding_on_host)
        s = check(c, cudaHostAlloc(&c->embedding, p->embedding, cudaHostAllocMapped),
                  "taking pinned memory for the embedding", err);
    size_t vocab = (size_t)c->model.n_vocab;
    c->logit_rows = NB_CUDA_LOGIT_ROWS;
    if (s == NB_OK)
        s = check(c,
                  cudaHostAlloc((void **)&c->input_host,
                                p->step - nb_cuda_logit_bytes(&c->source->config), 0),
                  "taking pinned memory", err);
    if (s == NB_OK)
        s = check(c,
                  cudaHostAlloc((void **)&c->logits_host, c->logit_rows * vocab * sizeof(float),
                                cudaHostAllocMapped),
                  "taking pinned memory for logits", err);
    if (s == NB_OK)
        s = check(c, cudaHostGetDevicePointer((void **)&c->logits_mapped, c->logits_host, 0),
                  "mapping memory", err);
    if (s != NB_OK)
        return s;
    c->used_bytes = p->total;
    *weights = c->memory;
    *scratch = c->memory + (p->total - p->kv - p->workspace - p->step);
    c->kv = *scratch;
    uint8_t *at = c->kv + p->kv;
    for (int i = 0; i < N_WAYS; i++) {
        c->workspace[i] = at;
        at += c->workspace_bytes[i];
    }
    c->input = (int32_t *)(c->kv + p->kv + p->workspace);
    c->logits_device =
        (float *)((uint8_t *)c->input + p->step - nb_cuda_logit_bytes(&c->source->config));
    return NB_OK;
}

static enum nb_status fill_memory(struct cuda *c, uint8_t *weights, uint8_t *scratch,
                                  void (*progress)(void *context, uint64_t done, uint64_t total),
                                  void *context, struct nb_error *err) {
    void *embedding = NULL;
    enum nb_status s = NB_OK;
    if (c->embedding)
        s = check(c, cudaHostGetDevicePointer(&embedding, c->embedding, 0), "mapping memory", err);
    const struct nb_cuda_load load = {
        .model = c->source,
        .quantize = c->options.quantize,
        .plan = &c->plan,
        .device = c->device,
        .threads = c->options.threads,
        .progress = progress,
        .progress_context = context,
        .weights = weights,
        .embedding_host = c->embedding,
        .embedding_host_device = embedding,
        .scratch = scratch,
        .scratch_bytes = c->plan.kv + c->plan.workspace,
    };
    if (s == NB_OK)
        s = nb_cuda_load(&load, &c->model, err);
    /* Workspaces begin as zeros; so do keys and values, that the unused ones are numbers, too. */
    if (s == NB_OK)
        s = check(c, cudaMemsetAsync(c->kv, 0, c->plan.kv + c->plan.workspace, c->stream),
                  "clearing memory", err);
    if (s == NB_OK)
        s = check(c, cudaStreamSynchronize(c->stream), "clearing memory", err);
    return s;
}

static enum nb_status load(struct nb_backend *backend, const struct nb_model *model,
                           void (*progress)(void *context, uint64_t done, uint64_t total),
                           void *context, struct nb_error *err) {
    struct cuda *c = (struct cuda *)backend;
    int64_t begin = nb_now_us();
    uint8_t *weights = NULL, *scratch = NULL;
    enum nb_status s = check_lost(c, err);
    if (s != NB_OK)
        return s;
    c->source = model;
    s = nb_cuda_describe(model, c->options.quantize, &c->arena, &c->model, err);
    const struct nb_config *config = &model->config;
    c->model.kv_fp8 = c->options.kv_type && strcmp(c->options.kv_type, "fp8") == 0;
    c->model.page_stride = (int64_t)2 * config->n_kv_heads * NB_PAGE_TOKENS * config->head_width;
    c->model.n_pages = (int32_t)c->options.n_pages;
    if (s == NB_OK)
        s = make_plan(c, err);
    if (s == NB_OK)
        s = take_memory(c, &weights, &scratch, err);
    int64_t taken = nb_now_us();
    if (s == NB_OK)
        s = fill_memory(c, weights, scratch, progress, context, err);
    if (s == NB_OK)
        nb_log(
            NB_LOG_INFO,
            "cuda: %.2f GiB (experts %.2f, attention %.2f, head %.2f, embedding %.2f%s, keys and "
            "values %.2f, scratch %.2f), batches of %zu tokens%s%s, memory after %.3f s, loaded "
            "after %.3f s",
            gib(c->plan.total), gib(c->plan.experts), gib(c->plan.attention), gib(c->plan.head),
            gib(c->plan.embedding), c->plan.embedding_on_host ? " on the host" : "",
            gib(c->plan.kv), gib(c->plan.workspace + c->plan.step), c->plan.max_batch_tokens,
            c->has[DECODE] ? ", decode" : "", c->has[BATCH] ? ", batch" : ", plain",
            (double)(taken - begin) * 1e-6, (double)(nb_now_us() - begin) * 1e-6);
    return s;
}

/* Pinned memory for more logits is taken when a step wants them, not during it. */
static float *logits_memory(struct nb_backend *backend, size_t rows) {
    struct cuda *c = (struct cuda *)backend;
    size_t bytes, row = (size_t)c->model.n_vocab * sizeof(float);
    if (rows <= c->logit_rows)
        return c->logits_host;
    float *grown, *mapped;
    if (c->lost || !nb_mul_size(rows, row, &bytes) ||
        cudaHostAlloc((void **)&grown, bytes, cudaHostAllocMapped) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    if (cudaHostGetDevicePointer((void **)&mapped, grown, 0) != cudaSuccess) {
        cudaGetLastError();
        cudaFreeHost(grown);
        return NULL;
    }
    cudaFreeHost(c->logits_host);
    c->logits_host = grown;
    c->logits_mapped = mapped;
    c->logit_rows = rows;
    return c->logits_host;
}

static enum nb_status read_memory(struct nb_backend *backend, uint64_t *bytes, double *seconds,
                                  struct nb_error *err) {
    struct cuda *c = (struct cuda *)backend;
    cudaEvent_t events[2] = {NULL, NULL};
    /* Weights, as many as are there: what a step reads. */
    uint64_t n = (uint64_t)(c->kv - c->memory), most = (uint64_t)16 << 30;
    *bytes = (n < most ? n : most) & ~(uint64_t)15;
    enum nb_status s = check_lost(c, err);
    for (int i = 0; i < 2 && s == NB_OK; i++)
        s = check(c, cudaEventCreate(&events[i]), "making an event", err);
    if (s == NB_OK)
        s = check(c, cudaEventRecord(events[0], c->stream), "measuring memory", err);
    if (s == NB_OK)
        s = check(
            c, nb_cuda_read(c->memory, *bytes, (uint32_t *)c->input, c->limits.sm_count, c->stream),
            "measuring memory", err);
    if (s == NB_OK)
        s = check(c, cudaEventRecord(events[1], c->stream), "measuring memory", err);
    if (s == NB_OK)
        s = check(c, cudaEventSynchronize(events[1]), "measuring memory", err);
    float ms = 0;
    if (s == NB_OK)
        s = check(c, cudaEventElapsedTime(&ms, events[0], events[1]), "measuring memory", err);
    *seconds = (double)ms * 1e-3;
    for (int i = 0; i < 2; i++) {
        if (events[i])
            cudaEventDestroy(events[i]);
    }
    return s;
}

/* ---- KV memory ---- */

static size_t kv_page_bytes(const struct nb_backend *backend) {
    return (size_t)((const struct cuda *)backend)->plan.kv_page;
}

/* The memory is there since load; this only says that it may be used. */
static enum nb_status kv_alloc(struct nb_backend *backend, size_t n_pages, struct nb_error *err) {
    struct cuda *c = (struct cuda *)backend;
    if (!c->memory || n_pages > c->options.n_pages)
        return nb_fail(err, NB_ERR_INTERNAL, "cuda: %zu pages of KV memory, planned were %zu",
                       n_pages, c->memory ? c->options.n_pages : 0);
    c->n_pages = n_pages;
    c->model.kv = c->kv;
    return NB_OK;
}

static void kv_free(struct nb_backend *backend) {
    struct cuda *c = (struct cuda *)backend;
    c->n_pages = 0;
    c->model.kv = NULL;
}

static enum nb_status kv_copy(struct nb_backend *backend, int32_t from, int32_t to,
                              struct nb_error *err) {
    struct cuda *c = (struct cuda *)backend;
    enum nb_status s = check_lost(c, err);
    if (s != NB_OK)
        return s;
    if (from < 0 || to < 0 || (size_t)from >= c->n_pages || (size_t)to >= c->n_pages)
        return nb_fail(err, NB_ERR_INTERNAL, "cuda: kv_copy of page %d to %d of %zu", from, to,
                       c->n_pages);
    size_t part = c->plan.kv_page / (size_t)c->model.n_layers, pitch = part * c->options.n_pages;
    return check(c,
                 cudaMemcpy2DAsync(c->kv + part * (size_t)to, pitch, c->kv + part * (size_t)from,
                                   pitch, part, (size_t)c->model.n_layers, cudaMemcpyDeviceToDevice,
                                   c->stream),
                 "copying a page", err);
}

/* ---- a step ---- */

static enum nb_status check_batch(const struct cuda *c, const struct nb_batch *batch,
                                  struct nb_error *err) {
    if (!c->model.kv)
        return nb_fail(err, NB_ERR_INTERNAL, "cuda: forward before load and kv_alloc");
    if (batch->n_tokens == 0 || batch->n_tokens > c->plan.max_batch_tokens ||
        batch->n_logits > batch->n_tokens)
        return nb_fail(err, NB_ERR_INTERNAL,
                       "cuda: a batch of %zu tokens and %zu logits, at most %zu", batch->n_tokens,
                       batch->n_logits, c->plan.max_batch_tokens);
    if (batch->n_sequences == 0 || batch->n_sequences > NB_CUDA_MAX_SEQUENCES)
        return nb_fail(err, NB_ERR_LIMIT, "cuda: a batch of %zu sequences, at most %d",
                       batch->n_sequences, NB_CUDA_MAX_SEQUENCES);
    for (size_t t = 0; t < batch->n_tokens; t++) {
        if (batch->token[t] < 0 || batch->token[t] >= c->model.n_vocab)
            return nb_fail(err, NB_ERR_ARGUMENT, "token id %d is not below the vocabulary's %d",
                           batch->token[t], c->model.n_vocab);
        if (batch->position[t] < 0 || batch->position[t] >= c->options.context)
            return nb_fail(err, NB_ERR_LIMIT, "position %d is beyond the context of %d",
                           batch->position[t], c->options.context);
        if (batch->sequence[t] < 0 || (size_t)batch->sequence[t] >= batch->n_sequences)
            return nb_fail(err, NB_ERR_INTERNAL, "cuda: sequence %d of %zu", batch->sequence[t],
                           batch->n_sequences);
    }
    return NB_OK;
}

/* The pages that a sequence's positions up to `last` are in; a page that there is not would lose
 * the device. */
static enum nb_status put_pages(const struct cuda *c, const int32_t *pages, int32_t last,
                                int32_t *out, struct nb_error *err) {
    for (int32_t i = 0; i <= last / NB_PAGE_TOKENS; i++) {
        if (pages[i] < 0 || (size_t)pages[i] >= c->n_pages)
            return nb_fail(err, NB_ERR_INTERNAL, "cuda: page %d of %zu", pages[i], c->n_pages);
        out[i] = pages[i];
    }
    return NB_OK;
}

/* The batch into pinned memory; *step with pointers to where it will be on the device, and the
 * bytes to copy. */
static enum nb_status put_batch(struct cuda *c, const struct nb_batch *b, struct nb_cuda_step *step,
                                size_t *bytes, struct nb_error *err) {
    int32_t last[NB_CUDA_MAX_SEQUENCES], run[NB_CUDA_MAX_SEQUENCES];
    size_t n = b->n_tokens;
    for (size_t s = 0; s < b->n_sequences; s++)
        last[s] = -1, run[s] = 0;
    *step = (struct nb_cuda_step){.n_tokens = (int32_t)n, .n_logits = (int32_t)b->n_logits};
    for (size_t t = 0; t < n; t++) {
        int32_t s = b->sequence[t], p = b->position[t];
        last[s] = p > last[s] ? p : last[s];
        run[s]++;
        step->max_position = p > step->max_position ? p : step->max_position;
        step->longest_run = run[s] > step->longest_run ? run[s] : step->longest_run;
    }
    step->max_pages = step->max_position / NB_PAGE_TOKENS + 1;
    int32_t *at = c->input_host;
    memcpy(at, b->token, n * sizeof *at);
    memcpy(at + n, b->position, n * sizeof *at);
    memcpy(at + 2 * n, b->sequence, n * sizeof *at);
    memcpy(at + 3 * n, b->logits_of, b->n_logits * sizeof *at);
    size_t pages = 3 * n + b->n_logits;
    for (size_t s = 0; s < b->n_sequences; s++) {
        enum nb_status status =
            put_pages(c, b->pages[s], last[s], at + pages + s * (size_t)step->max_pages, err);
        if (status != NB_OK)
            return status;
    }
    step->token = c->input;
    step->position = c->input + n;
    step->sequence = c->input + 2 * n;
    step->logits_of = c->input + 3 * n;
    step->pages = c->input + pages;
    *bytes = (pages + b->n_sequences * (size_t)step->max_pages) * sizeof *at;
    return NB_OK;
}

static cudaError_t run_step(struct cuda *c, const struct nb_cuda_step *step) {
    enum way way = c->has[BATCH] ? BATCH : PLAIN;
    if (c->has[DECODE] && step->n_tokens <= NB_CUDA_DECODE_GIVEN)
        way = DECODE;
    switch (way) {
    case DECODE:
        return nb_cuda_decode_forward(&c->model, step, c->workspace[DECODE], &c->limits, c->stream);
    case BATCH:
        return nb_cuda_batch_forward(&c->model, step, c->workspace[BATCH], &c->limits, c->stream);
    default:
        return nb_cuda_plain_forward(&c->model, step, c->workspace[PLAIN], &c->limits, c->stream);
    }
}

static enum nb_status forward(struct nb_backend *backend, const struct nb_batch *batch,
                              struct nb_error *err) {
    struct cuda *c = (struct cuda *)backend;
    struct nb_cuda_step step;
    size_t bytes, row = (size_t)c->model.n_vocab;
    enum nb_status s = check_lost(c, err);
    if (s == NB_OK)
        s = check_batch(c, batch, err);
    if (s == NB_OK)
        s = put_batch(c, batch, &step, &bytes, err);
    if (s != NB_OK)
        return s;
    /* Few rows are written to the host's memory as they are computed, where the caller wants them
     * if that is memory of logits_memory; more are copied, for products write them in small pieces.
     */
    size_t n = batch->n_logits * row, offset = (size_t)(batch->logits - c->logits_host);
    bool in_place = batch->logits >= c->logits_host && offset + n <= c->logit_rows * row;
    if (!in_place && batch->n_logits > c->logit_rows)
        return nb_fail(err, NB_ERR_MEMORY,
                       "out of memory: logits of %zu tokens in one step; ask for fewer",
                       batch->n_logits);
    offset = in_place ? offset : 0;
    bool copied = batch->n_logits > NB_CUDA_DECODE_TOKENS && batch->n_logits <= NB_CUDA_LOGIT_ROWS;
    step.logits = copied ? c->logits_device : c->logits_mapped + offset;
    s = check(c, cudaMemcpyAsync(c->input, c->input_host, bytes, cudaMemcpyHostToDevice, c->stream),
              "copying a batch", err);
    if (s == NB_OK)
        s = check(c, run_step(c, &step), "starting a step", err);
    if (s == NB_OK && copied)
        s = check(c,
                  cudaMemcpyAsync(c->logits_host + offset, c->logits_device, n * sizeof(float),
                                  cudaMemcpyDeviceToHost, c->stream),
                  "copying logits", err);
    if (s == NB_OK)
        s = check(c, cudaStreamSynchronize(c->stream), "a step", err);
    if (s == NB_OK && !in_place)
        memcpy(batch->logits, c->logits_host, n * sizeof(float));
    return s;
}

const struct nb_backend_ops nb_cuda_backend = {
    .name = "cuda",
    .quantizes = true,
    .versions = versions,
    .open = cuda_open,
    .close = cuda_close,
    .capabilities = capabilities,
    .load = load,
    .logits_memory = logits_memory,
    .read_memory = read_memory,
    .kv_alloc = kv_alloc,
    .kv_free = kv_free,
    .kv_copy = kv_copy,
    .kv_page_bytes = kv_page_bytes,
    .forward = forward,
};
