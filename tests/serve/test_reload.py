"""Another model or policy in the place of the one that is served: SIGHUP, while requests come in."""

import json
import os
import shutil
import signal

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from helpers.service import RECORD, calibrated, classes, running, some_texts
from sharcs_serve.worker import open_engine

FULL, NARROW = {"start": "full"}, {"start": "width-25"}
TEXTS = some_texts(30, seed=3)


@pytest.fixture
def current(tmp_path):
    """Lead a link to one of three directories: the first, a second, and one that can't be loaded."""
    calibrated(tmp_path / "first", FULL)
    calibrated(tmp_path / "second", NARROW)
    shutil.copytree(RECORD, tmp_path / "broken")
    (tmp_path / "broken" / "trunk.onnx").write_bytes(b"no graph")
    link = tmp_path / "current"
    link.symlink_to("first")

    def point(name):
        (tmp_path / "new").symlink_to(name)
        (tmp_path / "new").replace(link)

    return link, point


def test_a_new_policy_takes_over_and_no_request_fails(current):
    link, point = current
    with running(link, "--drain-seconds", 0) as service:
        (first,) = service.engines()
        old = service.ask("/info")[1]["revision"]
        point("broken")
        service.process.send_signal(signal.SIGHUP)
        service.wait_for(lambda: any("not reloaded" in line for line in service.lines))
        assert (service.engines(), service.ask("/info")[1]["revision"]) == ([first], old)
        os.kill(first, signal.SIGKILL)
        service.wait_for(lambda: service.engines() not in ([], [first]) and service.ask("/ready")[0] == 200)
        (first,) = service.engines()  # of what was there before
        assert service.ask("/predict", {"inputs": "a"})[2]["x-sharcs-revision"] == old
        point("second")
        service.process.send_signal(signal.SIGHUP)
        found = []
        while not found or found[-1][2]["x-sharcs-revision"] == old:
            found.append(service.ask("/predict", {"inputs": TEXTS}))
            assert found[-1][0] == service.ask("/ready")[0] == 200
        new = found[-1][2]["x-sharcs-revision"]
        assert service.ask("/info")[1]["revision"] == new
        assert f'revision="{old}"' not in service.ask("/metrics")[1]
        service.wait_for(lambda: first not in service.engines())
        assert len(service.engines()) == 1
        labels = json.loads((RECORD / "sharcs.json").read_text())["labels"]
        for policy, revision in ((FULL, old), (NARROW, new)):
            wanted = [labels[index] for index in classes(link, TEXTS, policy)]
            answers = [body for _, body, headers in found if headers["x-sharcs-revision"] == revision]
            assert answers
            assert all([entries[0]["label"] for entries in body] == wanted for body in answers)
        assert service.metric("sharcs_worker_restarts_total") == 1
        service.process.send_signal(signal.SIGHUP)
        service.wait_for(lambda: len(service.engines()) == 2)
        service.process.send_signal(signal.SIGTERM)  # while the next one starts
        assert service.process.wait(30) == 0


def test_a_text_that_waits_while_the_process_changes_is_answered(current):
    link, point = current
    with running(link) as service:
        with service.held() as number:
            pending = [service.later("/predict", {"inputs": text, "deadline_ms": 60_000}) for text in TEXTS]
            service.wait_for(lambda: service.waiting() == len(TEXTS))
            point("second")
            service.process.send_signal(signal.SIGHUP)
            service.wait_for(lambda: any("reloaded: revision" in line for line in service.lines))
        new = service.ask("/info")[1]["revision"]
        for found, thread in pending:
            thread.join()
            assert (found[0][0], found[0][2]["x-sharcs-revision"]) == (200, new)
        service.wait_for(lambda: number not in service.engines())


def test_the_revision_is_that_of_policy_and_weights(tmp_path):
    policies = {"a": FULL, "b": NARROW, "c": FULL, "d": FULL}
    folders = [calibrated(tmp_path / name, policy) for name, policy in policies.items()]
    shutil.copy(folders[3] / "tail-1.onnx", folders[3] / "tail-0.onnx")
    first, policy, same, weights = (open_engine(folder)[1]["revision"] for folder in folders)
    assert first == same
    assert len({first, policy, weights}) == 3
