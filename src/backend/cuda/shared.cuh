/* Shared memory: a keyword of CUDA, behind words that other compilers can stand in for. */
#ifndef NB_BACKEND_CUDA_SHARED_CUH
#define NB_BACKEND_CUDA_SHARED_CUH

/* Shared memory of the block: NB_SHARED(float, sums, [8][N]) declares sums; of dynamic memory,
 * `name` is where it begins, aligned to so many bytes. */
#define NB_SHARED(type, name, dimensions) __shared__ type name dimensions
#define NB_DYNAMIC_SHARED(align, type, name)                                                       \
    extern __shared__ __align__(align)                                                             \
    type name[]

#endif
