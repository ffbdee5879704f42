/* UTF-8 as RFC 3629 has it: shortest forms only, no surrogates, nothing above U+10FFFF. */
#ifndef NB_BASE_UTF8_H
#define NB_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decodes the character at text[0..n), n > 0, into *cp. Returns its length, 1 to 4, or 0 if the
 * bytes there are no character; *cp is then left alone. */
size_t nb_utf8_decode(const char *text, size_t n, uint32_t *cp);

/* Whether all of text[0..n) is UTF-8; if not, *bad (may be NULL) is where it first is not. */
bool nb_utf8_valid(const char *text, size_t n, size_t *bad);

#endif
