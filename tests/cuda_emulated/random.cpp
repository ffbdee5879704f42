/* Random models and steps (tests/cuda_random.h), made on an emulated GPU. */
#include "../cuda_random.cu"
