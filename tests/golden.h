/* Golden logits: what tools/golden/README.md says of golden.safetensors, and an engine held to it.
 */
#ifndef NB_TEST_GOLDEN_H
#define NB_TEST_GOLDEN_H

#include "test.h"

#include "backend/cpu/kernels.h"
#include "engine/engine.h"

#include <math.h>

/* The CPU versions that this processor runs. */
static inline int versions(const char *out[3]) {
    static const char *const all[] = {"plain", "avx2", "avx512"};
    int n = 0;
    for (int i = 0; i < 3; i++) {
        if (nb_kernels_find(all[i]))
            out[n++] = all[i];
    }
    return n;
}

/* Weights stay in the type that the checkpoint has them in. */
static inline struct nb_engine *open_engine(const char *checkpoint, const char *cpu,
                                            int sequences) {
    struct nb_error err;
    struct nb_engine *engine;
    struct nb_options options = {
        .threads = 2, .cpu = cpu, .sequences = sequences, .quantize = "none"};
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

/* That the logits of a prompt are the reference's to within `most`, and their divergence at most
 * most_kl, and never above that of transformers in bf16. */
static inline void compare_logits(struct nb_engine *engine, const struct golden *g, int prompt,
                                  float most, double most_kl, const char *checkpoint,
                                  const char *cpu) {
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
    if (nb_kernels_find(cpu)->fixed) { /* rounds weights to 13 bits or more, activations to 14 */
        most = 0.05f;
        most_kl = 1e-4;
        kl_bf16 /= 100; /* as measured, 1,000 and more */
    }
    if (!(worst < most) || !(kl <= kl_bf16) || !(kl < most_kl))
        fail_msg("%s, %s, prompt %d: logits differ by %g, KL %g, bf16's is %g", checkpoint, cpu,
                 prompt, (double)worst, kl, kl_bf16);
    free(got);
}

/* That a prompt goes on, greedily, as the reference's does. */
static inline void compare_greedy(struct nb_engine *engine, const struct golden *g, int prompt) {
    struct nb_error err;
    size_t n, n_greedy;
    const int32_t *ids = golden(g, prompt, "ids", &n);
    const int32_t *want = golden(g, prompt, "greedy", &n_greedy);
    struct nb_generate_options o = {
        .prompt_ids = ids, .n_prompt_ids = n, .max_tokens = (int32_t)n_greedy, .ignore_eos = true};
    struct nb_generation got;
    assert_ok(nb_generate(engine, &o, &got, &err), err);
    assert_int_equal(got.n_tokens, n_greedy);
    assert_memory_equal(got.token_ids, want, n_greedy * sizeof *want);
    assert_int_equal(got.finish, NB_FINISH_LENGTH);
    assert_int_equal(got.n_prompt_tokens, n);
    assert_null(got.text);
    nb_generation_free(&got);
}

#endif
