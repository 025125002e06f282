"""The charts of a report, each with its words and the table of its numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sharcs.report.charts import BarChart, LineChart, bar_chart, curve_chart, reliability_chart

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Cell", "Figure", "figures_of", "percentage", "points", "width_name"]

BARS = 15
KINDS = ("curve", "shares", "agreement", "classes", "groups", "reliability")


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: what is written, and the exact number behind it if it is one."""

    text: str
    value: float | int | None = None


@dataclass(frozen=True, slots=True)
class Figure:
    """A chart with its text alternatives.

    Attributes:
        kind: One of ``KINDS``; names the picture file.
        title: What it shows.
        description: What can be seen in it, in a sentence or two.
        chart: Its geometry.
        columns: Headings of its table.
        rows: Its table; the first cell of a row is the row's heading.
        note: What the table leaves out, or nothing.
        style: Colour of bars.
    """

    kind: str
    title: str
    description: str
    chart: LineChart | BarChart
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""
    style: str = "routed"


def percentage(value: float | None, digits: int = 1) -> str:
    """Write a fraction for people: ``95.1%``, with a real minus, and a dash where there is none."""
    if value is None:
        return "\u2013"
    rounded = round(100 * value, digits) + 0.0  # no negative zero
    return f"{rounded:.{digits}f}%".replace("-", "\u2212")


def points(value: float) -> str:
    """Write a difference of fractions in percentage points, without its sign."""
    text = f"{abs(100 * value):.1f}"
    return f"{text} point{'' if text == '1.0' else 's'}"


def width_name(width: float) -> str:
    """Name a width for people."""
    return "full width" if width == 1.0 else f"width {width:g}"


def figures_of(report: dict[str, Any]) -> dict[str, Figure]:
    """Make the charts.

    Args:
        report: From :func:`sharcs.report.content.build_report`.

    Returns:
        Figures by kind, those that the report has numbers for.
    """
    found = [_curve(report), _shares(report), _agreement(report)]
    found.append(_harm(report, "classes", "class" if report["labelled"] else "class named by the full network",
                       report["harm_by_class"]))  # fmt: skip
    if report["harm_by_group"] is not None:
        found.append(_harm(report, "groups", report["harm_by_group"]["column"], report["harm_by_group"]))
    if report["reliability"] is not None:
        found.append(_reliability(report["reliability"]))
    return {figure.kind: figure for figure in found}


def _number(value: float | None, digits: int = 1) -> Cell:
    return Cell(percentage(value, digits), value)


def _count(value: int) -> Cell:
    return Cell(f"{value:,}", value)


def _curve(report: dict[str, Any]) -> Figure:
    found, measure = report["evaluation"], "Accuracy" if report["labelled"] else "Agreement"
    routed, full, oracle, random = (found[name] for name in ("routed", "full", "oracle", "random"))
    of_full = "" if report["labelled"] else " with the full network"
    description = (
        f"The chosen policy reaches {percentage(routed['accuracy'])} {measure.lower()}{of_full} at "
        f"{percentage(routed['flops_ratio'])} of the full network's computation. "
        f"Random routing at that cost reaches {percentage(random['accuracy'])}, "
        f"the full network {percentage(full['accuracy'])}, and an oracle that always takes the cheapest right width "
        f"{percentage(oracle['accuracy'])} at {percentage(oracle['flops_ratio'])} of the computation."
    )
    rows = [
        ["chosen policy", routed["flops_ratio"], routed["accuracy"]],
        ["full network", 1.0, full["accuracy"]],
        ["random routing at the policy's cost", routed["flops_ratio"], random["accuracy"]],
        ["oracle", oracle["flops_ratio"], oracle["accuracy"]],
        *([f"{width_name(width['width'])} on every input", width["flops_ratio"], width["accuracy"]]
          for width in found["widths"]),
    ]  # fmt: skip
    for point in found["curve"]:
        threshold = point["escalation_threshold"]
        setting = f"cost weight {point['cost_weight']:.4g}" if threshold is None else f"threshold {threshold:.4g}"
        rows.append([f"router, {setting}", point["flops_ratio"], point["accuracy"]])
    return Figure(
        "curve",
        f"{measure} against cost",
        description,
        curve_chart(found, measure, _limit(report)),
        ["", "Cost, % of full", f"{measure}{of_full}"],
        [[Cell(name), _number(cost), _number(value)] for name, cost, value in rows],
    )


def _limit(report: dict[str, Any]) -> dict[str, float] | None:
    """Place the calibration's limit in the curve, if it has a place there."""
    calibration, full = report["calibration"], report["evaluation"]["full"]["accuracy"]
    if calibration is None or not calibration["of_this_policy"] or calibration["per_class"]:
        return None
    if calibration["kind"] == "budget":
        return {"cost": calibration["limit"]}
    if calibration["kind"] == ("max_accuracy_drop" if report["labelled"] else "max_disagreement"):
        return {"value": full - calibration["limit"]}
    return None


def _shares(report: dict[str, Any]) -> Figure:
    found, measure = report["evaluation"]["widths"], "Accuracy" if report["labelled"] else "Agreement"
    description = "; ".join(f"{width_name(one['width'])} answers {percentage(one['share'])}" for one in found)
    return Figure(
        "shares",
        "Share of the inputs that each width answers",
        description[0].upper() + description[1:] + " of the inputs.",
        bar_chart(
            [(width_name(one["width"]), one["share"]) for one in found],
            [percentage(one["share"]) for one in found],
            least=1.0,
        ),
        ["Width", "Share", "Cost of every input here", f"{measure} on every input", f"{measure} where it answers"],
        [
            [
                Cell(width_name(one["width"])),
                *(_number(one[key]) for key in ("share", "flops_ratio", "accuracy", "accuracy_routed")),
            ]
            for one in found
        ],
    )


def _agreement(report: dict[str, Any]) -> Figure:
    found = report["agreement"]
    rows = [("same answer as the full network", found["same"])]
    parts = found["right"]
    if parts is None:
        rows.append(("another answer", found["different"]))
    else:
        rows = [
            ("same answer, right", parts["both"]),
            ("same answer, wrong", parts["neither_same"]),
            ("only routing is right", parts["routed_only"]),
            ("only the full network is right", parts["full_only"]),
            ("different answers, both wrong", parts["neither_different"]),
        ]
    description = f"{percentage(found['same'], 2)} of the answers are the same as the full network's" + (
        "."
        if parts is None
        else f"; where they differ, routing alone is right on {percentage(parts['routed_only'], 2)} of all "
        f"inputs and the full network alone on {percentage(parts['full_only'], 2)}."
    )
    return Figure(
        "agreement",
        "Agreement with the full network",
        description,
        bar_chart(rows, [percentage(value, 2) for _, value in rows], least=1.0),
        ["", "Share of the inputs"],
        [[Cell(name), _number(value, 2)] for name, value in rows],
    )


def _harm(report: dict[str, Any], kind: str, by: str, found: dict[str, Any]) -> Figure:
    entries, labelled = found["entries"], report["labelled"]
    key, what = ("accuracy_drop", "Loss of accuracy") if labelled else ("disagreement", "Disagreement")
    shown: Sequence[dict[str, Any]] = entries[:BARS]
    worst = shown[0]
    sign = "a loss of " if labelled and worst[key] > 0 else "a gain of " if labelled and worst[key] < 0 else ""
    value = percentage(abs(worst[key]))
    description = (
        f"The worst of {found['total']:,}: {_named(worst['value'])}, with {sign}{value} on {worst['rows']:,} inputs."
    )
    if not labelled:
        description = description[:-1] + ", where answers are other than the full network's."
    left_out = found["total"] - len(entries)
    notes = []
    if found["total"] > len(shown):
        notes.append(f"The chart shows the worst {len(shown)} of {found['total']:,}.")
    if left_out:
        notes.append(f"The table leaves out {left_out:,}, which are no worse than its last row.")
    with_labels = [("full_accuracy", "Full network"), ("accuracy", "Routed"), ("accuracy_drop", what)]
    columns = [("disagreement", "Disagreement")] if not labelled else [*with_labels, ("disagreement", "Disagreement")]
    return Figure(
        kind,
        f"{what} by {by}",
        description,
        bar_chart(
            [(_named(one["value"]), one[key]) for one in shown],
            [f"{percentage(one[key])}, {one['rows']:,} inputs" for one in shown],
            least=0.05,
        ),
        [by, "Inputs", *(heading for _, heading in columns)],
        [[Cell(_named(one["value"])), _count(one["rows"]), *(_number(one[name]) for name, _ in columns)]
         for one in entries],
        " ".join(notes),
        style="harm",
    )  # fmt: skip


def _named(value: str) -> str:
    return value if value.strip() else "(empty)"


def _reliability(found: dict[str, Any]) -> Figure:
    routed, full = found["routed"], found["full"]
    rows = []
    for first, second in zip(routed["bins"], full["bins"], strict=True):
        cells = [Cell(f"{percentage(first['low'], 0)} to {percentage(first['high'], 0)}")]
        for one in (first, second):
            cells += [_count(one["rows"]), _number(one["score"]), _number(one["accuracy"])]
        rows.append(cells)
    return Figure(
        "reliability",
        "Reliability of the scores",
        f"Scores and accuracy are {percentage(routed['ece'], 2)} apart on average with routing, and "
        f"{percentage(full['ece'], 2)} with the full network alone (expected calibration error). A line below the "
        "diagonal means scores that promise too much.",
        reliability_chart(routed, full),
        ["Score", "Routed: inputs", "mean score", "accuracy", "Full: inputs", "mean score", "accuracy"],
        rows,
    )
