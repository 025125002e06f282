"""Does routing carry over: the same weights in other architectures, and encoders that are compressed already.

    python benchmarks/architecture_study.py --encoders roberta 3-layers     # one after the other; resumes
    python benchmarks/architecture_study.py --minutes 60                    # all, until the time is up

Each encoder is trained as `Classifier` does it, on 2,000 train rows of the judge's set; its held-out rows choose. It
is compared with its own full network on the test rows: policies within budgets, what chance would give at the same
cost, and the policy that is to lose nothing. Budgets are shares of the encoder's own full network, a compressed one's
too. Ports are MiniLM written as another architecture (ports.py). Compressed: the first 3 layers; of each layer the 8
heads and 1,024 neurons that matter most to the judge's reference; int8 by ONNX Runtime. Writes a file a run into
benchmarks/results/architectures.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoModel

import pruned
from common import RESULTS, machine, processor_seconds, save, tokenizer
from judge.data import load
from judge.dynabert import DynaBert
from judge.pair import Pair
from judge.routed import texts_of
from judge.settings import Study
from policy_study import chosen_policy, routed_by
from ports import ARCHITECTURES, port
from sharcs import Classifier
from sharcs.calibration.promise import MOST_LOST
from sharcs.config import BLEND
from sharcs.data.named import minilm_path
from sharcs.export.bundle import export_model
from sharcs.inference.exported import open_network
from sharcs.jobs.answers import all_answers
from sharcs.jobs.given import text_data

if TYPE_CHECKING:
    from sharcs.evaluation.answers import AllAnswers

ENCODERS = ("minilm", *ARCHITECTURES, "3-layers", "8-heads", "int8")
SETS = ("sick", "sst2")
TRAIN_ROWS = 2000
BUDGETS = (0.05, 0.1, 0.25, 0.5)
HEADS, NEURONS = 8, 1024  # of 12 and 1,536
FOLDER = RESULTS / "architectures"


def encoder_folder(encoder: str, name: str, folder: Path) -> str:
    """Write the encoder that is trained."""
    if encoder in ARCHITECTURES:
        return str(port(encoder, folder))
    if encoder == "3-layers":
        AutoModel.from_pretrained(minilm_path(), num_hidden_layers=3).save_pretrained(folder)
    elif encoder == "8-heads":
        pair = Pair(Study.read(), name, 0)
        ordered = DynaBert(pair.reference, pair.parts, 0).network.model
        pruned.first_units(ordered, HEADS, NEURONS).save_pretrained(folder)
    else:
        return minilm_path()
    tokenizer().save_pretrained(folder)
    return str(folder)


def by_chance(choosing: AllAnswers, test: AllAnswers, cost: float) -> float:
    """Accuracy on test rows of the best mix of two sub-networks, drawn for each input, at a mean cost.

    Args:
        choosing: Answers to the rows that say which mix is the best.
        test: Answers to test rows.
        cost: As a share of the full network's.
    """
    costs = test.costs.mean(axis=0) / test.full_costs.mean()
    mine, theirs = (of.way_right[:, : len(costs)].mean(axis=0) for of in (test, choosing))
    best = (-np.inf, 0.0)
    for cheap in np.flatnonzero(costs <= cost):
        best = max(best, (theirs[cheap], mine[cheap]))
        for dear in np.flatnonzero(costs > cost):
            share = (cost - costs[cheap]) / (costs[dear] - costs[cheap])
            rated, found = (of[cheap] + share * (of[dear] - of[cheap]) for of in (theirs, mine))
            best = max(best, (rated, found))
    return float(best[1])


def compared(choosing: AllAnswers, test: AllAnswers) -> dict[str, Any]:
    """Say what policies that one part chooses lose on the other, and what chance loses at the same cost."""
    full = float(test.full_right.mean())
    found: dict[str, Any] = {
        "full": full,
        "names": list(test.names),
        "costs": (test.costs.mean(axis=0) / test.full_costs.mean()).tolist(),
        "accuracies": test.way_right[:, : len(test.names)].mean(axis=0).tolist(),
        "flops": float(test.full_costs.mean()),
        "rows": len(test),
    }
    settings = {f"{budget:g}": {"budget": budget} for budget in BUDGETS} | {"nothing lost": {"limit": MOST_LOST}}
    for name, setting in settings.items():
        policy = chosen_policy(choosing, "label_score", **setting)
        routed = routed_by(test, policy)
        lost = test.full_right.astype(float) - routed.right
        cost = float(routed.cost.mean() / test.full_costs.mean())
        found[name] = {
            "lost": 100 * float(lost.mean()),
            "error": 100 * float(lost.std() / np.sqrt(len(lost))),  # standard error, over rows
            "cost": cost,
            "lost_by_chance": 100 * (full - by_chance(choosing, test, cost)),
        }
    return found


def run(encoder: str, name: str, seed: int) -> dict[str, Any]:
    """Train an encoder on a set, and measure it."""
    parts, start = load(name), processor_seconds()
    drawn = np.random.default_rng(seed).permutation(len(parts.train))[:TRAIN_ROWS]
    train = parts.train.take(np.sort(drawn))
    given = [
        (texts_of(rows), [parts.classes[label] for label in rows.labels])
        for rows in (train, parts.held_out, parts.test)
    ]
    with tempfile.TemporaryDirectory() as folder:
        source = encoder_folder(encoder, name, Path(folder) / "encoder")
        classifier = Classifier(source, seed=seed).fit(*given[0], validation=given[1])
        network: Any = classifier.trained_
        seconds = processor_seconds() - start
        if encoder == "int8":
            export_model(network.model, network.tokenizer, Path(folder) / "int8", int8=True)
            network = open_network(Path(folder) / "int8")
        choosing, test = (all_answers(network, text_data(*part), labelled=True, blend=BLEND) for part in given[1:])
    measured = compared(choosing, test)
    return {"encoder": encoder, "set": name, "seed": seed, "train_cpu_seconds": seconds, **measured, **machine()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1e6)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    end = time.time() + 60 * options.minutes
    for name in options.sets:
        for encoder in options.encoders:
            file = FOLDER / f"{encoder}-{name}-{options.seed}.json"
            if file.exists() or time.time() > end:
                continue
            found = run(encoder, name, options.seed)
            save(file, found)
            print({key: found[key] for key in ("encoder", "set", "full", "0.1", "nothing lost")}, flush=True)


if __name__ == "__main__":
    main()
