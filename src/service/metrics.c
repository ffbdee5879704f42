#include "service/metrics.h"

#include <string.h>

static const double bounds[NB_METRICS_BUCKETS] = {
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1,    0.25,    0.5,    1,     2.5,    5,     10,   30,    100,
};

void nb_metrics_open(struct nb_metrics *metrics) {
    *metrics = (struct nb_metrics){0};
    pthread_mutex_init(&metrics->lock, NULL);
}

void nb_metrics_close(struct nb_metrics *metrics) {
    pthread_mutex_destroy(&metrics->lock);
}

static void observe(struct nb_histogram *h, double seconds) {
    int i = 0;
    while (i < NB_METRICS_BUCKETS && seconds > bounds[i])
        i++;
    h->bucket[i]++;
    h->sum += seconds;
    h->count++;
}

void nb_metrics_observe(struct nb_metrics *metrics, struct nb_histogram *histogram,
                        double seconds) {
    pthread_mutex_lock(&metrics->lock);
    observe(histogram, seconds);
    pthread_mutex_unlock(&metrics->lock);
}

void nb_metrics_request(struct nb_metrics *metrics, const char *route, int status, double seconds) {
    pthread_mutex_lock(&metrics->lock);
    for (int i = 0; i < NB_METRICS_ROUTES; i++) {
        if (!metrics->routes[i].route)
            metrics->routes[i].route = route;
        if (strcmp(metrics->routes[i].route, route) != 0)
            continue;
        for (int j = 0; j < NB_METRICS_STATUSES; j++) {
            if (metrics->routes[i].count[j] && metrics->routes[i].status[j] != status)
                continue;
            metrics->routes[i].status[j] = status;
            metrics->routes[i].count[j]++;
            break;
        }
        break;
    }
    observe(&metrics->request, seconds);
    pthread_mutex_unlock(&metrics->lock);
}

static void write_histogram(struct nb_buf *out, const char *name, const char *help,
                            const struct nb_histogram *h) {
    nb_buf_printf(out, "# HELP %s %s\n# TYPE %s histogram\n", name, help, name);
    uint64_t below = 0;
    for (int i = 0; i < NB_METRICS_BUCKETS; i++) {
        below += h->bucket[i];
        nb_buf_printf(out, "%s_bucket{le=\"%g\"} %llu\n", name, bounds[i],
                      (unsigned long long)below);
    }
    nb_buf_printf(out, "%s_bucket{le=\"+Inf\"} %llu\n%s_sum %g\n%s_count %llu\n", name,
                  (unsigned long long)h->count, name, h->sum, name, (unsigned long long)h->count);
}

void nb_metrics_write(struct nb_metrics *metrics, struct nb_buf *out) {
    pthread_mutex_lock(&metrics->lock);
    nb_buf_add_string(out, "# HELP nibble_http_requests_total Requests by route and status; 0: the "
                           "client went away.\n# TYPE nibble_http_requests_total counter\n");
    for (int i = 0; i < NB_METRICS_ROUTES && metrics->routes[i].route; i++) {
        for (int j = 0; j < NB_METRICS_STATUSES && metrics->routes[i].count[j]; j++)
            nb_buf_printf(out, "nibble_http_requests_total{route=\"%s\",status=\"%d\"} %llu\n",
                          metrics->routes[i].route, metrics->routes[i].status[j],
                          (unsigned long long)metrics->routes[i].count[j]);
    }
    write_histogram(out, "nibble_request_seconds", "From a request's head to its end.",
                    &metrics->request);
    write_histogram(out, "nibble_waiting_seconds", "From a request to its first step.",
                    &metrics->waiting);
    write_histogram(out, "nibble_first_token_seconds", "From a request to its first token.",
                    &metrics->first_token);
    write_histogram(out, "nibble_token_gap_seconds", "From a token to the next.",
                    &metrics->token_gap);
    pthread_mutex_unlock(&metrics->lock);
}

void nb_metrics_value(struct nb_buf *out, const char *name, const char *type, const char *help,
                      double value) {
    nb_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n%s %.17g\n", name, help, name, type, name,
                  value);
}
