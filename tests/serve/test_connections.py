"""Connections: how many at once, how long one may wait, and what the limit of open files allows."""

import socket
from types import SimpleNamespace

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from helpers.service import RECORD, running
from sharcs_runtime import InputError
from sharcs_serve import connections
from sharcs_serve.connections import FILES, FILES_OF_WORKER, SPARE, connection_limit

OTHERS = SPARE + FILES + FILES_OF_WORKER


def test_above_the_limit_a_client_is_told_when_to_come_again():
    with running(RECORD, "--max-connections", 3) as service:
        held = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(3)]
        status, body, headers = service.ask("/predict", {"inputs": "a"})
        assert (status, headers["Retry-After"], headers["Connection"]) == (503, "1", "close")
        assert body == {"error": "too many connections; come again in 1 s", "error_type": "Overloaded"}
        assert service.ask("/ready")[0] == 503
        assert service.ask("/health")[0] == 200  # else whoever looks after it would end it
        held[0].sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 15\r\n\r\n" + b'{"inputs": "a"}')
        assert held[0].recv(100).startswith(b"HTTP/1.1 200 ")
        held[0].close()
        service.wait_for(lambda: service.ask("/ready")[0] == 200)
        assert service.ask("/predict", {"inputs": "a"})[0] == 200
        assert service.metric("sharcs_connections") == 3
        assert service.metric("sharcs_connections_refused_total") >= 3
        many = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(SPARE + 2)]
        assert many[-1].recv(1) == b""
        for end in (*held, *many):
            end.close()


def test_who_says_nothing_or_drips_is_closed_and_others_are_not():
    with running(RECORD, "--body-seconds", 0.3) as service:
        silent, dripping, late = (socket.create_connection(("127.0.0.1", service.port)) for _ in range(3))
        dripping.sendall(b"GET /ready HTTP/1.1\r\n")
        late.sendall(b"GET /ready HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = b""
        while not answer.endswith(b"ok"):
            answer += late.recv(1000)
        late.sendall(b"GET /ready HTTP/1.1\r\n")  # once more, and never ends
        for end in (silent, dripping, late):
            assert end.recv(1) == b""
            end.close()
        assert service.ask("/ready")[0] == 200


def test_a_head_without_end_is_not_kept():
    with running(RECORD) as service:
        status, answer, _ = service.ask("/ready", headers={f"X-{number}": "a" * 1000 for number in range(40)})
        assert (status, answer) == (200, "ok")
        with socket.create_connection(("127.0.0.1", service.port)) as endless:
            endless.sendall(b"GET /ready HTTP/1.1\r\nHost: a\r\n")
            with pytest.raises(OSError, match=r"reset|pipe"):
                endless.sendall((b"X-More: " + b"a" * 1000 + b"\r\n") * 100_000)


def limits(monkeypatch, soft, hard):
    put = []
    monkeypatch.setattr(
        connections,
        "resource",
        SimpleNamespace(
            RLIMIT_NOFILE=7,
            RLIM_INFINITY=-1,
            getrlimit=lambda _: (soft, hard),
            setrlimit=lambda *given: put.append(given),
        ),
    )
    return put


@pytest.mark.parametrize(
    ("wanted", "soft", "hard", "limit", "raised"),
    [
        (None, -1, -1, 10_000, None),
        (50, 1024, 1024, 50, None),
        (None, 1024, 1024, 1024 - OTHERS, 1024),
        (None, 256, -1, 10_000, 10_000 + OTHERS),
        (2000, 1024, 4096, 2000, 2000 + OTHERS),
        (2000, 1024, 1024, None, None),
        (None, 100, 100, None, None),
    ],
)
def test_open_files_are_counted(monkeypatch, wanted, soft, hard, limit, raised):
    put = limits(monkeypatch, soft, hard)
    if limit is None:
        with pytest.raises(InputError, match=f"`max_connections` .*: this process may open {hard} files"):
            connection_limit(wanted, 1)
    else:
        assert connection_limit(wanted, 1) == limit
    assert put == ([] if raised is None else [(7, (raised, hard))])
