/* Folders that tests make and remove. */
#ifndef NB_TEST_FOLDER_H
#define NB_TEST_FOLDER_H

#include "test.h"

#include <ftw.h>
#include <limits.h>
#include <sys/stat.h>

/* The path root/path, with the folders above it made, in a static buffer: good until the next call.
 */
static inline const char *folder_path(const char *root, const char *path) {
    static char full[PATH_MAX];
    snprintf(full, sizeof full, "%s/%s", root, path);
    for (char *slash = full + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        mkdir(full, 0777);
        *slash = '/';
    }
    return full;
}

/* A file with data[0..n). */
static inline void folder_write(const char *root, const char *path, const void *data, size_t n) {
    FILE *f = fopen(folder_path(root, path), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline int folder_remove_one(const char *path, const struct stat *st, int kind,
                                    struct FTW *where) {
    (void)st, (void)kind, (void)where;
    return remove(path);
}

/* Removes it with all that is in it; 0 if that went well. */
static inline int folder_remove(const char *root) {
    return nftw(root, folder_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

#endif
