/* Counters and histograms, as Prometheus reads them (text format 0.0.4). */
#ifndef NB_SERVICE_METRICS_H
#define NB_SERVICE_METRICS_H

#include "base/buf.h"

#include <pthread.h>
#include <stdint.h>

enum { NB_METRICS_BUCKETS = 18, NB_METRICS_ROUTES = 16, NB_METRICS_STATUSES = 16 };

/* Seconds, in buckets from 100 us up, each 2.5 or 2 times the last. */
struct nb_histogram {
    uint64_t bucket[NB_METRICS_BUCKETS + 1];
    double sum;
    uint64_t count;
};

struct nb_metrics {
    pthread_mutex_t lock;
    struct {
        const char *route; /* a constant */
        int status[NB_METRICS_STATUSES];
        uint64_t count[NB_METRICS_STATUSES];
    } routes[NB_METRICS_ROUTES];
    struct nb_histogram request, waiting, first_token, token_gap;
};

void nb_metrics_open(struct nb_metrics *metrics);
void nb_metrics_close(struct nb_metrics *metrics);

/* A request is over. route: a constant string; status 0: the client went away. */
void nb_metrics_request(struct nb_metrics *metrics, const char *route, int status, double seconds);
void nb_metrics_observe(struct nb_metrics *metrics, struct nb_histogram *histogram, double seconds);

/* Appends what it counted. */
void nb_metrics_write(struct nb_metrics *metrics, struct nb_buf *out);

/* Appends one value: "# HELP", "# TYPE" and the line. */
void nb_metrics_value(struct nb_buf *out, const char *name, const char *type, const char *help,
                      double value);

#endif
