/* Any bytes as a document: an error, or a normal form that is its own normal form. */
#include "fuzz.h"

#include "base/utf8.h"
#include "document/document.h"

#include <string.h>

/* Spaces go, so that a text may begin, in its normal form, like a file that is no text. */
static bool looks_like_a_file(const struct nb_buf *text) {
    return strncmp(text->data, "%PDF-", 5) == 0 || strncmp(text->data, "GIF8", 4) == 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct nb_buf once = {0}, twice = {0};
    struct nb_error err;
    enum nb_status s = nb_text_normalize((const char *)data, size, "input", &once, &err);
    if (s != NB_OK) {
        REQUIRE(s == NB_ERR_FORMAT && err.code == s && strstr(err.message, "input: "));
        REQUIRE(once.len == 0);
    } else if (once.len) {
        REQUIRE(nb_utf8_valid(once.data, once.len, NULL) && strlen(once.data) == once.len);
        REQUIRE(once.len <= 2 * size); /* a tab is two spaces */
        s = nb_text_normalize(once.data, once.len, "normal form", &twice, &err);
        REQUIRE(s == NB_OK || looks_like_a_file(&once));
        REQUIRE(s != NB_OK || (twice.len == once.len && !memcmp(twice.data, once.data, once.len)));
    }
    nb_buf_free(&once);
    nb_buf_free(&twice);
    return 0;
}
