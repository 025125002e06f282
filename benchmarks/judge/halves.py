"""What a rule of choice is worth by held-out rows alone: some of them choose, and the others say what that loses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common import save
from judge import answers
from judge.curves import BUDGETS, at_budget
from judge.data import SETS
from judge.families import View
from judge.scoring import OURS, Scores, ways

if TYPE_CHECKING:
    from collections.abc import Callable

    from judge.curves import Curve
    from judge.scoring import PairScores
    from judge.settings import Study

CHOOSING = (100, 250, 450)  # rows that choose; the rest judges
DRAWS = 8
LEAST_JUDGING = 50
NOTHING = "nothing lost"

Rows = NDArray[np.int64]


class OwnProbability(View):
    """Rates an average by its own probabilities, as was done before."""

    def right_of_average(self, averaged: NDArray[np.float32], own: NDArray[np.float32]) -> NDArray[Any]:
        """Look at the average alone."""
        return self.right(averaged)


def _view(kind: type[View], view: View, **more: Any) -> View:
    return kind(view.answers, view.reference, view.labels, **more)


# What rows that choose are seen as; all but the last average probabilities.
RULES: dict[str, Callable[[View], View]] = {
    "by counts": lambda view: _view(View, view),
    "by probability": lambda view: _view(OwnProbability, view, by_probability=True),
    "by probability, averages by counts": lambda view: _view(View, view, by_probability=True),
    "the same, logits added": lambda view: _view(View, view, by_probability=True, average="evidence"),
}


def part(view: View, rows: Rows) -> View:
    """Take some of the rows."""
    mine, reference = (
        answers.Answers(each.logits[:, rows], each.cost[:, rows]) for each in (view.answers, view.reference)
    )
    return replace(view, answers=mine, reference=reference, labels=view.labels[rows])


def without_loss(found: Curve) -> int:
    """Choose the cheapest setting that is as good as the reference, which is the last, on the rows that choose."""
    good = np.flatnonzero(found.held_accuracy >= found.held_accuracy[-1])
    return int(good[np.argmin(found.held_cost[good])])


def outcome(found: Curve) -> dict[str, list[float]]:
    """Say at each budget, and of the choice that is to lose nothing, the points lost and the cost."""
    full = found.right[-1].mean()
    entries = {}
    for budget in BUDGETS:
        mix = at_budget(found, budget)
        assert mix is not None  # the lexical one costs next to nothing
        entries[f"{budget:g}"] = [100 * float(full - mix.right(found).mean()), mix.cost(found)]
    chosen = without_loss(found)
    entries[NOTHING] = [100 * float(full - found.right[chosen].mean()), float(found.cost[chosen])]
    return entries


def drawn(pair: PairScores, rule: str, rows: int, seed: int) -> dict[str, list[float]]:
    """Let some rows choose by a rule, and the others judge."""
    held_out, _ = pair.views(OURS)
    order = np.random.default_rng(seed).permutation(len(held_out.labels))
    chosen_by = RULES[rule](part(held_out, order[:rows]))
    judged_by = replace(part(held_out, order[rows:]), average=chosen_by.average)
    return outcome(pair.curve_of_families(ways()[OURS][1], chosen_by, judged_by))


def of_pair(pair: PairScores) -> list[dict[str, Any]]:
    """Try every rule on every number of rows that choose, again and again."""
    count, found = len(pair.parts["held_out"]), []
    for rows in (each for each in CHOOSING if each + LEAST_JUDGING <= count):
        for rule in RULES:
            draws = [drawn(pair, rule, rows, seed) for seed in range(DRAWS)]
            means = {key: np.mean([draw[key] for draw in draws], axis=0).tolist() for key in draws[0]}
            found.append({"rows": rows, "rule": rule, "lost and cost": means})
            print(rows, rule, {key: round(lost, 2) for key, (lost, _) in means.items()}, flush=True)
    return found


def write(study: Study) -> None:
    """Write ``halves.json`` of a study, a set at a time."""
    content: dict[str, Any] = {"study": study.name, "draws": DRAWS, "pairs": {}}
    for name, pairs in Scores.of(study, list(SETS), (OURS, "reference")).pairs.items():
        for pair in pairs:
            print(name, pair.seed, flush=True)
            content["pairs"][f"{name}, seed {pair.seed}"] = of_pair(pair)
            save(study.folder / "halves.json", content)
