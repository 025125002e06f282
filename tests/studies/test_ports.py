"""MiniLM as another architecture, against MiniLM."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from sharcs import SharcsForSequenceClassification
from sharcs.data.named import minilm_path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from ports import ARCHITECTURES, port

TEXTS = ["a short one", "and one that is quite a bit longer, with commas, than the first one was", "?"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def ported(request, tmp_path_factory):
    return request.param, port(request.param, tmp_path_factory.mktemp(request.param))


@torch.no_grad()
def test_hidden_states_are_those_of_minilm(ported):
    kind, folder = ported
    batch = AutoTokenizer.from_pretrained(minilm_path())(TEXTS, padding=True, return_tensors="pt")
    again = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], again["input_ids"])
    expected = AutoModel.from_pretrained(minilm_path()).eval()(**batch).last_hidden_state
    model = AutoModel.from_pretrained(folder).eval()
    assert model.config.model_type == kind
    names = ("input_ids", "attention_mask", *(("token_type_ids",) if ARCHITECTURES[kind][3] else ()))
    found = model(**{name: again[name] for name in names}).last_hidden_state
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_it_can_be_routed(ported):
    _, folder = ported
    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
    torch.manual_seed(0)
    routed = SharcsForSequenceClassification.from_encoder(folder, num_labels=3, weights="shared")
    torch.manual_seed(0)
    plain = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3).eval()
    assert torch.equal(routed(**batch, width=1.0).logits, plain(**batch).logits)
    assert routed(**batch, width=0.25).logits.isfinite().all()
