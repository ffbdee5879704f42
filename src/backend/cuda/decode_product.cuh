/* Products of units of weights with up to 8 tokens, by 16 warps: each has its own chunks of every
 * unit. Where a step has up to 4 tokens, a product's 8 columns are those of two chunks: B operands
 * hold the tokens in columns 0-3 for the warp's first chunk and in 4-7 for its second, and zeros
 * elsewhere, so that both add to one set of sums, and each lane then scales them by one chunk's
 * scale. COLUMNS, 4 or 8, is how many of the columns are of one chunk.
 *
 * What decides the time is shared memory: for a chunk 16 loads from the table of pairs, 4
 * wavefronts to read the codes, 4 to write them there. So WORDS_BY_ARITHMETIC of a lane's four
 * words of codes are widened by byte permutes instead.
 */
#ifndef NB_BACKEND_CUDA_DECODE_PRODUCT_CUH
#define NB_BACKEND_CUDA_DECODE_PRODUCT_CUH

#include "backend/cuda/decode_state.cuh"

#ifndef NB_DECODE_WORDS_BY_ARITHMETIC
#define NB_DECODE_WORDS_BY_ARITHMETIC 1
#endif

/* What an mma warp keeps. */
struct worker {
    const params &p;
    shared &sh;
    uint8_t *table; /* shared memory: row of byte b at 256 b; a copy of the pair it stands for for
                     * each lane in the first half, sums of tiles in the second halves */
    uint32_t lane_bytes;      /* shared address of the lane's copy of the pair of byte 0 */
    uint32_t low[4], high[4]; /* the 16 values in bf16: their low and high bytes */
    struct ring ring;
    uint32_t tile; /* tiles so far */
    int32_t warp, lane, g, q;
#ifdef NB_DECODE_TRACE
    int32_t layer, phase;
#endif
};

/* In a build with NB_DECODE_TRACE, a block's first warp notes for each layer: 0-6 when phases
 * began, 8-13 when their operands were there, in ns, and 16-21 cycles spent waiting for weights. */
#ifdef NB_DECODE_TRACE
__device__ __forceinline__ void stamp(const worker &w, int32_t layer, int32_t i) {
    if (w.p.trace && w.warp == 0 && w.lane == 0) {
        unsigned long long now;
        asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)::"memory");
        w.p.trace[((size_t)blockIdx.x * (w.p.m.n_layers + 1) + layer) * 32 + i] = now;
    }
}

__device__ __forceinline__ void enter(worker &w, int32_t layer, int32_t phase) {
    stamp(w, layer, phase);
    w.layer = layer;
    w.phase = phase;
}

__device__ __forceinline__ void have_operands(worker &w) {
    stamp(w, w.layer, 8 + w.phase);
}

__device__ __forceinline__ void wait_for_weights(worker &w) {
    long long begin = clock64();
    barrier_wait(&w.sh.full[w.ring.stage], w.ring.turn);
    long long end = clock64();
    if (w.p.trace && w.warp == 0 && w.lane == 0)
        w.p.trace[((size_t)blockIdx.x * (w.p.m.n_layers + 1) + w.layer) * 32 + 16 + w.phase] +=
            end - begin;
}
#else
__device__ __forceinline__ void stamp(const worker &, int32_t, int32_t) {
}

__device__ __forceinline__ void enter(worker &, int32_t, int32_t) {
}

__device__ __forceinline__ void have_operands(worker &) {
}

__device__ __forceinline__ void wait_for_weights(worker &w) {
    barrier_wait(&w.sh.full[w.ring.stage], w.ring.turn);
}
#endif

/* Where value v of the warp's sums of a tile is: 128 bytes for the lanes, in the second halves of
 * the table's rows. */
__device__ __forceinline__ float *slot_place(uint8_t *table, uint32_t tile, int32_t warp, int v) {
    return (float *)(table + ((tile % SLOTS * MMA_WARPS + warp) * 4 + v) * 256 + 128);
}

/* a[0..3] of one step, from a word of codes. */
__device__ __forceinline__ void widen_by_table(const worker &w, uint32_t word, uint32_t (&a)[4]) {
    for (int b = 0; b < 4; b++)
        a[b] = table_load(__byte_perm(word, w.lane_bytes, 0x7604 | b << 4));
}

/* The same without memory: which of 8 entries by the low three bits of each code, which half of the
 * table by its high one. */
__device__ __forceinline__ void widen_by_permutes(const worker &w, uint32_t word,
                                                  uint32_t (&a)[4]) {
    uint32_t select = word & 0x77777777U, half = word >> 3 & 0x11111111U;
    for (int i = 0; i < 2; i++) {
        uint32_t mask = __byte_perm(0xFF00, 0, half);
        uint32_t low0 = __byte_perm(w.low[0], w.low[1], select),
                 low1 = __byte_perm(w.low[2], w.low[3], select),
                 high0 = __byte_perm(w.high[0], w.high[1], select),
                 high1 = __byte_perm(w.high[2], w.high[3], select);
        uint32_t low = (low0 & ~mask) | (low1 & mask), high = (high0 & ~mask) | (high1 & mask);
        a[2 * i] = __byte_perm(low, high, 0x4051);
        a[2 * i + 1] = __byte_perm(low, high, 0x6273);
        select >>= 16;
        half >>= 16;
    }
}

__device__ __forceinline__ void multiply_chunk(const worker &w, uint4 codes, const uint32_t (&b)[8],
                                               float (&c)[4]) {
    uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint32_t a[4];
        if (j < 4 - NB_DECODE_WORDS_BY_ARITHMETIC)
            widen_by_table(w, words[j], a);
        else
            widen_by_permutes(w, words[j], a);
        mma(c, a[0], a[1], a[2], a[3], b[2 * j], b[2 * j + 1]);
    }
}

/* Where in a unit of a matrix a lane finds what it needs: its codes of the warp's first chunk, and
 * for the one scale that it makes, of row lane % 16 in the warp's chunk lane / 16, the code or the
 * scale itself, and the offset. */
struct places {
    uint32_t codes, scale, offset;
    bool has[2], mine, nested;
};

__device__ __forceinline__ places places_of(const worker &w, const matrix &m) {
    int32_t chunk = w.warp + (w.lane & 16);
    uint32_t at = chunk * ROWS + (w.lane & 15);
    places l;
    l.nested = m.kind == NB_CUDA_NESTED;
    l.codes = m.code_bytes + w.warp * NB_CUDA_CHUNK_CODES + w.lane * 16;
    l.scale = m.scale_bytes + (l.nested ? at : at * 4);
    l.offset = (2 * m.n_nested + (w.lane >> 3 & 1)) * 4;
    l.has[0] = w.warp < m.unit_chunks;
    l.has[1] = w.warp + 16 < m.unit_chunks;
    l.mine = chunk < m.unit_chunks;
    return l;
}

/* Where the nested absmax is, in unit u; row: the first of the lane's half in its tensor. */
__device__ __forceinline__ uint32_t nested_place(const worker &w, const matrix &m, int32_t u,
                                                 int32_t row) {
    int32_t half = w.lane >> 3 & 1, c0 = u * m.unit_chunks, chunk = w.warp + (w.lane & 16);
    int32_t slot = ((row * m.row_blocks + (c0 >> m.shift)) & 255) + (w.lane & 7) * m.row_blocks +
                   ((c0 + chunk) >> m.shift) - (c0 >> m.shift);
    return (half * m.n_nested + (slot >> 8)) * 4;
}

/* Adds the unit that comes next in the ring times b to its tile's sums, and frees its stage. b[i]
 * is for chunk warp + 16 i of the unit. */
template <int COLUMNS>
__device__ __forceinline__ void multiply_unit(worker &w, const places &l, uint32_t nested_at,
                                              const uint32_t (&b)[2][8], float (&sum)[4]) {
    uint32_t at = w.ring.at;
    wait_for_weights(w);
    uint4 codes[2] = {};
    if (l.has[0])
        codes[0] = shared_load4(at + l.codes);
    if (l.has[1])
        codes[1] = shared_load4(at + l.codes + 16 * NB_CUDA_CHUNK_CODES);
    float scale = 0;
    if (l.nested) {
        float offset = 0;
        uint32_t code = 0;
        if (l.mine) {
            code = shared_load_byte(at + l.scale);
            scale = shared_load_float(at + nested_at);
            offset = shared_load_float(at + l.offset);
        }
        scale = __fadd_rn(__fmul_rn(w.sh.nested_values[code * 8 + (w.lane & 7)], scale), offset);
    } else if (l.mine) {
        scale = shared_load_float(at + l.scale);
    }
    __syncwarp();
    if (w.lane == 0)
        barrier_arrive(&w.sh.empty[w.ring.stage]);
    w.ring.next(w.p);
    if (COLUMNS == 4) {
        float c[4] = {};
        if (l.has[0])
            multiply_chunk(w, codes[0], b[0], c);
        if (l.has[1])
            multiply_chunk(w, codes[1], b[1], c);
        int from = (w.q >> 1) * 16 + w.g;
        float s0 = __shfl_sync(~0U, scale, from), s1 = __shfl_sync(~0U, scale, from + 8);
        sum[0] += c[0] * s0;
        sum[1] += c[1] * s0;
        sum[2] += c[2] * s1;
        sum[3] += c[3] * s1;
    } else {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float c[4] = {};
            if (l.has[i])
                multiply_chunk(w, codes[i], b[i], c);
            float s0 = __shfl_sync(~0U, scale, i * 16 + w.g),
                  s1 = __shfl_sync(~0U, scale, i * 16 + w.g + 8);
            sum[0] += c[0] * s0;
            sum[1] += c[1] * s0;
            sum[2] += c[2] * s1;
            sum[3] += c[3] * s1;
        }
    }
}

/* Hands a tile's sums to its finisher. */
__device__ __forceinline__ void hand_over(worker &w, const float (&sum)[4]) {
    uint32_t slot = w.tile % SLOTS;
    barrier_wait(&w.sh.slot_free[slot], (w.tile / SLOTS & 1) ^ 1);
    float *to = slot_place(w.table, w.tile, w.warp, 0) + w.lane;
    to[0] = sum[0];
    to[2 * 64] = sum[2];
    if (w.p.s.n_tokens > 1) {
        to[64] = sum[1];
        to[3 * 64] = sum[3];
    }
    __syncwarp();
    if (w.lane == 0)
        barrier_arrive(&w.sh.slot_full[slot]);
    w.tile++;
}

/* ---- B operands ---- */

/* The lane's 16 neighbours of x of one chunk, 32 bytes: of the warp's first or second chunk with 4
 * columns, of either with 8. */
template <int COLUMNS> struct operands {
    enum { CHUNKS = COLUMNS == 8 ? 2 : 1 };
    uint4 raw[CHUNKS][2];
    const uint4 *at[CHUNKS]; /* NULL: zeros */
};

/* Begins to load what the lane needs for unit u. row(t): token t's x, bf16, or NULL. */
template <int COLUMNS, class Row>
__device__ __forceinline__ void load_operands(const worker &w, const matrix &m, int32_t u, Row row,
                                              operands<COLUMNS> &o) {
    int32_t t = w.g % COLUMNS;
#pragma unroll
    for (int i = 0; i < o.CHUNKS; i++) {
        int32_t c = w.warp + 16 * (COLUMNS == 8 ? i : w.g / 4);
        const __nv_bfloat16 *x = t < w.p.s.n_tokens ? row(t) : nullptr;
        bool any = x && c < m.unit_chunks && u * m.unit_chunks + c < m.chunks;
        o.at[i] = any ? (const uint4 *)(x + (u * m.unit_chunks + c) * 64 + w.q * 16) : nullptr;
        o.raw[i][0] = o.raw[i][1] = make_uint4(0, 0, 0, 0);
        if (any) {
            o.raw[i][0] = load_words(o.at[i]);
            o.raw[i][1] = load_words(o.at[i] + 1);
        }
    }
}

/* Waits until they are there, and makes B operands of them. */
template <int COLUMNS>
__device__ __forceinline__ void take_operands(const worker &w, operands<COLUMNS> &o,
                                              uint32_t (&b)[2][8]) {
#pragma unroll
    for (int i = 0; i < o.CHUNKS; i++) {
        if (o.at[i]) {
            settle(o.raw[i][0], o.at[i]);
            settle(o.raw[i][1], o.at[i] + 1);
        }
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const uint4 *r = o.raw[COLUMNS == 8 ? i : 0];
        bool mine = COLUMNS == 8 || w.g / 4 == i;
        b[i][0] = mine ? r[0].x : 0;
        b[i][1] = mine ? r[0].y : 0;
        b[i][2] = mine ? r[0].z : 0;
        b[i][3] = mine ? r[0].w : 0;
        b[i][4] = mine ? r[1].x : 0;
        b[i][5] = mine ? r[1].y : 0;
        b[i][6] = mine ? r[1].z : 0;
        b[i][7] = mine ? r[1].w : 0;
    }
}

/* ---- all of a block's tiles of one matrix ---- */

/* Two tiles at a time, for each expert of the list, for each unit: B operands are loaded for every
 * unit, and one ahead. row(e, t): token t's x for the e-th expert, or NULL; tile_row(i): the first
 * row of the lane's half of the block's i-th tile. */
template <int COLUMNS, class Row, class TileRow>
__device__ __forceinline__ void multiply_streaming(worker &w, const matrix &m, int32_t n_experts,
                                                   int32_t n_tiles, Row row, TileRow tile_row) {
    const places l = places_of(w, m);
#pragma unroll 1
    for (int32_t i = 0; i < n_tiles; i += 2) {
        bool two = i + 1 < n_tiles;
        int32_t row0 = tile_row(i), row1 = two ? tile_row(i + 1) : 0;
        float sum0[4] = {}, sum1[4] = {};
        operands<COLUMNS> next;
        load_operands<COLUMNS>(
            w, m, 0, [&](int32_t t) { return row(0, t); }, next);
        int32_t e = 0, u = 0;
#pragma unroll 1
        while (e < n_experts) {
            uint32_t b[2][8];
            take_operands<COLUMNS>(w, next, b);
            if (e == 0 && u == 0)
                have_operands(w);
            uint32_t nested0 = nested_place(w, m, u, row0),
                     nested1 = m.aligned ? nested0 : nested_place(w, m, u, row1);
            if (++u == m.n_units) {
                u = 0;
                e++;
            }
            if (e < n_experts)
                load_operands<COLUMNS>(
                    w, m, u, [&](int32_t t) { return row(e, t); }, next);
            multiply_unit<COLUMNS>(w, l, nested0, b, sum0);
            if (two)
                multiply_unit<COLUMNS>(w, l, nested1, b, sum1);
        }
        hand_over(w, sum0);
        if (two)
            hand_over(w, sum1);
    }
}

/* Whether x of a whole row fits in registers as B operands. */
__device__ __forceinline__ bool is_resident(const matrix &m) {
    return m.n_units <= 2;
}

/* A tile after the other, x in registers. row(t): token t's x. */
template <int COLUMNS, class Row, class TileRow>
__device__ __forceinline__ void multiply_resident(worker &w, const matrix &m, int32_t n_tiles,
                                                  Row row, TileRow tile_row) {
    if (n_tiles == 0)
        return;
    const places l = places_of(w, m);
    bool two = m.n_units > 1;
    operands<COLUMNS> o0, o1;
    load_operands<COLUMNS>(w, m, 0, row, o0);
    if (two)
        load_operands<COLUMNS>(w, m, 1, row, o1);
    uint32_t b0[2][8], b1[2][8] = {}, nested0 = 0, nested1 = 0;
    take_operands<COLUMNS>(w, o0, b0);
    if (two)
        take_operands<COLUMNS>(w, o1, b1);
    have_operands(w);
#pragma unroll 1
    for (int32_t i = 0; i < n_tiles; i++) {
        if (i == 0 || !m.aligned) {
            int32_t first = tile_row(i);
            nested0 = nested_place(w, m, 0, first);
            nested1 = nested_place(w, m, 1, first);
        }
        float sum[4] = {};
        multiply_unit<COLUMNS>(w, l, nested0, b0, sum);
        if (two)
            multiply_unit<COLUMNS>(w, l, nested1, b1, sum);
        hand_over(w, sum);
    }
}

/* The order in which the above take units: f(i, e, unit) for the block's i-th tile. Whoever fills
 * the ring follows it. */
template <class F>
__device__ __forceinline__ void unit_order(const matrix &m, bool streaming, int32_t n_experts,
                                           int32_t n_tiles, F f) {
    int32_t together = streaming ? 2 : 1;
    for (int32_t i = 0; i < n_tiles; i += together) {
        for (int32_t e = 0; e < n_experts; e++) {
            for (int32_t u = 0; u < m.n_units; u++) {
                f(i, e, u);
                if (together == 2 && i + 1 < n_tiles)
                    f(i + 1, e, u);
            }
        }
    }
}

/* ---- bf16 ---- */

/* Likewise for a matrix in bf16: two warps share a chunk, each doing two of its four steps. x in
 * registers if the matrix has up to 8 units. */
__device__ __forceinline__ void multiply_bf16(worker &w, const matrix &m, const __nv_bfloat16 *x,
                                              int32_t stride, int32_t n_tiles) {
    int32_t chunk = w.warp % 8, half = w.warp / 8;
    bool resident = m.n_units <= 8, has = chunk < m.unit_chunks;
    auto place = [&](int32_t u) -> const uint4 * {
        int32_t c = u * m.unit_chunks + chunk;
        if (w.g >= w.p.s.n_tokens || !has || c >= m.chunks)
            return nullptr;
        return (const uint4 *)(x + (size_t)w.g * stride + c * 64 + w.q * 16) + half;
    };
    uint4 b[8] = {};
    if (n_tiles == 0)
        return;
    if (resident) {
#pragma unroll
        for (int u = 0; u < 8; u++) {
            if (u < m.n_units && place(u))
                b[u] = load_words(place(u));
        }
#pragma unroll
        for (int u = 0; u < 8; u++) {
            if (u < m.n_units && place(u))
                settle(b[u], place(u));
        }
        __syncwarp();
    }
    auto unit = [&](uint4 x4, float(&sum)[4]) {
        uint32_t at = w.ring.at + m.code_bytes + chunk * 2048 + w.lane * 64 + half * 32;
        wait_for_weights(w);
        uint4 a0 = {}, a1 = {};
        if (has) {
            a0 = shared_load4(at);
            a1 = shared_load4(at + 16);
        }
        __syncwarp();
        if (w.lane == 0)
            barrier_arrive(&w.sh.empty[w.ring.stage]);
        w.ring.next(w.p);
        mma(sum, a0.x, a0.y, a0.z, a0.w, x4.x, x4.y);
        mma(sum, a1.x, a1.y, a1.z, a1.w, x4.z, x4.w);
    };
    for (int32_t i = 0; i < n_tiles; i++) {
        float sum[4] = {};
        if (resident) {
#pragma unroll
            for (int u = 0; u < 8; u++) {
                if (u < m.n_units)
                    unit(b[u], sum);
            }
        } else {
            for (int32_t u = 0; u < m.n_units; u++) {
                uint4 x4 = {};
                if (place(u)) {
                    x4 = load_words(place(u));
                    settle(x4, place(u));
                }
                __syncwarp();
                unit(x4, sum);
            }
        }
        hand_over(w, sum);
    }
}

#endif
