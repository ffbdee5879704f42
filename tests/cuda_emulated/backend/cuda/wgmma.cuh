/* In place of src/backend/cuda/wgmma.cuh: the same words, meaning what emulator.h makes of them. */
#ifndef NB_BACKEND_CUDA_WGMMA_CUH
#define NB_BACKEND_CUDA_WGMMA_CUH

#include <cuda_runtime.h>
#include <stdint.h>

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define NB_WGMMA 1
#else
#define NB_WGMMA 0
#endif

namespace {

inline void wgmma_fence() {
    emulator::product_fence();
}
inline void wgmma_commit() {
    emulator::product_commit();
}
template <int N> inline void wgmma_wait() {
    emulator::product_wait(N);
}
template <int N> inline void give_registers() {
}
template <int N> inline void take_registers() {
}

inline uint64_t wgmma_descriptor(uint32_t address, int k) {
    return (uint64_t)(1 << 30 | 64) << 32 | ((address >> 4 | 1 << 16) + 2 * (uint32_t)k);
}

inline uint64_t wgmma_behind(uint64_t descriptor, int bytes, int k) {
    return descriptor + (uint64_t)(bytes >> 4) + 2 * (uint64_t)k;
}

template <int NB> inline void wgmma(float (&d)[NB][4], const uint32_t *a, uint64_t b, int add) {
    emulator::product_begin({&d[0][0], NB, a, 0, b, false, add != 0});
}
inline void wgmma_keys(float (&c)[64], uint64_t a, uint64_t b, int add) {
    emulator::product_begin({c, 16, nullptr, a, b, false, add != 0});
}
template <int N> inline void wgmma_values(float (&c)[N], const uint32_t *a, uint64_t b) {
    emulator::product_begin({c, N / 4, a, 0, b, true, true});
}
template <int N> inline void wgmma_hold(float (&)[N]) {
}

} // namespace

#endif
