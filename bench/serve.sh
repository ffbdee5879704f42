#!/bin/sh
# What nibble serve costs beside the model: the figures of docs/benchmarks.md, section "The service", as JSON lines.
#   bench/serve.sh [BUILD]        BUILD: a build folder (default: build)
# Needs curl and jq. Runs on the embedded model, over loopback, load and server on the same machine.
set -eu
cd "$(dirname "$0")/.."
build=${1:-build}
tmp=$(mktemp -d)
server=
trap 'kill $server 2>/dev/null || true; rm -rf "$tmp"' EXIT

start() {
    "$build/nibble" serve --port 0 "$@" >"$tmp/out" 2>"$tmp/err" &
    server=$!
    until grep -q 'listens on' "$tmp/out"; do
        kill -0 $server || { cat "$tmp/err" >&2; exit 1; }
        sleep 0.01
    done
    port=$(sed 's/.*://' "$tmp/out")
}
stop() { kill $server && wait $server || true; server=; }
memory() { awk '/^VmRSS/ { print $2 * 1024 }' "/proc/$server/status"; }

model=models/demo
begin=$(date +%s%N)
start --model $model --max-sequences 64 --context 256
echo "{\"start_to_ready_ms\": $((($(date +%s%N) - begin) / 1000000))}"
"$build/tests/serve_load" "$port" 64 8 >/dev/null
step=$("$build/nibble" bench --model $model --decode 64 --prefill 16 --json 2>/dev/null | jq '.decode[0].tokens_per_s')
for i in 1 2 3; do
    "$build/tests/serve_load" "$port" 64 200 8 |
        jq -c --argjson bench "$step" '. + {bench_tokens_per_s: $bench, share_of_bench: (.all_streaming_tokens_per_s / $bench), p99_over_p50: (.gap_ms.p99 / .gap_ms.p50)}'
done
"$build/tests/serve_load" "$port" 1 1 1 200 >/dev/null
steps() { curl -s "http://127.0.0.1:$port/metrics" | awk '/^nibble_step_seconds_total/ { s = $2 } /^nibble_steps_total/ { n = $2 } END { print s, n }'; }
set -- $(steps)
load=$("$build/tests/serve_load" "$port" 1 1 1 2000)
set -- "$@" $(steps)
echo "$load" | jq -c --arg a "$1" --arg b "$2" --arg c "$3" --arg d "$4" \
    '. + {step_ms: ((($c | tonumber) - ($a | tonumber)) / (($d | tonumber) - ($b | tonumber)) * 1000)} | . + {overhead_ms: (.ms.p50 - .step_ms)}'
before=$(memory)
"$build/tests/serve_load" "$port" idle 1000 2 &
sleep 1
echo "{\"idle_connections\": 1000, \"bytes\": $(($(memory) - before))}"
wait $! || true
stop

# A prefix of 8,500 tokens that comes again, with 20 tokens of its own behind it each time.
start --synthetic mixtral-8x7b:1 --context 8704 --max-sequences 2
ask() { # prefix's first token, the tail's: seconds to an answer of one token
    jq -n --argjson a "$1" --argjson b "$2" '{prompt: ([range(8500) | 5 + (. * 7 + $a) % 9000] + [range(20) | 10000 + $b]), max_tokens: 1, temperature: 0,
        ignore_eos: true}' |
        curl -s -o "$tmp/answer" -w '%{time_total}' -d @- "http://127.0.0.1:$port/v1/completions"
}
for i in 1 2 3; do
    first=$(ask $i 1)
    again=$(for k in 2 3 4 5 6; do ask $i $k; echo; done | sort -g | sed -n 3p)
    echo "{\"prefix_tokens\": 8500, \"first_s\": $first, \"again_s\": $again}" | jq -c '. + {times: (.first_s / .again_s)}'
done
stop
