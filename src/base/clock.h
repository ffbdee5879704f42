/* Time that only goes forward. */
#ifndef NB_BASE_CLOCK_H
#define NB_BASE_CLOCK_H

#include <stdint.h>

/* Microseconds since an arbitrary start (CLOCK_MONOTONIC). */
int64_t nb_now_us(void);

#endif
