/* In place of CUDA's header: see cuda_runtime.h here. */
#ifndef NB_TEST_EMULATED_MATH_CONSTANTS_H
#define NB_TEST_EMULATED_MATH_CONSTANTS_H
#define CUDART_INF_F __builtin_inff()
#define CUDART_PI    3.14159265358979323846
#define CUDART_L2E_F 1.44269504f
#endif
