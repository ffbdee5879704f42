/* Long runs on sm_90a: two warpgroups of consumers with 64 rows each, one of producers whose first
 * warp has the tensor copy engine bring keys and values, 8 pages at a time, into a ring of two
 * stages. A consumer's scores of one tile are multiplied beside the weights and values of the tile
 * before, and softmax runs beside the latter (after Shah et al., "FlashAttention-3", 2024; that the
 * two groups take turns at issuing products, as there, made no difference).
 *
 * Tiles are counted from the last page down, so that the first one alone has the diagonal (of
 * groups of 4 and more). Included by attention.cu.
 */
#ifndef NB_BACKEND_CUDA_ATTENTION_90A_CUH
#define NB_BACKEND_CUDA_ATTENTION_90A_CUH

#include "backend/cuda/wgmma.cuh"

#include <cuda.h>

namespace {

enum {
    WIDE_KEYS = 128, /* of a tile: the n of a product */
    WIDE_PAGES = WIDE_KEYS / NB_PAGE_TOKENS,
    WIDE_THREADS = 3 * 128,
    WIDE_STAGES = 2, /* three gave nothing */
};

/* Halves of 64 dimensions, 128 bytes a row, in the 128-byte swizzle of copy engine and wgmma. */
template <int d> struct wide_shared {
    uint8_t q[d / 64][LONG_ROWS][128];
    uint8_t k[WIDE_STAGES][d / 64][WIDE_KEYS][128];
    uint8_t v[WIDE_STAGES][d / 64][WIDE_KEYS][128];
    uint64_t k_full[WIDE_STAGES], k_empty[WIDE_STAGES], v_full[WIDE_STAGES], v_empty[WIDE_STAGES];
};

/* What both sides know of an item. */
struct wide_item {
    tile a;
    int32_t kv_head, position, last; /* positions of its first and last token */
    int32_t end_page, n_tiles;
    const int32_t *pages;
};

/* Items in snake order: the list goes from long to short, and each round turns around. */
__device__ inline bool wide_next(const nb_cuda_model &m, const nb_cuda_step &step, const plan &p,
                                 int32_t round, wide_item *w) {
    int32_t n = p.n->tiles * m.n_kv_heads, at = blockIdx.x;
    if (round % 2)
        at = gridDim.x - 1 - at;
    at += round * gridDim.x;
    if (at >= n)
        return false;
    w->a = p.tiles[at / m.n_kv_heads];
    w->kv_head = at % m.n_kv_heads;
    w->position = w->a.position;
    w->last = w->position + w->a.n_tokens - 1;
    w->pages = step.pages + (size_t)w->a.sequence * (size_t)step.max_pages;
    w->end_page = end_page(w->position, w->a.n_tokens);
    w->n_tiles = nb_div_up(w->end_page - first_page(m, w->position), WIDE_PAGES);
    return true;
}

#if NB_WGMMA

/* Descriptor of an operand in shared memory in the 128-byte swizzle. `stride` bytes lie between
 * groups of 8 rows, `leading` between blocks of 64 columns where the operand is read across rows.
 */
__device__ inline uint64_t operand(const void *shared, uint32_t leading, uint32_t stride) {
    return (uint64_t)((address_of(shared) & 0x3FFFF) >> 4) | (uint64_t)(leading >> 4) << 16 |
           (uint64_t)(stride >> 4) << 32 | (uint64_t)1 << 62;
}

/* Barriers of hardware: 0 is __syncthreads', 1 and 2 are of one warpgroup each. */
enum { OWN_BARRIER = 1 };

template <int d>
__device__ void wide_produce(const nb_cuda_model &m, const nb_cuda_step &step,
                             const nb_cuda_queries &queries, const plan &p, int32_t layer,
                             const CUtensorMap *map, wide_shared<d> *sh) {
    int lane = threadIdx.x;
    int32_t page_rows = 2 * m.n_kv_heads * NB_PAGE_TOKENS;
    int32_t n_rows = m.n_layers * m.n_pages * page_rows;
    wide_item w;
    for (int32_t round = 0, n = 0; wide_next(m, step, p, round, &w); round++) {
        for (int32_t i = 0; i < w.n_tiles; i++, n++) {
            int stage = n % WIDE_STAGES, phase = n / WIDE_STAGES % 2;
            int32_t page = w.end_page - (i + 1) * WIDE_PAGES + lane, row = n_rows;
            if (page >= 0 && lane < WIDE_PAGES)
                row = (layer * m.n_pages + w.pages[page]) * page_rows + w.kv_head * NB_PAGE_TOKENS;
            barrier_wait_whole(address_of(&sh->k_empty[stage]), phase ^ 1);
            if (lane == 0)
                barrier_expect(address_of(&sh->k_full[stage]), (int)sizeof sh->k[0]);
            __syncwarp();
            for (int c = 0; c < d / 64 && lane < WIDE_PAGES; c++)
                copy_box(address_of(sh->k[stage][c][lane * NB_PAGE_TOKENS]), *map, 64 * c, row,
                         address_of(&sh->k_full[stage]));
            barrier_wait_whole(address_of(&sh->v_empty[stage]), phase ^ 1);
            if (lane == 0)
                barrier_expect(address_of(&sh->v_full[stage]), (int)sizeof sh->v[0]);
            __syncwarp();
            if (row < n_rows)
                row += m.n_kv_heads * NB_PAGE_TOKENS;
            for (int c = 0; c < d / 64 && lane < WIDE_PAGES; c++)
                copy_box(address_of(sh->v[stage][c][lane * NB_PAGE_TOKENS]), *map, 64 * c, row,
                         address_of(&sh->v_full[stage]));
        }
    }
}

/* A thread's two rows, g and g + 8 of its warp's 16. */
struct wide_rows {
    int32_t low[2], high[2]; /* positions that they see; a tile may begin before 0 */
    float max[2], sum[2];
};

/* Scores to weights, in place. keep: what sums and values so far are multiplied with. */
__device__ inline void wide_softmax(float (&s)[64], wide_rows *r, float (&keep)[2], bool masked,
                                    int32_t first, float scale) {
    int q = threadIdx.x % 4;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        float max = r->max[k];
        if (masked) {
#pragma unroll
            for (int n = 0; n < WIDE_KEYS / 8; n++) {
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    int32_t at = first + 8 * n + 2 * q + i;
                    if (at < r->low[k] || at > r->high[k])
                        s[4 * n + 2 * k + i] = -CUDART_INF_F;
                }
            }
        }
#pragma unroll
        for (int n = 0; n < WIDE_KEYS / 8; n++)
            max = fmaxf(max, fmaxf(s[4 * n + 2 * k], s[4 * n + 2 * k + 1]));
        max = fmaxf(max, __shfl_xor_sync(~0u, max, 1));
        max = fmaxf(max, __shfl_xor_sync(~0u, max, 2));
        float base = max == -CUDART_INF_F ? 0 : max * scale, more = 0;
        keep[k] = exp2_flushed(r->max[k] * scale - base);
        r->max[k] = max;
#pragma unroll
        for (int n = 0; n < WIDE_KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float w = exp2_flushed(s[4 * n + 2 * k + i] * scale - base);
                s[4 * n + 2 * k + i] = w;
                more += w;
            }
        }
        r->sum[k] = r->sum[k] * keep[k] + more;
    }
}

/* scores = q k^T, begun. */
template <int d>
__device__ inline void multiply_queries(float (&scores)[64], uint64_t a,
                                        const uint8_t (&k)[d / 64][WIDE_KEYS][128]) {
    uint64_t b = operand(k, 16, 1024);
    wgmma_hold(scores);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < d / 16; i++) {
        uint64_t ia = i / 4 * (LONG_ROWS * 128 / 16) + i % 4 * 2,
                 ib = i / 4 * (WIDE_KEYS * 128 / 16) + i % 4 * 2;
        wgmma_keys(scores, a + ia, b + ib, i > 0);
    }
    wgmma_commit();
}

/* values += weights v, begun. */
template <int d>
__device__ inline void multiply_values(float (&values)[d / 2],
                                       const uint32_t (&weights)[WIDE_KEYS / 4],
                                       const uint8_t (&v)[d / 64][WIDE_KEYS][128]) {
    uint64_t b = operand(v, WIDE_KEYS * 128, 1024);
    wgmma_hold(values);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < WIDE_KEYS / 16; i++)
        wgmma_values(values, &weights[4 * i], b + i * (16 * 128 / 16));
    wgmma_commit();
}

/* Zeros to the last rows of a tile of values: those that no token has written, where anything may
 * be, and 0 * NaN is NaN. A warpgroup. */
template <int d>
__device__ inline void clear_unwritten(uint8_t (&v)[d / 64][WIDE_KEYS][128], int n, int thread,
                                       int barrier) {
    for (int i = thread; i < n * d / 8; i += 128) {
        int r = WIDE_KEYS - n + i / (d / 8), c = i % (d / 8);
        *(uint4 *)&v[c / 8][r][16 * (c % 8)] = make_uint4(0, 0, 0, 0);
    }
    fence_async();
    threads_meet(barrier, 128);
}

template <int d>
__device__ void wide_consume(const nb_cuda_model &m, const nb_cuda_step &step,
                             const nb_cuda_queries &queries, const shape &s, const plan &p,
                             const __nv_bfloat16 *q, __nv_bfloat16 *out, wide_shared<d> *sh) {
    int thread = threadIdx.x % 128, lane = thread % 32, group = threadIdx.x / 128 - 1;
    bool arrives = lane == 0;
    float scale = rsqrtf((float)d) * CUDART_L2E_F;
    float scores[64], values[d / 2], keep[2];
    uint32_t weights[WIDE_KEYS / 4];
    wide_item w;
    for (int32_t round = 0, n = 0; wide_next(m, step, p, round, &w); round++) {
        for (int i = thread; i < 64 * d / 8; i += 128) { /* this group's queries */
            int r = 64 * group + i / (d / 8), c = i % (d / 8), token = r / s.group;
            uint4 x = make_uint4(0, 0, 0, 0);
            if (token < w.a.n_tokens) {
                int32_t row = queries.row ? queries.row[w.a.token + token] : w.a.token + token;
                x = *(const uint4 *)(q +
                                     ((size_t)row * m.n_heads + w.kv_head * s.group + r % s.group) *
                                         d +
                                     8 * c);
            }
            *(uint4 *)&sh->q[c / 8][r][16 * (c % 8 ^ r % 8)] = x;
        }
        fence_async();
        threads_meet(OWN_BARRIER + group, 128);
        wide_rows rows;
        int row[2];
#pragma unroll
        for (int k = 0; k < 2; k++) {
            row[k] = 64 * group + thread / 32 * 16 + lane / 4 + 8 * k;
            rows.high[k] = min(w.position + row[k] / s.group, w.last);
            rows.low[k] = m.window ? max(0, rows.high[k] - m.window + 1) : 0;
            rows.max[k] = -CUDART_INF_F, rows.sum[k] = 0;
        }
        /* The item's: a tile within needs no mask. */
        int32_t all_low = m.window ? max(0, w.last - m.window + 1) : 0, all_high = w.position;
#pragma unroll
        for (int i = 0; i < d / 2; i++)
            values[i] = 0;
        uint64_t a = operand(sh->q[0][64 * group], 16, 1024);
        int32_t unwritten = w.end_page * NB_PAGE_TOKENS - 1 - w.last;
        /* Straight code, so that the compiler sees which products are under way: scores of the
         * first tile; of each further one beside the values of the one before; the last values. */
        for (int32_t i = 0; i < w.n_tiles; i++, n++) {
            int stage = n % WIDE_STAGES, before = (n - 1) % WIDE_STAGES;
            int32_t first = (w.end_page - (i + 1) * WIDE_PAGES) * NB_PAGE_TOKENS;
            bool masked = first < all_low || first + WIDE_KEYS - 1 > all_high;
            barrier_wait_whole(address_of(&sh->k_full[stage]), n / WIDE_STAGES % 2);
            if (i == 0) {
                multiply_queries<d>(scores, a, sh->k[stage]);
                wgmma_wait<0>();
                wgmma_hold(scores);
                if (arrives)
                    barrier_arrive(address_of(&sh->k_empty[stage]));
                wide_softmax(scores, &rows, keep, masked, first, scale);
            } else {
                barrier_wait_whole(address_of(&sh->v_full[before]), (n - 1) / WIDE_STAGES % 2);
                if (i == 1 && unwritten > 0)
                    clear_unwritten<d>(sh->v[before], unwritten, thread, OWN_BARRIER + group);
                multiply_queries<d>(scores, a, sh->k[stage]);
                multiply_values<d>(values, weights, sh->v[before]);
                wgmma_wait<1>();
                wgmma_hold(scores);
                if (arrives)
                    barrier_arrive(address_of(&sh->k_empty[stage]));
                wide_softmax(scores, &rows, keep, masked, first, scale);
                wgmma_wait<0>();
                wgmma_hold(scores);
                wgmma_hold(values);
                if (arrives)
                    barrier_arrive(address_of(&sh->v_empty[before]));
#pragma unroll
                for (int k = 0; k < d / 2; k++)
                    values[k] *= keep[k / 2 % 2];
            }
#pragma unroll
            for (int k = 0; k < WIDE_KEYS / 4; k++)
                weights[k] = nb_pack_bf16(scores[2 * k], scores[2 * k + 1]);
        }
        int before = (n - 1) % WIDE_STAGES;
        barrier_wait_whole(address_of(&sh->v_full[before]), (n - 1) / WIDE_STAGES % 2);
        if (w.n_tiles == 1 && unwritten > 0)
            clear_unwritten<d>(sh->v[before], unwritten, thread, OWN_BARRIER + group);
        multiply_values<d>(values, weights, sh->v[before]);
        wgmma_wait<0>();
        wgmma_hold(values);
        if (arrives)
            barrier_arrive(address_of(&sh->v_empty[before]));
        threads_meet(OWN_BARRIER + group, 128); /* no product reads queries: they may be written */
#pragma unroll
        for (int k = 0; k < 2; k++) {
            float sum = rows.sum[k];
            sum += __shfl_xor_sync(~0u, sum, 1);
            sum += __shfl_xor_sync(~0u, sum, 2);
            int token = row[k] / s.group;
            if (token < w.a.n_tokens)
                store_row<d>(values, k, 1 / sum, lane % 4,
                             out + (size_t)(w.a.token + token) * m.n_heads * d +
                                 (w.kv_head * s.group + row[k] % s.group) * d);
        }
    }
}
#endif

template <int d>
__global__ void __launch_bounds__(WIDE_THREADS, 1)
    attend_wide(nb_cuda_model m, nb_cuda_step step, nb_cuda_queries queries, shape s, plan p,
                int32_t layer, const __nv_bfloat16 *q, __nv_bfloat16 *out,
                const __grid_constant__ CUtensorMap map) {
#if NB_WGMMA
    NB_DYNAMIC_SHARED(1, uint8_t, unaligned);
    wide_shared<d> *sh = (wide_shared<d> *)(unaligned + (-(uintptr_t)address_of(unaligned) & 1023));
    if (threadIdx.x == 0) {
        for (int i = 0; i < WIDE_STAGES; i++) {
            barrier_init(address_of(&sh->k_full[i]), 1);
            barrier_init(address_of(&sh->v_full[i]), 1);
            barrier_init(address_of(&sh->k_empty[i]), 8); /* warps of consumers */
            barrier_init(address_of(&sh->v_empty[i]), 8);
        }
        barriers_ready();
    }
    __syncthreads();
    nb_begin();
    if (threadIdx.x < 128) {
        give_registers<24>();
        if (threadIdx.x < 32)
            wide_produce<d>(m, step, queries, p, layer, &map, sh);
    } else {
        take_registers<240>();
        wide_consume<d>(m, step, queries, s, p, q, out, sh);
    }
#endif
}

/* KV memory as rows of d: pages of all layers, keys and values of all heads. */
bool make_map(const nb_cuda_model &m, CUtensorMap *out) {
    typedef CUresult (*encode_fn)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                                  const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                  const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle,
                                  CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
    static encode_fn encode; /* of the driver: found once */
    int64_t page_rows = (int64_t)2 * m.n_kv_heads * NB_PAGE_TOKENS;
    int64_t rows = (int64_t)m.n_layers * m.n_pages * page_rows;
    if (m.kv_fp8 || m.page_stride != page_rows * m.head_width || rows > INT32_MAX - 4096)
        return false;
    if (!encode) {
        void *found = NULL;
        cudaDriverEntryPointQueryResult result;
        if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                             cudaEnableDefault, &result) != cudaSuccess ||
            result != cudaDriverEntryPointSuccess)
            return false;
        encode = (encode_fn)found;
    }
    cuuint64_t size[2] = {(cuuint64_t)m.head_width, (cuuint64_t)rows};
    cuuint64_t stride[1] = {(cuuint64_t)m.head_width * 2};
    cuuint32_t box[2] = {64, NB_PAGE_TOKENS}, one[2] = {1, 1};
    return encode(out, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, m.kv, size, stride, box, one,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* Whether the kernel was compiled for this GPU: without sm_90a it is empty. */
template <int d> bool has_wide(const nb_cuda_limits &l) {
    cudaFuncAttributes a;
    return l.compute_capability == 90 && cudaFuncGetAttributes(&a, attend_wide<d>) == cudaSuccess &&
           a.numRegs > 100;
}

template <int d>
cudaError_t launch_wide(const nb_cuda_model &m, const nb_cuda_step &step,
                        const nb_cuda_queries &queries, int32_t layer, const __nv_bfloat16 *q,
                        __nv_bfloat16 *out, const plan &p, const CUtensorMap &map,
                        const nb_cuda_limits &l, int items, cudaStream_t stream) {
    int bytes = (int)sizeof(wide_shared<d>) + 1024;
    NB_CUDA_TRY(
        cudaFuncSetAttribute(attend_wide<d>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    return nb_launch(attend_wide<d>, items < l.sm_count ? items : l.sm_count, WIDE_THREADS, bytes,
                     l.compute_capability, stream, m, step, queries,
                     shape_of(&m, l.sm_count, queries.n), p, layer, q, out, map);
}

} // namespace

#endif
