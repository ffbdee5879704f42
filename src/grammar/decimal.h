/* Numbers as JSON writes them, compared exactly: 0.1 is a tenth, 1e2 is 100, 1.0 is 1. */
#ifndef NB_GRAMMAR_DECIMAL_H
#define NB_GRAMMAR_DECIMAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* (-1)^negative * digits * 10^exponent, and if `more`, something below the last digit. Zero is
 * digits 0, exponent 0, not negative. At most 38 digits are kept; the last of them is not 0. */
struct nb_decimal {
    unsigned __int128 digits;
    int32_t exponent;
    bool negative, more;
};

enum { NB_DECIMAL_DIGITS = 38, NB_DECIMAL_MAX_EXPONENT = 1000000 };

/* Reads a JSON number's text, which must be one. An exponent beyond NB_DECIMAL_MAX_EXPONENT is
 * taken as that, with `more`: so `more` says that the value is not exact. */
struct nb_decimal nb_decimal_parse(const char *text, size_t n);
struct nb_decimal nb_decimal_from_int(int64_t value);

/* Drops zeros at the end, so that equal numbers have equal fields. */
struct nb_decimal nb_decimal_normal(struct nb_decimal value);

/* Below, at or above 0 as a is below, equal to or above b. */
int nb_decimal_compare(struct nb_decimal a, struct nb_decimal b);

bool nb_decimal_is_integer(struct nb_decimal value);

/* Whether value is an integer times `of`, which is positive, has at most 18 digits and no `more`.
 */
bool nb_decimal_is_multiple(struct nb_decimal value, struct nb_decimal of);

/* The smallest multiple of `of` (as above) that is at least value; false if it cannot be told
 * within 38 digits. */
bool nb_decimal_next_multiple(struct nb_decimal value, struct nb_decimal of,
                              struct nb_decimal *out);

/* a + b, for numbers of at most some 30 digits between the first of the larger and the last of the
 * finer; beyond that, a. */
struct nb_decimal nb_decimal_add(struct nb_decimal a, struct nb_decimal b);

/* The value as an integer within [INT64_MIN, INT64_MAX]; false if it is none. */
bool nb_decimal_to_int(struct nb_decimal value, int64_t *out);

/* Writes the value as a JSON number, in plain notation where that takes at most 40 digits. Returns
 * the bytes written, at most 64; no NUL. */
size_t nb_decimal_write(struct nb_decimal value, char out[64]);

#endif
