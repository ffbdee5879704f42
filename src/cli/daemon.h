/* What programs that run until they are told to end have in common: serve and worker. */
#ifndef NB_CLI_DAEMON_H
#define NB_CLI_DAEMON_H

#include "cli/cli.h"
#include "service/service.h"

#include <limits.h>
#include <pthread.h>
#include <stdbool.h>

/* What both are asked for. */
struct nb_daemon_request {
    const char *command;    /* for messages */
    int64_t most_sequences; /* that --max-sequences may say */
    struct nb_service_options *service;
    struct nb_cli_engine how;
    double drain_s;
};

enum {
    NB_DAEMON_SEQUENCES = NB_OPT_COMMAND,
    NB_DAEMON_KEYS,
    NB_DAEMON_NAME,
    NB_DAEMON_TIMEOUT,
    NB_DAEMON_DRAIN,
    NB_DAEMON_PROMPTS,
    NB_DAEMON_SCHEMAS,
    NB_DAEMON_ACTIONS,
    NB_DAEMON_COMMAND /* the first of a command's own */
};
#define NB_DAEMON_OPTIONS                                                                          \
    NB_CLI_ENGINE_OPTIONS, {"max-sequences", required_argument, NULL, NB_DAEMON_SEQUENCES},        \
        {"api-key-file", required_argument, NULL, NB_DAEMON_KEYS},                                 \
        {"model-name", required_argument, NULL, NB_DAEMON_NAME},                                   \
        {"timeout", required_argument, NULL, NB_DAEMON_TIMEOUT},                                   \
        {"drain", required_argument, NULL, NB_DAEMON_DRAIN},                                       \
        {"prompts", required_argument, NULL, NB_DAEMON_PROMPTS},                                   \
        {"schemas", required_argument, NULL, NB_DAEMON_SCHEMAS}, {                                 \
        "actions", required_argument, NULL, NB_DAEMON_ACTIONS                                      \
    }

#define NB_DAEMON_NAME_HELP                                                                        \
    "  --model-name NAME   what the API calls the model (default: its folder's name)\n"
#define NB_DAEMON_TIMEOUT_HELP "  --timeout SECONDS   of an answer (default: 600)\n"
#define NB_DAEMON_FOLDERS_HELP                                                                     \
    "  --prompts FOLDER    instructions of /prompt's stages, STAGE.txt (default: those that "      \
    "come\n"                                                                                       \
    "                      with the program)\n"                                                    \
    "  --schemas FOLDER    schemas of their answers, STAGE.json (default: likewise)\n"             \
    "  --actions FOLDER    schemas of single actions, SOFTWARE/ACTION.json (default: none)\n"

/* Sets what is not asked for. */
void nb_daemon_defaults(struct nb_daemon_request *request);

/* An option of all commands with a model, or of these two: *known. False after saying what is
 * wrong. Of getopt_long, its value in optarg. */
bool nb_daemon_option(struct nb_daemon_request *request, int code, bool *known);

/* Folders of prompts and schemas that come with the program, where options name none. */
struct nb_daemon_folders {
    char prompts[PATH_MAX], schemas[PATH_MAX];
};
void nb_daemon_find_folders(struct nb_daemon_folders *folders, struct nb_service_options *options);

/* The folders of /prompt: those that are named are there, and the schemas are schemas; what is
 * wrong is said at the start, not to whoever asks first. */
enum nb_status nb_daemon_check_folders(const struct nb_service_options *options,
                                       struct nb_error *err);

/* Ends the program on a signal while it loads. */
struct nb_daemon {
    pthread_t loading;
    bool loads; /* there is such a thread */
};

/* Before any thread is started: the log goes to standard error, a line an event, from NB_LOG_INFO
 * on unless NIBBLE_LOG says otherwise; writing to what is closed, or beyond what a file may hold,
 * is an error of that write; a file that is cut short while it is mapped ends the program with a
 * message. SIGTERM and SIGINT end the program, for loading a model takes long, until
 * nb_daemon_loaded, before anything is to be answered; from then on they wait for
 * nb_daemon_wait. */
void nb_daemon_start(struct nb_daemon *daemon);
void nb_daemon_loaded(struct nb_daemon *daemon);

/* Returns on SIGTERM or SIGINT. SIGHUP has `reload` read the keys again; its outcome is logged. */
void nb_daemon_wait(enum nb_status (*reload)(void *context, struct nb_error *err), void *context);

/* Has nb_daemon_wait return, from any thread. */
void nb_daemon_end(void);

#endif
