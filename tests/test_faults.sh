#!/bin/sh
# nibble serve when things go wrong around it: slow, silent and vanished clients, too many of them, a full disk, a clock
# that jumps, a model's file that changes underneath. TAP. Needs curl and jq.
set -u
. "$(dirname "$0")/program.sh"
"$nibble" help serve >/dev/null 2>&1 || { echo "1..0 # SKIP this build has no libmicrohttpd"; exit 0; }
. "$(dirname "$0")/server.sh"
soak=${NB_TEST_SOAK:-$(dirname "$nibble")/tests/soak}
demo=$root/models/demo
sanitized() { grep -q __asan_init "$nibble" || grep -q __tsan_init "$nibble"; }
works() { ask /v1/completions -d '{"prompt": "Invoice", "max_tokens": 3, "temperature": 0}'; [ "$status" = 200 ]; }

# A thousand requests when 64 fit: each gets an answer, or 429 with Retry-After.
start --model "$demo" --max-sequences 16 --max-waiting 48 --context 256 --max-connections 2048 --idle 3
port=${url##*:}
"$soak" "$port" flood 1000 >"$tmp/out" 2>"$tmp/err"
code=$?
expect "a thousand requests at once: each is answered" exits 0
expect "some, at least those that may wait" json '.asked == 1000 and .wrong == 0 and .whole >= 48 and .whole + .status_429 == 1000'
expect "and nothing is left of them" settles
expect "it works" works

# Clients that take their time. --idle is 3 seconds.
"$soak" "$port" slow 30 >"$tmp/slow" 2>&1 &
slow=$!
"$soak" "$port" drip 30 >"$tmp/drip" 2>&1 &
drip=$!
for i in 1 2 3; do
    works || break
done
expect "others are served meanwhile" [ "$status" = 200 ]
asks_alone() { [ "$(metric nibble_connections)" = 1 ]; }
until_ 20 asks_alone
expect "a client that reads a byte a second is let go once its answer is whole" kill -0 $slow
expect "so that the asker's own connection is the only one" asks_alone
wait $slow
wait $drip
cp "$tmp/slow" "$tmp/out"
expect "it did read" json '.status == 200 and .got > 10'
cp "$tmp/drip" "$tmp/out"
expect "a client that sends a byte a second of its head is let go" json '.status != 200 and .sent < 20 and .closed_after_s > 2 and .closed_after_s < 20'
"$soak" "$port" head 8000 >"$tmp/out"
expect "a long header" json '.status == 200'
"$soak" "$port" head 200000 >"$tmp/out"
expect "a header that is too long" json '.status == 431 or .status == 413 or .status == 400 or .closed_after_s > 0'
expect "it works" works
expect "and nothing is left of those" settles

# Prompts that take long to read, to be refused in the end, do not hold up who asks for little.
jq -n '{prompt: ("Invoice 17 of ACME, total 100 EUR. " * 200000), max_tokens: 1}' >"$tmp/long"
long=$(curl -s -o /dev/null -w '%{time_total}' -d @"$tmp/long" "$url/v1/completions")
for i in 1 2 3 4 5 6; do
    curl -s -o /dev/null -w '%{http_code}\n' -d @"$tmp/long" "$url/v1/completions" >"$tmp/long$i" &
    longs="${longs:-} $!"
done
sleep 0.2
for i in $(seq 20); do
    curl -s -o /dev/null -w '%{time_total}\n' "$url/healthz"
    sleep 0.1
done >"$tmp/times"
wait $longs
expect "long prompts are refused" [ "$(cat "$tmp"/long? | sort -u)" = 400 ]
expect "and hold up nobody (one took $long s)" sh -c "[ \$(awk -v t=$long '\$1 < t' '$tmp/times' | wc -l) = 20 ]"

# Clients that vanish: killed in mid-stream, no word said.
for i in 1 2 3 4; do
    curl -sN -o /dev/null "$url/v1/completions" -d '{"prompt": "a", "max_tokens": 240, "ignore_eos": true, "stream": true}' &
    vanish="${vanish:-} $!"
done
sleep 0.3
kill -9 $vanish
wait $vanish 2>/dev/null
expect "clients that vanish leave nothing running" settles
stop
expect "it ends well" exits 0

# More connections than there may be: the rest waits for one that is closed, and is served then.
start --model "$demo" --max-sequences 4 --max-connections 8 --idle 2
port=${url##*:}
for i in $(seq 30); do
    "$soak" "$port" drip 6 >/dev/null 2>&1 &
    drips="${drips:-} $!"
done
sleep 0.5
expect "the limit of connections holds" works
n=$(metric nibble_connections)
expect "$n are open, of 8" [ "$n" -le 8 ]
wait $drips
expect "it works" works
stop

# A disk that is full: logs go nowhere, answers come.
log=/dev/full
start --model "$demo"
log=
expect "logs that cannot be written" works
expect "again" works
stop
expect "it ends well" exits 0

# Memory that runs out: a body that there is no room for is refused as that, and all goes on.
if command -v prlimit >/dev/null && ! sanitized; then
    start --model "$demo" --max-body 512MiB
    works
    prlimit --pid "$server" --as=$(($(awk '/^VmSize/ { print $2 }' "/proc/$server/status") * 1024 + (96 << 20))):
    head -c 67500000 /dev/zero >"$tmp/big"
    ask /v1/completions --data-binary @"$tmp/big"
    expect "no memory for a body" answers 507 '.error.type == "server_error" and (.error.message | contains("memory"))'
    expect "it works" works
    stop
    expect "it ends well" exits 0
fi

# A clock that jumps an hour ahead and back with every reading: nothing waits for it.
if [ -n "${NB_TEST_CLOCK:-}" ] && ! sanitized; then
    preload=$NB_TEST_CLOCK
    start --model "$demo" --max-sequences 2 --timeout 30
    preload=
    for i in 1 2 3 4 5 6 7 8; do
        works || break
    done
    expect "a clock that jumps" [ "$status" = 200 ]
    expect "no request took an hour" sh -c "! grep -qE ' ms=[0-9]{6,}' '$tmp/server.err'"
    stop
    expect "it ends well" exits 0
fi

# A model's file that goes away, changes, is cut short.
copy() {
    mkdir -p "$tmp/model"
    rm -f "$tmp"/model/*
    cp "$demo"/* "$tmp/model/"
}
copy
start --model "$tmp/model" --weights mapped
expect "a model of its own" works
want=$(jq -r '.choices[0].text' "$tmp/out")
ask /readyz
expect "is ready" answers 200 '.status == "ready"'
cp "$tmp/model/model.safetensors" "$tmp/model/new"
mv "$tmp/model/new" "$tmp/model/model.safetensors"
works
expect "a model's file that is replaced by another: answers go on as they were" [ "$(jq -r '.choices[0].text' "$tmp/out")" = "$want" ]
rm "$tmp/model/model.safetensors"
works
expect "or removed: likewise" [ "$(jq -r '.choices[0].text' "$tmp/out")" = "$want" ]
ask /readyz
expect "the mapping is of the old one" answers 200 '.status == "ready"'
stop
expect "it ends well" exits 0
copy
start --model "$tmp/model" --weights mapped
printf x | dd of="$tmp/model/model.safetensors" bs=1 seek=9000000 conv=notrunc 2>/dev/null
ask /readyz
expect "a model's file that is written to: it is not ready, and says why" answers 503 '.status | contains("restart")'
expect "but not where the file lies" sh -c "! grep -q '$tmp' '$tmp/out'"
expect "the log does" grep -q "event=model $tmp/model/model.safetensors" "$tmp/server.err"
stop
copy
start --model "$tmp/model" --weights mapped --cpu plain
: >"$tmp/model/model.safetensors"
ask /v1/completions -d '{"prompt": "Invoice 17 of ACME", "max_tokens": 30}'
wait "$server"
code=$?
expect "a file that is cut short ends the program with 1" exits 1
expect "which says why" grep -q 'was cut short' "$tmp/server.err"
echo "1..$number"
