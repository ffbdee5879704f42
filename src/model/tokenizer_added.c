#include "model/tokenizer_added.h"

#include "base/room.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <utf8proc.h>

static uint32_t new_node(struct nb_added_tree *tree, unsigned char byte) {
    if (!nb_room(&tree->nodes, tree->n, &tree->cap, sizeof *tree->nodes))
        return 0;
    tree->nodes[tree->n] = (struct nb_added_node){.token = -1, .byte = byte};
    return tree->n++;
}

static uint32_t child(const struct nb_added_tree *tree, uint32_t node, unsigned char byte) {
    uint32_t c = tree->nodes[node].child;
    while (c && tree->nodes[c].byte != byte)
        c = tree->nodes[c].sibling;
    return c;
}

bool nb_added_tree_add(struct nb_added_tree *tree, struct nb_text text, int32_t token,
                       bool special) {
    if (tree->n == 0) {
        new_node(tree, 0);
        if (tree->n == 0)
            return false;
        tree->all_special = true;
    }
    uint32_t node = 0;
    for (uint32_t i = 0; i < text.n; i++) {
        unsigned char byte = (unsigned char)text.p[i];
        uint32_t next = child(tree, node, byte);
        if (!next) {
            next = new_node(tree, byte);
            if (!next)
                return false;
            tree->nodes[next].sibling = tree->nodes[node].child;
            tree->nodes[node].child = next;
        }
        node = next;
    }
    if (tree->nodes[node].token < 0)
        tree->nodes[node].token = token;
    tree->starts[(unsigned char)text.p[0]] = true;
    tree->all_special &= special;
    return true;
}

void nb_added_tree_free(struct nb_added_tree *tree) {
    free(tree->nodes);
    *tree = (struct nb_added_tree){0};
}

/* The longest token that text[0..n) begins with, or -1; its length in *length. */
static int32_t longest(const struct nb_added_tree *tree, const char *text, size_t n,
                       size_t *length) {
    int32_t found = -1;
    uint32_t node = 0;
    for (size_t i = 0; i < n; i++) {
        node = child(tree, node, (unsigned char)text[i]);
        if (!node)
            break;
        if (tree->nodes[node].token >= 0) {
            found = tree->nodes[node].token;
            *length = i + 1;
        }
    }
    return found;
}

size_t nb_added_prefix(const struct nb_added_tree *tree, const char *text, size_t n) {
    size_t length = 0;
    if (tree->n)
        longest(tree, text, n, &length);
    return length;
}

/* Where the character before text[end] begins, for end > 0. */
static size_t character_before(const char *text, size_t end) {
    size_t begin = end - 1;
    while (begin > 0 && ((unsigned char)text[begin] & 0xC0) == 0x80)
        begin--;
    return begin;
}

static bool touches_word(const char *text, size_t n, size_t begin, size_t end) {
    uint32_t cp = 0;
    if (begin > 0) {
        size_t before = character_before(text, begin);
        if (nb_utf8_decode(text + before, begin - before, &cp) && nb_is_word_character(cp))
            return true;
    }
    return end < n && nb_utf8_decode(text + end, n - end, &cp) && nb_is_word_character(cp);
}

/* The beginning of the white space that ends at text[end], not below `least`. */
static size_t space_before(const char *text, size_t least, size_t end) {
    while (end > least) {
        size_t before = character_before(text, end);
        uint32_t cp = 0;
        if (!nb_utf8_decode(text + before, end - before, &cp) || !nb_is_white_space(cp))
            break;
        end = before;
    }
    return end;
}

static size_t space_after(const char *text, size_t n, size_t begin) {
    while (begin < n) {
        uint32_t cp = 0;
        size_t length = nb_utf8_decode(text + begin, n - begin, &cp);
        if (!length || !nb_is_white_space(cp))
            break;
        begin += length;
    }
    return begin;
}

bool nb_added_find(const struct nb_added_tree *tree, const struct nb_added *added, const char *text,
                   size_t n, bool special, size_t taken, size_t *at, struct nb_added_match *match) {
    if (tree->n == 0 || (tree->all_special && !special))
        return false;
    for (size_t i = *at; i < n;) {
        size_t length = 0;
        int32_t token =
            tree->starts[(unsigned char)text[i]] ? longest(tree, text + i, n - i, &length) : -1;
        if (token < 0) {
            i++;
            continue;
        }
        const struct nb_added *a = &added[token];
        size_t begin = i, end = i + length;
        i = end;
        if ((a->special && !special) || (a->single_word && touches_word(text, n, begin, end)))
            continue;
        if (a->lstrip)
            begin = space_before(text, taken < begin ? taken : begin, begin);
        if (a->rstrip)
            end = space_after(text, n, end);
        *at = i;
        *match = (struct nb_added_match){begin, end, token};
        return true;
    }
    *at = n;
    return false;
}

bool nb_is_white_space(uint32_t cp) {
    return (cp >= 0x09 && cp <= 0x0D) || cp == 0x20 || cp == 0x85 || cp == 0xA0 || cp == 0x1680 ||
           (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F ||
           cp == 0x205F || cp == 0x3000;
}

/* Alphabetic, marks, decimal digits, connectors and joiners, as UTS 18 has it. */
bool nb_is_word_character(uint32_t cp) {
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default: /* joiners, and the circled and squared letters that are Alphabetic */
        return cp == 0x200C || cp == 0x200D || (cp >= 0x24B6 && cp <= 0x24E9) ||
               (cp >= 0x1F130 && cp <= 0x1F149) || (cp >= 0x1F150 && cp <= 0x1F169) ||
               (cp >= 0x1F170 && cp <= 0x1F189);
    }
}
