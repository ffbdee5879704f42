#include "grammar/grow.h"
#include "grammar/minimize.h"

#include <stdlib.h>
#include <string.h>

#define TRY(call)                                                                                  \
    do {                                                                                           \
        enum nb_status try_status = (call);                                                        \
        if (try_status != NB_OK)                                                                   \
            return try_status;                                                                     \
    } while (0)

/* ---- Compiling to a table ---- */

/* Starts expr and writes it out. */
static enum nb_status finish(struct nb_lazy *lazy, nb_lazy_expr expr, struct nb_arena *arena,
                             struct nb_automaton *out, struct nb_error *err) {
    uint32_t start;
    TRY(nb_lazy_start(lazy, expr, &start, err));
    return nb_lazy_table(lazy, start, arena, out, err);
}

enum nb_status nb_pattern_compile(const char *pattern, size_t n, enum nb_regex_mode mode,
                                  const struct nb_automaton_limits *limits, struct nb_arena *arena,
                                  struct nb_automaton *out, struct nb_error *err) {
    struct nb_lazy *lazy;
    nb_lazy_expr expr;
    TRY(nb_lazy_open(limits, &lazy, err));
    enum nb_status s = nb_lazy_regex(lazy, pattern, n, mode, &expr, err);
    if (s == NB_OK)
        s = finish(lazy, expr, arena, out, err);
    nb_lazy_close(lazy);
    return s;
}

enum nb_status nb_format_compile(const char *name, size_t n, enum nb_format_draft draft,
                                 const struct nb_automaton_limits *limits, struct nb_arena *arena,
                                 struct nb_automaton *out, bool *known, struct nb_error *err) {
    struct nb_lazy *lazy;
    nb_lazy_expr expr;
    TRY(nb_lazy_open(limits, &lazy, err));
    enum nb_status s = nb_lazy_format(lazy, name, n, draft, &expr, known, err);
    if (s == NB_OK && *known)
        s = finish(lazy, expr, arena, out, err);
    nb_lazy_close(lazy);
    return s;
}

enum nb_status nb_automaton_length(uint64_t min, uint64_t max,
                                   const struct nb_automaton_limits *limits, struct nb_arena *arena,
                                   struct nb_automaton *out, struct nb_error *err) {
    struct nb_lazy *lazy;
    nb_lazy_expr expr;
    TRY(nb_lazy_open(limits, &lazy, err));
    enum nb_status s = nb_lazy_length(lazy, min, max, &expr, err);
    if (s == NB_OK)
        s = finish(lazy, expr, arena, out, err);
    nb_lazy_close(lazy);
    return s;
}

/* ---- Products ---- */

enum operation { BOTH, EITHER, FIRST_NOT_SECOND };

static bool combine(enum operation operation, bool a, bool b) {
    return operation == BOTH ? a && b : operation == EITHER ? a || b : a && !b;
}

/* Whether a pair cannot accept any more. */
static bool hopeless(enum operation operation, uint32_t a, uint32_t b) {
    return operation == EITHER ? !a && !b : operation == BOTH ? !a || !b : !a;
}

struct product {
    const struct nb_automaton *a, *b;
    enum operation operation;
    struct nb_table table;
    uint64_t *pairs; /* [n_states] */
    uint32_t *index; /* open addressing: state + 1 */
    uint32_t index_size, cap;
    uint64_t max_states;
    struct nb_error *err;
};

static uint32_t hash_pair(uint64_t pair) {
    pair = (pair ^ pair >> 31) * UINT64_C(0x9E3779B97F4A7C15);
    return (uint32_t)(pair >> 32);
}

static enum nb_status grow_product(struct product *p) {
    uint32_t cap = p->cap ? 2 * p->cap : 64, size = 4 * cap;
    struct nb_table *t = &p->table;
    bool good = nb_resize(&t->next, (size_t)cap * t->n_classes, sizeof *t->next) &&
                nb_resize(&t->accepts, cap, sizeof *t->accepts) &&
                nb_resize(&p->pairs, cap, sizeof *p->pairs);
    uint32_t *index = calloc(size, sizeof *index);
    if (!good || !index) {
        free(index);
        return nb_fail_memory(p->err, (size_t)cap * t->n_classes * sizeof *t->next, "an automaton");
    }
    for (uint32_t i = 0; i < t->n_states; i++) {
        uint32_t at = hash_pair(p->pairs[i]) & (size - 1);
        while (index[at])
            at = (at + 1) & (size - 1);
        index[at] = i + 1;
    }
    free(p->index);
    p->index = index;
    p->index_size = size;
    p->cap = cap;
    return NB_OK;
}

static enum nb_status pair_state(struct product *p, uint32_t a, uint32_t b, uint32_t *out) {
    struct nb_table *t = &p->table;
    *out = 0;
    if (t->n_states && hopeless(p->operation, a, b))
        return NB_OK;
    if (t->n_states == p->cap)
        TRY(grow_product(p));
    uint64_t pair = (uint64_t)a << 32 | b;
    uint32_t at = hash_pair(pair) & (p->index_size - 1);
    for (; p->index[at]; at = (at + 1) & (p->index_size - 1))
        if (p->pairs[p->index[at] - 1] == pair && p->index[at] > 1) {
            *out = p->index[at] - 1;
            return NB_OK;
        }
    if (t->n_states >= p->max_states)
        return nb_fail(p->err, NB_ERR_LIMIT, "an automaton of more than %llu states",
                       (unsigned long long)p->max_states);
    *out = t->n_states++;
    p->pairs[*out] = pair;
    p->index[at] = *out + 1;
    t->accepts[*out] = *out > 0 && combine(p->operation, p->a->accepts[a], p->b->accepts[b]);
    return NB_OK;
}

static enum nb_status fill_product(struct product *p) {
    struct nb_table *t = &p->table;
    uint16_t class_of_pair[256][2];
    uint32_t dead, n = 0;
    for (int byte = 0; byte < 256; byte++) {
        uint32_t c = 0;
        while (c < n && (class_of_pair[c][0] != p->a->class_of[byte] ||
                         class_of_pair[c][1] != p->b->class_of[byte]))
            c++;
        if (c == n) {
            class_of_pair[c][0] = p->a->class_of[byte];
            class_of_pair[c][1] = p->b->class_of[byte];
            n++;
        }
        t->class_of[byte] = (uint8_t)c;
    }
    t->n_classes = n;
    TRY(pair_state(p, 0, 0, &dead));
    TRY(pair_state(p, p->a->start, p->b->start, &t->start));
    for (uint32_t c = 0; c < n; c++)
        t->next[c] = 0;
    for (uint32_t i = 1; i < t->n_states; i++)
        for (uint32_t c = 0; c < n; c++) {
            uint32_t a = (uint32_t)(p->pairs[i] >> 32), b = (uint32_t)p->pairs[i], to;
            a = p->a->next[(size_t)a * p->a->n_classes + class_of_pair[c][0]];
            b = p->b->next[(size_t)b * p->b->n_classes + class_of_pair[c][1]];
            TRY(pair_state(p, a, b, &to));
            t->next[(size_t)i * n + c] = to;
        }
    return NB_OK;
}

static enum nb_status make_product(const struct nb_automaton *a, const struct nb_automaton *b,
                                   enum operation operation,
                                   const struct nb_automaton_limits *limits, struct nb_arena *arena,
                                   struct nb_automaton *out, struct nb_error *err) {
    uint32_t max = limits && limits->max_states ? limits->max_states : NB_TABLE_STATES;
    struct product p = {.a = a, .b = b, .operation = operation, .max_states = max, .err = err};
    enum nb_status s = fill_product(&p);
    if (s == NB_OK)
        s = nb_table_minimize(&p.table, arena, out, err);
    free(p.table.next);
    free(p.table.accepts);
    free(p.pairs);
    free(p.index);
    return s;
}

enum nb_status nb_automaton_and(const struct nb_automaton *a, const struct nb_automaton *b,
                                const struct nb_automaton_limits *limits, struct nb_arena *arena,
                                struct nb_automaton *out, struct nb_error *err) {
    return make_product(a, b, BOTH, limits, arena, out, err);
}

enum nb_status nb_automaton_or(const struct nb_automaton *a, const struct nb_automaton *b,
                               const struct nb_automaton_limits *limits, struct nb_arena *arena,
                               struct nb_automaton *out, struct nb_error *err) {
    return make_product(a, b, EITHER, limits, arena, out, err);
}

enum nb_status nb_automaton_not(const struct nb_automaton *a,
                                const struct nb_automaton_limits *limits, struct nb_arena *arena,
                                struct nb_automaton *out, struct nb_error *err) {
    struct nb_arena scratch = {0};
    struct nb_automaton any;
    enum nb_status s = nb_automaton_length(0, UINT64_MAX, NULL, &scratch, &any, err);
    if (s == NB_OK)
        s = make_product(&any, a, FIRST_NOT_SECOND, limits, arena, out, err);
    nb_arena_free(&scratch);
    return s;
}

/* ---- Questions ---- */

bool nb_automaton_accepts(const struct nb_automaton *a, const char *text, size_t n) {
    uint32_t state = a->start;
    for (size_t i = 0; i < n && state; i++)
        state = nb_automaton_next(a, state, (uint8_t)text[i]);
    return a->accepts[state];
}

/* Minimal tables numbered alike are equal if their rows are. */
bool nb_automaton_equal(const struct nb_automaton *a, const struct nb_automaton *b) {
    if (a->n_states != b->n_states || a->start != b->start ||
        memcmp(a->accepts, b->accepts, a->n_states) != 0)
        return false;
    for (uint32_t s = 0; s < a->n_states; s++)
        for (int byte = 0; byte < 256; byte++)
            if (nb_automaton_next(a, s, (uint8_t)byte) != nb_automaton_next(b, s, (uint8_t)byte))
                return false;
    return true;
}

enum nb_status nb_automaton_shortest(const struct nb_automaton *a, uint32_t state,
                                     struct nb_arena *arena, char **text, size_t *n,
                                     struct nb_error *err) {
    if (state == 0 || state >= a->n_states)
        return nb_fail(err, NB_ERR_ARGUMENT, "nothing can follow state %u of an automaton", state);
    uint32_t *queue = malloc(a->n_states * sizeof *queue);
    uint32_t *from = calloc(a->n_states, sizeof *from); /* state + 1 it was reached from */
    uint8_t *by = malloc(a->n_states);
    enum nb_status s = NB_OK;
    uint32_t head = 0, tail = 0, end = state;
    if (!queue || !from || !by) {
        s = nb_fail_memory(err, a->n_states * sizeof *queue, "a shortest text");
    } else {
        queue[tail++] = state;
        from[state] = state + 1;
        while (head < tail && !a->accepts[end = queue[head++]])
            for (int byte = 0; byte < 256; byte++) {
                uint32_t to = nb_automaton_next(a, end, (uint8_t)byte);
                if (to && !from[to]) {
                    from[to] = end + 1;
                    by[to] = (uint8_t)byte;
                    queue[tail++] = to;
                }
            }
        *n = 0;
        for (uint32_t i = end; i != state; i = from[i] - 1)
            ++*n;
        *text = nb_arena_string(arena, "", 0);
        char *copy = nb_arena_alloc(arena, *n + 1, 1);
        if (!copy || !*text)
            s = nb_fail_memory(err, *n + 1, "a shortest text");
        size_t at = *n;
        for (uint32_t i = end; i != state && copy; i = from[i] - 1)
            copy[--at] = (char)by[i];
        *text = copy;
    }
    free(queue);
    free(from);
    free(by);
    return s;
}
