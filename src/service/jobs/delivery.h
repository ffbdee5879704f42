/* What leaves a worker: results to the queue, until they are taken; callbacks, a few times.
 *
 * Everything here runs on the client's loop.
 */
#ifndef NB_SERVICE_JOBS_DELIVERY_H
#define NB_SERVICE_JOBS_DELIVERY_H

#include "base/buf.h"
#include "service/client.h"
#include "service/jobs/outbox.h"

#include <stdbool.h>
#include <stddef.h>

struct nb_deliveries;

struct nb_delivery_options {
    struct nb_client *client;
    struct nb_outbox *outbox;
    const struct nb_guard *guard;     /* of callbacks */
    const char *output_url;           /* where results go; "$ID" in it is the job */
    const char *authorization;        /* a header, "Authorization: …"; NULL: none */
    void (*on_change)(void *context); /* something was delivered, or kept, or could not be kept */
    void *context;
};

/* The options' pointers stay the caller's, who keeps them. */
enum nb_status nb_deliveries_open(const struct nb_delivery_options *options,
                                  struct nb_deliveries **out, struct nb_error *err);

/* Keeps on disk every result that is not there yet: before the end. */
void nb_deliveries_keep(struct nb_deliveries *deliveries);

/* Forgets what is on its way; what was kept stays in the outbox. NULL is allowed. */
void nb_deliveries_close(struct nb_deliveries *deliveries);

/* Sends a result until the queue takes it, or says that it does not want it: with pauses that grow
 * to half a minute. From its first failure on it is kept on disk. Takes the buffer. kept: it is
 * from the outbox. */
enum nb_status nb_deliver(struct nb_deliveries *deliveries, const char *job_id, bool stream,
                          struct nb_buf *result, bool kept, struct nb_error *err);

/* Posts a callback, at most six times over about a minute; its outcome is in the log. Takes the
 * buffer. then (may be NULL) runs once the first attempt is over, whatever came of it. */
enum nb_status nb_deliver_callback(struct nb_deliveries *deliveries, const char *job_id,
                                   const char *url, struct nb_buf *body,
                                   void (*then)(void *context), void *context,
                                   struct nb_error *err);

struct nb_delivery_counts {
    size_t results;   /* that the queue does not have yet */
    size_t unsafe;    /* of those, failed once and on no disk */
    size_t callbacks; /* that are not over */
};
struct nb_delivery_counts nb_deliveries_count(const struct nb_deliveries *deliveries);

/* Whether the result of this job waits here; it is then sent at once. */
bool nb_deliveries_hurry(struct nb_deliveries *deliveries, const char *job_id);

/* Does not wait any longer for the first attempts of callbacks: runs what follows them. */
void nb_deliveries_follow(struct nb_deliveries *deliveries);

/* The ids of the jobs whose results wait here, one after the other: the one after `previous`, the
 * first for NULL, NULL after the last. */
const char *nb_deliveries_next(const struct nb_deliveries *deliveries, const char *previous);

/* A POST about a job, as RunPod's SDK makes it: to `url` with the job's id for "$ID" in it and
 * isStream after it, with the id as X-Request-ID where a header can hold it. All that is pointed to
 * is the caller's; the body stays until the end. */
struct nb_job_post {
    const char *url, *job_id;
    const char *authorization; /* a header, "Authorization: …"; NULL: none */
    bool stream;               /* what isStream says: a result of which parts were sent */
    const struct nb_buf *body;
    double timeout_s;
    void (*on_done)(void *context, const struct nb_client_answer *answer);
    void *context;
};

/* NULL if it cannot begin: memory ran out, of which the body may say so, too, or the URL cannot be
 * used; then on_done is not called. */
struct nb_transfer *nb_job_post(struct nb_client *client, const struct nb_job_post *post,
                                struct nb_error *err);

/* A URL with `name` in it replaced by `value`, percent-encoded. The caller frees it; NULL if memory
 * ran out. */
char *nb_url_with(const char *url, const char *name, const char *value);

/* A job's id for the log: what is not a letter, a digit or of "-_.:" is '?'; cut at 95. out[96]. */
const char *nb_job_log_id(const char *job_id, char out[96]);

#endif
