"""More than a service can do, and engine processes that die of it or beside it: rungs, refusals, nothing lost."""

import os
import signal

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from helpers.service import RUNGS, TEXTS, assert_same, expected, laddered, running


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return laddered(tmp_path_factory.mktemp("overload"))


@pytest.fixture(scope="module")
def service(export):
    with running(export, "--deadline-ms", 20) as started:
        yield started


@pytest.fixture(scope="module")
def pair(export):
    """Start a service with two engine processes."""
    with running(export, "--deadline-ms", 60_000, workers=2) as started:
        started.wait_for(lambda: started.metric("sharcs_workers_ready") == 2)
        yield started


def test_under_load_later_rungs_answer_and_say_so(service, export):
    before = service.metric("sharcs_degraded_total")
    patient = {"details": True, "deadline_ms": 60_000}
    with service.held():
        pending = [service.later("/predict", {"inputs": TEXTS * 6, **patient}) for _ in range(8)]
        strict = service.later("/predict", {"inputs": TEXTS, "brown_out": False, **patient})
        service.wait_for(lambda: service.waiting() == 8 * 30 + 5)
    for found, thread in [*pending, strict]:
        thread.join()
        assert found[0][0] == 200
    lists = [entries for found, _ in pending for entries in found[0][1]]
    answers = [(text, entries[0]) for text, entries in zip(TEXTS * 48, lists, strict=True)]
    assert {entry["rung"] for _, entry in answers} >= {1}
    by_rung = [dict(zip(TEXTS, expected(export, TEXTS, rung["policy"]), strict=True)) for rung in RUNGS]
    for text, entry in answers:
        ranked, answer = by_rung[entry["rung"]][text]
        assert entry["label"] == ranked[0][0]
        assert entry["sub_network"] == ["width-25", "full"][answer.width_index]
        assert entry["degraded"] == (entry["rung"] > 0)
    assert not any(entries[0]["degraded"] for entries in strict[0][0][1])
    degraded = sum(entry["degraded"] for _, entry in answers)
    assert service.metric("sharcs_degraded_total") == before + degraded


def both_busy(pair):
    """Have both engine processes stand still, each with a text: their numbers, and what will come."""
    before, pending = pair.metric("sharcs_batch_texts_count"), []
    numbers = pair.engines()
    for number in numbers:
        os.kill(number, signal.SIGSTOP)
    for count, text in enumerate(TEXTS[:2], 1):
        pending.append(pair.later("/predict", {"inputs": text}))
        pair.wait_for(lambda count=count: pair.metric("sharcs_batch_texts_count") == before + count)
    return numbers, pending


def assert_answered(pending, texts, export):
    for (found, thread), (ranked, _) in zip(pending, expected(export, texts), strict=True):
        thread.join()
        assert [status for status, _, _ in found] == [200]
        assert_same(found[0][1], ranked)


def test_each_of_two_engine_processes_takes_a_text(pair, export):
    numbers, pending = both_busy(pair)
    os.kill(numbers[0], signal.SIGCONT)  # it answers its own text, and what comes, while the other one stands still
    for text in TEXTS[2:]:
        assert_same(pair.ask("/predict", {"inputs": text})[1], expected(export, [text])[0][0])
    assert sum(bool(found) for found, _ in pending) <= 1
    os.kill(numbers[1], signal.SIGCONT)
    assert_answered(pending, TEXTS[:2], export)


def test_a_killed_one_of_two_loses_nothing(pair, export):
    restarts, again = pair.metric("sharcs_worker_restarts_total"), pair.metric("sharcs_requeued_total")
    numbers, pending = both_busy(pair)
    pending += [pair.later("/predict", {"inputs": text}) for text in TEXTS[2:]]
    pair.wait_for(lambda: pair.waiting() == len(TEXTS) - 2)
    os.kill(numbers[0], signal.SIGKILL)
    os.kill(numbers[1], signal.SIGCONT)
    assert_answered(pending, TEXTS, export)
    pair.wait_for(lambda: pair.metric("sharcs_workers_ready") == 2)
    assert pair.metric("sharcs_worker_restarts_total") == restarts + 1
    assert pair.metric("sharcs_requeued_total") == again + 1
    assert numbers[0] not in pair.engines()


@pytest.mark.extended
def test_both_killed_lose_nothing(pair, export):
    numbers, pending = both_busy(pair)
    for number in numbers:
        os.kill(number, signal.SIGKILL)
    assert_answered(pending, TEXTS[:2], export)
    pair.wait_for(lambda: pair.metric("sharcs_workers_ready") == 2)
