#include "base/buf.h"

#include "base/checked.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Room for n more bytes and a NUL. */
static bool reserve(struct nb_buf *buf, size_t n) {
    size_t need;
    if (buf->failed || !nb_add_size(buf->len, n, &need) || !nb_add_size(need, 1, &need)) {
        buf->failed = true;
        return false;
    }
    if (need <= buf->cap)
        return true;
    size_t cap = buf->cap ? buf->cap : 256;
    while (cap < need) {
        if (!nb_mul_size(cap, 2, &cap))
            cap = need;
    }
    char *data = realloc(buf->data, cap);
    if (!data) {
        buf->failed = true;
        return false;
    }
    buf->data = data;
    buf->cap = cap;
    return true;
}

void nb_buf_add(struct nb_buf *buf, const void *bytes, size_t n) {
    if (!reserve(buf, n))
        return;
    if (n)
        memcpy(buf->data + buf->len, bytes, n);
    buf->len += n;
    buf->data[buf->len] = 0;
}

void nb_buf_add_string(struct nb_buf *buf, const char *text) {
    nb_buf_add(buf, text, strlen(text));
}

void nb_buf_printf(struct nb_buf *buf, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0 || !reserve(buf, (size_t)n)) {
        buf->failed = true;
        return;
    }
    va_start(args, fmt);
    vsnprintf(buf->data + buf->len, (size_t)n + 1, fmt, args);
    va_end(args);
    buf->len += (size_t)n;
}

void nb_buf_add_utf8(struct nb_buf *buf, uint32_t cp) {
    unsigned char b[4];
    size_t n;
    if (cp < 0x80) {
        b[0] = (unsigned char)cp;
        n = 1;
    } else if (cp < 0x800) {
        b[0] = (unsigned char)(0xC0 | cp >> 6);
        b[1] = (unsigned char)(0x80 | (cp & 0x3F));
        n = 2;
    } else if (cp < 0x10000) {
        b[0] = (unsigned char)(0xE0 | cp >> 12);
        b[1] = (unsigned char)(0x80 | (cp >> 6 & 0x3F));
        b[2] = (unsigned char)(0x80 | (cp & 0x3F));
        n = 3;
    } else {
        b[0] = (unsigned char)(0xF0 | cp >> 18);
        b[1] = (unsigned char)(0x80 | (cp >> 12 & 0x3F));
        b[2] = (unsigned char)(0x80 | (cp >> 6 & 0x3F));
        b[3] = (unsigned char)(0x80 | (cp & 0x3F));
        n = 4;
    }
    nb_buf_add(buf, b, n);
}

void nb_buf_add_json_string(struct nb_buf *buf, const char *text, size_t n) {
    static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
    nb_buf_add(buf, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        const char *known = text[i] ? strchr(from, text[i]) : NULL;
        if (known)
            nb_buf_printf(buf, "\\%c", to[known - from]);
        else if ((unsigned char)text[i] < 0x20)
            nb_buf_printf(buf, "\\u%04x", (unsigned char)text[i]);
        else
            nb_buf_add(buf, text + i, 1);
    }
    nb_buf_add(buf, "\"", 1);
}

void nb_buf_clear(struct nb_buf *buf) {
    buf->len = 0;
    buf->failed = false;
    if (buf->data)
        buf->data[0] = 0;
}

void nb_buf_free(struct nb_buf *buf) {
    free(buf->data);
    *buf = (struct nb_buf){0};
}
