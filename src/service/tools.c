#include "service/tools.h"

#include "base/clock.h"
#include "model/chat_tools.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static const char tag[] = "<tool_call>", end_tag[] = "</tool_call>";

/* ---- what is asked ---- */

static const json_t *field(const json_t *body, const char *key) {
    const json_t *value = json_object_get(body, key);
    return json_is_null(value) ? NULL : value;
}

static bool is_name(const char *name) {
    size_t n = name ? strlen(name) : 0;
    return n > 0 && n <= 64 &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == n;
}

static const char *name_of(const json_t *tool) {
    return json_string_value(json_object_get(json_object_get(tool, "function"), "name"));
}

static const json_t *find(const json_t *list, const char *name) {
    size_t i;
    const json_t *tool;
    json_array_foreach(list, i, tool) {
        if (name && strcmp(name_of(tool), name) == 0)
            return tool;
    }
    return NULL;
}

static enum nb_status check_tool(const json_t *list, size_t i, struct nb_error *err) {
    const json_t *tool = json_array_get(list, i), *function = json_object_get(tool, "function"),
                 *parameters = field(function, "parameters");
    const char *type = json_string_value(json_object_get(tool, "type")), *name = name_of(tool);
    if (!type || strcmp(type, "function") != 0)
        return nb_fail(err, NB_ERR_UNSUPPORTED, "tools[%zu].type: expected \"function\"", i);
    if (!is_name(name))
        return nb_fail(
            err, NB_ERR_ARGUMENT,
            "tools[%zu].function.name: expected 1 to 64 letters, digits, \"_\" and \"-\"", i);
    if (parameters && !json_is_object(parameters))
        return nb_fail(err, NB_ERR_ARGUMENT,
                       "tools[%zu].function.parameters: expected a JSON Schema, an object", i);
    if (find(list, name) != tool)
        return nb_fail(err, NB_ERR_ARGUMENT, "tools[%zu]: \"%s\" is there twice", i, name);
    return NB_OK;
}

static enum nb_status read_choice(const json_t *choice, struct nb_tools *out,
                                  struct nb_error *err) {
    const char *word = json_string_value(choice);
    if (!choice || (word && strcmp(word, "auto") == 0))
        return NB_OK;
    if (word && strcmp(word, "none") == 0) {
        out->list = NULL;
        return NB_OK;
    }
    out->forced = true;
    if (word && strcmp(word, "required") == 0)
        return NB_OK;
    const char *name = name_of(choice);
    if (!name)
        return nb_fail(err, NB_ERR_ARGUMENT,
                       "tool_choice: expected \"auto\", \"none\", \"required\" or {\"type\": "
                       "\"function\", \"function\": {\"name\": …}}");
    if (!find(out->list, name))
        return nb_fail(err, NB_ERR_ARGUMENT, "tool_choice: there is no tool \"%.64s\" in tools",
                       name);
    out->only = name;
    return NB_OK;
}

enum nb_status nb_tools_read(const json_t *body, enum nb_chat_calls how, struct nb_tools *out,
                             struct nb_error *err) {
    const json_t *list = field(body, "tools"), *choice = field(body, "tool_choice"),
                 *parallel = field(body, "parallel_tool_calls");
    *out = (struct nb_tools){.how = how, .one = parallel && json_is_false(parallel)};
    if (parallel && !json_is_boolean(parallel))
        return nb_fail(err, NB_ERR_ARGUMENT, "parallel_tool_calls: expected true or false");
    if (list && (!json_is_array(list) || json_array_size(list) > NB_MAX_TOOLS))
        return nb_fail(err, NB_ERR_ARGUMENT, "tools: expected a list of at most %d", NB_MAX_TOOLS);
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < json_array_size(list) && s == NB_OK; i++)
        s = check_tool(list, i, err);
    if (s != NB_OK)
        return s;
    out->list = json_array_size(list) ? list : NULL;
    s = read_choice(choice, out, err);
    if (s == NB_OK && out->forced && !out->list)
        s = nb_fail(err, NB_ERR_ARGUMENT, "tool_choice: there are no tools to choose from");
    if (s == NB_OK && out->list && field(body, "response_format") &&
        strcmp(json_string_value(json_object_get(field(body, "response_format"), "type"))
                   ? json_string_value(json_object_get(field(body, "response_format"), "type"))
                   : "",
               "text") != 0)
        s = nb_fail(err, NB_ERR_UNSUPPORTED,
                    "response_format: with tools only where tool_choice is \"none\"");
    return s;
}

/* ---- a call that must come ---- */

static const char *arguments_key(const struct nb_tools *tools) {
    return tools->how == NB_CHAT_CALLS_LLAMA ? "parameters" : "arguments";
}

/* A function's parameters as a schema within another: references of its own, "#/$defs/…", stay its
 * own. */
static json_t *parameters_of(const json_t *tool, size_t i) {
    const json_t *given = field(json_object_get(tool, "function"), "parameters");
    json_t *schema = given ? json_copy((json_t *)given)
                           : json_pack("{s:s, s:{}, s:b}", "type", "object", "properties",
                                       "additionalProperties", 0);
    char id[48];
    snprintf(id, sizeof id, "nibble://tools/%zu", i);
    if (schema && !json_object_get(schema, "$id"))
        json_object_set_new(schema, "$id", json_string(id));
    /* Arguments are an object, whether the schema says so or not. */
    return json_pack("{s:s, s:[o]}", "type", "object", "allOf", schema);
}

static json_t *call_schema(const struct nb_tools *tools, const json_t *tool, size_t i) {
    const char *key = arguments_key(tools);
    return json_pack("{s:s, s:{s:{s:s}, s:o}, s:[s, s], s:b}", "type", "object", "properties",
                     "name", "const", name_of(tool), key, parameters_of(tool, i), "required",
                     "name", key, "additionalProperties", 0);
}

enum nb_status nb_tools_grammar(struct nb_engine *engine, const struct nb_tools *tools,
                                struct nb_grammar **out, struct nb_error *err) {
    json_t *any = json_array();
    size_t i;
    const json_t *tool;
    json_array_foreach(tools->list, i, tool) {
        if (!tools->only || strcmp(tools->only, name_of(tool)) == 0)
            json_array_append_new(any, call_schema(tools, tool, i));
    }
    json_t *schema = json_array_size(any) == 1 ? json_incref(json_array_get(any, 0))
                                               : json_pack("{s:O}", "anyOf", any);
    char *text = schema ? json_dumps(schema, JSON_COMPACT) : NULL;
    json_decref(schema);
    json_decref(any);
    if (!text)
        return nb_fail_memory(err, 1, "the tools");
    struct nb_structure what = {.schema = text, .schema_bytes = strlen(text), .name = "tools"};
    enum nb_status s = nb_grammar_compile(engine, &what, out, err);
    free(text);
    return s;
}

/* ---- calls in answers ---- */

void nb_tools_new_id(char out[10]) {
    static const char set[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) != sizeof random)
        random = (uint64_t)nb_now_us() * UINT64_C(0x9E3779B97F4A7C15);
    for (int i = 0; i < 9; i++, random /= sizeof set - 1)
        out[i] = set[random % (sizeof set - 1)];
    out[9] = 0;
}

/* Appends a call, text [n] as the model wrote it; false if it is none. */
static bool add_call(const struct nb_tools *tools, const json_t *call, json_t *calls) {
    const char *name = json_string_value(json_object_get(call, "name"));
    const json_t *arguments = json_object_get(call, arguments_key(tools));
    if (!arguments)
        arguments = json_object_get(call, "arguments");
    if (!find(tools->list, name) || !json_is_object(arguments))
        return false;
    if (tools->one && json_array_size(calls))
        return true;
    struct nb_buf text = {0};
    char id[10];
    nb_tools_new_id(id);
    nb_json_write_python(arguments, 0, &text);
    json_array_append_new(calls, json_pack("{s:s, s:s, s:{s:s, s:s}}", "id", id, "type", "function",
                                           "function", "name", name, "arguments",
                                           text.data ? text.data : "{}"));
    nb_buf_free(&text);
    return true;
}

/* The object or list that text [n] is, or NULL. */
static json_t *parse(const char *text, size_t n) {
    json_error_t why;
    return json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
}

/* <tool_call>…</tool_call>, any number; the last end may be missing. */
static bool read_tagged(const struct nb_tools *tools, const char *text, size_t n, json_t *calls) {
    while (n) {
        const char *begin = memmem(text, n, tag, sizeof tag - 1);
        if (!begin)
            break;
        begin += sizeof tag - 1;
        size_t left = n - (size_t)(begin - text);
        const char *stop = memmem(begin, left, end_tag, sizeof end_tag - 1);
        json_t *call = parse(begin, stop ? (size_t)(stop - begin) : left);
        bool good = add_call(tools, call, calls);
        json_decref(call);
        if (!good)
            return false;
        if (!stop)
            break;
        n = left - (size_t)(stop - begin) - (sizeof end_tag - 1);
        text = stop + sizeof end_tag - 1;
    }
    return json_array_size(calls) > 0;
}

/* A list of calls, or one. */
static bool read_plain(const struct nb_tools *tools, const char *text, size_t n, json_t *calls) {
    json_t *value = parse(text, n);
    bool good = value != NULL;
    if (json_is_array(value)) {
        for (size_t i = 0; i < json_array_size(value) && good; i++)
            good = add_call(tools, json_array_get(value, i), calls);
    } else if (value) {
        good = add_call(tools, value, calls);
    }
    json_decref(value);
    return good && json_array_size(calls) > 0;
}

static size_t skip_space(const char *text, size_t n) {
    size_t i = 0;
    while (i < n && strchr(" \t\r\n", text[i]))
        i++;
    return i;
}

/* Where calls begin, if there are any; n: nowhere. */
static size_t begin_of_calls(const struct nb_tools *tools, const char *text, size_t n,
                             size_t calls_at) {
    size_t first = skip_space(text, n);
    switch (tools->how) {
    case NB_CHAT_CALLS_MISTRAL:
        return calls_at < n ? calls_at : n;
    case NB_CHAT_CALLS_LLAMA:
        return first < n && text[first] == '{' ? 0 : n;
    default: {
        const char *at = n ? memmem(text, n, tag, sizeof tag - 1) : NULL;
        return at ? (size_t)(at - text) : n;
    }
    }
}

json_t *nb_tools_find_calls(const struct nb_tools *tools, const char *text, size_t n,
                            size_t calls_at, size_t *content) {
    *content = n;
    size_t at = begin_of_calls(tools, text, n, calls_at);
    if (!tools->list || at == n)
        return NULL;
    json_t *calls = json_array();
    bool good = tools->how == NB_CHAT_CALLS_TAGGED ? read_tagged(tools, text + at, n - at, calls)
                                                   : read_plain(tools, text + at, n - at, calls);
    if (!good) {
        json_decref(calls);
        return NULL;
    }
    while (at && strchr(" \t\r\n", text[at - 1]))
        at--;
    *content = at;
    return calls;
}

/* A call whose name came last. */
static void read_backwards(const struct nb_tools *tools, const char *text, size_t n, char name[65],
                           struct nb_buf *own) {
    json_t *call = parse(text, n);
    const char *given = json_string_value(json_object_get(call, "name"));
    const json_t *arguments = json_object_get(call, arguments_key(tools));
    if (given && arguments) {
        snprintf(name, 65, "%s", given);
        nb_json_write_python(arguments, 0, own);
    }
    json_decref(call);
}

void nb_tools_read_forced(const struct nb_tools *tools, const char *text, size_t n, bool over,
                          bool cut, char name[65], const char **arguments, size_t *n_arguments,
                          struct nb_buf *own) {
    static const char begin[] = "{\"name\":\"";
    char middle[24];
    size_t n_begin = sizeof begin - 1,
           n_middle = (size_t)snprintf(middle, sizeof middle, "\",\"%s\":", arguments_key(tools));
    name[0] = 0;
    *arguments = "";
    *n_arguments = 0;
    bool forwards = n > n_begin && memcmp(text, begin, n_begin) == 0;
    const char *at = forwards ? memmem(text + n_begin, n - n_begin, middle, n_middle) : NULL;
    if (at) {
        snprintf(name, 65, "%.*s", (int)(at - text - (ptrdiff_t)n_begin), text + n_begin);
        *arguments = at + n_middle;
        *n_arguments = n - (size_t)(*arguments - text);
        /* The last byte is the brace that ends the call, or may be. */
        bool brace = *n_arguments && text[n - 1] == '}';
        *n_arguments -= brace && !(over && cut);
    } else if (over && !forwards) {
        read_backwards(tools, text, n, name, own);
        *arguments = own->data ? own->data : "";
        *n_arguments = own->len;
    }
}

size_t nb_tools_certain(const struct nb_tools *tools, const char *text, size_t n, size_t calls_at) {
    size_t at = begin_of_calls(tools, text, n, calls_at);
    if (tools->how == NB_CHAT_CALLS_LLAMA && skip_space(text, n) == n)
        return 0;
    if (at == n && tools->how == NB_CHAT_CALLS_TAGGED) { /* what may become the tag */
        size_t held = n < sizeof tag - 2 ? n : sizeof tag - 2;
        while (held && memcmp(text + n - held, tag, held) != 0)
            held--;
        at = n - held;
    }
    /* White space before a call is no content, either. */
    while (tools->how != NB_CHAT_CALLS_MISTRAL && at && strchr(" \t\r\n", text[at - 1]))
        at--;
    return at;
}
