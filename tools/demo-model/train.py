#!/usr/bin/env python3
"""Trains the demo model on one GPU.

    train.py --receipts receipts.jsonl --tokenizer models/demo/tokenizer.json --start models/demo --out runs/1 --end 560

Documents are made while training, by worker processes, packed end to end; batch number i is a pure function of i
and --seed. --start takes weights: a folder of part-*.safetensors, or a finished 4-bit checkpoint. The learning rate falls linearly to 0 over
--steps, or, where the speed is not known beforehand, until --end seconds after the start of the program, whatever starting and compiling took.
Every --save seconds and at the end, the weights are written to --out in bf16 as part-*.safetensors by transformers' names, and a
line says how often all of an answer is right on documents of held-out structure, each word given the right words before it. --checkpoint
takes all that a later call needs to go on.
"""
import argparse
import glob
import json
import os
import sys
import time

import torch

import generate
import model as demo
import task
import tokenizer

PIECES_FOR_ANSWER = 280         # ids kept free for the answer
REASON_WEIGHT = 0.3


# ---------------------------------------------------------------- documents as ids

def document_ids(enc, text, company=None, actions=()):
    """The prompt's ids; of a document too long, the first two thirds of the room and the last third."""
    before = [tokenizer.BOS] + enc.inner(task.prompt_prefix(company, actions)) + [enc.document]
    ids = enc.inner(text)
    room = demo.CONTEXT - len(before) - 1 - PIECES_FOR_ANSWER
    if len(ids) > room:
        first = room * 2 // 3
        ids = ids[:first] + ids[len(ids) - (room - first):]
    return before, ids + [tokenizer.ANSWER]


def answer_ids(enc, expected, number_known=True):
    """The answer's ids, and the class of each (task.answer_parts)."""
    ids, kinds = [], []
    for text, kind in task.answer_parts(expected, number_known):
        part = enc.inner(text)
        ids += part
        kinds += [kind] * len(part)
    return ids + [tokenizer.EOS], kinds + [0]


# by class of id: weight in the answer's loss, weight in the document's
WEIGHTS = {0: (0.0, 0.1), 1: (1.0, 0.0), 2: (REASON_WEIGHT, 0.0), 3: (0.0, 0.0)}


class Batches(torch.utils.data.Dataset):
    """Batch i: documents end to end, `size` ids in all."""

    def __init__(self, source, enc, size, steps, document_weight, kinds=None, held=False):
        self.source, self.enc, self.size, self.steps, self.document_weight = source, enc, size, steps, document_weight
        self.kinds, self.held = kinds, held
        self.most = max(8, size // 256)         # documents in a batch

    def __len__(self):
        return self.steps

    def __getitem__(self, i):
        ids, targets, answer, document, positions, starts = [], [], [], [], [], [0]
        for n in range(self.most):
            number = i * self.most + n
            try:
                d = self.source.document(number, self.kinds[n % len(self.kinds)] if self.kinds else None, self.held)
            except Exception as e:      # one in millions must not end a run: said, and left out
                print(f"document {number}: {type(e).__name__}: {e}", file=sys.stderr, flush=True)
                continue
            before, doc = document_ids(self.enc, d["text"], d["company"], d["actions"])
            ans, kinds = answer_ids(self.enc, d["expected"], d["number_known"])
            if not d["actions"]:        # the program does not ask for an action then: `null}` is certain
                kinds[-3:-1] = [0, 0]
            seq = before + doc + ans
            left = self.size - len(ids)
            if len(seq) - 1 > left:
                if left > 600:          # a shorter one may fit yet
                    continue
                break
            ids += seq[:-1]
            targets += seq[1:]
            answer += [0.0] * (len(before) + len(doc) - 1) + [WEIGHTS[c][0] for c in kinds]
            document += [0.0] * (len(before) - 1) + [1.0] * len(doc) + [WEIGHTS[c][1] for c in kinds]
            positions += range(len(seq) - 1)
            starts.append(len(ids))
        fill = self.size - len(ids)
        for x in (ids, targets, answer, document):
            x += [0] * fill
        positions += range(fill)
        answer, document = torch.tensor(answer), torch.tensor(document)
        weights = answer / answer.sum() + self.document_weight * document / document.sum()
        n_documents = len(starts) - 1
        starts += [self.size] * (self.most + 2 - len(starts))
        return (torch.tensor(ids), torch.tensor(targets), weights, torch.tensor(positions, dtype=torch.int32),
                torch.tensor(starts, dtype=torch.int32), answer, n_documents)


@torch.no_grad()
def score(model, batches, device):
    """The share of documents whose answer is right throughout (but for the reason), each id given the right ones before it."""
    right = of = 0
    for ids, targets, _, positions, starts, answer, n in batches:
        h, _ = model(ids.to(device), positions.to(device), starts.to(device))
        wrong = ((h @ model.embed.to(h.dtype).T).argmax(-1).cpu() != targets) & (answer == 1)
        count = torch.cat((torch.zeros(1), wrong.float().cumsum(0)))
        right += (count[starts[1:n + 1].long()] == count[starts[:n].long()]).sum().item()
        of += n
    return right / max(of, 1)


def judge(expected, got):
    """Which fields are right: equal once case and all spaces are dropped."""
    same = lambda a, b: (a is None and b is None) or (a is not None and b is not None and generate.squeeze(str(a)) == generate.squeeze(str(b)))
    return {k: same(expected[k], got.get(k)) for k in expected}


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
        save_file(part, os.path.join(out, f"part-{n}.new"))
    for n in range(len(parts)):         # all or nothing, as nearly as files allow
        os.replace(os.path.join(out, f"part-{n}.new"), os.path.join(out, f"part-{n}.safetensors"))


def dequantized(state, name):
    """A matrix of a 4-bit checkpoint (bitsandbytes' NF4, its scales quantized again or not), in fp32; others as they are."""
    packed = state[name]
    if packed.dtype != torch.uint8:
        return packed.float()
    info = json.loads(bytes(state[name + ".quant_state.bitsandbytes__nf4"].tolist()))
    codes = torch.stack((packed.flatten() >> 4, packed.flatten() & 15), 1).flatten().long()
    scale = state[name + ".absmax"]
    if scale.dtype == torch.uint8:
        scale = state[name + ".nested_quant_map"][scale.long()] * state[name + ".nested_absmax"].repeat_interleave(info["nested_blocksize"])[:len(scale)] + info["nested_offset"]
    values = state[name + ".quant_map"][codes].view(-1, info["blocksize"]) * scale[:, None]
    return values.reshape(info["shape"])


def load_weights(model, folder):
    """Starts from weights that save_weights wrote, or from a finished checkpoint."""
    from safetensors.torch import load_file
    state = {}
    for f in sorted(glob.glob(os.path.join(folder, "part-*.safetensors")) or glob.glob(os.path.join(folder, "model*.safetensors"))):
        state.update(load_file(f))
    with torch.no_grad():
        get = lambda name: dequantized(state, name)
        model.embed.copy_(get("model.embed_tokens.weight"))
        model.norm.copy_(get("model.norm.weight"))
        for l in range(demo.LAYERS):
            p = f"model.layers.{l}."
            model.norm1[l].copy_(get(p + "input_layernorm.weight"))
            model.norm2[l].copy_(get(p + "post_attention_layernorm.weight"))
            for name in "qkvo":
                getattr(model, name)[l].copy_(get(p + f"self_attn.{name}_proj.weight"))
            model.router[l].copy_(get(p + "block_sparse_moe.gate.weight"))
            for e in range(demo.EXPERTS):
                x = p + f"block_sparse_moe.experts.{e}."
                model.w1[l, e].copy_(get(x + "w1.weight"))
                model.w3[l, e].copy_(get(x + "w3.weight"))
                model.w2[l, e].copy_(get(x + "w2.weight").T)


def main():
    born = time.time()
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--receipts", required=True, help="receipts.jsonl")
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--out", required=True, help="folder for weights, log and result")
    p.add_argument("--checkpoint", help="file to go on from and to leave off in")
    p.add_argument("--start", help="folder of weights to start from, instead of random ones")
    p.add_argument("--part", default="train", help="of the real receipts: train, or fit to keep dev for choosing")
    p.add_argument("--judge", default="dev", help="the real receipts to watch: dev (also trained on, unless --part fit) or held")
    p.add_argument("--share", type=float, default=0.3, help="of documents made from real receipts")
    p.add_argument("--letters", type=float, default=0, help="share of composed documents that are written as letters.py does (0)")
    p.add_argument("--steps", type=int, default=0)
    p.add_argument("--end", type=float, default=0, help="instead of --steps: seconds after the start of the program at which the learning rate is 0")
    p.add_argument("--stop-after", type=float, default=0, help="seconds of this call after which to leave off")
    p.add_argument("--save", type=float, default=60, help="seconds between two savings")
    p.add_argument("--batch", type=int, default=49152, help="ids a step")
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--decay", type=float, default=0.1)
    p.add_argument("--warmup", type=int, default=100, help="steps")
    p.add_argument("--round-from", type=float, default=0.85, help="share of training after which weights are rounded to NF4 in the forward pass")
    p.add_argument("--document-weight", type=float, default=0.1)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    p.add_argument("--no-compile", action="store_true")
    p.add_argument("--compile-parts", action="store_true", help="compile a layer once, not the whole model: for short runs")
    p.add_argument("--watch", type=int, default=4, help="batches to score by at every saving")
    a = p.parse_args()
    if bool(a.steps) == bool(a.end):
        p.error("one of --steps and --end is needed")
    generate.compose.LETTERS = a.letters        # before the workers are started
    os.makedirs(a.out, exist_ok=True)
    log = open(os.path.join(a.out, "log.txt"), "a")

    def say(*words):
        print(*words, flush=True)
        print(*words, file=log, flush=True)

    torch.manual_seed(a.seed)
    torch.set_float32_matmul_precision("high")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    enc = tokenizer.Encoder(a.tokenizer)
    real = generate.load_receipts(a.receipts, a.part)
    source = generate.Source(real, a.share, a.seed, enc.vocab)
    batches = Batches(source, enc, a.batch, a.steps or 10_000_000, a.document_weight)
    step = spent = 0
    state = None
    if a.checkpoint and os.path.exists(a.checkpoint):
        state = torch.load(a.checkpoint, map_location="cpu", weights_only=False)
        step, spent = state["step"], state["spent"]
    order = torch.utils.data.Subset(batches, range(step, len(batches)))
    loader = torch.utils.data.DataLoader(order, batch_size=None, num_workers=a.workers, pin_memory=device == "cuda",
                                         prefetch_factor=12 if a.workers else None)
    feed = iter(loader)                 # the workers begin while the rest is made ready
    model = demo.Model(enc.size).to(device)
    if a.start:
        load_weights(model, a.start)
    opt = Optimizer(model, a.lr, a.decay)
    if state:
        model.load_state_dict(state["model"])
        opt.load(state["optimizer"])
        say(f"going on from step {step}, {spent:.0f} s")
    watch = generate.Source(generate.load_receipts(a.receipts, a.judge), 0, a.seed + 1)
    held = Batches(watch, enc, a.batch, 1 << 40, 0, ["composed", "composed", "composed", "other"], True)
    dev = Batches(watch, enc, a.batch, 1 << 40, 0, ["real"])
    held, dev = [held[1 << 20 | i] for i in range(a.watch)], [dev[1 << 20 | i] for i in range(a.watch)]
    loss_of = model.loss if a.no_compile or a.compile_parts else torch.compile(model.loss, dynamic=False)
    if a.compile_parts:
        model.compile_parts()
    amount = torch.zeros((), device=device)
    seen = torch.zeros(4, device=device)
    waited, documents = 0.0, 0
    begun = last = saved = None
    share, done = 0.0, False
    say(f"ready after {time.time() - born:.0f} s; {device}, torch {torch.__version__}, {a.workers} workers")

    def save():
        save_weights(model, a.out)
        say(f"step {step}: all right on held-out structures {score(model, held, device):.3f}, on real receipts made over ({a.judge}) {score(model, dev, device):.3f}; {time.time() - born:.0f} s")

    while True:
        t0 = time.time()
        batch = next(feed, None)
        now = time.time()
        waited += now - t0
        if begun is not None:
            share = step / a.steps if a.steps else (spent + now - begun) / max(1.0, spent + born + a.end - begun)
        if batch is None or share >= 1:
            done = True
            break
        ids, targets, weights, positions, starts, chosen = (x.to(device, non_blocking=True) for x in batch[:6])
        documents += batch[6]
        scale = min(1.0, (step + 1) / a.warmup) * (1 - share)
        amount.fill_(1.0 if share >= a.round_from else 0.0)
        ce_sum, balance, ce = loss_of(ids, targets, weights, positions, starts, amount if share >= a.round_from or not a.compile_parts else None)
        (ce_sum + 0.01 * balance).backward()
        opt.step(scale, 0.85 + 0.10 * min(1.0, step / 300))
        for q in model.parameters():
            q.grad = None
        with torch.no_grad():
            seen += torch.stack(((ce.detach() * chosen).sum(), chosen.sum(), balance.detach(), torch.ones((), device=device)))
        step += 1
        if begun is None or step % 20 == 0 or device == "cpu":
            if device == "cuda":        # so that the clock says what is done, not what is asked for
                torch.cuda.synchronize()
            now = time.time()
            if begun is None:           # the first step compiles; its time does not count
                begun = saved = now
                say(f"first step after {now - born:.0f} s")
            if step % 200 == 0 or device == "cpu":
                s = seen.tolist()
                say(f"step {step} share {share:.3f} answer {s[0] / max(s[1], 1):.4f} balance {s[2] / s[3]:.3f} {now - born:.0f} s, waited {waited:.1f} s, {documents} documents, "
                    f"{1000 * (now - begun) / max(1, documents):.2f} ms a document")
                seen.zero_()
            if now - saved > a.save:
                save()
                saved = time.time()
            if a.stop_after and now - born > a.stop_after:
                break
    if begun is not None:
        spent += time.time() - begun
    say(f"stopped at step {step}, {spent:.0f} s of training, {documents} documents in this call, all done: {done}")
    if a.checkpoint:
        torch.save({"model": model.state_dict(), "optimizer": opt.state(), "step": step, "spent": spent}, a.checkpoint)
    save()
    result = {"steps": step, "seconds": round(spent), "documents": documents, "arguments": vars(a), "torch": torch.__version__,
              "device": torch.cuda.get_device_name() if device == "cuda" else "cpu"}
    with open(os.path.join(a.out, "result.json"), "w") as f:
        json.dump(result, f, indent=1)
    log.close()
    sys.stdout.flush()
    os._exit(0)                         # the workers are not waited for


if __name__ == "__main__":
    main()
