"""Business documents as people write them: letters, mails, short notes, forms with numbered boxes, and tables of two columns.

`written(r, t, kind)` returns (rows, facts) like compose.compose. Where compose.py sets blocks and tables, here are sentences: dates and names
without labels, amounts in running text, other dates and amounts around them.
"""
import datetime

import compose as c
import generate as g
import labels as L
import words as W

chance = g.chance

# By language and kind: how a document of this kind is named, begins, and says its total.
# {n} number, {d} date, {m} total, {o} another number, {d2} another date, {m2} another amount, {who} the other party
SAID = {
    "EN": {
        "invoice": ("Invoice|INVOICE|Bill|Our invoice|Statement of fees|Fee invoice|Account rendered", "For our work we charge you as follows:|For the following services we charge:|we charge for|We take the liberty of charging you for the following:|This is what you bought:|Services in the past month:|For goods delivered on {d2}:|as agreed on {d2}, we bill you for:|thank you for your order {o}. We charge:",
                    "The total amount due is {m}.|Amount to pay {m}|Please pay {m} by {d2}.|In all: {m}|This makes {m} together.|Please transfer {m} within 14 days.|We ask for payment of {m}.|You owe {m}.|Sum to be paid: {m}|Amount of this bill {m}|We will collect {m} on {d2}."),
        "credit_note": ("Credit note|CREDIT NOTE|Credit memo|Credit|Your credit note|Refund", "We credit you for the goods returned on {d2}:|for your invoice {o} of {d2} we credit you:|We are sorry for the mistake in invoice {o}. You get back:|Our credit for the following:|You returned on {d2}:|as you were charged too much, we give you credit for:", "Total credit: {m}|The credit comes to {m}.|You get {m} back.|We will refund {m}.|{m} will be paid back to your account.|Your credit is {m}.|In all we credit {m}."),
        "purchase_order": ("Purchase order|PURCHASE ORDER|Order|Our order|Order letter|PO", "we order from you as follows:|Please supply:|please send us the following:|We hereby order:|following your offer {o} of {d2}, we order:|we would like to order:|Please deliver by {d2}:", "The order is worth {m} in all.|Order value {m}|The total comes to {m}.|Total of this order: {m}|We expect an invoice of {m}.|For {m} altogether, delivered free."),
        "quotation": ("Quotation|Our quotation|Offer|Quote|Our offer|Estimate|Cost estimate|Proposal", "thank you for your enquiry. We offer:|We are pleased to offer you:|as you asked on {d2}, here are our prices:|We quote as follows:|The work would cost:|Our offer for your project:", "Total of this offer: {m}, valid for 30 days.|All for {m}.|The price would be {m} in all.|Offer total {m}|Our price: {m}|Estimated cost {m}|This offer of {m} is open until {d2}."),
        "reminder": ("Reminder|2nd reminder|First reminder|Payment reminder|Overdue|Final reminder|REMINDER|Account overdue", "our invoice {o} of {d2} over {m2} is not paid yet.|Invoice {o} of {d2}: {m2}|You still owe us for invoice {o} of {d2}.|perhaps you forgot our invoice {o}, due on {d2}.|In spite of our letter of {d2} we have no payment for invoice {o}.", "Please pay {m} within 7 days.|With our charges you now owe {m}.|The amount of {m} is overdue.|Open amount, charges included: {m}|We expect {m} at once.|To be paid now: {m}"),
        "delivery": ("Delivery note|DELIVERY NOTE|Delivery slip|Delivery|Goods delivered|Packing slip|DELIVERY SLIP|Dispatch note", "we delivered today:|With this parcel you receive:|The following goods were delivered in good order:|Contents:|your order {o} of {d2} is on its way:|Delivered on behalf of order {o}:", "Goods received: ________|Checked by {p}|Please count the goods.|{b} boxes, {k} kg|Received in good condition|Driver: {p}"),
        "receipt": ("Receipt|Paid receipt|RECEIPT|Receipt of payment|Cash receipt|Paid", "Received from {who} for:|Received with thanks for|paid in cash for|You bought:|Sold today:", "Received from {who} the sum of {m}|Paid in full: {m}|{m} received with thanks|Amount received {m}|We have received {m}.|{i} ITEMS {m}|** TOTAL ** {m}|*** {m} PAID ***|Sum paid {m}"),
    },
    "DE": {
        "invoice": ("Rechnung|Unsere Rechnung|RECHNUNG|Honorarrechnung|Kostennote", "für unsere Leistungen berechnen wir Ihnen:|Wir stellen Ihnen in Rechnung:|vielen Dank für Ihren Auftrag {o}. Wir berechnen:|Für die Lieferung vom {d2} berechnen wir:", "Der Gesamtbetrag beträgt {m}.|Bitte überweisen Sie {m} bis zum {d2}.|Zusammen {m}|Zu zahlen sind {m}.|Wir bitten um Überweisung von {m}.|Wir buchen {m} am {d2} ab."),
        "credit_note": ("Gutschrift|GUTSCHRIFT|Ihre Gutschrift|Rechnungskorrektur", "zu Rechnung {o} vom {d2} schreiben wir Ihnen gut:|Für die Rücksendung vom {d2} erhalten Sie eine Gutschrift:|Sie haben uns am {d2} zurückgegeben:", "Gutschrift gesamt: {m}|Wir erstatten Ihnen {m}.|Der Betrag von {m} wird Ihnen überwiesen.|Zu Ihren Gunsten: {m}"),
        "purchase_order": ("Bestellung|Unsere Bestellung|BESTELLUNG|Auftrag", "hiermit bestellen wir:|bitte liefern Sie uns:|gemäß Ihrem Angebot {o} vom {d2} bestellen wir:|wir möchten bestellen:", "Der Auftragswert beträgt {m}.|Bestellwert {m}|Zusammen {m}, frei Haus.|Gesamtwert der Bestellung: {m}"),
        "quotation": ("Angebot|Unser Angebot|ANGEBOT|Kostenvoranschlag", "vielen Dank für Ihre Anfrage. Wir bieten Ihnen an:|auf Ihre Anfrage vom {d2} bieten wir an:|Die Arbeiten würden kosten:", "Der Preis beträgt insgesamt {m}.|Angebotssumme {m}|Alles zusammen für {m}.|Unser Preis: {m}, gültig bis {d2}"),
        "reminder": ("Mahnung|Zahlungserinnerung|2. Mahnung|Letzte Mahnung", "unsere Rechnung {o} vom {d2} über {m2} ist noch offen.|Rechnung {o} vom {d2}: {m2}|leider haben Sie unsere Rechnung {o} noch nicht bezahlt.", "Bitte zahlen Sie {m} innerhalb von 7 Tagen.|Mit Mahngebühr sind {m} zu zahlen.|Offen sind nun {m}.|Wir erwarten {m} bis {d2}."),
        "delivery": ("Lieferschein|LIEFERSCHEIN|Lieferung", "wir haben heute geliefert:|Sie erhalten mit dieser Sendung:|zu Ihrer Bestellung {o} vom {d2} liefern wir:", "Ware erhalten: ________|Geprüft: {p}|{b} Kartons, {k} kg|Fahrer: {p}"),
        "receipt": ("Quittung|QUITTUNG|Beleg|Kassenbeleg", "Von {who} erhalten für:|Bezahlt wurde:|Sie kauften:", "Betrag dankend erhalten: {m}|Bar erhalten {m}|{m} bezahlt|Von {who} {m} erhalten"),
    },
    "FR": {
        "invoice": ("Facture|FACTURE|Note d'honoraires|Notre facture", "nous vous facturons comme suit :|Pour nos prestations :|suite à votre commande {o}, nous vous facturons :", "Le montant total est de {m}.|Veuillez régler {m} avant le {d2}.|Soit en tout {m}|À payer : {m}|La somme de {m} est à régler."),
        "credit_note": ("Avoir|AVOIR|Note de crédit", "sur la facture {o} du {d2}, nous vous accordons un avoir pour :|Pour votre retour du {d2} :", "Montant de l'avoir : {m}|Nous vous remboursons {m}.|Soit un avoir de {m}"),
        "purchase_order": ("Commande|Bon de commande|Notre commande|COMMANDE", "nous vous commandons :|veuillez nous livrer :|suite à votre devis {o} du {d2}, nous commandons :", "Le total de la commande est de {m}.|Valeur de la commande : {m}|Soit {m} en tout"),
        "quotation": ("Devis|Notre offre|DEVIS|Offre", "suite à votre demande du {d2}, nous vous proposons :|Voici nos prix :", "Le prix serait de {m}.|Total de l'offre : {m}|Soit {m}, offre valable jusqu'au {d2}"),
        "reminder": ("Rappel|Relance|Deuxième rappel", "notre facture {o} du {d2} de {m2} reste impayée.|Sauf erreur, la facture {o} n'est pas réglée.", "Veuillez payer {m} sous 8 jours.|Montant dû : {m}|Nous attendons {m}."),
        "delivery": ("Bon de livraison|Livraison|BON DE LIVRAISON", "nous avons livré ce jour :|Contenu du colis :|pour votre commande {o} :", "Reçu en bon état : ______|Contrôlé par {p}|{b} colis, {k} kg"),
        "receipt": ("Reçu|REÇU|Quittance", "Reçu de {who} pour :|Vous avez acheté :", "Reçu la somme de {m}|Payé : {m}|Reçu de {who} {m}"),
    },
    "ES": {
        "invoice": ("Factura|FACTURA|Nuestra factura|Minuta", "les facturamos lo siguiente:|Por nuestros servicios:|según su pedido {o}, facturamos:", "El importe total es de {m}.|Rogamos paguen {m} antes del {d2}.|En total {m}|A pagar: {m}"),
        "credit_note": ("Abono|Nota de crédito|ABONO", "por la factura {o} de {d2} les abonamos:|Por su devolución de {d2}:", "Total del abono: {m}|Les devolvemos {m}.|Abonamos {m} en su cuenta."),
        "purchase_order": ("Pedido|Nuestro pedido|PEDIDO|Orden de compra", "les pedimos lo siguiente:|rogamos nos envíen:|según su oferta {o} de {d2}, pedimos:", "El pedido suma {m}.|Valor del pedido: {m}|En total {m}"),
        "quotation": ("Presupuesto|Oferta|Nuestra oferta|PRESUPUESTO", "según su consulta de {d2}, les ofrecemos:|Nuestros precios:", "El precio sería de {m}.|Total de la oferta: {m}|Todo por {m}, válido hasta {d2}"),
        "reminder": ("Recordatorio|Recordatorio de pago|Segundo aviso", "nuestra factura {o} de {d2} por {m2} sigue pendiente.|Aún no han pagado la factura {o}.", "Rogamos paguen {m} en 7 días.|Importe pendiente: {m}|Esperamos {m}."),
        "delivery": ("Albarán|ALBARÁN|Nota de entrega", "hemos entregado hoy:|Contenido del envío:|de su pedido {o} entregamos:", "Recibido conforme: ______|Revisado por {p}|{b} cajas, {k} kg"),
        "receipt": ("Recibo|RECIBO", "Recibido de {who} por:|Ha comprado:", "Recibí la cantidad de {m}|Pagado: {m}|Recibido de {who} {m}"),
    },
}
GREETING = {"EN": "Dear Sir or Madam,|Dear customer,|Dear {p},|Hello {p},|Hi {p},|To whom it may concern|Dear all,", "DE": "Sehr geehrte Damen und Herren,|Guten Tag {p},|Liebe Kundin, lieber Kunde,", "FR": "Madame, Monsieur,|Bonjour {p},|Cher client,", "ES": "Estimados señores:|Hola {p}:|Estimado cliente:"}
CLOSE = {"EN": "Yours faithfully,|Kind regards,|Best wishes,|Thank you.|Yours sincerely,|Regards|Thanks again!", "DE": "Mit freundlichen Grüßen|Viele Grüße|Vielen Dank.", "FR": "Cordialement,|Avec nos remerciements|Salutations distinguées", "ES": "Atentamente,|Saludos cordiales|Gracias."}
NO = ("No {n}", "No. {n}", "no. {n}", "Nr. {n}", "{n}", "#{n}", "number {n}", "# {n}", "Nr {n}", "N° {n}", "- {n}", ": {n}")


def money_text(r, m, cents, bare=False):
    """An amount in running text; the currency always there unless bare."""
    if bare:
        return m.num(cents)
    if m.column or not (m.before or m.after):
        return r.choice((f"{m.code} {m.num(cents)}", f"{m.num(cents)} {m.code}"))
    return m.full(cents)


def written(r, t, kind):
    if kind in ("bank_statement", "payslip", "contract"):
        return {"bank_statement": bank_in_words, "payslip": pay_in_words, "contract": contract_table}[kind](r, t)
    w = c.Writer(r, t, kind)
    if w.lang not in SAID:
        w.lang = "EN"
    w.words, w.titles = L.WORDS[w.lang], L.TITLES[w.lang]
    w.style = c.any_date_style(r, w.country, w.lang)
    m, d = w.money, w.date
    if kind not in SAID["EN"]:
        kind = "invoice"
    titles, intro, totals = (x.split("|") for x in SAID[w.lang][kind])
    title, number = r.choice(titles), c.document_number(r, d)
    issuer, recipient = w.firm(), w.firm()
    has_date, has_number = chance(r, .95), chance(r, .85)
    priced = kind != "delivery"
    unit = 1 if m.style[1] != "0" else 100
    items = g.lines_of(r, w.lang, m, count=r.choice((1, 1, 2, 2, 3, 3, 4, 6)))
    if kind == "reminder":
        items = items[:1]
    net = sum(q * p for _, q, p in items)
    rate = r.choice(W.COUNTRIES[w.country]["rates"]) if chance(r, .4) else 0
    total = net + round(net * rate / 100 / unit) * unit
    fee = r.choice((0, 500, 1500, 4000)) // unit * unit if kind == "reminder" else 0
    M = lambda x, bare=False: money_text(r, m, x, bare)
    other_day = lambda: w.day(d + datetime.timedelta(days=r.choice((-1, 1)) * r.randint(2, 70)))
    said = M(total + fee)
    fill = lambda s: s.format(n=number, d=w.day(d), m=said, o=c.document_number(r, d), d2=w.day(d + datetime.timedelta(days=r.randint(-60, -2))) if "by" not in s and "bis" not in s and "avant" not in s else w.day(d + datetime.timedelta(days=r.randint(5, 40))),
                              m2=M(total), who=recipient, p=g.person(r), b=r.randint(1, 9), k=r.randint(2, 90), i=len(items))
    rows = []
    how = r.choice(("letter", "letter", "letter", "mail", "note", "note", "boxes", "summary"))
    person = g.person(r)
    if kind != "purchase_order" and chance(r, .12):
        issuer = person
    name_row = issuer
    if chance(r, .12):
        name_row = f"{issuer}{r.choice((', ', ' - ', ' | ', ' · '))}" + r.choice(("illustrator", "translator", "carpenter", "your energy", "quality since 1960", "your partner", "consultant", "photographer", r.choice(W.TRADES_EN), r.choice(W.SLOGANS).capitalize()))
    address = g.address(r, w.country)
    day = w.day(d)
    date_row = r.choice((day, day, day, f"{r.choice(W.COUNTRIES[w.country]['towns']).split(',')[0]}, {day}", f"{w.w('date_of')}{w.colon}{day}", f"{title} {r.choice(('of', 'dated', 'date:', 'from'))} {day}" if w.lang == "EN" else day))
    named = r.choice(NO).format(n=number)
    title_row = r.choice((title, title.upper(), title)) + (" " + named if has_number else "")
    number_row = []
    if has_number and chance(r, .3):
        title_row, number_row = r.choice((title, title.upper())), [r.choice((f"{w.of('no')}{w.colon}{number}", named if not named.startswith((":", "-")) else number, f"{r.choice(w.words['no'])} {number}"))]
    subject = {"EN": ("Subject: ", "Re: ", "Subject: ", "Concerning: ", ""), "DE": ("Betreff: ", "Betrifft: ", ""), "FR": ("Objet : ", ""), "ES": ("Asunto: ", "")}[w.lang]
    lines = []
    for name, q, p in items:
        a = M(q * p, chance(r, .3))
        lines.append(r.choice((f"- {q} {name}, {a}", f"* {name} {r.choice(('for', 'at', '=', ':')) if w.lang == 'EN' else ':'} {a}", f"{q} x {name} {a}", f"{name} .... {a}", f"{name}  {a}", f"{name}: {a}", f"{q} {name}, {r.choice(('together', 'in all', 'zusammen', '')) if w.lang in ('EN', 'DE') else ''} {a}"))
                     if priced else r.choice((f"- {q} {name}", f"{name}: {q}", f"{q} x {name}", f"{name}, {q} boxes", f"{q} {name}")))
    total_row = fill(r.choice(totals))
    end = [x for x in (r.choice(CLOSE[w.lang].split("|")), person) if chance(r, .7)]
    hello = fill(r.choice(GREETING[w.lang].split("|")))
    body = ([hello] if how in ("letter", "mail") and chance(r, .85) else []) + [fill(r.choice(intro))]
    if chance(r, .2) and w.lang == "EN" and len(items) > 1 and priced:           # in one sentence
        body += [", ".join(f"{n.lower()} {r.choice(('at', 'for'))} {M(q * p)}" for n, q, p in items[:-1]) + f" and {items[-1][0].lower()} for {M(items[-1][1] * items[-1][2])}."]
    elif kind != "reminder":
        body += lines
    if rate and priced and kind != "reminder":
        body += [r.choice((f"{w.tax} {rate:g} %: {M(total - net)}", f"plus {rate:g} % {w.tax} {M(total - net)}" if w.lang == "EN" else f"{w.tax} {M(total - net)}"))]
    if fee and chance(r, .6):
        body += [f"{r.choice(('Reminder charge', 'Our charges', 'Late fee', 'Interest', 'Mahngebühr', 'Frais'))}: {M(fee)}"]
    body += [total_row]
    if chance(r, .3) and w.lang == "EN":
        body.append(g.sentence(r))
    sender = [name_row] + (address if chance(r, .85) else []) + (w.contacts() if chance(r, .5) else [])
    to = [recipient] + (g.address(r, w.country) if chance(r, .7) else [])
    date_rows = [date_row] if has_date else []
    labels = {"purchase_order": (("Buyer", "Ordered by", "Order from", "Customer"), ("Vendor", "Supplier", "To", "Seller"))}.get(kind, (("Sold by", "Supplier", "From", "Sent by", "Seller", "Issued by", "Provider"), ("Sold to", "Client", "Billed to", "For", "To", "Customer", "Issued to", "Prepared for")))
    if how == "mail":
        head = [f"{r.choice(('From', 'Von', 'De') if w.lang != 'EN' else ('From', 'Sender'))}: {issuer}"] + [f"{'To' if w.lang == 'EN' else 'An' if w.lang == 'DE' else 'À' if w.lang == 'FR' else 'Para'}: {recipient}"]
        head += [f"{r.choice(('Date', 'Sent')) if w.lang == 'EN' else w.w('date_of')}: {day}"] if has_date else []
        if chance(r, .3):
            r.shuffle(head)
        rows = head + [f"{r.choice(subject[:2])}{title_row}"] + number_row + body + end
    elif how == "letter":
        blocks = [sender, date_rows, to, [f"{r.choice(subject)}{title_row}"] + number_row]
        x = r.random()
        if x < .3:
            blocks = [sender, to, date_rows, blocks[3]]
        elif x < .4:
            blocks = [sender, blocks[3], date_rows, to]
        elif x < .5:
            blocks = [date_rows, sender, to, blocks[3]]
        rows = [y for b in blocks for y in b] + body + end
    elif how == "note":
        a, b = r.choice(labels[0]), r.choice(labels[1])
        gap = r.choice((": ", ":  ", " ...... ", "  ", " - "))
        blocks = [[title_row] + number_row, date_rows, [f"{a}{gap}{issuer}"] + (address if chance(r, .4) else []) if chance(r, .6) else sender, [f"{b}{gap}{recipient}"] + (to[1:] if chance(r, .3) else [])]
        if chance(r, .6):
            r.shuffle(blocks)
        rows = [y for x in blocks for y in x] + (lines if chance(r, .5) and kind != "reminder" else body[:-1]) + [total_row] + end[:1]
    elif how == "summary":
        blocks = [[f"{title} {r.choice(('summary', 'overview', 'at a glance', ''))}".strip() if w.lang == "EN" else title], [total_row] if priced else [], ([f"{title} {r.choice(('date', 'of', 'dated')) if w.lang == 'EN' else ''}{w.colon}{day}".replace("  ", " ")] if has_date else []) + ([f"{w.of('no')}{w.colon}{number}"] if has_number else [])]
        a, b = r.choice(labels[0]), r.choice(labels[1])
        rows = [y for x in blocks for y in x] + [a] + [issuer] + address + [b] + to + (lines if kind != "reminder" else body)
    else:               # a form whose boxes are numbered
        a, b = (x.upper() for x in (r.choice(labels[0]), r.choice(labels[1])))
        no, k = iter(range(r.choice((1, 1, 1, 10)), 99)), r.choice(("{} {}", "{}. {}", "({}) {}", "{}) {}", "[{}] {}"))
        box = lambda s: k.format(next(no), s)
        top = ([(box(f"{title.upper()} {r.choice(('NO.', 'NUMBER', 'NO'))}"), number)] if has_number else []) + ([(box(r.choice(("DATE", "DATE OF ISSUE", "ISSUED"))), day)] if has_date else [])
        if chance(r, .5):
            top.append((box(r.choice(("CLERK", "DUE", "CUSTOMER NO."))), r.choice((g.person(r), other_day(), g.digits(r, 5)))))
        rows = ([title] if not has_number or chance(r, .4) else []) + (["  ".join(x for x, _ in top), "  ".join(y for _, y in top)] if chance(r, .6) else [z for x in top for z in x])
        rows += [box(a)] + [issuer] + address + [box(b)] + to + [f"{box('ITEM')}  {box('AMOUNT' if priced else 'QUANTITY')}"] + [f"{n}  {m.num(q * p) if priced else q}" for n, q, p in items]
        label = r.choice(("TOTAL", "TOTAL AMOUNT", "AMOUNT PAYABLE", "SUM")) if kind not in ("credit_note", "reminder") else r.choice(("TOTAL CREDIT", "CREDIT AMOUNT", "TOTAL") if kind == "credit_note" else ("AMOUNT OVERDUE", "TO PAY NOW"))
        rows += ([f"{box(label)}{r.choice((' ', '  ', ': '))}{said}" if chance(r, .6) else f"{box(label)} {m.code}  {m.num(total + fee)}"] if priced else []) + [f"{box('SIGNED')} {person}"]
    if kind == "receipt" and how not in ("note", "letter") and chance(r, .4):
        paid = -(-total // 2000) * 2000
        rows += [f"{r.choice(('Tendered cash', 'Cash', 'Given'))} {m.num(paid)}", f"{r.choice(('Your change', 'Change', 'Back'))} {m.num(paid - total)}"]
    if chance(r, .06):
        rows = [x.upper() for x in rows]
    text = "\n".join(rows)
    flat = " ".join(rows)
    if named_twice(m) and not any(x in text for x in (m.code,)):
        rows.append(r.choice((f"All amounts in {m.code}", f"Currency: {m.code}")))
    with_date = has_date and day.upper() in flat.upper()
    return rows, dict(c.FACTS, type=c.KINDS[kind], sub=kind, issuer=issuer, recipient=recipient if recipient.upper() in flat.upper() else None, date=d.isoformat() if with_date else None,
                      currency=m.code if priced else None, total=g.plain(total + fee) if priced else None, number=number if has_number and number.upper() in flat.upper() else None, title=title if title in text else None)


def named_twice(m):
    return ((m.before + m.after).strip() or m.column) in c.SIGNED and m.need_code


def bank_in_words(r, t):
    w = c.Writer(r, t, "bank_statement")
    w.lang = "EN"
    w.words = L.WORDS["EN"]
    w.style = c.any_date_style(r, w.country, "EN")
    m, d = w.money, w.date
    bank, holder = c.bank_name(r, w.country), w.firm()
    has_number = chance(r, .55)
    number = c.document_number(r, d) if chance(r, .5) else str(r.randint(1, 365))
    opening, moves = r.randint(-20000, 900000), [r.randint(-60000, 80000) for _ in range(r.choice((1, 2, 3, 3, 5, 8)))]
    unit = 1 if m.style[1] != "0" else 100
    opening, moves = opening // unit * unit, [x // unit * unit for x in moves]
    close = opening + sum(moves)
    M = lambda x: money_text(r, m, x)
    day = w.day(d)
    title = r.choice(("Statement", "Account statement", "Bank statement", "Your account", "Account summary", "Statement of your account"))
    no = f" {r.choice(('', 'no. ', 'No. ', '# '))}{number}" if has_number else ""
    x = r.random()
    head = [f"{bank} - {title}{no}", f"{r.choice(('Customer', 'For', 'Account of', 'Holder'))}: {holder}"] if x < .35 else [bank, f"{title} for {holder}", f"Statement{no} of {day}"] if x < .6 else [bank] + g.address(r, w.country) + [holder] + g.address(r, w.country) + [title + no]
    if day not in " ".join(head):
        head.insert(r.randint(1, len(head)), r.choice((day, f"Date: {day}", f"as of {day}", f"Printed on {day}", f"on {day}")))
    first = f"{r.choice(('You had', 'Brought forward', 'Before', 'Balance before', 'Carried over', 'Start', 'Old'))}{r.choice((' ', ': '))}{M(opening)}"
    last = f"{r.choice(('You now have', f'Balance on {day}:', 'New balance:', 'Now:', 'Your balance is', 'Balance today', 'Remaining', 'End', 'Carried to next page:'))} {M(close)}"
    ins, outs = sum(x for x in moves if x > 0), -sum(x for x in moves if x < 0)
    flow = [f"Money in {M(ins)}", f"Money out {M(outs)}"] if chance(r, .4) else []
    what = lambda: r.choice(("card payment", "salary", "transfer to savings", "Supermarket", "Rent", "Interest", "Cash machine", w.firm(), f"Payment {w.firm()}", "Fee", "Insurance"))
    tx = [r.choice((f"{w.day(d - datetime.timedelta(days=r.randint(0, 28)))} {what()} {m.num(x)}", f"{what()} {m.num(x)}", f"{w.day(d - datetime.timedelta(days=r.randint(0, 28)))}: {what()}, {m.num(x)}")) for x in moves]
    rows = head + ([first] + flow + [last] + (["Transactions"] if chance(r, .6) else []) + tx if chance(r, .5) else [first] + tx + flow + [last])
    if named_twice(m):
        rows.append(f"Account kept in {m.code}")
    return rows, dict(c.FACTS, type="bank_statement", sub="bank_statement", issuer=bank, recipient=holder, date=d.isoformat(), currency=m.code, total=g.plain(close), number=number if has_number else None, title=title if title in "\n".join(rows) else None)


def pay_in_words(r, t):
    w = c.Writer(r, t, "payslip")
    w.lang = r.choice(("EN", "EN", "EN", "DE"))
    w.words = L.WORDS[w.lang]
    w.style = c.any_date_style(r, w.country, w.lang)
    m, d = w.money, w.date
    unit = 1 if m.style[1] != "0" else 100
    employer, who = g.firm(r, w.country), g.person(r)
    gross = r.randint(50000, 900000) // unit * unit
    less = [int(gross * r.uniform(.02, .2)) // unit * unit for _ in range(r.choice((1, 1, 2, 3)))]
    net = gross - sum(less)
    M = lambda x: money_text(r, m, x)
    day, en = w.day(d), w.lang == "EN"
    month = f"{g.MONTHS[d.month - 1].title()} {d.year}"
    title = r.choice(("Wages", "Pay", "Salary", "Payslip", "Your pay", "Pay for " + month, "Wage note") if en else ("Lohn", "Gehalt", "Lohnzettel", "Ihre Abrechnung", "Lohn für " + month))
    names = r.sample(["tax", "pension", "insurance", "social security", "advance", "union"] if en else ["Lohnsteuer", "Rentenversicherung", "Krankenkasse", "Vorschuss"], len(less))
    x = r.random()
    if x < .35:
        rows = [f"{title} {r.choice(('of', 'for', '-')) if en else 'für'} {who}", r.choice((f"paid by {employer} on {day}", f"{employer}, {day}", f"from {employer}, paid on {day}")) if en else f"gezahlt von {employer} am {day}"]
    elif x < .65:
        rows = [f"{employer}  {title.upper()}  {day}", f"{who}  {r.choice(('Staff no.', 'No.', 'Tax code', 'Dept'))} {g.digits(r, 4)}"]
    else:
        rows = [employer] + g.address(r, w.country) + [day, title, r.choice((f"Name: {who}", who, f"Mr/Ms {who}", f"Employee {who}"))]
    hours = r.randint(20, 180)
    rows += r.choice(([f"{hours} {'hours' if en else 'Stunden'}, {'gross' if en else 'brutto'} {M(gross)}"], [f"{'Salary' if en else 'Gehalt'} {m.num(gross)}"], [f"{'Gross' if en else 'Brutto'}: {M(gross)}"], [f"{hours} h", f"{'You earned' if en else 'Verdienst'} {M(gross)}"]))
    rows += [f"{r.choice(('less', 'minus', '-', 'for')) if en else r.choice(('abzüglich', '-', 'minus'))} {n} {M(a) if chance(r, .6) else m.num(a)}" for n, a in zip(names, less)]
    rows += [r.choice(("paid out: ", "You get ", "NET PAY ", "In your hand: ", "Leaves ", "Paid to your account: ", "Net: ", "Remains ") if en else ("ausgezahlt: ", "Sie erhalten ", "Netto ", "Auszahlung: ")) + M(net)]
    if chance(r, .5):
        rows.append(r.choice(("Signature of the employee: ________", "Received: ________", "Thank you for your work.", "Keep this slip.")) if en else "Unterschrift: ________")
    if named_twice(m):
        rows.append(f"All amounts in {m.code}")
    return rows, dict(c.FACTS, type="payslip", sub="payslip", issuer=employer, recipient=who, date=d.isoformat(), currency=m.code, total=g.plain(net), number=None, title=title)


def contract_table(r, t):
    """A contract as a table of two columns, or in few sentences."""
    w = c.Writer(r, t, "contract")
    w.lang = "EN"
    w.words = L.WORDS["EN"]
    w.style = c.any_date_style(r, w.country, "EN")
    m, d = w.money, w.date
    sort = r.choice(("service", "service", "rent", "supply", "work"))
    give, take = {"service": (("Contractor", "Provider", "Consultant"), ("Customer", "Client", "Principal")), "rent": (("Landlord", "Lessor", "Owner"), ("Tenant", "Lessee")), "supply": (("Seller", "Supplier"), ("Buyer", "Purchaser", "Customer")), "work": (("Employee",), ("Employer", "Company"))}[sort]
    give, take = r.choice(give), r.choice(take)
    payer, provider = g.firm(r, w.country), g.person(r) if sort == "work" else w.firm()
    has_number, number, day = chance(r, .5), c.document_number(r, d), w.day(d)
    unit = 1 if m.style[1] != "0" else 100
    total = r.randint(20000, 9000000) // unit * unit
    M = lambda x: money_text(r, m, x)
    later = lambda: w.day(d + datetime.timedelta(days=r.randint(5, 700)))
    title = r.choice({"service": ("Service contract", "Contract", "Agreement", "Consulting agreement"), "rent": ("LEASE", "Lease", "Rental contract", "Tenancy"), "supply": ("Contract of sale", "Purchase contract", "Supply contract"), "work": ("Employment contract", "Contract of work", "Job contract")}[sort])
    fee = {"service": ("Price", "Fee", "Payment", "Remuneration"), "rent": ("Rent", "Monthly rent"), "supply": ("Price", "Purchase price"), "work": ("Salary", "Gross salary", "Pay")}[sort]
    if chance(r, .55):
        sep = r.choice((" | ", ": ", "  ", " - ", " : "))
        pairs = [(r.choice(("Date", "Signed on", "Agreed on", "Date of contract")), day), (take, payer), (give, provider), (r.choice(fee), M(total)), (r.choice(("Subject", "Work", "Object")), g.goods(r).capitalize()), (r.choice(("Term", "Duration")), f"{r.randint(3, 36)} months"), (r.choice(("Notice", "Notice period")), f"{r.randint(2, 12)} weeks"), (r.choice(("Start", "Begins on")), later()), (r.choice(("Deposit", "Penalty", "Liability up to")), M(total // 3 // unit * unit + unit * 100))]
        pairs = [p for i, p in enumerate(pairs) if i < 4 or chance(r, .5)]
        if chance(r, .6):
            r.shuffle(pairs)
        rows = [f"{title}{' ' + r.choice(NO).format(n=number) if has_number else ''}"] + [f"{a}{sep}{b}" for a, b in pairs] + [r.choice((f"Signed: ________  ________", f"{payer}  {provider}", "Signatures", ""))]
        order = [b for a, b in pairs if b in (payer, provider)]
    else:
        verb = {"service": "does for {a}, the {t}, the work named below", "rent": "lets to {a}, the {t}, the rooms named below", "supply": "sells to {a}, the {t}, the goods named below", "work": "begins to work for {a}, the {t}"}[sort].format(a=payer, t=take.lower())
        rows = [title + (f" {r.choice(NO).format(n=number)}" if has_number else ""), f"{provider}, the {give.lower()}, {verb}.", f"{r.choice(('The ' + fee[0].lower() + ' is', 'Agreed ' + fee[0].lower() + ':', 'The parties agree on'))} {M(total)}{r.choice((' a month', '', ' a year'))}.",
                f"{r.choice(('It begins on', 'Start:', 'The term starts on'))} {later()}."] + ([f"A deposit of {M(total // 2 // unit * unit)} is due at the start."] if chance(r, .5) else []) + [r.choice((f"Agreed on {day}", f"Signed on {day}", day, f"Done on {day}")), f"{give}: ______  {take}: ______"]
        order = [provider, payer]
    if named_twice(m):
        rows.append(f"All amounts in {m.code}")
    rows = [x for x in rows if x]
    return rows, dict(c.FACTS, type="contract", sub="contract " + sort, issuer=provider, recipient=payer, date=d.isoformat(), currency=m.code, total=g.plain(total), number=number if has_number else None, title=title, first=order[0])
