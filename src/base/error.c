#include "base/error.h"

#include "base/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Marks a message of n bytes, formatted into at most `size`, that did not fit. */
static void mark_cut(char *message, size_t size, int n) {
    if (n >= 0 && (size_t)n >= size && size >= 4)
        memcpy(message + size - 4, "\xe2\x80\xa6", 4); /* U+2026 and NUL */
}

/* Control characters, which a name from a file may hold to play with a terminal, and what is no
 * UTF-8, such as a character that "%.100s" has cut, become '?': a message may stand in JSON. */
static void clean(char *message) {
    size_t n = strlen(message), bad;
    for (char *c = message; *c; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7F)
            *c = '?';
    }
    for (char *at = message; !nb_utf8_valid(at, n, &bad); at += bad, n -= bad)
        at[bad] = '?';
}

/* Formats into err->message. */
static void format_message(struct nb_error *err, const char *fmt, va_list args) {
    int n = vsnprintf(err->message, sizeof err->message, fmt, args);
    mark_cut(err->message, sizeof err->message, n);
    clean(err->message);
}

enum nb_status nb_fail(struct nb_error *err, enum nb_status code, const char *fmt, ...) {
    if (err) {
        va_list args;
        va_start(args, fmt);
        err->code = code;
        format_message(err, fmt, args);
        va_end(args);
    }
    return code;
}

enum nb_status nb_fail_memory(struct nb_error *err, size_t bytes, const char *what) {
    return nb_fail(err, NB_ERR_MEMORY, "out of memory: %zu bytes for %s", bytes, what);
}

enum nb_status nb_fail_prefix(struct nb_error *err, enum nb_status code, const char *fmt, ...) {
    if (err) {
        struct nb_error inner = *err;
        va_list args;
        va_start(args, fmt);
        format_message(err, fmt, args);
        va_end(args);
        size_t used = strlen(err->message);
        int n = snprintf(err->message + used, sizeof err->message - used, ": %s", inner.message);
        mark_cut(err->message + used, sizeof err->message - used, n);
        clean(err->message);
    }
    return code;
}

const char *nb_status_name(enum nb_status status) {
    switch (status) {
    case NB_OK:
        return "ok";
    case NB_ERR_ARGUMENT:
        return "argument";
    case NB_ERR_IO:
        return "io";
    case NB_ERR_FORMAT:
        return "format";
    case NB_ERR_UNSUPPORTED:
        return "unsupported";
    case NB_ERR_MEMORY:
        return "memory";
    case NB_ERR_LIMIT:
        return "limit";
    case NB_ERR_STOPPED:
        return "stopped";
    case NB_ERR_BUSY:
        return "busy";
    case NB_ERR_INTERNAL:
        return "internal";
    }
    return "unknown";
}
