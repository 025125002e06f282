"""The geometry of a report's charts: scales, ticks and coordinates that its templates turn into SVG."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BarChart", "LineChart", "Series", "bar_chart", "curve_chart", "reliability_chart", "ticks"]

WIDTH, HEIGHT = 560.0, 380.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 18.0, 40.0, 62.0
ROW_HEIGHT, BAR_HEIGHT = 50.0, 14.0
LABEL_LENGTH = 30  # characters that fit beside a bar's value on a telephone

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or some marks, of a chart.

    Attributes:
        name: For the legend.
        style: Names its colour and dashes in the style sheet.
        line: Coordinates that it joins; none if there are marks only.
        mark: Shape of the marks: ``dot``, ``diamond``, ``square``, or ``triangle``; empty if there are none.
        marks: ``x``, ``y``, ``size`` and ``label`` (it may be empty) of each.
    """

    name: str
    style: str
    line: list[Point] = field(default_factory=list)
    mark: str = ""
    marks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def path(self) -> str:
        """The line in SVG's words."""
        return "M" + "L".join(f"{x:g} {y:g}" for x, y in self.line) if self.line else ""


@dataclass(frozen=True, slots=True)
class LineChart:
    """A chart with two axes.

    Attributes:
        x_title: Of the horizontal axis.
        y_title: Of the vertical one.
        x_ticks: Position and text of each.
        y_ticks: Position and text of each.
        series: In drawing order.
        box: Left, top, right and bottom of the plot.
        size: Width and height of all.
    """

    x_title: str
    y_title: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    series: list[Series]
    box: tuple[float, float, float, float]
    size: tuple[float, float]


@dataclass(frozen=True, slots=True)
class BarChart:
    """A chart of horizontal bars, each below its label, so that long labels have room on a narrow screen.

    Attributes:
        bars: ``label``, ``text`` (the value), ``y``, ``x``, ``width``, and ``negative``.
        zero: Position of 0, if some values are below it, else None.
        size: Width and height of all.
        height: Of a bar.
    """

    bars: list[dict[str, Any]]
    zero: float | None
    size: tuple[float, float]
    height: float = BAR_HEIGHT


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Choose round numbers between two, about ``count`` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def curve_chart(report: dict[str, Any], measure: str, limit: dict[str, float] | None = None) -> LineChart:
    """Draw accuracy, or agreement, against cost.

    Args:
        report: From :func:`sharcs.evaluation.accuracy.accuracy_report`.
        measure: ``Accuracy``, or ``Agreement``.
        limit: Of a calibration, a fraction: ``cost``, or ``value`` of what is measured.
    """
    curve, widths, oracle = report["curve"], report["widths"], report["oracle"]
    routed, full = report["routed"], report["full"]["accuracy"]

    def of(points: Sequence[dict[str, Any]]) -> list[Point]:
        return [(100 * point["flops_ratio"], 100 * point["accuracy"]) for point in points]

    oracle_line = of([widths[0], oracle])
    right = max([100.0, *(x for x, _ in (*of(curve), *of(widths), *oracle_line))])
    oracle_line.append((right, oracle_line[-1][1]))
    (chosen,) = of([routed])
    # Sorted: escalating nearly everything costs more than full width, and a threshold's path turns back there.
    path = sorted(of(curve))
    values = [y for _, y in (*path, *of(widths), *oracle_line, chosen, (0, 100 * full))]
    if limit and "value" in limit:
        values.append(100 * limit["value"])
    low, high = _padded(values)
    scale = _Scale((0.0, right), (low, high))
    by = "threshold" if curve[0]["escalation_threshold"] is not None else "cost weight"
    series = [
        Series("full network", "full", scale.line([(0, 100 * full), (right, 100 * full)])),
        Series("oracle: the cheapest width that is right", "oracle", scale.line(oracle_line), "triangle",
               scale.marks([oracle_line[1]])),
        Series("random: inputs sent to widths by chance", "random", scale.line(of(widths)), "dot",
               scale.marks(of(widths), [f"{width['width']:g}" for width in widths])),
        Series(f"router, at every {by}", "routed", scale.line(path)),
        Series("chosen policy", "chosen", [], "diamond", scale.marks([chosen], size=8)),
    ]  # fmt: skip
    if limit:
        ends = (
            [(100 * limit["cost"], low), (100 * limit["cost"], high)]
            if "cost" in limit
            else [(0.0, 100 * limit["value"]), (right, 100 * limit["value"])]
        )
        series.insert(0, Series("limit of the calibration", "limit", scale.line(ends)))
    return scale.chart("Cost: FLOPs, % of the full network", f"{measure}, %", series)


def reliability_chart(routed: dict[str, Any], full: dict[str, Any]) -> LineChart:
    """Draw two results of :func:`~sharcs.report.findings.reliability`; a mark grows with its bin's answers."""
    scale = _Scale((0.0, 100.0), (0.0, 100.0))
    series = [Series("scores that mean what they say", "ideal", scale.line([(0, 0), (100, 100)]))]
    for name, style, mark, found in (
        ("full network", "full", "square", full),
        ("routed answers", "routed", "dot", routed),
    ):
        bins = [one for one in found["bins"] if one["rows"]]
        total = sum(one["rows"] for one in bins)
        points = [(100 * one["score"], 100 * one["accuracy"]) for one in bins]
        marks = scale.marks(points)
        for place, one in zip(marks, bins, strict=True):
            place["size"] = round(3 + 7 * math.sqrt(one["rows"] / total), 1)
        series.append(Series(name, style, scale.line(points), mark, marks))
    return scale.chart("Score: how sure an answer is, %", "Accuracy of answers with that score, %", series)


def bar_chart(rows: Sequence[tuple[str, float]], texts: Sequence[str], least: float = 0.0) -> BarChart:
    """Draw one bar a row.

    Args:
        rows: Label and value of each.
        texts: The values as they are written.
        least: The bars' scale ends there at the earliest, so that tiny values look tiny.
    """
    low = min([0.0, *(value for _, value in rows)])
    high = max([least, *(value for _, value in rows)])
    unit = WIDTH / ((high - low) or 1.0)
    bars = []
    for number, ((label, value), text) in enumerate(zip(rows, texts, strict=True)):
        bars.append(
            {
                "label": label if len(label) <= LABEL_LENGTH else label[: LABEL_LENGTH - 1] + "…",
                "text": text,
                "y": number * ROW_HEIGHT,
                "x": round((min(value, 0.0) - low) * unit, 1),
                "width": round(abs(value) * unit, 1),
                "negative": value < 0,
            }
        )
    zero = round(-low * unit, 1) if low < 0 else None
    return BarChart(bars, zero, (WIDTH, max(1, len(bars)) * ROW_HEIGHT))


class _Scale:
    """Turns values into coordinates of a plot."""

    def __init__(self, x: Point, y: Point) -> None:
        self.x, self.y = x, y
        self.box = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)

    def place(self, point: Point) -> Point:
        left, top, right, bottom = self.box
        across = (point[0] - self.x[0]) / (self.x[1] - self.x[0])
        up = (point[1] - self.y[0]) / (self.y[1] - self.y[0])
        return round(left + across * (right - left), 1), round(bottom - up * (bottom - top), 1)

    def line(self, points: Sequence[Point]) -> list[Point]:
        return [self.place(point) for point in points]

    def marks(self, points: Sequence[Point], labels: Sequence[str] = (), size: float = 6.0) -> list[dict[str, Any]]:
        places = map(self.place, points)
        named = [*labels, *[""] * (len(points) - len(labels))]
        return [{"x": x, "y": y, "size": size, "label": label} for (x, y), label in zip(places, named, strict=True)]

    def chart(self, x_title: str, y_title: str, series: list[Series]) -> LineChart:
        x_ticks = [(self.place((value, self.y[0]))[0], f"{value:g}") for value in ticks(*self.x)]
        y_ticks = [(self.place((self.x[0], value))[1], f"{value:g}") for value in ticks(*self.y)]
        return LineChart(x_title, y_title, x_ticks, y_ticks, series, self.box, (WIDTH, HEIGHT))


def _padded(values: Sequence[float]) -> Point:
    """Leave some room around values, at least a point in each direction, for labels and for equal values."""
    low, high = min(values), max(values)
    room = max(0.12 * (high - low), 1.0)
    return low - room, high + room
