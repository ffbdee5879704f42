/* Formulas, demands and sites: what is asked of a value, equal things made one. */
#include "grammar/space.h"

#include "grammar/shape.h"
#include "model/tokenizer_map.h"

#include <stdlib.h>
#include <string.h>

enum { N_CHAINS = 1024 };

void *nb_space_alloc(struct nb_space *space, size_t n, size_t size) {
    if (space->arena.allocated_bytes > space->max_bytes) {
        space->failed = NB_ERR_LIMIT;
        return NULL;
    }
    void *p = nb_arena_alloc(&space->arena, n, size);
    if (!p)
        space->failed = NB_ERR_MEMORY;
    return p;
}

static uint64_t mix(uint64_t h, uint64_t v) {
    return nb_fold_u64(h ^ v, UINT64_C(0x9E3779B97F4A7C15)) + v;
}

/* ---- formulas ---- */

static uint64_t hash_formula(enum nb_formula_op op, uint32_t n, const nb_formula *args) {
    uint64_t h = mix((uint64_t)op + 1, n);
    for (uint32_t i = 0; args && i < n; i++)
        h = mix(h, args[i]);
    return h;
}

static bool grow_formulas(struct nb_space *s) {
    if (s->n_formulas == s->cap_formulas) {
        uint32_t cap = s->cap_formulas ? s->cap_formulas * 2 : 128;
        struct nb_formula_node *more = realloc(s->formulas, cap * sizeof *more);
        if (!more)
            return false;
        s->formulas = more;
        s->cap_formulas = cap;
    }
    if (s->n_formulas * 2 < s->n_formula_slots)
        return true;
    uint32_t n_slots = s->n_formula_slots ? s->n_formula_slots * 2 : 256;
    uint32_t *slots = calloc(n_slots, sizeof *slots);
    if (!slots)
        return false;
    for (uint32_t i = 0; i < s->n_formulas; i++) {
        const struct nb_formula_node *f = &s->formulas[i];
        uint32_t at = (uint32_t)(hash_formula(f->op, f->n, f->args) >> 20) & (n_slots - 1);
        while (slots[at])
            at = (at + 1) & (n_slots - 1);
        slots[at] = i + 1;
    }
    free(s->formula_slots);
    s->formula_slots = slots;
    s->n_formula_slots = n_slots;
    return true;
}

/* The number of a formula whose arguments are in order. */
static nb_formula intern(struct nb_space *s, enum nb_formula_op op, uint32_t n,
                         const nb_formula *args) {
    if (!grow_formulas(s)) {
        s->failed = NB_ERR_MEMORY;
        return NB_FALSE;
    }
    uint32_t at = (uint32_t)(hash_formula(op, n, args) >> 20) & (s->n_formula_slots - 1);
    for (; s->formula_slots[at]; at = (at + 1) & (s->n_formula_slots - 1)) {
        const struct nb_formula_node *f = &s->formulas[s->formula_slots[at] - 1];
        if (f->op == op && f->n == n && !f->args == !args &&
            (!args || memcmp(f->args, args, n * sizeof *args) == 0))
            return s->formula_slots[at] - 1;
    }
    nb_formula *copy = NULL;
    if (args) {
        copy = nb_space_alloc(s, n, sizeof *copy);
        if (!copy)
            return NB_FALSE;
        memcpy(copy, args, n * sizeof *copy);
    }
    s->formula_slots[at] = ++s->n_formulas;
    s->formulas[s->n_formulas - 1] = (struct nb_formula_node){.op = op, .n = n, .args = copy};
    return s->n_formulas - 1;
}

/* Arguments are gathered on a stack, which makers of arguments use, too. */
static bool push(struct nb_space *s, uint32_t *n, nb_formula f) {
    if (*n == s->cap_scratch) {
        uint32_t cap = s->cap_scratch ? s->cap_scratch * 2 : 256;
        nb_formula *more = realloc(s->scratch, cap * sizeof *more);
        if (!more) {
            s->failed = NB_ERR_MEMORY;
            return false;
        }
        s->scratch = more;
        s->cap_scratch = cap;
    }
    s->scratch[(*n)++] = f;
    return true;
}

static int compare_formulas(const void *a, const void *b) {
    nb_formula x = *(const nb_formula *)a, y = *(const nb_formula *)b;
    return (x > y) - (x < y);
}

static void sort_formulas(nb_formula *args, uint32_t n) {
    if (n < 12) {
        for (uint32_t i = 1; i < n; i++) {
            nb_formula f = args[i];
            uint32_t j = i;
            for (; j && args[j - 1] > f; j--)
                args[j] = args[j - 1];
            args[j] = f;
        }
    } else {
        qsort(args, n, sizeof *args, compare_formulas);
    }
}

static nb_formula make_not(struct nb_space *s, nb_formula f) {
    if (f <= NB_TRUE)
        return !f;
    if (s->formulas[f].op == NB_F_NOT)
        return s->formulas[f].args[0];
    return intern(s, NB_F_NOT, 1, &f);
}

/* And, or: nested ones are flat, no argument twice, none that decides or says nothing. */
static nb_formula make_flat(struct nb_space *s, enum nb_formula_op op, const nb_formula *args,
                            uint32_t n) {
    nb_formula none = op == NB_F_AND ? NB_TRUE : NB_FALSE, buffer[64], *flat = buffer;
    uint32_t total = 0, k = 0;
    for (uint32_t i = 0; i < n; i++)
        total += s->formulas[args[i]].op == op ? s->formulas[args[i]].n : 1;
    if (total > 64 && !(flat = malloc(total * sizeof *flat))) {
        s->failed = NB_ERR_MEMORY;
        return NB_FALSE;
    }
    bool decided = false;
    for (uint32_t i = 0; i < n; i++) {
        const struct nb_formula_node *f = &s->formulas[args[i]];
        if (f->op == op) {
            memcpy(flat + k, f->args, f->n * sizeof *flat);
            k += f->n;
        } else if (args[i] <= NB_TRUE) {
            decided |= args[i] != none;
        } else {
            flat[k++] = args[i];
        }
    }
    nb_formula result;
    sort_formulas(flat, k);
    uint32_t m = 0;
    for (uint32_t i = 0; i < k; i++) {
        if (!m || flat[m - 1] != flat[i])
            flat[m++] = flat[i];
    }
    for (uint32_t i = 0; i < m && !decided; i++) {
        if (s->formulas[flat[i]].op == NB_F_NOT &&
            bsearch(&s->formulas[flat[i]].args[0], flat, m, sizeof *flat, compare_formulas))
            decided = true; /* x and not x */
    }
    if (decided)
        result = !none;
    else if (m == 0)
        result = none;
    else if (m == 1)
        result = flat[0];
    else
        result = intern(s, op, m, flat);
    if (flat != buffer)
        free(flat);
    return result;
}

static nb_formula make_one(struct nb_space *s, const nb_formula *args, uint32_t n) {
    uint32_t n_true = 0, k = 0;
    nb_formula *open = malloc((n + 1) * sizeof *open);
    if (!open) {
        s->failed = NB_ERR_MEMORY;
        return NB_FALSE;
    }
    for (uint32_t i = 0; i < n; i++) {
        n_true += args[i] == NB_TRUE;
        if (args[i] > NB_TRUE)
            open[k++] = args[i];
    }
    nb_formula result = NB_FALSE;
    if (n_true == 1) {
        for (uint32_t i = 0; i < k; i++)
            open[i] = make_not(s, open[i]);
        result = make_flat(s, NB_F_AND, open, k);
    } else if (n_true == 0 && k == 1) {
        result = open[0];
    } else if (n_true == 0 && k) {
        sort_formulas(open, k);
        result = intern(s, NB_F_ONE, k, open);
    }
    free(open);
    return result;
}

nb_formula nb_formula_make(struct nb_space *s, enum nb_formula_op op, const nb_formula *args,
                           uint32_t n) {
    switch (op) {
    case NB_F_AND:
    case NB_F_OR:
        return make_flat(s, op, args, n);
    case NB_F_ONE:
        return make_one(s, args, n);
    case NB_F_NOT:
        return make_not(s, args[0]);
    default:
        return intern(s, op, n, NULL);
    }
}

static nb_formula of_atom(struct nb_space *s, const struct nb_atom *atom, enum nb_value_kind kind) {
    static const enum nb_value_kind kinds[] = {
        [NB_ATOM_PATTERN] = NB_VALUE_STRING, [NB_ATOM_FORMAT] = NB_VALUE_STRING,
        [NB_ATOM_LENGTH] = NB_VALUE_STRING,  [NB_ATOM_STRINGS] = NB_VALUE_STRING,
        [NB_ATOM_NUMBER] = NB_VALUE_NUMBER,  [NB_ATOM_NUMBERS] = NB_VALUE_NUMBER,
        [NB_ATOM_ARRAY] = NB_VALUE_ARRAY,    [NB_ATOM_OBJECT] = NB_VALUE_OBJECT,
        [NB_ATOM_HAS] = NB_VALUE_OBJECT};
    if (kinds[atom->kind] != kind)
        return NB_TRUE;
    s->atoms[atom->id] = atom;
    return intern(s, NB_F_ATOM, atom->id, NULL);
}

enum { AMONG_NODES = 0x7FFFFFFF }; /* no formula: the nodes below have to be looked at */

static nb_formula of_enum(struct nb_space *s, const struct nb_node *node, enum nb_value_kind kind) {
    if (kind == NB_VALUE_STRING)
        return node->strings ? of_atom(s, node->strings, kind) : NB_FALSE;
    if (kind == NB_VALUE_NUMBER)
        return node->numbers ? of_atom(s, node->numbers, kind) : NB_FALSE;
    if (kind <= NB_VALUE_TRUE)
        return node->kinds >> kind & 1 ? NB_TRUE : NB_FALSE;
    return AMONG_NODES;
}

static nb_formula of_node(struct nb_space *s, const struct nb_node *node, enum nb_value_kind kind,
                          uint32_t used) {
    static const enum nb_formula_op ops[] = {[NB_NODE_AND] = NB_F_AND,
                                             [NB_NODE_OR] = NB_F_OR,
                                             [NB_NODE_ONE] = NB_F_ONE,
                                             [NB_NODE_NOT] = NB_F_NOT,
                                             [NB_NODE_ENUM] = NB_F_OR};
    uint32_t *memo = &s->of_node[(size_t)node->id * NB_N_KINDS + kind];
    if (*memo)
        return *memo - 1;
    nb_formula f = AMONG_NODES;
    if (node->kind == NB_NODE_KIND)
        f = node->kinds >> kind & 1 ? NB_TRUE : NB_FALSE;
    else if (node->kind == NB_NODE_ATOM)
        f = of_atom(s, node->atom, kind);
    else if (node->kind == NB_NODE_ENUM)
        f = of_enum(s, node, kind);
    if (f == AMONG_NODES) {
        uint32_t base = used;
        for (uint32_t i = 0; i < node->n; i++) {
            nb_formula part = of_node(s, node->nodes[i], kind, used);
            if (part == NB_FALSE && node->kind == NB_NODE_AND) {
                *memo = NB_FALSE + 1;
                return NB_FALSE;
            }
            if (!push(s, &used, part))
                return NB_FALSE;
        }
        /* The arguments move if makers of formulas push; none does. */
        f = nb_formula_make(s, ops[node->kind], used > base ? s->scratch + base : NULL,
                            used - base);
    }
    *memo = f + 1;
    return f;
}

nb_formula nb_formula_of(struct nb_space *s, const struct nb_node *node, enum nb_value_kind kind) {
    return of_node(s, node, kind, 0);
}

void nb_formula_begin(struct nb_space *s) {
    s->stamp++;
}

static uint32_t evaluate(struct nb_space *s, const struct nb_formula_node *f) {
    uint32_t n_true = 0, n_open = 0;
    switch (f->op) {
    case NB_F_ATOM:
        return s->value[f->n];
    case NB_F_NOT: {
        uint32_t v = nb_formula_value(s, f->args[0]);
        return v == 2 ? 2 : !v;
    }
    case NB_F_AND:
        for (uint32_t i = 0; i < f->n; i++) {
            uint32_t v = nb_formula_value(s, f->args[i]);
            if (v == 0)
                return 0;
            n_open += v == 2;
        }
        return n_open ? 2 : 1;
    case NB_F_OR:
        for (uint32_t i = 0; i < f->n; i++) {
            uint32_t v = nb_formula_value(s, f->args[i]);
            if (v == 1)
                return 1;
            n_open += v == 2;
        }
        return n_open ? 2 : 0;
    case NB_F_ONE:
        for (uint32_t i = 0; i < f->n; i++) {
            uint32_t v = nb_formula_value(s, f->args[i]);
            n_true += v == 1;
            n_open += v == 2;
            if (n_true > 1)
                return 0;
        }
        return n_open ? 2 : n_true;
    default:
        return 0;
    }
}

uint32_t nb_formula_value(struct nb_space *s, nb_formula f) {
    if (f <= NB_TRUE)
        return f;
    struct nb_formula_node *node = &s->formulas[f];
    if (node->stamp != s->stamp) {
        node->value = evaluate(s, node);
        node->stamp = s->stamp;
    }
    return node->value;
}

static nb_formula reduce(struct nb_space *s, nb_formula f, uint32_t used) {
    if (f <= NB_TRUE)
        return f;
    struct nb_formula_node *node = &s->formulas[f];
    if (node->stamp == s->stamp)
        return node->value;
    nb_formula result = f;
    if (node->op == NB_F_ATOM) {
        if (s->value[node->n] != 2)
            result = s->value[node->n];
    } else {
        uint32_t base = used, n = node->n;
        enum nb_formula_op op = node->op;
        const nb_formula *args = node->args;
        for (uint32_t i = 0; i < n; i++) {
            if (!push(s, &used, reduce(s, args[i], used)))
                return NB_FALSE;
        }
        result = nb_formula_make(s, op, s->scratch + base, n);
    }
    node = &s->formulas[f]; /* they may have moved */
    node->stamp = s->stamp;
    node->value = result;
    return result;
}

nb_formula nb_formula_reduce(struct nb_space *s, nb_formula f) {
    return reduce(s, f, 0);
}

/* ---- demands and sites ---- */

static int compare_nodes(const void *a, const void *b) {
    const struct nb_node *x = *(const struct nb_node *const *)a;
    const struct nb_node *y = *(const struct nb_node *const *)b;
    return (x->id > y->id) - (x->id < y->id);
}

static bool asks_nothing(const struct nb_node *node) {
    return node->kind == NB_NODE_AND && node->n == 0;
}

const struct nb_demand *nb_demand_of(struct nb_space *s, const struct nb_node **nodes, uint32_t n) {
    uint32_t m = 0;
    if (n > 1)
        qsort(nodes, n, sizeof *nodes, compare_nodes);
    for (uint32_t i = 0; i < n; i++) {
        if (!asks_nothing(nodes[i]) && (!m || nodes[m - 1] != nodes[i]))
            nodes[m++] = nodes[i];
    }
    uint64_t h = m;
    for (uint32_t i = 0; i < m; i++)
        h = mix(h, nodes[i]->id);
    struct nb_demand **chain = &s->demands[h >> 32 & (N_CHAINS - 1)];
    for (struct nb_demand *d = *chain; d; d = d->chain) {
        if (d->n == m && (!m || memcmp(d->nodes, nodes, m * sizeof *nodes) == 0))
            return d;
    }
    struct nb_demand *d = nb_space_alloc(s, 1, sizeof *d);
    if (!d || !(d->nodes = nb_space_alloc(s, m, sizeof *d->nodes)))
        return NULL;
    if (m)
        memcpy(d->nodes, nodes, m * sizeof *nodes);
    d->n = m;
    d->id = s->n_demands++;
    d->chain = *chain;
    return *chain = d;
}

/* roots: by id, none twice. */
const struct nb_site *nb_site_of(struct nb_space *s, const struct nb_demand **roots, uint32_t n) {
    uint64_t h = n;
    for (uint32_t i = 0; i < n; i++)
        h = mix(h, roots[i]->id);
    struct nb_site **chain = &s->sites[h >> 32 & (N_CHAINS - 1)];
    for (struct nb_site *site = *chain; site; site = site->chain) {
        if (site->n_roots == n && (!n || memcmp(site->roots, roots, n * sizeof *roots) == 0))
            return site;
    }
    struct nb_site *site = nb_space_alloc(s, 1, sizeof *site);
    if (!site || !(site->roots = nb_space_alloc(s, n, sizeof *site->roots)))
        return NULL;
    if (n)
        memcpy(site->roots, roots, n * sizeof *roots);
    site->n_roots = n;
    site->chain = *chain;
    s->n_sites++;
    return *chain = site;
}

enum nb_status nb_space_open(const struct nb_schema *schema, struct nb_space *s,
                             struct nb_error *err) {
    *s = (struct nb_space){
        .schema = schema, .max_bytes = (size_t)256 << 20, .max_mask_bytes = (size_t)64 << 20};
    s->demands = calloc(3 * N_CHAINS, sizeof *s->demands);
    s->value = malloc(schema->n_atoms + 1);
    s->of_node = calloc((size_t)schema->n_nodes * NB_N_KINDS + 1, sizeof *s->of_node);
    s->atoms = calloc((size_t)schema->n_atoms + 1, sizeof *s->atoms);
    if (!s->demands || !s->value || !s->of_node || !s->atoms) {
        nb_space_close(s);
        return nb_fail_memory(err, (size_t)schema->n_nodes * NB_N_KINDS * 4, "a grammar");
    }
    s->sites = (struct nb_site **)s->demands + N_CHAINS;
    s->shapes = (struct nb_shape **)s->demands + 2 * N_CHAINS;
    memset(s->value, 2, schema->n_atoms + 1);
    static const nb_formula none[1];
    intern(s, NB_F_CONST, 0, none);
    intern(s, NB_F_CONST, 1, none);
    const struct nb_node *root = schema->root;
    const struct nb_demand *demand = nb_demand_of(s, &root, 1);
    s->anything = nb_site_of(s, NULL, 0);
    s->root.site = demand ? nb_site_of(s, &demand, 1) : NULL;
    s->root.all_kill = true;
    if (!s->root.site || !s->anything || s->failed) {
        nb_space_close(s);
        return nb_fail_memory(err, sizeof *s, "a grammar");
    }
    return NB_OK;
}

void nb_space_close(struct nb_space *s) {
    for (uint32_t i = 0; i < s->n_lazies; i++)
        nb_lazy_close(s->lazies[i]);
    free(s->lazies);
    nb_shapes_free(s);
    free(s->formulas);
    free(s->formula_slots);
    free(s->scratch);
    free(s->value);
    free(s->of_node);
    free(s->atoms);
    free(s->demands);
    free(s->inside);
    nb_arena_free(&s->arena);
    nb_arena_free(&s->masks);
    *s = (struct nb_space){0};
}
