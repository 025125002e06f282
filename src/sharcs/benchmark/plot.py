"""The picture of a benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sharcs.evaluation.plot import COLORS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sharcs.benchmark.results import BenchmarkReport


def benchmark_figure(report: BenchmarkReport) -> Figure:
    """Draw what was measured: speed, and time at each batch size."""
    import matplotlib as mpl

    rows = report.rows
    sizes = list(rows[0].time_ratio)
    figure = new_figure(756, 32 * len(rows) + 110, layout="constrained")
    speed, ratio = figure.subplots(1, 2, sharey=True)
    places = range(len(rows))
    colors = [COLORS["routed" if row.name.startswith("routed") else "random"] for row in rows]
    speed.barh(places, [row.texts_per_second for row in rows], color=colors)
    for place, row in zip(places, rows, strict=True):
        accuracy = "" if row.accuracy is None else f", {100 * row.accuracy:.1f}%"
        speed.text(row.texts_per_second, place, f" {row.texts_per_second:.0f}{accuracy}", va="center", size=9)
    speed.margins(x=0.3)
    speed.set_yticks(places, [row.name for row in rows])
    speed.invert_yaxis()
    speed.set_xlabel("texts a second, many at once" + ("" if rows[0].accuracy is None else "; accuracy"))
    height = 0.8 / len(sizes)
    for number, size in enumerate(sizes):
        ratio.barh(
            [place - 0.4 + (number + 0.5) * height for place in places],
            [row.time_ratio[size] for row in rows],
            height,
            label=f"batch {size}",
            color=mpl.colormaps["viridis"](number / len(sizes)),
        )
    ratio.axvline(1.0, color=COLORS["ink"], linewidth=0.8)
    ratio.set_xlabel("time over that of the full network in PyTorch")
    figure.legend(loc="outside lower right", ncols=len(sizes), frameon=False, fontsize=10, handlelength=1)
    for axes in (speed, ratio):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params("y", length=0)
    return figure
