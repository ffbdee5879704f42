/* Any bytes as what says what is installed, parts with lines of "---" between them: METADATA,
 * RECORD, an egg's requires.txt, the finder of an editable installation, a list of requirements.
 * What is installed is then audited, and the list judged. */
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

static const char *const parts[] = {"x-1.dist-info/METADATA", "x-1.dist-info/RECORD",
                                    "y.egg-info/requires.txt", "finder_editable.py",
                                    "requirements.txt"};
enum { PARTS = sizeof parts / sizeof *parts };

static void clean(void) {
    static const char *const names[] = {"y.egg-info/PKG-INFO",
                                        "y.egg-info/top_level.txt",
                                        "e.pth",
                                        "x.py",
                                        "x-1.dist-info",
                                        "y.egg-info",
                                        ""};
    char path[256];
    for (size_t i = 0; i < PARTS + sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", root, i < PARTS ? parts[i] : names[i - PARTS]);
        remove(path);
    }
}

static void put_text(const char *name, const char *text) {
    put(name, (const uint8_t *)text, strlen(text));
}

static void begin(void) {
    char path[256];
    if (root[0])
        return;
    snprintf(root, sizeof root, "/tmp/nibble-fuzz-XXXXXX");
    REQUIRE(mkdtemp(root));
    snprintf(path, sizeof path, "%s/x-1.dist-info", root);
    REQUIRE(mkdir(path, 0777) == 0);
    snprintf(path, sizeof path, "%s/y.egg-info", root);
    REQUIRE(mkdir(path, 0777) == 0);
    put_text("x.py", "a = 1\nimport x.part, y\nfrom x import lost\n");
    put_text("y.egg-info/PKG-INFO", "Name: y\nVersion: 1\n");
    put_text("y.egg-info/top_level.txt", "x\n");
    put_text("e.pth", "import finder_editable\n");
    atexit(clean);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct nb_stack stack;
    struct nb_findings findings;
    struct nb_gpu_table table;
    struct nb_pool *pool;
    struct nb_error err;
    char list[128];
    begin();
    for (size_t i = 0; i < PARTS; i++) {
        const uint8_t *cut = size ? memmem(data, size, "---\n", 4) : NULL;
        size_t n = cut ? (size_t)(cut - data) : size;
        put(parts[i], data, n);
        data = cut ? cut + 4 : data;
        size = cut ? size - n - 4 : 0;
    }
    nb_findings_init(&findings);
    REQUIRE(nb_pool_create(1, &pool, &err) == NB_OK);
    REQUIRE(nb_gpu_table_open(&table, &err) == NB_OK);
    struct nb_target target = {.name = "RTX 5090", .capability = 120, .driver_cuda = 12080};
    struct nb_python_options options = {.threads = 1};
    if (nb_stack_open(root, &stack, &err) == NB_OK) {
        REQUIRE(stack.n_dists <= 2 && stack.n_files == 9);
        nb_stack_requirements(&stack, &findings);
        REQUIRE(nb_stack_read(&stack, pool, false, &err) == NB_OK);
        nb_stack_imports(&stack, &findings);
        nb_stack_files(&stack, &findings);
    }
    nb_stack_free(&stack);
    snprintf(list, sizeof list, "%s/requirements.txt", root);
    nb_doctor_requirements(list, &options, &table, &target, &findings, &err);
    nb_findings_sort(&findings);
    json_t *o = nb_findings_json(&findings);
    REQUIRE(o); /* so all of it is UTF-8 */
    json_decref(o);
    nb_findings_free(&findings);
    nb_gpu_table_free(&table);
    nb_pool_free(pool);
    return 0;
}
