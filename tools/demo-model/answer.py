#!/usr/bin/env python3
"""Answers documents with a finished checkpoint through transformers, as nibble does: a check on both.

    answer.py --model models/demo FILE...          prints an answer a file
    answer.py --model models/demo --folder DIR     judges it on a folder that make_eval.py wrote (--count N: on its first N)
"""
import argparse
import json
import os

import torch
from transformers import AutoModelForCausalLM

import generate
import task
import tokenizer
import train

DEFAULT = ("", [list(x) for x in task.DEFAULT.values()])
MOST = {"name": 64, "total_amount": 20, "currency": 8, "document_date": 16, "document_number": 40, "reasoning": 64}


class Answerer:
    def __init__(self, folder, packed=False):
        self.enc = tokenizer.Encoder(os.path.join(folder, "tokenizer.json"))
        self.model = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", dtype=torch.bfloat16)
        if not packed:
            self.model = self.model.dequantize().float()
        self.model.eval()
        with open(os.path.join(folder, "labels.txt"), encoding="utf-8") as f:
            self.labels = f.read().split()

    @torch.no_grad()
    def feed(self, ids):
        r = self.model(torch.tensor([ids]), past_key_values=self.cache, use_cache=True)
        self.cache = r.past_key_values
        return r.logits[0].float().log_softmax(-1)

    def choose(self, texts):
        """The likeliest of `texts` to come next, and its probability among them; the model has then read it but for its last id."""
        after, length, scores = self.last, self.cache.get_seq_length(), []
        for text in texts:
            ids = self.enc.inner(text)
            score = after[ids[0]].item()
            if len(ids) > 1:
                logp = self.feed(ids[:-1])
                score += sum(logp[i, t].item() for i, t in enumerate(ids[1:]))
                self.cache.crop(length)
            scores.append(score)
        p = torch.tensor(scores).softmax(0)
        best = int(p.argmax())
        self.pending = self.enc.inner(texts[best])
        return best, p[best].item()

    def frame(self, text):
        self.last = self.feed(self.pending + self.enc.inner(text))[-1]
        self.pending = []

    def string(self, most):
        """A JSON string or null."""
        quote, null = self.enc.vocab['"'], self.enc.vocab["null"]
        if self.last[null] > self.last[quote]:
            self.pending = [null]
            return None
        value, logp = [quote], self.feed([quote])[-1]
        while len(value) < most:
            t = logp.argmax().item()
            value.append(t)
            if t == quote and self.enc.pieces[value[-2]] != "\\":
                break
            logp = self.feed([t])[-1]
        self.pending = [quote] if value[-1] == quote else []
        text = self.enc.decode([self.enc.vocab[tokenizer.SPACE]] + value)
        try:
            return json.loads(text)
        except ValueError:
            return text

    def number(self):
        null, comma, value = self.enc.vocab["null"], self.enc.vocab[","], []
        if self.last.argmax().item() == null:
            self.pending = [null, comma]
            return None
        logp = self.last
        while len(value) < MOST["total_amount"]:
            t = logp.argmax().item()
            if t == comma:
                break
            value.append(t)
            logp = self.feed([t])[-1]
        self.pending = [comma]
        return self.enc.decode(value)

    def answer(self, text, company="", actions=()):
        e, sure = {}, {}
        before, document = train.document_ids(self.enc, text, company, actions)
        self.cache, self.pending = None, before + document

        def closed(key, values, texts):
            k, sure[key] = self.choose(texts)
            e[key] = values[k]
        quoted = lambda v: json.dumps(v, ensure_ascii=False)
        self.frame('{"document_type":"')
        closed("document_type", self.labels, [x + '"' for x in self.labels])
        self.frame(',"business_relevant":')
        closed("business_relevant", [True, False], ["true", "false"])
        self.frame(',"transaction_direction":"')
        closed("direction", task.DIRECTIONS, [x + '"' for x in task.DIRECTIONS])
        self.frame(',"primary_party":{"name":')
        e["party"] = self.string(MOST["name"])
        self.frame(',"role":')
        closed("role", task.ROLES, [quoted(x) for x in task.ROLES])
        self.frame('},"extracted_summary":{"total_amount":')
        e["total"] = self.number()
        self.frame('"currency":')
        e["currency"] = self.string(MOST["currency"])
        self.frame(',"document_date":')
        e["date"] = self.string(MOST["document_date"])
        self.frame(',"document_number":')
        e["number"] = self.string(MOST["document_number"])
        self.frame('},"reasoning":')
        e["reason"] = self.string(MOST["reasoning"])
        e["action"] = None
        if actions:
            names = [n for n, _ in actions] + [None]
            self.frame(',"selected_action":')
            closed("action", names, [quoted(n) for n in names])
        return e, sure


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--model", required=True)
    p.add_argument("--folder", help="labelled documents, as make_eval.py writes them")
    p.add_argument("--count", type=int, default=0)
    p.add_argument("--wrong", action="store_true", help="also prints each wrong answer")
    p.add_argument("--packed", action="store_true", help="multiply with the 4-bit weights as they are (slow), not with dequantized ones")
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("files", nargs="*")
    a = p.parse_args()
    if a.threads:
        torch.set_num_threads(a.threads)
    m = Answerer(a.model, a.packed)

    def read(path):
        with open(path, encoding="utf-8", errors="replace") as h:
            return generate.normalize(h.read())
    for f in a.files:
        e, sure = m.answer(read(f), *DEFAULT)
        print(os.path.basename(f), json.dumps(e, ensure_ascii=False), {k: round(v, 3) for k, v in sure.items()}, flush=True)
    if a.folder:
        with open(os.path.join(a.folder, "labels.jsonl"), encoding="utf-8") as f:
            wanted = [json.loads(line) for line in f]
        wanted = wanted[:a.count] if a.count else wanted
        right, of = {}, {}
        for w in wanted:
            company, actions = DEFAULT
            if w["context"]:
                company, actions = w["context"]["company"], [(x, None) if isinstance(x, str) else (x["name"], x.get("description")) for x in w["context"]["actions"]]
            got, _ = m.answer(read(os.path.join(a.folder, w["file"])), company, actions)
            j = train.judge(w["expected"], {**got, "transaction_direction": got["direction"]})
            five = [k for k in ("party", "date", "currency", "total", "number") if k in j]
            for k, v in {**j, "fields": all(j[k] for k in five)}.items():
                right[k], of[k] = right.get(k, 0) + v, of.get(k, 0) + 1
            if a.wrong and not all(j.values()):
                print(w["file"], {k: (w["expected"][k], got.get(k)) for k in j if not j[k]}, flush=True)
        print({k: f"{100 * n / of[k]:.1f} %" for k, n in right.items()}, "of", len(wanted))


if __name__ == "__main__":
    main()
