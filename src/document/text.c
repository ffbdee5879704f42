#include "document/document.h"

#include "base/file.h"
#include "base/utf8.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

static const size_t MAX_TEXT_BYTES = (size_t)64 << 20;

#define OCR "have its text recognized, with tesseract for example"
#define OFFICE                                                                                     \
    "save it as text, for example with: soffice --headless --convert-to "                          \
    "'txt:Text (encoded):UTF8' FILE"
#define UTF_16 "convert it with: iconv -f UTF-16 -t UTF-8"

/* What a file that is no text begins with, and what to call and do with it. */
static const struct {
    const char *bytes;
    size_t n;
    const char *what, *fix;
} formats[] = {
    {"%PDF-", 5, "a PDF", "take its text with: pdftotext -layout FILE"},
    {"\x89PNG", 4, "a PNG image", OCR},
    {"\xFF\xD8\xFF", 3, "a JPEG image", OCR},
    {"GIF8", 4, "a GIF image", OCR},
    {"II*\0", 4, "a TIFF image", OCR},
    {"MM\0*", 4, "a TIFF image", OCR},
    {"PK\x03\x04", 4, "a ZIP archive or an office document", OFFICE},
    {"\xD0\xCF\x11\xE0", 4, "an old office document", OFFICE},
    {"\x1F\x8B", 2, "gzip data", "unpack it with: gunzip FILE"},
    {"\xFF\xFE", 2, "UTF-16 text", UTF_16},
    {"\xFE\xFF", 2, "UTF-16 text", UTF_16},
};

static enum nb_status check_text(const char *text, size_t n, const char *name,
                                 struct nb_error *err) {
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (n >= formats[i].n && memcmp(text, formats[i].bytes, formats[i].n) == 0)
            return nb_fail(err, NB_ERR_FORMAT,
                           "%s: is %s; this version reads plain text in UTF-8: %s", name,
                           formats[i].what, formats[i].fix);
    }
    const char *nul = n ? memchr(text, 0, n) : NULL;
    if (nul)
        return nb_fail(err, NB_ERR_FORMAT, "%s: byte %zu is NUL: a binary file, expected text",
                       name, (size_t)(nul - text));
    size_t bad;
    if (!nb_utf8_valid(text, n, &bad))
        return nb_fail(err, NB_ERR_FORMAT,
                       "%s: byte %zu, 0x%02X, is not UTF-8; if it is text in another encoding, "
                       "convert it, for example with: iconv -f WINDOWS-1252 -t UTF-8",
                       name, bad, (unsigned char)text[bad]);
    return NB_OK;
}

enum kind { KEEP, DROP, SPACE, TAB, LINE_END };

static enum kind kind_of(uint32_t c) {
    switch (c) {
    case '\n':
    case '\r':
    case '\f':
    case '\v':
    case 0x85:
    case 0x2028:
    case 0x2029:
        return LINE_END;
    case '\t':
        return TAB;
    case ' ':
    case 0xA0:
    case 0x1680:
    case 0x202F:
    case 0x205F:
    case 0x3000:
        return SPACE;
    case 0xAD:
    case 0x200B:
    case 0x200C:
    case 0x200D:
    case 0x2060:
    case 0xFEFF:
        return DROP;
    default:
        if (c >= 0x2000 && c <= 0x200A)
            return SPACE;
        return c < 0x20 || (c >= 0x7F && c < 0xA0) ? DROP : KEEP;
    }
}

enum nb_status nb_text_normalize(const char *text, size_t n, const char *name, struct nb_buf *out,
                                 struct nb_error *err) {
    enum nb_status s = check_text(text, n, name, err);
    if (s != NB_OK)
        return s;
    size_t start = out->len, spaces = 0;
    bool line_ended = false; /* since the last character that was kept */
    for (size_t i = 0; i < n;) {
        uint32_t c;
        size_t len = nb_utf8_decode(text + i, n - i, &c);
        switch (kind_of(c)) {
        case LINE_END:
            line_ended = true;
            break;
        case TAB:
            spaces += 2;
            break;
        case SPACE:
            spaces++;
            break;
        case DROP:
            break;
        case KEEP:
            if (line_ended && out->len > start)
                nb_buf_add(out, "\n", 1);
            else if (!line_ended && out->len > start && spaces)
                nb_buf_add(out, "  ", spaces > 1 ? 2 : 1);
            nb_buf_add(out, text + i, len);
            line_ended = false;
            spaces = 0;
            break;
        }
        i += len;
    }
    if (out->failed)
        return nb_fail_memory(err, n, name);
    return NB_OK;
}

enum nb_status nb_document_read(const char *path, struct nb_buf *out, struct nb_error *err) {
    const char *name = strcmp(path, "-") == 0 ? "standard input" : path;
    struct nb_buf raw = {0};
    enum nb_status s = nb_read_file(path, MAX_TEXT_BYTES, &raw, err);
    size_t before = out->len;
    if (s == NB_OK)
        s = nb_text_normalize(raw.data ? raw.data : "", raw.len, name, out, err);
    if (s == NB_OK && out->len == before)
        s = nb_fail(err, NB_ERR_FORMAT, "%s: %s", name,
                    raw.len ? "holds nothing but spaces" : "is empty");
    nb_buf_free(&raw);
    return s;
}
