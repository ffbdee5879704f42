#include "model/writer.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* ---- a folder ---- */

static enum nb_status cannot(const char *path, const char *what, struct nb_error *err) {
    return nb_fail(err, NB_ERR_IO, "%s: cannot %s: %s", path, what, strerror(errno));
}

/* Splits target into the folder it is in and its name. */
static void split(const char *target, char parent[PATH_MAX], const char **name) {
    const char *slash = strrchr(target, '/');
    *name = slash ? slash + 1 : target;
    if (!slash)
        snprintf(parent, PATH_MAX, ".");
    else
        snprintf(parent, PATH_MAX, "%.*s", slash == target ? 1 : (int)(slash - target), target);
}

enum nb_status nb_new_folder_begin(const char *target, struct nb_new_folder *out,
                                   struct nb_error *err) {
    *out = (struct nb_new_folder){0};
    size_t n = strlen(target);
    while (n > 1 && target[n - 1] == '/')
        n--;
    /* The temporary name must fit, too. */
    if (n == 0 || n + 64 > PATH_MAX)
        return nb_fail(err, NB_ERR_ARGUMENT, "\"%.64s\": no name for a folder", target);
    memcpy(out->target, target, n);
    struct stat st;
    if (lstat(out->target, &st) == 0)
        return nb_fail(err, NB_ERR_IO, "%s: exists already; nothing is overwritten", out->target);
    if (errno != ENOENT)
        return cannot(out->target, "look for it", err);
    char parent[PATH_MAX];
    const char *name;
    split(out->target, parent, &name);
    char path[PATH_MAX + 64];
    if (snprintf(path, sizeof path, "%s/.%s.%ld.nibble", parent, name, (long)getpid()) >= PATH_MAX)
        return nb_fail(err, NB_ERR_ARGUMENT, "%s: path too long", out->target);
    if (mkdir(path, 0777) != 0) {
        if (errno == ENOENT)
            return nb_fail(err, NB_ERR_IO,
                           "%s: cannot make the folder: there is no folder %s; make that first",
                           out->target, parent);
        return cannot(path, "make the folder", err);
    }
    memcpy(out->path, path, strlen(path) + 1);
    return NB_OK;
}

static enum nb_status join(const struct nb_new_folder *folder, const char *name, char out[PATH_MAX],
                           struct nb_error *err) {
    if (nb_path_join(out, PATH_MAX, folder->path, name))
        return NB_OK;
    return nb_fail(err, NB_ERR_ARGUMENT, "%s/%s: path too long", folder->path, name);
}

/* Writes all of bytes[0..n) at an offset. */
static enum nb_status write_at(int fd, const char *path, const void *bytes, size_t n, size_t at,
                               struct nb_error *err) {
    for (size_t done = 0; done < n;) {
        ssize_t k = pwrite(fd, (const char *)bytes + done, n - done, (off_t)(at + done));
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return cannot(path, "write", err);
        done += (size_t)k;
    }
    return NB_OK;
}

static enum nb_status make_file(const char *path, int *fd, struct nb_error *err) {
    *fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    return *fd < 0 ? cannot(path, "make the file", err) : NB_OK;
}

/* To disk, and closed; s is what came before. */
static enum nb_status sync_file(int fd, const char *path, enum nb_status s, struct nb_error *err) {
    if (s == NB_OK && fsync(fd) != 0)
        s = cannot(path, "write", err);
    if (close(fd) != 0 && s == NB_OK)
        s = cannot(path, "write", err);
    return s;
}

enum nb_status nb_new_folder_write(const struct nb_new_folder *folder, const char *name,
                                   const void *bytes, size_t n, struct nb_error *err) {
    char path[PATH_MAX];
    int fd;
    enum nb_status s = join(folder, name, path, err);
    if (s == NB_OK)
        s = make_file(path, &fd, err);
    return s == NB_OK ? sync_file(fd, path, write_at(fd, path, bytes, n, 0, err), err) : s;
}

enum nb_status nb_new_folder_copy(const struct nb_new_folder *folder, const char *name,
                                  const char *from, struct nb_error *err) {
    struct nb_map map;
    enum nb_status s = nb_map_open(from, &map, err);
    if (s == NB_OK)
        s = nb_new_folder_write(folder, name, map.data, map.size, err);
    nb_map_close(&map);
    return s;
}

static enum nb_status sync_folder(const char *path, struct nb_error *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return cannot(path, "open", err);
    /* Some file systems have nothing to sync for a folder, and say EINVAL. */
    enum nb_status s = fsync(fd) == 0 || errno == EINVAL ? NB_OK : cannot(path, "write", err);
    close(fd);
    return s;
}

enum nb_status nb_new_folder_commit(struct nb_new_folder *folder, struct nb_error *err) {
    enum nb_status s = sync_folder(folder->path, err);
    if (s != NB_OK)
        return s;
    struct stat st;
    int rc = renameat2(AT_FDCWD, folder->path, AT_FDCWD, folder->target, RENAME_NOREPLACE);
    if (rc != 0 && (errno == EINVAL || errno == ENOSYS) && lstat(folder->target, &st) != 0)
        rc = rename(folder->path, folder->target); /* a file system without RENAME_NOREPLACE */
    if (rc != 0)
        return cannot(folder->target, "rename the finished folder to this", err);
    folder->path[0] = 0;
    char parent[PATH_MAX];
    const char *name;
    split(folder->target, parent, &name);
    sync_folder(parent, NULL); /* it is there, and whole, whether or not the disk knows by now */
    return NB_OK;
}

void nb_new_folder_abandon(struct nb_new_folder *folder) {
    DIR *dir = folder->path[0] ? opendir(folder->path) : NULL;
    if (!dir)
        return;
    for (struct dirent *e; (e = readdir(dir));) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            unlinkat(dirfd(dir), e->d_name, 0);
    }
    closedir(dir);
    rmdir(folder->path);
    folder->path[0] = 0;
}

/* ---- safetensors ---- */

struct nb_shard {
    char name[64], path[PATH_MAX];
    int fd;              /* -1 when closed */
    size_t first, n;     /* its part of nb_shards.order */
    size_t header_bytes; /* with the 8 before it, spaces after it: where the data begins */
    size_t fixed_bytes;  /* of the data, late tensors aside */
};

/* The tensor's entry in a header. */
static void add_entry(struct nb_buf *out, const struct nb_new_tensor *t, size_t begin, size_t end) {
    nb_buf_printf(out, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", t->name, nb_dtype_name(t->dtype));
    for (int i = 0; i < t->n_dims; i++)
        nb_buf_printf(out, "%s%" PRId64, i ? "," : "", t->shape[i]);
    nb_buf_printf(out, "],\"data_offsets\":[%zu,%zu]}", begin, end);
}

static const char header_start[] = "{\"__metadata__\":{\"format\":\"pt\"}";

/* In each file, larger types first, so that all are aligned; late tensors at the end. */
static int by_place(const void *a, const void *b) {
    const struct nb_new_tensor *x = *(struct nb_new_tensor *const *)a,
                               *y = *(struct nb_new_tensor *const *)b;
    if (x->shard != y->shard)
        return x->shard < y->shard ? -1 : 1;
    if (x->late != y->late)
        return x->late ? 1 : -1;
    size_t p = nb_dtype_bytes(x->dtype), q = nb_dtype_bytes(y->dtype);
    if (p != q)
        return p > q ? -1 : 1;
    return x < y ? -1 : x > y;
}

/* Numbers the tensors' files; returns how many there are. */
static size_t assign(struct nb_new_tensor *tensors, size_t n, size_t max_bytes) {
    size_t shard = 0, used = 0;
    for (size_t i = 0; i < n; i++) {
        if (used && tensors[i].bytes > max_bytes - (used < max_bytes ? used : max_bytes)) {
            shard++;
            used = 0;
        }
        tensors[i].shard = shard;
        used += tensors[i].bytes;
    }
    return shard + 1;
}

/* Why a shard of so many bytes does not fit: the disk, or what files may be long. */
static enum nb_status no_room(const struct nb_shard *shard, uint64_t bytes, struct nb_error *err) {
    int why = errno;
    struct statvfs disk;
    if (why != EFBIG && fstatvfs(shard->fd, &disk) == 0)
        return nb_fail(
            err, NB_ERR_IO,
            "%s: cannot make room for its %.1f MB on the disk, where %.1f MB are free: %s",
            shard->path, (double)bytes / 1e6, (double)disk.f_bavail * (double)disk.f_frsize / 1e6,
            strerror(why));
    return nb_fail(err, NB_ERR_IO, "%s: cannot make room for its %.1f MB: %s", shard->path,
                   (double)bytes / 1e6, strerror(why));
}

/* Where everything lies in a file. The header's length is the most it may come to be. */
static enum nb_status lay_out(struct nb_shards *s, struct nb_shard *shard, struct nb_error *err) {
    size_t most = 0, at = 0;
    for (size_t i = 0; i < shard->n; i++)
        most += s->order[shard->first + i]->bytes;
    struct nb_buf header = {0};
    nb_buf_add_string(&header, header_start);
    for (size_t i = 0; i < shard->n; i++)
        add_entry(&header, s->order[shard->first + i], most, most);
    shard->header_bytes = (8 + header.len + 1 + 7) & ~(size_t)7;
    bool failed = header.failed;
    nb_buf_free(&header);
    if (failed)
        return nb_fail_memory(err, shard->header_bytes, shard->path);
    for (size_t i = 0; i < shard->n; i++) {
        struct nb_new_tensor *t = s->order[shard->first + i];
        t->offset = shard->header_bytes + at;
        at += t->late ? 0 : t->bytes;
    }
    shard->fixed_bytes = at;
    enum nb_status status = make_file(shard->path, &shard->fd, err);
    /* A disk that is too small shows now, not in an hour; elsewhere this only may help. */
    if (status == NB_OK && fallocate(shard->fd, 0, 0, (off_t)(shard->header_bytes + most)) != 0 &&
        (errno == ENOSPC || errno == EFBIG || errno == EDQUOT))
        status = no_room(shard, shard->header_bytes + most, err);
    return status;
}

enum nb_status nb_shards_open(const struct nb_new_folder *folder, struct nb_new_tensor *tensors,
                              size_t n, size_t max_bytes, struct nb_shards *out,
                              struct nb_error *err) {
    *out = (struct nb_shards){.folder = folder, .tensors = tensors, .n = n};
    size_t n_shards = assign(tensors, n, max_bytes);
    out->order = nb_arena_alloc(&out->arena, n, sizeof *out->order);
    out->shards = nb_arena_alloc(&out->arena, n_shards, sizeof *out->shards);
    if (!out->order || !out->shards)
        return nb_fail_memory(err, n * sizeof *out->order, folder->target);
    for (size_t i = 0; i < n; i++)
        out->order[i] = &tensors[i];
    qsort(out->order, n, sizeof *out->order, by_place);
    enum nb_status s = NB_OK;
    for (size_t i = 0, first = 0; i < n_shards && s == NB_OK; i++) {
        struct nb_shard *shard = &out->shards[out->n_shards++];
        *shard = (struct nb_shard){.fd = -1, .first = first};
        while (first < n && out->order[first]->shard == i)
            first++;
        shard->n = first - shard->first;
        snprintf(shard->name, sizeof shard->name, "model.safetensors");
        if (n_shards > 1)
            snprintf(shard->name, sizeof shard->name, "model-%05zu-of-%05zu.safetensors", i + 1,
                     n_shards);
        s = join(folder, shard->name, shard->path, err);
        if (s == NB_OK)
            s = lay_out(out, shard, err);
    }
    return s;
}

enum nb_status nb_shards_write(const struct nb_shards *shards, const struct nb_new_tensor *tensor,
                               size_t at, const void *bytes, size_t n, struct nb_error *err) {
    const struct nb_shard *shard = &shards->shards[tensor->shard];
    size_t offset = tensor->offset + at;
    enum nb_status s = write_at(shard->fd, shard->path, bytes, n, offset, err);
    if (s == NB_OK && n >= 1 << 20) /* the disk starts now, so that the fsync at the end is short */
        sync_file_range(shard->fd, (off_t)offset, (off_t)n, SYNC_FILE_RANGE_WRITE);
    return s;
}

void nb_shards_put_late(struct nb_new_tensor *tensor, const void *bytes, size_t n) {
    tensor->late_data = bytes;
    tensor->bytes = n;
    tensor->shape[0] = (int64_t)n;
}

/* Late tensors, then the header, padded with spaces, whose place was kept. */
static enum nb_status finish_shard(struct nb_shards *s, struct nb_shard *shard,
                                   struct nb_error *err) {
    struct nb_buf late = {0}, header = {0};
    nb_buf_add(&header, "\0\0\0\0\0\0\0\0", 8);
    nb_buf_add_string(&header, header_start);
    size_t at = 0;
    for (size_t i = 0; i < shard->n; i++) {
        struct nb_new_tensor *t = s->order[shard->first + i];
        add_entry(&header, t, at, at + t->bytes);
        at += t->bytes;
        if (t->late)
            nb_buf_add(&late, t->late_data, t->bytes);
    }
    nb_buf_add_string(&header, "}");
    while (!header.failed && header.len < shard->header_bytes)
        nb_buf_add_string(&header, " ");
    enum nb_status status = NB_OK;
    if (header.failed || late.failed)
        status = nb_fail_memory(err, shard->header_bytes, shard->path);
    for (size_t i = 0; i < 8 && status == NB_OK; i++)
        header.data[i] = (char)((uint64_t)(shard->header_bytes - 8) >> 8 * i & 0xFF);
    if (status == NB_OK)
        status = write_at(shard->fd, shard->path, late.data, late.len,
                          shard->header_bytes + shard->fixed_bytes, err);
    if (status == NB_OK)
        status = write_at(shard->fd, shard->path, header.data, header.len, 0, err);
    if (status == NB_OK && ftruncate(shard->fd, (off_t)(shard->header_bytes + at)) != 0)
        status = cannot(shard->path, "write", err);
    s->bytes += at;
    nb_buf_free(&header);
    nb_buf_free(&late);
    status = sync_file(shard->fd, shard->path, status, err);
    shard->fd = -1;
    return status;
}

static int by_name(const void *a, const void *b) {
    return strcmp((*(struct nb_new_tensor *const *)a)->name,
                  (*(struct nb_new_tensor *const *)b)->name);
}

static enum nb_status write_index(struct nb_shards *s, uint64_t parameters, struct nb_error *err) {
    struct nb_buf text = {0};
    nb_buf_printf(&text,
                  "{\n  \"metadata\": {\n    \"total_parameters\": %" PRIu64
                  ",\n    \"total_size\": %" PRIu64 "\n  },\n  \"weight_map\": {",
                  parameters, s->bytes);
    qsort(s->order, s->n, sizeof *s->order, by_name);
    for (size_t i = 0; i < s->n; i++)
        nb_buf_printf(&text, "%s\n    \"%s\": \"%s\"", i ? "," : "", s->order[i]->name,
                      s->shards[s->order[i]->shard].name);
    nb_buf_add_string(&text, "\n  }\n}\n");
    enum nb_status status = NB_OK;
    if (text.failed)
        status = nb_fail_memory(err, s->n * 64, s->folder->target);
    else
        status = nb_new_folder_write(s->folder, "model.safetensors.index.json", text.data, text.len,
                                     err);
    nb_buf_free(&text);
    return status;
}

enum nb_status nb_shards_finish(struct nb_shards *shards, uint64_t parameters,
                                struct nb_error *err) {
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < shards->n_shards && s == NB_OK; i++)
        s = finish_shard(shards, &shards->shards[i], err);
    return s == NB_OK && shards->n_shards > 1 ? write_index(shards, parameters, err) : s;
}

void nb_shards_close(struct nb_shards *shards) {
    for (size_t i = 0; i < shards->n_shards; i++) {
        if (shards->shards[i].fd >= 0)
            close(shards->shards[i].fd);
    }
    nb_arena_free(&shards->arena);
    *shards = (struct nb_shards){0};
}

/* ---- JSON ---- */

void nb_python_number(double x, char out[32]) {
    char digits[32];
    if (!isfinite(x)) {
        snprintf(out, 32, "%s", isnan(x) ? "NaN" : x < 0 ? "-Infinity" : "Infinity");
        return;
    }
    for (int precision = 0; precision < 17; precision++) {
        snprintf(digits, sizeof digits, "%.*e", precision, x);
        if (strtod(digits, NULL) == x)
            break;
    }
    int exponent = atoi(strchr(digits, 'e') + 1);
    size_t significant = (size_t)(strchr(digits, 'e') - digits) - (digits[0] == '-');
    significant -= significant > 1; /* the point */
    if (exponent < -4 || exponent >= 16) {
        snprintf(out, 32, "%s", digits);
        return;
    }
    int after = (int)significant - 1 - exponent;
    snprintf(out, 32, "%.*f", after > 1 ? after : 1, x);
}

static int by_text(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void add_value(const json_t *value, int depth, struct nb_buf *out);

static void add_line(int depth, struct nb_buf *out) {
    nb_buf_printf(out, "\n%*s", 2 * depth, "");
}

/* A string or another value that has no members, as jansson writes it. */
static void add_scalar(const json_t *value, struct nb_buf *out) {
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    if (text)
        nb_buf_add_string(out, text);
    else
        out->failed = true;
    free(text);
}

static void add_object(const json_t *value, int depth, struct nb_buf *out) {
    size_t n = json_object_size(value), i = 0;
    const char **keys = calloc(n + 1, sizeof *keys);
    if (!keys) {
        out->failed = true;
        return;
    }
    for (void *at = json_object_iter((json_t *)value); at;
         at = json_object_iter_next((json_t *)value, at))
        keys[i++] = json_object_iter_key(at);
    qsort(keys, n, sizeof *keys, by_text);
    nb_buf_add_string(out, "{");
    for (i = 0; i < n; i++) {
        json_t *key = json_string(keys[i]);
        nb_buf_add_string(out, i ? "," : "");
        add_line(depth + 1, out);
        add_scalar(key, out);
        nb_buf_add_string(out, ": ");
        add_value(json_object_get(value, keys[i]), depth + 1, out);
        json_decref(key);
    }
    if (n)
        add_line(depth, out);
    nb_buf_add_string(out, "}");
    free(keys);
}

/* jansson limits how deep a document nests, and so this. */
static void add_value(const json_t *value, int depth, struct nb_buf *out) {
    if (json_is_object(value)) {
        add_object(value, depth, out);
    } else if (json_is_array(value)) {
        nb_buf_add_string(out, "[");
        for (size_t i = 0; i < json_array_size(value); i++) {
            nb_buf_add_string(out, i ? "," : "");
            add_line(depth + 1, out);
            add_value(json_array_get(value, i), depth + 1, out);
        }
        if (json_array_size(value))
            add_line(depth, out);
        nb_buf_add_string(out, "]");
    } else if (json_is_real(value)) {
        char text[32];
        nb_python_number(json_real_value(value), text);
        nb_buf_add_string(out, text);
    } else {
        add_scalar(value, out);
    }
}

void nb_python_json(const json_t *value, struct nb_buf *out) {
    add_value(value, 0, out);
}
