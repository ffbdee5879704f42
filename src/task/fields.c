#include "task/fields.h"

#include "base/buf.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

/* Adds UTF-8 without control characters. */
static void add_clean(struct nb_buf *out, const char *text, size_t n) {
    for (size_t i = 0; i < n;) {
        uint32_t c = 0;
        size_t len = nb_utf8_decode(text + i, n - i, &c);
        if (!len)
            nb_buf_add_utf8(out, 0xFFFD);
        else if (c >= 0x20 && (c < 0x7F || c >= 0xA0))
            nb_buf_add(out, text + i, len);
        i += len ? len : 1;
    }
}

enum nb_status nb_field_clean(const char *text, size_t n, char **out, struct nb_error *err) {
    struct nb_buf clean = {0};
    *out = NULL;
    add_clean(&clean, text, n);
    size_t begin = 0, end = clean.len;
    while (begin < end && clean.data[begin] == ' ')
        begin++;
    while (end > begin && clean.data[end - 1] == ' ')
        end--;
    if (!clean.failed)
        *out = strndup(clean.data ? clean.data + begin : "", end - begin);
    nb_buf_free(&clean);
    return *out ? NB_OK : nb_fail_memory(err, n, "a value");
}

bool nb_field_is_text(const char *text) {
    return *text != 0;
}

static bool digits(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
    }
    return true;
}

bool nb_field_is_date(const char *text) {
    if (strlen(text) != 10 || text[4] != '-' || text[7] != '-' || !digits(text, 4) ||
        !digits(text + 5, 2) || !digits(text + 8, 2))
        return false;
    int year = atoi(text), month = atoi(text + 5), day = atoi(text + 8);
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    return month >= 1 && month <= 12 && day >= 1 && day <= days[month - 1] + (leap && month == 2);
}

bool nb_field_is_currency(const char *text) {
    return strlen(text) == 3 && strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 3;
}

bool nb_field_is_amount(const char *text) {
    text += *text == '-';
    size_t whole = strspn(text, "0123456789");
    if (whole == 0 || (whole > 1 && *text == '0'))
        return false;
    if (text[whole] == 0)
        return true;
    size_t part = text[whole] == '.' ? strspn(text + whole + 1, "0123456789") : 0;
    return part > 0 && text[whole + 1 + part] == 0;
}
