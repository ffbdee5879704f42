/* In place of CUDA's header: see cuda_runtime.h here. */
#ifndef NB_TEST_EMULATED_MATH_CONSTANTS_H
#define NB_TEST_EMULATED_MATH_CONSTANTS_H
#define CUDART_INF_F __builtin_inff()
#endif
