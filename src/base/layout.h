/* Parts of one large allocation, laid out twice: first with base NULL, to learn the size, then for
 * good. */
#ifndef NB_BASE_LAYOUT_H
#define NB_BASE_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

enum { NB_LAYOUT_ALIGN = 64 }; /* of every part: a line of the cache */

struct nb_layout {
    uint8_t *base; /* aligned likewise, or NULL */
    size_t used;
};

/* The next part; NULL while the size is being learnt. Sizes are the caller's, and checked. */
static inline void *nb_layout_place(struct nb_layout *layout, size_t bytes) {
    void *at = layout->base ? layout->base + layout->used : NULL;
    layout->used += (bytes + NB_LAYOUT_ALIGN - 1) & ~(size_t)(NB_LAYOUT_ALIGN - 1);
    return at;
}

#endif
