#include "service/jobs/runpod.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "service/client.h"
#include "service/errands.h"
#include "service/files.h"
#include "service/jobs/delivery.h"
#include "service/jobs/job.h"
#include "service/jobs/outbox.h"
#include "service/service_impl.h"

#include <curl/curl.h>
#include <limits.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* The library's own: 90 s for a long poll, 5 s after a 429, 1 s after an empty stop poll. */
static const double POLL_S = 90, TOO_MANY_S = 5, LONGEST_ASKED_S = 60, RETRY_BASE_S = 0.25,
                    RETRY_MAX_S = 30, QUICK_S = 1, QUICK_BASE_S = 0.05, QUICK_MAX_S = 1,
                    PART_TIMEOUT_S = 30, FITNESS_S = 300, REPORT_S = 2, CANCEL_S = 10, FILES_S = 5,
                    DEFAULT_PING_S = 10;
enum {
    MAX_JOB_BYTES = 32 << 20, /* of a job in the answer of a poll */
    MAX_ANSWER_BYTES = 256 << 20,
    MAX_SMALL_BYTES = 1 << 20, /* of other answers */
    MAX_HELD = 256,            /* jobs and results that are not delivered, together */
    MAX_ID = 256,
    ONE_BY_ONE = 64,
    PART_ATTEMPTS = 3,
    DEFAULT_SLOTS = 16,
};
/* The version of the protocol that heartbeats name. */
static const char library_version[] = "1.12.0";

/* A job, from being taken until its result is with the deliveries. */
struct job {
    struct nb_exchange x; /* first: the service's view of it */
    struct nb_worker *worker;
    char *id;
    char log_id[96];
    struct nb_job_input input;
    int64_t taken_us;
    struct job *next; /* of the worker's */
    struct nb_errand start;
    struct nb_post changed;
    bool given_up; /* no result is wanted any more */
    bool ending;   /* its answer is whole, and is on its way out */

    /* A stream. */
    struct nb_buf events; /* that are not in a part yet */
    struct nb_buf part, parts, error;
    unsigned part_failures;
    struct nb_transfer *transfer; /* of the part */
    struct nb_timer timer;
    bool whole;    /* no more events come */
    bool in_parts; /* the result is a list of parts, which were sent before */
    struct nb_buf result;
};

/* One of the loop's polls: for jobs, for stop signals. */
struct poll {
    struct nb_timer timer;
    struct nb_transfer *transfer;
    int64_t begun_us;
    unsigned failures, quick; /* in a row */
};

struct nb_worker {
    struct nb_worker_options options;
    size_t slots;
    char pod_id[128];
    char *take_url, *take_batch_url, *stop_url, *output_url, *stream_url, *ping_url;
    char *authorization; /* a header, or NULL */
    struct nb_service *service;
    struct nb_guard *guard;
    struct nb_outbox *outbox;
    struct nb_files *files; /* of the checkpoint; NULL: nothing is read from them any more */
    struct nb_client *client;
    struct nb_deliveries *deliveries;
    struct nb_errands *starts; /* of jobs */

    /* The loop's own. */
    struct job *jobs;
    size_t n_jobs;
    struct poll take, stop;
    int one_by_one; /* polls to come that are for a single job, after an answer that was none */
    struct nb_timer ping_timer;
    struct nb_transfer *ping;
    unsigned ping_failures;
    struct nb_timer files_timer;
    bool draining;
    struct nb_post begin, end, give_up;

    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t wake;
    bool drained; /* nothing is held */
    bool gone;    /* no job is */
    bool broken;
};

static void take(void *context);
static void look(struct nb_worker *w);
static void give_up_job(struct job *j, const char *why);

/* ---- requests to the queue ---- */

static struct nb_transfer *get(struct nb_worker *w, const char *url, double timeout_s,
                               size_t max_bytes,
                               void (*on_done)(void *context, const struct nb_client_answer *a),
                               void *context) {
    struct nb_client_request r = {
        .url = url,
        .headers = {w->authorization},
        .timeout_s = timeout_s,
        .max_bytes = max_bytes,
        .on_done = on_done,
        .context = context,
    };
    struct nb_error err = {.message = "out of memory"};
    struct nb_transfer *t = url ? nb_client_begin(w->client, &r, &err) : NULL;
    if (!t)
        nb_log(NB_LOG_ERROR, "event=queue %s", err.message);
    return t;
}

static double pause_after_failure(struct poll *p) {
    p->failures++;
    return nb_backoff_s(p->failures, RETRY_BASE_S, RETRY_MAX_S);
}

/* The pause before a poll is made again: as the server asks, or growing with failures. */
static double pause_after(struct poll *p, const struct nb_client_answer *a) {
    if (a->status == 429 || a->retry_after_s > 0) {
        double asked = a->retry_after_s > 0 ? a->retry_after_s : TOO_MANY_S;
        asked = asked < LONGEST_ASKED_S ? asked : LONGEST_ASKED_S;
        return asked + nb_backoff_s(1, asked / 4, LONGEST_ASKED_S); /* not all at once */
    }
    return pause_after_failure(p);
}

/* Likewise after one that brought nothing: at once, unless the server does not hold polls open. */
static double pause_after_nothing(struct poll *p) {
    p->failures = 0;
    if ((double)(nb_now_us() - p->begun_us) / 1e6 >= QUICK_S) {
        p->quick = 0;
        return 0;
    }
    p->quick++;
    return nb_backoff_s(p->quick, QUICK_BASE_S, QUICK_MAX_S);
}

static bool is_json(const struct nb_client_answer *a) {
    return a->n > 0 && strcasecmp(a->type, "application/json") == 0;
}

/* ---- a job's end ---- */

static struct job *find_job(struct nb_worker *w, const char *id) {
    for (struct job *j = w->jobs; j; j = j->next) {
        if (strcmp(j->id, id) == 0)
            return j;
    }
    return NULL;
}

/* The worker's own part in a job ends; the service may still hold the exchange. */
static void drop_job(struct job *j) {
    struct nb_worker *w = j->worker;
    struct job **at = &w->jobs;
    while (*at != j)
        at = &(*at)->next;
    *at = j->next;
    w->n_jobs--;
    nb_timer_clear(w->client, &j->timer);
    nb_transfer_cancel(j->transfer);
    j->transfer = NULL;
    nb_exchange_release(&j->x);
}

/* Whether answers may be trusted. From the first time that they may not, no more jobs are taken. */
static bool check_files(struct nb_worker *w) {
    struct nb_error err;
    if (w->broken)
        return false;
    if (!w->files || nb_files_check(w->files, &err) == NB_OK)
        return true;
    nb_log(NB_LOG_ERROR, "event=broken %s", err.message);
    pthread_mutex_lock(&w->lock);
    w->broken = true;
    pthread_mutex_unlock(&w->lock);
    w->draining = true;
    for (struct job *j = w->jobs, *next; j; j = next) {
        next = j->next;
        give_up_job(j, "the queue will have it again");
    }
    if (w->options.on_broken)
        w->options.on_broken(w->options.context);
    return false;
}

static void look_at_files(void *context) {
    struct nb_worker *w = context;
    if (check_files(w))
        nb_timer_set(w->client, &w->files_timer, FILES_S);
}

static void deliver(void *context) {
    struct job *j = context;
    struct nb_worker *w = j->worker;
    struct nb_error err;
    if (j->result.failed) {
        /* Memory ran out. An error needs little of it. */
        nb_buf_free(&j->result);
        nb_fail_memory(&err, 0, "the result");
        nb_job_failure(&err, NULL, &j->result);
    }
    if (nb_deliver(w->deliveries, j->id, j->in_parts, &j->result, false, &err) != NB_OK)
        nb_log(NB_LOG_ERROR, "event=undelivered job=%s given up: %s", j->log_id, err.message);
    drop_job(j);
    look(w);
}

/* The answer [n] is there: its result goes out, after the callback's first attempt, so that a
 * worker that is killed between the two has the job again and not a caller who waits forever. */
static void end_job(struct job *j, int status, const char *body, size_t n) {
    struct nb_worker *w = j->worker;
    j->ending = true;
    if (!check_files(w)) {
        nb_buf_free(&j->result);
        drop_job(j);
        look(w);
        return;
    }
    bool fine = status >= 200 && status < 300;
    nb_log(fine ? NB_LOG_INFO : NB_LOG_WARN,
           "event=answered job=%s path=%s status=%d bytes=%zu ms=%.1f", j->log_id,
           j->input.path ? j->input.path : "-", status, n,
           (double)(nb_now_us() - j->taken_us) / 1000);
    if (j->input.callback_url) {
        struct nb_buf callback = {0};
        struct nb_error err;
        nb_job_callback(j->id, j->input.callback_key, status, body, n, &callback);
        if (nb_deliver_callback(w->deliveries, j->id, j->input.callback_url, &callback, deliver, j,
                                &err) == NB_OK)
            return;
        nb_log(NB_LOG_ERROR, "event=callback job=%s outcome=failed %s", j->log_id, err.message);
    }
    deliver(j);
}

static void fail_job(struct job *j, const struct nb_error *failure) {
    struct nb_buf body = {0};
    nb_job_failure(failure, NULL, &j->result);
    nb_buf_add_string(&body, "{\"detail\":");
    nb_buf_add_json_string(&body, failure->message, strlen(failure->message));
    nb_buf_add_string(&body, "}");
    end_job(j, nb_status_of(failure), body.data ? body.data : "", body.len);
    nb_buf_free(&body);
}

/* ---- streams ---- */

static void go_on(struct job *j);

static void on_part(void *context, const struct nb_client_answer *a) {
    struct job *j = context;
    j->transfer = NULL;
    bool done = a->status >= 200 && a->status < 300;
    j->part_failures += !done;
    if (!done && j->part_failures < PART_ATTEMPTS) {
        nb_timer_set(j->worker->client, &j->timer,
                     nb_backoff_s(j->part_failures, RETRY_BASE_S, RETRY_MAX_S));
        return;
    }
    if (!done)
        nb_log(NB_LOG_WARN, "event=part job=%s status=%d not delivered; the result has all: %s",
               j->log_id, a->status, a->error);
    j->part_failures = 0;
    nb_buf_clear(&j->part);
    go_on(j);
}

/* Begins to send the part; false, and there is no part any more, if it cannot be. */
static bool send_part(struct job *j) {
    struct nb_worker *w = j->worker;
    struct nb_job_post post = {
        .url = w->stream_url,
        .job_id = j->id,
        .authorization = w->authorization,
        .body = &j->part,
        .timeout_s = PART_TIMEOUT_S,
        .on_done = on_part,
        .context = j,
    };
    struct nb_error err;
    j->transfer = nb_job_post(w->client, &post, &err);
    if (j->transfer)
        return true;
    nb_log(NB_LOG_ERROR, "event=part job=%s not delivered; the result has all: %s", j->log_id,
           err.message);
    nb_buf_free(&j->part);
    return false;
}

static void send_part_again(void *context) {
    struct job *j = context;
    if (!send_part(j))
        go_on(j);
}

/* RunPod's proxy of OpenAI's API gets every answer as parts, also one that is whole. */
static void send_whole(struct job *j, const char *body, size_t n) {
    j->whole = j->in_parts = true;
    nb_buf_add(&j->parts, body, n);
    nb_buf_add_string(&j->part, "{\"output\":");
    nb_buf_add(&j->part, body, n);
    nb_buf_add_string(&j->part, "}");
    if (!j->worker->stream_url || !send_part(j))
        go_on(j);
}

/* All parts are out: the result, which has them all. */
static void end_stream(struct job *j) {
    if (j->error.len) {
        struct nb_error err;
        nb_fail(&err, NB_ERR_INTERNAL, "%s", j->error.data);
        fail_job(j, &err);
        return;
    }
    struct nb_buf body = {0};
    nb_buf_add_string(&body, "[");
    nb_buf_add(&body, j->parts.data ? j->parts.data : "", j->parts.len);
    nb_buf_add_string(&body, "]");
    nb_buf_add_string(&j->result, "{\"output\":");
    nb_buf_add(&j->result, body.data ? body.data : "", body.len);
    nb_buf_add_string(&j->result, "}");
    j->result.failed |= j->parts.failed || body.failed;
    end_job(j, 200, body.data ? body.data : "[]", body.len);
    nb_buf_free(&body);
}

/* Sends what has come since the last part, in one: the slower the queue, the longer the parts. */
static void go_on(struct job *j) {
    if (j->transfer || j->timer.set || j->ending)
        return;
    struct nb_buf events = j->events;
    j->events = (struct nb_buf){0};
    bool some = events.len && nb_job_part(j->input.style, events.data, events.len, &j->part,
                                          &j->parts, &j->error);
    nb_buf_free(&events);
    if (some && !j->worker->stream_url)
        nb_buf_clear(&j->part);
    else if (some && send_part(j))
        return;
    if (j->whole)
        end_stream(j);
}

/* ---- a job's answer ---- */

/* On the loop: the service has added to the answer. */
static void on_changed(void *context) {
    struct job *j = context;
    struct nb_worker *w = j->worker;
    if (j->ending || j->whole) {
        nb_exchange_release(&j->x);
        return;
    }
    pthread_mutex_lock(&j->x.lock);
    bool ended = j->x.ended, streaming = j->x.streaming;
    int status = j->x.status;
    struct nb_buf out = {0};
    if (ended || streaming) {
        out = j->x.out;
        j->x.out = (struct nb_buf){0};
    }
    pthread_mutex_unlock(&j->x.lock);
    if (j->given_up) {
        if (ended) {
            j->ending = true;
            nb_log(NB_LOG_INFO, "event=stopped job=%s ms=%.1f", j->log_id,
                   (double)(nb_now_us() - j->taken_us) / 1000);
            drop_job(j);
            look(w);
        }
    } else if (streaming) {
        nb_buf_add(&j->events, out.data ? out.data : "", out.len);
        j->parts.failed |= out.failed || j->events.failed;
        j->whole = ended;
        j->in_parts = true;
        go_on(j);
    } else if (ended && out.failed) {
        struct nb_error err;
        nb_fail_memory(&err, out.len, "the answer");
        fail_job(j, &err);
    } else if (ended && status == 200 && j->input.style == NB_JOB_OPENAI_ROUTE) {
        send_whole(j, out.data ? out.data : "", out.len);
    } else if (ended) {
        nb_job_result(j->input.style, status, out.data ? out.data : "", out.len, &j->result);
        end_job(j, status, out.data ? out.data : "", out.len);
    }
    nb_buf_free(&out);
    nb_exchange_release(&j->x);
}

/* The service's side of a job. */

static const char *job_header(const struct nb_exchange *x, const char *name) {
    const struct job *j = (const struct job *)x;
    return strcasecmp(name, "X-API-Key") == 0 ? j->input.key : NULL;
}

/* Under the exchange's lock. The loop's call has a reference, for it may come after the job's end.
 */
static void job_changed(struct nb_exchange *x) {
    struct job *j = (struct job *)x;
    nb_exchange_retain(x);
    if (!nb_client_post(j->worker->client, &j->changed))
        atomic_fetch_sub(&x->references, 1); /* one is there already; never the last */
}

static void free_job(struct nb_exchange *x) {
    struct job *j = (struct job *)x;
    nb_exchange_close(x);
    nb_job_input_free(&j->input);
    nb_buf_free(&j->events);
    nb_buf_free(&j->part);
    nb_buf_free(&j->parts);
    nb_buf_free(&j->error);
    nb_buf_free(&j->result);
    free(j->id);
    free(j);
}

static const struct nb_transport transport = {job_header, job_changed, free_job};

/* /health as a job has it. */
static void answer_health(struct nb_worker *w, struct nb_exchange *x) {
    struct nb_device d;
    nb_engine_device(w->service->engine, &d);
    bool gpu = d.memory_bytes > 0;
    json_t *body = json_pack("{s:s, s:s, s:b, s:b}", "status", "healthy", "service", "nibble",
                             "model_loaded", 1, "gpu_available", (int)gpu);
    if (body && gpu) {
        json_object_set_new(body, "gpu_name", json_string(d.name));
        json_object_set_new(body, "gpu_memory_total_gb", json_real((double)d.memory_bytes / 1e9));
        json_object_set_new(body, "gpu_memory_used_gb", json_real((double)d.used_bytes / 1e9));
        json_object_set_new(body, "gpu_memory_free_gb",
                            json_real((double)(d.memory_bytes - d.used_bytes) / 1e9));
    }
    nb_answer_json(x, 200, body);
}

/* Tokenizing a prompt and compiling a schema take time, which heartbeats do not have: jobs are
 * begun on threads of their own. */
static void run_job(void *context, struct nb_errand *errand) {
    struct nb_worker *w = context;
    struct job *j = (struct job *)((char *)errand - offsetof(struct job, start));
    if (strcmp(j->input.path, "/health") == 0) {
        answer_health(w, &j->x);
        nb_exchange_release(&j->x);
    } else {
        nb_service_handle(w->service, &j->x);
    }
}

/* ---- taking jobs ---- */

/* A job with its exchange, in the worker's list; *s says whether its input is one. NULL if memory
 * ran out. */
static struct job *make_job(struct nb_worker *w, const char *id, const json_t *input,
                            enum nb_status *s, struct nb_error *err) {
    struct job *j = calloc(1, sizeof *j);
    if (!j)
        return NULL;
    j->id = strdup(id);
    *s = nb_job_input_read(input, &j->input, err);
    bool fine = *s == NB_OK;
    if (!j->id || !nb_exchange_open(&j->x, &transport, fine ? j->input.method : "-",
                                    fine ? j->input.path : "-")) {
        nb_job_input_free(&j->input);
        free(j->id);
        free(j);
        return NULL;
    }
    nb_job_log_id(id, j->log_id);
    nb_exchange_set_id(&j->x, j->log_id);
    snprintf(j->x.peer, sizeof j->x.peer, "queue");
    j->x.body = fine ? j->input.body : "";
    j->x.body_bytes = j->input.body_bytes;
    j->worker = w;
    j->taken_us = nb_now_us();
    j->changed = (struct nb_post){.fn = on_changed, .context = j};
    j->timer = (struct nb_timer){.fn = send_part_again, .context = j};
    j->next = w->jobs;
    w->jobs = j;
    w->n_jobs++;
    return j;
}

static void start_job(struct nb_worker *w, struct job *j) {
    nb_exchange_retain(&j->x); /* the handler's */
    nb_errands_add(w->starts, &j->start);
}

/* It stands in a header, in a URL and between commas. */
static bool is_id(const char *id, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (id[i] <= ' ' || id[i] > '~' || id[i] == ',')
            return false;
    }
    return n > 0 && n <= MAX_ID;
}

/* False for what is no job, or one that is here already. */
static bool take_job(struct nb_worker *w, const json_t *one) {
    const json_t *id = json_object_get(one, "id");
    if (!json_is_string(id) || !is_id(json_string_value(id), json_string_length(id))) {
        nb_log(NB_LOG_ERROR,
               "event=taken a job without an id, of 1 to %d printable characters: left out",
               MAX_ID);
        return false;
    }
    char log_id[96];
    nb_job_log_id(json_string_value(id), log_id);
    if (find_job(w, json_string_value(id))) {
        nb_log(NB_LOG_WARN, "event=again job=%s is being answered already", log_id);
        return false;
    }
    if (nb_deliveries_hurry(w->deliveries, json_string_value(id))) {
        nb_log(NB_LOG_WARN, "event=again job=%s its result is sent again", log_id);
        return false;
    }
    struct nb_error err;
    enum nb_status s;
    struct job *j = make_job(w, json_string_value(id), json_object_get(one, "input"), &s, &err);
    nb_log(j ? NB_LOG_INFO : NB_LOG_ERROR, "event=taken job=%s path=%s bytes=%zu%s", log_id,
           j && j->input.path ? j->input.path : "-", j ? j->input.body_bytes : 0,
           j ? "" : " out of memory: the queue will have it again");
    if (j && s == NB_OK)
        start_job(w, j);
    else if (j)
        fail_job(j, &err);
    return j != NULL;
}

/* An answer that cannot be read. If there are jobs in it they come back, and would be as bad every
 * time: from now on jobs come one by one, so that the others are not held up, and the one that it
 * is gets an error. */
static void take_unreadable(struct nb_worker *w, const struct nb_client_answer *a) {
    char id[MAX_ID + 1], log_id[96];
    struct nb_error err;
    w->one_by_one = ONE_BY_ONE;
    if (!nb_job_find_id(a->body, a->n, id, sizeof id) || find_job(w, id))
        return;
    nb_fail(&err, NB_ERR_FORMAT,
            "the job cannot be read: no JSON, a number out of range, or nested too deep");
    enum nb_status s;
    struct nb_error unused;
    struct job *j =
        nb_deliveries_hurry(w->deliveries, id) ? NULL : make_job(w, id, NULL, &s, &unused);
    nb_log(NB_LOG_ERROR, "event=taken job=%s cannot be read", nb_job_log_id(id, log_id));
    if (j)
        fail_job(j, &err);
}

static void on_taken(void *context, const struct nb_client_answer *a) {
    struct nb_worker *w = context;
    struct poll *p = &w->take;
    double pause = 0;
    p->transfer = NULL;
    json_error_t why = {0};
    bool some = a->status == 200 && is_json(a);
    json_t *jobs = some ? json_loadb(a->body, a->n, JSON_ALLOW_NUL, &why) : NULL;
    if (some && !jobs)
        take_unreadable(w, a);
    if (json_is_array(jobs) || json_is_object(jobs)) {
        bool taken = json_is_object(jobs) && take_job(w, jobs);
        for (size_t i = 0; i < json_array_size(jobs); i++)
            taken |= take_job(w, json_array_get(jobs, i));
        p->failures = 0;
        if (taken)
            p->quick = 0;
        else
            pause = pause_after_nothing(p);
    } else if (a->status == 204 || a->status == 400 || (a->status == 200 && a->n == 0)) {
        /* 400: the worker is about to be put to sleep. */
        pause = pause_after_nothing(p);
    } else if (a->status == 0 && (double)(nb_now_us() - p->begun_us) / 1e6 >= POLL_S) {
        p->failures = 0; /* as long as polls are held open */
    } else {
        pause = pause_after(p, a);
        nb_log(NB_LOG_WARN, "event=take status=%d pause_s=%.2f %s", a->status, pause,
               a->error[0]        ? a->error
               : a->status == 200 ? "the answer is no JSON of jobs"
                                  : "");
    }
    json_decref(jobs);
    if (w->draining)
        look(w);
    else
        nb_timer_set(w->client, &p->timer, pause);
}

static void take(void *context) {
    struct nb_worker *w = context;
    struct nb_delivery_counts waiting = nb_deliveries_count(w->deliveries);
    size_t held = w->n_jobs + waiting.results, busy = 0;
    for (const struct job *j = w->jobs; j; j = j->next)
        busy += !j->ending;
    size_t free_slots = busy < w->slots ? w->slots - busy : 0;
    if (held + free_slots > MAX_HELD)
        free_slots = held < MAX_HELD ? MAX_HELD - held : 0;
    /* A result that is nowhere but in memory may be lost: no more of them. */
    if (w->draining || w->take.transfer || w->take.timer.set || !free_slots || waiting.unsafe)
        return;
    struct nb_buf url = {0};
    bool batch = free_slots > 1 && w->take_batch_url && !w->one_by_one;
    const char *base = batch ? w->take_batch_url : w->take_url;
    w->one_by_one -= w->one_by_one > 0;
    nb_buf_add_string(&url, base);
    if (batch)
        nb_buf_printf(&url, "&batch_size=%zu", free_slots);
    else
        free_slots = 1;
    nb_buf_printf(&url, "&job_in_progress=%d", held > 0);
    size_t max = free_slots * MAX_JOB_BYTES;
    w->take.begun_us = nb_now_us();
    w->take.transfer = get(w, url.failed ? NULL : url.data, POLL_S,
                           max < MAX_ANSWER_BYTES ? max : MAX_ANSWER_BYTES, on_taken, w);
    nb_buf_free(&url);
    if (!w->take.transfer)
        nb_timer_set(w->client, &w->take.timer, pause_after_failure(&w->take));
}

/* ---- stop signals ---- */

static void give_up_job(struct job *j, const char *why) {
    if (j->given_up || j->ending)
        return;
    nb_log(NB_LOG_INFO, "event=stopping job=%s %s", j->log_id, why);
    j->given_up = true;
    nb_timer_clear(j->worker->client, &j->timer);
    nb_transfer_cancel(j->transfer);
    j->transfer = NULL;
    if (j->whole) { /* only its last parts were on their way */
        j->ending = true;
        drop_job(j);
        return;
    }
    nb_exchange_tell_gone(&j->x);
}

static void stop_jobs(struct nb_worker *w, const json_t *ids) {
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const char *id = json_string_value(json_array_get(ids, i));
        struct job *j = id ? find_job(w, id) : NULL;
        if (j)
            give_up_job(j, "the queue wants it no more");
    }
    look(w);
}

static void on_stop(void *context, const struct nb_client_answer *a) {
    struct nb_worker *w = context;
    struct poll *p = &w->stop;
    double pause;
    p->transfer = NULL;
    json_error_t why = {0};
    json_t *body = a->status == 200 && is_json(a) ? json_loadb(a->body, a->n, 0, &why) : NULL;
    const json_t *ids = json_object_get(body, "jobsToStop");
    if (json_array_size(ids) > 0) {
        p->failures = p->quick = 0;
        pause = 0;
        stop_jobs(w, ids);
    } else if (a->status == 200 || a->status == 204) {
        pause = pause_after_nothing(p);
    } else if (a->status == 0 && (double)(nb_now_us() - p->begun_us) / 1e6 >= POLL_S) {
        pause = p->failures = 0;
    } else {
        bool first = p->failures == 0;
        pause = pause_after(p, a);
        nb_log(first ? NB_LOG_WARN : NB_LOG_DEBUG, "event=stop_poll status=%d pause_s=%.2f %s",
               a->status, pause, a->error);
    }
    json_decref(body);
    nb_timer_set(w->client, &p->timer, pause);
}

static void poll_stop(void *context) {
    struct nb_worker *w = context;
    w->stop.begun_us = nb_now_us();
    w->stop.transfer = get(w, w->stop_url, POLL_S, MAX_SMALL_BYTES, on_stop, w);
    if (!w->stop.transfer)
        nb_timer_set(w->client, &w->stop.timer, pause_after_failure(&w->stop));
}

/* ---- heartbeats ---- */

/* Appends "?name=value" or "&name=value", encoded. */
static void add_query(struct nb_buf *url, const char *name, const char *value) {
    char *encoded = curl_easy_escape(NULL, value, (int)strlen(value));
    nb_buf_printf(url, "%c%s=%s", url->data && strchr(url->data, '?') ? '&' : '?', name,
                  encoded ? encoded : "");
    url->failed |= !encoded;
    curl_free(encoded);
}

static void on_ping(void *context, const struct nb_client_answer *a) {
    struct nb_worker *w = context;
    w->ping = NULL;
    bool fine = a->status >= 200 && a->status < 300;
    if (!fine && !w->ping_failures)
        nb_log(NB_LOG_WARN, "event=ping status=%d failed %s", a->status, a->error);
    if (fine && w->ping_failures)
        nb_log(NB_LOG_INFO, "event=ping works again after %u failures", w->ping_failures);
    w->ping_failures = fine ? 0 : w->ping_failures + 1;
    double pause = w->options.ping_interval_s;
    if (!fine && w->ping_failures < 4 && pause > 1)
        pause = nb_backoff_s(1, 1, 1);
    nb_timer_set(w->client, &w->ping_timer, pause);
}

static void ping(void *context) {
    struct nb_worker *w = context;
    struct nb_buf ids = {0}, url = {0};
    for (struct job *j = w->jobs; j; j = j->next)
        nb_buf_printf(&ids, "%s%s", ids.len ? "," : "", j->id);
    for (const char *id = NULL; (id = nb_deliveries_next(w->deliveries, id));)
        nb_buf_printf(&ids, "%s%s", ids.len ? "," : "", id);
    nb_buf_add_string(&url, w->ping_url);
    if (ids.len)
        add_query(&url, "job_id", ids.data);
    add_query(&url, "runpod_version", library_version);
    double timeout = w->options.ping_interval_s * 2;
    w->ping = get(w, url.failed || ids.failed ? NULL : url.data, timeout > 1 ? timeout : 1,
                  MAX_SMALL_BYTES, on_ping, w);
    if (!w->ping)
        nb_timer_set(w->client, &w->ping_timer, w->options.ping_interval_s);
    nb_buf_free(&ids);
    nb_buf_free(&url);
}

/* ---- beginning and ending, on the loop ---- */

/* Something changed: jobs may be taken, or all is done. */
static void look(struct nb_worker *w) {
    struct nb_delivery_counts waiting = nb_deliveries_count(w->deliveries);
    if (!w->draining) {
        take(w);
        return;
    }
    bool last_poll = w->take.transfer && nb_transfer_answering(w->take.transfer);
    pthread_mutex_lock(&w->lock);
    w->gone = w->n_jobs == 0;
    w->drained = w->gone && !waiting.results && !waiting.callbacks && !last_poll;
    pthread_cond_broadcast(&w->wake);
    pthread_mutex_unlock(&w->lock);
}

static void on_delivery(void *context) {
    look(context);
}

static enum nb_status send_kept(void *context, const char *job_id, bool stream, const char *result,
                                size_t n, struct nb_error *err) {
    struct nb_worker *w = context;
    struct nb_buf copy = {0};
    char id[96];
    nb_buf_add(&copy, result, n);
    nb_log(NB_LOG_INFO, "event=found job=%s bytes=%zu a result that was kept",
           nb_job_log_id(job_id, id), n);
    return nb_deliver(w->deliveries, job_id, stream, &copy, true, err);
}

static void begin(void *context) {
    struct nb_worker *w = context;
    struct nb_error err;
    if (nb_outbox_read(w->outbox, send_kept, w, &err) != NB_OK)
        nb_log(NB_LOG_ERROR, "event=outbox %s", err.message);
    if (w->ping_url)
        ping(w);
    if (w->stop_url)
        poll_stop(w);
    look_at_files(w);
    take(w);
}

/* No more jobs. A poll whose answer has begun may bring some that nobody else will get soon. */
static void on_end(void *context) {
    struct nb_worker *w = context;
    w->draining = true;
    nb_timer_clear(w->client, &w->take.timer);
    if (w->take.transfer && !nb_transfer_answering(w->take.transfer)) {
        nb_transfer_cancel(w->take.transfer);
        w->take.transfer = NULL;
    }
    look(w);
}

static void on_give_up(void *context) {
    struct nb_worker *w = context;
    nb_transfer_cancel(w->take.transfer);
    w->take.transfer = NULL;
    for (struct job *j = w->jobs, *next; j; j = next) {
        next = j->next;
        give_up_job(j, "there is no time left: the queue will have it again");
    }
    nb_deliveries_follow(
        w->deliveries); /* what is answered is a result, whatever its callback does */
    nb_deliveries_keep(w->deliveries);
    look(w);
}

/* ---- the environment ---- */

static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

enum nb_status nb_worker_environment(struct nb_worker_options *o, struct nb_error *err) {
    o->get_job = variable("RUNPOD_WEBHOOK_GET_JOB");
    o->post_output = variable("RUNPOD_WEBHOOK_POST_OUTPUT");
    o->post_stream = variable("RUNPOD_WEBHOOK_POST_STREAM");
    o->ping = variable("RUNPOD_WEBHOOK_PING");
    o->api_key = variable("RUNPOD_AI_API_KEY");
    o->pod_id = variable("RUNPOD_POD_ID");
    const char *interval = variable("RUNPOD_PING_INTERVAL");
    char *end = NULL;
    long ms = interval ? strtol(interval, &end, 10) : 0;
    if (interval && (*end || ms < 10 || ms > 3600000))
        return nb_fail(err, NB_ERR_ARGUMENT,
                       "RUNPOD_PING_INTERVAL is \"%.40s\", expected milliseconds from 10 to "
                       "3600000",
                       interval);
    o->ping_interval_s = (double)ms / 1000;
    const char *missing = !o->get_job       ? "RUNPOD_WEBHOOK_GET_JOB"
                          : !o->post_output ? "RUNPOD_WEBHOOK_POST_OUTPUT"
                                            : NULL;
    if (missing)
        return nb_fail(err, NB_ERR_ARGUMENT,
                       "%s is not set: RunPod sets it in a serverless worker's container; for a "
                       "server of your own, use nibble serve",
                       missing);
    const struct {
        const char *name, *url;
    } urls[] = {{"RUNPOD_WEBHOOK_GET_JOB", o->get_job},
                {"RUNPOD_WEBHOOK_POST_OUTPUT", o->post_output},
                {"RUNPOD_WEBHOOK_POST_STREAM", o->post_stream},
                {"RUNPOD_WEBHOOK_PING", o->ping}};
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++)
        if (urls[i].url && strncmp(urls[i].url, "https://", 8) != 0 &&
            strncmp(urls[i].url, "http://", 7) != 0)
            return nb_fail(err, NB_ERR_ARGUMENT,
                           "%s is \"%.200s\", expected a URL that begins with https:// or http://",
                           urls[i].name, urls[i].url);
    return NB_OK;
}

static char *url_of(const char *variable, const char *pod_id) {
    return variable ? nb_url_with(variable, "$RUNPOD_POD_ID", pod_id) : NULL;
}

/* A URL to which "&name=value" can be added. */
static char *with_question(char *url) {
    if (!url || strchr(url, '?'))
        return url;
    struct nb_buf out = {0};
    nb_buf_printf(&out, "%s?", url);
    free(url);
    return out.data;
}

static char *with_path(const char *url, const char *from, const char *to) {
    const char *found = strstr(url, from);
    struct nb_buf out = {0};
    if (!found)
        return NULL;
    nb_buf_add(&out, url, (size_t)(found - url));
    nb_buf_add_string(&out, to);
    nb_buf_add_string(&out, found + strlen(from));
    if (out.failed)
        nb_buf_free(&out);
    return out.data;
}

static enum nb_status set_urls(struct nb_worker *w, struct nb_error *err) {
    const struct nb_worker_options *o = &w->options;
    char *take_base = url_of(o->get_job, w->pod_id);
    char *base = take_base ? nb_url_with(take_base, "$ID", w->pod_id) : NULL;
    free(take_base);
    /* The stop channel's URL is the poll's, as it was given: nothing is added to it. */
    w->stop_url = base ? with_path(base, "/job-take/", "/job-stop/") : NULL;
    w->take_url = with_question(base);
    w->take_batch_url =
        w->take_url ? with_path(w->take_url, "/job-take/", "/job-take-batch/") : NULL;
    w->output_url = url_of(o->post_output, w->pod_id);
    w->stream_url = url_of(o->post_stream, w->pod_id);
    bool pings = o->ping && o->api_key && o->pod_id;
    w->ping_url = pings ? url_of(o->ping, w->pod_id) : NULL;
    struct nb_buf header = {0};
    if (o->api_key) {
        if (strpbrk(o->api_key, "\r\n"))
            return nb_fail(err, NB_ERR_ARGUMENT, "RUNPOD_AI_API_KEY holds a line break");
        nb_buf_printf(&header, "Authorization: %s", o->api_key);
    }
    w->authorization = header.data;
    if (!w->take_url || !w->output_url || (o->post_stream && !w->stream_url) ||
        (pings && !w->ping_url) || header.failed)
        return nb_fail_memory(err, 1, "the queue's URLs");
    if (!w->stop_url)
        nb_log(NB_LOG_WARN,
               "event=start no \"/job-take/\" in RUNPOD_WEBHOOK_GET_JOB: jobs are taken "
               "one at a time, and cannot be stopped");
    if (!pings)
        nb_log(NB_LOG_WARN, "event=start no heartbeats: they need RUNPOD_WEBHOOK_PING, "
                            "RUNPOD_AI_API_KEY and RUNPOD_POD_ID");
    return NB_OK;
}

/* ---- fitness ---- */

struct report {
    struct nb_client *client;
    struct nb_post post;
    char *url;
    const char *authorization;
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool over;
};

static void on_reported(void *context, const struct nb_client_answer *a) {
    struct report *r = context;
    (void)a;
    pthread_mutex_lock(&r->lock);
    r->over = true;
    pthread_cond_signal(&r->done);
    pthread_mutex_unlock(&r->lock);
}

static void send_report(void *context) {
    struct report *r = context;
    struct nb_client_request request = {
        .url = r->url,
        .headers = {r->authorization},
        .timeout_s = REPORT_S,
        .max_bytes = MAX_SMALL_BYTES,
        .on_done = on_reported,
        .context = r,
    };
    if (!nb_client_begin(r->client, &request, NULL))
        on_reported(r, NULL);
}

void nb_worker_report_unhealthy(const struct nb_worker_options *o, const char *check,
                                const char *reason) {
    nb_log(NB_LOG_ERROR, "event=unhealthy check=%s %s", check, reason);
    if (!o->ping || !o->api_key || !o->pod_id || strpbrk(o->api_key, "\r\n"))
        return;
    char short_reason[257];
    snprintf(short_reason, sizeof short_reason, "%s", reason);
    struct nb_buf url = {0}, header = {0};
    char *base = url_of(o->ping, o->pod_id);
    nb_buf_add_string(&url, base ? base : "");
    add_query(&url, "status", "unhealthy");
    add_query(&url, "check", check);
    add_query(&url, "reason", short_reason);
    add_query(&url, "runpod_version", library_version);
    nb_buf_printf(&header, "Authorization: %s", o->api_key);
    struct report r = {.url = url.data, .authorization = header.data};
    r.post = (struct nb_post){.fn = send_report, .context = &r};
    if (base && !url.failed && !header.failed && nb_client_open(&r.client, NULL) == NB_OK) {
        pthread_mutex_init(&r.lock, NULL);
        pthread_cond_init(&r.done, NULL);
        nb_client_post(r.client, &r.post);
        pthread_mutex_lock(&r.lock);
        while (!r.over)
            pthread_cond_wait(&r.done, &r.lock);
        pthread_mutex_unlock(&r.lock);
        nb_client_close(r.client);
        pthread_cond_destroy(&r.done);
        pthread_mutex_destroy(&r.lock);
    }
    nb_buf_free(&url);
    nb_buf_free(&header);
    free(base);
}

struct trial {
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool over;
    enum nb_status status;
    struct nb_error err;
};

static void on_tried(void *context, struct nb_answer *answer) {
    struct trial *t = context;
    pthread_mutex_lock(&t->lock);
    t->over = true;
    t->status = answer->status;
    if (answer->error)
        t->err = *answer->error;
    else if (answer->generation->n_tokens != 1)
        t->status = nb_fail(&t->err, NB_ERR_INTERNAL, "the model gave %zu tokens, expected 1",
                            answer->generation->n_tokens);
    pthread_cond_signal(&t->done);
    pthread_mutex_unlock(&t->lock);
}

/* A token, drawn as those of jobs will be. */
static enum nb_status try_model(struct nb_worker *w, struct nb_error *err) {
    static const int32_t prompt[] = {0};
    struct trial t = {.status = NB_OK};
    pthread_mutex_init(&t.lock, NULL);
    pthread_cond_init(&t.done, NULL);
    struct nb_request request = {
        .options = {.prompt_ids = prompt, .n_prompt_ids = 1, .max_tokens = 1, .ignore_eos = true},
        .timeout_ms = FITNESS_S * 1000,
        .on_done = on_tried,
        .context = &t,
    };
    enum nb_status s = nb_scheduler_submit(w->service->scheduler, &request, NULL, err);
    if (s == NB_OK) {
        pthread_mutex_lock(&t.lock);
        while (!t.over)
            pthread_cond_wait(&t.done, &t.lock);
        pthread_mutex_unlock(&t.lock);
        s = t.status;
        if (s != NB_OK)
            *err = t.err;
    }
    pthread_cond_destroy(&t.done);
    pthread_mutex_destroy(&t.lock);
    return s;
}

/* ---- the worker ---- */

/* Where a volume of RunPod's is, results survive the container. */
static void default_outbox(const char *pod_id, char *out, size_t size) {
    static const char volume[] = "/runpod-volume";
    if (nb_is_folder(volume) && access(volume, W_OK) == 0)
        snprintf(out, size, "%s/nibble/outbox/%s", volume, pod_id);
    else
        snprintf(out, size, "/var/tmp/nibble-%lu/outbox/%s", (unsigned long)getuid(), pod_id);
}

static enum nb_status open_outbox(struct nb_worker *w, struct nb_error *err) {
    char folder[PATH_MAX], name[128];
    snprintf(name, sizeof name, "%s", w->pod_id);
    for (char *c = name; *c; c++) {
        if (*c == '/' || *c == '.')
            *c = '_';
    }
    if (w->options.outbox)
        snprintf(folder, sizeof folder, "%s", w->options.outbox);
    else
        default_outbox(name, folder, sizeof folder);
    return nb_outbox_open(folder, &w->outbox, err);
}

static enum nb_status open_parts(struct nb_engine *engine, struct nb_worker *w, const char **check,
                                 struct nb_error *err) {
    struct nb_service_options service = w->options.service;
    service.no_listener = true;
    *check = "configuration";
    enum nb_status s = set_urls(w, err);
    if (s == NB_OK)
        s = nb_guard_open(w->options.allow, &w->guard, err);
    if (s == NB_OK) {
        *check = "outbox";
        s = open_outbox(w, err);
    }
    if (s == NB_OK) {
        *check = "service";
        s = nb_service_open(engine, &service, &w->service, err);
    }
    if (s == NB_OK) {
        *check = "model";
        struct nb_device device;
        nb_engine_device(engine, &device);
        if (device.memory_bytes == 0) /* a GPU has its own copy */
            s = nb_files_open(engine->folder, &w->files, err);
    }
    if (s == NB_OK)
        s = try_model(w, err);
    if (s == NB_OK) {
        *check = "service";
        s = nb_errands_open(run_job, w, &w->starts, err);
    }
    if (s == NB_OK)
        s = nb_client_open(&w->client, err);
    struct nb_delivery_options how = {
        .client = w->client,
        .outbox = w->outbox,
        .guard = w->guard,
        .output_url = w->output_url,
        .authorization = w->authorization,
        .on_change = on_delivery,
        .context = w,
    };
    return s == NB_OK ? nb_deliveries_open(&how, &w->deliveries, err) : s;
}

enum nb_status nb_worker_open(struct nb_engine *engine, const struct nb_worker_options *options,
                              struct nb_worker **out, struct nb_error *err) {
    *out = NULL;
    struct nb_worker *w = calloc(1, sizeof *w);
    if (!w)
        return nb_fail_memory(err, sizeof *w, "the worker");
    w->options = *options;
    if (w->options.ping_interval_s <= 0)
        w->options.ping_interval_s = DEFAULT_PING_S;
    w->slots = options->service.max_running ? options->service.max_running : DEFAULT_SLOTS;
    if (options->pod_id)
        snprintf(w->pod_id, sizeof w->pod_id, "%s", options->pod_id);
    else
        snprintf(w->pod_id, sizeof w->pod_id, "nibble-%lx-%llx", (unsigned long)getpid(),
                 (unsigned long long)nb_now_us());
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    w->take.timer = (struct nb_timer){.fn = take, .context = w};
    w->stop.timer = (struct nb_timer){.fn = poll_stop, .context = w};
    w->files_timer = (struct nb_timer){.fn = look_at_files, .context = w};
    w->ping_timer = (struct nb_timer){.fn = ping, .context = w};
    w->begin = (struct nb_post){.fn = begin, .context = w};
    w->end = (struct nb_post){.fn = on_end, .context = w};
    w->give_up = (struct nb_post){.fn = on_give_up, .context = w};
    const char *check;
    enum nb_status s = open_parts(engine, w, &check, err);
    if (s != NB_OK) {
        nb_worker_report_unhealthy(options, check, err->message);
        nb_worker_close(w);
        return s;
    }
    nb_client_post(w->client, &w->begin);
    *out = w;
    return NB_OK;
}

bool nb_worker_broken(struct nb_worker *w) {
    pthread_mutex_lock(&w->lock);
    bool broken = w->broken;
    pthread_mutex_unlock(&w->lock);
    return broken;
}

enum nb_status nb_worker_reload(struct nb_worker *w, struct nb_error *err) {
    return nb_service_reload(w->service, err);
}

/* Waits for a flag under the lock; whether it came. */
static bool wait_for(struct nb_worker *w, const bool *flag, double seconds) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)seconds;
    until.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    if (until.tv_nsec >= 1000000000L) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000L;
    }
    pthread_mutex_lock(&w->lock);
    while (!*flag && pthread_cond_timedwait(&w->wake, &w->lock, &until) == 0)
        ;
    bool came = *flag;
    pthread_mutex_unlock(&w->lock);
    return came;
}

bool nb_worker_drain(struct nb_worker *w, double timeout_s) {
    nb_client_post(w->client, &w->end);
    if (wait_for(w, &w->drained, timeout_s))
        return true;
    nb_client_post(w->client, &w->give_up);
    wait_for(w, &w->gone, CANCEL_S);
    return false;
}

void nb_worker_close(struct nb_worker *w) {
    if (!w)
        return;
    nb_errands_close(w->starts);
    if (w->client)
        nb_client_stop(w->client);
    nb_service_close(w->service);
    while (w->jobs)
        drop_job(w->jobs);
    nb_deliveries_close(w->deliveries);
    nb_client_close(w->client);
    nb_outbox_close(w->outbox);
    nb_guard_close(w->guard);
    nb_files_close(w->files);
    free(w->take_url);
    free(w->take_batch_url);
    free(w->stop_url);
    free(w->output_url);
    free(w->stream_url);
    free(w->ping_url);
    free(w->authorization);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->wake);
    free(w);
}
