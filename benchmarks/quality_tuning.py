"""Where sharcs+ routes and how narrow it goes, compared on a tenth of train that nothing is trained on.

    python benchmarks/quality_tuning.py run --set cola --router-layer 2 --width 0.25
    python benchmarks/quality_tuning.py all --workers 2 --minutes 60     # resumes: finished runs are skipped

Test rows are not read. Each run starts from quality_study.py's fine-tuned network and writes
benchmarks/results/quality/tuning/SET-LAYER-WIDTH.json.
"""

from __future__ import annotations

import argparse

import torch
import transformers

from common import machine, run_processes, save, study_commands
from peers import ours
from peers.outputs import at_budgets
from quality_study import FOLDER, SETS, Rows, sub_networks

CHOICES = ((1, 0.25), (2, 0.25))
SEED = 0


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    transformers.set_seed(SEED)
    rows = Rows(args.set, SEED)
    model, record = sub_networks(args.set, rows, SEED, args.router_layer, args.width)
    held_out = ours.trial_of(model, rows.dev)
    chosen = at_budgets(ours.policy_curve(held_out, held_out, args.set))
    alone = ours.TwoWidths.of(held_out).summary(args.set, [])
    result = {
        "set": args.set, "router_layer": args.router_layer, "width": args.width, "seed": SEED,
        "held_out_rows": len(rows.dev), "second_phase_cpu_seconds": record["second_phase_cpu_seconds"],
        **{name: alone[name] for name in ("full", "narrow", "narrow_cost")},
        "mean_over_budgets": sum(row["metric"] for row in chosen) / len(chosen), "at_budgets": chosen, **machine(),
    }  # fmt: skip
    save(FOLDER / "tuning" / f"{args.set}-{args.router_layer}-{args.width:g}.json", result)
    print({key: result[key] for key in ("set", "router_layer", "width", "full", "narrow", "mean_over_budgets")})


def everything(args: argparse.Namespace) -> None:
    """Run what is missing until the time is up."""
    commands = [
        (f"tuning-{name}-{layer}-{width:g}",
         [__file__, "run", "--set", name, "--router-layer", str(layer), "--width", str(width)])
        for layer, width in CHOICES for name in SETS  # two runs of one set would both fine-tune its network
        if not (FOLDER / "tuning" / f"{name}-{layer}-{width:g}.json").exists()
    ]  # fmt: skip
    run_processes(commands, workers=args.workers, minutes=args.minutes)


def main() -> None:
    parser, commands = study_commands(__doc__)
    one = commands.choices["run"]
    one.add_argument("--set", required=True, choices=SETS)
    one.add_argument("--router-layer", type=int, required=True)
    one.add_argument("--width", type=float, default=0.25)
    args = parser.parse_args()
    {"run": run, "all": everything}[args.command](args)


if __name__ == "__main__":
    main()
