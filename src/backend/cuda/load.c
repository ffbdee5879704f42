/* Loading: threads read a checkpoint's bytes into pinned memory, copies and kernels on a stream of
 * each thread take them from there into the layout of layout.h. A thread does a matrix (of one
 * expert, or of attention) at a time, in pieces of a slot.
 */
#include "backend/cuda/load.h"

#include "backend/cuda/repack.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/float16.h"
#include "base/log.h"
#include "base/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SLOTS = 2, /* of a thread: one is filled while the other is on its way */
    MAX_THREADS = 16,
    MAX_PARTS = 3,
};
static const size_t SLOT_BYTES = 4 << 20;

enum nb_status nb_cuda_check(cudaError_t code, const char *what, struct nb_error *err) {
    enum nb_status status = NB_ERR_IO;
    switch (code) {
    case cudaSuccess:
        return NB_OK;
    case cudaErrorMemoryAllocation:
        status = NB_ERR_MEMORY;
        break;
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorStubLibrary:
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorUnsupportedPtxVersion:
    case cudaErrorDevicesUnavailable:
    case cudaErrorSystemDriverMismatch:
    case cudaErrorCompatNotSupportedOnDevice:
        status = NB_ERR_UNSUPPORTED;
        break;
    default:
        break;
    }
    return nb_fail(err, status, "cuda: %s: %s (%s)", what, cudaGetErrorString(code),
                   cudaGetErrorName(code));
}

/* ---- what there is to do ---- */

enum item_kind {
    TILES,     /* a matrix of the layout */
    EMBEDDING, /* rows of the embedding, as they are, in bf16 */
    ROUTER,    /* to f32 */
};

struct item {
    enum item_kind kind;
    const struct nb_cuda_source *source;     /* of tiles: as they will be */
    const struct nb_matrix *from[MAX_PARTS]; /* as they are */
    const struct nb_cuda_shape *shape;
    uint8_t *out;   /* on the device */
    void *out_host; /* of the embedding, where it stays on the host; of a router [E, D] f32 */
    int32_t first_row, rows; /* of the embedding */
};

/* A file that the model is mapped from, to be read rather than touched page by page. */
struct source_file {
    const struct nb_map *map;
    int fd; /* -1: none; what is there is copied from memory */
};

struct slot {
    uint8_t *host, *device; /* SLOT_BYTES each */
    uint8_t *codes;         /* on the device: what floats are quantized to */
    cudaEvent_t done;
    bool busy;
};

struct worker {
    cudaStream_t stream;
    struct slot slots[SLOTS];
    int next;
    /* For quantizing: absmax of a matrix's parts, and what becomes of them. On the device. */
    float *absmax[2], *nested[2];
    uint8_t *absmax_code[2];
};

struct loader {
    const struct nb_cuda_load *load;
    struct nb_cuda_model *m;
    struct nb_arena arena;
    struct item *items;
    size_t n_items, cap_items;
    struct source_file *files;
    size_t n_files;
    struct worker workers[MAX_THREADS];
    int n_workers;
    uint8_t *pinned;
    float *small; /* plan->small bytes on the host, as they will lie on the device */
    uint8_t *small_device;
    float nested_values[256];
    const float *values_device; /* the same on the device */
    uint64_t done, total;
    bool failed;
    struct nb_error error; /* the first */
};

static enum nb_status fail_with(struct loader *l, const struct nb_error *err) {
    if (!__atomic_exchange_n(&l->failed, true, __ATOMIC_ACQ_REL))
        l->error = *err; /* read once the threads are done */
    return err->code;
}

/* ---- reading ---- */

/* n bytes of the model, from a file if they are in one. */
static enum nb_status read_bytes(const struct loader *l, const void *from, size_t n, void *to,
                                 struct nb_error *err) {
    const struct source_file *file = NULL;
    for (size_t i = 0; i < l->n_files && !file; i++) {
        if ((uintptr_t)from - (uintptr_t)l->files[i].map->data < l->files[i].map->size)
            file = &l->files[i];
    }
    if (!file || file->fd < 0) {
        memcpy(to, from, n);
        return NB_OK;
    }
    off_t at = (off_t)((const uint8_t *)from - file->map->data);
    for (size_t done = 0; done < n;) {
        ssize_t k = pread(file->fd, (uint8_t *)to + done, n - done, at + (off_t)done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return nb_fail(err, NB_ERR_IO, "the checkpoint's weights: cannot read: %s",
                           k == 0 ? "the file has become shorter" : strerror(errno));
        done += (size_t)k;
    }
    return NB_OK;
}

static void open_files(struct loader *l) {
    const struct nb_tensors *t = &l->load->model->tensors;
    l->files = nb_arena_alloc(&l->arena, t->n_files, sizeof *l->files);
    l->n_files = l->files ? t->n_files : 0;
    for (size_t i = 0; i < l->n_files; i++) {
        l->files[i] = (struct source_file){&t->maps[i], -1};
        for (size_t k = 0; k < t->n && l->files[i].fd < 0; k++) {
            const struct nb_tensor *tensor = &t->tensors[k];
            if (tensor->bytes &&
                (uintptr_t)tensor->data - (uintptr_t)t->maps[i].data < t->maps[i].size)
                l->files[i].fd = open(tensor->file, O_RDONLY | O_CLOEXEC);
        }
    }
}

static void close_files(struct loader *l) {
    for (size_t i = 0; i < l->n_files; i++) {
        if (l->files[i].fd >= 0)
            close(l->files[i].fd);
    }
}

/* ---- slots ---- */

/* The next slot, once what it last held has been used. */
static enum nb_status take_slot(struct worker *w, struct slot **out, struct nb_error *err) {
    struct slot *slot = &w->slots[w->next];
    w->next = (w->next + 1) % SLOTS;
    *out = slot;
    if (!slot->busy)
        return NB_OK;
    slot->busy = false;
    return nb_cuda_check(cudaEventSynchronize(slot->done), "waiting for a copy", err);
}

static enum nb_status send_slot(struct worker *w, struct slot *slot, size_t bytes, void *to,
                                struct nb_error *err) {
    return nb_cuda_check(cudaMemcpyAsync(to, slot->host, bytes, cudaMemcpyHostToDevice, w->stream),
                         "copying weights", err);
}

static enum nb_status release_slot(struct worker *w, struct slot *slot, struct nb_error *err) {
    slot->busy = true;
    return nb_cuda_check(cudaEventRecord(slot->done, w->stream), "recording an event", err);
}

/* Tells how far the load is, from one thread only. */
static void tell(struct loader *l, int thread, size_t bytes) {
    uint64_t done = __atomic_add_fetch(&l->done, bytes, __ATOMIC_RELAXED);
    if (thread == 0 && l->load->progress)
        l->load->progress(l->load->progress_context, done, l->total);
}

/* ---- matrices ---- */

/* Tiles of one order, from one part or from two side by side. */
struct stretch {
    const struct item *item;
    const struct nb_matrix *from[2]; /* as they are */
    const struct nb_matrix *as[2];   /* as they will be */
    int n_parts;
    enum nb_cuda_order order;
    int32_t head_rows, first_tile, n_tiles;
    int32_t step_tiles,
        step_rows; /* tiles that a whole number of rows of a part makes, and those */
};

static size_t row_bytes(const struct nb_matrix *m) {
    static const size_t sizes[] = {4, 2, 2};
    return m->type == NB_WEIGHT_4BIT ? (size_t)m->columns / 2 : (size_t)m->columns * sizes[m->type];
}

/* Whether a stretch is quantized on its way. */
static bool quantizes(const struct stretch *s) {
    return s->from[0]->type != NB_WEIGHT_4BIT && s->as[0]->type == NB_WEIGHT_4BIT;
}

/* Whether kernels can do it; what is odd enough is done on the host. */
static bool is_regular(const struct stretch *s) {
    const struct nb_cuda_shape *shape = s->item->shape;
    for (int p = 0; p < s->n_parts; p++) {
        if (s->from[p]->type != s->from[0]->type || s->as[p]->type != s->as[0]->type)
            return false;
        if (shape->kind == NB_CUDA_BF16 && s->from[p]->type == NB_WEIGHT_4BIT)
            return false;
        if (quantizes(s) &&
            (s->as[p]->quant.block < 64 || (size_t)shape->columns % s->as[p]->quant.block != 0))
            return false;
    }
    bool stacked = s->item->source->order == NB_CUDA_NATURAL && s->item->source->n_parts > 1;
    return shape->columns % NB_CUDA_CHUNK == 0 && !stacked;
}

/* Bytes of scales in the checkpoint that a row takes at most, a few more for each piece aside. */
static size_t scale_bytes(const struct nb_matrix *m, const struct nb_cuda_shape *shape) {
    if (m->type != NB_WEIGHT_4BIT)
        return 0;
    size_t blocks = (size_t)m->columns / m->quant.block + 2;
    return shape->kind == NB_CUDA_NESTED ? blocks + blocks / NB_NESTED_BLOCK * 4 + 4 : blocks * 4;
}

static size_t align_up(size_t n) {
    return (n + NB_CUDA_ALIGN - 1) / NB_CUDA_ALIGN * NB_CUDA_ALIGN;
}

/* Steps of a stretch that fit into a slot; 0: not one. */
static int32_t steps_of_slot(const struct stretch *s) {
    size_t fixed = 0, step = 0;
    for (int p = 0; p < s->n_parts; p++) {
        step += (size_t)s->step_rows *
                (row_bytes(s->from[p]) + scale_bytes(s->from[p], s->item->shape));
        fixed += 4 * NB_CUDA_ALIGN + 64;
    }
    return (int32_t)((SLOT_BYTES - fixed) / step);
}

/* A part's scales for rows [first, first + n), into the slot at *used; fills in the job. */
static enum nb_status put_scales(const struct loader *l, const struct stretch *s, int p,
                                 int64_t first, int64_t n, struct slot *slot, size_t *used,
                                 struct nb_cuda_repack_job *job, struct nb_error *err) {
    const struct nb_quant_view *v = &s->from[p]->quant;
    const struct nb_cuda_shape *shape = s->item->shape;
    size_t at = *used;
    enum nb_status status = NB_OK;
    if (shape->kind == NB_CUDA_NESTED) {
        int64_t row = shape->row_blocks, begin = first * row, end = (first + n) * row,
                from = begin / NB_NESTED_BLOCK, to = (end + NB_NESTED_BLOCK - 1) / NB_NESTED_BLOCK;
        status = read_bytes(l, v->absmax_code + begin, (size_t)(end - begin), slot->host + at, err);
        job->absmax_code[p] = slot->device + at;
        at = align_up(at + (size_t)(end - begin));
        if (status == NB_OK)
            status = read_bytes(l, v->nested_absmax + from, (size_t)(to - from) * 4,
                                slot->host + at, err);
        job->nested[p] = (const float *)(slot->device + at);
        job->nested_first = from;
        job->offset[p] = v->nested_offset;
        *used = align_up(at + (size_t)(to - from) * 4);
        return status;
    }
    int64_t columns = shape->columns, block = (int64_t)v->block, from = first * columns / block,
            to = ((first + n) * columns + block - 1) / block;
    float *out = (float *)(slot->host + at);
    if (v->absmax)
        status = read_bytes(l, v->absmax + from, (size_t)(to - from) * 4, out, err);
    for (int64_t i = from; !v->absmax && i < to; i++)
        out[i - from] = nb_quant_absmax(v, (size_t)i);
    job->absmax[p] = (const float *)(slot->device + at);
    job->absmax_first = from;
    job->block = block;
    *used = align_up(at + (size_t)(to - from) * 4);
    return status;
}

static struct nb_cuda_repack_job job_of(const struct stretch *s, int32_t first_tile, int32_t tiles,
                                        int64_t first_row, int64_t rows) {
    const struct nb_cuda_shape *shape = s->item->shape;
    return (struct nb_cuda_repack_job){
        .shape = *shape,
        .order = s->order,
        .head_rows = s->head_rows,
        .n_tiles = tiles,
        .rows = (int32_t)rows,
        .first_row = first_row,
        .out = s->item->out +
               (size_t)(s->first_tile + first_tile) * (size_t)shape->n_units * shape->unit_bytes,
        .zero_code = s->as[0]->quant.type == NB_QUANT_FP4 ? 0 : 7,
    };
}

/* Codes and absmax from floats that are in a slot on the device. */
static enum nb_status quantize_piece(struct worker *w, const struct stretch *s, struct slot *slot,
                                     int64_t first, int64_t rows, struct nb_cuda_repack_job *job,
                                     struct nb_error *err) {
    enum nb_status status = NB_OK;
    uint8_t *codes = slot->codes;
    for (int p = 0; p < s->n_parts && status == NB_OK; p++) {
        const struct nb_quant_view *v = &s->as[p]->quant;
        int64_t n = rows * s->item->shape->columns, block = (int64_t)v->block;
        status = nb_cuda_check(
            nb_cuda_quantize(v->type == NB_QUANT_FP4, block, job->weights[p], (int)s->from[p]->type,
                             n, codes, w->absmax[p] + first * s->item->shape->columns / block,
                             w->stream),
            "quantizing weights", err);
        job->weights[p] = codes;
        codes += align_up((size_t)n / 2);
    }
    return status;
}

/* Steps [step, step + n) of a stretch: read, sent, repacked. */
static enum nb_status load_piece(struct loader *l, struct worker *w, const struct stretch *s,
                                 int32_t step, int32_t n, size_t *bytes, struct nb_error *err) {
    struct slot *slot;
    int32_t first_tile = step * s->step_tiles, tiles = s->n_tiles - first_tile < n * s->step_tiles
                                                           ? s->n_tiles - first_tile
                                                           : n * s->step_tiles;
    int64_t first = (int64_t)step * s->step_rows, left = s->from[0]->rows - first,
            rows = left < (int64_t)n * s->step_rows ? left : (int64_t)n * s->step_rows;
    struct nb_cuda_repack_job job = job_of(s, first_tile, tiles, first, rows);
    enum nb_status status = take_slot(w, &slot, err);
    size_t used = 0;
    for (int p = 0; p < s->n_parts && status == NB_OK; p++) {
        const struct nb_matrix *m = s->from[p];
        const uint8_t *data = m->type == NB_WEIGHT_4BIT ? m->quant.codes : m->data;
        size_t row = row_bytes(m), size = (size_t)rows * row;
        status = read_bytes(l, data + (size_t)first * row, size, slot->host + used, err);
        job.weights[p] = slot->device + used;
        used = align_up(used + size);
        if (status == NB_OK && m->type == NB_WEIGHT_4BIT)
            status = put_scales(l, s, p, first, rows, slot, &used, &job, err);
    }
    if (status == NB_OK)
        status = send_slot(w, slot, used, slot->device, err);
    if (status == NB_OK && quantizes(s))
        status = quantize_piece(w, s, slot, first, rows, &job, err);
    if (status == NB_OK)
        status = nb_cuda_check(s->item->shape->kind == NB_CUDA_BF16
                                   ? nb_cuda_repack_floats(&job, (int)s->from[0]->type, w->stream)
                                   : nb_cuda_repack_4bit(&job, w->stream),
                               "repacking weights", err);
    *bytes = used;
    return status == NB_OK ? release_slot(w, slot, err) : status;
}

/* The mean of a part's absmax, summed in order: they come back through the slots. */
static enum nb_status absmax_mean(struct worker *w, const float *absmax, int64_t n,
                                  const char *name, float *mean, struct nb_error *err) {
    double sum = 0;
    enum nb_status s = NB_OK;
    int64_t piece = (int64_t)(SLOT_BYTES / sizeof *absmax);
    for (int64_t at = 0; at < n && s == NB_OK; at += piece) {
        struct slot *slot;
        int64_t count = n - at < piece ? n - at : piece;
        s = take_slot(w, &slot, err);
        if (s == NB_OK)
            s = nb_cuda_check(cudaMemcpyAsync(slot->host, absmax + at, (size_t)count * 4,
                                              cudaMemcpyDeviceToHost, w->stream),
                              "copying absmax", err);
        if (s == NB_OK)
            s = nb_cuda_check(cudaStreamSynchronize(w->stream), "quantizing weights", err);
        for (int64_t i = 0; s == NB_OK && i < count; i++)
            sum += (double)((const float *)slot->host)[i];
    }
    *mean = n ? (float)(sum / (double)n) : 0;
    if (s == NB_OK && !isfinite(sum))
        s = nb_fail(err, NB_ERR_FORMAT, "tensor %s holds infinite weights: they have no codes",
                    name);
    return s;
}

/* The scales of a stretch that was quantized. */
static enum nb_status finish_scales(struct loader *l, struct worker *w, const struct stretch *s,
                                    struct nb_error *err) {
    struct nb_cuda_repack_job job = job_of(s, 0, s->n_tiles, 0, s->from[0]->rows);
    enum nb_status status = NB_OK;
    for (int p = 0; p < s->n_parts && status == NB_OK; p++) {
        const struct nb_quant_view *v = &s->as[p]->quant;
        int64_t blocks = (int64_t)(v->n / v->block);
        job.block = (int64_t)v->block;
        job.absmax[p] = w->absmax[p];
        if (!v->absmax_code)
            continue;
        status = absmax_mean(w, w->absmax[p], blocks, s->from[p]->name, &job.offset[p], err);
        if (status == NB_OK)
            status = nb_cuda_check(nb_cuda_quantize_absmax(w->absmax[p], blocks, job.offset[p],
                                                           l->values_device, w->absmax_code[p],
                                                           w->nested[p], w->stream),
                                   "quantizing absmax", err);
        job.absmax_code[p] = w->absmax_code[p];
        job.nested[p] = w->nested[p];
        if (status == NB_OK && s->item->shape->kind == NB_CUDA_ABSMAX)
            status = nb_cuda_check(
                nb_cuda_dequantize_absmax(w->absmax_code[p], blocks, w->nested[p], job.offset[p],
                                          l->values_device, w->absmax[p], w->stream),
                "quantizing absmax", err);
    }
    if (status == NB_OK)
        status = nb_cuda_check(nb_cuda_repack_4bit(&job, w->stream), "repacking scales", err);
    return status;
}

/* ---- what is odd, on the host ---- */

/* A matrix in floats quantized on the host, in memory of its own. */
static enum nb_status quantize_on_host(const struct nb_matrix *m, const struct nb_quant_view *like,
                                       struct nb_arena *arena, struct nb_matrix *out,
                                       struct nb_error *err) {
    size_t n = like->n, blocks = nb_quant_blocks(n, like->block);
    uint8_t *codes = nb_arena_alloc(arena, nb_quant_code_bytes(n), 1),
            *absmax_code = nb_arena_alloc(arena, blocks, 1);
    float *absmax = nb_arena_alloc(arena, blocks, sizeof *absmax),
          *nested = nb_arena_alloc(arena, blocks / NB_NESTED_BLOCK + 1, sizeof *nested);
    if (!codes || !absmax_code || !absmax || !nested)
        return nb_fail_memory(err, n, m->name);
    enum nb_status s;
    if (m->type == NB_WEIGHT_F32)
        s = nb_quantize_f32(like->type, like->block, m->data, n, codes, absmax, err);
    else if (m->type == NB_WEIGHT_F16)
        s = nb_quantize_f16(like->type, like->block, m->data, n, codes, absmax, err);
    else
        s = nb_quantize_bf16(like->type, like->block, m->data, n, codes, absmax, err);
    if (s != NB_OK)
        return s;
    float mean = nb_absmax_mean(absmax, blocks);
    if (!isfinite(mean))
        return nb_fail(err, NB_ERR_FORMAT, "tensor %s holds infinite weights: they have no codes",
                       m->name);
    *out = *m;
    out->type = NB_WEIGHT_4BIT;
    out->quant = *like;
    out->quant.codes = codes;
    if (!like->absmax_code) {
        out->quant.absmax = absmax;
        return NB_OK;
    }
    nb_quantize_absmax(absmax, blocks, mean, absmax_code, nested);
    out->quant.absmax_code = absmax_code;
    out->quant.nested_absmax = nested;
    out->quant.nested_offset = mean;
    return NB_OK;
}

/* A whole matrix by the plain nb_cuda_repack, in slots. */
static enum nb_status load_plainly(struct loader *l, struct worker *w, const struct item *item,
                                   int thread, struct nb_error *err) {
    struct nb_arena arena = {0};
    struct nb_cuda_source source = *item->source;
    struct nb_matrix parts[MAX_PARTS];
    enum nb_status s = NB_OK;
    for (int32_t p = 0; p < source.n_parts && s == NB_OK; p++) {
        parts[p] = *item->from[p];
        if (parts[p].type != NB_WEIGHT_4BIT && source.parts[p]->type == NB_WEIGHT_4BIT)
            s = quantize_on_host(item->from[p], &source.parts[p]->quant, &arena, &parts[p], err);
        source.parts[p] = &parts[p];
    }
    size_t tile = (size_t)item->shape->n_units * item->shape->unit_bytes;
    int32_t piece = (int32_t)(SLOT_BYTES / tile);
    if (s == NB_OK && piece == 0)
        s = nb_fail(err, NB_ERR_UNSUPPORTED, "tensor %s: rows of %d columns are too long",
                    parts[0].name, parts[0].columns);
    for (int32_t t = 0; t < item->shape->n_tiles && s == NB_OK; t += piece) {
        struct slot *slot;
        int32_t left = item->shape->n_tiles - t, n = left < piece ? left : piece;
        s = take_slot(w, &slot, err);
        if (s == NB_OK) {
            nb_cuda_repack(&source, item->shape, t, n, slot->host);
            s = send_slot(w, slot, tile * (size_t)n, item->out + tile * (size_t)t, err);
        }
        if (s == NB_OK)
            s = release_slot(w, slot, err);
        tell(l, thread, tile * (size_t)n);
    }
    nb_arena_free(&arena);
    return s;
}

/* ---- items ---- */

static enum nb_status load_stretch(struct loader *l, struct worker *w, const struct stretch *s,
                                   int thread, struct nb_error *err) {
    int32_t steps = (s->n_tiles + s->step_tiles - 1) / s->step_tiles, most = steps_of_slot(s);
    enum nb_status status = NB_OK;
    for (int32_t i = 0; i < steps && status == NB_OK; i += most) {
        size_t bytes = 0;
        status = load_piece(l, w, s, i, steps - i < most ? steps - i : most, &bytes, err);
        tell(l, thread, bytes);
    }
    if (status == NB_OK && quantizes(s))
        status = finish_scales(l, w, s, err);
    return status;
}

/* The stretches of a matrix; their number. */
static int make_stretches(const struct item *item, struct stretch out[MAX_PARTS]) {
    const struct nb_cuda_source *source = item->source;
    int32_t tile = 0;
    if (source->order == NB_CUDA_GATE_UP) {
        out[0] = (struct stretch){
            .item = item,
            .from = {item->from[0], item->from[1]},
            .as = {source->parts[0], source->parts[1]},
            .n_parts = 2,
            .order = NB_CUDA_GATE_UP,
            .n_tiles = item->shape->n_tiles,
            .step_tiles = 1,
            .step_rows = 8,
        };
        return 1;
    }
    for (int32_t p = 0; p < source->n_parts; p++) {
        bool rotary = source->order == NB_CUDA_ROTARY && p < source->n_rotary;
        int32_t d = source->head_rows, rows = item->from[p]->rows;
        out[p] = (struct stretch){
            .item = item,
            .from = {item->from[p]},
            .as = {source->parts[p]},
            .n_parts = 1,
            .order = rotary ? NB_CUDA_ROTARY : NB_CUDA_NATURAL,
            .head_rows = d,
            .first_tile = tile,
            .n_tiles = (rows + NB_CUDA_TILE - 1) / NB_CUDA_TILE,
            .step_tiles = rotary ? d / NB_CUDA_TILE : 1,
            .step_rows = rotary ? d : NB_CUDA_TILE,
        };
        tile += out[p].n_tiles;
    }
    return source->n_parts;
}

static enum nb_status load_tiles(struct loader *l, struct worker *w, const struct item *item,
                                 int thread, struct nb_error *err) {
    struct stretch stretches[MAX_PARTS];
    int n = make_stretches(item, stretches);
    bool regular = true;
    for (int i = 0; i < n; i++)
        regular = regular && is_regular(&stretches[i]) && steps_of_slot(&stretches[i]) > 0;
    if (!regular)
        return load_plainly(l, w, item, thread, err);
    enum nb_status s = NB_OK;
    for (int i = 0; i < n && s == NB_OK; i++)
        s = load_stretch(l, w, &stretches[i], thread, err);
    return s;
}

/* Weights [first, first + n) of a matrix as bf16. */
static enum nb_status read_bf16(const struct loader *l, const struct nb_matrix *m, size_t first,
                                size_t n, uint16_t *out, struct nb_error *err) {
    if (m->type == NB_WEIGHT_BF16)
        return read_bytes(l, (const uint16_t *)m->data + first, n * 2, out, err);
    if (m->type == NB_WEIGHT_4BIT)
        nb_dequantize_bf16(&m->quant, first, n, out);
    for (size_t i = 0; m->type == NB_WEIGHT_F16 && i < n; i++)
        out[i] = nb_f32_to_bf16(nb_f16_to_f32(((const uint16_t *)m->data)[first + i]));
    for (size_t i = 0; m->type == NB_WEIGHT_F32 && i < n; i++)
        out[i] = nb_f32_to_bf16(((const float *)m->data)[first + i]);
    return NB_OK;
}

static enum nb_status load_embedding(struct loader *l, struct worker *w, const struct item *item,
                                     int thread, struct nb_error *err) {
    const struct nb_matrix *m = item->from[0];
    size_t at = (size_t)item->first_row * (size_t)m->columns,
           end = at + (size_t)item->rows * (size_t)m->columns, piece = SLOT_BYTES / 2;
    enum nb_status s = NB_OK;
    if (item->out_host) {
        tell(l, thread, (end - at) * 2);
        return read_bf16(l, m, at, end - at, (uint16_t *)item->out_host + at, err);
    }
    for (; at < end && s == NB_OK; at += piece) {
        struct slot *slot;
        size_t n = end - at < piece ? end - at : piece;
        s = take_slot(w, &slot, err);
        if (s == NB_OK)
            s = read_bf16(l, m, at, n, (uint16_t *)slot->host, err);
        if (s == NB_OK)
            s = send_slot(w, slot, n * 2, item->out + at * 2, err);
        if (s == NB_OK)
            s = release_slot(w, slot, err);
        tell(l, thread, n * 2);
    }
    return s;
}

/* A matrix to f32 on the host. */
static enum nb_status load_router(const struct loader *l, const struct item *item,
                                  struct nb_error *err) {
    const struct nb_matrix *m = item->from[0];
    const struct nb_quantize_options *how = l->load->quantize;
    size_t n = (size_t)m->rows * (size_t)m->columns;
    float *out = item->out_host;
    struct nb_arena arena = {0};
    struct nb_matrix quantized;
    enum nb_status s = NB_OK;
    if (m->type != NB_WEIGHT_4BIT && how) {
        struct nb_quant_view like = {
            .type = how->type,
            .n = n,
            .block = how->block,
            .values = nb_quant_values(how->type),
            .absmax_code = how->nested ? (const uint8_t *)"" : NULL,
            .nested_values = l->nested_values,
            .nested_block = NB_NESTED_BLOCK,
        };
        s = quantize_on_host(m, &like, &arena, &quantized, err);
        if (s == NB_OK)
            nb_dequantize_f32(&quantized.quant, 0, n, out);
        nb_arena_free(&arena);
        return s;
    }
    if (m->type == NB_WEIGHT_4BIT)
        nb_dequantize_f32(&m->quant, 0, n, out);
    for (size_t i = 0; m->type == NB_WEIGHT_BF16 && i < n; i++)
        out[i] = nb_bf16_to_f32(((const uint16_t *)m->data)[i]);
    for (size_t i = 0; m->type == NB_WEIGHT_F16 && i < n; i++)
        out[i] = nb_f16_to_f32(((const uint16_t *)m->data)[i]);
    if (m->type == NB_WEIGHT_F32)
        memcpy(out, m->data, n * sizeof *out);
    return s;
}

static void run_items(void *context, int thread, size_t begin, size_t end) {
    struct loader *l = context;
    struct worker *w = &l->workers[thread];
    struct nb_error err;
    enum nb_status s = nb_cuda_check(cudaSetDevice(l->load->device), "choosing the device", &err);
    for (size_t i = begin; i < end && s == NB_OK && !__atomic_load_n(&l->failed, __ATOMIC_ACQUIRE);
         i++) {
        const struct item *item = &l->items[i];
        if (item->kind == TILES)
            s = load_tiles(l, w, item, thread, &err);
        else if (item->kind == EMBEDDING)
            s = load_embedding(l, w, item, thread, &err);
        else
            s = load_router(l, item, &err);
    }
    if (s != NB_OK)
        fail_with(l, &err);
}

/* ---- the list of items, and where everything goes ---- */

/* Device memory being handed out, with what is written to it on the host. */
struct place {
    uint8_t *at;       /* of weights */
    size_t small_used; /* of the small ones */
};

static uint8_t *place_weights(struct place *place, uint64_t bytes) {
    uint8_t *at = place->at;
    place->at += align_up(bytes);
    return at;
}

/* Room among the small things: where it is on the host, and on the device. */
static void *place_small(struct loader *l, struct place *place, size_t bytes, const void **device) {
    void *host = (uint8_t *)l->small + place->small_used;
    *device = l->small_device + place->small_used;
    place->small_used += align_up(bytes);
    return host;
}

static const float *place_vector(struct loader *l, struct place *place, const struct nb_vector *v) {
    const void *device;
    float *out = place_small(l, place, (size_t)v->n * sizeof *out, &device);
    for (int32_t i = 0; i < v->n; i++) {
        if (v->type == NB_WEIGHT_F32)
            out[i] = ((const float *)v->data)[i];
        else if (v->type == NB_WEIGHT_F16)
            out[i] = nb_f16_to_f32(((const uint16_t *)v->data)[i]);
        else
            out[i] = nb_bf16_to_f32(((const uint16_t *)v->data)[i]);
    }
    return device;
}

static void add_item(struct loader *l, const struct item *item) {
    l->items[l->n_items++] = *item;
}

static const void *add_tiles(struct loader *l, struct place *place,
                             const struct nb_cuda_source *sources, size_t n,
                             const struct nb_cuda_shape *shape,
                             const struct nb_matrix *const (*from)[MAX_PARTS]) {
    uint8_t *out = place_weights(place, shape->bytes * n);
    for (size_t i = 0; i < n; i++) {
        struct item item = {
            .kind = TILES, .source = &sources[i], .shape = shape, .out = out + shape->bytes * i};
        memcpy(item.from, from[i], sizeof item.from);
        add_item(l, &item);
    }
    return out;
}

/* A layer's items, and its pointers into *out, which has its shapes already. */
static enum nb_status add_layer(struct loader *l, struct place *place, const struct nb_layer *layer,
                                struct nb_cuda_layer *out, struct nb_error *err) {
    const struct nb_config *c = &l->load->model->config;
    size_t experts = (size_t)c->n_experts;
    struct nb_cuda_layer_sources *s = nb_arena_alloc(&l->arena, 1, sizeof *s);
    const struct nb_matrix *(*from)[MAX_PARTS] =
        nb_arena_alloc(&l->arena, experts, 2 * sizeof *from);
    if (!s || !from)
        return nb_fail_memory(err, experts * 2 * sizeof *from, "the list of experts");
    enum nb_status status =
        nb_cuda_layer_sources(c, layer, l->load->quantize, l->nested_values, &l->arena, s, err);
    if (status != NB_OK)
        return status;
    const struct nb_matrix *const qkv[1][MAX_PARTS] = {{&layer->q, &layer->k, &layer->v}},
                                  *const o[1][MAX_PARTS] = {{&layer->o}};
    out->attention_norm = place_vector(l, place, &layer->attention_norm);
    out->expert_norm = place_vector(l, place, &layer->expert_norm);
    if (c->qk_norm) {
        out->q_norm = place_vector(l, place, &layer->q_norm);
        out->k_norm = place_vector(l, place, &layer->k_norm);
    }
    out->qkv.data = add_tiles(l, place, &s->qkv, 1, &s->qkv_shape, qkv);
    out->o.data = add_tiles(l, place, &s->o, 1, &s->o_shape, o);
    if (!c->dense) {
        struct item item = {.kind = ROUTER, .from = {&layer->router}};
        item.out_host = place_small(l, place, experts * (size_t)c->width * sizeof(float),
                                    (const void **)&out->router);
        add_item(l, &item);
    }
    for (size_t i = 0; i < experts; i++) {
        from[i][0] = &layer->experts[i].gate;
        from[i][1] = &layer->experts[i].up;
        from[experts + i][0] = &layer->experts[i].down;
    }
    out->gate_up.data = add_tiles(l, place, s->gate_up, experts, &s->gate_up_shape,
                                  (const struct nb_matrix *const(*)[MAX_PARTS])from);
    out->down.data = add_tiles(l, place, s->down, experts, &s->down_shape,
                               (const struct nb_matrix *const(*)[MAX_PARTS])(from + experts));
    return NB_OK;
}

/* The embedding in pieces for several threads. */
static void add_embedding(struct loader *l, struct place *place) {
    enum { ROWS = 4096 };
    const struct nb_matrix *m = &l->load->model->embedding;
    size_t bytes = (size_t)m->rows * (size_t)m->columns * 2;
    uint8_t *out = NULL;
    if (l->load->embedding_host)
        l->m->embedding = l->load->embedding_host_device;
    else
        l->m->embedding = (const void *)(out = place_weights(place, bytes));
    for (int32_t row = 0; row < m->rows; row += ROWS) {
        struct item item = {
            .kind = EMBEDDING,
            .from = {m},
            .out = out,
            .out_host = l->load->embedding_host,
            .first_row = row,
            .rows = m->rows - row < ROWS ? m->rows - row : ROWS,
        };
        add_item(l, &item);
    }
}

static size_t count_items(const struct nb_config *c) {
    return (size_t)c->n_layers * (3 + 2 * (size_t)c->n_experts) + 1 + (size_t)c->n_vocab / 4096 + 1;
}

/* The list of all items, and the model's pointers. */
static enum nb_status make_items(struct loader *l, struct nb_error *err) {
    const struct nb_model *model = l->load->model;
    const struct nb_config *c = &model->config;
    const struct nb_cuda_plan *plan = l->load->plan;
    struct place place = {.at = l->load->weights};
    struct nb_cuda_layer *layers = (struct nb_cuda_layer *)l->m->host_layers;
    struct nb_cuda_source *head = nb_arena_alloc(&l->arena, 1, sizeof *head);
    struct nb_cuda_shape *head_shape = nb_arena_alloc(&l->arena, 1, sizeof *head_shape);
    l->items = nb_arena_alloc(&l->arena, count_items(c), sizeof *l->items);
    l->small = calloc(1, plan->small);
    if (!l->items || !l->small || !head || !head_shape)
        return nb_fail_memory(err, plan->small, "loading");
    l->small_device = place_weights(&place, plan->small);
    const void *device;
    memcpy(place_small(l, &place, sizeof l->nested_values, &device), l->nested_values,
           sizeof l->nested_values);
    l->m->nested_values = l->values_device = device;
    float *values = place_small(l, &place, 32 * sizeof *values, &device);
    memcpy(values, nb_nf4_values, sizeof nb_nf4_values);
    memcpy(values + 16, nb_fp4_values, sizeof nb_fp4_values);
    l->m->values = device;
    nb_rope_frequencies(c,
                        place_small(l, &place, (size_t)c->head_width / 2 * sizeof(float), &device));
    l->m->frequencies = device;
    l->m->norm = place_vector(l, &place, &model->norm);
    /* The largest first, and the head beside the first layer: what is last keeps few waiting. */
    const struct nb_matrix *const from[1][MAX_PARTS] = {{&model->head}};
    *head = (struct nb_cuda_source){.parts = {&model->head}, .n_parts = 1};
    *head_shape = l->m->head.shape;
    l->m->head.data = add_tiles(l, &place, head, 1, head_shape, from);
    l->m->embedding = NULL;
    if (!c->tied)
        add_embedding(l, &place);
    enum nb_status s = NB_OK;
    for (int i = 0; i < c->n_layers && s == NB_OK; i++)
        s = add_layer(l, &place, &model->layers[i], &layers[i], err);
    memcpy(
        place_small(l, &place, (size_t)c->n_layers * sizeof *layers, (const void **)&l->m->layers),
        layers, (size_t)c->n_layers * sizeof *layers);
    if (s == NB_OK && (place.small_used > plan->small ||
                       (uint64_t)(place.at - l->load->weights) >
                           plan->experts + plan->attention + plan->head + plan->small +
                               (l->load->embedding_host ? 0 : plan->embedding)))
        s = nb_fail(err, NB_ERR_INTERNAL, "cuda: the model takes more than was planned");
    for (size_t i = 0; i < l->n_items; i++)
        l->total += l->items[i].kind == TILES ? l->items[i].shape->bytes : 0;
    return s;
}

/* ---- threads ---- */

/* Device memory that a worker needs to quantize: of the largest matrix. */
static size_t quantize_blocks(const struct nb_config *c, const struct nb_quantize_options *how) {
    size_t D = (size_t)c->width, q = (size_t)c->n_heads * (size_t)c->head_width,
           F = (size_t)c->expert_width, most = q > F ? q : F;
    return how ? nb_div_up(D * most, how->block) : 0;
}

/* Streams, events and memory of as many workers as there is scratch for. */
static enum nb_status make_workers(struct loader *l, int threads, struct nb_error *err) {
    size_t blocks = quantize_blocks(&l->load->model->config, l->load->quantize),
           codes = blocks ? align_up(SLOT_BYTES / 4 + 2 * NB_CUDA_ALIGN) : 0,
           scales = align_up(blocks * 4) + align_up(blocks) +
                    align_up((blocks / NB_NESTED_BLOCK + 1) * 4),
           each = SLOTS * (SLOT_BYTES + codes) + (blocks ? 2 * scales : 0);
    l->n_workers = threads < MAX_THREADS ? threads : MAX_THREADS;
    if ((uint64_t)l->n_workers * each > l->load->scratch_bytes)
        l->n_workers = (int)(l->load->scratch_bytes / each);
    if (l->n_workers == 0)
        return nb_fail(err, NB_ERR_MEMORY,
                       "cuda: loading takes %zu bytes of scratch on the GPU, and %llu are there",
                       each, (unsigned long long)l->load->scratch_bytes);
    size_t pinned = (size_t)l->n_workers * SLOTS * SLOT_BYTES;
    enum nb_status s =
        nb_cuda_check(cudaHostAlloc((void **)&l->pinned, pinned, 0), "taking pinned memory", err);
    uint8_t *device = l->load->scratch, *host = l->pinned;
    for (int i = 0; i < l->n_workers && s == NB_OK; i++) {
        struct worker *w = &l->workers[i];
        s = nb_cuda_check(cudaStreamCreateWithFlags(&w->stream, cudaStreamNonBlocking),
                          "making a stream", err);
        for (int k = 0; k < SLOTS && s == NB_OK; k++) {
            w->slots[k] =
                (struct slot){.host = host, .device = device, .codes = device + SLOT_BYTES};
            host += SLOT_BYTES;
            device += SLOT_BYTES + codes;
            s = nb_cuda_check(cudaEventCreateWithFlags(&w->slots[k].done, cudaEventDisableTiming),
                              "making an event", err);
        }
        for (int p = 0; p < 2 && blocks; p++) {
            w->absmax[p] = (float *)device;
            w->absmax_code[p] = device + align_up(blocks * 4);
            w->nested[p] = (float *)(w->absmax_code[p] + align_up(blocks));
            device += scales;
        }
    }
    return s;
}

static void free_workers(struct loader *l) {
    for (int i = 0; i < l->n_workers; i++) {
        struct worker *w = &l->workers[i];
        if (w->stream)
            cudaStreamSynchronize(w->stream);
        for (int k = 0; k < SLOTS; k++) {
            if (w->slots[k].done)
                cudaEventDestroy(w->slots[k].done);
        }
        if (w->stream)
            cudaStreamDestroy(w->stream);
    }
    cudaFreeHost(l->pinned);
}

enum nb_status nb_cuda_load(const struct nb_cuda_load *load, struct nb_cuda_model *model,
                            struct nb_error *err) {
    struct loader *l = calloc(1, sizeof *l);
    struct nb_pool *pool = NULL;
    if (!l)
        return nb_fail_memory(err, sizeof *l, "loading");
    l->load = load;
    l->m = model;
    int64_t begin = nb_now_us();
    nb_cuda_nested_values(load->model, l->nested_values);
    open_files(l);
    enum nb_status s = make_items(l, err);
    if (s == NB_OK)
        s = nb_cuda_check(
            cudaMemcpy(l->small_device, l->small, sizeof l->nested_values, cudaMemcpyHostToDevice),
            "copying tables", err);
    int threads = load->threads;
    if (s == NB_OK && threads == 0) {
        s = nb_pool_create(0, &pool, err);
        threads = s == NB_OK ? nb_pool_size(pool) : 1;
    }
    if (s == NB_OK)
        s = make_workers(l, threads, err);
    if (s == NB_OK && (!pool || nb_pool_size(pool) != l->n_workers)) {
        nb_pool_free(pool);
        pool = NULL;
        s = nb_pool_create(l->n_workers, &pool, err);
    }
    int64_t ready = nb_now_us();
    if (s == NB_OK) {
        nb_pool_run(pool, l->n_items, 1, run_items, l);
        if (l->failed) {
            s = l->error.code;
            if (err)
                *err = l->error;
        }
    }
    if (s == NB_OK)
        s = nb_cuda_check(
            cudaMemcpy(l->small_device, l->small, load->plan->small, cudaMemcpyHostToDevice),
            "copying norms and routers", err);
    if (s == NB_OK)
        s = nb_cuda_check(cudaDeviceSynchronize(), "loading", err);
    int64_t end = nb_now_us();
    if (s == NB_OK)
        nb_log(NB_LOG_INFO, "cuda: %d threads copied %.2f GB in %.3f s, %.1f GB/s, after %.3f s",
               l->n_workers, (double)l->done * 1e-9, (double)(end - ready) * 1e-6,
               (double)l->done * 1e-3 / (double)(end - ready + 1), (double)(ready - begin) * 1e-6);
    nb_pool_free(pool);
    free_workers(l);
    close_files(l);
    free(l->small);
    nb_arena_free(&l->arena);
    free(l);
    return s;
}

enum nb_status nb_cuda_describe(const struct nb_model *model,
                                const struct nb_quantize_options *quantize, struct nb_arena *arena,
                                struct nb_cuda_model *out, struct nb_error *err) {
    const struct nb_config *c = &model->config;
    float nested_values[256];
    nb_cuda_nested_values(model, nested_values);
    struct nb_cuda_layer *layers = nb_arena_alloc(arena, (size_t)c->n_layers, sizeof *layers);
    if (!layers)
        return nb_fail_memory(err, (size_t)c->n_layers * sizeof *layers, "the model's layers");
    *out = (struct nb_cuda_model){
        .n_vocab = c->n_vocab,
        .n_layers = c->n_layers,
        .width = c->width,
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_width = c->head_width,
        .n_experts = c->n_experts,
        .experts_per_token = c->experts_per_token,
        .expert_width = c->expert_width,
        .window = c->window,
        .context = c->context,
        .rms_eps = c->rms_eps,
        .qk_norm = c->qk_norm,
        .normalize_experts = c->normalize_experts,
        .dense = c->dense,
        .tied = c->tied,
        .host_layers = layers,
    };
    struct nb_arena scratch = {0};
    enum nb_status s = NB_OK;
    for (int i = 0; i < c->n_layers && s == NB_OK; i++) {
        struct nb_cuda_layer_sources l;
        s = nb_cuda_layer_sources(c, &model->layers[i], quantize, nested_values, &scratch, &l, err);
        if (s != NB_OK)
            break;
        struct nb_cuda_matrix *const matrices[] = {&layers[i].qkv, &layers[i].o, &layers[i].gate_up,
                                                   &layers[i].down};
        const struct nb_cuda_shape *const shapes[] = {&l.qkv_shape, &l.o_shape, &l.gate_up_shape,
                                                      &l.down_shape};
        const struct nb_cuda_source *const sources[] = {&l.qkv, &l.o, l.gate_up, l.down};
        for (size_t k = 0; k < 4; k++) {
            matrices[k]->shape = *shapes[k];
            matrices[k]->values = (int32_t)sources[k]->parts[0]->quant.type;
        }
        nb_arena_free(&scratch);
    }
    nb_arena_free(&scratch);
    nb_cuda_head_shape(c, model, nested_values, &out->head.shape);
    out->head.values = (int32_t)model->head.quant.type;
    return s;
}
