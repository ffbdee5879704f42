#include "engine/structure_bench.h"

#include "base/clock.h"
#include "engine/engine.h"

#include <math.h>
#include <stdlib.h>

enum { MIN_ROUNDS = 5, MAX_ROUNDS = 1000, N_SERIES = 5 };

/* What a round gives, each an array over the rounds. */
enum series { FREE, EACH, JUMP, LOSS, GAIN };

struct rounds {
    struct nb_engine *engine;
    struct nb_grammar *grammar;
    int n;
    size_t tokens;
    double series[N_SERIES][MAX_ROUNDS];
};

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts them. */
static double median(double *times, int n) {
    qsort(times, (size_t)n, sizeof *times, compare);
    return n % 2 ? times[n / 2] : (times[n / 2 - 1] + times[n / 2]) / 2;
}

/* Milliseconds a token after the first. */
static enum nb_status generate(struct nb_engine *engine, struct nb_generate_options *o,
                               int32_t max_tokens, double *ms, size_t *n, struct nb_error *err) {
    struct nb_generation g;
    o->max_tokens = max_tokens;
    enum nb_status s = nb_generate(engine, o, &g, err);
    if (s != NB_OK)
        return s;
    *n = g.n_tokens;
    *ms = g.n_tokens > 1 ? g.decode_ms / (double)(g.n_tokens - 1) : NAN;
    nb_generation_free(&g);
    return NB_OK;
}

static enum nb_status run_round(struct rounds *r, uint64_t seed, struct nb_error *err) {
    int32_t prompt[NB_STRUCTURE_BENCH_PROMPT];
    uint64_t random = seed;
    for (int i = 0; i < NB_STRUCTURE_BENCH_PROMPT; i++) {
        random = random * 6364136223846793005 + 1442695040888963407; /* Knuth's MMIX */
        prompt[i] = (int32_t)((random >> 33) % (uint64_t)r->engine->model.config.n_vocab);
    }
    struct nb_generate_options o = {.prompt_ids = prompt,
                                    .n_prompt_ids = NB_STRUCTURE_BENCH_PROMPT,
                                    .sampling = {.temperature = 0.7, .seed = seed},
                                    .grammar = r->grammar};
    struct nb_generate_options each = o, free_text = o;
    each.draw_all = true;
    free_text.grammar = NULL;
    free_text.ignore_eos = true;
    double jump_ms, each_ms = 0, free_ms = 0;
    size_t n, unused;
    enum nb_status s = generate(r->engine, &o, NB_STRUCTURE_BENCH_TOKENS, &jump_ms, &n, err);
    bool each_first = seed % 2;
    if (s == NB_OK && each_first)
        s = generate(r->engine, &each, (int32_t)n, &each_ms, &unused, err);
    if (s == NB_OK)
        s = generate(r->engine, &free_text, (int32_t)n, &free_ms, &unused, err);
    if (s == NB_OK && !each_first)
        s = generate(r->engine, &each, (int32_t)n, &each_ms, &unused, err);
    /* Nothing was decoded where the prompt's own step was all, or where it all was appended. */
    if (s != NB_OK || !(jump_ms > 0 && each_ms > 0 && free_ms > 0))
        return s;
    double of_round[N_SERIES] = {free_ms, each_ms, jump_ms, each_ms / free_ms - 1,
                                 free_ms / jump_ms};
    for (int k = 0; k < N_SERIES; k++)
        r->series[k][r->n] = of_round[k];
    r->tokens += n;
    r->n++;
    return NB_OK;
}

static struct nb_structure_time time_of(struct rounds *r, enum series which) {
    double middle = median(r->series[which], r->n);
    return (struct nb_structure_time){r->series[which][0], middle};
}

enum nb_status nb_structure_bench_run(struct nb_engine *engine,
                                      const struct nb_structure *structure, double seconds,
                                      struct nb_structure_bench *out, struct nb_error *err) {
    struct rounds *r = calloc(1, sizeof *r);
    *out = (struct nb_structure_bench){0};
    if (!r)
        return nb_fail_memory(err, sizeof *r, "bench");
    r->engine = engine;
    enum nb_status s = nb_grammar_compile(engine, structure, &r->grammar, err);
    int64_t end = nb_now_us() + (int64_t)(seconds * 1e6);
    /* The first round warms up, and counts for nothing. */
    for (uint64_t seed = 0; s == NB_OK && seed <= MAX_ROUNDS; seed++) {
        if (r->n >= MIN_ROUNDS && nb_now_us() >= end)
            break;
        s = run_round(r, seed, err);
        if (seed == 0) {
            r->n = 0;
            r->tokens = 0;
        }
    }
    if (s == NB_OK && !r->n)
        s = nb_fail(err, NB_ERR_UNSUPPORTED,
                    "%s: its answers are one token, or nothing but what must come: there is "
                    "nothing to measure",
                    structure->name ? structure->name : "schema");
    if (s == NB_OK)
        *out = (struct nb_structure_bench){
            .rounds = r->n,
            .tokens = r->tokens,
            .free = time_of(r, FREE),
            .each = time_of(r, EACH),
            .jump = time_of(r, JUMP),
            .loss = median(r->series[LOSS], r->n),
            .gain = median(r->series[GAIN], r->n),
        };
    nb_grammar_release(r->grammar);
    free(r);
    return s;
}
