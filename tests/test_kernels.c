/* Every vector version of the CPU's inner loops against the plain one: all lengths, all tile
 * shapes, addresses of all kinds. What they read ends where memory ends, what they write is
 * surrounded by values that must stay. */
#include "test.h"

#include "checkpoint.h"
#include "guarded.h"

#include "backend/cpu/kernels.h"
#include "base/float16.h"

#include <math.h>

enum { MAX_N = 300 };

/* Calls `check` with each version that this processor runs, the plain one included. */
static void for_each_version(void (*check)(const struct nb_kernels *)) {
    char names[256], *save = NULL;
    int n = 0;
    nb_kernels_names(names, sizeof names);
    for (char *name = strtok_r(names, ", ", &save); name; name = strtok_r(NULL, ", ", &save)) {
        const struct nb_kernels *k = nb_kernels_find(name);
        assert_non_null(k);
        assert_string_equal(k->name, name);
        check(k);
        n++;
    }
    assert_true(n > 0);
}

static void finding(void **state) {
    (void)state;
    const struct nb_kernels *best = nb_kernels_find(NULL);
    char names[256];
    assert_non_null(best);
    assert_ptr_equal(nb_kernels_find("plain"), &nb_kernels_plain);
    assert_null(nb_kernels_find("mmx"));
    assert_null(nb_kernels_find(""));
    nb_kernels_names(names, sizeof names);
    assert_memory_equal(names, "plain", 5);
    assert_non_null(strstr(names, best->name));
    nb_kernels_names(names, 4); /* cut, not overrun */
    assert_string_equal(names, "pla");
}

/* ---- products ---- */

/* |computed - exact| of a sum of n products, in f32, over L lanes that are then added up: no more
 * than (n / L + log2(L) + 1) roundings of 2^-24 happen to any term. Every version has 8 lanes or
 * more. Both results may be off by so much. */
static double tolerance(size_t n, double sum_of_magnitudes) {
    return 2 * ((double)n / 8 + 5) * 0x1p-24 * sum_of_magnitudes;
}

struct tile {
    const float *x, *w;
    size_t n, x_stride, w_stride, y_stride;
};

static void check_tile(const struct nb_kernels *k, const struct tile *t, int tokens, int rows,
                       const float *whole) {
    enum { Y = NB_TILE_TOKENS * (NB_TILE_ROWS + 3) };
    float y[Y], plain[Y];
    for (int i = 0; i < Y; i++)
        y[i] = plain[i] = 77;
    k->products(t->x, t->x_stride, tokens, t->w, t->w_stride, rows, t->n, y, t->y_stride);
    nb_kernels_plain.products(t->x, t->x_stride, tokens, t->w, t->w_stride, rows, t->n, plain,
                              t->y_stride);
    for (int i = 0; i < Y; i++) {
        size_t token = (size_t)i / t->y_stride, row = (size_t)i % t->y_stride;
        if (token >= (size_t)tokens || row >= (size_t)rows) {
            assert_true(y[i] == 77);
            continue;
        }
        double sum = 0;
        for (size_t j = 0; j < t->n; j++)
            sum += fabs((double)t->x[token * t->x_stride + j] * t->w[row * t->w_stride + j]);
        if (!(fabs((double)y[i] - plain[i]) <= tolerance(t->n, sum)))
            fail_msg("%s: %zu columns, %d tokens, %d rows: %g, plain %g", k->name, t->n, tokens,
                     rows, (double)y[i], (double)plain[i]);
        /* What a token gives must not depend on the tile. */
        if (whole && memcmp(&y[i], &whole[token * NB_TILE_ROWS + row], sizeof *y) != 0)
            fail_msg("%s: %zu columns: tile of %d tokens, %d rows gives %.9g, the whole tile %.9g",
                     k->name, t->n, tokens, rows, (double)y[i],
                     (double)whole[token * NB_TILE_ROWS + row]);
    }
}

static void check_products(const struct nb_kernels *k) {
    uint64_t random = 1;
    struct guarded x = guarded_make(NB_TILE_TOKENS * (MAX_N + 3) * sizeof(float)),
                   w = guarded_make(NB_TILE_ROWS * (MAX_N + 3) * sizeof(float));
    random_normals(&random, x.bytes / sizeof(float), (float *)(void *)x.map);
    random_normals(&random, w.bytes / sizeof(float), (float *)(void *)w.map);
    for (size_t n = 1; n <= MAX_N; n++) {
        /* Rows that follow each other at once have every alignment; the last ends with its page. */
        size_t gap = n % 3;
        struct tile t = {.n = n, .x_stride = n + gap, .w_stride = n + 2 - gap, .y_stride = 8 + gap};
        float whole[NB_TILE_TOKENS * NB_TILE_ROWS];
        t.x = guarded_end(&x, ((NB_TILE_TOKENS - 1) * t.x_stride + n) * sizeof(float));
        t.w = guarded_end(&w, ((NB_TILE_ROWS - 1) * t.w_stride + n) * sizeof(float));
        k->products(t.x, t.x_stride, NB_TILE_TOKENS, t.w, t.w_stride, NB_TILE_ROWS, n, whole,
                    NB_TILE_ROWS);
        for (int tokens = 1; tokens <= NB_TILE_TOKENS; tokens++) {
            for (int rows = 1; rows <= NB_TILE_ROWS; rows++)
                check_tile(k, &t, tokens, rows, whole);
        }
    }
    guarded_free(&x);
    guarded_free(&w);
}

/* The plain version itself: within half of the tolerance of the sum in double. */
static void plain_products(void **state) {
    (void)state;
    uint64_t random = 2;
    for (size_t n = 1; n <= MAX_N; n++) {
        float x[MAX_N], w[MAX_N], y;
        double exact = 0, sum = 0;
        random_normals(&random, n, x);
        random_normals(&random, n, w);
        for (size_t i = 0; i < n; i++) {
            exact += (double)x[i] * w[i];
            sum += fabs((double)x[i] * w[i]);
        }
        nb_kernels_plain.products(x, n, 1, w, n, 1, n, &y, 1);
        assert_true(fabs(y - exact) <= tolerance(n, sum) / 2);
    }
}

/* ---- the rest ---- */

/* y + a * x with one rounding or two: they differ by half a unit of the product and of the sum. */
static void check_add_scaled(const struct nb_kernels *k) {
    uint64_t random = 3;
    struct guarded x = guarded_make(MAX_N * sizeof(float)), y = guarded_make(MAX_N * sizeof(float));
    random_normals(&random, x.bytes / sizeof(float), (float *)(void *)x.map);
    for (size_t n = 0; n <= MAX_N; n++) {
        const float *from = guarded_end(&x, n * sizeof(float));
        float *to = guarded_end(&y, n * sizeof(float)), before[MAX_N], plain[MAX_N];
        float a = random_normal(&random);
        random_normals(&random, n, to);
        to[-1] = 77;
        memcpy(before, to, n * sizeof(float));
        memcpy(plain, to, n * sizeof(float));
        k->add_scaled(a, from, n, to);
        nb_kernels_plain.add_scaled(a, from, n, plain);
        for (size_t i = 0; i < n; i++) {
            double product = fabs((double)a * from[i]), sum = product + fabs((double)before[i]);
            assert_true(fabs((double)to[i] - plain[i]) <= 0x1p-24 * (product + 2 * sum));
        }
        assert_true(to[-1] == 77);
    }
    guarded_free(&x);
    guarded_free(&y);
}

/* All 65,536 values, bit for bit, NaN and all; and every length. */
static void check_widen(const struct nb_kernels *k) {
    enum { ALL = 65536 };
    struct guarded in = guarded_make(ALL * sizeof(uint16_t));
    float *out = malloc((ALL + 1) * sizeof *out);
    assert_non_null(out);
    uint16_t *all = guarded_end(&in, ALL * sizeof *all);
    for (size_t i = 0; i < ALL; i++)
        all[i] = (uint16_t)(i * 40503); /* each value once, in a mixed order */
    for (size_t n = 0; n <= ALL; n += n < MAX_N ? 1 : ALL - MAX_N) {
        const uint16_t *from = all + ALL - n;
        out[n] = 77;
        k->widen_bf16(from, n, out);
        for (size_t i = 0; i < n; i++) {
            uint32_t bits;
            memcpy(&bits, &out[i], 4);
            assert_int_equal(bits, (uint32_t)from[i] << 16);
        }
        assert_true(out[n] == 77);
    }
    free(out);
    guarded_free(&in);
}

/* A matrix of n weights, nested or not, whose codes end where memory ends. */
struct quantized {
    struct nb_quant_view view;
    struct guarded codes;
    uint8_t absmax_code[64];
    float absmax[64], nested_values[256], nested_absmax[64];
};

static void quantized_make(struct quantized *q, size_t n, size_t block, bool nested) {
    uint64_t random = n + block;
    q->codes = guarded_make(n / 2 + 1);
    uint8_t *codes = guarded_end(&q->codes, (n + 1) / 2);
    for (size_t i = 0; i < (n + 1) / 2; i++)
        codes[i] = (uint8_t)random_bits(&random);
    random_normals(&random, 64, q->absmax);
    random_normals(&random, 256, q->nested_values);
    random_normals(&random, 64, q->nested_absmax);
    for (size_t i = 0; i < 64; i++)
        q->absmax_code[i] = (uint8_t)random_bits(&random);
    assert_true(nb_quant_blocks(n, block) <= 64);
    q->view = (struct nb_quant_view){
        .type = NB_QUANT_NF4, .n = n, .block = block, .codes = codes, .values = nb_nf4_values};
    if (nested) {
        q->view.absmax_code = q->absmax_code;
        q->view.nested_values = q->nested_values;
        q->view.nested_absmax = q->nested_absmax;
        q->view.nested_block = 4;
        q->view.nested_offset = 0.3f;
    } else {
        q->view.absmax = q->absmax;
    }
}

/* Any part of a matrix, whether it begins with a block, a byte or neither, gives the very bits of
 * the reference. */
static void check_dequantize(const struct nb_kernels *k) {
    enum { N = 600 };
    static const size_t blocks[] = {32, 64, 128, 4096};
    for (size_t b = 0; b < 8; b++) {
        struct quantized q;
        float want[N], got[MAX_N + 1];
        quantized_make(&q, N, blocks[b / 2], b % 2);
        nb_dequantize_f32(&q.view, 0, N, want);
        for (size_t first = 0; first < N; first++) {
            size_t most = N - first < MAX_N ? N - first : MAX_N;
            /* Near the start all lengths; then such as end with the matrix, or with a run of 16. */
            for (size_t n = 0; n <= most; n += first < 40 || n + 16 > most ? 1 : 16) {
                got[n] = 77;
                k->dequantize(&q.view, first, n, got);
                if (memcmp(got, want + first, n * sizeof *got) != 0)
                    fail_msg("%s: blocks of %zu: weights %zu to %zu differ", k->name, blocks[b / 2],
                             first, first + n);
                assert_true(got[n] == 77);
            }
        }
        guarded_free(&q.codes);
    }
}

static void products(void **state) {
    (void)state;
    for_each_version(check_products);
}

static void add_scaled(void **state) {
    (void)state;
    for_each_version(check_add_scaled);
}

static void widen(void **state) {
    (void)state;
    for_each_version(check_widen);
}

static void dequantize(void **state) {
    (void)state;
    for_each_version(check_dequantize);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finding),  cmocka_unit_test(plain_products),
        cmocka_unit_test(products), cmocka_unit_test(add_scaled),
        cmocka_unit_test(widen),    cmocka_unit_test(dequantize),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
