/* What a caller says of a classification: the document types, and whose documents they are. */
#ifndef NB_TASK_JOB_H
#define NB_TASK_JOB_H

#include "base/buf.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

/* A document type or an action. White space in both is single spaces. */
struct nb_named {
    char *name;
    char *description; /* NULL: none */
};

struct nb_names {
    struct nb_named *of; /* [n] */
    size_t n;
};

/* Reads document types from text[0..n): a line each, "NAME" or "NAME: DESCRIPTION", lines that
 * begin with "#" and empty ones aside; or, where it begins with "[", JSON as the actions of
 * nb_context_read. Two to 64 of them, no two the same, names of at most 64 bytes. `name` begins
 * messages. The caller frees *out, after failures, too. */
enum nb_status nb_labels_read(const char *text, size_t n, const char *name, struct nb_names *out,
                              struct nb_error *err);
void nb_names_free(struct nb_names *names);

struct nb_context {
    char *company;           /* ours; NULL: not said */
    struct nb_names actions; /* 0 to 63 */
    char *instructions;      /* NULL: none */
};

/* Reads a JSON object; every member may be absent:
 *     "company":      our company's name
 *     "actions":      a list of {"name": …, "description": …} or "name"; names of at most 120 bytes
 *     "instructions": text for models that are asked in words
 * Another member, another type, a name that is there twice or empty is NB_ERR_FORMAT, and the
 * message names the key. `actions`: whether "actions" was there. The caller frees *out, after
 * failures, too. */
enum nb_status nb_context_read(const char *text, size_t n, const char *name, struct nb_context *out,
                               bool *actions, struct nb_error *err);
void nb_context_free(struct nb_context *context);

/* Appends a line each, none ended by a line feed at the end: "BEFORE name: description". */
void nb_names_write(const struct nb_names *names, const char *before, bool descriptions,
                    struct nb_buf *out);

#endif
