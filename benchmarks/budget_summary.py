"""Sum up the finished sets of budget_study.py: budget.json, budget.png, and the README's tables.

python benchmarks/budget_summary.py
"""

from __future__ import annotations

import json
from itertools import groupby
from typing import Any

import matplotlib as mpl

from budget_study import FOLDER, ROWS, SETS
from common import RESULTS, heading, save

mpl.use("Agg")
from matplotlib import pyplot as plt


def share(value: float) -> str:
    return f"{100 * value:.1f}"


def one_calibration(results: list[dict[str, Any]]) -> None:
    """Print what one calibration on all rows gives."""
    heading("set", "rows", "FLOPs, % of full", "disagreement, %")
    for result in results:
        found = result["at_disagreement_0.02"]
        cost = share(found["cost"]) if found["met"] else "none meets it: full network"
        print(f"| {result['set']} | {result['population']} | {cost} | {share(found['disagreement'])} |")


def guarantees(results: list[dict[str, Any]]) -> None:
    """Print what is spent, and in brackets how often the limit is broken, with the guarantee and without."""
    heading("set", "limit", *(f"{way}, {rows:,} rows" for way in ("calibrated", "uncalibrated") for rows in ROWS))
    for result in results:
        for kind, some in groupby(result["guarantee"], key=lambda e: (e["constraint"], e["limit"], e["per_class"])):
            entries = list(some)
            cells = [result["set"], f"{kind[0].replace('_', ' ')} {kind[1]:g}{', each class' * kind[2]}"]
            for way in ("calibrated", "uncalibrated"):
                found = [entry.get(way) for entry in entries]
                cells += ["" if e is None else f"{share(e['cost'])} ({share(e['violations'])})" for e in found]
            print(f"| {' | '.join(cells)} |")


def drifts(results: list[dict[str, Any]]) -> None:
    """Print how soon changed traffic raises the alarm."""
    heading("set", "changed, %", "disagreement, %", "alarms, %", "inputs until then, median", "90%")
    for result in results:
        for entry in result.get("drift", []):
            times = ["" if entry[key] is None else f"{entry[key]:,.0f}" for key in ("median_inputs", "inputs_90")]
            cells = [result["set"], f"{100 * entry['changed']:.0f}", share(entry["rate"]), share(entry["alarms"])]
            print(f"| {' | '.join([*cells, *times])} |")


def draw(results: list[dict[str, Any]]) -> None:
    """Cost with the guarantee and without by rows, one panel a set."""
    figure, panels = plt.subplots(
        1, len(results), figsize=(3.4 * len(results), 3.2), layout="constrained", squeeze=False
    )
    for axes, result in zip(panels[0], results, strict=True):
        entries = [e for e in result["guarantee"] if e["constraint"] == "max_disagreement" and not e["per_class"]]
        for choice, colour in (("calibrated", "tab:blue"), ("uncalibrated", "tab:orange")):
            costs = [100 * entry[choice]["cost"] for entry in entries]
            axes.plot([entry["rows"] for entry in entries], costs, "o-", color=colour, label=choice)
            for entry, cost in zip(entries, costs, strict=True):
                text = f"{100 * entry[choice]['violations']:.1f}%"
                axes.annotate(
                    text, (entry["rows"], cost), textcoords="offset points", xytext=(4, 5), fontsize="small"
                )
        axes.set_xscale("log")
        axes.margins(0.2, 0.12)
        axes.set_title(f"{result['set']}: limit 0.02")
        axes.set_xlabel("calibration rows")
        axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel("FLOPs, % of full; beside: limit broken")
    panels[0, 0].legend(fontsize="small")
    figure.savefig(RESULTS / "budget.png", dpi=150)


def main() -> None:
    files = [FOLDER / f"{name}.json" for name in SETS]
    results = [json.loads(file.read_text()) for file in files if file.exists()]
    for table in (one_calibration, guarantees, drifts):
        table(results)
        print()
    draw(results)
    save(RESULTS / "budget.json", {"sets": results})
    print(f"wrote {RESULTS / 'budget.json'} and .png")


if __name__ == "__main__":
    main()
