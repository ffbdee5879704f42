/* POST /v1/classify: a document's text in, what it is and says out. */
#include "service/service_impl.h"

#include "model/json.h"

#include <stdlib.h>

/* A request on its way through the engine. */
struct work {
    struct nb_service *service;
    struct nb_exchange *exchange;
    uint64_t client;
    json_t *body;
};

static void free_work(struct work *w) {
    nb_auth_leave(w->service->auth, w->client);
    nb_exchange_release(w->exchange);
    json_decref(w->body);
    free(w);
}

static json_t *to_json(const struct nb_classification *c) {
    return json_pack("{s:s, s:f, s:s?, s:s?, s:s?, s:s?, s:b, s:I, s:I, s:f}", "document_type",
                     c->document_type, "confidence", c->confidence, "party", c->party, "date",
                     c->date, "currency", c->currency, "total", c->total, "truncated",
                     (int)c->truncated, "prompt_tokens", (json_int_t)c->prompt_tokens, "tokens",
                     (json_int_t)c->tokens, "milliseconds", c->milliseconds);
}

/* On the scheduler's thread. */
static void run(void *context) {
    struct work *w = context;
    const json_t *text = json_object_get(w->body, "text");
    struct nb_classification result;
    struct nb_error err;
    if (nb_classify_text(w->service->engine, json_string_value(text), json_string_length(text),
                         &result, &err) == NB_OK) {
        nb_answer_json(w->exchange, 200, to_json(&result));
        nb_classification_free(&result);
    } else {
        nb_answer_failure(w->exchange, &err);
    }
    free_work(w);
}

void nb_route_classify(struct nb_service *service, struct nb_exchange *x, uint64_t client) {
    struct nb_error err;
    struct work *w = calloc(1, sizeof *w);
    if (!w) {
        nb_auth_leave(service->auth, client);
        nb_answer_error(x, 503, "out of memory", NULL, NULL);
        return;
    }
    *w = (struct work){.service = service, .exchange = x, .client = client};
    nb_exchange_retain(x);
    if (nb_json_parse(x->body, x->body_bytes, "body", &w->body, &err) != NB_OK) {
        nb_answer_error(x, 400, err.message, NULL, NULL);
        free_work(w);
    } else if (!json_is_string(json_object_get(w->body, "text"))) {
        nb_answer_error(x, 422, "text: expected the document's text, a string", "text", NULL);
        free_work(w);
    } else if (nb_scheduler_post(service->scheduler, run, w, &err) != NB_OK) {
        nb_answer_failure(x, &err);
        free_work(w);
    }
}
