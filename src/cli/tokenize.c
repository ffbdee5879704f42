/* nibble tokenize: text to token ids, and back. */
#include "base/buf.h"
#include "base/file.h"
#include "cli/cli.h"
#include "model/cache.h"
#include "model/tokenizer.h"

#include <getopt.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: nibble tokenize [--model CHECKPOINT] [OPTIONS] [FILE]\n\n"
    "Writes the token ids of a text, with spaces between them, or with --decode the text of ids.\n"
    "FILE is standard input where it is not given, or \"-\".\n\n"
    "  --model CHECKPOINT  a folder as Hugging Face lays it out, the name of a repository in the\n"
    "                      cache, or a tokenizer.json or tokenizer.model itself (default: the\n"
    "                      environment variable NIBBLE_MODEL, or the model that comes with "
    "nibble)\n"
    "  --special           special tokens written in the text, such as </s>, become their ids\n"
    "  --no-template       nothing is put around the text, such as <s> at its start\n"
    "  --tokens            a line for each token: its id, a tab, its text as a JSON string\n"
    "  --json              one array of ids; with --tokens, of {id, token}; with --decode, one\n"
    "                      string. Bytes that are no whole character become U+FFFD\n"
    "  --decode            FILE is ids, with white space or commas between them, or a JSON array\n"
    "                      of them; special tokens have no text\n"
    "\nExit code: 0 if it went well, 1 if not, 2 for wrong usage.\n";

enum { MAX_INPUT_BYTES = 1 << 30 };

struct request {
    const char *model, *file;
    bool special, no_template, tokens, json, decode;
};

/* The file that holds the tokenizer of a checkpoint. */
static enum nb_status find_tokenizer(const char *model, char out[PATH_MAX], struct nb_error *err) {
    char folder[PATH_MAX];
    if (!model) {
        if (!nb_cli_default_model(folder, sizeof folder, err))
            return NB_ERR_IO;
        model = folder;
    }
    if (nb_is_file(model) && snprintf(out, PATH_MAX, "%s", model) < PATH_MAX)
        return NB_OK;
    char found[PATH_MAX];
    enum nb_status s = nb_checkpoint_find(model, found, sizeof found, err);
    if (s != NB_OK)
        return s;
    if (nb_tokenizer_path(found, out, PATH_MAX))
        return NB_OK;
    return nb_fail(err, NB_ERR_IO,
                   "%s: has no tokenizer, neither tokenizer.json nor tokenizer.model", found);
}

static enum nb_status write_failed(struct nb_error *err) {
    return nb_fail(err, NB_ERR_IO, "standard output: the answer could not be written");
}

/* A token's text as a JSON string, quotes and all. The caller frees it. */
static char *quoted(const struct nb_tokenizer *tokenizer, int32_t id) {
    size_t n;
    const char *text = nb_tokenizer_bytes(tokenizer, id, &n);
    json_t *string = json_stringn(text, n);
    if (!string)
        string = json_string("\xEF\xBF\xBD");
    char *out = json_dumps(string, JSON_ENCODE_ANY);
    json_decref(string);
    return out;
}

static enum nb_status print_ids(const struct request *r, const struct nb_tokenizer *tokenizer,
                                const struct nb_tokens *ids, struct nb_error *err) {
    const char *between = r->json ? "," : r->tokens ? "\n" : " ";
    if (r->json)
        putchar('[');
    for (size_t i = 0; i < ids->n; i++) {
        if (i)
            fputs(between, stdout);
        if (!r->tokens) {
            printf("%d", ids->ids[i]);
            continue;
        }
        char *token = quoted(tokenizer, ids->ids[i]);
        if (!token)
            return nb_fail_memory(err, 64, "the text of a token");
        printf(r->json ? "{\"id\":%d,\"token\":%s}" : "%d\t%s", ids->ids[i], token);
        free(token);
    }
    puts(r->json ? "]" : "");
    return ferror(stdout) ? write_failed(err) : NB_OK;
}

static enum nb_status encode(const struct request *r, const struct nb_tokenizer *tokenizer,
                             const struct nb_buf *text, struct nb_error *err) {
    struct nb_tokens ids = {0};
    unsigned flags =
        (r->special ? NB_ENCODE_SPECIAL : 0u) | (r->no_template ? 0u : NB_ENCODE_TEMPLATE);
    enum nb_status s =
        nb_tokenizer_encode(tokenizer, text->data ? text->data : "", text->len, flags, &ids, err);
    if (s != NB_OK)
        nb_fail_prefix(err, s, "%s", r->file);
    else
        s = print_ids(r, tokenizer, &ids, err);
    nb_tokens_free(&ids);
    return s;
}

static bool separates(char c) {
    return c && strchr(" \t\r\n,[]", c);
}

/* The next id in text[*at, n), or -1 at its end. */
static enum nb_status next_id(const struct request *r, const struct nb_buf *text, size_t *at,
                              int32_t size, int32_t *id, struct nb_error *err) {
    while (*at < text->len && separates(text->data[*at]))
        ++*at;
    *id = -1;
    if (*at == text->len)
        return NB_OK;
    size_t begin = *at;
    int64_t value = 0;
    for (; *at < text->len && text->data[*at] >= '0' && text->data[*at] <= '9'; ++*at) {
        value = value * 10 + (text->data[*at] - '0');
        if (value >= size)
            return nb_fail(err, NB_ERR_ARGUMENT,
                           "%s: the token id at byte %zu is not within the vocabulary of %d",
                           r->file, begin, size);
    }
    if (*at == begin || (*at < text->len && !separates(text->data[*at])))
        return nb_fail(err, NB_ERR_FORMAT, "%s: byte %zu, 0x%02X, is not part of a token id",
                       r->file, *at, (unsigned char)text->data[*at]);
    *id = (int32_t)value;
    return NB_OK;
}

/* Writes the text as it comes, but with --json, where it is one string. */
static enum nb_status decode(const struct request *r, const struct nb_tokenizer *tokenizer,
                             const struct nb_buf *input, struct nb_error *err) {
    struct nb_buf text = {0};
    struct nb_decoder decoder;
    enum nb_status s = NB_OK;
    int32_t id = 0, size = nb_tokenizer_size(tokenizer);
    nb_decoder_start(&decoder, tokenizer);
    for (size_t at = 0; s == NB_OK && id >= 0;) {
        s = next_id(r, input, &at, size, &id, err);
        if (s == NB_OK && id >= 0)
            nb_decoder_add(&decoder, id, &text);
        if (!r->json && text.len >= 64 * 1024) {
            fwrite(text.data, 1, text.len, stdout);
            nb_buf_clear(&text);
        }
    }
    nb_decoder_finish(&decoder, &text);
    if (text.failed && s == NB_OK)
        s = nb_fail_memory(err, text.len, "the text");
    if (s == NB_OK && r->json) {
        json_t *string = json_stringn(text.data ? text.data : "", text.len);
        if (!string || json_dumpf(string, stdout, JSON_ENCODE_ANY) != 0)
            s = write_failed(err);
        json_decref(string);
        putchar('\n');
    } else if (s == NB_OK && text.len) {
        fwrite(text.data, 1, text.len, stdout);
    }
    nb_buf_free(&text);
    return s == NB_OK && ferror(stdout) ? write_failed(err) : s;
}

static bool parse(int argc, char **argv, struct request *r) {
    enum { SPECIAL = NB_OPT_COMMAND, NO_TEMPLATE, TOKENS, JSON, DECODE };
    static const struct option options[] = {
        {"model", required_argument, NULL, NB_OPT_MODEL},
        {"special", no_argument, NULL, SPECIAL},
        {"no-template", no_argument, NULL, NO_TEMPLATE},
        {"tokens", no_argument, NULL, TOKENS},
        {"json", no_argument, NULL, JSON},
        {"decode", no_argument, NULL, DECODE},
        {0},
    };
    for (int code; (code = getopt_long(argc, argv, ":", options, NULL)) != -1;) {
        if (code == '?' || code == ':') {
            nb_cli_usage("tokenize", "%s: unknown, or without its value", argv[optind - 1]);
            return false;
        }
        r->model = code == NB_OPT_MODEL ? optarg : r->model;
        r->special |= code == SPECIAL;
        r->no_template |= code == NO_TEMPLATE;
        r->tokens |= code == TOKENS;
        r->json |= code == JSON;
        r->decode |= code == DECODE;
    }
    const char *wrong = NULL;
    if (argc - optind > 1)
        wrong = "expected one FILE at most";
    else if (r->decode && (r->special || r->no_template || r->tokens))
        wrong = "--decode goes with none of --special, --no-template and --tokens";
    if (wrong)
        nb_cli_usage("tokenize", "%s", wrong);
    r->file = optind < argc ? argv[optind] : "-";
    return !wrong;
}

static int run(int argc, char **argv) {
    struct request r = {0};
    if (!parse(argc, argv, &r))
        return NB_EXIT_USAGE;
    char path[PATH_MAX];
    struct nb_tokenizer *tokenizer = NULL;
    struct nb_buf input = {0};
    struct nb_error err;
    enum nb_status s = find_tokenizer(r.model, path, &err);
    if (s == NB_OK)
        s = nb_tokenizer_open(path, &tokenizer, &err);
    if (s == NB_OK)
        s = nb_read_file(r.file, MAX_INPUT_BYTES, &input, &err);
    if (strcmp(r.file, "-") == 0)
        r.file = "standard input";
    if (s == NB_OK)
        s = (r.decode ? decode : encode)(&r, tokenizer, &input, &err);
    nb_buf_free(&input);
    nb_tokenizer_close(tokenizer);
    return s == NB_OK ? NB_EXIT_OK : nb_cli_error(&err);
}

const struct nb_command nb_command_tokenize = {"tokenize", "text to token ids, and back", help,
                                               run};
