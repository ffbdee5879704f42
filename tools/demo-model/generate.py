#!/usr/bin/env python3
"""Documents to train on: made-up receipts, invoices, credit notes and others, and real receipts made over.

    generate.py --receipts receipts.jsonl --count 20 [--kind invoice]    prints documents, to look at

`Source.document(i)` is a pure function of i (and of the real receipts it was given): training draws numbers, not
files, and sees every document once. A document is {"kind", "text", "expected"}; `text` is in normal form, and
`expected` holds document_type, party, date, currency and total, as the model must answer.
"""
import argparse
import datetime
import hashlib
import json
import math
import random
import re

import words as W

MONTHS = "JANUARY FEBRUARY MARCH APRIL MAY JUNE JULY AUGUST SEPTEMBER OCTOBER NOVEMBER DECEMBER".split()
MONTHS_IN = {
    "DE": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember".split(),
    "FR": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre".split(),
    "ES": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre".split(),
    "IT": "gennaio febbraio marzo aprile maggio giugno luglio agosto settembre ottobre novembre dicembre".split(),
    "NL": "januari februari maart april mei juni juli augustus september oktober november december".split(),
}
MONTHS_IN["AT"] = MONTHS_IN["CH"] = MONTHS_IN["DE"]

# ---------------------------------------------------------------- the normal form of a document (and of src/document/text.c)

BREAKS = re.compile("\r\n|[\r\f\v\x85\u2028\u2029]")
SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
NOTHING = re.compile("[\u200b-\u200d\u2060\ufeff\u00ad\x00-\x08\x0e-\x1f\x7f-\x9f]")


def normalize(text):
    text = BREAKS.sub("\n", text).replace("\t", "  ")
    text = NOTHING.sub("", SPACES.sub(" ", text))
    lines = (re.sub(" {2,}", "  ", line.strip(" ")) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def held(receipt_id):
    return int(hashlib.sha256(receipt_id.encode()).hexdigest(), 16) % 5 == 0


def load_receipts(path, part):
    """The real receipts: `part` is "train" (four fifths), "held" (the rest, never trained on), or, to choose among
    ways of training without a look at the held ones: "fit" and "dev", a split of "train"."""
    with open(path, encoding="utf-8") as f:
        receipts = [json.loads(line) for line in f]
    want = {"held": lambda h: h % 5 == 0, "train": lambda h: h % 5 != 0,
            "dev": lambda h: h % 5 == 1, "fit": lambda h: h % 5 > 1}[part]
    receipts = [r for r in receipts if want(int(hashlib.sha256(r["id"].encode()).hexdigest(), 16))]
    # A label that is missing says nothing (033's text has a total): such a receipt is no use to learn from.
    return receipts if part == "held" else [r for r in receipts if all(r["expected"].values())]


def squeeze(s):
    return re.sub(r"\s", "", s).upper()


# ---------------------------------------------------------------- small makers; r is a random.Random throughout

def chance(r, p):
    return r.random() < p


def digits(r, n):
    return "".join(r.choice("0123456789") for _ in range(n))


def made_up_word(r, most=3):
    return "".join(r.choice(W.ONSETS) + r.choice(W.NUCLEI) + r.choice(W.CODAS) for _ in range(r.randint(1, most)))


def scramble(r, n, alphabet=W.LETTERS):
    return "".join(r.choice(alphabet) for _ in range(n))


def some_date(r):
    """A day: mostly of the years the real receipts are from, else of a wider range."""
    first, last = ((2016, 2018) if chance(r, .5) else (2008, 2029))
    return datetime.date(first, 1, 1) + datetime.timedelta(days=r.randrange((last - first + 1) * 365))


def show_date(d, style):
    """style: (order, separator, zero-padded, year digits, month: "n", or name as "JAN", "Jan", "JANUARY", "January", or list)."""
    order, sep, pad, ydigits, month = style
    day = f"{d.day:02d}" if pad else str(d.day)
    if month == "n":
        mon = f"{d.month:02d}" if pad else str(d.month)
    elif isinstance(month, list):
        mon = month[d.month - 1]
    else:
        mon = MONTHS[d.month - 1]
        mon = mon[:3] if len(month) == 3 else mon
        mon = mon if month.isupper() else mon.title()
    year = f"{d.year:04d}" if ydigits == 4 else f"{d.year % 100:02d}"
    parts = {"d": day, "m": mon, "y": year}
    if order == "m d,y":
        return f"{mon} {day}, {year}"
    if order == "d. m y":
        return f"{day}. {mon} {year}"
    return sep.join(parts[c] for c in order)


def date_style(r, country="MY", upper=True):
    x = r.random()
    name = r.choice(("JAN", "JANUARY") if upper else ("Jan", "January", "JAN"))
    if country == "US":
        if x < .45:
            return ("mdy", r.choice("//-"), chance(r, .7), 4 if chance(r, .7) else 2, "n")
        return ("m d,y", "", chance(r, .3), 4, name) if x < .85 else ("ymd", "-", True, 4, "n")
    if country in MONTHS_IN and x < .3:
        return ("d. m y" if country in ("DE", "AT", "CH") else "dmy", " ", False, 4, MONTHS_IN[country])
    if country in ("JP",) or x > .92:
        return ("ymd", r.choice("-/-."), True, 4, "n")
    if country in ("DE", "AT", "CH") and x < .9:
        return ("dmy", ".", chance(r, .85), 4 if chance(r, .8) else 2, "n")
    if x < .68:
        return ("dmy", r.choice("///--."), chance(r, .85), 4 if chance(r, .75) else 2, "n")
    if x < .72:
        return ("m d,y", "", chance(r, .5), 4, name)
    return ("dmy", r.choice("  -/") if len(name) == 3 else " ", chance(r, .7), 4 if chance(r, .8) else 2, name)


def clock(r, upper=True):
    h, m, s = r.randrange(24), r.randrange(60), r.randrange(60)
    x = r.random()
    if x < .4:
        return f"{h:02d}:{m:02d}:{s:02d}"
    if x < .7:
        return f"{h:02d}:{m:02d}"
    half = ("AM" if h < 12 else "PM") if upper else ("am" if h < 12 else "pm")
    return f"{(h - 1) % 12 + 1}:{m:02d}" + (f":{s:02d}" if chance(r, .5) else "") + r.choice((" ", "")) + half


def number(cents, style=",."):
    """cents with the thousands mark style[0] and the decimal mark style[1]; no decimals where that is "0"."""
    sign, cents = ("-" if cents < 0 else ""), abs(cents)
    if style[1] == "0":
        return sign + f"{cents // 100:,}"
    whole, rest = divmod(cents, 100)
    text = f"{whole:,}".replace(",", style[0])
    return f"{sign}{text}{style[1]}{rest:02d}"


def plain(cents):
    return f"{'-' if cents < 0 else ''}{abs(cents) // 100}.{abs(cents) % 100:02d}"


# ---------------------------------------------------------------- names

def person(r):
    x = r.random()
    if x < .45:
        return f"{r.choice(W.GIVEN)} {r.choice(W.SURNAMES)}"
    if x < .65:
        return " ".join(w.title() for w in r.sample(W.CHINESE, 3))
    if x < .8:
        return f"{r.choice(W.MALAY)} {r.choice(('BIN', 'BINTI', 'B.', ''))} {r.choice(W.MALAY)}".replace("  ", " ").title()
    if x < .9:
        return f"{r.choice(W.INDIAN)} {r.choice(W.INDIAN)}".title()
    return f"{r.choice(W.LETTERS)}. {r.choice(W.SURNAMES)}"


def core_my(r):
    """What a Malaysian firm is called, without its trade and legal form, in upper case."""
    x = r.random()
    if x < .28:
        return " ".join(r.sample(W.CHINESE, r.choice((2, 2, 2, 3, 3))))
    if x < .42:
        return " ".join(r.sample(W.BRANDS, r.choice((1, 2, 2, 3))))
    if x < .52:
        return made_up_word(r).upper() + ("" if chance(r, .6) else " " + made_up_word(r, 2).upper())
    if x < .60:
        return " ".join(r.sample(W.MALAY, r.choice((1, 2, 2))))
    if x < .66:
        return " ".join(r.sample(W.INDIAN, r.choice((1, 2))))
    if x < .73:
        n = r.choice((2, 3, 3, 4))
        return r.choice(("", ".", ". ")).join(scramble(r, n)) + (r.choice(("", "", ".")))
    if x < .78:
        return f"{scramble(r, 1)} & {scramble(r, 1)}" if chance(r, .4) else f"{r.choice(W.BRANDS)} & {r.choice(W.BRANDS)}"
    if x < .82:
        return r.choice((digits(r, r.randint(1, 3)), digits(r, 2) + " " + r.choice(W.BRANDS), r.choice(W.BRANDS) + " " + digits(r, r.randint(1, 4)),
                         r.choice(("ONE", "TWO", "THREE", "FIVE", "SEVEN", "EIGHT", "NINE", "TEN")) + " " + r.choice(W.BRANDS)))
    if x < .87:
        return (r.choice(W.GIVEN) + r.choice(("'S", "'S", "S"))).upper()
    if x < .92:
        return r.choice(W.BRANDS) + r.choice(("-", "", "@", "N ", " N ", "'S ")) + r.choice(W.BRANDS + W.GOODS)
    if x < .96:
        return f"{r.choice(W.GOODS)} {r.choice(W.GOODS)}"
    return r.choice(W.SURNAMES).upper() + (" " + r.choice(W.SURNAMES).upper() if chance(r, .4) else "")


def place_my(r):
    x = r.random()
    return (r.choice(W.TOWNS_MY) if x < .5 else f"{r.choice(W.AREAS_MY)} {r.choice(W.ROADS_MY)}" if x < .8 else scramble(r, r.randint(1, 3)) if x < .95 else
            f"JALAN {r.choice(W.ROADS_MY)}")


def firm_my(r):
    """A Malaysian firm or shop, in upper case."""
    core, x = core_my(r), r.random()
    if x < .30:
        name = f"{core} {r.choice(W.TRADES_MY)} {r.choice(W.SUFFIX_MY)}"
    elif x < .55:
        name = f"{core} {r.choice(W.SUFFIX_MY)}"
    elif x < .72:
        name = f"{core} {r.choice(W.TRADES_MY)}"
    elif x < .88:
        name = f"{r.choice(W.PREFIX_MY)} {core}" + (" " + r.choice(W.SUFFIX_MY) if chance(r, .3) else "")
    elif x < .93:
        name = f"{r.choice(W.PREFIX_MY)} {core} {r.choice(W.TRADES_MY)}"
    elif x < .96:
        name = f"{core} {r.choice(W.TRADES_MY)} & {r.choice(W.TRADES_MY)}" + (" " + r.choice(W.SUFFIX_MY) if chance(r, .5) else "")
    else:
        name = core
    if chance(r, .14):
        where = place_my(r)
        shown = r.choice((f"({where})", f"({where})", f"({where})", where, f"- {where}", f"@ {where}"))
        parts = name.split(" ")
        at = len(parts) if not parts[-1].startswith(("SDN", "BHD", "S/B", "SB")) or chance(r, .3) else max(1, len(parts) - r.choice((1, 2, 2)))
        name = " ".join(parts[:at] + [shown] + parts[at:])
    return name


def firm(r, country):
    """A firm of any country, as it would write itself."""
    c = W.COUNTRIES[country]
    if country == "MY":
        name = firm_my(r)
        return name if chance(r, .5) else name.title().replace("'S", "'s")
    x = r.random()
    legal = r.choice(c["legal"].split("|"))
    trades = {"DE": W.TRADES_DE, "AT": W.TRADES_DE, "FR": W.TRADES_FR, "ES": W.TRADES_ES}.get(country, W.TRADES_EN)
    trades = W.TRADES_EN if chance(r, .25) else trades
    if x < .3:
        core = r.choice(W.SURNAMES)
    elif x < .42:
        core = f"{r.choice(W.SURNAMES)} {r.choice(('&', '&', 'and', '+'))} {r.choice(W.SURNAMES)}"
    elif x < .62:
        core = " ".join(r.sample(W.BRANDS, r.choice((1, 1, 2)))).title()
    elif x < .84:
        core = made_up_word(r).capitalize()
        if chance(r, .15):
            core += made_up_word(r, 1).capitalize()
    elif x < .9:
        core = r.choice(W.GIVEN) + r.choice(("'s", " " + r.choice(W.SURNAMES)))
    elif x < .95:
        core = scramble(r, r.choice((2, 3, 3, 4)))
    else:
        core = r.choice(c["towns"]).split(",")[0].title() + " " + r.choice(W.BRANDS).title()
    y = r.random()
    trade = r.choice(trades)
    if y < .5:
        name = f"{core} {trade} {legal}"
    elif y < .75:
        name = f"{core} {legal}"
    elif y < .9:
        name = f"{core} {trade}"
    elif y < .96:
        name = f"{trade} {core}" + ("" if chance(r, .4) else " " + legal)
    else:
        name = core
    if country in ("US", "GB", "SG", "IN") and chance(r, .1):
        name = name.replace(" Ltd", ", Ltd").replace(" Inc", ", Inc").replace(" LLC", ", LLC")
    return name.upper() if chance(r, .15) else name


def address(r, country):
    """Lines of an address."""
    c = W.COUNTRIES[country]
    if country == "MY":
        return [line.title() for line in address_my(r)] if chance(r, .7) else address_my(r)
    town, street, kind, no = r.choice(c["towns"]), r.choice(c["streets"].split("|")), r.choice(c["kinds"].split("|")), str(r.randint(1, 320))
    if country in ("DE", "AT", "CH", "NL"):
        road = f"{street}{kind} {no}"
    elif country == "FR":
        road = f"{no}{r.choice((',', ''))} {kind} {street}"
    elif country in ("ES", "IT"):
        road = f"{kind} {street}{r.choice((',', ''))} {no}"
    elif country == "JP":
        road = f"{r.randint(1, 9)}-{r.randint(1, 30)}-{r.randint(1, 20)} {street}"
    else:
        road = f"{no} {street} {kind}" + (f", {r.choice(('Suite', 'Unit', 'Floor', '#'))} {r.randint(1, 40)}" if chance(r, .2) else "")
    if country == "GB":
        last = f"{town}{r.choice((', ', ' ', '  '))}{scramble(r, r.choice((1, 2)))}{r.randint(1, 20)} {r.randint(1, 9)}{scramble(r, 2)}"
    elif country in ("US", "AU", "CA"):
        last = f"{town} {digits(r, 5 if country == 'US' else 4)}"
    elif country in ("SG", "IN"):
        last = f"{town} {digits(r, 6)}"
    elif country in ("IE", "JP"):
        last = town
    elif country == "NL":
        last = f"{r.randint(1000, 9999)} {scramble(r, 2)} {town}"
    else:
        last = f"{digits(r, 4 if country in ('AT', 'CH') else 5)} {town}"
    lines = [road, last]
    if chance(r, .3):
        lines.append(r.choice(c["name"].split("|")))
    return [", ".join(lines)] if chance(r, .15) else lines


def address_my(r, rows=None):
    road = r.choice(("JALAN", "JALAN", "JALAN", "JLN", "LORONG", "PERSIARAN", "LEBUH")) + " " + r.choice(W.ROADS_MY)
    if chance(r, .5):
        road += " " + r.choice((str(r.randint(1, 30)), f"{r.randint(1, 30)}/{r.randint(1, 40)}", f"{r.randint(1, 9)}/{r.randint(1, 9)}{scramble(r, 1)}"))
    no = r.choice((f"NO. {r.randint(1, 200)}", f"NO.{r.randint(1, 200)}", f"NO {r.randint(1, 200)}", f"{r.randint(1, 200)}", f"LOT {r.randint(1, 3000)}",
                   f"{r.randint(1, 60)} & {r.randint(1, 60)}", f"G-{r.randint(1, 60)}", f"NO: {r.randint(1, 30)}-{r.randint(0, 3)}", f"LOT {scramble(r, 1)}-{r.randint(1, 50)}",
                   f"LOT NO. {scramble(r, 1)}{r.randint(1, 4)}-{r.randint(1, 99)}, LEVEL {r.randint(1, 5)}", f"UNIT {scramble(r, 1)}-{r.randint(1, 9)}-{r.randint(1, 9)}"))
    area = f"{r.choice(W.AREAS_MY)} {r.choice(W.ROADS_MY)}"
    town = f"{digits(r, 5)} {r.choice(W.TOWNS_MY)}"
    state = r.choice(W.STATES_MY)
    cells = [f"{no}{r.choice((', ', ', ', ' ', ','))}{road}", area, town, state]
    if chance(r, .3):
        del cells[1]
    if chance(r, .3):
        cells.pop()
    rows = rows or r.randint(1, 4)
    lines = [[] for _ in range(min(rows, len(cells)))]
    for i, cell in enumerate(cells):
        lines[min(i * len(lines) // len(cells), len(lines) - 1)].append(cell)
    comma = r.choice((", ", ",", ", "))
    lines = [comma.join(x) + (r.choice((",", "")) if i + 1 < len(lines) else r.choice((".", ".", ""))) for i, x in enumerate(lines)]
    return lines


def phone(r, country="MY"):
    if country == "MY":
        return r.choice((f"0{r.randint(3, 9)}-{digits(r, 8)}", f"0{r.randint(3, 9)}-{digits(r, 4)} {digits(r, 4)}", f"01{r.randint(0, 9)}-{digits(r, 7)}",
                         f"+603-{digits(r, 4)} {digits(r, 4)}", f"603-{digits(r, 8)}", f"0{r.randint(3, 9)}{digits(r, 8)}"))
    code = {"US": "1", "CA": "1", "GB": "44", "DE": "49", "FR": "33", "ES": "34", "SG": "65", "AU": "61"}.get(country, digits(r, 2))
    return r.choice((f"+{code} {digits(r, 3)} {digits(r, 6)}", f"({digits(r, 3)}) {digits(r, 3)}-{digits(r, 4)}", f"+{code} (0){digits(r, 3)} {digits(r, 4)}", f"0{digits(r, 3)} {digits(r, 6)}"))


def registration_my(r):
    n = r.choice((f"{digits(r, 6)}-{scramble(r, 1)}", f"{digits(r, 7)}-{scramble(r, 1)}", f"00{digits(r, 7)}-{scramble(r, 1)}", f"JM{digits(r, 7)}",
                  f"JM{digits(r, 7)}-{scramble(r, 1)}", f"{digits(r, 6)} {scramble(r, 1)}", f"{digits(r, 6)}{scramble(r, 1)}", f"SA{digits(r, 7)}-{scramble(r, 1)}"))
    return n


# ---------------------------------------------------------------- receipts as they are printed in Malaysia

def wrapped(r, name, rows):
    """A name broken into rows at spaces."""
    parts = name.split(" ")
    rows = min(rows, len(parts))
    cuts = sorted(r.sample(range(1, len(parts)), rows - 1)) if rows > 1 else []
    return [" ".join(parts[a:b]) for a, b in zip([0] + cuts, cuts + [len(parts)])]


def overlay(r):
    """What stands above the name on some scans: a hand's or a machine's note, the end of the receipt before, a greeting."""
    x = r.random()
    if x < .28:
        return [person(r).upper()]
    if x < .48:
        return [r.choice((digits(r, 7), digits(r, 4), f"{r.randint(1, 9)}-{digits(r, 7)}", f"{digits(r, 1)}  {digits(r, 6)}", "#" + digits(r, 6), f"318{digits(r, 4)}"))]
    if x < .58:
        return [r.choice(("R", "P", "POSTED", "PAID", "COPY", "A", "TAN", "NO.", "8  OZ", "T", "."))]
    if x < .8:
        return [r.choice(W.SLOGANS)]
    if x < .87:
        return ["YOUR ORDER NUMBER IS", digits(r, r.randint(2, 4))]
    if x < .93:
        return [r.choice(W.FOOTERS) for _ in range(r.randint(1, 4))]
    return [number(r.randint(0, 5000)) + "  0.00", r.choice(W.FOOTERS)]


def brand_line(r, name=""):
    """A shop's sign above the firm's name: often other words, sometimes some of the same."""
    x = r.random()
    if name and x < .35:
        parts = name.split(" ")
        brand = " ".join(parts[:r.randint(1, max(1, len(parts) - 2))])
        return r.choice((brand, brand + ",", brand.replace("'S", "S"), f"{brand} {place_my(r)}", f"{brand} - {place_my(r)}", f"{brand} {r.choice(W.TRADES_MY)}", brand[:-1] + r.choice(W.LETTERS)))
    x = r.random()
    if x < .5:
        return core_my(r)
    if x < .75:
        return f"{core_my(r)} {r.choice(W.TRADES_MY)}"
    return r.choice((f"{core_my(r)} - {place_my(r)}", f"{core_my(r)} @ {place_my(r)}", f"{r.choice(W.PREFIX_MY)} {core_my(r)}", f"{core_my(r)}'S"))


def header_my(r, name):
    """The rows above a Malaysian receipt's body, with the firm's name in them."""
    rows = []
    if chance(r, .2):
        rows += overlay(r)
    legal = bool(re.search(r"\b(SDN|BHD|S/B|SB|ENTERPRISE|TRADING|PLT|BERHAD)\b", name))
    if legal and chance(r, .2):
        rows.append(brand_line(r, name))
        if chance(r, .15):
            rows.append(r.choice(W.SLOGANS))
        if chance(r, .06):
            rows.append(r.choice(("OPERATED BY", "OWNED BY :", "DIMILIKI OLEH", "MANAGED BY")))
    lines = wrapped(r, name, r.choice((1, 1, 1, 1, 2, 2, 3)) if len(name) > 18 else 1 if chance(r, .93) else 2)
    prefix = r.choice(("OWNED BY : ", "OWN BY: ", "DIMILIKI: ", "OPERATED BY ", "BY ", "CO. NAME: ")) if legal and chance(r, .03) else "#" + digits(r, 6) + " " if chance(r, .008) else ""
    lines[0] = prefix + lines[0]
    reg = registration_my(r)
    x = r.random()
    if x < .28:
        lines[-1] += r.choice((f" ({reg})", f" ({reg})", f"  ({reg})", f" {reg}", f"({reg})"))
        reg = None
    elif x < .34:
        lines[-1] += "  " + r.choice(("POSTED", digits(r, 4), r.choice(W.SLOGANS)))
    rows += lines
    if reg and chance(r, .6):
        rows.append(r.choice((f"({reg})", f"({reg})", reg, f"CO. REG. NO. : {reg}", f"COMPANY REG NO: {reg}", f"(CO.REG : {reg})", f"CO NO : {reg}",
                              f"(CO. NO. {reg})", f"ROC: {reg}", f"COMPANY NO : {reg}", f"REG NO: {reg}", f"BR NO. :({reg})")))
    if chance(r, .06):
        rows.append(r.choice((f"FORMERLY KNOWN AS {firm_my(r)}", f"({brand_line(r, name)})", brand_line(r, name), f"FKA {firm_my(r)}", f"({core_my(r)})")))
    gst = r.choice((f"GST REG NO: {digits(r, 12)}", f"GST ID : {digits(r, 12)}", f"GST NO : {digits(r, 12)}", f"(GST REG. NO : {digits(r, 12)})", f"GST REG: {digits(r, 12)}",
                    f"SST ID : W10-{digits(r, 4)}-{digits(r, 8)}", f"GST ID NO: {digits(r, 12)}", f"GST:{digits(r, 12)}"))
    tel = r.choice((f"TEL: {phone(r)}", f"TEL : {phone(r)}  FAX : {phone(r)}", f"TEL:{phone(r)} FAX:{phone(r)}", phone(r), f"TEL NO: {phone(r)}", f"PHONE : {phone(r)}",
                    f"TEL: {phone(r)} / {phone(r)}", f"H/P: {phone(r)}"))
    blocks = [address_my(r)] if chance(r, .93) else []
    if chance(r, .6):
        blocks.append([tel])
    if chance(r, .7):
        blocks.insert(r.randint(0, len(blocks)), [gst])
    if chance(r, .1):
        blocks.append([r.choice((f"WWW.{made_up_word(r)}.COM.MY", f"EMAIL: {made_up_word(r)}@{made_up_word(r)}.COM", f"SITE : {digits(r, 4)}")).upper()])
    if chance(r, .07):
        blocks.insert(0, [r.choice((f"{brand_line(r)} OUTLET", f"BRANCH: {place_my(r)}", f"{name.split(' ')[0]} {place_my(r)}"))])
    for b in blocks:
        rows += b
    return rows


def goods(r):
    n = [r.choice(W.GOODS)]
    if chance(r, .5):
        n.insert(0, r.choice(W.ADJ))
    if chance(r, .15):
        n.insert(0, r.choice(W.BRANDS))
    if chance(r, .2):
        n.append(r.choice(W.GOODS))
    if chance(r, .3):
        n.append(r.choice(W.UNITS))
    return " ".join(n)


def basket(r, most=9):
    """Items bought: (name, quantity, price in cents)."""
    n = min(1 + int(r.expovariate(.4)), most)
    scale = r.choice((200, 500, 1000, 3000, 8000))
    out = []
    for _ in range(n):
        price = max(10, int(r.lognormvariate(0, .8) * scale))
        price -= price % r.choice((1, 5, 5, 10, 50, 100)) if price > 100 else price % 5
        out.append((goods(r), 1 if chance(r, .65) else r.randint(2, 12), price))
    return out


def body_my(r, d, drop_date=False, drop_total=False):
    """The rows below the head of a Malaysian receipt. Returns (rows, total in cents, number if one stands there)."""
    style = date_style(r, "MY")
    day = show_date(d, style)
    rows, bill = [], []
    inv = r.choice((digits(r, 6), f"{scramble(r, 2)}{digits(r, 8)}", f"{scramble(r, 1)}{digits(r, 3)}-{digits(r, 6)}", f"{digits(r, 4)}-{digits(r, 5)}", f"CS-{scramble(r, 2)}-{digits(r, 7)}"))
    doc = r.choice(("INVOICE NO", "INV NO.", "RECEIPT NO", "RECEIPT #", "BILL#", "BILL NO", "DOC NO.", "CB#", "ORDER", "CHECK #", "SLIP NO.", "TRANS NO", "REF NO", "RCPT#", "DOCUMENT NO"))
    colon = r.choice((" : ", ": ", ":", ":  ", "  : "))
    when = r.choice((f"DATE{colon}{day}", f"DATE{colon}{day} {clock(r)}", f"DATE{colon}{day}  TIME{colon}{clock(r)}", f"{day} {clock(r)}", f"{day}  {clock(r)}", f"{clock(r)}  {day}",
                     f"{day}", f"[{day}] [{clock(r)}]", f"INV DATE{colon}{day}", f"DATE/TIME{colon}{day} {clock(r)}", f"TARIKH{colon}{day}", f"BILL DATE{colon}{day}  {clock(r)}",
                     f"{doc}{colon}{inv}  DATE{colon}{day}", f"{doc}{colon}{inv}  {day} {clock(r)}", f"{r.choice(('MON', 'TUE', 'WED', 'THU', 'FRI', 'SAT', 'SUN'))} {day} {clock(r)}",
                     f"CASHIER{colon}{r.choice(W.GIVEN).upper()}  DATE{colon}{day}", f"POS NO.{colon}{digits(r, 2)}  {day}"))
    meta = [f"{doc}{colon}{inv}", f"CASHIER{colon}{r.choice((r.choice(W.GIVEN).upper(), r.choice(W.MALAY), 'ADMIN', 'USER', digits(r, 3), r.choice(W.CHINESE)))}",
            r.choice((f"TABLE {r.randint(1, 60)}", f"COUNTER{colon}{r.randint(1, 9)}", f"PAX(S){colon}{r.randint(0, 8)}", f"SALESPERSON{colon}{r.choice(W.GIVEN).upper()}", f"TERMINAL{colon}{digits(r, 3)}",
                      f"MEMBER{colon}{person(r).upper()}", f"BILL TO{colon}{firm_my(r)}", f"CUSTOMER{colon}CASH", f"M# : C{r.randint(1, 4)} - 0", f"TIME{colon}{clock(r)}", "CASH"))]
    meta = [m for m in meta if chance(r, .6)]
    r.shuffle(meta)
    if chance(r, .06):
        meta += [f"ATTN{colon}{person(r).upper()}", r.choice((f"M/S : {firm_my(r)}", firm_my(r)))] + address_my(r, 2)
    date_below = chance(r, .22)
    if not date_below and not drop_date:
        meta.insert(r.randint(0, len(meta)), when)
    if chance(r, .75):
        rows.append(r.choice(("TAX INVOICE", "TAX INVOICE", "TAX INVOICE", "CASH BILL", "RECEIPT", "SIMPLIFIED TAX INVOICE", "CASH SALES", "INVOICE", "OFFICIAL RECEIPT", "CASH RECEIPT", "* GUEST CHECK *")))
    rows += meta
    if chance(r, .65):
        rows.append(r.choice(("DESCRIPTION  QTY  U.PRICE  TOTAL  TAX", "QTY  DESCRIPTION  PRICE  TOTAL", "ITEM  QTY  PRICE  AMOUNT", "QTY ITEM  TOTAL", "ITEM  QTY  RSP  AMOUNT(RM)",
                              "DESC/ITEM  QTY  PRICE  AMT(RM)", "NO. DESCRIPTION  AMOUNT", "QTY  CODE&DESC  PRICE  TOTAL(RM)", "PERKARA  KUANTITI  HARGA", "(RM)  (RM)")))
    items = basket(r)
    layout, tag = r.randint(0, 7), r.choice(("", "", " SR", "  SR", "  S", " ZRL", "*", " Z"))
    rm = r.choice(("", "", "", "RM", "RM ", "$"))
    gross = 0
    for i, (name, qty, price) in enumerate(items):
        amount = qty * price
        gross += amount
        p, a, code = number(price), number(amount), digits(r, r.choice((4, 6, 8, 13)))
        rows += ([f"{name}  {qty}  {p}  {a}{tag}"], [f"{name}{tag}", f"{qty} X {p}  {a}"], [f"{qty}  {name}  {a}{tag}"], [f"{code}  {name}", f"{qty}  {p}  {a}{tag}"],
                 [f"{name}  {rm}{a}{tag}"], [f"{i + 1}. {name}", f"{code}  {qty} PCS X {p}  {a}{tag}"], [f"{qty} {name}  {p}  {a}{tag}", code], [f"{code}  {qty} @ {p}  {a}", name])[layout]
    # Everything below in cents: the goods' sum, less a discount, a service charge, tax in or on top, rounding.
    net = gross
    qty = sum(q for _, q, _ in items)
    if chance(r, .03):
        rows = rows[:len(rows) - len(items) * (1 if layout in (0, 2, 4) else 2)]
        rows += [f"DPT.{r.randint(1, 9):02d}  {rm or 'RM'}  {number(q * p)}" for _, q, p in items]
    if chance(r, .2):
        rows.append(r.choice((f"TOTAL QTY: {qty}", f"TOT QTY: {qty}  {number(gross)}", f"ITEM COUNT: {len(items)}", f"NO OF ITEMS : {len(items)}", f"{qty}  TYPE:  {len(items)}")))
    if chance(r, .35):
        bill.append((r.choice(("SUBTOTAL", "SUB TOTAL", "SUB-TOTAL", "SUB TOTAL (RM)", "TOTAL SALES", "GROSS TOTAL", "TOTAL (EXCLUDING GST)", "TOTAL AMT", "AMOUNT")), gross))
    if chance(r, .25):
        disc = 0 if chance(r, .5) else int(gross * r.choice((.05, .1, .2, .15)))
        bill.append((r.choice(("DISCOUNT", "DISC", "DISCOUNT (RM)", "TOTAL DISCOUNT", "LESS DISCOUNT", "MEMBER DISC")), -disc if chance(r, .6) else disc))
        net -= disc
    if chance(r, .12):
        service = net // 10
        bill.append((r.choice(("SERVICE CHARGE 10%", "SVC CHG (10%)", "SERVICE CHARGE")), service))
        net += service
    gst_mode, rate = r.random(), r.choice((6, 6, 6, 0, 10, 8))
    tax = 0
    if gst_mode < .3:
        tax = round(net * rate / 100)
        bill.append((r.choice((f"GST {rate}%", f"TOTAL GST {rate}%", f"GST @ {rate}%", "GST PAYABLE", "TOTAL GST", f"SERVICE TAX {rate}%", f"SST {rate}%", "ADD GST")), tax))
        net += tax
        if chance(r, .3):
            bill.append((r.choice(("TOTAL INCL. GST", "TOTAL SALES (INCLUSIVE GST)", "TOTAL WITH GST", "TOTAL (INCLUSIVE OF GST)")), net))
    elif gst_mode < .6:
        tax = net - round(net / (1 + rate / 100))
        if chance(r, .4):
            bill.append((r.choice((f"TOTAL INCLUDES {rate}% GST", f"GST {rate}% INCLUDED", "INCLUSIVE GST", f"GST ({rate}%) INCL.")), tax))
    total = net
    if chance(r, .4):
        total = (net + 2) // 5 * 5
        adj = total - net
        if chance(r, .35):
            bill.append((r.choice(("TOTAL", "NET TOTAL", "TOTAL AMOUNT", "TOTAL SALES INCL GST")), net))
        shown = number(adj) if chance(r, .7) or adj >= 0 else number(-adj) + "-"
        bill.append((r.choice(("ROUNDING", "ROUNDING ADJ", "ROUND ADJ", "ROUNDING ADJUSTMENT", "ROUNDING (RM)", "BULATAN")), shown))
    final = r.choice(("TOTAL", "TOTAL", "TOTAL", "TOTAL (RM)", "GRAND TOTAL", "NET TOTAL", "NETT TOTAL", "TOTAL AMOUNT", "AMOUNT DUE", "TOTAL RM", "TOTAL INCLUSIVE GST", "TOTAL INCL GST",
                      "TOTAL (INCL GST)", "TOTAL PAYABLE", "JUMLAH", "JUMLAH BESAR", "FINAL TOTAL", "ROUNDED TOTAL (RM)", "TOTAL SALES (INCLUSIVE OF GST)", "TOTAL AMOUNT PAYABLE", "TOTAL DUE",
                      "AMT DUE", "NET AMT", "BALANCE DUE", "TOTAL :", "TOTAL SALES INCLUSIVE GST @6%", "GRAND TOTAL (RM)", "NET AMOUNT", "BILL TOTAL", "TO PAY"))
    bare = chance(r, .06) and not drop_total        # no row says the total but the payment's
    if bare:
        total = net
        bill = [b for b in bill if b[0].startswith(("GST", "SERVICE", "SST", "ROUND"))] if chance(r, .5) else bill
        if chance(r, .5):
            rows.append(r.choice(("TOTAL AMOUNT", "TOTAL", "TOTAL :", "NET TOTAL")) if chance(r, .5) else number(total))
    elif not drop_total:
        bill.append((final, total))
        if chance(r, .08):
            bill.append((r.choice(("TOTAL", "AMOUNT DUE", "NET TOTAL", "GRAND TOTAL")), total))
    sep = r.choice(("  ", "  ", " : ", ":  ", ": ", " "))
    behind, split = (" RM" if rm == "" and chance(r, .04) else ""), (.5 if chance(r, .05) else .02)
    for label, amount in bill:
        amount = amount if isinstance(amount, str) else rm + number(amount) + behind
        if len(label) < 20 and chance(r, split):
            rows += [label, amount]
        else:
            rows.append(f"{label}{sep}{amount}")
    x = r.random()
    if not drop_total:
        if bare:
            rows += r.choice(([f"CASH  {rm}{number(total)}"], ["CASH", f"RM  {number(total)}"], [f"CASH  RM  {number(total)}"], [f"CASH{sep}{number(total)}", f"CHANGE{sep}0.00"],
                              [f"VISA{sep}{number(total)}"], [f"PAYMENT{sep}{number(total)}"]))
        elif x < .55:
            note = r.choice((5, 10, 20, 50, 100, 100, 500)) * 100
            paid = total if chance(r, .4) else -(-total // note) * note
            rows.append(f"{r.choice(('CASH', 'CASH', 'CASH', 'CASH', 'PAID', 'CASH RECEIVED', 'TENDERED', 'PAYMENT', 'AMOUNT PAID', 'TUNAI', 'CASH TEND', 'ACCEPTED TOTAL', 'TOTAL PAID', 'TOTAL CASH', 'TOTAL RECEIVED', 'CASH TENDERED', 'RECEIVED', 'CASH IN'))}{sep}{rm}{r.choice(('', '', '', '', '', '-'))}{number(paid)}{behind}")
            if paid != total or chance(r, .4):
                rows.append(f"{r.choice(('CHANGE', 'CHANGE', 'CHANGE', 'CHANGE DUE', 'BAKI', 'CHANGE (RM)', 'BALANCE', 'CHANGES', 'CHANGE IN RM', 'TOTAL CHANGE'))}{sep}{rm}{number(paid - total)}{behind}")
        elif x < .75:
            rows.append(f"{r.choice(('VISA', 'MASTER CARD', 'VISA CARD', 'DEBIT CARD', 'CREDIT CARD', 'MASTERCARD', 'E-WALLET', 'AMEX'))}{sep}{rm}{number(total)}")
            if chance(r, .5):
                rows.append(r.choice((f"XXXX-XXXX-XXXX-{digits(r, 4)}", digits(r, 16), f"APPROVAL CODE: {digits(r, 6)}")))
    if chance(r, .5):
        base = total - tax if tax else total
        rows.append(r.choice(("GST SUMMARY  AMOUNT(RM)  TAX(RM)", "GST SUMMARY", "TAX SUMMARY", "GST ANALYSIS  GOODS  TAX AMOUNT", "GST SUMMARY  %  AMOUNT(RM)  TAX(RM)")))
        if chance(r, .4):
            rows.append(r.choice(("TAX CODE  %  AMOUNT  GST", "CODE  %  NET AMT  GST  TOTAL", "RATE  NET  TAX")))
        rows.append(r.choice((f"SR  (@ {rate}%)  {number(base)}  {number(tax)}", f"SR  {rate}  {number(base)}  {number(tax)}", f"SR @{rate}%  {number(base)}  {number(tax)}", f"S={rate}%  {number(base)}  {number(tax)}  {number(total)}")))
        if chance(r, .4):
            rows.append(f"TOTAL{r.choice(('  ', ' : '))}{number(base)}  {number(tax)}")
    if chance(r, .15):
        rows.append(f"YOUR SAVINGS FOR TODAY  {number(r.randint(10, 900))}")
    if date_below and not drop_date:
        rows.append(when)
    elif chance(r, .1) and not drop_date:
        rows.append(r.choice((f"{day} {clock(r)}", f"CLOSED: 1  {day}  {clock(r)}", f"PRINTED ON {day}")))
    for _ in range(r.choice((0, 0, 1, 1, 2, 3, 5))):
        rows.append(r.choice(W.FOOTERS))
    return rows, total, inv if any(inv in x for x in rows) else None


def receipt_my(r, name):
    d, drop = some_date(r), r.random()
    rows = header_my(r, name) if drop > .015 else (address_my(r) if chance(r, .5) else [])
    body, total, no = body_my(r, d, .015 < drop < .03, .03 < drop < .05)
    text = rows + body
    expected = dict(number=no, document_type="receipt", party=name if drop > .015 else None, date=None if .015 < drop < .03 else d.isoformat(),
                    currency="MYR", total=None if .03 < drop < .05 else plain(total))
    if chance(r, .15):      # the same in mixed or lower case
        lower = r.choice((str.title, str.title, str.lower))
        text = [lower(x).replace("Rm", "RM") for x in text]
        for k in ("party", "number"):
            expected[k] = expected[k] and lower(expected[k])
    return text, expected


# ---------------------------------------------------------------- receipts, invoices and credit notes of the world

T = {   # what a field is called; the first list is English
    "EN": dict(invoice="Invoice|INVOICE|Tax Invoice|TAX INVOICE|Sales Invoice|INVOICE|Final invoice|Commercial Invoice|Invoice / Bill", credit="Credit Note|CREDIT NOTE|Credit Memo|Credit note|CREDIT MEMO|Tax Credit Note",
               receipt="Receipt|RECEIPT|Sales receipt|Payment receipt|Cash receipt", no="Invoice No|Invoice #|Invoice Number|Inv. No.|No.|Number|Document no.", cno="Credit Note No|Credit memo #|Number|CN No.|Credit Note Number",
               date="Date|Invoice Date|Date of issue|Issue date|Issued|Dated|Tax point|Date issued", due="Due Date|Due|Payment due|Pay by|Please pay by", to="Bill To|Invoice To|Billed to|To|Customer|Sold to|Client|Ship To",
               frm="From|Seller|Supplier|Issued by|Vendor|Remit to", sub="Subtotal|Sub-total|Net amount|Net total|Total excl. {tax}|Amount before tax", total="Total|TOTAL|Amount due|Total due|Grand total|Total amount|Balance due|Total payable|Invoice total|Total incl. {tax}|TOTAL DUE|Please pay|Pay this amount|Amount payable|Total to pay|AMOUNT DUE|Total for this invoice",
               ctotal="Total credit|Credit total|Total credited|Amount credited|Total|Refund total|TOTAL CREDIT|Credit amount", desc="Description|Item|Details|Service|Particulars", qty="Qty|Quantity|Hours|Units", price="Unit price|Price|Rate|Unit cost", amount="Amount|Total|Line total|Net",
               order="PO Number|Order no.|Your reference|Customer no.|Project|Reference|Account", terms="Payment terms: 30 days net|Terms: Net 30|Payment within 14 days|Please pay within 30 days of the invoice date.|Thank you for your business!|Payment due on receipt|Please quote the invoice number with your payment.",
               reason="Reason: goods returned|Reason: price adjustment|Goods damaged in transit|Reason for credit: overcharge|Cancellation of order|Returned goods", ref="Original invoice|Ref. invoice|Relates to invoice|Credit for invoice|Against Invoice No", bank="Bank details|Bank|Payment details",
               paid="Cash|Card|Visa|Mastercard|Contactless|Paid", change="Change|Change due", thanks="Thank you for your visit|Thank you!|Please come again|Thanks for shopping with us|Returns within 28 days with receipt|Have a nice day"),
    "DE": dict(invoice="Rechnung|RECHNUNG|Rechnung|Faktura|Jahresrechnung|Abrechnung|Schlussrechnung|Teilrechnung", credit="Gutschrift|GUTSCHRIFT|Rechnungskorrektur|Stornorechnung", receipt="Quittung|Kassenbon|Beleg|Bon", no="Rechnungsnummer|Rechnung Nr.|Rechnungs-Nr.|Nr.|Belegnummer",
               cno="Gutschrift Nr.|Gutschriftsnummer|Nr.|Belegnummer", date="Datum|Rechnungsdatum|Ausstellungsdatum|vom|Belegdatum", due="Fällig am|Zahlbar bis|Fälligkeit|Zahlungsziel", to="Kunde|Rechnungsempfänger|An|Rechnungsadresse",
               frm="Absender|Lieferant|Verkäufer", sub="Zwischensumme|Nettobetrag|Summe netto|Netto", total="Gesamtbetrag|Rechnungsbetrag|Summe|Gesamt|Zu zahlen|Endbetrag|Bruttobetrag|SUMME|Zahlbetrag", ctotal="Gutschriftsbetrag|Gesamtbetrag|Summe|Erstattungsbetrag",
               desc="Beschreibung|Bezeichnung|Artikel|Leistung", qty="Menge|Anzahl|Std.", price="Einzelpreis|Preis|E-Preis", amount="Betrag|Gesamt|Summe", order="Kundennummer|Bestellnummer|Ihr Zeichen|Projekt",
               terms="Zahlbar innerhalb von 14 Tagen ohne Abzug.|Zahlungsziel 30 Tage netto|Vielen Dank für Ihren Auftrag.|Bitte überweisen Sie den Betrag unter Angabe der Rechnungsnummer.", reason="Grund: Rücksendung|Grund: Preiskorrektur|Wegen Stornierung",
               ref="Zur Rechnung|Bezug: Rechnung|Originalrechnung", bank="Bankverbindung|Bank", paid="Bar|EC-Karte|Karte|Gegeben", change="Rückgeld|Zurück", thanks="Vielen Dank für Ihren Einkauf|Danke für Ihren Besuch|Es bediente Sie Kasse 2"),
    "FR": dict(invoice="Facture|FACTURE", credit="Avoir|AVOIR|Facture d'avoir|Note de crédit", receipt="Reçu|Ticket de caisse|REÇU", no="Facture n°|N° de facture|Numéro|Facture No", cno="Avoir n°|Numéro|N° d'avoir", date="Date|Date de facture|Date d'émission|Le",
               due="Échéance|Date d'échéance|À payer avant le", to="Client|Facturé à|Destinataire|Adressé à", frm="Émetteur|De|Fournisseur", sub="Total HT|Sous-total|Montant HT", total="Total TTC|Montant TTC|Net à payer|TOTAL|Total à payer|NET À PAYER", ctotal="Montant de l'avoir|Total TTC|Total avoir|Net à rembourser",
               desc="Désignation|Description|Prestation", qty="Qté|Quantité", price="Prix unitaire|P.U. HT|Prix", amount="Montant|Total HT|Total", order="N° client|Commande|Référence", terms="Paiement à 30 jours|Merci de votre confiance.|Règlement par virement à réception de facture.",
               reason="Motif : retour de marchandises|Motif : erreur de facturation", ref="Facture d'origine|Sur facture|Réf. facture", bank="Coordonnées bancaires|Banque", paid="Espèces|Carte bancaire|CB", change="Rendu|Monnaie", thanks="Merci de votre visite|À bientôt|Merci"),
    "ES": dict(invoice="Factura|FACTURA", credit="Factura rectificativa|Nota de crédito|Abono|NOTA DE CRÉDITO", receipt="Recibo|Ticket|Factura simplificada", no="Factura nº|Número|N.º de factura|Número de factura", cno="Abono nº|Número|Nota nº", date="Fecha|Fecha de factura|Fecha de emisión",
               due="Vencimiento|Fecha de vencimiento", to="Cliente|Facturar a|Destinatario", frm="Emisor|Proveedor", sub="Base imponible|Subtotal|Importe neto", total="Total|TOTAL|Total a pagar|Importe total|Total factura", ctotal="Total abono|Total|Importe abonado",
               desc="Descripción|Concepto|Artículo", qty="Cantidad|Cant.|Uds.", price="Precio|Precio unitario", amount="Importe|Total", order="Pedido|Referencia|N.º de cliente", terms="Pago a 30 días|Gracias por su confianza|Forma de pago: transferencia", reason="Motivo: devolución|Motivo: error en el precio",
               ref="Factura original|Rectifica a la factura", bank="Datos bancarios|Banco", paid="Efectivo|Tarjeta", change="Cambio", thanks="Gracias por su visita|Vuelva pronto"),
}
LANGUAGE = {"DE": "DE", "AT": "DE", "CH": "DE", "FR": "FR", "ES": "ES"}
WORLD = ["US"] * 6 + ["GB"] * 6 + ["DE"] * 4 + ["FR"] * 3 + ["ES"] * 2 + ["MY"] * 4 + ["SG"] * 3 + ["IE", "AT", "CH", "IT", "NL", "NL", "AU", "AU", "CA", "IN", "IN", "JP"]


class Money:
    """How a document writes amounts: the number's style, and a symbol or code before or after, or none."""

    def __init__(self, r, country, named=True):
        c = W.COUNTRIES[country]
        self.code = c["cur"] if chance(r, .9) else r.choice(("EUR", "USD", "GBP"))
        self.style = c["num"] if self.code == c["cur"] or c["num"] != ",0" else ",."
        if country not in ("US", "GB", "JP") and chance(r, .2):
            self.style = ",."
        elif self.style == ",." and chance(r, .15):
            self.style = " ." if chance(r, .2) else ("", ".")
        symbol = W.SYMBOLS[self.code]
        if self.code in ("SGD", "AUD", "CAD") and country not in ("US",) and chance(r, .5):
            symbol = "$"
        x = r.random()
        space = r.choice(("", " "))
        self.before, self.after, self.column = "", "", ""
        if x < .45:
            if country in ("DE", "AT", "FR", "ES", "IT") or (self.code == "EUR" and chance(r, .3)):
                self.after = " " + symbol if chance(r, .8) else symbol
            else:
                self.before = symbol + (" " if len(symbol) > 2 and symbol.isalpha() else space if chance(r, .2) else "")
        elif x < .65:
            if chance(r, .5):
                self.before = self.code + " "
            else:
                self.after = " " + self.code
        else:
            self.column = r.choice((self.code, symbol))
        self.items = self.column == "" and chance(r, .6)
        if not named:               # no sign of the currency but the country's
            self.code, self.before, self.after, self.column = c["cur"], "", "", ""

    def num(self, cents):
        return number(cents, self.style)

    def full(self, cents):
        sign, n = ("-", self.num(-cents)) if cents < 0 else ("", self.num(cents))
        return f"{sign}{self.before}{n}{self.after}"

    def item(self, cents):
        return self.full(cents) if self.items else self.num(cents)

    def label(self, text):
        """The label before a total: names the currency if the amounts do not."""
        return f"{text} {self.column}" if self.column and len(self.column) > 1 else f"{text} ({self.column})" if self.column else text


def lines_of(r, lang, money, most=8, scales=(800, 3000, 9000, 30000, 90000), count=0):
    out, cents = [], 1 if money.style[1] != "0" else 100
    scale = r.choice(scales)
    for _ in range(count or min(1 + int(r.expovariate(.45)), most)):
        x = r.random()
        if lang != "EN" and x < .6:
            pool = {"DE": W.GERMAN, "FR": W.FRENCH, "ES": W.SPANISH}[lang]
            name = " ".join(r.choice(pool) for _ in range(r.randint(1, 4))).capitalize()
        elif x < .5:
            name = r.choice(W.SERVICES)
        else:
            name = goods(r).capitalize() if chance(r, .7) else goods(r).title()
        qty = 1 if chance(r, .4) else r.randint(2, 40)
        price = max(100, int(r.lognormvariate(0, .7) * scale))
        price -= price % r.choice((1, 5, 50, 100, 100, 500)) if price > 600 else 0
        out.append((name, qty, price // cents * cents))
    return out


def commercial(r, kind):
    """An invoice, a credit note, or a shop's receipt outside Malaysia. kind: "invoice", "credit_note" or "receipt"."""
    country = r.choice(WORLD)
    if kind == "receipt" and country == "MY":
        country = "SG"
    c, lang = W.COUNTRIES[country], LANGUAGE.get(country, "EN")
    if lang != "EN" and chance(r, .15):
        lang = "EN"
    w = {k: r.choice(v.split("|")) for k, v in T[lang].items()}
    tax_name = r.choice(c["tax"].split("|")) if lang != "EN" or LANGUAGE.get(country, "EN") == "EN" else r.choice(("VAT", "Tax"))
    w = {k: v.replace("{tax}", tax_name) for k, v in w.items()}
    upper = chance(r, .12)
    money, d = Money(r, country, kind != "receipt" or chance(r, .8)), some_date(r)
    style = date_style(r, country if lang != "EN" or country in ("US",) else "GB", False)
    day, due = show_date(d, style), show_date(d + datetime.timedelta(days=r.choice((7, 14, 14, 30, 30, 45, 60))), style)
    seller, buyer = firm(r, country), firm(r, country if chance(r, .8) else r.choice(WORLD)) if chance(r, .8) else person(r)
    colon = r.choice((": ", ":  ", "  ", " ", ":"))
    drop = r.random()           # rarely a field is missing
    no = r.choice((digits(r, 5), f"{d.year}-{digits(r, 4)}", f"INV-{digits(r, 5)}", f"RE{digits(r, 6)}", f"{scramble(r, 2)}{digits(r, 4)}/{d.year % 100:02d}", f"{digits(r, 3)}-{digits(r, 6)}"))
    sign = -1 if kind == "credit_note" and chance(r, .3) else 1

    # Amounts.
    items = lines_of(r, lang, money, 12 if chance(r, .1) else 6, *(((200, 400, 900, 2500),) if kind == "receipt" else ()))
    net = sum(q * p for _, q, p in items)
    rate = r.choice(c["rates"]) if chance(r, .85) else 0
    unit = 1 if money.style[1] != "0" else 100
    included = kind == "receipt" and chance(r, .6)
    ship = r.choice((0, 0, 0, 500, 900, 1500)) if kind != "receipt" else 0
    disc = int(net * r.choice((.05, .1))) // unit * unit if chance(r, .12) else 0
    base = net + ship - disc
    tax = round(base * rate / 100 / unit) * unit if not included else round((base - base / (1 + rate / 100)) / unit) * unit
    total = base if included else base + tax

    # Blocks of rows.
    title = w[{"invoice": "invoice", "credit_note": "credit", "receipt": "receipt"}[kind]]
    head = [seller]
    if chance(r, .12):
        head.append(r.choice(("Established 1987", "Quality since 1995", f"Your partner for {r.choice(W.TRADES_EN).lower()}", "Registered office:", r.choice(W.TRADES_EN))))
    head += address(r, country)
    contact = [f"{r.choice(('Tel', 'Phone', 'Tel.', 'T'))}{colon}{phone(r, country)}", f"{r.choice(('Email', 'E-mail', 'info'))}{colon}{r.choice(('info', 'sales', 'office', 'accounts'))}@{made_up_word(r)}.{r.choice(('com', 'net', 'co.uk', 'de', 'fr', 'org'))}",
               f"www.{made_up_word(r)}.com", f"{tax_name} {r.choice(('No', 'ID', 'Reg. No.', 'number'))}{colon}{country}{digits(r, 9)}", f"Reg. No. {digits(r, 8)}"]
    head += [x for x in contact if chance(r, .35)]
    rate_text = f"{rate:g}%".replace(".", money.style[1] if money.style[1] in ",." else ".")
    rows_items, cols = [], r.randint(0, 4)
    for i, (name, q, p) in enumerate(items):
        a, u = money.item(sign * q * p), money.item(p)
        rows_items.append((f"{name}  {q}  {u}  {a}", f"{q}  {name}  {u}  {a}", f"{i + 1}  {name}  {q}  {u}  {a}", f"{name}  {a}", f"{i + 1}.  {q} x {name}  {u}  {rate_text}  {a}")[cols])
        if chance(r, .04):
            rows_items.append(r.choice(("incl. delivery", "as agreed", f"Order {digits(r, 5)}", show_date(d - datetime.timedelta(days=r.randint(1, 60)), style))))
    header = (f"{w['desc']}  {w['qty']}  {w['price']}  {w['amount']}", f"{w['qty']}  {w['desc']}  {w['price']}  {w['amount']}", f"#  {w['desc']}  {w['qty']}  {w['price']}  {w['amount']}", f"{w['desc']}  {w['amount']}",
              f"Pos.  {w['desc']}  {w['price']}  {tax_name}  {w['amount']}")[cols]
    if money.column:
        header += f" ({money.column})" if chance(r, .7) else f" {money.column}"
    sums = []
    if kind != "receipt" or chance(r, .6):
        sums.append((w["sub"], sign * net))
        if ship:
            sums.append((r.choice(("Shipping", "Delivery", "Freight", "Shipping & handling")), sign * ship))
        if disc:
            sums.append((r.choice(("Discount", "Less discount", "Rabatt")), -sign * disc))
    if rate:
        label = r.choice((f"{tax_name} {rate_text}", f"{tax_name} ({rate_text})", f"{rate_text} {tax_name}", f"{tax_name} @ {rate_text}", tax_name))
        sums.append((f"{label} incl." if included else label, sign * tax))
    final = w["ctotal"] if kind == "credit_note" else w["total"]
    has_total = not .02 < drop < .035
    if kind == "receipt" and country in ("US", "GB", "CA") and chance(r, .15):
        tip = round(total * r.choice((.1, .15, .18, .2)))
        sums.append((r.choice(("Tip", "Gratuity", "Service")), tip))
        total += tip
    tail = [f"{label}{r.choice(('  ', colon))}{money.full(x)}" for label, x in sums]
    if has_total:
        tail.append(f"{money.label(final)}{r.choice(('  ', '  ', colon))}{money.full(sign * total)}")
        if kind == "receipt":
            paid = total if chance(r, .6) else -(-total // 2000) * 2000
            tail.append(f"{w['paid']}  {money.full(paid)}")
            if paid > total:
                tail.append(f"{w['change']}  {money.full(paid - total)}")
        elif kind == "invoice" and chance(r, .1):
            tail += [f"Amount paid{colon}{money.full(0)}", f"Balance{colon}{money.full(total)}"]
    if money.column:            # the currency is said somewhere in plain
        if chance(r, .3):
            tail.append(r.choice((f"All amounts in {money.code}", f"Currency: {money.code}", f"Amounts in {money.code}")))
    has_date = drop > .02
    facts = [f"{w['cno' if kind == 'credit_note' else 'no']}{colon}{no}"]
    if has_date:
        label = w["date"] if kind != "credit_note" or "nvoice" not in w["date"] else "Date"
        facts.insert(r.randint(0, 1), f"{label}{colon}{day}" if chance(r, .9) else f"{r.choice(c['towns']).split(',')[0]}, {day}")
    if kind == "invoice" and has_date and chance(r, .6):
        facts.append(f"{w['due']}{colon}{due}")
    if kind != "receipt" and chance(r, .45):
        facts.insert(r.randint(0, len(facts)), f"{w['order']}{colon}{r.choice((digits(r, 6), scramble(r, 2) + digits(r, 4)))}")
    if kind == "credit_note":
        if chance(r, .7):
            old = show_date(d - datetime.timedelta(days=r.randint(3, 90)), style)
            facts.append(f"{w['ref']}{colon}INV-{digits(r, 5)}" + (f" {r.choice(('of', 'dated', '/'))} {old}" if chance(r, .4) and has_date else ""))
        if chance(r, .5):
            tail.append(w["reason"])
    if kind == "invoice" and chance(r, .12) and has_date:
        facts.append(f"{r.choice(('Delivery date', 'Service period', 'Order date', 'Shipped'))}{colon}{show_date(d - datetime.timedelta(days=r.randint(1, 30)), style)}")
    to = [buyer] + address(r, country)
    if chance(r, .15):
        to.insert(1, f"{r.choice(('Attn', 'c/o', 'z. Hd.', 'Attention'))} {person(r)}")
    bank = [w["bank"] + colon + r.choice((seller, f"{r.choice(W.BRANDS).title()} Bank")), f"IBAN {country}{digits(r, 2)} {digits(r, 4)} {digits(r, 4)} {digits(r, 4)} {digits(r, 2)}", f"BIC {scramble(r, 8)}"]
    foot = [w["terms"]] if chance(r, .6) else []
    if kind == "receipt":
        foot = [w["thanks"]] if chance(r, .7) else []
    elif chance(r, .4):
        foot += bank[r.randint(0, 1):r.randint(2, 3)]
    if chance(r, .1):
        foot.append(f"{seller} · {', '.join(address(r, country))}")

    # The page.
    rows, layout = [], r.random()
    if kind == "receipt":
        if chance(r, .1):
            rows += [title]
        rows += head
        if chance(r, .4) and title not in rows:
            rows.append(title)
        meta = []
        if has_date:
            meta.append(r.choice((f"{day} {clock(r, False)}", f"{day}  {clock(r, False)}", f"{w['date'] if lang != 'EN' else 'Date'}{colon}{day}", f"{day}")))
        no = digits(r, 4)
        meta += [x for x in (f"{r.choice(('Receipt', 'Ticket', 'Check', 'Receipt'))} {r.choice(('#', '', 'No. '))}{no}", f"{r.choice(('Server', 'Cashier', 'Served by'))}{colon}{r.choice(W.GIVEN)}") if chance(r, .5)]
        r.shuffle(meta)
        if chance(r, .75):
            rows += meta + rows_items + tail + foot
        else:
            rows += rows_items + tail + meta + foot
    else:
        if layout < .22:        # letterhead, title, facts, customer
            rows += head + [title] + facts + [w["to"] + colon.rstrip()] + to
        elif layout < .38:      # title first
            rows += [title] + head + facts + [w["to"] + ":"] + to
        elif layout < .58:      # letterhead on the left, title and facts on the right of the same rows
            right = [title] + facts
            if chance(r, .3):
                right.insert(0, "")
            for i in range(max(len(head), len(right))):
                left, beside = (x[i] if i < len(x) else "" for x in (head, right))
                rows.append("  ".join(x for x in (left, beside) if x))
            rows += [w["to"] + colon.rstrip()] + to
        elif layout < .72:      # seller and customer side by side
            a, b = [w["frm"] + ":"] + head, [w["to"] + ":"] + to
            rows += [title] + (facts if chance(r, .5) else [])
            side = ["  ".join(y for y in ((a[i] if i < len(a) else ""), (b[i] if i < len(b) else "")) if y) for i in range(max(len(a), len(b)))]
            rows += side + [f for f in facts if f not in rows]
        elif layout < .86:      # customer first, as behind an envelope's window, facts beside
            rows += ([" - ".join([seller] + address(r, country))] if chance(r, .6) else head[:2])
            right = facts
            for i in range(max(len(to), len(right))):
                left, beside = (x[i] if i < len(x) else "" for x in (to, right))
                rows.append("  ".join(x for x in (left, beside) if x))
            rows += [f"{title} {no}" if chance(r, .5) else title]
            if chance(r, .3):
                foot += head
        else:                   # the customer above; the seller's name in the footer or a "From" line
            if chance(r, .5):
                rows += [title] + facts + [w["to"] + ":"] + to + [w["frm"] + ":"] + head
            else:
                rows += [title] + [f"{w['frm']}{colon}{seller}"] + head[1:] + [f"{w['to']}{colon}{to[0]}"] + to[1:] + facts
        if chance(r, .12):
            rows.append(r.choice(("Dear Sir or Madam,", "Thank you for your order. We charge you as follows:", "For services rendered:", "Sehr geehrte Damen und Herren,", f"Project: {r.choice(W.SERVICES)}")))
        if chance(r, .88):
            rows.append(header)
        rows += rows_items + tail + foot
        if chance(r, .1):
            rows.append(f"Page 1 {r.choice(('of', '/'))} 1")
    if not any(money.column in x for x in rows if money.column) and money.column:
        rows.append(f"Currency: {money.code}")
    if money.column == "$" or money.before.strip() == "$":
        code = money.code
        if code in ("SGD", "AUD", "CAD") and not any(x in "\n".join(rows) for x in [code] + c["name"].split("|") + ([" GST", "Pty"] if code == "AUD" else [])):
            rows.append(f"All amounts in {code}")
    expected = dict(document_type=kind, party=seller, date=d.isoformat() if has_date else None, currency=money.code, total=plain(sign * total) if has_total else None,
                    number=no if kind != "receipt" or any(x.endswith(no) and x in meta for x in rows) else None, recipient=buyer if kind != "receipt" else None, title=title if any(title in x for x in rows) else None)
    if not has_date:
        rows = [x for x in rows if day not in x]
    if upper:
        rows, expected = [x.upper() for x in rows], dict(expected, **{k: expected[k] and expected[k].upper() for k in ("party", "number", "recipient", "title")})
    return rows, expected


# ---------------------------------------------------------------- everything else

def sentence(r):
    x = r.random()
    if x < .06:
        pool = r.choice((W.LATIN, W.GERMAN, W.FRENCH, W.SPANISH))
        return (" ".join(r.choice(pool) for _ in range(r.randint(5, 14)))).capitalize() + "."
    noun = lambda: (r.choice(W.ADJS) + " " if chance(r, .4) else "") + r.choice(W.NOUNS)
    the = lambda: r.choice(("the", "the", "a", "this", "our", "their", "every", "his", "her", "your", "no", "another"))
    s = f"{the()} {noun()} {r.choice(('will', 'may', 'should', 'can', 'did not', 'does', 'could', 'must'))} {r.choice(W.VERBS)} {the()} {noun()}"
    if chance(r, .6):
        s += f" {r.choice(W.LINKS)} {the()} {noun()}"
    if chance(r, .3):
        s += f" {r.choice(('and', 'but', 'because', 'while', 'when', 'so that'))} {r.choice(('we', 'they', 'you', 'I', 'people', 'it'))} {r.choice(('will', 'can', 'should', 'did'))} {r.choice(W.VERBS)} {the()} {noun()}"
    if chance(r, .1):
        s += f" {r.choice(('on', 'by', 'before', 'since'))} {show_date(some_date(r), date_style(r, r.choice(('US', 'GB')), False))}"
    if chance(r, .07):
        s += f" for {r.choice(('EUR', '$', '£', 'RM', 'USD'))} {number(r.randint(500, 900000))}"
    if chance(r, .2):
        s = f"{r.choice(W.OPENERS)} {s}"
    return s[0].upper() + s[1:] + r.choice((".", ".", ".", ".", "?", "!", ";"))


def paragraph(r, sentences):
    text = " ".join(sentence(r) for _ in range(sentences))
    if chance(r, .5):
        return [text]
    rows, line = [], ""
    width = r.choice((50, 60, 72, 80))
    for word in text.split(" "):
        if len(line) + len(word) >= width:
            rows.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    return rows + [line]


def letter(r):
    country = r.choice(WORLD)
    d = show_date(some_date(r), date_style(r, country, False))
    sender = [firm(r, country) if chance(r, .6) else person(r)] + address(r, country)
    if chance(r, .4):
        sender.append(f"Tel: {phone(r, country)}")
    to = [firm(r, country) if chance(r, .4) else person(r)] + address(r, country)
    rows = sender + ([d] if chance(r, .5) else []) + to + ([d] if chance(r, .5) else [])
    if chance(r, .5):
        rows.append(r.choice(("Re: ", "Subject: ", "Betreff: ", "Objet : ", "")) + r.choice((f"Your letter of {d}", "Meeting next week", f"Order no. {digits(r, 6)}", f"Invoice no. {digits(r, 6)}", "Notice of change of address",
                                                                                               "Complaint", "Application", "Lease agreement", "Reminder: overdue payment", "Price list", "Invitation", sentence(r).rstrip(".;!?"))))
    rows.append(r.choice((f"Dear {person(r)},", "Dear Sir or Madam,", "To whom it may concern", "Dear all,", "Sehr geehrte Damen und Herren,", "Madame, Monsieur,", "Estimados señores:")))
    for _ in range(r.randint(1, 4)):
        rows += paragraph(r, r.randint(1, 5))
    return rows + [r.choice(("Yours sincerely,", "Kind regards,", "Best wishes,", "Yours faithfully,", "Mit freundlichen Grüßen", "Cordialement,")), person(r)] + ([r.choice(("Director", "Manager", "Secretary", "Head of Sales"))] if chance(r, .4) else [])


def mail(r):
    a, b = person(r), person(r)
    at = lambda n: f"{n.split()[0].lower()}@{made_up_word(r)}.{r.choice(('com', 'org', 'net', 'de'))}"
    head = [f"From: {a} <{at(a)}>", f"To: {b} <{at(b)}>", f"Date: {show_date(some_date(r), date_style(r, r.choice(('US', 'GB')), False))} {clock(r)}",
            f"Subject: {r.choice(('Re: ', 'Fwd: ', '', ''))}{r.choice(('Meeting', 'Lunch on Friday', 'Your invoice', 'Holiday plans', 'Minutes', 'Draft of the report', 'Question about the contract', 'Receipt attached', sentence(r)[:-1]))}"]
    rows = [h for h in head if chance(r, .85)]
    rows.append(f"{r.choice(('Hi', 'Hello', 'Dear'))} {b.split()[0]},")
    for _ in range(r.randint(1, 4)):
        rows += paragraph(r, r.randint(1, 4))
    if chance(r, .2):
        rows += ["> " + x for x in paragraph(r, 3)]
    return rows + [r.choice(("Best,", "Regards,", "Thanks,", "Cheers,", "See you,")), a]


def near_business(r):
    """Papers that look like business and are nothing to book: price lists, menus, timetables, inventories."""
    country = r.choice(WORLD)
    money, items = Money(r, country), lines_of(r, "EN", Money(r, country), 10)
    title, rows = r.choice(("Menu", "Price list", "Our dishes", "Speisekarte", "Price list 2024", "Tariff")), [firm(r, country)] + address(r, country)
    if chance(r, .4):
        title = r.choice(("Timetable", "Schedule", "Agenda", "Inventory", "Shopping list", "Opening hours", "Programme"))
        rows += [title] + [f"{clock(r)}  {n}" if chance(r, .8) else n for n, _, _ in items]
    else:
        rows += [title] + [f"{n}  {money.item(p)}" for n, _, p in items]
    return rows


def note(r):
    """Mails and letters that speak of business papers without being one, and notices of machines."""
    d = lambda: show_date(some_date(r), date_style(r, r.choice(WORLD), False))
    amount = lambda: f"{r.choice(('EUR', '$', '£', 'RM', 'USD', 'CHF'))} {number(r.randint(500, 900000))}"
    no = lambda: r.choice((digits(r, 5), f"INV-{digits(r, 4)}", f"{scramble(r, 2)}{digits(r, 4)}"))
    a, b, f = person(r), person(r), firm(r, r.choice(WORLD))
    x = r.randrange(14)
    if x == 0:
        body = [f"please find attached our invoice {no()} of {d()} over {amount()}.", "If you have any questions, please call me."]
    elif x == 1:
        body = [f"thank you for your payment of {amount()}, which we received on {d()}."]
    elif x == 2:
        body = [f"could you please send me a copy of invoice {no()}? I cannot find it in my files.", r.choice(("It should be from March.", f"The amount was {amount()}."))]
    elif x == 3:
        body = [f"your parcel {digits(r, 12)} has been handed over to {f} and will arrive on {d()}.", "You can follow it on our web site."]
    elif x == 4:
        body = [f"your password was changed on {d()} at {clock(r)}. If this was not you, contact us at once.", f"Code: {digits(r, 6)}"]
    elif x == 5:
        body = [f"thank you for your application of {d()}. We would like to invite you to an interview.", f"Your travel costs, up to {amount()}, will be paid."]
    elif x == 6:
        body = [f"we will move on {d()}. Our new address is:"] + address(r, r.choice(WORLD)) + ["Telephone numbers stay the same."]
    elif x == 7:
        body = [f"from {d()} our prices rise by {r.randint(2, 9)} %. The new price list is attached.", sentence(r)]
    elif x == 8:
        body = [f"the contract for {r.choice(W.SERVICES).lower()} ends on {d()}. Do we want to go on with {f}?", sentence(r)]
    elif x == 9:
        body = [f"please order {r.randint(2, 90)} {goods(r).lower()} for the office. We have a budget of {amount()}.", sentence(r)]
    elif x == 10:
        return [f"Minutes of the meeting of {d()}", f"Present: {a}, {b}, {person(r)}"] + [f"{i}. {sentence(r)}" for i in range(1, r.randint(3, 8))] + [f"Next meeting: {d()}"]
    elif x == 11:
        return [a, *address(r, r.choice(WORLD)), f"Born {d()}", r.choice(("Curriculum vitae", "Résumé", "Lebenslauf"))] + [f"{r.randint(1995, 2010)} - {r.randint(2011, 2024)}  {r.choice(W.TRADES_EN)}, {firm(r, r.choice(WORLD))}" for _ in range(r.randint(2, 5))] + [f"Languages: English, German"]
    elif x == 12:
        return [f"{r.choice(('Ticket', 'Boarding pass', 'Voucher', 'Invitation', 'Certificate', 'Membership card', 'Prescription', 'Warranty card'))}", f, f"{r.choice(('Valid on', 'Date', 'Valid until'))} {d()}", f"{r.choice(('Name', 'Visitor', 'Holder'))}: {a}", f"No. {no()}", r.choice(("Please show this page at the door.", "Keep this card in a safe place.", sentence(r)))]
    else:
        return [r.choice(("Terms and Conditions", "General conditions of sale", "Allgemeine Geschäftsbedingungen", "Privacy notice", "Instructions for use", "Safety data sheet", "Conditions of carriage")), f] + [f"{i}. {sentence(r)} {r.choice(('Invoices are payable within 30 days.', 'Orders are binding once confirmed.', 'Goods remain our property until paid.', sentence(r)))}" for i in range(1, r.randint(3, 9))]
    rows = [h for h in (f"From: {a}", f"To: {b}", f"Date: {d()}", f"Subject: {r.choice(('Re: ', 'Fwd: ', ''))}{r.choice(('Invoice ' + no(), 'Your order', 'Payment received', 'Our contract', 'Receipt attached', 'Credit note', 'Delivery', 'News', 'Salary', 'Offer', sentence(r)[:-1]))}") if chance(r, .7)]
    return rows + [r.choice((f"Dear {b},", f"Hi {b.split()[0]},", "Hello,", "Dear Sir or Madam,", "Sehr geehrte Damen und Herren,"))] + body + ([sentence(r)] if chance(r, .4) else []) + [r.choice(("Regards,", "Best wishes", "Yours sincerely,", "Thanks,", "Mit freundlichen Grüßen")), a] + ([f] if chance(r, .5) else [])


def code(r):
    rows, indent = [], 0
    v = lambda: r.choice(W.NOUNS + W.VERBS) + (f"_{r.choice(W.NOUNS)}" if chance(r, .4) else "")
    for _ in range(r.randint(5, 40)):
        x = r.random()
        pad = " " * 4 * indent
        if x < .15:
            rows.append(pad + r.choice((f"def {v()}({v()}, {v()}):", f"int {v()}(int {v()}) {{", f"for {v()} in {v()}:", f"if ({v()} > {r.randint(0, 99)}) {{", f"class {v().title()}:")))
            indent = min(indent + 1, 4)
        elif x < .3 and indent:
            indent -= 1
            rows.append(" " * 4 * indent + r.choice(("}", "return " + v(), "end")))
        else:
            rows.append(pad + r.choice((f"{v()} = {v()} + {r.randint(0, 999)}", f"{v()}({v()}, \"{v()}\")", f"# {sentence(r)}", f"return {v()};", f"{v()}[{r.randint(0, 9)}] = {v()};", f"#include <{v()}.h>", f"import {v()}", f"print({v()})", f"<{v()} id=\"{v()}\">{v()}</{v()}>", f"\"{v()}\": {r.randint(0, 9999)},")))
    return rows


def other(r):
    x = r.random()
    if x < .2:
        return letter(r)
    if x < .33:
        return mail(r)
    if x < .43:
        return near_business(r)
    if x < .68:
        return note(r)
    if x < .83:
        rows = [sentence(r).rstrip(".;!?").title()] if chance(r, .7) else []
        if chance(r, .3):
            rows.append(f"{r.choice(('By ', ''))}{person(r)}" + (f", {show_date(some_date(r), date_style(r, 'GB', False))}" if chance(r, .5) else ""))
        for _ in range(r.randint(1, 8)):
            rows += paragraph(r, r.randint(1, 6))
            if chance(r, .1):
                rows.append(f"{r.randint(1, 9)}. {sentence(r)[:-1]}")
        return rows
    if x < .9:
        return code(r)
    if x < .95:
        return [" ".join(r.choice((made_up_word(r), scramble(r, r.randint(1, 9)), digits(r, r.randint(1, 8)), r.choice(W.NOUNS), r.choice("*#-_.=|/%"))) for _ in range(r.randint(1, 9))) for _ in range(r.randint(1, 25))]
    if x < .98:
        return [f"{r.choice(('-', '*', str(i + 1) + '.', ''))} {r.choice((goods(r).lower(), sentence(r)[:-1], person(r), phone(r)))}".strip() for i in range(r.randint(2, 20))]
    return [r.choice((sentence(r), made_up_word(r), digits(r, 5), "", person(r), firm(r, r.choice(WORLD))))]


# ---------------------------------------------------------------- noise of scanning

CONFUSED = {"O": "0D", "0": "O", "I": "1LT", "1": "IL", "L": "I1", "S": "5", "5": "S", "B": "8", "8": "B", "E": "F", "A": "4", "G": "6", "Z": "2", "U": "V", "V": "U", "M": "N", "N": "M", "T": "I", "R": "P",
            "H": "N", "C": "G", "D": "O", "Q": "O", "a": "o", "e": "c", "l": "1", "i": "l", "o": "0", "n": "m", "m": "rn", "t": "f", "f": "t", "u": "v", ".": ",", ",": ".", ":": ";", "'": "`"}


def noisy(r, row, rate):
    """row with letters misread, lost or doubled, and spaces lost or added."""
    out = []
    for ch in row:
        if r.random() >= rate:
            out.append(ch)
            continue
        x = r.random()
        if x < .5:
            out.append(r.choice(CONFUSED.get(ch, ch)))
        elif x < .68:
            pass
        elif x < .78:
            out.append(ch + r.choice((" ", ".", "'", "-", ch)))
        elif ch == " ":
            out.append("" if x < .9 else "  ")
        else:
            out.append(ch)
    return "".join(out)


def scanned(r, rows, expected, rate):
    """Noise on rows that carry no answer; a few of them are lost."""
    keep = [squeeze(x) for x in (expected.get("party") or "").split(" ") if len(x) > 1]
    amount = (expected.get("total") or "").split(".")[0]
    out = []
    for row in rows:
        s = row.upper()
        critical = any(k in s for k in keep) or (amount and amount in row and len(amount) > 1) or re.search(r"\d[-/. ]+(\d|[A-Z]{3})", s) or "TOTAL" in s
        if not critical:
            if r.random() < rate:
                continue
            row = noisy(r, row, rate)
        out.append(row)
    return out


# ---------------------------------------------------------------- real receipts, made over

DATES = [
    (re.compile(r"(?<![\d.])(\d{1,2})([-/.])(\d{1,2})\2(\d{4}|\d{2})(?!\d|[-/.]\d)"), "dmy"),
    (re.compile(r"(?<!\d)(\d{1,2})( )(\d{1,2}) (20\d\d)(?!\d)"), "dmy"),
    (re.compile(r"(?<!\d)(20\d\d)([-/.])(\d{1,2})\2(\d{1,2})(?!\d)"), "ymd"),
    (re.compile(r"(?<![\dA-Z])(\d{1,2})([-/. ]?)(JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)([A-Z]*)([-/., ']*)(20\d\d|\d\d)(?!\d)"), "dMy"),
    (re.compile(r"(?<![A-Z])(JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)([A-Z]*)([-. ]*)(\d{1,2})([-/., ]+)(20\d\d|\d\d)(?!\d)"), "Mdy"),
]
AMOUNT = re.compile(r"(?<![\d.,])(\d{1,3}(?:,\d{3})+|\d+)\.(\d\d)(?![\d%]|\.\d| ?%)")


def full_year(y):
    return y + 2000 if y < 100 else y


def find_dates(row, expected):
    """Dates in a row: (start, end, date, render). A day-first date whose month is over 12 is read month first."""
    out = []
    for pattern, order in DATES:
        for m in pattern.finditer(row):
            try:
                g = m.groups()
                pad = lambda a, like: f"{a:02d}" if like[0] == "0" or len(like) == 2 else str(a)
                if order == "dmy":
                    a, b, y = int(g[0]), int(g[2]), full_year(int(g[3]))
                    swap = b > 12 >= a
                    d = datetime.date(y, a, b) if swap else datetime.date(y, b, a)
                    def render(x, g=g, swap=swap):
                        p, q = (x.month, x.day) if swap else (x.day, x.month)
                        strict = g[0][0] != "0" and len(g[0]) == 2 and len(g[2]) == 1
                        show = (lambda v: str(v)) if strict or len(g[0]) == 1 or len(g[2]) == 1 else (lambda v: f"{v:02d}")
                        return f"{show(p)}{g[1]}{show(q)}{g[1]}" + (str(x.year) if len(g[3]) == 4 else f"{x.year % 100:02d}")
                    kind = "swap" if swap else "dmy"
                elif order == "ymd":
                    d = datetime.date(int(g[0]), int(g[2]), int(g[3]))
                    render, kind = (lambda x, g=g: f"{x.year}{g[1]}{pad(x.month, g[2])}{g[1]}{pad(x.day, g[3])}"), "ymd"
                elif order == "dMy":
                    d = datetime.date(full_year(int(g[5])), [x[:3] for x in MONTHS].index(g[2]) + 1, int(g[0]))
                    def render(x, g=g):
                        mon = MONTHS[x.month - 1] if g[3] and len(g[2] + g[3]) > 3 else MONTHS[x.month - 1][:3]
                        return pad(x.day, g[0]) + g[1] + mon + g[4] + (str(x.year) if len(g[5]) == 4 else f"{x.year % 100:02d}")
                    kind = "name"
                else:
                    d = datetime.date(full_year(int(g[5])), [x[:3] for x in MONTHS].index(g[0]) + 1, int(g[3]))
                    def render(x, g=g):
                        mon = MONTHS[x.month - 1] if g[1] else MONTHS[x.month - 1][:3]
                        return mon + g[2] + pad(x.day, g[3]) + g[4] + (str(x.year) if len(g[5]) == 4 else f"{x.year % 100:02d}")
                    kind = "name"
            except ValueError:
                continue
            if 2000 <= d.year <= 2035 and not any(m.start() < e and s < m.end() for s, e, *_ in out):
                out.append((m.start(), m.end(), d, render, kind))
    return out


def near_match(label, text):
    """The part of `text` most like `label`: (edits, start, end). Plain dynamic programming; run once a receipt."""
    prev = [(0, j) for j in range(len(text) + 1)]
    for i, c in enumerate(label, 1):
        row = [(i, 0)]
        for j, t in enumerate(text, 1):
            row.append(min((prev[j - 1][0] + (c != t), prev[j - 1][1]), (prev[j][0] + 1, prev[j][1]), (row[-1][0] + 1, row[-1][1])))
        prev = row
    j = min(range(len(prev)), key=lambda k: prev[k][0])
    return prev[j][0], prev[j][1], j


class Real:
    """One real receipt, with what stands where in it."""

    def __init__(self, receipt):
        self.rows = normalize(receipt["text"]).split("\n")
        e = receipt["expected"]
        self.expected = dict(document_type="receipt", party=e["party"], date=e["date"], currency="MYR", total=e["total"])
        self.key = receipt["key"]
        self.party = self._party()                  # occurrences: lists of (row, start, end), one per row it spans
        self.party_rows = {p[0] for spans in self.party for p in spans}
        want = datetime.date.fromisoformat(e["date"]) if e["date"] else None
        self.date, self.dates = want, []            # (row, start, end, date, render, kind)
        for i, row in enumerate(self.rows):
            for s, t, d, render, kind in find_dates(row, want):
                if want and abs((d - want).days) < 1200:
                    self.dates.append((i, s, t, d, render, kind))
        self.date_found = any(d[3] == want for d in self.dates)
        cents = round(float(e["total"]) * 100) if e["total"] else None
        self.total = cents
        self.amounts = [(i, m.start(), m.end(), int(m[1].replace(",", "")) * 100 + int(m[2]), "," in m[1])
                        for i, row in enumerate(self.rows) for m in AMOUNT.finditer(row)]
        self.total_found = any(a[3] == cents for a in self.amounts)
        where = squeeze(self.key.get("address", ""))
        self.address_rows = [i for i, row in enumerate(self.rows[:20]) if len(squeeze(row)) > 7 and i not in self.party_rows and squeeze(row).strip(".,") in where]
        self.head = self._head()

    def _party(self):
        label = squeeze(self.expected["party"] or "")
        if not label:
            return []
        flat, at = "", []                           # the text without spaces, and where each character stands
        for i, row in enumerate(self.rows):
            for j, ch in enumerate(row):
                if ch != " ":
                    flat += ch.upper()
                    at.append((i, j))
        found, k = [], flat.find(label)
        while k >= 0:
            found.append((k, k + len(label)))
            k = flat.find(label, k + len(label))
        if not found:
            top = next((n for n, (i, _) in enumerate(at) if i > 12), len(flat))
            edits, a, b = near_match(label, flat[:top])
            if edits <= max(2, len(label) // 8) and b > a:
                found.append((a, b))
        out = []
        for a, b in found:
            spans = {}
            for i, j in at[a:b]:
                s = spans.setdefault(i, [j, j + 1])
                s[1] = j + 1
            spans = [(i, s, e) for i, (s, e) in sorted(spans.items())]
            # an occurrence inside a longer word is none
            i, s, e = spans[0]
            if s and self.rows[i][s - 1].isalnum():
                continue
            out.append(spans)
        return out

    def _head(self):
        """How many rows the head has (name, numbers, address, telephone), or 0 if it cannot be cut off."""
        if not self.party or self.party[0][0][0] > 8:
            return 0
        end = max([self.party[0][-1][0]] + [i for i in self.address_rows if i < 14])
        while end + 1 < len(self.rows) and re.search(r"\b(TEL|FAX|GST|PHONE|REG|EMAIL|WWW|ROC|CO\.? ?NO|SELANGOR|JOHOR|KUALA LUMPUR|MALAYSIA|\d{5})\b", self.rows[end + 1]) and not find_dates(self.rows[end + 1], None):
            end += 1
        if any(d[0] <= end for d in self.dates) or any(a[0] <= end for a in self.amounts) or end > 16:
            return 0
        return end + 1


def apply(rows, edits):
    """rows with edits (row, start, end, text) made; later ones in a row first, overlapping ones skipped."""
    rows = list(rows)
    last = {}
    for i, s, e, text in sorted(edits, key=lambda x: (x[0], -x[1])):
        if e <= last.get(i, 1 << 30):
            rows[i] = rows[i][:s] + text + rows[i][e:]
            last[i] = s
    return rows


class Source:
    """Documents by number. `real` is what load_receipts returned; `share` the part of documents made from it."""

    def __init__(self, real, share=0.55, seed=1, pieces=()):
        self.real = [Real(r) for r in real]
        # The tokenizer's pieces, if given: names are also made of them, so that every piece learns to be copied.
        self.pieces = [p for p in pieces if p.isalpha() and p.isupper() and p.isascii()] or W.CHINESE
        self.share, self.seed = share, seed
        self.heads = [x for x in self.real if x.head]
        self.names = sorted({x.expected["party"] for x in self.real if x.expected["party"]})
        self.words = sorted({w for n in self.names for w in n.split(" ")})
        self.all_words = sorted({w for x in self.real for row in x.rows for w in re.findall("[A-Z]{3,}", row)}) or W.BRANDS
        # A merchant seen often would otherwise fill the training: weigh each receipt by 1 / sqrt(its merchant's receipts).
        count = {}
        for x in self.real:
            count[x.expected["party"]] = count.get(x.expected["party"], 0) + 1
        total, self.cumulative = 0.0, []
        for x in self.real:
            total += count[x.expected["party"]] ** -0.5
            self.cumulative.append(total)

    def pick(self, r):
        return r.choices(self.real, cum_weights=self.cumulative)[0]

    def any_word(self, r):
        return r.choice(self.all_words) if chance(r, .4) else "".join(r.choice(self.pieces) for _ in range(r.choice((1, 1, 2, 2, 3))))[:16]

    def new_party(self, r):
        x = r.random()
        if x < .4:
            return firm_my(r)
        if x < .62:                 # any words at all, so that any can be copied
            core = " ".join(self.any_word(r) for _ in range(r.choice((1, 2, 2, 3))))
            return core + " " + r.choice((r.choice(W.SUFFIX_MY), r.choice(W.TRADES_MY), f"{r.choice(W.TRADES_MY)} {r.choice(W.SUFFIX_MY)}"))
        if x < .78:
            return r.choice(self.names)
        if x < .92:                 # a real name with one or two words changed
            parts = r.choice(self.names).split(" ")
            for _ in range(r.choice((1, 1, 2))):
                i = r.randrange(len(parts))
                parts[i] = r.choice((r.choice(self.words), self.any_word(r), r.choice(W.CHINESE), made_up_word(r).upper(), self.any_word(r)))
            return " ".join(parts)
        return " ".join(r.choice(self.words) for _ in range(r.randint(2, 5)))

    def made_over(self, r):
        """A real receipt: as it is but for dates, amounts and numbers, or with another name, address, head or body."""
        x = self.pick(r)
        if chance(r, .02):
            return list(x.rows), dict(x.expected)
        e, edits = dict(x.expected), []
        rows = list(x.rows)

        if x.date_found and chance(r, .85):
            new = some_date(r)
            if any(d[5] == "swap" and d[3] == x.date for d in x.dates):
                new = new.replace(day=r.randint(13, 28))
            shift = new - x.date
            style = date_style(r, "MY") if chance(r, .22) else None
            for i, s, t, d, render, kind in x.dates:
                moved = d + shift
                if kind == "swap" and moved.day < 13:
                    moved = moved.replace(day=r.randint(13, 28)) if d != x.date else new
                edits.append((i, s, t, show_date(moved, style) if style and kind != "swap" else render(moved)))
            e["date"] = new.isoformat()
        if x.total_found and chance(r, .7):
            if chance(r, .7):
                k = r.choice((2, 2, 3, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15))
                if x.total * k > 500000:
                    k = 1
            else:
                k = math.exp(r.uniform(-1.2, 1.8))
            for i, s, t, cents, comma in x.amounts:
                v = round(cents * k)
                edits.append((i, s, t, number(v, ",." if comma or (v >= 100000 and chance(r, .5)) else ("", "."))))
            e["total"] = plain(round(x.total * k))

        other_head = x.head and chance(r, .22)
        renamed = x.party and (chance(r, .6) or other_head)
        if renamed and not other_head:
            name = self.new_party(r)
            if chance(r, .03):
                name = re.sub(" {2,}", " ", noisy(r, name, .06)).strip() or name
            for spans in x.party:
                parts = wrapped(r, name, len(spans))
                parts += [""] * (len(spans) - len(parts))
                broken = len(spans) == 1 and len(name.split(" ")) > 2 and chance(r, .12)
                for n, (i, s, t) in enumerate(spans):
                    text = "\n".join(wrapped(r, name, 2)) if broken else parts[n]
                    edits.append((i, s, t, text))
            e["party"] = name
            if x.address_rows and chance(r, .6):
                lines = address_my(r, len(x.address_rows))
                lines += [""] * (len(x.address_rows) - len(lines))
                for i, line in zip(x.address_rows, lines):
                    edits.append((i, 0, len(rows[i]), line))
        changed = {(i, s) for i, s, _, _ in edits}
        rows = apply(rows, edits)
        if other_head:                      # the head of another receipt, real or made up, on this one's body
            body = rows[x.head:]
            if chance(r, .5):
                y = r.choice(self.heads)
                head, name = list(y.rows[:y.head]), y.expected["party"]
                if chance(r, .5):
                    name = self.new_party(r)
                    spans = y.party[0]
                    parts = wrapped(r, name, len(spans))
                    head = apply(head, [(i, s, t, p) for (i, s, t), p in zip(spans, parts + [""] * len(spans))])
            else:
                name = self.new_party(r)
                head = header_my(r, name)
            for spans in x.party[1:]:       # the name again, further down
                if all(i >= x.head for i, *_ in spans) and len(spans) == 1:
                    i, s, t = spans[0]
                    if not changed & {(i, s)} and x.rows[i][s:t] in body[i - x.head]:
                        body[i - x.head] = body[i - x.head].replace(x.rows[i][s:t], name)
            rows, e["party"] = head + body, name
        elif x.party and x.party[0][0][0] > 0 and chance(r, .35):       # what stands above the name goes
            rows = rows[x.party[0][0][0]:]
            if x.dates and e["date"] and all(d[0] < x.party[0][0][0] for d in x.dates if d[3] == x.date):
                rows = "\n".join(apply(list(x.rows), edits)).split("\n")
        if chance(r, .12):
            rows = overlay(r) + rows
        return rows, e

    def real_document(self, r):
        x = r.random()
        if x < .12 and self.heads:          # a real head on a made-up body
            y = r.choice(self.heads)
            head, name, d = list(y.rows[:y.head]), y.expected["party"], some_date(r)
            if chance(r, .6):
                name = self.new_party(r)
                spans = y.party[0]
                parts = wrapped(r, name, len(spans))
                head = apply(head, [(i, s, t, p) for (i, s, t), p in zip(spans, parts + [""] * len(spans))])
            body, total, no = body_my(r, d)
            rows, e = head + body, dict(number=no, document_type="receipt", party=name, date=d.isoformat(), currency="MYR", total=plain(total))
        else:
            rows, e = self.made_over(r)
        rows = "\n".join(rows).split("\n")
        if chance(r, .5):                   # long numbers and times are not worth remembering
            day = e["date"] or ""
            keep = {day[:4], day.replace("-", ""), "".join(day.split("-")[::-1])}
            rows = [re.sub(r"(?<![\d.,/-])\d{5,}(?![\d.,/-])", lambda m: m[0] if m[0] in keep else digits(r, len(m[0])), x)
                    if squeeze(e["party"] or "?") not in squeeze(x) else x for x in rows]
        if chance(r, .08):                  # an item lost or doubled
            i = r.randrange(len(rows))
            if not re.search(r"TOTAL|\d[-/.]\d+[-/.]\d", rows[i]) and i > 8:
                rows = rows[:i] + rows[i + 1:] if chance(r, .5) else rows[:i] + [rows[i]] + rows[i:]
        if chance(r, .03):
            low = r.choice((str.title, str.lower))
            rows, e["party"] = [low(x) for x in rows], e["party"] and low(e["party"])
        return rows, e

    def document(self, i, kind=None, held=False, plain=False):
        """Document number i. kind, if given: "real", "receipt", "world_receipt", "invoice", "credit_note" (made row by row), "other",
        "composed", or one of compose.KINDS. held: of a structure that training never sees, and names of actions likewise.
        Returns {"kind", "text", "company", "actions", "expected", "number_known"}."""
        r = random.Random(self.seed * 1_000_003 + i)
        if kind is None:
            x = r.random()
            if x < self.share and self.real:
                kind = "real"
            else:
                kind = r.choices(("receipt", "world_receipt", "invoice", "credit_note", "other", "composed"), (9, 3, 4, 3, 19, 62))[0]
        if kind == "composed":
            kind = r.choices(list(COMPOSED), COMPOSED.values())[0]
        known = True
        if kind in COMPOSED:
            rows, facts = compose.compose(r, compose.Template(r.randrange(1 << 40), held), kind)
            rows = compose.roughen(r, rows, facts)
        else:
            if kind == "real":
                rows, e = self.real_document(r)
            elif kind == "receipt":
                rows, e = receipt_my(r, self.new_party(r) if chance(r, .3) and self.real else firm_my(r))
            elif kind == "other":
                rows, e = other(r), dict(document_type="other", party=None, date=None, currency=None, total=None)
                if chance(r, .12):
                    rows = [x.upper() for x in rows]
            else:
                rows, e = commercial(r, "receipt" if kind == "world_receipt" else kind)
            if kind != "other" and chance(r, .025):         # a long one: more rows of no consequence at the end
                for _ in range(r.randint(10, 140)):
                    rows.append(r.choice((r.choice(W.FOOTERS), sentence(r), digits(r, 12))))
            elif kind == "other" and chance(r, .04):
                for _ in range(r.randint(5, 30)):
                    rows += paragraph(r, 4)
            if chance(r, .4):
                rows = scanned(r, rows, e, r.choice((.004, .01, .02, .04)))
            facts = dict(compose.FACTS, type=e["document_type"], sub=kind, issuer=e["party"] and re.sub(r"\s+", " ", e["party"]).strip(), recipient=e.get("recipient"), date=e["date"], currency=e["currency"],
                         total=e["total"], number=e.get("number"), title=e.get("title"), issuer_known=kind != "real")
            if kind in ("real", "receipt"):
                facts["title"] = next((x for x in TITLES_MY if any(row.strip(" *") == x for row in rows)), None)
                if kind == "real":
                    facts["number"], known = printed_number(rows)
        text = normalize("\n".join(rows))
        for k in ("issuer", "recipient", "number", "title"):
            facts[k] = facts[k] and re.sub(r"\s+", " ", facts[k]).strip()
        company, actions, expected = task.pose(r, facts, held, plain)
        return {"kind": kind, "text": text, "company": company, "actions": actions, "expected": expected, "number_known": known}


TITLES_MY = ("SIMPLIFIED TAX INVOICE", "TAX INVOICE", "CASH BILL", "OFFICIAL RECEIPT", "CASH RECEIPT", "CASH SALES", "RECEIPT", "INVOICE", "GUEST CHECK", "SALES RECEIPT", "CASH SALE")
PRINTED_NUMBER = re.compile(r"\b(?:TAX INVOICE|INVOICE|INV|RECEIPT|RCPT|BILL|DOC|DOCUMENT|SLIP|CASH BILL|CASH SALES|CHECK|CB|CS)\b ?(?:NO|NUMBER|#|ID|NUM)?[ .]*(?:[:#]|(?<=NO)|(?<=NO\.)) *#? *([A-Z0-9][A-Z0-9/\-]{2,})\b", re.I)


def printed_number(rows):
    """A real receipt's number, by its label: (number, whether it is certain). The published labels have none."""
    found = {m[1] for row in rows for m in PRINTED_NUMBER.finditer(row) if any(c.isdigit() for c in m[1]) and not re.search(r"[/-]\d\d?[/-]", m[1])}
    return (found.pop(), True) if len(found) == 1 else (None, False)


# How often each kind is composed.
COMPOSED = {"invoice": 21, "receipt": 13, "credit_note": 11, "purchase_order": 10, "bank_statement": 10, "payslip": 9, "contract": 10, "quotation": 6, "delivery": 5, "reminder": 5, "confirmation": 3, "open_items": 2, "remittance": 1}


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--receipts", help="receipts.jsonl; its training part is made over")
    p.add_argument("--count", type=int, default=5)
    p.add_argument("--first", type=int, default=0)
    p.add_argument("--kind")
    p.add_argument("--held", action="store_true", help="of structures that training does not see")
    a = p.parse_args()
    source = Source(load_receipts(a.receipts, "train") if a.receipts else [])
    for i in range(a.first, a.first + a.count):
        d = source.document(i, a.kind, a.held)
        print(f"----- {i} {d['kind']}\n{task.prompt_prefix(d['company'], d['actions'])}\n--\n{d['text']}\n--\n{''.join(x for x, _ in task.answer_parts(d['expected'], d['number_known']))}")


import compose     # at the end: both use what is above
import task


if __name__ == "__main__":
    main()
