"""What a training says of its rows before it begins, and at its end of what it has learned."""

from __future__ import annotations

import reprlib
import unicodedata
import warnings
from collections import Counter, defaultdict
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from sharcs.data.labels import labels_in
from sharcs.data.sampling import sampled_rows
from sharcs.data.texts import take_rows
from sharcs.jobs.answers import all_answers
from sharcs_runtime.scores import MULTI_LABEL, REGRESSION

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sharcs.data.texts import TextData
    from sharcs.inference.folder import TrainedModel

SHOWN, ALL_SHOWN = 5, 8  # classes where there are more of them, and how many are shown without leaving any out
ROWS_TRIED = 500


def rows_and_classes(train: TextData) -> str:
    """Say in a line how many rows there are, and how many of each class or with each label."""
    if train.problem_type == REGRESSION:
        numbers = [float(number) for number in train.labels or []]
        low, high, mean = min(numbers), max(numbers), np.mean(numbers)
        return f"{len(train):,} rows, numbers from {low:g} to {high:g}, {mean:.4g} on average"
    counts = Counter(chain.from_iterable(names_by_row(train))).most_common()
    shown = counts if len(counts) <= ALL_SHOWN else counts[:SHOWN]
    what = "labels" if train.problem_type == MULTI_LABEL else "classes"
    line = f"{len(train):,} rows, {len(counts)} {what}: " + ", ".join(f"{name} {count:,}" for name, count in shown)
    if len(shown) == len(counts):
        return line
    last, count = counts[-1]
    return f"{line}, and {len(counts) - SHOWN} more, of which the least frequent, {last}, has {count:,}"


def warn_of_rows(train: TextData, held_out: Iterable[TextData | None]) -> None:
    """Name what is probably wrong with the rows of a training.

    Args:
        train: What is trained on.
        held_out: What chooses the policy or judges the model; None is passed over.
    """
    counts, alike = Counter(chain.from_iterable(names_by_row(train))), defaultdict(list)
    for name in counts:
        alike[_bare(name)].append(name)
    for names in alike.values():
        if len(names) > 1:
            listed = " and ".join(f"{reprlib.repr(name)} ({counts[name]:,} rows)" for name in sorted(names))
            warnings.warn(
                f"{train.source}: the classes {listed} differ by blanks, case or Unicode form only; write them alike "
                "if they are one",
                stacklevel=3,
            )
    trained_on = set(train.inputs)
    for data in filter(None, held_out):
        again = [row for row, text in enumerate(data.inputs) if text in trained_on]
        if again:
            warnings.warn(
                f"{data.source}: {len(again):,} of the {len(data):,} rows held out, the first of them row "
                f"{data.row(again[0])}, have texts that are trained on, too; what they say of the model is too good",
                stacklevel=3,
            )


def names_by_row(data: TextData) -> list[list[str]]:
    """List the class of each row, or its labels; a regression has none."""
    if data.problem_type == MULTI_LABEL:
        return [labels_in(labels) for labels in data.labels or ()]
    return [] if data.problem_type == REGRESSION else [[name] for name in data.labels or ()]


def learned(trained: TrainedModel, train: TextData, seed: int) -> str:
    """Say what each sub-network reaches on training rows, and warn if that shows that something has gone wrong.

    Args:
        trained: The model.
        train: The rows; a part of them is tried.
        seed: Draws it.
    """
    rows = sampled_rows(train.labels or [], min(len(train), ROWS_TRIED), seed)
    answers = all_answers(trained, take_rows(train, rows), labelled=True)
    right = answers.way_right[:, : len(answers.names)]
    majority = Counter(np.asarray(answers.labels).tolist()).most_common(1)[0][1] / len(answers)
    accuracies = right.mean(axis=0)
    best = int(accuracies[:-1].argmax()) if len(answers.names) > 1 else 0
    gained, lost = int((right[:, best] & ~right[:, -1]).sum()), int((~right[:, best] & right[:, -1]).sum())
    if accuracies[-1] <= majority:
        warnings.warn(
            "the network has not learned: on rows that it was trained on, it is right no more often than the most "
            "frequent class; give more `epochs` or another `learning_rate`, or look at the labels",
            stacklevel=3,
        )
    elif gained - lost > 2 * (gained + lost) ** 0.5:
        warnings.warn(
            f"{answers.names[best]} is right more often than the full network, which has not learned enough; give "
            "more `epochs` or another `learning_rate`",
            stacklevel=3,
        )
    alone = ", ".join(f"{name} {100 * value:.1f}" for name, value in zip(answers.names, accuracies, strict=True))
    return f"right on {len(answers):,} of the training rows, %: {alone}; the most frequent class {100 * majority:.1f}"


def _bare(name: str) -> str:
    """Write a class without blanks, case and Unicode form."""
    return unicodedata.normalize("NFKC", "".join(unicodedata.normalize("NFKC", name).casefold().split()))
