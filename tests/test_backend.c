/* The CPU backend's products in fixed point against sums in double: every length of a row, every
 * number of tokens, all shapes of blocks; codes end where memory does. And the kernels of attention
 * against the plain ones. */
#include "guarded.h"

#include "backend/cpu/kernels.h"

#include <math.h>

enum { MAX_COLUMNS = 1216, MAX_ROWS = 64, MAX_TOKENS = 40 };

static uint32_t next_random(void) {
    static uint32_t state = 1;
    state = state * 1664525 + 1013904223;
    return state >> 8;
}

static float next_float(void) {
    return (float)next_random() / (float)(1 << 23) - 1;
}

static void *aligned(size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(p);
    memset(p, 0x55, bytes);
    return p;
}

struct setup {
    struct guarded codes, absmax_codes;
    float dynamic[256], nested[64], absmax[MAX_COLUMNS * MAX_ROWS / 32];
    float x[MAX_TOKENS * MAX_COLUMNS], y[MAX_TOKENS * (MAX_ROWS + 1)];
    struct nb_fixed_scratch scratch;
    struct nb_fixed fixed;
};

static struct setup *setup_make(void) {
    struct setup *s = calloc(1, sizeof *s);
    assert_non_null(s);
    s->codes = guarded_make(MAX_COLUMNS * MAX_ROWS / 2);
    s->absmax_codes = guarded_make(MAX_COLUMNS * MAX_ROWS / 32);
    for (size_t i = 0; i < s->codes.bytes; i++)
        s->codes.map[i] = (uint8_t)next_random();
    for (size_t i = 0; i < s->absmax_codes.bytes; i++)
        s->absmax_codes.map[i] = (uint8_t)next_random();
    for (int i = 0; i < 256; i++)
        s->dynamic[i] = next_float();
    for (int i = 0; i < 64; i++)
        s->nested[i] = next_float() + 1.5f;
    for (size_t i = 0; i < sizeof s->absmax / sizeof *s->absmax; i++)
        s->absmax[i] = next_float() + 1.5f;
    for (size_t i = 0; i < sizeof s->x / sizeof *s->x; i++)
        s->x[i] = next_float() * (next_random() % 50 ? 1 : 30);
    s->fixed.q_stride = nb_fixed_columns(MAX_COLUMNS) + 32;
    s->fixed.scale_stride = nb_fixed_scales(MAX_COLUMNS);
    s->fixed.q = aligned(MAX_TOKENS * s->fixed.q_stride * 2);
    s->fixed.scale = aligned(MAX_TOKENS * s->fixed.scale_stride * 4);
    s->scratch.weights = aligned(NB_FIXED_ROWS * NB_FIXED_DEPTH * 2);
    s->scratch.absmax = aligned(NB_FIXED_ROWS * nb_fixed_scales(MAX_COLUMNS) * 4);
    s->scratch.sums = aligned(NB_FIXED_ROWS * 4 * (MAX_TOKENS + nb_fixed_scales(MAX_COLUMNS)));
    return s;
}

static void setup_free(struct setup *s) {
    guarded_free(&s->codes);
    guarded_free(&s->absmax_codes);
    free(s->fixed.q);
    free(s->fixed.scale);
    free(s->scratch.weights);
    free(s->scratch.absmax);
    free(s->scratch.sums);
    free(s);
}

static struct nb_matrix make_matrix(const struct setup *s, size_t rows, size_t columns,
                                    size_t block, enum nb_quant_type type, bool nested) {
    size_t n = rows * columns, blocks = (n + block - 1) / block;
    struct nb_matrix m = {.rows = (int32_t)rows,
                          .columns = (int32_t)columns,
                          .type = NB_WEIGHT_4BIT,
                          .quant = {.type = type,
                                    .n = n,
                                    .block = block,
                                    .values = nb_quant_values(type),
                                    .codes = s->codes.map + s->codes.bytes - n / 2}};
    if (nested) {
        m.quant.absmax_code = s->absmax_codes.map + s->absmax_codes.bytes - blocks;
        m.quant.nested_values = s->dynamic;
        m.quant.nested_absmax = s->nested;
        m.quant.nested_block = 256;
        m.quant.nested_offset = 1.5f;
    } else {
        m.quant.absmax = s->absmax;
    }
    return m;
}

/* Each weight is off by half of 1/8191 of its absmax, each activation by half of 1/16383 of the
 * largest of its 64 or 1/262000 of their sum; what sums in f32 add to that is little. */
static void check(struct setup *s, const struct nb_matrix *m, size_t tokens) {
    size_t n = (size_t)m->columns, rows = (size_t)m->rows;
    static float w[MAX_COLUMNS];
    for (size_t r = 0; r < rows; r++) {
        nb_dequantize_f32(&m->quant, r * n, n, w);
        for (size_t t = 0; t < tokens; t++) {
            const float *x = s->x + t * n;
            double sum = 0, bound = 0;
            for (size_t k = 0; k < n; k += 64) {
                double most = 0, all = 0,
                       absmax = fabsf(nb_quant_absmax(&m->quant, (r * n + k) / m->quant.block));
                for (size_t i = k; i < k + 64; i++) {
                    sum += (double)x[i] * w[i];
                    bound += fabsf(x[i]) * absmax * (0.51 / 8191);
                    most = fmax(most, fabsf(x[i]));
                    all += fabsf(x[i]);
                }
                bound += 64 * fmax(most / 16383, all / 262000) * absmax * 0.51;
            }
            double got = s->y[t * (rows + 1) + r];
            if (!(fabs(got - sum) <= bound))
                fail_msg("%zu columns, %zu tokens, block %zu: row %zu gives %g, expected %g +- %g",
                         n, tokens, m->quant.block, r, got, sum, bound);
        }
    }
}

/* A matrix laid out anew, alone or as the second of two whose strips take turns; the memory ends
 * where memory does. */
static struct guarded pack(const struct nb_matrix *m, bool turns, struct nb_fixed_packed *out) {
    const struct nb_matrix *both[] = {m, m};
    struct nb_fixed_packed packed[2];
    size_t n = turns ? 2 : 1, strips = (size_t)m->rows / NB_FIXED_ROWS;
    struct nb_layout layout = {0};
    nb_fixed_place(both, n, &layout, packed);
    struct guarded g = guarded_make(layout.used);
    layout = (struct nb_layout){.base = guarded_end(&g, layout.used)};
    nb_fixed_place(both, n, &layout, packed);
    *out = packed[n - 1];
    nb_fixed_pack(m, out, strips / 2, strips); /* in parts, as threads do */
    nb_fixed_pack(m, out, 0, strips / 2 ? strips / 2 : strips);
    return g;
}

/* s->y = products of the first tokens; `packed` may be NULL. */
static void multiply_as(struct setup *s, const struct nb_fixed_kernels *k,
                        const struct nb_matrix *m, const struct nb_fixed_packed *packed,
                        size_t tokens) {
    size_t n = (size_t)m->columns, rows = (size_t)m->rows;
    for (size_t t = 0; t < tokens; t++)
        k->to_fixed(s->x + t * n, n, s->fixed.q + t * s->fixed.q_stride,
                    s->fixed.scale + t * s->fixed.scale_stride);
    for (size_t i = 0; i < tokens * (rows + 1); i++)
        s->y[i] = 77;
    for (size_t r = 0; r < rows; r += NB_FIXED_ROWS) {
        const struct nb_fixed_job job = {
            .w = &m->quant,
            .packed = packed,
            .columns = n,
            .row = r,
            .rows = rows - r < NB_FIXED_ROWS ? rows - r : NB_FIXED_ROWS,
            .x = s->fixed,
            .tokens = tokens,
            .y = s->y,
            .y_stride = rows + 1,
            .scratch = &s->scratch,
        };
        k->products(&job);
    }
    for (size_t t = 0; t < tokens; t++)
        assert_true(s->y[t * (rows + 1) + rows] == 77);
}

static void multiply(struct setup *s, const struct nb_fixed_kernels *k, const struct nb_matrix *m,
                     size_t tokens) {
    multiply_as(s, k, m, NULL, tokens);
}

/* Both layouts; and that in the packed one the last token gives the same bits as alone. */
static void multiply_and_check(struct setup *s, const struct nb_fixed_kernels *k,
                               const struct nb_matrix *m, size_t tokens) {
    if (!k->packed_only) {
        multiply(s, k, m, tokens);
        check(s, m, tokens);
    }
    if (!nb_fixed_packs(m))
        return;
    struct nb_fixed_packed packed;
    struct guarded memory = pack(m, tokens % 2, &packed);
    multiply_as(s, k, m, &packed, tokens);
    check(s, m, tokens);
    size_t rows = (size_t)m->rows, n = (size_t)m->columns;
    float together[MAX_ROWS];
    memcpy(together, s->y + (tokens - 1) * (rows + 1), rows * sizeof *together);
    float first[MAX_COLUMNS];
    memcpy(first, s->x, n * sizeof *first);
    memmove(s->x, s->x + (tokens - 1) * n, n * sizeof *first);
    multiply_as(s, k, m, &packed, 1);
    memcpy(s->x, first, n * sizeof *first);
    assert_memory_equal(s->y, together, rows * sizeof *together);
    guarded_free(&memory);
}

/* Those of the version that a test's state names. */
static const struct nb_fixed_kernels *fixed_kernels(void **state) {
    const struct nb_kernels *k = nb_kernels_find(*state);
    if (!k || !k->fixed)
        skip();
    return k->fixed;
}

static void shapes(void **state) {
    const struct nb_fixed_kernels *k = fixed_kernels(state);
    struct setup *s = setup_make();
    static const size_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 24, 25, 40};
    for (size_t columns = 64; columns <= MAX_COLUMNS; columns += columns < 640 ? 64 : 192) {
        for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
            static const size_t some[] = {NB_FIXED_ROWS, 43, MAX_ROWS};
            size_t rows = some[(i + columns / 64) % 3];
            struct nb_matrix m =
                make_matrix(s, rows, columns, 64, i % 3 ? NB_QUANT_NF4 : NB_QUANT_FP4, i % 4 != 1);
            assert_true(nb_fixed_takes(&m));
            multiply_and_check(s, k, &m, tokens[i]);
        }
    }
    setup_free(s);
}

static void blocks(void **state) {
    const struct nb_fixed_kernels *k = fixed_kernels(state);
    struct setup *s = setup_make();
    for (size_t block = 64; block <= 512; block *= 2) {
        for (int i = 0; i < 4; i++) {
            struct nb_matrix m =
                make_matrix(s, block % 128 ? 37 : 64, 1152, block, NB_QUANT_NF4, i % 2);
            size_t tokens = i < 2 ? 2 : 9;
            multiply_and_check(s, k, &m, tokens);
            m = make_matrix(s, 64, 1024, block, NB_QUANT_FP4, i % 2);
            multiply_and_check(s, k, &m, tokens);
        }
    }
    setup_free(s);
}

/* The largest sums there can be: all weights and activations alike. */
static void no_overflow(void **state) {
    const struct nb_fixed_kernels *k = fixed_kernels(state);
    struct setup *s = setup_make();
    for (int code = 0; code < 16; code += 15) {
        memset(s->codes.map, code * 0x11, s->codes.bytes);
        for (int sign = -1; sign <= 1; sign += 2) {
            for (size_t i = 0; i < sizeof s->x / sizeof *s->x; i++)
                s->x[i] = (float)sign * 1e10f;
            struct nb_matrix m = make_matrix(s, 32, 256, 64, NB_QUANT_NF4, true);
            for (size_t tokens = 1; tokens <= 13; tokens++) {
                multiply_and_check(s, k, &m, tokens);
            }
        }
    }
    setup_free(s);
}

/* Zeros give zero, and what is no number is not hidden. */
static void extremes(void **state) {
    const struct nb_fixed_kernels *k = fixed_kernels(state);
    struct setup *s = setup_make();
    struct nb_matrix m = make_matrix(s, 32, 256, 64, NB_QUANT_NF4, true);
    struct nb_fixed_packed packed;
    struct guarded memory = pack(&m, false, &packed);
    memset(s->x, 0, sizeof s->x);
    s->x[256 + 70] = NAN;
    s->x[2 * 256 + 3] = INFINITY;
    s->x[3 * 256 + 100] = 1e-42f;
    s->x[4 * 256 + 5] = 3e38f;
    for (size_t i = k->packed_only ? 2 : 0; i < 4; i++) { /* 5 and 6 tokens, 7 and 8 packed */
        multiply_as(s, k, &m, i < 2 ? NULL : &packed, 5 + i);
        for (size_t r = 0; r < 32; r++) {
            assert_true(s->y[r] == 0);
            assert_true(!isfinite(s->y[33 + r]));
            assert_true(!isfinite(s->y[2 * 33 + r]));
            assert_true(s->y[3 * 33 + r] == 0);
        }
    }
    guarded_free(&memory);
    setup_free(s);
}

static void what_is_taken(void **state) {
    (void)state;
    float values[16] = {0, 1};
    struct nb_matrix m = {.rows = 2,
                          .columns = 128,
                          .type = NB_WEIGHT_4BIT,
                          .quant = {.n = 256, .block = 64, .values = values}};
    assert_true(nb_fixed_takes(&m));
    m.quant.nested_block = 256;
    assert_false(nb_fixed_packs(&m)); /* two rows are no strip */
    m.rows = 64;
    assert_true(nb_fixed_packs(&m));
    m.columns = 192;
    assert_false(nb_fixed_packs(&m));
    m.columns = 128;
    m.quant.nested_block = 100;
    assert_false(nb_fixed_packs(&m));
    m.rows = 2;
    m.quant.block = 32;
    assert_false(nb_fixed_takes(&m));
    m.quant.block = 256; /* crosses rows, at a multiple of 64: every piece has one absmax */
    assert_true(nb_fixed_takes(&m));
    m.quant.block = 64;
    m.columns = 96;
    assert_false(nb_fixed_takes(&m));
    m.columns = 128;
    values[3] = NAN;
    assert_false(nb_fixed_takes(&m));
    values[3] = values[1] = 0;
    assert_false(nb_fixed_takes(&m));
    values[1] = 1;
    m.type = NB_WEIGHT_BF16;
    assert_false(nb_fixed_takes(&m));
}

/* The other kernels against the plain ones: every length up to a few vectors. */
static void close_to_plain(const char *what, const struct nb_kernels *k, const float *got,
                           const float *want, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!(fabsf(got[i] - want[i]) <= 2e-6f * fmaxf(fabsf(want[i]), 1e-3f)))
            fail_msg("%s, %s of %zu: [%zu] is %.9g, plain %.9g", k->name, what, n, i,
                     (double)got[i], (double)want[i]);
    }
}

static void vector_versions(void **state) {
    (void)state;
    static const char *const names[] = {"avx2", "avx512"};
    enum { N = 70, ROWS = 16, HEADS = 7 };
    for (int v = 0; v < 2; v++) {
        const struct nb_kernels *k = nb_kernels_find(names[v]), *plain = &nb_kernels_plain;
        for (size_t n = 1; k && n <= N; n++) {
            float a[HEADS * N], b[HEADS * N], up[N], s[HEADS * ROWS], values[ROWS * N];
            for (size_t i = 0; i < n; i++)
                a[i] = b[i] = next_float() * 60, up[i] = next_float();
            k->softmax(a, n, 0.3f);
            plain->softmax(b, n, 0.3f);
            close_to_plain("softmax", k, a, b, n);
            for (size_t i = 0; i < n; i++)
                a[i] = b[i] = next_float() * (i % 3 ? 5 : 120);
            k->silu_times(a, up, n);
            plain->silu_times(b, up, n);
            close_to_plain("silu", k, a, b, n);
            for (size_t i = 0; i < HEADS * N; i++)
                a[i] = b[i] = 1;
            for (size_t i = 0; i < HEADS * ROWS; i++)
                s[i] = fabsf(next_float());
            for (size_t i = 0; i < ROWS * N; i++)
                values[i] = fabsf(next_float());
            for (int heads = 1; heads <= HEADS; heads++) {
                int rows = 1 + (int)(next_random() % ROWS);
                k->add_weighted(s, ROWS, heads, values, rows, n, a, N);
                plain->add_weighted(s, ROWS, heads, values, rows, n, b, N);
                close_to_plain("add_weighted", k, a, b, HEADS * N);
            }
        }
    }
}

#define WITH(test, version)                                                                        \
    { #test "_" version, test, NULL, NULL, (void *)version }

int main(void) {
    const struct CMUnitTest tests[] = {
        WITH(shapes, "avx512"),          WITH(shapes, "avx2"),
        WITH(blocks, "avx512"),          WITH(blocks, "avx2"),
        WITH(no_overflow, "avx512"),     WITH(no_overflow, "avx2"),
        WITH(extremes, "avx512"),        WITH(extremes, "avx2"),
        cmocka_unit_test(what_is_taken), cmocka_unit_test(vector_versions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
