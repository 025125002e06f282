"""Bodies and headers that nobody would send: each gets one line, and none is the service's fault."""

import asyncio
import json
from pathlib import Path

import pytest

pytest.importorskip("starlette")

from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.service import RECORD
from sharcs_serve.asgi import create_app
from sharcs_serve.formats import OWN_KEYS
from sharcs_serve.service import Service
from sharcs_serve.settings import Settings

POST, GET = ("/predict", "/", "/classify"), ("/", "/docs", "/health", "/ready", "/info", "/metrics")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
TEXTS = st.text(max_size=30) | st.lists(st.text(max_size=30) | st.lists(st.text(max_size=9), max_size=3), max_size=6)
OWN = st.fixed_dictionaries(
    {},
    optional={
        "inputs": TEXTS | JSON,
        "input": TEXTS | JSON,
        "parameters": JSON,
        "sub_network": st.sampled_from(["width-25", "full", "none"]) | JSON,
        "budget": st.floats() | JSON,
        "deadline_ms": st.floats(min_value=1) | JSON,
        "top_k": st.integers() | JSON,
        "details": st.booleans() | JSON,
        "brown_out": st.booleans() | JSON,
        "raw_scores": JSON,
        "function_to_apply": JSON,
    },
)
ENCODINGS = st.sampled_from(["utf-8", "utf-16", "latin-1", "utf-32"])
BODIES = (
    st.binary(max_size=60)
    | st.builds(lambda body, encoding: json.dumps(body).encode(encoding), OWN | JSON, ENCODINGS)
    | st.builds(lambda body: json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass"), OWN)
    | st.sampled_from([b"[" * 3000, b'{"inputs":' * 3000, b'{"inputs": "' + b"a" * 9000 + b'"}', b"1" * 9000, b"NaN"])
)
NAMES = st.sampled_from([b"content-type", b"content-length", b"authorization", b"traceparent", b"accept", b"x-a"])
HEADERS = st.lists(st.tuples(NAMES, st.binary(max_size=40)), max_size=4)


@pytest.fixture(scope="module")
def call():
    """A service in this process, with one engine process, and a function that asks it."""
    loop = asyncio.new_event_loop()
    service = Service(Settings(RECORD, max_body=8000, max_inputs=4, max_characters=5000))
    app = create_app(service)
    loop.run_until_complete(service.start())

    async def ask(method, path, body, headers, cuts):
        pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
        messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        messages[-1]["more_body"] = False
        sent, forever = [], asyncio.Event()

        async def receive():
            return messages.pop(0) if messages else await forever.wait()

        async def send(message):
            sent.append(message)

        scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b""}
        scope |= {"headers": headers, "http_version": "1.1", "scheme": "http", "root_path": "", "asgi": {}}
        scope |= {"server": ("a", 1), "client": ("a", 1)}
        await app(scope, receive, send)
        content = b"".join(message.get("body", b"") for message in sent)
        return sent[0]["status"], dict(sent[0]["headers"]), content

    yield lambda *asked: loop.run_until_complete(ask(*asked))
    loop.run_until_complete(service.stop())
    loop.close()
    assert "sharcs_worker_restarts_total 0" in service.metrics.text()


def check(call, method, path, body, headers, cuts):
    cuts = sorted(min(cut, len(body)) for cut in cuts)
    status, answered, content = call(method, path, body, headers, cuts)
    assert status in (200, 400, 404, 405, 413, 422, 429)
    if status == 200:
        return
    if answered[b"content-type"] == b"application/json":
        error = json.loads(content)
        assert error.keys() == {"error", "error_type"}
        assert len(error["error"].splitlines()) == 1
    else:
        assert len(content.splitlines()) == 1


CASES = {
    "method": st.sampled_from(["POST"] * 9 + ["GET", "HEAD", "PUT"]),
    "path": st.sampled_from([*POST, *POST, *GET, "/no"]),
    "body": BODIES,
    "headers": HEADERS,
    "cuts": st.lists(st.integers(0, 200), max_size=3),
}


@settings(max_examples=200)
@given(**CASES)
def test_whatever_comes_gets_one_line_and_no_5xx(call, method, path, body, headers, cuts):
    check(call, method, path, body, headers, cuts)


@pytest.mark.extended
@settings(max_examples=5000)
@given(**CASES)
def test_five_thousand_bodies(call, method, path, body, headers, cuts):
    check(call, method, path, body, headers, cuts)


def test_the_keys_are_all_of_them():
    drawn = Path(__file__).read_text().partition("OWN = ")[2].partition("ENCODINGS")[0]
    assert all(f'"{key}"' in drawn for key in OWN_KEYS)
