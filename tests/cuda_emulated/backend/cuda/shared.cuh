/* In place of src/backend/cuda/shared.cuh. */
#ifndef NB_BACKEND_CUDA_SHARED_CUH
#define NB_BACKEND_CUDA_SHARED_CUH

#include <cuda_runtime.h>

#define NB_SHARED(type, name, dimensions)                                                          \
    static const char name##_tag = 0;                                                              \
    typedef type name##_type dimensions;                                                           \
    name##_type &name = *(name##_type *)emulator::shared_static(&name##_tag, sizeof(name##_type))
#define NB_DYNAMIC_SHARED(align, type, name) type *name = (type *)emulator::shared_memory()

#endif
