/* From logits to a token: greedy and random choice, and log probabilities. */
#include "test.h"

#include "checkpoint.h"

#include "engine/draw.h"
#include "engine/logits.h"
#include "engine/sampler.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

static struct nb_sampler open_sampler(struct nb_sampling how, size_t n_vocab) {
    struct nb_sampler sampler;
    struct nb_error err;
    assert_ok(nb_sampler_open(&how, n_vocab, &sampler, &err), err);
    return sampler;
}

/* One token from n logits. */
static int32_t sample_once(struct nb_sampling how, const float *logits, size_t n) {
    struct nb_sampler sampler = open_sampler(how, n);
    int32_t token = nb_sample(&sampler, logits);
    nb_sampler_close(&sampler);
    return token;
}

/* ---- odd logits ---- */

/* What is drawn, whatever the way and the seed, from logits that leave one choice. */
static const struct {
    const char *label;
    float logits[5];
    int32_t greedy;
    int32_t drawn; /* by a random way; -1: any of them */
} certain[] = {
    {"the largest", {1, 2, 5, 4, 3}, 2, -1},
    {"the first of equal ones", {1, 7, 7, 7, 0}, 1, -1},
    {"all equal", {0, 0, 0, 0, 0}, 0, -1},
    {"NaN is minus infinity", {NAN, NAN, NAN, -1e30f, NAN}, 3, 3},
    {"NaN before the largest", {NAN, 3, 200, 1, NAN}, 2, 2},
    {"nothing but NaN", {NAN, NAN, NAN, NAN, NAN}, 0, 0},
    {"minus infinity", {-INFINITY, -INFINITY, -3, -INFINITY, -INFINITY}, 2, 2},
    {"nothing but minus infinity", {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY}, 0, 0},
    {"infinity", {3e38f, 3e38f, 3e38f, INFINITY, NAN}, 3, 3},
    {"two infinities", {0, INFINITY, 0, INFINITY, 0}, 1, 1},
    {"far apart", {-3e38f, 3e38f, 0, 0, 0}, 1, 1},
};

static void odd_logits(void **state) {
    (void)state;
    static const struct nb_sampling ways[] = {
        {.temperature = 1},
        {.temperature = 0.01, .top_p = 0.9},
        {.temperature = 1, .top_k = 3, .top_p = 0.5},
        {.temperature = 1e-300},
        {.temperature = 1, .min_p = 0.1},
    };
    for (size_t i = 0; i < sizeof certain / sizeof *certain; i++) {
        int32_t greedy = sample_once((struct nb_sampling){0}, certain[i].logits, 5);
        if (greedy != certain[i].greedy)
            fail_msg("%s: greedy took %d", certain[i].label, greedy);
        for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
            for (uint64_t seed = 0; seed < 20; seed++) {
                struct nb_sampling how = ways[w];
                how.seed = seed;
                int32_t token = sample_once(how, certain[i].logits, 5);
                if (token < 0 || token >= 5 || (certain[i].drawn >= 0 && token != certain[i].drawn))
                    fail_msg("%s: way %zu, seed %d took %d", certain[i].label, w, (int)seed, token);
            }
        }
    }
}

/* top_k 1 and a vanishing top_p leave the most probable token: the first, where others equal it and
 * only top_p cuts. */
static void cut_to_one(void **state) {
    (void)state;
    static const float logits[] = {1, 3, 2, 3, 0};
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct nb_sampling p = {.temperature = 1, .top_p = 1e-9, .seed = seed};
        assert_int_equal(sample_once(p, logits, 5), 1);
        struct nb_sampling k = {.temperature = 1, .top_k = 1, .seed = seed};
        assert_int_equal(sample_once(k, logits + 1, 2), 0);
    }
}

/* ---- distributions ---- */

enum { N = 8, DRAWS = 20000 };
static const double weights[N] = {0.04, 0.4, 0.01, 0.2, 0.15, 0.02, 0.1, 0.08};

/* What each way makes of `weights`, up to a common factor; -1 stands for the weight as it is. */
static const struct {
    const char *label;
    struct nb_sampling how;
    double power; /* of each weight */
    double want[N];
} ways[] = {
    {"plain", {.temperature = 1}, 1, {-1, -1, -1, -1, -1, -1, -1, -1}},
    {"temperature 0.5", {.temperature = 0.5}, 2, {-1, -1, -1, -1, -1, -1, -1, -1}},
    {"temperature 2", {.temperature = 2}, 0.5, {-1, -1, -1, -1, -1, -1, -1, -1}},
    {"top_k 3", {.temperature = 1, .top_k = 3}, 1, {0, -1, 0, -1, -1, 0, 0, 0}},
    {"top_k of all", {.temperature = 1, .top_k = 8}, 1, {-1, -1, -1, -1, -1, -1, -1, -1}},
    {"top_k of more", {.temperature = 1, .top_k = 800}, 1, {-1, -1, -1, -1, -1, -1, -1, -1}},
    {"top_p 0.55", {.temperature = 1, .top_p = 0.55}, 1, {0, -1, 0, -1, 0, 0, 0, 0}},
    {"top_p 0.65", {.temperature = 1, .top_p = 0.65}, 1, {0, -1, 0, -1, -1, 0, 0, 0}},
    {"top_p 1", {.temperature = 1, .top_p = 1}, 1, {-1, -1, -1, -1, -1, -1, -1, -1}},
    /* After the temperature 0.16, 0.04, 0.0225, … of 0.2414: 0.663, 0.829, 0.922 */
    {"temperature first", {.temperature = 0.5, .top_p = 0.7}, 2, {0, -1, 0, -1, 0, 0, 0, 0}},
    /* Of the first four, 0.85 in all, two reach 0.7; of all eight it would take three. */
    {"top_k before top_p",
     {.temperature = 1, .top_k = 4, .top_p = 0.7},
     1,
     {0, -1, 0, -1, 0, 0, 0, 0}},
    {"min_p 0.3", {.temperature = 1, .min_p = 0.3}, 1, {0, -1, 0, -1, -1, 0, 0, 0}},
};

/* Pearson's statistic of DRAWS draws, 7 degrees of freedom at most, exceeds 35 once in 10^5 times;
 * the seeds are fixed. */
static void distributions(void **state) {
    (void)state;
    float logits[N];
    for (int i = 0; i < N; i++)
        logits[i] = (float)log(weights[i]) + 3;
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        double want[N], sum = 0, statistic = 0;
        for (int i = 0; i < N; i++)
            sum += want[i] = ways[w].want[i] < 0 ? pow(weights[i], ways[w].power) : 0;
        struct nb_sampling how = ways[w].how;
        how.seed = 1000 + w;
        struct nb_sampler sampler = open_sampler(how, N);
        int count[N] = {0};
        for (int i = 0; i < DRAWS; i++)
            count[nb_sample(&sampler, logits)]++;
        nb_sampler_close(&sampler);
        for (int i = 0; i < N; i++) {
            double expected = want[i] / sum * DRAWS, d = count[i] - expected;
            if (expected == 0 && count[i])
                fail_msg("%s: token %d drawn %d times", ways[w].label, i, count[i]);
            statistic += expected > 0 ? d * d / expected : 0;
        }
        if (!(statistic < 35))
            fail_msg("%s: chi-square is %g", ways[w].label, statistic);
    }
}

/* Logits of a token that was seen are divided where positive and multiplied where negative. */
static void penalties(void **state) {
    (void)state;
    static const struct {
        float logits[3];
        double penalty;
        int32_t want;
    } cases[] = {
        {{3, 2, 1}, 1, 0},    {{3, 2, 1}, 1.4, 0},    {{3, 2, 1}, 2, 1},
        {{-1, -2, -3}, 1, 0}, {{-1, -2, -3}, 1.5, 0}, {{-1, -2, -3}, 2.5, 1},
        {{3, 2, 1}, 0, 0},    {{0, -1, -1}, 100, 0},  {{1, 2, 3}, 1e6, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct nb_sampling how = {.repetition_penalty = cases[i].penalty};
        struct nb_sampler sampler = open_sampler(how, 3);
        nb_sampler_saw(&sampler, 0);
        nb_sampler_saw(&sampler, 0); /* seeing it twice is seeing it */
        nb_sampler_saw(&sampler, -1);
        nb_sampler_saw(&sampler, 3);
        if (nb_sample(&sampler, cases[i].logits) != cases[i].want)
            fail_msg("penalty %zu: not token %d", i, cases[i].want);
        nb_sampler_close(&sampler);
    }
}

/* The same seed draws the same tokens, another one others, one after another differ. */
static void seeds(void **state) {
    (void)state;
    enum { COUNT = 64, SEEDS = 8 };
    float logits[100] = {0};
    int32_t drawn[SEEDS][COUNT];
    for (int s = 0; s < SEEDS; s++) {
        for (int again = 0; again < 2; again++) {
            struct nb_sampling how = {.temperature = 1, .seed = (uint64_t)s};
            struct nb_sampler sampler = open_sampler(how, 100);
            for (int i = 0; i < COUNT; i++) {
                int32_t token = nb_sample(&sampler, logits);
                if (again)
                    assert_int_equal(token, drawn[s][i]);
                drawn[s][i] = token;
            }
            nb_sampler_close(&sampler);
        }
        int same = 0; /* of 64 draws from 100, 0.64 agree by chance */
        for (int i = 1; i < COUNT; i++)
            same += drawn[s][i] == drawn[s][i - 1];
        assert_true(same < 8);
        for (int t = 0; t < s; t++) {
            same = 0;
            for (int i = 0; i < COUNT; i++)
                same += drawn[s][i] == drawn[t][i];
            assert_true(same < 8);
        }
    }
}

static void options_out_of_range(void **state) {
    (void)state;
    static const struct {
        struct nb_sampling how;
        const char *says;
    } bad[] = {
        {{.temperature = -0.1}, "temperature is -0.1"},
        {{.temperature = NAN}, "temperature"},
        {{.temperature = INFINITY}, "temperature is inf"},
        {{.temperature = 101}, "temperature is 101"},
        {{.temperature = 1, .top_k = -1}, "top_k is -1"},
        {{.temperature = 1, .top_p = -0.5}, "top_p is -0.5"},
        {{.temperature = 1, .top_p = 1.5}, "top_p is 1.5"},
        {{.temperature = 1, .top_p = NAN}, "top_p"},
        {{.min_p = -1}, "min_p is -1"},
        {{.min_p = 2}, "min_p is 2"},
        {{.min_p = NAN}, "min_p"},
        {{.repetition_penalty = -1}, "repetition_penalty is -1"},
        {{.repetition_penalty = NAN}, "repetition_penalty"},
        {{.repetition_penalty = INFINITY}, "repetition_penalty is inf"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct nb_sampler sampler;
        struct nb_error err = {0};
        expect_failure(bad[i].says, nb_sampler_open(&bad[i].how, 10, &sampler, &err), &err,
                       NB_ERR_ARGUMENT, bad[i].says);
    }
}

/* ---- log probabilities ---- */

static void log_probabilities(void **state) {
    (void)state;
    static const struct {
        float logits[4];
        double want[4];
    } cases[] = {
        {{0, 0, 0, 0},
         {-1.3862943611198906, -1.3862943611198906, -1.3862943611198906, -1.3862943611198906}},
        {{1, 2, 3, 4},
         {-3.4401896985611953, -2.4401896985611953, -1.4401896985611953, -0.4401896985611953}},
        {{1e4f, 1e4f, -1e4f, 0},
         {-0.6931471805599453, -0.6931471805599453, -20000.693147180559, -10000.693147180559}},
        {{-1e30f, -INFINITY, -INFINITY, NAN}, {0, -INFINITY, -INFINITY, -INFINITY}},
        {{NAN, 5, 5, NAN}, {-INFINITY, -0.6931471805599453, -0.6931471805599453, -INFINITY}},
        {{INFINITY, 5, NAN, -INFINITY}, {0, -INFINITY, -INFINITY, -INFINITY}},
        /* Nothing is possible. */
        {{NAN, NAN, -INFINITY, NAN}, {-INFINITY, -INFINITY, -INFINITY, -INFINITY}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        for (int32_t t = 0; t < 4; t++) {
            double got = nb_log_probability(cases[i].logits, 4, t), want = cases[i].want[t];
            /* Doubles as large as the logit were subtracted. */
            double tolerance = 1e-15 * (1 + fabs((double)cases[i].logits[t]) + fabs(want));
            if (!(got == want || fabs(got - want) <= tolerance))
                fail_msg("case %zu, token %d: %.17g, expected %.17g", i, t, got, want);
        }
    }
}

/* Over a real vocabulary the probabilities add up to one. */
static void probabilities_sum_to_one(void **state) {
    (void)state;
    enum { VOCAB = 32000 };
    static float logits[VOCAB];
    uint64_t random = 4;
    for (size_t i = 0; i < VOCAB; i++)
        logits[i] = 5 * random_normal(&random);
    double sum = 0, normalizer = nb_log_normalizer(logits, VOCAB);
    for (int32_t t = 0; t < VOCAB; t++)
        sum += exp(logits[t] - normalizer);
    assert_true(fabs(sum - 1) < 1e-11);
    assert_true(nb_log_probability(logits, VOCAB, 77) == logits[77] - normalizer);
}

/* ---- the fast way ---- */

static double uniform(uint64_t *random) {
    *random = *random * 6364136223846793005 + 1442695040888963407; /* Knuth's MMIX */
    return (double)(*random >> 11) * 0x1p-53;
}

/* Rows of logits of every kind that there is, and some that there should not be. */
enum kind {
    NORMAL,   /* as of a model with random weights */
    PEAKED,   /* some far above the others, as of a language model */
    TIES,     /* many that are equal */
    EQUAL,    /* all are */
    MASKED,   /* some above minus infinity */
    SPECIAL,  /* with NaN, minus infinity and zeros of both signs */
    NEAR,     /* neighbours among the floats */
    FAR,      /* as far apart as floats are */
    TINY,     /* below the smallest normal float */
    INFINITE, /* infinity among them */
    NOTHING,  /* NaN and minus infinity alone */
    N_KINDS
};

static float logit_of(enum kind kind, uint64_t *random) {
    float x = random_normal(random);
    double u = uniform(random);
    switch (kind) {
    case NORMAL:
        return x;
    case PEAKED:
        return u < 0.01 ? 10 + 2 * x : 2.5f * x - 4;
    case TIES:
        return roundf(2 * x) / 2;
    case EQUAL:
        return -1.25f;
    case MASKED:
        return u < 0.03 ? 3 * x : -INFINITY;
    case SPECIAL:
        return u < 0.1 ? NAN : u < 0.2 ? -INFINITY : u < 0.3 ? -0.0f : u < 0.4 ? 0.0f : x;
    case NEAR:
        return 1 + (float)(int)(8 * u) * 0x1p-23f;
    case FAR:
        return (float)(copysign(1, x) * exp(80 * u));
    case TINY:
        return x * 1e-42f;
    case INFINITE:
        return u < 0.01 ? INFINITY : x;
    default:
        return u < 0.5 ? NAN : -INFINITY;
    }
}

static void fill(enum kind kind, float *logits, size_t n, uint64_t *random) {
    for (size_t i = 0; i < n; i++)
        logits[i] = logit_of(kind, random);
}

static const struct nb_sampling drawing[] = {
    {.temperature = 1},
    {.temperature = 0.01},
    {.temperature = 0.7},
    {.temperature = 100},
    {.temperature = 1e-300},
    {.temperature = 1, .top_k = 1},
    {.temperature = 1, .top_k = 3},
    {.temperature = 2, .top_k = NB_TOP_MOST},
    {.temperature = 2, .top_k = NB_TOP_MOST + 1},
    {.temperature = 1, .top_k = 3000},
    {.temperature = 1, .top_p = 1e-9},
    {.temperature = 1, .top_p = 0.5},
    {.temperature = 0.7, .top_p = 0.95},
    {.temperature = 1, .top_p = 0.999999},
    {.temperature = 1, .min_p = 0.05},
    {.temperature = 1, .min_p = 1},
    {.temperature = 5, .min_p = 1e-9},
    {.temperature = 1, .repetition_penalty = 1.3},
    {.temperature = 0.8, .top_k = 50, .top_p = 0.95, .min_p = 0.01, .repetition_penalty = 1.1},
    {.temperature = 3, .top_k = 2000, .top_p = 0.9, .min_p = 0.01, .repetition_penalty = 0.8},
};

/* What nb_sampler_fast draws is what the definition draws, for numbers at random, the least, the
 * largest, and around an edge between two candidates, where sums in another order may differ. */
static void same_draws(const struct nb_sampling *how, const float *logits, size_t n,
                       uint64_t *random, const char *label) {
    struct nb_sampler sampler = open_sampler(*how, n);
    for (size_t i = 0; i < n; i += 3)
        nb_sampler_saw(&sampler, (int32_t)i);
    double units[9] = {0, 1 - 0x1p-53, uniform(random), uniform(random), uniform(random)}, edge = 0;
    size_t kept = nb_sampler_candidates(&sampler, logits);
    size_t stop = kept ? (size_t)(uniform(random) * (double)kept) : 0;
    for (size_t i = 0; i <= stop && i < kept; i++)
        edge += sampler.candidates[i].p;
    units[5] = fmax(edge * (1 - 1e-9), 0);
    units[6] = fmin(edge * (1 + 1e-9), 1 - 0x1p-53);
    units[7] = fmin(edge, 1 - 0x1p-53);
    units[8] = fmin(nextafter(edge, 0), 1 - 0x1p-53);
    for (int i = 0; i < 9; i++) {
        int32_t fast = nb_sampler_fast(&sampler, logits, units[i]),
                plain = nb_sampler_plain(&sampler, logits, units[i]);
        if (fast != plain)
            fail_msg("%s, %zu logits, way %td, at %.17g: token %d, expected %d", label, n,
                     how - drawing, units[i], fast, plain);
    }
    nb_sampler_close(&sampler);
}

static void fast_draws(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 2, 5, 63, 64, 65, 1000, 4097, 32000};
    static const char *const labels[N_KINDS] = {"normal", "peaked",   "ties",   "equal",
                                                "masked", "special",  "near",   "far",
                                                "tiny",   "infinite", "nothing"};
    uint64_t random = 11;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        float *logits = malloc(sizes[s] * sizeof *logits);
        assert_non_null(logits);
        for (int kind = 0; kind < N_KINDS; kind++) {
            fill((enum kind)kind, logits, sizes[s], &random);
            for (size_t w = 0; w < sizeof drawing / sizeof *drawing; w++) {
                if (sizes[s] < 10000 || w % 4 == (size_t)kind % 4) /* they take milliseconds */
                    same_draws(&drawing[w], logits, sizes[s], &random, labels[kind]);
            }
        }
        free(logits);
    }
}

/* The fast way seldom has to put all in order: else it would be none. */
static void fast_draws_are_certain(void **state) {
    (void)state;
    enum { VOCAB = 152000, COUNT = 100 };
    float *logits = malloc(VOCAB * sizeof *logits);
    struct nb_candidate *scratch = malloc(VOCAB * sizeof *scratch);
    struct nb_draw *draw = nb_draw_open(VOCAB);
    assert_true(logits && scratch && draw);
    uint64_t random = 12;
    static const struct nb_sampling mixed[] = {
        {.temperature = 0.7, .top_p = 1},
        {.temperature = 1, .top_p = 0.95},
        {.temperature = 1, .top_p = 0.9, .top_k = 5000, .min_p = 0.001},
    };
    for (int peaked = 0; peaked < 2; peaked++) {
        int uncertain = 0;
        fill(peaked ? PEAKED : NORMAL, logits, VOCAB, &random);
        for (int i = 0; i < COUNT; i++) {
            int32_t token;
            uncertain +=
                !nb_draw(draw, &mixed[i % 3], logits, VOCAB, scratch, uniform(&random), &token);
        }
        assert_int_equal(uncertain, 0);
    }
    nb_draw_close(draw);
    free(scratch);
    free(logits);
}

/* ---- passes over logits ---- */

static int by_size(const float *logits, int32_t a, int32_t b) {
    float x = isnan(logits[a]) ? -INFINITY : logits[a],
          y = isnan(logits[b]) ? -INFINITY : logits[b];
    return x != y ? (x > y ? -1 : 1) : a < b ? -1 : a > b;
}

static const float *sorted_logits;
static int in_order(const void *a, const void *b) {
    return by_size(sorted_logits, *(const int32_t *)a, *(const int32_t *)b);
}

static void check_pass(const float *logits, size_t n, const char *label) {
    static int32_t want[5000], got[5000];
    static const size_t ks[] = {0, 1, 2, 20, NB_TOP_MOST};
    for (size_t i = 0; i < n; i++)
        want[i] = (int32_t)i;
    sorted_logits = logits;
    qsort(want, n, sizeof *want, in_order);
    for (size_t k = 0; k < sizeof ks / sizeof *ks; k++) {
        size_t m = ks[k] < n ? ks[k] : n;
        assert_int_equal(nb_logits_top(logits, n, ks[k], got), m);
        for (size_t i = 0; i < m; i++) {
            if (got[i] != want[i])
                fail_msg("%s: of %zu the %zu largest: number %zu is %d, expected %d", label, n,
                         ks[k], i, got[i], want[i]);
        }
    }
    float top = logits[want[0]], most, least, low = INFINITY;
    assert_int_equal(nb_logits_best(logits, n), top > -INFINITY ? want[0] : 0);
    nb_logits_range(logits, n, &most, &least);
    size_t equal = 0;
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        low = logits[i] > -INFINITY && logits[i] < low ? logits[i] : low;
        equal += logits[i] == logits[want[n / 2]];
        sum += isnan(logits[i]) ? 0 : exp((double)logits[i] - (double)top);
    }
    assert_true(most == (top > -INFINITY ? top : -INFINITY) && least == low);
    if (!isnan(logits[want[n / 2]]))
        assert_int_equal(nb_logits_equal(logits, n, logits[want[n / 2]], got), equal);
    if (isfinite(top))
        assert_true(fabs(nb_logits_exp_sum(logits, n, top) - sum) <= 1e-13 * sum);
}

static void passes(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 3, 64, 100, 129, 5000};
    static float logits[5000];
    uint64_t random = 13;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (int kind = 0; kind < N_KINDS; kind++) {
            char label[32];
            snprintf(label, sizeof label, "kind %d", kind);
            fill((enum kind)kind, logits, sizes[s], &random);
            check_pass(logits, sizes[s], label);
        }
    }
    for (size_t i = 0; i < 5000; i++) /* each one is among the largest so far */
        logits[i] = (float)i;
    check_pass(logits, 5000, "ascending");
}

/* exp of what the sum is made of, one term at a time. */
static void exponentials(void **state) {
    (void)state;
    uint64_t random = 14;
    for (int i = 0; i < 20000; i++) {
        float x = (float)(-690 * uniform(&random) * uniform(&random));
        double got = nb_logits_exp_sum(&x, 1, 0), want = exp(x);
        if (!(fabs(got - want) <= 2 * DBL_EPSILON * want))
            fail_msg("exp(%.9g) is %.17g, expected %.17g", x, got, want);
    }
    const float edges[] = {0, -0.0f, -1e-30f, -1e6f, -INFINITY, NAN};
    assert_true(nb_logits_exp_sum(edges, 6, 0) == 3);
}

static void masks(void **state) {
    (void)state;
    enum { MOST = 330 };
    uint64_t random = 15;
    for (size_t n = 0; n <= MOST; n++) {
        float logits[MOST];
        uint64_t bits[4];
        for (size_t i = 0; i < n; i++)
            logits[i] = (float)i;
        for (size_t w = 0; w < 4; w++)
            bits[w] = w == 1 ? ~UINT64_C(0) : w == 2 ? 0 : (uint64_t)(uniform(&random) * 0x1p64);
        nb_logits_keep(logits, n, bits, 4);
        for (size_t i = 0; i < n; i++) {
            bool stays = i < 256 && bits[i / 64] >> i % 64 & 1;
            assert_true(logits[i] == (stays ? (float)i : -INFINITY));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fast_draws),
        cmocka_unit_test(fast_draws_are_certain),
        cmocka_unit_test(passes),
        cmocka_unit_test(exponentials),
        cmocka_unit_test(masks),
        cmocka_unit_test(odd_logits),
        cmocka_unit_test(cut_to_one),
        cmocka_unit_test(distributions),
        cmocka_unit_test(penalties),
        cmocka_unit_test(seeds),
        cmocka_unit_test(options_out_of_range),
        cmocka_unit_test(log_probabilities),
        cmocka_unit_test(probabilities_sum_to_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
