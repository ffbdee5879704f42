/* POST /v1/classify: a document's text in, what it is and says out, as `nibble classify --json` has
 * it. */
#include "service/service_impl.h"

#include "model/json.h"

#include <stdlib.h>
#include <string.h>

/* A request on its way through the engine. */
struct work {
    struct nb_service *service;
    struct nb_exchange *exchange;
    uint64_t client;
    uint64_t id; /* of the scheduler's */
    json_t *body;
    struct nb_classifier *classifier;
    char *labels, *context, *schema; /* what the body says of them, as JSON; NULL: nothing */
};

static void free_work(struct work *w) {
    nb_auth_leave(w->service->auth, w->client);
    nb_exchange_release(w->exchange);
    nb_classifier_close(w->classifier);
    json_decref(w->body);
    free(w->labels);
    free(w->context);
    free(w->schema);
    free(w);
}

static const json_t *text_of(const json_t *body) {
    const json_t *text = json_object_get(body, "text");
    return text ? text : json_object_get(body, "document");
}

static struct nb_named_text named(const char *text, const char *name) {
    return (struct nb_named_text){text, text ? strlen(text) : 0, name};
}

/* The caller's schema and the rest, on the caller's thread: steps of requests do not wait for it.
 */
static enum nb_status open_classifier(struct work *w, struct nb_error *err) {
    const struct nb_classify_options options = {.labels = named(w->labels, "labels"),
                                                .context = named(w->context, "context"),
                                                .schema = named(w->schema, "schema")};
    return nb_classifier_open(w->service->engine, &options, &w->classifier, err);
}

static void on_gone(struct nb_exchange *exchange) {
    const struct work *w = exchange->context;
    nb_scheduler_cancel(w->service->scheduler, w->id);
}

/* On the scheduler's thread. A client that went while this waited is noticed first. */
static void run(void *context) {
    struct work *w = context;
    struct nb_classification result;
    struct nb_error err;
    const json_t *text = text_of(w->body);
    nb_exchange_watch(w->exchange, on_gone);
    enum nb_status s = nb_classifier_text(w->classifier, json_string_value(text),
                                          json_string_length(text), &result, &err);
    nb_exchange_watch(w->exchange, NULL);
    if (s == NB_OK) {
        char *json = nb_classification_json(&result, NULL, w->service->options.model_name);
        if (json)
            nb_exchange_answer(w->exchange, 200, "application/json", json, strlen(json), NULL);
        else
            nb_answer_error(w->exchange, 507, "out of memory", NULL, NULL);
        free(json);
        nb_classification_free(&result);
    } else {
        nb_answer_failure(w->exchange, &err);
    }
    free_work(w);
}

/* A member of the body as JSON text into *out; absent and null are NULL. */
static enum nb_status dump(const json_t *body, const char *key, char **out, struct nb_error *err) {
    const json_t *value = json_object_get(body, key);
    if (!value || json_is_null(value))
        return NB_OK;
    *out = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    return *out ? NB_OK : nb_fail_memory(err, 1, key);
}

static enum nb_status read_body(struct work *w, const char **param, struct nb_error *err) {
    static const char *const known[] = {"text", "document", "labels", "context", "schema", "model"};
    const char *key;
    json_t *value;
    *param = "text";
    if (json_object_get(w->body, "text") && json_object_get(w->body, "document"))
        return nb_fail(err, NB_ERR_ARGUMENT, "text and document: expected one of them");
    if (!json_is_string(text_of(w->body)))
        return nb_fail(err, NB_ERR_ARGUMENT, "text: expected the document's text, a string");
    json_object_foreach(w->body, key, value) {
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            found |= strcmp(key, known[i]) == 0;
        *param = key;
        if (!found)
            return nb_fail(err, NB_ERR_ARGUMENT,
                           "%.64s: no such key; expected text, labels, context and schema", key);
    }
    *param = "labels";
    value = json_object_get(w->body, "labels");
    if (value && !json_is_array(value) && !json_is_null(value))
        return nb_fail(err, NB_ERR_ARGUMENT, "labels: found %s, expected a list",
                       nb_json_type(value));
    enum nb_status s = dump(w->body, "labels", &w->labels, err);
    *param = "schema";
    if (s == NB_OK)
        s = dump(w->body, "schema", &w->schema, err);
    if (s == NB_OK && w->schema && w->labels)
        return nb_fail(err, NB_ERR_ARGUMENT,
                       "schema and labels: a schema has its own labels; give one");
    *param = "context";
    return s == NB_OK ? dump(w->body, "context", &w->context, err) : s;
}

void nb_route_classify(struct nb_service *service, struct nb_exchange *x, uint64_t client) {
    struct nb_error err;
    const char *param;
    struct work *w = calloc(1, sizeof *w);
    if (!w) {
        nb_auth_leave(service->auth, client);
        nb_answer_error(x, 507, "out of memory", NULL, NULL);
        return;
    }
    *w = (struct work){.service = service, .exchange = x, .client = client};
    nb_exchange_retain(x);
    x->context = w;
    if (!nb_read_body(x, &w->body)) {
        free_work(w);
    } else if (read_body(w, &param, &err) != NB_OK) {
        int status = nb_status_of(&err);
        nb_answer_error(x, status == 400 ? 422 : status, err.message, param, NULL);
        free_work(w);
    } else if (open_classifier(w, &err) != NB_OK ||
               nb_scheduler_post(service->scheduler, run, w, service->options.timeout_s * 1000,
                                 &w->id, &err) != NB_OK) {
        nb_answer_failure(x, &err);
        free_work(w);
    }
}
