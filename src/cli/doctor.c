/* nibble doctor: why it does not work, from evidence. */
#include "doctor/doctor.h"
#include "cli/cli.h"
#include "doctor/machine.h"
#include "doctor/python.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: nibble doctor [--gpu NAME] [--json]\n"
    "       nibble doctor --python DIR|PROGRAM [--full] [--gpu NAME] [--driver VERSION] [--json]\n"
    "       nibble doctor --requirements FILE [--gpu NAME] [--driver VERSION] [--json]\n"
    "       nibble doctor --library FILE… [--gpu NAME] [--driver VERSION] [--json]\n"
    "       nibble doctor --list-gpus [--json]\n\n"
    "Says why a stack does not work, from evidence: findings, worst first, then what was found\n"
    "right. Nothing is imported, executed or sent anywhere.\n\n"
    "  --gpu NAME          judge for this GPU instead of this machine's: \"RTX 5090\", A40, H200\n"
    "  --driver VERSION    and for a driver of this CUDA version: 12.4\n"
    "  --python WHERE      audit the Python packages in a folder, an environment, or of python3:\n"
    "                      requirements, files, imports, libraries, CUDA code\n"
    "  --requirements FILE judge the pins of a requirements file without installing it\n"
    "  --traps FILE        more known traps, as src/doctor/data/traps.json has them\n"
    "  --full              and compare all files with the hashes recorded of them, not only\n"
    "                      Python source: takes as long as reading everything\n"
    "  --threads N         threads that read (default: one for each processor)\n"
    "  --library           the FILEs are libraries: list the CUDA code in them\n"
    "  --list-gpus         the table of GPUs\n"
    "  --json              one JSON object; docs/doctor.md has its keys\n"
    "\nExit code: 0 if fit (no finding of severity error), 1 if not, 2 for wrong usage.\n";

struct doctor {
    const char *gpu, *driver, *python, *requirements;
    struct nb_python_options options;
    bool library, list_gpus, json;
    struct nb_gpu_table table;
    struct nb_target target;
    struct nb_findings findings;
};

static void print_indented(const char *label, const char *text) {
    while (*text) {
        size_t n = strcspn(text, "\n");
        printf("    %s%.*s\n", label, (int)n, text);
        text += n + (text[n] == '\n');
    }
}

static void print_text(const struct nb_findings *findings) {
    size_t counts[4] = {0};
    for (size_t i = 0; i < findings->n; i++) {
        const struct nb_finding *f = &findings->list[i];
        counts[f->severity]++;
        printf("%s: %s\n", f->severity == NB_SEVERITY_GOOD ? "ok" : nb_severity_name(f->severity),
               f->title);
        if (f->severity != NB_SEVERITY_GOOD)
            print_indented("", f->evidence);
        if (f->fix[0])
            print_indented("do: ", f->fix);
    }
    if (findings->failed)
        printf("error: memory ran out: this list is not whole\n");
    printf("%s: %zu error%s, %zu warning%s\n", nb_findings_fit(findings) ? "fit" : "not fit",
           counts[0], counts[0] == 1 ? "" : "s", counts[1], counts[1] == 1 ? "" : "s");
}

static int print(struct doctor *d) {
    nb_findings_sort(&d->findings);
    if (d->json) {
        json_t *o = nb_findings_json(&d->findings);
        if (!o || json_dumpf(o, stdout, JSON_COMPACT) != 0) {
            json_decref(o);
            fprintf(stderr, "nibble: the findings could not be written\n");
            return NB_EXIT_FAILURE;
        }
        putchar('\n');
        json_decref(o);
    } else {
        print_text(&d->findings);
    }
    return nb_findings_fit(&d->findings) ? NB_EXIT_OK : NB_EXIT_FAILURE;
}

static int list_gpus(const struct doctor *d) {
    json_t *list = json_array();
    for (size_t i = 0; i < d->table.n_gpus; i++) {
        const struct nb_gpu *g = &d->table.gpus[i];
        const struct nb_gpu_architecture *a = nb_gpu_architecture(&d->table, g->capability);
        if (!d->json)
            printf("%-48s %2d.%d  %8.2f GiB%c %6.0f GB/s  CUDA %d.%d, driver %s\n", g->name,
                   g->capability / 10, g->capability % 10, (double)g->memory_bytes / 0x1p30,
                   g->nominal ? '*' : ' ', g->bandwidth_bytes_s / 1e9, a ? a->first_cuda / 1000 : 0,
                   a ? a->first_cuda / 10 % 100 : 0, a ? a->first_driver : "?");
        json_array_append_new(list,
                              json_pack("{s:s, s:i, s:I, s:b, s:f, s:i, s:s, s:s}", "name", g->name,
                                        "capability", g->capability, "memory_bytes",
                                        (json_int_t)g->memory_bytes, "nominal", (int)g->nominal,
                                        "bandwidth_bytes_s", g->bandwidth_bytes_s, "first_cuda",
                                        a ? a->first_cuda : 0, "first_driver",
                                        a ? a->first_driver : "", "source", g->source));
    }
    if (d->json) {
        json_dumpf(list, stdout, JSON_COMPACT);
        putchar('\n');
    } else {
        printf("* by its data sheet; others as the driver reports\n");
    }
    json_decref(list);
    return NB_EXIT_OK;
}

/* The GPU that --gpu names, and the driver that --driver does. */
static enum nb_status choose_target(struct doctor *d, struct nb_error *err) {
    if (d->driver && !(d->target.driver_cuda = nb_cuda_version(d->driver)))
        return nb_fail(err, NB_ERR_ARGUMENT, "--driver is \"%s\", expected a CUDA version: 12.4",
                       d->driver);
    if (!d->gpu)
        return NB_OK;
    const struct nb_gpu *gpu;
    enum nb_status s = nb_gpu_find(&d->table, d->gpu, &gpu, err);
    if (s != NB_OK)
        return s;
    d->target.name = gpu->name;
    d->target.capability = gpu->capability;
    d->target.total_bytes = d->target.free_bytes = gpu->memory_bytes;
    return NB_OK;
}

/* This machine: its GPU is the target where none was named. */
static void examine_machine(struct doctor *d) {
    struct nb_machine *m = malloc(sizeof *m);
    if (!m) {
        d->findings.failed = true;
        return;
    }
    char backends[128];
    nb_machine_read("", "libnvidia-ml.so.1", m);
    nb_findings_add(&d->findings, NB_SEVERITY_GOOD, "build",
                    nb_findings_text(&d->findings, "nibble %s: %s", nb_version(),
                                     nb_backends(backends, sizeof backends)),
                    NULL, NULL);
    nb_doctor_machine(m, d->gpu != NULL, &d->table, &d->findings);
    if (!d->gpu && m->n_gpus) {
        d->target =
            (struct nb_target){.name = nb_findings_text(&d->findings, "%s", m->gpus[0].name),
                               .capability = m->gpus[0].capability,
                               .free_bytes = m->gpus[0].free_bytes,
                               .total_bytes = m->gpus[0].total_bytes};
    }
    if (!d->gpu && !d->driver && m->driver_cuda) {
        d->target.driver_cuda = m->driver_cuda;
        d->target.driver = nb_findings_text(&d->findings, "%s", m->driver);
    }
    free(m);
}

/* The CUDA code of this very program. */
static void examine_build(struct doctor *d) {
    struct nb_bytes bytes;
    struct nb_fatbin_list code = {0};
    if (nb_bytes_open("/proc/self/exe", &bytes, NULL) != NB_OK)
        return;
    nb_fatbin_read(&bytes, "/proc/self/exe", &code, NULL);
    nb_bytes_close(&bytes);
    if (code.n)
        nb_doctor_judge("this build of nibble", &code, &d->table, &d->target, NB_SEVERITY_ERROR,
                        &d->findings);
    else if (d->target.name)
        nb_findings_add(&d->findings, NB_SEVERITY_NOTE, "build-without-cuda",
                        nb_findings_text(&d->findings,
                                         "this build of nibble has no CUDA code: it does not use "
                                         "%s",
                                         d->target.name),
                        NULL, "build with CUDA: meson setup with -Dcuda=enabled");
    nb_fatbin_free(&code);
}

static int examine(struct doctor *d, int argc, char **argv) {
    struct nb_error err;
    if (choose_target(d, &err) != NB_OK)
        return nb_cli_usage("doctor", "%s", err.message);
    if (d->list_gpus)
        return list_gpus(d);
    for (int i = 0; i < argc; i++) {
        if (nb_doctor_library(argv[i], &d->table, &d->target, &d->findings, &err) != NB_OK)
            nb_findings_add(&d->findings, NB_SEVERITY_ERROR, "library-damaged", err.message, NULL,
                            NULL);
    }
    if (d->python) {
        enum nb_status s =
            nb_doctor_python(d->python, &d->options, &d->table, &d->target, &d->findings, &err);
        if (s != NB_OK)
            return nb_cli_error(&err);
    } else if (d->requirements) {
        enum nb_status s = nb_doctor_requirements(d->requirements, &d->options, &d->table,
                                                  &d->target, &d->findings, &err);
        if (s != NB_OK)
            return nb_cli_error(&err);
    } else if (!argc) {
        examine_machine(d);
        examine_build(d);
        nb_doctor_caches(&d->findings);
    }
    return print(d);
}

enum {
    OPT_GPU = NB_OPT_COMMAND,
    OPT_DRIVER,
    OPT_LIBRARY,
    OPT_LIST,
    OPT_JSON,
    OPT_PYTHON,
    OPT_FULL,
    OPT_REQUIREMENTS,
    OPT_TRAPS
};

static bool take_option(struct doctor *d, int code) {
    switch (code) {
    case OPT_GPU:
        d->gpu = optarg;
        return true;
    case OPT_DRIVER:
        d->driver = optarg;
        return true;
    case OPT_LIBRARY:
        d->library = true;
        return true;
    case OPT_LIST:
        d->list_gpus = true;
        return true;
    case OPT_PYTHON:
        d->python = optarg;
        return true;
    case OPT_REQUIREMENTS:
        d->requirements = optarg;
        return true;
    case OPT_TRAPS:
        d->options.traps = optarg;
        return true;
    case OPT_FULL:
        d->options.full = true;
        return true;
    case OPT_JSON:
        d->json = true;
        return true;
    default:
        return false;
    }
}

static int run(int argc, char **argv) {
    static const struct option options[] = {
        {"gpu", required_argument, NULL, OPT_GPU},
        {"driver", required_argument, NULL, OPT_DRIVER},
        {"library", no_argument, NULL, OPT_LIBRARY},
        {"list-gpus", no_argument, NULL, OPT_LIST},
        {"python", required_argument, NULL, OPT_PYTHON},
        {"requirements", required_argument, NULL, OPT_REQUIREMENTS},
        {"traps", required_argument, NULL, OPT_TRAPS},
        {"full", no_argument, NULL, OPT_FULL},
        {"threads", required_argument, NULL, NB_OPT_THREADS},
        {"json", no_argument, NULL, OPT_JSON},
        {0}};
    struct doctor d = {0};
    for (int code; (code = getopt_long(argc, argv, ":", options, NULL)) != -1;) {
        int64_t threads = 0;
        if (code == NB_OPT_THREADS) {
            if (!nb_cli_int("doctor", "--threads", optarg, 1, 256, &threads))
                return NB_EXIT_USAGE;
            d.options.threads = (int)threads;
        } else if (!take_option(&d, code))
            return nb_cli_usage("doctor", "%s: unknown, or without its value", argv[optind - 1]);
    }
    if (d.library != (argc > optind))
        return nb_cli_usage("doctor", "%s",
                            d.library ? "--library needs FILEs"
                                      : "FILEs are read only with --library");
    struct nb_error err;
    if (nb_gpu_table_open(&d.table, &err) != NB_OK)
        return nb_cli_error(&err);
    nb_findings_init(&d.findings);
    int code = examine(&d, argc - optind, argv + optind);
    nb_findings_free(&d.findings);
    nb_gpu_table_free(&d.table);
    return code;
}

const struct nb_command nb_command_doctor = {"doctor", "why it does not work, from evidence", help,
                                             run};
