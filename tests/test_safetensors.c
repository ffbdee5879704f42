/* Safetensors files and indexes from outside: whatever they say, an error that names file and
 * tensor, or exactly the tensors that are there. */
#include "test.h"

#include "checkpoint.h"

#include "base/buf.h"
#include "model/safetensors.h"

/* A file: the length it claims for its header, the header, and n zeroed bytes of data. */
static void write_file(const struct folder *folder, const char *name, uint64_t claim,
                       const char *header, size_t n) {
    struct nb_buf out = {0};
    uint8_t length[8], zero = 0;
    for (int i = 0; i < 8; i++)
        length[i] = (uint8_t)(claim >> 8 * i);
    nb_buf_add(&out, length, 8);
    nb_buf_add_string(&out, header);
    for (size_t i = 0; i < n; i++)
        nb_buf_add(&out, &zero, 1);
    assert_false(out.failed);
    folder_write(folder, name, out.data, out.len);
    nb_buf_free(&out);
}

#define TENSOR(dtype, shape, offsets)                                                              \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define ONE(dtype, shape, offsets) "{\"a\":" TENSOR(dtype, shape, offsets) "}"
#define TWO(offsets_a, offsets_b)                                                                  \
    "{\"a\":" TENSOR("U8", "[4]", offsets_a) ",\"b\":" TENSOR("U8", "[4]", offsets_b) "}"

/* Headers that must be refused, with so many bytes of data behind them. */
static const struct {
    const char *label, *header;
    size_t data;
    enum nb_status status;
    const char *says;
} bad_headers[] = {
    {"no JSON", "hello", 0, NB_ERR_FORMAT, "header: not valid JSON|line 1"},
    {"empty", "", 0, NB_ERR_FORMAT, "header: not valid JSON"},
    {"cut JSON", "{\"a\":{\"dtype\":\"U8\"", 0, NB_ERR_FORMAT, "header: not valid JSON"},
    {"more after the JSON", "{} x", 0, NB_ERR_FORMAT, "header: not valid JSON"},
    {"an array", "[]", 0, NB_ERR_FORMAT, "header: found an array, expected a JSON object"},
    {"not UTF-8", "{\"\xFF\":1}", 0, NB_ERR_FORMAT, "header: not valid JSON|0xff"},
    {"an escaped NUL in a name", "{\"a\\u0000b\":" TENSOR("U8", "[0]", "[0,0]") "}", 0,
     NB_ERR_FORMAT, "header: not valid JSON"},
    {"duplicate names", "{\"a\":" TENSOR("U8", "[0]", "[0,0]") ",\"a\":1}", 0, NB_ERR_FORMAT,
     "header: not valid JSON|duplicate"},
    {"tensor is a number", "{\"a\":7}", 0, NB_ERR_FORMAT,
     "tensor a: found an integer, expected an object"},
    {"tensor is null", "{\"a\":null}", 0, NB_ERR_FORMAT, "tensor a: found null"},
    {"tensor is empty", "{\"a\":{}}", 0, NB_ERR_FORMAT, "tensor a: dtype is nothing"},
    {"dtype is a number", "{\"a\":{\"dtype\":3}}", 0, NB_ERR_FORMAT,
     "tensor a: dtype is an integer"},
    {"dtype is unknown", ONE("F4", "[2]", "[0,1]"), 1, NB_ERR_UNSUPPORTED, "tensor a: dtype is F4"},
    {"dtype in lower case", ONE("f32", "[1]", "[0,4]"), 4, NB_ERR_UNSUPPORTED, "dtype is f32"},
    {"shape is missing", "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, NB_ERR_FORMAT,
     "tensor a: shape is nothing"},
    {"shape is a number", ONE("U8", "4", "[0,4]"), 4, NB_ERR_FORMAT, "tensor a: shape is an int"},
    {"nine dimensions", ONE("U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]"), 1, NB_ERR_UNSUPPORTED,
     "tensor a: shape has 9 dimensions, at most 8"},
    {"a negative size", ONE("U8", "[2,-2]", "[0,4]"), 4, NB_ERR_FORMAT, "tensor a: shape[1]"},
    {"a size that is a real", ONE("U8", "[4.0]", "[0,4]"), 4, NB_ERR_FORMAT, "tensor a: shape[0]"},
    {"a size that is a string", ONE("U8", "[\"4\"]", "[0,4]"), 4, NB_ERR_FORMAT, "a: shape[0]"},
    {"a size of 2^64", ONE("U8", "[18446744073709551616]", "[0,4]"), 4, NB_ERR_FORMAT,
     "header: not valid JSON|too big"},
    {"a size whose bytes overflow", ONE("F64", "[4611686018427387904]", "[0,0]"), 0, NB_ERR_FORMAT,
     "tensor a: the shape's size overflows"},
    {"a shape whose bytes overflow to 4", ONE("F32", "[4294967297,4294967297]", "[0,4]"), 4,
     NB_ERR_FORMAT, "tensor a: the shape's size overflows"},
    {"a shape that overflows before a zero", ONE("U8", "[9223372036854775807,4,0]", "[0,0]"), 0,
     NB_ERR_FORMAT, "tensor a: the shape's size overflows"},
    {"offsets are missing", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, NB_ERR_FORMAT,
     "tensor a: data_offsets is nothing"},
    {"one offset", ONE("U8", "[1]", "[0]"), 1, NB_ERR_FORMAT, "tensor a: data_offsets"},
    {"three offsets", ONE("U8", "[1]", "[0,1,1]"), 1, NB_ERR_FORMAT, "tensor a: data_offsets"},
    {"real offsets", ONE("U8", "[1]", "[0,1.0]"), 1, NB_ERR_FORMAT, "tensor a: data_offsets"},
    {"a negative begin", ONE("U8", "[4]", "[-4,0]"), 4, NB_ERR_FORMAT, "tensor a|[-4, 0]"},
    {"a negative end", ONE("U8", "[4]", "[0,-4]"), 4, NB_ERR_FORMAT, "tensor a|[0, -4]"},
    {"the smallest of all", ONE("U8", "[4]", "[-9223372036854775808,9223372036854775807]"), 4,
     NB_ERR_FORMAT, "tensor a: data_offsets"},
    {"an end before its begin", ONE("U8", "[4]", "[4,0]"), 4, NB_ERR_FORMAT, "tensor a|[4, 0]"},
    {"an end past the file", ONE("U8", "[5]", "[0,5]"), 4, NB_ERR_FORMAT,
     "tensor a|[0, 5]|4 bytes of data|cut short"},
    {"an end at 2^63 - 1", ONE("U8", "[9223372036854775807]", "[0,9223372036854775807]"), 4,
     NB_ERR_FORMAT, "tensor a: data_offsets [0, 9223372036854775807]"},
    {"offsets too wide", ONE("U8", "[3]", "[0,4]"), 4, NB_ERR_FORMAT,
     "tensor a|span 4 bytes|U8 [3] takes 3"},
    {"offsets too narrow", ONE("F32", "[2]", "[0,4]"), 4, NB_ERR_FORMAT, "span 4|[2] takes 8"},
    {"the same place twice", TWO("[0,4]", "[0,4]"), 4, NB_ERR_FORMAT, "tensors a and b overlap"},
    {"an overlap", TWO("[0,4]", "[3,7]"), 7, NB_ERR_FORMAT, "tensors a and b overlap"},
    {"a hole", TWO("[0,4]", "[5,9]"), 9, NB_ERR_FORMAT, "bytes 4 to 5|before b"},
    {"a hole at the start", TWO("[1,5]", "[5,9]"), 9, NB_ERR_FORMAT, "bytes 0 to 1|before a"},
    {"data past the end", TWO("[0,4]", "[4,8]"), 9, NB_ERR_FORMAT, "end at byte 8 of the data's 9"},
    {"data and no tensors", "{}", 1, NB_ERR_FORMAT, "end at byte 0 of the data's 1"},
};

static void bad_files(void **state) {
    (void)state;
    struct folder folder;
    folder_make(&folder);
    const char *path = folder_path(&folder, "x.safetensors");
    for (size_t i = 0; i < sizeof bad_headers / sizeof *bad_headers; i++) {
        write_file(&folder, "x.safetensors", strlen(bad_headers[i].header), bad_headers[i].header,
                   bad_headers[i].data);
        struct nb_tensors tensors;
        struct nb_error err = {0};
        enum nb_status s = nb_tensors_open_file(path, &tensors, &err);
        expect_failure(bad_headers[i].label, s, &err, bad_headers[i].status, "x.safetensors");
        expect_failure(bad_headers[i].label, s, &err, bad_headers[i].status, bad_headers[i].says);
        assert_int_equal(tensors.n_files, 0); /* nothing is left open */
    }
    folder_remove(&folder);
}

/* Lengths that a file claims for its header. */
static void bad_lengths(void **state) {
    (void)state;
    static const uint64_t claims[] = {3,
                                      1000,
                                      100 * 1000 * 1000 + 1,
                                      UINT64_C(1) << 31,
                                      UINT64_C(1) << 32,
                                      UINT64_C(1) << 63,
                                      UINT64_MAX,
                                      UINT64_MAX - 7};
    struct folder folder;
    struct nb_tensors tensors;
    struct nb_error err;
    folder_make(&folder);
    const char *path = folder_path(&folder, "x.safetensors");
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
        char claim[32];
        snprintf(claim, sizeof claim, "%llu bytes|x.safetensors", (unsigned long long)claims[i]);
        write_file(&folder, "x.safetensors", claims[i], "{}", 0);
        expect_failure("length", nb_tensors_open_file(path, &tensors, &err), &err, NB_ERR_FORMAT,
                       claim);
    }
    for (size_t n = 0; n < 8; n++) {
        folder_write(&folder, "x.safetensors", "\2\0\0\0\0\0\0\0", n);
        expect_failure("short", nb_tensors_open_file(path, &tensors, &err), &err, NB_ERR_FORMAT,
                       "too short|x.safetensors");
    }
    expect_failure("folder", nb_tensors_open_file(folder.path, &tensors, &err), &err, NB_ERR_IO,
                   "is a folder");
    expect_failure("missing", nb_tensors_open_file(folder_path(&folder, "none"), &tensors, &err),
                   &err, NB_ERR_IO, "none|No such file");
    folder_remove(&folder);
}

/* Arrays within arrays: a parser that recurses without a limit runs out of stack. */
static void deep_header(void **state) {
    (void)state;
    enum { DEPTH = 100000 };
    struct nb_buf header = {0};
    nb_buf_add_string(&header, "{\"a\":");
    for (int i = 0; i < DEPTH; i++)
        nb_buf_add_string(&header, "[");
    for (int i = 0; i < DEPTH; i++)
        nb_buf_add_string(&header, "]");
    nb_buf_add_string(&header, "}");
    struct folder folder;
    struct nb_tensors tensors;
    struct nb_error err;
    folder_make(&folder);
    write_file(&folder, "x.safetensors", header.len, header.data, 0);
    expect_failure("deep",
                   nb_tensors_open_file(folder_path(&folder, "x.safetensors"), &tensors, &err),
                   &err, NB_ERR_FORMAT, "x.safetensors|depth");
    nb_buf_free(&header);
    folder_remove(&folder);
}

/* A good file cut after every byte, and with one byte more. */
static void truncated_files(void **state) {
    (void)state;
    static const char header[] = TWO("[0,4]", "[4,8]") "   ";
    struct folder folder;
    struct nb_tensors tensors;
    struct nb_error err;
    folder_make(&folder);
    write_file(&folder, "whole", strlen(header), header, 8);
    const char *path = folder_path(&folder, "cut.safetensors");
    size_t size = 8 + strlen(header) + 8;
    struct nb_map whole;
    assert_ok(nb_map_open(folder_path(&folder, "whole"), &whole, &err), err);
    assert_int_equal(whole.size, size);
    for (size_t n = 0; n < size; n++) {
        folder_write(&folder, "cut.safetensors", whole.data, n);
        expect_failure("cut", nb_tensors_open_file(path, &tensors, &err), &err, NB_ERR_FORMAT,
                       "cut.safetensors");
    }
    folder_write(&folder, "cut.safetensors", whole.data, size);
    assert_ok(nb_tensors_open_file(path, &tensors, &err), err);
    nb_tensors_close(&tensors);
    nb_map_close(&whole);
    folder_remove(&folder);
}

/* What a good file holds is found, in any order, with empty tensors and metadata among it. */
static void good_file(void **state) {
    (void)state;
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"pt\"},"
        "\"z\":" TENSOR("BF16", "[2,3]",
                        "[4,16]") ","
                                  "\"none\":" TENSOR(
                                      "F32", "[0,7]",
                                      "[4,4]") ","
                                               "\"last\":" TENSOR(
                                                   "I64", "[0]",
                                                   "[17,17]") ","
                                                              "\"a\":" TENSOR(
                                                                  "F32", "[]",
                                                                  "[0,4]") ","
                                                                           "\"b\":" TENSOR(
                                                                               "BOOL",
                                                                               "[1,1,1,1,1,1,1,1]",
                                                                               "[16,17]") "}";
    static const struct {
        const char *name, *dtype, *shape;
        size_t begin, bytes;
    } want[] = {
        {"a", "F32", "[]", 0, 4},       {"b", "BOOL", "[1, 1, 1, 1, 1, 1, 1, 1]", 16, 1},
        {"last", "I64", "[0]", 17, 0},  {"none", "F32", "[0, 7]", 4, 0},
        {"z", "BF16", "[2, 3]", 4, 12},
    };
    struct folder folder;
    struct nb_tensors tensors;
    struct nb_error err;
    folder_make(&folder);
    write_file(&folder, "x.safetensors", strlen(header), header, 17);
    const char *path = folder_path(&folder, "x.safetensors");
    assert_ok(nb_tensors_open_file(path, &tensors, &err), err);
    assert_int_equal(tensors.n, 5);
    assert_int_equal(tensors.bytes, 17);
    const uint8_t *data = tensors.maps[0].data + 8 + strlen(header);
    for (size_t i = 0; i < 5; i++) {
        const struct nb_tensor *t = nb_tensors_find(&tensors, want[i].name);
        char shape[64];
        assert_ptr_equal(t, &tensors.tensors[i]); /* in order of names */
        assert_string_equal(nb_dtype_name(t->dtype), want[i].dtype);
        assert_string_equal(nb_shape_text(t, shape, sizeof shape), want[i].shape);
        assert_int_equal(t->data - data, want[i].begin);
        assert_int_equal(t->bytes, want[i].bytes);
        assert_string_equal(t->file, path);
    }
    assert_null(nb_tensors_find(&tensors, "__metadata__"));
    assert_null(nb_tensors_find(&tensors, ""));
    char cut[8];
    assert_string_equal(nb_shape_text(&tensors.tensors[1], cut, sizeof cut), "[1, 1, ");
    nb_tensors_close(&tensors);
    nb_tensors_close(&tensors); /* an all-zero struct */
    folder_remove(&folder);
}

/* Every dtype has the size that the format gives it. */
static void dtypes(void **state) {
    (void)state;
    static const char *const names[] = {"",
                                        "BOOL U8 I8 F8_E4M3 F8_E5M2",
                                        "U16 I16 F16 BF16",
                                        "",
                                        "U32 I32 F32",
                                        "",
                                        "",
                                        "",
                                        "U64 I64 F64"};
    int n = 0;
    for (int d = NB_DTYPE_F64; d <= NB_DTYPE_F8_E5M2; d++, n++)
        assert_non_null(strstr(names[nb_dtype_bytes(d)], nb_dtype_name(d)));
    assert_int_equal(n, 15);
}

/* ---- indexes and shards ---- */

#define INDEX(map) "{\"weight_map\":" map "}"

static const struct {
    const char *label, *index;
    enum nb_status status;
    const char *says;
} bad_indexes[] = {
    {"no JSON", "{", NB_ERR_FORMAT, "index.json: not valid JSON"},
    {"empty", "", NB_ERR_FORMAT, "index.json: not valid JSON"},
    {"an array", "[]", NB_ERR_FORMAT, "index.json: found an array"},
    {"no weight_map", "{}", NB_ERR_FORMAT, "index.json: weight_map is nothing"},
    {"weight_map is an array", INDEX("[1]"), NB_ERR_FORMAT, "index.json: weight_map is an array"},
    {"weight_map is empty", INDEX("{}"), NB_ERR_FORMAT, "index.json: weight_map is empty"},
    {"a name given twice", INDEX("{\"a\":\"1\",\"a\":\"2\"}"), NB_ERR_FORMAT, "duplicate"},
    {"file is a number", INDEX("{\"a\":1}"), NB_ERR_FORMAT, "weight_map of a is an integer"},
    {"file is empty", INDEX("{\"a\":\"\"}"), NB_ERR_FORMAT, "weight_map of a"},
    {"file elsewhere", INDEX("{\"a\":\"/etc/passwd\"}"), NB_ERR_FORMAT, "of a is /etc/passwd"},
    {"file in a folder", INDEX("{\"a\":\"x/1\"}"), NB_ERR_FORMAT, "of a is x/1"},
    {"file above", INDEX("{\"a\":\"../1\"}"), NB_ERR_FORMAT, "of a is ../1"},
    {"file is ..", INDEX("{\"a\":\"..\"}"), NB_ERR_FORMAT, "of a is .."},
    {"file is .", INDEX("{\"a\":\".\"}"), NB_ERR_FORMAT, "of a is ."},
    {"no such shard", INDEX("{\"a\":\"3\"}"), NB_ERR_IO, "/3: cannot open"},
    {"two shards of three are missing", INDEX("{\"a\":\"1\",\"b\":\"3\",\"c\":\"4\"}"), NB_ERR_IO,
     "of the 3 files that model.safetensors.index.json names, 2 are missing"},
    {"tensor in no shard", INDEX("{\"c\":\"1\"}"), NB_ERR_FORMAT, "weight_map has c in 1"},
    {"tensor in the other shard", INDEX("{\"a\":\"2\",\"b\":\"1\"}"), NB_ERR_FORMAT,
     "index.json: weight_map has|which is not there"},
    {"one tensor in two shards", INDEX("{\"a\":\"1\",\"b\":\"again\"}"), NB_ERR_FORMAT,
     "tensor a is in both|/1|/again"},
    {"a shard that is broken", INDEX("{\"a\":\"1\",\"b\":\"broken\"}"), NB_ERR_FORMAT,
     "/broken: 0 bytes, too short"},
};

static void bad_index_files(void **state) {
    (void)state;
    static const char a[] = ONE("U8", "[4]", "[0,4]");
    static const char b[] = "{\"b\":" TENSOR("U8", "[4]", "[0,4]") "}";
    struct folder folder;
    struct nb_tensors tensors;
    struct nb_error err;
    folder_make(&folder);
    write_file(&folder, "1", strlen(a), a, 4);
    write_file(&folder, "2", strlen(b), b, 4);
    write_file(&folder, "again", strlen(a), a, 4);
    folder_write(&folder, "broken", "", 0);
    for (size_t i = 0; i < sizeof bad_indexes / sizeof *bad_indexes; i++) {
        folder_write_text(&folder, "model.safetensors.index.json", bad_indexes[i].index);
        expect_failure(bad_indexes[i].label, nb_tensors_open(folder.path, &tensors, &err), &err,
                       bad_indexes[i].status, bad_indexes[i].says);
        assert_int_equal(tensors.n_files, 0);
    }
    folder_write_text(&folder, "model.safetensors.index.json", INDEX("{\"b\":\"2\",\"a\":\"1\"}"));
    assert_ok(nb_tensors_open(folder.path, &tensors, &err), err);
    assert_int_equal(tensors.n, 2);
    assert_int_equal(tensors.n_files, 2);
    nb_tensors_close(&tensors);
    folder_remove(&folder);
}

/* A checkpoint cut into very many files takes memory for its tensors, not for their square. */
static void many_shards(void **state) {
    (void)state;
    enum { SHARDS = 1000 };
    struct folder folder;
    struct nb_tensors tensors;
    struct nb_error err;
    struct nb_buf index = {0};
    folder_make(&folder);
    for (int i = 0; i < SHARDS; i++) {
        char header[128], file[16];
        snprintf(file, sizeof file, "%d", i);
        snprintf(header, sizeof header, "{\"t%d\":" TENSOR("U8", "[1]", "[0,1]") "}", i);
        write_file(&folder, file, strlen(header), header, 1);
        nb_buf_printf(&index, "%s\"t%d\":\"%d\"", i ? "," : "{\"weight_map\":{", i, i);
    }
    nb_buf_add_string(&index, "}}");
    folder_write_text(&folder, "model.safetensors.index.json", index.data);
    nb_buf_free(&index);
    assert_ok(nb_tensors_open(folder.path, &tensors, &err), err);
    assert_int_equal(tensors.n, SHARDS);
    assert_non_null(nb_tensors_find(&tensors, "t999"));
    assert_true(tensors.arena.allocated_bytes < SHARDS * 1000);
    nb_tensors_close(&tensors);
    folder_remove(&folder);
}

/* A folder without safetensors says what it has instead. */
static void other_folders(void **state) {
    (void)state;
    struct folder folder;
    struct nb_tensors tensors;
    struct nb_error err;
    folder_make(&folder);
    expect_failure("empty folder", nb_tensors_open(folder.path, &tensors, &err), &err, NB_ERR_IO,
                   "neither model.safetensors nor model.safetensors.index.json");
    folder_write_text(&folder, "pytorch_model.bin", "");
    expect_failure("a pickle", nb_tensors_open(folder.path, &tensors, &err), &err,
                   NB_ERR_UNSUPPORTED, "pytorch_model.bin|safe_serialization");
    folder_remove(&folder);
    char path[6000];
    memset(path, 'x', sizeof path);
    path[sizeof path - 1] = 0;
    expect_failure("a long path", nb_tensors_open(path, &tensors, &err), &err, NB_ERR_ARGUMENT,
                   "xxx");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bad_files),       cmocka_unit_test(bad_lengths),
        cmocka_unit_test(deep_header),     cmocka_unit_test(truncated_files),
        cmocka_unit_test(good_file),       cmocka_unit_test(dtypes),
        cmocka_unit_test(bad_index_files), cmocka_unit_test(many_shards),
        cmocka_unit_test(other_folders),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
