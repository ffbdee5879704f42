#!/bin/sh
# The CUDA backend on a machine with a GPU: tests, sanitizers, and the table of docs/benchmarks.md.
#   bench/gpu.sh [--quick] [--only PART] [--json FILE] [BUILD]
# BUILD is a folder that Meson built in, with or without the rest of the source tree's compilers (the programs in it are
# what is run); it is made with meson and nvcc if it is not there. --quick leaves out sanitizers, the model in the page
# cache and Qwen3; --only does one part: tests, sanitizers or table. The table goes to standard output, and with --json everything that was measured to FILE. Needs
# python3; where its torch is there, the rate of bf16 matrix products is measured with it, the limit of prefill.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
quick= json= only= build=$root/build-gpu
while [ $# -gt 0 ]; do
    case $1 in
    --quick) quick=yes ;;
    --json) json=$2 && shift ;;
    --only) only=$2 && shift ;;
    -*) echo "gpu.sh: $1: unknown" >&2 && exit 2 ;;
    *) build=$1 ;;
    esac
    shift
done
if [ ! -x "$build/nibble" ]; then
    # For this machine's GPU alone: 9.0 is 90a, for the sake of its wgmma.
    arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d . | sed 's/^90$/90a/')
    meson setup "$build" "$root" -Dcuda=enabled ${arch:+-Dcuda-archs=$arch} || exit 1
    ninja -C "$build" && ninja -C "$build" gpu-tests || exit 1
fi
build=$(cd "$build" && pwd)
nibble=$build/nibble
export NB_TEST_ROOT="$root" NB_TEST_NIBBLE="$nibble" NB_TEST_BACKEND=cuda CMOCKA_MESSAGE_OUTPUT=TAP
tmp=$(mktemp -d)
shm=/dev/shm/nibble-bench.$$
trap 'rm -rf "$tmp" "$shm"' EXIT
passed=0 failed=0

wanted() { [ -z "$only" ] || [ "$only" = "$1" ]; }

count() { # NAME, with TAP in $tmp/tap and the exit code
    ok=$(grep -c '^ok ' "$tmp/tap")
    bad=$(grep '^not ok ' "$tmp/tap" | grep -vc '# SKIP')
    [ "$2" = 0 ] || [ "$bad" != 0 ] || bad=1
    passed=$((passed + ok)) failed=$((failed + bad))
    echo "$1: $ok passed, $bad failed"
    [ "$bad" = 0 ] || grep -E -B4 -A5 '^not ok|ERROR|rror' "$tmp/tap" "$tmp/err" | head -40
}

run_tests() {
    echo "== tests"
    for test in "$build"/tests/test_cuda "$build"/tests/test_forward "$build"/tests/test_architectures \
        "$build"/tests/test_generate "$build"/tests/cuda_*; do
        [ -x "$test" ] && [ ! -d "$test" ] || continue
        timeout 300 "$test" >"$tmp/tap" 2>"$tmp/err"
        count "$(basename "$test")" $?
    done
}

# A short run of everything that a request does, and random steps of every kind on a small model.
sanitize() { # TOOL COMMAND…
    tool=$1
    shift
    timeout 90 compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 5 "$@" >"$tmp/out" 2>&1
    if [ $? = 0 ]; then
        passed=$((passed + 1))
        echo "$tool clean: $(basename "$1") $2"
    else
        failed=$((failed + 1))
        echo "$tool found: $(basename "$1") $2"
        grep '^=========' "$tmp/out" | head -20
    fi
}
run_sanitizers() {
    echo "== compute-sanitizer"
    for tool in memcheck racecheck; do
        sanitize $tool "$nibble" generate --backend cuda --model "$root/models/demo" -p "Invoice 17, total 20 EUR" -n 12
        sanitize $tool "$build/tests/test_cuda" few_steps
    done
}

bench() { # NAME OPTIONS…
    name=$1
    shift
    if ! timeout 120 "$nibble" bench --backend cuda --json "$@" >"$tmp/$name.json" 2>"$tmp/err"; then
        failed=$((failed + 1))
        echo "bench $*:" && cat "$tmp/err"
        echo '{}' >"$tmp/$name.json"
    fi
}

# From the start of the program to its first token and its end, weights in the page cache.
start_to_first_token() {
    free=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')
    [ "${free:-0}" -gt 26000000 ] && "$nibble" bench --synthetic mixtral-8x7b --write "$shm" || return
    for i in 1 2 3; do
        begin=$(date +%s%N)
        NIBBLE_LOG=info "$nibble" generate --backend cuda --model "$shm" --context 4096 --prompt-ids 1,2,3,4,5,6,7,8 \
            -n 1 --ignore-eos >/dev/null 2>"$tmp/start.$i" || cat "$tmp/start.$i"
        echo $((($(date +%s%N) - begin) / 1000000)) >>"$tmp/start"
    done
    grep '^info: cuda' "$tmp/start.3"
    plan_against_use
    rm -rf "$shm"
}

# What `nibble plan` says against what the device has in use while the model generates, at three contexts.
plan_against_use() {
    for context in 1024 10000 32768; do
        nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits -lms 50 >"$tmp/used" &
        watcher=$!
        "$nibble" generate --backend cuda --model "$shm" --context $context --prompt-ids 1,2,3,4,5,6,7,8 -n 400 \
            --ignore-eos >/dev/null 2>"$tmp/err" || cat "$tmp/err"
        kill $watcher
        wait $watcher 2>/dev/null
        "$nibble" plan "$shm" --context $context --json >"$tmp/planned"
        python3 - "$context" "$tmp/planned" "$tmp/used" <<'END' || failed=$((failed + 1))
import json, sys
planned = json.load(open(sys.argv[2]))["total_bytes"]
used = max(int(line) for line in open(sys.argv[3]) if line.strip().isdigit()) << 20
print(f"plan at {sys.argv[1]} positions: planned {planned:,}, used {used:,}: {planned / used - 1:+.1%}")
sys.exit(abs(planned / used - 1) > 0.02)
END
    done
}

run_table() {
    echo "== benchmarks"
    bench mixtral --synthetic mixtral-8x7b
    bench limited --synthetic mixtral-8x7b --memory-limit 23.5GiB --decode 1@3839 --seconds 0.2
    if [ -z "$quick" ]; then
        bench qwen3 --synthetic qwen3-30b-a3b
        bench quantize --synthetic mixtral-8x7b-bf16:8 --decode 1 --seconds 0.1
        start_to_first_token
    fi
    python3 "$root/bench/gpu_matrix.py" >"$tmp/matrix" 2>/dev/null
    python3 "$root/bench/gpu_table.py" "$tmp" ${json:+"$json"} || failed=$((failed + 1))
}

wanted tests && run_tests
wanted sanitizers && [ -z "$quick" ] && command -v compute-sanitizer >/dev/null && run_sanitizers
wanted table && run_table
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
