"""What the commands say of rows, classes and texts that are probably not what their owner believes."""

import json
import unicodedata
from collections import Counter
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from transformers import AutoTokenizer

from helpers.cli import (  # noqa: F401
    MAX_LENGTH,
    ONE_EPOCH,
    QUICK,
    read_csv,
    succeeds,
    toys_fixture,
    write_csv,
)
from sharcs.data.texts import TextData
from sharcs.jobs import remarks

NOTE = "sharcs: note: "


def made(labels, texts=None, pairs=None, source="rows.csv"):
    """Make rows without a file."""
    texts = texts or [f"it is {number}" for number in range(len(labels))]
    return TextData(pa.table({"text": texts}), texts, pairs, labels, source)


def notes_of(recwarn):
    """Take the messages of the notes so far."""
    return [str(warning.message) for warning in recwarn.list]


def test_a_training_says_what_it_is_given_and_what_it_has_learned(toys, tmp_path, recwarn):
    rows, other = read_csv(toys.train), read_csv(toys.test)
    eval_data = write_csv(tmp_path / "eval.csv", [*other[:5], rows[3], *other[5:], rows[7], rows[3]])
    words = ("train", "--data", toys.train, "--model", toys.encoder, "--output", tmp_path / "model", *ONE_EPOCH)
    said = succeeds(*words, "--eval-data", eval_data, "--learning-rate", 1e-9).err.splitlines()
    counts = Counter(row["label"] for row in rows)
    (first, most), (second, fewer) = counts.most_common()
    assert f"64 rows, 2 classes: {first} {most}, {second} {fewer}" in said
    (learned,) = [line for line in said if line.startswith("right on 64 of the training rows, %: ")]
    assert learned.endswith(f"; the most frequent class {100 * most / 64:.1f}")
    repeated = f"{eval_data}: 3 of the 43 rows held out, the first of them row 6, have texts that are trained on, too"
    assert sum(note.startswith(repeated) for note in notes_of(recwarn)) == 1
    (blamed,) = [note for note in notes_of(recwarn) if note.startswith("the network has not learned: on rows")]
    assert "give more `epochs` or another `learning_rate`" in blamed


def test_what_has_learned_is_not_blamed(toys, tmp_path, recwarn):
    words = ("train", "--data", toys.train, "--model", toys.encoder, "--output", tmp_path / "model", *QUICK)
    said = succeeds(*words).err.splitlines()
    assert [line for line in said if line.startswith("right on 64 of the training rows")]
    assert not [note for note in notes_of(recwarn) if "learned" in note or "held out" in note or "alike" in note]


def test_many_classes_are_counted_compactly():
    labels = [f"c{number}" for number in range(12)] * 2 + ["c3"] * 5 + ["c0"]
    shown = "c3 7, c0 3, c1 2, c2 2, c4 2, and 7 more, of which the least frequent, c11, has 2"
    assert remarks.rows_and_classes(made(labels)) == f"30 rows, 12 classes: {shown}"


def test_classes_that_look_alike_are_named(recwarn):
    accented = [unicodedata.normalize(form, "Café") for form in ("NFC", "NFD")]
    labels = ["good", " Good", "GO OD", "bad", *accented, "straße", "STRASSE", "ﬁt"]
    remarks.warn_of_rows(made(labels * 3), ())
    notes = notes_of(recwarn)
    assert len(notes) == 3
    assert "' Good' (3 rows) and 'GO OD' (3 rows) and 'good' (3 rows) differ by blanks, case or Unicode" in notes[0]
    assert all(f"{name!r} (3 rows)" in notes[1] for name in accented)
    assert "'STRASSE' (3 rows) and 'straße' (3 rows)" in notes[2]


def test_pairs_count_as_a_whole(recwarn):
    train = made(["a", "b"], ["one", "two"], ["so", "so"])
    remarks.warn_of_rows(train, (None, made(["a", "b"], ["two", "one"], ["or", "no"], "other.csv")))
    assert notes_of(recwarn) == []
    remarks.warn_of_rows(train, (made(["a", "b"], ["two", "one"], ["or", "so"], "other.csv"),))
    (note,) = notes_of(recwarn)
    assert note.startswith("other.csv: 1 of the 2 rows held out, the first of them row 2, have texts")


@pytest.mark.parametrize(("better", "said"), [(20, True), (3, False)])
def test_a_narrow_network_that_is_better_than_the_full_one_is_named(better, said, recwarn, monkeypatch):
    right = np.array([[row < 60 + better, row < 60] for row in range(100)])
    answers = mock.MagicMock(names=["0.25", "1.0"], way_right=right, labels=[0, 1] * 50)
    answers.__len__.return_value = 100
    monkeypatch.setattr(remarks, "all_answers", lambda *_, **__: answers)
    line = remarks.learned(None, made(["a", "b"] * 50), 0)
    full, narrow = 60.0, 60.0 + better
    assert line == f"right on 100 of the training rows, %: 0.25 {narrow}, 1.0 {full}; the most frequent class 50.0"
    assert [note.split(";")[0] for note in notes_of(recwarn)] == [
        "0.25 is right more often than the full network, which has not learned enough"
    ] * said


def whole_lengths(folder, texts):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [len(tokenizer(*(text if isinstance(text, tuple) else (text,)))["input_ids"]) for text in texts]


@pytest.mark.parametrize("pairs", [False, True])
def test_texts_that_were_cut_are_counted(pairs, toys, tmp_path):
    model = toys.pair_model if pairs else toys.model
    # Around the limit, by one token at a time, and one that is cut before it is tokenised.
    texts = [("it " * count).strip() for count in range(4, 24)] + ["it is so " * 3000]
    given = [(text, "so") for text in texts] if pairs else texts
    expected = sum(length > MAX_LENGTH for length in whole_lengths(model, given))
    assert 0 < expected < len(texts)
    rows = [{"text": text, "label": "good"} | ({"text_pair": "so"} if pairs else {}) for text in texts]
    data = write_csv(tmp_path / "data.csv", rows)
    said = f"{NOTE}{expected} of 21 texts have more than {MAX_LENGTH} tokens, and were cut there"
    run = succeeds("predict", model, "--data", data, "--output", tmp_path / "out.csv")
    assert said in run.err.splitlines()
    run = succeeds("evaluate", model, "--data", data, "--json", tmp_path / "numbers.json")
    assert said in run.err.splitlines()
    numbers = json.loads((tmp_path / "numbers.json").read_text(encoding="utf-8"))
    assert (numbers["cut"], numbers["max_length"]) == (expected, MAX_LENGTH)


def test_nothing_is_said_where_nothing_was_cut(toys, tmp_path):
    run = succeeds("predict", toys.model, "--data", toys.test, "--output", tmp_path / "out.csv")
    assert "cut" not in run.err
    numbers = tmp_path / "numbers.json"
    assert "cut" not in succeeds("evaluate", toys.model, "--data", toys.test, "--json", numbers).err
    assert json.loads(numbers.read_text(encoding="utf-8"))["cut"] == 0
