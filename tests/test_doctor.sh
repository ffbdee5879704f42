#!/bin/sh
# nibble doctor and nibble plan as users call them. TAP. Needs jq.
set -u
. "$(dirname "$0")/program.sh"
tiny=$root/tests/golden/mixtral-tiny-nf4
export HF_HOME="$tmp/none"
unset CUDA_VISIBLE_DEVICES

# This machine, whatever it is.
run doctor --json
expect "doctor --json is a report" json '(.fit | type) == "boolean" and (.findings | length) > 0 and (.findings | all(has("severity") and has("code") and has("title") and has("evidence") and has("fix")))'
expect "doctor exits with 0 only if fit" [ "$code" = "$(jq 'if .fit then 0 else 1 end' "$tmp/out")" ]
run doctor --gpu "RTX 5090"
expect "doctor --gpu" says '^(not )?fit: [0-9]+ error'
blobs=$tmp/hub/models--org--part/blobs
mkdir -p "$blobs"
echo begun >"$blobs/0a.incomplete"
HF_HUB_CACHE=$tmp/hub run doctor
expect "a download that was broken off" says '^warning: org/part: a download runs or was broken off: 1 file'
HF_HUB_CACHE=$tmp/nowhere run doctor
expect "a cache that is not there" says "^warning: HF_HUB_CACHE names $tmp/nowhere, where there is no folder"
run doctor --gpu "RTX 5091"
expect "a GPU that is not in the table" both 2 'no GPU "RTX 5091"'
run doctor --list-gpus --json
expect "--list-gpus" json 'length > 50 and all(.source | length > 3) and (map(select(.name == "A40"))[0].capability) == 86'
run doctor --driver x
expect "a driver that is no version" both 2 'expected a CUDA version'
run doctor stray
expect "a stray argument" exits 2
run doctor --library
expect "--library without a file" exits 2
run doctor --library "$tmp/none.so"
expect "a library that is not there" exits 1
expect "and its name" says 'none.so: cannot open'
run doctor --library "$nibble"
expect "a library without CUDA code, or with it" says 'fatbins: '

# The CUDA code of a real object, as nvcc 13.0 made it: sm_75, sm_90a, and PTX for compute_90a.
run doctor --library "$root/tests/corpus/fatbin/zstd" --gpu H100 --json
expect "code for an H100" json '.fit and (.findings | any(.code == "cuda-code" and (.evidence | test("sm_90a: 1 cubin")) and (.evidence | test("compute_90a: 1 PTX of version 9.0"))))'
run doctor --library "$root/tests/corpus/fatbin/zstd" --gpu "RTX 4090"
expect "none for an RTX 4090" exits 1
expect "and why" says 'nothing that RTX 4090 \(compute capability 8.9\) can run'

# A made stack, and a Dockerfile's use of the exit code.
site=$tmp/env/lib/python3.11/site-packages
mkdir -p "$site/a-1.dist-info" "$site/a"
printf 'Name: a\nVersion: 1\nRequires-Dist: b>=2\n' >"$site/a-1.dist-info/METADATA"
: >"$site/a/__init__.py"
run doctor --python "$tmp/env" --json
expect "a requirement that is missing" json '(.fit | not) and .findings[0].code == "requirement-missing" and .findings[0].severity == "error"'
expect "exit code 1" exits 1
mkdir "$site/b-2.dist-info"
printf 'Name: b\nVersion: 2.0\n' >"$site/b-2.dist-info/METADATA"
run doctor --python "$tmp/env"
expect "and then found" exits 0
run doctor --python "$tmp/nowhere"
expect "no stack" both 1 'no such folder'
cat >"$tmp/traps.json" <<'T'
{"traps": [{"id": "x", "when": {"a": "<2", "b": ""}, "title": "a made trap", "why": "w", "fix": "f", "link": "https://host"}]}
T
run doctor --python "$tmp/env" --traps "$tmp/traps.json" --json
expect "a trap of one's own" json '.fit and (.findings | any(.code == "known-trap" and (.title | test("a made trap"))))'
echo '{"traps": [{}]}' >"$tmp/traps.json"
run doctor --python "$tmp/env" --traps "$tmp/traps.json"
expect "a broken trap" both 1 'trap 1 has no "id"'

# Requirements files.
cat >"$tmp/more.txt" <<'T'
numpy==1.26.4
T
cat >"$tmp/requirements.txt" <<'T'
# a comment
--extra-index-url https://host/whl/cu121
torch==2.3.1+cu121  # another
-r more.txt
numpy>=2 \
   ,<3 ; python_version >= "3.8"
old ; python_version < "3"
T
run doctor --requirements "$tmp/requirements.txt" --gpu "RTX 5090" --json
expect "pins that exclude each other" json '(.fit | not) and (.findings | any(.code == "requirement-violated" and (.title | test("numpy"))))'
expect "a torch for too old a CUDA" json '.findings | any(.code == "gpu-without-code" and (.title | test("CUDA 12.1")) and (.fix | test("cu128")))'
expect "line numbers" json '.findings | any(.evidence | test("requirements.txt, line 5"))'
run doctor --requirements "$tmp/requirements.txt" --gpu "RTX 4090" --driver 11.8 --json
expect "a driver that is too old" json '.findings | any(.code == "driver-too-old")'
echo '-r loop.txt' >"$tmp/loop.txt"
run doctor --requirements "$tmp/loop.txt"
expect "lists that name each other" both 1 'lists that name each other'

cat >"$tmp/ranges.txt" <<'T'
a>=2
a<2
b>=2.4,!=2.4.*
b~=2.5
c==1.0.post1
c>=1,<2
d>=0.19,<0.20
d==0.20.*
e @ https://host/e-2.0%2Bcu121-py3-none-any.whl
e<2
T
run doctor --requirements "$tmp/ranges.txt" --json
expect "ranges that exclude each other, and only those" json '[.findings[] | select(.code == "requirement-violated") | .title[0:1]] == ["a", "d", "e"]'
printf 'torch @ https://host/torch-2.3.1%%2Bcu121-cp311-cp311-linux_x86_64.whl\n' >"$tmp/wheel.txt"
run doctor --requirements "$tmp/wheel.txt" --gpu "RTX 5090" --json
expect "the version of a wheel that is named" json '.findings | any(.code == "gpu-without-code" and (.title | test("CUDA 12.1")))'
printf '\357\273\277numpy==1.0\n-rrest.txt\n-climits.txt\n' >"$tmp/mark.txt"
printf 'numpy==2.0\r\nbitsandbytes==0.42.0\r\n' | iconv -f ascii -t utf-16le | sed '1s/^/\xff\xfe/' >"$tmp/rest.txt"
echo 'triton==3.3.0' >"$tmp/limits.txt"
run doctor --requirements "$tmp/mark.txt" --json
expect "byte order marks, UTF-16, and -r without a space" json '.findings | any(.code == "requirement-violated" and (.evidence | test("mark.txt, line 1") and test("rest.txt, line 1")))'
expect "a constraint alone asks for nothing" json '.findings | all(.code != "known-trap")'
echo triton >>"$tmp/limits.txt"
printf '\ntriton\n' >>"$tmp/mark.txt"
run doctor --requirements "$tmp/mark.txt" --json
expect "until something does" json '.findings | any(.code == "known-trap" and (.title | test("triton.ops")))'

# The plan.
run plan "$tiny" --json
expect "plan --json" json '.weights_known and .weights_bytes > 0 and .kv_bytes_per_token == 256 and .total_bytes == .allocated_bytes + .driver_bytes and (.gpus | length) > 50'
run plan "$tiny" --context 100 --sequences 4 --kv-type fp8 --json
cp "$tmp/out" "$tmp/sequences"
expect "context, sequences and type" json '.kv_bytes_per_token == 128 and .kv_bytes == 4 * 112 * 128'
run plan "$tiny" --context 100 --max-sequences 4 --kv-type fp8 --json
expect "sequences as serve names them" cmp -s "$tmp/out" "$tmp/sequences"
run plan "$tiny" --gpu A40
expect "a GPU on which it fits" exits 0
expect "and how much is left" says 'A40 .* yes, [0-9.]+ GiB free'
run plan "$tiny" --memory 1GiB
expect "memory that does not do" exits 1
run plan "$tiny" --memory 8.5GB
expect "memory that does" exits 0
run plan "$tiny" --memory-limit 24g
expect "memory as other commands name it" exits 0
run plan "$tiny" --memory lots
expect "a size that is none" both 2 'expected a size'
expect "and no plan before that" [ ! -s "$tmp/out" ]
run plan "$tiny" --gpu "RTX 5091"
expect "a GPU that is in no table" both 2 'no GPU "RTX 5091"'
expect "no plan before that, either" [ ! -s "$tmp/out" ]
run plan "$tiny" --none
expect "an option that there is not" both 2 '^nibble plan: --none: unknown'
run plan "$tiny" --context 99999
expect "a context above the model's" both 2 "expected 1 to the model's 512"
run plan
expect "plan nothing" exits 2
run plan "$tmp/nowhere"
expect "plan what is not there" exits 1
echo "1..$number"
