"""Answers as columns beside the rows that they answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sharcs_runtime.answers import typed_labels

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
    predictions = answers.predictions()
    values = typed_labels(labels, label_type)
    columns: dict[str, list[Any]] = {
        "prediction": [values[answer.class_index] for answer in predictions],
        "score": [answer.score for answer in predictions],
        "width": [widths[answer.width_index] for answer in predictions],
        "sub_network": [names[answer.width_index] for answer in predictions],
    }
    of_classes = answers.probabilities.astype(float).T.tolist()
    return columns | {f"score_{name}": scores for name, scores in zip(labels, of_classes, strict=True)}


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
