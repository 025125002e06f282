"""What the router reads and what it learns, and what an answer's sureness is read off: one change at a time.

    python benchmarks/router_study.py                  # all sets whose networks quality_study.py left in the cache

Each router is trained anew on the trained network's hidden states behind layer k, which stay as they are, and takes
the old one's place. Test rows are only reported on: routers learn from training rows, policies and the learned signal
come from a tenth of train. Writes benchmarks/results/quality/router/SET.json after every set, and prints the table.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import tables
from common import machine, save
from peers import ours
from peers.fitting import run_all
from peers.outputs import at_budgets
from quality_study import CACHE, FOLDER, ROUTER_LAYER, SETS, WIDTHS, Rows, sub_networks
from sharcs import SharcsForSequenceClassification
from sharcs.calibration.policies import policy_paths
from sharcs.evaluation.answers import AllAnswers
from sharcs.subnetworks.base import mean_of_real_tokens
from sharcs.tasks.base import router_loss
from sharcs.training.hardness import narrowest_sure

Curve = list[dict[str, float]]

OURS = "as in sharcs+"
EPOCHS, BATCH, RATE = 40, 256, 1e-3
HARD = 1 / 3  # of the rows, by quantile labels


class Part(NamedTuple):
    """What the network says about rows: answers, and layer k's output in one vector an input."""

    logits: Tensor  # [widths, inputs, labels]
    pooled: Tensor  # [3, inputs, hidden]: mean and maximum over real tokens, and the first token
    lengths: Tensor
    labels: Tensor


@torch.no_grad()
def part_of(model: SharcsForSequenceClassification, rows: Any) -> Part:
    def answer(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        hidden, mask = model.run_trunk(**inputs).hidden, inputs["attention_mask"]
        largest = hidden.masked_fill(mask.unsqueeze(-1) == 0, -torch.inf).amax(1)
        logits = model(**inputs, widths="all").width_logits.float()
        return logits, torch.stack([mean_of_real_tokens(hidden, mask), largest, hidden[:, 0]])

    (logits, pooled), lengths = run_all(answer, rows)
    return Part(logits, pooled, lengths, torch.tensor(rows["labels"]))


def with_auxiliary(parts: list[Part]) -> list[Tensor]:
    """Give the mean the answer of a classifier behind layer k, and its entropy, ``[inputs, hidden + labels + 1]``."""
    small = LogisticRegression(max_iter=500).fit(parts[0].pooled[0].numpy(), parts[0].labels.numpy())
    found = []
    for part in parts:
        log = torch.tensor(small.predict_log_proba(part.pooled[0].numpy()), dtype=torch.float32).clamp(min=-20)
        found.append(torch.cat([part.pooled[0], log, -(log.exp() * log).sum(-1, keepdim=True)], dim=-1))
    return found


READS: dict[str, Callable[[list[Part]], list[Tensor]]] = {
    OURS: lambda parts: [part.pooled[0] for part in parts],
    "reads the first token": lambda parts: [part.pooled[2] for part in parts],
    "reads the maximum": lambda parts: [part.pooled[1] for part in parts],
    "reads mean, maximum and first token": lambda parts: [part.pooled.transpose(0, 1).flatten(1) for part in parts],
    "reads the mean and an auxiliary classifier": with_auxiliary,
}


def sure_of_truth(part: Part) -> Tensor:
    return part.logits.softmax(-1).gather(-1, part.labels.expand(len(part.logits), -1).unsqueeze(-1))[..., 0].T


def by_need(needs_full: Tensor) -> Tensor:
    return F.one_hot(needs_full.long(), 2).float()


def hardest(part: Part) -> Tensor:
    """A fixed share of the rows, those of whose truth the narrow network is least sure."""
    sure = sure_of_truth(part)[:, 0]
    return by_need(sure < sure.quantile(HARD))


LEARNS: dict[str, Callable[[Part], Tensor]] = {
    "learns whether more width changes the answer": lambda part: by_need(
        part.logits[0].argmax(-1) != part.logits[-1].argmax(-1)
    ),
    "learns whether only full width is right": lambda part: by_need(
        (part.logits[0].argmax(-1) != part.labels) & (part.logits[-1].argmax(-1) == part.labels)
    ),
    "learns quantile bands": hardest,
}


def routed(reads: list[Tensor], target: Tensor, hidden_size: int) -> list[Tensor]:
    """Train a router of ours' size on training rows; its logits on the other parts."""
    torch.manual_seed(0)
    mean, scale = reads[0].mean(0), reads[0].std(0) + 1e-6
    inputs = [(part - mean) / scale for part in reads]
    router = torch.nn.Sequential(
        torch.nn.Linear(inputs[0].shape[1], hidden_size), torch.nn.ReLU(), torch.nn.Linear(hidden_size, 2)
    )
    optimizer = torch.optim.AdamW(router.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(target)).split(BATCH):
            optimizer.zero_grad()
            router_loss(router(inputs[0][rows]), target[rows]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        return [router(part) for part in inputs[1:]]


def router_alone(dev: AllAnswers, test: AllAnswers, name: str) -> Curve:
    """The curve of the router's own choices, without escalation."""
    points = []
    for path in policy_paths(dev):
        if all(policy.escalation_threshold is None for policy in path):
            for policy in path:
                cost, metric = ours.measured(test.route([policy])[0], name)
                points.append({"cost": cost, "metric": metric})
    return points


def signals(dev: Part, test: Part) -> dict[str, list[Tensor]]:
    """How sure a narrow answer is, on held-out and test rows ``[inputs]``, in place of its probability."""
    found: dict[str, list[Tensor]] = {"escalates by margin": [], "escalates by entropy": []}
    features = []
    for part in (dev, test):
        probability = part.logits[0].softmax(-1)
        top = probability.topk(2).values
        entropy = (probability * probability.clamp(min=1e-30).log()).sum(-1)
        found["escalates by margin"].append(top[:, 0] - top[:, 1])
        found["escalates by entropy"].append(entropy.exp())
        features.append(torch.cat([torch.stack([top[:, 0], top[:, 0] - top[:, 1], entropy], -1), probability], -1))
    needed = (dev.logits[0].argmax(-1) != dev.labels) & (dev.logits[-1].argmax(-1) == dev.labels)
    if needed.any():
        learned = LogisticRegression(max_iter=1000, C=0.1).fit(features[0].numpy(), needed.numpy())
        found["escalates by a model of need, learned on held-out rows"] = [
            torch.tensor(learned.predict_proba(part.numpy())[:, 0], dtype=torch.float32) for part in features
        ]
    return found


def scored_by(answers: AllAnswers, scores: Tensor) -> AllAnswers:
    """Put other scores in the place of the narrow answers' probabilities."""
    probability = answers.way_scores["probability"].copy()
    probability[:, 0] = scores.numpy()
    return replace(answers, way_scores={"probability": probability})


def summary(name: str, policy: Curve, alone: Curve | None, test: AllAnswers) -> dict[str, Any]:
    chosen = at_budgets(policy)
    of_two = ours.TwoWidths.of(test).summary(name, [row["cost"] for row in chosen])
    gain = sum(row["metric"] - bound["random"] for row, bound in zip(chosen, of_two["bounds"], strict=True))
    room = sum(bound["oracle"] - bound["random"] for bound in of_two["bounds"])
    result = {"full": of_two["full"], "policy": statistics.mean(row["metric"] for row in chosen)}
    result |= {"gain_over_random": gain / len(chosen), "room": room / len(chosen)}
    if alone is not None:
        result["router_alone"] = statistics.mean(row["metric"] for row in at_budgets(alone))
    return result


def study(name: str, seed: int) -> dict[str, Any]:
    rows = Rows(name, seed)
    model, _ = sub_networks(name, rows, seed)
    model.train(False)
    parts = [part_of(model, some) for some in (rows.train, rows.dev, rows.test)]
    narrowest = narrowest_sure(sure_of_truth(parts[0]))
    variants = {reads: (of(parts), narrowest) for reads, of in READS.items()}
    variants |= {learns: (READS[OURS](parts), of(parts[0])) for learns, of in LEARNS.items()}
    found: dict[str, Any] = {}
    for variant, (reads, target) in variants.items():
        logits = routed(reads, target, model.config.router_hidden_size)
        dev, test = (
            ours.answers_from(model, part.logits, scores, part.lengths, part.labels)
            for part, scores in zip(parts[1:], logits, strict=True)
        )
        found[variant] = summary(name, ours.policy_curve(dev, test, name), router_alone(dev, test, name), test)
        if variant == OURS:
            for signal, scores in signals(*parts[1:]).items():
                both = [scored_by(part, of) for part, of in zip((dev, test), scores, strict=True)]
                found[signal] = summary(name, ours.policy_curve(*both, name), None, test)
    return {"set": name, "seed": seed, "router_layer": ROUTER_LAYER, "widths": WIDTHS, "variants": found, **machine()}


def table() -> None:
    print("points lost against the full network over budgets 40% to 90%, mean of the sets, seed 0\n")
    print(tables.TABLES["quality-router"]())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for name in SETS:
        file = FOLDER / "router" / f"{name}.json"
        if not file.exists() and (CACHE / f"{name}-sharcs+-{args.seed}").exists():
            save(file, study(name, args.seed))
            print("wrote", file)
    table()


if __name__ == "__main__":
    main()
