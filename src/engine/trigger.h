/* Answers that are free until they begin something that has a grammar: the part of a generator that
 * sees where that is. Others call such grammars lazy. */
#ifndef NB_ENGINE_TRIGGER_H
#define NB_ENGINE_TRIGGER_H

#include "engine/structure.h"

enum nb_watch_phase {
    NB_WATCH_HELD, /* the grammar holds: all the time, where there is no trigger */
    NB_WATCH_FREE,
    NB_WATCH_ENDING, /* the grammar's text is whole; trigger->end comes */
    NB_WATCH_OVER,   /* and nothing more */
};

struct nb_watch {
    const struct nb_trigger *trigger; /* NULL: none */
    enum nb_watch_phase phase;
    struct nb_buf text; /* free text since the grammar held last: all of it while an opening may
                         * come, else what may be the beginning of trigger->text */
    struct nb_matcher
        *opening; /* follows `text`; NULL: there is none, or it cannot come any more */
    struct nb_matcher_mark begin; /* of the follower: before the grammar's text */
    struct nb_tokens end;         /* trigger->end, of which n_ended have come */
    size_t n_ended;
};

/* Watches an answer of `follower`, which stays where it is as long as the watch. What the trigger
 * points to is the caller's. On failure the watch is to be closed, too. */
enum nb_status nb_watch_open(const struct nb_trigger *trigger, struct nb_follower *follower,
                             struct nb_watch *out, struct nb_error *err);
void nb_watch_close(struct nb_watch *watch); /* all zero is allowed */

/* Whether a token may come where the answer is free: one that begins what has a grammar, and goes
 * on in its bytes as that grammar does not, may not. */
bool nb_watch_allows(struct nb_watch *watch, struct nb_follower *follower, int32_t token);

/* The token that came where the answer is free, number n_before of it; from here on the grammar
 * holds, if this token begins it. */
enum nb_status nb_watch_take(struct nb_watch *watch, struct nb_follower *follower, int32_t token,
                             size_t n_before, struct nb_error *err);

/* After tokens that the follower has taken: whether its text is whole. */
void nb_watch_look(struct nb_watch *watch, const struct nb_follower *follower);

/* The token that must come next in NB_WATCH_ENDING, else -1; and that it came. */
int32_t nb_watch_awaited(const struct nb_watch *watch);
void nb_watch_took_awaited(struct nb_watch *watch);

#endif
