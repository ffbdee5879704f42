#include "model/chat.h"

#include "base/file.h"
#include "base/utf8.h"
#include "model/chat_template.h"
#include "model/chat_tools.h"
#include "model/json.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { MAX_CONFIG_BYTES = 64 << 20, MAX_TEMPLATE_BYTES = 1 << 20 };

/* Strings that become special tokens where the tokenizer has them as such, in a template's own
 * text only; and after them, a checkpoint's bos and eos. */
static const char *const markers[] = {
    "[INST]",
    "[/INST]",
    "[SYSTEM_PROMPT]",
    "[/SYSTEM_PROMPT]",
    "[AVAILABLE_TOOLS]",
    "[/AVAILABLE_TOOLS]",
    "[TOOL_CALLS]",
    "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<think>",
    "</think>",
};
enum { N_FIXED_MARKERS = sizeof markers / sizeof *markers, N_MARKERS = N_FIXED_MARKERS + 2 };

/* A prompt while it is written. After a failure the functions below do nothing. */
struct prompt {
    const struct nb_chat *chat;
    const struct nb_tokenizer *tokenizer;
    const struct nb_chat_message *messages;
    size_t n_messages;
    const json_t *tools;
    bool wants_answer; /* add_generation_prompt */
    struct nb_tokens *out;
    size_t held;            /* ids in *out from before */
    int32_t ids[N_MARKERS]; /* of special tokens, or -1 */
    unsigned flags;         /* for text that follows a special token */
    struct nb_buf run;      /* text since the last special token */
    enum nb_status status;
    struct nb_error *err;
};

/* What a template does. Its texts may hold markers. */
struct nb_chat_format {
    const char *name;
    void (*write)(struct prompt *p);

    /* Mistral: a turn is before_user, content, after_user, before_answer, content, before_eos, eos,
     * after_eos. */
    const char *before_user, *after_user, *before_answer, *before_eos, *after_eos;
    enum {
        SYSTEM_REFUSED,
        SYSTEM_FIRST, /* before the content of the first user message */
        SYSTEM_LAST,  /* of the last message, if that is the user's */
        SYSTEM_APART, /* a turn of its own, anywhere, between before_system and after_system */
    } system;
    const char *before_system, *after_system;
    bool trims_answers;

    /* Llama 3 */
    bool has_preamble; /* with the date below, or today's if that is NULL */
    const char *date;

    /* ChatML */
    bool has_bos;
    const char *default_system;
    const char *begins_answer; /* after <|im_start|>assistant and a line feed */
    bool has_thoughts;         /* Qwen3: drops them from answers before the last question */
    bool ends_open;            /* Qwen1.5: an answer that is the last message has no end */

    bool always_wants_answer;

    enum nb_chat_calls calls;
    const char *after_calls_marker; /* Mistral: between a marker of tools and what follows it */
    bool doubles_braces;            /* Qwen2.5, one published template */
};

/* ---- Writing tokens and text ---- */

static const char *marker(const struct prompt *p, size_t i) {
    return i < N_FIXED_MARKERS ? markers[i] : i == N_FIXED_MARKERS ? p->chat->bos : p->chat->eos;
}

static void encode(struct prompt *p, const char *text, size_t n, unsigned flags,
                   struct nb_tokens *out) {
    if (p->status == NB_OK)
        p->status = nb_tokenizer_encode(p->tokenizer, text, n, flags, out, p->err);
}

static void add_id(struct prompt *p, int32_t id, struct nb_tokens *out) {
    if (p->status == NB_OK && !nb_tokens_add(out, id))
        p->status = nb_fail_memory(p->err, out->n * sizeof id, "the prompt");
}

/* Encodes the text since the last special token, as one. */
static void end_run(struct prompt *p) {
    if (p->run.failed && p->status == NB_OK)
        p->status = nb_fail_memory(p->err, p->run.len, "the prompt");
    if (p->run.len)
        encode(p, p->run.data, p->run.len, p->out->n > p->held ? p->flags : 0, p->out);
    nb_buf_clear(&p->run);
}

/* Text of a message, or of the checkpoint: never a special token. */
static void put(struct prompt *p, const char *text, size_t n) {
    nb_buf_add(&p->run, text, n);
}

/* Text of the template. */
static void say(struct prompt *p, const char *text) {
    while (text && *text) {
        size_t i = 0, n = 0;
        for (; i < N_MARKERS; i++) {
            n = strlen(marker(p, i));
            if (p->ids[i] >= 0 && strncmp(text, marker(p, i), n) == 0)
                break;
        }
        if (i < N_MARKERS) {
            end_run(p);
            add_id(p, p->ids[i], p->out);
        } else {
            put(p, text, n = 1);
        }
        text += n;
    }
}

/* Whether text with marker i in it becomes the ids of `before`, the marker's, and the ids of
 * `after` encoded with `flags`. */
static bool splits(struct prompt *p, size_t i, const char *before, const char *after,
                   unsigned flags) {
    char text[128];
    struct nb_tokens whole = {0}, parts = {0};
    int n = snprintf(text, sizeof text, "%s%s%s", before, marker(p, i), after);
    encode(p, text, (size_t)n, NB_ENCODE_SPECIAL, &whole);
    encode(p, before, strlen(before), 0, &parts);
    add_id(p, p->ids[i], &parts);
    encode(p, after, strlen(after), flags, &parts);
    bool equal = p->status == NB_OK && whole.n == parts.n &&
                 memcmp(whole.ids, parts.ids, whole.n * sizeof *whole.ids) == 0;
    nb_tokens_free(&whole);
    nb_tokens_free(&parts);
    return equal;
}

/* Which markers are special tokens, and how text goes on behind them: some tokenizers put a space
 * in front there as at the start of a text, some do not. Those whose special tokens take the spaces
 * around them are refused: no template that is known here is for one. */
static void learn_tokenizer(struct prompt *p) {
    bool known = false;
    for (size_t i = 0; i < N_MARKERS; i++) {
        const char *text = marker(p, i);
        int32_t id = *text ? nb_tokenizer_find(p->tokenizer, text) : -1;
        p->ids[i] = nb_tokenizer_is_special(p->tokenizer, id) ? id : -1;
        if (p->ids[i] < 0)
            continue;
        if (!known && !splits(p, i, "x", "x", 0))
            p->flags = NB_ENCODE_CONTINUE;
        known = true;
        if (!splits(p, i, "x", "x", p->flags) || !splits(p, i, "x ", " x", p->flags)) {
            if (p->status == NB_OK)
                p->status = nb_fail(p->err, NB_ERR_UNSUPPORTED,
                                    "tokenizer: special token \"%s\" changes the text around it; "
                                    "write the prompt out, without a chat template",
                                    text);
            return;
        }
    }
}

/* ---- Messages ---- */

struct piece {
    const char *p;
    size_t n;
};

static bool is_role(const struct nb_chat_message *m, const char *role) {
    return strcmp(m->role, role) == 0;
}

static struct piece content(const struct nb_chat_message *m) {
    return (struct piece){m->content, m->bytes};
}

/* What Python's str.strip takes away. */
static bool is_space(uint32_t c) {
    return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 ||
           c == 0x202F || c == 0x205F || c == 0x3000;
}

static struct piece trim(struct piece s) {
    size_t end = 0;
    for (size_t i = 0, len; i < s.n; i += len) {
        uint32_t c = 0;
        len = nb_utf8_decode(s.p + i, s.n - i, &c);
        if (!len) /* cannot be: messages are checked */
            return s;
        if (!is_space(c)) {
            end = i + len;
        } else if (end == 0) {
            s.p += i + len;
            s.n -= i + len;
            i = len = 0;
        }
    }
    s.n = end;
    return s;
}

static struct piece trim_lines(struct piece s) {
    for (; s.n && s.p[0] == '\n'; s.n--)
        s.p++;
    while (s.n && s.p[s.n - 1] == '\n')
        s.n--;
    return s;
}

static bool begins(struct piece s, const char *with) {
    return s.n >= strlen(with) && memcmp(s.p, with, strlen(with)) == 0;
}

static bool ends(struct piece s, const char *with) {
    size_t n = strlen(with);
    return s.n >= n && memcmp(s.p + s.n - n, with, n) == 0;
}

struct nb_chat_message nb_chat_trimmed(const struct nb_chat_message *message) {
    struct nb_chat_message out = *message;
    struct piece text = trim(content(message));
    out.content = text.p;
    out.bytes = text.n;
    return out;
}

/* What is before the first `word`, or all; and what is behind the last one, or all. */
static struct piece before(struct piece s, const char *word) {
    const char *at = s.n ? memmem(s.p, s.n, word, strlen(word)) : NULL;
    return (struct piece){s.p, at ? (size_t)(at - s.p) : s.n};
}

static struct piece behind(struct piece s, const char *word) {
    for (struct piece head; (head = before(s, word)).n < s.n;) {
        s.p += head.n + strlen(word);
        s.n -= head.n + strlen(word);
    }
    return s;
}

static void refuse_role(struct prompt *p, size_t i, const char *why) {
    if (p->status == NB_OK)
        p->status = nb_fail(p->err, NB_ERR_ARGUMENT, "chat: message %zu has role \"%s\": %s", i,
                            p->messages[i].role, why);
}

/* ---- Mistral ---- */

/* A message that a list of calls makes, or their results: it does not count as a turn. */
static bool is_about_tools(const struct nb_chat_message *m) {
    return m->n_calls || is_role(m, "tool");
}

/* Whether message i says what the user's last message says: tools are named before each of them. */
static bool is_last_question(const struct prompt *p, size_t i) {
    for (size_t k = p->n_messages; k-- > 0;) {
        const struct nb_chat_message *m = &p->messages[k], *this = &p->messages[i];
        if (is_role(m, "user"))
            return m->bytes == this->bytes && memcmp(m->content, this->content, m->bytes) == 0;
    }
    return false;
}

static void put_buf(struct prompt *p, struct nb_buf *text) {
    if (text->failed && p->status == NB_OK)
        p->status = nb_fail_memory(p->err, text->len, "the prompt");
    put(p, text->data ? text->data : "", text->len);
    nb_buf_free(text);
}

static void write_mistral_tools(struct prompt *p) {
    struct nb_buf text = {0};
    say(p, "[AVAILABLE_TOOLS]");
    say(p, p->chat->format->after_calls_marker);
    nb_chat_mistral_tools(p->tools, &text);
    put_buf(p, &text);
    say(p, "[/AVAILABLE_TOOLS]");
}

static void write_mistral_calls(struct prompt *p, size_t i) {
    struct nb_buf text = {0};
    say(p, "[TOOL_CALLS]");
    say(p, p->chat->format->after_calls_marker);
    if (p->status == NB_OK)
        p->status = nb_chat_mistral_calls(&p->messages[i], i, &text, p->err);
    put_buf(p, &text);
    say(p, p->chat->eos);
}

static void write_mistral_result(struct prompt *p, size_t i) {
    const struct nb_chat_message *m = &p->messages[i];
    if (p->status == NB_OK && (!m->call_id || strlen(m->call_id) != 9))
        p->status = nb_fail(p->err, NB_ERR_ARGUMENT,
                            "chat: message %zu: this model's chat template takes a tool_call_id of "
                            "nine characters only",
                            i);
    if (p->status != NB_OK)
        return;
    say(p, "[TOOL_RESULTS]");
    say(p, p->chat->format->after_calls_marker);
    put(p, "{\"content\": ", strlen("{\"content\": "));
    put(p, m->content, m->bytes);
    put(p, ", \"call_id\": \"", strlen(", \"call_id\": \""));
    put(p, m->call_id, 9);
    put(p, "\"}", 2);
    say(p, "[/TOOL_RESULTS]");
}

static void write_mistral_user(struct prompt *p, size_t i, const struct nb_chat_message *system) {
    const struct nb_chat_format *f = p->chat->format;
    if (f->calls == NB_CHAT_CALLS_MISTRAL && json_array_size(p->tools) && is_last_question(p, i))
        write_mistral_tools(p);
    say(p, f->before_user);
    if (system) {
        put(p, system->content, system->bytes);
        say(p, "\n\n");
    }
    put(p, p->messages[i].content, p->messages[i].bytes);
    say(p, f->after_user);
}

static void write_mistral_answer(struct prompt *p, size_t i) {
    const struct nb_chat_format *f = p->chat->format;
    struct piece text = content(&p->messages[i]);
    if (f->trims_answers)
        text = trim(text);
    say(p, f->before_answer);
    put(p, text.p, text.n);
    say(p, f->before_eos);
    say(p, p->chat->eos);
    say(p, f->after_eos);
}

/* Why message i cannot stand where it does, or NULL; `turn` counts those after the system prompt
 * that are turns. */
static const char *misplaced(const struct prompt *p, size_t i, size_t turn) {
    const struct nb_chat_format *f = p->chat->format;
    if (f->system == SYSTEM_APART)
        return NULL;
    if (is_role(&p->messages[i], "system"))
        return f->system == SYSTEM_REFUSED ? "this model's chat template has no system prompt"
                                           : "a system prompt can only be the first message";
    if (!is_about_tools(&p->messages[i]) && is_role(&p->messages[i], "user") != (turn % 2 == 0))
        return "user and assistant must take turns, beginning with the user";
    return NULL;
}

static void write_mistral(struct prompt *p) {
    const struct nb_chat_format *f = p->chat->format;
    const struct nb_chat_message *system = NULL;
    if ((f->system == SYSTEM_FIRST || f->system == SYSTEM_LAST) &&
        is_role(&p->messages[0], "system"))
        system = &p->messages[0];
    size_t first = system ? 1 : 0, with_system = f->system == SYSTEM_FIRST ? 1 : p->n_messages - 1;
    size_t turn = 0;
    say(p, p->chat->bos);
    for (size_t i = first; i < p->n_messages && p->status == NB_OK; i++) {
        const struct nb_chat_message *m = &p->messages[i];
        const char *why = misplaced(p, i, turn);
        turn += !is_about_tools(m);
        if (why) {
            refuse_role(p, i, why);
        } else if (m->n_calls) {
            write_mistral_calls(p, i);
        } else if (is_role(m, "tool")) {
            write_mistral_result(p, i);
        } else if (is_role(m, "user")) {
            write_mistral_user(p, i, i == with_system ? system : NULL);
        } else if (is_role(m, "assistant")) {
            write_mistral_answer(p, i);
        } else {
            say(p, f->before_system);
            put(p, m->content, m->bytes);
            say(p, f->after_system);
        }
    }
}

/* ---- Llama 3 ---- */

static void write_llama3_turn(struct prompt *p, const char *role, const char *preamble,
                              struct piece text) {
    say(p, "<|start_header_id|>");
    say(p, role);
    say(p, "<|end_header_id|>\n\n");
    say(p, preamble);
    put(p, text.p, text.n);
    say(p, "<|eot_id|>");
}

static void write_llama3(struct prompt *p) {
    const struct nb_chat_format *f = p->chat->format;
    size_t i = 0;
    say(p, p->chat->bos);
    if (f->has_preamble) {
        char preamble[128];
        snprintf(preamble, sizeof preamble,
                 "%sCutting Knowledge Date: December 2023\nToday Date: %s\n\n",
                 json_array_size(p->tools) ? "Environment: ipython\n" : "",
                 f->date ? f->date : p->chat->date);
        bool system = is_role(&p->messages[0], "system");
        write_llama3_turn(p, "system", preamble,
                          system ? trim(content(&p->messages[i++])) : (struct piece){"", 0});
    }
    for (; i < p->n_messages; i++) {
        struct piece text = content(&p->messages[i]);
        write_llama3_turn(p, p->messages[i].role, "", p->messages[i].whole ? text : trim(text));
    }
    if (p->wants_answer)
        say(p, "<|start_header_id|>assistant<|end_header_id|>\n\n");
}

/* ---- ChatML ---- */

/* The last message of the user that is not what a tool answered; without one, the last message. */
static size_t last_question(const struct prompt *p) {
    for (size_t i = p->n_messages; i-- > 0;) {
        struct piece text = content(&p->messages[i]);
        if (is_role(&p->messages[i], "user") &&
            !(begins(text, "<tool_response>") && ends(text, "</tool_response>")))
            return i;
    }
    return p->n_messages - 1;
}

/* An answer as Qwen3 keeps it: with its thoughts if it comes after the last question. */
static void write_thoughtful_answer(struct prompt *p, size_t i) {
    struct piece text = content(&p->messages[i]), thoughts = {"", 0};
    struct piece head = before(text, "</think>");
    if (head.n < text.n) {
        thoughts = trim_lines(behind(head, "<think>"));
        text = behind(text, "</think>");
        for (; text.n && text.p[0] == '\n'; text.n--)
            text.p++;
    }
    if (i > last_question(p) && (i + 1 == p->n_messages || thoughts.n)) {
        say(p, "<think>\n");
        put(p, thoughts.p, thoughts.n);
        say(p, "\n</think>\n\n");
        for (; text.n && text.p[0] == '\n'; text.n--)
            text.p++;
    }
    put(p, text.p, text.n);
}

static void write_chatml(struct prompt *p) {
    const struct nb_chat_format *f = p->chat->format;
    if (f->has_bos)
        say(p, p->chat->bos);
    if (f->default_system && !is_role(&p->messages[0], "system")) {
        say(p, "<|im_start|>system\n");
        say(p, f->default_system);
        say(p, "<|im_end|>\n");
    }
    for (size_t i = 0; i < p->n_messages; i++) {
        const struct nb_chat_message *m = &p->messages[i];
        say(p, "<|im_start|>");
        say(p, m->role);
        say(p, "\n");
        if (f->has_thoughts && is_role(m, "assistant"))
            write_thoughtful_answer(p, i);
        else
            put(p, m->content, m->bytes);
        if (!f->ends_open || p->wants_answer || i + 1 < p->n_messages)
            say(p, "<|im_end|>\n");
    }
    bool answered = is_role(&p->messages[p->n_messages - 1], "assistant");
    if (p->wants_answer && !(f->ends_open && answered)) {
        say(p, "<|im_start|>assistant\n");
        say(p, f->begins_answer);
    }
}

/* ---- Known formats and templates ---- */

enum format {
    MISTRAL_V0,
    MISTRAL_V0_SPACED,
    MISTRAL_V1,
    MISTRAL_V1_PLAIN,
    MISTRAL_V1_SPACED,
    MISTRAL_V3,
    MISTRAL_V3_PLAIN,
    MISTRAL_V3_TRIMMED,
    MISTRAL_V3_TEKKEN,
    MISTRAL_V3_TEKKEN_PLAIN,
    MISTRAL_V7,
    MISTRAL_V7_TEKKEN,
    LLAMA_3,
    LLAMA_3_ALWAYS,
    LLAMA_3_1,
    LLAMA_3_2,
    CHATML,
    CHATML_BOS,
    CHATML_BOS_HELPFUL,
    QWEN_1_5,
    QWEN_2,
    QWEN_2_5,
    QWEN_2_5_BRACES,
    QWEN_3_CODER,
    QWEN_3,
    QWEN_3_THINKING,
    SMOLLM_2,
};

#define MISTRAL(user, end, answer) write_mistral, user, end, answer
static const struct nb_chat_format formats[] = {
    [MISTRAL_V0] = {"mistral-v0", MISTRAL("[INST] ", " [/INST]", "")},
    [MISTRAL_V0_SPACED] = {"mistral-v0-spaced", MISTRAL("[INST] ", " [/INST]", ""),
                           .after_eos = " "},
    [MISTRAL_V1] = {"mistral-v1", MISTRAL(" [INST] ", " [/INST]", " "), .system = SYSTEM_FIRST},
    [MISTRAL_V1_PLAIN] = {"mistral-v1-plain", MISTRAL(" [INST] ", " [/INST]", " ")},
    [MISTRAL_V1_SPACED] = {"mistral-v1-spaced", MISTRAL(" [INST] ", " [/INST]", " "),
                           .before_eos = " "},
    [MISTRAL_V3] = {"mistral-v3", MISTRAL("[INST] ", "[/INST]", " "), .system = SYSTEM_LAST},
    [MISTRAL_V3_PLAIN] = {"mistral-v3-plain", MISTRAL("[INST] ", "[/INST]", " ")},
    [MISTRAL_V3_TRIMMED] = {"mistral-v3-trimmed", MISTRAL("[INST] ", "[/INST]", " "),
                            .system = SYSTEM_LAST, .trims_answers = true,
                            .calls = NB_CHAT_CALLS_MISTRAL, .after_calls_marker = " "},
    [MISTRAL_V3_TEKKEN] = {"mistral-v3-tekken", MISTRAL("[INST]", "[/INST]", ""),
                           .system = SYSTEM_LAST, .calls = NB_CHAT_CALLS_MISTRAL,
                           .after_calls_marker = ""},
    [MISTRAL_V3_TEKKEN_PLAIN] = {"mistral-v3-tekken-plain", MISTRAL("[INST]", "[/INST]", "")},
    [MISTRAL_V7] = {"mistral-v7", MISTRAL("[INST] ", "[/INST]", " "), .system = SYSTEM_APART,
                    .before_system = "[SYSTEM_PROMPT] ", .after_system = "[/SYSTEM_PROMPT]"},
    [MISTRAL_V7_TEKKEN] = {"mistral-v7-tekken", MISTRAL("[INST]", "[/INST]", ""),
                           .system = SYSTEM_APART, .before_system = "[SYSTEM_PROMPT]",
                           .after_system = "[/SYSTEM_PROMPT]"},
    [LLAMA_3] = {"llama-3", write_llama3},
    [LLAMA_3_ALWAYS] = {"llama-3-always", write_llama3, .always_wants_answer = true},
    [LLAMA_3_1] = {"llama-3.1", write_llama3, .has_preamble = true, .date = "26 Jul 2024",
                   .calls = NB_CHAT_CALLS_LLAMA},
    [LLAMA_3_2] = {"llama-3.2", write_llama3, .has_preamble = true, .calls = NB_CHAT_CALLS_LLAMA},
    [CHATML] = {"chatml", write_chatml},
    [QWEN_3_CODER] = {"qwen-3-coder", write_chatml, .calls = NB_CHAT_CALLS_REFUSED},
    [CHATML_BOS] = {"chatml-bos", write_chatml, .has_bos = true},
    [CHATML_BOS_HELPFUL] = {"chatml-bos-helpful", write_chatml, .has_bos = true,
                            .default_system = "You are a helpful assistant."},
    [QWEN_1_5] = {"qwen-1.5", write_chatml, .default_system = "You are a helpful assistant",
                  .ends_open = true},
    [QWEN_2] = {"qwen-2", write_chatml, .default_system = "You are a helpful assistant."},
    [QWEN_2_5] = {"qwen-2.5", write_chatml,
                  .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful "
                                    "assistant."},
    [QWEN_2_5_BRACES] = {"qwen-2.5-braces", write_chatml,
                         .default_system = "You are Qwen, created by Alibaba Cloud. You are a "
                                           "helpful assistant.",
                         .doubles_braces = true},
    [QWEN_3] = {"qwen-3", write_chatml, .has_thoughts = true},
    [QWEN_3_THINKING] = {"qwen-3-thinking", write_chatml, .has_thoughts = true,
                         .begins_answer = "<think>\n"},
    [SMOLLM_2] = {"smollm-2", write_chatml,
                  .default_system = "You are a helpful AI assistant named SmolLM, trained by "
                                    "Hugging Face"},
};
enum { N_FORMATS = sizeof formats / sizeof *formats };

/* Hashes of the normal forms of published templates, and one checkpoint of each. */
static const struct {
    uint64_t hash;
    enum format format;
} known[] = {
    {0xA3BD8AB4C646F420, MISTRAL_V0},              /* Mixtral-8x7B-Instruct-v0.1 of 2023 */
    {0x7D454AA1F675C35F, MISTRAL_V0_SPACED},       /* Mistral-7B-Instruct-v0.1 of 2023 */
    {0x6B55FF6FBE5CA6BA, MISTRAL_V1},              /* Mixtral-8x7B-Instruct-v0.1 */
    {0x9214158798AE1ECA, MISTRAL_V1_PLAIN},        /* Mistral's documentation */
    {0xB544B5B81E95D5E9, MISTRAL_V1_SPACED},       /* Mixtral-8x22B-Instruct-v0.1 of 2024 */
    {0xB61F3A9E3D3B7AAD, MISTRAL_V3},              /* Mixtral-8x22B-Instruct-v0.1 */
    {0xB13F1738CB334FDA, MISTRAL_V3_PLAIN},        /* Mistral's documentation */
    {0xAC1B4E44300C1B76, MISTRAL_V3_TRIMMED},      /* Mistral-Large-Instruct-2407 */
    {0x28AB4AC4755F9434, MISTRAL_V3_TEKKEN},       /* Mistral-Nemo-Instruct-2407 */
    {0x75CC1331512DA554, MISTRAL_V3_TEKKEN},       /* the same, of 2024 */
    {0xE0C1E10A9CC7FD24, MISTRAL_V3_TEKKEN_PLAIN}, /* Mistral's documentation */
    {0xBCCB082609F0A11C, MISTRAL_V7},              /* Mistral-Large-Instruct-2411 */
    {0x2793A82907CB672B, MISTRAL_V7_TEKKEN},       /* Mistral-Small-24B-Instruct-2501 */
    {0xC0B82500F60F1C9F, LLAMA_3},                 /* Meta-Llama-3-8B-Instruct */
    {0x1176855F5ED79A84, LLAMA_3_ALWAYS},          /* the same, first version */
    {0x1CBE98005B73C581, LLAMA_3_1},               /* Llama-3.1-8B and 3.3-70B-Instruct */
    {0xA5A1EB124040F171, LLAMA_3_2},               /* Llama-3.2-3B-Instruct */
    {0xBC0A8F4831B9ADAD, CHATML},                  /* OpenHermes-2.5-Mistral-7B */
    {0x27411F87D10C1CA1, CHATML},                  /* dolphin-2.5-mixtral-8x7b */
    {0xE948EDE307070323, QWEN_3_CODER},            /* Qwen3-Coder-30B-A3B-Instruct */
    {0x12FDB924F5F3D1E1, QWEN_3_CODER},            /* the same, later */
    {0xF2FC8F1F5B4A8919, CHATML},                  /* Qwen3-30B-A3B-Instruct-2507 */
    {0x13C5EE53822462FC, CHATML_BOS},              /* Nous-Hermes-2-Mixtral-8x7B-DPO */
    {0xAA4806EF59A2377D, CHATML_BOS_HELPFUL},      /* Hermes-3-Llama-3.1-70B */
    {0x8D02E1C6CEBF3191, QWEN_1_5},                /* Qwen1.5-72B-Chat */
    {0xBC334DB70B19E808, QWEN_2},                  /* Qwen2-7B-Instruct */
    {0x07599C688F0A6EB6, QWEN_2_5},                /* Qwen2.5-7B-Instruct */
    {0x1886CF6126AC3F5A, QWEN_2_5_BRACES},         /* Qwen2.5-0.5B-Instruct */
    {0xBFF4DC489BE60476, QWEN_3},                  /* Qwen3-0.6B */
    {0x73E7542E263574BD, QWEN_3},                  /* Qwen3-30B-A3B */
    {0x8F0D4C4A273CF23C, QWEN_3_THINKING},         /* Qwen3-30B-A3B-Thinking-2507 */
    {0x05E26C20945F9FB7, SMOLLM_2},                /* SmolLM2-135M-Instruct */
};

const char *nb_chat_format_name(const struct nb_chat_format *format) {
    return format->name;
}

const struct nb_chat_format *nb_chat_format_find(const char *name) {
    for (size_t i = 0; i < N_FORMATS; i++) {
        if (strcmp(formats[i].name, name) == 0)
            return &formats[i];
    }
    return NULL;
}

enum nb_status nb_chat_recognize(const char *text, size_t n, const struct nb_chat_format **out,
                                 struct nb_error *err) {
    uint64_t hash;
    enum nb_status s = nb_chat_template_hash(text, n, &hash, err);
    for (size_t i = 0; s == NB_OK && i < sizeof known / sizeof *known; i++) {
        if (known[i].hash == hash) {
            *out = &formats[known[i].format];
            return NB_OK;
        }
    }
    if (s == NB_ERR_MEMORY)
        return s;
    return nb_fail(err, NB_ERR_UNSUPPORTED,
                   "chat template (%zu bytes, %016llX) is none of those of Mistral, Llama 3 and "
                   "ChatML models that nibble knows; write the prompt out as the model expects it "
                   "and give it without a chat template",
                   n, (unsigned long long)hash);
}

/* ---- Opening ---- */

/* A token of tokenizer_config.json: a string, or an object with `content`. */
static enum nb_status read_token(const json_t *config, const char *key, char out[64],
                                 const char *name, struct nb_error *err) {
    const json_t *token = json_object_get(config, key);
    if (json_is_object(token))
        token = json_object_get(token, "content");
    if (!token || json_is_null(token))
        return NB_OK;
    if (!json_is_string(token) || json_string_length(token) >= 64)
        return nb_fail(err, NB_ERR_FORMAT, "%s: %s is %s, expected a string of at most 63 bytes",
                       name, key, nb_json_type(token));
    memcpy(out, json_string_value(token), json_string_length(token) + 1);
    return NB_OK;
}

/* The template in tokenizer_config.json, or NULL if that has none. */
static enum nb_status find_template(const json_t *config, const char *path, const json_t **out,
                                    struct nb_error *err) {
    const json_t *value = json_object_get(config, "chat_template"), *entry;
    *out = NULL;
    if (!value || json_is_null(value))
        return NB_OK;
    if (json_is_string(value)) {
        *out = value;
        return NB_OK;
    }
    size_t i;
    json_array_foreach(value, i, entry) {
        const char *name = json_string_value(json_object_get(entry, "name"));
        if (name && strcmp(name, "default") == 0)
            *out = json_object_get(entry, "template");
    }
    if (json_is_string(*out))
        return NB_OK;
    return nb_fail(err, json_is_array(value) ? NB_ERR_UNSUPPORTED : NB_ERR_FORMAT,
                   "%s: chat_template is %s, expected a string, or an array of {name, template} "
                   "with the name \"default\"",
                   path, nb_json_type(value));
}

/* Puts the template of the checkpoint onto *text; *path is where it was found. */
static enum nb_status read_template(const char *folder, const json_t *config, char path[PATH_MAX],
                                    struct nb_buf *text, struct nb_error *err) {
    char config_path[PATH_MAX];
    snprintf(config_path, sizeof config_path, "%s", path);
    if (!nb_path_join(path, PATH_MAX, folder, "chat_template.jinja"))
        return nb_fail(err, NB_ERR_LIMIT, "%s: path is too long", folder);
    if (nb_is_file(path))
        return nb_read_regular_file(path, MAX_TEMPLATE_BYTES, text, err);
    memcpy(path, config_path, PATH_MAX);
    const json_t *found;
    enum nb_status s = find_template(config, path, &found, err);
    if (s != NB_OK)
        return s;
    if (!found)
        return nb_fail(err, NB_ERR_UNSUPPORTED,
                       "%s: has no chat template, neither chat_template.jinja nor chat_template in "
                       "tokenizer_config.json; give the prompt without a chat template",
                       folder);
    nb_buf_add(text, json_string_value(found), json_string_length(found));
    return text->failed ? nb_fail_memory(err, json_string_length(found), path) : NB_OK;
}

/* "22 Nov 2026", in English whatever the locale. */
static void write_date(char *out, size_t size) {
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    time_t now = time(NULL);
    struct tm tm = {.tm_mday = 1};
    localtime_r(&now, &tm);
    snprintf(out, size, "%02d %.3s %d", tm.tm_mday, months + 3 * tm.tm_mon, tm.tm_year + 1900);
}

static enum nb_status open_chat(const char *folder, const json_t *config, char path[PATH_MAX],
                                struct nb_chat *out, struct nb_error *err) {
    enum nb_status s = read_token(config, "bos_token", out->bos, path, err);
    if (s == NB_OK)
        s = read_token(config, "eos_token", out->eos, path, err);
    if (s != NB_OK)
        return s;
    char config_path[PATH_MAX];
    memcpy(config_path, path, PATH_MAX);
    struct nb_buf text = {0};
    s = read_template(folder, config, path, &text, err);
    if (s == NB_OK) {
        s = nb_chat_recognize(text.data ? text.data : "", text.len, &out->format, err);
        if (s != NB_OK)
            nb_fail_prefix(err, s, "%s", path);
    }
    nb_buf_free(&text);
    if (s != NB_OK)
        return s;
    bool no_bos = !*out->bos && out->format->write != write_chatml;
    if (no_bos || (!*out->eos && out->format->write == write_mistral))
        return nb_fail(err, NB_ERR_FORMAT, "%s: has no %s, which the chat template uses",
                       config_path, no_bos ? "bos_token" : "eos_token");
    write_date(out->date, sizeof out->date);
    return NB_OK;
}

enum nb_status nb_chat_open(const char *folder, struct nb_chat *out, struct nb_error *err) {
    char path[PATH_MAX];
    json_t *config = NULL;
    *out = (struct nb_chat){0};
    if (!nb_path_join(path, sizeof path, folder, "tokenizer_config.json"))
        return nb_fail(err, NB_ERR_LIMIT, "%s: path is too long", folder);
    enum nb_status s = NB_OK;
    if (nb_is_file(path))
        s = nb_json_read(path, MAX_CONFIG_BYTES, &config, err);
    if (s == NB_OK)
        s = open_chat(folder, config, path, out, err);
    json_decref(config);
    return s;
}

/* ---- Encoding ---- */

static enum nb_status check_messages(const struct nb_chat_message *messages, size_t n,
                                     struct nb_error *err) {
    if (n == 0)
        return nb_fail(err, NB_ERR_ARGUMENT, "chat: there is no message");
    for (size_t i = 0; i < n; i++) {
        const struct nb_chat_message *m = &messages[i];
        size_t bad;
        if (!is_role(m, "system") && !is_role(m, "user") && !is_role(m, "assistant") &&
            !is_role(m, "tool"))
            return nb_fail(err, NB_ERR_ARGUMENT,
                           "chat: message %zu has role \"%.32s\", expected system, user, "
                           "assistant or tool",
                           i, m->role);
        if (m->n_calls && !is_role(m, "assistant"))
            return nb_fail(err, NB_ERR_ARGUMENT, "chat: message %zu: only an assistant calls", i);
        if (!nb_utf8_valid(m->content, m->bytes, &bad))
            return nb_fail(err, NB_ERR_FORMAT,
                           "chat: message %zu is not UTF-8 at byte %zu (0x%02X)", i, bad,
                           (unsigned char)m->content[bad]);
    }
    return NB_OK;
}

enum nb_chat_calls nb_chat_calls(const struct nb_chat *chat) {
    return chat->format->calls;
}

int32_t nb_chat_calls_token(const struct nb_chat *chat, const struct nb_tokenizer *tokenizer) {
    int32_t id = chat->format->calls == NB_CHAT_CALLS_MISTRAL
                     ? nb_tokenizer_find(tokenizer, "[TOOL_CALLS]")
                     : -1;
    return nb_tokenizer_is_special(tokenizer, id) ? id : -1;
}

/* Makes plain messages of those about tools, where the format has no markup of its own for them. */
static enum nb_status make_plain(const struct nb_chat_format *f, const struct nb_chat_talk *talk,
                                 struct nb_chat_plain *out, struct nb_error *err) {
    bool any = json_array_size(talk->tools) > 0;
    for (size_t i = 0; i < talk->n; i++)
        any |= talk->messages[i].n_calls || is_role(&talk->messages[i], "tool");
    *out = (struct nb_chat_plain){0};
    if (!any || f->calls == NB_CHAT_CALLS_MISTRAL)
        return NB_OK;
    if (f->calls == NB_CHAT_CALLS_LLAMA)
        return nb_chat_llama_tools(talk, out, err);
    if (f->calls == NB_CHAT_CALLS_TAGGED)
        return nb_chat_tag_tools(talk, f->default_system,
                                 f->write == write_mistral && f->system == SYSTEM_REFUSED,
                                 f->doubles_braces, out, err);
    return nb_fail(err, NB_ERR_UNSUPPORTED,
                   "tools: this model calls functions in a way (chat template %s) that nibble does "
                   "not know",
                   f->name);
}

/* What stands before the JSON object of a call that must come. */
static void begin_call(struct prompt *p) {
    const struct nb_chat_format *f = p->chat->format;
    if (f->begins_answer) /* no thoughts, then */
        say(p, "\n</think>\n\n");
    if (f->calls == NB_CHAT_CALLS_TAGGED)
        put(p, "<tool_call>\n", strlen("<tool_call>\n"));
    if (f->calls == NB_CHAT_CALLS_MISTRAL) {
        say(p, "[TOOL_CALLS]");
        say(p, f->after_calls_marker);
        say(p, "[");
    }
}

enum nb_status nb_chat_encode_talk(const struct nb_chat *chat, const struct nb_tokenizer *tokenizer,
                                   const struct nb_chat_talk *talk, struct nb_tokens *out,
                                   struct nb_error *err) {
    struct nb_chat_plain plain = {0};
    enum nb_status s = check_messages(talk->messages, talk->n, err);
    if (s == NB_OK)
        s = make_plain(chat->format, talk, &plain, err);
    if (s != NB_OK) {
        nb_chat_plain_free(&plain);
        return s;
    }
    struct prompt p = {
        .chat = chat,
        .tokenizer = tokenizer,
        .messages = plain.n ? plain.messages : talk->messages,
        .n_messages = plain.n ? plain.n : talk->n,
        .tools = talk->tools,
        .wants_answer = talk->add_generation_prompt || chat->format->always_wants_answer,
        .out = out,
        .held = out->n,
        .err = err,
    };
    learn_tokenizer(&p);
    chat->format->write(&p);
    if (talk->add_generation_prompt && talk->begin_call)
        begin_call(&p);
    end_run(&p);
    nb_buf_free(&p.run);
    nb_chat_plain_free(&plain);
    if (p.status != NB_OK)
        out->n = p.held;
    return p.status;
}

enum nb_status nb_chat_encode(const struct nb_chat *chat, const struct nb_tokenizer *tokenizer,
                              const struct nb_chat_message *messages, size_t n,
                              bool add_generation_prompt, struct nb_tokens *out,
                              struct nb_error *err) {
    struct nb_chat_talk talk = {
        .messages = messages, .n = n, .add_generation_prompt = add_generation_prompt};
    return nb_chat_encode_talk(chat, tokenizer, &talk, out, err);
}
