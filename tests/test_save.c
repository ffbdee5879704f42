/* A model in memory written as a checkpoint, and opened again: the same weights. */
#include "test.h"

#include "base/file.h"
#include "checkpoint.h"
#include "model/quantize.h"
#include "model/save.h"
#include "model/synthetic.h"

static void check_weight(const struct nb_weight *a, const struct nb_weight *b) {
    assert_string_equal(a->name, b->name);
    if (a->vector) {
        assert_int_equal(a->vector->n, b->vector->n);
        assert_int_equal(a->vector->type, b->vector->type);
        assert_memory_equal(a->vector->data, b->vector->data, (size_t)a->vector->n * 2);
        return;
    }
    const struct nb_matrix *m = a->matrix, *n = b->matrix;
    assert_int_equal(m->type, n->type);
    assert_int_equal(m->rows, n->rows);
    assert_int_equal(m->columns, n->columns);
    if (m->type != NB_WEIGHT_4BIT) {
        assert_memory_equal(m->data, n->data, (size_t)nb_matrix_bytes(m));
        return;
    }
    assert_int_equal(m->quant.block, n->quant.block);
    assert_memory_equal(m->quant.codes, n->quant.codes, nb_quant_code_bytes(m->quant.n));
    for (size_t i = 0; i < nb_quant_blocks(m->quant.n, m->quant.block); i++)
        assert_true(nb_quant_absmax(&m->quant, i) == nb_quant_absmax(&n->quant, i));
}

static void synthetic_models(void **state) {
    (void)state;
    static const char *const specs[] = {"tiny", "tiny:1"};
    for (size_t i = 0; i < sizeof specs / sizeof *specs; i++) {
        struct folder folder;
        struct nb_pool *pool;
        struct nb_model model, again;
        struct nb_error err;
        struct nb_arena arena = {0};
        struct nb_weight *a, *b;
        size_t n, m;
        folder_make(&folder);
        assert_ok(nb_pool_create(2, &pool, &err), err);
        assert_ok(nb_model_synthetic(specs[i], pool, &model, &err), err);
        const char *target = folder_path(&folder, "model");
        assert_ok(nb_model_save(&model, target, pool, &err), err);
        assert_ok(nb_model_open(target, &again, &err), err);
        struct nb_config config = model.config;
        assert_int_equal(again.config.n_layers, config.n_layers);
        assert_int_equal(again.config.context, config.context);
        assert_int_equal(again.config.experts_per_token, config.experts_per_token);
        assert_true(again.config.rms_eps == config.rms_eps);
        assert_true(again.config.rope.theta == config.rope.theta);
        assert_ok(nb_model_weights(&model, &arena, &a, &n, &err), err);
        assert_ok(nb_model_weights(&again, &arena, &b, &m, &err), err);
        assert_int_equal(n, m);
        for (size_t k = 0; k < n; k++)
            check_weight(&a[k], &b[k]);
        expect_failure("a folder that is there", nb_model_save(&model, target, pool, &err), &err,
                       NB_ERR_IO, "exists already");
        nb_model_close(&again);
        nb_model_close(&model);
        nb_arena_free(&arena);
        nb_pool_free(pool);
        struct folder inner;
        snprintf(inner.path, sizeof inner.path, "%s", target);
        folder_remove(&inner);
        folder_remove(&folder);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(synthetic_models)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
