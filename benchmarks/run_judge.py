"""The comparison with everything that a user could run instead, on frozen settings.

    python benchmarks/run_judge.py tune                          # try settings on held-out rows
    python benchmarks/run_judge.py references --sets sst2        # fine-tune them meanwhile, without test rows
    python benchmarks/run_judge.py develop --sets banking77      # ours on held-out rows alone
    python benchmarks/run_judge.py choose                        # write the best ones to settings.json; commit it
    python benchmarks/run_judge.py run --sets sst2 --seeds 0     # what is missing of a pair, on this machine
    python benchmarks/run_judge.py run --minutes 100             # all pairs, as far as the time goes
    python benchmarks/run_judge.py held-out --sets sst2          # what each method reaches on held-out rows alone
    python benchmarks/run_judge.py tables                        # results/judge/STUDY/summary.json and its picture
    python benchmarks/run_judge.py ablations                     # and what each idea of ours is worth: ablations.json
    python benchmarks/run_judge.py halves                        # ways to choose, on held-out rows alone: halves.json

Settings stand in benchmarks/judge/settings.json and have to be committed before test rows are read. A method's
answers are written as it ends, to results/judge/STUDY/SET/SEED/METHOD.npz; a training that was interrupted goes on
from benchmarks/cache. A later study may name an earlier one in its settings as ``peers``: it then takes from that
one what it has not run itself, such as the reference's answers and the peers', on the same kind of machine. Its
file is named with ``--settings``, as in ``--settings frontier.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

import torch

from judge.answers import read
from judge.data import APPENDIX, SETS, load
from judge.networks import accuracy
from judge.pair import METHODS, Pair
from judge.products import by_onednn
from judge.settings import FILE, SettingsError, Study

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEEDS = {"sst2": (0, 1, 2), "banking77": (0, 1, 2)}  # the others have seed 0


def pairs(sets: list[str], seeds: list[int] | None) -> list[tuple[str, int]]:
    """List sets with seeds, the first seed of all sets first."""
    every = [(name, seed) for name in sets for seed in (seeds or SEEDS.get(name, (0,)))]
    return sorted(every, key=lambda pair: pair[1])


def tune(options: argparse.Namespace) -> None:
    """Try settings on train and held-out rows of some sets, as far as the time goes; what was tried is skipped."""
    from judge import tuning

    end = time.time() + 60 * options.minutes
    for name in options.sets:
        if time.time() < end:
            tuning.try_reference(name)
    for name in tuning.SETS:
        if name in options.sets and time.time() < end:
            tuning.try_peers(name, Study.read(options.settings).settings)


def references(options: argparse.Namespace) -> None:
    """Fine-tune what everything starts from; it stays in the cache, and no test row is read."""
    from judge import tuning

    end = time.time() + 60 * options.minutes
    for name, seed in pairs(options.sets, options.seeds):
        if time.time() < end:
            record = tuning.development(name, seed).fine_tuned_reference[1]
            print(name, seed, record["epochs"], max(record["scores"]), round(record["train_seconds"]), flush=True)


def develop(options: argparse.Namespace) -> None:
    """Train ours, and say what each of its networks reaches on held-out rows; no test row is read."""
    from judge import front, tuning
    from judge.networks import answers_of

    for name, seed in pairs(options.sets, options.seeds):
        pair = tuning.development(name, seed)
        pair.state_name = "develop-"
        rows = pair.parts.held_out
        found, _ = METHODS["ours"](pair)
        reference = answers_of(pair.reference, rows)
        for kind, logits, cost in zip(
            (*front.KINDS, "full"),
            (*found["held_out"].logits, *reference.logits),
            (*found["held_out"].cost, *reference.cost),
            strict=True,
        ):
            print(f"{name} {seed} {kind}: {reached(logits, cost / reference.cost[0], rows.labels)}", flush=True)


def choose(options: argparse.Namespace) -> None:
    """Write what was best into the settings."""
    from judge import tuning

    chosen = tuning.chosen_settings(Study.read(options.settings).settings, options.sets)
    FILE.write_text(json.dumps(chosen, indent=1) + "\n")


def tables(options: argparse.Namespace) -> None:
    """Write the summary and its picture."""
    from judge.report import write

    write(Study.read(options.settings))


def ablations(options: argparse.Namespace) -> None:
    """Write what ours reaches without each of its ideas, and with those that were dropped."""
    from judge.ablations import write

    write(Study.read(options.settings))


def halves(options: argparse.Namespace) -> None:
    """Write what rules of choice and averages are worth on held-out rows, some of which choose."""
    from judge.halves import write

    write(Study.read(options.settings))


def held_out(options: argparse.Namespace) -> None:
    """Say what each step of each method that has run reaches on held-out rows; test rows are not looked at."""
    study = Study.read(options.settings)
    for name, seed in pairs(options.sets, options.seeds):
        rows = load(name).held_out
        for file in (study.answers_of(name, seed, method) for method in options.methods):
            if file.exists():
                found, record = read(file)
                steps = zip(found["held_out"].logits, found["held_out"].cost, strict=True)
                full = read(study.answers_of(name, seed, "reference"))[0]["held_out"].cost[0]
                said = "; ".join(reached(logits, cost / full, rows.labels) for logits, cost in steps)
                print(f"{name} {seed} {file.stem}, {record['processor_seconds']:.0f} processor s: {said}", flush=True)


def reached(logits: NDArray[Any], shares: NDArray[Any], labels: NDArray[np.int64]) -> str:
    """Say how many answers are right, and their mean cost as a share of the reference's."""
    return f"{accuracy(logits, labels):.4f} of {len(labels)} at {float(shares.mean()):.4%}"


def run(options: argparse.Namespace) -> None:
    """Run what is missing, until the time is up; a method that has begun is finished."""
    end = time.time() + 60 * options.minutes
    study = Study.read(options.settings)
    for name, seed in pairs(options.sets, options.seeds):
        pair = Pair(study, name, seed)
        for method in options.methods:
            if time.time() > end:
                return
            pair.run(method)


COMMANDS = {
    "tune": tune,
    "references": references,
    "develop": develop,
    "held-out": held_out,
    "choose": choose,
    "run": run,
    "tables": tables,
    "ablations": ablations,
    "halves": halves,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("--sets", nargs="+", choices=[*SETS, *APPENDIX], default=[*SETS, *APPENDIX])
    parser.add_argument("--seeds", nargs="+", type=int)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--settings", type=lambda name: FILE.with_name(name), default=FILE)
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        with by_onednn():
            COMMANDS[options.command](options)
    except SettingsError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
