/* The caches of Hugging Face: what is in them, and what is missing. */
#include "doctor/machine.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "model/cache.h"
#include "model/json.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum {
    MAX_REPOSITORIES = 256,
    MAX_SNAPSHOTS = 64,
    MAX_INDEX_BYTES = 64 << 20,
    SAMPLE_BYTES = 64 << 20,
    MAX_NAMED = 5, /* files that a finding names; the rest is counted */
};

struct sample {
    char path[PATH_MAX]; /* the largest file; "" for none */
    uint64_t bytes;
};

/* Notes the size of a file of a snapshot. False if it is not there: never downloaded, or a link to
 * a blob that is gone. */
static bool take_file(const char *folder, const char *name, uint64_t *bytes,
                      struct sample *sample) {
    char path[PATH_MAX];
    struct stat st;
    if (!nb_path_join(path, sizeof path, folder, name) || stat(path, &st) != 0 ||
        !S_ISREG(st.st_mode))
        return false;
    *bytes += (uint64_t)st.st_size;
    if ((uint64_t)st.st_size > sample->bytes) {
        sample->bytes = (uint64_t)st.st_size;
        snprintf(sample->path, sizeof sample->path, "%s", path);
    }
    return true;
}

/* The shards that model.safetensors.index.json names; each is counted once. */
static void check_shards(const char *folder, const json_t *index, size_t *total, uint64_t *bytes,
                         struct nb_buf *missing, size_t *n_missing, struct sample *sample) {
    json_t *seen = json_object();
    const char *tensor;
    json_t *shard;
    json_object_foreach(json_object_get(index, "weight_map"), tensor, shard) {
        const char *name = json_string_value(shard);
        if (!name || json_object_get(seen, name) || strchr(name, '/'))
            continue;
        json_object_set_new(seen, name, json_true());
        ++*total;
        if (take_file(folder, name, bytes, sample))
            continue;
        if (++*n_missing <= MAX_NAMED)
            nb_buf_printf(missing, "%smissing: %s", missing->len ? "\n" : "", name);
    }
    if (*n_missing > MAX_NAMED)
        nb_buf_printf(missing, "\nand %zu more", *n_missing - MAX_NAMED);
    json_decref(seen);
}

static void check_snapshot(const char *repository, const char *folder, const char *commit,
                           struct sample *sample, struct nb_findings *f) {
    char path[PATH_MAX];
    uint64_t bytes = 0;
    size_t total = 0, n_missing = 0;
    struct nb_buf missing = {0};
    json_t *index = NULL;
    struct nb_error err = {0};
    if (!nb_path_join(path, sizeof path, folder, "model.safetensors.index.json"))
        return;
    if (nb_is_file(path) && nb_json_read(path, MAX_INDEX_BYTES, &index, &err) != NB_OK) {
        nb_findings_add(
            f, NB_SEVERITY_WARNING, "checkpoint-damaged",
            nb_findings_text(f, "%s: the list of its shards cannot be read", repository),
            err.message, "download it again");
        return;
    }
    if (index) {
        check_shards(folder, index, &total, &bytes, &missing, &n_missing, sample);
    } else if (take_file(folder, "model.safetensors", &bytes, sample)) {
        total = 1;
    } else {
        return; /* a tokenizer, a data set, weights of another format: none of ours */
    }
    bool config = nb_path_join(path, sizeof path, folder, "config.json") && nb_is_file(path);
    if (!config) {
        nb_buf_printf(&missing, "%smissing: config.json", missing.len ? "\n" : "");
        n_missing++;
    }
    const char *evidence =
        nb_findings_text(f, "%s\n%s", folder, missing.data ? missing.data : "nothing is missing");
    if (n_missing)
        nb_findings_add(f, NB_SEVERITY_WARNING, "checkpoint-incomplete",
                        nb_findings_text(f, "%s at %.12s: %zu file%s missing, %zu shard%s named",
                                         repository, commit, n_missing,
                                         n_missing == 1 ? " is" : "s are", total,
                                         total == 1 ? "" : "s"),
                        evidence, "download it again: hf download resumes");
    else
        nb_findings_add(
            f, NB_SEVERITY_GOOD, "checkpoint",
            nb_findings_text(f, "%s at %.12s: all of its %zu file%s of weights, %.2f GB",
                             repository, commit, total, total == 1 ? "" : "s", (double)bytes / 1e9),
            evidence, NULL);
    nb_buf_free(&missing);
    json_decref(index);
}

/* Blobs that huggingface_hub has not fetched to the end: it renames them when they are whole. */
static void check_unfinished(const char *repository, const char *folder, struct nb_findings *f) {
    static const char suffix[] = ".incomplete";
    char blobs[PATH_MAX], path[PATH_MAX], first[PATH_MAX] = "";
    if (!nb_path_join(blobs, sizeof blobs, folder, "blobs"))
        return;
    DIR *dir = opendir(blobs);
    uint64_t bytes = 0;
    size_t n = 0;
    for (struct dirent *e; dir && (e = readdir(dir));) {
        size_t length = strlen(e->d_name);
        struct stat st;
        if (length < sizeof suffix ||
            strcmp(e->d_name + length - (sizeof suffix - 1), suffix) != 0 ||
            !nb_path_join(path, sizeof path, blobs, e->d_name) || stat(path, &st) != 0)
            continue;
        bytes += (uint64_t)st.st_size;
        if (n++ == 0)
            snprintf(first, sizeof first, "%s", path);
    }
    if (dir)
        closedir(dir);
    if (n)
        nb_findings_add(
            f, NB_SEVERITY_WARNING, "download-unfinished",
            nb_findings_text(f, "%s: a download runs or was broken off: %zu file%s, %.2f GB so far",
                             repository, n, n == 1 ? "" : "s", (double)bytes / 1e9),
            first,
            nb_findings_text(f, "unless it still runs: hf download %s goes on with it",
                             repository));
}

static void check_repository(const char *cache, const char *name, struct sample *sample,
                             struct nb_findings *f) {
    char folder[PATH_MAX], snapshots[PATH_MAX], path[PATH_MAX], readable[256];
    if (!nb_path_join(folder, sizeof folder, cache, name) ||
        !nb_path_join(snapshots, sizeof snapshots, folder, "snapshots"))
        return;
    /* models--ORG--NAME */
    snprintf(readable, sizeof readable, "%s", name + strlen("models--"));
    char *dashes = strstr(readable, "--");
    if (dashes) {
        *dashes = '/';
        memmove(dashes + 1, dashes + 2, strlen(dashes + 2) + 1);
    }
    DIR *dir = opendir(snapshots);
    size_t n = 0;
    for (struct dirent *e; dir && (e = readdir(dir)) && n < MAX_SNAPSHOTS;) {
        if (e->d_name[0] == '.' || !nb_path_join(path, sizeof path, snapshots, e->d_name))
            continue;
        n++;
        check_snapshot(readable, path, e->d_name, sample, f);
    }
    if (dir)
        closedir(dir);
    check_unfinished(readable, folder, f);
}

/* Reads a part of a file past the page cache where the file system lets us. */
static void measure_sample(const struct sample *sample, struct nb_findings *f) {
    size_t n = sample->bytes < SAMPLE_BYTES ? (size_t)sample->bytes & ~(size_t)4095 : SAMPLE_BYTES;
    void *buffer = NULL;
    bool direct = true;
    int fd = open(sample->path, O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (fd < 0) {
        direct = false;
        fd = open(sample->path, O_RDONLY | O_CLOEXEC);
    }
    if (fd < 0 || n < (1 << 20) || posix_memalign(&buffer, 4096, 4 << 20) != 0) {
        if (fd >= 0)
            close(fd);
        return;
    }
    off_t begin = (off_t)((sample->bytes - n) / 2 & ~(uint64_t)4095);
    int64_t start = nb_now_us();
    size_t done = 0;
    while (done < n) {
        size_t want = n - done < (4 << 20) ? n - done : 4 << 20;
        ssize_t got = pread(fd, buffer, want, begin + (off_t)done);
        if (got <= 0)
            break;
        done += (size_t)got;
    }
    double seconds = (double)(nb_now_us() - start) / 1e6;
    close(fd);
    free(buffer);
    if (done == n && seconds > 0)
        nb_findings_add(
            f, NB_SEVERITY_GOOD, "read-speed",
            nb_findings_text(f, "the cache reads at %.0f MB/s", (double)n / seconds / 1e6),
            nb_findings_text(f, "%zu bytes of %s, one after another, in one thread%s", n,
                             sample->path,
                             direct ? ", past the page cache" : "; perhaps from the page cache"),
            NULL);
}

void nb_doctor_cache(const char *folder, bool measure, struct nb_findings *f) {
    struct statvfs space;
    struct sample sample = {.path = ""};
    size_t n = 0;
    DIR *dir = opendir(folder);
    if (!dir) {
        nb_findings_add(f, NB_SEVERITY_WARNING, "cache-unreadable",
                        nb_findings_text(f, "%s: the cache cannot be opened", folder),
                        strerror(errno), "give this user the right to read it");
        return;
    }
    for (struct dirent *e; (e = readdir(dir)) && n < MAX_REPOSITORIES;) {
        if (strncmp(e->d_name, "models--", 8) != 0)
            continue;
        n++;
        check_repository(folder, e->d_name, &sample, f);
    }
    closedir(dir);
    if (statvfs(folder, &space) == 0)
        nb_findings_add(f, NB_SEVERITY_GOOD, "cache",
                        nb_findings_text(f, "cache %s: %zu repositories, %.1f GB free", folder, n,
                                         (double)space.f_bavail * (double)space.f_frsize / 1e9),
                        NULL, NULL);
    if (measure && sample.path[0])
        measure_sample(&sample, f);
}

/* A variable that names what is not there, so that other caches are looked at than was meant. */
static void check_variables(struct nb_findings *f) {
    static const char *const names[] = {"HF_HUB_CACHE", "HF_HOME"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *folder = getenv(names[i]);
        if (folder && *folder && !nb_is_folder(folder))
            nb_findings_add(
                f, NB_SEVERITY_WARNING, "cache-missing",
                nb_findings_text(f, "%s names %s, where there is no folder", names[i], folder),
                NULL, "mount or make that folder, or correct the variable");
    }
}

void nb_doctor_caches(struct nb_findings *f) {
    enum { MAX = 5 };
    char(*folders)[PATH_MAX] = malloc(sizeof *folders * MAX);
    if (!folders) {
        f->failed = true;
        return;
    }
    check_variables(f);
    size_t n = nb_cache_folders(folders, MAX);
    for (size_t i = 0; i < n; i++)
        nb_doctor_cache(folders[i], true, f);
    if (!n)
        nb_findings_add(f, NB_SEVERITY_NOTE, "cache", "there is no Hugging Face cache",
                        "looked at HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME and "
                        "~/.cache/huggingface/hub",
                        NULL);
    free(folders);
}
