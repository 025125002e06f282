"""How a training's default policy is best chosen from few rows: what it loses, and costs, on rows that had no part.

    python benchmarks/policy_study.py     # of the sets and seeds that `run_judge.py run` has answered

Takes the answers of the judge's networks to held-out rows; test rows are not read. Again and again some of the rows
choose the cheapest policy that is right as often as the full network, with a limit of how many of its right answers
may get lost, and the others say what that policy loses and costs. Writes benchmarks/results/policy.json.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from common import RESULTS, machine, save
from judge import answers
from judge.data import load
from judge.front import KINDS
from judge.settings import Study
from sharcs import SharcsForSequenceClassification
from sharcs.calibration.promise import cheapest_without_loss
from sharcs.config import BLEND
from sharcs.data.named import minilm_path
from sharcs.evaluation.record import record_answers
from sharcs.evaluation.widths import way_coefficients
from sharcs_runtime.ways import ways_of

if TYPE_CHECKING:
    from pathlib import Path

    from sharcs.evaluation.answers import AllAnswers

CHOOSING = (50, 100, 250)  # rows that choose
LIMITS = (1.0, 0.03, 0.02, 0.015, 0.01)  # of what may get lost; all, for none
DRAWS = 20


def all_answers(folder: Path, name: str) -> AllAnswers:
    """Read what a pair's networks said about held-out rows."""
    rows = load(name).held_out
    ours, full = (answers.read(folder / f"{method}.npz")[0]["held_out"] for method in ("ours", "reference"))
    logits = np.concatenate([ours.logits, full.logits])
    labels = logits.shape[-1]
    pairs = rows.pairs is not None
    model = SharcsForSequenceClassification.from_encoder(
        minilm_path(), front=KINDS, widths=(1.0,), num_labels=labels, pairs=pairs
    )
    batch = np.arange(len(rows)), logits, np.zeros((len(rows), len(logits)), np.float32)
    names = (*KINDS, "full")
    costs = way_coefficients(model, ways_of(len(names)))
    return record_answers([batch], names, rows.lengths, costs, blend=BLEND, labels=rows.labels)


def outcome(every: AllAnswers, chosen: np.ndarray[Any, Any], most_lost: float) -> tuple[float, float]:
    """Choose a policy on some rows: points that it loses on the others, and its share of the full network's FLOPs."""
    policy = cheapest_without_loss(every.take(chosen), most_lost)
    others = every.take(np.setdiff1d(np.arange(len(every)), chosen))
    routed = others.route([policy])[0]
    lost = 100 * float(others.full_right.mean() - routed.right.mean())
    return lost, float(routed.cost.mean() / others.full_costs.mean())


def measured(every: AllAnswers) -> list[dict[str, Any]]:
    """Try every limit on every number of rows."""
    found = []
    for count in (each for each in CHOOSING if each <= len(every) // 2):
        draws = [np.sort(np.random.default_rng(seed).permutation(len(every))[:count]) for seed in range(DRAWS)]
        for limit in LIMITS:
            lost, cost = zip(*(outcome(every, chosen, limit) for chosen in draws), strict=True)
            of_draws = {"lost": float(np.mean(lost)), "cost": float(np.mean(cost))}
            found.append(
                {"rows": count, "limit": limit, **of_draws, "lost_in_nine_of_ten": float(np.quantile(lost, 0.9))}
            )
            print(found[-1], flush=True)
    return found


def main() -> None:
    study = Study.read()
    content: dict[str, Any] = {"draws": DRAWS, "study": study.name, "pairs": {}, "machine": machine()}
    for file in sorted(study.folder.glob("*/*/ours.npz")):
        name, seed = file.parts[-3:-1]
        print(name, seed, flush=True)
        content["pairs"][f"{name}, seed {seed}"] = measured(all_answers(file.parent, name))
        save(RESULTS / "policy.json", content)


if __name__ == "__main__":
    main()
