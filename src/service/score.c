/* POST /v1/score: the log probabilities of given continuations of a prompt.
 *
 *     {"prompt": text or ids, or "messages": [...], "continuations": [text or ids, ...]}
 *
 * docs/serve.md has the answer. Each continuation is a request of the scheduler's; what they share,
 * the prompt, is read once. */
#include "service/conversation.h"
#include "service/service_impl.h"

#include "engine/engine.h"
#include "model/json.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CONTINUATIONS = 64 };

struct scoring;

struct continuation {
    struct scoring *scoring;
    uint64_t id;          /* of the scheduler's */
    struct nb_tokens ids; /* of the prompt and of this */
    size_t n;             /* the last ones, which get scores */
    double *scores;       /* [n] */
    size_t cached_tokens;
    enum nb_status status;
    struct nb_error error;
};

struct scoring {
    struct nb_service *service;
    struct nb_exchange *exchange;
    uint64_t client;
    json_t *body;
    struct nb_tokens prompt;
    struct continuation *list; /* [n] */
    size_t n, submitted;
    pthread_mutex_t lock;
    size_t pending;
};

static void free_scoring(struct scoring *s) {
    for (size_t i = 0; s->list && i < s->n; i++) {
        nb_tokens_free(&s->list[i].ids);
        free(s->list[i].scores);
    }
    free(s->list);
    nb_tokens_free(&s->prompt);
    json_decref(s->body);
    pthread_mutex_destroy(&s->lock);
    nb_auth_leave(s->service->auth, s->client);
    nb_exchange_release(s->exchange);
    free(s);
}

/* ---- what is asked ---- */

/* Text or ids, appended to *out; `where` names it. flags: of the tokenizer, for text. */
static enum nb_status read_tokens(const struct scoring *s, const json_t *value, const char *where,
                                  unsigned flags, struct nb_tokens *out, struct nb_error *err) {
    const struct nb_engine *engine = s->service->engine;
    size_t held = out->n, i;
    const json_t *id;
    if (json_is_string(value)) {
        if (!engine->tokenizer)
            return nb_fail(err, NB_ERR_UNSUPPORTED,
                           "%s: this model has no tokenizer; give token ids", where);
        enum nb_status status = nb_tokenizer_encode(engine->tokenizer, json_string_value(value),
                                                    json_string_length(value), flags, out, err);
        if (status != NB_OK)
            return nb_fail_prefix(err, status, "%s", where);
    } else if (json_is_array(value)) {
        json_array_foreach(value, i, id) {
            json_int_t n = json_integer_value(id);
            if (!json_is_integer(id) || n < 0 || n >= engine->model.config.n_vocab)
                return nb_fail(err, NB_ERR_ARGUMENT, "%s[%zu]: expected a token id from 0 to %d",
                               where, i, engine->model.config.n_vocab - 1);
            if (!nb_tokens_add(out, (int32_t)n))
                return nb_fail_memory(err, out->n * sizeof(int32_t), where);
        }
    } else {
        return nb_fail(err, NB_ERR_ARGUMENT, "%s: expected a string or a list of token ids", where);
    }
    return out->n > held ? NB_OK : nb_fail(err, NB_ERR_ARGUMENT, "%s: is empty", where);
}

static enum nb_status read_continuation(struct scoring *s, const json_t *value, size_t i,
                                        struct nb_error *err) {
    struct continuation *c = &s->list[i];
    char where[40];
    snprintf(where, sizeof where, "continuations[%zu]", i);
    c->scoring = s;
    for (size_t k = 0; k < s->prompt.n; k++) {
        if (!nb_tokens_add(&c->ids, s->prompt.ids[k]))
            return nb_fail_memory(err, s->prompt.n * sizeof(int32_t), where);
    }
    enum nb_status status = read_tokens(s, value, where, NB_ENCODE_CONTINUE, &c->ids, err);
    if (status != NB_OK)
        return status;
    size_t context = (size_t)s->service->engine->context;
    if (c->ids.n > context)
        return nb_fail(err, NB_ERR_LIMIT,
                       "prompt: %zu tokens with continuations[%zu], but the context holds %zu",
                       c->ids.n, i, context);
    c->n = c->ids.n - s->prompt.n;
    c->scores = calloc(c->n, sizeof *c->scores);
    return c->scores ? NB_OK : nb_fail_memory(err, c->n * sizeof *c->scores, where);
}

static enum nb_status read_body(struct scoring *s, struct nb_error *err) {
    const json_t *prompt = json_object_get(s->body, "prompt"),
                 *messages = json_object_get(s->body, "messages"),
                 *list = json_object_get(s->body, "continuations");
    size_t n = json_is_array(list) ? json_array_size(list) : 0;
    if (n == 0 || n > MAX_CONTINUATIONS)
        return nb_fail(err, NB_ERR_ARGUMENT,
                       "continuations: expected a list of 1 to %d strings or lists of token ids",
                       MAX_CONTINUATIONS);
    if (!prompt == !messages)
        return nb_fail(err, NB_ERR_ARGUMENT, "expected one of prompt and messages");
    enum nb_status status =
        prompt ? read_tokens(s, prompt, "prompt", NB_ENCODE_SPECIAL | NB_ENCODE_TEMPLATE,
                             &s->prompt, err)
               : nb_conversation_encode(s->service, s->body, NULL, &s->prompt, err);
    if (status != NB_OK)
        return status;
    s->list = calloc(n, sizeof *s->list);
    if (!s->list)
        return nb_fail_memory(err, n * sizeof *s->list, "the continuations");
    s->n = n;
    for (size_t i = 0; i < n && status == NB_OK; i++)
        status = read_continuation(s, json_array_get(list, i), i, err);
    return status;
}

/* ---- the answer ---- */

static json_t *to_json(const struct scoring *s, size_t i) {
    const struct continuation *c = &s->list[i];
    json_t *tokens = json_array(), *ids = json_array(), *values = json_array();
    double sum = 0;
    for (size_t k = 0; k < c->n; k++) {
        int32_t id = c->ids.ids[s->prompt.n + k];
        /* JSON has no minus infinity. */
        double value = c->scores[k] > -9999 ? c->scores[k] : -9999;
        sum += value;
        json_array_append_new(values, json_real(value));
        json_array_append_new(ids, json_integer(id));
        json_array_append_new(tokens, nb_token_json(s->service, id));
    }
    return json_pack("{s:I, s:f, s:o, s:o, s:o}", "index", (json_int_t)i, "logprob", sum, "tokens",
                     tokens, "token_ids", ids, "token_logprobs", values);
}

static void end(struct scoring *s) {
    const struct continuation *failed = NULL;
    json_int_t scored = 0, cached = 0;
    for (size_t i = s->n; i-- > 0;) {
        failed = s->list[i].status != NB_OK ? &s->list[i] : failed;
        scored += (json_int_t)s->list[i].n;
        cached += (json_int_t)s->list[i].cached_tokens;
    }
    nb_exchange_watch(s->exchange, NULL);
    if (failed) {
        nb_answer_failure(s->exchange, &failed->error);
        free_scoring(s);
        return;
    }
    json_t *data = json_array();
    for (size_t i = 0; i < s->n; i++)
        json_array_append_new(data, to_json(s, i));
    json_int_t prompt = (json_int_t)s->prompt.n;
    nb_answer_json(s->exchange, 200,
                   json_pack("{s:s, s:s, s:o, s:{s:I, s:I, s:I, s:{s:I}}}", "object", "list",
                             "model", s->service->options.model_name, "data", data, "usage",
                             "prompt_tokens", prompt, "scored_tokens", scored, "total_tokens",
                             prompt + scored, "prompt_tokens_details", "cached_tokens",
                             cached / (json_int_t)s->n));
    free_scoring(s);
}

static bool count_down(struct scoring *s) {
    pthread_mutex_lock(&s->lock);
    bool last = --s->pending == 0;
    pthread_mutex_unlock(&s->lock);
    return last;
}

/* On the scheduler's thread. */
static void on_done(void *context, struct nb_answer *answer) {
    struct continuation *c = context;
    c->status = answer->status;
    c->cached_tokens = answer->cached_tokens;
    if (answer->error)
        c->error = *answer->error;
    struct nb_metrics *m = &c->scoring->service->metrics;
    nb_metrics_observe(m, &m->waiting, answer->waiting_ms / 1000);
    if (count_down(c->scoring))
        end(c->scoring);
}

/* Under the lock. */
static void cancel(struct scoring *s) {
    for (size_t i = 0; i < s->submitted; i++)
        nb_scheduler_cancel(s->service->scheduler, s->list[i].id);
}

static void on_gone(struct nb_exchange *exchange) {
    struct scoring *s = exchange->context;
    pthread_mutex_lock(&s->lock);
    cancel(s);
    pthread_mutex_unlock(&s->lock);
}

/* Hands all to the scheduler. What was handed over ends by on_done, also after a failure here. */
static void submit(struct scoring *s) {
    s->exchange->context = s;
    s->pending = 1; /* this function's own */
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < s->n; i++) {
        struct continuation *c = &s->list[i];
        struct nb_request request = {
            .options = {.prompt_ids = c->ids.ids, .n_prompt_ids = c->ids.n},
            .n_scores = c->n,
            .scores = c->scores,
            .client = s->client,
            .timeout_ms = s->service->options.timeout_s * 1000,
            .on_done = on_done,
            .context = c,
        };
        s->pending++;
        c->status = nb_scheduler_submit(s->service->scheduler, &request, &c->id, &c->error);
        if (c->status != NB_OK) {
            s->pending--;
            cancel(s);
            break;
        }
        s->submitted++;
    }
    pthread_mutex_unlock(&s->lock);
    nb_exchange_watch(s->exchange, on_gone);
    if (count_down(s))
        end(s);
}

void nb_route_score(struct nb_service *service, struct nb_exchange *x, uint64_t client) {
    struct nb_error err;
    struct scoring *s = calloc(1, sizeof *s);
    if (!s) {
        nb_auth_leave(service->auth, client);
        nb_answer_error(x, 507, "out of memory", NULL, NULL);
        return;
    }
    *s = (struct scoring){.service = service, .exchange = x, .client = client};
    pthread_mutex_init(&s->lock, NULL);
    nb_exchange_retain(x);
    if (!nb_read_body(x, &s->body) || !nb_check_model(service, x, s->body)) {
        free_scoring(s);
        return;
    }
    enum nb_status status = read_body(s, &err);
    if (status != NB_OK) {
        nb_answer_failure(x, &err);
        free_scoring(s);
        return;
    }
    submit(s);
}
