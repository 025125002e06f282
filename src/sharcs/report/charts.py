"""What a chart of a report is: a drawing, its words, and the table of its numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sharcs.evaluation.plot import png
from sharcs.report.drawings import svg, swatch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KINDS = ("curve", "shares", "agreement", "classes", "groups", "f1", "confusion", "reliability", "coverage")
BARS = 15  # at most, of a chart
VALUE_LENGTH = 80  # characters that are kept of a class's name or a column's value
# What HTML may not hold.
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of a table: what is written, and the exact number behind it if it is one."""

    text: str
    value: float | int | None = None


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawn figure with its text alternatives.

    Attributes:
        kind: One of ``KINDS``; names the picture file.
        title: What it shows.
        description: What can be seen in it, in a sentence or two.
        columns: Headings of its table.
        rows: Its table; the first cell of a row is the row's heading.
        note: What the table leaves out, or nothing.
        size: Width and height of the drawing.
        drawing: Content of an ``<svg>`` element.
        legend: Name of each series, and the drawing of its line and mark, ``SWATCH`` large.
        picture: The same figure as a PNG file, with title and legend.
    """

    kind: str
    title: str
    description: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str
    size: tuple[float, float]
    drawing: str
    legend: list[tuple[str, str]]
    picture: bytes


def short(text: str, length: int = VALUE_LENGTH) -> str:
    """Cut a text, and make visible what HTML may not hold: control characters and halves of characters."""
    kept = text if len(text) <= length else text[: length - 1] + "…"
    return FORBIDDEN.sub("\ufffd", kept)


def named(value: str) -> str:
    """Write a class's name, or a column's value, for people."""
    return short(value) if value.strip() else "(empty)"


def percentage(value: float | None, digits: int = 1) -> str:
    """Write a fraction for people: ``95.1%``, with a real minus, and a dash where there is none."""
    if value is None:
        return "\u2013"
    rounded = round(100 * value, digits) + 0.0  # no negative zero
    return f"{rounded:.{digits}f}%".replace("-", "\u2212")


def threshold_text(threshold: float | Mapping[str, float] | None, digits: int = 6) -> str:
    """Write a policy's escalation threshold, or that of each sub-network."""
    if isinstance(threshold, Mapping):
        return ", ".join(f"{name} {value:.{digits}g}" for name, value in threshold.items())
    return "none" if threshold is None else f"{threshold:.{digits}g}"


def points(value: float) -> str:
    """Write a difference of fractions in percentage points, without its sign."""
    text = f"{abs(100 * value):.1f}"
    return f"{text} point{'' if text == '1.0' else 's'}"


def width_name(width: float | str) -> str:
    """Name a width, or a sub-network in front of the encoder, for people."""
    if isinstance(width, str):
        return f"the {width} network"
    return "full width" if width == 1.0 else f"width {width:g}"


def drawn(
    kind: str,
    title: str,
    description: str,
    figure: Figure,
    columns: list[str],
    rows: list[list[Cell]],
    note: str = "",
) -> Chart:
    """Draw a chart's figure for the page, and then, with title and legend, as a picture."""
    size = (72 * figure.get_figwidth(), 72 * figure.get_figheight())
    content = svg(figure, kind)
    handles, names = figure.axes[0].get_legend_handles_labels()
    swatches = [svg(swatch(line), f"{kind} {number}") for number, line in enumerate(handles)]
    legend = list(zip(names, swatches, strict=True))
    return Chart(kind, title, description, columns, rows, note, size, content, legend, png(figure, title))


def number_cell(value: float | None, digits: int = 1) -> Cell:
    """Write a fraction into a table."""
    return Cell(percentage(value, digits), value)


def count_cell(value: int) -> Cell:
    """Write a number of inputs into a table."""
    return Cell(f"{value:,}", value)
