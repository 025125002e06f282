"""Exports of every format are read: the committed one of the first format answers as the model that it is from."""

import csv
import json

from records.make import HERE, ROWS
from sharcs_runtime import OnnxRunner


def test_an_export_of_the_first_format_answers_as_recorded():
    assert json.loads((HERE / "export-1" / "sharcs.json").read_text())["format"] == 1
    runner = OnnxRunner(HERE / "export-1")
    with ROWS.open(newline="", encoding="utf-8") as file:
        answers = list(runner.predict([row["text"] for row in csv.DictReader(file)]))
    expected = json.loads((HERE / "plus.json").read_text())["export"]
    assert [[*answer[:1], *answer[2:]] for answer in answers] == [[*row[:1], *row[2:]] for row in expected]
    assert max(abs(answer.score - row[1]) for answer, row in zip(answers, expected, strict=True)) < 1e-6
