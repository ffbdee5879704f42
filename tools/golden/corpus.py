#!/usr/bin/env python3
"""Writes tests/corpus/{safetensors,config,document,tokenizer,regex,schema}/: what the fuzz targets begin with, and tests run over.

    python3 tools/golden/corpus.py     # needs nothing but Python
"""

import json
import os
import random
import struct

ROOT = "tests/corpus"


def write(target, name, data):
    os.makedirs(f"{ROOT}/{target}", exist_ok=True)
    with open(f"{ROOT}/{target}/{name}", "wb") as f:
        f.write(data)


# ---- safetensors: the model that tests/fuzz_safetensors.c describes

SHAPES = {
    "self_attn.q_proj": (2, 8), "self_attn.k_proj": (2, 8), "self_attn.v_proj": (2, 8), "self_attn.o_proj": (8, 2),
    "block_sparse_moe.gate": (1, 8), "block_sparse_moe.experts.0.w1": (8, 8), "block_sparse_moe.experts.0.w2": (8, 8),
    "block_sparse_moe.experts.0.w3": (8, 8),
}
SIZES = {"BF16": 2, "F16": 2, "F32": 4, "U8": 1}


def noise(n):
    """Bytes that are small numbers in every float type."""
    return bytes(r.choice((0, 1, 0x3C, 0x3D, 0xBC)) for _ in range(n))


def floats(name, dtype, *shape):
    n = SIZES[dtype]
    for size in shape:
        n *= size
    return {name: (dtype, shape, noise(n))}


def quantized(name, kind, nested, rows, columns):
    n = rows * columns
    blocks = -(-n // 64)
    state = {"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": [rows, columns]}
    parts = {name: ("U8", (n // 2, 1), noise(n // 2)), **floats(name + ".quant_map", "F32", 16)}
    if nested:
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.5}
        parts |= floats(name + ".absmax", "U8", blocks) | floats(name + ".nested_absmax", "F32", 1)
        parts |= floats(name + ".nested_quant_map", "F32", 256)
    else:
        parts |= floats(name + ".absmax", "F32", blocks)
    text = json.dumps(state).encode()
    return parts | {f"{name}.quant_state.bitsandbytes__{kind}": ("U8", (len(text),), text)}


def file(tensors):
    header, data = {}, b""
    for name, (dtype, shape, contents) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(contents)]}
        data += contents
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def model(linear):
    tensors = floats("model.embed_tokens.weight", "BF16", 2, 8) | floats("model.norm.weight", "BF16", 8)
    for norm in "input_layernorm", "post_attention_layernorm":
        tensors |= floats(f"model.layers.0.{norm}.weight", "F32", 8)
    for i, (name, (rows, columns)) in enumerate(SHAPES.items()):
        tensors |= linear(i, f"model.layers.0.{name}.weight", rows, columns)
    return file(tensors)


r = random.Random(1)
write("safetensors", "empty-file", b"")
write("safetensors", "empty", file({}))
write("safetensors", "two", file({"a": ("F32", (2, 1), noise(8)), "b": ("U8", (0, 3), b"")}))
write("safetensors", "bf16", model(lambda i, *a: floats(a[0], ("BF16", "F16", "F32")[i % 3], *a[1:])))
write("safetensors", "nf4", model(lambda i, *a: quantized(a[0], "nf4", i == 7, *a[1:])))
write("safetensors", "fp4", model(lambda i, *a: quantized(a[0], "fp4", False, *a[1:])))

# ---- config.json

BASE = {"vocab_size": 320, "num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4,
        "max_position_embeddings": 512, "eos_token_id": [1, 2], "bos_token_id": 1, "rms_norm_eps": 1e-5}
CONFIGS = {
    "mixtral": {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 128,
                "num_key_value_heads": 2, "sliding_window": None, "rope_theta": 1e6, "hidden_act": "silu"},
    "mistral": {"model_type": "mistral", "intermediate_size": 128, "sliding_window": 100, "head_dim": None},
    "llama": {"model_type": "llama", "intermediate_size": 128, "tie_word_embeddings": True, "attention_bias": False,
              "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                               "original_max_position_embeddings": 8192}},
    "qwen3": {"model_type": "qwen3", "intermediate_size": 128, "head_dim": 32,
              "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "qwen3_moe": {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
                  "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []},
}
for name, fields in CONFIGS.items():
    write("config", name, json.dumps(BASE | fields).encode())
write("config", "deep", b'{"model_type":' + b"[" * 3000)
write("config", "utf-8", '{"model_type":"é\\ud83d\\ude00\\u0000"}'.encode())

# ---- documents

write("document", "receipt", "\ufeffACME GmbH\t\tBerlin\r\nTotal\u00a0EUR   12.50\r\n\r\n\f2026-11-22\n".encode())
write("document", "spaces", " \u1680\u2009\u3000\u200b\u2028\u2029\x85\u00ad\v\x1b[0m".encode())
write("document", "characters", "aé€😀\u0301\ufffd\uffff\U0010ffff".encode())
for name, data in {"pdf": b"%PDF-1.7", "late-pdf": b" %PDF-1.7", "zip": b"PK\x03\x04", "nul": b"a\0b", "cut": b"a\xe2\x82",
                   "surrogate": b"\xed\xa0\x80", "latin-1": b"caf\xe9"}.items():
    write("document", name, data)

# ---- tokenizers: the file, 0xFF, and text to encode

PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "a", "b", "ab", "▁a", "▁ab"]
TOKENIZER = {
    "added_tokens": [{"id": i, "content": PIECES[i], "special": True, "normalized": False} for i in range(3)],
    "normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
    "pre_tokenizer": None, "post_processor": None,
    "decoder": {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
    "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
              "vocab": {piece: i for i, piece in enumerate(PIECES)}, "merges": ["a b", "▁ a", "▁ ab"]},
}
write("tokenizer", "fallback", json.dumps(TOKENIZER, ensure_ascii=False).encode() + b"\xffab a</s>b \xf0\x9f\x98\x80")

# ---- regex: a byte of flags, a pattern, NUL, a text (tests/fuzz_regex.c)

REGEX = {
    "lookahead": (0, r"^(?=.*[A-Z])(?!.*--)[A-Za-z-]{2,9}$", "Ab-c"),
    "lookbehind": (0, r"(?<!\d{2})x(?<=ax|b)\b", "1ax"),
    "unicode": (0, r"^\p{Lu}[^\u0000-\u00ff\u{1F600}-\u{1F64F}]\P{L}*$", "É漢9"),
    "whole": (1, r"(a|ab)(c|bcd)(d*)", "abcd"),
    "not": (2, r"^(?:\w+\s?){1,3}$", "a b"),
    "length": (0x4C, r"^[^a]*?b{2,}|[a-c\-]+$", "abb"),
    "odd": (0, r"\07\c1[\b\c_]{,2}]a{", "\x07"),
    "counted": (4, r"^[a-z]{1,1000}$", "abc"),
    "no-pattern": (0, r"(?<n>a)\k<n>[z-a]", "aa"),
}
for name, (flags, pattern, text) in REGEX.items():
    write("regex", name, bytes([flags]) + pattern.encode() + b"\0" + text.encode())

# ---- schema: choices that make a schema and documents (tests/fuzz_schema.c), and schemas as they are

for i in range(24):
    choices = random.Random(i)
    write("schema", f"choices-{i:02}", bytes([choices.choice((0, 2, 4, 6))] + choices.choices(range(256), k=120)))
SCHEMAS = {
    "references": {"$ref": "#/$defs/a", "$defs": {"a": {"items": {"$ref": "#/$defs/a"}, "$anchor": "x"}}},
    "loop": {"allOf": [{"$ref": "#"}]},
    "unevaluated": {"properties": {"a": True}, "anyOf": [{"properties": {"b": {}}}, {"contains": {"const": 1}}],
                    "unevaluatedProperties": False, "unevaluatedItems": {"type": "null"}},
    "draft-4": {"$schema": "http://json-schema.org/draft-04/schema#", "id": "http://x/y", "minimum": 1,
                "exclusiveMinimum": True, "dependencies": {"a": ["b"]}},
    "patterns": {"patternProperties": {"^(?!x_)\\w+$": {"format": "date-time"}}, "pattern": "(a)\\1"},
}
for name, schema in SCHEMAS.items():
    write("schema", name, b"\x01" + json.dumps(schema).encode())
