"""The service as a process of its own: wire formats, bounds, death, load and end, beside the engine that it runs."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from helpers.cli import error_message, sharcs
from helpers.service import RECORD, TEXTS, assert_same, expected, laddered, running
from sharcs_serve.admission import Queue, Waiting
from sharcs_serve.checks import Checks
from sharcs_serve.metrics import HELP, Metrics
from sharcs_serve.pool import PoisonError, Pool


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return laddered(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def service(export):
    with running(export, "--deadline-ms", 60_000, "--max-body", 10_000) as started:
        yield started


def test_the_form_of_text_embeddings_inference(service, export):
    ranked = expected(export, TEXTS)
    for path in ("/predict", "/"):
        status, one, headers = service.ask(path, {"inputs": TEXTS[0]})
        assert status == 200
        assert_same(one, ranked[0][0])
        assert headers["x-sharcs-sub-network"] == ["width-25", "full"][ranked[0][1].width_index]
        assert float(headers["x-sharcs-cost"]) == pytest.approx(ranked[0][1].cost, abs=1e-4)
        assert int(headers["x-compute-tokens"]) == ranked[0][1].tokens
    for inputs in (TEXTS, [[text] for text in TEXTS]):
        several = service.ask("/predict", {"inputs": inputs, "brown_out": False})[1]
        for entries, (wanted, _) in zip(several, ranked, strict=True):
            assert_same(entries, wanted)


def test_hugging_faces_client_works_unchanged(service, export):
    client = InferenceClient(model=service.address)
    (ranked, _) = expected(export, TEXTS[:1])[0]
    found = client.text_classification(TEXTS[0])
    assert [(each.label, each.score) for each in found] == [(n, pytest.approx(s, abs=1e-6)) for n, s in ranked]
    assert len(client.text_classification(TEXTS[0], top_k=2)) == 2
    with pytest.raises(HfHubHTTPError, match="422"):
        client.text_classification(TEXTS[0], function_to_apply="sigmoid")


def test_vllms_form(service, export):
    status, body, _ = service.ask("/classify", {"model": "any", "input": TEXTS[:2], "brown_out": False})
    assert (status, body["object"], [entry["index"] for entry in body["data"]]) == (200, "list", [0, 1])
    for entry, (ranked, _) in zip(body["data"], expected(export, TEXTS[:2]), strict=True):
        assert entry["label"] == ranked[0][0]
        assert sorted(entry["probs"], reverse=True) == pytest.approx([score for _, score in ranked], abs=1e-6)
        assert entry["num_classes"] == 3
    assert body["usage"]["prompt_tokens"] == sum(answer.tokens for _, answer in expected(export, TEXTS[:2]))


@pytest.mark.parametrize("name", ["width-25", "full"])
def test_our_own_keys(service, export, name):
    asked = {"sub_network": name} if name == "full" else {"budget": 0.5}
    body = service.ask("/predict", {"inputs": TEXTS, "details": True, "top_k": 1, **asked})[1]
    for entries, (ranked, answer) in zip(body, expected(export, TEXTS, {"start": name}), strict=True):
        assert len(entries) == 1
        assert_same(entries, ranked[:1])
        assert (entries[0]["sub_network"], entries[0]["tokens"]) == (name, answer.tokens)
        assert entries[0]["cost"] == pytest.approx(answer.cost)
        assert (entries[0]["rung"], entries[0]["degraded"]) == (0, False)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 422, "the body is no JSON"),
        (b"[" * 5000, 422, "the body is no JSON"),
        (rb'{"inputs": "a \ud800"}', 422, "the body has half of a surrogate pair"),
        (b'{"inputs": "a \xed\xa0\x80"}', 422, "the body has half of a surrogate pair"),
        (rb'{"inputs": "a", "sub_network": "\ud83d"}', 422, "the body has half of a surrogate pair"),
        ([1], 422, "the body has to be a JSON object"),
        ({}, 422, "inputs: is missing"),
        ({"inputs": []}, 400, "there is no text"),
        ({"inputs": ["a", 3]}, 422, "inputs: number 2 is no text"),
        ({"inputs": [["a", "b"]]}, 422, "inputs: number 1 has 2 texts; the network takes 1"),
        ({"inputs": ["a"] * 33}, 413, "inputs: over 32 texts"),
        ({"inputs": "a", "sub_network": "width-75"}, 422, "policy width-75: the network has width-25, full"),
        ({"inputs": "a", "budget": 0.1}, 422, "the cheapest policy costs 0.400"),
        ({"inputs": "a", "top_k": 0}, 422, "top_k: 0 is not what it can be"),
        ({"inputs": "a", "top_k": True}, 422, "top_k: True is not what it can be"),
        ({"inputs": "a", "deadline_ms": float("nan")}, 422, "deadline_ms: nan is not"),
        ({"inputs": "a " * 20_000}, 413, "the body has more than 10000 bytes"),
        ({"inputs": "a", "raw_scores": True}, 422, "probabilities are all there is"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(service, body, status, says):
    found = service.ask("/predict", body)
    assert found[0] == status
    assert says in found[1]["error"]
    assert "\n" not in found[1]["error"]
    assert found[1]["error_type"]


def test_characters_beyond_ascii_are_read_and_written_as_they_are(service):
    found = {service.ask("/predict", body)[0] for body in (rb'{"inputs": "\ud83d\ude00"}', {"inputs": "\u96ea"})}
    assert found == {200}
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        body = '{"inputs": "a", "sub_network": "schm\u00e4ler"}'.encode()
        connection.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(4096)
    assert "policy schm\u00e4ler:".encode() in answer


def test_what_can_not_be_in_time_is_refused_with_when_to_come_again(service):
    expired = service.metric("sharcs_expired_total")
    with service.held():
        found, thread = service.later("/predict", {"inputs": TEXTS, "deadline_ms": 60_000})
        service.wait_for(lambda: service.waiting() == len(TEXTS))
        status, body, headers = service.ask("/predict", {"inputs": "late", "deadline_ms": 0.001})
        assert (status, body["error_type"]) == (429, "Overloaded")
        assert int(headers["Retry-After"]) >= 1
    thread.join()
    assert found[0][0] == 200
    with service.held():
        found, thread = service.later("/predict", {"inputs": "late", "deadline_ms": 50})
        time.sleep(0.2)  # until it is over before it could run
    thread.join()
    assert (found[0][0], found[0][1]["error_type"]) == (429, "Overloaded")
    assert service.metric("sharcs_expired_total") == expired + 1
    assert service.ask("/predict", {"inputs": "late", "deadline_ms": 60_000})[0] == 200


def test_a_killed_engine_process_loses_nothing(service, export):
    before = service.metric("sharcs_worker_restarts_total")
    with service.held() as number:
        pending = [service.later("/predict", {"inputs": text, "deadline_ms": 60_000}) for text in TEXTS]
        service.wait_for(lambda: service.waiting() == len(TEXTS))
        os.kill(number, signal.SIGKILL)
    for (found, thread), (ranked, _) in zip(pending, expected(export, TEXTS), strict=True):
        thread.join()
        assert found[0][0] == 200
        if found[0][2]["x-sharcs-degraded"] == "0":
            assert_same(found[0][1], ranked)
    assert service.metric("sharcs_worker_restarts_total") == before + 1
    assert service.metric("sharcs_requeued_total") >= 1


def test_a_client_that_leaves_costs_nothing(service):
    before = service.metric("sharcs_cancelled_total")
    with service.held():
        body = json.dumps({"inputs": TEXTS, "deadline_ms": 60_000}).encode()
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            service.wait_for(lambda: service.waiting() == len(TEXTS))
        service.wait_for(lambda: service.metric("sharcs_cancelled_total") == before + len(TEXTS))
        assert 'sharcs_requests_total{route="/predict",code="499"} 1\n' in service.ask("/metrics")[1]


def test_an_idle_engine_process_that_dies_is_replaced_before_anybody_asks(service):
    before = service.metric("sharcs_worker_restarts_total")
    (number,) = service.engines()
    os.kill(number, signal.SIGKILL)
    service.wait_for(lambda: service.metric("sharcs_worker_restarts_total") == before + 1)
    service.wait_for(lambda: service.ask("/ready")[0] == 200)
    assert service.engines() != [number]


def test_metrics_health_and_the_description(service):
    assert service.ask("/health")[:2] == service.ask("/ready")[:2] == (200, "ok")
    text = service.ask("/metrics")[1]
    assert {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")} == set(HELP)
    assert "sharcs_promise_max_disagreement 0.1" in text
    info = service.ask("/info")[1]
    assert (info["promise"]["limit"], [rung["limit"] for rung in info["rungs"]]) == (0.1, [0.1, 0.5])
    paths = service.ask("/docs")[1]["paths"]
    for path, methods in paths.items():
        for method in methods:
            assert service.ask(path, b"{}" if method == "post" else None)[0] in (200, 422)
    assert not [line for line in service.lines if any(text in line for text in TEXTS)]  # texts are nobody's business


def test_keys_and_the_end(export, tmp_path):
    (tmp_path / "keys").write_text("one\ntwo\n")
    with running(export, "--api-key-file", tmp_path / "keys", "--drain-seconds", 1) as service:
        assert service.ask("/predict", {"inputs": "a"})[0] == 401
        assert service.ask("/metrics")[0] == 401
        assert service.ask("/ready")[0] == 200
        headers = {"Authorization": "Bearer two"}
        assert service.ask("/predict", {"inputs": "a"}, headers=headers)[0] == 200
        (engine,) = service.engines()
        service.process.send_signal(signal.SIGTERM)
        service.wait_for(lambda: service.ask("/ready")[0] == 503)
        status, _, answered = service.ask("/predict", {"inputs": "a"}, headers=headers)
        assert (status, answered["Connection"]) == (200, "close")
        assert service.process.wait(30) == 0
        assert not Path(f"/proc/{engine}").exists()


def test_what_can_not_be_served_is_refused(service, tmp_path):
    command = [sys.executable, "-m", "sharcs_cli.app", "serve", RECORD, "--port", str(service.port), "--workers", "1"]
    taken = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert taken.returncode == 2
    assert f"--port {service.port}: can't be listened at" in taken.stderr
    (tmp_path / "empty").mkdir()
    assert "is no model" in error_message(sharcs("serve", tmp_path / "empty", "--port", 0))
    assert "--workers x: has to be auto" in error_message(sharcs("serve", RECORD, "--workers", "x"))
    assert "--brown-out x: has to be" in error_message(sharcs("serve", RECORD, "--brown-out", "x"))


def test_an_export_is_served_without_torch(export):
    code = (
        "import sys, sharcs_serve.run, sharcs_serve.worker\nfrom pathlib import Path\n"
        "sharcs_serve.worker.open_engine(Path(sys.argv[1]))\nimport sharcs_cli.app\n"
        "assert not {'torch', 'transformers', 'pyarrow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, export], check=True)


DEADLY = """
import os
from sharcs_serve import worker
answer = worker.answer
worker.answer = lambda *given: os._exit(1) if "poison" in given[2]["texts"] else answer(*given)
worker.main()
"""


def test_a_text_that_kills_two_engine_processes_is_given_up_alone(export, tmp_path, monkeypatch, caplog):
    (tmp_path / "deadly.py").write_text(DEADLY)
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **more: popen([command[0], tmp_path / "deadly.py", *command[3:]], **more)
    )

    async def serve():
        metrics, queue = Metrics(), Queue([1.0], 1.0, 1)
        pool = Pool(export, queue, metrics, 1, Checks(0.0, metrics))
        await pool.start(lambda info: None)
        loop = asyncio.get_running_loop()
        texts = ["fine", "poison", *TEXTS]
        waiting = [Waiting(1e9, queue.next_number(), text, None, True, 0.0, loop.create_future()) for text in texts]
        pool.put(waiting)
        answers = [each.answer for each in waiting]
        found = await asyncio.wait_for(asyncio.gather(*answers, return_exceptions=True), 60)
        await pool.stop()
        return found

    found = asyncio.run(serve())
    assert isinstance(found[1], PoisonError)
    assert str(found[1]) in caplog.text
    assert "poison" not in caplog.text
    assert all("probabilities" in each for number, each in enumerate(found) if number != 1)
