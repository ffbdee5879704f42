/* Where a request may go whose URL somebody else gave: a callback, a document.
 *
 * Such a URL must not make the service ask its own network: the metadata service of a cloud, a
 * database, itself. So only addresses that anybody on the Internet could reach are allowed, and
 * what the operator names. Names prove nothing, for whoever owns one decides, each time it is
 * asked, what it resolves to: the address is judged that a connection is about to be made to.
 * client.h does so.
 */
#ifndef NB_SERVICE_GUARD_H
#define NB_SERVICE_GUARD_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

struct nb_guard;

/* allow: what is allowed besides, separated by commas or spaces: "books.internal" (whatever it
 * resolves to), "10.1.0.0/16", "fd00::/8", "127.0.0.1"; each of them with ":PORT" for that port
 * only, an IPv6 address then in brackets. NULL or empty: nothing. The caller closes *out. */
enum nb_status nb_guard_open(const char *allow, struct nb_guard **out, struct nb_error *err);
void nb_guard_close(struct nb_guard *guard); /* NULL is allowed */

/* Why a connection to this address may not be made on behalf of a URL with this host and port, as
 * in "a private address (10.0.0.0/8)"; NULL if it may. host: as the URL has it; NULL: none. */
const char *nb_guard_refuses(const struct nb_guard *guard, const char *host, uint16_t port,
                             const struct sockaddr *address);

/* What kind of address it is if not one that the public Internet routes to; else NULL. An IPv4
 * address inside an IPv6 one (mapped, NAT64) is judged for itself. By the registries of special
 * purpose addresses, RFC 6890 and its updates. */
const char *nb_address_special(const struct sockaddr *address);

#endif
