"""The monitor: its rate of false alarms, how soon it finds a change, and that it checks what it says."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from helpers.encoders import load_routed, make_batch
from sharcs import DriftMonitor, InputError
from sharcs_runtime.drift import MIXTURE_A, MIXTURE_B_TIMES_RATE, log_beta_above, log_evidence

PROMISE = 0.02


def evidence_by_scipy(disagreements, checked, rate, promise):
    """The same as ``log_evidence`` of arrays, by another library."""
    k, n = np.asarray(disagreements, float), np.asarray(checked, float)
    a, b = MIXTURE_A, max(MIXTURE_A, MIXTURE_B_TIMES_RATE / promise)
    above = np.log(special.betaincc(k + a, n - k + b, rate)) - np.log(special.betaincc(a, b, rate))
    total = special.betaln(k + a, n - k + b) - special.betaln(a, b) + above
    return total - special.xlogy(k, rate) - special.xlog1py(n - k, -rate)


def test_the_beta_distribution_is_that_of_scipy():
    draw = np.random.default_rng(0)
    for _ in range(2000):
        a, b = 10 ** draw.uniform(-1, 5), 10 ** draw.uniform(-1, 6)
        mean = a / (a + b)
        spread = math.sqrt(mean * (1 - mean) / (a + b + 1))
        x = float(np.clip(mean + 3 * draw.normal() * spread, 1e-9, 1 - 1e-9))
        truth = stats.beta.logsf(x, a, b)
        if truth > -600:
            assert log_beta_above(a, b, x) == pytest.approx(truth, rel=1e-6, abs=1e-7)


def test_evidence_is_that_of_scipy():
    for k, n, rate in [(0, 5, 0.02), (3, 40, 0.01), (60, 2000, 0.02), (900, 40_000, 0.02), (5, 10**7, 1e-7)]:
        expected = float(evidence_by_scipy(k, n, rate, PROMISE))
        assert log_evidence(k, n, rate, PROMISE) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def alarm_times(rate, streams, checks, seed=0, promise=PROMISE):
    """Find after how many checks each stream raises the alarm, or infinity."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(streams):
        disagrees = draw.random(checks) < rate
        checked = np.flatnonzero(disagrees) + 1
        alarms = evidence_by_scipy(np.arange(1, len(checked) + 1), checked, promise, promise) >= math.log(20)
        found.append(checked[alarms.argmax()] if alarms.any() else math.inf)
    return np.array(found)


@pytest.mark.parametrize(("disagreements", "checked", "rate"), [(0, 7, 0.02), (3, 40, 0.02), (9, 100, 0.05)])
def test_evidence_is_the_mixture_of_likelihood_ratios(disagreements, checked, rate):
    a, b = MIXTURE_A, MIXTURE_B_TIMES_RATE / PROMISE

    def weight(theta):
        return theta ** (a - 1) * (1 - theta) ** (b - 1)

    def ratio(theta):
        return (theta / rate) ** disagreements * ((1 - theta) / (1 - rate)) ** (checked - disagreements)

    mixed = integrate.quad(lambda theta: weight(theta) * ratio(theta), rate, 1, limit=200)[0]
    total = integrate.quad(weight, rate, 1, limit=200)[0]
    assert log_evidence(disagreements, checked, rate, PROMISE) == pytest.approx(math.log(mixed / total), rel=1e-5)
    assert special.betaincc(a, b, rate) > 0.1  # the mixture has weight above the promise


def test_evidence_does_not_grow_on_average():
    """At the promised rate one more check leaves its expectation as it is, below it lowers it: a martingale."""
    for k, n in [(0, 0), (1, 10), (5, 60), (40, 900)]:
        now = math.exp(log_evidence(k, n, PROMISE, PROMISE))
        more, less = (math.exp(log_evidence(k + new, n + 1, PROMISE, PROMISE)) for new in (1, 0))
        assert PROMISE * more + (1 - PROMISE) * less == pytest.approx(now, rel=1e-9)
        assert 0.5 * PROMISE * more + (1 - 0.5 * PROMISE) * less < now


@pytest.mark.parametrize("rate", [PROMISE, 0.9 * PROMISE])
def test_stationary_streams_raise_no_more_alarms_than_promised(rate):
    share = np.isfinite(alarm_times(rate, 1000, 20_000)).mean()
    assert share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)
    if rate == PROMISE:
        assert share > 0.005  # the test could see more


@pytest.mark.parametrize(("changed", "within"), [(0.1, 1500), (0.3, 250), (1.0, 40)])
def test_a_change_is_found(changed, within):
    rate = (1 - changed) * 0.5 * PROMISE + changed * 0.4
    times = alarm_times(rate, 200, 5 * within)
    assert np.isfinite(times).all()
    assert np.median(times) < within


def test_the_lower_bound_is_where_evidence_reaches_the_level():
    monitor = DriftMonitor(PROMISE)
    assert monitor.estimate is None
    assert monitor.lower_bound == 0.0
    monitor.record([True] * 6 + [False] * 94)
    assert monitor.estimate == 0.06
    assert 0.005 < monitor.lower_bound < 0.03
    assert log_evidence(6, 100, monitor.lower_bound, PROMISE) == pytest.approx(math.log(20), abs=1e-3)
    for rate in np.linspace(0.001, 0.06, 30)[:-1]:
        assert (log_evidence(6, 100, rate, PROMISE) >= math.log(20)) == (rate <= monitor.lower_bound)


def test_the_alarm_stays_on_and_batches_do_not_matter():
    stream = np.array([False] * 50 + [True] * 6 + [False] * 1500)
    whole, single = DriftMonitor(PROMISE), DriftMonitor(PROMISE)
    whole.record(stream)
    evidence = evidence_by_scipy(np.cumsum(stream), np.arange(1, len(stream) + 1), PROMISE, PROMISE)
    expected = np.maximum.accumulate(evidence) >= math.log(20)
    for one, alarm in zip(stream, expected, strict=True):
        single.record([one])
        assert single.alarm == alarm
    assert whole.alarm
    assert single.alarm
    assert (whole.checked, whole.disagreements) == (single.checked, single.disagreements) == (1556, 6)
    assert whole.lower_bound < PROMISE  # of this moment


def test_inputs_are_drawn_by_share_and_seed():
    whole, pieces, other = DriftMonitor(PROMISE, seed=3), DriftMonitor(PROMISE, seed=3), DriftMonitor(PROMISE, seed=4)
    drawn = whole.draw(20_000)
    assert drawn.mean() == pytest.approx(0.05, abs=0.006)
    assert np.concatenate([pieces.draw(count) for count in (1, 7, 992, 19_000)]).tolist() == drawn.tolist()
    assert other.draw(20_000).tolist() != drawn.tolist()
    assert whole.seen == 20_000
    assert DriftMonitor(PROMISE, check_share=1.0).draw(100).all()


@pytest.mark.parametrize("share", [0.2, 1.0])
def test_the_estimate_is_of_all_traffic(share):
    """A share of the inputs is answered narrow, and a share of those is checked; neither may distort the rate."""
    draw = np.random.default_rng(0)
    monitor = DriftMonitor(0.5, check_share=share)
    narrow = draw.random(40_000) < 0.4
    disagrees = narrow & (draw.random(40_000) < 0.1)
    due = monitor.draw(40_000)
    monitor.record(disagrees[due])
    assert monitor.estimate == pytest.approx(disagrees.mean(), abs=0.01)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_disagreement": 0.0}, "max_disagreement 0"),
        ({"max_disagreement": 1.0}, "max_disagreement 1"),
        ({"confidence": 1.0}, "confidence 1"),
        ({"check_share": 0.0}, "check_share 0"),
        ({"check_share": 1.5}, r"check_share 1\.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings, says):
    with pytest.raises(InputError, match=says):
        DriftMonitor(**{"max_disagreement": PROMISE} | settings)


# With a model


@pytest.fixture
def model(bert_path):
    model = load_routed(bert_path)
    model.config.policy = {"cost_weight": 0.0}
    return model


LENGTHS = [4, 9, 1, 6, 12, 3, 8, 5]


@torch.no_grad()
def test_a_model_is_checked_against_its_full_width(model):
    batch = make_batch(model.config.encoder, LENGTHS)
    plain, full = model(**batch), model(**batch, width=1.0)
    narrow = plain.width_index < len(model.config.widths) - 1
    expected = narrow & (plain.logits.argmax(-1) != full.logits.argmax(-1))
    monitor = DriftMonitor(0.5, check_share=0.5, seed=1)
    due = torch.from_numpy(DriftMonitor(0.5, check_share=0.5, seed=1).draw(len(LENGTHS)))
    outputs = monitor.predict(model, batch)
    assert torch.equal(outputs.logits, plain.logits)
    assert (monitor.seen, monitor.checked) == (len(LENGTHS), int(due.sum()))
    assert monitor.disagreements == int((expected & due).sum())


@torch.no_grad()
def test_only_what_is_due_and_narrow_runs_twice(model):
    sizes = []
    model.register_forward_pre_hook(lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True)
    batch = make_batch(model.config.encoder, LENGTHS)
    model.config.policy = {"cost_weight": 50.0}  # all narrow
    monitor = DriftMonitor(0.5, check_share=0.5, seed=1)
    monitor.predict(model, batch)
    assert sizes == [len(LENGTHS), monitor.checked]
    sizes.clear()
    model.config.policy = {"cost_weight": -50.0}  # all full: nothing to check, and all of it counts
    monitor.predict(model, batch)
    assert sizes == [len(LENGTHS)]
    due = DriftMonitor(0.5, check_share=0.5, seed=1).draw(2 * len(LENGTHS))
    assert 0 < due[: len(LENGTHS)].sum() < due.sum() == monitor.checked


@torch.no_grad()
def test_after_an_alarm(model):
    batch = make_batch(model.config.encoder, LENGTHS)
    model.config.policy = {"cost_weight": 50.0}
    full = model(**batch, width=1.0).logits
    falls_back, goes_on = DriftMonitor(PROMISE, fall_back=True), DriftMonitor(PROMISE)
    for monitor in (falls_back, goes_on):
        assert monitor.policy(model).cost_weight == 50.0
        monitor.record([True] * 20)
        assert monitor.alarm
    assert torch.equal(falls_back.predict(model, batch).logits, full)
    assert falls_back.seen == 0
    assert goes_on.predict(model, batch).width_index.tolist() == [0] * len(LENGTHS)
    model.config.policy = goes_on.policy(model).to_dict()
    assert torch.equal(model(**batch).logits, full)


@torch.no_grad()
def test_answers_that_are_averaged_with_others_are_checked_too(model):
    lengths = [1 + row % 12 for row in range(96)]
    batch = make_batch(model.config.encoder, lengths)
    model.config.policy = {"start": "width-25", "escalation_threshold": 1.0, "blend": 0.9}
    plain, full = model(**batch), model(**batch, width=1.0)
    assert set(plain.width_index.tolist()) == {len(model.config.widths) - 1}
    differ = plain.logits.argmax(-1) != full.logits.argmax(-1)
    assert bool(differ.any())
    monitor = DriftMonitor(0.5, check_share=1.0)
    monitor.predict(model, batch)
    assert (monitor.checked, monitor.disagreements) == (96, int(differ.sum()))
    sizes = []
    model.register_forward_pre_hook(lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True)
    model.config.policy = {"start": "width-25", "escalation_threshold": 1.0, "blend": 0.0}
    DriftMonitor(0.5, check_share=1.0).predict(model, batch)
    assert sizes == [96]  # the full network's own answers agree
