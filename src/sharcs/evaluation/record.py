"""Records what sub-networks answer, batch by batch, from whatever runs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sharcs.evaluation.answers import AllAnswers
from sharcs.evaluation.labels import checked_classes
from sharcs_runtime.scores import MULTI_LABEL, blended, confidence, softmax
from sharcs_runtime.ways import ways_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from numpy.typing import ArrayLike

    from sharcs_runtime.ways import Doubles, Flags, Numbers, Singles, Way


def record_answers(
    batches: Iterable[tuple[Numbers, Singles, Singles]],
    names: tuple[str, ...],
    lengths: Numbers,
    cost_coefficients: Doubles,
    *,
    problem_type: str | None = None,
    blend: float = 0.0,
    signals: Collection[str] = ("probability",),
    labels: ArrayLike | None = None,
    max_length: int | None = None,
    numbers: str = "float32",
    runtime: str = "torch",
) -> AllAnswers:
    """Record answers; memory doesn't grow with the number of classes.

    Args:
        batches: The inputs' indices, ``[batch]``, the logits of every sub-network, ``[networks, batch, labels]``, and
            the router's, ``[batch, networks]``: every input once, in any order.
        names: Of the sub-networks, the full one last.
        lengths: Real tokens, ``[inputs]``.
        cost_coefficients: See :class:`~sharcs.evaluation.answers.AllAnswers`.
        problem_type: As in Hugging Face configurations.
        blend: Weight of the answer at hand where an input escalates.
        signals: Of how sure answers are of themselves, ``probability`` among them.
        labels: See :meth:`sharcs.evaluation.answers.AllAnswers.truth`; or None.
        max_length: The most tokens of any input, of those to come too; by default of these.
        numbers: What the networks compute in.
        runtime: What runs them.

    Raises:
        InputError: If the labels are of another form than the answers.
    """
    ways, count = ways_of(len(names)), len(lengths)
    several = problem_type == MULTI_LABEL
    predictions = np.zeros((count, len(ways)), np.int64)
    scores = {signal: np.zeros((count, len(ways)), np.float32) for signal in signals}
    router_logits = np.zeros((count, len(names)), np.float32)
    label_scores = None if labels is None or several else np.zeros((count, len(ways)), np.float32)
    truth = np.zeros(0, np.int64) if labels is None or several else checked_classes(labels, count)
    known_sets: dict[bytes, int] = {}
    classes: int | None = None
    for rows, logits, routing in batches:
        if len(truth) and classes is None:
            checked_classes(truth, count, logits.shape[-1])  # the first answers say how many there are
        classes = logits.shape[-1]
        router_logits[rows] = routing
        at_hand: dict[Way, Singles] = {}
        for column, way in enumerate(ways):
            answer = logits[way[-1]]
            if way[:-1]:
                answer = blended(answer, at_hand[way[:-1]], blend, problem_type)
            at_hand[way] = answer
            if label_scores is not None:
                label_scores[rows, column] = _label_score(answer, logits[way[-1]], truth[rows])
            predictions[rows, column] = _number_sets(answer > 0, known_sets) if several else answer.argmax(axis=-1)
            for signal, values in scores.items():
                values[rows, column] = confidence(answer, problem_type, signal)
    record = AllAnswers(
        names=names,
        way_predictions=predictions,
        way_scores=scores,
        router_logits=router_logits,
        lengths=lengths,
        cost_coefficients=cost_coefficients,
        max_length=int(lengths.max(initial=0)) if max_length is None else max_length,
        blend=blend,
        label_sets=np.stack([np.frombuffer(known, np.bool_) for known in known_sets]) if several else None,
        way_label_scores=label_scores,
        numbers=numbers,
        runtime=runtime,
        classes=None if several else classes,
    )
    return record if labels is None else record.labelled(labels)


def _label_score(answer: Singles, own: Singles, truth: Numbers) -> Singles:
    """Rate answers ``[batch, labels]``, which may be blended, and are ``own`` if not: ``[batch]``.

    An average is less sure than the answers that it is of, and right more often, so its own probabilities would speak
    against it. It is rated as the later answer is, with what is right by it, less what was right by that one alone.
    """
    scores: Singles = softmax(own)[np.arange(len(own)), truth]
    if answer is own:
        return scores
    scores += answer.argmax(-1) == truth
    scores -= own.argmax(-1) == truth
    return scores


def _number_sets(sets: Flags, numbers: dict[bytes, int]) -> Numbers:
    """Number sets of labels, ``[batch, labels]``, equal ones alike, and note new ones: int64 ``[batch]``."""
    return np.array([numbers.setdefault(labels.tobytes(), len(numbers)) for labels in sets], np.int64)
