/* The pass for many tokens against the plain one, as tests/cuda_batch.cu has it, with small models:
 * all kernels run on an emulated GPU, of compute capability 8.0 or 9.0, as they were compiled for.
 * TAP.
 *
 *     cuda_emulated_batch [--only NAME]
 */
#define NB_EMULATED 1
#include "../cuda_batch.cu"
