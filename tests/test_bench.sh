#!/bin/sh
# nibble bench: its output, and what it refuses. TAP. Needs jq.
set -u
. "$(dirname "$0")/program.sh"

run bench --synthetic tiny --seconds 0.01 --json
expect "exits with 0" [ "$code" = 0 ]
expect "says what was measured" json '.backend == "cpu" and (.device | test("thread")) and .model == "tiny" and .read_gb_per_s > 0 and .model_bytes > .step_bytes'
expect "decode at batch 1 and 8" json '[.decode[] | .batch] == [1, 8] and all(.decode[]; .context > 128 and .tokens_per_s > 0 and .gb_per_s > 0 and .share_of_limit > 0)'
expect "prefill of 128 and 512" json '[.prefill[] | .tokens] == [128, 512] and all(.prefill[]; .tokens_per_s > 0)'
expect "share and limit agree" json 'all(.decode[]; (.tokens_per_s / .limit_tokens_per_s / .share_of_limit - 1 | fabs) < 0.001)'
run bench --synthetic tiny:1 --decode 3 --context 40 --seconds 0.01 --cpu plain --threads 1 --json
expect "only what is asked for" json '[.decode[] | .batch] == [3] and .prefill == [] and .model == "tiny:1" and .device == "1 thread, plain"'
run bench --model "$root/tests/golden/mixtral-tiny-nf4" --decode 2 --context 16 --prefill 9 --seconds 0.01 --json
expect "a checkpoint" json '.model == "mixtral-tiny-nf4" and .prefill[0].tokens == 9'
run bench --model "$root/models/demo" --schema "$root/bench/invoice.schema.json" --seconds 0.01 --threads 1 --json
expect "a schema beside free text" json '.decode == [] and (.structured | .rounds >= 5 and .tokens > 50 and .free_ms.best > 0 and .all_drawn_ms.median >= .all_drawn_ms.best and .schema_ms.best > 0 and .loss > -1 and .speedup > 0)'
run bench --model "$root/models/demo" --schema "$tmp/none.json"
expect "a schema that is not there" both 1 'none.json'
echo '{"type": "strin"}' >"$tmp/wrong.json"
run bench --model "$root/models/demo" --schema "$tmp/wrong.json"
expect "what is no schema" both 1 'wrong.json: #: type'
run bench --synthetic tiny --schema "$root/bench/invoice.schema.json"
expect "a schema without a tokenizer" both 1 'tokenizer'
run bench --model "$root/models/demo" --tokenizer x
expect "a tokenizer besides the model's own" both 2 '--synthetic'
run bench --synthetic tiny --decode 1 --seconds 0.01
expect "a table" grep -qE '^decode 1 at [0-9]+ .*%$' "$tmp/out"
run bench --synthetic mixtral
expect "no such shape" both 1 'no synthetic model "mixtral", only .*mixtral-8x7b'
run bench --synthetic tiny:3
expect "more layers than it has" both 1 '1 to 2 layers'
run bench --synthetic tiny --decode 1,x
expect "a batch that is no number" both 2 '"x"'
run bench --synthetic tiny --decode 65
expect "too large a batch" both 2 '1 to 64'
run bench --synthetic tiny --model x
expect "two models" both 2 'one of'
run bench --synthetic tiny --context 2000 --decode 1
expect "more context than the model has" both 1 'context'
run bench --synthetic tiny --cpu mmx
expect "a CPU version that there is not" both 1 'mmx'
echo "1..$number"
