#include "test.h"

#include "base/file.h"
#include "quant/flush.h"
#include "quant/quant.h"
#include "quant/reciprocal.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>

/* tests/golden/quant/cpu.bin and cuda.bin: tools/golden/README.md describes the container. */
struct array {
    const char *name;
    size_t name_len;
    uint32_t size; /* bytes an element */
    uint64_t count;
    void *data; /* aligned copy */
};

struct golden {
    struct array arrays[1024];
    size_t n;
    struct nb_buf file;
};

static struct golden cpu, cuda;

static void read_golden(struct golden *g, const char *path) {
    struct nb_error err;
    assert_ok(nb_read_file(test_path(path), 1 << 20, &g->file, &err), err);
    const char *at = g->file.data, *end = at + g->file.len;
    uint32_t name_len, note_len;
    assert_memory_equal(at, "nbgold1\n", 8);
    memcpy(&note_len, at + 8, sizeof note_len);
    for (at += 12 + note_len; at < end; g->n++) {
        assert_in_range(g->n, 0, sizeof g->arrays / sizeof g->arrays[0] - 1);
        struct array *a = &g->arrays[g->n];
        memcpy(&name_len, at, 4);
        memcpy(&a->size, at + 4, 4);
        memcpy(&a->count, at + 8, 8);
        a->name = at + 16;
        a->name_len = name_len;
        size_t bytes = a->size * a->count;
        assert_non_null(a->data = malloc(bytes ? bytes : 1));
        memcpy(a->data, a->name + name_len, bytes);
        at = a->name + name_len + bytes;
    }
    assert_ptr_equal(at, end);
}

/* Array "CASE/field", or NULL. */
static const struct array *find(const struct golden *g, const char *name, const char *field) {
    char full[128];
    int len = snprintf(full, sizeof full, "%s/%s", name, field);
    for (size_t i = 0; i < g->n; i++)
        if (g->arrays[i].name_len == (size_t)len && !memcmp(g->arrays[i].name, full, (size_t)len))
            return &g->arrays[i];
    return NULL;
}

static const void *data_of(const struct golden *g, const char *name, const char *field) {
    const struct array *a = find(g, name, field);
    return a ? a->data : NULL;
}

/* An array that belongs to no case. */
static const void *table_of(const struct golden *g, const char *name) {
    for (size_t i = 0; i < g->n; i++)
        if (g->arrays[i].name_len == strlen(name) && !memcmp(g->arrays[i].name, name, strlen(name)))
            return g->arrays[i].data;
    fail_msg("no array %s", name);
    return NULL;
}

struct golden_case {
    char name[64];
    enum nb_quant_type type;
    size_t block, n;
    enum { F32, BF16, F16 } dtype; /* of the input */
    bool nested;
};

/* Whether `g` says what the case's codes dequantize to. */
static bool has_weights(const struct golden *g, const struct golden_case *c) {
    return find(g, c->name, "f32") || find(g, c->name, "f32.fnv");
}

/* The next case at or after array *i, which moves past it. */
static bool next_case(const struct golden *g, size_t *i, struct golden_case *c) {
    for (; *i < g->n; ++*i) {
        const struct array *a = &g->arrays[*i];
        if (a->name_len < 5 || memcmp(a->name + a->name_len - 5, "/info", 5))
            continue;
        const uint32_t *info = a->data;
        snprintf(c->name, sizeof c->name, "%.*s", (int)a->name_len - 5, a->name);
        c->type = info[0] ? NB_QUANT_FP4 : NB_QUANT_NF4;
        c->block = info[1];
        c->n = info[2];
        c->dtype = info[3];
        c->nested = info[4];
        ++*i;
        return true;
    }
    return false;
}

static struct nb_quant_view view_of(const struct golden *g, const struct golden_case *c,
                                    const float *values) {
    struct nb_quant_view view = {
        .type = c->type,
        .n = c->n,
        .block = c->block,
        .codes = data_of(g, c->name, "codes"),
        .values = values,
    };
    if (c->nested) {
        view.absmax_code = data_of(g, c->name, "absmax_code");
        view.nested_absmax = data_of(g, c->name, "nested_absmax");
        view.nested_values = table_of(&cpu, "dynamic_map");
        view.nested_block = NB_NESTED_BLOCK;
        view.nested_offset = *(const float *)data_of(g, c->name, "nested_offset");
    } else {
        view.absmax = data_of(g, c->name, "absmax");
    }
    struct nb_error err;
    assert_ok(nb_quant_check(&view, &err), err);
    return view;
}

static uint64_t fnv1a(const void *data, size_t n) {
    uint64_t h = 0xCBF29CE484222325;
    for (size_t i = 0; i < n; i++)
        h = (h ^ ((const uint8_t *)data)[i]) * 0x100000001B3;
    return h;
}

/* Demands that got[0..count) is array "name/field", bit for bit, or has the hash of "….fnv". */
static void assert_golden(const struct golden *g, const char *name, const char *field,
                          const void *got, size_t count, size_t size) {
    char hash[32];
    snprintf(hash, sizeof hash, "%s.fnv", field);
    const struct array *want = find(g, name, field), *want_hash = find(g, name, hash);
    if (want_hash) {
        uint64_t h = fnv1a(got, count * size);
        if (h != *(const uint64_t *)want_hash->data)
            fail_msg("%s/%s: hash differs", name, field);
        return;
    }
    assert_non_null(want);
    assert_true(want->count == count && want->size == size);
    for (size_t i = 0; i < count * size; i++)
        if (((const uint8_t *)got)[i] != ((const uint8_t *)want->data)[i])
            fail_msg("%s/%s[%zu] of %zu differs", name, field, i / size, count);
}

static void check_dequantized(const struct golden *g, const struct golden_case *c,
                              const float *values) {
    struct nb_quant_view view = view_of(g, c, values);
    size_t n = c->n, blocks = nb_quant_blocks(n, c->block);
    float *f32 = malloc(n * sizeof *f32), *absmax = malloc(blocks * sizeof *absmax);
    uint16_t *half = malloc(n * sizeof *half);
    assert_true(f32 && half && absmax);

    for (size_t i = 0; i < blocks; i++)
        absmax[i] = nb_quant_absmax(&view, i);
    assert_golden(g, c->name, "absmax", absmax, blocks, sizeof *absmax);
    nb_dequantize_f32(&view, 0, n, f32);
    assert_golden(g, c->name, "f32", f32, n, sizeof *f32);
    nb_dequantize_bf16(&view, 0, n, half);
    assert_golden(g, c->name, "bf16", half, n, sizeof *half);
    nb_dequantize_f16(&view, 0, n, half);
    assert_golden(g, c->name, "f16", half, n, sizeof *half);
    free(f32);
    free(half);
    free(absmax);
}

/* bitsandbytes' CPU code takes quant_map, where FP4's code 8 is +0. */
static void dequantize_as_cpu(void **state) {
    (void)state;
    struct golden_case c;
    size_t n_cases = 0;
    for (size_t i = 0; next_case(&cpu, &i, &c);) {
        if (!has_weights(&cpu, &c))
            continue;
        check_dequantized(&cpu, &c, table_of(&cpu, c.type == NB_QUANT_FP4 ? "fp4_map" : "nf4_map"));
        n_cases++;
    }
    assert_in_range(n_cases, 40, 1000);
}

static void tables(void **state) {
    (void)state;
    assert_memory_equal(nb_nf4_values, table_of(&cpu, "nf4_map"), sizeof nb_nf4_values);
    const float *fp4 = table_of(&cpu, "fp4_map");
    for (int i = 0; i < 16; i++)
        assert_true(nb_fp4_values[i] == fp4[i]);
    assert_true(signbit(nb_fp4_values[8]));
    assert_ptr_equal(nb_quant_values(NB_QUANT_NF4), nb_nf4_values);
    assert_ptr_equal(nb_quant_values(NB_QUANT_FP4), nb_fp4_values);
    assert_string_equal(nb_quant_type_name(NB_QUANT_NF4), "nf4");
    assert_string_equal(nb_quant_type_name(NB_QUANT_FP4), "fp4");
}

/* Any first and count give the same weights as all at once, and write nothing else. */
static void dequantize_ranges(void **state) {
    (void)state;
    struct golden_case c;
    for (size_t i = 0; next_case(&cpu, &i, &c);) {
        if (c.n > 700 || !has_weights(&cpu, &c))
            continue;
        struct nb_quant_view view = view_of(&cpu, &c, nb_quant_values(c.type));
        float all[700], part[701];
        uint16_t half[700], half_part[701];
        nb_dequantize_f32(&view, 0, c.n, all);
        nb_dequantize_bf16(&view, 0, c.n, half);
        for (size_t first = 0; first <= c.n; first += 1 + first / 7)
            for (size_t count = 0; first + count <= c.n; count += 1 + count / 3) {
                part[count] = 7;
                half_part[count] = 7;
                nb_dequantize_f32(&view, first, count, part);
                nb_dequantize_bf16(&view, first, count, half_part);
                assert_memory_equal(part, all + first, count * sizeof *part);
                assert_memory_equal(half_part, half + first, count * sizeof *half);
                assert_true(part[count] == 7 && half_part[count] == 7);
            }
    }
}

static enum nb_status quantize(const struct golden_case *c, uint8_t *codes, float *absmax,
                               struct nb_error *err) {
    const void *x = data_of(&cpu, c->name, "x");
    assert_non_null(x);
    switch (c->dtype) {
    case F32:
        return nb_quantize_f32(c->type, c->block, x, c->n, codes, absmax, err);
    case BF16:
        return nb_quantize_bf16(c->type, c->block, x, c->n, codes, absmax, err);
    default:
        return nb_quantize_f16(c->type, c->block, x, c->n, codes, absmax, err);
    }
}

/* The codes and scales that bitsandbytes' kernels wrote on a GPU, from the inputs of cpu.bin. */
static void quantize_as_cuda(void **state) {
    (void)state;
    struct golden_case c;
    size_t n_cases = 0;
    for (size_t i = 0; next_case(&cuda, &i, &c); n_cases++) {
        size_t blocks = nb_quant_blocks(c.n, c.block);
        size_t nested = nb_quant_nested_blocks(c.n, c.block, NB_NESTED_BLOCK);
        uint8_t *codes = malloc(nb_quant_code_bytes(c.n)), *absmax_code = malloc(blocks);
        float *absmax = malloc(blocks * sizeof *absmax);
        float *nested_absmax = malloc(nested * sizeof *nested_absmax);
        assert_true(codes && absmax && absmax_code && nested_absmax);
        struct nb_error err;
        assert_ok(quantize(&c, codes, absmax, &err), err);
        assert_golden(&cuda, c.name, "codes", codes, nb_quant_code_bytes(c.n), 1);
        if (c.nested) {
            float offset = *(const float *)data_of(&cuda, c.name, "nested_offset");
            assert_true(fabsf(nb_absmax_mean(absmax, blocks) - offset) <= 1e-6f * offset);
            nb_quantize_absmax(absmax, blocks, offset, absmax_code, nested_absmax);
            assert_golden(&cuda, c.name, "absmax_code", absmax_code, blocks, 1);
            assert_golden(&cuda, c.name, "nested_absmax", nested_absmax, nested, sizeof(float));
        } else {
            assert_golden(&cuda, c.name, "absmax", absmax, blocks, sizeof *absmax);
        }
        free(codes);
        free(absmax);
        free(absmax_code);
        free(nested_absmax);
    }
    assert_in_range(n_cases, 40, 1000);
}

/* And what they make of those codes again: here subnormal products become zero. */
static void dequantize_as_cuda(void **state) {
    (void)state;
    struct golden_case c;
    for (size_t i = 0; next_case(&cuda, &i, &c);)
        if (has_weights(&cuda, &c))
            check_dequantized(&cuda, &c, nb_quant_values(c.type));
}

static void dynamic_values(void **state) {
    (void)state;
    float values[256];
    nb_dynamic_values(values);
    assert_memory_equal(values, table_of(&cpu, "dynamic_map"), sizeof values);
}

static void quantize_errors(void **state) {
    (void)state;
    static const float x[64];
    uint8_t codes[32] = {1};
    float absmax[2] = {1};
    struct nb_error err;
    const size_t bad_blocks[] = {0, 1, 16, 48, 100, 8192, SIZE_MAX};
    for (size_t i = 0; i < sizeof bad_blocks / sizeof bad_blocks[0]; i++) {
        size_t block = bad_blocks[i];
        assert_int_equal(nb_quantize_f32(NB_QUANT_NF4, block, x, 64, codes, absmax, &err),
                         NB_ERR_FORMAT);
        assert_non_null(strstr(err.message, "power of two"));
    }
    assert_int_equal(
        nb_quantize_bf16((enum nb_quant_type)2, 64, (const uint16_t *)x, 64, codes, absmax, &err),
        NB_ERR_FORMAT);
    assert_true(codes[0] == 1 && absmax[0] == 1);
    assert_ok(nb_quantize_f16(NB_QUANT_FP4, 64, NULL, 0, NULL, NULL, &err), err);
    assert_true(nb_absmax_mean(NULL, 0) == 0);
}

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* All 2^23 mantissas, by two sums over each 65,536 of them; other exponents; the ends. */
static void reciprocal_as_gpu(void **state) {
    (void)state;
    const uint64_t *want = table_of(&cuda, "reciprocal_sums"); /* [128][2] */
    for (uint32_t part = 0; part < 128; part++) {
        uint64_t sum = 0, weighted = 0;
        for (uint32_t i = 0; i < 65536; i++) {
            float x, y;
            uint32_t bits = 0x3F800000 + (part << 16 | i);
            memcpy(&x, &bits, sizeof x);
            y = nb_gpu_reciprocal(x);
            sum += bits_of(y);
            weighted += (uint64_t)bits_of(y) * i;
            if (i % 251 == 0)
                for (int e = -126; e < 126; e++)
                    assert_true(nb_gpu_reciprocal(ldexpf(x, e)) == ldexpf(y, -e));
        }
        assert_true(sum == want[2 * part] && weighted == want[2 * part + 1]);
    }
    assert_true(nb_gpu_reciprocal(0) == INFINITY);
    assert_true(nb_gpu_reciprocal(0x0.fffffep-126f) == INFINITY);
    assert_true(nb_gpu_reciprocal(0x1p126f) == 0x1p-126f);
    assert_true(nb_gpu_reciprocal(0x1.000002p126f) == 0);
    assert_true(nb_gpu_reciprocal(FLT_MAX) == 0);
    assert_true(nb_gpu_reciprocal(INFINITY) == 0);
    assert_true(isnan(nb_gpu_reciprocal(NAN)));
}

/* Flushed is what is below 2^-126 once rounded to 24 bits, not what f32 rounds below it. */
static void products_flushed(void **state) {
    (void)state;
    assert_true(nb_mul_flushed(0x1.fffffep-1f, 0x1p-126f) == 0);
    assert_true(nb_mul_flushed(0x1.000002p-1f, 0x1.fffffep-126f) == 0x1p-126f);
    assert_true(nb_mul_flushed(0x1.000002p0f, 0x1.fffffcp-127f) == 0);
    assert_true(nb_mul_flushed(0x1p-127f, 0x1p100f) == 0);
    assert_true(signbit(nb_mul_flushed(-0x1p-126f, 0.5f)));
    assert_true(nb_mul_flushed(FLT_MAX, FLT_MAX) == INFINITY);
    assert_true(nb_mul_flushed(FLT_MAX, 1) == FLT_MAX);
    assert_true(isnan(nb_mul_flushed(INFINITY, 0)));
}

static void check_errors(void **state) {
    (void)state;
    static const uint8_t codes[16];
    static const float scale[1];
    const struct nb_quant_view good = {
        .type = NB_QUANT_NF4,
        .n = 32,
        .block = 32,
        .codes = codes,
        .values = nb_nf4_values,
        .absmax = scale,
    };
    struct nb_quant_view nested = good;
    nested.absmax = NULL;
    nested.absmax_code = codes;
    nested.nested_absmax = scale;
    nested.nested_values = nb_nf4_values;
    nested.nested_block = NB_NESTED_BLOCK;
    struct nb_error err;
    assert_ok(nb_quant_check(&good, &err), err);
    assert_ok(nb_quant_check(&nested, &err), err);
    assert_ok(nb_quant_check(&(struct nb_quant_view){.block = 64, .values = scale}, &err), err);

#define BAD(base, change, text)                                                                    \
    do {                                                                                           \
        struct nb_quant_view bad = base;                                                           \
        bad.change;                                                                                \
        assert_int_equal(nb_quant_check(&bad, &err), NB_ERR_FORMAT);                               \
        assert_non_null(strstr(err.message, text));                                                \
        assert_int_equal(nb_quant_check(&bad, NULL), NB_ERR_FORMAT);                               \
    } while (0)
    BAD(good, type = 9, "type 9");
    BAD(good, block = 0, "block of 0");
    BAD(good, block = 16, "block of 16");
    BAD(good, block = 8192, "block of 8192");
    BAD(good, block = 96, "block of 96");
    BAD(good, values = NULL, "quant_map");
    BAD(good, codes = NULL, "codes");
    BAD(good, absmax = NULL, "without absmax");
    BAD(good, absmax_code = codes, "both");
    BAD(nested, nested_absmax = NULL, "nested_absmax");
    BAD(nested, nested_values = NULL, "nested_quant_map");
    BAD(nested, nested_block = 0, "nested block of 0");
    BAD(nested, nested_block = 100, "nested block of 100");
#undef BAD
}

static void sizes(void **state) {
    (void)state;
    assert_int_equal(nb_quant_code_bytes(0), 0);
    assert_int_equal(nb_quant_code_bytes(7), 4);
    assert_true(nb_quant_code_bytes(SIZE_MAX) == SIZE_MAX / 2 + 1);
    assert_int_equal(nb_quant_blocks(65, 64), 2);
    assert_true(nb_quant_blocks(SIZE_MAX, 64) == SIZE_MAX / 64 + 1);
    assert_int_equal(nb_quant_nested_blocks(64 * 256 + 1, 64, 256), 2);
    assert_int_equal(nb_quant_nested_blocks(0, 64, 256), 0);
}

static int setup(void **state) {
    (void)state;
    read_golden(&cpu, "tests/golden/quant/cpu.bin");
    read_golden(&cuda, "tests/golden/quant/cuda.bin");
    return 0;
}

static void free_golden(struct golden *g) {
    for (size_t i = 0; i < g->n; i++)
        free(g->arrays[i].data);
    nb_buf_free(&g->file);
}

static int teardown(void **state) {
    (void)state;
    free_golden(&cpu);
    free_golden(&cuda);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables),
        cmocka_unit_test(dynamic_values),
        cmocka_unit_test(dequantize_as_cpu),
        cmocka_unit_test(dequantize_as_cuda),
        cmocka_unit_test(dequantize_ranges),
        cmocka_unit_test(quantize_as_cuda),
        cmocka_unit_test(quantize_errors),
        cmocka_unit_test(reciprocal_as_gpu),
        cmocka_unit_test(products_flushed),
        cmocka_unit_test(check_errors),
        cmocka_unit_test(sizes),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
