#!/usr/bin/env python3
"""nibble and llama.cpp side by side, on random weights of Mixtral's shape cut to a few layers.

    bench/peer-llama.py --nibble build/nibble [--folder FOLDER] [--layers 8] [--types Q4_K,IQ4_NL]
                        [--llama-bench PROGRAM] [--rounds 3] [--json]

Gets llama-cpp-python's source package from PyPI with pip, builds the llama-bench of the llama.cpp
in it with cmake, writes GGUF files of random weights, and runs the two programs in turn, so that
both meet the same machine. All is kept in FOLDER (default: build/peer-llama) for the next run. The
GGUF files hold every matrix, embeddings and head too, in the type that is measured, so that
llama.cpp reads fewer bytes for a token than nibble, whose head is bf16.
"""

import argparse
import json
import os
import random
import struct
import subprocess
import sys
import tarfile

PACKAGE = "llama-cpp-python==0.3.36"
WIDTH, HEADS, KV_HEADS, EXPERTS, EXPERT_WIDTH, VOCABULARY = 4096, 32, 8, 8, 14336, 32000
F32, ALIGNMENT = 0, 32

# Of a block: GGUF's number of the type, weights, bytes, and where its scales in fp16 are.
TYPES = {"Q4_K": (12, 256, 144, [0, 2]), "IQ4_NL": (20, 32, 18, [0])}


def build(folder):
    """The path of llama-bench, built where it is not there yet."""
    program = os.path.join(folder, "llama-build", "bin", "llama-bench")
    if os.path.exists(program):
        return program
    subprocess.run([sys.executable, "-m", "pip", "download", PACKAGE, "--no-binary", ":all:", "--no-deps", "-d",
                    folder], check=True, stdout=sys.stderr)
    package = next(n for n in os.listdir(folder) if n.startswith("llama_cpp_python") and n.endswith(".tar.gz"))
    with tarfile.open(os.path.join(folder, package)) as tar:
        tar.extractall(folder)
    source = os.path.join(folder, package[:-len(".tar.gz")], "vendor", "llama.cpp")
    target = os.path.join(folder, "llama-build")
    subprocess.run(["cmake", "-S", source, "-B", target, "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON",
                    "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_SERVER=OFF"],
                   check=True, stdout=sys.stderr)
    subprocess.run(["cmake", "--build", target, "-j", str(os.cpu_count()), "--target", "llama-bench"],
                   check=True, stdout=sys.stderr)
    return program


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def tensors(layers, kind):
    """(name, dimensions as GGUF has them, type)"""
    kv = WIDTH // HEADS * KV_HEADS
    yield "token_embd.weight", (WIDTH, VOCABULARY), kind
    for i in range(layers):
        yield f"blk.{i}.attn_norm.weight", (WIDTH,), F32
        yield f"blk.{i}.attn_q.weight", (WIDTH, WIDTH), kind
        yield f"blk.{i}.attn_k.weight", (WIDTH, kv), kind
        yield f"blk.{i}.attn_v.weight", (WIDTH, kv), kind
        yield f"blk.{i}.attn_output.weight", (WIDTH, WIDTH), kind
        yield f"blk.{i}.ffn_norm.weight", (WIDTH,), F32
        yield f"blk.{i}.ffn_gate_inp.weight", (WIDTH, EXPERTS), F32
        yield f"blk.{i}.ffn_gate_exps.weight", (WIDTH, EXPERT_WIDTH, EXPERTS), kind
        yield f"blk.{i}.ffn_down_exps.weight", (EXPERT_WIDTH, WIDTH, EXPERTS), kind
        yield f"blk.{i}.ffn_up_exps.weight", (WIDTH, EXPERT_WIDTH, EXPERTS), kind
    yield "output_norm.weight", (WIDTH,), F32
    yield "output.weight", (WIDTH, VOCABULARY), kind


def count(dimensions):
    n = 1
    for d in dimensions:
        n *= d
    return n


def random_blocks(kind, n):
    """n blocks of random codes whose scales are small numbers: 0x1000 to 0x10FF in fp16, 5e-4."""
    _, _, size, scales = TYPES[kind]
    data = bytearray(random.Random(1).randbytes(n * size))
    for at in scales:
        data[at + 1::size] = b"\x10" * n
    return bytes(data)


def write_gguf(path, layers, kind):
    number, weights, size, _ = TYPES[kind]
    values = [("general.architecture", 8, text("llama")), ("general.alignment", 4, struct.pack("<I", ALIGNMENT)),
              ("tokenizer.ggml.model", 8, text("no_vocab"))]
    for key, n in [("vocab_size", VOCABULARY), ("context_length", 32768), ("embedding_length", WIDTH),
                   ("block_count", layers), ("feed_forward_length", EXPERT_WIDTH),
                   ("rope.dimension_count", WIDTH // HEADS), ("attention.head_count", HEADS),
                   ("attention.head_count_kv", KV_HEADS), ("expert_count", EXPERTS), ("expert_used_count", 2)]:
        values.append(("llama." + key, 4, struct.pack("<I", n)))
    for key, x in [("attention.layer_norm_rms_epsilon", 1e-5), ("rope.freq_base", 1e6)]:
        values.append(("llama." + key, 6, struct.pack("<f", x)))
    infos, lengths, offset = b"", [], 0
    for name, dimensions, what in tensors(layers, kind):
        f32 = what == F32
        n = count(dimensions) * 4 if f32 else count(dimensions) // weights * size
        infos += text(name) + struct.pack("<I", len(dimensions))
        infos += struct.pack(f"<{len(dimensions)}Q", *dimensions) + struct.pack("<IQ", F32 if f32 else number, offset)
        lengths.append((n, f32))
        offset += (n + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT
    head = b"GGUF" + struct.pack("<IQQ", 3, len(lengths), len(values))
    head += b"".join(text(k) + struct.pack("<I", t) + v for k, t, v in values) + infos
    blocks, ones = random_blocks(kind, 1 << 16), struct.pack("<f", 1) * WIDTH
    with open(path + ".part", "wb") as f:
        f.write(head + b"\0" * (-len(head) % ALIGNMENT))
        for n, f32 in lengths:
            source = ones if f32 else blocks
            for at in range(0, n, len(source)):
                f.write(source[:n - at])
            f.write(b"\0" * (-n % ALIGNMENT))
    os.rename(path + ".part", path)


def run_llama(program, path, threads):
    out = subprocess.run([program, "-m", path, "-t", str(threads), "-p", "512", "-n", "32", "-r", "1", "-o", "json"],
                         check=True, capture_output=True, text=True).stdout
    tests = json.loads(out)
    return {"prefill": next(t["avg_ts"] for t in tests if t["n_prompt"]),
            "decode": next(t["avg_ts"] for t in tests if t["n_gen"])}


def run_nibble(program, layers, threads):
    out = subprocess.run([program, "bench", "--synthetic", f"mixtral-8x7b:{layers}", "--threads", str(threads),
                          "--decode", "1", "--context", "16", "--prefill", "512", "--json"],
                         check=True, capture_output=True, text=True).stdout
    b = json.loads(out)
    return {"prefill": b["prefill"][0]["tokens_per_s"], "decode": b["decode"][0]["tokens_per_s"],
            "read_gb_per_s": b["read_gb_per_s"], "share_of_limit": b["decode"][0]["share_of_limit"]}


def middle(values):
    values = sorted(values)
    return values[len(values) // 2]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", default="build/nibble")
    parser.add_argument("--folder", default="build/peer-llama")
    parser.add_argument("--llama-bench")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--types", default="Q4_K,IQ4_NL")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    o = parser.parse_args()
    os.makedirs(o.folder, exist_ok=True)
    llama, threads = o.llama_bench or build(o.folder), len(os.sched_getaffinity(0))
    programs = {"nibble NF4": lambda: run_nibble(o.nibble, o.layers, threads)}
    for kind in o.types.split(","):
        path = os.path.join(o.folder, f"mixtral-{o.layers}-{kind}.gguf")
        if not os.path.exists(path):
            write_gguf(path, o.layers, kind)
        programs["llama.cpp " + kind] = lambda path=path: run_llama(llama, path, threads)
    runs = {name: [] for name in programs}
    for _ in range(o.rounds):
        for name, run in programs.items():
            runs[name].append(run())
    result = {name: {key: middle([r[key] for r in rs]) for key in rs[0]} for name, rs in runs.items()}
    if o.json:
        print(json.dumps(result))
        return
    print(f"{'tokens/s, medians of ' + str(o.rounds):24} {'prefill 512':>12} {'decode':>8}")
    for name, r in result.items():
        print(f"{name:24} {r['prefill']:12.1f} {r['decode']:8.1f}")
    own = result["nibble NF4"]
    print(f"memory reads {own['read_gb_per_s']:.1f} GB/s; nibble decodes at {own['share_of_limit']:.0%} of that")


if __name__ == "__main__":
    main()
