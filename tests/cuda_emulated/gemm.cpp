/* The products of gemm.h as tests/cuda_gemm.cu has them, at small shapes, by kernels that run on an
 * emulated GPU: of compute capability 8.0 or 9.0, as they were compiled for. TAP.
 *
 *     cuda_emulated_gemm [SEED | --brief]
 */
#define NB_EMULATED 1
#include "../cuda_gemm.cu"
