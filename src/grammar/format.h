/* JSON Schema's formats: patterns, or machines of a few numbers where a pattern would be too large.
 */
#ifndef NB_GRAMMAR_FORMAT_H
#define NB_GRAMMAR_FORMAT_H

#include "grammar/automaton.h"

enum nb_format_machine {
    NB_MACHINE_DATE,
    NB_MACHINE_TIME,
    NB_MACHINE_DATE_TIME,
    NB_MACHINE_HOSTNAME,
};

struct nb_format {
    const char *name;
    const char *pattern; /* of ECMA-262, for the whole text; NULL: machine */
    enum nb_format_machine machine;
};

/* NULL where the name is none of ours. */
const struct nb_format *nb_format_find(const char *name, size_t n, enum nb_format_draft draft);

/* A machine's state is a number that is not 0 but where nothing can follow; every other state leads
 * to an accepting one. */
uint64_t nb_format_start(uint32_t machine);
uint64_t nb_format_step(uint32_t machine, uint64_t state, uint8_t byte);
bool nb_format_accepts(uint32_t machine, uint64_t state);

/* Ranges of bytes, {lo, hi}, up to {0, 0}: machines take all bytes of what these cut out alike. */
extern const uint8_t nb_format_bytes[][2];

#endif
