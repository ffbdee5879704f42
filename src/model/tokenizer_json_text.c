/* tokenizer.json: normalizers, and splitters, which it calls pre-tokenizers. */
#include "model/tokenizer_json.h"

static const struct {
    const char *type;
    enum nb_normalizer_kind kind;
} simple_normalizers[] = {
    {"NFC", NB_NORMALIZE_NFC},
    {"NFD", NB_NORMALIZE_NFD},
    {"NFKC", NB_NORMALIZE_NFKC},
    {"NFKD", NB_NORMALIZE_NFKD},
    {"Lowercase", NB_NORMALIZE_LOWERCASE},
    {"StripAccents", NB_NORMALIZE_STRIP_ACCENTS},
    {"Nmt", NB_NORMALIZE_NMT},
};

static enum nb_status normalizer_step(struct nb_json_loader *l, const json_t *object,
                                      const char *where, const char *type) {
    struct nb_tokenizer *t = l->t;
    if (t->n_normalizers == NB_LOADER_MAX_STEPS)
        return nb_fail(l->err, NB_ERR_LIMIT, "%s: more than %d steps", where, NB_LOADER_MAX_STEPS);
    struct nb_normalizer *step = &t->normalizers[t->n_normalizers++];
    enum nb_status s = NB_OK;
    for (size_t i = 0; i < sizeof simple_normalizers / sizeof *simple_normalizers; i++) {
        step->kind = simple_normalizers[i].kind;
        if (strcmp(type, simple_normalizers[i].type) == 0)
            return NB_OK;
    }
    if (strcmp(type, "Prepend") == 0) {
        step->kind = NB_NORMALIZE_PREPEND;
        s = nb_loader_text(l, object, where, "prepend", &step->content);
    } else if (strcmp(type, "Replace") == 0) {
        step->kind = NB_NORMALIZE_REPLACE;
        s = nb_loader_pattern(l, object, where, &step->pattern, &step->regex);
        if (s == NB_OK)
            s = nb_loader_text(l, object, where, "content", &step->content);
    } else if (strcmp(type, "Strip") == 0) {
        step->kind = NB_NORMALIZE_STRIP;
        s = nb_json_bool(object, "strip_left", &step->left, where, l->err);
        if (s == NB_OK)
            s = nb_json_bool(object, "strip_right", &step->right, where, l->err);
    } else {
        s = nb_loader_unsupported(l, where, type,
                                  "Prepend, Replace, NFC, NFD, NFKC, NFKD, Lowercase, Strip, "
                                  "StripAccents, Nmt and Sequence");
    }
    return s;
}

static enum nb_status get_behavior(struct nb_json_loader *l, const json_t *object,
                                   const char *where, enum nb_split_behavior *out) {
    static const char *const names[] = {
        [NB_SPLIT_REMOVED] = "Removed",
        [NB_SPLIT_ISOLATED] = "Isolated",
        [NB_SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [NB_SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
        [NB_SPLIT_CONTIGUOUS] = "Contiguous",
    };
    const char *name = "Isolated";
    enum nb_status s = nb_json_string(object, "behavior", &name, where, l->err);
    for (size_t i = 0; i < sizeof names / sizeof *names && s == NB_OK; i++) {
        *out = (enum nb_split_behavior)i;
        if (strcmp(name, names[i]) == 0)
            return NB_OK;
    }
    if (s != NB_OK)
        return s;
    return nb_fail(l->err, NB_ERR_FORMAT,
                   "%s.behavior is \"%s\", expected Removed, Isolated, MergedWithPrevious, "
                   "MergedWithNext or Contiguous",
                   where, nb_shown_text(name).text);
}

static enum nb_status get_metaspace(struct nb_json_loader *l, const json_t *object,
                                    const char *where, struct nb_splitter *step) {
    step->kind = NB_SPLIT_METASPACE;
    step->split = true;
    enum nb_status s = nb_loader_mark(l, object, where, "replacement", &step->mark);
    if (s == NB_OK)
        s = nb_loader_prepend(l, object, where, &step->prepend);
    if (s == NB_OK)
        s = nb_json_bool(object, "split", &step->split, where, l->err);
    return s;
}

static enum nb_status get_split(struct nb_json_loader *l, const json_t *object, const char *where,
                                struct nb_splitter *step) {
    enum nb_status s = nb_loader_pattern(l, object, where, &step->mark, &step->regex);
    step->find = step->regex ? NB_FIND_REGEX : NB_FIND_TEXT;
    if (s == NB_OK)
        s = get_behavior(l, object, where, &step->behavior);
    if (s == NB_OK)
        s = nb_json_bool(object, "invert", &step->invert, where, l->err);
    return s;
}

static enum nb_status get_digits(struct nb_json_loader *l, const json_t *object, const char *where,
                                 struct nb_splitter *step) {
    bool each = false;
    step->find = NB_FIND_NUMERIC;
    enum nb_status s = nb_json_bool(object, "individual_digits", &each, where, l->err);
    step->behavior = each ? NB_SPLIT_ISOLATED : NB_SPLIT_CONTIGUOUS;
    return s;
}

/* \w as Rust's regular expressions have it: nb_is_word_character. */
#define RUST_WORD                                                                                  \
    "\\p{L}\\p{Nl}\\p{M}\\p{Nd}\\p{Pc}\\x{200C}\\x{200D}\\x{24B6}-\\x{24E9}"                       \
    "\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}"

/* How GPT-2 cuts text, and ByteLevel where it is not told otherwise. */
#define GPT2_WORDS                                                                                 \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* A pattern that is the type's own. */
static enum nb_status own_regex(struct nb_json_loader *l, const char *pattern,
                                struct nb_splitter *step) {
    step->find = NB_FIND_REGEX;
    return nb_regex_compile(pattern, strlen(pattern), &step->regex, l->err);
}

static enum nb_status new_splitter(struct nb_json_loader *l, const char *where,
                                   struct nb_splitter **out) {
    struct nb_tokenizer *t = l->t;
    if (t->n_splitters == NB_LOADER_MAX_STEPS)
        return nb_fail(l->err, NB_ERR_LIMIT, "%s: more than %d steps", where, NB_LOADER_MAX_STEPS);
    *out = &t->splitters[t->n_splitters++];
    **out = (struct nb_splitter){.kind = NB_SPLIT_MATCHES};
    return NB_OK;
}

static enum nb_status get_byte_level(struct nb_json_loader *l, const json_t *object,
                                     const char *where) {
    struct nb_splitter *step = NULL;
    bool prefix_space = true, use_regex = true;
    enum nb_status s = nb_json_bool(object, "add_prefix_space", &prefix_space, where, l->err);
    if (s == NB_OK)
        s = nb_json_bool(object, "use_regex", &use_regex, where, l->err);
    if (s == NB_OK && prefix_space) {
        s = new_splitter(l, where, &step);
        if (s == NB_OK)
            step->kind = NB_SPLIT_PREFIX_SPACE;
    }
    if (s == NB_OK && use_regex) {
        s = new_splitter(l, where, &step);
        if (s != NB_OK)
            return s;
        step->behavior = NB_SPLIT_ISOLATED;
        s = own_regex(l, GPT2_WORDS, step);
    }
    l->byte_level = true;
    return s;
}

static enum nb_status splitter_step(struct nb_json_loader *l, const json_t *object,
                                    const char *where, const char *type) {
    if (l->byte_level)
        return nb_fail(l->err, NB_ERR_UNSUPPORTED, "%s: nibble does no %s behind ByteLevel", where,
                       nb_shown_text(type).text);
    if (strcmp(type, "ByteLevel") == 0)
        return get_byte_level(l, object, where);
    struct nb_splitter *step = NULL;
    enum nb_status s = new_splitter(l, where, &step);
    if (s != NB_OK)
        return s;
    if (strcmp(type, "Metaspace") == 0)
        return get_metaspace(l, object, where, step);
    if (strcmp(type, "Split") == 0)
        return get_split(l, object, where, step);
    if (strcmp(type, "Digits") == 0)
        return get_digits(l, object, where, step);
    if (strcmp(type, "Punctuation") == 0) {
        step->find = NB_FIND_PUNCTUATION;
        return get_behavior(l, object, where, &step->behavior);
    }
    step->behavior = NB_SPLIT_REMOVED;
    if (strcmp(type, "WhitespaceSplit") == 0) {
        step->find = NB_FIND_WHITE_SPACE;
        return NB_OK;
    }
    if (strcmp(type, "Whitespace") == 0) {
        step->invert = true;
        return own_regex(l, "[" RUST_WORD "]+|[^" RUST_WORD "\\s]+", step);
    }
    if (strcmp(type, "CharDelimiterSplit") == 0) {
        step->find = NB_FIND_TEXT;
        return nb_loader_mark(l, object, where, "delimiter", &step->mark);
    }
    return nb_loader_unsupported(l, where, type,
                                 "Metaspace, ByteLevel, Split, Digits, Punctuation, Whitespace, "
                                 "WhitespaceSplit, CharDelimiterSplit and Sequence");
}

enum nb_status nb_load_text_steps(struct nb_json_loader *l, const json_t *root) {
    struct nb_tokenizer *t = l->t;
    const json_t *normalizer = json_object_get(root, "normalizer");
    const json_t *splitter = json_object_get(root, "pre_tokenizer");
    t->normalizers = nb_arena_alloc(&t->arena, NB_LOADER_MAX_STEPS, sizeof *t->normalizers);
    t->splitters = nb_arena_alloc(&t->arena, NB_LOADER_MAX_STEPS, sizeof *t->splitters);
    if (!t->normalizers || !t->splitters)
        return nb_loader_no_memory(l, "normalizer");
    enum nb_status s =
        nb_loader_each_step(l, normalizer, "normalizer", "normalizers", normalizer_step);
    if (s == NB_OK)
        s = nb_loader_each_step(l, splitter, "pre_tokenizer", "pretokenizers", splitter_step);
    return s;
}
