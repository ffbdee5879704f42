/* Shapes: what is asked of a value whose kind is known, and links into objects and arrays. */
#include "grammar/shape.h"

#include "grammar/grow.h"
#include "grammar/state.h"
#include "model/tokenizer_map.h"

#include <stdlib.h>
#include <string.h>

enum { N_CHAINS = 1024 };

/* ---- machines ---- */

static uint32_t set_slot(const struct nb_machine *m, const uint64_t *set) {
    size_t bytes = NB_WORDS(m->n) * sizeof *set;
    uint32_t at = (uint32_t)(nb_hash_text((const char *)set, bytes) >> 32) & (m->n_set_slots - 1);
    while (m->set_slots[at] && memcmp(m->sets[m->set_slots[at] - 1], set, bytes) != 0)
        at = (at + 1) & (m->n_set_slots - 1);
    return at;
}

/* The number of a set of components, which is kept if it is a new one. */
static bool find_set(struct nb_space *s, struct nb_machine *m, const uint64_t *set, uint32_t *out) {
    if (m->n_sets * 2 >= m->n_set_slots) {
        uint32_t n = m->n_set_slots ? m->n_set_slots * 2 : 16;
        uint32_t *slots = calloc(n, sizeof *slots);
        if (!slots) {
            s->failed = NB_ERR_MEMORY;
            return false;
        }
        free(m->set_slots);
        m->set_slots = slots;
        m->n_set_slots = n;
        for (uint32_t i = 0; i < m->n_sets; i++)
            slots[set_slot(m, m->sets[i])] = i + 1;
    }
    uint32_t at = set_slot(m, set);
    if (!m->set_slots[at]) {
        uint64_t *copy = nb_space_alloc(s, NB_WORDS(m->n), sizeof *copy);
        if (!copy || !nb_grow(&m->sets, m->n_sets, 1, &m->cap_sets, sizeof *m->sets)) {
            s->failed = s->failed ? s->failed : NB_ERR_MEMORY;
            return false;
        }
        memcpy(copy, set, NB_WORDS(m->n) * sizeof *set);
        m->sets[m->n_sets] = copy;
        m->set_slots[at] = ++m->n_sets;
    }
    *out = m->set_slots[at] - 1;
    return true;
}

static bool add_machine_state(struct nb_space *s, struct nb_machine *m, const uint32_t *states,
                              uint32_t *out) {
    uint64_t h = nb_hash_text((const char *)states, m->n * sizeof *states);
    if (m->n_states * 2 >= m->n_slots) {
        uint32_t n_slots = m->n_slots ? m->n_slots * 2 : 32;
        uint32_t *slots = calloc(n_slots, sizeof *slots);
        struct nb_machine_state *more = realloc(m->states, n_slots * sizeof *more);
        m->states = more ? more : m->states;
        if (!slots || !more) {
            free(slots);
            s->failed = NB_ERR_MEMORY;
            return false;
        }
        for (uint32_t i = 0; i < m->n_states; i++) {
            uint64_t k = nb_hash_text((const char *)m->states[i].states, m->n * sizeof *states);
            uint32_t at = (uint32_t)(k >> 32) & (n_slots - 1);
            while (slots[at])
                at = (at + 1) & (n_slots - 1);
            slots[at] = i + 1;
        }
        free(m->slots);
        m->slots = slots;
        m->n_slots = n_slots;
    }
    uint32_t at = (uint32_t)(h >> 32) & (m->n_slots - 1);
    for (; m->slots[at]; at = (at + 1) & (m->n_slots - 1)) {
        if (memcmp(m->states[m->slots[at] - 1].states, states, m->n * sizeof *states) == 0) {
            *out = m->slots[at] - 1;
            return true;
        }
    }
    uint32_t *copy = nb_space_alloc(s, m->n, sizeof *copy), n_words = NB_WORDS(m->n);
    uint32_t *next = nb_space_alloc(s, m->lazy->n_classes, sizeof *next);
    uint64_t few[16] = {0}, *sets = few; /* those that accept, then those that are alive */
    if (n_words > 8)
        sets = calloc(n_words, 2 * sizeof *sets);
    struct nb_machine_state added = {.states = copy, .next = next};
    bool good = copy && next && sets;
    for (uint32_t i = 0; i < m->n && good; i++) {
        copy[i] = states[i];
        if (states[i])
            nb_set_bit(sets + n_words, i);
        if (states[i] && m->lazy->accepts[states[i]])
            nb_set_bit(sets, i);
    }
    good = good && find_set(s, m, sets, &added.accepts_set) &&
           find_set(s, m, sets + n_words, &added.alive_set);
    if (sets != few)
        free(sets);
    if (!good) {
        s->failed = s->failed ? s->failed : NB_ERR_MEMORY;
        return false;
    }
    added.accepts = m->sets[added.accepts_set];
    added.alive = m->sets[added.alive_set];
    m->states[m->n_states] = added;
    m->slots[at] = m->n_states + 1;
    *out = m->n_states++;
    return true;
}

uint32_t nb_machine_start(struct nb_space *s, struct nb_machine *m) {
    uint32_t state = 0;
    if (!m->n_states)
        add_machine_state(s, m, m->starts, &state);
    return state;
}

uint32_t nb_machine_step(struct nb_space *s, struct nb_machine *m, uint32_t state, uint8_t byte) {
    uint8_t class = m->lazy->class_of[byte];
    uint32_t to = 0, buffer[64], *states = buffer;
    if (m->n > 64 && !(states = malloc(m->n * sizeof *states))) {
        s->failed = NB_ERR_MEMORY;
        return state;
    }
    for (uint32_t i = 0; i < m->n; i++) {
        uint32_t from = m->states[state].states[i];
        states[i] = from ? nb_lazy_next(m->lazy, from, byte) : 0;
    }
    if (m->lazy->failed)
        s->failed = m->lazy->failed;
    if (add_machine_state(s, m, states, &to))
        m->states[state].next[class] = to + 1;
    if (states != buffer)
        free(states);
    return to;
}

/* ---- strings ---- */

static struct nb_lazy *open_lazy(struct nb_space *s) {
    struct nb_lazy *lazy;
    if (s->n_lazies == s->cap_lazies) {
        uint32_t cap = s->cap_lazies ? s->cap_lazies * 2 : 16;
        struct nb_lazy **more = realloc(s->lazies, cap * sizeof *more);
        if (!more) {
            s->failed = NB_ERR_MEMORY;
            return NULL;
        }
        s->lazies = more;
        s->cap_lazies = cap;
    }
    /* A pattern that takes more than this was made to. */
    static const struct nb_automaton_limits limits = {.max_states = 100000, .max_work = 1000000};
    enum nb_status status = nb_lazy_open(&limits, &lazy, NULL);
    if (status != NB_OK) {
        s->failed = status;
        return NULL;
    }
    return s->lazies[s->n_lazies++] = lazy;
}

static enum nb_status lazy_strings(struct nb_lazy *lazy, const struct nb_value_key *keys,
                                   uint32_t n, nb_lazy_expr *out) {
    if (n == 0) {
        enum nb_status status = nb_lazy_any(lazy, out, NULL);
        return status == NB_OK ? nb_lazy_not(lazy, *out, out, NULL) : status;
    }
    if (n == 1)
        return nb_lazy_literal(lazy, keys[0].text, keys[0].n, out, NULL);
    nb_lazy_expr a, b;
    enum nb_status status = lazy_strings(lazy, keys, n / 2, &a);
    if (status == NB_OK)
        status = lazy_strings(lazy, keys + n / 2, n - n / 2, &b);
    return status == NB_OK ? nb_lazy_or(lazy, a, b, out, NULL) : status;
}

static enum nb_status lazy_atom(struct nb_lazy *lazy, const struct nb_atom *a, nb_lazy_expr *out) {
    bool known;
    switch (a->kind) {
    case NB_ATOM_PATTERN:
        return nb_lazy_regex(lazy, a->text.text, a->text.n, NB_REGEX_SEARCH, out, NULL);
    case NB_ATOM_FORMAT:
        return nb_lazy_format(lazy, a->text.text, a->text.n, a->draft, out, &known, NULL);
    case NB_ATOM_LENGTH:
        return nb_lazy_length(lazy, a->min, a->max, out, NULL);
    case NB_ATOM_STRINGS:
        return lazy_strings(lazy, a->keys, a->n, out);
    default:
        return NB_ERR_INTERNAL;
    }
}

static enum nb_status lazy_formula(struct nb_space *s, struct nb_lazy *lazy, nb_formula f,
                                   nb_lazy_expr *out);

/* Exactly one of them: some one, and none of the others. */
static enum nb_status lazy_one(struct nb_space *s, struct nb_lazy *lazy, const nb_formula *args,
                               uint32_t n, nb_lazy_expr *out) {
    /* none so far, one so far: both grow by an argument at a time */
    nb_lazy_expr none, one, e, not_e, a, b;
    enum nb_status status = lazy_formula(s, lazy, args[0], &one);
    if (status == NB_OK)
        status = nb_lazy_not(lazy, one, &none, NULL);
    for (uint32_t i = 1; i < n && status == NB_OK; i++) {
        status = lazy_formula(s, lazy, args[i], &e);
        if (status == NB_OK)
            status = nb_lazy_not(lazy, e, &not_e, NULL);
        if (status == NB_OK)
            status = nb_lazy_and(lazy, one, not_e, &a, NULL);
        if (status == NB_OK)
            status = nb_lazy_and(lazy, none, e, &b, NULL);
        if (status == NB_OK)
            status = nb_lazy_or(lazy, a, b, &one, NULL);
        if (status == NB_OK)
            status = nb_lazy_and(lazy, none, not_e, &none, NULL);
    }
    *out = one;
    return status;
}

static enum nb_status lazy_formula(struct nb_space *s, struct nb_lazy *lazy, nb_formula f,
                                   nb_lazy_expr *out) {
    const struct nb_formula_node *node = &s->formulas[f];
    nb_lazy_expr e;
    enum nb_status status = NB_OK;
    switch (node->op) {
    case NB_F_CONST:
        status = nb_lazy_any(lazy, out, NULL);
        return status == NB_OK && f == NB_FALSE ? nb_lazy_not(lazy, *out, out, NULL) : status;
    case NB_F_ATOM:
        return lazy_atom(lazy, s->atoms[node->n], out);
    case NB_F_NOT:
        status = lazy_formula(s, lazy, node->args[0], &e);
        return status == NB_OK ? nb_lazy_not(lazy, e, out, NULL) : status;
    case NB_F_ONE:
        return lazy_one(s, lazy, node->args, node->n, out);
    default:
        break;
    }
    for (uint32_t i = 0; i < node->n && status == NB_OK; i++) {
        status = lazy_formula(s, lazy, node->args[i], i ? &e : out);
        if (status == NB_OK && i)
            status = node->op == NB_F_AND ? nb_lazy_and(lazy, *out, e, out, NULL)
                                          : nb_lazy_or(lazy, *out, e, out, NULL);
    }
    return status;
}

/* Whether a pattern is looked for anywhere, whatever came before: then no text is a dead end. That
 * is so where nothing in it looks back; it may be said of too few. */
static bool looks_ahead_only(const struct nb_value_key *pattern) {
    for (uint32_t i = 0; i < pattern->n; i++) {
        char c = pattern->text[i], next = i + 1 < pattern->n ? pattern->text[i + 1] : 0;
        if (c == '^' && (i == 0 || pattern->text[i - 1] != '['))
            return false;
        if (c == '(' && next == '?' && pattern->text[i + 2] != ':')
            return false;
        if (c == '\\' && (next == 'b' || next == 'B'))
            return false;
        i += c == '\\';
    }
    return true;
}

struct nb_language *nb_language_of(struct nb_space *s, nb_formula f) {
    for (struct nb_language *l = s->languages; l; l = l->chain) {
        if (l->formula == f)
            return l;
    }
    struct nb_language *l = nb_space_alloc(s, 1, sizeof *l);
    nb_lazy_expr e;
    if (!l || !(l->lazy = open_lazy(s)))
        return NULL;
    enum nb_status status = lazy_formula(s, l->lazy, f, &e);
    if (status == NB_OK)
        status = nb_lazy_start(l->lazy, e, &l->start, NULL);
    if (status != NB_OK) {
        s->failed = status;
        return NULL;
    }
    l->formula = f;
    const struct nb_formula_node *node = &s->formulas[f];
    l->begins_anyhow = l->start && node->op == NB_F_ATOM &&
                       s->atoms[node->n]->kind == NB_ATOM_PATTERN &&
                       looks_ahead_only(&s->atoms[node->n]->text);
    l->chain = s->languages;
    return s->languages = l;
}

static bool start_machine(struct nb_space *s, struct nb_machine *m, const nb_lazy_expr *exprs) {
    uint32_t *starts = nb_space_alloc(s, m->n, sizeof *starts);
    for (uint32_t i = 0; starts && i < m->n; i++) {
        enum nb_status status = nb_lazy_start(m->lazy, exprs[i], &starts[i], NULL);
        if (status != NB_OK) {
            s->failed = status;
            return false;
        }
    }
    m->starts = starts;
    m->chain = s->machines;
    s->machines = m;
    return starts;
}

static bool fill_machine(struct nb_space *s, struct nb_shape *shape) {
    struct nb_machine *m = &shape->machine;
    nb_lazy_expr *exprs = calloc(shape->n_roots, sizeof *exprs);
    shape->component = nb_space_alloc(s, shape->n_roots, sizeof *shape->component);
    m->lazy = open_lazy(s);
    bool good = exprs && shape->component && m->lazy;
    for (uint32_t i = 0; i < shape->n_roots && good; i++) {
        shape->component[i] = shape->roots[i] > NB_TRUE ? m->n : UINT32_MAX;
        if (shape->roots[i] > NB_TRUE) {
            enum nb_status status = lazy_formula(s, m->lazy, shape->roots[i], &exprs[m->n++]);
            good = status == NB_OK;
            s->failed = good ? s->failed : status;
        }
    }
    good = good && start_machine(s, m, exprs);
    free(exprs);
    return good;
}

static bool fill_string(struct nb_space *s, struct nb_shape *shape) {
    shape->string = NB_STRING_FREE;
    shape->max = UINT64_MAX;
    if (!shape->n_atoms)
        return true;
    if (shape->n_roots > 1) {
        shape->string = NB_STRING_MACHINE;
        return fill_machine(s, shape);
    }
    const struct nb_atom *only = shape->n_atoms == 1 ? shape->atoms[0] : NULL;
    bool plain = only && s->formulas[shape->roots[0]].op == NB_F_ATOM;
    if (plain && only->kind == NB_ATOM_LENGTH) {
        shape->string = NB_STRING_LENGTH;
        shape->min = only->min;
        shape->max = only->max;
        return true;
    }
    if (plain && only->kind == NB_ATOM_STRINGS) {
        shape->string = NB_STRING_SET;
        if (nb_trie_build(&shape->set, only->keys, only->n, &s->arena))
            return true;
        s->failed = NB_ERR_MEMORY;
        return false;
    }
    shape->string = NB_STRING_LAZY;
    shape->language = nb_language_of(s, shape->roots[0]);
    return shape->language;
}

/* ---- families ---- */

static bool is_never(const struct nb_node *node) {
    return node && node->kind == NB_NODE_OR && node->n == 0;
}

static uint32_t count_names(const struct nb_atom *a) {
    return a->n + a->n_required + 2 * a->n_dependencies;
}

/* All keys that atoms name; their places in the schema's order go by first appearance, those of
 * `properties` first. */
static bool fill_keys(struct nb_space *s, struct nb_family *f) {
    uint32_t n = 0, total = 0;
    for (uint32_t j = 0; j < f->n_atoms; j++)
        total += count_names(f->atoms[j]);
    struct nb_value_key *all = malloc((total + 1) * sizeof *all);
    if (!all) {
        s->failed = NB_ERR_MEMORY;
        return false;
    }
    for (uint32_t j = 0; j < f->n_atoms; j++) {
        const struct nb_atom *a = f->atoms[j];
        for (uint32_t i = 0; i < a->n && a->kind == NB_ATOM_OBJECT; i++)
            all[n++] = a->keys[i];
    }
    for (uint32_t j = 0; j < f->n_atoms; j++) {
        const struct nb_atom *a = f->atoms[j];
        for (uint32_t i = 0; i < a->n && a->kind == NB_ATOM_HAS; i++)
            all[n++] = a->keys[i];
        for (uint32_t i = 0; i < a->n_required; i++)
            all[n++] = a->required[i];
        for (uint32_t i = 0; i < a->n_dependencies; i++) {
            all[n++] = a->dependencies[i].key;
            all[n++] = a->dependencies[i].needs;
        }
    }
    bool good = nb_trie_build(&f->keys, all, n, &s->arena);
    uint32_t n_keys = f->keys.n, place = 0;
    f->n_words = NB_WORDS(n_keys);
    f->order = good ? nb_space_alloc(s, n_keys, sizeof *f->order) : NULL;
    f->by_order = good ? nb_space_alloc(s, n_keys, sizeof *f->by_order) : NULL;
    good = f->order && f->by_order;
    for (uint32_t i = 0; i < n_keys && good; i++)
        f->order[i] = UINT32_MAX;
    for (uint32_t i = 0; i < n && good; i++) {
        int32_t rank = nb_trie_find(&f->keys, all[i].text, all[i].n);
        if (f->order[rank] == UINT32_MAX) {
            f->by_order[place] = (uint32_t)rank;
            f->order[rank] = place++;
        }
    }
    free(all);
    if (!good && !s->failed)
        s->failed = NB_ERR_MEMORY;
    return good;
}

static bool fill_values(struct nb_space *s, struct nb_family *f) {
    uint32_t n_keys = f->keys.n;
    f->required = nb_space_alloc(s, (size_t)f->n_atoms * f->n_words, sizeof *f->required);
    f->values = nb_space_alloc(s, (size_t)f->n_atoms * n_keys, sizeof *f->values);
    f->named = nb_space_alloc(s, (size_t)f->n_atoms * f->n_words, sizeof *f->named);
    if (!f->required || !f->values || !f->named)
        return false;
    for (uint32_t j = 0; j < f->n_atoms; j++) {
        const struct nb_atom *a = f->atoms[j];
        uint64_t *required = f->required + (size_t)j * f->n_words;
        uint32_t n_named = a->kind == NB_ATOM_OBJECT ? a->n : 0;
        for (uint32_t i = 0; i < n_named; i++) {
            uint32_t rank = (uint32_t)nb_trie_find(&f->keys, a->keys[i].text, a->keys[i].n);
            f->values[(size_t)j * n_keys + rank] = a->values[i];
            nb_set_bit(f->named + (size_t)j * f->n_words, rank);
        }
        if (a->kind == NB_ATOM_HAS)
            nb_set_bit(required, (uint32_t)nb_trie_find(&f->keys, a->keys[0].text, a->keys[0].n));
        for (uint32_t i = 0; i < a->n_required; i++) {
            int32_t rank = nb_trie_find(&f->keys, a->required[i].text, a->required[i].n);
            nb_set_bit(required, (uint32_t)rank);
        }
    }
    return true;
}

/* The keys that atom j allows besides those that it names, as an expression; ALLOW_… where that is
 * simple. */
static enum nb_status allow_expr(struct nb_space *s, struct nb_family *f, uint32_t j,
                                 const nb_lazy_expr *patterns, nb_lazy_expr *out, bool *all) {
    const struct nb_atom *a = f->atoms[j];
    struct nb_lazy *lazy = f->machine.lazy;
    bool closed = is_never(a->rest), some = false;
    enum nb_status status = nb_lazy_any(lazy, out, NULL);
    *all = !closed;
    if (closed) {
        for (uint32_t i = 0; i < a->n_patterns && status == NB_OK; i++) {
            nb_lazy_expr e = patterns[f->pattern_of[j][i]];
            if (is_never(a->patterns[i].value))
                continue;
            if (some)
                status = nb_lazy_or(lazy, *out, e, out, NULL);
            else
                *out = e;
            some = true;
        }
        if (!some && status == NB_OK)
            status = nb_lazy_not(lazy, *out, out, NULL);
    }
    for (uint32_t i = 0; i < a->n_patterns && status == NB_OK; i++) {
        nb_lazy_expr e;
        if (!is_never(a->patterns[i].value))
            continue;
        *all = false;
        status = nb_lazy_not(lazy, patterns[f->pattern_of[j][i]], &e, NULL);
        if (status == NB_OK)
            status = nb_lazy_and(lazy, *out, e, out, NULL);
    }
    if (a->names && status == NB_OK) {
        nb_lazy_expr e;
        *all = false;
        status = lazy_formula(s, lazy, nb_formula_of(s, a->names, NB_VALUE_STRING), &e);
        if (status == NB_OK)
            status = nb_lazy_and(lazy, *out, e, out, NULL);
    }
    return status;
}

/* The patterns of all atoms, each once, and what keys they allow. */
static bool fill_patterns(struct nb_space *s, struct nb_family *f) {
    uint32_t total = 0, n_names = 0;
    bool simple = true;
    f->pattern_of = nb_space_alloc(s, f->n_atoms, sizeof *f->pattern_of);
    f->allow = nb_space_alloc(s, f->n_atoms, sizeof *f->allow);
    f->names = nb_space_alloc(s, f->n_atoms, sizeof *f->names);
    if (!f->pattern_of || !f->allow || !f->names)
        return false;
    for (uint32_t j = 0; j < f->n_atoms; j++) {
        const struct nb_atom *a = f->atoms[j];
        total += a->n_patterns;
        n_names += a->names != NULL;
        simple &= !a->n_patterns && !a->names;
        f->allow[j] = is_never(a->rest) ? NB_ALLOW_NONE : NB_ALLOW_ALL;
        f->names[j] = NB_ALLOW_ALL;
    }
    if (simple)
        return true;
    struct nb_machine *m = &f->machine;
    const struct nb_value_key **seen = malloc((total + 1) * sizeof *seen);
    nb_lazy_expr *exprs = malloc((total + n_names + f->n_atoms + 1) * sizeof *exprs);
    m->lazy = open_lazy(s);
    enum nb_status status = seen && exprs && m->lazy ? NB_OK : NB_ERR_MEMORY;
    for (uint32_t j = 0; j < f->n_atoms && status == NB_OK; j++) {
        const struct nb_atom *a = f->atoms[j];
        f->pattern_of[j] = nb_space_alloc(s, a->n_patterns, sizeof **f->pattern_of);
        status = f->pattern_of[j] ? NB_OK : NB_ERR_MEMORY;
        for (uint32_t i = 0; i < a->n_patterns && status == NB_OK; i++) {
            const struct nb_value_key *p = &a->patterns[i].pattern;
            uint32_t k = 0;
            while (k < m->n && (seen[k]->n != p->n || memcmp(seen[k]->text, p->text, p->n) != 0))
                k++;
            if (k == m->n) {
                seen[k] = p;
                status =
                    nb_lazy_regex(m->lazy, p->text, p->n, NB_REGEX_SEARCH, &exprs[m->n++], NULL);
            }
            f->pattern_of[j][i] = k;
        }
    }
    f->n_patterns = m->n;
    for (uint32_t j = 0; j < f->n_atoms && status == NB_OK; j++) {
        bool all = true;
        if (f->atoms[j]->names) {
            f->names[j] = m->n;
            status = lazy_formula(s, m->lazy, nb_formula_of(s, f->atoms[j]->names, NB_VALUE_STRING),
                                  &exprs[m->n++]);
        }
        if (status == NB_OK)
            status = allow_expr(s, f, j, exprs, &exprs[m->n], &all);
        if (!all && f->allow[j] != NB_ALLOW_NONE)
            f->allow[j] = m->n++;
        else if (!all && (f->atoms[j]->n_patterns || f->atoms[j]->names))
            f->allow[j] = m->n++;
    }
    bool good = status == NB_OK && start_machine(s, m, exprs);
    if (!good && !s->failed)
        s->failed = status;
    free(seen);
    free(exprs);
    return good;
}

static bool fill_array_family(struct nb_space *s, struct nb_family *f) {
    f->counter = nb_space_alloc(s, f->n_atoms, sizeof *f->counter);
    if (!f->counter)
        return false;
    for (uint32_t j = 0; j < f->n_atoms; j++) {
        const struct nb_atom *a = f->atoms[j];
        f->n_prefix = a->n_prefix > f->n_prefix ? a->n_prefix : f->n_prefix;
        f->counter[j] = a->contains ? f->n_counters++ : UINT32_MAX;
    }
    return true;
}

static struct nb_family *new_family(struct nb_space *s, const struct nb_shape *shape) {
    struct nb_family *f = nb_space_alloc(s, 1, sizeof *f);
    if (!f)
        return NULL;
    f->n_atoms = shape->n_atoms;
    f->atoms = shape->atoms;
    bool good = shape->kind == NB_VALUE_ARRAY
                    ? fill_array_family(s, f)
                    : fill_keys(s, f) && fill_values(s, f) && fill_patterns(s, f);
    return good ? f : NULL;
}

/* ---- shapes ---- */

/* The atoms below a formula, each once, onto *list. */
static bool gather_atoms(struct nb_space *s, nb_formula f, uint32_t **list, uint32_t *n,
                         uint32_t *cap) {
    struct nb_formula_node *node = &s->formulas[f];
    if (node->stamp == s->stamp || node->op == NB_F_CONST)
        return true;
    node->stamp = s->stamp;
    if (node->op == NB_F_ATOM) {
        if (*n == *cap) {
            uint32_t more = *cap ? *cap * 2 : 16;
            uint32_t *grown = realloc(*list, more * sizeof *grown);
            if (!grown)
                return false;
            *list = grown;
            *cap = more;
        }
        (*list)[(*n)++] = node->n;
        return true;
    }
    for (uint32_t i = 0; i < node->n; i++) {
        if (!gather_atoms(s, node->args[i], list, n, cap))
            return false;
    }
    return true;
}

static int compare_ids(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static bool fill_atoms(struct nb_space *s, struct nb_shape *shape) {
    uint32_t *list = NULL, n = 0, cap = 0;
    bool good = true;
    nb_formula_begin(s);
    for (uint32_t i = 0; i < shape->n_roots && good; i++)
        good = gather_atoms(s, shape->roots[i], &list, &n, &cap);
    if (n > 1)
        qsort(list, n, sizeof *list, compare_ids);
    shape->atoms = good ? nb_space_alloc(s, n, sizeof *shape->atoms) : NULL;
    for (uint32_t i = 0; shape->atoms && i < n; i++)
        shape->atoms[i] = s->atoms[list[i]];
    shape->n_atoms = n;
    free(list);
    if (!good)
        s->failed = NB_ERR_MEMORY;
    return good && shape->atoms;
}

static bool is_conjunction(const struct nb_space *s, const struct nb_shape *shape) {
    if (shape->n_roots != 1)
        return shape->n_roots == 0;
    const struct nb_formula_node *f = &s->formulas[shape->roots[0]];
    if (shape->roots[0] == NB_TRUE || f->op == NB_F_ATOM)
        return true;
    if (f->op != NB_F_AND)
        return false;
    for (uint32_t i = 0; i < f->n; i++) {
        if (s->formulas[f->args[i]].op != NB_F_ATOM)
            return false;
    }
    return true;
}

static bool place_in_family(struct nb_space *s, struct nb_shape *shape) {
    struct nb_family *f = shape->family;
    shape->in_family = nb_space_alloc(s, shape->n_atoms, sizeof *shape->in_family);
    if (!shape->in_family)
        return false;
    /* Both are in the order of ids. */
    for (uint32_t i = 0, j = 0; i < shape->n_atoms; i++) {
        while (f->atoms[j] != shape->atoms[i])
            j++;
        shape->in_family[i] = j;
    }
    return true;
}

static bool fill_container(struct nb_space *s, struct nb_shape *shape) {
    if (!shape->family && !(shape->family = new_family(s, shape)))
        return false;
    if (!place_in_family(s, shape))
        return false;
    shape->most = UINT32_MAX;
    for (uint32_t i = 0; i < shape->n_atoms; i++) {
        const struct nb_atom *a = shape->atoms[i];
        shape->unique |= a->unique;
        if (!shape->conjunction || a->kind == NB_ATOM_HAS)
            continue;
        if (a->min > shape->least)
            shape->least = a->min < UINT32_MAX ? (uint32_t)a->min : UINT32_MAX - 1;
        if (a->max < shape->most)
            shape->most = (uint32_t)a->max;
    }
    if (shape->kind == NB_VALUE_ARRAY)
        shape->item_links =
            nb_space_alloc(s, shape->family->n_prefix + 1, sizeof *shape->item_links);
    else
        shape->key_links = nb_space_alloc(s, shape->family->keys.n, sizeof *shape->key_links);
    return shape->item_links || shape->key_links;
}

/* The shape of these formulas; family NULL makes a new one. */
static struct nb_shape *new_shape(struct nb_space *s, enum nb_value_kind kind,
                                  const nb_formula *roots, uint32_t n, struct nb_family *family) {
    struct nb_shape *shape = nb_space_alloc(s, 1, sizeof *shape);
    nb_formula *copy = nb_space_alloc(s, n, sizeof *copy);
    if (!shape || !copy)
        return NULL;
    if (n)
        memcpy(copy, roots, n * sizeof *copy);
    *shape = (struct nb_shape){.kind = kind,
                               .id = s->n_shapes++,
                               .n_roots = n,
                               .n_words = NB_WORDS(n),
                               .roots = copy,
                               .family = family};
    shape->false_roots = nb_space_alloc(s, shape->n_words, sizeof *shape->false_roots);
    if (!shape->false_roots || !fill_atoms(s, shape))
        return NULL;
    for (uint32_t i = 0; i < n; i++) {
        if (roots[i] == NB_FALSE)
            nb_set_bit(shape->false_roots, i);
    }
    shape->conjunction = is_conjunction(s, shape);
    bool good = true;
    if (kind == NB_VALUE_STRING)
        good = fill_string(s, shape);
    else if (kind >= NB_VALUE_ARRAY)
        good = fill_container(s, shape);
    return good ? shape : NULL;
}

struct nb_shape *nb_shape_of(struct nb_space *s, const struct nb_site *site,
                             enum nb_value_kind kind) {
    if (site->shapes[kind])
        return site->shapes[kind];
    nb_formula buffer[16], *roots = buffer;
    if (site->n_roots > 16 && !(roots = malloc(site->n_roots * sizeof *roots))) {
        s->failed = NB_ERR_MEMORY;
        return NULL;
    }
    for (uint32_t i = 0; i < site->n_roots; i++) {
        const struct nb_demand *d = site->roots[i];
        roots[i] = NB_TRUE;
        for (uint32_t j = 0; j < d->n; j++) {
            nb_formula pair[2] = {roots[i], nb_formula_of(s, d->nodes[j], kind)};
            roots[i] = nb_formula_make(s, NB_F_AND, pair, 2);
        }
    }
    struct nb_shape *shape = s->failed ? NULL : new_shape(s, kind, roots, site->n_roots, NULL);
    if (roots != buffer)
        free(roots);
    return ((struct nb_site *)site)->shapes[kind] = shape;
}

/* Among the shapes of one family, equal ones are one. */
static struct nb_shape *sibling(struct nb_space *s, const struct nb_shape *of,
                                const nb_formula *roots) {
    uint64_t h = nb_hash_text((const char *)roots, of->n_roots * sizeof *roots);
    struct nb_shape **chain = &s->shapes[(h ^ (uintptr_t)of->family >> 4) & (N_CHAINS - 1)];
    for (struct nb_shape *shape = *chain; shape; shape = shape->chain) {
        if (shape->family == of->family && shape->n_roots == of->n_roots &&
            memcmp(shape->roots, roots, of->n_roots * sizeof *roots) == 0)
            return shape;
    }
    struct nb_shape *shape = new_shape(s, of->kind, roots, of->n_roots, of->family);
    if (shape) {
        shape->chain = *chain;
        *chain = shape;
    }
    return shape;
}

/* The shape once it is known of an atom whether it holds. */
static struct nb_shape *decide(struct nb_space *s, struct nb_shape *shape,
                               const struct nb_atom *atom, bool holds) {
    for (struct nb_decided *f = shape->decided; f; f = f->next) {
        if (f->atom == atom->id && f->holds == holds)
            return f->to;
    }
    struct nb_decided *f = nb_space_alloc(s, 1, sizeof *f);
    nb_formula *roots = malloc((shape->n_roots + 1) * sizeof *roots);
    if (!f || !roots) {
        free(roots);
        s->failed = s->failed ? s->failed : NB_ERR_MEMORY;
        return NULL;
    }
    nb_formula_begin(s);
    s->value[atom->id] = holds;
    bool same = true;
    for (uint32_t i = 0; i < shape->n_roots; i++) {
        roots[i] = nb_formula_reduce(s, shape->roots[i]);
        same &= roots[i] == shape->roots[i];
    }
    s->value[atom->id] = 2;
    f->to = same ? shape : sibling(s, shape, roots);
    free(roots);
    if (!f->to)
        return NULL;
    f->atom = atom->id;
    f->holds = holds;
    f->next = shape->decided;
    shape->decided = f;
    return f->to;
}

struct nb_shape *nb_shape_fail(struct nb_space *s, struct nb_shape *shape,
                               const struct nb_atom *atom) {
    return decide(s, shape, atom, false);
}

struct nb_shape *nb_shape_hold(struct nb_space *s, struct nb_shape *shape,
                               const struct nb_atom *atom) {
    return decide(s, shape, atom, true);
}

/* ---- links ---- */

/* What one link is being made from. */
struct linking {
    struct nb_space *s;
    struct nb_shape *shape;
    struct asked {
        const struct nb_atom *atom;
        const struct nb_demand *demand;
        uint32_t counter;
    } * asked;
    uint32_t n_asked;
    const struct nb_node **nodes; /* scratch */
    uint32_t n_nodes, cap_nodes;
};

static bool add_node(struct linking *l, const struct nb_node *node) {
    if (l->n_nodes == l->cap_nodes) {
        uint32_t cap = l->cap_nodes ? l->cap_nodes * 2 : 16;
        const struct nb_node **more = realloc(l->nodes, cap * sizeof *more);
        if (!more) {
            l->s->failed = NB_ERR_MEMORY;
            return false;
        }
        l->nodes = more;
        l->cap_nodes = cap;
    }
    l->nodes[l->n_nodes++] = node;
    return true;
}

/* The nodes gathered so far are what `atom` asks; none of them, nothing. */
static bool ask(struct linking *l, const struct nb_atom *atom, uint32_t counter) {
    const struct nb_demand *d = nb_demand_of(l->s, l->nodes, l->n_nodes);
    l->n_nodes = 0;
    if (!d)
        return false;
    if (d->n || counter != UINT32_MAX)
        l->asked[l->n_asked++] = (struct asked){atom, d, counter};
    return true;
}

static int compare_demands(const void *a, const void *b) {
    const struct nb_demand *x = *(const struct nb_demand *const *)a;
    const struct nb_demand *y = *(const struct nb_demand *const *)b;
    return (x->id > y->id) - (x->id < y->id);
}

/* Whether the failure of all atoms that depend on root r makes a root of the container false. */
static bool root_kills(struct nb_space *s, const struct nb_shape *shape, const struct nb_link *link,
                       uint32_t r) {
    bool kills = false, any = false;
    for (uint32_t i = 0; i < link->n_effects; i++) {
        if (link->effects[i].root == r && link->effects[i].counter == UINT32_MAX) {
            s->value[link->effects[i].atom->id] = 0;
            any = true;
        }
    }
    nb_formula_begin(s);
    for (uint32_t i = 0; i < shape->n_roots && any && !kills; i++)
        kills = shape->roots[i] != NB_FALSE && nb_formula_value(s, shape->roots[i]) == NB_FALSE;
    for (uint32_t i = 0; i < link->n_effects; i++)
        s->value[link->effects[i].atom->id] = 2;
    return kills;
}

/* Whether an assertion by itself leaves some value, at a glance. */
static bool atom_leaves_some(const struct nb_atom *a) {
    if (a->kind == NB_ATOM_NUMBER)
        return !a->has_least || !a->has_most || nb_decimal_compare(a->least, a->most) < 0;
    return a->min <= a->max && a->n_required <= a->max;
}

/* Whether some value fulfils a node, as far as that is told at a glance and but for what is asked
 * of a container's values and by patterns. */
static bool surely_some(const struct nb_node *node, int depth) {
    const struct nb_node *hard = NULL;
    uint32_t n_atoms = 0;
    if (!node)
        return true;
    switch (node->kind) {
    case NB_NODE_ATOM:
        return atom_leaves_some(node->atom);
    case NB_NODE_KIND:
        return node->kinds;
    case NB_NODE_ENUM:
        return node->kinds || node->strings || node->numbers;
    case NB_NODE_OR:
        for (uint32_t i = 0; i < node->n && i < 4 && depth < 4; i++)
            if (surely_some(node->nodes[i], depth + 1))
                return true;
        return false;
    case NB_NODE_AND:
        for (uint32_t i = 0; i < node->n; i++) {
            if (node->nodes[i]->kind == NB_NODE_ATOM) {
                if (!atom_leaves_some(node->nodes[i]->atom))
                    return false;
                n_atoms++;
            } else if (hard) {
                return false;
            } else {
                hard = node->nodes[i];
            }
        }
        if (!hard)
            return true;
        return hard->kind == NB_NODE_ENUM ? !n_atoms && surely_some(hard, depth + 1)
                                          : depth < 4 && surely_some(hard, depth + 1);
    default:
        return false;
    }
}

/* Whether bounds leave no number, or none of those listed is within them. */
static bool no_number(const struct nb_shape *shape) {
    const struct nb_atom *list = NULL, *low = NULL, *high = NULL;
    for (uint32_t i = 0; i < shape->n_atoms; i++) {
        const struct nb_atom *a = shape->atoms[i];
        if (a->kind == NB_ATOM_NUMBERS)
            list = a;
        if (a->has_least && (!low || nb_decimal_compare(a->least, low->least) > 0))
            low = a;
        if (a->has_most && (!high || nb_decimal_compare(a->most, high->most) < 0))
            high = a;
    }
    for (uint32_t i = 0; list && i < list->n; i++) {
        struct nb_decimal v = list->numbers[i];
        bool good = true;
        for (uint32_t k = 0; k < shape->n_atoms && good; k++)
            good = nb_number_holds(shape->atoms[k], v, nb_decimal_is_integer(v));
        if (good)
            return false;
    }
    return list || (low && high && nb_decimal_compare(low->least, high->most) > 0);
}

/* Whether no value of this kind does, by a look at what is asked of it alone, not of what is in it.
 * False where that is not known. */
static bool no_value(const struct nb_shape *shape) {
    uint64_t least = 0, most = UINT64_MAX;
    uint32_t required = 0;
    if (!shape->conjunction)
        return false;
    switch (shape->kind) {
    case NB_VALUE_STRING:
        return (shape->string == NB_STRING_SET && !shape->set.n) ||
               (shape->string == NB_STRING_LENGTH && shape->min > shape->max) ||
               (shape->string == NB_STRING_LAZY && !shape->language->start);
    case NB_VALUE_NUMBER:
        return no_number(shape);
    case NB_VALUE_ARRAY:
    case NB_VALUE_OBJECT:
        for (uint32_t i = 0; i < shape->n_atoms; i++) {
            const struct nb_atom *a = shape->atoms[i];
            least = a->min > least ? a->min : least;
            most = a->max < most ? a->max : most;
        }
        for (uint32_t w = 0; w < shape->family->n_words && shape->kind == NB_VALUE_OBJECT; w++) {
            uint64_t keys = 0;
            for (uint32_t i = 0; i < shape->n_atoms; i++)
                keys |= shape->family
                            ->required[(size_t)shape->in_family[i] * shape->family->n_words + w];
            required += (uint32_t)__builtin_popcountll(keys);
        }
        return least > most || required > most;
    default:
        return false;
    }
}

static bool never_fulfilled(struct nb_space *s, const struct nb_demand *d) {
    bool sure = d->n == 1 && surely_some(d->nodes[0], 0);
    const struct nb_site *site = NULL;
    for (int kind = 0; kind < NB_N_KINDS && !sure; kind++) {
        bool false_here = false;
        for (uint32_t i = 0; i < d->n && !false_here; i++)
            false_here = nb_formula_of(s, d->nodes[i], (enum nb_value_kind)kind) == NB_FALSE;
        if (!false_here && kind >= NB_VALUE_NUMBER) {
            site = site ? site : nb_site_of(s, &d, 1);
            struct nb_shape *shape = site ? nb_shape_of(s, site, (enum nb_value_kind)kind) : NULL;
            false_here = shape && no_value(shape);
        }
        if (!false_here)
            return false;
    }
    return !sure;
}

static struct nb_link *make_link(struct linking *l, struct nb_shape *after) {
    struct nb_space *s = l->s;
    struct nb_link *link = nb_space_alloc(s, 1, sizeof *link);
    const struct nb_demand **roots = malloc((l->n_asked + 1) * sizeof *roots);
    uint32_t n = 0;
    if (!link || !roots) {
        free(roots);
        s->failed = s->failed ? s->failed : NB_ERR_MEMORY;
        return NULL;
    }
    for (uint32_t i = 0; i < l->n_asked; i++)
        roots[n++] = l->asked[i].demand;
    if (n > 1)
        qsort(roots, n, sizeof *roots, compare_demands);
    uint32_t m = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (!m || roots[m - 1] != roots[i])
            roots[m++] = roots[i];
    }
    link->after = after;
    link->site = nb_site_of(s, roots, m);
    link->effects = nb_space_alloc(s, l->n_asked, sizeof *link->effects);
    if (!link->site || !link->effects) {
        free(roots);
        return NULL;
    }
    for (uint32_t i = 0; i < l->n_asked; i++) {
        uint32_t r = 0;
        while (roots[r] != l->asked[i].demand)
            r++;
        link->effects[link->n_effects++] =
            (struct nb_effect){l->asked[i].atom, r, l->asked[i].counter};
        link->counts |= l->asked[i].counter != UINT32_MAX;
    }
    link->all_kill = true;
    uint64_t *never = nb_space_alloc(s, NB_WORDS(m), sizeof *never);
    for (uint32_t r = 0; never && r < m; r++) {
        link->all_kill &= root_kills(s, after, link, r);
        if (never_fulfilled(s, roots[r]))
            nb_set_bit(never, r);
    }
    link->never = never;
    free(roots);
    return never ? link : NULL;
}

/* Puts in what follows from roots that no value fulfils: their atoms fail at once. Where that fails
 * all, the link is dead; else *after is the shape without them. */
static bool fail_never(struct nb_space *s, struct nb_link *link, struct nb_shape **after) {
    *after = link->after;
    for (uint32_t i = 0; i < link->n_effects && *after; i++) {
        const struct nb_effect *e = &link->effects[i];
        if (e->counter == UINT32_MAX && nb_bit(link->never, e->root))
            *after = nb_shape_fail(s, *after, e->atom);
    }
    if (!*after)
        return false;
    for (uint32_t w = 0; w < (*after)->n_words; w++)
        link->dead |= ((*after)->false_roots[w] & ~link->after->false_roots[w]) != 0;
    return true;
}

static bool linking_begin(struct linking *l, struct nb_space *s, struct nb_shape *shape) {
    *l = (struct linking){.s = s, .shape = shape};
    l->asked = malloc((2 * shape->n_atoms + 1) * sizeof *l->asked);
    if (!l->asked)
        s->failed = NB_ERR_MEMORY;
    return l->asked;
}

static void linking_end(struct linking *l) {
    free(l->asked);
    free(l->nodes);
}

/* What the atoms ask of the member of a key: rank is its, or -1; `accepts` are the components of
 * the family's machine that accept it. *after: the shape without atoms that the key alone fails. */
static bool ask_members(struct linking *l, int32_t rank, const uint64_t *accepts,
                        struct nb_shape **after) {
    struct nb_shape *shape = l->shape;
    const struct nb_family *f = shape->family;
    const struct nb_atom *last = NULL;
    *after = shape;
    for (uint32_t i = 0; i < shape->n_atoms; i++) {
        const struct nb_atom *a = shape->atoms[i];
        uint32_t j = shape->in_family[i];
        bool named = false;
        if (a->kind != NB_ATOM_OBJECT)
            continue;
        if (f->names[j] != NB_ALLOW_ALL && !nb_bit(accepts, f->names[j])) {
            *after = nb_shape_fail(l->s, *after, a);
            if (!*after)
                return false;
            continue;
        }
        const struct nb_node *own =
            rank >= 0 ? f->values[(size_t)j * f->keys.n + (uint32_t)rank] : NULL;
        if (own) {
            named = true;
            if (!add_node(l, own))
                return false;
        }
        for (uint32_t k = 0; k < a->n_patterns; k++) {
            if (!nb_bit(accepts, f->pattern_of[j][k]))
                continue;
            named = true;
            if (!add_node(l, a->patterns[k].value))
                return false;
        }
        if (!named && a->rest && !add_node(l, a->rest))
            return false;
        last = a;
        /* In a conjunction whatever is asked is asked by all. */
        if (!shape->conjunction && !ask(l, a, UINT32_MAX))
            return false;
    }
    return !shape->conjunction || !last || ask(l, last, UINT32_MAX);
}

static struct nb_link *link_member(struct nb_space *s, struct nb_shape *shape, int32_t rank,
                                   const uint64_t *accepts) {
    struct linking l;
    struct nb_shape *after;
    struct nb_link *link = NULL;
    if (linking_begin(&l, s, shape) && ask_members(&l, rank, accepts, &after))
        link = make_link(&l, after);
    linking_end(&l);
    struct nb_shape *rest;
    if (!link || !fail_never(s, link, &rest))
        return NULL;
    if (link->dead || rest == shape)
        return link;
    /* Atoms that failed ask nothing of the member: what is left is asked anew. */
    struct nb_link *again = link_member(s, rest, rank, accepts);
    return again;
}

struct nb_link *nb_link_key(struct nb_space *s, struct nb_shape *shape, uint32_t rank) {
    if (shape->key_links[rank])
        return shape->key_links[rank];
    struct nb_machine *m = &shape->family->machine;
    const uint64_t *accepts = NULL;
    if (m->n) {
        const struct nb_value_key *key = &shape->family->keys.keys[rank];
        uint32_t state = nb_machine_start(s, m);
        for (uint32_t i = 0; i < key->n && !s->failed; i++)
            state = nb_machine_next(s, m, state, (uint8_t)key->text[i]);
        if (s->failed)
            return NULL;
        accepts = m->states[state].accepts;
    }
    return shape->key_links[rank] = link_member(s, shape, (int32_t)rank, accepts);
}

struct nb_link *nb_link_other(struct nb_space *s, struct nb_shape *shape, uint32_t state) {
    struct nb_machine *m = &shape->family->machine;
    uint32_t n_words = NB_WORDS(m->n);
    const uint64_t *accepts = m->n ? m->states[state].accepts : NULL;
    for (struct nb_link *l = shape->other_links; l; l = l->chain) {
        if (l->key == accepts ||
            (n_words && memcmp(l->key, accepts, n_words * sizeof *accepts) == 0))
            return l;
    }
    struct nb_link *link = link_member(s, shape, -1, accepts);
    if (!link)
        return NULL;
    link->key = accepts;
    link->chain = shape->other_links;
    return shape->other_links = link;
}

struct nb_link *nb_link_item(struct nb_space *s, struct nb_shape *shape, uint64_t index) {
    const struct nb_family *f = shape->family;
    uint32_t at = index < f->n_prefix ? (uint32_t)index : f->n_prefix;
    if (shape->item_links[at])
        return shape->item_links[at];
    struct linking l;
    bool good = linking_begin(&l, s, shape);
    const struct nb_atom *last = NULL;
    for (uint32_t i = 0; i < shape->n_atoms && good; i++) {
        const struct nb_atom *a = shape->atoms[i];
        const struct nb_node *node = at < a->n_prefix ? a->prefix[at] : a->items;
        last = a;
        if (node)
            good = add_node(&l, node);
        if (!shape->conjunction && good)
            good = ask(&l, a, UINT32_MAX);
    }
    if (good && shape->conjunction && last)
        good = ask(&l, last, UINT32_MAX);
    for (uint32_t i = 0; i < shape->n_atoms && good; i++) {
        const struct nb_atom *a = shape->atoms[i];
        if (a->contains)
            good = add_node(&l, a->contains) && ask(&l, a, f->counter[shape->in_family[i]]);
    }
    struct nb_link *link = good ? make_link(&l, shape) : NULL;
    linking_end(&l);
    struct nb_shape *rest;
    if (link && !fail_never(s, link, &rest))
        link = NULL;
    return shape->item_links[at] = link;
}

void nb_shape_other_false(struct nb_space *s, const struct nb_shape *shape, uint32_t state,
                          bool all, uint64_t *wrong) {
    const struct nb_family *f = shape->family;
    const struct nb_machine_state *m = f->machine.n ? &f->machine.states[state] : NULL;
    bool any = false;
    for (uint32_t i = 0; i < shape->n_atoms; i++) {
        uint32_t allow = f->allow[shape->in_family[i]];
        bool good = shape->atoms[i]->kind != NB_ATOM_OBJECT || allow == NB_ALLOW_ALL;
        if (!good && allow != NB_ALLOW_NONE)
            good = !m || nb_bit(all ? m->accepts : m->alive, allow);
        s->value[shape->atoms[i]->id] = good ? 2 : 0;
        any |= !good;
    }
    nb_formula_begin(s);
    for (uint32_t i = 0; i < shape->n_roots && any; i++) {
        if (nb_formula_value(s, shape->roots[i]) == NB_FALSE)
            nb_set_bit(wrong, i);
    }
    for (uint32_t i = 0; i < shape->n_atoms; i++)
        s->value[shape->atoms[i]->id] = 2;
}

bool nb_shape_other_alive(struct nb_space *s, struct nb_shape *shape, uint32_t state) {
    if (state >= shape->n_other_alive) {
        uint32_t n = shape->n_other_alive ? shape->n_other_alive * 2 : 32;
        while (n <= state)
            n *= 2;
        uint8_t *more = nb_space_alloc(s, n, sizeof *more);
        if (!more)
            return false;
        if (shape->n_other_alive)
            memcpy(more, shape->other_alive, shape->n_other_alive);
        shape->other_alive = more;
        shape->n_other_alive = n;
    }
    if (!shape->other_alive[state]) {
        uint64_t buffer[8] = {0}, *wrong = buffer;
        if (shape->n_words > 8 && !(wrong = nb_space_alloc(s, shape->n_words, sizeof *wrong)))
            return false;
        nb_shape_other_false(s, shape, state, false, wrong);
        shape->other_alive[state] = nb_any_bit(wrong, shape->n_words) ? 2 : 1;
    }
    return shape->other_alive[state] == 1;
}

bool nb_shape_others_free(struct nb_space *s, const struct nb_shape *shape, uint32_t state) {
    const struct nb_family *f = shape->family;
    (void)s;
    for (uint32_t i = 0; i < shape->n_atoms; i++) {
        uint32_t allow = f->allow[shape->in_family[i]];
        if (shape->atoms[i]->kind != NB_ATOM_OBJECT || allow == NB_ALLOW_ALL)
            continue;
        if (allow == NB_ALLOW_NONE)
            return false;
        uint32_t at = f->machine.states[state].states[allow];
        if (!at || !nb_lazy_accepts_all(f->machine.lazy, at))
            return false;
    }
    return true;
}

/* Whether the member of this rank makes no root false, by a look at what names the key alone. */
static bool allows_plainly(const struct nb_shape *shape, uint32_t rank) {
    const struct nb_family *f = shape->family;
    uint32_t n = 0;
    for (uint32_t i = 0; i < shape->n_atoms; i++) {
        const struct nb_atom *a = shape->atoms[i];
        if (a->kind != NB_ATOM_OBJECT)
            continue;
        const struct nb_node *own = f->values[(size_t)shape->in_family[i] * f->keys.n + rank];
        const struct nb_node *asks = own ? own : a->rest;
        n += asks && !(asks->kind == NB_NODE_AND && asks->n == 0);
        if (!surely_some(asks, 0))
            return false;
    }
    return n <= 1;
}

/* Of a conjunction: what a key needs that must be must be, too, and what needs a key that cannot be
 * cannot. */
static void follow_dependencies(const struct nb_shape *shape, uint64_t *required,
                                uint64_t *allowed) {
    const struct nb_trie *keys = &shape->family->keys;
    for (bool more = true; more;) {
        more = false;
        for (uint32_t i = 0; i < shape->n_atoms; i++) {
            const struct nb_atom *a = shape->atoms[i];
            for (uint32_t k = 0; k < a->n_dependencies; k++) {
                const struct nb_dependency *d = &a->dependencies[k];
                uint32_t key = (uint32_t)nb_trie_find(keys, d->key.text, d->key.n);
                uint32_t needs = (uint32_t)nb_trie_find(keys, d->needs.text, d->needs.n);
                if (nb_bit(required, key) && !nb_bit(required, needs)) {
                    nb_set_bit(required, needs);
                    more = true;
                }
                if (nb_bit(allowed, key) && !nb_bit(allowed, needs)) {
                    allowed[key / 64] &= ~(UINT64_C(1) << key % 64);
                    more = true;
                }
            }
        }
    }
}

bool nb_shape_keys(struct nb_space *s, struct nb_shape *shape) {
    const struct nb_family *f = shape->family;
    uint64_t *allowed = nb_space_alloc(s, f->n_words, sizeof *allowed);
    uint64_t *required = nb_space_alloc(s, f->n_words, sizeof *required);
    shape->other_false = nb_space_alloc(s, shape->n_words, sizeof *shape->other_false);
    if (!allowed || !required || !shape->other_false)
        return false;
    bool plain = true;
    for (uint32_t i = 0; i < shape->n_atoms; i++) {
        uint32_t j = shape->in_family[i];
        plain &= !shape->atoms[i]->n_patterns && !shape->atoms[i]->names;
        for (uint32_t w = 0; w < f->n_words; w++)
            required[w] |= f->required[(size_t)j * f->n_words + w];
    }
    for (uint32_t rank = 0; rank < f->keys.n; rank++) {
        bool good = plain && allows_plainly(shape, rank);
        if (!good) {
            const struct nb_link *link = nb_link_key(s, shape, rank);
            good = link && !link->dead;
            for (uint32_t w = 0; link && w < shape->n_words; w++)
                good &= !(link->after->false_roots[w] & ~shape->false_roots[w]);
        }
        if (good)
            nb_set_bit(allowed, rank);
    }
    if (shape->conjunction)
        follow_dependencies(shape, required, allowed);
    uint32_t start = f->machine.n ? nb_machine_start(s, &shape->family->machine) : 0;
    nb_shape_other_false(s, shape, start, false, shape->other_false);
    shape->other_keys = !nb_any_bit(shape->other_false, shape->n_words);
    shape->required = required;
    shape->allowed = allowed;
    return !s->failed;
}

void nb_shapes_free(struct nb_space *s) {
    for (struct nb_machine *m = s->machines; m; m = m->chain) {
        free(m->states);
        free(m->slots);
        free(m->sets);
        free(m->set_slots);
    }
}
