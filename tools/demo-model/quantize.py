#!/usr/bin/env python3
"""Writes the trained weights as a 4-bit checkpoint: NF4 with double quantization, by `nibble quantize`.

    quantize.py --weights runs/final --files models/demo --nibble build/nibble --out /tmp/demo [--check]

`--weights` holds what train.py wrote (part-*.safetensors, by transformers' names); `--files` the tokenizer, labels.txt and
classify.txt, which are copied; `--out` must not exist. --check also quantizes with bitsandbytes on the CPU and compares: every code
must be the same. Needs safetensors and torch; for --check transformers 4.57 (transformers 5 does not quantize
Mixtral's experts) and bitsandbytes 0.50.
"""
import argparse
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file

import model as demo
import tokenizer

FILES = ("tokenizer.json", "tokenizer_config.json", "labels.txt", "classify.txt")


def whole_checkpoint(weights, files, out):
    """The checkpoint in bf16, as transformers lays one out."""
    vocab = tokenizer.Encoder(os.path.join(files, "tokenizer.json")).size
    state = {}
    if weights:
        for part in sorted(glob.glob(os.path.join(weights, "part-*.safetensors"))):
            state.update(load_file(part))
        assert state, f"{weights}: no part-*.safetensors"
    else:
        torch.manual_seed(1)
        state = {k: v.to(torch.bfloat16) for k, v in demo.Model(vocab).hf_state().items()}
    os.makedirs(out)
    save_file(state, os.path.join(out, "model.safetensors"), metadata={"format": "pt"})
    config = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "dtype": "bfloat16", "transformers_version": "4.57.6", "initializer_range": 0.02, "use_cache": True,
              "router_jitter_noise": 0.0, **{k: v for k, v in demo.hf_config(vocab).items() if v is not None}, "sliding_window": None}
    with open(os.path.join(out, "config.json"), "w") as f:
        json.dump(config, f, indent=2, sort_keys=True)
        f.write("\n")
    with open(os.path.join(out, "generation_config.json"), "w") as f:
        json.dump({"_from_model_config": True, "bos_token_id": 1, "eos_token_id": 2, "transformers_version": "4.57.6"}, f, indent=2)
        f.write("\n")
    for name in FILES:
        shutil.copy(os.path.join(files, name), os.path.join(out, name))
    return sum(x.numel() for x in state.values())


def check(whole, ours):
    """Compares the checkpoint `ours` with what bitsandbytes makes of `whole` on the CPU. All codes, norms and tables must be the same to
    the bit. Scales may differ by one of their 255 steps, their own scale by one in its last digit: bitsandbytes' ways on a CPU and on a GPU do, too."""
    from transformers import BitsAndBytesConfig, MixtralForCausalLM
    with tempfile.TemporaryDirectory() as d:
        MixtralForCausalLM.from_pretrained(whole, dtype=torch.bfloat16, device_map="cpu", quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16)).save_pretrained(d, max_shard_size="1GB")
        want = load_file(os.path.join(d, "model.safetensors"))
    got = {}
    for part in glob.glob(os.path.join(ours, "*.safetensors")):
        got.update(load_file(part))
    bad, steps, scales, weights = sorted(set(want) ^ set(got)), 0, 0, 0
    for k in sorted(set(want) & set(got)):
        x, y = want[k], got[k]
        if x.dtype != y.dtype or (x.shape != y.shape and "quant_state" not in k):
            bad.append(k)
        elif "quant_state" in k:        # JSON: the same content, whatever its spelling
            x, y = (json.loads(bytes(t.tolist())) for t in (x, y))
            near = abs(x.pop("nested_offset") - y.pop("nested_offset")) < 1e-7
            bad += [] if x == y and near else [k]
        elif k.endswith(".nested_absmax"):
            bad += [] if torch.allclose(x, y, rtol=2.5e-7, atol=0) else [k]
        elif k.endswith(".absmax"):
            apart = (x.int() - y.int()).abs()
            steps, scales = steps + int((apart == 1).sum()), scales + apart.numel()
            bad += [k] if int(apart.max()) > 1 else []
        else:
            weights += x.numel() * 2 if x.dtype == torch.uint8 else 0
            bad += [] if torch.equal(x, y) else [k]
    print(f"bitsandbytes: {weights:,} codes the same; {steps} of {scales:,} scales one step apart; {len(bad)} tensors differ otherwise", *bad[:8])
    return not bad


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--weights", help="folder of part-*.safetensors; without it the weights are random")
    p.add_argument("--files", required=True, help="folder of " + ", ".join(FILES))
    p.add_argument("--nibble", default="build/nibble")
    p.add_argument("--out", required=True)
    p.add_argument("--check", action="store_true", help="also compares with bitsandbytes")
    a = p.parse_args()
    fine = True
    with tempfile.TemporaryDirectory() as d:
        whole = os.path.join(d, "whole")
        count = whole_checkpoint(a.weights, a.files, whole)
        subprocess.run([a.nibble, "quantize", whole, a.out], check=True)
        if a.check:
            fine = check(whole, a.out)
    size = sum(os.path.getsize(os.path.join(a.out, f)) for f in os.listdir(a.out))
    print(f"{a.out}: {count:,} parameters, {size:,} bytes in all: {', '.join(sorted(os.listdir(a.out)))}")
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
