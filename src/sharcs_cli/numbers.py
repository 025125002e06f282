"""What ``sharcs evaluate`` says of a regression."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from sharcs_cli.options import out, percent, progress_bar, say

if TYPE_CHECKING:
    from pathlib import Path

    from sharcs.data.texts import TextData
    from sharcs.evaluation.numbers import ErrorReport
    from sharcs.inference.exported import ExportedModel
    from sharcs.inference.folder import TrainedModel


def report_errors(
    trained: TrainedModel | ExportedModel, data: TextData, json_file: Path | None, width: float | str | None
) -> None:
    """Measure errors against cost, print them, and write them.

    Args:
        trained: The model, or an export.
        data: Texts with numbers.
        json_file: Where the errors go; nothing is written by default.
        width: Forces one width.
    """
    from sharcs.data.tokens import label_ids
    from sharcs.evaluation.numbers import error_report
    from sharcs.files import write_json
    from sharcs.jobs.answers import all_numbers

    config = trained.model.config
    with progress_bar("evaluating", len(data)) as advance:
        answers = all_numbers(trained, data, on_batch=advance)
    report = error_report(config, answers, label_ids(data, config.class_indices), width)
    if json_file is not None:
        write_json(report.to_dict(), json_file)
    _print_errors(report, data.source)
    if json_file is not None:
        say(f"wrote {json_file}")


def _print_errors(report: ErrorReport, source: str) -> None:
    table = Table(title=Text(f"{source}: {report.samples:,} inputs"), title_justify="left")
    table.add_column("")
    for heading in ("mean absolute error", "RMSE", "R²", "FLOPs, % of full", "share, %"):
        table.add_column(heading, justify="right")
    points = [("full network", report.full), ("routed", report.routed)]
    points += [(f"{point.name} on every input", point) for point in report.widths]
    for name, at in points:
        explained = "" if at.r2 is None else f"{at.r2:.3f}"
        table.add_row(name, f"{at.mae:.4g}", f"{at.rmse:.4g}", explained, percent(at.flops_ratio), percent(at.share))
    out.print(table)
