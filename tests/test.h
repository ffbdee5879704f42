/* What every test includes: cmocka with the headers that it needs before it, and paths. */
#ifndef NB_TEST_H
#define NB_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "nibble/nibble.h"

/* "TEST_ROOT/name", in one of a few static buffers: good until the eighth call after. The root is
 * the source tree, from the environment variable NB_TEST_ROOT or else the current folder. */
static inline const char *test_path(const char *name) {
    static char paths[8][1024];
    static int next;
    char *path = paths[next++ % 8];
    const char *root = getenv("NB_TEST_ROOT");
    snprintf(path, sizeof paths[0], "%s/%s", root ? root : ".", name);
    return path;
}

/* Fails with the message of an error. */
#define assert_ok(status, err)                                                                     \
    do {                                                                                           \
        if ((status) != NB_OK)                                                                     \
            fail_msg("status %d: %s", (int)(status), (err).message);                               \
    } while (0)

#endif
