/* Random models, KV memory and steps made on the device, in the layout that kernels read, for tests
 * and measurements of the CUDA backend that need no checkpoint: any shape, and 24 GB in well under
 * a second. And the comparison of two ways to the same logits.
 */
#ifndef NB_TEST_CUDA_RANDOM_H
#define NB_TEST_CUDA_RANDOM_H

#include "backend/cuda/device.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <vector>

/* Ends the program with the place and the name of a CUDA error. */
#define CUDA_CHECK(call)                                                                           \
    do {                                                                                           \
        cudaError_t error_ = (call);                                                               \
        if (error_ != cudaSuccess) {                                                               \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call,                          \
                    cudaGetErrorString(error_));                                                   \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* The shape of a model, and of how its matrices are held. */
struct cuda_random_config {
    const char *name;
    int32_t n_vocab, n_layers, width, n_heads, n_kv_heads, head_width, n_experts, experts_per_token,
        expert_width, window, context;
    bool qk_norm, normalize_experts, dense, tied;
    enum nb_cuda_kind kind, head_kind; /* of the layers' matrices, and of head */
    int32_t block;                     /* weights that share an absmax */
    int32_t values;                    /* enum nb_quant_type */
    bool kv_fp8;
};

/* The two models of the benchmarks: NF4 double quantized, head in bf16. */
extern const struct cuda_random_config cuda_mixtral_8x7b, cuda_qwen3_30b_a3b;

/* Small models of every architecture, kind of matrix and odd shape. */
extern const struct cuda_random_config cuda_small[];
extern const int cuda_n_small;

struct cuda_random_model {
    struct nb_cuda_model model;
    struct nb_cuda_limits limits;
    uint64_t weight_bytes;           /* of all that a pass may read, embedding aside */
    std::vector<void *> allocations; /* device */
    std::vector<nb_cuda_layer> layers;
};

/* A model of that shape with n_pages pages of KV memory, all of it filled: activations stay near 1
 * from layer to layer, router logits have a standard deviation of about 1.5. max_tokens and
 * max_sequences go to limits, the rest of which is of the current device. The same seed makes the
 * same bytes. A failure ends the program, as everywhere in this file. */
void cuda_random_make(const struct cuda_random_config *config, int32_t n_pages, int32_t max_tokens,
                      int32_t max_sequences, uint64_t seed, struct cuda_random_model *out);
void cuda_random_free(struct cuda_random_model *m);

/* New tokens of one sequence. */
struct cuda_random_chunk {
    int32_t past, n; /* positions [past, past + n) */
    enum { LOGITS_NONE, LOGITS_LAST, LOGITS_ALL } logits;
};

struct cuda_random_step {
    struct nb_cuda_step step;
    int32_t *input; /* device: all that step points to but logits */
    float *logits;  /* device */
};

/* A step of random tokens, each sequence with pages of its own in shuffled order (n_pages of the
 * model must suffice). */
void cuda_random_step_make(const struct cuda_random_model *m,
                           const std::vector<cuda_random_chunk> &chunks, uint64_t seed,
                           struct cuda_random_step *out);
void cuda_random_step_free(struct cuda_random_step *s);

/* Pages that the chunks take. */
int32_t cuda_random_pages(const std::vector<cuda_random_chunk> &chunks);

/* The step's logits on the host, [n_logits, V]. */
std::vector<float> cuda_logits(const struct cuda_random_model *m, const struct cuda_random_step *s);

struct cuda_difference {
    double error;           /* |a - b| / |b| over all rows together */
    double median_error;    /* of rows */
    double worst_error;     /* of a row */
    double mean_kl, max_kl; /* KL(softmax b || softmax a), nats */
    int32_t rows, same_argmax;
    bool finite; /* a is, everywhere */
};

/* Logits a against b, [n, V] both. */
struct cuda_difference cuda_compare(const std::vector<float> &a, const std::vector<float> &b,
                                    int32_t n_vocab);

/* splitmix64 */
uint64_t cuda_random_bits(uint64_t *state);

#endif
