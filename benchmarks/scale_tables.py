"""Tables of what scale_study.py measured, and what a billion texts take by these figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tables import RESULTS, read, table

MANY = 1_000_000_000
ONE, TWO, THREADS = "one worker", "two workers", "two threads"


def measured() -> dict[str, dict[str, Any]]:
    """Read all runs by their names."""
    return {
        file.stem: read(f"scale/{file.name}")
        for file in sorted((RESULTS / "scale").glob("*.json"))
        if file.stem != "plan"
    }


def plan(content: dict[str, Any]) -> str:
    """Show what planning takes."""
    row = [
        f"{content['rows']:,}",
        str(content["files"]),
        f"{content['units']:,}",
        f"{content['seconds']:.2f}",
        f"{content['manifest_kib']:.0f}",
        f"{content['memory_after_mib'] - content['memory_before_mib']:.0f}",
    ]
    return table(["rows", "files", "units", "seconds", "plan, KiB", "more memory, MiB"], [row])


def arms(content: dict[str, Any]) -> str:
    """Show each way of a run: whether its bytes are those of the first, its seconds, its memory over time."""
    rows = []
    for arm, of in content["arms"].items():
        memory = [
            f"{of[f'{who}_second_quarter']:.0f}, {of[f'{who}_last_quarter']:.0f}" if of[f"{who}_most"] else ""
            for who in ("front", "worker")
        ]
        same = "yes" if of["same_bytes"] else "NO"
        rows.append([arm, f"{of['rows']:,}", str(of["killed"]), same, f"{of['seconds']:.0f}", *memory])
    headings = ("way", "rows", "killed", "same bytes", "seconds", "front, MiB", "a worker, MiB")
    return table(headings, rows)


def two_against_one(contents: dict[str, dict[str, Any]]) -> str:
    """Show how many times as many texts a second two workers answer, in runs that had the machine alone."""
    rows = []
    for name, content in contents.items():
        found = content["arms"]
        rates = [
            [found[arm]["rows_a_second"] for arm in (of, f"{of} again") if arm in found] for of in (ONE, TWO, THREADS)
        ]
        if content.get("alone") and all(rates):
            one, two, threads = (sum(of) / len(of) for of in rates)
            speeds = [f"{rate:,.0f}" for rate in (one, two, threads)]
            rows.append([name, f"{content['rows']:,}", *speeds, f"{two / one:.2f}", f"{two / threads:.2f}"])
    speeds = [f"{arm}, texts/s" for arm in (ONE, TWO, THREADS)]
    return table(["run", "texts", *speeds, "two workers over one", "over two threads"], rows)


def ray_against_one(content: dict[str, Any]) -> str:
    """Show what Ray takes besides the work: processor seconds of the whole machine, which had nothing else to do."""
    found = content["arms"]
    one, ray = (found[arm]["busy_seconds"] for arm in (ONE, "ray"))
    row = [f"{content['rows']:,}", f"{one:.0f}", f"{ray:.0f}", f"{ray / one:.2f}"]
    return table(["texts", "one worker, processor s", "Ray, processor s", "ratio"], [row])


def billion(contents: dict[str, dict[str, Any]]) -> str:
    """Work out what a billion texts like these take."""
    rows = []
    for name, content in contents.items():
        of = content["arms"].get(ONE)
        if not content.get("alone") or of is None or TWO not in content["arms"]:
            continue  # or a run for another question
        hours = MANY / of["rows_a_second"] / 3600
        rows.append(
            [
                name,
                f"{of['rows_a_second']:,.0f}",
                f"{hours:,.0f}",
                f"{hours / 64:,.1f}",
                f"{of['front_most'] / 1024:.1f}",
                *(f"{of[key] / of['rows'] * MANY / 1e9:,.0f}" for key in ("bytes_in", "bytes_out")),
            ]
        )
    headings = (
        "run",
        "texts/s on a core",
        "core hours",
        "hours on 64 cores",
        "memory a core, GiB",
        "read, GB",
        "written, GB",
    )
    return table(headings, rows)


def processes(sets: dict[str, dict[str, Any]]) -> str:
    """Show what training on two processes gains over one, and how far its weights are from one's."""
    rows = []
    for name, of_set in sets.items():
        of = of_set["processes"]
        apart, tokens = f"{of['2']['largest_difference']:.1e}", f"{of_set['tokens_a_row']:.0f}"
        for run, key in (("the full network", "full_network"), ("its sub-networks", "sub_networks")):
            one, two = (of[count][f"rows_per_second_{key}"] for count in ("1", "2"))
            rows.append([name, tokens, run, f"{one:.1f}", f"{two:.1f}", f"{two / one:.2f}", apart])
    headings = [
        "set",
        "tokens a text",
        "run",
        "one process, rows/s",
        "two processes, rows/s",
        "ratio",
        "largest difference of weights",
    ]
    return table(headings, rows)


def _processes() -> str:
    if not (RESULTS / "processes.json").exists():
        return "Not measured yet: `python benchmarks/processes_study.py`."
    return processes(read("processes.json")["sets"])


def _of_quiet_machine(show: Callable[[dict[str, dict[str, Any]]], str]) -> str:
    contents = measured()
    if any(content.get("alone") for content in contents.values()):
        return show(contents)
    return "Not measured yet: `python benchmarks/scale_study.py run minilm --alone`."


def _run(name: str, show: Callable[[dict[str, Any]], str] = arms) -> str:
    content = measured().get(name)
    return show(content) if content else f"Not measured yet: `python benchmarks/scale_study.py run {name}`."


def many_rows(content: dict[str, Any]) -> str:
    """Show what tables of many rows take to read and to write."""
    titles = {"csv": "CSV", "jsonl": "JSON lines"}
    rows = [
        [
            titles[of["format"]],
            f"{of['rows']:,}",
            *(f"{of[key]:.1f}" for key in ("check_seconds", "write_seconds")),
            f"{of['peak_mib']:.0f}",
            "yes" if of["first_row_that_differs"] is None else "NO",
        ]
        for of in content["tables"]
    ]
    return table(["format", "rows", "check, s", "write, s", "peak memory, MiB", "each value as it was"], rows)


TABLES: dict[str, Callable[[], str]] = {
    "scale-plan": lambda: plan(read("scale/plan.json")),
    "scale-tiny": lambda: _run("tiny"),
    "scale-minilm": lambda: _run("minilm-killed"),
    "scale-ray": lambda: _run("minilm-ray"),
    "scale-ray-alone": lambda: _run("ray-alone", ray_against_one),
    "scale-two": lambda: _of_quiet_machine(two_against_one),
    "scale-processes": _processes,
    "scale-billion": lambda: _of_quiet_machine(billion),
    "many-rows": lambda: many_rows(read("many-rows.json")),
}
