/* Where a forward pass spends its time: a table in the debug log when the backend is closed. */
#ifndef NB_BACKEND_CPU_PHASES_H
#define NB_BACKEND_CPU_PHASES_H

#include <stddef.h>
#include <stdint.h>

enum nb_phase {
    NB_PHASE_EMBED,
    NB_PHASE_NORM,
    NB_PHASE_QKV,  /* each product: with its activations' way to fixed point */
    NB_PHASE_ROPE, /* and storing keys and values */
    NB_PHASE_ATTEND,
    NB_PHASE_O,
    NB_PHASE_ROUTER,
    NB_PHASE_GATE_UP, /* and silu */
    NB_PHASE_DOWN,
    NB_PHASE_ADD,
    NB_PHASE_HEAD,
    NB_PHASES,
};

/* Passes are told apart by how many tokens they have: one, a few, many. */
enum { NB_PHASE_KINDS = 3 };

struct nb_phases {
    int64_t at_ns;             /* when the phase that runs began */
    int64_t ns[NB_PHASES];     /* of the pass that runs */
    uint64_t bytes[NB_PHASES]; /* of weights, that it read */
    struct {
        uint64_t passes, tokens;
        int64_t ns[NB_PHASES], least_ns[NB_PHASES]; /* of all passes, and of the best of each */
        uint64_t bytes[NB_PHASES];
    } of[NB_PHASE_KINDS];
};

/* A pass begins. */
void nb_phases_begin(struct nb_phases *p);

/* What was done since the last call was `phase`, and read so many bytes of weights. */
void nb_phases_mark(struct nb_phases *p, enum nb_phase phase, uint64_t bytes);

/* The pass, of so many tokens, has ended. */
void nb_phases_end(struct nb_phases *p, size_t tokens);

/* The table, a line for each phase that took time. Nothing without a pass. */
void nb_phases_log(const struct nb_phases *p);

#endif
