"""Measures what ``sharcs report`` shows."""

from __future__ import annotations

from dataclasses import replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from sharcs.config import RoutingPolicy
from sharcs.data.texts import fingerprint
from sharcs.errors import InputError
from sharcs.evaluation.accuracy import accuracy_report
from sharcs.evaluation.reliability import reliability
from sharcs.evaluation.widths import run_all_widths
from sharcs.inference.reading import collator_of, rows_of
from sharcs.report.charts import VALUE_LENGTH, short
from sharcs.report.findings import (
    agreement,
    example_rows,
    harm_by,
    overthinking_rows,
    wrong_label_rows,
)
from sharcs.report.record import (
    Evidence,
    Example,
    HarmBy,
    ListedInput,
    Overthinking,
    Report,
    Scores,
    WidthAnswer,
    WrongLabels,
)
from sharcs.tasks.base import require_right_or_wrong

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from sharcs.data.texts import TextData
    from sharcs.evaluation.answers import Routed
    from sharcs.inference.folder import TrainedModel
    from sharcs.report.findings import Harm

LISTED = 20  # inputs
PER_WIDTH = 6  # examples
WORST = 50  # classes or values of a column
TEXT_LENGTH = 280  # characters that are kept of a text

EVIDENCE = ("kind", "limit", "confidence", "per_class", "met", "rows", "rows_tested", "observed", "bound")


def build_report(
    trained: TrainedModel,
    texts: TextData,
    name: str,
    group: tuple[str, Sequence[str]] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> Report:
    """Measure a model on texts, and collect what a report shows.

    Args:
        trained: Model and tokenizer.
        texts: The texts; what needs labels is left out if they have none.
        name: Of the model, for the page.
        group: A column's name and its value of each text.
        on_batch: Called with the number of inputs after each batch.

    Raises:
        InputError: If the model's answers are not right or wrong as a whole, a label is unknown, or the configuration
            holds a calibration that can't be read.
    """
    model, tokenizer = trained.model, trained.tokenizer
    config = model.config
    names = [str(label) for _, label in sorted((config.id2label or {}).items())]
    require_right_or_wrong(model.problem_type, name)
    calibration = _evidence(config.calibration, config.routing_policy, fingerprint(texts.texts, texts.pairs))
    labelled = texts.labels is not None
    label2id = {label: index for index, label in enumerate(names)} if labelled else None
    rows = rows_of(texts, tokenizer, config.encoder, label2id)  # type: ignore[arg-type]
    labels = rows["labels"] if labelled else None
    answers = run_all_widths(model, rows, collator_of(tokenizer), on_batch=on_batch, labels=labels)
    routed = answers.route([config.routing_policy])[0]
    # Without labels: by the class that the full network names.
    class_of = answers.full_predictions if answers.labels is None else answers.labels
    sets = answers.label_sets
    said = names if sets is None else [_set_name(names, labels) for labels in sets]
    listing = _Listing(texts, routed, said, config.keys)
    overthinking, wrong_labels = overthinking_rows(answers), wrong_label_rows(answers)
    what = "class" if sets is None else "set of labels"
    by_class = what if labelled else f"{what} named by the full network"
    return Report(
        name=name,
        source=texts.source,
        data_sha256=fingerprint(texts.texts, texts.pairs, texts.labels),
        version=metadata.version("sharcs"),
        classes=[short(label, VALUE_LENGTH) for label in names],
        labelled=labelled,
        policy=config.routing_policy,
        calibration=calibration,
        evaluation=accuracy_report(model, answers, class_of if sets is None else sets[class_of]),
        agreement=agreement(routed),
        harm_by_class=_worst(by_class, harm_by(routed, [said[index] for index in class_of])),
        harm_by_group=None if group is None else _worst(group[0], harm_by(routed, group[1])),
        reliability=_reliability(routed),
        examples=[
            Example(width, [listing.row(row) for row in example_rows(routed, index, PER_WIDTH)])
            for index, width in enumerate(config.keys)
        ],
        overthinking=Overthinking(
            count=len(overthinking),
            routed_right=int(routed.right[overthinking].sum()),
            inputs=[listing.row(int(row)) for row in overthinking[:LISTED]],
        ),
        wrong_labels=WrongLabels(
            count=len(wrong_labels),
            inputs=[listing.row(int(row)) for row in wrong_labels[:LISTED]],
        ),
        several=sets is not None,
    )


def _set_name(names: list[str], labels: NDArray[np.bool_]) -> str:
    """Write a set of labels for people."""
    return " + ".join(name for name, has in zip(names, labels.tolist(), strict=True) if has) or "(none)"


class _Listing:
    """Writes inputs down for people to read."""

    def __init__(self, texts: TextData, routed: Routed, names: list[str], widths: list[float | str]) -> None:
        self.texts, self.routed, self.widths = texts, routed, widths
        self.names = [short(name, VALUE_LENGTH) for name in names]

    def row(self, row: int) -> ListedInput:
        """Tell all about an input."""
        texts, routed, names = self.texts, self.routed, self.names
        answers = routed.answers
        return ListedInput(
            row=texts.row(row),
            text=short(texts.texts[row], TEXT_LENGTH),
            pair=None if texts.pairs is None else short(texts.pairs[row], TEXT_LENGTH),
            label=None if answers.labels is None else names[answers.labels[row]],
            answer=names[routed.answer[row]],
            right=None if answers.labels is None else bool(routed.right[row]),
            score=float(routed.score[row]),
            first=self.widths[routed.start[row]],
            last=self.widths[routed.answered_by[row]],
            by_width=[
                WidthAnswer(width, names[answers.predictions[row, index]], float(answers.scores[row, index]))
                for index, width in enumerate(self.widths)
            ],
        )


def _worst(by: str, harms: list[Harm]) -> HarmBy:
    return HarmBy(by, len(harms), [replace(harm, value=short(harm.value, VALUE_LENGTH)) for harm in harms[:WORST]])


def _reliability(routed: Routed) -> Scores | None:
    answers = routed.answers
    if answers.labels is None:
        return None
    return Scores(reliability(routed.score, routed.right), reliability(answers.scores[:, -1], answers.full_right))


def _evidence(found: dict[str, Any] | None, policy: RoutingPolicy, data_sha256: str) -> Evidence | None:
    """Take the evidence from the configuration, and tell whether it is of this policy and of other texts."""
    if found is None:
        return None
    try:
        evidence = {key: found[key] for key in EVIDENCE}
        of_this_policy = RoutingPolicy.from_dict(found["policy"]) == policy
    except (KeyError, TypeError) as error:
        raise InputError(
            f"config.json: its calibration can't be read ({error}); run 'sharcs calibrate' again"
        ) from error
    of_these_texts = found.get("data_sha256") == data_sha256
    return Evidence(**evidence, data=found.get("data"), of_this_policy=of_this_policy, of_these_texts=of_these_texts)
