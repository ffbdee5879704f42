/* Numbered byte strings, found by content. */
#ifndef NB_MODEL_TOKENIZER_MAP_H
#define NB_MODEL_TOKENIZER_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct nb_text {
    const char *p; /* NULL: there is no string under this number */
    uint32_t n;
};

/* The map keeps numbers; the strings stay where the caller has them. */
struct nb_text_map {
    const struct nb_text *texts;
    struct nb_text_slot {
        uint32_t tag;    /* the hash's low half, to skip most comparisons */
        uint32_t number; /* plus 1; 0 is a free slot */
    } * slots;
    unsigned shift; /* a hash's top 64 - shift bits are its slot */
    size_t mask;
};

/* A map with room for `n` of texts[]; false if memory ran out. */
bool nb_text_map_init(struct nb_text_map *map, const struct nb_text *texts, size_t n);
void nb_text_map_free(struct nb_text_map *map);

/* Enters texts[number], at most the n of nb_text_map_init in all. Returns `number`, or the number
 * that already has this text, or -1 if so many strings share a hash that they were made to. */
int32_t nb_text_map_add(struct nb_text_map *map, uint32_t number);

static inline uint64_t nb_load_u64(const char *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline uint64_t nb_fold_u64(uint64_t a, uint64_t b) {
    unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* Up to 16 bytes in two numbers, which tell texts of one length apart. */
struct nb_short_text {
    uint64_t a, b;
};

static inline struct nb_short_text nb_short_text(const char *p, size_t n) {
    if (n >= 8)
        return (struct nb_short_text){nb_load_u64(p), nb_load_u64(p + n - 8)};
    if (n >= 4) {
        uint32_t low, high;
        memcpy(&low, p, 4);
        memcpy(&high, p + n - 4, 4);
        return (struct nb_short_text){low, high};
    }
    if (n == 0)
        return (struct nb_short_text){0, 0};
    return (struct nb_short_text){(uint64_t)(unsigned char)p[0] << 16 |
                                      (uint64_t)(unsigned char)p[n / 2] << 8 |
                                      (unsigned char)p[n - 1],
                                  0};
}

static inline uint64_t nb_hash_short(struct nb_short_text text, uint64_t seed) {
    const uint64_t k0 = UINT64_C(0x9E3779B97F4A7C15), k1 = UINT64_C(0xD6E8FEB86659FD93);
    return nb_fold_u64(nb_fold_u64(text.a ^ k1, text.b ^ seed), k0);
}

/* Words are short: most cost two multiplications. */
static inline uint64_t nb_hash_text(const char *p, size_t n) {
    const uint64_t k0 = UINT64_C(0x9E3779B97F4A7C15), k1 = UINT64_C(0xD6E8FEB86659FD93);
    uint64_t h = n * k0;
    while (n > 16) {
        h = nb_fold_u64(nb_load_u64(p) ^ k1, nb_load_u64(p + 8) ^ h);
        p += 16;
        n -= 16;
    }
    return nb_hash_short(nb_short_text(p, n), h);
}

/* The number of text[0..n), whose hash is `hash`, or -1. */
static inline int32_t nb_text_map_find_hashed(const struct nb_text_map *map, const char *text,
                                              size_t n, uint64_t hash) {
    if (!map->slots)
        return -1;
    for (size_t at = hash >> map->shift;; at = (at + 1) & map->mask) {
        struct nb_text_slot slot = map->slots[at];
        if (!slot.number)
            return -1;
        if (slot.tag != (uint32_t)hash)
            continue;
        const struct nb_text *t = &map->texts[slot.number - 1];
        if (t->n == n && memcmp(t->p, text, n) == 0)
            return (int32_t)(slot.number - 1);
    }
}

static inline int32_t nb_text_map_find(const struct nb_text_map *map, const char *text, size_t n) {
    return nb_text_map_find_hashed(map, text, n, nb_hash_text(text, n));
}

#endif
