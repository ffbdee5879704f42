/* What kernels of the large path share: instructions that C++ has no name for, and sums. */
#ifndef NB_BACKEND_CUDA_COMMON_CUH
#define NB_BACKEND_CUDA_COMMON_CUH

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
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\n\tgriddepcontrol.wait;" ::: "memory");
#endif
}

__device__ inline void nb_prefetch(const void *p) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
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

/* c [16, 8] += a [16, 16] b [16, 8]: bf16, sums in f32. */
__device__ inline void nb_mma(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                              uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* An 8 by 8 matrix of 16 bits over a warp, transposed. */
__device__ inline uint32_t nb_transpose(uint32_t x) {
    uint32_t y;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
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

/* 2^x, subnormal results as 0. */
__device__ inline float nb_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ inline float nb_warp_sum(float x) {
    for (int i = 16; i; i /= 2)
        x += __shfl_xor_sync(~0u, x, i);
    return x;
}

__device__ inline void nb_copy_async(void *shared, const void *global, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(shared)),
                 "l"(global), "r"(bytes)
                 : "memory");
}
__device__ inline void nb_copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int N> __device__ inline void nb_copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Four 8 by 8 matrices of 16 bits, one's rows at the addresses of eight lanes each. */
template <bool TRANSPOSED> __device__ inline void nb_load_matrices(uint32_t r[4], uint32_t at) {
    if (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                     : "r"(at)
                     : "memory");
}

/* The place, in a row of x as products want it (gemm.h), of column c, which is even; c + 1 is
 * beside it. The inverse of NB_CUDA_K_OF. */
__device__ inline int nb_place_of(int c) {
    int in_chunk = c % 64;
    return c - in_chunk + 16 * (in_chunk % 16 / 4) + 8 * (in_chunk % 4 / 2) + 2 * (in_chunk / 16);
}

#endif
