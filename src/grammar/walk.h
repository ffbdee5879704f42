/* The strings that an automaton leads through, short ones first. */
#ifndef NB_GRAMMAR_WALK_H
#define NB_GRAMMAR_WALK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NB_WALK_DEAD = UINT32_MAX };

struct nb_walk {
    void *context;
    /* The state after a byte, or NB_WALK_DEAD. States are small numbers. */
    uint32_t (*next)(void *context, uint32_t state, uint8_t byte);
    /* Called for each string that ends in a whole character, the empty one first; true ends the
     * walk. */
    bool (*take)(void *context, uint32_t state, const char *text, size_t n);
    uint32_t most_each; /* strings that are gone on from in one state: that many are tried there */
    uint32_t most;      /* strings in all */
};

/* Whether a string was taken. False if there is none, if it is beyond what may be tried, or if
 * memory ran out. */
bool nb_walk_strings(const struct nb_walk *walk, uint32_t start);

#endif
