#include "doctor/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct nb_bytes nb_bytes_of(const void *data, size_t size) {
    static const uint8_t nothing[1];
    return (struct nb_bytes){data ? data : nothing, -1, data ? size : 0};
}

enum nb_status nb_bytes_open(const char *path, struct nb_bytes *out, struct nb_error *err) {
    *out = (struct nb_bytes){NULL, -1, 0};
    /* O_NONBLOCK: a FIFO must not make open wait for a writer before fstat can refuse it. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return nb_fail(err, NB_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(fd);
        return nb_fail(err, NB_ERR_IO, "%s: not a regular file", path);
    }
    out->fd = fd;
    out->size = (uint64_t)st.st_size;
    return NB_OK;
}

void nb_bytes_close(struct nb_bytes *bytes) {
    if (!bytes->data && bytes->fd >= 0)
        close(bytes->fd);
    *bytes = (struct nb_bytes){NULL, -1, 0};
}

bool nb_bytes_read(const struct nb_bytes *bytes, uint64_t at, void *out, size_t n) {
    if (at > bytes->size || n > bytes->size - at)
        return false;
    if (bytes->data) {
        memcpy(out, bytes->data + at, n);
        return true;
    }
    for (size_t done = 0; done < n;) {
        ssize_t got = pread(bytes->fd, (char *)out + done, n - done, (off_t)(at + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        done += (size_t)got;
    }
    return true;
}
