"""One model, one engine and one runner used by many threads at once, which take turns as often as possible."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoTokenizer

from helpers.exported import MODEL, export_record
from sharcs import InferenceEngine, SharcsForSequenceClassification
from sharcs_runtime import OnnxRunner

WORKERS, TURNS = 6, 20
# Singles, and two that are measured before they are cut; pairs.
SINGLES = ["good film", "a plot is never dull", "it is simply four rare " * 300, "my dog " * 4, "w " * 1200 + "awful"]
PAIRS = [(text, other) for text, other in zip(SINGLES, reversed(SINGLES), strict=True)]


@pytest.fixture(autouse=True)
def often():
    """Let threads take turns as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def loaded():
    return SharcsForSequenceClassification.from_pretrained(MODEL), AutoTokenizer.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("threads") / "export"
    export_record(MODEL, folder)
    return folder


def at_once(work):
    """Run some work again and again in several threads; errors come out."""
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(work, range(TURNS)))


def assert_like_one_thread(answers, beside=lambda number: None):
    """Ask for single texts, several texts and pairs in turn, while other threads do something else."""
    questions = [
        [SINGLES[number % 5]] if number % 3 == 0 else (SINGLES, PAIRS)[number % 2] for number in range(TURNS)
    ]
    expected = [list(answers.predict(question)) for question in questions]

    def work(number):
        if number % 5 == 0:
            beside(number)
        return list(answers.predict(questions[number]))

    for found, alone in zip(at_once(work), expected, strict=True):
        for one, other in zip(found, alone, strict=True):
            assert (one.class_index, *one[2:]) == (other.class_index, *other[2:])
            assert one.score == pytest.approx(other.score, abs=1e-5)


def test_an_engine_answers_threads_as_one_while_the_model_is_prepared(loaded):
    model, tokenizer = loaded

    def beside(number):
        model.tail.fast = None
        model.prepare_for_inference()
        tokenizer(SINGLES[number % 5], truncation=True, max_length=4)  # the application's own use

    assert_like_one_thread(InferenceEngine(model, tokenizer), beside)


def test_a_runner_answers_threads_as_one(export):
    def fresh():
        return OnnxRunner(export, threads=1)

    runner = fresh()
    assert_like_one_thread(runner)
    # The tokenizer that measures long texts is made on first use: by all threads at once.
    long = [SINGLES[2]]
    expected = list(runner.predict(long))
    runner = fresh()
    assert all(found == expected for found in at_once(lambda _: list(runner.predict(long))))


@torch.inference_mode()
def test_a_model_answers_threads_as_one_at_forced_widths_and_by_its_policy(loaded):
    model, tokenizer = loaded
    batches = [dict(tokenizer(texts, padding=True, return_tensors="pt")) for texts in (SINGLES[:1], SINGLES[:2])]
    widths = [None, 0.25, 1.0]
    model.train(False)
    model.prepare_for_inference()

    @torch.inference_mode()
    def answer(number):
        if number % 7 == 0:
            model.tail.fast = None
            model.prepare_for_inference()
        return model(**batches[number % 2], width=widths[number % 3]).logits

    alone = [answer(number) for number in range(TURNS)]
    for found, expected in zip(at_once(answer), alone, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
