"""From answers on disk to what every method loses at every budget, with intervals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from judge import answers
from judge.curves import Curve, at_budget, curve_of, pick, reference_curve
from judge.data import load
from judge.families import ByShare, Cascade, Exits, Family, Routed, Static, View
from judge.front import KINDS, chains
from judge.intervals import MOST_GAINED, Floats, draws, mean_over_sets, set_interval

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from judge.settings import Study

OURS = "ours"
PICK = "PICK"
# The same where peers' settings, and the peer, are chosen as ours are in a study that says so.
PICK_BY_PROBABILITY = "PICK, by probability"
# Beside ours, not against it.
OWN = ("ours, random", "ours, oracle", "ours, static", "narrow")
SMALL = ("tfidf", "static", "gru", "1-layer", "2-layers", "3-layers")
EXITS = {
    "exits (DeeBERT)": ("exits", "entropy"),
    "branches (FastBERT)": ("branches", "entropy"),
    "linear heads": ("heads", "confidence"),
    **{
        f"joint exits, {signal}": ("joint-exits", signal)
        for signal in ("entropy", "confidence", "patience", "certainty")
    },
}


def ways() -> dict[str, tuple[str, list[Family]]]:
    """Name every way to use a method: the file of answers that it reads, and its families."""
    steps = range(len(KINDS))
    found: dict[str, tuple[str, list[Family]]] = {
        OURS: (OURS, [*map(Static, steps), *chains()]),
        "ours, random": (OURS, [ByShare(step) for step in steps]),
        "ours, oracle": (OURS, [ByShare(step, oracle=True) for step in steps]),
        "ours, static": (OURS, [*map(Static, steps)]),
        "narrow": ("narrow", [Routed()]),
    }
    for method in (*SMALL, "tfidf-whole"):
        found[method] = (method, [Static()])
        found[f"{method} → full"] = (method, [Cascade()])
    found["dynabert"] = ("dynabert", [Static(0), Static(1)])
    found["dynabert → full"] = ("dynabert", [Cascade(0), Cascade(1)])
    for name, (method, signal) in EXITS.items():
        found[name] = (method, [Exits(signal)])
    return found


@dataclass
class PairScores:
    """A set and a seed: every way's curve on the rows of that set.

    Attributes:
        name: The set.
        seed: The seed, as its folder is called.
        study: Knows where answers are.
    """

    name: str
    seed: str
    study: Study

    def file(self, method: str) -> Path:
        """Where a method's answers are, or will be."""
        return self.study.answers_of(self.name, self.seed, method)

    @cached_property
    def parts(self) -> dict[str, NDArray[np.int64]]:
        """True classes of held-out and test rows."""
        rows = load(self.name)
        return {"held_out": rows.held_out.labels, "test": rows.test.labels}

    @cached_property
    def reference(self) -> dict[str, answers.Answers]:
        """The reference's answers."""
        return answers.read(self.file("reference"))[0]

    def views(self, method: str, *, by_probability: bool = False) -> tuple[View, View]:
        """A method's answers to held-out rows, judged as settings are chosen, and to test rows."""
        found = answers.read(self.file(method))[0]
        held, test = (View(found[part], self.reference[part], self.parts[part]) for part in ("held_out", "test"))
        return replace(held, by_probability=by_probability), test

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Every way whose answers are there."""
        names = [name for name, (method, _) in ways().items() if self.file(method).exists()]
        soft = self.study.ours_by_probability
        return {name: self._curve(name, by_probability=soft and not is_peer(name)) for name in names}

    @cached_property
    def peers_by_probability(self) -> dict[str, Curve]:
        """The curves of what a user could run instead, chosen as ours are."""
        return {name: self._curve(name, by_probability=True) for name in self.curves if is_peer(name)}

    def _curve(self, name: str, *, by_probability: bool) -> Curve:
        method, families = ways()[name]
        return self.curve_of_families(families, *self.views(method, by_probability=by_probability))

    @staticmethod
    def curve_of_families(families: list[Family], held: View, test: View) -> Curve:
        """Lay the settings of some families out, and the reference's."""
        curve = reference_curve(held, test)
        for family in families:
            curve = curve_of(family, held, test) + curve
        return curve

    @cached_property
    def right(self) -> NDArray[np.float32]:
        """Which test rows the reference answers right."""
        view = self.views("reference")[1]
        return view.right(view.answers.logits[0]).astype(np.float32)

    def lost(self, way: str, budget: float) -> dict[str, Any] | None:
        """What a way loses at a budget: per test row, with what it spent and which way it was; None if none fits."""
        chosen: str | None = way
        curves = self.peers_by_probability if way == PICK_BY_PROBABILITY else self.curves
        if way in (PICK, PICK_BY_PROBABILITY):
            chosen = pick({name: curve for name, curve in curves.items() if is_peer(name)}, budget)
        if chosen is None or chosen not in curves:
            return None
        curve = curves[chosen]
        mix = at_budget(curve, budget)
        if mix is None:
            return None
        return {"rows": self.right - mix.right(curve), "cost": mix.cost(curve), "way": chosen}


def is_peer(name: str) -> bool:
    """Tell what a user could run instead from what is ours or reads another text."""
    return name not in (OURS, *OWN) and not name.startswith("tfidf-whole")


@dataclass(frozen=True, eq=False)
class Lost:
    """What a way loses on a set.

    Attributes:
        rows: Per seed and row, −1 to 1, ``[seeds, rows]``.
        seeds: Places of the seeds among the set's pairs.
        cost: What it spent on test rows, as a share of the reference's.
        ways: Which way it was for each seed, where held-out rows pick.
    """

    rows: NDArray[np.float64]
    seeds: list[int]
    cost: float
    ways: list[str]

    def of(self, seeds: list[int]) -> NDArray[np.float64]:
        """The rows of some of the seeds."""
        return self.rows[[self.seeds.index(seed) for seed in seeds]]


@dataclass
class Scores:
    """Every pair of a study that is complete: a peer that has not run yet can't be picked."""

    pairs: dict[str, list[PairScores]]

    @classmethod
    def of(
        cls, study: Study, sets: list[str], methods: Iterable[str], scores: type[PairScores] = PairScores
    ) -> Scores:
        """Find the pairs that have the answers of all methods."""
        pairs = {}
        for name in sets:
            places = [place for folder in study.folders for place in (folder / name).glob("[0-9]*")]
            found = [scores(name, seed, study) for seed in sorted({place.name for place in places}, key=int)]
            pairs[name] = [pair for pair in found if all(pair.file(method).exists() for method in methods)]
        return cls({name: found for name, found in pairs.items() if found})

    @cached_property
    def weights(self) -> dict[str, NDArray[np.float32]]:
        """Rows drawn anew for each set, the same for every method and seed."""
        return {
            name: draws(len(pairs[0].right), seed) for seed, (name, pairs) in enumerate(sorted(self.pairs.items()))
        }

    def lost(self, name: str, way: str, budget: float, seeds: list[int] | None = None) -> Lost | None:
        """What a way loses on a set, for the seeds that have it (or for some of them); None if for none."""
        every = {}
        for seed, pair in enumerate(self.pairs[name]):
            if seeds is None or seed in seeds:
                found = pair.lost(way, budget)
                if found is not None:
                    every[seed] = found
        if not every:
            return None
        rows = np.array([each["rows"] for each in every.values()], np.float64)
        cost = float(np.mean([each["cost"] for each in every.values()]))
        return Lost(rows, list(every), cost, [each["way"] for each in every.values()])

    def of_set(self, name: str, way: str, budget: float, other: str | None = None) -> dict[str, Any] | None:
        """One set's entry: points lost by a way, or how many more by another one, with the same seeds for both."""
        lost = self.lost(name, way, budget)
        if lost is None:
            return None
        rows = lost.rows
        if other is not None:
            against = self.lost(name, other, budget, lost.seeds)
            if against is None:
                return None
            rows = against.rows - lost.of(against.seeds)
        interval, _ = set_interval(rows, self.weights[name])
        return {"interval": interval, "cost": lost.cost, "seeds": len(rows), "ways": lost.ways}

    def of_all(self, way: str, budget: float, other: str | None = None) -> dict[str, Any] | None:
        """The mean over the sets; None where a set is missing. A set's gain counts by half a point at most."""
        per_set, costs = [], []
        for name in self.pairs:
            lost = self.lost(name, way, budget)
            against = None if other is None or lost is None else self.lost(name, other, budget, lost.seeds)
            if lost is None or (other is not None and against is None):
                return None
            mine = counted(lost.rows if against is None else lost.of(against.seeds), self.weights[name])
            if against is not None:
                theirs = counted(against.rows, self.weights[name])
                mine = (theirs[0] - mine[0], theirs[1] - mine[1])
            per_set.append(mine)
            costs.append(lost.cost)
        return {"interval": mean_over_sets(per_set), "cost": float(np.mean(costs))}


def matthews(labels: NDArray[np.int64], right: NDArray[Any]) -> float:
    """Correlate answers with the truth where there are two classes; a chance of a right answer counts as a share.

    Args:
        labels: 0 or 1, ``[rows]``.
        right: Chance of a right answer, ``[rows]``.
    """
    positive = labels == 1
    hits, misses = float(right[positive].sum()), float((1 - right[positive]).sum())
    rejections, alarms = float(right[~positive].sum()), float((1 - right[~positive]).sum())
    product = (hits + alarms) * (hits + misses) * (rejections + alarms) * (rejections + misses)
    return 0.0 if product == 0 else float((hits * rejections - alarms * misses) / np.sqrt(product))


def counted(rows: NDArray[np.float64], weights: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Points lost by every seed, and by every draw of rows, as they count in a mean over sets."""
    _, replicates = set_interval(rows, weights)
    seeds = 100 * rows.mean(1)
    short = max(0.0, -MOST_GAINED - float(seeds.mean()))  # what of a gain doesn't count
    return seeds + short, np.maximum(-MOST_GAINED, replicates)
