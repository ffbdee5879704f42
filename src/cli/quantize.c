/* nibble quantize: a checkpoint in 4 bits from one in floats. */
#include "base/clock.h"
#include "cli/cli.h"
#include "model/cache.h"
#include "model/convert.h"

#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

static const char help[] =
    "usage: nibble quantize SRC DST [OPTIONS]\n\n"
    "Writes the checkpoint SRC, a folder or a repository name, to the new folder DST in 4 bits, "
    "as\n"
    "bitsandbytes does: transformers 4.57 loads DST as if it had saved it. All linear layers are\n"
    "quantized but the head; experts that are fused in SRC are written one by one. DST appears "
    "when\n"
    "it is complete; if anything goes wrong, or at SIGINT or SIGTERM, nothing is left behind.\n\n"
    "  --type TYPE         nf4 or fp4 (default: nf4)\n"
    "  --no-double-quant   absmax in fp32, not in 8 bits\n"
    "  --blocksize N       weights that share an absmax: 32, 64, … 4096 (default: 64)\n"
    "  --skip MODULE       leaves the linear layers of this name as they are: gate, or\n"
    "                      model.layers.0; may be given again\n"
    "  --threads N         threads that compute (default: one for each processor)\n"
    "\nExit code: 0 if DST was written, 1 if not, 2 for wrong usage.\n";

enum { MAX_SKIP = 256 };

struct request {
    const char *source, *target;
    struct nb_convert_options options;
    const char *skip[MAX_SKIP];
    int threads;
};

enum { OPT_TYPE = NB_OPT_COMMAND, OPT_PLAIN_ABSMAX, OPT_BLOCKSIZE, OPT_SKIP };

static bool parse_option(int code, const char *name, struct request *r) {
    struct nb_quantize_options *how = &r->options.how;
    int64_t n = 0;
    switch (code) {
    case OPT_TYPE:
        if (strcmp(optarg, "nf4") != 0 && strcmp(optarg, "fp4") != 0) {
            nb_cli_usage("quantize", "--type is \"%s\", expected nf4 or fp4", optarg);
            return false;
        }
        how->type = strcmp(optarg, "fp4") == 0 ? NB_QUANT_FP4 : NB_QUANT_NF4;
        return true;
    case OPT_PLAIN_ABSMAX:
        how->nested = false;
        return true;
    case OPT_BLOCKSIZE:
        if (!nb_cli_int("quantize", "--blocksize", optarg, NB_QUANT_MIN_BLOCK, NB_QUANT_MAX_BLOCK,
                        &n))
            return false;
        how->block = (size_t)n;
        if (nb_quant_check_shape(how->type, how->block, NULL) == NB_OK)
            return true;
        nb_cli_usage("quantize", "--blocksize is %s, expected a power of two", optarg);
        return false;
    case OPT_SKIP:
        if (!*optarg || how->n_skip == MAX_SKIP) {
            nb_cli_usage("quantize", "--skip: expected a module's name, at most %d times",
                         MAX_SKIP);
            return false;
        }
        r->skip[how->n_skip++] = optarg;
        return true;
    case NB_OPT_THREADS:
        if (!nb_cli_int("quantize", "--threads", optarg, 1, 256, &n))
            return false;
        r->threads = (int)n;
        return true;
    default:
        nb_cli_usage("quantize", "%s: unknown, or without its value", name);
        return false;
    }
}

static bool parse(int argc, char **argv, struct request *r) {
    static const struct option options[] = {
        {"type", required_argument, NULL, OPT_TYPE},
        {"no-double-quant", no_argument, NULL, OPT_PLAIN_ABSMAX},
        {"blocksize", required_argument, NULL, OPT_BLOCKSIZE},
        {"skip", required_argument, NULL, OPT_SKIP},
        {"threads", required_argument, NULL, NB_OPT_THREADS},
        {0},
    };
    r->options.how = nb_quantize_defaults;
    r->options.how.skip = r->skip;
    for (int code; (code = getopt_long(argc, argv, ":", options, NULL)) != -1;) {
        if (!parse_option(code, argv[optind - 1], r))
            return false;
    }
    if (argc - optind != 2) {
        nb_cli_usage("quantize", "expected SRC and DST, found %d argument%s", argc - optind,
                     argc - optind == 1 ? "" : "s");
        return false;
    }
    r->source = argv[optind];
    r->target = argv[optind + 1];
    return true;
}

/* The signal that asks to stop. */
static volatile sig_atomic_t stop_signal;

static void on_signal(int number) {
    stop_signal = number;
}

static void catch_signals(void) {
    static const int caught[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof caught / sizeof *caught; i++) {
        struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
        struct sigaction before;
        /* What is ignored, as by nohup, stays so. */
        if (sigaction(caught[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(caught[i], &action, NULL);
    }
    signal(SIGXFSZ, SIG_IGN); /* a file that is too large is an error of write() */
}

static bool show(void *context, uint64_t done, uint64_t total) {
    nb_progress_show(context, "quantizing: %.1f of %.1f GB, %.0f %%", (double)done / 1e9,
                     (double)total / 1e9, total ? 100 * (double)done / (double)total : 100);
    return !stop_signal;
}

static enum nb_status quantize(struct request *r, struct nb_converted *done, struct nb_error *err) {
    char source[PATH_MAX];
    struct nb_progress progress;
    struct nb_pool *pool;
    enum nb_status s = nb_checkpoint_find(r->source, source, sizeof source, err);
    if (s == NB_OK)
        s = nb_pool_create(r->threads, &pool, err);
    if (s != NB_OK)
        return s;
    nb_progress_start(&progress);
    r->options.progress = show;
    r->options.progress_context = &progress;
    s = nb_checkpoint_quantize(source, r->target, &r->options, pool, done, err);
    nb_progress_clear(&progress);
    nb_pool_free(pool);
    return s;
}

static int run(int argc, char **argv) {
    struct request r = {0};
    if (!parse(argc, argv, &r))
        return NB_EXIT_USAGE;
    catch_signals();
    struct nb_error err;
    struct nb_converted done;
    int64_t begin = nb_now_us();
    if (quantize(&r, &done, &err) != NB_OK) {
        nb_cli_error(&err);
        if (stop_signal) { /* so that the shell sees what ended the program */
            signal(stop_signal, SIG_DFL);
            raise(stop_signal);
        }
        return NB_EXIT_FAILURE;
    }
    double seconds = (double)(nb_now_us() - begin) / 1e6;
    printf("%s: %zu matrices in %s, %zu tensors as they were; %.3f GB of %.3f GB in %zu file%s, "
           "%.1f s, %.2f GB/s\n",
           r.target, done.quantized, nb_quant_type_name(r.options.how.type), done.kept,
           (double)done.written_bytes / 1e9, (double)done.read_bytes / 1e9, done.files,
           done.files == 1 ? "" : "s", seconds, (double)done.read_bytes / 1e9 / seconds);
    return NB_EXIT_OK;
}

const struct nb_command nb_command_quantize = {"quantize", "a checkpoint to 4 bits", help, run};
