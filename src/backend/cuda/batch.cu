/* The pass for many tokens: prefill chunks, batches of decode tokens, and mixtures. Products are
 * gemm.h's, attention is attention.h's; here is what lies between them, in as few passes over
 * memory as can be:
 *
 *     start            x = embedding; h = norm(x); rope's sines and cosines
 *   a layer:
 *     product          qkv = W h, of few tokens in parts, which what comes next adds
 *     rotate           q and k normed (where the model does), rotated; k and v into their pages;
 *                      attention does this itself where every run is one token
 *     attention
 *     product          o = W attended
 *     after_attention  x' = x + o; h = norm(x'); router, experts chosen
 *     group            tokens in order of their experts; of few, products do this themselves
 *     product          inner = silu(gate h) * up h
 *     product          down = W inner
 *     after_experts    x = x' + sum of weight * down; h = norm(x), with the next layer's weights
 *   product            logits = W h
 *
 * Activations are f32 in x, the router and wherever products sum; they are rounded to bf16 as
 * operands of products. In the last layer only the rows that logits are wanted of go on after their
 * keys and values are stored. Nothing on the host depends on what is computed, so that a pass can
 * be captured in a graph: kernels learn from the device how many tokens each expert has.
 */
#include "backend/cuda/attention.h"
#include "backend/cuda/common.cuh"
#include "backend/cuda/gemm.h"
#include "backend/cuda/rotate.cuh"
#include "backend/cuda/weights.cuh"

extern "C" {
#include "backend/backend.h"
}
#include "base/layout.h"

#include <math_constants.h>
#include <type_traits>

/* tests/cuda_batch.cu includes this file, with this to hear of each part that has been launched. */
#ifndef NB_CUDA_MARK
#define NB_CUDA_MARK(part, stream)
#endif

namespace {

enum {
    THREADS = 256,
    MANY_THREADS = 1024,         /* of a block where blocks are few */
    FEW_EXPERTS = 8,             /* whose logits a thread sums at once */
    MAX_WIDTH = 8 * 4 * THREADS, /* a thread holds up to 8 times 4 of a token's values */
    MAX_EXPERTS = 8 * 32,        /* a lane up to 8 of its logits */
};

/* ---- a token's row, 4 * VECS values to each thread of a block ---- */

template <int VECS> struct row {
    float4 v[VECS]; /* v[i]: columns 4 * (thread + threads * i) … + 3 */
};

/* Sums of x[0..N) over the block, in place. */
template <int N, int T> __device__ __forceinline__ void block_sums(float (&x)[N]) {
    NB_SHARED(float, sums, [T / 32][N]);
    __syncthreads(); /* sums may still be read from the last call */
#pragma unroll
    for (int i = 0; i < N; i++) {
        x[i] = nb_warp_sum(x[i]);
        if (threadIdx.x % 32 == 0)
            sums[threadIdx.x / 32][i] = x[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < N; i++) {
        x[i] = 0;
        for (int k = 0; k < T / 32; k++)
            x[i] += sums[k][i];
    }
}

/* Columns `column` … + 3 of h, which has `padded` of them, permuted as products want them. */
__device__ __forceinline__ void store_h(__nv_bfloat16 *h, int column, float4 v) {
    uint32_t *to = (uint32_t *)(h + nb_place_of(column));
    to[0] = nb_pack_bf16(v.x, v.y);
    to[4] = nb_pack_bf16(v.z, v.w); /* columns + 2, + 3 are 8 further */
}

/* Makes each of N rows its RMSNorm with weights w [D], and writes the first n, unless `out` is
 * NULL, to `out` [n, D padded] as products want them, permuted and padded with 0 to a multiple
 * of 64. */
template <int VECS, int N, int T = THREADS>
__device__ __forceinline__ void norm_rows(row<VECS> (&r)[N], int n, const float *w, int width,
                                          float eps, __nv_bfloat16 *out) {
    float scale[N];
#pragma unroll
    for (int j = 0; j < N; j++) {
        scale[j] = 0;
#pragma unroll
        for (int i = 0; i < VECS; i++)
            scale[j] += r[j].v[i].x * r[j].v[i].x + r[j].v[i].y * r[j].v[i].y +
                        r[j].v[i].z * r[j].v[i].z + r[j].v[i].w * r[j].v[i].w;
    }
    block_sums<N, T>(scale);
    int padded = nb_div_up(width, 64) * 64;
#pragma unroll
    for (int i = 0; i < VECS; i++) {
        int column = 4 * (threadIdx.x + T * i);
        if (column >= padded)
            continue;
        float4 weight = make_float4(0, 0, 0, 0);
        if (column < width)
            weight = __ldg((const float4 *)(w + column));
#pragma unroll
        for (int j = 0; j < N; j++) {
            float4 *v = &r[j].v[i];
            float by = rsqrtf(scale[j] / width + eps);
            *v = make_float4(v->x * by * weight.x, v->y * by * weight.y, v->z * by * weight.z,
                             v->w * by * weight.w);
            if (out && j < n)
                store_h(out + (size_t)j * padded, column, *v);
        }
    }
}

/* Weights on their way to the second cache, where few blocks would wait for them. */
__device__ void prefetch_weights(const float *w, size_t n) {
    for (size_t i = (size_t)threadIdx.x * 32; i < n && gridDim.x <= 256; i += blockDim.x * 32)
        prefetch_line(w + i);
}

/* ---- the beginning ---- */

struct start_out {
    float *x;         /* [T, D] */
    __nv_bfloat16 *h; /* [T, D padded] */
    float2 *turns;    /* [T, d / 2] cosine and sine */
};

/* A block a token. */
template <int VECS>
__global__ void __launch_bounds__(THREADS, 2)
    start(nb_cuda_model m, nb_cuda_step s, const float *norm, start_out out) {
    nb_begin();
    int t = blockIdx.x, padded = nb_div_up(m.width, 64) * 64;
    int32_t id = s.token[t];
    row<VECS> r[1] = {};
    for (int i = 0; i < VECS; i++) {
        int column = 4 * (threadIdx.x + THREADS * i);
        if (column >= m.width)
            break;
        float2 a, b;
        if (m.tied) {
            nb_place p = nb_weight_place(m.head.shape, {NB_CUDA_NATURAL, 0, 0}, id);
            a = nb_weights(m, m.head, m.head.data, p, column);
            b = nb_weights(m, m.head, m.head.data, p, column + 2);
        } else {
            uint2 w = *(const uint2 *)(m.embedding + (size_t)id * m.width + column);
            a = __bfloat1622float2(*(__nv_bfloat162 *)&w.x);
            b = __bfloat1622float2(*(__nv_bfloat162 *)&w.y);
        }
        r[0].v[i] = make_float4(a.x, a.y, b.x, b.y);
        *(float4 *)(out.x + (size_t)t * m.width + column) = r[0].v[i];
    }
    norm_rows(r, 1, norm, m.width, m.rms_eps, out.h + (size_t)t * padded);
    for (int i = threadIdx.x; i < m.head_width / 2; i += THREADS) {
        /* Half turns, reduced in double: sincosf would bring its slow path, and a stack. */
        double turn = (float)s.position[t] * m.frequencies[i] * (1 / CUDART_PI);
        float sine, cosine;
        sincospif((float)(turn - 2 * rint(turn / 2)), &sine, &cosine);
        out.turns[(size_t)t * (m.head_width / 2) + i] = make_float2(cosine, sine);
    }
}

/* ---- queries, keys and values ---- */

/* qkv [T, (H + 2 G) d] f32, in parts: q goes to q [T, H, d] bf16, k and v go to their pages. d / 8
 * lanes have a head (rotate.cuh). blockIdx.y: token. */
template <int d>
__global__ void __launch_bounds__(THREADS)
    rotate(nb_cuda_model m, nb_cuda_step s, int32_t layer, const float *q_norm, const float *k_norm,
           const float2 *turns, const float *qkv, nb_cuda_parts parts, __nv_bfloat16 *q) {
    constexpr int LANES = d / 8;
    int t = blockIdx.y, H = m.n_heads, G = m.n_kv_heads;
    int32_t position = s.position[t]; /* inputs of the pass are there before it begins */
    int32_t page = s.pages[(size_t)s.sequence[t] * s.max_pages + position / NB_PAGE_TOKENS];
    nb_begin();
    int head = blockIdx.x * (THREADS / LANES) + threadIdx.x / LANES;
    int i = 4 * (threadIdx.x % LANES);
    if (head >= H + 2 * G) /* shuffles below are among the lanes of a head */
        return;
    nb_parts_at from(qkv, parts, (H + 2 * G) * d, t, head * d);
    float4 a = from.four<6>(i), b = from.four<6>(d / 2 + i);
    const float *norm = head < H ? q_norm : head < H + G ? k_norm : NULL;
    if (norm)
        norm_head<d>(a, b, norm, i, m.rms_eps);
    if (head < H + G)
        turn_head(a, b, turns + (size_t)t * (d / 2), i);
    if (head < H) {
        __nv_bfloat16 *to = q + ((size_t)t * H + head) * d + i;
        store_four(to, a);
        store_four(to + d / 2, b);
        return;
    }
    size_t at = ((size_t)layer * m.n_pages + page) * m.page_stride +
                (size_t)((head - H) * NB_PAGE_TOKENS + position % NB_PAGE_TOKENS) * d + i;
    store_kv(m, at, a); /* values follow the keys of all heads, as their heads do in qkv */
    store_kv(m, at + d / 2, b);
}

/* ---- tokens in order of their experts ---- */

struct groups {
    int32_t *begin;  /* [E + 1] */
    int32_t *gather; /* [n K] the token of each row */
    int32_t *slot;   /* [n, K] the row where a token's choice is */
};

enum { GROUP_THREADS = 1024 };

/* The choices `expert` [pairs] of all tokens in order, of more than products put in order
 * themselves. A block for each expert: it counts the choices of lower experts, which is where its
 * rows begin, and places its own tokens in their order, each thread those of a stretch. */
__global__ void __launch_bounds__(GROUP_THREADS)
    group(int pairs, int k, const int32_t *expert, groups out) {
    NB_SHARED(int2, sums, [GROUP_THREADS / 32]);
    nb_begin();
    int e = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    int stretch = nb_div_up(nb_div_up(pairs, (int)blockDim.x), 4) * 4;
    int begin = min(pairs, (int)threadIdx.x * stretch), end = min(pairs, begin + stretch);
    int lower = 0, mine = 0;
    for (int i = begin; i < end; i += 4) {
        int4 four = *(const int4 *)(expert + i); /* memory goes on to a multiple of 4 */
        int c[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int j = 0; j < 4; j++) {
            lower += i + j < end && c[j] < e;
            mine += i + j < end && c[j] == e;
        }
    }
    int upto = mine, all_lower = lower;
    for (int i = 1; i < 32; i *= 2) {
        int y = __shfl_up_sync(~0u, upto, i);
        upto += lane >= i ? y : 0;
        all_lower += __shfl_xor_sync(~0u, all_lower, i);
    }
    if (lane == 31)
        sums[warp] = make_int2(upto, all_lower);
    __syncthreads();
    int at = upto - mine, first = 0, count = 0;
    for (int i = 0; i < warps; i++) {
        at += i < warp ? sums[i].x : 0;
        count += sums[i].x;
        first += sums[i].y;
    }
    at += first;
    if (threadIdx.x == 0) {
        out.begin[e] = first;
        if (e == (int)gridDim.x - 1)
            out.begin[e + 1] = first + count;
    }
    if (mine == 0)
        return;
    for (int i = begin; i < end; i++) {
        if (expert[i] != e)
            continue;
        out.gather[at] = i / k;
        out.slot[i] = at++;
    }
}

/* ---- after attention ---- */

struct residual {
    const float *x;       /* [*, D] */
    const int32_t *x_row; /* [n] rows of x; NULL: their own numbers */
    const float *o;       /* [n, D], in parts */
    nb_cuda_parts o_parts;
    float *sum;        /* [n, D] x + o */
    __nv_bfloat16 *h;  /* [n, D padded] norm of it */
    const float *norm; /* [D] */
};

struct routing {
    const float *router; /* [E, D]; NULL in a dense model */
    float *logits;       /* [n, E] */
    int32_t *arrived;    /* [n] 0 before and after */
    int32_t *expert;     /* out: [n, K] the largest first */
    float *weight;       /* out: [n, K] */
};

/* Orders logits as comparisons do, with NaN below all. */
__device__ uint32_t order_of(float x) {
    uint32_t bits = __float_as_uint(x + 0.0f); /* -0 is 0 */
    if (isnan(x))
        return 0;
    return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

/* The K largest of a token's logits [E], E up to 32 N, ties to the lower expert, and their softmax,
 * over the K or over all. A warp. */
template <int N>
__device__ __forceinline__ void choose(const nb_cuda_model &m, const float *logits, int32_t *expert,
                                       float *weight) {
    int lane = threadIdx.x % 32, E = m.n_experts, K = m.experts_per_token;
    float mine[N];
    uint64_t key[N];
#pragma unroll
    for (int i = 0; i < N; i++) {
        int e = lane + 32 * i;
        mine[i] = e < E ? logits[e] : -CUDART_INF_F;
        key[i] = e < E ? (uint64_t)order_of(mine[i]) << 32 | (0xFFFFFFFFu - e) : 0;
    }
    float max = 0, sum = 0, chosen = 0; /* lane j has the j-th of the chosen */
    int32_t number = 0;
    for (int j = 0; j < K; j++) {
        uint64_t best = 0;
#pragma unroll
        for (int i = 0; i < N; i++)
            best = key[i] > best ? key[i] : best;
        for (int i = 16; i; i /= 2) {
            uint64_t other = __shfl_xor_sync(~0u, best, i);
            best = other > best ? other : best;
        }
        int32_t e = 0xFFFFFFFFu - (uint32_t)best;
        float value = 0;
#pragma unroll
        for (int i = 0; i < N; i++) {
            value = i == e / 32 ? mine[i] : value;
            key[i] = key[i] == best ? 0 : key[i];
        }
        value = __shfl_sync(~0u, value, e % 32);
        max = j == 0 ? value : max;
        if (lane == j)
            chosen = expf(value - max), number = e;
    }
    if (m.normalize_experts) {
        for (int j = 0; j < K; j++)
            sum += __shfl_sync(~0u, chosen, j);
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            sum += expf(mine[i] - max);
        sum = nb_warp_sum(sum);
    }
    if (lane < K)
        expert[lane] = number, weight[lane] = chosen / sum;
}

/* Each of N values (8, 16 or 32) summed over a warp: the sum of v[lane / (32 / N)]. Each step hands
 * half of a lane's values to the lane that keeps that half. */
template <int N, int OFFSET = 16> __device__ __forceinline__ float warp_sums(float (&v)[N]) {
    if constexpr (OFFSET == 0) {
        return v[0];
    } else if constexpr (N == 1) {
        v[0] += __shfl_xor_sync(~0u, v[0], OFFSET);
        return warp_sums<1, OFFSET / 2>(v);
    } else {
        float half[N / 2];
        bool upper = threadIdx.x & OFFSET;
#pragma unroll
        for (int k = 0; k < N / 2; k++) {
            float give = upper ? v[k] : v[k + N / 2], keep = upper ? v[k + N / 2] : v[k];
            half[k] = keep + __shfl_xor_sync(~0u, give, OFFSET);
        }
        return warp_sums<N / 2, OFFSET / 2>(half);
    }
}

/* A block has TOKENS tokens, and with gridDim.y > 1 a part of their experts: few tokens would keep
 * few SMs busy reading the router. A thread multiplies the columns that it has, EXPERTS rows of the
 * router at a time. Shared memory: sums of warps [8, E TOKENS] and logits [TOKENS, E]. */
template <int VECS, int TOKENS, int EXPERTS>
__global__ void __launch_bounds__(THREADS, TOKENS == 8 ? 1 : 2)
    after_attention(nb_cuda_model m, int n, residual in, routing out) {
    NB_DYNAMIC_SHARED(16, float, sums);
    NB_SHARED(bool, is_last, );
    int D = m.width, E = m.n_experts, padded = nb_div_up(D, 64) * 64;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, first = blockIdx.x * TOKENS;
    bool writes = blockIdx.y == 0;
    int begin = E * blockIdx.y / gridDim.y, end = E * (blockIdx.y + 1) / gridDim.y;
    prefetch_weights(in.norm, D);
    if (out.router && TOKENS == 1)
        prefetch_weights(out.router + (size_t)begin * D, (size_t)(end - begin) * D);
    nb_begin();
    row<VECS> r[TOKENS] = {};
#pragma unroll
    for (int i = 0; i < TOKENS; i++) {
        size_t t = min(first + i, n - 1), from = in.x_row ? in.x_row[t] : t;
#pragma unroll
        for (int k = 0; k < VECS; k++) {
            int column = 4 * (threadIdx.x + THREADS * k);
            if (column >= D)
                continue;
            float4 a = __ldcs((const float4 *)(in.x + from * D + column)),
                   b = nb_parts_at(in.o, in.o_parts, D, (int)t, column).four(0);
            r[i].v[k] = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
        }
    }
#pragma unroll
    for (int i = 0; i < TOKENS; i++) {
#pragma unroll
        for (int k = 0; k < VECS; k++) {
            int column = 4 * (threadIdx.x + THREADS * k);
            if (writes && column < D && first + i < n)
                *(float4 *)(in.sum + (size_t)(first + i) * D + column) = r[i].v[k];
        }
    }
    norm_rows(r, n - first, in.norm, D, m.rms_eps, writes ? in.h + (size_t)first * padded : NULL);
    if (!out.router)
        return;
    const float *mine = out.router + 4 * threadIdx.x;
    for (int e = begin; e < end; e += EXPERTS) {
        float part[EXPERTS * TOKENS] = {};
#pragma unroll
        for (int k = 0; k < VECS; k++) {
            int column = 4 * (threadIdx.x + THREADS * k);
            if (column >= D)
                continue;
#pragma unroll
            for (int j = 0; j < EXPERTS; j++) {
                float4 w = __ldg((const float4 *)(mine + min(e + j, E - 1) * D + 4 * THREADS * k));
#pragma unroll
                for (int i = 0; i < TOKENS; i++) {
                    const float4 &x = r[i].v[k];
                    part[j * TOKENS + i] += w.x * x.x + w.y * x.y + w.z * x.z + w.w * x.w;
                }
            }
        }
        constexpr int LANES = 32 / (EXPERTS * TOKENS); /* that have the same sum */
        float sum = warp_sums(part);
        int at = lane / LANES;
        if (lane % LANES == 0 && e + at / TOKENS < end)
            sums[warp * E * TOKENS + (e - begin) * TOKENS + at] = sum;
    }
    __syncthreads();
    float *logits = sums + THREADS / 32 * E * TOKENS;
    for (int i = threadIdx.x; i < (end - begin) * TOKENS; i += THREADS) {
        float sum = 0;
        for (int k = 0; k < THREADS / 32; k++)
            sum += sums[k * E * TOKENS + i];
        int e = begin + i / TOKENS;
        logits[i % TOKENS * E + e] = sum;
        if (gridDim.y > 1)
            out.logits[(size_t)blockIdx.x * E + e] = sum; /* TOKENS is 1 */
    }
    if (gridDim.y > 1) { /* the last block to come here has all logits before it */
        __threadfence();
        __syncthreads();
        if (threadIdx.x == 0) {
            is_last = atomicAdd(&out.arrived[first], 1) == (int)gridDim.y - 1;
            if (is_last)
                out.arrived[first] = 0;
        }
        __syncthreads();
        if (!is_last)
            return;
        __threadfence();
        for (int i = threadIdx.x; i < E; i += THREADS)
            logits[i] = __ldcg(out.logits + (size_t)first * E + i);
    }
    __syncthreads();
    for (int i = warp; i < TOKENS && first + i < n; i += THREADS / 32) {
        size_t t = first + i;
        choose<MAX_EXPERTS / 32>(m, logits + i * E, out.expert + t * m.experts_per_token,
                                 out.weight + t * m.experts_per_token);
    }
}

/* The same for few tokens and up to FEW_EXPERTS experts: a block of MANY_THREADS for each, all of
 * whose sums, of squares and of logits, are made at once; the norm's scale is applied to logits
 * afterwards. */
template <int VECS>
__global__ void __launch_bounds__(MANY_THREADS, 1)
    after_attention_few(nb_cuda_model m, int n, residual in, routing out) {
    NB_SHARED(float, sums, [MANY_THREADS / 32][2 * FEW_EXPERTS]);
    NB_SHARED(float, all, [2 * FEW_EXPERTS]);
    int D = m.width, E = m.n_experts, padded = nb_div_up(D, 64) * 64;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    prefetch_weights(in.norm, D);
    prefetch_weights(out.router, (size_t)E * D);
    nb_begin();
    size_t t = blockIdx.x, from = in.x_row ? in.x_row[t] : t;
    float4 normed[VECS];
    float part[2 * FEW_EXPERTS] = {};
#pragma unroll
    for (int k = 0; k < VECS; k++) {
        int column = 4 * (threadIdx.x + MANY_THREADS * k);
        normed[k] = make_float4(0, 0, 0, 0);
        if (column >= D)
            continue;
        float4 v = __ldcs((const float4 *)(in.x + from * D + column)),
               o = nb_parts_at(in.o, in.o_parts, D, (int)t, column).four(0),
               weight = __ldg((const float4 *)(in.norm + column));
        v = make_float4(v.x + o.x, v.y + o.y, v.z + o.z, v.w + o.w);
        *(float4 *)(in.sum + t * D + column) = v;
        part[FEW_EXPERTS] += v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
        v = make_float4(v.x * weight.x, v.y * weight.y, v.z * weight.z, v.w * weight.w);
        normed[k] = v;
#pragma unroll
        for (int e = 0; e < FEW_EXPERTS; e++) {
            float4 w = __ldg((const float4 *)(out.router + (size_t)min(e, E - 1) * D + column));
            part[e] += w.x * v.x + w.y * v.y + w.z * v.z + w.w * v.w;
        }
    }
    float sum = warp_sums(part);
    if (lane % 2 == 0)
        sums[warp][lane / 2] = sum;
    __syncthreads();
    if (warp <= FEW_EXPERTS) {
        float x = nb_warp_sum(sums[lane][warp]);
        if (lane == 0)
            all[warp] = x;
    }
    __syncthreads();
    float by = rsqrtf(all[FEW_EXPERTS] / D + m.rms_eps);
    if (warp == 0) {
        if (lane < E)
            all[lane] *= by;
        __syncwarp();
        choose<1>(m, all, out.expert + t * m.experts_per_token,
                  out.weight + t * m.experts_per_token);
    }
#pragma unroll
    for (int k = 0; k < VECS; k++) {
        int column = 4 * (threadIdx.x + MANY_THREADS * k);
        float4 v = normed[k];
        if (column < padded)
            store_h(in.h + t * padded, column, make_float4(v.x * by, v.y * by, v.z * by, v.w * by));
    }
}

/* ---- after the experts ---- */

/* x = sum + the token's experts, in the order of their choice; h = norm(x). slot and weight are
 * NULL in a dense model. x may be NULL. A block a token. */
template <int VECS, int T>
__global__ void __launch_bounds__(T)
    after_experts(nb_cuda_model m, const float *sum, const float *down, const int32_t *slot,
                  const float *weight, const float *norm, float *x, __nv_bfloat16 *h) {
    enum { TOGETHER = T == THREADS ? 2 : 4 }; /* experts whose rows are loaded at a time */
    prefetch_weights(norm, m.width);
    nb_begin();
    size_t t = blockIdx.x, D = m.width;
    int K = m.experts_per_token, padded = nb_div_up(m.width, 64) * 64;
    row<VECS> r[1] = {};
#pragma unroll
    for (int i = 0; i < VECS; i++) {
        int column = 4 * (threadIdx.x + T * i);
        if (column < m.width)
            r[0].v[i] = *(const float4 *)(sum + t * D + column);
    }
    for (int j = 0; j < K; j += TOGETHER) {
        const float *from[TOGETHER];
        float w[TOGETHER];
#pragma unroll
        for (int k = 0; k < TOGETHER; k++) {
            size_t at = t * K + min(j + k, K - 1);
            from[k] = down + (slot ? __ldcg(slot + at) : t) * D;
            w[k] = j + k >= K ? 0 : weight ? __ldcg(weight + at) : 1;
        }
#pragma unroll
        for (int i = 0; i < VECS; i++) {
            int column = 4 * (threadIdx.x + T * i);
            float4 y[TOGETHER], *v = &r[0].v[i];
#pragma unroll
            for (int k = 0; k < TOGETHER; k++) {
                y[k] = make_float4(0, 0, 0, 0);
                if (column < m.width && j + k < K)
                    y[k] = __ldcg((const float4 *)(from[k] + column));
            }
#pragma unroll
            for (int k = 0; k < TOGETHER; k++)
                *v = make_float4(v->x + w[k] * y[k].x, v->y + w[k] * y[k].y, v->z + w[k] * y[k].z,
                                 v->w + w[k] * y[k].w);
        }
    }
#pragma unroll
    for (int i = 0; i < VECS; i++) {
        int column = 4 * (threadIdx.x + T * i);
        if (x && column < m.width)
            *(float4 *)(x + t * D + column) = r[0].v[i];
    }
    norm_rows<VECS, 1, T>(r, 1, norm, m.width, m.rms_eps, h + t * padded);
}

/* ---- workspace ---- */

struct work {
    start_out start;
    float *sum; /* [T, D] x + o */
    routing route;
    groups group;
    void *plan, *last_plan; /* of attention, for all tokens and for the rows of logits */
    void *gemm;
    /* Until after_attention: */
    float *qkv;              /* [room, (H + 2 G) d] */
    __nv_bfloat16 *q;        /* [T, H, d] */
    __nv_bfloat16 *attended; /* [T, H d padded] */
    float *o;                /* [room, D] */
    /* After it, in the same memory: */
    __nv_bfloat16 *inner; /* [T K, F padded] */
    float *down;          /* [T K, D] */
};

size_t padded(int32_t n) {
    return ((size_t)n + 63) / 64 * 64;
}

template <class T> void place(nb_layout *layout, T **out, size_t n) {
    layout->used = (layout->used + 255) & ~(size_t)255;
    *out = (T *)nb_layout_place(layout, n * sizeof(T));
}

/* Rows of q, k and v and of attention's output: of all tokens, or, of few, in so many parts as
 * their products leave. */
size_t room_of(const nb_cuda_limits *l) {
    size_t T = l->max_tokens, few = T < 32 ? T : 32;
    return T > 16 * few ? T : 16 * few;
}

size_t place_work(const nb_cuda_model *m, const nb_cuda_limits *l, void *base, work *w) {
    nb_layout layout = {(uint8_t *)base, 0};
    size_t T = l->max_tokens, D = m->width, E = m->n_experts, K = m->experts_per_token;
    size_t d = m->head_width, H = m->n_heads, heads = H + 2 * (size_t)m->n_kv_heads;
    place(&layout, &w->start.x, T * D);
    place(&layout, &w->sum, T * D);
    place(&layout, &w->start.h, T * padded(m->width));
    place(&layout, &w->start.turns, T * (d / 2));
    place(&layout, &w->route.logits, T * E);
    place(&layout, &w->route.arrived, T);
    place(&layout, &w->route.expert, T * K + 4);
    place(&layout, &w->route.weight, T * K);
    place(&layout, &w->group.begin, E + 1);
    place(&layout, &w->group.gather, T * K);
    place(&layout, &w->group.slot, T * K);
    size_t attention = nb_cuda_attention_workspace(m, l);
    place(&layout, (uint8_t **)&w->plan, attention);
    place(&layout, (uint8_t **)&w->last_plan, attention);
    place(&layout, (uint8_t **)&w->gemm, nb_cuda_gemm_workspace(m, l));
    nb_layout before = layout, after = layout;
    size_t room = room_of(l);
    place(&before, &w->qkv, room * heads * d);
    place(&before, &w->q, T * H * d);
    place(&before, &w->attended, T * padded(m->n_heads * m->head_width));
    place(&before, &w->o, room * D);
    place(&after, &w->inner, T * K * padded(m->expert_width));
    place(&after, &w->down, T * K * D);
    return before.used > after.used ? before.used : after.used;
}

/* ---- launches ---- */

/* Calls f with the VECS that a width takes. */
template <class F> cudaError_t with_vecs(int32_t width, F f) {
    int vecs = nb_div_up((int)padded(width), 4 * THREADS);
    if (vecs <= 1)
        return f(std::integral_constant<int, 1>());
    if (vecs <= 2)
        return f(std::integral_constant<int, 2>());
    if (vecs <= 4)
        return f(std::integral_constant<int, 4>());
    return f(std::integral_constant<int, 8>());
}

/* Whether n blocks, one a row, are better off with MANY_THREADS. */
bool has_few_rows(int n, const nb_cuda_limits &l) {
    return n <= l.sm_count;
}

/* Calls f with the VECS that a width takes, and the threads. */
template <class F> cudaError_t with_threads(int32_t width, int n, const nb_cuda_limits &l, F f) {
    std::integral_constant<int, MANY_THREADS> many;
    if (has_few_rows(n, l))
        return padded(width) <= 4 * MANY_THREADS ? f(std::integral_constant<int, 1>(), many)
                                                 : f(std::integral_constant<int, 2>(), many);
    return with_vecs(width, [&](auto v) { return f(v, std::integral_constant<int, THREADS>()); });
}

template <int VECS, int TOKENS, int EXPERTS>
cudaError_t launch_after_attention(const nb_cuda_model &m, int n, int parts, int capability,
                                   const residual &in, const routing &out, cudaStream_t stream) {
    auto kernel = after_attention<VECS, TOKENS, EXPERTS>;
    int bytes = (THREADS / 32 + 1) * m.n_experts * TOKENS * (int)sizeof(float);
    if (bytes > 48 << 10)
        NB_CUDA_TRY(
            cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    return nb_launch(kernel, dim3(nb_div_up(n, TOKENS), parts), THREADS, bytes, capability, stream,
                     m, n, in, out);
}

cudaError_t launch_after_attention(const nb_cuda_model &m, const nb_cuda_limits &l, int n,
                                   const residual &in, const routing &out, cudaStream_t stream) {
    if (out.router && m.n_experts <= FEW_EXPERTS && has_few_rows(n, l))
        return nb_launch(padded(m.width) <= 4 * MANY_THREADS ? after_attention_few<1>
                                                             : after_attention_few<2>,
                         n, MANY_THREADS, 0, l.compute_capability, stream, m, n, in, out);
    return with_vecs(m.width, [&](auto v) {
        constexpr int VECS = decltype(v)::value;
        if constexpr (VECS <= 2) { /* a large router is read once for 8 tokens */
            if (n >= 3 * l.sm_count && m.n_experts >= 32)
                return launch_after_attention<VECS, 8, 4>(m, n, 1, l.compute_capability, in, out,
                                                          stream);
        }
        if constexpr (VECS <= 4) {
            if (n >= 8 * l.sm_count)
                return launch_after_attention<VECS, 2, 8>(m, n, 1, l.compute_capability, in, out,
                                                          stream);
        }
        int parts = min(m.n_experts / 16, nb_div_up(l.sm_count, n));
        return launch_after_attention<VECS, 1, 8>(m, n, out.router && parts > 1 ? parts : 1,
                                                  l.compute_capability, in, out, stream);
    });
}

struct pass {
    const nb_cuda_model &m;
    const nb_cuda_step &s;
    const nb_cuda_limits &l;
    work w;
    cudaStream_t stream;

    /* y = W x, in f32; unless `parts` is NULL, in those, in memory of room_of rows. */
    cudaError_t multiply(const nb_cuda_matrix &matrix, const __nv_bfloat16 *x, int n,
                         int rotary_rows, float *y, nb_cuda_parts *parts) const {
        struct nb_cuda_gemm g = {};
        g.w = matrix, g.n_groups = 1, g.n = n, g.x = x, g.epilogue = NB_CUDA_STORE_F32;
        g.head_rows = m.head_width, g.rotary_rows = rotary_rows, g.y = y;
        g.parts = parts, g.room = (int32_t)room_of(&l);
        return nb_cuda_gemm(&g, &m, &l, w.gemm, stream);
    }

    /* q, k and v of all tokens, to *out; unless attention does by itself what follows, keys and
     * values go to their pages, queries to w.q. */
    cudaError_t project(int32_t layer, bool rotates, nb_cuda_projected *out) const {
        const nb_cuda_layer &p = m.host_layers[layer];
        int heads = m.n_heads + 2 * m.n_kv_heads, d = m.head_width;
        *out = {w.qkv, {}, p.q_norm, p.k_norm, w.start.turns};
        NB_CUDA_TRY(multiply(p.qkv, w.start.h, s.n_tokens, (m.n_heads + m.n_kv_heads) * d, w.qkv,
                             &out->parts));
        NB_CUDA_MARK("qkv", stream);
        if (!rotates)
            return cudaSuccess;
        dim3 grid(nb_div_up(heads, THREADS / (d / 8)), s.n_tokens);
        NB_CUDA_TRY(nb_launch(d == 64 ? rotate<64> : rotate<128>, grid, THREADS, 0,
                              l.compute_capability, stream, m, s, layer, p.q_norm, p.k_norm,
                              w.start.turns, w.qkv, out->parts, w.q));
        NB_CUDA_MARK("rotate", stream);
        return cudaSuccess;
    }

    /* The rest of a layer for the queries; `norm` follows it. */
    cudaError_t finish(int32_t layer, const nb_cuda_queries &queries,
                       const nb_cuda_projected *projected, void *plan, const float *norm) const {
        const nb_cuda_layer &p = m.host_layers[layer];
        int n = queries.n, K = m.experts_per_token;
        NB_CUDA_TRY(nb_cuda_attention(&m, &s, &queries, layer, projected, w.q, w.attended, plan, &l,
                                      stream));
        NB_CUDA_MARK("attention", stream);
        nb_cuda_parts parts;
        NB_CUDA_TRY(multiply(p.o, w.attended, n, 0, w.o, &parts));
        NB_CUDA_MARK("o", stream);
        residual in = {w.start.x, queries.row, w.o, parts, w.sum, w.start.h, p.expert_norm};
        routing route = w.route;
        route.router = m.dense ? NULL : p.router;
        NB_CUDA_TRY(launch_after_attention(m, l, n, in, route, stream));
        NB_CUDA_MARK("after_attention", stream);
        struct nb_cuda_gemm g = {};
        g.w = p.gate_up, g.n_groups = 1, g.n = n * K, g.x = w.start.h;
        g.epilogue = NB_CUDA_SILU, g.y = w.inner;
        g.n_groups = m.dense ? 1 : m.n_experts;
        struct nb_cuda_gemm down = g;
        down.w = p.down;
        if (!m.dense && nb_cuda_gemm_sorts(&g, &l) && nb_cuda_gemm_sorts(&down, &l)) {
            g.choice = w.route.expert, g.choices_of_x = K, g.slot = w.group.slot;
        } else if (!m.dense) {
            NB_CUDA_TRY(nb_launch(group, m.n_experts, GROUP_THREADS, 0, l.compute_capability,
                                  stream, n * K, K, w.route.expert, w.group));
            g.begin = w.group.begin, g.gather = w.group.gather;
            NB_CUDA_MARK("group", stream);
        }
        NB_CUDA_TRY(nb_cuda_gemm(&g, &m, &l, w.gemm, stream));
        NB_CUDA_MARK("gate_up", stream);
        down.x = w.inner, down.epilogue = NB_CUDA_STORE_F32, down.y = w.down;
        down.begin = g.begin, down.choice = g.choice, down.settled = !m.dense;
        NB_CUDA_TRY(nb_cuda_gemm(&down, &m, &l, w.gemm, stream));
        NB_CUDA_MARK("down", stream);
        NB_CUDA_TRY(with_threads(m.width, n, l, [&](auto v, auto t) {
            constexpr int T = decltype(t)::value;
            return nb_launch(after_experts<decltype(v)::value, T>, n, T, 0, l.compute_capability,
                             stream, m, w.sum, w.down, m.dense ? NULL : w.group.slot,
                             m.dense ? NULL : w.route.weight, norm, w.start.x, w.start.h);
        }));
        NB_CUDA_MARK("after_experts", stream);
        return cudaSuccess;
    }

    cudaError_t run() const {
        nb_cuda_queries all = {s.n_tokens, s.longest_run, s.longest_run == s.n_tokens, NULL};
        nb_cuda_queries last = {s.n_logits, min(s.longest_run, s.n_logits), 0, s.logits_of};
        bool fewer = s.n_logits < s.n_tokens;
        NB_CUDA_TRY(
            cudaMemsetAsync(w.route.arrived, 0, (size_t)l.max_tokens * sizeof(int32_t), stream));
        NB_CUDA_TRY(cudaMemsetAsync(w.gemm, 0, NB_CUDA_GEMM_FLAGS, stream));
        NB_CUDA_TRY(nb_cuda_attention_plan(&m, &s, &all, w.plan, &l, stream));
        if (fewer && s.n_logits)
            NB_CUDA_TRY(nb_cuda_attention_plan(&m, &s, &last, w.last_plan, &l, stream));
        NB_CUDA_TRY(with_vecs(m.width, [&](auto v) {
            /* Without overlap (capability 0): all that follows begins when plans are made. */
            return nb_launch(start<decltype(v)::value>, s.n_tokens, THREADS, 0, 0, stream, m, s,
                             m.host_layers[0].attention_norm, w.start);
        }));
        NB_CUDA_MARK("start", stream);
        for (int32_t i = 0; i < m.n_layers; i++) {
            bool is_last = i == m.n_layers - 1;
            const nb_cuda_queries &queries = is_last && fewer ? last : all;
            bool rotates = !nb_cuda_attention_rotates(&queries);
            nb_cuda_projected projected;
            NB_CUDA_TRY(project(i, rotates, &projected));
            if (is_last && s.n_logits == 0)
                return cudaSuccess;
            NB_CUDA_TRY(finish(i, queries, rotates ? NULL : &projected,
                               is_last && fewer ? w.last_plan : w.plan,
                               is_last ? m.norm : m.host_layers[i + 1].attention_norm));
        }
        NB_CUDA_TRY(multiply(m.head, w.start.h, s.n_logits, 0, s.logits, NULL));
        NB_CUDA_MARK("head", stream);
        return cudaSuccess;
    }
};

} // namespace

int nb_cuda_batch_supports(const struct nb_cuda_model *m, const struct nb_cuda_limits *l) {
    return nb_cuda_attention_supports(m, l) && m->width % 4 == 0 && m->width <= MAX_WIDTH &&
           m->n_experts <= MAX_EXPERTS && m->experts_per_token <= 32 && l->max_tokens <= 65535;
}

size_t nb_cuda_batch_workspace(const struct nb_cuda_model *m, const struct nb_cuda_limits *l) {
    work w;
    return place_work(m, l, NULL, &w);
}

cudaError_t nb_cuda_batch_forward(const struct nb_cuda_model *m, const struct nb_cuda_step *s,
                                  void *workspace, const struct nb_cuda_limits *l,
                                  cudaStream_t stream) {
    pass p = {*m, *s, *l, {}, stream};
    place_work(m, l, workspace, &p.w);
    return p.run();
}
