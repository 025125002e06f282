"""From the numbers of a report to its page: one HTML file, and its charts as pictures beside it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from sharcs.errors import InputError
from sharcs.files import claimed, written
from sharcs.report.charts import KINDS, Chart, percentage, points, threshold_text, width_name
from sharcs.report.drawings import SWATCH
from sharcs.report.figures import charts_of

if TYPE_CHECKING:
    from sharcs.report.record import Report

SUFFIXES = (".html", ".htm")
UNITS = {
    "budget": "mean FLOPs, of the full network's",
    "latency_ms": "mean milliseconds of an input",
    "max_accuracy_drop": "loss of accuracy against the full network",
    "max_disagreement": "answers other than the full network's",
}


def headline(report: Report) -> str:
    """Say in one sentence what the model does, and what routing saves."""
    routed, full = report.evaluation.routed, report.evaluation.full.accuracy
    saved = round(1 - routed.flops_ratio, 3)
    if saved > 0:
        cost = f"saves {percentage(saved)} of the computation by routing"
    elif saved < 0:
        cost = f"takes {percentage(-saved)} more computation by routing"
    else:
        cost = "saves no computation by routing"
    does = f"sorts texts into {len(report.classes):,} classes"
    if report.several:
        does = f"gives texts any of {len(report.classes):,} labels"
    what = f"The model \u201c{report.name}\u201d {does} and {cost}"
    if not report.labelled:
        return f"{what}; {percentage(routed.accuracy)} of its answers are the full network\u2019s."
    gap = round(routed.accuracy, 3) - round(full, 3)
    than = "that of" if abs(gap) < 5e-4 else f"{points(gap)} {'above' if gap > 0 else 'below'}"
    return f"{what}, at {percentage(routed.accuracy)} accuracy: {than} its full network."


def render_page(report: Report) -> str:
    """Render a report as HTML that needs nothing but itself.

    Args:
        report: From :func:`sharcs.report.content.build_report`.
    """
    return _page(report, charts_of(report))


def _page(report: Report, charts: dict[str, Chart]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sharcs.report"),
        autoescape=True,  # whatever the template's name: texts are anybody's
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percentage": percentage, "threshold": threshold_text, "width_name": width_name}
    template = environment.get_template("report.html")
    return template.render(report=report, headline=headline(report), charts=charts, units=UNITS, swatch=SWATCH)


def picture_paths(page: Path) -> dict[str, Path]:
    """Name the pictures beside a page, by kind of chart; which of them there are depends on the data."""
    return {kind: page.with_name(f"{page.stem}-{kind}.png") for kind in KINDS}


def check_report_path(output: Path) -> None:
    """Check that a report can be written here, before the work that it takes.

    Raises:
        InputError: If the name has another ending than .html, is a directory's, or its directory is missing or
            read-only.
    """
    if output.is_dir():
        raise InputError(f"`output` {output}: is a directory; name a file, like report.html")
    if output.suffix.lower() not in SUFFIXES:
        raise InputError(f"`output` {output}: is no name of a page; name it with the ending .html")
    parent = output.absolute().parent
    if not parent.is_dir():
        raise InputError(f"`output` {output}: its directory does not exist; make it first")
    if not os.access(parent, os.W_OK):
        raise InputError(f"`output` {output}: its directory is read-only; name another one")
    for picture in picture_paths(output).values():
        if picture.is_dir():
            raise InputError(f"`output` {output}: {picture.name} beside it is a directory; name another page")


def write_report(report: Report, path: Path) -> list[Path]:
    """Write page and pictures, all of them or none.

    Pictures that an earlier report of the same name left and this one has not are removed.

    Args:
        report: From :func:`sharcs.report.content.build_report`.
        path: The page.

    Returns:
        What was written, the page first.

    Raises:
        InputError: If it can't be written.
    """
    charts = charts_of(report)
    page = _page(report, charts)
    pictures = picture_paths(path)
    with claimed(path, *pictures.values()), written(f"{path}"):
        staging = Path(tempfile.mkdtemp(prefix=f".{path.stem}-", suffix=".partial", dir=path.absolute().parent))
        try:
            for kind, chart in charts.items():
                (staging / pictures[kind].name).write_bytes(chart.picture)
            (staging / path.name).write_text(page, encoding="utf-8", newline="\n")
            for kind, picture in pictures.items():
                if kind in charts:
                    (staging / picture.name).replace(picture)
                else:
                    picture.unlink(missing_ok=True)
            (staging / path.name).replace(os.path.realpath(path))
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    return [path, *(pictures[kind] for kind in charts)]
