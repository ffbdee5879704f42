/* This machine: driver and GPUs, what a container may see of them, processor, memory, and the
 * checkpoints in the cache. */
#ifndef NB_DOCTOR_MACHINE_H
#define NB_DOCTOR_MACHINE_H

#include "doctor/doctor.h"

enum { NB_MAX_GPUS = 64 };

struct nb_machine_gpu {
    char name[96], uuid[96];
    int capability; /* 90 for 9.0; 0 if the driver does not say */
    uint64_t total_bytes, free_bytes;
    int ecc, mig; /* 1 on, 0 off, -1 not said */
};

struct nb_machine {
    bool container; /* this process runs in one */

    /* NVIDIA */
    size_t n_pci;           /* NVIDIA GPUs on the PCI bus, whether mounted or not */
    bool kernel_module;     /* /proc/driver/nvidia is there */
    char kernel_driver[64]; /* its version; "" if not said */
    bool control, uvm;      /* /dev/nvidiactl, /dev/nvidia-uvm */
    size_t n_nodes;         /* /dev/nvidia0, … */
    bool nvml;              /* the library could be loaded */
    char nvml_error[256];   /* why it could not, or what it said instead of GPUs; or "" */
    char driver[64];        /* "550.54.14" */
    int driver_cuda;        /* 12040 */
    struct nb_machine_gpu gpus[NB_MAX_GPUS];
    size_t n_gpus;
    const char *visible; /* CUDA_VISIBLE_DEVICES; NULL: not set */

    /* Processor and memory */
    char processor[128];
    int processors; /* that this process may run on */
    double quota;   /* of processors, by the cgroup; 0: none */
    uint64_t memory_bytes, memory_available_bytes;
    uint64_t memory_limit_bytes; /* of the cgroup, v1 or v2, or of one above it; 0: none */
    uint64_t memory_used_bytes;  /* of that cgroup */
};

/* Reads the machine under `root` ("" for the real one; tests name a folder with proc/, sys/ and
 * dev/). `nvml` is the library to load: "libnvidia-ml.so.1"; NULL: none. What cannot be read stays
 * zero. */
void nb_machine_read(const char *root, const char *nvml, struct nb_machine *out);

/* What there is to say of it. `chosen` is true where a GPU was named, so that this machine's do not
 * matter. */
void nb_doctor_machine(const struct nb_machine *machine, bool chosen,
                       const struct nb_gpu_table *table, struct nb_findings *findings);

/* The checkpoints in the caches of Hugging Face: folders, space, revisions, files that are missing,
 * and the speed of reading a sample of the largest. */
void nb_doctor_caches(struct nb_findings *findings);

/* One cache, for tests: a folder with models--ORG--NAME in it. */
void nb_doctor_cache(const char *folder, bool measure, struct nb_findings *findings);

#endif
