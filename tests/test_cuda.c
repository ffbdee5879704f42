/* Loading on a GPU: what lies in its memory is, to the bit, what nb_cuda_repack makes on the host,
 * for every checkpoint there is, quantized on the way or not. And the CUDA backend beside the CPU's
 * on random steps. Skipped where there is no GPU. */
#include "test.h"

#include "backend/cuda/load.h"
#include "backend/cuda/repack.h"
#include "base/float16.h"
#include "checkpoint.h"
#include "engine/engine.h"
#include "model/synthetic.h"

#include <math.h>

static bool has_gpu(void) {
    int n = 0;
    if (cudaGetDeviceCount(&n) == cudaSuccess && n > 0)
        return true;
    cudaGetLastError();
    return false;
}

#define NEEDS_GPU()                                                                                \
    do {                                                                                           \
        (void)state;                                                                               \
        if (!has_gpu())                                                                            \
            skip();                                                                                \
    } while (0)

/* Less of everything, for an emulated GPU: with NB_TEST_SHORT. */
static bool is_short(void) {
    return getenv("NB_TEST_SHORT") != NULL;
}

/* The ways of doing a step, or those alone that NB_TEST_WAYS names. */
static const char *const all_ways[] = {"plain", "batch", "decode"};
static bool is_tested(const char *way) {
    const char *ways = getenv("NB_TEST_WAYS");
    return !ways || strstr(ways, way);
}

#define assert_cuda(call) assert_string_equal(cudaGetErrorName(call), "cudaSuccess")

/* ---- loading ---- */

struct loaded {
    struct nb_cuda_plan plan;
    struct nb_cuda_model m;
    struct nb_arena arena;
    void *memory, *embedding;
};

static void load_model(const struct nb_model *model, const struct nb_quantize_options *quantize,
                       bool embedding_on_host, struct loaded *out) {
    struct nb_error err;
    const struct nb_cuda_plan_options options = {
        .context = 64, .n_pages = 4, .max_batch_tokens = 64, .quantize = quantize};
    memset(out, 0, sizeof *out);
    assert_ok(nb_cuda_plan(&model->config, model, &options, &out->plan, &err), err);
    assert_ok(nb_cuda_describe(model, quantize, &out->arena, &out->m, &err), err);
    size_t weights = out->plan.experts + out->plan.attention + out->plan.head + out->plan.small +
                     out->plan.embedding,
           scratch = (size_t)(is_short() ? 64 : 256) << 20;
    assert_cuda(cudaMalloc(&out->memory, weights + scratch));
    assert_cuda(cudaMemset(out->memory, 0xA5, weights + scratch));
    void *mapped = NULL;
    if (embedding_on_host && out->plan.embedding) {
        assert_cuda(cudaHostAlloc(&out->embedding, out->plan.embedding, cudaHostAllocMapped));
        assert_cuda(cudaHostGetDevicePointer(&mapped, out->embedding, 0));
    }
    const struct nb_cuda_load load = {
        .model = model,
        .quantize = quantize,
        .plan = &out->plan,
        .threads = 4,
        .weights = out->memory,
        .embedding_host = out->embedding,
        .embedding_host_device = mapped,
        .scratch = (uint8_t *)out->memory + weights,
        .scratch_bytes = scratch,
    };
    assert_ok(nb_cuda_load(&load, &out->m, &err), err);
}

static void unload(struct loaded *l) {
    cudaFree(l->memory);
    cudaFreeHost(l->embedding);
    nb_arena_free(&l->arena);
}

/* Bytes on the device against those that the host makes. */
static void check_matrix(const struct nb_cuda_matrix *got, size_t index,
                         const struct nb_cuda_source *source, const char *what, int layer) {
    size_t n = got->shape.bytes;
    uint8_t *want = malloc(n), *have = malloc(n);
    assert_true(want && have);
    nb_cuda_repack(source, &got->shape, 0, got->shape.n_tiles, want);
    assert_cuda(cudaMemcpy(have, got->data + index * n, n, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < n; i++) {
        if (have[i] != want[i])
            fail_msg(
                "layer %d, %s %zu (kind %d): byte %zu of %zu (%zu of a unit) is %02x, expected "
                "%02x",
                layer, what, index, (int)got->shape.kind, i, n, i % got->shape.unit_bytes, have[i],
                want[i]);
    }
    free(want), free(have);
}

static void check_floats(const float *device, const float *want, size_t n, const char *what) {
    float *have = malloc(n * sizeof *have);
    assert_non_null(have);
    assert_cuda(cudaMemcpy(have, device, n * sizeof *have, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < n; i++) {
        if (have[i] != want[i])
            fail_msg("%s: value %zu is %g, expected %g", what, i, (double)have[i], (double)want[i]);
    }
    free(have);
}

static void check_vector(const float *device, const struct nb_vector *v) {
    float *want = malloc((size_t)v->n * sizeof *want);
    assert_non_null(want);
    for (int32_t i = 0; i < v->n; i++)
        want[i] = v->type == NB_WEIGHT_F32   ? ((const float *)v->data)[i]
                  : v->type == NB_WEIGHT_F16 ? nb_f16_to_f32(((const uint16_t *)v->data)[i])
                                             : nb_bf16_to_f32(((const uint16_t *)v->data)[i]);
    check_floats(device, want, (size_t)v->n, v->name);
    free(want);
}

/* Everything that was loaded, against `want`: the same model, quantized by the CPU if it was. */
static void check_loaded(const struct loaded *l, const struct nb_model *want) {
    const struct nb_config *c = &want->config;
    float nested_values[256];
    struct nb_error err;
    nb_cuda_nested_values(want, nested_values);
    for (int i = 0; i < c->n_layers; i++) {
        struct nb_arena arena = {0};
        struct nb_cuda_layer_sources s;
        const struct nb_cuda_layer *got = &l->m.host_layers[i];
        assert_ok(nb_cuda_layer_sources(c, &want->layers[i], NULL, nested_values, &arena, &s, &err),
                  err);
        assert_memory_equal(&s.qkv_shape, &got->qkv.shape, sizeof s.qkv_shape);
        assert_memory_equal(&s.gate_up_shape, &got->gate_up.shape, sizeof s.qkv_shape);
        check_matrix(&got->qkv, 0, &s.qkv, "qkv", i);
        check_matrix(&got->o, 0, &s.o, "o", i);
        for (int e = 0; e < c->n_experts; e++) {
            check_matrix(&got->gate_up, (size_t)e, &s.gate_up[e], "gate and up", i);
            check_matrix(&got->down, (size_t)e, &s.down[e], "down", i);
        }
        check_vector(got->attention_norm, &want->layers[i].attention_norm);
        check_vector(got->expert_norm, &want->layers[i].expert_norm);
        if (c->qk_norm)
            check_vector(got->k_norm, &want->layers[i].k_norm);
        const struct nb_matrix *router = &want->layers[i].router;
        size_t n = (size_t)router->rows * (size_t)router->columns;
        if (!c->dense && router->type == NB_WEIGHT_4BIT) {
            float *floats = malloc(n * sizeof *floats);
            assert_non_null(floats);
            nb_dequantize_f32(&router->quant, 0, n, floats);
            check_floats(got->router, floats, n, "router");
            free(floats);
        }
        nb_arena_free(&arena);
    }
    struct nb_cuda_source head = {.parts = {&want->head}, .n_parts = 1};
    check_matrix(&l->m.head, 0, &head, "head", -1);
    check_vector(l->m.norm, &want->norm);
    check_floats(l->m.nested_values, nested_values, 256, "nested values");
    if (c->tied) {
        assert_null(l->m.embedding);
    } else if (want->embedding.type == NB_WEIGHT_BF16) {
        size_t n = (size_t)c->n_vocab * (size_t)c->width * 2;
        uint8_t *have = malloc(n);
        assert_non_null(have);
        assert_cuda(cudaMemcpy(have, l->m.embedding, n, cudaMemcpyDefault));
        assert_memory_equal(have, want->embedding.data, n);
        free(have);
    }
}

static const char *const checkpoints[] = {
    "mixtral-tiny-bf16",
    "mixtral-tiny-nf4",
    "mixtral-tiny-nf4-sharded",
    "arch-tiny-mistral",
    "arch-tiny-llama",
    "arch-tiny-qwen3",
    "arch-tiny-qwen3_moe",
    "arch-tiny-qwen3_moe-one-nf4",
    "arch-tiny-small-fp16",
    "arch-tiny-small-fp32",
    "arch-tiny-mixtral-fused",
    "arch-tiny-small-fp4",
    "arch-tiny-small-nf4-plain-absmax",
    "arch-tiny-small-nf4-in-fp16",
    "arch-tiny-small-nf4-blocks-128",
    "arch-tiny-small-nf4-blocks-4096",
};

static void loads_what_the_host_makes(void **state) {
    NEEDS_GPU();
    for (size_t i = 0; i < sizeof checkpoints / sizeof *checkpoints; i++) {
        char folder[128];
        struct nb_error err;
        snprintf(folder, sizeof folder, "tests/golden/%s", checkpoints[i]);
        for (int how = 0; how < 3; how++) { /* as it is, in NF4, in FP4 */
            struct nb_model model, quantized;
            struct loaded l;
            struct nb_quantize_options options = nb_quantize_defaults;
            options.type = how == 2 ? NB_QUANT_FP4 : NB_QUANT_NF4;
            assert_ok(nb_model_open(test_path(folder), &model, &err), err);
            assert_ok(nb_model_open(test_path(folder), &quantized, &err), err);
            bool quantize = how > 0 && !nb_model_is_quantized(&model);
            if (quantize) {
                struct nb_pool *pool;
                assert_ok(nb_pool_create(2, &pool, &err), err);
                assert_ok(nb_model_quantize(&quantized, &options, pool, NULL, NULL, &err), err);
                nb_pool_free(pool);
            }
            load_model(&model, quantize ? &options : NULL, how == 1, &l);
            check_loaded(&l, &quantized);
            unload(&l);
            nb_model_close(&quantized);
            nb_model_close(&model);
        }
    }
}

/* A model whose matrices take several pieces, and whose units end in padding. */
static void loads_large_matrices(void **state) {
    NEEDS_GPU();
    static const char *const specs[] = {"tiny", "mixtral-8x7b:1"};
    for (size_t i = 0; i < 2; i++) {
        struct nb_pool *pool;
        struct nb_error err;
        struct nb_model model;
        struct loaded l;
        assert_ok(nb_pool_create(0, &pool, &err), err);
        assert_ok(nb_model_synthetic(specs[i], pool, &model, &err), err);
        if (i == 1) /* the other experts are alike, and the host is slow at this */
            model.config.n_experts = model.layers[0].router.rows = 1;
        load_model(&model, NULL, false, &l);
        check_loaded(&l, &model);
        unload(&l);
        nb_model_close(&model);
        nb_pool_free(pool);
    }
}

/* Quantizing on the GPU gives the host's bits for weights of every size, from subnormal to large,
 * NaN among them, in blocks of every size. */
static void quantizes_to_the_bit(void **state) {
    NEEDS_GPU();
    enum { N = 1 << 20 };
    uint64_t seed = 7;
    float *f32 = malloc(N * 4), *absmax = malloc(N / 64 * 4), *have_absmax = malloc(N / 64 * 4);
    uint16_t *f16 = malloc(N * 2), *bf16 = malloc(N * 2);
    uint8_t *codes = malloc(N / 2), *have = malloc(N / 2);
    assert_true(f32 && absmax && have_absmax && f16 && bf16 && codes && have);
    for (size_t i = 0; i < N; i++) {
        int power = (int)(i / 4096 % 250) - 140; /* of a run of blocks */
        f32[i] = ldexpf(random_normal(&seed), power);
        if (i % 100003 == 0)
            f32[i] = NAN;
        if (i / 4096 % 251 == 250)
            f32[i] = 0;
        bf16[i] = nb_f32_to_bf16(f32[i]);
        f16[i] = nb_f32_to_f16(random_normal(&seed));
    }
    void *x, *device_codes, *device_absmax;
    assert_cuda(cudaMalloc(&x, N * 4));
    assert_cuda(cudaMalloc(&device_codes, N / 2));
    assert_cuda(cudaMalloc(&device_absmax, N / 64 * 4));
    for (int type = 0; type < 3; type++) {
        const void *data = type == 0 ? (const void *)f32 : type == 1 ? (const void *)f16 : bf16;
        assert_cuda(cudaMemcpy(x, data, N * (type == 0 ? 4 : 2), cudaMemcpyHostToDevice));
        for (int fp4 = 0; fp4 < 2; fp4++) {
            for (size_t block = 64; block <= 4096; block *= 4) {
                struct nb_error err;
                enum nb_quant_type code = fp4 ? NB_QUANT_FP4 : NB_QUANT_NF4;
                if (type == 0)
                    assert_ok(nb_quantize_f32(code, block, f32, N, codes, absmax, &err), err);
                else if (type == 1)
                    assert_ok(nb_quantize_f16(code, block, f16, N, codes, absmax, &err), err);
                else
                    assert_ok(nb_quantize_bf16(code, block, bf16, N, codes, absmax, &err), err);
                assert_cuda(nb_cuda_quantize(fp4, (int64_t)block, x, type, N, device_codes,
                                             device_absmax, 0));
                assert_cuda(cudaMemcpy(have, device_codes, N / 2, cudaMemcpyDeviceToHost));
                assert_cuda(
                    cudaMemcpy(have_absmax, device_absmax, N / block * 4, cudaMemcpyDeviceToHost));
                assert_memory_equal(have_absmax, absmax, N / block * 4);
                for (size_t i = 0; i < N / 2; i++) {
                    if (have[i] != codes[i])
                        fail_msg("type %d, fp4 %d, block %zu: byte %zu is %02x, expected %02x "
                                 "(absmax %g)",
                                 type, fp4, block, i, have[i], codes[i],
                                 (double)absmax[2 * i / block]);
                }
            }
        }
    }
    cudaFree(x), cudaFree(device_codes), cudaFree(device_absmax);
    free(f32), free(f16), free(bf16), free(codes), free(have), free(absmax), free(have_absmax);
}

/* ---- steps ---- */

static struct nb_engine *open_synthetic(const char *spec, const char *backend, const char *ways,
                                        const char *kv_type, int32_t context, int32_t sequences) {
    struct nb_pool *pool;
    struct nb_error err;
    struct nb_model model;
    struct nb_engine *engine;
    const struct nb_options options = {.backend = backend,
                                       .cpu = ways,
                                       .kv_type = kv_type,
                                       .context = context,
                                       .sequences = sequences};
    assert_ok(nb_pool_create(0, &pool, &err), err);
    assert_ok(nb_model_synthetic(spec, pool, &model, &err), err);
    assert_ok(nb_engine_open_model(&model, spec, &options, &engine, &err), err);
    nb_pool_free(pool);
    return engine;
}

static double divergence_of(const float *p, const float *q, size_t n) {
    double mp = -INFINITY, mq = -INFINITY, sp = 0, sq = 0, kl = 0;
    for (size_t i = 0; i < n; i++) {
        mp = fmax(mp, p[i]);
        mq = fmax(mq, q[i]);
    }
    for (size_t i = 0; i < n; i++) {
        sp += exp(p[i] - mp);
        sq += exp(q[i] - mq);
    }
    for (size_t i = 0; i < n; i++)
        kl += exp(p[i] - mp) / sp * (p[i] - mp - log(sp) - (q[i] - mq - log(sq)));
    return kl;
}

/* Steps of 1 to 64 sequences, each with a token or a chunk of a prompt, from one random stream: the
 * logits of every step, one row a sequence, are kept in *out. */
enum { STEPS = 40, MOST = 64 };
static size_t random_steps(struct nb_engine *engine, uint64_t seed, float **out) {
    struct nb_error err;
    struct nb_sequence q[MOST];
    size_t vocab = (size_t)engine->model.config.n_vocab, rows = 0;
    *out = malloc(STEPS * MOST * vocab * sizeof **out);
    int32_t *ids = malloc(MOST * 64 * sizeof *ids);
    assert_true(*out && ids);
    for (int i = 0; i < MOST; i++)
        assert_ok(nb_sequence_open(engine, &q[i], &err), err);
    const size_t most = is_short() ? 6 : MOST, few = is_short() ? 4 : 9,
                 chunk = is_short() ? 12 : 40;
    for (int step = 0; step < (is_short() ? 4 : STEPS); step++) {
        struct nb_step_part parts[MOST];
        size_t n = 1 + random_bits(&seed) % (step % 4 == 0 ? most : few), used = 0, first;
        bool decode = step % 3 == 1; /* otherwise some are chunks */
        first = random_bits(&seed) % most;
        for (size_t i = 0; i < n; i++) {
            struct nb_sequence *s = &q[(first + i) % most];
            size_t count = decode || random_bits(&seed) % 2 ? 1 : 1 + random_bits(&seed) % chunk;
            for (size_t k = 0; k < count; k++)
                ids[used + k] = (int32_t)(random_bits(&seed) % vocab);
            parts[i] = (struct nb_step_part){s, ids + used, count, 1};
            used += count;
        }
        float *logits;
        assert_ok(nb_engine_step(engine, parts, n, &logits, &err), err);
        memcpy(*out + rows * vocab, logits, n * vocab * sizeof *logits);
        rows += n;
    }
    for (int i = 0; i < MOST; i++)
        nb_sequence_close(&q[i]);
    free(ids);
    return rows;
}

/* A few steps in every way: what a sanitizer is run on. */
static void few_steps(void **state) {
    NEEDS_GPU();
    for (int w = 0; w < 3; w++) {
        if (!is_tested(all_ways[w]))
            continue;
        struct nb_engine *gpu = open_synthetic("small", "cuda", all_ways[w], NULL, 256, 12);
        struct nb_error err;
        struct nb_sequence q[12];
        struct nb_step_part parts[12];
        int32_t ids[100];
        float *logits;
        for (int i = 0; i < 100; i++)
            ids[i] = i * 5 % 512;
        for (int i = 0; i < 12; i++) {
            assert_ok(nb_sequence_open(gpu, &q[i], &err), err);
            parts[i] = (struct nb_step_part){&q[i], ids + i, (size_t)(i % 3 ? 1 : 20 + i), 1};
        }
        static const size_t counts[] = {1, 12, 2, 9, 8};
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            assert_ok(nb_engine_step(gpu, parts, counts[i], &logits, &err), err);
            for (size_t k = 0; k < counts[i] * 512; k++)
                assert_true(isfinite(logits[k]));
            for (int k = 0; k < 12; k++)
                parts[k].n = 1;
        }
        for (int i = 0; i < 12; i++)
            nb_sequence_close(&q[i]);
        nb_engine_close(gpu);
    }
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void check_steps(const char *spec) {
    const uint64_t seed = is_short() ? 6 : 5; /* of few rows, one that chooses others weighs much */
    struct nb_engine *cpu = open_synthetic(spec, "cpu", "plain", NULL, 1024, MOST);
    size_t vocab = (size_t)cpu->model.config.n_vocab;
    float *want, *got, *again;
    size_t rows = random_steps(cpu, seed, &want);
    for (int w = 0; w < 6; w++) {
        const char *way = all_ways[w % 3], *kv = w < 3 ? "bf16" : "fp8";
        if (!is_tested(way) || (is_short() && w == 5)) /* with fp8, decode is batch */
            continue;
        struct nb_engine *gpu = open_synthetic(spec, "cuda", way, kv, 1024, MOST);
        assert_int_equal(random_steps(gpu, seed, &got), rows);
        assert_int_equal(random_steps(gpu, seed, &again), rows);
        assert_memory_equal(got, again, rows * vocab * sizeof *got); /* the same bits every time */
        double sum = 0, *kl = malloc(rows * sizeof *kl);
        assert_non_null(kl);
        for (size_t r = 0; r < rows; r++) {
            kl[r] = divergence_of(want + r * vocab, got + r * vocab, vocab);
            assert_false(isnan(kl[r]));
            sum += kl[r];
        }
        qsort(kl, rows, sizeof *kl, by_value);
        double median = kl[rows / 2], worst = kl[rows - 1];
        free(kl);
        printf("# %s, %s, %s: KL of %zu rows at most %.3g, on average %.3g, median %.3g\n", spec,
               way, kv, rows, worst, sum / (double)rows, median);
        /* Where two experts' logits are nearly equal, rounding decides which one is chosen, and
         * then a row differs by some 0.01 in a model this small: the median is what tells a fault
         * in the sums. fp8 keeps 4 bits of a key or value. */
        assert_true(median < (w == 0 ? 1e-5 : w < 3 ? 1e-4 : 1e-3));
        assert_true(sum / (double)rows < (w < 3 ? 1e-3 : 1e-2));
        assert_true(worst < (w < 3 ? 0.1 : 0.3));
        free(got), free(again);
        nb_engine_close(gpu);
    }
    free(want);
    nb_engine_close(cpu);
}

/* Many layers at their real width, tokens that choose experts evenly: decoding 1 to 8 tokens at a
 * time in each way gives the same logits, within the bound. */
static void decode_like_batch(void **state) {
    NEEDS_GPU();
    enum { DEEP = 40, COUNT = 8, TURNS = 6 };
    static const char *const ways[] = {"plain", "batch", "decode"};
    struct nb_error err;
    float *want = NULL;
    size_t vocab = 0;
    for (int w = 0; w < 3; w++) {
        uint64_t seed = 9;
        struct nb_engine *gpu = open_synthetic("mixtral-8x7b:6", "cuda", ways[w], NULL, 256, COUNT);
        struct nb_sequence q[COUNT];
        struct nb_step_part parts[COUNT];
        int32_t ids[COUNT * DEEP];
        float *logits;
        vocab = (size_t)gpu->model.config.n_vocab;
        double kl[TURNS * COUNT], worst = 0;
        size_t n_rows = 0;
        if (!want)
            want = malloc(TURNS * COUNT * vocab * sizeof *want);
        assert_non_null(want);
        for (int i = 0; i < COUNT; i++) {
            assert_ok(nb_sequence_open(gpu, &q[i], &err), err);
            for (int k = 0; k < DEEP; k++)
                ids[k] = (int32_t)(random_bits(&seed) % vocab);
            assert_ok(nb_sequence_append(&q[i], ids, DEEP, 1, &logits, &err), err);
        }
        for (int turn = 0; turn < TURNS; turn++) {
            size_t n = turn == 0 ? 1 : turn == 1 ? 4 : COUNT;
            for (size_t i = 0; i < n; i++) {
                ids[i] = (int32_t)(random_bits(&seed) % vocab);
                parts[i] = (struct nb_step_part){&q[i], ids + i, 1, 1};
            }
            assert_ok(nb_engine_step(gpu, parts, n, &logits, &err), err);
            float *rows = want + (size_t)turn * COUNT * vocab;
            for (size_t i = 0; i < n && w; i++) {
                double x = divergence_of(rows + i * vocab, logits + i * vocab, vocab);
                assert_false(isnan(x));
                kl[n_rows++] = x;
                worst = x > worst ? x : worst;
            }
            if (!w)
                memcpy(rows, logits, n * vocab * sizeof *logits);
        }
        if (w) {
            /* The median, for a row may choose another of two nearly equal experts, and what order
             * sums are in decides whether it does: on the CPU these steps, with norms disturbed by
             * 0.2 %, have rows 0.24, 0.17 and 0.14 off, where rows of other tokens are 2.4 apart.
             * Seen on an H200: medians of 1.8e-4. */
            qsort(kl, n_rows, sizeof *kl, by_value);
            printf("# %s against plain: KL of %zu rows at most %.3g, the eighth part more than "
                   "%.3g, median %.3g\n",
                   ways[w], n_rows, worst, kl[n_rows - 1 - n_rows / 8], kl[n_rows / 2]);
            assert_true(kl[n_rows / 2] < 1e-3);
            assert_true(kl[n_rows - 1 - n_rows / 8] < 0.2);
            assert_true(worst < 1);
        }
        for (int i = 0; i < COUNT; i++)
            nb_sequence_close(&q[i]);
        nb_engine_close(gpu);
    }
    free(want);
}

/* Heads of 64, and of 128, which the kernel for few tokens takes. */
static void steps_like_the_cpu(void **state) {
    NEEDS_GPU();
    check_steps(is_short() ? "tiny:1" : "tiny");
    check_steps(is_short() ? "small:1" : "small");
}

/* At the end of a long context, what one token at a time gives is what a large batch gives. */
static void long_contexts(void **state) {
    NEEDS_GPU();
    enum { N = 32768, LAST = 40 };
    struct nb_error err;
    uint64_t seed = 3;
    float *logits, *want = NULL;
    int32_t *ids = malloc(N * sizeof *ids);
    assert_non_null(ids);
    for (int w = 0; w < 3; w++) { /* in large chunks; then a few at a time; then one */
        struct nb_engine *gpu =
            open_synthetic("mixtral-8x7b:1", "cuda", w ? "decode" : "batch", NULL, N, 1);
        size_t vocab = (size_t)gpu->model.config.n_vocab;
        struct nb_sequence q;
        for (int i = 0; i < N && w == 0; i++)
            ids[i] = (int32_t)(random_bits(&seed) % vocab);
        assert_ok(nb_sequence_open(gpu, &q, &err), err);
        size_t at = w ? N - LAST : N;
        assert_ok(nb_sequence_append(&q, ids, at, 1, &logits, &err), err);
        for (size_t n; at < N; at += n) {
            n = w == 1 ? 1 + at % 7 : 1;
            n = n < N - at ? n : N - at;
            assert_ok(nb_sequence_append(&q, ids + at, n, 1, &logits, &err), err);
        }
        if (!want) {
            want = malloc(vocab * sizeof *want);
            assert_non_null(want);
            memcpy(want, logits, vocab * sizeof *want);
        }
        double kl = divergence_of(want, logits, vocab);
        printf("# context %d, way %d: KL %.3g\n", N, w, kl);
        assert_true(kl < 1e-3);
        nb_sequence_close(&q);
        nb_engine_close(gpu);
    }
    free(ids), free(want);
}

/* What does not fit is refused before anything is taken, and says what would. */
static void refuses_what_does_not_fit(void **state) {
    NEEDS_GPU();
    struct nb_pool *pool;
    struct nb_error err;
    struct nb_model model;
    struct nb_engine *engine;
    size_t before, after, all;
    assert_ok(nb_pool_create(0, &pool, &err), err);
    for (int i = 0; i < 2; i++) {
        assert_ok(nb_model_synthetic("tiny", pool, &model, &err), err);
        const struct nb_options options = {
            .backend = "cuda", .context = 1024, .memory_limit = i ? (uint64_t)100 << 20 : 1 << 20};
        cudaFree(NULL);
        assert_cuda(cudaMemGetInfo(&before, &all));
        enum nb_status s = nb_engine_open_model(&model, "tiny", &options, &engine, &err);
        if (i) {
            assert_ok(s, err);
            nb_engine_close(engine);
            continue;
        }
        assert_cuda(cudaMemGetInfo(&after, &all));
        expect_failure("a limit of 1 MiB", s, &err, NB_ERR_MEMORY, "GiB|keys and values|fit");
        assert_true(before - after < 64 << 20);
    }
    nb_pool_free(pool);
}

/* A GPU whose memory others have taken is an error that says what there is. */
static void refuses_when_memory_is_taken(void **state) {
    NEEDS_GPU();
    struct nb_pool *pool;
    struct nb_error err;
    struct nb_model model;
    struct nb_engine *engine;
    size_t before, all;
    void *taken;
    cudaFree(NULL);
    assert_cuda(cudaMemGetInfo(&before, &all));
    assert_cuda(cudaMalloc(&taken, before - ((size_t)700 << 20)));
    const struct nb_options options = {.backend = "cuda", .context = 64};
    assert_ok(nb_pool_create(0, &pool, &err), err);
    assert_ok(nb_model_synthetic("mixtral-8x7b:1", pool, &model, &err), err);
    expect_failure("memory that is taken",
                   nb_engine_open_model(&model, "mixtral", &options, &engine, &err), &err,
                   NB_ERR_MEMORY, "GiB are there|no context fits");
    assert_cuda(cudaFree(taken));
    nb_pool_free(pool);
}

/* After a kernel has failed, every call is an error, and closing works. Last, for the device is
 * gone for this process then. */
static void a_lost_device(void **state) {
    NEEDS_GPU();
    struct nb_engine *gpu = open_synthetic("tiny", "cuda", NULL, NULL, 256, 1);
    struct nb_error err;
    struct nb_sequence q;
    const int32_t ids[2] = {1, 2};
    assert_ok(nb_sequence_open(gpu, &q, &err), err);
    assert_ok(nb_sequence_append(&q, ids, 1, 1, NULL, &err), err);
    assert_cuda(nb_cuda_read((const void *)((uintptr_t)1 << 46), 1 << 20, NULL, 1, 0));
    assert_true(cudaDeviceSynchronize() != cudaSuccess);
    expect_failure("a step", nb_sequence_append(&q, ids, 1, 1, NULL, &err), &err, NB_ERR_IO,
                   "cuda: |illegal");
    expect_failure("the next", nb_sequence_append(&q, ids, 1, 1, NULL, &err), &err, NB_ERR_IO,
                   "failed before|illegal");
    assert_int_equal(q.n, 1);
    nb_sequence_close(&q);
    nb_engine_close(gpu);
}

/* test_cuda [NAME]: all tests, or one. */
int main(int argc, char **argv) {
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(few_steps),
        cmocka_unit_test(quantizes_to_the_bit),
        cmocka_unit_test(loads_what_the_host_makes),
        cmocka_unit_test(loads_large_matrices),
        cmocka_unit_test(decode_like_batch),
        cmocka_unit_test(steps_like_the_cpu),
        cmocka_unit_test(refuses_what_does_not_fit),
        cmocka_unit_test(long_contexts),
        cmocka_unit_test(refuses_when_memory_is_taken),
        cmocka_unit_test(a_lost_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
