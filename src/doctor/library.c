#include "doctor/doctor.h"

#include "base/buf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void capability_text(int capability, char *out, size_t size) {
    snprintf(out, size, "%d.%d", capability / 10, capability % 10);
}

/* Which CUDA version first compiles for a GPU, to be built with. */
static const char *what_to_build(const struct nb_gpu_table *table, int capability,
                                 struct nb_findings *findings) {
    const struct nb_gpu_architecture *a = nb_gpu_architecture(table, capability);
    if (!a)
        return nb_findings_text(findings, "install a build that has sm_%d", capability);
    return nb_findings_text(findings,
                            "install a build made with CUDA %d.%d or later that has sm_%d (%s: the "
                            "first version that compiles for this GPU)",
                            a->first_cuda / 1000, a->first_cuda / 10 % 100, capability, a->source);
}

void nb_doctor_judge(const char *label, const struct nb_fatbin_list *code,
                     const struct nb_gpu_table *table, const struct nb_target *target,
                     enum nb_severity severity, struct nb_findings *findings) {
    if (!target->name)
        return;
    struct nb_judgement j = nb_fatbin_judge(code, target->capability, target->driver_cuda);
    char has[512], capability[16], name[16] = "";
    capability_text(target->capability, capability, sizeof capability);
    nb_fatbin_describe(code, has, sizeof has);
    if (j.verdict == NB_NATIVE || j.verdict == NB_COMPILES || j.verdict == NB_TOO_NEW)
        nb_code_name(&j.best, name);
    const char *evidence = nb_findings_text(findings, "%s holds %s", label, has);
    switch (j.verdict) {
    case NB_NO_CODE:
        return;
    case NB_NATIVE:
        nb_findings_add(
            findings, NB_SEVERITY_GOOD, "gpu-code",
            nb_findings_text(findings, "%s has machine code for %s (%s): %s, in %u of %u fatbins",
                             label, target->name, capability, name, j.native, j.fatbins),
            evidence, NULL);
        return;
    case NB_COMPILES:
        nb_findings_add(
            findings, NB_SEVERITY_NOTE, "gpu-code-compiles",
            nb_findings_text(findings,
                             "%s has no machine code for %s (%s), but PTX %s of version %u.%u, "
                             "which the driver compiles at the first use",
                             label, target->name, capability, name, j.best.version_major,
                             j.best.version_minor),
            evidence, "the first start takes longer; keep the driver's cache (~/.nv/ComputeCache)");
        return;
    case NB_TOO_NEW:
        nb_findings_add(
            findings, severity, "gpu-without-code",
            nb_findings_text(findings,
                             "%s has only PTX %s of version %u.%u for %s (%s), which a driver of "
                             "CUDA %d.%d does not know",
                             label, name, j.best.version_major, j.best.version_minor, target->name,
                             capability, target->driver_cuda / 1000,
                             target->driver_cuda / 10 % 100),
            evidence,
            j.needs_cuda ? nb_findings_text(findings, "install a driver of CUDA %d.%d or later",
                                            j.needs_cuda / 1000, j.needs_cuda / 10 % 100)
                         : "install a newer driver");
        return;
    case NB_NOTHING:
        nb_findings_add(findings, severity, "gpu-without-code",
                        nb_findings_text(findings,
                                         "%s has nothing that %s (compute capability %s) can run: "
                                         "\"no kernel image is available\"",
                                         label, target->name, capability),
                        evidence, what_to_build(table, target->capability, findings));
        return;
    }
}

/* A line for each distinct piece: "sm_90a: 4 cubins, 120000 bytes". */
static void list_codes(const struct nb_fatbin_list *code, struct nb_buf *out) {
    struct nb_code_count *counts;
    size_t n;
    if (nb_fatbin_count(code, &counts, &n, NULL) != NB_OK)
        return;
    for (size_t i = 0; i < n; i++) {
        char name[16];
        const struct nb_code *c = &counts[i].code;
        static const char *const kinds[] = {
            [NB_CODE_PTX] = "PTX", [NB_CODE_CUBIN] = "cubin", [NB_CODE_LTO] = "LTO IR"};
        nb_code_name(c, name);
        nb_buf_printf(out, "%s%s: %u %s", i ? "\n" : "", name, counts[i].n, kinds[c->kind]);
        if (c->kind == NB_CODE_PTX)
            nb_buf_printf(out, " of version %u.%u", c->version_major, c->version_minor);
        nb_buf_printf(out, ", %llu bytes%s", (unsigned long long)c->bytes,
                      c->relocatable ? ", relocatable" : "");
    }
    free(counts);
}

enum nb_status nb_doctor_library(const char *path, const struct nb_gpu_table *table,
                                 const struct nb_target *target, struct nb_findings *findings,
                                 struct nb_error *err) {
    struct nb_bytes bytes;
    struct nb_fatbin_list code = {0};
    enum nb_status s = nb_bytes_open(path, &bytes, err);
    if (s != NB_OK)
        return s;
    s = nb_fatbin_read(&bytes, path, &code, err);
    nb_bytes_close(&bytes);
    if (s == NB_OK) {
        struct nb_buf lines = {0};
        list_codes(&code, &lines);
        char has[512];
        nb_findings_add(findings, NB_SEVERITY_NOTE, "cuda-code",
                        nb_findings_text(findings, "%s: %u fatbins: %s%s", path, code.n_fatbins,
                                         nb_fatbin_describe(&code, has, sizeof has),
                                         code.hip ? "; and code for AMD's GPUs, not read" : ""),
                        lines.data, NULL);
        nb_buf_free(&lines);
        nb_doctor_judge(path, &code, table, target, NB_SEVERITY_ERROR, findings);
        if (!code.n && target->name)
            nb_findings_add(findings, NB_SEVERITY_ERROR, "gpu-without-code",
                            nb_findings_text(findings, "%s holds no CUDA code at all", path), NULL,
                            "name the library that holds the kernels, such as libtorch_cuda.so");
    }
    nb_fatbin_free(&code);
    return s;
}
