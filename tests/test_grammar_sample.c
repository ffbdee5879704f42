/* Whatever a model would choose, what it writes under the masks fulfils the schema: tokens are
 * drawn at random from the masks for each schema of tests/grammar/schemas.json, in each mode, and
 * what comes out is judged by the validator of tests/validator.h. The tokens are the embedded
 * model's. */
#include "test.h"

#include "grammar/grammar.h"
#include "model/tokenizer.h"
#include "validator.h"

#include <jansson.h>

enum { ROUNDS = 12, CALM = 60, MOST_TOKENS = 600 };

static uint64_t seed;

static uint32_t below(uint32_t n) {
    seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((seed >> 33) % n);
}

static bool has_bit(const uint64_t *bits, int32_t id) {
    return bits[id >> 6] >> (id & 63) & 1;
}

/* Schemas that failed: the others are looked at all the same. */
static int n_failed;

static bool complain(const char *name, const char *what, const char *text) {
    print_error("%s: %s: %s\n", name, what, text ? text : "");
    n_failed++;
    return false;
}

struct world {
    struct nb_tokenizer *tokenizer;
    struct nb_vocabulary *vocabulary;
    int32_t end;
};

static int open_world(void **state) {
    static struct world w;
    struct nb_error err;
    if (nb_tokenizer_open(test_path("models/demo/tokenizer.json"), &w.tokenizer, &err) != NB_OK)
        fail_msg("%s", err.message);
    w.end = nb_tokenizer_find(w.tokenizer, "</s>");
    if (nb_vocabulary_open(w.tokenizer, &w.end, 1, &w.vocabulary, &err) != NB_OK)
        fail_msg("%s", err.message);
    *state = &w;
    return 0;
}

static int close_world(void **state) {
    struct world *w = *state;
    nb_vocabulary_close(w->vocabulary);
    nb_tokenizer_close(w->tokenizer);
    return 0;
}

/* After CALM tokens: one that ends a string, a list or the text, whatever chance would have it. */
static int32_t closing_token(const struct world *w, const uint64_t *bits) {
    static const char *const closers[] = {"\"", "}", "]", "\"}", "\"]", "e", "l", "0", ":"};
    if (has_bit(bits, w->end))
        return w->end;
    for (size_t i = 0; i < sizeof closers / sizeof *closers; i++)
        for (int32_t id = 0; id < w->vocabulary->size; id++) {
            size_t n = 0;
            const char *bytes = has_bit(bits, id) ? nb_tokenizer_bytes(w->tokenizer, id, &n) : NULL;
            if (bytes && n == strlen(closers[i]) && !memcmp(bytes, closers[i], n))
                return id;
        }
    return -1;
}

/* One of those allowed, all alike. */
static int32_t random_token(const struct world *w, const uint64_t *bits) {
    uint32_t n = 0, pick;
    for (uint32_t i = 0; i < w->vocabulary->n_words; i++)
        n += (uint32_t)__builtin_popcountll(bits[i]);
    if (!n)
        return -1;
    pick = below(n);
    for (int32_t id = 0; id < w->vocabulary->size; id++)
        if (has_bit(bits, id) && pick-- == 0)
            return id;
    return -1;
}

static int32_t choose(const struct world *w, const uint64_t *bits, int so_far) {
    if (has_bit(bits, w->end) && below(4) == 0)
        return w->end;
    int32_t id = so_far > CALM && below(8) ? closing_token(w, bits) : -1;
    return id >= 0 ? id : random_token(w, bits);
}

enum drawn { ENDED, ENDLESS, STUCK };

static enum drawn draw_on(const struct world *w, const char *name, struct nb_matcher *matcher,
                          uint64_t *plain, struct nb_buf *text) {
    struct nb_error err;
    nb_buf_clear(text);
    nb_buf_add_string(text, "");
    for (int i = 0; i < MOST_TOKENS; i++) {
        const uint64_t *bits;
        assert_ok(nb_matcher_mask(matcher, &bits, &err), err);
        if (below(16) == 0) {
            assert_ok(nb_matcher_mask_plain(matcher, plain, &err), err);
            if (memcmp(bits, plain, w->vocabulary->n_words * sizeof *plain) != 0) {
                complain(name, "the mask is not the plain one after", text->data);
                return STUCK;
            }
        }
        int32_t id = choose(w, bits, i);
        if (id < 0) {
            complain(name, "no token is allowed after", text->data);
            return STUCK;
        }
        bool ends = id == w->end;
        if (ends != (ends && nb_matcher_can_end(matcher)) || !nb_matcher_accept(matcher, id)) {
            complain(name, "a token of the mask is refused after", text->data);
            return STUCK;
        }
        if (ends)
            return ENDED;
        size_t n;
        const char *bytes = nb_tokenizer_bytes(w->tokenizer, id, &n);
        nb_buf_add(text, bytes, n);
    }
    return ENDLESS;
}

static enum drawn draw(const struct world *w, const char *name, struct nb_grammar *grammar,
                       struct nb_buf *text) {
    struct nb_matcher *matcher;
    struct nb_error err;
    uint64_t *plain = calloc(w->vocabulary->n_words, sizeof *plain);
    assert_non_null(plain);
    assert_ok(nb_matcher_open(grammar, &matcher, &err), err);
    enum drawn drawn = draw_on(w, name, matcher, plain, text);
    nb_matcher_close(matcher);
    free(plain);
    return drawn;
}

/* Members that "properties" names come in its order, and before others. */
static bool in_order(const struct doc *schema, const struct doc *value) {
    const struct doc *properties = doc_get(schema, "properties");
    /* Where branches ask for different members, their order is nobody's. */
    static const char *const branches[] = {"anyOf",       "oneOf", "not", "if", "dependentSchemas",
                                           "dependencies"};
    size_t last = 0;
    for (size_t i = 0; i < sizeof branches / sizeof *branches; i++)
        if (doc_get(schema, branches[i]))
            return true;
    if (!properties || value->kind != DOC_OBJECT)
        return true;
    for (size_t i = 0; i < value->n; i++) {
        size_t place = 0;
        while (place < properties->n && strcmp(properties->keys[place], value->keys[i]) != 0)
            place++;
        if (place < last)
            return false;
        last = place;
    }
    return true;
}

static bool check_text(const char *name, const struct doc *schema, struct nb_grammar *grammar,
                       const struct nb_buf *text, bool ordered) {
    struct doc *value = doc_read(text->data, text->len);
    struct nb_error err;
    bool valid = false;
    size_t where;
    if (!value)
        return complain(name, "no JSON, or a key twice", text->data);
    enum verdict verdict = doc_validate(schema, value);
    bool kept = !ordered || in_order(schema, value);
    doc_free(value);
    if (verdict != VALID)
        return complain(name, "not valid", text->data);
    if (!kept)
        return complain(name, "not in order", text->data);
    assert_ok(nb_grammar_validate(grammar, text->data, text->len, &valid, &where, &err), err);
    return valid || complain(name, "written, and then refused", text->data);
}

static void check_schema(const struct world *w, const char *name, const char *schema_text,
                         int mode) {
    const struct nb_grammar_options options = {.flexible = mode & 1, .any_order = mode & 2};
    struct doc *schema = doc_read(schema_text, strlen(schema_text));
    struct nb_grammar *grammar;
    struct nb_error err;
    struct nb_buf text = {0};
    int ended = 0;
    assert_non_null(schema);
    if (nb_grammar_schema(schema_text, strlen(schema_text), &options, w->vocabulary, &grammar,
                          &err) != NB_OK) {
        complain(name, "does not compile", err.message);
    } else {
        enum drawn drawn = ENDED;
        for (int round = 0; round < ROUNDS && drawn != STUCK; round++) {
            drawn = draw(w, name, grammar, &text);
            if (drawn == ENDED && !check_text(name, schema, grammar, &text, !(mode & 2)))
                drawn = STUCK;
            ended += drawn == ENDED;
        }
        if (drawn != STUCK && ended < ROUNDS / 2)
            complain(name, "few texts come to an end; the last", text.data);
        nb_grammar_release(grammar);
    }
    nb_buf_free(&text);
    doc_free(schema);
}

static void check_all(const struct world *w, int mode) {
    json_error_t e;
    json_t *schemas = json_load_file(test_path("tests/grammar/schemas.json"), JSON_ALLOW_NUL, &e),
           *schema;
    const char *name;
    if (!schemas)
        fail_msg("schemas.json: %s", e.text);
    seed = (uint64_t)mode + 1;
    n_failed = 0;
    json_object_foreach(schemas, name, schema) {
        char *text = json_dumps(schema, JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
        check_schema(w, name, text, mode);
        free(text);
    }
    assert_true(json_object_size(schemas) > 30);
    assert_int_equal(n_failed, 0);
    json_decref(schemas);
}

static void test_compact(void **state) {
    check_all(*state, 0);
}

static void test_flexible(void **state) {
    check_all(*state, 1);
}

static void test_any_order(void **state) {
    check_all(*state, 2);
}

static void test_flexible_any_order(void **state) {
    check_all(*state, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compact),
        cmocka_unit_test(test_flexible),
        cmocka_unit_test(test_any_order),
        cmocka_unit_test(test_flexible_any_order),
    };
    return cmocka_run_group_tests(tests, open_world, close_world);
}
