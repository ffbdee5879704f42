/* Telling chat templates apart. A template is a program in Jinja; nibble does not run it, it knows
 * the published ones by the hash of a normal form. */
#ifndef NB_MODEL_CHAT_TEMPLATE_H
#define NB_MODEL_CHAT_TEMPLATE_H

#include "base/buf.h"
#include "base/error.h"

#include <stddef.h>
#include <stdint.h>

/* Appends the normal form of a template to *out. Templates of one normal form make the same text of
 * the same messages, where transformers runs them (trim_blocks and lstrip_blocks on) and does not
 * stop with an error. These differences are gone from it:
 *   - white space inside tags, and outside of them where a tag removes it; comments
 *   - the quotes and escapes of strings
 *   - message['role'] and message.role, and likewise for content
 *   - text outside of tags, as {{ 'text' }}, or as a term of {{ 'text' + x }}: the terms of a sum
 *     that has a string among them are all strings, and come out one after the other
 * NB_ERR_UNSUPPORTED if it is not Jinja or has what no template has that nibble knows: {% raw %},
 * escapes other than \n \t \\ \' \", carriage returns, tags of more than 256 words. */
enum nb_status nb_chat_template_form(const char *text, size_t n, struct nb_buf *out,
                                     struct nb_error *err);

/* The 64-bit FNV-1a hash of the normal form. */
enum nb_status nb_chat_template_hash(const char *text, size_t n, uint64_t *out,
                                     struct nb_error *err);

#endif
