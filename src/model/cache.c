#include "model/cache.h"

#include "base/buf.h"
#include "base/file.h"

#include <dirent.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char name_characters[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";

/* "org/name[@revision]" taken apart. */
struct repository {
    char folder[256];   /* "models--org--name" */
    char revision[128]; /* "main" if none is named */
};

/* False if the text is no repository name. Parts of dots only would lead out of the cache. */
static bool parse(const char *text, struct repository *out) {
    size_t org = strspn(text, name_characters);
    if (org == 0 || text[org] != '/')
        return false;
    const char *name = text + org + 1;
    size_t n = strspn(name, name_characters);
    const char *revision = name[n] == '@' ? name + n + 1 : "main";
    if (n == 0 || strspn(text, ".") >= org || strspn(name, ".") >= n ||
        (name[n] && name[n] != '@') || !*revision || strstr(revision, "..") || revision[0] == '/' ||
        revision[strspn(revision, name_characters)] == '/')
        return false;
    int a = snprintf(out->folder, sizeof out->folder, "models--%.*s--%.*s", (int)org, text, (int)n,
                     name);
    int b = snprintf(out->revision, sizeof out->revision, "%s", revision);
    return a < (int)sizeof out->folder && b < (int)sizeof out->revision &&
           revision[strspn(revision, name_characters)] == 0;
}

/* The only snapshot, or the one that begins with `commit`; false if there is none, or more than
 * one. */
static bool find_snapshot(const char *snapshots, const char *commit, char *out, size_t size) {
    DIR *dir = opendir(snapshots);
    if (!dir)
        return false;
    size_t found = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        char path[PATH_MAX];
        if (e->d_name[0] == '.' || strncmp(e->d_name, commit, strlen(commit)) != 0 ||
            !nb_path_join(path, sizeof path, snapshots, e->d_name) || !nb_is_folder(path))
            continue;
        found++;
        if (snprintf(out, size, "%s", path) >= (int)size)
            found = 2; /* does not fit: as good as not found */
    }
    closedir(dir);
    return found == 1;
}

/* The commit that refs/REVISION names; empty if there is no such file. */
static void read_ref(const char *repository, const char *revision, char *out, size_t size) {
    char refs[PATH_MAX], path[PATH_MAX];
    struct nb_buf text = {0};
    out[0] = 0;
    if (nb_path_join(refs, sizeof refs, repository, "refs") &&
        nb_path_join(path, sizeof path, refs, revision) && nb_is_file(path) &&
        nb_read_regular_file(path, 4096, &text, NULL) == NB_OK && text.data) {
        size_t n = strspn(text.data, "0123456789abcdefABCDEF");
        if (n < size)
            snprintf(out, size, "%.*s", (int)n, text.data);
    }
    nb_buf_free(&text);
}

/* The snapshot of a repository in one cache. */
static bool find_in(const char *cache, const struct repository *r, char *out, size_t size) {
    char repository[PATH_MAX], snapshots[PATH_MAX], commit[128];
    if (!nb_path_join(repository, sizeof repository, cache, r->folder) ||
        !nb_path_join(snapshots, sizeof snapshots, repository, "snapshots"))
        return false;
    read_ref(repository, r->revision, commit, sizeof commit);
    if (commit[0])
        return nb_path_join(out, size, snapshots, commit) && nb_is_folder(out);
    /* Volumes that were copied may lack refs/: a single snapshot is then what is meant. */
    bool main = strcmp(r->revision, "main") == 0;
    return find_snapshot(snapshots, main ? "" : r->revision, out, size);
}

/* The places to look in, from an environment variable and a folder below it. */
static const struct {
    const char *variable, *below;
} caches[] = {
    {"HF_HUB_CACHE", ""},
    {"HF_HOME", "hub"},
    {"HF_HOME", ""},
    {"XDG_CACHE_HOME", "huggingface/hub"},
    {"HOME", ".cache/huggingface/hub"},
};

size_t nb_cache_folders(char (*out)[PATH_MAX], size_t max) {
    size_t n = 0;
    for (size_t i = 0; i < sizeof caches / sizeof *caches && n < max; i++) {
        const char *base = getenv(caches[i].variable);
        bool found = base && *base && nb_path_join(out[n], PATH_MAX, base, caches[i].below) &&
                     nb_is_folder(out[n]);
        for (size_t j = 0; found && j < n; j++)
            found = strcmp(out[j], out[n]) != 0;
        n += found;
    }
    return n;
}

enum nb_status nb_checkpoint_find(const char *name, char *out, size_t size, struct nb_error *err) {
    if (nb_is_folder(name)) {
        if (snprintf(out, size, "%s", name) < (int)size)
            return NB_OK;
        return nb_fail(err, NB_ERR_ARGUMENT, "%.64s…: path too long", name);
    }
    struct repository r;
    if (nb_is_file(name))
        return nb_fail(err, NB_ERR_IO,
                       "%s: is a file; a checkpoint is a folder with config.json and safetensors",
                       name);
    if (!parse(name, &r))
        return nb_fail(err, NB_ERR_IO,
                       "\"%s\": no such folder, and no name of a repository; expected a "
                       "checkpoint's folder, or ORG/NAME as it is in the Hugging Face cache",
                       name);
    struct nb_buf looked = {0};
    for (size_t i = 0; i < sizeof caches / sizeof *caches; i++) {
        const char *base = getenv(caches[i].variable);
        char cache[PATH_MAX];
        if (!base || !*base || !nb_path_join(cache, sizeof cache, base, caches[i].below))
            continue;
        if (find_in(cache, &r, out, size)) {
            nb_buf_free(&looked);
            return NB_OK;
        }
        nb_buf_printf(&looked, "%s%s", looked.len ? ", " : "", cache);
    }
    enum nb_status s = nb_fail(
        err, NB_ERR_IO,
        "%s: no such folder, and no snapshot of revision %s of that repository in %s; "
        "nothing is downloaded: fetch it first (hf download %.*s), or name a folder",
        name, r.revision, looked.data ? looked.data : "any cache", (int)strcspn(name, "@"), name);
    nb_buf_free(&looked);
    return s;
}

bool nb_tokenizer_path(const char *folder, char *out, size_t size) {
    static const char *const names[] = {"tokenizer.json", "tokenizer.model"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (nb_path_join(out, size, folder, names[i]) && nb_is_file(out))
            return true;
    }
    return false;
}
