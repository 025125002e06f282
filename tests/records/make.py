"""The records: two small trained models, fixed rows, and what the commands made of them at commit 51ed7c4.

``python tests/records/make.py`` wrote everything beside it, once, and ``tests/test_records.py`` compares. Whoever
rewrites a record names the exception in the commit's subject: they are the judge of every change to the layout.
"""

import csv
import json
import shutil
import tempfile
from html.parser import HTMLParser
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from helpers.cli import sharcs, succeeds
from sharcs_runtime import OnnxRunner

HERE = Path(__file__).parent
ROWS = HERE / "rows.csv"
# Folder by recipe; what trains it beyond the options of both.
MODELS = {
    "plus": ("--epochs", 14),
    "paper": ("--recipe", "paper", "--epochs", 14, "--window", 2, "--band", "0.25=0.7,1.0", "--band", "1.0=0.0,0.7"),
}
OPTIONS = ("--batch-size", 16, "--learning-rate", 2e-3, "--max-length", 16)
LIMITS = (
    ("--budget", 0.9),
    ("--max-disagreement", 0.03),
    ("--max-accuracy-drop", 0.02),
    ("--max-disagreement", 0.3, "--per-class"),
)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
SENSES = {"bad": ("awful", "dull", "broken"), "good": ("fine", "lovely", "bright"), "odd": ("queer", "weird", "rare")}
TURNS = ("simply", "hardly", "never")  # each turns a sense to another one
SUBJECTS = ("the film", "a plot", "this book and its end", "my dog", "that town by the sea in the north", "it")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven")


def draw_rows(count, seed):
    """Make rows whose class is in two words; an eighth of the classes is drawn at random, and so is the source."""
    generator = torch.Generator().manual_seed(seed)

    def draw(choices):
        return choices[int(torch.randint(len(choices), (1,), generator=generator))]

    rows = []
    for number in range(count):
        names = sorted(SENSES)
        sense, turn = draw(range(3)), draw((0, 0, 0, 1, 2))
        label = draw(names) if number % 8 == 0 else names[(sense + turn) % 3]
        words = [draw(SUBJECTS), "is", TURNS[turn], *(draw(NUMBERS) for _ in range(number % 4))]
        words.append(draw(SENSES[names[sense]]))
        rows.append({"text": " ".join(words), "label": label, "source": draw(("press", "web"))})
    return rows


def write_rows(path, rows):
    """Write a CSV file."""
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def save_small_encoder(folder):
    """Save a tiny random BERT with a vocabulary of its own, so that a trained model stays far below 1 MB."""
    words = sorted({word for row in draw_rows(2000, 0) for word in row["text"].split()})
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *words])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=32, **named).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, "num_hidden_layers": 3}
    BertModel(
        BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, initializer_range=0.1, **sizes)
    ).save_pretrained(folder)


class PageText(HTMLParser):
    """The words of a page, without its pictures, styles and scripts."""

    LEFT_OUT = ("svg", "style", "script", "picture", "title")

    def __init__(self):
        super().__init__()
        self.words, self._depth = [], 0

    def handle_starttag(self, tag, attrs):
        """Enter an element."""
        self._depth += tag in self.LEFT_OUT

    def handle_endtag(self, tag):
        """Leave it."""
        self._depth -= tag in self.LEFT_OUT

    def handle_data(self, data):
        """Keep the words."""
        if self._depth == 0 and data.strip():
            self.words.append(" ".join(data.split()))


def read_json(path):
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def record(folder, work):
    """Run every command on a saved model and the fixed rows, and collect what it found as plain values.

    Args:
        folder: The model; it is copied, since calibrating changes it.
        work: An empty directory to work in.
    """
    model, rows = work / "model", work / "rows.csv"
    shutil.copytree(folder, model)
    shutil.copy(ROWS, rows)
    data = ("--data", rows)
    found = {"calibrate": {}}
    succeeds("evaluate", model, *data, "--json", work / "evaluate.json")
    succeeds("evaluate", model, *data, "--width", 0.25, "--json", work / "narrow.json")
    found["evaluate"], found["evaluate narrow"] = read_json(work / "evaluate.json"), read_json(work / "narrow.json")
    for name, options in {"predict": (), "predict narrow": ("--width", 0.25)}.items():
        succeeds("predict", model, *data, "--output", work / f"{name}.csv", *options)
        with (work / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            found[name] = [[r["prediction"], float(r["score"]), float(r["width"])] for r in csv.DictReader(file)]
    succeeds("report", model, *data, "--output", work / "report.html", "--group-column", "source")
    page = PageText()
    page.feed((work / "report.html").read_text(encoding="utf-8"))
    found["report"] = [words.replace(f"{rows}", rows.name) for words in page.words]
    succeeds("export", model, "--output", work / "export")
    runner = OnnxRunner(work / "export")
    with ROWS.open(newline="", encoding="utf-8") as file:
        found["export"] = [list(answer) for answer in runner.predict([row["text"] for row in csv.DictReader(file)])]
    for limit in LIMITS:
        shutil.rmtree(work / "calibrated", ignore_errors=True)
        shutil.copytree(folder, work / "calibrated")
        run = sharcs("calibrate", work / "calibrated", *data, *limit, "--group-column", "source")
        config = read_json(work / "calibrated" / "config.json")
        calibration = {name: value for name, value in config["calibration"].items() if name != "data"}
        key = " ".join(map(str, limit))
        shown = run.out.replace(f"{rows}", rows.name).split()
        found["calibrate"][key] = {
            "policy": config["policy"],
            "calibration": calibration,
            "code": run.code,
            "shown": shown,
        }
    return found


def main():
    """Make models and rows, and record."""
    write_rows(ROWS, draw_rows(400, 1))
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        save_small_encoder(work / "encoder")
        write_rows(work / "train.csv", draw_rows(1200, 2))
        for name, options in MODELS.items():
            if (HERE / name).exists():
                continue  # a model of an earlier format stays what it is
            data = ("--data", work / "train.csv", "--model", work / "encoder", "--output", HERE / name)
            succeeds("train", *data, *OPTIONS, *options)
            (work / name).mkdir()
            text = json.dumps(record(HERE / name, work / name), indent=1)
            (HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
