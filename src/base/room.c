#include "base/room.h"

#include "base/checked.h"

#include <stdlib.h>
#include <string.h>

bool nb_grow(void *list, size_t *cap, size_t size) {
    void *old;
    memcpy(&old, list, sizeof old); /* whatever it points to */
    size_t more, bytes;
    if (!nb_mul_size(*cap, 2, &more))
        return false;
    more = more ? more : 32;
    void *grown = nb_mul_size(more, size, &bytes) ? realloc(old, bytes) : NULL;
    if (!grown)
        return false;
    memcpy(list, &grown, sizeof grown);
    *cap = more;
    return true;
}
