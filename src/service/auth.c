#include "service/auth.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum {
    MAX_FILE_BYTES = 1 << 20,
    MAX_KEYS = 4096,
    LEAST_KEY_BYTES = 8,
    MAX_KEY_BYTES = 255,
    BURST_S = 10, /* a limit for a minute may be used up for this many seconds at once */
};

struct key {
    char name[64], key[MAX_KEY_BYTES + 1];
    uint64_t client; /* from the name, so that it stays when the file is read again */
    double per_minute;
    unsigned max_running; /* 0: no limit */
    unsigned running;
    double tokens; /* of a bucket that per_minute fills */
    int64_t filled_us;
};

struct nb_auth {
    char *path; /* NULL: everybody */
    pthread_mutex_t lock;
    struct key *keys;
    size_t n;
};

/* What a key's bucket holds when it is full: a request at least, however few a minute may have. */
static double burst_of(const struct key *key) {
    double n = key->per_minute * BURST_S / 60;
    return n < 1 ? 1 : n;
}

/* FNV-1a, never 0. */
static uint64_t client_of(const char *name) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return h ? h : 1;
}

static enum nb_status read_limit(const char *word, const char *path, int line, struct key *out,
                                 struct nb_error *err) {
    char *end;
    const char *value = strchr(word, '=');
    errno = 0;
    long n = value ? strtol(value + 1, &end, 10) : -1;
    bool fine = value && end != value + 1 && !*end && !errno && n > 0 && n <= 1000000;
    size_t length = value ? (size_t)(value - word) : 0;
    if (fine && length == 19 && memcmp(word, "requests_per_minute", 19) == 0) {
        out->per_minute = (double)n;
        return NB_OK;
    }
    if (fine && length == 11 && memcmp(word, "max_running", 11) == 0) {
        out->max_running = (unsigned)n;
        return NB_OK;
    }
    return nb_fail(err, NB_ERR_FORMAT,
                   "%s:%d: \"%.40s\", expected requests_per_minute=N or max_running=N", path, line,
                   word);
}

static enum nb_status read_line(char *text, const char *path, int line, struct key *out,
                                struct nb_error *err) {
    char *rest = text;
    const char *name = strtok_r(rest, " \t\r", &rest), *key = strtok_r(rest, " \t\r", &rest), *word;
    *out = (struct key){0};
    if (!key)
        return nb_fail(err, NB_ERR_FORMAT,
                       "%s:%d: one word, expected NAME KEY [requests_per_minute=N] [max_running=N]",
                       path, line);
    if (strlen(name) >= sizeof out->name)
        return nb_fail(err, NB_ERR_FORMAT, "%s:%d: the name is longer than %zu bytes", path, line,
                       sizeof out->name - 1);
    size_t n = strlen(key); /* the key itself is in no message */
    if (n < LEAST_KEY_BYTES || n > MAX_KEY_BYTES)
        return nb_fail(err, NB_ERR_FORMAT,
                       "%s:%d: the key of %.60s is of length %zu, expected %d to %d characters",
                       path, line, name, n, LEAST_KEY_BYTES, MAX_KEY_BYTES);
    strcpy(out->name, name);
    strcpy(out->key, key);
    out->client = client_of(name);
    enum nb_status s = NB_OK;
    while (s == NB_OK && (word = strtok_r(rest, " \t\r", &rest)))
        s = read_limit(word, path, line, out, err);
    return s;
}

/* Keys that others may read are no secret; a mounted one often cannot be otherwise. */
static void warn_of_mode(const char *path) {
    struct stat st;
    if (stat(path, &st) == 0 && S_ISREG(st.st_mode) && (st.st_mode & (S_IRWXO | S_IWGRP)))
        nb_log(
            NB_LOG_WARN,
            "event=keys %s: others may read or change it (mode %04o); chmod 640, its group being "
            "the server's",
            path, (unsigned)(st.st_mode & 07777));
}

static enum nb_status read_keys(const char *path, struct key **out, size_t *n,
                                struct nb_error *err) {
    struct nb_buf text = {0};
    *out = NULL;
    *n = 0;
    enum nb_status s = nb_read_file(path, MAX_FILE_BYTES, &text, err);
    char *rest = text.data, *one;
    for (int line = 1; s == NB_OK && (one = strsep(&rest, "\n")); line++) {
        if (one[strspn(one, " \t\r")] == 0 || one[0] == '#')
            continue;
        if (*n == MAX_KEYS) {
            s = nb_fail(err, NB_ERR_LIMIT, "%s: more than %d keys", path, MAX_KEYS);
            break;
        }
        struct key *grown = realloc(*out, (*n + 1) * sizeof *grown);
        if (!grown) {
            s = nb_fail_memory(err, (*n + 1) * sizeof *grown, path);
            break;
        }
        *out = grown;
        s = read_line(one, path, line, &grown[*n], err);
        for (size_t i = 0; s == NB_OK && i < *n; i++) {
            if (strcmp(grown[i].name, grown[*n].name) == 0)
                s = nb_fail(err, NB_ERR_FORMAT, "%s:%d: the name %s is there twice", path, line,
                            grown[i].name);
            else if (strcmp(grown[i].key, grown[*n].key) == 0)
                s = nb_fail(err, NB_ERR_FORMAT, "%s:%d: %s has the key of %s", path, line,
                            grown[*n].name, grown[i].name);
        }
        *n += s == NB_OK;
    }
    if (s == NB_OK)
        warn_of_mode(path);
    if (text.data)
        explicit_bzero(text.data, text.cap);
    nb_buf_free(&text);
    if (s == NB_OK && *n == 0)
        s = nb_fail(err, NB_ERR_FORMAT, "%s: holds no key, so that nobody could ask", path);
    if (s != NB_OK) {
        free(*out);
        *out = NULL;
    }
    return s;
}

enum nb_status nb_auth_open(const char *path, struct nb_auth **out, struct nb_error *err) {
    *out = NULL;
    struct nb_auth *auth = calloc(1, sizeof *auth);
    if (!auth)
        return nb_fail_memory(err, sizeof *auth, "the keys");
    pthread_mutex_init(&auth->lock, NULL);
    enum nb_status s = NB_OK;
    if (path) {
        auth->path = strdup(path);
        s = auth->path ? nb_auth_reload(auth, err) : nb_fail_memory(err, strlen(path), "the keys");
    }
    if (s != NB_OK) {
        nb_auth_close(auth);
        return s;
    }
    *out = auth;
    return NB_OK;
}

void nb_auth_close(struct nb_auth *auth) {
    if (!auth)
        return;
    if (auth->keys)
        explicit_bzero(auth->keys, auth->n * sizeof *auth->keys);
    free(auth->keys);
    free(auth->path);
    pthread_mutex_destroy(&auth->lock);
    free(auth);
}

enum nb_status nb_auth_reload(struct nb_auth *auth, struct nb_error *err) {
    if (!auth->path)
        return NB_OK;
    struct key *keys;
    size_t n;
    enum nb_status s = read_keys(auth->path, &keys, &n, err);
    if (s != NB_OK)
        return s;
    pthread_mutex_lock(&auth->lock);
    for (size_t i = 0; i < n; i++) {
        keys[i].tokens = burst_of(&keys[i]);
        keys[i].filled_us = nb_now_us();
        for (size_t j = 0; j < auth->n; j++) {
            if (keys[i].client == auth->keys[j].client) {
                keys[i].running = auth->keys[j].running;
                if (auth->keys[j].per_minute > 0 && auth->keys[j].tokens < keys[i].tokens)
                    keys[i].tokens = auth->keys[j].tokens;
            }
        }
    }
    struct key *old = auth->keys;
    size_t n_old = auth->n;
    auth->keys = keys;
    auth->n = n;
    pthread_mutex_unlock(&auth->lock);
    if (old)
        explicit_bzero(old, n_old * sizeof *old);
    free(old);
    return NB_OK;
}

/* Equality in a time that depends on the length of `given` alone. */
static bool same_key(const char *given, size_t n, const char *key) {
    size_t m = strlen(key);
    unsigned char different = n != m;
    for (size_t i = 0; i < n; i++)
        different |= (unsigned char)(given[i] ^ key[i % m]);
    return !different;
}

/* Under the lock: the key that was given, among all. */
static struct key *find(struct nb_auth *auth, const char *given, enum nb_access *access) {
    struct key *found = NULL;
    size_t n = given ? strlen(given) : 0;
    *access = n ? NB_ACCESS_BAD_KEY : NB_ACCESS_NO_KEY;
    if (!n || n > MAX_KEY_BYTES)
        return NULL;
    for (size_t i = 0; i < auth->n; i++) { /* all of them, also after one fits */
        if (same_key(given, n, auth->keys[i].key))
            found = &auth->keys[i];
    }
    *access = found ? NB_ACCESS_OK : NB_ACCESS_BAD_KEY;
    return found;
}

enum nb_access nb_auth_look(struct nb_auth *auth, const char *given) {
    enum nb_access access = NB_ACCESS_OK;
    if (!auth->path)
        return access;
    pthread_mutex_lock(&auth->lock);
    find(auth, given, &access);
    pthread_mutex_unlock(&auth->lock);
    return access;
}

enum nb_access nb_auth_enter(struct nb_auth *auth, const char *given, uint64_t *client,
                             char name[64], unsigned *retry_after_s) {
    enum nb_access access = NB_ACCESS_OK;
    *client = 0;
    *retry_after_s = 0;
    name[0] = 0;
    if (!auth->path)
        return access;
    pthread_mutex_lock(&auth->lock);
    struct key *found = find(auth, given, &access);
    if (found) {
        strcpy(name, found->name);
        int64_t now = nb_now_us();
        double most = burst_of(found);
        found->tokens += (double)(now - found->filled_us) / 6e7 * found->per_minute;
        found->tokens = found->tokens < most ? found->tokens : most;
        found->filled_us = now;
        if (found->max_running && found->running >= found->max_running) {
            access = NB_ACCESS_TOO_MANY;
            *retry_after_s = 1;
        } else if (found->per_minute > 0 && found->tokens < 1) {
            access = NB_ACCESS_TOO_MANY;
            *retry_after_s = 1 + (unsigned)((1 - found->tokens) * 60 / found->per_minute);
        } else {
            found->tokens -= found->per_minute > 0;
            found->running++;
            *client = found->client;
        }
    }
    pthread_mutex_unlock(&auth->lock);
    return access;
}

void nb_auth_leave(struct nb_auth *auth, uint64_t client) {
    if (!client)
        return;
    pthread_mutex_lock(&auth->lock);
    for (size_t i = 0; i < auth->n; i++) {
        if (auth->keys[i].client == client && auth->keys[i].running)
            auth->keys[i].running--;
    }
    pthread_mutex_unlock(&auth->lock);
}
