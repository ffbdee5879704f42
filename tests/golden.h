/* Golden logits: what tools/golden/README.md says of golden.safetensors, and an engine held to it.
 */
#ifndef NB_TEST_GOLDEN_H
#define NB_TEST_GOLDEN_H

#include "test.h"

#include "backend/cpu/kernels.h"
#include "engine/engine.h"

#include <math.h>

/* What a test is run on: the CPU's versions that this processor has, or with NB_TEST_BACKEND=cuda a
 * GPU, each way of doing a step that it has; with NB_TEST_WAYS="plain decode" those alone. */
enum { MAX_VERSIONS = 3 };

static inline bool on_gpu(void) {
    const char *backend = getenv("NB_TEST_BACKEND");
    return backend && strcmp(backend, "cuda") == 0;
}

static inline int versions(const char *out[MAX_VERSIONS]) {
    static const char *const cpus[] = {"plain", "avx2", "avx512"}, *const gpus[] = {"cuda plain",
                                                                                    "cuda batch",
                                                                                    "cuda decode"};
    const char *ways = getenv("NB_TEST_WAYS");
    int n = 0;
    for (int i = 0; i < MAX_VERSIONS; i++) {
        if (on_gpu() ? !ways || strstr(ways, gpus[i] + 5) : nb_kernels_find(cpus[i]) != NULL)
            out[n++] = on_gpu() ? gpus[i] : cpus[i];
    }
    return n;
}

/* How far a version's logits may be from the reference's, which have a standard deviation of 3. */
struct bounds {
    bool exact;  /* the same sums in whatever batch: the same bits */
    float most;  /* of a logit */
    double kl;   /* of a prompt */
    double bf16; /* of what transformers in bf16 has: KL must not be more than this times that */
};

static inline struct bounds bounds_of(const char *version) {
    bool gpu = strncmp(version, "cuda", 4) == 0;
    if (!gpu && !nb_kernels_find(version)->fixed) /* rounding of f32 sums */
        return (struct bounds){true, 2e-4f, 1e-8, 1};
    if (!gpu) /* weights rounded to 13 bits or more, activations to 14; KL, as measured, 1,000 times
               * below bf16's and more */
        return (struct bounds){false, 0.05f, 1e-4, 0.01};
    /* Keys and values in bf16, weights in floats, and in the fast ways activations, too: as much as
     * transformers has for one prompt or another, but not for all of a checkpoint's together. */
    return (struct bounds){false, 0.5f, 2e-2, 2};
}

/* "mapped" or "packed"; NULL: packed, where memory allows. */
static const char *golden_weights;

/* Weights stay in the type that the checkpoint has them in. */
static inline struct nb_engine *open_engine(const char *checkpoint, const char *version,
                                            int sequences) {
    struct nb_error err;
    struct nb_engine *engine;
    bool gpu = strncmp(version, "cuda", 4) == 0;
    struct nb_options options = {.threads = 2,
                                 .backend = gpu ? "cuda" : "cpu",
                                 .cpu = gpu ? version + 5 : version,
                                 .weights = golden_weights,
                                 .sequences = sequences,
                                 .quantize = "none"};
    assert_ok(nb_engine_open(test_path(checkpoint), &options, &engine, &err), err);
    return engine;
}

struct golden {
    struct nb_tensors tensors;
};

static inline void golden_open(struct golden *g, const char *checkpoint) {
    char path[256];
    struct nb_error err;
    snprintf(path, sizeof path, "%s/golden.safetensors", checkpoint);
    assert_ok(nb_tensors_open_file(test_path(path), &g->tensors, &err), err);
}

static inline const void *golden(const struct golden *g, int prompt, const char *what, size_t *n) {
    char name[64];
    snprintf(name, sizeof name, "prompt.%d.%s", prompt, what);
    const struct nb_tensor *t = nb_tensors_find(&g->tensors, name);
    if (!t)
        fail_msg("golden file has no %s", name);
    *n = t->bytes / 4; /* i32 and f32 alike */
    return t->data;
}

/* KL(softmax(p) || softmax(q)) of n logits, in nats. */
static inline double divergence(const float *p, const float *q, size_t n) {
    double mp = -INFINITY, mq = -INFINITY, sp = 0, sq = 0, kl = 0;
    for (size_t i = 0; i < n; i++) {
        mp = fmax(mp, p[i]);
        mq = fmax(mq, q[i]);
    }
    for (size_t i = 0; i < n; i++) {
        sp += exp(p[i] - mp);
        sq += exp(q[i] - mq);
    }
    for (size_t i = 0; i < n; i++) {
        double lp = p[i] - mp - log(sp), lq = q[i] - mq - log(sq);
        kl += exp(lp) * (lp - lq);
    }
    return kl;
}

static inline float largest_difference(const float *a, const float *b, size_t n) {
    float worst = 0;
    for (size_t i = 0; i < n; i++) {
        if (!(fabsf(a[i] - b[i]) <= worst))
            worst = fabsf(a[i] - b[i]);
    }
    return worst;
}

/* Logits of all rows of a prompt; the caller frees them. */
static inline float *all_logits(struct nb_engine *engine, const int32_t *ids, size_t n) {
    struct nb_error err;
    struct nb_sequence sequence;
    float *logits;
    size_t values = n * (size_t)engine->model.config.n_vocab;
    assert_ok(nb_sequence_open(engine, &sequence, &err), err);
    assert_ok(nb_sequence_append(&sequence, ids, n, n, &logits, &err), err);
    float *copy = malloc(values * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, logits, values * sizeof *copy);
    nb_sequence_close(&sequence);
    return copy;
}

/* KL of the prompts compared since the last check_divergence, and what transformers in bf16 has. */
struct divergence_sum {
    double kl, bf16;
};
static struct divergence_sum divergence_sum;

/* That of all prompts together it is not more. */
static inline void check_divergence(const char *checkpoint, const char *version) {
    struct divergence_sum sum = divergence_sum;
    divergence_sum = (struct divergence_sum){0};
    if (!(sum.kl <= sum.bf16))
        fail_msg("%s, %s: KL of all prompts is %g, bf16's is %g", checkpoint, version, sum.kl,
                 sum.bf16);
}

/* That the logits of a prompt are the reference's to within the version's bounds. */
static inline void compare_logits(struct nb_engine *engine, const struct golden *g, int prompt,
                                  const char *checkpoint, const char *version) {
    struct bounds bounds = bounds_of(version);
    size_t n, n_rows, n_values, vocab = (size_t)engine->model.config.n_vocab;
    const int32_t *ids = golden(g, prompt, "ids", &n);
    const int32_t *rows = golden(g, prompt, "rows", &n_rows);
    const float *want = golden(g, prompt, "logits", &n_values);
    const float *bf16 = golden(g, prompt, "logits_bf16", &n_values);
    assert_int_equal(n_values, n_rows * vocab);
    float *got = all_logits(engine, ids, n);
    double kl = 0, kl_bf16 = 0;
    float worst = 0;
    for (size_t r = 0; r < n_rows; r++) {
        const float *row = got + (size_t)rows[r] * vocab;
        worst = fmaxf(worst, largest_difference(want + r * vocab, row, vocab));
        kl += divergence(want + r * vocab, row, vocab);
        kl_bf16 += divergence(want + r * vocab, bf16 + r * vocab, vocab);
    }
    if (!(worst < bounds.most) || !(kl <= kl_bf16 * bounds.bf16) || !(kl < bounds.kl))
        fail_msg("%s, %s, prompt %d: logits differ by %g, KL %g, bf16's is %g", checkpoint, version,
                 prompt, (double)worst, kl, kl_bf16);
    divergence_sum.kl += kl;
    divergence_sum.bf16 += kl_bf16;
    free(got);
}

/* By how much the best logit is above the second. */
static inline float lead(const float *logits, size_t n) {
    float best = -INFINITY, second = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        second = fmaxf(second, fminf(best, logits[i]));
        best = fmaxf(best, logits[i]);
    }
    return best - second;
}

/* That a prompt goes on, greedily, as the reference's does; where the version rounds, until the
 * first place where its best two logits are nearer than twice what it may be wrong by. */
static inline void compare_greedy(struct nb_engine *engine, const struct golden *g, int prompt,
                                  const char *version) {
    struct bounds bounds = bounds_of(version);
    struct nb_error err;
    size_t n, n_greedy, vocab = (size_t)engine->model.config.n_vocab;
    const int32_t *ids = golden(g, prompt, "ids", &n);
    const int32_t *want = golden(g, prompt, "greedy", &n_greedy);
    struct nb_generate_options o = {
        .prompt_ids = ids, .n_prompt_ids = n, .max_tokens = (int32_t)n_greedy, .ignore_eos = true};
    struct nb_generation got;
    assert_ok(nb_generate(engine, &o, &got, &err), err);
    assert_int_equal(got.n_tokens, n_greedy);
    size_t same = 0;
    while (same < n_greedy && got.token_ids[same] == want[same])
        same++;
    if (same < n_greedy) {
        int32_t *all = malloc((n + n_greedy) * sizeof *all);
        assert_non_null(all);
        memcpy(all, ids, n * sizeof *all);
        memcpy(all + n, want, same * sizeof *all);
        float *logits = all_logits(engine, all, n + same);
        float by = lead(logits + (n + same - 1) * vocab, vocab);
        if (bounds.exact || by > 2 * bounds.most)
            fail_msg("%s, prompt %d: token %zu is %d, expected %d, and leads by %g", version,
                     prompt, same, got.token_ids[same], want[same], (double)by);
        free(logits);
        free(all);
    }
    assert_int_equal(got.finish, NB_FINISH_LENGTH);
    assert_int_equal(got.n_prompt_tokens, n);
    assert_null(got.text);
    nb_generation_free(&got);
}

#endif
