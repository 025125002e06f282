"""What a guarantee is worth and what it costs, on the answers of trained networks to the test rows of four data sets.

    python benchmarks/budget_study.py outputs --cache benchmarks/cache     # one pass of each network, kept as .pt
    python benchmarks/budget_study.py study --resamples 2000               # the tables; resumes

Networks are benchmarks/cache/SET-sharcs+-SEED, which benchmarks/quality_study.py leaves. The test rows are the
population: calibration rows are drawn from them with replacement, so the true risk of a policy is its mean over all
of them. The results are written to benchmarks/results/budget/SET.json as they come; budget_summary.py makes tables
and a picture of them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common import RESULTS, collator, machine, save, test_file, tokenizer
from sharcs import DriftMonitor, SharcsForSequenceClassification
from sharcs.calibration.choice import Constraint, choose
from sharcs.calibration.policies import all_policies
from sharcs.config import BLEND, RoutingPolicy
from sharcs.data.texts import load_texts
from sharcs.data.tokens import tokenise
from sharcs.evaluation.answers import AllAnswers
from sharcs.evaluation.widths import run_all_widths
from sharcs_runtime.drift import log_evidence

SETS = ("sst2", "sick", "agnews", "banking77")
# Whose texts stand for changed traffic.
OTHER = {"sst2": "agnews", "sick": "sst2", "agnews": "sst2", "banking77": "sst2"}
MAX_LENGTH = 64
ROWS = (500, 2000, 10_000)
CONSTRAINTS = (("max_disagreement", 0.02), ("max_accuracy_drop", 0.01), ("budget", 0.5))
PER_CLASS = ("max_disagreement", 0.1)
CONFIDENCE = 0.95
CHANGED = (0.1, 0.3, 1.0)
STREAMS, LONGEST_STREAM, CHECK_SHARE = 1000, 200_000, 0.05
UNCALIBRATED = 20  # in one of so many resamples: it tries every policy on every row
FOLDER = RESULTS / "budget"


def answers_of(model: SharcsForSequenceClassification, name: str, label2id: dict[str, int] | None) -> AllAnswers:
    """Run every width on a set's test rows."""
    data = load_texts(test_file(name))
    rows = tokenise(data, tokenizer(), max_length=MAX_LENGTH, label2id=label2id)
    labels = rows["labels"] if label2id else None
    return run_all_widths(model, rows, collator(), blend=BLEND, labels=labels, max_length=MAX_LENGTH)


def run_networks(cache: Path, names: list[str], seed: int) -> None:
    for name in names:
        source, target = cache / f"{name}-sharcs+-{seed}", cache / f"budget-{name}-{seed}.pt"
        if not source.is_dir() or target.exists():
            print(name, "has no network" if not source.is_dir() else "is done", flush=True)
            continue
        model = SharcsForSequenceClassification.from_pretrained(source)
        label2id = model.config.class_indices
        own, other = answers_of(model, name, label2id), answers_of(model, OTHER[name], None)
        kept = {"own": _plain(own), "other": _plain(other), "classes": len(label2id)}
        torch.save(kept, target)
        print(name, len(own), "rows", flush=True)


def _plain(answers: AllAnswers) -> dict[str, Any]:
    """Take it apart into what is loaded without running code: tensors, numbers, tuples."""
    plain = {name: getattr(answers, name) for name in AllAnswers.__slots__}
    plain["way_scores"] = {signal: torch.from_numpy(scores) for signal, scores in answers.way_scores.items()}
    return {key: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for key, value in plain.items()}


def _from_plain(plain: dict[str, Any]) -> AllAnswers:
    fields = {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in plain.items()}
    fields["way_scores"] = {signal: scores.numpy() for signal, scores in plain["way_scores"].items()}
    return AllAnswers(**fields)


def load(file: Path) -> tuple[AllAnswers, AllAnswers, int]:
    kept = torch.load(file, weights_only=True)
    return _from_plain(kept["own"]), _from_plain(kept["other"]), kept["classes"]


def truths(population: AllAnswers, policies: list[RoutingPolicy], classes: int, constraint: Constraint) -> np.ndarray:
    """True cost and true risk of policies: ``[policies, 2]``."""
    found: dict[RoutingPolicy, tuple[float, float]] = {}
    of = population.labels if constraint.kind == "max_accuracy_drop" else population.full_predictions
    groups = [of == index for index in range(classes)] if constraint.per_class else [np.ones(len(population), bool)]
    for piece in population.in_pieces(list(dict.fromkeys(policies))):
        routed = population.route(piece)
        cost = routed.cost.sum(1) / population.full_costs.sum()
        if constraint.kind == "budget":
            risk = cost
        else:
            each = routed.lost.astype(int) - routed.gained
            each = routed.disagrees if constraint.kind == "max_disagreement" else each
            risk = np.max([each[:, group].mean(1) for group in groups if group.any()], axis=0)
        found |= dict(zip(piece, zip(cost.tolist(), risk.tolist(), strict=True), strict=True))
    return np.array([found[policy] for policy in policies])


def uncalibrated(answers: AllAnswers, kind: str, limit: float) -> RoutingPolicy:
    """Take the policy that looks the best on all rows, as one would without a test."""
    policies = all_policies(answers)
    routed = answers.route(policies)
    cost = routed.cost.sum(1) / answers.full_costs.sum()
    drop = routed.lost.mean(1) - routed.gained.mean(1)
    loss = drop if kind == "max_accuracy_drop" else routed.disagrees.mean(1)
    if kind == "budget":
        return policies[int(np.where(cost <= limit, loss, np.inf).argmin())]
    return policies[int(np.where(loss <= limit, cost, np.inf).argmin())]


def guarantee(
    population: AllAnswers, classes: int, constraint: Constraint, rows: int, resamples: int
) -> dict[str, Any]:
    """Calibrate on many draws of rows, with the guarantee and without, and look the truth up."""
    draw = np.random.default_rng(rows)
    full = RoutingPolicy(start=population.names[-1])
    chosen: dict[str, list[RoutingPolicy]] = {"calibrated": [], "uncalibrated": []}
    for seed in range(resamples):
        answers = population.take(draw.integers(0, len(population), rows))
        chosen["calibrated"].append(choose(answers, constraint, classes, seed).policy or full)
        if not constraint.per_class and seed < resamples / UNCALIBRATED:
            chosen["uncalibrated"].append(uncalibrated(answers, constraint.kind, constraint.limit))
    result: dict[str, Any] = {
        "constraint": constraint.kind, "limit": constraint.limit, "per_class": constraint.per_class, "rows": rows,
        "resamples": resamples, "allowed": 1 - CONFIDENCE, "none": sum(p == full for p in chosen["calibrated"]),
        "sampling_error": math.sqrt((1 - CONFIDENCE) * CONFIDENCE / resamples),
    }  # fmt: skip
    for name, policies in chosen.items():
        if policies:
            truth = truths(population, policies, classes, constraint)
            met = np.array([policy != full for policy in policies])
            violations = float((met & (truth[:, 1] > constraint.limit)).mean())
            near = float((truth[:, 1] > 0.8 * constraint.limit).mean())
            low, high = np.quantile(truth[:, 0], [0.05, 0.95])
            result[name] = {
                "resamples": len(policies), "violations": violations, "near_the_limit": near,
                "cost": float(truth[:, 0].mean()), "cost_5": float(low), "cost_95": float(high),
                "risk": float(truth[:, 1].mean()),
            }  # fmt: skip
    return result


def detection(own: AllAnswers, other: AllAnswers, policy: RoutingPolicy, promise: float) -> list[dict[str, Any]]:
    """Inputs until the alarm, of which a share is checked, when a share of the traffic is another set's texts."""
    rates = [float(part.route([policy]).disagrees.mean()) for part in (own, other)]
    draw = np.random.default_rng(0)
    found = []
    for changed in (0.0, *CHANGED):
        rate = (1 - changed) * rates[0] + changed * rates[1]
        times = []
        for _ in range(STREAMS):
            disagrees = draw.random(int(LONGEST_STREAM * CHECK_SHARE)) < rate
            checked = np.flatnonzero(disagrees) + 1
            evidence = np.vectorize(log_evidence)(np.arange(1, len(checked) + 1), checked, promise, promise)
            alarms = evidence >= -math.log(1 - CONFIDENCE)
            times.append(checked[alarms.argmax()] / CHECK_SHARE if alarms.any() else math.inf)
        alarmed = np.isfinite(times)
        quantiles = [float(np.quantile(times, q, method="higher")) for q in (0.5, 0.9)]
        median, ninety = (value if math.isfinite(value) else None for value in quantiles)
        found.append(
            {"changed": changed, "rate": rate, "alarms": float(alarmed.mean()), "median_inputs": median,
             "inputs_90": ninety, "inputs": LONGEST_STREAM, "check_share": CHECK_SHARE, "streams": STREAMS}
        )  # fmt: skip
    return found


def study(cache: Path, names: list[str], seed: int, resamples: int) -> None:
    for name in names:
        file = cache / f"budget-{name}-{seed}.pt"
        if not file.exists():
            print(name, "has no outputs", flush=True)
            continue
        own, other, classes = load(file)
        unblended = own.unblended()  # as calibrate does for disagreement with the full network
        # One calibration on all rows, as a user would run it.
        target = Constraint("max_disagreement", 0.02, CONFIDENCE)
        best = choose(unblended, target, classes).policy
        cost, risk = truths(unblended, [best or RoutingPolicy(start=own.names[-1])], classes, target)[0]
        result: dict[str, Any] = {
            "set": name, "seed": seed, "population": len(own), "confidence": CONFIDENCE,
            "at_disagreement_0.02": {"met": best is not None, "cost": cost, "disagreement": risk}, **machine(),
            "guarantee": [],
        }  # fmt: skip
        target_file = FOLDER / f"{name}.json"
        before = json.loads(target_file.read_text())["guarantee"] if target_file.exists() else []
        settings = [(kind, limit, False) for kind, limit in CONSTRAINTS] + [(*PER_CLASS, True)]
        for (kind, limit, per_class), rows in itertools.product(settings, ROWS):
            key = {"constraint": kind, "limit": limit, "per_class": per_class, "rows": rows, "resamples": resamples}
            entry = next((known for known in before if known.items() >= key.items()), None)
            if entry is None:
                population = unblended if kind == "max_disagreement" else own
                constraint = Constraint(kind, limit, CONFIDENCE, per_class)
                entry = guarantee(population, classes, constraint, rows, resamples)
                print(name, entry, flush=True)
            result["guarantee"].append(entry)
            if entry not in before:
                save(target_file, result)
        if best is not None:
            monitor = DriftMonitor(target.limit, CONFIDENCE, CHECK_SHARE)
            result["drift"] = detection(unblended, other.unblended(), best, monitor.max_disagreement)
        save(target_file, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("outputs", "study"))
    parser.add_argument("--cache", type=Path, default=Path(__file__).parent / "cache")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resamples", type=int, default=2000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = args.sets.split(",")
    if args.command == "outputs":
        run_networks(args.cache, names, args.seed)
    else:
        study(args.cache, names, args.seed, args.resamples)


if __name__ == "__main__":
    main()
