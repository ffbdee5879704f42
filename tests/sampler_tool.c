/* Measures what the host does between two steps: a draw from a row of logits, a grammar's mask, log
 * probabilities.
 *
 *     sampler_tool [VOCABULARY ...]     default: 32000 151936
 *
 * Microseconds of this thread's processor time: the median of the draws of a round, and of the
 * rounds the best. "peaked" logits fall off as those of a language model do (some ten tokens hold
 * most of the probability, most of the others are 15 to 25 below the best); "flat" ones are normal
 * with deviation 1, as of a model with random weights: all tokens count.
 */
#include "engine/sampler.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROWS = 8, DRAWS = 64, ROUNDS = 7 };

static double thread_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* Knuth's MMIX generator; uniform in (0, 1). */
static double uniform(uint64_t *random) {
    *random = *random * 6364136223846793005 + 1442695040888963407;
    return ((double)(*random >> 12) + 0.5) * 0x1p-52;
}

static double normal(uint64_t *random) {
    double radius = sqrt(-2 * log(uniform(random)));
    return radius * cos(2 * 3.14159265358979 * uniform(random));
}

static void fill(float *row, size_t n, bool peaked, uint64_t *random) {
    for (size_t i = 0; i < n; i++)
        row[i] = (float)(peaked ? -4 + 2.5 * normal(random) : normal(random));
    for (int i = 0; peaked && i < 40; i++)
        row[(size_t)(uniform(random) * (double)n)] = (float)(16 - 4 * log(1 + i) + normal(random));
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static const struct {
    const char *name;
    struct nb_sampling how;
} ways[] = {
    {"greedy", {.temperature = 0}},
    {"greedy, penalty 1.1", {.repetition_penalty = 1.1}},
    {"temperature 0.1", {.temperature = 0.1}},
    {"temperature 0.7", {.temperature = 0.7}},
    {"temperature 2", {.temperature = 2}},
    {"top_k 50", {.temperature = 0.7, .top_k = 50}},
    {"top_k 5000", {.temperature = 0.7, .top_k = 5000}},
    {"top_p 0.95", {.temperature = 0.7, .top_p = 0.95}},
    {"min_p 0.05", {.temperature = 0.7, .min_p = 0.05}},
    {"top_k 50, top_p 0.95, penalty 1.1",
     {.temperature = 0.7, .top_k = 50, .top_p = 0.95, .repetition_penalty = 1.1}},
    {"top_k 5000, top_p 0.95, min_p 0.01, penalty 1.1",
     {.temperature = 0.7, .top_k = 5000, .top_p = 0.95, .min_p = 0.01, .repetition_penalty = 1.1}},
};

static double measure(const struct nb_sampling *how, float *rows, size_t n) {
    struct nb_sampler sampler;
    struct nb_error err;
    double best = INFINITY, us[DRAWS];
    if (nb_sampler_open(how, n, &sampler, &err) != NB_OK) {
        fprintf(stderr, "sampler_tool: %s\n", err.message);
        exit(1);
    }
    for (size_t i = 0; i < n; i += 37) /* a prompt of some thousand tokens */
        nb_sampler_saw(&sampler, (int32_t)i);
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < DRAWS; i++) {
            double start = thread_us();
            nb_sample(&sampler, rows + (size_t)(i % ROWS) * n);
            us[i] = thread_us() - start;
        }
        qsort(us, DRAWS, sizeof *us, compare);
        best = us[DRAWS / 2] < best ? us[DRAWS / 2] : best;
    }
    nb_sampler_close(&sampler);
    return best;
}

static double measure_normalizer(const float *rows, size_t n) {
    double best = INFINITY;
    volatile double sink = 0;
    for (int i = 0; i < ROUNDS * ROWS; i++) {
        double start = thread_us();
        sink = sink + nb_log_normalizer(rows + (size_t)(i % ROWS) * n, n);
        double us = thread_us() - start;
        best = us < best ? us : best;
    }
    return best;
}

static void report(size_t n) {
    float *rows[2];
    uint64_t random = 1;
    for (int peaked = 0; peaked < 2; peaked++) {
        rows[peaked] = malloc(ROWS * n * sizeof **rows);
        if (!rows[peaked])
            exit(1);
        for (int i = 0; i < ROWS; i++)
            fill(rows[peaked] + (size_t)i * n, n, peaked, &random);
    }
    printf("%-48zu %10s %10s   us\n", n, "peaked", "flat");
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++)
        printf("%-48s %10.1f %10.1f\n", ways[i].name, measure(&ways[i].how, rows[1], n),
               measure(&ways[i].how, rows[0], n));
    printf("%-48s %10.1f %10.1f\n", "log probability", measure_normalizer(rows[1], n),
           measure_normalizer(rows[0], n));
    free(rows[0]);
    free(rows[1]);
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        report((size_t)strtoull(argv[i], NULL, 10));
    if (argc == 1) {
        report(32000);
        report(151936);
    }
    return 0;
}
