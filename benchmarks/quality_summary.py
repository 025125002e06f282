"""Sum up the finished runs of quality_study.py: tables, quality.json, and one picture a data set.

    python benchmarks/quality_summary.py

Means over the seeds that a method has on a set. A method's one number is its mean accuracy (Matthews correlation on
cola) over budgets of 40% to 90% of the full network's FLOPs, read off its curve at exactly these costs. Where nothing
of a method is as cheap as a budget, its cheapest stands in, to its advantage; the table says what it spends at 40%.

Methods are compared by what they lose against plain fine-tuning with the same seed on the same machine, since that
differs between seeds and machines by more than methods do; plain fine-tuning is the full width of ours.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl

import tables
from common import RESULTS, save
from quality_study import FOLDER, METHODS, SETS

mpl.use("Agg")
from matplotlib import pyplot as plt

OURS = "sharcs+"
PLAIN = "plain"
SHOWN = (OURS, "dynabert", "branchynet", "shallow-deep", "cascade-tfidf", "first-4-layers", "paper")
LOWEST = -20  # points, in the picture of all sets
COLOURS = {OURS: "tab:red", "paper": "tab:orange", PLAIN: "black"}


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def load(folder: Path = FOLDER) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Runs by set and method."""
    runs: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for name in SETS:
        for method in METHODS:
            for file in sorted(folder.glob(f"{name}-{method}-?.json")):
                runs[name][method].append(json.loads(file.read_text()))
    return runs


def training_ratio(runs: list[dict[str, Any]]) -> float:
    """Processor time of ours over that of plain fine-tuning, which is its first phase."""
    first = [run["train_cpu_seconds"] - run["second_phase_cpu_seconds"] for run in runs]
    return sum(run["train_cpu_seconds"] for run in runs) / sum(first)


def at_budget(run: dict[str, Any], budget: float) -> dict[str, float]:
    return min(run["at_budgets"], key=lambda row: abs(row["budget"] - budget))  # type: ignore[no-any-return]


def row(name: str, method: str, runs: list[dict[str, Any]], plain: dict[int, float]) -> dict[str, Any]:
    """Average one method's runs on one set; losses are against plain fine-tuning with the same seed and machine."""
    result: dict[str, Any] = {"set": name, "method": method, "seeds": [run["seed"] for run in runs]}
    result["mean_over_budgets"] = mean([run["mean_over_budgets"] for run in runs])
    full = [plain_of(run, plain) for run in runs]
    result["mean_loss"] = mean(
        [reference - run["mean_over_budgets"] for reference, run in zip(full, runs, strict=True)]
    )
    for budget in (0.5, 0.75):
        points = [at_budget(run, budget) for run in runs]
        result[f"at_{budget:g}"] = mean([point["metric"] for point in points])
        result[f"cost_at_{budget:g}"] = mean([point["cost"] for point in points])
        against = [reference - point["metric"] for reference, point in zip(full, points, strict=True)]
        result[f"loss_at_{budget:g}"] = mean(against)
    result["cost_at_0.4"] = mean([at_budget(run, 0.4)["cost"] for run in runs])
    if "bounds" in runs[0]:
        if method == OURS:
            result["training_ratio"] = training_ratio(runs)
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


def plain_of(run: dict[str, Any], plain: dict[int, float]) -> float:
    """Look up what plain fine-tuning reaches with a run's seed, on its machine."""
    return float(run["full"] if run["method"] == OURS else run.get("plain", plain[run["seed"]]))


def draw(axes: Any, name: str, methods: dict[str, list[dict[str, Any]]], plain: dict[int, float]) -> None:
    """Draw what each method gains over plain fine-tuning, or loses, with the first of its seeds."""
    palette = plt.get_cmap("tab20")
    axes.axhline(0, color=COLOURS[PLAIN], linewidth=0.9, label="plain fine-tuning")
    for method, runs in methods.items():
        run = runs[0]
        points = sorted(run["curve"], key=lambda point: point["cost"])
        costs = [100 * point["cost"] for point in points]
        metrics = [100 * (point["metric"] - plain_of(run, plain)) for point in points]
        colour = COLOURS.get(method, palette(METHODS.index(method) % 20))
        if method == PLAIN:
            continue
        if len(points) < 5:
            axes.plot(costs, metrics, "o", color=colour, label=method, markersize=5)
        else:
            axes.plot(costs, metrics, color=colour, label=method, linewidth=2.2 if method == OURS else 1.0)
    axes.set_xlim(0, 112)
    axes.set_xlabel("FLOPs, % of the full network")
    axes.set_ylabel("Matthews correlation, points" if name == "cola" else "accuracy, points")
    axes.set_title(f"{name}, seed {run['seed']}")
    axes.grid(alpha=0.3)


def draw_all(runs: dict[str, dict[str, list[dict[str, Any]]]], plain: dict[str, dict[int, float]]) -> None:
    """Draw one picture a set with every method, and one of all sets with the ways that differ most."""
    for name, methods in runs.items():
        figure, axes = plt.subplots(figsize=(7.2, 5.0), layout="constrained")
        draw(axes, name, methods, plain[name])
        axes.legend(fontsize="x-small", ncols=2)
        figure.savefig(FOLDER / f"{name}.png", dpi=110)
        plt.close(figure)
    figure, grid = plt.subplots(2, 4, figsize=(14, 6.4), layout="constrained")
    for axes, (name, methods) in zip(grid.flat, runs.items(), strict=False):
        draw(axes, name, {method: methods[method] for method in SHOWN if methods[method]}, plain[name])
        axes.set(xlim=(0, 105), ylim=(max(LOWEST, axes.get_ylim()[0]), None))
    for axes in grid.flat[len(runs) :]:
        axes.axis("off")
    grid.flat[-1].legend(*grid.flat[0].get_legend_handles_labels(), loc="center", fontsize="large")
    figure.savefig(RESULTS / "quality.png", dpi=90)
    plt.close(figure)


def print_tables(content: dict[str, Any]) -> None:
    """Print the tables, and how ours does in the mean and against all peers at once."""
    by = {(entry["set"], entry["method"]): entry for entry in content["rows"]}
    names = [name for name in SETS if (name, OURS) in by]
    print("Points lost against plain fine-tuning, mean over budgets 40% to 90%\n")
    print(tables.quality_methods(content))
    rivals = [method for method in METHODS if method not in (OURS, PLAIN, "paper") and (names[0], method) in by]
    best = sum(all(by[name, OURS]["mean_loss"] < by[name, rival]["mean_loss"] for rival in rivals) for name in names)
    print(f"\nours loses less than every peer at once in {best} of {len(names)} sets\n\nOurs\n")
    print(tables.quality_ours(content))
    losses = [mean([by[name, OURS][f"loss_at_{budget}"] for name in names]) for budget in ("0.5", "0.75")]
    print(f"\nmean loss at 50% of the FLOPs: {100 * losses[0]:.2f}, at 75%: {100 * losses[1]:.2f}")


def main() -> None:
    rows, plain = [], {}
    runs = load()
    for name, methods in runs.items():
        plain[name] = {run["seed"]: run["curve"][-1]["metric"] for run in methods[PLAIN]}
        for method, some in methods.items():
            if some:
                rows.append(row(name, method, some, plain[name]))
                if method == PLAIN:
                    rows[-1] |= {"mean_over_budgets": None, "full_width": mean(list(plain[name].values()))}
    draw_all(runs, plain)
    print_tables({"rows": rows})
    save(RESULTS / "quality.json", {"rows": rows})
    print(f"\nwrote {RESULTS / 'quality.json'} and a picture a set into {FOLDER}")


if __name__ == "__main__":
    main()
