/* Who may ask, and how much: API keys from a file.
 *
 * A line a key: a name for the logs, the key, and limits, as in
 *
 *     bookkeeping  sk-3f9c…  requests_per_minute=600 max_running=8
 *
 * Empty lines and those that begin with # are skipped.
 */
#ifndef NB_SERVICE_AUTH_H
#define NB_SERVICE_AUTH_H

#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

struct nb_auth;

enum nb_access {
    NB_ACCESS_OK,
    NB_ACCESS_NO_KEY,   /* 401 */
    NB_ACCESS_BAD_KEY,  /* 403 */
    NB_ACCESS_TOO_MANY, /* 429: the key's own limit */
};

/* path NULL: everybody may ask. On failure *out is NULL. */
enum nb_status nb_auth_open(const char *path, struct nb_auth **out, struct nb_error *err);
void nb_auth_close(struct nb_auth *auth); /* NULL is allowed */

/* Reads the file again. On failure the keys stay as they were. What runs, goes on. */
enum nb_status nb_auth_reload(struct nb_auth *auth, struct nb_error *err);

/* Looks at a key (NULL: none was given). After NB_ACCESS_OK the caller ends with
 * nb_auth_leave(*client). *client is a number for the key, 0 where nobody needs one; name[64] is
 * its name. After NB_ACCESS_TOO_MANY, *retry_after_s says when to try again. Any thread; the time
 * it takes does not tell how much of a key is right. */
enum nb_access nb_auth_enter(struct nb_auth *auth, const char *key, uint64_t *client, char name[64],
                             unsigned *retry_after_s);
void nb_auth_leave(struct nb_auth *auth, uint64_t client);

/* Whether there is such a key, and nothing more: NB_ACCESS_OK, NB_ACCESS_NO_KEY or
 * NB_ACCESS_BAD_KEY. Likewise. */
enum nb_access nb_auth_look(struct nb_auth *auth, const char *key);

#endif
