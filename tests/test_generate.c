/* Generation: what may be drawn, held to transformers' logits processors
 * (tests/golden/sampling.json), and the options of nb_generate. */
#include "test.h"

#include "engine/engine.h"
#include "engine/sampler.h"
#include "model/json.h"

#include <math.h>
#include <pthread.h>

static double number(const json_t *object, const char *key) {
    return json_number_value(json_object_get(object, key)); /* 0, the default, where it is absent */
}

static void check_case(const json_t *c) {
    const json_t *values = json_object_get(c, "logits"), *seen = json_object_get(c, "seen"),
                 *o = json_object_get(c, "options"), *ids = json_object_get(c, "ids"),
                 *p = json_object_get(c, "p");
    struct nb_sampling how = {
        .temperature = number(o, "temperature"),
        .top_k = (int32_t)number(o, "top_k"),
        .top_p = number(o, "top_p"),
        .min_p = number(o, "min_p"),
        .repetition_penalty = number(o, "repetition_penalty"),
    };
    struct nb_sampler sampler;
    struct nb_error err;
    float logits[128];
    size_t n_vocab = json_array_size(values);
    assert_true(n_vocab > 0 && n_vocab <= 128);
    for (size_t i = 0; i < n_vocab; i++)
        logits[i] = (float)json_number_value(json_array_get(values, i));
    assert_ok(nb_sampler_open(&how, n_vocab, &sampler, &err), err);
    for (size_t i = 0; i < json_array_size(seen); i++)
        nb_sampler_saw(&sampler, (int32_t)json_integer_value(json_array_get(seen, i)));
    assert_int_equal(nb_sampler_candidates(&sampler, logits), json_array_size(ids));
    for (size_t i = 0; i < json_array_size(ids); i++) {
        assert_int_equal(sampler.candidates[i].token, json_integer_value(json_array_get(ids, i)));
        double want = json_number_value(json_array_get(p, i));
        if (!(fabs(sampler.candidates[i].p - want) <= 1e-6 * want + 1e-12)) /* theirs is in f32 */
            fail_msg("token %zu has probability %g, expected %g", i, sampler.candidates[i].p, want);
    }
    /* What is drawn in the middle of each one's share. */
    double sum = 0;
    for (size_t i = 0; i < json_array_size(ids); i++) {
        double share = json_number_value(json_array_get(p, i));
        if (share > 1e-5) /* wider than they are right */
            assert_int_equal(nb_sampler_fast(&sampler, logits, sum + share / 2),
                             json_integer_value(json_array_get(ids, i)));
        sum += share;
    }
    nb_sampler_close(&sampler);
}

static void processors_of_transformers(void **state) {
    (void)state;
    json_t *golden;
    struct nb_error err;
    assert_ok(nb_json_read(test_path("tests/golden/sampling.json"), 1 << 20, &golden, &err), err);
    const json_t *cases = json_object_get(golden, "cases");
    assert_true(json_array_size(cases) >= 24);
    for (size_t i = 0; i < json_array_size(cases); i++)
        check_case(json_array_get(cases, i));
    json_decref(golden);
}

static struct nb_engine *open_demo(void) {
    struct nb_engine *engine;
    struct nb_error err;
    assert_ok(nb_engine_open(test_path("models/demo"), NULL, &engine, &err), err);
    return engine;
}

static struct nb_generation generate(struct nb_engine *engine, struct nb_generate_options o) {
    struct nb_generation g;
    struct nb_error err;
    o.prompt = "TOTAL";
    o.prompt_bytes = 5;
    assert_ok(nb_generate(engine, &o, &g, &err), err);
    return g;
}

static void log_probabilities(void **state) {
    (void)state;
    struct nb_engine *engine = open_demo();
    struct nb_generation g =
        generate(engine, (struct nb_generate_options){.max_tokens = 70, /* grows its arrays */
                                                      .ignore_eos = true,
                                                      .logprobs = true,
                                                      .top_logprobs = 5});
    assert_int_equal(g.n_tokens, 70);
    assert_int_equal(g.n_top, 5);
    for (size_t i = 0; i < g.n_tokens; i++) {
        assert_int_equal(g.top_ids[i * 5], g.token_ids[i]); /* greedy: the most probable one */
        assert_true(g.top_logprobs[i * 5] == g.logprobs[i] && g.logprobs[i] <= 0);
        double sum = 0;
        for (size_t j = 0; j < 5; j++) {
            sum += exp(g.top_logprobs[i * 5 + j]);
            assert_true(j == 0 || g.top_logprobs[i * 5 + j] <= g.top_logprobs[i * 5 + j - 1]);
        }
        assert_true(sum <= 1 + 1e-9);
    }
    nb_generation_free(&g);
    g = generate(engine, (struct nb_generate_options){.max_tokens = 3, .logprobs = true});
    assert_non_null(g.logprobs);
    assert_int_equal(g.n_top, 0);
    nb_generation_free(&g);
    g = generate(engine, (struct nb_generate_options){.max_tokens = 3});
    assert_null(g.logprobs);
    nb_generation_free(&g);
    nb_engine_close(engine);
}

/* A generation's text is cut by a stop string that spans tokens, at the token that completes it. */
static void stop_strings(void **state) {
    (void)state;
    struct nb_engine *engine = open_demo();
    struct nb_generate_options o = {.max_tokens = 40, .ignore_eos = true};
    struct nb_generation all = generate(engine, o);
    assert_true(all.text_bytes > 12);
    char stop[5] = {0};
    memcpy(stop, all.text + 6, 4);
    const char *stops[] = {"not in the text at all", stop};
    o.stop = stops;
    o.n_stop = 2;
    struct nb_generation cut = generate(engine, o);
    assert_int_equal(cut.finish, NB_FINISH_STOP);
    assert_memory_equal(cut.text, all.text, cut.text_bytes);
    const char *at = strstr(cut.text, stop);
    assert_non_null(at);
    /* Without its last token the text had not yet got it. */
    size_t last = 0;
    nb_token_text(engine, cut.token_ids[cut.n_tokens - 1], &last);
    assert_true((size_t)(at - cut.text) + 4 > cut.text_bytes - last);
    nb_generation_free(&cut);
    nb_generation_free(&all);
    nb_engine_close(engine);
}

static bool three_tokens(void *context, int32_t id, const char *text, size_t n) {
    (void)id, (void)text, (void)n;
    return ++*(int *)context < 3;
}

static void limits_and_callbacks(void **state) {
    (void)state;
    struct nb_engine *engine = open_demo();
    int calls = 0;
    struct nb_generation g =
        generate(engine, (struct nb_generate_options){.max_tokens = 10,
                                                      .min_tokens = 10,
                                                      .on_token = three_tokens,
                                                      .on_token_context = &calls});
    assert_int_equal(g.finish, NB_FINISH_CALLER);
    assert_int_equal(g.n_tokens, 3);
    nb_generation_free(&g);
    nb_engine_close(engine);
}

/* No end token before min_tokens, where an answer would end; log probabilities are the model's all
 * the same. */
static void least_tokens(void **state) {
    (void)state;
    struct nb_engine *engine = open_demo();
    struct nb_generate_options o = {.prompt = "\"selected_action\":null",
                                    .prompt_bytes = 22,
                                    .max_tokens = 50,
                                    .logprobs = true,
                                    .top_logprobs = 1};
    struct nb_generation g;
    struct nb_error err;
    assert_ok(nb_generate(engine, &o, &g, &err), err);
    assert_int_equal(g.finish, NB_FINISH_STOP);
    size_t end = g.n_tokens;
    assert_true(end < 50);
    nb_generation_free(&g);
    o.min_tokens = 50;
    assert_ok(nb_generate(engine, &o, &g, &err), err);
    assert_int_equal(g.n_tokens, 50);
    assert_true(nb_config_is_end(&engine->model.config, g.top_ids[end]));
    assert_true(g.logprobs[end] < g.top_logprobs[end]);
    nb_generation_free(&g);
    nb_engine_close(engine);
}

static void refused_options(void **state) {
    (void)state;
    struct nb_engine *engine = open_demo();
    struct nb_generation g;
    static const char *const empty[] = {""};
    const struct nb_generate_options bad[] = {
        {.max_tokens = -1},
        {.system = "without a chat template"},
        {.min_tokens = -1},
        {.top_logprobs = -1},
        {.top_logprobs = 100000},
        {.n_stop = 1, .stop = empty},
        {.sampling = {.temperature = -1}},
        {.sampling = {.temperature = NAN}},
        {.sampling = {.top_k = -1}},
        {.sampling = {.top_p = 1.5}},
        {.sampling = {.min_p = -0.5}},
        {.sampling = {.repetition_penalty = -1}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct nb_generate_options o = bad[i];
        struct nb_error err;
        o.prompt = "TOTAL";
        o.prompt_bytes = 5;
        assert_int_equal(nb_generate(engine, &o, &g, &err), NB_ERR_ARGUMENT);
    }
    nb_engine_close(engine);
}

/* Prompts that end inside a character: what the callback hears is the text, to the last byte. */
static bool keep_text(void *context, int32_t id, const char *text, size_t n) {
    (void)id;
    nb_buf_add(context, text, n);
    return true;
}

static void streamed_text_is_the_text(void **state) {
    (void)state;
    struct nb_engine *engine = open_demo();
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct nb_buf heard = {0};
        struct nb_generation g = generate(
            engine, (struct nb_generate_options){.max_tokens = 30,
                                                 .ignore_eos = true,
                                                 /* hot enough for byte tokens */
                                                 .sampling = {.temperature = 50, .seed = seed},
                                                 .on_token = keep_text,
                                                 .on_token_context = &heard});
        assert_int_equal(heard.len, g.text_bytes);
        assert_memory_equal(heard.data, g.text, g.text_bytes);
        nb_buf_free(&heard);
        nb_generation_free(&g);
    }
    nb_engine_close(engine);
}

struct compiling {
    struct nb_engine *engine;
    pthread_barrier_t *together;
    const char *schema;
    struct nb_grammar *grammar;
    enum nb_status status;
};

static void *compile_one(void *context) {
    struct compiling *c = context;
    struct nb_structure what = {.schema = c->schema, .schema_bytes = strlen(c->schema)};
    struct nb_error err;
    pthread_barrier_wait(c->together);
    c->status = nb_grammar_compile(c->engine, &what, &c->grammar, &err);
    return NULL;
}

/* Threads that want the same grammar at once get the same one, whose masks they share. */
static void a_grammar_is_kept_once(void **state) {
    (void)state;
    enum { THREADS = 4, ROUNDS = 20 };
    struct nb_engine *engine = open_demo();
    pthread_barrier_t together;
    pthread_barrier_init(&together, NULL, THREADS);
    for (int round = 0; round < ROUNDS; round++) {
        struct compiling all[THREADS];
        pthread_t threads[THREADS];
        char schema[200];
        snprintf(schema, sizeof schema,
                 "{\"type\": \"object\", \"required\": [\"a\"], \"properties\": {\"a\": "
                 "{\"pattern\": \"^[a-f]{%d,900}$\"}}}",
                 round);
        for (int i = 0; i < THREADS; i++) {
            all[i] = (struct compiling){engine, &together, schema, NULL, NB_OK};
            assert_int_equal(pthread_create(&threads[i], NULL, compile_one, &all[i]), 0);
        }
        for (int i = 0; i < THREADS; i++) {
            pthread_join(threads[i], NULL);
            assert_int_equal(all[i].status, NB_OK);
            assert_ptr_equal(all[i].grammar, all[0].grammar);
        }
        for (int i = 0; i < THREADS; i++)
            nb_grammar_release(all[i].grammar);
    }
    pthread_barrier_destroy(&together);
    nb_engine_close(engine);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(processors_of_transformers),
        cmocka_unit_test(log_probabilities),
        cmocka_unit_test(stop_strings),
        cmocka_unit_test(limits_and_callbacks),
        cmocka_unit_test(least_tokens),
        cmocka_unit_test(refused_options),
        cmocka_unit_test(a_grammar_is_kept_once),
        cmocka_unit_test(streamed_text_is_the_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
