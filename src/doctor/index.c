#include "doctor/index.h"

#include "doctor/pysource.h"

#include <stdlib.h>
#include <string.h>

/* The slot that has the key, or where it would go. */
static struct nb_index_slot *find(const struct nb_index *index, const char *key) {
    size_t i = (size_t)nb_py_hash(key, strlen(key)) & (index->cap - 1);
    while (index->slots[i].key && strcmp(index->slots[i].key, key) != 0)
        i = (i + 1) & (index->cap - 1);
    return &index->slots[i];
}

int32_t nb_index_get(const struct nb_index *index, const char *key) {
    if (!index->cap)
        return -1;
    const struct nb_index_slot *slot = find(index, key);
    return slot->key ? slot->value : -1;
}

static bool grow(struct nb_index *index) {
    struct nb_index larger = {.cap = index->cap ? 2 * index->cap : 1024, .n = index->n};
    larger.slots = calloc(larger.cap, sizeof *larger.slots);
    if (!larger.slots)
        return false;
    for (size_t i = 0; i < index->cap; i++) {
        if (index->slots[i].key)
            *find(&larger, index->slots[i].key) = index->slots[i];
    }
    free(index->slots);
    *index = larger;
    return true;
}

bool nb_index_put(struct nb_index *index, const char *key, int32_t value) {
    if (2 * (index->n + 1) > index->cap && !grow(index))
        return false;
    struct nb_index_slot *slot = find(index, key);
    index->n += !slot->key;
    *slot = (struct nb_index_slot){slot->key ? slot->key : key, value};
    return true;
}

void nb_index_free(struct nb_index *index) {
    free(index->slots);
    *index = (struct nb_index){0};
}
