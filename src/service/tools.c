#include "service/tools.h"

#include "base/clock.h"
#include "grammar/grammar.h"
#include "model/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static const char tag[] = "<tool_call>", end_tag[] = "</tool_call>";

/* ---- what is asked ---- */

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
                 *parameters = nb_json_member(function, "parameters");
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
    const json_t *list = nb_json_member(body, "tools"),
                 *choice = nb_json_member(body, "tool_choice"),
                 *parallel = nb_json_member(body, "parallel_tool_calls");
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
    if (s == NB_OK && out->list && nb_json_member(body, "response_format") &&
        strcmp(json_string_value(json_object_get(nb_json_member(body, "response_format"), "type"))
                   ? json_string_value(
                         json_object_get(nb_json_member(body, "response_format"), "type"))
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
    const json_t *given = nb_json_member(json_object_get(tool, "function"), "parameters");
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

/* Llama may say of what it calls that it is a function, first. */
static json_t *call_schema(const struct nb_tools *tools, const json_t *tool, size_t i) {
    const char *key = arguments_key(tools);
    json_t *schema =
        json_pack("{s:s, s:{s:{s:s}, s:o}, s:[s, s], s:b}", "type", "object", "properties", "name",
                  "const", name_of(tool), key, parameters_of(tool, i), "required", "name", key,
                  "additionalProperties", 0);
    if (tools->how == NB_CHAT_CALLS_LLAMA && !tools->forced)
        json_object_set_new(json_object_get(schema, "properties"), "type",
                            json_pack("{s:s}", "const", "function"));
    return schema;
}

/* Any of the calls that may be made; NULL if memory ran out. */
static json_t *calls_schema(const struct nb_tools *tools) {
    json_t *any = json_array(), *schema = NULL;
    bool good = any != NULL;
    size_t i;
    const json_t *tool;
    json_array_foreach(tools->list, i, tool) {
        if (!tools->only || strcmp(tools->only, name_of(tool)) == 0)
            good = good && json_array_append_new(any, call_schema(tools, tool, i)) == 0;
    }
    if (good)
        schema = json_array_size(any) == 1 ? json_incref(json_array_get(any, 0))
                                           : json_pack("{s:O}", "anyOf", any);
    json_decref(any);
    return schema;
}

enum nb_status nb_tools_grammar(struct nb_engine *engine, const struct nb_tools *tools,
                                struct nb_grammar **out, struct nb_error *err) {
    json_t *schema = calls_schema(tools);
    if (schema && tools->how == NB_CHAT_CALLS_MISTRAL && !tools->forced) {
        schema = json_pack("{s:s, s:o, s:i}", "type", "array", "items", schema, "minItems", 1);
        if (tools->one)
            json_object_set_new(schema, "maxItems", json_integer(1));
    }
    char *text = schema ? json_dumps(schema, JSON_COMPACT) : NULL;
    json_decref(schema);
    if (!text)
        return nb_fail_memory(err, 1, "the tools");
    struct nb_structure what = {
        .schema = text, .schema_bytes = strlen(text), .name = "tools", .flexible = !tools->forced};
    enum nb_status s = nb_grammar_compile(engine, &what, out, err);
    free(text);
    return s;
}

bool nb_tools_trigger(const struct nb_tools *tools, int32_t calls_token, struct nb_trigger *out) {
    *out = (struct nb_trigger){.token = -1, .once = tools->one};
    switch (tools->how) {
    case NB_CHAT_CALLS_MISTRAL:
        out->token = calls_token;
        return calls_token >= 0;
    case NB_CHAT_CALLS_LLAMA:
        out->opening =
            "[ \\t\\r\\n]*\\{[ \\t\\r\\n]*(\"type\"[ \\t\\r\\n]*:[ \\t\\r\\n]*\"function\"[ "
            "\\t\\r\\n]*,[ \\t\\r\\n]*)?\"name\"";
        return true;
    case NB_CHAT_CALLS_TAGGED:
        out->text = tag;
        out->end = "\n</tool_call>";
        return true;
    default:
        return false;
    }
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

static size_t skip_space(const char *text, size_t n) {
    size_t i = 0;
    while (i < n && strchr(" \t\r\n", text[i]))
        i++;
    return i;
}

/* The end of the JSON value that begins at text[i], whatever it holds; n where it is not whole. */
static size_t skip_value(const char *text, size_t n, size_t i) {
    size_t depth = 0, begin = i;
    for (bool quoted = false; i < n; i++) {
        char c = text[i];
        if (quoted) {
            i += c == '\\';
            quoted = c != '"';
            if (!quoted && !depth)
                return i + 1;
        } else if (c == '"') {
            quoted = true;
        } else if (c == '{' || c == '[') {
            depth++;
        } else if (c == '}' || c == ']') {
            if (!depth)
                return i;
            if (--depth == 0)
                return i + 1;
        } else if (!depth && i > begin && strchr(", \t\r\n", c)) {
            return i;
        }
    }
    return n;
}

/* A piece of a text. */
struct slice {
    const char *at; /* NULL: none */
    size_t n;
};

static struct slice trimmed(const char *text, size_t n) {
    size_t first = skip_space(text, n);
    while (n > first && strchr(" \t\r\n", text[n - 1]))
        n--;
    return (struct slice){text + first, n - first};
}

/* Elements of a list, or the keys and values of an object by turns: the next, after *i, which
 * begins as 0. An empty one: there are no more, or the text goes on as JSON does not. */
static struct slice next_within(struct slice all, char open, char close, char mark, size_t *i) {
    if (*i == 0 && (all.n < 2 || all.at[0] != open || all.at[all.n - 1] != close))
        return (struct slice){0};
    size_t at = *i + 1 + skip_space(all.at + *i + 1, all.n - *i - 1);
    if (*i && all.at[*i] != mark && all.at[*i] != ',')
        return (struct slice){0};
    size_t end = skip_value(all.at, all.n, at);
    *i = end + skip_space(all.at + end, all.n - end);
    return *i < all.n && end > at ? (struct slice){all.at + at, end - at} : (struct slice){0};
}

/* The value of an object's member of that name. */
static struct slice member(struct slice object, const char *name) {
    size_t i = 0;
    for (struct slice key, value; (key = next_within(object, '{', '}', ':', &i)).at;) {
        value = next_within(object, '{', '}', ':', &i);
        if (value.at && key.n == strlen(name) + 2 && memcmp(key.at + 1, name, key.n - 2) == 0)
            return value;
    }
    return (struct slice){0};
}

/* The name and the arguments of a call; false if it has none of either. */
static bool read_call(const struct nb_tools *tools, struct slice call, char name[65],
                      struct slice *arguments) {
    struct slice given = member(call, "name");
    *arguments = member(call, arguments_key(tools));
    if (!arguments->at)
        *arguments = member(call, "arguments");
    if (given.n < 3 || given.n - 2 > 64 || given.at[0] != '"' || !arguments->at ||
        arguments->at[0] != '{')
        return false;
    snprintf(name, 65, "%.*s", (int)(given.n - 2), given.at + 1);
    return find(tools->list, name) != NULL;
}

/* Appends a call as the model wrote it; false if it is none. */
static bool add_call(const struct nb_tools *tools, struct slice call, json_t *calls) {
    char name[65], id[10];
    struct slice arguments;
    if (!read_call(tools, call, name, &arguments))
        return false;
    if (tools->one && json_array_size(calls))
        return true;
    nb_tools_new_id(id);
    json_t *text = json_stringn(arguments.at, arguments.n);
    return text && json_array_append_new(calls, json_pack("{s:s, s:s, s:{s:s, s:o}}", "id", id,
                                                          "type", "function", "function", "name",
                                                          name, "arguments", text)) == 0;
}

/* Whether a text is what the grammar says. */
static bool fulfils(struct nb_grammar *grammar, struct slice text) {
    bool valid = false;
    size_t where;
    struct nb_error err;
    return !grammar ||
           (nb_grammar_validate(grammar, text.at, text.n, &valid, &where, &err) == NB_OK && valid);
}

/* <tool_call>…</tool_call>, any number; the last end may be missing. */
static bool read_tagged(const struct nb_tools *tools, struct nb_grammar *grammar, const char *text,
                        size_t n, json_t *calls) {
    while (n) {
        const char *begin = memmem(text, n, tag, sizeof tag - 1);
        if (!begin)
            break;
        begin += sizeof tag - 1;
        size_t left = n - (size_t)(begin - text),
               used = skip_value(begin, left, skip_space(begin, left));
        const char *stop = memmem(begin + used, left - used, end_tag, sizeof end_tag - 1);
        struct slice call = trimmed(begin, stop ? (size_t)(stop - begin) : left);
        if (!fulfils(grammar, call) || !add_call(tools, call, calls))
            return false;
        if (!stop)
            break;
        n = left - (size_t)(stop - begin) - (sizeof end_tag - 1);
        text = stop + sizeof end_tag - 1;
    }
    return json_array_size(calls) > 0;
}

/* A list of calls, or one. */
static bool read_plain(const struct nb_tools *tools, struct nb_grammar *grammar, const char *text,
                       size_t n, json_t *calls) {
    struct slice all = trimmed(text, n), one;
    if (!fulfils(grammar, all))
        return false;
    if (!all.n || all.at[0] != '[')
        return add_call(tools, all, calls);
    for (size_t i = 0; (one = next_within(all, '[', ']', ',', &i)).at;) {
        if (!add_call(tools, one, calls))
            return false;
    }
    return json_array_size(calls) > 0;
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

json_t *nb_tools_find_calls(const struct nb_tools *tools, struct nb_grammar *grammar,
                            const char *text, size_t n, size_t calls_at, size_t *content) {
    *content = n;
    size_t at = begin_of_calls(tools, text, n, calls_at);
    if (!tools->list || at == n)
        return NULL;
    json_t *calls = json_array();
    bool good = tools->how == NB_CHAT_CALLS_TAGGED
                    ? read_tagged(tools, grammar, text + at, n - at, calls)
                    : read_plain(tools, grammar, text + at, n - at, calls);
    if (!good) {
        json_decref(calls);
        return NULL;
    }
    while (at && strchr(" \t\r\n", text[at - 1]))
        at--;
    *content = at;
    return calls;
}

void nb_tools_read_forced(const struct nb_tools *tools, const char *text, size_t n, bool over,
                          bool cut, char name[65], const char **arguments, size_t *n_arguments) {
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
        struct slice given;
        if (!read_call(tools, trimmed(text, n), name, &given)) {
            name[0] = 0;
            return;
        }
        *arguments = given.at;
        *n_arguments = given.n;
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
