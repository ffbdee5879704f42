/* nibble bench: tokens a second, and how much of what the memory allows that is. */
#include "engine/bench.h"
#include "base/file.h"
#include "cli/cli.h"
#include "model/save.h"
#include "model/synthetic.h"

#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: nibble bench [--model CHECKPOINT | --synthetic SHAPE] [OPTIONS]\n\n"
    "Measures how fast memory can be read, and how fast the model decodes and "
    "prefills.\n\n" NB_CLI_MODEL_HELP
    "  --synthetic SHAPE   random weights instead: mixtral-8x7b, mixtral-8x22b, "
    "qwen3-30b-a3b,\n"
    "                      tiny or small; mixtral-8x7b:8 is the first 8 layers\n"
    "  --write DIR         writes the synthetic model as a checkpoint, and measures nothing\n"
    "  --decode B,…        sequences in a decode step; B@N: with N positions each that they\n"
    "                      already have (default: 1,8; of a GPU 1,1@8192,8,32)\n"
    "  --context N         positions where no @ says (default: 128)\n"
    "  --prefill N,…       tokens of a prompt (default: 128,512; of a GPU 512,2048,8192)\n"
    "  --request N@M,…     whole requests: N tokens in, M out (default: none; of a GPU 10000@500)\n"
    "  --schema FILE       answers that follow a JSON Schema beside free text: what a token costs\n"
    "                      more if each is drawn, and what appending what must come saves\n"
    "  --tokenizer FILE    tokenizer.model or tokenizer.json of a synthetic model, for --schema\n"
    "  --seconds S         at least for each figure (default: 3)\n"
    "  --threads N         threads that compute (default: one for each processor)\n"
    "  --cpu NAME          plain, avx2 or avx512 (default: the best that runs "
    "here)\n" NB_CLI_WEIGHTS_HELP NB_CLI_BACKEND_HELP NB_CLI_QUANTIZE_HELP
    "  --json              one JSON object; of each figure tokens_per_s, and of decode "
    "share_of_limit\n"
    "\nWith --decode, --prefill, --request or --schema, only what is asked for is measured. The "
    "limit of "
    "decode is the\n"
    "time that reading the step's bytes once takes at the bandwidth measured in the same run:\n"
    "weights, the experts that so many tokens are expected to choose among them, keys and values.\n"
    "Figures are medians.\n"
    "\nExit code: 0, 1 if something failed, 2 for wrong usage.\n";

enum { MAX_SCHEMA_BYTES = 64 << 20 };

struct request {
    struct nb_bench_options options;
    const char *write; /* a folder */
    struct nb_buf schema;
    struct nb_structure structure;
    bool json;
};

/* "1,8@4096" into out[0..NB_BENCH_MAX) and, of what is after an @, at[]; NULL: there may be none.
 */
static bool parse_list(const char *option, const char *text, int32_t max, int32_t *out, int32_t *at,
                       int *n) {
    char copy[256];
    if (snprintf(copy, sizeof copy, "%s", text) >= (int)sizeof copy) {
        nb_cli_usage("bench", "%s: the list is too long", option);
        return false;
    }
    *n = 0;
    for (char *rest, *item = strtok_r(copy, ",", &rest); item; item = strtok_r(NULL, ",", &rest)) {
        int64_t value, after = 0;
        char *sign = at ? strchr(item, '@') : NULL;
        if (sign)
            *sign = 0;
        if (!nb_cli_int("bench", option, item, 1, max, &value) ||
            (sign && !nb_cli_int("bench", option, sign + 1, 1, 1 << 20, &after)))
            return false;
        if (*n == NB_BENCH_MAX) {
            nb_cli_usage("bench", "%s: more than %d numbers", option, NB_BENCH_MAX);
            return false;
        }
        if (at)
            at[*n] = (int32_t)after;
        out[(*n)++] = (int32_t)value;
    }
    if (*n == 0)
        nb_cli_usage("bench", "%s: no number", option);
    return *n > 0;
}

static bool parse_requests(const char *text, struct nb_bench_options *o) {
    int32_t prompts[NB_BENCH_MAX], generated[NB_BENCH_MAX];
    if (!parse_list("--request", text, 1 << 20, prompts, generated, &o->n_requests))
        return false;
    for (int i = 0; i < o->n_requests; i++) {
        if (!generated[i]) {
            nb_cli_usage("bench", "--request is \"%s\", expected tokens in, @, and tokens out",
                         text);
            return false;
        }
        o->requests[i][0] = prompts[i];
        o->requests[i][1] = generated[i];
    }
    return true;
}

enum {
    OPT_SYNTHETIC = NB_OPT_COMMAND + 1,
    OPT_WRITE,
    OPT_DECODE,
    OPT_PREFILL,
    OPT_REQUEST,
    OPT_SCHEMA,
    OPT_TOKENIZER,
    OPT_SECONDS,
    OPT_JSON
};

static bool parse_option(int code, const char *name, struct request *r) {
    struct nb_bench_options *o = &r->options;
    int64_t n;
    switch (code) {
    case NB_OPT_MODEL:
        o->model = optarg;
        return true;
    case OPT_SYNTHETIC:
        o->synthetic = optarg;
        return true;
    case OPT_WRITE:
        r->write = optarg;
        return true;
    case NB_OPT_CPU:
        o->options.cpu = optarg;
        return true;
    case NB_OPT_WEIGHTS:
        o->options.weights = optarg;
        return true;
    case NB_OPT_QUANTIZE:
        o->options.quantize = optarg;
        return true;
    case NB_OPT_BACKEND:
        o->options.backend = optarg;
        return true;
    case NB_OPT_SAVE_QUANTIZED:
        o->options.save_quantized = optarg;
        return true;
    case NB_OPT_KV_TYPE:
        o->options.kv_type = optarg;
        return true;
    case NB_OPT_MEMORY_LIMIT:
        return nb_cli_bytes("bench", "--memory-limit", optarg, &o->options.memory_limit);
    case NB_OPT_THREADS:
        if (!nb_cli_int("bench", "--threads", optarg, 1, 256, &n))
            return false;
        o->options.threads = (int)n;
        return true;
    case NB_OPT_CONTEXT:
        if (!nb_cli_int("bench", "--context", optarg, 1, 1 << 20, &n))
            return false;
        o->depth = (int32_t)n;
        return true;
    case OPT_DECODE:
        return parse_list("--decode", optarg, NB_BENCH_MAX_BATCH, o->batches, o->depths,
                          &o->n_batches);
    case OPT_PREFILL:
        return parse_list("--prefill", optarg, 1 << 20, o->prefills, NULL, &o->n_prefills);
    case OPT_REQUEST:
        return parse_requests(optarg, o);
    case OPT_SCHEMA:
        r->structure.name = optarg;
        return true;
    case OPT_TOKENIZER:
        o->tokenizer = optarg;
        return true;
    case OPT_SECONDS:
        return nb_cli_number("bench", "--seconds", optarg, 0.001, 3600, &o->seconds);
    case OPT_JSON:
        r->json = true;
        return true;
    default:
        nb_cli_usage("bench", "%s: unknown, or without its value", name);
        return false;
    }
}

static bool parse(int argc, char **argv, struct request *r) {
    static const struct option options[] = {
        NB_CLI_ENGINE_OPTIONS,
        {"synthetic", required_argument, NULL, OPT_SYNTHETIC},
        {"write", required_argument, NULL, OPT_WRITE},
        {"decode", required_argument, NULL, OPT_DECODE},
        {"prefill", required_argument, NULL, OPT_PREFILL},
        {"request", required_argument, NULL, OPT_REQUEST},
        {"schema", required_argument, NULL, OPT_SCHEMA},
        {"tokenizer", required_argument, NULL, OPT_TOKENIZER},
        {"seconds", required_argument, NULL, OPT_SECONDS},
        {"json", no_argument, NULL, OPT_JSON},
        {0},
    };
    for (int code; (code = getopt_long(argc, argv, ":", options, NULL)) != -1;) {
        if (!parse_option(code, argv[optind - 1], r))
            return false;
    }
    const char *wrong = NULL;
    if (optind != argc)
        wrong = "arguments besides the options";
    else if (r->options.model && r->options.synthetic)
        wrong = "expected one of --model and --synthetic";
    else if (r->write && !r->options.synthetic)
        wrong = "--write is for --synthetic";
    else if (r->options.tokenizer && !r->options.synthetic)
        wrong = "--tokenizer is for --synthetic: a checkpoint has its own";
    if (wrong)
        nb_cli_usage("bench", "%s", wrong);
    return !wrong;
}

static void print_structure(const struct nb_structure_bench *s, const char *name) {
    printf("\n%-22s %10s %10s   %d answers, %zu tokens, at batch 1\n", "ms a token", "median",
           "best", s->rounds, s->tokens);
    printf("%-22s %10.3f %10.3f\n", "free", s->free.median, s->free.best);
    printf("%-22s %10.3f %10.3f   %+.1f %% in the median of rounds\n", "schema, all drawn",
           s->each.median, s->each.best, s->loss * 100);
    printf("%-22s %10.3f %10.3f   %.2f times as many tokens a second (%s)\n", "schema",
           s->jump.median, s->jump.best, s->gain, name);
}

static void print_text(const struct nb_bench *b, const char *schema) {
    printf("%s: %.2f GB of weights, %.2f GB of them read for a token\n", b->model,
           (double)b->model_bytes * 1e-9, (double)b->step_bytes * 1e-9);
    printf("%s: %s, reads %.1f GB/s\n", b->backend, b->device, b->read_gb_per_s);
    if (b->device_bytes)
        printf("ready in %.2f s; %.2f GiB of the device's memory, batches of %zu tokens\n",
               b->load_seconds, (double)b->device_bytes / 0x1p30, b->max_batch_tokens);
    if (b->n_decode)
        printf("\n%-22s %10s %10s %8s %8s\n", "", "tokens/s", "limit", "GB/s", "share");
    for (int i = 0; i < b->n_decode; i++) {
        const struct nb_bench_decode *d = &b->decode[i];
        char what[64];
        snprintf(what, sizeof what, "decode %d at %d", d->batch, d->context);
        printf("%-22s %10.2f %10.2f %8.1f %7.1f%%\n", what, d->tokens_per_s, d->limit, d->gb_per_s,
               d->share_of_limit * 100);
    }
    if (b->n_prefill)
        printf("\n%-22s %10s\n", "", "tokens/s");
    for (int i = 0; i < b->n_prefill; i++) {
        char what[64];
        snprintf(what, sizeof what, "prefill %d", b->prefill[i].tokens);
        printf("%-22s %10.2f\n", what, b->prefill[i].tokens_per_s);
    }
    if (b->n_requests)
        printf("\n%-22s %10s %10s\n", "", "seconds", "prefill");
    for (int i = 0; i < b->n_requests; i++) {
        char what[64];
        snprintf(what, sizeof what, "%d in, %d out", b->request[i].prompt, b->request[i].generated);
        printf("%-22s %10.3f %10.3f\n", what, b->request[i].seconds, b->request[i].prefill_seconds);
    }
    if (b->structured)
        print_structure(&b->structure, schema);
}

static json_t *structure_json(const struct nb_structure_bench *s, const char *name) {
    return json_pack("{s:s, s:i, s:I, s:{s:f, s:f}, s:{s:f, s:f}, s:{s:f, s:f}, s:f, s:f}",
                     "schema", name, "rounds", s->rounds, "tokens", (json_int_t)s->tokens,
                     "free_ms", "median", s->free.median, "best", s->free.best, "all_drawn_ms",
                     "median", s->each.median, "best", s->each.best, "schema_ms", "median",
                     s->jump.median, "best", s->jump.best, "loss", s->loss, "speedup", s->gain);
}

static bool print_json(const struct nb_bench *b, const char *schema) {
    json_t *decode = json_array(), *prefill = json_array(), *request = json_array();
    for (int i = 0; i < b->n_decode; i++) {
        const struct nb_bench_decode *d = &b->decode[i];
        json_array_append_new(decode,
                              json_pack("{s:i, s:i, s:f, s:f, s:f, s:f}", "batch", (int)d->batch,
                                        "context", (int)d->context, "tokens_per_s", d->tokens_per_s,
                                        "gb_per_s", d->gb_per_s, "limit_tokens_per_s", d->limit,
                                        "share_of_limit", d->share_of_limit));
    }
    for (int i = 0; i < b->n_prefill; i++)
        json_array_append_new(prefill, json_pack("{s:i, s:f}", "tokens", (int)b->prefill[i].tokens,
                                                 "tokens_per_s", b->prefill[i].tokens_per_s));
    for (int i = 0; i < b->n_requests; i++)
        json_array_append_new(request, json_pack("{s:i, s:i, s:f, s:f}", "prompt_tokens",
                                                 (int)b->request[i].prompt, "generated_tokens",
                                                 (int)b->request[i].generated, "seconds",
                                                 b->request[i].seconds, "prefill_seconds",
                                                 b->request[i].prefill_seconds));
    json_t *shape =
        json_pack("{s:I, s:i, s:i}", "prefill_parameters", (json_int_t)b->prefill_parameters,
                  "attention_width", (int)b->attention_width, "layers", (int)b->layers);
    json_t *o = json_pack(
        "{s:s, s:s, s:s, s:o, s:I, s:I, s:f, s:f, s:I, s:I, s:o, s:o, s:o}", "backend", b->backend,
        "device", b->device, "model", b->model, "shape", shape, "model_bytes",
        (json_int_t)b->model_bytes, "step_bytes", (json_int_t)b->step_bytes, "read_gb_per_s",
        b->read_gb_per_s, "load_seconds", b->load_seconds, "device_bytes",
        (json_int_t)b->device_bytes, "max_batch_tokens", (json_int_t)b->max_batch_tokens, "decode",
        decode, "prefill", prefill, "request", request);
    if (o && b->structured)
        json_object_set_new(o, "structured", structure_json(&b->structure, schema));
    bool ok = o && json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6)) == 0;
    json_decref(o);
    putchar('\n');
    return ok;
}

static void show(void *context, const char *what) {
    nb_progress_show(context, "%s", what);
}

/* The synthetic model as a checkpoint. */
static int write_model(const struct request *r) {
    struct nb_pool *pool;
    struct nb_model model = {0};
    struct nb_error err;
    enum nb_status s = nb_pool_create(r->options.options.threads, &pool, &err);
    if (s != NB_OK)
        return nb_cli_error(&err);
    s = nb_model_synthetic(r->options.synthetic, pool, &model, &err);
    if (s == NB_OK)
        s = nb_model_save(&model, r->write, pool, &err);
    nb_model_close(&model);
    nb_pool_free(pool);
    return s == NB_OK ? NB_EXIT_OK : nb_cli_error(&err);
}

static int measure(struct request *r) {
    struct nb_error err;
    char folder[4096];
    if (!r->options.model && !r->options.synthetic) {
        if (!nb_cli_default_model(folder, sizeof folder, &err))
            return nb_cli_error(&err);
        r->options.model = folder;
    }
    enum nb_status s = NB_OK;
    if (r->structure.name)
        s = nb_read_file(r->structure.name, MAX_SCHEMA_BYTES, &r->schema, &err);
    if (s != NB_OK)
        return nb_cli_error(&err);
    if (r->structure.name) {
        r->structure.schema = r->schema.data ? r->schema.data : "";
        r->structure.schema_bytes = r->schema.len;
        r->options.structure = &r->structure;
    }
    nb_cli_engine_defaults(&r->options.options);
    if (!r->options.options.weights)
        r->options.options.weights = "auto"; /* as a server, which has time to lay them out */
    struct nb_progress progress;
    nb_progress_start(&progress);
    struct nb_bench bench;
    s = nb_bench_run(&r->options, show, &progress, &bench, &err);
    nb_progress_clear(&progress);
    if (s != NB_OK)
        return nb_cli_error(&err);
    if (!r->json)
        print_text(&bench, r->structure.name);
    return !r->json || print_json(&bench, r->structure.name) ? NB_EXIT_OK : NB_EXIT_FAILURE;
}

static int run(int argc, char **argv) {
    struct request r = {0};
    if (!parse(argc, argv, &r))
        return NB_EXIT_USAGE;
    int code = r.write ? write_model(&r) : measure(&r);
    nb_buf_free(&r.schema);
    return code;
}

const struct nb_command nb_command_bench = {"bench", "how fast a model runs here", help, run};
