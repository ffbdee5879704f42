#!/usr/bin/env python3
"""Writes folders of labelled documents for `evaluate`.

    make_eval.py --out DIR --receipts receipts.jsonl    DIR/real: the real receipts that training never saw
    make_eval.py --out DIR --made 200                   DIR/made: new documents of the kinds training saw
                                                        DIR/unseen: documents of layouts that training did not see

The layouts of "unseen" are below and used nowhere else; names, dates and amounts are drawn anew.
"""
import argparse
import datetime
import json
import os
import random

import generate as g


def amount(r, low=500, high=90000):
    return r.randint(low, high)


def unseen(r):
    """(text, expected) of a layout that generate.py does not have."""
    country = r.choice(("US", "GB", "DE", "SG", "NL", "AU", "MY"))
    d = g.some_date(r)
    seller, buyer, n = g.firm(r, country), g.firm(r, country), [amount(r) for _ in range(3)]
    cur = g.W.COUNTRIES[country]["cur"]
    total, no = sum(n), g.digits(r, 6)
    plain = g.plain(total)
    e = lambda kind, currency=cur, t=plain: dict(document_type=kind, party=seller, date=d.isoformat(), currency=currency, total=t)
    nothing = dict(document_type="other", party=None, date=None, currency=None, total=None)
    iso, words = d.isoformat(), f"{d.day} {g.MONTHS[d.month - 1].title()} {d.year}"
    a = g.address(r, country)
    names = [g.goods(r).capitalize() for _ in range(3)]
    layout = r.randint(0, 11)
    if layout == 0:     # a table with lines drawn in characters
        rows = [f"INVOICE {no}", "=" * 40, f"Supplier ...... {seller}"] + [" " * 16 + x for x in a] + [f"Client ........ {buyer}", f"Issued ........ {iso}", "-" * 40]
        rows += [f"| {x} | {g.plain(v)} |" for x, v in zip(names, n)] + ["-" * 40, f"| GRAND TOTAL {cur} | {plain} |"]
        return rows, e("invoice")
    if layout == 1:     # an invoice in sentences
        rows = [seller] + a + [words, f"Invoice {no}", f"To {buyer}", f"For {names[0].lower()} we charge {cur} {g.plain(n[0])}, for {names[1].lower()} {cur} {g.plain(n[1])}",
                f"and for {names[2].lower()} {cur} {g.plain(n[2])}.", f"The total amount due is {cur} {plain}.", "Please pay within two weeks."]
        return rows, e("invoice")
    if layout == 2:     # total first, as a summary box
        rows = ["Invoice summary", f"Amount due: {cur} {plain}", f"Invoice date: {iso}", f"Invoice no: {no}", "Sold by", seller] + a + ["Sold to", buyer] + [f"{x} .... {g.plain(v)}" for x, v in zip(names, n)]
        return rows, e("invoice")
    if layout == 3:     # freelancer: a person
        who = g.person(r)
        rows = [f"{who}, {r.choice(('illustrator', 'translator', 'carpenter', 'photographer'))}"] + a + ["INVOICE", f"Nr {no}", words, f"Billed to {buyer}", f"{names[0]}  1  {cur} {plain}", f"Total  {cur} {plain}", "Thank you!"]
        return rows, dict(e("invoice"), party=who)
    if layout == 4:     # a credit note for one article
        rows = [seller] + a + [f"CREDIT NOTE No {no}", f"Date of credit: {words}", f"Customer: {buyer}", f"We credit you for {names[0].lower()}, returned on {(d - datetime.timedelta(days=6)).isoformat()}:", f"{cur} {plain}", f"Total credit: {cur} {plain}"]
        return rows, e("credit_note")
    if layout == 5:     # a credit memo in two columns
        rows = ["CREDIT MEMO", f"{seller}  Memo no. {no}", f"{a[0]}  Memo date {iso}", f"Credit to: {buyer}  Original invoice {g.digits(r, 5)}"] + [f"{x}  1  {g.plain(v)}" for x, v in zip(names, n)] + [f"Credit total ({cur})  {plain}"]
        return rows, e("credit_note")
    if layout in (6, 7):    # a shop's till roll
        shop = seller.upper()
        cash = (total // 5000 + 1) * 5000
        rows = [shop] + [x.upper() for x in a] + [f"TILL 03  OP {g.digits(r, 3)}  {g.clock(r)}"] + [f"{x.upper()} @ {g.plain(v)}" for x, v in zip(names, n)]
        rows += ["-" * 30, f"3 ITEMS  {cur} {plain}" if layout == 6 else f"** TOTAL ** {cur} {plain}", f"TENDERED CASH {g.plain(cash)}", f"YOUR CHANGE {g.plain(cash - total)}", f"SALE DATE {iso}"]
        return rows, dict(e("receipt"), party=shop)
    if layout == 8:
        rows = ["Ticket for the museum", f"Opening hours: 9 to 17", f"Valid on {words}", "Please show this page at the door.", f"Visitor: {g.person(r)}"]
        return rows, nothing
    if layout == 9:
        rows = [f"Minutes of the meeting of {words}", f"Present: {g.person(r)}, {g.person(r)}, {g.person(r)}"] + [f"{i}. {g.sentence(r)}" for i in range(1, 6)] + [f"The next meeting is on {iso}."]
        return rows, nothing
    if layout == 10:
        rows = [f"GOODS RECEIVED {no}", f"Warehouse {g.digits(r, 2)}, {iso}", f"Carrier: {seller}"] + [f"{x}: {r.randint(1, 40)} boxes, {r.randint(2, 90)} kg" for x in names] + [f"Checked by {g.person(r)}"]
        return rows, nothing
    rows = [f"Dear {g.person(r)},", f"thank you for your interest in the position at {seller}. We would like to invite you", f"to an interview on {words}. Your travel costs, up to {cur} {g.plain(amount(r))}, will be paid.", "Yours", g.person(r)]
    return rows, nothing


def write(folder, documents):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "labels.jsonl"), "w", encoding="utf-8") as f:
        for name, text, expected in documents:
            with open(os.path.join(folder, name), "w", encoding="utf-8") as h:
                h.write(text + "\n")
            f.write(json.dumps({"file": name, "expected": expected}, ensure_ascii=False) + "\n")
    print(folder, len(documents))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--out", required=True)
    p.add_argument("--receipts", help="receipts.jsonl")
    p.add_argument("--made", type=int, default=0, help="how many made-up documents, of each of the two sorts")
    p.add_argument("--first", type=int, default=4_000_000_000)
    a = p.parse_args()
    if a.receipts:
        write(os.path.join(a.out, "real"), [(f"{r['id']}.txt", r["text"], {"document_type": "receipt", "currency": "MYR", **r["expected"]}) for r in g.load_receipts(a.receipts, "held")])
    if a.made:
        kinds, source = ("receipt", "world_receipt", "invoice", "credit_note", "other"), g.Source([])
        made = [source.document(a.first + i, kinds[i % len(kinds)]) for i in range(a.made)]
        write(os.path.join(a.out, "made"), [(f"{i:04d}.txt", d["text"], d["expected"]) for i, d in enumerate(made)])
        documents = []
        for i in range(a.made):
            rows, expected = unseen(random.Random(a.first + i))
            documents.append((f"{i:04d}.txt", "\n".join(rows), expected))
        write(os.path.join(a.out, "unseen"), documents)


if __name__ == "__main__":
    main()
