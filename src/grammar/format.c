#include "grammar/format.h"

#include "grammar/idna.h"

#include <string.h>

/* ---- Patterns ---- */

/* RFC 3986, RFC 5321 and RFC 4291 in the names of their grammars. */
#define OCTET "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
#define IPV4  OCTET "(\\." OCTET "){3}"
#define H16   "[0-9A-Fa-f]{1,4}"
#define LS32  "(" H16 ":" H16 "|" IPV4 ")"
#define IPV6                                                                                       \
    "(" H16 ":){6}" LS32 "|::(" H16 ":){5}" LS32 "|(" H16 ")?::(" H16 ":){4}" LS32 "|((" H16       \
    ":){0,1}" H16 ")?::(" H16 ":){3}" LS32 "|((" H16 ":){0,2}" H16 ")?::(" H16 ":){2}" LS32        \
    "|((" H16 ":){0,3}" H16 ")?::" H16 ":" LS32 "|((" H16 ":){0,4}" H16 ")?::" LS32 "|((" H16      \
    ":){0,5}" H16 ")?::" H16 "|((" H16 ":){0,6}" H16 ")?::"

#define UNRESERVED "A-Za-z0-9\\-._~"
#define SUB_DELIMS "!$&'()*+,;="
#define PERCENT    "%[0-9A-Fa-f]{2}"
#define PCHARS     "([" UNRESERVED SUB_DELIMS ":@]|" PERCENT ")"
#define REG_NAME   "([" UNRESERVED SUB_DELIMS "]|" PERCENT ")*"
#define USERINFO   "([" UNRESERVED SUB_DELIMS ":]|" PERCENT ")*"
#define IP_LITERAL "\\[(" IPV6 "|[vV][0-9A-Fa-f]+\\.[" UNRESERVED SUB_DELIMS ":]+)\\]"
#define AUTHORITY  "(" USERINFO "@)?(" IP_LITERAL "|" REG_NAME ")(:[0-9]*)?"
#define SCHEME     "[A-Za-z][A-Za-z0-9+\\-.]*"
#define ABEMPTY    "(/" PCHARS "*)*"
#define ABSOLUTE   "/(" PCHARS "+" ABEMPTY ")?"
#define ROOTLESS   PCHARS "+" ABEMPTY
#define NO_SCHEME  "([" UNRESERVED SUB_DELIMS "@]|" PERCENT ")+" ABEMPTY
#define TAIL       "(\\?(" PCHARS "|[/?])*)?(#(" PCHARS "|[/?])*)?"
#define URI        SCHEME ":(//" AUTHORITY ABEMPTY "|" ABSOLUTE "|" ROOTLESS "|)" TAIL
#define RELATIVE   "(//" AUTHORITY ABEMPTY "|" ABSOLUTE "|" NO_SCHEME "|)" TAIL

#define ATEXT        "[A-Za-z0-9!#$%&'*+/=?\\^_`{|}~\\-]"
#define QUOTED       "\"([ !#-\\[\\]-~]|\\\\[ -~])*\""
#define LABEL        "[A-Za-z0-9]([A-Za-z0-9\\-]{0,61}[A-Za-z0-9])?"
#define DOMAIN       LABEL "(\\." LABEL ")*"
#define MAIL_LITERAL "\\[(" IPV4 "|[Ii][Pp][Vv]6:(" IPV6 "))\\]"
#define EMAIL        "(" ATEXT "+(\\." ATEXT "+)*|" QUOTED ")@(" DOMAIN "|" MAIL_LITERAL ")"

/* RFC 3339, appendix A. */
#define DUR_TIME "T([0-9]+H([0-9]+M([0-9]+S)?)?|[0-9]+M([0-9]+S)?|[0-9]+S)"
#define DUR_DATE "([0-9]+D|[0-9]+M([0-9]+D)?|[0-9]+Y([0-9]+M([0-9]+D)?)?)"
#define DURATION "P(" DUR_DATE "(" DUR_TIME ")?|" DUR_TIME "|[0-9]+W)"

#define UUID "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"

#define POINTER          "(/([^/~]|~[01])*)*"
#define RELATIVE_POINTER "(0|[1-9][0-9]*)(#|" POINTER ")"

static const struct nb_format formats[] = {
    {"date", NULL, NB_MACHINE_DATE},
    {"time", NULL, NB_MACHINE_TIME},
    {"date-time", NULL, NB_MACHINE_DATE_TIME},
    {"hostname", NULL, NB_MACHINE_HOSTNAME},
    {"duration", DURATION, 0},
    {"email", EMAIL, 0},
    {"ipv4", IPV4, 0},
    {"ipv6", IPV6, 0},
    {"uri", URI, 0},
    {"uri-reference", "(" URI "|" RELATIVE ")", 0},
    {"uuid", UUID, 0},
    {"json-pointer", POINTER, 0},
    {"relative-json-pointer", RELATIVE_POINTER, 0},
};

/* duration and uuid came with 2019-09; before, they are names like any other, and schemas that use
 * them mean what they say. */
const struct nb_format *nb_format_find(const char *name, size_t n, enum nb_format_draft draft) {
    (void)draft;
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
        if (strlen(formats[i].name) == n && !memcmp(formats[i].name, name, n))
            return &formats[i];
    return NULL;
}

bool nb_format_known(const char *name, size_t n) {
    return nb_format_find(name, n, NB_FORMAT_2020_12) != NULL;
}

/* ---- Machines ---- */

/* Whether there is an i-th letter, digit or sign that a machine tells from others. */
bool nb_format_bytes(uint32_t machine, uint32_t i, uint8_t out[2]) {
    static const char of_times[] = "0123456789+-.:TtZz", of_hosts[] = "0123456789-.";
    bool hosts = machine == NB_MACHINE_HOSTNAME;
    const char *bytes = hosts ? of_hosts : of_times;
    uint32_t n = (uint32_t)strlen(bytes);
    if (i < n) {
        out[0] = out[1] = (uint8_t)bytes[i];
        return true;
    }
    /* A host name's letters count as digits of Punycode, in either case. */
    out[0] = (uint8_t)('A' + (i - n));
    out[1] = (uint8_t)('a' + (i - n));
    return hosts && i - n < 26;
}

/* A date, then a time, as RFC 3339 has them. The state is a place in the text and what of the text
 * before it still matters, as few bits of that as will do. */
enum place {
    DEAD,
    YEAR_1,  /* what matters: nothing */
    YEAR_2,  /* the first digit's parity */
    YEAR_3,  /* whether the century is a leap year's */
    YEAR_4,  /* that, and the third digit: 0, odd, or even */
    YEAR_5,  /* the hyphen; whether the year is a leap year */
    MONTH_1, /* the same */
    MONTH_2, /* and the first digit */
    MONTH_3, /* the hyphen; the number of days */
    DAY_1,   /* the same */
    DAY_2,   /* and the first digit */
    DAY_END, /* the T; nothing */
    HOUR_1,
    HOUR_2,   /* the first digit */
    HOUR_3,   /* the colon; the hour */
    MINUTE_1, /* the hour */
    MINUTE_2, /* the hour and the first digit */
    MINUTE_3, /* the colon; the minute of the day */
    SECOND_1, /* the same */
    SECOND_2, /* nothing: not a leap second */
    SECOND_3, /* a point or an offset */
    FRACTION_1,
    FRACTION, /* digits or an offset */
    /* The same after a 6: the leap second at 23:59:60 UTC. What matters: the minute of the day. */
    LEAP_2,
    LEAP_3,
    LEAP_FRACTION_1,
    LEAP_FRACTION,
    OFFSET_1, /* nothing */
    OFFSET_2, /* the first digit */
    OFFSET_3,
    OFFSET_4,
    OFFSET_5,
    /* Of a leap second: the offset that it must be, in minutes. */
    LEAP_OFFSET_1,
    LEAP_OFFSET_2,
    LEAP_OFFSET_3,
    LEAP_OFFSET_4,
    LEAP_OFFSET_5,
    END,
};

static uint64_t at(enum place place, uint32_t memory) {
    return (uint64_t)place | (uint64_t)memory << 8;
}

enum { MINUTES_OF_DAY = 24 * 60, LAST_MINUTE = MINUTES_OF_DAY - 1 };

static uint64_t step_date(enum place place, uint32_t memory, uint8_t byte) {
    static const uint8_t days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    uint32_t d = byte - (uint32_t)'0', month;
    bool digit = byte >= '0' && byte <= '9', leap;
    if (place == YEAR_5 || place == MONTH_3)
        return byte == '-' ? at(place + 1, memory) : 0;
    if (!digit)
        return 0;
    switch (place) {
    case YEAR_1:
        return at(YEAR_2, d & 1);
    case YEAR_2:
        return at(YEAR_3, (2 * memory + d) % 4 == 0);
    case YEAR_3: /* 2: zero, 1: odd, 0: even */
        return at(YEAR_4, memory | (d == 0 ? 2 : d & 1) << 1);
    case YEAR_4:
        leap = memory >> 1 == 2 && d == 0 ? memory & 1 : (2 * (memory >> 1 & 1) + d) % 4 == 0;
        return at(YEAR_5, leap);
    case MONTH_1:
        return d <= 1 ? at(MONTH_2, memory | d << 1) : 0;
    case MONTH_2:
        month = 10 * (memory >> 1) + d;
        if (month < 1 || month > 12)
            return 0;
        return at(MONTH_3, days[month - 1] + (month == 2 ? memory & 1 : 0));
    case DAY_1:
        return d <= memory / 10 ? at(DAY_2, memory | d << 8) : 0;
    default: /* DAY_2 */
        d += 10 * (memory >> 8);
        return d >= 1 && d <= (memory & 0xFF) ? at(DAY_END, 0) : 0;
    }
}

/* What may follow seconds and fractions. */
static uint64_t step_offset_sign(uint8_t byte, bool leap, uint32_t minute) {
    if (byte == 'Z' || byte == 'z')
        return !leap || minute == LAST_MINUTE ? at(END, 0) : 0;
    if (byte != '+' && byte != '-')
        return 0;
    if (!leap)
        return at(OFFSET_1, 0);
    uint32_t ahead = (minute + MINUTES_OF_DAY - LAST_MINUTE) % MINUTES_OF_DAY;
    return at(LEAP_OFFSET_1, byte == '+' ? ahead : (MINUTES_OF_DAY - ahead) % MINUTES_OF_DAY);
}

static uint64_t step_second(enum place place, uint32_t memory, uint8_t byte) {
    uint32_t d = byte - (uint32_t)'0';
    bool digit = byte >= '0' && byte <= '9';
    switch (place) {
    case SECOND_1:
        return digit && d <= 5 ? at(SECOND_2, 0) : byte == '6' ? at(LEAP_2, memory) : 0;
    case SECOND_2:
        return digit ? at(SECOND_3, 0) : 0;
    case SECOND_3:
        return byte == '.' ? at(FRACTION_1, 0) : step_offset_sign(byte, false, 0);
    case FRACTION_1:
        return digit ? at(FRACTION, 0) : 0;
    case FRACTION:
        return digit ? at(FRACTION, 0) : step_offset_sign(byte, false, 0);
    case LEAP_2:
        return byte == '0' ? at(LEAP_3, memory) : 0;
    case LEAP_3:
        return byte == '.' ? at(LEAP_FRACTION_1, memory) : step_offset_sign(byte, true, memory);
    case LEAP_FRACTION_1:
        return digit ? at(LEAP_FRACTION, memory) : 0;
    default: /* LEAP_FRACTION */
        return digit ? at(LEAP_FRACTION, memory) : step_offset_sign(byte, true, memory);
    }
}

static uint64_t step_offset(enum place place, uint32_t memory, uint8_t byte) {
    uint32_t d = byte - (uint32_t)'0';
    bool digit = byte >= '0' && byte <= '9';
    switch (place) {
    case OFFSET_1:
        return digit && d <= 2 ? at(OFFSET_2, d == 2) : 0;
    case OFFSET_2:
        return digit && (!memory || d <= 3) ? at(OFFSET_3, 0) : 0;
    case OFFSET_3:
        return byte == ':' ? at(OFFSET_4, 0) : 0;
    case OFFSET_4:
        return digit && d <= 5 ? at(OFFSET_5, 0) : 0;
    case OFFSET_5:
        return digit ? at(END, 0) : 0;
    case LEAP_OFFSET_1:
        return digit && d == memory / 600 ? at(LEAP_OFFSET_2, memory % 600) : 0;
    case LEAP_OFFSET_2:
        return digit && d == memory / 60 ? at(LEAP_OFFSET_3, memory % 60) : 0;
    case LEAP_OFFSET_3:
        return byte == ':' ? at(LEAP_OFFSET_4, memory) : 0;
    case LEAP_OFFSET_4:
        return digit && d == memory / 10 ? at(LEAP_OFFSET_5, memory % 10) : 0;
    default: /* LEAP_OFFSET_5 */
        return digit && d == memory ? at(END, 0) : 0;
    }
}

static uint64_t step_time(enum place place, uint32_t memory, uint8_t byte) {
    uint32_t d = byte - (uint32_t)'0';
    bool digit = byte >= '0' && byte <= '9';
    switch (place) {
    case HOUR_1:
        return digit && d <= 2 ? at(HOUR_2, d) : 0;
    case HOUR_2:
        return digit && (memory < 2 || d <= 3) ? at(HOUR_3, 10 * memory + d) : 0;
    case HOUR_3:
        return byte == ':' ? at(MINUTE_1, memory) : 0;
    case MINUTE_1:
        return digit && d <= 5 ? at(MINUTE_2, memory * 60 + 10 * d) : 0;
    case MINUTE_2:
        return digit ? at(MINUTE_3, memory + d) : 0;
    case MINUTE_3:
        return byte == ':' ? at(SECOND_1, memory) : 0;
    default:
        return place < OFFSET_1 ? step_second(place, memory, byte)
                                : step_offset(place, memory, byte);
    }
}

/* RFC 1123 with the lengths of RFC 1035, and RFC 5891 for labels of Punycode. The number: bytes in
 * all, bytes of the label, whether the last is a hyphen, how much of "xn--" the label is; never 0,
 * for the first bit. */
enum { MAX_HOST_BYTES = 253, MAX_LABEL_BYTES = NB_IDNA_MAX_LABEL };
static const char punycode[] = "xn--";

static uint64_t host(uint32_t total, uint32_t label, bool hyphen, uint32_t prefix) {
    return 1 | (uint64_t)total << 8 | (uint64_t)label << 16 | (uint64_t)hyphen << 24 |
           (uint64_t)prefix << 25;
}

/* Whether the label may end here. */
static bool label_ends(const struct nb_format_state *s) {
    uint32_t label = s->number >> 16 & 0xFF;
    bool hyphen = s->number >> 24 & 1;
    return s->n ? nb_idna_a_label(s->label, s->n) : label && !hyphen;
}

/* Whether a label of Punycode can end at all, in so many bytes more. */
static bool label_lives(const struct nb_format_state *s, uint32_t room) {
    char text[NB_IDNA_MAX_LABEL];
    if (room > 2)
        return true;
    if (room == 0)
        return nb_idna_a_label(s->label, s->n);
    int more = nb_idna_complete(s->label, s->n, text); /* tries all of one byte */
    return (more >= 0 && (uint32_t)more <= room) || room == 2;
}

static void step_hostname(struct nb_format_state *s, uint8_t byte) {
    uint32_t total = s->number >> 8 & 0xFF, label = s->number >> 16 & 0xFF;
    uint32_t prefix = s->number >> 25 & 7;
    uint8_t lower = byte >= 'A' && byte <= 'Z' ? byte | 0x20 : byte;
    bool alnum = (lower >= '0' && lower <= '9') || (lower >= 'a' && lower <= 'z');
    bool dot = byte == '.';
    if (total == MAX_HOST_BYTES || (dot ? total + 1 == MAX_HOST_BYTES || !label_ends(s)
                                        : label == MAX_LABEL_BYTES || (!alnum && byte != '-'))) {
        *s = (struct nb_format_state){0};
        return;
    }
    if (dot) {
        *s = (struct nb_format_state){.number = host(total + 1, 0, false, 0)};
        return;
    }
    if (prefix < 4)
        prefix = prefix == label && lower == (uint8_t)punycode[prefix] ? prefix + 1 : 0;
    total++;
    label++;
    uint32_t room = MAX_LABEL_BYTES - label < MAX_HOST_BYTES - total ? MAX_LABEL_BYTES - label
                                                                     : MAX_HOST_BYTES - total;
    if (prefix == 4 && !s->n) {
        memcpy(s->label, punycode, 4);
        s->n = 4;
    } else if (prefix == 4) {
        s->label[s->n++] = (char)lower;
    }
    s->number = host(total, label, byte == '-', prefix);
    /* A hyphen needs something before and after it. */
    if ((byte == '-' && (label == 1 || !room)) || (s->n && !label_lives(s, room)))
        *s = (struct nb_format_state){0};
}

static uint64_t start_number(uint32_t machine) {
    switch ((enum nb_format_machine)machine) {
    case NB_MACHINE_DATE:
    case NB_MACHINE_DATE_TIME:
        return at(YEAR_1, 0);
    case NB_MACHINE_TIME:
        return at(HOUR_1, 0);
    case NB_MACHINE_HOSTNAME:
        return host(0, 0, false, 0);
    }
    return 0;
}

void nb_format_start(uint32_t machine, struct nb_format_state *out) {
    *out = (struct nb_format_state){.number = start_number(machine)};
}

static uint64_t step_number(uint32_t machine, uint64_t state, uint8_t byte) {
    enum place place = (enum place)(state & 0xFF);
    uint32_t memory = (uint32_t)(state >> 8);
    if (place < DAY_END)
        return step_date(place, memory, byte);
    if (place == DAY_END)
        return machine == NB_MACHINE_DATE_TIME && (byte == 'T' || byte == 't') ? at(HOUR_1, 0) : 0;
    return place == END ? 0 : step_time(place, memory, byte);
}

void nb_format_step(uint32_t machine, const struct nb_format_state *in, uint8_t byte,
                    struct nb_format_state *out) {
    if (out != in)
        *out = *in;
    if (machine == NB_MACHINE_HOSTNAME)
        step_hostname(out, byte);
    else
        out->number = step_number(machine, in->number, byte);
}

bool nb_format_accepts(uint32_t machine, const struct nb_format_state *state) {
    enum place place = (enum place)(state->number & 0xFF);
    switch ((enum nb_format_machine)machine) {
    case NB_MACHINE_DATE:
        return place == DAY_END;
    case NB_MACHINE_TIME:
    case NB_MACHINE_DATE_TIME:
        return place == END;
    case NB_MACHINE_HOSTNAME:
        return state->number && label_ends(state);
    }
    return false;
}

int nb_format_finish(uint32_t machine, const struct nb_format_state *state,
                     char out[NB_FORMAT_TEXT]) {
    return machine == NB_MACHINE_HOSTNAME && state->n
               ? nb_idna_complete(state->label, state->n, out)
               : -1;
}
