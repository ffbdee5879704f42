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

/* For a trace: what of a tile is done, 0-3. */
__device__ __forceinline__ void note_tile(const finisher &w, int32_t layer, int32_t phase,
                                          int32_t what) {
    if (phase < HEAD && w.lane == 0)
        note(w.p, layer, 32 + phase * 8 + w.f * 4 + what);
}

template <int COLUMNS>
__device__ __forceinline__ void collect(finisher &w, int32_t layer, int32_t phase, uint32_t tile,
                                        float (&v)[4]) {
    uint32_t slot = tile % SLOTS;
    barrier_wait(&w.sh.slot_full[slot], tile / SLOTS & 1);
    note_tile(w, layer, phase, 0);
    v[0] = v[1] = v[2] = v[3] = 0;
    const float *from = slot_place(w.table, tile, 0, 0) + w.lane;
    if (w.p.s.n_tokens > 1) {
#pragma unroll 8
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
    warp_arrives(&w.sh.slot_free[slot], w.lane);
    if (COLUMNS < 8) { /* the warps' other chunks */
        for (int k = 0; k < 4; k++) {
            if (COLUMNS == 2)
                v[k] += __shfl_xor_sync(~0U, v[k], 1);
            v[k] += __shfl_xor_sync(~0U, v[k], 2);
        }
    }
}

/* 1 / sqrt(mean of x^2 + eps) of each token, from what tiles added: out [T]. A warp. */
__device__ __forceinline__ void take_rms(const params &p, const float *squares, int32_t lane,
                                         float *out) {
    int32_t tiles = p.m.width / ROWS;
#pragma unroll 1
    for (int32_t t = 0; t < p.s.n_tokens; t++) {
        float sum = 0;
#pragma unroll 1
        for (int32_t i = lane; i < tiles; i += 32 * 8) {
            uint32_t raw[8];
            take_words(raw, squares + (size_t)t * tiles + i, tiles - i);
            for (int k = 0; k < 8; k++)
                sum += __uint_as_float(raw[k]);
        }
        __syncwarp();
        sum = warp_sum(sum);
        if (lane == 0)
            out[t] = rsqrtf(sum / (float)p.m.width + p.m.rms_eps);
    }
    __syncwarp();
}

/* Rows of bf16: y[0..3] as v, to out [T, stride] at column `column` of the tile's first row. Two
 * neighbours of a column make a word: lanes of even g write rows g and g + 1, of odd g rows g + 7
 * and g + 8. */
__device__ __forceinline__ void publish(const finisher &w, const float (&y)[4], __nv_bfloat16 *out,
                                        size_t stride, size_t column) {
    bool odd = w.g & 1;
    size_t row = odd ? w.g + 7 : w.g;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (i == w.p.s.n_tokens) /* all blocks wait for this: no more of it than needed */
            break;
        float upper = __shfl_xor_sync(~0U, y[i], 4), lower = __shfl_xor_sync(~0U, y[2 + i], 4);
        uint32_t word = odd ? pack(lower, y[2 + i]) : pack(y[i], upper);
        if (w.active && w.t + i < w.p.s.n_tokens) {
            size_t at = (w.t + i) * stride + column + row;
            store_word(out + at, word);
        }
    }
}

/* Adds v to the block's i-th tile of the residual stream; y: with the weights of the norm that
 * follows; square: of the lane's rows of its tokens. */
__device__ __forceinline__ void add_to_stream(finisher &w, int32_t i, const float (&v)[4],
                                              const float (&norm)[2], float (&y)[4],
                                              float (&square)[2]) {
    square[0] = square[1] = 0;
    for (int k = 0; k < 4; k++) {
        float *x = &w.sh.x[i][w.g + k / 2 * 8][w.t + k % 2];
        float sum = v[k];
        if (w.active) /* others have no token of their own: t is an active lane's */
            *x = sum += *x;
        square[k % 2] += sum * sum;
        y[k] = sum * norm[k / 2];
    }
}

/* Publishes that. */
__device__ __forceinline__ void publish_stream(const finisher &w, int32_t i, const float (&y)[4],
                                               float (&square)[2], __nv_bfloat16 *out,
                                               float *squares) {
    int32_t tile = own_index(i), tiles = w.p.m.width / ROWS;
    publish(w, y, out, w.p.m.width, (size_t)tile * ROWS);
#pragma unroll
    for (int k = 0; k < 2; k++) {
        if (k == w.p.s.n_tokens)
            break;
        for (int s = 4; s < 32; s *= 2)
            square[k] += __shfl_xor_sync(~0U, square[k], s);
        if (w.active && w.g == 0 && w.t + k < w.p.s.n_tokens)
            store_float(squares + (size_t)(w.t + k) * tiles + tile, square[k]);
    }
}

/* The lane's k-th four weights of the router for a tile, where the router keeps scores later: it
 * waits for `scored` before it writes there, and finishers for weights_ready of the layer before. */
__device__ __forceinline__ float4 &router_weights(const finisher &w, int k) {
    static_assert(FINISHERS * 32 * ROWS <= MAX_SCORES, "no room");
    return *(float4 *)(w.sh.scores + ((w.f * 4 + k) * 32 + w.lane) * 4);
}

/* What a tile adds to each token's router logits: y, f32, is in scratch. A lane an expert and
 * token.
 */
__device__ __forceinline__ void score_tile(finisher &w, int32_t layer, int32_t tile) {
    int32_t E = w.p.m.n_experts, n = E * w.p.s.n_tokens;
    const float *router = w.p.layers[layer].router + (size_t)tile * ROWS;
    int32_t e = w.lane, t = 0;
#pragma unroll 1
    for (int32_t i = w.lane; i < n; i += 32, e += 32) {
        for (; e >= E; e -= E)
            t++;
        float sum = 0;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float4 r =
                i < 32 ? router_weights(w, k) : __ldg((const float4 *)(router + (size_t)e * w.p.m.width) + k);
            const float(*y)[MAX_TOKENS] = &w.sh.scratch[w.f][4 * k];
            sum += r.x * y[0][t] + r.y * y[1][t] + r.z * y[2][t] + r.w * y[3][t];
        }
        size_t at = (size_t)tile * n + i;
        store_float(exchange_of(w.p, layer).scores_of_tile + at, sum);
    }
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

/* Puts the block's rows of the tokens' embeddings in its part of the residual stream. All threads. */
[[maybe_unused]] __device__ __forceinline__ void begin_stream(const params &p, shared &sh) {
    int32_t n = own_share(p.m.width / ROWS) * ROWS * MAX_TOKENS;
#pragma unroll 1
    for (int32_t k = threadIdx.x; k < n; k += THREADS) {
        int32_t i = k / (ROWS * MAX_TOKENS), row = k / MAX_TOKENS % ROWS, t = k % MAX_TOKENS;
        sh.x[i][row][t] =
            t < p.s.n_tokens
                ? embedding_at(p, __ldg(p.s.token + t), own_index(i) * ROWS + row)
                : 0;
    }
}

/* silu(gate) up, times the expert's weight, of tokens that chose it: [T K, F]. */
__device__ __forceinline__ void publish_inner(const finisher &w, int32_t layer, int32_t e,
                                              int32_t tile, const float (&v)[4]) {
    int32_t F = w.p.m.expert_width;
    for (int k = 0; k < 2; k++) {
        int32_t t = w.t + k, pair = -1;
        if (w.active && t < w.p.s.n_tokens)
            pair = w.sh.pair[e][t];
        float y = pair < 0 ? 0 : v[k] / (1.0f + __expf(-v[k])) * v[2 + k] * w.sh.weight[pair];
        float next = __shfl_down_sync(~0U, y, 4);
        if (pair >= 0 && w.g % 2 == 0)
            store_word(exchange_of(w.p, layer).inner + (size_t)pair * F + 8 * tile + w.g,
                       pack(y, next));
    }
}

/* Rows of q, k and v, or of logits: those that the lane has, known before their sums are. */
__device__ __forceinline__ void publish_rows(const finisher &w, float *qkv, int32_t phase,
                                             const uint32_t (&rows)[2], const float (&v)[4]) {
    uint32_t n =
        phase == HEAD ? w.p.m.n_vocab : (w.p.m.n_heads + 2 * w.p.m.n_kv_heads) * w.p.m.head_width;
    for (int k = 0; k < 4; k++) {
        int32_t t = w.t + k % 2;
        uint32_t row = rows[k / 2];
        if (!w.active || t >= w.p.s.n_tokens || row >= n)
            continue;
        if (phase == QKV)
            store_float(qkv + t * n + row, v[k]);
        else if (w.sh.logits_row[t] >= 0)
            w.p.s.logits[(size_t)w.sh.logits_row[t] * n + row] = v[k];
    }
}

/* Tiles of o and down, and at the beginning, as if after a layer -1, of nothing: embeddings are in
 * the stream already. */
__device__ __forceinline__ void finish_stream(finisher &w, int32_t layer, int32_t phase, int32_t i,
                                              const float (&v)[4], const float (&norm)[2]) {
    int32_t next = phase == DOWN ? layer + 1 : layer;
    const exchange x = exchange_of(w.p, next);
    float y[4], square[2];
    add_to_stream(w, i, v, norm, y, square);
    if (phase == O && !w.p.m.dense) { /* first, since the list of experts is waited for longest */
        for (int k = 0; k < 4; k++) {
            if (w.active)
                w.sh.scratch[w.f][w.g + k / 2 * 8][w.t + k % 2] = y[k];
        }
        __syncwarp();
        score_tile(w, layer, own_index(i));
    }
    publish_stream(w, i, y, square, phase == DOWN ? x.x_attention : x.x_expert,
                   phase == DOWN ? x.squares_attention : x.squares_expert);
}

/* All tiles of a phase that this finisher has. */
template <int COLUMNS>
__device__ __forceinline__ void finish_phase(finisher &w, int32_t layer, int32_t phase) {
    const params &p = w.p;
    int32_t tiles = p.matrices[phase].n_tiles, E = p.m.n_experts;
    bool stream = phase == O || phase == DOWN;
    const float *norm = phase == O                 ? p.layers[layer].expert_norm
                        : layer + 1 < p.m.n_layers ? p.layers[layer + 1].attention_norm
                                                   : p.m.norm;
    if (phase == GATE_UP) {
        barrier_wait(&w.sh.weights_ready, layer & 1);
    }
    int32_t n = w.sh.n_own[phase];
#pragma unroll 1
    for (int32_t i = w.f; i < n; i += FINISHERS) {
        int32_t tile = own_index(i), e = 0;
        float v[4], norms[2] = {};
        uint32_t rows[2] = {};
        if (phase == QKV || phase == HEAD) {
            const tile_rows first = rows_of(p, phase);
            for (int k = 0; k < 2; k++)
                rows[k] = first(tile, k) + w.g;
        }
        if (stream) {
            norms[0] = __ldg(norm + tile * ROWS + w.g);
            norms[1] = __ldg(norm + tile * ROWS + w.g + 8);
            if (phase == O && !p.m.dense && w.lane < E * p.s.n_tokens) {
                const float *from = p.layers[layer].router +
                                    (size_t)(w.lane < E ? w.lane : w.lane % E) * p.m.width +
                                    (size_t)tile * ROWS;
                float4 r[4];
                for (int k = 0; k < 4; k++)
                    r[k] = __ldg((const float4 *)from + k);
                for (int k = 0; k < 4; k++)
                    router_weights(w, k) = r[k];
            }
        } else if (i == w.f) {
            const exchange x = exchange_of(p, layer);
            take_rms(p, phase == GATE_UP ? x.squares_expert : x.squares_attention, w.lane,
                     w.sh.inverse_rms[w.f]);
            note_tile(w, layer, phase, 3);
        }
        if (layer < 0) {
            v[0] = v[1] = v[2] = v[3] = 0;
        } else {
            collect<COLUMNS>(w, layer, phase, w.tile + i, v);
            note_tile(w, layer, phase, 1);
        }
        if (stream) {
            finish_stream(w, layer, phase, i, v, norms);
            note_tile(w, layer, phase, 2);
            continue;
        }
        for (int k = 0; k < 4; k++)
            v[k] *= w.sh.inverse_rms[w.f][w.t + k % 2];
        if (phase == GATE_UP) {
            for (; tile >= tiles; e++)
                tile -= tiles;
            publish_inner(w, layer, e, tile, v);
        } else {
            publish_rows(w, exchange_of(p, layer).qkv, phase, rows, v);
        }
        note_tile(w, layer, phase, 2);
    }
    if (layer >= 0)
        w.tile += n;
    if (phase == O) { /* router_weights are read no more */
        __syncwarp();
        warp_arrives(&w.sh.scored, w.lane);
    }
}

/* Old keys and values that the block attends to in a layer, if contexts are split: towards the L2
 * cache, between down and queries, when the memory has little else to do. */
__device__ __forceinline__ void prefetch_pages(const finisher &w, int32_t layer) {
    const struct nb_cuda_model &m = w.p.m;
    int32_t columns = NB_PAGE_TOKENS * m.head_width;
    const volatile attention_unit &u = w.sh.first_unit;
#pragma unroll 1
    for (int32_t k = w.lane; k < u.n_pages; k += 32) {
        int32_t page =
            __ldg(w.p.s.pages + (size_t)w.sh.sequence[u.t] * w.p.s.max_pages + u.page + k);
        const __nv_bfloat16 *at = (const __nv_bfloat16 *)m.kv +
                                  ((size_t)layer * m.n_pages + page) * m.page_stride +
                                  u.head * columns;
        bulk_prefetch(at, columns * 2);
        bulk_prefetch(at + w.sh.to_values, columns * 2);
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
    int32_t L = p.m.n_layers;
#pragma unroll 1
    for (int32_t step = -1; step < HEAD * L + (p.s.n_logits > 0); step++) {
        int32_t layer = step < 0 ? -1 : step / HEAD;
        int32_t phase = layer < 0 ? DOWN : layer < L ? step % HEAD : HEAD;
        finish_phase<COLUMNS>(w, layer, phase);
        if (phase == DOWN && f == FINISHERS - 1 && p.n_splits > 1 && layer + 1 < L)
            prefetch_pages(w, layer + 1);
    }
}

/* ---- the router ---- */

/* Adds up tiles' scores where they are few: 4, 8 or 16 numbers a tile, all read by every block. */
__device__ __forceinline__ void add_few_scores(const params &p, shared &sh, int32_t layer,
                                               int32_t lane) {
    int32_t n = p.m.n_experts * p.s.n_tokens, vectors = n / 4, tiles = p.m.width / ROWS,
            all = tiles * vectors;
    const float4 *from = (const float4 *)exchange_of(p, layer).scores_of_tile;
    enum { FEW = 16 };
    float sum[4] = {};
    for (int32_t i = lane; i < all; i += 32 * FEW) {
        uint4 raw[FEW];
        uint32_t tries = 0;
        bool again;
        do {
            again = false;
#pragma unroll
            for (int k = 0; k < FEW; k++)
                raw[k] = i + 32 * k < all ? load_words(from + i + 32 * k) : make_uint4(0, 0, 0, 0);
#pragma unroll
            for (int k = 0; k < FEW; k++)
                again |= is_nothing(raw[k]);
            if (++tries > SPIN_LIMIT)
                __trap();
        } while (again);
#pragma unroll
        for (int k = 0; k < FEW; k++) {
            sum[0] += __uint_as_float(raw[k].x);
            sum[1] += __uint_as_float(raw[k].y);
            sum[2] += __uint_as_float(raw[k].z);
            sum[3] += __uint_as_float(raw[k].w);
        }
    }
    __syncwarp();
#pragma unroll 1
    for (int s = vectors; s < 32; s *= 2) {
#pragma unroll
        for (int k = 0; k < 4; k++)
            sum[k] += __shfl_xor_sync(~0U, sum[k], s);
    }
    if (lane < vectors) {
        for (int k = 0; k < 4; k++)
            sh.scores[4 * lane + k] = sum[k];
    }
    __syncwarp();
}

/* Where they are many: each block adds up some of them, and all read the results. */
__device__ __forceinline__ void add_many_scores(const params &p, shared &sh, int32_t layer,
                                                int32_t lane) {
    const exchange x = exchange_of(p, layer);
    int32_t n = p.m.n_experts * p.s.n_tokens, tiles = p.m.width / ROWS;
#pragma unroll 1
    for (int32_t i = own_index(0); i < n; i += gridDim.x) {
        float sum = 0;
#pragma unroll 1
        for (int32_t k = lane; k < tiles; k += 32) {
            const float *from = x.scores_of_tile + (size_t)k * n + i;
            uint32_t raw[1];
            take_words(raw, from, 1);
            sum += __uint_as_float(raw[0]);
        }
        __syncwarp();
        sum = warp_sum(sum);
        if (lane == 0)
            store_float(x.scores + i, sum);
    }
#pragma unroll 1
    for (int32_t i = lane; i < n; i += 32 * 4) {
        uint32_t raw[4];
        take_words(raw, x.scores + i, n - i);
        for (int k = 0; k < 4; k++) {
            if (i + 32 * k < n)
                sh.scores[i + 32 * k] = __uint_as_float(raw[k]);
        }
    }
    __syncwarp();
}

/* Ascending with the float; NaN below all, 0 for what was chosen already. */
__device__ __forceinline__ uint32_t score_key(float x) {
    uint32_t bits = __float_as_uint(x);
    return isnan(x) ? 1 : bits >> 31 ? ~bits : bits | 0x80000000U;
}

/* Up to 32 experts: a lane is one. Chooses for all tokens and makes the list: what choose and
 * make_list do, in fewer steps, since all blocks wait for it. */
__device__ __forceinline__ void choose_of_few(const params &p, shared &sh, int32_t lane) {
    int32_t E = p.m.n_experts, K = p.m.experts_per_token, T = p.s.n_tokens;
    uint32_t used = 0, kth = 0, has = 0; /* 4 bits a token; a bit a token */
#pragma unroll 1
    for (int32_t t = 0; t < T; t++) {
        uint32_t key = lane < E ? score_key(sh.scores[t * E + lane]) : 0;
#pragma unroll 1
        for (int32_t k = 0; k < K; k++) {
            uint32_t best = __reduce_max_sync(~0U, key);
            int32_t e = (int32_t)__reduce_min_sync(~0U, key == best ? (uint32_t)lane : ~0U);
            used |= 1U << e;
            if (lane == e) {
                key = 0;
                kth |= (uint32_t)k << 4 * t;
                has |= 1U << t;
                sh.chosen[t * K + k] = e;
            }
        }
    }
    int32_t n = __popc(used), rank = __popc(used & ((1U << lane) - 1));
    if (used >> lane & 1) {
        sh.list[rank] = lane;
#pragma unroll 1
        for (int32_t t = 0; t < T; t++)
            sh.pair[rank][t] = has >> t & 1 ? t * K + (int32_t)(kth >> 4 * t & 15) : -1;
    }
    if (lane == 0) {
        sh.n_list = n;
        sh.n_own[GATE_UP] = sh.share_of[n];
    }
    __syncwarp();
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
#pragma unroll 1
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
#pragma unroll 1
    for (int32_t e0 = 0; e0 < E; e0 += 32) {
        uint32_t used = sh.used[e0 / 32];
        if (used >> lane & 1)
            sh.list[n + __popc(used & ((1U << lane) - 1))] = e0 + lane;
        n += __popc(used);
    }
#pragma unroll 1
    for (int32_t i = lane; i < n * MAX_TOKENS; i += 32)
        sh.pair[i / MAX_TOKENS][i % MAX_TOKENS] = -1;
    __syncwarp();
#pragma unroll 1
    for (int32_t i = lane; i < T * K; i += 32) {
        int32_t e = sh.chosen[i], rank = __popc(sh.used[e / 32] & ((1U << e % 32) - 1));
#pragma unroll 1
        for (int32_t k = 0; k < e / 32; k++)
            rank += __popc(sh.used[k]);
        sh.pair[rank][i / K] = i;
    }
    if (lane == 0) {
        sh.n_list = n;
        if (!p.m.dense) /* else it is there already, put by another thread */
            sh.n_own[GATE_UP] = own_share(n * p.matrices[GATE_UP].n_tiles);
    }
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
#pragma unroll 1
        for (int32_t e = lane; e < E; e += 32)
            all += expf((scores[e] - most) * inverse_rms);
    }
    all = warp_sum(all);
    if (lane < K)
        sh.weight[t * K + lane] = mine / all;
}

/* In a dense model: the one expert, for all tokens and layers. */
__device__ __forceinline__ void choose_the_one(const params &p, shared &sh, int32_t lane) {
    if (lane == 0)
        sh.used[0] = 1;
    for (int32_t t = lane; t < p.s.n_tokens; t += 32) {
        sh.chosen[t] = 0;
        sh.weight[t] = 1;
    }
    __syncwarp();
    make_list(p, sh, lane);
}

/* The block's share of what belongs to a layer, 16 bytes a store. */
__device__ __forceinline__ void clear_exchange(const params &p, int32_t layer, int32_t lane) {
    uint8_t *to = (uint8_t *)exchange_of(p, layer).x_attention; /* which is the first of it */
#pragma unroll 1
    for (uint32_t i = (blockIdx.x * 32 + lane) * 16; i < p.exchange_bytes; i += gridDim.x * 512)
        store_words(to + i, make_uint4(NOTHING, NOTHING, NOTHING, NOTHING));
}

__device__ __forceinline__ void route(const params &p, shared &sh, int32_t lane) {
    auto done = [&](int32_t layer, int32_t i) {
        if (lane == 0)
            note(p, layer, i);
    };
    int32_t T = p.s.n_tokens, n = p.m.n_experts * T;
    bool few = n == 4 || n == 8 || n == 16;
    float *inverse_rms = sh.inverse_rms[FINISHERS];
#pragma unroll 1
    for (int32_t layer = 0; layer < p.m.n_layers; layer++) {
        const exchange x = exchange_of(p, layer);
        if (!p.m.dense) {
            /* The block's own tiles of o are scored: others' are, or nearly. Whoever asked before
             * would ask all through gate and up, and down, at the cost of what reads weights. (And
             * what is in the place of scores is needed no more.) */
            barrier_wait(&sh.scored, layer & 1);
            if (few)
                add_few_scores(p, sh, layer, lane);
            else
                add_many_scores(p, sh, layer, lane);
            done(layer, 16);
            if (p.m.n_experts <= FEW_EXPERTS) {
                choose_of_few(p, sh, lane);
            } else {
                if (lane < MAX_SCORES / MAX_TOKENS / 32)
                    sh.used[lane] = 0;
                __syncwarp();
#pragma unroll 1
                for (int32_t t = 0; t < T; t++)
                    choose(p, sh, t, lane);
                __syncwarp();
                make_list(p, sh, lane);
            }
        }
        __syncwarp();
        if (!p.m.dense)
            warp_arrives(&sh.list_ready, lane);
        done(layer, 17);
        /* In a dense model this is what keeps the router from running ahead. */
        take_rms(p, x.squares_expert, lane, inverse_rms);
        done(layer, 18);
        if (!p.m.dense) {
#pragma unroll 1
            for (int32_t t = 0; t < T; t++)
                weigh(p, sh, t, inverse_rms[t], lane);
        }
        __syncwarp();
        warp_arrives(&sh.weights_ready, lane);
        done(layer, 19);
        __threadfence(); /* what was cleared a layer ago */
        done(layer, 20);
        if (layer > 0)
            clear_exchange(p, layer - 1, lane);
        done(layer, 21);
    }
}

#endif
