"""What the scripts that write checkpoints and their golden logits share.

README.md beside this file says what the tensors of golden.safetensors are.
"""

import glob
import json
import os
import sys

import torch
from safetensors.torch import load_file, save_file

os.environ["TRANSFORMERS_VERBOSITY"] = "error"
import bitsandbytes as bnb
import transformers
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

# Least distances in the fp32 reference, so that rounding decides neither an expert nor a token:
# between the last router logit of a token that was taken and the first that was not, and between
# the two best logits of a greedy step.
ROUTER_MARGIN = 0.05
GREEDY_MARGIN = 0.1


def load(folder, dtype=torch.bfloat16, device="cpu", **more):
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, device_map=device, attn_implementation="eager", **more).eval()


def quantize(source, target, double=True, max_shard_size="10MB", dtype=torch.bfloat16, type="nf4",
             device="cpu", **more):
    """Loads checkpoint `source` in 4 bits, as transformers and bitsandbytes do, and saves it."""
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=type,
                                bnb_4bit_use_double_quant=double,
                                bnb_4bit_compute_dtype=torch.bfloat16, **more)
    model = load(source, dtype, device, quantization_config=config)
    model.save_pretrained(target, max_shard_size=max_shard_size)


def dequantize(p, dtype):
    """code * absmax, the product in fp32 and then rounded to dtype. bitsandbytes 0.50's own CPU code
    takes the wrong absmax where a row is no multiple of the block and the processor has AVX-512."""
    state = p.quant_state
    absmax = state.absmax
    if state.nested:
        absmax = bnb.functional.dequantize_blockwise(absmax, state.state2) + state.offset
    packed = p.data.view(torch.uint8).flatten().int()  # whatever bnb_4bit_quant_storage is
    codes = torch.stack((packed >> 4, packed & 15), dim=1).flatten()[:state.shape.numel()]
    scales = absmax.float().repeat_interleave(state.blocksize)[:codes.numel()]
    return (state.code[codes] * scales).reshape(state.shape).to(dtype)


def dequantized(model, dtype):
    """The same model with every weight in `dtype`, its 4-bit weights dequantized.

    In fp32 this is the reference. In bf16 it is what transformers and bitsandbytes compute on CUDA
    for more than a few tokens; on a CPU with AVX-512 BF16, bitsandbytes 0.50 repacks weights for a
    kernel of its own, which refuses a router of fewer than 32 rows.
    """
    state = {name: dequantize(p, dtype) if isinstance(p, bnb.nn.Params4bit) else p.data.to(dtype)
             for name, p in model.named_parameters()}
    config = type(model.config)(**{k: v for k, v in model.config.to_dict().items()
                                   if k not in ("quantization_config", "dtype")})
    config._attn_implementation = "eager"
    plain = type(model)(config).to(dtype).eval()
    missing, unexpected = plain.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    plain.tie_weights()
    return plain


@torch.no_grad()
def run(model, ids, **more):
    return model(torch.tensor([ids]), use_cache=False, **more)


def router_margin(reference, ids, first=0):
    """The least gap between the experts taken and the best one not taken, from row `first` on."""
    k = getattr(reference.config, "num_experts_per_tok", None)
    if k is None:
        return float("inf"), run(reference, ids).logits[0]
    out = run(reference, ids, output_router_logits=True)
    tops = [layer[first:].topk(k + 1).values for layer in out.router_logits]
    return min((top[:, k - 1] - top[:, k]).min().item() for top in tops), out.logits[0]


def random_prompt(reference, n, generator):
    """n random ids, none of which brings any token's router near a tie."""
    ids = []
    while len(ids) < n:
        token = torch.randint(3, reference.config.vocab_size, (), generator=generator).item()
        if router_margin(reference, ids + [token], len(ids))[0] >= ROUTER_MARGIN:
            ids.append(token)
    return ids


def continue_greedily(reference, prompt, n):
    """The n next ids and the least margins; None where a margin is too small."""
    ids, least_router, least_greedy = list(prompt), 1e9, 1e9
    for _ in range(n):
        margin, logits = router_margin(reference, ids, 0 if len(ids) == len(prompt) else len(ids) - 1)
        top = logits[-1].topk(2)
        least_router = min(least_router, margin)
        least_greedy = min(least_greedy, (top.values[0] - top.values[1]).item())
        if least_router < ROUTER_MARGIN or least_greedy < GREEDY_MARGIN:
            return None
        ids.append(top.indices[0].item())
    return ids[len(prompt):], least_router, least_greedy


def check_codes(model, folder):
    """That from_pretrained left the stored codes alone, whatever type they are stored in."""
    for file in sorted(glob.glob(f"{folder}/model*.safetensors")):
        stored = load_file(file)
        for name, p in model.named_parameters():
            if isinstance(p, bnb.nn.Params4bit) and name in stored:
                assert p.data.view(torch.uint8).flatten().equal(
                    stored[name].view(torch.uint8).flatten()), name


def kl_divergence(p_logits, q_logits):
    """KL(p || q) a row, in nats, mean over rows."""
    p, q = p_logits.double().log_softmax(-1), q_logits.double().log_softmax(-1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


def versions():
    return {name: sys.modules[name].__version__
            for name in ("torch", "transformers", "bitsandbytes", "safetensors", "accelerate")}


def write_golden(folder, seed, script, lengths, most_rows, n_greedy, hidden_of=None,
                 dtype=torch.bfloat16):
    """golden.safetensors of a checkpoint: prompts of those lengths, most_rows rows of logits of
    each, evenly spaced with the last one among them, and n_greedy ids that follow."""
    model = load(folder, dtype)
    check_codes(model, folder)
    reference, half = dequantized(model, torch.float32), dequantized(model, torch.bfloat16)
    generator = torch.Generator().manual_seed(seed)
    tensors, notes = {}, {}
    for i, n in enumerate(lengths):
        found = None
        while not found:
            prompt = random_prompt(reference, n, generator)
            found = continue_greedily(reference, prompt, n_greedy)
        greedy, router, step = found
        rows = torch.arange(n - 1, -1, -max(1, n // most_rows))[:most_rows].flip(0)
        out = run(reference, prompt, output_hidden_states=True)
        logits, logits_bf16 = out.logits[0, rows], run(half, prompt).logits[0, rows].float()
        tensors |= {
            f"prompt.{i}.ids": torch.tensor(prompt, dtype=torch.int32),
            f"prompt.{i}.rows": rows.to(torch.int32),
            f"prompt.{i}.logits": logits,
            f"prompt.{i}.logits_bf16": logits_bf16,
            f"prompt.{i}.greedy": torch.tensor(greedy, dtype=torch.int32),
        }
        if n == hidden_of:
            for layer, hidden in enumerate(out.hidden_states):
                tensors[f"prompt.{i}.hidden.{layer}"] = hidden[0].clone()
        notes[f"prompt.{i}"] = json.dumps({
            "router_margin": round(router, 4) if router < 1e9 else None,
            "greedy_margin": round(step, 4),
            "logits_std": round(logits.std().item(), 3),
            "kl_bf16": float(f"{kl_divergence(logits, logits_bf16):.3g}"),
        })
        print(os.path.basename(folder), n, notes[f"prompt.{i}"], flush=True)
    save_file(tensors, f"{folder}/golden.safetensors",
              {"script": f"tools/golden/{script}", "versions": json.dumps(versions())} | notes)
