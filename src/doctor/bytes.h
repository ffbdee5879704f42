/* Bytes at places of a file, or of memory. Large libraries are read with pread, a few bytes here
 * and there: pages of a mapping would count as memory of ours, and a file that shrinks would raise
 * SIGBUS. */
#ifndef NB_DOCTOR_BYTES_H
#define NB_DOCTOR_BYTES_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nb_bytes {
    const uint8_t *data; /* [size], or NULL for a file */
    int fd;
    uint64_t size;
};

/* data[0..size) as bytes to read; the caller keeps them. */
struct nb_bytes nb_bytes_of(const void *data, size_t size);

/* Opens a regular file; anything else is NB_ERR_IO. */
enum nb_status nb_bytes_open(const char *path, struct nb_bytes *out, struct nb_error *err);
void nb_bytes_close(struct nb_bytes *bytes);

/* Bytes [at, at + n) into out; false if they are not all there, or cannot be read. */
bool nb_bytes_read(const struct nb_bytes *bytes, uint64_t at, void *out, size_t n);

#endif
