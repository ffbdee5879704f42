/* nibble: 4-bit mixture-of-experts models served from C. The public API.
 *
 * Every function that can fail returns an nb_status and, where `err` is not NULL, writes a message
 * that says what was being done, what was found, what was expected and, if it is known, what to do.
 * Nothing here prints or exits. Strings are UTF-8 and end in NUL unless a length goes with them.
 */
#ifndef NIBBLE_H
#define NIBBLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum nb_status {
    NB_OK = 0,
    NB_ERR_ARGUMENT,    /* the caller asked for something that makes no sense */
    NB_ERR_IO,          /* a file could not be opened, mapped or read */
    NB_ERR_FORMAT,      /* bytes from outside are not what their format says */
    NB_ERR_UNSUPPORTED, /* well formed, but nibble cannot run it */
    NB_ERR_MEMORY,      /* memory, on the host or a device, ran out */
    NB_ERR_LIMIT,       /* larger than a limit: the context, a file size */
    NB_ERR_STOPPED,     /* the caller's callback asked to stop */
    NB_ERR_INTERNAL,    /* a defect of nibble */
};

enum { NB_ERROR_MESSAGE_BYTES = 1024 };

struct nb_error {
    enum nb_status code;
    char message[NB_ERROR_MESSAGE_BYTES];
};

/* "0.1.0" */
const char *nb_version(void);

#ifdef __cplusplus
}
#endif

#endif
