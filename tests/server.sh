# A server for tests, and requests to it: sourced after program.sh. Needs curl and jq.
server=
trap 'kill -9 $server 2>/dev/null; rm -rf "$tmp"' EXIT
# start OPTIONS…: a server on a free port, in $url. Where set, its log goes to $log, and it runs with the library $preload.
start() {
    : >"$tmp/server.out"
    LD_PRELOAD=${preload:-} "$nibble" serve --port 0 "$@" >"$tmp/server.out" 2>"${log:-$tmp/server.err}" &
    server=$!
    until_ 30 listens server || bail "the server does not start: $(cat "${log:-$tmp/server.err}")"
}
stop() { # its exit code in $code
    kill -TERM "$server"
    wait "$server"
    code=$?
}
# ask PATH [CURL OPTIONS…]: the answer in $tmp/out, headers in $tmp/headers, the status in $status.
ask() {
    path=$1
    shift
    status=$(curl -s -m 60 -o "$tmp/out" -D "$tmp/headers" -w '%{http_code}' "$@" "$url$path" 2>"$tmp/err")
    code=$status
}
answers() { [ "$status" = "$1" ] && json "$2"; }
# metric NAME: its value, of those without labels.
metric() { curl -s -m 60 "$url/metrics" | awk -v n="$1" '$1 == n { print $2 }'; }
# settles: waits until nothing runs or waits any more; false after a minute.
settles() { until_ 60 idles; }
idles() { [ "$(metric nibble_running)$(metric nibble_waiting)" = 00 ]; }
# What the server's memory and files are now.
resident_kb() { awk '/^VmRSS/ { print $2 }' "/proc/$server/status"; }
files_open() { ls "/proc/$server/fd" | wc -l; }
