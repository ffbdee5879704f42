#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static struct {
    enum nb_log_level level;
    nb_log_sink sink;
    void *context;
} log_state;

void nb_log_set(enum nb_log_level level, nb_log_sink sink, void *context) {
    log_state.level = level;
    log_state.sink = sink;
    log_state.context = context;
}

void nb_log(enum nb_log_level level, const char *fmt, ...) {
    if (!log_state.sink || level > log_state.level)
        return;
    char message[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    log_state.sink(log_state.context, level, message);
}

const char *nb_log_level_name(enum nb_log_level level) {
    static const char *const names[] = {"error", "warn", "info", "debug"};
    return level <= NB_LOG_DEBUG ? names[level] : "?";
}

bool nb_log_level_find(const char *name, enum nb_log_level *out) {
    for (int level = NB_LOG_ERROR; name && level <= NB_LOG_DEBUG; level++) {
        if (strcmp(name, nb_log_level_name((enum nb_log_level)level)) == 0) {
            *out = (enum nb_log_level)level;
            return true;
        }
    }
    return false;
}
