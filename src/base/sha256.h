/* SHA-256, to compare files with what was recorded of them (FIPS 180-4). */
#ifndef NB_BASE_SHA256_H
#define NB_BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum { NB_SHA256_BYTES = 32 };

struct nb_sha256 {
    uint32_t state[8];
    uint64_t bytes;    /* added so far */
    uint8_t block[64]; /* the part that is not yet whole */
};

void nb_sha256_begin(struct nb_sha256 *s);
void nb_sha256_add(struct nb_sha256 *s, const void *data, size_t n);
void nb_sha256_end(struct nb_sha256 *s, uint8_t out[NB_SHA256_BYTES]);

/* All of it at once. */
void nb_sha256(const void *data, size_t n, uint8_t out[NB_SHA256_BYTES]);

#endif
