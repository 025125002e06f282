"""The tables of the guarantee's study, of benchmarks/results/guarantee.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tables import percent, read, table

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = {"max_disagreement": "disagreement", "max_accuracy_drop": "accuracy lost"}


def limits(content: dict[str, Any]) -> str:
    """What is spent under a limit, how often it is broken, and how often nothing but the full network keeps it."""
    lines = []
    for name, of_set in content["sets"].items():
        for entry in of_set["limits"]:
            cells = [name, f"{KINDS[entry['kind']]} {percent(entry['limit'], 0)}%", f"{entry['rows']:,}"]
            for way in ("tested", "untested"):
                cells += [percent(entry[way]["cost"], 0), percent(entry[way]["broken"])]
            lines.append([*cells, percent(entry["none"], 0)])
    heads = ["set", "limit", "rows", "FLOPs, %", "broken, %", "untested: FLOPs, %", "untested: broken, %"]
    return table([*heads, "full network alone, %"], lines)


def ladders(content: dict[str, Any]) -> str:
    """How often a ladder has a rung, what that spends, and how often any of a ladder's rungs breaks its limit."""
    lines, limits = [], []
    for name, of_set in content["sets"].items():
        for entry in of_set.get("ladders", ()):
            limits = [rung["limit"] for rung in entry["rungs"]]
            cells = [name, f"{entry['rows']:,}", percent(entry["broken"])]
            for rung in entry["rungs"]:
                cells += [percent(rung["there"], 0), "-" if rung["cost"] is None else percent(rung["cost"], 0)]
            lines.append(cells)
    heads = [f"{percent(limit, 0)}%: {what}" for limit in limits for what in ("there, %", "FLOPs, %")]
    return table(["set", "rows", "any broken, %", *heads], lines)


def trainings(content: dict[str, Any]) -> str:
    """What a training's own policy costs and loses, what it promises of that, and how often that is broken."""
    lines = []
    for name, of_set in content["sets"].items():
        for entry in of_set["trainings"]:
            lost, differing = entry["max_accuracy_drop"], entry["max_disagreement"]
            cells = [name, f"{entry['rows']:,}", percent(lost["cost"], 0)]
            for each in (lost, differing):
                cells += [percent(each["risk"]), percent(each["bound"]), percent(each["broken"])]
            lines.append(cells)
    heads = ["set", "held-out rows", "FLOPs, %", "points lost", "at most", "broken, %"]
    return table([*heads, "disagreement, %", "at most", "broken, %"], lines)


def drift(content: dict[str, Any]) -> str:
    """How soon inputs of another kind are noticed."""
    lines = []
    for name, of_set in content["sets"].items():
        for entry in of_set["drift"]:
            median = "" if entry["median_inputs"] is None else f"{entry['median_inputs']:,.0f}"
            shares = (percent(entry["changed"], 0), percent(entry["rate"]), percent(entry["alarms"]))
            lines.append([name, *shares, median])
    return table(
        ["set", "inputs of another kind, %", "disagreement, %", "alarms, %", "inputs until then, median"], lines
    )


def _of(make: Callable[[dict[str, Any]], str]) -> Callable[[], str]:
    return lambda: make(read("guarantee.json"))


TABLES: dict[str, Callable[[], str]] = {
    "guarantee-limits": _of(limits),
    "guarantee-ladders": _of(ladders),
    "guarantee-trainings": _of(trainings),
    "guarantee-drift": _of(drift),
}
