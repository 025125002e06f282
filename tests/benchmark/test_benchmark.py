"""``sharcs benchmark``: its numbers against those of the other commands, its advice, its plan. No times."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from helpers.cli import error_message, files_in, read_csv, sharcs, succeeds, toys_fixture, write_csv  # noqa: F401
from helpers.encoders import DISTINCT, load_plain, load_routed, make_batch, save_plain
from sharcs.benchmark import contestants
from sharcs.benchmark import measure as benchmark
from sharcs.benchmark.advice import advise
from sharcs.benchmark.contestants import Contestant, PipelineEngine, plain_network
from sharcs.benchmark.measure import BATCH_SIZES, Plan
from sharcs.benchmark.memory import peak_megabytes
from sharcs.benchmark.results import BenchmarkRow
from sharcs.errors import InputError
from sharcs.inference.folder import open_model
from sharcs_runtime import Prediction

NAMES = ["pipeline", "full", "full-ort", "full-ort-int8", "width-0.25", "width-1", "routed", "routed-ort",
         "routed-ort-int8"]  # fmt: skip


@pytest.fixture(scope="module")
def run(toys, tmp_path_factory):
    """Run the command on the toys, hardly measuring."""
    folder = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "peak_megabytes", lambda contestant, texts: 100.0 + len(texts))
        patch.setattr(benchmark, "BATCHES", dict.fromkeys(BATCH_SIZES, (1, 1)))
        patch.setattr(benchmark, "ROUNDS", 2)
        before = files_in(toys.model)
        shown = succeeds(
            "benchmark", toys.model, "--data", toys.test, "--json", folder / "report.json", "--seconds", 1
        )
    assert files_in(toys.model) == before
    assert sorted(path.name for path in folder.iterdir()) == ["report.json", "report.png"]
    assert (folder / "report.png").read_bytes().startswith(b"\x89PNG")
    return shown, json.loads((folder / "report.json").read_text())


def test_rows_and_columns(run):
    shown, report = run
    assert list(report) == ["rows", "advice"]
    assert [row["name"] for row in report["rows"]] == NAMES
    for row in report["rows"]:
        assert list(row) == ["name", "accuracy", "texts_per_second", "p50_ms", "p99_ms", "time_ratio", "flops_ratio",
                             "peak_mb", "flops_ratio_at"]  # fmt: skip
        assert list(row["time_ratio"]) == list(row["flops_ratio_at"]) == ["1", "8", "32", "128"]
        assert 0 < row["p50_ms"] <= row["p99_ms"]
        assert row["texts_per_second"] > 0
        assert row["peak_mb"] == 140.0
        assert all(ratio > 0 for ratio in row["time_ratio"].values())
        assert row["name"] in shown.out
    full = report["rows"][1]
    assert set(full["time_ratio"].values()) == {1.0}
    assert shown.out.splitlines()[-1] == report["advice"]


def test_accuracies_and_costs_are_those_of_evaluate(run, toys, tmp_path):
    rows = {row["name"]: row for row in run[1]["rows"]}
    succeeds("evaluate", toys.model, "--data", toys.test, "--json", tmp_path / "evaluation.json")
    report = json.loads((tmp_path / "evaluation.json").read_text())
    for name in ("pipeline", "full", "full-ort", "width-1"):
        assert rows[name]["accuracy"] == pytest.approx(report["full"]["accuracy"])
    assert {rows[name]["flops_ratio"] for name in NAMES[:4]} == {1.0}
    narrow, wide = report["widths"]
    for name, truth in (("width-0.25", narrow), ("width-1", wide), ("routed", report["routed"]),
                        ("routed-ort", report["routed"])):  # fmt: skip
        assert rows[name]["accuracy"] == pytest.approx(truth["accuracy"])
        assert rows[name]["flops_ratio"] == pytest.approx(truth["flops_ratio"])
        # The toys are 40 texts: a batch of 128 has all of them three times, and eight of them a fourth time.
        assert rows[name]["flops_ratio_at"]["128"] == pytest.approx(truth["flops_ratio"], abs=0.08)
    assert rows["routed-ort-int8"]["accuracy"] == pytest.approx(rows["routed-ort"]["accuracy"], abs=0.1)


@torch.no_grad()
def test_the_pipeline_row_needs_the_classes_names_alone(toys, tmp_path):
    trained = open_model(toys.model)
    plain, texts = plain_network(trained.model), ["good", "an awful film", "it"]
    trained.tokenizer.save_pretrained(tmp_path)
    plain.config.label2id = None  # as of a configuration that was made in Python
    plain.save_pretrained(tmp_path)
    expected = [plain(**trained.tokenizer(text, return_tensors="pt")).logits.argmax().item() for text in texts]
    assert [answer.class_index for answer in PipelineEngine(str(tmp_path)).predict(texts)] == expected


@pytest.mark.parametrize("family", DISTINCT)
@torch.no_grad()
def test_the_plain_network_is_the_one_before_it_was_routed(family, tmp_path):
    path = save_plain(family, tmp_path / "plain")
    plain, model = load_plain(path), load_routed(path)
    plain_network(model).save_pretrained(tmp_path / "again")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "again").eval()
    assert again.state_dict().keys() == plain.state_dict().keys()
    batch = make_batch(plain.config, [5, 3, 9])
    assert torch.equal(again(**batch).logits, plain(**batch).logits)
    assert torch.equal(model(**batch, width=1.0).logits, plain(**batch).logits)  # and this one is still whole


def test_peak_memory_is_that_of_a_process_of_its_own(monkeypatch, tmp_path):
    (tmp_path / "module.py").write_text(
        "class Engine:\n"
        "    def __init__(self, size):\n"
        "        self.size = size\n"
        "    def predict(self, texts):\n"
        "        assert texts == ['a', ('b', 'c')]\n"
        "        block = b'x' * (self.size * 2**20)\n"
        "        yield len(block)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    ballast = np.ones(2**26)  # 512 MiB of ours are nothing to it
    small, large = (
        peak_megabytes(Contestant("row", "module", "Engine", {"size": size}), ["a", ("b", "c")]) for size in (0, 64)
    )
    assert 1 < small < 100 < ballast.nbytes / 2**20
    assert large - small == pytest.approx(64, abs=6)
    with pytest.raises(InputError, match="row: fails in a process of its own"):
        peak_megabytes(Contestant("row", "module", "Engine", {}), ["a"])


def test_texts_without_labels_and_other_wrong_data(toys, tmp_path, monkeypatch):
    seen = {}

    def report(trained, folder, texts, labels, **_):
        seen.update(texts=texts, labels=labels)
        raise InputError("stop here")

    monkeypatch.setattr("sharcs.benchmark.measure.run_benchmark", report)
    rows = read_csv(toys.test)
    bare = write_csv(tmp_path / "bare.csv", [{"text": row["text"]} for row in rows])
    foreign = write_csv(tmp_path / "foreign.csv", [{"text": row["text"], "label": "unheard of"} for row in rows])
    for data in (bare, foreign):
        assert error_message(sharcs("benchmark", toys.model, "--data", data)) == "stop here"
        assert seen == {"texts": [row["text"] for row in rows], "labels": None}
    assert "no column 'words'" in error_message(
        sharcs("benchmark", toys.model, "--data", bare, "--text-column", "words")
    )
    assert "no such directory" in error_message(sharcs("benchmark", tmp_path / "nothing", "--data", bare))
    assert "--seconds 0: has to be above 0" in error_message(
        sharcs("benchmark", toys.model, "--data", bare, "--seconds", 0)
    )
    assert "is a directory" in error_message(sharcs("benchmark", toys.model, "--data", bare, "--json", tmp_path))


def test_more_time_is_used_and_less_is_kept_to():
    short, long = (Plan.within(seconds, alone=0.08, together=0.02) for seconds in (30.0, 300.0))
    assert short.many < long.many
    assert all(short.batches[size] <= long.batches[size] for size in BATCH_SIZES)
    rounds = benchmark.ROUNDS + 1

    def taken(plan):
        of_batches = sum(count * size * (0.08 if size == 1 else 0.02) for size, count in plan.batches.items())
        return rounds * (0.02 * plan.many + of_batches)

    assert taken(long) <= 300.0
    assert Plan.within(1e-3, 1.0, 1.0) == Plan(64, {1: 16, 8: 3, 32: 2, 128: 1})  # too little to say anything


class Slow:
    """An engine that notes what it is asked."""

    def __init__(self):
        """Begin."""
        self.asked = []

    def predict(self, texts):
        """Answer nothing of use."""
        self.asked.append(len(list(texts)))
        yield Prediction(0, 1.0, 0, 0)


@pytest.mark.parametrize(("latest", "rounds"), [(float("inf"), benchmark.ROUNDS), (0.0, 1)])
def test_engines_take_turns_until_time_is_up(latest, rounds):
    engines = {"one": Slow(), "two": Slow()}
    steps = []
    times = benchmark._rounds(engines, [["a"], ["b", "c"]], latest, steps.append)
    assert {name: array.shape for name, array in times.items()} == {"one": (2, rounds), "two": (2, rounds)}
    assert [engine.asked for engine in engines.values()] == [[1, 2] * rounds] * 2
    assert sum(steps) == 2 * 2 * benchmark.ROUNDS


def test_a_turn_is_several_small_batches_or_one_large_one(monkeypatch):
    asked = []
    monkeypatch.setattr(benchmark, "_seconds", lambda engine, batch: asked.append((engine, len(batch))) or 0.0)
    monkeypatch.setattr(benchmark, "ROUNDS", 1)
    engines = {"one": "one", "two": "two"}
    benchmark._rounds(engines, [["a"]] * 40, float("inf"), lambda count: None)
    assert asked == [("one", 1)] * 32 + [("two", 1)] * 32 + [("two", 1)] * 8 + [("one", 1)] * 8
    asked.clear()
    benchmark._rounds(engines, [["a"] * 50] * 2, float("inf"), lambda count: None)
    assert asked == [("one", 50), ("two", 50), ("two", 50), ("one", 50)]


def rows_of(**speeds):
    """Make rows of names with (texts a second, accuracy)."""
    return [
        BenchmarkRow(name.replace("_", "-"), accuracy, speed, 1.0, 2.0, {1: 1.0}, 1.0, 100.0, {1: 1.0})
        for name, (speed, accuracy) in speeds.items()
    ]


BASE = {"pipeline": (50, 0.9), "full": (100, 0.9), "full_ort": (150, 0.9), "full_ort_int8": (300, 0.89)}


@pytest.mark.parametrize(
    ("others", "uses", "pays"),
    [
        ({"routed": (180, 0.9), "routed_ort": (260, 0.9), "routed_ort_int8": (500, 0.892)}, "routed-ort-int8", True),
        # A point and a half less.
        ({"routed": (180, 0.9), "routed_ort": (360, 0.9), "routed_ort_int8": (500, 0.885)}, "routed-ort", True),
        ({"routed": (180, 0.9), "routed_ort": (260, 0.9), "routed_ort_int8": (500, 0.885)}, "full-ort-int8", False),
        # Faster by chance alone.
        ({"routed": (180, 0.9), "routed_ort": (260, 0.9), "routed_ort_int8": (310, 0.9)}, "full-ort-int8", False),
        ({"routed": (90, 0.9), "routed_ort": (120, 0.9), "routed_ort_int8": (200, 0.9)}, "full-ort-int8", False),
        # One width is good enough for all.
        ({"width_0.25": (400, 0.895), "routed": (180, 0.9), "routed_ort": (260, 0.9), "routed_ort_int8": (500, 0.9)},
         "width-0.25", False),
        ({"width_0.25": (400, 0.7), "routed": (180, 0.9), "routed_ort": (260, 0.9), "routed_ort_int8": (500, 0.9)},
         "routed-ort-int8", True),
        # The engine's own full width is as fast as all.
        ({"width_1": (505, 0.9), "routed": (180, 0.9), "routed_ort": (260, 0.9), "routed_ort_int8": (500, 0.9)},
         "width-1", False),
    ],
)  # fmt: skip
def test_advice(others, uses, pays):
    last = {"width_1": (95, 0.9)}
    narrow = {name: value for name, value in others.items() if name == "width_0.25"}
    last["width_1"] = others.get("width_1", last["width_1"])
    routed = {name: value for name, value in others.items() if name.startswith("routed")}
    advice = advise(rows_of(**BASE, **narrow, **last, **routed), {})
    assert f"use {uses} (" in advice
    assert ("routing does not pay on this machine for these texts" not in advice) == pays
    assert "\n" not in advice


def test_advice_without_labels_goes_by_agreement():
    speeds = {"routed": (180, None), "routed_ort": (360, None), "routed_ort_int8": (500, None)}
    rows = rows_of(**{name: (speed, None) for name, (speed, _) in BASE.items()}, width_1=(95, None), **speeds)
    agreement = {row.name: 0.995 for row in rows} | {"full": 1.0, "routed-ort-int8": 0.98}
    advice = advise(rows, agreement)
    assert "use routed-ort (sharcs export): 3.60 times" in advice
    assert "99.5% of the answers are the full network's" in advice


def test_contestants_are_what_the_rows_say(toys, tmp_path):
    assert [one.name for one in contestants.contestants(open_model(toys.model), toys.model, tmp_path)] == NAMES
