/* In place of src/backend/cuda/repack_ptx.cuh. */
#ifndef NB_BACKEND_CUDA_REPACK_PTX_CUH
#define NB_BACKEND_CUDA_REPACK_PTX_CUH

#include <cuda_runtime.h>
#include <float.h>

extern "C" {
#include "quant/reciprocal.h"
}

namespace {

inline float flushed(float x) {
    return fabsf(x) < FLT_MIN ? copysignf(0, x) : x;
}

inline float reciprocal(float x) {
    return nb_gpu_reciprocal(x);
}

inline float multiply_flushed(float a, float b) {
    return flushed(flushed(a) * flushed(b));
}

inline uint4 load_once(const uint4 *p) {
    if ((uintptr_t)p % sizeof *p)
        emulator::fail("a load of 16 bytes at an address that is no multiple of 16");
    return *p;
}

} // namespace

#endif
