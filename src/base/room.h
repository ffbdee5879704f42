/* Lists that grow by doubling. */
#ifndef NB_BASE_ROOM_H
#define NB_BASE_ROOM_H

#include <stdbool.h>
#include <stddef.h>

/* Twice the room, or room for a few; see nb_room. */
bool nb_grow(void *list, size_t *cap, size_t size);

/* Makes room for one more than the n elements, of `size` bytes each, of a list from malloc (or
 * NULL) with room for *cap: `list` is the address of the pointer to it. False if there is no
 * memory; then nothing has changed.
 *
 *     if (!nb_room(&l->items, l->n, &l->cap, sizeof *l->items))
 *         return nb_fail_memory(…);
 *     l->items[l->n++] = item;
 */
static inline bool nb_room(void *list, size_t n, size_t *cap, size_t size) {
    return n < *cap || nb_grow(list, cap, size);
}

#endif
