/* The log: one of the two pieces of global state. Nothing is written until a program that uses
 * nibble sets a sink; the library itself never prints. Prompts and keys are never logged. */
#ifndef NB_BASE_LOG_H
#define NB_BASE_LOG_H

#include "base/error.h"

#include <stdbool.h>

enum nb_log_level { NB_LOG_ERROR, NB_LOG_WARN, NB_LOG_INFO, NB_LOG_DEBUG };

/* Receives each message at or below the level that was set; may be called from any thread. */
typedef void (*nb_log_sink)(void *context, enum nb_log_level level, const char *message);

/* Set once, before threads start. sink NULL turns the log off. */
void nb_log_set(enum nb_log_level level, nb_log_sink sink, void *context);
void nb_log(enum nb_log_level level, const char *fmt, ...) NB_PRINTF(2, 3);
const char *nb_log_level_name(enum nb_log_level level);

/* The level of that name into *out; false, and *out stays, for NULL and for what is none. */
bool nb_log_level_find(const char *name, enum nb_log_level *out);

#endif
