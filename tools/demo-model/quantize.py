#!/usr/bin/env python3
"""Writes the trained weights as a 4-bit checkpoint: NF4 with double quantization, by bitsandbytes on the CPU.

    quantize.py --weights runs/final --out models/demo

`--weights` holds what train.py wrote (part-*.safetensors, by transformers' names); `--out` already holds the
tokenizer. Needs transformers 4.57 (transformers 5 does not quantize Mixtral's experts) and bitsandbytes 0.50.
"""
import argparse
import glob
import os
import tempfile

import torch
from safetensors.torch import load_file
from transformers import BitsAndBytesConfig, GenerationConfig, MixtralConfig, MixtralForCausalLM

import model as demo
import tokenizer


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--weights", help="folder of part-*.safetensors; without it the weights are random")
    p.add_argument("--out", required=True)
    a = p.parse_args()
    vocab = tokenizer.Encoder(os.path.join(a.out, "tokenizer.json")).size
    config = MixtralConfig(**demo.hf_config(vocab), dtype="bfloat16")
    if a.weights:
        state = {}
        for part in sorted(glob.glob(os.path.join(a.weights, "part-*.safetensors"))):
            state.update(load_file(part))
    else:
        torch.manual_seed(1)
        state = demo.Model(vocab).hf_state()
    whole = MixtralForCausalLM(config).to(torch.bfloat16)
    missing, unexpected = whole.load_state_dict(state, strict=False)
    assert missing in ([], ["lm_head.weight"]) and not unexpected, (missing, unexpected)
    whole.tie_weights()
    whole.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, do_sample=False, max_new_tokens=160)
    with tempfile.TemporaryDirectory() as d:
        whole.save_pretrained(d)
        small = MixtralForCausalLM.from_pretrained(d, dtype=torch.bfloat16, device_map="cpu",
                                                   quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16))
    small.save_pretrained(a.out, max_shard_size="1GB")
    for f in os.listdir(a.out):
        os.chmod(os.path.join(a.out, f), 0o644)
    size = sum(os.path.getsize(os.path.join(a.out, f)) for f in os.listdir(a.out))
    print(f"{a.out}: {sum(x.numel() for x in state.values()):,} parameters, {size:,} bytes in all")


if __name__ == "__main__":
    main()
