#!/bin/sh
# nibble tokenize, and generate --chat, as users call them. TAP. Needs jq.
set -u
. "$(dirname "$0")/program.sh"
llama=$root/tests/golden/chat/llama.json
bytes=$root/tests/golden/chat/bytes.json

run help tokenize
expect "help tokenize" grep -q 'usage: nibble tokenize' "$tmp/out"

# Ids. <s> is 1 and </s> 2; the post-processor of a tokenizer.json puts <s> in front.
mkdir "$tmp/model"
jq '.post_processor = {type: "TemplateProcessing",
    single: [{SpecialToken: {id: "<s>", type_id: 0}}, {Sequence: {id: "A", type_id: 0}}],
    pair: [{Sequence: {id: "A", type_id: 0}}, {Sequence: {id: "B", type_id: 1}}],
    special_tokens: {"<s>": {id: "<s>", ids: [1], tokens: ["<s>"]}}}' "$llama" >"$tmp/model/tokenizer.json"
printf 'the baker</s>' >"$tmp/in"
run tokenize --model "$tmp/model" --json
expect "ids as JSON" json '.[0] == 1 and length > 3 and (index([2]) | not) and all(type == "number")'
cp "$tmp/out" "$tmp/ids"
run tokenize --model "$tmp/model"
expect "ids with spaces" prints "$(jq -r 'join(" ")' "$tmp/ids")"
run tokenize --model "$tmp/model/tokenizer.json" -
expect "a tokenizer.json by its name" prints "$(jq -r 'join(" ")' "$tmp/ids")"
run tokenize --model "$tmp/model" "$tmp/in"
expect "a file" prints "$(jq -r 'join(" ")' "$tmp/ids")"
run tokenize --model "$tmp/model" --no-template
expect "--no-template" prints "$(jq -r '.[1:] | join(" ")' "$tmp/ids")"
run tokenize --model "$tmp/model" --special --json
expect "--special" json '.[-1] == 2 and .[0] == 1'
run tokenize --model "$tmp/model" --tokens --json
expect "--tokens --json" json '.[0] == {id: 1, token: ""} and ([.[].token] | join("")) == " the baker</s>"'
run tokenize --model "$tmp/model" --tokens
expect "--tokens" [ "$(head -1 "$tmp/out")" = "$(printf '1\t""')" ]
expect "a line for each token" [ "$(wc -l <"$tmp/out")" = "$(jq length "$tmp/ids")" ]

# A repository in the cache.
mkdir -p "$tmp/hub/models--org--name/refs" "$tmp/hub/models--org--name/snapshots/abc"
printf abc >"$tmp/hub/models--org--name/refs/main"
cp "$tmp/model/tokenizer.json" "$tmp/hub/models--org--name/snapshots/abc/"
export HF_HUB_CACHE="$tmp/hub"
run tokenize --model org/name
expect "the name of a repository" prints "$(jq -r 'join(" ")' "$tmp/ids")"
unset HF_HUB_CACHE

# And back.
cp "$tmp/ids" "$tmp/in"
run tokenize --model "$tmp/model" --decode
expect "--decode of a JSON array" prints "the baker</s>"
jq -r 'join("\n")' "$tmp/ids" >"$tmp/in"
run tokenize --model "$tmp/model" --decode --json
expect "--decode --json" json '. == "the baker</s>"'
: >"$tmp/in"
run tokenize --model "$bytes"
expect "no text, no ids" prints ""
run tokenize --model "$bytes" --json
expect "no text, an empty array" prints "[]"
run tokenize --model "$bytes" --decode
expect "no ids, no text" [ ! -s "$tmp/out" ]

# Large input: 10 MB there and back. The text has lines, spaces, and characters of all lengths.
i=0
while [ $i -lt 200 ]; do
    printf 'line %s:  what   is\tthe total, Zwölf 我能 😀?\r\n' $i
    i=$((i + 1))
done >"$tmp/in"
while [ "$(wc -c <"$tmp/in")" -lt 10000000 ]; do
    cat "$tmp/in" "$tmp/in" >"$tmp/twice"
    mv "$tmp/twice" "$tmp/in"
done
run tokenize --model "$bytes"
expect "10 MB" exits 0
mv "$tmp/in" "$tmp/text"
mv "$tmp/out" "$tmp/in"
run tokenize --model "$bytes" --decode
expect "10 MB come back" cmp "$tmp/out" "$tmp/text"

# What goes wrong.
printf 'caf\351' >"$tmp/in"
run tokenize --model "$bytes"
expect "text that is not UTF-8" both 1 'standard input: text is not UTF-8 at byte 3'
expect "nothing is printed then" [ ! -s "$tmp/out" ]
printf '1 2 x3' >"$tmp/in"
run tokenize --model "$bytes" --decode
expect "what is no id" both 1 'byte 4, 0x78, is not part of a token id'
printf '1 99999999999999999999' >"$tmp/in"
run tokenize --model "$bytes" --decode "$tmp/in"
expect "an id out of range" both 1 'in: the token id at byte 2 is not within the vocabulary'
printf '1\0002' >"$tmp/in"
run tokenize --model "$bytes" --decode
expect "a NUL among ids" both 1 'byte 1, 0x00'
printf '1-2' >"$tmp/in"
run tokenize --model "$bytes" --decode
expect "a sign among ids" both 1 'byte 1, 0x2D'
run tokenize --model "$bytes" "$tmp/missing"
expect "a file that is not there" both 1 'missing: cannot open'
run tokenize --model "$bytes" "$tmp/model"
expect "a folder for a text" both 1 'model: is a folder'
run tokenize --model "$tmp/nowhere"
expect "a model that is not there" both 1 'nowhere'
run tokenize --model "$root/tests/golden/mixtral-tiny-nf4"
expect "a checkpoint without tokenizer" both 1 'neither tokenizer.json nor tokenizer.model'
run tokenize --model "$root/tests/golden/mixtral-tiny-nf4/config.json"
expect "another file for a tokenizer" both 1 'config.json'
run tokenize --model "$bytes" a b
expect "two files" both 2 'one FILE'
run tokenize --paint
expect "an unknown option" both 2 'paint'
run tokenize --model
expect "an option without its value" both 2 'model'
run tokenize --decode --special
expect "--decode with --special" both 2 'none of --special'
if [ -w /dev/full ]; then
    "$nibble" tokenize --model "$bytes" "$tmp/text" >/dev/full 2>"$tmp/err"
    code=$?
    expect "a full disk is no success" exits 1
fi

# generate --chat, with the demo model's weights and a template of ours.
: >"$tmp/in"
demo=$root/models/demo
chat_model "$tmp/chat"
run generate --model "$tmp/chat" --chat --system 'Be brief.' -p 'TOTAL</s>' -n 4 --json
expect "generate --chat" json '.tokens <= 4 and .prompt_tokens > 10'
cp "$tmp/out" "$tmp/chat.json"
printf '<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nTOTAL</s><|im_end|>\n<|im_start|>assistant\n' >"$tmp/in"
run tokenize --model "$tmp/chat" --no-template --json
expect "the prompt is the template's" [ "$(jq length "$tmp/out")" = "$(jq .prompt_tokens "$tmp/chat.json")" ]
run generate --model "$tmp/chat" --prompt-ids "$(jq -r 'join(",")' "$tmp/out")" -n 4 --json
expect "and goes on alike" [ "$(jq -c .token_ids "$tmp/out")" = "$(jq -c .token_ids "$tmp/chat.json")" ]
echo '{{ messages }}' >"$tmp/chat/chat_template.jinja"
run generate --model "$tmp/chat" --chat -p x -n 1
expect "a template that is not known" both 1 'chat_template.jinja: chat template .* is none of those .* without a chat template'
rm "$tmp/chat/chat_template.jinja"
run generate --model "$tmp/chat" --chat -p x -n 1
expect "no template" both 1 'has no chat template'
run generate --model "$demo" --system x -p x
expect "--system without --chat" both 2 'system'
run generate --model "$demo" --chat --prompt-ids 1
expect "--chat with ids" both 2 'chat'
echo "1..$number"
