/* A JSON Schema as a graph of formulas over assertions: what schema.c makes of the text, whatever
 * draft it is written in, and all that the automata know of it. */
#ifndef NB_GRAMMAR_SCHEMA_H
#define NB_GRAMMAR_SCHEMA_H

#include "base/arena.h"
#include "base/buf.h"
#include "base/error.h"
#include "grammar/automaton.h"
#include "grammar/decimal.h"
#include "grammar/value.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nb_node;

/* An assertion about values of one kind; those of other kinds fulfil it. */
struct nb_atom {
    enum nb_atom_kind {
        NB_ATOM_PATTERN, /* strings: `text` is a regular expression that is found in them */
        NB_ATOM_FORMAT,  /* strings: `text` is the name of a format of ours */
        NB_ATOM_LENGTH,  /* strings: min to max code points */
        NB_ATOM_STRINGS, /* strings: one of keys[0..n) */
        NB_ATOM_NUMBER,
        NB_ATOM_NUMBERS, /* numbers: one of numbers[0..n) */
        NB_ATOM_ARRAY,
        NB_ATOM_OBJECT,
        NB_ATOM_HAS, /* objects: have the member keys[0] */
    } kind;
    uint32_t id; /* from 0, within a schema */

    struct nb_value_key text;
    enum nb_format_draft draft;
    uint64_t min, max; /* of code points, items or members; max UINT64_MAX: no bound */
    uint32_t n;
    struct nb_value_key *keys;

    /* NB_ATOM_NUMBER */
    struct nb_decimal *numbers;
    struct nb_decimal least, most, multiple_of;
    bool has_least, has_most, has_multiple, above_least, below_most; /* above_…: exclusive */
    bool integer, written_integer; /* written: 1.0 is none, as in draft 4 */

    /* NB_ATOM_ARRAY: item i is prefix[i], or items (NULL: anything) from n_prefix on. */
    const struct nb_node **prefix, *items, *contains;
    uint32_t n_prefix;
    uint64_t min_contains, max_contains;
    bool unique;

    /* NB_ATOM_OBJECT: member keys[i] is values[i]; patterns apply besides; what neither names is
     * `rest` (NULL: anything). names: of the keys, as strings. */
    const struct nb_node **values;
    struct nb_pattern_member {
        struct nb_value_key pattern;
        const struct nb_node *value;
    } * patterns;
    uint32_t n_patterns;
    const struct nb_node *rest, *names;
    struct nb_value_key *required;
    uint32_t n_required;
    struct nb_dependency {
        struct nb_value_key key, needs; /* where key is, needs must be */
    } * dependencies;
    uint32_t n_dependencies;
};

/* A formula: what a value must fulfil. */
struct nb_node {
    enum nb_node_kind {
        NB_NODE_AND,  /* all of nodes[0..n): with n 0, anything */
        NB_NODE_OR,   /* with n 0, nothing */
        NB_NODE_ONE,  /* exactly one */
        NB_NODE_NOT,  /* not nodes[0] */
        NB_NODE_KIND, /* its enum nb_value_kind is a bit in `kinds` */
        NB_NODE_ATOM,
        /* One of the values listed: by `kinds` of null, false and true; strings and numbers (atoms,
         * NULL: none); nodes are for arrays and objects. */
        NB_NODE_ENUM,
    } kind;
    uint32_t id; /* from 0, within a schema */
    uint32_t n;
    const struct nb_node **nodes;
    unsigned kinds;
    const struct nb_atom *atom;
    const struct nb_atom *strings, *numbers;
    const struct nb_value *value; /* what the node asks for, where it is one of an ENUM's nodes */
};

/* Text of a document that a reference names; see nb_schema_options. */
typedef enum nb_status (*nb_schema_load_fn)(void *context, const char *uri, struct nb_buf *out,
                                            bool *found, struct nb_error *err);

struct nb_schema_options {
    /* What cannot be enforced is left out, and noted, instead of being an error. */
    bool lenient;
    bool doubt;            /* fill nb_schema.doubts */
    bool written_integers; /* 1.0 is no integer, as in draft 4 */
    bool
        formats_annotate; /* as 2020-12 has it where nobody asks for more; else they are enforced */
    /* Where references to other documents lead; NULL: nowhere. uri has no fragment. */
    nb_schema_load_fn load;
    void *load_context;
};

struct nb_schema {
    struct nb_arena arena;
    const struct nb_node *root;
    uint32_t n_nodes, n_atoms;
    struct nb_buf notes; /* lenient: a line for each thing that is not enforced */
    /* doubt: a line for each thing that is right and says nothing, but looks as if it should: a
     * name one slip away from a keyword, a keyword of another draft, a format that is not enforced.
     */
    struct nb_buf doubts;
};

/* Reads a schema's text[0..n). `name` begins messages, which name keyword and path, as in
 * `schema.json: #/properties/a: minimum is a string, expected a number`. NB_ERR_UNSUPPORTED for
 * what is valid and cannot be enforced; NB_ERR_FORMAT for what is no schema. */
enum nb_status nb_schema_read(const char *text, size_t n, const char *name,
                              const struct nb_schema_options *options, struct nb_schema *out,
                              struct nb_error *err);
void nb_schema_free(struct nb_schema *schema);

#endif
