"""The picture of a benchmark: speed, and time at each batch size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sharcs.evaluation.plot import pyplot, save_picture

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["draw_benchmark"]


def draw_benchmark(report: dict[str, Any], path: str | Path, title: str) -> None:
    """Draw what ``sharcs benchmark`` measured.

    Args:
        report: From :func:`sharcs.benchmark.measure.run_benchmark`.
        path: The picture, .png or .svg; written beside and renamed.
        title: Shown above.
    """
    plt = pyplot()
    rows = report["rows"]
    names = [row["name"] for row in rows]
    colours = ["tab:blue" if name.startswith("routed") else "tab:gray" for name in names]
    figure, (speed, ratio) = plt.subplots(1, 2, figsize=(10.5, 0.42 * len(rows) + 1.6), layout="constrained")
    places = range(len(rows))
    speed.barh(places, [row["texts_per_second"] for row in rows], color=colours)
    for place, row in zip(places, rows, strict=True):
        accuracy = "" if row["accuracy"] is None else f", {100 * row['accuracy']:.1f}%"
        speed.text(row["texts_per_second"], place, f" {row['texts_per_second']:.0f}{accuracy}", va="center", size=8)
    speed.margins(x=0.25)
    speed.set_yticks(places, names)
    speed.invert_yaxis()
    speed.set_xlabel("texts a second, many at once" + ("" if rows[0]["accuracy"] is None else "; accuracy"))
    sizes = list(rows[0]["time_ratio"])
    height = 0.8 / len(sizes)
    for number, size in enumerate(sizes):
        ratio.barh(
            [place - 0.4 + (number + 0.5) * height for place in places],
            [row["time_ratio"][size] for row in rows],
            height,
            label=f"batch {size}",
            color=plt.get_cmap("viridis")(number / len(sizes)),
        )
    ratio.axvline(1.0, color="black", linewidth=0.8)
    ratio.set_yticks(places, [""] * len(rows))
    ratio.invert_yaxis()
    ratio.set_xlabel("time over that of the full network in PyTorch")
    ratio.legend(fontsize="small")
    figure.suptitle(title)
    save_picture(figure, path)
