#!/bin/sh
# Jobs through two workers, one of which, at random, is killed (-9) and started again and again: every job is answered
# exactly once. TAP.
#   tests/test_worker_kill.sh [JOBS [SECONDS BETWEEN KILLS]]     (tests/slow/worker-ten-thousand.sh: 10,000)
set -u
. "$(dirname "$0")/worker.sh"
jobs=${1:-3000} pause=${2:-1}

start_queue --lease-ms 4000
start_worker w0
worker0=$worker
start_worker w1
worker1=$worker
post "/fill?n=$jobs" '{"prompt": "Invoice", "max_tokens": 4, "temperature": 0.7, "ignore_eos": true}'
all() { counts ".completed == $jobs" >/dev/null; }
kills=0
begun=$(date +%s)
while ! all; do
    [ $(($(date +%s) - begun)) -gt $((60 + jobs / 10)) ] && break
    sleep "$pause"
    all && break
    [ "$kills" -ge 12 ] && continue
    if [ $(($(od -An -N1 -tu1 /dev/urandom))) -lt 128 ]; then
        kill -9 "$worker0"
        wait "$worker0" 2>/dev/null
        start_worker w0
        worker0=$worker
    else
        kill -9 "$worker1"
        wait "$worker1" 2>/dev/null
        start_worker w1
        worker1=$worker
    fi
    kills=$((kills + 1))
    [ "$kills" -ge 8 ] && pause=5
done
code=0
: >"$tmp/err"
expect "all $jobs jobs are answered" all
expect "each exactly once" counts '.not_once == 0 and .posts == .completed and .repeated == 0 and .conflicting == 0 and .failed == 0 and .strangers == 0'
expect "workers were killed" [ "$kills" -gt 0 ]
expect "with jobs in their hands" counts '.redelivered > 0'
stats
echo "# $kills kills, $(($(date +%s) - begun)) s: $(cat "$tmp/out")"
worker=$worker0
stop_worker
expect "one ends with 0" [ "$code" = 0 ]
worker=$worker1
stop_worker
expect "the other, too" [ "$code" = 0 ]
echo "1..$number"
