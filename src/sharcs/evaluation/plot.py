"""Pictures of accuracy against cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = ["draw_curve", "pyplot", "save_picture"]


def pyplot() -> Any:
    """Import matplotlib without a screen, only now: it takes a second, and most commands draw nothing."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def save_picture(figure: Any, path: str | Path) -> None:
    """Write a figure as .png or .svg, beside and renamed, and close it."""
    target = Path(path)
    partial = target.with_name(f".{target.stem}.partial{target.suffix}")
    figure.savefig(partial, dpi=150)
    pyplot().close(figure)
    partial.replace(target)


def draw_curve(report: dict[str, Any], path: str | Path, title: str) -> None:
    """Draw the accuracy–cost curve of ``sharcs evaluate``.

    Args:
        report: From :func:`sharcs.evaluation.accuracy.accuracy_report`.
        path: The picture, .png or .svg; written beside and renamed.
        title: Shown above.
    """
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    percent = 100.0
    curve = report["curve"]
    axes.plot(
        [percent * point["flops_ratio"] for point in curve],
        [percent * point["accuracy"] for point in curve],
        color="tab:blue",
        label="router, by cost weight" if curve[0]["escalation_threshold"] is None else "escalation, by threshold",
    )
    widths = report["widths"]
    axes.plot(
        [percent * point["flops_ratio"] for point in widths],
        [percent * point["accuracy"] for point in widths],
        "o--",
        color="tab:gray",
        label="one width for all; between them, random routing",
    )
    for point in widths:
        axes.annotate(
            f"{point['width']:g}",
            (percent * point["flops_ratio"], percent * point["accuracy"]),
            textcoords="offset points",
            xytext=(6, -12),
        )
    routed, oracle = report["routed"], report["oracle"]
    axes.plot(
        percent * routed["flops_ratio"],
        percent * routed["accuracy"],
        "D",
        color="tab:blue",
        label="configured policy",
    )
    axes.plot(
        percent * oracle["flops_ratio"], percent * oracle["accuracy"], "*", color="tab:green", markersize=11,
        label="oracle",
    )  # fmt: skip
    axes.axhline(percent * report["full"]["accuracy"], color="black", linewidth=0.8, label="full network")
    axes.set_xlabel("FLOPs, % of the full network")
    axes.set_ylabel("accuracy, %")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    save_picture(figure, path)
