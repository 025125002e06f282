"""A real server process on 127.0.0.1, and a plain client."""

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

from sharcs_runtime import OnnxRunner, RoutingPolicy


class Service:
    """A running ``sharcs serve``."""

    def __init__(self, process, port):
        self.process, self.port = process, port
        self.address = f"http://127.0.0.1:{port}"

    def ask(self, path, body=None, method=None, headers=None):
        """Send a request on a connection of its own: status, decoded body and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method or ("GET" if body is None else "POST"), path, data, headers or {})
            response = connection.getresponse()
            content = response.read().decode()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(content) if is_json else content, response.headers

    def metric(self, name):
        """Sum a metric over its labels."""
        lines = self.ask("/metrics")[1].splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}[ {{]", line))

    def wait_for(self, condition):
        """Ask again until something holds; the time limit is the test's."""
        while not condition():
            assert self.process.poll() is None

    def engines(self):
        """List the process numbers of the engine processes."""
        file = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(number) for number in file.read_text().split()]

    def later(self, path, body):
        """Send a request from a thread; a list that its answer comes into, and the thread."""
        found = []
        thread = threading.Thread(target=lambda: found.append(self.ask(path, body)))
        thread.start()
        return found, thread

    @contextlib.contextmanager
    def held(self):
        """Have the one engine process stand still with a text, at most until the end; its number.

        Raises:
            AssertionError: If the text isn't answered afterwards.
        """
        (number,) = self.engines()
        before = self.metric("sharcs_batch_texts_count")
        os.kill(number, signal.SIGSTOP)
        try:
            found, thread = self.later("/predict", {"inputs": "held", "deadline_ms": 60_000, "brown_out": False})
            self.wait_for(lambda: self.metric("sharcs_batch_texts_count") > before)
            yield number
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGCONT)
        thread.join()
        assert found[0][0] == 200

    def waiting(self):
        """Count the texts in the queue."""
        return self.ask("/info")[1]["now"]["waiting"]


@contextlib.contextmanager
def running(folder, *options, workers=1):
    """Start the command with some engine processes; end it at the end."""
    command = [sys.executable, "-m", "sharcs_cli.app", "serve", folder, "--port", "0", "--workers", workers, *options]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as process:
        lines = []
        reader = threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True)
        try:
            while not (match := re.search(r"at https?://127\.0\.0\.1:(\d+)", "".join(lines[-1:]))):
                lines.append(process.stderr.readline())
                assert lines[-1], lines
            service = Service(process, int(match[1]))
            service.lines = lines
            reader.start()
            yield service
        finally:
            process.kill()
            process.wait()
            if reader.ident:
                reader.join()


RECORD = Path(__file__).parents[1] / "records" / "export-1"


def some_texts(count, seed=0):
    """Make texts of the recorded network's words."""
    draw = random.Random(seed)
    vocabulary = json.loads((RECORD / "tokenizer.json").read_text())["model"]["vocab"]
    words = sorted(filter(str.isalpha, vocabulary))
    return [" ".join(draw.choices(words, k=draw.randint(1, 8))) for _ in range(count)]


def calibrated(folder, policy, limit=0.1, record=RECORD, **more):
    """Copy the recorded export, with a policy that was calibrated for a limit of disagreement."""
    shutil.copytree(record, folder, dirs_exist_ok=True)
    content = json.loads((folder / "sharcs.json").read_text())
    content["policy"] = policy
    content["calibration"] = {
        **{"kind": "max_disagreement", "limit": limit, "confidence": 0.95, "met": True, "cost_ratio": 0.8},
        **more,
    }
    (folder / "sharcs.json").write_text(json.dumps(content))
    return folder


def classes(folder, texts, policy):
    """Answer by an engine in this process, one by one: indices of the classes."""
    runner = OnnxRunner(folder, threads=1)
    runner.policy = RoutingPolicy(**policy)
    return [next(runner.predict([text])).class_index for text in texts]


TEXTS = ["the film is fine", "my dog is hardly awful", "it is dull", "a plot is simply one two rare", "odd"]
RUNGS = [
    {"limit": 0.1, "cost_ratio": 0.8, "policy": {"start": "width-25", "escalation_threshold": 0.9}},
    {"limit": 0.5, "cost_ratio": 0.4, "policy": {"start": "width-25"}},
]


def laddered(folder):
    """Copy the recorded export, and give it a ladder and a frontier."""
    frontier = [{"start": "width-25", "cost_ratio": 0.4}, {"start": "full", "cost_ratio": 1.0}]
    return calibrated(folder, RUNGS[0]["policy"], ladder=RUNGS, frontier=frontier)


def expected(export, texts, policy=None):
    """Answer by an engine in this process, one by one: labels by falling probability, and who answered."""
    runner = OnnxRunner(export, threads=1)
    if policy is not None:
        runner.policy = RoutingPolicy(**policy)
    answers = [next(runner.answers([text])) for text in texts]
    return [
        ([(runner.labels[index], score) for index, score in zip(answer.classes, answer.scores, strict=True)], answer)
        for answer in answers
    ]


def assert_same(entries, ranked):
    """Compare what a service says of a text with what the engine does."""
    assert [entry["label"] for entry in entries] == [label for label, _ in ranked]
    for entry, (_, score) in zip(entries, ranked, strict=True):
        assert abs(entry["score"] - score) <= 1e-6
