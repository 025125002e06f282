"""CSV and TSV with other separators, and without quotes: read as what they are, and written as they came."""

import csv
import json

import pytest
import typer

from helpers.cli import ONE_EPOCH, error_message, read_csv, sharcs, succeeds, toys_fixture, write_csv  # noqa: F401
from sharcs_cli.app import app

# What each command needs besides its data.
COMMANDS = {
    "train": lambda toys, folder: ("train", "--model", toys.encoder, "--output", folder / "new", *ONE_EPOCH),
    "evaluate": lambda toys, folder: ("evaluate", toys.model),
    "predict": lambda toys, folder: ("predict", toys.model, "--output", folder / "out.csv"),
    "calibrate": lambda toys, folder: ("calibrate", toys.model, "--budget", 0.5),
    "benchmark": lambda toys, folder: ("benchmark", toys.model),
    "report": lambda toys, folder: ("report", toys.model, "--output", folder / "page.html"),
    "export": lambda toys, folder: (
        *("export", toys.model, "--output", folder / "onnx", "--runtime", "openvino", "--int8"),
    ),
    "load": lambda toys, folder: ("load", "http://127.0.0.1:9", "--rates", 1),
}


def test_all_commands_that_read_tables_are_here():
    commands = typer.main.get_command(app).commands
    readers = {name for name, command in commands.items() if "--data" in [p.opts[0] for p in command.params]}
    assert readers == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_takes_other_separators_and_no_quotes(command, toys, tmp_path):
    data = tmp_path / "data.csv"
    data.write_text('text;label\n"fine, it is;good\n ;bad\n', encoding="utf-8")
    words = (*COMMANDS[command](toys, tmp_path), "--data", data, "--delimiter", ";", "--no-quotes")
    # The second row is wrong: the first has been read, and the columns have been found.
    assert f"{data}: row 2: the text is empty" in error_message(sharcs(*words))


def test_predict_leaves_quotes_where_they_are(toys, tmp_path):
    lines = ["text\tid", '"a great film\t1', 'the end"\t2', '"all" of it\t3', '\\"\t\U0001f600']
    (tmp_path / "data.tsv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    message = error_message(
        sharcs("predict", toys.model, "--data", tmp_path / "data.tsv", "--output", tmp_path / "o.tsv")
    )
    assert message.endswith("where quotes are part of the texts, give --no-quotes")
    words = ("predict", toys.model, "--data", tmp_path / "data.tsv", "--no-quotes", "--output", tmp_path / "out.tsv")
    succeeds(*words)
    written = (tmp_path / "out.tsv").read_text(encoding="utf-8").split("\n")
    assert ["\t".join(line.split("\t")[:2]) for line in written[:-1]] == lines
    assert [line.split("\t")[2:] for line in written[:1]] == [["prediction", "score", "width"]]
    assert {line.split("\t")[2] for line in written[1:-1]} <= {"good", "bad"}
    assert written[-1] == ""


@pytest.mark.parametrize("delimiter", [";", "|", "\\t", " ", "§", "'"])
def test_predict_keeps_the_separator(delimiter, toys, tmp_path):
    character = "\t" if delimiter == "\\t" else delimiter
    rows = [
        {"n": f"0{number}{character}", **row, "more": 'a "b", c;\nd'}
        for number, row in enumerate(read_csv(toys.test))
    ]
    data = write_csv(tmp_path / "data.csv", rows, character)
    words = ("predict", toys.model, "--data", data, "--delimiter", delimiter)
    succeeds(*words, "--output", tmp_path / "out.csv.gz")
    succeeds("predict", toys.model, "--data", toys.test, "--output", tmp_path / "plain.csv")
    succeeds(*words, "--output", tmp_path / "out.csv")
    expected = [{**row, **answer} for row, answer in zip(rows, read_csv(tmp_path / "plain.csv"), strict=True)]
    assert read_csv(tmp_path / "out.csv", character) == expected


def test_a_training_reads_all_its_tables_alike(toys, tmp_path):
    def rewritten(name, rows):
        with (tmp_path / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="|", quoting=csv.QUOTE_NONE, quotechar=None)
            writer.writerows([["text", "label"], *([f'"{row["text"]}', row["label"]] for row in rows)])
        return tmp_path / name

    rows = read_csv(toys.train)
    words = ("train", "--model", toys.encoder, *ONE_EPOCH, "--output", tmp_path / "model", "--validation")
    words += (rewritten("held-out.csv", rows[:16]), "--data", rewritten("rows.csv", rows))
    options = ("--delimiter", "|", "--no-quotes", "--eval-data", rewritten("eval.csv", read_csv(toys.test)))
    succeeds(*words, *options)
    settings = json.loads((tmp_path / "model" / "training.json").read_text(encoding="utf-8"))
    assert (settings["delimiter"], settings["no_quotes"], settings["rows"]) == ("|", True, len(rows))
    assert json.loads((tmp_path / "model" / "evaluation.json").read_text(encoding="utf-8"))["samples"] == 40


@pytest.mark.parametrize("delimiter", ["", ";;", "a", "7", '"', ".", "-", "\n"])
def test_what_cannot_separate_fields_is_refused(delimiter, toys, tmp_path):
    words = ("predict", toys.model, "--data", toys.test, "--output", tmp_path / "out.csv", "--delimiter", delimiter)
    message = error_message(sharcs(*words))
    assert message.startswith("--delimiter ")
    assert "can't separate fields; give one character" in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ({"text": "fine\nas it is"}, "'fine\\nas it is' (column 'text')"),
        ({"text": "fine", "more": [1, 2]}, "'[1, 2]' (column 'more')"),
        ({"text": "fine", "a,b": 1}, "'a,b' (column 'name')"),
    ],
)
def test_what_needs_quotes_is_refused_before_the_work(row, value, toys, tmp_path, monkeypatch):
    monkeypatch.setattr("sharcs.inference.predict._answer", lambda *_: pytest.fail("the work has begun"))
    (tmp_path / "data.jsonl").write_text(json.dumps({"text": "it"}) + "\n" + json.dumps(row) + "\n", encoding="utf-8")
    words = (
        "predict",
        toys.model,
        "--data",
        tmp_path / "data.jsonl",
        "--no-quotes",
        "--output",
        tmp_path / "out.csv",
    )
    message = error_message(sharcs(*words))
    assert f"{value} can't be written without quotes; leave out --no-quotes, or name a .jsonl" in message
    assert [path.name for path in tmp_path.iterdir()] == ["data.jsonl"]


def test_a_column_that_begins_with_a_byte_order_mark_keeps_it(toys, tmp_path):
    (tmp_path / "data.csv").write_text("\ufeff\ufeffid,text\n1,fine\n", encoding="utf-8")
    words = ("predict", toys.model, "--data", tmp_path / "data.csv", "--no-quotes", "--output", tmp_path / "out.csv")
    succeeds(*words)
    assert (tmp_path / "out.csv").read_text(encoding="utf-8").startswith("\ufeff\ufeffid,text,prediction")
