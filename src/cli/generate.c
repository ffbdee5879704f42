/* nibble generate: a prompt goes on. */
#include "base/file.h"
#include "cli/cli.h"
#include "model/json.h"
#include "nibble/nibble.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "usage: nibble generate (-p TEXT | --prompt-ids 1,2,3) [--model CHECKPOINT] [OPTIONS]\n\n"
    "Lets the model go on from a prompt. Text is written as it is made.\n\n" NB_CLI_MODEL_HELP
    "  -p TEXT             the prompt\n"
    "  --chat              the prompt is a message of the user: it goes through the model's chat\n"
    "                      template\n"
    "  --system TEXT       with --chat: a system prompt\n"
    "  --prompt-ids IDS    the prompt as token ids, with commas; needs no tokenizer\n"
    "  -n N                at most N tokens (default: until the context is full)\n"
    "  --ignore-eos        go on after an end token\n"
    "  --temperature T     0 takes the most probable token (default: 0)\n"
    "  --top-k K           of the K most probable tokens (default: 0, all)\n"
    "  --top-p P           of the most probable ones that together reach P (default: 1, all)\n"
    "  --min-p P           of those at least P times as probable as the best (default: 0, all)\n"
    "  --repetition-penalty R  makes tokens that came before less probable (default: 1, no)\n"
    "  --seed S            of the draws (default: 0)\n"
    "  --min-tokens N      no end token before N tokens\n"
    "  --stop TEXT         end with the token that completes TEXT; may be given again\n"
    "  --schema FILE       the answer is JSON that fulfils this JSON Schema\n"
    "  --regex PATTERN     the answer as a whole matches PATTERN (ECMA-262)\n"
    "  --choice A,B,C      the answer is one of these: the most probable, each being scored; with\n"
    "                      --json also choices, with the probability of each\n"
    "  --close             with --schema or --regex: an answer that reaches -n is finished in a\n"
    "                      short way that is allowed, with some tokens more\n"
    "  --lenient           what of the schema cannot be enforced is left out, and said\n"
    "  --any-order         members in any order (default: the schema's)\n"
    "  --flexible          white space between JSON's tokens (default: none)\n"
    "  --json              one object: token_ids, text, finish_reason, prompt_tokens, tokens,\n"
    "                      milliseconds\n"
    "  --logprobs N        with --json: logprobs, of each token and of the N most "
    "probable\n" NB_CLI_ENGINE_HELP
    "\nExit code: 0 if it went well, 1 if not, 2 for wrong usage.\n";

enum { MAX_SCHEMA_BYTES = 64 << 20 };

/* What the command line asks for. */
struct request {
    struct nb_cli_engine how;
    struct nb_generate_options options;
    int32_t *ids; /* of --prompt-ids; owned */
    const char *stop[16];
    bool json;
    struct nb_structure structure;
    const char *schema; /* a file */
    char *choices;      /* of --choice, cut at the commas; owned */
    const char *labels[256];
};

/* "1,2,3" to ids; false after saying what is wrong. */
static bool parse_ids(const char *text, struct request *r) {
    size_t n = 1;
    for (const char *c = text; *c; c++)
        n += *c == ',';
    free(r->ids);
    r->ids = calloc(n, sizeof *r->ids);
    if (!r->ids) {
        fputs("nibble: out of memory\n", stderr);
        return false;
    }
    for (size_t i = 0; i < n; i++) {
        char *end;
        errno = 0;
        long id = strtol(text, &end, 10);
        if (end == text || (*end && *end != ',') || errno || id < 0 || id > INT32_MAX) {
            nb_cli_usage("generate", "--prompt-ids: \"%.20s\" is no token id", text);
            return false;
        }
        r->ids[i] = (int32_t)id;
        text = end + (*end == ',');
    }
    r->options.prompt_ids = r->ids;
    r->options.n_prompt_ids = n;
    return true;
}

static bool parse_sampling(const char *option, struct nb_sampling *out) {
    int64_t n = 0;
    if (strcmp(option, "temperature") == 0)
        return nb_cli_number("generate", "--temperature", optarg, 0, 100, &out->temperature);
    if (strcmp(option, "top-p") == 0) {
        /* 0 in nb_sampling means 1; a user who says 0 wants the fewest tokens. */
        if (!nb_cli_number("generate", "--top-p", optarg, 0, 1, &out->top_p))
            return false;
        out->top_p = out->top_p > 0 ? out->top_p : 1e-9;
        return true;
    }
    if (strcmp(option, "min-p") == 0)
        return nb_cli_number("generate", "--min-p", optarg, 0, 1, &out->min_p);
    if (strcmp(option, "repetition-penalty") == 0)
        return nb_cli_number("generate", "--repetition-penalty", optarg, 1e-6, 1e6,
                             &out->repetition_penalty);
    if (strcmp(option, "top-k") == 0) {
        if (!nb_cli_int("generate", "--top-k", optarg, 0, INT32_MAX, &n))
            return false;
        out->top_k = (int32_t)n;
        return true;
    }
    if (!nb_cli_int("generate", "--seed", optarg, 0, INT64_MAX, &n))
        return false;
    out->seed = (uint64_t)n;
    return true;
}

/* "a,b,c" to labels. */
static bool parse_choices(const char *text, struct request *r) {
    free(r->choices);
    r->choices = strdup(text);
    if (!r->choices) {
        fputs("nibble: out of memory\n", stderr);
        return false;
    }
    size_t n = 0, most = sizeof r->labels / sizeof *r->labels;
    for (char *c = r->choices; c;) {
        char *comma = strchr(c, ',');
        if (comma)
            *comma = 0;
        if (!*c || n == most) {
            nb_cli_usage("generate", "--choice: expected at most %zu labels, none empty", most);
            return false;
        }
        r->labels[n++] = c;
        c = comma ? comma + 1 : NULL;
    }
    r->structure.choices = r->labels;
    r->structure.n_choices = n;
    return true;
}

/* Option `code`; `name` is the long one's, or for messages what stands on the command line. */
static bool parse_option(int code, const char *name, struct request *r) {
    bool known;
    int64_t n = 0;
    if (!nb_cli_engine_option("generate", code, optarg, &r->how, &known))
        return false;
    if (known)
        return true;
    if (code == 'p') {
        r->options.prompt = optarg;
        r->options.prompt_bytes = strlen(optarg);
        return true;
    }
    if (code == 'n') {
        if (!nb_cli_int("generate", "-n", optarg, 1, INT32_MAX, &n))
            return false;
        r->options.max_tokens = (int32_t)n;
        return true;
    }
    if (code != NB_OPT_COMMAND) {
        nb_cli_usage("generate", "%s: unknown, or without its value", name);
        return false;
    }
    if (strcmp(name, "prompt-ids") == 0)
        return parse_ids(optarg, r);
    if (strcmp(name, "chat") == 0)
        return r->options.chat = true;
    if (strcmp(name, "system") == 0)
        return (r->options.system = optarg) != NULL;
    if (strcmp(name, "ignore-eos") == 0)
        return r->options.ignore_eos = true;
    if (strcmp(name, "json") == 0)
        return r->json = true;
    if (strcmp(name, "min-tokens") == 0) {
        if (!nb_cli_int("generate", "--min-tokens", optarg, 0, INT32_MAX, &n))
            return false;
        r->options.min_tokens = (int32_t)n;
        return true;
    }
    if (strcmp(name, "logprobs") == 0) {
        if (!nb_cli_int("generate", "--logprobs", optarg, 0, 1000, &n))
            return false;
        r->options.logprobs = true;
        r->options.top_logprobs = (int32_t)n;
        return true;
    }
    if (strcmp(name, "schema") == 0)
        return (r->schema = optarg) != NULL;
    if (strcmp(name, "regex") == 0)
        return (r->structure.regex = optarg) != NULL;
    if (strcmp(name, "choice") == 0)
        return parse_choices(optarg, r);
    if (strcmp(name, "close") == 0)
        return r->options.close = true;
    if (strcmp(name, "lenient") == 0)
        return r->structure.lenient = true;
    if (strcmp(name, "any-order") == 0)
        return r->structure.any_order = true;
    if (strcmp(name, "flexible") == 0)
        return r->structure.flexible = true;
    if (strcmp(name, "stop") == 0) {
        if (!*optarg || r->options.n_stop == sizeof r->stop / sizeof *r->stop) {
            nb_cli_usage("generate", "--stop: expected a text that is not empty, at most %zu times",
                         sizeof r->stop / sizeof *r->stop);
            return false;
        }
        r->stop[r->options.n_stop++] = optarg;
        r->options.stop = r->stop;
        return true;
    }
    return parse_sampling(name, &r->options.sampling);
}

static bool parse(int argc, char **argv, struct request *r) {
    static const struct option options[] = {
        NB_CLI_ENGINE_OPTIONS,
        {"prompt-ids", required_argument, NULL, NB_OPT_COMMAND},
        {"chat", no_argument, NULL, NB_OPT_COMMAND},
        {"system", required_argument, NULL, NB_OPT_COMMAND},
        {"ignore-eos", no_argument, NULL, NB_OPT_COMMAND},
        {"temperature", required_argument, NULL, NB_OPT_COMMAND},
        {"top-k", required_argument, NULL, NB_OPT_COMMAND},
        {"top-p", required_argument, NULL, NB_OPT_COMMAND},
        {"seed", required_argument, NULL, NB_OPT_COMMAND},
        {"min-p", required_argument, NULL, NB_OPT_COMMAND},
        {"repetition-penalty", required_argument, NULL, NB_OPT_COMMAND},
        {"min-tokens", required_argument, NULL, NB_OPT_COMMAND},
        {"stop", required_argument, NULL, NB_OPT_COMMAND},
        {"logprobs", required_argument, NULL, NB_OPT_COMMAND},
        {"schema", required_argument, NULL, NB_OPT_COMMAND},
        {"regex", required_argument, NULL, NB_OPT_COMMAND},
        {"choice", required_argument, NULL, NB_OPT_COMMAND},
        {"close", no_argument, NULL, NB_OPT_COMMAND},
        {"lenient", no_argument, NULL, NB_OPT_COMMAND},
        {"any-order", no_argument, NULL, NB_OPT_COMMAND},
        {"flexible", no_argument, NULL, NB_OPT_COMMAND},
        {"json", no_argument, NULL, NB_OPT_COMMAND},
        {0},
    };
    int index = 0;
    for (int code; (code = getopt_long(argc, argv, ":p:n:", options, &index)) != -1;) {
        if (!parse_option(code, code == NB_OPT_COMMAND ? options[index].name : argv[optind - 1], r))
            return false;
    }
    const char *wrong = NULL;
    if (optind != argc)
        wrong = "arguments besides the options; give the prompt with -p";
    else if (!r->options.prompt == !r->options.prompt_ids)
        wrong = "expected one of -p TEXT and --prompt-ids IDS";
    else if (r->options.logprobs && !r->json)
        wrong = "--logprobs goes with --json";
    else if (r->options.chat && r->options.prompt_ids)
        wrong = "--chat goes with -p TEXT, not with --prompt-ids";
    else if (r->options.system && !r->options.chat)
        wrong = "--system goes with --chat";
    else if ((r->schema != NULL) + (r->structure.regex != NULL) + (r->choices != NULL) > 1)
        wrong = "expected at most one of --schema, --regex and --choice";
    else if (r->options.close && !r->schema && !r->structure.regex)
        wrong = "--close goes with --schema or --regex";
    else if (!r->schema &&
             (r->structure.lenient || r->structure.any_order || r->structure.flexible))
        wrong = "--lenient, --any-order and --flexible go with --schema";
    if (wrong)
        nb_cli_usage("generate", "%s", wrong);
    return !wrong;
}

/* Without --json: text as it comes, or ids where there is no tokenizer. */
struct stream {
    bool ids;
    size_t n;
};

static bool print_token(void *context, int32_t id, const char *text, size_t n) {
    struct stream *stream = context;
    if (stream->ids)
        printf("%s%d", stream->n ? "," : "", id);
    else
        fwrite(text, 1, n, stdout);
    stream->n++;
    return fflush(stdout) == 0;
}

static json_t *token_logprob(const struct nb_engine *engine, int32_t id, double logprob) {
    size_t n;
    const char *text = nb_token_text(engine, id, &n);
    return json_pack("{s:i, s:o, s:f}", "id", (int)id, "token", nb_json_text(text, n), "logprob",
                     logprob);
}

/* [{"id", "token", "logprob", "top": [{"id", "token", "logprob"}…]}…] */
static json_t *logprobs(const struct nb_engine *engine, const struct nb_generation *g) {
    json_t *list = json_array();
    for (size_t i = 0; i < g->n_tokens; i++) {
        json_t *token = token_logprob(engine, g->token_ids[i], g->logprobs[i]);
        json_t *top = json_array();
        for (size_t j = i * g->n_top; j < (i + 1) * g->n_top; j++)
            json_array_append_new(top, token_logprob(engine, g->top_ids[j], g->top_logprobs[j]));
        json_object_set_new(token, "top", top);
        json_array_append_new(list, token);
    }
    return list;
}

static bool print_json(const struct nb_engine *engine, const struct nb_generation *g,
                       bool with_logprobs) {
    json_t *ids = json_array();
    for (size_t i = 0; i < g->n_tokens; i++)
        json_array_append_new(ids, json_integer(g->token_ids[i]));
    json_t *o =
        json_pack("{s:o, s:o, s:s, s:I, s:I, s:f}", "token_ids", ids, "text",
                  g->text ? json_stringn(g->text, g->text_bytes) : json_null(), "finish_reason",
                  nb_finish_name(g->finish), "prompt_tokens", (json_int_t)g->n_prompt_tokens,
                  "tokens", (json_int_t)g->n_tokens, "milliseconds", g->prefill_ms + g->decode_ms);
    if (with_logprobs && g->logprobs)
        json_object_set_new(o, "logprobs", logprobs(engine, g));
    bool ok = o && json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) == 0;
    json_decref(o);
    putchar('\n');
    return ok;
}

static int generate(struct nb_engine *engine, struct request *r) {
    struct stream stream = {.ids = !nb_engine_has_tokenizer(engine)};
    if (!r->json) {
        r->options.on_token = print_token;
        r->options.on_token_context = &stream;
    }
    struct nb_generation g;
    struct nb_error err;
    if (nb_generate(engine, &r->options, &g, &err) != NB_OK)
        return nb_cli_error(&err);
    bool ok = true;
    if (r->json)
        ok = print_json(engine, &g, r->options.logprobs);
    else
        putchar('\n');
    nb_generation_free(&g);
    if (!ok)
        fputs("nibble: the answer could not be written\n", stderr);
    return ok ? NB_EXIT_OK : NB_EXIT_FAILURE;
}

static int choose(struct nb_engine *engine, const struct request *r) {
    size_t n = r->structure.n_choices, best = 0, n_prompt;
    double p[sizeof r->labels / sizeof *r->labels];
    struct nb_error err;
    if (nb_choose(engine, &r->options, r->labels, n, p, &n_prompt, &err) != NB_OK)
        return nb_cli_error(&err);
    for (size_t i = 1; i < n; i++)
        best = p[i] > p[best] ? i : best;
    if (!r->json) {
        puts(r->labels[best]);
        return NB_EXIT_OK;
    }
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list,
                              json_pack("{s:s, s:f}", "label", r->labels[i], "probability", p[i]));
    json_t *o = json_pack("{s:s, s:o, s:I}", "text", r->labels[best], "choices", list,
                          "prompt_tokens", (json_int_t)n_prompt);
    bool ok = o && json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) == 0;
    json_decref(o);
    putchar('\n');
    if (!ok)
        fputs("nibble: the answer could not be written\n", stderr);
    return ok ? NB_EXIT_OK : NB_EXIT_FAILURE;
}

/* Compiles what the answer must be, and generates. */
static int answer(struct nb_engine *engine, struct request *r) {
    struct nb_error err;
    struct nb_buf schema = {0};
    if (r->choices)
        return choose(engine, r);
    if (!r->schema && !r->structure.regex)
        return generate(engine, r);
    enum nb_status s = NB_OK;
    if (r->schema) {
        s = nb_read_file(r->schema, MAX_SCHEMA_BYTES, &schema, &err);
        r->structure.schema = schema.data ? schema.data : "";
        r->structure.schema_bytes = schema.len;
        r->structure.name = r->schema;
    }
    if (s == NB_OK)
        s = nb_grammar_compile(engine, &r->structure, &r->options.grammar, &err);
    int code = s == NB_OK ? NB_EXIT_OK : nb_cli_error(&err);
    if (s == NB_OK && *nb_grammar_notes(r->options.grammar))
        fprintf(stderr, "%s: not enforced:\n%s", r->schema, nb_grammar_notes(r->options.grammar));
    if (s == NB_OK)
        code = generate(engine, r);
    nb_grammar_release(r->options.grammar);
    nb_buf_free(&schema);
    return code;
}

static int run(int argc, char **argv) {
    struct request r = {0};
    int code = NB_EXIT_USAGE;
    if (parse(argc, argv, &r)) {
        struct nb_engine *engine;
        struct nb_error err;
        if (nb_cli_engine_open(&r.how, &engine, &err) != NB_OK) {
            code = nb_cli_error(&err);
        } else {
            code = answer(engine, &r);
            nb_engine_close(engine);
        }
    }
    free(r.ids);
    free(r.choices);
    return code;
}

const struct nb_command nb_command_generate = {"generate", "a prompt goes on", help, run};
