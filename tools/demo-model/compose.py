"""Business documents by composition: a template decides the structure, a second stream of chance the contents.

`Template(i)` is a pure function of i: the order of the blocks in the head and which of them stand side by side, how
facts are written (label and value in a row, below each other, in a table, …), the table of items, the ladder of sums,
what stands around. One template in eight is held: its (head, facts, table, sums) together hash to 0, so that no
document of training has this structure, and every document of evaluation has.

`compose(r, template, kind)` returns (rows, facts): rows of text, and what is in them (see `FACTS`).
"""
import datetime
import random
import zlib

import generate as g
import labels as L
import words as W

chance, digits, scramble = g.chance, g.digits, g.scramble

# kind of document -> its type
KINDS = {"invoice": "invoice", "credit_note": "credit_note", "purchase_order": "purchase_order", "receipt": "receipt", "bank_statement": "bank_statement",
         "payslip": "payslip", "contract": "contract", "quotation": "quote", "delivery": "delivery_note", "reminder": "reminder",
         "confirmation": "other", "open_items": "other", "remittance": "other"}
FACTS = dict(type=None, sub="", issuer=None, recipient=None, date=None, currency=None, total=None, number=None, title=None)

W.COUNTRIES.update({
    "PT": dict(towns="Lisboa|Porto|Braga|Coimbra|Faro|Aveiro".split("|"), streets="da Liberdade|do Carmo|Augusta|de Santa Catarina|das Flores", kinds="Rua|Avenida|Travessa", name="Portugal", cur="EUR", num=".,",
               legal="Lda.|Lda|S.A.|Unipessoal Lda", tax="IVA", rates=(23.0, 6.0, 13.0)),
    "BE": dict(towns="Antwerpen|Gent|Brugge|Leuven|Brussel|Mechelen".split("|"), streets="Kerk|Stations|Nieuw|Lange |Molen", kinds="straat|laan|steenweg", name="België|Belgium", cur="EUR", num=".,", legal="BV|NV|BVBA", tax="BTW", rates=(21.0, 6.0)),
    "NZ": dict(towns="Auckland 1010|Wellington 6011|Christchurch 8011|Dunedin 9016".split("|"), streets="Queen|Cuba|Victoria|George|Lambton", kinds="Street|Quay|Road", name="New Zealand", cur="NZD", num=",.", legal="Ltd|Limited", tax="GST", rates=(15.0,)),
    "SE": dict(towns="Stockholm|Göteborg|Malmö|Uppsala|Lund".split("|"), streets="Stor|Kungs|Drottning|Hamn", kinds="gatan|vägen", name="Sweden|Sverige", cur="SEK", num=" ,", legal="AB|HB", tax="VAT|Moms", rates=(25.0, 12.0)),
    "DK": dict(towns="København|Aarhus|Odense|Aalborg".split("|"), streets="Vester|Nørre|Hoved|Strand", kinds="gade|vej", name="Denmark|Danmark", cur="DKK", num=".,", legal="ApS|A/S", tax="VAT|Moms", rates=(25.0,)),
    "PL": dict(towns="Warszawa|Kraków|Gdańsk|Wrocław|Łódź|Poznań".split("|"), streets="Długa|Polna|Kwiatowa|Leśna", kinds="ul.", name="Poland|Polska", cur="PLN", num=" ,", legal="Sp. z o.o.|S.A.", tax="VAT", rates=(23.0, 8.0)),
    "ZA": dict(towns="Cape Town 8001|Johannesburg 2001|Durban 4001|Pretoria 0002".split("|"), streets="Long|Loop|Church|Main|Market", kinds="Street|Road", name="South Africa", cur="ZAR", num=" .", legal="(Pty) Ltd|CC", tax="VAT", rates=(15.0,)),
    "AE": dict(towns="Dubai|Abu Dhabi|Sharjah".split("|"), streets="Sheikh Zayed|Al Wasl|Jumeirah|Corniche", kinds="Road|Street", name="UAE|United Arab Emirates", cur="AED", num=",.", legal="LLC|FZE|FZ-LLC", tax="VAT", rates=(5.0,)),
    "HK": dict(towns="Central, Hong Kong|Kowloon, Hong Kong|Wan Chai, Hong Kong".split("|"), streets="Nathan|Queen's|Des Voeux|Canton", kinds="Road", name="Hong Kong", cur="HKD", num=",.", legal="Limited|Ltd|Co. Ltd", tax="Tax", rates=(0.0,)),
})
W.SYMBOLS.update({"NZD": "NZ$", "SEK": "kr", "DKK": "kr.", "PLN": "zł", "ZAR": "R", "AED": "AED", "HKD": "HK$", "CZK": "Kč", "NOK": "kr", "HUF": "Ft", "BRL": "R$", "MXN": "MXN", "THB": "฿", "TRY": "TL", "CNY": "CNY", "PHP": "₱", "IDR": "Rp"})
COUNTRIES = ["US"] * 7 + ["GB"] * 7 + ["DE"] * 7 + ["FR"] * 5 + ["ES"] * 4 + ["IT"] * 3 + ["NL"] * 3 + ["PT"] * 2 + ["AT", "AT", "CH", "CH", "IE", "IE", "AU", "AU", "CA", "CA", "IN", "IN", "SG", "SG", "MY", "MY", "JP", "BE", "NZ", "SE", "DK", "PL", "ZA", "AE", "HK"]
COUNTS = (1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6, 7, 9, 12, 16, 26, 40)      # how many items there are
LETTERS = 0.0       # share of documents written as letters.py does; train.py --letters sets it
SIGNED = {"kr", "kr.", "$"}       # symbols that several currencies have


class Money(g.Money):
    """As g.Money, with more ways to name a currency; `need_code` if the code must stand somewhere."""

    def __init__(self, r, country):
        super().__init__(r, country, True)
        if chance(r, .13):
            self.code = r.choice(("EUR", "USD", "GBP", "CHF", "SEK", "NOK", "DKK", "PLN", "CZK", "HUF", "NZD", "ZAR", "AED", "HKD", "CNY", "BRL", "MXN", "TRY", "THB", "IDR", "PHP", "JPY", "AUD", "CAD", "SGD", "MYR", "INR"))
            self.before, self.after, self.column = r.choice(((self.code + " ", "", ""), ("", " " + self.code, ""), ("", "", self.code)))
            self.items = chance(r, .3) and not self.column
        named = self.before.strip() or self.after.strip() or self.column
        home = W.COUNTRIES[country]["cur"] == self.code
        self.need_code = named in SIGNED and not (home and (named == "$") == (country in ("US", "AU", "CA", "SG", "NZ")) and country not in ("SG", "CA", "AU", "NZ"))
        self.shown = False

    def total(self, cents):
        return self.full(cents)


class Template:
    """The structure of a document; see above."""

    KV = ("colon", "gap", "space", "below", "below_colon", "table", "two", "dots", "pipe", "equals", "tight", "after", "dash", "line", "brackets", "apart", "dotline", "spaced_colon", "arrow", "tabular")
    TABLES = ("row", "row", "row", "plain", "pipe", "stack", "stack2", "vertical", "columns", "sentence", "dots", "csv", "none", "grouped", "at", "three", "amount_first", "numbered", "pos_rows", "box")

    def __init__(self, i, held=False):
        for n in range(1000):
            r = random.Random(f"{'held' if held else 'free'} {i} {n}")
            self.draw(r)
            if (zlib.crc32(repr(self.signature()).encode()) % 8 == 0) == held:
                return
        raise RuntimeError("no template found")

    def draw(self, r):
        order = ["seller", "title", "facts", "to"]
        x = r.random()
        if x < .55:
            rest = order[1:]
            r.shuffle(rest)
            order = ["seller"] + rest
        else:
            r.shuffle(order)
        self.order = order
        self.beside = tuple(chance(r, .33) for _ in range(3))       # whether block n + 1 stands beside block n
        self.swap = chance(r, .3)
        self.facts = r.choice(self.KV)
        self.sums = r.choice(self.KV)
        self.table = r.choice(self.TABLES)
        self.columns = r.sample(("pos", "code", "qty", "unit", "price", "tax", "date"), r.choice((0, 1, 2, 2, 3, 3, 4)))
        self.desc_at = r.choice((0, 0, 0, 1, 1, 2))
        self.header = chance(r, .85)
        self.to_style = r.choice(("own row", "own row", "inline", "none", "colonless", "caps"))
        self.seller_style = r.choice(("head",) * 6 + ("from", "footer", "line", "inline"))
        self.title_style = r.choice(("plain",) * 5 + ("number", "number", "spaced", "stars", "sentence", "date", "with name"))
        self.case = r.choice(("",) * 8 + ("upper", "upper labels", "lower labels"))
        self.rule = r.choice(("", "", "", "", "-", "=", "_", "*", "."))
        self.summary = r.choice(("",) * 8 + ("top", "top", "bottom", "slip", "slip", "sentence", "sentence"))
        self.foot = r.sample(("terms", "bank", "legal", "page", "thanks", "contact"), r.choice((0, 1, 1, 2, 2, 3, 4)))
        self.sums_first = chance(r, .05)
        self.facts_last = chance(r, .07)
        self.ladder = r.choice(("full", "full", "full", "short", "total", "tax table", "after tax", "double"))
        self.bilingual = chance(r, .05)
        self.sender_line = chance(r, .12)

    def signature(self):
        return tuple(self.order), self.beside, self.facts, self.sums, self.table


def day_text(r, d, style, lang, country):
    """A date as a document would print it; style as g.date_style gives it, or one of some more."""
    return style(d) if callable(style) else g.show_date(d, style)


def any_date_style(r, country, lang):
    months = g.MONTHS_IN.get(lang)
    if lang == "PT":
        months = "janeiro fevereiro março abril maio junho julho agosto setembro outubro novembro dezembro".split()
    x = r.random()
    if lang == "EN":
        full, short = [m.title() for m in g.MONTHS], [m[:3].title() for m in g.MONTHS]
        if x < .12:
            return r.choice((lambda d: f"{d.day}{'th' if 10 < d.day < 14 else {1: 'st', 2: 'nd', 3: 'rd'}.get(d.day % 10, 'th')} {full[d.month - 1]} {d.year}",
                             lambda d: f"{short[d.month - 1]} {d.day:02d}, {d.year}", lambda d: f"{d.day:02d}-{short[d.month - 1]}-{d.year % 100:02d}", lambda d: f"{d.day:02d}-{short[d.month - 1]}-{d.year}",
                             lambda d: f"{d:%A}, {d.day} {full[d.month - 1]} {d.year}", lambda d: f"{d.day} {short[d.month - 1]}. {d.year}", lambda d: f"{d.year}/{d.month:02d}/{d.day:02d}",
                             lambda d: f"{full[d.month - 1]} {d.day} {d.year}", lambda d: f"{d.day}. {full[d.month - 1]} {d.year}", lambda d: f"{short[d.month - 1].upper()}-{d.day:02d}-{d.year}"))
    elif months and x < .3:
        cap = chance(r, .15)
        name = lambda d: months[d.month - 1].capitalize() if cap else months[d.month - 1]
        if lang == "DE":
            return r.choice((lambda d: f"{d.day}. {name(d)} {d.year}", lambda d: f"{d.day:02d}. {name(d)} {d.year}", lambda d: f"{d.day}. {name(d)[:3]}. {d.year}"))
        if lang in ("ES", "PT"):
            return r.choice((lambda d: f"{d.day} de {name(d)} de {d.year}", lambda d: f"{d.day} {name(d)} {d.year}", lambda d: f"{d.day:02d}-{name(d)[:3]}-{d.year}"))
        return r.choice((lambda d: f"{d.day} {name(d)} {d.year}", lambda d: f"{'1er' if d.day == 1 and lang == 'FR' else d.day} {name(d)} {d.year}"))
    elif x < .36:
        return lambda d: f"{d.year}-{d.month:02d}-{d.day:02d}"
    if lang == "EN" and country not in ("US", "GB", "JP"):
        country = "GB"
    if country not in ("US", "JP", "DE", "AT", "CH", "GB", "FR", "ES", "IT", "NL"):
        country = "GB"
    style = g.date_style(r, country, False)
    if lang != "EN" and isinstance(style[4], str) and style[4] != "n":       # a month's English name: write a number
        style = ("dmy", r.choice("./-"), True, 4, "n")
    return style


def document_number(r, d):
    """A document's number, in one of many forms."""
    y, n = d.year, r.choice((3, 4, 4, 5, 5, 6, 7, 8, 10))
    p = scramble(r, r.choice((1, 2, 2, 3, 3)))
    x = r.randrange(16)
    return (digits(r, n).lstrip("0") or "7", digits(r, n), f"{y}-{digits(r, 4)}", f"{p}-{digits(r, 5)}", f"{p}{digits(r, 6)}", f"{p}{digits(r, 4)}/{y % 100:02d}", f"{digits(r, 3)}-{digits(r, 6)}", f"{p}-{y}-{digits(r, 4)}",
            f"{digits(r, 4)}/{y}", f"{y}/{digits(r, 3)}", f"{p}/{y}/{digits(r, 3)}", f"{y}{d.month:02d}-{digits(r, 3)}", f"{p} {digits(r, 5)}", f"{digits(r, 2)}.{digits(r, 4)}", f"{digits(r, 2)} {digits(r, 3)} {digits(r, 3)}",
            f"{p}{digits(r, 2)}-{scramble(r, 1)}{digits(r, 4)}")[x]


class Writer:
    """What one document's blocks share: language, labels, money, dates."""

    def __init__(self, r, t, kind):
        self.r, self.t, self.kind = r, t, kind
        self.country = r.choice(COUNTRIES)
        self.lang = L.COUNTRY_LANGUAGE.get(self.country, "EN")
        if self.lang != "EN" and chance(r, .12):
            self.lang = "EN"
        elif chance(r, .02):
            self.lang = r.choice(list(L.WORDS))
        self.words, self.titles = L.WORDS[self.lang], L.TITLES[self.lang]
        self.memo = {}
        self.money = Money(r, self.country)
        self.date = g.some_date(r)
        self.style = any_date_style(r, self.country, self.lang)
        self.colon = r.choice((": ", ": ", ": ", ":  ", " : ", ":"))
        self.noise = r.choice((0, 0, 0, 0, .01, .03))
        tax = W.COUNTRIES[self.country]["tax"].split("|")
        self.tax = r.choice(tax) if self.lang != "EN" or L.COUNTRY_LANGUAGE.get(self.country, "EN") == "EN" else r.choice(("VAT", "Tax"))

    def w(self, key):
        if key not in self.memo:
            s = self.r.choice(self.words[key])
            if self.t.bilingual and self.lang != "EN":
                s = f"{s} / {self.r.choice(L.WORDS['EN'][key])}"
            if self.t.case == "upper labels":
                s = s.upper()
            elif self.t.case == "lower labels":
                s = s.lower()
            if self.noise and chance(self.r, .3):
                s = g.noisy(self.r, s, self.noise) or s
            self.memo[key] = s
        return self.memo[key]

    def of(self, key):
        """The label `key` as it is for this kind of document, or in general."""
        special = f"{key}_of_{self.kind}"
        if special in self.words:
            return self.w(special)
        if self.kind == "invoice" or key == "total":
            return self.w("no_of" if key == "no" else key)
        return self.w(f"{key}_of" if key == "date" else key)

    def day(self, d):
        return day_text(self.r, d, self.style, self.lang, self.country)

    def firm(self):
        r = self.r
        if chance(r, .08):
            return g.person(r)
        return g.firm(r, self.country if chance(r, .85) else r.choice(COUNTRIES))

    def place(self, name):
        """Name and address lines of a party; the name may be broken over two rows."""
        r = self.r
        rows = g.wrapped(r, name, 2) if len(name) > 16 and chance(r, .06) else [name]
        lines = g.address(r, self.country)
        return rows + ([r.choice((" · ", ", ", " | ", " - ", "  ")).join(lines)] if chance(r, .15) else lines)

    def contacts(self):
        r = self.r
        colon = self.colon
        rows = [f"{r.choice(('Tel', 'Phone', 'Tel.', 'T', 'Fax', 'Mobile'))}{colon}{g.phone(r, self.country)}", f"{r.choice(('Email', 'E-mail', 'Mail', 'E'))}{colon}{r.choice(('info', 'sales', 'office', 'accounts', 'hello'))}@{g.made_up_word(r)}.{r.choice(('com', 'net', 'co.uk', 'de', 'fr', 'org', 'es', 'io'))}",
                f"www.{g.made_up_word(r)}.{r.choice(('com', 'de', 'eu', 'net'))}", f"{self.w('tax_id')}{colon}{self.country}{digits(r, 9)}", f"{r.choice(('Reg. No.', 'HRB', 'RCS', 'Company No'))} {digits(r, 6)}"]
        return [x for x in rows if chance(r, .35)]

    def kv(self, style, pairs):
        """Pairs of label and value as rows, in the given style."""
        r, colon = self.r, self.colon
        pairs = [(a, b) for a, b in pairs if b is not None]
        if not pairs:
            return []
        if style == "colon":
            return [f"{a}{colon}{b}" for a, b in pairs]
        if style == "gap":
            return [f"{a}  {b}" for a, b in pairs]
        if style == "space":
            return [f"{a} {b}" for a, b in pairs]
        if style == "below":
            return [x for p in pairs for x in p]
        if style == "below_colon":
            return [x for a, b in pairs for x in (a + ":", b)]
        if style == "table":
            rows = []
            for i in range(0, len(pairs), 4):
                rows += ["  ".join(a for a, _ in pairs[i:i + 4]), "  ".join(b for _, b in pairs[i:i + 4])]
            return rows
        if style == "tabular":
            n = r.choice((2, 3))
            rows = []
            for i in range(0, len(pairs), n):
                rows += [" | ".join(a for a, _ in pairs[i:i + n]), " | ".join(b for _, b in pairs[i:i + n])]
            return rows
        if style == "two":
            return ["  ".join(f"{a}{colon}{b}" for a, b in pairs[i:i + 2]) for i in range(0, len(pairs), 2)]
        if style in ("dots", "dotline"):
            return [f"{a} {'.' * r.randint(3, 20)}{'' if style == 'dots' else ':'} {b}" for a, b in pairs]
        if style == "pipe":
            return [f"| {a} | {b} |" for a, b in pairs]
        if style == "equals":
            return [f"{a} = {b}" for a, b in pairs]
        if style == "tight":
            return [f"{a}:{b}" for a, b in pairs]
        if style == "after":
            return [f"{b}  {a}" for a, b in pairs]
        if style == "dash":
            return [f"{a} - {b}" for a, b in pairs]
        if style == "line":
            sep = r.choice((", ", " · ", " | ", "; ", "   "))
            return [sep.join(f"{a}{': ' if colon.strip() else ' '}{b}" for a, b in pairs[i:i + 4]) for i in range(0, len(pairs), 4)]
        if style == "brackets":
            return [f"{a} [{b}]" if chance(r, .5) else f"[{a}] {b}" for a, b in pairs]
        if style == "apart":                    # the page read by columns: labels first, then values
            return [a for a, _ in pairs] + [b for _, b in pairs]
        if style == "spaced_colon":
            return [f"{a} : {b}" for a, b in pairs]
        return [f"{a} > {b}" for a, b in pairs]


def side_by_side(a, b):
    out = []
    for i in range(max(len(a), len(b))):
        out.append("  ".join(x for x in ((a[i] if i < len(a) else ""), (b[i] if i < len(b) else "")) if x))
    return out


def item_rows(w, items, sign=1, priced=True):
    """The table of items: (name, quantity, price in cents)."""
    r, t, m = w.r, w.t, w.money
    style = t.table
    n = len(items)
    col = {"pos": [str(i + 1) for i in range(n)], "code": [r.choice((digits(r, 5), scramble(r, 2) + digits(r, 3))) for _ in range(n)], "qty": [str(q) if chance(r, .9) else f"{q}{m.style[1] if m.style[1] in ',.' else '.'}00" for _, q, _ in items],
           "unit": [r.choice(("pcs", "h", "kg", "ea", "Stk", "m", "box", "u")) for _ in range(n)], "price": [m.item(p) for _, _, p in items], "tax": [f"{r.choice(W.COUNTRIES[w.country]['rates']):g}%" for _ in range(n)],
           "date": [w.day(w.date - datetime.timedelta(days=r.randint(1, 40))) for _ in range(n)], "desc": [name for name, _, _ in items], "amount": [m.item(sign * q * p) for _, q, p in items]}
    heads = {"pos": "pos", "code": "code", "qty": "qty", "unit": "unit", "price": "price", "desc": "desc", "amount": "amount"}
    cols = [c for c in t.columns if priced or c not in ("price", "tax")]
    cols.insert(min(t.desc_at, len(cols)), "desc")
    if priced:
        cols.append("amount")
    elif "qty" not in cols:
        cols.append("qty")
    head = [w.w(heads[c]) if c in heads else w.tax if c == "tax" else w.w("tx_date") for c in cols]
    if m.column and priced:
        head[-1] += f" ({m.column})" if chance(r, .6) else f" {m.column}"
        m.shown = True
    rows = []
    if style in ("row", "plain", "pos_rows", "box", "pipe", "csv"):
        sep = {"pipe": " | ", "csv": ";"}.get(style, "  ")
        if t.header and style != "plain":
            rows.append(sep.join(head))
            if style in ("pipe", "box"):
                rows.append(r.choice(("-" * 40, "+" + "-" * 10 + "+" + "-" * 12 + "+", "=" * 36)))
        for i in range(n):
            row = sep.join(col[c][i] for c in cols)
            rows.append(f"| {row} |" if style == "pipe" and chance(r, .7) else row)
            if chance(r, .06):
                rows.append(r.choice(("as agreed", f"S/N {digits(r, 7)}", "incl. delivery", g.goods(r).lower(), w.day(w.date - datetime.timedelta(days=r.randint(1, 60))))))
        if style == "box":
            rows.append("-" * 40)
        return rows
    times = r.choice((" x ", " × ", " @ ", " * ", " à "))
    for i, (name, q, p) in enumerate(items):
        a, u = col["amount"][i], col["price"][i]
        if not priced:
            rows += [f"{name}  {q}"] if style != "stack" else [name, f"{q} {col['unit'][i]}"]
        elif style == "stack":
            rows += [name, f"{q}{times}{u}  {a}"]
        elif style == "stack2":
            rows += [f"{name}  {a}", f"  {q}{times}{u}"]
        elif style == "vertical":
            rows += [f"{w.w('desc')}: {name}", f"{w.w('qty')}: {q}", f"{w.w('price')}: {u}", f"{w.w('amount')}: {a}"]
        elif style == "sentence":
            rows.append(f"{q}{times}{name} {r.choice(('at', 'for', '='))} {a}")
        elif style == "dots":
            rows.append(f"{name} {'.' * r.randint(3, 18)} {a}")
        elif style == "at":
            rows.append(f"{name} {q}{times}{u} = {a}")
        elif style == "three":
            rows += [name, f"{col['code'][i]}", f"{q}  {u}  {a}"]
        elif style == "amount_first":
            rows.append(f"{a}  {name}")
        elif style == "numbered":
            rows.append(f"{i + 1}. {name}: {a}")
        elif style == "grouped":
            if i % 3 == 0:
                rows.append(r.choice(W.SERVICES if chance(r, .5) else ["A", "B", "Material", "Labour", "Section 1", "Part 2"]))
            rows.append(f"  {name}  {q}  {u}  {a}")
            if i % 3 == 2 and chance(r, .7):
                rows.append(f"{w.w('sub')}  {m.item(sign * sum(y * z for _, y, z in items[i - 2:i + 1]))}")
    if style == "columns":
        names = [c for c in cols if c != "tax"][:4] if priced else ["desc", "qty"]
        if priced and "amount" not in names:
            names.append("amount")
        rows = []
        for c in names:
            rows += ([head[cols.index(c)]] if c in cols else []) + col[c]
    elif style == "none":
        rows = [r.choice((f"{items[0][0]}", f"{w.w('desc')}: {items[0][0]}", f"{items[0][0]} ({r.choice(('as agreed', 'see attachment', 'flat rate'))})"))]
    return rows


NUMBER_WORDS = "one two three four five six seven eight nine ten twenty thirty fifty hundred thousand".split()


def tax_rows(w, net, tax, rate):
    """A table of rates, net amounts and taxes."""
    m = w.money
    rate = f"{rate:g} %"
    return w.r.choice(([f"{w.tax} %  {w.w('sub')}  {w.tax}", f"{rate}  {m.num(net)}  {m.num(tax)}"], [f"{w.tax} {rate}  {m.num(net)}  {m.num(tax)}  {m.num(net + tax)}"],
                       [f"{w.w('sub')} {rate}{w.colon}{m.num(net)}", f"{w.tax} {rate}{w.colon}{m.num(tax)}"]))


def commercial(r, t, kind):
    """Invoice, credit note, order, quotation, delivery note, reminder and the like: all of one build."""
    w = Writer(r, t, kind)
    m, d = w.money, w.date
    has_date, has_number, has_total = not chance(r, .02), not chance(r, .06), not chance(r, .012)
    priced = kind != "delivery" or chance(r, .15)
    if kind == "delivery":
        has_total = priced
    issuer, recipient = w.firm(), w.firm()
    if kind == "purchase_order" and chance(r, .9):
        issuer, recipient = (x if x.split()[-1] else x for x in (g.firm(r, w.country), g.firm(r, w.country)))
    title = r.choice(w.titles[kind])
    if t.bilingual and w.lang != "EN":
        title = f"{title} / {r.choice(L.TITLES['EN'][kind])}"
    if t.case == "upper labels":
        title = title.upper()
    number = document_number(r, d)
    sign = -1 if kind == "credit_note" and chance(r, .3) else 1

    # Amounts.
    unit = 1 if m.style[1] != "0" else 100
    lang = {"IT": "EN", "NL": "EN", "PT": "EN"}.get(w.lang, w.lang)
    items = g.lines_of(r, lang, m, count=r.choice(COUNTS))
    if t.table == "none":
        items = items[:1]
    net = sum(q * p for _, q, p in items)
    rate = r.choice(W.COUNTRIES[w.country]["rates"]) if chance(r, .8) else 0
    ship = r.choice((0, 0, 0, 500, 900, 1500, 2500)) // unit * unit
    disc = int(net * r.choice((.02, .05, .1, .15))) // unit * unit if chance(r, .2) else 0
    base = net + ship - disc
    tax = round(base * rate / 100 / unit) * unit
    total = base + tax
    S = lambda x: m.full(sign * x)

    # Blocks.
    no_label = w.of("no") if chance(r, .75) else f"{title} {r.choice(w.words['no'])}" if chance(r, .7) else w.w("no")
    if kind in ("quotation", "delivery", "reminder", "confirmation", "open_items", "remittance"):
        no_label = f"{title} {r.choice(w.words['no'])}" if chance(r, .5) else r.choice(w.words["no"])
    date_label = w.of("date")
    if kind != "invoice" and chance(r, .2):
        date_label = f"{title} {r.choice(w.words['date_of']).lower()}" if w.lang == "EN" else date_label
    facts = []
    title_rows = [title]
    if t.title_style == "number" and has_number:
        title_rows = [f"{title} {r.choice(('', '', 'No. ', 'Nr. ', '# ', '#', 'N° '))}{number}"]
    elif t.title_style == "spaced":
        title_rows = [" ".join(title.upper()) if len(title) < 12 else title.upper()]
    elif t.title_style == "stars":
        title_rows = [f"{r.choice(('***', '**', '--', '=='))} {title} {r.choice(('***', '**', '--', '=='))}"]
    elif t.title_style == "sentence" and has_number:
        title_rows = [title, f"{r.choice(('Ref', 'Re', 'No', w.colon.strip() or 'No'))}: {number}"]
    elif t.title_style == "date" and has_date:
        title_rows = [f"{title} {r.choice(('', 'of ', 'vom ', '- ')) if w.lang in ('EN', 'DE') else ''}{w.day(d)}"]
    elif t.title_style == "with name":
        title_rows = [f"{issuer} - {title}"]
    if has_number and (t.title_style not in ("number", "sentence") or chance(r, .3)):
        facts.append((no_label, number))
    if has_date and (t.title_style != "date" or chance(r, .3)):
        town = r.choice(W.COUNTRIES[w.country]["towns"]).split(",")[0]
        facts.append((date_label, w.day(d)))
        if chance(r, .05):
            facts[-1] = (None, f"{town}, {w.day(d)}")
    later = lambda a, b: w.day(d + datetime.timedelta(days=r.randint(a, b)))
    earlier = lambda a, b: w.day(d - datetime.timedelta(days=r.randint(a, b)))
    ref = lambda: document_number(r, d)
    more = []
    if kind in ("invoice", "reminder", "quotation"):
        more.append((w.w("due") if kind != "quotation" else r.choice(("Valid until", "Offer valid until", "Expires")) if w.lang == "EN" else w.w("due"), later(3, 60)))
    if kind != "purchase_order":
        more.append((w.w("order"), ref()))
    if kind == "credit_note":
        more += [(w.w("original"), ref()), (w.w("original_date"), earlier(3, 100))]
    if kind in ("remittance", "open_items"):
        more.append((w.w("account"), digits(r, 8)))
    more += [(w.w("customer_no"), r.choice((digits(r, 5), ref()))), (w.w("project"), r.choice((ref(), g.person(r), f"{digits(r, 2)}-{digits(r, 3)}"))),
             (w.w("delivery_date"), r.choice((earlier(0, 20), later(1, 30))) if kind != "invoice" or has_date else None), (w.w("order_date"), earlier(5, 60)) if kind != "purchase_order" else ("", None),
             (w.w("period"), f"{earlier(30, 31)} - {earlier(0, 1)}") if chance(r, .5) else ("", None)]
    r.shuffle(more)
    facts += more[:r.choice((0, 0, 1, 1, 2, 2, 3, 4))]
    if chance(r, .7):
        r.shuffle(facts)
    if not has_date:
        facts = [(a, b) for a, b in facts if not (a == w.memo.get("period"))]
    alone = [b for a, b in facts if a is None]
    fact_rows = w.kv(t.facts, [(a, b) for a, b in facts if a is not None]) + alone

    name_rows = w.place(issuer)
    street = [x for x in name_rows[-2:] if x not in issuer]
    seller = list(name_rows)
    if chance(r, .12):
        seller.insert(r.choice((0, len(seller))), r.choice(("Established 1987", "Quality since 1995", f"Your partner for {r.choice(W.TRADES_EN).lower()}", r.choice(W.BRANDS), r.choice(W.TRADES_EN), issuer.split(" ")[0].upper())))
    seller += w.contacts()
    from_label = w.w("po_from" if kind == "purchase_order" else "from")
    extra_foot = []
    if kind == "purchase_order" and t.seller_style not in ("head", "footer"):
        seller = [from_label + ":"] + seller
    elif t.seller_style == "from":
        seller = [from_label + r.choice((":", ""))] + seller
    elif t.seller_style == "inline":
        seller = [f"{from_label}{w.colon}{issuer}"] + seller[1:] if seller[0] == issuer else [from_label + ":"] + seller
    elif t.seller_style == "line":
        seller = [r.choice((", ", " · ", " - ", " | ")).join([issuer] + street)]
    elif t.seller_style == "footer":
        extra_foot = seller
        seller = []
    to = w.place(recipient)
    if chance(r, .2):
        to.insert(r.choice((0, 1)), f"{r.choice(('Attn', 'c/o', 'z. Hd.', 'Attention', 'Attn:', 'Contact:'))} {g.person(r)}")
        if not to[0].startswith(recipient[:4]) and chance(r, .5):
            to[0], to[1] = to[1], to[0]
    to_label = w.w("po_to" if kind == "purchase_order" else "to")
    if t.to_style == "inline":
        to[0] = f"{to_label}{w.colon}{to[0]}"
    elif t.to_style == "caps":
        to = [to_label.upper()] + to
    elif t.to_style != "none" or kind == "purchase_order" or (t.order.index("to") < t.order.index("seller") and not t.sender_line):
        to = [to_label + (":" if t.to_style == "own row" else "")] + to
    if kind in ("invoice", "purchase_order", "delivery", "confirmation") and chance(r, .18):
        ship_to = [w.w("ship") + ":"] + w.place(recipient if chance(r, .7) else w.firm())
        to = side_by_side(to, ship_to) if chance(r, .4) else to + ship_to
    if chance(r, .08):          # no recipient is named
        to, recipient = [], None

    blocks = {"seller": seller, "title": title_rows, "facts": [] if t.facts_last else fact_rows, "to": to}
    if t.swap and not t.sums_first and chance(r, .3):
        blocks["title"], blocks["facts"] = [], title_rows + blocks["facts"]
    rows, order = [], t.order
    if t.sender_line:
        rows.append(r.choice((" · ", ", ", " - ", " | ")).join([issuer] + street))
    i = 0
    while i < 4:
        block = blocks[order[i]]
        if i < 3 and t.beside[i]:
            block = side_by_side(block, blocks[order[i + 1]])
            i += 1
        rows += block
        if t.rule and chance(r, .4):
            rows.append(t.rule * r.randint(10, 50))
        i += 1

    # The sums.
    ladder, final = [], w.of("total")
    if kind in ("quotation", "confirmation", "delivery"):
        final = w.w("total_of_purchase_order")
    rate_text = f"{rate:g}".replace(".", m.style[1] if m.style[1] in ",." else ".") + r.choice(("%", " %"))
    tax_label = r.choice((f"{w.tax} {rate_text}", f"{w.tax} ({rate_text})", f"{rate_text} {w.tax}", f"{w.tax} @ {rate_text}", w.tax, f"+ {rate_text} {w.tax}"))
    amount = (lambda x: m.num(sign * x)) if m.column or chance(r, .15) else S
    if t.ladder in ("full", "double", "after tax") and t.ladder != "total":
        ladder.append((w.w("sub"), amount(net)))
        if disc:
            ladder.append((w.w("discount") + r.choice(("", " 5 %", "")), r.choice((amount(-disc), amount(disc)))))
        if ship:
            ladder.append((w.w("shipping"), amount(ship)))
        if rate:
            ladder.append((tax_label, amount(tax)))
    elif t.ladder == "short":
        if disc or ship or chance(r, .5):
            ladder.append((w.w("sub"), amount(base)))
        if rate:
            ladder.append((tax_label, amount(tax)))
    total_text = (S(total) if not m.column else m.num(sign * total))
    label = m.label(final) if m.column else final
    if m.column and has_total:
        m.shown = True
    if has_total:
        deposit = chance(r, .13) and kind == "invoice"
        if deposit:
            final = next((x for x in r.sample(w.words["total"], len(w.words["total"])) if x.split()[0].lower() in ("total", "gesamtbetrag", "rechnungsbetrag", "gesamt", "montant", "grand", "totale", "totaal", "gross", "invoice", "summe")), final)
            label = m.label(final) if m.column else final
        total_row = (label, total_text)
        if t.ladder == "after tax" and rate:
            ladder = [x for x in ladder if x[0] != tax_label] + [total_row, (r.choice(("incl.", "of which", "davon", "dont", "includes")) + " " + tax_label, amount(tax))]
        else:
            ladder.append(total_row)
        if deposit:
            paid = int(total * r.choice((.2, .3, .5))) // unit * unit
            ladder += [(w.w("prepaid"), amount(r.choice((-paid, paid)))), (w.w("rest"), amount(total - paid))]
    if kind == "invoice" and chance(r, .1):
        ladder.insert(r.choice((0, len(ladder))), (w.w("previous"), m.num(r.randint(1000, 90000))))
    sums_style = t.sums if len(ladder) < 8 or t.sums not in ("table", "apart") else "gap"
    sum_rows = []
    if t.ladder == "tax table" and rate and priced and has_total:
        sum_rows += tax_rows(w, base, tax, rate)
    sum_rows += w.kv(sums_style, ladder) if priced else []
    body = item_rows(w, items, sign, priced)
    if kind == "open_items":        # a list of invoices instead of goods
        body = [r.choice((f"{w.w('tx_date')}  {w.w('no')}  {w.w('amount')}", f"{w.w('no')}  {w.w('tx_date')}  {w.w('due')}  {w.w('amount')}"))]
        body += [r.choice((f"{earlier(5, 200)}  {ref()}  {m.num(r.randint(2000, 400000))}", f"{ref()}  {earlier(20, 200)}  {earlier(0, 20)}  {m.num(r.randint(2000, 400000))}")) for _ in range(r.randint(2, 9))]
    elif kind == "remittance":
        body = [r.choice(("We have paid the following invoices:", "Payment for:", "Please note that we transferred today:"))] + [f"{ref()}  {earlier(5, 60)}  {m.num(r.randint(2000, 400000))}" for _ in range(r.randint(1, 6))]
    elif kind == "reminder" and has_total:
        old = ref()
        fee = r.choice((0, 0, 500, 1000, 4000)) // unit * unit
        sum_rows = w.kv(sums_style, ([(w.w("original") if chance(r, .5) else r.choice(w.words["no_of"]), old), (w.w("original_date"), earlier(20, 90))] if chance(r, .6) else []) +
                        ([(w.w("amount"), S(total - fee)), (w.w("shipping") if chance(r, .3) else r.choice(("Reminder fee", "Late fee", "Mahngebühr", "Interest")), S(fee))] if fee else []) + [(label, total_text)])
        body = {"EN": [r.choice(("Our records show that the following invoice is still unpaid.", "Perhaps you have overlooked our invoice.", "We have not yet received your payment.", "Your account is overdue."))],
                "DE": ["Sicher haben Sie übersehen, die folgende Rechnung zu bezahlen.", "Leider konnten wir noch keinen Zahlungseingang feststellen."][:r.randint(1, 2)], "FR": ["Sauf erreur de notre part, la facture suivante reste impayée."],
                "ES": ["Según nuestros registros, la siguiente factura sigue pendiente de pago."]}.get(w.lang, ["The following invoice is still open."])
        if chance(r, .6):
            body += [f"{old}  {earlier(40, 90)}  {m.num(total - fee)}"]
    elif kind == "purchase_order" and chance(r, .5):
        body = [w.w("po_terms")] + body
    elif kind == "invoice" and chance(r, .1):
        body.insert(0, r.choice(("Dear Sir or Madam,", "Thank you for your order. We charge you as follows:", "For services rendered:", f"Project: {r.choice(W.SERVICES)}")))
    if len(body) > 9 and chance(r, .5):         # over two pages
        at = r.randint(4, len(body) - 2)
        part = m.num(r.randint(1000, max(1001, net)))
        page = [f"{w.w('forward')}  {part}"] if chance(r, .6) and priced else []
        page += [f"{w.w('page')} 1 {r.choice((w.words['of'][0], '/'))} 2"] if chance(r, .7) else []
        page += ([issuer] if chance(r, .4) else []) + ([f"{title} {number}"] if chance(r, .4) and has_number else [])
        body[at:at] = page
    foot_rows = {"terms": [w.w("po_terms" if kind == "purchase_order" else "terms")], "bank": [w.w("bank") + w.colon + r.choice((issuer, f"{r.choice(W.BRANDS).title()} Bank")), f"IBAN {w.country}{digits(r, 2)} {digits(r, 4)} {digits(r, 4)} {digits(r, 4)} {digits(r, 2)}", f"BIC {scramble(r, 8)}"][:r.randint(1, 3)],
                 "legal": [f"{issuer} · {', '.join(street)}" if chance(r, .6) else f"{w.w('tax_id')} {w.country} {digits(r, 9)}  {r.choice(('CEO', 'Managing director', 'Geschäftsführer', 'Director'))}: {g.person(r)}"],
                 "page": [f"{w.w('page')} 1 {r.choice((w.words['of'][0], '/'))} {r.randint(1, 3)}"], "thanks": [r.choice(w.words["thanks"])] if kind == "invoice" else [r.choice(w.words["reason"])] if kind == "credit_note" else [], "contact": w.contacts()}
    if kind == "purchase_order":
        foot_rows["bank"] = []
    foot = [x for k in t.foot for x in foot_rows[k]] + extra_foot
    if kind == "credit_note" and chance(r, .4):
        body.append(w.w("reason"))
    if t.summary and has_total and priced and kind in ("invoice", "credit_note", "purchase_order", "quotation"):
        due = [(w.w("due"), later(3, 45))] if kind == "invoice" and has_date and chance(r, .7) else []
        box = w.kv(r.choice(("colon", "table", "below", "two", "gap")), ([(no_label, number)] if has_number and chance(r, .5) else []) + due + [(label, total_text)])
        if t.summary == "top":
            rows += box
        elif t.summary == "sentence":
            full = S(total) if not m.column else f"{m.code} {m.num(sign * total)}"
            foot.insert(0, {"EN": r.choice((f"Please pay {full} by {later(5, 40)}.", f"The total amount due is {full}.", f"Total value {full}.", f"In all {full}, payable without deduction.")), "DE": f"Bitte überweisen Sie {full} bis zum {later(5, 40)}." if kind == "invoice" else f"Gesamt: {full}",
                            "FR": f"Montant total : {full}", "ES": f"Importe total: {full}"}.get(w.lang, f"{final}: {full}"))
            if chance(r, .3) and kind == "invoice" and not m.need_code:
                sum_rows = [x for x in sum_rows if total_text not in x] or sum_rows
        elif t.summary == "slip" and kind == "invoice":
            foot += [r.choice(("- - - - - - - - - -", "Payment slip", "Remittance slip - please detach", "Zahlschein", "Please return this part with your payment"))] + box + [issuer][:r.randint(0, 1)]
        else:
            foot += box
    if t.sums_first:
        rows += sum_rows + body
    else:
        rows += body + sum_rows
    if chance(r, .08):          # small print
        foot.insert(r.randint(0, len(foot)), r.choice(("Terms and conditions", "General conditions", "Notes", "AGB", "Conditions générales", "")))
        for _ in range(r.choice((1, 2, 4, 9))):
            foot += g.paragraph(r, r.randint(2, 5))
    rows += foot
    if t.facts_last:
        rows += fact_rows
    if not has_date:
        rows = [x for x in rows if w.day(d) not in x]
    named = (m.before + m.after).strip() or m.column
    if named in SIGNED and m.need_code or (m.column and not m.shown):
        rows.insert(r.choice((len(rows), len(rows), len(rows) // 2)), r.choice((f"All amounts in {m.code}", f"Currency: {m.code}", f"Amounts in {m.code}", f"{m.code}", f"Prices in {m.code}")))
        m.shown = True
    if t.case == "upper":
        rows = [x.upper() for x in rows]
    out = dict(FACTS, type=KINDS[kind], sub=kind, issuer=issuer, recipient=recipient, date=d.isoformat() if has_date else None, currency=m.code if priced or has_total else None,
               total=g.plain(sign * total) if has_total else None, number=number if has_number else None, title=title)
    if not priced and named:
        text = "\n".join(rows)
        out["currency"] = m.code if m.code in text or (W.SYMBOLS[m.code] in text and len(W.SYMBOLS[m.code]) > 1) else None
    return rows, out


# ---------------------------------------------------------------- receipts

def receipt(r, t):
    w = Writer(r, t, "receipt")
    m, d = w.money, w.date
    shop = g.firm(r, w.country) if chance(r, .93) else g.person(r)
    has_date, has_number = not chance(r, .02), chance(r, .65)
    title = r.choice(w.titles["receipt"]) if chance(r, .55) else None
    number = document_number(r, d) if chance(r, .4) else digits(r, r.choice((4, 5, 6, 8)))
    unit = 1 if m.style[1] != "0" else 100
    lang = {"IT": "EN", "NL": "EN", "PT": "EN"}.get(w.lang, w.lang)
    items = g.lines_of(r, lang, m, 0, (200, 400, 900, 2500, 9000), r.choice(COUNTS[:-1]))
    if t.table == "none":
        items = items[:1]
    net = sum(q * p for _, q, p in items)
    rate = r.choice(W.COUNTRIES[w.country]["rates"]) if chance(r, .8) else 0
    included = chance(r, .6)
    disc = int(net * r.choice((.05, .1, .2))) // unit * unit if chance(r, .15) else 0
    base = net - disc
    tax = round(base * rate / 100 / unit) * unit if not included else round((base - base / (1 + rate / 100)) / unit) * unit
    total = base if included else base + tax
    head = w.place(shop)
    if chance(r, .15):
        head = [shop]
    if chance(r, .15):
        head.insert(0, r.choice((r.choice(W.BRANDS), r.choice(w.words["thanks"]), shop.split(" ")[0].upper(), "* * *", r.choice(W.SLOGANS).title())))
    head += w.contacts()
    meta = []
    if has_number:
        meta.append((w.of("no") if chance(r, .7) or not title else f"{title} {r.choice(w.words['no'])}", number))
    if has_date:
        clock = g.clock(r, False)
        meta.append((r.choice(w.words["date_of"]), w.day(d) + r.choice(("", "", " " + clock, "  " + clock))))
    customer = None
    if chance(r, .12):
        customer = w.firm()
        meta.append((r.choice(("Customer", "Received from", "Billed to", "Client", "Sold to")) if w.lang == "EN" else w.w("to"), customer))
    extra = [(r.choice(("Cashier", "Server", "Served by", "Operator", "Kasse", "Caissier", "Clerk")), r.choice(W.GIVEN)), (r.choice(("Table", "Till", "Terminal", "Store", "Register", "Filiale", "POS")), str(r.randint(1, 99))),
             (r.choice(("Order", "Auth code", "Member", "Approval", "Trace no.", "AID", "Card")), r.choice((digits(r, 6), "****" + digits(r, 4), "A000000" + digits(r, 7)))), (r.choice(("Guests", "Items", "Nights", "Pump")), str(r.randint(1, 9)))]
    meta += r.sample(extra, r.choice((0, 1, 1, 2, 3)))
    if chance(r, .6):
        r.shuffle(meta)
    bare_date = has_date and chance(r, .3)
    if bare_date:
        when = [b for a, b in meta if w.day(d) in b]
        meta = [x for x in meta if w.day(d) not in x[1]]
        meta_rows = w.kv(t.facts, meta)
        meta_rows.insert(r.randint(0, len(meta_rows)), when[0])
    else:
        meta_rows = w.kv(t.facts, meta)
    ladder = []
    amount = m.num if m.column or chance(r, .3) else m.full
    rate_text = f"{rate:g}".replace(".", m.style[1] if m.style[1] in ",." else ".") + r.choice(("%", " %"))
    if t.ladder in ("full", "double", "after tax", "short") or disc:
        if chance(r, .7):
            ladder.append((w.w("sub"), amount(net if not included else base - tax if chance(r, .5) else net)))
        if disc:
            ladder.append((w.w("discount"), amount(r.choice((-disc, disc)))))
    tax_row = [(r.choice((f"{w.tax} {rate_text}", f"{rate_text} {w.tax}", f"{w.tax} ({rate_text})", w.tax)) + (r.choice((" incl.", " included", "")) if included else ""), amount(tax))] if rate else []
    label = m.label(w.of("total")) if m.column else w.of("total")
    text = m.num(total) if m.column else m.full(total)
    if m.column:
        m.shown = True
    if not included:
        ladder += tax_row + [(label, text)]
    else:
        ladder += [(label, text)] + (tax_row if chance(r, .7) else []) if chance(r, .7) else tax_row + [(label, text)]
    tip = 0
    if w.country in ("US", "GB", "CA") and chance(r, .08):
        tip = round(total * r.choice((.1, .15, .2)))
        ladder = [x for x in ladder if x[0] != label] + [(r.choice(("Tip", "Gratuity", "Service")), amount(tip)), (label, m.num(total + tip) if m.column else m.full(total + tip))]
    total += tip
    pay = []
    if chance(r, .8):
        paid = total if chance(r, .6) else -(-total // 2000) * 2000
        pay.append((w.w("paid"), amount(paid)))
        if paid > total or chance(r, .2):
            pay.append((w.w("change"), amount(paid - total)))
    sums = w.kv(t.sums if t.sums != "apart" else "gap", ladder + (pay if chance(r, .8) else []))
    if len(sums) and not any(p[1] in "\n".join(sums) for p in pay[:1]):
        sums += w.kv("gap", pay)
    if t.ladder == "tax table" and rate:
        sums += tax_rows(w, total - tax, tax, rate)
    body = item_rows(w, items)
    foot = [r.choice(w.words["thanks"]) for _ in range(r.choice((0, 1, 1, 2)))]
    title_rows = [title] if title else []
    if title and t.title_style == "number" and has_number:
        title_rows = [f"{title} {r.choice(('', 'No. ', '#'))}{number}"]
    x = r.random()
    if x < .5:
        rows = head + title_rows + meta_rows + body + sums + foot
    elif x < .68:
        rows = head + title_rows + body + sums + meta_rows + foot
    elif x < .8:
        rows = title_rows + meta_rows + head + body + sums + foot
    elif x < .9:
        rows = title_rows + head + side_by_side(meta_rows[:2], meta_rows[2:]) + body + sums + foot
    else:
        rows = title_rows + sums[-3:] + meta_rows + head + body + sums + foot if not disc else title_rows + head + meta_rows + body + sums + foot
    if t.rule:
        for _ in range(r.randint(1, 3)):
            rows.insert(r.randint(1, len(rows)), t.rule * r.randint(10, 40))
    named = (m.before + m.after).strip() or m.column
    if (named in SIGNED and m.need_code) or (m.column and not m.shown):
        rows.append(r.choice((f"All amounts in {m.code}", f"Currency: {m.code}")))
    if t.case == "upper" or chance(r, .2):
        rows = [x.upper() for x in rows]
    return rows, dict(FACTS, type="receipt", sub="receipt", issuer=shop, recipient=customer, date=d.isoformat() if has_date else None, currency=m.code, total=g.plain(total),
                      number=number if has_number and any(number in x for x in rows) else None, title=title)


# ---------------------------------------------------------------- bank statements and payslips

def shuffled_head(w, blocks):
    """Blocks in the template's order, some of them side by side."""
    t = w.t
    order = [x for x in t.order if blocks.get(x)] + [x for x in blocks if x not in t.order and blocks[x]]
    rows, i = [], 0
    while i < len(order):
        block = blocks[order[i]]
        if i + 1 < len(order) and i < 3 and t.beside[i]:
            block = side_by_side(block, blocks[order[i + 1]])
            i += 1
        rows += block
        if t.rule and chance(w.r, .4):
            rows.append(t.rule * w.r.randint(10, 50))
        i += 1
    return rows


def bank_name(r, country):
    town = r.choice(W.COUNTRIES[country]["towns"]).split(",")[0]
    core = r.choice((r.choice(W.BRANDS).title(), r.choice(W.SURNAMES), town, g.made_up_word(r).capitalize(), f"{r.choice(W.BRANDS).title()} {r.choice(W.BRANDS).title()}"))
    kind = {"DE": ("Sparkasse", "Volksbank", "Bank AG", "Landesbank", "Privatbank"), "AT": ("Sparkasse", "Bank AG", "Raiffeisenkasse"), "CH": ("Kantonalbank", "Bank AG"), "FR": ("Banque", "Crédit Coopératif", "Caisse d'Épargne", "Banque SA"), "ES": ("Banco", "Caja Rural", "Bank S.A."),
            "IT": ("Banca", "Cassa di Risparmio"), "PT": ("Banco", "Caixa"), "NL": ("Bank N.V.", "Bank"), "US": ("Bank", "National Bank", "Credit Union", "Savings Bank", "Bank, N.A.", "Federal Credit Union")}.get(country, ("Bank", "Bank plc", "Banking Corporation", "Savings Bank", "Bank Ltd", "Building Society", "Commercial Bank"))
    k = r.choice(kind)
    return f"{k} {core}" if k.split()[0] in ("Sparkasse", "Volksbank", "Banque", "Crédit", "Caisse", "Banco", "Caja", "Banca", "Cassa", "Caixa", "Raiffeisenkasse", "Landesbank") else f"{core} {k}"


def bank_statement(r, t):
    w = Writer(r, t, "bank_statement")
    m, d = w.money, w.date
    bank, holder = bank_name(r, w.country), w.firm()
    has_number, has_date = chance(r, .7), not chance(r, .04)
    number = r.choice((str(r.randint(1, 366)), f"{r.randint(1, 52)}/{d.year}", f"{d.year}/{r.randint(1, 12):02d}", f"{r.randint(1, 12):03d}", document_number(r, d), f"{d.year}-{d.month:02d}"))
    title = r.choice(w.titles["bank_statement"])
    start = d - datetime.timedelta(days=r.choice((7, 28, 29, 30, 30, 31, 90)))
    unit = 1 if m.style[1] != "0" else 100
    balance = opening = r.randint(-50000, 5000000) // unit * unit if chance(r, .9) else 0
    n = r.choice((2, 4, 6, 8, 12, 20, 35))
    days = sorted(r.randrange((d - start).days + 1) for _ in range(n))
    style = r.choice(("two", "two", "signed", "signed", "trailing", "letter", "columns"))
    show_balance, value = chance(r, .5), chance(r, .25)
    header = [w.w("tx_date")] + ([w.w("value_date")] if value else []) + [w.w("tx_text")]
    header += [w.w("debit"), w.w("credit")] if style == "two" else [w.w("amount")]
    header += [w.w("balance")] if show_balance else []
    tx, ins, outs = [], 0, 0
    for k in days:
        x = int(r.lognormvariate(0, 1.2) * r.choice((2000, 9000, 40000))) // unit * unit + unit * 100
        x = -x if chance(r, .55) else x
        balance += x
        ins, outs = ins + max(x, 0), outs + max(-x, 0)
        day = start + datetime.timedelta(days=k)
        who = r.choice((w.firm(), w.firm(), g.person(r)))
        what = {"EN": ("Card payment", "Standing order", "Direct debit", "Transfer", "Bank charges", "Cash withdrawal", "Interest", "Cheque", "POS", "ACH credit", "Salary"), "DE": ("Überweisung", "Lastschrift", "Gutschrift", "Dauerauftrag", "Kartenzahlung", "Entgelt", "Bargeldauszahlung"), "FR": ("Virement", "Prélèvement", "Carte", "Chèque", "Frais"),
                "ES": ("Transferencia", "Recibo", "Compra tarjeta", "Comisión", "Nómina"), "IT": ("Bonifico", "Addebito", "Pagamento POS", "Commissioni"), "NL": ("Overboeking", "Incasso", "Betaalautomaat", "Kosten"), "PT": ("Transferência", "Débito direto", "Compra", "Comissão")}[w.lang]
        text = r.choice(what) + r.choice((f" {who}", f" {who}", "", f" {who} {document_number(r, d)}", f" INV {digits(r, 5)}"))
        a = m.num(abs(x))
        cell = {"two": [a, ""] if x < 0 else ["", a], "signed": [("-" if x < 0 else r.choice(("", "+"))) + a], "trailing": [a + ("-" if x < 0 else "+")], "letter": [a + (" S" if x < 0 else " H") if w.lang == "DE" else a + (" DR" if x < 0 else " CR")], "columns": [("-" if x < 0 else "") + a]}[style]
        cells = [w.day(day)] + ([w.day(day + datetime.timedelta(days=r.randint(0, 2)))] if value else []) + [text] + [c for c in cell if c] + ([m.num(balance)] if show_balance else [])
        tx.append(cells)
    sep = " | " if t.table == "pipe" else ";" if t.table == "csv" else "  "
    body = [sep.join(header)] if t.header else []
    if t.table == "columns" and n < 9:
        body += [c[0] for c in tx] + [c[-1 - show_balance] for c in tx] + [c[1 + value] for c in tx]
    elif t.table in ("stack", "three", "vertical"):
        body += [x for c in tx for x in (sep.join(c[:1 + value] + c[2 + value:]), c[1 + value])]
    else:
        body += [sep.join(c) for c in tx]
    signed = lambda x: m.full(x) if style != "letter" or m.column else (m.full(abs(x)) + ((" S" if x < 0 else " H") if w.lang == "DE" else (" DR" if x < 0 else " CR")))
    first, last = (w.w("open"), signed(opening)), (w.w("close"), signed(balance))
    day_of = lambda when: r.choice(("", "", f" {w.day(when)}", f" ({w.day(when)})", f" {r.choice(('on', 'per', 'at')) if w.lang == 'EN' else ''} {w.day(when)}".replace("  ", " ")))
    has_total = True
    first = (first[0] + (day_of(start) if has_date else ""), first[1])
    last = (last[0] + (day_of(d) if has_date else ""), last[1])
    sums = [(w.w("ins"), m.full(ins)), (w.w("outs"), m.full(outs))] if chance(r, .5) else []
    where = r.random()
    if where < .4:
        body = w.kv(r.choice(("gap", "colon")), [first]) + body + w.kv(t.sums, sums + [last])
    elif where < .7:
        body = w.kv(t.sums, [first] + sums + [last]) + body
    else:
        body = body + w.kv(t.sums, [first] + sums + [last])
    if chance(r, .2):
        body.append(f"{w.w('limit')}{w.colon}{m.full(r.choice((100000, 500000, 1000000)))}")
    facts = []
    if has_number:
        facts.append((w.of("no"), number))
    if has_date:
        facts.append((w.of("date"), w.day(d)))
    facts += [x for x in ((w.w("account"), r.choice((digits(r, 8), f"{w.country}{digits(r, 2)} {digits(r, 4)} {digits(r, 4)} {digits(r, 4)} {digits(r, 2)}", f"{digits(r, 2)}-{digits(r, 2)}-{digits(r, 2)} {digits(r, 8)}"))), (w.w("holder"), holder) if chance(r, .5) else ("", None),
                          (w.w("period"), f"{w.day(start)} {r.choice(('-', 'to', '–', 'bis' if w.lang == 'DE' else '-'))} {w.day(d - datetime.timedelta(days=r.choice((0, 0, 1))))}") if chance(r, .6) and has_date else ("", None), ("BIC", scramble(r, 8)), (w.w("page"), "1"), (r.choice(("Currency", "Währung", "Devise")), m.code)) if chance(r, .6)]
    if chance(r, .6):
        r.shuffle(facts)
    seller = w.place(bank) + w.contacts()
    if chance(r, .25):
        seller = [bank]
    rows = shuffled_head(w, {"seller": seller, "title": [title] if t.title_style != "number" or not has_number else [f"{title} {number}"], "facts": w.kv(t.facts, facts), "to": w.place(holder)}) + body
    if t.title_style == "number" and has_number and chance(r, .5):
        pass
    rows += [x for x in ("Please check this statement and report errors within 30 days.", f"{bank} is authorised and regulated.", f"{w.w('page')} 1/{r.randint(1, 3)}", "Deposits are protected up to 100,000.") if chance(r, .15)]
    named = (m.before + m.after).strip() or m.column
    if not any(m.code in x for x in rows) and (m.column or (named in SIGNED and m.need_code)):
        rows.insert(min(len(rows), 6), r.choice((f"Currency: {m.code}", f"Account currency {m.code}", f"All amounts in {m.code}")))
    if not has_date:
        rows = [x for x in rows if w.day(d) not in x or any(c in x for c in (last[0], signed(balance)))]
    if t.case == "upper":
        rows = [x.upper() for x in rows]
    return rows, dict(FACTS, type="bank_statement", sub="bank_statement", issuer=bank, recipient=holder, date=d.isoformat() if has_date else None, currency=m.code, total=g.plain(balance), number=number if has_number else None, title=title)


def payslip(r, t):
    w = Writer(r, t, "payslip")
    m, d = w.money, w.date
    employer, employee = g.firm(r, w.country), g.person(r)
    title = r.choice(w.titles["payslip"])
    has_number, has_date = chance(r, .3), not chance(r, .06)
    number = document_number(r, d)
    unit = 1 if m.style[1] != "0" else 100
    scale = 100 if m.code not in ("JPY", "IDR", "HUF") else 10000
    cents = lambda a, b: r.randint(a, b) * scale // unit * unit if chance(r, .3) else r.randint(a * 100, b * 100) * scale // 100 // unit * unit
    earn = [(x, cents(1200, 9000) if i == 0 else cents(20, 900)) for i, x in enumerate(r.sample(w.words["earn"], min(len(w.words["earn"]), r.choice((1, 2, 2, 3, 4)))))]
    gross = sum(x for _, x in earn)
    less = [(x, int(gross * r.uniform(.005, .12)) // unit * unit) for x in r.sample(w.words["less"], min(len(w.words["less"]), r.choice((1, 2, 3, 3, 4, 5))))]
    cut = sum(x for _, x in less)
    net = gross - cut
    minus = r.choice((1, 1, 1, -1))
    ytd = chance(r, .35)
    row = lambda x, k=1: (m.item(x * k) + (f"  {m.num(x * r.randint(2, 12))}" if ytd else ""))
    a, b = [(n, row(x)) for n, x in earn], [(n, row(x, minus)) for n, x in less]
    tot = [(w.w("gross"), m.full(gross)), (w.w("deduct"), m.full(cut))]
    net_label = m.label(w.w("net")) if m.column else w.w("net")
    net_row = (net_label, m.num(net) if m.column else m.full(net))
    style = t.sums if t.sums not in ("apart", "line", "table", "tabular") else r.choice(("gap", "colon"))
    heads = r.choice(((r.choice(("Earnings", "Payments", "Gross")), r.choice(("Deductions", "Taxes"))), ("", ""))) if w.lang == "EN" else (w.w("gross"), w.w("deduct")) if chance(r, .5) else ("", "")
    x = r.random()
    if x < .3:
        body = side_by_side(([heads[0]] if heads[0] else []) + w.kv(r.choice(("gap", "colon")), a), ([heads[1]] if heads[1] else []) + w.kv(r.choice(("gap", "colon")), b)) + w.kv(style, [y for y in tot if chance(r, .7)])
    elif x < .7:
        body = ([heads[0]] if heads[0] else []) + w.kv(style, a + [tot[0]]) + ([heads[1]] if heads[1] else []) + w.kv(style, b + ([tot[1]] if chance(r, .6) else []))
    else:
        body = w.kv(style, a + b + [y for y in tot if chance(r, .6)])
    if ytd and chance(r, .6):
        body.insert(0, f"{w.w('tx_text')}  {w.w('amount')}  {r.choice(('YTD', 'Year to date', 'Cumul', 'Jahr'))}")
    if chance(r, .45):
        extra = w.kv(r.choice(("gap", "colon", "table")), [(n, m.num(cents(100, 60000)) if "day" not in n and "Hours" not in n else str(r.randint(1, 180))) for n in r.sample(w.words["ytd"], min(2, len(w.words["ytd"])))])
    else:
        extra = []
    final = w.kv(t.sums, [net_row])
    where = r.random()
    body = (final + body + extra) if where < .12 else (body + final + extra) if where < .7 else (body + extra + final)
    first = d.replace(day=1)
    months = g.MONTHS_IN.get(w.lang)
    month = (months[d.month - 1] if months else g.MONTHS[d.month - 1].title()) + f" {d.year}"
    facts = []
    if has_date:
        facts.append((w.of("date"), w.day(d)))
    if has_number:
        facts.append((w.of("no"), number))
    period = r.choice((month, f"{d.month:02d}/{d.year}", f"{w.day(first)} - {w.day(first + datetime.timedelta(days=27))}"))
    facts += [x for x in ((w.w("period"), period), (w.w("personnel"), digits(r, r.choice((3, 4, 5, 6)))), (w.w("ssn"), r.choice((f"{scramble(r, 2)}{digits(r, 6)}{scramble(r, 1)}", str(r.randint(1, 6)), r.choice(W.TRADES_EN)))), ("IBAN", f"{w.country}{digits(r, 2)} {digits(r, 4)} {digits(r, 4)}"), (r.choice(("Start date", "Joined", "Date of birth", "Eintritt")), w.day(d - datetime.timedelta(days=r.randint(400, 9000))))) if chance(r, .5)]
    name = f"{employee.split()[-1]}, {' '.join(employee.split()[:-1])}" if chance(r, .07) and len(employee.split()) == 2 else employee
    to = w.place(name)
    y = r.random()
    if y < .45:
        facts.insert(r.randint(0, len(facts)), (w.w("employee"), name))
        to = to if chance(r, .3) else []
    elif y < .75:
        to = [w.w("employee") + ":"] + to
    elif y < .9:
        to = [f"{r.choice(('Mr', 'Ms', 'Mrs', '')) if w.lang == 'EN' else ''} {name}".strip()] + to[1:]
    if chance(r, .5):
        r.shuffle(facts)
    seller = w.place(employer)
    if chance(r, .25):
        seller = [f"{w.w('employer')}{w.colon}{employer}"] + seller[1:]
    title_rows = [f"{title} {period}" if t.title_style in ("date", "number", "sentence") else title]
    rows = shuffled_head(w, {"seller": seller, "title": title_rows, "facts": w.kv(t.facts, facts), "to": to}) + body
    rows += [x for x in ("This payslip is confidential.", f"Paid by bank transfer to account ****{digits(r, 4)}", "Please keep this document.", "Bulletin à conserver sans limitation de durée.", f"{employer}") if chance(r, .12)]
    named = (m.before + m.after).strip() or m.column
    if named in SIGNED and m.need_code:
        rows.append(f"Currency: {m.code}")
    if not has_date:
        rows = [x for x in rows if w.day(d) not in x]
    if t.case == "upper":
        rows = [x.upper() for x in rows]
    return rows, dict(FACTS, type="payslip", sub="payslip", issuer=employer, recipient=name, date=d.isoformat() if has_date else None, currency=m.code, total=g.plain(net), number=number if has_number else None, title=title)


# ---------------------------------------------------------------- contracts

CONTRACTS = {   # (titles, who provides, who pays) of each sort; the amount's clause; other clauses
    "EN": dict(
        service=("Service Agreement|SERVICE AGREEMENT|Consulting Agreement|Contract for Services|Maintenance Agreement|Agreement|Framework Agreement|Cleaning Contract|Support Contract|Statement of Work", "Contractor|Provider|Consultant|Supplier|Service Provider", "Client|Customer|Principal|Company"),
        rent=("Lease Agreement|Rental Agreement|LEASE|Tenancy Agreement|Commercial Lease|Equipment Lease|Hire Agreement", "Landlord|Lessor|Owner", "Tenant|Lessee|Hirer"),
        supply=("Supply Agreement|Purchase Agreement|Sales Contract|Contract of Sale|Licence Agreement|Distribution Agreement|Subscription Agreement", "Seller|Supplier|Vendor|Licensor", "Buyer|Purchaser|Customer|Licensee"),
        work=("Employment Contract|Contract of Employment|EMPLOYMENT AGREEMENT|Employment Agreement|Fixed-term Employment Contract", "Employee", "Employer|Company"),
        nda=("Non-Disclosure Agreement|Confidentiality Agreement|Cooperation Agreement|Memorandum of Understanding|Partnership Agreement|Joint Venture Agreement", "First Party|Party A|Discloser", "Second Party|Party B|Recipient"),
        between="This agreement is made between|between|BETWEEN|Parties|The parties to this agreement are|This contract is entered into by and between|By and between", andw="and|AND", dated="Dated|Date|Signed on|Effective date|This agreement is dated|Made on|Date of agreement", no="Contract no.|Agreement no.|Ref.|Contract number",
        fee="The {a} pays the {b} a fee of {m}.|The price is {m}.|In return the {a} shall pay {m}, payable within 30 days.|Remuneration: {m}|The total contract price amounts to {m} net of tax.|Fee: {m} per month", rentfee="The rent is {m} per month.|Monthly rent: {m}|The {a} pays a rent of {m}, due on the third working day.", salary="The gross salary is {m} per month.|Salary: {m} per year|The Employee receives a gross annual salary of {m}.",
        clauses="The {b} provides the services described in Annex 1 with due care.|This contract starts on {d2} and runs for {n} months.|Either party may terminate with {n} weeks' notice in writing.|Liability is limited to {m2} for each event.|A deposit of {m2} is payable on signing.|Both parties keep all information confidential.|Changes to this contract must be in writing.|The law of the {b}'s seat applies; place of jurisdiction is {town}.|If a provision is invalid, the rest remains in force.|In case of delay a penalty of {m2} a day may be claimed.|Neither party may assign this agreement without consent.|The {a} shall give access to the premises.|Force majeure frees both parties of their duties.|Working time is {n} hours a week.|This agreement ends on {d3} without notice.", sign="Signed|Signatures|IN WITNESS WHEREOF the parties have signed|For the {a}|For the {b}"),
    "DE": dict(
        service=("Dienstvertrag|Dienstleistungsvertrag|Wartungsvertrag|Beratervertrag|Werkvertrag|Rahmenvertrag|VERTRAG|Reinigungsvertrag", "Auftragnehmer|Dienstleister|Berater", "Auftraggeber|Kunde"), rent=("Mietvertrag|Gewerbemietvertrag|Pachtvertrag|Leasingvertrag|MIETVERTRAG", "Vermieter|Verpächter|Leasinggeber", "Mieter|Pächter|Leasingnehmer"), supply=("Kaufvertrag|Liefervertrag|Lizenzvertrag|KAUFVERTRAG", "Verkäufer|Lieferant|Lizenzgeber", "Käufer|Abnehmer|Lizenznehmer"),
        work=("Arbeitsvertrag|ARBEITSVERTRAG|Anstellungsvertrag|Befristeter Arbeitsvertrag", "Arbeitnehmer|Mitarbeiter", "Arbeitgeber"), nda=("Vertraulichkeitsvereinbarung|Geheimhaltungsvereinbarung|Kooperationsvertrag|Gesellschaftsvertrag", "Partei A|Partner 1", "Partei B|Partner 2"),
        between="zwischen|Zwischen|Vertragsparteien|Die Vertragspartner", andw="und", dated="Datum|vom|Abgeschlossen am|Vertragsdatum|Geschlossen am", no="Vertragsnummer|Vertrag Nr.|Vertrags-Nr.", fee="Die Vergütung beträgt {m}.|Der {a} zahlt an den {b} {m}.|Der Kaufpreis beträgt {m}.|Pauschalpreis: {m}", rentfee="Die monatliche Miete beträgt {m}.|Miete: {m} monatlich", salary="Das Bruttogehalt beträgt {m} monatlich.|Gehalt: {m} brutto im Monat",
        clauses="Der {b} erbringt die in Anlage 1 beschriebenen Leistungen.|Der Vertrag beginnt am {d2} und läuft {n} Monate.|Die Kündigungsfrist beträgt {n} Wochen.|Die Haftung ist auf {m2} begrenzt.|Die Kaution beträgt {m2}.|Änderungen bedürfen der Schriftform.|Gerichtsstand ist {town}.|Sollte eine Bestimmung unwirksam sein, bleibt der übrige Vertrag gültig.|Die Parteien bewahren Stillschweigen.|Bei Verzug wird eine Vertragsstrafe von {m2} fällig.|Die Arbeitszeit beträgt {n} Stunden in der Woche.|Der Vertrag endet am {d3}.", sign="Unterschriften|Unterschrift|{town}, den"),
    "FR": dict(
        service=("Contrat de prestation de services|Contrat de maintenance|Contrat de conseil|CONTRAT|Contrat de nettoyage", "Prestataire|Consultant", "Client|Donneur d'ordre"), rent=("Contrat de location|Bail commercial|BAIL|Contrat de bail", "Bailleur|Loueur", "Preneur|Locataire"), supply=("Contrat de vente|Contrat de fourniture|Contrat de licence", "Vendeur|Fournisseur", "Acheteur|Acquéreur"), work=("Contrat de travail|CONTRAT DE TRAVAIL|Contrat à durée déterminée", "Salarié|Employé", "Employeur"),
        nda=("Accord de confidentialité|Convention de partenariat|Accord de coopération", "Partie A|Premier partenaire", "Partie B|Second partenaire"), between="entre|Entre les soussignés|ENTRE|Les parties", andw="et|ET", dated="Date|Fait le|Signé le|En date du", no="Contrat n°|N° de contrat", fee="Le prix est fixé à {m}.|Le {a} verse au {b} la somme de {m}.|Rémunération : {m}", rentfee="Le loyer mensuel est de {m}.|Loyer : {m} par mois", salary="Le salaire brut mensuel est de {m}.|Salaire : {m} brut par mois",
        clauses="Le {b} exécute les prestations décrites en annexe.|Le contrat prend effet le {d2} pour {n} mois.|Chaque partie peut résilier avec un préavis de {n} semaines.|La responsabilité est limitée à {m2}.|Le dépôt de garantie est de {m2}.|Le tribunal compétent est celui de {town}.|Toute modification se fait par écrit.|Les parties gardent le secret.|Le contrat prend fin le {d3}.", sign="Signatures|Fait en deux exemplaires"),
    "ES": dict(
        service=("Contrato de prestación de servicios|Contrato de mantenimiento|CONTRATO|Contrato de consultoría", "Prestador|Contratista", "Cliente|Contratante"), rent=("Contrato de arrendamiento|Contrato de alquiler", "Arrendador", "Arrendatario"), supply=("Contrato de compraventa|Contrato de suministro", "Vendedor|Proveedor", "Comprador"), work=("Contrato de trabajo|CONTRATO DE TRABAJO", "Trabajador|Empleado", "Empresa|Empleador"), nda=("Acuerdo de confidencialidad|Acuerdo de colaboración", "Parte A|Primera parte", "Parte B|Segunda parte"),
        between="entre|Entre|REUNIDOS|Las partes", andw="y|Y", dated="Fecha|Firmado el|A fecha", no="Contrato nº|Nº de contrato", fee="El precio es de {m}.|El {a} pagará al {b} {m}.|Precio total: {m}", rentfee="La renta mensual es de {m}.|Renta: {m} al mes", salary="El salario bruto es de {m} al mes.|Salario: {m} brutos al año",
        clauses="El {b} presta los servicios descritos en el anexo.|El contrato comienza el {d2} y dura {n} meses.|Cualquiera de las partes puede rescindir con {n} semanas de preaviso.|La responsabilidad se limita a {m2}.|La fianza es de {m2}.|Toda modificación será por escrito.|Ambas partes guardan confidencialidad.|Los tribunales de {town} son competentes.|El contrato termina el {d3}.", sign="Firmas|En prueba de conformidad"),
}


def contract(r, t):
    w = Writer(r, t, "contract")
    m, d = w.money, w.date
    if w.lang not in CONTRACTS:
        w.lang = "EN"
        w.style = any_date_style(r, w.country, "EN")
    c = CONTRACTS[w.lang]
    pick = lambda s: r.choice(s.split("|"))
    sort = r.choice(("service", "service", "rent", "supply", "work", "work", "nda"))
    titles, gives, pays = c[sort]
    title, b, a = pick(titles), pick(gives), pick(pays)
    payer, provider = g.firm(r, w.country), (g.person(r) if sort == "work" else w.firm())
    has_total, has_number, has_date = sort != "nda" and chance(r, .88), chance(r, .4), not chance(r, .05)
    number = document_number(r, d)
    unit = 1 if m.style[1] != "0" else 100
    total = (r.randint(300, 90000) * 100 if chance(r, .7) else r.randint(30000, 9000000)) // unit * unit
    if m.column:
        m.before, m.column = m.code + " ", ""
    money = lambda x: m.full(x)
    other = lambda lo, hi: w.day(d + datetime.timedelta(days=r.randint(lo, hi)))
    town = r.choice(W.COUNTRIES[w.country]["towns"]).split(",")[0]
    fill = lambda s: s.format(a=a, b=b, m=money(total), m2=money(r.randint(5, 900) * 10000 // unit * unit), d2=other(1, 60), d3=other(200, 1500), n=r.choice((2, 3, 4, 6, 12, 24, 35, 40)), town=town)
    order = [(payer, a), (provider, b)] if chance(r, .5) else [(provider, b), (payer, a)]
    quote = r.choice(('"{}"', "“{}”", "„{}“", "the {}", "{}", "({})"))
    mark = {"EN": ("hereinafter ", "hereinafter referred to as ", "", "- "), "DE": ("nachfolgend ", "- nachstehend ", ""), "FR": ("ci-après ", ""), "ES": ("en adelante ", "")}[w.lang]
    parties, style = [], r.random()
    for i, (who, role) in enumerate(order):
        if i and style < .7:
            parties.append(pick(c["andw"]))
        address = ", ".join(g.address(r, w.country))
        if style < .3:
            parties += [who] + g.address(r, w.country) + [f"{r.choice(mark)}{quote.format(role)}"]
        elif style < .6:
            parties.append(f"{who}, {address}, {r.choice(mark)}{quote.format(role)}")
        elif style < .8:
            parties.append(f"{role}{w.colon}{who}" + (f", {address}" if chance(r, .5) else ""))
        elif style < .9:
            parties += [role + ":", who] + g.address(r, w.country)
        else:
            parties += [f"({i + 1}) {who} ({role})"]
        if chance(r, .25) and who is not provider:
            parties.append(f"{r.choice(('represented by', 'vertreten durch', 'représentée par', 'representada por')) if w.lang != 'EN' else 'represented by'} {g.person(r)}")
    clause = c["fee"] if sort in ("service", "supply") else c["rentfee"] if sort == "rent" else c["salary"]
    clauses = r.sample(c["clauses"].split("|"), min(len(c["clauses"].split("|")), r.choice((2, 3, 4, 5, 7, 9))))
    if sort == "nda":
        clauses = [x for x in clauses if "{m2}" not in x]
    if has_total:
        clauses.insert(r.randint(0, len(clauses)), pick(clause))
    if not has_total or sort == "nda":
        clauses = [x for x in clauses if "{m" not in x]
    numbering = r.choice(("{}. ", "§ {} ", "{}) ", "", "Article {} ", "Clause {}: ", "({}) "))
    headings = chance(r, .3)
    body = []
    for i, x in enumerate(clauses):
        if headings:
            body.append(numbering.format(i + 1) + r.choice(("Subject", "Term", "Payment", "Liability", "General", "Notice", "Duties", "Confidentiality") if w.lang == "EN" else ("Gegenstand", "Laufzeit", "Vergütung", "Haftung", "Sonstiges") if w.lang == "DE" else ("Objet", "Durée", "Prix", "Divers") if w.lang == "FR" else ("Objeto", "Duración", "Precio", "Varios")))
            body.append(fill(x))
        else:
            body.append(numbering.format(i + 1) + fill(x))
        if w.lang == "EN" and chance(r, .2):
            body += g.paragraph(r, r.randint(1, 3))
    sign = [fill(x) for x in c["sign"].split("|") if chance(r, .5)]
    dated = f"{pick(c['dated'])}{w.colon if chance(r, .7) else ' '}{w.day(d)}"
    place = f"{town}, {w.day(d)}"
    date_top = has_date and chance(r, .5)
    head = [title] + ([f"{pick(c['no'])}{w.colon}{number}"] if has_number else []) + ([dated] if date_top else [])
    if chance(r, .2):
        r.shuffle(head)
    tail = sign + ([] if date_top or not has_date else [place if chance(r, .6) else dated]) + ([place] if date_top and chance(r, .3) else [])
    tail += r.choice(([f"{payer}  {provider}"], [payer, provider], ["____________  ____________", f"{a}  {b}"], [f"{order[0][0]}: ________", f"{order[1][0]}: ________"], []))
    rows = head + [pick(c["between"])] + parties + body + tail
    if not has_date:
        rows = [x for x in rows if w.day(d) not in x]
    if m.need_code and any(money(total) in x for x in rows):
        rows.append(f"All amounts in {m.code}")
    if t.case == "upper":
        rows = [x.upper() for x in rows]
    text = "\n".join(rows)
    return rows, dict(FACTS, type="contract", sub="contract " + sort, issuer=provider, recipient=payer, date=d.isoformat() if has_date else None, currency=m.code if "{m" in " ".join(clauses) and sort != "nda" else None,
                      total=g.plain(total) if has_total else None, number=number if has_number else None, title=title, first=order[0][0])


def compose(r, t, kind):
    if LETTERS and chance(r, LETTERS) and kind not in ("confirmation", "open_items", "remittance"):
        import letters
        maker = lambda r, t: letters.written(r, t, kind)
    else:
        maker = {"receipt": receipt, "bank_statement": bank_statement, "payslip": payslip, "contract": contract}.get(kind)
    rows, facts = maker(r, t) if maker else commercial(r, t, kind)
    text = "\n".join(rows)
    if text == text.upper():            # what is answered is written as it stands there
        for k in ("issuer", "recipient", "number", "title", "first"):
            if facts.get(k):
                facts[k] = facts[k].upper()
    return rows, facts


def roughen(r, rows, facts):
    """Noise of scanning on rows that carry no answer, and rows run together or apart."""
    if chance(r, .35):
        rate = r.choice((.004, .01, .02, .04))
        keep = [x.upper() for x in (facts["issuer"], facts["recipient"], facts["number"], facts.get("first"), facts["title"]) if x]
        words = {y for x in keep for y in x.split() if len(y) > 1}
        out = []
        for row in rows:
            s = row.upper()
            if any(c.isdigit() for c in s) or any(x in s for x in words):
                out.append(row)
            elif not chance(r, rate):
                out.append(g.noisy(r, row, rate))
        rows = out
    return rows
