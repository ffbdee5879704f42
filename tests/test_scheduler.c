/* Many requests at once get what each would get alone, whatever happens around them. */
#include "test.h"

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/scheduler.h"

#include "engine/sampler.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

static const char checkpoint[] = "tests/golden/mixtral-tiny-nf4";

/* Where the answer to a request is put. */
struct result {
    pthread_mutex_t lock;
    pthread_cond_t done;
    int n_done;
    enum nb_status status;
    char message[NB_ERROR_MESSAGE_BYTES];
    struct nb_generation generation;
    size_t cached_tokens;
    double waiting_ms, first_token_ms;
    int n_tokens, stop_after; /* as on_token has it */
};

static void result_open(struct result *r) {
    *r = (struct result){0};
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->done, NULL);
}

static void result_close(struct result *r) {
    nb_generation_free(&r->generation);
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->done);
}

static void on_done(void *context, struct nb_answer *answer) {
    struct result *r = context;
    pthread_mutex_lock(&r->lock);
    r->n_done++;
    r->status = answer->status;
    snprintf(r->message, sizeof r->message, "%s", answer->error ? answer->error->message : "");
    r->generation = *answer->generation;
    *answer->generation = (struct nb_generation){0};
    r->cached_tokens = answer->cached_tokens;
    r->waiting_ms = answer->waiting_ms;
    r->first_token_ms = answer->first_token_ms;
    pthread_cond_signal(&r->done);
    pthread_mutex_unlock(&r->lock);
}

static bool on_token(void *context, int32_t id, const char *text, size_t n) {
    (void)id, (void)text, (void)n;
    struct result *r = context;
    r->n_tokens++;
    return !r->stop_after || r->n_tokens < r->stop_after;
}

static void wait_for(struct result *r) {
    pthread_mutex_lock(&r->lock);
    while (!r->n_done)
        pthread_cond_wait(&r->done, &r->lock);
    pthread_mutex_unlock(&r->lock);
}

static struct nb_engine *open_engine(int32_t context, int32_t sequences) {
    struct nb_engine *engine;
    struct nb_error err;
    struct nb_options options = {
        .cpu = "plain", .threads = 1, .context = context, .sequences = sequences};
    assert_ok(nb_engine_open(test_path(checkpoint), &options, &engine, &err), err);
    return engine;
}

static struct nb_scheduler *open_scheduler(struct nb_engine *engine,
                                           struct nb_scheduler_options options) {
    struct nb_scheduler *scheduler;
    struct nb_error err;
    assert_ok(nb_scheduler_open(engine, &options, &scheduler, &err), err);
    return scheduler;
}

static uint64_t next(uint64_t *random) {
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return *random >> 33;
}

enum { MOST_PROMPT = 120 };

struct prompt {
    int32_t ids[MOST_PROMPT];
    struct nb_generate_options options;
};

/* A prompt that begins like the others, or not, and options drawn at random. */
static void make_prompt(struct prompt *p, int32_t n_vocab, uint64_t *random) {
    size_t n = 1 + next(random) % MOST_PROMPT, shared = next(random) % 3 ? next(random) % n : 0;
    for (size_t i = 0; i < n; i++)
        p->ids[i] = (int32_t)((i < shared ? i * 7 + 3 : next(random)) % (uint64_t)n_vocab);
    p->options = (struct nb_generate_options){
        .prompt_ids = p->ids,
        .n_prompt_ids = n,
        .max_tokens = 1 + (int32_t)(next(random) % 40),
        .ignore_eos = true,
        .logprobs = next(random) % 4 == 0,
        .sampling = {.temperature = next(random) % 2 ? 0.8 : 0, .seed = next(random)},
    };
}

/* 200 requests through few sequences and scarce pages, with or without the prefix cache: what each
 * gets equals nb_generate's answer. */
static void same_as_alone(struct nb_scheduler_options options, int32_t sequences, bool preempts) {
    enum { N = 200 };
    struct nb_error err;
    struct nb_engine *alone = open_engine(256, 1), *engine = open_engine(256, sequences);
    struct nb_scheduler *scheduler = open_scheduler(engine, options);
    static struct prompt prompts[N];
    static struct result results[N];
    uint64_t random = 7;
    for (int i = 0; i < N; i++) {
        make_prompt(&prompts[i], alone->model.config.n_vocab, &random);
        result_open(&results[i]);
        struct nb_request request = {.options = prompts[i].options,
                                     .client = next(&random) % 3,
                                     .on_done = on_done,
                                     .context = &results[i]};
        assert_ok(nb_scheduler_submit(scheduler, &request, NULL, &err), err);
    }
    size_t cached = 0;
    for (int i = 0; i < N; i++) {
        wait_for(&results[i]);
        assert_int_equal(results[i].n_done, 1);
        if (results[i].status != NB_OK)
            fail_msg("request %d: %s", i, results[i].message);
        struct nb_generation want;
        assert_ok(nb_generate(alone, &prompts[i].options, &want, &err), err);
        assert_int_equal(results[i].generation.n_tokens, want.n_tokens);
        assert_memory_equal(results[i].generation.token_ids, want.token_ids,
                            want.n_tokens * sizeof *want.token_ids);
        assert_int_equal(results[i].generation.finish, want.finish);
        assert_int_equal(results[i].generation.n_prompt_tokens, prompts[i].options.n_prompt_ids);
        if (want.logprobs)
            assert_memory_equal(results[i].generation.logprobs, want.logprobs,
                                want.n_tokens * sizeof *want.logprobs);
        cached += results[i].cached_tokens;
        nb_generation_free(&want);
        result_close(&results[i]);
    }
    assert_true(nb_scheduler_drain(scheduler, 10000));
    struct nb_scheduler_stats stats;
    nb_scheduler_stats(scheduler, &stats);
    assert_int_equal(stats.running + stats.waiting, 0);
    assert_int_equal(stats.cached_tokens, cached);
    assert_true(options.no_prefix_cache ? cached == 0 : cached > 0);
    assert_true(preempts ? stats.preemptions > 0 : stats.preemptions == 0);
    nb_scheduler_close(scheduler);
    assert_int_equal(nb_pages_available(&engine->pages), engine->pages.n_pages);
    nb_engine_close(engine);
    nb_engine_close(alone);
}

/* Log probabilities of the last n tokens of a prompt, by a sequence of its own. */
static void score_alone(struct nb_engine *alone, const struct prompt *p, size_t n, double *out) {
    struct nb_sequence sequence;
    struct nb_error err;
    float *logits;
    size_t n_vocab = (size_t)alone->model.config.n_vocab, all = p->options.n_prompt_ids;
    assert_ok(nb_sequence_open(alone, &sequence, &err), err);
    assert_ok(nb_sequence_append(&sequence, p->ids, all - 1, n, &logits, &err), err);
    for (size_t i = 0; i < n; i++)
        out[i] = nb_log_probability(logits + i * n_vocab, n_vocab, p->ids[all - n + i]);
    nb_sequence_close(&sequence);
}

/* Scores among answers, with scarce pages: each as it would be alone. */
static void scores_as_alone(void **state) {
    (void)state;
    enum { N = 120 };
    struct nb_error err;
    struct nb_engine *alone = open_engine(256, 1), *engine = open_engine(256, 2);
    struct nb_scheduler *scheduler =
        open_scheduler(engine, (struct nb_scheduler_options){.max_running = 12});
    static struct prompt prompts[N];
    static struct result results[N];
    static double scores[N][MOST_PROMPT];
    uint64_t random = 11;
    for (int i = 0; i < N; i++) {
        make_prompt(&prompts[i], alone->model.config.n_vocab, &random);
        result_open(&results[i]);
        size_t all = prompts[i].options.n_prompt_ids;
        struct nb_request request = {.options = prompts[i].options,
                                     .n_scores =
                                         i % 4 == 0 || all < 2 ? 0 : 1 + next(&random) % (all - 1),
                                     .scores = scores[i],
                                     .on_done = on_done,
                                     .context = &results[i]};
        results[i].stop_after = (int)request.n_scores;
        assert_ok(nb_scheduler_submit(scheduler, &request, NULL, &err), err);
    }
    for (int i = 0; i < N; i++) {
        wait_for(&results[i]);
        size_t n = (size_t)results[i].stop_after;
        if (results[i].status != NB_OK)
            fail_msg("request %d: %s", i, results[i].message);
        if (n) {
            double want[MOST_PROMPT];
            score_alone(alone, &prompts[i], n, want);
            assert_int_equal(results[i].generation.n_tokens, 0);
            for (size_t k = 0; k < n; k++) {
                if (fabs(scores[i][k] - want[k]) > 1e-9)
                    fail_msg("request %d, score %zu of %zu: %f, alone %f", i, k, n, scores[i][k],
                             want[k]);
            }
        }
        result_close(&results[i]);
    }
    assert_true(nb_scheduler_drain(scheduler, 10000));
    struct nb_request all = {.options = prompts[1].options,
                             .n_scores = prompts[1].options.n_prompt_ids,
                             .scores = scores[1]};
    nb_scheduler_close(scheduler);
    scheduler = open_scheduler(engine, (struct nb_scheduler_options){0});
    assert_int_equal(nb_scheduler_submit(scheduler, &all, NULL, &err), NB_ERR_ARGUMENT);
    nb_scheduler_close(scheduler);
    assert_int_equal(nb_pages_available(&engine->pages), engine->pages.n_pages);
    nb_engine_close(engine);
    nb_engine_close(alone);
}

/* Prompts that begin alike and come at once are read once: all but what is their own. */
static void a_prefix_is_read_once(void **state) {
    (void)state;
    enum { N = 8, PREFIX = 208, ALL = 220 };
    struct nb_error err;
    struct nb_engine *engine = open_engine(256, N);
    struct nb_scheduler *scheduler =
        open_scheduler(engine, (struct nb_scheduler_options){.max_running = N});
    static struct result results[N];
    int32_t ids[N][ALL];
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < ALL; k++)
            ids[i][k] = k < PREFIX ? 3 + k % 50 : 3 + i;
        result_open(&results[i]);
        struct nb_request request = {
            .options = {.prompt_ids = ids[i], .n_prompt_ids = ALL, .max_tokens = 2},
            .on_done = on_done,
            .context = &results[i]};
        assert_ok(nb_scheduler_submit(scheduler, &request, NULL, &err), err);
    }
    size_t cached = 0;
    for (int i = 0; i < N; i++) {
        wait_for(&results[i]);
        assert_int_equal(results[i].status, NB_OK);
        cached += results[i].cached_tokens;
        result_close(&results[i]);
    }
    /* Of each but the first, less what the threshold lets go. */
    assert_true(cached >= (N - 1) * (PREFIX - 64));
    nb_scheduler_close(scheduler);
    nb_engine_close(engine);
}

static void plenty_of_pages(void **state) {
    (void)state;
    same_as_alone((struct nb_scheduler_options){.max_running = 8}, 8, false);
}

static void scarce_pages(void **state) {
    (void)state;
    same_as_alone((struct nb_scheduler_options){.max_running = 16}, 2, true);
}

static void scarce_pages_without_cache(void **state) {
    (void)state;
    same_as_alone((struct nb_scheduler_options){.max_running = 16, .no_prefix_cache = true}, 2,
                  true);
}

static void one_at_a_time(void **state) {
    (void)state;
    same_as_alone((struct nb_scheduler_options){.max_running = 1}, 1, false);
}

/* A request that would go on for long. */
static struct nb_request long_request(const int32_t *ids, struct result *result) {
    return (struct nb_request){
        .options = {.prompt_ids = ids,
                    .n_prompt_ids = 1,
                    .ignore_eos = true,
                    .on_token = on_token,
                    .on_token_context = result},
        .on_done = on_done,
        .context = result,
    };
}

static void cancelling(void **state) {
    (void)state;
    struct nb_error err;
    struct nb_engine *engine = open_engine(256, 2);
    struct nb_scheduler *scheduler =
        open_scheduler(engine, (struct nb_scheduler_options){.max_running = 1});
    int32_t ids[] = {1};
    struct result running, waiting, stopped, late;
    struct result *all[] = {&running, &waiting, &stopped, &late};
    uint64_t id[4];
    for (int i = 0; i < 4; i++)
        result_open(all[i]);
    stopped.stop_after = 3;
    struct nb_request request = long_request(ids, &running);
    assert_ok(nb_scheduler_submit(scheduler, &request, &id[0], &err), err);
    request = long_request(ids, &waiting);
    assert_ok(nb_scheduler_submit(scheduler, &request, &id[1], &err), err);
    request = long_request(ids, &stopped);
    assert_ok(nb_scheduler_submit(scheduler, &request, &id[2], &err), err);
    request = long_request(ids, &late);
    request.timeout_ms = 0.001;
    assert_ok(nb_scheduler_submit(scheduler, &request, &id[3], &err), err);
    nb_scheduler_cancel(scheduler, id[1]);
    nb_scheduler_cancel(scheduler, id[0]);
    nb_scheduler_cancel(scheduler, 12345); /* nobody's */
    for (int i = 0; i < 4; i++)
        wait_for(all[i]);
    assert_int_equal(running.status, NB_OK);
    assert_int_equal(waiting.status, NB_OK);
    assert_int_equal(waiting.generation.finish, NB_FINISH_CALLER);
    assert_int_equal(waiting.generation.n_tokens, 0);
    assert_int_equal(stopped.generation.finish, NB_FINISH_CALLER);
    assert_int_equal(stopped.generation.n_tokens, 3);
    assert_int_equal(late.status, NB_ERR_STOPPED);
    assert_non_null(strstr(late.message, "longer than"));
    for (int i = 0; i < 4; i++)
        result_close(all[i]);
    nb_scheduler_close(scheduler);
    assert_int_equal(nb_pages_available(&engine->pages), engine->pages.n_pages);
    nb_engine_close(engine);
}

/* Work on the scheduler's thread that is waited for. */
struct call {
    void (*fn)(void *context);
    void *context;
    struct result over;
};

static void run_call(void *context) {
    struct call *c = context;
    struct nb_generation none = {0};
    c->fn(c->context);
    on_done(&c->over, &(struct nb_answer){.generation = &none});
}

static void call(struct nb_scheduler *scheduler, void (*fn)(void *context), void *context) {
    struct call c = {.fn = fn, .context = context};
    struct nb_error err;
    result_open(&c.over);
    assert_ok(nb_scheduler_post(scheduler, run_call, &c, 0, NULL, &err), err);
    wait_for(&c.over);
    result_close(&c.over);
}

static void add_one(void *context) {
    ++*(int *)context;
}

static void refusals(void **state) {
    (void)state;
    struct nb_error err;
    struct nb_engine *engine = open_engine(64, 1);
    struct nb_scheduler *scheduler =
        open_scheduler(engine, (struct nb_scheduler_options){.max_running = 1, .max_waiting = 2});
    int32_t ids[65] = {0};
    struct result r;
    result_open(&r);
    struct nb_request request = long_request(ids, &r);
    request.options.n_prompt_ids = 65;
    assert_int_equal(nb_scheduler_submit(scheduler, &request, NULL, &err), NB_ERR_LIMIT);
    assert_non_null(strstr(err.message, "65 tokens"));
    request.options.n_prompt_ids = 0;
    assert_int_equal(nb_scheduler_submit(scheduler, &request, NULL, &err), NB_ERR_ARGUMENT);

    int called = 0;
    call(scheduler, add_one, &called);
    assert_int_equal(called, 1);

    /* Closing ends what is there, each once. */
    struct result many[8];
    size_t taken = 0;
    for (int i = 0; i < 8; i++) {
        result_open(&many[i]);
        request = long_request(ids, &many[i]);
        if (nb_scheduler_submit(scheduler, &request, NULL, &err) == NB_OK) {
            taken++;
        } else {
            assert_int_equal(err.code, NB_ERR_BUSY);
            assert_non_null(strstr(err.message, "waiting"));
            many[i].n_done = -1;
        }
    }
    assert_true(taken >= 2);
    nb_scheduler_close(scheduler);
    for (int i = 0; i < 8; i++) {
        assert_true(many[i].n_done == -1 || many[i].n_done == 1);
        result_close(&many[i]);
    }
    scheduler = open_scheduler(engine, (struct nb_scheduler_options){0});
    assert_true(nb_scheduler_drain(scheduler, 0));
    request.options.n_prompt_ids = 1;
    assert_int_equal(nb_scheduler_submit(scheduler, &request, NULL, &err), NB_ERR_STOPPED);
    assert_int_equal(nb_scheduler_post(scheduler, add_one, &called, 0, NULL, &err), NB_ERR_STOPPED);
    nb_scheduler_close(scheduler);
    result_close(&r);
    nb_engine_close(engine);
}

/* One client's many requests do not keep another's waiting. */
static void clients_share(void **state) {
    (void)state;
    enum { MANY = 40 };
    struct nb_error err;
    struct nb_engine *engine = open_engine(128, 2);
    struct nb_scheduler *scheduler =
        open_scheduler(engine, (struct nb_scheduler_options){.max_running = 2});
    static struct result many[MANY];
    struct result other;
    int32_t ids[] = {1};
    for (int i = 0; i < MANY; i++) {
        result_open(&many[i]);
        struct nb_request request = long_request(ids, &many[i]);
        request.client = 1;
        request.options.max_tokens = 20;
        assert_ok(nb_scheduler_submit(scheduler, &request, NULL, &err), err);
    }
    result_open(&other);
    struct nb_request request = long_request(ids, &other);
    request.client = 2;
    request.options.max_tokens = 20;
    assert_ok(nb_scheduler_submit(scheduler, &request, NULL, &err), err);
    wait_for(&other);
    pthread_mutex_lock(&many[MANY - 1].lock);
    int last_done = many[MANY - 1].n_done;
    pthread_mutex_unlock(&many[MANY - 1].lock);
    assert_int_equal(last_done, 0);
    for (int i = 0; i < MANY; i++) {
        wait_for(&many[i]);
        result_close(&many[i]);
    }
    result_close(&other);
    nb_scheduler_close(scheduler);
    nb_engine_close(engine);
}

/* Requests that come again as soon as they are answered, each of a client of its own. */
struct flood {
    struct nb_scheduler *scheduler;
    struct nb_request request;
    atomic_int *answered;
    atomic_bool *stop;
};

static void on_flooded(void *context, struct nb_answer *answer) {
    struct flood *f = context;
    (void)answer;
    atomic_fetch_add(f->answered, 1);
    if (!atomic_load(f->stop))
        nb_scheduler_submit(f->scheduler, &f->request, NULL, NULL);
}

/* A request that needs most of the memory, of a client that has others running, gets its turn
 * however many small ones of other clients keep coming. */
static void no_request_starves(void **state) {
    (void)state;
    enum { FLOOD = 8, LONG = 200 };
    struct nb_error err;
    struct nb_engine *engine = open_engine(256, 1);
    struct nb_scheduler *scheduler =
        open_scheduler(engine, (struct nb_scheduler_options){.max_running = 4});
    atomic_int answered = 0;
    atomic_bool stop = false;
    static struct flood floods[FLOOD];
    static int32_t ids[FLOOD][40], large[LONG];
    struct result big, beside;
    result_open(&big);
    result_open(&beside);
    for (int i = 0; i < FLOOD; i++) {
        for (int k = 0; k < 40; k++)
            ids[i][k] = 3 + (i * 7 + k) % 200;
        floods[i] = (struct flood){.scheduler = scheduler, .answered = &answered, .stop = &stop};
        floods[i].request = (struct nb_request){
            .options = {.prompt_ids = ids[i], .n_prompt_ids = 40, .max_tokens = 4},
            .client = 10 + (uint64_t)i,
            .on_done = on_flooded,
            .context = &floods[i]};
        assert_ok(nb_scheduler_submit(scheduler, &floods[i].request, NULL, &err), err);
    }
    for (int k = 0; k < LONG; k++)
        large[k] = 5 + k;
    struct nb_request request = {
        .options = {.prompt_ids = ids[0], .n_prompt_ids = 1, .max_tokens = 8, .ignore_eos = true},
        .client = 1,
        .on_done = on_done,
        .context = &beside};
    assert_ok(nb_scheduler_submit(scheduler, &request, NULL, &err), err);
    request.options = (struct nb_generate_options){
        .prompt_ids = large, .n_prompt_ids = LONG, .max_tokens = 4, .ignore_eos = true};
    request.context = &big;
    assert_ok(nb_scheduler_submit(scheduler, &request, NULL, &err), err);
    int before = atomic_load(&answered);
    wait_for(&big);
    int meanwhile = atomic_load(&answered) - before;
    atomic_store(&stop, true);
    wait_for(&beside);
    assert_int_equal(big.status, NB_OK);
    assert_true(meanwhile < 20 * FLOOD);
    assert_true(nb_scheduler_drain(scheduler, 10000));
    assert_true(atomic_load(&answered) >= FLOOD);
    nb_scheduler_close(scheduler);
    assert_int_equal(nb_pages_available(&engine->pages), engine->pages.n_pages);
    nb_engine_close(engine);
    result_close(&big);
    result_close(&beside);
}

/* Work that uses the engine itself: appends tokens one by one, and asks for itself again. */
struct long_call {
    struct nb_scheduler *scheduler;
    struct nb_engine *engine;
    struct nb_request *request; /* that is submitted first; NULL: none */
    struct result *other;       /* its, whose tokens are counted */
    int32_t n_tokens, between;
    int again; /* times that it asks for itself once more */
    enum nb_status status;
    double score;
};

static void append_many(void *context) {
    struct long_call *c = context;
    struct nb_sequence sequence;
    struct nb_error err;
    int seen = 0;
    c->score = 0;
    c->status = nb_sequence_open(c->engine, &sequence, &err);
    if (c->status == NB_OK && c->request)
        c->status = nb_scheduler_submit(c->scheduler, c->request, NULL, &err);
    for (int32_t i = 0; i < c->n_tokens && c->status == NB_OK; i++) {
        float *logits;
        int32_t id = 5 + i % 90;
        c->status = nb_sequence_append(&sequence, &id, 1, 1, &logits, &err);
        if (c->status == NB_OK)
            c->score += logits[7];
        if (c->other && c->other->n_tokens != seen) {
            seen = c->other->n_tokens;
            c->between++;
        }
    }
    nb_sequence_close(&sequence);
    if (c->status == NB_OK && c->again-- > 0)
        c->status = nb_scheduler_post(c->scheduler, append_many, c, 0, NULL, &err);
}

/* A request answers while work of others takes long, and while such work never ends; what either
 * computes does not depend on the other. */
static void calls_let_requests_go_on(void **state) {
    (void)state;
    int32_t ids[] = {3, 4, 5};
    struct nb_error err;
    struct nb_engine *engine = open_engine(256, 4), *alone = open_engine(256, 1);
    struct nb_scheduler *scheduler = open_scheduler(engine, (struct nb_scheduler_options){0});
    struct result result;
    result_open(&result);
    struct nb_request request = long_request(ids, &result);
    request.options.max_tokens = 100;
    struct nb_generation expected;
    struct nb_generate_options options = request.options;
    options.on_token = NULL;
    assert_ok(nb_generate(alone, &options, &expected, &err), err);
    struct long_call own = {.engine = alone, .n_tokens = 60}, long_one = {.scheduler = scheduler,
                                                                          .engine = engine,
                                                                          .request = &request,
                                                                          .other = &result,
                                                                          .n_tokens = 60};
    append_many(&own);
    assert_int_equal(own.status, NB_OK);
    call(scheduler, append_many, &long_one);
    assert_int_equal(long_one.status, NB_OK);
    assert_int_equal(long_one.between, 60);
    assert_true(long_one.score == own.score);
    wait_for(&result);
    assert_int_equal(result.generation.n_tokens, expected.n_tokens);
    assert_memory_equal(result.generation.token_ids, expected.token_ids,
                        expected.n_tokens * sizeof(int32_t));
    result_close(&result);

    /* Calls that follow one another without end. */
    result_open(&result);
    request = long_request(ids, &result);
    request.options.max_tokens = 20;
    struct long_call endless[2];
    for (int i = 0; i < 2; i++) {
        endless[i] = (struct long_call){
            .scheduler = scheduler, .engine = engine, .n_tokens = 1, .again = 5000};
        assert_ok(nb_scheduler_post(scheduler, append_many, &endless[i], 0, NULL, &err), err);
    }
    assert_ok(nb_scheduler_submit(scheduler, &request, NULL, &err), err);
    wait_for(&result);
    assert_int_equal(result.status, NB_OK);
    nb_generation_free(&expected);
    nb_scheduler_close(scheduler);
    assert_true(endless[0].again > 0 && endless[1].again > 0);
    result_close(&result);
    nb_engine_close(engine);
    nb_engine_close(alone);
}

/* Work without end, until its appends fail. */
struct endless {
    struct nb_engine *engine;
    atomic_int appended;
    enum nb_status status;
    struct nb_error err;
    struct result over;
};

static void append_always(void *context) {
    struct endless *e = context;
    struct nb_sequence sequence;
    struct nb_generation none = {0};
    int32_t id = 5;
    e->status = nb_sequence_open(e->engine, &sequence, &e->err);
    while (e->status == NB_OK) {
        nb_sequence_truncate(&sequence, 100);
        e->status = nb_sequence_append(&sequence, &id, 1, 0, NULL, &e->err);
        e->appended += e->status == NB_OK;
    }
    nb_sequence_close(&sequence);
    on_done(&e->over, &(struct nb_answer){.generation = &none});
}

/* Work ends when it is cancelled, while it runs or waits; when it takes too long; and when the
 * scheduler stops, whatever still waits. */
static void calls_end(void **state) {
    (void)state;
    enum { N = 6 };
    struct nb_error err;
    struct nb_engine *engine = open_engine(256, 2);
    struct nb_scheduler *scheduler = open_scheduler(engine, (struct nb_scheduler_options){0});
    static struct endless all[N];
    static const double timeouts_ms[N] = {[2] = 20};
    static const char *const whys[N] = {"cancelled", "cancelled", "longer than 20 ms",
                                        "stopping",  "stopping",  "stopping"};
    uint64_t ids[N];
    for (int i = 0; i < N; i++) {
        all[i] = (struct endless){.engine = engine};
        result_open(&all[i].over);
        assert_ok(
            nb_scheduler_post(scheduler, append_always, &all[i], timeouts_ms[i], &ids[i], &err),
            err);
    }
    while (!atomic_load(&all[0].appended))
        usleep(1000);
    nb_scheduler_cancel(scheduler, ids[1]); /* it waits */
    nb_scheduler_cancel(scheduler, ids[0]);
    for (int i = 0; i < 3; i++)
        wait_for(&all[i].over);
    while (!atomic_load(&all[3].appended))
        usleep(1000);
    nb_scheduler_close(scheduler);
    for (int i = 0; i < N; i++) {
        assert_int_equal(all[i].over.n_done, 1);
        assert_int_equal(all[i].status, NB_ERR_STOPPED);
        assert_non_null(strstr(all[i].err.message, whys[i]));
        assert_true(i % 3 == 0 || i == 2 || !all[i].appended);
        result_close(&all[i].over);
    }
    assert_int_equal(nb_pages_available(&engine->pages), engine->pages.n_pages);
    nb_engine_close(engine);
}

/* Work of one's own takes pages from requests, which go on later as if nothing had happened. */
static void calls_get_pages(void **state) {
    (void)state;
    enum { N = 6 };
    struct nb_error err;
    struct nb_engine *engine = open_engine(256, 1), *alone = open_engine(256, 1);
    struct nb_scheduler *scheduler = open_scheduler(engine, (struct nb_scheduler_options){0});
    struct result results[N];
    struct prompt prompts[N];
    uint64_t random = 7;
    struct long_call long_one = {.scheduler = scheduler, .engine = engine, .n_tokens = 250};
    for (int i = 0; i < N; i++) {
        result_open(&results[i]);
        make_prompt(&prompts[i], 100, &random);
        prompts[i].options.max_tokens = 80;
        struct nb_request request = {
            .options = prompts[i].options, .on_done = on_done, .context = &results[i]};
        assert_ok(nb_scheduler_submit(scheduler, &request, NULL, &err), err);
    }
    call(scheduler, append_many, &long_one);
    assert_int_equal(long_one.status, NB_OK);
    for (int i = 0; i < N; i++) {
        wait_for(&results[i]);
        assert_string_equal(results[i].message, "");
        struct nb_generation expected;
        assert_ok(nb_generate(alone, &prompts[i].options, &expected, &err), err);
        assert_int_equal(results[i].generation.n_tokens, expected.n_tokens);
        assert_memory_equal(results[i].generation.token_ids, expected.token_ids,
                            expected.n_tokens * sizeof(int32_t));
        nb_generation_free(&expected);
        result_close(&results[i]);
    }
    struct nb_scheduler_stats stats;
    nb_scheduler_stats(scheduler, &stats);
    assert_true(stats.preemptions > 0);
    nb_scheduler_close(scheduler);
    nb_engine_close(engine);
    nb_engine_close(alone);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plenty_of_pages),
        cmocka_unit_test(scarce_pages),
        cmocka_unit_test(scarce_pages_without_cache),
        cmocka_unit_test(one_at_a_time),
        cmocka_unit_test(scores_as_alone),
        cmocka_unit_test(a_prefix_is_read_once),
        cmocka_unit_test(cancelling),
        cmocka_unit_test(refusals),
        cmocka_unit_test(clients_share),
        cmocka_unit_test(no_request_starves),
        cmocka_unit_test(calls_let_requests_go_on),
        cmocka_unit_test(calls_end),
        cmocka_unit_test(calls_get_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
