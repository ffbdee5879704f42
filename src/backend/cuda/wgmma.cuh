/* wgmma (PTX ISA, "wgmma.mma_async"), sm_90a alone: warpgroups multiply what is in shared memory,
 * or in registers on the left side, and go on while they do.
 */
#ifndef NB_BACKEND_CUDA_WGMMA_CUH
#define NB_BACKEND_CUDA_WGMMA_CUH

#include <stdint.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) ||                                                          \
    (defined(__CUDA_ARCH_SPECIFIC__) && __CUDA_ARCH_SPECIFIC__ == 900)
#define NB_WGMMA 1
#else
#define NB_WGMMA 0
#endif

namespace {

/* ---- order ---- */

/* Before the first wgmma after registers of it were written by other instructions. */
__device__ __forceinline__ void wgmma_fence() {
#if NB_WGMMA
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void wgmma_commit() {
#if NB_WGMMA
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

/* Until at most N committed groups are under way. */
template <int N> __device__ __forceinline__ void wgmma_wait() {
#if NB_WGMMA
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
#endif
}

/* By all warps of a warpgroup: from here on its threads have N registers, fewer or more. */
template <int N> __device__ __forceinline__ void give_registers() {
#if NB_WGMMA
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

template <int N> __device__ __forceinline__ void take_registers() {
#if NB_WGMMA
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
#endif
}

/* ---- operands ---- */

/* The descriptor of the k-th 16 columns of B at that address of shared memory, a multiple of 1,024:
 * rows of 128 bytes under the 128-byte swizzle, 1,024 bytes from eight of them to the next eight.
 */
__device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t address, int k) {
    uint64_t d;
    asm("mov.b64 %0, {%1, %2};"
        : "=l"(d)
        : "r"((address >> 4 | 1 << 16) + 2 * k), "r"(1 << 30 | 64));
    return d;
}

/* The same for what lies `bytes` further: an addition to a descriptor that is there, where making
 * each from its address takes two moves between uniform registers more. */
__device__ __forceinline__ uint64_t wgmma_behind(uint64_t descriptor, int bytes, int k) {
    return descriptor + (bytes >> 4) + 2 * k;
}

/* Names of the operands %0, … in an instruction's text, and sums d[i][0..3], … as its operands. */
#define NB_NAMES_4  "%0, %1, %2, %3"
#define NB_NAMES_8  NB_NAMES_4 ", %4, %5, %6, %7"
#define NB_NAMES_12 NB_NAMES_8 ", %8, %9, %10, %11"
#define NB_NAMES_16 NB_NAMES_12 ", %12, %13, %14, %15"
#define NB_NAMES_32                                                                                \
    NB_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define NB_NAMES_48                                                                                \
    NB_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define NB_NAMES_64                                                                                \
    NB_NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define NB_NAMES_80                                                                                \
    NB_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79"
#define NB_NAMES_96                                                                                \
    NB_NAMES_80 ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define NB_NAMES_112                                                                               \
    NB_NAMES_96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, "     \
                "%109, %110, %111"
#define NB_NAMES_128                                                                               \
    NB_NAMES_112 ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, "      \
                 "%124, %125, %126, %127"

#define NB_SUMS_4(d, i)  "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define NB_SUMS_8(d, i)  NB_SUMS_4(d, i), NB_SUMS_4(d, i + 1)
#define NB_SUMS_16(d, i) NB_SUMS_8(d, i), NB_SUMS_8(d, i + 2)
#define NB_SUMS_32(d, i) NB_SUMS_16(d, i), NB_SUMS_16(d, i + 4)
#define NB_SUMS_64(d, i) NB_SUMS_32(d, i), NB_SUMS_32(d, i + 8)

/* ---- products ---- */

/* m64nNk16 in bf16 with f32 sums; the operands' names are those of the sums, of A's four registers,
 * B's descriptor and `add`. */
#define NB_WGMMA_BF16(N, SUMS, A0, A1, A2, A3, B, ADD, ...)                                        \
    asm volatile("{\n"                                                                             \
                 ".reg .pred p;\n"                                                                 \
                 "setp.ne.b32 p, %" #ADD ", 0;\n"                                                  \
                 "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32.bf16.bf16 {" SUMS "}, {%" #A0     \
                 ", %" #A1 ", %" #A2 ", %" #A3 "}, %" #B ", p, 1, 1, 0;\n"                         \
                 "}"                                                                               \
                 : __VA_ARGS__                                                                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add))

/* d [NB][4] += A B, or = A B where `add` is 0, A in registers, B [8 NB, 64] in shared memory,
 * K-major under the 128-byte swizzle. Lane l of warp w of the four has rows 16 w + l / 4 and + 8,
 * and columns 8 i + 2 (l % 4) and + 1 of them in d[i]: {row, row; row + 8, row + 8}. */
template <int NB>
__device__ __forceinline__ void wgmma(float (&d)[NB][4], const uint32_t *a, uint64_t b, int add) {
#if NB_WGMMA
    if constexpr (NB == 1)
        NB_WGMMA_BF16(8, NB_NAMES_4, 4, 5, 6, 7, 8, 9, NB_SUMS_4(d, 0));
    else if constexpr (NB == 2)
        NB_WGMMA_BF16(16, NB_NAMES_8, 8, 9, 10, 11, 12, 13, NB_SUMS_8(d, 0));
    else if constexpr (NB == 3)
        NB_WGMMA_BF16(24, NB_NAMES_12, 12, 13, 14, 15, 16, 17, NB_SUMS_8(d, 0), NB_SUMS_4(d, 2));
    else if constexpr (NB == 4)
        NB_WGMMA_BF16(32, NB_NAMES_16, 16, 17, 18, 19, 20, 21, NB_SUMS_16(d, 0));
    else if constexpr (NB == 8)
        NB_WGMMA_BF16(64, NB_NAMES_32, 32, 33, 34, 35, 36, 37, NB_SUMS_32(d, 0));
    else if constexpr (NB == 12)
        NB_WGMMA_BF16(96, NB_NAMES_48, 48, 49, 50, 51, 52, 53, NB_SUMS_32(d, 0), NB_SUMS_16(d, 8));
    else if constexpr (NB == 16)
        NB_WGMMA_BF16(128, NB_NAMES_64, 64, 65, 66, 67, 68, 69, NB_SUMS_64(d, 0));
    else if constexpr (NB == 20)
        NB_WGMMA_BF16(160, NB_NAMES_80, 80, 81, 82, 83, 84, 85, NB_SUMS_64(d, 0),
                      NB_SUMS_16(d, 16));
    else if constexpr (NB == 24)
        NB_WGMMA_BF16(192, NB_NAMES_96, 96, 97, 98, 99, 100, 101, NB_SUMS_64(d, 0),
                      NB_SUMS_32(d, 16));
    else if constexpr (NB == 28)
        NB_WGMMA_BF16(224, NB_NAMES_112, 112, 113, 114, 115, 116, 117, NB_SUMS_64(d, 0),
                      NB_SUMS_32(d, 16), NB_SUMS_16(d, 24));
    else if constexpr (NB == 32)
        NB_WGMMA_BF16(256, NB_NAMES_128, 128, 129, 130, 131, 132, 133, NB_SUMS_64(d, 0),
                      NB_SUMS_64(d, 16));
    else
        static_assert(NB < 0, "no such width");
#else
    (void)d, (void)a, (void)b, (void)add;
#endif
}

#if NB_WGMMA

/* ---- attention ---- */

#define NB_REGISTERS_8(c, i)                                                                       \
    "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3]), "+f"(c[i + 4]), "+f"(c[i + 5]),    \
        "+f"(c[i + 6]), "+f"(c[i + 7])
#define NB_REGISTERS_32(c, i)                                                                      \
    NB_REGISTERS_8(c, i), NB_REGISTERS_8(c, i + 8), NB_REGISTERS_8(c, i + 16),                     \
        NB_REGISTERS_8(c, i + 24)

/* c [64, 128] = or += a [64, 16] b [128, 16]^T, both in shared memory, row by row. */
__device__ inline void wgmma_keys(float (&c)[64], uint64_t a, uint64_t b, int add) {
    asm volatile("{\n\t.reg .pred p;\n\tsetp.ne.b32 p, %66, 0;\n\t"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" NB_NAMES_64
                 "}, %64, %65, p, 1, 1, 0, 0;\n\t}"
                 : NB_REGISTERS_32(c, 0), NB_REGISTERS_32(c, 32)
                 : "l"(a), "l"(b), "r"(add));
}

/* c [64, 128 or 64] += a [64, 16] b [16, 128 or 64], a in registers, b in shared memory. */
__device__ inline void wgmma_values(float (&c)[64], const uint32_t *a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" NB_NAMES_64
                 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
                 : NB_REGISTERS_32(c, 0), NB_REGISTERS_32(c, 32)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

__device__ inline void wgmma_values(float (&c)[32], const uint32_t *a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" NB_NAMES_32
                 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
                 : NB_REGISTERS_32(c, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

/* Keeps the compiler from moving what it does to registers past the start or end of products. */
template <int n> __device__ inline void wgmma_hold(float (&c)[n]) {
#pragma unroll
    for (int i = 0; i < n; i++)
        asm volatile("" : "+f"(c[i])::"memory");
}

#endif

} // namespace

#endif
