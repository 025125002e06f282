"""The comparison with everything that a user could run instead, on frozen settings.

    python benchmarks/run_judge.py trial                         # choose the reference's read-out and rate
    python benchmarks/run_judge.py run --sets sst2 --seeds 0     # what is missing of a pair, on this machine
    python benchmarks/run_judge.py run --minutes 100             # all pairs, as far as the time goes
    python benchmarks/run_judge.py tables                        # results/judge/STUDY/tables.md and its picture

Settings stand in benchmarks/judge/settings.json and have to be committed before test rows are read. A method's
answers are written as it ends, to results/judge/STUDY/SET/SEED/METHOD.npz; a training that was interrupted goes on
from benchmarks/cache.
"""

from __future__ import annotations

import argparse
import time

import torch

from common import save
from judge.data import APPENDIX, SETS, load
from judge.pair import METHODS, Pair
from judge.settings import FOLDER, SettingsError, Study

SEEDS = {"sst2": (0, 1, 2), "banking77": (0, 1, 2)}  # the others have seed 0


def pairs(sets: list[str], seeds: list[int] | None) -> list[tuple[str, int]]:
    """List sets with seeds, the first seed of all sets first."""
    every = [(name, seed) for name in sets for seed in (seeds or SEEDS.get(name, (0,)))]
    return sorted(every, key=lambda pair: pair[1])


def trial(options: argparse.Namespace) -> None:
    """Try read-outs and rates for the reference, on train and held-out rows."""
    from judge.reference import trial as tried

    for name in options.sets:
        file = FOLDER / "trials" / f"{name}.json"
        if file.exists():
            continue
        start = time.time()
        runs = tried(load(name))
        save(file, {"set": name, "seconds": time.time() - start, "runs": runs})
        best = max(runs, key=lambda run: max(run["scores"]))
        print(name, {key: best[key] for key in ("readout", "rate")}, max(best["scores"]), flush=True)


def run(options: argparse.Namespace) -> None:
    """Run what is missing, until the time is up; a method that has begun is finished."""
    end = time.time() + 60 * options.minutes
    study = Study.read()
    for name, seed in pairs(options.sets, options.seeds):
        pair = Pair(study, name, seed)
        for method in options.methods:
            if time.time() > end:
                return
            pair.run(method)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("trial", "run", "tables"))
    parser.add_argument("--sets", nargs="+", choices=[*SETS, *APPENDIX], default=[*SETS, *APPENDIX])
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        if options.command == "tables":
            from judge.report import write

            write(Study.read())
        else:
            {"trial": trial, "run": run}[options.command](options)
    except SettingsError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
