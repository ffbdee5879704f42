/* nibble schema: checks schemas, validates documents, and measures masks. */
#include "base/arena.h"
#include "base/file.h"
#include "cli/cli.h"
#include "cli/schema_bench.h"
#include "grammar/grammar.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: nibble schema check [OPTIONS] SCHEMA…\n"
    "       nibble schema validate [OPTIONS] SCHEMA DOCUMENT…\n"
    "       nibble schema bench FILE.jsonl --tokenizer CHECKPOINT|FILE [--json] [--rows FILE]\n\n"
    "check compiles JSON Schemas and names what cannot be enforced, and where; on standard error, "
    "what\n"
    "says nothing but looks like a slip: a misspelt keyword, one of another draft. validate says "
    "of "
    "each\n"
    "JSON document whether it fulfils the schema, and at which byte not. bench walks the "
    "instances\n"
    "of a file with one line {\"name\", \"schema\", \"tests\": [{\"valid\", \"data\"}]} for each "
    "schema, "
    "as\n"
    "Python's json.dumps writes them, token by token, and measures the mask before each.\n\n"
    "  --lenient           leaves out what cannot be enforced, and says so\n"
    "  --schemas FOLDER    where references to other documents lead: http://host/a/b.json is\n"
    "                      FOLDER/a/b.json; nothing is ever fetched\n"
    "  --tokenizer NAME    bench: a checkpoint's folder, tokenizer.model or tokenizer.json\n"
    "  --rows FILE         bench: a line of JSON for each schema, with its name and what went "
    "wrong\n"
    "  --repeat N          bench: compiles and walks N times anew, and takes the least of each\n"
    "                      time (default: 3), since in half a million some meet an interrupt\n"
    "  --json              bench: one JSON object instead of a table\n"
    "\nExit code: 0 if all is well, 1 if a schema is not or a document does not fulfil it, 2 for\n"
    "wrong usage.\n";

enum { MAX_FILE_BYTES = 64 << 20 };

struct request {
    bool lenient;
    const char *schemas;
    struct nb_schema_bench bench;
};

/* A document that a reference names, from the folder of --schemas. */
static enum nb_status load(void *context, const char *uri, struct nb_buf *out, bool *found,
                           struct nb_error *err) {
    const struct request *r = context;
    char path[4096];
    const char *name = strstr(uri, "://");
    name = name ? strchr(name + 3, '/') : uri;
    *found = false;
    if (!name || !*name || strstr(name, ".."))
        return NB_OK;
    int n = snprintf(path, sizeof path, "%s/%s", r->schemas, name + (*name == '/'));
    if (n >= (int)sizeof path || !nb_is_file(path))
        return NB_OK;
    *found = true;
    return nb_read_file(path, MAX_FILE_BYTES, out, err);
}

static enum nb_status compile(const struct request *r, const char *path, struct nb_grammar **out,
                              struct nb_error *err) {
    struct nb_buf text = {0};
    struct nb_grammar_options options = {.lenient = r->lenient,
                                         .name = path,
                                         .doubt = true,
                                         .load = r->schemas ? load : NULL,
                                         .load_context = (void *)(uintptr_t)r};
    enum nb_status s = nb_read_file(path, MAX_FILE_BYTES, &text, err);
    if (s == NB_OK)
        s = nb_grammar_schema(text.data ? text.data : "", text.len, &options, NULL, out, err);
    nb_buf_free(&text);
    return s;
}

static int check(const struct request *r, int n, char **paths) {
    int code = NB_EXIT_OK;
    for (int i = 0; i < n; i++) {
        struct nb_grammar *g;
        struct nb_error err;
        if (compile(r, paths[i], &g, &err) != NB_OK) {
            code = nb_cli_error(&err);
            continue;
        }
        const char *notes = nb_grammar_notes(g);
        if (*nb_grammar_doubts(g))
            fprintf(stderr, "%s: perhaps a slip:\n%s", paths[i], nb_grammar_doubts(g));
        if (nb_grammar_check(g, paths[i], &err) != NB_OK)
            code = nb_cli_error(&err);
        else if (*notes)
            printf("%s: not enforced:\n%s", paths[i], notes);
        else
            printf("%s: ok\n", paths[i]);
        nb_grammar_release(g);
    }
    return code;
}

/* Byte `where` of the text, as editors count, too: lines and characters from 1 on. */
static void print_where(const char *path, const char *text, size_t where) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < where; i++) {
        if (text[i] == '\n')
            line++, column = 1;
        else
            column += (text[i] & 0xC0) != 0x80;
    }
    printf("%s: not valid at byte %zu: line %zu, column %zu\n", path, where, line, column);
}

static int validate_one(struct nb_grammar *g, const char *path) {
    struct nb_buf text = {0};
    struct nb_error err;
    bool valid = false;
    size_t where = 0;
    enum nb_status s = nb_read_file(path, MAX_FILE_BYTES, &text, &err);
    if (s == NB_OK)
        s = nb_grammar_validate(g, text.data ? text.data : "", text.len, &valid, &where, &err);
    if (s != NB_OK)
        nb_cli_error(&err);
    else if (valid)
        printf("%s: valid\n", path);
    else if (where == text.len)
        printf("%s: not valid: something is missing at the end\n", path);
    else
        print_where(path, text.data, where);
    nb_buf_free(&text);
    return s == NB_OK && valid ? NB_EXIT_OK : NB_EXIT_FAILURE;
}

static int validate(const struct request *r, int n, char **paths) {
    struct nb_grammar *g;
    struct nb_error err;
    int code = NB_EXIT_OK;
    if (n < 2)
        return nb_cli_usage("schema", "validate: expected a schema and documents");
    if (compile(r, paths[0], &g, &err) != NB_OK)
        return nb_cli_error(&err);
    if (*nb_grammar_notes(g))
        fprintf(stderr, "%s: not enforced:\n%s", paths[0], nb_grammar_notes(g));
    for (int i = 1; i < n; i++)
        code = validate_one(g, paths[i]) == NB_EXIT_OK ? code : NB_EXIT_FAILURE;
    nb_grammar_release(g);
    return code;
}

static int bench(const struct request *r, int n, char **paths) {
    struct nb_error err;
    if (n != 1 || !r->bench.tokenizer)
        return nb_cli_usage("schema", "bench: expected a file and --tokenizer");
    /* Whether rows can be written is known before minutes are spent on them. */
    FILE *rows = r->bench.rows ? fopen(r->bench.rows, "w") : NULL;
    if (r->bench.rows && !rows) {
        nb_fail(&err, NB_ERR_IO, "--rows %s: cannot be written: %s", r->bench.rows,
                strerror(errno));
        return nb_cli_error(&err);
    }
    if (rows)
        fclose(rows);
    return nb_schema_bench(&r->bench, paths[0], &err) == NB_OK ? NB_EXIT_OK : nb_cli_error(&err);
}

static int run(int argc, char **argv) {
    static const struct option options[] = {{"lenient", no_argument, NULL, 'l'},
                                            {"schemas", required_argument, NULL, 's'},
                                            {"tokenizer", required_argument, NULL, 't'},
                                            {"rows", required_argument, NULL, 'r'},
                                            {"repeat", required_argument, NULL, 'n'},
                                            {"json", no_argument, NULL, 'j'},
                                            {0}};
    struct request r = {.bench.rounds = 3};
    int64_t value;
    for (int code; (code = getopt_long(argc, argv, ":", options, NULL)) != -1;) {
        switch (code) {
        case 'l':
            r.lenient = true;
            break;
        case 's':
            r.schemas = optarg;
            break;
        case 't':
            r.bench.tokenizer = optarg;
            break;
        case 'r':
            r.bench.rows = optarg;
            break;
        case 'n':
            if (!nb_cli_int("schema", "--repeat", optarg, 1, 100, &value))
                return NB_EXIT_USAGE;
            r.bench.rounds = (int)value;
            break;
        case 'j':
            r.bench.json = true;
            break;
        default:
            return nb_cli_usage("schema", "%s: unknown, or without its value", argv[optind - 1]);
        }
    }
    const char *what = optind < argc ? argv[optind++] : "";
    int n = argc - optind;
    char **paths = argv + optind;
    if (strcmp(what, "check") == 0 && n > 0)
        return check(&r, n, paths);
    if (strcmp(what, "validate") == 0)
        return validate(&r, n, paths);
    if (strcmp(what, "bench") == 0)
        return bench(&r, n, paths);
    return nb_cli_usage("schema", "expected check, validate or bench, and files");
}

const struct nb_command nb_command_schema = {"schema", "checks JSON Schemas and what fulfils them",
                                             help, run};
