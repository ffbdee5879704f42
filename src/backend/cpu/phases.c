#include "backend/cpu/phases.h"

#include "base/log.h"

#include <string.h>
#include <time.h>

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void nb_phases_begin(struct nb_phases *p) {
    memset(p->ns, 0, sizeof p->ns);
    memset(p->bytes, 0, sizeof p->bytes);
    p->at_ns = now_ns();
}

void nb_phases_mark(struct nb_phases *p, enum nb_phase phase, uint64_t bytes) {
    int64_t now = now_ns();
    p->ns[phase] += now - p->at_ns;
    p->bytes[phase] += bytes;
    p->at_ns = now;
}

void nb_phases_end(struct nb_phases *p, size_t tokens) {
    int kind = tokens == 1 ? 0 : tokens <= 64 ? 1 : 2;
    for (int i = 0; i < NB_PHASES; i++) {
        if (!p->of[kind].passes || p->ns[i] < p->of[kind].least_ns[i])
            p->of[kind].least_ns[i] = p->ns[i];
        p->of[kind].ns[i] += p->ns[i];
        p->of[kind].bytes[i] += p->bytes[i];
    }
    p->of[kind].passes++;
    p->of[kind].tokens += tokens;
}

void nb_phases_log(const struct nb_phases *p) {
    static const char *const names[NB_PHASES] = {
        "embed", "norm", "q k v", "rope", "attend", "o", "router", "gate up", "down", "add", "head",
    };
    for (int k = 0; k < NB_PHASE_KINDS; k++) {
        if (!p->of[k].passes)
            continue;
        double passes = (double)p->of[k].passes, all = 0;
        for (int i = 0; i < NB_PHASES; i++)
            all += (double)p->of[k].ns[i];
        nb_log(NB_LOG_DEBUG, "cpu: %.0f passes of %.1f tokens, %.3f ms each", passes,
               (double)p->of[k].tokens / passes, all / passes * 1e-6);
        for (int i = 0; i < NB_PHASES; i++) {
            double mean = (double)p->of[k].ns[i] / passes,
                   bytes = (double)p->of[k].bytes[i] / passes;
            nb_log(NB_LOG_DEBUG,
                   "cpu: %8s %9.3f ms, at best %9.3f; %4.1f %%; %6.1f GB/s, at best %.1f", names[i],
                   mean * 1e-6, (double)p->of[k].least_ns[i] * 1e-6,
                   (double)p->of[k].ns[i] / all * 100, bytes / mean,
                   bytes / (double)p->of[k].least_ns[i]);
        }
    }
}
