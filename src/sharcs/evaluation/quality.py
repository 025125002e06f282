"""How good answers are by what people report: precision, recall and F1 of each class, and confusions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sharcs.evaluation.reliability import CoveragePoint, coverage_curve, reliability

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from sharcs.evaluation.answers import AllAnswers


@dataclass(frozen=True, slots=True)
class ClassQuality:
    """How good the answers are for a class, or for one of several labels.

    Attributes:
        name: The class.
        rows: How many inputs have it.
        precision: Fraction of the inputs that are answered with it that have it; 0 where none is.
        recall: Fraction of the inputs that have it that are answered with it; 0 where none has it.
        f1: The harmonic mean of both.
    """

    name: str
    rows: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True, slots=True)
class Quality:
    """How good some answers are, as scikit-learn measures it.

    Attributes:
        macro_f1: The mean of F1 over ``classes``.
        ece: The expected calibration error; see :class:`~sharcs.evaluation.reliability.Reliability`.
        classes: Those that an input has or is answered with, in the order of the model's; of several labels, all.
        confusion: How many inputs of a class (row) are answered with a class (column), both in the order of
            ``classes``; None where an answer is a set of labels.
        coverage: What is gained by abstaining below a score, from no limit on.
    """

    macro_f1: float
    ece: float
    classes: list[ClassQuality]
    confusion: list[list[int]] | None
    coverage: list[CoveragePoint]


@dataclass(frozen=True, slots=True)
class Qualities:
    """Of the answers with routing, and of the full network's.

    Attributes:
        routed: Of the policy, or of the one width that was asked for.
        full: Of the full network on every input.
    """

    routed: Quality
    full: Quality


def quality_of(
    answers: AllAnswers, answer: NDArray[np.int64], scores: NDArray[np.floating], names: Mapping[Any, str]
) -> Quality:
    """Measure how good answers are.

    Args:
        answers: Which knows the true classes.
        answer: The class of each input, or the number of its set of labels, ``[inputs]``.
        scores: How sure each answer is, ``[inputs]``.
        names: Of the classes by index.
    """
    # Here, because it takes a second to import, and only this needs it.
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    assert answers.labels is not None
    truth: Any = answers.labels
    said: Any = answer
    right = said == truth
    if answers.label_sets is None:
        present = np.union1d(truth, said)
        # It warns of a single class.
        confusion = confusion_matrix(truth, said, labels=present).tolist() if len(present) > 1 else [[len(truth)]]
    else:
        truth, said = answers.label_sets[truth], answers.label_sets[said]
        present, confusion = np.arange(truth.shape[1]), None
    columns = precision_recall_fscore_support(truth, said, labels=present, zero_division=0)
    classes = [
        ClassQuality(str(names.get(index, index)), int(rows), float(precision), float(recall), float(f1))
        for index, precision, recall, f1, rows in zip(present.tolist(), *columns, strict=True)
    ]
    return Quality(
        macro_f1=float(np.mean(columns[2])),
        ece=reliability(scores, right).ece,
        classes=classes,
        confusion=confusion,
        coverage=coverage_curve(scores, right),
    )
