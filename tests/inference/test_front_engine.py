"""Sub-networks in front of the encoder in the engines: many texts as one by one, in PyTorch and in ONNX Runtime."""

from collections import Counter

import pytest
import torch
from transformers import BertTokenizerFast

from helpers.front import front_model
from sharcs import InferenceEngine, RoutingPolicy
from sharcs.export import export_model
from sharcs_runtime import OnnxRunner
from sharcs_runtime.bundle import Bundle

WORDS = [f"w{number}" for number in range(59)]
NAMES = ["recurrent", "compact", "width-25", "full"]


@pytest.fixture(scope="module", params=[False, True], ids=["texts", "pairs"])
def served(request, tmp_path_factory):
    """A model, its tokenizer, texts, an export, and its policy."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"), model_max_length=24)
    model = front_model(pairs=request.param, labels=3)
    texts = [" ".join(WORDS[(7 * row + 3 * place * row) % 59] for place in range(1 + row % 11)) for row in range(90)]
    given = [(text, texts[-1 - row]) for row, text in enumerate(texts)] if request.param else texts
    with torch.no_grad():
        batch = tokenizer(texts, texts[::-1] if request.param else None, padding=True, truncation=True,
                          max_length=24, return_tensors="pt")  # fmt: skip
        confidence = model(**batch, widths="all").width_logits.softmax(-1).amax(-1)
    limits = {name: float(confidence[at].sort().values[44:46].mean()) for at, name in enumerate(NAMES[:-1])}
    model.config.policy = RoutingPolicy(start="recurrent", escalation_threshold=limits).to_dict()
    export_model(model, tokenizer, folder / "export")
    return model, tokenizer, given, folder / "export", limits


def alike(one, other):
    return all(
        (a.class_index, a.width_index, a.first_width_index) == (b.class_index, b.width_index, b.first_width_index)
        and a.score == pytest.approx(b.score, abs=1e-4)
        for a, b in zip(one, other, strict=True)
    )


def test_many_texts_are_answered_as_one_by_one(served):
    model, tokenizer, texts, export, _ = served
    engines = [
        InferenceEngine(model, tokenizer, batch_tokens=64, window=40),
        InferenceEngine(model, tokenizer),
        OnnxRunner(export, batch_tokens=64, window=40),
        OnnxRunner(export),
    ]
    expected = [next(engines[0].predict([text])) for text in texts]
    ends = Counter(each.width_index for each in expected)
    assert ends.keys() == {0, 1, 2, 3}
    assert {each.first_width_index for each in expected} == {0}
    for engine in engines:
        assert alike(engine.predict(texts), expected)
    assert alike([next(engines[2].predict([text])) for text in texts], expected)


@pytest.mark.parametrize("start", ["compact", "width-25", "full", "router"])
def test_any_start_is_followed(served, start):
    model, tokenizer, texts, export, limits = served
    before = model.config.policy
    policy = RoutingPolicy(start=start, escalation_threshold=limits)
    model.config.policy = policy.to_dict()
    try:
        engine = InferenceEngine(model, tokenizer, batch_tokens=64)
        expected = [next(engine.predict([text])) for text in texts]
        runner = OnnxRunner(export, batch_tokens=64)
        runner.policy = policy
        assert alike(engine.predict(texts), expected)
        assert alike(runner.predict(texts), expected)
        starts = {each.first_width_index for each in expected}
        assert starts == ({2, 3} & starts if start == "router" else {NAMES.index(start)})
    finally:
        model.config.policy = before


@pytest.mark.parametrize("name", NAMES)
def test_one_sub_network_alone(served, name, tmp_path):
    model, tokenizer, texts, export, _ = served
    expected = list(InferenceEngine(model, tokenizer, width=name).predict(texts))
    assert {each.width_index for each in expected} == {NAMES.index(name)}
    found = list(OnnxRunner(export, width=name).predict(texts))
    assert [each.class_index for each in found] == [each.class_index for each in expected]
    export_model(model, tokenizer, tmp_path / "dense", width=name)
    dense = list(OnnxRunner(tmp_path / "dense").predict(texts))
    for one, other in zip(dense, expected, strict=True):
        assert one.class_index == other.class_index
        assert one.score == pytest.approx(other.score, abs=1e-4)


def test_the_description_says_what_stands_in_front(served):
    bundle = Bundle.read(served[3])
    assert bundle.front == 2
    assert bundle.names == NAMES
    assert [file.name for file in bundle.tails] == ["front-0.onnx", "front-1.onnx", "tail-0.onnx", "tail-1.onnx"]
