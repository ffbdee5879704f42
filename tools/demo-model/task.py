"""What the model is asked and what it must answer: the prompt around a document, the caller's actions, the answer.

    <s>Company: NAME\\nActions:\\nname: description\\n...<|document|>...<|answer|>{"document_type":...}</s>

`pose(r, facts)` turns what is in a document (compose.FACTS) into a question and its answer: whose company is asked,
which actions there are, and what is right then. See models/demo/README.md for what counts as right.
"""
import json

import generate as g
import words as W

LABELS = ["receipt", "invoice", "credit_note", "purchase_order", "bank_statement", "payslip", "contract", "quote", "delivery_note", "reminder", "other"]
DIRECTIONS = ["incoming", "outgoing", "neutral"]
ROLES = ["customer", "vendor", "employee", "other", None]
FIELDS = ("document_type", "direction", "party", "role", "total", "currency", "date", "number", "reason", "action")


def prompt_prefix(company, actions):
    """The text before the document. actions: [(name, description or None)]."""
    return f"Company: {company or ''}\nActions:\n" + "\n".join(f"{n}: {d}" if d else n for n, d in actions)


def answer_parts(e, number_known=True):
    """The answer as (text, class) parts: 0 what the program writes, 1 what the model chooses, 2 the reason, 3 unknown."""
    j = lambda v: json.dumps(v, ensure_ascii=False)
    relevant = e["document_type"] != "other"
    return [('{"document_type":"', 0), (e["document_type"] + '"', 1), (',"business_relevant":', 0), (j(relevant), 1), (',"transaction_direction":"', 0), (e["direction"] + '"', 1),
            (',"primary_party":{"name":', 0), (j(e["party"]), 1), (',"role":', 0), (j(e["role"]), 1), ('},"extracted_summary":{"total_amount":', 0), ((e["total"] or "null") + ",", 1),
            ('"currency":', 0), (j(e["currency"]), 1), (',"document_date":', 0), (j(e["date"]), 1), (',"document_number":', 0), (j(e["number"]), 1 if number_known else 3), ('},"reasoning":', 0),
            (j(e["reason"]), 2), (',"selected_action":', 0), (j(e["action"]), 1), ("}", 0)]


REASONS = {
    ("receipt", "outgoing"): "something we bought, paid at once", ("receipt", "incoming"): "something we sold, paid at once", ("invoice", "outgoing"): "a vendor asks us to pay", ("invoice", "incoming"): "we ask a customer to pay",
    ("credit_note", "incoming"): "a vendor gives money back to us", ("credit_note", "outgoing"): "we give money back to a customer", ("bank_statement", "neutral"): "a bank lists movements and the balance", ("payslip", "outgoing"): "pay and deductions of an employee",
    ("contract", "neutral"): "two parties agree on terms", ("quote", "neutral"): "an offer, nothing is owed yet", ("delivery_note", "neutral"): "goods are delivered, nothing is asked for", ("reminder", "outgoing"): "a vendor reminds us of an unpaid invoice",
    ("reminder", "incoming"): "we remind a customer of an unpaid invoice", ("other", "neutral"): "nothing to book",
}


def reason(e, facts):
    tail = REASONS.get((e["document_type"], e["direction"]))
    if e["document_type"] == "purchase_order":
        tail = "a customer orders from us" if e["role"] == "customer" else "we order from a vendor"
    title = facts.get("title")
    return (f'Titled "{title}": ' if title else "No title: ") + tail + "."


# ---------------------------------------------------------------- actions

# concept: (situations it covers, nouns, what the description says of it); the last noun of each serves evaluation only
CONCEPTS = {
    "vendor_invoice": ({"vendor_invoice"}, "vendor bill|supplier invoice|purchase invoice|bill|incoming invoice|accounts payable invoice|payable|creditor invoice", "an invoice from a vendor that we have to pay|a bill we received from a supplier|money we owe to a supplier|amounts a vendor charges us|when a supplier sends an invoice to us"),
    "customer_invoice": ({"customer_invoice"}, "customer invoice|sales invoice|outgoing invoice|receivable|accounts receivable invoice|invoice to customer|debtor invoice", "an invoice we sent to a customer|what a customer has to pay us|our own invoice to a client|amounts we charge a customer"),
    "expense": ({"expense"}, "expense|expense receipt|cash purchase|receipt|petty cash expense|out of pocket expense|paid purchase|cash expense", "a purchase that is already paid, with a receipt|a receipt from a shop or restaurant|small costs paid in cash or by card|till receipts"),
    "cash_sale": ({"cash_sale"}, "cash sale|sales receipt|takings|till sale|paid sale", "a sale that the customer paid at once|a receipt we gave to a customer|income from the till"),
    "vendor_credit": ({"vendor_credit"}, "vendor credit|supplier credit note|purchase credit|credit from supplier|purchase return|supplier refund", "a credit note from a supplier|money a vendor gives back to us|returns to a supplier that were credited"),
    "customer_credit": ({"customer_credit"}, "customer credit|sales credit note|customer refund|credit to customer|sales return|client credit", "a credit note we gave to a customer|money we give back to a client|returns by customers"),
    "bank": ({"bank"}, "bank statement|bank transactions|account movements|bank reconciliation|bank feed|account statement", "the movements of a bank account|a statement from the bank|match the account's transactions"),
    "sales_order": ({"sales_order"}, "sales order|customer order|order received|incoming order|order from customer", "an order that a customer sent us|a customer wants goods or services from us|a purchase order we received"),
    "purchase_order": ({"purchase_order"}, "purchase order|order to vendor|outgoing order|procurement order|supplier order", "an order that we placed with a supplier|goods or services we order|our own purchase order"),
    "payroll": ({"payroll"}, "payroll|payroll entry|salary|wages|salary payment|payslip|staff costs", "wages and salaries of employees|a payslip of an employee|net pay, taxes and deductions"),
    "contract": ({"contract"}, "contract|agreement|contract document|legal agreement|signed agreement", "an agreement between two parties|a contract to keep on file|leases, service and employment contracts"),
    "quote": ({"quote"}, "quotation|quote|estimate|offer|price offer", "an offer with prices, not yet an order|a cost estimate|a proposal that may become an order"),
    "delivery": ({"delivery"}, "delivery note|goods receipt|delivery|shipment|packing slip", "goods that were delivered|what came with a shipment|a list of delivered goods without prices"),
    "reminder": ({"reminder"}, "payment reminder|reminder|overdue notice|dunning letter|late notice", "a reminder of an unpaid invoice|an invoice is overdue|somebody asks for a late payment"),
    "other": ({"other"}, "ignore|no action|skip document|forward message|archive message|discard|not relevant|set aside", "not a business document|letters, mails and other papers with nothing to book|nothing to do for the books|anything that does not belong into the books"),
    "purchase": ({"vendor_invoice", "expense"}, "purchase|cost|spending|costs", "anything that we bought|all costs, paid or not"),
    "sale": ({"customer_invoice", "cash_sale"}, "sale|revenue|income|turnover", "anything that we sold|all income"),
    "order": ({"sales_order", "purchase_order"}, "order|orders|order document|any order", "orders, ours or a customer's|any order"),
    "credit": ({"vendor_credit", "customer_credit"}, "credit note|credit|credit memo|credits", "any credit note|credits given or received"),
    "invoice": ({"vendor_invoice", "customer_invoice"}, "invoice|invoices|invoice document|any invoice", "any invoice, ours or a supplier's|invoices of all kinds"),
    "paper": ({"contract", "quote", "delivery", "purchase_order", "sales_order"}, "document|file document|paper|business document", "business papers that move no money|documents to keep on file"),
}
NEVER = ("create customer|update vendor address|transfer between accounts|depreciate asset|close period|record mileage|adjust inventory|file tax return|open bank account|merge contacts|create product|write off debt|revalue currency|"
         "send newsletter|assign project|book travel|renew licence|count stock|approve budget|invite user").split("|")
VERBS = {"vendor_invoice": "record create enter post book capture add", "customer_invoice": "record create issue post book add", "expense": "record create post book add capture claim", "cash_sale": "record post book add", "vendor_credit": "record post apply add book", "customer_credit": "record issue post book create",
         "bank": "reconcile import record process match", "sales_order": "create record enter confirm accept", "purchase_order": "create file track record log", "payroll": "record post book process", "contract": "file archive store register keep", "quote": "file record store log", "delivery": "record file log check",
         "reminder": "handle file process forward", "paper": "file archive store"}
FOREIGN = {
    "DE": dict(vendor_invoice="Eingangsrechnung buchen|Lieferantenrechnung erfassen|Kreditorenrechnung", customer_invoice="Ausgangsrechnung buchen|Kundenrechnung erfassen", expense="Kassenbeleg buchen|Auslage erfassen|Barausgabe", cash_sale="Barverkauf buchen", vendor_credit="Lieferantengutschrift buchen", customer_credit="Kundengutschrift erfassen",
               bank="Kontoauszug abstimmen|Bankumsätze importieren", sales_order="Kundenauftrag anlegen", purchase_order="Bestellung ablegen", payroll="Lohn buchen|Gehalt erfassen", contract="Vertrag ablegen", quote="Angebot ablegen", delivery="Lieferschein erfassen", reminder="Mahnung bearbeiten", other="Ignorieren|Keine Buchung|Weiterleiten"),
    "FR": dict(vendor_invoice="Saisir facture fournisseur", customer_invoice="Saisir facture client", expense="Note de frais", cash_sale="Vente au comptant", vendor_credit="Avoir fournisseur", customer_credit="Avoir client", bank="Rapprocher relevé bancaire", sales_order="Commande client", purchase_order="Commande fournisseur", payroll="Saisir la paie", contract="Classer contrat",
               quote="Classer devis", delivery="Bon de livraison", reminder="Traiter relance", other="Ignorer"),
    "ES": dict(vendor_invoice="Registrar factura de proveedor", customer_invoice="Registrar factura de cliente", expense="Registrar gasto", cash_sale="Venta al contado", vendor_credit="Abono de proveedor", customer_credit="Abono a cliente", bank="Conciliar extracto", sales_order="Pedido de cliente", purchase_order="Pedido a proveedor", payroll="Registrar nómina",
               contract="Archivar contrato", quote="Archivar presupuesto", delivery="Albarán recibido", reminder="Tratar recordatorio", other="Ignorar"),
}


DEFAULT = {     # prompts/classify-context.json: what is asked where the caller names no actions; by situation
    "vendor_invoice": ("record_vendor_bill", "an invoice that we received and have to pay"), "expense": ("record_expense", "a receipt for something that is already paid"), "customer_invoice": ("create_sales_invoice", "an invoice of ours to a customer"),
    "vendor_credit": ("record_vendor_credit", "a credit note that a vendor gave us"), "customer_credit": ("issue_customer_credit", "a credit note that we gave a customer"), "sales_order": ("create_sales_order", "a purchase order that a customer sent us"),
    "purchase_order": ("create_purchase_order", "a purchase order of ours to a vendor"), "delivery": ("record_goods_receipt", "a delivery note"), "quote": ("file_quote", "an offer, with nothing to book yet"),
    "reminder": ("pay_reminder", "a reminder of an invoice that is overdue"), "bank": ("reconcile_bank_statement", "a statement of a bank account, to be matched with the books"), "payroll": ("record_payroll", "a payslip of an employee"),
    "contract": ("file_contract", "an agreement to be kept, with nothing to book now"), "other": ("ignore", "nothing for the books: letters, advertising, articles"),
}


def situation(e):
    kind, role, direction = e["document_type"], e["role"], e["direction"]
    if kind == "invoice":
        return "vendor_invoice" if direction == "outgoing" else "customer_invoice"
    if kind == "receipt":
        return "expense" if direction == "outgoing" else "cash_sale"
    if kind == "credit_note":
        return "vendor_credit" if direction == "incoming" else "customer_credit"
    if kind == "purchase_order":
        return "sales_order" if role == "customer" else "purchase_order"
    return {"bank_statement": "bank", "payslip": "payroll", "delivery_note": "delivery"}.get(kind, kind)


def styled(name, style, r):
    parts = name.split(" ")
    if style == "snake":
        return "_".join(parts).lower()
    if style == "kebab":
        return "-".join(parts).lower()
    if style == "camel":
        return parts[0].lower() + "".join(p.capitalize() for p in parts[1:])
    if style == "pascal":
        return "".join(p.capitalize() for p in parts)
    if style == "upper":
        return "_".join(parts).upper()
    if style == "sentence":
        return name[0].upper() + name[1:]
    if style == "title":
        return name.title()
    return name


def action_list(r, e, held=False):
    """A caller's list of actions and which of them is right for the answer e (None: none fits)."""
    want = situation(e)
    keys = list(CONCEPTS)
    r.shuffle(keys)
    n = r.choice((1, 2, 3, 4, 5, 6, 8, 10, 12, 14))
    if g.chance(r, .82):
        first = [k for k in keys if want in CONCEPTS[k][0]]
        first.sort(key=lambda k: len(CONCEPTS[k][0]) if g.chance(r, .8) else 0)
        keys.remove(first[0])
        keys.insert(0, first[0])
    chosen = []
    for k in keys:
        if len(chosen) >= n:
            break
        cover = CONCEPTS[k][0]
        if any(len(CONCEPTS[c][0]) == len(cover) and CONCEPTS[c][0] & cover for c in chosen) or (len(cover) > 1 and any(len(CONCEPTS[c][0]) > 1 and CONCEPTS[c][0] & cover for c in chosen)):
            continue
        chosen.append(k)
    style = r.choice(("snake", "snake", "snake", "kebab", "camel", "pascal", "upper", "sentence", "title", "code"))
    lang = r.choice(("DE", "FR", "ES")) if g.chance(r, .12) else None
    said = r.choice((0, 0, .5, 1, 1))
    entries, right, best = [], None, 99
    codes = r.sample(range(1, 99), 40)
    for k in chosen:
        cover, nouns, about = CONCEPTS[k]
        nouns = nouns.split("|")
        noun = r.choice(nouns[-2:]) if held and g.chance(r, .6) else r.choice(nouns[:-1])
        verb = r.choice(VERBS.get(k, "record create post book add").split())
        if lang and k in FOREIGN[lang]:
            name = r.choice(FOREIGN[lang][k].split("|"))
        elif k == "other" or g.chance(r, .18):
            name = noun
        else:
            name = f"{verb} {noun}"
        what = r.choice(about.split("|"))
        text = r.choice((what, what, what[0].upper() + what[1:], f"{verb.capitalize()} {what}", f"Use for {what}", f"{noun.capitalize()}: {what}")) + r.choice(("", "", ".")) if g.chance(r, said) or style == "code" else None
        name = f"{r.choice(('A', 'ACT', 'x', 'T'))}{codes.pop():02d}" if style == "code" else styled(name, style if not (lang and style in ("camel", "pascal")) else "sentence", r)
        if name in (x[0] for x in entries):
            continue
        entries.append((name, text))
        if want in cover and len(cover) < best:
            right, best = name, len(cover)
    for name in r.sample(NEVER, r.choice((0, 0, 1, 2, 3))):
        name = f"{r.choice(('B', 'Z'))}{codes.pop():02d}" if style == "code" else styled(name, style, r)
        if len(entries) < 16 and name not in (x[0] for x in entries):
            entries.append((name, f"{name} in the system" if style == "code" else None))
    if style == "code":
        entries = [(n, t or n) for n, t in entries]
    r.shuffle(entries)
    return entries, right


LEGAL = {x.lower() for c in W.COUNTRIES.values() for x in c["legal"].split("|")} | {"sdn", "bhd", "sdn.", "bhd.", "s.a.", "co.", "kg", "&"}


def called(r, name):
    """The own company's name as a caller may write it."""
    x = r.random()
    if x < .1:
        return name.upper()
    if x < .26:
        parts = name.split(" ")
        while len(parts) > 1 and parts[-1].lower().strip(",") in LEGAL:
            parts.pop()
        return " ".join(parts)
    return name.title() if x < .29 else name


def pose(r, facts, held=False, plain=False):
    """Question and answer about a document with these facts: (company or None, actions, expected). plain: asked as
    without --context, no company and the default actions."""
    kind, sub = facts["type"], facts["sub"]
    issuer, recipient = facts["issuer"], facts["recipient"]
    own = None      # which side is ours
    company = None
    if not plain and g.chance(r, .5):
        x = r.random()
        if kind == "payslip":
            own = "issuer" if x < .85 else None
        elif kind == "bank_statement":
            own = "recipient" if x < .85 else None
        elif kind == "other":
            own = None
        elif kind == "receipt":
            own = "issuer" if x < .3 and facts.get("issuer_known", True) else "recipient" if x < .6 else None
        else:
            own = "issuer" if x < .4 else "recipient" if x < .88 else None
        name = {"issuer": issuer, "recipient": recipient, None: None}[own]
        if own and sub == "contract work":
            own, name = "recipient", recipient
        if own and name is None:
            own = None
        company = called(r, name if name else g.firm(r, r.choice(g.WORLD)))
    e = dict(document_type=kind, direction="neutral", party=issuer, role="vendor", date=facts["date"], currency=facts["currency"], total=facts["total"], number=facts["number"])
    ours = own == "issuer"
    if kind in ("receipt", "invoice", "reminder"):
        e["direction"] = "incoming" if ours else "outgoing"
    elif kind == "credit_note":
        e["direction"] = "outgoing" if ours else "incoming"
    if kind in ("receipt", "invoice", "reminder", "credit_note", "quote", "delivery_note") and ours:
        e["party"], e["role"] = recipient, "customer"
    elif kind == "purchase_order":
        e["party"], e["role"] = (recipient, "vendor") if ours else (issuer, "customer")
    elif kind == "bank_statement":
        e["role"] = "other"
    elif kind == "payslip":
        e["direction"], e["party"], e["role"] = "outgoing", recipient, "employee"
    elif kind == "contract":
        if sub == "contract work":
            e["party"], e["role"] = issuer, "employee"
        elif sub == "contract nda":
            first = facts["first"]
            e["party"], e["role"] = (issuer if own == "recipient" else recipient if own == "issuer" else first), "other"
        elif ours:
            e["party"], e["role"] = recipient, "customer"
    elif kind == "other":
        e.update(party=None, role=None, date=None, currency=None, total=None, number=None)
    x = r.random()
    if x < .3 or plain:
        actions, e["action"] = list(DEFAULT.values()), DEFAULT.get(situation(e), (None,))[0]
    elif x < .62:
        actions, e["action"] = action_list(r, e, held)
    else:
        actions, e["action"] = [], None
    e["reason"] = reason(e, facts)
    return company, actions, e
