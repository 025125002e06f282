"""What else can be served, and how: a model without an export, int8, pairs, HTTPS, another server's command."""

import contextlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from helpers.cli import succeeds
from helpers.service import RECORD, TEXTS, Service, assert_same, expected, running

MODEL = RECORD.parent / "plus-2"
PAIRS = [("the film is fine", "it is dull"), ("odd", "my dog is hardly awful")]


def test_a_model_is_served_by_pytorch(tmp_path):
    from sharcs.inference.engine import InferenceEngine
    from sharcs.inference.folder import open_model

    trained = open_model(MODEL)
    answers = list(InferenceEngine(trained.model, trained.tokenizer).answers(TEXTS))
    labels = trained.model.config.id2label
    with running(MODEL, "--deadline-ms", 60_000) as service:
        found = service.ask("/predict", {"inputs": TEXTS, "details": True})[1]
    for entries, answer in zip(found, answers, strict=True):
        ranked = [(labels[index], score) for index, score in zip(answer.classes, answer.scores, strict=True)]
        assert [entry["label"] for entry in entries] == [label for label, _ in ranked]
        assert [entry["score"] for entry in entries] == pytest.approx([score for _, score in ranked], abs=1e-5)
        assert entries[0]["tokens"] == answer.tokens
        assert entries[0]["cost"] == pytest.approx(answer.cost)


@pytest.mark.extended  # another way to the same engine, and exporting takes seconds
def test_an_int8_export_answers_as_its_engine(tmp_path):
    folder = tmp_path / "int8"
    succeeds("export", MODEL, "--output", folder, "--int8")
    with running(folder, "--deadline-ms", 60_000) as service:
        for text, (ranked, _) in zip(TEXTS, expected(folder, TEXTS), strict=True):
            assert_same(service.ask("/predict", {"inputs": text})[1], ranked)


def certificate(folder):
    """Sign a certificate for this machine by itself: the options that serve it, and its file."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the command openssl")
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1"]
    subprocess.run([*command, *names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return ("--tls-cert", cert, "--tls-key", key), cert


def test_pairs_and_https(tmp_path):
    options, cert = certificate(tmp_path)
    with running(RECORD, "--deadline-ms", 60_000, "--pairs", *options) as service:
        context = ssl.create_default_context(cafile=cert)
        with contextlib.closing(
            http.client.HTTPSConnection("127.0.0.1", service.port, timeout=30, context=context)
        ) as connection:

            def ask(inputs):
                connection.request("POST", "/predict", json.dumps({"inputs": inputs}))
                response = connection.getresponse()
                return response.status, json.load(response)

            for inputs, texts in ((PAIRS[0], PAIRS[:1]), (PAIRS, PAIRS), ([[text] for text in TEXTS], TEXTS)):
                status, found = ask(inputs)
                assert status == 200
                answers = [found] if len(texts) == 1 else found
                for entries, (ranked, _) in zip(answers, expected(RECORD, texts), strict=True):
                    assert_same(entries, ranked)
            assert expected(RECORD, PAIRS[:1])[0][0] != expected(RECORD, [" ".join(PAIRS[0])])[0][0]
            assert ask([["a", "b", "c"]])[0] == 422
        with socket.create_connection(("127.0.0.1", service.port)) as plain:
            plain.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            assert b"200" not in plain.recv(100)


def test_another_servers_command_runs_it():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        command = [sys.executable, "-m", "uvicorn", "sharcs_serve.asgi:application", "--fd", listening.fileno()]
        environment = os.environ | {"SHARCS_SERVE_MODEL": str(RECORD)}
        with subprocess.Popen(
            list(map(str, command)), pass_fds=[listening.fileno()], env=environment, stderr=subprocess.DEVNULL
        ) as process:
            try:
                service = Service(process, listening.getsockname()[1])  # requests wait until it accepts them
                (ranked, _) = expected(RECORD, TEXTS[:1])[0]
                assert_same(service.ask("/predict", {"inputs": TEXTS[0]})[1], ranked)
                (engine,) = service.engines()
                process.terminate()
                assert process.wait(30) in (0, -15)
                with pytest.raises(ProcessLookupError):
                    os.kill(engine, 0)
            finally:
                process.kill()


def test_another_servers_command_names_what_is_missing(monkeypatch):
    import sharcs_serve.asgi
    from sharcs_runtime import InputError

    monkeypatch.delenv("SHARCS_SERVE_MODEL", raising=False)
    with pytest.raises(InputError, match="SHARCS_SERVE_MODEL: has to name the directory"):
        sharcs_serve.asgi.application  # noqa: B018
