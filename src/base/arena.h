/* An arena: many small allocations that are freed together, for parse trees and per-request
 * scratch. */
#ifndef NB_BASE_ARENA_H
#define NB_BASE_ARENA_H

#include <stddef.h>

struct nb_arena_chunk;

/* All zero is an empty arena, ready for use. */
struct nb_arena {
    struct nb_arena_chunk *head;
    size_t allocated_bytes; /* taken from malloc, headers included */
};

/* n zeroed objects of `size` bytes each, aligned for any type; NULL if n * size overflows or memory
 * ran out. n * size == 0 gives a valid pointer. Lives until nb_arena_free. */
void *nb_arena_alloc(struct nb_arena *arena, size_t n, size_t size);

/* A copy of text[0..n) with a NUL after it; NULL if memory ran out. */
char *nb_arena_string(struct nb_arena *arena, const char *text, size_t n);

/* Everything of *from becomes *arena's, and *from is empty. */
void nb_arena_join(struct nb_arena *arena, struct nb_arena *from);

/* Frees everything and leaves an empty arena. */
void nb_arena_free(struct nb_arena *arena);

#endif
