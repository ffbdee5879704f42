#!/usr/bin/env python3
"""What LLGuidance and XGrammar make of a file of JSON Schemas, in the measure of `nibble schema bench`.

    bench/peer-grammar.py SCHEMAS.jsonl --tokenizer tokenizer.model [--peer llguidance] [--peer xgrammar]
                          [--rows FILE] [--json] [--timeout 120] [--limit N]

    pip install llguidance==1.9.1 xgrammar==0.2.8 sentencepiece protobuf numpy torch

SCHEMAS.jsonl has a line for each schema: {"name", "schema", "tests": [{"valid": bool, "data": …}]}.
Each instance is written as json.dumps(data, ensure_ascii=False) does, tokenized by the SentencePiece
model with no space put in front, and walked token by token, the mask being computed before each, and
once more at the end, where a valid instance needs the end token to be allowed. Whitespace is
flexible. A schema is all right if it compiles, every valid instance passes and every invalid one is
stopped. Times are of the calls that compile a schema and that fill a mask, through the Python
bindings, on one core.

Schemas run in a process of their own, which is started anew after a crash or after --timeout seconds
without an answer; the schema that it was at counts as one crash. --json prints the keys that
`nibble schema bench --json` has; --rows writes a line for each schema that is not all right.
"""

import argparse
import json
import os
import select
import subprocess
import sys
import time

WORD, END = "▁", 2


def load_tokenizer(path):
    """(encode without a space in front, the bytes of each piece, ids of special pieces)"""
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2
    model = sentencepiece_model_pb2.ModelProto()
    with open(path, "rb") as f:
        model.ParseFromString(f.read())
    model.normalizer_spec.add_dummy_prefix = False
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    pieces, special = [], []
    for i in range(processor.get_piece_size()):
        text = processor.id_to_piece(i)
        if processor.is_byte(i):
            pieces.append(bytes([int(text[3:5], 16)]))
        elif processor.is_control(i) or processor.is_unknown(i):
            pieces.append(text.encode())
            special.append(i)
        else:
            pieces.append(text.replace(WORD, " ").encode())
    texts = [processor.id_to_piece(i) for i in range(len(pieces))]
    return processor.encode, pieces, special, texts


class Refused(Exception):
    """The peer does not compile a schema."""


class LLGuidance:
    def __init__(self, tokenizer):
        import llguidance
        import llguidance.numpy
        encode, pieces, special, _ = tokenizer

        class Wrapped:
            eos_token_id, bos_token_id, tokens, special_token_ids = END, 1, pieces, special

            def __call__(self, text):
                return encode(text.decode() if isinstance(text, bytes) else text)

        self.matcher, self.numpy = llguidance.LLMatcher, llguidance.numpy
        self.tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Wrapped()), n_vocab=len(pieces))
        self.bits = self.numpy.allocate_token_bitmask(1, len(pieces))

    def compile(self, schema):
        grammar = self.matcher.grammar_from_json_schema(schema, overrides={"whitespace_flexible": True})
        self.first = self.matcher(self.tokenizer, grammar, log_level=0)
        if self.first.is_error():
            raise Refused(self.first.get_error())

    def start(self):
        self.current = self.first.deep_copy()

    def mask(self):
        self.numpy.fill_next_token_bitmask(self.current, self.bits, 0)
        if self.current.is_error():
            raise RuntimeError(self.current.get_error())

    def allowed(self, token):
        return bool(int(self.bits[0, token >> 5]) >> (token & 31) & 1)

    def take(self, token):
        return self.current.consume_token(token)


class XGrammar:
    def __init__(self, tokenizer):
        import torch
        import xgrammar
        torch.set_num_threads(1)
        _, pieces, _, texts = tokenizer
        self.xgrammar = xgrammar
        info = xgrammar.TokenizerInfo(texts, vocab_type=xgrammar.VocabType.BYTE_FALLBACK, vocab_size=len(pieces),
                                      stop_token_ids=[END], add_prefix_space=False)
        self.compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)
        self.bits = xgrammar.allocate_token_bitmask(1, len(pieces))
        self.words = self.bits.numpy()

    def compile(self, schema):
        try:
            self.grammar = self.compiler.compile_json_schema(schema, any_whitespace=True, strict_mode=False)
        except Exception as e:
            raise Refused(str(e)) from e

    def start(self):
        self.current = self.xgrammar.GrammarMatcher(self.grammar)

    def mask(self):
        self.current.fill_next_token_bitmask(self.bits)

    def allowed(self, token):
        return bool(int(self.words[0, token >> 5]) >> (token & 31) & 1)

    def take(self, token):
        return self.current.accept_token(token)


PEERS = {"llguidance": LLGuidance, "xgrammar": XGrammar}


def walk(peer, ids, times):
    """Whether all the tokens and then the end are allowed."""
    peer.start()
    for token in ids + [END]:
        start = time.perf_counter_ns()
        peer.mask()
        times.append((time.perf_counter_ns() - start) / 1000)
        if not peer.allowed(token):
            return False
        if token != END and not peer.take(token):
            return False
    return True


def run_schema(peer, encode, row):
    result = {"name": row["name"], "wrong": [], "masks": []}
    schema = json.dumps(row["schema"])
    start = time.perf_counter_ns()
    try:
        peer.compile(schema)
    except Refused as e:
        result["compile_error"] = str(e)[:300]
        return result
    result["compile_us"] = (time.perf_counter_ns() - start) / 1000
    for i, test in enumerate(row["tests"]):
        ids = encode(json.dumps(test["data"], ensure_ascii=False))
        if walk(peer, ids, result["masks"]) != test["valid"]:
            result["wrong"].append([i, "refused" if test["valid"] else "accepted"])
    return result


def worker(options):
    """Reads numbers of schemas, writes a line for each."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    tokenizer = load_tokenizer(options.tokenizer)
    with open(options.schemas) as f:
        rows = [json.loads(line) for line in f]
    peer = PEERS[options.worker](tokenizer)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a peer prints is no answer
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        try:
            answer = run_schema(peer, tokenizer[0], rows[int(line)])
        except Exception as e:
            answer = {"name": rows[int(line)]["name"], "crash": f"{type(e).__name__}: {e}"[:300]}
        print(json.dumps(answer), file=out, flush=True)


class Worker:
    def __init__(self, options, peer):
        command = [sys.executable, __file__, options.schemas, "--tokenizer", options.tokenizer, "--worker", peer]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        stderr=subprocess.DEVNULL)
        if self.answer(600) != "ready\n":
            sys.exit(f"peer-grammar.py: {peer} does not start; run: {' '.join(command)}")

    def answer(self, seconds):
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.readline() if ready else None

    def ask(self, number, seconds):
        """The answer, or why there is none; the process is then gone."""
        try:
            self.process.stdin.write(f"{number}\n")
            self.process.stdin.flush()
            line = self.answer(seconds)
        except BrokenPipeError:
            line = ""
        if line:
            return json.loads(line), None
        self.process.kill()
        code = self.process.wait()
        return None, f"no answer in {seconds} s" if line is None else f"ended with {code}"

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def quantile(sorted_values, q):
    return sorted_values[min(len(sorted_values) - 1, int(q * len(sorted_values)))] if sorted_values else 0.0


def measure(options, peer, rows_file):
    with open(options.schemas) as f:
        names = [json.loads(line)["name"] for line in f]
    names = names[:options.limit] if options.limit else names
    compile_us, masks = [], []
    sums = {"schemas": len(names), "all_right": 0, "compile_errors": 0, "valid_refused": 0, "invalid_accepted": 0,
            "crashes": 0}
    process = Worker(options, peer)
    for number, name in enumerate(names):
        answer, why = process.ask(number, options.timeout)
        if why:
            process = Worker(options, peer)
            answer = {"name": name, "crash": why}
        masks += answer.pop("masks", [])
        compile_us += [answer["compile_us"]] if "compile_us" in answer else []
        wrong = answer.get("wrong", [])
        sums["crashes"] += "crash" in answer
        sums["compile_errors"] += "compile_error" in answer
        sums["valid_refused"] += sum(w[1] == "refused" for w in wrong)
        sums["invalid_accepted"] += sum(w[1] == "accepted" for w in wrong)
        right = not wrong and "crash" not in answer and "compile_error" not in answer
        sums["all_right"] += right
        if rows_file and not right:
            print(json.dumps({"peer": peer, **answer}), file=rows_file, flush=True)
    process.close()
    masks.sort()
    compile_us.sort()
    sums["masks"] = len(masks)
    sums["mask_us"] = {"avg": sum(masks) / max(1, len(masks)), "p50": quantile(masks, 0.5),
                       "p99": quantile(masks, 0.99), "max": masks[-1] if masks else 0.0}
    sums["compile_us"] = {"p50": quantile(compile_us, 0.5), "p99": quantile(compile_us, 0.99),
                          "max": compile_us[-1] if compile_us else 0.0}
    return sums


def version(peer):
    from importlib.metadata import version as installed
    return installed(peer)


def print_table(all_sums):
    print("| | " + " | ".join(f"{peer} {version(peer)}" for peer in all_sums) + " |")
    print("|---" * (len(all_sums) + 1) + "|")

    def line(label, text):
        print(f"| {label} | " + " | ".join(text(s) for s in all_sums.values()) + " |")

    line("schemas all right", lambda s: f"{100 * s['all_right'] / s['schemas']:.1f} %")
    line("valid instances refused", lambda s: str(s["valid_refused"]))
    line("invalid instances accepted", lambda s: str(s["invalid_accepted"]))
    line("schemas that do not compile", lambda s: str(s["compile_errors"]))
    line("mask, µs: average / p50 / p99 / worst",
         lambda s: " / ".join(f"{s['mask_us'][k]:,.1f}" for k in ("avg", "p50", "p99", "max")))
    line("compile, µs: median / p99 / worst",
         lambda s: " / ".join(f"{s['compile_us'][k]:,.0f}" for k in ("p50", "p99", "max")))
    line("crashes, time-outs", lambda s: str(s["crashes"]))
    line("masks", lambda s: f"{s['masks']:,}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("schemas")
    parser.add_argument("--tokenizer", required=True, help="a SentencePiece tokenizer.model")
    parser.add_argument("--peer", action="append", choices=sorted(PEERS))
    parser.add_argument("--rows", help="file for what went wrong, a JSON line a schema")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--timeout", type=float, default=120, help="seconds for a schema and its instances")
    parser.add_argument("--limit", type=int, help="only the first schemas")
    parser.add_argument("--worker", choices=sorted(PEERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options)
        return
    rows_file = open(options.rows, "w") if options.rows else None
    all_sums = {peer: measure(options, peer, rows_file) for peer in options.peer or ["llguidance", "xgrammar"]}
    if options.json:
        print(json.dumps({peer: {"version": version(peer), **s} for peer, s in all_sums.items()}, indent=2))
    else:
        print_table(all_sums)


if __name__ == "__main__":
    main()
