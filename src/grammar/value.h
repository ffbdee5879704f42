/* JSON values as a schema needs them: members in the order of the text, numbers as they are
 * written. */
#ifndef NB_GRAMMAR_VALUE_H
#define NB_GRAMMAR_VALUE_H

#include "base/arena.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum nb_value_kind {
    NB_VALUE_NULL,
    NB_VALUE_FALSE,
    NB_VALUE_TRUE,
    NB_VALUE_NUMBER,
    NB_VALUE_STRING,
    NB_VALUE_ARRAY,
    NB_VALUE_OBJECT,
};

struct nb_value_key {
    const char *text; /* decoded, n bytes and a NUL */
    uint32_t n;
};

struct nb_value {
    enum nb_value_kind kind;
    uint32_t n;                /* items, members, or bytes of text */
    const char *text;          /* a string decoded, a number as it is written; a NUL after it */
    struct nb_value *items;    /* [n] of an array; of an object, the members' values */
    struct nb_value_key *keys; /* [n] of an object, no two the same */
    uint32_t *slots;           /* [n_slots] of a large object: member + 1 by hash */
    uint32_t n_slots;          /* a power of two, or 0 */
};

enum { NB_VALUE_MAX_DEPTH = 1000, NB_VALUE_MAX_BYTES = 64 << 20 };

/* Reads text[0..n) as one JSON value (RFC 8259), everything in *arena. What is no JSON, has two
 * members of one name, or a lone surrogate, is NB_ERR_FORMAT with line and column; deeper than
 * NB_VALUE_MAX_DEPTH or longer than NB_VALUE_MAX_BYTES is NB_ERR_LIMIT. `name` begins messages. */
enum nb_status nb_value_parse(const char *text, size_t n, const char *name, struct nb_arena *arena,
                              struct nb_value *out, struct nb_error *err);

/* The member of an object, or NULL; NULL for what is no object, too. */
const struct nb_value *nb_value_get(const struct nb_value *object, const char *key);
const struct nb_value *nb_value_find(const struct nb_value *object, const char *key, size_t n);

static inline bool nb_value_is(const struct nb_value *value, enum nb_value_kind kind) {
    return value && value->kind == kind;
}

/* "an object", "a string", … */
const char *nb_value_kind_name(enum nb_value_kind kind);

#endif
