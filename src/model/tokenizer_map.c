#include "model/tokenizer_map.h"

#include <stdlib.h>

/* Half full, a table has runs of dozens; a run of this many is an attack, and would make loading
 * quadratic. */
enum { MAX_RUN = 2000 };

bool nb_text_map_init(struct nb_text_map *map, const struct nb_text *texts, size_t n) {
    *map = (struct nb_text_map){.texts = texts, .shift = 64};
    size_t slots = 1;
    while (slots < 2 * n + 2) { /* at most half full, so that every search ends */
        slots *= 2;
        map->shift--;
    }
    map->mask = slots - 1;
    map->slots = calloc(slots, sizeof *map->slots);
    return map->slots != NULL;
}

void nb_text_map_free(struct nb_text_map *map) {
    free(map->slots);
    *map = (struct nb_text_map){0};
}

int32_t nb_text_map_add(struct nb_text_map *map, uint32_t number) {
    const struct nb_text *text = &map->texts[number];
    uint64_t hash = nb_hash_text(text->p, text->n);
    int32_t found = nb_text_map_find_hashed(map, text->p, text->n, hash);
    if (found >= 0)
        return found;
    size_t at = hash >> map->shift;
    for (int run = 0; map->slots[at].number; run++) {
        if (run == MAX_RUN)
            return -1;
        at = (at + 1) & map->mask;
    }
    map->slots[at] = (struct nb_text_slot){(uint32_t)hash, number + 1};
    return (int32_t)number;
}
