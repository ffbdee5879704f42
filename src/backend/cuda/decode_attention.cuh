/* Attention of a step, by the 16 mma warps of the blocks. A unit of work is a token, a KV head with
 * the query heads that share it, and a part of the context (a split). Keys and values of earlier
 * steps come from pages; those of this step, which other blocks are writing to pages, from the
 * products themselves. So no block waits for another's writes to KV memory.
 *
 * A warp takes pages of 16 positions: scores are one product on the tensor cores, [16 positions, d]
 * times [d, 8 heads]; values are added with a running maximum (Milakov and Gimelshein, 2018), a
 * warp's lanes each having d / 32 columns of all heads. Warps, then splits, are combined as in
 * FlashDecoding (Dao et al., 2023), always in the same order.
 */
#ifndef NB_BACKEND_CUDA_DECODE_ATTENTION_CUH
#define NB_BACKEND_CUDA_DECODE_ATTENTION_CUH

#include "backend/backend.h"
#include "backend/cuda/decode_product.cuh"

#include <math_constants.h>

__device__ __forceinline__ void mma_warps_meet() {
    threads_meet<MMA_THREADS>();
}

/* A page's keys and values of one head, as a lane holds them. */
template <int WIDTH> struct page {
    enum { VECTORS = WIDTH / 32, WORDS = WIDTH / 64 };
    uint4 keys[2][VECTORS];      /* rows g and g + 8: columns 32 i + 8 q ... + 7 */
    const __nv_bfloat16 *values; /* [rows, WIDTH] */
    int32_t first, end;          /* rows to attend to */

    /* k, v: [rows, WIDTH], anywhere; rows is 16, or 8, where the second eight are not attended to.
     */
    __device__ __forceinline__ void load(const worker &w, const __nv_bfloat16 *k,
                                         const __nv_bfloat16 *v, int rows) {
#pragma unroll
        for (int i = 0; i < VECTORS; i++) {
            keys[0][i] = *(const uint4 *)(k + w.g * WIDTH + 32 * i + 8 * w.q);
            keys[1][i] = *(const uint4 *)(k + (w.g + rows - 8) * WIDTH + 32 * i + 8 * w.q);
        }
        values = v;
    }
};

/* The weights of row r of a page, for 8 heads: four rows to 128 bytes, which lie 256 apart. */
__device__ __forceinline__ float *weight_row(float *weights, int r) {
    return weights + r / 4 * 64 + r % 4 * 8;
}

/* Sums of a warp's pages so far, for all heads of the group. */
template <int WIDTH, int GROUP> struct attended {
    enum { COLUMNS = WIDTH / 32 };
    float maximum[2], sum[2]; /* of heads 2 q and 2 q + 1; the sum is over this lane's rows alone */
    float values[GROUP][COLUMNS];

    __device__ __forceinline__ void clear() {
        maximum[0] = maximum[1] = -CUDART_INF_F;
        sum[0] = sum[1] = 0;
        for (int h = 0; h < GROUP; h++) {
            for (int i = 0; i < COLUMNS; i++)
                values[h][i] = 0;
        }
    }

    /* weights: shared, this warp's; see weight_row. */
    __device__ __forceinline__ void add(const worker &w, page<WIDTH> &p, float *weights) {
        float c[4] = {};
#pragma unroll
        for (int i = 0; i < page<WIDTH>::VECTORS; i++) {
            uint4 q = *(const uint4 *)&w.sh.q[w.g][32 * i + 8 * w.q];
            uint4 k0 = p.keys[0][i], k1 = p.keys[1][i];
            mma(c, k0.x, k1.x, k0.y, k1.y, q.x, q.y);
            mma(c, k0.z, k1.z, k0.w, k1.w, q.z, q.w);
        }
        /* Values, where the keys were. Rows that are not attended to may hold anything, NaN, too.
         */
        uint32_t v[16][page<WIDTH>::WORDS];
#pragma unroll
        for (int r = 0; r < 16; r++) {
            const uint32_t *at = (const uint32_t *)(p.values + r * WIDTH + w.lane * (WIDTH / 32));
            bool any = r >= p.first && r < p.end;
            if (page<WIDTH>::WORDS == 2) {
                uint2 both = any ? *(const uint2 *)at : make_uint2(0, 0);
                v[r][0] = both.x;
                v[r][page<WIDTH>::WORDS - 1] = both.y;
            } else {
                v[r][0] = any ? *at : 0;
            }
        }
        if (w.g < p.first || w.g >= p.end)
            c[0] = c[1] = -CUDART_INF_F;
        if (w.g + 8 < p.first || w.g + 8 >= p.end)
            c[2] = c[3] = -CUDART_INF_F;
        float keep[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float most = fmaxf(c[i], c[i + 2]);
            for (int s = 4; s < 32; s *= 2)
                most = fmaxf(most, __shfl_xor_sync(~0U, most, s));
            most = fmaxf(most, maximum[i]);
            keep[i] = exp2f(maximum[i] - most);
            maximum[i] = most;
            c[i] = exp2f(c[i] - most);
            c[i + 2] = exp2f(c[i + 2] - most);
            sum[i] = sum[i] * keep[i] + c[i] + c[i + 2];
        }
        __syncwarp();
        *(float2 *)(weight_row(weights, w.g) + 2 * w.q) = make_float2(c[0], c[1]);
        *(float2 *)(weight_row(weights, w.g + 8) + 2 * w.q) = make_float2(c[2], c[3]);
        if (w.g == 0)
            *(float2 *)&w.sh.keep[w.warp][2 * w.q] = make_float2(keep[0], keep[1]);
        __syncwarp();
#pragma unroll
        for (int h = 0; h < GROUP; h++) {
            float k = w.sh.keep[w.warp][h];
            for (int i = 0; i < COLUMNS; i++)
                values[h][i] *= k;
        }
#pragma unroll
        for (int r = 0; r < 16; r++) {
            const float *weight = weight_row(weights, r);
            float4 weight4[GROUP / 4];
            for (int h = 0; h < GROUP / 4; h++)
                weight4[h] = *(const float4 *)(weight + 4 * h);
#pragma unroll
            for (int i = 0; i < page<WIDTH>::WORDS; i++) {
                float v0 = low_half(v[r][i]), v1 = high_half(v[r][i]);
#pragma unroll
                for (int h = 0; h < GROUP; h++) {
                    float4 f = weight4[h / 4];
                    float x = h % 4 == 0 ? f.x : h % 4 == 1 ? f.y : h % 4 == 2 ? f.z : f.w;
                    values[h][2 * i] += x * v0;
                    values[h][2 * i + 1] += x * v1;
                }
            }
        }
    }
};

/* Which part of which token's context. */
struct attention_unit {
    int32_t t, head, split;   /* KV head */
    int32_t first, base;      /* positions [first, base) are in pages, the rest of this step */
    int32_t page, n_pages;    /* of the split */
    int32_t n_new, new_first; /* tokens of this step up to t of its sequence, the first in reach */
};

__device__ __forceinline__ attention_unit attention_unit_of(const worker &w, int32_t index) {
    attention_unit u;
    int32_t G = w.p.m.n_kv_heads, S = w.p.n_splits;
    u.split = index % S;
    u.head = index / S % G;
    u.t = index / (S * G);
    int32_t position = w.sh.position[u.t], window = w.p.m.window;
    u.first = window && position >= window ? position - window + 1 : 0;
    u.n_new = 0;
    u.new_first = 0;
    u.base = position;
#pragma unroll 1
    for (int32_t t = u.t; t >= 0; t--) {
        if (w.sh.sequence[t] != w.sh.sequence[u.t])
            continue;
        u.n_new++;
        u.base = w.sh.position[t];
    }
    if (u.base < u.first)
        u.new_first = u.first - u.base;
    int32_t from = u.first / NB_PAGE_TOKENS,
            all = u.base > u.first ? (u.base - 1) / NB_PAGE_TOKENS - from + 1 : 0;
    u.page = from + (int32_t)((int64_t)all * u.split / S);
    u.n_pages = from + (int32_t)((int64_t)all * (u.split + 1) / S) - u.page;
    return u;
}

/* The i-th token of this step in u's sequence. */
__device__ __forceinline__ int32_t token_of(const worker &w, const attention_unit &u, int32_t i) {
    int32_t t = 0;
    for (;; t++) {
        if (w.sh.sequence[t] == w.sh.sequence[u.t] && i-- == 0)
            return t;
    }
}

/* A head of queries (kind 0), keys (1) or values (2) from the products: norm, rope, bf16 into
 * shared memory. A warp. */
template <int WIDTH>
__device__ __forceinline__ void prepare_head(const worker &w, int32_t layer, int kind, int32_t t,
                                             int32_t head, __nv_bfloat16 *to) {
    enum { N = WIDTH / 32 };
    const struct nb_cuda_model &m = w.p.m;
    int32_t G = m.n_kv_heads, H = m.n_heads;
    int32_t row = kind == 0 ? head : kind == 1 ? H + head : H + G + head;
    const float *from = w.p.exchange[layer & 1].qkv + ((size_t)t * (H + 2 * G) + row) * WIDTH;
    uint32_t raw[N];
    float x[N];
    take_words(raw, from + w.lane, WIDTH);
    __syncwarp();
    for (int i = 0; i < N; i++)
        x[i] = __uint_as_float(raw[i]);
    if (kind < 2 && m.qk_norm) {
        const float *norm = kind ? w.p.layers[layer].k_norm : w.p.layers[layer].q_norm;
        float squares = 0;
        for (int i = 0; i < N; i++)
            squares += x[i] * x[i];
        float scale = rsqrtf(warp_sum(squares) / WIDTH + m.rms_eps);
        for (int i = 0; i < N; i++)
            x[i] *= scale * __ldg(norm + w.lane + 32 * i);
    }
    if (kind < 2) {
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            const float *turn = w.sh.rope[t][w.lane + 32 * i];
            float a = x[i], b = x[i + N / 2];
            x[i] = a * turn[0] - b * turn[1];
            x[i + N / 2] = b * turn[0] + a * turn[1];
        }
    }
    /* Scores in base 2. */
    float scale = kind == 0 ? rsqrtf((float)WIDTH) * 1.4426950408889634f : 1.0f;
    for (int i = 0; i < N; i++)
        to[w.lane + 32 * i] = __float2bfloat16_rn(x[i] * scale);
}

/* The key and value of this step's last token of u into its page. A warp. */
template <int WIDTH>
__device__ __forceinline__ void write_kv(const worker &w, const attention_unit &u, int32_t layer) {
    const struct nb_cuda_model &m = w.p.m;
    int32_t position = w.sh.position[u.t];
    int32_t page =
        w.p.s.pages[(size_t)w.sh.sequence[u.t] * w.p.s.max_pages + position / NB_PAGE_TOKENS];
    __nv_bfloat16 *to = (__nv_bfloat16 *)m.kv + ((size_t)layer * m.n_pages + page) * m.page_stride +
                        (size_t)(u.head * NB_PAGE_TOKENS + position % NB_PAGE_TOKENS) * WIDTH;
    int32_t i = u.n_new - 1, column = w.lane % 16 * 8;
    const __nv_bfloat16 *from = w.lane < 16 ? w.sh.keys[0] : w.sh.values[0];
    if (w.lane >= 16)
        to += (size_t)m.n_kv_heads * NB_PAGE_TOKENS * WIDTH;
    if (column < WIDTH)
        *(uint4 *)(to + column) = *(const uint4 *)(from + i * WIDTH + column);
}

/* One unit up to what its split contributes. */
template <int WIDTH, int GROUP>
__device__ __forceinline__ void attend(worker &w, int32_t layer, const attention_unit &u) {
    typedef attended<WIDTH, GROUP> sums;
    const struct nb_cuda_model &m = w.p.m;
    const exchange &x = w.p.exchange[layer & 1], &old = w.p.exchange[~layer & 1];
    int32_t group = m.n_heads / m.n_kv_heads, S = w.p.n_splits;
    bool last = u.split == S - 1;
    int32_t n_items = u.n_pages + last;
    const __nv_bfloat16 *kv = (const __nv_bfloat16 *)m.kv +
                              (size_t)layer * m.n_pages * m.page_stride +
                              (size_t)u.head * NB_PAGE_TOKENS * WIDTH;
    size_t values_at = (size_t)m.n_kv_heads * NB_PAGE_TOKENS * WIDTH;
    const int32_t *pages = w.p.s.pages + (size_t)w.sh.sequence[u.t] * w.p.s.max_pages + u.page;
    /* Where sums of tiles were, and where this warp's own sums will be: a warp that is done writes
     * those while others still use their weights. */
    float *weights = (float *)(w.table + w.warp * 4 * (WIDTH / 32) * 256 + 128);
    auto load = [&](int32_t i, page<WIDTH> &p) {
        if (i < u.n_pages) {
            const __nv_bfloat16 *at = kv + (size_t)__ldg(pages + i) * m.page_stride;
            p.load(w, at, at + values_at, 16);
            int32_t position = (u.page + i) * NB_PAGE_TOKENS;
            p.first = u.first - position;
            p.end = u.base - position;
        } else {
            p.load(w, w.sh.keys[0], w.sh.values[0], 8);
            p.first = u.new_first;
            p.end = u.n_new;
        }
    };
    /* Pages on their way while queries are waited for: a lane a line of 128 bytes. */
    auto prefetch = [&](int32_t i) {
        if (i < u.n_pages && w.lane < WIDTH / 4) {
            const __nv_bfloat16 *at = kv + (size_t)__ldg(pages + i) * m.page_stride + w.lane * 64;
            prefetch_line(at);
            prefetch_line(at + values_at);
        }
    };
    int32_t item = w.warp;
    prefetch(item);
    prefetch(item + MMA_WARPS);
#pragma unroll 1
    for (int32_t i = w.warp; i < group + 2 * u.n_new; i += MMA_WARPS) {
        int32_t n = i - group, kind = i < group ? 0 : n < u.n_new ? 1 : 2;
        n -= kind == 2 ? u.n_new : 0;
        __nv_bfloat16 *to = kind == 0   ? w.sh.q[i]
                            : kind == 1 ? w.sh.keys[0] + n * WIDTH
                                        : w.sh.values[0] + n * WIDTH;
        prepare_head<WIDTH>(w, layer, kind, kind ? token_of(w, u, n) : u.t,
                            kind ? u.head : u.head * group + i, to);
    }
    mma_warps_meet();
    if (u.split == 0 && w.warp == MMA_WARPS - 1)
        write_kv<WIDTH>(w, u, layer);
    sums a;
    a.clear();
#pragma unroll 1
    for (; item < n_items; item += MMA_WARPS) {
        page<WIDTH> p;
        load(item, p);
        prefetch(item + 2 * MMA_WARPS);
        a.add(w, p, weights);
    }
    __syncwarp(); /* all lanes have read the weights, where sums will be */
    /* Warps with anything: combine them. */
    int32_t n_warps = n_items < MMA_WARPS ? n_items : MMA_WARPS;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        for (int s = 4; s < 32; s *= 2)
            a.sum[i] += __shfl_xor_sync(~0U, a.sum[i], s);
        if (w.g == 0) {
            w.sh.maximum_sum[w.warp][2 * w.q + i][0] = a.maximum[i];
            w.sh.maximum_sum[w.warp][2 * w.q + i][1] = a.sum[i];
        }
    }
    enum { COLUMNS = WIDTH / 32, HEAD_ROWS = WIDTH / 32 };
    int32_t tid = w.warp * 32 + w.lane, head4 = tid / WIDTH, column = tid % WIDTH;
#pragma unroll
    for (int h0 = 0; h0 < GROUP; h0 += 4) {
#pragma unroll
        for (int h4 = 0; h4 < 4; h4++) {
            /* [warp][head][WIDTH], 32 to a row. */
            int row = (w.warp * 4 + h4) * HEAD_ROWS + w.lane * COLUMNS / 32;
            float *to = (float *)(w.table + row * 256 + 128) + w.lane * COLUMNS % 32;
            for (int i = 0; i < COLUMNS; i++)
                to[i] = a.values[h0 + h4][i];
        }
        mma_warps_meet();
        if (head4 < 4 && h0 + head4 < group) {
            float maximum = -CUDART_INF_F, sum = 0, v = 0;
#pragma unroll 4
            for (int32_t i = 0; i < n_warps; i++)
                maximum = fmaxf(maximum, w.sh.maximum_sum[i][h0 + head4][0]);
#pragma unroll 4
            for (int32_t i = 0; i < n_warps; i++) {
                int row = (i * 4 + head4) * HEAD_ROWS + column / 32;
                float factor = exp2f(w.sh.maximum_sum[i][h0 + head4][0] - maximum);
                v += factor * ((const float *)(w.table + row * 256 + 128))[column % 32];
                sum += factor * w.sh.maximum_sum[i][h0 + head4][1];
            }
            int32_t head = u.head * group + h0 + head4;
            if (S == 1) {
                v /= sum;
                float next = __shfl_down_sync(~0U, v, 1);
                size_t at = ((size_t)u.t * m.n_heads + head) * WIDTH + column;
                if (column % 2 == 0) {
                    store_word(x.attended + at, pack(v, next));
                    store_word(old.attended + at, NOTHING);
                }
            } else {
                size_t at = (((size_t)u.t * m.n_heads + head) * S + u.split) * (WIDTH + 2);
                store_float(x.part + at + column, v);
                store_word(old.part + at + column, NOTHING);
                if (column < 2) {
                    store_float(x.part + at + WIDTH + column, column ? sum : maximum);
                    store_word(old.part + at + WIDTH + column, NOTHING);
                }
            }
        }
        mma_warps_meet();
    }
}

/* A split's share of the columns of its token and KV head: all splits' sums, one result. A lane a
 * split. */
template <int WIDTH>
__device__ __forceinline__ void combine_splits(const worker &w, int32_t layer,
                                               const attention_unit &u) {
    const struct nb_cuda_model &m = w.p.m;
    const exchange &x = w.p.exchange[layer & 1], &old = w.p.exchange[~layer & 1];
    int32_t group = m.n_heads / m.n_kv_heads, S = w.p.n_splits, pairs = group * WIDTH / 2;
    int32_t begin = pairs * u.split / S, end = pairs * (u.split + 1) / S;
    for (int32_t i = begin + w.warp; i < end; i += MMA_WARPS) {
        int32_t head = u.head * group + i / (WIDTH / 2), column = i % (WIDTH / 2) * 2;
        const float *from = x.part + (((size_t)u.t * m.n_heads + head) * S + w.lane) * (WIDTH + 2);
        float v[4] = {0, 0, -CUDART_INF_F, 0};
        if (w.lane < S) {
            uint32_t raw[4], tries = 0;
            do {
                for (int k = 0; k < 4; k++)
                    raw[k] = load_word(from + (k < 2 ? column + k : WIDTH + k - 2));
                if (++tries > SPIN_LIMIT)
                    __trap();
            } while (is_nothing(make_uint4(raw[0], raw[1], raw[2], raw[3])));
            for (int k = 0; k < 4; k++)
                v[k] = __uint_as_float(raw[k]);
        }
        __syncwarp();
        float most = v[2];
        for (int s = 16; s; s /= 2)
            most = fmaxf(most, __shfl_xor_sync(~0U, most, s));
        float factor = exp2f(v[2] - most);
        float sum = warp_sum(v[3] * factor), v0 = warp_sum(v[0] * factor),
              v1 = warp_sum(v[1] * factor);
        if (w.lane == 0) {
            size_t at = ((size_t)u.t * m.n_heads + head) * WIDTH + column;
            store_word(x.attended + at, pack(v0 / sum, v1 / sum));
            store_word(old.attended + at, NOTHING);
        }
    }
}

template <int WIDTH, int GROUP>
__device__ __forceinline__ void attention(worker &w, int32_t layer) {
    int32_t n = w.p.s.n_tokens * w.p.m.n_kv_heads * w.p.n_splits;
    if (own_share(n) == 0)
        return;
    /* The finishers must be done with the sums of tiles. */
    uint32_t tile = w.sh.tile[w.warp];
#pragma unroll 1
    for (uint32_t i = 0; i < SLOTS; i++)
        barrier_wait(&w.sh.slot_free[(tile + i) % SLOTS], ((tile + i) / SLOTS & 1) ^ 1);
#pragma unroll 1
    for (int32_t i = 0; i < own_share(n); i++)
        attend<WIDTH, GROUP>(w, layer, attention_unit_of(w, own_index(i)));
    if (w.p.n_splits > 1) {
#pragma unroll 1
        for (int32_t i = 0; i < own_share(n); i++)
            combine_splits<WIDTH>(w, layer, attention_unit_of(w, own_index(i)));
    }
    /* What was cleared above is so before what this block says next: by the finishers' fence after
     * this phase's successor, o, of which every block has tiles. */
}

#endif
