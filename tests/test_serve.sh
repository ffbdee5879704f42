#!/bin/sh
# nibble serve, as its clients see it. TAP. Needs jq and curl.
set -u
. "$(dirname "$0")/program.sh"
"$nibble" help serve >/dev/null 2>&1 || { echo "1..0 # SKIP this build has no libmicrohttpd"; exit 0; }

. "$(dirname "$0")/server.sh"

mkdir -p "$tmp/actions/books"
start --model "$root/models/demo" --max-sequences 4 --drain 120 --prompts "$root/prompts" --schemas "$root/schemas" --actions "$tmp/actions"
ask /healthz
expect "alive" answers 200 '.status == "ok"'
ask /readyz
expect "ready" answers 200 '.status == "ready"'
ask /v1/models
expect "models" answers 200 '.data[0].id == "demo" and .object == "list"'

# The same tokens as the command line.
run generate --model "$root/models/demo" -p Invoice -n 12 --json
want=$(jq -r .text "$tmp/out")
before=$(jq '.text[:4]' "$tmp/out") part=$(jq -r '.text[4:7]' "$tmp/out") end=$(jq -r '.text[-2:]' "$tmp/out")
ask /v1/completions -d '{"model": "demo", "prompt": "Invoice", "max_tokens": 12, "temperature": 0}'
expect "a completion" answers 200 '.choices[0].finish_reason == "length" and .usage.completion_tokens == 12'
expect "as nibble generate has it" [ "$(jq -r '.choices[0].text' "$tmp/out")" = "$want" ]
ask /v1/completions -N -d '{"prompt": "Invoice", "max_tokens": 12, "temperature": 0, "stream": true, "stream_options": {"include_usage": true}}'
expect "a stream ends with [DONE]" [ "$(tail -2 "$tmp/out" | head -1)" = "data: [DONE]" ]
sed -n 's/^data: {/{/p' "$tmp/out" >"$tmp/events"
expect "its text joined is the same" [ "$(jq -rj '.choices[0].text // ""' "$tmp/events")" = "$want" ]
expect "its usage" jq -es 'map(select(.usage != null)) | length == 1 and .[0].usage.total_tokens == 12 + .[0].usage.prompt_tokens' "$tmp/events"
expect "its content type" grep -qi 'content-type: text/event-stream' "$tmp/headers"
ask /v1/completions -d '{"prompt": "Invoice", "max_tokens": 12, "temperature": 0, "logprobs": 2}'
expect "log probabilities" answers 200 '.choices[0].logprobs | (.tokens | join("")) as $t | (.token_logprobs | length) == 12 and (.top_logprobs[0] | length) == 2 and ($t | length) > 0'
jq -c '.choices[0].logprobs' "$tmp/out" >"$tmp/logprobs"
ask /v1/completions -N -d "$(jq -n --arg s "${end}X" '{prompt: "Invoice", max_tokens: 12, temperature: 0, logprobs: 2, stream: true, stop: $s}')"
sed -n 's/^data: {/{/p' "$tmp/out" | jq -sc '[.[].choices[0].logprobs | values] | {tokens: map(.tokens) | add, token_logprobs: map(.token_logprobs) | add, top_logprobs: map(.top_logprobs) | add, text_offset: map(.text_offset) | add}' >"$tmp/joined"
expect "those of a stream are the same" sh -c "[ \"\$(jq -Sc . '$tmp/joined')\" = \"\$(jq -Sc . '$tmp/logprobs')\" ]"
ask /v1/completions -N -d '{"prompt": "Invoice", "max_tokens": 6, "n": 3, "seed": 13, "temperature": 0.6, "stream": true, "stream_options": {"include_usage": true}}'
sed -n 's/^data: {/{/p' "$tmp/out" >"$tmp/events"
ask /v1/completions -d "$(jq -n --arg s "$part" '{prompt: "Invoice", max_tokens: 12, temperature: 0, stop: [$s, "never"]}')"
expect "a stop string ends it and is not in it" answers 200 ".choices[0] | .finish_reason == \"stop\" and .text == $before"
ask /v1/completions -N -d "$(jq -n --arg s "${end}X" '{prompt: "Invoice", max_tokens: 12, temperature: 0, stream: true, stop: $s}')"
expect "what might have become a stop string comes in the end" [ "$(sed -n 's/^data: {/{/p' "$tmp/out" | jq -rj '.choices[0].text // ""')" = "$want" ]
ask /v1/completions -d '{"prompt": "Invoice", "max_tokens": 6, "n": 3, "seed": 13, "temperature": 0.6}'
jq -sc '[.[].choices[0] | values] | group_by(.index) | map(map(.text) | join(""))' "$tmp/events" >"$tmp/streamed"
expect "several choices in a stream: each ends, one usage" jq -es '([.[].choices[0] | values | select(.finish_reason) | .index] | sort) == [0, 1, 2] and (.[-1] | .choices == [] and .usage.completion_tokens > 0) and (map(select(.usage != null)) | length) == 1' "$tmp/events"
expect "several choices" answers 200 '(.choices | length) == 3 and ([.choices[].index] == [0, 1, 2]) and .usage.completion_tokens <= 18'
cp "$tmp/out" "$tmp/first"
expect "as they were in the stream" [ "$(jq -c '[.choices[].text]' "$tmp/out")" = "$(cat "$tmp/streamed")" ]
ask /v1/completions -d '{"prompt": "Invoice", "max_tokens": 6, "n": 3, "seed": 13, "temperature": 0.6}'
expect "a seed repeats them" [ "$(jq -c '[.choices[].text]' "$tmp/out")" = "$(jq -c '[.choices[].text]' "$tmp/first")" ]
ask /v1/completions -d "$(jq -n '{prompt: [range(300) | 5 + . % 7], max_tokens: 1}')"
ask /v1/completions -d "$(jq -n '{prompt: [range(300) | 5 + . % 7], max_tokens: 1}')"
expect "a prompt that came before is found again" answers 200 '.usage.prompt_tokens == 300 and .usage.prompt_tokens_details.cached_tokens == 288'

# Log probabilities of given continuations: those of the tokens when they are drawn.
ask /v1/completions -d '{"prompt": "Invoice", "max_tokens": 12, "temperature": 0, "logprobs": 0}'
cp "$tmp/out" "$tmp/drawn"
jq '{prompt: "Invoice", continuations: [.choices[0].text, "No: 17", " ", .choices[0].text]}' "$tmp/drawn" >"$tmp/body"
ask /v1/score -d @"$tmp/body"
expect "scores" answers 200 '(.data | length) == 4 and all(.data[]; (.tokens | length) == (.token_logprobs | length) and (.logprob - (.token_logprobs | add) | fabs) < 1e-6) and ([.data[0].token_logprobs, .data[3].token_logprobs] | transpose | all(.[]; (.[0] - .[1] | fabs) < 0.001)) and .usage.prompt_tokens > 0'
expect "are those of a completion" jq -es '.[0].choices[0].logprobs as $l | .[1].data[0] | [.token_logprobs, $l.token_logprobs] | transpose | length == 12 and all(.[]; (.[0] - .[1] | fabs) < 0.001)' "$tmp/drawn" "$tmp/out"
ask /v1/score -d "$(jq -n '{prompt: [range(300) | 5 + . % 7], continuations: [range(20) | [6, 7 + .]]}')"
expect "a prompt that continuations share is read once" answers 200 '(.data | length) == 20 and .data[3].token_ids == [6, 10] and .usage.prompt_tokens_details.cached_tokens > 250'
for body in '{"prompt": "a"}' '{"continuations": ["a"]}' '{"prompt": "a", "continuations": []}' '{"prompt": "a", "continuations": [""]}' '{"prompt": "a", "continuations": [3]}' \
    '{"prompt": "a", "continuations": [[99999999]]}' '{"prompt": "a", "messages": [], "continuations": ["a"]}' '{"prompt": [], "continuations": ["a"]}' '{"messages": [{"role": "user", "content": "a"}], "continuations": ["a"]}'; do
    ask /v1/score -d "$body"
    expect "no scores for $body" answers 422 '.error.message | length > 10'
done
ask /v1/score -d "$(jq -n '{prompt: "a", continuations: [range(65) | "a"]}')"
expect "too many continuations" answers 422 '.error.message | contains("1 to 64")'
ask /v1/score -d "$(jq -n '{prompt: [range(4095) | 5], continuations: [[5], [5, 6]]}')"
expect "a continuation that is too long" answers 400 '.error.code == "context_length_exceeded"'

# A document, as the command line classifies it.
document=$(ls "$root"/samples/*.txt | head -1)
run classify --model "$root/models/demo" --json "$document"
want=$(jq -Sc '{document_type, party, date, currency, total}' "$tmp/out")
jq -n --rawfile text "$document" '{$text}' >"$tmp/body"
ask /v1/classify -d @"$tmp/body"
expect "a document" answers 200 '.confidence > 0 and .truncated == false'
expect "as nibble classify has it" [ "$(jq -Sc '{document_type, party, date, currency, total}' "$tmp/out")" = "$want" ]

jq -n --rawfile text "$document" '{$text, labels: ["bill", {name: "letter", description: "mail"}], context: {company: "ACME", actions: ["pay", "wait"]}}' >"$tmp/body"
ask /v1/classify -d @"$tmp/body"
expect "labels and context of the caller's" answers 200 '(.document_type | IN("bill", "letter")) and (.selected_action | IN("pay", "wait", null)) and (.confidences | keys | length) == 5'
cp "$tmp/out" "$tmp/answer.json"
expect "as schemas/classification.json says" "$nibble" schema validate "$root/schemas/classification.json" "$tmp/answer.json"
jq -n --rawfile document "$document" '{$document, schema: {type: "object", properties: {kind: {enum: ["a", "b"]}}, required: ["kind"], additionalProperties: false}}' >"$tmp/body"
ask /v1/classify -d @"$tmp/body"
expect "a schema of the caller's" answers 200 '(.answer.kind | IN("a", "b")) and .confidences.kind >= 0.5'
for body in '{}' '{"text": 3}' '{"text": "a", "document": "b"}' '{"text": "a", "labels": ["b"]}' '{"text": "a", "labels": "b"}' '{"text": "a", "labels": ["b", 7]}' \
    '{"text": "a", "context": {"firm": 1}}' '{"text": "a", "context": 7}' '{"text": "a", "schema": {"type": "strin"}}' '{"text": "a", "schema": true, "labels": ["a", "b"]}' \
    '{"text": "a", "kind": 1}'; do
    ask /v1/classify -d "$body"
    expect "does not classify $body" answers 422 '.error.message | length > 10'
done

# Answers that fulfil a schema.
jq -n '{prompt: "Invoice", max_tokens: 300, temperature: 0.7, seed: 1, response_format: {type: "json_schema", json_schema: {name: "x", schema:
    {type: "object", properties: {total: {type: "number"}, currency: {enum: ["EUR", "USD"]}, tags: {type: "array", items: {type: "string", maxLength: 8}, maxItems: 3}},
     required: ["total", "currency", "tags"], additionalProperties: false}}}}' >"$tmp/body"
ask /v1/completions -d @"$tmp/body"
expect "response_format" answers 200 '.choices[0].text | fromjson | (keys == ["currency", "tags", "total"]) and (.total | type == "number") and (.tags | length) <= 3'
ask /v1/completions -d '{"prompt": "Invoice", "max_tokens": 100, "response_format": {"type": "json_object"}}'
expect "a JSON object" answers 200 '.choices[0].text | startswith("{")'
ask /v1/completions -d '{"prompt": "a", "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "strin"}}}}'
expect "a schema that is none" answers 422 '.error.message | contains("strin")'
ask /v1/completions -d '{"prompt": "a", "response_format": {"type": "xml"}}'
expect "a format that is not known" answers 422 '.error.message | contains("response_format")'

# The interface of the service that this replaces.
echo '{"type": "object", "properties": {"amount": {"type": "integer", "minimum": 0, "maximum": 99}}, "required": ["amount"], "additionalProperties": false}' >"$tmp/actions/books/pay.json"
ask /health
expect "GET /health" answers 200 '.status == "healthy" and .models_loaded.demo and .gpu_available == false and .memory_info == null'
ask /warmup -X POST
expect "POST /warmup" answers 200 '.status == "already_cached"'
prompt() { ask /prompt -d "$(jq -n --argjson c "$1" '{prompt: "Invoice 17 of ACME Ltd, total 100 EUR", max_tokens: 60, context: $c}')"; }
prompt '{"stage": "action_selection"}'
expect "action_selection" answers 200 '.success and .metadata.output_type == "dict" and .metadata.prompt_length == 37 and (.output | (.confidence | . >= 0 and . <= 100) and (.primary_party | has("role")) and (.transaction_direction | IN("incoming", "outgoing", "neutral")) and (.extracted_summary | keys == ["currency", "document_date", "document_number", "total_amount"]))'
prompt '{"stage": "entity_extraction"}'
expect "entity_extraction" answers 200 '.output | (.entities_to_resolve | type == "array") and (.extraction_metadata | type == "object")'
prompt '{"stage": "field_mapping", "software": "books", "action": "pay"}'
expect "field_mapping with the action's schema" answers 200 '.output.api_request_body | keys == ["amount"] and (.amount | . >= 0 and . <= 99)'
prompt '{"stage": "field_mapping", "software": "..", "action": "../books/pay"}'
expect "a name that is a path is no name" answers 200 '.output.api_request_body | type == "object"'
prompt '{"stage": "field_mapping_batch", "software": "books", "actions": ["pay", "other", "pay"]}'
expect "field_mapping_batch" answers 200 '(.output | length) == 3 and (.output[0].api_request_body | keys == ["amount"]) and (.output[2].api_request_body | keys == ["amount"])'
prompt '{"stage": "math_validation"}'
expect "math_validation" answers 200 '.output | (.is_valid | type == "boolean") and (.corrected | has("total"))'
prompt '{}'
expect "a journal entry" answers 200 '.output.lines | length > 0 and (.[0] | has("account") and has("debit") and has("credit"))'
ask /prompt -d '{"prompt": 3}'
expect "no prompt" answers 422 '.detail | contains("prompt")'
ask /prompt -d '{"prompt": "a", "temperature": "hot"}'
expect "a bad field" answers 422 '.detail | contains("temperature")'
ask /prompt -d '{"prompt": "Invoice 17", "max_input_length": 5}'
expect "more than max_input_length" answers 422 '.detail | contains("at most 5")'

# What cannot be done.
ask /v1/completions -d '{"prompt": '
expect "no JSON" answers 400 '.error.type == "invalid_request_error"'
ask /v1/completions -d '[1]'
expect "no object" answers 400 '.error.message | contains("an array")'
for body in '{}' '{"prompt": 3}' '{"prompt": [1, "a"]}' '{"prompt": "a", "max_tokens": 0}' '{"prompt": "a", "temperature": -1}' \
    '{"prompt": "a", "stop": ""}' '{"prompt": "a", "n": 17}' '{"prompt": "a", "logit_bias": {"1": 5}}' '{"prompt": [99999999]}' \
    '{"prompt": "a", "presence_penalty": 1}'; do
    ask /v1/completions -d "$body"
    expect "refuses $body" answers 422 '.error.message | length > 10'
done
ask /v1/completions -d '{"prompt": "a", "model": 4}'
expect "a model that is no string" answers 422 '.error.param == "model"'
ask /v1/completions -d '{"prompt": "a", "model": "gpt-4"}'
expect "a model that is not here" answers 404 '.error.code == "model_not_found"'
ask /v1/completions -d "$(jq -n '{prompt: [range(5000) | 5]}')"
expect "a prompt that is too long" answers 400 '.error.code == "context_length_exceeded"'
ask /v1/chat/completions -d '{"messages": [{"role": "user", "content": "hello"}]}'
expect "a model without a chat template" answers 422 '.error.message | contains("chat template")'
expect "and no path of this machine" answers 422 ".error.message | contains(\"$root\") | not"
ask /v1/classify -d '{"text": ""}'
expect "an empty document" answers 422 '.error.message | length > 10'
ask /nowhere
expect "no such path" answers 404 '.error.message | length > 10'
ask /v1/models -X POST
expect "no such method" answers 405 '.error.message | length > 10'
expect "which would do" grep -qi '^allow: GET' "$tmp/headers"
ask /v1/models -H 'X-Request-Id: mine-17'
expect "a request's own id comes back" grep -qi '^x-request-id: mine-17' "$tmp/headers"
expect "and is in the log" grep -q 'request=mine-17 .*path=/v1/models status=200' "$tmp/server.err"
ask /v1/models -H 'X-Request-Id: mine status=500'
expect "but not one that would forge a line of it" sh -c "grep -qiE '^x-request-id: [0-9a-f]{24}' '$tmp/headers' && ! grep -q 'mine status' '$tmp/server.err'"
expect "no pages of others may ask" sh -c "! grep -qi access-control '$tmp/headers'"
# Hostile bodies.
ask /v1/completions -d "$(jq -n '{model: (("a" * 99) + "\u00e9\u00e9"), prompt: "a"}')"
expect "a message that is cut within a character is one" answers 404 '.error.message | length > 90 and contains("aaa")'
(i=0; while [ $i -lt 3000 ]; do printf '['; i=$((i + 1)); done) >"$tmp/deep"
ask /v1/completions --data-binary @"$tmp/deep"
expect "3,000 levels" answers 400 '.error.message | length > 10'
for body in '{"prompt": "a", "seed": 1e999}' '{"prompt": "a", "max_tokens": 99999999999999999999}' '{"prompt": "a\u0000b"}' '{"prompt": "\ud800"}'; do
    ask /v1/completions -d "$body"
    expect "not taken: $body" answers 400 '.error.message | length > 10'
done
for body in '{"prompt": "a", "seed": 1.5}' '{"prompt": "a", "max_tokens": 1e3}' '{"prompt": "a", "top_k": 3000000000}' '{"prompt": "a", "temperature": 1e300}' \
    '{"prompt": "a", "logprobs": 6}' '{"prompt": "a", "stream_options": 1}' '{"prompt": [-1]}' '{"prompt": "a", "stop": ["a", 1]}'; do
    ask /v1/completions -d "$body"
    expect "refuses $body" answers 422 '.error.message | length > 10'
done
for field in '"prompt": "\377"' '"prompt": "a", "model": "\377"' '"prompt": "a", "stop": "\355\240\200"' '"prompt": "a", "\300\200": 1'; do
    printf "{$field}" >"$tmp/body"
    ask /v1/completions --data-binary @"$tmp/body"
    where=$((${where:-0} + 1))
    expect "what is no UTF-8, field $where" answers 400 '.error.message | contains("unable to decode byte")'
done
expect "HEAD is a GET without a body" [ "$(curl -s -m 10 -I "$url/healthz" | tr -d '\r' | awk 'NR == 1 { print $2 } tolower($1) == "content-length:" { print $2 }' | tr '\n' ' ')" = "200 15 " ]
ask /v1/completions -H 'Content-Length: 2' -H 'Transfer-Encoding: chunked' -d '{"prompt": "a"}'
expect "a length and chunks" answers 400 '.error.message | contains("expected one of them")'

# What is too large to be enforced will not be smaller when it comes again.
ask /v1/completions -d '{"prompt": "a", "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": "^((((a{100}){100}){100}){100})$"}}}}'
expect "a pattern that is too large" answers 422 '.error.code == null and (.error.message | length > 10)'
expect "need not be tried again" sh -c "! grep -qi '^retry-after' '$tmp/headers'"
head -c 9000000 /dev/zero >"$tmp/big"
ask /v1/completions --data-binary @"$tmp/big"
expect "a body that is too long" answers 413 '.error.message | contains("limit")'
ask /v1/completions -H 'Transfer-Encoding: chunked' --data-binary @"$tmp/big"
expect "a body that is too long and does not say so" answers 413 '.error.message | contains("limit")'
ask /metrics
expect "metrics" grep -q '^nibble_http_requests_total{route="/v1/completions",status="422"} [1-9]' "$tmp/out"
expect "tokens are counted" sh -c "awk '/^nibble_prompt_tokens_cached_total/ { n = \$2 } END { exit n < 288 }' '$tmp/out'"
expect "the log has no prompt" sh -c "! grep -q Invoice '$tmp/server.err'"

# A client that goes away frees its place.
for i in 1 2 3 4 5 6; do
    curl -s -m 1 -o /dev/null "$url/v1/completions" -d '{"prompt": "a", "max_tokens": 1900, "ignore_eos": true}' &
done
sleep 1.2
expect "clients that went away leave nothing running" until_ 5 idles
expect "they are in the log" grep -q 'path=/v1/completions status=0' "$tmp/server.err"
jq -n '{text: ("Invoice 17 of ACME, 12 March 2024, total 99.00 EUR. " * 12)}' >"$tmp/body"
classify_ms() {
    begun=$(date +%s%N)
    ask /v1/classify -d @"$tmp/body"
    ms=$((($(date +%s%N) - begun) / 1000000))
}
classify_ms
alone=$ms
for i in $(seq 20); do
    curl -s -m 0.3 -o /dev/null "$url/v1/classify" -d @"$tmp/body" &
done
sleep 1
classify_ms
expect "nor do twenty documents: $ms ms for the next one, $alone ms before" [ "$status$((ms < 6 * alone + 1000))" = 2001 ]

# What operators see.
ask /metrics
for name in running waiting connections kv_pages kv_pages_free kv_pages_cached steps_total step_seconds_total batch_tokens_total prompt_tokens_total \
    prompt_tokens_cached_total generated_tokens_total preemptions_total; do
    grep -q "^nibble_$name [0-9]" "$tmp/out" && grep -q "^# TYPE nibble_$name " "$tmp/out" || missing="${missing:-} $name"
done
for name in request waiting first_token token_gap; do
    grep -q "^nibble_${name}_seconds_bucket{le=\"+Inf\"} [1-9]" "$tmp/out" || missing="${missing:-} $name"
done
expect "queue, batch, tokens, pages, prefixes, latencies${missing:+: not $missing}" [ -z "${missing:-}" ]

# SIGTERM waits for what runs (thirty seconds unless told otherwise, which 900 tokens may take under a sanitizer on a busy
# machine). A connection that is open hears that no more is taken.
curl -s -m 120 -o "$tmp/long" "$url/v1/completions" -d '{"prompt": "a", "max_tokens": 900, "ignore_eos": true}' &
long=$!
curl -s -m 120 -o "$tmp/first" "$url/v1/completions" -d '{"prompt": "a", "max_tokens": 600, "ignore_eos": true}' --next -s -o "$tmp/ready" -w '%{http_code} ' "$url/readyz" \
    --next -s -o "$tmp/second" -D "$tmp/headers" -w '%{http_code} %{num_connects}' "$url/v1/completions" -d '{"prompt": "a", "max_tokens": 3}' >"$tmp/codes" &
draining=$!
curl -s -m 120 -o "$tmp/last" "$url/v1/completions" -d '{"prompt": "a", "max_tokens": 200, "ignore_eos": true}' &
client=$!
three_run() { [ "$(metric nibble_running)" = 3 ]; }
until_ 10 three_run
stop
wait $client
expect "SIGTERM drains: exit code" [ "$code" = 0 ]
wait $long $draining
expect "what came later on an open connection" [ "$(cat "$tmp/codes")" = "503 503 0" ]
expect "is to come again" grep -qi '^retry-after: [1-9]' "$tmp/headers"
expect "it is draining" grep -q draining "$tmp/ready"
expect "what runs is answered" jq -es 'map(.usage.completion_tokens) == [900, 600]' "$tmp/long" "$tmp/first"
expect "SIGTERM drains: the answer" jq_holds '.usage.completion_tokens == 200' "$tmp/last"

# SIGTERM while it loads.
"$nibble" serve --port 0 --synthetic mixtral-8x7b:1 >"$tmp/loading.out" 2>"$tmp/loading.err" &
loading=$!
until_ 10 grep -q . "$tmp/loading.err"
kill -TERM $loading
wait $loading
code=$?
expect "SIGTERM ends what is loading" [ "$code$(cat "$tmp/loading.out")" = 0 ]

# Functions to call: the embedded model behind a chat template.
chat_model "$tmp/chat"
start --model "$tmp/chat" --max-sequences 4
jq -n '{messages: [{role: "user", content: "Invoice of ACME, 12.50 EUR. Pay it."}], max_tokens: 80, temperature: 1.2, seed: 3, tools: [
    {type: "function", function: {name: "pay", parameters: {type: "object", properties: {cents: {type: "integer", minimum: 1, maximum: 99999}, to: {"$ref": "#/$defs/name"}},
     "$defs": {name: {type: "string", maxLength: 9}}, required: ["cents", "to"], additionalProperties: false}}}, {type: "function", function: {name: "keep"}}]}' >"$tmp/tools"
call() { # a filter of the request
    jq "$1" "$tmp/tools" >"$tmp/body"
    ask /v1/chat/completions -N -d @"$tmp/body"
}
call '.tool_choice = {type: "function", function: {name: "pay"}}'
expect "a forced call" answers 200 '.choices[0] | .finish_reason == "tool_calls" and .message.content == null and (.message.tool_calls | length == 1 and .[0].type == "function" and (.[0].id | length) == 9 and .[0].function.name == "pay" and (.[0].function.arguments | fromjson | keys == ["cents", "to"] and (.cents | . >= 1 and . <= 99999) and (.to | length) <= 9))'
want=$(jq -r '.choices[0].message.tool_calls[0].function.arguments' "$tmp/out")
cp "$tmp/out" "$tmp/first"
call '.tool_choice = {type: "function", function: {name: "pay"}} | .stream = true'
sed -n 's/^data: {/{/p' "$tmp/out" >"$tmp/events"
expect "as a stream" [ "$(jq -rj '.choices[0].delta.tool_calls[0].function.arguments // ""' "$tmp/events")" = "$want" ]
expect "which begins with its name and ends with the reason" jq -es '.[0].choices[0].delta.tool_calls[0].function.name == "pay" and .[-1].choices[0].finish_reason == "tool_calls" and ([.[].choices[0].delta.tool_calls[0].id | values] | length) == 1' "$tmp/events"
call '.tool_choice = {type: "function", function: {name: "pay"}} | .max_tokens = 3'
expect "a forced call cut short is whole" answers 200 '.choices[0].message.tool_calls[0].function.arguments | fromjson | keys == ["cents", "to"]'
call '.tool_choice = "required" | .n = 3'
expect "a required call" answers 200 '(.choices | length) == 3 and all(.choices[].message.tool_calls[0].function; (.name | IN("pay", "keep")) and (.arguments | fromjson | type) == "object")'
call '.tool_choice = "none"'
expect "no tools" answers 200 '.choices[0].message | .content != null and has("tool_calls") == false'
call '.max_tokens = 5'
expect "an automatic choice" answers 200 '.choices[0].message | .content != null or has("tool_calls")'
call '.tools[0].function.parameters.type = "strin"'
expect "a schema that is none, of a call that need not come" answers 422 '.error.message | test("tools")'
jq --slurpfile a "$tmp/first" '.messages += [$a[0].choices[0].message, {role: "tool", tool_call_id: $a[0].choices[0].message.tool_calls[0].id, content: "paid"}] | .max_tokens = 3' "$tmp/tools" >"$tmp/body"
ask /v1/chat/completions -d @"$tmp/body"
expect "what a call gave" answers 200 '.usage.prompt_tokens > 0'
for change in '.tools[0].function.name = "a b"' '.tools[1].function.name = "pay"' '.tools = {}' '.tools[0].type = "code"' '.tool_choice = "yes"' \
    '.tool_choice = {type: "function", function: {name: "no"}}' '.tools = [] | .tool_choice = "required"' '.tools[0].function.parameters = 3' \
    '.tools[0].function.parameters.type = "strin" | .tool_choice = "required"' '.response_format = {type: "json_object"}' '.parallel_tool_calls = 1' \
    '.messages += [{role: "tool", content: "x"}]' '.messages += [{role: "assistant", tool_calls: [{function: {name: "pay", arguments: "{"}}]}]' \
    '.messages += [{role: "user", content: "x", tool_calls: []}]' '.messages += [{role: "robot", content: "x"}]' '.messages += [3]' '.messages[0].content = null'; do
    call "$change"
    expect "refuses $change" answers 422 '.error.message | length > 10'
done
stop

# Calls that are the model's own choice: a model that says what the test wants it to. What it begins is finished as the
# schema has it, whole and in streams.
scripted() { # PIECE…
    rm -rf "${wish:-}"
    wish=$("${NB_TEST_SCRIPTED:?}" "$tmp/chat/chat_template.jinja" "$@" 2>"$tmp/err" | grep ^/)
    start --model "$wish" --max-sequences 4
}
wished() { # NAME, a filter of the request, a filter of the message and its finish_reason: whole, and put together from a stream
    jq "(.temperature = 0) | $2" "$tmp/tools" >"$tmp/body"
    ask /v1/chat/completions -d @"$tmp/body"
    expect "$1" answers 200 ".choices[0] | .message as \$m | .finish_reason as \$f | $3"
    jq '.stream = true' "$tmp/body" >"$tmp/body2"
    ask /v1/chat/completions -N -d @"$tmp/body2"
    sed -n 's/^data: {/{/p' "$tmp/out" | jq -s '[.[].choices[0]] | . as $c | ($c | map(.delta.content // "") | add) as $text
        | {finish_reason: $c[-1].finish_reason, message: ({content: (if $text == "" then null else $text end)}
        + ($c | map(.delta.tool_calls // [] | .[]) | if length == 0 then {} else {tool_calls: (group_by(.index) | map({
            id: (map(.id // empty) | first), type: "function", function: {name: (map(.function.name // empty) | first), arguments: (map(.function.arguments // "") | add)}}))} end))}' >"$tmp/joined"
    expect "$1, as a stream" jq_holds ". | .message as \$m | .finish_reason as \$f | $3" "$tmp/joined"
}
valid='all(.tool_calls[]; (.id | length) == 9 and .type == "function") and all(.tool_calls[].function; .name == "keep" or (.name == "pay" and (.arguments | fromjson | keys == ["cents", "to"] and (.cents | . >= 1 and . <= 99999) and (.to | type) == "string" and (.to | length) <= 9)))'
line='
'
scripted 'I pay.' ' <tool' '_call>' "$line"'{"name": "pay", "arguments": ' '{"cents": 1250, "to": ' '"ACME"' '}}' "$line</tool_call>"
wished "a call that the model chose" . '($m | .content == "I pay." and (.tool_calls | length) >= 1 and .tool_calls[0].function == {name: "pay", arguments: "{\"cents\": 1250, \"to\": \"ACME\"}"} and '"$valid"')'
wished "at most one of them" '.parallel_tool_calls = false' '$f == "tool_calls" and ($m.tool_calls | length) == 1'
wished "a call that is cut short is whole" '.parallel_tool_calls = false | .max_tokens = 5' '$f == "length" and ($m | .tool_calls | length == 1) and ($m | '"$valid"')'
wished "with log probabilities" '.parallel_tool_calls = false | .logprobs = true' '$f == "tool_calls" and ($m.tool_calls[0].function.arguments | fromjson == {cents: 1250, to: "ACME"})'
wished "two choices" '.parallel_tool_calls = false | .n = 2' '$m.tool_calls | length == 1'
stop
scripted '<tool_call>' '{"name": "steal", ' '"arguments": {"all": true}}' '</tool_call>'
wished "a function that there is not" '.parallel_tool_calls = false' '$f == "tool_calls" and ($m | '"$valid"')'
stop
scripted '<tool_call>' '{"name": "pay", "arguments": ' '{"cents": 7, "to": "a name that is too long' '"}}' '</tool_call>'
wished "arguments that the schema does not allow" '.parallel_tool_calls = false' '$f == "tool_calls" and ($m | '"$valid"')'
stop
scripted 'The total ' 'is <tool, ' '12.50.'
wished "text remains text" . '$f == "stop" and $m == ({content: "The total is <tool, 12.50."} + ($m | {role} | with_entries(select(.value))))'
stop
rm -rf "$wish"

# An answer that takes too long.
start --model "$root/models/demo" --timeout 0.2 --context 4096
ask /v1/completions -d '{"prompt": "a", "max_tokens": 3900, "ignore_eos": true}'
expect "an answer that takes too long" answers 503 '.error.type == "server_error" and (.error.message | contains("longer than"))'
expect "and when to come again" grep -qi '^retry-after: [1-9]' "$tmp/headers"
ask /v1/completions -N -d '{"prompt": "a", "max_tokens": 3900, "ignore_eos": true, "stream": true}'
expect "a stream that does ends with the reason" sh -c "sed -n 's/^data: {/{/p' '$tmp/out' | tail -1 | jq -es '.[0].error.message | contains(\"longer than\")'"
stop

# Keys.
printf '# keys\nfirst sk-first-key\nsecond sk-second-key requests_per_minute=2 max_running=2\n' >"$tmp/keys"
chmod 644 "$tmp/keys"
start --model "$root/models/demo" --api-key-file "$tmp/keys" --cors https://example.com
expect "keys that others may read are a warning" grep -q '^level=warn event=keys .*mode 0644' "$tmp/server.err"
chmod 600 "$tmp/keys"
ask /v1/models
expect "no key" answers 401 '.error.code == "missing_api_key"'
ask /v1/models -H 'Authorization: Bearer sk-wrong-key'
expect "a wrong key" answers 403 '.error.code == "invalid_api_key"'
ask /v1/models -H 'Authorization: Bearer sk-first-key'
expect "a key" answers 200 '.data | length == 1'
ask /v1/models -H 'X-API-Key: sk-second-key'
expect "a key in X-API-Key, and the first of two a minute" answers 200 '.data | length == 1'
ask /v1/models -H 'X-API-Key: sk-second-key'
expect "more than its limit" answers 429 '.error.type == "rate_limit_error"'
expect "and when to come again" grep -qiE '^retry-after: [1-9]' "$tmp/headers"
jq -n '{prompt: ("Invoice 17 of ACME. " * 1200), max_tokens: 1}' >"$tmp/body"
ask /v1/completions -H 'X-API-Key: sk-first-key' -H 'X-Request-Id: long-1' -d @"$tmp/body"
expect "a key before a long body" answers 400 '.error.code == "context_length_exceeded"'
ask /v1/completions -H 'X-API-Key: sk-wrong-key' -d @"$tmp/body"
expect "a wrong one" answers 403 '.error.code == "invalid_api_key"'
ask /v1/completions -d @"$tmp/body"
expect "none" answers 401 '.error.code == "missing_api_key"'
before=$(resident_kb)
head -c 7000000 /dev/zero | tr '\0' ' ' >"$tmp/long"
for i in $(seq 12); do
    (cat "$tmp/long"; sleep 2) | curl -s -m 10 -o /dev/null -H 'Expect:' -H 'Content-Length: 7000001' -T - -X POST "$url/v1/completions" &
    uploads="${uploads:-} $!"
done
sleep 1.5
expect "bodies without a key are not kept: $(($(resident_kb) - before)) kB for 84 MB" [ $(($(resident_kb) - before)) -lt 20000 ]
wait $uploads
ask /v1/completions -d @"$tmp/long"
expect "who sends one is told all the same" answers 401 '.error.code == "missing_api_key"'
ask /v1/completions -H 'Expect: 100-continue' -d @"$tmp/long"
expect "or before it is sent" answers 401 '.error.code == "missing_api_key"'
ask /v1/none -d @"$tmp/long"
expect "a long body to nowhere" answers 404 '.error.message'
ask /healthz
expect "health needs no key" answers 200 '.status == "ok"'
ask /v1/models -X OPTIONS
expect "CORS" grep -qi 'access-control-allow-origin: https://example.com' "$tmp/headers"
printf 'third sk-third-key\n' >"$tmp/keys"
kill -HUP "$server"
third_is_in() { ask /v1/models -H 'X-API-Key: sk-third-key' && [ "$status" = 200 ]; }
expect "SIGHUP reads the keys again" until_ 5 third_is_in
ask /v1/models -H 'X-API-Key: sk-first-key'
expect "a key that is gone" [ "$status" = 403 ]
# Under load: whoever's key stays is always let in.
for i in 1 2 3 4; do
    for k in $(seq 25); do
        curl -s -o /dev/null -w '%{http_code}\n' -H 'X-API-Key: sk-third-key' "$url/v1/models"
    done >"$tmp/load$i" &
    loads="${loads:-} $!"
done
for k in $(seq 25); do
    printf 'third sk-third-key\nmore%s sk-key-number-%s\n' $k $k >"$tmp/keys.new"
    mv "$tmp/keys.new" "$tmp/keys"
    kill -HUP "$server"
    sleep 0.02
done
wait $loads
expect "SIGHUP under load refuses nobody" [ "$(cat "$tmp"/load? | sort | uniq -c | awk '{ print $1, $2 }')" = "100 200" ]
echo bad >"$tmp/keys"
kill -HUP "$server"
sleep 0.3
ask /v1/models -H 'X-API-Key: sk-third-key'
expect "a bad file changes nothing" [ "$status" = 200 ]
expect "keys are not in the log" sh -c "! grep -q 'sk-' '$tmp/server.err'"
stop
expect "ends with 0" [ "$code" = 0 ]

run serve --model "$root/models/demo" --api-key-file "$tmp/keys"
expect "a bad file of keys" both 1 'keys:1: one word, expected NAME KEY'
start --model "$root/models/demo"
run serve --model "$root/models/demo" --port "${url##*:}"
expect "a port that is taken" both 1 'cannot listen.*another program listens there'
stop
run serve --port 99999
expect "a bad port" both 2 'port'
run serve --model "$root/models/demo" --host nowhere --port 0
expect "a bad host" both 1 'expected an address'
echo "1..$number"
