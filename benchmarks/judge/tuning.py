"""How settings were chosen: every one tried is written down, and test rows are not read."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from common import processor_seconds, save
from judge.data import load
from judge.networks import READOUTS
from judge.pair import METHODS, Pair
from judge.reference import part_of, trial
from judge.settings import FOLDER, Study
from judge.training import machine_record

if TYPE_CHECKING:
    from judge.data import Parts

SETS = ("sst2", "sick")  # on which the peers' settings are chosen, for all sets
# Which of them, where one has to do: these take an hour a set.
ON = {"students": ("sst2",), "dynabert": ("sst2",)}
EPOCHS = 4  # of a peer's training meanwhile
# What is tried: a method that stands for those which share the settings, and the values of each.
GRID: dict[str, tuple[str, dict[str, tuple[Any, ...]]]] = {
    "exits": ("exits", {"readout": READOUTS, "rate": (3e-4, 1e-3)}),
    "branches": ("branches", {"readout": READOUTS, "rate": (3e-4, 1e-3)}),
    "joint_exits": ("joint-exits", {"readout": READOUTS, "rate": (5e-5, 1e-4)}),
    "students": ("2-layers", {"readout": READOUTS, "rate": (1e-4, 2e-4)}),
    "tokens": ("gru", {"rate": (1e-3, 2e-3, 5e-3)}),
    "dynabert": ("dynabert", {"rates": ([1e-4, 5e-5], [2e-4, 1e-4])}),
}


class Tuning(Study):
    """A study that has no test rows, and a part of train; held-out rows stand in the place of the former."""

    def parts(self, name: str) -> Parts:
        """Hand out train and held-out rows."""
        rows = part_of(load(name))
        return replace(rows, test=rows.held_out)


class Development(Study):
    """A study in the making: all of train, and held-out rows in the place of test rows, which are not read."""

    def parts(self, name: str) -> Parts:
        """Hand out train and held-out rows."""
        rows = load(name)
        return replace(rows, test=rows.held_out)


def development(name: str, seed: int) -> Pair:
    """Take a set and a seed of the study as it is now, with the reference that its trial has chosen."""
    study = Study.read()
    settings = study.settings | {"reference": {name: chosen_reference(name)}}
    return Pair(Development(study.name, settings), name, seed)


def best_score(record: Any) -> float:
    """Find the best held-out score in a training's record, however deep it lies."""
    if not isinstance(record, dict):
        return float("-inf")
    return max([*record.get("scores", []), *map(best_score, record.values())], default=float("-inf"))


def combinations(values: dict[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """List all combinations of values."""
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def try_reference(name: str) -> None:
    """Try read-outs and rates of a set's reference, unless that was done."""
    file = FOLDER / "tuning" / f"{name}-reference.json"
    if file.exists():
        return
    start = processor_seconds()
    runs = trial(Tuning("tuning", {}).parts(name))
    save(file, {"set": name, "processor_seconds": processor_seconds() - start, "runs": runs, **machine_record()})
    print(name, "reference", chosen_reference(name), flush=True)


def chosen_reference(name: str) -> dict[str, Any]:
    """Read what the trial of a set's reference says is best."""
    runs = json.loads((FOLDER / "tuning" / f"{name}-reference.json").read_text())["runs"]
    best = max(runs, key=best_score)
    return {"readout": best["readout"], "rate": best["rate"]}


def try_peers(name: str, base: dict[str, Any]) -> None:
    """Try the peers' settings on a set, unless that was done; every combination is written as it ends."""
    settings = base | {"reference": {name: chosen_reference(name)}, "made_texts": 1}
    settings["epochs"] = {"reference": base["epochs"]["reference"], "peers": EPOCHS}
    file = FOLDER / "tuning" / f"{name}-peers.json"
    content = json.loads(file.read_text()) if file.exists() else {"set": name, "runs": [], **machine_record()}
    tried = [(run["kind"], run["values"]) for run in content["runs"]]
    for kind, (method, values) in GRID.items():
        for combination in combinations(values) if name in ON.get(kind, SETS) else ():
            if (kind, combination) in tried:
                continue
            pair = Pair(Tuning("tuning", settings | {kind: combination}), name, 0)
            pair.state_name = f"{kind}-{len(content['runs'])}-"
            start = processor_seconds()
            _, record = METHODS[method](pair)
            spent = processor_seconds() - start
            run = {"kind": kind, "values": combination, "score": best_score(record), "processor_seconds": spent}
            content["runs"].append(run)
            save(file, content)
            print(name, run, flush=True)


def chosen_settings(base: dict[str, Any], sets: list[str]) -> dict[str, Any]:
    """Complete the settings by what was best on held-out rows: for peers, by the mean over their two sets."""
    runs = [
        run for name in SETS for run in json.loads((FOLDER / "tuning" / f"{name}-peers.json").read_text())["runs"]
    ]
    chosen = dict(base)
    for kind, (_, values) in GRID.items():
        scores = [
            np.mean([run["score"] for run in runs if (run["kind"], run["values"]) == (kind, combination)])
            for combination in combinations(values)
        ]
        chosen[kind] = combinations(values)[int(np.argmax(scores))]
    chosen["reference"] = {name: chosen_reference(name) for name in sets}
    return chosen
