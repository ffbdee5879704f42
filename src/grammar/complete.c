/* What is asked of a value is a formula over atoms; one clause of it at a time (atoms that must
 * hold, atoms that must not) says which members and items to write. What comes out is checked by
 * the automaton itself, so that this file need not be right in all cases, only often. */
#include "grammar/complete.h"

#include "grammar/grow.h"
#include "grammar/shape.h"
#include "grammar/walk.h"

#include <stdlib.h>
#include <string.h>

enum {
    MAX_CLAUSES = 48,
    MAX_LITERALS = 40,
    MAX_DEPTH = 24, /* of values within values */
    MAX_TEXT = 1 << 20,
    MOST_VARIED = 8,    /* values in one place of an item that must differ from others */
    MOST_WALKED = 4000, /* strings, on the way to one that will do */
};

struct clause {
    uint32_t n;
    uint32_t atoms[MAX_LITERALS];
    bool holds[MAX_LITERALS];
};

struct clauses {
    uint32_t n;
    struct clause *list; /* [MAX_CLAUSES] */
};

struct completer {
    struct nb_reader *r;
    struct nb_space *s;
    uint32_t work, most_work; /* values and clauses tried */
    bool no_memory;           /* for one of them */
};

static void drop(struct completer *c, struct nb_buf *text) {
    c->no_memory |= text->failed;
    nb_buf_free(text);
}

/* What a value is to be: of its site's roots, those in `yes` true and those in `no` false. Sites
 * with more roots are not planned for. */
enum { MOST_ROOTS = 512, ROOT_WORDS = MOST_ROOTS / 64 };
struct goal {
    const struct nb_site *site;
    uint64_t yes[ROOT_WORDS], no[ROOT_WORDS];
    const struct others *others; /* NULL: it may be what another is */
};

/* The items that one more must differ from, by their hashes: those of a text that is there, and
 * those that were planned behind them. */
struct others {
    const struct nb_seen *seen;
    uint64_t n_seen;
    uint64_t *hashes; /* [n] */
    uint32_t n, cap;
};

static bool value_for(struct completer *c, const struct goal *goal, int depth, struct nb_buf *out);

/* ---- clauses ---- */

static bool add_literal(struct clause *c, uint32_t atom, bool holds) {
    for (uint32_t i = 0; i < c->n; i++) {
        if (c->atoms[i] == atom)
            return c->holds[i] == holds;
    }
    if (c->n == MAX_LITERALS)
        return true; /* left out */
    c->atoms[c->n] = atom;
    c->holds[c->n++] = holds;
    return true;
}

static bool clauses_open(struct completer *c, struct clauses *to) {
    to->n = 0;
    to->list = malloc(MAX_CLAUSES * sizeof *to->list);
    c->no_memory |= !to->list;
    return to->list;
}

static void add_clause(struct clauses *to, const struct clause *clause) {
    if (to->n < MAX_CLAUSES)
        to->list[to->n++] = *clause;
}

/* All pairs of a clause of a and one of b, into a. */
static bool multiply(struct completer *c, struct clauses *a, const struct clauses *b) {
    struct clauses product;
    if (!clauses_open(c, &product))
        return false;
    for (uint32_t i = 0; i < a->n; i++) {
        for (uint32_t j = 0; j < b->n && product.n < MAX_CLAUSES; j++) {
            struct clause both = a->list[i];
            bool good = true;
            for (uint32_t k = 0; k < b->list[j].n && good; k++)
                good = add_literal(&both, b->list[j].atoms[k], b->list[j].holds[k]);
            if (good)
                add_clause(&product, &both);
        }
    }
    free(a->list);
    *a = product;
    return true;
}

static bool expand(struct completer *c, nb_formula f, bool holds, struct clauses *out);

/* All of the arguments as `holds` says (multiplied), or any of them (added). */
static bool expand_all(struct completer *c, const nb_formula *args, uint32_t n, bool holds,
                       uint32_t except, struct clauses *out) {
    static const struct clause nothing;
    bool good = true;
    out->n = 0;
    add_clause(out, &nothing);
    for (uint32_t i = 0; i < n && good; i++) {
        struct clauses one;
        if (i == except)
            continue;
        if (!clauses_open(c, &one))
            return false;
        good = expand(c, args[i], holds, &one) && multiply(c, out, &one);
        free(one.list);
    }
    return good;
}

static bool expand_any(struct completer *c, const nb_formula *args, uint32_t n, bool holds,
                       uint32_t most, struct clauses *out) {
    bool good = true;
    for (uint32_t i = 0; i < n && good && out->n < most; i++) {
        struct clauses one;
        if (!clauses_open(c, &one))
            return false;
        good = expand(c, args[i], holds, &one);
        for (uint32_t j = 0; j < one.n && good && out->n < most; j++)
            add_clause(out, &one.list[j]);
        free(one.list);
    }
    return good;
}

/* Exactly one: first each on its own, hoping that the others fail; then, in the room that is left,
 * with the others planned for. */
static bool expand_one(struct completer *c, const nb_formula *args, uint32_t n,
                       struct clauses *out) {
    bool good = expand_any(c, args, n, true, MAX_CLAUSES * 3 / 4, out);
    for (uint32_t i = 0; i < n && good && out->n < MAX_CLAUSES; i++) {
        struct clauses yes, no;
        if (!clauses_open(c, &yes))
            return false;
        good = clauses_open(c, &no) && expand(c, args[i], true, &yes) &&
               expand_all(c, args, n, false, i, &no) && multiply(c, &yes, &no);
        for (uint32_t j = 0; j < yes.n && good; j++)
            add_clause(out, &yes.list[j]);
        free(yes.list);
        free(no.list);
    }
    return good;
}

/* *out, empty before, becomes clauses that make f true, or false; not all of them where there are
 * too many. */
static bool expand(struct completer *c, nb_formula f, bool holds, struct clauses *out) {
    const struct nb_formula_node *node = &c->s->formulas[f];
    struct clause clause = {0};
    if (++c->work > c->most_work)
        return false;
    switch (node->op) {
    case NB_F_CONST:
        if ((f == NB_TRUE) == holds)
            add_clause(out, &clause);
        return true;
    case NB_F_ATOM:
        add_literal(&clause, node->n, holds);
        add_clause(out, &clause);
        return true;
    case NB_F_NOT:
        return expand(c, node->args[0], !holds, out);
    case NB_F_ONE:
        return holds ? expand_one(c, node->args, node->n, out)
                     : expand_all(c, node->args, node->n, false, UINT32_MAX, out);
    default:
        if ((node->op == NB_F_AND) == holds)
            return expand_all(c, node->args, node->n, holds, UINT32_MAX, out);
        return expand_any(c, node->args, node->n, holds, MAX_CLAUSES, out);
    }
}

/* The formula of a goal for one kind. */
static nb_formula wanted(struct completer *c, const struct nb_shape *shape,
                         const struct goal *goal) {
    nb_formula all[MOST_ROOTS];
    uint32_t n = 0;
    for (uint32_t i = 0; i < shape->n_roots && i < MOST_ROOTS; i++) {
        if (nb_bit(goal->yes, i))
            all[n++] = shape->roots[i];
        if (nb_bit(goal->no, i))
            all[n++] = nb_formula_make(c->s, NB_F_NOT, &shape->roots[i], 1);
    }
    return nb_formula_make(c->s, NB_F_AND, all, n);
}

/* ---- checking ---- */

/* Whether a value's text reaches the goal. */
static bool reaches(struct completer *c, const struct goal *goal, const struct nb_buf *text) {
    uint64_t wrong[ROOT_WORDS] = {0};
    struct nb_site *site = (struct nb_site *)(uintptr_t)goal->site;
    if (!site->alone && !(site->alone = nb_space_alloc(c->s, 1, sizeof *site->alone)))
        return false;
    site->alone->site = site;
    struct nb_state state[2] = {{.mode = NB_MODE_VALUE, .link = site->alone}};
    size_t i = 0;
    struct nb_reader probe = *c->r; /* judges apart, in the same arena and tables */
    probe.verdict = wrong;
    while (i < text->len &&
           nb_state_step(&probe, &state[i % 2], &state[(i + 1) % 2], (uint8_t)text->data[i]))
        i++;
    bool ended = i == text->len && nb_state_can_end(&probe, &state[i % 2]);
    probe.verdict = NULL;
    *c->r = probe;
    for (uint32_t w = 0; w < ROOT_WORDS; w++)
        ended &= !(wrong[w] & goal->yes[w]) && !(goal->no[w] & ~wrong[w]);
    return ended;
}

/* ---- items that differ ---- */

static bool hash_text(const char *text, size_t n, uint64_t *hash) {
    struct nb_arena arena = {0};
    struct nb_value value;
    struct nb_error err;
    bool good = nb_value_parse(text, n, "text", &arena, &value, &err) == NB_OK;
    if (good)
        *hash = nb_hash_value(&value);
    nb_arena_free(&arena);
    return good;
}

static bool is_new(const struct goal *goal, const char *text, size_t n) {
    const struct others *o = goal->others;
    uint64_t hash;
    if (!o)
        return true;
    if (!hash_text(text, n, &hash) || nb_seen_has(o->seen, hash))
        return false;
    for (uint32_t i = 0; i < o->n; i++) {
        if (o->hashes[i] == hash)
            return false;
    }
    return true;
}

static bool add_other(struct others *o, const char *text, size_t n) {
    uint64_t hash;
    if (!hash_text(text, n, &hash) || !nb_grow(&o->hashes, o->n, 1, &o->cap, sizeof *o->hashes))
        return false;
    o->hashes[o->n++] = hash;
    return true;
}

static uint32_t count_others(const struct goal *goal) {
    uint64_t n = goal->others ? goal->others->n_seen + goal->others->n : 0;
    return n < 4096 ? (uint32_t)n : 4096;
}

/* ---- scalars ---- */

/* Strings by length, until one is new. */
struct stringing {
    struct completer *c;
    const struct goal *goal;
    struct nb_lazy *lazy; /* NULL: any string */
    struct nb_buf *out;
};

static uint32_t next_of_string(void *context, uint32_t state, uint8_t byte) {
    struct stringing *s = context;
    if (!s->lazy)
        return 0;
    uint32_t to = nb_lazy_next(s->lazy, state, byte);
    return to ? to : NB_WALK_DEAD;
}

static bool take_string(void *context, uint32_t state, const char *text, size_t n) {
    struct stringing *s = context;
    if (s->lazy && !s->lazy->accepts[state])
        return false;
    s->c->work++;
    nb_buf_clear(s->out);
    nb_buf_add_json_string(s->out, text, n);
    return !s->out->failed && is_new(s->goal, s->out->data, s->out->len);
}

/* The shortest of a set that is new. */
static bool set_string(const struct nb_shape *shape, const struct goal *goal, struct nb_buf *out) {
    struct nb_buf text = {0};
    bool found = false;
    for (uint32_t i = 0; i < shape->set.n; i++) {
        nb_buf_clear(&text);
        nb_buf_add_json_string(&text, shape->set.keys[i].text, shape->set.keys[i].n);
        if (text.failed || (found && text.len >= out->len) || !is_new(goal, text.data, text.len))
            continue;
        nb_buf_clear(out);
        nb_buf_add(out, text.data, text.len);
        found = true;
    }
    out->failed |= text.failed;
    nb_buf_free(&text);
    return found;
}

/* Into *out, which is empty. */
static bool string_for(struct completer *c, const struct nb_shape *shape, nb_formula want,
                       const struct goal *goal, struct nb_buf *out) {
    char *text;
    size_t n;
    struct nb_language *l = NULL;
    if (shape->string == NB_STRING_SET && want == shape->roots[0] && shape->set.n)
        return set_string(shape, goal, out);
    if (want != NB_TRUE) {
        l = nb_language_of(c->s, want);
        if (!l || !l->start || nb_lazy_shortest(l->lazy, l->start, &text, &n, NULL) != NB_OK)
            return false;
        nb_buf_add_json_string(out, text, n);
        free(text);
    } else {
        nb_buf_add_json_string(out, "", 0);
    }
    if (is_new(goal, out->data, out->len))
        return true;
    struct stringing s = {c, goal, l ? l->lazy : NULL, out};
    struct nb_walk walk = {&s, next_of_string, take_string, count_others(goal) + 2, MOST_WALKED};
    return nb_walk_strings(&walk, l ? l->start : 0);
}

static bool number_does(struct completer *c, const struct nb_shape *shape, nb_formula want,
                        struct nb_decimal v) {
    for (uint32_t i = 0; i < shape->n_atoms; i++)
        c->s->value[shape->atoms[i]->id] =
            nb_number_holds(shape->atoms[i], v, nb_decimal_is_integer(v));
    nb_formula_begin(c->s);
    bool does = nb_formula_value(c->s, want) == NB_TRUE;
    for (uint32_t i = 0; i < shape->n_atoms; i++)
        c->s->value[shape->atoms[i]->id] = 2;
    return does;
}

/* Keeps the shorter of what is in `best` and v. */
static void try_number(struct completer *c, const struct nb_shape *shape, nb_formula want,
                       const struct goal *goal, struct nb_decimal v, char best[64],
                       size_t *n_best) {
    char text[64];
    size_t n = nb_decimal_write(v, text);
    c->work++;
    if ((!*n_best || n < *n_best) && number_does(c, shape, want, v) && is_new(goal, text, n)) {
        memcpy(best, text, n);
        *n_best = n;
    }
}

/* v and what lies just beside it. */
static void try_around(struct completer *c, const struct nb_shape *shape, nb_formula want,
                       const struct goal *goal, struct nb_decimal v, char best[64],
                       size_t *n_best) {
    static const int32_t steps[] = {0, -1, -3};
    try_number(c, shape, want, goal, v, best, n_best);
    for (int i = 0; i < 3; i++) {
        /* v plus and minus a step, by way of multiples of the step */
        struct nb_decimal step = {.digits = 1, .exponent = steps[i]}, up, down;
        struct nb_decimal minus = v;
        minus.negative = !v.negative && v.digits;
        if (nb_decimal_next_multiple(v, step, &up)) {
            try_number(c, shape, want, goal, up, best, n_best);
            struct nb_decimal above = nb_decimal_add(up, step);
            try_number(c, shape, want, goal, above, best, n_best);
        }
        if (nb_decimal_next_multiple(minus, step, &down)) {
            down = nb_decimal_add(down, step);
            down.negative = !down.negative && down.digits;
            try_number(c, shape, want, goal, down, best, n_best);
        }
    }
}

/* From v on upwards, or downwards, in steps of three sizes, as many as there are items to differ
 * from. */
static void try_along(struct completer *c, const struct nb_shape *shape, nb_formula want,
                      const struct goal *goal, struct nb_decimal v, bool up, char best[64],
                      size_t *n_best) {
    static const int32_t steps[] = {0, -1, -3};
    uint32_t most = goal->others ? count_others(goal) + 2 : 0;
    for (int i = 0; i < 3; i++) {
        struct nb_decimal step = {.digits = 1, .exponent = steps[i], .negative = !up}, at = v;
        for (uint32_t k = 0; k < most && !*n_best; k++) {
            try_number(c, shape, want, goal, at, best, n_best);
            at = nb_decimal_add(at, step);
        }
    }
}

static bool number_for(struct completer *c, const struct nb_shape *shape, nb_formula want,
                       const struct goal *goal, struct nb_buf *out) {
    char best[64];
    size_t n = 0;
    /* Where items are to differ, so many came before. */
    uint32_t came = count_others(goal);
    for (int64_t i = came; i < came + 10 && came; i++)
        try_number(c, shape, want, goal, nb_decimal_from_int(i), best, &n);
    for (int64_t i = 0; i < 10; i++)
        try_number(c, shape, want, goal, nb_decimal_from_int(i), best, &n);
    for (uint32_t i = 0; i < shape->n_atoms && n != 1; i++) {
        const struct nb_atom *a = shape->atoms[i];
        for (uint32_t k = 0; k < a->n && k < 256 + came && a->kind == NB_ATOM_NUMBERS; k++)
            try_around(c, shape, want, goal, a->numbers[k], best, &n);
        if (a->has_least)
            try_around(c, shape, want, goal, a->least, best, &n);
        if (a->has_most)
            try_around(c, shape, want, goal, a->most, best, &n);
        if (a->has_least)
            try_along(c, shape, want, goal, a->least, true, best, &n);
        if (a->has_most)
            try_along(c, shape, want, goal, a->most, false, best, &n);
        if (!a->has_multiple)
            continue;
        struct nb_decimal v, from[4] = {a->multiple_of, a->least, a->most, a->most};
        for (int k = 0; k < 4; k++) {
            /* The last time downwards: upwards from the negative, and negative again. */
            from[k].negative ^= k == 3 && from[k].digits;
            if (!nb_decimal_next_multiple(from[k], a->multiple_of, &v))
                continue;
            for (uint32_t step = 0; step < 8 + came; step++) {
                struct nb_decimal at = v;
                at.negative ^= k == 3 && at.digits;
                try_number(c, shape, want, goal, at, best, &n);
                v = nb_decimal_add(v, a->multiple_of);
            }
        }
    }
    if (!n) {
        try_number(c, shape, want, goal, nb_decimal_parse("0.5", 3), best, &n);
        try_number(c, shape, want, goal, nb_decimal_parse("-1", 2), best, &n);
        try_number(c, shape, want, goal, nb_decimal_parse("1e9", 3), best, &n);
    }
    nb_buf_add(out, best, n);
    return n;
}

/* ---- containers ---- */

/* Which of a link's roots a clause wants true and false. Counted ones (contains) only where
 * `contained` says so: then they are true for an atom that is to be broken, too. */
static struct goal goal_of(const struct nb_link *link, const struct clause *clause,
                           const struct nb_atom *broken, bool contained) {
    struct goal goal = {.site = link->site};
    for (uint32_t i = 0; i < link->n_effects; i++) {
        const struct nb_effect *e = &link->effects[i];
        if (e->root >= MOST_ROOTS)
            continue;
        for (uint32_t k = 0; k < clause->n; k++) {
            if (clause->atoms[k] != e->atom->id)
                continue;
            if (e->counter == UINT32_MAX) {
                if (clause->holds[k])
                    nb_set_bit(goal.yes, e->root);
                else if (e->atom == broken)
                    nb_set_bit(goal.no, e->root);
            } else if (contained ? clause->holds[k] || e->atom == broken : !clause->holds[k]) {
                nb_set_bit(contained ? goal.yes : goal.no, e->root);
            }
        }
    }
    for (uint32_t w = 0; w < ROOT_WORDS; w++)
        goal.no[w] &= ~goal.yes[w];
    return goal;
}

/* In a conjunction the link speaks of one atom for all: what breaks any of them will do. */
static struct goal member_goal(const struct nb_shape *shape, const struct nb_link *link,
                               const struct clause *clause, const struct nb_atom *broken,
                               bool contained) {
    struct goal goal = goal_of(link, clause, broken, contained);
    bool holds = true;
    for (uint32_t i = 0; i < clause->n; i++)
        holds &= clause->holds[i];
    for (uint32_t i = 0; i < link->n_effects && shape->conjunction; i++) {
        const struct nb_effect *e = &link->effects[i];
        if (e->counter != UINT32_MAX || e->root >= MOST_ROOTS)
            continue;
        goal.yes[e->root / 64] &= ~(UINT64_C(1) << e->root % 64);
        if (broken)
            nb_set_bit(goal.no, e->root);
        else if (holds)
            nb_set_bit(goal.yes, e->root);
    }
    for (uint32_t w = 0; w < ROOT_WORDS; w++)
        goal.no[w] &= ~goal.yes[w];
    return goal;
}

/* A container in the making: from what is there (frame, or NULL) to a text with its end. */
struct plan {
    struct nb_shape *shape;
    const struct nb_frame *frame;
    bool comma; /* something stands before the next member or item */
    const struct clause *clause;
    const struct nb_atom *broken; /* an atom that must not hold, and shall be made to fail */
    enum way {
        BY_VALUE, /* of a member or an item */
        BY_COUNT, /* of all of them */
        BY_REPEAT,
        BY_CONTAINED, /* too many of those that `contains` counts */
        BY_DEPENDENCY,
    } way;
    const struct nb_dependency *dependency; /* its key comes, and not what that needs */
    uint32_t extra;                         /* members or items more than must be */
    bool unnamed; /* members that only their number asks for have keys that no atom names */
    bool filled;  /* noted: there are others among them */
    /* Not NULL: the value that is the vary_at-th to be planned differs from these. Where it is in
     * the text is noted: n_varied bytes from `varied` on. */
    struct others *vary;
    uint32_t vary_at, planned;
    size_t varied, n_varied;
};

/* The value of a member or an item. */
static bool plan_value(struct completer *c, struct plan *p, struct goal goal, int depth,
                       struct nb_buf *out) {
    bool varies = p->vary && p->planned++ == p->vary_at;
    size_t before = out->len;
    if (varies)
        goal.others = p->vary;
    bool made = value_for(c, &goal, depth + 1, out);
    if (varies && made) {
        p->varied = before;
        p->n_varied = out->len - before;
    }
    return made;
}

/* Makes a plan for the i-th way to break its atom; false if there are not so many. */
static bool nth_way(struct plan *p, uint32_t i) {
    const struct nb_atom *a = p->broken;
    enum way ways[4] = {BY_VALUE};
    uint32_t n = 1;
    if (a && a->max != UINT64_MAX)
        ways[n++] = BY_COUNT;
    if (a && a->unique)
        ways[n++] = BY_REPEAT;
    if (a && a->contains && a->max_contains != UINT64_MAX)
        ways[n++] = BY_CONTAINED;
    if (i >= n && (!a || i - n >= a->n_dependencies))
        return false;
    p->way = i < n ? ways[i] : BY_DEPENDENCY;
    p->dependency = i < n ? NULL : &a->dependencies[i - n];
    return true;
}

static const struct nb_atom *find_atom(const struct nb_shape *shape, uint32_t id) {
    for (uint32_t i = 0; i < shape->n_atoms; i++) {
        if (shape->atoms[i]->id == id)
            return shape->atoms[i];
    }
    return NULL;
}

/* Whether no two items may be the same. */
static bool asks_unique(const struct plan *p) {
    for (uint32_t i = 0; i < p->clause->n && p->way != BY_REPEAT; i++) {
        const struct nb_atom *a = find_atom(p->shape, p->clause->atoms[i]);
        if (a && a->unique && p->clause->holds[i])
            return true;
    }
    return false;
}

static bool array_items(struct completer *c, struct plan *p, struct others *others, int depth,
                        struct nb_buf *out) {
    uint64_t count = p->frame ? p->frame->count : 0, least = 0, contained = 0;
    bool comma = p->comma;
    for (uint32_t i = 0; i < p->clause->n; i++) {
        const struct nb_atom *a = find_atom(p->shape, p->clause->atoms[i]);
        bool exceeds = a && a == p->broken && p->way == BY_CONTAINED;
        if (!a || !(p->clause->holds[i] || exceeds))
            continue;
        least = a->min > least && !exceeds ? a->min : least;
        if (a->contains) {
            uint32_t k = 0;
            while (p->shape->atoms[k] != a)
                k++;
            uint32_t counter = p->shape->family->counter[p->shape->in_family[k]];
            uint64_t has = p->frame ? p->frame->extra[counter] : 0;
            uint64_t asked = exceeds ? a->max_contains + 1 : a->min_contains;
            if (asked > has && asked - has > contained)
                contained = asked - has;
        }
    }
    if (p->broken && p->way <= BY_COUNT && p->broken->max < UINT64_MAX && p->broken->max >= least)
        least = p->broken->max + 1;
    /* Two of the shortest are alike, where there are no prefixes. */
    if (p->way == BY_REPEAT) {
        uint64_t from = p->shape->family->n_prefix;
        least = least > from + 2 ? least : from + 2;
        least = least > count + 2 ? least : count + 2;
    }
    least = (least > count ? least : count) + p->extra;
    bool breaks = p->broken && p->way == BY_VALUE;
    while (count < least || contained || breaks) {
        if (count > 4096 || out->len > MAX_TEXT)
            return false;
        const struct nb_link *link = nb_link_item(c->s, p->shape, count);
        if (!link)
            return false;
        const struct nb_atom *broken = breaks || p->way == BY_CONTAINED ? p->broken : NULL;
        struct goal goal = member_goal(p->shape, link, p->clause, broken, contained > 0);
        goal.others = others;
        bool breaking = breaks && nb_any_bit(goal.no, ROOT_WORDS),
             prefix = count < p->shape->family->n_prefix;
        if (breaks && !breaking && !prefix && count >= least && !contained)
            break;
        if (comma)
            nb_buf_add(out, ",", 1);
        size_t before = out->len;
        bool made = plan_value(c, p, goal, depth, out);
        if (!made && breaking && (prefix || p->broken->max < UINT64_MAX)) {
            /* Then another one breaks the atom, or their number does. */
            breaking = false;
            goal = member_goal(p->shape, link, p->clause, NULL, contained > 0);
            goal.others = others;
            made = plan_value(c, p, goal, depth, out);
        }
        if (!made || (others && !add_other(others, out->data + before, out->len - before)))
            return false;
        comma = true;
        breaks &= !breaking;
        contained -= contained > 0;
        count++;
    }
    nb_buf_add(out, "]", 1);
    return true;
}

static bool array_text(struct completer *c, struct plan *p, int depth, struct nb_buf *out) {
    struct others others = {0};
    if (p->frame) {
        others.seen = p->frame->seen;
        others.n_seen = p->frame->count;
    }
    bool good = array_items(c, p, asks_unique(p) ? &others : NULL, depth, out);
    free(others.hashes);
    return good;
}

/* Whether a key is in the part of an object that is there. */
static bool has_key(const struct nb_frame *f, uint32_t rank) {
    return f && nb_bit(f->extra, rank);
}

static void want_key(const struct nb_family *f, const struct nb_value_key *key, uint64_t *keys) {
    int32_t rank = nb_trie_find(&f->keys, key->text, key->n);
    if (rank >= 0)
        nb_set_bit(keys, (uint32_t)rank);
}

/* The keys that a clause needs. */
static void needed_keys(const struct plan *p, uint64_t *keys) {
    const struct nb_family *f = p->shape->family;
    for (uint32_t i = 0; i < p->clause->n; i++) {
        const struct nb_atom *a = find_atom(p->shape, p->clause->atoms[i]);
        if (!a || !p->clause->holds[i])
            continue;
        if (a->kind == NB_ATOM_HAS)
            want_key(f, &a->keys[0], keys);
        for (uint32_t k = 0; k < a->n_required; k++)
            want_key(f, &a->required[k], keys);
    }
    /* What they need in turn. */
    for (bool more = true; more;) {
        more = false;
        for (uint32_t i = 0; i < p->clause->n; i++) {
            const struct nb_atom *a = find_atom(p->shape, p->clause->atoms[i]);
            for (uint32_t k = 0; a && p->clause->holds[i] && k < a->n_dependencies; k++) {
                const struct nb_dependency *d = &a->dependencies[k];
                int32_t key = nb_trie_find(&f->keys, d->key.text, d->key.n);
                int32_t needs = nb_trie_find(&f->keys, d->needs.text, d->needs.n);
                bool there = nb_bit(keys, (uint32_t)key) || has_key(p->frame, (uint32_t)key);
                if (there && !nb_bit(keys, (uint32_t)needs)) {
                    nb_set_bit(keys, (uint32_t)needs);
                    more = true;
                }
            }
        }
    }
}

static bool add_member(struct completer *c, struct plan *p, const char *key, size_t n,
                       const struct nb_link *link, const struct nb_atom *broken, bool *comma,
                       int depth, struct nb_buf *out) {
    if (!link || out->len > MAX_TEXT)
        return false;
    struct goal goal = member_goal(p->shape, link, p->clause, broken, false);
    if (*comma)
        nb_buf_add(out, ",", 1);
    nb_buf_add_json_string(out, key, n);
    nb_buf_add(out, ":", 1);
    *comma = true;
    return plan_value(c, p, goal, depth, out);
}

/* Members with keys that no atom names: short ones that the schema allows. */
struct adding {
    struct completer *c;
    struct plan *p;
    uint64_t missing; /* so many more */
    bool breaks;      /* the next one is to break the plan's atom */
    bool made;        /* all that was asked for */
    bool empty;       /* the key that has no characters may come, too */
    bool *comma;
    int depth;
    struct nb_buf *out;
};

static uint32_t next_of_key(void *context, uint32_t state, uint8_t byte) {
    const struct adding *a = context;
    const struct plan *p = a->p;
    struct nb_machine *m = &p->shape->family->machine;
    if (!m->n)
        return 0;
    uint32_t to = nb_machine_next(a->c->s, m, state, byte);
    bool dead = a->c->s->failed || a->c->work > a->c->most_work ||
                (p->shape->conjunction && !nb_shape_other_alive(a->c->s, p->shape, to));
    return dead ? NB_WALK_DEAD : to;
}

/* Whether a key makes the atom of the plan fail, by itself or by its value. */
static bool key_breaks(const struct plan *p, const struct nb_link *link) {
    struct goal goal = member_goal(p->shape, link, p->clause, p->broken, false);
    return nb_any_bit(goal.no, ROOT_WORDS) || !find_atom(link->after, p->broken->id);
}

/* Whether a key, whatever its value, makes an atom fail that must hold. */
static bool key_spoils(const struct plan *p, const struct nb_link *link) {
    for (uint32_t i = 0; i < p->clause->n; i++) {
        uint32_t id = p->clause->atoms[i];
        if (p->clause->holds[i] && find_atom(p->shape, id) && !find_atom(link->after, id))
            return true;
    }
    return link->dead && p->shape->conjunction;
}

static bool take_key(void *context, uint32_t state, const char *text, size_t n) {
    struct adding *a = context;
    struct plan *p = a->p;
    if (++a->c->work > a->c->most_work)
        return true;
    if ((!n && !a->empty) || nb_trie_find(&p->shape->family->keys, text, n) >= 0 ||
        (p->frame && nb_seen_has(p->frame->seen, nb_hash_string(text, n))))
        return false;
    const struct nb_link *link = nb_link_other(a->c->s, p->shape, state);
    if (!link || key_spoils(p, link) || (a->breaks && !key_breaks(p, link)))
        return false;
    size_t before = a->out->len;
    bool had = *a->comma;
    if (!add_member(a->c, p, text, n, link, a->breaks ? p->broken : NULL, a->comma, a->depth,
                    a->out)) {
        a->out->len = before;
        *a->comma = had;
        return false;
    }
    a->missing -= a->missing > 0;
    a->made = a->breaks || !a->missing;
    return a->made;
}

static bool add_others(struct completer *c, struct plan *p, uint64_t n, bool breaks, bool *comma,
                       int depth, struct nb_buf *out) {
    struct nb_machine *m = &p->shape->family->machine;
    struct adding a = {c, p, n, breaks, false, false, comma, depth, out};
    uint64_t each = n + 2 + (p->frame ? p->frame->count : 0) + p->shape->family->keys.n;
    struct nb_walk walk = {&a, next_of_key, take_key, each < 4096 ? (uint32_t)each : 4096,
                           MOST_WALKED};
    uint32_t start = m->n ? nb_machine_start(c->s, m) : 0;
    for (int pass = 0; pass < 2 && !a.made && breaks; pass++) {
        a.empty = pass > 0;
        nb_walk_strings(&walk, start);
    }
    if (breaks && !a.made)
        return false;
    a.breaks = a.made = false;
    for (int pass = 0; pass < 2 && a.missing; pass++) {
        a.empty = pass > 0;
        nb_walk_strings(&walk, start);
    }
    return !a.missing;
}

static bool object_members(struct completer *c, struct plan *p, uint64_t *keys, int depth,
                           struct nb_buf *out) {
    const struct nb_family *f = p->shape->family;
    uint64_t count = p->frame ? p->frame->count : 0, least = 0;
    bool comma = p->comma, breaks = p->broken && p->way == BY_VALUE;
    for (uint32_t i = 0; i < p->clause->n; i++) {
        const struct nb_atom *a = find_atom(p->shape, p->clause->atoms[i]);
        if (a && p->clause->holds[i] && a->min > least)
            least = a->min;
    }
    const struct nb_dependency *d = p->dependency;
    int32_t avoid = d ? nb_trie_find(&f->keys, d->needs.text, d->needs.n) : -1;
    if (d)
        want_key(f, &d->key, keys);
    if (p->broken && p->way == BY_COUNT && p->broken->max >= least)
        least = p->broken->max + 1;
    least = p->extra ? (least > count ? least : count) + p->extra : least;
    needed_keys(p, keys);
    for (uint32_t place = 0; place < f->keys.n; place++) {
        uint32_t rank = f->by_order[place];
        bool needed = nb_bit(keys, rank);
        if (has_key(p->frame, rank) || (rank == (uint32_t)avoid && !needed))
            continue;
        const struct nb_link *link = NULL;
        bool breaking = false;
        if (breaks) {
            link = nb_link_key(c->s, p->shape, rank);
            if (link) {
                struct goal goal = member_goal(p->shape, link, p->clause, p->broken, false);
                breaking = nb_any_bit(goal.no, ROOT_WORDS);
            }
        }
        uint32_t missing = 0;
        for (uint32_t w = 0; w < f->n_words; w++)
            missing +=
                (uint32_t)__builtin_popcountll(keys[w] & ~(p->frame ? p->frame->extra[w] : 0));
        bool fills = !needed && !breaking;
        if (fills && (count + missing >= least || p->unnamed))
            continue;
        p->filled |= fills;
        size_t before = out->len;
        bool had = comma;
        if (!link)
            link = nb_link_key(c->s, p->shape, rank);
        const struct nb_value_key *key = &f->keys.keys[rank];
        bool made = add_member(c, p, key->text, key->n, link, breaking ? p->broken : NULL, &comma,
                               depth, out);
        if (!made) {
            out->len = before;
            comma = had;
        } else if (breaking) {
            breaks = false;
        }
        if (!made && breaking && (needed || count + missing < least)) {
            /* Then another one breaks the atom. */
            made = add_member(c, p, key->text, key->n, link, NULL, &comma, depth, out);
            if (!made) {
                out->len = before;
                comma = had;
            }
        }
        if (!made && needed)
            return false;
        count += made;
        keys[rank / 64] &= ~(UINT64_C(1) << rank % 64);
    }
    uint64_t others = count < least ? least - count : 0;
    if (breaks && !others)
        others = 1;
    return !others || add_others(c, p, others, breaks, &comma, depth, out);
}

static bool object_text(struct completer *c, struct plan *p, int depth, struct nb_buf *out) {
    uint64_t *keys = calloc(p->shape->family->n_words + 1, sizeof *keys);
    bool good = keys && object_members(c, p, keys, depth, out);
    c->no_memory |= !keys;
    free(keys);
    nb_buf_add(out, "}", 1);
    return good;
}

/* Calls `try` with texts that may end a container as `want` asks, until it takes one: first such as
 * have no more in them than must be, then with up to most_extra members or items more. */
typedef bool (*try_fn)(void *context, const struct nb_buf *text);

/* Follows a plan: once. */
static bool follow_plan(struct completer *c, struct plan *plan, int depth, struct nb_buf *text) {
    plan->planned = 0;
    plan->n_varied = 0;
    plan->filled = false;
    if (++c->work > c->most_work || c->s->failed)
        return false;
    bool good = plan->shape->kind == NB_VALUE_ARRAY ? array_text(c, plan, depth, text)
                                                    : object_text(c, plan, depth, text);
    return good && !text->failed;
}

/* Follows a plan; where the text is not taken, again without members that have names and need not
 * be; and then, up to most_varied times each, with another value in one of its first places. */
static bool try_plan(struct completer *c, struct plan *plan, uint32_t most_varied, int depth,
                     try_fn try, void *context) {
    enum { PLACES = 4 };
    struct others others = {0};
    bool done = false;
    plan->vary = NULL;
    plan->unnamed = false;
    for (int pass = 0; pass < 2 && !done && (!pass || plan->filled); pass++) {
        struct nb_buf text = {0};
        plan->unnamed = pass > 0;
        done = follow_plan(c, plan, depth, &text) && try(context, &text);
        drop(c, &text);
    }
    plan->vary = &others;
    for (plan->vary_at = 0; plan->vary_at < PLACES && !done && most_varied; plan->vary_at++) {
        others.n = 0;
        for (uint32_t i = 0; i <= most_varied && !done; i++) {
            struct nb_buf text = {0};
            done = follow_plan(c, plan, depth, &text) && try(context, &text);
            if (!plan->n_varied || text.failed ||
                !add_other(&others, text.data + plan->varied, plan->n_varied))
                i = most_varied; /* on to the next place */
            drop(c, &text);
        }
    }
    free(others.hashes);
    return done;
}

static bool try_containers(struct completer *c, struct nb_shape *shape,
                           const struct nb_frame *frame, bool comma, nb_formula want,
                           uint32_t most_extra, int depth, try_fn try, void *context) {
    struct clauses clauses;
    if (!clauses_open(c, &clauses))
        return false;
    bool done = false;
    expand(c, want, true, &clauses);
    for (uint32_t i = 0; i < clauses.n && !done; i++) {
        const struct clause *clause = &clauses.list[i];
        /* First as it comes; then with one atom that must fail made to. */
        for (uint32_t k = 0; k <= clause->n && !done; k++) {
            if (k && clause->holds[k - 1])
                continue;
            struct plan plan = {.shape = shape, .frame = frame, .comma = comma, .clause = clause};
            plan.broken = k ? find_atom(shape, clause->atoms[k - 1]) : NULL;
            for (uint32_t way = 0; nth_way(&plan, way / (most_extra + 1)) && !done; way++) {
                plan.extra = way % (most_extra + 1);
                done = try_plan(c, &plan, most_extra, depth, try, context);
            }
        }
    }
    free(clauses.list);
    return done;
}

struct keeping {
    struct completer *c;
    const struct goal *goal;
    struct nb_buf *best;
    char open;
};

static bool keep_if_good(void *context, const struct nb_buf *text) {
    struct keeping *k = context;
    struct nb_buf whole = {0};
    nb_buf_add(&whole, &k->open, 1);
    nb_buf_add(&whole, text->data, text->len);
    bool good =
        !whole.failed && is_new(k->goal, whole.data, whole.len) && reaches(k->c, k->goal, &whole);
    if (good && (!k->best->len || whole.len < k->best->len)) {
        nb_buf_clear(k->best);
        nb_buf_add(k->best, whole.data, whole.len);
    }
    drop(k->c, &whole);
    return good;
}

/* ---- values ---- */

static bool kind_for(struct completer *c, const struct goal *goal, enum nb_value_kind kind,
                     int depth, struct nb_buf *best) {
    static const char *const words[] = {"null", "false", "true"};
    struct nb_shape *shape = nb_shape_of(c->s, goal->site, kind);
    if (!shape)
        return false;
    nb_formula want = wanted(c, shape, goal);
    if (want == NB_FALSE)
        return false;
    struct nb_buf text = {0};
    bool good = false;
    if (kind <= NB_VALUE_TRUE) {
        nb_buf_add_string(&text, words[kind]);
        good = want == NB_TRUE && !text.failed && is_new(goal, text.data, text.len);
    } else if (kind == NB_VALUE_NUMBER) {
        good = number_for(c, shape, want, goal, &text);
    } else if (kind == NB_VALUE_STRING) {
        good = string_for(c, shape, want, goal, &text);
    } else {
        struct keeping keeping = {c, goal, best, kind == NB_VALUE_ARRAY ? '[' : '{'};
        uint32_t extra = count_others(goal) < 8 ? count_others(goal) : 8;
        try_containers(c, shape, NULL, false, want, extra, depth, keep_if_good, &keeping);
        return best->len;
    }
    if (good && !text.failed && (!best->len || text.len < best->len)) {
        nb_buf_clear(best);
        nb_buf_add(best, text.data, text.len);
    }
    drop(c, &text);
    return good;
}

/* Appends a short value that reaches the goal. */
static bool value_for(struct completer *c, const struct goal *goal, int depth, struct nb_buf *out) {
    static const enum nb_value_kind order[] = {NB_VALUE_NUMBER, NB_VALUE_STRING, NB_VALUE_NULL,
                                               NB_VALUE_TRUE,   NB_VALUE_FALSE,  NB_VALUE_ARRAY,
                                               NB_VALUE_OBJECT};
    struct nb_buf best = {0};
    if (depth > MAX_DEPTH || ++c->work > c->most_work || goal->site->n_roots > MOST_ROOTS)
        return false;
    for (int i = 0; i < NB_N_KINDS && best.len != 1; i++) {
        /* Whatever is within brackets takes longer to find than what is not. */
        if (order[i] >= NB_VALUE_ARRAY && best.len && best.len <= 8)
            break;
        kind_for(c, goal, order[i], depth, &best);
        if (c->s->failed)
            break;
    }
    nb_buf_add(out, best.data ? best.data : "", best.len);
    bool found = best.len > 0;
    drop(c, &best);
    return found;
}

/* ---- from a state to the end ---- */

static bool finish(struct completer *c, const struct nb_state *state, int depth,
                   struct nb_buf *out);

/* Reads text from `state`, then goes on to the end; false leaves *out as it was. */
static bool go_on(struct completer *c, const struct nb_state *state, const char *text, size_t n,
                  int depth, struct nb_buf *out) {
    struct nb_state at[2] = {*state};
    size_t before = out->len;
    if (++c->work > c->most_work)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!nb_state_step(c->r, &at[i % 2], &at[(i + 1) % 2], (uint8_t)text[i]))
            return false;
    }
    nb_buf_add(out, text, n);
    if (finish(c, &at[n % 2], depth, out))
        return true;
    out->len = before;
    return false;
}

struct going {
    struct completer *c;
    const struct nb_state *state;
    int depth;
    struct nb_buf *out;
};

static bool go_on_with(void *context, const struct nb_buf *text) {
    struct going *g = context;
    return go_on(g->c, g->state, text->data, text->len, g->depth, g->out);
}

/* The goals that are worth a try for a value with so many roots: all true; then each alone; all but
 * one; then none. */
static struct goal nth_goal(const struct nb_site *site, uint32_t i) {
    uint32_t n = site->n_roots;
    struct goal goal = {.site = site};
    for (uint32_t k = 0; k < n; k++) {
        if (i == 0 || k + 1 == i || (i > n && i <= 2 * n && k + 1 + n != i))
            nb_set_bit(goal.yes, k);
        else if (i > n && (i > 2 * n || k + 1 + n == i))
            nb_set_bit(goal.no, k);
    }
    return goal;
}

static bool finish_value(struct completer *c, const struct nb_state *s, const struct nb_link *link,
                         const struct others *others, int depth, struct nb_buf *out) {
    if (link->site->n_roots > MOST_ROOTS)
        return false;
    /* Within items that must differ another value may do where one does not. */
    struct others tried = {0};
    uint32_t most = s->top && s->top->hashes && !others ? MOST_VARIED : 1;
    bool good = false;
    for (uint32_t i = 0; i < 2 * link->site->n_roots + 2 && !good; i++) {
        struct goal goal = nth_goal(link->site, i);
        goal.others = others ? others : most > 1 ? &tried : NULL;
        tried.n = 0;
        for (uint32_t k = 0; k < most && !good && c->work <= c->most_work; k++) {
            struct nb_buf text = {0};
            if (!value_for(c, &goal, 0, &text) || text.failed)
                k = most;
            else
                good = go_on(c, s, text.data, text.len, depth, out);
            if (!good && k + 1 < most && !add_other(&tried, text.data, text.len))
                k = most;
            drop(c, &text);
        }
    }
    free(tried.hashes);
    return good;
}

static bool finish_container(struct completer *c, const struct nb_state *s, int depth,
                             struct nb_buf *out) {
    const struct nb_frame *f = s->top;
    struct nb_shape *shape = f->shape;
    bool comma = s->mode == NB_MODE_AFTER;
    struct going going = {c, s, depth, out};
    /* At once, if that will do. */
    if (s->mode != NB_MODE_KEY &&
        go_on(c, s, shape->kind == NB_VALUE_ARRAY ? "]" : "}", 1, depth, out))
        return true;
    if (shape->n_roots > MOST_ROOTS)
        return false;
    const struct nb_site site = {.n_roots = shape->n_roots};
    for (uint32_t i = 0; i < 2 * shape->n_roots + 2 && c->work <= c->most_work; i++) {
        struct goal goal = nth_goal(&site, i);
        nb_formula want = wanted(c, shape, &goal);
        uint32_t extra = f->hashes ? 2 : 0;
        if (want != NB_FALSE &&
            try_containers(c, shape, f, comma, want, extra, 0, go_on_with, &going))
            return true;
    }
    return false;
}

/* After a comma or '[' that asks for an item: any item, then the rest. */
static bool finish_item(struct completer *c, const struct nb_state *s, int depth,
                        struct nb_buf *out) {
    const struct nb_link *link = nb_link_item(c->s, s->top->shape, s->top->count);
    struct others others = {.seen = s->top->seen, .n_seen = s->top->count};
    return link && finish_value(c, s, link, nb_state_once(c->r, s) ? &others : NULL, depth, out);
}

/* After a comma that asks for a member: any that may come. */
static bool finish_member(struct completer *c, const struct nb_state *s, int depth,
                          struct nb_buf *out) {
    const struct nb_frame *f = s->top;
    const struct nb_family *family = f->shape->family;
    if (finish_container(c, s, depth, out))
        return true;
    for (uint32_t place = 0; place < family->keys.n && c->work <= c->most_work; place++) {
        const struct nb_value_key *key = &family->keys.keys[family->by_order[place]];
        struct nb_buf text = {0};
        if (!nb_member_possible(c->r, f, family->by_order[place]))
            continue;
        nb_buf_add_json_string(&text, key->text, key->n);
        bool good = !text.failed && go_on(c, s, text.data, text.len, depth, out);
        drop(c, &text);
        if (good)
            return true;
    }
    for (char key = 'a'; key <= 'z' && c->work <= c->most_work; key++) {
        char text[3] = {'"', key, '"'};
        if (go_on(c, s, text, 3, depth, out))
            return true;
    }
    return false;
}

/* What ends an open escape or character, so that the rest is about whole characters. */
static const char *end_of_character(const struct nb_state *s) {
    switch (s->lexis) {
    case NB_LEX_ESCAPE:
        return "n";
    case NB_LEX_TAIL_1:
    case NB_LEX_TAIL_2:
    case NB_LEX_TAIL_3:
    case NB_LEX_ED:
    case NB_LEX_F4:
        return "\x80";
    case NB_LEX_E0:
        return "\xA0";
    case NB_LEX_F0:
        return "\x90";
    case NB_LEX_PAIR:
        return "\\";
    case NB_LEX_PAIR_U:
        return "u";
    case NB_LEX_HEX:
        if (s->high)
            return s->digits == 0 ? "d" : s->digits == 1 ? "c" : "0";
        return "0";
    default:
        return NULL;
    }
}

static bool finish_lexis(struct completer *c, const struct nb_state *s, int depth,
                         struct nb_buf *out) {
    static const char others[] = "\"\\bfnrtu0123456789abcdef";
    const char *usual = end_of_character(s);
    if (go_on(c, s, usual, 1, depth, out))
        return true;
    if (s->lexis == NB_LEX_ESCAPE || s->lexis == NB_LEX_HEX) {
        for (size_t i = 0; i < sizeof others - 1; i++) {
            if (go_on(c, s, others + i, 1, depth, out))
                return true;
        }
        return false;
    }
    for (int byte = 0x80; byte < 0xC0; byte++) {
        char b = (char)byte;
        if (go_on(c, s, &b, 1, depth, out))
            return true;
    }
    return false;
}

static bool finish_string(struct completer *c, const struct nb_state *s, int depth,
                          struct nb_buf *out) {
    const struct nb_shape *shape = s->shape;
    struct nb_lazy *lazy = NULL;
    uint32_t states[64], n = 0;
    if (go_on(c, s, "\"", 1, depth, out))
        return true;
    if (shape->string == NB_STRING_LENGTH && s->length < shape->min &&
        shape->min - s->length < MAX_TEXT) {
        struct nb_buf text = {0};
        for (uint64_t i = s->length; i < shape->min; i++)
            nb_buf_add(&text, "a", 1);
        bool good = !text.failed && go_on(c, s, text.data, text.len, depth, out);
        drop(c, &text);
        return good;
    }
    if (shape->string == NB_STRING_SET && s->at) {
        const struct nb_trie_node *node = &shape->set.nodes[s->at];
        uint32_t depth_here = 0;
        /* The length of what was read is that of the path down to this node. */
        const struct nb_value_key *first = &shape->set.keys[node->first];
        uint32_t at = NB_TRIE_ROOT;
        while (at != s->at)
            at = nb_trie_next(&shape->set, at, (uint8_t)first->text[depth_here++]);
        for (uint32_t rank = node->first; rank < node->end && c->work <= c->most_work; rank++) {
            const struct nb_value_key *key = &shape->set.keys[rank];
            struct nb_buf text = {0};
            nb_buf_add_json_string(&text, key->text + depth_here, key->n - depth_here);
            bool good = !text.failed && go_on(c, s, text.data + 1, text.len - 1, depth, out);
            drop(c, &text);
            if (good)
                return true;
        }
        return false;
    }
    if (shape->string == NB_STRING_LAZY && s->at) {
        lazy = shape->language->lazy;
        states[n++] = s->at;
    } else if (shape->string == NB_STRING_MACHINE) {
        lazy = shape->machine.lazy;
        for (uint32_t i = 0; i < shape->machine.n && n < 64; i++) {
            uint32_t state = shape->machine.states[s->at].states[i];
            if (state)
                states[n++] = state;
        }
    }
    for (uint32_t i = 0; i < n && c->work <= c->most_work; i++) {
        char *rest;
        size_t bytes;
        struct nb_buf text = {0};
        if (nb_lazy_shortest(lazy, states[i], &rest, &bytes, NULL) != NB_OK)
            continue;
        nb_buf_add_json_string(&text, rest, bytes);
        free(rest);
        bool good = !text.failed && bytes && go_on(c, s, text.data + 1, text.len - 1, depth, out);
        drop(c, &text);
        if (good)
            return true;
    }
    /* An array may want another string than those that it has. */
    if (s->hashes && s->shape->string <= NB_STRING_LENGTH) {
        for (char byte = 'a'; byte <= 'z' && c->work <= c->most_work; byte++) {
            if (go_on(c, s, &byte, 1, depth, out))
                return true;
        }
    }
    return false;
}

static bool finish_key(struct completer *c, const struct nb_state *s, int depth,
                       struct nb_buf *out) {
    const struct nb_family *f = s->top->shape->family;
    if (go_on(c, s, "\"", 1, depth, out))
        return true;
    if (s->node) {
        const struct nb_trie_node *node = &f->keys.nodes[s->node];
        uint32_t at = NB_TRIE_ROOT, read = 0;
        const struct nb_value_key *first = &f->keys.keys[node->first];
        while (at != s->node)
            at = nb_trie_next(&f->keys, at, (uint8_t)first->text[read++]);
        for (uint32_t rank = node->first; rank < node->end && c->work <= c->most_work; rank++) {
            struct nb_buf text = {0};
            if (!nb_member_possible(c->r, s->top, rank))
                continue;
            nb_buf_add_json_string(&text, f->keys.keys[rank].text + read,
                                   f->keys.keys[rank].n - read);
            bool good = !text.failed && go_on(c, s, text.data + 1, text.len - 1, depth, out);
            drop(c, &text);
            if (good)
                return true;
        }
    }
    for (uint32_t i = 0; i < f->machine.n; i++) {
        uint32_t state = f->machine.states[s->at].states[i];
        char *rest;
        size_t bytes;
        struct nb_buf text = {0};
        if (!state || nb_lazy_shortest(f->machine.lazy, state, &rest, &bytes, NULL) != NB_OK)
            continue;
        nb_buf_add_json_string(&text, rest, bytes);
        free(rest);
        bool good = !text.failed && bytes && go_on(c, s, text.data + 1, text.len - 1, depth, out);
        drop(c, &text);
        if (good)
            return true;
    }
    for (char byte = 'a'; byte <= 'z' && c->work <= c->most_work; byte++) {
        char text[2] = {byte, '"'};
        if (go_on(c, s, text, 2, depth, out))
            return true;
    }
    return false;
}

/* Digits after what is there, up to the end of the number; the shortest way first. same: to end it
 * here was tried, for the value is what it was with fewer zeros. */
static bool finish_number(struct completer *c, const struct nb_state *s, int depth, int digits,
                          bool same, struct nb_buf *out) {
    /* A number that must differ seldom does by zeros. */
    const char *bytes = s->hashes ? "1234567890.-+eE" : "0123456789.-+eE";
    struct nb_state ended;
    if (!s->top && nb_state_can_end(c->r, s))
        return true;
    /* A space would end it, too, but may not be allowed: what comes behind does. */
    if (s->top && !same && nb_state_end_number(c->r, s, &ended)) {
        if (finish(c, &ended, depth, out))
            return true;
        same = true;
    }
    for (size_t i = 0; bytes[i] && digits < 40; i++) {
        struct nb_state next;
        if (++c->work > c->most_work)
            return false;
        if (!nb_state_step(c->r, s, &next, (uint8_t)bytes[i]))
            continue;
        size_t before = out->len;
        bool equal =
            next.phase == NB_NUMBER_POINT || (next.phase == NB_NUMBER_FRACTION && bytes[i] == '0');
        nb_buf_add(out, bytes + i, 1);
        if (finish_number(c, &next, depth, digits + 1, same && equal, out))
            return true;
        out->len = before;
    }
    return false;
}

static bool finish(struct completer *c, const struct nb_state *s, int depth, struct nb_buf *out) {
    static const char *const words[] = {"null", "false", "true"};
    if (depth > 4000 || c->work > c->most_work || c->s->failed || out->failed)
        return false;
    depth++;
    switch (s->mode) {
    case NB_MODE_DONE:
        return true;
    case NB_MODE_VALUE:
        return s->link ? finish_value(c, s, s->link, NULL, depth, out)
                       : finish_item(c, s, depth, out);
    case NB_MODE_ITEM:
    case NB_MODE_MEMBER:
    case NB_MODE_AFTER:
        return finish_container(c, s, depth, out) ||
               (s->mode == NB_MODE_AFTER && go_on(c, s, ",", 1, depth, out));
    case NB_MODE_KEY:
        return finish_member(c, s, depth, out);
    case NB_MODE_COLON:
        return go_on(c, s, ":", 1, depth, out);
    case NB_MODE_IN_KEY:
        return s->lexis ? finish_lexis(c, s, depth, out) : finish_key(c, s, depth, out);
    case NB_MODE_STRING:
        return s->lexis ? finish_lexis(c, s, depth, out) : finish_string(c, s, depth, out);
    case NB_MODE_NUMBER:
        return finish_number(c, s, depth, 0, false, out);
    case NB_MODE_WORD: {
        const char *word = words[s->shape->kind];
        return go_on(c, s, word + s->word, strlen(word) - s->word, depth, out);
    }
    default:
        return false;
    }
}

bool nb_complete(struct nb_reader *r, const struct nb_state *state, struct nb_buf *out) {
    struct completer c = {.r = r, .s = r->space};
    /* A large schema has more to be tried. */
    uint32_t n_nodes = r->space->schema ? r->space->schema->n_nodes : 0;
    c.most_work = 20000 + (n_nodes < 1000000 ? 20 * n_nodes : 20000000);
    size_t before = out->len;
    if (state->mode == NB_MODE_RAW) {
        char *text;
        size_t n;
        enum nb_status s = nb_lazy_shortest(r->raw, state->at, &text, &n, NULL);
        if (s == NB_OK) {
            nb_buf_add(out, text, n);
            free(text);
        }
        if (s == NB_ERR_MEMORY || out->failed)
            r->failed = NB_ERR_MEMORY;
        return s == NB_OK && !out->failed;
    }
    bool found = finish(&c, state, 0, out) && !out->failed;
    if (!found) {
        out->len = before;
        if (c.no_memory || out->failed)
            r->failed = NB_ERR_MEMORY;
    }
    return found;
}
