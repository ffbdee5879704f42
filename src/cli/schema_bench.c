#include "cli/schema_bench.h"

#include "base/arena.h"
#include "base/file.h"
#include "base/room.h"
#include "grammar/grammar.h"
#include "grammar/value.h"
#include "model/cache.h"
#include "model/config.h"
#include "model/tokenizer.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_FILE_BYTES = 1 << 30,
    MAX_TESTS = 4096,
    ROW_SECONDS = 60,
    WORKER_BYTES_LIMIT_MB = 8192,
};

/* What a worker finds out about a schema. */
struct row {
    uint32_t index;
    uint32_t compiled; /* 0 or 1 */
    uint32_t compile_ns;
    uint32_t n_masks, worst_mask_ns;
    uint32_t valid_refused, invalid_accepted, n_tests;
    char message[256]; /* why it does not compile, or the first verdict that is wrong */
};

struct bench {
    const struct nb_schema_bench *how;
    const char *path;
    struct nb_buf text;
    const char **lines; /* [n_lines], each ends in '\n' or at the end */
    size_t *line_bytes;
    size_t n_lines;
    struct nb_tokenizer *tokenizer;
    struct nb_vocabulary *vocabulary;

    struct row *rows;  /* [n_lines] */
    uint8_t *crashed;  /* [n_lines] */
    uint32_t *mask_ns; /* [n_masks], the first n_known from an earlier round */
    size_t n_masks, cap_masks, n_known;
};

/* ---- Python's json.dumps ---- */

/* repr() of a float: the fewest digits that read back as the same. */
static void write_float(double x, struct nb_buf *out) {
    char text[40], digits[24];
    int precision = 0, n = 0;
    do
        snprintf(text, sizeof text, "%.*e", precision, x);
    while (strtod(text, NULL) != x && ++precision < 17);
    const char *c = text + (*text == '-');
    for (; *c != 'e'; c++) {
        if (*c != '.')
            digits[n++] = *c;
    }
    int e = atoi(c + 1);
    if (*text == '-')
        nb_buf_add(out, "-", 1);
    if (e < -4 || e >= 16) {
        nb_buf_printf(out, "%c%s%.*s", digits[0], n > 1 ? "." : "", n - 1, digits + 1);
        nb_buf_printf(out, "e%c%02d", e < 0 ? '-' : '+', abs(e));
    } else if (e < 0) {
        nb_buf_printf(out, "0.%.*s%.*s", -e - 1, "000000", n, digits);
    } else if (n > e + 1) {
        nb_buf_printf(out, "%.*s.%.*s", e + 1, digits, n - e - 1, digits + e + 1);
    } else {
        nb_buf_printf(out, "%.*s%.*s.0", n, digits, e + 1 - n, "0000000000000000");
    }
}

static void write_number(const struct nb_value *v, struct nb_buf *out) {
    if (strpbrk(v->text, ".eE"))
        write_float(strtod(v->text, NULL), out);
    else if (strcmp(v->text, "-0") == 0)
        nb_buf_add(out, "0", 1);
    else
        nb_buf_add(out, v->text, v->n);
}

/* exact: numbers as they were written. */
static void write_value(const struct nb_value *v, bool exact, struct nb_buf *out) {
    static const char *const words[] = {"null", "false", "true"};
    switch (v->kind) {
    case NB_VALUE_NUMBER:
        if (exact)
            nb_buf_add(out, v->text, v->n);
        else
            write_number(v, out);
        break;
    case NB_VALUE_STRING:
        nb_buf_add_json_string(out, v->text, v->n);
        break;
    case NB_VALUE_ARRAY:
    case NB_VALUE_OBJECT:
        nb_buf_add(out, v->kind == NB_VALUE_ARRAY ? "[" : "{", 1);
        for (uint32_t i = 0; i < v->n; i++) {
            if (i)
                nb_buf_add(out, ", ", 2);
            if (v->kind == NB_VALUE_OBJECT) {
                nb_buf_add_json_string(out, v->keys[i].text, v->keys[i].n);
                nb_buf_add(out, ": ", 2);
            }
            write_value(&v->items[i], exact, out);
        }
        nb_buf_add(out, v->kind == NB_VALUE_ARRAY ? "]" : "}", 1);
        break;
    default:
        nb_buf_add_string(out, words[v->kind]);
        break;
    }
}

/* ---- one schema ---- */

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint32_t clip(uint64_t ns) {
    return ns < UINT32_MAX ? (uint32_t)ns : UINT32_MAX;
}

/* Of what one mask took in several rounds, the least counts. */
static bool note_mask(struct bench *b, uint64_t ns) {
    if (b->n_masks < b->n_known) {
        uint32_t *known = &b->mask_ns[b->n_masks++];
        *known = clip(ns) < *known ? clip(ns) : *known;
        return true;
    }
    if (!nb_room(&b->mask_ns, b->n_masks, &b->cap_masks, sizeof *b->mask_ns))
        return false;
    b->mask_ns[b->n_masks++] = clip(ns);
    return true;
}

/* Walks an instance; *accepted is whether it came through to its end, *at the token where not. */
static enum nb_status walk(struct bench *b, struct nb_grammar *g, const struct nb_tokens *tokens,
                           bool *accepted, size_t *at, struct nb_error *err) {
    struct nb_matcher *m;
    enum nb_status s = nb_matcher_open(g, &m, err);
    *accepted = false;
    for (size_t i = 0; s == NB_OK && i <= tokens->n; i++) {
        const uint64_t *bits;
        int32_t id = i < tokens->n ? tokens->ids[i] : b->vocabulary->ends[0];
        uint64_t start = now_ns();
        s = nb_matcher_mask(m, &bits, err);
        *at = i;
        bool allowed = s == NB_OK && (bits[id / 64] >> id % 64 & 1);
        /* Going on is part of the time: what is found out then need not be before the next. */
        bool took = allowed && nb_matcher_accept(m, id);
        if (s == NB_OK && !note_mask(b, now_ns() - start))
            s = nb_fail_memory(err, b->cap_masks, "times");
        if (allowed && !took)
            s = nb_fail(err, NB_ERR_INTERNAL, "token %d is in the mask and was not taken", id);
        if (!allowed)
            break;
        *accepted = i == tokens->n;
    }
    nb_matcher_close(m);
    return s;
}

static enum nb_status run_tests(struct bench *b, struct nb_grammar *g, const struct nb_value *tests,
                                struct row *row, struct nb_error *err) {
    enum nb_status s = NB_OK;
    for (uint32_t i = 0; i < tests->n && s == NB_OK; i++) {
        const struct nb_value *data = nb_value_get(&tests->items[i], "data");
        bool valid = nb_value_is(nb_value_get(&tests->items[i], "valid"), NB_VALUE_TRUE), accepted;
        struct nb_buf text = {0};
        struct nb_tokens tokens = {0};
        size_t at = 0;
        if (!data)
            continue;
        write_value(data, false, &text);
        s = nb_tokenizer_encode(b->tokenizer, text.data, text.len, NB_ENCODE_CONTINUE, &tokens,
                                err);
        if (s == NB_OK)
            s = walk(b, g, &tokens, &accepted, &at, err);
        if (s == NB_OK && accepted != valid) {
            if (!row->message[0])
                snprintf(row->message, sizeof row->message, "test %u: %s, token %zu of %zu", i,
                         valid ? "valid, refused" : "not valid, accepted", at, tokens.n);
            row->valid_refused += valid;
            row->invalid_accepted += !valid;
        }
        row->n_tests++;
        nb_buf_free(&text);
        nb_tokens_free(&tokens);
    }
    return s;
}

/* Compiles and walks once. Nothing is left of an earlier round: what is made when it is first
 * needed is made anew. */
static enum nb_status run_once(struct bench *b, size_t index, struct row *row) {
    struct nb_arena arena = {0};
    struct nb_value line;
    struct nb_error err;
    struct nb_buf schema = {0};
    struct nb_grammar *g = NULL;
    *row = (struct row){.index = (uint32_t)index};
    enum nb_status s =
        nb_value_parse(b->lines[index], b->line_bytes[index], b->path, &arena, &line, &err);
    const struct nb_value *of = s == NB_OK ? nb_value_get(&line, "schema") : NULL;
    const struct nb_value *tests = s == NB_OK ? nb_value_get(&line, "tests") : NULL;
    if (s == NB_OK && (!of || !nb_value_is(tests, NB_VALUE_ARRAY)))
        s = nb_fail(&err, NB_ERR_FORMAT, "%s: line %zu: expected \"schema\" and \"tests\"", b->path,
                    index + 1);
    if (s == NB_OK) {
        struct nb_grammar_options options = {.any_order = true, .flexible = true};
        write_value(of, true, &schema);
        uint64_t start = now_ns();
        s = nb_grammar_schema(schema.data, schema.len, &options, b->vocabulary, &g, &err);
        row->compile_ns = clip(now_ns() - start);
        row->compiled = s == NB_OK;
    }
    if (s == NB_OK)
        s = run_tests(b, g, tests, row, &err);
    if (s != NB_OK) {
        snprintf(row->message, sizeof row->message, "%.250s", err.message);
        if (row->compiled)
            row->valid_refused++; /* it gave up on the way */
    }
    nb_grammar_release(g);
    nb_buf_free(&schema);
    nb_arena_free(&arena);
    return s;
}

static void run_row(struct bench *b, size_t index, struct row *row) {
    uint32_t compile_ns = UINT32_MAX;
    b->n_known = 0;
    for (int round = 0; round < b->how->rounds; round++) {
        b->n_masks = 0;
        run_once(b, index, row);
        compile_ns = row->compile_ns < compile_ns ? row->compile_ns : compile_ns;
        b->n_known = b->n_masks;
    }
    row->compile_ns = compile_ns;
    row->n_masks = (uint32_t)b->n_masks;
    for (size_t i = 0; i < b->n_masks; i++)
        row->worst_mask_ns =
            b->mask_ns[i] > row->worst_mask_ns ? b->mask_ns[i] : row->worst_mask_ns;
}

/* ---- workers ---- */

/* Reads n bytes, waiting at most until `deadline`. 1, 0 at the end, or -1 when time is up. */
static int read_all(int fd, void *p, size_t n, uint64_t deadline) {
    char *at = p;
    while (n) {
        uint64_t now = now_ns();
        if (now >= deadline)
            return -1;
        struct pollfd poller = {fd, POLLIN, 0};
        int ready = poll(&poller, 1, (int)((deadline - now) / 1000000) + 1);
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready == 0)
            return -1;
        ssize_t k = read(fd, at, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return 0;
        at += k;
        n -= (size_t)k;
    }
    return 1;
}

/* Does the schemas from `from` on and writes what it finds to fd. */
static void work(struct bench *b, size_t from, int fd) {
    struct rlimit limit = {(rlim_t)WORKER_BYTES_LIMIT_MB << 20,
                           (rlim_t)WORKER_BYTES_LIMIT_MB << 20};
    setrlimit(RLIMIT_AS, &limit);
    for (size_t i = from; i < b->n_lines; i++) {
        struct row row;
        run_row(b, i, &row);
        if (!nb_write_all(fd, &row, sizeof row) ||
            !nb_write_all(fd, b->mask_ns, b->n_masks * sizeof *b->mask_ns))
            _exit(1);
    }
    _exit(0);
}

/* Reads rows of a worker that began at *next; *next is then the row that it did not finish. */
static enum nb_status listen_to(struct bench *b, int fd, size_t *next, struct nb_error *err) {
    while (*next < b->n_lines) {
        uint64_t deadline = now_ns() + (uint64_t)ROW_SECONDS * 1000000000u;
        struct row row;
        if (read_all(fd, &row, sizeof row, deadline) != 1)
            return NB_OK;
        while (b->cap_masks < b->n_masks + row.n_masks) {
            size_t cap = b->cap_masks ? b->cap_masks * 2 : 65536;
            uint32_t *more = realloc(b->mask_ns, cap * sizeof *more);
            if (!more)
                return nb_fail_memory(err, cap * sizeof *more, "times");
            b->mask_ns = more;
            b->cap_masks = cap;
        }
        if (read_all(fd, b->mask_ns + b->n_masks, row.n_masks * sizeof *b->mask_ns, deadline) != 1)
            return NB_OK;
        b->n_masks += row.n_masks;
        b->rows[*next] = row;
        ++*next;
    }
    return NB_OK;
}

/* One worker does all; where it dies or takes too long, another goes on behind that schema. */
static enum nb_status run_all(struct bench *b, struct nb_error *err) {
    for (size_t next = 0; next < b->n_lines;) {
        int fds[2];
        if (pipe(fds) != 0)
            return nb_fail(err, NB_ERR_IO, "pipe: %s", strerror(errno));
        fflush(NULL);
        pid_t child = fork();
        if (child < 0) {
            close(fds[0]);
            close(fds[1]);
            return nb_fail(err, NB_ERR_IO, "fork: %s", strerror(errno));
        }
        if (child == 0) {
            close(fds[0]);
            b->mask_ns = NULL;
            b->cap_masks = 0;
            work(b, next, fds[1]);
        }
        close(fds[1]);
        enum nb_status s = listen_to(b, fds[0], &next, err);
        close(fds[0]);
        if (next < b->n_lines || s != NB_OK)
            kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        if (s != NB_OK)
            return s;
        if (next < b->n_lines)
            b->crashed[next++] = 1;
    }
    return NB_OK;
}

/* ---- the result ---- */

static int compare_times(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Of times in ns that are sorted, in us. */
static double percentile(const uint32_t *times, size_t n, double p) {
    if (!n)
        return 0;
    size_t i = (size_t)(p * (double)n);
    return times[i < n ? i : n - 1] / 1e3;
}

struct totals {
    size_t all_right, compile_errors, valid_refused, invalid_accepted, crashes, n_compiled;
    double mask_avg;
    uint32_t *compile_ns;
};

static bool row_is_right(const struct bench *b, size_t i) {
    const struct row *r = &b->rows[i];
    return !b->crashed[i] && r->compiled && !r->valid_refused && !r->invalid_accepted;
}

static void count(struct bench *b, struct totals *t) {
    double sum = 0;
    for (size_t i = 0; i < b->n_lines; i++) {
        t->crashes += b->crashed[i];
        if (b->crashed[i])
            continue;
        t->all_right += row_is_right(b, i);
        t->compile_errors += !b->rows[i].compiled;
        t->valid_refused += b->rows[i].valid_refused;
        t->invalid_accepted += b->rows[i].invalid_accepted;
        if (b->rows[i].compiled)
            t->compile_ns[t->n_compiled++] = b->rows[i].compile_ns;
    }
    for (size_t i = 0; i < b->n_masks; i++)
        sum += b->mask_ns[i];
    t->mask_avg = b->n_masks ? sum / (double)b->n_masks / 1e3 : 0;
    qsort(b->mask_ns, b->n_masks, sizeof *b->mask_ns, compare_times);
    qsort(t->compile_ns, t->n_compiled, sizeof *t->compile_ns, compare_times);
}

static void print_json(const struct bench *b, const struct totals *t) {
    json_t *o = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:{s:f, s:f, s:f, s:f}, s:{s:f, s:f, s:f}}",
        "schemas", (json_int_t)b->n_lines, "all_right", (json_int_t)t->all_right, "compile_errors",
        (json_int_t)t->compile_errors, "valid_refused", (json_int_t)t->valid_refused,
        "invalid_accepted", (json_int_t)t->invalid_accepted, "crashes", (json_int_t)t->crashes,
        "masks", (json_int_t)b->n_masks, "rounds", b->how->rounds, "mask_us", "avg", t->mask_avg,
        "p50", percentile(b->mask_ns, b->n_masks, 0.5), "p99",
        percentile(b->mask_ns, b->n_masks, 0.99), "max", percentile(b->mask_ns, b->n_masks, 1),
        "compile_us", "p50", percentile(t->compile_ns, t->n_compiled, 0.5), "p99",
        percentile(t->compile_ns, t->n_compiled, 0.99), "max",
        percentile(t->compile_ns, t->n_compiled, 1));
    json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    json_decref(o);
    putchar('\n');
}

static void print_table(const struct bench *b, const struct totals *t) {
    printf("schemas            %zu\n", b->n_lines);
    printf("all right          %zu (%.1f %%)\n", t->all_right,
           100.0 * (double)t->all_right / (double)b->n_lines);
    printf("do not compile     %zu\n", t->compile_errors);
    printf("valid refused      %zu\n", t->valid_refused);
    printf("invalid accepted   %zu\n", t->invalid_accepted);
    printf("crashes, time-outs %zu\n", t->crashes);
    printf("mask, us           average %.2f, p50 %.2f, p99 %.1f, worst %.0f (%zu masks)\n",
           t->mask_avg, percentile(b->mask_ns, b->n_masks, 0.5),
           percentile(b->mask_ns, b->n_masks, 0.99), percentile(b->mask_ns, b->n_masks, 1),
           b->n_masks);
    printf("compile, us        p50 %.0f, p99 %.0f, worst %.0f\n",
           percentile(t->compile_ns, t->n_compiled, 0.5),
           percentile(t->compile_ns, t->n_compiled, 0.99),
           percentile(t->compile_ns, t->n_compiled, 1));
    if (b->how->rounds > 1)
        printf("each time          the least of %d rounds\n", b->how->rounds);
}

/* The member "name" of a line, or its number. */
static json_t *row_name(const struct bench *b, size_t i) {
    struct nb_arena arena = {0};
    struct nb_value line;
    json_t *name = NULL;
    if (nb_value_parse(b->lines[i], b->line_bytes[i], b->path, &arena, &line, NULL) == NB_OK) {
        const struct nb_value *v = nb_value_get(&line, "name");
        if (nb_value_is(v, NB_VALUE_STRING))
            name = json_stringn(v->text, v->n);
    }
    nb_arena_free(&arena);
    return name ? name : json_integer((json_int_t)i);
}

static enum nb_status write_rows(const struct bench *b, struct nb_error *err) {
    FILE *f = fopen(b->how->rows, "w");
    if (!f)
        return nb_fail(err, NB_ERR_IO, "%s: %s", b->how->rows, strerror(errno));
    for (size_t i = 0; i < b->n_lines; i++) {
        const struct row *r = &b->rows[i];
        const char *result = b->crashed[i]        ? "crash"
                             : !r->compiled       ? "compile_error"
                             : row_is_right(b, i) ? "ok"
                                                  : "wrong";
        json_t *o =
            json_pack("{s:o, s:s, s:I, s:I, s:f, s:I, s:f}", "name", row_name(b, i), "result",
                      result, "valid_refused", (json_int_t)r->valid_refused, "invalid_accepted",
                      (json_int_t)r->invalid_accepted, "compile_us", r->compile_ns / 1e3, "masks",
                      (json_int_t)r->n_masks, "worst_mask_us", r->worst_mask_ns / 1e3);
        if (r->message[0])
            json_object_set_new(o, "message", json_string_nocheck(r->message));
        json_dumpf(o, f, JSON_COMPACT | JSON_REAL_PRECISION(6));
        json_decref(o);
        fputc('\n', f);
    }
    bool bad = ferror(f);
    if (fclose(f) != 0 || bad)
        return nb_fail(err, NB_ERR_IO, "%s: could not be written", b->how->rows);
    return NB_OK;
}

/* ---- setting up ---- */

/* The tokenizer, and the tokens that end its texts. */
static enum nb_status open_vocabulary(struct bench *b, struct nb_error *err) {
    char path[PATH_MAX], folder[PATH_MAX];
    int32_t ends[NB_MAX_EOS];
    size_t n_ends = 0;
    enum nb_status s = NB_OK;
    if (nb_is_file(b->how->tokenizer)) {
        snprintf(path, sizeof path, "%s", b->how->tokenizer);
    } else {
        struct nb_config config;
        s = nb_checkpoint_find(b->how->tokenizer, folder, sizeof folder, err);
        if (s == NB_OK && !nb_tokenizer_path(folder, path, sizeof path))
            s = nb_fail(err, NB_ERR_IO, "%s: has no tokenizer", folder);
        if (s == NB_OK && nb_config_read(folder, &config, NULL) == NB_OK) {
            for (int i = 0; i < config.n_eos; i++)
                ends[n_ends++] = config.eos[i];
        }
    }
    if (s == NB_OK)
        s = nb_tokenizer_open(path, &b->tokenizer, err);
    static const char *const names[] = {"</s>", "<|endoftext|>", "<|im_end|>", "<|eot_id|>",
                                        "<|end_of_text|>"};
    for (size_t i = 0; s == NB_OK && !n_ends && i < sizeof names / sizeof *names; i++) {
        int32_t id = nb_tokenizer_find(b->tokenizer, names[i]);
        if (id >= 0)
            ends[n_ends++] = id;
    }
    if (s == NB_OK && !n_ends)
        s = nb_fail(err, NB_ERR_UNSUPPORTED, "%s: no token that ends a text was found", path);
    return s == NB_OK ? nb_vocabulary_open(b->tokenizer, ends, n_ends, &b->vocabulary, err) : s;
}

static enum nb_status split_lines(struct bench *b, struct nb_error *err) {
    enum nb_status s = nb_read_file(b->path, MAX_FILE_BYTES, &b->text, err);
    if (s != NB_OK)
        return s;
    size_t n = 1;
    for (size_t i = 0; i < b->text.len; i++)
        n += b->text.data[i] == '\n';
    b->lines = calloc(n, sizeof *b->lines);
    b->line_bytes = calloc(n, sizeof *b->line_bytes);
    b->rows = calloc(n, sizeof *b->rows);
    b->crashed = calloc(n, 1);
    if (!b->lines || !b->line_bytes || !b->rows || !b->crashed)
        return nb_fail_memory(err, n * sizeof *b->rows, "rows");
    for (size_t at = 0; at < b->text.len;) {
        const char *line = b->text.data + at, *end = memchr(line, '\n', b->text.len - at);
        size_t bytes = end ? (size_t)(end - line) : b->text.len - at;
        if (bytes) {
            b->lines[b->n_lines] = line;
            b->line_bytes[b->n_lines++] = bytes;
        }
        at += bytes + 1;
    }
    if (!b->n_lines)
        return nb_fail(err, NB_ERR_FORMAT, "%s: has no lines", b->path);
    return NB_OK;
}

enum nb_status nb_schema_bench(const struct nb_schema_bench *how, const char *path,
                               struct nb_error *err) {
    struct bench b = {.how = how, .path = path};
    struct totals t = {0};
    enum nb_status s = split_lines(&b, err);
    if (s == NB_OK)
        s = open_vocabulary(&b, err);
    if (s == NB_OK)
        s = run_all(&b, err);
    if (s == NB_OK && !(t.compile_ns = calloc(b.n_lines, sizeof *t.compile_ns)))
        s = nb_fail_memory(err, b.n_lines * 4, "times");
    if (s == NB_OK) {
        count(&b, &t);
        if (how->json)
            print_json(&b, &t);
        else
            print_table(&b, &t);
        if (how->rows)
            s = write_rows(&b, err);
    }
    free(t.compile_ns);
    nb_vocabulary_close(b.vocabulary);
    nb_tokenizer_close(b.tokenizer);
    nb_buf_free(&b.text);
    free(b.lines);
    free(b.line_bytes);
    free(b.rows);
    free(b.crashed);
    free(b.mask_ns);
    return s;
}
