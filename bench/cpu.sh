#!/bin/sh
# The table of "The CPU backend" in docs/benchmarks.md: nibble bench on random weights, and with FOLDER on the same
# weights as a checkpoint there (6.5 GB are written, and left), mapped and packed.
#
#     bench/cpu.sh [NIBBLE [FOLDER]]     # NIBBLE: build/nibble; about two minutes on a machine with nothing else to do
#
# LAYERS=8, RUNS=3 and PHASES=1 (where the time of a pass goes, from the debug log) from the environment. Needs jq.
set -eu
nibble=${1:-build/nibble}
folder=${2:-}
layers=${LAYERS:-8}

row() { # NAME, bench's JSON on standard input
    jq -r --arg name "$1" '"\($name)\t\(.read_gb_per_s * 10 | round / 10)\t"
        + ([.decode[] | "\(.tokens_per_s * 10 | round / 10) (\(.share_of_limit * 100 | round) %)"] | join("\t"))
        + "\t" + (if (.decode | length) > 1 then "\(.decode[1].tokens_per_s / .decode[0].tokens_per_s * 100 | round / 100)"
                  else "" end)
        + "\t" + ([.prefill[] | "\(.tokens): \(.tokens_per_s * 10 | round / 10)"] | join(", "))'
}

"$nibble" --version | head -1
printf 'weights\tmemory reads GB/s\tdecode 1, tokens/s\tdecode 8\tratio\tprefill\n'
i=0
while [ $i -lt "${RUNS:-3}" ]; do
    NIBBLE_LOG=${PHASES:+debug} "$nibble" bench --synthetic "mixtral-8x7b:$layers" --json | row random
    i=$((i + 1))
done
[ "$folder" ] || exit 0
[ -e "$folder" ] || "$nibble" bench --synthetic "mixtral-8x7b:$layers" --write "$folder"
for how in mapped packed; do
    NIBBLE_LOG=${PHASES:+debug} "$nibble" bench --model "$folder" --weights $how --decode 1,8 --json | row $how
done
