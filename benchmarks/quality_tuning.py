"""Where sharcs+ routes and how narrow it goes, compared on a tenth of train that nothing is trained on.

    python benchmarks/quality_tuning.py --set cola --router-layer 2 --width 0.25 --seed 0     # one run
    python benchmarks/quality_all.py --workers 2 --minutes 150                                # all of them

Test rows are not read. Each run starts from quality_study.py's fine-tuned network and writes
benchmarks/results/quality/tuning/SET-LAYER-WIDTH-SEED.json.
"""

from __future__ import annotations

import argparse

import torch
import transformers

from common import machine, save
from peers import ours
from peers.outputs import at_budgets
from quality_study import FOLDER, SETS, Rows, sub_networks


def run(name: str, router_layer: int, width: float, seed: int) -> None:
    rows = Rows(name, seed)
    transformers.set_seed(seed)
    model, record = sub_networks(name, rows, seed, router_layer, width)
    held_out = ours.trial_of(model, rows.dev)
    chosen = at_budgets(ours.policy_curve(held_out, held_out, name))
    alone = ours.TwoWidths.of(held_out).summary(name, [])
    result = {
        "set": name, "router_layer": router_layer, "width": width, "seed": seed,
        "held_out_rows": len(rows.dev), "second_phase_cpu_seconds": record["second_phase_cpu_seconds"],
        **{key: alone[key] for key in ("full", "narrow", "narrow_cost")},
        "mean_over_budgets": sum(row["metric"] for row in chosen) / len(chosen), "at_budgets": chosen, **machine(),
    }  # fmt: skip
    save(FOLDER / "tuning" / f"{name}-{router_layer}-{width:g}-{seed}.json", result)
    print({key: result[key] for key in ("set", "router_layer", "width", "seed", "narrow", "mean_over_budgets")})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", required=True, choices=SETS)
    parser.add_argument("--router-layer", type=int, required=True)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    run(args.set, args.router_layer, args.width, args.seed)


if __name__ == "__main__":
    main()
