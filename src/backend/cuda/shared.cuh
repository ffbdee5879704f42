/* Shared memory by its type: a keyword of CUDA, behind calls that other compilers can stand in for.
 */
#ifndef NB_BACKEND_CUDA_SHARED_CUH
#define NB_BACKEND_CUDA_SHARED_CUH

/* The block's one T, as a __shared__ variable of a kernel is: what it begins with is anything. All
 * calls with one T give the same. */
template <class T> __device__ inline T &nb_shared() {
    __shared__ T t;
    return t;
}

/* The dynamic part, as much as the launch says. */
template <class T> __device__ inline T *nb_dynamic_shared() {
    extern __shared__ __align__(16) unsigned char nb_dynamic_shared_bytes[];
    return (T *)nb_dynamic_shared_bytes;
}

#endif
