/* What the doctor looks at. Each function adds to the findings and reads only: nothing is imported,
 * executed or sent anywhere. */
#ifndef NB_DOCTOR_DOCTOR_H
#define NB_DOCTOR_DOCTOR_H

#include "doctor/fatbin.h"
#include "doctor/finding.h"
#include "doctor/gpu.h"

/* The GPU to judge for: of the table, or of this machine. */
struct nb_target {
    const char *name;    /* "RTX 5090"; NULL: no GPU is known, and nothing is judged for one */
    int capability;      /* 120 for 12.0 */
    int driver_cuda;     /* 12040: the driver's CUDA version; 0: not known */
    const char *driver;  /* "550.54.14"; NULL: not known */
    uint64_t free_bytes; /* of its memory; for one of the table, all of it */
    uint64_t total_bytes;
};

/* The CUDA code in a library, an object, an archive or a .fatbin file, and whether the target can
 * run it. */
enum nb_status nb_doctor_library(const char *path, const struct nb_gpu_table *table,
                                 const struct nb_target *target, struct nb_findings *findings,
                                 struct nb_error *err);

/* The sentences of a judgement. `label` is what the code belongs to ("torch 2.3.1:
 * lib/libtorch_cuda.so"); `severity` is that of code which does not run. Adds nothing where there
 * is no code, or no GPU to judge for. */
void nb_doctor_judge(const char *label, const struct nb_fatbin_list *code,
                     const struct nb_gpu_table *table, const struct nb_target *target,
                     enum nb_severity severity, struct nb_findings *findings);

#endif
