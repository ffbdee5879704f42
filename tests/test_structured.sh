#!/bin/sh
# nibble schema, and nibble generate with a schema, a pattern or a choice. TAP. Needs jq.
set -u
. "$(dirname "$0")/program.sh"
model=$root/models/demo

cat >"$tmp/invoice.json" <<'EOF'
{"type": "object", "additionalProperties": false, "required": ["vendor", "date", "total", "currency"],
 "properties": {"vendor": {"type": "string", "maxLength": 20}, "date": {"type": "string", "format": "date"},
  "total": {"type": "number", "minimum": 0}, "currency": {"enum": ["EUR", "USD"]},
  "lines": {"type": "array", "maxItems": 2, "items": {"type": "integer", "minimum": -5, "maximum": 40}}}}
EOF
cat >"$tmp/branches.json" <<'EOF'
{"oneOf": [{"type": "object", "properties": {"kind": {"const": "a"}, "n": {"type": "integer"}},
            "required": ["kind", "n"], "additionalProperties": false},
           {"type": "object", "properties": {"kind": {"const": "b"}, "s": {"type": "string", "maxLength": 5}},
            "required": ["kind", "s"], "additionalProperties": false}]}
EOF
echo '{"properties": {"a": {"minimum": "1"}}}' >"$tmp/bad.json"
echo '{"allOf": [{"type": "string"}, {"type": "integer"}]}' >"$tmp/none.json"

run schema check "$tmp/invoice.json" "$tmp/branches.json"
expect "schemas that are good" [ "$code" = 0 ]
run schema check "$tmp/bad.json"
expect "keyword and path" both 1 '#/properties/a: minimum is a string'
run schema check "$tmp/none.json"
expect "what nothing fulfils" both 1 'contradicts itself'
echo '{"properties": {"a": {"minlength": 1}}}' >"$tmp/slip.json"
run schema check "$tmp/slip.json"
expect "a slip is named" both 0 '#/properties/a: "minlength" is no keyword, and is ignored; is "minLength" meant'
printf '{\n  "vendor": "Müller", "date": 3}' >"$tmp/answer.json"
run schema validate "$tmp/invoice.json" "$tmp/answer.json"
expect "where a document is not valid" says 'not valid at byte 33: line 2, column 31$'
run schema validate
expect "validate without files" both 2 'expected a schema'

for seed in 1 2 3 4 5 6; do
    run generate --model "$model" -p "Invoice" --schema "$tmp/invoice.json" -n 120 --close --temperature 1 --seed $seed
    expect "an invoice, seed $seed" [ "$code" = 0 ]
    cp "$tmp/out" "$tmp/answer.json"
    run schema validate "$tmp/invoice.json" "$tmp/answer.json"
    expect "it validates" exits 0
    run generate --model "$model" -p "x" --schema "$tmp/branches.json" -n 40 --close --temperature 1.5 --seed $seed
    cp "$tmp/out" "$tmp/answer.json"
    run schema validate "$tmp/branches.json" "$tmp/answer.json"
    expect "one of two branches validates" exits 0
done
run generate --model "$model" -p "Invoice" --schema "$tmp/invoice.json" -n 6 --temperature 1 --seed 2 --json
expect "without --close it says length" json '.finish_reason == "length" and .tokens == 6'
run generate --model "$model" -p "Invoice" --schema "$tmp/invoice.json" -n 6 --close --temperature 1 --seed 2 --json
expect "with --close it is closed" json '.finish_reason == "closed" and (.text | fromjson | .vendor | type) == "string"'
run generate --model "$model" -p "Invoice" --schema "$tmp/invoice.json" -n 120 --json
jq -r .text "$tmp/out" >"$tmp/text"
jq -c .token_ids "$tmp/out" >"$tmp/ids"
expect "ends by itself" json '.finish_reason == "stop"'
cp "$tmp/out" "$tmp/in"
run tokenize --model "$model" --decode "$tmp/ids"
expect "the tokens are the text" [ "$(cat "$tmp/out")" = "$(cat "$tmp/text")" ]
run generate --model "$model" -p "Date" --regex '[12][0-9]{3}-[0-9]{2}' -n 30
expect "a pattern" says '^[12][0-9]{3}-[0-9]{2}$'
run generate --model "$model" -p "Date" --regex '(' -n 3
expect "no pattern" [ "$code" = 1 ]
run generate --model "$model" -p "Invoice" --choice invoice,receipt,letter --json
expect "a choice" json '([.choices[].probability] | add - 1 | fabs) < 1e-6 and (.text as $t | [.choices[] | .label] | index($t) != null)'
expect "the most probable one" json '.text == (.choices | max_by(.probability) | .label)'
run generate --model "$model" -p "x" --schema "$tmp/bad.json"
expect "a bad schema" both 1 'minimum is a string'
run generate --model "$model" -p "x" --schema "$tmp/none.json"
expect "a schema that nothing fulfils" both 1 'contradicts itself'
run generate --model "$model" -p "x" --regex a --choice b
expect "one of them" both 2 'at most one of'
run generate --model "$model" -p "x" --close
expect "nothing to close by" both 2 'goes with'
echo "1..$number"
