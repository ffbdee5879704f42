#include "test.h"

#include "base/file.h"
#include "model/tokenizer.h"
#include "model/tokenizer_impl.h"

#include <jansson.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- Golden files (tools/golden/tokenizer.py) ---- */

static json_t *read_json(const char *path) {
    json_error_t e;
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, &e);
    if (!j)
        fail_msg("%s: line %d: %s", path, e.line, e.text);
    return j;
}

/* Sets the field of a dotted path. */
static void set_field(json_t *root, const char *path, json_t *value) {
    char key[256];
    snprintf(key, sizeof key, "%s", path);
    char *rest = key;
    for (char *dot; (dot = strchr(rest, '.')); rest = dot + 1) {
        *dot = 0;
        root = json_object_get(root, rest);
        assert_non_null(root);
    }
    assert_int_equal(json_object_set(root, rest, value), 0);
}

/* Opens a tokenizer whose file holds these bytes. */
static enum nb_status open_bytes(const char *bytes, size_t n, struct nb_tokenizer **out,
                                 struct nb_error *err) {
    char name[] = "/tmp/nibble-tokenizer-XXXXXX";
    int fd = mkstemp(name);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, n), (ssize_t)n);
    close(fd);
    enum nb_status s = nb_tokenizer_open(name, out, err);
    unlink(name);
    return s;
}

static enum nb_status open_patched(const json_t *base, const json_t *patch,
                                   struct nb_tokenizer **out, struct nb_error *err) {
    json_t *root = json_deep_copy(base);
    const char *path;
    json_t *value;
    json_object_foreach((json_t *)patch, path, value) set_field(root, path, value);
    char *text = json_dumps(root, JSON_COMPACT);
    assert_non_null(text);
    enum nb_status s = open_bytes(text, strlen(text), out, err);
    free(text);
    json_decref(root);
    return s;
}

static void read_ids(const json_t *array, struct nb_tokens *out) {
    out->n = 0;
    for (size_t i = 0; i < json_array_size(array); i++)
        assert_true(nb_tokens_add(out, (int32_t)json_integer_value(json_array_get(array, i))));
}

static void print_ids(const char *what, const struct nb_tokens *t) {
    fprintf(stderr, "%s:", what);
    for (size_t i = 0; i < t->n; i++)
        fprintf(stderr, " %d", t->ids[i]);
    fprintf(stderr, "\n");
}

static void expect_ids(const char *name, const char *text, const struct nb_tokens *found,
                       const struct nb_tokens *expected) {
    if (found->n == expected->n &&
        (found->n == 0 || memcmp(found->ids, expected->ids, found->n * sizeof *found->ids) == 0))
        return;
    print_ids("found", found);
    print_ids("expected", expected);
    fail_msg("%s: \"%s\"", name, text);
}

/* The text of ids at once, and token by token. */
static void decode_twice(const struct nb_tokenizer *t, const struct nb_tokens *ids,
                         struct nb_buf *whole, struct nb_buf *joined) {
    struct nb_error err;
    struct nb_decoder d;
    nb_buf_clear(whole);
    nb_buf_clear(joined);
    assert_ok(nb_tokenizer_decode(t, ids->ids, ids->n, whole, &err), err);
    nb_decoder_start(&d, t);
    for (size_t i = 0; i < ids->n; i++)
        nb_decoder_add(&d, ids->ids[i], joined);
    nb_decoder_finish(&d, joined);
}

static void check_decode(const struct nb_tokenizer *t, const char *name,
                         const struct nb_tokens *ids, const json_t *expected) {
    struct nb_buf whole = {0}, joined = {0};
    decode_twice(t, ids, &whole, &joined);
    size_t n = json_string_length(expected);
    if (whole.len != n || (n && memcmp(whole.data, json_string_value(expected), n) != 0)) {
        print_ids("ids", ids);
        fail_msg("%s: decoded \"%s\", expected \"%s\"", name, whole.len ? whole.data : "",
                 json_string_value(expected));
    }
    assert_int_equal(joined.len, whole.len);
    if (whole.len)
        assert_memory_equal(joined.data, whole.data, whole.len);
    nb_buf_free(&whole);
    nb_buf_free(&joined);
}

static void check_case(const struct nb_tokenizer *t, const char *name, const json_t *c) {
    static const struct {
        const char *key;
        unsigned flags;
    } ways[] = {{"plain", 0},
                {"special", NB_ENCODE_SPECIAL},
                {"template", NB_ENCODE_SPECIAL | NB_ENCODE_TEMPLATE}};
    const json_t *text = json_object_get(c, "text"), *decoded = json_object_get(c, "decoded");
    struct nb_tokens expected = {0}, found = {0};
    struct nb_error err;
    for (size_t i = 0; i < 3; i++) {
        const json_t *ids = json_object_get(c, ways[i].key);
        if (ids)
            read_ids(ids, &expected);
        found.n = 0;
        assert_ok(nb_tokenizer_encode(t, json_string_value(text), json_string_length(text),
                                      ways[i].flags, &found, &err),
                  err);
        expect_ids(name, json_string_value(text), &found, &expected);
        if (i == 1 && decoded)
            check_decode(t, name, &found, decoded);
    }
    nb_tokens_free(&expected);
    nb_tokens_free(&found);
}

/* The tokenizer of a variant: of a file, with fields of it replaced if it is JSON. */
static struct nb_tokenizer *open_variant(const char *path, const json_t *patch) {
    struct nb_tokenizer *t;
    struct nb_error err;
    if (json_object_size(patch) == 0) {
        assert_ok(nb_tokenizer_open(path, &t, &err), err);
        return t;
    }
    json_t *base = read_json(path);
    assert_ok(open_patched(base, patch, &t, &err), err);
    json_decref(base);
    return t;
}

/* ---- Much text, made as tools/golden/tokenizer.py makes it ---- */

static size_t draw(uint64_t *state, size_t n) {
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (size_t)(*state >> 33) % n;
}

static void make_text(const json_t *cases, const json_t *blocks, uint64_t *state,
                      struct nb_buf *out) {
    nb_buf_clear(out);
    for (size_t n = 1 + draw(state, 200); n; n--) {
        if (draw(state, 3)) {
            const json_t *text =
                json_object_get(json_array_get(cases, draw(state, json_array_size(cases))), "text");
            nb_buf_add(out, json_string_value(text), json_string_length(text));
            continue;
        }
        const json_t *block = json_array_get(blocks, draw(state, json_array_size(blocks)));
        size_t low = (size_t)json_integer_value(json_array_get(block, 0)),
               size = (size_t)json_integer_value(json_array_get(block, 1)) + 1 - low;
        for (size_t i = 1 + draw(state, 20); i; i--)
            nb_buf_add_utf8(out, (uint32_t)(low + draw(state, size)));
    }
    assert_false(out->failed);
}

/* FNV-1a, 64 bits. */
static uint64_t hash(uint64_t h, const void *data, size_t n) {
    for (size_t i = 0; i < n; i++)
        h = (h ^ ((const uint8_t *)data)[i]) * UINT64_C(0x100000001B3);
    return h;
}

static void expect_hash(const json_t *golden, const char *name, uint64_t found) {
    char text[32];
    snprintf(text, sizeof text, "%016llx", (unsigned long long)found);
    if (strcmp(text, json_string_value(json_object_get(golden, name))) != 0)
        fail_msg("%s of much text: hash %s, expected %s; tools/golden/tokenizer_compare.py finds "
                 "the text",
                 name, text, json_string_value(json_object_get(golden, name)));
}

/* Ids of much text, and what they decode to at once and one by one. */
static void check_long(const struct nb_tokenizer *t, const json_t *golden, const json_t *cases) {
    const uint64_t start = UINT64_C(0xCBF29CE484222325);
    uint64_t plain = start, special = start, decoded = start, state = 1;
    size_t bytes = 0, texts = 0, all = (size_t)json_integer_value(json_object_get(golden, "bytes"));
    struct nb_buf text = {0}, whole = {0}, joined = {0};
    struct nb_tokens ids = {0};
    struct nb_error err;
    while (bytes < all) {
        make_text(cases, json_object_get(golden, "blocks"), &state, &text);
        ids.n = 0;
        assert_ok(nb_tokenizer_encode(t, text.data, text.len, 0, &ids, &err), err);
        plain = hash(plain, ids.ids, ids.n * sizeof *ids.ids);
        ids.n = 0;
        assert_ok(nb_tokenizer_encode(t, text.data, text.len, NB_ENCODE_SPECIAL, &ids, &err), err);
        special = hash(special, ids.ids, ids.n * sizeof *ids.ids);
        decode_twice(t, &ids, &whole, &joined);
        assert_int_equal(joined.len, whole.len);
        assert_memory_equal(joined.data, whole.data, whole.len);
        decoded = hash(decoded, whole.data, whole.len);
        bytes += text.len;
        texts++;
    }
    assert_int_equal(bytes, all);
    assert_int_equal(texts, json_integer_value(json_object_get(golden, "texts")));
    expect_hash(golden, "plain", plain);
    expect_hash(golden, "special", special);
    expect_hash(golden, "decoded", decoded);
    nb_buf_free(&text);
    nb_buf_free(&whole);
    nb_buf_free(&joined);
    nb_tokens_free(&ids);
}

static void check_variant(const char *path, const json_t *variant) {
    const char *name = json_string_value(json_object_get(variant, "name"));
    struct nb_tokenizer *t = open_variant(path, json_object_get(variant, "patch"));
    size_t i;
    json_t *c;
    json_array_foreach(json_object_get(variant, "cases"), i, c) check_case(t, name, c);
    struct nb_tokens ids = {0};
    json_array_foreach(json_object_get(variant, "decodes"), i, c) {
        read_ids(json_object_get(c, "ids"), &ids);
        check_decode(t, name, &ids, json_object_get(c, "text"));
    }
    nb_tokens_free(&ids);
    if (json_object_get(variant, "long"))
        check_long(t, json_object_get(variant, "long"), json_object_get(variant, "cases"));
    nb_tokenizer_close(t);
}

/* Checks a golden file whose tokenizers lie in `folder`, or skips where they are absent. */
static void check_golden(const char *path, const char *folder) {
    json_t *golden = read_json(test_path(path));
    const char *all = json_string_value(json_object_get(golden, "file"));
    bool absent = false;
    size_t i;
    json_t *variant;
    json_array_foreach(json_object_get(golden, "variants"), i, variant) {
        char file[1024];
        const json_t *own = json_object_get(variant, "file");
        assert_true(nb_path_join(file, sizeof file, folder, own ? json_string_value(own) : all));
        struct stat st;
        absent = stat(file, &st) != 0;
        if (absent) {
            fprintf(stderr, "%s is absent: skipped\n", file);
            break;
        }
        const json_t *bytes = json_object_get(golden, "file_bytes");
        if (bytes && st.st_size != json_integer_value(bytes))
            fail_msg("%s was made for another %s: run tools/golden/tokenizer.py", path, file);
        check_variant(file, variant);
    }
    json_decref(golden);
    if (absent)
        skip();
}

static void golden_cases(void **state) {
    (void)state;
    check_golden("tests/golden/tokenizer/cases.json", test_path(""));
}

static void expect_encoded(const char *file, const char *patch, const char *text, const char *ids) {
    json_error_t why;
    json_t *fields = json_loads(patch, 0, &why), *expected = json_loads(ids, 0, &why);
    struct nb_tokenizer *t = open_variant(test_path(file), fields);
    struct nb_tokens found = {0}, right = {0};
    struct nb_error err;
    assert_ok(nb_tokenizer_encode(t, text, strlen(text), 0, &found, &err), err);
    read_ids(expected, &right);
    assert_int_equal(found.n, right.n);
    assert_memory_equal(found.ids, right.ids, right.n * sizeof *right.ids);
    nb_tokens_free(&found);
    nb_tokens_free(&right);
    nb_tokenizer_close(t);
    json_decref(fields);
    json_decref(expected);
}

/* What random settings found to differ from tokenizers 0.22.2, whose ids these are. */
static void odd_settings(void **state) {
    (void)state;
    /* No byte is unknown to this vocabulary: it has no tokens to fall back on, and needs none. */
    expect_encoded("tests/golden/tokenizer/bytes.json", "{\"model.byte_fallback\":true}", "a b",
                   "[66, 314]");
    /* Only what the text begins with is first: not what is left behind a space. */
    expect_encoded(
        "tests/golden/tokenizer/base.json",
        "{\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{"
        "\"type\":\"WhitespaceSplit\"},{\"type\":\"Metaspace\",\"replacement\":\"\u2581\","
        "\"prepend_scheme\":\"first\",\"split\":true}]}}",
        " ab", "[429]");
    expect_encoded(
        "tests/golden/tokenizer/base.json",
        "{\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{"
        "\"type\":\"WhitespaceSplit\"},{\"type\":\"Metaspace\",\"replacement\":\"\u2581\","
        "\"prepend_scheme\":\"first\",\"split\":true}]}}",
        "ab ab", "[351, 429, 429]");
}

static void golden_byte_level(void **state) {
    (void)state;
    check_golden("tests/golden/tokenizer/byte_cases.json", test_path(""));
}

static void golden_sentencepiece(void **state) {
    (void)state;
    check_golden("tests/golden/tokenizer/spm_cases.json", test_path(""));
}

static void golden_demo(void **state) {
    (void)state;
    check_golden("tests/golden/tokenizer/demo.json", test_path(""));
}

static void golden_mixtral(void **state) {
    (void)state;
    const char *data = getenv("NB_SHARED_DATA");
    check_golden("tests/golden/tokenizer/mixtral.json", data ? data : test_path("../shared/data"));
}

/* ---- The rest of the interface ---- */

static struct nb_tokenizer *open_base(void) {
    struct nb_tokenizer *t;
    struct nb_error err;
    assert_ok(nb_tokenizer_open(test_path("tests/golden/tokenizer/base.json"), &t, &err), err);
    return t;
}

static void lookups(void **state) {
    (void)state;
    struct nb_tokenizer *t = open_base();
    size_t n;
    int32_t the = nb_tokenizer_find(t, "▁the");
    assert_true(the > 0);
    assert_memory_equal(nb_tokenizer_bytes(t, the, &n), " the", 4);
    assert_int_equal(n, 4);
    int32_t feed = nb_tokenizer_find(t, "<0x0A>");
    assert_memory_equal(nb_tokenizer_bytes(t, feed, &n), "\n", 1);
    assert_int_equal(n, 1);
    assert_int_equal(nb_tokenizer_find(t, "<s>"), 1);
    assert_true(nb_tokenizer_is_special(t, 1));
    assert_false(nb_tokenizer_is_special(t, the));
    nb_tokenizer_bytes(t, 1, &n);
    assert_int_equal(n, 0);
    assert_int_equal(nb_tokenizer_find(t, "no such token"), -1);
    assert_int_equal(nb_tokenizer_find(t, ""), -1);
    const int32_t outside[] = {-1, nb_tokenizer_size(t), INT32_MIN, INT32_MAX};
    for (size_t i = 0; i < 4; i++) {
        nb_tokenizer_bytes(t, outside[i], &n);
        assert_int_equal(n, 0);
        assert_false(nb_tokenizer_is_special(t, outside[i]));
    }
    struct nb_buf text = {0};
    struct nb_error err;
    assert_ok(nb_tokenizer_decode(t, outside, 4, &text, &err), err);
    assert_int_equal(text.len, 0);
    nb_buf_free(&text);
    nb_tokenizer_close(t);
    nb_tokenizer_close(NULL);
}

/* Ids that no token has, as vocabularies that were padded or cut have them, are nothing when they
 * are decoded, and do not move the others. */
static void holes(void **state) {
    (void)state;
    struct nb_tokenizer *t;
    struct nb_error err;
    struct nb_buf text = {0};
    json_t *base = read_json(test_path("tests/golden/tokenizer/base.json")),
           *patch = json_pack("{s:i}", "model.vocab.▁the", 2000);
    int32_t the = (int32_t)json_integer_value(
        json_object_get(json_object_get(json_object_get(base, "model"), "vocab"), "▁the"));
    assert_ok(open_patched(base, patch, &t, &err), err);
    assert_int_equal(nb_tokenizer_size(t), 2001);
    assert_int_equal(nb_tokenizer_find(t, "▁the"), 2000);
    const int32_t ids[] = {the, 2000, 1999, 2000};
    assert_ok(nb_tokenizer_decode(t, ids, 4, &text, &err), err);
    assert_int_equal(text.len, 7);
    assert_memory_equal(text.data, "the the", 7);
    struct nb_tokens found = {0};
    assert_ok(nb_tokenizer_encode(t, "the", 3, 0, &found, &err), err);
    assert_int_equal(found.n, 1);
    assert_int_equal(found.ids[0], 2000);
    nb_tokens_free(&found);
    nb_buf_free(&text);
    nb_tokenizer_close(t);
    json_decref(patch);
    json_decref(base);
}

static void encode(const struct nb_tokenizer *t, const char *text, unsigned flags,
                   struct nb_tokens *out) {
    struct nb_error err;
    assert_ok(nb_tokenizer_encode(t, text, strlen(text), flags, out, &err), err);
}

/* Text that goes on from text before it gets no space in front. */
static void check_continuing(const char *path) {
    struct nb_tokenizer *t;
    struct nb_error err;
    assert_ok(nb_tokenizer_open(test_path(path), &t, &err), err);
    struct nb_tokens whole = {0}, parts = {0};
    encode(t, "the quick brown fox", NB_ENCODE_TEMPLATE, &whole);
    encode(t, "the quick", NB_ENCODE_TEMPLATE, &parts);
    encode(t, " brown fox", NB_ENCODE_CONTINUE, &parts);
    expect_ids(path, "words", &parts, &whole);
    whole.n = parts.n = 0;
    /* Behind a special token a text begins anew. */
    encode(t, "a</s>b", NB_ENCODE_SPECIAL, &whole);
    encode(t, "a", 0, &parts);
    encode(t, "</s>b", NB_ENCODE_SPECIAL | NB_ENCODE_CONTINUE, &parts);
    expect_ids(path, "special", &parts, &whole);
    nb_tokens_free(&whole);
    nb_tokens_free(&parts);
    nb_tokenizer_close(t);
}

static void continuing(void **state) {
    (void)state;
    check_continuing("tests/golden/tokenizer/base.json");
    check_continuing("tests/golden/tokenizer/spm_bytes.model");
    check_continuing("tests/golden/tokenizer/spm_rules.model");
}

static void bad_text(void **state) {
    (void)state;
    struct nb_tokenizer *t = open_base();
    struct nb_tokens ids = {0};
    struct nb_error err;
    encode(t, "held", 0, &ids);
    size_t held = ids.n;
    static const char *const bad[] = {"\xFF", "abc\xE2\x82", "\xED\xA0\x80", "a\xC0\x80", "\x80"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(nb_tokenizer_encode(t, bad[i], strlen(bad[i]), 0, &ids, &err),
                         NB_ERR_FORMAT);
        assert_non_null(strstr(err.message, "UTF-8"));
        assert_int_equal(ids.n, held);
    }
    assert_int_equal(nb_tokenizer_encode(t, "a", SIZE_MAX / 2, 0, &ids, &err), NB_ERR_LIMIT);
    assert_ok(nb_tokenizer_encode(t, NULL, 0, 0, &ids, &err), err);
    assert_int_equal(ids.n, held);
    nb_tokens_free(&ids);
    nb_tokenizer_close(t);
}

/* ---- Files that are wrong ---- */

/* A field of base.json, what is put there (NULL: it is removed), and what the message must name. */
static const struct {
    const char *path, *value;
    enum nb_status status;
    const char *message;
} wrong[] = {
    {"model", NULL, NB_ERR_FORMAT, "model is nothing"},
    {"model", "[]", NB_ERR_FORMAT, "model is an array"},
    {"model.type", "\"Unigram\"", NB_ERR_UNSUPPORTED, "model.type is \"Unigram\""},
    {"model.type", "7", NB_ERR_FORMAT, "type"},
    {"model.dropout", "0.5", NB_ERR_UNSUPPORTED, "model.dropout"},
    {"model.dropout", "\"x\"", NB_ERR_FORMAT, "dropout"},
    {"model.end_of_word_suffix", "\"</w>\"", NB_ERR_UNSUPPORTED, "model.end_of_word_suffix"},
    {"model.continuing_subword_prefix", "\"##\"", NB_ERR_UNSUPPORTED, "continuing_subword_prefix"},
    {"model.vocab", NULL, NB_ERR_FORMAT, "model.vocab is nothing"},
    {"model.vocab", "{}", NB_ERR_FORMAT, "model.merges[0]"},
    {"model.vocab", "[\"a\"]", NB_ERR_FORMAT, "model.vocab is an array"},
    {"model.vocab", "{\"a\": \"b\"}", NB_ERR_FORMAT, "model.vocab[\"a\"]"},
    {"model.vocab", "{\"a\": 1.5}", NB_ERR_FORMAT, "model.vocab[\"a\"]"},
    {"model.vocab", "{\"a\": -1}", NB_ERR_FORMAT, "model.vocab[\"a\"]"},
    {"model.vocab", "{\"a\": 2097152}", NB_ERR_FORMAT, "model.vocab[\"a\"]"},
    {"model.vocab", "{\"a\": 9223372036854775807}", NB_ERR_FORMAT, "model.vocab[\"a\"]"},
    {"model.vocab", "{\"a\": 5, \"b\": 5}", NB_ERR_FORMAT, "\"b\" has id 5, which \"a\" has too"},
    {"model.vocab.▁the", "5", NB_ERR_FORMAT, "has id 5"},
    {"model.vocab.<0x0A>", NULL, NB_ERR_FORMAT, "<0x0A>"},
    {"model.merges", NULL, NB_ERR_FORMAT, "model.merges is nothing"},
    {"model.merges", "{}", NB_ERR_FORMAT, "model.merges is an object"},
    {"model.merges", "[\"a\"]", NB_ERR_FORMAT, "model.merges[0]"},
    {"model.merges", "[\"a b c\"]", NB_ERR_FORMAT, "model.merges[0]"},
    {"model.merges", "[\" a\"]", NB_ERR_FORMAT, "model.merges[0]"},
    {"model.merges", "[\"h e\", [\"a\"]]", NB_ERR_FORMAT, "model.merges[1]"},
    {"model.merges", "[[\"a\", 1]]", NB_ERR_FORMAT, "model.merges[0]"},
    {"model.merges", "[\"q zzz\"]", NB_ERR_FORMAT, "\"zzz\" is not in model.vocab"},
    {"model.merges", "[\"q x\"]", NB_ERR_FORMAT, "\"qx\" is not in model.vocab"},
    {"model.byte_fallback", "1", NB_ERR_FORMAT, "byte_fallback"},
    {"model.unk_token", "{}", NB_ERR_FORMAT, "unk_token"},
    {"added_tokens", "{}", NB_ERR_FORMAT, "added_tokens is an object"},
    {"added_tokens", "[7]", NB_ERR_FORMAT, "added_tokens[0]"},
    {"added_tokens", "[{}]", NB_ERR_FORMAT, "added_tokens[0] has no id"},
    {"added_tokens", "[{\"id\": 0}]", NB_ERR_FORMAT, "added_tokens[0] has no content"},
    {"added_tokens", "[{\"id\": 0, \"content\": \"x\"}]", NB_ERR_FORMAT, "added_tokens[0]"},
    {"added_tokens", "[{\"id\": 2000, \"content\": \"<s>\"}]", NB_ERR_FORMAT, "ids 1 and 2000"},
    {"added_tokens", "[{\"id\": 1e9, \"content\": \"x\"}]", NB_ERR_FORMAT, "added_tokens[0]"},
    {"added_tokens", "[{\"id\": 1000000000, \"content\": \"x\"}]", NB_ERR_FORMAT, "1000000000"},
    {"normalizer", "7", NB_ERR_FORMAT, "normalizer is an integer"},
    {"normalizer", "{\"type\": \"Precompiled\"}", NB_ERR_UNSUPPORTED, "normalizer.type"},
    {"normalizer", "{\"type\": \"Sequence\"}", NB_ERR_FORMAT, "normalizer.normalizers is nothing"},
    {"normalizer", "{\"type\": \"Prepend\"}", NB_ERR_FORMAT, "normalizer has no prepend"},
    {"normalizer", "{\"type\": \"Replace\", \"pattern\": {\"String\": \"\"}, \"content\": \"a\"}",
     NB_ERR_FORMAT, "normalizer.pattern.String is empty"},
    {"pre_tokenizer", "{\"type\": \"BertPreTokenizer\"}", NB_ERR_UNSUPPORTED,
     "pre_tokenizer.type is \"BertPreTokenizer\""},
    {"pre_tokenizer", "{\"type\": \"Metaspace\", \"replacement\": \"ab\"}", NB_ERR_FORMAT,
     "pre_tokenizer.replacement is \"ab\""},
    {"post_processor", "{\"type\": \"TemplateProcessing\"}", NB_ERR_FORMAT,
     "post_processor.single is nothing"},
    {"post_processor.special_tokens", "{}", NB_ERR_FORMAT, "post_processor.special_tokens.<s>"},
    {"post_processor.special_tokens", "{\"<s>\": {\"ids\": [99999]}}", NB_ERR_FORMAT, "ids[0]"},
    {"post_processor.single", "[{\"Sequence\": {\"id\": \"B\"}}]", NB_ERR_UNSUPPORTED, "single[0]"},
    {"post_processor.single", "[{}]", NB_ERR_FORMAT, "post_processor.single[0]"},
    {"pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"a(\"}}", NB_ERR_FORMAT,
     "pre_tokenizer.pattern.Regex"},
    {"pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[a&&b]\"}}",
     NB_ERR_UNSUPPORTED, "an intersection at byte 2"},
    {"pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"[\\\\S]\"}}",
     NB_ERR_UNSUPPORTED, "a negated class"},
    {"pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"(?m:a)\"}}",
     NB_ERR_UNSUPPORTED, "a group with options"},
    {"pre_tokenizer", "{\"type\": \"Split\", \"pattern\": {\"Regex\": \"\\\\b\"}}",
     NB_ERR_UNSUPPORTED, "an escape"},
    {"pre_tokenizer",
     "{\"type\": \"Split\", \"pattern\": {\"String\": \"a\"}, \"behavior\": \"X\"}", NB_ERR_FORMAT,
     "pre_tokenizer.behavior is \"X\""},
    {"pre_tokenizer",
     "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"ByteLevel\"}, {\"type\": "
     "\"Digits\"}]}",
     NB_ERR_UNSUPPORTED, "pre_tokenizer.pretokenizers[1]"},
    {"decoder", "{\"type\": \"CTC\"}", NB_ERR_UNSUPPORTED, "decoder.type is \"CTC\""},
    {"decoder", "{\"type\": \"Strip\", \"content\": \" \", \"start\": 1, \"stop\": 0}",
     NB_ERR_UNSUPPORTED, "Strip"},
};

static void wrong_fields(void **state) {
    (void)state;
    json_t *base = read_json(test_path("tests/golden/tokenizer/base.json"));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        json_t *root = json_deep_copy(base);
        if (wrong[i].value) {
            json_t *value = json_loads(wrong[i].value, JSON_DECODE_ANY, NULL);
            assert_non_null(value);
            set_field(root, wrong[i].path, value);
            json_decref(value);
        } else {
            const char *dot = strrchr(wrong[i].path, '.');
            json_t *from = dot ? json_object_get(root, "model") : root;
            if (dot && strncmp(wrong[i].path, "model.vocab.", 12) == 0)
                from = json_object_get(from, "vocab");
            assert_int_equal(json_object_del(from, dot ? dot + 1 : wrong[i].path), 0);
        }
        char *text = json_dumps(root, JSON_COMPACT);
        struct nb_tokenizer *t = (struct nb_tokenizer *)&i;
        struct nb_error err = {0};
        enum nb_status s = open_bytes(text, strlen(text), &t, &err);
        if (s != wrong[i].status || !strstr(err.message, wrong[i].message))
            fail_msg("%s = %s: status %d, \"%s\"", wrong[i].path, wrong[i].value, s, err.message);
        assert_non_null(strstr(err.message, "/tmp/nibble-tokenizer-"));
        assert_null(t);
        free(text);
        json_decref(root);
    }
    json_decref(base);
}

static void wrong_bytes(void **state) {
    (void)state;
    struct nb_tokenizer *t;
    struct nb_error err;
    static const char *const bad[] = {"",
                                      "{",
                                      "[]",
                                      "{}",
                                      "null",
                                      "{\"a\":1,\"a\":2}",
                                      "{\"model\":{\"vocab\":{\"\\u0000\":1}}}",
                                      "\xFF\xFE"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(open_bytes(bad[i], strlen(bad[i]), &t, &err), NB_ERR_FORMAT);
    /* Depth. */
    enum { DEPTH = 100000 };
    char *deep = malloc(DEPTH + 32);
    strcpy(deep, "{\"model\": ");
    memset(deep + 10, '[', DEPTH);
    assert_int_equal(open_bytes(deep, DEPTH + 10, &t, &err), NB_ERR_FORMAT);
    free(deep);
    struct nb_buf nested = {0};
    nb_buf_add_string(&nested, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},"
                               "\"normalizer\":");
    for (int i = 0; i < 20; i++)
        nb_buf_add_string(&nested, "{\"type\":\"Sequence\",\"normalizers\":[");
    for (int i = 0; i < 20; i++)
        nb_buf_add_string(&nested, "]}");
    nb_buf_add_string(&nested, "}");
    assert_int_equal(open_bytes(nested.data, nested.len, &t, &err), NB_ERR_LIMIT);
    nb_buf_free(&nested);
    assert_int_equal(nb_tokenizer_open("/nonexistent/tokenizer.json", &t, &err), NB_ERR_IO);
    assert_int_equal(nb_tokenizer_open("/tmp", &t, &err), NB_ERR_IO);
}

/* Steps that double the text, 40 times over. */
static void doubling(struct nb_buf *out, const char *type) {
    for (int i = 0; i < 40; i++)
        nb_buf_printf(out, "%s{\"type\":\"%s\",\"pattern\":{\"String\":\"a\"},\"content\":\"aa\"}",
                      i ? "," : "", type);
}

static void text_that_explodes(void **state) {
    (void)state;
    struct nb_tokenizer *t;
    struct nb_error err;
    struct nb_buf file = {0};
    struct nb_tokens ids = {0};
    nb_buf_add_string(&file, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},"
                             "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[");
    doubling(&file, "Replace");
    nb_buf_add_string(&file, "]}}");
    assert_ok(open_bytes(file.data, file.len, &t, &err), err);
    assert_int_equal(nb_tokenizer_encode(t, "ba", 2, 0, &ids, &err), NB_ERR_LIMIT);
    assert_int_equal(ids.n, 0);
    nb_tokenizer_close(t);
    nb_buf_clear(&file);
    nb_buf_add_string(&file, "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},"
                             "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[");
    doubling(&file, "Replace");
    nb_buf_add_string(&file, "]}}");
    assert_int_equal(open_bytes(file.data, file.len, &t, &err), NB_ERR_LIMIT);
    nb_tokens_free(&ids);
    nb_buf_free(&file);
}

/* A model that is cut, or has a byte changed, is refused or opens; nothing worse. */
static void damaged_models(void **state) {
    (void)state;
    static const char *const names[] = {"spm_bytes", "spm_rules"};
    for (size_t k = 0; k < 2; k++) {
        char path[256];
        struct nb_buf file = {0};
        struct nb_tokenizer *t;
        struct nb_tokens ids = {0};
        struct nb_error err;
        snprintf(path, sizeof path, "tests/golden/tokenizer/%s.model", names[k]);
        assert_ok(nb_read_file(test_path(path), 1 << 20, &file, &err), err);
        size_t refused = 0;
        for (size_t n = 0; n < file.len; n += 97) {
            if (nb_tokenizer_open_bytes(file.data, n, "cut", &t, &err) != NB_OK)
                refused++;
            nb_tokenizer_close(t);
            char held = file.data[n];
            file.data[n] ^= (char)(1 + n % 255);
            if (nb_tokenizer_open_bytes(file.data, file.len, "changed", &t, &err) == NB_OK) {
                ids.n = 0;
                encode(t, "the quick  brown é! \t x", NB_ENCODE_SPECIAL, &ids);
            }
            nb_tokenizer_close(t);
            file.data[n] = held;
        }
        assert_int_equal(refused, (file.len + 96) / 97); /* the end of the file has the options */
        nb_tokens_free(&ids);
        nb_buf_free(&file);
    }
}

/* ---- The fast path against the definition ---- */

static uint64_t random_state = 88172645463325252u;

static uint32_t random_below(uint32_t n) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)((random_state >> 32) % n);
}

/* Random text: of pieces of the vocabulary, of characters of it, of few characters, of any. */
static void random_text(const struct nb_tokenizer *t, struct nb_buf *out) {
    nb_buf_clear(out);
    uint32_t kind = random_below(4), parts = 1 + random_below(60);
    for (uint32_t i = 0; i < parts; i++) {
        const struct nb_text *piece = &t->word_texts[random_below((uint32_t)t->size)];
        if (kind == 0 && piece->p)
            nb_buf_add(out, piece->p, piece->n);
        else if (kind == 1)
            nb_buf_add_string(
                out, (const char *[]){"a", "e", "t", "h", "▁", "th", "▁▁", "in"}[random_below(8)]);
        else if (kind == 2)
            nb_buf_add_utf8(out, 1 + random_below(0x7F));
        else
            nb_buf_add_utf8(out, 1 + random_below(0xD7FF));
    }
}

static void check_fast(const struct nb_tokenizer *t, int rounds) {
    struct nb_buf text = {0};
    struct nb_tokens fast = {0}, plain = {0};
    struct nb_bpe_scratch scratch = {0};
    struct nb_error err;
    for (int i = 0; i < rounds; i++) {
        if (i == rounds / 2)
            assert_ok(nb_bpe_remember(&scratch, 1 << 16, &err), err);
        random_text(t, &text);
        if (text.len == 0)
            continue;
        fast.n = plain.n = 0;
        assert_ok(nb_bpe_encode(&t->bpe, &scratch, text.data, text.len, &fast, &err), err);
        assert_ok(nb_bpe_encode_plain(&t->bpe, text.data, text.len, &plain, &err), err);
        expect_ids("fast", text.data, &fast, &plain);
    }
    nb_bpe_scratch_free(&scratch);
    nb_tokens_free(&fast);
    nb_tokens_free(&plain);
    nb_buf_free(&text);
}

/* A vocabulary over a few letters with merges in random order: unlike trained ones, a token's parts
 * may have higher ranks than the token, and many derivations compete. */
static struct nb_tokenizer *random_tokenizer(void) {
    enum { LETTERS = 3 };
    char *pieces[400];
    size_t n = 0, n_merges = 0;
    struct nb_buf vocab = {0}, merges = {0}, file = {0};
    for (; n < LETTERS; n++) {
        pieces[n] = calloc(1, 2);
        pieces[n][0] = (char)('a' + n);
    }
    uint32_t want = 10 + random_below(200);
    while (n_merges < want && n < 400) {
        const char *a = pieces[random_below((uint32_t)n)], *b = pieces[random_below((uint32_t)n)];
        if (strlen(a) + strlen(b) > 12)
            continue;
        char both[32];
        snprintf(both, sizeof both, "%s%s", a, b);
        size_t k = 0;
        while (k < n && strcmp(pieces[k], both) != 0)
            k++;
        struct nb_buf entry = {0};
        nb_buf_printf(&entry, "\"%s %s\"", a, b);
        bool front = random_below(2);
        nb_buf_add_string(&entry, merges.len ? (front ? "," : "") : "");
        if (front) {
            nb_buf_add(&entry, merges.data, merges.len);
            nb_buf_free(&merges);
            merges = entry;
        } else {
            nb_buf_add_string(&merges, merges.len ? "," : "");
            nb_buf_add(&merges, entry.data, entry.len);
            nb_buf_free(&entry);
        }
        n_merges++;
        if (k == n)
            pieces[n++] = strdup(both);
    }
    for (size_t i = 0; i < n; i++) {
        nb_buf_printf(&vocab, "%s\"%s\":%zu", i ? "," : "", pieces[i], i);
        free(pieces[i]);
    }
    nb_buf_printf(&file, "{\"model\":{\"type\":\"BPE\",\"vocab\":{%s},\"merges\":[%s]}}",
                  vocab.data, merges.data);
    struct nb_tokenizer *t;
    struct nb_error err;
    assert_ok(open_bytes(file.data, file.len, &t, &err), err);
    nb_buf_free(&vocab);
    nb_buf_free(&merges);
    nb_buf_free(&file);
    return t;
}

static void check_fast_file(const char *path, int rounds) {
    struct nb_tokenizer *t;
    struct nb_error err;
    assert_ok(nb_tokenizer_open(path, &t, &err), err);
    check_fast(t, rounds);
    nb_tokenizer_close(t);
}

static void fast_is_plain(void **state) {
    (void)state;
    static const char *const files[] = {"base.json", "bytes.json", "spm_bytes.model",
                                        "spm_rules.model", "spm_suffix.model"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[256];
        snprintf(path, sizeof path, "tests/golden/tokenizer/%s", files[i]);
        check_fast_file(test_path(path), 5000);
    }
    for (int i = 0; i < 60; i++) {
        struct nb_tokenizer *t = random_tokenizer();
        check_fast(t, 300);
        nb_tokenizer_close(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_cases),
        cmocka_unit_test(golden_demo),
        cmocka_unit_test(golden_byte_level),
        cmocka_unit_test(golden_sentencepiece),
        cmocka_unit_test(golden_mixtral),
        cmocka_unit_test(lookups),
        cmocka_unit_test(holes),
        cmocka_unit_test(continuing),
        cmocka_unit_test(bad_text),
        cmocka_unit_test(wrong_fields),
        cmocka_unit_test(wrong_bytes),
        cmocka_unit_test(odd_settings),
        cmocka_unit_test(text_that_explodes),
        cmocka_unit_test(damaged_models),
        cmocka_unit_test(fast_is_plain),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
