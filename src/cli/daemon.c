#include "cli/daemon.h"

#include "base/error.h"
#include "base/file.h"
#include "base/log.h"
#include "grammar/grammar.h"

#include <dirent.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_SCHEMA_BYTES = 64 << 20, DEFAULT_SEQUENCES = 16, DEFAULT_DRAIN_S = 30 };

static void set_sequences(struct nb_daemon_request *r, int64_t n) {
    r->how.options.sequences = (int32_t)n;
    r->service->max_running = (size_t)n;
}

void nb_daemon_defaults(struct nb_daemon_request *r) {
    nb_cli_engine_defaults(&r->how.options);
    r->how.options.weights = "auto";
    r->drain_s = DEFAULT_DRAIN_S;
    set_sequences(r, DEFAULT_SEQUENCES);
}

bool nb_daemon_option(struct nb_daemon_request *r, int code, bool *known) {
    struct nb_service_options *o = r->service;
    int64_t n = 0;
    bool fine = nb_cli_engine_option(r->command, code, optarg, &r->how, known);
    if (!fine || *known)
        return fine;
    *known = true;
    switch (code) {
    case NB_DAEMON_SEQUENCES:
        fine = nb_cli_int(r->command, "--max-sequences", optarg, 1, r->most_sequences, &n);
        set_sequences(r, n);
        return fine;
    case NB_DAEMON_KEYS:
        o->api_key_file = optarg;
        return true;
    case NB_DAEMON_NAME:
        o->model_name = optarg;
        return true;
    case NB_DAEMON_TIMEOUT:
        return nb_cli_number(r->command, "--timeout", optarg, 0.001, 1e6, &o->timeout_s);
    case NB_DAEMON_DRAIN:
        return nb_cli_number(r->command, "--drain", optarg, 0, 1e6, &r->drain_s);
    case NB_DAEMON_PROMPTS:
        o->prompts = optarg;
        return true;
    case NB_DAEMON_SCHEMAS:
        o->schemas = optarg;
        return true;
    case NB_DAEMON_ACTIONS:
        o->actions = optarg;
        return true;
    default:
        *known = false;
        return true;
    }
}

void nb_daemon_find_folders(struct nb_daemon_folders *f, struct nb_service_options *options) {
    if (!options->prompts && nb_cli_data_folder("prompts", f->prompts, sizeof f->prompts))
        options->prompts = f->prompts;
    if (!options->schemas && nb_cli_data_folder("schemas", f->schemas, sizeof f->schemas))
        options->schemas = f->schemas;
}

/* Reads FOLDER/NAME as a schema. */
static enum nb_status check_schema(const char *folder, const char *name, struct nb_error *err) {
    char path[PATH_MAX];
    struct nb_buf text = {0};
    struct nb_grammar *grammar = NULL;
    if (!nb_path_join(path, sizeof path, folder, name))
        return nb_fail(err, NB_ERR_ARGUMENT, "%s: path too long", folder);
    struct nb_grammar_options options = {.name = path};
    enum nb_status s = nb_read_regular_file(path, MAX_SCHEMA_BYTES, &text, err);
    if (s == NB_OK)
        s = nb_grammar_schema(text.data ? text.data : "", text.len, &options, NULL, &grammar, err);
    nb_grammar_release(grammar);
    nb_buf_free(&text);
    return s;
}

enum nb_status nb_daemon_check_folders(const struct nb_service_options *o, struct nb_error *err) {
    const struct {
        const char *option, *folder;
    } named[] = {{"--prompts", o->prompts}, {"--schemas", o->schemas}, {"--actions", o->actions}};
    for (size_t i = 0; i < sizeof named / sizeof *named; i++)
        if (named[i].folder && !nb_is_folder(named[i].folder))
            return nb_fail(err, NB_ERR_IO, "%s %s: no such folder", named[i].option,
                           named[i].folder);
    enum nb_status s = NB_OK;
    DIR *dir = o->schemas ? opendir(o->schemas) : NULL;
    for (struct dirent *e; s == NB_OK && dir && (e = readdir(dir));) {
        size_t n = strlen(e->d_name);
        if (n > 5 && e->d_name[0] != '.' && strcmp(e->d_name + n - 5, ".json") == 0)
            s = check_schema(o->schemas, e->d_name, err);
    }
    if (dir)
        closedir(dir);
    return s;
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

enum { LOADED = SIGUSR1 }; /* what its thread hears in the end */

static void *end_on_signal(void *context) {
    (void)context;
    sigset_t signals = signals_of_daemons();
    int got = 0;
    sigdelset(&signals, SIGHUP); /* the keys are yet to be read */
    sigaddset(&signals, LOADED);
    while (sigwait(&signals, &got) != 0)
        ;
    if (got == LOADED)
        return NULL;
    nb_log(NB_LOG_INFO, "event=end before the model was loaded");
    _exit(NB_EXIT_OK);
}

void nb_daemon_start(struct nb_daemon *d) {
    enum nb_log_level level = NB_LOG_INFO;
    nb_log_level_find(getenv("NIBBLE_LOG"), &level);
    nb_log_set(level, print_log, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    nb_cli_catch_lost_mapping();
    sigset_t signals = signals_of_daemons();
    sigaddset(&signals, LOADED);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    d->loads = pthread_create(&d->loading, NULL, end_on_signal, NULL) == 0;
}

void nb_daemon_loaded(struct nb_daemon *d) {
    if (!d->loads)
        return;
    pthread_kill(d->loading, LOADED);
    pthread_join(d->loading, NULL);
    d->loads = false;
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
