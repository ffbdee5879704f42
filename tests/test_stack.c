/* The audit of a Python stack: made packages, each with one fault, and what is found. */
#include "folder.h"
#include "test.h"

#include "base/sha256.h"
#include "doctor/python.h"
#include "doctor/stack.h"
#include "doctor/traps.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- a made environment ---- */

static char env[256], site[512]; /* …/lib/python3.12/site-packages */

static void write_bytes(const char *path, const void *data, size_t n) {
    folder_write(site, path, data, n);
}

/* A text in another folder. */
static void put_text(const char *folder, const char *path, const char *text) {
    folder_write(folder, path, text, strlen(text));
}

static void write_text(const char *path, const char *text) {
    write_bytes(path, text, strlen(text));
}

/* A line of a RECORD for what lies at a path. */
static void add_record(FILE *record, const char *path) {
    static const char alphabet[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    char full[1024], text[48] = "";
    static uint8_t data[1 << 16];
    uint8_t hash[33] = {0};
    snprintf(full, sizeof full, "%s/%s", site, path);
    FILE *f = fopen(full, "rb");
    assert_non_null(f);
    size_t n = fread(data, 1, sizeof data, f);
    fclose(f);
    nb_sha256(data, n, hash);
    for (int i = 0; i < 43; i++) {
        int bit = 6 * i;
        unsigned two = (unsigned)hash[bit / 8] << 8 | hash[bit / 8 + 1];
        text[i] = alphabet[two >> (10 - bit % 8) & 63];
    }
    fprintf(record, "\"%s\",sha256=%s,%zu\r\n", path, text, n);
}

/* Installs a package: its METADATA and the RECORD of the files named, which are there. */
static void install(const char *name, const char *version, const char *headers, ...) {
    char path[256], text[2048], full[1024];
    snprintf(path, sizeof path, "%s-%s.dist-info/METADATA", name, version);
    snprintf(text, sizeof text,
             "Metadata-Version: 2.1\nName: %s\nVersion: %s\n%s\n\nRequires-Dist: not-a-header\n",
             name, version, headers);
    write_text(path, text);
    snprintf(full, sizeof full, "%s/%s-%s.dist-info/RECORD", site, name, version);
    FILE *record = fopen(full, "wb");
    assert_non_null(record);
    va_list files;
    va_start(files, headers);
    for (const char *file; (file = va_arg(files, const char *));)
        add_record(record, file);
    va_end(files);
    add_record(record, path);
    fprintf(record, "%s-%s.dist-info/RECORD,,\n../../../bin/x,sha256=abc,5\n", name, version);
    fclose(record);
}

static int begin(void **state) {
    (void)state;
    snprintf(env, sizeof env, "/tmp/nibble-stack-XXXXXX");
    assert_non_null(mkdtemp(env));
    snprintf(site, sizeof site, "%s/lib/python3.12/site-packages", env);
    write_text("good/__init__.py", "from .core import thing\n__version__ = '1.0'\n");
    write_text("good/core.py", "import os\nthing = 1\n");
    install("good", "1.0", "Requires-Python: >=3.8", "good/__init__.py", "good/core.py", NULL);
    return 0;
}

static int end(void **state) {
    (void)state;
    return folder_remove(env);
}

static struct nb_findings findings;
static struct nb_target target;

static void audit(const char *what) {
    struct nb_error err;
    struct nb_gpu_table table;
    struct nb_python_options options = {.threads = 2};
    if (findings.arena.head || findings.list)
        nb_findings_free(&findings);
    nb_findings_init(&findings);
    assert_ok(nb_gpu_table_open(&table, &err), err);
    assert_ok(nb_doctor_python(what, &options, &table, &target, &findings, &err), err);
    nb_gpu_table_free(&table);
    nb_findings_sort(&findings);
}

static const struct nb_finding *find(const char *code, enum nb_severity severity) {
    for (size_t i = 0; i < findings.n; i++) {
        if (strcmp(findings.list[i].code, code) == 0 && findings.list[i].severity == severity)
            return &findings.list[i];
    }
    return NULL;
}

static size_t count(enum nb_severity severity) {
    size_t n = 0;
    for (size_t i = 0; i < findings.n; i++)
        n += findings.list[i].severity == severity;
    return n;
}

static void show(void) {
    for (size_t i = 0; i < findings.n; i++)
        print_message("# %s %s: %s | %s\n", nb_severity_name(findings.list[i].severity),
                      findings.list[i].code, findings.list[i].title, findings.list[i].evidence);
}

/* There is such an error, it comes first, and title and evidence say so. */
static void assert_first(const char *code, const char *title, const char *evidence) {
    const struct nb_finding *f = findings.n ? &findings.list[0] : NULL;
    if (!f || f->severity != NB_SEVERITY_ERROR || strcmp(f->code, code) != 0 ||
        !strstr(f->title, title) || !strstr(f->evidence, evidence)) {
        show();
        fail_msg("expected first: %s: %s (%s)", code, title, evidence);
    }
    assert_true(f->fix[0]);
    assert_false(nb_findings_fit(&findings));
}

static void assert_sound(void) {
    if (count(NB_SEVERITY_ERROR) || count(NB_SEVERITY_WARNING)) {
        show();
        fail_msg("expected no error and no warning");
    }
    assert_true(nb_findings_fit(&findings));
}

/* ---- sound stacks ---- */

/* ---- libraries ---- */

/* A shared library with a dynamic section: what it needs, and perhaps a cubin for sm_80. */
static const char *rodata = ""; /* what the section of constants holds */
static uint16_t machine;        /* that libraries are for; 0: this one */

static void write_library(const char *path, const char *needed, bool code) {
    static uint8_t file[4096];
    static const char names[] = "\0.nv_fatbin\0.shstrtab\0.rodata";
    memset(file, 0, sizeof file);
    Elf64_Ehdr h = {.e_ident = {0x7F, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1},
                    .e_type = ET_DYN,
                    .e_machine = EM_X86_64,
                    .e_phoff = 64,
                    .e_phentsize = sizeof(Elf64_Phdr),
                    .e_phnum = 2,
                    .e_shoff = 2048,
                    .e_shentsize = sizeof(Elf64_Shdr),
                    .e_shnum = 4,
                    .e_shstrndx = 2};
#if defined(__aarch64__)
    h.e_machine = EM_AARCH64;
#endif
    if (machine)
        h.e_machine = machine;
    Elf64_Phdr p[2] = {{.p_type = PT_LOAD, .p_filesz = sizeof file, .p_memsz = sizeof file},
                       {.p_type = PT_DYNAMIC, .p_offset = 256, .p_vaddr = 256, .p_filesz = 64}};
    Elf64_Dyn d[4] = {{DT_STRTAB, {512}}, {DT_STRSZ, {256}}, {DT_NEEDED, {1}}, {DT_NULL, {0}}};
    Elf64_Shdr s[4] = {
        {0},
        {.sh_name = 1, .sh_type = SHT_PROGBITS, .sh_offset = 1024, .sh_size = 104},
        {.sh_name = 12, .sh_type = SHT_STRTAB, .sh_offset = 1536, .sh_size = sizeof names},
        {.sh_name = 22, .sh_type = SHT_PROGBITS, .sh_offset = 3072, .sh_size = 256}};
    static const uint8_t fatbin[] = {0x50, 0xED, 0x55, 0xBA, 1, 0,  16, 0, 88, 0,  0, 0, 0, 0, 0,
                                     0,    2,    0,    1,    1, 64, 0,  0, 0,  24, 0, 0, 0, 0, 0,
                                     0,    0,    0,    0,    0, 0,  0,  0, 0,  0,  7, 0, 1, 0, 80};
    memcpy(file, &h, sizeof h);
    memcpy(file + 64, p, sizeof p);
    memcpy(file + 256, d, sizeof d);
    snprintf((char *)file + 513, 200, "%s", needed);
    snprintf((char *)file + 3072, 256, "%s", rodata);
    memcpy(file + 1024, fatbin, sizeof fatbin);
    memcpy(file + 1536, names, sizeof names);
    s[1].sh_size = code ? 104 : 0;
    memcpy(file + 2048, s, sizeof s);
    write_bytes(path, file, sizeof file);
}

static void test_sound(void **state) {
    (void)state;
    write_text("lazy/__init__.py", "import sys\n"
                                   "_table = {'made': 'lazy.parts'}\n"
                                   "def __getattr__(name):\n    return _table[name]\n");
    write_text("dyn/__init__.py", "for n in ('a', 'b'):\n    globals()[n] = 1\n");
    write_text("star/__init__.py", "from .names import *\nfrom ._c import *\n");
    write_text("star/names.py", "def starred():\n    pass\n");
    write_library("star/_c.cpython-312-x86_64-linux-gnu.so", "libc.so.6", false);
    write_text("user/__init__.py",
               "\"\"\"from nowhere import nothing\n\"\"\"\n"
               "from __future__ import annotations\n"
               "import os, sys as system\n"
               "from typing import TYPE_CHECKING\n"
               "if TYPE_CHECKING:\n    from absent import Type\n    from good import nothing\n"
               "try:\n    import absent\nexcept ImportError:\n    absent = None\n"
               "if system.version_info >= (3, 99):\n    from good import later\n"
               "else:\n    from good import thing\n"
               "from lazy import made\n"
               "from dyn import a, anything\n"
               "from star import starred, from_the_library\n"
               "from good.core import (\n    thing as t,  # a comment\n)\n"
               "from . import sub\n"
               "import good.core as c; from good import core\n"
               "import contextlib\n"
               "with contextlib.suppress(ImportError):\n    import absent\n"
               "def f():\n    from good import gone\n    import absent\n"
               "class C:\n    import absent2\n");
    write_text("user/sub.py", "from ..user import f\n");
    install("lazy", "1.0", "", "lazy/__init__.py", NULL);
    install("dyn", "1.0", "", "dyn/__init__.py", NULL);
    install("star", "1.0", "", "star/__init__.py", "star/names.py",
            "star/_c.cpython-312-x86_64-linux-gnu.so", NULL);
    install("user", "2.0rc1",
            "Requires-Dist: good (>=1.0,<2)\n"
            "Requires-Dist: absent ; python_version < '3.8'\n"
            "Requires-Dist: absent ; extra == 'more'\n"
            "Requires-Dist: lazy~=1.0 ; sys_platform == 'linux' and python_version >= '3.10'",
            "user/__init__.py", "user/sub.py", NULL);
    audit(env);
    assert_sound();
    assert_non_null(find("files", NB_SEVERITY_GOOD));
    assert_non_null(find("requirements", NB_SEVERITY_GOOD));
    audit(site); /* the folder itself will do, too */
    assert_sound();
}

/* Packages of modules that Python has itself: its own come first. */
static void test_backports(void **state) {
    (void)state;
    write_text("typing.py", "from gone import x\nAny = 1\n");
    write_text("concurrent/__init__.py", "import Queue\n");
    install("backports", "1.0", "", "typing.py", "concurrent/__init__.py", NULL);
    write_text("user/__init__.py", "from typing import Literal, Any\n"
                                   "from concurrent.futures import thread\n"
                                   "import concurrent.futures.process\n"
                                   "from .all import Protocol\n");
    write_text("user/all.py", "from typing import *\n");
    install("user", "1.0", "", "user/__init__.py", "user/all.py", NULL);
    audit(env);
    assert_sound();
}

/* Other ways of installing: editable, eggs, links, several folders on the path. */
static void test_layouts(void **state) {
    (void)state;
    char path[1024], text[2048];
    /* setuptools: a finder, which knows its modules by name, and no others. */
    write_text("__editable__.proj-1.pth", "import __editable___proj_1_finder; x.install()\n");
    write_text("__editable___proj_1_finder.py", "import sys\nMAPPING: dict[str, str] = {'proj': "
                                                "'/nowhere/proj', 'more': '/nowhere/more'}\n"
                                                "NAMESPACES: dict[str, list[str]] = {}\n");
    write_text("user/__init__.py", "import proj.part, more\nimport user.__init__\n"
                                   "from linked.inner import y\nimport egged.core\n");
    install("user", "1.0", "", "user/__init__.py", NULL);
    /* a project's folder, with an environment of its own in it that does not count */
    snprintf(path, sizeof path, "%s/project", env);
    put_text(path, "src.py", "x = 1\n");
    put_text(path, ".venv/lib/other.py", "x = 1\n");
    put_text(path, "env/pyvenv.cfg", "x = 1\n");
    put_text(path, "env/lib/other.py", "x = 1\n");
    put_text(path, "real/inner.py", "y = 1\n");
    /* a package that is a link to a folder elsewhere, and one that leads to itself */
    snprintf(text, sizeof text, "%s/linked", site);
    snprintf(path, sizeof path, "%s/project/real", env);
    assert_int_equal(symlink(path, text), 0);
    snprintf(text, sizeof text, "%s/project/real/loop", env);
    assert_int_equal(symlink(".", text), 0);
    /* an egg, as setup.py install makes it */
    write_text("Egged-1.0-py3.12.egg/EGG-INFO/PKG-INFO", "Name: Egged\nVersion: 1.0\n");
    write_text("Egged-1.0-py3.12.egg/EGG-INFO/requires.txt",
               "good>=1\n\n[more]\nabsent\n\n[:python_version < \"3\"]\nnothing\n");
    write_text("Egged-1.0-py3.12.egg/EGG-INFO/top_level.txt", "egged\n");
    write_text("Egged-1.0-py3.12.egg/egged/__init__.py", "from .core import z\n");
    write_text("Egged-1.0-py3.12.egg/egged/core.py", "z = 1\n");
    snprintf(text, sizeof text, "./Egged-1.0-py3.12.egg\n%s/project\n", env);
    write_text("easy-install.pth", text);
    install("asks", "1.0", "Requires-Dist: egged", NULL);
    audit(env);
    assert_sound();
    assert_non_null(strstr(find("stack", NB_SEVERITY_GOOD)->title, " 4 packages, 25 files"));
    install("asks", "1.0", "Requires-Dist: egged[more]", NULL);
    audit(env);
    assert_first("requirement-missing", "Egged 1.0 requires absent", "asked for by asks");
    install("asks", "1.0", "", NULL);
    write_text("Egged-1.0-py3.12.egg/egged/core.py", "z = 1\nimport absent\n");
    audit(env);
    assert_first("module-missing", "No module named 'absent'", "egged/core.py, line 2 (Egged 1.0)");
    write_text("Egged-1.0-py3.12.egg/egged/core.py", "z = 1\n");
    write_text("user/__init__.py", "import projector\n"); /* the finder does not know it */
    install("user", "1.0", "", "user/__init__.py", NULL);
    audit(env);
    assert_first("module-missing", "No module named 'projector'", "user/__init__.py, line 1");
}

/* An environment over another, and the user's own folder between them. */
static void test_layers(void **state) {
    (void)state;
    char path[1024], other[1024], home[1024];
    snprintf(home, sizeof home, "%s/home", env);
    snprintf(path, sizeof path, "%s/home/.local/lib/python3.12/site-packages", env);
    snprintf(other, sizeof other, "%s/base/lib/python3.12/site-packages", env);
    char config[2048];
    int n = snprintf(config, sizeof config,
                     "home = %s/base/bin\ninclude-system-site-packages = true\nversion = 3.12.4\n",
                     env);
    folder_write(env, "pyvenv.cfg", config, (size_t)n);
    /* An older good below has a module that imports what only it has; Python never sees it. */
    put_text(other, "good-0.9.dist-info/METADATA", "Name: good\nVersion: 0.9\n");
    put_text(other, "good/__init__.py", "");
    put_text(other, "good/old.py", "from good.core import gone\n");
    put_text(other, "base/__init__.py", "");
    put_text(path, "mine-1.dist-info/METADATA", "Name: mine\nVersion: 1\n");
    put_text(path, "base/__init__.py", "");
    write_text("user/__init__.py", "import base\n");
    install("user", "1.0", "Requires-Dist: mine", "user/__init__.py", NULL);
    assert_int_equal(setenv("HOME", home, 1), 0);
    unsetenv("PYTHONUSERBASE");
    unsetenv("PYTHONNOUSERSITE");
    audit(env);
    assert_sound();
    assert_non_null(find("shadowed-version", NB_SEVERITY_NOTE));
    const char *roots = find("stack", NB_SEVERITY_GOOD)->evidence;
    const char *first = strstr(roots, site), *second = strstr(roots, path),
               *third = strstr(roots, other);
    assert_true(first && second && third && first < second && second < third);
    write_text("user/__init__.py", "import good.old\n");
    install("user", "1.0", "Requires-Dist: mine", "user/__init__.py", NULL);
    audit(env);
    assert_first("import-unsatisfied", "No module named 'good.old'", "import good.old");
    assert_int_equal(setenv("PYTHONNOUSERSITE", "1", 1), 0);
    audit(env);
    unsetenv("PYTHONNOUSERSITE");
    assert_first("requirement-missing", "requires mine", "user-1.0");
    assert_int_equal(setenv("PYTHONPATH", path, 1), 0);
    audit(env);
    unsetenv("PYTHONPATH");
    roots = find("stack", NB_SEVERITY_GOOD)->evidence;
    assert_ptr_equal(strstr(roots, path), roots);
}

/* Names that Python's own modules do not have, or not any more. */
static void test_own_modules(void **state) {
    (void)state;
    static const char library[] = "..";
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", site, library);
    put_text(path, "os.py", "");
    static const char collections[] = "from _collections import *\nclass OrderedDict: pass\n",
                      inspect[] =
                          "from .ast import walk\nfrom ast import *\ndef signature(): pass\n",
                      re[] = "import enum\n@enum.global_enum\nclass Flag: pass\n";
    folder_write(path, "collections/__init__.py", collections + 27, sizeof collections - 28);
    put_text(path, "collections/abc.py", "class Mapping: pass\n");
    folder_write(path, "inspect.py", inspect, sizeof inspect - 1);
    put_text(path, "ast.py", "def parse(): pass\n");
    folder_write(path, "re.py", re, sizeof re - 1);
    folder_write(path, "queue.py", collections, sizeof collections - 1);
    put_text(env, "include/python3.12/patchlevel.h", "#define PY_VERSION \"3.12.7\"\n");
    static const char fine[] = "from collections import OrderedDict, abc, __name__\n"
                               "from collections.abc import Mapping\n"
                               "from inspect import signature, parse, walk\n"
                               "from re import IGNORECASE\n"  /* enum makes it */
                               "from queue import anything\n" /* a library may have it */
                               "from math import cos\n"
                               "try:\n    from collections import Mapping\n"
                               "except ImportError:\n    pass\n"
                               "def f():\n    from collections import Mapping\n";
    write_text("user/__init__.py", fine);
    install("user", "1.0", "", "user/__init__.py", NULL);
    audit(env);
    assert_sound();
    assert_non_null(strstr(find("stack", NB_SEVERITY_GOOD)->title, "Python 3.12.7"));
    write_text("user/__init__.py", "from collections import OrderedDict, Mapping\n");
    install("user", "1.0", "", "user/__init__.py", NULL);
    audit(env);
    assert_first("import-unsatisfied",
                 "import user fails: ImportError: cannot import name 'Mapping' from 'collections'",
                 "Python 3.12's own collections binds no Mapping");
    assert_non_null(strstr(findings.list[0].fix, "a release of user for Python 3.12"));
    write_text("user/__init__.py", "from inspect import getargspec\n");
    install("user", "1.0", "", "user/__init__.py", NULL);
    audit(env);
    assert_first("import-unsatisfied", "'getargspec' from 'inspect'", "user/__init__.py, line 1");
}

/* ---- faults ---- */

static void test_requirements(void **state) {
    (void)state;
    install("needs", "1.0", "Requires-Dist: good>=2", NULL);
    audit(env);
    assert_first("requirement-violated", "needs 1.0 requires good>=2, but 1.0 is installed",
                 "Requires-Dist: good>=2");
    install("needs", "1.0", "Requires-Dist: Ab_Sent[x]!=3 ; os_name == 'posix'", NULL);
    audit(env);
    assert_first("requirement-missing", "requires ab-sent!=3, which is not installed", "needs-1.0");
    /* An extra that another asks for has requirements of its own. */
    install("needs", "1.0", "Requires-Dist: absent ; extra == 'big'", NULL);
    audit(env);
    assert_sound();
    install("asks", "1.0", "Requires-Dist: needs[Big]", NULL);
    audit(env);
    assert_first("requirement-missing", "needs 1.0 requires absent", "asked for by asks");
    /* One finding for a package that several require, and once for each that does. */
    install("needs", "1.0",
            "Requires-Dist: absent==2 ; extra == 'a'\nRequires-Dist: absent==2 ; "
            "extra == 'b'",
            NULL);
    install("asks", "1.0", "Requires-Dist: needs[a,b]\nRequires-Dist: absent", NULL);
    audit(env);
    assert_first("requirement-missing", "which is not installed; 1 other requires it, too",
                 "Requires-Dist: absent==2");
    assert_string_equal(findings.list[0].fix, "pip install 'absent==2'");
    assert_int_equal(count(NB_SEVERITY_ERROR), 1);
    install("asks", "1.0", "", NULL);
    install("needs", "1.0", "Requires-Python: <3.12", NULL);
    audit(env);
    assert_first("requirement-violated", "requires Python <3.12", "Requires-Python");
}

static void test_files(void **state) {
    (void)state;
    write_text("good/core.py", "import os\nthing = 2\n"); /* as long as before: the hash tells */
    audit(env);
    assert_non_null(find("changed-file", NB_SEVERITY_WARNING));
    assert_non_null(strstr(find("changed-file", NB_SEVERITY_WARNING)->evidence, "good/core.py"));
    assert_true(nb_findings_fit(&findings));

    write_text("good/left.py", "x = 1\n"); /* and a file of another version */
    audit(env);
    assert_first("mixed-installation", "good 1.0 is mixed with files of another version",
                 "good/left.py");
    write_text("good/__init__.py", "from .core import thing\n__version__ = '0.9'\n");
    audit(env);
    assert_first("mixed-installation", "files of version 0.9", "says version 0.9");

    assert_int_equal(end(NULL), 0);
    begin(NULL);
    write_text("good/left.py", "x = 1\n");
    audit(env);
    assert_non_null(find("stray-file", NB_SEVERITY_WARNING));
    char path[1024];
    snprintf(path, sizeof path, "%s/good/left.py", site);
    remove(path);
    snprintf(path, sizeof path, "%s/good/core.py", site);
    remove(path);
    audit(env);
    assert_first("missing-file", "good 1.0: 1 of its 4 files is missing, and imports need it",
                 "import good: ModuleNotFoundError: No module named 'good.core' (good/__init__.py, "
                 "line 1)");
    assert_int_equal(count(NB_SEVERITY_ERROR), 1);
}

static void drop(const char *path) {
    char full[1024];
    snprintf(full, sizeof full, "%s/%s", site, path);
    assert_int_equal(remove(full), 0);
}

/* Files that are gone: what imports them says so, wherever the name is mentioned. */
static void test_lost(void **state) {
    (void)state;
    write_text("user/__init__.py", "import sys\nfrom good import core\nfrom . import part\n");
    write_text("user/part.py", "import sys\nsys.modules['good.core'] = 1\n");
    write_text("user/unused.py", "x = 1\n");
    install("user", "1.0", "", "user/__init__.py", "user/part.py", "user/unused.py", NULL);
    drop("user/unused.py"); /* nobody imports it */
    audit(env);
    assert_int_equal(count(NB_SEVERITY_ERROR), 0);
    assert_non_null(find("missing-file", NB_SEVERITY_WARNING));
    drop("user/part.py");
    audit(env);
    assert_first("missing-file", "user 1.0: 2 of its 5 files are missing, and imports need them",
                 "No module named 'user.part' (user/__init__.py, line 3)");
    install("user", "1.0", "", "user/__init__.py", NULL);
    drop("good/__init__.py"); /* Python then takes the folder for a package without code */
    audit(env);
    assert_first("missing-file", "good 1.0", "import good: an empty module");
}

static void test_damaged(void **state) {
    (void)state;
    write_bytes("good/core.py", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
    audit(env);
    assert_first("damaged-file", "good 1.0: 1 of its modules is damaged", "good/core.py");
    assert_int_equal(count(NB_SEVERITY_ERROR) + count(NB_SEVERITY_WARNING), 1);
    write_text("good/core.py", "");
    audit(env);
    assert_first("damaged-file", "good/core.py", "is empty");
    write_text("good/core.py", "thing = (1,\n");
    audit(env);
    assert_first("damaged-file", "good/core.py", "in the middle of a statement");
}

/* Extension modules that are for another Python, as when packages are copied between images. */
static void test_wrong_python(void **state) {
    (void)state;
    static const char other[] = "fast/_fast.cpython-311-x86_64-linux-gnu.so";
    write_text("fast/__init__.py", "from ._fast import quick\n");
    write_text(other, "INPUT(x)");
    install("fast", "2.0", "", "fast/__init__.py", other, NULL);
    audit(env);
    assert_first("wrong-python", "fast 2.0 was installed for another Python", other);
    assert_non_null(strstr(findings.list[0].evidence, "No module named 'fast._fast'"));
    assert_int_equal(count(NB_SEVERITY_ERROR), 1);
    write_library("fast/_fast.abi3.so", "libc.so.6", false); /* this one will do */
    install("fast", "2.0", "", "fast/__init__.py", other, "fast/_fast.abi3.so", NULL);
    audit(env);
    assert_sound();
    drop("fast/_fast.abi3.so");
    write_text("fast/__init__.py", "try:\n    from ._fast import quick\n"
                                   "except ImportError:\n    quick = None\n");
    install("fast", "2.0", "", "fast/__init__.py", other, NULL);
    audit(env);
    assert_sound();
}

/* What pip leaves when it is broken off, and what Debian leaves beside a package. */
static void test_leftovers(void **state) {
    (void)state;
    write_text("~ood-0.9.dist-info/METADATA", "Name: good\nVersion: 0.9\nRequires-Dist: absent\n");
    write_text("bad-1.dist-info/RECORD", "");
    audit(env);
    assert_true(nb_findings_fit(&findings));
    assert_non_null(strstr(find("leftover", NB_SEVERITY_WARNING)->title, "~ood-0.9.dist-info"));
    assert_non_null(
        strstr(find("metadata-missing", NB_SEVERITY_WARNING)->title, "bad-1.dist-info"));
    install("needs", "1.0", "Requires-Dist: bad", NULL);
    audit(env);
    assert_first("requirement-missing", "needs 1.0 requires bad",
                 "bad-1.dist-info is there, but has no METADATA");
    assert_int_equal(end(NULL), 0);
    begin(NULL);
    write_text("good.egg-info/PKG-INFO", "Name: good\nVersion: 1.0\n");
    audit(env);
    assert_sound();
    write_text("good.egg-info/PKG-INFO", "Name: good\nVersion: 1.1\n");
    audit(env);
    assert_first("two-versions", "installed twice in one folder",
                 "4 of its 4 files are there as it brought them");
}

/* Two packages that bring the same files. */
static void test_overwritten(void **state) {
    (void)state;
    write_text("both/__init__.py", "");
    write_text("both/code.py", "x = 1\n");
    install("first", "1.0", "", "both/__init__.py", "both/code.py", NULL);
    install("second", "1.0", "", "both/__init__.py", "both/code.py", NULL);
    audit(env);
    assert_sound();
    write_text("both/code.py", "x = 2\n");
    install("second", "1.0", "", "both/__init__.py", "both/code.py", NULL);
    audit(env);
    const struct nb_finding *f = find("overwritten-file", NB_SEVERITY_WARNING);
    assert_non_null(f);
    assert_string_equal(f->title, "first 1.0: 1 of its 4 files are now those of second 1.0");
    assert_non_null(strstr(f->evidence, "both/code.py"));
}

/* So many that lists move while they grow. */
static void test_many(void **state) {
    (void)state;
    char name[32], needs[64] = "";
    for (int i = 0; i < 400; i++) {
        snprintf(name, sizeof name, "many%d", i);
        install(name, "1.0", needs, NULL);
        snprintf(needs, sizeof needs, "Requires-Dist: many%d==1.0", i);
    }
    audit(env);
    assert_sound();
    assert_non_null(strstr(find("requirements", NB_SEVERITY_GOOD)->title,
                           "all 399 requirements of 401 packages hold"));
}

static void test_two_versions(void **state) {
    (void)state;
    install("Good", "1.1", "", "good/__init__.py", "good/core.py", NULL);
    audit(env);
    assert_first("two-versions", "is installed twice in one folder", "dist-info");
}

static void test_imports(void **state) {
    (void)state;
    write_text("user/__init__.py", "import os\nfrom .inner import f\n");
    write_text("user/inner.py", "import good\nfrom good.core import thing, gone\nf = 1\n");
    install("user", "1.0", "Requires-Dist: good", "user/__init__.py", "user/inner.py", NULL);
    audit(env);
    assert_first("import-unsatisfied",
                 "import user fails: ImportError: cannot import name 'gone' from 'good.core'",
                 "user/inner.py, line 2 (user 1.0): from good.core import gone");
    assert_non_null(strstr(findings.list[0].evidence, "reached by user/__init__.py, line 2"));

    /* What nothing reaches is a warning; of a module that makes names as they are asked for, only
     * what it never mentions. */
    write_text("user/__init__.py", "import os\n");
    install("user", "1.0", "Requires-Dist: good", "user/__init__.py", "user/inner.py", NULL);
    audit(env);
    assert_non_null(find("import-unsatisfied", NB_SEVERITY_WARNING));
    assert_true(nb_findings_fit(&findings));
    write_text("user/inner.py", "x = 1\n");
    write_text("user/__init__.py", "from lazy import made, gone\n");
    write_text("lazy/__init__.py", "t = {'made': 1}\ndef __getattr__(n):\n    return t[n]\n");
    install("user", "1.0", "", "user/__init__.py", "user/inner.py", NULL);
    install("lazy", "1.0", "", "lazy/__init__.py", NULL);
    audit(env);
    assert_first("import-unsatisfied", "'gone' from 'lazy'", "lazy/__init__.py (lazy 1.0)");
    assert_int_equal(count(NB_SEVERITY_ERROR), 1);

    write_text("user/__init__.py", "import absent.part\n");
    install("user", "1.0", "", "user/__init__.py", "user/inner.py", NULL);
    audit(env);
    assert_first("module-missing", "No module named 'absent'", "import absent.part");
    /* A package that only came with another, and that nothing imports: a warning. */
    write_text("good-1.0.dist-info/REQUESTED", "");
    audit(env);
    assert_non_null(find("module-missing", NB_SEVERITY_WARNING));
    assert_true(nb_findings_fit(&findings));
    /* … unless what was asked for imports it where it is there. */
    write_text("good/core.py", "import os\nthing = 1\nif os.path.exists(''):\n    import user\n");
    install("good", "1.0", "", "good/__init__.py", "good/core.py", NULL);
    audit(env);
    assert_first("module-missing", "No module named 'absent'", "reached by good/__init__.py");
    write_text("good/core.py", "thing = 1\ntry:\n    import user\nexcept ImportError:\n    pass\n");
    install("good", "1.0", "", "good/__init__.py", "good/core.py", NULL);
    audit(env);
    assert_true(nb_findings_fit(&findings));
    write_text("user-1.0.dist-info/REQUESTED", "");
    write_text("user/__init__.py", "import imp\n"); /* gone from Python 3.12 */
    install("user", "1.0", "", "user/__init__.py", "user/inner.py", NULL);
    audit(env);
    assert_first("module-missing", "No module named 'imp'", "Python 3.12 no longer has it");
    write_text("user/__init__.py", "import good.absent\n");
    install("user", "1.0", "", "user/__init__.py", "user/inner.py", NULL);
    audit(env);
    assert_first("import-unsatisfied", "No module named 'good.absent'", "import good.absent");
    /* … unless something puts it into sys.modules. */
    write_text("good/hook.py", "import sys\nsys.modules['good.absent'] = 1\n");
    audit(env);
    assert_null(find("import-unsatisfied", NB_SEVERITY_ERROR));
}

/* The opening story: two files of torch 2.3.1 in 2.8.0. */
static void test_story(void **state) {
    (void)state;
    write_text("torch/__init__.py", "__version__ = '2.8.0'\n");
    write_text("torch/kernel/__init__.py", "from . import mm_common\n");
    write_text("torch/kernel/mm_common.py", "def mm_args():\n    pass\n");
    install("torch", "2.8.0", "", "torch/__init__.py", "torch/kernel/__init__.py",
            "torch/kernel/mm_common.py", NULL);
    audit(env);
    assert_sound();
    write_text("torch/kernel/__init__.py", "from . import mm_common, unpack_mixed_mm\n");
    write_text("torch/kernel/unpack_mixed_mm.py", "from .mm_common import mm_configs\n");
    audit(env);
    assert_first("mixed-installation", "torch 2.8.0 is mixed", "torch/kernel/__init__.py");
    const struct nb_finding *f = find("import-unsatisfied", NB_SEVERITY_ERROR);
    assert_non_null(f);
    assert_non_null(
        strstr(f->title, "cannot import name 'mm_configs' from 'torch.kernel.mm_common'"));
}

static const char extension[] = "ext/_c.cpython-312-x86_64-linux-gnu.so";

static void install_extension(const char *needed) {
    write_text("ext/__init__.py", "from . import _c\n");
    write_library(extension, needed, true);
    install("ext", "1.0", "", "ext/__init__.py", extension, NULL);
}

static void test_libraries(void **state) {
    (void)state;
    install_extension("libc.so.6");
    audit(env);
    assert_sound();
    install_extension("libcublas.so.99");
    audit(env);
    assert_first("library-missing", "libcublas.so.99 is not found", "DT_NEEDED libcublas.so.99");
    /* torch loads what lies in nvidia/NAME/lib before its own libraries. */
    write_library("nvidia/cublas/lib/libcublas.so.99", "libc.so.6", false);
    audit(env);
    assert_null(find("library-missing", NB_SEVERITY_ERROR));
    /* One that its package brought, and that several need, is one finding. */
    drop("nvidia/cublas/lib/libcublas.so.99");
    write_library("ext/libinner.so", "libcublas.so.99", false);
    write_library(extension, "libcublas.so.99", false);
    write_text("ext/__init__.py", "from . import _c, libinner\n");
    install("ext", "1.0", "", "ext/__init__.py", extension, "ext/libinner.so", NULL);
    write_library("nvidia/cublas/lib/libcublas.so.99", "libc.so.6", false);
    install("cublas", "9.9", "", "nvidia/cublas/lib/libcublas.so.99", NULL);
    drop("nvidia/cublas/lib/libcublas.so.99");
    audit(env);
    assert_first("library-missing", "libcublas.so.99 is not found",
                 "libcublas.so.99 is in the RECORD of cublas 9.9, but not on the disk");
    assert_int_equal(count(NB_SEVERITY_ERROR), 1);
    assert_non_null(strstr(findings.list[0].fix, "'cublas==9.9'"));
    install_extension("libcuda.so.1"); /* the driver's */
    drop("cublas-9.9.dist-info/METADATA");
    drop("cublas-9.9.dist-info/RECORD");
    drop("ext/libinner.so");
    audit(env);
    assert_null(find("library-missing", NB_SEVERITY_ERROR));
    write_bytes(extension,
                "\x7f"
                "ELF\2\1\1",
                7);
    install("ext", "1.0", "", "ext/__init__.py", extension, NULL);
    audit(env);
    assert_first("library-damaged", "is damaged", "cut off");
}

/* Several libraries that are nowhere are one finding, and what is for another machine is one. */
static void test_wrong_libraries(void **state) {
    (void)state;
    write_text("ext/__init__.py", "from . import _c\n");
    machine = EM_S390;
    write_library(extension, "libc.so.6", false);
    machine = 0;
    install("ext", "1.0", "", "ext/__init__.py", extension, NULL);
    audit(env);
    assert_first("library-foreign", "is for processor 22", "ELF header");
    write_text(extension, "\xcf\xfa\xed\xfe of a Mac");
    install("ext", "1.0", "", "ext/__init__.py", extension, NULL);
    audit(env);
    assert_first("library-foreign", "for another system", "invalid ELF header");
}

/* Extension modules of NumPy 1 beside NumPy 2. */
static void test_numpy_abi(void **state) {
    (void)state;
    write_text("numpy/__init__.py", "");
    install("numpy", "2.0.2", "", "numpy/__init__.py", NULL);
    rodata = "numpy.core._multiarray_umath";
    install_extension("libc.so.6");
    rodata = "";
    audit(env);
    assert_first("numpy-abi", "ext 1.0 was compiled for NumPy 1, but NumPy 2.0.2 is installed",
                 extension);
    install("numpy", "1.26.4", "", "numpy/__init__.py", NULL);
    drop("numpy-2.0.2.dist-info/METADATA");
    drop("numpy-2.0.2.dist-info/RECORD");
    audit(env);
    assert_null(find("numpy-abi", NB_SEVERITY_ERROR));
    install("numpy", "2.0.2", "", "numpy/__init__.py", NULL);
    drop("numpy-1.26.4.dist-info/METADATA");
    drop("numpy-1.26.4.dist-info/RECORD");
    rodata = "numpy._core and numpy.core._multiarray_umath";
    install_extension("libc.so.6");
    rodata = "";
    audit(env);
    assert_null(find("numpy-abi", NB_SEVERITY_ERROR));
    assert_null(find("numpy-abi", NB_SEVERITY_WARNING));
}

static void test_gpu(void **state) {
    (void)state;
    install_extension("libc.so.6");
    target = (struct nb_target){.name = "A100 80GB SXM", .capability = 80};
    audit(env);
    assert_sound();
    target = (struct nb_target){.name = "RTX 5090", .capability = 120};
    audit(env);
    target = (struct nb_target){0};
    assert_first("gpu-without-code", "nothing that RTX 5090 (compute capability 12.0) can run",
                 "sm_80");
    assert_non_null(strstr(findings.list[0].fix, "CUDA 12.8"));
}

static void test_driver(void **state) {
    (void)state;
    write_text("torch/__init__.py", "from .version import cuda\n");
    write_text("torch/version.py", "__version__ = '2.9'\ncuda: Optional[str] = '13.0'\n");
    install("torch", "2.9", "", "torch/__init__.py", "torch/version.py", NULL);
    target = (struct nb_target){.name = "RTX 4090", .capability = 89, .driver_cuda = 12040};
    audit(env);
    assert_first("driver-too-old",
                 "torch 2.9 is built for CUDA 13.0, but the driver is of CUDA 12.4",
                 "torch/version.py");
    assert_non_null(strstr(findings.list[0].fix, "580"));
    /* bitsandbytes without a library for that CUDA. */
    write_text("bitsandbytes/__init__.py", "");
    write_library("bitsandbytes/libbitsandbytes_cuda121.so", "libc.so.6", true);
    install("bitsandbytes", "0.42.0", "", "bitsandbytes/__init__.py",
            "bitsandbytes/libbitsandbytes_cuda121.so", NULL);
    target = (struct nb_target){0};
    audit(env);
    assert_first("library-missing", "has no library for CUDA 13.0", "12.1");
    /* Newer ones take another minor version of the same major one. */
    write_text("torch/version.py", "__version__ = '2.9'\ncuda: Optional[str] = '12.4'\n");
    install("torch", "2.9", "", "torch/__init__.py", "torch/version.py", NULL);
    audit(env);
    assert_first("library-missing", "has no library for CUDA 12.4", "12.1");
    write_text("bitsandbytes/cextension.py", "higher_same = 1\n");
    install("bitsandbytes", "0.42.0", "", "bitsandbytes/__init__.py", "bitsandbytes/cextension.py",
            "bitsandbytes/libbitsandbytes_cuda121.so", NULL);
    audit(env);
    assert_null(find("library-missing", NB_SEVERITY_ERROR));
}

/* ---- hostile folders ---- */

static void test_hostile(void **state) {
    (void)state;
    char path[1024], loop[1024];
    write_text("a-1.dist-info/METADATA", "Version: 1\n"); /* no name */
    write_text("b-1.dist-info/METADATA", "Name: b\n");    /* no version, no RECORD */
    write_text("c-1.dist-info/METADATA", "Name: c\nVersion: x y\nRequires-Dist: ;;;\n"
                                         "Requires-Dist: good==;\nRequires-Dist: good ; ((((\n");
    write_text("c-1.dist-info/RECORD", "\"\"\"\n,,,\n/etc/passwd,,\n../../../../etc/passwd,,\n"
                                       "\"c/\"\"q\"\".py\",sha256=!!,zz\n");
    write_text("d.egg-info", "Name: d\nVersion: 1.0\n");
    write_text("e.egg-info/PKG-INFO", "Name: e\nVersion: 2.0\n");
    write_text("good/nul.py", "x = 1\n");
    write_bytes("e/__init__.py", "x\0y(((\n\"\"\"", 11);
    snprintf(path, sizeof path, "%s/good", site);
    snprintf(loop, sizeof loop, "%s/good/loop", site);
    assert_int_equal(symlink(path, loop), 0);
    snprintf(loop, sizeof loop, "%s/good/core_link.py", site);
    assert_int_equal(symlink("core_link.py", loop), 0);
    snprintf(loop, sizeof loop, "%s/good/fifo.py", site);
    assert_int_equal(mkfifo(loop, 0666), 0);
    audit(env);
    assert_non_null(find("no-record", NB_SEVERITY_NOTE));
    assert_int_equal(count(NB_SEVERITY_ERROR), 0);
    struct nb_error err;
    struct nb_stack stack;
    assert_int_equal(nb_stack_open("/nowhere/at/all", &stack, &err), NB_ERR_IO);
    nb_stack_free(&stack);
    snprintf(path, sizeof path, "%s/empty", env);
    mkdir(path, 0777);
    assert_int_equal(nb_stack_open(path, &stack, &err), NB_ERR_IO);
    assert_non_null(strstr(err.message, "expected a folder with *.dist-info"));
    nb_stack_free(&stack);
}

/* ---- versions, markers, source ---- */

static bool matches(const char *version, const char *specifiers) {
    struct nb_version v;
    bool valid;
    assert_true(nb_version_parse(version, strlen(version), &v));
    bool result = nb_version_matches(&v, specifiers, strlen(specifiers), &valid);
    assert_true(valid);
    return result;
}

static void test_versions(void **state) {
    (void)state;
    static const char *const ordered[] = {"1.0.dev1", "1.0a1.dev1", "1.0a1",   "1.0b2", "1.0rc1",
                                          "1.0",      "1.0+a",      "1.0+a.1", "1.0+1", "1.0.post1",
                                          "1.1.dev1", "1.1",        "1.10",    "2.0",   "1!0.1"};
    for (size_t i = 0; i < sizeof ordered / sizeof *ordered; i++) {
        for (size_t j = 0; j < sizeof ordered / sizeof *ordered; j++) {
            struct nb_version a, b;
            assert_true(nb_version_parse(ordered[i], strlen(ordered[i]), &a));
            assert_true(nb_version_parse(ordered[j], strlen(ordered[j]), &b));
            int d = nb_version_compare(&a, &b);
            assert_int_equal((d > 0) - (d < 0), (i > j) - (i < j));
        }
    }
    assert_true(matches("2.3.1+cu121", "==2.3.1") && !matches("2.3.1", "==2.3.1+cu121"));
    assert_true(matches("2.3.1", "~=2.2") && !matches("3.0", "~=2.2"));
    assert_true(matches("2.3.1", "==2.3.*") && !matches("2.30", "==2.3.*"));
    assert_true(matches("2.3.1", ">=2,!=2.3.0,<3") && !matches("2.3.0", ">=2,!=2.3.0"));
    assert_true(!matches("2.0rc1", "<2") && matches("2.0rc1", "<2.1") &&
                matches("1.0c2", "==1rc2"));
    assert_true(!matches("1.0.post1", ">1.0") && matches("1.0-1", "==1.0.post1"));
    static const char *const bad[] = {"", "x", "1.", "1..2", "1.0+", "1.0 2", "1.0+a!"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct nb_version v;
        assert_false(nb_version_parse(bad[i], strlen(bad[i]), &v));
    }
}

static void test_markers(void **state) {
    (void)state;
    struct nb_markers m = {
        .python_version = "3.12", .python_full_version = "3.12.1", .platform_machine = "x86_64"};
    assert_true(nb_marker_holds("python_version >= '3.10'", &m, ""));
    assert_false(nb_marker_holds("python_version < \"3.10\" or extra == 'x'", &m, ""));
    assert_true(nb_marker_holds("python_version < \"3.10\" or extra == 'X_y'", &m, "x-y"));
    assert_true(
        nb_marker_holds("('linux' in sys_platform) and platform_machine == 'x86_64'", &m, ""));
    assert_false(nb_marker_holds(
        "sys_platform == 'win32' and (os_name == 'posix' or os_name=='nt')", &m, ""));
    assert_false(nb_marker_holds("nonsense == 'x'", &m, ""));
    assert_false(nb_marker_holds("python_version >= '3.10' and", &m, ""));
    char deep[4096];
    memset(deep, '(', sizeof deep - 1);
    deep[sizeof deep - 1] = 0;
    assert_false(nb_marker_holds(deep, &m, ""));
    struct nb_arena arena = {0};
    struct nb_requirement r;
    const char *text = "Foo.Bar [A_b, c] (>=1.0 , <2) ; python_version > '3'";
    assert_true(nb_requirement_parse(text, strlen(text), &arena, &r));
    assert_string_equal(r.name, "foo-bar");
    assert_string_equal(r.extras, "a-b,c");
    assert_string_equal(r.specifiers, ">=1.0 , <2");
    assert_string_equal(r.marker, "python_version > '3'");
    text = "x @ https://host/a;b#c ; os_name == 'nt'";
    assert_true(nb_requirement_parse(text, strlen(text), &arena, &r));
    assert_string_equal(r.specifiers, "@ https://host/a;b#c");
    assert_string_equal(r.marker, "os_name == 'nt'");
    assert_false(nb_requirement_parse("-e .", 4, &arena, &r));
    assert_false(nb_requirement_parse("a b", 3, &arena, &r));
    nb_arena_free(&arena);
}

static bool binds(const struct nb_py_module *m, const char *name) {
    return nb_py_has(m, nb_py_hash(name, strlen(name)));
}

static void test_source(void **state) {
    (void)state;
    static const char text[] = "a = b1 = 1; c: int = 2\n"
                               "(d, *e), f.g = x, y\n"
                               "def fun(arg, default=z1):\n    inner = 1\n    global made\n"
                               "async def afun(): pass\n"
                               "class Cls(Base): attribute = 1\n"
                               "for i, (j, k) in items: pass\n"
                               "with open(p) as handle, other: pass\n"
                               "try:\n\tt = 1\nexcept E as err:\n\tpass\n"
                               "if (w := 5) > 3: inline = 1\n"
                               "import m1.m2, m3 as m4\n"
                               "from p.q import (r, s as s2,\n  u)\n"
                               "s1 = f'''\nnot_bound = 1\n'''; s3 = r'\\'\n"
                               "print(called, key=word)\n"
                               "x1 = lambda q9: {k9: v9 for k9 in 5}\n"
                               "match thing:\n    case [cap]: pass\n"
                               "raise SystemExit\n"
                               "import after\n";
    struct nb_arena arena = {0};
    struct nb_py_module m;
    assert_true(nb_py_read(text, sizeof text - 1, &arena, &m));
    static const char *const bound[] = {
        "a", "b1",  "c", "d",      "e",  "fun", "made", "afun", "Cls", "i",  "j",  "k",  "handle",
        "t", "err", "w", "inline", "m1", "m4",  "r",    "s2",   "u",   "s1", "s3", "x1", "cap"};
    static const char *const unbound[] = {"inner", "attribute", "arg",       "default", "m3",
                                          "s",     "q",         "not_bound", "called",  "word",
                                          "q9",    "v9",        "x"};
    for (size_t i = 0; i < sizeof bound / sizeof *bound; i++) {
        if (!binds(&m, bound[i]))
            fail_msg("%s is not bound", bound[i]);
    }
    for (size_t i = 0; i < sizeof unbound / sizeof *unbound; i++) {
        if (binds(&m, unbound[i]))
            fail_msg("%s is bound", unbound[i]);
    }
    assert_false(m.lazy || m.dynamic || m.damaged);
    assert_int_equal(m.n_imports, 6);
    assert_string_equal(m.imports[0].module, "m1.m2");
    assert_string_equal(m.imports[3].module, "p.q");
    assert_string_equal(m.imports[3].name, "s");
    assert_int_equal(m.imports[3].line, 16);
    assert_true(m.imports[5].conditional); /* after the raise */
    nb_arena_free(&arena);
    static const struct {
        const char *text;
        bool lazy, dynamic;
    } signs[] = {
        {"def __getattr__(n): pass\n", true, false},
        {"class A:\n    def __getattr__(self, n): pass\n", false, false},
        {"import sys\nsys.modules[__name__] = X()\n", true, false},
        {"globals().update(x)\n", false, true},
        {"def f():\n    exec('a')\n", false, true},
        {"x.exec('a')\n", false, false},
        {"from sys import modules\ndef f(p): modules['a'] = p\n", false, true},
    };
    for (size_t i = 0; i < sizeof signs / sizeof *signs; i++) {
        assert_true(nb_py_read(signs[i].text, strlen(signs[i].text), &arena, &m));
        assert_int_equal(m.lazy, signs[i].lazy);
        assert_int_equal(m.dynamic, signs[i].dynamic);
    }
    nb_arena_free(&arena);
    char version[32];
    static const char says[] = "# __version__ = 'no'\n__version__: str = \"1.2\"\n";
    assert_true(nb_py_string(says, sizeof says - 1, "__version__", version, sizeof version));
    assert_string_equal(version, "1.2");
}

static void test_sha256(void **state) {
    (void)state;
    /* FIPS 180-4's examples, and every way to cut a message in two. */
    static const uint8_t abc[] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea};
    static const uint8_t long_one[] = {0x24, 0x8d, 0x6a, 0x61, 0xd2, 0x06, 0x38, 0xb8};
    static const uint8_t nothing[] = {0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14};
    uint8_t out[32], again[32];
    nb_sha256("abc", 3, out);
    assert_memory_equal(out, abc, sizeof abc);
    nb_sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, out);
    assert_memory_equal(out, long_one, sizeof long_one);
    nb_sha256(NULL, 0, out);
    assert_memory_equal(out, nothing, sizeof nothing);
    uint8_t data[200];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 7);
    nb_sha256(data, sizeof data, out);
    for (size_t cut = 0; cut <= sizeof data; cut++) {
        struct nb_sha256 s;
        nb_sha256_begin(&s);
        nb_sha256_add(&s, data, cut);
        nb_sha256_add(&s, data + cut, sizeof data - cut);
        nb_sha256_end(&s, again);
        assert_memory_equal(out, again, sizeof out);
    }
}

/* ---- known traps ---- */

static void test_traps(void **state) {
    (void)state;
    write_text("triton/__init__.py", "");
    write_text("bitsandbytes/__init__.py", "");
    install("triton", "3.2.0", "", "triton/__init__.py", NULL);
    install("bitsandbytes", "0.44.1", "", "bitsandbytes/__init__.py", NULL);
    audit(env);
    const struct nb_finding *f = NULL;
    for (size_t i = 0; i < findings.n; i++) {
        if (strcmp(findings.list[i].code, "known-trap") == 0 &&
            strstr(findings.list[i].title, "triton.ops"))
            f = &findings.list[i];
    }
    assert_non_null(f);
    assert_non_null(strstr(f->evidence, "https://"));
    assert_true(nb_findings_fit(&findings)); /* words, not evidence: never an error */
    install("setuptools", "70.0", "", NULL);
    audit(env);
    for (size_t i = 0; i < findings.n; i++)
        assert_null(strstr(findings.list[i].title, "without requiring it"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_sound, begin, end),
        cmocka_unit_test_setup_teardown(test_backports, begin, end),
        cmocka_unit_test_setup_teardown(test_own_modules, begin, end),
        cmocka_unit_test_setup_teardown(test_layouts, begin, end),
        cmocka_unit_test_setup_teardown(test_layers, begin, end),
        cmocka_unit_test_setup_teardown(test_requirements, begin, end),
        cmocka_unit_test_setup_teardown(test_files, begin, end),
        cmocka_unit_test_setup_teardown(test_lost, begin, end),
        cmocka_unit_test_setup_teardown(test_damaged, begin, end),
        cmocka_unit_test_setup_teardown(test_wrong_python, begin, end),
        cmocka_unit_test_setup_teardown(test_leftovers, begin, end),
        cmocka_unit_test_setup_teardown(test_overwritten, begin, end),
        cmocka_unit_test_setup_teardown(test_many, begin, end),
        cmocka_unit_test_setup_teardown(test_two_versions, begin, end),
        cmocka_unit_test_setup_teardown(test_imports, begin, end),
        cmocka_unit_test_setup_teardown(test_story, begin, end),
        cmocka_unit_test_setup_teardown(test_libraries, begin, end),
        cmocka_unit_test_setup_teardown(test_wrong_libraries, begin, end),
        cmocka_unit_test_setup_teardown(test_numpy_abi, begin, end),
        cmocka_unit_test_setup_teardown(test_gpu, begin, end),
        cmocka_unit_test_setup_teardown(test_driver, begin, end),
        cmocka_unit_test_setup_teardown(test_hostile, begin, end),
        cmocka_unit_test_setup_teardown(test_traps, begin, end),
        cmocka_unit_test(test_versions),
        cmocka_unit_test(test_markers),
        cmocka_unit_test(test_source),
        cmocka_unit_test(test_sha256),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    nb_findings_free(&findings);
    return failed;
}
