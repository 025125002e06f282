"""The command ``sharcs report`` on real files: the page's numbers, texts and pictures, and how it ends."""

import html
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from helpers.cli import (
    error_message,
    files_in,
    read_csv,
    save_encoder,
    sharcs,
    succeeds,
    toy_rows,
    toys_fixture,  # noqa: F401
    write_csv,
)
from sharcs.data.texts import Columns, load_texts
from sharcs.inference.folder import TrainedModel, load_tokenizer
from sharcs.model.text import SharcsForSequenceClassification
from sharcs.report import page as report_page
from sharcs.report.content import build_report
from sharcs.report.page import headline, render_page

NASTY = [
    "<script>alert(1)</script> & <img src=x onerror=alert(2)> \"quoted' {{ 7 * 7 }} $x_1$",
    "one\x00two\x08three \u202egnitirw ot tfel thgir",
    "w" * 3000,
]


class Page(HTMLParser):
    """Reads a page's exact numbers: those with an id, and those of each table's rows by the row's heading."""

    def __init__(self, text):
        """Read all of it."""
        super().__init__()
        self.numbers, self.tables, self.headings, self.tags, self.words = {}, {}, [], [], ""
        self._rows = self._cell = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Note numbers, rows and headings."""
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "table":
            self._rows = self.tables[attrs["id"].removesuffix("-table")] = []
        elif tag == "tr":
            self._rows.append(["", []])
        elif tag == "data":
            if "id" in attrs:
                self.numbers[attrs["id"]] = float(attrs["value"])
            elif self._rows and self.lasttag == "data" and self._cell in ("th", "td"):
                self._rows[-1][1].append(float(attrs["value"]))
        if tag in ("th", "td", "p", "dd", "li"):
            self._cell = tag
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_data(self, data):
        """Note words."""
        self.words += data
        if self._rows and self._cell == "th" and data.strip():
            self._rows[-1][0] += data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Make 120 labelled rows, some of them nasty, with a column of sources."""
    rows = [
        {**row, "source": ("desk <0>", "desk <1>", "新聞 $x$")[n % 3]} for n, row in enumerate(toy_rows(120, seed=2))
    ]
    for row, text in zip(rows, NASTY, strict=False):
        row["text"] = text.replace("\x00", "").replace("\x08", "\x07")  # which csv can hold
    return write_csv(tmp_path_factory.mktemp("report") / "data.csv", rows)


@pytest.fixture(scope="module")
def calibrated(toys, data, tmp_path_factory):
    """Give the toy model a policy with evidence."""
    folder = shutil.copytree(toys.model, tmp_path_factory.mktemp("calibrated") / "model")
    succeeds("calibrate", folder, "--data", toys.test, "--max-disagreement", 0.4)
    return folder


def make(folder, data, output, *options):
    run = succeeds("report", folder, "--data", data, "--output", output, *options)
    assert run.out == ""
    assert "sharcs: note" not in run.err
    return output.read_text(encoding="utf-8")


def test_numbers_are_those_of_evaluate(calibrated, data, tmp_path):
    text = make(calibrated, data, tmp_path / "report.html", "--group-column", "source")
    succeeds("evaluate", calibrated, "--data", data, "--json", tmp_path / "e.json")
    found, page = json.loads((tmp_path / "e.json").read_text()), Page(text)
    routed, full, widths = found["routed"], found["full"], found["widths"]
    assert page.numbers["accuracy"] == routed["accuracy"]
    assert page.numbers["saved"] == 1 - routed["flops_ratio"]
    assert page.numbers["narrow"] == 1 - widths[-1]["share"]
    curve = [row for row in page.tables["curve"] if row[1]]
    assert [numbers for _, numbers in curve] == [
        [routed["flops_ratio"], routed["accuracy"]],
        [1.0, full["accuracy"]],
        [routed["flops_ratio"], found["random"]["accuracy"]],
        [found["oracle"]["flops_ratio"], found["oracle"]["accuracy"]],
        *([width["flops_ratio"], width["accuracy"]] for width in widths),
        *([point["flops_ratio"], point["accuracy"]] for point in found["curve"]),
    ]
    keys = ("share", "flops_ratio", "accuracy", "accuracy_routed")
    assert [numbers for _, numbers in page.tables["shares"][1:]] == [
        [width[key] for key in keys if width[key] is not None] for width in widths
    ]
    # What is counted twice is counted alike.
    by_class = page.tables["classes"][1:]
    assert sum(numbers[0] for _, numbers in by_class) == found["samples"] == 120
    assert sum(numbers[0] * numbers[2] for _, numbers in by_class) / 120 == pytest.approx(routed["accuracy"])
    by_source = page.tables["groups"][1:]
    assert {name for name, _ in by_source} == {"desk <0>", "desk <1>", "新聞 $x$"}
    assert sum(numbers[0] * numbers[1] for _, numbers in by_source) / 120 == pytest.approx(full["accuracy"])
    same, wrong, *_ = (numbers[0] for _, numbers in page.tables["agreement"][1:])
    assert same + wrong == pytest.approx(page.numbers["same"])


def test_reading_order_and_what_the_page_may_load(calibrated, data, tmp_path):
    text = make(calibrated, data, tmp_path / "report.html")
    page = Page(text)
    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(page.headings))
    assert ("html", {"lang": "en"}) in page.tags
    assert ("link", {"rel": "icon", "href": "data:,"}) in page.tags  # else a browser with windows asks for an icon
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "iframe", "object", "embed", "img", "form", "base"}
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on") or name in ("src", "srcset", "action")], tag
        if "href" in attrs:
            assert attrs["href"] == "data:," if tag == "link" else attrs["href"].startswith("#")
    assert "url(" not in text
    assert "@import" not in text
    identifiers = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(identifiers) == len(set(identifiers))
    charts = [attrs for tag, attrs in page.tags if tag == "svg" and attrs.get("aria-hidden") != "true"]
    assert len(charts) == 8
    for attrs in charts:
        assert attrs["role"] == "img"
        assert {attrs["aria-labelledby"], attrs["aria-describedby"]} <= set(identifiers)


def test_texts_are_texts(toys, data, tmp_path):
    # As many examples as there are rows, so that every text is in the page.
    few = write_csv(tmp_path / "few.csv", read_csv(data)[:6])
    text = make(toys.model, few, tmp_path / "report.html", "--group-column", "source")
    assert html.escape(NASTY[0]).replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in text
    assert "<script" not in text
    assert "49" not in re.findall(r"quoted.{0,30}", text)[0].replace("&#34;", "").replace("&#39;", "")
    assert "one\ufffd" in text or "\ufffd" in text
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", text)
    assert "w" * 279 + "…" in text
    assert "w" * 280 not in text
    assert Page(text).words.count("desk <0>") >= 2


def test_the_same_data_gives_the_same_bytes(calibrated, data, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for folder in ("one", "two"):
        make(calibrated, data, tmp_path / folder / "report.html", "--group-column", "source")
    one, two = files_in(tmp_path / "one"), files_in(tmp_path / "two")
    assert one == two
    kinds = (
        *("curve", "shares", "agreement", "classes", "groups"),
        *("f1", "confusion", "reliability", "coverage"),
    )
    assert set(one) == {"report.html", *(f"report-{kind}.png" for kind in kinds)}
    for kind in kinds:
        with Image.open(tmp_path / "one" / f"report-{kind}.png") as picture:
            assert picture.format == "PNG"
            assert len(picture.convert("L").getcolors()) > 20  # something is drawn


@pytest.mark.parametrize(
    "column", ["none", *(pytest.param(c, marks=pytest.mark.extended) for c in ("empty", "withheld"))]
)
def test_without_labels(toys, data, tmp_path, column):
    rows = [{"text": row["text"], "source": row["source"]} for row in read_csv(data)]
    filled = {"none": {}, "empty": {"label": ""}, "withheld": {"label": -1}}[column]
    bare = write_csv(tmp_path / "bare.csv", [row | filled for row in rows])
    page = tmp_path / "report.html"
    make(toys.model, data, page)  # whose pictures of what needs labels must not stay
    run = succeeds("report", toys.model, "--data", bare, "--output", page, "--group-column", "source")
    assert "has no labels" in run.err
    kinds = ("curve", "shares", "agreement", "classes", "groups")
    assert set(files_in(tmp_path)) == {"bare.csv", "report.html", *(f"report-{kind}.png" for kind in kinds)}
    found = Page(page.read_text(encoding="utf-8"))
    assert "Labels are missing." in found.words
    assert "accuracy" not in found.numbers
    assert "reliability" not in found.tables
    # Shares and cost are those of the same texts with labels.
    succeeds("evaluate", toys.model, "--data", data, "--json", tmp_path / "e.json")
    evaluated = json.loads((tmp_path / "e.json").read_text())
    assert found.numbers["saved"] == 1 - evaluated["routed"]["flops_ratio"]
    assert [numbers[0] for _, numbers in found.tables["shares"][1:]] == [one["share"] for one in evaluated["widths"]]
    # The policy's accuracy is its agreement with the full network.
    succeeds("predict", toys.model, "--data", bare, "--output", tmp_path / "routed.csv")
    succeeds("predict", toys.model, "--data", bare, "--output", tmp_path / "full.csv", "--width", 1.0)
    routed, full = (read_csv(tmp_path / f"{name}.csv") for name in ("routed", "full"))
    same = sum(a["prediction"] == b["prediction"] for a, b in zip(routed, full, strict=True)) / 120
    assert found.numbers["same"] == found.tables["curve"][1][1][1] == pytest.approx(same)


def test_evidence_of_a_calibration(calibrated, toys, data, tmp_path):
    evidence = json.loads((calibrated / "config.json").read_text())["calibration"]
    text = make(calibrated, data, tmp_path / "report.html")
    facts = re.search('<dl class="facts" id="evidence">(.*?)</dl>', text, re.DOTALL)[1]
    assert [float(value) for value in re.findall('value="(.*?)"', facts)] == [
        evidence[key] for key in ("limit", "observed", "bound", "confidence")
    ]
    assert "very texts of the calibration" not in text
    assert "very texts of the calibration" in make(calibrated, toys.test, tmp_path / "same.html")
    assert "was not calibrated" in make(toys.model, data, tmp_path / "none.html")
    changed = shutil.copytree(calibrated, tmp_path / "changed")
    config = json.loads((changed / "config.json").read_text())
    config["policy"]["cost_weight"] += 0.1
    (changed / "config.json").write_text(json.dumps(config))
    text = make(changed, data, tmp_path / "changed.html")
    assert "policy was changed" in text
    assert 'id="evidence"' not in text
    del config["calibration"]["bound"]
    (changed / "config.json").write_text(json.dumps(config))
    message = error_message(sharcs("report", changed, "--data", data, "--output", tmp_path / "x.html"))
    assert "calibration can't be read ('bound')" in message
    assert sharcs("calibrate", changed, "--data", data, "--max-disagreement", 1e-3).code == 3
    assert "No policy kept the limit" in make(changed, data, tmp_path / "unmet.html")


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    """Report on an untrained model of 1,000 classes, with a column of a value for each row."""
    home = tmp_path_factory.mktemp("thousand")
    encoder = save_encoder(home / "encoder", max_position_embeddings=32)
    tokenizer = load_tokenizer(encoder)
    tokenizer.model_max_length = 16
    torch.manual_seed(0)
    names = {index: f"class {index} with a name of some length" for index in range(1000)}
    model = SharcsForSequenceClassification.from_encoder(encoder, widths=(0.25, 0.5, 1.0), num_labels=1000)
    model.config.id2label = names
    rows = [{"text": f"text {n}", "label": names[n % 1000], "code": f"{n} {'x' * n}"} for n in range(1200)]
    texts = load_texts(str(write_csv(home / "data.csv", rows)))
    trained = TrainedModel(model.eval(), tokenizer, Columns())
    return build_report(trained, texts, "thousand", ("code", [row["code"] for row in rows]))


def test_a_thousand_classes_are_capped_and_counted(thousand):
    assert thousand.harm_by_class.total == 1000
    assert thousand.harm_by_group.total == 1200
    text = render_page(thousand)
    page = Page(text)
    for kind, total in (("classes", 1000), ("groups", 1200)):
        assert len(page.tables[kind]) == 1 + 50
        assert f"The chart shows the worst 15 of {total:,}. The table leaves out {total - 50:,}" in page.words
    assert len(page.tables["f1"]) == 1 + 50
    assert "lowest 15 of 1,000. The table leaves out 950 higher ones" in page.words
    assert len(text) < 450_000
    assert "and 988 more" in page.words
    assert "x" * 100 not in text


def test_one_row_and_text_pairs(toys, tmp_path):
    data = write_csv(tmp_path / "one.csv", [read_csv(toys.pair_train)[0] | {"text_pair": "<b>so</b>"}])
    text = make(toys.pair_model, data, tmp_path / "report.html")
    assert '<p class="text pair" dir="auto">&lt;b&gt;so&lt;/b&gt;</p>' in text
    assert "Measured on 1 input of" in text
    assert "text pairs" in error_message(
        sharcs("report", toys.model, "--data", data, "--output", tmp_path / "x.html")
    )
    (tmp_path / "none.csv").write_text("text,text_pair,label\n")
    message = error_message(sharcs("report", toys.pair_model, "--data", tmp_path / "none.csv", "--output", "x.html"))
    assert "none.csv" in message


def test_a_network_of_one_width(toys, data, tmp_path):
    model = SharcsForSequenceClassification.from_encoder(toys.encoder, widths=(1.0,), num_labels=2)
    tokenizer = load_tokenizer(toys.encoder)
    tokenizer.model_max_length = 16
    texts = load_texts(str(data))
    model.config.id2label = {0: "bad", 1: "good"}
    found = build_report(TrainedModel(model.eval(), tokenizer, Columns()), texts, "plain")
    page = Page(render_page(found))
    assert [numbers[0] for _, numbers in page.tables["shares"][1:]] == [1.0]
    assert (page.numbers["same"], page.numbers["narrow"], page.numbers["overthinking-count"]) == (1, 0, 0)
    assert "The network confidently contradicts the label." in page.words


def test_a_policy_of_several_steps(toys, data, tmp_path):
    model = SharcsForSequenceClassification.from_encoder(toys.encoder, widths=(0.25, 0.5, 1.0), num_labels=2)
    tokenizer = load_tokenizer(toys.encoder)
    tokenizer.model_max_length = 16
    model.config.id2label = {0: "bad", 1: "good"}
    model.config.label2id = {"bad": 0, "good": 1}
    model.config.policy = {"escalation_threshold": {"width-25": 1.0, "width-50": 1.0}, "start": "width-25"}
    folder = tmp_path / "steps"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    page = Page(make(folder, data, tmp_path / "report.html"))
    assert "width-25 1, width-50 1" in page.words
    assert [numbers[0] for _, numbers in page.tables["shares"][1:]] == [0, 0, 1.0]
    succeeds("evaluate", folder, "--data", data, "--json", tmp_path / "evaluate.json")
    found = json.loads((tmp_path / "evaluate.json").read_text())
    assert found["curve"][0]["escalation_threshold"] == {"width-25": 1.0, "width-50": 1.0}
    assert found["routed"]["flops_ratio"] > 1


@pytest.mark.parametrize(
    ("ratio", "accuracy", "full", "says"),
    [
        (0.42, 0.951, 0.95, "saves 58.0% of the computation by routing, at 95.1% accuracy: 0.1 points above its"),
        (0.42, 0.94, 0.95, "at 94.0% accuracy: 1.0 point below its full network."),
        (0.42, 0.95, 0.95, "at 95.0% accuracy: that of its full network."),
        (1.0, 0.95, 0.95, "saves no computation by routing"),
        (1.08, 0.95, 0.95, "takes 8.0% more computation by routing"),
        (0.42, 0.987, None, "saves 58.0% of the computation by routing; 98.7% of its answers are the full network"),
    ],
)
def test_headline(ratio, accuracy, full, says):
    routed = SimpleNamespace(flops_ratio=ratio, accuracy=accuracy)
    evaluation = SimpleNamespace(routed=routed, full=SimpleNamespace(accuracy=full or 1.0))
    report = SimpleNamespace(
        name="news", classes=["a", "b"], several=False, labelled=full is not None, evaluation=evaluation
    )
    assert headline(report).startswith("The model “news” sorts texts into 2 classes and ")
    assert says in headline(report)


# What is refused


@pytest.mark.parametrize(
    ("output", "options", "says"),
    [
        ("", (), "is a directory"),
        ("page", (), "ending .html"),
        ("report.png", (), "ending .html"),
        ("nowhere/report.html", (), "its directory does not exist"),
        ("taken.html", (), "taken-shares.png beside it is a directory"),
        ("r.html", ("--group-column", "desk"), "no column 'desk'; it has 'text', 'label', 'source'"),
        ("r.html", ("--label-column", "class"), "no column 'class'"),
        ("r.html", ("--text-column", "words"), "no column 'words'"),
        ("r.html", ("--label-column", "source"), "row 1: the label 'desk <0>' is not a class"),
    ],
)
def test_what_is_refused_leaves_nothing(toys, data, tmp_path, output, options, says):
    (tmp_path / "taken-shares.png").mkdir()
    before = files_in(tmp_path)
    run = sharcs("report", toys.model, "--data", data, "--output", tmp_path / output, *options)
    assert says in error_message(run)
    assert files_in(tmp_path) == before


def test_a_wrong_label_is_no_missing_label(toys, data, tmp_path):
    rows = read_csv(data)
    for row, wrong, says in ((70, "", "row 71: the label is missing"), (3, "odd", "row 4: the label 'odd' is not")):
        broken = [*rows[:row], rows[row] | {"label": wrong}, *rows[row + 1 :]]
        file = write_csv(tmp_path / "broken.csv", broken)
        assert says in error_message(sharcs("report", toys.model, "--data", file, "--output", tmp_path / "r.html"))
    assert set(files_in(tmp_path)) == {"broken.csv"}


@pytest.mark.parametrize("place", ["write_bytes", "write_text"])
def test_a_full_disk_leaves_the_report_before(toys, data, tmp_path, monkeypatch, place):
    make(toys.model, data, tmp_path / "report.html")
    before = files_in(tmp_path)

    def full_disk(path, *_, **__):
        with path.open("wb") as file:
            file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report_page.Path, place, full_disk)
    run = sharcs("report", toys.model, "--data", data, "--output", tmp_path / "report.html")
    assert "No space left" in error_message(run)
    assert files_in(tmp_path) == before


def test_a_full_disk_at_evaluate_s_picture_leaves_the_numbers(toys, data, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report_page.Path, "write_bytes", full_disk)
    run = sharcs("evaluate", toys.model, "--data", data, "--json", tmp_path / "e.json")
    assert "e.png: can't be written" in error_message(run)
    assert set(files_in(tmp_path)) == {"e.json"}


def test_a_regression_is_refused(toys, data, tmp_path):
    folder = shutil.copytree(toys.model, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config |= {"problem_type": "regression", "policy": {"cost_weight": 0.0}}
    (folder / "config.json").write_text(json.dumps(config))
    message = error_message(sharcs("report", folder, "--data", data, "--output", tmp_path / "r.html"))
    assert "answers with 2 numbers for each input" in message
