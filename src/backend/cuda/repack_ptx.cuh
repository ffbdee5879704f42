/* What repack.cu says in PTX, because C++ has no name for it. */
#ifndef NB_BACKEND_CUDA_REPACK_PTX_CUH
#define NB_BACKEND_CUDA_REPACK_PTX_CUH

#include <cuda_runtime.h>

namespace {

/* 1 / x within a unit in the last place; subnormals are 0, on the way in and out. The GPU's own
 * approximation: src/quant/reciprocal.c has it bit for bit. */
__device__ float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* a b rounded to nearest even; subnormals are 0, on the way in and out. */
__device__ float multiply_flushed(float a, float b) {
    float y;
    asm("mul.rn.ftz.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}

/* Of memory that no one writes meanwhile and that is not read again. */
__device__ uint4 load_once(const uint4 *p) {
    uint4 a;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a.x), "=r"(a.y), "=r"(a.z), "=r"(a.w)
                 : "l"(p));
    return a;
}

} // namespace

#endif
