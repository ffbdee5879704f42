/* Functions that a model may call: what a chat request says of them, the grammar of a call that
 * must come, and calls in answers, whole and as they come. In OpenAI's shapes. */
#ifndef NB_SERVICE_TOOLS_H
#define NB_SERVICE_TOOLS_H

#include "model/chat.h"
#include "nibble/nibble.h"

#include <jansson.h>

enum { NB_MAX_TOOLS = 128 };

struct nb_tools {
    const json_t *list;     /* the request's, where the model is told of them; NULL: no tools */
    const char *only;       /* the one that must be called; NULL: any */
    bool forced;            /* the answer is a call */
    bool one;               /* at most one call */
    enum nb_chat_calls how; /* the model's way of calling */
};

/* tools, tool_choice ("auto", "none", "required" or {"type": "function", "function": {"name": …}})
 * and parallel_tool_calls of a request's body, which *out points into. */
enum nb_status nb_tools_read(const json_t *body, enum nb_chat_calls how, struct nb_tools *out,
                             struct nb_error *err);

/* The grammar of what a model writes to call: {"name": …, "arguments": …} (Llama: "parameters")
 * with arguments that its function's schema allows. Of a forced call without white space; else as
 * models write it, for Mistral a list of them. The caller releases *out. */
enum nb_status nb_tools_grammar(struct nb_engine *engine, const struct nb_tools *tools,
                                struct nb_grammar **out, struct nb_error *err);

/* Where in an answer that grammar begins, if the model is not forced to call. calls_token: the id
 * of [TOOL_CALLS], or -1. False if this model cannot begin a call. */
bool nb_tools_trigger(const struct nb_tools *tools, int32_t calls_token, struct nb_trigger *out);

/* The calls that an answer makes, [{"id", "type": "function", "function": {"name", "arguments"}}],
 * for the caller to free, or NULL if it makes none; *content is how much of the text is no call.
 * Arguments are the model's own text. calls_at: where text after the token [TOOL_CALLS] begins,
 * SIZE_MAX: there is none. grammar: nb_tools_grammar's, which calls must fulfil, or NULL: any
 * arguments do. Text that only looks like calls, or calls what is not there, is text. */
json_t *nb_tools_find_calls(const struct nb_tools *tools, struct nb_grammar *grammar,
                            const char *text, size_t n, size_t calls_at, size_t *content);

/* How much of an answer's text, not yet whole, is certainly no call and no beginning of one. */
size_t nb_tools_certain(const struct nb_tools *tools, const char *text, size_t n, size_t calls_at);

/* A forced call as it comes: its name, "" while that is not whole, and of its arguments' JSON those
 * bytes that are certain, *arguments [*n_arguments], in the text. over: no more text comes; cut:
 * and it was not finished. Where several functions may be called, a model may write the arguments
 * before the name: then nothing is certain until the end. */
void nb_tools_read_forced(const struct nb_tools *tools, const char *text, size_t n, bool over,
                          bool cut, char name[65], const char **arguments, size_t *n_arguments);

/* An id for a call, of nine letters and digits, which all models' templates take. */
void nb_tools_new_id(char out[10]);

#endif
