#!/usr/bin/env python3
"""Whether the stand-in for RunPod's control plane (tests/runpod_queue.c) is faithful: PyPI's own worker, unmodified,
runs against it as it does against RunPod, and the same jobs through nibble's worker leave the same requests and
results behind. Speaks TAP.

    pip install runpod==1.12.0
    tests/slow/test_runpod_library.py [build/nibble [build/tests/runpod_queue]]
"""
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

import tap
from tap import expect

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
NIBBLE = sys.argv[1] if len(sys.argv) > 1 else os.path.join(ROOT, "build", "nibble")
QUEUE = sys.argv[2] if len(sys.argv) > 2 else os.path.join(os.path.dirname(NIBBLE), "tests", "runpod_queue")

# Handlers of the library: one answers, one streams. Inputs say what is to happen.
HANDLER = """
import asyncio, runpod
async def handler(job):
    what = job["input"]
    if what.get("sleep"):
        await asyncio.sleep(what["sleep"])
    if what.get("error"):
        return {"error": what["error"], "more": 1}
    if what.get("raise"):
        raise ValueError(what["raise"])
    return {"got": what}
async def streaming(job):
    for i in range(job["input"].get("parts", 3)):
        yield {"part": i}
import sys
runpod.serverless.start({"handler": streaming if sys.argv[1] == "stream" else handler,
                         "concurrency_modifier": lambda n: int(sys.argv[2]),
                         "return_aggregate_stream": True})
"""


class Queue:
    def __init__(self, *options):
        self.process = subprocess.Popen([QUEUE, "--key", "rp-key", "--lease-ms", "5000", *options],
                                        stdout=subprocess.PIPE, text=True)
        self.url = self.process.stdout.readline().split()[-1]

    def ask(self, path, body=None):
        data = None if body is None else body.encode() if isinstance(body, str) else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data=data), timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as e:
            return {"status": e.code}
        return json.loads(text) if text else None

    def run(self, id, input):
        self.ask("/run", {"id": id, "input": input})

    def wait(self, id, seconds=60):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            status = self.ask("/status/" + id)
            if status["status"] in ("COMPLETED", "FAILED"):
                return status
            time.sleep(0.05)
        return self.ask("/status/" + id)

    def environment(self, name):
        base = self.url + "/v2/e"
        return dict(os.environ, RUNPOD_WEBHOOK_GET_JOB=f"{base}/job-take/$ID?gpu=none",
                    RUNPOD_WEBHOOK_POST_OUTPUT=f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
                    RUNPOD_WEBHOOK_POST_STREAM=f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=none",
                    RUNPOD_WEBHOOK_PING=f"{base}/ping/$RUNPOD_POD_ID", RUNPOD_AI_API_KEY="rp-key",
                    RUNPOD_POD_ID=name, RUNPOD_PING_INTERVAL="1000", RUNPOD_SKIP_AUTO_SYSTEM_CHECKS="true",
                    RUNPOD_SKIP_GPU_CHECK="true", RUNPOD_DEBUG_LEVEL="WARN")

    def library(self, folder, name, kind="answer", width=1):
        script = os.path.join(folder, "handler.py")
        with open(script, "w") as f:
            f.write(HANDLER)
        return subprocess.Popen([sys.executable, script, kind, str(width)], env=self.environment(name), cwd=folder,
                                stdout=subprocess.DEVNULL, stderr=open(os.path.join(folder, name + ".err"), "w"),
                                start_new_session=True)

    def nibble(self, folder, name, *options):
        return subprocess.Popen([NIBBLE, "worker", "runpod", "--model", os.path.join(ROOT, "models", "demo"),
                                 "--outbox", os.path.join(folder, "outbox-" + name), *options],
                                env=self.environment(name), stdout=subprocess.DEVNULL, start_new_session=True,
                                stderr=open(os.path.join(folder, name + ".err"), "w"))

    def close(self):
        self.process.kill()
        self.process.wait()


def end(worker):
    """With SIGTERM; the library goes on until its poll of up to 90 s is over."""
    worker.terminate()
    try:
        worker.wait(100)
    except subprocess.TimeoutExpired:
        kill(worker)


def kill(worker):
    """As a container that ends: its heartbeats are a process of their own, which would go on."""
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def answering(folder):
    """What the library does with results, errors and faults."""
    queue = Queue()
    worker = queue.library(folder, "lib1", width=3)
    queue.run("a", {"x": "Größe"})
    a = queue.wait("a")
    expect("the library takes and answers a job", a["status"] == "COMPLETED" and a["result"] == {"output": {"got": {"x": "Größe"}}})
    queue.run("b", {"error": "no", "x": 1})
    b = queue.wait("b")
    expect("an error is beside what else there is, as nibble sends it",
           b["status"] == "FAILED" and b["result"] == {"output": {"more": 1}, "error": "no"})
    queue.run("c", {"raise": "boom"})
    expect("an exception fails the job", queue.wait("c")["status"] == "FAILED")
    queue.ask("/fill?n=20", '{"x": 1}')
    until = time.monotonic() + 30
    while time.monotonic() < until and queue.ask("/stats")["completed"] < 21:
        time.sleep(0.1)
    s = queue.ask("/stats")
    expect("twenty jobs", s["completed"] == 21 and s["not_once"] == 0 and s["repeated"] == 0)
    expect("in batches", s["batch_takes"] > 0 and 1 < s["largest_batch"] <= 3)
    expect("its requests are what the stand-in expects", s["malformed"] == 0 and s["unauthorized"] == 0 and s["strangers"] == 0)
    expect("its heartbeats come", s["pings"] > 0)
    for kind in ("400", "204", "500", "garbage", "empty", "drop"):
        queue.ask(f"/fault?on=take&kind={kind}&n=2", "")
        queue.run("take-" + kind, {"x": kind})
        expect(f"the library takes on after {kind}", queue.wait("take-" + kind)["status"] == "COMPLETED")
    queue.ask("/fault?on=take&kind=429", "")
    begun = time.monotonic()
    time.sleep(2.2)  # the poll that is held open ends, the next gets it
    queue.run("take-429", {"x": 1})
    expect("and after 429, seconds later", queue.wait("take-429")["status"] == "COMPLETED" and time.monotonic() - begun > 4)
    queue.ask("/fault?on=done&kind=500", "")
    queue.run("done-500", {"x": 1})
    expect("it sends a result again after 500", queue.wait("done-500")["accepted"] == 1)
    queue.run("slow", {"sleep": 8})
    s = queue.wait("slow")
    expect("a job longer than the lease stays its own: heartbeats name it", s["status"] == "COMPLETED" and s["taken"] == 1)
    queue.run("stopped", {"sleep": 60})
    time.sleep(1)
    queue.ask("/cancel/stopped", "")
    queue.run("next", {"x": 1})
    expect("a job is stopped by the stop channel", queue.wait("next")["status"] == "COMPLETED")
    time.sleep(1)
    expect("and not answered", queue.ask("/status/stopped")["posts"] == 0)
    # In a worker that is killed, a job is lost to it and comes back.
    queue.run("victim", {"sleep": 6})
    time.sleep(1)
    kill(worker)
    worker = queue.library(folder, "lib2", width=1)
    v = queue.wait("victim", 60)
    expect("a killed worker's job is answered by another", v["worker"] == "lib2" and v["accepted"] == 1 and v["taken"] == 2)
    queue.run("single", {"x": 1})
    queue.wait("single")
    s = queue.ask("/stats")
    expect("one job at a time comes by the other path", s["takes"] > s["batch_takes"])
    end(worker)
    queue.close()


def streams(folder):
    queue = Queue()
    worker = queue.library(folder, "lib3", "stream")
    queue.run("s", {"parts": 4})
    s = queue.wait("s")
    expect("the library streams", s["stream"] == [{"output": {"part": i}} for i in range(4)])
    expect("and ends with all parts and isStream", s["is_stream"] and s["result"] == {"output": [{"part": i} for i in range(4)]})
    end(worker)
    worker = queue.nibble(folder, "n3")
    queue.run("t", {"prompt": "Invoice", "max_tokens": 6, "stream": True})
    t = queue.wait("t")
    parts = [p["output"] for p in t["stream"]]
    expect("so does nibble", t["is_stream"] and len(parts) > 0 and sum(parts, []) == t["result"]["output"])
    end(worker)
    queue.close()


def side_by_side(folder):
    """Both on one queue, each killed once: each job is answered once."""
    queue = Queue("--lease-ms", "4000")
    library, nibble = queue.library(folder, "lib4", width=4), queue.nibble(folder, "n4")
    queue.ask("/fill?n=300", '{"endpoint": "/health", "sleep": 0.2}')
    time.sleep(4)
    kill(library)
    library = queue.library(folder, "lib4", width=4)
    until = time.monotonic() + 90
    while time.monotonic() < until and queue.ask("/stats")["completed"] < 300:
        time.sleep(0.2)
    s = queue.ask("/stats")
    expect("side by side, every job is answered once",
           s["completed"] == 300 and s["not_once"] == 0 and s["repeated"] == 0 and s["conflicting"] == 0)
    expect("in words that both share", s["malformed"] == 0 and s["unauthorized"] == 0)
    end(library)
    end(nibble)
    queue.close()


def main():
    with tempfile.TemporaryDirectory() as folder:
        answering(folder)
        streams(folder)
        side_by_side(folder)
    return tap.end()


if __name__ == "__main__":
    sys.exit(main())
