/* nibble plan: what a model takes, and on which GPUs it fits. */
#include "cli/cli.h"
#include "doctor/memory.h"
#include "model/cache.h"

#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: nibble plan MODEL [--gpu NAME | --memory SIZE] [OPTIONS]\n\n"
    "Says what a model takes of a GPU's memory, to the byte as the CUDA backend will hold it, and "
    "on\n"
    "which GPUs it fits. MODEL is a checkpoint, a repository in the Hugging Face cache, or a "
    "folder\n"
    "with config.json alone. No GPU is needed.\n\n"
    "  --gpu NAME          judge this GPU only: \"RTX 4090\", A40, H200\n"
    "  --memory SIZE       judge so much memory: 24GiB, 24GB, 24564MiB or bytes; --memory-limit "
    "of\n"
    "                      other commands is taken, too\n"
    "  --context N         positions of a sequence (default: the model's, 8192 at most)\n"
    "  --max-sequences N   sequences of that length at a time, as of nibble serve (default: 1);\n"
    "                      or --sequences\n"
    "  --kv-type TYPE      bf16 or fp8 (default: bf16)\n"
    "  --quantize TYPE     what weights in bf16, fp16 or fp32 become: none, nf4 or fp4 (default: "
    "nf4)\n"
    "  --json              one JSON object; docs/doctor.md has its keys\n"
    "\nExit code: 0 if it fits (on the GPU named, or on any), 1 if not, 2 for wrong usage.\n";

struct command {
    const char *gpu, *memory;
    uint64_t memory_bytes;
    const struct nb_gpu *found; /* what `gpu` names */
    struct nb_plan_options options;
    bool json;
    struct nb_gpu_table table;
    struct nb_plan_model model;
    struct nb_plan plan;
};

static void print_plan(const struct nb_plan *p, const char *name) {
    const struct {
        const char *what;
        uint64_t bytes;
    } rows[] = {{"experts", p->experts},     {"attention", p->attention}, {"head", p->head},
                {"embedding", p->embedding}, {"norms, router", p->small}, {"weights", p->weights},
                {"KV memory", p->kv},        {"workspace", p->workspace}, {"batch", p->step},
                {"allocated", p->total},     {"context", p->driver}};
    printf("%s: %d sequence%s of %d positions%s\n", name, p->sequences,
           p->sequences == 1 ? "" : "s", p->context,
           p->weights_known ? "" : "; from its config alone, as NF4 with bf16 embedding and head");
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        printf("  %-14s %15" PRIu64 " bytes %9.3f GiB\n", rows[i].what, rows[i].bytes,
               (double)rows[i].bytes / 0x1p30);
    printf("  %-14s %15" PRIu64 " bytes %9.3f GiB\n", "in all", p->total + p->driver,
           (double)(p->total + p->driver) / 0x1p30);
    printf("  KV memory: %" PRIu64 " bytes a token; batches of up to %zu tokens; the driver keeps "
           "%.3f GiB more of a GPU\n",
           p->kv_per_token, p->max_batch_tokens, (double)NB_PLAN_RESERVED_BYTES / 0x1p30);
}

static void print_fit(const char *name, uint64_t memory, double bandwidth,
                      const struct nb_plan_fit *f, const struct nb_plan *p) {
    printf("  %-48s %7.2f GiB  ", name, (double)memory / 0x1p30);
    if (f->too_old) {
        printf("no: compute capability below %d.%d\n", NB_PLAN_CAPABILITY / 10,
               NB_PLAN_CAPABILITY % 10);
        return;
    }
    if (!f->fits)
        printf("no: %.2f GiB short", (double)f->missing_bytes / 0x1p30);
    else
        printf("yes, %.2f GiB free", (double)f->free_bytes / 0x1p30);
    if (f->max_context)
        printf("; context up to %d", f->max_context);
    if (f->max_sequences)
        printf(", or %d sequence%s", f->max_sequences, f->max_sequences == 1 ? "" : "s");
    if (f->embedding_on_host)
        printf("; embedding in the host's memory");
    if (f->fits && p->step_bytes && bandwidth > 0)
        printf("; at most %.0f tokens/s", bandwidth / (double)p->step_bytes);
    putchar('\n');
}

static json_t *fit_json(const char *name, uint64_t memory, double bandwidth, int capability,
                        const struct nb_plan_fit *f, const struct nb_plan *p) {
    double most = p->step_bytes && bandwidth > 0 ? bandwidth / (double)p->step_bytes : 0;
    return json_pack("{s:s, s:I, s:i, s:b, s:b, s:I, s:I, s:i, s:i, s:b, s:f}", "name", name,
                     "memory_bytes", (json_int_t)memory, "capability", capability, "fits",
                     (int)f->fits, "too_old", (int)f->too_old, "free_bytes",
                     (json_int_t)f->free_bytes, "missing_bytes", (json_int_t)f->missing_bytes,
                     "max_context", (int)f->max_context, "max_sequences", (int)f->max_sequences,
                     "embedding_on_host", (int)f->embedding_on_host, "max_tokens_per_second", most);
}

static json_t *plan_json(const struct command *c, const char *name) {
    const struct nb_plan *p = &c->plan;
    return json_pack(
        "{s:s, s:b, s:i, s:i, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
        "s:I}",
        "model", name, "weights_known", (int)p->weights_known, "context", (int)p->context,
        "sequences", (int)p->sequences, "kv_type", c->options.kv_fp8 ? "fp8" : "bf16",
        "weights_bytes", (json_int_t)p->weights, "expert_bytes", (json_int_t)p->experts,
        "attention_bytes", (json_int_t)p->attention, "head_bytes", (json_int_t)p->head,
        "embedding_bytes", (json_int_t)p->embedding, "kv_bytes_per_token",
        (json_int_t)p->kv_per_token, "kv_bytes", (json_int_t)p->kv, "workspace_bytes",
        (json_int_t)p->workspace, "batch_bytes", (json_int_t)p->step, "allocated_bytes",
        (json_int_t)p->total, "driver_bytes", (json_int_t)p->driver, "total_bytes",
        (json_int_t)(p->total + p->driver), "reserved_bytes", (json_int_t)NB_PLAN_RESERVED_BYTES);
}

/* Judges one GPU, prints it or adds it to the list. */
static enum nb_status judge(struct command *c, const char *name, uint64_t memory, double bandwidth,
                            int capability, json_t *list, bool *any, struct nb_error *err) {
    struct nb_plan_fit fit;
    enum nb_status s = nb_plan_fit(&c->model, &c->options, memory, capability, &fit, err);
    if (s != NB_OK)
        return s;
    *any = *any || fit.fits;
    if (c->json)
        json_array_append_new(list, fit_json(name, memory, bandwidth, capability, &fit, &c->plan));
    else
        print_fit(name, memory, bandwidth, &fit, &c->plan);
    return NB_OK;
}

static enum nb_status judge_all(struct command *c, json_t *list, bool *any, struct nb_error *err) {
    if (c->memory)
        return judge(c, c->memory, c->memory_bytes, 0, 0, list, any, err);
    const struct nb_gpu *gpu = c->found;
    if (gpu)
        return judge(c, gpu->name, gpu->memory_bytes, gpu->bandwidth_bytes_s, gpu->capability, list,
                     any, err);
    enum nb_status s = NB_OK;
    for (size_t i = 0; s == NB_OK && i < c->table.n_gpus; i++) {
        gpu = &c->table.gpus[i];
        s = judge(c, gpu->name, gpu->memory_bytes, gpu->bandwidth_bytes_s, gpu->capability, list,
                  any, err);
    }
    return s;
}

static int plan(struct command *c, const char *name) {
    struct nb_error err;
    char folder[PATH_MAX];
    bool any = false;
    json_t *list = json_array();
    enum nb_status s = nb_checkpoint_find(name, folder, sizeof folder, &err);
    if (s == NB_OK)
        s = nb_plan_open(folder, &c->model, &err);
    if (s == NB_OK)
        s = nb_plan_make(&c->model, &c->options, &c->plan, &err);
    if (s == NB_OK && !c->json)
        print_plan(&c->plan, name);
    if (s == NB_OK)
        s = judge_all(c, list, &any, &err);
    if (s == NB_OK && c->json) {
        json_t *o = plan_json(c, name);
        json_object_set(o, "gpus", list);
        if (!o || json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) != 0)
            s = nb_fail(&err, NB_ERR_MEMORY, "the plan could not be written");
        putchar('\n');
        json_decref(o);
    }
    json_decref(list);
    nb_plan_close(&c->model);
    if (s == NB_ERR_ARGUMENT)
        return nb_cli_usage("plan", "%s", err.message);
    if (s != NB_OK)
        return nb_cli_error(&err);
    return any ? NB_EXIT_OK : NB_EXIT_FAILURE;
}

enum { OPT_GPU = NB_OPT_COMMAND, OPT_MEMORY, OPT_SEQUENCES, OPT_KV, OPT_JSON };

/* False after saying what is wrong. */
static bool take_option(struct command *c, int code) {
    int64_t n;
    switch (code) {
    case OPT_GPU:
        c->gpu = optarg;
        return true;
    case OPT_MEMORY:
        c->memory = optarg;
        return nb_cli_bytes("plan", "--memory", optarg, &c->memory_bytes);
    case OPT_JSON:
        c->json = true;
        return true;
    case NB_OPT_QUANTIZE:
        c->options.quantize = optarg;
        return nb_cli_word("plan", "--quantize", optarg, "none, nf4, fp4");
    case NB_OPT_CONTEXT:
    case OPT_SEQUENCES:
        if (!nb_cli_int("plan", code == OPT_SEQUENCES ? "--max-sequences" : "--context", optarg, 1,
                        code == OPT_SEQUENCES ? 65536 : INT32_MAX, &n))
            return false;
        *(code == OPT_SEQUENCES ? &c->options.sequences : &c->options.context) = (int32_t)n;
        return true;
    case OPT_KV:
        c->options.kv_fp8 = strcmp(optarg, "fp8") == 0;
        return nb_cli_word("plan", "--kv-type", optarg, "bf16, fp8");
    default:
        return false;
    }
}

static int run(int argc, char **argv) {
    static const struct option options[] = {
        {"gpu", required_argument, NULL, OPT_GPU},
        {"memory", required_argument, NULL, OPT_MEMORY},
        {"memory-limit", required_argument, NULL, OPT_MEMORY},
        {"context", required_argument, NULL, NB_OPT_CONTEXT},
        {"max-sequences", required_argument, NULL, OPT_SEQUENCES},
        {"sequences", required_argument, NULL, OPT_SEQUENCES},
        {"kv-type", required_argument, NULL, OPT_KV},
        {"quantize", required_argument, NULL, NB_OPT_QUANTIZE},
        {"json", no_argument, NULL, OPT_JSON},
        {0}};
    struct command c = {0};
    for (int code; (code = getopt_long(argc, argv, ":", options, NULL)) != -1;) {
        if (code == '?' || code == ':')
            return nb_cli_usage("plan", "%s: unknown, or without its value", argv[optind - 1]);
        if (!take_option(&c, code))
            return NB_EXIT_USAGE;
    }
    if (argc - optind != 1)
        return nb_cli_usage("plan", "expected one MODEL, found %d", argc - optind);
    if (c.gpu && c.memory)
        return nb_cli_usage("plan", "--gpu and --memory exclude each other");
    struct nb_error err;
    if (nb_gpu_table_open(&c.table, &err) != NB_OK)
        return nb_cli_error(&err);
    int code;
    if (c.gpu && nb_gpu_find(&c.table, c.gpu, &c.found, &err) != NB_OK)
        code = nb_cli_usage("plan", "%s", err.message);
    else
        code = plan(&c, argv[optind]);
    nb_gpu_table_free(&c.table);
    return code;
}

const struct nb_command nb_command_plan = {"plan", "what a model takes of a GPU, and which will do",
                                           help, run};
