/* What space.c and shape.c share. */
#ifndef NB_GRAMMAR_SHAPE_H
#define NB_GRAMMAR_SHAPE_H

#include "grammar/space.h"

/* n zeroed objects that live as long as the space; NULL, and space->failed, beyond its bounds. */
void *nb_space_alloc(struct nb_space *space, size_t n, size_t size);

/* The strings that fulfil a formula over atoms about strings; NULL as above. */
struct nb_language *nb_language_of(struct nb_space *space, nb_formula f);

/* Frees what shapes and languages hold outside the arena. */
void nb_shapes_free(struct nb_space *space);

#endif
