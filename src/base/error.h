/* How every function of nibble reports failure: a status, and a message in a caller's struct. */
#ifndef NB_BASE_ERROR_H
#define NB_BASE_ERROR_H

#include "nibble/nibble.h"

#if defined(__GNUC__)
#define NB_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define NB_PRINTF(fmt, args)
#endif

/* Writes code and message to *err (if err is not NULL) and returns code, so that a failing function
 * ends in `return nb_fail(err, …)`. A message that does not fit ends in "…". */
enum nb_status nb_fail(struct nb_error *err, enum nb_status code, const char *fmt, ...)
    NB_PRINTF(3, 4);

/* NB_ERR_MEMORY for an allocation of `bytes` bytes that failed while doing `what`. */
enum nb_status nb_fail_memory(struct nb_error *err, size_t bytes, const char *what);

/* Puts a prefix, such as the name of the file being read, before the message that *err holds.
 * Returns err's code, so that it can end a function as nb_fail does; `code` is returned where err
 * is NULL. */
enum nb_status nb_fail_prefix(struct nb_error *err, enum nb_status code, const char *fmt, ...)
    NB_PRINTF(3, 4);

/* The name of a status for logs and JSON: "format", "io", … Never NULL. */
const char *nb_status_name(enum nb_status status);

#endif
