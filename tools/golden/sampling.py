#!/usr/bin/env python3
"""Writes tests/golden/sampling.json: what transformers' logits processors leave of some logits.

    python3 tools/golden/sampling.py [file, default tests/golden/sampling.json]

Each case has the logits (as they are in float32), the tokens seen so far, the options, and what may be
drawn: token ids, most probable first, and their probabilities.
"""

import json
import sys

import torch
import transformers
from transformers.generation.logits_process import (
    LogitsProcessorList, MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper,
    TopKLogitsWarper, TopPLogitsWarper)

OPTIONS = [
    dict(temperature=1.0),
    dict(temperature=0.7),
    dict(temperature=2.5, top_k=5),
    dict(temperature=1.0, top_k=1),
    dict(temperature=1.0, top_p=0.9),
    dict(temperature=1.0, top_p=0.5, top_k=20),
    dict(temperature=1.0, top_p=0.01),
    dict(temperature=1.0, min_p=0.1),
    dict(temperature=1.5, top_k=30, top_p=0.95, min_p=0.05),
    dict(temperature=1.0, repetition_penalty=1.3),
    dict(temperature=0.8, repetition_penalty=1.1, top_k=50, top_p=0.95),
    dict(temperature=1.0, repetition_penalty=0.8, top_p=0.8),
]


def kept(logits, seen, o):
    """In the order in which generate() of transformers applies them."""
    chain = LogitsProcessorList()
    if "repetition_penalty" in o:
        chain.append(RepetitionPenaltyLogitsProcessor(o["repetition_penalty"]))
    chain.append(TemperatureLogitsWarper(o["temperature"]))
    if "top_k" in o:
        chain.append(TopKLogitsWarper(o["top_k"]))
    if "top_p" in o:
        chain.append(TopPLogitsWarper(o["top_p"]))
    if "min_p" in o:
        chain.append(MinPLogitsWarper(o["min_p"]))
    scores = chain(torch.tensor([seen]), logits.clone()[None])[0].double()
    p = scores.softmax(-1)
    ids = [i for i in p.argsort(descending=True, stable=True).tolist() if p[i] > 1e-24]
    return ids, [float(f"{p[i].item():.9g}") for i in ids]


def main():
    path = sys.argv[1] if len(sys.argv) > 1 else "tests/golden/sampling.json"
    generator = torch.Generator().manual_seed(1)
    cases = []
    for n, spread in ((40, 1.0), (100, 3.0)):
        logits = torch.randn(n, generator=generator) * spread
        logits[7] = logits[9]  # a tie
        seen = torch.randint(0, n, (12,), generator=generator).tolist()
        for o in OPTIONS:
            ids, p = kept(logits, seen, o)
            cases.append(dict(logits=[float(f"{x:.9g}") for x in logits.tolist()], seen=seen,
                              options=o, ids=ids, p=p))
    with open(path, "w") as f:
        json.dump(dict(script="tools/golden/sampling.py",
                       versions=dict(torch=torch.__version__, transformers=transformers.__version__),
                       cases=cases), f, separators=(",", ":"))
        f.write("\n")


main()
