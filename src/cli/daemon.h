/* What programs that run until they are told to end have in common: serve and worker. */
#ifndef NB_CLI_DAEMON_H
#define NB_CLI_DAEMON_H

#include "service/service.h"

#include <limits.h>
#include <pthread.h>
#include <stdbool.h>

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
