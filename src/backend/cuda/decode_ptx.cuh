/* The instructions of sm_90 that decode.cu needs and C++ has no words for: barriers in shared
 * memory that count bytes, bulk copies, loads and stores that other blocks see, the product of the
 * tensor cores. PTX ISA 8.3, sections 9.7.9, 9.7.13 and 9.7.15.
 */
#ifndef NB_BACKEND_CUDA_DECODE_PTX_CUH
#define NB_BACKEND_CUDA_DECODE_PTX_CUH

#include <cuda_bf16.h>
#include <stdint.h>

/* A wait that lasts this many tries is a fault of the program: it ends with an error and not never.
 */
enum { SPIN_LIMIT = 1 << 25 };

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* ---- barriers in shared memory ---- */

__device__ __forceinline__ void barrier_init(uint64_t *b, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count));
}

__device__ __forceinline__ void barrier_arrive(uint64_t *b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}

__device__ __forceinline__ void barrier_expect(uint64_t *b, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(b)),
                 "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ bool barrier_try(uint64_t *b, uint32_t parity) {
    uint32_t done;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n"
                 "}\n"
                 : "=r"(done)
                 : "r"(shared_address(b)), "r"(parity)
                 : "memory");
    return done;
}

__device__ __forceinline__ void barrier_wait(uint64_t *b, uint32_t parity) {
    for (uint32_t n = 0; !barrier_try(b, parity);) {
        if (++n > SPIN_LIMIT)
            __trap();
    }
}

/* ---- bulk copies ---- */

/* bytes and both addresses: multiples of 16. Weights are read once a step: they are the first to
 * leave the L2 cache. */
__device__ __forceinline__ void bulk_load(uint32_t to, const void *from, uint32_t bytes,
                                          uint64_t *b, uint64_t policy) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0], [%1], %2, [%3], %4;" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(shared_address(b)), "l"(policy)
                 : "memory");
}

__device__ __forceinline__ uint64_t evict_first() {
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

__device__ __forceinline__ void bulk_prefetch(const void *from, uint32_t bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}

__device__ __forceinline__ void prefetch_line(const void *at) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at) : "memory");
}

/* ---- words that blocks pass one another ---- */

/* A word that was not written yet. No arithmetic makes it: NaN is 0x7FFFFFFF in f32 and 0x7FFF in
 * bf16. */
#define NOTHING 0xFFFFFFFFU

__device__ __forceinline__ uint32_t load_word(const void *p) {
    uint32_t v;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
    return v;
}

__device__ __forceinline__ uint4 load_words(const void *p) {
    uint4 v;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p)
                 : "memory");
    return v;
}

__device__ __forceinline__ void store_word(void *p, uint32_t v) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}

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

/* ---- shared memory ---- */

__device__ __forceinline__ uint4 shared_load4(uint32_t at) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(at)
                 : "memory");
    return v;
}

__device__ __forceinline__ uint32_t shared_load_byte(uint32_t at) {
    uint32_t v;
    asm volatile("ld.shared.u8 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
    return v;
}

__device__ __forceinline__ float shared_load_float(uint32_t at) {
    float v;
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(at) : "memory");
    return v;
}

/* Of what never changes: the compiler may move it. */
__device__ __forceinline__ uint32_t table_load(uint32_t at) {
    uint32_t v;
    asm("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at));
    return v;
}

/* ---- arithmetic ---- */

/* c [16, 8] += a [16, 16] b [16, 8], bf16 to f32 */
__device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                    uint32_t a3, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
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
