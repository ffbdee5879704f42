#!/usr/bin/env python3
"""Writes tests/golden/arch-tiny-*: a checkpoint of every architecture, expert layout and way of
quantizing that nibble reads, with golden logits.

    python3 tools/golden/architectures.py [folder, default tests/golden]

Needs no GPU. README.md beside this file says what the folders are; requirements.txt has the versions
that wrote what is committed.
"""

import json
import os
import shutil
import sys

import bitsandbytes as bnb
import torch
from common import load, quantize, write_golden
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

LENGTHS = [1, 9, 70]
ROWS, GREEDY = 4, 8

SHAPE = dict(
    vocab_size=128,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=80,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    rope_theta=1e4,
    bos_token_id=1,
    eos_token_id=2,
)
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)
QWEN3_MOE = dict(model_type="qwen3_moe", head_dim=16, num_experts=8, num_experts_per_tok=4,
                 moe_intermediate_size=24, decoder_sparse_step=1, mlp_only_layers=[])
MIXTRAL = dict(model_type="mixtral", num_local_experts=4, num_experts_per_tok=2,
               intermediate_size=48, sliding_window=None)

# Before quantization. The head of mistral is its own; that of llama is the embedding.
MODELS = {
    "mistral": dict(model_type="mistral", head_dim=8, sliding_window=16, tie_word_embeddings=False),
    "llama": dict(model_type="llama", rope_scaling=LLAMA3, tie_word_embeddings=True),
    "qwen3": dict(model_type="qwen3", head_dim=16, tie_word_embeddings=True),
    "qwen3_moe": QWEN3_MOE | dict(norm_topk_prob=True, tie_word_embeddings=False),
    "qwen3_moe-one": QWEN3_MOE | dict(norm_topk_prob=True, num_hidden_layers=1,
                                      tie_word_embeddings=False),
    "qwen3_moe-unnormalized": QWEN3_MOE | dict(norm_topk_prob=False, num_hidden_layers=1,
                                               tie_word_embeddings=False),
    "mixtral": MIXTRAL | dict(tie_word_embeddings=False),
    "small": dict(model_type="mistral", sliding_window=None, num_hidden_layers=1,
                  tie_word_embeddings=False),
}


def random_model(seed, model_type, **shape):
    """A model whose routers and logits spread over several units, in fp32."""
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **(SHAPE | shape))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(1 + 0.2 * torch.randn_like(p))
            elif "embed_tokens" in name or "lm_head" in name:
                p.copy_(0.6 * torch.randn_like(p))
            elif ".gate." in name:
                p.copy_(0.35 * torch.randn_like(p))
            else:
                p.copy_(1.5 * p.shape[1] ** -0.5 * torch.randn_like(p))
    return model


def quantize_in_blocks(source, target, blocksize):
    """As quantize() does, but in blocks that transformers offers no option for: each weight is
    quantized anew by bitsandbytes."""
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                bnb_4bit_use_double_quant=True,
                                bnb_4bit_compute_dtype=torch.bfloat16)
    plain, model = load(source), load(source, quantization_config=config)
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            weight = plain.get_submodule(name).weight.data
            module.weight = bnb.nn.Params4bit(weight.clone(), requires_grad=False, module=module,
                                              blocksize=blocksize, quant_type="nf4",
                                              compress_statistics=True).to("cpu")
            assert module.weight.quant_state.blocksize == blocksize
    model.save_pretrained(target)


def to_transformers_5(source, target):
    """A Mixtral as transformers 5 lays it out: experts fused, config fields renamed."""
    os.makedirs(target)
    tensors = load_file(f"{source}/model.safetensors")
    with open(f"{source}/config.json") as f:
        config = json.load(f)
    for layer in range(config["num_hidden_layers"]):
        old, new = f"model.layers.{layer}.block_sparse_moe", f"model.layers.{layer}.mlp"
        w1, w2, w3 = ([tensors.pop(f"{old}.experts.{e}.{w}.weight")
                       for e in range(config["num_local_experts"])] for w in ("w1", "w2", "w3"))
        tensors[f"{new}.gate.weight"] = tensors.pop(f"{old}.gate.weight")
        tensors[f"{new}.experts.gate_up_proj"] = torch.stack(
            [torch.cat(pair) for pair in zip(w1, w3)])
        tensors[f"{new}.experts.down_proj"] = torch.stack(w2)
    save_file(tensors, f"{target}/model.safetensors", {"format": "pt"})
    config["rope_parameters"] = {"rope_theta": config.pop("rope_theta"), "rope_type": "default"}
    config["transformers_version"] = "5.0.0"
    config.pop("torch_dtype", None)
    config["dtype"] = "bfloat16"
    with open(f"{target}/config.json", "w") as f:
        json.dump(config, f, indent=2, sort_keys=True)
        f.write("\n")


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else "tests/golden"
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    written = []

    def fresh(name, dtype=torch.bfloat16, golden=True):
        folder = f"{root}/arch-tiny-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        if golden:
            written.append((folder, dtype))
        return folder

    def source(model, dtype=torch.bfloat16, name=None, golden=False):
        """A checkpoint before quantization, kept only where its golden logits are written."""
        folder = fresh(name or model, dtype, golden)
        random_model(len(model), **MODELS[model]).to(dtype).save_pretrained(folder)
        return folder

    scratch = []
    for model in ("mistral", "llama", "qwen3"):
        quantize(source(model, golden=True), fresh(f"{model}-nf4"))
    source("qwen3_moe", golden=True)
    for model in ("qwen3_moe-one", "qwen3_moe-unnormalized"):
        scratch.append(source(model))
        quantize(scratch[-1], fresh(f"{model}-nf4"))
    mixtral = source("mixtral")
    scratch.append(mixtral)
    to_transformers_5(mixtral, fresh("mixtral-fused"))

    # Codes stored as 16-bit or 32-bit floats survive transformers in a model of that type only.
    small = source("small")
    scratch.append(small)
    quantize(small, fresh("small-nf4-in-bf16"), bnb_4bit_quant_storage=torch.bfloat16)
    for dtype, name in ((torch.float16, "fp16"), (torch.float32, "fp32")):
        quantize(source("small", dtype, f"small-{name}", True), fresh(f"small-nf4-in-{name}", dtype),
                 dtype=dtype, bnb_4bit_quant_storage=dtype)
    quantize(small, fresh("small-fp4"), type="fp4")
    quantize(small, fresh("small-nf4-plain-absmax"), double=False)
    for blocksize in (128, 4096):
        quantize_in_blocks(small, fresh(f"small-nf4-blocks-{blocksize}"), blocksize)

    # transformers 4 cannot load the fused layout: its golden logits are those of its source.
    for seed, (folder, dtype) in enumerate(written):
        of = mixtral if folder.endswith("mixtral-fused") else folder
        write_golden(of, seed, "architectures.py", LENGTHS, ROWS, GREEDY, dtype=dtype)
        if of != folder:
            shutil.move(f"{of}/golden.safetensors", folder)
    for folder in scratch:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
