"""The card beside a saved model, and architectures that are registered from outside."""

import json

import pytest

from helpers.encoders import load_routed, save_plain
from helpers.tiny import tiny_model
from sharcs import Architecture, InputError, SharcsForSequenceClassification, register_architecture
from sharcs.encoders import architectures


def test_a_card_says_what_the_model_is_and_costs(bert_path, tmp_path):
    load_routed(bert_path).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[:2] for row in rows[1:]] == [
        ["| width-25", "shared"],
        ["| width-50", "shared"],
        ["| full", "full"],
    ]
    costs = [float(row.split(" | ")[6]) for row in rows[1:]]
    assert 0 < costs[0] < costs[1] < 100 < costs[2]
    assert "SharcsForSequenceClassification.from_pretrained" in card
    assert "Cost weight 0, escalation threshold none" in card
    assert "It was not calibrated" in card


def test_a_card_names_the_evidence_of_a_calibration(tmp_path):
    model = tiny_model()
    kept = {"kind": "max_disagreement", "limit": 0.05, "confidence": 0.95, "met": True}
    model.config.calibration = kept | {"rows_tested": 1200, "observed": 0.021, "cost_ratio": 0.4}
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert (
        "`max_disagreement` of at most 0.05 with confidence 0.95: 0.021 was observed on 1,200 rows, at 40.0%" in card
    )


def test_an_architecture_registered_from_outside_is_used(tmp_path, monkeypatch):
    path = save_plain("megatron-bert", tmp_path / "plain")
    known = dict(architectures.ARCHITECTURES)
    monkeypatch.setattr(architectures, "ARCHITECTURES", known)
    entry = known.pop("megatron-bert")
    with pytest.raises(InputError, match="a norm beside its layers"):
        SharcsForSequenceClassification.from_encoder(path, router_layer=1)
    register_architecture("megatron-bert", Architecture(final_norm=entry.final_norm))
    SharcsForSequenceClassification.from_encoder(path, router_layer=1)
    with pytest.raises(InputError, match="'megatron-bert': is known already"):
        register_architecture("megatron-bert", entry)


def test_a_saved_model_names_its_format(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["format"] == 2
