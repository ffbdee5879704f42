#!/bin/sh
# Holds the #includes between rooms to the arrows of docs/design.md, section 3. TAP.
set -u
cd "${NB_TEST_ROOT:-$(dirname "$0")/..}" || exit 1

# What each room may include besides itself and the public header.
allowed() {
    case $1 in
    base) echo ;;
    quant) echo base ;;
    model) echo base quant ;;
    backend) echo base quant model ;;
    grammar) echo base model ;;
    engine) echo base quant model backend grammar ;;
    document) echo base ;;
    task) echo base model engine document grammar ;;
    service) echo base model engine document grammar task ;;
    doctor) echo base quant model backend ;;
    cli) echo base quant model grammar engine document task service doctor ;;
    *) echo UNKNOWN ;;
    esac
}

number=0
result() { # ok-or-not, name, then details on standard input
    number=$((number + 1))
    echo "$1 $number - $2"
    sed 's/^/# /'
}

rooms=$(cd src && ls -d */ | tr -d /)
echo "1..$(($(echo "$rooms" | wc -l) + 6))"
for room in $rooms; do
    may=" $(allowed "$room") $room "
    bad=
    if [ "$may" = " UNKNOWN $room " ]; then
        bad="src/$room is no room of docs/design.md"
    fi
    for line in $(grep -rnoE '^ *# *include "[a-z_0-9]+/' "src/$room" | tr -d ' '); do
        to=$(echo "$line" | sed 's/.*"//; s|/||')
        case "$may nibble " in
        *" $to "*) ;;
        *) bad="$bad$line: $room may not include $to
" ;;
        esac
    done
    if [ -z "$bad" ]; then result ok "$room" </dev/null; else echo "$bad" | result "not ok" "$room"; fi
done

# Every room with sources is on the design page, backends do not see each other, only cuda/ sees CUDA, and a
# file is included by its path from src/.
check() { # name, findings
    if [ -z "$2" ]; then result ok "$1" </dev/null; else echo "$2" | result "not ok" "$1"; fi
}
check "rooms are on the design page" "$(for r in $rooms; do grep -q "^src/$r/" docs/design.md || echo "$r"; done)"
check "the command line and the service see no backend" "$(grep -rnE 'include "backend/' src/cli src/service 2>/dev/null)"
check "the doctor sees a backend's plan only" "$(grep -rnE 'include "backend/' src/doctor | grep -v 'include "backend/cuda/plan.h"')"
check "backends do not see each other" "$(grep -rnE 'include "backend/cuda/' src/backend/cpu 2>/dev/null
grep -rnE 'include "backend/cpu/' src/backend/cuda 2>/dev/null)"
check "CUDA headers only in src/backend/cuda" "$(grep -rnE 'include <(cuda|cublas|nccl|nvml)' src include | grep -v '^src/backend/cuda/')"
check "includes name the room" "$(grep -rnE '^ *# *include "[^/"]+"' src include)"
