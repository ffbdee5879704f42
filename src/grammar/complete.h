/* Texts that finish what has been begun: how a state is known to be no dead end, and how a document
 * is closed when time is up. */
#ifndef NB_GRAMMAR_COMPLETE_H
#define NB_GRAMMAR_COMPLETE_H

#include "base/buf.h"
#include "grammar/state.h"

/* Appends a short text that brings `state` to an end that is allowed; the result was checked, byte
 * by byte. False if none was found within bounded time, or there is none: *out is then as it was.
 */
bool nb_complete(struct nb_reader *reader, const struct nb_state *state, struct nb_buf *out);

/* The same, and none is shorter, in bytes and as masks let it be written: where what is to be
 * looked at is within bounds (some 100 ms), else it is only as nb_complete finds it. */
bool nb_complete_shortest(struct nb_reader *reader, const struct nb_state *state,
                          struct nb_buf *out);

#endif
