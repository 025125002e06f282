"""Sum up the finished runs of quality_study.py: tables, quality.json, and one picture a data set.

    python benchmarks/quality_summary.py

Means over the seeds that a method has on a set; the table says how many. A method's one number is its mean accuracy
(Matthews correlation on cola) over budgets of 40% to 90% of the full network's FLOPs, read off its curve at exactly
these costs.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import matplotlib as mpl

from common import RESULTS, heading, save
from quality_study import FOLDER, METHODS, SETS

mpl.use("Agg")
from matplotlib import pyplot as plt

OURS = "sharcs+"
COLOURS = {OURS: "tab:red", "paper": "tab:orange", "plain": "black"}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def load() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Runs by set and method."""
    runs: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for name in SETS:
        for method in METHODS:
            for file in sorted(FOLDER.glob(f"{name}-{method}-?.json")):
                runs[name][method].append(json.loads(file.read_text()))
    return runs


def at_budget(run: dict[str, Any], budget: float) -> dict[str, float]:
    return min(run["at_budgets"], key=lambda row: abs(row["budget"] - budget))  # type: ignore[no-any-return]


def row(name: str, method: str, runs: list[dict[str, Any]], plain: dict[int, float]) -> dict[str, Any]:
    """Average one method's runs on one set; losses are against plain fine-tuning with the same seed."""
    result: dict[str, Any] = {"set": name, "method": method, "seeds": [run["seed"] for run in runs]}
    result["mean_over_budgets"] = mean([run["mean_over_budgets"] for run in runs])
    for budget in (0.5, 0.75):
        points = [at_budget(run, budget) for run in runs]
        result[f"at_{budget:g}"] = mean([point["metric"] for point in points])
        result[f"cost_at_{budget:g}"] = mean([point["cost"] for point in points])
        against = [
            plain[run["seed"]] - point["metric"]
            for run, point in zip(runs, points, strict=True)
            if run["seed"] in plain
        ]
        result[f"loss_at_{budget:g}"] = mean(against) if against else None
    result["train_cpu_seconds"] = mean([run["train_cpu_seconds"] for run in runs])
    if "bounds" in runs[0]:
        result["full_width"] = mean([run["full"] for run in runs])
        result["narrow"] = mean([run["narrow"] for run in runs])
        gains, rooms = [], []
        for run in runs:
            for point, bound in zip(run["at_budgets"], run["bounds"], strict=True):
                gains.append(point["metric"] - bound["random"])
                rooms.append(bound["oracle"] - bound["random"])
        # The share of the way from the random router to the oracle, over all budgets.
        result["random_to_oracle"] = sum(gains) / sum(rooms) if sum(rooms) else None
    return result


def draw(name: str, methods: dict[str, list[dict[str, Any]]]) -> None:
    figure, axes = plt.subplots(figsize=(7.2, 5.0), layout="constrained")
    palette = plt.get_cmap("tab20")
    for number, (method, runs) in enumerate(methods.items()):
        run = runs[0]
        points = sorted(run["curve"], key=lambda point: point["cost"])
        costs, metrics = ([100 * point[key] for point in points] for key in ("cost", "metric"))
        colour = COLOURS.get(method, palette(number % 20))
        if method == "plain":
            axes.axhline(metrics[-1], color=colour, linewidth=0.9, label=method)
        elif len(points) < 5:
            axes.plot(costs, metrics, "o", color=colour, label=method, markersize=5)
        else:
            axes.plot(costs, metrics, color=colour, label=method, linewidth=2.2 if method == OURS else 1.0)
    axes.set_xlim(0, 112)
    axes.set_xlabel("FLOPs, % of the full network")
    axes.set_ylabel("Matthews correlation, %" if name == "cola" else "accuracy, %")
    axes.set_title(f"{name}, seed {runs[0]['seed']}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", ncols=2)
    figure.savefig(RESULTS / "quality" / f"{name}.png", dpi=110)
    plt.close(figure)


def cell(value: Any) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def main() -> None:
    runs = load()
    rows = []
    for name, methods in runs.items():
        plain = {run["seed"]: run["curve"][-1]["metric"] for run in methods.get("plain", [])}
        for method, some in methods.items():
            rows.append(row(name, method, some, plain))
            if method == "plain":
                rows[-1] |= {"mean_over_budgets": None, "full_width": mean(list(plain.values()))}
        draw(name, methods)
    names = list(runs)
    by = {(entry["set"], entry["method"]): entry for entry in rows}
    print("Mean over budgets 40% to 90% (plain: the full network's own)\n")
    heading("method", *names, "mean")
    for method in METHODS:
        found = [by.get((name, method)) for name in names]
        values = [None if e is None else e["full_width" if method == "plain" else "mean_over_budgets"] for e in found]
        whole = mean(values) if values and all(value is not None for value in values) else None
        print(f"| {method} | " + " | ".join(cell(value) for value in [*values, whole]) + " |")
    print("\nOurs\n")
    keys = ("full_width", "narrow", "at_0.5", "loss_at_0.5", "at_0.75", "loss_at_0.75", "random_to_oracle")
    heading("set", "seeds", *keys, "training time / plain")
    for name in names:
        entry, plain_entry = by.get((name, OURS)), by.get((name, "plain"))
        if entry is None or plain_entry is None:
            continue
        ratio = entry["train_cpu_seconds"] / plain_entry["train_cpu_seconds"]
        seeds = ", ".join(str(seed) for seed in entry["seeds"])
        print(f"| {name} | {seeds} | " + " | ".join(cell(entry[key]) for key in keys) + f" | {ratio:.2f} |")
    save(RESULTS / "quality.json", {"rows": rows})
    print(f"\nwrote {RESULTS / 'quality.json'} and a picture a set into {FOLDER}")


if __name__ == "__main__":
    main()
