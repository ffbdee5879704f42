# What the scripts of this folder share that speak TAP: they source it. Needs jq.
root=${NB_TEST_ROOT:-$(cd "$(dirname "$0")/.." && pwd)}
nibble=${NB_TEST_NIBBLE:-$root/build/nibble}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
unset NIBBLE_MODEL NIBBLE_LOG HF_HOME HF_HUB_CACHE XDG_CACHE_HOME
: >"$tmp/in"
: >"$tmp/out"
: >"$tmp/err"

number=0 code=0
# Runs a command line over $tmp/in; its output is in $tmp/out and $tmp/err, its exit code in $code.
run() {
    "$nibble" "$@" <"$tmp/in" >"$tmp/out" 2>"$tmp/err"
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
        { echo "exit code $code; standard output:"; head -c 2000 "$tmp/out"; echo "standard error:"
          head -20 "$tmp/err"; tail -30 "$tmp/why"; } | sed 's/^/# /'
    fi
}
# chat_model FOLDER: makes one that holds the embedded model behind the chat template of this folder.
chat_model() {
    mkdir "$1"
    for file in "$root"/models/demo/*; do
        case $file in */tokenizer_config.json) ;; *) ln -s "$file" "$1/" ;; esac
    done
    cp "$root/tests/chat_template.jinja" "$1/"
}
# until_ SECONDS COMMAND…: runs it every tenth of a second until it comes true; whether it did within about SECONDS, or
# more where the command takes its time.
until_() {
    rounds=$(($1 * 10))
    shift
    while [ $rounds -gt 0 ]; do
        "$@" >/dev/null 2>&1 && return 0
        rounds=$((rounds - 1))
        sleep 0.1
    done
    return 1
}
# listens NAME: whether what writes to $tmp/NAME.out has said where it listens: in $url.
listens() {
    url=$(sed -n 's/.*listens on //p' "$tmp/$1.out")
    [ -n "$url" ]
}
bail() {
    echo "Bail out! $1"
    exit 1
}
exits() { [ "$code" = "$1" ]; }
says() { grep -qE -- "$1" "$tmp/out"; }
prints() { [ "$(cat "$tmp/out")" = "$1" ]; }
complains() { grep -qE -- "$1" "$tmp/err"; }
both() { exits "$1" && complains "$2"; }
# jq_holds FILTER FILE: whether jq says so of JSON in a file. Of an empty one jq 1.6 says so, too, whatever it is asked.
jq_holds() { grep -q '[^[:space:]]' "$2" && jq -e "$1" "$2"; }
json() { jq_holds "$1" "$tmp/out"; }
