/* States made when they are asked for. A state is a formula: a boolean combination of leaves, each
 * of which is a set of places in a program (a union), a count of characters still to come, or a
 * number that a format's own function knows. A byte maps a formula to a formula; formulas are kept
 * in a normal form and found again by hashing, so that equal ones are one number. That is the
 * derivative of Brzozowski (1964), with Thompson's sets in place of the derivatives of unions, and
 * lookaheads as conjunctions (Berglund, van der Merwe and van Litsenborgh 2021; Varatalu, Veanes
 * and Ernits 2025 take lookarounds the same way). What a lookbehind asks is followed beside the
 * formula, from the beginning of the text. */
#include "grammar/automaton.h"
#include "grammar/format.h"
#include "grammar/grow.h"
#include "grammar/minimize.h"
#include "grammar/program.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TRY(call)                                                                                  \
    do {                                                                                           \
        enum nb_status try_status = (call);                                                        \
        if (try_status != NB_OK)                                                                   \
            return try_status;                                                                     \
    } while (0)

enum {
    DEFAULT_STATES = 1000 * 1000,
    DEFAULT_WORK = 8 * 1000 * 1000,
    MAX_POOL = 64 * 1000 * 1000, /* words of formulas */
    MAX_LOOK_DEPTH = 100,
};

enum kind {
    NONE, /* no text */
    UNIT, /* any bytes at all: what a conjunction of nothing is; never a state */
    PLACES,
    COUNT,
    FORMAT,
    AND,
    OR,
    NOT, /* stands within a conjunction that has another member */
};

enum { ID_NONE = 0, ID_UNIT = 1 };
enum { LONGEST_WAY_OUT = 1024, NO_WAY = UINT16_MAX };

struct formula {
    uint32_t off, len; /* in the pool: its members, sorted */
    uint64_t trackers; /* lookbehinds that its successors depend on */
    uint32_t memo;     /* row of successors + 1, 0 if none */
    uint32_t distance; /* bytes to an accepting end, at least, as far as that is easily known */
    uint8_t kind;
    bool accepts; /* the text may end here */
    bool live;    /* an accepting end can be reached for certain */
};

/* A COUNT: at least `min`, at most `max` characters more; `phase` says which bytes of one are
 * still to come. */
struct count {
    uint64_t min, max;
    uint32_t phase;
};
/* A FORMAT: which, and the state's number; then its label, if one is open. */
enum { COUNT_WORDS = 5, FORMAT_WORDS = 3, MAX_FORMAT_WORDS = FORMAT_WORDS + 1 + 16 };

/* What an expression is until it starts. */
enum root_kind { ROOT_PROGRAM, ROOT_COUNT, ROOT_FORMAT, ROOT_AND, ROOT_OR, ROOT_NOT };
struct root {
    enum root_kind kind;
    uint32_t a, b; /* entry; expressions; number of the format */
    uint64_t min, max;
};

enum life { UNKNOWN, LIVE, DEAD };

struct words {
    uint32_t *data;
    uint32_t n, cap;
};

struct nb_lazy_impl {
    uint32_t max_states, max_table_states;
    uint64_t max_work, work;
    struct nb_error *err; /* of the call that is under way; may be NULL */
    struct nb_program program;
    struct root *roots;
    uint32_t n_roots, cap_roots;
    bool started, uses_count;
    uint64_t formats_used;

    struct formula *formulas;
    uint32_t n_formulas, cap_formulas;
    struct words pool;
    uint32_t *formula_table;
    uint32_t formula_table_size;
    uint32_t *memo; /* [n_memo, n_classes] */
    uint32_t n_memo, cap_memo;

    /* States: formula, then the trackers it needs, in the order of their numbers. */
    uint32_t *state_off, cap_states;
    uint8_t *life;
    struct way_out {
        uint16_t bytes; /* see nb_lazy_way_out; NO_WAY: none was found */
        uint8_t known, stretches;
    } * ways_out;
    struct words state_pool;
    uint32_t *state_table;
    uint32_t state_table_size;

    /* Scratch of a closure. */
    uint32_t *mark, mark_size, generation;
    struct words stack, places, looking; /* looking: lookaheads under way */
    int end_depth;
};

/* What is known of the text so far. */
struct context {
    uint64_t behind; /* a bit for each tracker that says yes */
    bool at_start;
};

/* ---- Memory ---- */

static enum nb_status fail_memory(struct nb_lazy_impl *l, size_t bytes) {
    return nb_fail_memory(l->err, bytes, "an automaton");
}

static enum nb_status charge(struct nb_lazy_impl *l, uint64_t work) {
    l->work += work;
    if (l->work > l->max_work)
        return nb_fail(l->err, NB_ERR_LIMIT,
                       "the pattern needs more than %llu steps; make it simpler",
                       (unsigned long long)l->max_work);
    return NB_OK;
}

static enum nb_status reserve(struct nb_lazy_impl *l, struct words *w, uint32_t more) {
    if (more <= w->cap - w->n)
        return NB_OK;
    if ((uint64_t)w->n + more > 2 * (uint64_t)MAX_POOL)
        return nb_fail(l->err, NB_ERR_LIMIT, "the pattern's states take more than %d words",
                       MAX_POOL);
    if (!nb_grow(&w->data, w->n, more, &w->cap, sizeof *w->data))
        return fail_memory(l, ((size_t)w->n + more) * sizeof *w->data);
    return NB_OK;
}

static enum nb_status push(struct nb_lazy_impl *l, struct words *w, uint32_t word) {
    if (w->n == w->cap)
        TRY(reserve(l, w, 1));
    w->data[w->n++] = word;
    return NB_OK;
}

static uint32_t hash_words(uint32_t seed, const uint32_t *words, uint32_t n) {
    uint64_t h = seed * UINT64_C(0x9E3779B97F4A7C15) + n;
    for (uint32_t i = 0; i < n; i++) {
        h = (h ^ words[i]) * UINT64_C(0xD6E8FEB86659FD93);
        h ^= h >> 32;
    }
    return (uint32_t)(h ^ h >> 32);
}

/* ---- Formulas ---- */

static struct count get_count(const struct nb_lazy_impl *l, uint32_t id) {
    const uint32_t *w = l->pool.data + l->formulas[id].off;
    return (struct count){w[0] | (uint64_t)w[1] << 32, w[2] | (uint64_t)w[3] << 32, w[4]};
}

static bool is_any(const struct nb_lazy_impl *l, uint32_t id) {
    if (l->formulas[id].kind != COUNT)
        return false;
    struct count c = get_count(l, id);
    return c.min == 0 && c.max == UINT64_MAX;
}

static struct nb_format_state get_format(const uint32_t *words, uint32_t n) {
    struct nb_format_state s = {.number = words[1] | (uint64_t)words[2] << 32};
    if (n > FORMAT_WORDS) {
        s.n = words[FORMAT_WORDS];
        memcpy(s.label, words + FORMAT_WORDS + 1, (n - FORMAT_WORDS - 1) * sizeof *words);
    }
    return s;
}

/* A conjunction whose members keep each other alive: a count, and places that stay alive whatever
 * the number of characters. */
static bool conjunction_is_live(const struct nb_lazy_impl *l, const uint32_t *ids, uint32_t n) {
    uint32_t places = 0, uniform = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct formula *f = &l->formulas[ids[i]];
        if (f->kind != PLACES && f->kind != COUNT)
            return false;
        places += f->kind == PLACES;
        for (uint32_t j = 0; j < f->len && f->kind == PLACES; j++) {
            const struct nb_inst *inst = &l->program.insts[l->pool.data[f->off + j]];
            if (inst->op == NB_OP_ACCEPT)
                continue;
            if (!(inst->flags & NB_INST_UNIFORM))
                return false;
            uniform++;
        }
    }
    return places == 1 && uniform > 0 && n == 2;
}

/* What follows from a formula's members. */
static void describe(const struct nb_lazy_impl *l, struct formula *f, const uint32_t *words) {
    uint32_t n = f->len;
    switch ((enum kind)f->kind) {
    case PLACES:
        f->distance = UINT32_MAX;
        for (uint32_t i = 0; i < n; i++) {
            const struct nb_inst *inst = &l->program.insts[words[i]];
            f->distance = inst->distance < f->distance ? inst->distance : f->distance;
            f->accepts |= inst->op == NB_OP_ACCEPT;
            f->live |= inst->op == NB_OP_ACCEPT || inst->flags & NB_INST_PLAIN;
            f->trackers |= l->program.pattern_trackers[inst->pattern];
        }
        break;
    case COUNT:
        f->accepts = !(words[0] | words[1] | words[4]);
        f->distance = words[1] ? UINT32_MAX : words[0];
        f->live = true;
        break;
    case FORMAT: {
        struct nb_format_state state = get_format(words, n);
        f->accepts = nb_format_accepts(words[0], &state);
        f->live = true;
        /* There are as many labels of Punycode as texts: whoever looks for an end looks elsewhere
         * first. */
        f->distance = state.n && !f->accepts ? 2 * NB_FORMAT_TEXT : 0;
        break;
    }
    case AND:
        f->accepts = true;
        f->live = conjunction_is_live(l, words, n);
        for (uint32_t i = 0; i < n; i++) {
            if (l->formulas[words[i]].distance > f->distance)
                f->distance = l->formulas[words[i]].distance;
            f->accepts &= l->formulas[words[i]].accepts;
            f->trackers |= l->formulas[words[i]].trackers;
        }
        break;
    case OR:
        f->distance = UINT32_MAX;
        for (uint32_t i = 0; i < n; i++) {
            if (l->formulas[words[i]].distance < f->distance)
                f->distance = l->formulas[words[i]].distance;
            f->accepts |= l->formulas[words[i]].accepts;
            f->live |= l->formulas[words[i]].live;
            f->trackers |= l->formulas[words[i]].trackers;
        }
        break;
    case NOT:
        f->accepts = !l->formulas[words[0]].accepts;
        f->trackers = l->formulas[words[0]].trackers;
        break;
    case NONE:
    case UNIT:
        break;
    }
    f->live |= f->accepts && f->kind != NOT;
}

static enum nb_status grow_formula_table(struct nb_lazy_impl *l) {
    uint32_t size = l->formula_table_size ? 2 * l->formula_table_size : 256;
    uint32_t *table = calloc(size, sizeof *table);
    if (!table)
        return fail_memory(l, size * sizeof *table);
    for (uint32_t i = 2; i < l->n_formulas; i++) {
        const struct formula *f = &l->formulas[i];
        uint32_t at = hash_words(f->kind, l->pool.data + f->off, f->len) & (size - 1);
        while (table[at])
            at = (at + 1) & (size - 1);
        table[at] = i;
    }
    free(l->formula_table);
    l->formula_table = table;
    l->formula_table_size = size;
    return NB_OK;
}

/* The number of the formula with these words, which do not lie in the pool. */
static enum nb_status find_formula(struct nb_lazy_impl *l, enum kind kind, const uint32_t *words,
                                   uint32_t n, uint32_t *out) {
    if (2 * l->n_formulas >= l->formula_table_size)
        TRY(grow_formula_table(l));
    uint32_t at = hash_words(kind, words, n) & (l->formula_table_size - 1), id;
    for (; (id = l->formula_table[at]); at = (at + 1) & (l->formula_table_size - 1)) {
        const struct formula *f = &l->formulas[id];
        if (f->kind == kind && f->len == n && !memcmp(l->pool.data + f->off, words, n * 4)) {
            *out = id;
            return NB_OK;
        }
    }
    TRY(charge(l, 20 + n));
    if (!nb_grow(&l->formulas, l->n_formulas, 1, &l->cap_formulas, sizeof *l->formulas))
        return fail_memory(l, l->n_formulas * sizeof *l->formulas);
    if (l->pool.n > MAX_POOL || l->n_formulas / 8 > l->max_states)
        return nb_fail(l->err, NB_ERR_LIMIT, "the pattern has more than %u states", l->max_states);
    TRY(reserve(l, &l->pool, n));
    struct formula f = {.off = l->pool.n, .len = n, .kind = (uint8_t)kind};
    memcpy(l->pool.data + l->pool.n, words, n * sizeof *words);
    l->pool.n += n;
    describe(l, &f, words);
    l->formulas[l->n_formulas] = f;
    l->formula_table[at] = l->n_formulas;
    *out = l->n_formulas++;
    return NB_OK;
}

static int by_number(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* Sorts and drops what is there twice. */
static uint32_t sort_unique(uint32_t *words, uint32_t n) {
    if (n > 16) {
        qsort(words, n, sizeof *words, by_number);
    } else {
        for (uint32_t i = 1; i < n; i++) {
            uint32_t w = words[i], j = i;
            for (; j > 0 && words[j - 1] > w; j--)
                words[j] = words[j - 1];
            words[j] = w;
        }
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (i == 0 || words[i] != words[i - 1])
            words[kept++] = words[i];
    return kept;
}

/* A place among copies: which instruction of the first copy it is, and the number of the copy, for
 * each repetition that it is in, the innermost first. */
enum { MAX_NESTED = 4, MAX_RIVALS = 64 };
struct spot {
    uint32_t inst, nested, copy[MAX_NESTED];
    uint32_t word;
};

static struct spot find_spot(const struct nb_program *p, uint32_t inst) {
    struct spot s = {.inst = inst, .word = inst};
    uint32_t at = p->insts[inst].copies;
    for (; at && s.nested < MAX_NESTED; at = p->copies[at - 1].within) {
        const struct nb_copies *c = &p->copies[at - 1];
        uint32_t k = (s.inst - c->first) / c->stride;
        s.inst -= k * c->stride;
        s.copy[s.nested++] = k;
    }
    return s;
}

/* Alike ones side by side, and none before one that may stand for it. */
static int by_spot(const void *a, const void *b) {
    const struct spot *x = a, *y = b;
    if (x->inst != y->inst)
        return x->inst < y->inst ? -1 : 1;
    for (uint32_t i = 0; i < MAX_NESTED; i++)
        if (x->copy[i] != y->copy[i])
            return x->copy[i] > y->copy[i] ? -1 : 1;
    return 0;
}

static bool stands_for(const struct spot *x, const struct spot *y) {
    for (uint32_t i = 0; i < MAX_NESTED; i++)
        if (x->copy[i] < y->copy[i])
            return false;
    return true;
}

/* Drops places in copies of a repetition where the same place in an earlier copy is there: it
 * accepts the same and more. Without that (.{1,63}\.){1,127} is in thousands of places at once;
 * what is left of them is no more than the points in the text where a copy could have begun. */
static enum nb_status drop_copies(struct nb_lazy_impl *l, uint32_t *words, uint32_t *n) {
    const struct nb_program *p = &l->program;
    struct spot few[32], *spots = few;
    uint32_t kept = 0, n_spots = 0, begin = 0, n_kept = 0;
    for (uint32_t i = 0; i < *n; i++)
        n_spots += p->insts[words[i]].copies != 0;
    if (n_spots < 2)
        return NB_OK;
    if (n_spots > 32 && !(spots = malloc(n_spots * sizeof *spots)))
        return fail_memory(l, n_spots * sizeof *spots);
    n_spots = 0;
    for (uint32_t i = 0; i < *n; i++)
        if (p->insts[words[i]].copies)
            spots[n_spots++] = find_spot(p, words[i]);
        else
            words[kept++] = words[i];
    qsort(spots, n_spots, sizeof *spots, by_spot);
    for (uint32_t i = 0; i < n_spots; i++) {
        bool dropped = false;
        if (!n_kept || spots[begin].inst != spots[i].inst)
            begin = n_kept;
        for (uint32_t k = begin; k < n_kept && k < begin + MAX_RIVALS && !dropped; k++)
            dropped = stands_for(&spots[k], &spots[i]);
        if (!dropped)
            spots[n_kept++] = spots[i];
    }
    for (uint32_t i = 0; i < n_kept; i++)
        words[kept++] = spots[i].word;
    if (spots != few)
        free(spots);
    *n = sort_unique(words, kept);
    return charge(l, n_spots);
}

/* The formula of places, in any order, which do not lie in the pool. */
static enum nb_status make_places(struct nb_lazy_impl *l, uint32_t *words, uint32_t n,
                                  uint32_t *out) {
    n = sort_unique(words, n);
    if (l->program.n_copies)
        TRY(drop_copies(l, words, &n));
    return find_formula(l, PLACES, words, n, out);
}

static enum nb_status make_count(struct nb_lazy_impl *l, struct count c, uint32_t *out) {
    if (c.min > c.max) {
        *out = ID_NONE;
        return NB_OK;
    }
    uint32_t words[COUNT_WORDS] = {(uint32_t)c.min, (uint32_t)(c.min >> 32), (uint32_t)c.max,
                                   (uint32_t)(c.max >> 32), c.phase};
    return find_formula(l, COUNT, words, COUNT_WORDS, out);
}

static enum nb_status make_format(struct nb_lazy_impl *l, uint32_t format,
                                  const struct nb_format_state *state, uint32_t *out) {
    uint32_t words[MAX_FORMAT_WORDS] = {format, (uint32_t)state->number,
                                        (uint32_t)(state->number >> 32), state->n};
    uint32_t n = state->n ? FORMAT_WORDS + 1 + (state->n + 3) / 4 : FORMAT_WORDS;
    if (!state->number) {
        *out = ID_NONE;
        return NB_OK;
    }
    memcpy(words + FORMAT_WORDS + 1, state->label, state->n);
    return find_formula(l, FORMAT, words, n, out);
}

/* Appends the members of `id` to *w, of a formula of kind `kind`, or `id` itself. */
static enum nb_status append_members(struct nb_lazy_impl *l, struct words *w, enum kind kind,
                                     uint32_t id) {
    struct formula f = l->formulas[id];
    if (f.kind != kind)
        return push(l, w, id);
    TRY(reserve(l, w, f.len));
    memcpy(w->data + w->n, l->pool.data + f.off, f.len * sizeof *w->data);
    w->n += f.len;
    return NB_OK;
}

static bool has_word(const uint32_t *words, uint32_t n, uint32_t word) {
    for (uint32_t i = 0; i < n; i++)
        if (words[i] == word)
            return true;
    return false;
}

static enum nb_status conjunction(struct nb_lazy_impl *l, struct words *w, uint32_t *out) {
    struct count sum = {0, UINT64_MAX, 0};
    uint32_t n = 0, positive = 0;
    bool counted = false;
    *out = ID_NONE;
    for (uint32_t i = 0; i < w->n; i++) {
        uint32_t id = w->data[i];
        if (id == ID_NONE)
            return NB_OK;
        if (id == ID_UNIT)
            continue;
        if (l->formulas[id].kind == COUNT) {
            struct count c = get_count(l, id);
            sum.min = c.min > sum.min ? c.min : sum.min;
            sum.max = c.max < sum.max ? c.max : sum.max;
            sum.phase = c.phase;
            counted = true;
        } else {
            positive += l->formulas[id].kind != NOT;
            w->data[n++] = id;
        }
    }
    /* All that is here is UTF-8, so that "any characters" adds nothing to a positive member. */
    if (counted && (!positive || sum.min > 0 || sum.max != UINT64_MAX)) {
        TRY(make_count(l, sum, &w->data[n]));
        if (w->data[n++] == ID_NONE)
            return NB_OK;
    }
    n = sort_unique(w->data, n);
    for (uint32_t i = 0; i < n; i++) {
        const struct formula *f = &l->formulas[w->data[i]];
        if (f->kind == NOT && has_word(w->data, n, l->pool.data[f->off]))
            return NB_OK;
    }
    if (n == 0)
        *out = ID_UNIT;
    else if (n == 1)
        *out = w->data[0];
    else
        return find_formula(l, AND, w->data, n, out);
    return NB_OK;
}

static enum nb_status make_and(struct nb_lazy_impl *l, uint32_t a, uint32_t b, uint32_t *out) {
    struct words w = {0};
    if (a == ID_NONE || b == ID_NONE) {
        *out = ID_NONE;
        return NB_OK;
    }
    enum nb_status s = append_members(l, &w, AND, a);
    if (s == NB_OK)
        s = append_members(l, &w, AND, b);
    if (s == NB_OK)
        s = reserve(l, &w, 1);
    if (s == NB_OK)
        s = conjunction(l, &w, out);
    free(w.data);
    return s;
}

/* Two sorted sets of places as one. */
static enum nb_status merge_places(struct nb_lazy_impl *l, uint32_t a, uint32_t b, uint32_t *out) {
    struct formula x = l->formulas[a], y = l->formulas[b];
    struct words w = {0};
    enum nb_status s = reserve(l, &w, x.len + y.len);
    if (s == NB_OK) {
        memcpy(w.data, l->pool.data + x.off, x.len * sizeof *w.data);
        memcpy(w.data + x.len, l->pool.data + y.off, y.len * sizeof *w.data);
        s = make_places(l, w.data, x.len + y.len, out);
    }
    free(w.data);
    return s;
}

/* Whether whatever conjunction `id` accepts one of the n others does, too: (x and y) or x is x. */
static bool absorbed(const struct nb_lazy_impl *l, uint32_t id, const uint32_t *others,
                     uint32_t n) {
    const struct formula *f = &l->formulas[id];
    if (f->kind != AND)
        return false;
    for (uint32_t i = 0; i < f->len; i++)
        if (has_word(others, n, l->pool.data[f->off + i]))
            return true;
    return false;
}

static enum nb_status disjunction(struct nb_lazy_impl *l, struct words *w, uint32_t *out) {
    uint32_t n = 0, places = ID_NONE;
    for (uint32_t i = 0; i < w->n; i++) {
        uint32_t id = w->data[i];
        if (id == ID_NONE)
            continue;
        if (is_any(l, id)) {
            *out = id;
            return NB_OK;
        }
        if (l->formulas[id].kind != PLACES)
            w->data[n++] = id;
        else if (places == ID_NONE)
            places = id;
        else
            TRY(merge_places(l, places, id, &places));
    }
    if (places != ID_NONE)
        w->data[n++] = places;
    n = sort_unique(w->data, n);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++)
        if (!absorbed(l, w->data[i], w->data, n))
            w->data[kept++] = w->data[i];
    if (kept == 0)
        *out = ID_NONE;
    else if (kept == 1)
        *out = w->data[0];
    else
        return find_formula(l, OR, w->data, kept, out);
    return NB_OK;
}

static enum nb_status make_or(struct nb_lazy_impl *l, uint32_t a, uint32_t b, uint32_t *out) {
    struct words w = {0};
    if (a == ID_NONE || b == ID_NONE || a == b) {
        *out = a == ID_NONE ? b : a;
        return NB_OK;
    }
    enum nb_status s = append_members(l, &w, OR, a);
    if (s == NB_OK)
        s = append_members(l, &w, OR, b);
    if (s == NB_OK)
        s = reserve(l, &w, 1);
    if (s == NB_OK)
        s = disjunction(l, &w, out);
    free(w.data);
    return s;
}

/* To stand in a conjunction. */
static enum nb_status make_not(struct nb_lazy_impl *l, uint32_t a, uint32_t *out) {
    const struct formula *f = &l->formulas[a];
    *out = a == ID_NONE ? ID_UNIT : ID_NONE;
    if (a == ID_NONE || a == ID_UNIT || is_any(l, a))
        return NB_OK;
    if (f->kind == NOT) {
        *out = l->pool.data[f->off];
        return NB_OK;
    }
    /* not (any and not x) is x, among texts. */
    if (f->kind == AND && f->len == 2)
        for (int i = 0; i < 2; i++) {
            uint32_t x = l->pool.data[f->off + i], y = l->pool.data[f->off + 1 - i];
            if (is_any(l, x) && l->formulas[y].kind == NOT) {
                *out = l->pool.data[l->formulas[y].off];
                return NB_OK;
            }
        }
    return find_formula(l, NOT, &a, 1, out);
}

/* ---- Closures: where a program may be without another byte ---- */

static enum nb_status closure(struct nb_lazy_impl *l, const uint32_t *from, uint32_t n,
                              const struct context *context, uint32_t *out);

static bool behind_says(const struct nb_inst *inst, const struct context *context) {
    return (context->behind >> inst->set & 1) != (inst->flags & NB_INST_NOT ? 1 : 0);
}

/* Whether the text may end at instruction `at`. */
static enum nb_status may_end(struct nb_lazy_impl *l, uint32_t at, const struct context *context,
                              bool *out) {
    const struct nb_inst *first = &l->program.insts[at];
    *out = true;
    if (first->op == NB_OP_ACCEPT || first->op == NB_OP_ALL)
        return NB_OK;
    if (first->flags & NB_INST_PLAIN && !context->at_start) {
        *out = first->flags & NB_INST_ENDS;
        return NB_OK;
    }
    struct words stack = {0};
    uint8_t *seen = calloc(l->program.n_insts, 1);
    enum nb_status s = seen ? push(l, &stack, at) : fail_memory(l, l->program.n_insts);
    *out = false;
    if (s == NB_OK && ++l->end_depth > MAX_LOOK_DEPTH)
        s = nb_fail(l->err, NB_ERR_LIMIT, "lookaheads of the pattern are nested too deep");
    while (s == NB_OK && stack.n && !*out) {
        uint32_t i = stack.data[--stack.n];
        const struct nb_inst *inst = &l->program.insts[i];
        if (seen[i])
            continue;
        seen[i] = 1;
        bool go = false, ahead;
        switch ((enum nb_op)inst->op) {
        case NB_OP_BYTE:
        case NB_OP_CHAR:
            break;
        case NB_OP_SPLIT:
            s = push(l, &stack, inst->y);
            go = true;
            break;
        case NB_OP_START:
            go = context->at_start;
            break;
        case NB_OP_END:
            go = true;
            break;
        case NB_OP_WORD: /* nothing follows: a boundary if a word ends here */
        case NB_OP_BEHIND:
            go = behind_says(inst, context);
            break;
        case NB_OP_LOOK:
            s = may_end(l, inst->y, context, &ahead);
            go = s == NB_OK && ahead != (inst->flags & NB_INST_NOT ? true : false);
            break;
        case NB_OP_ACCEPT:
        case NB_OP_ALL:
            *out = true;
        }
        if (s == NB_OK && go)
            s = push(l, &stack, inst->x);
        if (s == NB_OK)
            s = charge(l, 1);
    }
    l->end_depth--;
    free(stack.data);
    free(seen);
    return s;
}

/* What a closure has found so far, besides the places in l->places. */
struct found {
    bool all, ends;
    struct words looks; /* lookaheads that were met */
};

static enum nb_status visit(struct nb_lazy_impl *l, uint32_t i, const struct context *context,
                            struct found *found) {
    const struct nb_inst *inst = &l->program.insts[i];
    bool end;
    switch ((enum nb_op)inst->op) {
    case NB_OP_BYTE:
    case NB_OP_CHAR:
        return inst->flags & NB_INST_LIVE ? push(l, &l->places, i) : NB_OK;
    case NB_OP_SPLIT:
        TRY(push(l, &l->stack, inst->x));
        return push(l, &l->stack, inst->y);
    case NB_OP_START:
        return context->at_start ? push(l, &l->stack, inst->x) : NB_OK;
    case NB_OP_END:
        TRY(may_end(l, inst->x, context, &end));
        found->ends |= end;
        return NB_OK;
    case NB_OP_BEHIND:
        return behind_says(inst, context) ? push(l, &l->stack, inst->x) : NB_OK;
    case NB_OP_WORD:
    case NB_OP_LOOK:
        return push(l, &found->looks, i);
    case NB_OP_ACCEPT:
        found->ends = true;
        return NB_OK;
    case NB_OP_ALL:
        found->all = true;
        return NB_OK;
    }
    return NB_OK;
}

/* A lookahead and what follows it, as a conjunction. */
static enum nb_status look(struct nb_lazy_impl *l, uint32_t at, const struct context *context,
                           uint32_t *out) {
    const struct nb_inst *inst = &l->program.insts[at];
    bool negated = inst->flags & NB_INST_NOT;
    uint32_t ahead, rest = ID_NONE;
    *out = ID_NONE;
    /* Met again on the way from itself, around a loop that took no byte: that adds nothing. */
    if (has_word(l->looking.data, l->looking.n, at))
        return NB_OK;
    if (inst->op == NB_OP_WORD)
        negated ^= context->behind >> inst->set & 1;
    if (l->looking.n >= MAX_LOOK_DEPTH)
        return nb_fail(l->err, NB_ERR_LIMIT, "lookaheads of the pattern are nested too deep");
    TRY(push(l, &l->looking, at));
    TRY(closure(l, &inst->y, 1, context, &ahead));
    if (negated)
        TRY(make_not(l, ahead, &ahead));
    if (ahead != ID_NONE)
        TRY(closure(l, &inst->x, 1, context, &rest));
    l->looking.n--;
    return make_and(l, rest, ahead, out);
}

static enum nb_status closure_within(struct nb_lazy_impl *l, const uint32_t *from, uint32_t n,
                                     const struct context *context, struct found *found,
                                     uint32_t *out) {
    if (++l->generation == 0) {
        memset(l->mark, 0, l->mark_size * sizeof *l->mark);
        l->generation = 1;
    }
    uint32_t generation = l->generation, visited = 0;
    l->stack.n = l->places.n = 0;
    for (uint32_t i = 0; i < n; i++)
        TRY(push(l, &l->stack, from[i]));
    while (l->stack.n) {
        uint32_t at = l->stack.data[--l->stack.n];
        if (l->mark[at] == generation)
            continue;
        l->mark[at] = generation;
        visited++;
        TRY(visit(l, at, context, found));
    }
    TRY(charge(l, visited));
    if (found->all)
        return make_count(l, (struct count){0, UINT64_MAX, 0}, out);
    *out = ID_NONE;
    if (found->ends)
        TRY(push(l, &l->places, NB_PROGRAM_ACCEPT));
    if (l->places.n)
        TRY(make_places(l, l->places.data, l->places.n, out));
    for (uint32_t i = 0; i < found->looks.n; i++) {
        uint32_t more;
        TRY(look(l, found->looks.data[i], context, &more));
        TRY(make_or(l, *out, more, out));
    }
    return NB_OK;
}

/* The formula of what may follow where a program is at from[0..n). */
static enum nb_status closure(struct nb_lazy_impl *l, const uint32_t *from, uint32_t n,
                              const struct context *context, uint32_t *out) {
    struct found found = {0};
    enum nb_status s = closure_within(l, from, n, context, &found, out);
    free(found.looks.data);
    return s;
}

/* ---- Steps ---- */

/* The bytes of UTF-8 still to come, by phase: 0 none; 1 to 3 that many; 4 to 7 after E0, ED, F0,
 * F4, whose next byte is restricted. Returns the next phase, -1 if the byte cannot come. */
static int next_phase(uint32_t phase, uint8_t byte) {
    static const struct {
        uint8_t lo, hi, then;
    } rules[] = {{0, 0, 0},       {0x80, 0xBF, 0}, {0x80, 0xBF, 1}, {0x80, 0xBF, 2},
                 {0xA0, 0xBF, 1}, {0x80, 0x9F, 1}, {0x90, 0xBF, 2}, {0x80, 0x8F, 2}};
    if (phase)
        return byte >= rules[phase].lo && byte <= rules[phase].hi ? rules[phase].then : -1;
    if (byte < 0x80)
        return 0;
    if (byte < 0xC2 || byte > 0xF4)
        return -1;
    switch (byte) {
    case 0xE0:
        return 4;
    case 0xED:
        return 5;
    case 0xF0:
        return 6;
    case 0xF4:
        return 7;
    default:
        return byte < 0xE0 ? 1 : byte < 0xF0 ? 2 : 3;
    }
}

static enum nb_status step_count(struct nb_lazy_impl *l, uint32_t id, uint8_t byte, uint32_t *out) {
    struct count c = get_count(l, id);
    int phase = next_phase(c.phase, byte);
    *out = ID_NONE;
    if (phase < 0 || (c.phase == 0 && c.max == 0))
        return NB_OK;
    if (c.phase == 0) {
        c.min -= c.min > 0;
        c.max -= c.max != UINT64_MAX;
    }
    c.phase = (uint32_t)phase;
    return make_count(l, c, out);
}

static enum nb_status step_places(struct nb_lazy_impl *l, uint32_t id, uint8_t byte,
                                  const struct context *context, uint32_t *out) {
    struct formula f = l->formulas[id];
    uint32_t few[32], *next = few, n = 0;
    if (f.len > 32 && !(next = malloc(f.len * sizeof *next)))
        return fail_memory(l, f.len * sizeof *next);
    for (uint32_t i = 0; i < f.len; i++) {
        uint32_t to = nb_program_next(&l->program, l->pool.data[f.off + i], byte);
        if (to != NB_INST_NONE)
            next[n++] = to;
    }
    *out = ID_NONE;
    enum nb_status s = charge(l, f.len);
    if (s == NB_OK && n)
        s = closure(l, next, n, context, out);
    if (next != few)
        free(next);
    return s;
}

static enum nb_status step(struct nb_lazy *lazy, uint32_t id, uint8_t byte,
                           const struct context *context, uint32_t *out);

/* All members of a conjunction, a disjunction or a negation. */
static enum nb_status step_members(struct nb_lazy *lazy, uint32_t id, uint8_t byte,
                                   const struct context *context, uint32_t *out) {
    struct nb_lazy_impl *l = lazy->impl;
    struct formula f = l->formulas[id];
    struct words w = {0};
    enum nb_status s = NB_OK;
    for (uint32_t i = 0; i < f.len && s == NB_OK; i++) {
        uint32_t next;
        s = step(lazy, l->pool.data[f.off + i], byte, context, &next);
        if (s != NB_OK)
            break;
        if (f.kind == AND && next == ID_NONE) {
            *out = ID_NONE;
            free(w.data);
            return NB_OK;
        }
        if (f.kind == NOT)
            return make_not(l, next, out);
        s = append_members(l, &w, f.kind, next);
    }
    if (s == NB_OK)
        s = reserve(l, &w, 1);
    if (s == NB_OK)
        s = f.kind == AND ? conjunction(l, &w, out) : disjunction(l, &w, out);
    free(w.data);
    return s;
}

/* The row of a formula's successors, made if it is not there yet. */
static enum nb_status memo_row(struct nb_lazy *lazy, uint32_t id, uint32_t **row) {
    struct nb_lazy_impl *l = lazy->impl;
    if (!l->formulas[id].memo) {
        size_t row_bytes = lazy->n_classes * sizeof *l->memo;
        if (!nb_grow(&l->memo, l->n_memo, 1, &l->cap_memo, row_bytes))
            return fail_memory(l, l->n_memo * row_bytes);
        memset(l->memo + (size_t)l->n_memo * lazy->n_classes, 0xFF,
               lazy->n_classes * sizeof *l->memo);
        l->formulas[id].memo = ++l->n_memo;
    }
    *row = l->memo + (size_t)(l->formulas[id].memo - 1) * lazy->n_classes;
    return NB_OK;
}

static enum nb_status step(struct nb_lazy *lazy, uint32_t id, uint8_t byte,
                           const struct context *context, uint32_t *out) {
    struct nb_lazy_impl *l = lazy->impl;
    const struct formula *f = &l->formulas[id];
    struct nb_format_state state;
    uint32_t *row;
    TRY(charge(l, 1));
    switch ((enum kind)l->formulas[id].kind) {
    case COUNT:
        return step_count(l, id, byte, out);
    case FORMAT:
        state = get_format(l->pool.data + f->off, f->len);
        nb_format_step(l->pool.data[f->off], &state, byte, &state);
        return make_format(l, l->pool.data[f->off], &state, out);
    case PLACES:
        if (l->formulas[id].trackers)
            return step_places(l, id, byte, context, out);
        TRY(memo_row(lazy, id, &row));
        if (row[lazy->class_of[byte]] == NB_LAZY_UNKNOWN) {
            TRY(step_places(l, id, byte, context, out));
            TRY(memo_row(lazy, id, &row));
            row[lazy->class_of[byte]] = *out;
        }
        *out = row[lazy->class_of[byte]];
        return NB_OK;
    case AND:
    case OR:
    case NOT:
        return step_members(lazy, id, byte, context, out);
    case NONE:
    case UNIT:
        *out = id;
        return NB_OK;
    }
    return NB_OK;
}

/* ---- States ---- */

static enum nb_status grow_states(struct nb_lazy *lazy) {
    struct nb_lazy_impl *l = lazy->impl;
    uint32_t cap = l->cap_states ? 2 * l->cap_states : 32;
    size_t row = lazy->n_classes * sizeof *lazy->next;
    if (!nb_resize(&lazy->next, cap, row) || !nb_resize(&lazy->accepts, cap, 1) ||
        !nb_resize(&l->state_off, cap, sizeof *l->state_off) || !nb_resize(&l->life, cap, 1) ||
        !nb_resize(&l->ways_out, cap, sizeof *l->ways_out))
        return fail_memory(l, cap * row);
    l->cap_states = cap;
    return NB_OK;
}

static uint32_t state_words(const struct nb_lazy_impl *l, const uint32_t *words) {
    return 1 + (uint32_t)__builtin_popcountll(l->formulas[words[0]].trackers);
}

static enum nb_status grow_state_table(struct nb_lazy *lazy) {
    struct nb_lazy_impl *l = lazy->impl;
    uint32_t size = l->state_table_size ? 2 * l->state_table_size : 128;
    uint32_t *table = calloc(size, sizeof *table);
    if (!table)
        return fail_memory(l, size * sizeof *table);
    for (uint32_t i = 1; i < lazy->n_states; i++) {
        const uint32_t *words = l->state_pool.data + l->state_off[i];
        uint32_t at = hash_words(0, words, state_words(l, words)) & (size - 1);
        while (table[at])
            at = (at + 1) & (size - 1);
        table[at] = i;
    }
    free(l->state_table);
    l->state_table = table;
    l->state_table_size = size;
    return NB_OK;
}

/* The state of a formula and of the trackers that it needs, tracker[] being all. */
static enum nb_status find_state(struct nb_lazy *lazy, uint32_t formula, const uint32_t *tracker,
                                 uint32_t *out) {
    struct nb_lazy_impl *l = lazy->impl;
    uint32_t words[1 + NB_MAX_TRACKERS] = {formula}, n = 1, id;
    *out = 0;
    if (formula == ID_NONE)
        return NB_OK;
    for (uint64_t mask = l->formulas[formula].trackers; mask; mask &= mask - 1)
        words[n++] = tracker[__builtin_ctzll(mask)];
    if (2 * lazy->n_states >= l->state_table_size)
        TRY(grow_state_table(lazy));
    uint32_t at = hash_words(0, words, n) & (l->state_table_size - 1);
    for (; (id = l->state_table[at]); at = (at + 1) & (l->state_table_size - 1)) {
        const uint32_t *w = l->state_pool.data + l->state_off[id];
        if (w[0] == formula && !memcmp(w, words, n * sizeof *w)) {
            *out = id;
            return NB_OK;
        }
    }
    if (lazy->n_states >= l->max_states)
        return nb_fail(l->err, NB_ERR_LIMIT, "the pattern has more than %u states", l->max_states);
    if (lazy->n_states == l->cap_states)
        TRY(grow_states(lazy));
    TRY(charge(l, 20));
    TRY(reserve(l, &l->state_pool, n));
    id = lazy->n_states;
    l->state_off[id] = l->state_pool.n;
    memcpy(l->state_pool.data + l->state_pool.n, words, n * sizeof *words);
    l->state_pool.n += n;
    l->state_table[at] = id;
    l->life[id] = l->formulas[formula].live ? LIVE : UNKNOWN;
    l->ways_out[id].known = 0;
    memset(lazy->next + (size_t)id * lazy->n_classes, 0xFF, lazy->n_classes * sizeof *lazy->next);
    lazy->accepts[id] = l->formulas[formula].accepts;
    lazy->n_states++;
    *out = id;
    return NB_OK;
}

/* The state that a byte leads to, which may yet turn out to be dead. */
static enum nb_status successor(struct nb_lazy *lazy, uint32_t state, uint8_t byte, uint32_t *out) {
    struct nb_lazy_impl *l = lazy->impl;
    const uint32_t *words = l->state_pool.data + l->state_off[state];
    uint32_t formula = words[0], n = 1, tracker[NB_MAX_TRACKERS] = {0}, next;
    struct context context = {0, false};
    for (uint64_t mask = l->formulas[formula].trackers; mask; mask &= mask - 1)
        tracker[__builtin_ctzll(mask)] = words[n++];
    for (uint64_t mask = l->formulas[formula].trackers; mask; mask &= mask - 1) {
        int t = __builtin_ctzll(mask);
        TRY(step(lazy, tracker[t], byte, &context, &tracker[t]));
        if (l->formulas[tracker[t]].accepts)
            context.behind |= UINT64_C(1) << t;
    }
    TRY(step(lazy, formula, byte, &context, &next));
    return find_state(lazy, next, tracker, out);
}

/* A search's states, in the order in which they were met, and a heap of those still to be looked
 * at: the nearest to an accepting end first, as far as one can tell, and among those the oldest. */
struct search {
    struct words met;  /* state, index of the one it was met from */
    struct words heap; /* indices into `met` */
    uint8_t *visited;
    uint32_t size; /* of visited */
};

static uint64_t urgency(const struct nb_lazy *lazy, const struct search *s, uint32_t i) {
    const struct nb_lazy_impl *l = lazy->impl;
    uint32_t state = s->met.data[s->heap.data[i]];
    uint32_t distance = l->formulas[l->state_pool.data[l->state_off[state]]].distance;
    return (uint64_t)distance << 32 | s->heap.data[i];
}

static void swap_heap(struct search *s, uint32_t i, uint32_t j) {
    uint32_t kept = s->heap.data[i];
    s->heap.data[i] = s->heap.data[j];
    s->heap.data[j] = kept;
}

static uint32_t pop_heap(const struct nb_lazy *lazy, struct search *s) {
    uint32_t top = s->heap.data[0], i = 0;
    s->heap.data[0] = s->heap.data[--s->heap.n];
    for (;;) {
        uint32_t least = i;
        for (uint32_t child = 2 * i + 1; child <= 2 * i + 2 && child < s->heap.n; child++)
            if (urgency(lazy, s, child) < urgency(lazy, s, least))
                least = child;
        if (least == i)
            return top;
        swap_heap(s, i, least);
        i = least;
    }
}

static enum nb_status meet(struct nb_lazy *lazy, struct search *s, uint32_t state, uint32_t from) {
    struct nb_lazy_impl *l = lazy->impl;
    if (lazy->n_states > s->size) {
        uint32_t more = 2 * lazy->n_states;
        if (!nb_resize(&s->visited, more, 1))
            return fail_memory(l, more);
        memset(s->visited + s->size, 0, more - s->size);
        s->size = more;
    }
    if (s->visited[state])
        return NB_OK;
    s->visited[state] = 1;
    TRY(push(l, &s->heap, s->met.n));
    TRY(push(l, &s->met, state));
    TRY(push(l, &s->met, from));
    for (uint32_t i = s->heap.n - 1; i && urgency(lazy, s, i) < urgency(lazy, s, (i - 1) / 2);
         i = (i - 1) / 2)
        swap_heap(s, i, (i - 1) / 2);
    return NB_OK;
}

/* Looks for a state that is known to live, as all that accept are; *last is the index of the one
 * that leads to it. */
static enum nb_status look_for_life(struct nb_lazy *lazy, struct search *s, bool *found,
                                    uint32_t *last) {
    struct nb_lazy_impl *l = lazy->impl;
    while (s->heap.n) {
        *last = pop_heap(lazy, s);
        uint32_t state = s->met.data[*last];
        for (uint32_t class = 0; class < lazy->n_classes; class ++) {
            uint32_t next;
            TRY(successor(lazy, state, lazy->byte_of[class], &next));
            *found = l->life[next] == LIVE;
            if (*found)
                return NB_OK;
            if (l->life[next] != DEAD)
                TRY(meet(lazy, s, next, *last));
        }
    }
    return NB_OK;
}

/* Decides whether a state lives, of which that is not known. If so, those on the way live, too; if
 * not, all that can be reached from it is dead. */
static enum nb_status search(struct nb_lazy *lazy, uint32_t from) {
    struct nb_lazy_impl *l = lazy->impl;
    struct search s = {0};
    bool found = false;
    uint32_t last = 0;
    enum nb_status status = meet(lazy, &s, from, 0);
    if (status == NB_OK)
        status = look_for_life(lazy, &s, &found, &last);
    if (status == NB_OK && found)
        for (uint32_t i = last;; i = s.met.data[i + 1]) {
            l->life[s.met.data[i]] = LIVE;
            if (i == 0)
                break;
        }
    else if (status == NB_OK)
        for (uint32_t i = 0; i < s.met.n; i += 2)
            l->life[s.met.data[i]] = DEAD;
    free(s.met.data);
    free(s.heap.data);
    free(s.visited);
    return status;
}

/* 0 in place of a state that is dead. */
static enum nb_status only_live(struct nb_lazy *lazy, uint32_t *state) {
    struct nb_lazy_impl *l = lazy->impl;
    if (l->life[*state] == UNKNOWN)
        TRY(search(lazy, *state));
    if (l->life[*state] == DEAD)
        *state = 0;
    return NB_OK;
}

uint32_t nb_lazy_step(struct nb_lazy *lazy, uint32_t state, uint8_t byte) {
    struct nb_lazy_impl *l = lazy->impl;
    uint32_t next;
    l->work = 0;
    l->err = NULL;
    l->looking.n = 0;
    l->end_depth = 0;
    enum nb_status s = successor(lazy, state, byte, &next);
    if (s == NB_OK)
        s = only_live(lazy, &next);
    if (s != NB_OK) {
        lazy->failed = s;
        return 0;
    }
    lazy->next[(size_t)state * lazy->n_classes + lazy->class_of[byte]] = next;
    return next;
}

struct nb_lazy_mark nb_lazy_mark(const struct nb_lazy *lazy) {
    const struct nb_lazy_impl *l = lazy->impl;
    return (struct nb_lazy_mark){lazy->n_states, l->n_formulas, l->n_memo, l->pool.n,
                                 l->state_pool.n};
}

/* Tables by open addressing, in which what came first stands before what came later: those that
 * came last are taken out without a trace. */
static void forget_in(uint32_t *table, uint32_t size, uint32_t from) {
    for (uint32_t i = 0; i < size; i++)
        if (table[i] >= from)
            table[i] = 0;
}

void nb_lazy_forget(struct nb_lazy *lazy, const struct nb_lazy_mark *mark) {
    struct nb_lazy_impl *l = lazy->impl;
    size_t n_classes = lazy->n_classes;
    forget_in(l->state_table, l->state_table_size, mark->n_states);
    forget_in(l->formula_table, l->formula_table_size, mark->n_formulas);
    for (size_t i = 0; i < mark->n_states * n_classes; i++)
        if (lazy->next[i] >= mark->n_states)
            lazy->next[i] = NB_LAZY_UNKNOWN;
    for (size_t i = 0; i < mark->n_memo * n_classes; i++)
        if (l->memo[i] >= mark->n_formulas)
            l->memo[i] = NB_LAZY_UNKNOWN;
    for (uint32_t i = 0; i < mark->n_formulas; i++)
        if (l->formulas[i].memo > mark->n_memo)
            l->formulas[i].memo = 0;
    lazy->n_states = mark->n_states;
    l->n_formulas = mark->n_formulas;
    l->n_memo = mark->n_memo;
    l->pool.n = mark->pool;
    l->state_pool.n = mark->state_pool;
}

bool nb_lazy_accepts_all(const struct nb_lazy *lazy, uint32_t state) {
    const struct nb_lazy_impl *l = lazy->impl;
    if (!state)
        return false;
    uint32_t id = l->state_pool.data[l->state_off[state]];
    return is_any(l, id) && get_count(l, id).phase == 0;
}

/* ---- Ways out ---- */

bool nb_lazy_uncounted(struct nb_lazy *lazy, uint32_t state, uint32_t *other, uint64_t *least,
                       uint64_t *most) {
    struct nb_lazy_impl *l = lazy->impl;
    const uint32_t *words = l->state_pool.data + l->state_off[state];
    const struct formula f = l->formulas[words[0]];
    uint32_t rest[8], n = 0, tracker[NB_MAX_TRACKERS] = {0}, formula;
    bool counted = false;
    if (!state || f.kind != AND || f.len > sizeof rest / sizeof *rest)
        return false;
    for (uint32_t i = 0; i < f.len; i++) {
        uint32_t id = l->pool.data[f.off + i];
        if (l->formulas[id].kind == NOT)
            return false; /* it needs another member, and that may be the count */
        if (l->formulas[id].kind != COUNT) {
            rest[n++] = id;
            continue;
        }
        struct count c = get_count(l, id);
        *least = c.min;
        *most = c.max;
        counted = true;
    }
    if (!counted)
        return false;
    for (uint64_t mask = f.trackers; mask; mask &= mask - 1)
        tracker[__builtin_ctzll(mask)] = *++words;
    l->work = 0;
    l->err = NULL;
    formula = rest[0];
    if ((n > 1 && find_formula(l, AND, rest, n, &formula) != NB_OK) ||
        find_state(lazy, formula, tracker, other) != NB_OK)
        return false;
    l->life[*other] = LIVE; /* as what asks for more is */
    return true;
}

static uint32_t state_distance(const struct nb_lazy_impl *l, uint32_t state) {
    return l->formulas[l->state_pool.data[l->state_off[state]]].distance;
}

/* The next state on a way that looks short, or 0; and whether one of ASCII's characters leads back
 * to this one. Only unions are looked at, whose distances are nearly always right. */
static uint32_t nearer(struct nb_lazy *lazy, uint32_t state, bool *loops) {
    struct nb_lazy_impl *l = lazy->impl;
    uint32_t best = 0, distance = state_distance(l, state);
    *loops = false;
    if (l->formulas[l->state_pool.data[l->state_off[state]]].kind != PLACES)
        return 0;
    for (uint32_t c = 0; c < lazy->n_classes; c++) {
        uint32_t to = nb_lazy_next(lazy, state, lazy->byte_of[c]);
        *loops |= to == state && lazy->byte_of[c] < 0x80;
        if (to && state_distance(l, to) < distance) {
            best = to;
            distance = state_distance(l, to);
        }
    }
    return best;
}

uint32_t nb_lazy_way_out(struct nb_lazy *lazy, uint32_t state, bool *stretches) {
    struct nb_lazy_impl *l = lazy->impl;
    uint32_t path[LONGEST_WAY_OUT], n = 0, at = state;
    bool loops[LONGEST_WAY_OUT];
    struct way_out way = {NO_WAY, 1, false};
    while (at && n < LONGEST_WAY_OUT && !l->ways_out[at].known) {
        uint32_t to = nearer(lazy, at, &loops[n]);
        path[n++] = at;
        if (lazy->accepts[at]) {
            way.bytes = 0;
            break;
        }
        at = to;
    }
    bool ends = n && lazy->accepts[path[n - 1]];
    if (at && n < LONGEST_WAY_OUT && !ends)
        way = l->ways_out[at];
    while (n--) {
        if (way.bytes != NO_WAY && !(ends && lazy->accepts[path[n]]))
            way.bytes = way.bytes < LONGEST_WAY_OUT ? way.bytes + 1 : NO_WAY;
        way.stretches |= loops[n];
        l->ways_out[path[n]] = way;
    }
    *stretches = l->ways_out[state].stretches;
    return l->ways_out[state].bytes == NO_WAY ? UINT32_MAX : l->ways_out[state].bytes;
}

/* ---- Building ---- */

enum nb_status nb_lazy_open(const struct nb_automaton_limits *limits, struct nb_lazy **out,
                            struct nb_error *err) {
    struct nb_lazy *lazy = calloc(1, sizeof *lazy);
    struct nb_lazy_impl *l = calloc(1, sizeof *l);
    if (!lazy || !l) {
        free(lazy);
        free(l);
        return nb_fail_memory(err, sizeof *l, "an automaton");
    }
    lazy->impl = l;
    l->max_states = limits && limits->max_states ? limits->max_states : DEFAULT_STATES;
    l->max_table_states = limits && limits->max_states ? limits->max_states : NB_TABLE_STATES;
    l->max_work = limits && limits->max_work ? limits->max_work : DEFAULT_WORK;
    enum nb_status s = nb_program_open(&l->program, err);
    if (s == NB_OK) {
        *out = lazy;
        return NB_OK;
    }
    nb_lazy_close(lazy);
    return s;
}

void nb_lazy_close(struct nb_lazy *lazy) {
    if (!lazy)
        return;
    struct nb_lazy_impl *l = lazy->impl;
    nb_program_free(&l->program);
    free(l->roots);
    free(l->formulas);
    free(l->pool.data);
    free(l->formula_table);
    free(l->memo);
    free(l->state_off);
    free(l->life);
    free(l->ways_out);
    free(l->state_pool.data);
    free(l->state_table);
    free(l->mark);
    free(l->stack.data);
    free(l->places.data);
    free(l->looking.data);
    free(lazy->next);
    free(lazy->accepts);
    free(l);
    free(lazy);
}

static enum nb_status add_root(struct nb_lazy *lazy, struct root root, nb_lazy_expr *out,
                               struct nb_error *err) {
    struct nb_lazy_impl *l = lazy->impl;
    if (l->started)
        return nb_fail(err, NB_ERR_ARGUMENT,
                       "an automaton that has started takes no more "
                       "expressions");
    if (!nb_grow(&l->roots, l->n_roots, 1, &l->cap_roots, sizeof *l->roots))
        return nb_fail_memory(err, l->n_roots * sizeof *l->roots, "an automaton");
    l->roots[l->n_roots] = root;
    *out = l->n_roots++;
    return NB_OK;
}

/* Whether the tree is ^[…]{min,max}$ with more copies than it is wise to write out; *set is then
 * its […], and the bounds are given. */
static const struct nb_re *counted_set(const struct nb_re *re, enum nb_regex_mode mode,
                                       uint64_t *min, uint64_t *max) {
    const struct nb_re *repeat = re;
    if (mode == NB_REGEX_SEARCH) {
        if (re->kind != NB_RE_CAT || re->child->kind != NB_RE_START || !re->child->next->next ||
            re->child->next->next->kind != NB_RE_END || re->child->next->next->next)
            return NULL;
        repeat = re->child->next;
    }
    if (repeat->kind != NB_RE_REPEAT || repeat->child->kind != NB_RE_SET ||
        !repeat->child->n_ranges)
        return NULL;
    uint32_t copies = repeat->max == NB_RE_NO_MAX ? repeat->min : repeat->max;
    if (copies < 40)
        return NULL;
    *min = repeat->min;
    *max = repeat->max == NB_RE_NO_MAX ? UINT64_MAX : repeat->max;
    return repeat->child;
}

enum nb_status nb_lazy_regex(struct nb_lazy *lazy, const char *pattern, size_t n,
                             enum nb_regex_mode mode, nb_lazy_expr *out, struct nb_error *err) {
    struct nb_lazy_impl *l = lazy->impl;
    struct nb_arena arena = {0};
    struct nb_re *re;
    struct root root = {.kind = ROOT_PROGRAM};
    uint64_t min, max;
    enum nb_status s = nb_re_parse(pattern, n, &arena, &re, err);
    if (s == NB_OK) {
        const struct nb_re *set = counted_set(re, mode, &min, &max);
        if (set) {
            struct nb_re star = {.kind = NB_RE_REPEAT, .max = NB_RE_NO_MAX};
            struct nb_re copy = *set;
            copy.next = NULL;
            star.child = &copy;
            nb_lazy_expr all, length;
            s = nb_program_add(&l->program, &star, false, true, &root.a, err);
            if (s == NB_OK)
                s = add_root(lazy, root, &all, err);
            if (s == NB_OK)
                s = nb_lazy_length(lazy, min, max, &length, err);
            if (s == NB_OK)
                s = nb_lazy_and(lazy, all, length, out, err);
        } else {
            s = nb_program_add(&l->program, re, mode == NB_REGEX_SEARCH, false, &root.a, err);
            if (s == NB_OK)
                s = add_root(lazy, root, out, err);
        }
    }
    nb_arena_free(&arena);
    return s;
}

/* An upper bound, but for a factor, of the steps that a tree's program has; infinite where the tree
 * looks behind, which programs refuse some of. */
static double steps_of(const struct nb_re *re) {
    if (re->kind == NB_RE_LOOK && re->behind)
        return INFINITY;
    double steps = 1 + re->n_ranges;
    for (const struct nb_re *child = re->child; child; child = child->next)
        steps += steps_of(child);
    if (re->kind == NB_RE_REPEAT)
        steps *= 1 + (re->max == NB_RE_NO_MAX ? re->min : re->max);
    return steps;
}

enum nb_status nb_lazy_regex_check(const char *pattern, size_t n, enum nb_regex_mode mode,
                                   struct nb_error *err) {
    struct nb_arena arena = {0};
    struct nb_program program;
    struct nb_re *re;
    uint32_t entry;
    uint64_t min, max;
    enum nb_status s = nb_re_parse(pattern, n, &arena, &re, err);
    /* Programs are written only where one may not be: it takes longer than all else here. */
    if (s == NB_OK && !counted_set(re, mode, &min, &max) && steps_of(re) > NB_MAX_INSTS / 20 &&
        (s = nb_program_open(&program, err)) == NB_OK) {
        s = nb_program_add(&program, re, mode == NB_REGEX_SEARCH, false, &entry, err);
        nb_program_free(&program);
    }
    nb_arena_free(&arena);
    return s;
}

enum nb_status nb_lazy_length(struct nb_lazy *lazy, uint64_t min, uint64_t max, nb_lazy_expr *out,
                              struct nb_error *err) {
    return add_root(lazy, (struct root){.kind = ROOT_COUNT, .min = min, .max = max}, out, err);
}

enum nb_status nb_lazy_any(struct nb_lazy *lazy, nb_lazy_expr *out, struct nb_error *err) {
    return nb_lazy_length(lazy, 0, UINT64_MAX, out, err);
}

enum nb_status nb_lazy_literal(struct nb_lazy *lazy, const char *text, size_t n, nb_lazy_expr *out,
                               struct nb_error *err) {
    struct root root = {.kind = ROOT_PROGRAM};
    TRY(nb_program_add_literal(&lazy->impl->program, text, n, &root.a, err));
    return add_root(lazy, root, out, err);
}

static enum nb_status add_operation(struct nb_lazy *lazy, enum root_kind kind, nb_lazy_expr a,
                                    nb_lazy_expr b, nb_lazy_expr *out, struct nb_error *err) {
    if (a >= lazy->impl->n_roots || b >= lazy->impl->n_roots)
        return nb_fail(err, NB_ERR_ARGUMENT, "no expression of this automaton");
    return add_root(lazy, (struct root){.kind = kind, .a = a, .b = b}, out, err);
}

enum nb_status nb_lazy_and(struct nb_lazy *lazy, nb_lazy_expr a, nb_lazy_expr b, nb_lazy_expr *out,
                           struct nb_error *err) {
    return add_operation(lazy, ROOT_AND, a, b, out, err);
}

enum nb_status nb_lazy_or(struct nb_lazy *lazy, nb_lazy_expr a, nb_lazy_expr b, nb_lazy_expr *out,
                          struct nb_error *err) {
    return add_operation(lazy, ROOT_OR, a, b, out, err);
}

enum nb_status nb_lazy_not(struct nb_lazy *lazy, nb_lazy_expr a, nb_lazy_expr *out,
                           struct nb_error *err) {
    return add_operation(lazy, ROOT_NOT, a, a, out, err);
}

enum nb_status nb_lazy_format(struct nb_lazy *lazy, const char *name, size_t n,
                              enum nb_format_draft draft, nb_lazy_expr *out, bool *known,
                              struct nb_error *err) {
    const struct nb_format *format = nb_format_find(name, n, draft);
    *known = format != NULL;
    if (!format)
        return NB_OK;
    if (format->pattern)
        return nb_lazy_regex(lazy, format->pattern, strlen(format->pattern), NB_REGEX_WHOLE, out,
                             err);
    lazy->impl->formats_used |= UINT64_C(1) << format->machine;
    return add_root(lazy, (struct root){.kind = ROOT_FORMAT, .a = format->machine}, out, err);
}

/* ---- Starting ---- */

/* Cuts the classes so that all bytes of one are in `set`, or none is. size: bytes of each class.
 * Only the bytes of the set, or only the others, are looked at: whichever are fewer. */
static void refine(struct nb_lazy *lazy, const struct nb_byte_set *set, uint32_t *size) {
    uint32_t inside[256], split[256], n = 0;
    uint8_t bytes[256];
    int members = 0;
    for (int i = 0; i < 4; i++)
        members += __builtin_popcountll(set->bits[i]);
    for (int i = 0; i < 4; i++)
        for (uint64_t bits = members <= 128 ? set->bits[i] : ~set->bits[i]; bits; bits &= bits - 1)
            bytes[n++] = (uint8_t)(64 * i + __builtin_ctzll(bits));
    for (uint32_t i = 0; i < n; i++)
        inside[lazy->class_of[bytes[i]]] = split[lazy->class_of[bytes[i]]] = 0;
    for (uint32_t i = 0; i < n; i++)
        inside[lazy->class_of[bytes[i]]]++;
    for (uint32_t i = 0; i < n; i++) {
        uint8_t c = lazy->class_of[bytes[i]];
        if (!split[c]) {
            if (inside[c] == size[c])
                continue;
            split[c] = lazy->n_classes++;
            size[split[c]] = inside[c];
            size[c] -= inside[c];
        }
        lazy->class_of[bytes[i]] = (uint8_t)split[c];
    }
}

static void make_classes(struct nb_lazy *lazy) {
    static const uint8_t utf8[][2] = {{0x00, 0x7F}, {0x80, 0x8F}, {0x90, 0x9F}, {0xA0, 0xBF},
                                      {0xC2, 0xDF}, {0xE0, 0xE0}, {0xE1, 0xEF}, {0xED, 0xED},
                                      {0xF0, 0xF0}, {0xF1, 0xF3}, {0xF4, 0xF4}};
    struct nb_lazy_impl *l = lazy->impl;
    uint32_t size[256] = {256};
    lazy->n_classes = 1;
    memset(lazy->class_of, 0, sizeof lazy->class_of);
    for (size_t i = 0; i < sizeof utf8 / sizeof *utf8; i++) {
        struct nb_byte_set set = {{0}};
        nb_byte_set_add(&set, utf8[i][0], utf8[i][1]);
        refine(lazy, &set, size);
    }
    for (uint32_t i = 0; i < l->program.n_sets && lazy->n_classes < 256; i++)
        refine(lazy, &l->program.sets[i], size);
    for (uint64_t used = l->formats_used; used; used &= used - 1) {
        uint8_t alike[2];
        for (uint32_t i = 0; nb_format_bytes((uint32_t)__builtin_ctzll(used), i, alike); i++) {
            struct nb_byte_set set = {{0}};
            nb_byte_set_add(&set, alike[0], alike[0]);
            nb_byte_set_add(&set, alike[1], alike[1]);
            refine(lazy, &set, size);
        }
    }
    for (int b = 255; b >= 0; b--)
        lazy->byte_of[lazy->class_of[b]] = (uint8_t)b;
}

/* Formulas 0 and 1, state 0, and what a closure writes to. */
static enum nb_status begin_states(struct nb_lazy *lazy) {
    struct nb_lazy_impl *l = lazy->impl;
    make_classes(lazy);
    l->mark_size = l->program.n_insts;
    l->mark = calloc(l->mark_size, sizeof *l->mark);
    l->cap_formulas = 64;
    l->formulas = calloc(l->cap_formulas, sizeof *l->formulas);
    if (!l->mark || !l->formulas)
        return fail_memory(l, l->mark_size * sizeof *l->mark);
    l->formulas[ID_UNIT] = (struct formula){.kind = UNIT, .accepts = true, .live = true};
    l->n_formulas = 2;
    TRY(grow_states(lazy));
    TRY(push(l, &l->state_pool, ID_NONE));
    l->state_off[0] = 0;
    l->life[0] = DEAD;
    lazy->accepts[0] = 0;
    memset(lazy->next, 0, lazy->n_classes * sizeof *lazy->next);
    lazy->n_states = 1;
    return NB_OK;
}

static enum nb_status start_formula(struct nb_lazy_impl *l, nb_lazy_expr expr,
                                    const struct context *context, uint32_t *out) {
    struct root root = l->roots[expr];
    uint32_t a, b;
    struct nb_format_state state;
    switch (root.kind) {
    case ROOT_PROGRAM:
        return closure(l, &root.a, 1, context, out);
    case ROOT_COUNT:
        return make_count(l, (struct count){root.min, root.max, 0}, out);
    case ROOT_FORMAT:
        nb_format_start(root.a, &state);
        return make_format(l, root.a, &state, out);
    case ROOT_AND:
    case ROOT_OR:
        TRY(start_formula(l, root.a, context, &a));
        TRY(start_formula(l, root.b, context, &b));
        return root.kind == ROOT_AND ? make_and(l, a, b, out) : make_or(l, a, b, out);
    case ROOT_NOT:
        TRY(start_formula(l, root.a, context, &a));
        TRY(make_not(l, a, &a));
        TRY(make_count(l, (struct count){0, UINT64_MAX, 0}, &b));
        return make_and(l, a, b, out);
    }
    return NB_OK;
}

/* The state of an expression before any byte, dead or not. */
static enum nb_status start(struct nb_lazy *lazy, nb_lazy_expr expr, uint32_t *state) {
    struct nb_lazy_impl *l = lazy->impl;
    struct context context = {0, true};
    uint32_t tracker[NB_MAX_TRACKERS] = {0}, formula;
    l->work = 0;
    l->looking.n = 0;
    l->end_depth = 0;
    if (!l->started) {
        l->started = true;
        TRY(begin_states(lazy));
    }
    for (uint32_t t = 0; t < l->program.n_trackers; t++) {
        TRY(closure(l, &l->program.trackers[t].entry, 1, &context, &tracker[t]));
        if (l->formulas[tracker[t]].accepts)
            context.behind |= UINT64_C(1) << t;
    }
    TRY(start_formula(l, expr, &context, &formula));
    return find_state(lazy, formula, tracker, state);
}

enum nb_status nb_lazy_start(struct nb_lazy *lazy, nb_lazy_expr expr, uint32_t *state,
                             struct nb_error *err) {
    struct nb_lazy_impl *l = lazy->impl;
    if (expr >= l->n_roots)
        return nb_fail(err, NB_ERR_ARGUMENT, "no expression of this automaton");
    l->err = err;
    enum nb_status s = start(lazy, expr, state);
    if (s == NB_OK)
        s = only_live(lazy, state);
    l->err = NULL;
    return s;
}

/* ---- Walks over all that can be reached ---- */

/* The classes in the order of their first bytes. */
static void order_classes(const struct nb_lazy *lazy, uint8_t order[256]) {
    uint32_t n = 0;
    for (int byte = 0; byte < 256; byte++)
        if (lazy->byte_of[lazy->class_of[byte]] == byte)
            order[n++] = (uint8_t)byte;
}

/* Breadth first: seen lists pairs, state and the index of the pair that it was reached from; by
 * holds bytes. Ends at the first state that accepts, which is the last pair's. */
static enum nb_status walk_to_end(struct nb_lazy *lazy, uint32_t state, struct words *seen,
                                  struct words *by) {
    struct nb_lazy_impl *l = lazy->impl;
    uint8_t bytes[256];
    struct words visited = {0};
    enum nb_status s = push(l, seen, state);
    if (s == NB_OK)
        s = push(l, seen, 0);
    if (s == NB_OK)
        s = push(l, by, 0);
    order_classes(lazy, bytes);
    bool found = lazy->accepts[state];
    for (uint32_t i = 0; i < seen->n && s == NB_OK && !found; i += 2)
        for (uint32_t c = 0; c < lazy->n_classes && s == NB_OK && !found; c++) {
            uint32_t to = nb_lazy_next(lazy, seen->data[i], bytes[c]);
            if (lazy->failed != NB_OK) {
                s = nb_fail(l->err, lazy->failed, "a shortest text is too hard to find");
                break;
            }
            while (visited.n <= to && s == NB_OK)
                s = push(l, &visited, 0);
            if (s != NB_OK || !to || visited.data[to] || to == state)
                continue;
            visited.data[to] = 1;
            found = lazy->accepts[to];
            s = push(l, seen, to);
            if (s == NB_OK)
                s = push(l, seen, i);
            if (s == NB_OK)
                s = push(l, by, bytes[c]);
        }
    free(visited.data);
    return s;
}

/* A text that a format of the state's formula says ends it, if it does. */
static bool hinted_end(struct nb_lazy *lazy, uint32_t state, char **text, size_t *n) {
    const struct nb_lazy_impl *l = lazy->impl;
    uint32_t id = l->state_pool.data[l->state_off[state]];
    const struct formula *f = &l->formulas[id];
    uint32_t n_members = f->kind == AND || f->kind == OR ? f->len : 1;
    char hint[NB_FORMAT_TEXT];
    for (uint32_t i = 0; i < n_members; i++) {
        const struct formula *g =
            &l->formulas[f->kind == AND || f->kind == OR ? l->pool.data[l->formulas[id].off + i]
                                                         : id];
        if (g->kind != FORMAT || g->len == FORMAT_WORDS)
            continue;
        struct nb_format_state s = get_format(l->pool.data + g->off, g->len);
        int len = nb_format_finish(l->pool.data[g->off], &s, hint);
        uint32_t to = state;
        for (int k = 0; k < len && to; k++)
            to = nb_lazy_next(lazy, to, (uint8_t)hint[k]);
        if (len < 0 || !lazy->accepts[to] || !(*text = malloc((size_t)len + 1)))
            return false;
        memcpy(*text, hint, (size_t)len);
        (*text)[len] = 0;
        *n = (size_t)len;
        return true;
    }
    return false;
}

enum nb_status nb_lazy_shortest(struct nb_lazy *lazy, uint32_t state, char **text, size_t *n,
                                struct nb_error *err) {
    struct words seen = {0}, by = {0};
    if (state == 0 || state >= lazy->n_states)
        return nb_fail(err, NB_ERR_ARGUMENT, "nothing can follow state %u of an automaton", state);
    if (hinted_end(lazy, state, text, n))
        return NB_OK;
    enum nb_status s = walk_to_end(lazy, state, &seen, &by);
    if (s == NB_OK) {
        size_t len = 0;
        for (uint32_t i = seen.n - 2; i; i = seen.data[i + 1])
            len++;
        char *found = malloc(len + 1);
        if (found) {
            found[len] = 0;
            *text = found;
            *n = len;
            for (uint32_t i = seen.n - 2; i; i = seen.data[i + 1])
                found[--len] = (char)by.data[i / 2];
        } else {
            s = NB_ERR_MEMORY;
        }
    }
    if (s != NB_OK)
        nb_fail(err, s, "a shortest text is too hard to find");
    free(seen.data);
    free(by.data);
    return s;
}

/* All that can be reached from `state`, numbered in the order in which it is found. */
static enum nb_status write_table(struct nb_lazy *lazy, uint32_t state, struct nb_table *table) {
    struct nb_lazy_impl *l = lazy->impl;
    struct words found = {0}, number = {0}, next = {0};
    uint32_t limit = l->max_table_states;
    enum nb_status s = push(l, &found, 0);
    if (s == NB_OK)
        s = push(l, &number, 0);
    if (s == NB_OK && state)
        s = push(l, &found, state);
    while (s == NB_OK && number.n <= state)
        s = push(l, &number, 0);
    if (s == NB_OK && state)
        number.data[state] = 1;
    for (uint32_t c = 0; c < lazy->n_classes && s == NB_OK; c++)
        s = push(l, &next, 0);
    for (uint32_t i = 1; i < found.n && s == NB_OK; i++)
        for (uint32_t c = 0; c < lazy->n_classes && s == NB_OK; c++) {
            uint32_t to = 0;
            s = successor(lazy, found.data[i], lazy->byte_of[c], &to);
            while (s == NB_OK && number.n <= to)
                s = push(l, &number, 0);
            if (s == NB_OK && to && !number.data[to]) {
                if (found.n > limit)
                    s = nb_fail(l->err, NB_ERR_LIMIT, "the pattern has more than %u states", limit);
                number.data[to] = found.n;
                if (s == NB_OK)
                    s = push(l, &found, to);
            }
            if (s == NB_OK)
                s = push(l, &next, number.data[to]);
        }
    table->accepts = malloc(found.n + 1);
    if (s == NB_OK && !table->accepts)
        s = fail_memory(l, found.n);
    for (uint32_t i = 0; i < found.n && s == NB_OK; i++)
        table->accepts[i] = lazy->accepts[found.data[i]];
    table->n_states = found.n;
    table->n_classes = lazy->n_classes;
    table->start = state ? 1 : 0;
    table->next = next.data;
    memcpy(table->class_of, lazy->class_of, sizeof table->class_of);
    free(found.data);
    free(number.data);
    return s;
}

enum nb_status nb_lazy_table(struct nb_lazy *lazy, uint32_t state, struct nb_arena *arena,
                             struct nb_automaton *out, struct nb_error *err) {
    struct nb_lazy_impl *l = lazy->impl;
    struct nb_table table = {0};
    if (state >= lazy->n_states)
        return nb_fail(err, NB_ERR_ARGUMENT, "no state %u of this automaton", state);
    l->err = err;
    l->work = 0;
    enum nb_status s = write_table(lazy, state, &table);
    l->err = NULL;
    if (s == NB_OK)
        s = nb_table_minimize(&table, arena, out, err);
    free(table.next);
    free(table.accepts);
    return s;
}
