/* Whether a number that has been begun can become one that its schema allows. */
#include "grammar/state.h"

/* An interval on the side of its sign: magnitudes from `from` up to `to`, `to` itself not, unless
 * they are equal. */
struct span {
    struct nb_decimal from, to;
    bool negative;
};

static struct nb_decimal magnitude(struct nb_decimal v) {
    v.negative = false;
    return v;
}

static bool is_zero(struct nb_decimal v) {
    return !v.digits && !v.more;
}

static struct nb_decimal signed_as(struct nb_decimal v, bool negative) {
    v.negative = negative && !is_zero(v);
    return v;
}

/* A bound of the conjunction of all atoms. */
struct bounds {
    struct nb_decimal least, most, multiple_of;
    bool has_least, has_most, above, below, integer, has_multiple;
    const struct nb_atom *list; /* one of these numbers, too */

    bool once; /* an item that must not come twice */
    bool open; /* no conjunction: numbers are tried, and judged by the formula */
    struct nb_reader *reader;
    const struct nb_state *state;
};

static void gather(const struct nb_shape *shape, struct bounds *b) {
    for (uint32_t i = 0; i < shape->n_atoms; i++) {
        const struct nb_atom *a = shape->atoms[i];
        if (a->kind == NB_ATOM_NUMBERS) {
            if (!b->list || a->n < b->list->n)
                b->list = a;
            continue;
        }
        b->integer |= a->integer;
        if (a->has_multiple) {
            b->has_multiple = true;
            b->multiple_of = a->multiple_of;
        }
        if (a->has_least) {
            int c = b->has_least ? nb_decimal_compare(a->least, b->least) : 1;
            if (c > 0 || (c == 0 && a->above_least)) {
                b->least = a->least;
                b->above = a->above_least;
            }
            b->has_least = true;
        }
        if (a->has_most) {
            int c = b->has_most ? nb_decimal_compare(a->most, b->most) : -1;
            if (c < 0 || (c == 0 && a->below_most)) {
                b->most = a->most;
                b->below = a->below_most;
            }
            b->has_most = true;
        }
    }
}

static bool all_hold(const struct nb_shape *shape, struct nb_decimal v) {
    for (uint32_t i = 0; i < shape->n_atoms; i++) {
        if (!nb_number_holds(shape->atoms[i], v, nb_decimal_is_integer(v)))
            return false;
    }
    return true;
}

/* Whether a number would do, as the value of the state that is asked about. */
static bool fits(const struct bounds *b, const struct nb_shape *shape, struct nb_decimal v) {
    if (b->once && nb_number_repeats(b->state, v))
        return false;
    return b->open ? nb_number_would_do(b->reader, b->state, v) : all_hold(shape, v);
}

static bool within(const struct span *span, struct nb_decimal v) {
    if (!is_zero(v) && v.negative != span->negative)
        return false;
    int c = nb_decimal_compare(magnitude(v), span->from);
    return c == 0 || (c > 0 && nb_decimal_compare(magnitude(v), span->to) < 0);
}

/* Whether some multiple of `step` is at least `low` (above it, if `open`), and below or at what
 * `fits` says. */
static bool multiple_fits(const struct bounds *b, const struct nb_shape *shape,
                          const struct span *span, struct nb_decimal low, bool open,
                          struct nb_decimal step) {
    struct nb_decimal v, zero = {0};
    if (!nb_decimal_next_multiple(low, step, &v)) {
        /* Too many digits to divide, which happens next to zero, and then need not be done. */
        if (nb_decimal_compare(magnitude(low), step) >= 0)
            return true;
        v = nb_decimal_compare(low, zero) > 0 ? step : zero;
    }
    if (open && nb_decimal_compare(v, low) == 0)
        v = nb_decimal_add(v, step);
    /* A second multipleOf may want some more steps, and so may items that were there. */
    uint32_t steps = 64 + (b->once ? b->state->top->count : 0);
    struct nb_decimal last = span->negative ? signed_as(span->from, true) : span->to;
    for (uint32_t i = 0; i < steps; i++, v = nb_decimal_add(v, step)) {
        if (nb_decimal_compare(v, last) > 0)
            return false;
        if (within(span, v) && fits(b, shape, v))
            return true;
        if (v.digits >> 100)
            return true;
    }
    return false;
}

static int count_digits(unsigned __int128 d) {
    int n = 0;
    for (; d; d /= 10)
        n++;
    return n;
}

/* Whether a number, its sign put aside, begins as what was read, and would do. */
static bool try_number(const struct bounds *b, struct nb_decimal v) {
    const struct nb_state *s = b->state;
    const struct nb_number *n = &s->number;
    v = nb_decimal_normal(v);
    v.negative = n->negative && !is_zero(v);
    /* What would have too many digits is not written. */
    int digits = count_digits(v.digits);
    if (v.exponent < 0 ? digits > NB_MOST_FRACTION_DIGITS
                       : digits + v.exponent > NB_DECIMAL_DIGITS - 1)
        return false;
    if (s->phase != NB_NUMBER_MINUS) {
        /* Digits before the point decide how many more were to come. */
        int whole = count_digits(v.digits) + v.exponent;
        int more = (whole > 0 ? whole : 1) - n->n_whole;
        struct span span = {.negative = n->negative};
        if (more < 0 || (more > 0 && s->phase != NB_NUMBER_INTEGER))
            return false;
        struct nb_decimal at = {.digits = n->digits, .exponent = n->scale + more};
        struct nb_decimal up = {.digits = n->digits + 1, .exponent = n->scale + more};
        span.from = nb_decimal_normal(at);
        span.to = nb_decimal_normal(up);
        if (!within(&span, v))
            return false;
    }
    return nb_number_would_do(b->reader, s, v);
}

/* For any formula: what was read as it is, or with some digits more; numbers that atoms speak of,
 * and those beside them. */
static bool open_alive(const struct nb_shape *shape, const struct bounds *b) {
    static const int32_t finer[] = {-1, -2, -4, 1, 2, 4, 9};
    const struct nb_number *n = &b->state->number;
    struct nb_decimal value = {.digits = n->digits, .exponent = n->scale}, v;
    struct nb_decimal one = {.digits = 1}, below = {.digits = 1, .negative = true};
    struct nb_decimal tenth = {.digits = 1, .exponent = -1};
    value = nb_decimal_normal(value);
    if (try_number(b, value))
        return true;
    for (int i = 0; i < 7; i++) {
        struct nb_decimal last = {.digits = 1, .exponent = n->scale + (i < 3 ? finer[i] : 0)};
        v = value;
        if (i >= 3 && !is_zero(v))
            v.exponent += finer[i];
        if ((i >= 3 && try_number(b, v)) || try_number(b, nb_decimal_add(v, last)))
            return true;
    }
    for (uint32_t i = 0; i < shape->n_atoms; i++) {
        const struct nb_atom *a = shape->atoms[i];
        struct nb_decimal known[2] = {magnitude(a->least), magnitude(a->most)};
        for (uint32_t k = 0; a->kind == NB_ATOM_NUMBERS && k < a->n; k++) {
            if (a->numbers[k].negative == n->negative && try_number(b, magnitude(a->numbers[k])))
                return true;
        }
        for (int k = 0; k < 2 && a->kind == NB_ATOM_NUMBER; k++) {
            if ((k ? a->has_most : a->has_least) &&
                (try_number(b, known[k]) || try_number(b, nb_decimal_add(known[k], one)) ||
                 try_number(b, nb_decimal_add(known[k], below)) ||
                 try_number(b, nb_decimal_add(known[k], tenth))))
                return true;
        }
        for (int more = 0; a->has_multiple && more < 3; more++) {
            v = value;
            v.exponent += is_zero(v) ? 0 : more;
            if (!nb_decimal_next_multiple(v, a->multiple_of, &v))
                continue;
            for (int k = 0; k < 12; k++, v = nb_decimal_add(v, a->multiple_of)) {
                if (try_number(b, v))
                    return true;
            }
        }
    }
    return false;
}

/* Whether the span holds a number that fulfils all atoms. */
static bool span_fits(const struct nb_shape *shape, const struct bounds *b,
                      const struct span *span) {
    if (b->list) {
        for (uint32_t i = 0; i < b->list->n; i++) {
            if (within(span, b->list->numbers[i]) && fits(b, shape, b->list->numbers[i]))
                return true;
        }
        return false;
    }
    if (nb_decimal_compare(span->from, span->to) == 0)
        return fits(b, shape, signed_as(span->from, span->negative));
    /* The lower end, as a value, and whether it is part of the span. */
    struct nb_decimal low = span->from, high = span->to;
    bool low_open = false, high_open = true;
    if (span->negative) {
        low = signed_as(span->to, true);
        high = signed_as(span->from, true);
        low_open = true;
        high_open = false;
    }
    if (b->has_least) {
        int c = nb_decimal_compare(b->least, low);
        if (c >= 0) {
            low_open = c > 0 ? b->above : low_open || b->above;
            low = b->least;
        }
    }
    if (b->has_most) {
        int c = nb_decimal_compare(b->most, high);
        if (c <= 0) {
            high_open = c < 0 ? b->below : high_open || b->below;
            high = b->most;
        }
    }
    int c = nb_decimal_compare(low, high);
    if (c > 0 || (c == 0 && (low_open || high_open)))
        return false;
    if (b->has_multiple)
        return multiple_fits(b, shape, span, low, low_open, b->multiple_of);
    if (b->integer)
        return multiple_fits(b, shape, span, low, low_open, nb_decimal_from_int(1));
    return true;
}

static struct nb_decimal scaled(struct nb_decimal v, int32_t by) {
    if (!is_zero(v))
        v.exponent += by;
    return v;
}

/* digits + 1 in the last place. */
static struct nb_decimal next_up(const struct nb_number *n, int32_t scale) {
    return nb_decimal_normal((struct nb_decimal){.digits = n->digits + 1, .exponent = scale});
}

/* Exponents that are written: floats are, from 1e16 up and below 1e-4. */
static bool exponent_fits(const struct bounds *b, const struct nb_shape *shape,
                          const struct nb_state *s, int32_t e) {
    const struct nb_number *n = &s->number;
    for (uint32_t i = 0; i < shape->n_atoms; i++) {
        if (shape->atoms[i]->integer && shape->atoms[i]->written_integer)
            return false;
    }
    struct nb_decimal v = {
        .digits = n->digits, .exponent = n->scale + e, .negative = n->negative && n->digits};
    return fits(b, shape, nb_decimal_normal(v));
}

static bool exponent_alive(const struct bounds *b, const struct nb_shape *shape,
                           const struct nb_state *s) {
    const struct nb_number *n = &s->number;
    bool fresh = s->phase == NB_NUMBER_E, signless = s->phase <= NB_NUMBER_SIGN;
    for (int32_t e = 0; e <= 300; e++) {
        int32_t prefix = e, more = 0;
        /* What was written must begin e, zeros in front aside, and leave room for the rest. */
        for (; !signless && prefix > n->exponent; more++)
            prefix /= 10;
        if (!signless && (prefix != n->exponent || n->n_exponent + more > 3))
            continue;
        bool negative = n->exponent_negative;
        if ((fresh || negative) && exponent_fits(b, shape, s, -e))
            return true;
        if ((fresh || !negative) && exponent_fits(b, shape, s, e))
            return true;
    }
    return false;
}

bool nb_number_alive(struct nb_reader *r, const struct nb_state *s) {
    struct nb_shape *shape = s->shape;
    const struct nb_number *n = &s->number;
    struct bounds b = {.reader = r, .state = s, .once = nb_state_once(r, s)};
    if (!shape->n_atoms && !b.once)
        return true;
    if (shape->conjunction && s->kills)
        gather(shape, &b);
    else
        b.open = true;
    if (s->phase >= NB_NUMBER_E)
        return exponent_alive(&b, shape, s);
    if (b.open && open_alive(shape, &b))
        return true;
    struct nb_decimal value = {.digits = n->digits, .exponent = n->scale};
    struct span span = {.negative = n->negative};
    value = nb_decimal_normal(value);
    if (b.open) {
        /* An exponent is all that is left. */
    } else if (s->phase == NB_NUMBER_POINT || s->phase == NB_NUMBER_FRACTION) {
        for (uint32_t i = 0; i < shape->n_atoms; i++) {
            if (shape->atoms[i]->integer && shape->atoms[i]->written_integer)
                return false;
        }
        span.from = value;
        span.to = next_up(n, n->scale);
        if (span_fits(shape, &b, &span))
            return true;
    } else {
        if (s->phase == NB_NUMBER_MINUS)
            span.to = (struct nb_decimal){.digits = 1, .exponent = 60};
        /* As many more digits as may be written. */
        int32_t room = NB_DECIMAL_DIGITS - 1 - (s->phase == NB_NUMBER_MINUS ? 0 : n->n_digits);
        for (int32_t more = 0; more <= room; more++) {
            if (s->phase != NB_NUMBER_MINUS) {
                span.from = scaled(value, more);
                span.to = scaled(next_up(n, n->scale), more);
            }
            if (span_fits(shape, &b, &span))
                return true;
            if (s->phase != NB_NUMBER_INTEGER)
                break;
            if ((b.has_most || b.list) && !n->negative && !b.list &&
                nb_decimal_compare(span.from, b.most) > 0)
                break;
        }
    }
    /* An exponent can still come after one digit; with a fraction, not for a whole number: nobody
     * writes 5.5e16 who means 55000000000000000. */
    for (uint32_t i = 0; i < shape->n_atoms && s->phase == NB_NUMBER_FRACTION; i++) {
        if (shape->atoms[i]->integer && shape->conjunction)
            return false;
    }
    return n->n_whole == 1 && n->n_digits == 1 - n->scale && s->phase != NB_NUMBER_POINT &&
           (exponent_fits(&b, shape, s, 16) || exponent_fits(&b, shape, s, 300) ||
            exponent_fits(&b, shape, s, -6) || exponent_fits(&b, shape, s, -300));
}
