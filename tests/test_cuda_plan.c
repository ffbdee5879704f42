/* What a model takes on a GPU, planned without one. */
#include "test.h"

#include "backend/cuda/plan.h"
#include "checkpoint.h"
#include "model/synthetic.h"

static const struct nb_config mixtral = {
    .model_type = "mixtral",
    .n_vocab = 32000,
    .n_layers = 32,
    .width = 4096,
    .n_heads = 32,
    .n_kv_heads = 8,
    .head_width = 128,
    .n_experts = 8,
    .experts_per_token = 2,
    .expert_width = 14336,
    .context = 32768,
};

static const uint64_t GiB = (uint64_t)1 << 30;

/* Parts of the total, whatever the choices. */
static void check_sum(const struct nb_cuda_plan *p) {
    assert_int_equal(p->total, p->experts + p->attention + p->head + p->small + p->kv +
                                   p->workspace + p->step +
                                   (p->embedding_on_host ? 0 : p->embedding));
    assert_int_equal(p->on_host, p->embedding_on_host ? p->embedding : 0);
}

static void parts_of_mixtral(void **state) {
    (void)state;
    struct nb_cuda_plan p;
    struct nb_error err;
    struct nb_cuda_plan_options o = {.context = 4096, .n_pages = 256};
    assert_ok(nb_cuda_plan(&mixtral, NULL, &o, &p, &err), err);
    check_sum(&p);
    assert_int_equal(p.kv_token, 131072);
    assert_int_equal(p.kv_page, 131072 * 16);
    assert_int_equal(p.kv, (uint64_t)131072 * 4096);
    assert_int_equal(p.embedding, (uint64_t)32000 * 4096 * 2);
    assert_int_equal(p.head, (uint64_t)32000 * 4096 * 2);
    /* 45.1 G weights of experts in 16,928 bytes for each 16 x 2,048, or 2 x 32 units of K. */
    double bits = (double)p.experts * 8 / (32.0 * 8 * 3 * 4096 * 14336);
    assert_true(bits > 4.127 && bits < 4.15);
    assert_int_equal(p.max_batch_tokens, 8192); /* nothing is short */
    o.kv_fp8 = true;
    assert_ok(nb_cuda_plan(&mixtral, NULL, &o, &p, &err), err);
    assert_int_equal(p.kv_token, 65536);
}

/* The model that issue 5 wants in 23.5 GiB: with smaller batches, and the embedding on the host. */
static void fits_23_5_gib(void **state) {
    (void)state;
    struct nb_cuda_plan p;
    struct nb_error err;
    struct nb_cuda_plan_options o = {.context = 4096, .n_pages = 256, .available = 47 * GiB / 2};
    assert_ok(nb_cuda_plan(&mixtral, NULL, &o, &p, &err), err);
    check_sum(&p);
    assert_true(p.total <= o.available);
    assert_true(p.max_batch_tokens >= 512);
    o.max_batch_tokens = 64; /* as it is asked for */
    assert_ok(nb_cuda_plan(&mixtral, NULL, &o, &p, &err), err);
    assert_int_equal(p.max_batch_tokens, 64);
    /* Just enough for everything is enough; a byte less costs something. */
    o = (struct nb_cuda_plan_options){.context = 4096, .n_pages = 256};
    assert_ok(nb_cuda_plan(&mixtral, NULL, &o, &p, &err), err);
    o.available = p.total;
    assert_ok(nb_cuda_plan(&mixtral, NULL, &o, &p, &err), err);
    assert_int_equal(p.max_batch_tokens, 8192);
    o.available--;
    assert_ok(nb_cuda_plan(&mixtral, NULL, &o, &p, &err), err);
    assert_int_equal(p.max_batch_tokens, 4096);
}

/* Where a refusal names a context or an option, that does fit. */
static void refusals(void **state) {
    (void)state;
    struct nb_cuda_plan p;
    struct nb_error err;
    struct nb_cuda_plan_options o = {.context = 8192, .n_pages = 512, .available = 47 * GiB / 2};
    expect_failure("8,192 positions", nb_cuda_plan(&mixtral, NULL, &o, &p, &err), &err,
                   NB_ERR_MEMORY, "23.50 GiB are there|1 x 8192 positions|--kv-type fp8");
    o.kv_fp8 = true;
    assert_ok(nb_cuda_plan(&mixtral, NULL, &o, &p, &err), err);
    o = (struct nb_cuda_plan_options){.context = 32768, .n_pages = 2048, .available = 47 * GiB / 2};
    expect_failure("32,768", nb_cuda_plan(&mixtral, NULL, &o, &p, &err), &err, NB_ERR_MEMORY,
                   "--context ");
    int32_t context = atoi(strstr(err.message, "--context ") + 10);
    assert_true(context >= 2048 && context < 8192);
    o.context = context;
    o.n_pages = (size_t)context / 16;
    assert_ok(nb_cuda_plan(&mixtral, NULL, &o, &p, &err), err);
    o.context += 1024;
    o.n_pages += 64;
    assert_int_equal(nb_cuda_plan(&mixtral, NULL, &o, &p, &err), NB_ERR_MEMORY);
    o = (struct nb_cuda_plan_options){.context = 64, .n_pages = 4, .available = 16 * GiB};
    expect_failure("16 GiB", nb_cuda_plan(&mixtral, NULL, &o, &p, &err), &err, NB_ERR_MEMORY,
                   "no context fits|at least|--backend cpu");
}

/* From a model's own tensors, and what they become: the same as from the config where it is alike.
 */
static void from_a_model(void **state) {
    (void)state;
    struct nb_pool *pool;
    struct nb_error err;
    struct nb_cuda_plan of_model, of_config, quantized, kept;
    struct nb_model model, floats;
    const struct nb_cuda_plan_options o = {.context = 256, .n_pages = 16},
                                      with = {.context = 256,
                                              .n_pages = 16,
                                              .quantize = &nb_quantize_defaults};
    assert_ok(nb_pool_create(1, &pool, &err), err);
    assert_ok(nb_model_synthetic("tiny", pool, &model, &err), err);
    assert_ok(nb_model_synthetic("tiny-bf16", pool, &floats, &err), err);
    assert_ok(nb_cuda_plan(&model.config, &model, &o, &of_model, &err), err);
    assert_ok(nb_cuda_plan(&model.config, NULL, &o, &of_config, &err), err);
    assert_int_equal(of_model.total, of_config.total);
    assert_int_equal(of_model.experts, of_config.experts);
    assert_ok(nb_cuda_plan(&floats.config, &floats, &with, &quantized, &err), err);
    assert_int_equal(quantized.experts, of_model.experts);
    assert_int_equal(quantized.attention, of_model.attention);
    assert_ok(nb_cuda_plan(&floats.config, &floats, &o, &kept, &err), err);
    assert_true(kept.experts > 3 * quantized.experts);
    nb_model_close(&model);
    nb_model_close(&floats);
    nb_pool_free(pool);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_of_mixtral),
        cmocka_unit_test(fits_23_5_gib),
        cmocka_unit_test(refusals),
        cmocka_unit_test(from_a_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
