/* Products with few tokens a group, where reading weights is what takes time, and with any number
 * of them on GPUs that have no wgmma.
 *
 * A block is WARPS warps that multiply and one that fetches; on Hopper one that fetches weights and
 * two that fetch x, and these leave registers to the others. A tile of the grid is 16 WARPS rows of
 * W by up to n_max tokens of a group: each warp has 16 rows, one tile of layout.h, all of K, and so
 * sums of its own. A step is a piece of K, 4 chunks of 64; a ring of STAGES holds the weights of
 * steps, a slot for each warp, and what x has for them.
 *
 * All steps of all tiles of all groups make one line, cut into as many pieces of equal cost as
 * there are blocks (stream-K: Osama et al., "Stream-K: Work-centric Parallel Decomposition for
 * Dense Matrix-Matrix Multiplication on the GPU", 2023). A block whose piece begins within a tile
 * leaves its sums of that tile in global memory; the block that has the tile's first step adds
 * them, in order of K, warp by warp, so the result does not depend on who comes first.
 *
 * A byte of codes becomes a pair of bf16 by a table in shared memory that has a copy for each lane,
 * so that all lanes read at once. Its address is one byte permutation, `byte << 8 | lane * 4`,
 * where rows of 256 bytes fit (ROW_BITS 8; the free half of a row is the same kind of table of the
 * nested absmax code). Scales multiply the sums of a chunk.
 *
 * On Hopper the steps of scaled weights are done in one of two ways. Up to 16 tokens: mma.sync, a
 * warp has one chunk of four tiles of each step, so that B comes from shared memory once for 64
 * rows as it does with wgmma, and no warp waits for another but at the end of a tile, where four
 * add their sums. More tokens: wgmma, a warp has its own tile, and decodes a chunk while the one
 * before is multiplied. Elsewhere: mma.sync, B by ldmatrix.
 * Both are after few instructions and few wavefronts of shared memory: where memory gives 4.6 TB/s
 * an SM has 30 cycles for a chunk, which are 119 instructions and 30 wavefronts. With 8 / 16 / 24 /
 * 32 tokens the loops have 52 / 63 / 71 / 75 instructions a chunk. With 8 tokens the wavefronts are
 * 16 of lookups, 4 of reading codes and 4 of their arrival, 2 for B, 2 for the scales' way from
 * lane to lane and 1 for making them: 29.
 */
#ifndef NB_BACKEND_CUDA_GEMM_STREAM_CUH
#define NB_BACKEND_CUDA_GEMM_STREAM_CUH

#include "backend/cuda/gemm_parts.cuh"
#include "backend/cuda/wgmma.cuh"

namespace {

enum {
    STREAM_BLOCKS = 4, /* of 8 tokens, at most */
    FEW_BLOCKS = 2,    /* so many are multiplied by mma.sync, more by wgmma */
};

/* SHARED: bytes that a block may take. TABLE_AT: the shared address of the table of pairs, where it
 * is known beforehand (of dynamic memory with 1 KiB before it, which the system keeps), or 0. */
struct hopper {
    static constexpr bool WGMMA = true;
    static constexpr int WARPS = 16, STAGES = 3, ROW_BITS = 8, SHARED = 232448, TABLE_AT = 1024;
    static constexpr int EXCHANGE = 512 * WARPS; /* bytes for sums that warps pass one another */
    static constexpr int X_WARPS = 2; /* that fetch x, beside the one that fetches weights */
    static constexpr int THREADS = 32 * WARPS + 128; /* a warpgroup fetches; its last warp idles */
    /* Of threads that multiply and that fetch: together what all have at first, 96 each. */
    static constexpr int MULTIPLY_REGISTERS = 112, FETCH_REGISTERS = 32;
};

struct generic {
    static constexpr bool WGMMA = false;
    static constexpr int WARPS = 8, STAGES = 2, ROW_BITS = 7, SHARED = 101376, TABLE_AT = 0;
    static constexpr int EXCHANGE = 0;
    static constexpr int X_WARPS = 0; /* one warp fetches all */
    static constexpr int THREADS = 32 * WARPS + 32;
};

/* Warps that fetch x, whatever else. */
template <class T> constexpr int x_warps = T::X_WARPS ? T::X_WARPS : 1;

/* What a step costs next to one of 8 tokens, in 16ths. (On Hopper as measured where all groups are
 * alike: of one block memory is what binds, of more of them the warps.) */
__device__ constexpr int step_cost(int blocks) {
#if NB_WGMMA
    return blocks == 1 ? 16 : blocks == 2 ? 20 : blocks == 3 ? 23 : 25;
#else
    return blocks <= 2 ? 15 + blocks : 17 + 3 * (blocks - 2);
#endif
}

/* The line of steps, and a block's part of it. */
struct line {
    const struct group *groups;
    const int64_t *cost, *steps; /* [n_groups + 1]: before each group */
    int32_t n_groups, blocks;    /* blocks that have a part */
    int64_t all, first;          /* what all steps cost; the first step of this block */

    /* The first step that costs at least `at` have gone before. */
    __device__ __forceinline__ int64_t step_at(int64_t at, int32_t *group_of) const {
        int32_t e = find_group(cost, n_groups, at);
        *group_of = e;
        if (e == n_groups)
            return steps[e];
        int64_t w = step_cost(groups[e].blocks);
        return steps[e] + (at - cost[e] + w - 1) / w;
    }

    __device__ __forceinline__ int64_t begin_of(int32_t block) const {
        return all * block / blocks;
    }

    /* The block that has step `step` of group e. */
    __device__ __forceinline__ int32_t block_of(uint32_t e, int64_t step) const {
        return (int32_t)(((cost[e] + step * step_cost(groups[e].blocks) + 1) * blocks - 1) / all);
    }
};

/* Choices of groups in order, at the end of shared memory. */
struct choices {
    int32_t of[NB_CUDA_GEMM_CHOICES];
    int32_t gather[NB_CUDA_GEMM_CHOICES]; /* x's row of each row of y */

    /* Where groups begin, [n_groups + 1]. */
    __device__ __forceinline__ int32_t *begin() {
        return (int32_t *)(this + 1);
    }

    static __host__ __device__ constexpr int bytes(int n_groups) {
        return ((int)sizeof(struct choices) + (n_groups + 1) * (int)sizeof(int32_t) + 15) & ~15;
    }

    /* By the block; a thread for each choice, and for where each group begins. */
    __device__ __forceinline__ void sort(const struct nb_cuda_gemm &g) {
        int32_t thread = threadIdx.x, n = g.n, last = max(n - 1, g.n_groups);
        if (thread < NB_CUDA_GEMM_CHOICES)
            of[thread] = thread < n ? __ldcg(g.choice + thread) : g.n_groups;
        __syncthreads();
        for (int32_t i = thread; i <= last; i += blockDim.x) {
            int32_t mine = i < n ? of[i] : g.n_groups;
            int32_t at = 0, lower = 0; /* choices before this one; of groups below i */
            for (int32_t f = 0; f < n; f += 4) {
                int4 c = *(const int4 *)(of + f);
                int32_t four[4] = {c.x, c.y, c.z, c.w};
#pragma unroll
                for (int32_t k = 0; k < 4; k++) {
                    at += four[k] < mine || (four[k] == mine && f + k < i);
                    lower += four[k] < i;
                }
            }
            if (i <= g.n_groups)
                begin()[i] = lower;
            if (i < n) {
                gather[at] = g.choices_of_x ? i / g.choices_of_x : at;
                if (g.slot && blockIdx.x == 0)
                    g.slot[i] = at;
            }
        }
        __syncthreads();
    }
};

/* A place on the line: piece p of unit u of tile (m, n) of group e. */
struct cursor {
    uint32_t e;               /* unsigned: no register for a sign */
    int32_t m, n, u, p, left; /* left: steps to the end of the block's part */

    __device__ __forceinline__ void open(const args &a, const line &l, int32_t block) {
        e = left = m = n = u = p = 0;
        if (block >= l.blocks)
            return;
        int64_t step = l.first;
        if (a.block_steps) {
            left = min(a.block_steps, (int32_t)(l.steps[1] - step));
        } else {
            int32_t last;
            left = (int32_t)(l.step_at(l.begin_of(block + 1), &last) - step);
            e = find_group(l.steps, l.n_groups, step);
        }
        place(a, (int32_t)(step - l.steps[e]), l.groups[e].tiles);
    }

    /* Goes to step `at` of its group. */
    __device__ __forceinline__ void place(const args &a, int32_t at, int32_t tiles) {
        int32_t tile = at / a.k_steps;
        u = at % a.k_steps / a.pieces, p = at % a.k_steps % a.pieces;
        m = tile / tiles, n = tile % tiles;
    }

    /* To the next step; whether the tile has no more and next_tile is due. */
    __device__ __forceinline__ bool step(const args &a) {
        left--;
        if (++p == a.pieces)
            p = 0, u++;
        return is_end(a);
    }

    /* To the end of the tile or of the block's part. */
    __device__ __forceinline__ void skip(const args &a, int32_t steps) {
        left -= steps, p += u * a.pieces + steps, u = 0;
    }

    __device__ __forceinline__ bool is_end(const args &a) const {
        return u * a.pieces + p == a.k_steps;
    }

    __device__ __forceinline__ void next_tile(const args &a, const line &l) {
        u = p = 0;
        if (++n < l.groups[e].tiles)
            return;
        n = 0;
        if (++m < a.m_blocks)
            return;
        m = 0;
        do
            e++;
        while (e < (uint32_t)l.n_groups && l.groups[e].tiles == 0);
    }

    /* Chunks of this step that are of the matrix. */
    __device__ __forceinline__ int32_t chunks(const args &a) const {
        int32_t first = a.piece * p, c0 = u * a.g.w.shape.unit_chunks + first;
        return min(min(a.piece, a.g.w.shape.unit_chunks - first), a.x_chunks - c0);
    }
};

/* Shared memory: tables, the line and where warps are on it, stages of x, stages of weights, room
 * for an exchange of sums, then barriers, groups and choices. */
template <class T>
constexpr int stream_table_bytes = (256 << T::ROW_BITS) + (T::ROW_BITS == 7) * 1024;
template <class T>
constexpr int stream_ring_at = stream_table_bytes<T> + (T::WGMMA ? 1024 : 128); /* what is before */

template <class T>
__host__ __device__ constexpr int stream_rest_bytes(int n_groups, bool may_sort) {
    static_assert(sizeof(struct line) + T::WGMMA * T::WARPS * sizeof(struct cursor) <=
                      stream_ring_at<T> - stream_table_bytes<T>,
                  "room for the line and cursors");
    return T::EXCHANGE + 16 * T::STAGES + 16 * (n_groups + 1) +
           n_groups * (int)sizeof(struct group) + (may_sort ? choices::bytes(n_groups) : 0);
}

/* The ring, as each side goes round it; shared addresses. */
template <class T> struct ring {
    uint32_t base; /* of shared memory: the tables */
    int32_t stage;
    uint32_t parity;

    __device__ __forceinline__ uint32_t x(const args &a) const {
        return base + stream_ring_at<T> + stage * a.x_bytes;
    }
    __device__ __forceinline__ uint32_t w(const args &a) const {
        return base + stream_ring_at<T> + T::STAGES * a.x_bytes + stage * T::WARPS * a.slot_bytes;
    }
    __device__ __forceinline__ uint32_t full(const args &a) const {
        return base + stream_ring_at<T> + T::STAGES * (a.x_bytes + T::WARPS * a.slot_bytes) +
               T::EXCHANGE + 8 * stage;
    }
    __device__ __forceinline__ uint32_t empty(const args &a) const {
        return full(a) + 8 * T::STAGES;
    }
    __device__ __forceinline__ uint32_t exchange(const args &a) const {
        return base + stream_ring_at<T> + T::STAGES * (a.x_bytes + T::WARPS * a.slot_bytes);
    }
    __device__ __forceinline__ void next() {
        if (++stage == T::STAGES)
            stage = 0, parity ^= 1;
    }
};

/* A lane's scales of NESTED and ABSMAX: of rows g and g + 8 of one tile in one chunk of each step
 * (of steps that all have PIECE chunks), in x and y, or in y and x where `swap`. What nested absmax
 * and means are stays in registers for `steps`, which is the same in all lanes. */
struct lane_scales {
    uint32_t code; /* place in a stage of weights */
    int32_t steps;
    float x_nested, y_nested, x_mean, y_mean;

    /* From the stage at `stage` on, which has the weights of `tiles` tiles; `place`, `tile`: the
     * lane's tile among those, and in the matrix; its chunk: `at` from chunk c0 of the row on,
     * where a unit begins, and `within` its piece. */
    __device__ __forceinline__ void open(const args &a, uint32_t stage, int32_t tiles,
                                         int32_t place, int32_t tile, int32_t c0, int32_t at,
                                         int32_t within, bool swap) {
        int32_t g = thread_now() % 32 / 4, bytes = a.piece * a.scale_stride;
        code = tiles * CODE_BYTES + place * bytes + within * a.scale_stride;
        steps = INT32_MAX, x_nested = y_nested = x_mean = y_mean = 0;
        if (a.form == ABSMAX) {
            code += 4 * g + 32 * swap;
            return;
        }
        code += g + 8 * swap;
        const struct nb_cuda_shape &s = a.g.w.shape;
        struct nested_rows rows = nested_rows_of(a, tile);
        if (swap)
            rows = {rows.lower, rows.upper};
        int32_t chunk = c0 + at;
        if (at >= s.unit_chunks)
            c0 += at / s.unit_chunks * s.unit_chunks;
        int32_t in_row = chunk >> a.block_shift, x_here = rows.upper + g * s.row_blocks + in_row,
                y_here = rows.lower + g * s.row_blocks + in_row;
        int32_t x = (x_here >> 8) - ((rows.upper + (c0 >> a.block_shift)) >> 8),
                y = (y_here >> 8) - ((rows.lower + (c0 >> a.block_shift)) >> 8);
        uint32_t header = stage + tiles * (CODE_BYTES + bytes) + place * a.header_bytes,
                 means = header + 8 * s.n_nested;
        x_nested = load_f32(header + 4 * (x + swap * s.n_nested));
        y_nested = load_f32(header + 4 * (y + !swap * s.n_nested));
        x_mean = load_f32(means + 4 * swap), y_mean = load_f32(means + 4 * !swap);
        /* Until one of the lanes comes to another nested block. */
        int32_t blocks = 256 - max(x_here & 255, y_here & 255);
        uint32_t chunks = ((in_row + blocks) << a.block_shift) - chunk;
        steps = (__reduce_min_sync(~0u, chunks) + PIECE - 1) / PIECE;
    }

    /* Those of the step whose weights are at `stage`. `nested_value(code)`: what a code of an
     * absmax stands for. */
    template <bool NESTED, class F>
    __device__ __forceinline__ float2 at(uint32_t stage, F nested_value) const {
        uint32_t from = stage + code;
        if (!NESTED)
            return make_float2(load_f32(from), load_f32(from ^ 32));
        float x = nested_value(load_8(from)), y = nested_value(load_8(from ^ 8));
        return make_float2(__fadd_rn(__fmul_rn(x, x_nested), x_mean),
                           __fadd_rn(__fmul_rn(y, y_nested), y_mean));
    }
};

/* A warp that multiplies. SCALED: NESTED and ABSMAX, whose scales multiply sums of chunks; HALVES
 * and FLOATS have whole weights. */
template <class T, bool SCALED> struct worker {
    const args &a;
    const line &l;
    struct ring<T> r;
    int32_t warp, lane;
    struct cursor at; /* of hopper it is behind the line, where it takes no registers */

    __device__ __forceinline__ struct cursor place() const {
        if constexpr (T::WGMMA)
            return ((const struct cursor *)(&l + 1))[thread_now() / 32];
        else
            return at;
    }

    __device__ __forceinline__ void put(const struct cursor &now) {
        if constexpr (T::WGMMA) {
            __syncwarp();
            if (lane == 0)
                ((struct cursor *)(&l + 1))[thread_now() / 32] = now;
            __syncwarp();
        } else {
            at = now;
        }
    }

    __device__ __forceinline__ uint32_t look_up(uint32_t index) const {
        if constexpr (T::TABLE_AT != 0)
            return load_32_behind<T::TABLE_AT>(index);
        else
            return load_32(r.base + index);
    }

    __device__ __forceinline__ void load_codes(uint32_t (&codes)[4], uint32_t piece,
                                               int32_t c) const {
        load_128(codes, piece + 512 * c + 16 * lane);
    }

    __device__ __forceinline__ void look_up_all(uint32_t (&out)[16],
                                                const uint32_t (&codes)[4]) const {
        uint32_t own = 4 * lane;
#pragma unroll
        for (int32_t j = 0; j < 4; j++) {
            if constexpr (T::ROW_BITS == 8) {
                out[4 * j] = look_up(index_of<0>(codes[j], own));
                out[4 * j + 1] = look_up(index_of<1>(codes[j], own));
                out[4 * j + 2] = look_up(index_of<2>(codes[j], own));
                out[4 * j + 3] = look_up(index_of<3>(codes[j], own));
            } else {
                out[4 * j] = look_up((codes[j] << 7 & 0x7F80) | own);
                out[4 * j + 1] = look_up((codes[j] >> 1 & 0x7F80) | own);
                out[4 * j + 2] = look_up((codes[j] >> 9 & 0x7F80) | own);
                out[4 * j + 3] = look_up((codes[j] >> 17 & 0x7F80) | own);
            }
        }
    }

    /* A operands of chunk c of a piece: a[4 j + b]. */
    __device__ __forceinline__ void decode(uint32_t (&out)[16], struct piece from,
                                           int32_t c) const {
        if (!SCALED && a.form == FLOATS) {
#pragma unroll
            for (int32_t j = 0; j < 4; j++) {
                uint32_t v[4];
                load_128(v, from.codes + 64 * lane + 16 * j);
#pragma unroll
                for (int32_t b = 0; b < 4; b++)
                    out[4 * j + b] = v[b];
            }
            return;
        }
        uint32_t codes[4];
        load_codes(codes, from.codes, c);
        look_up_all(out, codes);
        if constexpr (!SCALED) {
            uint32_t scales = from.scales + 4 * (16 * (2 * c + lane % 4 / 2) + lane / 4);
            float scale[2] = {load_f32(scales), load_f32(scales + 32)};
#pragma unroll
            for (int32_t i = 0; i < 16; i++) {
                float low = __uint_as_float(out[i] << 16),
                      high = __uint_as_float(out[i] & 0xFFFF0000);
                out[i] = pack_bf16(low * scale[i & 1], high * scale[i & 1]);
            }
        }
    }

    __device__ __forceinline__ float2 scales(struct piece from, struct nested_rows rows, int32_t u,
                                             int32_t p) const {
        return scales_of(a, rows, from, u, p, [&](uint32_t code) {
            return T::ROW_BITS == 8 ? __uint_as_float(look_up((code << 8 | 4 * lane) + 128))
                                    : load_f32(r.base + (256 << T::ROW_BITS) + 4 * code);
        });
    }

    /* The descriptor of what lies `bytes` behind the beginning of the stage of x. It is the same in
     * all lanes, and by the shuffle the compiler knows it, so that it is in uniform registers. */
    __device__ __forceinline__ uint64_t x_of(int32_t bytes) const {
        return wgmma_descriptor(__shfl_sync(~0u, r.x(a) + bytes, 0), 0);
    }

    /* The product of decoded weights with chunk c of a stage of x, whose descriptor is `x`. */
    template <int BLOCKS>
    __device__ __forceinline__ void start(float (&d)[BLOCKS][4], const uint32_t (&w)[16],
                                          uint64_t x, int32_t c, bool add) const {
        wgmma_fence();
#pragma unroll
        for (int32_t j = 0; j < 4; j++)
            wgmma<BLOCKS>(d, w + 4 * j, wgmma_behind(x, c * (BLOCKS * 1024), j), add || j);
        wgmma_commit();
    }

    template <int BLOCKS>
    __device__ __forceinline__ void multiply(float (&sums)[BLOCKS][4], const uint32_t (&w)[16],
                                             uint32_t stage, int32_t c, float2 scale) const {
        float upper = 0, lower = 0;
        if (SCALED) {
            upper = __shfl_sync(~0u, scale.x, (lane & ~3) | c);
            lower = __shfl_sync(~0u, scale.y, (lane & ~3) | c);
        }
        uint32_t row = lane % 8, vector = lane / 8;
        uint32_t from = stage + c * (BLOCKS * 1024) + row * 128;
#pragma unroll
        for (int32_t i = 0; i < BLOCKS; i++) {
            float part[4] = {0, 0, 0, 0};
            uint32_t b[4];
#pragma unroll
            for (int32_t half = 0; half < 2; half++) {
                load_matrices<false>(b, from + 1024 * i + ((vector + 4 * half) ^ row) * 16);
                const uint32_t *v = w + 8 * half;
                mma(SCALED ? part : sums[i], v[0], v[1], v[2], v[3], b[0], b[1]);
                mma(SCALED ? part : sums[i], v[4], v[5], v[6], v[7], b[2], b[3]);
            }
            if (SCALED) {
                sums[i][0] += upper * part[0], sums[i][1] += upper * part[1];
                sums[i][2] += lower * part[2], sums[i][3] += lower * part[3];
            }
        }
    }

    __device__ __forceinline__ void release_stage() {
        __syncwarp();
        if (lane == 0)
            barrier_arrive(r.empty(a));
        r.next();
    }

    __device__ __forceinline__ void wait_stage() const {
        barrier_wait(r.full(a), r.parity);
        if (T::WGMMA)
            fence_async();
    }

    template <int BLOCKS>
    __device__ __forceinline__ void add_scaled(float (&sums)[BLOCKS][4],
                                               const float (&part)[BLOCKS][4], float upper,
                                               float lower) const {
#pragma unroll
        for (int32_t i = 0; i < BLOCKS; i++) {
            sums[i][0] += upper * part[i][0], sums[i][1] += upper * part[i][1];
            sums[i][2] += lower * part[i][2], sums[i][3] += lower * part[i][3];
        }
    }

    __device__ __forceinline__ float nested_value(uint32_t code) const {
        return T::ROW_BITS == 8 ? __uint_as_float(look_up((code << 8 | 4 * lane) + 128))
                                : load_f32(r.base + (256 << T::ROW_BITS) + 4 * code);
    }

    /* Steps of the tile to its end or that of the block's part. */
    __device__ __forceinline__ int32_t steps_from(const struct cursor &at) const {
        return min(at.left, a.k_steps - at.u * a.pieces - at.p);
    }

    /* A lane's scales from the step on with which `count` of the tile are left, whose weights are
     * there; the rest as lane_scales::open has it. */
    __device__ __forceinline__ struct lane_scales open_scales(int32_t count, int32_t place_in,
                                                              int32_t within, bool swap) const {
        struct cursor at = place();
        struct lane_scales s;
        s.open(a, r.w(a), T::WARPS, place_in, at.m * T::WARPS + place_in,
               at.u * a.g.w.shape.unit_chunks, PIECE * (at.p + steps_from(at) - count) + within,
               within, swap);
        return s;
    }

    /* `count` steps of PIECE chunks each, of scaled weights, by mma.sync: warp w multiplies chunk w
     * % 4 of the four tiles from w - w % 4 on, so that B is read once for four tiles, and in the
     * end four warps add what they have. */
    template <int BLOCKS>
    __device__ __forceinline__ void few_steps(float (&sums)[BLOCKS][4], int32_t count) {
        float all[4][BLOCKS][4];
#pragma unroll
        for (int32_t i = 0; i < 4 * BLOCKS; i++)
            all[i / BLOCKS][i % BLOCKS][0] = all[i / BLOCKS][i % BLOCKS][1] =
                all[i / BLOCKS][i % BLOCKS][2] = all[i / BLOCKS][i % BLOCKS][3] = 0;
        while (count > 0) {
            barrier_wait(r.full(a), r.parity);
            struct lane_scales s =
                open_scales(count, warp - warp % 4 + lane % 4, warp % 4, lane % 4 >= 2);
            int32_t n = min(count, s.steps);
            if (a.form == NESTED)
                few_steps_alike<true>(all, s, n);
            else
                few_steps_alike<false>(all, s, n);
            count -= n;
        }
        exchange(sums, all);
    }

    template <bool NESTED, int BLOCKS>
    __device__ __forceinline__ void few_steps_alike(float (&all)[4][BLOCKS][4],
                                                    const struct lane_scales &s, int32_t count) {
        uint32_t row = lane % 8, x_place = row * 128 + ((lane / 8) ^ row) * 16;
        struct ring<T> zero = {
            r.base, 0, 0
        };
        uint32_t full = zero.full(a), weights = zero.w(a), weights_bytes = T::WARPS * a.slot_bytes,
                 tokens = zero.x(a) + warp % 4 * (BLOCKS * 1024) + x_place,
                 own_codes = (warp & ~3) * CODE_BYTES + warp % 4 * 512 + 16 * lane;
        keep(full), keep(weights), keep(tokens), keep(own_codes), keep(weights_bytes);
#pragma unroll 1
        for (; count > 0; count--) {
            uint32_t barrier = full + 8 * r.stage, stage = weights + r.stage * weights_bytes,
                     x = tokens + r.stage * a.x_bytes, codes[4], b[BLOCKS][2][4];
            barrier_wait(barrier, r.parity);
            r.next();
            load_128(codes, stage + own_codes);
#pragma unroll
            for (int32_t i = 0; i < BLOCKS; i++) {
                load_matrices<false>(b[i][0], x + 1024 * i);
                load_matrices<false>(b[i][1], (x ^ 64) + 1024 * i);
            }
            float2 scale = s.at<NESTED>(stage, [&](uint32_t code) { return nested_value(code); });
#pragma unroll
            for (int32_t t = 0; t < 4; t++) {
                uint32_t w[16];
                look_up_all(w, codes);
                if (t < 3)
                    load_128(codes, stage + own_codes + (t + 1) * CODE_BYTES);
                float upper = __shfl_sync(~0u, t < 2 ? scale.x : scale.y, t, 4),
                      lower = __shfl_sync(~0u, t < 2 ? scale.y : scale.x, t, 4);
#pragma unroll
                for (int32_t i = 0; i < BLOCKS; i++) {
                    float d[4] = {0, 0, 0, 0};
#pragma unroll
                    for (int32_t j = 0; j < 4; j++)
                        mma(d, w[4 * j], w[4 * j + 1], w[4 * j + 2], w[4 * j + 3],
                            b[i][j / 2][j % 2 * 2], b[i][j / 2][j % 2 * 2 + 1]);
                    all[t][i][0] += upper * d[0], all[t][i][1] += upper * d[1];
                    all[t][i][2] += lower * d[2], all[t][i][3] += lower * d[3];
                }
            }
            __syncwarp();
            if (lane == 0)
                barrier_arrive(barrier + 8 * T::STAGES);
        }
    }

    /* x and y change places where `swap`. */
    template <int BLOCKS>
    static __device__ __forceinline__ void exchange_if(bool swap, float (&x)[BLOCKS][4],
                                                       float (&y)[BLOCKS][4]) {
#pragma unroll
        for (int32_t i = 0; i < 4 * BLOCKS; i++) {
            float &to = x[i / 4][i % 4], &from = y[i / 4][i % 4], old = to;
            to = swap ? from : to, from = swap ? old : from;
        }
    }

    /* What four warps have of four tiles each: the sums of tile p to the p-th of them, which adds
     * what it has and what p ^ 1, p ^ 2 and p ^ 3 have, in this order. */
    template <int BLOCKS>
    __device__ __forceinline__ void exchange(float (&sums)[BLOCKS][4], float (&all)[4][BLOCKS][4]) {
        uint32_t from = r.exchange(a) + 16 * lane, to = from + 512 * warp;
        __syncwarp();
        exchange_if(warp & 1, all[0], all[1]), exchange_if(warp & 1, all[2], all[3]);
        exchange_if(warp & 2, all[0], all[2]), exchange_if(warp & 2, all[1], all[3]);
#pragma unroll
        for (int32_t i = 0; i < BLOCKS; i++) {
            sums[i][0] = all[0][i][0], sums[i][1] = all[0][i][1];
            sums[i][2] = all[0][i][2], sums[i][3] = all[0][i][3];
#pragma unroll
            for (int32_t other = 1; other < 4; other++) {
                float v[4];
                threads_meet(1 + warp / 4, 128); /* what was there has been read */
                store_f32x4(to, all[other][i]);
                threads_meet(1 + warp / 4, 128);
                load_f32x4(v, from + 512 * (warp ^ other));
                sums[i][0] += v[0], sums[i][1] += v[1], sums[i][2] += v[2], sums[i][3] += v[3];
            }
        }
    }

    /* `count` steps, chunks one after the other. */
    template <int BLOCKS>
    __device__ __forceinline__ void any_steps(float (&sums)[BLOCKS][4], struct cursor at,
                                              int32_t count) {
        struct nested_rows rows = {0, 0};
        if (a.form == NESTED)
            rows = nested_rows_of(a, at.m * T::WARPS + warp);
        for (; count > 0; count--) {
            wait_stage();
            struct piece from = piece_at(a, r.w(a), T::WARPS, warp);
            float2 scale = SCALED ? scales(from, rows, at.u, at.p) : make_float2(0, 0);
            int32_t n = at.chunks(a);
#pragma unroll 1
            for (int32_t c = 0; c < n; c++) {
                uint32_t w[16];
                decode(w, from, c);
                if constexpr (!T::WGMMA) {
                    multiply(sums, w, r.x(a), c, scale);
                } else if constexpr (SCALED) {
                    float part[BLOCKS][4];
                    start(part, w, x_of(c * (BLOCKS * 1024)), 0, false);
                    wgmma_wait<0>();
                    add_scaled(sums, part, __shfl_sync(~0u, scale.x, (lane & ~3) | c),
                               __shfl_sync(~0u, scale.y, (lane & ~3) | c));
                } else {
                    start(sums, w, x_of(c * (BLOCKS * 1024)), 0, true);
                    wgmma_wait<0>();
                }
            }
            release_stage();
            at.step(a);
        }
    }

    /* `count` steps of PIECE chunks each, of scaled weights, by wgmma: warp w has tile w, and decodes
     * a chunk while the one before is multiplied. */
    template <bool NESTED, int BLOCKS>
    __device__ __forceinline__ void many_steps_alike(float (&sums)[BLOCKS][4],
                                                     const struct lane_scales &s, int32_t count) {
        struct ring<T> zero = {
            r.base, 0, 0
        };
        uint32_t full = zero.full(a), weights = zero.w(a), weights_bytes = T::WARPS * a.slot_bytes,
                 own_codes = warp * CODE_BYTES + 16 * lane;
        keep(full), keep(weights), keep(own_codes), keep(weights_bytes);
#pragma unroll 1
        for (; count > 0; count--) {
            uint32_t barrier = full + 8 * r.stage, stage = weights + r.stage * weights_bytes;
            uint64_t x = x_of(0);
            uint32_t codes[4];
            wait_stage();
            r.next();
            load_128(codes, stage + own_codes);
            float2 scale = s.at<NESTED>(stage, [&](uint32_t code) { return nested_value(code); });
            uint32_t w[2][16];
            look_up_all(w[0], codes);
#pragma unroll
            for (int32_t c = 0; c < PIECE; c++) {
                float part[BLOCKS][4];
                if (c + 1 < PIECE)
                    load_128(codes, stage + own_codes + 512 * (c + 1));
                start(part, w[c % 2], x, c, false);
                if (c + 1 < PIECE)
                    look_up_all(w[(c + 1) % 2], codes);
                float upper = __shfl_sync(~0u, scale.x, c, 4),
                      lower = __shfl_sync(~0u, scale.y, c, 4);
                wgmma_wait<0>();
                add_scaled(sums, part, upper, lower);
            }
            __syncwarp();
            if (lane == 0)
                barrier_arrive(barrier + 8 * T::STAGES);
        }
    }

    template <int BLOCKS>
    __device__ __forceinline__ void many_steps(float (&sums)[BLOCKS][4], int32_t count) {
        while (count > 0) {
            wait_stage();
            struct lane_scales s = open_scales(count, warp, lane % 4, false);
            int32_t n = min(count, s.steps);
            if (a.form == NESTED)
                many_steps_alike<true>(sums, s, n);
            else
                many_steps_alike<false>(sums, s, n);
            count -= n;
        }
    }

    /* Steps of a tile, up to its end or that of the block's part, and what is to become of the
     * sums.
     */
    template <int BLOCKS> __device__ __forceinline__ void tile() {
        float sums[BLOCKS][4];
#pragma unroll
        for (int32_t i = 0; i < BLOCKS; i++)
            sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0;
        struct cursor at = place();
        int32_t count = steps_from(at);
        if constexpr (T::WGMMA && SCALED) {
            if (!a.whole)
                any_steps(sums, at, count);
            else if constexpr (BLOCKS <= FEW_BLOCKS)
                few_steps(sums, count);
            else
                many_steps(sums, count);
        } else {
            any_steps(sums, at, count);
        }
        at = place();
        at.skip(a, steps_from(at));
        int32_t tile = at.m * T::WARPS + warp;
        if (tile < a.g.w.shape.n_tiles)
            leave(sums, at, tile);
        if (at.is_end(a))
            at.next_tile(a, l);
        put(at);
    }

    /* Sums of a warp's tile: to the block that has the tile's first step, or, in that block, all
     * together. */
    template <int BLOCKS>
    __device__ __forceinline__ void leave(float (&sums)[BLOCKS][4], const struct cursor &at,
                                          int32_t tile) {
        const struct group &s = l.groups[at.e];
        int64_t first = (int64_t)(at.m * s.tiles + at.n) * a.k_steps; /* of the tile */
        constexpr int SUMS = STREAM_BLOCKS * 32;                      /* float4 of a warp */
        size_t slot_of = (size_t)blockIdx.x * T::WARPS + warp;
        if (a.part_stride) {
            int32_t part = (int32_t)blockIdx.x - (int32_t)first / a.block_steps;
            finish(a, s, at.n * 8 * s.blocks, tile, sums, part);
            return;
        }
        if (l.first > l.steps[at.e] + first) {
            float4 *to = (float4 *)a.partial + slot_of * SUMS + lane;
#pragma unroll
            for (int32_t i = 0; i < BLOCKS; i++)
                __stcg(to + 32 * i, make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]));
            __syncwarp();
            if (lane == 0)
                store_flag(a.flags + slot_of);
            return;
        }
        int32_t others = 0; /* blocks that have a part of the tile */
        if (!at.is_end(a)) {
            int32_t last = (int32_t)first + a.k_steps - 1;
            others = a.block_steps ? last / a.block_steps : l.block_of(at.e, last);
            others -= (int32_t)blockIdx.x;
        }
        for (int32_t b = 1 + lane; b <= others; b += 32) {
            int32_t *flag = a.flags + (blockIdx.x + b) * T::WARPS + warp;
            while (!load_flag(flag))
                ;
            *flag = 0;
        }
        __syncwarp();
        const float4 *part = (const float4 *)a.partial + slot_of * SUMS + lane;
        for (; others > 0; others--) {
            part += T::WARPS * SUMS;
#pragma unroll
            for (int32_t i = 0; i < BLOCKS; i++) {
                float4 v = __ldcg(part + 32 * i);
                sums[i][0] += v.x, sums[i][1] += v.y, sums[i][2] += v.z, sums[i][3] += v.w;
            }
        }
        finish(a, s, at.n * 8 * s.blocks, tile, sums);
    }

    __device__ __forceinline__ void run() {
        while (place().left > 0) {
            switch (l.groups[place().e].blocks) {
            case 1:
                tile<1>();
                break;
            case 2:
                tile<2>();
                break;
            case 3:
                tile<3>();
                break;
            default:
                tile<4>();
                break;
            }
        }
    }
};

/* What a tile needs of x, up to its end or that of the block's part, and, by a warp that fetches all,
 * of weights. Lane t copies vectors of 8 columns of x: vector t % 8 of a chunk, of rows t / 8 + 4 i;
 * where two warps fetch x, the second has the odd i. Rows beyond the group are its last one again;
 * what they give is not stored. `early`: stages that are free, and have their weights already. */
template <class T, int BLOCKS>
__device__ __forceinline__ void fetch_tile(const args &a, const line &l, ring<T> &r,
                                           struct cursor &at, int32_t &early, uint64_t policy) {
    constexpr int WARPS = x_warps<T>, ROWS = 2 * BLOCKS / WARPS;
    static_assert(WARPS == 1 || WARPS == 2, "a lane's rows are alike in what they swap");
    const struct group &s = l.groups[at.e];
    int32_t lane = threadIdx.x % 32, vector = lane % 8,
            first = T::X_WARPS ? threadIdx.x / 32 - T::WARPS - 1 : 0;
    const uint4 *row[ROWS];
#pragma unroll
    for (int32_t i = 0; i < ROWS; i++) {
        int32_t at_row =
            s.begin + min(8 * BLOCKS * at.n + lane / 8 + 4 * (first + WARPS * i), s.n - 1);
        if (a.g.choice)
            at_row = (int32_t)load_32(r.base + T::SHARED - choices::bytes(a.g.n_groups) +
                                      4 * (NB_CUDA_GEMM_CHOICES + at_row));
        else if (a.g.gather)
            at_row = __ldcg(a.g.gather + at_row);
        row[i] = (const uint4 *)a.g.x + (size_t)at_row * a.x_vectors + vector;
    }
    uint32_t even = lane / 8 * 128 + (vector ^ lane / 8 ^ 4 * first) * 16 + 512 * first,
             odd = WARPS == 1 ? even ^ 64 : even;
    for (bool end = false; !end && at.left > 0; end = at.step(a)) {
        if (early > 0) {
            early--;
        } else {
            barrier_wait(r.empty(a), r.parity ^ 1);
            if (T::X_WARPS == 0)
                fetch_weights(a, at.e, at.m * T::WARPS, T::WARPS, at.u, at.p, r.w(a), r.full(a),
                              policy);
        }
        int32_t n = at.chunks(a), c0 = at.u * a.g.w.shape.unit_chunks + a.piece * at.p;
        uint32_t to = r.x(a);
#pragma unroll
        for (int32_t c = 0; c < PIECE; c++) {
            if (c < n) {
#pragma unroll
                for (int32_t i = 0; i < ROWS; i++)
                    copy_16(to + (i % 2 ? odd : even) + c * BLOCKS * 1024 + 512 * WARPS * i,
                            row[i] + 8 * c0 + 8 * c);
            }
        }
        barrier_arrive_copied(r.full(a));
        r.next();
    }
    if (at.is_end(a))
        at.next_tile(a, l);
}

/* Weights of the first stages of one group's product, before anything else is ready but barriers.
 * By the warp that fetches. */
template <class T>
__device__ __forceinline__ void fetch_ahead(const args &a, struct ring<T> stage) {
    uint64_t policy = cache_policy(a.g.n <= a.n_max);
    int32_t first = blockIdx.x * a.block_steps, tiles = div_up(a.g.n, a.n_max);
    int32_t left = min(a.block_steps, a.m_blocks * tiles * a.k_steps - first);
    for (int32_t i = 0; i < T::STAGES && i < left; i++) {
        struct cursor at;
        at.place(a, first + i, tiles);
        fetch_weights(a, 0, at.m * T::WARPS, T::WARPS, at.u, at.p, stage.w(a), stage.full(a),
                      policy);
        stage.next();
    }
}

/* A warp that fetches: the first weights, those of the first stages before the kernel before is done,
 * the others x; or the only one both. */
template <class T>
__device__ __forceinline__ void fetch(const args &a, const line &l, struct ring<T> r,
                                      struct cursor at) {
    int32_t early = min(at.left, (int32_t)T::STAGES);
    if (threadIdx.x / 32 == T::WARPS) {
        uint64_t policy = cache_policy(a.g.n_groups > 1 || a.g.n <= a.n_max);
        struct cursor first = at;
        struct ring<T> stage = r;
        int32_t had = a.block_steps ? early : 0; /* by fetch_ahead */
        for (int32_t i = 0; first.left > 0 && (T::X_WARPS || i < early); i++) {
            if (i >= early)
                barrier_wait(stage.empty(a), stage.parity ^ 1);
            if (i >= had)
                fetch_weights(a, first.e, first.m * T::WARPS, T::WARPS, first.u, first.p,
                              stage.w(a), stage.full(a), policy);
            if (first.step(a))
                first.next_tile(a, l);
            stage.next();
        }
        if (T::X_WARPS)
            return;
    }
    uint64_t policy = T::X_WARPS ? 0 : cache_policy(a.g.n_groups > 1 || a.g.n <= a.n_max);
    wait_for_kernel_before();
    while (at.left > 0) {
        switch (l.groups[at.e].blocks) {
        case 1:
            fetch_tile<T, 1>(a, l, r, at, early, policy);
            break;
        case 2:
            fetch_tile<T, 2>(a, l, r, at, early, policy);
            break;
        case 3:
            fetch_tile<T, 3>(a, l, r, at, early, policy);
            break;
        default:
            fetch_tile<T, 4>(a, l, r, at, early, policy);
            break;
        }
    }
    copy_wait_all();
}

template <class T, bool SCALED>
__global__ void __launch_bounds__(T::THREADS, 1)
    stream_kernel(const __grid_constant__ args a) {
#if defined(__CUDA_ARCH__)
    if constexpr (T::WGMMA && !NB_WGMMA)
        return;
    NB_DYNAMIC_SHARED(1024, uint8_t, shared);
    constexpr int ROW = 1 << T::ROW_BITS;
    uint8_t *barriers = shared + stream_ring_at<T> +
                        T::STAGES * (a.x_bytes + T::WARPS * a.slot_bytes) + T::EXCHANGE;
    int64_t *cost = (int64_t *)(barriers + 16 * T::STAGES), *steps = cost + a.g.n_groups + 1;
    struct group *groups = (struct group *)(steps + a.g.n_groups + 1);
    struct line &l = *(struct line *)(shared + stream_table_bytes<T>);
    int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    uint32_t full = address_of(barriers), empty = full + 8 * T::STAGES;

    if (T::TABLE_AT && address_of(shared) != T::TABLE_AT)
        __trap();
    bool waits = (a.g.begin || a.g.choice) && !a.g.settled; /* for its groups */
    if (!waits)
        start_kernel_after();
    struct ring<T> r = {
        address_of(shared), 0, 0
    };
    if (warp == T::WARPS) {
        if (lane == 0) {
            prefetch_maps(a);
            for (int32_t i = 0; i < T::STAGES; i++) {
                barrier_init(full + 8 * i, 32 * x_warps<T> + NB_BULK);
                barrier_init(empty + 8 * i, T::WARPS);
            }
            barriers_ready();
            fence_async();
        }
        __syncwarp();
        if (a.block_steps)
            fetch_ahead<T>(a, r);
    }
    float value = a.values[lane % 16], nested[8];
#pragma unroll
    for (int32_t i = 0; i < 8; i++)
        nested[i] = a.nested_values[32 * i + lane];
#pragma unroll
    for (int32_t i = 0; i < 8; i++) {
        for (int32_t k = warp; k < 32; k += T::THREADS / 32) {
            uint32_t *row = (uint32_t *)(shared + ROW * (32 * i + k));
            row[lane] =
                pack_bf16(__shfl_sync(~0u, value, 2 * i + k / 16), __shfl_sync(~0u, value, k % 16));
            if (ROW == 256)
                row[32 + lane] = __float_as_uint(__shfl_sync(~0u, nested[i], k));
        }
        if (ROW != 256 && warp == 0)
            ((float *)(shared + 256 * ROW))[32 * i + lane] = nested[i];
    }
    if (waits) {
        wait_for_kernel_before();
        start_kernel_after(); /* which may read them at once: gemm.h's `settled` */
    }
    struct choices *sorted = (struct choices *)(shared + T::SHARED - choices::bytes(a.g.n_groups));
    if (a.g.choice)
        sorted->sort(a.g);
    if (warp == 0) {
        int32_t tile_steps = a.m_blocks * a.k_steps, own = a.block_steps;
        int32_t n = make_groups(
            a, a.g.choice ? sorted->begin() : nullptr, 1, groups, steps, cost,
            [&](const struct group &s) { return (int64_t)s.tiles * tile_steps; },
            [](const struct group &s) { return step_cost(s.blocks); });
        __syncwarp();
        if (lane == 0 && own) {
            int64_t all = steps[1];
            l = {groups, cost, steps, 1, div_up((int32_t)all, own), all, blockIdx.x * own};
        } else if (lane == 0) { /* no more blocks than have a step each */
            int64_t all = cost[a.g.n_groups], blocks = n ? all / step_cost(n) : 0;
            l = {groups,
                 cost,
                 steps,
                 a.g.n_groups,
                 (int32_t)(blocks < gridDim.x ? blocks : gridDim.x),
                 all,
                 0};
            int32_t e;
            if (blockIdx.x < l.blocks)
                l.first = l.step_at(l.begin_of(blockIdx.x), &e);
        }
    }
    __syncthreads();

    struct cursor at;
    if (warp >= T::WARPS) {
        if constexpr (T::WGMMA && SCALED)
            give_registers<T::FETCH_REGISTERS>();
        if (warp > T::WARPS + T::X_WARPS)
            return;
        at.open(a, l, blockIdx.x);
        fetch<T>(a, l, r, at);
        return;
    }
    if constexpr (T::WGMMA && SCALED)
        take_registers<T::MULTIPLY_REGISTERS>();
    at.open(a, l, blockIdx.x);
    wait_for_kernel_before(); /* it may use the memory of y and of partial sums */
    worker<T, SCALED> worker = {a, l, r, warp, lane, {}};
    worker.put(at);
    worker.run();
#endif
}

} // namespace

#endif
