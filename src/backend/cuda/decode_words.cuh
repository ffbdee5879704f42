/* What is made of the instructions in decode_ptx.cuh alone: waiting, words that blocks pass one
 * another, pairs of bf16.
 */
#ifndef NB_BACKEND_CUDA_DECODE_WORDS_CUH
#define NB_BACKEND_CUDA_DECODE_WORDS_CUH

#include "backend/cuda/decode_ptx.cuh"

/* A wait that lasts this many tries is a fault of the program: it ends with an error and not never.
 */
enum { SPIN_LIMIT = 1 << 25 };

__device__ __forceinline__ void barrier_wait(uint64_t *b, uint32_t parity) {
    for (uint32_t n = 0; !barrier_try(b, parity);) {
        if (++n > SPIN_LIMIT)
            __trap();
    }
}

/* A warp arrives at a barrier by one thread: what the others did comes before that by __syncwarp.
 * compute-sanitizer's racecheck does not follow it, so in a build for it (NB_DECODE_RACECHECK) each
 * thread arrives. */
#ifdef NB_DECODE_RACECHECK
enum { ARRIVALS = 32 };
#else
enum { ARRIVALS = 1 };
#endif

__device__ __forceinline__ void warp_arrives(uint64_t *b, int32_t lane) {
    barrier_arrive_if(ARRIVALS == 32 || lane == 0, b);
}

/* A word that was not written yet. No arithmetic makes it: NaN is 0x7FFFFFFF in f32 and 0x7FFF in
 * bf16. */
#define NOTHING 0xFFFFFFFFU

__device__ __forceinline__ void store_float(void *p, float v) {
    store_word(p, __float_as_uint(v));
}

__device__ __forceinline__ bool is_nothing(uint4 v) {
    return v.x == NOTHING || v.y == NOTHING || v.z == NOTHING || v.w == NOTHING;
}

/* A lane's words from[0], from[32], ... as long as they are below n, else 0: loads all until there
 * is something in each. Kernels' code is kept small, and this is the one place that loads so. */
template <int N>
__device__ __forceinline__ void take_words(uint32_t (&v)[N], const float *from, int32_t n) {
    bool again;
    uint32_t tries = 0;
    do {
        again = false;
#pragma unroll
        for (int k = 0; k < N; k++)
            v[k] = 32 * k < n ? load_word(from + 32 * k) : 0;
#pragma unroll
        for (int k = 0; k < N; k++)
            again |= v[k] == NOTHING;
        if (++tries > SPIN_LIMIT)
            __trap();
    } while (again);
}

__device__ __forceinline__ uint32_t pack(float low, float high) {
    __nv_bfloat162 v = __floats2bfloat162_rn(low, high);
    return *(uint32_t *)&v;
}

__device__ __forceinline__ float low_half(uint32_t v) {
    return __uint_as_float(v << 16);
}

__device__ __forceinline__ float high_half(uint32_t v) {
    return __uint_as_float(v & 0xFFFF0000U);
}

__device__ __forceinline__ float warp_sum(float x) {
    for (int i = 16; i; i /= 2)
        x += __shfl_xor_sync(~0U, x, i);
    return x;
}

#endif
