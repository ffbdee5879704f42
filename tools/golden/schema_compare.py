#!/usr/bin/env python3
"""Holds nibble's verdicts to those of PyPI's jsonschema on random schemas and documents.

    python3 -P tools/golden/schema_compare.py TOOL [--seconds N] [--seed N]

TOOL is the program that meson builds from tests/schema_tool.c. Schemas are of drafts 4, 6, 7 and
2020-12, of all keywords but format; documents are random, made of the schemas' constants, changed
ones of those that are valid, and such as nibble writes under its masks, which must be valid. A
difference is made small and printed; the exit status is then 1. Numbers are decimals on both sides,
patterns are translated to those of PyPI's regex.
"""
import argparse
import collections
import decimal
import importlib.metadata
import json
import random
import subprocess
import sys
import time
from decimal import Decimal

import jsonschema
import jsonschema._keywords
import jsonschema._legacy_keywords
import jsonschema._utils
import regex
from jsonschema import validators

decimal.getcontext().prec = 400

# ---- The oracle ----

CLASSES = {
    "w": "A-Za-z0-9_", "W": r"\x00-/:-@\[-\^`{-\U0010ffff", "d": "0-9",
    "D": r"\x00-/:-\U0010ffff",
    "s": r"\t-\r \xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff",
    "S": r"\x00-\x08\x0e-\x1f!-\x9f\xa1-\u167f\u1681-\u1fff\u200b-\u2027\u202a-\u202e\u2030-\u205e"
         r"\u2060-\u2fff\u3001-\ufefe\uff00-\U0010ffff"}


def translate(pattern):
    """An ECMA-262 pattern as PyPI's regex has it, for what PATTERNS use."""
    out, i, inside = "", 0, False
    while i < len(pattern):
        c = pattern[i]
        if c == "\\":
            e = pattern[i + 1]
            if e in CLASSES:
                out += CLASSES[e] if inside else f"[{CLASSES[e]}]"
            elif e == "b" and not inside:
                w = CLASSES["w"]
                out += f"(?:(?<=[{w}])(?![{w}])|(?<![{w}])(?=[{w}]))"
            else:
                out += c + e
            i += 2
            continue
        inside = c == "[" or (inside and c != "]")
        out += {"$": r"\Z", ".": r"[^\n\r\u2028\u2029]"}.get(c, c) if not inside else c
        i += 1
    return out


class Patterns:
    """Stands in for the module re."""
    known = {}

    @classmethod
    def search(cls, pattern, text):
        if pattern not in cls.known:
            cls.known[pattern] = regex.compile(translate(pattern), regex.V0)
        return cls.known[pattern].search(text)


for module in (jsonschema._keywords, jsonschema._legacy_keywords, jsonschema._utils):
    module.re = Patterns


def is_number(_, x):
    return isinstance(x, (int, Decimal)) and not isinstance(x, bool)


def multiple_of(_, of, x, __):
    if is_number(None, x) and Decimal(x) % Decimal(of) != 0:
        yield jsonschema.ValidationError("multipleOf")


def validator(base, written):
    types = base.TYPE_CHECKER.redefine("number", is_number).redefine(
        "integer", (lambda _, x: isinstance(x, int) and not isinstance(x, bool)) if written else
        (lambda _, x: is_number(None, x) and x == int(x)))
    return validators.extend(base, {"multipleOf": multiple_of}, type_checker=types)


DRAFTS = {
    "4": ("http://json-schema.org/draft-04/schema#", validator(jsonschema.Draft4Validator, True)),
    "6": ("http://json-schema.org/draft-06/schema#", validator(jsonschema.Draft6Validator, False)),
    "7": ("http://json-schema.org/draft-07/schema#", validator(jsonschema.Draft7Validator, False)),
    "2020": ("https://json-schema.org/draft/2020-12/schema",
             validator(jsonschema.Draft202012Validator, False))}

# ---- Schemas and documents ----

NUMBERS = """0 1 2 -1 3 0.5 -2.5 10 1e1 100 1.5 0.25 0.1 0.3 0.01 1e2 1.0 -0 -0.0 1E+2 2.50 1e-1
12.3e-1 7 0.7 33 1e16 9007199254740993 0.30 -7 -0.1 5e0 1e3 999 1e20 100000000000000000000
0.000001 1e-7""".split()
STEPS = "1 2 3 0.5 0.1 0.01 0.3 1.5 2.5 10 0.25 7 1e-2 1e1 0.7 100 1.0 0.07".split()
STRINGS = ["", "a", "b", "ab", "ba", "aab", "abc", "é", "日本", "x1", "foo", "bar", "A", "a b",
           "a\nb", "😀", "aa", "__proto__", "$ref", "ß", "0", "-1", 'a"b', "a\\b", "\u0001",
           "\u2028"]
KEYS = ["a", "b", "ab", "c", "é", "foo", "", "x1", "A", "ba"]
PATTERNS = [
    "^a", "b$", "^[ab]+$", "c", "^.{2}$", "^(?!ab)", "^$", ".", "^(a|b)*$", "[0-9]", "\\d+",
    "^\\w+$", "^\\S*$", "é", "^(?=.*a)(?=.*b)", "^[^a]*$", "(?:foo|bar)", "^a?b?c?$",
    "^(?=.{2,3}$)[a-c]+$", "^a(?!b)", "\\bab\\b", "^\\p{L}+$", "^\\p{Lu}", "^[\\u0061-\\u0063]+$", "^\\P{L}*$",
    "^(?:a{2,3}|b{1,})$", "a{0}b", "(?<=a)b", "(?<!a)b", "^(?:(?!b).)*$", "^[\\p{Ll}1-9]+$", "(?!)",
    "\\D", "^\\W", "(^a|b$)", "a|^$", "[^\\d\\s]"]
TYPES = ["null", "boolean", "integer", "number", "string", "array", "object"]


class Text(str):
    """A number as it is written."""


def value(r, depth=2):
    kind = r.random() * (0.7 if depth <= 0 else 1)
    if kind < 0.18:
        return r.choice([None, True, False])
    if kind < 0.45:
        return Text(r.choice(NUMBERS) if r.random() < 0.8 else r.randint(-1000, 1000))
    if kind < 0.7:
        return r.choice(STRINGS)
    if kind < 0.85:
        return [value(r, depth - 1) for _ in range(r.choice([0, 1, 1, 2, 2, 3, 4]))]
    return {k: value(r, depth - 1) for k in r.sample(KEYS, r.choice([0, 1, 1, 2, 2, 3, 4]))}


def changed(r, v):
    """Another value, like v."""
    if isinstance(v, dict) and v:
        v, key = dict(v), r.choice(list(v))
        if r.random() < 0.4:
            del v[key]
        else:
            v[key if r.random() < 0.6 else r.choice(KEYS)] = changed(r, v[key])
        return v
    if isinstance(v, list) and v:
        v, i = list(v), r.randrange(len(v))
        v[i:i + 1] = r.choice([[], [changed(r, v[i])], [v[i], v[i]], [v[i], value(r, 1)]])
        return v
    return value(r, 1)


def dump(x):
    if isinstance(x, Text):
        return str(x)
    if isinstance(x, list):
        return "[" + ",".join(map(dump, x)) + "]"
    if isinstance(x, dict):
        return "{" + ",".join(f"{dump(k)}:{dump(v)}" for k, v in x.items()) + "}"
    return json.dumps(x, ensure_ascii=False)


def parse(text):
    return json.loads(text, parse_float=Decimal)


class Schemas:
    """Random schemas of a draft."""

    def __init__(self, r, draft):
        self.r, self.draft, self.new = r, draft, draft == "2020"
        self.defs = "$defs" if self.new else "definitions"
        deep = "anyOf oneOf allOf not if properties patternProperties additionalProperties " \
            "propertyNames items contains dependencies $ref"
        self.deep = (deep + (" prefixItems unevaluated" if self.new else "")).split()
        self.flat = "type enum const pattern required uniqueItems multipleOf bound count".split()
        late = {"4": ["if", "propertyNames", "contains", "const"], "6": ["if"]}.get(draft, [])
        self.deep = [k for k in self.deep if k not in late]
        self.flat = [k for k in self.flat if k not in late]

    def named(self, names, depth):
        return {k: self.schema(depth) for k in self.r.sample(names, self.r.choice([1, 1, 2, 3]))}

    def lists(self, depth):
        return [self.schema(depth) for _ in range(self.r.choice([1, 2, 2, 3]))]

    def add(self, o, depth):
        r, less = self.r, depth - 1
        k = r.choice(self.flat if depth <= 0 else self.flat + self.deep * 2)
        if k == "type":
            o[k] = r.choice(TYPES) if r.random() < 0.7 else r.sample(TYPES, r.randint(1, 3))
        elif k == "count":
            what = r.choice(["Items", "Properties", "Length"])
            o[r.choice(["min", "max"]) + what] = r.randint(0, 3)
        elif k == "bound" and self.draft == "4":
            side = r.choice(["minimum", "maximum"])
            o[side] = Text(r.choice(NUMBERS))
            o["exclusive" + side.capitalize()] = r.random() < 0.5
        elif k == "bound":
            sides = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]
            o[r.choice(sides)] = Text(r.choice(NUMBERS))
        elif k == "enum":
            o[k] = [value(r, 1) for _ in range(r.randint(1, 4))]
        elif k == "const":
            o[k] = value(r)
        elif k == "pattern":
            o[k] = r.choice(PATTERNS)
        elif k == "required":
            o[k] = r.sample(KEYS, r.choice([1, 1, 2]))
        elif k == "uniqueItems":
            o[k] = True
        elif k == "multipleOf":
            o[k] = Text(r.choice(STEPS))
        elif k in ("anyOf", "oneOf", "allOf", "prefixItems"):
            o[k] = self.lists(less)
        elif k == "if":
            o.update({k: self.schema(less) for k in ("if", "then", "else")})
        elif k in ("properties", "patternProperties"):
            o[k] = self.named(KEYS if k == "properties" else PATTERNS, less)
        elif k == "items" and not self.new and r.random() < 0.4:
            o.update({k: self.lists(less), "additionalItems": self.schema(less)})
        elif k == "contains":
            o[k] = self.schema(less)
            if self.new and r.random() < 0.5:
                o[r.choice(["minContains", "maxContains"])] = r.randint(0, 3)
        elif k == "dependencies":
            needs, then = r.sample(KEYS, 2), self.named(KEYS, less)
            if self.new:
                o["dependentRequired"] = {needs[0]: needs[1:]}
                o["dependentSchemas"] = then
            else:
                o[k] = {**then, needs[0]: needs[1:]}
        elif k == "$ref":
            o[k] = r.choice(["#", "#/%s/d0" % self.defs, "#/%s/d1" % self.defs])
        elif k == "unevaluated":
            o[k + r.choice(["Properties", "Items"])] = self.schema(less)
        else:  # not, additionalProperties, propertyNames, items
            o[k] = self.schema(less)

    def schema(self, depth, least=0):
        if self.draft != "4" and not least and self.r.random() < 0.1:
            return self.r.random() < 0.7
        o = {}
        for _ in range(max(least, self.r.choice([0, 1, 1, 2, 2, 3, 4]))):
            self.add(o, depth)
        return o

    def root(self):
        return {"$schema": DRAFTS[self.draft][0], **self.schema(3, 1),
                self.defs: {d: self.schema(2) for d in ("d0", "d1")}}


def constants(x, out):
    if isinstance(x, dict):
        out += x["enum"] if isinstance(x.get("enum"), list) else []
        out += [x["const"]] if "const" in x else []
        x = list(x.values())
    for v in x if isinstance(x, list) else []:
        constants(v, out)
    return out


def smaller(x, whole=True):
    """Values with something less in them."""
    if isinstance(x, dict):
        if not whole:
            yield from (True, {})
        for k in x:
            if k != "$schema":
                yield {j: v for j, v in x.items() if j != k}
        for k in x:
            for v in smaller(x[k], False):
                yield {**x, k: v}
    elif isinstance(x, list):
        for i in range(len(x)):
            yield x[:i] + x[i + 1:]
            for v in smaller(x[i], False):
                yield x[:i] + [v] + x[i + 1:]


# ---- The comparison ----


class Tool:
    def __init__(self, path):
        self.p = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                  encoding="utf-8", errors="surrogateescape")

    def ask(self, what, text):
        self.p.stdin.write(f"{what} {text}\n")
        self.p.stdin.flush()
        answer = self.p.stdout.readline()
        if not answer:
            sys.exit(f"nibble stopped at {what} {text}")
        return answer.rstrip("\n")


def right(draft, schema, text):
    """jsonschema's verdict, or None where it has none."""
    try:
        return DRAFTS[draft][1](parse(dump(schema))).is_valid(parse(text))
    except (RecursionError, TypeError):  # loops; drafts 6 and 7 trip over boolean items
        return None


def differs(tool, draft, schema, document):
    if tool.ask("S", dump(schema)) != "ok":
        return False
    try:
        DRAFTS[draft][1].check_schema(json.loads(dump(schema)))
    except jsonschema.SchemaError:
        return False
    verdict, want = tool.ask("D", dump(document)).split()[0], right(draft, schema, dump(document))
    return want is not None and verdict != "undecided" and (verdict == "valid") != want


def shrink(tool, draft, schema, document):
    again = True
    while again:
        pairs = [(s, document) for s in smaller(schema)] + [(schema, d) for d in smaller(document)]
        again = next((p for p in pairs if differs(tool, draft, *p)), None)
        schema, document = again or (schema, document)
    return schema, document


def compare(tool, seed, counts):
    """False where nibble and jsonschema differ, which is printed."""
    r = random.Random(seed)
    draft = r.choice(["2020", "2020", "7", "6", "4"])
    schema = Schemas(r, draft).root()
    counts["schemas"] += 1
    if tool.ask("S", dump(schema)) != "ok":
        counts["refused"] += 1
        return True
    known = constants(schema, [])
    documents = [r.choice(known) if known and r.random() < 0.3 else value(r, 3) for _ in range(14)]
    for d in documents:
        text = dump(d)
        want, answer = right(draft, schema, text), tool.ask("D", text)
        counts["documents"] += 1
        if want is None or answer.startswith("undecided"):
            counts["undecided"] += 1
        elif (answer == "valid") != want:
            schema, d = shrink(tool, draft, schema, d)
            print(f"seed {seed}: found {answer}, expected {'in' * (not want)}valid\n  schema   "
                  f"{dump(schema)}\n  document {dump(d)}")
            return False
        elif want and len(documents) < 30:
            counts["valid"] += 1
            documents.append(changed(r, d))
    for _ in range(2):
        kind, _, text = tool.ask("W", str(r.randrange(1 << 40))).partition(" ")
        counts["written" if kind == "text" else kind] += 1
        if kind == "text" and right(draft, schema, text) is False:
            print(f"seed {seed}: written under masks, and not valid\n  schema   {dump(schema)}\n"
                  f"  document {text}")
            return False
    return True


def main():
    args = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    args.add_argument("tool")
    args.add_argument("--seconds", type=float, default=60)
    args.add_argument("--seed", type=int, default=1)
    args = args.parse_args()
    tool, counts, good = Tool(args.tool), collections.Counter(), True
    end, seed = time.monotonic() + args.seconds, args.seed
    while time.monotonic() < end:
        good &= compare(tool, seed, counts)
        seed += 1
    peer = f"jsonschema {importlib.metadata.version('jsonschema')}"
    print(json.dumps({"peer": peer, **counts, "equal": good}))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
