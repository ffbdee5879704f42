/* SentencePiece's normalizer: the character map that a model carries, and its rules for spaces. */
#include "model/tokenizer_text.h"

#include "base/utf8.h"

static const char escaped_space[] = "\xE2\x96\x81"; /* "▁" */

/* The map's keys are in a double array of 32-bit units, as the darts-clone library lays it out:
 * bit 8 says that a key ends here, bits 10 on (shifted by 8 more if bit 9 is set) are the offset to
 * the children, bits 0 to 7 and 31 the label; the unit of a value has the value in bits 0 to 30. */
static bool unit_at(const struct nb_text *units, size_t at, uint32_t *unit) {
    if (at >= units->n / 4)
        return false;
    const unsigned char *p = (const unsigned char *)units->p + 4 * at;
    *unit = p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
    return true;
}

static size_t child_offset(uint32_t unit) {
    return (size_t)(unit >> 10) << ((unit & 1u << 9) >> 6);
}

static bool ends_character(const char *text, size_t n, size_t at) {
    return at == n || ((unsigned char)text[at] & 0xC0) != 0x80;
}

/* The longest key that text begins with: its length, 0 if there is none; its value in *value. Keys
 * and values that would cut characters, which only a hostile map has, do not count. */
static size_t find_key(const struct nb_spm_rules *rules, const char *text, size_t n,
                       struct nb_text *value) {
    uint32_t unit;
    size_t longest = 0, at = 0;
    if (!unit_at(&rules->units, 0, &unit))
        return 0;
    at ^= child_offset(unit);
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)text[i];
        at ^= byte;
        if (!unit_at(&rules->units, at, &unit) || (unit & 0x800000FFu) != byte)
            break;
        at ^= child_offset(unit);
        uint32_t leaf;
        if (!(unit & 1u << 8) || !unit_at(&rules->units, at, &leaf))
            continue;
        size_t begin = leaf & 0x7FFFFFFFu;
        if (begin >= rules->strings.n || ((unsigned char)rules->strings.p[begin] & 0xC0) == 0x80 ||
            !ends_character(text, n, i + 1))
            continue;
        const char *string = rules->strings.p + begin;
        *value = (struct nb_text){string, (uint32_t)strnlen(string, rules->strings.n - begin)};
        longest = i + 1;
    }
    return longest;
}

/* What the text begins with becomes *to; returns how many bytes that are. */
static size_t normalize_prefix(const struct nb_spm_rules *rules, const char *text, size_t n,
                               struct nb_text *to) {
    size_t length = rules->symbols ? nb_added_prefix(rules->symbols, text, n) : 0;
    if (length) {
        *to = (struct nb_text){text, (uint32_t)length};
        return length;
    }
    length = rules->units.n ? find_key(rules, text, n, to) : 0;
    if (length)
        return length;
    uint32_t cp;
    length = nb_utf8_decode(text, n, &cp);
    *to = (struct nb_text){text, (uint32_t)length};
    return length;
}

static bool is_space(struct nb_text text) {
    return text.n == 1 && text.p[0] == ' ';
}

static void add_escaped(const struct nb_spm_rules *rules, struct nb_text text, struct nb_buf *out) {
    struct nb_text space = {rules->escape ? escaped_space : " ", rules->escape ? 3 : 1};
    nb_replace_text(text.p, text.n, (struct nb_text){" ", 1}, space, SIZE_MAX, out);
}

static bool ends_with(const struct nb_buf *buf, size_t from, struct nb_text with) {
    return buf->len - from >= with.n && memcmp(buf->data + buf->len - with.n, with.p, with.n) == 0;
}

/* Whether every character becomes itself, spaces aside. */
static bool keeps_characters(const struct nb_spm_rules *rules) {
    return rules->units.n == 0 && !rules->squeeze;
}

void nb_spm_normalize(const struct nb_spm_rules *rules, struct nb_place place, const char *text,
                      size_t n, struct nb_buf *out) {
    bool after_space = rules->squeeze && !place.continues;
    struct nb_text to;
    size_t i = 0, length, begin = out->len;
    while (after_space && i < n) {
        length = normalize_prefix(rules, text + i, n - i, &to);
        if (!is_space(to))
            break;
        i += length;
    }
    if (i == n)
        return;
    if (rules->dummy_prefix && !place.continues)
        add_escaped(rules, (struct nb_text){" ", 1}, out);
    if (keeps_characters(rules)) {
        add_escaped(rules, (struct nb_text){text, (uint32_t)n}, out);
        return;
    }
    for (; i < n; i += length) {
        length = normalize_prefix(rules, text + i, n - i, &to);
        while (after_space && to.n && to.p[0] == ' ') {
            to.p++;
            to.n--;
        }
        add_escaped(rules, to, out);
        if (to.n)
            after_space = rules->squeeze && to.p[to.n - 1] == ' ';
    }
    struct nb_text space = {rules->escape ? escaped_space : " ", rules->escape ? 3 : 1};
    while (rules->squeeze && ends_with(out, begin, space))
        out->data[out->len -= space.n] = 0;
}
