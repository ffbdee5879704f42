/* References between schemas: RFC 3986. */
#ifndef NB_GRAMMAR_URI_H
#define NB_GRAMMAR_URI_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>

/* Appends `reference` as it is meant in a document at `base` (section 5.2), fragment and all. */
void nb_uri_resolve(const char *base, const char *reference, struct nb_buf *out);

/* Undoes %41 in place; false for a % without two digits. */
bool nb_uri_decode(char *text, size_t *n);

#endif
