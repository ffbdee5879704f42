/* A worker of RunPod's serverless queue: takes jobs, has the service answer them, posts the
 * results.
 *
 * The protocol is the one that the public library speaks, `runpod` 1.12.0 of PyPI
 * (runpod/serverless/modules: rp_job.py, rp_http.py, rp_ping.py, rp_scale.py, rp_fitness.py). Each
 * job taken is answered once; one that cannot be, because the worker is killed or told to end too
 * soon, goes back to the queue when heartbeats no longer name it.
 */
#ifndef NB_SERVICE_JOBS_RUNPOD_H
#define NB_SERVICE_JOBS_RUNPOD_H

#include "service/service.h"

struct nb_worker;

struct nb_worker_options {
    /* As RunPod's variables have them; "$RUNPOD_POD_ID" and "$ID" in the URLs are replaced. */
    const char *get_job;     /* RUNPOD_WEBHOOK_GET_JOB */
    const char *post_output; /* RUNPOD_WEBHOOK_POST_OUTPUT */
    const char *post_stream; /* RUNPOD_WEBHOOK_POST_STREAM; NULL: streams come whole, in the end */
    const char *ping;        /* RUNPOD_WEBHOOK_PING; NULL: no heartbeats */
    const char *api_key;     /* RUNPOD_AI_API_KEY, or NULL */
    const char *pod_id;      /* RUNPOD_POD_ID; NULL: a random one */
    double ping_interval_s;  /* RUNPOD_PING_INTERVAL, which is in milliseconds; 0: 10 */

    const char *outbox; /* the folder of results that wait; NULL: see nb_worker_outbox */
    const char *allow;  /* hosts that callbacks may reach besides public ones: see guard.h */

    struct nb_service_options service; /* no_listener is implied */

    /* The worker can go on no more, see nb_worker_broken: it takes no jobs, has given up those it
     * had, and waits to be drained and closed. On a thread of its own; may be NULL. */
    void (*on_broken)(void *context);
    void *context;
};

/* Reads the variables above; those of other fields stay. NB_ERR_ARGUMENT names the one that is
 * missing or wrong. Strings stay the environment's. */
enum nb_status nb_worker_environment(struct nb_worker_options *options, struct nb_error *err);

/* Tells the queue, if it can within two seconds, why this worker does not start: a check's name and
 * a reason. */
void nb_worker_report_unhealthy(const struct nb_worker_options *options, const char *check,
                                const char *reason);

/* Checks that the model answers and that results can be kept, reporting what fails, and begins to
 * take jobs. The engine stays the caller's, who closes it after the worker. */
enum nb_status nb_worker_open(struct nb_engine *engine, const struct nb_worker_options *options,
                              struct nb_worker **out, struct nb_error *err);

/* Whether the checkpoint's files were written to while they were mapped; no answer is delivered
 * that ended after that. */
bool nb_worker_broken(struct nb_worker *worker);

/* Reads the API keys again; on failure they stay. */
enum nb_status nb_worker_reload(struct nb_worker *worker, struct nb_error *err);

/* Takes no more jobs, and waits until those it has are answered and their results delivered: true.
 * Or false after timeout_s: then results that were not delivered are on disk, and jobs that were
 * not answered are given up, so that the queue has them again. */
bool nb_worker_drain(struct nb_worker *worker, double timeout_s);
void nb_worker_close(struct nb_worker *worker); /* NULL is allowed */

#endif
