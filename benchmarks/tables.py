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


def machines(runs: Iterable[dict[str, Any]]) -> str:
    """Say in one line where runs were measured."""
    found = dict.fromkeys(
        f"{run['processor']}, {run['machine']}, torch {run['torch']}, transformers {run['transformers']}"
        for run in runs
    )
    return "Measured on: " + "; ".join(found) + "."


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
    "paper": lambda: paper(read("core.json")),
    "serving-agnews": lambda: _serving("agnews"),
    "serving-sst2": lambda: _serving("sst2"),
}
