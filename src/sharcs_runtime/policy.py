"""The routing policy: which sub-network an input runs first, and whether its answer stands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import device
from numpy.typing import NDArray

from sharcs_runtime.errors import InputError
from sharcs_runtime.scores import SIGNALS, Array, namespace

Floats = NDArray[np.float32]
ROUTER = "router"


def names_of_widths(widths: Sequence[float]) -> list[str]:
    """Name the sub-networks of some widths: ``width-25`` for 0.25, and ``full`` for 1.0.

    Names are part of weights' and files' names, so there are no dots in them.
    """
    return ["full" if width == 1.0 else f"width-{100 * width:g}".replace(".", "_") for width in widths]


def label_of(width: float | str) -> str:
    """Write down what a sub-network is asked for by: its width, or its name."""
    return width if isinstance(width, str) else f"{width:g}"


@dataclass(frozen=True, slots=True)
class RoutingPolicy:
    """Which sub-network an input runs first, and when its answer stands.

    Attributes:
        cost_weight: λ. The width is the argmax of (router score − λ · relative cost), where the score is the
            sigmoid of the router's logit and the relative cost is a width's cost over the full network's, for an
            input of the same length. 0 is the paper's policy: the router's argmax. Positive values save cost, and
            negative ones spend more than the router asked for.
        escalation_threshold: An input whose sub-network is less sure of its answer than this escalates. A number
            holds for every sub-network, and leads straight to the full one; a mapping from names gives each its own,
            and leads to the next one that it names, at last to the full one; what it doesn't name, stands. None, the
            paper's policy, lets every answer stand; an input then never runs more than one sub-network.
        blend: Weight of the answer at hand in that of an input that escalated, from 0 to 1: the probabilities of both
            are averaged, which costs nothing and is right more often than the full network alone.
        start: ``router``, or the name of the sub-network that every input runs first, whatever the router says.
        signal: How sure an answer is of itself: one of :data:`SIGNALS`.

    Raises:
        InputError: If a setting is out of range; the message names it.
    """

    cost_weight: float = 0.0
    escalation_threshold: float | Mapping[str, float] | None = None
    blend: float = 0.0
    start: str = ROUTER
    signal: str = "probability"

    def __post_init__(self) -> None:
        """Check every setting."""
        if not _is_number(self.cost_weight) or not math.isfinite(self.cost_weight):
            raise InputError(f"policy cost_weight {self.cost_weight}: has to be a finite number")
        if not _is_number(self.blend) or not 0 <= self.blend <= 1:
            raise InputError(f"policy blend {self.blend}: has to be from 0 to 1")
        threshold = self.escalation_threshold
        if isinstance(threshold, Mapping):
            object.__setattr__(self, "escalation_threshold", _Thresholds(threshold))
        for value in threshold.values() if isinstance(threshold, Mapping) else (threshold,):
            if value is not None and (not _is_number(value) or not 0 <= value <= 1):
                raise InputError(f"policy escalation_threshold {value}: has to be from 0 to 1, or None")
        if not isinstance(self.start, str):
            raise InputError(f"policy start {self.start!r}: has to be {ROUTER}, or a sub-network's name")
        if self.signal not in SIGNALS:
            raise InputError(f"policy signal {self.signal!r}: there is none; choose {' or '.join(SIGNALS)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RoutingPolicy:
        """Read what :meth:`to_dict` wrote.

        Raises:
            InputError: If a setting is unknown or out of range.
        """
        try:
            return cls(**values)
        except TypeError as error:
            known = ", ".join(cls.__dataclass_fields__)
            raise InputError(f"policy {values}: unknown setting; known are {known}") from error

    def to_dict(self) -> dict[str, Any]:
        """Write it as plain values; start and signal only where they are not the default."""
        threshold = self.escalation_threshold
        values: dict[str, Any] = {
            "cost_weight": self.cost_weight,
            "escalation_threshold": dict(threshold) if isinstance(threshold, Mapping) else threshold,
            "blend": self.blend,
        }
        if self.start != ROUTER:
            values["start"] = self.start
        if self.signal != "probability":
            values["signal"] = self.signal
        return values

    def check_names(self, names: Sequence[str]) -> None:
        """See that a network has the sub-networks that the policy names.

        Raises:
            InputError: If it lacks one.
        """
        threshold = self.escalation_threshold
        named = [
            *(threshold if isinstance(threshold, Mapping) else ()),
            *([self.start] if self.start != ROUTER else []),
        ]
        missing = [name for name in named if name not in names]
        if missing:
            raise InputError(f"policy {missing[0]}: the network has {', '.join(names)}; name one of these")

    @property
    def escalates(self) -> bool:
        """Whether an answer of a narrow sub-network has to be sure enough to stand."""
        return self.escalation_threshold is not None

    def step_after(self, index: int, names: Sequence[str]) -> tuple[float, int] | None:
        """Tell below which score an answer escalates, and to which sub-network.

        Args:
            index: Of the sub-network that answered.
            names: Of the sub-networks, the cheapest first, the full one last.

        Returns:
            The threshold and the next one's index, or None where the answer stands.
        """
        full = len(names) - 1
        threshold = self.escalation_threshold
        if index >= full or threshold is None:
            return None
        if not isinstance(threshold, Mapping):
            return threshold, full
        if names[index] not in threshold:
            return None
        later = [later for later in range(index + 1, full) if names[later] in threshold]
        return threshold[names[index]], next(iter(later), full)

    def label(self) -> str:
        """Describe it in a few words, for tables and charts."""
        threshold = self.escalation_threshold
        if isinstance(threshold, Mapping):
            limits = ", ".join(f"{name} {value:.6g}" for name, value in threshold.items())
        else:
            limits = "none" if threshold is None else f"{threshold:.6g}"
        first = f"cost weight {self.cost_weight:.6g}" if self.start == ROUTER else f"start {self.start}"
        return f"{first}, escalation threshold {limits}"


class _Thresholds(dict[str, float]):
    """A mapping of thresholds that a frozen policy can hash."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(sorted(self.items())))


def policy_of(point: dict[str, Any]) -> RoutingPolicy:
    """Read a point of a calibration's frontier as the policy that it is."""
    return RoutingPolicy.from_dict(
        {name: point[name] for name in RoutingPolicy.__dataclass_fields__ if name in point}
    )


def record_of(policy: RoutingPolicy, *records: dict[str, Any] | None) -> dict[str, Any] | None:
    """Find the first record that speaks for a policy, of a calibration or of a training's promise; None if none does.

    Args:
        policy: The policy.
        *records: As ``config.calibration`` and ``config.promise`` hold them.
    """
    told = (record for record in records if record and record.get("policy"))
    return next((record for record in told if RoutingPolicy.from_dict(record["policy"]) == policy), None)


def policy_for_budget(calibration: dict[str, Any] | None, budget: float) -> RoutingPolicy:
    """Take from a stored calibration the policy that spends the most within a budget.

    Args:
        calibration: ``config.calibration``.
        budget: Mean FLOPs over the full network's, on inputs such as those of the calibration.

    Raises:
        InputError: If there is no calibration, or the budget is no number or below the cheapest policy's cost.
    """
    if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 < budget < math.inf:
        raise InputError(f"budget {budget}: has to be a number above 0, like 0.5 for half of the FLOPs")
    frontier = (calibration or {}).get("frontier")
    if not frontier:
        raise InputError("budget: the model was never calibrated; run 'sharcs calibrate' on texts like those to come")
    within = [point for point in frontier if point["cost_ratio"] <= budget]
    if not within:
        least = frontier[0]["cost_ratio"]
        raise InputError(
            f"budget {budget:g}: the cheapest policy costs {least:.3f} of the full network; give at least that"
        )
    return policy_of(within[-1])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def flops(coefficients: Array, lengths: Array) -> Array:
    """Evaluate polynomials c₀ + c₁·T + c₂·T², ``[polynomials, 3]``, for lengths T: ``[inputs, polynomials]``."""
    xp = namespace(coefficients)
    tokens = xp.astype(lengths, coefficients.dtype)[:, None]  # [inputs, 1]
    powers = xp.concat([xp.ones_like(tokens), tokens, tokens * tokens], axis=-1)  # [inputs, 3]
    return powers @ coefficients.T


def relative_cost(coefficients: Array, lengths: Array) -> Array:
    """Divide each width's FLOPs by those of the plain full network on an input of the same length.

    Args:
        coefficients: c₀, c₁ and c₂ of the cost c₀ + c₁·T + c₂·T² of each width, and of the plain network last:
            float64 ``[widths + 1, 3]``.
        lengths: Real tokens, ``[batch]``.

    Returns:
        ``[batch, widths]``.
    """
    cost = flops(coefficients, lengths)
    return cost[:, :-1] / cost[:, -1:]


def choose_width(
    router_logits: Array, relative: Array | None, policy: RoutingPolicy, names: Sequence[str] = ()
) -> Array:
    """Choose what each input runs first; ties go to the cheaper width.

    Args:
        router_logits: ``[batch, widths]``; −∞ where the router has no choice of it.
        relative: Cost of each width over the full network's, ``[batch, widths]`` or ``[widths]``; not needed if the
            cost weighs nothing.
        policy: The cost weight λ, or where to start.
        names: Of the sub-networks, where the policy starts at one of them.

    Returns:
        The index of each input's width, int64 ``[batch]``.
    """
    xp = namespace(router_logits)
    if policy.start != ROUTER:
        where = {"dtype": xp.int64, "device": device(router_logits)}
        return xp.full(router_logits.shape[:1], list(names).index(policy.start), **where)
    if policy.cost_weight == 0 or relative is None:
        # The sigmoid saturates in single precision, and the order of the logits doesn't.
        return xp.argmax(router_logits, axis=-1)
    # The two halves of the sigmoid, so that no exponential overflows.
    decay = xp.exp(-xp.abs(router_logits))
    scores = xp.where(router_logits >= 0, xp.ones_like(decay), decay) / (1.0 + decay)
    rated = scores - policy.cost_weight * relative
    # What stands in front of the encoder is none of the router's choices, however little it costs.
    return xp.argmax(xp.where(router_logits == -math.inf, router_logits, rated), axis=-1)
