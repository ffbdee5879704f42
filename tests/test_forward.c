/* The forward pass against transformers 4.57 with bitsandbytes: tests/golden/mixtral-tiny-*, whose
 * tensors tools/golden/README.md describes. Every vector version the processor has, and batches of
 * all kinds. */
#include "golden.h"

#include "base/pool.h"
#include "model/synthetic.h"

static const char *const checkpoints[] = {
    "tests/golden/mixtral-tiny-bf16",
    "tests/golden/mixtral-tiny-nf4",
    "tests/golden/mixtral-tiny-nf4-sharded",
};
enum { N_CHECKPOINTS = 3, N_PROMPTS = 4, V = 320 };

static void logits_of_transformers(void **state) {
    (void)state;
    const char *cpus[MAX_VERSIONS];
    int n_cpus = versions(cpus);
    for (int c = 0; c < N_CHECKPOINTS; c++) {
        struct golden g;
        golden_open(&g, checkpoints[c]);
        for (int v = 0; v < n_cpus; v++) {
            struct nb_engine *engine = open_engine(checkpoints[c], cpus[v], 1);
            for (int p = 0; p < N_PROMPTS; p++) {
                compare_logits(engine, &g, p, checkpoints[c], cpus[v]);
            }
            check_divergence(checkpoints[c], cpus[v]);
            nb_engine_close(engine);
        }
        nb_tensors_close(&g.tensors);
    }
}

static void greedy_continuations(void **state) {
    (void)state;
    const char *cpus[MAX_VERSIONS];
    int n_cpus = versions(cpus);
    for (int c = 0; c < N_CHECKPOINTS; c++) {
        struct golden g;
        golden_open(&g, checkpoints[c]);
        for (int v = 0; v < n_cpus; v++) {
            struct nb_engine *engine = open_engine(checkpoints[c], cpus[v], 1);
            for (int p = 0; p < N_PROMPTS; p++)
                compare_greedy(engine, &g, p, cpus[v]);
            nb_engine_close(engine);
        }
        nb_tensors_close(&g.tensors);
    }
}

/* Logits [n, V] in a batch against those alone: the same bits, or in fixed point, where few tokens
 * and many are multiplied differently, the same distribution and, where it is clear, choice. */
static void same_logits(const char *cpu, const float *got, const float *alone, size_t n) {
    if (bounds_of(cpu).exact) {
        assert_memory_equal(got, alone, n * V * sizeof *got);
        return;
    }
    for (size_t i = 0; i < n; i++, got += V, alone += V) {
        int best = 0, second = 1, chosen = 0;
        for (int j = 0; j < V; j++) {
            if (alone[j] > alone[best])
                second = best, best = j;
            else if (j != best && alone[j] > alone[second])
                second = j;
            chosen = got[j] > got[chosen] ? j : chosen;
        }
        assert_true(divergence(alone, got, V) < 1e-4);
        assert_true(chosen == best || alone[best] - alone[second] < bounds_of(cpu).most);
    }
}

/* A prompt cut into chunks of every size, alone or beside others. */
static void batches_change_nothing(void **state) {
    (void)state;
    struct golden g;
    golden_open(&g, checkpoints[1]);
    const char *cpus[MAX_VERSIONS];
    int n_cpus = versions(cpus);
    for (int v = 0; v < n_cpus; v++) {
        struct nb_engine *engine = open_engine(checkpoints[1], cpus[v], 4);
        struct nb_error err;
        const int32_t *ids[N_PROMPTS];
        size_t n[N_PROMPTS];
        float *alone[N_PROMPTS];
        for (int p = 0; p < N_PROMPTS; p++) {
            ids[p] = golden(&g, p, "ids", &n[p]);
            alone[p] = all_logits(engine, ids[p], n[p]);
        }
        static const size_t chunks[] = {1, 2, 3, 5, 16, 17, 64, 129};
        for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
            struct nb_sequence sequences[N_PROMPTS];
            for (int p = 0; p < N_PROMPTS; p++)
                assert_ok(nb_sequence_open(engine, &sequences[p], &err), err);
            size_t at = 0;
            for (bool more = true; more; at += chunks[i]) {
                struct nb_step_part parts[N_PROMPTS];
                size_t n_parts = 0, first[N_PROMPTS];
                int prompt[N_PROMPTS];
                for (int p = 0; p < N_PROMPTS; p++) {
                    if (at >= n[p])
                        continue;
                    size_t count = n[p] - at < chunks[i] ? n[p] - at : chunks[i];
                    prompt[n_parts] = p;
                    first[n_parts] = at;
                    parts[n_parts++] =
                        (struct nb_step_part){&sequences[p], ids[p] + at, count, count};
                }
                more = n_parts > 0;
                if (!more)
                    break;
                float *logits;
                assert_ok(nb_engine_step(engine, parts, n_parts, &logits, &err), err);
                for (size_t j = 0; j < n_parts; j++) {
                    same_logits(cpus[v], logits, alone[prompt[j]] + first[j] * V, parts[j].n);
                    logits += parts[j].n * V;
                }
            }
            for (int p = 0; p < N_PROMPTS; p++)
                nb_sequence_close(&sequences[p]);
            assert_int_equal(engine->pages.n_free, engine->pages.n_pages);
        }
        for (int p = 0; p < N_PROMPTS; p++)
            free(alone[p]);
        nb_engine_close(engine);
    }
    nb_tensors_close(&g.tensors);
}

/* Going back and on gives what going straight gives, bit by bit in the plain version, and pages
 * come back. */
static void truncation(void **state) {
    (void)state;
    struct golden g;
    golden_open(&g, checkpoints[1]);
    struct nb_engine *engine = open_engine(checkpoints[1], "plain", 1);
    struct nb_error err;
    size_t n;
    const int32_t *ids = golden(&g, 3, "ids", &n);
    float *straight = all_logits(engine, ids, n);
    struct nb_sequence q;
    float *logits;
    assert_ok(nb_sequence_open(engine, &q, &err), err);
    assert_ok(nb_sequence_append(&q, ids, 40, 0, NULL, &err), err);
    static const int32_t other[] = {5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21};
    assert_ok(nb_sequence_append(&q, other, 17, 1, &logits, &err), err);
    assert_int_equal(q.n, 57);
    assert_int_equal(q.n_pages, 4);
    nb_sequence_truncate(&q, 33);
    assert_int_equal(q.n_pages, 3);
    nb_sequence_truncate(&q, 100);
    assert_int_equal(q.n, 33);
    assert_ok(nb_sequence_append(&q, ids + 33, n - 33, n - 33, &logits, &err), err);
    assert_memory_equal(logits, straight + 33 * V, (n - 33) * V * sizeof(float));
    nb_sequence_close(&q);
    free(straight);
    nb_engine_close(engine);
    nb_tensors_close(&g.tensors);
}

/* A sequence that begins as one before it did shares its pages, gets the same logits, and what it
 * writes after going back is its own. */
static void shared_prefix(void **state) {
    (void)state;
    struct golden g;
    golden_open(&g, checkpoints[1]);
    struct nb_engine *engine = open_engine(checkpoints[1], "plain", 2);
    struct nb_error err;
    size_t n;
    const int32_t *ids = golden(&g, 3, "ids", &n);
    assert_true(n > 48);
    float *straight = all_logits(engine, ids, n), *logits;
    struct nb_sequence a, b;
    assert_ok(nb_sequence_open(engine, &a, &err), err);
    assert_ok(nb_sequence_open(engine, &b, &err), err);
    assert_int_equal(nb_sequence_reuse(&a, ids, n), 0);
    assert_ok(nb_sequence_append(&a, ids, 48, 0, NULL, &err), err);
    nb_sequence_publish(&a, ids);
    assert_int_equal(nb_sequence_reuse(&b, ids, 48), 32); /* the last token is left to append */
    nb_sequence_truncate(&b, 0);
    assert_int_equal(nb_sequence_reuse(&b, ids, n), 48);
    assert_int_equal(engine->pages.n_pages - nb_pages_available(&engine->pages), 3);
    assert_ok(nb_sequence_append(&b, ids + 48, n - 48, n - 48, &logits, &err), err);
    assert_memory_equal(logits, straight + 48 * V, (n - 48) * V * sizeof(float));

    nb_sequence_truncate(&b, 20); /* within the second shared page */
    static const int32_t other[] = {5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21};
    assert_ok(nb_sequence_append(&b, other, 17, 1, &logits, &err), err);
    assert_int_equal(b.n_known, 1);
    assert_ok(nb_sequence_append(&a, ids + 48, n - 48, n - 48, &logits, &err), err);
    assert_memory_equal(logits, straight + 48 * V, (n - 48) * V * sizeof(float));
    nb_sequence_close(&a);
    nb_sequence_close(&b);
    assert_int_equal(nb_pages_available(&engine->pages), engine->pages.n_pages);
    assert_int_equal(engine->pages.n_unused, 3);
    free(straight);
    nb_engine_close(engine);
    nb_tensors_close(&g.tensors);
}

/* A model that is large enough for every layout: each gives the distributions of plain C. */
static void layouts(void **state) {
    (void)state;
    enum { TOKENS = 21, VOCABULARY = 512 };
    struct nb_error err;
    struct nb_pool *pool;
    int32_t ids[TOKENS];
    for (int i = 0; i < TOKENS; i++)
        ids[i] = (i * 37 + 11) % VOCABULARY;
    float *plain = NULL;
    static const char *const how[][2] = {{"plain", NULL},
                                         {"avx2", "mapped"},
                                         {"avx2", "packed"},
                                         {"avx512", "mapped"},
                                         {"avx512", "packed"}};
    for (size_t i = 0; i < sizeof how / sizeof *how; i++) {
        if (!nb_kernels_find(how[i][0]))
            continue;
        struct nb_model model;
        struct nb_engine *engine;
        struct nb_options options = {
            .threads = 2, .backend = "cpu", .cpu = how[i][0], .weights = how[i][1]};
        assert_ok(nb_pool_create(2, &pool, &err), err);
        assert_ok(nb_model_synthetic("tiny", pool, &model, &err), err);
        nb_pool_free(pool);
        assert_ok(nb_engine_open_model(&model, "tiny", &options, &engine, &err), err);
        float *got = all_logits(engine, ids, TOKENS);
        for (size_t t = 0; plain && t < TOKENS; t++)
            assert_true(divergence(plain + t * VOCABULARY, got + t * VOCABULARY, VOCABULARY) <
                        1e-6);
        if (!plain)
            plain = got;
        else
            free(got);
        nb_engine_close(engine);
    }
    free(plain);
}

/* What cannot be done is an error, and leaves the sequence as it was. */
static void refusals(void **state) {
    (void)state;
    struct nb_error err;
    struct nb_engine *engine;
    struct nb_options options = {.context = 20};
    assert_ok(nb_engine_open(test_path(checkpoints[1]), &options, &engine, &err), err);
    struct nb_sequence q;
    float *logits;
    int32_t ids[32] = {0};
    assert_ok(nb_sequence_open(engine, &q, &err), err);
    assert_int_equal(nb_sequence_append(&q, ids, 21, 1, &logits, &err), NB_ERR_LIMIT);
    assert_null(logits);
    assert_ok(nb_sequence_append(&q, ids, 20, 1, &logits, &err), err);
    assert_int_equal(nb_sequence_append(&q, ids, 1, 1, &logits, &err), NB_ERR_LIMIT);
    assert_int_equal(q.n, 20);
    nb_sequence_truncate(&q, 5);
    ids[2] = V;
    assert_int_equal(nb_sequence_append(&q, ids, 3, 1, &logits, &err), NB_ERR_ARGUMENT);
    ids[2] = -1;
    assert_int_equal(nb_sequence_append(&q, ids, 3, 1, &logits, &err), NB_ERR_ARGUMENT);
    assert_int_equal(q.n, 5);
    assert_int_equal(q.n_pages, 1);
    struct nb_sequence second; /* the pages are for one sequence */
    assert_ok(nb_sequence_open(engine, &second, &err), err);
    assert_int_equal(nb_sequence_append(&second, ids, 20, 1, &logits, &err), NB_ERR_MEMORY);
    assert_non_null(strstr(err.message, "pages"));
    nb_sequence_close(&second);
    nb_sequence_close(&q);

    struct nb_generation out;
    struct nb_generate_options o = {.prompt_ids = ids, .n_prompt_ids = 2, .ignore_eos = true};
    assert_ok(nb_generate(engine, &o, &out, &err), err);
    assert_int_equal(out.n_tokens, 19); /* 20 positions, and a token that is never read */
    nb_generation_free(&out);
    o.n_prompt_ids = 3; /* holds -1 */
    assert_int_equal(nb_generate(engine, &o, &out, &err), NB_ERR_ARGUMENT);
    o.n_prompt_ids = 0;
    assert_int_equal(nb_generate(engine, &o, &out, &err), NB_ERR_ARGUMENT);
    o.n_prompt_ids = 2;
    o.max_tokens = -1;
    assert_int_equal(nb_generate(engine, &o, &out, &err), NB_ERR_ARGUMENT);
    o = (struct nb_generate_options){.prompt = "text", .prompt_bytes = 4};
    assert_int_equal(nb_generate(engine, &o, &out, &err), NB_ERR_UNSUPPORTED);
    assert_non_null(strstr(err.message, "tokenizer.json"));
    nb_engine_close(engine);

    options = (struct nb_options){.cpu = "mmx"};
    assert_int_equal(nb_engine_open(test_path(checkpoints[1]), &options, &engine, &err),
                     NB_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "plain"));
    options = (struct nb_options){.backend = "cpu", .weights = "folded"};
    assert_int_equal(nb_engine_open(test_path(checkpoints[1]), &options, &engine, &err),
                     NB_ERR_ARGUMENT);
    assert_non_null(strstr(err.message, "packed"));
    options = (struct nb_options){.context = 1 << 30};
    assert_int_equal(nb_engine_open(test_path(checkpoints[1]), &options, &engine, &err),
                     NB_ERR_ARGUMENT);
    assert_null(engine);
}

static int mapped(void **state) {
    (void)state;
    golden_weights = "mapped";
    return 0;
}

static int not_mapped(void **state) {
    (void)state;
    golden_weights = NULL;
    return 0;
}

/* test_forward [NAME]: all tests, or one. */
int main(int argc, char **argv) {
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        {"logits_of_transformers_mapped", logits_of_transformers, mapped, not_mapped, NULL},
        cmocka_unit_test(layouts),
        cmocka_unit_test(logits_of_transformers),
        cmocka_unit_test(greedy_continuations),
        cmocka_unit_test(batches_change_nothing),
        cmocka_unit_test(truncation),
        cmocka_unit_test(shared_prefix),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
