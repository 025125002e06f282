"""The study of the service: what is made of outcomes, on numbers whose results are known by hand."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from serving import report, scores
from sharcs_serve.load import Outcome


def test_outcomes_are_counted_from_when_they_were_due():
    outcomes = [*[Outcome(200, 0.001 * number) for number in range(1, 101)], Outcome(200, 5.0, degraded=True)]
    outcomes += [Outcome(429, 0.002, come_again=1.0), Outcome(429, 0.004), Outcome(0, 60.0)]
    found = scores.counts(outcomes, seconds=2.0, target=0.05)
    names = ("requests", "answered", "refused", "lost", "degraded", "without_retry_after")
    assert [found[name] for name in names] == [104, 101, 2, 1, 1, 1]
    assert found["goodput"] == 25  # 50 in time, in 2 s
    assert found["good_share"] == pytest.approx(50 / 104)
    assert found["p50_ms"] == pytest.approx(51)
    assert found["p99_ms"] == pytest.approx(100)
    assert found["refusal_p99_ms"] == pytest.approx(3.98)
    assert scores.counts([], 1.0, 1.0)["p99_ms"] is None


def test_the_rate_that_is_kept_is_below_the_first_that_is_not():
    assert scores.kept_rate({10.0: 1.0, 30.0: 0.98, 20.0: 0.99, 40.0: 1.0}) == 20
    assert scores.kept_rate({10.0: 0.5, 20.0: 1.0}) == 0
    assert not scores.is_hopeless({1.0: 1.0, 2.0: 0.8})
    assert scores.is_hopeless({1.0: 1.0, 2.0: 0.8, 3.0: 0.2})


def test_recovery_is_when_the_last_was_refused_or_degraded():
    fine, refused, degraded = Outcome(200, 0.1), Outcome(429, 0.1), Outcome(200, 0.1, degraded=True)
    assert scores.recovery_seconds([refused, fine, degraded, fine], [0.1, 0.2, 0.7, 0.9]) == 0.7
    assert scores.recovery_seconds([fine, fine], [0.1, 0.2]) == 0


def test_a_ratio_is_that_of_means():
    assert scores.ratio([30.0, 50.0], [10.0, 10.0]) == 4
    assert scores.ratio([1.0], [0.0]) is None


def rate(arm, at, share, p99=50.0, others=0.0):
    return {"arm": arm, "rate": at, "good_share": share, "goodput": at * share, "p50_ms": p99 / 2, "p99_ms": p99,
            "others": others}  # fmt: skip


@pytest.fixture
def cells():
    """A run of two seeds: ours keeps 40 and 60, TEI's scheduler 20; threefold overload was seen once."""
    found = {"reference": {"target": 0.1, "capacity": 40.0, "load_before": [0.1]}, "throughputs": {"ratio": 2.5}}
    for seed, kept in ((0, 40.0), (1, 60.0)):
        for at in (20.0, 40.0, 60.0):
            found[f"rate {at / 40:g}, ours, routing alone, {seed}"] = rate("ours, routing alone", at, at <= 40)
            found[f"rate {at / 40:g}, ours, full width, {seed}"] = rate("ours, full width", at, at <= 20)
            found[f"rate {at / 40:g}, ours, {seed}"] = rate("ours", at, 1.0 if at <= kept else 0.5)
            found[f"rate {at / 40:g}, TEI's scheduler, {seed}"] = rate(
                "TEI's scheduler", at, 0.99 if at == 20 else 0.1
            )
    found |= {"front ours, 0": {"front_ms": 0.2, "others": 0.0}, "front noop, 0": {"front_ms": 0.1, "others": 0.0}}
    found["overload 3, ours, 0"] = {
        **{
            "goodput": 57.0,
            "most": 60.0,
            "rate": 120.0,
            "p99_ms": 101.0,
            "refusal_p99_ms": 5.0,
            "lost": 0,
            "others": 0.0,
        },
        **{"without_retry_after": 0, "recovery_seconds": 1.5},
    }
    found["poison"] = {"poison": 424, "rest": [200], "restarts": 2}
    found["front LitServe, 0"] = {"error": "RuntimeError: no server"}
    return found


def figure(summary, what):
    return next(row for row in summary["figures"] if row["what"] == what)


def test_figures_are_compared_with_what_is_asked(cells):
    found = report.summary(cells)
    assert found["reasons"] == []
    assert found["kept_rates"] == {
        "ours": [40.0, 60.0], "ours, routing alone": [40.0, 40.0],
        "ours, full width": [20.0, 20.0], "TEI's scheduler": [20.0, 20.0],
    }  # fmt: skip
    for what, measured, kept in (
        ("with brown-out, over TEI's scheduler", 2.5, True),
        ("with brown-out, over LitServe", None, None),
        ("by routing alone, over full width", 2.0, True),
        ("the same, over the policy's ratio of throughputs", 2.0 / 2.5, True),
        ("front's CPU over a bare no-op", 2.0, True),
        ("front's CPU over LitServe's", None, None),
        ("threefold overload: goodput over its maximum or the offer", 0.95, True),
        ("threefold overload: p99 of answered over the target", 1.01, False),
        ("seconds to recover from threefold overload", 1.5, True),
        ("a text that kills gets status 424", 1.0, True),
    ):
        row = figure(found, what)
        assert (row["measured"] is None) == (measured is None)
        assert row["kept"] is kept
        assert measured is None or row["measured"] == pytest.approx(measured)
    assert found["errors"] == {"front LitServe, 0": "RuntimeError: no server"}


def test_more_than_is_offered_can_not_be_answered(cells):
    cells["overload 3, ours, 0"] |= {"rate": 50.0, "goodput": 46.0}
    row = figure(report.summary(cells), "threefold overload: goodput over its maximum or the offer")
    assert row["measured"] == pytest.approx(0.92)


@pytest.mark.parametrize("how", ["load before", "others"])
def test_nothing_is_concluded_from_a_busy_machine(cells, how):
    if how == "others":
        for cell in cells.values():
            if "others" in cell:
                cell["others"] = 0.4
    else:
        cells["reference"]["load_before"].append(3.0)
    found = report.summary(cells)
    (reason,) = found["reasons"]
    assert ("0.40 processors" if how == "others" else "load average 3.00") in reason
    assert all(row["kept"] is None for row in found["figures"])
    assert f"Nothing is concluded: {reason}" in report.serving({"sets": {"a": found}}, "a")


def test_the_table_and_the_picture_are_made_of_the_cells(cells, tmp_path):
    folder = tmp_path / "serving" / "a"
    folder.mkdir(parents=True)
    for name, cell in cells.items():
        (folder / f"{name}.json").write_text(json.dumps(cell))
    report.write(tmp_path / "serving", tmp_path / "serving.json")
    table = report.serving(json.loads((tmp_path / "serving.json").read_text()), "a")
    assert "| 2 | with brown-out, over TEI's scheduler | ≥ 2 | 2.5 | yes |" in table
    assert "| 2 | with brown-out, over LitServe | ≥ 2 | not measured | - |" in table
    assert "front LitServe, 0 did not run: RuntimeError: no server." in table
    assert (tmp_path / "serving.png").read_bytes().startswith(b"\x89PNG")
