/* Asks a server for many streamed completions at once and says when their tokens came:
 *
 *     serve_load PORT CLIENTS TOKENS [PROMPT_TOKENS]      every client one request of TOKENS tokens
 *     serve_load PORT 1 1 PROMPT REQUESTS                 one client, one request after the other,
 * not streamed serve_load PORT idle N SECONDS                      N connections that say nothing
 *
 * One JSON object on standard output. Talks HTTP/1.1 over plain sockets and epoll, so that the load
 * takes little of the machine that it shares with the server.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what) {
    fprintf(stderr, "serve_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int dial(int port) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
        die("connect");
    return fd;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double percentile(const double *sorted, size_t n, double p) {
    return n ? sorted[(size_t)((double)(n - 1) * p)] : 0;
}

/* The request of client i: a prompt of its own, so that nothing is found in the cache. */
static size_t request(char *out, size_t size, int i, int prompt, int tokens, int stream) {
    char *body = malloc(64 + 8 * (size_t)prompt + 256);
    size_t n = (size_t)sprintf(body, "{\"prompt\":[%d", 5 + i % 200);
    for (int j = 1; j < prompt; j++)
        n += (size_t)sprintf(body + n, ",%d", 5 + (i * 31 + j * 7) % 200);
    n += (size_t)sprintf(body + n,
                         "],\"max_tokens\":%d,\"temperature\":0,\"ignore_eos\":true,\"stream\":%s}",
                         tokens, stream ? "true" : "false");
    int length = snprintf(
        out, size,
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        "Content-Length: %zu\r\n\r\n%s",
        n, body);
    free(body);
    if (length < 0 || (size_t)length >= size)
        exit(2);
    return (size_t)length;
}

struct client {
    int fd, events;
    double sent, last;
    char tail[8]; /* the end of what came, for an event that is split */
    size_t n_tail;
};

static double *gaps;
static size_t n_gaps, cap_gaps;

static void add_gap(double seconds) {
    if (n_gaps == cap_gaps) {
        cap_gaps = cap_gaps ? cap_gaps * 2 : 4096;
        gaps = realloc(gaps, cap_gaps * sizeof *gaps);
        if (!gaps)
            die("memory");
    }
    gaps[n_gaps++] = seconds;
}

/* Counts the "data: {" in what came, split ones too; true at "data: [DONE]". */
static int took(struct client *c, const char *data, size_t n, double *first) {
    static char all[1 << 16];
    memcpy(all, c->tail, c->n_tail);
    memcpy(all + c->n_tail, data, n);
    size_t total = c->n_tail + n, at = 0;
    int done = 0;
    for (char *p;
         (p = memmem(all + at, total - at, "data: ", 6)) && (size_t)(p - all) + 6 < total;) {
        at = (size_t)(p - all) + 6;
        double t = now();
        if (all[at] == '[') {
            done = 1;
        } else {
            if (c->events++ == 0)
                *first = t - c->sent;
            else
                add_gap(t - c->last);
            c->last = t;
        }
    }
    size_t keep = total - at < 6 ? total - at : 6;
    memcpy(c->tail, all + total - keep, keep);
    c->n_tail = keep;
    return done;
}

static void stream(int port, int n, int tokens, int prompt) {
    struct client *clients = calloc((size_t)n, sizeof *clients);
    double *first = calloc((size_t)n, sizeof *first);
    char *text = malloc(1 << 20), data[1 << 15];
    int epoll = epoll_create1(0);
    for (int i = 0; i < n; i++) {
        clients[i].fd = dial(port);
        struct epoll_event e = {.events = EPOLLIN, .data.u32 = (unsigned)i};
        epoll_ctl(epoll, EPOLL_CTL_ADD, clients[i].fd, &e);
    }
    double start = now(), all_begun = 0, first_end = 0, last_end = 0;
    for (int i = 0; i < n; i++) {
        size_t length = request(text, 1 << 20, i, prompt, tokens, 1);
        clients[i].sent = now();
        if (write(clients[i].fd, text, length) != (ssize_t)length)
            die("write");
    }
    long events = 0, between = 0;
    for (int open = n; open > 0;) {
        struct epoll_event ready[64];
        int got = epoll_wait(epoll, ready, 64, 60000);
        if (got <= 0)
            die("no answer");
        for (int j = 0; j < got; j++) {
            struct client *c = &clients[ready[j].data.u32];
            ssize_t bytes = read(c->fd, data, sizeof data);
            if (bytes <= 0)
                die("the server closed a stream");
            int before = c->events;
            int done = took(c, data, (size_t)bytes, &first[ready[j].data.u32]);
            events += c->events - before;
            if (all_begun > 0 && first_end == 0)
                between += c->events - before;
            if (all_begun == 0) {
                int begun = 0;
                for (int i = 0; i < n; i++)
                    begun += clients[i].events > 0;
                all_begun = begun == n ? now() : 0;
            }
            if (done) {
                epoll_ctl(epoll, EPOLL_CTL_DEL, c->fd, NULL);
                close(c->fd);
                open--;
                last_end = now();
                first_end = first_end > 0 ? first_end : last_end;
            }
        }
    }
    qsort(gaps, n_gaps, sizeof *gaps, by_size);
    qsort(first, (size_t)n, sizeof *first, by_size);
    printf(
        "{\"clients\": %d, \"tokens\": %ld, \"seconds\": %.4f, \"tokens_per_s\": %.1f, "
        "\"all_streaming_tokens_per_s\": %.1f, \"first_token_ms\": {\"p50\": %.2f, \"max\": %.2f}, "
        "\"gap_ms\": {\"p50\": %.3f, \"p99\": %.3f, \"max\": %.3f}}\n",
        n, events - n, last_end - start, (double)(events - n) / (last_end - start),
        first_end > all_begun ? (double)between / (first_end - all_begun) : 0,
        percentile(first, (size_t)n, 0.5) * 1e3, percentile(first, (size_t)n, 1) * 1e3,
        percentile(gaps, n_gaps, 0.5) * 1e3, percentile(gaps, n_gaps, 0.99) * 1e3,
        percentile(gaps, n_gaps, 1) * 1e3);
}

static void one_by_one(int port, int prompt, int requests) {
    char text[1 << 16], data[1 << 15];
    double *times = calloc((size_t)requests, sizeof *times);
    int fd = dial(port);
    for (int i = 0; i < requests; i++) {
        size_t length = request(text, sizeof text, i, prompt, 1, 0), have = 0;
        double start = now();
        if (write(fd, text, length) != (ssize_t)length)
            die("write");
        for (;;) {
            ssize_t n = read(fd, data + have, sizeof data - have - 1);
            if (n <= 0)
                die("read");
            have += (size_t)n;
            data[have] = 0;
            char *body = strstr(data, "\r\n\r\n"), *said = strcasestr(data, "content-length:");
            if (body && said && have >= (size_t)(body + 4 - data) + strtoul(said + 15, NULL, 10))
                break;
        }
        times[i] = now() - start;
    }
    qsort(times, (size_t)requests, sizeof *times, by_size);
    printf("{\"requests\": %d, \"ms\": {\"p50\": %.3f, \"p99\": %.3f}}\n", requests,
           percentile(times, (size_t)requests, 0.5) * 1e3,
           percentile(times, (size_t)requests, 0.99) * 1e3);
}

int main(int argc, char **argv) {
    if (argc < 4)
        return fputs("usage: serve_load PORT CLIENTS TOKENS [PROMPT] | PORT 1 1 PROMPT REQUESTS | "
                     "PORT idle N SECONDS\n",
                     stderr),
               2;
    int port = atoi(argv[1]);
    struct rlimit files = {65536, 65536};
    setrlimit(RLIMIT_NOFILE, &files);
    if (strcmp(argv[2], "idle") == 0) {
        for (int i = 0; i < atoi(argv[3]); i++)
            dial(port);
        sleep(argc > 4 ? (unsigned)atoi(argv[4]) : 1);
    } else if (argc > 5) {
        one_by_one(port, atoi(argv[4]), atoi(argv[5]));
    } else {
        stream(port, atoi(argv[2]), atoi(argv[3]), argc > 4 ? atoi(argv[4]) : 8);
    }
    return 0;
}
