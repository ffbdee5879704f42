/* The interface of the service that nibble replaces, for callers that switch by changing a URL:
 * POST /prompt, GET /health, POST /warmup. docs/replaced-service.md has what is on the wire. */
#include "service/answering.h"
#include "service/service_impl.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "model/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    MAX_PROMPT_FILE = 1 << 20,
    MAX_SCHEMA_FILE = 1 << 20,
    MAX_TOKENS = 32768,
    DEFAULT_TOKENS = 4096,
    MAX_ACTIONS = 256,
};

/* What context.stage may be; the last one stands for none and for any other. */
static const struct stage {
    const char *name,
        *schema;    /* files of the prompts' and the schemas' folder, without their ends */
    bool of_action; /* api_request_body has the action's own schema, where there is one */
    bool batch;
} stages[] = {
    {"action_selection", "action_selection", false, false},
    {"entity_extraction", "entity_extraction", false, false},
    {"field_mapping", "field_mapping", true, false},
    {"field_mapping_batch", "field_mapping", true, true},
    {"math_validation", "math_validation", false, false},
    {"journal_entry", "journal_entry", false, false},
};
enum { N_STAGES = sizeof stages / sizeof *stages };

struct prompt_route {
    size_t prompt_characters;
    bool has_context;
    int64_t begun_us;
};

/* {"detail": text}, the shape of that service's errors. */
static void answer_detail(struct nb_exchange *x, int status, const char *detail) {
    char public[NB_ERROR_MESSAGE_BYTES];
    nb_public_message(x, detail, public, sizeof public);
    json_t *body = json_pack("{s:s}", "detail", public);
    char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;
    json_decref(body);
    nb_exchange_answer(x, status, "application/json", text ? text : "{}", text ? strlen(text) : 2,
                       status == 503 || status == 429 ? "Retry-After: 1\r\n" : NULL);
    free(text);
}

static const struct stage *stage_of(const json_t *context) {
    const char *name = json_string_value(json_object_get(context, "stage"));
    for (size_t i = 0; name && i < N_STAGES; i++) {
        if (strcmp(name, stages[i].name) == 0)
            return &stages[i];
    }
    return &stages[N_STAGES - 1];
}

/* ---- schemas ---- */

static enum nb_status read_schema(const char *folder, const char *name, json_t **out,
                                  struct nb_error *err) {
    char file[256], path[4096];
    int n = snprintf(file, sizeof file, "%s.json", name);
    if (n < 0 || (size_t)n >= sizeof file || !nb_path_join(path, sizeof path, folder, file))
        return nb_fail(err, NB_ERR_ARGUMENT, "schemas: a name is too long");
    return nb_json_read(path, MAX_SCHEMA_FILE, out, err);
}

/* A name that a request gave, as a part of a path: letters, digits, "_", "-" and "." inside it. */
static bool is_plain_name(const char *name) {
    size_t n = strlen(name);
    return n > 0 && n < 100 && name[0] != '.' &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.") == n;
}

/* The operator's schema of an action, FOLDER/SOFTWARE/ACTION.json; NULL where there is none. */
static json_t *action_schema(const struct nb_service *s, const char *software, const char *action) {
    char folder[2048], path[4096], file[128];
    json_t *schema = NULL;
    struct nb_error err;
    if (!s->options.actions || !software || !action || !is_plain_name(software) ||
        !is_plain_name(action))
        return NULL;
    snprintf(file, sizeof file, "%s.json", action);
    if (nb_path_join(folder, sizeof folder, s->options.actions, software) &&
        nb_path_join(path, sizeof path, folder, file) && nb_is_file(path) &&
        nb_json_read(path, MAX_SCHEMA_FILE, &schema, &err) != NB_OK)
        nb_log(NB_LOG_ERROR, "event=schema %s", err.message);
    return schema;
}

/* The schema of a field mapping with an action's own body in it; takes `body`, which may be NULL.
 */
static json_t *with_body(const json_t *schema, json_t *body) {
    json_t *copy = json_deep_copy(schema);
    if (copy && body)
        json_object_set(json_object_get(copy, "properties"), "api_request_body", body);
    json_decref(body);
    return copy;
}

/* {"type": "array"} of one schema for each action, in their order. */
static json_t *batch_schema(const struct nb_service *s, const json_t *schema,
                            const json_t *context) {
    const json_t *actions = json_object_get(context, "actions");
    const char *software = json_string_value(json_object_get(context, "software"));
    size_t n = json_array_size(actions);
    json_int_t count = json_integer_value(json_object_get(context, "action_count"));
    if (n == 0 && count > 0)
        n = (size_t)count;
    n = n < 1 ? 1 : n > MAX_ACTIONS ? MAX_ACTIONS : n;
    json_t *items = json_array();
    for (size_t i = 0; i < n; i++) {
        const json_t *action = json_array_get(actions, i);
        const char *name = json_is_string(action)
                               ? json_string_value(action)
                               : json_string_value(json_object_get(action, "action"));
        json_array_append_new(items, with_body(schema, action_schema(s, software, name)));
    }
    return json_pack("{s:s, s:o, s:i, s:i, s:b}", "type", "array", "prefixItems", items, "minItems",
                     (int)n, "maxItems", (int)n, "items", 0);
}

static enum nb_status compile(struct nb_answering *a, const struct stage *stage,
                              const json_t *context, struct nb_error *err) {
    struct nb_service *s = a->service;
    json_t *schema = NULL, *whole = NULL;
    enum nb_status status = read_schema(s->options.schemas, stage->schema, &schema, err);
    if (status != NB_OK)
        return status;
    if (stage->batch)
        whole = batch_schema(s, schema, context);
    else if (stage->of_action)
        whole = with_body(schema,
                          action_schema(s, json_string_value(json_object_get(context, "software")),
                                        json_string_value(json_object_get(context, "action"))));
    else
        whole = json_incref(schema);
    char *text = whole ? json_dumps(whole, JSON_COMPACT) : NULL;
    if (text) {
        struct nb_structure what = {
            .schema = text, .schema_bytes = strlen(text), .name = stage->name};
        status = nb_grammar_compile(s->engine, &what, &a->grammar, err);
    } else {
        status = nb_fail_memory(err, 1, "a schema");
    }
    free(text);
    json_decref(whole);
    json_decref(schema);
    return status;
}

/* ---- the prompt ---- */

/* The stage's instructions and then the caller's prompt, as a message where the model has a chat
 * template. */
static enum nb_status make_prompt(struct nb_answering *a, const struct stage *stage,
                                  const json_t *prompt, struct nb_error *err) {
    struct nb_service *s = a->service;
    char file[64], path[4096];
    snprintf(file, sizeof file, "%s.txt", stage->name);
    if (!nb_path_join(path, sizeof path, s->options.prompts, file))
        return nb_fail(err, NB_ERR_ARGUMENT, "prompts: the folder's name is too long");
    enum nb_status status = nb_read_regular_file(path, MAX_PROMPT_FILE, &a->prompt, err);
    if (status != NB_OK)
        return status;
    nb_buf_add(&a->prompt, json_string_value(prompt), json_string_length(prompt));
    if (a->prompt.failed)
        return nb_fail_memory(err, a->prompt.len, "the prompt");
    if (!s->has_chat && !nb_engine_has_tokenizer(s->engine))
        return nb_fail(err, NB_ERR_UNSUPPORTED, "prompt: this model has no tokenizer");
    if (!s->has_chat)
        return nb_tokenizer_encode(s->engine->tokenizer, a->prompt.data, a->prompt.len,
                                   NB_ENCODE_SPECIAL | NB_ENCODE_TEMPLATE, &a->prompt_ids, err);
    struct nb_chat_message message = {
        .role = "user", .content = a->prompt.data, .bytes = a->prompt.len};
    return nb_chat_encode(&s->chat, s->engine->tokenizer, &message, 1, true, &a->prompt_ids, err);
}

static enum nb_status get(const json_t *body, const char *key, double min, double max, double other,
                          double *out, struct nb_error *err) {
    const json_t *value = json_object_get(body, key);
    *out = other;
    if (!value || json_is_null(value))
        return NB_OK;
    *out = json_number_value(value);
    if (json_is_number(value) && *out >= min && *out <= max)
        return NB_OK;
    return nb_fail(err, NB_ERR_ARGUMENT, "%s: expected a number from %g to %g", key, min, max);
}

static enum nb_status read_body(struct nb_answering *a, struct prompt_route *r,
                                struct nb_error *err) {
    const json_t *prompt = json_object_get(a->body, "prompt"),
                 *context = json_object_get(a->body, "context");
    if (!json_is_string(prompt))
        return nb_fail(err, NB_ERR_ARGUMENT, "prompt: expected a string");
    if (context && !json_is_object(context) && !json_is_null(context))
        return nb_fail(err, NB_ERR_ARGUMENT, "context: expected an object");
    struct nb_sampling *how = &a->options.sampling;
    double max = 0, top_k = 0, longest = 0;
    enum nb_status s = get(a->body, "max_tokens", 1, MAX_TOKENS, DEFAULT_TOKENS, &max, err);
    if (s == NB_OK)
        s = get(a->body, "temperature", 0, 2, 0.1, &how->temperature, err);
    if (s == NB_OK)
        s = get(a->body, "top_p", 1e-6, 1, 0.95, &how->top_p, err);
    if (s == NB_OK)
        s = get(a->body, "top_k", 0, INT32_MAX, 50, &top_k, err);
    if (s == NB_OK)
        s = get(a->body, "repetition_penalty", 0.01, 100, 1.1, &how->repetition_penalty, err);
    if (s == NB_OK)
        s = get(a->body, "max_input_length", 1, INT32_MAX, a->service->engine->context * 9 / 10,
                &longest, err);
    if (s != NB_OK)
        return s;
    how->top_k = (int32_t)top_k;
    a->options.max_tokens = (int32_t)max;
    a->options.close = true; /* the answer is whole, however long the model would have gone on */
    for (const char *c = json_string_value(prompt); *c; c++)
        r->prompt_characters += (*c & 0xC0) != 0x80;
    r->has_context = json_object_size(context) > 0;
    const struct stage *stage = stage_of(context);
    s = make_prompt(a, stage, prompt, err);
    if (s == NB_OK && a->prompt_ids.n > (size_t)longest)
        s = nb_fail(err, NB_ERR_LIMIT, "prompt: %zu tokens, at most %.0f are allowed",
                    a->prompt_ids.n, longest);
    return s == NB_OK ? compile(a, stage, context, err) : s;
}

static void on_over(struct nb_answering *a) {
    const struct prompt_route *r = a->route_context;
    const struct nb_choice *c = &a->choices[0];
    if (c->status != NB_OK) {
        answer_detail(a->exchange, nb_status_of(&c->error), c->error.message);
        return;
    }
    size_t n;
    const char *text = nb_choice_text(c, &n);
    json_error_t why;
    json_t *output = json_loadb(text, n, JSON_ALLOW_NUL, &why);
    bool parsed = json_is_object(output) || json_is_array(output);
    if (!parsed) {
        json_decref(output);
        output = json_stringn(text, n);
    }
    char when[32];
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &utc);
    nb_answer_json(a->exchange, 200,
                   json_pack("{s:b, s:o, s:{s:s, s:I, s:b, s:s, s:s, s:f}}", "success", 1, "output",
                             output, "metadata", "generated_at", when, "prompt_length",
                             (json_int_t)r->prompt_characters, "context_provided",
                             (int)r->has_context, "model", a->service->options.model_name,
                             "output_type", parsed ? "dict" : "str", "processing_time_seconds",
                             (double)(nb_now_us() - r->begun_us) / 1e6));
}

void nb_route_prompt(struct nb_service *service, struct nb_exchange *x, uint64_t client) {
    if (!service->options.prompts || !service->options.schemas) {
        nb_auth_leave(service->auth, client);
        answer_detail(x, 503, "this server was started without prompts and schemas");
        return;
    }
    struct nb_error err;
    struct nb_answering *a = nb_answering_new(service, x, client, sizeof(struct prompt_route));
    if (!a) {
        answer_detail(x, 507, "out of memory");
        return;
    }
    struct prompt_route *r = a->route_context;
    a->on_over = on_over;
    r->begun_us = nb_now_us();
    enum nb_status s = nb_json_parse(x->body, x->body_bytes, "body", &a->body, &err);
    if (s == NB_OK)
        s = read_body(a, r, &err);
    if (s != NB_OK) {
        nb_answering_free(a);
    } else {
        s = nb_answering_begin(a, &err);
    }
    if (s != NB_OK) {
        int status = nb_status_of(&err);
        answer_detail(x, status == 400 ? 422 : status, err.message);
    }
}

void nb_route_health(struct nb_service *service, struct nb_exchange *x, uint64_t client) {
    (void)client;
    struct nb_device d;
    nb_engine_device(service->engine, &d);
    json_t *memory = d.memory_bytes
                         ? json_pack("{s:I, s:I, s:I}", "total", (json_int_t)d.memory_bytes,
                                     "allocated", (json_int_t)d.used_bytes, "cached", (json_int_t)0)
                         : json_null();
    nb_answer_json(x, 200,
                   json_pack("{s:s, s:{s:b}, s:b, s:o}", "status", "healthy", "models_loaded",
                             service->options.model_name, 1, "gpu_available", d.memory_bytes > 0,
                             "memory_info", memory));
}

void nb_route_warmup(struct nb_service *service, struct nb_exchange *x, uint64_t client) {
    nb_auth_leave(service->auth, client);
    nb_answer_json(x, 200,
                   json_pack("{s:s, s:s, s:f, s:[s]}", "status", "already_cached", "message",
                             "the model was loaded when the service started", "total_time_seconds",
                             0.0, "models", service->options.model_name));
}
