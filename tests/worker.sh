# What the tests of a worker share: sourced by tests/test_worker*.sh and tests/slow/worker-*.sh. Needs jq, curl and
# the stand-in for RunPod's queue.
. "$(dirname "$0")/${NB_TEST_UP:-}program.sh"
"$nibble" help worker >/dev/null 2>&1 || { echo "1..0 # SKIP this build has no libcurl"; exit 0; }
runpod_queue=${NB_TEST_QUEUE:-$(dirname "$nibble")/tests/runpod_queue}
[ -x "$runpod_queue" ] || { echo "1..0 # SKIP the stand-in for the queue is not built"; exit 0; }

children=
end_all() {
    for child in $children; do kill -9 "$child" 2>/dev/null; done
    rm -rf "$tmp"
}
trap end_all EXIT

# start_queue OPTIONS…: the stand-in, at $url, which wants the key "rp-secret-key".
start_queue() {
    "$runpod_queue" --key rp-secret-key "$@" >"$tmp/queue.out" 2>"$tmp/queue.err" &
    queue=$!
    children="$children $queue"
    until_ 10 listens queue || bail "the queue does not start: $(cat "$tmp/queue.err")"
}
# The variables that RunPod sets, for a worker named $1.
environment() {
    RUNPOD_WEBHOOK_GET_JOB="$url/v2/e/job-take/\$ID?gpu=none"
    RUNPOD_WEBHOOK_POST_OUTPUT="$url/v2/e/job-done/\$RUNPOD_POD_ID/\$ID?gpu=none"
    RUNPOD_WEBHOOK_POST_STREAM="$url/v2/e/job-stream/\$RUNPOD_POD_ID/\$ID?gpu=none"
    RUNPOD_WEBHOOK_PING="$url/v2/e/ping/\$RUNPOD_POD_ID"
    RUNPOD_AI_API_KEY=rp-secret-key RUNPOD_POD_ID=$1 RUNPOD_PING_INTERVAL=${interval:-300}
    export RUNPOD_WEBHOOK_GET_JOB RUNPOD_WEBHOOK_POST_OUTPUT RUNPOD_WEBHOOK_POST_STREAM RUNPOD_WEBHOOK_PING
    export RUNPOD_AI_API_KEY RUNPOD_POD_ID RUNPOD_PING_INTERVAL
}
# launch NAME OPTIONS…: a worker, its process in $worker, its log in $tmp/NAME.err, without waiting for it.
launch() {
    environment "$1"
    name_of_worker=$1
    shift
    "$nibble" worker runpod --model "$root/models/demo" --prompts "$root/prompts" --schemas "$root/schemas" \
        --outbox "$tmp/outbox-$name_of_worker" "$@" >"$tmp/$name_of_worker.out" 2>>"$tmp/$name_of_worker.err" &
    worker=$!
    children="$children $worker"
}
start_worker() {
    launch "$@"
    until_ 20 grep -q 'takes jobs' "$tmp/$name_of_worker.out" ||
        bail "the worker does not start: $(cat "$tmp/$name_of_worker.err")"
}
stop_worker() { # its exit code in $code
    kill -TERM "$worker"
    wait "$worker"
    code=$?
}
# ask PATH [CURL OPTIONS…]: what the queue says in $tmp/out, which curl leaves alone where that is nothing.
ask() {
    path=$1
    shift
    : >"$tmp/out"
    curl -s -m 20 -o "$tmp/out" "$@" "$url$path"
}
post() { ask "$1" -d "${2:-}"; }
# job ID INPUT: puts a job into the queue.
job() { post /run "{\"id\": \"$1\", \"input\": $2}"; }
status() { ask "/status/$1"; }
stats() { ask /stats; }
fault() { post "/fault?on=$1&kind=$2&n=${3:-1}&retry_after=${4:-0}"; }
is() { status "$1" && json "$2"; }
counts() { stats && json "$1"; }
# answered ID CONDITION: the job ends (within two minutes, for sanitizers), and the condition holds of its status.
answered() {
    until_ 120 is "$1" '.status | IN("COMPLETED", "FAILED")'
    is "$1" "$2"
}
logged() { grep -qE "$2" "$tmp/$1.err"; }
short='{"prompt": "Invoice", "max_tokens": 2, "temperature": 0}'
long='{"prompt": "Invoice", "max_tokens": 1900, "ignore_eos": true}'
