/* Arrays that grow: several that go together are made longer one by one, and stay what they were
 * where memory runs out. */
#ifndef NB_GRAMMAR_GROW_H
#define NB_GRAMMAR_GROW_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Makes room for n elements of `size` bytes in *array, which is a pointer of any type, from malloc
 * or NULL. False, and nothing changes, where memory runs out. */
static inline bool nb_resize(void *array, size_t n, size_t size) {
    void *at;
    memcpy(&at, array, sizeof at);
    if (size && n > SIZE_MAX / size)
        return false;
    at = realloc(at, n * size);
    if (!at)
        return false;
    memcpy(array, &at, sizeof at);
    return true;
}

/* A capacity of at least `need`, from `least` on by doubling; 0 if there is none. */
static inline uint32_t nb_grown(uint32_t cap, uint64_t need, uint32_t least) {
    uint64_t to = cap ? cap : least;
    while (to < need)
        to *= 2;
    return to <= UINT32_MAX ? (uint32_t)to : 0;
}

/* Makes room for `more` elements behind the n that are there, doubling *cap. */
static inline bool nb_grow(void *array, uint32_t n, uint32_t more, uint32_t *cap, size_t size) {
    if (more <= *cap - n)
        return true;
    uint32_t to = nb_grown(*cap, (uint64_t)n + more, 64);
    if (!to || !nb_resize(array, to, size))
        return false;
    *cap = to;
    return true;
}

#endif
