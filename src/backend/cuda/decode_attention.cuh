/* Attention of a step, by the 16 mma warps of the blocks. A unit of work is a token, a KV head with
 * the query heads that share it, and a part of the context (a split). Keys and values of earlier
 * steps come from pages; those of this step, which other blocks are writing to pages, from the
 * products themselves. So no block waits for another's writes to KV memory.
 *
 * A warp takes halves of pages, 8 positions. Scores are a product on the tensor cores, [8 heads, d]
 * times [d, 8 positions]; what a lane has of it is, as weights in bf16, its B operand of the other
 * one, [d, 8 positions] times [8 positions, 8 heads], so that nothing moves between lanes but a
 * running maximum (Milakov and Gimelshein, 2018). Warps, then splits, are combined as in
 * FlashDecoding (Dao et al., 2023), always in the same order.
 *
 * This is code that runs once a layer while all blocks wait: what counts is how few instructions
 * and trips to the L2 cache follow one another. So a warp has its first keys and values in
 * registers before the queries are there. Sums are kept in shared memory, since with them in
 * registers, too, some of all that would be in local memory, and each use of that a trip to the L2
 * cache.
 */
#ifndef NB_BACKEND_CUDA_DECODE_ATTENTION_CUH
#define NB_BACKEND_CUDA_DECODE_ATTENTION_CUH

#include "backend/backend.h"
#include "backend/cuda/decode_product.cuh"

#include <math_constants.h>

__device__ __forceinline__ void mma_warps_meet() {
    threads_meet<MMA_THREADS>();
}

/* Half a page's keys and values of one head, as a lane holds them. */
template <int WIDTH> struct half_page {
    uint4 keys[WIDTH / 32];      /* of position g: columns 32 i + 8 q ... + 7 */
    uint4 values[2][WIDTH / 64]; /* of positions 2 q and 2 q + 1: columns 64 i + 8 g ... + 7 */
    int32_t first, end;          /* positions to attend to */

    /* k, v: [8, WIDTH], anywhere. What is not attended to may hold anything. */
    __device__ __forceinline__ void load_keys(const worker &w, const __nv_bfloat16 *k) {
#pragma unroll
        for (int i = 0; i < WIDTH / 32; i++)
            keys[i] = *(const uint4 *)(k + w.g * WIDTH + 32 * i + 8 * w.q);
    }

    __device__ __forceinline__ void load_values(const worker &w, const __nv_bfloat16 *v) {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int32_t at = 2 * w.q + r;
            bool any = at >= first && at < end;
#pragma unroll
            for (int i = 0; i < WIDTH / 64; i++)
                values[r][i] = any ? *(const uint4 *)(v + at * WIDTH + 64 * i + 8 * w.g)
                                   : make_uint4(0, 0, 0, 0);
        }
    }
};

/* How many warps attend: each has sums of all heads in the memory of sums of tiles, 32 KiB. */
template <int WIDTH, int GROUP> constexpr int ATTENDING = GROUP *WIDTH <= 512 ? 16 : 8;

/* Sums are in the second halves of the table's rows, 32 to a row: [warp][head][WIDTH]. In bytes,
 * how far a head is from the next. */
template <int WIDTH> constexpr int HEAD_SUMS = WIDTH / 32 * 256;

/* What a warp attended to so far. */
template <int WIDTH, int GROUP> struct attended {
    float maximum, sum; /* of head g; the sum is over this lane's positions alone */
    bool any;

    __device__ __forceinline__ void clear() {
        maximum = -CUDART_INF_F;
        sum = 0;
        any = false;
    }

    /* Scores of positions 2 q and 2 q + 1 with head g. Of each product one half of the rows counts,
     * so that both have the same operand, of each eight columns four in rows 0-7 and four in rows
     * 8-15, and none of it is moved. */
    __device__ __forceinline__ void score(const worker &w, const half_page<WIDTH> &p,
                                          float (&c)[2]) {
        float sums[2][4] = {};
#pragma unroll
        for (int i = 0; i < WIDTH / 32; i++) {
            uint4 query = *(const uint4 *)&w.sh.q[w.g][32 * i + 8 * w.q];
            mma(sums[0], query.x, query.y, query.z, query.w, p.keys[i].x, p.keys[i].y);
            mma(sums[1], query.x, query.y, query.z, query.w, p.keys[i].z, p.keys[i].w);
        }
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int32_t at = 2 * w.q + i;
            c[i] = at >= p.first && at < p.end ? sums[0][i] + sums[1][2 + i] : -CUDART_INF_F;
        }
    }

    __device__ __forceinline__ void add(const worker &w, const half_page<WIDTH> &p,
                                        const float (&c)[2]) {
        float most = fmaxf(c[0], c[1]);
        most = fmaxf(most, __shfl_xor_sync(~0U, most, 1));
        most = fmaxf(most, __shfl_xor_sync(~0U, most, 2));
        most = fmaxf(most, maximum);
        /* With nothing to attend to yet, all is 0. */
        float base = most == -CUDART_INF_F ? 0 : most;
        float keep = exp2f(maximum - base), f0 = exp2f(c[0] - base), f1 = exp2f(c[1] - base);
        maximum = most;
        sum = sum * keep + f0 + f1;
        uint32_t b = pack(f0, f1);
        float keep0 = __shfl_sync(~0U, keep, 8 * w.q), keep1 = __shfl_sync(~0U, keep, 8 * w.q + 4);
        bool mine = GROUP == 8 || w.q < GROUP / 2;
        uint8_t *sums = w.table + (w.warp * GROUP + 2 * w.q) * HEAD_SUMS<WIDTH> + w.g / 4 * 256 +
                        128 + w.g % 4 * 32;
        /* Columns 64 (i / 2) + 8 g + 4 (i % 2) ... + 3 of heads 2 q and 2 q + 1. */
#pragma unroll
        for (int i = 0; i < WIDTH / 32; i++) {
            float4 *at0 = (float4 *)(sums + i / 2 * 512 + i % 2 * 16),
                   *at1 = (float4 *)(sums + i / 2 * 512 + i % 2 * 16 + HEAD_SUMS<WIDTH>);
            float4 old0 = make_float4(0, 0, 0, 0), old1 = old0;
            if (any && mine) {
                old0 = *at0;
                old1 = *at1;
            }
            float c0[4] = {old0.x * keep0, old1.x * keep1, old0.y * keep0, old1.y * keep1},
                  c1[4] = {old0.z * keep0, old1.z * keep1, old0.w * keep0, old1.w * keep1};
            uint4 x = p.values[0][i / 2], y = p.values[1][i / 2];
            uint32_t x0 = i % 2 ? x.z : x.x, y0 = i % 2 ? y.z : y.x, x1 = i % 2 ? x.w : x.y,
                     y1 = i % 2 ? y.w : y.y;
            mma_half(c0, __byte_perm(x0, y0, 0x5410), __byte_perm(x0, y0, 0x7632), b);
            mma_half(c1, __byte_perm(x1, y1, 0x5410), __byte_perm(x1, y1, 0x7632), b);
            if (mine) {
                *at0 = make_float4(c0[0], c0[2], c1[0], c1[2]);
                *at1 = make_float4(c0[1], c0[3], c1[1], c1[3]);
            }
        }
        any = true;
    }

    /* Of a warp that had nothing to attend to: what is there is multiplied by 0. */
    __device__ __forceinline__ void no_sums(const worker &w) {
#pragma unroll 1
        for (int32_t i = 0; i < GROUP * WIDTH / 32; i++)
            *(float *)(w.table + (w.warp * GROUP * WIDTH / 32 + i) * 256 + 128 + w.lane * 4) = 0;
    }
};

/* The block's i-th unit, in shared memory: registers are scarce where it is used. */
__device__ __forceinline__ const volatile attention_unit &unit_in_memory(const worker &w,
                                                                         int32_t i) {
    if (i == 0)
        return w.sh.first_unit;
    __syncwarp();
    if (w.lane == 0)
        w.sh.units[w.warp] = attention_unit_of(w.p, w.sh, attention_index(i));
    __syncwarp();
    return w.sh.units[w.warp];
}

/* The i-th token of this step in u's sequence. */
__device__ __forceinline__ int32_t token_of(const worker &w, const volatile attention_unit &u,
                                            int32_t i) {
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
    const float *from = exchange_of(w.p, layer).qkv + ((size_t)t * (H + 2 * G) + row) * WIDTH;
    uint32_t raw[N];
    float x[N];
    take_words(raw, from + w.lane, WIDTH);
    __syncwarp();
    if (w.warp == MMA_WARPS - 1 && w.lane == 0)
        note(w.p, layer, 28);
#pragma unroll
    for (int i = 0; i < N; i++)
        x[i] = __uint_as_float(raw[i]);
    if (kind < 2) {
        if (m.qk_norm) {
            const float *norm = kind ? w.p.layers[layer].k_norm : w.p.layers[layer].q_norm;
            float squares = 0;
#pragma unroll
            for (int i = 0; i < N; i++)
                squares += x[i] * x[i];
            float scale = rsqrtf(warp_sum(squares) / WIDTH + m.rms_eps);
#pragma unroll
            for (int i = 0; i < N; i++)
                x[i] *= scale * __ldg(norm + w.lane + 32 * i);
        }
        /* Scores in base 2. */
        float scale = kind == 0 ? rsqrtf((float)WIDTH) * 1.4426950408889634f : 1.0f;
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            const float *turn = w.sh.rope[t][w.lane + 32 * i];
            float a = x[i] * scale, b = x[i + N / 2] * scale;
            x[i] = a * turn[0] - b * turn[1];
            x[i + N / 2] = b * turn[0] + a * turn[1];
        }
    }
    /* Of queries, the second and third pair of eight change places, see score. */
    int32_t at = kind == 0 ? (w.lane & ~6) | (w.lane & 2) << 1 | (w.lane & 4) >> 1 : w.lane;
#pragma unroll
    for (int i = 0; i < N; i++)
        to[at + 32 * i] = __float2bfloat16_rn(x[i]);
}

/* The key and value of this step's last token of u into its page. A warp. */
template <int WIDTH>
__device__ __forceinline__ void write_kv(const worker &w, const volatile attention_unit &u,
                                         int32_t layer) {
    const struct nb_cuda_model &m = w.p.m;
    int32_t position = w.sh.position[u.t];
    __nv_bfloat16 *to = (__nv_bfloat16 *)m.kv +
                        ((size_t)layer * m.n_pages + u.new_page) * m.page_stride +
                        (size_t)(u.head * NB_PAGE_TOKENS + position % NB_PAGE_TOKENS) * WIDTH;
    int32_t i = u.n_new - 1, column = w.lane % 16 * 8;
    const __nv_bfloat16 *from = w.lane < 16 ? w.sh.keys[0] : w.sh.values[0];
    if (w.lane >= 16)
        to += (size_t)m.n_kv_heads * NB_PAGE_TOKENS * WIDTH;
    if (column < WIDTH)
        *(uint4 *)(to + column) = *(const uint4 *)(from + i * WIDTH + column);
}

/* Where the splits' maxima and sums are: behind their sums of values. */
template <int WIDTH>
__device__ __forceinline__ float *parts_end(const worker &w, const exchange &x) {
    return x.part + (size_t)w.p.s.n_tokens * w.p.m.n_heads * w.p.n_splits * WIDTH;
}

/* One unit up to what its split contributes. */
template <int WIDTH, int GROUP>
__device__ __forceinline__ void attend(const worker &w, int32_t layer,
                                       const volatile attention_unit &u) {
    enum { AHEAD = 3 }; /* how many of a warp's halves are on their way into the L2 cache */
    const struct nb_cuda_model &m = w.p.m;
    int32_t values_at = *(volatile int32_t *)&w.sh.to_values;
    auto place = [&](int32_t i) {
        int32_t page =
            __ldg(w.p.s.pages + (size_t)w.sh.sequence[u.t] * w.p.s.max_pages + u.page + i);
        return (const __nv_bfloat16 *)m.kv + ((size_t)layer * m.n_pages + page) * m.page_stride +
               u.head * NB_PAGE_TOKENS * WIDTH;
    };
    enum { WARPS = ATTENDING<WIDTH, GROUP> };
    half_page<WIDTH> p = {}; /* what may be unset would be kept from layer to layer */
    /* The i-th half of a page, or after the last what is new. */
    int32_t n_old = 2 * u.n_pages;
    const __nv_bfloat16 *keys, *values;
    auto find = [&](int32_t i) {
        if (i < n_old) {
            keys = place(i / 2) + i % 2 * 8 * WIDTH;
            values = keys + values_at;
            int32_t position = (u.page + i / 2) * NB_PAGE_TOKENS + i % 2 * 8;
            p.first = u.first - position;
            p.end = u.base - position;
        } else {
            keys = w.sh.keys[0];
            values = w.sh.values[0];
            p.first = u.new_first;
            p.end = u.n_new;
        }
    };
    int32_t S = w.p.n_splits;
    /* Pages on their way while queries are waited for: a lane a line of 128 bytes. */
    auto prefetch = [&](int32_t i) { /* (of a split, a finisher did that) */
        if (S == 1 && i < n_old && w.lane < WIDTH / 8) {
            const __nv_bfloat16 *at = place(i / 2) + i % 2 * 8 * WIDTH + w.lane * 64;
            prefetch_line(at);
            prefetch_line(at + values_at);
        }
    };
    int32_t item = w.warp, group = *(volatile int32_t *)&w.sh.group;
    bool last = u.split == S - 1;
    int32_t n_items = n_old + last;
    if (w.warp >= WARPS)
        item = n_items;
    else if (item < n_old) {
        find(item);
        p.load_keys(w, keys);
        p.load_values(w, values);
    }
#pragma unroll 1
    for (int i = 1; i <= AHEAD; i++)
        prefetch(item + i * WARPS);
    stamp(w, layer, 27);
    /* Finishers must be done with the sums of tiles, where sums of attention go. */
    uint32_t tile = w.sh.tile[w.warp];
#pragma unroll 1
    for (uint32_t i = 0; i < SLOTS; i++)
        barrier_wait(&w.sh.slot_free[(tile + i) % SLOTS], ((tile + i) / SLOTS & 1) ^ 1);
    /* The last warps first: the first ones have most to wait for. */
#pragma unroll 1
    for (int32_t i = MMA_WARPS - 1 - w.warp; i < group + 2 * u.n_new; i += MMA_WARPS) {
        int32_t n = i - group, kind = i < group ? 0 : n < u.n_new ? 1 : 2;
        n -= kind == 2 ? u.n_new : 0;
        prepare_head<WIDTH>(w, layer, kind, kind ? token_of(w, u, n) : u.t,
                            kind ? u.head : u.head * group + i,
                            kind == 0   ? w.sh.q[i]
                            : kind == 1 ? w.sh.keys[0] + n * WIDTH
                                        : w.sh.values[0] + n * WIDTH);
    }
    if (w.warp == MMA_WARPS - 1 && w.lane == 0)
        note(w.p, layer, 29);
    mma_warps_meet();
    stamp(w, layer, 24);
    attended<WIDTH, GROUP> a;
    a.clear();
    if (item == n_old && item < n_items) {
        find(item);
        p.load_keys(w, keys);
        p.load_values(w, values);
    }
#pragma unroll 1
    while (item < n_items) { /* the next keys and values go where the last were */
        float c[2];
        a.score(w, p, c);
        item += WARPS;
        bool more = item < n_items;
        if (more) {
            prefetch(item + AHEAD * WARPS);
            find(item);
            p.load_keys(w, keys);
        }
        a.add(w, p, c);
        if (more)
            p.load_values(w, values);
    }
    stamp(w, layer, 25);
    if (!a.any && w.warp < WARPS)
        a.no_sums(w);
    a.sum += __shfl_xor_sync(~0U, a.sum, 1);
    a.sum += __shfl_xor_sync(~0U, a.sum, 2);
    if (w.q == 0)
        *(float2 *)w.sh.maximum_sum[w.warp][w.g] = make_float2(a.maximum, a.sum);
    mma_warps_meet();
    stamp(w, layer, 30);
    /* All warps' sums: a lane a column. */
#pragma unroll 1
    for (int32_t i = w.warp * 32; i < group * WIDTH; i += MMA_THREADS) {
        int32_t head = i / WIDTH, column = i % WIDTH + w.lane;
        /* (From memory for the reason given in attention.) */
        int32_t of = *(volatile int32_t *)&w.sh.numbers[threadIdx.x % WARPS];
        float2 of_warp = *(const float2 *)w.sh.maximum_sum[of][head];
        float most = of_warp.x;
#pragma unroll
        for (int s = WARPS / 2; s; s /= 2)
            most = fmaxf(most, __shfl_xor_sync(~0U, most, s));
        float factor = of_warp.x == -CUDART_INF_F ? 0 : exp2f(of_warp.x - most);
        float sum = factor * of_warp.y, v = 0;
#pragma unroll
        for (int s = WARPS / 2; s; s /= 2)
            sum += __shfl_xor_sync(~0U, sum, s);
        /* Queries are used no more: for each warp its own copy. */
        float *factors = (float *)w.sh.q + w.warp * WARPS;
        if (w.lane < WARPS)
            factors[w.lane] = factor;
        __syncwarp();
        const uint8_t *sums =
            w.table + head * HEAD_SUMS<WIDTH> + column / 32 * 256 + 128 + w.lane * 4;
#pragma unroll
        for (int k = 0; k < WARPS; k += 4) {
            float4 f = *(const float4 *)(factors + k);
            float of4[4] = {f.x, f.y, f.z, f.w};
#pragma unroll
            for (int j = 0; j < 4; j++)
                v += of4[j] * *(const float *)(sums + (k + j) * (GROUP * HEAD_SUMS<WIDTH>));
        }
        __syncwarp();
        size_t row = (size_t)u.t * m.n_heads + u.head * group + head;
        if (S == 1) {
            v /= sum;
            float next = __shfl_down_sync(~0U, v, 1);
            if (w.lane % 2 == 0)
                store_word(exchange_of(w.p, layer).attended + row * WIDTH + column, pack(v, next));
        } else {
            const exchange x = exchange_of(w.p, layer);
            store_float(x.part + (row * S + u.split) * WIDTH + column, v);
            if (column < 2)
                store_float(parts_end<WIDTH>(w, x) + (row * S + u.split) * 2 + column,
                            column ? sum : most);
        }
    }
    stamp(w, layer, 31);
    if (u.split == 0 && w.warp == MMA_WARPS - 1) /* keys and values stay until all meet again */
        write_kv<WIDTH>(w, u, layer);
    mma_warps_meet();
    stamp(w, layer, 26);
}

/* A split's share of what its token and KV head attended to, 32 columns a warp at a time: all
 * splits' sums, one result. A lane is a column, and a split, of which it has the maximum and the
 * sum. */
template <int WIDTH>
__device__ __forceinline__ void combine_splits(const worker &w, int32_t layer,
                                               const volatile attention_unit &u) {
    enum { AT_ONCE = 16 };
    const struct nb_cuda_model &m = w.p.m;
    const exchange x = exchange_of(w.p, layer);
    int32_t group = *(volatile int32_t *)&w.sh.group, S = w.p.n_splits;
#pragma unroll 1
    for (int32_t i = u.split + w.warp * S; i < group * (WIDTH / 32); i += MMA_WARPS * S) {
        size_t row = (size_t)u.t * m.n_heads + u.head * group + i / (WIDTH / 32);
        int32_t column = i % (WIDTH / 32) * 32 + w.lane;
        const float *from = x.part + row * S * WIDTH + column,
                    *of_split = parts_end<WIDTH>(w, x) + (row * S + w.lane) * 2;
        float most = -CUDART_INF_F, factor = 0, sum = 0, v = 0;
#pragma unroll 1
        for (int32_t first = 0; first < S; first += AT_ONCE, from += AT_ONCE * WIDTH) {
            uint32_t raw[AT_ONCE], mine[2], tries = 0;
            bool again;
            do {
                again = false;
                mine[0] = mine[1] = 0;
                if (first == 0 && w.lane < S) {
                    mine[0] = load_word(of_split);
                    mine[1] = load_word(of_split + 1);
                }
#pragma unroll
                for (int k = 0; k < AT_ONCE; k++)
                    raw[k] = first + k < S ? load_word(from + k * WIDTH) : 0;
#pragma unroll
                for (int k = 0; k < AT_ONCE; k++)
                    again |= raw[k] == NOTHING;
                again |= mine[0] == NOTHING || mine[1] == NOTHING;
                if (++tries > SPIN_LIMIT)
                    __trap();
            } while (again);
            __syncwarp();
            if (first == 0) {
                float maximum = w.lane < S ? __uint_as_float(mine[0]) : -CUDART_INF_F;
                most = maximum;
#pragma unroll
                for (int s = 16; s; s /= 2)
                    most = fmaxf(most, __shfl_xor_sync(~0U, most, s));
                factor = exp2f(maximum - most);
                sum = warp_sum(__uint_as_float(mine[1]) * factor);
            }
#pragma unroll
            for (int k = 0; k < AT_ONCE; k++)
                v += __shfl_sync(~0U, factor, (first + k) & 31) * __uint_as_float(raw[k]);
        }
        v /= sum;
        float next = __shfl_down_sync(~0U, v, 1);
        if (w.lane % 2 == 0)
            store_word(x.attended + row * WIDTH + column, pack(v, next));
    }
}

template <int WIDTH, int GROUP>
__device__ __forceinline__ void attention(const worker &of, int32_t layer) {
    int32_t n = of.p.s.n_tokens * of.p.m.n_kv_heads * of.p.n_splits;
    if (attention_share(n) == 0)
        return;
    /* Which warp and lane this is, from memory: what follows from it would be computed before the
     * first layer, otherwise, and be kept where products need the registers. */
    worker w = of;
    w.warp = *(volatile int32_t *)&w.sh.numbers[threadIdx.x / 32];
    w.lane = *(volatile int32_t *)&w.sh.numbers[threadIdx.x % 32];
    w.g = w.lane / 4;
    w.q = w.lane % 4;
#pragma unroll 1
    for (int32_t i = 0; i < attention_share(n); i++)
        attend<WIDTH, GROUP>(w, layer, unit_in_memory(w, i));
    if (w.p.n_splits > 1) /* then there is one unit a block */
        combine_splits<WIDTH>(w, layer, w.sh.first_unit);
}

#endif
