/* A text as far as it was read: a JSON parser's state, and for each open value what is still asked
 * of it. States are small values; what they point to is immutable and shared. */
#ifndef NB_GRAMMAR_STATE_H
#define NB_GRAMMAR_STATE_H

#include "grammar/space.h"

enum nb_reading_flags {
    NB_READ_FLEXIBLE = 1,  /* white space between tokens */
    NB_READ_ANY_ORDER = 2, /* members in any order, else in the schema's */
    /* Any escapes, exponents and zeros: as a validator reads, where nothing is yet to be written.
     * Without it a text has one spelling wherever that matters for its meaning: in keys and in
     * strings that a schema limits, characters are escaped only where they must be; exponents are
     * for numbers that are large or small, with one digit before the point. */
    NB_READ_ANY_SPELLING = 4,
    NB_READ_ONCE = 8, /* no state is gone on from twice, as a validator reads */
};

/* Hashes of an object's keys that no atom names, or of an array's items: a tree in which a hash's
 * bits, the lowest first, lead to it. A set with one more shares all of the old one but the way to
 * it, so that both can be gone on from. */
struct nb_seen {
    uint64_t hash;
    const struct nb_seen *child[2];
};

bool nb_seen_has(const struct nb_seen *seen, uint64_t hash);

/* Hashes as a reader makes them: of a key or a string, and of any value. */
uint64_t nb_hash_string(const char *text, size_t n);
uint64_t nb_hash_value(const struct nb_value *value);

/* An open array or object. Equal ones are one, so that they can be told by their address. */
struct nb_frame {
    const struct nb_frame *parent; /* NULL: the outermost */
    const struct nb_link *link;    /* what the value means to the parent */
    struct nb_shape *shape;
    const struct nb_seen *seen;
    uint64_t hash;  /* of what was read of the value, if `hashes` */
    uint64_t key;   /* objects: hash of the key whose value is open, if `hashes` */
    uint32_t count; /* items or members */
    uint32_t place; /* objects: in the schema's order, where the next member may be */
    uint32_t depth;
    uint32_t n_extra;
    bool kills;       /* any root of the shape that is false ends it all */
    bool hashes;      /* an array around asks for unique items */
    uint64_t extra[]; /* objects: keys seen, a bit each; arrays: counters */
};

enum nb_mode {
    NB_MODE_DEAD,
    NB_MODE_VALUE,  /* a value comes */
    NB_MODE_ITEM,   /* after '[': an item, or ']' */
    NB_MODE_MEMBER, /* after '{': a key, or '}' */
    NB_MODE_KEY,    /* a key comes */
    NB_MODE_IN_KEY,
    NB_MODE_COLON,
    NB_MODE_STRING,
    NB_MODE_NUMBER,
    NB_MODE_WORD,  /* true, false, null */
    NB_MODE_AFTER, /* after a value in a container */
    NB_MODE_DONE,
    NB_MODE_RAW, /* no JSON: an automaton over the bytes */
};

/* Within a string. */
enum nb_lexis {
    NB_LEX_PLAIN,
    NB_LEX_TAIL_1, /* so many bytes of a character are missing */
    NB_LEX_TAIL_2,
    NB_LEX_TAIL_3,
    NB_LEX_E0, /* after these bytes of UTF-8, which narrow the next one */
    NB_LEX_ED,
    NB_LEX_F0,
    NB_LEX_F4,
    NB_LEX_ESCAPE,
    NB_LEX_HEX,  /* in \u0000: `digits` of them are read */
    NB_LEX_PAIR, /* after a high surrogate: \ comes */
    NB_LEX_PAIR_U,
};

enum nb_number_phase {
    NB_NUMBER_MINUS,
    NB_NUMBER_ZERO,
    NB_NUMBER_INTEGER,
    NB_NUMBER_POINT,
    NB_NUMBER_FRACTION,
    NB_NUMBER_E,
    NB_NUMBER_SIGN,
    NB_NUMBER_EXPONENT,
};

struct nb_state {
    const struct nb_frame *top;
    const struct nb_link *link; /* of the value that comes or is open */
    struct nb_shape *shape;     /* of a string, number or word that is open */
    uint64_t hash;              /* of a key, or of a value where it matters */
    uint32_t at;                /* in a string: of its set, language or machine; NB_MODE_RAW */
    uint32_t node;              /* in a key: of the family's trie */
    uint32_t length;            /* code points of a string */
    uint8_t mode, lexis, digits, word;
    uint16_t code, high; /* escapes */
    uint8_t phase;
    bool kills; /* any root that is false ends it all */
    bool hashes;
    bool lost; /* the string's only root is false, and that is not the end */
    struct nb_number {
        unsigned __int128 digits;
        int32_t scale, exponent;
        uint8_t n_digits, n_whole; /* significant digits; digits before the point */
        bool negative, more, exponent_negative;
        uint8_t n_exponent;
    } number;
};

/* What was found out of a string of several roots in one place: it depends on what is around, and
 * on the string by its machine's state alone. */
enum { NB_N_OUTLOOKS = 64 };
struct nb_outlook {
    const struct nb_frame *top;
    const struct nb_link *link;
    const struct nb_shape *shape; /* NULL: nothing is known here */
    const uint64_t *verdict;
    /* 0 nobody asked yet, 1 yes, 2 no. By state: whether one in which the string may end can be
     * reached. By set of components: whether it may end where those accept, and whether it need not
     * be wrong where those are alive. */
    uint8_t *reaches, *ends, *goes_on;
    uint32_t n_states, n_sets;
};

/* Where states are made: one for a sequence, or for a text to validate. */
struct nb_reader {
    struct nb_space *space;
    unsigned flags;
    struct nb_lazy *raw; /* NB_MODE_RAW */
    enum nb_status failed;
    /* A number had more digits, or a larger exponent, than are kept, and what it was asked hung on
     * them: only where any spelling is read. */
    bool inexact;
    /* Not NULL: any end of the outermost value is taken, and the roots of its site that are false
     * are noted here: room for all of them. */
    uint64_t *verdict;

    struct nb_arena arena;
    struct nb_frame **slots; /* open addressing, by content */
    uint32_t n_slots, n_frames;
    struct nb_frame *draft; /* the frame that is being made */
    size_t draft_bytes;
    struct nb_outlook *outlooks; /* [NB_N_OUTLOOKS], by hash; NULL until needed */
};

enum { NB_MAX_NESTING = 1000 };

/* Digits that count of a number that is written with a point; a double has 17. */
enum { NB_MOST_FRACTION_DIGITS = 24 };

/* The state before any byte. */
void nb_state_start(struct nb_reader *reader, struct nb_state *out);
void nb_reader_free(struct nb_reader *reader);

/* The state after one more byte in *out (which may not be `in`); false if no text that may follow
 * makes it right, as far as a look at this byte can tell. reader->failed or reader->space->failed
 * say so if that is for want of memory, or beyond a limit. */
bool nb_state_step(struct nb_reader *reader, const struct nb_state *in, struct nb_state *out,
                   uint8_t byte);

/* Whether the text may end here. */
bool nb_state_can_end(struct nb_reader *reader, const struct nb_state *state);

/* The state once an open number ends; false if it cannot end here. */
bool nb_state_end_number(struct nb_reader *reader, const struct nb_state *in, struct nb_state *out);

/* The number as far as it was read. */
struct nb_decimal nb_state_number(const struct nb_state *state);

/* Whether an atom about numbers holds. written: as its digits are written, not only its value. */
bool nb_number_holds(const struct nb_atom *atom, struct nb_decimal value, bool written_whole);

/* Whether the state's value is an item that ends all if it came before. */
bool nb_state_once(struct nb_reader *reader, const struct nb_state *state);
/* Whether a number came before as an item of the array that the state's value is in. */
bool nb_number_repeats(const struct nb_state *state, struct nb_decimal value);

/* Whether an open number may end as this one: it may not make false what must be true. */
bool nb_number_would_do(struct nb_reader *reader, const struct nb_state *state,
                        struct nb_decimal value);

/* Whether an open string with one root may end as one that fulfils it, and as one that does not. */
void nb_string_ends(struct nb_reader *reader, const struct nb_state *state, bool *fulfilled,
                    bool *failed);
/* nb_lazy_way_out of an open string that has a language. */
uint32_t nb_string_way_out(struct nb_reader *reader, const struct nb_state *state, bool *stretches);
/* Whether a string of several roots, whose machine comes to state `to`, is no dead end there. */
bool nb_string_alive(struct nb_reader *reader, const struct nb_state *state, uint32_t to);

/* Whether the number that has been begun can become one that is allowed. */
bool nb_number_alive(struct nb_reader *reader, const struct nb_state *state);

/* Whether it is all over if those roots of the value in `link` below `parent` are false. */
bool nb_state_doomed(struct nb_reader *reader, const struct nb_frame *parent,
                     const struct nb_link *link, const uint64_t *wrong);

/* Whether an object's member of this rank may come now, and one that has another key. */
bool nb_member_possible(struct nb_reader *reader, const struct nb_frame *frame, uint32_t rank);
bool nb_others_possible(struct nb_reader *reader, const struct nb_frame *frame);
/* Whether what led the machine of its keys to `state` can be the beginning of such another key. */
bool nb_others_begin(struct nb_reader *reader, const struct nb_frame *frame, uint32_t state);
/* How many such keys begin so, of the frame's patterns: exactly, if they are fewer than `want`;
 * else `want`, or where that is too hard to tell. */
uint64_t nb_others_left(struct nb_reader *reader, const struct nb_frame *frame, uint32_t state,
                        uint64_t want);
/* How many keys may be taken at most, by what came before or because they have names. */
uint64_t nb_others_taken(const struct nb_frame *frame);

#endif
