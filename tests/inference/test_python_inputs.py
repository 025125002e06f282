"""What Python hands in: texts that are none, tokenizers without a limit, names and labels of other forms."""

import shutil
from unittest import mock

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

from helpers.cli import sharcs, succeeds
from helpers.exported import MODEL, export_record
from records.make import ROWS
from sharcs import InferenceEngine, InputError, SharcsForSequenceClassification
from sharcs.calibration import Constraint, calibrate
from sharcs.evaluation import accuracy_report, run_all_widths
from sharcs.export.bundle import export_model
from sharcs_runtime import OnnxRunner

POSITIONS = 32  # of the committed model
LONG = "never ending good film " * 100


@pytest.fixture(scope="module")
def model():
    return SharcsForSequenceClassification.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs") / "export"
    export_record(MODEL, folder)
    return folder


@pytest.fixture(params=["engine", "runner"])
def answering(request, model, export):
    """Make what answers texts, with settings."""
    if request.param == "runner":
        return lambda **settings: OnnxRunner(export, **settings)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    return lambda **settings: InferenceEngine(model, tokenizer, **settings)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ("oil", "texts: is one text, whose letters"),
        (b"oil", "texts: is one text, whose letters"),
        (None, "texts: is a NoneType; give a list"),
        (3, "texts: is a int; give a list"),
        (["good", None], "texts: number 2 is a NoneType; give strings"),
        (["good", "bad", float("nan")], "number 3 is a float"),
        ([b"good"], "number 1 is a bytes"),
        ([["good", "bad"]], "number 1 is a list"),
        (["good", ("good", "bad")], "number 2 is a pair of texts, unlike number 1"),
        ([("good", "bad"), "good"], "number 2 is one text, unlike number 1"),
        ([()], "number 1 is a tuple"),
    ],
)
def test_texts_that_are_none_are_refused_by_their_number(answering, texts, says):
    answers = answering()
    with pytest.raises(InputError, match=says) as refusal:
        list(answers.predict(texts))
    assert "\n" not in str(refusal.value)
    with pytest.raises(InputError, match=says):
        list(answers.answer_windows([texts]))
    if isinstance(answers, OnnxRunner):
        with pytest.raises(InputError, match=says):
            next(answers.run_all(texts))


@pytest.mark.parametrize("name", ["window", "batch_tokens"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "8", True])
def test_sizes_that_are_none_are_refused(answering, name, value):
    with pytest.raises(InputError, match=f"{name} .*have to be"):
        answering(**{name: value})


def test_a_tokenizer_without_a_limit_cuts_at_the_encoders_positions(model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(MODEL, model_max_length=10**30)
    assert model.config.encoder.max_position_embeddings == POSITIONS
    row = tokenizer(LONG, truncation=True, max_length=POSITIONS, return_tensors="pt")
    with torch.inference_mode():
        expected = model(**row, width=1.0).logits.softmax(-1).max().item()
    assert next(InferenceEngine(model, tokenizer, width=1.0).predict([LONG])).score == pytest.approx(
        expected, abs=1e-5
    )
    folder = shutil.copytree(MODEL, tmp_path / "model")
    tokenizer.save_pretrained(folder)
    for command, *options in (
        ("predict", "--output", tmp_path / "out.csv"),
        ("evaluate",),
        ("calibrate", "--budget", 0.9),
    ):
        succeeds(command, folder, "--data", ROWS, *options)
    export_record(folder, tmp_path / "export")
    runner = OnnxRunner(tmp_path / "export", width=1.0)
    assert runner.config.max_length == POSITIONS
    assert next(runner.predict([LONG])).score == pytest.approx(expected, abs=1e-5)


def test_positions_that_follow_the_padding_are_left_out():
    from helpers.tiny import CONFIGS
    from sharcs.encoders.architectures import position_count

    counts = {kind: position_count(CONFIGS[kind](2)) for kind in ("bert", "roberta", "distilbert")}
    assert counts == {"bert": 40, "roberta": 39, "distilbert": 40}  # their padding token is number 0


def test_names_of_another_number_give_a_head_of_that_size_or_an_error():
    names = {"id2label": {0: "a", 1: "b"}, "label2id": {"a": 0, "b": 1}}
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):  # as for the plain encoder
        AutoModelForSequenceClassification.from_pretrained(MODEL, **names)
    loaded = AutoModelForSequenceClassification.from_pretrained(MODEL, **names, ignore_mismatched_sizes=True)
    assert loaded(torch.tensor([[1, 2, 3]])).logits.shape == (1, 2)
    assert (loaded.num_labels, loaded.config.encoder.id2label) == (2, {0: "a", 1: "b"})
    same = {"id2label": ["x", "y", "z"]}
    config = SharcsForSequenceClassification.from_pretrained(MODEL, **same).config
    assert config.id2label == config.encoder.id2label == {0: "x", 1: "y", 2: "z"}
    assert config.label2id == {"x": 0, "y": 1, "z": 2}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b"], {0: "a", 1: "b"}),
        (("a", "b"), {0: "a", 1: "b"}),
        ({"0": "a", "1": "b"}, {0: "a", 1: "b"}),
        ({0: "a", 2: "b"}, "number them from 0 to 1"),
        ({1: "a", 2: "b"}, "number them from 0 to 1"),
        ({"a": 0, "b": 1}, "does not map numbers to names"),
        (7, "does not map numbers to names"),
    ],
)
def test_class_names_of_other_forms(bert_path, names, expected):
    if isinstance(expected, dict):
        model = SharcsForSequenceClassification.from_encoder(bert_path, id2label=names, ignore_mismatched_sizes=True)
        assert model.config.id2label == expected
        assert model.num_labels == 2
        return
    with (
        mock.patch.object(SharcsForSequenceClassification.plain_class, "from_pretrained") as weights,
        pytest.raises(InputError, match=expected),
    ):
        SharcsForSequenceClassification.from_encoder(bert_path, id2label=names)
    assert not weights.called


@pytest.fixture(scope="module")
def rows(model):
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    rows = [dict(tokenizer(text)) for text in ["good film", "a plot is never dull"] * 10]
    return rows, DataCollatorWithPadding(tokenizer), run_all_widths(model, rows, DataCollatorWithPadding(tokenizer))


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0, 1], r"labels: of shape \[2\]; give 20 classes"),
        ([0] * 21, r"of shape \[21\]"),
        (0, r"of shape \[\]"),
        ([[0, 1]] * 20, r"of shape \[20, 2\]"),
        ([[0], [1, 2]] * 10, "of several shapes"),
        ([1] * 7 + [-100] + [1] * 12, "row 8 has -100"),
        ([1] * 19 + [3], "row 20 has 3; give classes as whole numbers from 0 to 2"),
        ([0.5] * 20, "row 1 has 0.5"),
        ([1, float("nan")] * 10, "row 2 has nan"),
        ([1, float("inf")] * 10, "row 2 has inf"),
        ([None] * 20, "row 1 has None"),
        (["good"] * 20, "row 1 has 'good'"),
    ],
)
def test_labels_that_are_no_classes_are_refused_by_their_row(model, rows, labels, says):
    inputs, collate, answers = rows
    ran = []
    with pytest.raises(InputError, match=says) as refusal:
        run_all_widths(model, inputs, collate, labels=labels, on_batch=ran.append)
    assert not ran
    assert "\n" not in str(refusal.value)
    with pytest.raises(InputError, match=says):
        accuracy_report(model, answers, labels)
    with pytest.raises(InputError, match=says):
        calibrate(answers.labelled(labels), Constraint("max_accuracy_drop", 0.5), 3)


def test_labels_of_every_fitting_form_count_the_same(model, rows):
    inputs, collate, answers = rows
    plain = [0, 1] * 10
    expected = accuracy_report(model, answers, plain)
    assert expected.oracle.accuracy > 0 or expected.full.accuracy == 0
    for labels in (np.array(plain), torch.tensor(plain), [[label] for label in plain], [float(x) for x in plain]):
        assert accuracy_report(model, answers, labels) == expected
        assert run_all_widths(model, inputs, collate, labels=labels).labels.tolist() == plain


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("bud", 0.5), "kind 'bud': there is none; choose budget"),
        (("budget", None), "`budget` None: has to be a number"),
        (("budget", "0.5"), "`budget` '0.5': has to be a number"),
        (("budget", float("nan")), "`budget` nan: has to be above 0"),
        (("max_disagreement", 0.1, None), "`confidence` None: has to be a number"),
    ],
)
def test_limits_that_are_none_are_refused(settings, says):
    with pytest.raises(InputError, match=says):
        Constraint(*settings)


def test_an_export_of_a_tokenizer_in_python_only_is_refused_before_any_graph(model, tmp_path):
    with pytest.raises(InputError, match="runs in Python only"):
        export_model(model, object(), tmp_path / "out")
    assert not list(tmp_path.iterdir())
    assert sharcs("export", tmp_path, "--output", tmp_path / "out").code == 2
