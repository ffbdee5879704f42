/* Any bytes as an ELF file, an archive or a fatbin: an error, or lists that are in order. */
#include "fuzz.h"

#include "doctor/fatbin.h"

#include <string.h>

static enum nb_status look(void *context, const struct nb_elf *elf, const char *name,
                           struct nb_error *err) {
    (void)context;
    struct nb_arena arena = {0};
    struct nb_elf_dynamic d;
    struct nb_elf_symbol *symbols;
    size_t n;
    if (nb_elf_dynamic(elf, name, &arena, &d, err) == NB_OK) {
        for (size_t i = 0; i < d.n_needed; i++)
            REQUIRE(strlen(d.needed[i]) < elf->size);
        for (int defined = 0; defined < 2; defined++) {
            if (nb_elf_symbols(elf, &d, defined, name, &arena, &symbols, &n, err) != NB_OK)
                continue;
            for (size_t i = 0; i < n; i++)
                REQUIRE(strlen(symbols[i].name) < elf->size);
        }
    }
    nb_arena_free(&arena);
    return NB_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct nb_bytes bytes = nb_bytes_of(data, size);
    struct nb_fatbin_list list;
    struct nb_error err;
    char text[256];
    enum nb_status s = nb_fatbin_read(&bytes, "input", &list, &err);
    REQUIRE(s == NB_OK || (err.code == s && strncmp(err.message, "input", 5) == 0));
    REQUIRE(list.n <= size / 64);
    nb_fatbin_describe(&list, text, sizeof text);
    for (int capability = 50; capability <= 130; capability += 5) {
        struct nb_judgement j = nb_fatbin_judge(&list, capability, 12040);
        REQUIRE(j.native + j.compiled <= j.fatbins && j.fatbins <= list.n_fatbins);
        REQUIRE((j.verdict == NB_NO_CODE) == (list.n == 0));
    }
    nb_fatbin_free(&list);
    nb_elf_each(&bytes, "input", look, NULL, &err);
    return 0;
}
