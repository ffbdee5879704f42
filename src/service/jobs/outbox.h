/* Results that could not be delivered yet, kept in a folder until they are.
 *
 * A file a result, named by the SHA-256 of its job's id: a line of JSON, {"job_id", "stream",
 * "bytes", "sha256"}, then the result as it is sent. It is there whole or not at all, whenever the
 * power fails; nobody but its owner can read it; and it holds no key, for keys are no part of a
 * result. One process at a time has the folder.
 */
#ifndef NB_SERVICE_JOBS_OUTBOX_H
#define NB_SERVICE_JOBS_OUTBOX_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

struct nb_outbox;

/* Makes the folder (and those above it) where it is missing, and tries whether it can be written.
 * NB_ERR_IO if not, or if another process has it. The caller closes *out. */
enum nb_status nb_outbox_open(const char *folder, struct nb_outbox **out, struct nb_error *err);
void nb_outbox_close(struct nb_outbox *outbox); /* NULL is allowed; files stay */

/* Calls fn with each result that is there; one that is damaged is set aside (".bad") with a word in
 * the log. Stops at the first failure of fn. */
enum nb_status nb_outbox_read(struct nb_outbox *outbox,
                              enum nb_status (*fn)(void *context, const char *job_id, bool stream,
                                                   const char *result, size_t n,
                                                   struct nb_error *err),
                              void *context, struct nb_error *err);

/* Keeps a result, in place of one of the same job. On failure nothing of it stays. */
enum nb_status nb_outbox_keep(struct nb_outbox *outbox, const char *job_id, bool stream,
                              const char *result, size_t n, struct nb_error *err);

/* It was delivered. What is not there is forgotten already. */
void nb_outbox_forget(struct nb_outbox *outbox, const char *job_id);

#endif
