"""The command ``sharcs`` on wrong input: exit code 2, one line that says what, where and what to do, nothing written.

Most tests are tables; a case is one line. Every test runs in an empty working directory, puts there what the case
needs, and checks that the command leaves it as it was.
"""

import json
import os
import re
import shlex
import shutil
import socket
import time
from pathlib import Path

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2ForSequenceClassification, Trainer

from helpers.cli import (
    ONE_EPOCH,
    changed,
    error_message,
    files_in,
    read_csv,
    save_encoder,
    sharcs,
    succeeds,
    toys_fixture,  # noqa: F401
    write_csv,
)
from sharcs import SharcsForSequenceClassification


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Work in an empty directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(*arguments):
    """Run a command that has to refuse its input and write nothing; return its message."""
    before = files_in(".")
    run = sharcs(*arguments)
    message = error_message(run)
    assert files_in(".") == before
    assert run.out == ""
    return message


def assert_says(message, patterns):
    """Check that a message has all of the patterns."""
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        assert re.search(pattern, message), f"{pattern!r} is not in: {message}"


def by_name(cases):
    """Name the cases of a table by their first column."""
    return [pytest.param(*case, id=str(case[0]) or "empty") for case in cases]


# Data

GOOD = "text,label\nfine,good\nawful,bad\n"


def commands(toys):
    """Build, for each command that reads data, the arguments with which it reads the file ``data``."""
    Path("good.csv").write_text(GOOD)
    for name in ("report.json", "report.png", "out.csv"):
        Path(name).write_text("old")  # not to be touched
    model = ("--model", toys.encoder, "--output", "model", *ONE_EPOCH)
    return {
        "train": lambda data: ("train", "--data", data, *model),
        "train, eval-data": lambda data: ("train", "--data", "good.csv", "--eval-data", data, *model),
        "evaluate": lambda data: ("evaluate", toys.model, "--data", data, "--json", "report.json"),
        "predict": lambda data: ("predict", toys.model, "--data", data, "--output", "out.csv"),
    }


TRAIN, EVAL, EVALUATE, PREDICT = READERS = ("train", "train, eval-data", "evaluate", "predict")
LABELLED = (TRAIN, EVAL, EVALUATE)


def nan_labels(path):
    """Write a Parquet file as pandas writes a label that is missing."""
    pq.write_table(pa.table({"text": ["fine", "awful"], "label": [1.0, float("nan")]}), path)


def number_texts(path):
    """Write texts as numbers."""
    pq.write_table(pa.table({"text": [1, 2], "label": ["good", "bad"]}), path)


def directory(path):
    """Make a directory of that name."""
    path.mkdir()


DATA = [
    # the file's name, its content (None: it is not there), who refuses it, what the message says beside the name
    ("absent.csv", None, READERS, "no such file"),
    ("absent", None, READERS, ["no such file", r"NAME:SPLIT"]),
    ("reuters-r8:dev", None, READERS, ["no split 'dev'", "train, test"]),
    ("folder.csv", directory, READERS, ["a directory", "give one file"]),
    ("data.txt", GOOD, READERS, ["unknown extension", r"\.csv, \.tsv, \.jsonl, \.parquet"]),
    ("nothing.csv", "", READERS, "no rows"),
    ("nothing.tsv.gz", b"", READERS, "cannot be read|no rows"),
    ("header.csv", "text,label\n", READERS, "no rows"),
    ("blank.jsonl", "\n\n", READERS, "no rows"),
    ("columns.csv", "a,b\nfine,good\nawful,bad\n", READERS, ["no column 'text'", "'a', 'b'", "--text-column"]),
    ("no-label.csv", "text\nfine\nawful\n", LABELLED, ["no column 'label'", "'text'", "--label-column"]),
    ("one-class.csv", "text,label\nfine,good\nlovely,good\n", [TRAIN], ["one class", "'good'", "at least two"]),
    ("empty-text.csv", "text,label\nfine,good\n  ,bad\n", READERS, ["row 2", "text is empty", "drop the row"]),
    ("null-text.jsonl", '{"text":"a","label":"good"}\n{"text":null,"label":"bad"}\n', READERS, ["row 2", "missing"]),
    ("no-text.jsonl", '{"text":"fine","label":"good"}\n{"label":"bad"}\n', READERS, ["row 2", "missing"]),
    ("empty-label.csv", "text,label\nfine,good\nawful,\n", LABELLED, ["row 2", "label is missing", "drop the row"]),
    ("nan.jsonl", '{"text":"a","label":1}\n{"text":"b","label":NaN}\n', LABELLED, ["row 2", "label is missing"]),
    ("nan.parquet", nan_labels, LABELLED, ["row 2", "label is missing", "drop the row"]),
    ("half.jsonl", '{"text":"a","label":1}\n{"text":"b","label":0.5}\n', LABELLED, ["row 2", "0.5"]),
    ("strange.csv", "text,label\nfine,good\nodd,strange\n", [EVAL, EVALUATE], ["row 2", "'strange'", "drop the row"]),
    ("short.csv", "text,label\nfine,good\nawful\n", READERS, ["row 2", "1 fields.* 2", "quote"]),
    ("long.tsv", "text\tlabel\nfine\tgood\nawful\tbad\tworse\n", READERS, ["row 2", "3 fields.* 2", "quote"]),
    ("quote.csv", 'text,label\nfine,good\n"awful,bad\n', READERS, ["row 2", "quote"]),
    ("cut.jsonl", '{"text":"fine","label":"good"}\n{"text":', READERS, ["row 2", "not valid JSON", "one object per"]),
    ("list.jsonl", '{"text":"fine","label":"good"}\n["awful"]\n', READERS, ["row 2", "list", "one object per line"]),
    ("mixed.jsonl", '{"text":"a","label":"good"}\n{"text":3,"label":1}\n', READERS, ["row 2", "'text'", "no string"]),
    ("numbers.parquet", number_texts, READERS, ["'text' holds int64", "convert it to strings"]),
    ("twice.csv", "text,text,label\na,b,good\nc,d,bad\n", READERS, ["'text' is there more than once", "rename"]),
    ("latin.csv", b"text,label\nfine,good\ncaf\xe9,bad\n", READERS, ["line 3", "0xe9", "give .* encoding.*cp1252"]),
    ("nul.csv", b"text,label\nfi\0ne,good\nawful,bad\n", READERS, ["line 2", "NUL", "UTF-8"]),
    ("broken.parquet", b"PAR1 and no more", READERS, "not a readable Parquet file"),
    ("broken.csv.gz", b"no gzip", READERS, "cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("command", "name", "content", "patterns"),
    [
        pytest.param(command, name, content, patterns, id=f"{name}-{command}")
        for name, content, refusing, patterns in DATA
        for command in refusing
    ],
)
def test_data(command, name, content, patterns, toys, home, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("the training has begun")

    monkeypatch.setattr(Trainer, "train", never)
    path = home / name
    if callable(content):
        content(path)
    elif content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refused(*commands(toys)[command](name))
    assert_says(message, [re.escape(name), *([patterns] if isinstance(patterns, str) else patterns)])


@pytest.mark.parametrize("command", READERS)
def test_a_name_of_two_lines_makes_a_message_of_one(command, toys):
    assert "two lines.csv: no such file" in refused(*commands(toys)[command]("two\nlines.csv"))


COLUMNS = [
    # options, who refuses them, what the message says
    ("--text-column nope", READERS, ["no column 'nope'", "'text', 'label'", "--text-column"]),
    ("--text-pair-column nope", READERS, ["no column 'nope'", "'text', 'label'", "--text-pair-column"]),
    ("--label-column nope", LABELLED, ["no column 'nope'", "'text', 'label'", "--label-column"]),
]


@pytest.mark.parametrize(
    ("options", "command", "patterns"),
    [(options, command, patterns) for options, refusing, patterns in COLUMNS for command in refusing],
)
def test_columns(options, command, patterns, toys):
    assert_says(refused(*changed(commands(toys)[command]("good.csv"), options.split())), ["good.csv", *patterns])


def test_a_class_that_training_never_saw_is_named_with_its_row(toys, home):
    """The row is the file's, wherever among thousands it stands."""
    rows = [{"text": f"it is {number}", "label": "good"} for number in range(3000)]
    rows[2345]["label"] = "odd"
    data = write_csv(home / "data.csv", rows)
    for command in (EVAL, EVALUATE):
        assert_says(refused(*commands(toys)[command](data)), ["row 2346", "'odd'"])


PAIR = "text,text_pair,label\nfine,so fine,good\nawful,so awful,bad\n"
HALF_A_PAIR = "text,text_pair,label\nfine,so fine,good\nawful,,bad\n"
PAIRS = [
    # model, data, what the message says
    ("pair_model", GOOD, ["data.csv", "'text_pair'", "--text-pair-column"]),
    (
        "pair_model",
        "text,text_pair,label\nfine,so,good\nawful,,bad\n",
        ["row 2", "text pair is empty", "drop the row"],
    ),
    ("model", PAIR, ["data.csv", "pairs", "single texts"]),
]


@pytest.mark.parametrize("command", [EVALUATE, PREDICT])
@pytest.mark.parametrize(("model", "content", "patterns"), PAIRS)
def test_pairs_and_single_texts_are_told_apart(command, model, content, patterns, toys):
    Path("data.csv").write_text(content)
    name, _, *rest = commands(toys)[command]("data.csv")
    assert_says(refused(name, getattr(toys, model), *rest), patterns)


@pytest.mark.parametrize(("data", "eval_data"), [(PAIR, GOOD), (GOOD, PAIR)])
def test_pairs_are_evaluated_with_pairs(data, eval_data, toys):
    Path("data.csv").write_text(data)
    Path("eval.csv").write_text(eval_data)
    arguments = ("--data", "data.csv", "--eval-data", "eval.csv", "--model", toys.encoder, "--output", "model")
    assert_says(refused("train", *arguments, *ONE_EPOCH), ["eval.csv", "pair", "--text-pair-column"])


# Options

TRAINING_OPTIONS = [
    # options, what the message says; - and _ in an option's name count as the same
    ("--learning-rate 0", ["--learning-rate 0", "above 0"]),
    ("--learning-rate=-1", ["--learning-rate -1", "above 0"]),
    ("--learning-rate nan", ["--learning-rate nan", "above 0"]),
    ("--learning-rate inf", ["--learning-rate inf", "finite"]),
    ("--epochs 0", ["--epochs 0", "at least 1"]),
    ("--epochs=-3", ["--epochs -3", "at least 1"]),
    ("--batch-size 0", ["--batch-size 0", "at least 1"]),
    ("--window 0", ["--window 0", "at least 1"]),
    ("--window 1", ["--window 1", "below --epochs 1"]),
    ("--recipe paper", ["--window 3", "below --epochs 1"]),
    ("--max-length 0", ["--max-length 0", "at least 1"]),
    ("--max-length 2", ["max.length", "2", "at least 3"]),
    ("--max-train-samples 0", ["max-train-samples.*0", "at least 1"]),
    ("--max-train-samples=-1", ["max-train-samples.*-1", "at least 1"]),
    ("--max-train-samples 1", ["one class", "at least two classes"]),
    ("--seed=-1", ["seed", "-1"]),
    ("--seed 4294967296", ["seed", "4294967296"]),
    ("--widths 1.0,0.25", ["widths", "1.0"]),
    ("--widths 0.5,0.25,1.0", ["widths", "ascend"]),
    ("--widths 0.25,0.25,1.0", ["widths", "ascend"]),
    ("--widths 0.25,0.5", ["widths", "1.0"]),
    ("--widths 0.25,1.5", ["widths", "1.0"]),
    ("--widths 0,1.0", ["widths", "above 0"]),
    ("--widths=-0.5,1.0", ["widths", "above 0"]),
    ("--widths nan,1.0", ["widths", "nan"]),
    ("--widths 0.25,nan", ["widths", "nan"]),
    ("--widths 0.4,1.0", ["widths", "0.4 of 4 .*heads", "choose from 0.25, 0.5, 0.75, 1"]),
    ("--widths 0.01,1.0", ["widths", "0.01 of 4 .*heads", "choose from"]),
    ("--widths narrow,1.0", ["--widths", "narrow", "like 0.25,1.0"]),
    ("--widths '0.25;1.0'", ["--widths", "0.25;1.0", "like 0.25,1.0"]),
    ("--widths ''", ["--widths", "like 0.25,1.0"]),
    ("--router-layer 0", ["router-layer 0", "from 1 to 2"]),
    ("--router-layer=-1", ["router-layer -1", "from 1 to 2"]),
    ("--router-layer 3", ["router-layer 3", "from 1 to 2"]),
    ("--band 0.25=0.8,1.1", ["band 0.25=0.8,1.1", r"\[0, 1\]"]),
    ("--band 0.25=-0.1,1.0", ["band 0.25=-0.1,1", r"\[0, 1\]"]),
    ("--band 0.25=0.9,0.8", ["band 0.25=0.9,0.8", "ascend"]),
    ("--band 0.25=nan,1.0", ["band 0.25=nan,1", r"\[0, 1\]"]),
    ("--band 0.5=0.8,1.0", ["band 0.5", "0.25, 1"]),
    ("--band 1.0=0.0,0.8 --band 0.25=2,3", ["band 0.25=2,3", r"\[0, 1\]"]),
    ("--band 0.25", ["--band 0.25", "like 0.25=0.8,1.0"]),
    ("--band 0.25=0.8", ["--band 0.25=0.8", "like 0.25=0.8,1.0"]),
    ("--band 0.25=0.8,0.9,1.0", ["--band 0.25=0.8,0.9,1.0", "like 0.25=0.8,1.0"]),
    ("--band 0.25=low,high", ["--band", "low", "like 0.25"]),
    ("--band =0.8,1.0", ["--band", "like 0.25"]),
    ("--band 0.25=0.8,1.0 --band 0.25=0.5,1.0", ["--band 0.25=0.5,1.0", "a band already"]),
]


@pytest.mark.parametrize(("options", "patterns"), by_name(TRAINING_OPTIONS))
def test_training_options(options, patterns, toys):
    message = refused(*changed(commands(toys)[TRAIN]("good.csv"), shlex.split(options)))
    assert_says(message.replace("_", "-"), patterns)


USE_OPTIONS = [
    # options of evaluate and predict, what the message says
    ("--width 0.5", ["width 0.5", "0.25, 1"]),
    ("--width 0", ["width 0", "0.25, 1"]),
    ("--width=-1", ["width -1", "0.25, 1"]),
    ("--width nan", ["width nan", "0.25, 1"]),
    ("--width wide", ["width wide", "0.25, 1"]),
]


@pytest.mark.parametrize("command", [EVALUATE, PREDICT])
@pytest.mark.parametrize(("options", "patterns"), by_name(USE_OPTIONS))
def test_options_of_evaluate_and_predict(command, options, patterns, toys):
    assert_says(refused(*changed(commands(toys)[command]("good.csv"), options.split())), patterns)


@pytest.mark.parametrize(
    "arguments",
    [
        "nonsense",
        "train",
        "train --data good.csv",
        "train --output model",
        "train --data good.csv --output model --epochs many",
        "train --data good.csv --output model --epochs 1.5",
        "train --data good.csv --output model --learning-rate fast",
        "train --data good.csv --output model --nonsense",
        "train --data good.csv --output model more",
        "evaluate --data good.csv",
        "evaluate model",
        "predict model --data good.csv",
        "predict model --output out.csv",
    ],
)
def test_what_the_parser_refuses(arguments):
    Path("good.csv").write_text(GOOD)
    before = files_in(".")
    run = sharcs(*arguments.split())
    assert run.code == 2
    assert "Traceback" not in run.err
    assert "Usage:" in run.err
    assert "Error" in run.err
    assert run.out == ""
    assert files_in(".") == before


# Where things are written to


def some_directory(path):
    """Make a directory that holds something."""
    path.mkdir(parents=True)
    (path / "notes.txt").write_text("mine")


def some_file(path):
    """Make a file."""
    path.write_text("mine")


def nothing(path):
    """Leave the place as it is."""


OUTPUTS = [
    # who writes, where to, what is there, what the message says
    (TRAIN, "taken", some_directory, ["--output taken", "in use", "--resume"]),
    (TRAIN, "file", some_file, ["--output file", "is a file", "directory"]),
    (TRAIN, "good.csv/model", nothing, ["--output good.csv/model", "name another place"]),
    (EVALUATE, "absent/report.json", nothing, ["--json absent/report.json", "does not exist"]),
    (EVALUATE, "good.csv/report.json", nothing, ["--json good.csv/report.json", "does not exist"]),
    (EVALUATE, "folder", some_directory, ["--json folder", "directory"]),
    (EVALUATE, ".", nothing, [r"--json \.", "directory"]),
    (EVALUATE, "report.png", nothing, [r"--json report\.png", "picture|png"]),
    (PREDICT, "out.xlsx", nothing, ["out.xlsx", "unknown extension", r"\.csv, \.tsv, \.jsonl, \.parquet"]),
    (PREDICT, "out", some_directory, ["--output out", "in use", "new directory"]),
    (PREDICT, "good.csv/out", nothing, ["good.csv/out", "name another place"]),
    (PREDICT, "absent/out.csv", nothing, ["absent/out.csv", "does not exist", "create it"]),
    (PREDICT, "good.csv/out.csv", nothing, ["good.csv/out.csv", "does not exist"]),
    (PREDICT, "folder.csv", some_directory, ["folder.csv", "a directory"]),
]


@pytest.mark.parametrize(
    ("command", "output", "make", "patterns"),
    [pytest.param(*case, id=f"{case[0]} {case[1]}") for case in OUTPUTS],
)
def test_outputs(command, output, make, patterns, toys, home):
    arguments = list(commands(toys)[command]("good.csv"))
    option = "--json" if command == EVALUATE else "--output"
    arguments[arguments.index(option) + 1] = output
    make(home / output)
    assert_says(refused(*arguments), patterns)


@pytest.mark.parametrize("command", [EVALUATE, PREDICT])
def test_a_wrong_output_is_found_before_the_data_is_read(command, toys):
    """Who waited for an hour's predictions does not want to hear that there is no place for them."""
    name, folder, _, _, option, _ = commands(toys)[command]("good.csv")
    assert_says(refused(name, folder, "--data", "absent.csv", option, "absent/out.csv"), "does not exist")


@pytest.mark.parametrize("command", [EVALUATE, PREDICT])
@pytest.mark.parametrize("call", ["replace", "write"])
def test_a_full_disk_leaves_the_old_file(command, call, toys, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    arguments = commands(toys)[command]("good.csv")
    before = files_in(".")
    targets = {EVALUATE: (Path, "write_text"), PREDICT: (os, "fsync")}
    monkeypatch.setattr(*((os, "replace") if call == "replace" else targets[command]), full)
    assert_says(error_message(sharcs(*arguments)), "No space left")
    assert files_in(".") == before


@pytest.mark.parametrize("command", [EVALUATE, PREDICT])
def test_a_crash_midway_leaves_the_old_file(command, toys, monkeypatch):
    arguments = commands(toys)[command]("good.csv")
    before = files_in(".")

    def broken(*args, **kwargs):
        raise RuntimeError("out of memory")

    for name in ("forward", "run_trunk"):  # what evaluates, and what answers many texts
        monkeypatch.setattr(SharcsForSequenceClassification, name, broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        sharcs(*arguments)
    assert files_in(".") == before


# Encoders to train


def replace(name, change):
    """Make a breaker that rewrites a file of a directory with a text or a function of its bytes, or removes it."""

    def broken(folder):
        path = folder / name
        if change is None:
            path.unlink()
        else:
            path.write_bytes(change(path.read_bytes()) if callable(change) else change.encode())

    return broken


def half(content):
    """Keep the first half, as a download that was cut off."""
    return content[: len(content) // 2]


def only_pickles(folder):
    """Hold the weights as a pickle only."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def empty(folder):
    """Hold nothing."""
    shutil.rmtree(folder)
    folder.mkdir()


def gpt2(folder):
    """Be a model whose layers can't be narrowed."""
    config = GPT2Config(n_embd=32, n_head=4, n_layer=3, vocab_size=30522, pad_token_id=0)
    GPT2ForSequenceClassification(config).save_pretrained(folder)


def no_tokenizer(folder):
    """Have no tokenizer, as a checkpoint that was saved by hand."""
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def small_vocabulary(folder):
    """Have fewer embeddings than the tokenizer has tokens."""
    tokenizer = {name: (folder / name).read_bytes() for name in ("tokenizer.json", "tokenizer_config.json")}
    save_encoder(folder, vocab_size=100)
    for name, content in tokenizer.items():
        (folder / name).write_bytes(content)


def without(*suffixes):
    """Make a breaker that drops the weights whose names end so."""

    def broken(folder):
        path = folder / "model.safetensors"
        weights = {name: value for name, value in load_file(path).items() if not name.endswith(suffixes)}
        save_file(weights, path, metadata={"format": "pt"})

    return broken


MY_MODEL = "--model my-model"
ENCODERS = [
    # what is wrong, how an encoder's directory comes to it, what the message says
    ("empty", empty, [MY_MODEL, "no config.json", "model"]),
    ("no config", replace("config.json", None), [MY_MODEL, "no config.json"]),
    ("config is no JSON", replace("config.json", "{"), [MY_MODEL, "config"]),
    ("config of no model", replace("config.json", "{}"), [MY_MODEL, "model_type|no encoder"]),
    ("config of an unknown model", replace("config.json", '{"model_type": "nonsense"}'), [MY_MODEL, "nonsense"]),
    ("an image model", replace("config.json", '{"model_type": "vit"}'), [MY_MODEL, "of images", "--image-column"]),
    ("no weights", replace("model.safetensors", None), [MY_MODEL, "model.safetensors"]),
    ("only pytorch_model.bin", only_pickles, [MY_MODEL, "model.safetensors"]),
    ("weights cut off", replace("model.safetensors", half), [MY_MODEL]),
    ("weights empty", replace("model.safetensors", ""), [MY_MODEL]),
    ("weights of another size", replace("config.json", lambda old: old.replace(b"48", b"64")), [MY_MODEL]),
    ("no tokenizer", no_tokenizer, [MY_MODEL, "tokenizer"]),
    ("tokenizer is no JSON", replace("tokenizer.json", "{"), [MY_MODEL]),
    ("too few embeddings", small_vocabulary, [MY_MODEL, "vocab|token|embedding"]),
    ("a decoder", gpt2, ["gpt2", "another encoder"]),
    ("one layer", lambda folder: save_encoder(folder, layers=1), ["router.layer", "1 layers"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "broken", "patterns"), by_name(ENCODERS))
def test_encoders(name, broken, patterns, toys, home):
    shutil.copytree(toys.encoder, home / "my-model")
    broken(home / "my-model")
    assert_says(refused(*training_of("my-model", toys)), patterns)


def training_of(encoder, toys):
    """Build the arguments of a training of another encoder."""
    arguments = list(commands(toys)[TRAIN]("good.csv"))
    arguments[arguments.index("--model") + 1] = encoder
    return arguments


def test_an_encoder_that_is_a_file(toys):
    assert_says(refused(*training_of("good.csv", toys)), ["--model good.csv", "is a file", "directory"])


def test_an_encoder_that_is_routed_already(toys):
    assert_says(refused(*training_of(toys.model, toys)), [str(toys.model), "sharcs model already", "plain encoder"])


def test_a_head_for_other_classes(toys, home):
    """A checkpoint that was fine-tuned on other classes gets a new head, or is refused like anything else."""
    shutil.copytree(toys.encoder, home / "my-model")
    AutoModelForSequenceClassification.from_pretrained(toys.encoder, num_labels=5).save_pretrained(home / "my-model")
    run = sharcs(*training_of("my-model", toys))
    if run.code == 0:
        assert classes_predicted("good.csv") <= {"good", "bad"}
    else:
        assert_says(error_message(run), ["my-model", "classes|labels"])
        assert not Path("model").exists()


def classes_predicted(data):
    """Predict with what a training has left in ``model``."""
    succeeds("predict", "model", "--data", data, "--output", "predicted.csv")
    return {row["prediction"] for row in read_csv("predicted.csv")}


# Without a network


@pytest.fixture
def no_network(monkeypatch):
    """Resolve no name, as on a machine without a network, and let waiting cost no time; returns the waits."""

    def unknown(*args, **kwargs):
        raise socket.gaierror(-2, "Name or service not known")

    waits = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


@pytest.mark.parametrize("command", READERS)
def test_data_of_the_hub_without_a_network(command, toys, no_network):
    start = time.monotonic()
    message = refused(*commands(toys)[command]("no-such-owner/no-such-data:train"))
    assert_says(message, ["no-such-owner/no-such-data:train", "hub cannot be reached", "give a file"])
    assert time.monotonic() - start + sum(no_network) < 15


@pytest.mark.parametrize("model", ["no-such-owner/no-such-model", "no-such-model", "./no/such/folder"])
def test_an_encoder_of_the_hub_without_a_network(model, toys, no_network):
    start = time.monotonic()
    assert_says(refused(*training_of(model, toys)), [f"--model {model}", "local"])
    assert time.monotonic() - start + sum(no_network) < 15


# Models to evaluate and to predict with


def file_instead(folder):
    """Be a file."""
    shutil.rmtree(folder)
    folder.write_text("a file")


def plain_bert(folder):
    """Be a model that was never routed."""
    shutil.rmtree(folder)
    save_encoder(folder)


def unfinished(folder):
    """Be what an interrupted training leaves."""
    for path in folder.iterdir():
        if path.name != "training.json":
            path.unlink()


def nan_weights(folder):
    """Hold what a diverged training leaves."""
    path = folder / "model.safetensors"
    weights = {name: torch.full_like(value, torch.nan) for name, value in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})


def problem(problem_type):
    """Be a model for another problem type, with a policy that it may have."""

    def broken(folder):
        config = json.loads((folder / "config.json").read_text())
        config |= {"problem_type": problem_type, "policy": {"cost_weight": 0.0}}
        (folder / "config.json").write_text(json.dumps(config))

    return broken


def token_model(folder):
    """Rename the class that a model was saved by."""
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["SharcsForSequenceClassification"]
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["SharcsForTokenClassification"]}))


MODELS = [
    # what is wrong, how a model's directory comes to it, what the message says beside the directory
    ("absent", shutil.rmtree, ["no such directory", "sharcs train"]),
    ("empty", empty, ["no config.json", "sharcs train"]),
    ("a file", file_instead, ["no such directory|is a file", "sharcs train"]),
    ("unfinished", unfinished, ["not finished", "--resume"]),
    ("plain BERT", plain_bert, ["bert model", "sharcs train"]),
    ("config is no JSON", replace("config.json", "{"), ["config.json", "no valid JSON"]),
    ("config is a list", replace("config.json", "[]"), ["config.json", "no valid JSON"]),
    ("config is binary", replace("config.json", lambda old: b"\xff\xfe"), ["config.json", "no valid JSON"]),
    ("weights of another size", replace("config.json", lambda old: old.replace(b"48", b"64")), ["train again"]),
    ("config with wrong widths", replace("config.json", lambda old: old.replace(b"0.25", b"0.3")), ["widths|heads"]),
    ("no weights", replace("model.safetensors", None), ["model.safetensors", "train again"]),
    ("weights cut off", replace("model.safetensors", half), ["can't be loaded", "train again"]),
    ("weights empty", replace("model.safetensors", ""), ["can't be loaded", "train again"]),
    ("weights are text", replace("model.safetensors", "weights" * 99), ["can't be loaded", "train again"]),
    ("a weight too few", without("output.dense.weight"), ["train again"]),
    ("only pytorch_model.bin", only_pickles, ["model.safetensors", "train again"]),
    ("no tokenizer", no_tokenizer, ["tokenizer", "train again"]),
    ("no tokenizer.json", replace("tokenizer.json", None), ["tokenizer", "train again"]),
    ("no tokenizer_config.json", replace("tokenizer_config.json", None), ["tokenizer", "train again"]),
    ("tokenizer is no JSON", replace("tokenizer.json", "{"), ["can't be loaded", "train again"]),
    ("training.json is no JSON", replace("training.json", "{"), ["training.json"]),
    ("training.json is a list", replace("training.json", "[]"), ["training.json"]),
    ("training.json of nothing", replace("training.json", "{}"), ["training.json"]),
    ("NaN weights", nan_weights, ["train again"]),
    ("a model of tokens", token_model, ["is a SharcsForTokenClassification", "from Python"]),
    ("a regression of two", problem("regression"), ["answers with 2 numbers for each input", "from Python"]),
]


@pytest.mark.parametrize("command", [EVALUATE, PREDICT])
@pytest.mark.parametrize(("name", "broken", "patterns"), by_name(MODELS))
def test_models(command, name, broken, patterns, toys, home):
    shutil.copytree(toys.model, home / "my-model")
    broken(home / "my-model")
    arguments = list(commands(toys)[command]("good.csv"))
    arguments[1] = "my-model"
    assert_says(refused(*arguments), ["my-model", *patterns])


# Going on with a training


@pytest.fixture(scope="module")
def stopped_folder(toys, tmp_path_factory):
    """Interrupt a training of ``good.csv``, before its first checkpoint, once for all tests."""

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    home = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setattr(Trainer, "train", stop)
        assert sharcs(*commands(toys)[TRAIN]("good.csv")).code == 130
    assert not (home / "model/config.json").exists()
    return home / "model"


@pytest.fixture
def stopped(toys, home, stopped_folder):
    """Leave an interrupted training of ``good.csv`` in ``model``; returns the command that goes on."""
    shutil.copytree(stopped_folder, home / "model")
    return [*commands(toys)[TRAIN]("good.csv"), "--resume"]


OTHER = [
    # other options, the option that the message names; - and _ count as the same
    ("--learning-rate 0.1", "learning-rate"),
    ("--epochs 2", "epochs"),
    ("--batch-size 3", "batch-size"),
    ("--max-length 12", "max-length"),
    ("--window 2 --epochs 3", "window|epochs"),
    ("--seed 7", "seed"),
    ("--widths 0.5,1.0", "widths"),
    ("--band 0.25=0.5,1.0 --epochs 4", "band|epochs"),
    ("--router-layer 2", "router-layer"),
    ("--text-column label --label-column text", "column"),
    ("--data other.csv", "data"),
    ("--data swapped.csv", "data"),
    ("--data longer.csv", "data|rows"),
]


@pytest.mark.parametrize(("options", "named"), by_name(OTHER))
def test_resuming_with_something_else(options, named, stopped):
    Path("other.csv").write_text(GOOD.replace("fine", "finer"))
    Path("swapped.csv").write_text("text,label\nfine,bad\nawful,good\n")
    Path("longer.csv").write_text(GOOD + "dull,bad\n")
    message = refused(*changed(stopped, options.split()))
    assert_says(message, ["--resume", "model"])
    assert_says(message.replace("_", "-"), named)


def test_resuming_with_the_same_data_elsewhere(stopped):
    Path("good.csv").rename("moved.csv")
    arguments = ["moved.csv" if word == "good.csv" else word for word in stopped]
    succeeds(*arguments)
    assert classes_predicted("moved.csv") <= {"good", "bad"}


def test_resuming_nothing(toys, home):
    arguments = (*commands(toys)[TRAIN]("good.csv"), "--resume")
    assert_says(refused(*arguments), ["--resume", "model", "no training", "leave --resume out"])
    (home / "model").mkdir()
    assert_says(refused(*arguments), ["--resume", "model", "no training", "leave --resume out"])
    (home / "model/notes.txt").write_text("mine")
    assert_says(refused(*arguments), ["--resume", "model", "no training"])


def test_resuming_what_is_finished(stopped):
    succeeds(*stopped)
    assert_says(refused(*stopped), ["--resume", "model", "finished", "--output"])


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_resuming_from_a_broken_record(content, stopped):
    Path("model/training.json").write_text(content)
    assert_says(refused(*stopped), "model/training.json")


def test_starting_anew_in_a_training_that_was_interrupted(stopped):
    assert_says(refused(*stopped[:-1]), ["--output model", "in use", "--resume"])
    assert json.loads(Path("model/training.json").read_text())["data"] == "good.csv"
