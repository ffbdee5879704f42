#!/bin/sh
# nibble quantize as users call it: what it writes, what it refuses, what it leaves behind. TAP.
set -u
. "$(dirname "$0")/program.sh"
golden=$root/tests/golden
plain=$golden/mixtral-tiny-bf16
# No folder but those named, and nothing hidden, is in $tmp/to.
holds() { [ "$(ls -A "$tmp/to" | tr '\n' ' ')" = "$1" ]; }

mkdir "$tmp/to"
run quantize "$plain" "$tmp/to/nf4"
expect "quantize" exits 0
expect "one folder appears" holds "nf4 "
expect "with these files" [ "$(ls "$tmp/to/nf4" | tr '\n' ' ')" = "config.json generation_config.json model.safetensors " ]
expect "config.json is what transformers writes" cmp "$tmp/to/nf4/config.json" "$golden/mixtral-tiny-nf4/config.json"
run inspect "$tmp/to/nf4" --json
expect "the layers are NF4, embeddings and head bf16" json '.matrices == {"nf4":34,"fp4":0,"double_quantized":34,"bf16":2,"fp16":0,"fp32":0}'
run quantize "$plain" "$tmp/to/nf4"
expect "a folder that exists" both 1 'to/nf4: exists already'
: >"$tmp/to/file"
run quantize "$plain" "$tmp/to/file"
expect "a file that exists" both 1 'to/file: exists already'
rm "$tmp/to/file"
expect "nothing is added" holds "nf4 "

# Quantized on disk and while loading: the same tokens, in every way.
same() { # NAME SOURCE TYPE OPTIONS…
    name=$1 source=$2 type=$3
    shift 3
    rm -rf "$tmp/to/q"
    run quantize "$source" "$tmp/to/q" --type "$type" "$@"
    expect "$name: quantize" exits 0
    run generate --model "$tmp/to/q" --prompt-ids 5,6,7,8,9 -n 8 --ignore-eos --logprobs 2 --json
    jq -c '{token_ids, logprobs}' "$tmp/out" >"$tmp/a"
    run generate --model "$source" --quantize "$type" --prompt-ids 5,6,7,8,9 -n 8 --ignore-eos --logprobs 2 --json
    jq -c '{token_ids, logprobs}' "$tmp/out" >"$tmp/b"
    expect "$name: as when quantized while loading" cmp "$tmp/a" "$tmp/b"
}
for a in mistral llama qwen3 qwen3_moe mixtral-fused small-fp16 small-fp32; do
    same $a "$golden/arch-tiny-$a" nf4
done
same "FP4" "$golden/arch-tiny-mistral" fp4
same "one thread" "$golden/arch-tiny-mistral" nf4 --threads 1
jq -e '.rope_theta == 10000 and .rope_parameters.rope_theta == 10000' "$tmp/to/q/config.json" >/dev/null 2>&1
rm -rf "$tmp/to/q"
run quantize "$golden/arch-tiny-mixtral-fused" "$tmp/to/q"
expect "rope_parameters become rope_theta, too" jq -e '.rope_theta == 10000 and .rope_parameters.rope_theta == 10000' "$tmp/to/q/config.json"
rm -rf "$tmp/to/q"

run quantize "$plain" "$tmp/to/q" --skip gate --skip model.layers.1.self_attn --blocksize 128 --no-double-quant --type fp4
run inspect "$tmp/to/q" --json
expect "--skip, --type, --no-double-quant" json '.matrices == {"nf4":0,"fp4":28,"double_quantized":0,"bf16":8,"fp16":0,"fp32":0}'
expect "llm_int8_skip_modules names the head, too" jq -e '.quantization_config.llm_int8_skip_modules == ["gate","model.layers.1.self_attn","lm_head"] and .quantization_config.bnb_4bit_quant_type == "fp4" and .quantization_config.bnb_4bit_use_double_quant == false' "$tmp/to/q/config.json"
rm -rf "$tmp/to/q"

# Other files go along; weights in other formats, and folders, do not.
cp -r "$plain" "$tmp/source"
chmod -R u+w "$tmp/source"
for f in tokenizer.json special_tokens_map.json chat_template.jinja LICENSE; do echo '{}' >"$tmp/source/$f"; done
for f in pytorch_model.bin model.gguf .hidden; do echo x >"$tmp/source/$f"; done
mkdir "$tmp/source/original"
run quantize "$tmp/source" "$tmp/to/q/"
expect "other files are copied" [ "$(ls -A "$tmp/to/q" | tr '\n' ' ')" = "LICENSE chat_template.jinja config.json generation_config.json model.safetensors special_tokens_map.json tokenizer.json " ]
rm -rf "$tmp/to/q"

# A repository in the cache.
snapshot=$tmp/hub/models--org--tiny/snapshots/0123456789abcdef
mkdir -p "$snapshot"
for f in config.json generation_config.json model.safetensors; do ln -s "$plain/$f" "$snapshot/$f"; done
HF_HUB_CACHE=$tmp/hub run quantize org/tiny "$tmp/to/q"
expect "a repository" exits 0
expect "links are followed" [ ! -L "$tmp/to/q/generation_config.json" ]
rm -rf "$tmp/to/q"

# What cannot be done.
run quantize "$golden/mixtral-tiny-nf4" "$tmp/to/q"
expect "a quantized source" both 1 'mixtral-tiny-nf4: is quantized already'
run quantize "$tmp/nowhere" "$tmp/to/q"
expect "no source" both 1 'no such folder'
run quantize "$plain" "$tmp/nowhere/q"
expect "no folder for the target" both 1 'nowhere/q: cannot make the folder: there is no folder .*nowhere; make that first'
run quantize "$plain" "$tmp/to/q" --skip paint
expect "a module that there is not" both 1 '"paint"'
run quantize "$plain"
expect "no target" both 2 'expected SRC and DST'
run quantize "$plain" "$tmp/to/q" --blocksize 48
expect "a block that is no power of two" both 2 'power of two'
run quantize "$plain" "$tmp/to/q" --blocksize 16
expect "a block that is too small" both 2 'blocksize'
run quantize "$plain" "$tmp/to/q" --type int8
expect "a type that there is not" both 2 'int8'
echo '{"model_type": "mixtral"}' >"$tmp/source/config.json"
run quantize "$tmp/source" "$tmp/to/q"
expect "a source that is broken" both 1 'config.json'
run generate --model "$plain" --quantize int8 --prompt-ids 1 -n 1
expect "--quantize with a type that there is not" both 2 'quantize is "int8", expected one of none, nf4, fp4'
expect "nothing is left of all that" holds "nf4 "

# A file that may not grow as large as it should, as on a full disk.
for blocks in 1 8 64 256 500; do
    (ulimit -f $blocks; exec "$nibble" quantize "$plain" "$tmp/to/q") >"$tmp/out" 2>"$tmp/err" </dev/null
    code=$?
    expect "files of at most $((blocks * 512)) bytes" both 1 'cannot (write|make room for its [0-9.]+ MB: File too large)'
    expect "nothing is left" holds "nf4 "
done

# Kept while a model is opened, and found again by the next start.
ids="--prompt-ids 5,6,7,8,9 -n 8 --ignore-eos --json"
run generate --model "$plain" --save-quantized "$tmp/to/kept" $ids
expect "--save-quantized" exits 0
jq -c .token_ids "$tmp/out" >"$tmp/a"
expect "keeps a checkpoint" cmp "$tmp/to/kept/model.safetensors" "$tmp/to/nf4/model.safetensors"
touch -d '2020-01-01' "$tmp/to/kept/model.safetensors"
run generate --model "$plain" --save-quantized "$tmp/to/kept" $ids
jq -c .token_ids "$tmp/out" >"$tmp/b"
expect "and opens it the next time" [ "$(date -r "$tmp/to/kept/model.safetensors" +%Y)" = 2020 ]
expect "with the same tokens" cmp "$tmp/a" "$tmp/b"
run generate --model "$golden/arch-tiny-llama" --save-quantized "$tmp/to/kept" $ids
expect "a folder that is another model's" both 1 'is there already, and its shape'
run generate --model "$plain" --quantize none --save-quantized "$tmp/to/none" $ids
expect "nothing to keep" both 1 'quantize is none'
run generate --model "$golden/mixtral-tiny-nf4" --save-quantized "$tmp/to/none" $ids
expect "quantized already" both 1 'quantized already'
rm -rf "$tmp/to/kept"
if mkdir "$tmp/disk" && mount -t tmpfs -o size=128k none "$tmp/disk" 2>/dev/null; then
    run quantize "$plain" "$tmp/disk/q"
    expect "a full disk" both 1 'No space left'
    expect "nothing is left on it" [ -z "$(ls -A "$tmp/disk")" ]
    umount "$tmp/disk"
fi
echo "1..$number"
