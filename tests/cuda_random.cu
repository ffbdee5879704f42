#include "cuda_random.h"

#include "backend/cuda/launch.cuh"

extern "C" {
#include "backend/backend.h"
#include "quant/quant.h"
}

#include <cuda_fp8.h>

#include <algorithm>
#include <math.h>
#include <string.h>

const struct cuda_random_config cuda_mixtral_8x7b = {"mixtral-8x7b",
                                                     32000,
                                                     32,
                                                     4096,
                                                     32,
                                                     8,
                                                     128,
                                                     8,
                                                     2,
                                                     14336,
                                                     0,
                                                     32768,
                                                     false,
                                                     true,
                                                     false,
                                                     false,
                                                     NB_CUDA_NESTED,
                                                     NB_CUDA_BF16,
                                                     64,
                                                     NB_QUANT_NF4,
                                                     false};
const struct cuda_random_config cuda_qwen3_30b_a3b = {"qwen3-30b-a3b",
                                                      151936,
                                                      48,
                                                      2048,
                                                      32,
                                                      4,
                                                      128,
                                                      128,
                                                      8,
                                                      768,
                                                      0,
                                                      40960,
                                                      true,
                                                      true,
                                                      false,
                                                      false,
                                                      NB_CUDA_NESTED,
                                                      NB_CUDA_BF16,
                                                      64,
                                                      NB_QUANT_NF4,
                                                      false};

const struct cuda_random_config cuda_small[] = {
    /* name, V, L, D, H, G, d, E, K, F, window, context,
     * qk_norm, normalize, dense, tied, kind, head, block, values, fp8 */
    {"mixtral-like",
     320,
     2,
     512,
     8,
     2,
     64,
     8,
     2,
     320,
     0,
     65536,
     false,
     true,
     false,
     false,
     NB_CUDA_NESTED,
     NB_CUDA_BF16,
     64,
     NB_QUANT_NF4,
     false},
    {"mixtral-like, heads of 128",
     1000,
     2,
     1024,
     8,
     2,
     128,
     8,
     2,
     1792,
     0,
     65536,
     false,
     true,
     false,
     false,
     NB_CUDA_NESTED,
     NB_CUDA_BF16,
     64,
     NB_QUANT_NF4,
     false},
    {"qwen3-moe-like",
     640,
     2,
     512,
     8,
     1,
     128,
     128,
     8,
     192,
     0,
     65536,
     true,
     true,
     false,
     false,
     NB_CUDA_NESTED,
     NB_CUDA_BF16,
     64,
     NB_QUANT_NF4,
     false},
    {"not normalized, blocks of 256, fp8",
     640,
     2,
     512,
     16,
     2,
     64,
     16,
     4,
     256,
     0,
     65536,
     true,
     false,
     false,
     false,
     NB_CUDA_NESTED,
     NB_CUDA_BF16,
     256,
     NB_QUANT_NF4,
     true},
    {"dense with a window, bf16",
     512,
     2,
     512,
     4,
     4,
     64,
     1,
     1,
     704,
     100,
     65536,
     false,
     true,
     true,
     false,
     NB_CUDA_BF16,
     NB_CUDA_BF16,
     64,
     NB_QUANT_NF4,
     false},
    {"dense with a window, heads of 128",
     512,
     2,
     512,
     8,
     2,
     128,
     1,
     1,
     704,
     300,
     65536,
     false,
     true,
     true,
     false,
     NB_CUDA_ABSMAX,
     NB_CUDA_BF16,
     64,
     NB_QUANT_NF4,
     false},
    {"tied 4-bit head, fp4, groups of 5",
     500,
     2,
     320,
     10,
     2,
     64,
     4,
     2,
     192,
     0,
     65536,
     false,
     true,
     false,
     true,
     NB_CUDA_NESTED,
     NB_CUDA_NESTED,
     64,
     NB_QUANT_FP4,
     false},
    {"odd and tiny, blocks of 32",
     131,
     3,
     96,
     6,
     2,
     16,
     5,
     3,
     72,
     0,
     65536,
     false,
     true,
     false,
     false,
     NB_CUDA_ABSMAX,
     NB_CUDA_BF16,
     32,
     NB_QUANT_NF4,
     false},
    {"heads of 24",
     131,
     2,
     96,
     4,
     2,
     24,
     3,
     1,
     160,
     50,
     65536,
     true,
     true,
     false,
     true,
     NB_CUDA_ABSMAX,
     NB_CUDA_BF16,
     32,
     NB_QUANT_NF4,
     true},
};
const int cuda_n_small = sizeof cuda_small / sizeof *cuda_small;

/* ---- random numbers ---- */

__host__ __device__ static inline uint64_t mix(uint64_t z) {
    z += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
}

uint64_t cuda_random_bits(uint64_t *state) {
    return mix((*state)++ * 0x9E3779B97F4A7C15);
}

/* Mean 0, standard deviation 1, within sqrt(6): the sum of two even distributions. */
__device__ static float random_float(uint64_t seed, uint64_t i) {
    uint64_t bits = mix(seed + i);
    float a = (float)(uint32_t)bits, b = (float)(uint32_t)(bits >> 32);
    return ((a + b) * (1.0f / 4294967296.0f) - 1.0f) * 2.4494897f;
}

/* ---- filling ---- */

/* out[i] = mean + deviation * random */
__global__ static void fill_f32(float *out, size_t n, float mean, float deviation, uint64_t seed) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x)
        out[i] = mean + deviation * random_float(seed, i);
}

__device__ static void narrow(float x, __nv_bfloat16 *out) {
    *out = __float2bfloat16(x);
}
__device__ static void narrow(float x, __nv_fp8_e4m3 *out) {
    *out = __nv_fp8_e4m3(x);
}

template <class T>
__global__ static void fill_narrow(T *out, size_t n, float deviation, uint64_t seed) {
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n;
         i += (size_t)gridDim.x * blockDim.x)
        narrow(deviation * random_float(seed, i), &out[i]);
}

/* Of 256 threads. */
static unsigned blocks_for(size_t n) {
    return (unsigned)std::min((n + 255) / 256, (size_t)4096);
}

/* Whether row `in_tile` of a tile and a column are of the matrix, and no padding. */
__device__ static bool is_inside(const struct nb_cuda_shape &s, enum nb_cuda_order order,
                                 int32_t tile, int32_t in_tile, int32_t column) {
    int32_t row = order == NB_CUDA_GATE_UP ? 8 * tile + in_tile % 8 : 16 * tile + in_tile;
    return column < s.columns && row < (order == NB_CUDA_GATE_UP ? s.rows / 2 : s.rows);
}

/* Four bytes of codes, at byte `at` of a chunk's: random, and the code of 0 in padding. */
__device__ static uint32_t random_codes(const struct nb_cuda_shape &s, enum nb_cuda_order order,
                                        int32_t tile, int32_t chunk, int32_t at, uint32_t zero,
                                        uint64_t bits) {
    uint32_t out = 0;
    for (int32_t k = 0; k < 8; k++) {
        int32_t lane = at / 16, byte = at % 16 + k / 2, i = k % 2;
        int32_t in_tile = lane / 4 + 8 * (byte & 1);
        int32_t column = 64 * chunk + 16 * (lane % 4) + 4 * (byte / 4) + 2 * (byte / 2 % 2) + i;
        uint32_t code = (uint32_t)(bits >> (4 * k)) & 15;
        if (!is_inside(s, order, tile, in_tile, column))
            code = zero;
        out |= code << (8 * (k / 2) + (i ? 0 : 4));
    }
    return out;
}

struct fill {
    struct nb_cuda_shape shape;
    enum nb_cuda_order order;
    uint8_t *data;
    float absmax; /* mean */
    uint32_t zero;
    uint64_t seed;
    bool padded;
};

/* Word k (of 32 bits) of unit `index`. */
__device__ static uint32_t random_word(const struct fill &f, size_t index, uint32_t k,
                                       uint64_t bits) {
    const struct nb_cuda_shape &s = f.shape;
    int32_t tile = index / s.n_units, c0 = index % s.n_units * s.unit_chunks;
    uint32_t at = 4 * k;
    float unit = (float)(uint32_t)bits * (1.0f / 4294967296.0f);
    if (s.kind == NB_CUDA_BF16) {
        uint32_t in_chunk = at % (NB_CUDA_TILE * NB_CUDA_CHUNK * 2), word = in_chunk / 4;
        int32_t lane = word / 16, byte = word % 16;
        int32_t in_tile = lane / 4 + 8 * (byte & 1), chunk = c0 + at / 2048;
        int32_t column = 64 * chunk + 16 * (lane % 4) + 4 * (byte / 4) + 2 * (byte / 2 % 2);
        __nv_bfloat162 w = __floats2bfloat162_rn(random_float(f.seed, bits), /* */
                                                 random_float(f.seed, ~bits));
        w = __hmul2(w, __float2bfloat162_rn(f.absmax * 0.5f));
        uint32_t out;
        memcpy(&out, &w, 4);
        if (!is_inside(s, f.order, tile, in_tile, column))
            return 0;
        return is_inside(s, f.order, tile, in_tile, column + 1) ? out : out & 0xFFFF;
    }
    if (at >= s.code_bytes) {
        at -= s.code_bytes;
        if (!f.padded)
            return (uint32_t)bits;
        return random_codes(s, f.order, tile, c0 + at / NB_CUDA_CHUNK_CODES,
                            at % NB_CUDA_CHUNK_CODES, f.zero, bits);
    }
    if (s.kind == NB_CUDA_NESTED && at >= s.scale_bytes)
        return (uint32_t)bits;
    if (s.kind == NB_CUDA_NESTED && k < 2 * (uint32_t)s.n_nested) /* nested absmax */
        return __float_as_uint(f.absmax * (0.4f + 0.2f * unit));
    if (s.kind == NB_CUDA_NESTED) /* the offset */
        return k < 2 * (uint32_t)s.n_nested + 2 ? __float_as_uint(f.absmax) : 0;
    return __float_as_uint(f.absmax * (0.5f + unit));
}

/* A block a unit, 16 bytes a thread at a time. */
__global__ static void fill_units(struct fill f, size_t n_units) {
    for (size_t u = blockIdx.x; u < n_units; u += gridDim.x) {
        uint4 *out = (uint4 *)(f.data + u * f.shape.unit_bytes);
        for (uint32_t i = threadIdx.x; i < f.shape.unit_bytes / 16; i += blockDim.x) {
            uint32_t w[4];
            for (uint32_t k = 0; k < 4; k += 2) {
                uint64_t bits = mix(f.seed + u * (f.shape.unit_bytes / 8) + 2 * i + k / 2);
                w[k] = random_word(f, u, 4 * i + k, bits);
                w[k + 1] = random_word(f, u, 4 * i + k + 1, bits >> 32);
            }
            out[i] = make_uint4(w[0], w[1], w[2], w[3]);
        }
    }
}

/* ---- models ---- */

static void *allocate(struct cuda_random_model *m, size_t bytes) {
    void *p;
    CUDA_CHECK(cudaMalloc(&p, bytes ? bytes : 1));
    m->allocations.push_back(p);
    return p;
}

static float *random_vector(struct cuda_random_model *m, size_t n, float mean, float deviation,
                            uint64_t seed) {
    float *p = (float *)allocate(m, n * sizeof(float));
    CUDA_CHECK(nb_start(fill_f32, blocks_for(n), 256, 0, 0, p, n, mean, deviation, mix(seed)));
    return p;
}

/* n matrices, gain: how large outputs are for inputs of 1. */
static struct nb_cuda_matrix random_matrix(struct cuda_random_model *m,
                                           const struct cuda_random_config *c,
                                           enum nb_cuda_kind kind, enum nb_cuda_order order,
                                           int32_t rows, int32_t columns, size_t n, float gain,
                                           uint64_t seed) {
    struct nb_cuda_matrix w = {};
    w.values = c->values;
    for (;; kind = (enum nb_cuda_kind)(kind + 1)) { /* what the shape cannot be, becomes wider */
        if (nb_cuda_shape(kind, rows, columns, c->block, &w.shape))
            break;
        if (kind == NB_CUDA_BF16) {
            fprintf(stderr, "%s: no layout for [%d, %d]\n", c->name, rows, columns);
            exit(1);
        }
    }
    uint8_t *data = (uint8_t *)allocate(m, n * w.shape.bytes);
    w.data = data;
    m->weight_bytes += n * w.shape.bytes;
    bool padded = w.shape.n_chunks * 64 != columns ||
                  (order == NB_CUDA_GATE_UP ? rows / 2 % 8 : rows % 16) != 0;
    /* Evenly drawn NF4 codes have a mean square near 1/4. */
    float absmax = 2.0f * gain / sqrtf((float)columns);
    size_t units = (size_t)w.shape.n_tiles * w.shape.n_units;
    for (size_t e = 0; e < n; e++) {
        struct fill f = {w.shape,
                         order,
                         data + e * w.shape.bytes,
                         absmax,
                         c->values == NB_QUANT_FP4 ? 0u : 7u,
                         mix(seed * 4096 + e),
                         padded};
        CUDA_CHECK(
            nb_start(fill_units, (unsigned)std::min(units, (size_t)4096), 256, 0, 0, f, units));
    }
    return w;
}

static struct nb_cuda_layer random_layer(struct cuda_random_model *m,
                                         const struct cuda_random_config *c, uint64_t seed) {
    struct nb_cuda_layer l = {};
    int32_t D = c->width, d = c->head_width, q = c->n_heads * d, kv = c->n_kv_heads * d;
    enum nb_cuda_kind kind = c->kind;
    /* q, k and v are one NESTED matrix only where each begins with a nested block. */
    bool whole = (size_t)q * (D / c->block) % 256 == 0 && (size_t)kv * (D / c->block) % 256 == 0;
    enum nb_cuda_kind qkv = kind == NB_CUDA_NESTED && !whole ? NB_CUDA_ABSMAX : kind;
    l.attention_norm = random_vector(m, D, 1, 0.2f, seed + 1);
    l.expert_norm = random_vector(m, D, 1, 0.2f, seed + 2);
    if (c->qk_norm) {
        l.q_norm = random_vector(m, d, 1, 0.2f, seed + 3);
        l.k_norm = random_vector(m, d, 1, 0.2f, seed + 4);
    }
    l.qkv = random_matrix(m, c, qkv, NB_CUDA_NATURAL, q + 2 * kv, D, 1, 1, seed + 5);
    l.o = random_matrix(m, c, kind, NB_CUDA_NATURAL, D, q, 1, 0.7f, seed + 6);
    if (!c->dense)
        l.router = random_vector(m, (size_t)c->n_experts * D, 0, 1.5f / sqrtf((float)D), seed + 7);
    l.gate_up = random_matrix(m, c, kind, NB_CUDA_GATE_UP, 2 * c->expert_width, D,
                              (size_t)c->n_experts, 1, seed + 8);
    l.down = random_matrix(m, c, kind, NB_CUDA_NATURAL, D, c->expert_width, (size_t)c->n_experts, 1,
                           seed + 9);
    return l;
}

static void random_kv(struct cuda_random_model *m, int32_t n_pages, uint64_t seed) {
    struct nb_cuda_model *p = &m->model;
    p->n_pages = n_pages;
    p->page_stride = (int64_t)2 * p->n_kv_heads * NB_PAGE_TOKENS * p->head_width;
    size_t n = (size_t)p->n_layers * (size_t)n_pages * (size_t)p->page_stride;
    p->kv = allocate(m, n * (p->kv_fp8 ? 1 : 2));
    if (p->kv_fp8)
        CUDA_CHECK(nb_start(fill_narrow<__nv_fp8_e4m3>, blocks_for(n), 256, 0, 0,
                            (__nv_fp8_e4m3 *)p->kv, n, 1.0f, mix(seed)));
    else
        CUDA_CHECK(nb_start(fill_narrow<__nv_bfloat16>, blocks_for(n), 256, 0, 0,
                            (__nv_bfloat16 *)p->kv, n, 1.0f, mix(seed)));
}

/* Rope's angles and the tables of values. */
static void make_tables(struct cuda_random_model *m, const struct cuda_random_config *c) {
    std::vector<float> frequencies, values(nb_nf4_values, nb_nf4_values + 16), dynamic(256);
    for (int32_t i = 0; i < c->head_width / 2; i++)
        frequencies.push_back((float)pow(1e6, -2.0 * i / c->head_width));
    values.insert(values.end(), nb_fp4_values, nb_fp4_values + 16);
    nb_dynamic_values(dynamic.data());
    const std::vector<float> *parts[] = {&frequencies, &values, &dynamic};
    const float **to[] = {&m->model.frequencies, &m->model.values, &m->model.nested_values};
    for (int i = 0; i < 3; i++) {
        float *p = (float *)allocate(m, parts[i]->size() * sizeof(float));
        CUDA_CHECK(cudaMemcpy(p, parts[i]->data(), parts[i]->size() * sizeof(float),
                              cudaMemcpyHostToDevice));
        *to[i] = p;
    }
}

void cuda_random_make(const struct cuda_random_config *c, int32_t n_pages, int32_t max_tokens,
                      int32_t max_sequences, uint64_t seed, struct cuda_random_model *out) {
    *out = {};
    struct nb_cuda_model *m = &out->model;
    m->n_vocab = c->n_vocab, m->n_layers = c->n_layers, m->width = c->width;
    m->n_heads = c->n_heads, m->n_kv_heads = c->n_kv_heads, m->head_width = c->head_width;
    m->n_experts = c->n_experts, m->experts_per_token = c->experts_per_token;
    m->expert_width = c->expert_width, m->window = c->window, m->context = c->context;
    m->rms_eps = 1e-5f, m->qk_norm = c->qk_norm, m->normalize_experts = c->normalize_experts;
    m->dense = c->dense, m->tied = c->tied, m->kv_fp8 = c->kv_fp8;
    seed = mix(seed);
    for (int32_t i = 0; i < c->n_layers; i++)
        out->layers.push_back(random_layer(out, c, seed + 16 * (uint64_t)(i + 1)));
    struct nb_cuda_layer *layers =
        (struct nb_cuda_layer *)allocate(out, out->layers.size() * sizeof(struct nb_cuda_layer));
    CUDA_CHECK(cudaMemcpy(layers, out->layers.data(),
                          out->layers.size() * sizeof(struct nb_cuda_layer),
                          cudaMemcpyHostToDevice));
    m->layers = layers, m->host_layers = out->layers.data();
    m->norm = random_vector(out, (size_t)c->width, 1, 0.2f, seed + 1);
    /* Logits with a standard deviation of 3, as trained models have. */
    m->head =
        random_matrix(out, c, c->head_kind, NB_CUDA_NATURAL, c->n_vocab, c->width, 1, 3, seed + 2);
    if (!c->tied) {
        size_t n = (size_t)c->n_vocab * (size_t)c->width;
        __nv_bfloat16 *p = (__nv_bfloat16 *)allocate(out, n * sizeof *p);
        CUDA_CHECK(nb_start(fill_narrow<__nv_bfloat16>, blocks_for(n), 256, 0, 0, p, n, 1.0f,
                            mix(seed + 3)));
        m->embedding = p;
    }
    make_tables(out, c);
    random_kv(out, n_pages, seed + 4);
    int device;
    struct cudaDeviceProp properties;
    CUDA_CHECK(cudaGetDevice(&device));
    CUDA_CHECK(cudaGetDeviceProperties(&properties, device));
    out->limits = {max_tokens, max_sequences, c->context, properties.multiProcessorCount,
                   10 * properties.major + properties.minor};
    CUDA_CHECK(cudaDeviceSynchronize());
}

void cuda_random_free(struct cuda_random_model *m) {
    for (void *p : m->allocations)
        CUDA_CHECK(cudaFree(p));
    *m = {};
}

/* ---- steps ---- */

static int32_t pages_of(const struct cuda_random_chunk &c) {
    return (c.past + c.n + NB_PAGE_TOKENS - 1) / NB_PAGE_TOKENS;
}

int32_t cuda_random_pages(const std::vector<cuda_random_chunk> &chunks) {
    int32_t n = 0;
    for (const cuda_random_chunk &c : chunks)
        n += pages_of(c);
    return n;
}

void cuda_random_step_make(const struct cuda_random_model *m,
                           const std::vector<cuda_random_chunk> &chunks, uint64_t seed,
                           struct cuda_random_step *out) {
    *out = {};
    int32_t most = 1, needed = cuda_random_pages(chunks);
    if (needed > m->model.n_pages) {
        fprintf(stderr, "a step of %d pages, the model has %d\n", needed, m->model.n_pages);
        exit(1);
    }
    std::vector<int32_t> free_pages, token, position, sequence, logits_of;
    for (int32_t i = 0; i < m->model.n_pages; i++)
        free_pages.push_back(i);
    for (size_t i = free_pages.size(); i > 1; i--)
        std::swap(free_pages[i - 1], free_pages[cuda_random_bits(&seed) % i]);
    for (const cuda_random_chunk &c : chunks) {
        most = std::max(most, pages_of(c));
        out->step.longest_run = std::max(out->step.longest_run, c.n);
    }
    std::vector<int32_t> pages(chunks.size() * (size_t)most, -1);
    for (size_t s = 0; s < chunks.size(); s++) {
        const cuda_random_chunk &c = chunks[s];
        for (int32_t i = 0; i < pages_of(c); i++) {
            pages[s * (size_t)most + (size_t)i] = free_pages.back();
            free_pages.pop_back();
        }
        for (int32_t i = 0; i < c.n; i++) {
            if (c.logits == cuda_random_chunk::LOGITS_ALL ||
                (c.logits == cuda_random_chunk::LOGITS_LAST && i == c.n - 1))
                logits_of.push_back((int32_t)token.size());
            token.push_back((int32_t)(cuda_random_bits(&seed) % (uint64_t)m->model.n_vocab));
            position.push_back(c.past + i);
            sequence.push_back((int32_t)s);
        }
    }
    struct nb_cuda_step *s = &out->step;
    s->n_tokens = (int32_t)token.size(), s->n_logits = (int32_t)logits_of.size();
    s->max_pages = most;
    s->max_position = *std::max_element(position.begin(), position.end());
    std::vector<int32_t> all;
    const std::vector<int32_t> *parts[] = {&token, &position, &sequence, &pages, &logits_of};
    for (const std::vector<int32_t> *p : parts)
        all.insert(all.end(), p->begin(), p->end());
    CUDA_CHECK(cudaMalloc(&out->input, all.size() * sizeof(int32_t)));
    CUDA_CHECK(
        cudaMemcpy(out->input, all.data(), all.size() * sizeof(int32_t), cudaMemcpyHostToDevice));
    const int32_t **to[] = {&s->token, &s->position, &s->sequence, &s->pages, &s->logits_of};
    const int32_t *at = out->input;
    for (int i = 0; i < 5; i++) {
        *to[i] = at;
        at += parts[i]->size();
    }
    size_t n = logits_of.size() * (size_t)m->model.n_vocab;
    CUDA_CHECK(cudaMalloc(&out->logits, (n + 1) * sizeof(float)));
    CUDA_CHECK(cudaMemset(out->logits, 0xFF, (n + 1) * sizeof(float))); /* NaN */
    s->logits = out->logits;
}

void cuda_random_step_free(struct cuda_random_step *s) {
    CUDA_CHECK(cudaFree(s->input));
    CUDA_CHECK(cudaFree(s->logits));
    *s = {};
}

std::vector<float> cuda_logits(const struct cuda_random_model *m,
                               const struct cuda_random_step *s) {
    std::vector<float> out((size_t)s->step.n_logits * (size_t)m->model.n_vocab);
    CUDA_CHECK(
        cudaMemcpy(out.data(), s->logits, out.size() * sizeof(float), cudaMemcpyDeviceToHost));
    return out;
}

/* ---- comparison ---- */

/* log of the sum of exp. */
static double log_sum(const float *x, size_t n) {
    double max = *std::max_element(x, x + n), sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp((double)x[i] - max);
    return max + log(sum);
}

struct cuda_difference cuda_compare(const std::vector<float> &a, const std::vector<float> &b,
                                    int32_t n_vocab) {
    struct cuda_difference out = {};
    size_t V = (size_t)n_vocab, n = b.size() / V;
    double all = 0, reference = 0;
    std::vector<double> errors;
    out.rows = (int32_t)n;
    out.finite = true;
    for (size_t r = 0; r < n; r++) {
        const float *x = &a[r * V], *y = &b[r * V];
        double difference = 0, norm = 0, kl = 0, log_x = log_sum(x, V), log_y = log_sum(y, V);
        for (size_t i = 0; i < V; i++) {
            out.finite &= isfinite(x[i]) != 0;
            difference += ((double)x[i] - y[i]) * ((double)x[i] - y[i]);
            norm += (double)y[i] * y[i];
            kl += exp(y[i] - log_y) * ((y[i] - log_y) - (x[i] - log_x));
        }
        all += difference, reference += norm;
        errors.push_back(sqrt(difference / norm));
        out.mean_kl += kl / (double)n;
        out.max_kl = std::max(out.max_kl, kl);
        out.same_argmax += std::max_element(x, x + V) - x == std::max_element(y, y + V) - y;
    }
    if (n) {
        std::sort(errors.begin(), errors.end());
        out.error = sqrt(all / reference);
        out.median_error = errors[n / 2];
        out.worst_error = errors[n - 1];
    }
    return out;
}
