/* In place of src/backend/cuda/shared.cuh. */
#ifndef NB_BACKEND_CUDA_SHARED_CUH
#define NB_BACKEND_CUDA_SHARED_CUH

#include <cuda_runtime.h>

template <class T> inline T &nb_shared() {
    static const char tag = 0;
    return *(T *)emulator::shared_static(&tag, sizeof(T));
}

template <class T> inline T *nb_dynamic_shared() {
    return (T *)emulator::shared_memory();
}

#endif
