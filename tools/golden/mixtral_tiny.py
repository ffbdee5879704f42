#!/usr/bin/env python3
"""Writes tests/golden/mixtral-tiny*: small random Mixtral checkpoints and their golden logits.

    python3 tools/golden/mixtral_tiny.py [folder, default tests/golden]

Needs no GPU. README.md beside this file says what the folders and the tensors of golden.safetensors
are; requirements.txt has the versions that wrote what is committed.
"""

import shutil
import sys

import torch
from common import quantize, write_golden
from transformers import MixtralConfig, MixtralForCausalLM

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
    quantize(plain, nf4)
    # Another shape, embeddings tied, absmax not quantized, in two files.
    random_model(2, num_local_experts=8, intermediate_size=64,
                 tie_word_embeddings=True).save_pretrained(scratch)
    quantize(scratch, sharded, double=False, max_shard_size="140KB")
    shutil.rmtree(scratch)
    for seed, folder in enumerate((plain, nf4, sharded)):
        write_golden(folder, seed, "mixtral_tiny.py", [1, 7, 33, 130], 12, 24, hidden_of=7)


main()
