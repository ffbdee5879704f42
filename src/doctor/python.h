/* The audit of an installed Python stack, and of a list of requirements. */
#ifndef NB_DOCTOR_PYTHON_H
#define NB_DOCTOR_PYTHON_H

#include "doctor/doctor.h"

struct nb_python_options {
    int threads;       /* 0: one for each processor */
    bool full;         /* compare the hashes of all files, not only of Python source */
    const char *traps; /* a file with more known traps; NULL: none */
};

/* Audits what is installed in a folder of packages, an environment, or for a program ("python3").
 * Adds findings; fails only where there is no stack, or memory ran out. */
enum nb_status nb_doctor_python(const char *what, const struct nb_python_options *options,
                                const struct nb_gpu_table *table, const struct nb_target *target,
                                struct nb_findings *findings, struct nb_error *err);

/* Judges the pins of a requirements file (and of those that it names) without installing anything:
 * pins that exclude each other, builds of torch for another CUDA than the target needs, known
 * traps. What the packages themselves require is not known without them. Markers are judged for
 * Python 3.11. */
enum nb_status nb_doctor_requirements(const char *path, const struct nb_python_options *options,
                                      const struct nb_gpu_table *table,
                                      const struct nb_target *target, struct nb_findings *findings,
                                      struct nb_error *err);

#endif
