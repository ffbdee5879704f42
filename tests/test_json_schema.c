/* The official tests of JSON Schema (NB_SHARED_DATA/json-schema-test-suite), as `nibble schema
 * validate` answers them. What is refused or answered wrongly must be named in docs/json-schema.md,
 * and nothing else. 2020-12's formats are annotations but in its tests of formats.
 * `test_json_schema --write` writes that page's lists anew. TAP. */
#include "base/file.h"
#include "grammar/grammar.h"
#include "validator.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const drafts[] = {"draft7", "draft2020-12"};
static const char *const formats[] = {"date-time", "date", "duration", "email", "hostname",
                                      "ipv4",      "ipv6", "time",     "uri",   "uuid"};

struct tally {
    size_t tests, right, refused, wrong;
};

static char suite[1024]; /* folder */
static struct nb_buf page;

static const char *root_path(const char *name) {
    static char path[1200];
    const char *root = getenv("NB_TEST_ROOT");
    snprintf(path, sizeof path, "%s/%s", root ? root : ".", name);
    return path;
}

static bool exists(const char *path) {
    FILE *f = fopen(path, "r");
    if (f)
        fclose(f);
    return f != NULL;
}

/* http://localhost:1234/NAME is the file NAME of the suite's remotes. */
static enum nb_status load_remote(void *context, const char *uri, struct nb_buf *out, bool *found,
                                  struct nb_error *err) {
    static const char base[] = "http://localhost:1234/";
    char path[2048];
    (void)context;
    *found = false;
    if (strncmp(uri, base, strlen(base)) != 0)
        return NB_OK;
    snprintf(path, sizeof path, "%s/remotes/%s", suite, uri + strlen(base));
    *found = exists(path);
    return *found ? nb_read_file(path, 1 << 20, out, err) : NB_OK;
}

/* The schema's text, with "$schema" added where it has none, so that it is read as its draft. */
static char *schema_text(const struct doc *schema, const char *draft) {
    char *text = doc_write(schema), *with;
    if (schema->kind != DOC_OBJECT || doc_get(schema, "$schema"))
        return text;
    const char *uri = !strcmp(draft, "draft7") ? "http://json-schema.org/draft-07/schema#"
                                               : "https://json-schema.org/draft/2020-12/schema";
    size_t size = strlen(text) + strlen(uri) + 32;
    with = malloc(size);
    if (with)
        snprintf(with, size, "{\"$schema\":\"%s\"%s%s", uri, schema->n ? "," : "", text + 1);
    free(text);
    return with;
}

/* A line of the page's lists: within | cells no bar and no line break. */
static void add_cell(struct nb_buf *out, const char *text) {
    for (; *text; text++)
        if (*text == '|')
            nb_buf_add_string(out, "\\|");
        else
            nb_buf_add(out, *text == '\n' ? " " : text, 1);
}

static void add_line(const char *file, const char *group, const char *test, const char *reason) {
    nb_buf_add_string(&page, "| `");
    nb_buf_add_string(&page, file);
    nb_buf_add_string(&page, "` | ");
    add_cell(&page, group);
    if (test) {
        nb_buf_add_string(&page, ": ");
        add_cell(&page, test);
    }
    nb_buf_add_string(&page, " | ");
    add_cell(&page, reason);
    nb_buf_add_string(&page, " |\n");
}

static void run_tests(const char *file, const char *name, struct nb_grammar *grammar,
                      const struct doc *tests, struct tally *tally) {
    for (size_t i = 0; i < tests->n; i++) {
        const struct doc *test = tests->items[i];
        char *data = doc_write(doc_get(test, "data"));
        bool valid = false, expected = doc_get(test, "valid")->kind == DOC_TRUE;
        size_t where;
        struct nb_error err;
        enum nb_status s = nb_grammar_validate(grammar, data, strlen(data), &valid, &where, &err);
        const char *what = doc_get(test, "description")->text;
        if (s != NB_OK) {
            tally->refused++;
            add_line(file, name, what, err.message);
        } else if (valid != expected) {
            tally->wrong++;
            add_line(file, name, what, valid ? "WRONG: accepted" : "WRONG: refused");
        } else {
            tally->right++;
        }
        free(data);
    }
}

static void run_group(const char *file, const char *draft, const struct doc *group,
                      struct tally *tally) {
    const struct doc *tests = doc_get(group, "tests");
    const char *name = doc_get(group, "description")->text;
    char *text = schema_text(doc_get(group, "schema"), draft);
    const struct nb_grammar_options options = {
        .any_order = true,
        .flexible = true,
        .formats_annotate = !strncmp(draft, "draft20", 7) && strncmp(file, "optional/", 9) != 0,
        .load = load_remote};
    struct nb_grammar *grammar;
    struct nb_error err;
    tally->tests += tests->n;
    if (nb_grammar_schema(text, strlen(text), &options, NULL, &grammar, &err) == NB_OK) {
        run_tests(file, name, grammar, tests, tally);
        nb_grammar_release(grammar);
    } else {
        char reason[1200];
        snprintf(reason, sizeof reason, "refused (%zu tests): %.900s", tests->n, err.message);
        add_line(file, name, NULL, reason);
        tally->refused += tests->n;
    }
    free(text);
}

static void run_file(const char *draft, const char *name, struct tally *tally) {
    char path[1400];
    struct nb_buf text = {0};
    struct nb_error err;
    snprintf(path, sizeof path, "%s/tests/%s/%s.json", suite, draft, name);
    if (exists(path) && nb_read_file(path, 1 << 24, &text, &err) == NB_OK) {
        struct doc *groups = doc_read(text.data, text.len);
        for (size_t i = 0; groups && i < groups->n; i++)
            run_group(name, draft, groups->items[i], tally);
        doc_free(groups);
    }
    nb_buf_free(&text);
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Every file of a draft outside of optional/. */
static void run_draft(const char *draft, struct tally *tally) {
    char pattern[1400];
    char *names[128];
    size_t n = 0;
    snprintf(pattern, sizeof pattern, "ls '%s/tests/%s'", suite, draft);
    FILE *list = popen(pattern, "r");
    char line[256];
    while (list && n < 128 && fgets(line, sizeof line, list)) {
        char *dot = strstr(line, ".json");
        if (dot) {
            *dot = 0;
            names[n++] = strdup(line);
        }
    }
    if (list)
        pclose(list);
    qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; i < n; i++) {
        run_file(draft, names[i], tally);
        free(names[i]);
    }
}

static const char begin_mark[] = "<!-- written by test_json_schema --write: begin -->\n";
static const char end_mark[] = "<!-- end -->";

/* The part of the page between the marks; NULL if it has none. */
static char *page_part(struct nb_buf *file, size_t *n) {
    char *begin = file->data ? strstr(file->data, begin_mark) : NULL;
    char *end = begin ? strstr(begin, end_mark) : NULL;
    if (!end)
        return NULL;
    begin += strlen(begin_mark);
    *n = (size_t)(end - begin);
    return begin;
}

static void title(const char *draft, const char *what, size_t at, const struct tally *t) {
    struct nb_buf head = {0};
    nb_buf_printf(&head,
                  "### %s%s\n\n%zu of %zu tests right (%.1f %%), %zu refused, %zu wrong.\n\n",
                  draft, what, t->right, t->tests, 100.0 * (double)t->right / (double)t->tests,
                  t->refused, t->wrong);
    if (page.len > at)
        nb_buf_add_string(&head, "| file | test | |\n|---|---|---|\n");
    struct nb_buf rest = {0};
    nb_buf_add(&rest, page.data + at, page.len - at);
    page.len = at;
    nb_buf_add(&page, head.data, head.len);
    if (rest.len)
        nb_buf_add(&page, rest.data, rest.len);
    nb_buf_add_string(&page, rest.len ? "\n" : "");
    nb_buf_free(&head);
    nb_buf_free(&rest);
}

static int test_number, failures;

static void result(bool ok, const char *what) {
    printf("%s %d - %s\n", ok ? "ok" : "not ok", ++test_number, what);
    failures += !ok;
}

static int write_page(struct nb_buf *file) {
    size_t n;
    char *part = page_part(file, &n);
    FILE *out = part ? fopen(root_path("docs/json-schema.md"), "w") : NULL;
    if (!out)
        return 1;
    fwrite(file->data, 1, (size_t)(part - file->data), out);
    fwrite(page.data, 1, page.len, out);
    fputs(part + n, out);
    return fclose(out) != 0;
}

int main(int argc, char **argv) {
    const char *shared = getenv("NB_SHARED_DATA");
    struct nb_buf file = {0};
    struct nb_error err;
    snprintf(suite, sizeof suite, "%s/json-schema-test-suite",
             shared ? shared : root_path("../shared/data"));
    char probe[1100];
    snprintf(probe, sizeof probe, "%s/LICENSE", suite);
    if (!exists(probe)) {
        printf("1..0 # SKIP %s is not there\n", suite);
        return 0;
    }
    static const double least[] = {98, 90}; /* percent that must be right */
    for (int d = 0; d < 2; d++) {
        struct tally tally = {0}, format = {0};
        char what[100];
        size_t at = page.len;
        run_draft(drafts[d], &tally);
        title(drafts[d], "", at, &tally);
        snprintf(what, sizeof what, "%s: %zu of %zu right", drafts[d], tally.right, tally.tests);
        result(tally.tests > 500 && (double)tally.right >= least[d] / 100 * (double)tally.tests,
               what);
        result(tally.wrong == 0, "no wrong verdict");
        at = page.len;
        for (size_t f = 0; f < sizeof formats / sizeof *formats; f++) {
            char name[64];
            snprintf(name, sizeof name, "optional/format/%s", formats[f]);
            run_file(drafts[d], name, &format);
        }
        title(drafts[d], ", formats", at, &format);
    }
    enum nb_status s = nb_read_file(root_path("docs/json-schema.md"), 1 << 20, &file, &err);
    if (argc > 1 && !strcmp(argv[1], "--write"))
        return s != NB_OK || write_page(&file);
    size_t n = 0;
    char *part = s == NB_OK ? page_part(&file, &n) : NULL;
    bool same = part && n == page.len && !memcmp(part, page.data, n);
    result(same, "docs/json-schema.md names what fails, as it is");
    if (!same)
        printf("# run test_json_schema --write, and look at what changes\n");
    printf("1..%d\n", test_number);
    nb_buf_free(&file);
    nb_buf_free(&page);
    return failures != 0;
}
