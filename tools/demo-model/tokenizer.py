#!/usr/bin/env python3
"""Trains the demo model's tokenizer and writes it as tokenizer.json, in the layout of Mixtral's.

    tokenizer.py --receipts receipts.jsonl --out models/demo

The file holds a byte-fallback BPE without a pre-tokenizer, as SentencePiece models converted by Hugging Face
do: a segment gets one "▁" in front, every space becomes "▁", and merges alone decide the rest. Merges are
learnt inside words only: a run of letters, a run of "▁", and every other character (digit, punctuation mark,
line break) are units of their own while training, so no piece ever crosses such a border. Two things follow:

- a word has the same pieces wherever it stands, in the document or in the answer, so it can be copied;
- JSON's frame and the values in it are tokenized independently of each other.

`Encoder` below uses that: it cuts text at those borders and looks words up, which is faster than running the
merges over a whole document and gives the same ids; `check` proves it on samples.
"""
import argparse
import json
import os
import re

UNK, BOS, EOS, ANSWER = 0, 1, 2, 3
DOCUMENT = "<|document|>"
SPECIALS = ["<unk>", "<s>", "</s>", "<|answer|>"]
FIRST_PIECE = len(SPECIALS) + 256
SPACE = "▁"

# The words of the answer's frame, and the labels: whatever the corpus says, each is one piece.
FRAME_WORDS = ("document type party date currency total receipt invoice credit note other null "
               "MYR SGD EUR USD GBP CHF JPY AUD CAD INR").split()
# Characters that are pieces even where the corpus lacks them; what is not here is spelled in bytes.
ALPHABET = ([chr(c) for c in range(33, 127)] + ["\n", SPACE] +
            list("€£¥¢§°©®±²³µ·×÷ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜÝßàáâãäåæçèéêëìíîïñòóôõöøùúûüýÿĄąĆćĘęŁłŃńŚśŹźŻżŒœŠšŽžČčŘřŮůĚěŐőŰű"
                 "–—‘’“”„•…′″™№→✓"))

# One unit: a run of letters, a run of "▁", or any other single character. `[^\W\d_]` is a letter to Python's
# re. The same in Oniguruma's syntax is UNIT_ONIG.
UNIT = re.compile(r"[^\W\d_]+|" + SPACE + r"+|[\s\S]")
UNIT_ONIG = r"\p{L}+|" + SPACE + r"+|[\s\S]"


def train(texts, size):
    """Returns (pieces, merges) of a BPE of `size` ids in all, specials and bytes included."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    tok.pre_tokenizer = pre_tokenizers.Split(Regex(UNIT_ONIG), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=size - FIRST_PIECE, min_frequency=2, show_progress=False,
                                  initial_alphabet=ALPHABET, limit_alphabet=len(ALPHABET))

    def corpus():
        for word in FRAME_WORDS:    # far more often than any word of the corpus, so that it merges whole
            yield " ".join([word] * 200000)
        yield from texts

    tok.train_from_iterator(corpus(), trainer)
    model = json.loads(tok.to_str())["model"]
    merges = [m if isinstance(m, list) else m.split(" ") for m in model["merges"]]
    merged = ["".join(m) for m in merges]
    single = sorted(set(model["vocab"]) - set(merged))
    return list(dict.fromkeys(merged)) + single, merges


def tokenizer_json(pieces, merges):
    """The whole tokenizer.json, as Hugging Face converts Mixtral's."""
    vocab = {p: i for i, p in enumerate(SPECIALS + [f"<0x{b:02X}>" for b in range(256)] + pieces)}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": True} for i, s in enumerate(SPECIALS)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": SPACE},
            {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": "<s>", "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": vocab, "merges": [" ".join(m) for m in merges]},
    }


CONFIG = {
    "add_bos_token": True, "add_eos_token": False,
    "added_tokens_decoder": {str(i): {"content": s, "lstrip": False, "normalized": False, "rstrip": False,
                                      "single_word": False, "special": True} for i, s in enumerate(SPECIALS)},
    "additional_special_tokens": ["<|answer|>"],
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": None,
    "clean_up_tokenization_spaces": False, "model_max_length": 2048,
    "tokenizer_class": "PreTrainedTokenizerFast",
}


class Encoder:
    """Text to ids and back, one segment at a time; text never yields a special token."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as f:
            model = json.load(f)["model"]
        self.vocab = model["vocab"]
        self.pieces = {i: p for p, i in self.vocab.items()}
        self.rank = {tuple(m if isinstance(m, list) else m.split(" ")): i for i, m in enumerate(model["merges"])}
        self.known = {}         # unit -> its ids
        self.size = len(self.vocab)
        self.document = self.vocab.get(DOCUMENT)

    def _unit(self, unit):
        parts = list(unit)
        while len(parts) > 1:
            best = min(range(len(parts) - 1), key=lambda i: self.rank.get((parts[i], parts[i + 1]), 1 << 30))
            if (parts[best], parts[best + 1]) not in self.rank:
                break
            parts[best:best + 2] = [parts[best] + parts[best + 1]]
        ids = []
        for p in parts:
            if p in self.vocab:
                ids.append(self.vocab[p])
            else:
                ids += [self.vocab[f"<0x{b:02X}>"] for b in p.encode()]
        return ids

    def encode(self, text):
        """The ids of a segment, as the library gives them with add_special_tokens=False."""
        return self.inner(" " + text) if text else []

    def inner(self, text):
        """The ids of a part of a segment that starts where a unit does, other than at its beginning."""
        ids = []
        known = self.known
        for unit in UNIT.findall(text.replace(" ", SPACE)):
            got = known.get(unit)
            if got is None:
                got = self._unit(unit)
                if len(known) < 400000:
                    known[unit] = got
            ids += got
        return ids

    def decode(self, ids):
        out = bytearray()
        for i in ids:
            p = self.pieces[i]
            if len(SPECIALS) <= i < FIRST_PIECE:
                out.append(i - len(SPECIALS))
            elif i >= FIRST_PIECE and p != DOCUMENT:
                out += p.replace(SPACE, " ").encode()
        text = out.decode("utf-8", "replace")
        return text[1:] if text.startswith(" ") else text


def check(path, texts):
    """Compares Encoder with the tokenizers library on `texts`; returns how many ids were compared."""
    from tokenizers import Tokenizer
    lib, own, n = Tokenizer.from_file(path), Encoder(path), 0
    lib.encode_special_tokens = True
    for text in texts:
        want = lib.encode(text, add_special_tokens=False).ids
        got = own.encode(text)
        assert got == want, (text, got, want)
        assert own.decode(got) == text, (text, own.decode(got))
        n += len(got)
    return n


def write(out, pieces, merges):
    os.makedirs(out, exist_ok=True)
    path = os.path.join(out, "tokenizer.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(tokenizer_json(pieces, merges), f, ensure_ascii=False, indent=1)
        f.write("\n")
    with open(os.path.join(out, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(CONFIG, f, ensure_ascii=False, indent=2)
        f.write("\n")
    return path


def extend(folder, out):
    """The tokenizer in `folder` with the special token <|document|> in the place of its last merge, so that all other ids stay."""
    with open(os.path.join(folder, "tokenizer.json"), encoding="utf-8") as f:
        text = f.read()
    whole = json.loads(text)
    if DOCUMENT in whole["model"]["vocab"]:
        raise SystemExit(f"{folder} has {DOCUMENT} already")
    vocab, merges = whole["model"]["vocab"], whole["model"]["merges"]
    parts = lambda m: m if isinstance(m, list) else m.split(" ")
    last = "".join(parts(merges.pop()))
    assert all("".join(parts(m)) != last and last not in parts(m) for m in merges), last
    at = vocab.pop(last)
    vocab[DOCUMENT] = at
    whole["model"]["vocab"] = dict(sorted(vocab.items(), key=lambda x: x[1]))
    whole["added_tokens"].append({"id": at, "content": DOCUMENT, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True})
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "tokenizer.json"), "w", encoding="utf-8") as f:
        json.dump(whole, f, ensure_ascii=False, indent=1)
        f.write("\n")
    with open(os.path.join(folder, "tokenizer_config.json"), encoding="utf-8") as f:
        config = json.load(f)
    config["added_tokens_decoder"][str(at)] = {"content": DOCUMENT, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config["additional_special_tokens"] = ["<|answer|>", DOCUMENT]
    config["model_max_length"] = 4096
    with open(os.path.join(out, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, ensure_ascii=False, indent=2)
        f.write("\n")
    print(f"{out}: {DOCUMENT} is {at}, in the place of {last!r}")


def main():
    import generate
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--extend", help="a folder with a tokenizer that gets <|document|>, instead of training a new one")
    p.add_argument("--receipts", help="receipts.jsonl; only its training part is read")
    p.add_argument("--out", required=True)
    p.add_argument("--size", type=int, default=4096, help="ids in all (4096)")
    p.add_argument("--documents", type=int, default=20000, help="made-up documents to learn from (20000)")
    a = p.parse_args()
    if a.extend:
        return extend(a.extend, a.out)
    real = generate.load_receipts(a.receipts, "train")
    source = generate.Source(real)

    def texts():
        for _ in range(8):      # the real ones count for more
            for r in real:
                yield generate.normalize(r["text"])
        for i in range(a.documents):
            yield source.document(10_000_000 + i)["text"]

    path = write(a.out, *train(texts(), a.size))
    sample = [source.document(20_000_000 + i)["text"] for i in range(200)]
    sample += ['{"document_type":"credit_note","party":"A \\"B\\" Ñandú 株式会社","date":null}', "<s> </s><|answer|>", "a  b", " x"]
    n = check(path, sample)
    chars = sum(map(len, sample))
    print(f"{path}: {os.path.getsize(path)} bytes, {n / len(sample):.0f} ids a document, {chars / n:.2f} characters an id")


if __name__ == "__main__":
    main()
