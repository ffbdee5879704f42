#!/usr/bin/env python3
"""The table of docs/benchmarks.md from what bench/gpu.sh measured: gpu_table.py FOLDER [JSON]."""

import json
import os
import sys

# Decode (batch, context) or prefill tokens: what others reach on an H200, in their own formats (issue 5), and the floor.
PEERS = {
    ("decode", 1, False): ("13.8", "184", "181", 560),
    ("decode", 1, True): ("6.5", "", "164 at 3,800", 480),
    ("decode", 8, False): ("47", "", "", 1300),
    ("decode", 32, False): ("165", "", "", 4200),
    ("prefill", 512, False): ("167 at 32", "3,400", "", 10000),
    ("prefill", 2048, False): ("2,100", "4,100", "", 18000),
    ("prefill", 8192, False): ("13,400", "5,300", "", 21000),
}


def read(folder, name):
    try:
        with open(os.path.join(folder, name + ".json")) as f:
            return json.load(f)
    except (OSError, ValueError):
        return {}


def number(folder, name):
    try:
        with open(os.path.join(folder, name)) as f:
            return [float(x) for x in f.read().split()]
    except (OSError, ValueError):
        return []


def prefill_limit(bench, tflops, tokens):
    """Tokens/s if weights' products and attention ran at the rate that large products have."""
    shape = bench["shape"]
    flops = 2 * shape["prefill_parameters"]
    # Scores and sums of a causal prompt: 4 * heads * width of a head for each pair, half of them there.
    flops += 2 * shape["attention_width"] * shape["layers"] * tokens
    return tflops * 1e12 / flops


def rows_of(bench, tflops):
    for d in bench.get("decode", []):
        key = ("decode", d["batch"], d["context"] > 4000)
        name = "decode, batch %d, context %d" % (d["batch"], d["context"])
        yield name, d["tokens_per_s"], d["limit_tokens_per_s"], key
    for p in bench.get("prefill", []):
        limit = prefill_limit(bench, tflops, p["tokens"]) if tflops and "shape" in bench else None
        yield "prefill %d" % p["tokens"], p["tokens_per_s"], limit, ("prefill", p["tokens"], False)


def line(*cells):
    print("| " + " | ".join(cells) + " |")


def table(bench, tflops, peers):
    head = ["tokens/s", "nibble", "limit", "share"]
    if peers:
        head += ["reach at least", "transformers + bitsandbytes", "ik_llama.cpp Q4_K", "calm gf4"]
    line(*head)
    line(*["---"] * len(head))
    for name, got, limit, key in rows_of(bench, tflops):
        cells = [name, "%.0f" % got, "%.0f" % limit if limit else "", "%.0f %%" % (100 * got / limit) if limit else ""]
        if peers:
            t, i, c, floor = PEERS.get(key, ("", "", "", 0))
            cells += ["%d" % floor if floor else "", t, i, c]
        line(*cells)
    for r in bench.get("request", []):
        what = "%d in, %d out: %.2f s, of which prefill %.2f s" % (
            r["prompt_tokens"], r["generated_tokens"], r["seconds"], r["prefill_seconds"])
        print("\n" + what + (" (reach at most 1.6 s)" if peers else ""))


def main():
    folder = sys.argv[1]
    mixtral, qwen3 = read(folder, "mixtral"), read(folder, "qwen3")
    limited, quantize = read(folder, "limited"), read(folder, "quantize")
    start, matrix = number(folder, "start"), number(folder, "matrix")
    tflops = matrix[0] if matrix else None
    if not mixtral.get("decode"):
        print("no benchmark to show")
        return 1
    print("\n%s: reads %.0f GB/s%s" % (mixtral["device"], mixtral["read_gb_per_s"],
                                       "; bf16 products of 8192 run at %.0f TFLOP/s" % tflops if tflops else ""))
    print("\nMixtral 8x7B's shape, %.2f GB, %.2f GB read for a token; loaded in %.2f s; batches of %d tokens\n" % (
        mixtral["model_bytes"] * 1e-9, mixtral["step_bytes"] * 1e-9, mixtral["load_seconds"],
        mixtral["max_batch_tokens"]))
    table(mixtral, tflops, True)
    if limited.get("decode"):
        print("\nWith --memory-limit 23.5GiB and a context of 4,096: %.2f GiB of the device's memory, decode at "
              "context %d: %.0f tokens/s" % (limited["device_bytes"] / 2**30, limited["decode"][0]["context"],
                                             limited["decode"][0]["tokens_per_s"]))
    if start:
        print("\nFrom the start of the program to its first token, 24.5 GB in the page cache: %.2f s (the best of %d; "
              "reach at most 1.5 s)" % (min(start) / 1000, len(start)))
    if quantize.get("load_seconds"):
        print("\nQuantized while loaded: 8 layers in bf16, %.1f GB, in %.2f s, %.1f GB/s" % (
            quantize["model_bytes"] * 1e-9, quantize["load_seconds"],
            quantize["model_bytes"] * 1e-9 / quantize["load_seconds"]))
    if qwen3.get("decode"):
        print("\nQwen3 30B A3B's shape, %.2f GB, %.2f GB read for a token; loaded in %.2f s\n" % (
            qwen3["model_bytes"] * 1e-9, qwen3["step_bytes"] * 1e-9, qwen3["load_seconds"]))
        table(qwen3, tflops, False)
    if len(sys.argv) > 2:
        with open(sys.argv[2], "w") as f:
            json.dump({"mixtral": mixtral, "qwen3": qwen3, "limited": limited, "quantize": quantize,
                       "start_to_first_token_ms": start, "matrix_tflops": tflops}, f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
