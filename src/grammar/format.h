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

/* A machine's state is a number that is not 0 but where nothing can follow, and of a host name the
 * label that is open, where it is one of Punycode: what that means is known only when it ends.
 * Every state but 0 leads to an accepting one; of labels of Punycode longer than 53 bytes not quite
 * all do. */
struct nb_format_state {
    uint64_t number;
    uint32_t n;     /* bytes of label; 0: none is open */
    char label[64]; /* in lower case; zeros behind it */
};
void nb_format_start(uint32_t machine, struct nb_format_state *out);
/* *out may be *in. */
void nb_format_step(uint32_t machine, const struct nb_format_state *in, uint8_t byte,
                    struct nb_format_state *out);
bool nb_format_accepts(uint32_t machine, const struct nb_format_state *state);

/* The i-th pair of bytes that the machine takes alike, and unlike all others; false behind the
 * last. Bytes that are in none it takes alike. */
bool nb_format_bytes(uint32_t machine, uint32_t i, uint8_t out[2]);

/* A text, of at most NB_FORMAT_TEXT bytes, that ends a host name's open label of Punycode; -1 if
 * none is known. */
enum { NB_FORMAT_TEXT = 64 };
int nb_format_finish(uint32_t machine, const struct nb_format_state *state,
                     char out[NB_FORMAT_TEXT]);

#endif
