/* Calls in answers: found where they are, whole and as they come, and left as text where they are
 * none. */
#include "test.h"

#include "scripted.h"

#include "engine/engine.h"
#include "service/tools.h"

static json_t *body;

static struct nb_tools tools_for(enum nb_chat_calls how, const char *choice) {
    struct nb_tools tools;
    struct nb_error err;
    json_decref(body);
    body = json_pack("{s:[{s:s, s:{s:s}}, {s:s, s:{s:s}}], s:s?}", "tools", "type", "function",
                     "function", "name", "pay", "type", "function", "function", "name", "keep",
                     "tool_choice", choice);
    assert_non_null(body);
    if (!choice)
        json_object_del(body, "tool_choice");
    assert_ok(nb_tools_read(body, how, &tools, &err), err);
    return tools;
}

/* "name(arguments) …" of the calls, "" for none. */
static void print_calls(const json_t *calls, char *out, size_t size) {
    const json_t *call;
    size_t i, used = 0;
    out[0] = 0;
    json_array_foreach(calls, i, call) {
        const json_t *f = json_object_get(call, "function");
        assert_int_equal(strlen(json_string_value(json_object_get(call, "id"))), 9);
        used += (size_t)snprintf(out + used, size - used, "%s%s(%s)", i ? " " : "",
                                 json_string_value(json_object_get(f, "name")),
                                 json_string_value(json_object_get(f, "arguments")));
    }
}

static void found(const struct nb_tools *tools, const char *text, size_t calls_at, char *out,
                  size_t size, size_t *content) {
    json_t *calls = nb_tools_find_calls(tools, NULL, text, strlen(text), calls_at, content);
    print_calls(calls, out, size);
    json_decref(calls);
}

enum { ALL = -1 }; /* of the text is content */

static const struct {
    enum nb_chat_calls how;
    const char *text, *calls;
    int content;
    size_t calls_at;
} cases[] = {
    {NB_CHAT_CALLS_TAGGED, "It is paid.", "", ALL, SIZE_MAX},
    {NB_CHAT_CALLS_TAGGED, "", "", ALL, SIZE_MAX},
    {NB_CHAT_CALLS_TAGGED,
     "<tool_call>\n{\"name\": \"pay\", \"arguments\": {\"a\": 1.50}}\n</tool_call>",
     "pay({\"a\": 1.50})", 0, SIZE_MAX},
    {NB_CHAT_CALLS_TAGGED,
     "Well.\n\n<tool_call>{\"name\":\"pay\",\"arguments\":{}}</tool_call>\n<tool_call>\n"
     "{\"arguments\": {\"b\": \"ü\"}, \"name\": \"keep\"}",
     "pay({}) keep({\"b\": \"ü\"})", 5, SIZE_MAX},
    {NB_CHAT_CALLS_TAGGED, "<tool_call>{\"name\": \"steal\", \"arguments\": {}}</tool_call>", "",
     ALL, SIZE_MAX},
    {NB_CHAT_CALLS_TAGGED, "<tool_call>{\"name\": \"pay\", \"arguments\": 3}</tool_call>", "", ALL,
     SIZE_MAX},
    {NB_CHAT_CALLS_TAGGED, "<tool_call>{\"name\": \"pay\", \"argum", "", ALL, SIZE_MAX},
    {NB_CHAT_CALLS_TAGGED, "{\"name\": \"pay\", \"arguments\": {}}", "", ALL, SIZE_MAX},
    {NB_CHAT_CALLS_LLAMA, " {\"name\": \"pay\", \"parameters\": {\"a\": [1, null]}}",
     "pay({\"a\": [1, null]})", 0, SIZE_MAX},
    {NB_CHAT_CALLS_LLAMA, "{\"answer\": 3}", "", ALL, SIZE_MAX},
    {NB_CHAT_CALLS_LLAMA, "Say {\"name\": \"pay\", \"parameters\": {}}", "", ALL, SIZE_MAX},
    {NB_CHAT_CALLS_MISTRAL,
     " [{\"name\": \"pay\", \"arguments\": {}}, {\"name\": \"keep\", \"arguments\": {}, \"id\": "
     "\"x\"}]",
     "pay({}) keep({})", 0, 0},
    {NB_CHAT_CALLS_MISTRAL, "[{\"name\": \"pay\", \"arguments\": {}}]", "", ALL, SIZE_MAX},
    {NB_CHAT_CALLS_MISTRAL, "Yes. [{\"name\": \"pay\", \"arguments\": {}}]", "pay({})", 4, 5},
    {NB_CHAT_CALLS_MISTRAL, "[3]", "", ALL, 0},
};

static void calls_are_found(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct nb_tools tools = tools_for(cases[i].how, NULL);
        char calls[256];
        size_t content,
            want = cases[i].content < 0 ? strlen(cases[i].text) : (size_t)cases[i].content;
        found(&tools, cases[i].text, cases[i].calls_at, calls, sizeof calls, &content);
        if (strcmp(calls, cases[i].calls) != 0 || content != want)
            fail_msg("case %zu: found \"%s\" after %zu bytes", i, calls, content);
    }
    struct nb_tools tools = tools_for(NB_CHAT_CALLS_TAGGED, NULL);
    tools.one = true;
    char calls[256];
    size_t content;
    found(&tools, cases[3].text, SIZE_MAX, calls, sizeof calls, &content);
    assert_string_equal(calls, "pay({})");
}

/* What is told early is content in the end: at every length of every text. */
static void what_is_told_is_content(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct nb_tools tools = tools_for(cases[i].how, NULL);
        size_t told = 0,
               want = cases[i].content < 0 ? strlen(cases[i].text) : (size_t)cases[i].content;
        for (size_t n = 0; n <= strlen(cases[i].text); n++) {
            size_t at = cases[i].calls_at <= n ? cases[i].calls_at : SIZE_MAX;
            size_t certain = nb_tools_certain(&tools, cases[i].text, n, at);
            assert_true(certain <= n);
            told = certain > told ? certain : told;
        }
        /* Mistral's marker may come after white space that was told. */
        if (cases[i].how != NB_CHAT_CALLS_MISTRAL)
            assert_true(told <= want);
    }
    struct nb_tools tools = tools_for(NB_CHAT_CALLS_TAGGED, NULL);
    assert_int_equal(nb_tools_certain(&tools, "paid <tool", 10, SIZE_MAX), 4);
    assert_int_equal(nb_tools_certain(&tools, "paid <tools", 11, SIZE_MAX), 11);
}

static void forced(const char *text, bool over, bool cut, const char *name, const char *arguments) {
    struct nb_tools tools = tools_for(NB_CHAT_CALLS_TAGGED, "required");
    char found_name[65];
    const char *at;
    size_t n;
    nb_tools_read_forced(&tools, text, strlen(text), over, cut, found_name, &at, &n);
    assert_string_equal(found_name, name);
    assert_int_equal(n, strlen(arguments));
    assert_memory_equal(at, arguments, n);
}

static void forced_calls_as_they_come(void **state) {
    (void)state;
    forced("", false, false, "", "");
    forced("{\"name\":\"pa", false, false, "", "");
    forced("{\"name\":\"pay\",\"arguments\":", false, false, "pay", "");
    forced("{\"name\":\"pay\",\"arguments\":{\"a\":\"ü", false, false, "pay", "{\"a\":\"ü");
    forced("{\"name\":\"pay\",\"arguments\":{}", false, false, "pay", "{");
    forced("{\"name\":\"pay\",\"arguments\":{}}", false, false, "pay", "{}");
    forced("{\"name\":\"pay\",\"arguments\":{}}", true, false, "pay", "{}");
    forced("{\"name\":\"pay\",\"arguments\":{\"a\":{}", true, true, "pay", "{\"a\":{}");
    forced("{\"arguments\":{\"a\":1},\"name\":\"ke", false, false, "", "");
    forced("{\"arguments\":{\"a\":1},\"name\":\"keep\"}", true, false, "keep", "{\"a\":1}");
    forced("{\"arguments\":{\"a\":1},\"na", true, true, "", "");
}

static void ids(void **state) {
    (void)state;
    char a[10], b[10];
    nb_tools_new_id(a);
    nb_tools_new_id(b);
    assert_string_not_equal(a, b);
    for (int i = 0; i < 9; i++)
        assert_true((a[i] >= '0' && a[i] <= '9') || (a[i] >= 'A' && a[i] <= 'Z') ||
                    (a[i] >= 'a' && a[i] <= 'z'));
}

static int end(void **state) {
    (void)state;
    json_decref(body);
    return 0;
}

/* What models want to write, and the calls that come of it: names that there are, arguments that
 * the schema allows. */
static const struct {
    enum nb_chat_calls how;
    bool one;
    const char *pieces[8], *text, *calls;
} wishes[] = {
    {NB_CHAT_CALLS_TAGGED,
     false,
     {"I pay. ", "<tool_call>", "\n{\"name\": ", "\"pay\", ", "\"arguments\": {\"cents\": 950}}"},
     "I pay. <tool_call>\n{\"name\": \"pay\", \"arguments\": {\"cents\": 950}}\n</tool_call>",
     "pay({\"cents\": 950})"},
    {NB_CHAT_CALLS_TAGGED,
     false,
     {"<tool_call>", "\n{\"name\": ", "\"steal\"", "all"},
     "<tool_call>\n{\"name\": \"keep\",\"arguments\":{}}\n</tool_call>",
     "keep({})"},
    {NB_CHAT_CALLS_TAGGED,
     true,
     {"<tool_call>", "{\"name\": \"pay\", ", "\"arguments\": {\"cents\": ", "\"many\"", "}}"},
     "<tool_call>{\"name\": \"pay\", \"arguments\": {\"cents\": 1}}\n</tool_call>",
     "pay({\"cents\": 1})"},
    {NB_CHAT_CALLS_TAGGED, false, {"I do", " not."}, "I do not.", ""},
    {NB_CHAT_CALLS_LLAMA,
     false,
     {"{\"name\": ", "\"pay\", ", "\"parameters\": {", "\"dollars\"", ": 3}}"},
     "{\"name\": \"pay\", \"parameters\": {\"cents\":1}}",
     "pay({\"cents\":1})"},
    {NB_CHAT_CALLS_LLAMA,
     false,
     {"{\"type\": \"function\", ", "\"name\": ", "\"keep\", \"parameters\": {}", "}"},
     "{\"type\": \"function\", \"name\": \"keep\", \"parameters\": {}}",
     "keep({})"},
    {NB_CHAT_CALLS_LLAMA, false, {"{\"total\": ", "9.5}"}, "{\"total\": 9.5}", ""},
    {NB_CHAT_CALLS_MISTRAL,
     false,
     {"[TOOL_CALLS]", " [{\"name\": \"pay\", ", "\"arguments\": {\"cents\": 7}}",
      ", {\"name\": ", "\"keep\", \"arguments\": ", "nothing"},
     " [{\"name\": \"pay\", \"arguments\": {\"cents\": 7}}, {\"name\": \"keep\", \"arguments\": "
     "{}}]",
     "pay({\"cents\": 7}) keep({})"},
    {NB_CHAT_CALLS_MISTRAL,
     true,
     {"[TOOL_CALLS]", "[{\"name\": \"keep\", ", "\"arguments\": {}", "}, {\"name\": \"keep\"",
      ", \"arg"},
     "[{\"name\": \"keep\", \"arguments\": {}}]",
     "keep({})"},
};

static void chosen_calls_are_valid(void **state) {
    (void)state;
    static const int32_t prompt[] = {SCRIPTED_BOS};
    for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++) {
        struct checkpoint c;
        struct nb_engine *engine;
        struct nb_error err;
        struct nb_options how = {.backend = "cpu"};
        size_t n = 0, content;
        while (n < 8 && wishes[i].pieces[n])
            n++;
        scripted_make(&c, wishes[i].pieces, n, NULL);
        assert_ok(nb_engine_open(c.folder.path, &how, &engine, &err), err);
        struct nb_tools tools = tools_for(wishes[i].how, NULL);
        json_put(json_object_get(json_array_get(tools.list, 0), "function"), "parameters",
                 "{\"type\": \"object\", \"properties\": {\"cents\": {\"type\": \"integer\", "
                 "\"minimum\": 1, \"maximum\": 999}}, \"required\": [\"cents\"], "
                 "\"additionalProperties\": false}");
        tools.one = wishes[i].one;
        struct nb_grammar *grammar;
        assert_ok(nb_tools_grammar(engine, &tools, &grammar, &err), err);
        struct nb_trigger trigger;
        int32_t marker = wishes[i].how == NB_CHAT_CALLS_MISTRAL
                             ? nb_tokenizer_find(engine->tokenizer, "[TOOL_CALLS]")
                             : -1;
        assert_true(nb_tools_trigger(&tools, marker, &trigger));
        struct nb_generate_options options = {.prompt_ids = prompt,
                                              .n_prompt_ids = 1,
                                              .max_tokens = 100,
                                              .grammar = grammar,
                                              .trigger = &trigger};
        struct nb_generation out;
        assert_ok(nb_generate(engine, &options, &out, &err), err);
        assert_string_equal(out.text, wishes[i].text);
        json_t *calls = nb_tools_find_calls(&tools, grammar, out.text, out.text_bytes,
                                            marker >= 0 ? 0 : SIZE_MAX, &content);
        char text[256];
        print_calls(calls, text, sizeof text);
        assert_string_equal(text, wishes[i].calls);
        json_decref(calls);
        nb_generation_free(&out);
        nb_grammar_release(grammar);
        nb_engine_close(engine);
        checkpoint_free(&c);
    }
    struct nb_trigger trigger;
    struct nb_tools mistral = tools_for(NB_CHAT_CALLS_MISTRAL, NULL);
    assert_false(nb_tools_trigger(&mistral, -1, &trigger));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_are_found),
        cmocka_unit_test(chosen_calls_are_valid),
        cmocka_unit_test(what_is_told_is_content),
        cmocka_unit_test(forced_calls_as_they_come),
        cmocka_unit_test(ids),
    };
    return cmocka_run_group_tests(tests, NULL, end);
}
