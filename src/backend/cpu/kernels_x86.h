#ifndef NB_BACKEND_CPU_KERNELS_X86_H
#define NB_BACKEND_CPU_KERNELS_X86_H

#include "backend/cpu/kernels.h"

#if defined(__x86_64__)
extern const struct nb_kernels nb_kernels_avx2, nb_kernels_avx512;
extern const struct nb_fixed_kernels nb_fixed_avx2, nb_fixed_avx512;
bool nb_kernels_avx2_runs(void);
bool nb_kernels_avx512_runs(void);
#endif

#endif
