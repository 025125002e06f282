"""Sets of labels and numbers at the command line: the same answers as transformers and plain counting give."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer

from helpers.cli import error_message, read_csv, save_encoder, sharcs, succeeds, toy_rows, write_csv
from sharcs.jobs.arguments import Patience
from sharcs_runtime import OnnxRunner

WORDS = ("dog", "film", "town")
QUICK = ("--epochs", 12, "--sub-network-epochs", 1, "--batch-size", 16, "--learning-rate", 3e-3, "--max-length", 16)


def rows_of(count, seed=0):
    """Make texts with the set of the words that are in them, a flag a word, and a number."""
    rows = []
    for row in toy_rows(count, seed):
        text = row["text"]
        labels = [word for word in WORDS if word in text]
        flags = {word: int(word in labels) for word in WORDS}
        rows.append({"text": text, "labels": labels, "number": len(text) / 10 - 2, **flags})
    return rows


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Tables in each form, and models of sets and of numbers."""
    folder = tmp_path_factory.mktemp("tasks")
    encoder = save_encoder(folder / "encoder", layers=2)
    rows = rows_of(64)
    write_lines(folder / "rows.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    write_csv(folder / "rows.csv", [{name: row[name] for name in ("text", "number", *WORDS)} for row in rows])
    model = ("--model", encoder, *QUICK)
    succeeds(
        "train", "--data", folder / "rows.jsonl", "--label-column", "labels", "--output", folder / "sets", *model
    )
    numbers = ("--data", folder / "rows.csv", "--label-column", "number", "--regression")
    succeeds("train", *numbers, "--output", folder / "numbers", *model)
    return folder


@torch.inference_mode()
def logits_of(folder, texts, width=None):
    """Answer texts one by one with nothing but transformers: logits, and the width that answered."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    outputs = [model(**tokenizer(text, truncation=True, return_tensors="pt"), width=width) for text in texts]
    logits = torch.stack([output.logits[0] for output in outputs]).double()
    return logits, [model.config.widths[int(output.width_index)] for output in outputs]


def test_sets_are_predicted_as_transformers_says(home, tmp_path):
    rows = rows_of(30, seed=1)
    data = write_lines(tmp_path / "new.jsonl", [{"text": row["text"]} for row in rows])
    logits, widths = logits_of(home / "sets", [row["text"] for row in rows])
    chances = logits.sigmoid()
    expected = [[word for word, one in zip(WORDS, row, strict=True) if one > 0] for row in logits.tolist()]
    assert len({tuple(labels) for labels in expected}) > 1
    for name in ("out.jsonl", "out.parquet", "out.csv"):
        succeeds("predict", home / "sets", "--data", data, "--output", tmp_path / name, "--scores")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in found] == expected
    assert [row["width"] for row in found] == widths
    assert [row["score"] for row in found] == pytest.approx(torch.maximum(chances, 1 - chances).amin(1), abs=1e-5)
    for column, word in enumerate(WORDS):
        assert [row[f"score_{word}"] for row in found] == pytest.approx(chances[:, column], abs=1e-5)
    assert pq.read_table(tmp_path / "out.parquet")["prediction"].to_pylist() == expected
    assert [json.loads(row["prediction"]) for row in read_csv(tmp_path / "out.csv")] == expected


def test_a_set_is_right_if_it_is_the_whole_set(home, tmp_path):
    rows = rows_of(64)
    run = succeeds("evaluate", home / "sets", "--data", home / "rows.parquet", "--json", tmp_path / "e.json")
    found = json.loads((tmp_path / "e.json").read_text())
    truth = [[float(row[word]) for word in WORDS] for row in rows]
    for entry in found["widths"]:
        said = (logits_of(home / "sets", [row["text"] for row in rows], entry["width"])[0] > 0).double().tolist()
        assert entry["accuracy"] == pytest.approx(np.mean([a == b for a, b in zip(said, truth, strict=True)]))
    full = [each["rows"] for each in found["quality"]["full"]["classes"]]
    assert full == [sum(row[word] for row in rows) for word in WORDS]
    assert "macro F1" in run.out


def test_one_column_a_label_is_the_same_training(home, tmp_path):
    columns = [part for word in WORDS for part in ("--label-column", word)]
    command = ("train", "--data", home / "rows.csv", *columns, "--model", home / "encoder")
    succeeds(*command, "--output", tmp_path / "flags", *QUICK)
    assert (tmp_path / "flags" / "model.safetensors").read_bytes() == (
        home / "sets" / "model.safetensors"
    ).read_bytes()
    assert json.loads((tmp_path / "flags" / "training.json").read_text())["label_column"] == list(WORDS)
    by_flags = succeeds("evaluate", tmp_path / "flags", "--data", home / "rows.csv")  # knows its columns
    by_lists = succeeds("evaluate", home / "sets", "--data", home / "rows.jsonl")
    assert by_flags.out.splitlines()[1:] == by_lists.out.splitlines()[1:]


def test_sets_are_calibrated_reported_and_exported(home, tmp_path):
    data = write_lines(tmp_path / "many.jsonl", rows_of(200, seed=2))
    succeeds("export", home / "sets", "--output", tmp_path / "export")
    run = sharcs("calibrate", tmp_path / "export", "--data", data, "--max-disagreement", 0.9)
    assert run.code == 0, run
    assert json.loads((tmp_path / "export" / "sharcs.json").read_text())["calibration"]["met"]
    refused = sharcs("calibrate", home / "sets", "--data", data, "--max-disagreement", 0.9, "--per-class")
    assert "`per_class`" not in error_message(refused)
    assert "--per-class: the model answers with sets of labels" in error_message(refused)
    succeeds("report", home / "sets", "--data", data, "--output", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "gives texts any of 3 labels" in page
    assert "(none)" in page
    runner = OnnxRunner(tmp_path / "export", width=1.0)
    texts = [row["text"] for row in rows_of(20, seed=3)]
    (answers,) = runner.answer_windows([texts])
    logits, _ = logits_of(home / "sets", texts, 1.0)
    assert answers.said.tolist() == (logits > 0).tolist()
    with pytest.raises(ValueError, match="names a class a text, and the network has none"):
        list(runner.predict(texts))


def test_numbers_are_predicted_and_their_errors_counted(home, tmp_path):
    rows = rows_of(30, seed=1)
    texts, truth = [row["text"] for row in rows], [row["number"] for row in rows]
    data = write_csv(tmp_path / "new.csv", [{"text": row["text"], "number": row["number"]} for row in rows])
    succeeds("predict", home / "numbers", "--data", data, "--output", tmp_path / "out.csv")
    values, widths = logits_of(home / "numbers", texts)
    found = read_csv(tmp_path / "out.csv")
    assert list(found[0]) == ["text", "number", "prediction", "width"]
    assert [float(row["prediction"]) for row in found] == pytest.approx(values[:, 0].tolist(), abs=1e-4)
    assert [float(row["width"]) for row in found] == widths
    run = succeeds("evaluate", home / "numbers", "--data", data, "--json", tmp_path / "e.json")
    report = json.loads((tmp_path / "e.json").read_text())
    answers = {"routed": values, "full": logits_of(home / "numbers", texts, 1.0)[0]}
    for name, numbers in answers.items():
        errors = [said - true for said, true in zip(numbers[:, 0].tolist(), truth, strict=True)]
        square, mean = np.mean(np.square(errors)), np.mean(truth)
        assert report[name]["mae"] == pytest.approx(np.mean(np.abs(errors)), abs=1e-4)
        assert report[name]["rmse"] == pytest.approx(square**0.5, abs=1e-4)
        assert report[name]["r2"] == pytest.approx(1 - square / np.mean(np.square(np.array(truth) - mean)), abs=1e-4)
    assert [each["share"] for each in report["widths"]] == [widths.count(0.25) / 30, widths.count(1.0) / 30]
    assert f"{report['routed']['mae']:.4g}" in run.out


@pytest.mark.extended
def test_an_export_answers_with_the_same_numbers(home, tmp_path):
    succeeds("export", home / "numbers", "--output", tmp_path / "export")
    for name in ("numbers", "export"):
        folder = tmp_path / name if name == "export" else home / name
        succeeds("predict", folder, "--data", home / "rows.csv", "--output", tmp_path / f"{name}.csv")
        succeeds("evaluate", folder, "--data", home / "rows.csv", "--json", tmp_path / f"{name}.json")
    one, two = (read_csv(tmp_path / f"{name}.csv") for name in ("numbers", "export"))
    assert [float(r["prediction"]) for r in one] == pytest.approx([float(r["prediction"]) for r in two], abs=1e-3)
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("numbers", "export"))
    assert one["routed"]["mae"] == pytest.approx(two["routed"]["mae"], abs=1e-3)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("calibrate numbers --data rows.csv --budget 0.5", "calibrate: counts answers that are right"),
        ("report numbers --data rows.csv --output r.html", "counts answers that are right"),
        ("predict numbers --data rows.csv --output o.csv --scores", "--scores: the model answers with numbers"),
        ("predict numbers --data rows.csv --output o.csv --abstain-below 0.5", "--abstain-below: the model answers"),
        ("evaluate numbers --data rows.csv --abstain-below 0.5", "--abstain-below: the model answers with numbers"),
        ("evaluate sets --data rows.csv --label-column film", "not lists of labels"),
        ("train --data rows.jsonl --label-column number", "give --regression to learn numbers"),
        ("train --data rows.csv --label-column text --regression", "is no finite number"),
        ("train --data rows.csv --label-column film --label-column number", "does not say whether the row has"),
        ("train --data rows.csv --label-column film --label-column film", "--label-column: film is given twice"),
        ("train --data rows.jsonl --label-column labels --regression", "is no finite number"),
        (
            "train --data rows.csv --label-column film --label-column dog --regression",
            "--label-column is given 2 times",
        ),
        ("train --data rows.csv --label-column number --regression --budget 0.5", "a number is not right or wrong"),
        ("train --data rows.csv --label-column number --regression --class-weights balanced", "have no classes"),
        ('train --data rows.jsonl --label-column labels --class-weights {"cat":2}', "'cat' is no class of the data"),
        ('train --data rows.jsonl --label-column labels --class-weights {"dog":0}', "weighs 0; give a finite"),
        ("train --data rows.jsonl --label-column labels --class-weights {dog", "is no JSON"),
        ("train --data rows.jsonl --label-column labels --class-weights even", "has to be balanced"),
        ("train --data rows.jsonl --label-column labels --patience 1", "--patience 1: needs more held-out rows"),
        ("train --data rows.jsonl --label-column labels --patience 0", "--patience 0: has to be at least 1"),
        ("train --data rows.jsonl --label-column labels --recipe paper --patience 1", "recipe paper has none"),
        ("train --data rows.jsonl --label-column labels --sub-network-epochs 0", "has to be at least 1"),
        (
            "train --data rows.jsonl --label-column labels --sub-networks recurrent,full --validation rows.jsonl",
            "front recurrent: answer with one class for each input",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(home, monkeypatch, command, says, tmp_path):
    monkeypatch.setattr(Trainer, "train", lambda *_, **__: pytest.fail("trains"))
    monkeypatch.chdir(home)
    words = command.split()
    if words[0] == "train":
        words += ["--model", "encoder", "--output", tmp_path / "model"]
    assert says in error_message(sharcs(*words))
    assert not (tmp_path / "model" / "training.json").exists()


@pytest.mark.parametrize("value", ['"dog"', "null", "[1.5]", "[null]", '[""]'])
def test_rows_that_are_no_sets_are_named(home, tmp_path, value):
    data = tmp_path / "wrong.jsonl"
    data.write_text(f'{{"text": "a", "labels": ["dog"]}}\n{{"text": "b", "labels": {value}}}\n', encoding="utf-8")
    message = error_message(sharcs("evaluate", home / "sets", "--data", data))
    assert "row 2" in message
    assert "'labels'" in message


def test_settings_reach_the_training(home, monkeypatch, tmp_path):
    trainers = []

    def train(trainer, *args, **kwargs):
        trainers.append(trainer)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train", train)
    command = ("train", "--data", home / "rows.jsonl", "--label-column", "labels", "--model", home / "encoder")
    held_out = write_lines(tmp_path / "held.jsonl", rows_of(400, seed=4))
    more = ("--class-weights", '{"town": 3}', "--validation", held_out, "--patience", 2, "--readout", "first")
    sharcs(*command, "--output", tmp_path / "out", "--sub-network-epochs", 3, *more)
    args = trainers[0].args
    assert (args.subnetwork_epochs, args.front_epochs, args.class_weights) == (3, 3, [1.0, 1.0, 3.0])
    assert (args.metric_for_best_model, args.greater_is_better) == ("eval_accuracy", True)
    (patience,) = [each for each in trainers[0].callback_handler.callbacks if isinstance(each, Patience)]
    assert patience.epochs == 2


def test_patience_ends_the_full_networks_training_and_no_other(home, tmp_path):
    """At a rate of nothing no checkpoint is better than the first; the sub-networks' epochs are all there."""
    held_out = write_lines(tmp_path / "held.jsonl", rows_of(200, seed=4))
    many = write_lines(tmp_path / "many.jsonl", rows_of(96, seed=5))
    data = ("--data", many, "--label-column", "labels", "--validation", held_out, "--max-length", 16)
    command = ("train", *data, "--model", home / "encoder", "--sub-network-epochs", 1)
    settings = ("--batch-size", 4, "--learning-rate", 1e-12, "--readout", "first")
    run = succeeds(*command, "--output", tmp_path / "out", *settings, "--epochs", 6, "--patience", 1)
    assert 1 <= run.err.count("trained the full network") < 4
    assert run.err.count("trained the sub-networks") == 1
