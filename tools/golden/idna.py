#!/usr/bin/env python3
"""Labels of Punycode and whether they are valid A-labels: tests/golden/idna.json.

    tools/golden/idna.py       needs Python 3.11 and PyPI's idna (pip install idna==3.20)

Labels are drawn from pools of characters that some rule of IDNA 2008 is about, and spoilt; idna judges them, and
what it decodes must encode to the same again. Characters that Python's own tables do not know are left out.
"""

import json
import os
import random
import sys
import unicodedata

here = os.path.dirname(os.path.abspath(__file__))
sys.path = [p for p in sys.path if os.path.abspath(p or ".") != here]  # not this file for PyPI's idna
import idna  # noqa: E402

OUT = os.path.join(here, "..", "..", "tests", "golden", "idna.json")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-"
POOLS = [range(0x61, 0x7B), range(0x30, 0x3A), [0x2D], [0xB7, 0x6C], [0x375, *range(0x3B1, 0x3CA)],
         [*range(0x5D0, 0x5EB), 0x5F3, 0x5F4], [0x30FB, *range(0x3041, 0x3060), *range(0x30A1, 0x30C0)],
         range(0x4E00, 0x4E40), range(0x660, 0x66A), range(0x6F0, 0x6FA), range(0x627, 0x64B), [0x200C, 0x200D],
         [0x94D, 0x915, 0x930, 0x937], range(0x300, 0x310), [0xE9, 0x65, 0x301, 0x327],
         [0x640, 0x7FA, 0x302E, 0xDF, 0x3C2, 0x6FD, 0x6FE, 0xF0B, 0x3007], [*range(0x1100, 0x1110), *range(0xAC00, 0xAC40)],
         range(0x710, 0x730), range(0x7CA, 0x7EB), [0xC0, 0x130, 0x212B, 0xFB01, 0x1F600, 0x20AC, 0xFF41]]


def known(label):
    try:
        text = label[4:].encode().decode("punycode")
    except (UnicodeError, IndexError, OverflowError, ValueError):
        return True
    return all(unicodedata.category(c) != "Cn" for c in text)


def is_valid(label):
    try:
        text = idna.ulabel(label)
        return not text.isascii() and idna.alabel(text) == label.encode()
    except (idna.IDNAError, UnicodeError, IndexError, OverflowError, ValueError):
        return False


def draw(rng, before):
    what = rng.random()
    if what < 0.8 or not before:
        pools = rng.sample(POOLS, rng.randint(1, 3))
        text = "".join(chr(rng.choice(rng.choice(pools))) for _ in range(rng.randint(1, 7)))
        return "xn--" + text.encode("punycode").decode()
    if what < 0.95:
        label = list(rng.choice(before)[4:])
        if label:
            label[rng.randrange(len(label))] = rng.choice(LETTERS)
        return "xn--" + "".join(label)
    return "xn--" + "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 12)))


def main():
    rng = random.Random(1)
    labels, valid, invalid = [], [], []
    while len(valid) < 250 or len(invalid) < 250:
        label = draw(rng, labels)
        if len(label) > 63 or label in labels or label != label.lower() or not known(label):
            continue
        labels.append(label)
        (valid if is_valid(label) else invalid).append(label)
    made_by = {"python": sys.version.split()[0], "idna": idna.__version__, "unicode": unicodedata.unidata_version}
    with open(OUT, "w", encoding="ascii") as f:
        json.dump({"made by": made_by, "valid": valid[:250], "invalid": invalid[:250]}, f, indent=0)
        f.write("\n")


main()
