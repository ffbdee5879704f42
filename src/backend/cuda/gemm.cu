/* gemm.h: which kernel multiplies, and its launch. */
#include "backend/cuda/gemm.h"

#include "backend/cuda/gemm_parts.cuh"
#include "backend/cuda/gemm_stream.cuh"

namespace {

enum { MAX_SMS = 512 }; /* flags are for that many blocks of at most 32 warps */
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
    a.form = s.kind == NB_CUDA_NESTED         ? NESTED
             : s.kind == NB_CUDA_BF16         ? FLOATS
             : s.scales_per_chunk == 2 ? HALVES
                                              : ABSMAX;
    a.values = m.values + 16 * g.w.values, a.nested_values = m.nested_values;
    a.flags = (int32_t *)workspace;
    a.partial = (float *)((uint8_t *)workspace + NB_CUDA_GEMM_FLAGS);
    a.x_chunks = div_up(s.columns, NB_CUDA_CHUNK), a.x_vectors = 8 * a.x_chunks;
    a.piece = a.form == FLOATS ? 1 : PIECE;
    a.pieces = div_up(s.unit_chunks, a.piece);
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

template <class K>
cudaError_t launch(K kernel, int blocks, int threads, int shared, const struct args &a,
                   const struct nb_cuda_limits &l, cudaStream_t stream) {
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
    return cudaLaunchKernelEx(&config, kernel, a);
}

template <class T>
cudaError_t launch_stream(struct args a, const struct nb_cuda_limits &l, cudaStream_t stream) {
    int rest = T::SHARED - stream_table_bytes<T> - T::STAGES * T::WARPS * a.slot_bytes -
               stream_plan_bytes<T>(a.g.n_groups);
    int stage = a.piece * 1024; /* of x, for 8 tokens */
    int blocks = rest / (T::STAGES * stage);
    if (blocks < 1)
        return cudaErrorInvalidValue;
    blocks = blocks < STREAM_BLOCKS ? blocks : STREAM_BLOCKS;
    a.n_max = 8 * blocks;
    a.x_bytes = blocks * stage;
    a.m_blocks = div_up(a.g.w.shape.n_tiles, T::WARPS);
    bool scaled = a.form == NESTED || a.form == ABSMAX;
    return launch(scaled ? stream_kernel<T, true> : stream_kernel<T, false>, l.sm_count,
                  stream_threads<T>, T::SHARED, a, l, stream);
}

} // namespace

size_t nb_cuda_gemm_workspace(const struct nb_cuda_model *m, const struct nb_cuda_limits *l) {
    (void)m;
    return NB_CUDA_GEMM_FLAGS +
           (size_t)l->sm_count * hopper::WARPS * STREAM_BLOCKS * 32 * sizeof(float4);
}

cudaError_t nb_cuda_gemm_by(enum nb_cuda_gemm_kernel kernel, const struct nb_cuda_gemm *g,
                            const struct nb_cuda_model *m, const struct nb_cuda_limits *l,
                            void *workspace, cudaStream_t stream) {
    if (g->n <= 0)
        return cudaSuccess;
    if (g->n_groups < 1 || g->n_groups > MAX_GROUPS || l->sm_count > MAX_SMS)
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
    return launch_stream<hopper>(a, *l, stream);
}

cudaError_t nb_cuda_gemm(const struct nb_cuda_gemm *g, const struct nb_cuda_model *m,
                         const struct nb_cuda_limits *l, void *workspace, cudaStream_t stream) {
    return nb_cuda_gemm_by(NB_CUDA_GEMM_ANY, g, m, l, workspace, stream);
}
