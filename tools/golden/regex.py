#!/usr/bin/env python3
"""Verdicts of a JavaScript engine on patterns: tests/golden/regex.json.

    tools/golden/regex.py       needs Python 3.11 and node 18 or later

JSON Schema's patterns are JavaScript's, tried with the u flag and, where that is an error, without.
Texts are drawn from each pattern's own tree, as Python's re reads it, lookarounds left out, and then
spoilt; so about half of them match. A pattern that is an error both ways has "error" and no texts.
"""

import json
import os
import random
import re
import re._constants as c
import re._parser as parser
import subprocess

OUT = os.path.join(os.path.dirname(__file__), "..", "..", "tests", "golden", "regex.json")

PATTERNS = r"""
^(?=.*[A-Z])(?=.*\d)[A-Za-z\d]{4,12}$
^(?!.*\.\.)(?!\.)[a-z.]+(?<!\.)$
\bfoo\b
\Bfoo
foo\B
^\b$
^\B$
(?<=a)b
(?<!a)b
^(?<!a)b
(?<=^a)b
(?<=ab|c{2})d
(?<!\d{2})x$
^(a(?=b)|b(?=a|$))*$
^(?:(?=a)|b)*c$
^((?=a)b*)*a$
^(?!(?!a))b?a
^(?=(?=a.)ab)..
a$b
a^b
^$
$^
(^|,)a(,|$)
(?:^a|b)$
[^]
[]
a[]b|c
^.$
^\s$
^\S+$
^[\s\S]{1,3}$
^\p{L}+$
^\p{Lu}\p{Ll}*$
^\P{L}$
^\p{Script=Greek}+$
^\p{sc=Cyrillic}[\p{L}\d]$
^\p{Script_Extensions=Hiragana}$
^\p{Alphabetic}+$
^\p{White_Space}$
^\p{ASCII}{2}$
^\p{Any}$
\p{Han}
\p{Foo}
^\u{1F600}$
^\uD83D\uDE00$
^[\uD83D\uDE00a]$
^\x41\u0042\cJ\0$
^\w{2,3}?x*?$
^(?<year>\d{4})-(?<m>\d\d)$
^a{0}$
^a{2}b{3,}c{0,1}$
^(a|ab)(c|bcd)(d*)$
^(a*)*$
^(a*)+b$
^(a?){3}$
^((a|b)?){2,5}$
^(?:)$
()
^()*$
(a|)b
^[a-\d]$
^[\w-.]+$
^a{,3}$
^a{$
^{$
^x{1
a{2}{3}
^]$
^}$
\8
\07
\a\e\_
\-
[\-a]
^[\b]$
\c
\c1
[\c1]
\u00
\xg
(?=a)*b
(?=a){0}b
(?<=a)*b
x**
(
)
[
(?<a
^[z-a]$
a{3,1}
^.{3,}$
^(?:.{2}|.{3})*$
^([^\n]*\n){2}$
^\d{3}(?=x)x$
^(?=a{2,4}$)(a|aa)*$
^(?=.{5,8}$)[a-z]+(-[a-z]+)*$
^(?!-)[A-Za-z0-9-]{1,63}(?<!-)$
^(?!.*--)(?=.{4,30}$)[a-z][a-z0-9-]*[a-z0-9]$
^(?:(?!abc).)*$
^(?:a(?!b)|b)*$
(?!)
(?=)
^(?!)
(?<!)
(?<=)a
^[\p{L}\-]+$
^[^\u0000-\u00ff]$
^[\u4e00-\u9fa5]+$
^[^<>]+$
^((?!foo)|(?=f)).*x$
\w+\b\W*\b\w
(^|\b)x(\b|$)
^(?:\b\w+\b ?)+$
^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-[\da-z.-]+)?$
^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$
^([a-z0-9]+(-[a-z0-9]+)*\.)+[a-z]{2,}$
^(https?|ftp):\/\/[^\s/$.?#].[^\s]*$
^#([A-Fa-f0-9]{6}|[A-Fa-f0-9]{3})$
^\+?[1-9]\d{1,14}$
^[A-Z]{2}\d{2}[A-Z0-9]{1,30}$
^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$
^(?!0000)\d{4}$
^(dev|test)-[\w-]{1,20}$|^prod$
\.(jpe?g|png)$
^\$\{[^}]+\}$
^[^\\/:*?"<>|]{1,255}$
^\s*(\S+\s+){0,4}\S*$
^(\w+=\w+)(&\w+=\w+)*$
^[ÄÖÜäöüß\w]+$
^(?:\S+\s){2}\S+$
^((\d+)\.)?(\d\d):(60|([0-5][0-9])):(60|([0-5][0-9]))$
^(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?!$)|$)){4}$
""".strip("\n").split("\n")

ODD = [" ", "\n", "\u2028", "é", "Ω", "ж", "あ", "漢", "😀", "\u00a0", "-", "_", "A", "0", ".", "x", "\\", "", "\ufeff", "\x08"]


def draw_class(items, random_):
    if items and items[0][0] is c.NEGATE:
        return random_.choice(ODD + list("azAZ09"))
    op, value = random_.choice(items)
    if op is c.LITERAL:
        return chr(value)
    if op is c.RANGE:
        return chr(random_.randint(*value))
    return draw_category(value, random_)


def draw_category(value, random_):
    return random_.choice({c.CATEGORY_DIGIT: "059", c.CATEGORY_SPACE: " \t\u00a0\u2003",
                           c.CATEGORY_WORD: "aZ_9"}.get(value, "é-. 😀"))


def draw(tree, random_):
    out = ""
    for op, value in tree:
        if op is c.LITERAL:
            out += chr(value)
        elif op is c.NOT_LITERAL or op is c.ANY:
            out += random_.choice(ODD + ["ab", "q"])
        elif op is c.IN:
            out += draw_class(value, random_)
        elif op is c.BRANCH:
            out += draw(random_.choice(value[1]), random_)
        elif op is c.SUBPATTERN:
            out += draw(value[3], random_)
        elif op in (c.MAX_REPEAT, c.MIN_REPEAT):
            low, high, body = value
            for _ in range(random_.randint(low, max(low, min(int(high), low + 3)))):
                out += draw(body, random_)
    return out


def texts_of(pattern, random_):
    try:
        tree = parser.parse(re.sub(r"\(\?<(\w+)>", r"(?P<\1>", pattern))
    except (re.error, OverflowError):
        tree = None
    plain = [ch for ch in pattern if ch.isalnum()] + ODD
    texts = ["", "a", "ab", "foo", "😀", "Ω", "漢", "あ", "жя", "Ab", " ", "\n", "b", "aab"]
    for _ in range(14):
        text = draw(tree, random_) if tree else "".join(random_.choices(plain, k=random_.randint(0, 4)))
        at = random_.randint(0, len(text))
        texts += [text, text[:at] + random_.choice(plain) + text[at + random_.randint(0, 1):]]
    return [t for t in dict.fromkeys(texts) if not any(0xD800 <= ord(ch) < 0xE000 for ch in t)]


NODE = """
const rows = JSON.parse(require('fs').readFileSync(0, 'utf8'));
for (const row of rows) {
    let re = null;
    try { re = new RegExp(row.pattern, 'u'); } catch (e) {
        try { re = new RegExp(row.pattern); row.texts = row.texts.filter(t => !/[\\u{10000}-\\u{10ffff}]/u.test(t)); }
        catch (e2) { row.error = true; delete row.texts; }
    }
    if (re) row.verdicts = row.texts.map(t => re.test(t) ? '1' : '0').join('');
}
console.log(JSON.stringify({node: process.version, patterns: rows}));
"""


def main():
    random_ = random.Random(6)
    rows = [{"pattern": p, "texts": texts_of(p, random_)} for p in PATTERNS]
    found = subprocess.run(["node", "-e", NODE], input=json.dumps(rows), capture_output=True, text=True, check=True)
    result = json.loads(found.stdout)
    with open(OUT, "w") as f:
        f.write('{"node": "%s",\n"patterns": [\n' % result["node"])
        f.write(",\n".join(json.dumps(row, ensure_ascii=False) for row in result["patterns"]))
        f.write("\n]}\n")


if __name__ == "__main__":
    main()
