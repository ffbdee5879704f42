/* Finding a checkpoint: a folder, or a repository in the Hugging Face cache. Nothing is downloaded.
 */
#ifndef NB_MODEL_CACHE_H
#define NB_MODEL_CACHE_H

#include "base/error.h"

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>

/* The folder of a checkpoint into out[0..size): `name` itself if it is a folder; else, for a
 * repository such as "mistralai/Mixtral-8x7B-Instruct-v0.1" or the same with "@revision", its
 * snapshot in the first cache that has it: $HF_HUB_CACHE, $HF_HOME/hub, $HF_HOME (volumes without
 * hub/), $XDG_CACHE_HOME/huggingface/hub, ~/.cache/huggingface/hub. The revision is "main", a
 * branch or tag in refs/, or a commit or the beginning of one. NB_ERR_IO says where was looked.
 * Layout: huggingface_hub's, models--ORG--NAME/{refs/REVISION, snapshots/COMMIT/}. */
enum nb_status nb_checkpoint_find(const char *name, char *out, size_t size, struct nb_error *err);

/* The caches that were named above and are there, first come first: at most `max` of them into out,
 * each [PATH_MAX] bytes. Returns how many. */
size_t nb_cache_folders(char (*out)[PATH_MAX], size_t max);

/* folder/tokenizer.json or else folder/tokenizer.model into out[0..size); false if there is
 * neither. */
bool nb_tokenizer_path(const char *folder, char *out, size_t size);

#endif
