/* What programs that run until they are told to end have in common: serve and worker. */
#ifndef NB_CLI_DAEMON_H
#define NB_CLI_DAEMON_H

#include "service/service.h"

#include <limits.h>

/* Folders of prompts and schemas that come with the program, where options name none. */
struct nb_daemon_folders {
    char prompts[PATH_MAX], schemas[PATH_MAX];
};
void nb_daemon_find_folders(struct nb_daemon_folders *folders, struct nb_service_options *options);

/* The folders of /prompt: those that are named are there, and the schemas are schemas; what is
 * wrong is said at the start, not to whoever asks first. */
enum nb_status nb_daemon_check_folders(const struct nb_service_options *options,
                                       struct nb_error *err);

/* Before any thread is started: the log goes to standard error, a line an event, from NB_LOG_INFO
 * on unless NIBBLE_LOG says otherwise; signals that end the program wait for nb_daemon_wait;
 * writing to what is closed, or beyond what a file may hold, is an error of that write; a file that
 * is cut short while it is mapped ends the program with a message. */
void nb_daemon_start(void);

/* Returns on SIGTERM or SIGINT. SIGHUP has `reload` read the keys again; its outcome is logged. */
void nb_daemon_wait(enum nb_status (*reload)(void *context, struct nb_error *err), void *context);

/* Has nb_daemon_wait return, from any thread. */
void nb_daemon_end(void);

#endif
