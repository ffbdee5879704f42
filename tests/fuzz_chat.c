/* Any bytes as a chat template, and as the tokenizer_config.json that has one: an error, or a
 * format; a normal form that is the same once more. */
#include "fuzz.h"

#include "model/chat.h"
#include "model/chat_template.h"

#include <string.h>

static void check_template(const char *text, size_t size) {
    const struct nb_chat_format *format = NULL;
    struct nb_buf form = {0}, again = {0};
    struct nb_error err;
    if (nb_chat_template_form(text, size, &form, &err) == NB_OK) {
        REQUIRE(nb_chat_template_form(text, size, &again, &err) == NB_OK);
        REQUIRE(form.len > 0 && form.len == again.len);
        REQUIRE(memcmp(form.data, again.data, form.len) == 0);
    } else {
        REQUIRE(nb_chat_recognize(text, size, &format, &err) == NB_ERR_UNSUPPORTED);
    }
    if (nb_chat_recognize(text, size, &format, &err) == NB_OK)
        REQUIRE(nb_chat_format_find(nb_chat_format_name(format)) == format);
    nb_buf_free(&form);
    nb_buf_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct nb_chat chat;
    struct nb_error err;
    check_template((const char *)data, size);
    const char *folder = fuzz_folder("tokenizer_config.json", data, size);
    if (nb_chat_open(folder, &chat, &err) == NB_OK)
        REQUIRE(chat.format && memchr(chat.bos, 0, sizeof chat.bos) &&
                memchr(chat.eos, 0, sizeof chat.eos) && strlen(chat.date) == 11);
    else
        REQUIRE(err.code != NB_OK && err.message[0]);
    return 0;
}
