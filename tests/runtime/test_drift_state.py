"""The drift monitor under threads, and its state: saved, loaded, merged."""

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sharcs import DriftMonitor, InputError
from sharcs_runtime import DisagreementCounter


@pytest.fixture
def often():
    """Let threads take turns as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_lose_no_check(often):
    monitor = DisagreementCounter(0.5, check_share=1.0)

    def work(_):
        for _ in range(100):
            due = monitor.draw(4)
            monitor.record([True, False, False, False])
            assert due.all()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert (monitor.seen, monitor.checked, monitor.disagreements) == (3200, 3200, 800)
    assert monitor.estimate == 0.25


class Watched:
    """A lock that tells when somebody has to wait for it."""

    def __init__(self, waits):
        self._lock, self._waits = threading.Lock(), waits

    def __enter__(self):  # noqa: D105
        if not self._lock.acquire(blocking=False):
            self._waits()
            self._lock.acquire()

    def __exit__(self, *_):  # noqa: D105
        self._lock.release()


@pytest.mark.parametrize("act", ["record", "draw", "record a batch", "merge"])
def test_a_thread_waits_while_another_one_counts(act):
    """Between reading the counts and writing them back, another thread comes; it ends only after that."""
    monitor, other = DisagreementCounter(0.5, check_share=1.0), DisagreementCounter(0.5)
    other.record([True, False])
    acts = {
        "record": lambda: monitor.record([True, False]),
        "draw": lambda: monitor.draw(2),
        "record a batch": lambda: monitor.record([True, False], "name"),
        "merge": lambda: monitor.merge(other),
    }
    come, threads = threading.Event(), []

    class Counts(dict):
        def __setitem__(self, key, value):
            if not threads:
                threads.append(threading.Thread(target=lambda: (acts[act](), come.set())))
                threads[0].start()
                assert come.wait(60)
            super().__setitem__(key, value)

    monitor._lock, monitor._counts = Watched(come.set), Counts()
    monitor.record([True, False, False])
    threads[0].join(60)
    added = {"record": (0, 2, 1), "draw": (2, 0, 0), "record a batch": (2, 2, 1), "merge": (0, 2, 1)}[act]
    expected = tuple(map(sum, zip((0, 3, 1), added, strict=True)))
    assert (monitor.seen, monitor.checked, monitor.disagreements) == expected
    assert tuple(map(sum, zip(*monitor._counts.values(), strict=True))) == expected


def test_threads_draw_the_share_and_count_a_named_batch_once(often):
    monitor = DisagreementCounter(0.5, check_share=0.5)

    def work(number):
        for name in range(60):
            due = monitor.draw(10, f"batch {name}")
            monitor.record([False] * int(due.sum()), f"batch {name}", 10)
            monitor.draw(1)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert monitor.seen == 60 * 10 + 6 * 60
    assert 0.4 < monitor.checked / 600 < 0.6


def test_a_loaded_monitor_goes_on_as_the_saved_one_would():
    stream = np.random.default_rng(0).random((60, 40)) < 0.04

    def run(monitor, batches):
        drawn = []
        for batch in batches:
            due = monitor.draw(len(batch))
            drawn += due.tolist()
            monitor.record(batch[due])
        return drawn

    whole, first = (DriftMonitor(0.01, check_share=0.3, seed=5, fall_back=True) for _ in range(2))
    expected = run(whole, stream)
    begun = run(first, stream[:30])
    text = json.dumps(first.to_dict())
    second = DriftMonitor.from_dict(json.loads(text))
    assert begun + run(second, stream[30:]) == expected
    assert second.fall_back
    assert second.to_dict()["drawn"] == whole.to_dict()["drawn"] == 2400
    for name in ("seen", "checked", "disagreements", "alarm", "lower_bound"):
        assert getattr(second, name) == getattr(whole, name)
    assert whole.disagreements > 5


def test_merged_counters_count_everything_once():
    one, other, later = (DisagreementCounter(0.3, check_share=1.0) for _ in range(3))
    for monitor, wrong in ((one, 1), (other, 2), (later, 3)):
        monitor.draw(10)
        monitor.record([True] * wrong + [False] * (10 - wrong))
        monitor.draw(5, "twice")
        monitor.record([True] * wrong + [False] * (5 - wrong), "twice", 5)
    one.merge(other)
    # "twice" came to both: the first record stands.
    assert (one.seen, one.checked, one.disagreements) == (25, 25, 1 + 1 + 2)
    one.merge(DisagreementCounter.from_dict(json.loads(json.dumps(other.to_dict()))))
    assert one.checked == 25
    other.draw(4)
    other.record([True, False, False, False])
    one.merge(other)  # has grown
    assert (one.seen, one.disagreements) == (29, 5)
    # Two processes go on from the same saved state: what both had counts once, what each adds counts.
    saved = later.to_dict()
    going_on = [DisagreementCounter.from_dict(saved) for _ in range(2)]
    for monitor in going_on:
        monitor.draw(7)
        monitor.record([False] * 7)
    going_on[0].merge(going_on[1])
    assert (going_on[0].seen, going_on[0].checked, going_on[0].disagreements) == (29, 29, 6)
    going_on[0].merge(going_on[0])
    assert going_on[0].checked == 29
    one.record([True] * 5, "twice", 5)
    assert not one.draw(5, "twice").any()
    assert one.disagreements == 5


def test_many_small_streams_raise_the_alarm_together_and_none_is_taken_over():
    whole = DisagreementCounter(0.02)
    parts = [DisagreementCounter(0.02) for _ in range(12)]
    for part in parts:
        part.draw(40)
        part.record([True] * 2 + [False] * 38)
        assert not part.alarm
        whole.merge(part)
    assert (whole.checked, whole.disagreements, whole.alarm) == (480, 24, True)
    alarmed, calm = DisagreementCounter(0.02), DisagreementCounter(0.02)
    alarmed.record([True] * 20)
    calm.record([False] * 5000)
    calm.merge(alarmed)
    assert alarmed.alarm
    assert not calm.alarm  # 20 of 5,020
    assert DisagreementCounter.from_dict(alarmed.to_dict()).alarm


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state.pop("counts"),
        lambda state: state.update(counts={"process:x": [1, 2]}),
        lambda state: state.update(counts={"process:x": [9, 2, 3]}),
        lambda state: state.update(counts={"process:x": [9, "2", 1]}),
        lambda state: state.update(counts=[1]),
        lambda state: state.update(drawn="many"),
        lambda state: state.update(unheard_of=1),
        lambda state: state.update(max_disagreement=None),
    ],
)
def test_what_is_no_state_is_refused(spoil):
    state = DisagreementCounter(0.02).to_dict()
    spoil(state)
    with pytest.raises(InputError, match="no state of a DisagreementCounter") as refusal:
        DisagreementCounter.from_dict(state)
    assert "\n" not in str(refusal.value)


def test_counters_of_two_promises_are_not_merged():
    with pytest.raises(
        InputError, match=r"max_disagreement 0\.05: this one has 0\.02; merge counters of one promise"
    ):
        DisagreementCounter(0.02).merge(DisagreementCounter(0.05))
    with pytest.raises(InputError, match="confidence"):
        DisagreementCounter(0.02).merge(DisagreementCounter(0.02, confidence=0.9))
