"""The tables of the seconds: ours beside the fastest way to run the full network, of results/judge/seconds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tables import RESULTS, machines, percent, table

if TYPE_CHECKING:
    from collections.abc import Callable

OURS = "ours, "
RATES = {"texts_a_second": "many at once", "in_batches_a_second": "batches of 32"}


def every_set() -> list[dict[str, Any]]:
    """Read what is there, sets in order."""
    return [json.loads(file.read_text()) for file in sorted((RESULTS / "judge" / "seconds").glob("*.json"))]


def whole(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The runtimes of the full network that went through all rounds, which are those that lose nothing."""
    most = max(row["rounds"] for row in content["runtimes"].values())
    return {
        name: row
        for name, row in content["runtimes"].items()
        if not name.startswith(OURS) and row["rounds"] == most and row["loses_nothing"]
    }


def best(content: dict[str, Any], key: str) -> tuple[str, float]:
    """The fastest of these: its name and its texts a second, or milliseconds of one text."""
    rows = whole(content)
    choose = max if key in RATES else min
    name = choose(rows, key=lambda each: rows[each][key])
    return name, rows[name][key]


def ours(contents: list[dict[str, Any]]) -> str:
    """How many times as fast ours is as the best way to run the full network, and what it loses."""
    lines = []
    for content in contents:
        for name, row in content["runtimes"].items():
            if not name.startswith(OURS):
                continue
            speeds = [f"{row[key] / best(content, key)[1]:.1f}" for key in RATES]
            alone = [f"{row[key] / best(content, key)[1]:.2f}" for key in ("one_text_ms", "one_text_p99_ms")]
            lost = f"{row['lost']:.1f} ± {1.96 * row['lost_error']:.1f}"
            lines.append([content["set"], name.removeprefix(OURS), percent(row["cost"], 0), lost, *speeds, *alone])
    heads = ["set", "ours", "FLOPs, %", "points lost", *(f"{title}, times as fast" for title in RATES.values())]
    return table([*heads, "one text, mean time", "one text, p99"], lines)


def runtimes(contents: list[dict[str, Any]]) -> str:
    """Every runtime of the full network on every set: texts a second and what it loses."""
    names = dict.fromkeys(name for each in contents for name in each["runtimes"] if not name.startswith(OURS))
    lines = []
    for name in names:
        cells = [name]
        for content in contents:
            row = content["runtimes"].get(name)
            cells.append("-" if row is None else f"{row['texts_a_second']:.0f} ({row['lost']:.1f})")
        lines.append(cells)
    return table(["texts a second (points lost)", *(content["set"] for content in contents)], lines)


def failed(contents: list[dict[str, Any]]) -> str:
    """What could not run."""
    lines = [[each["set"], name, error] for each in contents for name, error in each["failed"].items()]
    return table(["set", "runtime", "error"], lines)


TABLES: dict[str, Callable[[], str]] = {
    "seconds-ours": lambda: ours(every_set()),
    "seconds-runtimes": lambda: runtimes(every_set()),
    "seconds-failed": lambda: failed(every_set()),
    "seconds-machine": lambda: machines(every_set()),
}
