/* A step of up to 8 tokens in one kernel that stays on the GPU: a block a multiprocessor, all
 * layers.
 *
 * A step of few tokens reads every weight that works on them once, and little else: what it can
 * reach is what the memory gives. So each block has a warp (the producer) that does nothing but
 * copy units of weights, in the order they will be wanted, into a ring in shared memory, across all
 * phases and layers: weights do not depend on activations, except which experts' they are. 16 warps
 * multiply; two finishers add up what those made of a tile of 16 rows and pass it on; the router
 * chooses experts.
 *
 * A layer has five phases: q, k and v; attention; o; gate and up; down. In each, tile i of a matrix
 * is done by block i % gridDim.x, whole, so that no two blocks add to the same sum; the results
 * have the same bits on every run. The residual stream stays in the shared memory of the blocks
 * that have its rows. There is no barrier over the grid: blocks pass one another words that say by
 * themselves whether they were written (NOTHING is no result of arithmetic), and whoever needs them
 * loads them until they are there. That is one trip through the L2 cache where a barrier and a load
 * after it are three. Tiles of gate and up are done in an order in which down's input is complete
 * from its beginning, so that between those two phases nothing waits.
 *
 * What binds it, for one token of Mixtral 8x7B on an H200: nothing alone. For a unit of 32 chunks
 * (16,928 bytes) shared memory has 16 wavefronts a chunk of loads from the table of pairs, 4 to read
 * codes and 4 to write them, some 9 a warp for scales and 32 for sums: about 940, where the memory
 * needs 900 cycles. A warp has 290 instructions for its part of a tile, and waits for one thing
 * after another. And units must be asked for as fast: see produce(). Spilled registers cost a
 * multiple of anything else here: with 227 KiB of shared memory taken, local memory has next to no
 * L1 cache. Look for LDL in loops after each change. (Prefetching the next layer's attention weights
 * into the L2 cache while experts are chosen measured slower.)
 *
 * What is known, by NB_DECODE_TRACE, at a context of 129:
 *   - What is between the products, in us since the last block had multiplied the layer before (the
 *     trace of tests/cuda_decode.cu prints it, and more): that block's rows of x are passed on at
 *     1.3; x is there at 1.5 in the median block, at 2.6 in the last; the last rows of q, k and v are
 *     passed on at 5.9; a head of queries is there at 6.7 to 7.2, all are ready at 7.7, attended to at
 *     9.5, all warps' sums combined at 10.5 to 11; x of o is there at 12.0 in most blocks, and in the
 *     8 that attended at 13; its rows are passed on at 15.4, scores added up at 16.4, the list made
 *     at 16.9. A trip through the L2 cache is 0.4 to 0.7 us of that. The rest is code that runs once
 *     a layer, whose instructions follow one another. Blocks that come late are others each time
 *     (of 100 waits for x one is 1.2 us longer than the median).
 *   - Blocks end down with a standard deviation of 1 us, others in each layer, and the median 2.3 us
 *     before the last. So it gained nothing to give the 20 tiles of gate and up that are left over
 *     to blocks with one tile of down less.
 *   - Gate and up take 31 us from the list of experts on, of which 2 until the first weights are
 *     there, where a plain read takes 26. Bulk copies of units that begin anywhere reach 4,100 GB/s,
 *     of units at lines of 128 bytes 4,570 (and 4,540 in four parts, which cost more than they
 *     gain): see skew_of.
 *   - From 240 positions on a context is split, among all blocks there are. That costs 1.5 us a
 *     layer from when the last split is stored to when all are joined; 8 positions take a warp 1 us,
 *     that is the instructions of 16 warps, and 2.3 where keys and values are not in registers when
 *     queries come. At 8,192 positions a layer takes 15 us more than at 129, where reading keys and
 *     values takes 7.4. Asking for them all while gate and up are multiplied lost 2 %: it is the
 *     memory that binds there.
 *   - With the ring full of requests the L2 cache is slow to answer: so x of down is asked for four
 *     units ahead and before gate and up's end.
 *   - Lanes without a token that load zeros from one place make that line of the L2 cache a
 *     bottleneck: not loading is 2.5 %.
 *   - A struct that is only filled under a condition inside the loop over layers is kept in
 *     registers all through it; one of 32 registers was the cause of nearly all spills.
 *   - The fence in free_stage and its like cost up to 4 % at 1 token. Before it was there steps of
 *     5 to 8 tokens at widths of 4,096 were wrong on a GPU (a late read of down's last units finding
 *     the next layer's would explain it). With one or two tokens the arrival needs what was read
 *     instead (when_there), and the same tests pass.
 */
#include "backend/cuda/decode_attention.cuh"
#include "backend/cuda/decode_finish.cuh"
#include "backend/cuda/decode_product.cuh"
#include "backend/cuda/decode_state.cuh"

#include "base/layout.h"

#include <string.h>

#ifdef NB_DECODE_TRACE
unsigned long long *nb_cuda_decode_trace; /* device: [sm_count, n_layers + 1, NOTES] */
#endif

namespace {

/* ---- the ring ---- */

struct producer {
    const params &p;
    shared &sh;
    struct ring ring;
    uint64_t policy;
};

/* How many tiles of a phase's matrix this block has, and where units of its i-th are. */
struct phase_tiles {
    const uint8_t *data;
    int32_t n, n_experts; /* experts: of DOWN, which does them all for each tile */
    bool streaming;
};

[[maybe_unused]] __device__ __forceinline__ phase_tiles tiles_of(const params &p, const shared &sh,
                                                                  int32_t layer, int32_t phase) {
    const matrix &m = p.matrices[phase];
    const layer_pointers &l = p.layers[layer < p.m.n_layers ? layer : 0];
    phase_tiles t = {nullptr, sh.n_own[phase], 1, phase == DOWN || !is_resident(m)};
    switch (phase) {
    case QKV:
        t.data = l.qkv;
        break;
    case O:
        t.data = l.o;
        break;
    case GATE_UP:
        t.data = l.gate_up;
        break;
    case DOWN:
        t.data = l.down;
        t.n_experts = sh.n_list;
        break;
    case HEAD:
        t.data = p.m.head.data;
        t.streaming = t.streaming && m.kind != NB_CUDA_BF16;
        break;
    }
    return t;
}

/* Copies a unit into the stage that is next, when that is free, so far from its beginning. */
[[maybe_unused]] __device__ __forceinline__ void
fill_stage(producer &w, const uint8_t *unit, uint32_t bytes, uint32_t skew) {
    struct ring &ring = w.ring;
    uint64_t *full = &w.sh.full[ring.stage];
    barrier_wait(&w.sh.empty[ring.stage], ring.turn ^ 1);
    barrier_expect(full, bytes);
    bulk_load(ring.at + skew, unit, bytes, full, w.policy);
    ring.next(w.p);
}

/* The same for two units that the mma warps take together: both are there when the first stage's
 * barrier says so. */
[[maybe_unused]] __device__ __forceinline__ void
fill_two_stages(producer &w, const uint8_t *first, const uint8_t *second, uint32_t bytes,
                uint32_t skew0, uint32_t skew1) {
    struct ring &ring = w.ring;
    uint64_t *full = &w.sh.full[ring.stage];
    uint32_t at = ring.at;
    barrier_wait(&w.sh.empty[ring.stage], ring.turn ^ 1);
    ring.next(w.p);
    barrier_wait(&w.sh.empty[ring.stage], ring.turn ^ 1);
    barrier_expect(full, 2 * bytes);
    bulk_load(at + skew0, first, bytes, full, w.policy);
    bulk_load(ring.at + skew1, second, bytes, full, w.policy);
    barrier_arrive(&w.sh.full[ring.stage]);
    ring.next(w.p);
}

/* Which unit of a tile comes next: unit u of the e-th expert, which begins so many bytes from the
 * tile's first of expert 0. */
struct unit_place {
    int32_t e, u;
    uint64_t at;

    template <class F>
    __device__ __forceinline__ void advance(int32_t n_units, uint32_t bytes, F of_expert) {
        at += bytes;
        if (++u == n_units) {
            u = 0;
            at = of_expert(++e);
        }
    }
};

/* All units that this block's mma warps will take, in their order. One thread: what it does for
 * each is little (no division, no address from the beginning), for at the rate of the memory a unit
 * is a few hundred cycles, with the mma warps' instructions between its own. */
template <int COLUMNS> [[maybe_unused]] __device__ void produce(producer &w) {
    const params &p = w.p;
    int32_t L = p.m.n_layers;
#pragma unroll 1
    for (int32_t step = 0; step < HEAD * L + (p.s.n_logits > 0); step++) {
        int32_t layer = step / HEAD, phase = layer < L ? step % HEAD : HEAD;
        if (phase == GATE_UP) {
            wait_for_list(w.p, w.sh, layer);
            note(p, layer, 22);
        }
        const matrix &m = p.matrices[phase];
        const phase_tiles t = tiles_of(p, w.sh, layer, phase);
        const unit_order order = order_of<COLUMNS>(m, t.streaming);
        const int32_t units = t.n_experts * m.n_units, n_units = m.n_units;
        const uint32_t unit_bytes = m.unit_bytes;
        const uint64_t bytes = m.bytes, tile_bytes = (uint64_t)n_units * unit_bytes;
        const bool skewed = order.tiles == 1 && order.units == 2;
        auto first_unit = [&](int32_t i) {
            int32_t tile = own_index(i), e = 0;
            for (; phase == GATE_UP && tile >= m.n_tiles; e++)
                tile -= m.n_tiles;
            return t.data + (phase == GATE_UP ? w.sh.list[e] * bytes : 0) + tile * tile_bytes;
        };
        auto of_expert = [&](int32_t e) {
            return phase == DOWN && e < t.n_experts ? w.sh.list[e] * bytes : 0;
        };
#pragma unroll 1
        for (int32_t i = 0; i < t.n; i += order.tiles) {
            const uint8_t *tile = first_unit(i);
            const uint8_t *other =
                order.tiles > 1 && i + 1 < t.n ? first_unit(i + 1) : nullptr;
            unit_place next = {0, 0, of_expert(0)};
#pragma unroll 1
            for (int32_t left = units; left > 0; left -= order.units) {
                unit_place here;
#pragma unroll 1
                for (const uint8_t *from = tile; from; from = from == tile ? other : nullptr) {
                    here = next;
                    const uint8_t *unit = from + here.at;
                    uint32_t skew = skewed ? skew_of(m, (uint32_t)(unit - t.data)) : 0;
                    here.advance(n_units, unit_bytes, of_expert);
                    if (order.units == 2 && left > 1) {
                        const uint8_t *second = from + here.at;
                        fill_two_stages(w, unit, second, unit_bytes, skew,
 skewed ? skew_of(m, (uint32_t)(second - t.data)) : 0);
                        here.advance(n_units, unit_bytes, of_expert);
                    } else {
                        fill_stage(w, unit, unit_bytes, skew);
                    }
                }
                next = here;
            }
        }
    }
}

/* ---- the products ---- */

template <int COLUMNS, int WIDTH, int GROUP> __device__ __forceinline__ void work(worker &w) {
    const params &p = w.p;
    int32_t L = p.m.n_layers;
    bool together = is_resident(p.matrices[GATE_UP]) && in_narrow_twos(p.matrices[DOWN]);
#pragma unroll 1
    for (int32_t step = 0; step < HEAD * L + (p.s.n_logits > 0); step++) {
        int32_t layer = step / HEAD, phase = layer < L ? step % HEAD : HEAD;
        const exchange x = exchange_of(p, layer);
        const matrix &m = p.matrices[phase];
        enter(w, layer, phase == QKV || phase == HEAD ? 0 : phase == DOWN ? 5 : phase + 1);
        bool streaming = phase == DOWN || (!is_resident(m) && m.kind != NB_CUDA_BF16);
        if (phase == GATE_UP) {
            if (streaming) /* else multiply_resident waits, when it has x */
                wait_for_list(p, w.sh, layer);
            enter(w, layer, 4);
        }
        if (COLUMNS == 2 && phase == GATE_UP && together) {
            const matrix &down = p.matrices[DOWN];
            multiply_experts(w, m, down, {x.x_expert, (uint32_t)m.chunks * NB_CUDA_CHUNK, false},
                             {x.inner, (uint32_t)down.chunks * NB_CUDA_CHUNK, true}, layer);
            stamp(w, layer, 6);
            step++;
            continue;
        }
        inputs in = {phase == GATE_UP ? x.x_expert
                     : phase == O     ? x.attended
                     : phase == DOWN  ? x.inner
                                      : x.x_attention,
                     (uint32_t)m.chunks * NB_CUDA_CHUNK, phase == DOWN};
        int32_t n = w.sh.n_own[phase];
        if (streaming)
            multiply_streaming<COLUMNS>(w, m, in, rows_of(p, phase),
                                        phase == DOWN ? w.sh.n_list : 1, n);
        else if (m.kind == NB_CUDA_BF16 && n > 0)
            multiply_bf16(w, m, in, n);
        else if (phase == GATE_UP || n > 0)
            multiply_resident<COLUMNS>(w, m, in, layer, phase);
        if (phase == QKV) {
            enter(w, layer, 1);
            attention<WIDTH, GROUP>(w, layer);
        }
        if (phase == DOWN || phase == HEAD)
            stamp(w, layer, phase == DOWN ? 6 : 1);
    }
}

/* ---- the kernel ---- */

/* bf16 bits of value i of the model's 4-bit codes. */
__device__ __forceinline__ uint32_t value_bits(const float *values, int32_t i) {
    return __bfloat16_as_ushort(__float2bfloat16_rn(__ldg(values + i)));
}

[[maybe_unused]] __device__ void set_up(const params &p, shared &sh, uint8_t *table) {
    int32_t i = threadIdx.x;
    const float *values = p.m.values + 16 * p.layers_values;
    if (i == 0) {
        for (int32_t k = 0; k < MAX_STAGES; k++) {
            barrier_init(&sh.full[k], 1);
            barrier_init(&sh.empty[k], MMA_WARPS * ARRIVALS);
        }
        for (int32_t k = 0; k < SLOTS; k++) {
            barrier_init(&sh.slot_full[k], MMA_WARPS * ARRIVALS);
            barrier_init(&sh.slot_free[k], ARRIVALS);
        }
        barrier_init(&sh.list_ready, ARRIVALS);
        barrier_init(&sh.weights_ready, ARRIVALS);
        barrier_init(&sh.scored, FINISHERS * ARRIVALS);
        barriers_ready();
    }
    for (int32_t k = i; k < 256 * 32; k += THREADS) {
        int32_t byte = k / 32;
        *(uint32_t *)(table + byte * 256 + k % 32 * 4) =
            value_bits(values, byte >> 4) | value_bits(values, byte & 15) << 16;
    }
    for (int32_t k = i; k < 256 * 8; k += THREADS)
        sh.nested_values[k] = p.m.nested_values ? __ldg(p.m.nested_values + k / 8) : 0;
    int32_t half = p.m.head_width / 2;
    for (int32_t k = i; k < p.s.n_tokens * half; k += THREADS) {
        float angle = (float)__ldg(p.s.position + k / half) * __ldg(p.m.frequencies + k % half);
        float *turn = sh.rope[k / half][k % half];
        sincosf(angle, &turn[1], &turn[0]);
    }
    if (i < MMA_WARPS)
        sh.tile[i] = 0;
    if (i < 32)
        sh.numbers[i] = i;
    if (i == 0) {
        sh.group = p.m.n_heads / p.m.n_kv_heads;
        sh.to_values = p.m.n_kv_heads * NB_PAGE_TOKENS * p.m.head_width;
    }
    if (i < N_PHASES)
        sh.n_own[i] = own_share(p.matrices[i].n_tiles);
    if (i <= FEW_EXPERTS)
        sh.share_of[i] = own_share(i * p.matrices[GATE_UP].n_tiles);
    if (i < MAX_TOKENS) {
        sh.position[i] = i < p.s.n_tokens ? __ldg(p.s.position + i) : -1;
        sh.sequence[i] = i < p.s.n_tokens ? __ldg(p.s.sequence + i) : -1;
        sh.logits_row[i] = -1;
        for (int32_t k = 0; k < p.s.n_logits; k++) {
            if (__ldg(p.s.logits_of + k) == i)
                sh.logits_row[i] = k;
        }
    }
    for (int32_t k = i; k < MAX_GROUP * (MAX_HEAD + 8); k += THREADS)
        (&sh.q[0][0])[k] = __float2bfloat16_rn(0.0f);
    begin_stream(p, sh);
    if (p.m.dense && i / 32 == ROUTER)
        choose_the_one(p, sh, i % 32);
    __syncthreads();
    if (i == 0)
        first_unit_of(p, sh);
    __syncthreads();
}

template <int COLUMNS, int WIDTH, int GROUP>
__global__ void __launch_bounds__(THREADS, 1) decode(const __grid_constant__ params p) {
#if __CUDA_ARCH__ >= 900 && __CUDA_ARCH__ < 1100 /* what has the shared memory */
    uint8_t *memory = shared_memory();
    uint32_t base = shared_address(memory);
    if (base > SHARED_BASE)
        __trap();
    uint8_t *table = memory + (TABLE_AT - base);
    shared &sh = *(shared *)memory;
    uint32_t first = base + (uint32_t)sizeof(shared);
    struct ring ring = {0, 0, first, first};
    int32_t warp = __shfl_sync(~0U, threadIdx.x / 32, 0), lane = threadIdx.x % 32;
    set_up(p, sh, table);
    if (warp < MMA_WARPS) {
        worker w = {p, sh, table, kept(TABLE_AT + (uint32_t)lane * 4)};
        w.ring = ring;
        w.warp = warp;
        w.lane = lane;
        w.g = lane / 4;
        w.q = lane % 4;
        w.scale_lane = lane / 4 + (COLUMNS == 4   ? (lane & 2) * 8
                                   : COLUMNS == 2 ? (lane & 1) * 16
                                                  : 0);
        work<COLUMNS, WIDTH, GROUP>(w);
        return;
    }
    if (warp == PRODUCER) {
        if (lane == 0) {
            producer w = {p, sh, ring, evict_first()};
            produce<COLUMNS>(w);
        }
    } else if (warp == ROUTER) {
        route(p, sh, lane);
    } else {
        finish<COLUMNS>(p, sh, table, warp - FINISHER, lane);
    }
#endif
}

/* ---- the host's side ---- */

enum { SHARED_LIMIT = 227 * 1024 };

/* Stages before the table, and in all. */
uint32_t front_stages(uint32_t stage) {
    return (TABLE_AT - SHARED_BASE - sizeof(shared)) / stage;
}

uint32_t all_stages(uint32_t stage) {
    uint32_t n =
        front_stages(stage) + (SHARED_LIMIT - (TABLE_AT + TABLE_BYTES - SHARED_BASE)) / stage;
    return n < MAX_STAGES ? n : MAX_STAGES;
}

/* stage: bytes of a stage of the ring. */
matrix matrix_of(const nb_cuda_matrix &w, uint32_t stage) {
    const struct nb_cuda_shape &s = w.shape;
    matrix m = {};
    m.kind = s.kind, m.n_tiles = s.n_tiles, m.n_units = s.n_units, m.unit_chunks = s.unit_chunks;
    m.chunks = s.columns / NB_CUDA_CHUNK;
    while (1 << m.shift < s.block_chunks)
        m.shift++;
    m.row_blocks = s.row_blocks, m.n_nested = s.n_nested;
    m.aligned = 8 * s.row_blocks % 256 == 0;
    m.scale_bytes = s.scale_bytes, m.code_bytes = s.code_bytes, m.unit_bytes = s.unit_bytes;
    m.bytes = s.bytes;
    uint32_t step = s.unit_bytes & -s.unit_bytes, most = step < 128 ? 128 - step : 0;
    m.skew = s.bytes % 128 == 0 && s.unit_bytes + most <= stage ? 127 : 0;
    return m;
}

/* Whether units of a matrix can pass through the ring, its codes standing for the same values as
 * all others'. */
bool takes(const nb_cuda_matrix &w, int32_t values, bool bf16) {
    const struct nb_cuda_shape &s = w.shape;
    if (s.columns % NB_CUDA_CHUNK)
        return false;
    if (s.kind == NB_CUDA_BF16)
        return bf16 && s.unit_chunks <= 8;
    return w.values == values && s.unit_chunks <= 32 && s.scales_per_chunk == 1 &&
           (s.block_chunks & (s.block_chunks - 1)) == 0;
}

bool same(const struct nb_cuda_shape &a, const struct nb_cuda_shape &b) {
    return a.kind == b.kind && a.rows == b.rows && a.columns == b.columns &&
           a.block_chunks == b.block_chunks && a.n_nested == b.n_nested &&
           a.scales_per_chunk == b.scales_per_chunk && a.bytes == b.bytes;
}

int grid_size(const nb_cuda_model *m, const nb_cuda_limits *l) {
    int tiles = m->width / ROWS; /* every block has some of the residual stream */
    return l->sm_count < tiles ? l->sm_count : tiles;
}

uint32_t stage_bytes(const nb_cuda_model *m) {
    const nb_cuda_layer &l = m->host_layers[0];
    const nb_cuda_matrix *all[] = {&l.qkv, &l.o, &l.gate_up, &l.down, &m->head};
    uint32_t most = 0;
    for (const nb_cuda_matrix *w : all)
        most = w->shape.unit_bytes > most ? w->shape.unit_bytes : most;
    return (most + 127) / 128 * 128;
}

template <class T> void place_part(nb_layout *layout, T **out, size_t n) {
    *out = (T *)nb_layout_place(layout, n * sizeof(T));
}

/* Splits of a context: one where it is short, since they cost another trip between blocks, else as
 * many as there are blocks for. (Fewer, so that each has 16 pages, left more of what joins them to
 * each block: 8 % of a token's time at 1,025 positions.) From 15 pages on a warp has three of a
 * context's halves of pages, and a split is faster. */
int splits(const nb_cuda_model *m, int tokens, int max_position, int blocks) {
    int pages = max_position / NB_PAGE_TOKENS + 1;
    if (m->window && pages > m->window / NB_PAGE_TOKENS + 2)
        pages = m->window / NB_PAGE_TOKENS + 2;
    int most = blocks / (tokens * m->n_kv_heads);
    if (pages < MMA_WARPS || most < 1)
        return 1;
    return most < MAX_SPLITS ? most : MAX_SPLITS;
}

size_t place_exchange(const nb_cuda_model *m, int tokens, int units, void *base, exchange *x) {
    nb_layout layout = {(uint8_t *)base, 0};
    size_t T = (size_t)tokens, D = m->width, H = m->n_heads, d = m->head_width, tiles = D / ROWS;
    place_part(&layout, &x->x_attention, T * D);
    place_part(&layout, &x->squares_attention, T * tiles);
    place_part(&layout, &x->qkv, T * (H + 2 * m->n_kv_heads) * d);
    place_part(&layout, &x->part, (size_t)units * (H / m->n_kv_heads) * (d + 2));
    place_part(&layout, &x->attended, T * H * d);
    place_part(&layout, &x->x_expert, T * D);
    place_part(&layout, &x->squares_expert, T * tiles);
    place_part(&layout, &x->scores_of_tile, tiles * T * m->n_experts);
    place_part(&layout, &x->scores, T * m->n_experts);
    place_part(&layout, &x->inner, T * m->experts_per_token * m->expert_width);
    return layout.used;
}

typedef void (*kernel)(const params);

template <int COLUMNS> kernel kernel_of(int width, int group) {
    if (width == 64)
        return decode<COLUMNS, 64, 8>;
    return group <= 4 ? decode<COLUMNS, 128, 4> : decode<COLUMNS, 128, 8>;
}

} // namespace

/* Heads of 64 are left to batch.cu until tests/cuda_decode.cu has passed on a GPU with 1 here:
 * there was a race in them, and since it was mended no GPU was at hand. */
#ifndef NB_DECODE_HEADS_64
#define NB_DECODE_HEADS_64 0
#endif

int nb_cuda_decode_supports(const struct nb_cuda_model *m, const struct nb_cuda_limits *l) {
    if (l->compute_capability < 90 || l->compute_capability >= 110 || m->kv_fp8 ||
        m->n_layers > MAX_LAYERS || m->n_layers < 1)
        return 0;
    int d = m->head_width, group = m->n_heads / m->n_kv_heads, blocks = grid_size(m, l);
    if ((d != 128 && !(d == 64 && NB_DECODE_HEADS_64)) || group > MAX_GROUP || m->width % 64 ||
        m->expert_width % 64 || m->n_experts > 128 || m->experts_per_token > MAX_CHOSEN ||
        m->width / ROWS > MAX_OWN * blocks)
        return 0;
    int32_t values = m->host_layers[0].qkv.values;
    for (int i = 0; i < m->n_layers; i++) {
        const nb_cuda_layer &a = m->host_layers[i], &b = m->host_layers[0];
        const nb_cuda_matrix *of[] = {&a.qkv, &a.o, &a.gate_up, &a.down},
                             *first[] = {&b.qkv, &b.o, &b.gate_up, &b.down};
        for (int k = 0; k < 4; k++) {
            if (!takes(*of[k], values, false) || !same(of[k]->shape, first[k]->shape))
                return 0;
        }
    }
    return takes(m->head, values, true) && all_stages(stage_bytes(m)) >= 4;
}

size_t nb_cuda_decode_workspace(const struct nb_cuda_model *m, const struct nb_cuda_limits *l) {
    exchange x;
    return nb_cuda_decode_supports(m, l)
               ? (size_t)EXCHANGES * place_exchange(m, MAX_TOKENS, grid_size(m, l), nullptr, &x)
               : 0;
}

cudaError_t nb_cuda_decode_forward(const struct nb_cuda_model *m, const struct nb_cuda_step *s,
                                   void *workspace, const struct nb_cuda_limits *l,
                                   cudaStream_t stream) {
    static thread_local params p; /* large, and copied by the launch */
    int blocks = grid_size(m, l);
    if (s->n_tokens < 1 || s->n_tokens > MAX_TOKENS || s->n_logits > s->n_tokens)
        return cudaErrorInvalidValue;
    memset(&p, 0, sizeof p);
    p.m = *m;
    p.s = *s;
    const nb_cuda_layer &first = m->host_layers[0];
    p.stage_bytes = stage_bytes(m);
    const nb_cuda_matrix *of_phase[] = {&first.qkv, &first.o, &first.gate_up, &first.down, &m->head};
    for (int i = 0; i < N_PHASES; i++)
        p.matrices[i] = matrix_of(*of_phase[i], p.stage_bytes);
    p.layers_values = first.qkv.values;
    p.n_splits = splits(m, s->n_tokens, s->max_position, blocks);
    p.n_stages = all_stages(p.stage_bytes);
    p.n_front = front_stages(p.stage_bytes);
#ifdef NB_DECODE_TRACE
    p.trace = nb_cuda_decode_trace;
#endif
    for (int i = 0; i < m->n_layers; i++) {
        const nb_cuda_layer &a = m->host_layers[i];
        p.layers[i] = {a.qkv.data,    a.o.data, a.gate_up.data, a.down.data, a.attention_norm,
                       a.expert_norm, a.router, a.q_norm,       a.k_norm};
    }
    p.exchange_bytes = (uint32_t)place_exchange(
        m, s->n_tokens, p.n_splits > 1 ? s->n_tokens * m->n_kv_heads * p.n_splits : 0, workspace,
        &p.exchange);
    cudaError_t error =
        cudaMemsetAsync(workspace, 0xFF, (size_t)EXCHANGES * p.exchange_bytes, stream);
    int group = m->n_heads / m->n_kv_heads;
    kernel f = s->n_tokens <= 2   ? kernel_of<2>(m->head_width, group)
               : s->n_tokens <= 4 ? kernel_of<4>(m->head_width, group)
                                  : kernel_of<8>(m->head_width, group);
    int shared_bytes = SHARED_LIMIT;
    if (error == cudaSuccess)
        error = cudaFuncSetAttribute(f, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     shared_bytes);
    if (error != cudaSuccess)
        return error;
    /* Cooperative: all blocks at once, or an error. */
    void *arguments[] = {&p};
    return cudaLaunchCooperativeKernel(f, dim3(blocks), dim3(THREADS), arguments,
                                       (size_t)shared_bytes, stream);
}
