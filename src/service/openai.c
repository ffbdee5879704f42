/* OpenAI's completions and chat completions, as its API reference describes them, with the sampling
 * options that vLLM and others have added (top_k, min_p, repetition_penalty, min_tokens,
 * ignore_eos). */
#include "service/answering.h"
#include "service/conversation.h"
#include "service/service_impl.h"
#include "service/tools.h"

#include "base/clock.h"
#include "engine/engine.h"
#include "model/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum {
    MAX_TOP_CHAT = 20, /* top_logprobs of a chat completion */
    MAX_TOP = 5,       /* logprobs of a completion */
};

/* What a route keeps beside the answering. */
struct openai {
    bool chat, stream, usage, streaming;
    bool logprobs;
    char id[64];
    int64_t created;
    bool told_role[NB_MAX_CHOICES];
    /* Of a stream: log probabilities of tokens whose text was not sent yet, and where the next
     * one's text begins. */
    json_t *logs[NB_MAX_CHOICES];
    json_int_t offset[NB_MAX_CHOICES];

    struct nb_tools tools;     /* of a chat; .list is NULL without any */
    struct nb_trigger trigger; /* of calls that are the model's own choice */
    /* Of a stream of a chat with tools: how much of the content, or of a forced call's arguments,
     * was sent, and whether the call's name was. */
    size_t sent[NB_MAX_CHOICES];
    bool named[NB_MAX_CHOICES];
};

/* ---- what is asked ---- */

static enum nb_status get_int(const json_t *body, const char *key, int64_t min, int64_t max,
                              int64_t *out, struct nb_error *err) {
    const json_t *value = nb_json_member(body, key);
    if (!value)
        return NB_OK;
    if (!json_is_integer(value) || json_integer_value(value) < min ||
        json_integer_value(value) > max)
        return nb_fail(err, NB_ERR_ARGUMENT, "%s: expected an integer from %lld to %lld", key,
                       (long long)min, (long long)max);
    *out = json_integer_value(value);
    return NB_OK;
}

static enum nb_status get_number(const json_t *body, const char *key, double min, double max,
                                 double *out, struct nb_error *err) {
    const json_t *value = nb_json_member(body, key);
    if (!value)
        return NB_OK;
    if (!json_is_number(value) || !(json_number_value(value) >= min) ||
        !(json_number_value(value) <= max))
        return nb_fail(err, NB_ERR_ARGUMENT, "%s: expected a number from %g to %g", key, min, max);
    *out = json_number_value(value);
    return NB_OK;
}

static enum nb_status get_bool(const json_t *body, const char *key, bool *out,
                               struct nb_error *err) {
    const json_t *value = nb_json_member(body, key);
    if (value && !json_is_boolean(value))
        return nb_fail(err, NB_ERR_ARGUMENT, "%s: expected true or false", key);
    if (value)
        *out = json_is_true(value);
    return NB_OK;
}

/* What the model may call, and the grammar of its calls. */
static enum nb_status read_tools(struct nb_answering *a, struct openai *o, struct nb_error *err) {
    const struct nb_service *service = a->service;
    if (!o->chat || !nb_json_member(a->body, "tools"))
        return nb_json_member(a->body, "tool_choice") && o->chat
                   ? nb_tools_read(a->body, NB_CHAT_CALLS_TAGGED, &o->tools, err)
                   : NB_OK;
    if (!service->has_chat)
        return NB_OK; /* the messages say so */
    enum nb_status s = nb_tools_read(a->body, nb_chat_calls(&service->chat), &o->tools, err);
    if (s != NB_OK || !o->tools.list)
        return s;
    a->calls_token = nb_chat_calls_token(&service->chat, service->engine->tokenizer);
    if (!o->tools.forced) {
        if (!nb_tools_trigger(&o->tools, a->calls_token, &o->trigger))
            return NB_OK;
        a->options.trigger = &o->trigger;
    }
    a->options.close = !o->logprobs; /* arguments are whole, whatever max_tokens says */
    return nb_tools_grammar(service->engine, &o->tools, &a->grammar, err);
}

/* What nibble does not do, it refuses, where ignoring it would change the answer. */
static enum nb_status refuse_unsupported(const json_t *body, struct nb_error *err) {
    static const char *const zero[] = {"presence_penalty", "frequency_penalty"};
    for (size_t i = 0; i < sizeof zero / sizeof *zero; i++) {
        const json_t *value = nb_json_member(body, zero[i]);
        if (value && !(json_is_number(value) && json_number_value(value) == 0))
            return nb_fail(err, NB_ERR_UNSUPPORTED,
                           "%s: is not supported; repetition_penalty is (1.0: none)", zero[i]);
    }
    const json_t *bias = nb_json_member(body, "logit_bias");
    if (bias && json_object_size(bias) > 0)
        return nb_fail(err, NB_ERR_UNSUPPORTED, "logit_bias: is not supported");
    static const char *const absent[] = {"suffix", "functions", "function_call", "audio"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
        if (nb_json_member(body, absent[i]))
            return nb_fail(err, NB_ERR_UNSUPPORTED, "%s: is not supported", absent[i]);
    }
    if (json_is_true(nb_json_member(body, "echo")))
        return nb_fail(err, NB_ERR_UNSUPPORTED, "echo: is not supported");
    const json_t *best_of = nb_json_member(body, "best_of");
    if (best_of && json_integer_value(best_of) > 1)
        return nb_fail(err, NB_ERR_UNSUPPORTED, "best_of: more than 1 is not supported");
    return NB_OK;
}

static enum nb_status read_stop(struct nb_answering *a, struct nb_error *err) {
    const json_t *stop = nb_json_member(a->body, "stop");
    if (!stop)
        return NB_OK;
    size_t n = json_is_array(stop) ? json_array_size(stop) : 1;
    if (n > NB_MAX_STOPS)
        return nb_fail(err, NB_ERR_ARGUMENT, "stop: %zu strings, expected at most %d", n,
                       NB_MAX_STOPS);
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_is_array(stop) ? json_array_get(stop, i) : stop;
        if (!json_is_string(one) || !json_string_length(one) ||
            strlen(json_string_value(one)) != json_string_length(one))
            return nb_fail(err, NB_ERR_ARGUMENT,
                           "stop: expected a string that is not empty, or a list of them");
        a->stop[a->n_stop++] = json_string_value(one);
    }
    return NB_OK;
}

static enum nb_status read_sampling(struct nb_answering *a, struct nb_error *err) {
    const json_t *body = a->body;
    struct nb_sampling *how = &a->options.sampling;
    int64_t top_k = 0, seed = 0;
    how->temperature = 1; /* OpenAI's default */
    how->top_p = 1;
    how->repetition_penalty = 1;
    enum nb_status s = get_number(body, "temperature", 0, 2, &how->temperature, err);
    if (s == NB_OK)
        s = get_number(body, "top_p", 1e-6, 1, &how->top_p, err);
    if (s == NB_OK)
        s = get_number(body, "min_p", 0, 1, &how->min_p, err);
    if (s == NB_OK)
        s = get_number(body, "repetition_penalty", 0.01, 100, &how->repetition_penalty, err);
    if (s == NB_OK)
        s = get_int(body, "top_k", -1, INT32_MAX, &top_k, err);
    if (s == NB_OK)
        s = get_int(body, "seed", INT64_MIN, INT64_MAX, &seed, err);
    how->top_k = top_k < 0 ? 0 : (int32_t)top_k;
    how->seed = (uint64_t)seed;
    if (!nb_json_member(body, "seed") &&
        getrandom(&how->seed, sizeof how->seed, 0) != sizeof how->seed)
        how->seed = (uint64_t)nb_now_us();
    return s;
}

static enum nb_status read_lengths(struct nb_answering *a, struct nb_error *err) {
    int64_t max = 0, min = 0, n = 1;
    enum nb_status s = get_int(a->body, "max_tokens", 1, INT32_MAX, &max, err);
    if (s == NB_OK) /* its newer name */
        s = get_int(a->body, "max_completion_tokens", 1, INT32_MAX, &max, err);
    if (s == NB_OK)
        s = get_int(a->body, "min_tokens", 0, INT32_MAX, &min, err);
    if (s == NB_OK)
        s = get_int(a->body, "n", 1, NB_MAX_CHOICES, &n, err);
    if (s == NB_OK)
        s = get_bool(a->body, "ignore_eos", &a->options.ignore_eos, err);
    a->options.max_tokens = (int32_t)max;
    a->options.min_tokens = (int32_t)min;
    a->n_choices = (int)n;
    return s;
}

static enum nb_status read_logprobs(struct nb_answering *a, struct openai *o,
                                    struct nb_error *err) {
    int64_t top = 0;
    enum nb_status s;
    if (o->chat) {
        s = get_bool(a->body, "logprobs", &o->logprobs, err);
        if (s == NB_OK)
            s = get_int(a->body, "top_logprobs", 0, MAX_TOP_CHAT, &top, err);
        if (s == NB_OK && top && !o->logprobs)
            s = nb_fail(err, NB_ERR_ARGUMENT, "top_logprobs: needs \"logprobs\": true");
    } else {
        s = get_int(a->body, "logprobs", 0, MAX_TOP, &top, err);
        o->logprobs = nb_json_member(a->body, "logprobs") != NULL;
    }
    a->options.logprobs = o->logprobs;
    a->options.top_logprobs = (int32_t)top;
    return s;
}

/* {"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "json_schema": {"schema":
 * …}}. */
static enum nb_status read_format(struct nb_answering *a, struct nb_error *err) {
    const json_t *format = nb_json_member(a->body, "response_format");
    const char *type = json_string_value(json_object_get(format, "type"));
    if (!format || (type && strcmp(type, "text") == 0))
        return NB_OK;
    struct nb_structure what = {.name = "response_format.json_schema.schema"};
    char *text = NULL;
    if (type && strcmp(type, "json_object") == 0) {
        what.schema = "{\"type\": \"object\"}";
    } else if (type && strcmp(type, "json_schema") == 0) {
        const json_t *schema = json_object_get(json_object_get(format, "json_schema"), "schema");
        if (!json_is_object(schema) && !json_is_boolean(schema))
            return nb_fail(err, NB_ERR_ARGUMENT, "%s: expected a JSON Schema", what.name);
        what.schema = text = json_dumps(schema, JSON_COMPACT | JSON_ENCODE_ANY);
        if (!text)
            return nb_fail_memory(err, 1, "a schema");
    } else {
        return nb_fail(
            err, NB_ERR_ARGUMENT,
            "response_format.type: expected \"text\", \"json_object\" or \"json_schema\"");
    }
    what.schema_bytes = strlen(what.schema);
    enum nb_status s = nb_grammar_compile(a->service->engine, &what, &a->grammar, err);
    free(text);
    return s;
}

static enum nb_status read_stream(struct nb_answering *a, struct openai *o, struct nb_error *err) {
    enum nb_status s = get_bool(a->body, "stream", &o->stream, err);
    const json_t *options = nb_json_member(a->body, "stream_options");
    if (s == NB_OK && options && !json_is_object(options))
        s = nb_fail(err, NB_ERR_ARGUMENT, "stream_options: expected an object");
    if (s == NB_OK && options)
        s = get_bool(options, "include_usage", &o->usage, err);
    return s;
}

bool nb_check_model(const struct nb_service *service, struct nb_exchange *x, const json_t *body) {
    const json_t *model = nb_json_member(body, "model");
    const char *name = json_string_value(model);
    struct nb_error err;
    if (!model || (name && strcmp(name, service->options.model_name) == 0))
        return true;
    if (!name) {
        nb_answer_error(x, 422, "model: expected a string", "model", NULL);
        return false;
    }
    nb_fail(&err, NB_ERR_ARGUMENT, "model: there is no \"%.100s\" here, only \"%.100s\"", name,
            service->options.model_name);
    nb_answer_error(x, 404, err.message, "model", "model_not_found");
    return false;
}

/* A text becomes ids here, once for all choices. Special tokens in it are those tokens. */
static enum nb_status read_prompt_text(struct nb_answering *a, const json_t *prompt,
                                       struct nb_error *err) {
    const struct nb_tokenizer *tokenizer = a->service->engine->tokenizer;
    a->options.prompt = json_string_value(prompt);
    a->options.prompt_bytes = json_string_length(prompt);
    if (!tokenizer)
        return NB_OK; /* which the engine refuses */
    enum nb_status s =
        nb_tokenizer_encode(tokenizer, a->options.prompt, a->options.prompt_bytes,
                            NB_ENCODE_SPECIAL | NB_ENCODE_TEMPLATE, &a->prompt_ids, err);
    return s == NB_OK ? s : nb_fail_prefix(err, s, "prompt");
}

/* "text", or [1, 2, 3], or a list of one of these. */
static enum nb_status read_prompt(struct nb_answering *a, struct nb_error *err) {
    const json_t *prompt = nb_json_member(a->body, "prompt");
    if (json_is_array(prompt) && json_array_size(prompt) == 1 &&
        !json_is_integer(json_array_get(prompt, 0)))
        prompt = json_array_get(prompt, 0);
    if (json_is_string(prompt))
        return read_prompt_text(a, prompt, err);
    bool ids = json_is_array(prompt) && json_array_size(prompt) > 0;
    for (size_t i = 0; ids && i < json_array_size(prompt); i++) {
        const json_t *id = json_array_get(prompt, i);
        ids = json_is_integer(id) && json_integer_value(id) >= 0 &&
              json_integer_value(id) <= INT32_MAX;
        if (ids && !nb_tokens_add(&a->prompt_ids, (int32_t)json_integer_value(id)))
            return nb_fail_memory(err, json_array_size(prompt) * sizeof(int32_t), "the prompt");
    }
    return ids ? NB_OK
               : nb_fail(err, NB_ERR_ARGUMENT,
                         "prompt: expected a string, or a list of token ids; one prompt a request");
}

static enum nb_status read_request(struct nb_answering *a, struct openai *o, struct nb_error *err) {
    enum nb_status s = refuse_unsupported(a->body, err);
    if (s == NB_OK)
        s = read_stream(a, o, err);
    if (s == NB_OK)
        s = read_sampling(a, err);
    if (s == NB_OK)
        s = read_lengths(a, err);
    if (s == NB_OK)
        s = read_logprobs(a, o, err);
    if (s == NB_OK)
        s = read_stop(a, err);
    if (s == NB_OK)
        s = read_format(a, err);
    if (s == NB_OK)
        s = read_tools(a, o, err);
    if (s == NB_OK)
        s = o->chat ? nb_conversation_encode(a->service, a->body, &o->tools, &a->prompt_ids, err)
                    : read_prompt(a, err);
    if (s == NB_OK && !o->chat && !a->options.max_tokens)
        a->options.max_tokens = 16; /* OpenAI's default */
    return s;
}

/* ---- answers ---- */

static const char *object_name(const struct openai *o) {
    return o->chat ? (o->stream ? "chat.completion.chunk" : "chat.completion") : "text_completion";
}

static const char *finish_name(const struct nb_choice *c) {
    return c->generation.finish == NB_FINISH_LENGTH || c->generation.finish == NB_FINISH_CLOSED
               ? "length"
               : "stop";
}

static json_t *usage_of(const struct nb_answering *a) {
    json_int_t prompt = 0, completion = 0, cached = 0;
    for (int i = 0; i < a->n_choices; i++) {
        const struct nb_choice *c = &a->choices[i];
        prompt = (json_int_t)c->generation.n_prompt_tokens;
        completion += (json_int_t)c->generation.n_tokens;
        cached = i ? cached : (json_int_t)c->cached_tokens;
    }
    return json_pack("{s:I, s:I, s:I, s:{s:I}}", "prompt_tokens", prompt, "completion_tokens",
                     completion, "total_tokens", prompt + completion, "prompt_tokens_details",
                     "cached_tokens", cached);
}

/* An answer's or a chunk's frame; takes choices and usage (either may be NULL). */
static json_t *frame(const struct nb_answering *a, json_t *choices, json_t *usage) {
    const struct openai *o = a->route_context;
    json_t *body =
        json_pack("{s:s, s:s, s:I, s:s, s:o}", "id", o->id, "object", object_name(o), "created",
                  (json_int_t)o->created, "model", a->service->options.model_name, "choices",
                  choices ? choices : json_array());
    if (usage)
        json_object_set_new(body, "usage", usage);
    return body;
}

json_t *nb_token_json(const struct nb_service *s, int32_t id) {
    size_t n;
    const char *text = nb_token_text(s->engine, id, &n);
    return nb_json_text(text, n);
}

static json_t *token_bytes(const struct nb_service *s, int32_t id) {
    size_t n;
    const char *text = nb_token_text(s->engine, id, &n);
    json_t *bytes = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(bytes, json_integer((unsigned char)text[i]));
    return bytes;
}

/* JSON has no minus infinity. */
static double bounded(double logprob) {
    return logprob > -9999 ? logprob : -9999;
}

static json_t *chat_logprob(const struct nb_service *s, int32_t id, double logprob) {
    return json_pack("{s:o, s:f, s:o}", "token", nb_token_json(s, id), "logprob", bounded(logprob),
                     "bytes", token_bytes(s, id));
}

/* A choice's log probabilities before any token's, in either API's shape. */
static json_t *new_logprobs(const struct openai *o) {
    return o->chat ? json_pack("{s:[]}", "content")
                   : json_pack("{s:[], s:[], s:[], s:[]}", "tokens", "token_logprobs",
                               "top_logprobs", "text_offset");
}

static void add_logprob(const struct nb_service *s, const struct openai *o, json_t *to,
                        json_int_t *offset, int32_t id, double logprob, const int32_t *top_ids,
                        const double *top_logprobs, size_t n_top) {
    if (o->chat) {
        json_t *token = chat_logprob(s, id, logprob), *top = json_array();
        for (size_t j = 0; j < n_top; j++)
            json_array_append_new(top, chat_logprob(s, top_ids[j], top_logprobs[j]));
        json_object_set_new(token, "top_logprobs", top);
        json_array_append_new(json_object_get(to, "content"), token);
        return;
    }
    size_t n;
    nb_token_text(s->engine, id, &n);
    json_t *top = json_object();
    for (size_t j = 0; j < n_top; j++) {
        json_t *name = nb_token_json(s, top_ids[j]);
        json_object_set_new(top, json_string_value(name), json_real(bounded(top_logprobs[j])));
        json_decref(name);
    }
    json_array_append_new(json_object_get(to, "tokens"), nb_token_json(s, id));
    json_array_append_new(json_object_get(to, "token_logprobs"), json_real(bounded(logprob)));
    json_array_append_new(json_object_get(to, "top_logprobs"), top);
    json_array_append_new(json_object_get(to, "text_offset"), json_integer(*offset));
    *offset += (json_int_t)n;
}

static json_t *logprobs_of(const struct nb_answering *a, const struct nb_choice *c) {
    const struct openai *o = a->route_context;
    const struct nb_generation *g = &c->generation;
    if (!o->logprobs)
        return json_null();
    json_t *all = new_logprobs(o);
    json_int_t offset = 0;
    for (size_t i = 0; i < g->n_tokens; i++)
        add_logprob(a->service, o, all, &offset, g->token_ids[i], g->logprobs[i],
                    g->top_ids + i * g->n_top, g->top_logprobs + i * g->n_top, g->n_top);
    return all;
}

static void on_logprobs(struct nb_answering *a, struct nb_choice *c, int32_t id, double logprob,
                        const int32_t *top_ids, const double *top_logprobs, size_t n_top) {
    struct openai *o = a->route_context;
    if (!o->logs[c->index])
        o->logs[c->index] = new_logprobs(o);
    add_logprob(a->service, o, o->logs[c->index], &o->offset[c->index], id, logprob, top_ids,
                top_logprobs, n_top);
}

/* Those of the tokens since the last chunk; the caller's from now on. */
static json_t *take_logs(struct openai *o, int choice) {
    json_t *logs = o->logs[choice];
    o->logs[choice] = NULL;
    return logs ? logs : json_null();
}

/* The call of a forced answer that is over, as a list, or NULL if it was cut before its name. */
static json_t *forced_call(const struct openai *o, const struct nb_choice *c, const char *text,
                           size_t n) {
    char name[65], id[10];
    const char *arguments;
    size_t n_arguments;
    json_t *calls = NULL;
    nb_tools_read_forced(&o->tools, text, n, true, c->generation.finish == NB_FINISH_LENGTH, name,
                         &arguments, &n_arguments);
    if (name[0]) {
        nb_tools_new_id(id);
        calls = json_pack("[{s:s, s:s, s:{s:s, s:o}}]", "id", id, "type", "function", "function",
                          "name", name, "arguments", json_stringn(arguments, n_arguments));
    }
    return calls;
}

/* A choice of a chat with tools: calls where it makes some. */
static json_t *choice_with_tools(const struct nb_answering *a, const struct nb_choice *c) {
    const struct openai *o = a->route_context;
    size_t n, content = 0;
    const char *text = nb_choice_text(c, &n);
    json_t *calls = o->tools.forced ? forced_call(o, c, text, n)
                                    : nb_tools_find_calls(&o->tools, a->grammar, text, n,
                                                          c->calls_at, &content);
    json_t *message = json_pack("{s:s}", "role", "assistant");
    if (!calls)
        content = n;
    json_object_set_new(message, "content", content ? json_stringn(text, content) : json_null());
    if (calls)
        json_object_set_new(message, "tool_calls", calls);
    return json_pack("{s:i, s:o, s:o, s:s}", "index", c->index, "message", message, "logprobs",
                     logprobs_of(a, c), "finish_reason",
                     calls && c->generation.finish == NB_FINISH_STOP ? "tool_calls"
                                                                     : finish_name(c));
}

static json_t *whole_choice(const struct nb_answering *a, const struct nb_choice *c) {
    const struct openai *o = a->route_context;
    if (o->tools.list)
        return choice_with_tools(a, c);
    size_t n;
    const char *text = nb_choice_text(c, &n);
    json_t *content = json_stringn(text, n);
    if (o->chat)
        return json_pack("{s:i, s:{s:s, s:o}, s:o, s:s}", "index", c->index, "message", "role",
                         "assistant", "content", content, "logprobs", logprobs_of(a, c),
                         "finish_reason", finish_name(c));
    return json_pack("{s:i, s:o, s:o, s:s}", "index", c->index, "text", content, "logprobs",
                     logprobs_of(a, c), "finish_reason", finish_name(c));
}

/* A server-sent event; takes the document. */
static void send_event(struct nb_answering *a, json_t *body) {
    struct openai *o = a->route_context;
    if (!o->streaming) {
        o->streaming = true;
        nb_exchange_stream(a->exchange, 200, "text/event-stream");
    }
    char *text = json_dumps(body, JSON_COMPACT | JSON_REAL_PRECISION(9));
    json_decref(body);
    struct nb_buf line = {0};
    nb_buf_printf(&line, "data: %s\n\n", text ? text : "{}");
    nb_exchange_write(a->exchange, line.data, line.len);
    nb_buf_free(&line);
    free(text);
}

/* A chunk of a choice: text, or, where finish is not NULL, its end; calls (may be NULL) are of a
 * chat, and the chunk's. */
static json_t *chunk(const struct nb_answering *a, const struct nb_choice *c, const char *text,
                     size_t n, json_t *calls, const char *finish) {
    struct openai *o = a->route_context;
    json_t *one;
    if (o->chat) {
        json_t *delta = json_object();
        if (calls)
            json_object_set_new(delta, "tool_calls", calls);
        if (!o->told_role[c->index])
            json_object_set_new(delta, "role", json_string("assistant"));
        o->told_role[c->index] = true;
        if ((!finish && !calls) || n)
            json_object_set_new(delta, "content", json_stringn(text, n));
        one = json_pack("{s:i, s:o, s:o, s:s?}", "index", c->index, "delta", delta, "logprobs",
                        take_logs(o, c->index), "finish_reason", finish);
    } else {
        one = json_pack("{s:i, s:o, s:o, s:s?}", "index", c->index, "text", json_stringn(text, n),
                        "logprobs", take_logs(o, c->index), "finish_reason", finish);
    }
    return frame(a, json_pack("[o]", one), o->usage ? json_null() : NULL);
}

static void on_text(struct nb_answering *a, struct nb_choice *c, const char *text, size_t n) {
    send_event(a, chunk(a, c, text, n, NULL, NULL));
}

/* Sends what is new of a forced call, of all its text so far. */
static void send_forced(struct nb_answering *a, struct nb_choice *c, const char *text, size_t n,
                        bool over) {
    struct openai *o = a->route_context;
    char name[65], id[10];
    const char *arguments;
    size_t n_arguments, *sent = &o->sent[c->index];
    nb_tools_read_forced(&o->tools, text, n, over, c->generation.finish == NB_FINISH_LENGTH, name,
                         &arguments, &n_arguments);
    if (name[0] && !o->named[c->index]) {
        nb_tools_new_id(id);
        send_event(a,
                   chunk(a, c, "", 0,
                         json_pack("[{s:i, s:s, s:s, s:{s:s, s:s}}]", "index", 0, "id", id, "type",
                                   "function", "function", "name", name, "arguments", ""),
                         NULL));
    }
    o->named[c->index] |= name[0] != 0;
    if (n_arguments > *sent)
        send_event(a, chunk(a, c, "", 0,
                            json_pack("[{s:i, s:{s:o}}]", "index", 0, "function", "arguments",
                                      json_stringn(arguments + *sent, n_arguments - *sent)),
                            NULL));
    *sent = n_arguments > *sent ? n_arguments : *sent;
}

/* Sends content up to byte n of a choice's text. */
static void send_content(struct nb_answering *a, struct nb_choice *c, const char *text, size_t n) {
    size_t *sent = &((struct openai *)a->route_context)->sent[c->index];
    if (n > *sent) {
        on_text(a, c, text + *sent, n - *sent);
        *sent = n;
    }
}

/* Text of a chat with tools. */
static void on_text_or_call(struct nb_answering *a, struct nb_choice *c, const char *text,
                            size_t n) {
    const struct openai *o = a->route_context;
    const char *all = text - c->told;
    if (o->tools.forced)
        send_forced(a, c, all, c->told + n, false);
    else
        send_content(a, c, all, nb_tools_certain(&o->tools, all, c->told + n, c->calls_at));
}

/* The end of a choice of such a chat: what was held back, and why it ended. */
static void end_with_tools(struct nb_answering *a, struct nb_choice *c) {
    const struct openai *o = a->route_context;
    size_t n, content = 0;
    const char *text = nb_choice_text(c, &n);
    json_t *calls = NULL, *call;
    if (o->tools.forced) {
        send_forced(a, c, text, n, true);
    } else {
        calls = nb_tools_find_calls(&o->tools, a->grammar, text, n, c->calls_at, &content);
        send_content(a, c, text, content);
        size_t i;
        json_array_foreach(calls, i, call) {
            json_object_set_new(call, "index", json_integer((json_int_t)i));
        }
        if (calls)
            send_event(a, chunk(a, c, "", 0, calls, NULL));
    }
    bool called = calls || o->named[c->index];
    send_event(
        a, chunk(a, c, "", 0, NULL,
                 called && c->generation.finish == NB_FINISH_STOP ? "tool_calls" : finish_name(c)));
}

static const struct nb_choice *failed_choice(const struct nb_answering *a) {
    for (int i = 0; i < a->n_choices; i++) {
        if (a->choices[i].status != NB_OK)
            return &a->choices[i];
    }
    return NULL;
}

static void end_stream(struct nb_answering *a) {
    struct openai *o = a->route_context;
    const struct nb_choice *failed = failed_choice(a);
    for (int i = 0; failed && i < a->n_choices; i++)
        json_decref(take_logs(o, i));
    if (failed && !o->streaming) {
        nb_answer_failure(a->exchange, &failed->error);
        return;
    }
    for (int i = 0; i < a->n_choices && !failed; i++) {
        struct nb_choice *c = &a->choices[i];
        if (o->tools.list)
            end_with_tools(a, c);
        else
            send_event(a, chunk(a, c, "", 0, NULL, finish_name(c)));
    }
    if (failed) {
        char why[NB_ERROR_MESSAGE_BYTES];
        nb_public_message(a->exchange, failed->error.message, why, sizeof why);
        send_event(a, json_pack("{s:{s:s, s:s, s:n}}", "error", "message", why, "type",
                                "server_error", "code"));
    } else if (o->usage)
        send_event(a, frame(a, NULL, usage_of(a)));
    static const char done[] = "data: [DONE]\n\n";
    nb_exchange_write(a->exchange, done, sizeof done - 1);
    nb_exchange_end(a->exchange);
}

static void on_over(struct nb_answering *a) {
    const struct openai *o = a->route_context;
    if (o->stream) {
        end_stream(a);
        return;
    }
    const struct nb_choice *failed = failed_choice(a);
    if (failed) {
        nb_answer_failure(a->exchange, &failed->error);
        return;
    }
    json_t *choices = json_array();
    for (int i = 0; i < a->n_choices; i++)
        json_array_append_new(choices, whole_choice(a, &a->choices[i]));
    nb_answer_json(a->exchange, 200, frame(a, choices, usage_of(a)));
}

/* ---- routes ---- */

static void route(struct nb_service *service, struct nb_exchange *x, uint64_t client, bool chat) {
    struct nb_error err;
    struct nb_answering *a = nb_answering_new(service, x, client, sizeof(struct openai));
    if (!a) {
        nb_answer_error(x, 507, "out of memory", NULL, NULL);
        return;
    }
    struct openai *o = a->route_context;
    o->chat = chat;
    o->created = (int64_t)time(NULL);
    snprintf(o->id, sizeof o->id, "%s-%s", chat ? "chatcmpl" : "cmpl", x->id);
    if (!nb_read_body(x, &a->body) || !nb_check_model(service, x, a->body)) {
        nb_answering_free(a);
        return;
    }
    enum nb_status s = read_request(a, o, &err);
    if (s != NB_OK) {
        nb_answering_free(a);
    } else {
        a->on_text = !o->stream ? NULL : o->tools.list ? on_text_or_call : on_text;
        a->on_logprobs = o->stream && o->logprobs ? on_logprobs : NULL;
        a->on_over = on_over;
        s = nb_answering_begin(a, &err);
    }
    if (s != NB_OK)
        nb_answer_failure(x, &err);
}

void nb_route_completions(struct nb_service *service, struct nb_exchange *exchange,
                          uint64_t client) {
    route(service, exchange, client, false);
}

void nb_route_chat(struct nb_service *service, struct nb_exchange *exchange, uint64_t client) {
    route(service, exchange, client, true);
}

void nb_route_models(struct nb_service *service, struct nb_exchange *exchange, uint64_t client) {
    nb_auth_leave(service->auth, client);
    nb_answer_json(exchange, 200,
                   json_pack("{s:s, s:[{s:s, s:s, s:I, s:s, s:i}]}", "object", "list", "data", "id",
                             service->options.model_name, "object", "model", "created",
                             (json_int_t)service->created, "owned_by", "nibble", "max_model_len",
                             (int)service->engine->context));
}
