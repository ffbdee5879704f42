/* Sets of code points, as sorted ranges that neither overlap nor touch. */
#ifndef NB_GRAMMAR_CODEPOINTS_H
#define NB_GRAMMAR_CODEPOINTS_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NB_MAX_CODEPOINT = 0x10FFFF };

struct nb_cp_range {
    uint32_t lo, hi; /* both in the set */
};

/* All zero is the empty set. Additions that run out of memory set `failed`. */
struct nb_cp_set {
    struct nb_cp_range *ranges;
    uint32_t n, cap;
    bool failed;
};

void nb_cp_free(struct nb_cp_set *set);
void nb_cp_clear(struct nb_cp_set *set);

/* Adds lo to hi, anywhere; nb_cp_normalize then sorts and merges. */
void nb_cp_add(struct nb_cp_set *set, uint32_t lo, uint32_t hi);
void nb_cp_add_set(struct nb_cp_set *set, const struct nb_cp_set *other);
void nb_cp_normalize(struct nb_cp_set *set);

/* All code points that a normalized set lacks. */
void nb_cp_invert(struct nb_cp_set *set);
/* What two normalized sets share stays in *set. */
void nb_cp_intersect(struct nb_cp_set *set, const struct nb_cp_set *other);
bool nb_cp_has(const struct nb_cp_set *set, uint32_t cp); /* of a normalized set */

/* \d, \w, \s as ECMA-262 has them ('D', 'W', 'S' for the rest); adds, and normalizes. */
void nb_cp_add_class(struct nb_cp_set *set, char letter);

/* Adds the set of \p{text[0..n)}: a general category, Script=…, Script_Extensions=… or a binary
 * property, spelled as ECMA-262 wants it. NB_ERR_FORMAT for a name that is none of those. */
enum nb_status nb_cp_add_property(struct nb_cp_set *set, const char *text, size_t n,
                                  struct nb_error *err);

#endif
