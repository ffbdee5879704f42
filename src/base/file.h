/* Files: mapped read-only, or read or written whole. Messages name the path. */
#ifndef NB_BASE_FILE_H
#define NB_BASE_FILE_H

#include "base/buf.h"
#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A file mapped read-only. An empty file has size 0 and data NULL. */
struct nb_map {
    const uint8_t *data;
    size_t size;
};

/* Maps a regular file. A folder, a device or a missing file is an error. The map outlives the
 * file's name; if the file is truncated while mapped, touching the lost pages raises SIGBUS, as for
 * any mmap. */
enum nb_status nb_map_open(const char *path, struct nb_map *out, struct nb_error *err);
void nb_map_close(struct nb_map *map);

/* Appends all of a file to *out; NB_ERR_LIMIT if it is longer than max_bytes. "-" is standard
 * input. Pipes and devices work too: it reads until the end. */
enum nb_status nb_read_file(const char *path, size_t max_bytes, struct nb_buf *out,
                            struct nb_error *err);

/* The same for a file that belongs to a folder of files: a pipe or a device in its place is an
 * error and not waited for, and "-" is a name like any other. */
enum nb_status nb_read_regular_file(const char *path, size_t max_bytes, struct nb_buf *out,
                                    struct nb_error *err);

/* Writes data[0..n) to a file, pipe or socket that blocks, however many calls it takes. False, with
 * errno, where that fails; some of it may be written then. */
bool nb_write_all(int fd, const void *data, size_t n);

bool nb_is_folder(const char *path);
bool nb_is_file(const char *path);

/* folder + "/" + name into out[0..size); false if it does not fit. */
bool nb_path_join(char *out, size_t size, const char *folder, const char *name);

#endif
