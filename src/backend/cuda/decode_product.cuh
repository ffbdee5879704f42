/* Products of units of weights with up to 8 tokens, by 16 warps: each has its own chunks of every
 * unit. Where a step has up to 4 tokens, a product's 8 columns are those of two chunks: B operands
 * hold the tokens in columns 0-3 for the warp's first chunk and in 4-7 for its second, so that half
 * the registers do, and each lane scales sums of one chunk alone. COLUMNS, 4 or 8, is how many of
 * the columns are of one chunk.
 *
 * Codes are widened by a table of pairs in shared memory, a copy for each lane: for a chunk
 * 16 loads from it, beside 4 wavefronts to read the codes and 4 to write them there. (By byte
 * permutes for a quarter of the words, a step took 18 % longer.)
 */
#ifndef NB_BACKEND_CUDA_DECODE_PRODUCT_CUH
#define NB_BACKEND_CUDA_DECODE_PRODUCT_CUH

#include "backend/cuda/decode_state.cuh"

/* Registers of B operands that a warp needs for its two chunks of a unit, in eights. */
template <int COLUMNS> constexpr int SETS = COLUMNS == 8 ? 2 : 1;

/* What an mma warp keeps. */
struct worker {
    const params &p;
    shared &sh;
    uint8_t *table; /* shared memory: row of byte b at 256 b; a copy of the pair it stands for for
                     * each lane in the first half, sums of tiles in the second halves */
    uint32_t lane_bytes;      /* shared address of the lane's copy of the pair of byte 0 */
    struct ring ring;
    int32_t warp, lane, g, q;
    int32_t
        scale_lane; /* which lane made the scale of row g that this one wants; + 8: of row g + 8 */
#ifdef NB_DECODE_TRACE
    int32_t layer, phase;
#endif
};

/* Four times the lane, from a register that is there in all loops. */
__device__ __forceinline__ uint32_t lane_times_4(const worker &w) {
    return w.lane_bytes & 127;
}

/* What the first warp of a block does, for a trace (see note). */
#ifdef NB_DECODE_TRACE
__device__ __forceinline__ void stamp(const worker &w, int32_t layer, int32_t i) {
    if (w.warp == 0 && w.lane == 0)
        note(w.p, layer, i);
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
    barrier_wait(&w.sh.full[w.ring.stage], w.ring.turn);
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

/* When all lanes have read what they need of the stage that is next: goes on to the one after it. */
__device__ __forceinline__ void free_stage(worker &w) {
    reads_before_copies();
    __syncwarp();
    warp_arrives(&w.sh.empty[w.ring.stage], w.lane);
    w.ring.next(w.p);
}

/* Where value v of the warp's sums of a tile is: 128 bytes for the lanes, in the second halves of
 * the table's rows. */
__device__ __forceinline__ float *slot_place(uint8_t *table, uint32_t tile, int32_t warp, int v) {
    return (float *)(table + ((tile % SLOTS * MMA_WARPS + warp) * 4 + v) * 256 + 128);
}

/* a[0..3] of one step, from a word of codes. */
__device__ __forceinline__ void widen(const worker &w, uint32_t word, uint32_t (&a)[4]) {
    for (int b = 0; b < 4; b++)
        a[b] = table_load(__byte_perm(word, w.lane_bytes, 0x7604 | b << 4));
}

__device__ __forceinline__ void multiply_chunk(const worker &w, uint4 codes, const uint32_t (&b)[8],
                                               float (&c)[4]) {
    uint32_t words[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
        uint32_t a[4];
        widen(w, words[j], a);
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
    int32_t chunk = 2 * w.warp + (w.lane >> 4);
    uint32_t at = chunk * ROWS + (w.lane & 15);
    places l;
    l.nested = m.kind == NB_CUDA_NESTED;
    l.codes = m.code_bytes + 2 * w.warp * NB_CUDA_CHUNK_CODES + w.lane * 16;
    l.scale = m.scale_bytes + (l.nested ? at : at * 4);
    l.offset = (2 * m.n_nested + (w.lane >> 3 & 1)) * 4;
    l.has[0] = 2 * w.warp < m.unit_chunks;
    l.has[1] = 2 * w.warp + 1 < m.unit_chunks;
    l.mine = chunk < m.unit_chunks;
    return l;
}

/* Where the nested absmax is, in unit u; row: the first of the lane's half in its tensor. */
__device__ __forceinline__ uint32_t nested_place(const worker &w, const matrix &m, int32_t u,
                                                 int32_t row) {
    int32_t half = w.lane >> 3 & 1, c0 = u * m.unit_chunks, chunk = 2 * w.warp + (w.lane >> 4);
    int32_t slot = ((row * m.row_blocks + (c0 >> m.shift)) & 255) + (w.lane & 7) * m.row_blocks +
                   ((c0 + chunk) >> m.shift) - (c0 >> m.shift);
    return (half * m.n_nested + (slot >> 8)) * 4;
}

/* Adds the unit that comes next in the ring times b to its tile's sums, and frees its stage. b[i]
 * is for chunk 2 warp + i of the unit. */
template <int COLUMNS>
__device__ __forceinline__ void multiply_unit(worker &w, const places &l, uint32_t nested_at,
                                              const uint32_t (&b)[SETS<COLUMNS>][8],
                                              float (&sum)[4]) {
    uint32_t at = w.ring.at;
    wait_for_weights(w);
    uint4 codes[2] = {};
    if (l.has[0])
        codes[0] = shared_load4(at + l.codes);
    if (l.has[1])
        codes[1] = shared_load4(at + l.codes + NB_CUDA_CHUNK_CODES);
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
    free_stage(w);
    float c0[4] = {}, c1[4] = {};
    if (l.has[0])
        multiply_chunk(w, codes[0], b[0], c0);
    if (l.has[1])
        multiply_chunk(w, codes[1], b[COLUMNS / 8], c1);
    if (COLUMNS < 8) { /* each lane has sums of one chunk that count; in the other columns of each
                        * product one chunk met the other's x, or zeros */
        bool second = w.lane & (COLUMNS == 4 ? 2 : 1);
        float s0 = __shfl_sync(~0U, scale, w.scale_lane),
              s1 = __shfl_sync(~0U, scale, w.scale_lane + 8);
        sum[0] += (second ? c1[0] : c0[0]) * s0;
        sum[1] += (second ? c1[1] : c0[1]) * s0;
        sum[2] += (second ? c1[2] : c0[2]) * s1;
        sum[3] += (second ? c1[3] : c0[3]) * s1;
    } else {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float s0 = __shfl_sync(~0U, scale, i * 16 + w.lane / 4),
                  s1 = __shfl_sync(~0U, scale, i * 16 + w.lane / 4 + 8);
            sum[0] += (i ? c1[0] : c0[0]) * s0;
            sum[1] += (i ? c1[1] : c0[1]) * s0;
            sum[2] += (i ? c1[2] : c0[2]) * s1;
            sum[3] += (i ? c1[3] : c0[3]) * s1;
        }
    }
}

/* What a warp takes of two units that come next in the ring, of whole chunks and double quantized:
 * together, so that more of what it does is independent. */
struct two_units {
    uint4 codes[4]; /* of the first unit's two chunks, then of the second's */
    uint32_t code[2];
    float nested[2], offset[2];
};

/* Loads them and frees their stages. */
__device__ __forceinline__ void load_two_units(worker &w, const places &l, uint32_t nested0,
                                               uint32_t nested1, two_units &t) {
    uint32_t stage0 = w.ring.stage, stage1 = 0;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t at = w.ring.at;
        wait_for_weights(w);
        t.code[i] = shared_load_byte(at + l.scale);
        t.nested[i] = shared_load_float(at + (i ? nested1 : nested0));
        t.offset[i] = shared_load_float(at + l.offset);
        t.codes[2 * i] = shared_load4(at + l.codes);
        t.codes[2 * i + 1] = shared_load4(at + l.codes + NB_CUDA_CHUNK_CODES);
        stage1 = w.ring.stage;
        w.ring.next(w.p);
    }
    reads_before_copies();
    __syncwarp();
    warp_arrives(&w.sh.empty[stage0], w.lane);
    warp_arrives(&w.sh.empty[stage1], w.lane);
}

/* Adds them times b0 and b1 to sum0 and sum1, which may be the same. */
template <int COLUMNS>
__device__ __forceinline__ void multiply_two_units(const worker &w, const two_units &t,
                                                   const uint32_t (&b0)[SETS<COLUMNS>][8],
                                                   const uint32_t (&b1)[SETS<COLUMNS>][8],
                                                   float (&sum0)[4], float (&sum1)[4]) {
    float scale[2];
#pragma unroll
    for (int i = 0; i < 2; i++)
        scale[i] = __fadd_rn(
            __fmul_rn(w.sh.nested_values[t.code[i] * 8 + (w.lane & 7)], t.nested[i]), t.offset[i]);
    float c[4][4] = {};
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t word = j == 0   ? t.codes[i].x
                            : j == 1 ? t.codes[i].y
                            : j == 2 ? t.codes[i].z
                                     : t.codes[i].w;
            const uint32_t *b = i < 2 ? b0[i % 2 * (COLUMNS / 8)] : b1[i % 2 * (COLUMNS / 8)];
            uint32_t a[4];
            widen(w, word, a);
            mma(c[i], a[0], a[1], a[2], a[3], b[2 * j], b[2 * j + 1]);
        }
    }
    if (COLUMNS < 8) {
        bool second = w.lane & (COLUMNS == 4 ? 2 : 1);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float s0 = __shfl_sync(~0U, scale[i], w.scale_lane),
                  s1 = __shfl_sync(~0U, scale[i], w.scale_lane + 8);
            float(&sum)[4] = i ? sum1 : sum0;
            sum[0] += (second ? c[2 * i + 1][0] : c[2 * i][0]) * s0;
            sum[1] += (second ? c[2 * i + 1][1] : c[2 * i][1]) * s0;
            sum[2] += (second ? c[2 * i + 1][2] : c[2 * i][2]) * s1;
            sum[3] += (second ? c[2 * i + 1][3] : c[2 * i][3]) * s1;
        }
    } else {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float s0 = __shfl_sync(~0U, scale[i / 2], i % 2 * 16 + w.scale_lane),
                  s1 = __shfl_sync(~0U, scale[i / 2], i % 2 * 16 + w.scale_lane + 8);
            float(&sum)[4] = i / 2 ? sum1 : sum0;
            sum[0] += c[i][0] * s0;
            sum[1] += c[i][1] * s0;
            sum[2] += c[i][2] * s1;
            sum[3] += c[i][3] * s1;
        }
    }
}

/* Whether units of a matrix can be taken two at a time. */
__device__ __forceinline__ bool in_twos(const matrix &m) {
    return m.kind == NB_CUDA_NESTED && m.aligned && m.unit_chunks == 32;
}

/* The same with 2 columns: two units of a tile. */
__device__ __forceinline__ bool in_narrow_twos(const matrix &m) {
    return in_twos(m) && m.n_units > 1;
}

/* Whether the finisher is known to be done with what was in a tile's slot. (A wait takes a while
 * even if it is, so it is asked ahead.) */
__device__ __forceinline__ bool slot_is_free(const worker &w, uint32_t tile) {
    return barrier_test(&w.sh.slot_free[tile % SLOTS], (tile / SLOTS & 1) ^ 1);
}

/* Hands a tile's sums to its finisher, who finds them by slot_place. tile: counted through the
 * whole step. free: of slot_is_free. */
__device__ __forceinline__ void hand_over(worker &w, uint32_t tile, const float (&sum)[4],
                                          bool free = false) {
    uint32_t slot = tile % SLOTS;
    if (!free)
        barrier_wait(&w.sh.slot_free[slot], (tile / SLOTS & 1) ^ 1);
    uint32_t to = w.lane_bytes + 128 + (slot * MMA_WARPS + w.warp) * 4 * 256;
    shared_store_float(to, sum[0]);
    shared_store_float(to + 2 * 256, sum[2]);
    if (w.p.s.n_tokens > 1) {
        shared_store_float(to + 256, sum[1]);
        shared_store_float(to + 3 * 256, sum[3]);
    }
    __syncwarp();
    warp_arrives(&w.sh.slot_full[slot], lane_times_4(w));
}

/* How many tiles there were so far is kept in shared memory: registers are scarce. */
__device__ __forceinline__ void tiles_done(const worker &w, uint32_t tile) {
    __syncwarp();
    if (w.lane == 0)
        w.sh.tile[w.warp] = tile;
    __syncwarp();
}

/* ---- B operands ---- */

/* The lane's 16 neighbours of x of one chunk, 32 bytes: of the warp's first or second chunk with 4
 * columns, of one of those of two units with 2, of either with 8. */
template <int COLUMNS> struct operands {
    enum { CHUNKS = SETS<COLUMNS> };
    uint32_t at[CHUNKS]; /* bytes from x, or NOTHING: zeros */
    uint32_t b[CHUNKS][8];

    __device__ __forceinline__ void load(const __nv_bfloat16 *x) {
#pragma unroll
        for (int i = 0; i < CHUNKS; i++) {
            bool there = at[i] != NOTHING;
            const uint4 *from = (const uint4 *)((const uint8_t *)x + at[i]);
#pragma unroll
            for (int k = 0; k < 2; k++) {
                uint4 v = load_words_if(there, from + k);
                b[i][4 * k] = v.x;
                b[i][4 * k + 1] = v.y;
                b[i][4 * k + 2] = v.z;
                b[i][4 * k + 3] = v.w;
            }
        }
    }

    /* Waits until all is there. */
    __device__ __forceinline__ void settle(const __nv_bfloat16 *x) {
        for (uint32_t tries = 0;;) {
            bool again = false;
#pragma unroll
            for (int i = 0; i < CHUNKS; i++) {
#pragma unroll
                for (int k = 0; k < 8; k++)
                    again |= b[i][k] == NOTHING;
            }
            if (!__any_sync(~0U, again))
                break;
            wait_a_little();
            load(x);
            if (++tries > SPIN_LIMIT)
                __trap();
        }
    }
};

/* What a phase multiplies: x [*, stride], for each token its own row, or of inner activations that
 * of its pair with the e-th expert. */
struct inputs {
    const __nv_bfloat16 *x;
    uint32_t stride;
    bool inner;

    /* Bytes from x to token t's row, or NOTHING. */
    __device__ __forceinline__ uint32_t row(const shared &sh, int32_t e, int32_t t) const {
        if (inner)
            t = sh.pair[e][t];
        return t < 0 ? NOTHING : t * stride * 2;
    }
};

/* Begins to load what the lane needs for unit u of the e-th expert. */
template <int COLUMNS>
__device__ __forceinline__ void load_operands(const worker &w, const matrix &m, const inputs &in,
                                              int32_t e, int32_t u, operands<COLUMNS> &o) {
    int32_t t = w.g % COLUMNS;
    uint32_t row = t < w.p.s.n_tokens ? in.row(w.sh, e, t) : NOTHING;
#pragma unroll
    for (int i = 0; i < o.CHUNKS; i++) {
        int32_t c = 2 * w.warp + (COLUMNS == 8 ? i : w.g / COLUMNS);
        bool any = row != NOTHING && w.g < 2 * COLUMNS && c < m.unit_chunks &&
                   u * m.unit_chunks + c < m.chunks;
        o.at[i] = any ? row + (u * m.unit_chunks + c) * 128 + w.q * 32 : NOTHING;
    }
    o.load(in.x);
}

/* ---- one or two tokens: two units at a time ---- */

/* With 2 columns a chunk, a product's 8 columns are those of the warp's four chunks of two units of
 * a tile, u and u + 1: lane (g, q) holds x of chunk g / 2 for token g % 2, and ends with sums of
 * rows g and g + 8 of chunk q alone. So it makes the two scales that it wants by itself. */
struct narrow {
    uint32_t codes, scale, offset, half; /* places in a unit; half: from nested values of rows 0-7
                                          * to those of 8-15 */
    uint32_t values; /* shared address of the lane's copy of nested value 0 */
};

__device__ __forceinline__ narrow narrow_of(const worker &w, const matrix &m) {
    narrow l;
    l.codes = m.code_bytes + 2 * w.warp * NB_CUDA_CHUNK_CODES + w.lane * 16;
    l.scale = m.scale_bytes + (2 * w.warp + (w.q & 1)) * ROWS + w.g;
    l.offset = 2 * m.n_nested * 4;
    l.half = m.n_nested * 4;
    l.values = kept(shared_address(w.sh.nested_values + (w.lane & 7)));
    return l;
}

/* Where the nested absmax of row g and the lane's chunk is, in unit u (the lane's own). */
__device__ __forceinline__ uint32_t narrow_nested(const worker &w, const matrix &m, int32_t u) {
    int32_t c0 = u * m.unit_chunks, chunk = 2 * w.warp + (w.q & 1);
    int32_t slot =
        (c0 >> m.shift & 255) + w.g * m.row_blocks + ((c0 + chunk) >> m.shift) - (c0 >> m.shift);
    return (slot >> 8) * 4;
}

/* What is known of the two stages that come next. */
struct ahead {
    struct ring second; /* the one after w.ring */
    bool ready;         /* whether weights are there: to ask takes 70 ns, so it is asked ahead */

    __device__ __forceinline__ void begin(const worker &w) {
        second = w.ring;
        second.next(w.p);
        ready = false;
    }
};

/* Adds the two units of a tile that come next in the ring (or the one that is left, if not `two`)
 * times b, and frees their stages; skews: as of skew_of. TILE: they are all of a tile; then free
 * becomes slot_is_free of it, and the places of the next two stages are known beforehand, since in
 * that loop there are registers for it. */
template <bool TILE>
__device__ __forceinline__ void multiply_narrow_units(worker &w, const narrow &l,
                                                      uint32_t nested_at, bool two,
                                                      uint32_t skew0, uint32_t skew1, ahead &next,
                                                      uint32_t tile, bool &free,
                                                      const uint32_t (&b)[8], float (&sum)[4]) {
    uint32_t at0 = w.ring.at + skew0, stage0 = w.ring.stage;
    if (!next.ready)
        wait_for_weights(w);
    struct ring second;
    if (TILE) {
        second = next.second;
    } else {
        second = w.ring;
        second.next(w.p);
    }
    uint32_t at1 = two ? second.at + skew1 : at0, stage1 = second.stage;
    uint4 codes[4];
    codes[0] = shared_load4(at0 + l.codes);
    codes[1] = shared_load4(at0 + l.codes + NB_CUDA_CHUNK_CODES);
    codes[2] = shared_load4(at1 + l.codes);
    codes[3] = shared_load4(at1 + l.codes + NB_CUDA_CHUNK_CODES);
    uint32_t lane4 = lane_times_4(w), mine = lane4 & 8 ? at1 : at0;
    uint32_t code0 = shared_load_byte(mine + l.scale), code1 = shared_load_byte(mine + l.scale + 8);
    float scale0 = shared_load_float(mine + nested_at),
          scale1 = shared_load_float(mine + nested_at + l.half);
    float2 offset = shared_load_floats(mine + l.offset);
    uint32_t all = codes[0].x | codes[1].x | codes[2].x | codes[3].x | code0 | code1 |
                   __float_as_uint(scale0) | __float_as_uint(scale1) | __float_as_uint(offset.x);
    uint32_t nothing = when_there(all, w.p.zero);
    warp_arrives(later(w.sh.empty + stage0, nothing), lane4);
    if (two)
        warp_arrives(later(w.sh.empty + stage1, nothing), lane4);
    scale0 = __fadd_rn(__fmul_rn(shared_load_float(l.values + code0 * 32), scale0), offset.x);
    scale1 = __fadd_rn(__fmul_rn(shared_load_float(l.values + code1 * 32), scale1), offset.y);
    w.ring = second;
    if (two)
        w.ring.next(w.p);
    if (TILE) {
        next.second = w.ring;
        next.second.next(w.p);
    }
    next.ready = barrier_test(&w.sh.full[w.ring.stage], w.ring.turn);
    if (TILE)
        free = slot_is_free(w, tile);
    float c[4][4] = {};
#pragma unroll
    for (int j = 0; j < 4; j++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t a[4];
            uint32_t word = j == 0   ? codes[i].x
                            : j == 1 ? codes[i].y
                            : j == 2 ? codes[i].z
                                     : codes[i].w;
            widen(w, word, a);
            mma(c[i], a[0], a[1], a[2], a[3], b[2 * j], b[2 * j + 1]);
        }
    }
    bool odd = lane4 & 4, late = lane4 & 8;
#pragma unroll
    for (int v = 0; v < 4; v++) {
        float first = odd ? c[1][v] : c[0][v], second = odd ? c[3][v] : c[2][v];
        sum[v] += (late ? second : first) * (v < 2 ? scale0 : scale1);
    }
}

/* Skews of the units of a block's tiles of two units, one after the other. */
struct tile_skews {
    uint32_t at, step, unit;

    __device__ __forceinline__ tile_skews(const matrix &m) {
        unit = m.unit_bytes;
        at = kept(blockIdx.x * 2 * unit);
        step = gridDim.x * 2 * unit;
    }
    __device__ __forceinline__ void next() {
        at += step;
    }
};

/* ---- all of a block's tiles of one matrix ---- */

/* Each of these is in the kernel once: what runs in a layer should fit in the instruction cache. */

/* Two tiles together, for each expert of the list, for each unit: B operands are loaded for every
 * unit, and one ahead. */
template <int COLUMNS>
__device__ __forceinline__ void multiply_pair(worker &w, const matrix &m, const inputs &in,
                                              int32_t n_experts, uint32_t tile) {
    enum { AHEAD = COLUMNS == 4 ? 2 : 1 }; /* as far as registers allow */
    const places l = places_of(w, m);
    float sum0[4] = {}, sum1[4] = {};
    operands<COLUMNS> o[AHEAD];
    int32_t e = 0, u = 0, left = n_experts * m.n_units, at = 0; /* at: unit of the next product */
    auto load = [&](operands<COLUMNS> &to) {
        if (e == n_experts)
            return;
        load_operands<COLUMNS>(w, m, in, e, u, to);
        if (++u == m.n_units) {
            u = 0;
            e++;
        }
    };
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
        o[i] = {};
        load(o[i]);
    }
#pragma unroll 1
    while (left > 0) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (left > 0) {
                o[i].settle(in.x);
                const operands<COLUMNS> now = o[i];
                load(o[i]);
                uint32_t nested = nested_place(w, m, at, 0);
                two_units units;
                load_two_units(w, l, nested, nested, units);
                multiply_two_units<COLUMNS>(w, units, now.b, now.b, sum0, sum1);
                at = at + 1 == m.n_units ? 0 : at + 1;
                left--;
            }
        }
    }
    hand_over(w, tile, sum0);
    hand_over(w, tile + 1, sum1);
}

/* The same for one tile or two of a matrix of any shape. */
template <int COLUMNS>
__device__ __forceinline__ void multiply_any(worker &w, const matrix &m, const inputs &in,
                                             int32_t row0, int32_t row1, bool two,
                                             int32_t n_experts, uint32_t tile) {
    const places l = places_of(w, m);
    float sum0[4] = {}, sum1[4] = {};
#pragma unroll 1
    for (int32_t f = 0; f < n_experts * m.n_units; f++) {
        int32_t e = f / m.n_units, u = f - e * m.n_units;
        operands<COLUMNS> o;
        load_operands<COLUMNS>(w, m, in, e, u, o);
        o.settle(in.x);
#pragma unroll 1
        for (int k = 0; k < 1 + two; k++) {
            float sum[4] = {};
            multiply_unit<COLUMNS>(w, l, nested_place(w, m, u, k ? row1 : row0), o.b, sum);
            for (int v = 0; v < 4; v++) {
                sum0[v] += k ? 0 : sum[v];
                sum1[v] += k ? sum[v] : 0;
            }
        }
    }
    hand_over(w, tile, sum0);
    if (two)
        hand_over(w, tile + 1, sum1);
}

/* What a lane of the narrow product loads of x, two steps (of two units each) ahead: while weights
 * stream, what the L2 cache is asked for comes some 3 us later. */
struct narrow_inputs {
    operands<2> next[2];
    int32_t n;       /* units, over all experts */
    int32_t f, e, u; /* the unit that comes after those, over all and of expert e */

    __device__ __forceinline__ void load(const worker &w, const matrix &m, const inputs &in,
                                         operands<2> &to) {
        for (; u >= m.n_units; e++)
            u -= m.n_units;
        int32_t t = w.g & 1, c = u * m.unit_chunks + 2 * w.warp + (w.g >> 1 & 1);
        uint32_t row = f < n && t < w.p.s.n_tokens ? in.row(w.sh, e, t) : NOTHING;
        to.at[0] = row != NOTHING && c < m.chunks ? row + c * 128 + w.q * 32 : NOTHING;
        to.load(in.x);
        f += 2;
        u += 2;
    }

    __device__ __forceinline__ void begin(const worker &w, const matrix &m, const inputs &in,
                                          int32_t n_experts) {
        n = n_experts * m.n_units;
        f = u = w.g >> 2;
        e = 0;
        load(w, m, in, next[0]);
        load(w, m, in, next[1]);
    }
};

/* Likewise of one tile or two with 2 columns, units two at a time; x: begun. */
__device__ __forceinline__ void multiply_narrow_pair(worker &w, const matrix &m, const inputs &in,
                                                     bool two, narrow_inputs &x, ahead &next,
                                                     uint32_t tile) {
    const narrow l = narrow_of(w, m);
    float sum0[4] = {}, sum1[4] = {};
    int32_t mine = w.q >> 1; /* which of a tile's units the lane makes scales for */
#pragma unroll 1
    for (int32_t left = x.n; left > 0; left -= 2) {
        x.next[0].settle(in.x);
        uint32_t b[8];
#pragma unroll
        for (int i = 0; i < 8; i++)
            b[i] = x.next[0].b[0][i];
        x.next[0] = x.next[1];
        if (left > 4)
            x.load(w, m, in, x.next[1]);
        for (; mine >= m.n_units;)
            mine -= m.n_units;
        uint32_t nested = narrow_nested(w, m, mine);
        mine += 2;
        bool free;
        multiply_narrow_units<false>(w, l, nested, left > 1, 0, 0, next, 0, free, b, sum0);
        if (two)
            multiply_narrow_units<false>(w, l, nested, left > 1, 0, 0, next, 0, free, b, sum1);
    }
    hand_over(w, tile, sum0);
    if (two)
        hand_over(w, tile + 1, sum1);
}

/* Tiles two at a time. */
template <int COLUMNS>
__device__ __forceinline__ void multiply_streaming(worker &w, const matrix &m, const inputs &in,
                                                   const tile_rows &rows, int32_t n_experts,
                                                   int32_t n_tiles) {
    uint32_t tile = w.sh.tile[w.warp];
    ahead next;
    next.begin(w);
#pragma unroll 1
    for (int32_t i = 0; i < n_tiles; i += 2) {
        bool two = i + 1 < n_tiles;
        if (COLUMNS == 2 && in_narrow_twos(m)) {
            narrow_inputs x;
            x.begin(w, m, in, n_experts);
            multiply_narrow_pair(w, m, in, two, x, next, tile + i);
        } else if (two && in_twos(m)) {
            multiply_pair<COLUMNS>(w, m, in, n_experts, tile + i);
        } else {
            int half = w.lane >> 3 & 1;
            multiply_any<COLUMNS>(w, m, in, rows(own_index(i), half),
                                  two ? rows(own_index(i + 1), half) : 0, two, n_experts, tile + i);
        }
    }
    tiles_done(w, tile + n_tiles);
}

/* Waits until the router knows the layer's experts. In a dense model they never change. */
__device__ __forceinline__ void wait_for_list(const params &p, shared &sh, int32_t layer) {
    if (!p.m.dense)
        barrier_wait(&sh.list_ready, layer & 1);
}

/* Whether x of a whole row fits in registers as B operands: two units, taken together. */
__device__ __forceinline__ bool is_resident(const matrix &m) {
    return m.n_units == 2 && in_twos(m);
}

/* A tile after the other, x in registers. */
template <int COLUMNS>
__device__ __forceinline__ void multiply_resident(worker &w, const matrix &m, const inputs &in,
                                                  int32_t layer, int32_t phase) {
    const places l = places_of(w, m);
    uint32_t nested0 = nested_place(w, m, 0, 0), nested1 = nested_place(w, m, 1, 0);
    const narrow n = narrow_of(w, m);
    operands<COLUMNS> o0, o1;
    if (COLUMNS == 2) {
        int32_t t = w.g & 1, c = (w.g >> 2) * m.unit_chunks + 2 * w.warp + (w.g >> 1 & 1);
        nested0 = narrow_nested(w, m, w.q >> 1);
        o0.at[0] =
            t < w.p.s.n_tokens && c < m.chunks ? in.row(w.sh, 0, t) + c * 128 + w.q * 32 : NOTHING;
        o0.load(in.x);
        o0.settle(in.x);
    } else {
        load_operands<COLUMNS>(w, m, in, 0, 0, o0);
        load_operands<COLUMNS>(w, m, in, 0, 1, o1);
        o0.settle(in.x);
        o1.settle(in.x);
    }
    have_operands(w);
    if (phase == GATE_UP) /* x is there before experts are chosen */
        wait_for_list(w.p, w.sh, layer);
    uint32_t tile = w.sh.tile[w.warp], end = tile + w.sh.n_own[phase];
    ahead next;
    next.begin(w);
    tile_skews skews(m);
#pragma unroll 1
    for (; tile != end; tile++) {
        float sum[4] = {};
        bool free = false;
        if (COLUMNS == 2) {
            multiply_narrow_units<true>(w, n, nested0, true, skew_of(m, skews.at),
                                        skew_of(m, skews.at + skews.unit), next, tile, free,
                                        o0.b[0], sum);
            skews.next();
        } else {
            two_units units;
            load_two_units(w, l, nested0, nested1, units);
            multiply_two_units<COLUMNS>(w, units, o0.b, o1.b, sum, sum);
        }
        hand_over(w, tile, sum, free);
    }
    tiles_done(w, end);
}

/* Gate and up, then down, with 2 columns: as multiply_resident and multiply_streaming do, but x of
 * down's first units is loaded before gate and up's last tiles are multiplied. (Those units are of
 * the first expert, whose activations are there by then, or nearly.) */
__device__ __forceinline__ void multiply_experts(worker &w, const matrix &gate_up,
                                                 const matrix &down, const inputs &in,
                                                 const inputs &inner, int32_t layer) {
    enum { LAST = 3 };
    const narrow l = narrow_of(w, gate_up);
    uint32_t nested = narrow_nested(w, gate_up, w.q >> 1);
    operands<2> o;
    int32_t t = w.g & 1, c = (w.g >> 2) * gate_up.unit_chunks + 2 * w.warp + (w.g >> 1 & 1);
    o.at[0] = t < w.p.s.n_tokens && c < gate_up.chunks ? in.row(w.sh, 0, t) + c * 128 + w.q * 32
                                                       : NOTHING;
    o.load(in.x);
    o.settle(in.x);
    have_operands(w);
    wait_for_list(w.p, w.sh, layer);
    stamp(w, layer, 14);
    uint32_t tile = w.sh.tile[w.warp], end = kept(tile + w.sh.n_own[GATE_UP]);
    ahead next;
    next.begin(w);
    tile_skews skews(gate_up);
    auto multiply = [&](uint32_t last) {
#pragma unroll 1
        for (; tile + last < end; tile++) {
            float sum[4] = {};
            bool free;
            multiply_narrow_units<true>(w, l, nested, true, skew_of(gate_up, skews.at),
                                        skew_of(gate_up, skews.at + skews.unit), next, tile, free,
                                        o.b[0], sum);
            skews.next();
            hand_over(w, tile, sum, free);
        }
    };
    multiply(LAST);
    narrow_inputs x;
    x.begin(w, down, inner, w.sh.n_list);
    multiply(0);
    enter(w, layer, 5);
    int32_t n = w.sh.n_own[DOWN];
#pragma unroll 1
    for (int32_t i = 0; i < n; i += 2) {
        if (i > 0)
            x.begin(w, down, inner, w.sh.n_list);
        multiply_narrow_pair(w, down, inner, i + 1 < n, x, next, tile + i);
    }
    tiles_done(w, tile + n);
}

/* The order in which the above take units: so many tiles together, of each so many units in turn.
 * Who fills the ring follows it. */
struct unit_order {
    int32_t tiles, units;
};

template <int COLUMNS>
__device__ __forceinline__ unit_order order_of(const matrix &m, bool streaming) {
    return {streaming ? 2 : 1, COLUMNS == 2 && (streaming ? in_narrow_twos(m) : is_resident(m)) ? 2 : 1};
}

/* ---- bf16 ---- */

/* Likewise for a matrix in bf16: two warps share a chunk, each doing two of its four steps. x in
 * registers if the matrix has up to 8 units. */
__device__ __forceinline__ void multiply_bf16(worker &w, const matrix &m, inputs in,
                                              int32_t n_tiles) {
    int32_t chunk = w.warp % 8, half = w.warp / 8;
    bool resident = m.n_units <= 8, has = chunk < m.unit_chunks;
    uint32_t place = m.code_bytes + chunk * 2048 + w.lane * 64 + half * 32;
    auto take = [&](int32_t u) {
        uint4 v = make_uint4(0, 0, 0, 0);
        int32_t c = u * m.unit_chunks + chunk;
        if (w.g < w.p.s.n_tokens && has && c < m.chunks) {
            const uint4 *at = (const uint4 *)(in.x + w.g * in.stride + c * 64 + w.q * 16) + half;
            uint32_t tries = 0;
            do {
                v = load_words(at);
                if (++tries > SPIN_LIMIT)
                    __trap();
            } while (is_nothing(v));
        }
        __syncwarp();
        return v;
    };
    auto unit = [&](uint4 b, float(&sum)[4]) {
        uint32_t at = w.ring.at + place;
        wait_for_weights(w);
        uint4 a0 = {}, a1 = {};
        if (has) {
            a0 = shared_load4(at);
            a1 = shared_load4(at + 16);
        }
        free_stage(w);
        mma(sum, a0.x, a0.y, a0.z, a0.w, b.x, b.y);
        mma(sum, a1.x, a1.y, a1.z, a1.w, b.z, b.w);
    };
    uint4 b[8] = {};
    if (resident) {
#pragma unroll
        for (int u = 0; u < 8; u++) {
            if (u < m.n_units)
                b[u] = take(u);
        }
    }
    have_operands(w);
#pragma unroll 1
    for (int32_t i = 0; i < n_tiles; i++) {
        float sum[4] = {};
        if (resident) {
#pragma unroll
            for (int u = 0; u < 8; u++) {
                if (u < m.n_units)
                    unit(b[u], sum);
            }
        } else {
#pragma unroll 1
            for (int32_t u = 0; u < m.n_units; u++)
                unit(take(u), sum);
        }
        hand_over(w, w.sh.tile[w.warp] + i, sum);
    }
    tiles_done(w, w.sh.tile[w.warp] + n_tiles);
}

#endif
