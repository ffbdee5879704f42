/* Models that say what a test wants: checkpoints of one layer that does nothing, whose head makes
 * the next token a function of the last one. Where a mask forbids that token, or there is none, all
 * others are equally likely, and the lowest id that is allowed comes: the end, then what closes
 * strings, objects and lists. */
#ifndef NB_TEST_SCRIPTED_H
#define NB_TEST_SCRIPTED_H

#include "checkpoint.h"

/* Writes a checkpoint whose answer, at temperature 0, is pieces [n], one token each, all different,
 * of one byte or more; a piece "[TOOL_CALLS]" is a special token. It begins after <s>, after a line
 * feed, and after "[/INST]". template: the text of its chat template, or NULL. The caller frees it
 * with checkpoint_free. */
void scripted_make(struct checkpoint *c, const char *const *pieces, size_t n, const char *template);

/* The id of <s>; the end token's is 0. */
enum { SCRIPTED_BOS = 1 };

#endif
