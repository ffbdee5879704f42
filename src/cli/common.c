#include "cli/cli.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/pool.h"
#include "base/utf8.h"
#include "engine/engine.h"
#include "model/synthetic.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <utf8proc.h>

int nb_cli_error(const struct nb_error *err) {
    fprintf(stderr, "nibble: %s\n", err->message);
    return NB_EXIT_FAILURE;
}

int nb_cli_usage(const char *command, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "nibble %s: ", command);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\nTry: nibble help %s\n", command);
    va_end(args);
    return NB_EXIT_USAGE;
}

bool nb_cli_int(const char *command, const char *option, const char *text, int64_t min, int64_t max,
                int64_t *out) {
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (end == text || *end || errno || n < min || n > max) {
        nb_cli_usage(command, "%s is \"%s\", expected a whole number from %lld to %lld", option,
                     text, (long long)min, (long long)max);
        return false;
    }
    *out = n;
    return true;
}

bool nb_cli_number(const char *command, const char *option, const char *text, double min,
                   double max, double *out) {
    char *end;
    double x = strtod(text, &end);
    if (end == text || *end || !(x >= min && x <= max)) {
        nb_cli_usage(command, "%s is \"%s\", expected a number from %g to %g", option, text, min,
                     max);
        return false;
    }
    *out = x;
    return true;
}

bool nb_cli_word(const char *command, const char *option, const char *text, const char *expected) {
    size_t n = strlen(text);
    for (const char *word = expected; n && *word;) {
        size_t length = strcspn(word, ",");
        if (length == n && memcmp(word, text, n) == 0)
            return true;
        word += length;
        word += strspn(word, ", ");
    }
    nb_cli_usage(command, "%s is \"%s\", expected one of %s", option, text, expected);
    return false;
}

bool nb_cli_bytes(const char *command, const char *option, const char *text, uint64_t *out) {
    static const struct {
        const char *unit;
        double bytes;
    } units[] = {{"", 1},         {"B", 1},        {"kB", 1e3},     {"MB", 1e6},    {"GB", 1e9},
                 {"TB", 1e12},    {"K", 0x1p10},   {"M", 0x1p20},   {"G", 0x1p30},  {"T", 0x1p40},
                 {"KiB", 0x1p10}, {"MiB", 0x1p20}, {"GiB", 0x1p30}, {"TiB", 0x1p40}};
    char *end;
    double x = strtod(text, &end);
    while (end != text && *end == ' ')
        end++;
    for (size_t i = 0; end != text && i < sizeof units / sizeof *units; i++) {
        if (strcasecmp(end, units[i].unit) == 0 && x * units[i].bytes >= 1 &&
            x * units[i].bytes < 1e18) {
            *out = (uint64_t)(x * units[i].bytes);
            return true;
        }
    }
    nb_cli_usage(command, "%s is \"%s\", expected a size such as 23.5GiB, 24GB or 800MiB", option,
                 text);
    return false;
}

void nb_cli_engine_defaults(struct nb_options *options) {
    const char *backend = getenv("NIBBLE_BACKEND");
    if (!options->backend && !options->cpu && backend && *backend)
        options->backend = backend;
}

bool nb_cli_engine_option(const char *command, int code, const char *value,
                          struct nb_cli_engine *out, bool *known) {
    int64_t n = 0;
    *known = true;
    switch (code) {
    case NB_OPT_MODEL:
        out->model = value;
        return true;
    case NB_OPT_CPU:
        out->options.cpu = value;
        return true;
    case NB_OPT_WEIGHTS:
        out->options.weights = value;
        return nb_cli_word(command, "--weights", value, "packed, mapped, auto");
    case NB_OPT_QUANTIZE:
        out->options.quantize = value;
        return nb_cli_word(command, "--quantize", value, "none, nf4, fp4");
    case NB_OPT_BACKEND:
        out->options.backend = value;
        return true;
    case NB_OPT_SAVE_QUANTIZED:
        out->options.save_quantized = value;
        return true;
    case NB_OPT_KV_TYPE:
        out->options.kv_type = value;
        return nb_cli_word(command, "--kv-type", value, "bf16, fp8");
    case NB_OPT_MEMORY_LIMIT:
        return nb_cli_bytes(command, "--memory-limit", value, &out->options.memory_limit);
    case NB_OPT_THREADS:
        if (!nb_cli_int(command, "--threads", value, 1, 256, &n))
            return false;
        out->options.threads = (int)n;
        return true;
    case NB_OPT_CONTEXT:
        if (!nb_cli_int(command, "--context", value, 1, INT32_MAX, &n))
            return false;
        out->options.context = (int32_t)n;
        return true;
    default:
        *known = false;
        return true;
    }
}

/* Nothing but what a signal's handler may call. */
static void on_lost_mapping(int signal) {
    static const char text[] =
        "nibble: a file that is mapped was cut short, the checkpoint's most likely: its weights "
        "are "
        "gone. To change a checkpoint, put another file in its place by a rename.\n";
    (void)signal;
    (void)!write(STDERR_FILENO, text, sizeof text - 1);
    _exit(NB_EXIT_FAILURE);
}

void nb_cli_catch_lost_mapping(void) {
    struct sigaction action = {.sa_handler = on_lost_mapping};
    sigaction(SIGBUS, &action, NULL);
}

/* The folder that the program's file is in; empty if the system does not say. */
static void program_folder(char *out, size_t size) {
    ssize_t n = readlink("/proc/self/exe", out, size - 1);
    out[n > 0 ? n : 0] = 0;
    char *slash = strrchr(out, '/');
    if (slash)
        *slash = 0;
}

bool nb_cli_data_folder(const char *name, char *out, size_t size) {
    char folder[PATH_MAX], place[256], real[PATH_MAX];
    program_folder(folder, sizeof folder);
    static const char *const places[] = {"../%s", "../share/nibble/%s"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(place, sizeof place, places[i], name);
        if (!nb_path_join(out, size, folder, place) || !nb_is_folder(out))
            continue;
        if (realpath(out, real))
            snprintf(out, size, "%s", real);
        return true;
    }
    return false;
}

bool nb_cli_default_model(char *out, size_t size, struct nb_error *err) {
    const char *named = getenv("NIBBLE_MODEL");
    if (named && *named)
        return snprintf(out, size, "%s", named) < (int)size;
    if (nb_cli_data_folder("models/demo", out, size))
        return true;
    char folder[PATH_MAX];
    program_folder(folder, sizeof folder);
    nb_fail(
        err, NB_ERR_IO,
        "no model: neither %s/../models/demo nor %s/../share/nibble/models/demo is there; name a "
        "checkpoint with --model or in the environment variable NIBBLE_MODEL",
        folder, folder);
    return false;
}

static void show_loading(void *context, uint64_t done, uint64_t total) {
    nb_progress_show(context, "loading %.0f of %.0f MB", (double)done / 1e6, (double)total / 1e6);
}

static enum nb_status open_synthetic(const char *shape, const struct nb_options *options,
                                     struct nb_engine **out, struct nb_error *err) {
    struct nb_pool *pool = NULL;
    struct nb_model model;
    enum nb_status s = nb_pool_create(options->threads, &pool, err);
    if (s == NB_OK)
        s = nb_model_synthetic(shape, pool, &model, err);
    nb_pool_free(pool);
    return s == NB_OK ? nb_engine_open_model(&model, shape, options, out, err) : s;
}

enum nb_status nb_cli_engine_open(const struct nb_cli_engine *how, struct nb_engine **out,
                                  struct nb_error *err) {
    char folder[PATH_MAX];
    const char *model = how->model;
    if (!model && !how->synthetic) {
        if (!nb_cli_default_model(folder, sizeof folder, err))
            return NB_ERR_IO;
        model = folder;
    }
    struct nb_progress progress;
    nb_progress_start(&progress);
    struct nb_options options = how->options;
    nb_cli_engine_defaults(&options);
    options.progress = show_loading;
    options.progress_context = &progress;
    enum nb_status s = how->synthetic ? open_synthetic(how->synthetic, &options, out, err)
                                      : nb_engine_open(model, &options, out, err);
    nb_progress_clear(&progress);
    return s;
}

void nb_progress_start(struct nb_progress *progress) {
    *progress = (struct nb_progress){.start_us = nb_now_us(), .terminal = isatty(STDERR_FILENO)};
}

void nb_progress_show(struct nb_progress *progress, const char *fmt, ...) {
    int64_t now = nb_now_us();
    if (!progress->terminal || now - progress->start_us < 1000000 ||
        now - progress->shown_us < 100000)
        return;
    va_list args;
    va_start(args, fmt);
    fputs("\r\033[K", stderr);
    vfprintf(stderr, fmt, args);
    fflush(stderr);
    va_end(args);
    progress->shown_us = now;
    progress->shown = true;
}

void nb_progress_clear(struct nb_progress *progress) {
    if (progress->shown)
        fputs("\r\033[K", stderr);
    progress->shown = false;
}

size_t nb_text_columns(const char *text) {
    size_t columns = 0, n = strlen(text);
    for (size_t i = 0; i < n;) {
        uint32_t c = 0;
        size_t len = nb_utf8_decode(text + i, n - i, &c);
        int width = len ? utf8proc_charwidth((utf8proc_int32_t)c) : 1;
        columns += width > 0 ? (size_t)width : 0;
        i += len ? len : 1;
    }
    return columns;
}
