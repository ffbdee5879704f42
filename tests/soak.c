/* Clients that do everything at once to a server, for as long as asked, and count what comes back:
 *
 *     soak PORT SECONDS CLIENTS [SEED]        mixed traffic at saturation
 *     soak PORT flood REQUESTS                that many requests at once; each is answered
 *     soak PORT slow SECONDS                  a stream read one byte a second
 *     soak PORT drip SECONDS                  a request's head sent one byte a second
 *     soak PORT head BYTES                    a request whose head has a header of that many bytes
 *
 * One JSON object on standard output; exit code 1 if an answer was none, came late or was not of
 * the kinds that its request allows. Plain sockets and epoll, one thread.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { LATE_S = 60, MAX_KINDS = 16, BIG_BODY = 9 << 20 };

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *what) {
    fprintf(stderr, "soak: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t random_state = 1;

static unsigned draw(unsigned n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(random_state >> 33) % n;
}

static int small_buffer; /* of what comes in; 0: the system's */

static int dial(int port, bool blocking) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && small_buffer)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small_buffer, sizeof small_buffer);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0)
        die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (!blocking)
        fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

/* ---- what is asked ---- */

/* What a client does, and what it may get for it. */
static const struct kind {
    const char *name;
    int weight; /* how often */
    int status[4];
    bool leaves; /* in mid-answer, without a word */
    bool stream; /* an answer that is whole ends with [DONE] */
} kinds[] = {
    {"complete", 24, {200, 429}, false, false},
    {"stream", 20, {200, 429}, false, true},
    {"schema", 8, {200, 429}, false, false},
    {"choices", 5, {200, 429}, false, false},
    {"prefix", 12, {200, 429}, false, false},
    {"score", 6, {200, 429}, false, false},
    {"classify", 2, {200, 429}, false, false},
    {"leave", 8, {200, 429}, true, true},
    {"leave-head", 3, {0}, true, false},
    {"no-json", 4, {400}, false, false},
    {"bad-field", 4, {422}, false, false},
    {"long-prompt", 3, {400}, false, false},
    {"big-body", 1, {413}, false, false},
    {"no-path", 3, {404}, false, false},
    {"no-http", 2, {400, 405, 505, 501}, false, false},
    {"metrics", 3, {200}, false, false},
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

struct text {
    char *data;
    size_t n, cap;
};

static void add(struct text *t, const char *bytes, size_t n) {
    if (t->n + n + 1 > t->cap) {
        t->cap = (t->n + n + 1) * 2;
        t->data = realloc(t->data, t->cap);
        if (!t->data)
            die("memory");
    }
    memcpy(t->data + t->n, bytes, n);
    t->data[t->n += n] = 0;
}

static void say(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(struct text *t, const char *fmt, ...) {
    char line[2048];
    va_list args;
    __builtin_va_start(args, fmt);
    int n = vsnprintf(line, sizeof line, fmt, args);
    __builtin_va_end(args);
    add(t, line, (size_t)n);
}

/* Token ids: `shared` that are everybody's, and n of one's own. */
static void say_ids(struct text *t, int shared, int n) {
    say(t, "[");
    for (int i = 0; i < shared + n; i++)
        say(t, "%s%u", i ? "," : "", i < shared ? 5 + (unsigned)i * 7 % 200 : 5 + draw(200));
    say(t, "]");
}

static void make_body(struct text *b, int kind) {
    const char *name = kinds[kind].name;
    int tokens = 1 + (int)draw(40), prompt = 1 + (int)draw(100);
    if (strcmp(name, "schema") == 0) {
        say(b,
            "{\"prompt\":\"Invoice\",\"max_tokens\":40,\"response_format\":{\"type\":"
            "\"json_schema\",\"json_schema\":{\"name\":\"x\",\"schema\":{\"type\":\"object\","
            "\"properties\":{\"a%u\":{\"type\":\"integer\"},\"b\":{\"enum\":[\"x\",\"y\"]}},"
            "\"required\":[\"b\"],\"additionalProperties\":false}}}}",
            draw(40));
    } else if (strcmp(name, "score") == 0) {
        say(b, "{\"prompt\":");
        say_ids(b, 64, prompt);
        say(b, ",\"continuations\":[[7,8,9],[7,8],\"total\",[%u]]}", 5 + draw(200));
    } else if (strcmp(name, "classify") == 0) {
        say(b, "{\"text\":\"INVOICE %u\\nACME Ltd\\nTotal 12.%02u EUR\"}", draw(1000), draw(100));
    } else if (strcmp(name, "no-json") == 0) {
        for (unsigned i = 0; i < 1 + draw(200); i++)
            say(b, "%c", (int)draw(94) + 33);
        say(b, "{");
    } else if (strcmp(name, "bad-field") == 0) {
        static const char *const bad[] = {
            "{}",
            "{\"prompt\":3}",
            "{\"prompt\":\"a\",\"n\":-1}",
            "{\"prompt\":\"a\",\"temperature\":\"hot\"}",
            "{\"prompt\":[1e9]}",
            ("{\"prompt\":\"a\",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{"
             "\"schema\":{\"type\":\"strin\"}}}}"),
        };
        say(b, "%s", bad[draw(sizeof bad / sizeof *bad)]);
    } else if (strcmp(name, "long-prompt") == 0) {
        say(b, "{\"prompt\":");
        say_ids(b, 0, 3000);
        say(b, "}");
    } else if (strcmp(name, "big-body") == 0) {
        char zeros[4096];
        memset(zeros, ' ', sizeof zeros);
        while (b->n < BIG_BODY)
            add(b, zeros, sizeof zeros);
    } else {
        bool long_answer = strncmp(name, "leave", 5) == 0, shared = strcmp(name, "prefix") == 0;
        say(b, "{\"prompt\":");
        say_ids(b, shared ? 600 : 0, shared ? 4 : prompt);
        say(b, ",\"max_tokens\":%d,\"ignore_eos\":true,\"temperature\":0.8,\"stream\":%s,\"n\":%d}",
            long_answer ? 400 : tokens, kinds[kind].stream ? "true" : "false",
            strcmp(name, "choices") == 0 ? 3 : 1);
    }
}

static void make_request(struct text *out, int kind) {
    const char *name = kinds[kind].name, *path = "/v1/completions";
    struct text body = {0};
    if (strcmp(name, "no-http") == 0) {
        for (unsigned i = 0; i < 20; i++)
            say(out, "%c", (int)draw(94) + 33);
        say(out, "\r\n\r\n");
        return;
    }
    if (strcmp(name, "metrics") == 0) {
        say(out, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        return;
    }
    path = strcmp(name, "score") == 0      ? "/v1/score"
           : strcmp(name, "classify") == 0 ? "/v1/classify"
           : strcmp(name, "no-path") == 0  ? "/v2/nothing"
                                           : path;
    make_body(&body, kind);
    say(out, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n",
        path, body.n);
    if (strcmp(name, "leave-head") == 0)
        out->n -= draw((unsigned)out->n);
    else
        add(out, body.data, body.n);
    free(body.data);
}

/* ---- clients ---- */

struct client {
    int fd, kind;
    double begun;
    struct text out, in;
    size_t sent, leaves_after; /* bytes of the answer; SIZE_MAX: it stays */
};

static struct {
    long asked, whole, left, refused, wrong;
    long by_kind[MAX_KINDS], status_429;
    double slowest;
} counts;

static void begin(struct client *c, int port, int epoll, int kind) {
    c->kind = kind;
    c->begun = now();
    c->sent = c->out.n = c->in.n = 0;
    make_request(&c->out, kind);
    c->leaves_after = kinds[kind].leaves ? draw(4000) : SIZE_MAX;
    c->fd = dial(port, false);
    struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &e);
    counts.asked++;
    counts.by_kind[kind]++;
}

static void wrong(const struct client *c, const char *why) {
    counts.wrong++;
    fprintf(stderr, "soak: %s: %s: %.300s\n", kinds[c->kind].name, why,
            c->in.n ? c->in.data : "(nothing)");
}

/* The answer is over: is it one? */
static void judge(const struct client *c) {
    const struct kind *k = &kinds[c->kind];
    int status = 0;
    double took = now() - c->begun;
    counts.slowest = took > counts.slowest ? took : counts.slowest;
    if (!c->in.n || sscanf(c->in.data, "HTTP/1.1 %d", &status) != 1) {
        /* What is no HTTP at all may be cut off; so may a body that is refused while it is sent. */
        if (strcmp(k->name, "no-http") == 0 || strcmp(k->name, "big-body") == 0)
            counts.refused++;
        else
            wrong(c, "no answer");
        return;
    }
    bool expected = false;
    for (int i = 0; i < 4; i++)
        expected |= k->status[i] == status && status;
    counts.status_429 += status == 429;
    if (!expected)
        wrong(c, "unexpected status");
    else if (status == 429 && !strcasestr(c->in.data, "\r\nRetry-After:"))
        wrong(c, "no Retry-After");
    else if (status == 200 && k->stream && !strstr(c->in.data, "data: [DONE]"))
        wrong(c, "a stream without an end");
    else if (status == 200)
        counts.whole++;
    else
        counts.refused++;
}

static void end(struct client *c, int epoll) {
    epoll_ctl(epoll, EPOLL_CTL_DEL, c->fd, NULL);
    close(c->fd);
    c->fd = -1;
}

/* What a socket is ready for; true when the client is done. */
static bool serve(struct client *c, int epoll, unsigned events) {
    if (events & EPOLLOUT && c->sent < c->out.n) {
        ssize_t n = send(c->fd, c->out.data + c->sent, c->out.n - c->sent, MSG_NOSIGNAL);
        if (n > 0)
            c->sent += (size_t)n;
        else if (errno != EAGAIN)
            c->sent = c->out.n; /* refused while it was sent: the answer is there */
    }
    if (c->sent == c->out.n) {
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &e);
        if (kinds[c->kind].leaves && (!kinds[c->kind].stream || c->in.n >= c->leaves_after)) {
            counts.left++;
            return true;
        }
    }
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return false;
    char data[1 << 15];
    ssize_t n = recv(c->fd, data, sizeof data, 0);
    if (n > 0) {
        add(&c->in, data, (size_t)n);
        return false;
    }
    if (n < 0 && errno == EAGAIN)
        return false;
    judge(c);
    return true;
}

static int pick(void) {
    int total = 0;
    for (int i = 0; i < N_KINDS; i++)
        total += kinds[i].weight;
    int at = (int)draw((unsigned)total), i = 0;
    for (; at >= kinds[i].weight; i++)
        at -= kinds[i].weight;
    return i;
}

/* Has `clients` ask until `until`, or until `requests` are asked, and waits for the last. */
static void run(int port, int clients, double until, long requests, int kind) {
    struct client *all = calloc((size_t)clients, sizeof *all);
    int epoll = epoll_create1(EPOLL_CLOEXEC), open = 0;
    for (int i = 0; i < clients; i++, open++)
        begin(&all[i], port, epoll, kind >= 0 ? kind : pick());
    while (open) {
        struct epoll_event ready[64];
        int n = epoll_wait(epoll, ready, 64, 1000);
        double t = now();
        for (int i = 0; i < n; i++) {
            struct client *c = ready[i].data.ptr;
            if (c->fd < 0 || !serve(c, epoll, ready[i].events))
                continue;
            end(c, epoll);
            open--;
            if (t < until && (requests < 0 || counts.asked < requests)) {
                begin(c, port, epoll, kind >= 0 ? kind : pick());
                open++;
            }
        }
        for (int i = 0; i < clients; i++) {
            if (all[i].fd < 0 || t - all[i].begun < LATE_S)
                continue;
            wrong(&all[i], "late");
            end(&all[i], epoll);
            open--;
        }
    }
    for (int i = 0; i < clients; i++) {
        free(all[i].out.data);
        free(all[i].in.data);
    }
    free(all);
    close(epoll);
}

static int report(void) {
    printf("{\"asked\": %ld, \"whole\": %ld, \"left\": %ld, \"refused\": %ld, \"status_429\": %ld, "
           "\"wrong\": %ld, \"slowest_s\": %.3f, \"kinds\": {",
           counts.asked, counts.whole, counts.left, counts.refused, counts.status_429, counts.wrong,
           counts.slowest);
    for (int i = 0; i < N_KINDS; i++)
        printf("%s\"%s\": %ld", i ? ", " : "", kinds[i].name, counts.by_kind[i]);
    printf("}}\n");
    return counts.wrong ? 1 : 0;
}

/* ---- single clients ---- */

/* Sends `text` a byte a second, or at once, and reads a byte a second, or all; for `seconds` at
 * most. Says when the server closed the connection, and what it had said. */
static int alone(int port, struct text *text, bool drip, bool sip, double seconds) {
    small_buffer = sip ? 1024 : 0;
    int fd = dial(port, true);
    double begun = now(), closed = 0;
    size_t sent = 0, got = 0;
    char in[4096] = "";
    while (now() - begun < seconds && closed == 0) {
        size_t n = sent < text->n ? drip ? 1 : text->n - sent : 0;
        if (n && send(fd, text->data + sent, n, MSG_NOSIGNAL) < 0)
            closed = now() - begun;
        sent += n;
        struct timeval wait = {.tv_sec = drip ? 0 : 1, .tv_usec = drip ? 1000 : 0};
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait);
        ssize_t r =
            recv(fd, in + (got < sizeof in - 1 ? got : 0), sip ? 1 : sizeof in - 1 - got, 0);
        if (r == 0 || (r < 0 && errno != EAGAIN))
            closed = now() - begun;
        got += r > 0 ? (size_t)r : 0;
        if (drip || sip)
            sleep(1);
    }
    int status = 0;
    sscanf(in, "HTTP/1.1 %d", &status);
    printf("{\"sent\": %zu, \"got\": %zu, \"status\": %d, \"closed_after_s\": %.1f}\n", sent, got,
           status, closed);
    close(fd);
    free(text->data);
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 4)
        return fputs("usage: soak PORT SECONDS CLIENTS [SEED] | PORT flood|slow|drip|head NUMBER\n",
                     stderr),
               2;
    int port = atoi(argv[1]);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    struct text t = {0};
    if (strcmp(argv[2], "flood") == 0) {
        int n = atoi(argv[3]);
        run(port, n, 0, n, 0);
        return report();
    }
    if (strcmp(argv[2], "slow") == 0) {
        /* Half a megabyte: more than the sockets hold. */
        const char *body = "{\"prompt\":\"a\",\"max_tokens\":200,\"ignore_eos\":true,\"n\":4,"
                           "\"logprobs\":5,\"stream\":true}";
        say(&t, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %zu\r\n\r\n%s",
            strlen(body), body);
        return alone(port, &t, false, true, atof(argv[3]));
    }
    if (strcmp(argv[2], "drip") == 0) {
        make_request(&t, 0);
        return alone(port, &t, true, false, atof(argv[3]));
    }
    if (strcmp(argv[2], "head") == 0) {
        say(&t, "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ");
        for (int i = 0; i < atoi(argv[3]); i++)
            add(&t, "x", 1);
        say(&t, "\r\n\r\n");
        return alone(port, &t, false, false, 5);
    }
    random_state = argc > 4 ? (uint64_t)atoll(argv[4]) : 1;
    run(port, atoi(argv[3]), now() + atof(argv[2]), -1, -1);
    return report();
}
