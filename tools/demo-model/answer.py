#!/usr/bin/env python3
"""Answers documents with a finished checkpoint through transformers, as nibble does: a check on both.

    answer.py --model models/demo FILE...                     prints an answer a file
    answer.py --model models/demo --receipts receipts.jsonl   judges it on the real receipts kept aside
"""
import argparse
import json
import os

import torch
from transformers import AutoModelForCausalLM

import generate
import tokenizer
import train


@torch.no_grad()
def answer(model, enc, text):
    quote, null = enc.vocab['"'], enc.vocab["null"]
    out = {}

    def feed(ids, cache):
        r = model(torch.tensor([ids]), past_key_values=cache, use_cache=True)
        return r.logits[0].float().log_softmax(-1), r.past_key_values

    logp, cache = feed(train.document_ids(enc, text) + enc.encode('{"document_type":"'), None)
    after, length, best = logp[-1], cache.get_seq_length(), None
    for label in generate.LABELS:
        ids = enc.inner(label + '"')
        logp, cache = feed(ids, cache)
        score = after[ids[0]].item() + sum(logp[i, t].item() for i, t in enumerate(ids[1:]))
        if best is None or score > best[0]:
            best = (score, label)
        cache.crop(length)
    out["document_type"] = best[1]
    pending = enc.inner(best[1] + '"')
    for field in train.FIELDS:
        logp, cache = feed(pending + enc.inner(f',"{field}":'), cache)
        if logp[-1][null] > logp[-1][quote]:
            out[field], pending = None, [null]
            continue
        value, pending = [quote], [quote]
        while len(value) < 72:
            logp, cache = feed(pending, cache)
            t = logp[-1].argmax().item()
            value.append(t)
            pending = [t]
            if t == quote and enc.pieces[value[-2]] != "\\":
                break
        try:
            out[field] = json.loads(enc.decode([enc.vocab[tokenizer.SPACE]] + value))
        except ValueError:
            out[field] = enc.decode(value)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--model", required=True)
    p.add_argument("--receipts", help="receipts.jsonl")
    p.add_argument("--part", default="held")
    p.add_argument("--packed", action="store_true", help="multiply with the 4-bit weights as they are (slow), not with dequantized ones")
    p.add_argument("files", nargs="*")
    a = p.parse_args()
    enc = tokenizer.Encoder(os.path.join(a.model, "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(a.model, device_map="cpu", dtype=torch.bfloat16)
    if not a.packed:
        model = model.dequantize().float()
    model.eval()
    for f in a.files:
        with open(f, encoding="utf-8", errors="replace") as h:
            print(os.path.basename(f), json.dumps(answer(model, enc, generate.normalize(h.read())), ensure_ascii=False), flush=True)
    if a.receipts:
        documents = train.real_documents(a.receipts, a.part)
        right = {}
        for i, text, expected in documents:
            got = answer(model, enc, text)
            j = train.judge(expected, got)
            j["all three"] = j["party"] and j["date"] and j["total"]
            for k, v in j.items():
                right[k] = right.get(k, 0) + v
            if not j["all three"]:
                print("wrong", i, {k: (expected[k], got[k]) for k in expected if not j[k]}, flush=True)
        print({k: f"{100 * n / len(documents):.1f} %" for k, n in right.items()}, "of", len(documents))


if __name__ == "__main__":
    main()
