"""What a configuration holds: names of classes, policies of a calibration, what a training promises of its own."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

from sharcs.errors import InputError
from sharcs_runtime.policy import RoutingPolicy, record_of

# Of a promise, what stands for the limit of which kind.
BOUNDS = {"max_accuracy_drop": "loss_bound", "max_disagreement": "disagreement_bound", "budget": "cost_bound"}

CLEARLY = 0.05  # better by so much is no chance


def class_names(given: Any) -> dict[int, str]:
    """Bring class names by index into the form of configurations.

    Args:
        given: A mapping from indices, or a list.

    Raises:
        InputError: If it is neither, or the indices don't count from 0.
    """
    try:
        pairs = enumerate(given) if isinstance(given, list | tuple) else dict(given).items()
        names = {int(index): name for index, name in pairs}
    except (TypeError, ValueError) as error:
        raise InputError(
            f"id2label {given!r}: does not map numbers to names, like {{0: 'bad', 1: 'good'}}"
        ) from error
    if sorted(names) != list(range(len(names))):
        raise InputError(f"id2label: numbers its classes {sorted(names)[:5]}; number them from 0 to {len(names) - 1}")
    return names


def share_labels(config: Any) -> None:
    """Hand a routed configuration's task down to the encoder's, class names in the form of configurations.

    Raises:
        InputError: See :func:`class_names`.
    """
    if config.id2label is not None:
        config.id2label = class_names(config.id2label)
        if set(config.label2id or ()) != set(config.id2label.values()):
            config.label2id = {name: index for index, name in config.id2label.items()}
    config.encoder.id2label = copy.copy(config.id2label)
    config.encoder.label2id = copy.copy(config.label2id)
    config.encoder.problem_type = config.problem_type


@dataclass(frozen=True, slots=True)
class Promise:
    """What is known of a policy from rows that had no part in choosing it.

    Attributes:
        policy: The policy, as plain values.
        rows: How many rows these are.
        confidence: Of each bound by itself.
        cost_ratio: Mean FLOPs over the full network's.
        accuracy: Of the policy.
        full_accuracy: Of the full network.
        majority: Of who always names the most frequent class.
        names: Of the sub-networks, the cheapest first.
        accuracies: Of each of them alone.
        disagreement: Share of answers that are not the full network's.
        loss_bound: By how much the policy may be less accurate than the full network, at most; None where another
            quantity was to be kept within a limit, by the same rows.
        disagreement_bound: What the disagreement may be, at most, or None.
        cost_bound: What the cost ratio may be, at most, where that was to be kept within a limit.
        numbers: What the network computed in: ``float32``, ``int8``, ...
        runtime: What ran it: ``torch`` or ``onnxruntime``.
    """

    policy: dict[str, Any]
    rows: int
    confidence: float
    cost_ratio: float
    accuracy: float
    full_accuracy: float
    majority: float
    names: list[str]
    accuracies: list[float]
    disagreement: float
    loss_bound: float | None = None
    disagreement_bound: float | None = None
    cost_bound: float | None = None
    numbers: str = "float32"
    runtime: str = "torch"

    def record(self) -> dict[str, Any]:
        """Write it as plain values, for ``config.promise``."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Say it in a few lines, the last of which is advice."""
        alone = ", ".join(
            f"{name} {100 * value:.1f}" for name, value in zip(self.names, self.accuracies, strict=True)
        )
        found = [
            f"on {self.rows:,} held-out rows: {100 * self.accuracy:.1f}% right at {100 * self.cost_ratio:.1f}% of "
            f"the full network's FLOPs (full network {100 * self.full_accuracy:.1f}%)",
            f"with {100 * self.confidence:g}% confidence, in {self.numbers} on {self.runtime}, {self._bounds()}",
            f"accuracy of each sub-network alone, %: {alone}",
        ]
        return [*found, self._advice()]

    def _bounds(self) -> str:
        bounds = []
        if self.loss_bound is not None:
            bounds.append(f"at most {100 * max(0.0, self.loss_bound):.1f} points are lost")
        if self.disagreement_bound is not None:
            bounds.append(f"at most {100 * self.disagreement_bound:.1f}% of the answers are not the full network's")
        if self.cost_bound is not None:
            bounds.append(f"at most {100 * self.cost_bound:.1f}% of the full network's FLOPs are spent")
        return ", and ".join(bounds)

    def _advice(self) -> str:
        if self.full_accuracy <= self.majority:
            return "the network has not learned: it is right no more often than the most frequent class"
        best = max(range(len(self.accuracies)), key=self.accuracies.__getitem__)
        if self.accuracies[best] > self.full_accuracy + CLEARLY:
            return f"{self.names[best]} is right more often than the full network, which has not learned enough"
        if self.cost_ratio > 0.5:
            return "little is saved; unlabelled texts like those to come (--unlabelled) would help most"
        return "for another trade, run 'sharcs calibrate' on rows like those to come"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of the policy that routes now, from rows that it was not trained on.

    Attributes:
        policy: The policy.
        rows: How many rows speak for it; 0 where none do.
        bounds: What is bounded, by the name of its limit, at ``confidence`` each: what is lost in accuracy, what
            disagrees with the full network, what is spent. Empty where no row was held out.
        confidence: Of each bound.
        cost_ratio: Mean FLOPs over the full network's on these rows; None where there are none.
        met: Whether the limit that was given is kept; if not, every input goes through the full network.
    """

    policy: RoutingPolicy
    rows: int
    bounds: dict[str, float]
    confidence: float | None
    cost_ratio: float | None
    met: bool

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        from html import escape  # what `import sharcs` has no use for

        lines = {"policy": self.policy.label(), "rows that speak for it": f"{self.rows:,}"}
        for name, bound in self.bounds.items():
            sure = f"at {100 * (self.confidence or 0):g} % confidence"
            lines[name.replace("_", " ")] = f"at most {100 * max(0.0, bound):.2f} %, {sure}"
        if self.cost_ratio is not None:
            lines["FLOPs"] = f"{100 * self.cost_ratio:.1f} % of the full network's"
        if not self.met:
            lines["limit"] = "no policy keeps it; every input goes through the full network"
        cells = ((escape(name), escape(value)) for name, value in lines.items())
        return f"<table>{''.join(f'<tr><th>{name}</th><td>{value}</td></tr>' for name, value in cells)}</table>"


def evidence_of(
    policy: RoutingPolicy, calibration: dict[str, Any] | None, promise: dict[str, Any] | None
) -> Evidence:
    """Look up what speaks for a policy: a calibration's record, or what a training promises, if they are of it."""
    record = record_of(policy, calibration, promise)
    if record is None:
        return Evidence(policy, 0, {}, None, None, True)
    if "kind" in record:
        rows, met = record["rows_tested"], record["met"]
        bounds = {record["kind"]: record["bound"]} if met else {}
    else:
        rows, met = record["rows"], True
        bounds = {kind: record[name] for kind, name in BOUNDS.items() if record.get(name) is not None}
    return Evidence(policy, rows, bounds, record["confidence"], record["cost_ratio"], met)
