/* Launching a kernel by a call, so that host code is C++ that any compiler takes. */
#ifndef NB_BACKEND_CUDA_LAUNCH_CUH
#define NB_BACKEND_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>
#include <stddef.h>

/* What kernel<<<grid, threads, shared, stream>>>(arguments...) does, and the error of that launch.
 * shared: bytes of dynamic shared memory. */
template <class... P, class... A>
cudaError_t nb_start(void (*kernel)(P...), dim3 grid, unsigned threads, size_t shared,
                     cudaStream_t stream, A... arguments) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid, config.blockDim = dim3(threads), config.dynamicSmemBytes = shared;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, P(arguments)...);
}

#endif
