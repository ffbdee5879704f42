#include "cli/daemon.h"

#include "base/log.h"
#include "cli/cli.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void nb_daemon_find_folders(struct nb_daemon_folders *f, struct nb_service_options *options) {
    if (!options->prompts && nb_cli_data_folder("prompts", f->prompts, sizeof f->prompts))
        options->prompts = f->prompts;
    if (!options->schemas && nb_cli_data_folder("schemas", f->schemas, sizeof f->schemas))
        options->schemas = f->schemas;
}

static void print_log(void *context, enum nb_log_level level, const char *message) {
    (void)context;
    fprintf(stderr, "level=%s %s\n", nb_log_level_name(level), message);
}

/* Those that are waited for. */
static sigset_t signals_of_daemons(void) {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    return signals;
}

void nb_daemon_start(void) {
    enum nb_log_level level = NB_LOG_INFO;
    nb_log_level_find(getenv("NIBBLE_LOG"), &level);
    nb_log_set(level, print_log, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    nb_cli_catch_lost_mapping();
    sigset_t signals = signals_of_daemons();
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
}

void nb_daemon_wait(enum nb_status (*reload)(void *context, struct nb_error *err), void *context) {
    sigset_t signals = signals_of_daemons();
    for (;;) {
        int got = 0;
        if (sigwait(&signals, &got) != 0)
            continue;
        if (got != SIGHUP)
            return;
        struct nb_error err;
        if (reload(context, &err) == NB_OK)
            nb_log(NB_LOG_INFO, "event=reload the keys were read again");
        else
            nb_log(NB_LOG_ERROR, "event=reload the keys stay as they were: %s", err.message);
    }
}

void nb_daemon_end(void) {
    kill(getpid(), SIGTERM);
}
