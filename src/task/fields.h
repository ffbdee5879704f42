/* What a model wrote for a field: to text, and whether it is what the field holds. */
#ifndef NB_TASK_FIELDS_H
#define NB_TASK_FIELDS_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

/* text[0..n) without control characters and without spaces at both ends: *out, which the caller
 * frees. Bytes that are no UTF-8 become U+FFFD. */
enum nb_status nb_field_clean(const char *text, size_t n, char **out, struct nb_error *err);

bool nb_field_is_text(const char *text);     /* not empty */
bool nb_field_is_date(const char *text);     /* YYYY-MM-DD, a day of the Gregorian calendar */
bool nb_field_is_currency(const char *text); /* three capital letters */
bool nb_field_is_amount(
    const char *text); /* -1234.50: sign, digits, point and digits; JSON's form */

#endif
