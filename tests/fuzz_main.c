/* Runs a fuzz target over the files of a folder, its corpus: fuzz_NAME FOLDER. TAP. */
#include "fuzz.h"

#include "base/file.h"

#include <dirent.h>

int main(int argc, char **argv) {
    DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
    if (!dir) {
        fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
        return 2;
    }
    int n = 0;
    for (struct dirent *e; (e = readdir(dir));) {
        char path[4096];
        struct nb_buf input = {0};
        struct nb_error err;
        if (e->d_name[0] == '.' || !nb_path_join(path, sizeof path, argv[1], e->d_name))
            continue;
        if (nb_read_file(path, (size_t)1 << 30, &input, &err) != NB_OK) {
            printf("not ok %d - %s # %s\n", ++n, e->d_name, err.message);
        } else {
            /* An exact copy: reading past its end is then seen by the address sanitizer. */
            uint8_t *copy = malloc(input.len ? input.len : 1);
            REQUIRE(copy);
            for (size_t i = 0; i < input.len; i++)
                copy[i] = (uint8_t)input.data[i];
            LLVMFuzzerTestOneInput(copy, input.len);
            free(copy);
            printf("ok %d - %s\n", ++n, e->d_name);
            fflush(stdout);
        }
        nb_buf_free(&input);
    }
    closedir(dir);
    printf("1..%d\n", n);
    return n ? 0 : 1;
}
