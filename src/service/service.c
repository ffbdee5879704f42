#include "service/service.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/utf8.h"
#include "engine/engine.h"
#include "model/json.h"
#include "service/service_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    DEFAULT_BODY_BYTES = 8 << 20,
    DEFAULT_CONNECTIONS = 4096,
    DEFAULT_TIMEOUT_S = 600,
    DEFAULT_IDLE_S = 75,
    HTTP_THREADS = 2,
    LEAST_SEND_MS = 1000,
};

/* ---- answers ---- */

void nb_answer_json(struct nb_exchange *x, int status, json_t *body) {
    char *text = body ? json_dumps(body, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(body);
    if (text)
        nb_exchange_answer(x, status, "application/json", text, strlen(text), NULL);
    else
        nb_exchange_answer(x, 507, "application/json", "{}", 2, NULL);
    free(text);
}

static const char *error_type(int status) {
    switch (status) {
    case 401:
    case 403:
        return "authentication_error";
    case 429:
        return "rate_limit_error";
    default:
        return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

static char *error_body(int status, const char *message, const char *param, const char *code) {
    json_t *body = json_pack("{s:{s:s, s:s, s:s?, s:s?}}", "error", "message", message, "type",
                             error_type(status), "param", param, "code", code);
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    return text;
}

void nb_public_message(const struct nb_exchange *x, const char *message, char *out, size_t size) {
    size_t used = 0;
    while (*message && used + 1 < size) {
        size_t skip = 0;
        for (const char *const *p = x->private_paths; p && *p && !skip; p++) {
            size_t n = strlen(*p);
            while (n > 1 && (*p)[n - 1] == '/')
                n--;
            if (n > 1 && strncmp(message, *p, n) == 0)
                skip = n + (message[n] == '/');
        }
        if (skip && (message[skip] == ':' || !message[skip]))
            used += (size_t)snprintf(out + used, size - used, "the model");
        else if (!skip)
            out[used++] = *message;
        used = used < size ? used : size - 1;
        message += skip ? skip : 1;
    }
    out[used] = 0;
    if (!nb_utf8_valid(out, used, &used)) /* a character that did not fit */
        out[used] = 0;
}

static void answer_error(struct nb_exchange *x, int status, const char *message, const char *param,
                         const char *code, const char *headers) {
    char public[NB_ERROR_MESSAGE_BYTES];
    nb_public_message(x, message, public, sizeof public);
    char *text = error_body(status, public, param, code);
    nb_exchange_answer(x, status, "application/json", text ? text : "{}", text ? strlen(text) : 2,
                       headers);
    free(text);
}

void nb_answer_error(struct nb_exchange *x, int status, const char *message, const char *param,
                     const char *code) {
    answer_error(x, status, message, param, code,
                 status == 429 || status == 503 ? "Retry-After: 1\r\n"
                 : status == 401                ? "WWW-Authenticate: Bearer\r\n"
                                                : NULL);
}

int nb_status_of(const struct nb_error *err) {
    switch (err->code) {
    case NB_ERR_ARGUMENT:
    case NB_ERR_FORMAT:
    case NB_ERR_UNSUPPORTED:
        return 422;
    case NB_ERR_LIMIT:
        /* Of the context; else of a schema, a pattern, a document. */
        return strncmp(err->message, "prompt", 6) == 0 ? 400 : 422;
    case NB_ERR_BUSY:
        return 429;
    case NB_ERR_MEMORY:
        return 507;
    case NB_ERR_STOPPED:
        return 503;
    default:
        return 500;
    }
}

void nb_answer_failure(struct nb_exchange *x, const struct nb_error *err) {
    int status = nb_status_of(err);
    nb_answer_error(x, status, err->message, NULL,
                    status == 400   ? "context_length_exceeded"
                    : status == 429 ? "queue_full"
                                    : NULL);
}

bool nb_read_body(struct nb_exchange *x, json_t **out) {
    struct nb_error err;
    enum nb_status s = nb_json_parse(x->body, x->body_bytes, "body", out, &err);
    if (s != NB_OK)
        nb_answer_error(x, s == NB_ERR_MEMORY ? 507 : 400, err.message, NULL, NULL);
    return s == NB_OK;
}

static void on_refuse(void *context, const char *path, int status, const char *message,
                      struct nb_buf *out) {
    (void)context, (void)path;
    char *text = error_body(status, message, NULL, NULL);
    nb_buf_add_string(out, text ? text : "{}");
    free(text);
}

/* ---- operations ---- */

static void route_alive(struct nb_service *s, struct nb_exchange *x, uint64_t client) {
    (void)s, (void)client;
    nb_answer_json(x, 200, json_pack("{s:s}", "status", "ok"));
}

/* Whether the files that the model is mapped from were written to: then no answer can be trusted.
 */
static bool model_changed(struct nb_service *s) {
    struct nb_error err;
    bool changed = s->files && nb_files_check(s->files, &err) != NB_OK;
    if (changed && !atomic_exchange(&s->changed, true))
        nb_log(NB_LOG_ERROR, "event=model %s", err.message);
    return changed;
}

static void route_ready(struct nb_service *s, struct nb_exchange *x, uint64_t client) {
    (void)client;
    bool draining = atomic_load(&s->draining), changed = model_changed(s);
    nb_answer_json(x, draining || changed ? 503 : 200,
                   json_pack("{s:s}", "status",
                             draining  ? "draining"
                             : changed ? "the model's files were written to: restart"
                                       : "ready"));
}

static void write_metrics(struct nb_service *s, struct nb_buf *out) {
    struct nb_scheduler_stats t;
    nb_scheduler_stats(s->scheduler, &t);
    nb_metrics_write(&s->metrics, out);
    const struct {
        const char *name, *type, *help;
        double value;
    } values[] = {
        {"nibble_running", "gauge", "Sequences that share steps now.", (double)t.running},
        {"nibble_waiting", "gauge", "Requests that wait for their first step.", (double)t.waiting},
        {"nibble_connections", "gauge", "Open connections.",
         s->http ? (double)nb_http_connections(s->http) : 0},
        {"nibble_kv_pages", "gauge", "Pages of KV memory, of 16 positions each.", (double)t.pages},
        {"nibble_kv_pages_free", "gauge", "Pages that hold nothing.", (double)t.pages_free},
        {"nibble_kv_pages_cached", "gauge", "Pages that hold a prefix which nobody uses now.",
         (double)t.pages_cached},
        {"nibble_steps_total", "counter", "Steps.", (double)t.steps},
        {"nibble_step_seconds_total", "counter", "Time in steps.", (double)t.step_us / 1e6},
        {"nibble_batch_tokens_total", "counter", "Tokens in all steps.", (double)t.batch_tokens},
        {"nibble_prompt_tokens_total", "counter", "Tokens of prompts.", (double)t.prompt_tokens},
        {"nibble_prompt_tokens_cached_total", "counter",
         "Tokens of prompts that were found in KV memory.", (double)t.cached_tokens},
        {"nibble_generated_tokens_total", "counter", "Tokens of answers.",
         (double)t.generated_tokens},
        {"nibble_preemptions_total", "counter",
         "Sequences that gave their pages back and began again.", (double)t.preemptions},
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        nb_metrics_value(out, values[i].name, values[i].type, values[i].help, values[i].value);
    struct nb_device device;
    nb_engine_device(s->engine, &device);
    if (!device.memory_bytes)
        return;
    nb_metrics_value(out, "nibble_gpu_memory_bytes", "gauge", "Memory of the GPU.",
                     (double)device.memory_bytes);
    nb_metrics_value(out, "nibble_gpu_memory_used_bytes", "gauge",
                     "Of it, allocated by this program: weights, pages and scratch.",
                     (double)device.used_bytes);
}

static void route_metrics(struct nb_service *s, struct nb_exchange *x, uint64_t client) {
    (void)client;
    struct nb_buf out = {0};
    write_metrics(s, &out);
    nb_exchange_answer(x, out.failed ? 507 : 200, "text/plain; version=0.0.4",
                       out.data ? out.data : "", out.len, NULL);
    nb_buf_free(&out);
}

/* ---- routes ---- */

struct route {
    const char *method, *path;
    bool open; /* needs no key */
    void (*run)(struct nb_service *service, struct nb_exchange *exchange, uint64_t client);
};

static const struct route routes[] = {
    {"GET", "/healthz", true, route_alive},
    {"GET", "/readyz", true, route_ready},
    {"GET", "/metrics", true, route_metrics},
    {"GET", "/v1/models", false, nb_route_models},
    {"POST", "/v1/completions", false, nb_route_completions},
    {"POST", "/v1/chat/completions", false, nb_route_chat},
    {"POST", "/v1/classify", false, nb_route_classify},
    {"POST", "/v1/score", false, nb_route_score},
    {"POST", "/prompt", false, nb_route_prompt},
    {"GET", "/health", true, nb_route_health},
    {"POST", "/warmup", false, nb_route_warmup},
};
enum { N_ROUTES = sizeof routes / sizeof *routes };

/* The route of a path; *known is whether any method has it. */
static const struct route *find_route(const char *method, const char *path, bool *known) {
    *known = false;
    for (size_t i = 0; i < N_ROUTES; i++) {
        if (strcmp(path, routes[i].path) != 0)
            continue;
        *known = true;
        bool head =
            strcmp(method, "HEAD") == 0; /* a GET, of whose answer the server leaves the body */
        if (strcmp(head ? "GET" : method, routes[i].method) == 0)
            return &routes[i];
    }
    return NULL;
}

/* The key of a request: "Authorization: Bearer KEY" or "X-API-Key: KEY". */
static const char *key_of(const struct nb_exchange *x) {
    const char *bearer = nb_exchange_header(x, "Authorization");
    if (bearer && strncasecmp(bearer, "Bearer ", 7) == 0)
        return bearer + 7 + strspn(bearer + 7, " ");
    return nb_exchange_header(x, "X-API-Key");
}

/* False, and the request is answered, where its key is none or not known. */
static bool is_known(struct nb_exchange *x, enum nb_access access) {
    if (access == NB_ACCESS_NO_KEY)
        nb_answer_error(x, 401,
                        "no API key: send \"Authorization: Bearer KEY\" or \"X-API-Key: KEY\"",
                        NULL, "missing_api_key");
    else if (access == NB_ACCESS_BAD_KEY)
        nb_answer_error(x, 403, "this API key is not known here", NULL, "invalid_api_key");
    else
        return true;
    return false;
}

/* Lets a request in; false after answering it. */
static bool enter(struct nb_service *s, struct nb_exchange *x, uint64_t *client) {
    char name[64], text[96], headers[48];
    unsigned retry_s;
    enum nb_access access = nb_auth_enter(s->auth, key_of(x), client, name, &retry_s);
    if (!is_known(x, access))
        return false;
    if (access == NB_ACCESS_OK) {
        if (name[0])
            nb_log(NB_LOG_DEBUG, "request=%s key=%s", x->id, name);
        return true;
    }
    snprintf(text, sizeof text, "this key's limit is reached; try again in %u s", retry_s);
    snprintf(headers, sizeof headers, "Retry-After: %u\r\n", retry_s);
    answer_error(x, 429, text, NULL, "rate_limit_exceeded", headers);
    return false;
}

/* The path is known, but not with this method. */
static void answer_method(struct nb_exchange *x) {
    char headers[48];
    const char *method = "GET, HEAD";
    for (size_t i = 0; i < N_ROUTES; i++) {
        if (strcmp(x->path, routes[i].path) == 0 && strcmp(routes[i].method, "GET") != 0)
            method = routes[i].method;
    }
    snprintf(headers, sizeof headers, "Allow: %s, OPTIONS\r\n", method);
    answer_error(x, 405, "this path does not take that method", NULL, NULL, headers);
}

/* What needs no more than a request's head: its route, or NULL after answering it. */
static const struct route *admit(struct nb_service *s, struct nb_exchange *x) {
    bool known;
    const struct route *route = find_route(x->method, x->path, &known);
    x->private_paths = s->private_paths;
    if (route)
        return route->open || is_known(x, nb_auth_look(s->auth, key_of(x))) ? route : NULL;
    if (!known)
        nb_answer_error(x, 404, "there is no such path", NULL, NULL);
    else if (strcmp(x->method, "OPTIONS") == 0)
        nb_exchange_answer(x, 204, "text/plain", "", 0, NULL);
    else
        answer_method(x);
    return NULL;
}

void nb_service_handle(struct nb_service *s, struct nb_exchange *x) {
    const struct route *route = admit(s, x);
    uint64_t client = 0;
    if (route && (route->open || enter(s, x, &client)))
        route->run(s, x, client);
    nb_exchange_release(x);
}

static bool on_head(void *context, struct nb_exchange *x) {
    return admit(context, x) != NULL;
}

static void handle(void *context, struct nb_exchange *x) {
    nb_service_handle(context, x);
}

static void on_log(void *context, const struct nb_exchange *x, int status, uint64_t bytes) {
    struct nb_service *s = context;
    bool known;
    const struct route *route = find_route(x->method, x->path, &known);
    double seconds = (double)(nb_now_us() - x->begun_us) / 1e6;
    nb_metrics_request(&s->metrics, route ? route->path : "other", status, seconds);
    /* Whoever asks for a path that is not ours may write anything into it. */
    nb_log(route && route->open ? NB_LOG_DEBUG : NB_LOG_INFO,
           "request=%s peer=%s method=%s path=%s status=%d bytes_in=%zu bytes_out=%llu ms=%.1f",
           x->id, x->peer, route ? x->method : "-", route ? x->path : "-", status, x->body_bytes,
           (unsigned long long)bytes, seconds * 1000);
}

/* ---- the service ---- */

static void set_defaults(struct nb_service *s, const struct nb_service_options *options) {
    s->options = *options;
    if (!s->options.model_name)
        s->options.model_name = nb_engine_name(s->engine);
    if (!s->options.max_body_bytes)
        s->options.max_body_bytes = DEFAULT_BODY_BYTES;
    if (!s->options.max_connections)
        s->options.max_connections = DEFAULT_CONNECTIONS;
    if (!s->options.idle_s)
        s->options.idle_s = DEFAULT_IDLE_S;
    if (s->options.timeout_s <= 0)
        s->options.timeout_s = DEFAULT_TIMEOUT_S;
    const char *paths[] = {s->engine->folder, options->prompts, options->schemas, options->actions};
    for (size_t i = 0, n = 0; i < sizeof paths / sizeof *paths; i++) {
        if (paths[i] && *paths[i])
            s->private_paths[n++] = paths[i];
    }
}

static enum nb_status start(struct nb_service *s, struct nb_error *err) {
    enum nb_status status = nb_auth_open(s->options.api_key_file, &s->auth, err);
    if (status == NB_OK && s->engine->folder[0])
        status = nb_files_open(s->engine->folder, &s->files, err);
    if (status != NB_OK)
        return status;
    s->has_chat = nb_engine_has_tokenizer(s->engine) &&
                  nb_chat_open(s->engine->folder, &s->chat, &s->no_chat) == NB_OK;
    if (!s->has_chat && !nb_engine_has_tokenizer(s->engine))
        nb_fail(&s->no_chat, NB_ERR_UNSUPPORTED, "the model has no tokenizer");
    struct nb_scheduler_options how = {.max_running = s->options.max_running,
                                       .max_waiting = s->options.max_waiting};
    status = nb_scheduler_open(s->engine, &how, &s->scheduler, err);
    if (status != NB_OK || s->options.no_listener)
        return status;
    struct nb_http_options http = {
        .host = s->options.host,
        .port = s->options.port,
        .max_body_bytes = s->options.max_body_bytes,
        .max_connections = s->options.max_connections,
        .idle_timeout_s = s->options.idle_s,
        .threads = HTTP_THREADS,
        .allow_origin = s->options.allow_origin,
        .admit = on_head,
        .handle = handle,
        .log = on_log,
        .refuse = on_refuse,
        .context = s,
    };
    return nb_http_open(&http, &s->http, err);
}

enum nb_status nb_service_open(struct nb_engine *engine, const struct nb_service_options *options,
                               struct nb_service **out, struct nb_error *err) {
    *out = NULL;
    struct nb_service *s = calloc(1, sizeof *s);
    if (!s)
        return nb_fail_memory(err, sizeof *s, "the service");
    s->engine = engine;
    s->created = (int64_t)time(NULL);
    atomic_init(&s->draining, false);
    atomic_init(&s->changed, false);
    nb_metrics_open(&s->metrics);
    set_defaults(s, options);
    enum nb_status status = start(s, err);
    if (status != NB_OK) {
        nb_service_close(s);
        return status;
    }
    *out = s;
    return NB_OK;
}

uint16_t nb_service_port(const struct nb_service *s) {
    return nb_http_port(s->http);
}

enum nb_status nb_service_reload(struct nb_service *s, struct nb_error *err) {
    return nb_auth_reload(s->auth, err);
}

bool nb_service_drain(struct nb_service *s, double timeout_s) {
    atomic_store(&s->draining, true);
    if (s->http)
        nb_http_quiesce(s->http);
    int64_t begun = nb_now_us();
    bool done = nb_scheduler_drain(s->scheduler, timeout_s * 1000);
    if (!s->http)
        return done;
    /* What is answered must still be sent; clients that do not read may not keep it forever. */
    double left_ms = timeout_s * 1000 - (double)(nb_now_us() - begun) / 1000;
    bool sent = nb_http_drain(s->http, left_ms > LEAST_SEND_MS ? left_ms : LEAST_SEND_MS);
    /* What was late may have been answered while that was waited for. */
    return sent && (done || nb_scheduler_drain(s->scheduler, 0));
}

void nb_service_close(struct nb_service *s) {
    if (!s)
        return;
    nb_scheduler_stop(s->scheduler); /* answers, with an error, what is still open */
    nb_http_close(s->http);
    nb_scheduler_close(s->scheduler);
    nb_auth_close(s->auth);
    nb_metrics_close(&s->metrics);
    nb_files_close(s->files);
    free(s);
}
