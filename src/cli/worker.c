/* nibble worker: answers the jobs of a serverless queue. */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/daemon.h"
#include "service/jobs/runpod.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: nibble worker runpod [--model CHECKPOINT] [OPTIONS]\n\n"
    "Takes jobs from RunPod's serverless queue, answers them, and posts the results; what queue\n"
    "that is, the RUNPOD_* variables say that RunPod sets in a worker's container. A job's input "
    "is\n"
    "{\"endpoint\": \"/prompt\", \"data\": {…}} or the body of an OpenAI request; results that "
    "cannot\n"
    "be delivered wait on disk. SIGTERM ends it once what it has is answered and delivered; "
    "SIGHUP\n"
    "reads the keys again.\n\n" NB_CLI_MODEL_HELP
    "  --max-sequences N   jobs that are answered at once, and that KV memory is made for\n"
    "                      (default: 16)\n"
    "  --outbox FOLDER     where results wait (default: on /runpod-volume if it is there, else in\n"
    "                      /var/tmp; each worker its own)\n"
    "  --allow-hosts LIST  names, addresses and ranges that callbacks may reach besides public\n"
    "                      addresses, \"books.internal, 10.1.0.0/16, 127.0.0.1:9000\" (default: "
    "what\n"
    "                      the environment variable NIBBLE_ALLOW_HOSTS says, or none)\n"
    "  --api-key-file FILE a line a key: NAME KEY [requests_per_minute=N] [max_running=N], for\n"
    "                      \"api_key\" in a job's input (default: none is "
    "needed)\n" NB_DAEMON_NAME_HELP NB_DAEMON_TIMEOUT_HELP
    "  --drain SECONDS     that SIGTERM waits (default: 30); jobs not answered then go back to "
    "the\n"
    "                      queue\n" NB_DAEMON_FOLDERS_HELP NB_CLI_ENGINE_HELP
    "\nLines about jobs go to standard error, without prompts or keys; "
    "NIBBLE_LOG=debug tells more,\nNIBBLE_LOG=error less.\n"
    "\nExit code: 0 after SIGTERM or SIGINT, 1 if it could not start or if the checkpoint was "
    "written to\nmeanwhile, 2 for wrong usage.\n";

struct request {
    struct nb_daemon_request daemon;
    struct nb_worker_options options;
};

static bool parse(int argc, char **argv, struct request *r) {
    enum { OUTBOX = NB_DAEMON_COMMAND, ALLOW };
    static const struct option options[] = {
        NB_DAEMON_OPTIONS,
        {"outbox", required_argument, NULL, OUTBOX},
        {"allow-hosts", required_argument, NULL, ALLOW},
        {0},
    };
    for (int code; (code = getopt_long(argc, argv, ":", options, NULL)) != -1;) {
        bool known = true;
        if (code == OUTBOX) {
            r->options.outbox = optarg;
        } else if (code == ALLOW) {
            r->options.allow = optarg;
        } else if (!nb_daemon_option(&r->daemon, code, &known)) {
            return false;
        } else if (!known) {
            nb_cli_usage("worker", "%s: unknown, or without its value", argv[optind - 1]);
            return false;
        }
    }
    if (optind + 1 == argc && strcmp(argv[optind], "runpod") == 0)
        return true;
    nb_cli_usage("worker", "expected the queue's kind, \"runpod\", and options");
    return false;
}

static enum nb_status reload(void *context, struct nb_error *err) {
    return nb_worker_reload(context, err);
}

/* The main thread waits for a signal. */
static void on_broken(void *context) {
    (void)context;
    nb_daemon_end();
}

static int work(struct request *r) {
    struct nb_daemon daemon;
    struct nb_engine *engine = NULL;
    struct nb_worker *worker = NULL;
    struct nb_error err;
    const char *check = "configuration";
    nb_daemon_start(&daemon);
    enum nb_status s = nb_daemon_check_folders(&r->options.service, &err);
    if (s == NB_OK) {
        check = "model";
        s = nb_cli_engine_open(&r->daemon.how, &engine, &err);
    }
    nb_daemon_loaded(&daemon);
    if (s != NB_OK)
        nb_worker_report_unhealthy(&r->options, check, err.message);
    else
        s = nb_worker_open(engine, &r->options, &worker, &err);
    if (s != NB_OK) {
        nb_engine_close(engine);
        return nb_cli_error(&err);
    }
    printf("nibble: %s takes jobs\n",
           r->options.service.model_name ? r->options.service.model_name : nb_engine_name(engine));
    fflush(stdout);
    nb_daemon_wait(reload, worker);
    bool broken = nb_worker_broken(worker);
    nb_log(NB_LOG_INFO, "event=drain waiting for what runs, %.0f s at most", r->daemon.drain_s);
    bool drained = nb_worker_drain(worker, r->daemon.drain_s);
    nb_worker_close(worker);
    nb_engine_close(engine);
    nb_log(NB_LOG_INFO, "event=end %s",
           drained ? "everything was answered and delivered"
                   : "what was not answered goes back to the queue; results wait in the outbox");
    return broken ? NB_EXIT_FAILURE : NB_EXIT_OK;
}

static int run(int argc, char **argv) {
    struct request r = {
        .daemon = {.command = "worker", .most_sequences = 256, .service = &r.options.service},
        .options = {.allow = getenv("NIBBLE_ALLOW_HOSTS"), .on_broken = on_broken},
    };
    struct nb_error err;
    nb_daemon_defaults(&r.daemon);
    if (!parse(argc, argv, &r))
        return NB_EXIT_USAGE;
    if (nb_worker_environment(&r.options, &err) != NB_OK)
        return nb_cli_usage("worker", "%s", err.message);
    struct nb_daemon_folders folders;
    nb_daemon_find_folders(&folders, &r.options.service);
    return work(&r);
}

const struct nb_command nb_command_worker = {"worker", "answers the jobs of a serverless queue",
                                             help, run};
