/* nibble classify: documents to their type and fields. */
#include "base/clock.h"
#include "cli/cli.h"
#include "nibble/nibble.h"

#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "usage: nibble classify FILE... [OPTIONS]\n\n"
    "Reads documents (text in UTF-8; \"-\" is standard input) and says of each what it is: its "
    "type,\n"
    "the other party, date, currency, total, and how sure the model is of the type. A table, or\n"
    "JSON with --json: one object a line, a field that is not there is null.\n\n"
    "  --model CHECKPOINT  a folder as Hugging Face lays it out (default: the model that comes\n"
    "                      with nibble, or the environment variable NIBBLE_MODEL)\n"
    "  --json              one JSON object a line\n" NB_CLI_ENGINE_HELP
    "\nExit code: 0 if every file was answered, 1 if any was not, 2 for wrong usage.\n"
    "A file that cannot be read or answered is named on standard error; the others go on.\n";

enum { N_COLUMNS = 7 };

/* A row of the table; strings are owned by it. */
struct row {
    char *cell[N_COLUMNS];
};

static char *copy_or_dash(const char *text) {
    return strdup(text ? text : "-");
}

static struct row make_row(const char *file, const struct nb_classification *c) {
    char confidence[16];
    snprintf(confidence, sizeof confidence, "%.3f", c->confidence);
    struct row row = {{strdup(file), strdup(c->document_type), copy_or_dash(c->party),
                       copy_or_dash(c->date), copy_or_dash(c->currency), copy_or_dash(c->total),
                       strdup(confidence)}};
    return row;
}

static void pad(size_t n) {
    while (n--)
        putchar(' ');
}

static void print_row(const struct row *row, const size_t *widths, const char *before,
                      const char *after) {
    static const bool right[N_COLUMNS] = {[5] = true, [6] = true};
    fputs(before, stdout);
    for (int i = 0; i < N_COLUMNS; i++) {
        const char *cell = row->cell[i] ? row->cell[i] : "";
        size_t space = widths[i] - nb_text_columns(cell);
        if (right[i])
            pad(space);
        fputs(cell, stdout);
        if (!right[i] && i + 1 < N_COLUMNS)
            pad(space);
        if (i + 1 < N_COLUMNS)
            pad(2);
    }
    fputs(after, stdout);
    putchar('\n');
}

static void print_table(const struct row *rows, size_t n) {
    static const struct row head = {
        {"FILE", "TYPE", "PARTY", "DATE", "CURRENCY", "TOTAL", "CONFIDENCE"}};
    size_t widths[N_COLUMNS];
    for (int i = 0; i < N_COLUMNS; i++) {
        widths[i] = nb_text_columns(head.cell[i]);
        for (size_t r = 0; r < n; r++) {
            size_t w = rows[r].cell[i] ? nb_text_columns(rows[r].cell[i]) : 0;
            widths[i] = w > widths[i] ? w : widths[i];
        }
    }
    const char *no_color = getenv("NO_COLOR");
    bool color = isatty(STDOUT_FILENO) && !(no_color && *no_color);
    print_row(&head, widths, color ? "\033[1m" : "", color ? "\033[0m" : "");
    for (size_t r = 0; r < n; r++)
        print_row(&rows[r], widths, "", "");
}

static json_t *string_or_null(const char *text) {
    return text ? json_string(text) : json_null();
}

/* A file name need not be UTF-8, JSON must. */
static json_t *file_name(const char *file) {
    json_t *name = json_string(file);
    if (name)
        return name;
    char *copy = strdup(file);
    for (char *c = copy; c && *c; c++) {
        if ((unsigned char)*c >= 0x80)
            *c = '?';
    }
    name = copy ? json_string(copy) : NULL;
    free(copy);
    return name;
}

static double rounded(double x, double unit) {
    return (double)(int64_t)(x / unit + 0.5) * unit;
}

static bool print_json(const char *file, const char *model, const struct nb_classification *c) {
    json_t *o = json_pack(
        "{s:o, s:s, s:o, s:o, s:o, s:o, s:f, s:b, s:o, s:I, s:I, s:f}", "file", file_name(file),
        "document_type", c->document_type, "party", string_or_null(c->party), "date",
        string_or_null(c->date), "currency", string_or_null(c->currency), "total",
        string_or_null(c->total), "confidence", rounded(c->confidence, 1e-6), "truncated",
        (int)c->truncated, "model", file_name(model), "prompt_tokens", (json_int_t)c->prompt_tokens,
        "tokens", (json_int_t)c->tokens, "milliseconds", rounded(c->milliseconds, 1e-3));
    bool ok = o && json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) == 0;
    json_decref(o);
    if (ok)
        putchar('\n');
    fflush(stdout); /* a reader of a pipe gets each answer as it is made */
    return ok;
}

/* Where the documents of a call go. */
struct output {
    bool json;
    struct row *rows; /* of the table, [n] */
    size_t n;
    bool failed; /* a file got no answer */
};

static void answer_file(struct nb_engine *engine, const char *file, struct output *out,
                        struct nb_progress *progress) {
    struct nb_classification c;
    struct nb_error err;
    enum nb_status s = nb_classify_file(engine, file, &c, &err);
    nb_progress_clear(progress);
    if (s != NB_OK) {
        nb_cli_error(&err);
        out->failed = true;
        return;
    }
    if (!out->json) {
        out->rows[out->n++] = make_row(file, &c);
        if (c.truncated)
            fprintf(stderr,
                    "nibble: %s: longer than the model's context: its middle was left out\n", file);
    } else if (!print_json(file, nb_engine_name(engine), &c)) {
        fprintf(stderr, "nibble: %s: the answer could not be written\n", file);
        out->failed = true;
    }
    nb_classification_free(&c);
}

static int classify(struct nb_engine *engine, char **files, size_t n, bool json) {
    struct output out = {.json = json, .rows = calloc(n, sizeof *out.rows)};
    if (!out.rows) {
        fputs("nibble: out of memory\n", stderr);
        return NB_EXIT_FAILURE;
    }
    struct nb_progress progress;
    nb_progress_start(&progress);
    int64_t start = nb_now_us();
    for (size_t i = 0; i < n; i++) {
        nb_progress_show(&progress, "%zu of %zu: %s", i + 1, n, files[i]);
        answer_file(engine, files[i], &out, &progress);
    }
    nb_progress_clear(&progress);
    if (!json && out.n) {
        print_table(out.rows, out.n);
        printf("\n%zu document%s in %.1f s, model %s\n", out.n, out.n == 1 ? "" : "s",
               (double)(nb_now_us() - start) / 1e6, nb_engine_name(engine));
    }
    for (size_t r = 0; r < out.n; r++) {
        for (int i = 0; i < N_COLUMNS; i++)
            free(out.rows[r].cell[i]);
    }
    free(out.rows);
    return out.failed ? NB_EXIT_FAILURE : NB_EXIT_OK;
}

static int run(int argc, char **argv) {
    static const struct option options[] = {
        NB_CLI_ENGINE_OPTIONS, {"json", no_argument, NULL, NB_OPT_COMMAND}, {0}};
    struct nb_cli_engine how = {0};
    bool json = false;
    for (int code; (code = getopt_long(argc, argv, ":", options, NULL)) != -1;) {
        bool known;
        if (!nb_cli_engine_option("classify", code, optarg, &how, &known))
            return NB_EXIT_USAGE;
        if (code == NB_OPT_COMMAND)
            json = true;
        else if (!known)
            return nb_cli_usage("classify", "%s: unknown, or without its value", argv[optind - 1]);
    }
    if (optind == argc)
        return nb_cli_usage("classify", "no FILE is named");
    struct nb_engine *engine;
    struct nb_error err;
    if (nb_cli_engine_open(&how, &engine, &err) != NB_OK)
        return nb_cli_error(&err);
    int code = classify(engine, argv + optind, (size_t)(argc - optind), json);
    nb_engine_close(engine);
    return code;
}

const struct nb_command nb_command_classify = {
    "classify", "documents to type, party, date, currency and total", help, run};
