"""From settings to a score at a budget: which settings are mixed is decided on held-out rows, for everybody."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from judge.families import Static

if TYPE_CHECKING:
    from judge.families import Family, View

BUDGETS = (0.02, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30, 0.40, 0.50, 0.75)

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """A method's settings, on held-out and on test rows.

    Attributes:
        held_cost: Mean cost of each setting on held-out rows, as a share of the reference's, ``[settings]``.
        held_accuracy: Share of right answers there, or the probability that answers give to the true class.
        cost: Mean cost on test rows.
        right: Chance of a right answer, ``[settings, test rows]``.
    """

    held_cost: Floats
    held_accuracy: Floats
    cost: Floats
    right: NDArray[np.float32]

    def __add__(self, other: Curve) -> Curve:
        """Put another one's settings beside these."""
        return Curve(
            np.concatenate([self.held_cost, other.held_cost]),
            np.concatenate([self.held_accuracy, other.held_accuracy]),
            np.concatenate([self.cost, other.cost]),
            np.concatenate([self.right, other.right]),
        )


def curve_of(family: Family, held_out: View, test: View) -> Curve:
    """Apply every setting of a family to both parts."""
    rows = []
    for setting in family.settings(held_out):
        held_cost, held_right = family.apply(held_out, setting)
        cost, right = family.apply(test, setting)
        shares = held_cost.sum() / held_out.reference.cost.sum(), cost.sum() / test.reference.cost.sum()
        rows.append((shares[0], held_right.mean(), shares[1], right.astype(np.float32)))
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    return Curve(*columns)


def reference_curve(held_out: View, test: View) -> Curve:
    """The reference alone, which stands at the end of every method's ladder."""
    alone = [replace(view, answers=view.reference) for view in (held_out, test)]
    return curve_of(Static(), *alone)


@dataclass(frozen=True)
class Mix:
    """Two settings, or one, drawn for each input with fixed chances.

    Attributes:
        settings: Their indices.
        chances: Of each, which add up to 1.
    """

    settings: tuple[int, ...]
    chances: tuple[float, ...]

    def held(self, curve: Curve) -> tuple[float, float]:
        """Cost and accuracy on held-out rows."""
        chosen = list(self.settings)
        return float(np.dot(self.chances, curve.held_cost[chosen])), float(
            np.dot(self.chances, curve.held_accuracy[chosen])
        )

    def cost(self, curve: Curve) -> float:
        """What it really costs on test rows."""
        return float(np.dot(self.chances, curve.cost[list(self.settings)]))

    def right(self, curve: Curve) -> Floats:
        """Chance of a right answer, ``[test rows]``."""
        found: Floats = np.dot(np.array(self.chances), curve.right[list(self.settings)])
        return found


def ladder(curve: Curve) -> list[int]:
    """Keep the settings that no mixture of others beats on held-out rows: the upper hull, up to the best accuracy.

    Of equal settings the first is kept. They are ordered by cost.
    """
    order = np.lexsort((np.arange(len(curve.held_cost)), -curve.held_accuracy, curve.held_cost))
    kept: list[int] = []
    for index in order:
        cost, accuracy = curve.held_cost[index], curve.held_accuracy[index]
        if kept and accuracy <= curve.held_accuracy[kept[-1]]:
            continue
        while len(kept) > 1:
            before, last = kept[-2], kept[-1]
            rise = curve.held_accuracy[last] - curve.held_accuracy[before]
            run = curve.held_cost[last] - curve.held_cost[before]
            if rise * (cost - curve.held_cost[before]) > (accuracy - curve.held_accuracy[before]) * run:
                break
            kept.pop()
        kept.append(int(index))
    return kept


def at_budget(curve: Curve, budget: float) -> Mix | None:
    """Choose what is best on held-out rows at a mean cost of at most ``budget``; None if nothing is as cheap."""
    steps = ladder(curve)
    costs = curve.held_cost[steps]
    if costs[0] > budget + 1e-12:
        return None
    place = int(np.searchsorted(costs, budget + 1e-12, side="right")) - 1
    if place == len(steps) - 1:
        return Mix((steps[place],), (1.0,))
    share = float((budget - costs[place]) / (costs[place + 1] - costs[place]))
    if share <= 1e-9:
        return Mix((steps[place],), (1.0,))
    return Mix((steps[place], steps[place + 1]), (1 - share, share))


def pick(curves: dict[str, Curve], budget: float) -> str | None:
    """Name the method that held-out rows choose at a budget: what a competent user would run."""
    best: tuple[float, float, str] | None = None
    for name, curve in curves.items():
        mix = at_budget(curve, budget)
        if mix is None:
            continue
        cost, accuracy = mix.held(curve)
        candidate = (accuracy, -cost, name)
        if best is None or candidate[:2] > best[:2]:
            best = candidate
    return None if best is None else best[2]
