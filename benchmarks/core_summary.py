"""Sum up the finished runs of core_study.py: a table, core.json and core.png beside the runs' folder.

    python benchmarks/core_summary.py

Means over the seeds that both methods have; each set's row says which seeds these are.
"""

from __future__ import annotations

import json
from typing import Any

import matplotlib as mpl

import tables
from common import RESULTS, save
from core_study import FOLDER, SEEDS, SETS, memory_path_of, path_of

mpl.use("Agg")
from matplotlib import pyplot as plt


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def row(name: str, runs: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Average the pairs (plain run, paper run) of one data set."""
    reports = [paper["report"] for _, paper in runs]
    return {
        "set": name,
        "seeds": [paper["seed"] for _, paper in runs],
        "plain": mean([plain["accuracy"] for plain, _ in runs]),
        "full": mean([report["full"]["accuracy"] for report in reports]),
        "narrow": mean([report["widths"][0]["accuracy"] for report in reports]),
        "routed": mean([report["routed"]["accuracy"] for report in reports]),
        "flops": mean([report["routed"]["flops_ratio"] for report in reports]),
        "random": mean([report["random"]["accuracy"] for report in reports]),
        "oracle": mean([report["oracle"]["accuracy"] for report in reports]),
        "time": mean([paper["train_cpu_seconds"] / plain["train_cpu_seconds"] for plain, paper in runs]),
        "memory": memory_ratio(name),
    }


def memory_ratio(name: str) -> float | None:
    """Divide the peak of the paper's recipe by that of plain fine-tuning; None before it is measured."""
    if not all(memory_path_of(name, method).exists() for method in ("paper", "plain")):
        return None
    paper, plain = (json.loads(memory_path_of(name, method).read_text()) for method in ("paper", "plain"))
    return float(paper["peak_megabytes"]) / float(plain["peak_megabytes"])


def main() -> None:
    pairs: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {}
    for name in SETS:
        for seed in SEEDS:
            files = [path_of(name, method, seed) for method in ("plain", "paper")]
            if all(file.exists() for file in files):
                plain, paper = (json.loads(file.read_text()) for file in files)
                pairs.setdefault(name, []).append((plain, paper))
    rows = [row(name, runs) for name, runs in pairs.items()]
    print(tables.paper({"rows": rows}))
    keys = ("epochs", "learning_rate", "machine", "processor", "torch", "transformers")
    some = next(iter(pairs.values()))[0][1]
    save(RESULTS / "core.json", {"rows": rows, **{key: some[key] for key in keys}})

    rows_of_panels = -(-len(pairs) // 2)
    size = (4.8 * min(2, len(pairs)), 3.8 * rows_of_panels)
    figure, axes = plt.subplots(rows_of_panels, min(2, len(pairs)), figsize=size, layout="constrained", squeeze=False)
    for panel, (name, runs) in zip(axes.flat, pairs.items(), strict=False):
        for number, (plain, paper) in enumerate(runs):
            report, first = paper["report"], number == 0
            for points, style, label in (
                (report["curve"], "-", "router, by cost weight"),
                (report["widths"], "o--", "one width for all; between them, random routing"),
            ):
                panel.plot(
                    [100 * point["flops_ratio"] for point in points],
                    [100 * point["accuracy"] for point in points],
                    style,
                    color="tab:blue" if style == "-" else "tab:gray",
                    label=label if first else None,
                    alpha=0.8,
                )
            routed = report["routed"]
            panel.plot(
                100 * routed["flops_ratio"], 100 * routed["accuracy"], "D", color="tab:blue",
                label="the paper's policy" if first else None,
            )  # fmt: skip
            panel.axhline(
                100 * plain["accuracy"], color="black", linewidth=0.8, label="plain fine-tuning" if first else None
            )
        panel.set_title(f"{name}, seeds {', '.join(str(paper['seed']) for _, paper in runs)}")
        panel.set_xlabel("FLOPs, % of the full network")
        panel.set_ylabel("accuracy, %")
        panel.grid(alpha=0.3)
    for panel in axes.flat[len(pairs) :]:
        panel.set_visible(False)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize="small")
    figure.savefig(RESULTS / "core.png", dpi=110)
    print(f"wrote {RESULTS / 'core.json'} and core.png; runs are in {FOLDER}")


if __name__ == "__main__":
    main()
