/* Finding checkpoints in the Hugging Face cache. */
#include "folder.h"
#include "test.h"

#include "model/cache.h"

#include <limits.h>
#include <sys/stat.h>

static char root[256];

/* Makes root/path and the folders above it; with text it is a file. */
static void make(const char *path, const char *text) {
    if (text)
        folder_write(root, path, text, strlen(text));
    else
        mkdir(folder_path(root, path), 0777);
}

static void set(const char *variable, const char *below) {
    char value[PATH_MAX];
    snprintf(value, sizeof value, "%s/%s", root, below);
    setenv(variable, value, 1);
}

static void clear_environment(void) {
    static const char *const names[] = {"HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME"};
    for (size_t i = 0; i < 4; i++)
        unsetenv(names[i]);
}

/* That `name` is found in root/where; where NULL: that it is not found. */
static void expect(const char *name, const char *where) {
    char out[PATH_MAX], want[PATH_MAX];
    struct nb_error err;
    enum nb_status s = nb_checkpoint_find(name, out, sizeof out, &err);
    if (!where) {
        assert_int_equal(s, NB_ERR_IO);
        return;
    }
    assert_ok(s, err);
    snprintf(want, sizeof want, "%s/%s", root, where);
    assert_string_equal(out, want);
}

static int make_caches(void **state) {
    (void)state;
    snprintf(root, sizeof root, "/tmp/nibble-cache-XXXXXX");
    if (!mkdtemp(root))
        return -1;
    make("a/models--org--one/refs/main", "0123abcd\n");
    make("a/models--org--one/refs/v2", "4567abcd");
    make("a/models--org--one/snapshots/0123abcd", NULL);
    make("a/models--org--one/snapshots/4567abcd", NULL);
    make("home/hub/models--org--two/refs/main", "beef");
    make("home/hub/models--org--two/snapshots/beef", NULL);
    make("home/models--org--three/snapshots/f00d", NULL);
    make("user/.cache/huggingface/hub/models--org--four/refs/main", "dead");
    make("user/.cache/huggingface/hub/models--org--four/snapshots/dead", NULL);
    make("a/models--org--two-snapshots/snapshots/1", NULL);
    make("a/models--org--two-snapshots/snapshots/2", NULL);
    make("a/models--org--lost/refs/main", "9999");
    make("a/models--org--lost/snapshots/8888", NULL);
    make("a/models--org--evil/refs/main", "../../../user");
    make("plain/config.json", "{}");
    return 0;
}

static int remove_caches(void **state) {
    (void)state;
    return folder_remove(root);
}

static void caches_in_order(void **state) {
    (void)state;
    clear_environment();
    expect("org/one", NULL);
    set("HF_HUB_CACHE", "a");
    expect("org/one", "a/models--org--one/snapshots/0123abcd");
    expect("org/two", NULL);
    set("HF_HOME", "home");
    expect("org/two", "home/hub/models--org--two/snapshots/beef");
    expect("org/three", "home/models--org--three/snapshots/f00d");
    expect("org/four", NULL);
    set("HOME", "user");
    expect("org/four", "user/.cache/huggingface/hub/models--org--four/snapshots/dead");
    unsetenv("HOME");
    set("XDG_CACHE_HOME", "user/.cache");
    expect("org/four", "user/.cache/huggingface/hub/models--org--four/snapshots/dead");
}

static void revisions(void **state) {
    (void)state;
    clear_environment();
    set("HF_HUB_CACHE", "a");
    expect("org/one@v2", "a/models--org--one/snapshots/4567abcd");
    expect("org/one@4567", "a/models--org--one/snapshots/4567abcd");
    expect("org/one@4567abcd", "a/models--org--one/snapshots/4567abcd");
    expect("org/one@89", NULL);
    expect("org/two-snapshots", NULL);
    expect("org/two-snapshots@2", "a/models--org--two-snapshots/snapshots/2");
    expect("org/lost", NULL);
}

static void names_that_are_none(void **state) {
    (void)state;
    clear_environment();
    set("HF_HUB_CACHE", "a");
    static const char *const names[] = {
        "",         "one",        "org/",         "/one",     "org/one/x",      "../user", "org/..",

        "org/one@", "org/one@..", "org/one@/etc", "org/o ne", "org/one@a/../b", "org/evil"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        expect(names[i], NULL);
    char long_name[2000] = "org/";
    memset(long_name + 4, 'x', sizeof long_name - 5);
    expect(long_name, NULL);
}

static void folders_and_messages(void **state) {
    (void)state;
    clear_environment();
    char path[PATH_MAX], out[PATH_MAX];
    struct nb_error err;
    snprintf(path, sizeof path, "%s/plain", root);
    expect(path, "plain");
    assert_int_equal(nb_checkpoint_find(path, out, 5, &err), NB_ERR_ARGUMENT);
    snprintf(path, sizeof path, "%s/plain/config.json", root);
    assert_int_equal(nb_checkpoint_find(path, out, sizeof out, &err), NB_ERR_IO);
    assert_non_null(strstr(err.message, "is a file"));
    set("HF_HOME", "home");
    assert_int_equal(nb_checkpoint_find("org/none", out, sizeof out, &err), NB_ERR_IO);
    assert_non_null(strstr(err.message, "/home/hub, "));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(caches_in_order),
        cmocka_unit_test(revisions),
        cmocka_unit_test(names_that_are_none),
        cmocka_unit_test(folders_and_messages),
    };
    return cmocka_run_group_tests(tests, make_caches, remove_caches);
}
