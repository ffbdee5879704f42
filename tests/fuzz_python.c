/* Any bytes as Python source: names and imports that are in order, in time proportional to the
 * input. */
#include "fuzz.h"

#include "doctor/pysource.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct nb_arena arena = {0};
    struct nb_py_module m;
    char version[64];
    REQUIRE(nb_py_read((const char *)data, size, &arena, &m));
    for (size_t i = 1; i < m.n_names; i++)
        REQUIRE(m.names[i - 1] < m.names[i]);
    REQUIRE(m.n_names <= size + 1 && m.n_imports <= size);
    for (size_t i = 0; i < m.n_imports; i++) {
        REQUIRE(m.imports[i].module && strlen(m.imports[i].module) <= size);
        REQUIRE(m.imports[i].line >= 1 && m.imports[i].level >= 0);
    }
    if (nb_py_string((const char *)data, size, "__version__", version, sizeof version))
        REQUIRE(strlen(version) < sizeof version);
    nb_arena_free(&arena);
    return 0;
}
