#include "service/jobs/job.h"

#include "service/service_impl.h"

#include <stdlib.h>
#include <string.h>

static const struct endpoint {
    const char *method, *path;
} endpoints[] = {
    {"POST", "/prompt"},         {"GET", "/health"},
    {"POST", "/warmup"},         {"POST", "/v1/chat/completions"},
    {"POST", "/v1/completions"}, {"POST", "/v1/classify"},
    {"POST", "/v1/score"},       {"GET", "/v1/models"},
};
enum { N_ENDPOINTS = sizeof endpoints / sizeof *endpoints };

static enum nb_status set_endpoint(struct nb_job_input *out, const char *path,
                                   struct nb_error *err) {
    for (size_t i = 0; i < N_ENDPOINTS; i++) {
        if (strcmp(path, endpoints[i].path) != 0)
            continue;
        out->method = endpoints[i].method;
        out->path = endpoints[i].path;
        return NB_OK;
    }
    return nb_fail(err, NB_ERR_UNSUPPORTED, "there is no endpoint \"%.100s\"", path);
}

/* A string of the input in *out; other types are an error, null is absence. */
static enum nb_status get_string(const json_t *input, const char *key, char **out,
                                 struct nb_error *err) {
    const json_t *value = json_object_get(input, key);
    if (!value || json_is_null(value))
        return NB_OK;
    if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value))
        return nb_fail(err, NB_ERR_ARGUMENT, "%s: expected a string", key);
    *out = strdup(json_string_value(value));
    return *out ? NB_OK : nb_fail_memory(err, json_string_length(value), "a job");
}

/* The body of the request: an object of the input, or all of it without what is not the API's. */
static enum nb_status set_body(struct nb_job_input *out, const json_t *body, const char *name,
                               struct nb_error *err) {
    if (body && !json_is_object(body) && !json_is_null(body))
        return nb_fail(err, NB_ERR_ARGUMENT, "%s: expected an object", name);
    out->stream = json_is_true(json_object_get(body, "stream"));
    out->body = json_is_object(body) ? json_dumps(body, JSON_COMPACT | JSON_REAL_PRECISION(17))
                                     : strdup("{}");
    if (!out->body)
        return nb_fail_memory(err, 1, "a job");
    out->body_bytes = strlen(out->body);
    return NB_OK;
}

static enum nb_status set_plain_body(struct nb_job_input *out, const json_t *input,
                                     struct nb_error *err) {
    json_t *copy = json_copy((json_t *)input); /* a shallow one */
    if (!copy)
        return nb_fail_memory(err, 1, "a job");
    json_object_del(copy, "api_key");
    json_object_del(copy, "callback_url");
    json_object_del(copy, "callback_api_key");
    enum nb_status s = set_body(out, copy, "input", err);
    json_decref(copy);
    return s;
}

enum nb_status nb_job_input_read(const json_t *input, struct nb_job_input *out,
                                 struct nb_error *err) {
    *out = (struct nb_job_input){0};
    if (!json_is_object(input))
        return nb_fail(err, NB_ERR_ARGUMENT, "input: expected an object");
    enum nb_status s = get_string(input, "callback_api_key", &out->callback_key, err);
    if (s == NB_OK)
        s = get_string(input, "callback_url", &out->callback_url, err);
    if (s == NB_OK)
        s = get_string(input, "api_key", &out->key, err);
    if (s != NB_OK)
        return s;
    const json_t *endpoint = json_object_get(input, "endpoint"),
                 *route = json_object_get(input, "openai_route");
    if (route) {
        out->style = NB_JOB_OPENAI_ROUTE;
        if (!json_is_string(route))
            return nb_fail(err, NB_ERR_ARGUMENT, "openai_route: expected a string");
        s = set_endpoint(out, json_string_value(route), err);
        return s == NB_OK
                   ? set_body(out, json_object_get(input, "openai_input"), "openai_input", err)
                   : s;
    }
    if (!endpoint && (json_object_get(input, "messages") || json_object_get(input, "prompt"))) {
        out->style = NB_JOB_OPENAI;
        s = set_endpoint(
            out, json_object_get(input, "messages") ? "/v1/chat/completions" : "/v1/completions",
            err);
        return s == NB_OK ? set_plain_body(out, input, err) : s;
    }
    if (endpoint && !json_is_string(endpoint))
        return nb_fail(err, NB_ERR_ARGUMENT, "endpoint: expected a string");
    if (!endpoint)
        return nb_fail(err, NB_ERR_UNSUPPORTED,
                       "input: found none of \"endpoint\", \"openai_route\", \"messages\" and "
                       "\"prompt\"");
    s = set_endpoint(out, json_string_value(endpoint), err);
    return s == NB_OK ? set_body(out, json_object_get(input, "data"), "data", err) : s;
}

void nb_job_input_free(struct nb_job_input *input) {
    free(input->body);
    free(input->key);
    free(input->callback_url);
    free(input->callback_key);
    *input = (struct nb_job_input){0};
}

/* The end of the string that begins with the quote at text[at]; n if it has none. */
static size_t string_end(const char *text, size_t n, size_t at) {
    for (at++; at < n && text[at] != '"'; at++)
        at += text[at] == '\\';
    return at < n ? at : n;
}

bool nb_job_find_id(const char *text, size_t n, char *out, size_t size) {
    static const char key[] = "\"id\"";
    int depth = 0;
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '{' || text[i] == '[') {
            depth++;
        } else if (text[i] == '}' || text[i] == ']') {
            depth--;
        } else if (text[i] == '"') {
            size_t end = string_end(text, n, i);
            bool found = depth == 1 && end < n && end - i == 3 && memcmp(text + i, key, 4) == 0;
            i = end;
            while (found && i + 1 < n && strchr(" \t\r\n:", text[i + 1]))
                i++;
            if (!found || i + 1 >= n || text[i + 1] != '"')
                continue;
            end = string_end(text, n, i + 1);
            size_t length = end - (i + 2);
            if (end == n || !length || length >= size)
                return false;
            memcpy(out, text + i + 2, length);
            out[length] = 0;
            for (const char *c = out; *c; c++) {
                if (*c <= ' ' || *c > '~' || *c == ',' || *c == '\\')
                    return false;
            }
            return strlen(out) == length;
        }
    }
    return false;
}

/* ---- results ---- */

static const char *type_of(int status) {
    switch (status) {
    case 401:
    case 403:
        return "AuthenticationError";
    case 404:
        return "NotFoundError";
    case 429:
        return "RateLimitError";
    case 503:
        return "ServiceUnavailable";
    case 507:
        return "OutOfMemoryError";
    default:
        return status >= 500 ? "ServerError" : "ValidationError";
    }
}

/* The message of an error's body, {"detail": text} or {"error": {"message": text}}: a new string.
 */
static json_t *message_of(const char *body, size_t n) {
    json_error_t why;
    json_t *parsed = json_loadb(body, n, 0, &why);
    json_t *message = json_object_get(parsed, "detail");
    if (!message)
        message = json_object_get(json_object_get(parsed, "error"), "message");
    message = json_is_string(message) ? json_incref(message)
                                      : json_string("the request could not be answered");
    json_decref(parsed);
    return message;
}

static void add_json(struct nb_buf *out, json_t *value) {
    char *text = value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
    json_decref(value);
    if (text)
        nb_buf_add_string(out, text);
    else
        out->failed = true;
    free(text);
}

void nb_job_result(enum nb_job_style style, int status, const char *body, size_t n,
                   struct nb_buf *out) {
    if (status >= 200 && status < 300) {
        bool list = style == NB_JOB_OPENAI_ROUTE;
        nb_buf_add_string(out, list ? "{\"output\":[" : "{\"output\":");
        nb_buf_add(out, body, n);
        nb_buf_add_string(out, list ? "]}" : "}");
        return;
    }
    add_json(out, json_pack("{s:{s:b, s:s}, s:o}", "output", "success", 0, "error_type",
                            type_of(status), "error", message_of(body, n)));
}

void nb_job_failure(const struct nb_error *err, const char *type, struct nb_buf *out) {
    bool unknown = !type && err->code == NB_ERR_UNSUPPORTED;
    json_t *supported = json_array();
    for (size_t i = 0; i < N_ENDPOINTS; i++)
        json_array_append_new(supported, json_string(endpoints[i].path));
    json_t *output = json_pack("{s:b, s:s}", "success", 0, "error_type",
                               type      ? type
                               : unknown ? "UnknownEndpoint"
                                         : type_of(nb_status_of(err)));
    if (unknown)
        json_object_set(output, "supported_endpoints", supported);
    json_decref(supported);
    add_json(out, json_pack("{s:o, s:s}", "output", output, "error", err->message));
}

void nb_job_callback(const char *job_id, const char *key, int status, const char *body, size_t n,
                     struct nb_buf *out) {
    bool fine = status >= 200 && status < 300;
    nb_buf_add_string(out, "{\"job_id\":");
    add_json(out, json_string(job_id));
    nb_buf_printf(out, ",\"status\":\"%s\",\"api_key\":", fine ? "COMPLETED" : "FAILED");
    add_json(out, key ? json_string(key) : json_null());
    nb_buf_add_string(out, fine ? ",\"result\":" : ",\"error\":");
    if (fine)
        nb_buf_add(out, body, n);
    else
        add_json(out, message_of(body, n));
    nb_buf_add_string(out, "}");
}

/* ---- streams ---- */

/* The data of the event at *at, and *at behind it. */
static const char *next_event(const char **at, const char *end, size_t *n) {
    static const char prefix[] = "data: ";
    while (*at < end) {
        const char *line = *at, *stop = memchr(line, '\n', (size_t)(end - line));
        size_t bytes = (size_t)((stop ? stop : end) - line);
        *at = stop ? stop + 1 : end;
        if (bytes > sizeof prefix - 1 && memcmp(line, prefix, sizeof prefix - 1) == 0) {
            *n = bytes - (sizeof prefix - 1);
            return line + sizeof prefix - 1;
        }
    }
    return NULL;
}

static bool begins(const char *text, size_t n, const char *with) {
    size_t m = strlen(with);
    return n >= m && memcmp(text, with, m) == 0;
}

bool nb_job_part(enum nb_job_style style, const char *events, size_t n, struct nb_buf *out,
                 struct nb_buf *parts, struct nb_buf *error) {
    struct nb_buf part = {0};
    const char *at = events, *data;
    size_t bytes;
    while ((data = next_event(&at, events + n, &bytes))) {
        if (begins(data, bytes, "{\"error\":")) {
            json_t *message = message_of(data, bytes);
            nb_buf_clear(error);
            nb_buf_add(error, json_string_value(message), json_string_length(message));
            json_decref(message);
        } else if (style != NB_JOB_OPENAI_ROUTE && data[0] == '{') {
            if (part.len)
                nb_buf_add(&part, ",", 1);
            nb_buf_add(&part, data, bytes);
        }
    }
    if (style == NB_JOB_OPENAI_ROUTE && n)
        nb_buf_add_json_string(&part, events, n);
    bool some = part.len > 0;
    if (some) {
        bool list = style != NB_JOB_OPENAI_ROUTE;
        nb_buf_printf(out, "{\"output\":%s", list ? "[" : "");
        nb_buf_add(out, part.data, part.len);
        nb_buf_add_string(out, list ? "]}" : "}");
        if (parts->len)
            nb_buf_add(parts, ",", 1);
        nb_buf_add(parts, part.data, part.len);
    }
    out->failed |= part.failed;
    nb_buf_free(&part);
    return some;
}
