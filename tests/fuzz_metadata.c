/* Any bytes as a METADATA with a RECORD after the first line of "---": what is installed is then
 * audited. */
#include "fuzz.h"

#include "doctor/python.h"
#include "doctor/stack.h"

#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[64];

static void put(const char *name, const uint8_t *data, size_t n) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", root, name);
    FILE *f = fopen(path, "wb");
    REQUIRE(f && fwrite(data, 1, n, f) == n && fclose(f) == 0);
}

static void clean(void) {
    static const char *const names[] = {"x-1.dist-info/METADATA", "x-1.dist-info/RECORD",
                                        "x-1.dist-info", "x.py", ""};
    char path[256];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", root, names[i]);
        remove(path);
    }
}

static void begin(void) {
    char path[256];
    if (root[0])
        return;
    snprintf(root, sizeof root, "/tmp/nibble-fuzz-XXXXXX");
    REQUIRE(mkdtemp(root));
    snprintf(path, sizeof path, "%s/x-1.dist-info", root);
    REQUIRE(mkdir(path, 0777) == 0);
    put("x.py", (const uint8_t *)"a = 1\n", 6);
    atexit(clean);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *cut = size ? memmem(data, size, "---\n", 4) : NULL;
    size_t n = cut ? (size_t)(cut - data) : size;
    struct nb_stack stack;
    struct nb_findings findings;
    struct nb_error err;
    begin();
    put("x-1.dist-info/METADATA", data, n);
    put("x-1.dist-info/RECORD", cut ? cut + 4 : data, cut ? size - n - 4 : 0);
    nb_findings_init(&findings);
    if (nb_stack_open(root, &stack, &err) == NB_OK) {
        REQUIRE(stack.n_dists <= 1 && stack.n_files == 3);
        nb_stack_requirements(&stack, &findings);
        nb_stack_files(&stack, &findings);
        nb_findings_sort(&findings);
        json_t *o = nb_findings_json(&findings);
        REQUIRE(o); /* so all of it is UTF-8 */
        json_decref(o);
    }
    nb_stack_free(&stack);
    nb_findings_free(&findings);
    return 0;
}
