/* Quantizing whole models: the vector codec against the reference, and what is quantized. */
#include "checkpoint.h"
#include "test.h"

#include "base/float16.h"
#include "model/convert.h"
#include "model/quantize.h"
#include "model/writer.h"
#include "quant/quantize_fast.h"
#include "quant/thresholds.h"

#include <dirent.h>
#include <math.h>

enum { MOST = 3 * 65536 + 77 };

/* ---- the vector codec ---- */

static enum nb_status reference(enum nb_quant_type type, size_t block, enum nb_quant_input input,
                                const void *x, size_t n, uint8_t *codes, float *absmax) {
    if (input == NB_QUANT_F32)
        return nb_quantize_f32(type, block, x, n, codes, absmax, NULL);
    if (input == NB_QUANT_F16)
        return nb_quantize_f16(type, block, x, n, codes, absmax, NULL);
    return nb_quantize_bf16(type, block, x, n, codes, absmax, NULL);
}

/* That x [n] gives the same bytes both ways, in both types and blocks of every size. */
static void compare(const char *what, enum nb_quant_input input, const void *x, size_t n) {
    size_t bytes = nb_quant_code_bytes(n), blocks = nb_quant_blocks(n, NB_QUANT_MIN_BLOCK);
    uint8_t *codes[2] = {malloc(bytes + 1), malloc(bytes + 1)};
    float *absmax[2] = {malloc((blocks + 1) * sizeof(float)), malloc((blocks + 1) * sizeof(float))};
    for (int type = 0; type < 2; type++) {
        for (size_t block = NB_QUANT_MIN_BLOCK; block <= NB_QUANT_MAX_BLOCK; block *= 2) {
            struct nb_error err;
            blocks = nb_quant_blocks(n, block);
            codes[0][bytes] = codes[1][bytes] = 0xA5;
            absmax[0][blocks] = absmax[1][blocks] = 1234;
            reference((enum nb_quant_type)type, block, input, x, n, codes[0], absmax[0]);
            assert_ok(nb_quantize_fast((enum nb_quant_type)type, block, input, x, n, codes[1],
                                       absmax[1], &err),
                      err);
            if (memcmp(codes[0], codes[1], bytes + 1) != 0 ||
                memcmp(absmax[0], absmax[1], (blocks + 1) * sizeof(float)) != 0)
                fail_msg("%s, input %d, type %d, block %zu, n %zu: %s differs from the reference",
                         what, (int)input, type, block, n, nb_quantize_version());
        }
    }
    for (int i = 0; i < 2; i++) {
        free(codes[i]);
        free(absmax[i]);
    }
}

static void *to_halves(const float *x, size_t n, enum nb_quant_input input) {
    uint16_t *out = malloc((n + 1) * sizeof *out);
    for (size_t i = 0; i < n; i++)
        out[i] = input == NB_QUANT_F16 ? nb_f32_to_f16(x[i]) : nb_f32_to_bf16(x[i]);
    return out;
}

static void compare_all(const char *what, const float *x, size_t n) {
    uint16_t *f16 = to_halves(x, n, NB_QUANT_F16), *bf16 = to_halves(x, n, NB_QUANT_BF16);
    compare(what, NB_QUANT_F32, x, n);
    compare(what, NB_QUANT_F16, f16, n);
    compare(what, NB_QUANT_BF16, bf16, n);
    free(f16);
    free(bf16);
}

static void normal_weights(void **state) {
    (void)state;
    float *x = malloc(MOST * sizeof *x);
    uint64_t seed = 1;
    random_normals(&seed, MOST, x);
    compare_all("normal", x, MOST);
    for (size_t n = 0; n <= 300; n++)
        compare_all("short", x + n, n);
    for (size_t i = 0; i < MOST; i++)
        x[i] *= ldexpf(1, (int)(i / 64 % 280) - 150);
    compare_all("of all sizes", x, MOST);
    free(x);
}

/* Any bits: NaN, infinities and what is below 2^-126 among them. */
static void random_patterns(void **state) {
    (void)state;
    float *x = malloc(MOST * sizeof *x);
    uint64_t seed = 2;
    for (size_t i = 0; i < MOST; i++) {
        uint32_t bits = (uint32_t)random_bits(&seed);
        if (i / 4096 % 3 == 1)
            bits &= 0x80FFFFFF; /* at most 2^-125 */
        if (i / 4096 % 3 == 2 && (bits & 0x7F800000) == 0x7F800000)
            bits = 0;
        memcpy(&x[i], &bits, sizeof bits);
    }
    compare("random bits", NB_QUANT_F32, x, MOST);
    compare("random bits", NB_QUANT_F16, x, 2 * MOST);
    compare("random bits", NB_QUANT_BF16, x, 2 * MOST);
    static const float special[] = {0.0f,      -0.0f,           NAN,        INFINITY,
                                    -INFINITY, 0x1p-126f,       -0x1p-126f, 0x1p-127f,
                                    0x1p-149f, 0x1.fffffep127f, 1.0f};
    for (size_t i = 0; i < MOST; i++)
        x[i] = special[random_bits(&seed) % (i / 64 % 11 + 1)];
    compare_all("special values", x, MOST);
    memset(x, 0, MOST * sizeof *x);
    compare_all("zeros", x, MOST);
    free(x);
}

/* Weights a few units in the last place around a threshold times the absmax of their block. */
static void near_thresholds(void **state) {
    (void)state;
    float *x = malloc(MOST * sizeof *x);
    uint64_t seed = 3;
    for (size_t i = 0; i < MOST; i++) {
        size_t in_block = i % 32, block = i / 32;
        float absmax = (1 + (float)(block % 8192) / 8192) * ldexpf(1, (int)(block % 97) - 48);
        float t = block & 1 ? nb_nf4_thresholds[in_block % 15] : nb_fp4_thresholds[in_block % 7];
        float v = t * absmax;
        int32_t bits;
        memcpy(&bits, &v, sizeof v);
        bits += (int32_t)(random_bits(&seed) % 7) - 3;
        memcpy(&v, &bits, sizeof v);
        x[i] = in_block == 0 ? absmax : block & 2 ? -v : v;
    }
    compare_all("near thresholds", x, MOST);
    free(x);
}

/* Every mantissa of a 16-bit weight beside every mantissa of its block's absmax. */
static void all_mantissas(void **state) {
    (void)state;
    for (int half = 0; half < 2; half++) {
        size_t mantissas = half ? 1024 : 128, n = mantissas * mantissas * 32 / 31 + 64;
        uint16_t *x = calloc(n, sizeof *x);
        uint16_t absmax = (uint16_t)(half ? 17 << 10 : 128 << 7);
        size_t at = 0;
        for (size_t a = 0; a < mantissas; a++) {
            for (size_t m = 0; m < mantissas; m++, at++) {
                if (at % 32 == 0)
                    x[at++] = (uint16_t)(absmax | a);
                x[at] = (uint16_t)((absmax - (half ? 1 << 10 : 1 << 7)) | m | (m & 1) << 15);
            }
            while (at % 32)
                x[at++] = 0;
            if (at + mantissas * 2 > n) {
                compare("mantissas", half ? NB_QUANT_F16 : NB_QUANT_BF16, x, at);
                at = 0;
            }
        }
        compare("mantissas", half ? NB_QUANT_F16 : NB_QUANT_BF16, x, at);
        free(x);
    }
}

static void bad_shapes(void **state) {
    (void)state;
    struct nb_error err;
    float x = 1, absmax;
    uint8_t codes;
    assert_int_equal(nb_quantize_fast(NB_QUANT_NF4, 48, NB_QUANT_F32, &x, 1, &codes, &absmax, &err),
                     NB_ERR_FORMAT);
    assert_int_equal(
        nb_quantize_fast((enum nb_quant_type)7, 64, NB_QUANT_F32, &x, 1, &codes, &absmax, &err),
        NB_ERR_FORMAT);
}

/* ---- what is quantized ---- */

/* As transformers' _replace_with_bnb_linear and llm_int8_skip_modules have it. */
static void skipped_modules(void **state) {
    (void)state;
    static const struct {
        const char *key, *module;
        bool skipped;
    } cases[] = {
        {"gate", "model.layers.0.mlp.gate", true},
        {"gate", "model.layers.0.mlp.gate_proj", false},
        {"q_proj", "model.layers.0.self_attn.q_proj", true},
        {"proj", "model.layers.0.self_attn.q_proj", false},
        {"self_attn", "model.layers.0.self_attn.q_proj", true},
        {"attn", "model.layers.0.self_attn.q_proj", true},
        {"attn.q", "model.layers.0.self_attn.q_proj", false},
        {"model.layers.1", "model.layers.1.self_attn.q_proj", true},
        {"model.layers.1", "model.layers.11.self_attn.q_proj", false},
        {"layers.1", "model.layers.1.self_attn.q_proj", true},
        {"model.layers.0.mlp.gate", "model.layers.0.mlp.gate", true},
        {"layers.0.mlp.gate", "model.layers.0.mlp.gate", false},
        {"w1", "model.layers.0.block_sparse_moe.experts.3.w1", true},
        {"experts.3", "model.layers.0.block_sparse_moe.experts.3.w1", true},
        {"experts.3", "model.layers.0.block_sparse_moe.experts.33.w1", false},
        {"", "model.layers.0.mlp.gate", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char name[128];
        snprintf(name, sizeof name, "%s.weight", cases[i].module);
        struct nb_weight weight = {.name = name, .linear = true};
        struct nb_quantize_options o = nb_quantize_defaults;
        assert_true(nb_weight_quantizes(&weight, &o));
        o.skip = &cases[i].key;
        o.n_skip = 1;
        if (nb_weight_quantizes(&weight, &o) == cases[i].skipped)
            fail_msg("--skip \"%s\": %s", cases[i].key, cases[i].module);
        weight.linear = false;
        assert_false(nb_weight_quantizes(&weight, &nb_quantize_defaults));
    }
}

/* Codes equal; absmax as close as 8 bits are, since bitsandbytes' CPU code, which wrote the golden
 * files, sums the mean and rounds nested codes in its own way. */
static void compare_matrices(const struct nb_matrix *got, const struct nb_matrix *want) {
    assert_int_equal(got->type, want->type);
    if (want->type != NB_WEIGHT_4BIT) {
        assert_memory_equal(got->data, want->data, nb_matrix_bytes(want));
        return;
    }
    const struct nb_quant_view *g = &got->quant, *w = &want->quant;
    assert_int_equal(g->type, w->type);
    assert_int_equal(g->block, w->block);
    assert_memory_equal(g->codes, w->codes, nb_quant_code_bytes(w->n));
    float scale = 0;
    for (size_t i = 0; i < nb_quant_nested_blocks(w->n, w->block, w->nested_block); i++)
        scale = fmaxf(scale, w->nested_absmax[i]);
    assert_memory_equal(g->nested_values, w->nested_values, 256 * sizeof(float));
    assert_true(fabsf(g->nested_offset - w->nested_offset) <= 1e-6f * w->nested_offset);
    for (size_t i = 0; i < nb_quant_blocks(w->n, w->block); i++)
        assert_true(fabsf(nb_quant_absmax(g, i) - nb_quant_absmax(w, i)) <= 0.02f * scale);
}

/* The bf16 checkpoint, quantized while loading, is the one that transformers quantized. */
static void loading(void **state) {
    (void)state;
    struct nb_error err;
    struct nb_model got, want;
    struct nb_pool *pool;
    assert_ok(nb_model_open(test_path("tests/golden/mixtral-tiny-bf16"), &got, &err), err);
    assert_ok(nb_model_open(test_path("tests/golden/mixtral-tiny-nf4"), &want, &err), err);
    assert_ok(nb_pool_create(2, &pool, &err), err);
    assert_false(nb_model_is_quantized(&got));
    assert_true(nb_model_is_quantized(&want));
    assert_ok(nb_model_quantize(&got, &nb_quantize_defaults, pool, NULL, NULL, &err), err);
    assert_true(nb_model_is_quantized(&got));
    struct nb_arena arena = {0};
    struct nb_weight *a, *b;
    size_t n, m;
    assert_ok(nb_model_weights(&got, &arena, &a, &n, &err), err);
    assert_ok(nb_model_weights(&want, &arena, &b, &m, &err), err);
    assert_int_equal(n, m);
    for (size_t i = 0; i < n; i++) {
        assert_string_equal(a[i].name, b[i].name);
        if (a[i].matrix)
            compare_matrices(a[i].matrix, b[i].matrix);
    }
    assert_int_equal(nb_model_size(&got).parameters, nb_model_size(&want).parameters);
    assert_int_equal(nb_model_size(&got).step_bytes, nb_model_size(&want).step_bytes);
    nb_arena_free(&arena);
    nb_pool_free(pool);
    nb_model_close(&got);
    nb_model_close(&want);
}

static void infinite_weights(void **state) {
    (void)state;
    float x[128] = {1, -INFINITY, 2};
    uint8_t codes[64], absmax_code[2];
    float absmax[2], nested_absmax[1];
    struct nb_quantized out = {codes, absmax, absmax_code, nested_absmax, 0};
    struct nb_matrix m = {
        .name = "odd.weight", .rows = 2, .columns = 64, .type = NB_WEIGHT_F32, .data = x};
    struct nb_weight weight = {.name = m.name, .matrix = &m, .linear = true};
    struct nb_error err;
    struct nb_pool *pool;
    assert_ok(nb_pool_create(1, &pool, &err), err);
    struct nb_quantize_options o = nb_quantize_defaults;
    expect_failure("infinite", nb_weight_quantize(&weight, &o, pool, &out, &err), &err,
                   NB_ERR_FORMAT, "odd.weight|infinite");
    o.nested = false; /* then only the weights that share its absmax are lost */
    assert_ok(nb_weight_quantize(&weight, &o, pool, &out, &err), err);
    assert_true(isinf(absmax[0]) && absmax[1] == 0);
    x[1] = NAN; /* does not count */
    o.nested = true;
    assert_ok(nb_weight_quantize(&weight, &o, pool, &out, &err), err);
    assert_true(absmax[0] == 2);
    m.type = NB_WEIGHT_4BIT;
    expect_failure("4 bits", nb_weight_quantize(&weight, &o, pool, &out, &err), &err,
                   NB_ERR_UNSUPPORTED, "odd.weight|already");
    nb_pool_free(pool);
}

/* ---- on disk ---- */

static size_t entries(const char *path) {
    DIR *dir = opendir(path);
    size_t n = 0;
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(dir);
    return n;
}

/* Removes the folder `name` in `folder`. */
static void remove_within(const struct folder *folder, const char *name) {
    struct folder inner;
    snprintf(inner.path, sizeof inner.path, "%s", folder_path(folder, name));
    folder_remove(&inner);
}

/* In files of any length the tensors are the same, and each file keeps to it. */
static void several_files(void **state) {
    (void)state;
    struct nb_error err;
    struct nb_pool *pool;
    struct folder folder;
    struct nb_converted done;
    const char *source = test_path("tests/golden/mixtral-tiny-bf16");
    folder_make(&folder);
    assert_ok(nb_pool_create(2, &pool, &err), err);
    struct nb_convert_options o = {.how = nb_quantize_defaults};
    const char *one = folder_path(&folder, "one");
    assert_ok(nb_checkpoint_quantize(source, one, &o, pool, &done, &err), err);
    assert_int_equal(done.files, 1);
    struct nb_tensors want;
    assert_ok(nb_tensors_open(one, &want, &err), err);
    assert_int_equal(done.written_bytes, want.bytes);
    static const size_t most[] = {1, 5000, 41000, 150000};
    for (size_t i = 0; i < sizeof most / sizeof *most; i++) {
        const char *several = folder_path(&folder, "several");
        struct nb_tensors got;
        o.max_file_bytes = most[i];
        assert_ok(nb_checkpoint_quantize(source, several, &o, pool, &done, &err), err);
        assert_true(done.files > 1);
        assert_ok(nb_tensors_open(several, &got, &err), err);
        assert_int_equal(got.n_files, done.files);
        assert_int_equal(got.n, want.n);
        for (size_t t = 0; t < got.n; t++) {
            assert_string_equal(got.tensors[t].name, want.tensors[t].name);
            assert_int_equal(got.tensors[t].bytes, want.tensors[t].bytes);
            assert_memory_equal(got.tensors[t].data, want.tensors[t].data, got.tensors[t].bytes);
            assert_int_equal((uintptr_t)got.tensors[t].data % nb_dtype_bytes(got.tensors[t].dtype),
                             0);
        }
        nb_tensors_close(&got);
        remove_within(&folder, "several");
    }
    nb_tensors_close(&want);
    remove_within(&folder, "one");
    nb_pool_free(pool);
    folder_remove(&folder);
}

static bool stop_at(void *context, uint64_t done, uint64_t total) {
    (void)done, (void)total;
    return --*(int *)context > 0;
}

/* Whenever it is told to stop, nothing is left. */
static void stopping(void **state) {
    (void)state;
    struct nb_error err;
    struct nb_pool *pool;
    struct folder folder;
    folder_make(&folder);
    assert_ok(nb_pool_create(1, &pool, &err), err);
    enum nb_status s = NB_ERR_STOPPED;
    for (int at = 1; s != NB_OK; at++) {
        int left = at;
        struct nb_converted done;
        struct nb_convert_options o = {
            .how = nb_quantize_defaults, .progress = stop_at, .progress_context = &left};
        s = nb_checkpoint_quantize(test_path("tests/golden/mixtral-tiny-bf16"),
                                   folder_path(&folder, "q"), &o, pool, &done, &err);
        if (s != NB_OK)
            expect_failure("stop", s, &err, NB_ERR_STOPPED, "stopped");
        assert_int_equal(entries(folder.path), s == NB_OK);
        assert_true(at < 1000);
    }
    remove_within(&folder, "q");
    nb_pool_free(pool);
    folder_remove(&folder);
}

/* As repr() has them. */
static void numbers_of_python(void **state) {
    (void)state;
    static const struct {
        double x;
        const char *text;
    } cases[] = {
        {0, "0.0"},
        {-0.0, "-0.0"},
        {1, "1.0"},
        {-2, "-2.0"},
        {10, "10.0"},
        {1e4, "10000.0"},
        {1000000, "1000000.0"},
        {0.1, "0.1"},
        {1e-4, "0.0001"},
        {1e-5, "1e-05"},
        {1.5e-7, "1.5e-07"},
        {-2.5e-300, "-2.5e-300"},
        {123456.789, "123456.789"},
        {1e15, "1000000000000000.0"},
        {1e16, "1e+16"},
        {1.25e22, "1.25e+22"},
        {0.48565673828125, "0.48565673828125"},
        {0.03333333507180214, "0.03333333507180214"},
        {1.7976931348623157e308, "1.7976931348623157e+308"},
        {5e-324, "5e-324"},
        {INFINITY, "Infinity"},
        {-INFINITY, "-Infinity"},
        {NAN, "NaN"},
        {9007199254740993.0, "9007199254740992.0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[32];
        nb_python_number(cases[i].x, text);
        assert_string_equal(text, cases[i].text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(normal_weights),    cmocka_unit_test(random_patterns),
        cmocka_unit_test(near_thresholds),   cmocka_unit_test(all_mantissas),
        cmocka_unit_test(bad_shapes),        cmocka_unit_test(skipped_modules),
        cmocka_unit_test(loading),           cmocka_unit_test(infinite_weights),
        cmocka_unit_test(several_files),     cmocka_unit_test(stopping),
        cmocka_unit_test(numbers_of_python),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
