"""The tables of other architectures and of compressed encoders, of benchmarks/results/architectures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tables import RESULTS, machines, percent, table

if TYPE_CHECKING:
    from collections.abc import Callable

BUDGETS = ("0.05", "0.1", "0.25", "0.5")
NOTHING = "nothing lost"


def every_run() -> list[dict[str, Any]]:
    """Read what is there."""
    return [json.loads(file.read_text()) for file in sorted((RESULTS / "architectures").glob("*.json"))]


def lost(entry: dict[str, float]) -> str:
    """Show points lost with their interval."""
    return f"{entry['lost']:.1f} ± {1.96 * entry['error']:.1f}"


def encoders(runs: list[dict[str, Any]]) -> str:
    """What each encoder loses against its own full network within budgets, and what chance loses at the same cost."""
    of_minilm = {run["set"]: run["flops"] for run in runs if run["encoder"] == "minilm"}
    lines = []
    for run in sorted(runs, key=lambda each: (each["set"], each["encoder"] != "minilm", each["encoder"])):
        size = percent(run["flops"] / of_minilm[run["set"]], 0) if run["set"] in of_minilm else ""
        cells = [run["set"], run["encoder"], size, percent(run["full"])]
        for budget in BUDGETS:
            entry = run[budget]
            cells.append(f"{lost(entry)} ({entry['lost_by_chance']:.1f})")
        nothing = run[NOTHING]
        lines.append([*cells, f"{lost(nothing)} at {percent(nothing['cost'], 0)}%"])
    heads = ["set", "encoder", "FLOPs, % of MiniLM", "full, %"]
    heads += [f"lost at {percent(float(budget), 0)}% (by chance)" for budget in BUDGETS]
    return table([*heads, "to lose nothing"], lines)


def measured(show: Callable[[list[dict[str, Any]]], str]) -> Callable[[], str]:
    """Show runs where there are any."""
    return lambda: show(every_run()) if every_run() else "Not measured yet."


TABLES: dict[str, Callable[[], str]] = {
    "architectures": measured(encoders),
    "architectures-machine": measured(machines),
}
