/* Structured output: schemas as validators, and masks against the plain walk over every token. */
#include "test.h"

#include "grammar/grammar.h"
#include "grammar/mask.h"

static struct nb_grammar *compile(const char *schema, const struct nb_grammar_options *options,
                                  const struct nb_vocabulary *vocabulary) {
    struct nb_grammar *g;
    struct nb_error err;
    assert_ok(nb_grammar_schema(schema, strlen(schema), options, vocabulary, &g, &err), err);
    return g;
}

/* A schema, texts that fulfil it and texts that do not; lists end in NULL. */
struct verdicts {
    const char *schema;
    const char *valid[12], *invalid[12];
};

static const struct verdicts cases[] = {
    {"true", {"1", "[]", " {\"a\": [1, 2]} "}, {"", "[", "tru", "01", "[1,]", "{\"a\":1,\"a\":2}"}},
    {"{\"enum\":[\"eq\",\"neq\",1,null,[1,{\"a\":2}]]}",
     {"\"eq\"", "\"n\\u0065q\"", "1.0", "null", "[1, {\"a\": 2.0}]"},
     {"\"e\"", "2", "true", "[1]", "[1, {\"a\": 2, \"b\": 1}]"}},
    {"{\"type\":\"integer\",\"minimum\":-3,\"exclusiveMaximum\":20,\"multipleOf\":3}",
     {"-3", "0", "18", "1.8e1", "9.0"},
     {"-6", "21", "1", "1e2", "\"3\""}},
    {"{\"multipleOf\":0.01}", {"4.35", "1e300", "0"}, {"0.0075", "1.001"}},
    {"{\"minLength\":2,\"maxLength\":3}",
     {"\"ab\"", "\"\\ud83d\\ude00b\"", "\"\xF0\x9F\x98\x80x\""},
     {"\"a\"", "\"abcd\"", "\"\xF0\x9F\x98\x80\""}},
    {"{\"required\":[\"a\"],\"properties\":{\"a\":{\"type\":\"string\"}},\"patternProperties\":{\"^"
     "x\":"
     "{\"type\":\"null\"}},\"additionalProperties\":{\"type\":\"boolean\"}}",
     {"{\"a\":\"\"}", "{\"x1\":null,\"a\":\"b\",\"q\":true}"},
     {"{}", "{\"a\":1}", "{\"a\":\"\",\"x\":1}", "{\"a\":\"\",\"q\":0}"}},
    {"{\"oneOf\":[{\"multipleOf\":2},{\"multipleOf\":3}]}", {"2", "3", "9"}, {"6", "1", "\"a\""}},
    {"{\"not\":{\"type\":\"object\",\"required\":[\"a\"]}}",
     {"{}", "1", "{\"b\":1}"},
     {"{\"a\":1}"}},
    {"{\"if\":{\"properties\":{\"k\":{\"const\":1}},\"required\":[\"k\"]},\"then\":{\"required\":["
     "\"a\"]},"
     "\"else\":{\"maxProperties\":1}}",
     {"{\"k\":1,\"a\":0}", "{\"k\":2}", "{}"},
     {"{\"k\":1}", "{\"k\":2,\"a\":1}"}},
    /* What an object need not fulfil sets no bounds to it, and no order. */
    {"{\"not\":{\"prefixItems\":[{\"maxProperties\":0}]}}",
     {"[{\"a\":1}]", "[{\"a\":1,\"b\":1}]"},
     {"[]", "[{}]", "[1]"}},
    {"{\"anyOf\":[{\"items\":{\"minProperties\":3,\"properties\":{\"a\":true,\"b\":true},"
     "\"additionalProperties\":false}},{\"minItems\":2}]}",
     {"[{\"a\":1},1]", "[{\"b\":1},1]", "[1]"},
     {"[{\"a\":1}]", "[{}]"}},
    {"{\"uniqueItems\":true}",
     {"[1,2,\"1\"]", "[{\"a\":1,\"b\":2},{\"a\":2,\"b\":1}]", "[[],[\"\"]]", "[{},{\"\":\"\"}]",
      "[\"\",[],{},0,null]", "[11400714819323198485,114007148193231984850]"},
     {"[1,1.0]", "[{\"a\":1,\"b\":2},{\"b\":2,\"a\":1}]", "[[],[]]", "[\"a\",\"\\u0061\"]"}},
    {"{\"contains\":{\"const\":1},\"minContains\":2,\"maxContains\":3}",
     {"[1,1]", "[1,2,1,1]"},
     {"[1]", "[1,1,1,1]", "[]"}},
    {"{\"prefixItems\":[{\"type\":\"null\"}],\"items\":{\"type\":\"integer\"},\"maxItems\":3}",
     {"[]", "[null]", "[null,1,2]"},
     {"[1]", "[null,\"\"]", "[null,1,2,3]"}},
    {"{\"propertyNames\":{\"maxLength\":2},\"minProperties\":1}",
     {"{\"ab\":1}"},
     {"{}", "{\"abc\":1}"}},
    {"{\"dependentRequired\":{\"a\":[\"b\"]},\"dependentSchemas\":{\"c\":{\"required\":[\"d\"]}}}",
     {"{}", "{\"a\":1,\"b\":1}", "{\"c\":1,\"d\":1}"},
     {"{\"a\":1}", "{\"c\":1}"}},
    {"{\"$defs\":{\"t\":{\"properties\":{\"v\":{\"type\":\"integer\"},\"n\":{\"$ref\":\"#/$defs/"
     "t\"}},\"additionalProperties\":false}},\"$ref\":\"#/$defs/t\"}",
     {"{\"n\":{\"n\":{\"v\":1}}}"},
     {"{\"n\":{\"n\":{\"v\":\"\"}}}", "{\"n\":{\"x\":1}}"}},
    {"{\"$schema\":\"http://json-schema.org/draft-04/"
     "schema#\",\"minimum\":1,\"exclusiveMinimum\":true}",
     {"1.1"},
     {"1"}},
    {"{\"$schema\":\"http://json-schema.org/draft-07/schema#\",\"definitions\":{\"s\":{\"type\":"
     "\"string\"}},\"properties\":{\"a\":{\"$ref\":\"#/definitions/s\",\"maxLength\":1}}}",
     {"{\"a\":\"long\"}"},
     {"{\"a\":1}"}},
};

static void test_verdicts(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct nb_grammar *g = compile(cases[i].schema, NULL, NULL);
        for (int right = 0; right < 2; right++) {
            const char *const *texts = right ? cases[i].valid : cases[i].invalid;
            for (int k = 0; k < 12 && texts[k]; k++) {
                struct nb_error err;
                bool valid;
                size_t where;
                assert_ok(nb_grammar_validate(g, texts[k], strlen(texts[k]), &valid, &where, &err),
                          err);
                if (valid != right)
                    fail_msg("%s: %s: %s", cases[i].schema, texts[k],
                             valid ? "accepted" : "refused");
            }
        }
        nb_grammar_release(g);
    }
}

/* Numbers of more digits than are kept are judged where those suffice, and else not at all. */
static void test_long_numbers(void **state) {
    (void)state;
    static const char tail[] = "00000000000000000000000000000000000000000000000003";
    static const struct {
        const char *schema, *before, *after;
        int verdict; /* 1 valid, 0 not, -1 it cannot be told */
    } numbers[] = {
        {"{\"type\":\"integer\"}", "3", "", 1},    {"{\"type\":\"integer\"}", "3.", "", 0},
        {"{\"type\":\"integer\"}", "3", ".5", -1}, {"{\"maximum\":3}", "3.", "", 0},
        {"{\"minimum\":3}", "3.", "", 1},          {"{\"const\":3}", "3.", "", 0},
        {"{\"multipleOf\":3}", "3", "", -1},       {"{\"uniqueItems\":true}", "[3.", "]", -1},
        {"{\"maximum\":1e1000000}", "1e1", "", 0}, {"{\"minimum\":1e-1000000}", "1e-3", "", 0},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct nb_grammar *g = compile(numbers[i].schema, NULL, NULL);
        struct nb_error err;
        char text[200];
        bool valid;
        size_t where;
        int n = snprintf(text, sizeof text, "%s%s%s", numbers[i].before, tail, numbers[i].after);
        enum nb_status s = nb_grammar_validate(g, text, (size_t)n, &valid, &where, &err);
        assert_int_equal(s, numbers[i].verdict < 0 ? NB_ERR_LIMIT : NB_OK);
        if (s == NB_OK && valid != numbers[i].verdict)
            fail_msg("%s: %s: %s", numbers[i].schema, text, valid ? "accepted" : "refused");
        nb_grammar_release(g);
    }
}

static void test_errors(void **state) {
    (void)state;
    static const struct {
        const char *schema, *message;
        enum nb_status status;
    } bad[] = {
        {"[1", "not valid JSON", NB_ERR_FORMAT},
        {"3", "expected a schema", NB_ERR_FORMAT},
        {"{\"properties\":{\"a/b\":{\"minimum\":\"1\"}}}", "#/properties/a~1b: minimum is a string",
         NB_ERR_FORMAT},
        {"{\"items\":{\"type\":\"strin\"}}", "#/items: type names \"strin\"", NB_ERR_FORMAT},
        {"{\"$ref\":\"#/$defs/x\"}", "leads nowhere", NB_ERR_FORMAT},
        {"{\"$ref\":\"http://example.com/x\"}", "not at hand", NB_ERR_FORMAT},
        {"{\"$ref\":\"#\"}", "#: a $ref leads back to itself", NB_ERR_FORMAT},
        {"{\"items\":{\"allOf\":[{\"$ref\":\"#/items\"}]}}", "#/items", NB_ERR_FORMAT},
        {"{\"multipleOf\":0.1234567890123456789}", "more than 18 digits", NB_ERR_UNSUPPORTED},
        {"{\"items\":{\"exclusiveMaximum\":1e1000001}}",
         "#/items: exclusiveMaximum: 1e1000001 has more than 38 digits, or an exponent beyond "
         "1000000",
         NB_ERR_UNSUPPORTED},
        {"{\"enum\":[{\"a\":[100000000000000000000000000000000000001]}]}",
         "#: enum: 100000000000000000000000000000000000001 has more than 38", NB_ERR_UNSUPPORTED},
        /* Of members that no answer need have, too. */
        {"{\"properties\":{\"a\":{\"pattern\":\"[\"}}}",
         "#/properties/a: pattern \"[\" is no regular expression of ECMA-262: byte 0 of the "
         "pattern: a "
         "class whose ] is missing",
         NB_ERR_FORMAT},
        {"{\"properties\":{\"a\":{\"pattern\":\"(a)\\\\1\"}}}",
         "#/properties/a: pattern \"(a)\\1\": byte 3 of the pattern: a backreference",
         NB_ERR_UNSUPPORTED},
        {"{\"patternProperties\":{\"(?<=a$)\":true}}",
         "#: patternProperties \"(?<=a$)\": byte 5 of the pattern: a lookbehind that looks ahead",
         NB_ERR_UNSUPPORTED},
        {"{\"pattern\":\"((a{1,900}b){1,900}c){1,900}\"}", "too large written out",
         NB_ERR_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct nb_grammar *g;
        struct nb_error err;
        assert_int_equal(
            nb_grammar_schema(bad[i].schema, strlen(bad[i].schema), NULL, NULL, &g, &err),
            bad[i].status);
        assert_null(g);
        if (!strstr(err.message, bad[i].message))
            fail_msg("%s: \"%s\" has no \"%s\"", bad[i].schema, err.message, bad[i].message);
    }
}

/* Slips are named, extensions and words of the standard are not. */
static void test_doubts(void **state) {
    (void)state;
    static const char schema[] =
        "{\"$schema\":\"http://json-schema.org/draft-07/"
        "schema#\",\"title\":\"t\",\"requird\":[\"a\"],"
        "\"dependentRequired\":{},\"x-type\":1,\"_format\":1,\"note\":1,\"unit\":1,"
        "\"properties\":{\"titel\":{\"minlength\":3,\"format\":\"date-tme\"},"
        "\"b\":{\"format\":\"date\",\"description\":\"d\"}}}";
    static const char expected[] =
        "#: \"requird\" is no keyword, and is ignored; is \"required\" meant?\n"
        "#: \"dependentRequired\" is no keyword of the draft that $schema names, and is ignored\n"
        "#/properties/titel: \"minlength\" is no keyword, and is ignored; is \"minLength\" meant?\n"
        "#/properties/titel: format \"date-tme\" is not enforced\n";
    struct nb_grammar_options options = {.doubt = true};
    struct nb_grammar *g;
    struct nb_error err;
    assert_ok(nb_grammar_schema(schema, strlen(schema), &options, NULL, &g, &err), err);
    assert_string_equal(nb_grammar_doubts(g), expected);
    nb_grammar_release(g);
    options.doubt = false;
    assert_ok(nb_grammar_schema(schema, strlen(schema), &options, NULL, &g, &err), err);
    assert_string_equal(nb_grammar_doubts(g), "");
    nb_grammar_release(g);
}

/* `lenient` leaves out the pattern that no automaton follows, says so, and enforces the rest. */
static void test_lenient_patterns(void **state) {
    (void)state;
    static const char schema[] =
        "{\"properties\":{\"a\":{\"pattern\":\"(a)\\\\1\",\"maxLength\":3}},"
        "\"patternProperties\":{\"(b)\\\\1\":{\"type\":\"null\"},\"^c$\":{\"type\":\"null\"}},"
        "\"unevaluatedProperties\":false}";
    const struct nb_grammar_options options = {.lenient = true};
    struct nb_grammar *g;
    struct nb_error err;
    assert_ok(nb_grammar_schema(schema, strlen(schema), &options, NULL, &g, &err), err);
    assert_non_null(strstr(nb_grammar_notes(g), "#/properties/a: pattern \"(a)\\1\""));
    assert_non_null(strstr(nb_grammar_notes(g), "#: patternProperties \"(b)\\1\""));
    static const struct {
        const char *text;
        bool valid;
    } documents[] = {{"{\"a\":\"xyz\",\"c\":null}", true},
                     {"{\"a\":\"four\"}", false},
                     {"{\"c\":1}", false},
                     {"{\"d\":1}", false}};
    for (size_t i = 0; i < sizeof documents / sizeof *documents; i++) {
        bool valid;
        size_t where;
        const char *text = documents[i].text;
        assert_ok(nb_grammar_validate(g, text, strlen(text), &valid, &where, &err), err);
        if (valid != documents[i].valid)
            fail_msg("%s: %s", text, valid ? "accepted" : "refused");
    }
    nb_grammar_release(g);
}

static const char *const masked[] = {
    "true",
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},\"names\":{\"type\":"
    "\"array\","
    "\"items\":{\"type\":\"string\",\"maxLength\":4}},\"n\":{\"type\":\"integer\",\"minimum\":12,"
    "\"maximum\":345}},\"required\":[\"name\"],\"additionalProperties\":false}",
    "{\"type\":\"object\",\"patternProperties\":{\"^[a-c]+$\":{\"type\":\"string\",\"pattern\":\"^["
    "a-z]"
    "{2,5}$\"}},\"additionalProperties\":false}",
    "{\"oneOf\":[{\"type\":\"string\",\"enum\":[\"one\",\"two\",\"on\"]},{\"type\":\"number\"},{"
    "\"type\":"
    "\"object\",\"properties\":{\"kind\":{\"const\":\"a\"}},\"required\":[\"kind\"]},{\"type\":"
    "\"object\","
    "\"properties\":{\"kind\":{\"const\":\"b\"},\"v\":{\"type\":\"null\"}},\"required\":[\"kind\"]}"
    "]}",
    "{\"type\":\"array\",\"items\":{\"type\":\"string\"},\"uniqueItems\":true,\"minItems\":1}",
    /* Patterns and lengths at once: far from the bounds, near them, and escapes. */
    "{\"type\":\"string\",\"pattern\":\"^[a-z]+([ -][a-zé]+)*\\\\.$\",\"maxLength\":60}",
    "{\"type\":\"string\",\"pattern\":\"^\\\\S+( "
    "\\\\S+){0,3}$\",\"minLength\":12,\"maxLength\":40}",
    "{\"type\":\"string\",\"pattern\":\"^(ab|abc)*[^ab]{3}$\",\"minLength\":20,\"maxLength\":31}",
    "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"pattern\":\"^[^x]{25,}y?$\","
    "\"maxLength\":30}}",
};

/* Random texts, each token drawn from the mask, which is held to the plain walk at each step. */
static void walk_randomly(const char *schema, const struct nb_vocabulary *v, unsigned seed,
                          const struct nb_grammar_options *options) {
    struct nb_grammar *g = compile(schema, options, v);
    struct nb_matcher *m;
    struct nb_error err;
    struct nb_buf text = {0};
    uint64_t *plain = calloc(v->n_words, sizeof *plain);
    assert_ok(nb_matcher_open(g, &m, &err), err);
    for (int step = 0; step < 60; step++) {
        const uint64_t *bits;
        assert_ok(nb_matcher_mask(m, &bits, &err), err);
        assert_ok(nb_matcher_mask_plain(m, plain, &err), err);
        size_t n = 0;
        int32_t pick = -1;
        for (int32_t id = 0; id < v->size; id++) {
            bool is = bits[id / 64] >> id % 64 & 1, should = plain[id / 64] >> id % 64 & 1;
            size_t bytes;
            if (is != should)
                fail_msg("%s: after %.*s: token %d \"%s\" is %s", schema, (int)text.len,
                         text.data ? text.data : "", id,
                         nb_tokenizer_bytes(v->tokenizer, id, &bytes),
                         is ? "allowed and may not come" : "not allowed and may come");
            seed = seed * 1664525 + 1013904223;
            if (is && (seed >> 8) % ++n == 0)
                pick = id;
        }
        if (pick < 0)
            fail_msg("%s: after %.*s: nothing may come", schema, (int)text.len, text.data);
        assert_true(nb_matcher_accept(m, pick));
        if (pick == v->ends[0]) {
            bool valid;
            size_t where;
            assert_ok(nb_grammar_validate(g, text.data, text.len, &valid, &where, &err), err);
            if (!valid)
                fail_msg("%s: made %s, not valid at %zu", schema, text.data, where);
            break;
        }
        size_t bytes;
        const char *p = nb_tokenizer_bytes(v->tokenizer, pick, &bytes);
        nb_buf_add(&text, p, bytes);
    }
    nb_buf_free(&text);
    free(plain);
    nb_matcher_close(m);
    nb_grammar_release(g);
}

static void test_masks(void **state) {
    (void)state;
    struct nb_tokenizer *tokenizer;
    struct nb_vocabulary *v;
    struct nb_error err;
    assert_ok(nb_tokenizer_open(test_path("models/demo/tokenizer.json"), &tokenizer, &err), err);
    int32_t end = nb_tokenizer_find(tokenizer, "</s>");
    assert_true(end >= 0);
    assert_ok(nb_vocabulary_open(tokenizer, &end, 1, &v, &err), err);
    for (size_t i = 0; i < sizeof masked / sizeof *masked; i++) {
        for (unsigned seed = 0; seed < 6; seed++) {
            struct nb_grammar_options options = {.flexible = seed & 1, .any_order = seed & 2};
            walk_randomly(masked[i], v, seed, &options);
        }
    }
    nb_vocabulary_close(v);
    nb_tokenizer_close(tokenizer);
}

/* Ten thousand members, values ten thousand deep, counts of counts: an answer, or an error that
 * says what is too much. */
static void test_large(void **state) {
    (void)state;
    enum { MANY = 10000 };
    struct nb_buf schema = {0}, text = {0};
    struct nb_error err;
    struct nb_grammar *g;
    nb_buf_add_string(&schema, "{\"additionalProperties\":false,\"properties\":{");
    for (int i = 0; i < MANY; i++)
        nb_buf_printf(&schema, "%s\"p%d\":{\"type\":\"integer\"}", i ? "," : "", i);
    nb_buf_add_string(&schema, "},\"required\":[");
    for (int i = 0; i < MANY; i++) {
        nb_buf_printf(&schema, "%s\"p%d\"", i ? "," : "", i);
        nb_buf_printf(&text, "%s\"p%d\":%d", i ? "," : "{", i, i);
    }
    nb_buf_add_string(&schema, "]}");
    assert_ok(nb_grammar_schema(schema.data, schema.len, NULL, NULL, &g, &err), err);
    for (int whole = 0; whole < 2; whole++) {
        bool valid;
        size_t where;
        if (whole)
            nb_buf_add_string(&text, "}");
        assert_ok(nb_grammar_validate(g, text.data, text.len, &valid, &where, &err), err);
        assert_int_equal(valid, whole);
    }
    assert_true(nb_grammar_bytes(g) < 64 << 20);
    nb_grammar_release(g);
    schema.len = 0;
    for (int i = 0; i < MANY; i++)
        nb_buf_add_string(&schema, "{\"items\":");
    nb_buf_add_string(&schema, "true");
    for (int i = 0; i < MANY; i++)
        nb_buf_add_string(&schema, "}");
    assert_int_equal(nb_grammar_schema(schema.data, schema.len, NULL, NULL, &g, &err),
                     NB_ERR_LIMIT);
    assert_non_null(strstr(err.message, "deeper than"));
    static const char counts[] =
        "{\"properties\":{\"a\":{\"pattern\":\"^((a{1,1000}){1,1000}){1,1000}$\"}}}";
    assert_int_not_equal(nb_grammar_schema(counts, sizeof counts - 1, NULL, NULL, &g, &err), NB_OK);
    assert_non_null(strstr(err.message, "#/properties/a"));
    nb_buf_free(&schema);
    nb_buf_free(&text);
}

/* What cannot be gone on with does not begin: what contradicts itself is seen before it comes. */
static void test_begins(void **state) {
    (void)state;
    static const struct {
        const char *schema, *may, *may_not;
    } rows[] = {
        {"{\"minLength\":2,\"maxLength\":0}", "[", "\""},
        {"{\"required\":[\"c\"],\"maxProperties\":0}", "[", "{"},
        {"{\"enum\":[1,[false,true]],\"minItems\":3}", "1", "["},
        {"{\"enum\":[1,{\"b\":1,\"ab\":2}],\"dependentRequired\":{\"ab\":[\"a\"]}}", "1", "{"},
        {"{\"dependentRequired\":{\"b\":[\"a\"]},\"properties\":{\"a\":false}}", "{\"c", "{\"b\""},
        {"{\"properties\":{\"a\":{\"type\":\"string\",\"enum\":[1]},\"b\":{}},"
         "\"additionalProperties\":false}",
         "{\"b", "{\"a"},
        {"{\"properties\":{\"a\":{\"type\":\"integer\",\"minimum\":5,\"maximum\":3}},"
         "\"additionalProperties\":false}",
         "{}", "{\"a"},
        {"{\"items\":{\"type\":\"string\",\"pattern\":\"^a$\",\"enum\":[\"b\"]}}", "[]", "[\""},
        {"{\"oneOf\":[{\"minProperties\":0},{\"minItems\":0}]}", NULL, "1"},
        {"{\"exclusiveMinimum\":0.5}", "0.500000000000000000000001", "0.500000000000000000000000"},
        {"{\"type\":\"array\",\"uniqueItems\":true,\"items\":{\"enum\":[\"ab\",\"ac\",\"b\"]}}",
         "[\"ab\",\"a", "[\"b\",\"b"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct nb_grammar *g = compile(rows[i].schema, NULL, NULL);
        for (int k = 0; k < 2; k++) {
            const char *text = k ? rows[i].may_not : rows[i].may;
            struct nb_matcher *m;
            struct nb_error err;
            if (!text)
                continue;
            assert_ok(nb_matcher_open(g, &m, &err), err);
            if (nb_matcher_accept_bytes(m, text, strlen(text)) == (k == 1))
                fail_msg("%s: %s %s", rows[i].schema, text, k ? "may come" : "may not come");
            nb_matcher_close(m);
        }
        nb_grammar_release(g);
    }
}

/* What closes a text is as short as can be. `most` bytes are needed: nothing of `alphabet` that is
 * shorter does, by the validator. */
/* A text is found for schemas that are not easy, and it fulfils them. */
static void check_found(const char *schema) {
    struct nb_grammar *g = compile(schema, NULL, NULL);
    struct nb_matcher *m;
    struct nb_error err;
    struct nb_buf text = {0};
    bool valid;
    size_t where;
    assert_ok(nb_matcher_open(g, &m, &err), err);
    if (!nb_matcher_finish(m, &text))
        fail_msg("%.300s: no text was found", schema);
    assert_ok(nb_grammar_validate(g, text.data, text.len, &valid, &where, &err), err);
    if (!valid)
        fail_msg("%.300s: found %s, which is wrong", schema, text.data);
    nb_buf_free(&text);
    nb_matcher_close(m);
    nb_grammar_release(g);
}

/* An end is found from anywhere on the way to items that differ. */
static void test_way(void **state) {
    (void)state;
    static const char *const types[] = {"integer", "number"};
    static const char *const texts[] = {"[{\"id\":0}", "[{\"id\":0},", "[{\"id\":0},{",
                                        "[{\"id\":0},{\"id\":", "[{\"id\":0},{\"id\":0"};
    for (size_t i = 0; i < 10; i++) {
        const char *text = texts[i / 2], *type = types[i % 2];
        char schema[300];
        struct nb_matcher *m;
        struct nb_error err;
        struct nb_buf rest = {0};
        if (i == 8)
            continue; /* an integer that begins so is 0 again */
        snprintf(schema, sizeof schema,
                 "{\"type\":\"array\",\"uniqueItems\":true,\"minItems\":2,\"items\":{\"type\":"
                 "\"object\",\"required\":[\"id\"],\"additionalProperties\":false,"
                 "\"properties\":{\"id\":{\"type\":\"%s\"}}}}",
                 type);
        struct nb_grammar *g = compile(schema, NULL, NULL);
        assert_ok(nb_matcher_open(g, &m, &err), err);
        assert_true(nb_matcher_accept_bytes(m, text, strlen(text)));
        if (!nb_matcher_finish(m, &rest))
            fail_msg("%s: %s: no end was found", type, text);
        assert_true(nb_matcher_accept_bytes(m, rest.data, rest.len));
        assert_true(nb_matcher_can_end(m));
        nb_buf_free(&rest);
        nb_matcher_close(m);
        nb_grammar_release(g);
    }
}

/* A number that has as many digits as are written is a multiple, or is not begun so. */
static void test_last_digit(void **state) {
    (void)state;
    struct nb_grammar *g = compile("{\"type\":\"integer\",\"multipleOf\":10}", NULL, NULL);
    struct nb_matcher *m;
    struct nb_error err;
    assert_ok(nb_matcher_open(g, &m, &err), err);
    for (int i = 0; i < 36; i++)
        assert_true(nb_matcher_accept_bytes(m, "7", 1));
    assert_false(nb_matcher_accept_bytes(m, "7", 1));
    assert_true(nb_matcher_accept_bytes(m, "0", 1));
    assert_true(nb_matcher_can_end(m));
    nb_matcher_close(m);
    nb_grammar_release(g);
}

static void test_found(void **state) {
    (void)state;
    static const char *const schemas[] = {
        /* What tells the branches apart is not what must come first. */
        "{\"oneOf\":[{\"required\":[\"r\"],\"properties\":{\"r\":{\"type\":\"object\"},\"t\":{"
        "\"const\":"
        "\"n\"}}},{\"required\":[\"r\"],\"properties\":{\"r\":{\"type\":\"object\"},\"t\":{"
        "\"const\":"
        "\"g\"}}}]}",
        "{\"type\":\"array\",\"oneOf\":[{\"prefixItems\":[{\"type\":\"object\"},{\"const\":1}],"
        "\"minItems\":1},{\"prefixItems\":[{\"type\":\"object\"},{\"const\":2}],\"minItems\":1}]}",
        /* What must not hold can fail in several ways. */
        "{\"type\":\"array\",\"not\":{\"uniqueItems\":true},\"prefixItems\":[{\"type\":\"null\"}]}",
        "{\"type\":\"array\",\"not\":{\"contains\":{\"const\":1},\"maxContains\":2,\"minContains\":"
        "0}}",
        "{\"type\":\"array\",\"not\":{\"prefixItems\":[{},{\"type\":\"null\"}]}}",
        "{\"type\":\"object\",\"not\":{\"dependentRequired\":{\"a\":[\"b\"],\"c\":[\"d\"]}},"
        "\"properties\":{\"a\":false}}",
        "{\"type\":\"object\",\"not\":{\"maxProperties\":2},\"properties\":{\"a\":{\"type\":"
        "\"null\"}}}",
        "{\"type\":\"object\",\"not\":{\"propertyNames\":{\"maxLength\":3}}}",
        "{\"type\":\"object\",\"not\":{\"patternProperties\":{\"^xyz\":{\"type\":\"number\"}}}}",
        "{\"not\":{\"items\":{\"items\":{\"type\":\"boolean\"}}}}",
        "{\"not\":{\"additionalProperties\":{\"properties\":{\"b\":false}}}}",
        "{\"type\":\"object\",\"minProperties\":2,\"dependentSchemas\":{\"ba\":{\"type\":\"array\"}"
        ",\"x1\":{}}}",
        /* Keys that only a language of them tells. */
        "{\"type\":\"object\",\"minProperties\":2,\"propertyNames\":{\"format\":\"date\"}}",
        "{\"type\":\"object\",\"minProperties\":2,\"propertyNames\":{\"enum\":[\"x\",\"y\"]}}",
        "{\"type\":\"object\",\"minProperties\":3,\"propertyNames\":{\"pattern\":\"^\\u00e9[0-9]{2}"
        "$\"}}",
        "{\"type\":\"object\",\"minProperties\":2,\"propertyNames\":{\"minLength\":40}}",
        /* Items that must differ. */
        "{\"type\":\"array\",\"uniqueItems\":true,\"minItems\":150}",
        "{\"type\":\"array\",\"uniqueItems\":true,\"minItems\":150,\"items\":{\"type\":\"string\"}"
        "}",
        "{\"type\":\"array\",\"uniqueItems\":true,\"minItems\":3,\"items\":{\"type\":\"string\","
        "\"format\":\"date\"}}",
        "{\"type\":\"array\",\"uniqueItems\":true,\"minItems\":3,\"items\":{\"enum\":[\"b\",\"c\",["
        "1]]}}",
        "{\"type\":\"array\",\"uniqueItems\":true,\"minItems\":5,\"items\":{\"type\":\"integer\","
        "\"multipleOf\":7,\"maximum\":-3}}",
        "{\"type\":\"array\",\"uniqueItems\":true,\"minItems\":5,\"items\":{\"type\":\"number\","
        "\"minimum\":0.5,\"maximum\":0.6}}",
        "{\"type\":\"array\",\"uniqueItems\":true,\"minItems\":3,\"items\":{\"type\":\"object\","
        "\"required\":[\"id\"],\"additionalProperties\":false,\"properties\":{\"id\":{\"type\":"
        "\"integer\"}}}}",
        "{\"type\":\"array\",\"uniqueItems\":true,\"minItems\":3,\"items\":{\"type\":\"array\"}}",
    };
    static const char *const branches[] = {
        "{\"type\":\"object\",\"properties\":{\"k%d\":{\"type\":\"string\"}},\"required\":[\"k%d\"]"
        "}",
        "{\"type\":\"object\",\"properties\":{\"t\":{\"const\":\"k%d\"},\"v%d\":{\"type\":"
        "\"integer\"}},"
        "\"required\":[\"t\"]}",
    };
    for (size_t i = 0; i < sizeof schemas / sizeof *schemas; i++)
        check_found(schemas[i]);
    for (size_t k = 0; k < sizeof branches / sizeof *branches; k++) {
        struct nb_buf many = {0};
        nb_buf_add_string(&many, "{\"oneOf\":[");
        for (int i = 0; i < 200; i++) {
            nb_buf_add_string(&many, i ? "," : "");
            nb_buf_printf(&many, branches[k], i, i);
        }
        nb_buf_add_string(&many, "]}");
        check_found(many.data);
        nb_buf_free(&many);
    }
}

static void test_shortest(void **state) {
    (void)state;
    static const struct {
        const char *schema, *text;
        size_t need;
        const char *alphabet; /* NULL: not tried */
    } rows[] = {
        {"{\"type\":\"string\",\"pattern\":\"^(abcdef|xy|ab)$\"}", "\"a", 2, "abcdefxy\""},
        {"{\"type\":\"array\",\"items\":{\"enum\":[1234,\"x\",null,[7,8]]},\"minItems\":2}",
         "[1234", 5, "1247x,]\"[nul8"},
        {"{\"type\":\"object\",\"properties\":{\"k\":{\"enum\":[\"long\",\"s\"]},\"n\":{"
         "\"minimum\":10,\"type\":\"integer\"}},\"required\":[\"k\",\"n\"]}",
         "{", 15, NULL},
        /* The shorter word asks for more afterwards. */
        {"{\"type\":\"object\",\"properties\":{\"k\":{\"enum\":[\"a\",\"bbb\"]},\"v\":{\"type\":"
         "\"string\",\"minLength\":9}},\"required\":[\"k\"],\"if\":{\"properties\":{\"k\":{"
         "\"const\":"
         "\"a\"}}},\"then\":{\"required\":[\"v\"]}}",
         "{\"k\":", 6, NULL},
        {"{\"type\":\"array\",\"uniqueItems\":true,\"items\":{\"enum\":[1,22,\"z\"]},\"minItems\":"
         "3}",
         "[1", 8, NULL},
        {"{\"anyOf\":[{\"type\":\"object\",\"required\":[\"abcdefgh\"]},{\"type\":\"object\","
         "\"minProperties\":2}]}",
         "{\"q\":1", 6, "\",:1ab}0"},
        {"{\"type\":\"number\",\"multipleOf\":0.25,\"exclusiveMinimum\":2}", "2", 1, "0123456789."},
        {"{\"type\":\"string\",\"format\":\"date\"}", "\"2024-0", 5, NULL},
        {"true", "{\"a\":[{\"b\":\"x", 4, "\"]}x,"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct nb_error err;
        struct nb_matcher *m;
        struct nb_buf text = {0};
        struct nb_grammar *g = compile(rows[i].schema, NULL, NULL);
        size_t where, begun = strlen(rows[i].text), tried = 1;
        bool valid;
        assert_ok(nb_matcher_open(g, &m, &err), err);
        assert_true(nb_matcher_accept_bytes(m, rows[i].text, begun));
        nb_buf_add_string(&text, rows[i].text);
        assert_true(nb_matcher_finish_shortest(m, &text));
        assert_ok(nb_grammar_validate(g, text.data, text.len, &valid, &where, &err), err);
        if (!valid || text.len - begun != rows[i].need)
            fail_msg("%s: \"%s\" is closed as \"%s\", by %zu bytes, expected %zu", rows[i].schema,
                     rows[i].text, text.data, text.len - begun, rows[i].need);
        size_t n = rows[i].alphabet ? strlen(rows[i].alphabet) : 0;
        for (size_t len = 0; n && len < rows[i].need && tried < 1000 * 1000; len++, tried *= n)
            for (size_t k = 0; k < tried; k++) {
                char shorter[64];
                memcpy(shorter, rows[i].text, begun);
                for (size_t j = 0, rest = k; j < len; j++, rest /= n)
                    shorter[begun + j] = rows[i].alphabet[rest % n];
                nb_grammar_validate(g, shorter, begun + len, &valid, &where, &err);
                if (valid)
                    fail_msg("%s: %.*s is shorter", rows[i].schema, (int)(begun + len), shorter);
            }
        nb_buf_free(&text);
        nb_matcher_close(m);
        nb_grammar_release(g);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verdicts),         cmocka_unit_test(test_long_numbers),
        cmocka_unit_test(test_errors),           cmocka_unit_test(test_doubts),
        cmocka_unit_test(test_lenient_patterns), cmocka_unit_test(test_masks),
        cmocka_unit_test(test_begins),           cmocka_unit_test(test_way),
        cmocka_unit_test(test_last_digit),       cmocka_unit_test(test_found),
        cmocka_unit_test(test_shortest),         cmocka_unit_test(test_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
