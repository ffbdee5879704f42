#!/usr/bin/env python3
"""Holds `nibble quantize` to transformers and bitsandbytes, tensor by tensor and logit by logit.

    python3 tools/golden/quantize_compare.py build/nibble [cpu, default, or cuda]

Quantizes random models of every architecture with both, in every type, and says in how many bytes
the tensors of the two checkpoints differ. On a GPU that is none but for the mean that double
quantization takes off the absmax, which torch sums in another order; bitsandbytes' CPU code makes
somewhat other nested codes and FP4 codes (src/quant/quantize.c says why). Then transformers loads
nibble's checkpoint, and its logits must be those of the same weights dequantized in fp32.
"""

import json
import os
import subprocess
import sys
import tempfile

import torch
from architectures import MODELS, random_model, to_transformers_5
from common import dequantized, kl_divergence, load, quantize, run
from safetensors.torch import load_file

# name, options of nibble, arguments of quantize()
WAYS = [
    ("nf4", [], {}),
    ("nf4, plain absmax", ["--no-double-quant"], {"double": False}),
    ("fp4", ["--type", "fp4"], {"type": "fp4"}),
    ("fp4, plain absmax", ["--type", "fp4", "--no-double-quant"], {"type": "fp4", "double": False}),
    ("nf4, q_proj skipped", ["--skip", "q_proj"], {"llm_int8_skip_modules": ["q_proj", "lm_head"]}),
]


def state(tensor):
    return json.loads(bytes(tensor.tolist()))


def compare(ours, theirs):
    """The number of bytes in which tensors of each kind differ, and how many there are."""
    ours, theirs = load_file(f"{ours}/model.safetensors"), load_file(f"{theirs}/model.safetensors")
    assert ours.keys() == theirs.keys(), ours.keys() ^ theirs.keys()
    differ = {}
    for name, theirs_ in theirs.items():
        mine, kind = ours[name], name.split(".weight")[-1] or "weight"
        assert mine.dtype == theirs_.dtype and (mine.shape == theirs_.shape or "state" in kind), name
        if "quant_state" in kind:
            a, b = state(mine), state(theirs_)
            means = a.pop("nested_offset", 0), b.pop("nested_offset", 0)
            assert a == b, (name, a, b)
            assert abs(means[0] - means[1]) <= 1e-6 * abs(means[1]), means
            continue
        a, b = mine.view(torch.uint8).flatten(), theirs_.view(torch.uint8).flatten()
        count = differ.setdefault(kind, [0, 0])
        count[0] += (a != b).sum().item()
        count[1] += a.numel()
    return {kind: f"{a} of {b}" for kind, (a, b) in differ.items() if a}


def same_json(ours, theirs, name):
    with open(f"{ours}/{name}") as a, open(f"{theirs}/{name}") as b:
        a, b = json.load(a), json.load(b)
        if a.get("quantization_config", {}).get("llm_int8_skip_modules"):
            a["quantization_config"]["llm_int8_skip_modules"].sort()
            b["quantization_config"]["llm_int8_skip_modules"].sort()
        # transformers 5's fields stay beside those that transformers 4 reads.
        for more in ("rope_parameters", "transformers_version"):
            a.pop(more, None), b.pop(more, None)
        a["quantization_config"].pop("bnb_4bit_compute_dtype")
        b["quantization_config"].pop("bnb_4bit_compute_dtype")
        assert a == b, (a, b)


def main():
    nibble, device = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "cpu"
    torch.set_num_threads(2)
    for i, (name, shape) in enumerate(MODELS.items()):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            if dtype != torch.bfloat16 and name not in ("small", "mixtral"):
                continue
            with tempfile.TemporaryDirectory() as root:
                # Rows of whole blocks, which bitsandbytes' CPU code gets right, too.
                wide = dict(hidden_size=64, intermediate_size=128, head_dim=32)
                if "moe_intermediate_size" in shape:
                    wide["moe_intermediate_size"] = 64
                random_model(i, **(shape | wide)).to(dtype).save_pretrained(f"{root}/source")
                source = f"{root}/source"
                if name == "mixtral" and dtype == torch.bfloat16:
                    to_transformers_5(f"{root}/source", f"{root}/fused")
                    source = f"{root}/fused"
                for way, options, how in WAYS:
                    ours, theirs = f"{root}/ours {way}", f"{root}/theirs {way}"
                    subprocess.run([nibble, "quantize", source, ours, *options], check=True,
                                   stdout=subprocess.DEVNULL)
                    quantize(f"{root}/source", theirs, dtype=dtype, device=device, **how)
                    same_json(ours, theirs, "config.json")
                    differ = compare(ours, theirs)
                    ids = list(range(3, 40))
                    a = run(dequantized(load(ours, dtype), torch.float32), ids).logits[0]
                    b = run(dequantized(load(theirs, dtype), torch.float32), ids).logits[0]
                    print(f"{name}, {dtype}, {way}: differ {differ or 'nowhere'}; logits by "
                          f"{(a - b).abs().max().item():.2g}, KL {kl_divergence(a, b):.2g}", flush=True)


if __name__ == "__main__":
    main()
