/* What comes after a product: finishers add the 16 warps' sums of a tile and do with its 16 rows
 * what the matrix wants done; the router chooses experts.
 */
#ifndef NB_BACKEND_CUDA_DECODE_FINISH_CUH
#define NB_BACKEND_CUDA_DECODE_FINISH_CUH

#include "backend/cuda/decode_product.cuh"

/* A finisher has every other tile of each matrix, so that the same warp has a tile of the residual
 * stream throughout. A lane has rows g and g + 8 of tokens t and t + 1: sums v[0..3] are (g, t),
 * (g, t + 1), (g + 8, t), (g + 8, t + 1). With 4 columns a chunk, only the first two lanes of four
 * have any. */
struct finisher {
    const params &p;
    shared &sh;
    uint8_t *table;
    int32_t f, lane, g, q, t;
    uint32_t tile; /* tiles of the phases so far */
    bool active;
};

template <int COLUMNS>
__device__ __forceinline__ void collect(finisher &w, uint32_t tile, float (&v)[4]) {
    uint32_t slot = tile % SLOTS;
    barrier_wait(&w.sh.slot_full[slot], tile / SLOTS & 1);
    v[0] = v[1] = v[2] = v[3] = 0;
    const float *from = slot_place(w.table, tile, 0, 0) + w.lane;
    if (w.p.s.n_tokens > 1) {
#pragma unroll
        for (int i = 0; i < MMA_WARPS; i++) {
            for (int k = 0; k < 4; k++)
                v[k] += from[(i * 4 + k) * 64];
        }
    } else {
#pragma unroll
        for (int i = 0; i < MMA_WARPS; i++) {
            v[0] += from[i * 256];
            v[2] += from[i * 256 + 128];
        }
    }
    __syncwarp();
    if (w.lane == 0)
        barrier_arrive(&w.sh.slot_free[slot]);
    if (COLUMNS == 4) { /* the warps' second chunks */
        for (int k = 0; k < 4; k++)
            v[k] += __shfl_xor_sync(~0U, v[k], 2);
    }
}

/* 1 / sqrt(mean of x^2 + eps) of each token, from what tiles added: out [T]. A warp. */
__device__ __forceinline__ void take_rms(const params &p, const float *squares, int32_t lane,
                                         float *out) {
    int32_t tiles = p.m.width / ROWS;
    for (int32_t t = 0; t < p.s.n_tokens; t++) {
        const float *from = squares + (size_t)t * tiles;
        float sum = 0;
        for (int32_t i = lane; i < tiles; i += 32 * 8) {
            uint32_t raw[8];
#pragma unroll
            for (int k = 0; k < 8; k++)
                raw[k] = i + 32 * k < tiles ? load_word(from + i + 32 * k) : 0;
#pragma unroll
            for (int k = 0; k < 8; k++) {
                settle(raw[k], from + i + 32 * k);
                sum += __uint_as_float(raw[k]);
            }
        }
        __syncwarp();
        sum = warp_sum(sum);
        if (lane == 0)
            out[t] = rsqrtf(sum / (float)p.m.width + p.m.rms_eps);
    }
    __syncwarp();
}

/* Rows of bf16: y[0..3] as v, to out [T, stride] at column `column` of the tile's first row, and
 * likewise NOTHING to `clear`. Two neighbours of a column make a word: lanes of even g write rows g
 * and g + 1, of odd g rows g + 7 and g + 8. */
__device__ __forceinline__ void publish(const finisher &w, const float (&y)[4], __nv_bfloat16 *out,
                                        __nv_bfloat16 *clear, size_t stride, size_t column) {
    float other[4];
    for (int k = 0; k < 4; k++)
        other[k] = __shfl_xor_sync(~0U, y[k], 4);
    bool odd = w.g & 1;
    size_t row = odd ? w.g + 7 : w.g;
    for (int i = 0; i < 2; i++) {
        uint32_t word = odd ? pack(other[2 + i], y[2 + i]) : pack(y[i], other[i]);
        if (w.active && w.t + i < w.p.s.n_tokens) {
            size_t at = (w.t + i) * stride + column + row;
            store_word(out + at, word);
            if (clear)
                store_word(clear + at, NOTHING);
        }
    }
}

/* Adds v to the block's i-th tile of the residual stream, and publishes it for the norm that
 * follows; y: with its weights. `norm` [D]. */
__device__ __forceinline__ void add_to_stream(finisher &w, int32_t i, const float (&v)[4],
                                              const float (&norm)[2], __nv_bfloat16 *out,
                                              float *squares, __nv_bfloat16 *clear,
                                              float *clear_squares, float (&y)[4]) {
    int32_t tile = own_index(i), tiles = w.p.m.width / ROWS;
    float square[2] = {0, 0};
    for (int k = 0; k < 4; k++) {
        float *x = &w.sh.x[i][w.g + k / 2 * 8][w.t + k % 2];
        float sum = *x + v[k];
        if (w.active)
            *x = sum;
        square[k % 2] += sum * sum;
        y[k] = sum * norm[k / 2];
    }
    publish(w, y, out, clear, w.p.m.width, (size_t)tile * ROWS);
    for (int k = 0; k < 2; k++) {
        for (int s = 4; s < 32; s *= 2)
            square[k] += __shfl_xor_sync(~0U, square[k], s);
        if (w.active && w.g == 0 && w.t + k < w.p.s.n_tokens) {
            store_float(squares + (size_t)(w.t + k) * tiles + tile, square[k]);
            if (clear_squares)
                store_word(clear_squares + (size_t)(w.t + k) * tiles + tile, NOTHING);
        }
    }
}

/* What a tile adds to each token's router logits: y, f32, is in scratch. A lane an expert and
 * token.
 */
__device__ __forceinline__ void score_tile(finisher &w, int32_t layer, int32_t tile,
                                           const float4 (&first)[4]) {
    int32_t E = w.p.m.n_experts, n = E * w.p.s.n_tokens;
    const float *router = w.p.layers[layer].router + (size_t)tile * ROWS;
    for (int32_t i = w.lane; i < n; i += 32) {
        int32_t e = i % E, t = i / E;
        float sum = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float4 r =
                i < 32 ? first[k] : __ldg((const float4 *)(router + (size_t)e * w.p.m.width) + k);
            const float(*y)[MAX_TOKENS] = &w.sh.scratch[w.f][4 * k];
            sum += r.x * y[0][t] + r.y * y[1][t] + r.z * y[2][t] + r.w * y[3][t];
        }
        size_t at = (size_t)tile * n + i;
        store_float(w.p.exchange[layer & 1].scores_of_tile + at, sum);
    }
    for (int32_t i = w.lane; i < n; i += 32)
        store_word(w.p.exchange[~layer & 1].scores_of_tile + (size_t)tile * n + i, NOTHING);
    __syncwarp();
}

/* An embedding's element, from rows of their own or from the head's tiles. */
__device__ inline float embedding_at(const params &p, int32_t id, int32_t column) {
    const struct nb_cuda_model &m = p.m;
    if (!m.tied)
        return __bfloat162float(m.embedding[(size_t)id * m.width + column]);
    const struct nb_cuda_shape &s = m.head.shape;
    int32_t tile = id / ROWS, row = id % ROWS, chunk = column / 64, in = column % 64;
    int32_t u = chunk / s.unit_chunks, c0 = u * s.unit_chunks, c = chunk - c0;
    const uint8_t *unit = m.head.data + ((size_t)tile * s.n_units + u) * s.unit_bytes;
    int32_t lane = row % 8 * 4 + in / 16, j = in % 16 / 4, b = row / 8 + 2 * (in % 4 / 2);
    if (s.kind == NB_CUDA_BF16)
        return __bfloat162float(((
            const __nv_bfloat16 *)(unit +
                                   s.code_bytes))[(c * 32 + lane) * 32 + (4 * j + b) * 2 + in % 2]);
    uint8_t codes = unit[s.code_bytes + c * NB_CUDA_CHUNK_CODES + lane * 16 + 4 * j + b];
    float scale;
    if (s.kind == NB_CUDA_ABSMAX) {
        scale = ((const float *)(unit + s.scale_bytes))[c * ROWS + row];
    } else {
        const float *nested = (const float *)unit;
        int32_t half = row / 8, slot = NB_CUDA_SLOT(&s, id, chunk, id - row % 8, c0);
        scale = __fadd_rn(__fmul_rn(m.nested_values[unit[s.scale_bytes + c * ROWS + row]],
                                    nested[half * s.n_nested + slot]),
                          nested[2 * s.n_nested + half]);
    }
    return m.values[16 * m.head.values + (in % 2 ? codes & 15 : codes >> 4)] * scale;
}

/* Norm weights of a tile's rows g and g + 8. */
__device__ __forceinline__ void load_norm(const finisher &w, const float *norm, int32_t tile,
                                          float (&out)[2]) {
    out[0] = __ldg(norm + tile * ROWS + w.g);
    out[1] = __ldg(norm + tile * ROWS + w.g + 8);
}

template <int COLUMNS> __device__ __forceinline__ void finish_qkv(finisher &w, int32_t layer) {
    const exchange &x = w.p.exchange[layer & 1], &old = w.p.exchange[~layer & 1];
    int32_t n = own_share(w.p.matrices[QKV].n_tiles);
    size_t width = (size_t)(w.p.m.n_heads + 2 * w.p.m.n_kv_heads) * w.p.m.head_width;
    for (int32_t i = w.f; i < n; i += FINISHERS) {
        if (i == w.f)
            take_rms(w.p, x.squares_attention, w.lane, w.sh.inverse_rms[w.f]);
        int32_t tile = own_index(i),
                row[2] = {first_row(w.p, QKV, tile, 0) + w.g, first_row(w.p, QKV, tile, 1) + w.g};
        float v[4];
        collect<COLUMNS>(w, w.tile + i, v);
        for (int k = 0; k < 4; k++) {
            int32_t t = w.t + k % 2;
            if (w.active && t < w.p.s.n_tokens)
                store_float(x.qkv + t * width + row[k / 2], v[k] * w.sh.inverse_rms[w.f][t]);
        }
        for (int k = 0; k < 4; k++) {
            int32_t t = w.t + k % 2;
            if (w.active && t < w.p.s.n_tokens)
                store_word(old.qkv + t * width + row[k / 2], NOTHING);
        }
    }
    w.tile += n;
}

template <int COLUMNS> __device__ __forceinline__ void finish_o(finisher &w, int32_t layer) {
    const exchange &x = w.p.exchange[layer & 1], &old = w.p.exchange[~layer & 1];
    int32_t n = own_share(w.p.matrices[O].n_tiles), E = w.p.m.n_experts;
    for (int32_t i = w.f; i < n; i += FINISHERS) {
        int32_t tile = own_index(i);
        float v[4], y[4], norm[2];
        load_norm(w, w.p.layers[layer].expert_norm, tile, norm);
        float4 router[4] = {};
        if (!w.p.m.dense && w.lane < E * w.p.s.n_tokens) {
            const float *from =
                w.p.layers[layer].router + (size_t)(w.lane % E) * w.p.m.width + (size_t)tile * ROWS;
            for (int k = 0; k < 4; k++)
                router[k] = __ldg((const float4 *)from + k);
        }
        collect<COLUMNS>(w, w.tile + i, v);
        add_to_stream(w, i, v, norm, x.x_expert, x.squares_expert, old.x_expert, old.squares_expert,
                      y);
        if (!w.p.m.dense) {
            for (int k = 0; k < 4; k++) {
                if (w.active)
                    w.sh.scratch[w.f][w.g + k / 2 * 8][w.t + k % 2] = y[k];
            }
            __syncwarp();
            score_tile(w, layer, tile, router);
        }
    }
    w.tile += n;
    __threadfence(); /* what was cleared is so before what this warp says next */
}

template <int COLUMNS> __device__ __forceinline__ void finish_gate_up(finisher &w, int32_t layer) {
    const exchange &x = w.p.exchange[layer & 1];
    int32_t F = w.p.m.expert_width, tiles = w.p.matrices[GATE_UP].n_tiles;
    barrier_wait(&w.sh.weights_ready, layer & 1);
    int32_t n = own_share(w.sh.n_list * tiles);
    for (int32_t i = w.f; i < n; i += FINISHERS) {
        if (i == w.f)
            take_rms(w.p, x.squares_expert, w.lane, w.sh.inverse_rms[w.f]);
        int32_t job = own_index(i), e = job / tiles, tile = job - e * tiles;
        float v[4], y[2];
        collect<COLUMNS>(w, w.tile + i, v);
        for (int k = 0; k < 2; k++) {
            float scale = w.sh.inverse_rms[w.f][w.t + k], gate = v[k] * scale;
            y[k] = gate / (1.0f + __expf(-gate)) * (v[2 + k] * scale);
        }
        for (int k = 0; k < 2; k++) {
            int32_t t = w.t + k, pair = -1;
            if (w.active && t < w.p.s.n_tokens)
                pair = w.sh.pair[e][t];
            float z = pair < 0 ? 0 : y[k] * w.sh.weight[pair];
            float next = __shfl_down_sync(~0U, z, 4);
            if (pair >= 0 && w.g % 2 == 0 && 8 * tile + w.g < F)
                store_word(x.inner + (size_t)pair * F + 8 * tile + w.g, pack(z, next));
        }
    }
    w.tile += n;
}

template <int COLUMNS> __device__ __forceinline__ void finish_down(finisher &w, int32_t layer) {
    const exchange &old = w.p.exchange[layer & 1], &x = w.p.exchange[~layer & 1];
    int32_t n = own_share(w.p.matrices[DOWN].n_tiles);
    const float *weights =
        layer + 1 < w.p.m.n_layers ? w.p.layers[layer + 1].attention_norm : w.p.m.norm;
    for (int32_t i = w.f; i < n; i += FINISHERS) {
        float v[4], y[4], norm[2];
        load_norm(w, weights, own_index(i), norm);
        collect<COLUMNS>(w, w.tile + i, v);
        add_to_stream(w, i, v, norm, x.x_attention, x.squares_attention, old.x_attention,
                      old.squares_attention, y);
    }
    w.tile += n;
    __threadfence();
}

template <int COLUMNS> __device__ __forceinline__ void finish_head(finisher &w) {
    const exchange &x = w.p.exchange[w.p.m.n_layers & 1];
    int32_t n = own_share(w.p.matrices[HEAD].n_tiles);
    for (int32_t i = w.f; i < n; i += FINISHERS) {
        if (i == w.f)
            take_rms(w.p, x.squares_attention, w.lane, w.sh.inverse_rms[w.f]);
        float v[4];
        collect<COLUMNS>(w, w.tile + i, v);
        for (int k = 0; k < 4; k++) {
            int32_t t = w.t + k % 2, row = own_index(i) * ROWS + w.g + k / 2 * 8;
            if (!w.active || t >= w.p.s.n_tokens || row >= w.p.m.n_vocab)
                continue;
            int32_t to = w.sh.logits_row[t];
            if (to >= 0)
                w.p.s.logits[(size_t)to * w.p.m.n_vocab + row] = v[k] * w.sh.inverse_rms[w.f][t];
        }
    }
}

template <int COLUMNS>
__device__ __forceinline__ void finish(const params &p, shared &sh, uint8_t *table, int32_t f,
                                       int32_t lane) {
    finisher w = {p,        sh,
                  table,    f,
                  lane,     lane / 4,
                  lane % 4, lane % 4 * 2 % COLUMNS,
                  0,        lane % 4 * 2 < COLUMNS};
    for (int32_t i = f; i < own_share(p.matrices[O].n_tiles); i += FINISHERS) { /* the embeddings */
        float v[4], y[4], norm[2];
        load_norm(w, p.layers[0].attention_norm, own_index(i), norm);
        for (int k = 0; k < 4; k++) {
            int32_t t = w.t + k % 2, row = own_index(i) * ROWS + w.g + k / 2 * 8;
            v[k] = t < p.s.n_tokens ? embedding_at(p, __ldg(p.s.token + t), row) : 0;
            if (w.active)
                sh.x[i][w.g + k / 2 * 8][t] = 0;
        }
        __syncwarp();
        add_to_stream(w, i, v, norm, p.exchange[0].x_attention, p.exchange[0].squares_attention,
                      nullptr, nullptr, y);
    }
    for (int32_t layer = 0; layer < p.m.n_layers; layer++) {
        finish_qkv<COLUMNS>(w, layer);
        finish_o<COLUMNS>(w, layer);
        finish_gate_up<COLUMNS>(w, layer);
        finish_down<COLUMNS>(w, layer);
    }
    if (p.s.n_logits)
        finish_head<COLUMNS>(w);
}

/* ---- the router ---- */

/* Adds up tiles' scores where they are few: 4, 8 or 16 numbers a tile, all read by every block. */
__device__ __forceinline__ void add_few_scores(const params &p, shared &sh, int32_t layer,
                                               int32_t lane) {
    int32_t n = p.m.n_experts * p.s.n_tokens, vectors = n / 4, tiles = p.m.width / ROWS,
            all = tiles * vectors;
    const float4 *from = (const float4 *)p.exchange[layer & 1].scores_of_tile;
    float sum[4] = {};
    for (int32_t i = lane; i < all; i += 32 * 8) {
        uint4 raw[8];
#pragma unroll
        for (int k = 0; k < 8; k++)
            raw[k] = i + 32 * k < all ? load_words(from + i + 32 * k) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int k = 0; k < 8; k++) {
            settle(raw[k], from + i + 32 * k);
            sum[0] += __uint_as_float(raw[k].x);
            sum[1] += __uint_as_float(raw[k].y);
            sum[2] += __uint_as_float(raw[k].z);
            sum[3] += __uint_as_float(raw[k].w);
        }
    }
    __syncwarp();
    for (int k = 0; k < 4; k++) {
        for (int s = vectors; s < 32; s *= 2)
            sum[k] += __shfl_xor_sync(~0U, sum[k], s);
        if (lane < vectors)
            sh.scores[4 * lane + k] = sum[k];
    }
    __syncwarp();
}

/* Where they are many: each block adds up some of them, and all read the results. */
__device__ __forceinline__ void add_many_scores(const params &p, shared &sh, int32_t layer,
                                                int32_t lane) {
    const exchange &x = p.exchange[layer & 1], &old = p.exchange[~layer & 1];
    int32_t n = p.m.n_experts * p.s.n_tokens, tiles = p.m.width / ROWS;
    for (int32_t i = own_index(0); i < n; i += gridDim.x) {
        float sum = 0;
        for (int32_t k0 = lane; k0 < tiles; k0 += 32 * 8) {
            uint32_t raw[8];
#pragma unroll
            for (int k = 0; k < 8; k++)
                raw[k] = k0 + 32 * k < tiles
                             ? load_word(x.scores_of_tile + (size_t)(k0 + 32 * k) * n + i)
                             : 0;
#pragma unroll
            for (int k = 0; k < 8; k++) {
                settle(raw[k], x.scores_of_tile + (size_t)(k0 + 32 * k) * n + i);
                sum += __uint_as_float(raw[k]);
            }
        }
        __syncwarp();
        sum = warp_sum(sum);
        if (lane == 0) {
            store_float(x.scores + i, sum);
            store_word(old.scores + i, NOTHING);
        }
    }
    for (int32_t i0 = lane; i0 < n; i0 += 32 * 8) {
        uint32_t raw[8];
#pragma unroll
        for (int k = 0; k < 8; k++)
            raw[k] = i0 + 32 * k < n ? load_word(x.scores + i0 + 32 * k) : 0;
#pragma unroll
        for (int k = 0; k < 8; k++) {
            settle(raw[k], x.scores + i0 + 32 * k);
            if (i0 + 32 * k < n)
                sh.scores[i0 + 32 * k] = __uint_as_float(raw[k]);
        }
    }
    __syncwarp();
}

/* Ascending with the float; NaN below all, 0 for what was chosen already. */
__device__ __forceinline__ uint32_t score_key(float x) {
    uint32_t bits = __float_as_uint(x);
    return isnan(x) ? 1 : bits >> 31 ? ~bits : bits | 0x80000000U;
}

/* A token's experts, the best first, ties to the lower. */
__device__ __forceinline__ void choose(const params &p, shared &sh, int32_t t, int32_t lane) {
    enum { MOST = 128 / 32 };
    int32_t E = p.m.n_experts, K = p.m.experts_per_token;
    uint32_t key[MOST];
#pragma unroll
    for (int i = 0; i < MOST; i++) {
        int32_t e = lane + 32 * i;
        key[i] = e < E ? score_key(sh.scores[t * E + e]) : 0;
    }
    for (int32_t k = 0; k < K; k++) {
        uint32_t best = 0;
#pragma unroll
        for (int i = 0; i < MOST; i++)
            best = key[i] > best ? key[i] : best;
        best = __reduce_max_sync(~0U, best);
        uint32_t e = ~0U;
#pragma unroll
        for (int i = MOST - 1; i >= 0; i--)
            e = key[i] == best ? lane + 32 * i : e;
        e = __reduce_min_sync(~0U, e);
#pragma unroll
        for (int i = 0; i < MOST; i++)
            key[i] = e == lane + 32 * i ? 0 : key[i];
        if (lane == 0) {
            sh.chosen[t * K + k] = e;
            sh.used[e / 32] |= 1U << e % 32;
        }
    }
}

/* The list of experts that any token chose, and where each token has them. */
__device__ __forceinline__ void make_list(const params &p, shared &sh, int32_t lane) {
    int32_t E = p.m.n_experts, K = p.m.experts_per_token, n = 0, T = p.s.n_tokens;
    for (int32_t e0 = 0; e0 < E; e0 += 32) {
        uint32_t used = sh.used[e0 / 32];
        if (used >> lane & 1)
            sh.list[n + __popc(used & ((1U << lane) - 1))] = e0 + lane;
        n += __popc(used);
    }
    for (int32_t i = lane; i < n * MAX_TOKENS; i += 32)
        sh.pair[i / MAX_TOKENS][i % MAX_TOKENS] = -1;
    __syncwarp();
    for (int32_t i = lane; i < T * K; i += 32) {
        int32_t e = sh.chosen[i], rank = __popc(sh.used[e / 32] & ((1U << e % 32) - 1));
        for (int32_t k = 0; k < e / 32; k++)
            rank += __popc(sh.used[k]);
        sh.pair[rank][i / K] = i;
    }
    if (lane == 0)
        sh.n_list = n;
    __syncwarp();
}

/* Softmax over a token's chosen experts, or over all. */
__device__ __forceinline__ void weigh(const params &p, shared &sh, int32_t t, float inverse_rms,
                                      int32_t lane) {
    int32_t E = p.m.n_experts, K = p.m.experts_per_token;
    const float *scores = sh.scores + t * E;
    float most = scores[sh.chosen[t * K]], mine = 0, all = 0;
    if (lane < K)
        mine = expf((scores[sh.chosen[t * K + lane]] - most) * inverse_rms);
    if (p.m.normalize_experts) {
        all = mine;
    } else {
        for (int32_t e = lane; e < E; e += 32)
            all += expf((scores[e] - most) * inverse_rms);
    }
    all = warp_sum(all);
    if (lane < K)
        sh.weight[t * K + lane] = mine / all;
}

__device__ __forceinline__ void route(const params &p, shared &sh, int32_t lane) {
    int32_t T = p.s.n_tokens, K = p.m.experts_per_token, n = p.m.n_experts * T;
    bool few = n == 4 || n == 8 || n == 16;
    float *inverse_rms = sh.inverse_rms[FINISHERS];
    if (p.m.dense) {
        if (lane == 0)
            sh.used[0] = 1;
        for (int32_t t = lane; t < T; t += 32) {
            sh.chosen[t] = 0;
            sh.weight[t] = 1;
        }
        __syncwarp();
        make_list(p, sh, lane);
    }
    for (int32_t layer = 0; layer < p.m.n_layers; layer++) {
        const exchange &x = p.exchange[layer & 1], &old = p.exchange[~layer & 1];
        if (!p.m.dense) {
            if (few)
                add_few_scores(p, sh, layer, lane);
            else
                add_many_scores(p, sh, layer, lane);
            if (lane < MAX_SCORES / MAX_TOKENS / 32)
                sh.used[lane] = 0;
            __syncwarp();
            for (int32_t t = 0; t < T; t++)
                choose(p, sh, t, lane);
            __syncwarp();
            make_list(p, sh, lane);
        }
        __syncwarp();
        if (lane == 0)
            barrier_arrive(&sh.list_ready);
        /* In a dense model this is also what tells that all have read the inner activations of the
         * layer before. */
        take_rms(p, x.squares_expert, lane, inverse_rms);
        if (!p.m.dense) {
            for (int32_t t = 0; t < T; t++)
                weigh(p, sh, t, inverse_rms[t], lane);
        }
        int32_t words = T * K * p.m.expert_width / 2;
        for (int32_t i = blockIdx.x * 32 + lane; i < words; i += gridDim.x * 32)
            store_word((uint32_t *)old.inner + i, NOTHING);
        __threadfence();
        __syncwarp();
        if (lane == 0)
            barrier_arrive(&sh.weights_ready);
    }
}

#endif
