"""The load generator: when requests are due, how they are counted, and a service under it."""

import gc
import json
import socket
import threading

import numpy as np
import pytest

from helpers.cli import error_message, sharcs, succeeds, write_csv
from sharcs_serve.load import Outcome, advice, due_times, measure, summary, without_pauses


def test_requests_are_due_at_the_rate():
    times = due_times(200, 50, seed=1)
    assert len(times) == pytest.approx(10_000, abs=400)
    gaps = np.diff(times)
    assert (gaps >= 0).all()
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as of a Poisson process
    burst = due_times(200, 50, seed=1, bursty=True)
    assert len(burst) == len(times)
    assert (burst % 1 < 0.5).all()
    assert np.array_equal(due_times(200, 50, seed=1), times)


def test_what_is_counted():
    outcomes = [Outcome(200, 0.01)] * 6 + [Outcome(200, 0.5, True)] * 2 + [Outcome(429, 0.001), Outcome(0, 60.0)]
    found = summary(outcomes, np.linspace(0.2, 2.0, 10), 5, 100)
    assert (found.offered, found.answered, found.refused, found.lost) == (5, 0.8, 0.1, 0.1)
    assert (found.degraded, found.goodput, found.good_share) == (0.25, 3, 0.6)
    assert found.p50_ms == pytest.approx(10)
    assert found.p99_ms == pytest.approx(500)
    assert advice([found], 100).startswith("no rate kept 100 ms")
    good = summary(outcomes[:6], np.linspace(0.2, 2.0, 6), 3, 100)
    assert advice([good, found], 100).startswith("up to 3 a second, 99% of the requests were answered within 100 ms")


def serve_slowly(server, both):
    """Answer two connections, the first request only when the second is there."""
    ends = [server.accept()[0] for _ in range(2)]
    for end in ends:
        end.recv(65536)
    both.set()
    for end in ends:
        end.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Sharcs-Degraded: 1\r\n\r\nok")


def test_requests_do_not_wait_for_earlier_ones():
    with socket.create_server(("127.0.0.1", 0)) as server:
        both = threading.Event()
        thread = threading.Thread(target=serve_slowly, args=(server, both))
        thread.start()
        found = measure(server.getsockname()[:2], ["a", "b"], np.array([0.0, 0.02]), 2, 1e5)
        thread.join()
    assert both.is_set()
    assert (found.answered, found.degraded) == (1, 1)
    assert found.p99_ms > found.p50_ms > 0  # the first waited for the second, from when it was due


def test_a_connection_that_the_server_has_closed_loses_nothing():
    def serve(server):
        for _ in range(3):
            end = server.accept()[0]
            end.recv(65536)
            end.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            end.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        found = measure(server.getsockname()[:2], ["a"], np.array([0.0, 0.1, 0.2]), 3, 1e5)
        thread.join(5)
    assert (found.answered, found.lost) == (1, 0)


def test_what_is_imported_is_left_out_of_the_search_for_garbage():
    before = gc.get_freeze_count()
    with without_pauses():
        assert gc.get_freeze_count() > before + 1000
    assert gc.get_freeze_count() == 0


def test_the_command_writes_numbers_and_a_picture(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        (host, port), data = server.getsockname()[:2], write_csv(tmp_path / "a.csv", [{"text": "a"}, {"text": "b"}])
        server.close()  # nobody answers there
        run = succeeds("load", f"http://{host}:{port}", "--data", data, "--rates", "20,40", "--seconds", 0.2,
                       "--json", tmp_path / "load.json")  # fmt: skip
    written = json.loads((tmp_path / "load.json").read_text())
    assert [load["rate"] for load in written["loads"]] == [20, 40]
    assert all(load["lost"] == 1 for load in written["loads"] if load["offered"])
    assert (tmp_path / "load.png").read_bytes().startswith(b"\x89PNG")
    assert "no rate kept 100 ms" in run.err
    wrong = {
        ("http://example.org:80",): "is another machine; allow it by --allow-host example.org",
        ("ftp://127.0.0.1:8",): "has to be like http://127.0.0.1:8080",
        ("http://127.0.0.1:1", "--rates", "a"): "--rates a: have to be numbers above 0",
    }
    for (url, *more), says in wrong.items():
        options = more or ["--rates", "5"]
        assert says in error_message(sharcs("load", url, "--data", data, *options))
