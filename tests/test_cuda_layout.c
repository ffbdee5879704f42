/* The layout of weights in device memory: what is repacked on the host reads back as what
 * nb_dequantize gives, for every kind, order, size of block and odd shape. No GPU is needed. */
#include "test.h"

#include "backend/cuda/layout.h"
#include "base/float16.h"
#include "checkpoint.h"
#include "model/model.h"

static uint64_t seed = 1;

/* A matrix of random codes and scales, or of floats. */
static struct nb_matrix make_matrix(int32_t rows, int32_t columns, enum nb_weight_type type,
                                    enum nb_quant_type codes, size_t block, const float *nested) {
    size_t n = (size_t)rows * (size_t)columns, blocks = nb_quant_blocks(n, block ? block : 64),
           groups = blocks / NB_NESTED_BLOCK + 1;
    struct nb_matrix m = {.name = "random", .rows = rows, .columns = columns, .type = type};
    uint8_t *bytes = malloc(n * 4 + 8), *absmax_code = malloc(blocks);
    float *absmax = malloc(blocks * sizeof *absmax), *groups_of = malloc(groups * sizeof *absmax);
    assert_true(bytes && absmax_code && absmax && groups_of);
    for (size_t i = 0; i < n * 4; i++)
        bytes[i] = (uint8_t)random_bits(&seed);
    for (size_t i = 0; i < blocks; i++) {
        absmax_code[i] = (uint8_t)random_bits(&seed);
        absmax[i] = (float)random_unit(&seed);
    }
    for (size_t i = 0; i < groups; i++)
        groups_of[i] = (float)random_unit(&seed);
    if (type != NB_WEIGHT_4BIT) {
        for (size_t i = 0; i < n; i++) {
            float x = random_normal(&seed);
            if (type == NB_WEIGHT_F32)
                ((float *)bytes)[i] = x;
            else
                ((uint16_t *)bytes)[i] =
                    type == NB_WEIGHT_F16 ? nb_f32_to_f16(x) : nb_f32_to_bf16(x);
        }
        m.data = bytes;
        free(absmax_code), free(absmax), free(groups_of);
        return m;
    }
    m.quant = (struct nb_quant_view){
        .type = codes,
        .n = n,
        .block = block,
        .codes = bytes,
        .values = nb_quant_values(codes),
        .absmax = nested ? NULL : absmax,
        .absmax_code = nested ? absmax_code : NULL,
        .nested_values = nested,
        .nested_absmax = nested ? groups_of : NULL,
        .nested_block = nested ? NB_NESTED_BLOCK : 0,
        .nested_offset = nested ? 0.25f + (float)random_unit(&seed) : 0,
    };
    if (nested)
        free(absmax);
    else
        free(absmax_code), free(groups_of);
    return m;
}

static void free_matrix(struct nb_matrix *m) {
    free((void *)(m->data ? m->data : m->quant.codes));
    free((void *)m->quant.absmax);
    free((void *)m->quant.absmax_code);
    free((void *)m->quant.nested_absmax);
}

/* Row `row` of a matrix as the layout's kind can hold it. */
static void expected_row(const struct nb_matrix *m, int32_t row, enum nb_cuda_kind kind,
                         float *out) {
    size_t n = (size_t)m->columns, first = (size_t)row * n;
    if (m->type == NB_WEIGHT_4BIT)
        nb_dequantize_f32(&m->quant, first, n, out);
    for (size_t i = 0; i < n; i++) {
        if (m->type == NB_WEIGHT_F32)
            out[i] = ((const float *)m->data)[first + i];
        else if (m->type == NB_WEIGHT_F16)
            out[i] = nb_f16_to_f32(((const uint16_t *)m->data)[first + i]);
        else if (m->type == NB_WEIGHT_BF16)
            out[i] = nb_bf16_to_f32(((const uint16_t *)m->data)[first + i]);
        if (kind == NB_CUDA_BF16)
            out[i] = nb_bf16_to_f32(nb_f32_to_bf16(out[i]));
    }
}

/* Every row of every part is in one place, whole, and what is beside them is 0. */
static void check_source(const struct nb_cuda_source *source, enum nb_cuda_kind kind,
                         const float *nested_values, const char *what) {
    struct nb_cuda_shape s, same;
    nb_cuda_shape_of(source, 1, nested_values, &s);
    if (s.kind != kind)
        fail_msg("%s: kind %d, expected %d", what, (int)s.kind, (int)kind);
    int32_t block = (int32_t)source->parts[0]->quant.block;
    for (int32_t p = 1; p < source->n_parts; p++)
        if ((int32_t)source->parts[p]->quant.block < block)
            block = (int32_t)source->parts[p]->quant.block;
    assert_true(nb_cuda_shape(s.kind, s.rows, s.columns, block, &same));
    assert_memory_equal(&s, &same, sizeof s);
    assert_int_equal(s.unit_bytes % 16, 0);
    assert_int_equal(s.bytes, (uint64_t)s.n_tiles * (uint64_t)s.n_units * s.unit_bytes);
    assert_true(s.n_chunks * NB_CUDA_CHUNK >= s.columns);
    assert_true((s.n_chunks - s.n_units) * NB_CUDA_CHUNK < s.columns);
    uint8_t *data = malloc(s.bytes);
    assert_non_null(data);
    memset(data, 0xA5, s.bytes);
    size_t tile_bytes = (size_t)s.n_units * s.unit_bytes;
    for (int32_t tile = 0; tile < s.n_tiles; tile += 3) { /* in pieces, as a loader does */
        int32_t n = s.n_tiles - tile < 3 ? s.n_tiles - tile : 3;
        nb_cuda_repack(source, &s, tile, n, data + tile_bytes * (size_t)tile);
    }
    size_t columns = (size_t)s.columns;
    float *got = malloc(columns * sizeof *got), *want = malloc(columns * sizeof *want);
    uint8_t *seen = calloc((size_t)s.rows, 1);
    assert_true(got && want && seen);
    for (int32_t tile = 0; tile < s.n_tiles; tile++) {
        for (int i = 0; i < NB_CUDA_TILE; i++) {
            int32_t part, row = nb_cuda_row(source, tile, i, &part), at = row;
            nb_cuda_unpack(&s, source, data, nb_quant_values(source->parts[0]->quant.type),
                           nested_values, tile, i, got);
            memset(want, 0, columns * sizeof *want);
            if (row >= 0)
                expected_row(source->parts[part], row, s.kind, want);
            for (size_t k = 0; k < columns; k++) {
                if (got[k] != want[k])
                    fail_msg("%s: tile %d, row %d, column %zu: %g, expected %g", what, tile, i, k,
                             (double)got[k], (double)want[k]);
            }
            for (int32_t p = 0; row >= 0 && p < part; p++)
                at += source->parts[p]->rows;
            if (row >= 0 && seen[at]++)
                fail_msg("%s: row %d of part %d is there twice", what, row, part);
        }
    }
    for (int32_t r = 0; r < s.rows; r++)
        assert_true(seen[r]);
    free(data), free(got), free(want), free(seen);
}

static float dynamic[256];

static void natural(void **state) {
    (void)state;
    static const struct {
        int32_t rows, columns;
        size_t block;
        bool nested;
        enum nb_cuda_kind kind;
    } cases[] = {
        {16, 64, 64, true, NB_CUDA_NESTED},     {17, 4096, 64, true, NB_CUDA_NESTED},
        {70, 14336, 64, true, NB_CUDA_NESTED},  {33, 2112, 64, true, NB_CUDA_NESTED},
        {48, 768, 128, true, NB_CUDA_NESTED},   {40, 2048, 256, true, NB_CUDA_NESTED},
        {24, 8192, 4096, true, NB_CUDA_NESTED}, {300, 4096, 4096, true, NB_CUDA_NESTED},
        {31, 256, 4096, true, NB_CUDA_ABSMAX}, /* rows share a block */
        {31, 192, 128, true, NB_CUDA_ABSMAX},   {31, 96, 64, true, NB_CUDA_ABSMAX},
        {19, 128, 32, true, NB_CUDA_ABSMAX},    {19, 128, 32, false, NB_CUDA_ABSMAX},
        {16, 64, 64, false, NB_CUDA_ABSMAX},    {21, 3072, 1024, false, NB_CUDA_ABSMAX},
        {5, 32, 4096, false, NB_CUDA_ABSMAX},   {7, 100, 64, true, NB_CUDA_BF16},
        {16, 33, 32, false, NB_CUDA_BF16},      {1, 1, 64, true, NB_CUDA_BF16},
        {8, 2496, 64, true, NB_CUDA_NESTED}, /* 39 chunks: a unit ends in padding */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int type = NB_QUANT_NF4; type <= NB_QUANT_FP4; type++) {
            struct nb_matrix m = make_matrix(cases[i].rows, cases[i].columns, NB_WEIGHT_4BIT, type,
                                             cases[i].block, cases[i].nested ? dynamic : NULL);
            char what[64];
            snprintf(what, sizeof what, "[%d, %d], block %zu, type %d", cases[i].rows,
                     cases[i].columns, cases[i].block, type);
            struct nb_cuda_source source = {.parts = {&m}, .n_parts = 1};
            check_source(&source, cases[i].kind, dynamic, what);
            free_matrix(&m);
        }
    }
    for (int type = NB_WEIGHT_F32; type <= NB_WEIGHT_BF16; type++) {
        for (int32_t columns = 60; columns < 700; columns += 97) {
            struct nb_matrix m = make_matrix(20, columns, type, 0, 0, NULL);
            struct nb_cuda_source source = {.parts = {&m}, .n_parts = 1};
            check_source(&source, NB_CUDA_BF16, dynamic, nb_weight_type_name(type));
            free_matrix(&m);
        }
    }
}

static void gate_up(void **state) {
    (void)state;
    static const int32_t widths[] = {8, 16, 20, 24, 320, 7};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        struct nb_matrix m[2];
        for (int p = 0; p < 2; p++)
            m[p] = make_matrix(widths[i], 256, NB_WEIGHT_4BIT, NB_QUANT_NF4, 64, dynamic);
        struct nb_cuda_source source = {
            .parts = {&m[0], &m[1]}, .n_parts = 2, .order = NB_CUDA_GATE_UP};
        check_source(&source, NB_CUDA_NESTED, dynamic, "gate and up");
        free_matrix(&m[1]);
        m[1] = make_matrix(widths[i], 256, NB_WEIGHT_4BIT, NB_QUANT_NF4, 128, NULL);
        check_source(&source, NB_CUDA_ABSMAX, dynamic, "gate and up that differ");
        free_matrix(&m[1]);
        m[1] = make_matrix(widths[i], 256, NB_WEIGHT_4BIT, NB_QUANT_FP4, 64, dynamic);
        check_source(&source, NB_CUDA_BF16, dynamic, "gate in NF4, up in FP4");
        free_matrix(&m[1]);
        m[1] = make_matrix(widths[i], 256, NB_WEIGHT_F16, 0, 0, NULL);
        check_source(&source, NB_CUDA_BF16, dynamic, "gate in NF4, up in fp16");
        free_matrix(&m[0]), free_matrix(&m[1]);
    }
}

/* q, k and v below one another: heads of 16 rows and more in rotary order, others as they are. */
static void rotary(void **state) {
    (void)state;
    static const struct {
        int32_t head, heads, kv_heads, columns;
        enum nb_cuda_kind kind;
    } cases[] = {
        {128, 4, 2, 512, NB_CUDA_NESTED}, {64, 8, 4, 128, NB_CUDA_NESTED},
        {16, 16, 16, 64, NB_CUDA_NESTED}, {8, 32, 32, 128, NB_CUDA_NESTED},
        {24, 32, 32, 64, NB_CUDA_NESTED}, {64, 3, 1, 192, NB_CUDA_ABSMAX},
        {6, 3, 1, 64, NB_CUDA_ABSMAX},    {6, 3, 1, 50, NB_CUDA_BF16},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int32_t d = cases[i].head,
                rows[3] = {cases[i].heads * d, cases[i].kv_heads * d, cases[i].kv_heads * d};
        struct nb_matrix m[3];
        struct nb_cuda_source source = {.n_parts = 3};
        for (int p = 0; p < 3; p++) {
            m[p] =
                make_matrix(rows[p], cases[i].columns, NB_WEIGHT_4BIT, NB_QUANT_NF4, 64, dynamic);
            source.parts[p] = &m[p];
        }
        if (d % 16 == 0) {
            source.order = NB_CUDA_ROTARY;
            source.n_rotary = 2;
            source.head_rows = d;
            int32_t part;
            assert_int_equal(nb_cuda_row(&source, 0, 9, &part), d / 2 + 1);
            assert_int_equal(nb_cuda_row(&source, rows[0] / 16, 8, &part), d / 2);
            assert_int_equal(part, 1);
            assert_int_equal(nb_cuda_row(&source, (rows[0] + rows[1]) / 16, 9, &part), 9);
            assert_int_equal(part, 2);
        }
        check_source(&source, cases[i].kind, dynamic, "q, k and v");
        for (int p = 0; p < 3; p++)
            free_matrix(&m[p]);
    }
}

/* Another table of nested values, or nested blocks of another size, cannot be NESTED. */
static void other_tables(void **state) {
    (void)state;
    float other[256];
    memcpy(other, dynamic, sizeof other);
    other[3] += 0.01f;
    struct nb_matrix m = make_matrix(40, 128, NB_WEIGHT_4BIT, NB_QUANT_NF4, 64, other);
    struct nb_cuda_source source = {.parts = {&m}, .n_parts = 1};
    check_source(&source, NB_CUDA_ABSMAX, dynamic, "another table");
    check_source(&source, NB_CUDA_NESTED, other, "its own table");
    m.quant.nested_block = 128;
    float groups[2] = {0.5f, 0.75f};
    const float *own = m.quant.nested_absmax;
    m.quant.nested_absmax = groups;
    check_source(&source, NB_CUDA_ABSMAX, other, "nested blocks of 128");
    m.quant.nested_absmax = own;
    free_matrix(&m);
}

/* The figures that the map of a Mixtral hangs on. */
static void shapes(void **state) {
    (void)state;
    struct nb_cuda_shape s;
    assert_true(nb_cuda_shape(NB_CUDA_NESTED, 28672, 4096, 64, &s));
    assert_int_equal(s.unit_chunks, 32);
    assert_int_equal(s.n_units, 2);
    assert_int_equal(s.n_nested, 2);
    assert_int_equal(s.unit_bytes, 32 + 32 * 16 + 32 * 512);
    assert_true(nb_cuda_shape(NB_CUDA_NESTED, 4096, 14336, 64, &s));
    assert_int_equal(s.n_units, 7);
    assert_true(nb_cuda_shape(NB_CUDA_BF16, 32000, 4096, 0, &s));
    assert_int_equal(s.unit_chunks, 8);
    assert_false(nb_cuda_shape(NB_CUDA_NESTED, 16, 96, 64, &s));
    assert_false(nb_cuda_shape(NB_CUDA_NESTED, 16, 64, 32, &s));
    assert_false(nb_cuda_shape(NB_CUDA_ABSMAX, 16, 40, 64, &s));
    assert_false(nb_cuda_shape(NB_CUDA_BF16, 0, 64, 0, &s));
    assert_false(nb_cuda_shape(NB_CUDA_BF16, INT32_MAX, 64, 0, &s));
    assert_false(nb_cuda_shape(NB_CUDA_NESTED, 1 << 26, 4096, 64, &s));
}

int main(void) {
    for (int i = 0; i < 256; i++)
        dynamic[i] = (float)i / 128 - 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shapes), cmocka_unit_test(natural),      cmocka_unit_test(gate_up),
        cmocka_unit_test(rotary), cmocka_unit_test(other_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
