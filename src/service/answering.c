#include "service/answering.h"

#include "base/clock.h"
#include "service/service_impl.h"

#include <stdlib.h>
#include <string.h>

struct nb_answering *nb_answering_new(struct nb_service *service, struct nb_exchange *exchange,
                                      uint64_t client, size_t context_bytes) {
    struct nb_answering *a = calloc(1, sizeof *a);
    void *route_context = calloc(1, context_bytes);
    if (!a || !route_context) {
        free(a);
        free(route_context);
        nb_auth_leave(service->auth, client);
        return NULL;
    }
    a->service = service;
    a->exchange = exchange;
    a->client = client;
    a->route_context = route_context;
    a->n_choices = 1;
    a->calls_token = -1;
    a->timeout_ms = service->options.timeout_s * 1000;
    pthread_mutex_init(&a->lock, NULL);
    nb_exchange_retain(exchange);
    return a;
}

void nb_answering_free(struct nb_answering *a) {
    for (int i = 0; i < NB_MAX_CHOICES; i++) {
        nb_buf_free(&a->choices[i].text);
        nb_generation_free(&a->choices[i].generation);
    }
    json_decref(a->body);
    nb_buf_free(&a->prompt);
    nb_tokens_free(&a->prompt_ids);
    nb_grammar_release(a->grammar);
    free(a->route_context);
    pthread_mutex_destroy(&a->lock);
    nb_auth_leave(a->service->auth, a->client);
    nb_exchange_release(a->exchange);
    free(a);
}

/* How much of a text can be told: up to a stop string, or to what may become one. */
static size_t certain(const struct nb_answering *a, struct nb_choice *c) {
    if (c->end != SIZE_MAX)
        return c->end;
    size_t held = 0;
    for (size_t i = 0; i < a->n_stop; i++) {
        size_t n = strlen(a->stop[i]), from = c->told;
        const char *found = c->text.len > from
                                ? memmem(c->text.data + from, c->text.len - from, a->stop[i], n)
                                : NULL;
        if (found) {
            size_t at = (size_t)(found - c->text.data);
            c->end = at < c->end ? at : c->end;
        }
        for (size_t k = n - 1; k > held; k--) {
            if (k <= c->text.len - c->told &&
                memcmp(c->text.data + c->text.len - k, a->stop[i], k) == 0) {
                held = k;
                break;
            }
        }
    }
    return c->end != SIZE_MAX ? c->end : c->text.len - held;
}

static void tell(struct nb_choice *c, size_t to) {
    struct nb_answering *a = c->answering;
    if (to > c->told && a->on_text)
        a->on_text(a, c, c->text.data + c->told, to - c->told);
    c->told = to > c->told ? to : c->told;
}

static bool on_token(void *context, int32_t id, const char *text, size_t n) {
    struct nb_choice *c = context;
    if (id >= 0) {
        int64_t now = nb_now_us();
        if (c->last_us)
            nb_metrics_observe(&c->answering->service->metrics,
                               &c->answering->service->metrics.token_gap,
                               (double)(now - c->last_us) / 1e6);
        c->last_us = now;
        if (id == c->answering->calls_token && c->calls_at == SIZE_MAX)
            c->calls_at = c->text.len;
    }
    nb_buf_add(&c->text, text, n);
    if (n)
        tell(c, certain(c->answering, c));
    return !c->text.failed;
}

static void on_logprobs(void *context, int32_t id, double logprob, const int32_t *top_ids,
                        const double *top_logprobs, size_t n_top) {
    struct nb_choice *c = context;
    c->answering->on_logprobs(c->answering, c, id, logprob, top_ids, top_logprobs, n_top);
}

const char *nb_choice_text(const struct nb_choice *c, size_t *n) {
    *n = c->end < c->text.len ? c->end : c->text.len;
    return c->text.data ? c->text.data : "";
}

/* The last choice is over, or was never begun. */
static void end(struct nb_answering *a) {
    nb_exchange_watch(a->exchange, NULL);
    a->on_over(a);
    nb_answering_free(a);
}

static bool count_down(struct nb_answering *a) {
    pthread_mutex_lock(&a->lock);
    bool last = --a->pending == 0;
    pthread_mutex_unlock(&a->lock);
    return last;
}

static void on_done(void *context, struct nb_answer *answer) {
    struct nb_choice *c = context;
    struct nb_answering *a = c->answering;
    c->over = true;
    c->status = answer->status;
    if (answer->error)
        c->error = *answer->error;
    c->generation = *answer->generation;
    *answer->generation = (struct nb_generation){0};
    c->cached_tokens = answer->cached_tokens;
    c->waiting_ms = answer->waiting_ms;
    c->first_token_ms = answer->first_token_ms;
    c->total_ms = answer->total_ms;
    struct nb_metrics *m = &a->service->metrics;
    nb_metrics_observe(m, &m->waiting, answer->waiting_ms / 1000);
    if (answer->first_token_ms > 0)
        nb_metrics_observe(m, &m->first_token, answer->first_token_ms / 1000);
    if (c->status == NB_OK) {
        size_t n;
        nb_choice_text(c, &n);
        tell(c, n);
    }
    if (count_down(a))
        end(a);
}

static void on_gone(struct nb_exchange *exchange) {
    struct nb_answering *a = exchange->context;
    pthread_mutex_lock(&a->lock);
    a->gone = true;
    for (int i = 0; i < a->n_choices; i++) {
        if (a->choices[i].id)
            nb_scheduler_cancel(a->service->scheduler, a->choices[i].id);
    }
    pthread_mutex_unlock(&a->lock);
}

/* Under the lock: hands a choice to the scheduler. */
static enum nb_status submit(struct nb_answering *a, struct nb_choice *c, struct nb_error *err) {
    struct nb_request request = {
        .options = a->options,
        .client = a->client,
        .timeout_ms = a->timeout_ms,
        .on_done = on_done,
        .context = c,
    };
    request.options.on_token = on_token;
    request.options.on_logprobs = a->on_logprobs ? on_logprobs : NULL;
    request.options.on_token_context = c;
    request.options.sampling.seed += (uint64_t)c->index;
    return nb_scheduler_submit(a->service->scheduler, &request, &c->id, err);
}

enum nb_status nb_answering_begin(struct nb_answering *a, struct nb_error *err) {
    a->options.stop = a->stop;
    a->options.n_stop = a->n_stop;
    if (a->prompt_ids.ids) {
        a->options.prompt_ids = a->prompt_ids.ids;
        a->options.n_prompt_ids = a->prompt_ids.n;
    }
    a->options.grammar = a->grammar;
    a->exchange->context = a;
    a->pending = 1; /* this function's own */
    enum nb_status s = NB_OK;
    pthread_mutex_lock(&a->lock);
    for (int i = 0; i < a->n_choices; i++) {
        struct nb_choice *c = &a->choices[i];
        *c = (struct nb_choice){.answering = a, .index = i, .end = SIZE_MAX, .calls_at = SIZE_MAX};
        a->pending++;
        s = submit(a, c, err);
        if (s == NB_OK)
            continue;
        a->pending--;
        c->over = true;
        c->status = s;
        c->error = *err;
        a->n_choices = i + 1;
        break;
    }
    bool none = s != NB_OK && a->n_choices == 1;
    for (int i = 0; s != NB_OK && i + 1 < a->n_choices; i++)
        nb_scheduler_cancel(a->service->scheduler, a->choices[i].id);
    pthread_mutex_unlock(&a->lock);
    if (none) {
        nb_answering_free(a);
        return s;
    }
    nb_exchange_watch(a->exchange, on_gone);
    if (count_down(a))
        end(a);
    return NB_OK;
}
