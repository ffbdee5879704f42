/* Whether the files that a checkpoint is mapped from are still what they were.
 *
 * A mapping follows its file: one that is written to changes the weights underneath, and one that
 * is cut short makes reading them deadly (SIGBUS). One that is deleted, or replaced by another of
 * its name, does no harm: the mapping keeps the old one.
 */
#ifndef NB_SERVICE_FILES_H
#define NB_SERVICE_FILES_H

#include "base/error.h"

struct nb_files;

/* Remembers the safetensors files of a folder as they are now. The caller closes *out. */
enum nb_status nb_files_open(const char *folder, struct nb_files **out, struct nb_error *err);
void nb_files_close(struct nb_files *files); /* NULL is allowed */

/* NB_ERR_FORMAT if one of them has another length or time of writing than it had; microseconds a
 * file. Any thread. */
enum nb_status nb_files_check(const struct nb_files *files, struct nb_error *err);

#endif
