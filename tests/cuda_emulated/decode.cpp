/* The kernel for few tokens as it is, run by the emulator on the CPU, against the pass as its
 * definition reads (plain.cu's): on small random models whose shapes lead through every way of
 * multiplying, with 1 to 8 tokens, each with some orders of things. TAP.
 *
 *     cuda_emulated [SHAPE [TOKENS [SEEDS [FIRST-SEED]]]]   one shape, by its name, for longer
 */
extern "C" {
#include "quant/quant.h"
}
/* In a program of its own, all is there that the file keeps to itself. */
#define NB_DECODE_HEADS_64 1
#include "backend/cuda/decode.cu"
#include "backend/cuda/weights.cuh"

#include <algorithm>
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <vector>

/* Keys that other blocks are writing are loaded, and not used: see decode_attention.cuh. */
extern "C" const char *__tsan_default_suppressions(void);
extern "C" const char *__tsan_default_suppressions(void) {
    return "race:write_kv\n";
}

namespace {

struct test_shape {
    const char *name;
    int32_t n_vocab, n_layers, width, n_heads, n_kv_heads, head_width, n_experts, experts_per_token,
        expert_width;
    int32_t blocks; /* so many multiprocessors */
    std::vector<int32_t> tokens;
    /* Mixtral's, unless said. */
    bool long_context = false; /* in splits */
    int32_t window = 0;
    bool qk_norm = false, normalize = true, dense = false, tied = false;
    enum nb_cuda_kind kind = NB_CUDA_NESTED, head = NB_CUDA_BF16;
};

const test_shape shapes[] = {
    /* name, V, L, D, H, G, d, E, K, F, blocks, tokens, long, window, norms, dense, tied, kinds */
    {"mixture", 48, 3, 128, 2, 1, 128, 8, 2, 128, 3, {1, 3, 5, 8}},
    /* Rows of down in units of 32 chunks: two tiles together, in twos. */
    {"wide experts", 16, 2, 64, 1, 1, 128, 4, 1, 2048, 2, {1, 2, 4, 7}},
    /* And of three: two and one. */
    {"wider experts", 16, 2, 64, 1, 1, 128, 4, 2, 6144, 3, {1, 3}},
    /* A row of o is two such units, which stay in registers. */
    {"many heads", 16, 2, 64, 32, 4, 128, 4, 2, 64, 2, {1, 4, 6}, false, 0, true},
    {"dense", 40, 3, 128, 2, 2, 128, 1, 1, 192, 5, {1, 2, 5}, false, 40, false, true, true, false,
     NB_CUDA_ABSMAX},
    {"heads of 64, tied", 64, 2, 128, 8, 2, 64, 16, 4, 64, 4, {1, 4, 8}, false, 0, true, false,
     false, true, NB_CUDA_NESTED, NB_CUDA_NESTED},
    /* More than a lane of the router each. */
    {"40 experts", 16, 2, 64, 1, 1, 128, 40, 3, 64, 3, {1, 4}},
    {"splits of a long context", 16, 2, 64, 8, 1, 128, 4, 2, 64, 4, {1}, true},
};

/* By name, for they take longer: rows of Mixtral's width, so that x of gate and up stays in registers
 * and down follows without a pause; and more of Mixtral's shape, two tiles of the residual stream a
 * block, which takes many minutes. */
const test_shape large[] = {
    {"width of 4096", 16, 1, 4096, 1, 1, 128, 2, 1, 4096, 64, {1}},
    {"mixtral", 64, 2, 4096, 32, 8, 128, 8, 2, 2048, 132, {1, 4, 5, 8}},
};

uint64_t bits_of(uint64_t z) {
    z += 0x9E3779B97F4A7C15;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
    return z ^ (z >> 31);
}
float even(uint64_t seed, uint64_t i) { /* mean 0, deviation 1 */
    uint64_t b = bits_of(bits_of(seed) + i);
    return ((float)(uint32_t)b / 4294967296.0f + (float)(b >> 32) / 4294967296.0f - 1.0f) * 2.4495f;
}

std::vector<void *> allocations;

void *allocate(size_t n) {
    void *p = aligned_alloc(256, (n + 255) / 256 * 256 + 256);
    if (!p)
        emulator::fail("no memory");
    allocations.push_back(p);
    return p;
}

void free_all() {
    for (void *p : allocations)
        free(p);
    allocations.clear();
}

struct test_model {
    nb_cuda_model m = {};
    nb_cuda_limits limits = {};
    std::vector<nb_cuda_layer> layers;
};

float *vector_of(size_t n, float mean, float deviation, uint64_t seed) {
    float *p = (float *)allocate(n * 4);
    for (size_t i = 0; i < n; i++)
        p[i] = mean + deviation * even(seed, i);
    return p;
}

nb_cuda_matrix matrix_random(enum nb_cuda_kind kind, int32_t rows, int32_t columns, size_t n,
                             float gain, uint64_t seed, bool gate_up = false) {
    nb_cuda_matrix w = {};
    w.values = NB_QUANT_NF4;
    if (!nb_cuda_shape(kind, rows, columns, 64, &w.shape))
        emulator::fail("a matrix without a layout");
    const struct nb_cuda_shape &s = w.shape;
    uint8_t *data = (uint8_t *)allocate(n * s.bytes);
    w.data = data;
    float absmax = 2 * gain / sqrtf((float)columns);
    size_t units = n * (size_t)s.n_tiles * s.n_units;
    for (size_t u = 0; u < units; u++) {
        uint8_t *unit = data + u * s.unit_bytes;
        int32_t c0 = (int32_t)(u % s.n_units) * s.unit_chunks,
                tile = (int32_t)(u / s.n_units % s.n_tiles);
        for (uint32_t k = 0; k < s.unit_bytes / 4; k++) {
            uint64_t b = bits_of(seed * 77777 + u * (s.unit_bytes / 4) + k);
            float f = (float)(uint32_t)b / 4294967296.0f;
            uint32_t at = 4 * k, v = (uint32_t)b;
            bool floats = true;
            if (kind == NB_CUDA_BF16) {
                floats = false;
                v = pack(absmax * 0.5f * even(seed, 2 * (u * s.unit_bytes / 4 + k)),
                         absmax * 0.5f * even(seed, 2 * (u * s.unit_bytes / 4 + k) + 1));
                uint32_t word = at % 2048 / 4;
                int32_t in_tile = (int32_t)word / 16 / 4 + 8 * (word % 16 & 1);
                if (16 * tile + in_tile >= rows || c0 + (int32_t)at / 2048 >= columns / 64)
                    v = 0;
            } else if (at >= s.code_bytes) {
                floats = false;
                uint32_t in = at - s.code_bytes;
                int32_t lane = (int32_t)(in % 512 / 16);
                for (int i = 0; i < 4; i++) {
                    int32_t row = (gate_up ? 8 : 16) * tile + lane / 4 + (gate_up ? 0 : i % 2 * 8);
                    if (c0 + (int32_t)in / 512 >= columns / 64 ||
                        row >= (gate_up ? rows / 2 : rows))
                        v = (v & ~(255U << 8 * i)) | 0x77U << 8 * i;
                }
            } else if (kind == NB_CUDA_NESTED && at >= s.scale_bytes) {
                floats = false;
            } else if (kind == NB_CUDA_NESTED) {
                f = k < 2 * (uint32_t)s.n_nested       ? absmax * (0.4f + 0.2f * f)
                    : k < 2 * (uint32_t)s.n_nested + 2 ? absmax
                                                       : 0;
            } else {
                f = absmax * (0.5f + f);
            }
            if (floats)
                v = __float_as_uint(f);
            memcpy(unit + at, &v, 4);
        }
    }
    return w;
}

void make(const test_shape &c, test_model &t, int32_t n_pages) {
    nb_cuda_model &m = t.m;
    m.n_vocab = c.n_vocab, m.n_layers = c.n_layers, m.width = c.width, m.n_heads = c.n_heads;
    m.n_kv_heads = c.n_kv_heads, m.head_width = c.head_width, m.n_experts = c.n_experts;
    m.experts_per_token = c.experts_per_token, m.expert_width = c.expert_width;
    m.window = c.window, m.context = 4096, m.rms_eps = 1e-5f, m.qk_norm = c.qk_norm;
    m.normalize_experts = c.normalize, m.dense = c.dense, m.tied = c.tied;
    int32_t D = c.width, d = c.head_width, q = c.n_heads * d, kv = c.n_kv_heads * d;
    for (int32_t i = 0; i < c.n_layers; i++) {
        nb_cuda_layer l = {};
        uint64_t s = 100 * (uint64_t)(i + 1);
        l.attention_norm = vector_of(D, 1, 0.2f, s + 1);
        l.expert_norm = vector_of(D, 1, 0.2f, s + 2);
        if (c.qk_norm)
            l.q_norm = vector_of(d, 1, 0.2f, s + 3), l.k_norm = vector_of(d, 1, 0.2f, s + 4);
        bool whole = q * (D / 64) % 256 == 0 && kv * (D / 64) % 256 == 0;
        l.qkv = matrix_random(c.kind == NB_CUDA_NESTED && !whole ? NB_CUDA_ABSMAX : c.kind,
                              q + 2 * kv, D, 1, 1, s + 5);
        l.o = matrix_random(c.kind, D, q, 1, 0.7f, s + 6);
        if (!c.dense)
            l.router = vector_of((size_t)c.n_experts * D, 0, 1.5f / sqrtf((float)D), s + 7);
        l.gate_up = matrix_random(c.kind, 2 * c.expert_width, D, c.n_experts, 1, s + 8, true);
        l.down = matrix_random(c.kind, D, c.expert_width, c.n_experts, 1, s + 9);
        t.layers.push_back(l);
    }
    m.host_layers = m.layers = t.layers.data();
    m.norm = vector_of(D, 1, 0.2f, 11);
    m.head = matrix_random(c.head, c.n_vocab, D, 1, 3, 12);
    __nv_bfloat16 *e = (__nv_bfloat16 *)allocate((size_t)c.n_vocab * D * 2);
    for (size_t i = 0; i < (size_t)c.n_vocab * D; i++)
        e[i] = __float2bfloat16_rn(even(13, i));
    m.embedding = c.tied ? nullptr : e;
    float *f = (float *)allocate(d * 4), *values = (float *)allocate(32 * 4),
          *nested = (float *)allocate(256 * 4);
    for (int32_t i = 0; i < d / 2; i++)
        f[i] = (float)pow(1e6, -2.0 * i / d);
    memcpy(values, nb_nf4_values, 64);
    memcpy(values + 16, nb_fp4_values, 64);
    nb_dynamic_values(nested);
    m.frequencies = f, m.values = values, m.nested_values = nested;
    m.n_pages = n_pages;
    m.page_stride = (int64_t)2 * c.n_kv_heads * 16 * d;
    size_t n = (size_t)c.n_layers * n_pages * m.page_stride;
    __nv_bfloat16 *k = (__nv_bfloat16 *)allocate(n * 2);
    for (size_t i = 0; i < n; i++)
        k[i] = __float2bfloat16_rn(even(14, i));
    m.kv = k;
    t.limits = {8, 8, 4096, c.blocks, 90};
}

/* ---- the definition ---- */

std::vector<float> unpack(const nb_cuda_model &m, const nb_cuda_matrix &w, nb_rows order,
                          size_t e) {
    const struct nb_cuda_shape &s = w.shape;
    std::vector<float> out((size_t)s.rows * s.columns);
    for (int32_t r = 0; r < s.rows; r++) {
        nb_place p = nb_weight_place(s, order, r);
        for (int32_t c = 0; c < s.columns; c += 2) {
            float2 v = nb_weights(m, w, w.data + e * s.bytes, p, c);
            out[(size_t)r * s.columns + c] = v.x;
            out[(size_t)r * s.columns + c + 1] = v.y;
        }
    }
    return out;
}

typedef std::vector<std::vector<float>> matrix_rows;

matrix_rows product(const std::vector<float> &w, const matrix_rows &x) {
    size_t C = x[0].size(), R = w.size() / C;
    matrix_rows y(x.size(), std::vector<float>(R));
    for (size_t t = 0; t < x.size(); t++) {
        for (size_t r = 0; r < R; r++) {
            float sum[8] = {};
            for (size_t c = 0; c < C; c += 8)
                for (size_t k = 0; k < 8; k++)
                    sum[k] += w[r * C + c + k] * x[t][c + k];
            for (int k = 1; k < 8; k++)
                sum[0] += sum[k];
            y[t][r] = sum[0];
        }
    }
    return y;
}

void norm(float *x, size_t n, const float *w, float eps) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    float scale = 1 / sqrtf((float)(sum / (double)n) + eps);
    for (size_t i = 0; i < n; i++)
        x[i] *= scale * w[i];
}

matrix_rows reference(const nb_cuda_model &m, const nb_cuda_step &s) {
    int32_t T = s.n_tokens, D = m.width, d = m.head_width, H = m.n_heads, G = m.n_kv_heads;
    matrix_rows x(T, std::vector<float>(D));
    nb_rows natural = {NB_CUDA_NATURAL, 0, 0};
    for (int32_t t = 0; t < T; t++) {
        for (int32_t i = 0; i < D; i++) {
            if (m.tied) {
                float2 v = nb_weights(m, m.head, m.head.data,
                                      nb_weight_place(m.head.shape, natural, s.token[t]), i & ~1);
                x[t][i] = i & 1 ? v.y : v.x;
            } else {
                x[t][i] = __bfloat162float(m.embedding[(size_t)s.token[t] * D + i]);
            }
        }
    }
    for (int32_t layer = 0; layer < m.n_layers; layer++) {
        const nb_cuda_layer &l = m.host_layers[layer];
        matrix_rows h = x;
        for (auto &r : h)
            norm(r.data(), D, l.attention_norm, m.rms_eps);
        matrix_rows qkv = product(unpack(m, l.qkv, {NB_CUDA_ROTARY, d, (H + G) * d}, 0), h);
        matrix_rows out(T, std::vector<float>((size_t)H * d));
        for (int32_t t = 0; t < T; t++) {
            for (int32_t k = 0; k < H + G; k++) {
                float *head = &qkv[t][(size_t)k * d];
                if (m.qk_norm)
                    norm(head, d, k < H ? l.q_norm : l.k_norm, m.rms_eps);
                for (int32_t i = 0; i < d / 2; i++) {
                    float angle = (float)s.position[t] * m.frequencies[i], a = head[i],
                          b = head[i + d / 2];
                    head[i] = a * cosf(angle) - b * sinf(angle);
                    head[i + d / 2] = b * cosf(angle) + a * sinf(angle);
                }
            }
        }
        auto key = [&](int32_t t, int32_t p, int32_t g) {
            int32_t page = s.pages[(size_t)s.sequence[t] * s.max_pages + p / 16];
            return (__nv_bfloat16 *)m.kv + ((size_t)layer * m.n_pages + page) * m.page_stride +
                   (size_t)(g * 16 + p % 16) * d;
        };
        for (int32_t t = 0; t < T; t++) {
            for (int32_t g = 0; g < G; g++) {
                for (int32_t i = 0; i < d; i++) {
                    key(t, s.position[t], g)[i] =
                        __float2bfloat16_rn(qkv[t][(size_t)(H + g) * d + i]);
                    key(t, s.position[t], g)[(size_t)G * 16 * d + i] =
                        __float2bfloat16_rn(qkv[t][(size_t)(H + G + g) * d + i]);
                }
            }
        }
        for (int32_t t = 0; t < T; t++) {
            int32_t last = s.position[t],
                    first = m.window && last >= m.window ? last - m.window + 1 : 0;
            for (int32_t k = 0; k < H; k++) {
                std::vector<float> score;
                float most = -INFINITY, sum = 0;
                for (int32_t p = first; p <= last; p++) {
                    float v = 0;
                    const __nv_bfloat16 *at = key(t, p, k / (H / G));
                    for (int32_t i = 0; i < d; i++)
                        v += qkv[t][(size_t)k * d + i] * __bfloat162float(at[i]);
                    score.push_back(v / sqrtf((float)d));
                    most = std::max(most, score.back());
                }
                for (float &v : score)
                    sum += v = expf(v - most);
                for (int32_t p = first; p <= last; p++) {
                    const __nv_bfloat16 *at = key(t, p, k / (H / G)) + (size_t)G * 16 * d;
                    for (int32_t i = 0; i < d; i++)
                        out[t][(size_t)k * d + i] +=
                            score[p - first] / sum * __bfloat162float(at[i]);
                }
            }
        }
        matrix_rows o = product(unpack(m, l.o, natural, 0), out);
        for (int32_t t = 0; t < T; t++)
            for (int32_t i = 0; i < D; i++)
                x[t][i] += o[t][i];
        h = x;
        for (auto &r : h)
            norm(r.data(), D, l.expert_norm, m.rms_eps);
        int32_t E = m.n_experts, K = m.experts_per_token, F = m.expert_width;
        matrix_rows weight(E, std::vector<float>(T, 0));
        for (int32_t t = 0; t < T; t++) {
            if (m.dense) {
                weight[0][t] = 1;
                continue;
            }
            std::vector<std::pair<float, int32_t>> score(E);
            for (int32_t e = 0; e < E; e++) {
                score[e] = {0, -e};
                for (int32_t i = 0; i < D; i++)
                    score[e].first += l.router[(size_t)e * D + i] * h[t][i];
            }
            std::sort(score.rbegin(), score.rend());
            float sum = 0;
            for (int32_t e = 0; e < (m.normalize_experts ? K : E); e++)
                sum += expf(score[e].first - score[0].first);
            for (int32_t k = 0; k < K; k++)
                weight[-score[k].second][t] = expf(score[k].first - score[0].first) / sum;
        }
        for (int32_t e = 0; e < E; e++) {
            matrix_rows in;
            std::vector<int32_t> of;
            for (int32_t t = 0; t < T; t++) {
                if (weight[e][t] > 0)
                    in.push_back(h[t]), of.push_back(t);
            }
            if (in.empty())
                continue;
            matrix_rows gu = product(unpack(m, l.gate_up, {NB_CUDA_GATE_UP, 0, 0}, e), in);
            for (auto &r : gu) {
                for (int32_t i = 0; i < F; i++)
                    r[i] = r[i] / (1 + expf(-r[i])) * r[F + i];
                r.resize(F);
            }
            matrix_rows down = product(unpack(m, l.down, natural, e), gu);
            for (size_t k = 0; k < of.size(); k++)
                for (int32_t i = 0; i < D; i++)
                    x[of[k]][i] += weight[e][of[k]] * down[k][i];
        }
    }
    matrix_rows out;
    for (int32_t i = 0; i < s.n_logits; i++) {
        out.push_back(x[s.logits_of[i]]);
        norm(out.back().data(), D, m.norm, m.rms_eps);
    }
    return product(unpack(m, m.head, natural, 0), out);
}

/* ---- tests ---- */

int n_tests, n_failed;

void report(bool ok, const char *name, int tokens, const std::string &details) {
    n_tests++;
    n_failed += !ok;
    printf("%s %d - %s, %d token%s\n%s", ok ? "ok" : "not ok", n_tests, name, tokens,
           tokens == 1 ? "" : "s", details.c_str());
    fflush(stdout);
}

/* A step as the kernel gets it. */
struct test_step {
    nb_cuda_step s;
    std::vector<int32_t> token, position, sequence, pages, logits_of;
    std::vector<float> logits;
};

/* Tokens of sequences of their own, but for the last two, which are of one; each sequence has pages
 * enough for 1,024 positions, in no order. */
void make_step(const test_shape &c, int32_t tokens, test_step &t) {
    const int32_t pages = c.long_context ? 64 : 5;
    for (int32_t i = 0; i < tokens; i++) {
        bool again = i == tokens - 1 && i > 1;
        t.token.push_back((int32_t)(bits_of((uint64_t)i + 1000) % (uint64_t)c.n_vocab));
        t.position.push_back(again            ? t.position.back() + 1
                             : c.long_context ? 1000
                             : i == 0         ? 0
                                              : (int32_t)(bits_of((uint64_t)i + 500) % 60));
        t.sequence.push_back(again ? i - 1 : i);
        for (int32_t k = 0; k < pages; k++)
            t.pages.push_back(pages * i + (k * 3 + i) % pages);
        if (i != 1) /* not all rows of logits are wanted */
            t.logits_of.push_back(i);
    }
    t.logits.resize(t.logits_of.size() * (size_t)c.n_vocab);
    t.s = {};
    t.s.n_tokens = tokens;
    t.s.n_logits = (int32_t)t.logits_of.size();
    t.s.max_pages = pages;
    t.s.token = t.token.data(), t.s.position = t.position.data();
    t.s.sequence = t.sequence.data(), t.s.pages = t.pages.data();
    t.s.logits_of = t.logits_of.data(), t.s.logits = t.logits.data();
    t.s.max_position = *std::max_element(t.position.begin(), t.position.end());
    t.s.longest_run = tokens > 2 ? 2 : 1;
}

/* The kernel rounds activations to bf16 where the definition does not: logits and what is written
 * to KV memory lie near one another. The same bits with every seed. */
void check_step(const test_shape &c, test_model &model, int32_t tokens, uint64_t first_seed,
                uint64_t n_seeds) {
    test_step t;
    make_step(c, tokens, t);
    size_t n_kv = (size_t)c.n_layers * (size_t)model.m.n_pages * (size_t)model.m.page_stride;
    uint16_t *kv = (uint16_t *)model.m.kv;
    std::vector<uint16_t> before(kv, kv + n_kv), want_kv, first_kv;
    matrix_rows want = reference(model.m, t.s);
    want_kv.assign(kv, kv + n_kv);
    void *work = allocate(nb_cuda_decode_workspace(&model.m, &model.limits));
    std::vector<float> first;
    std::string details;
    bool ok = true;
    for (uint64_t seed = first_seed; seed < first_seed + n_seeds; seed++) {
        std::copy(before.begin(), before.end(), kv);
        std::fill(t.logits.begin(), t.logits.end(), NAN);
        emulator::seed(seed);
        if (nb_cuda_decode_forward(&model.m, &t.s, work, &model.limits, nullptr) != cudaSuccess)
            emulator::fail("the step was refused");
        double worst = 0, kv_worst = 0;
        for (size_t r = 0; r < want.size(); r++) {
            double difference = 0, norm = 0;
            for (size_t v = 0; v < want[r].size(); v++) {
                double x = t.logits[r * want[r].size() + v], y = want[r][v];
                difference += (x - y) * (x - y);
                norm += y * y;
            }
            double e = sqrt(difference / norm);
            worst = e <= worst ? worst : e; /* or NaN */
        }
        for (size_t i = 0; i < n_kv; i++) {
            double x = __bfloat162float({kv[i]}), y = __bfloat162float({want_kv[i]}),
                   e = fabs(x - y) / (1 + fabs(y));
            if (kv[i] != want_kv[i])
                kv_worst = e <= kv_worst ? kv_worst : e;
        }
        if (first.empty()) {
            first = t.logits;
            first_kv.assign(kv, kv + n_kv);
        }
        bool same = memcmp(first.data(), t.logits.data(), first.size() * sizeof(float)) == 0 &&
                    memcmp(first_kv.data(), kv, n_kv * sizeof *kv) == 0;
        bool fine = worst < 0.06 && kv_worst < 0.06 && same;
        ok &= fine;
        char line[160];
        snprintf(line, sizeof line, "# seed %llu: error %.1e, in KV memory %.1e%s\n",
                 (unsigned long long)seed, worst, kv_worst, same ? "" : ", other bits");
        if (!fine || seed == first_seed)
            details += line;
    }
    report(ok, c.name, tokens, details);
}

void check_shape(const test_shape &c, int32_t only, uint64_t first_seed, uint64_t n_seeds) {
    test_model model;
    make(c, model, (c.long_context ? 64 : 5) * NB_CUDA_DECODE_TOKENS);
    if (!nb_cuda_decode_supports(&model.m, &model.limits))
        emulator::fail("a shape that the kernel does not support");
    for (int32_t tokens : c.tokens) {
        if (!only || tokens == only)
            check_step(c, model, tokens, first_seed, n_seeds);
    }
    free_all();
}

} // namespace

int main(int argc, char **argv) {
    int32_t only = argc > 2 ? atoi(argv[2]) : 0;
    uint64_t seeds = argc > 3   ? strtoull(argv[3], nullptr, 10)
                     : argc > 1 ? 10
                                : 2,
             first = argc > 4 ? strtoull(argv[4], nullptr, 10) : 1;
    for (const test_shape &c : shapes) {
        if (argc < 2 || strcmp(argv[1], c.name) == 0)
            check_shape(c, only, first, seeds);
    }
    for (const test_shape &c : large) {
        if (argc > 1 && strcmp(argv[1], c.name) == 0)
            check_shape(c, only, first, seeds);
    }
    printf("1..%d\n", n_tests);
    return n_failed != 0;
}
