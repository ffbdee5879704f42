#include "base/arena.h"

#include "base/checked.h"

#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_BYTES = 16 * 1024 };

struct nb_arena_chunk {
    struct nb_arena_chunk *next;
    size_t used, size; /* of data */
    alignas(max_align_t) unsigned char data[];
};

void *nb_arena_alloc(struct nb_arena *arena, size_t n, size_t size) {
    size_t bytes;
    if (!nb_mul_size(n, size, &bytes) || !nb_round_up(bytes, alignof(max_align_t), &bytes))
        return NULL;
    struct nb_arena_chunk *chunk = arena->head;
    if (!chunk || chunk->size - chunk->used < bytes) {
        size_t room = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES, total;
        if (!nb_add_size(room, sizeof *chunk, &total))
            return NULL;
        chunk = calloc(1, total);
        if (!chunk)
            return NULL;
        chunk->size = room;
        chunk->next = arena->head;
        arena->head = chunk;
        arena->allocated_bytes += total;
    }
    void *p = chunk->data + chunk->used;
    chunk->used += bytes;
    return p;
}

char *nb_arena_string(struct nb_arena *arena, const char *text, size_t n) {
    size_t bytes;
    if (!nb_add_size(n, 1, &bytes))
        return NULL;
    char *copy = nb_arena_alloc(arena, bytes, 1);
    if (copy && n)
        memcpy(copy, text, n);
    return copy;
}

void nb_arena_join(struct nb_arena *arena, struct nb_arena *from) {
    if (!from->head)
        return;
    struct nb_arena_chunk *last = from->head;
    while (last->next)
        last = last->next;
    /* Behind the first chunk, so that what is free in it stays in use. */
    if (arena->head) {
        last->next = arena->head->next;
        arena->head->next = from->head;
    } else {
        arena->head = from->head;
    }
    arena->allocated_bytes += from->allocated_bytes;
    *from = (struct nb_arena){0};
}

void nb_arena_free(struct nb_arena *arena) {
    for (struct nb_arena_chunk *c = arena->head; c;) {
        struct nb_arena_chunk *next = c->next;
        free(c);
        c = next;
    }
    *arena = (struct nb_arena){0};
}
