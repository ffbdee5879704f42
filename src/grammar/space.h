/* Where a schema's automaton grows: formulas over assertions, sites (what a value must fulfil, for
 * whom), shapes (a site for one kind of value) and links (from a member or an item to its site).
 * All are made when they are first needed, kept, and equal ones are one.
 *
 * A value is checked against everything that asks something of it at once. What asks is a root: a
 * list of schemas that it must fulfil. While a value is open, each root is a formula over the atoms
 * that are not decided yet; an atom that fails is put in as false, which leads to another shape. */
#ifndef NB_GRAMMAR_SPACE_H
#define NB_GRAMMAR_SPACE_H

#include "grammar/automaton.h"
#include "grammar/schema.h"
#include "grammar/trie.h"

enum { NB_N_KINDS = 7 };

/* A formula; equal formulas have equal numbers. */
typedef uint32_t nb_formula;
enum { NB_FALSE = 0, NB_TRUE = 1 };

struct nb_formula_node {
    enum nb_formula_op { NB_F_CONST, NB_F_ATOM, NB_F_NOT, NB_F_AND, NB_F_OR, NB_F_ONE } op;
    uint32_t n;             /* arguments; for an atom its id */
    const nb_formula *args; /* [n], in ascending order */
    uint32_t stamp, value;  /* of the last evaluation */
};

/* What a root asks: all of these nodes. */
struct nb_demand {
    uint32_t id, n;
    const struct nb_node **nodes; /* [n] by id */
    struct nb_demand *chain;
};

struct nb_shape;

/* What is asked of the value in one place. */
struct nb_site {
    uint32_t n_roots;
    const struct nb_demand **roots;      /* [n_roots] by id */
    struct nb_shape *shapes[NB_N_KINDS]; /* by enum nb_value_kind; NULL until needed */
    struct nb_link *alone;               /* for a value that is nobody's: see complete.c */
    struct nb_site *chain;
};

/* Bits, in words. */
#define NB_WORDS(n) (((n) + 63) / 64)
static inline bool nb_bit(const uint64_t *bits, uint32_t i) {
    return bits[i / 64] >> i % 64 & 1;
}
static inline void nb_set_bit(uint64_t *bits, uint32_t i) {
    bits[i / 64] |= UINT64_C(1) << i % 64;
}
static inline bool nb_any_bit(const uint64_t *bits, uint32_t words) {
    for (uint32_t i = 0; i < words; i++) {
        if (bits[i])
            return true;
    }
    return false;
}

/* From a container to a member or item: what it must fulfil, and what follows for the container's
 * atoms if it does not. */
struct nb_link {
    const struct nb_site *site;
    struct nb_shape *after; /* the container's shape, once the key alone was seen */
    uint32_t n_effects;
    struct nb_effect {
        const struct nb_atom *atom;
        uint32_t root;
        uint32_t counter; /* contains: which of the frame's counters goes up; UINT32_MAX: none,
                             and the atom fails where the root does */
    } * effects;
    bool counts;           /* some effect has a counter */
    bool all_kill;         /* any root that is false makes a root of the container false */
    bool dead;             /* so does any value at all */
    const uint64_t *never; /* [NB_WORDS(site->n_roots)] roots that no value fulfils */
    uint32_t n_words;      /* of `key` */
    const uint64_t *key;
    struct nb_link *chain;
};

/* Several lazy automata in lockstep: of the roots of a string, of the patterns of keys. */
struct nb_machine {
    struct nb_lazy *lazy;
    uint32_t n; /* 0: nothing to be followed */
    const uint32_t *starts;
    struct nb_machine_state {
        const uint32_t *states;          /* [n] */
        uint32_t *next;                  /* [lazy->n_classes], + 1; 0 is not known yet */
        const uint64_t *accepts;         /* [NB_WORDS(n)] those that accept here */
        const uint64_t *alive;           /* those that are not dead */
        uint32_t accepts_set, alive_set; /* their numbers in `sets` */
    } * states;
    uint32_t n_states;
    uint32_t *slots;
    uint32_t n_slots;
    const uint64_t **sets; /* [n_sets] of components; equal ones are one */
    uint32_t n_sets, cap_sets;
    uint32_t *set_slots; /* open addressing: index + 1 */
    uint32_t n_set_slots;
    struct nb_machine *chain; /* of all that have states */
};

/* What the shapes of one object site share while atoms fail: keys, patterns, counters. */
struct nb_family {
    uint32_t n_atoms;
    const struct nb_atom **atoms;

    struct nb_trie keys;           /* all keys that some atom knows by name */
    uint32_t n_words;              /* of a set of them */
    uint32_t *order;               /* [keys.n] by rank: place in the schema's order */
    uint32_t *by_order;            /* [keys.n] ranks */
    uint64_t *required;            /* [n_atoms, n_words] what must be, of NB_ATOM_HAS, too */
    uint64_t *named;               /* [n_atoms, n_words] those that an atom has values for */
    const struct nb_node **values; /* [n_atoms, keys.n] NULL where an atom does not name the key */

    /* Components of `machine`: the distinct patterns; then for some atoms the keys that they do
     * not name and allow: allow[i] is the component, ALLOW_ALL or ALLOW_NONE. */
    struct nb_machine machine;
    uint32_t n_patterns;
    uint32_t **pattern_of; /* [n_atoms][atom's n_patterns] component */
    uint32_t *allow;       /* [n_atoms] */
    uint32_t *names;       /* [n_atoms] component for propertyNames, or ALLOW_ALL */

    uint32_t n_prefix;   /* arrays: items from here on are alike */
    uint32_t n_counters; /* arrays: atoms with contains */
    uint32_t *counter;   /* [n_atoms], UINT32_MAX: none */
};
enum { NB_ALLOW_ALL = 0xFFFFFFFF, NB_ALLOW_NONE = 0xFFFFFFFE };

struct nb_shape {
    enum nb_value_kind kind;
    uint32_t id;
    uint32_t n_roots, n_words; /* words of a set of roots */
    const nb_formula *roots;   /* [n_roots] */
    uint64_t *false_roots;     /* [n_words] those that are NB_FALSE */
    uint32_t n_atoms;
    const struct nb_atom **atoms; /* [n_atoms] that the roots' formulas hold, by id */
    uint32_t *in_family;          /* [n_atoms] their places in the family */
    bool conjunction;         /* one root, true or an and of atoms: any atom that fails fails it */
    struct nb_family *family; /* arrays and objects */

    /* Strings. */
    enum nb_string_kind {
        NB_STRING_FREE,
        NB_STRING_LENGTH,  /* one root: min to max code points */
        NB_STRING_SET,     /* one root: one of `set` */
        NB_STRING_LAZY,    /* one root: `language` */
        NB_STRING_MACHINE, /* several: `machine`, a component a root */
    } string;
    uint64_t min, max;
    struct nb_trie set;
    struct nb_language *language;
    struct nb_machine machine;
    uint32_t *component; /* [n_roots] or UINT32_MAX for roots that are true or false */

    /* Objects. */
    struct nb_link **key_links; /* [keys.n], NULL until needed */
    struct nb_link *other_links;
    uint64_t *allowed;    /* keys by rank that make no root false; NULL until needed */
    uint8_t *other_alive; /* [n_other_alive] by the machine's state: 1 alive, 2 not, 0 unknown */
    uint32_t n_other_alive;
    uint64_t *other_false; /* roots that a key that no atom knows by name makes false */
    uint64_t *required;    /* conjunctions: keys that must be */
    uint32_t least, most;  /* conjunctions: members */
    bool other_keys;       /* whether keys that no atom knows by name make no root false */

    /* Arrays. */
    struct nb_link **item_links; /* [n_prefix + 1] */
    bool unique;

    struct nb_decided { /* what shape follows once an atom fails, or holds for certain */
        uint32_t atom;
        bool holds;
        struct nb_shape *to;
        struct nb_decided *next;
    } * decided;
    struct nb_shape *chain;
};

/* The strings of a formula over one string. */
struct nb_language {
    struct nb_lazy *lazy;
    uint32_t start;
    nb_formula formula;
    bool begins_anyhow; /* whatever a string begins with, it can go on to be one of them */
    struct nb_language *chain;
};

/* Which tokens stay inside a string or key whose automaton is in a state. */
struct nb_inside {
    const void *key; /* the automaton, or the shape whose keys they are; NULL: a free slot */
    uint32_t state;
    bool stretches; /* see `left` */
    /* Keys: wherever these tokens lead, there are at least so many keys that begin so; 0: nobody
     * asked yet. Strings whose characters are not counted: so many lead through any of these tokens
     * to an end; and if it stretches, so does any greater number. */
    uint64_t left;
    const uint64_t *bits;
};

struct nb_space {
    struct nb_arena arena;
    const struct nb_schema *schema;
    enum nb_status failed; /* NB_OK, or why the automaton stopped growing */

    struct nb_formula_node *formulas;
    uint32_t n_formulas, cap_formulas;
    uint32_t *formula_slots, n_formula_slots;
    uint32_t stamp;
    uint8_t *value;               /* [n_atoms] during an evaluation: 0 false, 1 true, 2 open */
    uint32_t *of_node;            /* [n_nodes, NB_N_KINDS] formula + 1 */
    const struct nb_atom **atoms; /* [n_atoms] that were met in a formula */
    nb_formula *scratch;
    uint32_t cap_scratch;

    struct nb_demand **demands; /* hash tables of chains */
    struct nb_site **sites;
    struct nb_shape **shapes;
    uint32_t n_demands, n_sites, n_shapes;
    struct nb_language *languages;
    struct nb_machine *machines;
    struct nb_lazy **lazies; /* to be closed */
    uint32_t n_lazies, cap_lazies;

    const struct nb_site *anything;
    struct nb_link root; /* of the whole text */
    size_t max_bytes;

    struct nb_arena masks; /* of `inside` */
    size_t max_mask_bytes;
    struct nb_inside *inside; /* open addressing */
    uint32_t n_inside, n_inside_slots;
};

/* schema outlives the space. */
enum nb_status nb_space_open(const struct nb_schema *schema, struct nb_space *out,
                             struct nb_error *err);
void nb_space_close(struct nb_space *space);

/* The functions below return NULL, or what is safe, once memory or a limit ran out; space->failed
 * says so then. */

nb_formula nb_formula_of(struct nb_space *space, const struct nb_node *node,
                         enum nb_value_kind kind);
nb_formula nb_formula_make(struct nb_space *space, enum nb_formula_op op, const nb_formula *args,
                           uint32_t n);

/* Evaluates under space->value: NB_FALSE, NB_TRUE or 2, open. nb_formula_begin before a series of
 * them under the same values. */
void nb_formula_begin(struct nb_space *space);
uint32_t nb_formula_value(struct nb_space *space, nb_formula f);
/* The formula with what is known put in. */
nb_formula nb_formula_reduce(struct nb_space *space, nb_formula f);

const struct nb_site *nb_site_of(struct nb_space *space, const struct nb_demand **roots,
                                 uint32_t n);
const struct nb_demand *nb_demand_of(struct nb_space *space, const struct nb_node **nodes,
                                     uint32_t n);
struct nb_shape *nb_shape_of(struct nb_space *space, const struct nb_site *site,
                             enum nb_value_kind kind);

/* The shape once an atom failed, or holds whatever comes. */
struct nb_shape *nb_shape_hold(struct nb_space *space, struct nb_shape *shape,
                               const struct nb_atom *atom);
struct nb_shape *nb_shape_fail(struct nb_space *space, struct nb_shape *shape,
                               const struct nb_atom *atom);

struct nb_link *nb_link_key(struct nb_space *space, struct nb_shape *shape, uint32_t rank);
/* A key that no atom names: `state` of the family's machine is where it ends. */
struct nb_link *nb_link_other(struct nb_space *space, struct nb_shape *shape, uint32_t state);
struct nb_link *nb_link_item(struct nb_space *space, struct nb_shape *shape, uint64_t index);

/* Fills in shape->allowed and what stands beside it. */
bool nb_shape_keys(struct nb_space *space, struct nb_shape *shape);

/* Which roots of an object a key that no atom knows by name makes false: one whose text so far led
 * the family's machine to `state`, and with `all`, ends there. */
void nb_shape_other_false(struct nb_space *space, const struct nb_shape *shape, uint32_t state,
                          bool all, uint64_t *wrong);

/* Whether such a key makes no root false; and whether none that goes on from there ever does. */
bool nb_shape_other_alive(struct nb_space *space, struct nb_shape *shape, uint32_t state);
bool nb_shape_others_free(struct nb_space *space, const struct nb_shape *shape, uint32_t state);

uint32_t nb_machine_start(struct nb_space *space, struct nb_machine *machine);
/* What nb_machine_next does where it is not known yet. */
uint32_t nb_machine_step(struct nb_space *space, struct nb_machine *machine, uint32_t state,
                         uint8_t byte);
static inline uint32_t nb_machine_next(struct nb_space *space, struct nb_machine *machine,
                                       uint32_t state, uint8_t byte) {
    uint32_t known = machine->states[state].next[machine->lazy->class_of[byte]];
    return known ? known - 1 : nb_machine_step(space, machine, state, byte);
}

#endif
