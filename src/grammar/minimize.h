/* Tables being made: trimmed, minimized, numbered. */
#ifndef NB_GRAMMAR_MINIMIZE_H
#define NB_GRAMMAR_MINIMIZE_H

#include "grammar/automaton.h"

enum { NB_TABLE_STATES = 20 * 1000 }; /* the default limit */

/* A deterministic automaton in malloc'd memory. State 0 is dead and leads to itself; others may be
 * dead, too, or the same as another. */
struct nb_table {
    uint32_t n_states, n_classes, start;
    uint8_t class_of[256];
    uint32_t *next;   /* [n_states, n_classes] */
    uint8_t *accepts; /* [n_states] */
};

/* The minimal automaton of the same language: dead states become 0, equal ones one, classes that
 * are alike one; states are numbered breadth first. In O(m log n), after Valmari, "Fast brief
 * practical DFA minimization" (2012). */
enum nb_status nb_table_minimize(const struct nb_table *table, struct nb_arena *arena,
                                 struct nb_automaton *out, struct nb_error *err);

#endif
