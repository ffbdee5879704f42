#!/bin/sh
# nibble bench: its output, and what it refuses. TAP. Needs jq.
set -u
root=${NB_TEST_ROOT:-$(cd "$(dirname "$0")/.." && pwd)}
nibble=${NB_TEST_NIBBLE:-$root/build/nibble}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
unset NIBBLE_MODEL NIBBLE_LOG

number=0
run() {
    "$nibble" bench "$@" >"$tmp/out" 2>"$tmp/err" </dev/null
    code=$?
}
# expect NAME CONDITION…: a test that the shell command given holds.
expect() {
    name=$1
    shift
    number=$((number + 1))
    if "$@" >"$tmp/why" 2>&1; then
        echo "ok $number - $name"
    else
        echo "not ok $number - $name"
        { echo "exit code $code"; head -20 "$tmp/out" "$tmp/err" "$tmp/why"; } | sed 's/^/# /'
    fi
}
refuses() { [ "$code" = "$1" ] && grep -qE -- "$2" "$tmp/err"; }
json() { jq -e "$1" "$tmp/out"; }

run --synthetic tiny --seconds 0.01 --json
expect "exits with 0" [ "$code" = 0 ]
expect "says what was measured" json '.backend == "cpu" and (.device | test("thread")) and .model == "tiny" and .read_gb_per_s > 0 and .model_bytes > .step_bytes'
expect "decode at batch 1 and 8" json '[.decode[] | .batch] == [1, 8] and all(.decode[]; .context > 128 and .tokens_per_s > 0 and .gb_per_s > 0 and .share_of_limit > 0)'
expect "prefill of 128 and 512" json '[.prefill[] | .tokens] == [128, 512] and all(.prefill[]; .tokens_per_s > 0)'
expect "share and limit agree" json 'all(.decode[]; (.tokens_per_s / .limit_tokens_per_s / .share_of_limit - 1 | fabs) < 0.001)'
run --synthetic tiny:1 --decode 3 --context 40 --seconds 0.01 --cpu plain --threads 1 --json
expect "only what is asked for" json '[.decode[] | .batch] == [3] and .prefill == [] and .model == "tiny:1" and .device == "1 thread, plain"'
run --model "$root/tests/golden/mixtral-tiny-nf4" --decode 2 --context 16 --prefill 9 --seconds 0.01 --json
expect "a checkpoint" json '.model == "mixtral-tiny-nf4" and .prefill[0].tokens == 9'
run --synthetic tiny --decode 1 --seconds 0.01
expect "a table" grep -qE '^decode 1 at [0-9]+ .*%$' "$tmp/out"
run --synthetic mixtral
expect "no such shape" refuses 1 'no synthetic model "mixtral", only .*mixtral-8x7b'
run --synthetic tiny:3
expect "more layers than it has" refuses 1 '1 to 2 layers'
run --synthetic tiny --decode 1,x
expect "a batch that is no number" refuses 2 '"x"'
run --synthetic tiny --decode 65
expect "too large a batch" refuses 2 '1 to 64'
run --synthetic tiny --model x
expect "two models" refuses 2 'one of'
run --synthetic tiny --context 2000 --decode 1
expect "more context than the model has" refuses 1 'context'
run --synthetic tiny --cpu mmx
expect "a CPU version that there is not" refuses 1 'mmx'
echo "1..$number"
