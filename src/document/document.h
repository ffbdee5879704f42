/* From a file to the text that a model reads. */
#ifndef NB_DOCUMENT_DOCUMENT_H
#define NB_DOCUMENT_DOCUMENT_H

#include "base/buf.h"
#include "base/error.h"

#include <stddef.h>

/* Reads a text file, or standard input for "-", and appends its text in normal form to *out. A file
 * that is empty, no UTF-8, or in a format that is not text is NB_ERR_FORMAT; one over 64 MiB
 * NB_ERR_LIMIT. */
enum nb_status nb_document_read(const char *path, struct nb_buf *out, struct nb_error *err);

/* Appends text[0..n) in normal form to *out. The normal form keeps the layout that matters and
 * nothing that varies by accident:
 *   - line ends of all kinds (CR LF, CR, FF, VT, U+0085, U+2028, U+2029) are LF;
 *   - a tab is two spaces, any other Unicode space is one;
 *   - other control characters, zero-width characters, soft hyphens and byte order marks are
 * dropped;
 *   - lines lose spaces at both ends, runs of two or more spaces inside become two (a gap between
 *     columns), empty lines go, and so does the last line's end.
 * Case and everything else stay. `name` is for messages. */
enum nb_status nb_text_normalize(const char *text, size_t n, const char *name, struct nb_buf *out,
                                 struct nb_error *err);

#endif
