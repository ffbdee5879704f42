#include "service/guard.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- kinds of addresses ---- */

struct range4 {
    uint8_t bytes[4];
    int bits;
    const char *what;
};

static const struct range4 ranges4[] = {
    {{0, 0, 0, 0}, 8, "this network (0.0.0.0/8)"},
    {{10, 0, 0, 0}, 8, "a private address (10.0.0.0/8)"},
    {{100, 64, 0, 0}, 10, "shared between customers of a provider (100.64.0.0/10)"},
    {{127, 0, 0, 0}, 8, "loopback (127.0.0.0/8)"},
    {{168, 63, 129, 16}, 32, "a cloud's own service (168.63.129.16)"},
    {{169, 254, 0, 0}, 16, "link-local (169.254.0.0/16)"},
    {{172, 16, 0, 0}, 12, "a private address (172.16.0.0/12)"},
    {{192, 0, 0, 0}, 24, "for protocols (192.0.0.0/24)"},
    {{192, 0, 2, 0}, 24, "for documentation (192.0.2.0/24)"},
    {{192, 88, 99, 0}, 24, "a relay of 6to4 (192.88.99.0/24)"},
    {{192, 168, 0, 0}, 16, "a private address (192.168.0.0/16)"},
    {{198, 18, 0, 0}, 15, "for benchmarks (198.18.0.0/15)"},
    {{198, 51, 100, 0}, 24, "for documentation (198.51.100.0/24)"},
    {{203, 0, 113, 0}, 24, "for documentation (203.0.113.0/24)"},
    {{224, 0, 0, 0}, 4, "multicast (224.0.0.0/4)"},
    {{240, 0, 0, 0}, 4, "reserved, or broadcast (240.0.0.0/4)"},
};

struct range6 {
    uint8_t bytes[16];
    int bits;
    const char *what;
};

/* Within 2000::/3, the only part of IPv6 that is routed. */
static const struct range6 ranges6[] = {
    {{0x20, 0x01, 0x00}, 23, "for protocols, Teredo among them (2001::/23)"},
    {{0x20, 0x01, 0x0d, 0xb8}, 32, "for documentation (2001:db8::/32)"},
    {{0x20, 0x02}, 16, "6to4 (2002::/16)"},
    {{0x3f, 0xff, 0x00}, 20, "for documentation (3fff::/20)"},
};

/* Outside of it, to say which it is; the last one is all. */
static const struct range6 others6[] = {
    {{[15] = 1}, 128, "loopback (::1)"},         {{0}, 128, "unspecified (::)"},
    {{0xfc}, 7, "a private address (fc00::/7)"}, {{0xfe, 0x80}, 10, "link-local (fe80::/10)"},
    {{0xff}, 8, "multicast (ff00::/8)"},         {{0}, 0, "outside of what IPv6 routes (2000::/3)"},
};

static bool in_range(const uint8_t *address, const uint8_t *range, int bits) {
    int whole = bits / 8, rest = bits % 8;
    return memcmp(address, range, (size_t)whole) == 0 &&
           (!rest || (address[whole] ^ range[whole]) >> (8 - rest) == 0);
}

static const char *special4(const uint8_t *address) {
    for (size_t i = 0; i < sizeof ranges4 / sizeof *ranges4; i++) {
        if (in_range(address, ranges4[i].bytes, ranges4[i].bits))
            return ranges4[i].what;
    }
    return NULL;
}

/* Where an IPv6 address holds the IPv4 address that it stands for; NULL if it does not. */
static const uint8_t *inner4(const uint8_t *address) {
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff},
                         nat64[12] = {0x00, 0x64, 0xff, 0x9b};
    if (in_range(address, mapped, 96) || in_range(address, nat64, 96))
        return address + 12;
    return NULL;
}

static const char *special6(const uint8_t *address) {
    const uint8_t *inner = inner4(address);
    if (inner)
        return special4(inner);
    static const uint8_t routed[16] = {0x20};
    if (in_range(address, routed, 3)) {
        for (size_t i = 0; i < sizeof ranges6 / sizeof *ranges6; i++) {
            if (in_range(address, ranges6[i].bytes, ranges6[i].bits))
                return ranges6[i].what;
        }
        return NULL;
    }
    for (size_t i = 0;; i++) {
        if (in_range(address, others6[i].bytes, others6[i].bits))
            return others6[i].what;
    }
}

const char *nb_address_special(const struct sockaddr *address) {
    if (address->sa_family == AF_INET)
        return special4((const uint8_t *)&((const struct sockaddr_in *)address)->sin_addr);
    if (address->sa_family == AF_INET6)
        return special6((const uint8_t *)&((const struct sockaddr_in6 *)address)->sin6_addr);
    return "no address of the Internet";
}

/* ---- what the operator allows ---- */

/* A name, or else a range of addresses, IPv4 as mapped into IPv6. */
struct rule {
    char *name; /* NULL: a range */
    uint8_t bytes[16];
    int bits;
    uint16_t port; /* 0: any */
};

struct nb_guard {
    struct rule *rules;
    size_t n;
};

static bool read_number(const char *text, long max, long *out) {
    char *end;
    errno = 0;
    *out = strtol(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && !errno && *out <= max;
}

/* Cuts ":PORT" off the end of `text`, and an IPv6 address's brackets. */
static bool cut_port(char **text, uint16_t *port) {
    char *colon = strrchr(*text, ':'), *bracket = strchr(*text, ']');
    long n;
    if (**text == '[') {
        if (!bracket || (bracket[1] && bracket + 1 != colon))
            return false;
        *bracket = 0;
        ++*text;
        if (!bracket[1])
            return true;
    } else if (!colon || strchr(*text, ':') != colon) {
        return true; /* none, or an IPv6 address */
    }
    if (!read_number(colon + 1, 65535, &n) || n == 0)
        return false;
    *colon = 0;
    *port = (uint16_t)n;
    return true;
}

/* An address, or a range of them, as an IPv6 one; false if `text` is neither. */
static bool read_range(char *text, struct rule *out) {
    char *slash = strchr(text, '/');
    uint8_t four[4];
    if (slash)
        *slash = 0;
    bool is4 = inet_pton(AF_INET, text, four) == 1;
    if (is4) {
        memset(out->bytes, 0, 10);
        memset(out->bytes + 10, 0xff, 2);
        memcpy(out->bytes + 12, four, 4);
    } else if (inet_pton(AF_INET6, text, out->bytes) != 1) {
        if (slash)
            *slash = '/';
        return false;
    }
    long bits = is4 ? 32 : 128;
    if (slash && !read_number(slash + 1, bits, &bits)) {
        *slash = '/';
        return false;
    }
    out->bits = (int)bits + (is4 ? 96 : 0);
    return true;
}

static bool is_name(const char *text) {
    size_t n = strlen(text);
    return n > 0 && n < 254 &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") == n;
}

static enum nb_status add_rule(struct nb_guard *guard, char *text, struct nb_error *err) {
    struct rule rule = {0};
    struct rule *grown = realloc(guard->rules, (guard->n + 1) * sizeof *grown);
    if (!grown)
        return nb_fail_memory(err, sizeof *grown, "allowed hosts");
    guard->rules = grown;
    char *whole = strdup(text);
    bool fine = whole && cut_port(&text, &rule.port);
    if (fine && !read_range(text, &rule)) {
        fine = is_name(text);
        rule.name = fine ? strdup(text) : NULL;
    }
    enum nb_status s = NB_OK;
    if (!fine)
        s = nb_fail(err, NB_ERR_ARGUMENT,
                    "allowed hosts: \"%.100s\" is neither a host's name, nor an address, nor a "
                    "range such as 10.1.0.0/16; each may end in a port, [fd00::1]:8080",
                    whole ? whole : "");
    free(whole);
    if (fine)
        guard->rules[guard->n++] = rule;
    return s;
}

enum nb_status nb_guard_open(const char *allow, struct nb_guard **out, struct nb_error *err) {
    *out = NULL;
    struct nb_guard *guard = calloc(1, sizeof *guard);
    char *text = strdup(allow ? allow : ""), *rest = text;
    enum nb_status s = guard && text ? NB_OK : nb_fail_memory(err, sizeof *guard, "allowed hosts");
    for (char *one; s == NB_OK && (one = strtok_r(rest, ", \t\n", &rest));)
        s = add_rule(guard, one, err);
    free(text);
    if (s == NB_OK)
        *out = guard;
    else
        nb_guard_close(guard);
    return s;
}

void nb_guard_close(struct nb_guard *guard) {
    for (size_t i = 0; guard && i < guard->n; i++)
        free(guard->rules[i].name);
    if (guard)
        free(guard->rules);
    free(guard);
}

/* The same name, whatever its case and a dot at its end. */
static bool same_name(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b);
    n -= n && a[n - 1] == '.';
    m -= m && b[m - 1] == '.';
    return n == m && strncasecmp(a, b, n) == 0;
}

const char *nb_guard_refuses(const struct nb_guard *guard, const char *host, uint16_t port,
                             const struct sockaddr *address) {
    uint8_t bytes[16] = {[10] = 0xff, [11] = 0xff};
    if (address->sa_family == AF_INET)
        memcpy(bytes + 12, &((const struct sockaddr_in *)address)->sin_addr, 4);
    else if (address->sa_family == AF_INET6)
        memcpy(bytes, &((const struct sockaddr_in6 *)address)->sin6_addr, 16);
    else
        return "no address of the Internet";
    for (size_t i = 0; i < guard->n; i++) {
        const struct rule *rule = &guard->rules[i];
        if (rule->port && rule->port != port)
            continue;
        if (rule->name ? host && same_name(host, rule->name)
                       : in_range(bytes, rule->bytes, rule->bits))
            return NULL;
    }
    return nb_address_special(address);
}
