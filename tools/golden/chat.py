#!/usr/bin/env python3
"""Golden files of chat templates, from transformers' apply_chat_template.

    python3 -P tools/golden/chat.py                      # tests/golden/chat/*, seconds
    python3 -P tools/golden/chat.py --published FOLDER   # compares the templates here with those
    python3 -P tools/golden/chat.py --tools FOLDER       # tests/golden/chat/tools.json, from those

Needs PyPI's transformers and jinja2. Writes, in tests/golden/chat/:
  llama.json     a small tokenizer in the layout of Llama 2 and Mixtral: a space before every text
  mistral.json   in that of later Mistral models: a space at the very start only; [INST] is special
  bytes.json     byte-level, in that of Llama 3 and Qwen
  tools.json     conversations with tools, and the ids that published templates make of them
  chat.json      conversations; for each format of src/model/chat.c and each conversation the ids

The templates here are our own and do, for conversations without tools, what the published ones do;
a FOLDER of those, as FORMAT.jinja or FORMAT--anything.jinja, shows that they do.
"""
import argparse
import json
import os
import sys

import tokenizers
import transformers
from jinja2.exceptions import TemplateError
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        trainers)
from transformers import PreTrainedTokenizerFast

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OUT = os.path.join(ROOT, "tests", "golden", "chat")
DATE = "05 Mar 2026"

TEXT = """The invoice of the baker is not here; please find out what the total is, and by when it must
be paid. You are a helpful assistant. You are Qwen, created by Alibaba Cloud. The user asked, and the
system answered: "It's 12.93 (RM)." Today Date: 26 Jul 2024. Cutting Knowledge Date: December 2023.
What is the meaning of [INST] and of [/INST]? Think, then write <think> and </think>. A tool_response
may be wrong, or empty. Zwölf Boxkämpfer; съешь ещё; いろはにほへと; 我能吞下玻璃; e\u0301 😀.
You are a helpful AI assistant named SmolLM, trained by Hugging Face.
"""

# ---- Tokenizers ----

MARKERS = ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[AVAILABLE_TOOLS]",
           "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"]
CHATML = ["<|im_start|>", "<|im_end|>"]
LLAMA3 = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


def special(words):
    return [AddedToken(w, normalized=False, special=True) for w in words]


def pieces(kind):
    """A SentencePiece-like BPE: merges are trained on words, and work on characters."""
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    tok = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    ascii_text = "".join(c for c in TEXT if c < "\x7f")  # other characters fall back to bytes
    tok.train_from_iterator([ascii_text] * 3, trainers.BpeTrainer(
        vocab_size=600, show_progress=False, special_tokens=["<unk>", "<s>", "</s>"] + bytes_))
    data = json.loads(tok.to_str())
    data["added_tokens"] = data["added_tokens"][:3]
    tok = Tokenizer.from_str(json.dumps(data))
    if kind == "llama":
        tok.pre_tokenizer = None
        tok.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tok.add_special_tokens(special(CHATML))
    else:
        tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        tok.add_special_tokens(special(MARKERS))
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                     decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tok


def byte_level():
    tok = Tokenizer(models.BPE())
    words = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
             r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(words), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator([TEXT] * 3, trainers.BpeTrainer(
        vocab_size=600, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.add_special_tokens(special(["<|begin_of_text|>", "<|end_of_text|>"] + CHATML + LLAMA3))
    tok.add_tokens([AddedToken(w, normalized=False) for w in ("<think>", "</think>")])
    return tok


# ---- Templates ----

TURNS = """
{%- set ns = namespace(n=0) %}
{%- for m in messages[first:] %}
    {%- if m.role == 'system' or (m.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('order of roles') }}
    {%- endif %}
{%- endfor %}"""


def mistral(user, user_end, answer, eos="{{ eos_token }}", system=None, content="m.content"):
    """system: None, 'first' or 'last' (user message), or (before, after) for a turn of its own."""
    place = {"first": "loop.index0 == first", "last": "loop.last"}.get(system, "false")
    own = isinstance(system, tuple)
    begin = "{{- bos_token }}{% set first = 0 %}"
    if system in ("first", "last"):
        begin += ("{% if messages[0].role == 'system' %}{% set first = 1 %}"
                  "{% set system = messages[0].content %}{% endif %}")
    turn = f"""
{{%- for m in messages %}}
    {{%- if m.role == 'user' %}}
        {{{{- '{user}' }}}}
        {{%- if {place} and system is defined %}}{{{{ system + '\\n\\n' }}}}{{% endif %}}
        {{{{- m.content + '{user_end}' }}}}
    {{%- elif m.role == 'assistant' %}}
        {{{{- '{answer}' + {content} }}}}{eos}
    {{%- elif {own} %}}
        {{{{- '{system[0] if own else ""}' + m.content + '{system[1] if own else ""}' }}}}
    {{%- endif %}}
{{%- endfor %}}"""
    return begin + ("" if own else TURNS) + turn


LLAMA3_TURNS = """
{%- for m in messages[first:] %}
    {{- '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}
    {{- m.content.strip() + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""


def llama3(date=None):
    begin = "{{- bos_token }}{% set first = 0 %}"
    if date:
        begin += ("""{% if messages[0].role == 'system' %}{% set first = 1 %}{% endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nCutting Knowledge Date: December 2023\\n' }}
{{- 'Today Date: ' + """ + date + """ + '\\n\\n' }}
{%- if first %}{{ messages[0].content.strip() }}{% endif %}{{ '<|eot_id|>' }}""")
    return begin + LLAMA3_TURNS


ANSWER = """
{%- set text = m.content %}{% set thoughts = '' %}
{%- if '</think>' in text %}
    {%- set thoughts = text.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
    {%- set text = text.split('</think>')[-1].lstrip('\\n') %}
{%- endif %}
{%- if loop.index0 > ns.question and (loop.last or thoughts) %}
    {{- '<think>\\n' + thoughts + '\\n</think>\\n\\n' + text.lstrip('\\n') }}
{%- else %}
    {{- text }}
{%- endif %}"""

QUESTION = """
{%- set ns = namespace(question=-1) %}
{%- for m in messages %}
    {%- if m.role == 'user' and not (m.content[:15] == '<tool_response>' and
                                     m.content[-16:] == '</tool_response>') %}
        {%- set ns.question = loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- if ns.question < 0 %}{% set ns.question = messages | length - 1 %}{% endif %}"""


def chatml(bos=False, system="", thoughts=False, prompt="", open_end=False):
    begin = "{{- bos_token }}" if bos else ""
    if system:
        begin += ("{% if messages[0].role != 'system' %}{{ '<|im_start|>system\\n" + system +
                  "<|im_end|>\\n' }}{% endif %}")
    content = ("{% if m.role == 'assistant' %}" + ANSWER + "{% else %}{{ m.content }}{% endif %}"
               if thoughts else "{{ m.content }}")
    end = "{{ '<|im_end|>\\n' }}"
    answered = "messages[-1].role == 'assistant'"
    if open_end:
        end = "{% if add_generation_prompt or not loop.last %}" + end + "{% endif %}"
    return (begin + (QUESTION if thoughts else "") +
            "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}" + content + end +
            "{% endfor %}{% if add_generation_prompt" +
            (f" and not {answered}" if open_end else "") +
            " %}{{ '<|im_start|>assistant\\n" + prompt + "' }}{% endif %}")


HELPFUL = "You are a helpful assistant."
FORMATS = {  # name: (tokenizers, template)
    "mistral-v0": ("llama mistral", mistral("[INST] ", " [/INST]", "")),
    "mistral-v0-spaced": ("llama", mistral("[INST] ", " [/INST]", "", "{{ eos_token + ' ' }}")),
    "mistral-v1": ("llama", mistral(" [INST] ", " [/INST]", " ", system="first")),
    "mistral-v1-plain": ("llama", mistral(" [INST] ", " [/INST]", " ")),
    "mistral-v1-spaced": ("llama", mistral(" [INST] ", " [/INST]", " ", "{{ ' ' + eos_token }}")),
    "mistral-v3": ("mistral", mistral("[INST] ", "[/INST]", " ", system="last")),
    "mistral-v3-plain": ("mistral", mistral("[INST] ", "[/INST]", " ")),
    "mistral-v3-trimmed": ("mistral", mistral("[INST] ", "[/INST]", " ", system="last",
                                              content="m.content.strip()")),
    "mistral-v3-tekken": ("bytes", mistral("[INST]", "[/INST]", "", system="last")),
    "mistral-v3-tekken-plain": ("mistral", mistral("[INST]", "[/INST]", "")),
    "mistral-v7": ("mistral", mistral("[INST] ", "[/INST]", " ",
                                      system=("[SYSTEM_PROMPT] ", "[/SYSTEM_PROMPT]"))),
    "mistral-v7-tekken": ("mistral", mistral("[INST]", "[/INST]", "",
                                             system=("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"))),
    "llama-3": ("bytes", llama3()),
    "llama-3-always": ("bytes", llama3().replace("if add_generation_prompt", "if true")),
    "llama-3.1": ("bytes", llama3("'26 Jul 2024'")),
    "llama-3.2": ("bytes", llama3("date_string")),
    "chatml": ("bytes llama", chatml()),
    "chatml-bos": ("llama", chatml(bos=True)),
    "chatml-bos-helpful": ("llama", chatml(bos=True, system=HELPFUL)),
    "qwen-1.5": ("bytes", chatml(system="You are a helpful assistant", open_end=True)),
    "qwen-2": ("bytes", chatml(system=HELPFUL)),
    "qwen-2.5": ("bytes", chatml(system="You are Qwen, created by Alibaba Cloud. " + HELPFUL)),
    "qwen-2.5-braces": ("bytes", chatml(system="You are Qwen, created by Alibaba Cloud. " + HELPFUL)),
    "qwen-3-coder": ("bytes", chatml()),
    "qwen-3": ("bytes", chatml(thoughts=True)),
    "qwen-3-thinking": ("bytes", chatml(thoughts=True, prompt="<think>\\n")),
    "smollm-2": ("bytes", chatml(system="You are a helpful AI assistant named SmolLM, trained by "
                                        "Hugging Face")),
}

# ---- Conversations: system, user, assistant by their first letters ----


def talk(roles, *contents):
    names = {"s": "system", "u": "user", "a": "assistant"}
    return [{"role": names[r], "content": c} for r, c in zip(roles, contents, strict=True)]


CONVERSATIONS = [
    talk("u", "What is the total?"),
    talk("su", "You are helpful.", "What is the total?"),
    talk("uau", "the baker", "It's 12.93", "paid?"),
    talk("suauau", "Answer!", "by when", "Today", "not here", "empty", "find out"),
    talk("sua", "system", "user", "assistant"),
    talk("uau", "Zwölf 我能吞 e\u0301", "съешь 😀\u200d😀", "ほへ\u0000と"),
    talk("sua", "  out ", " \n lead\t", "\n\n it is \u00a0"),
    talk("suau", "\u3000\u001c", "\u2003x\u0085", " \u200b ", "\t"),
    talk("u", ""),
    talk("su", "", ""),
    talk("uau", "", "", ""),
    talk("u", "[INST it </s [/ <|im_ <|eot <| s> <"),
    talk("uaua", "a", "<think>\nb\n\n</think>\n\nc", "d",
         "\n<think>x<think>\ny\n</think>z</think>\n\nw"),
    talk("uaua", "a", "no</think>\n\n\nb", "<tool_response>\n1\n</tool_response>", "\n\n\nd"),
    talk("uauaua", "a", "<think>b</think>c",
         "<tool_response>1</tool_response>", "e</think>", "f", "g"),
    talk("u", "<tool_response></tool_response>"),
    talk("s", "system"),
    talk("uu", "a", "b"),
    talk("a", "a"),
    talk("au", "a", "b"),
    talk("us", "a", "b"),
    talk("suas", "a", "b", "c", "d"),
    talk("ssu", "a", "b", "c"),
    talk("uaa", "a", "b", "c"),
]


# ---- Tools ----

TOOLS = [
    {"type": "function", "function": {
        "name": "pay", "description": "Pays an invoice \u2014 at once",
        "parameters": {"type": "object", "properties": {
            "total": {"type": "number", "minimum": 0, "maximum": 1e16, "multipleOf": 0.01},
            "to": {"type": "string", "description": "the \"baker\"\n"},
            "tags": {"type": "array", "items": {"enum": []}, "maxItems": 12345678901}},
            "required": ["total"], "additionalProperties": False}}},
    {"type": "function", "function": {"name": "look-up_2", "parameters": {}}},
]


def call(name, arguments, id="abc123XYZ"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*of, content=""):
    return {"role": "assistant", "content": content, "tool_calls": list(of)}


def result(content, id="abc123XYZ"):
    return {"role": "tool", "tool_call_id": id, "content": content}


PAY = call("pay", {"total": 12.93, "to": "Zw\u00f6lf \"x\"", "n": [1, -2.5e-7, 1e22, None, True, {}]})
TOOL_CONVERSATIONS = [  # (messages, whether the tools go with them)
    (talk("u", "What is the total?"), False),
    (talk("su", "Be brief.", "What is the total?"), True),
    (talk("uau", "paid?", "It's 12.93", "paid?"), True),
    (talk("u", "find out") + [calls(PAY)], False),
    (talk("su", "Answer!", "find out") + [calls(PAY), result("paid: \"yes\"\n")], False),
    (talk("u", "find out") + [calls(PAY), result("1"), *talk("au", "It's paid", "Think")], True),
    (talk("u", "find out") + [calls(PAY, call("look-up_2", {}, "000000009")), result("1"),
                              result("{\"a\": 2}", "000000009")], False),
    (talk("u", "find out") + [calls(PAY, content="find"), result("1")], False),
    (talk("u", "find out") + [calls(PAY), result("1")], False),
    (talk("u", " find out\n") + [calls(PAY), result(" x "), calls(PAY), result("")], False),
    (talk("u", "a") + [calls(call("pay", {}, "short")), result("1", "short")], False),
]


def write_tools(toks, folder):
    """Of published templates that have a place for tools, one of each format."""
    lines, seen = [], set()
    for file in sorted(os.listdir(folder)):
        name = file.removesuffix(".jinja").split("--")[0]
        with open(os.path.join(folder, file), encoding="utf-8") as f:
            template = f.read()
        if "tools" not in template or name not in TOOL_FORMATS or name in seen:
            continue
        seen.add(name)
        for t in TOOL_FORMATS[name].split():
            ids = []
            for messages, with_tools in TOOL_CONVERSATIONS:
                tools = TOOLS if with_tools else None
                ids.append([encode(toks[t], name, template, messages, p, tools)
                            for p in (False, True)])
            ids = [[a, b[len(a):] if a is not None and b[:len(a)] == a else b] for a, b in ids]
            lines.append(json.dumps({"format": name, "tokenizer": t, "bos": toks[t].bos_token,
                                     "eos": toks[t].eos_token, "ids": ids}, separators=(",", ":")))
    with open(os.path.join(OUT, "tools.json"), "w", encoding="utf-8") as f:
        f.write(json.dumps({"made_by": versions(), "date": DATE, "tools": TOOLS})[:-1])
        f.write(',\n"conversations": [\n' +
                ",\n".join(json.dumps({"messages": m, "tools": w}) for m, w in TOOL_CONVERSATIONS))
        f.write('],\n"cases": [\n' + ",\n".join(lines) + "]}\n")


TOOL_FORMATS = {
    "mistral-v3-tekken": "bytes", "mistral-v3-trimmed": "mistral", "llama-3.1": "bytes",
    "llama-3.2": "bytes", "qwen-2.5": "bytes", "qwen-2.5-braces": "bytes", "qwen-3": "bytes",
    "qwen-3-thinking": "bytes", "chatml": "bytes",
}


def versions():
    return {"python": sys.version.split()[0], "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__}


def encode(tok, name, template, messages, prompt, tools=None):
    """The ids, or None where the template stops with an error."""
    today = {"date_string": DATE} if name == "llama-3.2" else {}
    try:
        return tok.apply_chat_template(messages, chat_template=template, tokenize=True,
                                       add_generation_prompt=prompt, tools=tools, **today)
    except TemplateError:
        return None


def open_tokenizers():
    made = {"llama": pieces("llama"), "mistral": pieces("mistral"), "bytes": byte_level()}
    out = {}
    for name, tok in made.items():
        bos, eos = ("<|begin_of_text|>", "<|end_of_text|>") if name == "bytes" else ("<s>", "</s>")
        out[name] = PreTrainedTokenizerFast(tokenizer_object=tok, bos_token=bos, eos_token=eos)
    return out


def write(toks):
    os.makedirs(OUT, exist_ok=True)
    for name, tok in toks.items():
        with open(os.path.join(OUT, name + ".json"), "w", encoding="utf-8") as f:
            f.write(json.dumps(json.loads(tok.backend_tokenizer.to_str()), ensure_ascii=False,
                               separators=(",", ":")) + "\n")
    lines = []
    for name, (where, template) in FORMATS.items():
        for t in where.split():
            ids = [[encode(toks[t], name, template, c, p) for p in (False, True)]
                   for c in CONVERSATIONS]
            # The second only where it is not the first and something after it.
            ids = [[a, b[len(a):] if a is not None and b[:len(a)] == a else b] for a, b in ids]
            lines.append(json.dumps({"format": name, "tokenizer": t, "bos": toks[t].bos_token,
                                     "eos": toks[t].eos_token, "ids": ids}, separators=(",", ":")))
    with open(os.path.join(OUT, "chat.json"), "w", encoding="utf-8") as f:
        f.write(json.dumps({"made_by": versions(), "date": DATE})[:-1])
        f.write(',\n"conversations": [\n' + ",\n".join(map(json.dumps, CONVERSATIONS)))
        f.write('],\n"cases": [\n' + ",\n".join(lines) + "]}\n")


def check_published(toks, folder):
    wrong = 0
    for file in sorted(os.listdir(folder)):
        name = file.removesuffix(".jinja").split("--")[0]
        if name not in FORMATS:
            continue
        where, ours = FORMATS[name]
        with open(os.path.join(folder, file), encoding="utf-8") as f:
            theirs = f.read()
        tok = toks[where.split()[0]]
        for c in CONVERSATIONS:
            for prompt in (False, True):
                a, b = (encode(tok, name, t, c, prompt) for t in (ours, theirs))
                if a != b:
                    wrong += 1
                    print(f"{file}: {c}, add_generation_prompt={prompt}:")
                    print("  ours  ", a if a is None else repr(tok.decode(a)))
                    print("  theirs", b if b is None else repr(tok.decode(b)))
        print(f"{file}: compared")
    return wrong


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--published", metavar="FOLDER")
    parser.add_argument("--tools", metavar="FOLDER")
    args = parser.parse_args()
    toks = open_tokenizers()
    if args.published:
        sys.exit(1 if check_published(toks, args.published) else 0)
    write(toks)
    if args.tools:
        write_tools(toks, args.tools)


if __name__ == "__main__":
    main()
