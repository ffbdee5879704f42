/* Writes a model that says PIECE… (see scripted.h) behind a chat template, a file or "" for none,
 * and prints its folder, which the caller removes. */
#include "test.h"

#include "scripted.h"

#include "base/file.h"

static int n_pieces;
static char **arguments;

static void write_model(void **state) {
    (void)state;
    struct nb_buf template = {0};
    struct nb_error err;
    struct checkpoint c;
    if (arguments[1][0])
        assert_ok(nb_read_file(arguments[1], 1 << 20, &template, &err), err);
    scripted_make(&c, (const char *const *)arguments + 2, (size_t)n_pieces, template.data);
    puts(c.folder.path);
    nb_buf_free(&template);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: scripted_model TEMPLATE PIECE…\n");
        return 2;
    }
    n_pieces = argc - 2;
    arguments = argv;
    const struct CMUnitTest all[] = {cmocka_unit_test(write_model)};
    /* What cmocka says goes to standard error in its usual form. */
    return cmocka_run_group_tests(all, NULL, NULL);
}
