#!/bin/sh
# A server under mixed, cancelled, malformed and oversized requests at saturation, for NB_SOAK_SECONDS (10): nothing
# leaks, nothing is stuck, and what it counts adds up. TAP. An hour of it:
#     NB_SOAK_SECONDS=3600 NB_TEST_NIBBLE=build/nibble NB_TEST_SOAK=build/tests/soak tests/test_soak.sh
set -u
. "$(dirname "$0")/program.sh"
"$nibble" help serve >/dev/null 2>&1 || { echo "1..0 # SKIP this build has no libmicrohttpd"; exit 0; }
. "$(dirname "$0")/server.sh"
soak=${NB_TEST_SOAK:-$(dirname "$nibble")/tests/soak}
seconds=${NB_SOAK_SECONDS:-10}
sanitized() { grep -q __asan_init "$nibble" || grep -q __tsan_init "$nibble"; }

start --model "$root/models/demo" --context 2048 --max-sequences 8 --max-waiting 48 --max-connections 512 --threads "${NB_SOAK_THREADS:-2}"
answer() { ask /v1/completions -d '{"prompt": "Invoice", "max_tokens": 24, "temperature": 0}'; jq -r '.choices[0].text' "$tmp/out"; }
before=$(answer)
files=$(files_open)
# A fifth of the time fills what is kept: grammars, buffers, the allocator's arenas.
"$soak" "${url##*:}" $((seconds / 5 + 1)) 32 1 >"$tmp/out" 2>"$tmp/err"
code=$?
expect "the first fifth: every answer is one of those that its request allows" [ "$code" = 0 ]
expect "nothing runs or waits after it" settles
memory=$(resident_kb)
"$soak" "${url##*:}" $((seconds - seconds / 5)) 32 2 >"$tmp/out" 2>"$tmp/err"
code=$?
sed 's/^/# /' "$tmp/out"
expect "the rest: every answer is one of those that its request allows" [ "$code" = 0 ]
expect "they are of many kinds" jq -e '.wrong == 0 and .whole > 0 and .left > 0 and .refused > 0 and ([.kinds[] | select(. > 0)] | length) > 8' "$tmp/out"
expect "nothing runs or waits after that" settles
later=$(resident_kb)
echo "# resident: $memory kB after a fifth, $later kB at the end"
# What is kept fills up in minutes (64 grammars, the allocator's arenas): over seconds only an upper bound can be said.
if sanitized; then
    echo "# not judged: this build has a sanitizer"
elif [ "$seconds" -ge 120 ]; then
    expect "memory is flat" [ "$later" -le $((memory + memory / 10 + 8192)) ]
else
    expect "memory is bounded" [ "$later" -le 400000 ]
fi
all_closed() { [ "$(files_open)" -le $((files + 1)) ]; }
expect "no file or socket is left open, but for $files" until_ 5 all_closed
ask /metrics
cp "$tmp/out" "$tmp/metrics"
value() { awk -v n="$1" '$1 == n { print $2 }' "$tmp/metrics"; }
expect "all pages of KV memory are free, or hold a prefix that nobody uses" [ $(($(value nibble_kv_pages_free) + $(value nibble_kv_pages_cached))) = "$(value nibble_kv_pages)" ]
expect "requests by route and the histogram agree" sh -c "awk '/^nibble_http_requests_total/ { n += \$2 } /^nibble_request_seconds_count/ { m = \$2 } END { exit n != m || n < 10 }' '$tmp/metrics'"
expect "buckets add up" sh -c "awk '/_bucket/ { split(\$1, a, \"_bucket\"); if (a[1] == last && \$2 < n) exit 1; last = a[1]; n = \$2 }' '$tmp/metrics'"
expect "it answers as it did before" [ "$(answer)" = "$before" ]
expect "no prompt is in the log" sh -c "! grep -q 'ACME\|Invoice' '$tmp/server.err'"
stop
expect "SIGTERM ends it with 0" [ "$code" = 0 ]
expect "everything was answered" grep -q 'everything was answered' "$tmp/server.err"
echo "1..$number"
