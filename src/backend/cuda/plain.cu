/* The forward pass as its definition reads: one kernel for each part, activations in f32, a warp
 * for a row of a product. What the fast paths are tested against, and what runs where they do not
 * support a model. src/backend/cpu/cpu.c is the same pass on the CPU, with the sources of the
 * architecture.
 */
extern "C" {
#include "backend/backend.h"
}
#include "backend/cuda/launch.cuh"
#include "backend/cuda/shared.cuh"
#include "backend/cuda/weights.cuh"
#include "base/layout.h"

#include <cuda_fp8.h>
#include <math_constants.h>

#define TRY(call)                                                                                  \
    do {                                                                                           \
        cudaError_t error_ = (call);                                                               \
        if (error_ != cudaSuccess)                                                                 \
            return error_;                                                                         \
    } while (0)

namespace {

enum {
    WARPS = 8,        /* of most blocks */
    SLICE_PAIRS = 512 /* (token, expert) pairs whose inner activations the workspace holds */
};

__host__ __device__ constexpr int div_up(int a, int b) {
    return (a + b - 1) / b;
}

/* ---- products ---- */

__device__ float warp_sum(float x) {
    for (int i = 16; i; i /= 2)
        x += __shfl_xor_sync(~0u, x, i);
    return x;
}

/* y[i, r] = W_e x[i / share], [r]: y [n, rows], x [n / share, columns], both f32; e = expert[i], or
 * 0 without `expert`. A warp for each of the rows. */
__global__ void multiply(nb_cuda_model m, nb_cuda_matrix w, nb_rows order, const float *x,
                         int share, const int32_t *expert, float *y) {
    int32_t row = blockIdx.x * WARPS + threadIdx.x / 32, i = blockIdx.y, lane = threadIdx.x % 32;
    if (row >= w.shape.rows)
        return;
    const uint8_t *data = w.data + (expert ? (size_t)expert[i] * w.shape.bytes : 0);
    const float *in = x + (size_t)(i / share) * w.shape.columns;
    nb_place p = nb_weight_place(w.shape, order, row);
    float sum = 0;
    for (int32_t c = 2 * lane; c < w.shape.columns; c += 64) {
        float2 pair = nb_weights(m, w, data, p, c);
        sum += pair.x * in[c];
        if (c + 1 < w.shape.columns)
            sum += pair.y * in[c + 1];
    }
    sum = warp_sum(sum);
    if (lane == 0)
        y[(size_t)i * w.shape.rows + row] = sum;
}

cudaError_t launch_multiply(const nb_cuda_model &m, const nb_cuda_matrix &w, nb_rows order,
                            const float *x, int share, const int32_t *expert, float *y, int n,
                            cudaStream_t stream) {
    for (int i = 0; i < n; i += 32768) { /* a grid's height has a limit */
        int part = n - i < 32768 ? n - i : 32768;
        TRY(nb_start(multiply, dim3(div_up(w.shape.rows, WARPS), part), WARPS * 32, 0, stream, m, w,
                     order, x + (size_t)(i / share) * w.shape.columns, share,
                     expert ? expert + i : nullptr, y + (size_t)i * w.shape.rows));
    }
    return cudaSuccess;
}

/* ---- the parts of a layer ---- */

/* x[t] = embedding of token t. A block a token. */
__global__ void embed(nb_cuda_model m, const int32_t *token, float *x) {
    size_t t = blockIdx.x;
    int32_t id = token[t];
    for (int32_t i = threadIdx.x; i < m.width; i += blockDim.x) {
        if (m.tied) {
            float2 pair =
                nb_weights(m, m.head, m.head.data,
                           nb_weight_place(m.head.shape, {NB_CUDA_NATURAL, 0, 0}, id), i & ~1);
            x[t * m.width + i] = i & 1 ? pair.y : pair.x;
        } else {
            x[t * m.width + i] = __bfloat162float(m.embedding[(size_t)id * m.width + i]);
        }
    }
}

/* y[i] = RMSNorm of x[of[i]] (of x[i] without `of`), rows of n, in place where the two are one.
 * Vectors lie `stride` apart. A warp a vector. */
__global__ void rms_norm(const float *x, const int32_t *of, const float *w, int n_vectors, int n,
                         size_t stride, float eps, float *y) {
    int32_t i = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (i >= n_vectors)
        return;
    const float *in = x + (of ? of[i] : i) * stride;
    float sum = 0;
    for (int32_t k = lane; k < n; k += 32)
        sum += in[k] * in[k];
    float scale = 1.0f / sqrtf(warp_sum(sum) / n + eps);
    for (int32_t k = lane; k < n; k += 32)
        y[i * stride + k] = in[k] * scale * w[k];
}

/* RMSNorm of heads [first, first + n) of each token's row of qkv, in place. A warp a head. */
__global__ void norm_heads(nb_cuda_model m, float *qkv, int first, const float *w) {
    int32_t d = m.head_width, lane = threadIdx.x;
    size_t row = (size_t)(m.n_heads + 2 * m.n_kv_heads) * d;
    float *head = qkv + blockIdx.y * row + (size_t)(first + blockIdx.x) * d, sum = 0;
    for (int32_t k = lane; k < d; k += 32)
        sum += head[k] * head[k];
    float scale = 1.0f / sqrtf(warp_sum(sum) / d + m.rms_eps);
    for (int32_t k = lane; k < d; k += 32)
        head[k] = head[k] * scale * w[k];
}

/* Turns each pair (i, i + d / 2) of a query or key head by its angle. A block a head and token. */
__global__ void rotate(nb_cuda_model m, nb_cuda_step s, float *qkv) {
    int32_t d = m.head_width, t = blockIdx.y;
    float *head = qkv + ((size_t)t * (m.n_heads + 2 * m.n_kv_heads) + blockIdx.x) * d;
    for (int32_t i = threadIdx.x; i < d / 2; i += blockDim.x) {
        float sine, cosine, a = head[i], b = head[i + d / 2];
        sincosf((float)s.position[t] * m.frequencies[i], &sine, &cosine);
        head[i] = a * cosine - b * sine;
        head[i + d / 2] = b * cosine + a * sine;
    }
}

/* The place in KV memory of element 0 of position p's key of head g; its value is
 * G * NB_PAGE_TOKENS * d elements further. */
__device__ size_t key_at(const nb_cuda_model &m, const nb_cuda_step &s, int layer, int sequence,
                         int p, int g) {
    int32_t page = s.pages[(size_t)sequence * s.max_pages + p / NB_PAGE_TOKENS];
    return ((size_t)layer * m.n_pages + page) * m.page_stride +
           (size_t)(g * NB_PAGE_TOKENS + p % NB_PAGE_TOKENS) * m.head_width;
}

__device__ float load_kv(const nb_cuda_model &m, size_t at) {
    return m.kv_fp8 ? (float)((const __nv_fp8_e4m3 *)m.kv)[at]
                    : __bfloat162float(((const __nv_bfloat16 *)m.kv)[at]);
}

__device__ void store_kv(const nb_cuda_model &m, size_t at, float x) {
    if (m.kv_fp8)
        ((__nv_fp8_e4m3 *)m.kv)[at] = __nv_fp8_e4m3(x);
    else
        ((__nv_bfloat16 *)m.kv)[at] = __float2bfloat16_rn(x);
}

/* Keys and values of the batch into their pages. A block a KV head and token. */
__global__ void write_kv(nb_cuda_model m, nb_cuda_step s, int layer, const float *qkv) {
    int32_t d = m.head_width, g = blockIdx.x, t = blockIdx.y;
    const float *row = qkv + (size_t)t * (m.n_heads + 2 * m.n_kv_heads) * d;
    const float *k = row + (size_t)(m.n_heads + g) * d, *v = k + (size_t)m.n_kv_heads * d;
    size_t at = key_at(m, s, layer, s.sequence[t], s.position[t], g);
    for (int32_t i = threadIdx.x; i < d; i += blockDim.x) {
        store_kv(m, at + i, k[i]);
        store_kv(m, at + (size_t)m.n_kv_heads * NB_PAGE_TOKENS * d + i, v[i]);
    }
}

/* A query head of a token over all positions up to its own that its window holds: softmax with a
 * running maximum. A warp; sums of values in shared memory, [d]. */
__global__ void attend(nb_cuda_model m, nb_cuda_step s, int layer, const float *qkv, float *out) {
    NB_DYNAMIC_SHARED(16, float, sum_of_values);
    int32_t d = m.head_width, h = blockIdx.x, t = blockIdx.y, lane = threadIdx.x;
    int32_t g = h / (m.n_heads / m.n_kv_heads), last = s.position[t];
    int32_t first = m.window && last >= m.window ? last - m.window + 1 : 0;
    const float *q = qkv + ((size_t)t * (m.n_heads + 2 * m.n_kv_heads) + h) * d;
    float max = -CUDART_INF_F, sum = 0, scale = 1.0f / sqrtf((float)d);
    for (int32_t i = lane; i < d; i += 32)
        sum_of_values[i] = 0;
    for (int32_t p = first; p <= last; p++) {
        size_t key = key_at(m, s, layer, s.sequence[t], p, g);
        size_t value = key + (size_t)m.n_kv_heads * NB_PAGE_TOKENS * d;
        float score = 0;
        for (int32_t i = lane; i < d; i += 32)
            score += q[i] * load_kv(m, key + i);
        score = warp_sum(score) * scale;
        float new_max = fmaxf(max, score), keep = expf(max - new_max), w = expf(score - new_max);
        for (int32_t i = lane; i < d; i += 32)
            sum_of_values[i] = sum_of_values[i] * keep + w * load_kv(m, value + i);
        sum = sum * keep + w;
        max = new_max;
    }
    for (int32_t i = lane; i < d; i += 32)
        out[((size_t)t * m.n_heads + h) * d + i] = sum_of_values[i] / sum;
}

__global__ void add(float *x, const float *y, size_t n) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        x[i] += y[i];
}

/* logits[t, e] = router[e] . x[t]. A warp. */
__global__ void score_experts(nb_cuda_model m, const float *router, const float *x, float *logits) {
    int32_t e = blockIdx.x, t = blockIdx.y, lane = threadIdx.x;
    float sum = 0;
    for (int32_t i = lane; i < m.width; i += 32)
        sum += router[(size_t)e * m.width + i] * x[(size_t)t * m.width + i];
    sum = warp_sum(sum);
    if (lane == 0)
        logits[(size_t)t * m.n_experts + e] = sum;
}

/* The k largest of a token's logits, largest first, ties to the lower expert, NaN last; and their
 * softmax, over the k or over all. Without `logits` (a dense model) expert 0, weight 1. A thread a
 * token. */
__global__ void choose_experts(nb_cuda_model m, int n, const float *logits, int32_t *expert,
                               float *weight) {
    int32_t t = blockIdx.x * blockDim.x + threadIdx.x, k = m.experts_per_token;
    if (t >= n)
        return;
    expert += (size_t)t * k;
    weight += (size_t)t * k;
    if (!logits) {
        expert[0] = 0;
        weight[0] = 1;
        return;
    }
    logits += (size_t)t * m.n_experts;
    for (int32_t i = 0; i < k; i++) {
        int32_t best = -1;
        for (int32_t e = 0; e < m.n_experts; e++) {
            bool taken = false;
            for (int32_t j = 0; j < i; j++)
                taken |= expert[j] == e;
            if (!taken && (best < 0 || logits[e] > logits[best] || isnan(logits[best])))
                best = e;
        }
        expert[i] = best;
    }
    float max = logits[expert[0]], sum = 0;
    for (int32_t i = 0; i < k; i++) {
        weight[i] = expf(logits[expert[i]] - max);
        sum += weight[i];
    }
    if (!m.normalize_experts) {
        sum = 0;
        for (int32_t e = 0; e < m.n_experts; e++)
            sum += expf(logits[e] - max);
    }
    for (int32_t i = 0; i < k; i++)
        weight[i] /= sum;
}

/* inner[i] = silu(gate) * up, of gate_up [n, 2 F] */
__global__ void silu_times(const float *gate_up, size_t n, int f, float *inner) {
    size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n * f)
        return;
    float gate = gate_up[i / f * 2 * f + i % f], up = gate_up[i / f * 2 * f + f + i % f];
    inner[i] = gate / (1.0f + expf(-gate)) * up;
}

/* x[t] += sum over a token's experts of weight * down. A block a token. */
__global__ void combine(nb_cuda_model m, const float *down, const float *weight, float *x) {
    size_t t = blockIdx.x, k = m.experts_per_token;
    for (int32_t i = threadIdx.x; i < m.width; i += blockDim.x) {
        for (size_t j = 0; j < k; j++)
            x[t * m.width + i] += weight[t * k + j] * down[(t * k + j) * m.width + i];
    }
}

/* ---- the pass ---- */

struct work {
    float *x, *normed;     /* [T, D] */
    float *qkv, *attended; /* [T, (H + 2 G) d], [T, H d] */
    float *logits;         /* [T, E] of the router */
    int32_t *expert;       /* [T, K] */
    float *weight;         /* [T, K] */
    /* Of P (token, expert) pairs: */
    float *gate_up, *inner; /* [P, 2 F], [P, F] */
    float *down;            /* [P, D] */
};

template <class T> void place_part(nb_layout *layout, T **out, size_t n) {
    *out = (T *)nb_layout_place(layout, n * sizeof(T));
}

/* How many tokens' experts are computed at a time. */
int slice_tokens(const nb_cuda_model *m) {
    return m->experts_per_token < SLICE_PAIRS ? SLICE_PAIRS / m->experts_per_token : 1;
}

size_t place_work(const nb_cuda_model *m, const nb_cuda_limits *l, void *base, work *w) {
    nb_layout layout = {(uint8_t *)base, 0};
    size_t T = l->max_tokens, D = m->width, F = m->expert_width, K = m->experts_per_token;
    size_t d = m->head_width, slice = slice_tokens(m), pairs = (T < slice ? T : slice) * K;
    place_part(&layout, &w->x, T * D);
    place_part(&layout, &w->normed, T * D);
    place_part(&layout, &w->qkv, T * (m->n_heads + 2 * m->n_kv_heads) * d);
    place_part(&layout, &w->attended, T * m->n_heads * d);
    place_part(&layout, &w->logits, T * m->n_experts);
    place_part(&layout, &w->expert, T * K);
    place_part(&layout, &w->weight, T * K);
    place_part(&layout, &w->gate_up, pairs * 2 * F);
    place_part(&layout, &w->inner, pairs * F);
    place_part(&layout, &w->down, pairs * D);
    return layout.used;
}

/* x += o(attention(norm(x))) */
cudaError_t attention(const nb_cuda_model &m, const nb_cuda_step &s, int layer, const work &w,
                      cudaStream_t stream) {
    const nb_cuda_layer &l = m.host_layers[layer];
    int n = s.n_tokens, H = m.n_heads, G = m.n_kv_heads, d = m.head_width;
    nb_rows rotary = {d % 16 ? NB_CUDA_NATURAL : NB_CUDA_ROTARY, d, (H + G) * d};
    TRY(nb_start(rms_norm, div_up(n, WARPS), WARPS * 32, 0, stream, w.x, nullptr, l.attention_norm,
                 n, m.width, m.width, m.rms_eps, w.normed));
    TRY(launch_multiply(m, l.qkv, rotary, w.normed, 1, nullptr, w.qkv, n, stream));
    if (m.qk_norm) {
        TRY(nb_start(norm_heads, dim3(H, n), 32, 0, stream, m, w.qkv, 0, l.q_norm));
        TRY(nb_start(norm_heads, dim3(G, n), 32, 0, stream, m, w.qkv, H, l.k_norm));
    }
    TRY(nb_start(rotate, dim3(H + G, n), 32, 0, stream, m, s, w.qkv));
    TRY(nb_start(write_kv, dim3(G, n), 32, 0, stream, m, s, layer, w.qkv));
    TRY(nb_start(attend, dim3(H, n), 32, d * sizeof(float), stream, m, s, layer, w.qkv,
                 w.attended));
    TRY(launch_multiply(m, l.o, {NB_CUDA_NATURAL, 0, 0}, w.attended, 1, nullptr, w.normed, n,
                        stream));
    size_t all = (size_t)n * m.width;
    return nb_start(add, (unsigned)((all + 255) / 256), 256, 0, stream, w.x, w.normed, all);
}

/* x += sum over the chosen experts of weight * down(silu(gate h) * up h), h = norm(x) */
cudaError_t experts(const nb_cuda_model &m, int n, int layer, const work &w, cudaStream_t stream) {
    const nb_cuda_layer &l = m.host_layers[layer];
    int k = m.experts_per_token;
    TRY(nb_start(rms_norm, div_up(n, WARPS), WARPS * 32, 0, stream, w.x, nullptr, l.expert_norm, n,
                 m.width, m.width, m.rms_eps, w.normed));
    if (!m.dense)
        TRY(nb_start(score_experts, dim3(m.n_experts, n), 32, 0, stream, m, l.router, w.normed,
                     w.logits));
    TRY(nb_start(choose_experts, div_up(n, 128), 128, 0, stream, m, n, m.dense ? nullptr : w.logits,
                 w.expert, w.weight));
    for (int t = 0; t < n; t += slice_tokens(&m)) {
        int tokens = n - t < slice_tokens(&m) ? n - t : slice_tokens(&m), pairs = tokens * k;
        const int32_t *expert = w.expert + (size_t)t * k;
        TRY(launch_multiply(m, l.gate_up, {NB_CUDA_GATE_UP, 0, 0}, w.normed + (size_t)t * m.width,
                            k, expert, w.gate_up, pairs, stream));
        size_t all = (size_t)pairs * m.expert_width;
        TRY(nb_start(silu_times, (unsigned)((all + 255) / 256), 256, 0, stream, w.gate_up, pairs,
                     m.expert_width, w.inner));
        TRY(launch_multiply(m, l.down, {NB_CUDA_NATURAL, 0, 0}, w.inner, 1, expert, w.down, pairs,
                            stream));
        TRY(nb_start(combine, tokens, 256, 0, stream, m, w.down, w.weight + (size_t)t * k,
                     w.x + (size_t)t * m.width));
        }
    return cudaSuccess;
}

} // namespace

size_t nb_cuda_plain_workspace(const struct nb_cuda_model *m, const struct nb_cuda_limits *l) {
    work w;
    return place_work(m, l, nullptr, &w);
}

cudaError_t nb_cuda_plain_forward(const struct nb_cuda_model *m, const struct nb_cuda_step *s,
                                  void *workspace, const struct nb_cuda_limits *l,
                                  cudaStream_t stream) {
    work w;
    place_work(m, l, workspace, &w);
    TRY(nb_start(embed, s->n_tokens, 256, 0, stream, *m, s->token, w.x));
    for (int i = 0; i < m->n_layers; i++) {
        TRY(attention(*m, *s, i, w, stream));
        TRY(experts(*m, s->n_tokens, i, w, stream));
    }
    if (s->n_logits == 0)
        return cudaSuccess;
    TRY(nb_start(rms_norm, div_up(s->n_logits, WARPS), WARPS * 32, 0, stream, w.x, s->logits_of,
                 m->norm, s->n_logits, m->width, m->width, m->rms_eps, w.normed));
    return launch_multiply(*m, m->head, {NB_CUDA_NATURAL, 0, 0}, w.normed, 1, nullptr, s->logits,
                           s->n_logits, stream);
}
