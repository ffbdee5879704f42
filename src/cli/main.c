/* nibble: dispatches to the subcommands. */
#include "base/log.h"
#include "cli/cli.h"
#include "nibble/nibble.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

static const struct nb_command *const commands[] = {
    &nb_command_bench,    &nb_command_classify, &nb_command_doctor,   &nb_command_generate,
    &nb_command_inspect,  &nb_command_plan,     &nb_command_quantize, &nb_command_schema,
#ifdef NB_HAVE_SERVICE
    &nb_command_serve,
#endif
    &nb_command_tokenize,
#ifdef NB_HAVE_WORKER
    &nb_command_worker,
#endif
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

/* Commands that this build lacks; the last has no name. */
static const struct left_out {
    const char *name, *why;
} left_out[] = {
#ifndef NB_HAVE_SERVICE
    {"serve", "built without libmicrohttpd, 0.9.71 or later"},
#endif
#ifndef NB_HAVE_WORKER
    {"worker", "built without libcurl, 7.85 or later, or without nibble serve"},
#endif
    {0},
};

static const struct nb_command *find_command(const char *name) {
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    }
    return NULL;
}

static int no_command(const char *name) {
    for (const struct left_out *l = left_out; l->name; l++)
        if (strcmp(l->name, name) == 0) {
            fprintf(stderr, "nibble: this build has no command \"%s\": %s\n", name, l->why);
            return NB_EXIT_FAILURE;
        }
    fprintf(stderr, "nibble: no command \"%s\"\nTry: nibble help\n", name);
    return NB_EXIT_USAGE;
}

static void print_help(FILE *out) {
    fputs("nibble: 4-bit mixture-of-experts models, served from one C program\n\n"
          "usage: nibble COMMAND [OPTIONS] [ARGUMENTS]\n\n",
          out);
    for (size_t i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fputs("  help       what a command does: nibble help COMMAND\n\n"
          "  --version  the version, and what this build has\n"
          "  --help     this text\n\n"
          "The environment: NIBBLE_MODEL names a checkpoint to use without --model, NIBBLE_BACKEND "
          "a\nbackend without --backend; NIBBLE_LOG=info or debug writes a log to standard error; "
          "NO_COLOR\nturns colours off.\n",
          out);
}

static void print_version(void) {
    char names[256];
    printf("nibble %s\n"
           "backends: %s\n"
           "compiler: %s\n"
           "libraries: " NB_LIBRARIES ", utf8proc %s"
#ifdef NB_HAVE_SERVICE
           ", " NB_HAVE_SERVICE
#endif
#ifdef NB_HAVE_WORKER
           ", " NB_HAVE_WORKER
#endif
           "\n",
           nb_version(), nb_backends(names, sizeof names), __VERSION__, utf8proc_version());
    for (const struct left_out *l = left_out; l->name; l++)
        printf("left out: nibble %s (%s)\n", l->name, l->why);
}

static int help(int argc, char **argv) {
    if (argc < 2) {
        print_help(stdout);
        return NB_EXIT_OK;
    }
    const struct nb_command *command = find_command(argv[1]);
    if (!command)
        return no_command(argv[1]);
    fputs(command->help, stdout);
    return NB_EXIT_OK;
}

static void print_log(void *context, enum nb_log_level level, const char *message) {
    (void)context;
    fprintf(stderr, "%s: %s\n", nb_log_level_name(level), message);
}

static void start_log(void) {
    enum nb_log_level level;
    const char *name = getenv("NIBBLE_LOG");
    if (nb_log_level_find(name, &level))
        nb_log_set(level, print_log, NULL);
    else if (name && *name)
        fprintf(stderr, "nibble: NIBBLE_LOG is \"%s\", expected error, warn, info or debug\n",
                name);
}

static int run(int argc, char **argv) {
    if (argc < 2) {
        print_help(stderr);
        return NB_EXIT_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        print_help(stdout);
        return NB_EXIT_OK;
    }
    if (strcmp(name, "--version") == 0) {
        print_version();
        return NB_EXIT_OK;
    }
    if (strcmp(name, "help") == 0)
        return help(argc - 1, argv + 1);
    const struct nb_command *command = find_command(name);
    if (!command)
        return no_command(name);
    for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            fputs(command->help, stdout);
            return NB_EXIT_OK;
        }
    }
    return command->run(argc - 1, argv + 1);
}

int main(int argc, char **argv) {
    setlocale(LC_CTYPE, "");
    start_log();
    int code = run(argc, argv);
    /* Output that was not written, on a full disk for example, must not look like success. */
    if (fflush(stdout) != 0 || ferror(stdout)) {
        perror("nibble: standard output");
        code = code == NB_EXIT_OK ? NB_EXIT_FAILURE : code;
    }
    return code;
}
