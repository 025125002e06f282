"""Texts and classes as Python users have them."""

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from sharcs import InputError
from sharcs.data.given import labels_given, texts_given

TEXTS = ["good film", "bad dog", ""]
PAIRS = [("good", "film"), ("bad", "dog"), ("so", "so")]


@pytest.mark.parametrize(
    "given",
    [
        TEXTS,
        tuple(TEXTS),
        (text for text in TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, object),
        pd.Series(TEXTS),
        pd.DataFrame({"id": [1, 2, 3], "text": TEXTS, "n": 0}),
        pd.DataFrame({"sentence": TEXTS}),
        pa.chunked_array([TEXTS]),
        pa.table({"n": [1, 2, 3], "m": [1, 2, 3], "text": TEXTS}),
        datasets.Dataset.from_dict({"text": TEXTS, "labels": [0, 1, 0]}),
        datasets.Dataset.from_dict({"text": TEXTS})["text"],
        {"text": TEXTS},
    ],
    ids=lambda given: type(given).__name__,
)
def test_texts_of_every_form_are_the_same(given):
    assert texts_given(given) == TEXTS


@pytest.mark.parametrize(
    "given",
    [
        PAIRS,
        [list(pair) for pair in PAIRS],
        np.array(PAIRS),
        pd.DataFrame(PAIRS, columns=["a", "b"]),
        pd.DataFrame(PAIRS),
        pa.table({"id": [1, 2, 3], "text": [a for a, _ in PAIRS], "text_pair": [b for _, b in PAIRS]}),
    ],
    ids=lambda given: type(given).__name__,
)
def test_pairs_of_every_form_are_the_same(given):
    assert texts_given(given) == PAIRS


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("good", "texts: is one text"),
        (b"good", "texts: is one text"),
        (None, "texts: is a NoneType"),
        (7, "texts: is a int"),
        (["good", None], "texts: number 2 is a NoneType"),
        (pd.Series(["good", float("nan")]), "texts: number 2 is a float"),
        ([["a", "b", "c"]], "texts: number 1 is a tuple"),
        ([("a", "b"), "c"], "texts: number 2 is one text, unlike number 1"),
        (pd.DataFrame({"a": ["x"], "b": ["y"], "c": ["z"]}), "with the columns 'a', 'b', 'c'; name one 'text'"),
    ],
)
def test_what_is_no_text_is_refused(given, says):
    with pytest.raises(InputError, match=says) as refusal:
        texts_given(given)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "make",
    [list, np.array, pd.Series, pa.array, lambda values: pa.chunked_array([values]), lambda values: {"y": values}],
)
@pytest.mark.parametrize("values", [["b", "a", "b"], [3, 1, 3], [True, False, True], [2.0, 1.0, 2.0]])
def test_classes_keep_their_type(make, values):
    found = labels_given(make(values), 3)
    assert found.tolist() == values
    assert type(found.tolist()[0]) is type(values[0])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("ab", "labels: is one label"),
        (["a"], "labels: are 1, and there are 2 texts"),
        (["a", None], "labels: number 2 is missing"),
        (["a", " "], "labels: number 2 is missing"),
        ([1.0, float("nan")], "labels: number 2 is missing"),
        ([["a"], ["b"]], "labels: number 1 is a list"),
        ([1, "1"], "labels: number 2 is a str, and number 1 a int"),
        ([1.0, 1.5], "labels: number 2 is 1.5, no class"),
        ([b"a", b"b"], "labels: number 1 is a bytes"),
        (None, "labels: is a NoneType"),
        ({"a": [1, 2], "b": [1, 2]}, "labels: is a table of 2 columns"),
    ],
)
def test_what_is_no_class_is_refused(given, says):
    with pytest.raises(InputError, match=says) as refusal:
        labels_given(given, 2)
    assert "\n" not in str(refusal.value)
