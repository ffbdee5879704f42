/* Internationalized labels of host names, as RFC 5891 lets them be registered: what an A-label
 * (xn--…) spells must be allowed by IDNA 2008. */
#ifndef NB_GRAMMAR_IDNA_H
#define NB_GRAMMAR_IDNA_H

#include <stdbool.h>
#include <stddef.h>

enum { NB_IDNA_MAX_LABEL = 63 };

/* Whether label[0..n), ASCII in lower case, is the A-label of a valid U-label: "xn--" and Punycode
 * (RFC 3492) of code points that RFC 5892 allows where they stand, in normalization form C, without
 * "--" in the third and fourth place, no hyphen or mark at an end, and right to left only as RFC
 * 5893 has it; and Punycode that encoding these would give. Unicode is utf8proc's. */
bool nb_idna_a_label(const char *label, size_t n);

/* Writes to out[0..NB_IDNA_MAX_LABEL) a text of letters, digits and hyphens that makes an A-label
 * of label[0..n), which begins with "xn--"; how many bytes, or -1 if what was tried is none. There
 * is one for whatever begins so and leaves room for NB_IDNA_ROOM bytes: with a letter that is no
 * ASCII before and behind it anything will do. */
enum { NB_IDNA_ROOM = 10 };
int nb_idna_complete(const char *label, size_t n, char *out);

#endif
