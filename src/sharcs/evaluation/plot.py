"""Charts by matplotlib: their style, and accuracy against cost.

Figures are made without pyplot, so that the caller's backend and open figures are left alone. A figure holds no title
and no legend: a page writes them in HTML, and a picture gets them where it is made.
"""

from __future__ import annotations

import io
import logging
import math
import textwrap
import threading
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sharcs.files import replaced
from sharcs_runtime.policy import label_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sharcs.evaluation.accuracy import AccuracyReport, CurvePoint, OraclePoint, RoutedPoint, WidthPoint

# The light colours of the report's style sheet, which has a variable of each name.
COLORS = {
    "page": "#ffffff",
    "panel": "#f5f7f9",
    "ink": "#1b2430",
    "muted": "#566173",
    "grid": "#e4e8ed",
    "routed": "#1d5fbf",
    "chosen": "#b4470a",
    "oracle": "#2b7a4b",
    "random": "#6b7686",
}
MARK = {"markersize": 10.0, "markeredgecolor": COLORS["page"], "markeredgewidth": 1.5}
STYLES: dict[str, dict[str, Any]] = {
    "full": {"color": COLORS["ink"], "linewidth": 1.4},
    "oracle": {"color": COLORS["oracle"], "linewidth": 2, "linestyle": (0, (4, 2)), "marker": "^"},
    "random": {"color": COLORS["random"], "linewidth": 2, "linestyle": (0, (1, 2)), "marker": "o"},
    "ideal": {"color": COLORS["random"], "linewidth": 2, "linestyle": (0, (1, 2))},
    "routed": {"color": COLORS["routed"], "linewidth": 3},
    "chosen": {"color": COLORS["chosen"], "linestyle": "none", "marker": "D"},
    "limit": {"color": COLORS["chosen"], "linewidth": 1.4, "linestyle": (0, (3.5, 3.5))},
}
# All lengths are points, which are also the units of the page's SVG.
FONT = 12.0
WIDTH, HEIGHT = 560.0, 380.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 18.0, 46.0, 62.0
NAME_SIZE = (64.0, 25.0)  # that a width's name takes on a telephone, where words are larger

_DRAWING = threading.RLock()


@contextmanager
def drawing() -> Iterator[None]:
    """Import matplotlib and set its defaults, whatever the user's are, for one drawing at a time.

    The import takes a second, and most commands draw nothing.
    """
    logger = logging.getLogger("matplotlib")
    # Settings, like filters of warnings, are the process's.
    with _DRAWING, warnings.catch_warnings():
        # Class names may be in a script that matplotlib's own font lacks; the page has them right.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        level = logger.level
        logger.setLevel(logging.ERROR)  # it warns of a HOME that it can't write to, and takes another directory
        try:
            from matplotlib import figure, style  # noqa: F401
        finally:
            logger.setLevel(level)
        settings = {"font.size": FONT, "svg.fonttype": "none"}
        # Texts are anybody's: a dollar sign begins no formula.
        settings |= {"text.parse_math": False, "text.color": COLORS["ink"], "axes.labelcolor": COLORS["muted"]}
        with style.context(["default", settings]):
            yield


def new_figure(width: float = WIDTH, height: float = HEIGHT, **options: Any) -> Figure:
    """Make an empty figure of a size in points, transparent."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), dpi=72, facecolor="none", **options)


def line_axes(figure: Figure, x_title: str, y_title: str, x: tuple[float, float], y: tuple[float, float]) -> Axes:
    """Add two axes with limits, their titles at the ends; words have room to grow on a telephone."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    inner = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
    axes = figure.add_axes((LEFT / WIDTH, BOTTOM / HEIGHT, inner[0] / WIDTH, inner[1] / HEIGHT), facecolor="none")
    axes.set(xlim=x, ylim=y)
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=True, color=COLORS["muted"])
    axes.tick_params(color=COLORS["muted"], labelcolor=COLORS["muted"], length=5, pad=4)
    axes.tick_params("y", length=0, pad=8)
    axes.grid(axis="y", color=COLORS["grid"], linewidth=1)
    axes.set_axisbelow(True)
    axes.set_xlabel(x_title, ha="right", va="bottom", gid="x-title")
    axes.xaxis.set_label_coords(1, -44 / inner[1])
    axes.set_ylabel(y_title, rotation=0, ha="left", va="bottom", gid="y-title")
    axes.yaxis.set_label_coords(-LEFT / inner[0], 1 + 19 / inner[1])
    for axis, gid in ((axes.xaxis, "x-axis"), (axes.yaxis, "y-axis")):
        axis.set_gid(gid)
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    return axes


def plot(axes: Axes, style: str, name: str, points: Sequence[tuple[float, float]], **options: Any) -> None:
    """Draw a series of a style, named for the legend; its marks may lie on the edge."""
    xs, ys = zip(*points, strict=True)
    settings: dict[str, Any] = MARK | STYLES[style] | options
    axes.plot(xs, ys, gid=f"series {style}", label=name, clip_on=False, **settings)


def curve_figure(report: AccuracyReport, measure: str = "Accuracy", limit: dict[str, float] | None = None) -> Figure:
    """Draw accuracy, or agreement, against cost.

    Args:
        report: From :func:`sharcs.evaluation.accuracy.accuracy_report`.
        measure: ``Accuracy``, or ``Agreement``.
        limit: Of a calibration, a fraction: ``cost``, or ``value`` of what is measured.
    """
    # Sorted: escalating nearly everything costs more than full width, and a threshold's path turns back there.
    path = sorted(map(_place, report.curve))
    widths = [_place(width) for width in report.widths]
    oracle, chosen = _place(report.oracle), _place(report.routed)
    full = 100 * report.full.accuracy
    right = max(100.0, *(x for x, _ in (*path, *widths, oracle, chosen)))
    heights = [full, *(y for _, y in (*path, *widths, oracle, chosen))]
    if limit and "value" in limit:
        heights.append(100 * limit["value"])
    # At least a point in each direction, for labels and for equal values.
    room = max(0.12 * (max(heights) - min(heights)), 1.0)
    low, high = min(heights) - room, max(heights) + room
    figure = new_figure()
    axes = line_axes(figure, "Cost: FLOPs, % of the full network", f"{measure}, %", (0, right), (low, high))
    if limit and "cost" in limit:
        plot(axes, "limit", "limit of the calibration", [(100 * limit["cost"], low), (100 * limit["cost"], high)])
    elif limit:
        plot(axes, "limit", "limit of the calibration", [(x, 100 * limit["value"]) for x in (0, right)])
    setting = "cost weight" if report.curve[0].escalation_threshold is None else "threshold"
    plot(axes, "full", "full network", [(0, full), (right, full)])
    oracle_line = [widths[0], oracle, (right, oracle[1])]
    plot(axes, "oracle", "oracle: the cheapest width that is right", oracle_line, markevery=[1])
    plot(axes, "random", "random: inputs sent to widths by chance", widths)
    plot(axes, "routed", f"router, at every {setting}", path)
    plot(axes, "chosen", "chosen policy", [chosen])
    _name_widths(axes, widths, [label_of(width.width) for width in report.widths])
    return figure


def save_picture(make: Callable[[], Figure], path: str | Path, title: str) -> None:
    """Draw a figure into a file, written beside and renamed; any number of threads may draw.

    Args:
        make: Makes the figure.
        path: The picture, .png.
        title: Shown above.

    Raises:
        InputError: If the picture can't be written.
    """
    with drawing():
        picture = png(make(), title)
    with replaced(path) as partial:
        partial.write_bytes(picture)


def png(figure: Figure, title: str) -> bytes:
    """Draw a figure as a picture that stands alone, with a title and, where its lines have names, a legend."""
    height = 72 * figure.get_figheight()
    heading = textwrap.fill(title, 60)
    figure.text(0, 1 + 10 / height, heading, fontsize=1.2 * FONT, weight="bold", va="bottom")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        place: Any = {"loc": "upper left", "bbox_to_anchor": (0, -6 / height), "borderaxespad": 0, "borderpad": 0}
        figure.legend(handles, labels, frameon=False, handlelength=2.8, **place)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, facecolor=COLORS["page"], bbox_inches="tight", pad_inches=0.2)
    return file.getvalue()


def _place(point: RoutedPoint | WidthPoint | OraclePoint | CurvePoint) -> tuple[float, float]:
    return 100 * point.flops_ratio, 100 * point.accuracy


def _name_widths(axes: Axes, marks: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Write the width below each mark, or above it, or not at all where other names are in the way."""
    taken: list[tuple[float, float]] = []
    for mark, name in zip(marks, names, strict=True):
        x, y = axes.transData.transform(mark)
        at_edge = x > WIDTH - RIGHT - NAME_SIZE[0]
        left = x - NAME_SIZE[0] if at_edge else x
        for va, lift in (("top", -8), ("bottom", 8)):
            middle = y + math.copysign(abs(lift) + NAME_SIZE[1] / 2, lift)
            if any(abs(left - u) < NAME_SIZE[0] and abs(middle - v) < NAME_SIZE[1] for u, v in taken):
                continue
            taken.append((left, middle))
            ha = "right" if at_edge else "left"
            place: dict[str, Any] = {"xytext": (-7 if at_edge else 7, lift), "ha": ha, "va": va}
            gid = f"width-name {ha} {va}"
            axes.annotate(name, mark, textcoords="offset points", color=COLORS["muted"], gid=gid, **place)
            break
