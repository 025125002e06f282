"""The Markdown tables of README and docs, from the JSON beside them.

Pure functions from what a summary script wrote to text, so that a number is never copied by hand: the summaries print
them, and tools/docs_tables.py writes them into README and docs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from serving import report

RESULTS = Path(__file__).parent / "results"
SETS = ("sst2", "sick", "banking77", "cola", "agnews", "mrpc", "rte")
OURS, PLAIN, PAPER = "sharcs+", "plain", "paper"
TUNING_SETS = ("sst2", "cola", "mrpc")
CPU_PARTS = ("base-sst2", "base-agnews", "minilm-sst2", "minilm-agnews")


def read(name: str) -> Any:
    """Read a file below ``results``."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return sum(values) / len(values)


def percent(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{100 * value:.{digits}f}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def own_full(content: dict[str, Any]) -> str:
    """Compare ``sharcs+`` with its own full network: a row a set, means over the seeds."""
    rows = []
    for name in dict.fromkeys(run["set"] for run in content["runs"]):
        runs = [run for run in content["runs"] if run["set"] == name]
        lost = [run["full"]["accuracy"] - run["routed"]["accuracy"] for run in runs]
        rows.append(
            [
                name,
                f"{runs[0]['train_rows']:,}",
                str(len(runs)),
                percent(mean(run["full"]["accuracy"] for run in runs)),
                percent(mean(run["widths"][0]["accuracy"] for run in runs)),
                percent(mean(run["widths"][0]["flops_ratio"] for run in runs), 0),
                percent(mean(run["routed"]["accuracy"] for run in runs)),
                percent(mean(run["routed"]["flops_ratio"] for run in runs), 0),
                percent(mean(run["random"]["accuracy"] for run in runs)),
                f"{100 * mean(lost):.1f} ({', '.join(f'{100 * value:.1f}' for value in lost)})",
            ]
        )
    headings = ("set", "training rows", "seeds", "full network", "narrow", "FLOPs, %", "routed", "FLOPs, %")
    return table([*headings, "random router, same FLOPs", "points lost by routing (each seed)"], rows)


def quality_methods(content: dict[str, Any]) -> str:
    """Show what every method loses over the budgets, and in how many sets ours loses less."""
    by = {(entry["set"], entry["method"]): entry for entry in content["rows"]}
    names = [name for name in SETS if (name, OURS) in by]
    methods = dict.fromkeys(entry["method"] for entry in content["rows"])
    complete = [method for method in methods if all((name, method) in by for name in names)]
    rows = []
    for method in sorted(complete, key=lambda method: sum(by[name, method]["mean_loss"] for name in names)):
        entries = [by[name, method] for name in names]
        losses = [entry["mean_loss"] for entry in entries]
        values = [percent(loss) for loss in [*losses, mean(losses)]]
        if method == PLAIN:
            values = [*(f"({percent(entry['full_width'])})" for entry in entries), ""]
        ahead = sum(by[name, OURS]["mean_loss"] < loss for name, loss in zip(names, losses, strict=True))
        seeds = sorted({len(entry["seeds"]) for entry in entries})
        cost = percent(mean(entry["cost_at_0.4"] for entry in entries), 0)
        shown = "" if method in (OURS, PLAIN) else str(ahead)
        rows.append([method, *values, cost, " or ".join(map(str, seeds)), shown])
    return table(["method", *names, "mean", "FLOPs at 40%", "seeds", "sets in which ours loses less"], rows)


def quality_ours(content: dict[str, Any]) -> str:
    """Show accuracies of ours by set, and how far it comes from a random choice to a perfect one."""
    keys = {
        "full_width": "full width",
        "narrow": "narrow",
        "at_0.5": "at 50% of the FLOPs",
        "loss_at_0.5": "lost",
        "at_0.75": "at 75%",
        "loss_at_0.75": "lost",
        "random_to_oracle": "random to oracle, %",
    }
    rows = [
        [
            entry["set"],
            str(len(entry["seeds"])),
            *(percent(entry[key]) for key in keys),
            f"{entry['training_ratio']:.2f}",
        ]
        for entry in content["rows"]
        if entry["method"] == OURS
    ]
    return table(["set", "seeds", *keys.values(), "training time / plain"], rows)


def tuning(content: list[dict[str, Any]]) -> str:
    """Show what other router layers and widths lose on held-out rows, as the mean over the sets."""
    rows = []
    for layer, widths in dict.fromkeys((run["router_layer"], tuple(run["widths"])) for run in content):
        runs = [run for run in content if (run["router_layer"], tuple(run["widths"])) == (layer, widths)]
        rows.append(
            [
                str(layer),
                " and ".join(f"{width:g}" for width in widths),
                str(len(runs)),
                percent(mean(run["narrow_cost"] for run in runs), 0),
                percent(mean(run["full"] - run["mean_over_budgets"] for run in runs), 2),
                percent(mean(run["full"] - run["at_budgets"][2]["metric"] for run in runs), 2),
                f"{mean(run['training_ratio'] for run in runs):.2f}",
            ]
        )
    headings = ("k", "narrow widths", "sets", "FLOPs at least, %", "points lost, mean of 40% to 90%", "at 50%")
    return table([*headings, "training / plain"], rows)


def router(content: list[dict[str, Any]]) -> str:
    """Show what other inputs, targets and signals of the router lose against the full network."""
    rows = []
    for variant in content[0]["variants"]:
        runs = [run["variants"][variant] for run in content if variant in run["variants"]]
        alone = [run["full"] - run["router_alone"] for run in runs if "router_alone" in run]
        share = sum(run["gain_over_random"] for run in runs) / sum(run["room"] for run in runs)
        whole = mean(run["full"] - run["policy"] for run in runs)
        rows.append([variant, percent(whole, 2), percent(mean(alone), 2) if alone else "", percent(share, 0)])
    return table(["variant", "whole policy", "router alone", "random to oracle, %"], rows)


def paper(content: dict[str, Any]) -> str:
    """Compare the paper's recipe with plain fine-tuning, means over the seeds."""
    accuracies = {
        "plain": "plain fine-tuning",
        "full": "ours, width 1.0",
        "narrow": "ours, width 0.25",
        "routed": "routed",
        "flops": "FLOPs, % of full",
        "random": "random router, equal cost",
        "oracle": "oracle router",
    }
    rows = [
        [
            entry["set"],
            ", ".join(map(str, entry["seeds"])),
            *(percent(entry[key]) for key in accuracies),
            *("not yet" if entry[key] is None else f"{entry[key]:.2f}" for key in ("time", "memory")),
        ]
        for entry in content["rows"]
    ]
    ratios = ("training time / plain", "peak memory / plain")
    return table(["set", "seeds", *accuracies.values(), *ratios], rows)


def speed_sizes(content: dict[str, Any]) -> str:
    """Show time over the plain network's, over the engine's own full width, and FLOPs, at every batch size."""
    parts = [part for part in content["parts"] if part["part"] in CPU_PARTS]
    sizes = list(_row(parts[0], "routed")["time_ratio"])
    rows = []
    for part in parts:
        routed, own = _row(part, "routed"), part["time_over_own_full_width"]
        cells = [
            f"**{routed['time_ratio'][size]:.2f}**, {own[size]:.2f} ({routed['flops_ratio_at'][size]:.2f})"
            for size in sizes
        ]
        rows.append([part["part"].replace("-", ", "), *cells])
    return table(["network and texts", *(f"batch of {size}" for size in sizes)], rows)


def speed_claims(content: dict[str, Any]) -> str:
    """Show what the policies chosen on held-out rows save, and lose, beside plain int8 at full width."""
    accuracies = {part["set"]: part for part in content["parts"] if part["part"].startswith("accuracy")}
    trained = [part for part in content["parts"] if part["part"].startswith("trained")]
    rows = []
    for part in trained:
        accuracy, over = accuracies[part["set"]], part["routed_over_full"]
        lost = accuracy["points_lost"]
        plain = _row(part, "full")["texts_per_second"]
        rows.append(
            [
                part["set"],
                f"{accuracy['flops_ratio']['routed']:.2f}",
                percent(accuracy["accuracy"]["full"]),
                f"{lost['routed']:.1f}",
                f"{over['routed']:.2f}",
                f"{part['routed_over_own_full_width']:.2f}",
                f"{over['routed-ort']:.2f}",
                f"{_row(part, 'full-ort-int8')['texts_per_second'] / plain:.2f}",
                f"{lost['full-ort-int8']:.1f}",
                f"{_row(part, 'routed-ort-int8')['texts_per_second'] / plain:.2f}",
                f"{lost['routed-ort-int8']:.1f}",
            ]
        )
    headings = ("set", "FLOPs", "full, %", "routed lost", "speed over plain", "over own full width")
    runtimes = (
        "in ONNX Runtime, over full there",
        "full int8 over plain",
        "full int8 lost",
        "routed int8 over plain",
    )
    return table([*headings, *runtimes, "routed int8 lost"], rows)


def speed_service(content: dict[str, Any]) -> str:
    """Show memory and speed over a million texts."""
    runs = next(part for part in content["parts"] if part["part"] == "million")["runs"]
    rows = [[f"{run['rows']:,}", f"{run['texts_per_second']:,.0f}", f"{run['peak_mb']:.0f}"] for run in runs]
    return table(["texts", "texts a second", "peak memory, MB"], rows)


def machines(runs: Iterable[dict[str, Any]]) -> str:
    """Say in one line where runs were measured."""
    found = dict.fromkeys(
        f"{run['processor']}, {run['machine']}, torch {run['torch']}, transformers {run['transformers']}"
        for run in runs
    )
    return "Measured on: " + "; ".join(found) + "."


def _row(part: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in part["rows"] if row["name"] == name)  # type: ignore[no-any-return]


def _tuning_runs() -> list[dict[str, Any]]:
    folder = RESULTS / "quality" / "tuning"
    runs = [json.loads(file.read_text()) for name in TUNING_SETS for file in sorted(folder.glob(f"{name}-*.json"))]
    return sorted(runs, key=lambda run: (len(run["widths"]), run["router_layer"], -run["widths"][0]))


def _router_runs() -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted((RESULTS / "quality" / "router").glob("*.json"))]


def _own_full() -> str:
    if not (RESULTS / "own_full.json").exists():
        return "Not measured yet: `python benchmarks/own_full.py`."
    content = read("own_full.json")
    precisions = " and ".join(dict.fromkeys(run["training_precision"] for run in content["runs"]))
    return f"{own_full(content)}\n\n{machines(content['runs'])} Trained in {precisions}, measured in float32."


def _serving(name: str) -> str:
    if not (RESULTS / "serving.json").exists():
        return "Not measured yet: `python benchmarks/serve_study.py`."
    return report.serving(read("serving.json"), name)


# What a place in README or docs is named, and what is written there.
def code_size(content: dict[str, Any]) -> str:
    """Compare checkouts of the code: a column each."""
    found = content["checkouts"]

    def row(what: str, tell: Callable[[dict[str, Any]], str]) -> list[str]:
        return [what, *(tell(of) for of in found.values())]

    def longest(what: str) -> Callable[[dict[str, Any]], str]:
        return lambda of: "{1} (`{0}`)".format(*of["src"][what])

    def count(what: str) -> Callable[[dict[str, Any]], str]:
        return lambda of: f"{of['src'][what]:,}"

    rows = [
        row("files of `src`", count("files")),
        row("folders that hold them", count("folders")),
        row("most files in a folder", count("most_files_in_a_folder")),
        row("lines of `src`", count("lines")),
        row("without comments, docstrings, blank ones", count("lines_of_code")),
        *(
            row(
                f"lines of `{package}`",
                lambda of, package=package: f"{of['src']['lines_by_package'].get(package, 0):,}",
            )
            for package in list(found.values())[-1]["src"]["lines_by_package"]
        ),
        row("lines of the longest file", longest("longest_file")),
        row("lines of code of the longest function", longest("longest_function")),
        row(
            "modules that `import sharcs` loads, over those of `PreTrainedModel`",
            lambda of: f"{of['import_modules_ratio']:.2f}",
        ),
        row("seconds of the processor that it takes, over those", lambda of: f"{of['import_seconds_ratio']:.2f}"),
        row("lines of the tests", lambda of: f"{of['test_lines']:,}"),
    ]
    if all(of["test_seconds"] is not None for of in found.values()):
        rows.append(row("seconds of the tests", lambda of: f"{of['test_seconds']:.0f}"))
    return table(["", *found], rows)


TABLES = {
    "code-size": lambda: code_size(read("code_size.json")),
    "own-full": _own_full,
    "quality-methods": lambda: quality_methods(read("quality.json")),
    "quality-ours": lambda: quality_ours(read("quality.json")),
    "quality-tuning": lambda: tuning(_tuning_runs()),
    "quality-router": lambda: router(_router_runs()),
    "paper": lambda: paper(read("core.json")),
    "speed-sizes": lambda: speed_sizes(read("speed.json")),
    "speed-claims": lambda: speed_claims(read("speed.json")),
    "speed-service": lambda: speed_service(read("speed.json")),
    "serving-sst2": lambda: _serving("sst2"),
    "serving-agnews": lambda: _serving("agnews"),
    "speed-machine": lambda: machines(read("speed.json")["parts"]),
}
