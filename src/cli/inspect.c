/* nibble inspect: what is in a checkpoint. */
#include "base/file.h"
#include "cli/cli.h"
#include "model/cache.h"
#include "model/model.h"
#include "model/tokenizer.h"

#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
    "usage: nibble inspect CHECKPOINT [--json]\n\n"
    "Says what a checkpoint holds: shape, weights, bytes, tokenizer. Everything that running it\n"
    "would need is checked, so exit code 0 means that it can be run. If it cannot, every reason\n"
    "that was found is named.\n\n"
    "  --json              one JSON object; docs/doctor.md has its keys\n"
    "\nExit code: 0 if it can be run, 1 if not, 2 for wrong usage.\n";

/* Matrices of each type, as a checkpoint's experts, attention and head may differ. */
struct census {
    size_t nf4, fp4, nested, bf16, f16, f32;
};

static void count_matrix(const struct nb_matrix *m, struct census *c) {
    c->f32 += m->type == NB_WEIGHT_F32;
    c->f16 += m->type == NB_WEIGHT_F16;
    c->bf16 += m->type == NB_WEIGHT_BF16;
    if (m->type == NB_WEIGHT_4BIT) {
        c->nf4 += m->quant.type == NB_QUANT_NF4;
        c->fp4 += m->quant.type == NB_QUANT_FP4;
        c->nested += m->quant.absmax_code != NULL;
    }
}

static struct census count(const struct nb_model *m) {
    struct census c = {0};
    count_matrix(&m->embedding, &c);
    if (!m->config.tied)
        count_matrix(&m->head, &c);
    for (int i = 0; i < m->config.n_layers; i++) {
        const struct nb_layer *l = &m->layers[i];
        const struct nb_matrix *matrices[] = {&l->q, &l->k, &l->v, &l->o, &l->router};
        for (size_t j = 0; j < (m->config.dense ? 4 : 5); j++)
            count_matrix(matrices[j], &c);
        for (int e = 0; e < m->config.n_experts; e++) {
            count_matrix(&l->experts[e].gate, &c);
            count_matrix(&l->experts[e].up, &c);
            count_matrix(&l->experts[e].down, &c);
        }
    }
    return c;
}

/* Everything that is printed. */
struct report {
    const char *path;
    const struct nb_model *model;
    struct nb_model_size size;
    struct census census;
    uint64_t kv_bytes_per_token; /* in bf16 */
    int32_t tokens;              /* of the tokenizer; 0 if there is none */
};

static void print_text(const struct report *r) {
    const struct nb_config *c = &r->model->config;
    printf("%s\n", r->path);
    printf("  model        %s, %d layers, width %d, context %d, vocabulary %d%s\n", c->model_type,
           c->n_layers, c->width, c->context, c->n_vocab, c->tied ? ", head tied" : "");
    printf("  attention    %d heads of %d, %d KV heads, rope theta %g\n", c->n_heads, c->head_width,
           c->n_kv_heads, c->rope.theta);
    if (c->dense)
        printf("  feed-forward width %d\n", c->expert_width);
    else
        printf("  experts      %d of width %d, top %d\n", c->n_experts, c->expert_width,
               c->experts_per_token);
    printf("  parameters   %.1f M, of which %.1f M work on a token\n",
           (double)r->size.parameters / 1e6, (double)r->size.active_parameters / 1e6);
    printf("  weights      %zu NF4, %zu FP4 (%zu double quantized), %zu bf16, %zu fp16, %zu fp32 "
           "matrices\n",
           r->census.nf4, r->census.fp4, r->census.nested, r->census.bf16, r->census.f16,
           r->census.f32);
    printf("  bytes        %" PRIu64 " in %zu tensors and %zu file%s; a step at batch 1 reads "
           "%" PRIu64 "\n",
           r->size.bytes, r->model->tensors.n, r->model->tensors.n_files,
           r->model->tensors.n_files == 1 ? "" : "s", r->size.step_bytes);
    printf("  KV cache     %" PRIu64 " bytes a token in bf16\n", r->kv_bytes_per_token);
    if (r->tokens)
        printf("  tokenizer    %d tokens\n", r->tokens);
    else
        printf("  tokenizer    none: prompts as token ids only\n");
}

static bool print_json(const struct report *r) {
    const struct nb_config *c = &r->model->config;
    json_t *weights =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "nf4", (json_int_t)r->census.nf4, "fp4",
                  (json_int_t)r->census.fp4, "double_quantized", (json_int_t)r->census.nested,
                  "bf16", (json_int_t)r->census.bf16, "fp16", (json_int_t)r->census.f16, "fp32",
                  (json_int_t)r->census.f32);
    json_t *o =
        json_pack("{s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:f, s:i, s:i, s:i, s:i, s:b}",
                  "checkpoint", r->path, "model_type", c->model_type, "layers", c->n_layers,
                  "width", c->width, "heads", c->n_heads, "kv_heads", c->n_kv_heads, "head_width",
                  c->head_width, "context", c->context, "rope_theta", c->rope.theta, "vocabulary",
                  c->n_vocab, "experts", c->n_experts, "experts_per_token", c->experts_per_token,
                  "expert_width", c->expert_width, "tied", (int)c->tied);
    json_t *sizes = json_pack("{s:I, s:I, s:o, s:I, s:I, s:I, s:I, s:I, s:i, s:b, s:[]}",
                              "parameters", (json_int_t)r->size.parameters, "active_parameters",
                              (json_int_t)r->size.active_parameters, "matrices", weights, "bytes",
                              (json_int_t)r->size.bytes, "tensors", (json_int_t)r->model->tensors.n,
                              "files", (json_int_t)r->model->tensors.n_files, "step_bytes",
                              (json_int_t)r->size.step_bytes, "kv_bytes_per_token",
                              (json_int_t)r->kv_bytes_per_token, "tokenizer_tokens", (int)r->tokens,
                              "runs", 1, "reasons");
    bool ok = o && sizes && json_object_update(o, sizes) == 0 &&
              json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) == 0;
    json_decref(o);
    json_decref(sizes);
    putchar('\n');
    return ok;
}

/* Why a checkpoint cannot be run. */
struct reasons {
    json_t *list; /* of messages */
};

static void hear(void *context, const struct nb_error *reason) {
    struct reasons *reasons = context;
    json_array_append_new(reasons->list, json_string(reason->message));
}

static int print_reasons(const char *path, const struct reasons *reasons, bool as_json) {
    size_t i;
    const json_t *reason;
    json_array_foreach(reasons->list, i, reason) {
        if (!as_json)
            fprintf(stderr, "nibble: %s\n", json_string_value(reason));
    }
    if (as_json) {
        json_t *o =
            json_pack("{s:s, s:b, s:O}", "checkpoint", path, "runs", 0, "reasons", reasons->list);
        json_dumpf(o, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(o);
    }
    return NB_EXIT_FAILURE;
}

static enum nb_status count_tokens(const char *folder, int32_t *out, struct nb_error *err) {
    char path[PATH_MAX];
    *out = 0;
    if (!nb_tokenizer_path(folder, path, sizeof path))
        return NB_OK;
    struct nb_tokenizer *tokenizer;
    enum nb_status s = nb_tokenizer_open(path, &tokenizer, err);
    if (s == NB_OK)
        *out = nb_tokenizer_size(tokenizer);
    nb_tokenizer_close(s == NB_OK ? tokenizer : NULL);
    return s;
}

/* Opens the model and counts the tokenizer's tokens; what stands in the way goes to `reasons`. */
static void look(const char *folder, struct nb_model *model, int32_t *tokens,
                 struct reasons *reasons) {
    struct nb_error err;
    struct nb_config config;
    if (nb_model_open(folder, model, &err) != NB_OK) {
        nb_config_explain(folder, &config, hear, reasons, NULL);
        if (json_array_size(reasons->list) == 0) /* it was not the config */
            hear(reasons, &err);
    }
    if (count_tokens(folder, tokens, &err) != NB_OK)
        hear(reasons, &err);
}

static int inspect(const char *folder, bool as_json) {
    struct nb_model model = {0};
    struct report report = {.path = folder, .model = &model};
    struct reasons reasons = {json_array()};
    int code = NB_EXIT_OK;
    look(folder, &model, &report.tokens, &reasons);
    if (json_array_size(reasons.list)) {
        code = print_reasons(folder, &reasons, as_json);
    } else {
        const struct nb_config *c = &model.config;
        report.size = nb_model_size(&model);
        report.census = count(&model);
        report.kv_bytes_per_token =
            4 * (uint64_t)c->n_layers * (uint64_t)c->n_kv_heads * (uint64_t)c->head_width;
        if (!as_json)
            print_text(&report);
        else if (!print_json(&report))
            code = NB_EXIT_FAILURE;
    }
    json_decref(reasons.list);
    nb_model_close(&model);
    return code;
}

static int run(int argc, char **argv) {
    static const struct option options[] = {{"json", no_argument, NULL, NB_OPT_COMMAND}, {0}};
    bool json = false;
    for (int code; (code = getopt_long(argc, argv, ":", options, NULL)) != -1;) {
        if (code != NB_OPT_COMMAND)
            return nb_cli_usage("inspect", "%s: unknown, or without its value", argv[optind - 1]);
        json = true;
    }
    if (argc - optind != 1)
        return nb_cli_usage("inspect", "expected one CHECKPOINT, found %d", argc - optind);
    struct nb_error err;
    char folder[PATH_MAX];
    if (nb_checkpoint_find(argv[optind], folder, sizeof folder, &err) != NB_OK)
        return nb_cli_error(&err);
    return inspect(folder, json);
}

const struct nb_command nb_command_inspect = {"inspect", "what is in a checkpoint", help, run};
