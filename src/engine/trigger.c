#include "engine/trigger.h"

#include <string.h>

enum nb_status nb_watch_open(const struct nb_trigger *trigger, struct nb_follower *follower,
                             struct nb_watch *out, struct nb_error *err) {
    *out = (struct nb_watch){.trigger = trigger, .phase = trigger ? NB_WATCH_FREE : NB_WATCH_HELD};
    if (!trigger)
        return NB_OK;
    out->begin = nb_matcher_mark(follower->matcher);
    enum nb_status s = NB_OK;
    if (trigger->end)
        s = nb_tokenizer_encode(follower->engine->tokenizer, trigger->end, strlen(trigger->end),
                                NB_ENCODE_CONTINUE, &out->end, err);
    if (s == NB_OK && trigger->opening) {
        struct nb_structure what = {.regex = trigger->opening, .name = "trigger"};
        struct nb_grammar *grammar;
        s = nb_grammar_compile(follower->engine, &what, &grammar, err);
        if (s == NB_OK) {
            s = nb_matcher_open(grammar, &out->opening, err);
            nb_grammar_release(grammar); /* the matcher keeps it */
        }
    }
    return s;
}

void nb_watch_close(struct nb_watch *w) {
    nb_buf_free(&w->text);
    nb_matcher_close(w->opening);
    nb_tokens_free(&w->end);
    *w = (struct nb_watch){0};
}

/* ---- where it begins ---- */

/* Where the grammar's text begins: with text [n_before] that came before, and from byte `from` of
 * the token's on. */
struct place {
    size_t n_before, from;
};

/* By an opening, which is itself the beginning of the grammar's text. *possible: it may still come
 * after these bytes. */
static bool opens(struct nb_watch *w, const char *bytes, size_t n, bool *possible) {
    struct nb_matcher_mark mark = nb_matcher_mark(w->opening);
    bool found = false;
    *possible = true;
    for (size_t i = 0; i < n && *possible && !found; i++) {
        *possible = nb_matcher_accept_bytes(w->opening, bytes + i, 1);
        found = *possible && nb_matcher_can_end(w->opening);
    }
    nb_matcher_reset(w->opening, &mark);
    return found;
}

/* By a text, which may have begun in earlier tokens: the end of the first one, in the token. */
static bool follows(const struct nb_watch *w, const char *bytes, size_t n, size_t *from) {
    const char *text = w->trigger->text;
    size_t n_text = strlen(text), n_held = w->text.len;
    for (size_t end = 1; end <= n; end++) { /* the text's last byte is the token's end - 1 */
        if (n_held + end < n_text)
            continue;
        size_t here = end < n_text ? end : n_text, there = n_text - here;
        if (memcmp(bytes + end - here, text + there, here) == 0 &&
            (!there || memcmp(w->text.data + n_held - there, text, there) == 0)) {
            *from = end;
            return true;
        }
    }
    return false;
}

static bool begins(struct nb_watch *w, int32_t token, const char *bytes, size_t n,
                   struct place *out) {
    bool possible;
    *out = (struct place){0};
    if (w->trigger->token >= 0 && token == w->trigger->token)
        return true; /* its own bytes, if it has any, are the first of the grammar's text */
    if (w->trigger->text && follows(w, bytes, n, &out->from))
        return true;
    out->n_before = w->text.len;
    out->from = 0;
    return w->opening && opens(w, bytes, n, &possible);
}

/* Gives the grammar its text's beginning; false if that is not how it begins. */
static bool enter(struct nb_watch *w, struct nb_follower *f, const char *bytes, size_t n,
                  const struct place *at) {
    nb_matcher_reset(f->matcher, &w->begin);
    return nb_matcher_accept_bytes(f->matcher, w->text.data, at->n_before) &&
           nb_matcher_accept_bytes(f->matcher, bytes + at->from, n - at->from);
}

bool nb_watch_allows(struct nb_watch *w, struct nb_follower *f, int32_t token) {
    size_t n;
    const char *bytes = nb_tokenizer_bytes(f->engine->tokenizer, token, &n);
    struct place at;
    if (!begins(w, token, bytes, n, &at))
        return true;
    bool good = enter(w, f, bytes, n, &at);
    nb_matcher_reset(f->matcher, &w->begin);
    return good;
}

/* Keeps of free text what a beginning may need. */
static void remember(struct nb_watch *w, const char *bytes, size_t n) {
    bool possible = false;
    if (w->opening) {
        opens(w, bytes, n, &possible);
        if (possible) {
            nb_matcher_accept_bytes(w->opening, bytes, n);
        } else {
            nb_matcher_close(w->opening);
            w->opening = NULL;
        }
    }
    nb_buf_add(&w->text, bytes, n);
    size_t most = w->trigger->text ? strlen(w->trigger->text) - 1 : 0;
    if (!w->opening && !w->text.failed && w->text.len > most) {
        memmove(w->text.data, w->text.data + w->text.len - most, most);
        w->text.len = most;
    }
}

enum nb_status nb_watch_take(struct nb_watch *w, struct nb_follower *f, int32_t token,
                             size_t n_before, struct nb_error *err) {
    size_t n;
    const char *bytes = nb_tokenizer_bytes(f->engine->tokenizer, token, &n);
    struct place at;
    if (!begins(w, token, bytes, n, &at)) {
        remember(w, bytes, n);
        return w->text.failed ? nb_fail_memory(err, w->text.len, "the text") : NB_OK;
    }
    if (!enter(w, f, bytes, n, &at))
        return nb_fail(err, NB_ERR_INTERNAL, "token %d begins no text of the grammar", token);
    f->bytes.len = 0;
    f->first = n_before + 1;
    nb_buf_add(&f->bytes, w->text.data, at.n_before);
    nb_buf_add(&f->bytes, bytes + at.from, n - at.from);
    w->text.len = 0;
    w->phase = NB_WATCH_HELD;
    return f->bytes.failed ? nb_fail_memory(err, f->bytes.len, "the answer") : NB_OK;
}

/* ---- and where it ends ---- */

static void leave(struct nb_watch *w) {
    w->phase = w->trigger->end && !w->trigger->once ? NB_WATCH_FREE : NB_WATCH_OVER;
}

void nb_watch_look(struct nb_watch *w, const struct nb_follower *f) {
    if (!w->trigger || w->phase != NB_WATCH_HELD || !nb_matcher_can_end(f->matcher))
        return;
    w->n_ended = 0;
    w->phase = NB_WATCH_ENDING;
    if (!w->end.n)
        leave(w);
}

int32_t nb_watch_awaited(const struct nb_watch *w) {
    return w->phase == NB_WATCH_ENDING ? w->end.ids[w->n_ended] : -1;
}

void nb_watch_took_awaited(struct nb_watch *w) {
    if (++w->n_ended == w->end.n)
        leave(w);
}
