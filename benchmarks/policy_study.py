"""How a policy is best chosen from few rows: what it loses, and costs, on rows that had no part.

    python benchmarks/policy_study.py     # of the sets and seeds that `run_judge.py run` has answered

Takes the answers of the judge's networks to held-out rows; test rows are not read. Again and again some of the rows
choose a policy, and the others say what it loses and costs. A rule judges policies by how many answers are right, or
by the probability that answers give to the true class, in the mean, which has less chance in it; and there may be a
limit of the full network's right answers that get lost. Chosen is the cheapest policy that is as good as the full
network, with a share of 1 as its budget, or the best within a smaller budget. Writes benchmarks/results/policy.json.
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
from sharcs.calibration.policies import all_policies
from sharcs.calibration.promise import MOST_LOST
from sharcs.config import BLEND
from sharcs.data.named import minilm_path
from sharcs.evaluation.record import record_answers
from sharcs.evaluation.widths import way_coefficients
from sharcs_runtime.policy import RoutingPolicy
from sharcs_runtime.ways import ways_of

if TYPE_CHECKING:
    from pathlib import Path

    from judge.data import Rows
    from sharcs.evaluation.answers import AllAnswers, Routed

CHOOSING = (50, 100, 250)  # rows that choose
RULES = ("right", "label_score")  # as evaluation.answers.Routed has them
LIMITS = (1.0, 0.03, MOST_LOST)  # of what may get lost; all, for none
BUDGETS = (0.05, 0.1, 0.25)
DRAWS = 20


def all_answers(folder: Path, rows: Rows, part: str = "held_out") -> AllAnswers:
    """Read what a pair's networks said about held-out rows, or about test rows."""
    ours, full = (answers.read(folder / f"{method}.npz")[0][part] for method in ("ours", "reference"))
    logits = np.concatenate([ours.logits, full.logits])
    labels = logits.shape[-1]
    pairs = rows.pairs is not None
    model = SharcsForSequenceClassification.from_encoder(
        minilm_path(), front=KINDS, widths=(1.0,), num_labels=labels, pairs=pairs
    )
    # The router has no score of what stands in front, and nothing else to choose from.
    router_logits = np.full((len(rows), len(logits)), -np.inf, np.float32)
    router_logits[:, -1] = 0
    batch = np.arange(len(rows)), logits, router_logits
    names = (*KINDS, "full")
    costs = way_coefficients(model, ways_of(len(names)))
    return record_answers([batch], names, rows.lengths, costs, blend=BLEND, labels=rows.labels)


def chosen_policy(answers: AllAnswers, rule: str, limit: float = 1.0, budget: float = 1.0) -> RoutingPolicy:
    """Choose by a rule: as :func:`sharcs.calibration.promise.cheapest_without_loss` does without a budget.

    Args:
        answers: Of the rows that choose.
        rule: By what policies are judged.
        limit: Share of the rows on which a right answer may get lost.
        budget: Below 1, what a policy may cost, as a share of the full network's FLOPs.
    """
    full = RoutingPolicy(start=answers.names[-1])
    wanted = getattr(answers.route([full])[0], rule).mean()
    found = []
    for each in (answers, answers.unblended()):
        for piece in each.in_pieces(all_policies(each)):
            routed = each.route(piece)
            values = getattr(routed, rule).mean(axis=1), routed.lost.mean(axis=1), routed.cost.mean(axis=1)
            found += list(zip(*values, piece, strict=True))
    most = budget * answers.full_costs.mean()
    if budget < 1:
        within = [(-value, cost, index) for index, (value, _, cost, _) in enumerate(found) if cost <= most]
        return found[min(within)[-1]][-1]
    good = [
        (cost, index)
        for index, (value, lost, cost, _) in enumerate(found)
        if value >= wanted and lost <= limit and cost < most
    ]
    return found[min(good)[-1]][-1] if good else full


def routed_by(answers: AllAnswers, policy: RoutingPolicy) -> Routed:
    """Route by a policy, answers blended or not as it says."""
    return (answers if policy.blend else answers.unblended()).route([policy])[0]


def outcome(others: AllAnswers, policy: RoutingPolicy) -> tuple[float, float]:
    """Say what a policy loses, in points, and its share of the full network's FLOPs."""
    routed = routed_by(others, policy)
    lost = 100 * float(others.full_right.mean() - routed.right.mean())
    return lost, float(routed.cost.mean() / others.full_costs.mean())


def measured(every: AllAnswers) -> list[dict[str, Any]]:
    """Try every rule on every number of rows."""
    found = []
    tried = [{"limit": limit} for limit in LIMITS] + [{"budget": budget} for budget in BUDGETS]
    for count in (each for each in CHOOSING if each <= len(every) // 2):
        draws = [np.sort(np.random.default_rng(seed).permutation(len(every))[:count]) for seed in range(DRAWS)]
        for rule in RULES:
            for setting in tried:
                policies = [chosen_policy(every.take(rows), rule, **setting) for rows in draws]
                others = [every.take(np.setdiff1d(np.arange(len(every)), rows)) for rows in draws]
                lost, cost = zip(*map(outcome, others, policies), strict=True)
                of_draws = {"lost": float(np.mean(lost)), "cost": float(np.mean(cost))}
                of_draws["lost_in_nine_of_ten"] = float(np.quantile(lost, 0.9))
                found.append({"rows": count, "rule": rule, **setting, **of_draws})
                print(found[-1], flush=True)
    return found


def main() -> None:
    study = Study.read()
    content: dict[str, Any] = {"draws": DRAWS, "study": study.name, "pairs": {}, "machine": machine()}
    for file in sorted(study.folder.glob("*/*/ours.npz")):
        name, seed = file.parts[-3:-1]
        print(name, seed, flush=True)
        content["pairs"][f"{name}, seed {seed}"] = measured(all_answers(file.parent, load(name).held_out))
        save(RESULTS / "policy.json", content)


if __name__ == "__main__":
    main()
