#include "backend/cpu/kernels.h"

#include "backend/cpu/kernels_x86.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* The i-th version, from the plainest to the fastest; NULL past the last, *runs false where this
 * processor lacks the instructions. */
static const struct nb_kernels *version(int i, bool *runs) {
    *runs = true;
    if (i == 0)
        return &nb_kernels_plain;
#if defined(__x86_64__)
    if (i == 1) {
        *runs = nb_kernels_avx2_runs();
        return &nb_kernels_avx2;
    }
    if (i == 2) {
        *runs = nb_kernels_avx512_runs();
        return &nb_kernels_avx512;
    }
#endif
    return NULL;
}

const struct nb_kernels *nb_kernels_find(const char *name) {
    const struct nb_kernels *best = NULL, *k;
    bool runs;
    for (int i = 0; (k = version(i, &runs)); i++) {
        if (runs && (!name || strcmp(name, k->name) == 0))
            best = k;
    }
    return best;
}

const char *nb_kernels_names(char *out, size_t size) {
    const struct nb_kernels *k;
    bool runs;
    size_t used = 0;
    out[0] = 0;
    for (int i = 0; (k = version(i, &runs)); i++) {
        if (runs && used < size)
            used += (size_t)snprintf(out + used, size - used, "%s%s", used ? ", " : "", k->name);
    }
    return out;
}

bool nb_fixed_takes(const struct nb_matrix *m) {
    if (m->type != NB_WEIGHT_4BIT || m->quant.block < NB_FIXED_BLOCK ||
        m->columns % NB_FIXED_BLOCK != 0)
        return false;
    float most = 0, least = 0;
    for (int i = 0; i < 16; i++) {
        if (!isfinite(m->quant.values[i]))
            return false;
        most = fmaxf(most, m->quant.values[i]);
        least = fminf(least, m->quant.values[i]);
    }
    return most - least > 1e-30f;
}
