/* nibble classify: documents to what they are and say. */
#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "cli/cli.h"
#include "cli/table.h"
#include "nibble/nibble.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: nibble classify FILE... [OPTIONS]\n\n"
    "Reads documents (text in UTF-8; \"-\" is standard input) and says of each what it is: its "
    "type,\n"
    "the direction of the money, the other party and its role, date, number, total, and which of "
    "a\n"
    "list of bookkeeping actions fits; and how sure the model is of everything that it chose from\n"
    "a list. A table, or JSON with --json: one object a line, as schemas/classification.json has\n"
    "it; what is not there is null.\n\n" NB_CLI_MODEL_HELP
    "  --labels FILE       document types: a line each, NAME or NAME: DESCRIPTION (default: the\n"
    "                      model's labels.txt, or prompts/document_types.txt)\n"
    "  --context FILE      JSON: {\"company\": our name, \"actions\": [{\"name\", "
    "\"description\"}…],\n"
    "                      \"instructions\": text}, each optional (default: the actions of\n"
    "                      prompts/classify-context.json); a number is the other --context, below\n"
    "  --schema FILE       a JSON Schema of the caller's: answers fulfil it, under \"answer\"\n"
    "  --prompt FILE       instructions with {{document}} and other places in them, for models\n"
    "                      that were not trained on a form of their own (default:\n"
    "                      prompts/classify.txt, with --schema prompts/classify-schema.txt)\n"
    "  --json              one JSON object a line\n"
    "  --reasons           the table has each document's reason under it\n" NB_CLI_ENGINE_HELP
    "\nExit code: 0 if every file was answered, 1 if any was not, 2 for wrong usage.\n"
    "A file that cannot be read or answered is named on standard error; the others go on.\n";

enum { MAX_OPTION_FILE = 1 << 20 };

/* What is asked for, and where the documents go. */
struct request {
    struct nb_cli_engine how;
    const char *labels, *context, *schema, *prompt; /* files, or NULL */
    bool json, reasons;
    const char *model; /* its name */
    struct nb_table table;
    size_t answered;
    bool failed; /* a file got no answer */
};

/* ---- the table ---- */

enum { FILE_, TYPE, DIRECTION, PARTY, ROLE, DATE, NUMBER, TOTAL, ACTION, CONFIDENCE, N_COLUMNS };
static const struct nb_column columns[N_COLUMNS] = {
    [FILE_] = {"FILE", .cut_left = true, .shrinks = 16},
    [TYPE] = {"TYPE", .shrinks = 9},
    [DIRECTION] = {"DIRECTION", .leaves = 4},
    [PARTY] = {"PARTY", .shrinks = 14},
    [ROLE] = {"ROLE", .leaves = 1},
    [DATE] = {"DATE", .leaves = 5},
    [NUMBER] = {"NUMBER", .shrinks = 8, .leaves = 2},
    [TOTAL] = {"TOTAL", .right = true},
    [ACTION] = {"ACTION", .shrinks = 12, .leaves = 6},
    [CONFIDENCE] = {"CONFIDENCE", .right = true, .leaves = 3},
};

/* With a schema of the caller's. */
enum { ANSWER = 1, LEAST, N_ANSWER_COLUMNS };
static const struct nb_column answer_columns[N_ANSWER_COLUMNS] = {
    [FILE_] = {"FILE", .cut_left = true, .shrinks = 16},
    [ANSWER] = {"ANSWER", .shrinks = 20},
    [LEAST] = {"CONFIDENCE", .right = true},
};

static enum nb_style style_of(double confidence) {
    return confidence < 0.6 ? NB_RED : confidence < 0.9 ? NB_YELLOW : NB_PLAIN;
}

/* How sure the model is of a field; 1 of what it did not choose. */
static double confidence_of(const struct nb_classification *c, const char *field) {
    for (size_t i = 0; i < c->n_confidences; i++) {
        if (strcmp(c->confidences[i].field, field) == 0)
            return c->confidences[i].p;
    }
    return 1;
}

static char *copy(const char *text) {
    return text ? strdup(text) : NULL;
}

static char *print_confidence(double p) {
    char text[32];
    snprintf(text, sizeof text, "%.3f", p);
    return strdup(text);
}

static char *print_total(const struct nb_classification *c) {
    struct nb_buf b = {0};
    if (!c->total)
        return NULL;
    nb_buf_printf(&b, "%s%s%s", c->total, c->currency ? " " : "", c->currency ? c->currency : "");
    return b.data;
}

static void set_choice(struct nb_cell *cell, const char *text, const struct nb_classification *c,
                       const char *field) {
    cell->text = copy(text);
    cell->style = style_of(confidence_of(c, field));
}

static void fill_row(struct nb_cell *row, const char *file, const struct nb_classification *c,
                     bool reasons) {
    row[FILE_].text = strdup(file);
    if (!c->document_type) {
        double least = 1;
        for (size_t i = 0; i < c->n_confidences; i++)
            least = c->confidences[i].p < least ? c->confidences[i].p : least;
        row[ANSWER].text = copy(c->answer);
        row[LEAST].text = c->n_confidences ? print_confidence(least) : NULL;
        row[LEAST].style = style_of(least);
        return;
    }
    const char *direction = c->transaction_direction;
    set_choice(&row[TYPE], c->document_type, c, "document_type");
    set_choice(&row[DIRECTION], direction, c, "transaction_direction");
    if (row[DIRECTION].style == NB_PLAIN && direction && strcmp(direction, "incoming") == 0)
        row[DIRECTION].style = NB_GREEN;
    row[PARTY].text = copy(c->party);
    set_choice(&row[ROLE], c->role, c, "primary_party.role");
    row[DATE].text = copy(c->date);
    row[NUMBER].text = copy(c->number);
    row[TOTAL].text = print_total(c);
    set_choice(&row[ACTION], c->selected_action, c, "selected_action");
    row[CONFIDENCE].text = print_confidence(c->confidence);
    row[CONFIDENCE].style = style_of(c->confidence);
    row->below = reasons ? copy(c->reasoning) : NULL;
}

/* ---- answers ---- */

static bool print_json(const struct request *r, const char *file,
                       const struct nb_classification *c) {
    char *line = nb_classification_json(c, file, r->model);
    bool ok = line && puts(line) >= 0;
    free(line);
    fflush(stdout); /* a reader of a pipe gets each answer as it is made */
    return ok;
}

static void answer_file(struct nb_classifier *classifier, const char *file, struct request *r,
                        struct nb_progress *progress) {
    struct nb_classification c;
    struct nb_error err;
    enum nb_status s = nb_classifier_file(classifier, file, &c, &err);
    nb_progress_clear(progress);
    if (s != NB_OK) {
        nb_cli_error(&err);
        r->failed = true;
        return;
    }
    r->answered++;
    if (r->json && !print_json(r, file, &c)) {
        fprintf(stderr, "nibble: %s: the answer could not be written\n", file);
        r->failed = true;
    } else if (!r->json) {
        struct nb_cell *row = nb_table_row(&r->table);
        if (row)
            fill_row(row, file, &c, r->reasons);
        if (c.truncated)
            fprintf(stderr,
                    "nibble: %s: longer than the model's context: its middle was left out\n", file);
    }
    nb_classification_free(&c);
}

static int classify(struct nb_classifier *classifier, char **files, size_t n, struct request *r) {
    struct nb_progress progress;
    nb_progress_start(&progress);
    int64_t start = nb_now_us();
    r->table = (struct nb_table){.columns = r->schema ? answer_columns : columns,
                                 .n_columns = r->schema ? (size_t)N_ANSWER_COLUMNS : N_COLUMNS};
    for (size_t i = 0; i < n; i++) {
        nb_progress_show(&progress, "%zu of %zu: %s", i + 1, n, files[i]);
        answer_file(classifier, files[i], r, &progress);
    }
    nb_progress_clear(&progress);
    if (!r->json && r->answered) {
        nb_table_print(&r->table, nb_cli_width(), nb_cli_color());
        printf("\n%zu document%s in %.1f s, model %s\n", r->answered, r->answered == 1 ? "" : "s",
               (double)(nb_now_us() - start) / 1e6, r->model);
    }
    nb_table_free(&r->table);
    return r->failed ? NB_EXIT_FAILURE : NB_EXIT_OK;
}

/* ---- options ---- */

/* The texts of the files that options name. */
struct texts {
    struct nb_buf labels, context, schema, prompt;
};

static enum nb_status read_option(const char *path, struct nb_buf *bytes, struct nb_named_text *out,
                                  struct nb_error *err) {
    if (!path)
        return NB_OK;
    enum nb_status s = nb_read_file(path, MAX_OPTION_FILE, bytes, err);
    *out = (struct nb_named_text){bytes->data ? bytes->data : "", bytes->len, path};
    return s;
}

static enum nb_status read_options(const struct request *r, struct texts *t,
                                   struct nb_classify_options *out, struct nb_error *err) {
    enum nb_status s = read_option(r->labels, &t->labels, &out->labels, err);
    if (s == NB_OK)
        s = read_option(r->context, &t->context, &out->context, err);
    if (s == NB_OK)
        s = read_option(r->schema, &t->schema, &out->schema, err);
    return s == NB_OK ? read_option(r->prompt, &t->prompt, &out->prompt, err) : s;
}

static bool is_number(const char *text) {
    return *text && text[strspn(text, "0123456789")] == 0;
}

static bool parse(int argc, char **argv, struct request *r) {
    enum { LABELS = NB_OPT_COMMAND, SCHEMA, PROMPT, JSON, REASONS };
    static const struct option options[] = {
        NB_CLI_ENGINE_OPTIONS,
        {"labels", required_argument, NULL, LABELS},
        {"schema", required_argument, NULL, SCHEMA},
        {"prompt", required_argument, NULL, PROMPT},
        {"json", no_argument, NULL, JSON},
        {"reasons", no_argument, NULL, REASONS},
        {0},
    };
    for (int code; (code = getopt_long(argc, argv, ":", options, NULL)) != -1;) {
        bool known = true;
        if (code == NB_OPT_CONTEXT && !is_number(optarg)) /* of all commands' --context N */
            r->context = optarg;
        else if (!nb_cli_engine_option("classify", code, optarg, &r->how, &known))
            return false;
        if (known)
            continue;
        if (code == LABELS) {
            r->labels = optarg;
        } else if (code == SCHEMA) {
            r->schema = optarg;
        } else if (code == PROMPT) {
            r->prompt = optarg;
        } else if (code == JSON) {
            r->json = true;
        } else if (code == REASONS) {
            r->reasons = true;
        } else {
            nb_cli_usage("classify", "%s: unknown, or without its value", argv[optind - 1]);
            return false;
        }
    }
    if (r->schema && r->labels)
        nb_cli_usage("classify", "--schema and --labels: a schema has its own labels; give one");
    else if (optind == argc)
        nb_cli_usage("classify", "no FILE is named");
    return optind < argc && !(r->schema && r->labels);
}

static int run(int argc, char **argv) {
    struct request r = {0};
    struct texts texts = {0};
    struct nb_classify_options options = {0};
    struct nb_engine *engine = NULL;
    struct nb_classifier *classifier = NULL;
    struct nb_error err;
    if (!parse(argc, argv, &r))
        return NB_EXIT_USAGE;
    int code;
    enum nb_status s = read_options(&r, &texts, &options, &err);
    if (s == NB_OK)
        s = nb_cli_engine_open(&r.how, &engine, &err);
    if (s == NB_OK)
        s = nb_classifier_open(engine, &options, &classifier, &err);
    if (s == NB_OK) {
        r.model = nb_engine_name(engine);
        code = classify(classifier, argv + optind, (size_t)(argc - optind), &r);
    } else {
        code = nb_cli_error(&err);
    }
    nb_classifier_close(classifier);
    nb_engine_close(engine);
    nb_buf_free(&texts.labels);
    nb_buf_free(&texts.context);
    nb_buf_free(&texts.schema);
    nb_buf_free(&texts.prompt);
    return code;
}

const struct nb_command nb_command_classify = {
    "classify", "documents to type, party, total, action and more", help, run};
