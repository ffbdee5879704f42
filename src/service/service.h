/* A model behind HTTP: the OpenAI-compatible routes, classification, operations. */
#ifndef NB_SERVICE_SERVICE_H
#define NB_SERVICE_SERVICE_H

#include "nibble/nibble.h"

struct nb_service;

struct nb_service_options {
    const char *host;         /* an address; NULL: 127.0.0.1 */
    uint16_t port;            /* 0: any that is free */
    const char *api_key_file; /* as auth.h has it; NULL: everybody may ask */
    const char *model_name;   /* what the API calls it; NULL: the engine's */
    const char *allow_origin; /* CORS; NULL: none */
    size_t max_running;       /* sequences in a step; 0: as many as there is KV memory for */
    size_t max_waiting;       /* requests; 0: 1024 */
    size_t max_body_bytes;    /* 0: 8 MiB */
    unsigned max_connections; /* 0: 4096 */
    double timeout_s;         /* of an answer; 0: 600 */
    unsigned idle_s;          /* of a connection, see http.h; 0: 75 */
    const char *prompts; /* folders of /prompt: STAGE.txt and STAGE.json; NULL: it is not there */
    const char *schemas;
    const char *actions; /* SOFTWARE/ACTION.json: schemas of single actions; NULL: none */
    bool no_listener;    /* requests do not come over HTTP but from a worker's queue */
};

/* Takes requests once this returns. The engine stays the caller's, who closes it after the service.
 */
enum nb_status nb_service_open(struct nb_engine *engine, const struct nb_service_options *options,
                               struct nb_service **out, struct nb_error *err);
uint16_t nb_service_port(const struct nb_service *service);

/* Reads the keys again; on failure they stay. */
enum nb_status nb_service_reload(struct nb_service *service, struct nb_error *err);

/* Says "not ready", takes no more connections and requests, and waits for what runs: false if that
 * took longer than timeout_s. */
bool nb_service_drain(struct nb_service *service, double timeout_s);
void nb_service_close(struct nb_service *service); /* NULL is allowed */

#endif
