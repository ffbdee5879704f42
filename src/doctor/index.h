/* A table from strings to numbers. */
#ifndef NB_DOCTOR_INDEX_H
#define NB_DOCTOR_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* All zero is an empty table. Keys are the caller's and must stay. */
struct nb_index {
    struct nb_index_slot {
        const char *key; /* NULL: free */
        int32_t value;
    } * slots;
    size_t n, cap; /* cap: 0 or a power of two */
};

/* The value of a key, or -1. */
int32_t nb_index_get(const struct nb_index *index, const char *key);

/* Adds a key, or changes its value. False if memory ran out. */
bool nb_index_put(struct nb_index *index, const char *key, int32_t value);
void nb_index_free(struct nb_index *index);

#endif
