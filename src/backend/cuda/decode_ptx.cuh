/* The instructions of sm_90 that decode.cu needs and C++ has no words for: barriers in shared
 * memory that count bytes, bulk copies, loads and stores that other blocks see, the product of the
 * tensor cores. PTX ISA 8.3, sections 9.7.9, 9.7.13 and 9.7.15.
 */
#ifndef NB_BACKEND_CUDA_DECODE_PTX_CUH
#define NB_BACKEND_CUDA_DECODE_PTX_CUH

#include <cuda_bf16.h>
#include <stdint.h>

/* The block's dynamic shared memory. */
__device__ __forceinline__ uint8_t *shared_memory() {
    extern __shared__ __align__(1024) uint8_t memory[];
    return memory;
}

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* v, which the compiler cannot make again from what it was made of: it reads threadIdx anew for
 * each use where registers are scarce, and that takes a while. */
__device__ __forceinline__ uint32_t kept(uint32_t v) {
    asm volatile("mov.b32 %0, %0;" : "+r"(v));
    return v;
}

template <class T> __device__ __forceinline__ T *kept(T *p) {
    uint64_t v = (uint64_t)p;
    asm volatile("mov.b64 %0, %0;" : "+l"(v));
    return (T *)v;
}

/* ---- barriers in shared memory ---- */

__device__ __forceinline__ void barrier_init(uint64_t *b, uint32_t count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(b)), "r"(count));
}

/* What was initialized is so before a bulk copy counts on it. */
__device__ __forceinline__ void barriers_ready() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(uint64_t *b) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(b)) : "memory");
}

/* By who `arrives`, without a branch. */
__device__ __forceinline__ void barrier_arrive_if(bool arrives, uint64_t *b) {
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.u32 p, %1, 0;\n"
                 "@p mbarrier.arrive.shared::cta.b64 _, [%0];\n"
                 "}\n" ::"r"(shared_address(b)),
                 "r"((uint32_t)arrives)
                 : "memory");
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

/* The same, and comes back at once. */
__device__ __forceinline__ bool barrier_test(uint64_t *b, uint32_t parity) {
    uint32_t done;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "mbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                 "selp.u32 %0, 1, 0, p;\n"
                 "}\n"
                 : "=r"(done)
                 : "r"(shared_address(b)), "r"(parity)
                 : "memory");
    return done;
}

/* Who waits for other blocks asks again only after some 0.2 us: all of them asking all the time
 * takes a part of what the L2 cache can give. */
__device__ __forceinline__ void wait_a_little() {
    __nanosleep(250);
}

/* So many threads of the block meet, whichever come. */
template <int THREADS> __device__ __forceinline__ void threads_meet() {
    asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory");
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

/* What this thread read of shared memory before, it has before a bulk copy may overwrite it.
 * Barriers do not say so much: they order what threads do with what threads do, and bulk copies
 * write by another way (PTX: the async proxy). */
__device__ __forceinline__ void reads_before_copies() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* 0, when v is there: v was loaded from shared memory, and zero is 0, which the compiler does not
 * know. Who arrives at a barrier whose address needs this has read all that v is made of. A warp's
 * load is done for all of its lanes together, so that one of them may arrive. Where it can be had,
 * this is instead of reads_before_copies, which waits longer. */
__device__ __forceinline__ uint32_t when_there(uint32_t v, uint32_t zero) {
    return v & zero;
}

__device__ __forceinline__ uint64_t evict_first() {
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

__device__ __forceinline__ void prefetch_line(const void *at) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(at) : "memory");
}

/* Towards the L2 cache; bytes and the address: multiples of 16. */
__device__ __forceinline__ void bulk_prefetch(const void *from, uint32_t bytes) {
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
}

/* ---- words that blocks pass one another ---- */

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

/* Zeros, and no access, unless `there`. */
__device__ __forceinline__ uint4 load_words_if(bool there, const void *p) {
    uint4 v;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.ne.u32 p, %5, 0;\n"
                 "mov.u32 %0, 0;\n"
                 "mov.u32 %1, 0;\n"
                 "mov.u32 %2, 0;\n"
                 "mov.u32 %3, 0;\n"
                 "@p ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];\n"
                 "}\n"
                 : "=&r"(v.x), "=&r"(v.y), "=&r"(v.z), "=&r"(v.w)
                 : "l"(p), "r"((uint32_t)there)
                 : "memory");
    return v;
}

__device__ __forceinline__ void store_word(void *p, uint32_t v) {
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}

__device__ __forceinline__ void store_words(void *p, uint4 v) {
    asm volatile("st.relaxed.gpu.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(p), "r"(v.x),
                 "r"(v.y), "r"(v.z), "r"(v.w)
                 : "memory");
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

__device__ __forceinline__ void shared_store_float(uint32_t at, float v) {
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(at), "f"(v) : "memory");
}

/* Two neighbours; at: a multiple of 8. */
__device__ __forceinline__ float2 shared_load_floats(uint32_t at) {
    float2 v;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(at) : "memory");
    return v;
}

/* Of what never changes: the compiler may move it. */
__device__ __forceinline__ uint32_t table_load(uint32_t at) {
    uint32_t v;
    asm("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at));
    return v;
}

__device__ __forceinline__ float table_float(uint32_t at) {
    return __uint_as_float(table_load(at));
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

/* c [16, 8] += a [16, 8] b [8, 8], bf16 to f32 */
__device__ __forceinline__ void mma_half(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t b) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(b));
}

#endif
