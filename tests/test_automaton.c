/* Patterns and formats as automata: random patterns against a matcher that tries everything,
 * verdicts of a JavaScript engine (tests/golden/regex.json), formats against their arithmetic, the
 * algebra of tables, what is refused, and that nothing hard takes long. */
#include "test.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/utf8.h"
#include "grammar/automaton.h"

#include <jansson.h>

/* ---- Random trees, their patterns, and what they match ---- */

enum { MAX_TEXT = 14, MAX_NODES = 64 };

static const struct {
    uint32_t cp;
    const char *text, *pattern;
    bool word;
} alphabet[] = {{'a', "a", "a", true},
                {'b', "b", "\\x62", true},
                {'_', "_", "_", true},
                {'-', "-", "\\x2D", false},
                {0xE9, "\xC3\xA9", "\\u00e9", false},
                {0x20AC, "\xE2\x82\xAC", "\xE2\x82\xAC", false},
                {0x1F600, "\xF0\x9F\x98\x80", "\\u{1F600}", false}};
enum { LETTERS = sizeof alphabet / sizeof *alphabet };

enum node_kind { SET, CAT, ALT, REPEAT, START, END, WORD, LOOK, BEHIND };

struct node {
    enum node_kind kind;
    uint32_t letters; /* SET: bits */
    bool negated;
    uint32_t min, max; /* REPEAT; max 99 is no bound */
    struct node *a, *b;
};

static uint64_t seed;

static uint32_t below(uint32_t n) {
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((seed >> 33) % n);
}

struct forest {
    struct node nodes[MAX_NODES];
    size_t n;
    bool counts; /* repetitions of several copies, within each other */
};

/* `looks`: lookaheads, $ and \b may stand here; not within a lookbehind. */
static struct node *grow_tree(struct forest *f, int depth, bool looks) {
    struct node *x = &f->nodes[f->n++];
    *x = (struct node){.kind = SET};
    uint32_t pick = depth == 0 || f->n + 4 > MAX_NODES ? below(8) : below(24);
    if (pick < 7 || (pick == 7 && !looks)) {
        x->letters = pick < 5 ? 1u << below(LETTERS) : 1 + below((1u << LETTERS) - 1);
    } else if (pick == 7) {
        x->kind = (enum node_kind[]){START, END, WORD}[below(3)];
        x->negated = x->kind == WORD && below(2);
    } else if (pick < (f->counts ? 12u : 13u)) {
        x->kind = CAT;
    } else if (pick < (f->counts ? 13u : 16u)) {
        x->kind = ALT;
    } else if (pick < 21 || !looks) {
        static const uint32_t bounds[][2] = {{0, 99}, {1, 99}, {0, 1}, {2, 2},
                                             {1, 3},  {0, 2},  {2, 99}};
        static const uint32_t counts[][2] = {{0, 4}, {1, 4}, {2, 5}, {0, 7},
                                             {3, 5}, {1, 2}, {4, 4}};
        x->kind = REPEAT;
        uint32_t i = below(7);
        x->min = f->counts ? counts[i][0] : bounds[i][0];
        x->max = f->counts ? counts[i][1] : bounds[i][1];
    } else {
        x->kind = below(2) ? LOOK : BEHIND;
        x->negated = below(2);
    }
    if (x->kind == CAT || x->kind == ALT || x->kind == REPEAT || x->kind == LOOK ||
        x->kind == BEHIND)
        x->a = grow_tree(f, depth - 1, looks && x->kind != BEHIND);
    if (x->kind == CAT || x->kind == ALT)
        x->b = grow_tree(f, depth - 1, looks);
    return x;
}

static void print_tree(const struct node *x, struct nb_buf *out) {
    switch (x->kind) {
    case SET:
        nb_buf_add_string(out, "[");
        for (int i = 0; i < LETTERS; i++)
            if (x->letters >> i & 1)
                nb_buf_add_string(out, alphabet[i].pattern);
        nb_buf_add_string(out, "]");
        break;
    case CAT:
    case ALT:
        nb_buf_add_string(out, x->kind == ALT ? "(?:" : "");
        print_tree(x->a, out);
        nb_buf_add_string(out, x->kind == ALT ? "|" : "");
        print_tree(x->b, out);
        nb_buf_add_string(out, x->kind == ALT ? ")" : "");
        break;
    case REPEAT:
        nb_buf_add_string(out, "(?:");
        print_tree(x->a, out);
        if (x->max == 99)
            nb_buf_printf(out, "){%u,}", x->min);
        else
            nb_buf_printf(out, "){%u,%u}?", x->min, x->max);
        break;
    case START:
        nb_buf_add_string(out, "^");
        break;
    case END:
        nb_buf_add_string(out, "$");
        break;
    case WORD:
        nb_buf_add_string(out, x->negated ? "\\B" : "\\b");
        break;
    case LOOK:
    case BEHIND:
        nb_buf_printf(out, "(?%s%s", x->kind == BEHIND ? "<" : "", x->negated ? "!" : "=");
        print_tree(x->a, out);
        nb_buf_add_string(out, ")");
    }
}

struct text {
    int letters[MAX_TEXT], n;
};

static bool word_at(const struct text *t, int i) {
    return i >= 0 && i < t->n && alphabet[t->letters[i]].word;
}

/* The places where a match of x that begins at `at` can end, as bits. */
static uint32_t ends(const struct node *x, const struct text *t, int at) {
    uint32_t here = 1u << at, found = 0, now;
    switch (x->kind) {
    case SET:
        return at < t->n && x->letters >> t->letters[at] & 1 ? here << 1 : 0;
    case CAT:
        now = ends(x->a, t, at);
        for (int i = at; i <= t->n; i++)
            if (now >> i & 1)
                found |= ends(x->b, t, i);
        return found;
    case ALT:
        return ends(x->a, t, at) | ends(x->b, t, at);
    case REPEAT:
        now = here;
        for (uint32_t k = 0; k <= (x->max == 99 ? x->min + MAX_TEXT + 1 : x->max); k++) {
            uint32_t next = 0;
            found |= k >= x->min ? now : 0;
            for (int i = at; i <= t->n; i++)
                if (now >> i & 1)
                    next |= ends(x->a, t, i);
            now = next;
        }
        return found;
    case START:
        return at == 0 ? here : 0;
    case END:
        return at == t->n ? here : 0;
    case WORD:
        return (word_at(t, at - 1) != word_at(t, at)) != x->negated ? here : 0;
    case LOOK:
        return (ends(x->a, t, at) != 0) != x->negated ? here : 0;
    case BEHIND:
        for (int i = 0; i <= at; i++)
            found |= ends(x->a, t, i) & here;
        return (found != 0) != x->negated ? here : 0;
    }
    return 0;
}

static bool matches(const struct node *x, const struct text *t, enum nb_regex_mode mode) {
    if (mode == NB_REGEX_WHOLE)
        return ends(x, t, 0) >> t->n & 1;
    for (int i = 0; i <= t->n; i++)
        if (ends(x, t, i))
            return true;
    return false;
}

static struct text random_text(void) {
    struct text t = {.n = (int)below(9)};
    for (int i = 0; i < t.n; i++)
        t.letters[i] = (int)below(below(2) ? 3 : LETTERS);
    return t;
}

static void print_text(const struct text *t, struct nb_buf *out) {
    nb_buf_clear(out);
    nb_buf_add_string(out, "");
    for (int i = 0; i < t->n; i++)
        nb_buf_add_string(out, alphabet[t->letters[i]].text);
}

/* ---- Compiling ---- */

static struct nb_lazy *open_lazy(void) {
    struct nb_lazy *lazy;
    struct nb_error err;
    assert_ok(nb_lazy_open(NULL, &lazy, &err), err);
    return lazy;
}

static nb_lazy_expr add_regex(struct nb_lazy *lazy, const char *pattern, enum nb_regex_mode mode) {
    nb_lazy_expr expr;
    struct nb_error err;
    if (nb_lazy_regex(lazy, pattern, strlen(pattern), mode, &expr, &err) != NB_OK)
        fail_msg("%s: %s", pattern, err.message);
    return expr;
}

static uint32_t start_lazy(struct nb_lazy *lazy, nb_lazy_expr expr) {
    uint32_t state;
    struct nb_error err;
    assert_ok(nb_lazy_start(lazy, expr, &state, &err), err);
    return state;
}

static bool lazy_accepts(struct nb_lazy *lazy, uint32_t state, const char *text, size_t n) {
    for (size_t i = 0; i < n && state; i++)
        state = nb_lazy_next(lazy, state, (uint8_t)text[i]);
    assert_int_equal(lazy->failed, NB_OK);
    return lazy->accepts[state];
}

static void write_table(struct nb_lazy *lazy, uint32_t state, struct nb_arena *arena,
                        struct nb_automaton *out) {
    struct nb_error err;
    assert_ok(nb_lazy_table(lazy, state, arena, out, &err), err);
}

/* Both forms walked side by side, over all pairs of states: dead and accepting at the same places.
 * The table's dead states come from a search backwards over all states, the lazy ones' from one
 * forwards, on demand. */
static void compare_forms(const char *what, struct nb_lazy *lazy, uint32_t start,
                          const struct nb_automaton *table) {
    size_t n = 0, cap = 4096;
    uint32_t(*pairs)[2] = malloc(cap * sizeof *pairs);
    uint8_t *seen = calloc(table->n_states, 1);
    assert_true(pairs && seen);
    pairs[n][0] = start;
    pairs[n++][1] = table->start;
    seen[table->start] = 1;
    for (size_t i = 0; i < n; i++) {
        uint32_t a = pairs[i][0], b = pairs[i][1];
        if ((a == 0) != (b == 0) || lazy->accepts[a] != table->accepts[b])
            fail_msg("%s: lazy state %u and state %u of the table differ", what, a, b);
        for (int byte = 0; byte < 256 && a; byte++) {
            uint32_t to = nb_automaton_next(table, b, (uint8_t)byte);
            uint32_t lazy_to = nb_lazy_next(lazy, a, (uint8_t)byte);
            if ((to == 0) != (lazy_to == 0))
                fail_msg("%s: byte %02x leads to lazy state %u and to %u of the table", what, byte,
                         lazy_to, to);
            if (seen[to])
                continue;
            seen[to] = 1;
            if (n == cap)
                assert_true((pairs = realloc(pairs, (cap *= 2) * sizeof *pairs)));
            pairs[n][0] = lazy_to;
            pairs[n++][1] = to;
        }
    }
    free(pairs);
    free(seen);
}

static void compare_random_patterns(int rounds, bool counts) {
    struct nb_buf pattern = {0}, text = {0};
    size_t positive = 0, total = 0;
    int n_tables = 0;
    for (int round = 0; round < rounds; round++) {
        struct forest forest = {.n = 0, .counts = counts};
        seed = (uint64_t)round * 7919 + 1;
        const struct node *tree = grow_tree(&forest, 4, true);
        enum nb_regex_mode mode = round % 2 ? NB_REGEX_SEARCH : NB_REGEX_WHOLE;
        nb_buf_clear(&pattern);
        print_tree(tree, &pattern);
        struct nb_lazy *lazy = open_lazy();
        struct nb_arena arena = {0};
        struct nb_automaton table;
        struct nb_error err;
        uint32_t start;
        enum nb_status s = nb_lazy_start(lazy, add_regex(lazy, pattern.data, mode), &start, &err);
        if (counts && s == NB_ERR_LIMIT) { /* too hard, which is told */
            nb_lazy_close(lazy);
            continue;
        }
        assert_ok(s, err);
        s = nb_lazy_table(lazy, start, &arena, &table, &err);
        if (s != NB_OK && !(counts && s == NB_ERR_LIMIT))
            fail_msg("%s: %s", pattern.data, err.message);
        if (s == NB_OK)
            compare_forms(pattern.data, lazy, start, &table);
        n_tables += s == NB_OK;
        for (int i = 0; i < 40; i++) {
            struct text t = random_text();
            print_text(&t, &text);
            bool expected = matches(tree, &t, mode);
            if (lazy_accepts(lazy, start, text.data, text.len) != expected ||
                (s == NB_OK && nb_automaton_accepts(&table, text.data, text.len) != expected))
                fail_msg("pattern %d %s, \"%s\": expected %d", round, pattern.data, text.data,
                         expected);
            positive += expected;
            total++;
        }
        nb_arena_free(&arena);
        nb_lazy_close(lazy);
    }
    assert_true(positive > total / 10 && positive < total * 9 / 10);
    assert_true(n_tables > rounds * 9 / 10);
    nb_buf_free(&pattern);
    nb_buf_free(&text);
}

static void test_random_patterns(void **state) {
    (void)state;
    compare_random_patterns(1500, false);
}

static void test_counted_patterns(void **state) {
    (void)state;
    compare_random_patterns(1000, true);
}

/* and, or, not of lazy ones and of tables are the same, and are what they say. */
static void test_algebra(void **state) {
    (void)state;
    struct nb_buf patterns[2] = {{0}, {0}}, text = {0};
    for (int round = 0; round < 300; round++) {
        struct forest forests[2] = {{.n = 0}, {.n = 0}};
        const struct node *trees[2];
        struct nb_lazy *lazy = open_lazy();
        nb_lazy_expr expr[2], and, or, not ;
        struct nb_error err;
        struct nb_arena arena = {0};
        struct nb_automaton single[2], both, either, neither, lazily;
        seed = (uint64_t)round * 104729 + 5;
        for (int i = 0; i < 2; i++) {
            trees[i] = grow_tree(&forests[i], 3, true);
            nb_buf_clear(&patterns[i]);
            print_tree(trees[i], &patterns[i]);
            expr[i] = add_regex(lazy, patterns[i].data, NB_REGEX_SEARCH);
            assert_ok(nb_pattern_compile(patterns[i].data, patterns[i].len, NB_REGEX_SEARCH, NULL,
                                         &arena, &single[i], &err),
                      err);
        }
        assert_ok(nb_lazy_and(lazy, expr[0], expr[1], &and, &err), err);
        assert_ok(nb_lazy_or(lazy, expr[0], expr[1], & or, &err), err);
        assert_ok(nb_lazy_not(lazy, or, &not, &err), err);
        assert_ok(nb_automaton_and(&single[0], &single[1], NULL, &arena, &both, &err), err);
        assert_ok(nb_automaton_or(&single[0], &single[1], NULL, &arena, &either, &err), err);
        assert_ok(nb_automaton_not(&either, NULL, &arena, &neither, &err), err);
        const struct nb_automaton *tables[] = {&both, &either, &neither};
        nb_lazy_expr exprs[] = {and, or, not };
        for (int k = 0; k < 3; k++) {
            uint32_t start = start_lazy(lazy, exprs[k]);
            write_table(lazy, start, &arena, &lazily);
            assert_true(nb_automaton_equal(&lazily, tables[k]));
            compare_forms(patterns[0].data, lazy, start, tables[k]);
        }
        for (int i = 0; i < 20; i++) {
            struct text t = random_text();
            print_text(&t, &text);
            bool a = matches(trees[0], &t, NB_REGEX_SEARCH),
                 b = matches(trees[1], &t, NB_REGEX_SEARCH);
            assert_int_equal(nb_automaton_accepts(&both, text.data, text.len), a && b);
            assert_int_equal(nb_automaton_accepts(&either, text.data, text.len), a || b);
            assert_int_equal(nb_automaton_accepts(&neither, text.data, text.len), !a && !b);
        }
        nb_arena_free(&arena);
        nb_lazy_close(lazy);
    }
    nb_buf_free(&patterns[0]);
    nb_buf_free(&patterns[1]);
    nb_buf_free(&text);
}

/* ---- Golden verdicts ---- */

static void test_golden(void **state) {
    (void)state;
    json_error_t e;
    json_t *all = json_load_file(test_path("tests/golden/regex.json"), JSON_ALLOW_NUL, &e), *row;
    if (!all)
        fail_msg("regex.json: %s", e.text);
    size_t i, j, n_errors = 0;
    json_t *rows = json_object_get(all, "patterns"), *text;
    assert_true(json_array_size(rows) > 100);
    json_array_foreach(rows, i, row) {
        const json_t *p = json_object_get(row, "pattern");
        const char *pattern = json_string_value(p);
        const char *verdicts = json_string_value(json_object_get(row, "verdicts"));
        struct nb_lazy *lazy = open_lazy();
        nb_lazy_expr expr;
        struct nb_error err;
        enum nb_status s =
            nb_lazy_regex(lazy, pattern, json_string_length(p), NB_REGEX_SEARCH, &expr, &err);
        if (json_object_get(row, "error")) {
            if (s != NB_ERR_FORMAT && s != NB_ERR_UNSUPPORTED)
                fail_msg("%s: status %d, but it is no pattern", pattern, s);
            n_errors++;
        } else if (s != NB_OK) {
            fail_msg("%s: %s", pattern, err.message);
        } else {
            uint32_t start = start_lazy(lazy, expr);
            json_array_foreach(json_object_get(row, "texts"), j, text) {
                bool found =
                    lazy_accepts(lazy, start, json_string_value(text), json_string_length(text));
                if (found != (verdicts[j] == '1'))
                    fail_msg("%s: \"%s\" is %d, expected %c", pattern, json_string_value(text),
                             found, verdicts[j]);
            }
        }
        nb_lazy_close(lazy);
    }
    assert_true(n_errors > 5);
    json_decref(all);
}

/* ---- Formats ---- */

static struct nb_lazy *open_format(const char *name, uint32_t *start) {
    struct nb_lazy *lazy = open_lazy();
    nb_lazy_expr expr;
    struct nb_error err;
    bool known = false;
    assert_ok(nb_lazy_format(lazy, name, strlen(name), NB_FORMAT_2020_12, &expr, &known, &err),
              err);
    assert_true(known);
    *start = start_lazy(lazy, expr);
    return lazy;
}

static int days_of(int year, int month) {
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return month == 2 ? 28 + leap : month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
}

static void test_dates(void **state) {
    (void)state;
    uint32_t start;
    struct nb_lazy *lazy = open_format("date", &start);
    char text[32];
    for (int year = 0; year < 10000; year += year % 100 == 4 ? 89 : 1)
        for (int month = 0; month < 14; month++)
            for (int day = 0; day < 33; day++) {
                int n = snprintf(text, sizeof text, "%04d-%02d-%02d", year, month, day);
                bool valid = month >= 1 && month <= 12 && day >= 1 && day <= days_of(year, month);
                if (lazy_accepts(lazy, start, text, (size_t)n) != valid)
                    fail_msg("%s: expected %d", text, valid);
            }
    nb_lazy_close(lazy);
}

/* Second 60 is 23:59:60 UTC, whatever the offset. */
static void test_leap_seconds(void **state) {
    (void)state;
    uint32_t start;
    struct nb_lazy *lazy = open_format("time", &start);
    char text[48];
    for (int minute = 0; minute < 1440; minute += 7)
        for (int offset = -1439; offset < 1440; offset++) {
            int ahead = abs(offset), utc = ((minute - offset) % 1440 + 1440) % 1440;
            int n =
                snprintf(text, sizeof text, "%02d:%02d:60%s%c%02d:%02d", minute / 60, minute % 60,
                         offset & 1 ? ".5" : "", offset < 0 ? '-' : '+', ahead / 60, ahead % 60);
            if (lazy_accepts(lazy, start, text, (size_t)n) != (utc == 1439))
                fail_msg("%s: expected %d", text, utc == 1439);
            text[6] = '5';
            assert_true(lazy_accepts(lazy, start, text, (size_t)n));
        }
    nb_lazy_close(lazy);
}

/* What a machine of format.c calls alive is alive, and nothing else. */
static void test_machines_live(void **state) {
    (void)state;
    static const char *const names[] = {"date", "time", "date-time", "email", "uri"};
    const struct nb_automaton_limits limits = {.max_states = 100000, .max_work = 1u << 30};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct nb_arena arena = {0};
        struct nb_automaton table;
        struct nb_error err;
        bool known;
        uint32_t start;
        struct nb_lazy *lazy = open_format(names[i], &start);
        assert_ok(nb_format_compile(names[i], strlen(names[i]), NB_FORMAT_2020_12, &limits, &arena,
                                    &table, &known, &err),
                  err);
        compare_forms(names[i], lazy, start, &table);
        nb_arena_free(&arena);
        nb_lazy_close(lazy);
    }
}

static void test_hostname_lengths(void **state) {
    (void)state;
    uint32_t start;
    struct nb_lazy *lazy = open_format("hostname", &start);
    char text[300];
    for (size_t n = 1; n < 300; n++) {
        for (size_t i = 0; i < n; i++)
            text[i] = i % 64 == 63 ? '.' : 'a';
        assert_int_equal(lazy_accepts(lazy, start, text, n), n <= 253 && n % 64 != 0);
    }
    memset(text, 'a', sizeof text);
    assert_true(lazy_accepts(lazy, start, text, 63));
    assert_false(lazy_accepts(lazy, start, text, 64));
    nb_lazy_close(lazy);
}

/* Labels of Punycode, as Python's idna judges them. Whatever else a label holds, it can be ended.
 */
static void test_idna(void **state) {
    (void)state;
    json_error_t e;
    json_t *all = json_load_file(test_path("tests/golden/idna.json"), 0, &e), *row;
    if (!all)
        fail_msg("idna.json: %s", e.text);
    const char *which[] = {"valid", "invalid"};
    uint32_t start;
    struct nb_lazy *lazy = open_format("hostname", &start);
    char text[80];
    size_t j;
    for (size_t i = 0; i < 2; i++) {
        json_t *rows = json_object_get(all, which[i]);
        assert_true(json_array_size(rows) > 100);
        json_array_foreach(rows, j, row) {
            const char *label = json_string_value(row);
            snprintf(text, sizeof text, "%s", label);
            if (lazy_accepts(lazy, start, text, strlen(text)) != (i == 0))
                fail_msg("%s: expected %s", label, which[i]);
            snprintf(text, sizeof text, "a.%s.B", label);
            assert_int_equal(lazy_accepts(lazy, start, text, strlen(text)), i == 0);
        }
    }
    for (seed = 1; seed < 400;) {
        uint64_t round = seed + 1;
        size_t n = (size_t)snprintf(text, sizeof text, "xN--");
        for (uint32_t k = below(50); k > 0; k--)
            text[n++] = "abcxyz019-AZ-"[below(13)];
        uint32_t at = start;
        for (size_t i = 0; i < n; i++)
            at = nb_lazy_next(lazy, at, (uint8_t)text[i]);
        char *end;
        struct nb_error err;
        assert_int_not_equal(at, 0);
        assert_ok(nb_lazy_shortest(lazy, at, &end, &n, &err), err);
        assert_true(lazy_accepts(lazy, at, end, n));
        free(end);
        seed = round;
    }
    nb_lazy_close(lazy);
    json_decref(all);
}

/* What was forgotten is found again. */
static void test_forgetting(void **state) {
    (void)state;
    static const char *const texts[] = {"xn--bcher-kva.de", "xn--bcher-9-9.de", "xn--a", "a-b.c",
                                        "xn--fsq.xn--0zwm56d"};
    uint32_t start, at[5][20];
    struct nb_lazy *lazy = open_format("hostname", &start);
    struct nb_lazy_mark mark = nb_lazy_mark(lazy);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < 5; i++) {
            uint32_t to = start;
            for (size_t k = 0; k < strlen(texts[i]); k++) {
                to = nb_lazy_next(lazy, to, (uint8_t)texts[i][k]);
                assert_true(round == 0 || at[i][k] == to);
                at[i][k] = to;
            }
        }
        assert_true(lazy->n_states > mark.n_states + 30);
        nb_lazy_forget(lazy, &mark);
        assert_int_equal(lazy->n_states, mark.n_states);
        assert_true(lazy_accepts(lazy, start, "xn--bcher-kva", 13));
        assert_false(lazy_accepts(lazy, start, "xn--bcher-9-9", 13));
        nb_lazy_forget(lazy, &mark);
    }
    nb_lazy_close(lazy);
}

static void test_unknown_format(void **state) {
    (void)state;
    struct nb_arena arena = {0};
    struct nb_automaton table;
    struct nb_error err;
    bool known = true;
    assert_ok(nb_format_compile("color", 5, NB_FORMAT_2020_12, NULL, &arena, &table, &known, &err),
              err);
    assert_false(known);
    assert_false(nb_format_known("dat", 3));
    assert_true(nb_format_known("date", 4));
    nb_arena_free(&arena);
}

/* The formats of the official test suite's optional/format, where it is there. */
static void check_suite_file(const char *folder, const char *name, enum nb_format_draft draft,
                             size_t *n) {
    char path[1200];
    const char *data = getenv("NB_SHARED_DATA");
    snprintf(path, sizeof path, "%s/json-schema-test-suite/tests/%s/optional/format/%s.json",
             data ? data : test_path("../shared/data"), folder, name);
    json_t *groups = json_load_file(path, JSON_ALLOW_NUL, NULL), *group, *test;
    size_t i, j;
    json_array_foreach(groups, i, group) {
        json_array_foreach(json_object_get(group, "tests"), j, test) {
            const json_t *text = json_object_get(test, "data");
            struct nb_lazy *lazy = open_lazy();
            nb_lazy_expr expr;
            struct nb_error err;
            bool known, valid = json_is_true(json_object_get(test, "valid"));
            if (json_is_string(text)) {
                assert_ok(nb_lazy_format(lazy, name, strlen(name), draft, &expr, &known, &err),
                          err);
                uint32_t start = start_lazy(lazy, expr);
                bool found =
                    lazy_accepts(lazy, start, json_string_value(text), json_string_length(text));
                if (found != valid)
                    fail_msg("%s %s: %s", folder, name,
                             json_string_value(json_object_get(test, "description")));
                ++*n;
            }
            nb_lazy_close(lazy);
        }
    }
    json_decref(groups);
}

static void test_suite_formats(void **state) {
    (void)state;
    static const char *const names[] = {"date",
                                        "time",
                                        "date-time",
                                        "duration",
                                        "email",
                                        "hostname",
                                        "ipv4",
                                        "ipv6",
                                        "uri",
                                        "uri-reference",
                                        "uuid",
                                        "json-pointer",
                                        "relative-json-pointer"};
    size_t n = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        check_suite_file("draft7", names[i], NB_FORMAT_DRAFT_7, &n);
        check_suite_file("draft2020-12", names[i], NB_FORMAT_2020_12, &n);
    }
    if (!n)
        skip();
    assert_true(n > 700);
}

/* ---- Lengths, shortest texts ---- */

static void test_lengths(void **state) {
    (void)state;
    static const char text[] = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z"; /* 1 2 3 4 1 bytes */
    static const size_t cuts[] = {0, 1, 3, 6, 10, 11};
    for (uint64_t min = 0; min < 7; min++)
        for (uint64_t max = 0; max < 7; max++) {
            struct nb_lazy *lazy = open_lazy();
            struct nb_arena arena = {0};
            struct nb_automaton table;
            struct nb_error err;
            nb_lazy_expr expr;
            uint64_t top = max == 6 ? UINT64_MAX : max;
            assert_ok(nb_lazy_length(lazy, min, top, &expr, &err), err);
            uint32_t start = start_lazy(lazy, expr);
            assert_ok(nb_automaton_length(min, top, NULL, &arena, &table, &err), err);
            assert_int_equal(nb_automaton_empty(&table), min > top);
            for (size_t n = 0; n < 12; n++) {
                bool whole = false, expected = false;
                for (size_t c = 0; c < 6; c++)
                    if (cuts[c] == n)
                        whole = true, expected = c >= min && c <= top;
                expected &= whole;
                assert_int_equal(lazy_accepts(lazy, start, text, n), expected);
                assert_int_equal(nb_automaton_accepts(&table, text, n), expected);
            }
            nb_arena_free(&arena);
            nb_lazy_close(lazy);
        }
}

static void check_shortest(const char *pattern, const char *expected) {
    struct nb_lazy *lazy = open_lazy();
    struct nb_arena arena = {0};
    struct nb_automaton table;
    struct nb_error err;
    uint32_t start = start_lazy(lazy, add_regex(lazy, pattern, NB_REGEX_SEARCH));
    char *text;
    size_t n;
    assert_ok(nb_lazy_shortest(lazy, start, &text, &n, &err), err);
    assert_string_equal(text, expected);
    assert_int_equal(n, strlen(expected));
    free(text);
    write_table(lazy, start, &arena, &table);
    assert_ok(nb_automaton_shortest(&table, table.start, &arena, &text, &n, &err), err);
    assert_string_equal(text, expected);
    assert_int_equal(n, strlen(expected));
    nb_arena_free(&arena);
    nb_lazy_close(lazy);
}

static void test_shortest(void **state) {
    (void)state;
    check_shortest("a|bc", "a");
    check_shortest("^(?:zz|b{2}|ab)$", "ab");
    check_shortest("^(?!a)[a-c]{3}$", "baa");
    check_shortest("^\\d{4}-\\d\\d$", "0000-00");
    check_shortest("^\xE2\x82\xAC+$", "\xE2\x82\xAC");
    check_shortest("x*", "");
    check_shortest("^(?=.*[A-Z])(?=.*\\d)[A-Za-z\\d]{4,}$", "000A");
}

/* ---- What is refused ---- */

static enum nb_status regex_status(const char *pattern, struct nb_error *err) {
    struct nb_arena arena = {0};
    struct nb_automaton table;
    *err = (struct nb_error){0};
    enum nb_status s =
        nb_pattern_compile(pattern, strlen(pattern), NB_REGEX_SEARCH, NULL, &arena, &table, err);
    nb_arena_free(&arena);
    return s;
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *pattern;
        enum nb_status status;
        const char *message; /* part of it */
    } cases[] = {
        {"(a)\\1", NB_ERR_UNSUPPORTED, "byte 3 of the pattern: a backreference"},
        {"(?<n>a)\\k<n>", NB_ERR_UNSUPPORTED, "a backreference"},
        {"(?i)abc", NB_ERR_UNSUPPORTED, "flags inside"},
        {"(?<=a$)b", NB_ERR_UNSUPPORTED, "lookbehind that looks ahead"},
        {"a(b", NB_ERR_FORMAT, "byte 1 of the pattern: a ( that is never closed"},
        {"a)b", NB_ERR_FORMAT, "byte 1 of the pattern: a ) that closes nothing"},
        {"[a", NB_ERR_FORMAT, "byte 0 of the pattern: a class whose ] is missing"},
        {"a{2,1}", NB_ERR_FORMAT, "byte 1 of the pattern: a quantifier whose bounds"},
        {"+a", NB_ERR_FORMAT, "nothing before it"},
        {"[z-a]", NB_ERR_FORMAT, "a range whose end"},
        {"\\", NB_ERR_FORMAT, "a backslash at the end"},
        {"\xFF", NB_ERR_FORMAT, "byte 0 of the pattern is not UTF-8"},
        {"(a{1000}){1000}", NB_ERR_LIMIT, "too large written out"},
        {"(((a{100}){100}){100}){100}", NB_ERR_LIMIT, "too large written out"},
        {"^.*a.{30}$", NB_ERR_LIMIT, "states"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct nb_error err;
        enum nb_status s = regex_status(cases[i].pattern, &err);
        if (s != cases[i].status || !strstr(err.message, cases[i].message))
            fail_msg("%s: status %d, %s", cases[i].pattern, s, err.message);
    }
    struct nb_error err;
    char deep[4096];
    memset(deep, '(', 2000);
    memset(deep + 2000, ')', 2000);
    deep[4000] = 0;
    assert_int_equal(regex_status(deep, &err), NB_ERR_LIMIT);
}

/* Patterns that are too much for a table, or for a backtracking matcher, are walked all the same.
 */
static void test_hard_patterns(void **state) {
    (void)state;
    static const struct {
        const char *pattern, *letter;
        size_t n;
        bool accepts;
    } cases[] = {
        {"^(a+)+$", "a", 5000, true},
        {"^(a|aa)+$", "a", 5000, true},
        {"^(a|a?)+$", "a", 5000, true},
        {"^(.*)*x$", "a", 3000, false},
        {"^.*a.{30}$", "a", 2000, true},
        {"^[a-z]{1,100000}$", "a", 5000, true},
        {"^[a-z]{5001,1000000000}$", "a", 5000, false},
        {"^.{0,65535}$", "a", 5000, true},
        {"^(?=.{1,254}$)((.{1,63}\\.){1,127}(?![0-9]*$)[a-z0-9-]+\\.?)$", "a.", 120, true},
        {"^(?!.*b)(?!.*c)(?=(.*a){3})[a-z]{3,40}$", "a", 40, true},
        {"^(?:\\S+\\s+){0,49}\\S+$", "a", 3000, true},
        {"^(?:(?:a?){50}){50}$", "a", 2500, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t before = nb_now_us();
        struct nb_buf text = {0};
        for (size_t k = 0; k < cases[i].n; k++)
            nb_buf_add_string(&text, cases[i].letter);
        struct nb_lazy *lazy = open_lazy();
        uint32_t start = start_lazy(lazy, add_regex(lazy, cases[i].pattern, NB_REGEX_SEARCH));
        if (lazy_accepts(lazy, start, text.data, text.len) != cases[i].accepts)
            fail_msg("%s: expected %d", cases[i].pattern, cases[i].accepts);
        nb_lazy_close(lazy);
        nb_buf_free(&text);
        if (nb_now_us() - before > 20 * 1000 * 1000)
            fail_msg("%s takes too long", cases[i].pattern);
    }
}

/* A step that runs into a limit refuses, and says so. */
static void test_limits(void **state) {
    (void)state;
    const struct nb_automaton_limits limits = {.max_states = 20, .max_work = 100000};
    struct nb_lazy *lazy;
    struct nb_error err;
    nb_lazy_expr expr;
    uint32_t q;
    assert_ok(nb_lazy_open(&limits, &lazy, &err), err);
    assert_ok(nb_lazy_regex(lazy, "^.*a.{30}$", 10, NB_REGEX_SEARCH, &expr, &err), err);
    assert_ok(nb_lazy_start(lazy, expr, &q, &err), err);
    seed = 1;
    for (int i = 0; i < 200 && q; i++)
        q = nb_lazy_next(lazy, q, below(2) ? 'a' : 'b');
    assert_int_equal(q, 0);
    assert_int_equal(lazy->failed, NB_ERR_LIMIT);
    assert_int_equal(nb_lazy_any(lazy, &expr, &err), NB_ERR_ARGUMENT); /* it has started */
    nb_lazy_close(lazy);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_patterns),
        cmocka_unit_test(test_counted_patterns),
        cmocka_unit_test(test_algebra),
        cmocka_unit_test(test_golden),
        cmocka_unit_test(test_dates),
        cmocka_unit_test(test_leap_seconds),
        cmocka_unit_test(test_machines_live),
        cmocka_unit_test(test_hostname_lengths),
        cmocka_unit_test(test_idna),
        cmocka_unit_test(test_forgetting),
        cmocka_unit_test(test_unknown_format),
        cmocka_unit_test(test_suite_formats),
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_shortest),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_hard_patterns),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
