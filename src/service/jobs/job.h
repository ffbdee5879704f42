/* A job of a serverless queue: from its input to a request of the service, and from the answer to
 * the result that the queue gets. docs/replaced-service.md has both. */
#ifndef NB_SERVICE_JOBS_JOB_H
#define NB_SERVICE_JOBS_JOB_H

#include "base/buf.h"
#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* How the input is written, and so how the result is. */
enum nb_job_style {
    NB_JOB_ENDPOINT,     /* {"endpoint", "data", …}: the answer's body */
    NB_JOB_OPENAI,       /* {"messages"} or {"prompt"}, and what else OpenAI's API has: likewise;
                          * streams as lists of chunks */
    NB_JOB_OPENAI_ROUTE, /* {"openai_route", "openai_input"}, as RunPod's own proxy sends it: the
                          * result is a list of parts; streams as the text of server-sent events */
};

struct nb_job_input {
    enum nb_job_style style;
    const char *method, *path; /* constants */
    char *body;                /* [body_bytes] */
    size_t body_bytes;
    bool stream;                       /* what it asks streams */
    char *key;                         /* the caller's API key, or NULL */
    char *callback_url, *callback_key; /* or NULL */
};

/* Reads an input. On failure *err says what is wrong with it (NB_ERR_UNSUPPORTED: no such
 * endpoint), and the callback, which was read first, is there all the same. The caller frees *out
 * in any case. */
enum nb_status nb_job_input_read(const json_t *input, struct nb_job_input *out,
                                 struct nb_error *err);
void nb_job_input_free(struct nb_job_input *input);

/* The "id" of a job [n] that is no JSON, or more than can be read: looked for among the members
 * that come before what is wrong. False if it is not there, or longer than size - 1. */
bool nb_job_find_id(const char *text, size_t n, char *out, size_t size);

/* The result of an answer, as the queue takes it, into *out: {"output": …}, or {"output":
 * {"success": false, "error_type", …}, "error": message}, which is what RunPod's own library makes
 * of a dictionary with "error" in it. body [n] is the answer's, which nibble made. */
void nb_job_result(enum nb_job_style style, int status, const char *body, size_t n,
                   struct nb_buf *out);

/* Likewise for what did not become a request: its own message. type: of the error; NULL: as its
 * code says. */
void nb_job_failure(const struct nb_error *err, const char *type, struct nb_buf *out);

/* What a callback gets: {"job_id", "status", "api_key", "result" or "error"}. */
void nb_job_callback(const char *job_id, const char *key, int status, const char *body, size_t n,
                     struct nb_buf *out);

/* Server-sent events, whole ones, as a part of a stream: {"output": part} to *out; and the part to
 * *parts, which grows into what stands between the brackets of the result's list. False if there is
 * nothing in them to tell. An event that is an error goes to *error instead, its message. */
bool nb_job_part(enum nb_job_style style, const char *events, size_t n, struct nb_buf *out,
                 struct nb_buf *parts, struct nb_buf *error);

#endif
