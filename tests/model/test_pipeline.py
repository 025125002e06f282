"""Transformers' own pipeline runs a wrapped MiniLM, from memory and from a directory."""

import logging

import pytest
import torch
from transformers import AutoTokenizer, pipeline

import sharcs  # noqa: F401  # registers the model with the Auto classes
from sharcs import InputError, SharcsForSequenceClassification, SharcsForTokenClassification
from sharcs.data.named import minilm_path

NAMES = {0: "calm", 1: "tense", 2: "odd"}
TEXTS = [
    "A quiet morning by the lake.",
    "Stop!",
    "The minister resigned after a long night of talks, and the markets fell as soon as they opened.",
    "So what?",
]
PAIRS = [
    {"text": "Where is it?", "text_pair": "On the table."},
    {"text": "Who?", "text_pair": "The man from the bank."},
]


@pytest.fixture(scope="module")
def tokenizer():
    try:
        return AutoTokenizer.from_pretrained(minilm_path())
    except InputError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    wrapped = SharcsForSequenceClassification.from_encoder(
        minilm_path(), widths=[0.25, 0.5, 1.0], id2label=NAMES, weights="shared"
    )
    with torch.no_grad():
        # An untrained router prefers one width for everything; this one sends the texts to different ones.
        logits = wrapped.eval()(**tokenizer(TEXTS, padding=True, return_tensors="pt")).router_logits
        wrapped.tail.router.output.bias.sub_(logits.mean(dim=0))
        wrapped.encoder.classifier.weight.mul_(20)
    return wrapped


@pytest.fixture(scope="module", params=["object", "directory"])
def classify(request, model, tokenizer, tmp_path_factory):
    if request.param == "object":
        return pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    directory = tmp_path_factory.mktemp("saved") / "model"
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return pipeline("text-classification", model=str(directory), device="cpu")


def softmax_of(model, tokenizer, text):
    encoded = (
        tokenizer(**text, return_tensors="pt") if isinstance(text, dict) else tokenizer(text, return_tensors="pt")
    )
    with torch.no_grad():
        return model(**encoded).logits.softmax(dim=-1)[0].tolist()


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("inputs", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_the_pipeline_gives_the_models_own_softmax_under_the_label_names(
    classify, model, tokenizer, inputs, batch_size
):
    answers = classify(list(inputs), batch_size=batch_size, top_k=None)
    for text, answer in zip(inputs, answers, strict=True):
        expected = softmax_of(model, tokenizer, text)
        given = {item["label"]: item["score"] for item in answer}
        assert given.keys() == set(NAMES.values())
        assert [given[NAMES[index]] for index in range(3)] == pytest.approx(expected, abs=1e-5)


def test_the_pipeline_names_the_best_label(classify, model, tokenizer):
    for text, answer in zip(TEXTS, classify(TEXTS), strict=True):
        expected = softmax_of(model, tokenizer, text)
        assert answer["label"] == NAMES[expected.index(max(expected))]
        assert answer["score"] == pytest.approx(max(expected), abs=1e-5)


def test_the_texts_take_different_widths(model, tokenizer):
    with torch.no_grad():
        widths = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).width_index
    assert len(widths.unique()) > 1


def test_the_pipeline_knows_the_model_and_says_nothing(model, tokenizer):
    records = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = records.append
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")("Stop!")
    finally:
        logger.removeHandler(handler)
    assert [record.getMessage() for record in records] == []


def test_tokens_are_classified_at_their_texts_width(tokenizer, tmp_path):
    torch.manual_seed(0)
    wrapped = SharcsForTokenClassification.from_encoder(
        minilm_path(), widths=[0.25, 1.0], id2label=NAMES, weights="shared"
    )
    wrapped.config.policy = {"cost_weight": 0.0, "escalation_threshold": 0.5, "blend": 0.3}
    wrapped.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = pipeline("token-classification", model=str(tmp_path), device="cpu", ignore_labels=[])(TEXTS[2])
    encoded = tokenizer(TEXTS[2], return_tensors="pt")
    with torch.no_grad():
        scores, classes = wrapped(**encoded).logits[0, 1:-1].softmax(dim=-1).max(dim=-1)  # without special tokens
    assert [token["entity"] for token in found] == [NAMES[index] for index in classes.tolist()]
    assert [float(token["score"]) for token in found] == pytest.approx(scores.tolist(), abs=1e-5)
