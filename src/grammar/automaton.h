/* Automata over bytes: JSON Schema's `pattern` and `format`, the --regex of the command line, and
 * what is made of them by and, or, not. Two forms:
 *
 *   struct nb_automaton  a table of all states, minimal, immutable. For what is small.
 *   struct nb_lazy       states made when they are asked for, so that compiling costs microseconds
 *                        whatever the pattern; boolean combinations cost nothing until walked.
 *                        For the strings of a schema.
 *
 * In both a state is a number, 0 is the dead one, and from every other state an accepting one can
 * be reached: whoever follows a byte to a state that is not 0 can always finish. */
#ifndef NB_GRAMMAR_AUTOMATON_H
#define NB_GRAMMAR_AUTOMATON_H

#include "base/arena.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A deterministic automaton over bytes. State 0 is dead; from every other state an accepting one
 * can be reached. start is 0 where nothing is accepted. */
struct nb_automaton {
    uint32_t n_states, n_classes, start;
    uint8_t class_of[256];
    const uint32_t *next;   /* [n_states, n_classes] */
    const uint8_t *accepts; /* [n_states] 0 or 1 */
};

static inline uint32_t nb_automaton_next(const struct nb_automaton *a, uint32_t state,
                                         uint8_t byte) {
    return a->next[(size_t)state * a->n_classes + a->class_of[byte]];
}

/* Bounds on what one compilation may take; beyond them it is NB_ERR_LIMIT. Zero is the default. */
struct nb_automaton_limits {
    uint32_t max_states; /* tables: 20,000 by default; nb_lazy: 1,000,000 */
    uint64_t max_work;   /* elementary steps, of 1 to 10 ns; 8,000,000 by default */
};

/* How a pattern is to be read. */
enum nb_regex_mode {
    NB_REGEX_SEARCH, /* JSON Schema: the string holds a match somewhere */
    NB_REGEX_WHOLE,  /* --regex: the whole string is a match */
};

/* Whose idea of a format. */
enum nb_format_draft {
    NB_FORMAT_DRAFT_7, /* and what is older */
    NB_FORMAT_2020_12, /* and 2019-09 */
};

/* Compiles pattern[0..n), UTF-8, in the syntax of ECMA-262: with the u flag where it can be read
 * so, else as without it (Annex B), but always over code points. Strings are UTF-8; no automaton
 * here accepts anything else. Backreferences are NB_ERR_UNSUPPORTED; what is no pattern is
 * NB_ERR_FORMAT; too large is NB_ERR_LIMIT. Messages name the place in the pattern. Tables live
 * in *arena. limits may be NULL. */
enum nb_status nb_pattern_compile(const char *pattern, size_t n, enum nb_regex_mode mode,
                                  const struct nb_automaton_limits *limits, struct nb_arena *arena,
                                  struct nb_automaton *out, struct nb_error *err);

/* The strings of a format: date, time, date-time, duration, email, hostname, ipv4, ipv6, uri, uuid.
 * *known is false, and *out untouched, where the name is no format of ours: an annotation. */
enum nb_status nb_format_compile(const char *name, size_t n, enum nb_format_draft draft,
                                 const struct nb_automaton_limits *limits, struct nb_arena *arena,
                                 struct nb_automaton *out, bool *known, struct nb_error *err);
bool nb_format_known(const char *name, size_t n);

/* ---- Tables ----
 * All write a minimal table to *out, in *arena. A language has one minimal table here, up to the
 * numbering, which is breadth first from the start: equal languages give equal tables but for
 * classes. */

enum nb_status nb_automaton_and(const struct nb_automaton *a, const struct nb_automaton *b,
                                const struct nb_automaton_limits *limits, struct nb_arena *arena,
                                struct nb_automaton *out, struct nb_error *err);
enum nb_status nb_automaton_or(const struct nb_automaton *a, const struct nb_automaton *b,
                               const struct nb_automaton_limits *limits, struct nb_arena *arena,
                               struct nb_automaton *out, struct nb_error *err);
/* UTF-8 strings that *a does not accept. */
enum nb_status nb_automaton_not(const struct nb_automaton *a,
                                const struct nb_automaton_limits *limits, struct nb_arena *arena,
                                struct nb_automaton *out, struct nb_error *err);
/* Strings of `min` to `max` code points; max UINT64_MAX is no bound. A table has about 7 states a
 * code point: for bounds beyond hundreds see nb_lazy_length. */
enum nb_status nb_automaton_length(uint64_t min, uint64_t max,
                                   const struct nb_automaton_limits *limits, struct nb_arena *arena,
                                   struct nb_automaton *out, struct nb_error *err);

static inline bool nb_automaton_empty(const struct nb_automaton *a) {
    return a->start == 0;
}
bool nb_automaton_accepts(const struct nb_automaton *a, const char *text, size_t n);
/* Whether two tables accept the same strings; both may be any that this header makes. */
bool nb_automaton_equal(const struct nb_automaton *a, const struct nb_automaton *b);
/* A shortest string from `state` to an accepting one, and among those the first in the order of
 * bytes. *text is in *arena. NB_ERR_ARGUMENT for state 0. */
enum nb_status nb_automaton_shortest(const struct nb_automaton *a, uint32_t state,
                                     struct nb_arena *arena, char **text, size_t *n,
                                     struct nb_error *err);

/* ---- Lazy ----
 * First expressions are added, then nb_lazy_start gives a state for each expression that is to be
 * walked (any number of them, over one set of byte classes), then bytes are followed. Not for two
 * threads at once: following a byte may make states. States are never renumbered. */

enum { NB_LAZY_UNKNOWN = UINT32_MAX };

struct nb_lazy {
    uint32_t n_states, n_classes;
    uint8_t class_of[256];
    uint8_t byte_of[256]; /* [n_classes] the first byte of each class */
    uint32_t *next;       /* [n_states, n_classes]; NB_LAZY_UNKNOWN where nobody asked yet */
    uint8_t *accepts;     /* [n_states] 0 or 1 */
    /* NB_OK, or what befell a step: NB_ERR_MEMORY or NB_ERR_LIMIT. The step then answered 0, which
     * refuses what might have been right but never allows what is wrong. */
    enum nb_status failed;
    struct nb_lazy_impl *impl;
};

typedef uint32_t nb_lazy_expr;

enum nb_status nb_lazy_open(const struct nb_automaton_limits *limits, struct nb_lazy **out,
                            struct nb_error *err);
void nb_lazy_close(struct nb_lazy *lazy); /* NULL is fine */

/* Whether nb_lazy_regex can take the pattern, without an automaton: what makes it fail there,
 * memory aside, is the error here. */
enum nb_status nb_lazy_regex_check(const char *pattern, size_t n, enum nb_regex_mode mode,
                                   struct nb_error *err);

/* Expressions; before the first nb_lazy_start only. */
enum nb_status nb_lazy_regex(struct nb_lazy *lazy, const char *pattern, size_t n,
                             enum nb_regex_mode mode, nb_lazy_expr *out, struct nb_error *err);
enum nb_status nb_lazy_format(struct nb_lazy *lazy, const char *name, size_t n,
                              enum nb_format_draft draft, nb_lazy_expr *out, bool *known,
                              struct nb_error *err);
/* min to max code points, as cheap for a million as for one. */
enum nb_status nb_lazy_length(struct nb_lazy *lazy, uint64_t min, uint64_t max, nb_lazy_expr *out,
                              struct nb_error *err);
/* Exactly these bytes, which are UTF-8. */
enum nb_status nb_lazy_literal(struct nb_lazy *lazy, const char *text, size_t n, nb_lazy_expr *out,
                               struct nb_error *err);
/* Any string of UTF-8. */
enum nb_status nb_lazy_any(struct nb_lazy *lazy, nb_lazy_expr *out, struct nb_error *err);
enum nb_status nb_lazy_and(struct nb_lazy *lazy, nb_lazy_expr a, nb_lazy_expr b, nb_lazy_expr *out,
                           struct nb_error *err);
enum nb_status nb_lazy_or(struct nb_lazy *lazy, nb_lazy_expr a, nb_lazy_expr b, nb_lazy_expr *out,
                          struct nb_error *err);
/* UTF-8 strings that `a` does not accept. */
enum nb_status nb_lazy_not(struct nb_lazy *lazy, nb_lazy_expr a, nb_lazy_expr *out,
                           struct nb_error *err);

/* The state before any byte; 0 where the expression accepts nothing at all. */
enum nb_status nb_lazy_start(struct nb_lazy *lazy, nb_lazy_expr expr, uint32_t *state,
                             struct nb_error *err);

/* What nb_lazy_next does where the table does not know yet. */
uint32_t nb_lazy_step(struct nb_lazy *lazy, uint32_t state, uint8_t byte);

/* The state after `byte`; 0 if nothing that begins so can be accepted. Exact: where there are and,
 * not or lookarounds a search for an accepting state answers it, once for each state. */
static inline uint32_t nb_lazy_next(struct nb_lazy *lazy, uint32_t state, uint8_t byte) {
    uint32_t t = lazy->next[(size_t)state * lazy->n_classes + lazy->class_of[byte]];
    return t == NB_LAZY_UNKNOWN ? nb_lazy_step(lazy, state, byte) : t;
}

/* How far it has grown, and back: states that were made since are no states any more, and whoever
 * holds one must not use it. */
struct nb_lazy_mark {
    uint32_t n_states, n_formulas, n_memo, pool, state_pool;
};
struct nb_lazy_mark nb_lazy_mark(const struct nb_lazy *lazy);
void nb_lazy_forget(struct nb_lazy *lazy, const struct nb_lazy_mark *mark);

/* Whether any text at all may follow (a state of which nothing more need be asked). */
bool nb_lazy_accepts_all(const struct nb_lazy *lazy, uint32_t state);

/* Where `state` asks for a number of characters and for something else: *other asks for that alone,
 * and *least to *most characters are still to come. False where it does not. */
bool nb_lazy_uncounted(struct nb_lazy *lazy, uint32_t state, uint32_t *other, uint64_t *least,
                       uint64_t *most);

/* At most so many characters (a bound, not always the least) lead from a state to an accepting one;
 * UINT32_MAX: none were found. *stretches: and any greater number of characters does, too. */
uint32_t nb_lazy_way_out(struct nb_lazy *lazy, uint32_t state, bool *stretches);

/* A shortest string from `state` to an accepting one, malloc'd; as nb_automaton_shortest. */
enum nb_status nb_lazy_shortest(struct nb_lazy *lazy, uint32_t state, char **text, size_t *n,
                                struct nb_error *err);

/* The whole of what is reachable from `state`, as a minimal table. */
enum nb_status nb_lazy_table(struct nb_lazy *lazy, uint32_t state, struct nb_arena *arena,
                             struct nb_automaton *out, struct nb_error *err);

#endif
