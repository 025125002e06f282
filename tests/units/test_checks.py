"""A promise that is checked while a directory is filled, against plain forced widths."""

import json
import shutil

import pytest

from helpers.cli import error_message, files_in, read_csv, sharcs, succeeds, write_csv
from helpers.units import Small
from records.make import HERE, ROWS
from sharcs.inference import predict as prediction
from sharcs.units import plan as planning
from sharcs_runtime import DisagreementCounter

ROW_COUNT = 60
REFUTED = 3
LIMIT = 0.005


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(prediction, "InferenceEngine", Small)
    monkeypatch.setattr(planning, "LEAST_WINDOWS", 2)


@pytest.fixture
def data(tmp_path):
    return write_csv(tmp_path / "data.csv", read_csv(ROWS)[:ROW_COUNT])


def promising(folder, limit, **policy):
    """Copy a model, with another policy, and have it promise a limit of disagreement."""
    shutil.copytree(HERE / "plus-2", folder)
    config = json.loads((folder / "config.json").read_text())
    config["policy"] = policy
    config["calibration"] = {
        "kind": "max_disagreement",
        "limit": limit,
        "confidence": 0.95,
        "met": True,
        "policy": policy,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def fill(model, data, output, *options):
    return ("predict", model, "--data", data, "--output", output, "--workers", 1, *options)


def answers(model, data, output, *options):
    """Answer a table as a whole."""
    succeeds("predict", model, "--data", data, "--output", output, *options)
    return [(row["prediction"], row["width"]) for row in read_csv(output)]


def disagreements(model, data, tmp_path):
    """Mark the rows whose answer is not the full network's."""
    routed = answers(model, data, tmp_path / "routed.csv")
    full = answers(model, data, tmp_path / "full.csv", "--width", 1)
    return [one[0] != other[0] for one, other in zip(routed, full, strict=True)]


def counter_of(folder):
    """Count what the units' records say of checks, all together."""
    counter = DisagreementCounter(0.9)
    for file in sorted(folder.glob("_sharcs/done-*.json")):
        checks = json.loads(file.read_text())["checks"]
        counter.merge(DisagreementCounter.from_dict(checks))
    return counter


@pytest.mark.parametrize("policy", [{"start": "width-25"}, {"escalation_threshold": 0.9, "blend": 0.5}])
def test_the_checks_of_all_units_are_counted_once(data, tmp_path, policy):
    model = promising(tmp_path / "model", 0.9, **policy)
    wrong = disagreements(model, data, tmp_path)
    command = fill(model, data, tmp_path / "out", "--check-share", 1)
    message = succeeds(*command).err
    assert f"; {sum(wrong)} of {ROW_COUNT} checked answers are not the full network's" in message
    counter = counter_of(tmp_path / "out")
    assert (counter.seen, counter.checked, counter.disagreements) == (ROW_COUNT, ROW_COUNT, sum(wrong))
    before = files_in(tmp_path / "out")
    (tmp_path / "out" / "_sharcs" / "done-000002.json").unlink()
    assert f"; {sum(wrong)} of {ROW_COUNT} checked" in succeeds(*command).err
    assert files_in(tmp_path / "out") == before
    assert sum(wrong) > 0


def test_the_same_rows_are_checked_whoever_answers_them(data, tmp_path):
    model = promising(tmp_path / "model", 0.9, start="width-25")
    succeeds(*fill(model, data, tmp_path / "out", "--check-share", 0.3))
    for part in (1, 0):
        succeeds(*fill(model, data, tmp_path / "shards", "--check-share", 0.3, "--shard", f"{part}/2"))
    assert files_in(tmp_path / "shards") == files_in(tmp_path / "out")
    assert 0.1 < counter_of(tmp_path / "out").checked / ROW_COUNT < 0.5


def refuting_units(wrong, limit):
    """Say after how many units of eight rows the promise is refuted, by a counter that sees all rows."""
    counter = DisagreementCounter(limit, check_share=1.0)
    for number in range(0, len(wrong), 8):
        counter.record(wrong[number : number + 8], f"{number}")
        merged = DisagreementCounter(limit)
        merged.merge(counter)
        if merged.alarm:
            return number // 8 + 1
    raise AssertionError("it is not refuted")


@pytest.mark.parametrize("when", ["stop", "full", "go-on"])
def test_a_refuted_promise_stops_or_hands_over_to_the_full_network(tmp_path, when):
    model = promising(tmp_path / "model", LIMIT, start="width-25")
    rows, wrong = read_csv(ROWS), disagreements(model, ROWS, tmp_path)
    agree, others = ([row for row, flag in enumerate(wrong) if flag == value] for value in (False, True))
    order = [*agree[:20], *others, *agree[20 : ROW_COUNT - len(others)]]
    data = write_csv(tmp_path / "data.csv", [rows[row] for row in order])
    wrong = [wrong[row] for row in order]
    units = refuting_units(wrong, LIMIT)
    assert units == 3
    command = fill(model, data, tmp_path / "out", "--check-share", 1)
    run = sharcs(*command, "--when-refuted", when)
    assert run.code == (REFUTED if when == "stop" else 0)
    assert "sharcs: the promise is refuted: more than " in run.err
    routed = answers(model, data, tmp_path / "routed.csv")
    full = answers(model, data, tmp_path / "full.csv", "--width", 1)
    expected = {"stop": routed[: 8 * units], "full": routed[: 8 * units] + full[8 * units :], "go-on": routed}[when]
    found = sorted((tmp_path / "out").glob("*.csv"))
    rows = [row for file in found for row in read_csv(file)]
    assert [(row["prediction"], row["width"]) for row in rows] == expected
    if when == "stop":
        assert sharcs(*command).code == REFUTED  # still
        assert len(sorted((tmp_path / "out").glob("*.csv"))) == units
        message = succeeds(*command, "--when-refuted", "full").err
        assert f"; the full network alone answered {8 - units} units" in message


def test_without_a_promise_there_is_nothing_to_check(data, tmp_path):
    model = promising(tmp_path / "model", 0.1, start="width-25")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"policy": {"start": "full"}}))
    message = error_message(sharcs(*fill(model, data, tmp_path / "out", "--check-share", 0.5)))
    assert (
        message
        == f"--check-share: the policy of {model} promises no limit of disagreement; calibrate it with "
        + ("--max-disagreement")
    )
    assert not list((tmp_path / "out").rglob("*.json"))
