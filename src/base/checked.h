/* Arithmetic on sizes that come from outside: true if the result fits, and then it is in *out. */
#ifndef NB_BASE_CHECKED_H
#define NB_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool nb_add_size(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

static inline bool nb_mul_size(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

/* a / b rounded up, for b > 0; cannot overflow. */
static inline size_t nb_div_up(size_t a, size_t b) {
    return a / b + (a % b != 0);
}

/* The smallest multiple of `to` (a power of two) that is not below n. */
static inline bool nb_round_up(size_t n, size_t to, size_t *out) {
    if (!nb_add_size(n, to - 1, out))
        return false;
    *out &= ~(to - 1);
    return true;
}

#endif
