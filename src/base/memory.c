#include "base/memory.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* The number after `key` in a file of lines "key number"; without a key, that the file begins with.
 * False if there is none: "max", or no such file. */
static bool read_number(const char *path, const char *key, uint64_t *out) {
    FILE *f = fopen(path, "r");
    char line[256];
    bool found = false;
    if (!f)
        return false;
    while (!found && fgets(line, sizeof line, f)) {
        size_t n = strlen(key);
        unsigned long long value;
        if (strncmp(line, key, n) == 0 && sscanf(line + n, "%llu", &value) == 1) {
            *out = value;
            found = true;
        }
    }
    fclose(f);
    return found;
}

/* The files of the two versions of Linux's control groups, as a container sees its own. */
static const struct {
    const char *limit, *used, *stat, *cache[2];
} groups[] = {
    {"/sys/fs/cgroup/memory.max",
     "/sys/fs/cgroup/memory.current",
     "/sys/fs/cgroup/memory.stat",
     {"active_file ", "inactive_file "}},
    {"/sys/fs/cgroup/memory/memory.limit_in_bytes",
     "/sys/fs/cgroup/memory/memory.usage_in_bytes",
     "/sys/fs/cgroup/memory/memory.stat",
     {"total_active_file ", "total_inactive_file "}},
};

uint64_t nb_memory_available(void) {
    uint64_t available;
    if (!read_number("/proc/meminfo", "MemAvailable:", &available))
        return 0;
    available *= 1024;
    for (int i = 0; i < 2; i++) {
        uint64_t limit, used, cache, left;
        if (!read_number(groups[i].limit, "", &limit) || !read_number(groups[i].used, "", &used))
            continue;
        for (int j = 0; j < 2; j++) {
            if (read_number(groups[i].stat, groups[i].cache[j], &cache))
                used -= cache < used ? cache : used;
        }
        left = limit > used ? limit - used : 0;
        available = left < available ? left : available;
    }
    return available;
}
