"""Runs ``sharcs`` inside the test's process, and makes tiny encoders, toy data and a trained model for it.

A test module that wants the toys imports the fixture: ``from cli import toys_fixture  # noqa: F401``.
"""

import contextlib
import csv
import io
import re
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel

from sharcs.data.named import minilm_path
from sharcs_cli import app as cli

MAX_LENGTH = 16
WIDTHS = [0.25, 1.0]

# With these, a tiny encoder learns the toy rows at both widths within a second.
QUICK = (
    *("--epochs", 6, "--window", 2, "--batch-size", 6, "--learning-rate", 3e-3, "--max-length", MAX_LENGTH),
    *("--band", "0.25=0.7,1.0", "--band", "1.0=0.0,1.0"),
)
# For tests that need a training, not a good one.
ONE_EPOCH = ("--epochs", 1, "--batch-size", 32, "--max-length", MAX_LENGTH, "--widths", "0.25,1.0")

SENSES = {"good": ("fine", "lovely", "bright"), "bad": ("awful", "dull", "broken")}
SUBJECTS = ("the film", "a plot", "this book and its end", "my dog", "that town by the sea in the north", "it")


@dataclass(frozen=True)
class Run:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


def sharcs(*arguments):
    """Run the command as the shell would; an exception that the user would see as a traceback comes out here."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["sharcs", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stop,
    ):
        cli.main()
    # Colours, which continuous integration may switch on, would stand between the words that tests look for.
    plain = [re.sub("\x1b\\[[0-9;]*m", "", stream.getvalue()) for stream in (out, err)]
    return Run(stop.value.code, *plain)


def succeeds(*arguments):
    """Run the command and insist on its success."""
    run = sharcs(*arguments)
    assert run.code == 0, run
    return run


def changed(arguments, options):
    """Give options to a command, in place of those of the same name that it has; ``--band`` may stand there again."""
    names = {str(word).partition("=")[0] for word in options if str(word).startswith("--")} - {"--band"}
    kept, words = [], iter(arguments)
    for word in words:
        if word in names:
            next(words)  # its value
        else:
            kept.append(word)
    return [*kept, *options]


def error_message(run):
    """Insist that a run refused its input as the contract says, and return its message.

    That is exit code 2, and as the last line on standard error the only one that begins with ``sharcs: error:``.
    """
    assert run.code == 2, run
    assert "Traceback" not in run.err
    marked = [line for line in run.err.splitlines() if line.startswith("sharcs: error:")]
    assert marked == run.err.splitlines()[-1:], run
    return marked[0].removeprefix("sharcs: error: ")


def files_in(folder):
    """Read every file below a directory; directories have no content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(Path(folder).rglob("*"))
    }


def toy_rows(count, seed=0):
    """Make texts of several lengths with a class each; a fourth of the classes is drawn at random."""
    generator = torch.Generator().manual_seed(seed)

    def draw(choices):
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]

    rows = []
    for number in range(count):
        label = draw(sorted(SENSES))
        sense = draw(sorted(SENSES)) if number % 4 == 0 else label
        rows.append({"text": f"{draw(SUBJECTS)} is {draw(SENSES[sense])} {number}", "label": label})
    return rows


def write_csv(path, rows, delimiter=",", encoding="utf-8"):
    """Write dictionaries as a delimited file with Python's own writer, and return its path."""
    with Path(path).open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return Path(path)


def read_csv(path, delimiter=","):
    """Read a delimited file as dictionaries with Python's own reader."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def save_encoder(folder, layers=3, **config):
    """Save a tiny random BERT without a head, as pretrained encoders are, and MiniLM's tokenizer; return where."""
    tokenizer = AutoTokenizer.from_pretrained(minilm_path())
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "max_position_embeddings": 64,
        "initializer_range": 0.1,
    }
    torch.manual_seed(0)
    BertModel(BertConfig(**settings | config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)


@torch.inference_mode()
def one_by_one(folder, texts, pairs=None, width=None):
    """Run a saved model on one text after the other with nothing but ``transformers``.

    Returns:
        For each text its class's name, the class's probability, and the width that it ran at.
    """
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for text, pair in zip(texts, pairs or [None] * len(texts), strict=True):
        row = tokenizer(text, pair, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
        output = model(**row, width=width)
        probabilities = output.logits[0].double().softmax(dim=0).tolist()
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        chosen = WIDTHS.index(width) if width else int(output.width_index)
        found.append((model.config.id2label[best], probabilities[best], WIDTHS[chosen]))
    return found


@torch.inference_mode()
def balance_router(folder, texts):
    """Shift the router's last bias so that three of eight texts stay narrow, and five go through the full width."""
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    logits = [
        model(**tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")).router_logits[0]
        for text in texts
    ]
    margins = sorted(float(row[1] - row[0]) for row in logits)
    cut = 3 * len(margins) // 8
    model.tail.router.output.bias[0] += (margins[cut - 1] + margins[cut]) / 2
    model.save_pretrained(folder)


@dataclass(frozen=True)
class Toys:
    """Where the toys lie. Not to be written to.

    Attributes:
        encoder: A plain checkpoint.
        train: 64 labelled rows, csv.
        test: 40 others.
        trained: What ``sharcs train`` makes of ``train`` with the options ``QUICK``.
        model: The same with a router that leaves three of eight test rows narrow.
        pair_train: ``train`` with the column ``text_pair``, csv.
        pair_model: Trained on it, with such a router, too.
    """

    encoder: Path
    train: Path
    test: Path
    trained: Path
    model: Path
    pair_train: Path
    pair_model: Path


@pytest.fixture(scope="session", name="toys")
def toys_fixture(tmp_path_factory):
    """Make the toys once, for all modules that import this."""
    home = tmp_path_factory.getbasetemp() / "cli-toys"
    toys = Toys(
        home / "encoder",
        home / "train.csv",
        home / "test.csv",
        home / "trained",
        home / "model",
        home / "pairs.csv",
        home / "pair-model",
    )
    if home.is_dir():
        return toys
    home.mkdir()
    save_encoder(toys.encoder)
    rows, test = toy_rows(64), toy_rows(40, seed=1)
    write_csv(toys.train, rows)
    write_csv(toys.test, test)
    texts = [row["text"] for row in test]
    succeeds("train", "--data", toys.train, "--model", toys.encoder, "--output", toys.trained, *QUICK)
    shutil.copytree(toys.trained, toys.model)
    balance_router(toys.model, texts)
    write_csv(toys.pair_train, [{**row, "text_pair": f"so {row['label']} {n}"} for n, row in enumerate(rows)])
    arguments = ("--data", toys.pair_train, "--model", toys.encoder, "--output", toys.pair_model)
    succeeds("train", *arguments, *ONE_EPOCH, "--learning-rate", 5e-3)
    balance_router(toys.pair_model, texts)
    return toys
