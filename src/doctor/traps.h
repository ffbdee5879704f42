/* Known traps: rules over versions, in a data file that anyone can extend. */
#ifndef NB_DOCTOR_TRAPS_H
#define NB_DOCTOR_TRAPS_H

#include "doctor/doctor.h"
#include "doctor/pep440.h"

/* The version of an installed or pinned package, or NULL; *there is whether it is there at all, in
 * whatever version. */
typedef const struct nb_version *(*nb_package_fn)(void *context, const char *normal, bool *there);

/* Adds a finding for each rule that applies, of the rules that the program carries and of `file`
 * (NULL: none). python: 311; 0: not known. Errors are those of `file`. */
enum nb_status nb_doctor_traps(const char *file, nb_package_fn package, void *context, int python,
                               const struct nb_target *target, struct nb_findings *findings,
                               struct nb_error *err);

#endif
