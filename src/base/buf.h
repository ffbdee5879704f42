/* A growing buffer of bytes. Additions that run out of memory set `failed` and are dropped, so that
 * a caller checks once, at the end. */
#ifndef NB_BASE_BUF_H
#define NB_BASE_BUF_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

/* All zero is an empty buffer. data[len] is always NUL once anything was added. */
struct nb_buf {
    char *data;
    size_t len, cap;
    bool failed;
};

void nb_buf_add(struct nb_buf *buf, const void *bytes, size_t n);
void nb_buf_add_string(struct nb_buf *buf, const char *text);
void nb_buf_printf(struct nb_buf *buf, const char *fmt, ...) NB_PRINTF(2, 3);

/* Appends code point cp (at most 0x10FFFF, not a surrogate) as UTF-8. */
void nb_buf_add_utf8(struct nb_buf *buf, uint32_t cp);

/* Appends text[0..n), UTF-8, as a JSON string with its quotes, as Python's json.dumps(text,
 * ensure_ascii=False) writes it. */
void nb_buf_add_json_string(struct nb_buf *buf, const char *text, size_t n);

/* Empties the buffer and keeps its memory. */
void nb_buf_clear(struct nb_buf *buf);
void nb_buf_free(struct nb_buf *buf);

#endif
