/* nibble serve: a model behind HTTP. */
#include "base/log.h"
#include "cli/cli.h"
#include "cli/daemon.h"
#include "service/service.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: nibble serve [--model CHECKPOINT] [OPTIONS]\n\n"
    "Answers HTTP requests as OpenAI's API has them: /v1/models, /v1/completions,\n"
    "/v1/chat/completions; besides /v1/classify and /v1/score. /healthz, /readyz and /metrics are\n"
    "for operators; /prompt, /health and /warmup are those of the service that nibble replaces.\n"
    "SIGTERM ends it once everything that runs is answered; SIGHUP reads the keys "
    "again.\n\n" NB_CLI_MODEL_HELP
    "  --synthetic SHAPE   random weights instead, such as mixtral-8x7b:1, to measure the "
    "service;\n"
    "                      prompts are token ids then\n"
    "  --host ADDRESS      to listen on (default: 127.0.0.1)\n"
    "  --port N            0 takes a free one (default: 8080)\n"
    "  --api-key-file FILE a line a key: NAME KEY [requests_per_minute=N] [max_running=N]\n"
    "                      (default: everybody may ask)\n" NB_DAEMON_NAME_HELP
    "  --max-sequences N   that run at once, and that KV memory is made for (default: 16)\n"
    "  --max-waiting N     requests beyond those; more get 429 (default: 1024)\n"
    "  --max-body SIZE     of a request (default: 8MiB)\n"
    "  --max-connections N (default: 4096)\n" NB_DAEMON_TIMEOUT_HELP
    "  --idle SECONDS      that a connection may say nothing, that a request's head and its body "
    "may\n"
    "                      take to come, and the rest of a whole answer to be read (default: 75)\n"
    "  --drain SECONDS     that SIGTERM waits for what runs (default: 30)\n" NB_DAEMON_FOLDERS_HELP
    "  --cors ORIGIN       an origin whose pages may ask, or \"*\" (default: "
    "none)\n" NB_CLI_ENGINE_HELP "\nA line a request goes to standard error, without prompts or "
    "keys; NIBBLE_LOG=debug tells more,\n"
    "NIBBLE_LOG=error less.\n"
    "\nExit code: 0 after SIGTERM or SIGINT, 1 if it could not start or not end in time, 2 for "
    "wrong "
    "usage.\n";

enum { DEFAULT_PORT = 8080 };

struct request {
    struct nb_daemon_request daemon;
    struct nb_service_options options;
};

static bool number(const char *option, int64_t min, int64_t max, int64_t *out) {
    return nb_cli_int("serve", option, optarg, min, max, out);
}

static bool parse(int argc, char **argv, struct request *r) {
    enum { SYNTHETIC = NB_DAEMON_COMMAND, HOST, PORT, WAITING, BODY, CONNECTIONS, IDLE, CORS };
    static const struct option options[] = {
        NB_DAEMON_OPTIONS,
        {"synthetic", required_argument, NULL, SYNTHETIC},
        {"host", required_argument, NULL, HOST},
        {"port", required_argument, NULL, PORT},
        {"max-waiting", required_argument, NULL, WAITING},
        {"max-body", required_argument, NULL, BODY},
        {"max-connections", required_argument, NULL, CONNECTIONS},
        {"idle", required_argument, NULL, IDLE},
        {"cors", required_argument, NULL, CORS},
        {0},
    };
    bool fine = true;
    for (int code; fine && (code = getopt_long(argc, argv, ":", options, NULL)) != -1;) {
        bool known;
        fine = nb_daemon_option(&r->daemon, code, &known);
        if (!fine || known)
            continue;
        int64_t n = 0;
        uint64_t bytes = 0;
        if (code == SYNTHETIC) {
            r->daemon.how.synthetic = optarg;
        } else if (code == HOST) {
            r->options.host = optarg;
        } else if (code == PORT) {
            fine = number("--port", 0, 65535, &n);
            r->options.port = (uint16_t)n;
        } else if (code == WAITING) {
            fine = number("--max-waiting", 1, 1000000, &n);
            r->options.max_waiting = (size_t)n;
        } else if (code == BODY) {
            fine = nb_cli_bytes("serve", "--max-body", optarg, &bytes);
            r->options.max_body_bytes = (size_t)bytes;
        } else if (code == CONNECTIONS) {
            fine = number("--max-connections", 1, 1000000, &n);
            r->options.max_connections = (unsigned)n;
        } else if (code == IDLE) {
            fine = number("--idle", 1, 86400, &n);
            r->options.idle_s = (unsigned)n;
        } else if (code == CORS) {
            r->options.allow_origin = optarg;
        } else {
            nb_cli_usage("serve", "%s: unknown, or without its value", argv[optind - 1]);
            return false;
        }
    }
    if (fine && optind < argc) {
        nb_cli_usage("serve", "%s: expected options only", argv[optind]);
        return false;
    }
    if (fine && r->daemon.how.model && r->daemon.how.synthetic) {
        nb_cli_usage("serve", "expected one of --model and --synthetic");
        return false;
    }
    return fine;
}

static enum nb_status reload(void *context, struct nb_error *err) {
    return nb_service_reload(context, err);
}

static int run(int argc, char **argv) {
    struct request r = {
        .daemon = {.command = "serve", .most_sequences = 4096, .service = &r.options},
        .options = {.port = DEFAULT_PORT},
    };
    nb_daemon_defaults(&r.daemon);
    if (!parse(argc, argv, &r))
        return NB_EXIT_USAGE;
    struct nb_daemon_folders folders;
    nb_daemon_find_folders(&folders, &r.options);
    struct nb_daemon daemon;
    nb_daemon_start(&daemon);
    struct nb_engine *engine = NULL;
    struct nb_service *service = NULL;
    struct nb_error err;
    enum nb_status s = nb_daemon_check_folders(&r.options, &err);
    if (s == NB_OK)
        s = nb_cli_engine_open(&r.daemon.how, &engine, &err);
    nb_daemon_loaded(&daemon);
    if (s == NB_OK)
        s = nb_service_open(engine, &r.options, &service, &err);
    if (s != NB_OK) {
        nb_engine_close(engine);
        return nb_cli_error(&err);
    }
    const char *host = r.options.host ? r.options.host : "127.0.0.1";
    printf(strchr(host, ':') ? "nibble: %s listens on http://[%s]:%u\n"
                             : "nibble: %s listens on http://%s:%u\n",
           r.options.model_name ? r.options.model_name : nb_engine_name(engine), host,
           nb_service_port(service));
    fflush(stdout);
    nb_daemon_wait(reload, service);
    nb_log(NB_LOG_INFO, "event=drain waiting for what runs, %.0f s at most", r.daemon.drain_s);
    bool drained = nb_service_drain(service, r.daemon.drain_s);
    nb_service_close(service);
    nb_engine_close(engine);
    nb_log(NB_LOG_INFO, "event=end %s",
           drained ? "everything was answered" : "not everything was answered");
    return drained ? NB_EXIT_OK : NB_EXIT_FAILURE;
}

const struct nb_command nb_command_serve = {"serve", "a model behind HTTP", help, run};
