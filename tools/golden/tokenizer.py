#!/usr/bin/env python3
"""Golden files of the tokenizer, from Hugging Face's `tokenizers` and Google's `sentencepiece`.

    python3 tools/golden/tokenizer.py          # all: tests/golden/tokenizer/*

Needs PyPI's tokenizers and sentencepiece. Writes:
  base.json       a small tokenizer.json, trained on the texts below: Llama's layout
  cases.json      variants of base.json (fields replaced) with texts, ids and decoded texts
  bytes.json      a small tokenizer.json of the byte-level kind
  byte_cases.json variants of it: the splitters of GPT-2, Llama 3 and Qwen, normalizers
  *.model         small SentencePiece models
  spm_cases.json  cases of these
  mixtral.json    cases of Mixtral's tokenizer.model, where NB_SHARED_DATA or ../shared/data has it
  demo.json       cases of models/demo/tokenizer.json; run this again when that changes

A case is {"text", "plain", "special", "template", "decoded"}: ids without recognising special
tokens, with, and with what the post-processor adds; absent ones equal the one before. "decoded" is
the text of "special". "long" is much text that the test makes, too, from the cases and from characters
of "blocks", and the FNV-1a hashes of its ids and of what they decode to. "decodes" are {"ids", "text"}: decoding of ids that no text gives.
"""
import io
import json
import os
import random
import re
import struct
import sys

import sentencepiece
import tokenizers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OUT = os.path.join(ROOT, "tests", "golden", "tokenizer")
MADE_BY = {"python": sys.version.split()[0], "tokenizers": tokenizers.__version__,
           "sentencepiece": sentencepiece.__version__}

RECEIPT = """GARDENIA BAKERIES (KL) SDN BHD (139386 X)
Lot 3, Jalan Pelabur 23/1, 40300 Shah Alam, Selangor.
TAX INVOICE / ADJUSTMENT NOTE        Invoice No.: 7917F718
DATE: 23/09/2017   05:38:02 PM    CUST NO. 004-9012
QTY   DESCRIPTION          U.PRICE    AMOUNT
  1   White Loaf 400g         2.13      2.13 SR
 12 x Bun, sesame @ 0.90                10.80
TOTAL (RM) INCL. GST 6%:   RM 12.93   *** Thank You ***
"""
CODE = """#include <stdio.h>
int main(int argc, char **argv) {
\tfor (size_t i = 0; i < 10; ++i)\t\t/* tabs\tand spaces    here */
        printf("%zu: 0x%08X\\n", i, ~0u);
    return argc > 1 ? -1 : 0;
}
def f(x): return {"a": [1, 2.5e-3, None], 'b': x**2 if x else "''"}  # noqa
SELECT * FROM t WHERE id IN (1,2,3) AND name LIKE '%o''r%';
https://example.com/a/b?c=d&e=%20f#g  <a href="x">y</a> &amp;
"""
PROSE = """The quick brown fox jumps over the lazy dog. It's what they'd've said, isn't it?
Whether 'tis nobler in the mind to suffer the slings and arrows of outrageous fortune, or to take
arms against a sea of troubles, and by opposing end them: to die, to sleep; no more.
"Everything that can be counted does not necessarily count," she said -- and counted 1,234,567.89.
"""
SCRIPTS = [
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich",
    "Les naïfs ægithales hâtifs pondant à Noël où il gèle sont sûrs d'être déçus",
    "Съешь же ещё этих мягких французских булок, да выпей чаю",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "いろはにほへと ちりぬるを 色は匂へど 散りぬるを カタカナ",
    "我能吞下玻璃而不伤身体。價格:一百二十三元",
    "나는 유리를 먹을 수 있어요. 그래도 아프지 않아요",
    "أنا قادر على أكل الزجاج و هذا لا يؤلمني ٠١٢٣",
    "אני יכול לאכול זכוכית וזה לא מזיק לי",
    "मैं काँच खा सकता हूँ और मुझे उससे कोई चोट नहीं पहुंचती",
    "ฉันกินกระจกได้ แต่มันไม่ทำให้ฉันเจ็บ",
    "Tôi có thể ăn thủy tinh mà không hại gì",
    "ᚠᛇᚻ᛫ᛒᛦᚦ᛫ᚠᚱᚩᚠᚢᚱ 𐍈𐌰𐌹 𝒜𝓁𝑔𝑒𝒷𝓇𝒶 ① ﬁ ㎏ Å Å Å",
]
ODD = [
    "", " ", "  ", "   a", "a ", "a  ", " a", "\n", "\r\n", "\t", "\n\n\n x \n", "▁", "▁▁a ▁", "a▁b",
    "😀", "👩‍👩‍👧‍👦 family 🇲🇾🇩🇪 ❤️ 👍🏽", "e\u0301 o\u0308\u0323 Z̷̢̛a̸l̵g̶o̷", "\u200bzero\u200dwidth\ufeff",
    "\x00", "a\x00b", "\x01\x02\x1f\x7f\x80\x9f", "\ufffd\uffff\U0010ffff\ud7ff\ue000",
    "\xa0nbsp\u2003em\u3000ideographic\u2028line\u2029para\x85nel",
    " " * 15, " " * 16, " " * 17, " " * 64 + "x", "x" + " " * 200 + "y", "\n" * 40, "\t" * 33,
    "a" * 7, "a" * 100, "ab" * 80, "=" * 64, "-" * 65 + ">", "0123456789" * 13, "aA" * 33, "." * 129,
    "the" * 50, "the the  the   the", "thethe tHe THE Théâtre", "http://", "''''''", "lllllllIII1|",
    "<0x0A>", "<0x", "<0x41><0x0a>", "<unk>", "<s>", "</s>", "<s", "s>", "<s></s>", " <s> ", "<s> <s>",
    "a<s>b</s> c", "<s>a", "a</s>", "</s></s>\n</s>", "<s>\x00</s>", "<<s>>", "&lt;s&gt;",
    "[INST] hello [/INST]", "x [INST]y", "<|strip|>", "  <|strip|>  a", "a \t\n<|strip|>\u3000 b<|strip|><|strip|>",
    "word", "a word", "aword", "wordy", "word word-word_word 9word word9 éword wordé", "(word)",
    "Normal", "a Normal b", "xNormaly", "Normal form", "<left> a", "a  <left>  a", "a  <right>  a",
    "<right><left>", "<right> <left> <right>", "overlap", "overlapping", "lapping", "overlap lapping",
]


def texts():
    rng = random.Random(7)
    out = ODD + SCRIPTS + [RECEIPT, CODE, PROSE, PROSE * 3]
    alphabet = "aabcdeeehilnorstt   ▁\n.,<>/s'0é漢😀\u0301\x00" + "▁"
    for i in range(60):
        out.append("".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 90))))
    words = (PROSE + RECEIPT + CODE).split() + ["<s>", "</s>", "word", "  "]
    for i in range(20):
        out.append(" ".join(rng.choice(words) for _ in range(rng.randrange(2, 30))))
    return out


def llama_layout(tok):
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                     decoders.Fuse(), decoders.Strip(" ", 1, 0)])


def train_base():
    """Trained with Metaspace splitting, so that no piece has ▁ behind another character, as
    SentencePiece has it; then Llama's layout."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    llama_layout(tok)
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    alphabet = sorted(set(c for c in PROSE + RECEIPT + CODE + "▁éüжи") - set("\n\t "))
    trainer = trainers.BpeTrainer(vocab_size=1100, special_tokens=special, initial_alphabet=alphabet,
                                  limit_alphabet=len(alphabet), show_progress=False)
    tok.train_from_iterator([PROSE, RECEIPT, CODE] * 2 + SCRIPTS[:4], trainer)
    tok.pre_tokenizer = None
    data = json.loads(tok.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["id"] < 3]
    # Runs of ▁ merge too, as in Llama's vocabulary.
    vocab, merges = data["model"]["vocab"], [tuple(m) for m in data["model"]["merges"]]
    for n in (2, 4, 8, 16):
        vocab.setdefault("▁" * n, len(vocab))
        merges.append(("▁" * (n // 2), "▁" * (n // 2)))
    data["model"]["merges"] = [f"{a} {b}" for a, b in merges]
    tok = Tokenizer.from_str(json.dumps(data))
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    data = json.loads(tok.to_str())
    data["model"]["merges"] = [f"{a} {b}" for a, b in data["model"]["merges"]]
    return data


def added(content, id, **flags):
    token = {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}
    token.update(flags)
    return token


def variants(base):
    """Name -> fields to replace, a dotted path each."""
    n = len(base["model"]["vocab"])
    tokens = base["added_tokens"]
    merges = [m.split(" ") for m in base["model"]["merges"]]
    metaspace = lambda scheme, split: {"type": "Metaspace", "replacement": "▁",
                                       "prepend_scheme": scheme, "split": split}
    seq = lambda *d: {"type": "Sequence", "decoders": list(d)}
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    bytefall, fuse = {"type": "ByteFallback"}, {"type": "Fuse"}
    more = tokens + [
        added("[INST]", n, special=True), added("[/INST]", n + 1, special=True),
        added("<|strip|>", n + 2, lstrip=True, rstrip=True),
        added("word", n + 3, single_word=True), added("Normal", n + 4, normalized=True),
        added("<left>", n + 5, lstrip=True, special=True), added("<right>", n + 6, rstrip=True),
        added("overlap", n + 7), added("lapping", n + 8, special=True),
        added("over", n + 9, normalized=True), added("  ", n + 10, normalized=True)]
    out = {
        "llama": {},
        "added": {"added_tokens": more},
        "added_first": {"added_tokens": more, "normalizer": None,
                        "pre_tokenizer": metaspace("first", True)},
        "metaspace_always": {"normalizer": None, "pre_tokenizer": metaspace("always", False),
                             "decoder": metaspace("always", False)},
        "metaspace_first": {"normalizer": None, "pre_tokenizer": metaspace("first", False),
                            "decoder": seq(metaspace("first", False), bytefall, fuse)},
        "metaspace_never": {"normalizer": None, "pre_tokenizer": metaspace("never", True),
                            "decoder": metaspace("never", True)},
        "bare": {"normalizer": None, "decoder": None},
        "no_strip": {"normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
                     "decoder": seq(replace, bytefall, fuse)},
        "strip_3": {"decoder": seq(replace, bytefall, fuse,
                                   {"type": "Strip", "content": " ", "start": 3, "stop": 0})},
        "unknown": {"model.byte_fallback": False},
        "unknown_each": {"model.byte_fallback": False, "model.fuse_unk": False},
        "unknown_dropped": {"model.byte_fallback": False, "model.unk_token": None},
        "ignore_merges": {"model.ignore_merges": True, "pre_tokenizer": metaspace("never", True)},
        "pairs": {"model.merges": merges},
    }
    return out


def patched(base, patch):
    data = json.loads(json.dumps(base))
    for path, value in patch.items():
        *heads, last = path.split(".")
        at = data
        for h in heads:
            at = at[h]
        at[last] = value
    return data


def make_cases(tok, some, decode):
    cases = []
    for text in some:
        try:
            tok.encode_special_tokens = True
            plain = tok.encode(text, add_special_tokens=False).ids
            tok.encode_special_tokens = False
            special = tok.encode(text, add_special_tokens=False).ids
            template = tok.encode(text).ids
        except BaseException as e:  # a panic of tokenizers: there is nothing to be held to
            if type(e).__name__ != "PanicException":
                raise
            print(f"left out, tokenizers panics: {text!r}")
            continue
        case = {"text": text, "plain": plain}
        if special != plain:
            case["special"] = special
        if template != special:
            case["template"] = template
        if decode:
            case["decoded"] = tok.decode(special, skip_special_tokens=True)
        cases.append(case)
    return cases


def make_decodes(tok, seed):
    rng = random.Random(seed)
    size = tok.get_vocab_size()
    byte_ids = [tok.token_to_id(f"<0x{b:02X}>") for b in range(256)]
    byte_ids = [i for i in byte_ids if i is not None] or list(range(min(256, size)))
    lists = [[i] for i in rng.sample(range(size), 40)]
    for raw in ["é漢😀".encode(), b"\xe2\x82", b"\xff\xfe", b"a\xffb", b"\xf0\x9f\x98\x80\xf0\x9f",
                b"\xed\xa0\x80", b" \x20", b"\xc0\x80\x80"]:
        if len(byte_ids) == 256:
            lists.append([byte_ids[b] for b in raw])
            lists.append([1, size // 2] + [byte_ids[b] for b in raw] + [2, size // 3])
    for _ in range(60):
        pick = lambda: rng.choice(byte_ids) if rng.random() < 0.4 else rng.randrange(size)
        lists.append([pick() for _ in range(rng.randrange(1, 12))])
    return [{"ids": ids, "text": tok.decode(ids, skip_special_tokens=True)} for ids in lists]


def golden(tok, some, seed, decode):
    return {"cases": make_cases(tok, some, decode),
            "decodes": make_decodes(tok, seed) if decode else []}


def write(name, data):
    os.makedirs(OUT, exist_ok=True)
    path = os.path.join(OUT, name)
    with open(path, "w", encoding="utf-8") as f:
        if isinstance(data, dict) and "variants" in data:
            # A case a line, so that a change shows.
            head = {k: v for k, v in data.items() if k != "variants"}
            f.write(json.dumps(head, ensure_ascii=True)[:-1] + ', "variants": [\n')
            for i, v in enumerate(data["variants"]):
                f.write("," if i else "")
                f.write(json.dumps({k: x for k, x in v.items() if k not in ("cases", "decodes")})[:-1])
                for part in ("cases", "decodes"):
                    f.write(f', "{part}": [\n')
                    f.write(",\n".join(json.dumps(c, separators=(",", ":")) for c in v[part]))
                    f.write("\n]")
                f.write("}\n")
            f.write("]}\n")
        else:
            json.dump(data, f, ensure_ascii=False, separators=(",", ":"))
            f.write("\n")
    print(f"{path}: {os.path.getsize(path)} bytes")


def write_variants(name, file, base, some_variants):
    out = []
    all_texts = texts()
    for i, (variant, patch) in enumerate(some_variants.items()):
        tok = Tokenizer.from_str(json.dumps(patched(base, patch)))
        # Every variant has the short odd texts; all others go to the first.
        some = all_texts if i == 0 else [t for t in ODD if len(t) < 40]
        out.append({"name": variant, "patch": patch,
                    **golden(tok, some, i, i == 0 or "decoder" in patch)})
    write(name, {"made_by": MADE_BY, "file": file,
                 "file_bytes": os.path.getsize(os.path.join(ROOT, file)), "variants": out})


LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
         r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|"
         r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK = [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"
            r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]


def train_bytes():
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=1000, special_tokens=["<s>", "</s>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tok.train_from_iterator([PROSE, RECEIPT, CODE] * 2 + SCRIPTS, trainer)
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<s> $A </s>", pair="$A $B",
                                      special_tokens=[("<s>", 0), ("</s>", 1)])])
    return json.loads(tok.to_str())


def byte_variants(base):
    n = len(base["model"]["vocab"])
    split = lambda regex, behavior="Isolated", invert=False: {
        "type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}
    text = lambda s, behavior, invert=False: {
        "type": "Split", "pattern": {"String": s}, "behavior": behavior, "invert": invert}
    levels = lambda prefix, regex: {"type": "ByteLevel", "add_prefix_space": prefix,
                                    "trim_offsets": True, "use_regex": regex}
    seq = lambda *p: {"type": "Sequence", "pretokenizers": list(p)}
    norm = lambda *p: {"type": "Sequence", "normalizers": [
        {"type": x} if isinstance(x, str) else x for x in p]}
    replace = lambda regex, content: {"type": "Replace", "pattern": {"Regex": regex},
                                      "content": content}
    plain = levels(False, False)
    more = base["added_tokens"] + [
        added("<|im_start|>", n, special=True), added("é <ü>", n + 1), added("word", n + 2,
        normalized=True, single_word=True)]
    return {
        "gpt2": {"added_tokens": more},
        "gpt2_prefix": {"pre_tokenizer": levels(True, True), "added_tokens": more},
        "llama3": {"pre_tokenizer": seq(split(LLAMA3), plain), "model.ignore_merges": True},
        "qwen2": {"pre_tokenizer": seq(split(QWEN2), plain), "normalizer": {"type": "NFC"}},
        "o200k": {"pre_tokenizer": seq(split(O200K), plain)},
        "deepseek": {"pre_tokenizer": seq(*[split(r) for r in DEEPSEEK], plain)},
        "digits": {"pre_tokenizer": seq({"type": "Digits", "individual_digits": True}, plain)},
        "digit_runs": {"pre_tokenizer": seq({"type": "Digits", "individual_digits": False},
                                            {"type": "Punctuation", "behavior": "Contiguous"}, plain)},
        "punctuation": {"pre_tokenizer": seq({"type": "Punctuation", "behavior": "MergedWithPrevious"},
                                             plain)},
        "spaces": {"pre_tokenizer": seq({"type": "WhitespaceSplit"}, plain)},
        "whitespace": {"pre_tokenizer": seq({"type": "Whitespace"}, plain)},
        "delimiter": {"pre_tokenizer": seq({"type": "CharDelimiterSplit", "delimiter": "e"}, plain)},
        "merged_next": {"pre_tokenizer": seq(text(" ", "MergedWithNext"), plain)},
        "merged_previous": {"pre_tokenizer": seq(text("th", "MergedWithPrevious"), plain)},
        "contiguous": {"pre_tokenizer": seq(split(r"\s", "Contiguous"), plain)},
        "removed": {"pre_tokenizer": seq(split(r"[aeiou]+", "Removed"), plain)},
        "inverted": {"pre_tokenizer": seq(split(r"\w+", "Removed", True), plain)},
        "inverted_next": {"pre_tokenizer": seq(split(r"[^\s\d]+|(?=x)", "MergedWithNext", True), plain)},
        "whole": {"pre_tokenizer": plain},
        "nfc": {"normalizer": norm("NFC")},
        "nfd": {"normalizer": norm("NFD", "StripAccents")},
        "nfkc": {"normalizer": norm("NFKC", "Lowercase")},
        "nfkd": {"normalizer": norm("NFKD", {"type": "Strip", "strip_left": True, "strip_right": True})},
        "nmt": {"normalizer": norm("Nmt", {"type": "Strip", "strip_left": False, "strip_right": True})},
        "replace": {"normalizer": norm(replace(r"\s+", "·"), replace(r"(?<=a)b|(?i:x)", "<>"),
                                       {"type": "Prepend", "prepend": ">"})},
        "roberta": {"post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 1],
                                       "cls": ["<s>", 0], "trim_offsets": True,
                                       "add_prefix_space": True}},
    }


def train_spm(name, **options):
    model = io.BytesIO()
    lines = (PROSE + RECEIPT + CODE).split("\n") * 3 + SCRIPTS
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", minloglevel=2,
        num_threads=1, train_extremely_large_corpus=False, **options)
    path = os.path.join(OUT, name + ".model")
    with open(path, "wb") as f:
        f.write(model.getvalue())
    print(f"{path}: {os.path.getsize(path)} bytes")
    return path


def train_spms():
    rules = os.path.join(OUT, "rules.tsv.tmp")
    with open(rules, "w") as f:  # U+00E9 to e', U+FB01 to "fi", tab to space, U+200B to nothing
        f.write("E9\t65 27\nFB01\t66 69\n9\t20\n200B\t\n41 30A\tC5\n41\t61\n3042 3044\t20 20\n")
    common = {"vocab_size": 800, "character_coverage": 0.99}
    paths = [
        train_spm("spm_bytes", byte_fallback=True, normalization_rule_name="identity",
                  remove_extra_whitespaces=False, split_digits=True, vocab_size=1000,
                  character_coverage=0.98, allow_whitespace_only_pieces=True,
                  control_symbols=["<sep>"], user_defined_symbols=["[INST]", "▁▁▁", "\n", "a▁b", "xyz"]),
        train_spm("spm_rules", normalization_rule_tsv=rules, user_defined_symbols=["é!", "<  >"],
                  **common),
        train_spm("spm_suffix", add_dummy_prefix=False, normalization_rule_name="identity",
                  unk_surface="?!", bos_id=-1, **common),
    ]
    os.remove(rules)
    return paths


BLOCKS = [(0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x6FF),
          (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x20A0, 0x2BFF),
          (0x3000, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xE000, 0xE010), (0xF900, 0xFFFD),
          (0x10000, 0x100FF), (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF), (0, 0x1F), (0x7F, 0xA0)]


def long_texts(some, least_bytes):
    """Texts of at least so many bytes together. tests/test_tokenizer.c makes the same ones."""
    state = 1

    def draw(n):
        nonlocal state
        state = (state * 6364136223846793005 + 1442695040888963407) & (1 << 64) - 1
        return (state >> 33) % n

    done = 0
    while done < least_bytes:
        parts = []
        for _ in range(1 + draw(200)):
            if draw(3):
                parts.append(some[draw(len(some))])
            else:
                low, high = BLOCKS[draw(len(BLOCKS))]
                parts.append("".join(chr(low + draw(high - low + 1)) for _ in range(1 + draw(20))))
        text = "".join(parts)
        done += len(text.encode())
        yield text


def fnv(data, h):
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & (1 << 64) - 1
    return h


def long_golden(some, least_bytes, ways, decode):
    """ways: name to function, text to ids; decode: of the ids of the last of them."""
    hashes = dict.fromkeys([*ways, "decoded"], 0xCBF29CE484222325)
    n_bytes = n_texts = 0
    for text in long_texts(some, least_bytes):
        for name, ids_of in ways.items():
            ids = ids_of(text)
            hashes[name] = fnv(struct.pack(f"<{len(ids)}i", *ids), hashes[name])
        hashes["decoded"] = fnv(decode(ids).encode(), hashes["decoded"])
        n_bytes += len(text.encode())
        n_texts += 1
    return {"bytes": n_bytes, "texts": n_texts, "blocks": BLOCKS, **{k: f"{h:016x}" for k, h in hashes.items()}}


def spm_golden(path, some, seed, long_bytes=0):
    sp = sentencepiece.SentencePieceProcessor(model_file=path)
    control = {sp.id_to_piece(i): i for i in range(sp.vocab_size()) if sp.is_control(i)}
    pattern = re.compile("|".join(re.escape(c) for c in sorted(control, key=len, reverse=True)))
    cases = []

    def with_special(text):
        ids, at = [], 0
        for m in pattern.finditer(text):
            ids += sp.encode(text[at:m.start()]) + [control[m.group()]]
            at = m.end()
        return ids + sp.encode(text[at:])

    for text in some:
        plain, special = sp.encode(text), with_special(text)
        case = {"text": text, "plain": plain}
        if special != plain:
            case["special"] = special
        if sp.bos_id() >= 0:
            case["template"] = [sp.bos_id()] + special
        case["decoded"] = sp.decode(special)
        cases.append(case)
    rng = random.Random(seed)
    byte_ids = [i for i in range(sp.vocab_size()) if sp.is_byte(i)] or [0, 1, 2, 3]
    space_ids = [i for i in range(sp.vocab_size()) if set(sp.id_to_piece(i)) == {"▁"}]
    decodes = []
    for _ in range(150):
        pick = lambda: rng.choice(rng.choice([byte_ids, space_ids, [0, 1, 2], range(sp.vocab_size())]))
        ids = [pick() for _ in range(rng.randrange(1, 9))]
        decodes.append({"ids": ids, "text": sp.decode(ids)})
    out = {"cases": cases, "decodes": decodes}
    if long_bytes:
        out["long"] = long_golden(some, long_bytes, {"plain": sp.encode, "special": with_special}, sp.decode)
    return out


def write_spms():
    variants = []
    some = texts()
    for i, path in enumerate(train_spms()):
        variants.append({"name": os.path.basename(path), "file": os.path.relpath(path, ROOT),
                         "patch": {}, **spm_golden(path, [t for t in some if len(t) < 250], i)})
    write("spm_cases.json", {"made_by": MADE_BY, "variants": variants})
    data = os.environ.get("NB_SHARED_DATA", os.path.join(ROOT, "..", "shared", "data"))
    file = os.path.join("mixtral-8x7b-tokenizer", "tokenizer.model")
    path = os.path.join(data, file)
    if os.path.exists(path):
        golden = {"name": "mixtral", "file": file, "patch": {}, **spm_golden(path, some, 9, 10_000_000)}
        write("mixtral.json", {"made_by": MADE_BY, "variants": [golden]})
    else:
        print(f"{path} is absent: mixtral.json not made")


def main():
    base = train_base()
    write("base.json", base)
    write_variants("cases.json", "tests/golden/tokenizer/base.json", base, variants(base))
    base = train_bytes()
    write("bytes.json", base)
    write_variants("byte_cases.json", "tests/golden/tokenizer/bytes.json", base, byte_variants(base))
    write_spms()
    demo = os.path.join(ROOT, "models", "demo", "tokenizer.json")
    if os.path.exists(demo):
        with open(demo, encoding="utf-8") as f:
            write_variants("demo.json", "models/demo/tokenizer.json", json.load(f), {"demo": {}})
    else:
        print(f"{demo} is absent: demo.json not made")


if __name__ == "__main__":
    main()
