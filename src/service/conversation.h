/* Messages of a chat request, in OpenAI's shape, as a prompt. */
#ifndef NB_SERVICE_CONVERSATION_H
#define NB_SERVICE_CONVERSATION_H

#include "model/tokenizer.h"
#include "service/service_impl.h"
#include "service/tools.h"

/* Appends the ids of body.messages, and of what comes before the answer, by the model's chat
 * template. tools: what the model may call, or NULL. */
enum nb_status nb_conversation_encode(const struct nb_service *service, const json_t *body,
                                      const struct nb_tools *tools, struct nb_tokens *out,
                                      struct nb_error *err);

#endif
