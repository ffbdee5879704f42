#include "service/conversation.h"

#include "model/json.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_MESSAGES = 4096, MAX_CALLS = 128 };

/* What a message holds that the body does not. */
struct held {
    struct nb_buf joined;
    struct nb_chat_call *calls;
    json_t *arguments; /* [] of the calls' */
};

/* A message's content: a string, or a list of {"type": "text", "text"}, joined into `joined`. */
static enum nb_status read_content(const json_t *content, size_t i, struct nb_buf *joined,
                                   struct nb_chat_message *out, struct nb_error *err) {
    if (json_is_string(content)) {
        out->content = json_string_value(content);
        out->bytes = json_string_length(content);
        return NB_OK;
    }
    if (!json_is_array(content))
        return nb_fail(err, NB_ERR_ARGUMENT, "messages[%zu].content: expected a string or a list",
                       i);
    for (size_t j = 0; j < json_array_size(content); j++) {
        const json_t *part = json_array_get(content, j), *text = json_object_get(part, "text"),
                     *type = json_object_get(part, "type");
        if (!json_is_string(text) || !json_is_string(type) ||
            strcmp(json_string_value(type), "text") != 0)
            return nb_fail(err, NB_ERR_UNSUPPORTED,
                           "messages[%zu].content[%zu]: expected {\"type\": \"text\", \"text\": …}",
                           i, j);
        nb_buf_add(joined, json_string_value(text), json_string_length(text));
    }
    nb_buf_add(joined, "", 0);
    if (joined->failed)
        return nb_fail_memory(err, joined->len, "a message");
    out->content = joined->data;
    out->bytes = joined->len;
    return NB_OK;
}

/* {"id", "type": "function", "function": {"name", "arguments": JSON in a string}} */
static enum nb_status read_call(const json_t *call, size_t i, size_t j, struct held *held,
                                struct nb_error *err) {
    const json_t *function = json_object_get(call, "function");
    const char *name = json_string_value(json_object_get(function, "name")),
               *arguments = json_string_value(json_object_get(function, "arguments"));
    if (!name || !*name || strlen(name) > 64 || strpbrk(name, "\"\\\n") || !arguments)
        return nb_fail(err, NB_ERR_ARGUMENT,
                       "messages[%zu].tool_calls[%zu].function: expected a name, and arguments as "
                       "a string of JSON",
                       i, j);
    json_t *parsed = NULL;
    char where[64];
    snprintf(where, sizeof where, "messages[%zu].tool_calls[%zu].function.arguments", i, j);
    enum nb_status s = nb_json_parse(*arguments ? arguments : "{}",
                                     *arguments ? strlen(arguments) : 2, where, &parsed, err);
    if (s != NB_OK)
        return s;
    held->calls[j] =
        (struct nb_chat_call){json_string_value(json_object_get(call, "id")), name, parsed};
    json_array_append_new(held->arguments, parsed);
    return NB_OK;
}

static enum nb_status read_calls(const json_t *calls, size_t i, struct held *held,
                                 struct nb_chat_message *out, struct nb_error *err) {
    size_t n = json_array_size(calls);
    if (!json_is_array(calls) || n > MAX_CALLS)
        return nb_fail(err, NB_ERR_ARGUMENT,
                       "messages[%zu].tool_calls: expected a list of at most %d", i, MAX_CALLS);
    held->calls = calloc(n ? n : 1, sizeof *held->calls);
    held->arguments = json_array();
    if (!held->calls || !held->arguments)
        return nb_fail_memory(err, n * sizeof *held->calls, "calls");
    enum nb_status s = NB_OK;
    for (size_t j = 0; j < n && s == NB_OK; j++)
        s = read_call(json_array_get(calls, j), i, j, held, err);
    out->calls = held->calls;
    out->n_calls = n;
    return s;
}

static enum nb_status read_message(const json_t *message, size_t i, struct held *held,
                                   struct nb_chat_message *out, struct nb_error *err) {
    static const char *const roles[] = {"system", "user", "assistant", "tool", "developer"};
    const char *role = json_string_value(json_object_get(message, "role"));
    for (size_t k = 0; role && k < sizeof roles / sizeof *roles; k++) {
        if (strcmp(role, roles[k]) == 0)
            out->role = k == 4 ? "system" : roles[k];
    }
    if (!out->role)
        return nb_fail(err, NB_ERR_ARGUMENT,
                       "messages[%zu].role: expected \"system\", \"user\", \"assistant\" or "
                       "\"tool\"",
                       i);
    const json_t *calls = nb_json_member(message, "tool_calls"),
                 *content = nb_json_member(message, "content");
    bool assistant = strcmp(role, "assistant") == 0;
    if (calls && !assistant)
        return nb_fail(err, NB_ERR_ARGUMENT, "messages[%zu].tool_calls: only an assistant has them",
                       i);
    out->call_id = json_string_value(json_object_get(message, "tool_call_id"));
    if (strcmp(role, "tool") == 0 && !out->call_id)
        return nb_fail(err, NB_ERR_ARGUMENT,
                       "messages[%zu].tool_call_id: expected the id of the call that this is the "
                       "result of",
                       i);
    enum nb_status s = calls ? read_calls(calls, i, held, out, err) : NB_OK;
    out->content = "";
    if (s == NB_OK && (content || !out->n_calls))
        s = read_content(content, i, &held->joined, out, err);
    return s;
}

static enum nb_status encode(const struct nb_service *service, const json_t *list,
                             const struct nb_tools *tools, struct nb_chat_message *messages,
                             struct held *held, struct nb_tokens *out, struct nb_error *err) {
    enum nb_status s = NB_OK;
    struct nb_chat_talk talk = {
        .messages = messages,
        .n = json_array_size(list),
        .tools = tools ? tools->list : NULL,
        .add_generation_prompt = true,
        .begin_call = tools && tools->forced,
    };
    for (size_t i = 0; i < talk.n && s == NB_OK; i++)
        s = read_message(json_array_get(list, i), i, &held[i], &messages[i], err);
    return s == NB_OK
               ? nb_chat_encode_talk(&service->chat, service->engine->tokenizer, &talk, out, err)
               : s;
}

enum nb_status nb_conversation_encode(const struct nb_service *service, const json_t *body,
                                      const struct nb_tools *tools, struct nb_tokens *out,
                                      struct nb_error *err) {
    if (!service->has_chat) {
        *err = service->no_chat;
        return nb_fail_prefix(err, err->code, "messages");
    }
    const json_t *list = nb_json_member(body, "messages");
    size_t n = json_is_array(list) ? json_array_size(list) : 0;
    if (n == 0 || n > MAX_MESSAGES)
        return nb_fail(err, NB_ERR_ARGUMENT, "messages: expected a list of 1 to %d", MAX_MESSAGES);
    struct nb_chat_message *messages = calloc(n, sizeof *messages);
    struct held *held = calloc(n, sizeof *held);
    enum nb_status s = messages && held ? encode(service, list, tools, messages, held, out, err)
                                        : nb_fail_memory(err, n * sizeof *held, "the messages");
    for (size_t i = 0; held && i < n; i++) {
        nb_buf_free(&held[i].joined);
        free(held[i].calls);
        json_decref(held[i].arguments);
    }
    free(held);
    free(messages);
    return s;
}
