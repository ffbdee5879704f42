#!/usr/bin/env python3
"""The official openai client, unmodified, against nibble serve. Speaks TAP.

    pip install openai
    tests/slow/test_openai_client.py [build/nibble]
"""
import json
import os
import subprocess
import sys
import tempfile

import openai

import tap
from tap import expect

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NIBBLE = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build", "nibble")


def make_model(folder):
    """The embedded model's weights with a chat template."""
    demo = os.path.join(ROOT, "models", "demo")
    for name in os.listdir(demo):
        if name != "tokenizer_config.json":
            os.symlink(os.path.join(demo, name), os.path.join(folder, name))
    os.symlink(os.path.join(ROOT, "tests", "chat_template.jinja"), os.path.join(folder, "chat_template.jinja"))


PAY = {"type": "function", "function": {
    "name": "pay", "description": "pays an invoice",
    "parameters": {"type": "object", "properties": {
        "total": {"type": "number", "minimum": 0}, "currency": {"enum": ["EUR", "USD"]},
        "to": {"$ref": "#/$defs/party"}},
        "$defs": {"party": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}},
                            "required": ["name"], "additionalProperties": False}},
        "required": ["total", "currency", "to"], "additionalProperties": False}}}
KEEP = {"type": "function", "function": {"name": "keep"}}


def is_payment(call):
    arguments = json.loads(call.function.arguments)
    return (call.type == "function" and call.function.name == "pay" and len(call.id) == 9 and
            arguments.keys() == {"total", "currency", "to"} and arguments["total"] >= 0 and
            arguments["currency"] in ("EUR", "USD") and len(arguments["to"]["name"]) <= 12)


def test_tools(client, model):
    ask = [{"role": "user", "content": "Invoice of ACME, 12.50 EUR. Pay it."}]
    create = client.chat.completions.create
    named = {"type": "function", "function": {"name": "pay"}}
    for seed in range(4):  # whatever the model would say
        one = create(model=model, messages=ask, tools=[PAY, KEEP], tool_choice=named, temperature=1.5, seed=seed,
                     max_tokens=60).choices[0]
        expect("a forced call", one.message.content is None and len(one.message.tool_calls) == 1 and
               is_payment(one.message.tool_calls[0]) and one.finish_reason in ("tool_calls", "length"))
    any_ = create(model=model, messages=ask, tools=[PAY, KEEP], tool_choice="required", temperature=0, max_tokens=80)
    call = any_.choices[0].message.tool_calls[0]
    expect("a required call", is_payment(call) if call.function.name == "pay" else
           call.function.name == "keep" and json.loads(call.function.arguments) == {})
    stream = list(create(model=model, messages=ask, tools=[PAY], tool_choice="required", temperature=0, max_tokens=80,
                         stream=True, n=2))
    whole = create(model=model, messages=ask, tools=[PAY], tool_choice="required", temperature=0, max_tokens=80)
    for index in (0, 1):
        deltas = [d for c in stream for k in c.choices if k.index == index for d in k.delta.tool_calls or []]
        expect("a streamed call begins with its name", deltas[0].id and deltas[0].function.name == "pay" and
               len(deltas) > 2 and all(d.index == 0 and d.id is None for d in deltas[1:]))
        expect("and says the same", "".join(d.function.arguments for d in deltas) ==
               whole.choices[0].message.tool_calls[0].function.arguments)
    ends = [k.finish_reason for c in stream for k in c.choices if k.finish_reason]
    expect("its end", ends == [whole.choices[0].finish_reason] * 2)
    with client.chat.completions.stream(model=model, messages=ask, tools=[PAY], tool_choice=named, temperature=0,
                                        max_completion_tokens=80) as events:
        final = events.get_final_completion() if whole.choices[0].finish_reason == "tool_calls" else None
    expect("the client's own reader of streams", final is None or is_payment(final.choices[0].message.tool_calls[0]))
    auto = create(model=model, messages=ask, tools=[PAY], max_tokens=12, temperature=0).choices[0]
    expect("an automatic choice may be none", auto.message.tool_calls is None and auto.message.content)
    none = create(model=model, messages=ask, tools=[PAY], tool_choice="none", max_tokens=6, temperature=0)
    plain = create(model=model, messages=ask, max_tokens=6, temperature=0)
    expect("the choice none is no tools", none.choices[0].message.content == plain.choices[0].message.content and
           none.usage.prompt_tokens == plain.usage.prompt_tokens)
    back = ask + [whole.choices[0].message.model_dump(exclude_none=True),
                  {"role": "tool", "tool_call_id": whole.choices[0].message.tool_calls[0].id, "content": "paid"}]
    after = create(model=model, messages=back, tools=[PAY], max_tokens=4, temperature=0)
    expect("a result goes back in", after.usage.prompt_tokens > whole.usage.prompt_tokens)
    for name, more in [("an unknown function", {"tool_choice": {"type": "function", "function": {"name": "no"}}}),
                       ("a schema that is none", {"tools": [{"type": "function", "function": {
                           "name": "x", "parameters": {"type": "strin"}}}], "tool_choice": "required"}),
                       ("a bad name", {"tools": [{"type": "function", "function": {"name": "a b"}}]}),
                       ("a choice without tools", {"tools": [], "tool_choice": "required"}),
                       ("a call that is no JSON", {"messages": ask + [{"role": "assistant", "tool_calls": [
                           {"id": "a", "type": "function", "function": {"name": "pay", "arguments": "{"}}]}]})]:
        try:
            create(**{"model": model, "messages": ask, "tools": [PAY], "max_tokens": 4, **more})
            expect(name, False)
        except openai.UnprocessableEntityError as e:
            expect(name, len(e.body["message"]) > 10)


def test_stream_logprobs(client, model):
    for n in (1, 2):
        how = {"model": model, "messages": [{"role": "user", "content": "TOTAL"}], "max_tokens": 8, "temperature": 0,
               "logprobs": True, "top_logprobs": 2, "n": n}
        whole = client.chat.completions.create(**how)
        chunks = list(client.chat.completions.create(**how, stream=True))
        for choice in whole.choices:
            streamed = [t for c in chunks for k in c.choices if k.index == choice.index and k.logprobs
                        for t in k.logprobs.content]
            # The prompt was found in the cache the second time: rounding.
            expect("log probabilities of a stream", len(streamed) == 8 and all(
                a.token == b.token and a.bytes == b.bytes and abs(a.logprob - b.logprob) < 1e-3 and
                len(a.top_logprobs) == 2 for a, b in zip(streamed, choice.logprobs.content)))


def test(client, model):
    test_tools(client, model)
    test_stream_logprobs(client, model)
    expect("models", [m.id for m in client.models.list().data] == [model])
    one = client.completions.create(model=model, prompt="Invoice", max_tokens=8, temperature=0, logprobs=2)
    expect("a completion", one.choices[0].finish_reason == "length" and one.usage.completion_tokens == 8)
    expect("its log probabilities", "".join(one.choices[0].logprobs.tokens) == one.choices[0].text)
    messages = [{"role": "system", "content": "Be brief."},
                {"role": "user", "content": [{"type": "text", "text": "TOTAL"}]}]
    chat = client.chat.completions.create(model=model, messages=messages, max_tokens=6, temperature=0, n=2,
                                          logprobs=True, top_logprobs=3)
    expect("a chat completion", len(chat.choices) == 2 and chat.choices[0].message.role == "assistant")
    expect("choices at temperature 0 are alike", chat.choices[0].message.content == chat.choices[1].message.content)
    tokens = chat.choices[0].logprobs.content
    expect("its log probabilities", len(tokens) == 6 and all(len(t.top_logprobs) == 3 for t in tokens))
    expect("the chosen token is the most probable one", all(t.token == t.top_logprobs[0].token for t in tokens))
    chunks = list(client.chat.completions.create(model=model, messages=messages, max_tokens=6, temperature=0,
                                                 stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    expect("a stream says the same", text == chat.choices[0].message.content)
    expect("its first chunk has the role", chunks[0].choices[0].delta.role == "assistant")
    expect("its end", chunks[-2].choices[0].finish_reason == "length" and chunks[-1].usage.completion_tokens == 6)
    stream = client.completions.create(model=model, prompt="Invoice", max_tokens=1500, stream=True,
                                       extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()  # goes away in mid-stream
    for name, call, error in [
        ("an unknown model", lambda: client.completions.create(model="gpt", prompt="a"), openai.NotFoundError),
        ("a bad parameter", lambda: client.completions.create(model=model, prompt="a", temperature=9),
         openai.UnprocessableEntityError),
        ("a prompt that is too long", lambda: client.completions.create(model=model, prompt=[5] * 5000),
         openai.BadRequestError),
        ("a wrong key", lambda: client.with_options(api_key="sk-wrong-key").models.list(), openai.PermissionDeniedError),
    ]:
        try:
            call()
            expect(name, False)
        except error as e:
            expect(name, len(e.body["message"]) > 10)


def main():
    with tempfile.TemporaryDirectory() as folder:
        make_model(folder)
        keys = os.path.join(folder, "keys")
        with open(keys, "w") as f:
            f.write("test sk-test-key\n")
        server = subprocess.Popen([NIBBLE, "serve", "--model", folder, "--model-name", "demo-chat", "--port", "0",
                                   "--api-key-file", keys], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            url = server.stdout.readline().split()[-1]
            test(openai.OpenAI(base_url=url + "/v1", api_key="sk-test-key", max_retries=0), "demo-chat")
        finally:
            server.terminate()
            expect("the server ends well", server.wait(timeout=60) == 0)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
