/* What the fuzz targets share. Each is one LLVMFuzzerTestOneInput, built for libFuzzer with
 * -Dfuzz=enabled, and always as a plain test that runs over the files of tests/corpus/NAME. */
#ifndef NB_TEST_FUZZ_H
#define NB_TEST_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A folder in which `name` holds data[0..size), until the next call; one name a program. It goes
 * when the program ends. */
const char *fuzz_folder(const char *name, const uint8_t *data, size_t size);

/* Another file in that folder. */
void fuzz_add_file(const char *name, const char *text);

/* What must hold of any input. */
#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
