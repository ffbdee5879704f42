#!/usr/bin/env python3
"""Writes tests/golden/mixtral-tiny*: small random Mixtral checkpoints and their golden logits.

    python3 tools/golden/mixtral_tiny.py [folder, default tests/golden]

Needs no GPU. README.md beside this file says what the folders and the tensors of golden.safetensors
are; requirements.txt has the versions that wrote what is committed.
"""

import copy
import json
import os
import shutil
import sys

import torch
from safetensors.torch import save_file

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import bitsandbytes as bnb
import transformers
from transformers import BitsAndBytesConfig, MixtralConfig, MixtralForCausalLM

LENGTHS = [1, 7, 33, 130]
GREEDY = 24
ROWS = 12  # rows of logits kept of a long prompt, evenly spaced, the last row among them
# Least distances in the fp32 reference, so that rounding decides neither an expert nor a token:
# between the second and the third best router logit of a token, and between the two best logits of
# a greedy step.
ROUTER_MARGIN = 0.05
GREEDY_MARGIN = 0.1

SHAPE = dict(
    vocab_size=320,
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    num_experts_per_tok=2,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    rope_theta=1e6,
    sliding_window=None,
    attn_implementation="eager",
    bos_token_id=1,
    eos_token_id=2,
)


def random_model(seed, **shape):
    """A Mixtral whose router and logits spread over several units, in bf16."""
    torch.manual_seed(seed)
    model = MixtralForCausalLM(MixtralConfig(**SHAPE, **shape))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(1 + 0.1 * torch.randn_like(p))
            elif "embed_tokens" in name or "lm_head" in name:
                p.copy_(0.4 * torch.randn_like(p))
            elif ".gate." in name:
                p.copy_(0.25 * torch.randn_like(p))
            else:  # [out, in]: keeps the scale of what it multiplies, and somewhat more
                p.copy_(1.5 * p.shape[1] ** -0.5 * torch.randn_like(p))
    return model.to(torch.bfloat16)


def dequantized(model, dtype):
    """The same model with every weight in `dtype`; a 4-bit weight is code * absmax, rounded to it.

    In fp32 this is the reference. In bf16 it is what transformers and bitsandbytes compute on CUDA
    for more than a few tokens; on a CPU with AVX-512 BF16, bitsandbytes 0.50 repacks weights for a
    kernel of its own, which refuses a router of fewer than 32 rows.
    """
    state = {}
    for name, p in model.named_parameters():
        if isinstance(p, bnb.nn.Params4bit):
            quant_state = copy.copy(p.quant_state)
            quant_state.dtype = dtype
            state[name] = bnb.functional.dequantize_4bit(p.data, quant_state)
        else:
            state[name] = p.data.to(dtype)
    config = MixtralConfig(**{k: v for k, v in model.config.to_dict().items()
                              if k not in ("quantization_config", "dtype")})
    config._attn_implementation = "eager"
    plain = MixtralForCausalLM(config).to(dtype).eval()
    missing, unexpected = plain.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    plain.tie_weights()
    return plain


@torch.no_grad()
def run(model, ids, **more):
    return model(torch.tensor([ids]), use_cache=False, **more)


def router_margin(reference, ids, first=0):
    """The least gap between the experts taken and the best one not taken, from row `first` on."""
    out = run(reference, ids, output_router_logits=True)
    tops = [layer[first:].topk(3).values for layer in out.router_logits]
    return min((top[:, 1] - top[:, 2]).min().item() for top in tops), out.logits[0]


def random_prompt(reference, n, generator):
    """n random ids, none of which brings any token's router near a tie."""
    ids = []
    while len(ids) < n:
        token = torch.randint(3, SHAPE["vocab_size"], (), generator=generator).item()
        if router_margin(reference, ids + [token], len(ids))[0] >= ROUTER_MARGIN:
            ids.append(token)
    return ids


def continue_greedily(reference, prompt):
    """The GREEDY next ids and the least margins; None where a margin is too small."""
    ids, least_router, least_greedy = list(prompt), 1e9, 1e9
    for _ in range(GREEDY):
        margin, logits = router_margin(reference, ids, 0 if len(ids) == len(prompt) else len(ids) - 1)
        top = logits[-1].topk(2)
        least_router = min(least_router, margin)
        least_greedy = min(least_greedy, (top.values[0] - top.values[1]).item())
        if least_router < ROUTER_MARGIN or least_greedy < GREEDY_MARGIN:
            return None
        ids.append(top.indices[0].item())
    return ids[len(prompt):], least_router, least_greedy


def kl_divergence(p_logits, q_logits):
    """KL(p || q) a row, in nats, mean over rows."""
    p, q = p_logits.double().log_softmax(-1), q_logits.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


def versions():
    return {name: sys.modules[name].__version__
            for name in ("torch", "transformers", "bitsandbytes", "safetensors", "accelerate")}


def write_golden(folder, seed):
    model = load(folder)
    reference, half = dequantized(model, torch.float32), dequantized(model, torch.bfloat16)
    generator = torch.Generator().manual_seed(seed)
    tensors, notes = {}, {}
    for i, n in enumerate(LENGTHS):
        found = None
        while not found:
            prompt = random_prompt(reference, n, generator)
            found = continue_greedily(reference, prompt)
        greedy, router, step = found
        rows = torch.arange(n - 1, -1, -max(1, n // ROWS))[:ROWS].flip(0)
        out = run(reference, prompt, output_hidden_states=True)
        logits, logits_bf16 = out.logits[0, rows], run(half, prompt).logits[0, rows].float()
        tensors |= {
            f"prompt.{i}.ids": torch.tensor(prompt, dtype=torch.int32),
            f"prompt.{i}.rows": rows.to(torch.int32),
            f"prompt.{i}.logits": logits,
            f"prompt.{i}.logits_bf16": logits_bf16,
            f"prompt.{i}.greedy": torch.tensor(greedy, dtype=torch.int32),
        }
        if n == 7:
            for layer, hidden in enumerate(out.hidden_states):
                tensors[f"prompt.{i}.hidden.{layer}"] = hidden[0].clone()
        notes[f"prompt.{i}"] = json.dumps({
            "router_margin": round(router, 4),
            "greedy_margin": round(step, 4),
            "logits_std": round(logits.std().item(), 3),
            "kl_bf16": float(f"{kl_divergence(logits, logits_bf16):.3g}"),
        })
        print(os.path.basename(folder), n, notes[f"prompt.{i}"])
    save_file(tensors, f"{folder}/golden.safetensors",
              {"script": "tools/golden/mixtral_tiny.py", "versions": json.dumps(versions())} | notes)


def quantize(source, target, double, max_shard_size):
    """Loads checkpoint `source` in NF4, as transformers and bitsandbytes do, and saves it."""
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                bnb_4bit_use_double_quant=double,
                                bnb_4bit_compute_dtype=torch.bfloat16)
    model = load(source, quantization_config=config)
    model.save_pretrained(target, max_shard_size=max_shard_size)


def load(folder, **more):
    return MixtralForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, device_map="cpu", attn_implementation="eager", **more).eval()


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else "tests/golden"
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)

    def fresh(name):
        folder = f"{root}/mixtral-tiny-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        return folder

    plain, nf4, sharded, scratch = map(fresh, ("bf16", "nf4", "nf4-sharded", "scratch"))
    random_model(1, num_local_experts=4, intermediate_size=128).save_pretrained(plain)
    quantize(plain, nf4, True, "10MB")
    # Another shape, embeddings tied, absmax not quantized, in two files.
    random_model(2, num_local_experts=8, intermediate_size=64,
                 tie_word_embeddings=True).save_pretrained(scratch)
    quantize(scratch, sharded, False, "140KB")
    shutil.rmtree(scratch)
    for seed, folder in enumerate((plain, nf4, sharded)):
        write_golden(folder, seed)


main()
