/* A run is what a batch has of one sequence: tokens side by side whose positions are, too. Short
 * runs (decode tokens, and a few tokens after a prefix) are bound by reading KV memory: tiles of 8
 * rows (query heads of one KV head times tokens), whose context is split among blocks, a page to a
 * warp at a time, straight from memory into the registers of mma: nothing is staged. Long runs are
 * bound by products: tiles of 128 rows, flash attention (Dao, "FlashAttention-2", 2023; Shah et
 * al., "FlashAttention-3", 2024) with keys and values staged in shared memory once for all heads of
 * a group: by mma.sync anywhere, by wgmma and the tensor copy engine on sm_90a (attention_90a.cuh).
 *
 * Results depend on how the context was split, and that on the batch; the same batch gives the same
 * bits, for parts are combined in their order by whichever block is the last to finish.
 */
#include "backend/cuda/attention.h"

extern "C" {
#include "backend/backend.h"
}
#include "backend/cuda/common.cuh"
#include "backend/cuda/rotate.cuh"
#include "base/layout.h"

#include <math_constants.h>

namespace {

enum {
    SHORT_ROWS = 8,    /* of a tile of a short run: the n of an mma */
    SHORT_TILES = 4,   /* a run of more such tiles is long */
    SHORT_WARPS = 4,   /* of a block */
    SHORT_BLOCKS = 3,  /* of an SM, by the registers that they take */
    MIN_PAGES = 16,    /* that a part of a split context has at least */
    BLOCKS_PER_SM = 2, /* that the split aims at */
    LONG_ROWS = 128,
    LONG_KEYS = 64, /* staged at a time */
    PLAN_THREADS = 512,
};

/* A block's work on a short run, for each KV head. */
struct __align__(16) part {
    int32_t token, n_tokens;      /* of the tile, in the queries */
    int32_t position, sequence;   /* of its first token */
    int32_t first_page, end_page; /* of the sequence */
    int32_t tile;                 /* its number among tiles */
    int32_t index, n_parts, sums; /* of the tile's parts; the first one's place in `sums` */
};

struct __align__(16) tile {
    int32_t token, n_tokens, position, sequence;
};

struct counts {
    int32_t parts, tiles;
};

/* Sizes that follow from the model, known to host and device. */
struct shape {
    int32_t group;       /* query heads of a KV head */
    int32_t heads;       /* of them in a short tile: all, or 8 at a time */
    int32_t columns;     /* KV heads times (group / heads, rounded up): blocks of a part */
    int32_t tile_tokens; /* of a short tile */
    int32_t long_tokens; /* of a long one */
    int32_t target;      /* parts to aim at, of all tiles */
    int32_t blocks;      /* of short runs that an SM has at the same time */
    int32_t wave;        /* parts whose blocks run at the same time */
};

/* n: queries. A tile has one or more and a block for each column. Where these are up to two for
 * each SM, an SM has no more: three would go to the SMs that the kernel before leaves first, and
 * none to the last. */
__host__ __device__ shape shape_of(const nb_cuda_model *m, int32_t sm_count, int32_t n) {
    shape s;
    s.group = m->n_heads / m->n_kv_heads;
    s.heads = s.group < SHORT_ROWS ? s.group : SHORT_ROWS;
    s.columns = m->n_kv_heads * nb_div_up(s.group, s.heads);
    s.tile_tokens = SHORT_ROWS / s.heads;
    s.long_tokens = LONG_ROWS / s.group;
    s.target = nb_div_up(sm_count * BLOCKS_PER_SM, s.columns);
    bool two = n <= 2 * sm_count && n * s.columns > sm_count && n * s.columns <= 2 * sm_count;
    s.blocks = two ? 2 : SHORT_BLOCKS;
    s.wave = sm_count * s.blocks / s.columns;
    return s;
}

struct plan {
    counts *n;
    int32_t *run;     /* [T] first token of each run, while the plan is made */
    part *parts;      /* [T + target] */
    tile *tiles;      /* [T] of long runs, the longest contexts of a run first */
    int32_t *arrived; /* [T, columns] parts of a tile that are done */
    /* Of parts of split contexts, [2 target, columns]: maxima and sums [2, 8], values [8, d]. */
    float *sums;
};

size_t place_plan(const nb_cuda_model *m, const nb_cuda_limits *l, void *base, plan *p) {
    nb_layout layout = {(uint8_t *)base, 0};
    shape s = shape_of(m, l->sm_count, l->max_tokens);
    size_t T = (size_t)l->max_tokens;
    p->n = (counts *)nb_layout_place(&layout, sizeof *p->n);
    p->run = (int32_t *)nb_layout_place(&layout, T * sizeof *p->run);
    p->parts = (part *)nb_layout_place(&layout, (T + (size_t)s.target) * sizeof *p->parts);
    p->tiles = (tile *)nb_layout_place(&layout, T * sizeof *p->tiles);
    p->arrived = (int32_t *)nb_layout_place(&layout, T * (size_t)s.columns * sizeof *p->arrived);
    p->sums = (float *)nb_layout_place(&layout, (size_t)2 * (size_t)s.target * (size_t)s.columns *
                                                    SHORT_ROWS * (size_t)(m->head_width + 2) *
                                                    sizeof *p->sums);
    return layout.used;
}

/* ---- the plan ---- */

/* Sum of x over the threads before this one, and over all in *total. */
__device__ int32_t scan(int32_t x, int32_t *total) {
    NB_SHARED(int32_t, sums, [PLAN_THREADS / 32]);
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int32_t upto = x;
    for (int i = 1; i < 32; i *= 2) {
        int32_t y = __shfl_up_sync(~0u, upto, i);
        upto += lane >= i ? y : 0;
    }
    __syncthreads(); /* sums may still be read from the last call */
    if (lane == 31)
        sums[warp] = upto;
    __syncthreads();
    int32_t before = 0, all = 0;
    for (int i = 0; i < PLAN_THREADS / 32; i++) {
        before += i < warp ? sums[i] : 0;
        all += sums[i];
    }
    *total = all;
    return before + upto - x;
}

/* Pages [first, end) that tokens [token, token + n) of a run attend to. */
__device__ int32_t first_page(const nb_cuda_model &m, int32_t position) {
    return m.window && position >= m.window ? (position - m.window + 1) / NB_PAGE_TOKENS : 0;
}

__device__ int32_t end_page(int32_t position, int32_t n) {
    return (position + n - 1) / NB_PAGE_TOKENS + 1;
}

/* What becomes of a run of n tokens: how many of each there will be. */
struct outcome {
    int32_t tiles, parts, sums, long_tiles;
};

/* One block. */
__global__ void __launch_bounds__(PLAN_THREADS, 1)
    make_plan(nb_cuda_model m, nb_cuda_step step, nb_cuda_queries q, shape s, plan p) {
    nb_begin();
    auto row = [&](int32_t t) { return q.row ? q.row[t] : t; };
    auto position_of = [&](int32_t t) { return step.position[row(t)]; };
    auto sequence_of = [&](int32_t t) { return step.sequence[row(t)]; };
    int32_t thread = threadIdx.x, n_runs = 0, total;
    for (int32_t base = 0; base < q.n; base += PLAN_THREADS) {
        int32_t t = base + thread;
        bool begins = t < q.n && (t == 0 || sequence_of(t) != sequence_of(t - 1) ||
                                  position_of(t) != position_of(t - 1) + 1);
        int32_t at = n_runs + scan(begins, &total);
        if (begins)
            p.run[at] = t;
        n_runs += total;
    }
    __syncthreads();
    /* Pages that short tiles read in all decide how long parts are; they are made longer until all
     * run at the same time, if they can: with contexts of equal length a few blocks too many would
     * take as long as all others together. */
    int32_t is_long = SHORT_TILES * s.tile_tokens;
    auto parts_of =
        [&](int32_t part_pages) { /* of all short tiles */
                                  int32_t mine = 0;
                                  for (int32_t r = thread; r < n_runs; r += PLAN_THREADS) {
                                      int32_t token = p.run[r],
                                              n = (r + 1 < n_runs ? p.run[r + 1] : q.n) - token;
                                      for (int32_t i = 0; i < n && n <= is_long;
                                           i += s.tile_tokens) {
                                          int32_t position = position_of(token + i),
                                                  end =
                                                      end_page(position, min(s.tile_tokens, n - i));
                                          mine +=
                                              nb_div_up(end - first_page(m, position), part_pages);
                                      }
                                  }
                                  scan(mine, &total);
                                  return total;
        };
    int32_t part_pages = max(MIN_PAGES, nb_div_up(parts_of(1), s.target));
    bool fits = parts_of(INT32_MAX / 2) <= s.wave;
    while (fits && parts_of(part_pages) > s.wave)
        part_pages += nb_div_up(part_pages, 16);
    outcome done = {};
    for (int32_t base = 0; base < n_runs; base += PLAN_THREADS) {
        int32_t r = base + thread, token = 0, n = 0;
        outcome mine = {}, all;
        if (r < n_runs) {
            token = p.run[r];
            n = (r + 1 < n_runs ? p.run[r + 1] : q.n) - token;
        }
        if (n > is_long)
            mine.long_tiles = nb_div_up(n, s.long_tokens);
        for (int32_t i = 0; i < n && n <= is_long; i += s.tile_tokens) {
            int32_t position = position_of(token + i);
            int32_t parts =
                nb_div_up(end_page(position, min(s.tile_tokens, n - i)) - first_page(m, position),
                          part_pages);
            mine.tiles++;
            mine.parts += parts;
            mine.sums += parts > 1 ? parts : 0;
        }
        outcome at = {scan(mine.tiles, &all.tiles), scan(mine.parts, &all.parts),
                      scan(mine.sums, &all.sums), scan(mine.long_tiles, &all.long_tiles)};
        at.tiles += done.tiles, at.parts += done.parts, at.sums += done.sums;
        at.long_tiles += done.long_tiles;
        for (int32_t i = 0; i < mine.long_tiles; i++) {
            int32_t first = (mine.long_tiles - 1 - i) * s.long_tokens;
            p.tiles[at.long_tiles + i] = {token + first, min(s.long_tokens, n - first),
                                          position_of(token + first), sequence_of(token)};
        }
        for (int32_t i = 0; i < n && n <= is_long; i += s.tile_tokens) {
            int32_t position = position_of(token + i), tokens = min(s.tile_tokens, n - i);
            int32_t begin = first_page(m, position), end = end_page(position, tokens);
            int32_t parts = nb_div_up(end - begin, part_pages);
            int32_t even = nb_div_up(end - begin, parts);
            for (int32_t k = 0; k < parts; k++)
                p.parts[at.parts++] = {token + i,
                                       tokens,
                                       position,
                                       sequence_of(token),
                                       begin + k * even,
                                       min(end, begin + (k + 1) * even),
                                       at.tiles,
                                       k,
                                       parts,
                                       at.sums};
            at.sums += parts > 1 ? parts : 0;
            at.tiles++;
        }
        done.tiles += all.tiles, done.parts += all.parts, done.sums += all.sums;
        done.long_tiles += all.long_tiles;
    }
    for (int32_t i = thread; i < done.tiles * s.columns; i += PLAN_THREADS)
        p.arrived[i] = 0;
    if (thread == 0)
        *p.n = {done.parts, done.long_tiles};
}

/* ---- KV memory ---- */

/* Bytes of element 0 of the keys of KV head g in a page of a layer. Values are G * 16 * d elements
 * further. */
template <bool FP8>
__device__ const uint8_t *page_at(const nb_cuda_model &m, int32_t layer, int32_t page, int32_t g) {
    size_t element = ((size_t)layer * m.n_pages + page) * m.page_stride +
                     (size_t)g * NB_PAGE_TOKENS * m.head_width;
    return (const uint8_t *)m.kv + element * (FP8 ? 1 : 2);
}

/* Eight neighbours of KV memory as they lie there, `at` an element; and as bf16. Past the first
 * cache: each byte is read once, and other kernels wrote it. */
template <bool FP8> struct eight;
template <> struct eight<false> {
    uint4 v;
    __device__ void load(const uint8_t *base, int at) {
        v = __ldcg((const uint4 *)(base + 2 * at));
    }
    __device__ uint4 bf16() const {
        return v;
    }
};
template <> struct eight<true> {
    uint2 v;
    __device__ void load(const uint8_t *base, int at) {
        v = __ldcg((const uint2 *)(base + at));
    }
    __device__ uint4 bf16() const {
        uint32_t low[2], high[2];
        nb_e4m3x4_to_bf16(v.x, low);
        nb_e4m3x4_to_bf16(v.y, high);
        return make_uint4(low[0], low[1], high[0], high[1]);
    }
};

template <bool FP8> __device__ uint4 load_eight(const uint8_t *base, int at) {
    eight<FP8> e;
    e.load(base, at);
    return e.bf16();
}

__device__ uint32_t word(const uint4 &v, int i) {
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

/* ---- short runs ---- */

/* What the warps of a block, or the parts of a tile, have of a row. */
template <int d> struct __align__(16) row_sums {
    float max[SHORT_ROWS], sum[SHORT_ROWS], values[SHORT_ROWS][d];
};

/* One page of 16 keys for 8 rows: scores transposed, S^T = K Q^T, so that 8 rows are the n of an
 * mma, and O^T += V^T P^T. The k of an mma may be any order of dimensions as long as both operands
 * have the same: lane 4 g + q holds dimensions [32 i + 8 q, + 8) of keys g and g + 8, and as many
 * of row g of Q, in 16 bytes each. Of V it holds dimensions [64 u + 8 g, + 8) of keys 2 q, 2 q + 1
 * and those 8 further: accumulator j of block u has dimensions 64 u + 8 g + 2 j (c0, c1) and + 1
 * (c2, c3) of rows 2 q (c0, c2) and 2 q + 1 (c1, c3). */
template <int d> struct warp_state {
    float max[2], sum[2]; /* of rows 2 q and 2 q + 1; sum over the keys of this lane alone */
    float values[d / 64][4][4];
};

/* What a lane attends to: rows 2 q and 2 q + 1 see positions [low, high]. */
struct limits_of_rows {
    int32_t low[2], high[2];
};

/* What a lane holds of a page, as above. */
template <int d, bool FP8> struct page_keys {
    eight<FP8> k[2][d / 32];

    __device__ void load(const uint8_t *keys) {
        int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
        const uint8_t *mine = keys + (g * d + 8 * q) * (FP8 ? 1 : 2);
        for (int i = 0; i < d / 32; i++) {
            k[0][i].load(mine, 32 * i);
            k[1][i].load(mine, 8 * d + 32 * i);
        }
        asm volatile("" ::: "memory"); /* loads stay where they are written */
    }
};

template <int d, bool FP8> struct page_values {
    eight<FP8> v[4][d / 64];

    __device__ void load(const nb_cuda_model &m, const uint8_t *keys) {
        int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
        const uint8_t *mine =
            keys + (m.n_kv_heads * NB_PAGE_TOKENS * d + 2 * q * d + 8 * g) * (FP8 ? 1 : 2);
        for (int i = 0; i < 4; i++) {
            for (int u = 0; u < d / 64; u++)
                v[i][u].load(mine, (i % 2 + i / 2 * 8) * d + 64 * u);
        }
        asm volatile("" ::: "memory");
    }
};

/* Scores of 16 keys, position and on, to weights of values, as an mma wants them, in b. */
template <int d>
__device__ void weigh(const float (&scores)[4], int32_t position, const limits_of_rows &rows,
                      float scale, warp_state<d> *w, uint32_t b[2]) {
    int g = threadIdx.x % 32 / 4;
    float p[4];
    for (int r = 0; r < 2; r++) {
        float s[2];
        for (int h = 0; h < 2; h++) {
            int32_t at = position + g + 8 * h;
            bool seen = at >= rows.low[r] && at <= rows.high[r];
            s[h] = seen ? scores[r + 2 * h] * scale : -CUDART_INF_F;
        }
        float max = fmaxf(s[0], s[1]);
        for (int i = 4; i < 32; i *= 2)
            max = fmaxf(max, __shfl_xor_sync(~0u, max, i));
        max = fmaxf(max, w->max[r]);
        float base = max == -CUDART_INF_F ? 0 : max, keep = exp2_flushed(w->max[r] - base);
        p[r] = exp2_flushed(s[0] - base), p[r + 2] = exp2_flushed(s[1] - base);
        w->sum[r] = w->sum[r] * keep + p[r] + p[r + 2];
        w->max[r] = max;
        for (int u = 0; u < d / 64; u++) {
            for (int j = 0; j < 4; j++)
                w->values[u][j][r] *= keep, w->values[u][j][r + 2] *= keep;
        }
    }
    b[0] = transpose(nb_pack_bf16(p[0], p[1]));
    b[1] = transpose(nb_pack_bf16(p[2], p[3]));
}

/* Queries of a tile; rows are spaced so that two of them side by side fill the banks. */
template <int d> struct short_query { uint4 row[SHORT_ROWS][d / 8 + 4]; };

/* A warp's way through the pages of a part: what it holds of one, and the number of the next. */
template <int d, bool FP8> struct page_walk {
    page_keys<d, FP8> keys;
    page_values<d, FP8> values;
    int32_t next;

    /* Asks for page i, the first. */
    __device__ void open(const nb_cuda_model &m, int32_t layer, int32_t kv_head,
                         const int32_t *pages, int32_t i, int32_t end) {
        if (i >= end)
            return;
        const uint8_t *at = page_at<FP8>(m, layer, pages[i], kv_head);
        next = i + SHORT_WARPS < end ? pages[i + SHORT_WARPS] : 0;
        keys.load(at);
        values.load(m, at);
    }
};

/* Adds pages i, i + SHORT_WARPS and so on up to `end`; `walk` is open. The next page's keys are
 * asked for as soon as this one's are used, and its values likewise, so that the same registers are
 * nearly always waiting for memory; a page's number is asked for one page earlier still. */
template <int d, bool FP8>
__device__ void add_pages(const nb_cuda_model &m, int32_t layer, int32_t kv_head,
                          const int32_t *pages, int32_t i, int32_t end, int32_t last,
                          const limits_of_rows &rows, const short_query<d> &query, float scale,
                          page_walk<d, FP8> &walk, warp_state<d> *w) {
    int q = threadIdx.x % 4;
    page_keys<d, FP8> &keys = walk.keys;
    page_values<d, FP8> &values = walk.values;
    int32_t next = walk.next;
    const uint8_t *at = NULL;
    for (; i < end; i += SHORT_WARPS) {
        bool more = i + SHORT_WARPS < end;
        if (more) {
            at = page_at<FP8>(m, layer, next, kv_head);
            next = i + 2 * SHORT_WARPS < end ? pages[i + 2 * SHORT_WARPS] : 0;
        }
        float s[4] = {0, 0, 0, 0};
        for (int k = 0; k < d / 32; k++) {
            uint4 a = keys.k[0][k].bf16(), b = keys.k[1][k].bf16();
            uint4 x = query.row[threadIdx.x % 32 / 4][4 * k + q];
            mma(s, a.x, b.x, a.y, b.y, x.x, x.y);
            mma(s, a.z, b.z, a.w, b.w, x.z, x.w);
        }
        if (more)
            keys.load(at);
        int32_t position = i * NB_PAGE_TOKENS;
        uint32_t b[2];
        weigh<d>(s, position, rows, scale, w, b);
        bool whole = position + NB_PAGE_TOKENS - 1 <= last;
        for (int u = 0; u < d / 64; u++) {
            uint4 v[4];
            for (int k = 0; k < 4; k++) {
                v[k] = values.v[k][u].bf16();
                if (!whole && position + 2 * q + k % 2 + k / 2 * 8 > last)
                    v[k] = make_uint4(0, 0, 0, 0); /* never written, and 0 * NaN is NaN */
            }
            for (int j = 0; j < 4; j++) {
                uint32_t x[4] = {word(v[0], j), word(v[1], j), word(v[2], j), word(v[3], j)};
                mma(w->values[u][j], __byte_perm(x[0], x[1], 0x5410),
                    __byte_perm(x[0], x[1], 0x7632), __byte_perm(x[2], x[3], 0x5410),
                    __byte_perm(x[2], x[3], 0x7632), b[0], b[1]);
            }
        }
        if (more)
            values.load(m, at);
    }
}

/* Keys and values of a page on their way to the second cache. A warp. */
template <int d, bool FP8>
__device__ void prefetch_page(const nb_cuda_model &m, const uint8_t *keys) {
    constexpr int bytes = NB_PAGE_TOKENS * d * (FP8 ? 1 : 2);
    for (int i = threadIdx.x % 32 * 128; i < bytes; i += 32 * 128) {
        prefetch_line(keys + i);
        prefetch_line(keys + (size_t)m.n_kv_heads * bytes + i);
    }
}

/* A warp's state to shared memory. */
template <int d> __device__ void store_state(warp_state<d> *w, row_sums<d> *out) {
    int lane = threadIdx.x % 32, g = lane / 4, q = lane % 4;
    for (int r = 0; r < 2; r++) {
        for (int i = 4; i < 32; i *= 2)
            w->sum[r] += __shfl_xor_sync(~0u, w->sum[r], i);
        if (g == 0) {
            out->max[2 * q + r] = w->max[r];
            out->sum[2 * q + r] = w->sum[r];
        }
        for (int u = 0; u < d / 64; u++) {
            for (int j = 0; j < 4; j++)
                *(float2 *)&out->values[2 * q + r][64 * u + 8 * g + 2 * j] =
                    make_float2(w->values[u][j][r], w->values[u][j][r + 2]);
        }
    }
}

/* What another block wrote is read past the first cache. */
template <bool SHARED, class T> __device__ T load(const T *p) {
    return SHARED ? *p : __ldcg(p);
}

/* Row r, dimensions c and c + 1, of n sums together, `stride` apart in memory. */
template <bool SHARED, int d>
__device__ float2 add_sums(const row_sums<d> *from, int n, int stride, int r, int c, float *max,
                           float *sum) {
    *max = -CUDART_INF_F;
    for (int i = 0; i < n; i++)
        *max = fmaxf(*max, load<SHARED>(&from[(size_t)i * stride].max[r]));
    float base = *max == -CUDART_INF_F ? 0 : *max;
    float2 out = make_float2(0, 0);
    *sum = 0;
    for (int i = 0; i < n; i++) {
        const row_sums<d> *f = &from[(size_t)i * stride];
        float keep = exp2_flushed(load<SHARED>(&f->max[r]) - base);
        float2 v = load<SHARED>((const float2 *)&f->values[r][c]);
        *sum += keep * load<SHARED>(&f->sum[r]);
        out.x += keep * v.x, out.y += keep * v.y;
    }
    return out;
}

/* What KV memory holds of v. */
template <bool FP8> __device__ float4 as_stored(float4 v) {
    uint32_t pair[2] = {nb_pack_bf16(v.x, v.y), nb_pack_bf16(v.z, v.w)};
    if (FP8)
        nb_e4m3x4_to_bf16(__nv_fp8x4_e4m3(v).__x, pair);
    return make_float4(__uint_as_float(pair[0] << 16), __uint_as_float(pair[0] & 0xFFFF0000),
                       __uint_as_float(pair[1] << 16), __uint_as_float(pair[1] & 0xFFFF0000));
}

/* The queries of one token, rotated, to `query`. With `key` also its key, to that and to KV memory
 * if `stores`, and its value, to the sums of all rows and KV memory. By the block. */
template <int d, bool FP8>
__device__ void rotate_token(const nb_cuda_model &m, const nb_cuda_projected &from, int32_t token,
                             int first_head, int heads, int kv_head, size_t kv_at, bool stores,
                             short_query<d> *query, float *key, row_sums<d> *sums) {
    constexpr int LANES = d / 8, HEADS = SHORT_WARPS * 32 / LANES;
    int H = m.n_heads, G = m.n_kv_heads, i = 4 * (threadIdx.x % LANES);
    int all = heads + (key ? 2 : 0);
    for (int h = threadIdx.x / LANES; h < all; h += HEADS) {
        int head = h < heads ? first_head + h : H + (h > heads ? G : 0) + kv_head;
        nb_parts_at at(from.qkv, from.parts, (H + 2 * G) * d, token, head * d + i);
        float4 a = at.four<6>(0), b = at.four<6>(d / 2);
        const float *norm = h < heads ? from.q_norm : h == heads ? from.k_norm : NULL;
        if (norm)
            norm_head<d>(a, b, norm, i, m.rms_eps);
        if (h <= heads)
            turn_head(a, b, from.turns + (size_t)token * (d / 2), i);
        if (h < heads) {
            store_four((__nv_bfloat16 *)query->row[h] + i, a);
            store_four((__nv_bfloat16 *)query->row[h] + d / 2 + i, b);
            continue;
        }
        size_t to = kv_at + (h > heads ? (size_t)G * NB_PAGE_TOKENS * d : 0) + i;
        if (stores) {
            store_kv(m, to, a);
            store_kv(m, to + d / 2, b);
        }
        a = as_stored<FP8>(a), b = as_stored<FP8>(b);
        for (int r = 0; r < (h == heads ? 1 : SHORT_ROWS); r++) {
            float *row = h == heads ? key : sums->values[r];
            *(float4 *)(row + i) = a, *(float4 *)(row + d / 2 + i) = b;
        }
    }
    for (int k = threadIdx.x; k < SHORT_ROWS * d / 8; k += SHORT_WARPS * 32) {
        if (k / (d / 8) >= heads)
            query->row[k / (d / 8)][k % (d / 8)] = make_uint4(0, 0, 0, 0);
    }
}

/* Sums of the token's own key alone: the values of which are there. By the block. */
template <int d>
__device__ void attend_to_itself(const short_query<d> &query, const float *key, float scale,
                                 row_sums<d> *sums) {
    constexpr int LANES = d / 8;
    int c = threadIdx.x % LANES;
    for (int r = threadIdx.x / LANES; r < SHORT_ROWS; r += SHORT_WARPS * 32 / LANES) {
        uint4 q = query.row[r][c];
        float sum = 0;
        for (int k = 0; k < 4; k++) {
            uint32_t pair = word(q, k);
            sum += __uint_as_float(pair << 16) * key[8 * c + 2 * k] +
                   __uint_as_float(pair & 0xFFFF0000) * key[8 * c + 2 * k + 1];
        }
        for (int k = 1; k < LANES; k *= 2)
            sum += __shfl_xor_sync(~0u, sum, k);
        if (c == 0)
            sums->max[r] = sum * scale, sums->sum[r] = 1;
    }
}

/* blockIdx.y: which KV head and, in groups of more than 8, which of its query heads. ROTATES:
 * queries, keys and values come from `projected`, and every run is one token. KV memory is then
 * that of passes before, so that its first pages are asked for before the kernel before is done. */
template <int d, bool FP8, bool ROTATES>
__global__ void __launch_bounds__(SHORT_WARPS * 32, SHORT_BLOCKS)
    attend_short(nb_cuda_model m, nb_cuda_step step, nb_cuda_queries queries, shape s, plan p,
                 int32_t layer, nb_cuda_projected projected, const __nv_bfloat16 *q,
                 __nv_bfloat16 *out) {
    NB_SHARED(row_sums<d>, sums, [SHORT_WARPS + ROTATES]);
    NB_SHARED(short_query<d>, query, );
    NB_SHARED(float4, own_key, [ROTATES ? d / 4 : 1]);
    NB_SHARED(bool, is_last, );
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.y;
    int chunks = s.columns / m.n_kv_heads, kv_head = column / chunks;
    int first_head = kv_head * s.group + column % chunks * s.heads;
    int heads = min(s.heads, (kv_head + 1) * s.group - first_head);
    float scale = rsqrtf((float)d) * CUDART_L2E_F, *key = (float *)own_key;
    /* The plan and the pages of tokens before this pass are there already. */
    int32_t n_parts = p.n->parts;
    page_walk<d, FP8> walk;
    if ((int)blockIdx.x < n_parts) {
        part a = p.parts[blockIdx.x];
        const int32_t *pages = step.pages + (size_t)a.sequence * (size_t)step.max_pages;
        int i = 0, k = a.first_page + warp;
        if (ROTATES) {
            walk.open(m, layer, kv_head, pages, k, a.end_page);
            i++, k += SHORT_WARPS;
        }
        for (; i < 2 + ROTATES && k < a.end_page; i++, k += SHORT_WARPS)
            prefetch_page<d, FP8>(m, page_at<FP8>(m, layer, pages[k], kv_head));
    }
    nb_begin();
    for (int item = blockIdx.x; item < n_parts; item += gridDim.x) {
        part a = p.parts[item];
        const int32_t *pages = step.pages + (size_t)a.sequence * (size_t)step.max_pages;
        int32_t position = a.position, last = position + a.n_tokens - 1;
        limits_of_rows rows;
        for (int r = 0; r < 2; r++) {
            int token = (2 * (lane % 4) + r) / s.heads;
            rows.high[r] = min(position + token, last);
            rows.low[r] = m.window ? rows.high[r] - m.window + 1 : 0;
        }
        bool own = ROTATES && a.index == a.n_parts - 1; /* attends to the token itself, too */
        if (ROTATES) {
            last = position - 1; /* of KV memory */
            rows.high[0] = rows.high[1] = last;
            if (item >= (int)gridDim.x)
                walk.open(m, layer, kv_head, pages, a.first_page + warp, a.end_page);
            size_t kv_at =
                ((size_t)layer * m.n_pages + pages[position / NB_PAGE_TOKENS]) * m.page_stride +
                (size_t)(kv_head * NB_PAGE_TOKENS + position % NB_PAGE_TOKENS) * d;
            rotate_token<d, FP8>(m, projected, a.token, first_head, heads, kv_head, kv_at,
                                 column % chunks == 0, &query, own ? key : NULL,
                                 &sums[SHORT_WARPS * ROTATES]);
        }
        for (int i = threadIdx.x; !ROTATES && i < SHORT_ROWS * d / 8; i += SHORT_WARPS * 32) {
            int r = i / (d / 8), c = i % (d / 8), token = r / s.heads, head = r % s.heads;
            uint4 x = make_uint4(0, 0, 0, 0);
            if (token < a.n_tokens && head < heads) {
                int32_t row = queries.row ? queries.row[a.token + token] : a.token + token;
                x = *(const uint4 *)(q + ((size_t)row * m.n_heads + first_head + head) * d + 8 * c);
            }
            query.row[r][c] = x;
        }
        __syncthreads();
        warp_state<d> w = {};
        w.max[0] = w.max[1] = -CUDART_INF_F;
        if (!ROTATES)
            walk.open(m, layer, kv_head, pages, a.first_page + warp, a.end_page);
        add_pages<d, FP8>(m, layer, kv_head, pages, a.first_page + warp, a.end_page, last, rows,
                          query, scale, walk, &w);
        store_state(&w, &sums[warp]);
        if (own)
            attend_to_itself<d>(query, key, scale, &sums[SHORT_WARPS * ROTATES]);
        int n_sums = SHORT_WARPS + own;
        __syncthreads();
        row_sums<d> *parts = (row_sums<d> *)p.sums;
        row_sums<d> *mine = &parts[(size_t)(a.sums + a.index) * s.columns + column];
        bool whole = a.n_parts == 1;
        for (int k = threadIdx.x; !whole && k < SHORT_ROWS * d / 2; k += SHORT_WARPS * 32) {
            int r = k / (d / 2), c = k % (d / 2) * 2;
            float max, sum;
            float2 v = add_sums<true>(sums, n_sums, 1, r, c, &max, &sum);
            *(float2 *)&mine->values[r][c] = v;
            if (c == 0)
                mine->max[r] = max, mine->sum[r] = sum;
        }
        if (!whole) {
            __threadfence();
            __syncthreads();
            if (threadIdx.x == 0) {
                int32_t *arrived = &p.arrived[a.tile * s.columns + column];
                is_last = atomicAdd(arrived, 1) == a.n_parts - 1;
                if (is_last)
                    *arrived = 0; /* for the next layer */
            }
            __syncthreads();
            __threadfence();
        }
        if (whole || is_last) {
            const row_sums<d> *from = &parts[(size_t)a.sums * s.columns + column];
            for (int k = threadIdx.x; k < SHORT_ROWS * d / 2; k += SHORT_WARPS * 32) {
                int r = k / (d / 2), c = k % (d / 2) * 2;
                if (r / s.heads >= a.n_tokens || r % s.heads >= heads)
                    continue;
                float max, sum;
                float2 v = whole ? add_sums<true>(sums, n_sums, 1, r, c, &max, &sum)
                                 : add_sums<false>(from, a.n_parts, s.columns, r, c, &max, &sum);
                size_t row = (size_t)(a.token + r / s.heads) * m.n_heads * d;
                int at = nb_place_of((first_head + r % s.heads) * d + c);
                *(uint32_t *)(out + row + at) = nb_pack_bf16(v.x / sum, v.y / sum);
            }
        }
        __syncthreads(); /* sums are written again */
    }
}

/* ---- long runs, by mma.sync ---- */

/* Row k (0, 1) of a thread's accumulators of a head's values, n tiles of 8 columns of which it has
 * columns 2 q and 2 q + 1, to `to`, where products want it: what tiles n, n + 2, n + 4 and n + 6 of
 * 64 columns have lies side by side there. */
template <int d>
__device__ inline void store_row(const float *values, int k, float scale, int q,
                                 __nv_bfloat16 *to) {
#pragma unroll
    for (int n = 0; n < d / 8; n += n % 2 ? 7 : 1) {
        uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float *v = values + 4 * (n + 2 * i) + 2 * k;
            w[i] = nb_pack_bf16(v[0] * scale, v[1] * scale);
        }
        *(uint4 *)(to + nb_place_of(8 * n + 2 * q)) = make_uint4(w[0], w[1], w[2], w[3]);
    }
}

/* Keys and values [64, d] bf16 of a stage; 16 bytes c of row r are at place c ^ (r % 8). */
template <int d> struct stage { uint4 keys[LONG_KEYS * d / 8], values[LONG_KEYS * d / 8]; };

template <int d> __device__ int swizzled(int row, int c) {
    return row * (d / 8) + (c ^ (row & 7));
}

/* Keys and values of positions [first, first + 64) into a stage; 0 beyond `last`. 256 threads. */
template <int d, bool FP8>
__device__ void load_stage(const nb_cuda_model &m, const int32_t *pages, int32_t layer, int32_t g,
                           int32_t first, int32_t last, stage<d> *to) {
    size_t values = (size_t)m.n_kv_heads * NB_PAGE_TOKENS * d * (FP8 ? 1 : 2);
    for (int k = threadIdx.x; k < LONG_KEYS * d / 8; k += 256) {
        int row = k / (d / 8), c = k % (d / 8), at = swizzled<d>(row, c);
        int32_t position = first + row;
        int32_t page = position <= last ? pages[position / NB_PAGE_TOKENS] : 0;
        const uint8_t *from = page_at<FP8>(m, layer, page, g);
        int element = position % NB_PAGE_TOKENS * d + 8 * c;
        if (!FP8) {
            int bytes = position <= last ? 16 : 0;
            copy_16_of(&to->keys[at], from + 2 * element, bytes);
            copy_16_of(&to->values[at], from + values + 2 * element, bytes);
        } else if (position <= last) {
            to->keys[at] = load_eight<FP8>(from, element);
            to->values[at] = load_eight<FP8>(from + values, element);
        } else {
            to->keys[at] = to->values[at] = make_uint4(0, 0, 0, 0);
        }
    }
    copy_commit();
}

/* Each of 8 warps has 16 rows: row r is token r / group, head r % group. */
template <int d, bool FP8>
__global__ void __launch_bounds__(256, 1)
    attend_long(nb_cuda_model m, nb_cuda_step step, nb_cuda_queries queries, shape s, plan p,
                int32_t layer, const __nv_bfloat16 *q, __nv_bfloat16 *out) {
    NB_DYNAMIC_SHARED(128, uint8_t, shared);
    nb_begin();
    stage<d> *stages = (stage<d> *)shared;
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    float scale = rsqrtf((float)d) * CUDART_L2E_F;
    for (int item = blockIdx.x; item < p.n->tiles * m.n_kv_heads; item += gridDim.x) {
        tile a = p.tiles[item / m.n_kv_heads];
        int32_t kv_head = item % m.n_kv_heads, position = a.position;
        int32_t last = position + a.n_tokens - 1;
        const int32_t *pages = step.pages + (size_t)a.sequence * (size_t)step.max_pages;
        int32_t begin = first_page(m, position) * NB_PAGE_TOKENS;
        int row[2];
        int32_t low[2], high[2];
        uint32_t query[d / 16][4] = {};
        for (int r = 0; r < 2; r++) {
            row[r] = 16 * warp + lane / 4 + 8 * r;
            int token = row[r] / s.group;
            high[r] = min(position + token, last);
            low[r] = m.window ? high[r] - m.window + 1 : 0;
            if (token >= a.n_tokens)
                continue;
            int32_t at = queries.row ? queries.row[a.token + token] : a.token + token;
            const uint32_t *from = (const uint32_t *)(q + ((size_t)at * m.n_heads +
                                                           kv_head * s.group + row[r] % s.group) *
                                                              d);
            for (int k = 0; k < d / 16; k++) {
                query[k][r] = from[8 * k + lane % 4];
                query[k][r + 2] = from[8 * k + 4 + lane % 4];
            }
        }
        /* The positions that every row of the warp sees need no mask. */
        int32_t all_low = __reduce_max_sync(~0u, (unsigned)max(0, max(low[0], low[1])));
        int32_t all_high = __reduce_min_sync(~0u, (unsigned)min(high[0], high[1]));
        float max_of[2] = {-CUDART_INF_F, -CUDART_INF_F}, sum[2] = {0, 0}, values[d / 8][4] = {};
        load_stage<d, FP8>(m, pages, layer, kv_head, begin, last, &stages[0]);
        for (int32_t first = begin, now = 0; first <= last; first += LONG_KEYS, now ^= 1) {
            if (first + LONG_KEYS <= last) {
                load_stage<d, FP8>(m, pages, layer, kv_head, first + LONG_KEYS, last,
                                   &stages[now ^ 1]);
                copy_wait<1>();
            } else {
                copy_wait<0>();
            }
            __syncthreads();
            uint32_t keys = address_of(stages[now].keys);
            uint32_t at_values = address_of(stages[now].values);
            float scores[LONG_KEYS / 8][4] = {};
#pragma unroll
            for (int k = 0; k < d / 16; k++) {
#pragma unroll
                for (int n = 0; n < LONG_KEYS / 16; n++) {
                    uint32_t b[4];
                    load_matrices<false>(b,
                                         keys + 16 * swizzled<d>(16 * n + lane % 8 + lane / 16 * 8,
                                                                 2 * k + lane / 8 % 2));
                    mma(scores[2 * n], query[k][0], query[k][1], query[k][2], query[k][3], b[0],
                        b[1]);
                    mma(scores[2 * n + 1], query[k][0], query[k][1], query[k][2], query[k][3], b[2],
                        b[3]);
                }
            }
            bool masked = first < all_low || first + LONG_KEYS - 1 > all_high;
            for (int r = 0; r < 2; r++) {
                float max = max_of[r];
                for (int n = 0; n < LONG_KEYS / 8; n++) {
                    for (int i = 0; i < 2; i++) {
                        int32_t at = first + 8 * n + 2 * (lane % 4) + i;
                        if (masked && (at < low[r] || at > high[r]))
                            scores[n][2 * r + i] = -CUDART_INF_F;
                        max = fmaxf(max, scores[n][2 * r + i]);
                    }
                }
                max = fmaxf(max, __shfl_xor_sync(~0u, max, 1));
                max = fmaxf(max, __shfl_xor_sync(~0u, max, 2));
                float base = max == -CUDART_INF_F ? 0 : max * scale;
                float keep = exp2_flushed(max_of[r] * scale - base), more = 0;
                for (int n = 0; n < LONG_KEYS / 8; n++) {
                    for (int i = 0; i < 2; i++) {
                        float w = exp2_flushed(scores[n][2 * r + i] * scale - base);
                        scores[n][2 * r + i] = w;
                        more += w;
                    }
                }
                sum[r] = sum[r] * keep + more;
                max_of[r] = max;
                for (int n = 0; n < d / 8; n++)
                    values[n][2 * r] *= keep, values[n][2 * r + 1] *= keep;
            }
#pragma unroll
            for (int k = 0; k < LONG_KEYS / 16; k++) {
                uint32_t w[4] = {nb_pack_bf16(scores[2 * k][0], scores[2 * k][1]),
                                 nb_pack_bf16(scores[2 * k][2], scores[2 * k][3]),
                                 nb_pack_bf16(scores[2 * k + 1][0], scores[2 * k + 1][1]),
                                 nb_pack_bf16(scores[2 * k + 1][2], scores[2 * k + 1][3])};
#pragma unroll
                for (int n = 0; n < d / 16; n++) {
                    uint32_t b[4];
                    load_matrices<true>(
                        b, at_values + 16 * swizzled<d>(16 * k + lane % 16, 2 * n + lane / 16));
                    mma(values[2 * n], w[0], w[1], w[2], w[3], b[0], b[1]);
                    mma(values[2 * n + 1], w[0], w[1], w[2], w[3], b[2], b[3]);
                }
            }
            __syncthreads(); /* the stage is filled again */
        }
        for (int r = 0; r < 2; r++) {
            sum[r] += __shfl_xor_sync(~0u, sum[r], 1);
            sum[r] += __shfl_xor_sync(~0u, sum[r], 2);
            int token = row[r] / s.group;
            if (token >= a.n_tokens)
                continue;
            int head = kv_head * s.group + row[r] % s.group;
            store_row<d>(&values[0][0], r, 1 / sum[r], lane % 4,
                         out + (size_t)(a.token + token) * m.n_heads * d + head * d);
        }
    }
}

} // namespace

#include "backend/cuda/attention_90a.cuh"

namespace {

/* ---- launches ---- */

template <int d, bool FP8>
cudaError_t launch(const nb_cuda_model &m, const nb_cuda_step &step, const nb_cuda_queries &queries,
                   int32_t layer, const nb_cuda_projected *projected, const __nv_bfloat16 *q,
                   __nv_bfloat16 *out, const plan &p, const nb_cuda_limits &l,
                   cudaStream_t stream) {
    shape s = shape_of(&m, l.sm_count, queries.n);
    int32_t longest_short = SHORT_TILES * s.tile_tokens;
    if (queries.longest_run > longest_short) {
        int n_runs = min(l.max_sequences, queries.n / (longest_short + 1));
        int tiles = nb_div_up(queries.n, s.long_tokens) + n_runs;
        CUtensorMap map;
        if (!FP8 && has_wide<d>(l) && make_map(m, &map)) {
            NB_CUDA_TRY(launch_wide<d>(m, step, queries, layer, q, out, p, map, l,
                                       tiles * m.n_kv_heads, stream));
        } else {
            int bytes = 2 * (int)sizeof(stage<d>);
            NB_CUDA_TRY(cudaFuncSetAttribute(attend_long<d, FP8>,
                                             cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
            NB_CUDA_TRY(nb_launch(attend_long<d, FP8>, tiles * m.n_kv_heads, 256, bytes,
                                  l.compute_capability, stream, m, step, queries, s, p, layer, q,
                                  out));
        }
    }
    /* One long run and nothing else has no short ones. */
    if (queries.one_run && queries.n > longest_short)
        return cudaSuccess;
    int parts = queries.n + s.target;
    int most = nb_div_up(l.sm_count * 2 * SHORT_BLOCKS, s.columns);
    auto kernel = projected ? attend_short<d, FP8, true> : attend_short<d, FP8, false>;
    /* Shared memory that nothing is put in, so that an SM, which has 228 KiB, has no third block.
     */
    bool large = l.compute_capability == 90 || l.compute_capability == 100;
    int spare = s.blocks == 2 && large ? 68 << 10 : 0;
    NB_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, spare));
    return nb_launch(kernel, dim3(parts < most ? parts : most, s.columns), SHORT_WARPS * 32, spare,
                     l.compute_capability, stream, m, step, queries, s, p, layer,
                     projected ? *projected : nb_cuda_projected(), q, out);
}

} // namespace

int nb_cuda_attention_supports(const struct nb_cuda_model *m, const struct nb_cuda_limits *l) {
    return (m->head_width == 64 || m->head_width == 128) && m->n_heads % m->n_kv_heads == 0 &&
           m->n_heads / m->n_kv_heads <= LONG_ROWS && l->compute_capability >= 80;
}

size_t nb_cuda_attention_workspace(const struct nb_cuda_model *m, const struct nb_cuda_limits *l) {
    plan p;
    return place_plan(m, l, NULL, &p);
}

int nb_cuda_attention_rotates(const struct nb_cuda_queries *queries) {
    return queries->longest_run == 1 && !queries->row;
}

cudaError_t nb_cuda_attention_plan(const struct nb_cuda_model *m, const struct nb_cuda_step *s,
                                   const struct nb_cuda_queries *queries, void *workspace,
                                   const struct nb_cuda_limits *l, cudaStream_t stream) {
    plan p;
    place_plan(m, l, workspace, &p);
    return nb_launch(make_plan, 1, PLAN_THREADS, 0, l->compute_capability, stream, *m, *s, *queries,
                     shape_of(m, l->sm_count, queries->n), p);
}

cudaError_t nb_cuda_attention(const struct nb_cuda_model *m, const struct nb_cuda_step *s,
                              const struct nb_cuda_queries *queries, int32_t layer,
                              const struct nb_cuda_projected *projected, const __nv_bfloat16 *q,
                              __nv_bfloat16 *out, void *workspace, const struct nb_cuda_limits *l,
                              cudaStream_t stream) {
    if (projected && !nb_cuda_attention_rotates(queries))
        return cudaErrorInvalidValue;
    plan p;
    place_plan(m, l, workspace, &p);
    if (m->head_width == 64)
        return m->kv_fp8
                   ? launch<64, true>(*m, *s, *queries, layer, projected, q, out, p, *l, stream)
                   : launch<64, false>(*m, *s, *queries, layer, projected, q, out, p, *l, stream);
    return m->kv_fp8
               ? launch<128, true>(*m, *s, *queries, layer, projected, q, out, p, *l, stream)
               : launch<128, false>(*m, *s, *queries, layer, projected, q, out, p, *l, stream);
}
