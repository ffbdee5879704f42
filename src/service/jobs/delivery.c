#include "service/jobs/delivery.h"

#include "base/clock.h"
#include "base/log.h"
#include "service/jobs/job.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double RESULT_TIMEOUT_S = 60, RESULT_BASE_S = 0.5, RESULT_MAX_S = 30,
                    LONGEST_ASKED_S = 60, CALLBACK_TIMEOUT_S = 15, CALLBACK_BASE_S = 2,
                    CALLBACK_MAX_S = 30;
enum { MAX_ANSWER_BYTES = 64 << 10, CALLBACK_ATTEMPTS = 6 };

struct delivery {
    struct nb_deliveries *all;
    char *job_id;
    bool stream;
    struct nb_buf result;
    bool kept;     /* on disk */
    bool replaced; /* it was too long for the queue: now it says so */
    unsigned failures;
    int64_t begun_us;
    struct nb_timer timer;
    struct nb_transfer *transfer;
    struct delivery *next;
};

struct callback {
    struct nb_deliveries *all;
    char *job_id, *url;
    struct nb_buf body;
    unsigned failures;
    struct nb_timer timer;
    struct nb_transfer *transfer;
    void (*then)(void *context);
    void *then_context;
    struct callback *next;
};

struct nb_deliveries {
    struct nb_delivery_options options;
    struct delivery *results;
    struct callback *callbacks;
};

/* ---- texts ---- */

char *nb_url_with(const char *url, const char *name, const char *value) {
    char *encoded = curl_easy_escape(NULL, value, (int)strlen(value));
    struct nb_buf out = {0};
    const char *at = url;
    for (const char *found; encoded && (found = strstr(at, name)); at = found + strlen(name)) {
        nb_buf_add(&out, at, (size_t)(found - at));
        nb_buf_add_string(&out, encoded);
    }
    nb_buf_add_string(&out, at);
    if (!encoded || out.failed)
        nb_buf_free(&out);
    curl_free(encoded);
    return out.data;
}

const char *nb_job_log_id(const char *job_id, char out[96]) {
    size_t n = 0;
    for (; job_id[n] && n < 95; n++) {
        char c = job_id[n];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                     c == '-' || c == '_' || c == '.' || c == ':';
        out[n] = plain ? c : '?';
    }
    out[n] = 0;
    return out;
}

/* A header may hold only what can be printed. */
static bool is_plain(const char *text) {
    for (; *text; text++) {
        if (*text < 0x20 || *text == 0x7f)
            return false;
    }
    return true;
}

struct nb_transfer *nb_job_post(struct nb_client *client, const struct nb_job_post *post,
                                struct nb_error *err) {
    struct nb_buf url = {0}, id = {0};
    char *base = nb_url_with(post->url, "$ID", post->job_id);
    if (base)
        nb_buf_printf(&url, "%s%cisStream=%s", base, strchr(base, '?') ? '&' : '?',
                      post->stream ? "true" : "false");
    nb_buf_printf(&id, "X-Request-ID: %s", post->job_id);
    bool fine = base && !url.failed && !id.failed && !post->body->failed;
    struct nb_client_request r = {
        .url = url.data,
        .headers = {"Content-Type: application/x-www-form-urlencoded", "charset: utf-8"},
        .body = post->body->data,
        .body_bytes = post->body->len,
        .timeout_s = post->timeout_s,
        .max_bytes = MAX_ANSWER_BYTES,
        .on_done = post->on_done,
        .context = post->context,
    };
    int n = 2;
    if (is_plain(post->job_id))
        r.headers[n++] = id.data;
    if (post->authorization)
        r.headers[n++] = post->authorization;
    struct nb_transfer *t = fine ? nb_client_begin(client, &r, err) : NULL;
    if (!fine)
        nb_fail_memory(err, post->body->len, "a job's result");
    nb_buf_free(&url);
    nb_buf_free(&id);
    free(base);
    return t;
}

/* ---- results ---- */

static void free_delivery(struct delivery *d) {
    nb_timer_clear(d->all->options.client, &d->timer);
    nb_transfer_cancel(d->transfer);
    nb_buf_free(&d->result);
    free(d->job_id);
    free(d);
}

static void remove_delivery(struct delivery *d) {
    struct nb_deliveries *all = d->all;
    struct delivery **at = &all->results;
    while (*at != d)
        at = &(*at)->next;
    *at = d->next;
    if (d->kept || d->failures) /* also one that its successor could not replace */
        nb_outbox_forget(all->options.outbox, d->job_id);
    free_delivery(d);
    all->options.on_change(all->options.context);
}

static void keep(struct delivery *d) {
    struct nb_error err;
    char id[96];
    bool was = d->kept;
    d->kept = nb_outbox_keep(d->all->options.outbox, d->job_id, d->stream, d->result.data,
                             d->result.len, &err) == NB_OK;
    nb_job_log_id(d->job_id, id);
    if (d->kept && !was)
        nb_log(NB_LOG_WARN, "event=kept job=%s bytes=%zu the result waits on disk", id,
               d->result.len);
    else if (!d->kept)
        nb_log(NB_LOG_ERROR, "event=not_kept job=%s the result waits in memory only: %s", id,
               err.message);
}

static void send_result(void *context);

static void try_again(struct delivery *d, double asked_s) {
    struct nb_deliveries *all = d->all;
    d->failures++;
    if (!d->kept)
        keep(d);
    double pause = nb_backoff_s(d->failures, RESULT_BASE_S, RESULT_MAX_S);
    if (asked_s > pause)
        pause = asked_s < LONGEST_ASKED_S ? asked_s : LONGEST_ASKED_S;
    nb_timer_set(all->options.client, &d->timer, pause);
    all->options.on_change(all->options.context);
}

/* The queue takes no result of this length: it gets an error that says so. */
static void replace(struct delivery *d) {
    struct nb_error err;
    nb_fail(&err, NB_ERR_LIMIT, "the result, of %zu bytes, is longer than the queue allows",
            d->result.len);
    nb_buf_clear(&d->result);
    nb_job_failure(&err, "ResultTooLong", &d->result);
    d->replaced = true;
    if (d->kept)
        keep(d);
    send_result(d);
}

/* What the queue will say every time. Others, such as 401 while a key is being changed, may pass.
 */
static bool is_final(int status) {
    return status == 400 || status == 404 || status == 405 || status == 409 || status == 410 ||
           status == 413 || status == 414 || status == 415 || status == 422;
}

static void on_sent(void *context, const struct nb_client_answer *a) {
    struct delivery *d = context;
    char id[96];
    d->transfer = NULL;
    nb_job_log_id(d->job_id, id);
    if (a->status >= 200 && a->status < 300) {
        nb_log(d->failures ? NB_LOG_INFO : NB_LOG_DEBUG,
               "event=delivered job=%s bytes=%zu attempts=%u ms=%.1f", id, d->result.len,
               d->failures + 1, (double)(nb_now_us() - d->begun_us) / 1000);
        remove_delivery(d);
    } else if (a->status == 413 && !d->replaced) {
        nb_log(NB_LOG_ERROR, "event=too_long job=%s bytes=%zu the queue does not take it", id,
               d->result.len);
        replace(d);
    } else if (is_final(a->status)) {
        nb_log(NB_LOG_ERROR, "event=unwanted job=%s status=%d the queue does not want the result",
               id, a->status);
        remove_delivery(d);
    } else {
        nb_log(NB_LOG_WARN, "event=undelivered job=%s status=%d attempt=%u %s", id, a->status,
               d->failures + 1, a->error);
        try_again(d, a->retry_after_s);
    }
}

static void send_result(void *context) {
    struct delivery *d = context;
    const struct nb_delivery_options *o = &d->all->options;
    struct nb_job_post post = {
        .url = o->output_url,
        .job_id = d->job_id,
        .authorization = o->authorization,
        .stream = d->stream,
        .body = &d->result,
        .timeout_s = RESULT_TIMEOUT_S,
        .on_done = on_sent,
        .context = d,
    };
    struct nb_error err;
    d->transfer = nb_job_post(o->client, &post, &err);
    if (!d->transfer) {
        nb_log(NB_LOG_ERROR, "event=undelivered %s", err.message);
        try_again(d, 0);
    }
}

enum nb_status nb_deliver(struct nb_deliveries *all, const char *job_id, bool stream,
                          struct nb_buf *result, bool kept, struct nb_error *err) {
    struct delivery *d = calloc(1, sizeof *d);
    char *id = strdup(job_id);
    if (!d || !id || result->failed || !result->data) {
        free(d);
        free(id);
        nb_buf_free(result);
        return nb_fail_memory(err, result->len, "a result");
    }
    *d = (struct delivery){
        .all = all,
        .job_id = id,
        .stream = stream,
        .result = *result,
        .kept = kept,
        .begun_us = nb_now_us(),
        .timer = {.fn = send_result, .context = d},
        .next = all->results,
    };
    *result = (struct nb_buf){0};
    all->results = d;
    send_result(d);
    return NB_OK;
}

bool nb_deliveries_hurry(struct nb_deliveries *all, const char *job_id) {
    for (struct delivery *d = all->results; d; d = d->next) {
        if (strcmp(d->job_id, job_id) != 0)
            continue;
        if (!d->transfer)
            nb_timer_set(all->options.client, &d->timer, 0);
        return true;
    }
    return false;
}

const char *nb_deliveries_next(const struct nb_deliveries *all, const char *previous) {
    const struct delivery *d = all->results;
    while (d && previous && d->job_id != previous)
        d = d->next;
    if (d && previous)
        d = d->next;
    return d ? d->job_id : NULL;
}

/* ---- callbacks ---- */

static void free_callback(struct callback *c) {
    nb_timer_clear(c->all->options.client, &c->timer);
    nb_transfer_cancel(c->transfer);
    nb_buf_free(&c->body);
    free(c->job_id);
    free(c->url);
    free(c);
}

static void remove_callback(struct callback *c) {
    struct nb_deliveries *all = c->all;
    struct callback **at = &all->callbacks;
    while (*at != c)
        at = &(*at)->next;
    *at = c->next;
    free_callback(c);
    all->options.on_change(all->options.context);
}

static void call_then(struct callback *c) {
    void (*then)(void *context) = c->then;
    c->then = NULL;
    if (then)
        then(c->then_context);
}

void nb_deliveries_follow(struct nb_deliveries *all) {
    for (struct callback *c = all->callbacks; c; c = c->next)
        call_then(c);
}

static void on_called(void *context, const struct nb_client_answer *a) {
    struct callback *c = context;
    char id[96];
    c->transfer = NULL;
    c->failures++;
    call_then(c);
    bool done = a->status >= 200 && a->status < 300;
    bool passes = a->status == 0 || a->status == 408 || a->status == 425 || a->status == 429 ||
                  a->status >= 500;
    bool again = !done && passes && !a->refused && c->failures < CALLBACK_ATTEMPTS;
    nb_log(done ? NB_LOG_INFO : NB_LOG_WARN,
           "event=callback job=%s outcome=%s status=%d attempt=%u %s", nb_job_log_id(c->job_id, id),
           done         ? "delivered"
           : a->refused ? "refused"
           : again      ? "retry"
                        : "failed",
           a->status, c->failures, a->error);
    if (!again) {
        remove_callback(c);
        return;
    }
    double pause = nb_backoff_s(c->failures, CALLBACK_BASE_S, CALLBACK_MAX_S);
    if (a->retry_after_s > pause)
        pause = a->retry_after_s < LONGEST_ASKED_S ? a->retry_after_s : LONGEST_ASKED_S;
    nb_timer_set(c->all->options.client, &c->timer, pause);
}

static void send_callback(void *context) {
    struct callback *c = context;
    struct nb_client_request r = {
        .url = c->url,
        .headers = {"Content-Type: application/json"},
        .body = c->body.data,
        .body_bytes = c->body.len,
        .timeout_s = CALLBACK_TIMEOUT_S,
        .max_bytes = MAX_ANSWER_BYTES,
        .guard = c->all->options.guard,
        .on_done = on_called,
        .context = c,
    };
    struct nb_error err;
    c->transfer = nb_client_begin(c->all->options.client, &r, &err);
    if (c->transfer)
        return;
    char id[96];
    nb_log(NB_LOG_WARN, "event=callback job=%s outcome=refused status=0 attempt=%u %s",
           nb_job_log_id(c->job_id, id), c->failures + 1, err.message);
    call_then(c);
    remove_callback(c);
}

enum nb_status nb_deliver_callback(struct nb_deliveries *all, const char *job_id, const char *url,
                                   struct nb_buf *body, void (*then)(void *context), void *context,
                                   struct nb_error *err) {
    struct callback *c = calloc(1, sizeof *c);
    char *id = strdup(job_id), *where = strdup(url);
    if (!c || !id || !where || body->failed || !body->data) {
        free(c);
        free(id);
        free(where);
        nb_buf_free(body);
        return nb_fail_memory(err, body->len, "a callback");
    }
    *c = (struct callback){
        .all = all,
        .job_id = id,
        .url = where,
        .body = *body,
        .timer = {.fn = send_callback, .context = c},
        .then = then,
        .then_context = context,
        .next = all->callbacks,
    };
    *body = (struct nb_buf){0};
    all->callbacks = c;
    send_callback(c);
    return NB_OK;
}

/* ---- all of them ---- */

enum nb_status nb_deliveries_open(const struct nb_delivery_options *options,
                                  struct nb_deliveries **out, struct nb_error *err) {
    *out = NULL;
    struct nb_deliveries *all = calloc(1, sizeof *all);
    if (!all)
        return nb_fail_memory(err, sizeof *all, "deliveries");
    all->options = *options;
    *out = all;
    return NB_OK;
}

void nb_deliveries_keep(struct nb_deliveries *all) {
    for (struct delivery *d = all->results; d; d = d->next) {
        if (!d->kept)
            keep(d);
    }
}

void nb_deliveries_close(struct nb_deliveries *all) {
    if (!all)
        return;
    while (all->results) {
        struct delivery *d = all->results;
        all->results = d->next;
        free_delivery(d);
    }
    while (all->callbacks) {
        struct callback *c = all->callbacks;
        all->callbacks = c->next;
        free_callback(c);
    }
    free(all);
}

struct nb_delivery_counts nb_deliveries_count(const struct nb_deliveries *all) {
    struct nb_delivery_counts n = {0};
    for (const struct delivery *d = all->results; d; d = d->next) {
        n.results++;
        n.unsafe += d->failures && !d->kept;
    }
    for (const struct callback *c = all->callbacks; c; c = c->next)
        n.callbacks++;
    return n;
}
