#include "fuzz.h"

#include <dirent.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char folder[64];

static void remove_folder(void) {
    DIR *dir = opendir(folder);
    for (struct dirent *e; dir && (e = readdir(dir));)
        unlinkat(dirfd(dir), e->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(folder);
}

static void make_folder(void) {
    if (folder[0])
        return;
    snprintf(folder, sizeof folder, "/tmp/nibble-fuzz-XXXXXX");
    REQUIRE(mkdtemp(folder));
    atexit(remove_folder);
}

const char *fuzz_folder(const char *name, const uint8_t *data, size_t size) {
    static int fd = -1;
    make_folder();
    if (fd < 0) { /* a link to memory, so that no disk is touched */
        char path[256], target[64];
        fd = memfd_create("fuzz", MFD_CLOEXEC);
        REQUIRE(fd >= 0);
        snprintf(path, sizeof path, "%s/%s", folder, name);
        snprintf(target, sizeof target, "/proc/self/fd/%d", fd);
        REQUIRE(symlink(target, path) == 0);
    }
    REQUIRE(ftruncate(fd, 0) == 0);
    REQUIRE(pwrite(fd, data, size, 0) == (ssize_t)size);
    return folder;
}

void fuzz_add_file(const char *name, const char *text) {
    char path[256];
    make_folder();
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    REQUIRE(f && fputs(text, f) >= 0 && fclose(f) == 0);
}
