/* In place of CUDA's header: what kernels and their host code use of it, for a CPU. The threads of
 * a grid are fibers; emulator.h tells how they run. The host's side, which C has, too, is in
 * runtime.h.
 */
#ifndef NB_TEST_EMULATED_CUDA_RUNTIME_H
#define NB_TEST_EMULATED_CUDA_RUNTIME_H

#ifdef __cplusplus

#include "emulator.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __device__
#define __host__
#define __global__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
/* What kernels are compiled for, 80 for sm_80: by default sm_90a. */
#ifndef NB_EMULATED_ARCH
#define NB_EMULATED_ARCH 90
#endif
#define __CUDA_ARCH__ (10 * NB_EMULATED_ARCH)
#if NB_EMULATED_ARCH == 90
#define __CUDA_ARCH_FEAT_SM90_ALL
#endif

/* ---- vectors ---- */

struct __align__(8) uint2 {
    uint32_t x, y;
};
struct __align__(8) int2 {
    int x, y;
};
struct __align__(16) int4 {
    int x, y, z, w;
};
struct __align__(16) uint4 {
    uint32_t x, y, z, w;
};
struct __align__(8) float2 {
    float x, y;
};
struct __align__(16) float4 {
    float x, y, z, w;
};

inline uint2 make_uint2(uint32_t x, uint32_t y) {
    return {x, y};
}
inline int2 make_int2(int x, int y) {
    return {x, y};
}
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
    return {x, y, z, w};
}
inline float2 make_float2(float x, float y) {
    return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {
    }
};

/* ---- a thread's place ---- */

inline const emulator::index3 &threadIdx = emulator::place.thread,
                              &blockIdx = emulator::place.block,
                              &blockDim = emulator::place.threads, &gridDim = emulator::place.grid;

/* ---- arithmetic ---- */

inline float __uint_as_float(uint32_t x) {
    float f;
    memcpy(&f, &x, 4);
    return f;
}
inline uint32_t __float_as_uint(float x) {
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}
inline float __fadd_rn(float a, float b) {
    return a + b;
}
inline float __fmul_rn(float a, float b) {
    return a * b;
}
inline float __expf(float x) {
    return expf(x);
}
inline float rsqrtf(float x) {
    return 1.0f / sqrtf(x);
}
/* Of a turn's half: 2 is a whole one. */
inline void sincospif(float x, float *sine, float *cosine) {
    *sine = (float)sin(3.14159265358979323846 * x),
    *cosine = (float)cos(3.14159265358979323846 * x);
}
inline int min(int a, int b) {
    return a < b ? a : b;
}
inline unsigned min(unsigned a, unsigned b) {
    return a < b ? a : b;
}
inline int max(int a, int b) {
    return a > b ? a : b;
}
inline unsigned max(unsigned a, unsigned b) {
    return a > b ? a : b;
}
inline int __popc(uint32_t x) {
    return __builtin_popcount(x);
}
template <class T> inline T __ldg(const T *p) {
    return *p;
}
template <class T> inline T __ldcg(const T *p) {
    return *p;
}
template <class T> inline T __ldcs(const T *p) {
    return *p;
}
/* Other threads see it late. */
template <class T> inline void __stcg(T *p, T x) {
    uint32_t words[sizeof(T) / 4];
    memcpy(words, &x, sizeof x);
    for (size_t i = 0; i < sizeof(T) / 4; i++)
        emulator::store_word((uint32_t *)p + i, words[i]);
}

/* Bytes of b:a (8 of them) by the low three bits of each of four nibbles; the high bit, which
 * spreads a byte's sign. */
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t select) {
    uint64_t both = (uint64_t)b << 32 | a;
    uint32_t out = 0;
    for (int i = 0; i < 4; i++) {
        /* The intrinsic, unlike PTX's prmt, has the high bit ignored. */
        uint32_t byte = (uint32_t)(both >> (select >> 4 * i & 7) * 8) & 255;
        out |= byte << 8 * i;
    }
    return out;
}

/* ---- what a warp does together ---- */

inline void __syncwarp(uint32_t mask = ~0U) {
    emulator::warp_sync(mask);
}
inline bool __any_sync(uint32_t mask, bool x) {
    return emulator::warp_exchange(emulator::ANY, mask, x, 0) != 0;
}
inline uint32_t __reduce_max_sync(uint32_t mask, uint32_t x) {
    return emulator::warp_exchange(emulator::MAX, mask, x, 0);
}
inline uint32_t __reduce_min_sync(uint32_t mask, uint32_t x) {
    return emulator::warp_exchange(emulator::MIN, mask, x, 0);
}
template <class T> inline T emulated_shuffle(int kind, uint32_t mask, T x, uint32_t lane) {
    static_assert(sizeof(T) % 4 == 0, "words");
    uint32_t bits[sizeof(T) / 4];
    memcpy(bits, &x, sizeof x);
    for (uint32_t &b : bits)
        b = emulator::warp_exchange(kind, mask, b, lane);
    memcpy(&x, bits, sizeof x);
    return x;
}
template <class T> inline T __shfl_sync(uint32_t mask, T x, int from, int width = 32) {
    uint32_t within = (uint32_t)width - 1;
    return emulated_shuffle(emulator::SHUFFLE, mask, x,
                            (threadIdx.x & 31 & ~within) | ((uint32_t)from & within));
}
template <class T> inline T __shfl_xor_sync(uint32_t mask, T x, int by) {
    return emulated_shuffle(emulator::SHUFFLE_XOR, mask, x, (threadIdx.x ^ (uint32_t)by) & 31);
}
template <class T> inline T __shfl_up_sync(uint32_t mask, T x, int by) {
    uint32_t lane = threadIdx.x & 31;
    return emulated_shuffle(emulator::SHUFFLE, mask, x,
                            lane >= (uint32_t)by ? lane - (uint32_t)by : lane);
}
template <class T> inline T __shfl_down_sync(uint32_t mask, T x, int by) {
    uint32_t lane = threadIdx.x & 31, from = lane + (uint32_t)by;
    return emulated_shuffle(emulator::SHUFFLE_DOWN, mask, x, from < 32 ? from : lane);
}

/* ---- what a block does together ---- */

inline void __syncthreads() {
    emulator::block_meet(0, 0);
}
inline void __threadfence() {
    emulator::fence();
}
inline int atomicAdd(int *p, int x) {
    return emulator::atomic_add(p, x);
}
inline uint32_t atomicXor(uint32_t *p, uint32_t x) {
    uint32_t before = *p; /* a fiber is left only where it waits */
    *p = before ^ x;
    return before;
}
inline void __trap() {
    emulator::fail("a trap");
}

#endif

#include "runtime.h"

#endif
