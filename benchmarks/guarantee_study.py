"""What a guarantee is worth and what it costs, on what the judge's networks say of test rows.

    python benchmarks/guarantee_study.py --sets sst2 sick     # of what `run_judge.py run` has answered; resumes

The test rows of a set stand for the population: rows are drawn from them with replacement, a policy is chosen by
these as `sharcs calibrate` or the end of a training chooses it, and the truth is the mean over all of them. So it is
known how often a limit that is promised at 95% is broken. Beside it stands the policy that looks cheapest within the
limit on the rows at hand. How long the monitor takes is simulated: a share of the inputs is of another kind, of which
30% are answered otherwise than by the full network. Writes benchmarks/results/guarantee.json.
"""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common import RESULTS, machine, save
from judge.data import SETS, load
from judge.settings import Study
from policy_study import all_answers, routed_by
from sharcs import DriftMonitor
from sharcs.calibration.choice import Constraint, choose
from sharcs.calibration.ladder import calibrate_ladder
from sharcs.calibration.policies import all_policies
from sharcs.calibration.promise import choose_default
from sharcs.config import RoutingPolicy
from sharcs_runtime.drift import log_evidence

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharcs.evaluation.answers import AllAnswers

ROWS = (500, 2000)
LIMITS = (("max_disagreement", 0.02), ("max_disagreement", 0.05), ("max_accuracy_drop", 0.01))
LADDER = (0.02, 0.05, 0.10)
CONFIDENCE = 0.95
DRAWS = 400
LADDER_DRAWS = 100  # of three calibrations each
UNTESTED = 10  # in one of so many draws: it tries every policy on every row
CHANGED, OTHER_RATE = (0.0, 0.1, 0.3, 1.0), 0.3
STREAMS, LONGEST_STREAM, CHECK_SHARE = 500, 200_000, 0.05
FILE = RESULTS / "guarantee.json"

Doubles = NDArray[np.float64]


def drawn(population: AllAnswers, rows: int, seed: int) -> AllAnswers:
    """Draw rows with replacement."""
    draw = np.random.default_rng([rows, seed])
    return population.take(draw.integers(0, len(population), rows))


def truths(population: AllAnswers, policies: list[RoutingPolicy]) -> dict[str, Doubles]:
    """What policies do on the population: cost over the full network's, disagreement, and accuracy lost."""
    found: dict[RoutingPolicy, tuple[float, float, float]] = {}
    for policy in dict.fromkeys(policies):
        routed = routed_by(population, policy)
        lost = float(population.full_right.mean() - routed.right.mean())
        cost = float(routed.cost.mean() / population.full_costs.mean())
        found[policy] = cost, float(routed.disagrees.mean()), lost
    columns = np.array([found[policy] for policy in policies])
    return dict(zip(("cost", "max_disagreement", "max_accuracy_drop"), columns.T, strict=True))


def untested(answers: AllAnswers, kind: str, limit: float) -> RoutingPolicy:
    """Take the cheapest policy that keeps the limit on the rows at hand, as one would without a test."""
    policies = all_policies(answers)
    routed = answers.route(policies)
    drop = routed.lost.mean(1) - routed.gained.mean(1)
    risk = drop if kind == "max_accuracy_drop" else routed.disagrees.mean(1)
    return policies[int(np.where(risk <= limit, routed.cost.mean(1), np.inf).argmin())]


def described(truth: dict[str, Doubles], broken: NDArray[np.bool_], kind: str) -> dict[str, float]:
    """Sum draws up."""
    return {
        "draws": len(broken),
        "broken": float(broken.mean()),
        "cost": float(truth["cost"].mean()),
        "risk": float(truth[kind].mean()),
    }


def of_limit(population: AllAnswers, kind: str, limit: float, rows: int, classes: int) -> dict[str, Any]:
    """Calibrate for a limit on many draws; and choose without a test on some."""
    of = population.unblended() if kind == "max_disagreement" else population  # as `sharcs calibrate` does
    full = RoutingPolicy(start=of.names[-1])
    constraint = Constraint(kind, limit, CONFIDENCE)
    tested = [choose(drawn(of, rows, seed), constraint, classes, seed).policy or full for seed in range(DRAWS)]
    plain = [untested(drawn(of, rows, seed), kind, limit) for seed in range(0, DRAWS, UNTESTED)]
    found: dict[str, Any] = {
        "limit": limit,
        "kind": kind,
        "rows": rows,
        "none": sum(p == full for p in tested) / DRAWS,
    }
    for name, policies in (("tested", tested), ("untested", plain)):
        truth = truths(population, policies)
        found[name] = described(truth, truth[kind] > limit + 1e-12, kind)
    return found


def of_ladder(population: AllAnswers, rows: int, classes: int) -> dict[str, Any]:
    """Calibrate ladders on many draws, and see how often any rung of one breaks its limit."""
    of = population.unblended()
    ladders = [
        calibrate_ladder(drawn(of, rows, seed), LADDER, classes, CONFIDENCE, seed) for seed in range(LADDER_DRAWS)
    ]
    kept = [(seed, rung) for seed, rungs in enumerate(ladders) for rung in rungs if rung.met]
    truth = truths(population, [rung.policy for _, rung in kept])
    limits = np.array([rung.constraint.limit for _, rung in kept])
    over = truth["max_disagreement"] > limits + 1e-12
    found: list[dict[str, float | None]] = []
    for limit in LADDER:
        cost = truth["cost"][limits == limit]
        found.append(
            {
                "limit": limit,
                "there": len(cost) / LADDER_DRAWS,
                "cost": float(cost.mean()) if len(cost) else None,
                "broken": float(over[limits == limit].sum()) / LADDER_DRAWS,
            }
        )
    broken = len({seed for (seed, _), is_over in zip(kept, over, strict=True) if is_over}) / LADDER_DRAWS
    return {"rows": rows, "draws": LADDER_DRAWS, "broken": broken, "rungs": found}


def of_training(population: AllAnswers, rows: int) -> dict[str, Any]:
    """Let trainings end with a policy, and see how often more is lost or differs than they promise."""
    promises = [choose_default(drawn(population, rows, seed), seed) for seed in range(DRAWS)]
    kept = [promise for promise in promises if promise is not None]
    truth = truths(population, [RoutingPolicy.from_dict(promise.policy) for promise in kept])
    found: dict[str, Any] = {"rows": rows}
    for kind, field in (("max_accuracy_drop", "loss_bound"), ("max_disagreement", "disagreement_bound")):
        bounds = np.array([getattr(promise, field) for promise in kept])
        found[kind] = described(truth, truth[kind] > bounds + 1e-12, kind) | {"bound": float(bounds.mean())}
    return found


def detection(population: AllAnswers, rows: int, classes: int) -> list[dict[str, Any]]:
    """Inputs until the alarm, of which a share is checked, as more and more of them are of another kind."""
    of = population.unblended()
    policy = choose(drawn(of, rows, 0), Constraint("max_disagreement", 0.05, CONFIDENCE), classes, 0).policy
    if policy is None:
        return []
    promise = DriftMonitor(0.05, CONFIDENCE, CHECK_SHARE).max_disagreement
    own = float(of.route([policy])[0].disagrees.mean())
    draw, found = np.random.default_rng(0), []
    for changed in CHANGED:
        rate = (1 - changed) * own + changed * OTHER_RATE
        times = [_until_alarm(draw, rate, promise) for _ in range(STREAMS)]
        alarmed = np.isfinite(times)
        median = float(np.quantile(times, 0.5, method="higher"))
        entry = {"changed": changed, "rate": rate, "alarms": float(alarmed.mean()), "streams": STREAMS}
        found.append(entry | {"median_inputs": median if math.isfinite(median) else None, "inputs": LONGEST_STREAM})
    return found


def _until_alarm(draw: np.random.Generator, rate: float, promise: float) -> float:
    """Draw a stream: inputs until the evidence says that the promise is broken; infinity if it never does."""
    checked = np.flatnonzero(draw.random(int(LONGEST_STREAM * CHECK_SHARE)) < rate) + 1
    for disagreements, count in enumerate(checked.tolist(), start=1):
        if log_evidence(disagreements, count, promise, promise) >= -math.log(1 - CONFIDENCE):
            return float(count / CHECK_SHARE)
    return math.inf


def of_set(study: Study, name: str, known: dict[str, Any]) -> dict[str, Any]:
    """Work out what is missing of a set's entry."""
    population = all_answers(study.folder / name / "0", load(name).test, "test")
    classes = population.classes
    assert classes is not None  # one label a text
    parts: dict[str, Callable[[], Any]] = {
        "rows": lambda: len(population),
        "limits": lambda: [of_limit(population, *limit, rows, classes) for limit in LIMITS for rows in ROWS],
        "ladders": lambda: [of_ladder(population, rows, classes) for rows in ROWS],
        "trainings": lambda: [of_training(population, rows) for rows in ROWS],
        "drift": lambda: detection(population, max(ROWS), classes),
    }
    return {part: known[part] if part in known else work() for part, work in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    options = parser.parse_args()
    study = Study.read()
    study.freeze()
    content: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {"sets": {}}
    for name in options.sets:
        has_answers = all((study.folder / name / "0" / f"{each}.npz").exists() for each in ("ours", "reference"))
        if not has_answers:
            print(f"{name}: has no answers yet; python benchmarks/run_judge.py run --sets {name}", flush=True)
        else:
            content["sets"][name] = of_set(study, name, content["sets"].get(name, {}))
            save(FILE, content | {"study": study.name, "draws": DRAWS, "confidence": CONFIDENCE, **machine()})
            print(name, "done", flush=True)


if __name__ == "__main__":
    main()
