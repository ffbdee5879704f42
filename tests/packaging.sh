#!/bin/bash
# The image files, the unit and the entry point, without Docker: the files are read by rules, every step of the CPU image's
# first stage is run (its /src and /out elsewhere), and what comes out is measured, started, asked and stopped. TAP.
#   tests/packaging.sh         builds the program once: a minute on two cores. Needs what scripts/install-deps build and
#                              check install; systemd-analyze where it is there.
set -u
. "$(dirname "$0")/program.sh"
server=
trap 'kill -9 $server 2>/dev/null; rm -rf "$tmp"' EXIT
skip() { number=$((number + 1)); echo "ok $number # SKIP $1"; }

# One instruction a line, without comments.
instructions() { sed -e '/^\s*#/d' "$1" | sed -e ':a' -e '/\\$/N' -e 's/\\\n\s*/ /' -e 'ta' | sed '/^\s*$/d'; }
# Those of stage N, from 1.
stage() { instructions "$1" | awk -v n="$2" '/^FROM / { s++ } s == n'; }
last_stage() { instructions "$1" | grep -c '^FROM '; }

# ---- the image files, by rules

known() { ! instructions "$1" | grep -vE '^(FROM|ARG|ENV|COPY|RUN|USER|WORKDIR|EXPOSE|STOPSIGNAL|HEALTHCHECK|ENTRYPOINT|CMD) '; }
pinned() { # every base by a version: a number, and neither nothing nor "latest"
    ! instructions "$1" | awk '/^FROM / { print $2 }' | grep -vE '^[a-z0-9./-]+:[a-z0-9.-]*[0-9][a-z0-9.-]*$'
}
not_root() { [ "$(stage "$1" "$(last_stage "$1")" | awk '/^USER / { u = $2 } END { print u }')" = 10001:10001 ]; }
checks_health() { stage "$1" "$(last_stage "$1")" | grep -q '^HEALTHCHECK '; }
json_forms() { # commands are lists, so that signals reach the program
    local n
    n=$(stage "$1" "$(last_stage "$1")" | grep -cE '^(ENTRYPOINT|CMD) ')
    [ "$n" -ge 1 ] && stage "$1" "$(last_stage "$1")" | sed -nE 's/^(ENTRYPOINT|CMD) //p; s/^HEALTHCHECK .* CMD //p' |
        jq -es 'all(.[]; type == "array" and all(.[]; type == "string"))'
}
steps_parse() { instructions "$1" | sed -n 's/^RUN //p' | while read -r step; do printf '%s\n' "$step" | sh -n || exit 1; done; }
last_installs_nothing() { ! stage "$1" "$(last_stage "$1")" | grep -E 'apt-get|curl |wget '; }
lean() { ! instructions "$1" | grep 'apt-get install' | grep -v -- --no-install-recommends; }
sources_there() { # what COPY takes from the context, and scripts that steps call, are in the repository
    instructions "$1" | grep -oE '/src/[a-zA-Z0-9_./-]+' | grep -v '/src/build-image' | sort -u |
        while read -r path; do [ -e "$root/${path#/src/}" ] || { echo "$path"; exit 1; }; done
}
for file in packaging/Dockerfile.cpu packaging/Dockerfile; do
    cd "$root"
    expect "$file: instructions are known" known $file
    expect "$file: bases are pinned" pinned $file
    expect "$file: does not run as root" not_root $file
    expect "$file: has a health check" checks_health $file
    expect "$file: commands are lists" json_forms $file
    expect "$file: steps are shell" steps_parse $file
    expect "$file: the last stage installs nothing" last_installs_nothing $file
    expect "$file: nothing is installed that was not asked for" lean $file
    expect "$file: what it names is there" sources_there $file
done
for f in cpu cuda; do
    [ $f = cpu ] && source=packaging/Dockerfile.cpu || source=packaging/Dockerfile
    stage $source 2 | grep -vE '^(FROM|ENV|HEALTHCHECK)' >"$tmp/last.$f"
done
expect "both images end alike" diff "$tmp/last.cpu" "$tmp/last.cuda"
for script in packaging/entrypoint packaging/collect; do
    expect "$script is shell" bash -n "$root/$script"
    expect "$script may be run" test -x "$root/$script"
done
if command -v shellcheck >/dev/null; then
    expect "shellcheck" shellcheck "$root/packaging/entrypoint" "$root/packaging/collect"
else
    skip "shellcheck is not here"
fi

# ---- the steps of the CPU image's first stage

src=$tmp/src out=$tmp/image
mkdir -p "$src" "$out" "$tmp/bin"
(cd "$root" && git ls-files -z 2>/dev/null | tar -c --null -T - 2>/dev/null || tar -c --exclude=./.git --exclude='./build*' .) | tar -x -C "$src"
for f in packaging/entrypoint packaging/collect packaging/Dockerfile packaging/Dockerfile.cpu; do
    [ -e "$src/$f" ] || { mkdir -p "$src/packaging" && cp "$root/$f" "$src/$f"; }
done
# Packages that are here already are not asked for again.
cat >"$tmp/bin/apt-get" <<'END'
#!/bin/sh
command=$1
shift
[ "$command" = update ] && exit 0
missing=
for p; do case $p in -*) ;; *) dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q ' installed' || missing="$missing $p" ;; esac; done
[ -z "$missing" ] || { /usr/bin/apt-get update -q && exec /usr/bin/apt-get install -q -y --no-install-recommends $missing; }
END
chmod +x "$tmp/bin/apt-get"
i=0
while read -r step; do
    i=$((i + 1))
    step=$(printf '%s' "$step" | sed -e "s#/src#$src#g" -e "s#/out#$out#g")
    expect "step $i runs" env PATH="$tmp/bin:$PATH" sh -c "cd / && $step"
done < <(stage "$root/packaging/Dockerfile.cpu" 1 | sed -n 's/^RUN //p')

# ---- what came out

libraries=$out/usr/local/lib/nibble
whole() { LD_LIBRARY_PATH=$libraries ldd "$out/usr/local/bin/nibble" | tee "$tmp/ldd" && ! grep -q 'not found' "$tmp/ldd" &&
    ! grep -E '=> /(usr/)?lib' "$tmp/ldd" | grep -vE 'ld-linux|lib(c|m|pthread|dl|rt|resolv)\.so'; }
expect "the program's libraries are in the image, but for the C library" whole
bytes=$(du -bc "$out/usr/local/bin/nibble" "$libraries" $(ldd "$out/usr/local/bin/nibble" | sed -nE 's/.*=> (\S*\/lib(c|m|resolv)\.so\S*) .*/\1/p' | xargs -r readlink -f) | tail -1 | cut -f1)
echo "# program and libraries: $bytes bytes; all that is copied into the image: $(du -sb "$out" | cut -f1)"
expect "program and libraries are under 80 MB" [ "$bytes" -gt 1000000 -a "$bytes" -lt 80000000 ]
expect "no headers, no libraries to link with" sh -c "[ -z \"\$(find '$out' -name '*.h' -o -name '*.a' -o -name '*.pc')\" ]"

# ---- the entry point, as the container runs it

port=$((20000 + $$ % 20000))
within() { env -i PATH="$out/usr/local/bin:/usr/bin:/bin" LD_LIBRARY_PATH="$libraries" NIBBLE_PORT=$port "$@"; }
expect "health says no where nothing listens" sh -c "! '$out/usr/local/bin/nibble-entrypoint' health"
(exec env -i PATH="$out/usr/local/bin:/usr/bin:/bin" LD_LIBRARY_PATH="$libraries" NIBBLE_PORT=$port \
    NIBBLE_OPTIONS="--max-sequences 2 --drain 5" nibble-entrypoint >"$tmp/out" 2>"$tmp/err") &
server=$!
expect "it serves" until_ 30 grep -q "listens on .*0.0.0.0:$port" "$tmp/out"
expect "it is healthy" within nibble-entrypoint health
expect "it answers" sh -c "curl -s -m 60 http://127.0.0.1:$port/v1/completions -d '{\"prompt\": \"Invoice\", \"max_tokens\": 2}' | jq -es '.[0].usage'"
kill -TERM $server
wait $server
code=$?
server=
expect "SIGTERM reaches the program, which ends with 0" [ $code = 0 ]
expect "a command of nibble's" sh -c "cd / && env LD_LIBRARY_PATH='$libraries' PATH='$out/usr/local/bin:/usr/bin:/bin' nibble-entrypoint --version | grep -q '^nibble'"
mkdir -p "$tmp/stub"
printf '#!/bin/sh\necho "$@"\n' >"$tmp/stub/nibble"
chmod +x "$tmp/stub/nibble"
as_worker() { env PATH="$tmp/stub:$PATH" RUNPOD_WEBHOOK_GET_JOB=http://localhost:1/ NIBBLE_OPTIONS='--max-sequences 4' "$root/packaging/entrypoint" "$@"; }
expect "where RunPod says where its queue is, it works for that" sh -c '[ "$1" = "worker runpod --max-sequences 4" ]' - "$(as_worker)"
expect "and is well without a port" as_worker health

# ---- the unit

if command -v systemd-analyze >/dev/null; then
    mkdir -p "$tmp/unit/nibble.service.d"
    sed "s#^ExecStart=/usr/local/bin/nibble#ExecStart=$out/usr/local/bin/nibble#; s#^User=.*#User=root#; s#^Group=.*#Group=root#; /^Documentation=/d" \
        "$root/packaging/nibble.service" >"$tmp/unit/nibble.service"
    expect "systemd reads the unit" sh -c "systemd-analyze verify --man=no '$tmp/unit/nibble.service' 2>&1 | tee '$tmp/verify'; ! grep -i 'nibble.service' '$tmp/verify'"
    # In tenths: 2.0 is "OK", as little as a service that listens can be exposed to.
    expect "and finds it hardened" systemd-analyze security --offline=yes --threshold=20 --no-pager "$root/packaging/nibble.service"
    cp "$root/packaging/nibble-gpu.conf" "$tmp/unit/nibble.service.d/gpu.conf"
    expect "with a GPU, too" sh -c "systemd-analyze verify --man=no '$tmp/unit/nibble.service' 2>&1 | tee '$tmp/verify'; ! grep -i 'gpu.conf' '$tmp/verify'"
else
    skip "systemd-analyze is not here"
fi
echo "1..$number"
