/* Answers that are free until they begin what has a grammar: a model that says what the test wants
 * runs into its own markers. */
#include "test.h"

#include "scripted.h"

#include "nibble/nibble.h"

#include <math.h>

static const char marker[] = "<call>",
                  schema[] =
                      "{\"type\": \"object\", \"properties\": {\"name\": {\"enum\": [\"pay\", "
                      "\"keep\"]}, \"cents\": {\"type\": \"integer\", \"maximum\": 99}}, "
                      "\"required\": [\"name\", \"cents\"], \"additionalProperties\": false}";

enum { MAX_PIECES = 12 };

/* What a model wants to say, and what comes of it. */
static const struct {
    const char *pieces[MAX_PIECES]; /* up to a NULL */
    struct nb_trigger trigger;
    bool flexible;
    int32_t max_tokens;
    const char *text;
    enum nb_finish finish;
} cases[] = {
    /* No marker: free, JSON or not. */
    {{"{\"name\": 3", " and <call but no more"},
     {.token = -1, .text = marker},
     .text = "{\"name\": 3 and <call but no more"},
    /* All that it wants is allowed. */
    {{"Well. ", "<call>", "{\"name\":\"pay\",\"cents\":7}"},
     {.token = -1, .text = marker},
     .text = "Well. <call>{\"name\":\"pay\",\"cents\":7}"},
    /* Nothing of it is: the first that the grammar allows comes instead. */
    {{"Well. ", "<call>", "I would", " rather not"},
     {.token = -1, .text = marker},
     .text = "Well. <call>{\"name\":\"keep\",\"cents\":1}",
     .max_tokens = 60},
    /* The marker in pieces, its end within a token, whose rest begins the grammar's text. */
    {{"A <ca", "ll", ">{\"na", "me\":\"steal\""},
     {.token = -1, .text = marker},
     .text = "A <call>{\"name\":\"keep\",\"cents\":1}",
     .max_tokens = 60},
    /* A rest that does not: another token comes in its place, here the end. */
    {{"A <ca", "ll", ">yes"}, {.token = -1, .text = marker}, .text = "A <call"},
    /* What must stand after it, and free again; a second one. */
    {{"<call>", "{\"name\":\"pay\",\"cents\":7}", "</call>", " Done. <", "call>",
      "{\"name\":\"keep\",\"cents\":8}"},
     {.token = -1, .text = marker, .end = "</call>"},
     .max_tokens = 7,
     .text =
         "<call>{\"name\":\"pay\",\"cents\":7}</call> Done. <call>{\"name\":\"keep\",\"cents\":8}"
         "</call>",
     .finish = NB_FINISH_LENGTH},
    /* Or not a second one. */
    {{"<call>", "{\"name\":\"pay\",\"cents\":7}", "</call>", " Done."},
     {.token = -1, .text = marker, .end = "</call>", .once = true},
     .text = "<call>{\"name\":\"pay\",\"cents\":7}</call>"},
    /* White space where it is allowed. */
    {{"<call>", "\n { \"name\": \"pay\", ", "\"cents\": 7\n}\n", "</call>"},
     {.token = -1, .text = marker, .end = "</call>"},
     .flexible = true,
     .text = "<call>\n { \"name\": \"pay\", \"cents\": 7\n}\n</call>"},
    /* The answer's own beginning. */
    {{" {", "\"name", "\": \"pay\"", ", \"cents\": 7", "}"},
     {.token = -1, .opening = "\\s*\\{\\s*\"name\""},
     .flexible = true,
     .text = " {\"name\": \"pay\", \"cents\": 7}"},
    {{" {", "\"name", "\": ", "\"nobody\""},
     {.token = -1, .opening = "\\s*\\{\\s*\"name\""},
     .flexible = true,
     .text = " {\"name\": \"keep\",\"cents\":1}",
     .max_tokens = 60},
    {{" {\"", "names", "\": 3}", " {\"name\": 4}"},
     {.token = -1, .opening = "\\s*\\{\\s*\"name\""},
     .flexible = true,
     .text = " {\"names\": 3} {\"name\": 4}"},
    /* Cut where it is free, cut and closed where it is not. */
    {{"One", " two", " three"},
     {.token = -1, .text = marker},
     .max_tokens = 2,
     .text = "One two",
     .finish = NB_FINISH_LENGTH},
    {{"One", "<call>", "{\"name\":\"keep\"", ",\"cents\":9", "9}"},
     {.token = -1, .text = marker, .end = "</call>"},
     .max_tokens = 3,
     .text = "One<call>{\"name\":\"keep\",\"cents\":0}</call>",
     .finish = NB_FINISH_CLOSED},
};

static struct nb_engine *open_engine(struct checkpoint *c, const char *const *pieces, size_t n) {
    struct nb_engine *engine;
    struct nb_error err;
    struct nb_options options = {.backend = "cpu"};
    scripted_make(c, pieces, n, NULL);
    assert_ok(nb_engine_open(c->folder.path, &options, &engine, &err), err);
    return engine;
}

static struct nb_grammar *compile(struct nb_engine *engine, bool flexible) {
    struct nb_structure what = {
        .schema = schema, .schema_bytes = sizeof schema - 1, .flexible = flexible};
    struct nb_grammar *grammar;
    struct nb_error err;
    assert_ok(nb_grammar_compile(engine, &what, &grammar, &err), err);
    return grammar;
}

static void grammars_begin_at_their_trigger(void **state) {
    (void)state;
    static const int32_t prompt[] = {SCRIPTED_BOS};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = 0;
        while (n < MAX_PIECES && cases[i].pieces[n])
            n++;
        struct checkpoint c;
        struct nb_engine *engine = open_engine(&c, cases[i].pieces, n);
        struct nb_grammar *grammar = compile(engine, cases[i].flexible);
        /* Jumping over what must come, drawing it, and with log probabilities: the same text. */
        for (int how = 0; how < 3; how++) {
            if (how == 2 && cases[i].finish == NB_FINISH_CLOSED)
                continue;
            struct nb_generate_options options = {
                .prompt_ids = prompt,
                .n_prompt_ids = 1,
                .max_tokens = cases[i].max_tokens,
                .grammar = grammar,
                .trigger = &cases[i].trigger,
                .close = how < 2,
                .draw_all = how == 1,
                .logprobs = how == 2,
            };
            struct nb_generation out;
            struct nb_error err;
            assert_ok(nb_generate(engine, &options, &out, &err), err);
            if (strcmp(out.text, cases[i].text) != 0 || out.finish != cases[i].finish)
                fail_msg("case %zu, way %d: \"%s\" (%s)", i, how, out.text,
                         nb_finish_name(out.finish));
            for (size_t t = 0; how == 2 && t < out.n_tokens; t++)
                assert_true(isfinite(out.logprobs[t]));
            nb_generation_free(&out);
        }
        nb_grammar_release(grammar);
        nb_engine_close(engine);
        checkpoint_free(&c);
    }
}

/* A token may be the trigger, and has no text. */
static void tokens_trigger(void **state) {
    (void)state;
    static const int32_t prompt[] = {SCRIPTED_BOS};
    static const char *const pieces[] = {"Yes. ", "[TOOL_CALLS]", "maybe"};
    struct checkpoint c;
    struct nb_engine *engine = open_engine(&c, pieces, 3);
    struct nb_grammar *grammar = compile(engine, false);
    int32_t id = -1;
    struct nb_generate_options options = {.prompt_ids = prompt, .n_prompt_ids = 1};
    struct nb_generation out;
    struct nb_error err;
    assert_ok(nb_generate(engine, &options, &out, &err), err);
    assert_string_equal(out.text, "Yes. maybe");
    assert_int_equal(out.n_tokens, 3);
    id = out.token_ids[1];
    nb_generation_free(&out);
    options.grammar = grammar;
    options.trigger = &(struct nb_trigger){.token = id};
    assert_ok(nb_generate(engine, &options, &out, &err), err);
    assert_string_equal(out.text, "Yes. {\"name\":\"keep\",\"cents\":1}");
    assert_int_equal(out.finish, NB_FINISH_STOP);
    nb_generation_free(&out);
    nb_grammar_release(grammar);
    nb_engine_close(engine);
    checkpoint_free(&c);
}

static void triggers_are_checked(void **state) {
    (void)state;
    static const int32_t prompt[] = {SCRIPTED_BOS};
    static const char *const pieces[] = {"Yes."};
    struct checkpoint c;
    struct nb_engine *engine = open_engine(&c, pieces, 1);
    struct nb_grammar *grammar = compile(engine, false);
    struct nb_trigger trigger = {.token = -1, .text = marker};
    struct nb_generate_options options = {
        .prompt_ids = prompt, .n_prompt_ids = 1, .trigger = &trigger};
    struct nb_generation out;
    struct nb_error err;
    enum nb_status s = nb_generate(engine, &options, &out, &err);
    expect_failure("no grammar", s, &err, NB_ERR_ARGUMENT, "trigger|no grammar");
    options.grammar = grammar;
    trigger.text = "";
    s = nb_generate(engine, &options, &out, &err);
    expect_failure("no text", s, &err, NB_ERR_ARGUMENT, "trigger|empty");
    trigger = (struct nb_trigger){.token = -1, .opening = "("};
    s = nb_generate(engine, &options, &out, &err);
    assert_int_not_equal(s, NB_OK);
    nb_grammar_release(grammar);
    nb_engine_close(engine);
    checkpoint_free(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grammars_begin_at_their_trigger),
        cmocka_unit_test(tokens_trigger),
        cmocka_unit_test(triggers_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
