"""Where sharcs+ routes and how narrow it goes, compared on a tenth of train that nothing is trained on.

    python benchmarks/quality_tuning.py --set cola --router-layer 1 --widths 0.25 0.5     # one run
    python benchmarks/quality_all.py --workers 2 --minutes 150                            # all of them
    python benchmarks/quality_tuning.py --table                                           # sums them up

Test rows are not read. Each run starts from quality_study.py's fine-tuned network and writes
benchmarks/results/quality/tuning/SET-LAYER-WIDTHS-SEED.json. MiniLM has 12 heads, of which 0.17 are two.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import transformers

import tables
from common import machine, save
from peers import ours
from peers.outputs import at_budgets
from quality_study import FOLDER, SETS, Rows, sub_networks

Choice = tuple[int, tuple[float, ...]]
# Router layer and narrow widths.
CHOICES: tuple[Choice, ...] = (
    (1, (0.25,)), (1, (0.17,)), (2, (0.17,)), (2, (0.25,)), (1, (0.5,)), (1, (0.25, 0.5))
)  # fmt: skip


def file_of(name: str, choice: Choice, seed: int) -> Path:
    layer, widths = choice
    return FOLDER / "tuning" / f"{name}-{layer}-{'+'.join(f'{width:g}' for width in widths)}-{seed}.json"


def run(name: str, choice: Choice, seed: int) -> None:
    router_layer, widths = choice
    rows = Rows(name, seed)
    transformers.set_seed(seed)
    model, record = sub_networks(name, rows, seed, router_layer, (*widths, 1.0))
    held_out = ours.answers_of(model, rows.dev)
    chosen = at_budgets(ours.policy_curve(held_out, held_out, name))
    alone = ours.TwoWidths.of(held_out).summary(name, [])
    second = record["second_phase_cpu_seconds"]
    result = {
        "set": name, "router_layer": router_layer, "widths": widths, "seed": seed, "held_out_rows": len(rows.dev),
        "training_ratio": record["train_cpu_seconds"] / (record["train_cpu_seconds"] - second),
        **{key: alone[key] for key in ("full", "narrow", "narrow_cost")},
        "mean_over_budgets": sum(row["metric"] for row in chosen) / len(chosen), "at_budgets": chosen, **machine(),
    }  # fmt: skip
    save(file_of(name, choice, seed), result)
    print({key: result[key] for key in ("set", "router_layer", "widths", "seed", "narrow", "mean_over_budgets")})


def table() -> None:
    """Print what each choice loses against the full network on held-out rows, as the mean over the sets."""
    print(tables.TABLES["quality-tuning"]())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", choices=SETS)
    parser.add_argument("--router-layer", type=int, default=1)
    parser.add_argument("--widths", type=float, nargs="+", default=(0.25,))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.set:
        run(args.set, (args.router_layer, tuple(args.widths)), args.seed)
    if args.table:
        table()


if __name__ == "__main__":
    main()
