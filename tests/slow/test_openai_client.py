#!/usr/bin/env python3
"""The official openai client, unmodified, against nibble serve. Speaks TAP.

    pip install openai
    tests/slow/test_openai_client.py [build/nibble]
"""
import os
import subprocess
import sys
import tempfile

import openai

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NIBBLE = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build", "nibble")
TEMPLATE = """{%- for message in messages -%}
    <|im_start|>{{ message.role }}{{ "\\n" -}}
    {{- message.content }}<|im_end|>{{ "\\n" -}}
{%- endfor -%}
{%- if add_generation_prompt -%} {{- "<|im_start|>assistant\\n" -}} {%- endif -%}
"""

number = failed = 0


def expect(name, condition):
    global number, failed
    number += 1
    failed += not condition
    print(f"{'ok' if condition else 'not ok'} {number} - {name}", flush=True)


def make_model(folder):
    """The embedded model's weights with a chat template."""
    demo = os.path.join(ROOT, "models", "demo")
    for name in os.listdir(demo):
        if name != "tokenizer_config.json":
            os.symlink(os.path.join(demo, name), os.path.join(folder, name))
    with open(os.path.join(folder, "chat_template.jinja"), "w") as f:
        f.write(TEMPLATE)


def test(client, model):
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
    print(f"1..{number}")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
