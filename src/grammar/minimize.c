#include "grammar/minimize.h"

#include <stdlib.h>
#include <string.h>

#define TRY(call)                                                                                  \
    do {                                                                                           \
        enum nb_status try_status = (call);                                                        \
        if (try_status != NB_OK)                                                                   \
            return try_status;                                                                     \
    } while (0)

/* A partition of 0 … n - 1 that is refined: elements of a set lie together, the marked ones of each
 * first. */
struct partition {
    uint32_t n_sets, n_touched;
    uint32_t *elements, *location, *set_of; /* [n] */
    uint32_t *first, *past, *marked;        /* [n] by set */
    uint32_t *touched;                      /* [n] sets with marks */
};

static bool partition_init(struct partition *p, uint32_t n) {
    *p = (struct partition){.n_sets = n ? 1 : 0};
    uint32_t *memory = calloc((size_t)n + 1, 7 * sizeof *memory);
    if (!memory)
        return false;
    uint32_t **arrays[] = {&p->elements, &p->location, &p->set_of, &p->first,
                           &p->past,     &p->marked,   &p->touched};
    for (size_t i = 0; i < 7; i++)
        *arrays[i] = memory + i * ((size_t)n + 1);
    for (uint32_t i = 0; i < n; i++)
        p->elements[i] = p->location[i] = i;
    if (n)
        p->past[0] = n;
    return true;
}

static void partition_free(struct partition *p) {
    free(p->elements);
}

static void mark(struct partition *p, uint32_t element) {
    uint32_t set = p->set_of[element], at = p->location[element];
    uint32_t to = p->first[set] + p->marked[set];
    if (at < to)
        return;
    p->elements[at] = p->elements[to];
    p->location[p->elements[at]] = at;
    p->elements[to] = element;
    p->location[element] = to;
    if (!p->marked[set]++)
        p->touched[p->n_touched++] = set;
}

/* The marked part of each set becomes a set of its own, or the rest of it does: whichever is the
 * smaller gets the new number. */
static void split(struct partition *p) {
    while (p->n_touched) {
        uint32_t set = p->touched[--p->n_touched], middle = p->first[set] + p->marked[set];
        uint32_t marked = p->marked[set], all = p->past[set] - p->first[set];
        p->marked[set] = 0;
        if (marked == all)
            continue;
        uint32_t new = p->n_sets++;
        if (marked <= all - marked) {
            p->first[new] = p->first[set];
            p->past[new] = p->first[set] = middle;
        } else {
            p->past[new] = p->past[set];
            p->first[new] = p->past[set] = middle;
        }
        for (uint32_t i = p->first[new]; i < p->past[new]; i++)
            p->set_of[p->elements[i]] = new;
    }
}

struct transition {
    uint32_t from, class, to;
};

struct work {
    const struct nb_table *table;
    uint8_t *keep;     /* [n_states] reachable, and alive */
    uint32_t *compact; /* [n_states] number among those that are kept */
    uint32_t n_kept, n_transitions;
    struct transition *transitions;     /* among those kept, by class */
    uint32_t *incoming, *incoming_from; /* transitions by head; [n_kept + 1] */
    struct partition blocks, cords;
};

static enum nb_status no_memory(struct nb_error *err, size_t bytes) {
    return nb_fail_memory(err, bytes, "a minimal automaton");
}

/* Marks what can be reached from the start and can reach an accepting state. */
static bool find_kept(struct work *w) {
    const struct nb_table *t = w->table;
    size_t n = t->n_states, k = t->n_classes;
    uint32_t *stack = malloc(n * sizeof *stack), top = 0;
    uint32_t *counts = calloc(n + 1, sizeof *counts), *heads = malloc(n * k * sizeof *heads);
    w->keep = calloc(n, 1);
    bool ok = stack && counts && heads && w->keep;
    if (ok) {
        for (size_t i = k; i < n * k; i++)
            counts[t->next[i]]++;
        for (size_t i = 1; i <= n; i++)
            counts[i] += counts[i - 1];
        for (size_t i = k; i < n * k; i++)
            heads[--counts[t->next[i]]] = (uint32_t)(i / k);
        if (t->start) {
            w->keep[t->start] = 1;
            stack[top++] = t->start;
        }
        while (top) {
            const uint32_t *row = t->next + stack[--top] * k;
            for (size_t c = 0; c < k; c++)
                if (row[c] && !w->keep[row[c]]) {
                    w->keep[row[c]] = 1;
                    stack[top++] = row[c];
                }
        }
        for (uint32_t i = 1; i < n; i++)
            if (w->keep[i] && t->accepts[i]) {
                w->keep[i] = 3;
                stack[top++] = i;
            }
        while (top) {
            uint32_t s = stack[--top];
            for (uint32_t i = counts[s]; i < counts[s + 1]; i++)
                if (w->keep[heads[i]] == 1) {
                    w->keep[heads[i]] = 3;
                    stack[top++] = heads[i];
                }
        }
    }
    free(stack);
    free(counts);
    free(heads);
    return ok;
}

static bool list_transitions(struct work *w) {
    const struct nb_table *t = w->table;
    size_t n = t->n_states, k = t->n_classes;
    w->compact = calloc(n, sizeof *w->compact);
    if (!w->compact)
        return false;
    for (size_t i = 1; i < n; i++)
        if (w->keep[i] == 3)
            w->compact[i] = w->n_kept++;
    for (size_t i = k; i < n * k; i++)
        w->n_transitions += w->keep[i / k] == 3 && w->keep[t->next[i]] == 3;
    w->transitions = malloc(((size_t)w->n_transitions + 1) * sizeof *w->transitions);
    w->incoming = malloc(((size_t)w->n_transitions + 1) * sizeof *w->incoming);
    w->incoming_from = calloc((size_t)w->n_kept + 2, sizeof *w->incoming_from);
    if (!w->transitions || !w->incoming || !w->incoming_from)
        return false;
    uint32_t m = 0;
    for (size_t c = 0; c < k; c++)
        for (size_t i = 1; i < n; i++) {
            uint32_t to = t->next[i * k + c];
            if (w->keep[i] == 3 && w->keep[to] == 3)
                w->transitions[m++] =
                    (struct transition){w->compact[i], (uint32_t)c, w->compact[to]};
        }
    for (uint32_t i = 0; i < m; i++)
        w->incoming_from[w->transitions[i].to]++;
    for (uint32_t i = 1; i <= w->n_kept; i++)
        w->incoming_from[i] += w->incoming_from[i - 1];
    for (uint32_t i = m; i-- > 0;)
        w->incoming[--w->incoming_from[w->transitions[i].to]] = i;
    return true;
}

static bool refine(struct work *w) {
    if (!partition_init(&w->blocks, w->n_kept) || !partition_init(&w->cords, w->n_transitions))
        return false;
    struct partition *blocks = &w->blocks, *cords = &w->cords;
    for (uint32_t i = 1; i < w->table->n_states; i++)
        if (w->keep[i] == 3 && w->table->accepts[i])
            mark(blocks, w->compact[i]);
    split(blocks);
    /* Transitions lie by class: a set for each. */
    for (uint32_t i = 1; i < w->n_transitions; i++) {
        if (w->transitions[i].class != w->transitions[i - 1].class) {
            cords->past[cords->n_sets - 1] = i;
            cords->first[cords->n_sets] = i;
            cords->past[cords->n_sets++] = w->n_transitions;
        }
        cords->set_of[i] = cords->n_sets - 1;
    }
    for (uint32_t b = 1, c = 0; c < cords->n_sets; c++) {
        for (uint32_t i = cords->first[c]; i < cords->past[c]; i++)
            mark(blocks, w->transitions[cords->elements[i]].from);
        split(blocks);
        for (; b < blocks->n_sets; b++) {
            for (uint32_t i = blocks->first[b]; i < blocks->past[b]; i++) {
                uint32_t s = blocks->elements[i];
                for (uint32_t j = w->incoming_from[s]; j < w->incoming_from[s + 1]; j++)
                    mark(cords, w->incoming[j]);
            }
            split(cords);
        }
    }
    return true;
}

/* ---- Writing out ---- */

struct minimal {
    uint32_t n, *next; /* [n, table classes]; state = block + 1 */
    uint8_t *accepts;
};

static bool gather(const struct work *w, struct minimal *m) {
    size_t k = w->table->n_classes;
    m->n = w->blocks.n_sets + 1;
    m->next = calloc(m->n * k, sizeof *m->next);
    m->accepts = calloc(m->n, 1);
    if (!m->next || !m->accepts)
        return false;
    for (uint32_t i = 0; i < w->n_transitions; i++) {
        const struct transition *t = &w->transitions[i];
        m->next[(w->blocks.set_of[t->from] + 1) * k + t->class] = w->blocks.set_of[t->to] + 1;
    }
    for (uint32_t i = 1; i < w->table->n_states; i++)
        if (w->keep[i] == 3 && w->table->accepts[i])
            m->accepts[w->blocks.set_of[w->compact[i]] + 1] = 1;
    return true;
}

static bool same_column(const struct minimal *m, size_t k, uint32_t a, uint32_t b) {
    for (size_t s = 0; s < m->n; s++)
        if (m->next[s * k + a] != m->next[s * k + b])
            return false;
    return true;
}

/* Numbers classes by their first byte; old[] is one of the table's classes for each. */
static void number_classes(const struct nb_table *t, const struct minimal *m,
                           struct nb_automaton *out, uint8_t old[256]) {
    uint16_t new_of[256];
    memset(new_of, 0xFF, sizeof new_of);
    out->n_classes = 0;
    for (int byte = 0; byte < 256; byte++) {
        uint8_t c = t->class_of[byte];
        for (uint32_t i = 0; i < out->n_classes && new_of[c] == 0xFFFF; i++)
            if (same_column(m, t->n_classes, c, old[i]))
                new_of[c] = (uint16_t)i;
        if (new_of[c] == 0xFFFF) {
            new_of[c] = (uint16_t)out->n_classes;
            old[out->n_classes++] = c;
        }
        out->class_of[byte] = (uint8_t)new_of[c];
    }
}

/* Numbers states breadth first; order[new] = old. */
static enum nb_status write_out(const struct nb_table *t, const struct minimal *m, uint32_t start,
                                struct nb_arena *arena, struct nb_automaton *out,
                                struct nb_error *err) {
    uint8_t old[256];
    number_classes(t, m, out, old);
    size_t k = out->n_classes;
    uint32_t *order = calloc(m->n, sizeof *order), *number = calloc(m->n, sizeof *number);
    uint32_t *next = nb_arena_alloc(arena, m->n * k, sizeof *next);
    uint8_t *accepts = nb_arena_alloc(arena, m->n, 1);
    bool ok = order && number && next && accepts;
    uint32_t n = 1;
    if (ok && start) {
        number[start] = n;
        order[n++] = start;
    }
    for (uint32_t i = 1; i < n && ok; i++) {
        accepts[i] = m->accepts[order[i]];
        for (size_t c = 0; c < k; c++) {
            uint32_t to = m->next[(size_t)order[i] * t->n_classes + old[c]];
            if (to && !number[to]) {
                number[to] = n;
                order[n++] = to;
            }
            next[i * k + c] = number[to];
        }
    }
    free(order);
    free(number);
    if (!ok)
        return no_memory(err, m->n * k * sizeof *next);
    out->n_states = n;
    out->start = start ? 1 : 0;
    out->next = next;
    out->accepts = accepts;
    return NB_OK;
}

enum nb_status nb_table_minimize(const struct nb_table *table, struct nb_arena *arena,
                                 struct nb_automaton *out, struct nb_error *err) {
    struct work w = {.table = table};
    struct minimal m = {0};
    enum nb_status s = NB_OK;
    if (find_kept(&w) && list_transitions(&w) && refine(&w) && gather(&w, &m)) {
        bool alive = table->start && w.keep[table->start] == 3;
        uint32_t start = alive ? w.blocks.set_of[w.compact[table->start]] + 1 : 0;
        s = write_out(table, &m, start, arena, out, err);
    } else {
        s = no_memory(err, (size_t)table->n_states * table->n_classes * sizeof *table->next);
    }
    free(w.keep);
    free(w.compact);
    free(w.transitions);
    free(w.incoming);
    free(w.incoming_from);
    partition_free(&w.blocks);
    partition_free(&w.cords);
    free(m.next);
    free(m.accepts);
    return s;
}
