/* Requests to URLs that others gave: where they may go, whatever names, redirects and resolvers
 * say; and timers. */
#include "test.h"

#include "base/clock.h"
#include "service/client.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <pthread.h>
#include <unistd.h>

/* ---- kinds of addresses ---- */

static struct sockaddr_storage address_of(const char *text) {
    struct sockaddr_storage out = {0};
    struct sockaddr_in *v4 = (struct sockaddr_in *)&out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&out;
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1)
        out.ss_family = AF_INET;
    else if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1)
        out.ss_family = AF_INET6;
    else
        fail_msg("%s is no address", text);
    return out;
}

static void kinds(void **state) {
    (void)state;
    static const char *const special[] = {
        /* IPv4, the first and the last of each range */
        "0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255",
        "100.100.100.200", "127.0.0.1", "127.255.255.255", "168.63.129.16", "169.254.0.0",
        "169.254.169.254", "169.254.255.255", "172.16.0.0", "172.31.255.255", "192.0.0.0",
        "192.0.0.192", "192.0.0.255", "192.0.2.1", "192.88.99.1", "192.168.0.0", "192.168.255.255",
        "198.18.0.0", "198.19.255.255", "198.51.100.1", "203.0.113.255", "224.0.0.1",
        "239.255.255.255", "240.0.0.1", "255.255.255.255",
        /* IPv6 */
        "::", "::1", "::2", "fc00::", "fdff:ffff::1", "fd00:ec2::254", "fe80::1", "febf::1",
        "fec0::1", "ff02::1", "ff0e::1", "2001::1", "2001:1ff::1", "2001:db8::1",
        "2002:a00:1::", "2002:808:808::", "3fff::1", "3fff:fff::1", "100::1", "64:ff9b:1::1",
        "5f00::1", "4000::1",
        /* IPv4 within IPv6 */
        "::ffff:127.0.0.1", "::ffff:10.1.2.3", "::ffff:169.254.169.254", "::127.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::192.168.1.1"};
    static const char *const public[] = {
        "1.1.1.1",        "8.8.8.8",         "9.255.255.255",   "11.0.0.0",
        "100.63.255.255", "100.128.0.0",     "126.255.255.255", "128.0.0.0",
        "168.63.129.15",  "169.253.255.255", "169.255.0.0",     "172.15.255.255",
        "172.32.0.0",     "191.255.255.255", "192.0.1.0",       "192.0.3.0",
        "192.167.0.1",    "192.169.0.0",     "198.17.255.255",  "198.20.0.0",
        "203.0.112.255",  "203.0.114.0",     "223.255.255.255", "2000::1",
        "2001:200::1",    "2001:4860::8888", "2600::1",         "2a00:1450::1",
        "3ffe:ffff::1",   "::ffff:8.8.8.8",  "64:ff9b::808:808"};
    for (size_t i = 0; i < sizeof special / sizeof *special; i++) {
        struct sockaddr_storage a = address_of(special[i]);
        if (!nb_address_special((struct sockaddr *)&a))
            fail_msg("%s is taken for a public address", special[i]);
    }
    for (size_t i = 0; i < sizeof public / sizeof *public; i++) {
        struct sockaddr_storage a = address_of(public[i]);
        const char *why = nb_address_special((struct sockaddr *)&a);
        if (why)
            fail_msg("%s is taken for %s", public[i], why);
    }
    struct sockaddr local = {.sa_family = AF_UNIX};
    assert_non_null(nb_address_special(&local));
}

/* ---- what the operator allows ---- */

static void rules(void **state) {
    (void)state;
    static const struct {
        const char *allow, *host;
        uint16_t port;
        const char *address;
        bool allowed;
    } cases[] = {
        {"", "example.com", 443, "8.8.8.8", true},
        {"", "example.com", 443, "10.0.0.1", false},
        {"books.internal", "books.internal", 80, "10.0.0.1", true},
        {"books.internal", "BOOKS.internal.", 80, "10.0.0.1", true},
        {"books.internal", "xbooks.internal", 80, "10.0.0.1", false},
        {"books.internal", "books.internal.evil.com", 80, "10.0.0.1", false},
        {"books.internal:8080", "books.internal", 8080, "10.0.0.1", true},
        {"books.internal:8080", "books.internal", 80, "10.0.0.1", false},
        {"10.1.0.0/16", "any.com", 80, "10.1.255.255", true},
        {"10.1.0.0/16", "any.com", 80, "10.2.0.0", false},
        {"10.1.0.0/16", "any.com", 80, "::ffff:10.1.2.3", true},
        {"127.0.0.1:9000", "localhost", 9000, "127.0.0.1", true},
        {"127.0.0.1:9000", "localhost", 9001, "127.0.0.1", false},
        {"127.0.0.1", "127.0.0.1", 1, "127.0.0.2", false},
        {"fd00::/8", "any.com", 80, "fd12::1", true},
        {"fd00::/8", "any.com", 80, "fe80::1", false},
        {"[fd00::1]:443", "any.com", 443, "fd00::1", true},
        {"[fd00::1]:443", "any.com", 80, "fd00::1", false},
        {"[fd00::1]", "any.com", 80, "fd00::1", true},
        {"0.0.0.0/0", "any.com", 80, "127.0.0.1", true},
        {"0.0.0.0/0", "any.com", 80, "::1", false},
        {"a.b , 10.0.0.0/8\t::1", "x", 80, "::1", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct nb_guard *guard;
        struct nb_error err;
        assert_ok(nb_guard_open(cases[i].allow, &guard, &err), err);
        struct sockaddr_storage a = address_of(cases[i].address);
        bool allowed =
            !nb_guard_refuses(guard, cases[i].host, cases[i].port, (struct sockaddr *)&a);
        if (allowed != cases[i].allowed)
            fail_msg("\"%s\": %s at %s port %u", cases[i].allow, cases[i].host, cases[i].address,
                     cases[i].port);
        nb_guard_close(guard);
    }
    static const char *const bad[] = {"10.0.0.0/33", "fd00::/129", "10.0.0.0/x", "http://a.com/",
                                      "a b:0",       "a:65536",    "[::1",       "[::1]x",
                                      "a:b:c",       "*.internal", "a/8",        "[a]:"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct nb_guard *guard;
        struct nb_error err;
        if (nb_guard_open(bad[i], &guard, &err) == NB_OK)
            fail_msg("\"%s\" is taken", bad[i]);
        assert_null(guard);
        assert_non_null(strstr(err.message, "allowed hosts"));
    }
}

/* ---- requests ---- */

/* A server that counts who comes. */
struct server {
    struct MHD_Daemon *daemon;
    uint16_t port;
    int requests;
    char location[128]; /* answers 302 to there, unless empty */
    size_t body_bytes;
};

static enum MHD_Result on_request(void *context, struct MHD_Connection *c, const char *path,
                                  const char *method, const char *version, const char *data,
                                  size_t *n, void **own) {
    (void)path, (void)method, (void)version, (void)data;
    struct server *s = context;
    if (!*own) {
        *own = s;
        return MHD_YES;
    }
    if (*n) {
        *n = 0;
        return MHD_YES;
    }
    __atomic_add_fetch(&s->requests, 1, __ATOMIC_SEQ_CST);
    char *body = calloc(1, s->body_bytes + 1);
    memset(body, 'x', s->body_bytes);
    struct MHD_Response *r =
        MHD_create_response_from_buffer(s->body_bytes, body, MHD_RESPMEM_MUST_FREE);
    if (s->location[0])
        MHD_add_response_header(r, "Location", s->location);
    MHD_add_response_header(r, "Retry-After", "7");
    MHD_add_response_header(r, "Content-Type", "text/plain; charset=x");
    enum MHD_Result sent = MHD_queue_response(c, s->location[0] ? 302 : 200, r);
    MHD_destroy_response(r);
    return sent;
}

static void serve(struct server *s) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    *s = (struct server){.body_bytes = 5};
    s->daemon = MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD, 0, NULL, NULL, on_request, s,
                                 MHD_OPTION_SOCK_ADDR, (struct sockaddr *)&at, MHD_OPTION_END);
    assert_non_null(s->daemon);
    s->port = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_BIND_PORT)->port;
}

/* A request made on the loop, and waited for. */
struct asked {
    struct nb_client *client;
    struct nb_client_request request;
    struct nb_post post;
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool over;
    int status;
    bool refused;
    double retry_after_s;
    size_t n;
    char type[64], error[256];
};

static void on_done(void *context, const struct nb_client_answer *a) {
    struct asked *q = context;
    pthread_mutex_lock(&q->lock);
    q->status = a->status;
    q->refused = a->refused;
    q->retry_after_s = a->retry_after_s;
    q->n = a->n;
    snprintf(q->type, sizeof q->type, "%s", a->type);
    snprintf(q->error, sizeof q->error, "%.255s", a->error);
    q->over = true;
    pthread_cond_signal(&q->done);
    pthread_mutex_unlock(&q->lock);
}

static void begin(void *context) {
    struct asked *q = context;
    struct nb_error err;
    if (nb_client_begin(q->client, &q->request, &err))
        return;
    struct nb_client_answer none = {.type = "", .error = err.message, .refused = true};
    on_done(q, &none);
}

static struct asked ask(struct nb_client *client, struct nb_client_request request) {
    struct asked q = {.client = client, .request = request};
    q.request.on_done = on_done;
    q.request.context = &q;
    q.request.timeout_s = q.request.timeout_s > 0 ? q.request.timeout_s : 10;
    q.request.max_bytes = q.request.max_bytes ? q.request.max_bytes : 1000;
    q.post = (struct nb_post){.fn = begin, .context = &q};
    pthread_mutex_init(&q.lock, NULL);
    pthread_cond_init(&q.done, NULL);
    assert_true(nb_client_post(client, &q.post));
    pthread_mutex_lock(&q.lock);
    while (!q.over)
        pthread_cond_wait(&q.done, &q.lock);
    pthread_mutex_unlock(&q.lock);
    return q;
}

static const char *url(const char *host, uint16_t port) {
    static char text[4][128];
    static int next;
    char *out = text[next++ % 4];
    snprintf(out, sizeof text[0], "http://%s:%u/x", host, port);
    return out;
}

static void requests(void **state) {
    (void)state;
    struct nb_client *client;
    struct nb_error err;
    struct server s;
    serve(&s);
    assert_ok(nb_client_open(&client, &err), err);
    struct asked q = ask(client, (struct nb_client_request){.url = url("127.0.0.1", s.port)});
    assert_int_equal(q.status, 200);
    assert_int_equal(q.n, 5);
    assert_string_equal(q.type, "text/plain");
    assert_true(q.retry_after_s == 7);
    q = ask(client, (struct nb_client_request){.url = url("127.0.0.1", s.port), .max_bytes = 4});
    assert_int_equal(q.status, 0);
    assert_non_null(strstr(q.error, "longer than 4 bytes"));
    q = ask(client, (struct nb_client_request){.url = url("127.0.0.1", 1)});
    assert_int_equal(q.status, 0);
    assert_true(q.error[0] && !q.refused);
    nb_client_close(client);
    MHD_stop_daemon(s.daemon);
}

static void guarded(void **state) {
    (void)state;
    struct nb_client *client;
    struct nb_guard *none, *one;
    struct nb_error err;
    struct server s, inner;
    serve(&s);
    serve(&inner);
    char allow[64], resolve[4][128];
    snprintf(allow, sizeof allow, "127.0.0.1:%u", s.port);
    assert_ok(nb_guard_open(NULL, &none, &err), err);
    assert_ok(nb_guard_open(allow, &one, &err), err);
    assert_ok(nb_client_open(&client, &err), err);

    /* A connection that is open already, to where a guarded request may not go. */
    ask(client, (struct nb_client_request){.url = url("127.0.0.1", s.port)});
    assert_int_equal(s.requests, 1);
    static const char *const hosts[] = {
        "127.0.0.1", "localhost", "0x7f.1",     "2130706433", "127.1",     "[::ffff:127.0.0.1]",
        "[::1]",     "0",         "localhost.", "127.0.0.1.", "0177.0.0.1"};
    for (size_t i = 0; i < sizeof hosts / sizeof *hosts; i++) {
        struct asked q =
            ask(client, (struct nb_client_request){.url = url(hosts[i], s.port), .guard = none});
        if (q.status || s.requests != 1)
            fail_msg("%s was reached", hosts[i]);
    }
    struct asked q =
        ask(client, (struct nb_client_request){.url = url("127.0.0.1", s.port), .guard = none});
    assert_true(q.refused);
    assert_non_null(strstr(q.error, "loopback"));

    /* What is allowed, is, and nothing beside it. */
    q = ask(client, (struct nb_client_request){.url = url("127.0.0.1", s.port), .guard = one});
    assert_int_equal(q.status, 200);
    q = ask(client, (struct nb_client_request){.url = url("127.0.0.1", inner.port), .guard = one});
    assert_true(q.refused);

    /* A redirect is the answer, and is not followed. */
    snprintf(s.location, sizeof s.location, "http://127.0.0.1:%u/secret", inner.port);
    q = ask(client, (struct nb_client_request){.url = url("127.0.0.1", s.port), .guard = one});
    assert_int_equal(q.status, 302);
    q = ask(client,
            (struct nb_client_request){
                .url = url("127.0.0.1", s.port), .body = "{}", .body_bytes = 2, .guard = one});
    assert_int_equal(q.status, 302);
    s.location[0] = 0;
    assert_int_equal(inner.requests, 0);

    /* A name that resolves to where it should not: the resolver's word is not taken; nor that of
     * one which says first this and then that. */
    const char *to_loopback[] = {resolve[0], NULL}, *to_public[] = {resolve[1], NULL},
               *to_both[] = {resolve[2], NULL};
    snprintf(resolve[0], sizeof resolve[0], "rebind.example:%u:127.0.0.1", inner.port);
    snprintf(resolve[1], sizeof resolve[1], "rebind.example:%u:192.0.2.1", inner.port);
    snprintf(resolve[2], sizeof resolve[2], "rebind.example:%u:10.0.0.1,127.0.0.1,[::1]",
             inner.port);
    struct nb_client_request r = {
        .url = url("rebind.example", inner.port), .guard = none, .timeout_s = 2};
    r.resolve = to_public;
    q = ask(client, r);
    assert_true(q.refused); /* 192.0.2.0/24 is for documentation: no packet leaves */
    r.resolve = to_loopback;
    q = ask(client, r);
    assert_true(q.refused);
    r.resolve = to_both;
    q = ask(client, r);
    assert_true(q.refused);
    assert_int_equal(inner.requests, 0);
    r.resolve = to_loopback;
    /* A name of several addresses, some of which may be reached, is. */
    char several[128];
    const char *to_several[] = {several, NULL};
    snprintf(several, sizeof several, "several.example:%u:10.0.0.1,127.0.0.1", s.port);
    q = ask(client, (struct nb_client_request){.url = url("several.example", s.port),
                                               .guard = one,
                                               .resolve = to_several});
    assert_int_equal(q.status, 200);
    assert_string_equal(q.error, "");
    assert_false(q.refused);
    r.guard = NULL; /* the test itself works */
    q = ask(client, r);
    assert_int_equal(q.status, 200);
    assert_int_equal(inner.requests, 1);
    r.guard = none; /* neither is the connection that was left open */
    q = ask(client, r);
    assert_true(q.refused);
    assert_int_equal(inner.requests, 1);

    /* Other schemes, a user's name, what is no URL. */
    static const char *const bad[] = {"file:///etc/passwd",
                                      "gopher://8.8.8.8/",
                                      "ftp://8.8.8.8/",
                                      "http://user:pw@8.8.8.8/",
                                      "http://",
                                      "http://8.8.8.8:99999/",
                                      "8.8.8.8",
                                      "dict://8.8.8.8:1/",
                                      "",
                                      "http://a b/",
                                      "unix:///run/x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        q = ask(client, (struct nb_client_request){.url = bad[i], .guard = none});
        if (!q.refused)
            fail_msg("\"%s\" is taken", bad[i]);
    }
    /* A proxy of the environment's would be asked to go there instead. */
    char proxy[64];
    snprintf(proxy, sizeof proxy, "http://127.0.0.1:%u", inner.port);
    setenv("http_proxy", proxy, 1);
    setenv("ALL_PROXY", proxy, 1);
    struct nb_guard *home;
    assert_ok(nb_guard_open("127.0.0.1", &home, &err), err);
    q = ask(client, (struct nb_client_request){.url = url("10.0.0.1", 80), .guard = home});
    assert_true(q.refused);
    assert_int_equal(inner.requests, 1);
    nb_guard_close(home);
    unsetenv("http_proxy");
    unsetenv("ALL_PROXY");
    nb_client_close(client);
    nb_guard_close(none);
    nb_guard_close(one);
    MHD_stop_daemon(s.daemon);
    MHD_stop_daemon(inner.daemon);
}

/* ---- the loop ---- */

struct ticks {
    struct nb_client *client;
    struct nb_timer timer[4];
    int order[8], n;
    struct nb_post post;
    int64_t begun_us, over_us;
};
static struct ticks ticks;

static void tick(int i) {
    __atomic_store_n(&ticks.order[ticks.n], i, __ATOMIC_SEQ_CST);
    ticks.over_us = nb_now_us();
    __atomic_add_fetch(&ticks.n, 1, __ATOMIC_SEQ_CST);
}
static void tick0(void *context) {
    (void)context;
    tick(0);
}
static void tick1(void *context) {
    (void)context;
    tick(1);
}
static void tick2(void *context) {
    (void)context;
    tick(2);
    nb_timer_set(ticks.client, &ticks.timer[1], 0.02);
}
static void tick3(void *context) {
    (void)context;
    tick(3);
}

static void set_ticks(void *context) {
    (void)context;
    nb_timer_set(ticks.client, &ticks.timer[0], 0.05);
    nb_timer_set(ticks.client, &ticks.timer[1], 0.01);
    nb_timer_set(ticks.client, &ticks.timer[2], 0.02);
    nb_timer_set(ticks.client, &ticks.timer[3], 0.03);
    nb_timer_set(ticks.client, &ticks.timer[0], 0.2); /* anew */
    nb_timer_clear(ticks.client, &ticks.timer[3]);
}

static void timers(void **state) {
    (void)state;
    struct nb_error err;
    void (*fns[])(void *) = {tick0, tick1, tick2, tick3};
    assert_ok(nb_client_open(&ticks.client, &err), err);
    for (int i = 0; i < 4; i++)
        ticks.timer[i].fn = fns[i];
    ticks.post.fn = set_ticks;
    ticks.begun_us = nb_now_us();
    assert_true(nb_client_post(ticks.client, &ticks.post));
    while (__atomic_load_n(&ticks.n, __ATOMIC_SEQ_CST) < 4)
        usleep(1000);
    static const int want[] = {1, 2, 1, 0};
    assert_memory_equal(ticks.order, want, sizeof want);
    assert_true(ticks.over_us - ticks.begun_us >= 200000);
    nb_client_stop(ticks.client);
    assert_false(nb_client_post(ticks.client, &ticks.post));
    nb_client_close(ticks.client);
}

static void backoff(void **state) {
    (void)state;
    double least = 1e9, most = 0;
    for (int i = 0; i < 1000; i++) {
        double s = nb_backoff_s(3, 0.5, 30);
        assert_true(s >= 1 && s <= 2);
        least = s < least ? s : least;
        most = s > most ? s : most;
    }
    assert_true(least < 1.2 && most > 1.8);
    assert_true(nb_backoff_s(1, 0.5, 30) <= 0.5);
    assert_true(nb_backoff_s(4000000000u, 0.5, 30) <= 30);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kinds),   cmocka_unit_test(rules),  cmocka_unit_test(requests),
        cmocka_unit_test(guarded), cmocka_unit_test(timers), cmocka_unit_test(backoff),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
