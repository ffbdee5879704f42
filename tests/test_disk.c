/* Disks that are full and calls that fail, each in turn, while a checkpoint is quantized: the
 * answer is an error, and nothing is left. The linker sends nibble's calls here (--wrap),
 * under the names that they have with 64-bit offsets, which Meson asks for. */
#include "checkpoint.h"
#include "test.h"

#include "model/convert.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* ---- calls ---- */

static long countdown; /* to the call that fails; 0: none */
static bool reluctant; /* writes come in pieces, and are interrupted */

static bool of_memory; /* calls that allocate fail, and not those that write */

static bool fails(void) {
    return !of_memory && countdown && --countdown == 0;
}

static bool runs_out(void) {
    return of_memory && countdown && --countdown == 0;
}

ssize_t __real_pwrite64(int fd, const void *bytes, size_t n, off_t at);
int __real_fsync(int fd);
int __real_ftruncate64(int fd, off_t n);
int __real_fallocate64(int fd, int mode, off_t at, off_t n);
int __real_mkdir(const char *path, mode_t mode);
int __real_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
ssize_t __wrap_pwrite64(int fd, const void *bytes, size_t n, off_t at);
int __wrap_fsync(int fd);
int __wrap_ftruncate64(int fd, off_t n);
int __wrap_fallocate64(int fd, int mode, off_t at, off_t n);
int __wrap_mkdir(const char *path, mode_t mode);
int __wrap_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);

ssize_t __wrap_pwrite64(int fd, const void *bytes, size_t n, off_t at) {
    static int calls;
    if (reluctant && ++calls % 3 == 0) {
        errno = EINTR;
        return -1;
    }
    if (reluctant)
        return __real_pwrite64(fd, bytes, n > 700 ? 700 : n, at);
    if (!fails())
        return __real_pwrite64(fd, bytes, n, at);
    if (n > 1) /* what fits is written first */
        return __real_pwrite64(fd, bytes, n / 2, at) < 0 ? -1 : (countdown = 1, (ssize_t)(n / 2));
    errno = ENOSPC;
    return -1;
}

int __wrap_fsync(int fd) {
    return fails() ? (errno = EIO, -1) : __real_fsync(fd);
}

int __wrap_ftruncate64(int fd, off_t n) {
    return fails() ? (errno = EIO, -1) : __real_ftruncate64(fd, n);
}

/* Where a file system cannot do this, nothing fails; where the disk is full, all does. */
int __wrap_fallocate64(int fd, int mode, off_t at, off_t n) {
    if (reluctant)
        return errno = EOPNOTSUPP, -1;
    return fails() ? (errno = ENOSPC, -1) : __real_fallocate64(fd, mode, at, n);
}

int __wrap_mkdir(const char *path, mode_t mode) {
    return fails() ? (errno = EACCES, -1) : __real_mkdir(path, mode);
}

int __wrap_renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags) {
    if (reluctant)
        return errno = EINVAL, -1; /* as some network file systems */
    return fails() ? (errno = EEXIST, -1) : __real_renameat2(from_fd, from, to_fd, to, flags);
}

void *__wrap_calloc(size_t n, size_t size) {
    return runs_out() ? NULL : __real_calloc(n, size);
}

void *__wrap_realloc(void *p, size_t n) {
    return runs_out() ? NULL : __real_realloc(p, n);
}

/* ---- tests ---- */

static size_t entries(const char *path) {
    DIR *dir = opendir(path);
    size_t n = 0;
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(dir);
    return n;
}

static enum nb_status quantize(const struct folder *folder, struct nb_pool *pool,
                               struct nb_error *err) {
    struct nb_converted done;
    struct nb_convert_options o = {.how = nb_quantize_defaults, .max_file_bytes = 15000};
    return nb_checkpoint_quantize(test_path("tests/golden/arch-tiny-small-fp16"),
                                  folder_path(folder, "q"), &o, pool, &done, err);
}

/* What was written can be opened; removes it. */
static void check_result(const struct folder *folder) {
    struct nb_error err;
    struct nb_model model;
    struct folder inner;
    snprintf(inner.path, sizeof inner.path, "%s", folder_path(folder, "q"));
    assert_ok(nb_model_open(inner.path, &model, &err), err);
    assert_true(model.tensors.n_files > 1);
    nb_model_close(&model);
    folder_remove(&inner);
}

/* Every call fails once, until there are no more, or none that matters (the last one tells the disk
 * of the new name); `code` and `says` are what comes of it. */
static void fail_each(enum nb_status code, const char *says) {
    struct nb_error err;
    struct nb_pool *pool;
    struct folder folder;
    enum nb_status s = NB_ERR_IO;
    long at = 0;
    folder_make(&folder);
    assert_ok(nb_pool_create(1, &pool, &err), err);
    while (s != NB_OK) {
        char label[32];
        snprintf(label, sizeof label, "call %ld", ++at);
        countdown = at;
        s = quantize(&folder, pool, &err);
        countdown = 0;
        if (s != NB_OK)
            expect_failure(label, s, &err, code, says);
        assert_int_equal(entries(folder.path), s == NB_OK);
    }
    assert_true(at > 10);
    check_result(&folder);
    nb_pool_free(pool);
    folder_remove(&folder);
}

static void every_call(void **state) {
    (void)state;
    fail_each(NB_ERR_IO, "cannot |: ");
}

static void every_allocation(void **state) {
    (void)state;
    of_memory = true;
    fail_each(NB_ERR_MEMORY, "memory");
    of_memory = false;
}

static void reluctant_disk(void **state) {
    (void)state;
    struct nb_error err;
    struct nb_pool *pool;
    struct folder folder;
    folder_make(&folder);
    assert_ok(nb_pool_create(2, &pool, &err), err);
    reluctant = true;
    assert_ok(quantize(&folder, pool, &err), err);
    assert_int_equal(quantize(&folder, pool, &err), NB_ERR_IO); /* it exists now */
    reluctant = false;
    assert_int_equal(entries(folder.path), 1);
    check_result(&folder);
    nb_pool_free(pool);
    folder_remove(&folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_call),
        cmocka_unit_test(every_allocation),
        cmocka_unit_test(reluctant_disk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
