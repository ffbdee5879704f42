#!/usr/bin/env python3
"""Trains the demo model on one GPU.

    train.py --receipts receipts.jsonl --tokenizer models/demo/tokenizer.json --out runs/final --seconds 1100

Documents are made while training, by worker processes, packed end to end; batch number i is a pure function of i
and --seed. --out takes a checkpoint at the end of each call (--stop-after), with which the next call goes on; at the
very end, the weights in bf16 as part-*.safetensors by transformers' names, and result.json with what the model
answers right. The learning rate falls linearly to 0 over --steps, or, where the speed is not known beforehand,
over --seconds of training time.
"""
import argparse
import json
import math
import os
import sys
import time

import torch

import generate
import model as demo
import tokenizer

PIECES_FOR_ANSWER = 160         # ids kept free for the answer
ROOM = demo.CONTEXT - 2 - PIECES_FOR_ANSWER
FIELDS = ("party", "date", "currency", "total")


# ---------------------------------------------------------------- documents as ids

def document_ids(enc, text):
    """The document's ids; of one too long, the first two thirds of the room and the last third."""
    ids = enc.encode(text)
    if len(ids) > ROOM:
        first = ROOM * 2 // 3
        ids = ids[:first] + ids[len(ids) - (ROOM - first):]
    return [tokenizer.BOS] + ids + [tokenizer.ANSWER]


def answer_ids(enc, expected):
    """The answer's ids, and for each whether the model chooses it (1) or the program writes it (0)."""
    ids, chosen = enc.encode('{"document_type":"'), None
    chosen = [0] * len(ids)

    def add(text, own):
        part = enc.inner(text)
        ids.extend(part)
        chosen.extend([own] * len(part))

    add(expected["document_type"] + '"', 1)
    for field in FIELDS:
        add(f',"{field}":', 0)
        add(json.dumps(expected[field], ensure_ascii=False), 1)
    add("}", 0)
    return ids + [tokenizer.EOS], chosen + [0]


class Batches(torch.utils.data.Dataset):
    """Batch i: documents end to end, `size` ids in all."""

    def __init__(self, source, enc, size, steps, document_weight):
        self.source, self.enc, self.size, self.steps, self.document_weight = source, enc, size, steps, document_weight
        self.most = size // 64          # documents in a batch

    def __len__(self):
        return self.steps

    def __getitem__(self, i):
        ids, targets, answer, document, positions, starts = [], [], [], [], [], [0]
        for n in range(self.most):
            d = self.source.document(i * self.most + n)
            doc = document_ids(self.enc, d["text"])
            ans, chosen = answer_ids(self.enc, d["expected"])
            seq = doc + ans
            left = self.size - len(ids)
            if len(seq) - 1 > left:
                if left > 400:          # a shorter one may fit yet
                    continue
                break
            ids += seq[:-1]
            targets += seq[1:]
            answer += [0.0] * (len(doc) - 1) + [float(c) for c in chosen]
            document += [1.0] * (len(doc) - 1) + [0.1 * (1 - c) for c in chosen]
            positions += range(len(seq) - 1)
            starts.append(len(ids))
        fill = self.size - len(ids)
        for x in (ids, targets, answer, document):
            x += [0] * fill
        positions += range(fill)
        answer, document = torch.tensor(answer), torch.tensor(document)
        weights = answer / answer.sum() + self.document_weight * document / document.sum()
        starts += [self.size] * (self.most + 2 - len(starts))
        return (torch.tensor(ids), torch.tensor(targets), weights, torch.tensor(positions, dtype=torch.int32),
                torch.tensor(starts, dtype=torch.int32), answer)


# ---------------------------------------------------------------- answers, chosen as nibble does

@torch.no_grad()
def next_logits(model, sequences, limit=65536):
    """Logits after the last id of each sequence."""
    out, device = [], model.embed.device
    group, length = [], 0

    def flush():
        nonlocal group, length
        if group:
            ids = torch.tensor([x for s in group for x in s], device=device)
            positions = torch.tensor([p for s in group for p in range(len(s))], device=device)
            ends = torch.tensor([0] + [len(s) for s in group], device=device).cumsum(0).to(torch.int32)
            h, _ = model(ids, positions, ends)
            out.append(h[(ends[1:] - 1).long()].float() @ model.embed.float().T)
        group, length = [], 0

    for s in sequences:
        if length + len(s) > limit:
            flush()
        group.append(s)
        length += len(s)
    flush()
    return torch.cat(out)


def answers(model, enc, texts):
    """What the model answers for each text: a dictionary, with the label's log-probability as "score"."""
    device = model.embed.device
    limit = 65536 if device.type == "cuda" else 1500
    quote, null = enc.vocab['"'], enc.vocab["null"]
    seqs = [document_ids(enc, t) + enc.encode('{"document_type":"') for t in texts]
    results = [{} for _ in texts]
    # The type: the label whose ids, closing quote included, are likeliest.
    scores = torch.zeros(len(texts), len(generate.LABELS))
    for k, label in enumerate(generate.LABELS):
        part = enc.inner(label + '"')
        for n in range(len(part)):
            logp = next_logits(model, [s + part[:n] for s in seqs], limit).log_softmax(-1)
            scores[:, k] += logp[:, part[n]].cpu()
    for i, k in enumerate(scores.argmax(1).tolist()):
        results[i]["document_type"] = generate.LABELS[k]
        seqs[i] = seqs[i] + enc.inner(generate.LABELS[k] + '"')
    for field in FIELDS:
        frame = enc.inner(f',"{field}":')
        seqs = [s + frame for s in seqs]
        values = [[] for _ in texts]
        live = list(range(len(texts)))
        for step in range(72):
            logits = next_logits(model, [seqs[i] + values[i] for i in live], limit)
            if step == 0:       # a string, or null?
                keep = torch.full_like(logits, -math.inf)
                keep[:, [quote, null]] = logits[:, [quote, null]]
                logits = keep
            best, still = logits.argmax(1).tolist(), []
            for i, t in zip(live, best):
                values[i].append(t)
                escaped = len(values[i]) > 2 and enc.pieces[values[i][-2]] == "\\"
                if t != null and not (step > 0 and t == quote and not escaped):
                    still.append(i)
            live = still
            if not live:
                break
        for i, v in enumerate(values):
            seqs[i] = seqs[i] + v
            text = enc.decode([enc.vocab[tokenizer.SPACE]] + v)
            try:
                results[i][field] = json.loads(text)
            except ValueError:
                results[i][field] = text
    return results


def judge(expected, got):
    """Which fields are right: equal once case and all spaces are dropped."""
    same = lambda a, b: (a is None and b is None) or (a is not None and b is not None and generate.squeeze(str(a)) == generate.squeeze(str(b)))
    return {k: same(expected[k], got.get(k)) for k in expected}


def evaluate(model, enc, name, documents, wrong=40):
    """Prints and returns the share of right answers on [(id, text, expected)]."""
    got = answers(model, enc, [d[1] for d in documents])
    fields = [f for f in ("document_type",) + FIELDS if f in documents[0][2]]
    right = {f: 0 for f in fields + ["all"]}
    for (i, text, e), g in zip(documents, got):
        j = judge({f: e[f] for f in fields}, g)
        for f in fields:
            right[f] += j[f]
        ok = all(j[f] for f in ("date", "total", "party") if f in j)
        right["all"] += ok
        if not all(j.values()) and wrong > 0:
            wrong -= 1
            print("  wrong", i, {f: (e[f], g.get(f)) for f in fields if not j[f]}, flush=True)
    table = {f: round(100 * n / len(documents), 1) for f, n in right.items()}
    print(f"{name}: {len(documents)} documents, right in %: {table}", flush=True)
    return table


def real_documents(path, part):
    return [(r["id"], generate.normalize(r["text"]), {"document_type": "receipt", "currency": "MYR", **r["expected"]})
            for r in generate.load_receipts(path, part)]


def made_documents(source, first, count, kinds):
    out = []
    for n in range(count):
        d = source.document(first + n, kinds[n % len(kinds)])
        out.append((first + n, d["text"], d["expected"]))
    return out


# ---------------------------------------------------------------- the optimizer

@torch.no_grad()
def orthogonal(g):
    """The nearest matrix with all singular values near 1, of each matrix in g [n, rows, columns] (Muon's step)."""
    x = g.to(torch.bfloat16 if g.is_cuda else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.mT if tall else x).to(g.dtype)


class Optimizer:
    """Muon for the matrices, Adam for embedding, router and norms. lr and decay are those of Adam's scale."""

    def __init__(self, model, lr, decay):
        self.lr, self.decay = lr, decay
        named = dict(model.named_parameters())
        self.matrices = [(k, named[k]) for k in model.MATRICES]
        self.momentum = {k: torch.zeros_like(p) for k, p in self.matrices}
        self.adam = torch.optim.AdamW([p for k, p in named.items() if k not in self.momentum], lr=lr, betas=(0.9, 0.95), weight_decay=0.0)

    @torch.no_grad()
    def step(self, scale, momentum):
        for group in self.adam.param_groups:
            group["lr"] = self.lr * scale
        for p in self.adam.param_groups[0]["params"]:
            torch.nn.utils.clip_grad_norm_([p], 1.0)
        self.adam.step()
        shapes = {}
        for k, p in self.matrices:
            m = self.momentum[k]
            m.lerp_(p.grad, 1 - momentum)
            shapes.setdefault(p.shape[-2:], []).append((p, p.grad.lerp(m, momentum)))
        for (rows, columns), members in shapes.items():
            u = orthogonal(torch.cat([x.reshape(-1, rows, columns) for _, x in members]))
            at = 0
            for p, _ in members:
                n = p.numel() // (rows * columns)
                p.mul_(1 - self.lr * scale * self.decay)
                p.add_(u[at:at + n].reshape(p.shape), alpha=-self.lr * scale * 0.2 * max(rows, columns) ** 0.5)
                at += n

    def state(self):
        return {"momentum": self.momentum, "adam": self.adam.state_dict()}

    def load(self, state):
        for k, v in state["momentum"].items():
            self.momentum[k].copy_(v)
        self.adam.load_state_dict(state["adam"])


def save_weights(model, out, most=15_000_000):
    """The weights in bf16, in files of at most `most` bytes."""
    from safetensors.torch import save_file
    parts, size = [{}], 0
    for k, v in model.hf_state().items():
        v = v.to("cpu", torch.bfloat16).contiguous()
        if size + v.nbytes > most:
            parts.append({})
            size = 0
        parts[-1][k] = v
        size += v.nbytes
    for n, part in enumerate(parts):
        save_file(part, os.path.join(out, f"part-{n}.safetensors"))


def load_weights(model, folder):
    """Starts from weights that save_weights wrote."""
    import glob
    from safetensors.torch import load_file
    state = {}
    for f in sorted(glob.glob(os.path.join(folder, "part-*.safetensors"))):
        state.update(load_file(f))
    with torch.no_grad():
        model.embed.copy_(state["model.embed_tokens.weight"])
        model.norm.copy_(state["model.norm.weight"])
        for l in range(demo.LAYERS):
            p = f"model.layers.{l}."
            model.norm1[l].copy_(state[p + "input_layernorm.weight"])
            model.norm2[l].copy_(state[p + "post_attention_layernorm.weight"])
            for name in "qkvo":
                getattr(model, name)[l].copy_(state[p + f"self_attn.{name}_proj.weight"])
            model.router[l].copy_(state[p + "block_sparse_moe.gate.weight"])
            for e in range(demo.EXPERTS):
                x = p + f"block_sparse_moe.experts.{e}."
                model.w1[l, e].copy_(state[x + "w1.weight"])
                model.w3[l, e].copy_(state[x + "w3.weight"])
                model.w2[l, e].copy_(state[x + "w2.weight"].T)


def main():
    born = time.time()
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--receipts", required=True, help="receipts.jsonl")
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--out", required=True, help="folder for weights, log and result")
    p.add_argument("--checkpoint", help="file to go on from and to leave off in")
    p.add_argument("--start", help="folder of part-*.safetensors to start from, instead of random weights")
    p.add_argument("--part", default="train", help="of the real receipts: train, or fit to keep dev for choosing")
    p.add_argument("--judge", default="held", help="the real receipts to judge by at the end: held or dev")
    p.add_argument("--share", type=float, default=0.55, help="of documents made from real receipts")
    p.add_argument("--steps", type=int, default=0)
    p.add_argument("--seconds", type=float, default=0, help="training time in all, instead of --steps")
    p.add_argument("--stop-after", type=float, default=0, help="seconds of this call after which to leave off")
    p.add_argument("--batch", type=int, default=49152, help="ids a step")
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--decay", type=float, default=0.1)
    p.add_argument("--warmup", type=int, default=200, help="steps")
    p.add_argument("--round-from", type=float, default=0.85, help="share of training after which weights are rounded to NF4 in the forward pass")
    p.add_argument("--document-weight", type=float, default=0.1)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    p.add_argument("--no-compile", action="store_true")
    p.add_argument("--judge-count", type=int, default=300)
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    log = open(os.path.join(a.out, "log.txt"), "a")

    def say(*words):
        print(*words, flush=True)
        print(*words, file=log, flush=True)

    torch.manual_seed(a.seed)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    enc = tokenizer.Encoder(a.tokenizer)
    source = generate.Source(generate.load_receipts(a.receipts, a.part), a.share, a.seed, enc.vocab)
    model = demo.Model(enc.size).to(device)
    if a.start:
        load_weights(model, a.start)
    opt = Optimizer(model, a.lr, a.decay)
    step = spent = 0
    if a.checkpoint and os.path.exists(a.checkpoint):
        state = torch.load(a.checkpoint, map_location=device, weights_only=False)
        model.load_state_dict(state["model"])
        opt.load(state["optimizer"])
        step, spent = state["step"], state["spent"]
        say(f"going on from step {step}, {spent:.0f} s")
    batches = Batches(source, enc, a.batch, a.steps or 10_000_000, a.document_weight)
    order = torch.utils.data.Subset(batches, range(step, len(batches)))
    loader = torch.utils.data.DataLoader(order, batch_size=None, num_workers=a.workers, pin_memory=device == "cuda",
                                         prefetch_factor=12 if a.workers else None)
    loss_of = model.loss if a.no_compile else torch.compile(model.loss, dynamic=False)
    amount, done, share = torch.zeros((), device=device), False, 0.0
    seen = torch.zeros(4, device=device)
    waited = 0.0
    feed = iter(loader)
    begun = last = None
    while True:
        t0 = time.time()
        batch = next(feed, None)
        if batch is None:
            done = True
            break
        waited += time.time() - t0
        ids, targets, weights, positions, starts, chosen = (x.to(device, non_blocking=True) for x in batch)
        share = (step / a.steps) if a.steps else spent / a.seconds
        if share >= 1:
            done = True
            break
        scale = min(1.0, (step + 1) / a.warmup) * (1 - share)
        amount.fill_(1.0 if share >= a.round_from else 0.0)
        ce_sum, balance, ce = loss_of(ids, targets, weights, positions, starts, amount)
        (ce_sum + 0.01 * balance).backward()
        opt.step(scale, 0.85 + 0.10 * min(1.0, step / 300))
        for q in model.parameters():
            q.grad = None
        with torch.no_grad():
            seen += torch.stack(((ce.detach() * chosen).sum(), chosen.sum(), balance.detach(), torch.ones((), device=device)))
        step += 1
        if begun is None:               # the first step compiles; its time does not count
            if device == "cuda":
                torch.cuda.synchronize()
            begun = last = time.time()
            say(f"first step after {begun - born:.0f} s")
        elif step % 50 == 0 or device == "cpu":
            if step % 250 == 0 or device == "cpu":
                s = seen.tolist()
                say(f"step {step} share {share:.3f} answer {s[0] / max(s[1], 1):.4f} balance {s[2] / s[3]:.3f} "
                    f"{time.time() - born:.0f} s, waited {waited:.1f} s")
                seen.zero_()
            elif device == "cuda":
                torch.cuda.synchronize()
            now = time.time()
            spent += now - last
            last = now
            if a.stop_after and now - born > a.stop_after:
                break
    say(f"stopped at step {step}, {spent:.0f} s of training, {spent / max(1, step) * 1000:.1f} ms a step, all done: {done}")
    del feed
    if a.checkpoint:
        torch.save({"model": model.state_dict(), "optimizer": opt.state(), "step": step, "spent": spent}, a.checkpoint)
    if amount.item() > 0:               # serve what was trained: the export rounds again, to the same codes
        say("weights were rounded to NF4 in the last part")
    save_weights(model, a.out)
    result = {"steps": step, "seconds": round(spent), "arguments": vars(a), "torch": torch.__version__,
              "device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    made = generate.Source(generate.load_receipts(a.receipts, "train"), 0, a.seed)
    result["real"] = evaluate(model, enc, f"real receipts, {a.judge}", real_documents(a.receipts, a.judge)[:a.judge_count])
    if done or a.judge_count < 50:
        result["trained on"] = evaluate(model, enc, "real receipts trained on", real_documents(a.receipts, a.part)[:a.judge_count // 2], 20)
        for kind in ("receipt", "world_receipt", "invoice", "credit_note", "other"):
            result[kind] = evaluate(model, enc, f"made-up {kind}", made_documents(made, 3_000_000_000, a.judge_count // 3, [kind]), 8)
    with open(os.path.join(a.out, "result.json"), "w") as f:
        json.dump(result, f, indent=1)
    say(json.dumps({k: v for k, v in result.items() if k != "arguments"}), f"after {time.time() - born:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
