#!/usr/bin/env python3
"""Writes folders of labelled documents for `evaluate`.

    make_eval.py --out DIR --receipts receipts.jsonl    DIR/real: the real receipts that training never saw
    make_eval.py --out DIR --made 1000                  DIR/unseen: documents of structures that training does not see (generate.py, held)
    make_eval.py --out DIR --hand 150                   DIR/hand: documents of layouts written by hand, below and used nowhere else

labels.jsonl has a line a document: {"file", "context" (null: the program's own; else {"company", "actions"}), "expected"}. Names, dates and
amounts are drawn anew; --first chooses which.
"""
import argparse
import datetime
import json
import os
import random

import generate as g
import task

KINDS = ("invoice", "receipt", "credit_note", "purchase_order", "bank_statement", "payslip", "contract", "quotation", "delivery", "reminder", "other")
EXPECTED = ("document_type", "direction", "party", "role", "date", "currency", "total", "number", "action")


def hand(r):
    """(rows, facts) of a layout that is nowhere else."""
    country = r.choice(("US", "GB", "DE", "SG", "NL", "AU", "MY"))
    d = g.some_date(r)
    seller, buyer, n = g.firm(r, country), g.firm(r, country), [r.randint(500, 90000) for _ in range(3)]
    cur = g.W.COUNTRIES[country]["cur"]
    total, no = sum(n), g.digits(r, 6)
    plain = g.plain(total)
    iso, words = d.isoformat(), f"{d.day} {g.MONTHS[d.month - 1].title()} {d.year}"
    a, b = g.address(r, country), g.address(r, country)
    names = [g.goods(r).capitalize() for _ in range(3)]
    who = g.person(r)

    def facts(kind, **more):
        return {**g.compose.FACTS, "type": kind, "sub": kind, "issuer": seller, "recipient": buyer, "date": iso, "currency": cur, "total": plain, "number": no, **more}
    nothing = dict(g.compose.FACTS, type="other", sub="other")
    layout = r.randrange(24)
    if layout == 0:     # a table with lines drawn in characters
        return [f"INVOICE {no}", "=" * 40, f"Supplier ...... {seller}"] + a + [f"Client ........ {buyer}", f"Issued ........ {iso}", "-" * 40] + [f"| {x} | {g.plain(v)} |" for x, v in zip(names, n)] + ["-" * 40, f"| GRAND TOTAL {cur} | {plain} |"], facts("invoice")
    if layout == 1:     # an invoice in sentences
        return [seller] + a + [words, f"Invoice {no}", f"To {buyer}", f"For {names[0].lower()} we charge {cur} {g.plain(n[0])}, for {names[1].lower()} {cur} {g.plain(n[1])}", f"and for {names[2].lower()} {cur} {g.plain(n[2])}.",
                f"The total amount due is {cur} {plain}.", "Please pay within two weeks."], facts("invoice")
    if layout == 2:     # total first, as a summary box
        return ["Invoice summary", f"Amount due: {cur} {plain}", f"Invoice date: {iso}", f"Invoice no: {no}", "Sold by", seller] + a + ["Sold to", buyer] + [f"{x} .... {g.plain(v)}" for x, v in zip(names, n)], facts("invoice")
    if layout == 3:     # a person's invoice
        return [f"{who}, {r.choice(('illustrator', 'translator', 'carpenter', 'photographer'))}"] + a + ["INVOICE", f"Nr {no}", words, f"Billed to {buyer}", f"{names[0]}  1  {cur} {plain}", f"Total  {cur} {plain}", "Thank you!"], facts("invoice", issuer=who)
    if layout == 4:     # a credit note for one article
        return [seller] + a + [f"CREDIT NOTE No {no}", f"Date of credit: {words}", f"Customer: {buyer}", f"We credit you for {names[0].lower()}, returned on {(d - datetime.timedelta(days=6)).isoformat()}:", f"{cur} {plain}", f"Total credit: {cur} {plain}"], facts("credit_note")
    if layout == 5:     # a credit memo in two columns
        return ["CREDIT MEMO", f"{seller}  Memo no. {no}", f"{a[0]}  Memo date {iso}", f"Credit to: {buyer}  Original invoice {g.digits(r, 5)}"] + [f"{x}  1  {g.plain(v)}" for x, v in zip(names, n)] + [f"Credit total ({cur})  {plain}"], facts("credit_note")
    if layout in (6, 7):    # a shop's till roll
        shop, cash = seller.upper(), (total // 5000 + 1) * 5000
        return [shop] + [x.upper() for x in a] + [f"TILL 03  OP {g.digits(r, 3)}  {g.clock(r)}"] + [f"{x.upper()} @ {g.plain(v)}" for x, v in zip(names, n)] + ["-" * 30, f"3 ITEMS  {cur} {plain}" if layout == 6 else f"** TOTAL ** {cur} {plain}", f"TENDERED CASH {g.plain(cash)}",
                f"YOUR CHANGE {g.plain(cash - total)}", f"SALE DATE {iso}"], facts("receipt", issuer=shop, recipient=None, number=None)
    if layout == 8:
        return ["Ticket for the museum", "Opening hours: 9 to 17", f"Valid on {words}", "Please show this page at the door.", f"Visitor: {who}"], nothing
    if layout == 9:
        return [f"Minutes of the meeting of {words}", f"Present: {who}, {g.person(r)}, {g.person(r)}"] + [f"{i}. {g.sentence(r)}" for i in range(1, 6)] + [f"The next meeting is on {iso}."], nothing
    if layout == 10:
        return [f"DELIVERY SLIP {no}", f"Warehouse {g.digits(r, 2)}, {iso}", f"Sent by: {seller}", f"For: {buyer}"] + [f"{x}: {r.randint(1, 40)} boxes" for x in names] + [f"Checked by {who}"], facts("delivery_note", total=None, currency=None)
    if layout == 11:
        return [f"Dear {who},", f"thank you for your interest in the position at {seller}. We would like to invite you", f"to an interview on {words}. Your travel costs, up to {cur} {g.plain(n[0])}, will be paid.", "Yours", g.person(r)], nothing
    if layout == 12:    # an order as a letter
        return [seller] + a + ["", words, "", buyer] + b + [f"Purchase order {no}", "Dear Sir or Madam,", "we order from you as follows:"] + [f"- {r.randint(1, 9)} {x}, together {cur} {g.plain(v)}" for x, v in zip(names, n)] + [f"The order is worth {cur} {plain} in all. Please confirm it.", "Yours faithfully,", who], facts("purchase_order")
    if layout == 13:    # an order as a form with numbered boxes
        return [f"1 PURCHASE ORDER NO.  2 DATE", f"{no}  {iso}", "3 BUYER", seller] + a + ["4 VENDOR", buyer] + b + ["5 ITEM  6 AMOUNT"] + [f"{x}  {g.plain(v)}" for x, v in zip(names, n)] + [f"7 TOTAL {cur}  {plain}", f"8 SIGNED {who}"], facts("purchase_order")
    if layout == 14:    # a bank statement as a list
        bank = g.compose.bank_name(r, country)
        move, start = r.randint(-30000, 30000), total - r.randint(1000, 30000)
        return [bank, f"Account statement for {buyer}", f"Statement {no} of {words}", f"Brought forward {g.plain(start)}"] + [f"{(d - datetime.timedelta(days=k)).isoformat()} {x} {g.plain(v)}" for k, x, v in zip((9, 5, 2), ("card payment", "salary", "transfer to savings"), (move, n[0], n[1]))] + \
               [f"Balance on {words}: {cur} {plain}"], facts("bank_statement", issuer=bank)
    if layout == 15:    # a bank statement with a summary first
        bank = g.compose.bank_name(r, country)
        return [f"{bank} - Statement", f"Customer: {buyer}", f"Date: {iso}", f"You had {cur} {g.plain(n[0])}", f"Money in {cur} {g.plain(n[1])}", f"Money out {cur} {g.plain(n[2])}", f"You now have {cur} {plain}", "Transactions", "Supermarket 12.50", "Rent 700.00"], facts("bank_statement", issuer=bank, number=None)
    if layout == 16:    # a payslip in three columns
        gross = total + n[0]
        return [f"{seller}  PAYSLIP  {words}", f"{who}  Staff no. {g.digits(r, 4)}  Tax code {g.digits(r, 4)}L", "PAY  DEDUCTIONS  TOTALS", f"Salary {g.plain(gross)}  Tax {g.plain(n[0] // 2)}  Gross {g.plain(gross)}", f"Pension {g.plain(n[0] - n[0] // 2)}  Deductions {g.plain(n[0])}", f"NET PAY {cur} {plain}"], facts("payslip", recipient=who, number=None)
    if layout == 17:    # a payslip in words
        return [f"Wages of {who}", f"paid by {seller} on {words}", f"{r.randint(20, 160)} hours, gross {cur} {g.plain(total + 5000)}", f"less tax {cur} {g.plain(5000)}", f"paid out: {cur} {plain}", "Signature of the employee: ________"], facts("payslip", recipient=who, number=None)
    if layout == 18:    # a contract as a table
        return [f"Contract no. {no}", f"Date | {iso}", f"Customer | {buyer}", f"Contractor | {seller}", f"Subject | {names[0]}", f"Price | {cur} {plain}", f"Term | {r.randint(3, 36)} months", f"Notice | {r.randint(2, 12)} weeks", "Signed: ________  ________"], facts("contract", sub="contract service", first=buyer)
    if layout == 19:    # a lease in sentences
        return ["LEASE", f"{seller}, the landlord, lets to {buyer}, the tenant, the rooms at {', '.join(b)}.", f"The rent is {cur} {plain} a month.", f"A deposit of {cur} {g.plain(n[0])} is due at the start.", f"The lease begins on {(d + datetime.timedelta(days=20)).isoformat()}.", f"Agreed on {words}", "Landlord: ______  Tenant: ______"], facts("contract", sub="contract rent", number=None, first=seller)
    if layout == 20:    # a quotation as a mail
        return [f"From: {seller}", f"To: {buyer}", f"Date: {words}", f"Subject: Our quotation {no}", "Dear customer,", "thank you for your enquiry. We offer:"] + [f"* {x} for {cur} {g.plain(v)}" for x, v in zip(names, n)] + [f"Total of this offer: {cur} {plain}, valid for 30 days."], facts("quote")
    if layout == 21:    # a reminder
        return [seller] + a + [words, buyer] + b + [f"2nd reminder, no. {no}", f"Invoice {g.digits(r, 5)} of {(d - datetime.timedelta(days=50)).isoformat()}: {cur} {g.plain(total - 1500)}", f"Reminder charge: {cur} 15.00", f"Please pay {cur} {plain} within 7 days."], facts("reminder")
    if layout == 22:    # a bill for electricity
        return [f"{seller} - your energy", f"Customer: {buyer}", f"Bill number {no}  Bill date {iso}", f"Meter 4711  old {g.digits(r, 5)}  new {g.digits(r, 5)}", f"Last bill {g.plain(n[0])}  paid, thank you", f"Electricity used {g.plain(n[1])}", f"Standing charge {g.plain(total - n[1])}", f"Amount to pay {cur} {plain}", f"by direct debit on {(d + datetime.timedelta(days=14)).isoformat()}"], facts("invoice")
    return [seller, words, f"Paid receipt no. {no}", f"Received from {buyer} the sum of {cur} {plain}", f"for {names[0].lower()} and {names[1].lower()}", f"Signature: {who}"], facts("receipt")


def document(name, d):
    context = None
    if d["company"] or [tuple(x) for x in d["actions"]] != list(task.DEFAULT.values()):
        context = {"company": d["company"] or "", "actions": [{"name": n, "description": t} if t else n for n, t in d["actions"]]}
    return name, d["text"], context, {"transaction_direction" if k == "direction" else k: d["expected"][k] for k in EXPECTED}


def write(folder, documents):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "labels.jsonl"), "w", encoding="utf-8") as f:
        for name, text, context, expected in documents:
            with open(os.path.join(folder, name), "w", encoding="utf-8") as h:
                h.write(text + "\n")
            f.write(json.dumps({"file": name, "context": context, "expected": expected}, ensure_ascii=False) + "\n")
    print(folder, len(documents))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--out", required=True)
    p.add_argument("--receipts", help="receipts.jsonl")
    p.add_argument("--part", default="held", help="of the receipts (held)")
    p.add_argument("--made", type=int, default=0, help="how many documents of held structures")
    p.add_argument("--hand", type=int, default=0, help="how many of the layouts written by hand")
    p.add_argument("--first", type=int, default=4_000_000_000)
    p.add_argument("--asked", type=float, default=0.3, help="share of made-up documents that are asked about with a company and actions of their own (0.3)")
    a = p.parse_args()
    if a.receipts:
        write(os.path.join(a.out, "real"), [(f"{r['id']}.txt", r["text"], None, {"document_type": "receipt", "transaction_direction": "outgoing", "role": "vendor", "currency": "MYR", "action": "record_expense", **r["expected"]})
                                            for r in g.load_receipts(a.receipts, a.part)])
    if a.made:
        source = g.Source([])
        plain = lambda i: random.Random(a.first + i).random() >= a.asked
        made = (document(f"{i:04d}.txt", source.document(a.first + i, KINDS[i % len(KINDS)], True, plain(i))) for i in range(2 * a.made))
        write(os.path.join(a.out, "unseen"), [d for d in made if d[1]][:a.made])     # a document may turn out empty
    if a.hand:
        plain = lambda i: random.Random(a.first + i).random() >= a.asked
        documents = []
        for i in range(a.hand):
            r = random.Random(a.first + 7 * i)
            rows, facts = hand(r)
            company, actions, expected = task.pose(r, facts, True, plain(i))
            documents.append(document(f"{i:04d}.txt", {"text": "\n".join(rows), "company": company, "actions": actions, "expected": expected}))
        write(os.path.join(a.out, "hand"), documents)


if __name__ == "__main__":
    main()
