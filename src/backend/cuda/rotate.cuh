/* What becomes of queries, keys and values between the product that makes them and attention. d / 8
 * lanes have a head, each 4 neighbours of its first half and the same 4 of its second, dimensions i
 * and d / 2 + i on.
 */
#ifndef NB_BACKEND_CUDA_ROTATE_CUH
#define NB_BACKEND_CUDA_ROTATE_CUH

#include "backend/cuda/common.cuh"

#include <cuda_fp8.h>

namespace {

__device__ __forceinline__ void store_four(__nv_bfloat16 *to, float4 v) {
    *(uint2 *)to = make_uint2(nb_pack_bf16(v.x, v.y), nb_pack_bf16(v.z, v.w));
}

/* To element `at` of KV memory. */
__device__ __forceinline__ void store_kv(const nb_cuda_model &m, size_t at, float4 v) {
    if (m.kv_fp8)
        ((__nv_fp8x4_e4m3 *)m.kv)[at / 4] = __nv_fp8x4_e4m3(v);
    else
        store_four((__nv_bfloat16 *)m.kv + at, v);
}

__device__ __forceinline__ float4 scaled(float4 v, float s, float4 w) {
    return make_float4(v.x * s * w.x, v.y * s * w.y, v.z * s * w.z, v.w * s * w.w);
}

/* The RMSNorm of a head with weights `norm` [d]. */
template <int d>
__device__ __forceinline__ void norm_head(float4 &a, float4 &b, const float *norm, int i,
                                          float eps) {
    constexpr int LANES = d / 8;
    float sum = a.x * a.x + a.y * a.y + a.z * a.z + a.w * a.w + b.x * b.x + b.y * b.y + b.z * b.z +
                b.w * b.w;
    unsigned lanes = (LANES == 32 ? 0 : 1u << LANES) - 1;
    lanes <<= threadIdx.x % 32 / LANES * LANES;
    for (int k = 1; k < LANES; k *= 2)
        sum += __shfl_xor_sync(lanes, sum, k);
    float scale = rsqrtf(sum / d + eps);
    a = scaled(a, scale, *(const float4 *)(norm + i));
    b = scaled(b, scale, *(const float4 *)(norm + d / 2 + i));
}

/* Turned by the angles of its position: turns [d / 2], cosine and sine. */
__device__ __forceinline__ void turn_head(float4 &a, float4 &b, const float2 *turns, int i) {
    const float4 *turn = (const float4 *)(turns + i);
    float4 c = turn[0], e = turn[1], u = a;
    a.x = a.x * c.x - b.x * c.y, b.x = b.x * c.x + u.x * c.y;
    a.y = a.y * c.z - b.y * c.w, b.y = b.y * c.z + u.y * c.w;
    a.z = a.z * e.x - b.z * e.y, b.z = b.z * e.x + u.z * e.y;
    a.w = a.w * e.z - b.w * e.w, b.w = b.w * e.z + u.w * e.w;
}

} // namespace

#endif
