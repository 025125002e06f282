"""The charts of a report as picture files, from the same geometry as the page's."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from sharcs.evaluation.plot import pyplot
from sharcs.report.charts import BarChart, LineChart

if TYPE_CHECKING:
    from pathlib import Path

    from sharcs.report.figures import Figure

__all__ = ["draw_figure"]

INK, MUTED, GRID = "#1b2430", "#566173", "#dfe4ea"
# The light colours of the page.
STYLES: dict[str, dict[str, Any]] = {
    "full": {"color": INK, "linewidth": 1.2},
    "oracle": {"color": "#2b7a4b", "linewidth": 1.6, "linestyle": (0, (6, 3))},
    "random": {"color": "#6b7686", "linewidth": 1.6, "linestyle": (0, (2, 3))},
    "routed": {"color": "#1d5fbf", "linewidth": 2.4},
    "chosen": {"color": "#b4470a", "linewidth": 2.4},
    "limit": {"color": "#b4470a", "linewidth": 1.2, "linestyle": (0, (4, 4))},
    "ideal": {"color": "#6b7686", "linewidth": 1.4, "linestyle": (0, (2, 3))},
    "harm": {"color": "#b4470a"},
}
GAIN = "#2b7a4b"
MARKS = {"dot": "o", "diamond": "D", "square": "s", "triangle": "^", "": ""}
FONT = 10.0
TITLE_HEIGHT, LEGEND_ROW = 34.0, 20.0


def draw_figure(figure: Figure, path: Path) -> None:
    """Draw a chart as a .png file, with title and legend.

    Args:
        figure: From :func:`sharcs.report.figures.figures_of`.
        path: The picture.
    """
    plt = pyplot()
    chart = figure.chart
    width, height = chart.size
    legend = LEGEND_ROW * (len(chart.series) + 1) if isinstance(chart, LineChart) else 0.0
    whole = height + TITLE_HEIGHT + legend
    # Texts are anybody's: a dollar sign begins no formula.
    with plt.rc_context({"text.parse_math": False, "font.size": FONT, "text.color": INK}), warnings.catch_warnings():
        # Class names may be in a script that matplotlib's own font lacks; the page has them right.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        picture = plt.figure(figsize=((width + 40) / 72, (whole + 20) / 72))
        try:
            axes = picture.add_axes(
                (20 / (width + 40), 10 / (whole + 20), width / (width + 40), whole / (whole + 20))
            )
            axes.set_axis_off()
            axes.set_xlim(0, width)
            axes.set_ylim(height + legend, -TITLE_HEIGHT)  # downwards, as on the page
            axes.text(0, -TITLE_HEIGHT + 12, figure.title, fontsize=1.3 * FONT, weight="bold", va="center")
            if isinstance(chart, LineChart):
                _draw_lines(axes, chart)
            else:
                _draw_bars(axes, chart, figure.style)
            picture.savefig(path, dpi=150, facecolor="white")
        finally:
            plt.close(picture)


def _draw_lines(axes: Any, chart: LineChart) -> None:
    left, top, right, bottom = chart.box
    for y, text in chart.y_ticks:
        axes.plot([left, right], [y, y], color=GRID, linewidth=0.8)
        axes.text(left - 8, y, text, ha="right", va="center", color=MUTED)
    for x, text in chart.x_ticks:
        axes.plot([x, x], [bottom, bottom + 5], color=MUTED, linewidth=0.8)
        axes.text(x, bottom + 16, text, ha="center", va="center", color=MUTED)
    axes.plot([left, right], [bottom, bottom], color=MUTED, linewidth=0.8)
    axes.text(left, top - 22, chart.y_title, va="center", color=MUTED)
    axes.text((left + right) / 2, bottom + 42, chart.x_title, ha="center", va="center", color=MUTED)
    for number, series in enumerate(chart.series):
        style = STYLES[series.style]
        if series.line:
            axes.plot(*zip(*series.line, strict=True), **style)
        for mark in series.marks:
            axes.plot(mark["x"], mark["y"], MARKS[series.mark], color=style["color"], markersize=1.4 * mark["size"])
            axes.text(mark["x"] + 9, mark["y"] + 12, mark["label"], va="center", color=MUTED)
        y = chart.size[1] + LEGEND_ROW * (number + 0.5)
        if series.line:
            axes.plot([left, left + 28], [y, y], **style)
        if series.mark:
            axes.plot(left + 14, y, MARKS[series.mark], color=style["color"], markersize=8)
        axes.text(left + 38, y, series.name, va="center")


def _draw_bars(axes: Any, chart: BarChart, style: str) -> None:
    from matplotlib.patches import Rectangle

    for bar in chart.bars:
        axes.text(0, bar["y"] + 12, bar["label"], va="center")
        axes.text(chart.size[0], bar["y"] + 12, bar["text"], ha="right", va="center", color=MUTED)
        color = GAIN if bar["negative"] else STYLES[style]["color"]
        if bar["width"]:
            axes.add_patch(Rectangle((bar["x"], bar["y"] + 22), max(bar["width"], 1.5), chart.height, color=color))
        if chart.zero is not None:
            axes.plot([chart.zero, chart.zero], [bar["y"] + 20, bar["y"] + 38], color=INK, linewidth=0.8)
