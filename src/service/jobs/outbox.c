#include "service/jobs/outbox.h"

#include "base/buf.h"
#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FILE_BYTES = 256 << 20, HEX = 2 * NB_SHA256_BYTES };

struct nb_outbox {
    char folder[PATH_MAX];
    int fd; /* of the folder, locked */
};

static void hex(const void *data, size_t n, char out[HEX + 1]) {
    uint8_t digest[NB_SHA256_BYTES];
    nb_sha256(data, n, digest);
    for (int i = 0; i < NB_SHA256_BYTES; i++)
        snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

/* Its folders above may be anybody's; what is made here is the owner's alone. */
static void make_folders(const char *folder) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", folder);
    for (char *slash = path + 1; (slash = strchr(slash, '/')); slash++) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
    mkdir(path, 0700);
}

static enum nb_status try_writing(struct nb_outbox *outbox, struct nb_error *err) {
    enum nb_status s = nb_outbox_keep(outbox, "a trial", false, "{}", 2, err);
    if (s == NB_OK)
        nb_outbox_forget(outbox, "a trial");
    return s;
}

enum nb_status nb_outbox_open(const char *folder, struct nb_outbox **out, struct nb_error *err) {
    *out = NULL;
    struct nb_outbox *outbox = calloc(1, sizeof *outbox);
    if (!outbox)
        return nb_fail_memory(err, sizeof *outbox, "the outbox");
    outbox->fd = -1;
    enum nb_status s = NB_OK;
    if (strlen(folder) >= sizeof outbox->folder) {
        s = nb_fail(err, NB_ERR_ARGUMENT, "outbox: the folder's name is too long");
    } else {
        snprintf(outbox->folder, sizeof outbox->folder, "%s", folder);
        make_folders(folder);
        outbox->fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (outbox->fd < 0)
            s = nb_fail(err, NB_ERR_IO, "%s: cannot open the outbox: %s", folder, strerror(errno));
        else if (flock(outbox->fd, LOCK_EX | LOCK_NB) != 0)
            s = errno == EWOULDBLOCK
                    ? nb_fail(err, NB_ERR_IO,
                              "%s: another worker has this outbox; give each its own", folder)
                    : nb_fail(err, NB_ERR_IO, "%s: cannot lock: %s", folder, strerror(errno));
    }
    if (s == NB_OK)
        s = try_writing(outbox, err);
    if (s == NB_OK)
        *out = outbox;
    else
        nb_outbox_close(outbox);
    return s;
}

void nb_outbox_close(struct nb_outbox *outbox) {
    if (!outbox)
        return;
    if (outbox->fd >= 0)
        close(outbox->fd);
    free(outbox);
}

/* ---- writing ---- */

static void file_name(const char *job_id, char out[HEX + 8]) {
    hex(job_id, strlen(job_id), out);
    memcpy(out + HEX, ".json", 6);
}

static char *make_head(const char *job_id, bool stream, const char *result, size_t n) {
    char digest[HEX + 1];
    hex(result, n, digest);
    json_t *head = json_pack("{s:s, s:b, s:I, s:s}", "job_id", job_id, "stream", (int)stream,
                             "bytes", (json_int_t)n, "sha256", digest);
    char *text = head ? json_dumps(head, JSON_COMPACT) : NULL;
    json_decref(head);
    return text;
}

enum nb_status nb_outbox_keep(struct nb_outbox *outbox, const char *job_id, bool stream,
                              const char *result, size_t n, struct nb_error *err) {
    char name[HEX + 8], temporary[HEX + 16];
    file_name(job_id, name);
    snprintf(temporary, sizeof temporary, "%s.new", name);
    char *head = make_head(job_id, stream, result, n);
    if (!head)
        return nb_fail_memory(err, n, "a result");
    int fd =
        openat(outbox->fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool fine = fd >= 0 && nb_write_all(fd, head, strlen(head)) && nb_write_all(fd, "\n", 1) &&
                nb_write_all(fd, result, n) && fsync(fd) == 0;
    int failed = errno;
    if (fd >= 0 && close(fd) != 0 && fine) {
        fine = false;
        failed = errno;
    }
    /* The name is there only once the folder is on disk, too. */
    if (fine &&
        (renameat(outbox->fd, temporary, outbox->fd, name) != 0 || fsync(outbox->fd) != 0)) {
        fine = false;
        failed = errno;
        unlinkat(outbox->fd, name, 0);
    }
    if (!fine)
        unlinkat(outbox->fd, temporary, 0);
    free(head);
    return fine ? NB_OK
                : nb_fail(err, NB_ERR_IO, "%s: cannot keep a result of %zu bytes: %s",
                          outbox->folder, n, strerror(failed));
}

void nb_outbox_forget(struct nb_outbox *outbox, const char *job_id) {
    char name[HEX + 8];
    file_name(job_id, name);
    unlinkat(outbox->fd, name, 0);
}

/* ---- reading ---- */

/* What the first line says, if the rest is what it says. */
static json_t *check(const struct nb_buf *file, const char *name, const char **result, size_t *n) {
    const char *end = file->len ? memchr(file->data, '\n', file->len) : NULL;
    json_error_t why;
    json_t *head = end ? json_loadb(file->data, (size_t)(end - file->data), 0, &why) : NULL;
    const char *id = json_string_value(json_object_get(head, "job_id")),
               *digest = json_string_value(json_object_get(head, "sha256"));
    char want[HEX + 8], got[HEX + 1];
    if (id && digest) {
        *result = end + 1;
        *n = file->len - (size_t)(end + 1 - file->data);
        file_name(id, want);
        hex(*result, *n, got);
        if (strcmp(want, name) == 0 && strcmp(got, digest) == 0)
            return head;
    }
    json_decref(head);
    return NULL;
}

static enum nb_status read_one(struct nb_outbox *outbox, const char *name,
                               enum nb_status (*fn)(void *, const char *, bool, const char *,
                                                    size_t, struct nb_error *),
                               void *context, struct nb_error *err) {
    char path[PATH_MAX];
    struct nb_buf file = {0};
    if (!nb_path_join(path, sizeof path, outbox->folder, name))
        return NB_OK;
    enum nb_status s = nb_read_regular_file(path, MAX_FILE_BYTES, &file, err);
    const char *result = NULL;
    size_t n = 0;
    json_t *head = s == NB_OK ? check(&file, name, &result, &n) : NULL;
    if (head) {
        s = fn(context, json_string_value(json_object_get(head, "job_id")),
               json_is_true(json_object_get(head, "stream")), result, n, err);
    } else if (s != NB_ERR_MEMORY) {
        char bad[NAME_MAX + 8];
        snprintf(bad, sizeof bad, "%s.bad", name);
        nb_log(NB_LOG_ERROR, "event=outbox file=%s is damaged, or not ours: renamed to .bad", name);
        renameat(outbox->fd, name, outbox->fd, bad);
        s = NB_OK;
    }
    json_decref(head);
    nb_buf_free(&file);
    return s;
}

enum nb_status nb_outbox_read(struct nb_outbox *outbox,
                              enum nb_status (*fn)(void *context, const char *job_id, bool stream,
                                                   const char *result, size_t n,
                                                   struct nb_error *err),
                              void *context, struct nb_error *err) {
    DIR *dir = opendir(outbox->folder);
    if (!dir)
        return nb_fail(err, NB_ERR_IO, "%s: cannot read: %s", outbox->folder, strerror(errno));
    enum nb_status s = NB_OK;
    for (struct dirent *e; s == NB_OK && (e = readdir(dir));) {
        const char *dot = strrchr(e->d_name, '.');
        if (dot && strcmp(dot, ".new") == 0) /* of a process that was killed while it wrote */
            unlinkat(outbox->fd, e->d_name, 0);
        else if (dot && strcmp(dot, ".json") == 0)
            s = read_one(outbox, e->d_name, fn, context, err);
    }
    closedir(dir);
    return s;
}
