"""What a report shows, as records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sharcs.config import RoutingPolicy
    from sharcs.evaluation.accuracy import AccuracyReport
    from sharcs.evaluation.reliability import Reliability
    from sharcs.report.findings import Agreement, Harm


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for the policy, of what :class:`sharcs.calibration.calibrate.Calibration` records.

    Attributes:
        kind: Of the constraint.
        limit: What had to be kept.
        confidence: At which it is.
        per_class: Whether for every class.
        met: Whether a policy keeps it.
        rows: All rows.
        rows_tested: Those that bound and observations are of.
        observed: The constrained quantity.
        bound: Its upper bound, or None if the constraint is not met.
        data: What the rows were called, if it is known.
        of_this_policy: Whether the model's policy is still the one that was calibrated.
        of_these_texts: Whether the rows were those of the report.
    """

    kind: str
    limit: float
    confidence: float
    per_class: bool
    met: bool
    rows: int
    rows_tested: int
    observed: float
    bound: float | None
    data: str | None
    of_this_policy: bool
    of_these_texts: bool


@dataclass(frozen=True, slots=True)
class HarmBy:
    """Whom routing harms, by class or by a column.

    Attributes:
        by: What the values are, for people.
        total: Number of values.
        worst: Those that routing harms most, the worst first.
    """

    by: str
    total: int
    worst: list[Harm]


@dataclass(frozen=True, slots=True)
class Scores:
    """Whether scores can be trusted.

    Attributes:
        routed: Those of the answers with routing.
        full: Those of the full network's.
    """

    routed: Reliability
    full: Reliability


@dataclass(frozen=True, slots=True)
class WidthAnswer:
    """What a width answers to an input.

    Attributes:
        width: The width, or a sub-network's name.
        answer: The class.
        score: Its probability.
    """

    width: float | str
    answer: str
    score: float


@dataclass(frozen=True, slots=True)
class ListedInput:
    """An input, for people to read.

    Attributes:
        row: Its number in the source, from 1.
        text: The text; long ones are cut.
        pair: The second text, or None.
        label: The true class, or None without labels.
        answer: The class that is answered.
        right: Whether it is the true one, or None without labels.
        score: Its probability.
        first: The width that it ran first.
        last: The width that answered.
        by_width: What each width answers.
    """

    row: int
    text: str
    pair: str | None
    label: str | None
    answer: str
    right: bool | None
    score: float
    first: float | str
    last: float | str
    by_width: list[WidthAnswer]


@dataclass(frozen=True, slots=True)
class Example:
    """Inputs that a width answered, from the least sure answer to the surest.

    Attributes:
        width: The width.
        inputs: The inputs.
    """

    width: float | str
    inputs: list[ListedInput]


@dataclass(frozen=True, slots=True)
class Overthinking:
    """Inputs that a narrow width answers rightly and the full network wrongly.

    Attributes:
        count: How many there are.
        routed_right: How many of them are right with routing.
        inputs: Those with the surest narrow answers.
    """

    count: int
    routed_right: int
    inputs: list[ListedInput]


@dataclass(frozen=True, slots=True)
class WrongLabels:
    """Labels that every width confidently contradicts.

    Attributes:
        count: How many there are.
        inputs: The clearest.
    """

    count: int
    inputs: list[ListedInput]


@dataclass(frozen=True, slots=True)
class Report:
    """All that a page shows.

    Attributes:
        name: Of the model.
        source: What the texts are called.
        data_sha256: Of texts and labels.
        version: Of sharcs.
        classes: The classes' names.
        labelled: Whether the texts have labels.
        policy: The model's.
        calibration: What speaks for it, or None.
        evaluation: Accuracy against cost. Without labels the full network's answers take their place, so that
            accuracies are agreement with the full network.
        agreement: With the full network.
        harm_by_class: By true class, without labels by the class that the full network names.
        harm_by_group: By the values of a column, if one was named.
        reliability: Of the scores, or None without labels.
        examples: Of each width.
        overthinking: Where the full network is worse than a narrow one.
        wrong_labels: Which labels are likely wrong.
        several: Whether an answer is a set of labels.
    """

    name: str
    source: str
    data_sha256: str
    version: str
    classes: list[str]
    labelled: bool
    policy: RoutingPolicy
    calibration: Evidence | None
    evaluation: AccuracyReport
    agreement: Agreement
    harm_by_class: HarmBy
    harm_by_group: HarmBy | None
    reliability: Scores | None
    examples: list[Example]
    overthinking: Overthinking
    wrong_labels: WrongLabels
    several: bool = False
