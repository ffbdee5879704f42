/* Every architecture, layout of experts and way of quantizing, on every CPU version: the
 * checkpoints of tools/golden/architectures.py. */
#include "golden.h"

static const char *const checkpoints[] = {
    "mistral",
    "mistral-nf4",
    "llama",
    "llama-nf4",
    "qwen3",
    "qwen3-nf4",
    "qwen3_moe",
    "qwen3_moe-one-nf4",
    "qwen3_moe-unnormalized-nf4",
    "small-fp16",
    "small-fp32",
    "mixtral-fused",
    "small-fp4",
    "small-nf4-in-bf16",
    "small-nf4-plain-absmax",
    "small-nf4-in-fp16",
    "small-nf4-in-fp32",
    "small-nf4-blocks-128",
    "small-nf4-blocks-4096",
};
enum { N_PROMPTS = 3 };

static void on_every_version(void (*test)(const char *checkpoint, const char *cpu,
                                          struct nb_engine *engine, const struct golden *g)) {
    const char *cpus[MAX_VERSIONS];
    int n_cpus = versions(cpus);
    for (size_t i = 0; i < sizeof checkpoints / sizeof *checkpoints; i++) {
        char folder[128];
        struct golden g;
        snprintf(folder, sizeof folder, "tests/golden/arch-tiny-%s", checkpoints[i]);
        golden_open(&g, folder);
        for (int v = 0; v < n_cpus; v++) {
            struct nb_engine *engine = open_engine(folder, cpus[v], 1);
            test(checkpoints[i], cpus[v], engine, &g);
            nb_engine_close(engine);
        }
        nb_tensors_close(&g.tensors);
    }
}

static void compare_prompts(const char *checkpoint, const char *cpu, struct nb_engine *engine,
                            const struct golden *g) {
    for (int p = 0; p < N_PROMPTS; p++)
        compare_logits(engine, g, p, checkpoint, cpu);
    check_divergence(checkpoint, cpu);
}

static void logits(void **state) {
    (void)state;
    on_every_version(compare_prompts);
}

static void compare_continuations(const char *checkpoint, const char *cpu, struct nb_engine *engine,
                                  const struct golden *g) {
    (void)checkpoint;
    for (int p = 0; p < N_PROMPTS; p++)
        compare_greedy(engine, g, p, cpu);
}

static void greedy_continuations(void **state) {
    (void)state;
    on_every_version(compare_continuations);
}

/* test_architectures [NAME]: all tests, or one. */
int main(int argc, char **argv) {
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits),
        cmocka_unit_test(greedy_continuations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
