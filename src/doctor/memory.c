#include "doctor/memory.h"

#include "backend/cuda/plan.h"
#include "base/checked.h"
#include "base/file.h"
#include "model/quantize.h"

#include <limits.h>
#include <string.h>

enum { DEFAULT_CONTEXT = 8192 }; /* the engine's */

enum nb_status nb_plan_open(const char *folder, struct nb_plan_model *out, struct nb_error *err) {
    static const char *const weights[] = {"model.safetensors.index.json", "model.safetensors"};
    char path[PATH_MAX];
    *out = (struct nb_plan_model){0};
    bool there = false;
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++)
        there = there || (nb_path_join(path, sizeof path, folder, weights[i]) && nb_is_file(path));
    if (!there)
        return nb_config_read(folder, &out->model.config, err);
    enum nb_status s = nb_model_open(folder, &out->model, err);
    out->open = s == NB_OK;
    return s;
}

void nb_plan_close(struct nb_plan_model *model) {
    if (model->open)
        nb_model_close(&model->model);
    *model = (struct nb_plan_model){0};
}

/* What the options mean for this model, as the engine reads its own. */
struct meaning {
    int32_t context, sequences;
    struct nb_quantize_options quantize;
    bool quantizes, fp8;
};

static enum nb_status understand(const struct nb_plan_model *m, const struct nb_plan_options *o,
                                 struct meaning *out, struct nb_error *err) {
    const char *type = o->quantize ? o->quantize : "nf4";
    int32_t most = m->model.config.context;
    *out = (struct meaning){.context = most < DEFAULT_CONTEXT ? most : DEFAULT_CONTEXT,
                            .sequences = o->sequences > 0 ? o->sequences : 1,
                            .quantize = nb_quantize_defaults,
                            .fp8 = o->kv_fp8};
    if (o->context < 0 || o->context > most)
        return nb_fail(err, NB_ERR_ARGUMENT, "context is %d, expected 1 to the model's %d",
                       o->context, most);
    out->context = o->context ? o->context : out->context;
    if (strcmp(type, "none") != 0 && strcmp(type, "nf4") != 0 && strcmp(type, "fp4") != 0)
        return nb_fail(err, NB_ERR_ARGUMENT, "quantize is \"%.32s\", expected none, nf4 or fp4",
                       type);
    out->quantize.type = strcmp(type, "fp4") == 0 ? NB_QUANT_FP4 : NB_QUANT_NF4;
    out->quantizes = strcmp(type, "none") != 0 && (!m->open || !nb_model_is_quantized(&m->model));
    return NB_OK;
}

/* The backend's own plan. available: 0 for any. */
static enum nb_status ask(const struct nb_plan_model *m, const struct meaning *how, int32_t context,
                          int32_t sequences, uint64_t available, struct nb_cuda_plan *out,
                          struct nb_error *err) {
    const struct nb_cuda_plan_options options = {
        .context = context,
        .n_pages = nb_div_up((size_t)context, NB_PAGE_TOKENS) * (size_t)sequences,
        .kv_fp8 = how->fp8,
        .available = available,
        .quantize = how->quantizes ? &how->quantize : NULL,
    };
    return nb_cuda_plan(&m->model.config, m->open ? &m->model : NULL, &options, out, err);
}

enum nb_status nb_plan_make(const struct nb_plan_model *model,
                            const struct nb_plan_options *options, struct nb_plan *out,
                            struct nb_error *err) {
    struct meaning how;
    struct nb_cuda_plan p;
    *out = (struct nb_plan){.weights_known = model->open, .driver = NB_PLAN_CONTEXT_BYTES};
    enum nb_status s = understand(model, options, &how, err);
    if (s == NB_OK)
        s = ask(model, &how, how.context, how.sequences, 0, &p, err);
    if (s != NB_OK)
        return s;
    out->context = how.context;
    out->sequences = how.sequences;
    out->experts = p.experts;
    out->attention = p.attention;
    out->head = p.head;
    out->embedding = p.embedding;
    out->small = p.small;
    out->weights = p.experts + p.attention + p.head + p.embedding + p.small;
    out->kv_per_token = p.kv_token;
    out->kv = p.kv;
    out->workspace = p.workspace;
    out->step = p.step;
    out->total = p.total;
    out->max_batch_tokens = p.max_batch_tokens;
    out->step_bytes = model->open ? nb_model_size(&model->model).step_bytes : 0;
    return NB_OK;
}

/* The largest n in [1, most] for which the plan fits, or 0; it fits for all below. */
static int32_t largest(const struct nb_plan_model *m, const struct meaning *how, bool context,
                       int32_t most, uint64_t available) {
    struct nb_cuda_plan p;
    int32_t low = 0, high = most;
    while (low < high) {
        int32_t middle = low + (high - low + 1) / 2;
        bool fits = ask(m, how, context ? middle : how->context, context ? how->sequences : middle,
                        available, &p, NULL) == NB_OK;
        low = fits ? middle : low;
        high = fits ? high : middle - 1;
    }
    return low;
}

enum nb_status nb_plan_fit(const struct nb_plan_model *model, const struct nb_plan_options *options,
                           uint64_t memory_bytes, int capability, struct nb_plan_fit *out,
                           struct nb_error *err) {
    enum { MOST_SEQUENCES = NB_CUDA_MAX_SEQUENCES };
    struct meaning how;
    struct nb_cuda_plan p;
    struct nb_error why = {0};
    *out = (struct nb_plan_fit){.too_old = capability && capability < NB_PLAN_CAPABILITY};
    enum nb_status s = understand(model, options, &how, err);
    if (s != NB_OK)
        return s;
    const uint64_t drivers = NB_PLAN_CONTEXT_BYTES + NB_PLAN_RESERVED_BYTES;
    uint64_t available = memory_bytes > drivers ? memory_bytes - drivers : 1;
    s = ask(model, &how, how.context, how.sequences, available, &p, &why);
    if (s != NB_OK && s != NB_ERR_MEMORY) {
        if (err)
            *err = why;
        return s;
    }
    out->fits = s == NB_OK && !out->too_old;
    out->free_bytes = s == NB_OK ? available - p.total : 0;
    out->missing_bytes = s == NB_OK ? 0 : p.total > available ? p.total - available : 1;
    out->embedding_on_host = s == NB_OK && p.embedding_on_host;
    out->max_batch_tokens = p.max_batch_tokens;
    if (!out->too_old) {
        out->max_context = largest(model, &how, true, model->model.config.context, available);
        out->max_sequences = largest(model, &how, false, MOST_SEQUENCES, available);
    }
    return NB_OK;
}
