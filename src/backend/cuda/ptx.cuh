/* What the kernels of batch.cu, attention.cu and gemm.cu say in PTX, because C++ has no name for
 * it: copies that go on by themselves and the barriers that count them, products and what loads
 * their operands, launches that overlap. wgmma.cuh has the products of sm_90a. No other file of
 * these kernels has PTX, so that another compiler needs a stand-in for these two alone. PTX ISA, by
 * the instructions' names.
 */
#ifndef NB_BACKEND_CUDA_PTX_CUH
#define NB_BACKEND_CUDA_PTX_CUH

#include "backend/cuda/shared.cuh"

#include <cuda.h>
#include <stdint.h>

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
#define NB_BULK 1 /* copies by tensor maps, and launches that overlap */
#else
#define NB_BULK 0
#endif

namespace {

__device__ __forceinline__ uint32_t address_of(const void *shared) {
    return (uint32_t)__cvta_generic_to_shared(shared);
}

/* ---- launches that overlap ---- */

/* The kernel before may still run until this returns; only weights and tables, which no kernel
 * writes, are read before. */
__device__ __forceinline__ void wait_for_kernel_before() {
#if NB_BULK
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void start_kernel_after() {
#if NB_BULK
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* ---- barriers in shared memory; `barrier`: a shared address, a multiple of 8 ---- */

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t count) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

/* What was initialized is so before a bulk copy counts on it. */
__device__ __forceinline__ void barriers_ready() {
#if NB_BULK
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
    asm volatile("{\n.reg .b64 t;\nmbarrier.arrive.shared.b64 t, [%0];\n}" ::"r"(barrier)
                 : "memory");
}

/* An arrival when all that the thread has copied with copy_16 is there. */
__device__ __forceinline__ void barrier_arrive_copied(uint32_t barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

#if NB_BULK
/* An arrival, and so many bytes that bulk copies are to bring. */
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
    asm volatile(
        "{\n.reg .b64 t;\nmbarrier.arrive.expect_tx.shared::cta.b64 t, [%0], %1;\n}" ::"r"(barrier),
        "r"(bytes)
        : "memory");
}
#endif

__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
    uint32_t done;
    do {
#if NB_BULK
        asm volatile("{\n.reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
#else
        asm volatile("{\n.reg .pred p;\n"
                     "mbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
#endif
    } while (!done);
}

#if NB_BULK
/* The same as one instruction to the compiler, which neither unrolls it nor moves anything into it:
 * what attention_90a.cuh was measured with. */
__device__ __forceinline__ void barrier_wait_whole(uint32_t barrier, uint32_t parity) {
    asm volatile("{\n\t"
                 ".reg .pred done;\n\t"
                 "again:\n\t"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n\t"
                 "@!done bra again;\n\t"
                 "}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}
#endif

/* So many threads of the block meet, whichever come; which: 1 to 15. */
__device__ __forceinline__ void threads_meet(int which, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(which), "r"(threads) : "memory");
}

/* ---- copies of 16 bytes by a thread (cp.async) ---- */

__device__ __forceinline__ void copy_16(uint32_t to, const void *from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
}

/* The first `bytes` of 16, and zeros. */
__device__ __forceinline__ void copy_16_of(void *shared, const void *from, int bytes) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address_of(shared)),
                 "l"(from), "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Until at most N committed groups of the thread's are under way. */
template <int N> __device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

__device__ __forceinline__ void copy_wait_all() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}

/* ---- bulk copies ---- */

/* What this thread wrote or copied to shared memory is seen by what reads it another way (PTX: the
 * async proxy): wgmma, and bulk copies. */
__device__ __forceinline__ void fence_async() {
#if NB_BULK
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/* How the L2 cache treats weights: gone first where they are read once, so that x and partial sums
 * stay. */
__device__ __forceinline__ uint64_t cache_policy(bool once) {
    uint64_t policy = 0;
#if NB_BULK
    if (once)
        asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    else
        asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
#endif
    return policy;
}

#if NB_BULK
/* A box of `map` to shared address `to`, a multiple of 128 (1,024 under a swizzle); its bytes count
 * at `barrier`. What is beyond the map is 0. By one thread. */
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap &map, int32_t x, int32_t y,
                                         uint32_t barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                 "l"(&map), "r"(x), "r"(y), "r"(barrier)
                 : "memory");
}

__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap &map, int32_t x, int32_t y,
                                         int32_t z, int32_t w, uint32_t barrier, uint64_t policy) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".L2::cache_hint [%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(to),
                 "l"(&map), "r"(x), "r"(y), "r"(z), "r"(w), "r"(barrier), "l"(policy)
                 : "memory");
}

/* A map on its way to where copies look for it. */
__device__ __forceinline__ void prefetch_map(const CUtensorMap &map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
#endif

/* ---- global memory ---- */

__device__ __forceinline__ void prefetch_line(const void *p) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

/* A flag, 1 of which says that what this thread wrote, and what it knows to be written, is there.
 */
__device__ __forceinline__ void store_flag(int32_t *flag) {
    asm volatile("st.release.gpu.global.s32 [%0], 1;" ::"l"(flag) : "memory");
}

__device__ __forceinline__ int32_t load_flag(const int32_t *flag) {
    int32_t v;
    asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(v) : "l"(flag) : "memory");
    return v;
}

/* ---- shared memory, by address ---- */

__device__ __forceinline__ uint32_t load_32(uint32_t address) {
    uint32_t v;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(v) : "r"(address));
    return v;
}

/* The word at address + OFFSET, which takes no addition. */
template <int OFFSET> __device__ __forceinline__ uint32_t load_32_behind(uint32_t address) {
    uint32_t v;
    asm volatile("ld.shared.b32 %0, [%1+%2];" : "=r"(v) : "r"(address), "n"(OFFSET));
    return v;
}

__device__ __forceinline__ uint32_t load_8(uint32_t address) {
    uint32_t v;
    asm volatile("ld.shared.u8 %0, [%1];" : "=r"(v) : "r"(address));
    return v;
}

__device__ __forceinline__ float2 load_f32x2(uint32_t address) {
    float2 v;
    asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(v.x), "=f"(v.y) : "r"(address));
    return v;
}

__device__ __forceinline__ void load_128(uint32_t (&v)[4], uint32_t address) {
    asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                 : "r"(address));
}

__device__ __forceinline__ void load_f32x4(float (&v)[4], uint32_t address) {
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void store_f32x4(uint32_t address, const float (&v)[4]) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(v[0]), "f"(v[1]),
                 "f"(v[2]), "f"(v[3])
                 : "memory");
}

/* Four 8 by 8 matrices of 16 bits, one's rows at the addresses of eight lanes each. */
template <bool TRANSPOSED>
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t at) {
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

/* ---- arithmetic ---- */

/* threadIdx.x, read anew, so that nothing that depends on it need be kept in registers. */
__device__ __forceinline__ uint32_t thread_now() {
    uint32_t x;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(x));
    return x;
}

/* The compiler keeps x in a register rather than computing it anew where it is used. */
__device__ __forceinline__ void keep(uint32_t &x) {
    asm volatile("" : "+r"(x));
}

/* c [16, 8] += a [16, 16] b [16, 8]: bf16, sums in f32. */
__device__ __forceinline__ void mma(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                    uint32_t a3, uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* An 8 by 8 matrix of 16 bits over a warp, transposed. */
__device__ __forceinline__ uint32_t transpose(uint32_t x) {
    uint32_t y;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

/* 2^x, subnormal results as 0. */
__device__ __forceinline__ float exp2_flushed(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

} // namespace

#endif
