/* Reading JSON documents from outside: jansson, with errors that name the file and the field. */
#ifndef NB_MODEL_JSON_H
#define NB_MODEL_JSON_H

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Parses text[0..n) as one JSON object, duplicate keys refused. `name` is the file (and, within it,
 * the place) that messages speak of. The caller frees *out with json_decref. */
enum nb_status nb_json_parse(const char *text, size_t n, const char *name, json_t **out,
                             struct nb_error *err);

/* Whether json_loadb failed for want of memory. It says nothing at all in some such cases, so that
 * *e must be zeroed before. */
bool nb_json_no_memory(const json_error_t *e);

/* Reads and parses a file of at most max_bytes. */
enum nb_status nb_json_read(const char *path, size_t max_bytes, json_t **out, struct nb_error *err);

/* The member, or NULL where it is absent or null. Owned by the object. */
const json_t *nb_json_member(const json_t *object, const char *key);

/* text[0..n) as a string; U+FFFD where it is not UTF-8, as a token's text need not be. NULL if
 * memory ran out. */
json_t *nb_json_text(const char *text, size_t n);

/* A member of `object` in *out. Absent or null: *out keeps the value it has (the default) and the
 * result is NB_OK; another type, or outside [min, max]: NB_ERR_FORMAT. */
enum nb_status nb_json_int(const json_t *object, const char *key, int64_t min, int64_t max,
                           int64_t *out, const char *name, struct nb_error *err);
enum nb_status nb_json_number(const json_t *object, const char *key, double min, double max,
                              double *out, const char *name, struct nb_error *err);
enum nb_status nb_json_bool(const json_t *object, const char *key, bool *out, const char *name,
                            struct nb_error *err);

/* The string is owned by the object. */
enum nb_status nb_json_string(const json_t *object, const char *key, const char **out,
                              const char *name, struct nb_error *err);

/* "an object", "a string", …, for messages. */
const char *nb_json_type(const json_t *value);

#endif
