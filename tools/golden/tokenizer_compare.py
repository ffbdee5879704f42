#!/usr/bin/env python3
"""Holds nibble's tokenizer to `tokenizers` and `sentencepiece` on much text.

    python3 tools/golden/tokenizer_compare.py TOOL TOKENIZER [--texts FILE…] [--random MB] [--seed N]

TOOL is the program that meson builds from tests/tokenizer_tool.c. TOKENIZER is a tokenizer.json
(compared with PyPI's tokenizers) or a tokenizer.model (with sentencepiece). Texts come from the
files given, cut at random, and from a generator: characters of all scripts, pieces of the
vocabulary, runs, special tokens. Ids must be equal, and so must the text that they decode to;
so must the text of random ids. The first difference ends it, with exit status 1.
"""
import argparse
import json
import random
import struct
import subprocess
import sys
import time


class Nibble:
    def __init__(self, tool, *args):
        self.p = subprocess.Popen([tool, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def call(self, data, unit_in, unit_out):
        self.p.stdin.write(struct.pack("=I", len(data) // unit_in) + data)
        self.p.stdin.flush()
        head = self.p.stdout.read(4)
        if len(head) != 4:
            sys.exit("nibble stopped")
        return self.p.stdout.read(struct.unpack("=I", head)[0] * unit_out)

    def ids(self, text):
        raw = self.call(text.encode(), 1, 4)
        return list(struct.unpack(f"={len(raw) // 4}i", raw))

    def text(self, ids):
        return self.call(struct.pack(f"={len(ids)}i", *ids), 4, 1).decode()


class HuggingFace:
    special = 1

    def __init__(self, path):
        import tokenizers
        self.name = f"tokenizers {tokenizers.__version__}"
        self.t = tokenizers.Tokenizer.from_file(path)
        self.pieces = list(self.t.get_vocab())
        self.size = max(self.t.get_vocab().values()) + 1

    def ids(self, text):
        return self.t.encode(text, add_special_tokens=False).ids

    def text(self, ids):
        return self.t.decode(ids, skip_special_tokens=True)


class SentencePiece:
    special = 0

    def __init__(self, path):
        import sentencepiece
        self.name = f"sentencepiece {sentencepiece.__version__}"
        self.t = sentencepiece.SentencePieceProcessor(model_file=path)
        self.size = self.t.vocab_size()
        self.pieces = [self.t.id_to_piece(i) for i in range(self.size)]

    def ids(self, text):
        return self.t.encode(text)

    def text(self, ids):
        return self.t.decode(ids)


BLOCKS = [(0x20, 0x7E), (0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF),
          (0x590, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1E00, 0x1FFF),
          (0x2000, 0x206F), (0x20A0, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
          (0xE000, 0xE010), (0xF900, 0xFFFD), (0x10000, 0x100FF), (0x1D400, 0x1D7FF),
          (0x1F300, 0x1FAFF), (0, 0x1F), (0x7F, 0xA0)]


def generate(rng, pieces):
    kind = rng.randrange(6)
    n = rng.choice([3, 30, 300])
    if kind == 0:  # one or two scripts
        blocks = rng.sample(BLOCKS, 2) + [(0x20, 0x20)]
        return "".join(chr(rng.randint(*rng.choice(blocks))) for _ in range(n))
    if kind == 1:
        return "".join(rng.choice(pieces) for _ in range(n))
    if kind == 2:
        return "".join(rng.choice(pieces).replace("▁", " ") for _ in range(n))
    if kind == 3:
        few = rng.sample(pieces, 3) + [" ", "a"]
        return "".join(rng.choice(few).replace("▁", " ") for _ in range(n))
    if kind == 4:
        return "".join(rng.choice("aeinrstlo t=-_. \n0▁") * rng.choice([1, 1, 1, 2, 3, 7, 16, 40])
                       for _ in range(n // 2))
    few = ["<s>", "</s>", "<unk>", "<0x0A>", " ", "  ", "\n", "[INST]", "<|", "|>", "é", "😀"]
    return "".join(rng.choice(few + pieces[300:320]) for _ in range(n))


def cut(rng, text):
    at = 0
    while at < len(text):
        n = rng.choice([10, 100, 1000, 10000, 100000])
        yield text[at:at + n]
        at += n


def fail(what, text, found, expected):
    i = next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b),
             min(len(found), len(expected)))
    print(f"{what} differ for {text[:3000]!r}\nfrom {i}: {found[i:i + 20]!r}\n"
          f"expected: {expected[i:i + 20]!r}")
    sys.exit(1)


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    args.add_argument("tool")
    args.add_argument("tokenizer")
    args.add_argument("--texts", nargs="*", default=[])
    args.add_argument("--random", type=float, default=1.0, help="MB of generated text")
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    peer = SentencePiece if args.tokenizer.endswith(".model") else HuggingFace
    peer = peer(args.tokenizer)
    encoder = Nibble(args.tool, "ids", args.tokenizer, str(peer.special))
    decoder = Nibble(args.tool, "decode", args.tokenizer)
    rng = random.Random(args.seed)
    n_texts = n_bytes = 0
    seconds = [0.0, 0.0]

    def check(text):
        nonlocal n_texts, n_bytes
        start = time.monotonic()
        found = encoder.ids(text)
        middle = time.monotonic()
        expected = peer.ids(text)
        seconds[0] += middle - start
        seconds[1] += time.monotonic() - middle
        if found != expected:
            fail("ids", text, found, expected)
        a, b = decoder.text(expected), peer.text(expected)
        if a != b:
            fail("decoded texts", text, a, b)
        n_texts += 1
        n_bytes += len(text.encode())

    for path in args.texts:
        with open(path, encoding="utf-8", newline="") as f:
            for part in cut(rng, f.read()):
                check(part)
    target = n_bytes + args.random * 1e6
    while n_bytes < target:
        check(generate(rng, peer.pieces))
        ids = [rng.randrange(peer.size) for _ in range(20)]
        if rng.random() < 0.5:
            ids = [rng.randrange(min(300, peer.size)) for _ in range(20)]
        a, b = decoder.text(ids), peer.text(ids)
        if a != b:
            fail("decoded random ids", str(ids), a, b)
    print(json.dumps({"tokenizer": args.tokenizer, "peer": peer.name, "texts": n_texts,
                      "bytes": n_bytes, "equal": True, "nibble_s": round(seconds[0], 1),
                      "peer_s": round(seconds[1], 1)}))


if __name__ == "__main__":
    main()
