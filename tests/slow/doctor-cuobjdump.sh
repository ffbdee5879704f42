#!/bin/sh
# The CUDA code that the doctor finds in real libraries against what cuobjdump lists:
#   tests/slow/doctor-cuobjdump.sh NIBBLE "CUOBJDUMP…" LIBRARY…
# Of several cuobjdumps (one argument, spaces between them) the first that reads a file whole is believed: 13.x
# gives up on code of CUDA 12.1, 12.3 on libraries of CUDA 13. Prints what differs; exit code 0 if nothing does.
# Not a part of `make check`: it wants the wheels of torch, bitsandbytes and NVIDIA's libraries. Needs jq.
set -u
nibble=$1
cuobjdumps=$2
shift 2
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
equal=0 different=0 unread=0 without=0
for library; do
    read=
    for cuobjdump in $cuobjdumps; do
        "$cuobjdump" -all --list-elf --list-ptx "$library" >"$tmp/out" 2>&1
        if ! grep -q fatal "$tmp/out" || grep -q "does not contain device code" "$tmp/out"; then
            read=1
            break
        fi
    done
    if [ -z "$read" ]; then
        unread=$((unread + 1))
        echo "no cuobjdump reads $library"
        continue
    fi
    # Both as lines "ELF sm_90a 4". cuobjdump names family-specific cubins without their f.
    sed -nE 's/^(ELF|PTX) file .*\.(sm_[0-9]+[a-z]?)\.[a-z]+$/\1 \2/p' "$tmp/out" | sort | uniq -c |
        awk '{print $2, $3, $1}' >"$tmp/theirs"
    "$nibble" doctor --json --library "$library" |
        jq -r '.findings[] | select(.code == "cuda-code").evidence' |
        sed -nE 's/^(sm|compute)_([0-9a-z]+): ([0-9]+) (cubin|PTX).*/\4 sm_\2 \3/p' |
        sed -E 's/^cubin (sm_[0-9]+)f/cubin \1/; s/^cubin/ELF/' |
        awk '{n[$1 " " $2] += $3} END {for (k in n) print k, n[k]}' | sort >"$tmp/ours"
    if cmp -s "$tmp/theirs" "$tmp/ours"; then
        equal=$((equal + 1))
        [ -s "$tmp/ours" ] || without=$((without + 1))
    else
        different=$((different + 1))
        echo "$library: cuobjdump (<) and the doctor (>)"
        diff "$tmp/theirs" "$tmp/ours"
    fi
done
echo "$equal equal ($without of them without CUDA code), $different different, $unread that no cuobjdump reads"
[ "$different" = 0 ]
