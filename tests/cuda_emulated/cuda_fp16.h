/* In place of CUDA's header: see cuda_runtime.h here. */
#ifndef NB_TEST_EMULATED_CUDA_FP16_H
#define NB_TEST_EMULATED_CUDA_FP16_H

#include "cuda_runtime.h"

extern "C" {
#include "base/float16.h"
}

struct __half {
    uint16_t bits;
};

inline float __half2float(__half x) {
    return nb_f16_to_f32(x.bits);
}

#endif
