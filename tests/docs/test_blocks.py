"""Every block of code in README and docs is run, page by page, or says why it can't be."""

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    ViTImageProcessorPil,
)

from helpers import media
from helpers.cli import read_csv, sharcs, write_csv
from helpers.encoders import save_plain
from records.make import ROWS, save_small_encoder

ROOT = Path(__file__).parents[2]
RECORDED = ROOT / "tests" / "records" / "plus"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^(?P<before>[^\n]*\n)(?P<fence>`{3,})(?P<language>\w*)\n(?P<code>.*?)^(?P=fence)$", re.M | re.S)
NOT_RUN = re.compile(r"<!-- not run: \S.* -->")
NO_CODE = ("text",)  # what a program shows
LEAST = {  # what makes a command of a page take seconds, where the page doesn't say otherwise
    "train": {"--model": "encoder", "--epochs": "1", "--sub-network-epochs": "1", "--max-length": "16"},
}
# A calibration may find that no policy keeps the limit on a few rows.
CODES = {"calibrate": (0, 3)}


@dataclass(frozen=True)
class Block:
    """A fenced block, and whether the page says that it is not run."""

    language: str
    code: str
    left_out: bool


def blocks_of(page):
    """Find the fenced blocks of a page."""
    text = "\n" + page.read_text(encoding="utf-8")
    return [
        Block(found["language"], found["code"], bool(NOT_RUN.search(found["before"])))
        for found in BLOCK.finditer(text)
    ]


def commands_of(code):
    """Split a shell block into commands without their comments; a line may go on behind a backslash."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run_shell(code):
    """Run ``sharcs`` commands, with as little work as the page permits."""
    for name, command, *words in commands_of(code):
        assert name == "sharcs", f"{name}: only sharcs is run; mark the block as not run, with the reason"
        for option, value in LEAST.get(command, {}).items():
            words += [] if option in words else [option, value]
        if command == "train":  # a page may train what another one finds ready
            shutil.rmtree(words[words.index("--output") + 1], ignore_errors=True)
        run = sharcs(command, *words)
        assert run.code in CODES.get(command, (0,)), run


def prepare(home):
    """Write the files that pages name, and return the names that their Python may use."""
    save_small_encoder(home / "encoder")
    for name in ("my-model", "demo/reuters-r8"):
        shutil.copytree(RECORDED, home / name)
    tokenizer = AutoTokenizer.from_pretrained(home / "my-model")
    config = AutoConfig.from_pretrained(home / "encoder")
    config.id2label, config.label2id = {0: "bad", 1: "good", 2: "odd"}, {"bad": 0, "good": 1, "odd": 2}
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(home / "fine-tuned")
    tokenizer.save_pretrained(home / "fine-tuned")
    save_plain("vit", home / "image-encoder", auto_class=media.auto_class("vit"), configs=media.MEDIA)
    ViTImageProcessorPil(size={"height": media.SIDE, "width": media.SIDE}).save_pretrained(home / "image-encoder")
    save_plain("hubert", home / "audio-encoder", auto_class=media.auto_class("hubert"), configs=media.MEDIA)
    table = read_csv(ROWS)
    for name, rows in {"train": table[:48], "test": table[48:96], "new": table[96:120], "texts": table}.items():
        write_csv(home / f"{name}.csv", rows)
    texts = [row["text"] for row in table[:8]]
    rows = [
        {**tokenizer(row["text"], truncation=True), "labels": config.label2id[row["label"]]} for row in table[:48]
    ]
    return {
        "texts": texts,
        "labels": [row["label"] for row in table[:8]],
        "rows": rows,
        "collator": DataCollatorWithPadding(tokenizer),
        "batch": dict(tokenizer(texts, padding=True, return_tensors="pt")),
        "pixel_values": media.make_batch("vit")["pixel_values"],
        "input_values": media.make_batch("hubert")["input_values"],
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_a_page_is_of_a_language_that_is_run_or_is_left_out_with_a_reason(page):
    fences = re.findall(r"^\s*(?:`{3,}|~{3,})", page.read_text(encoding="utf-8"), re.M)
    blocks = blocks_of(page)
    assert len(fences) == 2 * len(blocks), "a block is indented, or fenced in another way, and would not be run"
    for block in blocks:
        assert block.left_out or block.language in ("python", "bash", "json", *NO_CODE), block


def test_a_reason_is_more_than_the_marker():
    assert NOT_RUN.search("<!-- not run: installs packages -->\n")
    assert not NOT_RUN.search("<!-- not run:  -->\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(b.language not in NO_CODE and not b.left_out for b in blocks_of(page))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_blocks_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    names = {"__name__": "page", **prepare(tmp_path)}
    monkeypatch.chdir(tmp_path)
    for block in blocks_of(page):
        if block.left_out or block.language in NO_CODE:
            continue
        if block.language == "python":
            exec(compile(block.code, str(page), "exec"), names)
        elif block.language == "bash":
            run_shell(block.code)
        else:
            json.loads(block.code)
