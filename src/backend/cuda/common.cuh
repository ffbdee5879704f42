/* What kernels of the large path share: how they begin and are launched, conversions, and sums. */
#ifndef NB_BACKEND_CUDA_COMMON_CUH
#define NB_BACKEND_CUDA_COMMON_CUH

#include "backend/cuda/gemm.h"
#include "backend/cuda/ptx.cuh"

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#define NB_CUDA_TRY(call)                                                                          \
    do {                                                                                           \
        cudaError_t error_ = (call);                                                               \
        if (error_ != cudaSuccess)                                                                 \
            return error_;                                                                         \
    } while (0)

__host__ __device__ constexpr int nb_div_up(int a, int b) {
    return (a + b - 1) / b;
}

/* What every kernel of a pass begins with: the next one may be launched as soon as all blocks of
 * this one run, and this one goes on when the one before is done. So a kernel's start, and loads of
 * weights that it makes before this, hide behind the end of the one before (programmatic dependent
 * launch). */
__device__ inline void nb_begin() {
    start_kernel_after();
    wait_for_kernel_before();
}

/* Launches a kernel that calls nb_begin. */
template <class... P, class... A>
cudaError_t nb_launch(void (*kernel)(P...), dim3 grid, int threads, int shared, int capability,
                      cudaStream_t stream, A... args) {
    /* What this file's kernels were compiled for: nb_begin waits from 90 on, and PTX of less that
     * the driver compiled for a newer GPU does not. */
    static int compiled;
    if (!compiled) {
        cudaFuncAttributes attributes;
        NB_CUDA_TRY(cudaFuncGetAttributes(&attributes, kernel));
        compiled = attributes.ptxVersion;
    }
    cudaLaunchAttribute overlap;
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid, config.blockDim = dim3(threads), config.dynamicSmemBytes = shared;
    config.stream = stream, config.attrs = &overlap;
    config.numAttrs = capability >= 90 && compiled >= 90;
    return cudaLaunchKernelEx(&config, kernel, P(args)...);
}

__device__ inline uint32_t nb_pack_bf16(float low, float high) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *(uint32_t *)&pair;
}

/* Two e4m3 in the low bytes of the halves of x, each in the high byte (0xAA00BB00), to bf16: the
 * exponent's bits are moved to their place and its bias is made up for by a product, which is
 * exact, subnormals included. NaN, which is never stored, becomes 480. */
__device__ inline uint32_t nb_e4m3_to_bf16(uint32_t x) {
    uint32_t moved = (x & 0x80008000) | ((x & 0x7F007F00) >> 4);
    __nv_bfloat162 scale = __float2bfloat162_rn(0x1p120f), y = *(__nv_bfloat162 *)&moved;
    y = __hmul2(y, scale);
    return *(uint32_t *)&y;
}

__device__ inline void nb_e4m3x4_to_bf16(uint32_t x, uint32_t out[2]) {
    out[0] = nb_e4m3_to_bf16(__byte_perm(x, 0, 0x1404));
    out[1] = nb_e4m3_to_bf16(__byte_perm(x, 0, 0x3424));
}

__device__ inline float nb_warp_sum(float x) {
    for (int i = 16; i; i /= 2)
        x += __shfl_xor_sync(~0u, x, i);
    return x;
}

/* Where row `row` of a product's parts begins for row `token` of y, and how many there are. */
struct nb_parts_at {
    const float *from;
    int n;
    size_t stride;

    __device__ nb_parts_at(const float *y, const struct nb_cuda_parts &p, int rows, int token,
                           int row)
        : from(y + (size_t)token * rows + row), n(1), stride(p.stride) {
        if (p.block_steps == 0)
            return;
        int first = (row / p.tile_rows * p.tiles + token / p.tile_tokens) * p.steps;
        n = (first + p.steps - 1) / p.block_steps - first / p.block_steps + 1;
    }

    /* The sum of four neighbours from column `at` on, in order of the parts; loads of up to N
     * parts are under way together. */
    template <int N = 8> __device__ __forceinline__ float4 four(int at) const {
        float4 sum = make_float4(0, 0, 0, 0);
        const float *p = from + at;
        for (int left = n; left > 0; left -= N) {
            float4 v[N];
#pragma unroll
            for (int k = 0; k < N; k++, p += stride) {
                v[k] = make_float4(0, 0, 0, 0);
                if (k < left)
                    v[k] = __ldcg((const float4 *)p);
            }
#pragma unroll
            for (int k = 0; k < N; k++)
                sum.x += v[k].x, sum.y += v[k].y, sum.z += v[k].z, sum.w += v[k].w;
        }
        return sum;
    }
};

/* The place, in a row of x as products want it (gemm.h), of column c, which is even; c + 1 is
 * beside it. The inverse of NB_CUDA_K_OF. */
__device__ inline int nb_place_of(int c) {
    int in_chunk = c % 64;
    return c - in_chunk + 16 * (in_chunk % 16 / 4) + 8 * (in_chunk % 4 / 2) + 2 * (in_chunk / 16);
}

#endif
