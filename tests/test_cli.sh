#!/bin/sh
# The program as users call it: output, exit codes, bad input. TAP. Needs jq.
set -u
. "$(dirname "$0")/program.sh"
tiny=$root/tests/golden/mixtral-tiny-nf4

# Version and help.
run --version
expect "--version" says '^nibble [0-9]+\.[0-9]+\.[0-9]+$'
expect "--version names the backends" says '^backends: .*cpu \(plain'
expect "--version names the libraries" says '^libraries: jansson [0-9.]+, PCRE2 [0-9.]+, utf8proc [0-9.]+'
NIBBLE_LOG=loud run --version
expect "a level of the log that there is not" complains 'NIBBLE_LOG is "loud", expected error'
run --help
expect "--help" says 'usage: nibble COMMAND'
for c in classify generate inspect quantize; do
    run help $c
    expect "help $c" says "usage: nibble $c"
    run $c --help
    expect "$c --help" says "usage: nibble $c"
done
run
expect "no command" both 2 'usage: nibble'
run paint
expect "unknown command" both 2 'no command "paint"'
run help paint
expect "help of an unknown command" exits 2

# inspect
run inspect "$tiny"
expect "inspect" says '2 layers, width 64'
run inspect "$tiny" --json
expect "inspect --json" json '.model_type == "mixtral" and .experts == 4 and .matrices.nf4 == 34 and .tokenizer_tokens == 0 and .runs and .reasons == []'
run inspect "$tmp/nowhere"
expect "inspect a folder that is not there" both 1 'no such folder'
run inspect "$tiny/config.json"
expect "inspect a file" both 1 'is a file'
mkdir "$tmp/odd"
echo '{"model_type":"qwen2_moe","hidden_act":"gelu","attention_bias":true,"mlp_bias":true,"use_sliding_window":true,"decoder_sparse_step":2,"rope_scaling":{"rope_type":"yarn","factor":4},"partial_rotary_factor":0.5,"quantization_config":{"quant_method":"gptq"}}' >"$tmp/odd/config.json"
run inspect "$tmp/odd"
expect "inspect says why not" both 1 'model_type is "qwen2_moe"'
expect "inspect gives every reason" [ "$(grep -c '^nibble: .*/odd/config.json: ' "$tmp/err")" = 9 ]
run inspect "$tmp/odd" --json
expect "inspect --json says why not" json '.runs == false and (.reasons | length) == 9'
run inspect
expect "inspect nothing" exits 2
run inspect --paint "$tiny"
expect "inspect with an unknown option" both 2 'paint'

# generate
run generate --model "$tiny" --prompt-ids 1,2,3 -n 5 --json
expect "generate --json" json '(.token_ids | length) == 5 and .text == null and .finish_reason == "length" and .prompt_tokens == 3 and .tokens == 5 and .milliseconds >= 0'
expect "generate --json has these keys" json 'keys == ["finish_reason","milliseconds","prompt_tokens","text","token_ids","tokens"]'
cp "$tmp/out" "$tmp/first"
run generate --model "$tiny" --prompt-ids 1,2,3 -n 5
expect "generate gives the same ids as text" [ "$(cat "$tmp/out")" = "$(jq -r '.token_ids | join(",")' "$tmp/first")" ]
run generate --model "$tiny" --prompt-ids 1,2,3 -n 5 --cpu plain --threads 1 --json
expect "generate --cpu plain gives the same ids" [ "$(jq -c .token_ids "$tmp/out")" = "$(jq -c .token_ids "$tmp/first")" ]
for seed in 7 7 8; do
    run generate --model "$tiny" --prompt-ids 9 -n 40 --ignore-eos --temperature 1 --top-k 50 --top-p 0.95 --seed $seed --json
    jq -c .token_ids "$tmp/out" >>"$tmp/draws"
done
expect "the same seed, the same tokens; another seed, others" [ "$(sort -u "$tmp/draws" | wc -l)" = 2 ]
run generate --model "$tiny" --prompt-ids 1,2,999 -n 2
expect "a token id beyond the vocabulary" both 1 '999'
run generate --model "$tiny" --prompt-ids 1,x
expect "a token id that is none" both 2 'no token id'
run generate --model "$tiny" -p hello
expect "text without a tokenizer" both 1 'tokenizer.json'
run generate --model "$tiny" -p hello --prompt-ids 1
expect "text and ids" exits 2
run generate --model "$tiny" --prompt-ids 1 --temperature warm
expect "a temperature that is no number" both 2 'temperature'
NIBBLE_MODEL=$tiny run generate --prompt-ids 1,2,3 -n 5 --json
expect "generate without --model" [ "$(jq -c .token_ids "$tmp/out")" = "$(jq -c .token_ids "$tmp/first")" ]
run generate --model "$tiny" --prompt-ids 1 -n 1 --logprobs 2
expect "--logprobs without --json" both 2 'goes with --json'
for option in '--kv-type int4' '--weights fast' '--quantize gptq'; do
    run generate --model "$tiny" --prompt-ids 1 $option
    expect "$option" both 2 "${option% *} is \"${option#* }\", expected one of"
done
run generate --model "$tiny" --prompt-ids 1 --context 100000000
expect "a context that the model has not" both 1 'context'
run generate --model "$tiny" --prompt-ids 1,2,3,4,5 --context 4 -n 1
expect "a prompt longer than the context" both 1 'prompt: 5 tokens, but the context holds 4'
run generate --model "$tiny" --prompt-ids 1,2,3 --context 16 -n 50 --ignore-eos --json
expect "a context that fills up ends the answer" json '.finish_reason == "length" and .prompt_tokens == 3 and .tokens == 14'
run generate --model "$tiny" --prompt-ids 1 --cpu mmx
expect "a CPU version that there is not" both 1 'mmx'

# A checkpoint that is broken in one place each: an error that says where, and exit code 1.
broken() { # NAME PATTERN, after a change in $tmp/model
    run inspect "$tmp/model"
    expect "$1" both 1 "$2"
    rm -rf "$tmp/model"
    cp -r "$tiny" "$tmp/model"
    chmod -R u+w "$tmp/model"
}
cp -r "$tiny" "$tmp/model"
chmod -R u+w "$tmp/model"
rm "$tmp/model/config.json"
broken "no config.json" 'config.json: cannot open'
echo '{"model_type": "gpt2"}' >"$tmp/model/config.json"
broken "another architecture" 'model_type is "gpt2"'
echo '{' >"$tmp/model/config.json"
broken "a config.json that is no JSON" 'config.json: not valid JSON'
jq '.hidden_size = 128' "$tiny/config.json" >"$tmp/model/config.json"
broken "a config that contradicts the tensors" 'expected \['
jq '.num_hidden_layers = 3' "$tiny/config.json" >"$tmp/model/config.json"
broken "a layer that is missing" 'model.layers.2.*is missing'
head -c 100000 "$tiny/model.safetensors" >"$tmp/model/model.safetensors"
broken "a file that is cut short" 'model.safetensors: tensor .*cut short'
head -c 5 "$tiny/model.safetensors" >"$tmp/model/model.safetensors"
broken "a file of five bytes" 'too short'
: >"$tmp/model/model.safetensors"
broken "an empty file" 'too short'
printf 'version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n' >"$tmp/model/model.safetensors"
broken "a pointer of Git LFS" "Git LFS's pointer"
echo '<html>Access denied</html>' >"$tmp/model/model.safetensors"
broken "a web page in place of weights" 'begins with "<", perhaps a web page'
rm "$tmp/model/model.safetensors"
broken "no tensors" 'neither model.safetensors nor.*hf download'
mv "$tmp/model/model.safetensors" "$tmp/model/model-q4.gguf"
broken "a GGUF alone" 'model-q4.gguf but no model.safetensors'
mv "$tmp/model/model.safetensors" "$tmp/model/pytorch_model.bin"
broken "a pickle" 'safetensors'

# Backends and what GPUs are told.
run --version
expect "--version names the backends" grep -qE '^backends: .*cpu \(plain' "$tmp/out"
run generate --model "$root/tests/golden/mixtral-tiny-nf4" --prompt-ids 1,2 -n 1 --backend vulkan
expect "no such backend" both 1 'no backend "vulkan" in this build, only .*cpu'
run generate --model "$root/tests/golden/mixtral-tiny-nf4" --prompt-ids 1,2 -n 1 --backend cpu
expect "--backend cpu" exits 0
NIBBLE_BACKEND=vulkan run generate --model "$root/tests/golden/mixtral-tiny-nf4" --prompt-ids 1,2 -n 1
expect "NIBBLE_BACKEND" both 1 'no backend "vulkan"'
NIBBLE_BACKEND=vulkan run generate --model "$root/tests/golden/mixtral-tiny-nf4" --prompt-ids 1,2 -n 1 --backend cpu
expect "and --backend before it" exits 0
for size in 12parsecs -3GB 0 ''; do
    run generate --model x --prompt-ids 1 --memory-limit "$size"
    expect "--memory-limit '$size'" both 2 'expected a size such as 23.5GiB'
done
if ! ls /dev/nvidia0 >/dev/null 2>&1; then
    run generate --model "$root/tests/golden/mixtral-tiny-nf4" --prompt-ids 1,2 -n 1 --backend cuda
    expect "no GPU" both 1 'cuda'
    expect "says what to do" grep -qE 'backend cpu|only .*cpu' "$tmp/err"
fi
echo "1..$number"
