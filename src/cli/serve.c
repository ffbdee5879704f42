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
    "                      (default: everybody may ask)\n"
    "  --model-name NAME   what the API calls the model (default: its folder's name)\n"
    "  --max-sequences N   that run at once, and that KV memory is made for (default: 16)\n"
    "  --max-waiting N     requests beyond those; more get 429 (default: 1024)\n"
    "  --max-body SIZE     of a request (default: 8MiB)\n"
    "  --max-connections N (default: 4096)\n"
    "  --timeout SECONDS   of an answer (default: 600)\n"
    "  --idle SECONDS      that a connection may say nothing, that a request's head and its body "
    "may\n"
    "                      take to come, and the rest of a whole answer to be read (default: 75)\n"
    "  --drain SECONDS     that SIGTERM waits for what runs (default: 30)\n"
    "  --prompts FOLDER    instructions of /prompt's stages, STAGE.txt (default: those that come\n"
    "                      with the program)\n"
    "  --schemas FOLDER    schemas of their answers, STAGE.json (default: likewise)\n"
    "  --actions FOLDER    schemas of single actions, SOFTWARE/ACTION.json (default: none)\n"
    "  --cors ORIGIN       an origin whose pages may ask, or \"*\" (default: "
    "none)\n" NB_CLI_ENGINE_HELP "\nA line a request goes to standard error, without prompts or "
    "keys; NIBBLE_LOG=debug tells more,\n"
    "NIBBLE_LOG=error less.\n"
    "\nExit code: 0 after SIGTERM or SIGINT, 1 if it could not start or not end in time, 2 for "
    "wrong "
    "usage.\n";

enum { DEFAULT_PORT = 8080, DEFAULT_SEQUENCES = 16, DEFAULT_DRAIN_S = 30 };

struct request {
    struct nb_cli_engine how;
    struct nb_service_options options;
    double drain_s;
};

static bool number(const char *option, int64_t min, int64_t max, int64_t *out) {
    return nb_cli_int("serve", option, optarg, min, max, out);
}

static bool parse(int argc, char **argv, struct request *r) {
    enum {
        SYNTHETIC = NB_OPT_COMMAND,
        HOST,
        PORT,
        KEYS,
        NAME,
        SEQUENCES,
        WAITING,
        BODY,
        CONNECTIONS,
        TIMEOUT,
        IDLE,
        DRAIN,
        CORS,
        PROMPTS,
        SCHEMAS,
        ACTIONS
    };
    static const struct option options[] = {
        NB_CLI_ENGINE_OPTIONS,
        {"synthetic", required_argument, NULL, SYNTHETIC},
        {"host", required_argument, NULL, HOST},
        {"port", required_argument, NULL, PORT},
        {"api-key-file", required_argument, NULL, KEYS},
        {"model-name", required_argument, NULL, NAME},
        {"max-sequences", required_argument, NULL, SEQUENCES},
        {"max-waiting", required_argument, NULL, WAITING},
        {"max-body", required_argument, NULL, BODY},
        {"max-connections", required_argument, NULL, CONNECTIONS},
        {"timeout", required_argument, NULL, TIMEOUT},
        {"idle", required_argument, NULL, IDLE},
        {"drain", required_argument, NULL, DRAIN},
        {"cors", required_argument, NULL, CORS},
        {"prompts", required_argument, NULL, PROMPTS},
        {"schemas", required_argument, NULL, SCHEMAS},
        {"actions", required_argument, NULL, ACTIONS},
        {0},
    };
    bool fine = true;
    for (int code; fine && (code = getopt_long(argc, argv, ":", options, NULL)) != -1;) {
        if (code == '?' || code == ':') {
            nb_cli_usage("serve", "%s: unknown, or without its value", argv[optind - 1]);
            return false;
        }
        bool known;
        fine = nb_cli_engine_option("serve", code, optarg, &r->how, &known);
        if (!fine || known)
            continue;
        int64_t n = 0;
        uint64_t bytes = 0;
        if (code == SYNTHETIC) {
            r->how.synthetic = optarg;
        } else if (code == HOST) {
            r->options.host = optarg;
        } else if (code == PORT) {
            fine = number("--port", 0, 65535, &n);
            r->options.port = (uint16_t)n;
        } else if (code == KEYS) {
            r->options.api_key_file = optarg;
        } else if (code == NAME) {
            r->options.model_name = optarg;
        } else if (code == SEQUENCES) {
            fine = number("--max-sequences", 1, 4096, &n);
            r->how.options.sequences = (int32_t)n;
        } else if (code == WAITING) {
            fine = number("--max-waiting", 1, 1000000, &n);
            r->options.max_waiting = (size_t)n;
        } else if (code == BODY) {
            fine = nb_cli_bytes("serve", "--max-body", optarg, &bytes);
            r->options.max_body_bytes = (size_t)bytes;
        } else if (code == CONNECTIONS) {
            fine = number("--max-connections", 1, 1000000, &n);
            r->options.max_connections = (unsigned)n;
        } else if (code == TIMEOUT) {
            fine = nb_cli_number("serve", "--timeout", optarg, 0.001, 1e6, &r->options.timeout_s);
        } else if (code == IDLE) {
            fine = number("--idle", 1, 86400, &n);
            r->options.idle_s = (unsigned)n;
        } else if (code == DRAIN) {
            fine = nb_cli_number("serve", "--drain", optarg, 0, 1e6, &r->drain_s);
        } else if (code == CORS) {
            r->options.allow_origin = optarg;
        } else if (code == PROMPTS) {
            r->options.prompts = optarg;
        } else if (code == SCHEMAS) {
            r->options.schemas = optarg;
        } else if (code == ACTIONS) {
            r->options.actions = optarg;
        }
    }
    if (fine && optind < argc) {
        nb_cli_usage("serve", "%s: expected options only", argv[optind]);
        return false;
    }
    if (fine && r->how.model && r->how.synthetic) {
        nb_cli_usage("serve", "expected one of --model and --synthetic");
        return false;
    }
    r->options.max_running = (size_t)r->how.options.sequences;
    return fine;
}

static enum nb_status reload(void *context, struct nb_error *err) {
    return nb_service_reload(context, err);
}

static int run(int argc, char **argv) {
    struct request r = {
        .options = {.port = DEFAULT_PORT},
        .how = {.options = {.sequences = DEFAULT_SEQUENCES}},
        .drain_s = DEFAULT_DRAIN_S,
    };
    nb_cli_engine_defaults(&r.how.options);
    r.how.options.weights = "auto";
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
        s = nb_cli_engine_open(&r.how, &engine, &err);
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
    nb_log(NB_LOG_INFO, "event=drain waiting for what runs, %.0f s at most", r.drain_s);
    bool drained = nb_service_drain(service, r.drain_s);
    nb_service_close(service);
    nb_engine_close(engine);
    nb_log(NB_LOG_INFO, "event=end %s",
           drained ? "everything was answered" : "not everything was answered");
    return drained ? NB_EXIT_OK : NB_EXIT_FAILURE;
}

const struct nb_command nb_command_serve = {"serve", "a model behind HTTP", help, run};
