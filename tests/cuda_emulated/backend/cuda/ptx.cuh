/* In place of src/backend/cuda/ptx.cuh: the same words, meaning what emulator.h makes of them.
 * Comes first on the include path.
 */
#ifndef NB_BACKEND_CUDA_PTX_CUH
#define NB_BACKEND_CUDA_PTX_CUH

#include "backend/cuda/shared.cuh"

#include <cuda.h>
#include <cuda_runtime.h>
#include <stdint.h>

#if __CUDA_ARCH__ >= 900
#define NB_BULK 1
#else
#define NB_BULK 0
#endif

namespace {

inline uint32_t address_of(const void *shared) {
    return emulator::shared_address(shared);
}
inline uint64_t *barrier_at(uint32_t address) {
    return (uint64_t *)emulator::shared_at(address, 8);
}

inline void wait_for_kernel_before() {
#if NB_BULK
    emulator::wait_for_launch_before();
#endif
}
inline void start_kernel_after() {
#if NB_BULK
    emulator::start_launch_after();
#endif
}

inline void barrier_init(uint32_t barrier, uint32_t count) {
    emulator::barrier_init(barrier_at(barrier), count);
}
inline void barriers_ready() {
}
inline void barrier_arrive(uint32_t barrier) {
    emulator::barrier_arrive(barrier_at(barrier), 0);
}
inline void barrier_arrive_copied(uint32_t barrier) {
    emulator::barrier_arrive_copied(barrier_at(barrier));
}
inline void barrier_expect(uint32_t barrier, uint32_t bytes) {
    emulator::barrier_arrive(barrier_at(barrier), bytes);
}
inline void barrier_wait(uint32_t barrier, uint32_t parity) {
    emulator::barrier_try(barrier_at(barrier), parity);
}
inline void barrier_wait_whole(uint32_t barrier, uint32_t parity) {
    emulator::barrier_try(barrier_at(barrier), parity);
}
inline void threads_meet(int which, int threads) {
    if (which < 1 || which > 15 || threads % 32)
        emulator::fail("a barrier that there is not, or of part of a warp");
    emulator::block_meet(which, (unsigned)threads);
}

inline void copy_16(uint32_t to, const void *from) {
    emulator::copy_16(to, from, 16);
}
inline void copy_16_of(void *shared, const void *from, int bytes) {
    emulator::copy_16(address_of(shared), from, (uint32_t)bytes);
}
inline void copy_commit() {
    emulator::copy_commit();
}
template <int N> inline void copy_wait() {
    emulator::copy_wait(N);
}
inline void copy_wait_all() {
    emulator::copy_wait_all();
}

inline void fence_async() {
#if NB_BULK
    emulator::fence_async();
#endif
}
inline uint64_t cache_policy(bool) {
    return 0;
}
inline void copy_box(uint32_t to, const CUtensorMap &map, int32_t x, int32_t y, uint32_t barrier) {
    const int32_t at[4] = {x, y, 0, 0};
    if (map.map.rank != 2)
        emulator::fail("a copy in two dimensions by a map of others");
    emulator::copy_box(to, map.map, at, barrier_at(barrier));
}
inline void copy_box(uint32_t to, const CUtensorMap &map, int32_t x, int32_t y, int32_t z,
                     int32_t w, uint32_t barrier, uint64_t) {
    const int32_t at[4] = {x, y, z, w};
    if (map.map.rank != 4)
        emulator::fail("a copy in four dimensions by a map of others");
    emulator::copy_box(to, map.map, at, barrier_at(barrier));
}
inline void prefetch_map(const CUtensorMap &) {
}

inline void prefetch_line(const void *) {
}
inline void store_flag(int32_t *flag) {
    emulator::store_release(flag, 1);
}
inline int32_t load_flag(const int32_t *flag) {
    return emulator::load_acquire(flag);
}

inline uint32_t load_32(uint32_t address) {
    return *(const uint32_t *)emulator::shared_at(address, 4);
}
template <int OFFSET> inline uint32_t load_32_behind(uint32_t address) {
    return load_32(address + OFFSET);
}
inline uint32_t load_8(uint32_t address) {
    return *emulator::shared_at(address, 1);
}
inline float2 load_f32x2(uint32_t address) {
    return *(const float2 *)emulator::shared_at(address, 8);
}
inline void load_128(uint32_t (&v)[4], uint32_t address) {
    memcpy(v, emulator::shared_at(address, 16), 16);
}

inline uint32_t thread_now() {
    return threadIdx.x;
}
inline void keep(uint32_t &) {
}
inline void load_f32x4(float (&v)[4], uint32_t address) {
    memcpy(v, emulator::shared_at(address, 16), 16);
}
inline void store_f32x4(uint32_t address, const float (&v)[4]) {
    memcpy(emulator::shared_at(address, 16), v, 16);
}

/* PTX ISA, "ldmatrix": lanes 8 i to 8 i + 7 have the addresses of matrix i's rows; lane l gets two
 * neighbours of row l / 4, or, transposed, of column l / 4. */
template <bool TRANSPOSED> inline void load_matrices(uint32_t (&r)[4], uint32_t at) {
    uint32_t rows[32], lane = threadIdx.x % 32;
    emulator::warp_gather(at, rows);
    for (uint32_t i = 0; i < 4; i++) {
        uint16_t v[2];
        for (uint32_t h = 0; h < 2; h++) {
            uint32_t row = TRANSPOSED ? lane % 4 * 2 + h : lane / 4,
                     column = TRANSPOSED ? lane / 4 : lane % 4 * 2 + h;
            v[h] = ((const uint16_t *)emulator::shared_at(rows[8 * i + row], 16))[column];
        }
        memcpy(&r[i], v, 4);
    }
}

inline void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                uint32_t b1) {
    uint32_t a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
    emulator::mma(c, a, b);
}

/* PTX ISA, "movmatrix": lane l has two neighbours of row l / 4. */
inline uint32_t transpose(uint32_t x) {
    uint32_t all[32], lane = threadIdx.x % 32, y = 0;
    emulator::warp_gather(x, all);
    for (uint32_t h = 0; h < 2; h++) {
        uint32_t row = lane % 4 * 2 + h, column = lane / 4;
        y |= (all[4 * row + column / 2] >> 16 * (column % 2) & 0xFFFF) << 16 * h;
    }
    return y;
}

inline float exp2_flushed(float x) {
    float y = exp2f(x);
    return y < 0x1p-126f ? 0 : y;
}

} // namespace

#endif
