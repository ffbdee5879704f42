/* How much memory a process may still take. */
#ifndef NB_BASE_MEMORY_H
#define NB_BASE_MEMORY_H

#include <stdint.h>

/* Bytes that the system can give without swapping (MemAvailable of /proc/meminfo), and no more than
 * the limit of the container leaves, whose page cache counts as free; 0 if the system does not say.
 */
uint64_t nb_memory_available(void);

#endif
