"""Sub-networks in front of the encoder in the engines: many texts as one by one, in PyTorch and in ONNX Runtime."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.front import TEXTS, front_model, word_tokenizer
from sharcs import InferenceEngine, InputError, RoutingPolicy
from sharcs.export import export_model
from sharcs_runtime import OnnxRunner
from sharcs_runtime.bundle import Bundle

NAMES = ["recurrent", "compact", "width-25", "full"]


# Texts are exported, and compared with the engine, in tests/cli/test_cli_front.py too.
@pytest.fixture(
    scope="module", params=[pytest.param(False, marks=pytest.mark.extended), True], ids=["texts", "pairs"]
)
def served(request, tmp_path_factory):
    """A model, its tokenizer, texts, an export, and its policy."""
    folder = tmp_path_factory.mktemp("served")
    tokenizer = word_tokenizer(folder)
    model = front_model(pairs=request.param, labels=3)
    given = [(text, TEXTS[-1 - row]) for row, text in enumerate(TEXTS)] if request.param else TEXTS
    with torch.no_grad():
        batch = tokenizer(TEXTS, TEXTS[::-1] if request.param else None, padding=True, truncation=True,
                          max_length=24, return_tensors="pt")  # fmt: skip
        confidence = model(**batch, widths="all").width_logits.softmax(-1).amax(-1)
    limits = {name: float(confidence[at].sort().values[44:46].mean()) for at, name in enumerate(NAMES[:-1])}
    model.config.policy = RoutingPolicy(start="recurrent", escalation_threshold=limits).to_dict()
    export_model(model, tokenizer, folder / "export")
    return model, tokenizer, given, folder / "export", limits


@pytest.fixture(scope="module")
def both(served):
    """The same as names, with both engines."""
    model, tokenizer, texts, export, limits = served
    engines = [InferenceEngine(model, tokenizer), OnnxRunner(export, threads=1)]
    return SimpleNamespace(model=model, tokenizer=tokenizer, texts=texts[:40], engines=engines, limits=limits)


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


# Exporting takes seconds a sub-network, so CI does it for one.
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.extended] * (n != "compact")) for n in NAMES])
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


# What engines say beside a class: all scores, tokens, cost; a policy a text; answers as soon as they stand


def _parts(text):
    return text if isinstance(text, tuple) else (text,)


@torch.no_grad()
def alone(both, text, policy=None):
    """Answer one text by the model itself: probabilities, first and last sub-network."""
    before = both.model.config.policy
    both.model.config.policy = before if policy is None else policy.to_dict()
    try:
        output = both.model(**both.tokenizer(*_parts(text), return_tensors="pt", truncation=True, max_length=24))
    finally:
        both.model.config.policy = before
    first = output.width_index if output.first_width_index is None else output.first_width_index
    return output.logits[0].double().softmax(-1).tolist(), int(first), int(output.width_index)


def flops_by_hand(both, text, first, last, policy):
    """Add up what ran, step by step."""
    tokens = len(both.tokenizer(*_parts(text), truncation=True, max_length=24)["input_ids"])
    *each, plain = (both.model.cost_coefficients() @ torch.tensor([1.0, tokens, tokens**2]).double()).tolist()
    continued = float(both.model.continuation_coefficients() @ torch.tensor([1.0, tokens, tokens**2]).double())
    total, index, inside = 0.0, first, False
    router = each[-1] - plain
    while True:
        if index < 2:
            total += each[index]
        elif not inside:
            total += each[index] - (router if first < 2 else 0)
        else:
            total += continued + each[index] - each[-1]
        inside |= index >= 2
        if index == last:
            return tokens, total, plain
        index = policy.step_after(index, NAMES)[1]


@pytest.mark.parametrize("kind", [0, 1], ids=["torch", "onnx"])
def test_scores_of_all_classes_tokens_and_cost(both, kind):
    policy = both.model.config.routing_policy
    answers = list(both.engines[kind].answers(both.texts))
    assert len({(answer.first_width_index, answer.width_index) for answer in answers}) == 4
    for text, answer in zip(both.texts, answers, strict=True):
        expected, first, last = alone(both, text)
        assert (answer.first_width_index, answer.width_index) == (first, last)
        assert list(answer.classes) == sorted(range(3), key=lambda index: -expected[index])
        assert answer.scores == pytest.approx(sorted(expected, reverse=True), abs=1e-5)
        tokens, total, plain = flops_by_hand(both, text, first, last, policy)
        assert (answer.tokens, answer.flops, answer.cost) == pytest.approx((tokens, total, total / plain))
    top = list(both.engines[kind].answers(both.texts, top_k=1))
    assert [answer.classes for answer in top] == [answer.classes[:1] for answer in answers]
    with pytest.raises(InputError, match="top_k 0: has to be at least 1"):
        next(both.engines[kind].answers(both.texts, top_k=0))


@pytest.mark.parametrize("kind", [0, 1], ids=["torch", "onnx"])
def test_each_text_may_have_a_policy_of_its_own(both, kind):
    choices = [
        both.model.config.routing_policy,
        RoutingPolicy(),
        RoutingPolicy(cost_weight=0.5, escalation_threshold=0.7, blend=0.4),
        *(RoutingPolicy(start=name) for name in NAMES),
        RoutingPolicy(start="width-25", escalation_threshold=both.limits["width-25"], signal="margin"),
    ]
    policies = [choices[(number * number) % len(choices)] for number in range(len(both.texts))]
    for count in (1, len(policies)):
        seen = {}
        for numbers, answers in both.engines[kind].stream(both.texts[:count], policies[:count]):
            assert len(numbers)  # whoever hands answers on would hand on nothing
            seen |= dict(zip(numbers.tolist(), answers.ranked(), strict=True))
        assert seen.keys() == set(range(count))
        for number, answer in seen.items():
            expected, first, last = alone(both, both.texts[number], policies[number])
            assert (answer.first_width_index, answer.width_index) == (first, last)
            assert answer.scores == pytest.approx(sorted(expected, reverse=True), abs=1e-5)
    with pytest.raises(InputError, match="policy width-75: the network has recurrent"):
        list(both.engines[kind].stream(both.texts[:1], [RoutingPolicy(start="width-75")]))


@pytest.mark.parametrize("kind", [0, 1], ids=["torch", "onnx"])
def test_narrow_answers_come_before_the_full_network_runs_and_the_unwanted_never(both, kind, monkeypatch):
    engine, ran = both.engines[kind], []
    tail = type(engine)._tail
    monkeypatch.setattr(
        type(engine), "_tail", lambda self, index, *more: (ran.append(index), tail(self, index, *more))[1]
    )
    policy = RoutingPolicy(start="width-25", escalation_threshold=both.limits["width-25"])
    texts = both.texts[:12]
    parts = engine.stream(texts, [policy] * 12)
    numbers, answers = next(parts)
    assert ran == [2]
    assert 0 < len(numbers) < 12
    assert set(answers.answered_by) == {2}
    rest = list(parts)
    assert ran == [2, 3]
    late = set(range(12)) - set(numbers.tolist())
    assert {number for some, _ in rest for number in some.tolist()} == late

    dropped, ran[:] = min(late), []
    asked = engine.stream(texts, [policy] * 12, lambda rows: rows != dropped)
    assert {number for some, _ in asked for number in some.tolist()} == set(range(12)) - {dropped}
    asked = engine.stream(texts, [policy] * 12, lambda rows: np.zeros(len(rows), bool) if 2 in ran else rows >= 0)
    ran[:] = []
    assert {number for some, _ in asked for number in some.tolist()} == set(numbers.tolist())
    assert ran == [2]


@pytest.mark.parametrize("kind", [0, 1], ids=["torch", "onnx"])
def test_equal_texts_are_answered_once(both, kind, monkeypatch):
    engine, read = both.engines[kind], []
    tokenise = type(engine)._tokenise
    monkeypatch.setattr(
        type(engine), "_tokenise", lambda self, window: (read.extend(window), tokenise(self, window))[1]
    )
    texts = [both.texts[number] for number in (3, 7, 3, 3, 9, 7)]
    expected = [next(engine.predict([text])) for text in texts]
    read.clear()
    found = list(engine.predict(texts))
    assert read == [texts[0], texts[1], texts[4]]
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    read.clear()
    full = RoutingPolicy(start="full")
    seen = [
        (number, answer.width_index)
        for numbers, answers in engine.stream(texts, [full, *[RoutingPolicy(start="width-25")] * 5])
        for number, answer in zip(numbers.tolist(), answers.ranked(), strict=True)
    ]
    assert sorted(seen) == [(0, 3), *((number, 2) for number in range(1, 6))]
    assert sorted(read) == sorted([texts[0], texts[0], texts[1], texts[4]])
