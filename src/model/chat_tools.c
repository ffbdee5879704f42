#include "model/chat_tools.h"

#include "model/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- JSON as Python writes it ---- */

/* The shortest digits that are this number again, as repr() of a float. */
static void write_real(double value, struct nb_buf *out) {
    char text[40] = "";
    int digits = 1;
    for (; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*e", digits - 1, value);
        if (strtod(text, NULL) == value)
            break;
    }
    const char *e = strchr(text, 'e');
    int exponent = e ? atoi(e + 1) : 0;
    if (exponent >= 16)
        nb_buf_printf(out, "%.*se+%02d", (int)(e - text), text, exponent);
    else if (exponent < -4)
        nb_buf_printf(out, "%.*se-%02d", (int)(e - text), text, -exponent);
    else
        nb_buf_printf(out, "%.*f", digits - 1 > exponent ? digits - 1 - exponent : 1, value);
}

static void new_line(int indent, int depth, struct nb_buf *out) {
    if (indent)
        nb_buf_printf(out, "\n%*s", indent * depth, "");
}

static void write_value(const json_t *value, int indent, int depth, struct nb_buf *out) {
    const char *comma = indent ? "," : ", ", *key;
    const json_t *member;
    size_t i, n = 0;
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        nb_buf_add_string(out, "{");
        json_object_foreach((json_t *)value, key, member) {
            nb_buf_add_string(out, n++ ? comma : "");
            new_line(indent, depth + 1, out);
            nb_buf_add_json_string(out, key, strlen(key));
            nb_buf_add_string(out, ": ");
            write_value(member, indent, depth + 1, out);
        }
        if (n)
            new_line(indent, depth, out);
        nb_buf_add_string(out, "}");
        break;
    case JSON_ARRAY:
        nb_buf_add_string(out, "[");
        json_array_foreach(value, i, member) {
            nb_buf_add_string(out, i ? comma : "");
            new_line(indent, depth + 1, out);
            write_value(member, indent, depth + 1, out);
        }
        if (json_array_size(value))
            new_line(indent, depth, out);
        nb_buf_add_string(out, "]");
        break;
    case JSON_STRING:
        nb_buf_add_json_string(out, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
        nb_buf_printf(out, "%lld", (long long)json_integer_value(value));
        break;
    case JSON_REAL:
        write_real(json_real_value(value), out);
        break;
    default:
        nb_buf_add_string(out, json_is_true(value)    ? "true"
                               : json_is_false(value) ? "false"
                                                      : "null");
    }
}

void nb_json_write_python(const json_t *value, int indent, struct nb_buf *out) {
    write_value(value, indent, 0, out);
}

/* ---- messages made of others ---- */

void nb_chat_plain_free(struct nb_chat_plain *plain) {
    for (size_t i = 0; i < plain->n_texts; i++)
        nb_buf_free(&plain->texts[i]);
    free(plain->texts);
    free(plain->messages);
    *plain = (struct nb_chat_plain){0};
}

/* Room for one message more than there were. */
static enum nb_status start(const struct nb_chat_talk *talk, struct nb_chat_plain *out,
                            struct nb_error *err) {
    *out = (struct nb_chat_plain){.n_texts = talk->n + 1};
    out->messages = calloc(out->n_texts, sizeof *out->messages);
    out->texts = calloc(out->n_texts, sizeof *out->texts);
    if (out->messages && out->texts)
        return NB_OK;
    if (!out->texts)
        out->n_texts = 0;
    return nb_fail_memory(err, (talk->n + 1) * sizeof *out->messages, "the messages");
}

/* The text of the message that comes next. */
static struct nb_buf *next_text(struct nb_chat_plain *p) {
    return &p->texts[p->n];
}

/* Appends a message with that text. */
static struct nb_chat_message *add(struct nb_chat_plain *p, const char *role) {
    struct nb_buf *text = next_text(p);
    nb_buf_add(text, "", 0);
    p->messages[p->n++] = (struct nb_chat_message){
        .role = role, .content = text->data ? text->data : "", .bytes = text->len};
    return &p->messages[p->n - 1];
}

static enum nb_status end(const struct nb_chat_plain *p, struct nb_error *err) {
    for (size_t i = 0; i < p->n; i++) {
        if (p->texts[i].failed)
            return nb_fail_memory(err, p->texts[i].len, "a message");
    }
    return NB_OK;
}

static bool is(const struct nb_chat_message *m, const char *role) {
    return strcmp(m->role, role) == 0;
}

/* ---- <tool_call>: Qwen and Hermes ---- */

static void add_tagged_tools(const json_t *tools, bool doubled, struct nb_buf *out) {
    nb_buf_add_string(out, "# Tools\n\nYou may call one or more functions to assist with the user "
                           "query.\n\nYou are provided with function signatures within "
                           "<tools></tools> XML tags:\n<tools>");
    size_t i;
    const json_t *tool;
    json_array_foreach(tools, i, tool) {
        nb_buf_add_string(out, "\n");
        nb_json_write_python(tool, 0, out);
    }
    nb_buf_printf(
        out,
        "\n</tools>\n\nFor each function call, return a json object with function name "
        "and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n%s\"name\": "
        "<function-name>, \"arguments\": <args-json-object>%s\n</tool_call>",
        doubled ? "{{" : "{", doubled ? "}}" : "}");
}

static void add_tagged_call(const struct nb_chat_call *call, struct nb_buf *out) {
    nb_buf_printf(out, "<tool_call>\n{\"name\": \"%s\", \"arguments\": ", call->name);
    nb_json_write_python(call->arguments, 0, out);
    nb_buf_add_string(out, "}\n</tool_call>");
}

/* One message after the system prompt; *i is its index, and afterwards the next one's. */
static void tag_message(const struct nb_chat_talk *talk, size_t *i, const char *before,
                        struct nb_chat_plain *p) {
    const struct nb_chat_message *m = &talk->messages[(*i)++];
    struct nb_buf *text = next_text(p);
    nb_buf_add_string(text, before);
    if (!is(m, "tool")) {
        nb_buf_add(text, m->content, m->bytes);
        for (size_t k = 0; k < m->n_calls; k++) {
            nb_buf_add_string(text, text->len ? "\n" : "");
            add_tagged_call(&m->calls[k], text);
        }
        add(p, m->role);
        return;
    }
    for (;; m = &talk->messages[(*i)++]) {
        nb_buf_add_string(text, "<tool_response>\n");
        nb_buf_add(text, m->content, m->bytes);
        nb_buf_add_string(text, "\n</tool_response>");
        if (*i == talk->n || !is(&talk->messages[*i], "tool"))
            break;
        nb_buf_add_string(text, "\n");
    }
    add(p, "user");
}

enum nb_status nb_chat_tag_tools(const struct nb_chat_talk *talk, const char *default_system,
                                 bool system_refused, bool doubled, struct nb_chat_plain *out,
                                 struct nb_error *err) {
    size_t i = 0;
    struct nb_buf tools = {0};
    enum nb_status s = start(talk, out, err);
    if (s != NB_OK)
        return s;
    if (json_array_size(talk->tools))
        add_tagged_tools(talk->tools, doubled, &tools);
    const struct nb_chat_message *first = &talk->messages[0];
    if (tools.len && !(system_refused && !is(first, "system"))) {
        struct nb_buf *text = next_text(out);
        if (is(first, "system")) {
            nb_buf_add(text, first->content, first->bytes);
            i++;
        } else if (default_system) {
            nb_buf_add_string(text, default_system);
        }
        nb_buf_add_string(text, i || default_system ? "\n\n" : "");
        nb_buf_add(text, tools.data, tools.len);
        add(out, "system");
    } else if (tools.len) {
        nb_buf_add_string(&tools, "\n\n");
        tag_message(talk, &i, tools.data ? tools.data : "", out);
    }
    while (i < talk->n)
        tag_message(talk, &i, "", out);
    s = tools.failed ? nb_fail_memory(err, tools.len, "the tools") : end(out, err);
    nb_buf_free(&tools);
    return s;
}

/* ---- Llama ---- */

static void add_llama_tools(const json_t *tools, struct nb_buf *out) {
    nb_buf_add_string(
        out, "Given the following functions, please respond with a JSON for a function call with "
             "its proper arguments that best answers the given prompt.\n\nRespond in the format "
             "{\"name\": function name, \"parameters\": dictionary of argument name and its "
             "value}.Do not use variables.\n\n");
    size_t i;
    const json_t *tool;
    json_array_foreach(tools, i, tool) {
        nb_json_write_python(tool, 4, out);
        nb_buf_add_string(out, "\n\n");
    }
}

enum nb_status nb_chat_llama_tools(const struct nb_chat_talk *talk, struct nb_chat_plain *out,
                                   struct nb_error *err) {
    enum nb_status s = start(talk, out, err);
    bool tools = json_array_size(talk->tools) > 0;
    for (size_t i = 0; i < talk->n && s == NB_OK; i++) {
        const struct nb_chat_message *m = &talk->messages[i];
        struct nb_buf *text = next_text(out);
        size_t first = is(&talk->messages[0], "system");
        if (tools && i == first) {
            /* Whoever's it is: the template makes it the user's. */
            struct nb_chat_message trimmed = nb_chat_trimmed(m);
            add_llama_tools(talk->tools, text);
            nb_buf_add(text, trimmed.content, trimmed.bytes);
            add(out, "user")->whole = true;
        } else if (m->n_calls > 1) {
            s = nb_fail(err, NB_ERR_ARGUMENT,
                        "chat: message %zu has %zu calls: this model's chat template takes one", i,
                        m->n_calls);
        } else if (m->n_calls) {
            nb_buf_printf(text, "{\"name\": \"%s\", \"parameters\": ", m->calls[0].name);
            nb_json_write_python(m->calls[0].arguments, 0, text);
            nb_buf_add_string(text, "}");
            add(out, "assistant")->whole = true;
        } else if (is(m, "tool")) {
            nb_buf_add_json_string(text, m->content, m->bytes);
            add(out, "ipython")->whole = true;
        } else {
            nb_buf_add(text, m->content, m->bytes);
            add(out, m->role);
        }
    }
    if (s == NB_OK && tools && talk->n == (size_t)is(&talk->messages[0], "system"))
        s = nb_fail(err, NB_ERR_ARGUMENT,
                    "chat: this model's chat template puts tools into the first message of the "
                    "user, and there is none");
    return s == NB_OK ? end(out, err) : s;
}

/* ---- Mistral ---- */

void nb_chat_mistral_tools(const json_t *tools, struct nb_buf *out) {
    size_t i;
    const json_t *tool, *value;
    const char *key;
    nb_buf_add_string(out, "[");
    json_array_foreach(tools, i, tool) {
        size_t n = 0;
        nb_buf_printf(out, "%s{\"type\": \"function\", \"function\": {", i ? ", " : "");
        json_object_foreach(json_object_get(tool, "function"), key, value) {
            if (strcmp(key, "return") == 0)
                continue;
            nb_buf_printf(out, "%s\"%s\": ", n++ ? ", " : "", key);
            if (json_is_string(value)) /* as it is, not escaped */
                nb_buf_printf(out, "\"%s\"", json_string_value(value));
            else
                nb_json_write_python(value, 0, out);
        }
        nb_buf_add_string(out, "}}");
    }
    nb_buf_add_string(out, "]");
}

enum nb_status nb_chat_mistral_calls(const struct nb_chat_message *message, size_t index,
                                     struct nb_buf *out, struct nb_error *err) {
    nb_buf_add_string(out, "[");
    for (size_t i = 0; i < message->n_calls; i++) {
        const struct nb_chat_call *call = &message->calls[i];
        if (!call->id || strlen(call->id) != 9)
            return nb_fail(err, NB_ERR_ARGUMENT,
                           "chat: message %zu, call %zu: this model's chat template takes ids of "
                           "nine characters only",
                           index, i);
        nb_buf_printf(out, "%s{\"name\": ", i ? ", " : "");
        nb_buf_add_json_string(out, call->name, strlen(call->name));
        nb_buf_add_string(out, ", \"arguments\": ");
        nb_json_write_python(call->arguments, 0, out);
        nb_buf_printf(out, ", \"id\": \"%s\"}", call->id);
    }
    nb_buf_add_string(out, "]");
    return out->failed ? nb_fail_memory(err, out->len, "the calls") : NB_OK;
}
