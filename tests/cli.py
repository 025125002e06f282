"""Runs ``sharcs`` inside the test's process, and makes tiny encoders and toy data for it."""

import contextlib
import csv
import io
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from sharcs import cli
from sharcs.builtin import minilm_path

# Quick settings under which the toy rows spread over the widths. One learns them in a few dozen steps.
QUICK = ("--epochs", 4, "--window", 1, "--batch-size", 8, "--learning-rate", 3e-3, "--max-length", 16,
         "--band", "0.25=0.6,1.0", "--band", "1.0=0.0,0.6")  # fmt: skip

ROWS = 48
SENSES = {"good": ("fine", "lovely", "bright"), "bad": ("awful", "dull", "broken")}
FILLERS = ("the film", "a plot", "this book and its end", "my dog", "that town by the sea in the north", "it")


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
    ):
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        else:
            code = 0
    return Run(code, out.getvalue(), err.getvalue())


def succeeds(*arguments):
    """Run the command and insist on its success."""
    run = sharcs(*arguments)
    assert run.code == 0, run
    return run


def refused(*arguments):
    """Run the command, insist that it refuses its input as the contract says, and return the message.

    That is exit code 2, one line on standard error that begins with ``sharcs: error:``, and nothing about it on
    standard output.
    """
    run = sharcs(*arguments)
    assert run.code == 2, run
    assert "Traceback" not in run.err
    errors = [line for line in run.err.splitlines() if "error" in line.lower()]
    assert len(errors) == 1, run
    assert errors[0] == run.err.splitlines()[-1], run
    prefix, message = re.fullmatch(r"(sharcs: error: )(.+)", errors[0]).groups()
    assert run.out == "", run
    return message


def files_in(folder):
    """Read every file below a directory; directories have no content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(Path(folder).rglob("*"))
    }


def toy_rows(count=ROWS, seed=0):
    """Make texts of several lengths with a class each; a fourth of the classes is drawn at random."""
    generator = torch.Generator().manual_seed(seed)

    def draw(choices):
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]

    rows = []
    for number in range(count):
        label = draw(sorted(SENSES))
        sense = draw(sorted(SENSES)) if number % 4 == 0 else label
        rows.append({"text": f"{draw(FILLERS)} is {draw(SENSES[sense])} {number}", "label": label})
    return rows


def write_csv(path, rows, delimiter=",", encoding="utf-8"):
    """Write dictionaries as a delimited file with Python's own writer, and return its path."""
    with Path(path).open("w", newline="", encoding=encoding) as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return Path(path)


def read_csv(path):
    """Read a csv file as dictionaries with Python's own reader."""
    with Path(path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def save_encoder(folder, layers=3, **config):
    """Save a tiny random BERT, with MiniLM's tokenizer, as a plain checkpoint; return its directory."""
    tokenizer = AutoTokenizer.from_pretrained(minilm_path())
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "num_hidden_layers": layers,
        "max_position_embeddings": 64,
        "initializer_range": 0.15,
    }
    torch.manual_seed(0)
    BertForSequenceClassification(BertConfig(**settings | config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)
