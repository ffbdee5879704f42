#!/bin/sh
# nibble worker, as its queue and its operator see it. TAP.
set -u
. "$(dirname "$0")/worker.sh"

# What is missing is named.
for name in RUNPOD_WEBHOOK_GET_JOB RUNPOD_WEBHOOK_POST_OUTPUT; do
    url=http://127.0.0.1:9 environment w
    unset $name
    run worker runpod
    expect "without $name" both 2 "$name is not set"
done
url=http://127.0.0.1:9 environment w
RUNPOD_PING_INTERVAL=soon run worker runpod
expect "an interval that is none" both 2 'RUNPOD_PING_INTERVAL is "soon"'
RUNPOD_WEBHOOK_GET_JOB=queue.local/take run worker runpod
expect "a queue's address that is no URL" both 2 'RUNPOD_WEBHOOK_GET_JOB is "queue.local/take", expected a URL'
mkdir "$tmp/stages"
echo '{"type": "objct"}' >"$tmp/stages/action_selection.json"
RUNPOD_WEBHOOK_PING= run worker runpod --model "$root/models/demo" --outbox "$tmp/o" --schemas "$tmp/stages"
expect "a stage's schema that is none" both 1 'stages/action_selection.json: #: type names "objct"'
run worker sqs
expect "a queue that is none" both 2 'runpod'
RUNPOD_WEBHOOK_PING= run worker runpod --model "$root/models/demo" --outbox "$tmp/o" --allow-hosts '10.0.0.0/40'
expect "hosts that are none" both 1 '10.0.0.0/40'

start_queue --poll-ms 1100
start_worker one --max-sequences 4 --allow-hosts "127.0.0.1:${url##*:}"
one=$worker

# Inputs.
job a '{"endpoint": "/prompt", "data": {"prompt": "Secret words", "max_tokens": 40, "context": {"stage": "action_selection"}}, "api_key": "sk-of-caller"}'
expect "/prompt" answered a '.status == "COMPLETED" and (.result | keys == ["output"]) and .result.output.success and (.result.output.output | has("confidence")) and .posts == 1 and (.is_stream | not)'
job b '{"endpoint": "/health"}'
expect "/health" answered b '.result.output | .status == "healthy" and .service == "nibble" and .model_loaded and .gpu_available == false'
job c '{"endpoint": "/nowhere", "data": {}}'
expect "no such endpoint" answered c '.status == "FAILED" and (.result.error | contains("/nowhere")) and (.result.output | .success == false and .error_type == "UnknownEndpoint" and (.supported_endpoints | index("/prompt") != null and index("/health") != null))'
job d "$short"
expect "a completion" answered d '.result.output | .object == "text_completion" and .usage.completion_tokens == 2'
job e '{"openai_route": "/v1/completions", "openai_input": {"prompt": "Invoice", "max_tokens": 2, "temperature": 0}}'
expect "a completion by RunPod's route" answered e '(.result.output | length == 1 and .[0].object == "text_completion") and .is_stream and [.stream[].output] == .result.output'
job f '{"openai_route": "/v1/models"}'
expect "the models by RunPod's route" answered f '.result.output[0].data[0].id == "demo"'
job g '{"prompt": "Invoice", "max_tokens": 6, "temperature": 0, "stream": true}'
expect "a stream: its parts" answered g '.is_stream and (.stream | length) > 0 and ([.stream[].output[]] == .result.output)'
expect "a stream: its text" is g '[.result.output[].choices[0].text] | join("") | length > 0'
job h '{"openai_route": "/v1/completions", "openai_input": {"prompt": "Invoice", "max_tokens": 6, "temperature": 0, "stream": true}}'
expect "a stream by RunPod's route" answered h '.is_stream and ([.stream[].output] == .result.output) and (.result.output | join("") | startswith("data: {") and endswith("data: [DONE]\n\n"))'
job i '{"messages": [{"role": "user", "content": "hello"}]}'
expect "a chat with a model that has no template" answered i '.status == "FAILED" and .result.output.error_type == "ValidationError" and (.result.error | contains("chat template"))'
job j '"text"'
expect "an input that is no object" answered j '.status == "FAILED" and (.result.error | contains("object"))'
job k '{}'
expect "an empty input" answered k '.result.error | contains("endpoint")'
job l '{"endpoint": "/prompt", "data": {"prompt": 5}}'
expect "a body that does not fit" answered l '.result.output.error_type == "ValidationError" and (.result.error | contains("prompt"))'
job m '{"endpoint": "/prompt", "data": [1]}'
expect "data that is no object" answered m '.result.error | contains("data")'
job nul '{"prompt": "a\u0000b", "max_tokens": 2}'
expect "NUL in an input" answered nul '.status == "FAILED"'
job n '{"prompt": "Invoice", "max_tokens": 20, "response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": ["Größe"]}}}}'
expect "UTF-8 stays" answered n '.result.output.choices[0].text == "\"Größe\""'
stats
expect "all in the queue's own words" json '.unauthorized == 0 and .malformed == 0 and .repeated == 0 and .pings > 0 and .batch_takes > 0 and .stop_polls > 0 and .strangers == 0'

# As wide as the free slots.
sleep 1.3 # a poll for all four slots
post '/fill?n=12' '{"prompt": "Invoice", "max_tokens": 60, "ignore_eos": true}'
expect "twelve jobs" until_ 120 counts '.completed >= 17 and .queued == 0 and .in_progress == 0'
expect "taken four at a time" counts '.largest_batch == 4 and .redelivered == 0'

# What the worker's parser cannot read, and the queue's could.
deep=$(printf '[%.0s' $(seq 3000))$(printf ']%.0s' $(seq 3000))
job huge "$short"
post '/raw?id=unread' "{\"prompt\": \"a\", \"x\": 1e999}"
post '/raw?id=deep' "{\"prompt\": $deep}"
expect "a number that is out of range" answered unread '.status == "FAILED" and (.result.error | contains("cannot be read"))'
expect "what is nested too deep" answered deep '.status == "FAILED" and (.result.error | contains("cannot be read"))'
expect "holds up no other" answered huge '.status == "COMPLETED"'

# The stop channel.
job stopped "$long"
until_ 10 is stopped '.status == "IN_PROGRESS"'
sleep 0.3
post /cancel/stopped
expect "a job is stopped" until_ 10 logged one 'event=stopped job=stopped'
expect "and not answered" is stopped '.posts == 0'
job next "$short"
expect "the next is answered" answered next '.status == "COMPLETED"'

# Callbacks.
callback() { echo "{\"endpoint\": \"/prompt\", \"data\": {\"prompt\": \"Invoice\", \"max_tokens\": $2}, \"callback_url\": \"$url/callback/$1\", \"callback_api_key\": \"cb-secret\"}"; }
job called "$(callback good 8)"
expect "a job with a callback" answered called '.status == "COMPLETED"'
ask /callback/good
expect "the callback" json '. == [{job_id: "called", status: "COMPLETED", api_key: "cb-secret", result: .[0].result}] and .[0].result.success'
job called2 "$(callback bad '"x"')"
expect "a job that fails, with a callback" answered called2 '.status == "FAILED"'
ask /callback/bad
expect "its callback" json 'length == 1 and .[0].status == "FAILED" and (.[0].error | contains("max_tokens")) and (.[0] | has("result") | not)'
job called3 "$(callback 'retried?fail=1' 8)"
expect "a callback that fails does not hold its job up" answered called3 '.status == "COMPLETED"'
twice() { ask /callback/retried && json 'length == 2'; }
expect "a callback is tried again" until_ 15 twice
expect "its outcome is logged" until_ 5 logged one 'event=callback job=called3 outcome=delivered status=200 attempt=2'
job called4 '{"endpoint": "/health", "callback_url": "'"$url"'/redirect?to=http://169.254.169.254/latest/meta-data"}'
expect "a callback that redirects" answered called4 '.status == "COMPLETED"'
expect "is not followed" logged one 'job=called4 outcome=failed status=302'
for where in http://127.0.0.1:1/ http://10.1.2.3/ http://169.254.169.254/latest http://localhost:1/ 'http://[::1]/' 'http://0x7f000001/' 'http://[::ffff:10.0.0.1]/'; do
    refused=$((${refused:-0} + 1))
    job "refused$refused" "{\"endpoint\": \"/health\", \"callback_url\": \"$where\"}"
    answered "refused$refused" . >/dev/null
    expect "refuses to call $where" until_ 5 logged one "job=refused$refused outcome=refused .*not allowed"
done
job scheme '{"endpoint": "/health", "callback_url": "file:///etc/passwd"}'
answered scheme . >/dev/null
expect "no other scheme" logged one 'job=scheme outcome=refused'

# The queue misbehaves.
sleep 0.5
for kind in 429 400 204 500 401 garbage other empty nothing drop; do
    fault take $kind 2 1
    job "take-$kind" "$short"
    expect "takes on after: $kind" answered "take-$kind" '.status == "COMPLETED" and .taken == 1 and .posts == 1'
done
for kind in half lost; do
    fault take $kind
    job "take-$kind" "$short"
    expect "a job that is lost on its way to the worker: $kind" answered "take-$kind" '.status == "COMPLETED" and .accepted == 1 and .posts == 1'
done
for kind in 429 500 503 302 401 nothing drop; do
    fault done $kind
    job "done-$kind" "$short"
    expect "a result is sent again after: $kind" answered "done-$kind" '.status == "COMPLETED" and .accepted == 1 and .taken == 1'
done
for kind in half lost; do
    fault done $kind
    job "done-$kind" "$short"
    expect "a result whose receipt is lost: $kind" answered "done-$kind" '.status == "COMPLETED" and .accepted == 1 and .taken == 1'
done
# Until they have been: the next fault is not for them.
expect "both are posted again" until_ 60 counts '.repeated >= 2'
fault done 413
job done-413 "$short"
expect "a result that is too long becomes an error" answered done-413 '.status == "FAILED" and (.result.error | contains("longer than the queue allows"))'
fault done 404
job done-404 "$short"
expect "a result that is not wanted is forgotten" until_ 10 logged one 'event=unwanted job=done-404 status=404'
before=$(stats && jq .faulted "$tmp/out")
fault take other 100000
sleep 2.5
expect "what is no job is not asked for without a pause" counts ".faulted - $before < 40"
post '/fault?clear=1'
fault stream 500 3
job stream-500 '{"prompt": "Invoice", "max_tokens": 6, "temperature": 0, "stream": true}'
expect "a part that is lost is in the result" answered stream-500 '.status == "COMPLETED" and (.result.output | length) > ([.stream[].output[]] | length)'
fault ping 500 3
fault stop garbage 2
fault stop 500 1
sleep 1
job after "$short"
expect "and all goes on" answered after '.status == "COMPLETED"'
expect "nothing was answered otherwise the second time" counts '.conflicting == 0'
expect "no result is left" [ -z "$(ls "$tmp/outbox-one")" ]

# Another process may not have its outbox.
launch one2 --outbox "$tmp/outbox-one"
wait "$worker"
code=$?
expect "a second worker with its outbox" [ "$code" = 1 ]
expect "says why" logged one2 'check=outbox .*another worker has this outbox'
expect "also to the queue" counts '.unhealthy[0] | .worker == "one2" and .check == "outbox" and (.reason | contains("another worker"))'
launch two --model "$tmp/nowhere"
wait "$worker"
expect "a model that is not there" until_ 5 counts '.unhealthy[1] | .worker == "two" and .check == "model"'

# SIGTERM: what runs is finished.
worker=$one
job last '{"prompt": "Invoice", "max_tokens": 300, "ignore_eos": true}'
until_ 10 is last '.status == "IN_PROGRESS"'
stop_worker
expect "SIGTERM: exit code" [ "$code" = 0 ]
expect "SIGTERM: the job is answered" is last '.status == "COMPLETED" and .posts == 1'
expect "SIGTERM: heartbeats tell" logged one 'event=end everything'
expect "the log has no prompt and no key" sh -c "! grep -E 'Secret words|rp-secret|cb-secret|sk-of-caller|Invoice' '$tmp/one.err'"

# What cannot be finished in time goes back.
start_worker three --drain 0.3 --max-sequences 2
job handed "$long"
until_ 10 is handed '.status == "IN_PROGRESS"'
sleep 0.3
stop_worker
expect "no time left: exit code" [ "$code" = 0 ]
expect "no time left: not answered" is handed '.posts == 0 and .status != "COMPLETED"'
post /cancel/handed

# A result waits on disk while the queue does not take it, also for the next process.
start_worker four
fault done 503 1000
job kept '{"endpoint": "/health", "api_key": "sk-of-caller", "callback_api_key": "cb-secret"}'
waits() { ls "$tmp"/outbox-four/*.json; }
expect "a result is kept" until_ 10 waits
expect "for its owner only" [ "$(stat -c %a "$tmp"/outbox-four/*)" = 600 ]
expect "without a key" sh -c "! grep -rE 'secret|sk-of' '$tmp/outbox-four'"
kill -9 "$worker"
wait "$worker" 2>/dev/null
post '/fault?clear=1'
start_worker four
expect "the next process delivers it" answered kept '.status == "COMPLETED" and .accepted == 1 and .result.output.status == "healthy"'
expect "as it was" logged four 'event=found job=kept'
gone() { [ -z "$(ls "$tmp/outbox-four")" ]; }
expect "and forgets it" until_ 5 gone

# No disk: it waits in memory, and no more jobs are taken meanwhile.
fault done 503 4
rm -rf "$tmp/outbox-four"
job nodisk "$short"
expect "a result that cannot be kept is delivered" answered nodisk '.status == "COMPLETED" and .accepted == 1 and .posts == 1'
expect "the operator hears of it" logged four 'event=not_kept job=nodisk'
job later "$short"
expect "jobs are taken again" answered later '.status == "COMPLETED"'
stop_worker

# kill -9 in the middle of a job: another worker has it.
start_worker five
job victim "$long"
until_ 10 is victim '.status == "IN_PROGRESS"'
sleep 0.3
kill -9 "$worker"
wait "$worker" 2>/dev/null
start_worker six
expect "kill -9: the job is answered by another, once" answered victim '.status == "COMPLETED" and .taken == 2 and .accepted == 1 and .posts == 1 and .worker == "six"'
stop_worker

# The checkpoint's file is deleted, replaced, written to, cut short underneath.
model() { rm -rf "$tmp/model" && cp -r "$root/models/demo" "$tmp/model" && rm -f "$tmp/model/README.md"; }
changed() { # a job's id, what is done to the file
    model
    start_worker "$1" --model "$tmp/model" --weights mapped
    job "$1-before" "$short"
    answered "$1-before" . >/dev/null
    (cd "$tmp/model" && eval "$2")
    job "$1" "$short"
}
changed deleted 'rm *'
expect "a checkpoint that is deleted" answered deleted '.status == "COMPLETED" and .taken == 1'
stop_worker
changed replaced 'cp model.safetensors new && mv new model.safetensors'
expect "a checkpoint that is replaced" answered replaced '.status == "COMPLETED" and .taken == 1'
stop_worker
for how in "touched touch" "cut truncate=-s=9000000"; do
    what=${how% *}
    changed "$what" "$(echo "${how#* }" | tr = ' ') model.safetensors"
    wait "$worker"
    code=$?
    expect "a checkpoint that is $what: the worker ends" [ "$code" = 1 ]
    expect "a checkpoint that is $what: and says why" logged "$what" 'model.safetensors was written to|was cut short'
    expect "a checkpoint that is $what: no answer leaves" is "$what" '.posts == 0'
    start_worker "$what-next"
    expect "a checkpoint that is $what: another worker answers" answered "$what" '.status == "COMPLETED" and .accepted == 1 and .posts == 1'
    stop_worker
done

# The clock of the wall jumps by years, several times a second; nothing waits by it.
if [ -e "${NB_TEST_CLOCK:-}" ]; then
    stats
    before=$(jq .redelivered "$tmp/out")
    export LD_PRELOAD="$NB_TEST_CLOCK"
    launch jumping --allow-hosts 127.0.0.1
    unset LD_PRELOAD
    fault take 500
    fault done 500 3
    for i in 1 2 3 4 5 6; do job "jump$i" "$(callback "jump$i?fail=1" 8)"; done
    for i in 1 2 3 4 5 6; do expect "while the clock jumps: job $i" answered "jump$i" '.status == "COMPLETED" and .taken == 1 and .posts == 1'; done
    called() { [ "$(grep -c 'job=jump[1-6] outcome=delivered' "$tmp/jumping.err")" = 6 ]; }
    expect "while the clock jumps: callbacks are tried again" until_ 15 called
    sleep 4 # longer than a lease
    expect "while the clock jumps: heartbeats come" counts ".redelivered == $before"
    : >"$tmp/years"
    jumped() { # by what a new answer has for the year
        years=$((${years:-0} + 1))
        job "year$years" '{"endpoint": "/prompt", "data": {"prompt": "a", "max_tokens": 1}}'
        answered "year$years" . >/dev/null
        jq -r '.result.output.metadata.generated_at[:4]' "$tmp/out" >>"$tmp/years"
        [ "$(sort -u "$tmp/years" | wc -l)" -gt 1 ]
    }
    expect "it did jump" until_ 20 jumped
    stop_worker
    expect "while the clock jumps: it ends" [ "$code" = 0 ]
fi
expect "every job was answered once, but those that were cancelled and not wanted" counts '.conflicting == 0 and .malformed == 0 and .unauthorized == 0 and .strangers == 0 and .not_once == .cancelled'
echo "1..$number"
