/* Products with many tokens a group, for wgmma (sm_90a), where multiplying is what takes time.
 *
 * A block has two warpgroups that multiply and one that fetches, and goes from tile to tile of the
 * grid: 128 rows of W by up to 256 tokens of a group. A warp of those that multiply has 16 rows, a
 * tile of layout.h: it decodes a chunk of 64 columns into A operands in registers, values times
 * scale in f32, rounded once to bf16, as bitsandbytes has its weights, while wgmma multiplies the
 * chunk before. B, the tokens, comes from shared memory for all four warps.
 *
 * A byte of codes becomes a pair of f32 by a table with a copy for each pair of lanes that share
 * banks; its address is one byte permutation, `byte << 8 | lane * 8`.
 *
 * Tensor maps copy both, x with the 128-byte swizzle that wgmma reads; where rows of x are
 * gathered, a kernel before does that. Tiles whose weights are the same are neighbours in time, so
 * that weights come from memory once and x stays in the L2 cache.
 */
#ifndef NB_BACKEND_CUDA_GEMM_WIDE_CUH
#define NB_BACKEND_CUDA_GEMM_WIDE_CUH

#include "backend/cuda/gemm_parts.cuh"
#include "backend/cuda/wgmma.cuh"

namespace {

enum {
    WIDE_TILES = 8,   /* of 16 rows: a warp each */
    WIDE_BLOCKS = 32, /* of 8 tokens, at most */
    WIDE_STEP = 4,    /* what blocks is a multiple of */
    WIDE_THREADS = 384,
    WIDE_W_STAGES = 3, /* of a piece */
    WIDE_X_STAGES = 3, /* of a chunk */
    WIDE_X_ROWS = 32,  /* that a copy of x has */
    WIDE_X_BYTES = WIDE_BLOCKS * 1024,
    WIDE_COLUMNS = 8, /* tiles of a row of tiles that are neighbours in time */
    WIDE_TABLE_BYTES = 65536,
    WIDE_REGISTERS = 232, /* of threads that multiply; the others have 40 */
};

/* Shared memory: the table, stages of x, stages of weights, nested values, barriers, groups. */
__host__ __device__ constexpr int wide_shared_bytes(int slot_bytes, int n_groups) {
    return WIDE_TABLE_BYTES + WIDE_X_STAGES * WIDE_X_BYTES +
           WIDE_W_STAGES * WIDE_TILES * slot_bytes + 1024 + 16 * (WIDE_W_STAGES + WIDE_X_STAGES) +
           8 * (n_groups + 1) + n_groups * (int)sizeof(struct group);
}

/* A place in a ring of n stages. */
template <int N> struct place {
    int32_t stage;
    uint32_t parity;

    __device__ __forceinline__ void next() {
        if (++stage == N)
            stage = 0, parity ^= 1;
    }
};

struct wide {
    const args &a;
    uint32_t base; /* of shared memory: shared address of the table */

    __device__ __forceinline__ uint32_t x_at(int32_t stage) const {
        return base + WIDE_TABLE_BYTES + stage * WIDE_X_BYTES;
    }
    __device__ __forceinline__ uint32_t w_at(int32_t stage) const {
        return x_at(WIDE_X_STAGES) + stage * WIDE_TILES * a.slot_bytes;
    }
    __device__ __forceinline__ uint32_t nested_values() const {
        return w_at(WIDE_W_STAGES);
    }
    __device__ __forceinline__ uint32_t barriers() const {
        return nested_values() + 1024;
    }
    __device__ __forceinline__ uint32_t w_full(int32_t stage) const {
        return barriers() + 8 * stage;
    }
    __device__ __forceinline__ uint32_t w_empty(int32_t stage) const {
        return w_full(WIDE_W_STAGES + stage);
    }
    __device__ __forceinline__ uint32_t x_full(int32_t stage) const {
        return w_empty(WIDE_W_STAGES + stage);
    }
    __device__ __forceinline__ uint32_t x_empty(int32_t stage) const {
        return x_full(WIDE_X_STAGES + stage);
    }

    /* Tiles of the grid before each group, [n_groups + 1]; groups */
    __device__ __forceinline__ int64_t *before() const {
        NB_DYNAMIC_SHARED(1024, uint8_t, shared);
        return (int64_t *)(shared + (x_empty(WIDE_X_STAGES) - base));
    }
    __device__ __forceinline__ struct group *groups() const {
        return (struct group *)(before() + a.g.n_groups + 1);
    }

    /* Tile `at` of the grid: group, and place in it. */
    __device__ __forceinline__ int32_t tile_of(int64_t at, int32_t *m, int32_t *n) const {
        int32_t e = find_group(before(), a.g.n_groups, at), tiles = groups()[e].tiles;
        int32_t i = (int32_t)(at - before()[e]), band = i / (WIDE_COLUMNS * a.m_blocks);
        int32_t width = min((int)WIDE_COLUMNS, tiles - band * WIDE_COLUMNS);
        i -= band * WIDE_COLUMNS * a.m_blocks;
        *m = i / width, *n = band * WIDE_COLUMNS + i % width;
        return e;
    }

    /* ---- who fetches ---- */

    __device__ __forceinline__ void fetch_w() const {
        place<WIDE_W_STAGES> w = {0, 1};
        uint64_t policy = cache_policy(false);
        for (int64_t at = blockIdx.x; at < before()[a.g.n_groups]; at += gridDim.x) {
            int32_t m, n, e = tile_of(at, &m, &n);
            for (int32_t k = 0, u = 0, p = 0; k < a.k_steps; k++) {
                barrier_wait(w_empty(w.stage), w.parity);
                fetch_weights(a, e, m * WIDE_TILES, WIDE_TILES, u, p, w_at(w.stage),
                              w_full(w.stage), policy);
                w.next();
                if (++p == a.pieces)
                    p = 0, u++;
            }
        }
    }

    /* By one thread. Rows beyond a group are those of the next; what they give is not stored. */
    __device__ __forceinline__ void fetch_x() const {
#if NB_BULK
        place<WIDE_X_STAGES> x = {0, 1};
        for (int64_t at = blockIdx.x; at < before()[a.g.n_groups]; at += gridDim.x) {
            int32_t m, n, e = tile_of(at, &m, &n), blocks = groups()[e].blocks;
            int32_t row = groups()[e].begin + 8 * blocks * n;
            for (int32_t c = 0; c < a.x_chunks; c++) {
                barrier_wait(x_empty(x.stage), x.parity);
                barrier_expect(x_full(x.stage), 1024 * blocks);
                for (int32_t i = 0; i < blocks / WIDE_STEP; i++)
                    copy_box(x_at(x.stage) + i * WIDE_X_ROWS * 128, a.tokens, 64 * c,
                             row + i * WIDE_X_ROWS, x_full(x.stage));
                x.next();
            }
        }
#endif
    }

    /* ---- who multiplies ---- */

    struct worker {
        const wide &s;
        const args &a;
        place<WIDE_W_STAGES> w;
        place<WIDE_X_STAGES> x;
        int32_t warp, lane;
        /* The piece at hand, and how far in it the next chunk is. */
        int32_t u, p, chunk, chunks;
        struct nested_rows rows;
        float2 scale; /* of chunk lane % 4 */
        bool used_up; /* all chunks of the piece are decoded, its stage is to be given back */

        __device__ __forceinline__ struct piece piece() const {
            return piece_at(a, s.w_at(w.stage), WIDE_TILES, warp);
        }

        __device__ __forceinline__ void open_piece() {
            int32_t c0 = u * a.g.w.shape.unit_chunks + p * a.piece;
            chunk = 0;
            chunks = min(min(a.piece, a.g.w.shape.unit_chunks - p * a.piece), a.x_chunks - c0);
            barrier_wait(s.w_full(w.stage), w.parity);
            uint32_t nested = s.nested_values();
            if (a.form == NESTED || a.form == ABSMAX)
                scale = scales_of(a, rows, piece(), u, p,
                                  [&](uint32_t code) { return load_f32(nested + 4 * code); });
        }

        __device__ __forceinline__ void close_piece() {
            used_up = false;
            __syncwarp();
            if (lane == 0)
                barrier_arrive(s.w_empty(w.stage));
            w.next();
            if (++p == a.pieces)
                p = 0, u++;
        }

        template <int B> __device__ __forceinline__ uint32_t pair(uint32_t codes, float by) const {
            float2 v = load_f32x2(s.base + index_of<B>(codes, 8 * lane));
            return pack_bf16(v.x * by, v.y * by);
        }

        /* A operands of the next chunk: out[4 j + b]. Of bf16, they may still be on their way from
         * shared memory until they are multiplied. */
        __device__ __forceinline__ void decode(uint32_t (&out)[16]) {
            struct piece from = piece();
            if (a.form == FLOATS) {
#pragma unroll
                for (int32_t j = 0; j < 4; j++) {
                    uint32_t v[4];
                    load_128(v, from.codes + 64 * lane + 16 * j);
#pragma unroll
                    for (int32_t b = 0; b < 4; b++)
                        out[4 * j + b] = v[b];
                }
            } else {
                float upper, lower;
                if (a.form == HALVES) {
                    uint32_t at = from.scales + 4 * (16 * (2 * chunk + lane % 4 / 2) + lane / 4);
                    upper = load_f32(at), lower = load_f32(at + 32);
                } else {
                    upper = __shfl_sync(~0u, scale.x, (lane & ~3) | chunk);
                    lower = __shfl_sync(~0u, scale.y, (lane & ~3) | chunk);
                }
                uint32_t codes[4];
                load_128(codes, from.codes + 512 * chunk + 16 * lane);
#pragma unroll
                for (int32_t j = 0; j < 4; j++) {
                    out[4 * j] = pair<0>(codes[j], upper);
                    out[4 * j + 1] = pair<1>(codes[j], lower);
                    out[4 * j + 2] = pair<2>(codes[j], upper);
                    out[4 * j + 3] = pair<3>(codes[j], lower);
                }
            }
            used_up = ++chunk == chunks;
        }

        /* The next chunk of the tile, if there is one. */
        __device__ __forceinline__ void decode_next(uint32_t (&out)[16], int32_t c) {
            if (used_up)
                close_piece();
            if (c >= a.x_chunks)
                return;
            if (chunk == chunks)
                open_piece();
            decode(out);
        }

        template <int BLOCKS>
        __device__ __forceinline__ void multiply(float (&d)[BLOCKS][4], const uint32_t (&w)[16],
                                                 bool add) {
            barrier_wait(s.x_full(x.stage), x.parity);
            wgmma_fence();
#pragma unroll
            for (int32_t j = 0; j < 4; j++)
                wgmma<BLOCKS>(d, w + 4 * j, wgmma_descriptor(s.x_at(x.stage), j), add || j);
            wgmma_commit();
        }

        __device__ __forceinline__ void release_x(int32_t stage) {
            if (lane == 0)
                barrier_arrive(s.x_empty(stage));
        }

        /* Chunk c, decoded in `now`, and then the one after it into the registers that chunk c - 1
         * was multiplied from. */
        template <int BLOCKS>
        __device__ __forceinline__ void go_on(float (&d)[BLOCKS][4], const uint32_t (&now)[16],
                                              uint32_t (&next)[16], int32_t c) {
            multiply(d, now, true);
            wgmma_wait<1>();
            release_x(x.stage ? x.stage - 1 : WIDE_X_STAGES - 1);
            x.next();
            decode_next(next, c + 1);
        }

        template <int BLOCKS>
        __device__ __forceinline__ void tile(const struct group &group, int32_t m, int32_t n) {
            float d[BLOCKS][4];
            uint32_t even[16], odd[16];
            int32_t tile = m * WIDE_TILES + warp;
            u = p = 0, chunk = chunks = 0;
            if (a.form == NESTED)
                rows = nested_rows_of(a, tile);
            decode_next(even, 0);
            multiply(d, even, false); /* apart from the others: before it, d holds nothing */
            x.next();
            decode_next(odd, 1);
            for (int32_t c = 1; c < a.x_chunks; c++) {
                go_on(d, odd, even, c);
                if (++c == a.x_chunks)
                    break;
                go_on(d, even, odd, c);
            }
            wgmma_wait<0>();
            release_x(x.stage ? x.stage - 1 : WIDE_X_STAGES - 1);
            if (tile < a.g.w.shape.n_tiles)
                finish(a, group, 8 * group.blocks * n, tile, d);
        }

        __device__ __forceinline__ void run() {
            for (int64_t at = blockIdx.x; at < s.before()[a.g.n_groups]; at += gridDim.x) {
                int32_t m, n, e = s.tile_of(at, &m, &n);
                const struct group &group = s.groups()[e];
                switch (group.blocks) {
                case 4:
                    tile<4>(group, m, n);
                    break;
                case 8:
                    tile<8>(group, m, n);
                    break;
                case 12:
                    tile<12>(group, m, n);
                    break;
                case 16:
                    tile<16>(group, m, n);
                    break;
                case 20:
                    tile<20>(group, m, n);
                    break;
                case 24:
                    tile<24>(group, m, n);
                    break;
                case 28:
                    tile<28>(group, m, n);
                    break;
                default:
                    tile<32>(group, m, n);
                    break;
                }
            }
        }
    };
};

/* to[i] = x[gather[i]], n rows of that many vectors of 16 bytes: what tensor maps can read. */
__global__ void __launch_bounds__(256)
    gather_kernel(const uint4 *x, const int32_t *gather, int32_t n, int32_t vectors, uint4 *to) {
    start_kernel_after();
    wait_for_kernel_before();
    for (int32_t i = blockIdx.x; i < n; i += gridDim.x) {
        const uint4 *from = x + (size_t)__ldcg(gather + i) * vectors;
        for (int32_t k = threadIdx.x; k < vectors; k += 256)
            to[(size_t)i * vectors + k] = __ldcg(from + k);
    }
}

__global__ void __launch_bounds__(WIDE_THREADS, 1) wide_kernel(const __grid_constant__ args a) {
#if NB_WGMMA
    NB_DYNAMIC_SHARED(1024, uint8_t, shared);
    wide s = {a, address_of(shared)};
    int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    if (!a.g.begin)
        start_kernel_after();
    if (threadIdx.x == 0) {
        prefetch_maps(a);
        for (int32_t i = 0; i < WIDE_W_STAGES; i++) {
            barrier_init(s.w_full(i), 1);
            barrier_init(s.w_empty(i), WIDE_TILES);
        }
        for (int32_t i = 0; i < WIDE_X_STAGES; i++) {
            barrier_init(s.x_full(i), 1);
            barrier_init(s.x_empty(i), WIDE_TILES);
        }
        fence_async();
    }
    float value = a.values[lane % 16];
    for (int32_t v = warp; v < 256; v += WIDE_THREADS / 32)
        ((float2 *)(shared + 256 * v))[lane] =
            make_float2(__shfl_sync(~0u, value, v >> 4), __shfl_sync(~0u, value, v & 15));
    if (threadIdx.x < 256)
        ((float *)(shared + (s.nested_values() - s.base)))[threadIdx.x] =
            a.nested_values[threadIdx.x];
    wait_for_kernel_before();
    if (a.g.begin)
        start_kernel_after(); /* which may read it at once */
    if (warp == 0)
        make_groups(
            a, nullptr, WIDE_STEP, s.groups(), s.before(), nullptr,
            [&](const struct group &g) { return (int64_t)g.tiles * a.m_blocks; },
            [](const struct group &) { return 1; });
    __syncthreads();

    if (warp >= WIDE_TILES) {
        give_registers<40>();
        if (warp == WIDE_TILES)
            s.fetch_w();
        else if (warp == WIDE_TILES + 1 && lane == 0)
            s.fetch_x();
    } else {
        take_registers<WIDE_REGISTERS>();
        wide::worker worker = {s, a, {0, 0}, {0, 0}, warp, lane, 0, 0, 0, 0, {0, 0}, {0, 0}, false};
        worker.run();
    }
#endif
}

} // namespace

#endif
