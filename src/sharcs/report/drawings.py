"""Drawings of a report beside the curve: bars, confusions, lines, legends; and how they become the page's SVG."""

from __future__ import annotations

import io
import math
import re
from typing import TYPE_CHECKING, Any

from sharcs.evaluation.plot import COLORS, STYLES, line_axes, new_figure, plot

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

    from sharcs.evaluation.reliability import CoveragePoint, Reliability

ROW_HEIGHT, BAR_HEIGHT = 50.0, 14.0
LABEL_LENGTH = 30  # characters that fit beside a bar's value on a telephone
SWATCH = (34.0, 16.0)  # points

TAG = re.compile("<[^>]+>")  # texts of people hold none: matplotlib escapes them
LEFT_OUT = re.compile(r"<(metadata|style|clipPath)\b.*?</\1>", re.DOTALL)
NOT_OURS = re.compile(r' (clip-path|transform)="[^"]*"|font-family: [^;"]*; |\n')


def bar_figure(rows: Sequence[tuple[str, float]], texts: Sequence[str], style: str, least: float = 0.0) -> Figure:
    """Draw a horizontal bar a row, below its label, so that long labels have room on a narrow screen.

    Args:
        rows: Label and value of each.
        texts: The values as they are written.
        style: The color of positive values.
        least: The bars' scale ends there at the earliest, so that tiny values look tiny.
    """
    low = min([0.0, *(value for _, value in rows)])
    high = max([least, *(value for _, value in rows)])
    if low == high:
        high = 1.0
    figure = new_figure(height=ROW_HEIGHT * len(rows))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(low, high), ylim=(len(rows), 0))
    height, visible = BAR_HEIGHT / ROW_HEIGHT, (high - low) / 400
    for row, ((label, value), text) in enumerate(zip(rows, texts, strict=True)):
        shown = label if len(label) <= LABEL_LENGTH else label[: LABEL_LENGTH - 1] + "…"
        words: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "baseline"}
        axes.text(0, row + 0.34, shown, gid="bar-label", **words)
        axes.text(1, row + 0.34, text, gid="bar-value", ha="right", color=COLORS["muted"], **words)
        axes.barh(row + 0.64, high - low, height, left=low, color=COLORS["panel"])
        if value:
            length = math.copysign(max(abs(value), visible), value)
            color = COLORS["oracle" if value < 0 else style]
            axes.barh(row + 0.64, length, height, color=color, gid="bar")
    if low < 0:
        for row in range(len(rows)):
            axes.plot(
                [0, 0], [row + 0.64 - 0.7 * height, row + 0.64 + 0.7 * height], color=COLORS["muted"], linewidth=1
            )
    return figure


def reliability_figure(routed: Reliability, full: Reliability) -> Figure:
    """Draw two results of :func:`~sharcs.report.findings.reliability`; a mark grows with its bin's answers."""
    x_title, y_title = "Score: how sure an answer is, %", "Accuracy of answers with that score, %"
    figure = new_figure()
    axes = line_axes(figure, x_title, y_title, (0, 100), (0, 100))
    plot(axes, "ideal", "scores that mean what they say", [(0, 0), (100, 100)])
    for name, style, mark, result in (
        ("full network", "full", "s", full),
        ("routed answers", "routed", "o", routed),
    ):
        bins = [
            (at.score, at.accuracy, at.rows) for at in result.bins if at.score is not None and at.accuracy is not None
        ]
        places = [(100 * score, 100 * accuracy) for score, accuracy, _ in bins]
        total = sum(rows for _, _, rows in bins)
        plot(axes, style, name, places, marker=mark, markersize=6)
        areas = [(6 + 14 * math.sqrt(rows / total)) ** 2 for _, _, rows in bins]  # square points
        xs, ys = zip(*places, strict=True)
        color = STYLES[style]["color"]
        marks = axes.scatter(xs, ys, areas, color=color, marker=mark, edgecolors=COLORS["page"], linewidths=1.5)
        marks.set(gid=f"mark {style}", clip_on=False, zorder=3)
    return figure


def confusion_figure(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Figure:
    """Draw a confusion matrix: a strip of cells a class below its name, each with its share of the class's inputs.

    Args:
        names: Of the classes.
        counts: Of inputs by class and answer, ``[classes, classes]``.
    """
    size, row_height = len(names), ROW_HEIGHT + BAR_HEIGHT
    figure = new_figure(height=row_height * size + ROW_HEIGHT / 2)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, size), ylim=(size, -ROW_HEIGHT / 2 / row_height))
    top, height = 0.42, 0.54
    for column in range(size):
        axes.text(column + 0.485, -0.04, f"{column + 1}", gid="cell-value", ha="center", color=COLORS["muted"])
    for row, (name, of_class) in enumerate(zip(names, counts, strict=True)):
        label = f"{row + 1}: {name}"
        shown = label if len(label) <= LABEL_LENGTH else label[: LABEL_LENGTH - 1] + "…"
        axes.text(0, row + 0.34, shown, gid="bar-label", va="baseline")
        for column, count in enumerate(of_class):
            share = count / max(1, sum(of_class))
            place: Any = {"left": column, "width": 0.97, "height": height, "y": row + top, "align": "edge"}
            axes.barh(**place, color=COLORS["panel"])
            if count:
                color = COLORS["routed" if row == column else "chosen"]
                # So light that words on it can be read in any colours of the page.
                axes.barh(**place, color=color, alpha=0.08 + 0.32 * share, gid="cell")
                middle = (column + 0.485, row + top + height / 2)
                axes.text(*middle, f"{100 * share:.0f}", gid="cell-value", ha="center", va="center")
    return figure


def coverage_figure(curves: dict[str, Sequence[CoveragePoint]]) -> Figure:
    """Draw accuracy against coverage, of results of :func:`~sharcs.evaluation.reliability.coverage_curve`.

    Args:
        curves: By style, named as :data:`~sharcs.evaluation.plot.STYLES` are.
    """
    places = {
        style: [(100 * at.coverage, 100 * at.accuracy) for at in points if at.accuracy is not None]
        for style, points in curves.items()
    }
    heights = [accuracy for points in places.values() for _, accuracy in points]
    figure = new_figure()
    limits = (min(heights) - 1, min(max(heights) + 1, 101.0))
    axes = line_axes(
        figure, "Coverage: inputs that get an answer, %", "Accuracy of these answers, %", (0, 100), limits
    )
    names = {"full": "full network", "routed": "routed answers"}
    for style, points in places.items():
        plot(axes, style, names[style], points)
    return figure


def swatch(series: Artist) -> Figure:
    """Draw a line with its mark, for a legend."""
    from matplotlib.lines import Line2D

    figure = new_figure(*SWATCH)
    line = Line2D([0.02, 0.5, 0.98], [0.5, 0.5, 0.5], markevery=[1])
    line.update_from(series)
    line.set(transform=figure.transFigure, gid=series.get_gid())
    figure.add_artist(line)
    return figure


def svg(figure: Figure, salt: str) -> str:
    """Draw a figure as the content of an ``<svg>`` element within HTML.

    Its colours are the page's variables, its words are text, and each group has its artist's gid as class.

    Args:
        figure: Made by :func:`new_figure`, of artists in ``COLORS``.
        salt: Another one for each figure of a page, so that their identifiers differ.
    """
    import matplotlib as mpl

    file = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    document = file.getvalue()
    content = document[document.index(">", document.index("<svg")) + 1 : document.rindex("</svg>")]
    return TAG.sub(_page_tag, LEFT_OUT.sub("", content))


def _page_tag(match: re.Match[str]) -> str:
    """Rewrite one of matplotlib's tags for a page that holds several drawings."""
    tag = NOT_OURS.sub("", match[0]).replace("xlink:href", "href")
    # Groups of no artist of ours are numbered, alike in every drawing.
    tag = re.sub(r'^<g id="[\w.]+_\d+"', "<g", tag).replace("<g id=", "<g class=")
    for name, color in COLORS.items():
        tag = tag.replace(color, f"var(--{name})")
    return tag
