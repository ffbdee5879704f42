/* Python source, read for two things: what a module imports, and which names it has once imported.
 * Nothing is executed, so both are bounds: every name that some way through the module could bind
 * is counted as there, and an import that some way through it avoids is marked as conditional. */
#ifndef NB_DOCTOR_PYSOURCE_H
#define NB_DOCTOR_PYSOURCE_H

#include "base/arena.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* `import MODULE` (name NULL), or one name of `from MODULE import NAME`; "*" for a star. Only
 * imports at the level of the module, not those in functions and classes. */
struct nb_py_import {
    const char *module; /* "a.b"; "" for `from . import x` */
    const char *name;
    int level; /* dots before the module: 0 is absolute */
    int line;
    /* Not reached on every way through the module: under if, else, try, except, for, while, match,
     * with suppress(…), or after a raise. */
    bool conditional;
    bool typing; /* under `if TYPE_CHECKING` */
    bool tried;  /* conditional, and a failure is expected: under try, except, suppress(…) */
};

struct nb_py_module {
    struct nb_py_import *imports; /* [n_imports] */
    size_t n_imports;
    uint64_t *names; /* [n_names], nb_py_hash of each that may be bound, in ascending order */
    size_t n_names;
    bool lazy; /* has __getattr__, puts something else in its place in sys.modules, or has a finder
                */
    bool dynamic; /* uses globals(), exec, vars() or locals(): it may have any name */
    bool damaged; /* no Python: it holds NUL, or ends inside a string or a parenthesis */
};

/* Reads text[0..n). Memory is the arena's. False if memory ran out. Time is in proportion to n. */
bool nb_py_read(const char *text, size_t n, struct nb_arena *arena, struct nb_py_module *out);

/* FNV-1a of a name, as `names` holds it. */
uint64_t nb_py_hash(const char *name, size_t n);

bool nb_py_has(const struct nb_py_module *module, uint64_t hash);

/* The value of a module-level `NAME = 'text'` (or NAME: type = 'text') at the beginning of a line,
 * into out[0..size); false if there is none. For __version__ and the like. */
bool nb_py_string(const char *text, size_t n, const char *name, char *out, size_t size);

#endif
