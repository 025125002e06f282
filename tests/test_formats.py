"""Models and exports of every format are read; the committed ones of the first answer as the networks they are."""

import csv
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from records.make import HERE, ROWS
from sharcs import InputError, SharcsForSequenceClassification
from sharcs_runtime import OnnxRunner


def test_an_export_of_the_first_format_answers_as_recorded():
    assert json.loads((HERE / "export-1" / "sharcs.json").read_text())["format"] == 1
    runner = OnnxRunner(HERE / "export-1")
    with ROWS.open(newline="", encoding="utf-8") as file:
        answers = list(runner.predict([row["text"] for row in csv.DictReader(file)]))
    expected = json.loads((HERE / "plus.json").read_text())["export"]
    assert [[*answer[:1], *answer[2:]] for answer in answers] == [[*row[:1], *row[2:]] for row in expected]
    assert max(abs(answer.score - row[1]) for answer, row in zip(answers, expected, strict=True)) < 1e-6


@pytest.mark.parametrize("name", ["plus", "paper"])
def test_a_model_of_the_first_format_has_the_weights_of_today(name):
    """Each weight of the file is in the model, under a name of its own; none is made up."""
    written = load_file(HERE / name / "model.safetensors")
    model, report = SharcsForSequenceClassification.from_pretrained(HERE / name, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    weights = model.state_dict()
    assert sorted(value.sum().item() for value in weights.values()) == sorted(
        v.sum().item() for v in written.values()
    )
    assert not any(".tail." in key for key in weights)


def test_models_of_both_formats_are_the_same_network(tmp_path):
    SharcsForSequenceClassification.from_pretrained(HERE / "plus").save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(HERE / "plus-2" / "model.safetensors").keys()
    first, second = (
        SharcsForSequenceClassification.from_pretrained(folder) for folder in (tmp_path, HERE / "plus-2")
    )
    assert json.loads((HERE / "plus-2" / "config.json").read_text())["format"] == 2
    assert first.config.to_dict() | {"_name_or_path": ""} == second.config.to_dict() | {"_name_or_path": ""}
    expected = first.state_dict()
    assert expected.keys() == second.state_dict().keys()
    assert all(torch.equal(value, expected[key]) for key, value in second.state_dict().items())


def test_a_later_format_is_refused_with_what_to_do(tmp_path):
    shutil.copytree(HERE / "plus-2", tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 3}))
    with pytest.raises(InputError, match="format 3: this version of sharcs reads up to 2; update sharcs"):
        SharcsForSequenceClassification.from_pretrained(tmp_path / "model")
