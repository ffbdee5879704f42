#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* For who may not, who they are: a service's user is seldom the one that its operator thinks of. */
static enum nb_status cannot_open(const char *path, struct nb_error *err) {
    int why = errno;
    if (why == EACCES)
        return nb_fail(err, NB_ERR_IO,
                       "%s: cannot open: %s; the program runs as user %u, who must be able to read "
                       "it and enter the folders above it",
                       path, strerror(why), (unsigned)geteuid());
    return nb_fail(err, NB_ERR_IO, "%s: cannot open: %s", path, strerror(why));
}

enum nb_status nb_map_open(const char *path, struct nb_map *out, struct nb_error *err) {
    *out = (struct nb_map){0};
    /* O_NONBLOCK: a FIFO must not make open wait for a writer before fstat can refuse it. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return cannot_open(path, err);
    struct stat st;
    enum nb_status s = NB_OK;
    if (fstat(fd, &st) != 0) {
        s = nb_fail(err, NB_ERR_IO, "%s: cannot stat: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        s = nb_fail(err, NB_ERR_IO, "%s: is %s, expected a file", path,
                    S_ISDIR(st.st_mode) ? "a folder" : "not a regular file");
    } else if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            s = nb_fail(err, NB_ERR_IO, "%s: cannot map %lld bytes: %s", path,
                        (long long)st.st_size, strerror(errno));
        } else {
            out->data = p;
            out->size = (size_t)st.st_size;
        }
    }
    close(fd);
    return s;
}

void nb_map_close(struct nb_map *map) {
    if (map->data)
        munmap((void *)map->data, map->size);
    *map = (struct nb_map){0};
}

/* NB_OK if fd may be read: no folder, and a regular file where nothing else will do. */
static enum nb_status check_kind(int fd, const char *path, bool regular, struct nb_error *err) {
    struct stat st;
    if (fstat(fd, &st) != 0)
        return nb_fail(err, NB_ERR_IO, "%s: cannot stat: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return nb_fail(err, NB_ERR_IO, "%s: is a folder, expected a file", path);
    if (regular && !S_ISREG(st.st_mode))
        return nb_fail(err, NB_ERR_IO, "%s: is not a regular file, expected one", path);
    return NB_OK;
}

/* Appends all of fd, which it does not close, to *out. */
static enum nb_status read_all(int fd, const char *path, size_t max_bytes, struct nb_buf *out,
                               struct nb_error *err) {
    char chunk[64 * 1024];
    size_t total = 0;
    for (;;) {
        ssize_t n = read(fd, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return nb_fail(err, NB_ERR_IO, "%s: cannot read: %s", path, strerror(errno));
        if (n == 0)
            return NB_OK;
        if ((size_t)n > max_bytes - total)
            return nb_fail(err, NB_ERR_LIMIT, "%s: longer than the limit of %zu bytes", path,
                           max_bytes);
        total += (size_t)n;
        nb_buf_add(out, chunk, (size_t)n);
        if (out->failed)
            return nb_fail_memory(err, total, path);
    }
}

static enum nb_status open_and_read(const char *path, int flags, size_t max_bytes,
                                    struct nb_buf *out, struct nb_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
    if (fd < 0)
        return cannot_open(path, err);
    enum nb_status s = check_kind(fd, path, flags & O_NONBLOCK, err);
    if (s == NB_OK)
        s = read_all(fd, path, max_bytes, out, err);
    close(fd);
    return s;
}

enum nb_status nb_read_file(const char *path, size_t max_bytes, struct nb_buf *out,
                            struct nb_error *err) {
    if (strcmp(path, "-") == 0)
        return read_all(STDIN_FILENO, "standard input", max_bytes, out, err);
    return open_and_read(path, 0, max_bytes, out, err);
}

enum nb_status nb_read_regular_file(const char *path, size_t max_bytes, struct nb_buf *out,
                                    struct nb_error *err) {
    return open_and_read(path, O_NONBLOCK, max_bytes, out, err); /* as in nb_map_open */
}

bool nb_write_all(int fd, const void *data, size_t n) {
    const char *at = data;
    while (n) {
        ssize_t written = write(fd, at, n);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        at += written;
        n -= (size_t)written;
    }
    return true;
}

bool nb_is_folder(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool nb_is_file(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool nb_path_join(char *out, size_t size, const char *folder, const char *name) {
    size_t n = strlen(folder);
    const char *slash = !*name || (n && folder[n - 1] == '/') ? "" : "/";
    int len = snprintf(out, size, "%s%s%s", folder, slash, name);
    return len >= 0 && (size_t)len < size;
}
