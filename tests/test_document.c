/* The normal form of documents: a table, a golden file of its twin in Python, and what no text may
 * do to it. */
#include "test.h"

#include "checkpoint.h"

#include "base/utf8.h"
#include "document/document.h"

#include <unistd.h>

/* The normal form; the caller frees it. */
static struct nb_buf normal(const char *text, size_t n) {
    struct nb_buf out = {0};
    struct nb_error err;
    assert_ok(nb_text_normalize(text, n, "text", &out, &err), err);
    nb_buf_add(&out, "", 0);
    return out;
}

static void expect_normal(const char *text, size_t n, const char *want) {
    struct nb_buf got = normal(text, n);
    if (strcmp(got.data, want) != 0)
        fail_msg("\"%s\" became \"%s\", expected \"%s\"", text, got.data, want);
    nb_buf_free(&got);
}

static const struct {
    const char *text, *want;
} cases[] = {
    {"", ""},
    {"a", "a"},
    {"Total: 12.50 EUR", "Total: 12.50 EUR"},
    /* Line ends of all kinds. */
    {"a\nb", "a\nb"},
    {"a\r\nb", "a\nb"},
    {"a\rb\fc\vd", "a\nb\nc\nd"},
    {"a\xC2\x85"
     "b\xE2\x80\xA8"
     "c\xE2\x80\xA9"
     "d",
     "a\nb\nc\nd"},
    {"\n\n\na\n\n \n\t\nb\n\n", "a\nb"},
    {"\n", ""},
    /* Spaces. */
    {" a b ", "a b"},
    {"a  b   c          d", "a  b  c  d"},
    {"a\tb", "a  b"},
    {"\ta\t", "a"},
    {"a \tb", "a  b"},
    {"  a  \n  b  \n", "a\nb"},
    {"a\xC2\xA0"
     "b\xE3\x80\x80"
     "c",
     "a b c"},
    {"a\xC2\xA0\xE2\x80\x89"
     "b",
     "a  b"},
    {" \t ", ""},
    /* What is dropped. */
    {"\xEF\xBB\xBFTotal", "Total"},
    {"To\xC2\xADtal", "Total"},
    {"a\x01\x1F\x7F"
     "b",
     "ab"},
    {"a\xE2\x80\x8B b", "a b"},
    {"a \xE2\x80\x8B b", "a  b"},
    {"\xE2\x80\x8B", ""},
    {"\x1B[31mred\x1B[0m", "[31mred[0m"},
    /* What stays, case and all. */
    {"\xC3\x89t\xC3\xA9 \xE2\x82\xAC 5 \xF0\x9F\x98\x80 e\xCC\x81",
     "\xC3\x89t\xC3\xA9 \xE2\x82\xAC 5 \xF0\x9F\x98\x80 e\xCC\x81"},
    {"<|answer|>{\"a\": \"\\n\"}</s>", "<|answer|>{\"a\": \"\\n\"}</s>"},
};

static void table(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_normal(cases[i].text, strlen(cases[i].text), cases[i].want);
}

static void twin_in_python(void **state) {
    (void)state;
    size_t n;
    char *text = read_source("tests/golden/document.json", &n);
    json_t *golden = json_loadb(text, n, 0, NULL), *pair;
    free(text);
    const json_t *pairs = json_object_get(golden, "cases");
    assert_true(json_array_size(pairs) > 500);
    size_t i;
    json_array_foreach(pairs, i, pair) {
        const json_t *from = json_array_get(pair, 0);
        expect_normal(json_string_value(from), json_string_length(from),
                      json_string_value(json_array_get(pair, 1)));
    }
    json_decref(golden);
}

/* A normal form holds only what the header promises. */
static void expect_clean(const char *text) {
    size_t n = strlen(text);
    assert_true(nb_utf8_valid(text, n, NULL));
    assert_null(strstr(text, "   "));
    assert_null(strstr(text, "\n "));
    assert_null(strstr(text, " \n"));
    assert_null(strstr(text, "\n\n"));
    assert_null(strpbrk(text, "\t\r\v\f\x01\x1F\x7F"));
    if (n) {
        assert_null(strchr(" \n", text[0]));
        assert_null(strchr(" \n", text[n - 1]));
    }
}

/* Any UTF-8 has a normal form, which is its own. */
static void random_texts(void **state) {
    (void)state;
    uint64_t random = 7;
    for (int i = 0; i < 20000; i++) {
        char text[512];
        size_t n = 0, length = random_bits(&random) % 100;
        for (size_t k = 0; k < length; k++)
            n += random_character(&random, text + n);
        struct nb_buf once = normal(text, n);
        expect_clean(once.data);
        struct nb_buf twice = normal(once.data, once.len);
        assert_string_equal(twice.data, once.data);
        assert_int_equal(strlen(once.data), once.len);
        nb_buf_free(&once);
        nb_buf_free(&twice);
    }
}

/* It is appended to what is there, and a line end there or a space does not join with it. */
static void appended(void **state) {
    (void)state;
    struct nb_buf out = {0};
    struct nb_error err;
    nb_buf_add_string(&out, "before ");
    assert_ok(nb_text_normalize("\n a", 3, "text", &out, &err), err);
    assert_string_equal(out.data, "before a");
    nb_buf_free(&out);
}

static const struct {
    const char *label, *bytes;
    size_t n;
    const char *says;
} bad[] = {
    {"PDF", "%PDF-1.7\n", 9, "is a PDF"},
    {"PNG", "\x89PNG\r\n\x1A\n", 8, "is a PNG image"},
    {"JPEG", "\xFF\xD8\xFF\xE0", 4, "is a JPEG image"},
    {"GIF", "GIF89a", 6, "is a GIF image"},
    {"TIFF", "II*\0", 4, "is a TIFF image"},
    {"TIFF of the other end", "MM\0*", 4, "is a TIFF image"},
    {"ZIP", "PK\x03\x04\x14", 5, "is a ZIP archive or an office document"},
    {"old office", "\xD0\xCF\x11\xE0\xA1", 5, "is an old office document"},
    {"gzip", "\x1F\x8B\x08", 3, "is gzip data"},
    {"UTF-16", "\xFF\xFEH\0i\0", 6, "is UTF-16 text|iconv"},
    {"UTF-16 of the other end", "\xFE\xFF\0H\0i", 6, "is UTF-16 text|iconv"},
    {"NUL", "abc\0def", 7, "byte 3 is NUL"},
    {"NUL alone", "\0", 1, "byte 0 is NUL"},
    {"Latin-1", "caf\xE9 12", 7, "byte 3, 0xE9, is not UTF-8|iconv"},
    {"a cut character", "ab\xE2\x82", 4, "byte 2, 0xE2, is not UTF-8"},
    {"a lone continuation", "\x80", 1, "byte 0, 0x80, is not UTF-8"},
    {"an overlong slash", "\xC0\xAF", 2, "byte 0, 0xC0, is not UTF-8"},
    {"a surrogate", "a\xED\xA0\x80", 4, "byte 1, 0xED, is not UTF-8"},
    {"above U+10FFFF", "\xF4\x90\x80\x80", 4, "byte 0, 0xF4, is not UTF-8"},
    {"five bytes", "\xF8\x88\x80\x80\x80", 5, "byte 0, 0xF8, is not UTF-8"},
};

static void no_text(void **state) {
    (void)state;
    struct folder folder;
    folder_make(&folder);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct nb_buf out = {0};
        struct nb_error err = {0};
        expect_failure(bad[i].label, nb_text_normalize(bad[i].bytes, bad[i].n, "NAME", &out, &err),
                       &err, NB_ERR_FORMAT, bad[i].says);
        expect_failure(bad[i].label, NB_ERR_FORMAT, &err, NB_ERR_FORMAT, "NAME: ");
        folder_write(&folder, "a.txt", bad[i].bytes, bad[i].n);
        expect_failure(bad[i].label, nb_document_read(folder_path(&folder, "a.txt"), &out, &err),
                       &err, NB_ERR_FORMAT, bad[i].says);
        expect_failure(bad[i].label, NB_ERR_FORMAT, &err, NB_ERR_FORMAT, "/a.txt: ");
        assert_int_equal(out.len, 0);
        nb_buf_free(&out);
    }
    folder_remove(&folder);
}

static void files(void **state) {
    (void)state;
    struct folder folder;
    struct nb_buf out = {0};
    struct nb_error err = {0};
    folder_make(&folder);
    const char *path = folder_path(&folder, "a.txt");
    expect_failure("missing", nb_document_read(path, &out, &err), &err, NB_ERR_IO,
                   "/a.txt: cannot open");
    expect_failure("folder", nb_document_read(folder.path, &out, &err), &err, NB_ERR_IO,
                   "is a folder");
    folder_write_text(&folder, "a.txt", "");
    expect_failure("empty", nb_document_read(path, &out, &err), &err, NB_ERR_FORMAT,
                   "/a.txt: is empty");
    folder_write_text(&folder, "a.txt", " \n\t\xEF\xBB\xBF\r\n");
    expect_failure("spaces", nb_document_read(path, &out, &err), &err, NB_ERR_FORMAT,
                   "/a.txt: holds nothing but spaces");
    folder_write_text(&folder, "a.txt", " a\r\n");
    assert_ok(nb_document_read(path, &out, &err), err);
    assert_string_equal(out.data, "a");
    /* A file of 64 MiB and a byte, though nothing is written to it. */
    assert_int_equal(truncate(path, ((off_t)64 << 20) + 1), 0);
    expect_failure("long", nb_document_read(path, &out, &err), &err, NB_ERR_LIMIT,
                   "/a.txt: longer than the limit of 67108864");
    nb_buf_free(&out);
    folder_remove(&folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table),        cmocka_unit_test(twin_in_python),
        cmocka_unit_test(random_texts), cmocka_unit_test(appended),
        cmocka_unit_test(no_text),      cmocka_unit_test(files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
