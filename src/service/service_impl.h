/* What the files of this room share. */
#ifndef NB_SERVICE_SERVICE_IMPL_H
#define NB_SERVICE_SERVICE_IMPL_H

#include "engine/engine.h"
#include "engine/scheduler.h"
#include "model/chat.h"
#include "service/auth.h"
#include "service/files.h"
#include "service/http.h"
#include "service/metrics.h"
#include "service/service.h"

#include <jansson.h>
#include <stdatomic.h>

struct nb_service {
    struct nb_service_options options;
    struct nb_engine *engine;
    struct nb_scheduler *scheduler;
    struct nb_http *http;
    struct nb_auth *auth;
    struct nb_metrics metrics;
    struct nb_chat chat;
    bool has_chat;
    struct nb_error no_chat;       /* why not */
    int64_t created;               /* seconds since 1970 */
    struct nb_files *files;        /* of the model; NULL: it was made, not read */
    atomic_bool draining, changed; /* changed: it was logged that the model's files have */
    const char *private_paths[5];  /* that clients need not know, up to a NULL */
};

/* A message without the paths of exchange->private_paths: of what lies in them the name alone is
 * left. */
void nb_public_message(const struct nb_exchange *exchange, const char *message, char *out,
                       size_t size);

/* Answers a request that came by whatever way; takes the reference that a handler is called with.
 * Any thread. */
void nb_service_handle(struct nb_service *service, struct nb_exchange *exchange);

/* An error in OpenAI's shape: {"error": {message, type, param, code}}. param and code may be NULL.
 */
void nb_answer_error(struct nb_exchange *exchange, int status, const char *message,
                     const char *param, const char *code);

/* The same for what nibble itself said, with the status that fits it; Retry-After where it is for
 * later. */
void nb_answer_failure(struct nb_exchange *exchange, const struct nb_error *err);
int nb_status_of(const struct nb_error *err);

/* Sends a JSON document, which it takes. */
void nb_answer_json(struct nb_exchange *exchange, int status, json_t *body);

/* The routes of OpenAI's API. client: of nb_auth_enter; left by whoever answers. */
void nb_route_models(struct nb_service *service, struct nb_exchange *exchange, uint64_t client);
void nb_route_completions(struct nb_service *service, struct nb_exchange *exchange,
                          uint64_t client);
void nb_route_chat(struct nb_service *service, struct nb_exchange *exchange, uint64_t client);

/* The interface of the service that this replaces. */
void nb_route_prompt(struct nb_service *service, struct nb_exchange *exchange, uint64_t client);
void nb_route_health(struct nb_service *service, struct nb_exchange *exchange, uint64_t client);
void nb_route_warmup(struct nb_service *service, struct nb_exchange *exchange, uint64_t client);

/* Log probabilities of given continuations. */
void nb_route_score(struct nb_service *service, struct nb_exchange *exchange, uint64_t client);

/* A request's body, a JSON object, which the caller frees; false after answering what it is
 * instead. */
bool nb_read_body(struct nb_exchange *exchange, json_t **out);

/* Whether a body's `model`, if it has one, is the one that there is; false after answering. */
bool nb_check_model(const struct nb_service *service, struct nb_exchange *exchange,
                    const json_t *body);

/* A token's text, which need not be UTF-8, as a string: bytes that are no character become U+FFFD.
 */
json_t *nb_token_json(const struct nb_service *service, int32_t id);

/* POST /v1/classify: {"text", "labels", "context", "schema"} to what nb_classification_json says.
 */
void nb_route_classify(struct nb_service *service, struct nb_exchange *exchange, uint64_t client);

#endif
