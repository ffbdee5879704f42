/* In place of src/backend/cuda/decode_ptx.cuh: the same words, meaning what emulator.h makes of
 * them. Comes first on the include path.
 */
#ifndef NB_BACKEND_CUDA_DECODE_PTX_CUH
#define NB_BACKEND_CUDA_DECODE_PTX_CUH

#include <cuda_bf16.h>
#include <stdint.h>

inline uint8_t *shared_memory() {
    return emulator::shared_memory();
}
inline uint32_t shared_address(const void *p) {
    return emulator::shared_address(p);
}

inline uint32_t kept(uint32_t v) {
    return v;
}

template <class T> inline T *kept(T *p) {
    return p;
}

inline void barrier_init(uint64_t *b, uint32_t count) {
    emulator::barrier_init(b, count);
}
inline void barriers_ready() {
}
inline void barrier_arrive(uint64_t *b) {
    emulator::barrier_arrive(b, 0);
}
inline void barrier_arrive_if(bool arrives, uint64_t *b) {
    if (arrives)
        barrier_arrive(b);
}
inline void barrier_expect(uint64_t *b, uint32_t bytes) {
    emulator::barrier_arrive(b, bytes);
}
inline bool barrier_try(uint64_t *b, uint32_t parity) {
    return emulator::barrier_try(b, parity);
}
inline bool barrier_test(uint64_t *b, uint32_t parity) {
    return emulator::barrier_test(b, parity);
}
inline void wait_a_little() {
}
template <int THREADS> inline void threads_meet() {
    emulator::block_meet(1, THREADS);
}

inline void bulk_load(uint32_t to, const void *from, uint32_t bytes, uint64_t *b, uint64_t) {
    emulator::bulk_load(to, from, bytes, b);
}
inline void reads_before_copies() {
    emulator::reads_before_copies();
}
inline uint32_t when_there(uint32_t v, uint32_t zero) {
    emulator::reads_before_copies();
    __syncwarp(); /* as one instruction for all lanes */
    return v & zero;
}
inline uint64_t evict_first() {
    return 0;
}
inline void prefetch_line(const void *) {
}

/* That all of it is there shows where memory is watched. */
inline void bulk_prefetch(const void *from, uint32_t bytes) {
    const volatile uint8_t *p = (const volatile uint8_t *)from;
    if ((uintptr_t)from % 16 || bytes % 16)
        emulator::fail("bulk_prefetch of what is no multiple of 16");
    (void)p[0];
    (void)p[bytes - 1];
}

inline uint32_t load_word(const void *p) {
    return emulator::load_word(p);
}
inline uint4 load_words(const void *p) {
    const uint32_t *at = (const uint32_t *)p;
    if ((uintptr_t)p % 16)
        emulator::fail("load_words of an address that is no multiple of 16");
    return {load_word(at), load_word(at + 1), load_word(at + 2), load_word(at + 3)};
}
inline void store_word(void *p, uint32_t v) {
    emulator::store_word(p, v);
}

inline uint4 load_words_if(bool there, const void *p) {
    return there ? load_words(p) : uint4{0, 0, 0, 0};
}
inline void store_words(void *p, uint4 v) {
    if ((uintptr_t)p % 16)
        emulator::fail("store_words at an address that is no multiple of 16");
    uint32_t *at = (uint32_t *)p;
    store_word(at, v.x), store_word(at + 1, v.y), store_word(at + 2, v.z), store_word(at + 3, v.w);
}
inline void shared_store_float(uint32_t at, float v) {
    *(float *)emulator::shared_at(at, 4) = v;
}
inline float2 shared_load_floats(uint32_t at) {
    return *(const float2 *)emulator::shared_read(at, 8);
}

inline uint4 shared_load4(uint32_t at) {
    return *(const uint4 *)emulator::shared_read(at, 16);
}
inline uint32_t shared_load_byte(uint32_t at) {
    return *emulator::shared_read(at, 1);
}
inline float shared_load_float(uint32_t at) {
    return *(const float *)emulator::shared_read(at, 4);
}
inline uint32_t table_load(uint32_t at) {
    return *(const uint32_t *)emulator::shared_at(at, 4);
}

inline float table_float(uint32_t at) {
    return __uint_as_float(table_load(at));
}

inline void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                uint32_t b1) {
    uint32_t a[4] = {a0, a1, a2, a3}, b[2] = {b0, b1};
    emulator::mma(c, a, b);
}

/* c [16, 8] += a [16, 8] b [8, 8] */
inline void mma_half(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b0) {
    uint32_t a[4] = {a0, a1, 0, 0}, b[2] = {b0, 0};
    emulator::mma(c, a, b);
}

#endif
