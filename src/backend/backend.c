#include "backend/backend.h"

#include <string.h>

#ifdef NB_HAVE_CUDA
extern const struct nb_backend_ops nb_cuda_backend;
#endif

const struct nb_backend_ops *const nb_all_backends[] = {
#ifdef NB_HAVE_CUDA
    &nb_cuda_backend,
#endif
    &nb_cpu_backend,
    NULL,
};

const struct nb_backend_ops *nb_backend_find(const char *name) {
    for (size_t i = 0; nb_all_backends[i]; i++) {
        if (strcmp(nb_all_backends[i]->name, name) == 0)
            return nb_all_backends[i];
    }
    return NULL;
}
