/* An installed Python stack, read from its files: what is installed, what was recorded of it, what
 * lies on the disk. Nothing of it is run or imported. */
#ifndef NB_DOCTOR_STACK_H
#define NB_DOCTOR_STACK_H

#include "base/pool.h"
#include "doctor/doctor.h"
#include "doctor/index.h"
#include "doctor/pep508.h"
#include "doctor/pysource.h"

enum { NB_STACK_ROOTS = 16, NB_STACK_NAMED = 5 };

enum nb_file_kind { NB_FILE_OTHER, NB_FILE_PYTHON, NB_FILE_LIBRARY };

/* A file on the disk. */
struct nb_stack_file {
    const char *path; /* from its root: "torch/__init__.py" */
    uint64_t size;
    int32_t record; /* the first record of it, or -1 */
    uint8_t root, kind;
    bool changed; /* it is not what any record says */
    bool stray;   /* within a package whose files are recorded, but recorded by none */
};

/* A line of a RECORD: what a file was when it was installed. */
struct nb_stack_record {
    int32_t dist, next; /* next: of the same file, or -1 */
    uint64_t size;
    bool has_size, has_hash, matches;
    uint8_t hash[32];
};

/* Files of one kind that are not as they should be: how many, and the first few. */
struct nb_stack_list {
    size_t n, n_code;                  /* n_code: of Python or machine code */
    const char *first[NB_STACK_NAMED]; /* code first come first */
};

/* An installed distribution. */
struct nb_stack_dist {
    const char *name, *version_text;
    char normal[128];
    struct nb_version version;
    bool has_version;   /* version_text is one */
    const char *folder; /* "torch-2.3.1.dist-info", from its root */
    uint8_t root;
    const char **requires; /* [n_requires] as Requires-Dist has them */
    size_t n_requires;
    const char *requires_python; /* "" for none */
    bool has_record, editable;
    bool requested;                /* asked for by name, not only required by another */
    bool by_system;                /* the system's own tools keep its files */
    bool egg;                      /* told by egg-info, which has no RECORD */
    size_t n_recorded, n_matching; /* files of its RECORD; those that are as it says */
    struct nb_stack_list missing, changed, stray;
    struct nb_stack_list foreign;     /* extension modules that this Python does not load */
    struct nb_stack_list damaged;     /* changed, and no Python any more */
    struct nb_stack_list overwritten; /* as another distribution brought them */
    int32_t overwriter;               /* … the first that did */
    bool damage_felt;                 /* importing the packages runs a damaged module */
    /* What imports say of files that are lost, set by nb_stack_imports: the first that fails for
     * it, and how many do. */
    const char *lost_message;    /* NULL: none needs a file that is missing */
    const char *foreign_message; /* … an extension module that is for another Python */
    size_t n_lost, n_foreign;
};

/* A module that should be there and is not, by its key. */
struct nb_stack_lost {
    const char *key;
    int32_t dist; /* whose RECORD has it; for a library of another Python -1 */
    int32_t file; /* the library that this Python does not load; -1: the file is missing */
};

/* A module: a .py, a package, a library, or a folder without __init__.py. */
struct nb_stack_module {
    const char *key; /* "torch/_inductor/kernel" */
    int32_t file;    /* index of its .py or library; -1: a folder */
    bool package, library;
    bool hidden; /* by a package of another folder, earlier on the path: it is not there */
    struct nb_py_module *source; /* NULL: not read */
    int32_t dist;                /* that recorded its file, or -1 */
    bool reached;                /* importing some top-level module runs it */
    bool wanted;                 /* … one of a package that was asked for by name */
    int32_t from; /* the module that imports it on the way from the top; -1: it is the top */
    int32_t from_line;
};

struct nb_stack {
    struct nb_arena arena;
    const char *roots[NB_STACK_ROOTS]; /* folders, in the order of sys.path */
    size_t n_roots;
    const char *standard;        /* the folder of the standard library; NULL: not found */
    int python;                  /* 311 for 3.11; 0: not known */
    bool threaded;               /* free-threaded: its extension modules are of their own */
    bool finders;                /* something is installed that finds modules in its own way */
    struct nb_index found;       /* … of which these top-level modules are known by name */
    bool linked[NB_STACK_ROOTS]; /* the folder was added by a .pth file: it may be anything */
    struct nb_stack_place {
        uint64_t device, inode;
    } * places; /* [n_places] that links to folders led to */
    size_t n_places;
    struct nb_markers markers;
    struct nb_stack_file *files;
    size_t n_files, cap_files;
    struct nb_stack_record *records;
    size_t n_records, cap_records;
    struct nb_stack_dist *dists;
    size_t n_dists, cap_dists;
    struct nb_stack_module *modules;
    size_t n_modules, cap_modules;
    struct nb_stack_lost *lost;
    size_t n_lost, cap_lost;
    struct nb_index by_lost; /* keys of modules that are lost */
    struct nb_index gone; /* names of libraries that a RECORD has and the disk has not, to dists */
    char suffix[128];     /* of extension modules, ".cpython-311-x86_64-linux-gnu.so", or "" */
    const char
        *leftover; /* a folder that pip left when it was broken off, "~orch-2.8.0.dist-info" */
    size_t n_leftovers;
    const char *hollow[NB_STACK_NAMED]; /* folders X.dist-info without METADATA */
    size_t n_hollow;
    struct nb_index paths;   /* "0/torch/__init__.py" to files; the number is the root's */
    struct nb_index by_key;  /* to modules */
    struct nb_index by_name; /* normalized names to dists */
    size_t unreadable;       /* folders that could not be opened */
    const char *unreadable_first;
    bool truncated; /* there is more than is looked at */
    uint64_t bytes; /* of all files */
};

/* Finds the stack that `what` names: a folder of packages, the folder of an environment, or a
 * program such as python3, looked for in PATH. Reads what is installed and walks its files. The
 * caller frees *out, on failure too. */
enum nb_status nb_stack_open(const char *what, struct nb_stack *out, struct nb_error *err);
void nb_stack_free(struct nb_stack *stack);

/* Reads the files themselves on the pool's threads: compares them with their records (Python source
 * by its hash; others by size, or where `full` by their hash, too) and reads all Python source. */
enum nb_status nb_stack_read(struct nb_stack *stack, struct nb_pool *pool, bool full,
                             struct nb_error *err);

/* The full path of a file into out[0..size). Returns out. */
const char *nb_stack_path(const struct nb_stack *stack, const struct nb_stack_file *file, char *out,
                          size_t size);

/* The distribution of a normalized name, or NULL. */
const struct nb_stack_dist *nb_stack_find(const struct nb_stack *stack, const char *normal);

/* The distribution that recorded a file, or NULL. */
const struct nb_stack_dist *nb_stack_owner(const struct nb_stack *stack,
                                           const struct nb_stack_file *file);

/* The distribution whose module is lost: that recorded it, or that of its package; -1: none. */
int32_t nb_stack_owner_of_lost(const struct nb_stack *stack, const struct nb_stack_lost *lost);

/* What is wrong with the requirements of what is installed. */
void nb_stack_requirements(const struct nb_stack *stack, struct nb_findings *findings);

/* Imports that what is installed cannot satisfy. Marks what importing the packages reaches. */
void nb_stack_imports(struct nb_stack *stack, struct nb_findings *findings);

/* What is wrong with the files; after nb_stack_imports, which knows what they do harm to. */
void nb_stack_files(struct nb_stack *stack, struct nb_findings *findings);

/* Libraries that do not resolve, and the code in them for the target. */
void nb_stack_libraries(struct nb_stack *stack, struct nb_pool *pool,
                        const struct nb_gpu_table *table, const struct nb_target *target,
                        struct nb_findings *findings);

#endif
