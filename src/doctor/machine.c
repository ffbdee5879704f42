#include "doctor/machine.h"

#include "base/file.h"

#include <dirent.h>
#include <dlfcn.h>
#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* ---- files of the system ---- */

/* The first `size - 1` bytes of root + path; false if it cannot be read. */
static bool read_text(const char *root, const char *path, char *out, size_t size) {
    char full[PATH_MAX];
    out[0] = 0;
    if (snprintf(full, sizeof full, "%s%s", root, path) >= (int)sizeof full)
        return false;
    FILE *f = fopen(full, "re");
    if (!f)
        return false;
    size_t n = fread(out, 1, size - 1, f);
    out[n] = 0;
    fclose(f);
    return true;
}

static bool exists(const char *root, const char *path) {
    char full[PATH_MAX];
    struct stat st;
    return snprintf(full, sizeof full, "%s%s", root, path) < (int)sizeof full &&
           stat(full, &st) == 0;
}

static void read_devices(const char *root, struct nb_machine *m) {
    char path[PATH_MAX], text[4096];
    m->control = exists(root, "/dev/nvidiactl");
    m->uvm = exists(root, "/dev/nvidia-uvm");
    for (int i = 0; i < NB_MAX_GPUS; i++) {
        snprintf(path, sizeof path, "/dev/nvidia%d", i);
        m->n_nodes += exists(root, path);
    }
    m->kernel_module = exists(root, "/proc/driver/nvidia");
    if (read_text(root, "/proc/driver/nvidia/version", text, sizeof text)) {
        /* "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  Thu Feb …", or
         * "… NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build …" */
        char *save;
        for (char *word = strtok_r(text, " \t\n", &save); word && !m->kernel_driver[0];
             word = strtok_r(NULL, " \t\n", &save)) {
            size_t digits = strspn(word, "0123456789");
            if (digits && word[digits] == '.' && !word[strspn(word, "0123456789.")])
                snprintf(m->kernel_driver, sizeof m->kernel_driver, "%s", word);
        }
    }
    snprintf(path, sizeof path, "%s/sys/bus/pci/devices", root);
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (e->d_name[0] == '.')
            continue;
        char vendor[32], class[32];
        snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/vendor", e->d_name);
        read_text(root, path, vendor, sizeof vendor);
        snprintf(path, sizeof path, "/sys/bus/pci/devices/%s/class", e->d_name);
        read_text(root, path, class, sizeof class);
        /* Class 03: display controllers, "3D" ones included. */
        m->n_pci += strncmp(vendor, "0x10de", 6) == 0 && strncmp(class, "0x03", 4) == 0;
    }
    if (dir)
        closedir(dir);
}

/* ---- NVML ---- */

/* What of the library is used; the types and numbers are nvml.h's (NVIDIA Management Library API
 * reference), which need not be installed. */
struct nvml_memory {
    unsigned long long total, free, used;
};
struct nvml {
    void *library;
    int (*init)(void);
    int (*shutdown)(void);
    const char *(*error)(int);
    int (*driver)(char *, unsigned);
    int (*cuda)(int *);
    int (*count)(unsigned *);
    int (*device)(unsigned, void **);
    int (*name)(void *, char *, unsigned);
    int (*uuid)(void *, char *, unsigned);
    int (*memory)(void *, struct nvml_memory *);
    int (*capability)(void *, int *, int *);
    int (*ecc)(void *, int *, int *);
    int (*mig)(void *, unsigned *, unsigned *);
};

static bool load(struct nvml *n, const char *library, char *error, size_t size) {
    n->library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!n->library) {
        const char *why = dlerror();
        snprintf(error, size, "%s", why ? why : library);
        return false;
    }
    struct {
        const char *name;
        void *function;
        bool optional;
    } symbols[] = {
        {"nvmlInit_v2", &n->init, false},
        {"nvmlShutdown", &n->shutdown, false},
        {"nvmlErrorString", &n->error, false},
        {"nvmlSystemGetDriverVersion", &n->driver, false},
        {"nvmlSystemGetCudaDriverVersion_v2", &n->cuda, true},
        {"nvmlDeviceGetCount_v2", &n->count, false},
        {"nvmlDeviceGetHandleByIndex_v2", &n->device, false},
        {"nvmlDeviceGetName", &n->name, false},
        {"nvmlDeviceGetUUID", &n->uuid, true},
        {"nvmlDeviceGetMemoryInfo", &n->memory, false},
        {"nvmlDeviceGetCudaComputeCapability", &n->capability, true},
        {"nvmlDeviceGetEccMode", &n->ecc, true},
        {"nvmlDeviceGetMigMode", &n->mig, true},
    };
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *f = dlsym(n->library, symbols[i].name);
        memcpy(symbols[i].function, &f, sizeof f);
        if (!f && !symbols[i].optional) {
            snprintf(error, size, "%s has no %s: too old, or no NVML", library, symbols[i].name);
            dlclose(n->library);
            return false;
        }
    }
    return true;
}

static void read_gpu(const struct nvml *n, void *device, struct nb_machine_gpu *g) {
    struct nvml_memory memory = {0};
    int major = 0, minor = 0, current = 0, pending = 0;
    unsigned mig = 0, mig_pending = 0;
    g->ecc = g->mig = -1;
    n->name(device, g->name, sizeof g->name);
    if (n->uuid)
        n->uuid(device, g->uuid, sizeof g->uuid);
    if (n->memory(device, &memory) == 0) {
        g->total_bytes = memory.total;
        g->free_bytes = memory.free;
    }
    if (n->capability && n->capability(device, &major, &minor) == 0)
        g->capability = 10 * major + minor;
    if (n->ecc && n->ecc(device, &current, &pending) == 0)
        g->ecc = current != 0;
    if (n->mig && n->mig(device, &mig, &mig_pending) == 0)
        g->mig = mig != 0;
}

static void read_gpus(const struct nvml *n, struct nb_machine *m) {
    unsigned count = 0;
    n->driver(m->driver, sizeof m->driver);
    if (n->cuda)
        n->cuda(&m->driver_cuda);
    int code = n->count(&count);
    if (code != 0)
        snprintf(m->nvml_error, sizeof m->nvml_error, "%s", n->error(code));
    for (unsigned i = 0; i < count && m->n_gpus < NB_MAX_GPUS; i++) {
        void *device = NULL;
        code = n->device(i, &device);
        if (code == 0)
            read_gpu(n, device, &m->gpus[m->n_gpus++]);
        else
            snprintf(m->nvml_error, sizeof m->nvml_error, "GPU %u: %s", i, n->error(code));
    }
}

static void read_nvml(const char *library, struct nb_machine *m) {
    struct nvml n = {0};
    if (!library || !load(&n, library, m->nvml_error, sizeof m->nvml_error))
        return;
    m->nvml = true;
    int code = n.init();
    if (code == 0) {
        read_gpus(&n, m);
        n.shutdown();
    } else {
        snprintf(m->nvml_error, sizeof m->nvml_error, "%s (NVML %d)", n.error(code), code);
    }
    dlclose(n.library);
}

/* ---- processor and memory ---- */

static uint64_t field_kb(const char *text, const char *key) {
    const char *at = strstr(text, key);
    return at ? strtoull(at + strlen(key), NULL, 10) * 1024 : 0;
}

static void read_processor(const char *root, struct nb_machine *m) {
    char text[4096];
    cpu_set_t set;
    if (read_text(root, "/proc/cpuinfo", text, sizeof text)) {
        const char *at = strstr(text, "model name");
        at = at ? strchr(at, ':') : NULL;
        if (at)
            snprintf(m->processor, sizeof m->processor, "%.*s", (int)strcspn(at + 2, "\n"), at + 2);
    }
    m->processors = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    if (read_text(root, "/proc/meminfo", text, sizeof text)) {
        m->memory_bytes = field_kb(text, "MemTotal:");
        m->memory_available_bytes = field_kb(text, "MemAvailable:");
    }
}

/* The smaller limit of those of a group and the groups above it. "max" and numbers near 2^63 (v1's
 * way to say none) are none. */
static void take_limit(const char *root, const char *base, const char *group, const char *limit,
                       const char *used, struct nb_machine *m) {
    char folder[PATH_MAX], path[PATH_MAX], text[64];
    snprintf(folder, sizeof folder, "%s", group);
    for (;;) {
        snprintf(path, sizeof path, "%.1024s%.2048s/%s", base, folder, limit);
        if (read_text(root, path, text, sizeof text) && text[0] >= '0' && text[0] <= '9') {
            uint64_t n = strtoull(text, NULL, 10);
            if (n < (uint64_t)1 << 62 && (!m->memory_limit_bytes || n < m->memory_limit_bytes)) {
                m->memory_limit_bytes = n;
                snprintf(path, sizeof path, "%.1024s%.2048s/%s", base, folder, used);
                m->memory_used_bytes =
                    read_text(root, path, text, sizeof text) ? strtoull(text, NULL, 10) : 0;
            }
        }
        char *slash = strrchr(folder, '/');
        if (!slash)
            return;
        *slash = 0;
    }
}

static void read_quota(const char *root, const char *group, struct nb_machine *m) {
    char path[PATH_MAX], text[64];
    double quota, period;
    snprintf(path, sizeof path, "/sys/fs/cgroup%.2048s/cpu.max", group);
    if ((read_text(root, path, text, sizeof text) ||
         read_text(root, "/sys/fs/cgroup/cpu.max", text, sizeof text)) &&
        sscanf(text, "%lf %lf", &quota, &period) == 2 && period > 0)
        m->quota = quota / period;
}

static void read_cgroup(const char *root, struct nb_machine *m) {
    char text[8192], *save;
    if (!read_text(root, "/proc/self/cgroup", text, sizeof text))
        return;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char *controllers = strchr(line, ':'),
             *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!group)
            continue;
        *group++ = 0;
        if (strcmp(group, "/") == 0)
            group = "";
        if (strcmp(controllers, ":") == 0) { /* version 2: "0::/group" */
            take_limit(root, "/sys/fs/cgroup", group, "memory.max", "memory.current", m);
            read_quota(root, group, m);
        } else if (strstr(controllers, "memory")) {
            take_limit(root, "/sys/fs/cgroup/memory", group, "memory.limit_in_bytes",
                       "memory.usage_in_bytes", m);
        }
    }
}

void nb_machine_read(const char *root, const char *nvml, struct nb_machine *out) {
    char text[4096];
    memset(out, 0, sizeof *out);
    out->container = exists(root, "/.dockerenv") || exists(root, "/run/.containerenv") ||
                     (read_text(root, "/proc/1/cgroup", text, sizeof text) &&
                      (strstr(text, "docker") || strstr(text, "kubepods")));
    read_devices(root, out);
    read_nvml(nvml, out);
    read_processor(root, out);
    read_cgroup(root, out);
    out->visible = getenv("CUDA_VISIBLE_DEVICES");
}

/* ---- findings ---- */

static const char mount_fix[] =
    "start the container with its GPUs: docker run --gpus all (NVIDIA Container Toolkit), with "
    "NVIDIA_VISIBLE_DEVICES=all and NVIDIA_DRIVER_CAPABILITIES=compute,utility; in Kubernetes "
    "request nvidia.com/gpu";

/* What the files of the system say, for evidence. */
static const char *what_is_there(const struct nb_machine *m, struct nb_findings *f) {
    return nb_findings_text(
        f,
        "NVIDIA GPUs on the PCI bus: %zu\n/proc/driver/nvidia: %s%s%s\n/dev/nvidia0 and on: %zu"
        "; /dev/nvidiactl: %s; /dev/nvidia-uvm: %s\nlibnvidia-ml.so.1: %s%s%s%s",
        m->n_pci, m->kernel_module ? "there" : "not there", m->kernel_driver[0] ? ", driver " : "",
        m->kernel_driver, m->n_nodes, m->control ? "there" : "not there",
        m->uvm ? "there" : "not there", m->nvml ? "loaded" : "not loaded",
        m->nvml_error[0] ? ": " : "", m->nvml_error, m->container ? "\nin a container" : "");
}

static void judge_no_gpu(const struct nb_machine *m, struct nb_findings *f) {
    const char *evidence = what_is_there(m, f);
    bool mismatch = strstr(m->nvml_error, "mismatch") != NULL;
    if (mismatch)
        nb_findings_add(f, NB_SEVERITY_ERROR, "driver-missing",
                        "the driver in the kernel and its library are of different versions",
                        evidence,
                        "reboot, or load the kernel module of the library's version: the driver "
                        "was upgraded while the old one was in use");
    else if (m->container && (m->n_pci || m->kernel_module || m->n_nodes))
        nb_findings_add(f, NB_SEVERITY_ERROR, "gpu-not-mounted",
                        "the machine has a GPU, but this container does not see it", evidence,
                        mount_fix);
    else if (m->kernel_module)
        nb_findings_add(f, NB_SEVERITY_ERROR, "driver-missing",
                        m->nvml ? "the driver is loaded, but gives no GPU"
                                : "the driver is loaded, but its libraries are not here",
                        evidence,
                        m->nvml ? "see the kernel's log (dmesg | grep NVRM) for why"
                                : "install the libraries of that driver's version "
                                  "(libnvidia-compute), or mount them into the container");
    else if (m->n_pci)
        nb_findings_add(f, NB_SEVERITY_ERROR, "driver-missing",
                        "there is an NVIDIA GPU, but no driver", evidence,
                        m->container ? mount_fix : "install NVIDIA's driver, 570 or later");
    else
        nb_findings_add(f, NB_SEVERITY_NOTE, "gpu-missing",
                        m->container ? "no NVIDIA GPU is to be seen from this container: nibble "
                                       "runs on the CPU"
                                     : "there is no NVIDIA GPU: nibble runs on the CPU",
                        evidence, m->container ? mount_fix : NULL);
}

/* CUDA_VISIBLE_DEVICES, as the CUDA C++ Programming Guide ("CUDA Environment Variables") has it:
 * the list ends at the first entry that is no GPU. */
static void judge_visible(const struct nb_machine *m, struct nb_findings *f) {
    if (!m->visible)
        return;
    size_t seen = 0;
    const char *text = m->visible;
    while (*text) {
        size_t n = strcspn(text, ",");
        char *end;
        long index = strtol(text, &end, 10);
        bool known = end == text + n && end != text && index >= 0 && (size_t)index < m->n_gpus;
        for (size_t i = 0; i < m->n_gpus && !known && n > 4; i++)
            known = strncmp(m->gpus[i].uuid, text, n) == 0;
        known = known || strncmp(text, "MIG-", 4) == 0;
        if (!known)
            break;
        seen++;
        text += n + (text[n] == ',');
    }
    const char *evidence =
        nb_findings_text(f, "CUDA_VISIBLE_DEVICES=\"%s\"; the driver shows %zu GPU%s", m->visible,
                         m->n_gpus, m->n_gpus == 1 ? "" : "s");
    if (!seen)
        nb_findings_add(f, NB_SEVERITY_ERROR, "gpu-hidden",
                        "CUDA_VISIBLE_DEVICES hides every GPU from programs", evidence,
                        "unset it, or set it to the number of a GPU: 0");
    else if (*text)
        nb_findings_add(f, NB_SEVERITY_WARNING, "gpu-hidden",
                        "CUDA_VISIBLE_DEVICES names a GPU that is not there, which ends the list",
                        evidence, "correct it");
}

static void judge_gpu(const struct nb_machine_gpu *g, size_t i, const struct nb_machine *m,
                      const struct nb_gpu_table *table, struct nb_findings *f) {
    const struct nb_gpu_architecture *a = nb_gpu_architecture(table, g->capability);
    const char *evidence =
        nb_findings_text(f, "%s; %" PRIu64 " of %" PRIu64 " bytes of memory free; ECC %s, MIG %s",
                         g->uuid, g->free_bytes, g->total_bytes,
                         g->ecc < 0 ? "not said"
                         : g->ecc   ? "on"
                                    : "off",
                         g->mig < 0 ? "not there"
                         : g->mig   ? "on"
                                    : "off");
    const char *title =
        nb_findings_text(f, "GPU %zu: %s, compute capability %d.%d, %.2f GiB, %.2f free", i,
                         g->name, g->capability / 10, g->capability % 10,
                         (double)g->total_bytes / 0x1p30, (double)g->free_bytes / 0x1p30);
    nb_findings_add(f, NB_SEVERITY_GOOD, "gpu", title, evidence, NULL);
    if (a && m->driver_cuda && m->driver_cuda < a->first_cuda)
        nb_findings_add(f, NB_SEVERITY_ERROR, "driver-too-old",
                        nb_findings_text(f,
                                         "driver %s (CUDA %d.%d) is older than %s, whose first "
                                         "is %s (CUDA %d.%d)",
                                         m->driver, m->driver_cuda / 1000,
                                         m->driver_cuda / 10 % 100, g->name, a->first_driver,
                                         a->first_cuda / 1000, a->first_cuda / 10 % 100),
                        title, "install a newer driver");
    if (g->capability && g->capability < 75)
        nb_findings_add(f, NB_SEVERITY_WARNING, "gpu-too-old",
                        nb_findings_text(f,
                                         "GPU %zu: compute capability %d.%d is older than 7.5 "
                                         "(Turing), the oldest that CUDA 13 and nibble know",
                                         i, g->capability / 10, g->capability % 10),
                        title, "use a newer GPU");
    if (g->mig == 1)
        nb_findings_add(f, NB_SEVERITY_NOTE, "gpu-mig",
                        nb_findings_text(f,
                                         "GPU %zu is divided into MIG instances: programs see "
                                         "one of them, with a part of its memory",
                                         i),
                        evidence, NULL);
    if (g->total_bytes && g->free_bytes < g->total_bytes - g->total_bytes / 10)
        nb_findings_add(f, NB_SEVERITY_NOTE, "gpu-memory-used",
                        nb_findings_text(f, "GPU %zu: other programs hold %.2f GiB of its memory",
                                         i, (double)(g->total_bytes - g->free_bytes) / 0x1p30),
                        evidence, "nvidia-smi says which");
}

static void judge_memory(const struct nb_machine *m, struct nb_findings *f) {
    if (!m->memory_bytes)
        return;
    nb_findings_add(f, NB_SEVERITY_GOOD, "memory",
                    nb_findings_text(f, "%d processors (%s), %.1f GiB of memory, %.1f available",
                                     m->processors,
                                     m->processor[0] ? m->processor : "model not said",
                                     (double)m->memory_bytes / 0x1p30,
                                     (double)m->memory_available_bytes / 0x1p30),
                    "/proc/meminfo, /proc/cpuinfo, sched_getaffinity", NULL);
    if (m->memory_limit_bytes && m->memory_limit_bytes < m->memory_bytes)
        nb_findings_add(
            f, NB_SEVERITY_NOTE, "memory-limit",
            nb_findings_text(f, "the cgroup allows %.2f GiB of memory, of which %.2f are in use",
                             (double)m->memory_limit_bytes / 0x1p30,
                             (double)m->memory_used_bytes / 0x1p30),
            "a process that goes above is killed; pages of mapped checkpoints count, but are given "
            "up first",
            NULL);
    if (m->quota > 0 && m->quota < m->processors)
        nb_findings_add(f, NB_SEVERITY_NOTE, "processor-quota",
                        nb_findings_text(f, "the cgroup allows the time of %.2f of %d processors",
                                         m->quota, m->processors),
                        "cpu.max",
                        nb_findings_text(f,
                                         "give nibble --threads %d: more threads would be "
                                         "stopped in the middle of a step",
                                         m->quota < 1 ? 1 : (int)m->quota));
}

void nb_doctor_machine(const struct nb_machine *m, bool chosen, const struct nb_gpu_table *table,
                       struct nb_findings *f) {
    judge_memory(m, f);
    if (chosen)
        return;
    if (!m->n_gpus) {
        judge_no_gpu(m, f);
        return;
    }
    const struct nb_cuda_driver *d = nb_cuda_driver(table, m->driver_cuda);
    nb_findings_add(f, NB_SEVERITY_GOOD, "driver",
                    nb_findings_text(f, "driver %s, CUDA %d.%d", m->driver, m->driver_cuda / 1000,
                                     m->driver_cuda / 10 % 100),
                    d ? nb_findings_text(f, "CUDA %d.%d came with driver %s", d->cuda / 1000,
                                         d->cuda / 10 % 100, d->driver)
                      : NULL,
                    NULL);
    for (size_t i = 0; i < m->n_gpus; i++)
        judge_gpu(&m->gpus[i], i, m, table, f);
    judge_visible(m, f);
    if (!m->control || !m->uvm || !m->n_nodes)
        nb_findings_add(f, NB_SEVERITY_ERROR, "gpu-not-mounted",
                        "device files that CUDA opens are not here, though NVML sees the GPU",
                        what_is_there(m, f),
                        m->container ? mount_fix : "run nvidia-modprobe -u -c=0, which makes them");
}
