/* gemm.h: which kernel multiplies, and its launch. */
#include "backend/cuda/gemm.h"

#include "backend/cuda/gemm_parts.cuh"
#include "backend/cuda/gemm_stream.cuh"
#include "backend/cuda/gemm_wide.cuh"

namespace {

/* Up to so many rows a group, on average, gemm_stream.cuh is faster than gemm_wide.cuh, which
 * decodes for 256 at a time and, of one group alone, leaves SMs idle. */
enum { STREAM_ROWS = 48, STREAM_ROWS_ALONE = 128, STREAM_ROWS_BF16 = 32 };
enum { MAX_PARTS = 16 }; /* of sums, that are left to who reads them */
enum { MAX_SMS = 512 };  /* flags are for that many blocks of at most 32 warps */
static_assert(MAX_SMS * 32 * sizeof(int32_t) <= NB_CUDA_GEMM_FLAGS, "flags fit");

/* Never run: what its attributes say tells whether the code that the driver chose has wgmma. */
__global__ void
#if defined(__CUDA_ARCH__) && NB_WGMMA
__launch_bounds__(64)
#else
__launch_bounds__(32)
#endif
    with_wgmma() {
}

cudaError_t has_wgmma(bool *out) {
    cudaFuncAttributes attributes;
    cudaError_t error = cudaFuncGetAttributes(&attributes, with_wgmma);
    *out = error == cudaSuccess && attributes.maxThreadsPerBlock == 64;
    return error;
}

struct args make_args(const struct nb_cuda_gemm &g, const struct nb_cuda_model &m,
                      void *workspace) {
    const struct nb_cuda_shape &s = g.w.shape;
    struct args a = {};
    a.g = g;
    a.form = s.kind == NB_CUDA_NESTED  ? NESTED
             : s.kind == NB_CUDA_BF16  ? FLOATS
             : s.scales_per_chunk == 2 ? HALVES
                                       : ABSMAX;
    a.values = m.values + 16 * g.w.values, a.nested_values = m.nested_values;
    a.flags = (int32_t *)workspace;
    a.partial = (float *)((uint8_t *)workspace + NB_CUDA_GEMM_FLAGS);
    a.x_chunks = div_up(s.columns, NB_CUDA_CHUNK), a.x_vectors = 8 * a.x_chunks;
    a.piece = a.form == FLOATS ? 1 : PIECE;
    a.pieces = div_up(s.unit_chunks, a.piece);
    a.whole = s.unit_chunks % PIECE == 0 && a.x_chunks % PIECE == 0;
    int32_t last = a.x_chunks - 1;
    a.k_steps = last / s.unit_chunks * a.pieces + last % s.unit_chunks / a.piece + 1;
    a.chunk_bytes = a.form == FLOATS ? 2 * NB_CUDA_TILE * NB_CUDA_CHUNK : NB_CUDA_CHUNK_CODES;
    a.scale_stride = a.form == NESTED ? 16 : a.form == ABSMAX ? 64 : a.form == HALVES ? 128 : 0;
    a.header_bytes = a.form == NESTED ? (int32_t)s.scale_bytes : 0;
    a.slot_bytes = CODE_BYTES + a.piece * a.scale_stride + a.header_bytes;
    while (1 << a.block_shift < s.block_chunks)
        a.block_shift++;
    return a;
}

/* The driver's function that makes tensor maps; it is found at run time, so that the program starts
 * without a driver. */
cudaError_t find_encoder(decltype(&cuTensorMapEncodeTiled) *out) {
    void *found = nullptr;
    cudaDriverEntryPointQueryResult result;
    cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000,
                                                         cudaEnableDefault, &result);
    *out = (decltype(&cuTensorMapEncodeTiled))found;
    if (error == cudaSuccess && result != cudaDriverEntryPointSuccess)
        error = cudaErrorNotSupported;
    return error;
}

/* args' maps of weights, for stages of `tiles` tiles. */
cudaError_t map_weights(struct args &a, int tiles) {
    decltype(&cuTensorMapEncodeTiled) encode;
    cudaError_t error = find_encoder(&encode);
    if (error != cudaSuccess)
        return error;
    const struct nb_cuda_shape &s = a.g.w.shape;
    cuuint64_t dims[4] = {s.unit_bytes / 8, (cuuint64_t)s.n_units, (cuuint64_t)s.n_tiles,
                          (cuuint64_t)a.g.n_groups};
    cuuint64_t strides[3] = {s.unit_bytes, (cuuint64_t)s.n_units * s.unit_bytes, s.bytes};
    cuuint32_t ones[4] = {1, 1, 1, 1};
    const int bytes[3] = {CODE_BYTES, a.piece * a.scale_stride, a.header_bytes};
    CUtensorMap *maps[3] = {&a.codes, &a.scales, &a.header};
    for (int i = 0; i < 3; i++) {
        cuuint32_t box[4] = {(cuuint32_t)bytes[i] / 8, 1, (cuuint32_t)tiles, 1};
        if (bytes[i] == 0)
            continue;
        if (encode(maps[i], CU_TENSOR_MAP_DATA_TYPE_UINT64, 4, (void *)a.g.w.data, dims, strides,
                   box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_NONE,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) != CUDA_SUCCESS)
            return cudaErrorInvalidValue;
    }
    return cudaSuccess;
}

/* args' map of x, which is at `x`, n rows in the order of y's. */
cudaError_t map_tokens(struct args &a, const void *x) {
    decltype(&cuTensorMapEncodeTiled) encode;
    cudaError_t error = find_encoder(&encode);
    if (error != cudaSuccess)
        return error;
    cuuint64_t dims[2] = {(cuuint64_t)a.x_chunks * NB_CUDA_CHUNK, (cuuint64_t)a.g.n};
    cuuint64_t strides[1] = {(cuuint64_t)a.x_vectors * 16};
    cuuint32_t box[2] = {NB_CUDA_CHUNK, WIDE_X_ROWS}, ones[2] = {1, 1};
    CUresult made = encode(&a.tokens, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)x, dims, strides,
                           box, ones, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                           CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return made == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

template <class... T>
cudaError_t launch(void (*kernel)(T...), int blocks, int threads, int shared,
                   const struct nb_cuda_limits &l, cudaStream_t stream, T... arguments) {
    cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    if (error != cudaSuccess)
        return error;
    cudaLaunchConfig_t config = {};
    config.gridDim = blocks, config.blockDim = threads, config.dynamicSmemBytes = shared;
    config.stream = stream;
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &overlap, config.numAttrs = l.compute_capability >= 90;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

/* Steps that each block takes of one group's product, whose tiles have a.n_max tokens at most, and
 * whether what blocks have of a tile stays in parts. */
template <class T> void cut_steps(struct args &a, const struct nb_cuda_limits &l) {
    int32_t tiles = div_up(a.g.n, a.n_max), all = a.m_blocks * tiles * a.k_steps;
    a.block_steps = div_up(all, l.sm_count);
    /* A block that has steps of two tiles ends late; a step more costs less. */
    int32_t of_tile = l.sm_count / (a.m_blocks * tiles);
    if (of_tile > 1 && div_up(a.k_steps, of_tile) <= a.block_steps + 1)
        a.block_steps = div_up(a.k_steps, of_tile);
    bool whole_heads = a.g.rotary_rows == 0 || T::WARPS * NB_CUDA_TILE % a.g.head_rows == 0;
    if (!a.g.parts || !whole_heads)
        return;
    int32_t most = (a.k_steps + a.block_steps - 2) / a.block_steps + 1; /* of a tile */
    if (most > MAX_PARTS || (int64_t)most * a.g.n > a.g.room)
        return;
    a.part_stride = (size_t)a.g.n * a.g.w.shape.rows;
    *a.g.parts = {a.block_steps,
                  a.k_steps,
                  T::WARPS * NB_CUDA_TILE,
                  tiles,
                  8 * div_up(div_up(a.g.n, tiles), 8),
                  a.part_stride};
}

/* Whether there must be room for choices. Not only where they are given: how tiles are cut must not
 * depend on who puts them in order, so that neither do sums. */
bool may_sort(const struct nb_cuda_gemm &g) {
    return (g.n_groups > 1 || g.choice) && g.n <= NB_CUDA_GEMM_CHOICES;
}

template <class T>
cudaError_t launch_stream(struct args a, const struct nb_cuda_limits &l, cudaStream_t stream) {
    int rest = T::SHARED - stream_ring_at<T> - T::STAGES * T::WARPS * a.slot_bytes -
               stream_rest_bytes<T>(a.g.n_groups, may_sort(a.g));
    int stage = a.piece * 1024; /* of x, for 8 tokens */
    int blocks = rest / (T::STAGES * stage);
    if (blocks < 1)
        return cudaErrorInvalidValue;
    blocks = blocks < STREAM_BLOCKS ? blocks : STREAM_BLOCKS;
    a.n_max = 8 * blocks;
    a.x_bytes = blocks * stage;
    a.m_blocks = div_up(a.g.w.shape.n_tiles, T::WARPS);
    if (a.g.n_groups == 1 && !a.g.begin && !a.g.choice)
        cut_steps<T>(a, l);
    if (l.compute_capability >= 90) {
        cudaError_t error = map_weights(a, T::WARPS);
        if (error != cudaSuccess)
            return error;
    }
    bool scaled = a.form == NESTED || a.form == ABSMAX;
    return launch(scaled ? stream_kernel<T, true> : stream_kernel<T, false>, l.sm_count,
                  T::THREADS, T::SHARED, l, stream, a);
}

/* What a tile of the grid costs next to another: its tokens, and decoding, which does not depend on
 * them. */
int wide_cost(int n) {
    return n + 48;
}

/* How many tokens tiles may have, so that the last round of tiles leaves few SMs idle. */
int wide_columns(const struct args &a, const struct nb_cuda_limits &l) {
    const int step = 8 * WIDE_STEP, most = 8 * WIDE_BLOCKS;
    int of_group = div_up(a.g.n, a.g.n_groups), best = most;
    int64_t least = INT64_MAX;
    for (int n = most; n >= 2 * step; n -= step) {
        int64_t tiles = (int64_t)a.g.n_groups * a.m_blocks * div_up(of_group, n);
        int width = div_up(div_up(of_group, div_up(of_group, n)), step) * step;
        int64_t cost = (tiles + l.sm_count - 1) / l.sm_count * wide_cost(width);
        if (cost < least)
            least = cost, best = n;
    }
    return best;
}

/* Scratch: flags, sums of parts of tiles, and gathered rows of x for the largest product that has
 * them, that of the experts' gate and up. */
size_t partial_bytes(const struct nb_cuda_limits &l) {
    return (size_t)l.sm_count * hopper::WARPS * STREAM_BLOCKS * 32 * sizeof(float4);
}

size_t gathered_bytes(const struct nb_cuda_model &m, const struct nb_cuda_limits &l) {
    if (l.compute_capability != 90)
        return 0;
    return (size_t)l.max_tokens * (m.dense ? 1 : m.experts_per_token) * div_up(m.width, 64) * 128;
}

cudaError_t launch_wide(struct args a, const struct nb_cuda_model &m,
                        const struct nb_cuda_limits &l, cudaStream_t stream) {
    int shared = wide_shared_bytes(a.slot_bytes, a.g.n_groups);
    if (shared > hopper::SHARED ||
        (a.g.gather && (size_t)a.g.n * a.x_vectors * 16 > gathered_bytes(m, l)))
        return launch_stream<hopper>(a, l, stream);
    a.m_blocks = div_up(a.g.w.shape.n_tiles, WIDE_TILES);
    a.n_max = wide_columns(a, l);
    const void *x = a.g.x;
    cudaError_t error = map_weights(a, WIDE_TILES);
    if (error == cudaSuccess && a.g.gather) {
        uint4 *to = (uint4 *)((uint8_t *)a.partial + partial_bytes(l));
        error = launch(gather_kernel, a.g.n < 8 * l.sm_count ? a.g.n : 8 * l.sm_count, 256, 0, l,
                       stream, (const uint4 *)x, a.g.gather, a.g.n, a.x_vectors, to);
        x = to;
    }
    if (error == cudaSuccess)
        error = map_tokens(a, x);
    if (error != cudaSuccess)
        return error;
    return launch(wide_kernel, l.sm_count, WIDE_THREADS, shared, l, stream, a);
}

/* Whether rows are few enough for gemm_stream.cuh where there is gemm_wide.cuh, too. */
bool is_few(const struct nb_cuda_gemm &g) {
    return g.n / g.n_groups <= (g.w.shape.kind == NB_CUDA_BF16 ? STREAM_ROWS_BF16
                                : g.n_groups == 1              ? STREAM_ROWS_ALONE
                                                               : STREAM_ROWS);
}

} // namespace

int nb_cuda_gemm_sorts(const struct nb_cuda_gemm *g, const struct nb_cuda_limits *l) {
    return g->n <= NB_CUDA_GEMM_CHOICES && (l->compute_capability != 90 || is_few(*g));
}

size_t nb_cuda_gemm_workspace(const struct nb_cuda_model *m, const struct nb_cuda_limits *l) {
    return NB_CUDA_GEMM_FLAGS + partial_bytes(*l) + gathered_bytes(*m, *l);
}

cudaError_t nb_cuda_gemm_by(enum nb_cuda_gemm_kernel kernel, const struct nb_cuda_gemm *g,
                            const struct nb_cuda_model *m, const struct nb_cuda_limits *l,
                            void *workspace, cudaStream_t stream) {
    if (g->parts)
        *g->parts = {};
    if (g->n <= 0)
        return cudaSuccess;
    if (g->n_groups < 1 || g->n_groups > MAX_GROUPS || l->sm_count > MAX_SMS)
        return cudaErrorInvalidValue;
    if (g->choice &&
        (g->begin || g->gather || g->n > NB_CUDA_GEMM_CHOICES || kernel == NB_CUDA_GEMM_WIDE))
        return cudaErrorInvalidValue;
    if (g->parts && (g->begin || g->choice || g->n_groups != 1 || g->epilogue != NB_CUDA_STORE_F32))
        return cudaErrorInvalidValue;
    bool wgmma = false;
    if (l->compute_capability == 90 && kernel != NB_CUDA_GEMM_PLAIN) {
        cudaError_t error = has_wgmma(&wgmma);
        if (error != cudaSuccess)
            return error;
    }
    if (!wgmma && kernel > NB_CUDA_GEMM_PLAIN)
        return cudaErrorNotSupported;
    struct args a = make_args(*g, *m, workspace);
    if (!wgmma)
        return launch_stream<generic>(a, *l, stream);
    if (kernel == NB_CUDA_GEMM_ANY)
        kernel = g->choice || is_few(*g) ? NB_CUDA_GEMM_STREAM : NB_CUDA_GEMM_WIDE;
    return kernel == NB_CUDA_GEMM_STREAM ? launch_stream<hopper>(a, *l, stream)
                                         : launch_wide(a, *m, *l, stream);
}

cudaError_t nb_cuda_gemm(const struct nb_cuda_gemm *g, const struct nb_cuda_model *m,
                         const struct nb_cuda_limits *l, void *workspace, cudaStream_t stream) {
    return nb_cuda_gemm_by(NB_CUDA_GEMM_ANY, g, m, l, workspace, stream);
}
