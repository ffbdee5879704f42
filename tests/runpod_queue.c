/* A stand-in for RunPod's control plane: the queue that serverless workers take jobs from, and what
 * their callers see of it. tests/slow/test_runpod_library.py shows that PyPI's own worker gets on
 * with it.
 *
 *     runpod_queue [--port N] [--key KEY] [--lease-ms N] [--poll-ms N]
 *
 * prints "listens on http://127.0.0.1:PORT" and serves
 *
 *     /v2/e/job-take/WORKER, /v2/e/job-take-batch/WORKER, /v2/e/job-stop/WORKER,
 *     /v2/e/job-done/WORKER/ID, /v2/e/job-stream/WORKER/ID, /v2/e/ping/WORKER    for workers
 *     POST /run          {"input", "id"?} → {"id"}
 *     POST /fill?n=N     N jobs of one input, job-000000 and so on
 *     POST /raw?id=ID    a job whose input is the body, whatever it is
 *     GET  /status/ID    its state, result, parts, how often it was taken and answered
 *     POST /cancel/ID    tells its worker to stop it
 *     POST /fault?on=take|done|stream|stop|ping&kind=KIND&n=N[&retry_after=S]
 *                        the next N such requests go wrong: a status, or "garbage", "empty",
 *                        "other" (JSON, but no job),
 *                        "nothing" (held for a second, then closed), "drop" (closed), "half" (done,
 *                        the answer breaks off), "lost" (done, closed without an answer)
 *     POST /fault?clear=1
 *     GET  /stats        counts of all that happened
 *     POST /callback/NAME?fail=N  takes callbacks, N times with 500; GET has them
 *     /redirect?to=URL   302
 *
 * A job that its worker's heartbeats do not name for the time of a lease goes back to the queue.
 */
#include <jansson.h>
#include <microhttpd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum state { QUEUED, IN_PROGRESS, COMPLETED, FAILED, CANCELLED };
static const char *const state_names[] = {"IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED",
                                          "CANCELLED"};

struct job {
    char *id;
    char *input; /* JSON */
    enum state state;
    char worker[128];
    int64_t lease_us; /* when it goes back */
    int taken, posts, accepted;
    char *result;
    bool stream;
    json_t *parts;
    bool stop;         /* its worker is to be told */
    struct job *next;  /* in the queue */
    struct job *chain; /* in the table */
};

struct fault {
    char on[16], kind[16];
    int n, retry_after;
};

enum { TABLE = 1 << 15, FAULTS = 32 };

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    const char *key;
    int64_t lease_us, poll_us;
    struct job *table[TABLE];
    struct job *first, **last;
    size_t n_jobs;
    struct fault faults[FAULTS];
    json_t *callbacks; /* name → list */
    json_t *unhealthy;
    json_int_t redelivered, posts, repeated, conflicting, late, strangers, unauthorized, malformed,
        pings, takes, batch_takes, largest_batch, stop_polls, parts, faulted, busy_takes;
    int by_state[5];
} q = {.lock = PTHREAD_MUTEX_INITIALIZER};

static int64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* ---- jobs, under the lock ---- */

static struct job **slot(const char *id) {
    uint32_t h = 2166136261u;
    for (const char *c = id; *c; c++)
        h = (h ^ (unsigned char)*c) * 16777619u;
    return &q.table[h % TABLE];
}

static struct job *find(const char *id) {
    struct job *j = *slot(id);
    while (j && strcmp(j->id, id) != 0)
        j = j->chain;
    return j;
}

static void set_state(struct job *j, enum state state) {
    q.by_state[j->state]--;
    j->state = state;
    q.by_state[state]++;
    pthread_cond_broadcast(&q.changed);
}

static void enqueue(struct job *j, bool front) {
    if (front) {
        j->next = q.first;
        q.first = j;
        if (!j->next)
            q.last = &j->next;
    } else {
        j->next = NULL;
        *q.last = j;
        q.last = &j->next;
    }
    pthread_cond_broadcast(&q.changed);
}

static void dequeue(struct job *j) {
    struct job **at = &q.first;
    while (*at && *at != j)
        at = &(*at)->next;
    if (*at)
        *at = j->next;
    if (!*at)
        q.last = at;
}

static struct job *add(const char *id, const char *input) {
    struct job *j = calloc(1, sizeof *j);
    j->id = strdup(id);
    j->input = strdup(input);
    j->parts = json_array();
    j->chain = *slot(id);
    *slot(id) = j;
    q.n_jobs++;
    q.by_state[QUEUED]++;
    enqueue(j, false);
    return j;
}

/* Jobs whose worker says nothing of them any more. */
static void *watch_leases(void *context) {
    (void)context;
    for (;;) {
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
        pthread_mutex_lock(&q.lock);
        int64_t now = now_us();
        for (size_t i = 0; i < TABLE; i++) {
            for (struct job *j = q.table[i]; j; j = j->chain) {
                if (j->state != IN_PROGRESS || j->lease_us > now)
                    continue;
                set_state(j, QUEUED);
                enqueue(j, true);
                q.redelivered++;
            }
        }
        pthread_mutex_unlock(&q.lock);
    }
    return NULL;
}

/* ---- requests ---- */

struct request {
    char *body;
    size_t n;
};

struct answer {
    int status;
    char *body; /* owned */
    const char *type;
    const char *location;
    int retry_after;
    bool drop, half;
};

static const char *query(struct MHD_Connection *c, const char *name) {
    return MHD_lookup_connection_value(c, MHD_GET_ARGUMENT_KIND, name);
}

static int number(struct MHD_Connection *c, const char *name, int other) {
    const char *text = query(c, name);
    return text ? atoi(text) : other;
}

static struct answer json_answer(int status, json_t *body) {
    struct answer a = {.status = status, .body = json_dumps(body, JSON_COMPACT)};
    json_decref(body);
    return a;
}

static struct answer none(int status) {
    return (struct answer){.status = status, .body = strdup("")};
}

static char *job_text(const struct job *j) {
    char *text = NULL;
    if (asprintf(&text, "{\"id\":\"%s\",\"input\":%s}", j->id, j->input) < 0)
        abort();
    return text;
}

static void wait_until(int64_t until) {
    struct timespec t = {.tv_sec = until / 1000000, .tv_nsec = until % 1000000 * 1000};
    pthread_cond_timedwait(&q.changed, &q.lock, &t);
}

/* Whether the worker that asked has closed its connection since. */
static bool is_gone(struct MHD_Connection *c) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct pollfd fd = {.fd = info->connect_fd, .events = POLLRDHUP};
    return poll(&fd, 1, 0) > 0 && fd.revents & (POLLRDHUP | POLLHUP | POLLERR);
}

static struct answer take(struct MHD_Connection *c, const char *worker, bool batch) {
    int want = batch ? number(c, "batch_size", 0) : 1, got = 0;
    const char *busy = query(c, "job_in_progress");
    q.takes++;
    q.batch_takes += batch;
    if (want < 1 || !busy || (strcmp(busy, "0") != 0 && strcmp(busy, "1") != 0)) {
        q.malformed++;
        return none(422);
    }
    q.busy_takes += busy[0] == '1';
    int64_t until = now_us() + q.poll_us;
    while (!q.first && now_us() < until)
        wait_until(until);
    if (!q.first || is_gone(c))
        return none(204);
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    if (batch)
        fputc('[', out);
    while (q.first && got < want) {
        struct job *j = q.first;
        dequeue(j);
        set_state(j, IN_PROGRESS);
        snprintf(j->worker, sizeof j->worker, "%s", worker);
        j->lease_us = now_us() + q.lease_us;
        j->taken++;
        j->stop = false;
        char *one = job_text(j);
        fprintf(out, "%s%s", got ? "," : "", one);
        free(one);
        got++;
    }
    if (batch)
        fputc(']', out);
    fclose(out);
    q.largest_batch = got > q.largest_batch ? got : q.largest_batch;
    return (struct answer){.status = 200, .body = text};
}

/* A result. One for a job that is answered already changes nothing. */
static struct answer done(struct MHD_Connection *c, const char *worker, const char *id,
                          const struct request *r) {
    struct job *j = find(id);
    json_error_t why;
    json_t *body = json_loadb(r->body, r->n, JSON_ALLOW_NUL, &why);
    const char *type = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Type"),
               *named = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "X-Request-ID"),
               *stream = query(c, "isStream");
    q.posts++;
    bool fine = json_is_object(body) && type &&
                strcmp(type, "application/x-www-form-urlencoded") == 0 && named &&
                strcmp(named, id) == 0 && stream;
    json_t *error = json_object_get(body, "error");
    bool failed = error && !json_is_null(error);
    json_decref(body);
    if (!j)
        return none(404);
    j->posts++;
    if (!fine) {
        q.malformed++;
        return none(400);
    }
    if (j->state == CANCELLED) {
        q.late++;
        return none(410);
    }
    if (j->state == COMPLETED || j->state == FAILED) {
        q.repeated++;
        q.conflicting += strcmp(j->result, r->body) != 0;
        return none(200);
    }
    q.strangers += strcmp(j->worker, worker) != 0;
    if (j->state == QUEUED) /* its worker was thought to be gone */
        dequeue(j);
    j->accepted++;
    j->result = strdup(r->body);
    j->stream = strcmp(stream, "true") == 0;
    set_state(j, failed ? FAILED : COMPLETED);
    return none(200);
}

static struct answer stream(const char *id, const struct request *r) {
    struct job *j = find(id);
    json_error_t why;
    json_t *body = json_loadb(r->body, r->n, JSON_ALLOW_NUL, &why);
    if (!j || !body) {
        q.malformed++;
        json_decref(body);
        return none(400);
    }
    q.parts++;
    json_array_append_new(j->parts, body);
    return none(200);
}

static struct answer stop_poll(const char *worker) {
    int64_t until = now_us() + q.poll_us;
    q.stop_polls++;
    for (;;) {
        json_t *ids = json_array();
        for (size_t i = 0; i < TABLE; i++) {
            for (struct job *j = q.table[i]; j; j = j->chain) {
                if (j->stop && strcmp(j->worker, worker) == 0) {
                    json_array_append_new(ids, json_string(j->id));
                    j->stop = false;
                }
            }
        }
        if (json_array_size(ids))
            return json_answer(200, json_pack("{s:o}", "jobsToStop", ids));
        json_decref(ids);
        if (now_us() >= until)
            return none(204);
        wait_until(until);
    }
}

static struct answer ping(struct MHD_Connection *c, const char *worker) {
    const char *ids = query(c, "job_id"), *status = query(c, "status");
    q.pings++;
    if (!query(c, "runpod_version"))
        q.malformed++;
    if (status)
        json_array_append_new(q.unhealthy,
                              json_pack("{s:s, s:s?, s:s?}", "worker", worker, "check",
                                        query(c, "check"), "reason", query(c, "reason")));
    char *list = strdup(ids ? ids : ""), *rest = list, *id;
    while ((id = strtok_r(rest, ",", &rest))) {
        struct job *j = find(id);
        if (j && j->state == IN_PROGRESS && strcmp(j->worker, worker) == 0)
            j->lease_us = now_us() + q.lease_us;
    }
    free(list);
    return none(200);
}

/* ---- the callers' side ---- */

static struct answer run(const struct request *r) {
    json_error_t why;
    json_t *body = json_loadb(r->body, r->n, JSON_ALLOW_NUL, &why);
    json_t *input = json_object_get(body, "input");
    const char *given = json_string_value(json_object_get(body, "id"));
    char id[300];
    snprintf(id, sizeof id, "%s", given ? given : "");
    if (!given)
        snprintf(id, sizeof id, "run-%06zu", q.n_jobs);
    if (!input || find(id)) {
        json_decref(body);
        return none(400);
    }
    char *text = json_dumps(input, JSON_COMPACT | JSON_ENCODE_ANY);
    add(id, text);
    free(text);
    json_decref(body);
    return json_answer(200, json_pack("{s:s}", "id", id));
}

static struct answer fill(struct MHD_Connection *c, const struct request *r) {
    int n = number(c, "n", 1);
    char id[32];
    for (int i = 0; i < n; i++) {
        snprintf(id, sizeof id, "job-%06d", i);
        if (!find(id))
            add(id, r->body);
    }
    return json_answer(200, json_pack("{s:i}", "n", n));
}

/* An input as it is. */
static struct answer raw(struct MHD_Connection *c, const struct request *r) {
    add(query(c, "id"), r->body);
    return none(200);
}

static struct answer status(const char *id) {
    struct job *j = find(id);
    json_error_t why;
    if (!j)
        return none(404);
    json_t *result = j->result ? json_loads(j->result, JSON_ALLOW_NUL, &why) : json_null();
    return json_answer(200,
                       json_pack("{s:s, s:s, s:s, s:i, s:i, s:i, s:b, s:o, s:O}", "id", j->id,
                                 "status", state_names[j->state], "worker", j->worker, "taken",
                                 j->taken, "posts", j->posts, "accepted", j->accepted, "is_stream",
                                 (int)j->stream, "result", result, "stream", j->parts));
}

static struct answer cancel(const char *id) {
    struct job *j = find(id);
    if (!j || j->state > IN_PROGRESS)
        return none(404);
    if (j->state == QUEUED)
        dequeue(j);
    j->stop = j->state == IN_PROGRESS;
    set_state(j, CANCELLED);
    return none(200);
}

static struct answer stats(void) {
    json_t *more = json_array();
    int not_once = 0;
    for (size_t i = 0; i < TABLE; i++) {
        for (struct job *j = q.table[i]; j; j = j->chain)
            not_once += j->accepted != 1;
    }
    json_decref(more);
    return json_answer(
        200,
        json_pack("{s:i, s:i, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
                  "s:I, s:I, s:I, s:I, s:I, s:i, s:O}",
                  "queued", q.by_state[QUEUED], "in_progress", q.by_state[IN_PROGRESS], "completed",
                  q.by_state[COMPLETED], "failed", q.by_state[FAILED], "cancelled",
                  q.by_state[CANCELLED], "redelivered", q.redelivered, "posts", q.posts, "repeated",
                  q.repeated, "conflicting", q.conflicting, "late", q.late, "strangers",
                  q.strangers, "unauthorized", q.unauthorized, "malformed", q.malformed, "pings",
                  q.pings, "takes", q.takes, "batch_takes", q.batch_takes, "largest_batch",
                  q.largest_batch, "stop_polls", q.stop_polls, "parts", q.parts, "faulted",
                  q.faulted, "not_once", not_once, "unhealthy", q.unhealthy));
}

static struct answer set_fault(struct MHD_Connection *c) {
    if (query(c, "clear")) {
        memset(q.faults, 0, sizeof q.faults);
        return none(200);
    }
    for (int i = 0; i < FAULTS; i++) {
        struct fault *f = &q.faults[i];
        if (f->n)
            continue;
        snprintf(f->on, sizeof f->on, "%s", query(c, "on") ? query(c, "on") : "take");
        snprintf(f->kind, sizeof f->kind, "%s", query(c, "kind") ? query(c, "kind") : "500");
        f->n = number(c, "n", 1);
        f->retry_after = number(c, "retry_after", 0);
        return none(200);
    }
    return none(507);
}

static struct answer callback(struct MHD_Connection *c, const char *method, const char *name,
                              const struct request *r) {
    json_t *list = json_object_get(q.callbacks, name);
    if (!list) {
        list = json_array();
        json_object_set_new(q.callbacks, name, list);
    }
    if (strcmp(method, "GET") == 0)
        return json_answer(200, json_incref(list));
    json_error_t why;
    json_t *body = json_loadb(r->body, r->n, JSON_ALLOW_NUL, &why);
    json_array_append_new(list, body ? body : json_null());
    return none((int)json_array_size(list) <= number(c, "fail", 0) ? 500 : 200);
}

/* ---- dispatch ---- */

/* The fault that the next request of this kind is to have; false: none. */
static bool next_fault(const char *on, struct fault *out) {
    for (int i = 0; i < FAULTS; i++) {
        if (q.faults[i].n && strcmp(q.faults[i].on, on) == 0) {
            *out = q.faults[i];
            q.faults[i].n--;
            q.faulted++;
            return true;
        }
    }
    return false;
}

static struct answer for_worker(struct MHD_Connection *c, const char *kind, const char *worker,
                                const char *id, const struct request *r) {
    if (strcmp(kind, "job-take") == 0 || strcmp(kind, "job-take-batch") == 0)
        return take(c, worker, kind[8] != 0);
    if (strcmp(kind, "job-done") == 0)
        return done(c, worker, id, r);
    if (strcmp(kind, "job-stream") == 0)
        return stream(id, r);
    if (strcmp(kind, "job-stop") == 0)
        return stop_poll(worker);
    return strcmp(kind, "ping") == 0 ? ping(c, worker) : none(404);
}

static struct answer workers(struct MHD_Connection *c, const char *path, const struct request *r) {
    char kind[32] = "", worker[128] = "", id[300] = "";
    struct fault f = {.n = 0};
    sscanf(path, "%31[^/]/%127[^/]/%299[^/]", kind, worker, id);
    const char *key = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Authorization");
    if (q.key && (!key || strcmp(key, q.key) != 0)) {
        q.unauthorized++;
        return none(401);
    }
    const char *on = strncmp(kind, "job-", 4) == 0 ? kind + 4 : kind;
    if (!next_fault(strncmp(on, "take", 4) == 0 ? "take" : on, &f))
        return for_worker(c, kind, worker, id, r);
    struct answer a = none(200);
    a.retry_after = f.retry_after;
    if (f.kind[0] >= '0' && f.kind[0] <= '9') {
        a.status = atoi(f.kind);
    } else if (strcmp(f.kind, "garbage") == 0) {
        free(a.body);
        a.body = strdup("{\"id\": \"x\", \"inp\xff\x00[[[");
    } else if (strcmp(f.kind, "other") == 0) {
        free(a.body);
        a.body = strdup("{\"status\": \"ok\"}");
    } else if (strcmp(f.kind, "nothing") == 0) {
        pthread_mutex_unlock(&q.lock);
        sleep(1);
        pthread_mutex_lock(&q.lock);
        a.drop = true;
    } else if (strcmp(f.kind, "drop") == 0) {
        a.drop = true;
    } else if (strcmp(f.kind, "half") == 0 || strcmp(f.kind, "lost") == 0) {
        free(a.body);
        a = for_worker(c, kind, worker, id, r);
        a.half = f.kind[0] == 'h';
        a.drop = !a.half;
    }
    return a;
}

static struct answer dispatch(struct MHD_Connection *c, const char *method, const char *path,
                              const struct request *r) {
    static const char prefix[] = "/v2/e/";
    struct answer a;
    pthread_mutex_lock(&q.lock);
    if (strncmp(path, prefix, sizeof prefix - 1) == 0)
        a = workers(c, path + sizeof prefix - 1, r);
    else if (strcmp(path, "/run") == 0)
        a = run(r);
    else if (strcmp(path, "/fill") == 0)
        a = fill(c, r);
    else if (strcmp(path, "/raw") == 0)
        a = raw(c, r);
    else if (strncmp(path, "/status/", 8) == 0)
        a = status(path + 8);
    else if (strncmp(path, "/cancel/", 8) == 0)
        a = cancel(path + 8);
    else if (strcmp(path, "/stats") == 0)
        a = stats();
    else if (strcmp(path, "/fault") == 0)
        a = set_fault(c);
    else if (strncmp(path, "/callback/", 10) == 0)
        a = callback(c, method, path + 10, r);
    else if (strcmp(path, "/redirect") == 0)
        a = (struct answer){.status = 302, .body = strdup(""), .location = query(c, "to")};
    else
        a = none(404);
    pthread_mutex_unlock(&q.lock);
    return a;
}

struct half {
    char *body;
    size_t n, sent;
};

static ssize_t read_half(void *context, uint64_t position, char *out, size_t max) {
    (void)position;
    struct half *h = context;
    size_t left = h->n / 2 - h->sent, n = left < max ? left : max;
    if (!n)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    memcpy(out, h->body + h->sent, n);
    h->sent += n;
    return (ssize_t)n;
}

static void free_half(void *context) {
    free(((struct half *)context)->body);
    free(context);
}

static enum MHD_Result send_answer(struct MHD_Connection *c, struct answer *a) {
    if (a->drop) {
        free(a->body);
        return MHD_NO;
    }
    struct MHD_Response *response;
    if (a->half) {
        struct half *h = calloc(1, sizeof *h);
        if (!a->body[0]) {
            free(a->body);
            a->body = strdup("{\"nothing\": \"in here matters\"}");
        }
        h->body = a->body;
        h->n = strlen(a->body);
        response = MHD_create_response_from_callback(h->n, 4096, read_half, h, free_half);
    } else {
        response = MHD_create_response_from_buffer(strlen(a->body), a->body, MHD_RESPMEM_MUST_FREE);
    }
    MHD_add_response_header(response, "Content-Type", a->type ? a->type : "application/json");
    if (a->location)
        MHD_add_response_header(response, "Location", a->location);
    if (a->retry_after) {
        char text[16];
        snprintf(text, sizeof text, "%d", a->retry_after);
        MHD_add_response_header(response, "Retry-After", text);
    }
    enum MHD_Result sent = MHD_queue_response(c, (unsigned)a->status, response);
    MHD_destroy_response(response);
    return sent;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *c, const char *path,
                                  const char *method, const char *version, const char *data,
                                  size_t *n, void **own) {
    (void)context, (void)version;
    struct request *r = *own;
    if (!r) {
        *own = calloc(1, sizeof *r);
        return MHD_YES;
    }
    if (*n) {
        r->body = realloc(r->body, r->n + *n + 1);
        memcpy(r->body + r->n, data, *n);
        r->n += *n;
        r->body[r->n] = 0;
        *n = 0;
        return MHD_YES;
    }
    if (!r->body)
        r->body = calloc(1, 1);
    struct answer a = dispatch(c, method, path, r);
    return send_answer(c, &a);
}

static void on_completed(void *context, struct MHD_Connection *c, void **own,
                         enum MHD_RequestTerminationCode code) {
    (void)context, (void)c, (void)code;
    struct request *r = *own;
    if (r)
        free(r->body);
    free(r);
}

int main(int argc, char **argv) {
    int port = 0;
    q.lease_us = 3000000;
    q.poll_us = 2000000;
    q.last = &q.first;
    q.callbacks = json_object();
    q.unhealthy = json_array();
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--port") == 0)
            port = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--key") == 0)
            q.key = argv[i + 1];
        else if (strcmp(argv[i], "--lease-ms") == 0)
            q.lease_us = atoll(argv[i + 1]) * 1000;
        else if (strcmp(argv[i], "--poll-ms") == 0)
            q.poll_us = atoll(argv[i + 1]) * 1000;
    }
    signal(SIGPIPE, SIG_IGN);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&q.changed, &monotonic);
    struct MHD_Daemon *daemon =
        MHD_start_daemon(MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD,
                         (uint16_t)port, NULL, NULL, on_request, NULL, MHD_OPTION_NOTIFY_COMPLETED,
                         on_completed, NULL, MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)(1 << 16),
                         MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_END);
    pthread_t watcher;
    if (!daemon || pthread_create(&watcher, NULL, watch_leases, NULL) != 0)
        return 1;
    printf("listens on http://127.0.0.1:%d\n",
           (int)MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT)->port);
    fflush(stdout);
    for (;;)
        pause();
}
