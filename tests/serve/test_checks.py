"""Answers that are checked after they went out: against the full network, and against a policy in the shadow."""

import asyncio
import json
import shutil
import signal

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from helpers.cli import error_message, sharcs
from helpers.service import RECORD, calibrated, classes, running, some_texts
from sharcs_runtime import DisagreementCounter, InputError
from sharcs_runtime.files import claimed
from sharcs_serve.checks import BACKLOG, Checks
from sharcs_serve.metrics import Metrics
from sharcs_serve.stored import merged_counts, stored_policy, weights_digest
from sharcs_serve.wire import Link, packed

BLENDED = {"start": "width-25", "escalation_threshold": 0.95, "blend": 0.6}
NARROW, FULL = {"start": "width-25"}, {"start": "full"}
TEXTS = some_texts(60, seed=5)


def ask_all(service, texts=TEXTS):
    for start in range(0, len(texts), 30):
        assert service.ask("/predict", {"inputs": texts[start : start + 30], "brown_out": False})[0] == 200


def otherwise(one, other):
    return sum(a != b for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return calibrated(tmp_path_factory.mktemp("checks") / "export", BLENDED)


def test_blended_answers_are_compared_and_counts_go_on_after_a_restart(export, tmp_path):
    shadow = calibrated(tmp_path / "shadow", NARROW)
    options = ("--check-share", 1, "--monitor-file", tmp_path / "monitor.json", "--shadow", shadow)
    given, full, narrow = (classes(export, TEXTS, policy) for policy in (BLENDED, FULL, NARROW))
    assert otherwise(given, full) > 1
    assert otherwise(given, narrow) > 1
    for times in (1, 2):
        with running(export, *options, "--drain-seconds", 0) as service:
            ask_all(service)
            service.ask("/predict", {"inputs": TEXTS[:5], "sub_network": "full"})  # is no answer of a rung
            service.wait_for(lambda: service.metric("sharcs_drift_checked_total") == 60 * times)  # noqa: B023
            service.wait_for(lambda: service.metric("sharcs_shadow_checked_total") == 60)
            assert service.metric("sharcs_drift_seen_total") == 60 * times
            assert service.metric("sharcs_drift_disagreements_total") == times * otherwise(given, full)
            assert service.metric("sharcs_drift_estimate") == pytest.approx(otherwise(given, full) / 60)
            assert service.metric("sharcs_shadow_otherwise_total") == otherwise(given, narrow)
            assert 0 < service.metric("sharcs_shadow_cost_sum") < service.metric("sharcs_cost_sum")
            with pytest.raises(InputError, match="is writing it"), claimed(options[3]):
                pass
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(30) == 0
        shutil.copy(tmp_path / "monitor.json", tmp_path / f"{times}.json")
    (counters,) = merged_counts([tmp_path / "1.json", tmp_path / "2.json", tmp_path / "1.json"]).values()
    assert [(each.seen, each.checked, each.disagreements) for each in counters] == [
        (120, 120, 2 * otherwise(given, full))
    ]


def checks_of(share=1.0, policy=NARROW, **more):
    info = {"revision": "r", "sub_networks": ["width-25", "full"], "policy": policy}
    info["calibration"] = {"kind": "max_disagreement", "limit": 0.1, "confidence": 0.95, "met": True, **more}
    checks = Checks(share, Metrics())
    checks.learn(info, None)
    return checks, {"rung": 0, "info": info, "probabilities": [0.2, 0.8], "answered_by": 0, "start": 0}


def test_checks_wait_until_no_text_does_or_take_a_twentieth():
    checks, answer = checks_of()
    for number in range(5):
        checks.take_note(str(number), answer)
    assert checks.take("r", idle=False) is None
    assert checks.take("r", idle=True).text == "0"
    assert checks.take("r", idle=True) is None  # one at a time
    checks, answer = checks_of()
    checks.take_note("a", answer)
    checks.earn(1.0)
    assert checks.take("other", idle=False) is None
    assert checks.take("r", idle=False).text == "a"


class Engine(Link):
    """An engine process that answers each check in a second."""

    def __init__(self, answers):
        super().__init__(None)
        self.answers = answers

    def send(self, message):
        """Take a message."""
        if "texts" in message:
            for part in [*self.answers, {"done": True, "seconds": 1.0}]:
                self.data_received(packed(part))


def test_a_check_while_texts_wait_is_paid_for_and_one_that_gave_way_comes_again():
    async def run():
        checks, answer = checks_of()
        for _ in range(3):
            checks.take_note("a", answer)
        checks.earn(1.0)
        agreed = [{"numbers": [0], "probabilities": [[0.1, 0.9]], "cost": [1.0]}]
        assert await checks.run(Engine(agreed), checks.take("r", idle=False))
        assert checks.take("r", idle=False) is None
        checks.earn(10.0)
        assert checks.take("r", idle=False) is None  # 0.05 + 0.1 - 1 is not enough
        assert (checks.counters[0].checked, len(checks)) == (1, 2)
        assert await checks.run(Engine([]), checks.take("r", idle=True))
        assert (checks.counters[0].checked, len(checks)) == (1, 2)
        assert await checks.run(Engine([{"numbers": [0], "error": "no"}]), checks.take("r", idle=True))
        assert (checks.counters[0].checked, len(checks)) == (1, 1)
        dead = Engine([])
        dead.connection_lost(None)
        dead.send = lambda _: None
        assert not await checks.run(dead, checks.take("r", idle=True))
        assert (checks.counters[0].checked, len(checks)) == (1, 0)

    asyncio.run(run())


def test_only_a_check_of_an_idle_process_gives_way():
    async def run(idle):
        checks, answer = checks_of()
        checks.take_note("a", answer)
        checks.earn(1.0)
        silent = Engine([])
        sent = []
        silent.send = sent.append
        running_check = asyncio.create_task(checks.run(silent, checks.take("r", idle)))
        await asyncio.sleep(0)
        checks.give_way()
        running_check.cancel()
        return [message.get("drop") for message in sent]

    assert asyncio.run(run(True)) == [None, [0, 1]]
    assert asyncio.run(run(False)) == [None]


def test_each_rung_has_its_own_limit_and_its_alarm_is_a_line(caplog):
    checks, answer = checks_of(
        limit=0.1, ladder=[{"limit": 0.001, "policy": NARROW}, {"limit": 0.5, "policy": NARROW}]
    )
    truth = DisagreementCounter(0.001)

    async def run():
        for number in range(60):
            checks.take_note("a", answer | {"rung": number % 2})
            other = [
                {"numbers": [0], "probabilities": [[0.1, 0.9] if number % 10 < 8 else [0.9, 0.1]], "cost": [1.0]}
            ]
            await checks.run(Engine(other), checks.take("r", True))

    asyncio.run(run())
    truth.record(([False] * 4 + [True]) * 6)
    checks.measure()
    lines = checks.metrics.text().splitlines()
    assert {'sharcs_drift_alarm{rung="0"} 1', 'sharcs_drift_alarm{rung="1"} 0'} <= set(lines)
    assert f'sharcs_drift_lower_bound{{rung="0"}} {truth.lower_bound:.17g}' in lines
    assert [record.getMessage()[:7] for record in caplog.records] == ["rung 0:"]


def test_counts_of_another_network_are_not_mixed_in():
    checks, answer = checks_of()
    checks.take_note("runs", answer)
    checks.take_note("old", answer)
    runs = checks.take("r", idle=True)
    info = answer["info"] | {"revision": "s"}
    checks.learn(info, None)
    checks.take_note("late", answer)
    checks.take_note("new", answer | {"info": info})

    async def end():
        await checks.run(Engine([{"numbers": [0], "probabilities": [[0.1, 0.9]], "cost": [1.0]}]), runs)

    asyncio.run(end())
    assert checks.counters[0].checked == 0
    assert checks.take("r", idle=True) is None
    assert checks.take("s", idle=True).text == "new"
    checks.learn(answer["info"], None)  # back again
    assert checks.counters[0].seen == 2
    assert {revision: rungs["0"]["drawn"] for revision, rungs in checks.state().items()} == {"r": 2, "s": 1}


def test_what_is_the_full_networks_own_costs_nothing_and_a_full_backlog_is_no_delay():
    checks, answer = checks_of()
    own = answer | {"answered_by": 1, "start": 0}
    checks.take_note("a", own)
    assert (checks.counters[0].checked, len(checks)) == (1, 0)
    blended, _ = checks_of(policy=BLENDED)
    blended.take_note("a", own | {"info": own["info"] | {"policy": BLENDED}})
    assert (blended.counters[0].checked, len(blended)) == (0, 1)
    for _ in range(BACKLOG + 3):
        checks.take_note("a", answer)
    assert len(checks) == BACKLOG
    assert "sharcs_checks_dropped_total 3" in checks.metrics.text()
    share, answer = checks_of(0.2)
    for _ in range(2000):
        share.take_note("a", answer)
    assert 300 < len(share) < 500


def test_no_check_runs_while_texts_wait(export):
    with running(export, "--check-share", 1) as service:
        with service.held():
            pending = [service.later("/predict", {"inputs": text, "deadline_ms": 60_000}) for text in TEXTS[:8]]
            service.wait_for(lambda: service.waiting() == 8)
            assert service.metric("sharcs_drift_checked_total") == 0
        for found, thread in pending:
            thread.join()
            assert found[0][0] == 200
        service.wait_for(lambda: service.metric("sharcs_drift_checked_total") == 9)


def test_what_can_not_be_checked_is_refused(export, tmp_path):
    def refused(*options):
        return error_message(sharcs("serve", RECORD, "--port", 0, *options))

    assert "--check-share: the model promises no limit of disagreement" in refused("--check-share", 0.1)
    assert "add --check-share 0.05" in refused("--shadow", export)
    assert "--check-share 2: has to be from 0 to 1" in refused("--check-share", 2)
    (tmp_path / "monitor.json").write_text('{"r": {"0": {}}}')
    assert "holds no counts of a service" in refused("--check-share", 1, "--monitor-file", tmp_path / "monitor.json")
    assert (tmp_path / "monitor.json").read_text() == '{"r": {"0": {}}}'


def test_a_shadow_is_another_policy_of_the_same_networks(export, tmp_path):
    info = {"kind": "export", "sub_networks": ["width-25", "full"], "weights": weights_digest(export)}
    assert stored_policy(calibrated(tmp_path / "same", NARROW), info)["start"] == "width-25"
    model = RECORD.parent / "plus-2"
    assert stored_policy(model, info) == json.loads((model / "config.json").read_text())["policy"]
    (tmp_path / "same" / "tail-0.onnx").write_bytes(b"other")
    assert stored_policy(tmp_path / "same" / "sharcs.json", info)["start"] == "width-25"
    (tmp_path / "width.json").write_text('{"policy": {"start": "width-75"}}')
    (tmp_path / "none.json").write_text("{}")
    for place, says in {
        "same": "holds other weights",
        "width.json": "policy width-75: the network has width-25, full",
        "none.json": "holds no policy",
        "nothing": "holds no policy",
    }.items():
        with pytest.raises(InputError, match=f"`shadow` {tmp_path / place}: {says}"):
            stored_policy(tmp_path / place, info)
