"""Answers as columns beside the rows that they answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sharcs_runtime.answers import typed_labels
from sharcs_runtime.scores import MULTI_LABEL, REGRESSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sharcs_runtime.answers import Answers


def answer_columns(
    answers: Answers,
    labels: Sequence[str],
    label_type: str | None,
    widths: Sequence[float],
    names: Sequence[str],
) -> dict[str, list[Any]]:
    """Write answers as columns, all that there may be.

    Args:
        answers: The answers.
        labels: Names of the classes.
        label_type: What the labels of the training were; see :func:`sharcs_runtime.answers.typed_labels`.
        widths: Of the sub-networks.
        names: Theirs.
    """
    columns: dict[str, list[Any]] = {
        "prediction": _predictions(answers, typed_labels(labels, label_type)),
        "score": answers.scores.astype(np.float64).tolist(),
        "width": [widths[index] for index in answers.answered_by.tolist()],
        "sub_network": [names[index] for index in answers.answered_by.tolist()],
    }
    of_classes = answers.probabilities.astype(float).T.tolist()
    return columns | {f"score_{name}": scores for name, scores in zip(labels, of_classes, strict=True)}


def added_names(problem_type: str | None, labels: Sequence[str], front: bool, scores: bool) -> list[str]:
    """List the columns of an answer: a number has no score, and a width says nothing of what stands in front.

    Args:
        problem_type: As in Hugging Face configurations.
        labels: Names of the classes.
        front: Whether sub-networks answer before the encoder runs.
        scores: Whether the probabilities of all classes are added.
    """
    names = ["prediction", *([] if problem_type == REGRESSION else ["score"]), "width"]
    names += ["sub_network"] if front else []
    return names + ([f"score_{label}" for label in labels] if scores else [])


def _predictions(answers: Answers, values: list[Any]) -> list[Any]:
    """Write what is answered: a class, a list of labels, or a number."""
    if answers.problem_type == MULTI_LABEL:
        return [[values[index] for index in np.flatnonzero(row)] for row in answers.said]
    if answers.problem_type == REGRESSION:
        return list(answers.probabilities[:, 0].astype(float).tolist())
    return [values[index] for index in answers.said.tolist()]


def free_names(names: Iterable[str], taken: Iterable[str]) -> list[str]:
    """Find names for new columns that overwrite nothing: the name itself, or the first of name_2, name_3, ... ."""
    known = list(taken)
    found = []
    for name in names:
        candidate, number = name, 2
        while candidate in known:
            candidate, number = f"{name}_{number}", number + 1
        known.append(candidate)
        found.append(candidate)
    return found
