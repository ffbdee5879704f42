/* What the kernels of gemm.cu share: the walk over tiles, a warp's stream of
 * weights, decoding, and what becomes of the sums.
 */
#ifndef NB_BACKEND_CUDA_GEMM_PARTS_CUH
#define NB_BACKEND_CUDA_GEMM_PARTS_CUH

#include "backend/cuda/gemm.h"
#include "backend/cuda/ptx.cuh"

#include <cuda.h>

#include <stdint.h>

namespace {

enum {
    PIECE = 4,         /* chunks of a tile that are fetched at once; 1 of bf16 */
    CODE_BYTES = 2048, /* what a piece's codes or weights take */
    MAX_GROUPS = 1024,
};

/* How the scales of a matrix are held; HALVES: ABSMAX with two a chunk. */
enum form { NESTED, ABSMAX, HALVES, FLOATS };

struct args {
    struct nb_cuda_gemm g;
    enum form form;
    const float *values, *nested_values; /* [16], [256] */
    float *partial;                      /* sums of parts of tiles: stream.cuh */
    int32_t *flags;
    int32_t m_blocks;            /* tiles of the grid's kind, from top to bottom */
    int32_t n_max;               /* most tokens of a tile */
    int32_t x_chunks, x_vectors; /* of a row of x: chunks of 64, vectors of 8 */
    int32_t piece;               /* chunks of a step */
    int32_t pieces;              /* of a unit */
    int32_t k_steps;             /* of a tile */
    int32_t chunk_bytes, scale_stride, header_bytes; /* of a chunk; of a unit's head */
    int32_t slot_bytes;                              /* a tile's piece in a stage */
    int32_t block_shift;                             /* log2 of block_chunks */
    bool whole;                                      /* all steps have PIECE chunks */
    int32_t x_bytes;                                 /* of x in a stage */
    int32_t block_steps; /* of one group, in stream.cuh: the steps of a block */
    size_t part_stride;  /* 0, or parts of sums stay parts, so many floats apart: nb_cuda_parts */
    /* The matrices as [groups][n_tiles][n_units][unit_bytes / 8] words of 64 bits, in boxes of what
     * a stage holds (from compute capability 9.0 on). */
    CUtensorMap codes, scales, header;
    CUtensorMap tokens; /* x as [rows][columns] (wide.cuh) */
};

__host__ __device__ constexpr int div_up(int a, int b) {
    return (a + b - 1) / b;
}

__device__ __forceinline__ float load_f32(uint32_t address) {
    return __uint_as_float(load_32(address));
}

/* ---- groups: how the rows of each are cut into tiles ---- */

struct group {
    int32_t begin, n; /* rows of y */
    int32_t tiles;    /* cuts of these, from left to right */
    int32_t blocks;   /* of 8 rows in each */
};

/* By the threads of a warp: groups [n_groups] and before[e] = tiles(group) summed over the groups
 * before e, [n_groups + 1]; cost[e] likewise, of `weight(group)` for each of these, unless it is
 * NULL. `begin`: where groups begin, in shared memory, if not where args say. `step`: the multiple
 * that blocks is of. Returns the most blocks of a tile. */
template <class F, class G>
__device__ __forceinline__ int32_t make_groups(const args &a, const int32_t *begin, int32_t step,
                                               struct group *groups, int64_t *before, int64_t *cost,
                                               F tiles, G weight) {
    int32_t lane = threadIdx.x % 32, most = 0;
    int64_t before_now = 0, cost_now = 0;
    for (int32_t first = 0; first < a.g.n_groups; first += 32) {
        int32_t e = first + lane;
        struct group s = {0, 0, 0, 0};
        if (e < a.g.n_groups) {
            int32_t end = a.g.n;
            if (begin)
                s.begin = begin[e], end = begin[e + 1];
            else if (a.g.begin)
                s.begin = __ldcg(a.g.begin + e), end = __ldcg(a.g.begin + e + 1);
            s.n = end - s.begin;
            s.tiles = div_up(s.n, a.n_max);
            s.blocks = s.tiles ? div_up(div_up(s.n, s.tiles), 8 * step) * step : 0;
            groups[e] = s;
        }
        int64_t n = s.tiles ? tiles(s) : 0, c = s.tiles ? n * weight(s) : 0;
        for (int32_t d = 1; d < 32; d *= 2) {
            int64_t other = __shfl_up_sync(~0u, n, d), other_cost = __shfl_up_sync(~0u, c, d);
            n += lane >= d ? other : 0, c += lane >= d ? other_cost : 0;
        }
        if (e < a.g.n_groups) {
            before[e + 1] = before_now + n;
            if (cost)
                cost[e + 1] = cost_now + c;
        }
        before_now += __shfl_sync(~0u, n, 31), cost_now += __shfl_sync(~0u, c, 31);
        most = max(most, s.blocks);
    }
    if (lane == 0) {
        before[0] = 0;
        if (cost)
            cost[0] = 0;
    }
    for (int32_t d = 16; d; d /= 2)
        most = max(most, __shfl_xor_sync(~0u, most, d));
    return most;
}

/* The largest e in [0, n] with total[e] <= at. */
__device__ __forceinline__ int32_t find_group(const int64_t *total, int32_t n, int64_t at) {
    int32_t low = 0, high = n;
    while (low < high) {
        int32_t middle = (low + high + 1) / 2;
        if (total[middle] <= at)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* ---- fetching weights ---- */

/* Where a warp finds its piece in a stage of `tiles` tiles at shared address `stage`: the codes (or
 * bf16 weights) of all tiles come first, then the scales of their chunks, then, of NESTED, what is
 * at the head of their units: nested absmax and means. */
struct piece {
    uint32_t codes, scales, header;
};

__device__ __forceinline__ struct piece piece_at(const args &a, uint32_t stage, int32_t tiles,
                                                 int32_t tile) {
    uint32_t scales = stage + tiles * CODE_BYTES, scale_bytes = a.piece * a.scale_stride;
    return {stage + tile * CODE_BYTES, scales + tile * scale_bytes,
            scales + tiles * scale_bytes + tile * a.header_bytes};
}

/* The maps of weights on their way to where copies look for them, while tables are made. */
__device__ __forceinline__ void prefetch_maps(const args &a) {
#if NB_BULK
    prefetch_map(a.codes);
    if (a.scale_stride)
        prefetch_map(a.scales);
    if (a.header_bytes)
        prefetch_map(a.header);
#else
    (void)a;
#endif
}

/* Piece p of unit u of tiles [tile, tile + tiles) of matrix e into a stage; what is beyond the
 * matrix holds anything. By a warp: with tensor maps one thread issues three copies, with one
 * arrival at `barrier` and as many bytes as come; otherwise all lanes copy, and owe it their
 * barrier_arrive_copied. */
__device__ __forceinline__ void fetch_weights(const args &a, int32_t e, int32_t tile, int32_t tiles,
                                              int32_t u, int32_t p, uint32_t stage,
                                              uint32_t barrier, uint64_t policy) {
    const struct nb_cuda_shape &s = a.g.w.shape;
    int32_t first = p * a.piece;
    int32_t codes = s.code_bytes + first * a.chunk_bytes,
            scales = s.scale_bytes + first * a.scale_stride; /* offsets in a unit */
#if NB_BULK
    struct piece to = piece_at(a, stage, tiles, 0);
    /* All lanes have seen that the stage is free: one that looks later might find it used and freed
     * once more, and wait for ever. */
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
        barrier_expect(barrier, tiles * a.slot_bytes);
        copy_box(to.codes, a.codes, codes / 8, u, tile, e, barrier, policy);
        if (a.scale_stride)
            copy_box(to.scales, a.scales, scales / 8, u, tile, e, barrier, policy);
        if (a.header_bytes)
            copy_box(to.header, a.header, 0, u, tile, e, barrier, policy);
    }
    __syncwarp();
#else
    (void)barrier, (void)policy;
    int32_t lane = threadIdx.x % 32, n = min(a.piece, s.unit_chunks - first);
    for (int32_t i = 0; i < tiles && tile + i < s.n_tiles; i++) {
        const uint8_t *unit =
            a.g.w.data + (size_t)e * s.bytes + ((size_t)(tile + i) * s.n_units + u) * s.unit_bytes;
        struct piece to = piece_at(a, stage, tiles, i);
        for (int32_t k = 16 * lane; k < n * a.chunk_bytes; k += 512)
            copy_16(to.codes + k, unit + codes + k);
        for (int32_t k = 16 * lane; k < n * a.scale_stride; k += 512)
            copy_16(to.scales + k, unit + scales + k);
        for (int32_t k = 16 * lane; k < a.header_bytes; k += 512)
            copy_16(to.header + k, unit + k);
    }
#endif
}

/* ---- scales and codes ---- */

/* The first rows (of the matrix, or of gate and up alone) that the upper and lower half of a tile
 * are. */
__device__ __forceinline__ int2 rows_of(const struct nb_cuda_gemm &g, int32_t tile) {
    if (g.epilogue == NB_CUDA_SILU)
        return make_int2(8 * tile, 8 * tile);
    if (16 * tile < g.rotary_rows) {
        int32_t tiles = g.head_rows / 16, head = tile / tiles;
        int32_t row = head * g.head_rows + tile % tiles * 8;
        return make_int2(row, row + g.head_rows / 2);
    }
    return make_int2(16 * tile, 16 * tile + 8);
}

/* Where a lane finds its nested values; the rest of NB_CUDA_SLOT is in scales_of. */
struct nested_rows {
    int32_t upper, lower; /* first rows of the tile's halves times row_blocks */
};

__device__ __forceinline__ struct nested_rows nested_rows_of(const args &a, int32_t tile) {
    int2 rows = rows_of(a.g, tile);
    return {rows.x * a.g.w.shape.row_blocks, rows.y * a.g.w.shape.row_blocks};
}

/* Scales of rows g and g + 8 in chunk q = lane % 4 of piece p of unit u, which is at `at`; of
 * NESTED and ABSMAX. `nested_value(code)`: what a code of an absmax stands for. */
template <class F>
__device__ __forceinline__ float2 scales_of(const args &a, struct nested_rows rows, struct piece at,
                                            int32_t u, int32_t p, F nested_value) {
    int32_t lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    if (a.form == ABSMAX) {
        uint32_t scales = at.scales + 4 * (16 * q + g);
        return make_float2(load_f32(scales), load_f32(scales + 32));
    }
    const struct nb_cuda_shape &s = a.g.w.shape;
    uint32_t code = at.scales + 16 * q + g;
    int32_t c0 = u * s.unit_chunks, first = c0 >> a.block_shift,
            here = ((c0 + PIECE * p + q) >> a.block_shift) + g * s.row_blocks;
    int32_t upper = ((rows.upper + here) >> 8) - ((rows.upper + first) >> 8),
            lower = ((rows.lower + here) >> 8) - ((rows.lower + first) >> 8);
    /* Chunks of padding have no value of their own, and need none. */
    upper = min(upper, s.n_nested - 1), lower = min(lower, s.n_nested - 1) + s.n_nested;
    float x = __fmul_rn(nested_value(load_8(code)), load_f32(at.header + 4 * upper)),
          y = __fmul_rn(nested_value(load_8(code + 8)), load_f32(at.header + 4 * lower));
    return make_float2(__fadd_rn(x, load_f32(at.header + 8 * s.n_nested)),
                       __fadd_rn(y, load_f32(at.header + 8 * s.n_nested + 4)));
}

/* Byte b of w in bits 8 to 15, byte 0 of `low` below it. */
template <int B> __device__ __forceinline__ uint32_t index_of(uint32_t w, uint32_t low) {
    return __byte_perm(w, low, 0x5504 | B << 4);
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(uint32_t *)&pair;
}

/* ---- sums ---- */

__device__ __forceinline__ float silu(float x) {
    return x / (1.0f + __expf(-x));
}

/* Where column c of x is: its chunk's part permuted (NB_CUDA_K_OF). */
__device__ __forceinline__ int32_t place_in_x(int32_t c) {
    return (c & ~63) + 16 * (c / 4 % 4) + 8 * (c / 2 % 2) + 2 * (c / 16 % 4) + c % 2;
}

/* Two neighbours in memory from what lanes g and g + 1 have for tokens 0 and 1 of a pair: the lane
 * whose g is even gets both of token 0, the other both of token 1. */
__device__ __forceinline__ float2 exchange(float token_0, float token_1) {
    bool odd = threadIdx.x & 4;
    float other = __shfl_xor_sync(~0u, odd ? token_0 : token_1, 4);
    return odd ? make_float2(other, token_1) : make_float2(token_0, other);
}

__device__ __forceinline__ void store_pair(__nv_bfloat16 *to, float2 pair, bool both) {
    if (both && ((uintptr_t)to & 3) == 0) {
        *(__nv_bfloat162 *)to = __floats2bfloat162_rn(pair.x, pair.y);
        return;
    }
    to[0] = __float2bfloat16_rn(pair.x);
    if (both)
        to[1] = __float2bfloat16_rn(pair.y);
}

/* The sums of a tile's 16 rows for tokens [first, first + 8 BLOCKS) of a group; d as wgmma and mma
 * leave them. `part` (of f32 alone): which part of them. By all lanes of a warp. */
template <int BLOCKS>
__device__ __forceinline__ void finish(const args &a, const struct group &s, int32_t first,
                                       int32_t tile, const float (&d)[BLOCKS][4],
                                       int32_t part = 0) {
    int32_t lane = threadIdx.x % 32, g = lane / 4, q = lane % 4, rows = a.g.w.shape.rows;
    int32_t left = s.n - first - 2 * q; /* tokens from this lane's first on */
    int2 at = rows_of(a.g, tile);
    size_t token = (size_t)(s.begin + first + 2 * q);
    if (a.g.epilogue == NB_CUDA_STORE_F32) {
        float *y = (float *)a.g.y + part * a.part_stride;
        float *upper = y + token * rows + at.x + g, *lower = upper + (at.y - at.x);
        bool has_upper = at.x + g < rows, has_lower = at.y + g < rows;
#pragma unroll
        for (int32_t i = 0; i < BLOCKS; i++) {
#pragma unroll
            for (int32_t r = 0; r < 2; r++) {
                size_t offset = (size_t)(8 * i + r) * rows;
                if (8 * i + r < left && has_upper)
                    upper[offset] = d[i][r];
                if (8 * i + r < left && has_lower)
                    lower[offset] = d[i][2 + r];
            }
        }
        return;
    }
    int32_t odd = g & 1, row = g & ~1;
    __nv_bfloat16 *y = (__nv_bfloat16 *)a.g.y;
    if (a.g.epilogue == NB_CUDA_STORE_BF16) {
        __nv_bfloat16 *upper = y + (token + odd) * rows + at.x + row, *lower = upper + at.y - at.x;
#pragma unroll
        for (int32_t i = 0; i < BLOCKS; i++) {
            float2 u = exchange(d[i][0], d[i][1]), l = exchange(d[i][2], d[i][3]);
            size_t offset = (size_t)(8 * i) * rows;
            if (8 * i + odd < left && at.x + row < rows)
                store_pair(upper + offset, u, at.x + row + 1 < rows);
            if (8 * i + odd < left && at.y + row < rows)
                store_pair(lower + offset, l, at.y + row + 1 < rows);
        }
        return;
    }
    int32_t width = rows / 2, stride = div_up(width, 64) * 64;
    y += (token + odd) * stride;
#pragma unroll
    for (int32_t i = 0; i < BLOCKS; i++) {
        float2 pair =
            exchange(silu(d[i][0]) * d[i][2], silu(d[i][1]) * d[i][3]); /* padding gives 0 */
        if (8 * i + odd < left)
            store_pair(y + (size_t)(8 * i) * stride + place_in_x(at.x + row), pair, true);
    }
    if (tile == a.g.w.shape.n_tiles - 1) { /* x of the product that follows ends in zeros */
        for (int32_t i = 0; i < BLOCKS; i++) {
            for (int32_t f = 8 * (tile + 1) + row; 8 * i + odd < left && f < stride; f += 8)
                store_pair(y + (size_t)(8 * i) * stride + place_in_x(f), make_float2(0, 0), true);
        }
    }
}

} // namespace

#endif
