#include "service/files.h"

#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct known {
    char *path;
    struct stat st;
};

struct nb_files {
    struct known *known;
    size_t n;
};

static bool is_tensors(const char *name) {
    static const char end[] = ".safetensors";
    size_t n = strlen(name);
    return n > sizeof end - 1 && strcmp(name + n - (sizeof end - 1), end) == 0;
}

static enum nb_status add(struct nb_files *files, const char *folder, const char *name,
                          struct nb_error *err) {
    char path[PATH_MAX];
    struct known one;
    if (!nb_path_join(path, sizeof path, folder, name) || stat(path, &one.st) != 0)
        return NB_OK; /* it was not what was mapped */
    struct known *grown = realloc(files->known, (files->n + 1) * sizeof *grown);
    if (grown)
        files->known = grown;
    one.path = grown ? strdup(path) : NULL;
    if (!one.path)
        return nb_fail_memory(err, sizeof one, "the checkpoint's files");
    files->known[files->n++] = one;
    return NB_OK;
}

enum nb_status nb_files_open(const char *folder, struct nb_files **out, struct nb_error *err) {
    *out = NULL;
    struct nb_files *files = calloc(1, sizeof *files);
    if (!files)
        return nb_fail_memory(err, sizeof *files, "the checkpoint's files");
    enum nb_status s = NB_OK;
    DIR *dir = opendir(folder);
    if (!dir)
        s = nb_fail(err, NB_ERR_IO, "%s: cannot read: %s", folder, strerror(errno));
    for (struct dirent *e; s == NB_OK && (e = readdir(dir));) {
        if (is_tensors(e->d_name))
            s = add(files, folder, e->d_name, err);
    }
    if (dir)
        closedir(dir);
    if (s == NB_OK)
        *out = files;
    else
        nb_files_close(files);
    return s;
}

void nb_files_close(struct nb_files *files) {
    for (size_t i = 0; files && i < files->n; i++)
        free(files->known[i].path);
    if (files)
        free(files->known);
    free(files);
}

enum nb_status nb_files_check(const struct nb_files *files, struct nb_error *err) {
    for (size_t i = 0; i < files->n; i++) {
        const struct known *k = &files->known[i];
        struct stat st;
        if (stat(k->path, &st) != 0 || st.st_ino != k->st.st_ino || st.st_dev != k->st.st_dev)
            continue; /* gone, or another: the mapping is of the old one */
        if (st.st_size != k->st.st_size || st.st_mtim.tv_sec != k->st.st_mtim.tv_sec ||
            st.st_mtim.tv_nsec != k->st.st_mtim.tv_nsec)
            return nb_fail(err, NB_ERR_FORMAT,
                           "%s was written to while it was in use (%lld bytes, %lld before): its "
                           "weights cannot be trusted; to change a checkpoint, put another file in "
                           "its place by a rename",
                           k->path, (long long)st.st_size, (long long)k->st.st_size);
    }
    return NB_OK;
}
