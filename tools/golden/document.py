#!/usr/bin/env python3
"""Writes tests/golden/document.json: texts, and what normalize() of tools/demo-model/generate.py, the twin of
src/document/text.c that made the demo model's training texts, makes of them.

    python3 tools/golden/document.py     # needs nothing but Python
"""

import json
import random
import sys

sys.path.insert(0, "tools/demo-model")
from generate import normalize

# Every character that a normal form could treat in its own way, among ordinary ones.
SPECIAL = [chr(c) for c in [*range(1, 0x20), *range(0x7F, 0xA1), 0xAD, 0x1680, 0x180E, *range(0x2000, 0x2010),
                            *range(0x2028, 0x2030), 0x205F, *range(0x2060, 0x2065), 0x3000, 0xFEFF, 0xFFFD, 0xFFFF]]
ORDINARY = list("Aé€漢😀\u0301 .,:-0") + ["\r\n", "  ", "\n\n", "\t"]


def text(r):
    return "".join(r.choice(SPECIAL if r.random() < 0.4 else ORDINARY) for _ in range(r.randrange(30)))


r = random.Random(1)
texts = [f"a{c}b" for c in SPECIAL] + [f"{c}a {c} b{c}" for c in SPECIAL] + [text(r) for _ in range(400)]
with open("tests/golden/document.json", "w", encoding="ascii") as f:
    json.dump({"python": sys.version.split()[0], "cases": [[t, normalize(t)] for t in texts]}, f, indent=0,
              separators=(",", ":"))
    f.write("\n")
