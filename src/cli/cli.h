/* What the subcommands share. Only this room prints, and only main exits. */
#ifndef NB_CLI_CLI_H
#define NB_CLI_CLI_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Exit codes. */
enum { NB_EXIT_OK = 0, NB_EXIT_FAILURE = 1, NB_EXIT_USAGE = 2 };

struct nb_command {
    const char *name;
    const char *summary;               /* one line */
    const char *help;                  /* usage, options, exit codes */
    int (*run)(int argc, char **argv); /* argv[0] is the command's name; returns an exit code */
};

extern const struct nb_command nb_command_bench, nb_command_classify, nb_command_doctor,
    nb_command_generate, nb_command_inspect, nb_command_plan, nb_command_quantize,
    nb_command_schema, nb_command_serve, nb_command_tokenize, nb_command_worker;

/* "nibble: message" to standard error; returns NB_EXIT_FAILURE. */
int nb_cli_error(const struct nb_error *err);

/* "nibble COMMAND: message" and where help is, to standard error; returns NB_EXIT_USAGE. */
int nb_cli_usage(const char *command, const char *fmt, ...) NB_PRINTF(2, 3);

/* The number that is all of `text`, within [min, max]; otherwise false, after nb_cli_usage. */
bool nb_cli_int(const char *command, const char *option, const char *text, int64_t min, int64_t max,
                int64_t *out);

/* Bytes: "25000000000", "23.5GiB", "24GB", "512MiB", "800MB", "24G" for GiB; in any case. */
bool nb_cli_bytes(const char *command, const char *option, const char *text, uint64_t *out);
/* One of the words that `expected` has, with commas between them: "bf16, fp8". */
bool nb_cli_word(const char *command, const char *option, const char *text, const char *expected);
bool nb_cli_number(const char *command, const char *option, const char *text, double min,
                   double max, double *out);

/* What --model, --threads, --cpu, --weights, --quantize, --context and those of GPUs say; used
 * with getopt_long. */
struct nb_cli_engine {
    const char *model;     /* NULL: the model that comes with the program */
    const char *synthetic; /* instead: random weights in a model's shape, "mixtral-8x7b:1" */
    struct nb_options options;
};
enum {
    NB_OPT_MODEL = 1000,
    NB_OPT_THREADS,
    NB_OPT_CPU,
    NB_OPT_WEIGHTS,
    NB_OPT_CONTEXT,
    NB_OPT_QUANTIZE,
    NB_OPT_BACKEND,
    NB_OPT_MEMORY_LIMIT,
    NB_OPT_KV_TYPE,
    NB_OPT_SAVE_QUANTIZED,
    NB_OPT_COMMAND
};
#define NB_CLI_ENGINE_OPTIONS                                                                      \
    {"model", required_argument, NULL, NB_OPT_MODEL},                                              \
        {"threads", required_argument, NULL, NB_OPT_THREADS},                                      \
        {"cpu", required_argument, NULL, NB_OPT_CPU},                                              \
        {"weights", required_argument, NULL, NB_OPT_WEIGHTS},                                      \
        {"quantize", required_argument, NULL, NB_OPT_QUANTIZE},                                    \
        {"backend", required_argument, NULL, NB_OPT_BACKEND},                                      \
        {"memory-limit", required_argument, NULL, NB_OPT_MEMORY_LIMIT},                            \
        {"save-quantized", required_argument, NULL, NB_OPT_SAVE_QUANTIZED},                        \
        {"kv-type", required_argument, NULL, NB_OPT_KV_TYPE}, {                                    \
        "context", required_argument, NULL, NB_OPT_CONTEXT                                         \
    }
#define NB_CLI_MODEL_HELP                                                                          \
    "  --model CHECKPOINT  a folder as Hugging Face lays it out, or ORG/NAME in its cache "        \
    "(default:\n"                                                                                  \
    "                      the environment variable NIBBLE_MODEL, or the model that comes with\n"  \
    "                      nibble)\n"
#define NB_CLI_QUANTIZE_HELP                                                                       \
    "  --quantize TYPE     none, nf4 or fp4, for a checkpoint in bf16, fp16 or fp32 (default: "    \
    "nf4)\n"                                                                                       \
    "  --save-quantized DIR  keeps what was quantized as a checkpoint; where DIR is there, it "    \
    "is\n"                                                                                         \
    "                      opened instead\n"
#define NB_CLI_BACKEND_HELP                                                                        \
    "  --backend NAME      cpu, cuda or auto: cuda where there is a GPU (default: auto, or what "  \
    "the\n"                                                                                        \
    "                      environment variable NIBBLE_BACKEND says)\n"                            \
    "  --memory-limit SIZE of a GPU's memory, such as 23.5GiB (default: what is free)\n"           \
    "  --kv-type TYPE      of keys and values on a GPU: bf16, or fp8, which takes half the "       \
    "memory\n"                                                                                     \
    "                      and is less exact (default: bf16)\n"
#define NB_CLI_WEIGHTS_HELP                                                                        \
    "  --weights HOW       packed: 4-bit weights are copied into the order that is fastest;\n"     \
    "                      mapped: they are not; auto: packed where memory allows (default: "      \
    "auto\n"                                                                                       \
    "                      for serve, bench and models of at most 1 GB, else mapped)\n"
#define NB_CLI_ENGINE_HELP                                                                         \
    "  --threads N         threads that compute (default: one for each processor)\n"               \
    "  --cpu NAME          plain, avx2 or avx512 (default: the best that runs "                    \
    "here)\n" NB_CLI_WEIGHTS_HELP                                                                  \
    "  --context N         positions of a sequence (default: the model's, 8192 at "                \
    "most)\n" NB_CLI_BACKEND_HELP NB_CLI_QUANTIZE_HELP

/* The options without any of these said: what the environment says. */
void nb_cli_engine_defaults(struct nb_options *options);

/* Handles option `code`; false if it was one of these and bad, after saying so. *known is whether
 * it was. */
bool nb_cli_engine_option(const char *command, int code, const char *value,
                          struct nb_cli_engine *out, bool *known);

/* Opens the engine, with progress on a terminal. */
enum nb_status nb_cli_engine_open(const struct nb_cli_engine *how, struct nb_engine **out,
                                  struct nb_error *err);

/* Has the process end with a message, and code 1, where otherwise SIGBUS would end it: a file that
 * is mapped was cut short by somebody. */
void nb_cli_catch_lost_mapping(void);

/* A folder that comes with the program, "prompts": beside the build or where it is installed; false
 * if it is nowhere. */
bool nb_cli_data_folder(const char *name, char *out, size_t size);

/* The folder of the model that comes with the program; false if it is nowhere, and err says where
 * it was looked for. */
bool nb_cli_default_model(char *out, size_t size, struct nb_error *err);

/* A line on standard error that says how far a long job is: only on a terminal, only after a
 * second. */
struct nb_progress {
    int64_t start_us, shown_us;
    bool terminal, shown;
};
void nb_progress_start(struct nb_progress *progress);
void nb_progress_show(struct nb_progress *progress, const char *fmt, ...) NB_PRINTF(2, 3);
void nb_progress_clear(struct nb_progress *progress); /* before anything else is printed */

/* Columns of a terminal that text takes; invalid UTF-8 counts a column a byte. */
size_t nb_text_columns(const char *text);

#endif
