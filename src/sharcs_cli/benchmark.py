"""The command ``sharcs benchmark``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from sharcs_cli.options import (
    DataOption,
    DelimiterOption,
    EncodingOption,
    LabelOption,
    ModelArgument,
    NoQuotesOption,
    PairOption,
    TextOption,
    claim_json,
    columns_of,
    dialect_of,
    out,
    percent,
    progress_bar,
    say,
    texts_of,
)
from sharcs_runtime.errors import InputError

if TYPE_CHECKING:
    from sharcs.benchmark.results import BenchmarkReport
    from sharcs.data.texts import TextData
    from sharcs.inference.folder import TrainedModel


def benchmark(
    context: typer.Context,
    folder: ModelArgument,
    data: DataOption,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the numbers here, and a picture as .png beside.")
    ] = None,
    seconds: Annotated[
        float, typer.Option("--seconds", help="About how long to measure; exporting and memory come on top.")
    ] = 120.0,
    text_column: TextOption = None,
    text_pair_column: PairOption = None,
    label_column: LabelOption = None,
    encoding: EncodingOption = None,
    delimiter: DelimiterOption = None,
    no_quotes: NoQuotesOption = False,
) -> None:
    """Measure what routing saves in seconds here, against what else could run the network, and advise.

    A random part of the texts is used, as many as take a few minutes. Labels are used if there are any.
    """
    from sharcs.benchmark.measure import run_benchmark
    from sharcs.benchmark.plot import benchmark_figure
    from sharcs.evaluation.plot import save_picture
    from sharcs.export.onnx import require_onnx
    from sharcs.files import write_json
    from sharcs.inference.folder import open_model

    if not 0 < seconds < float("inf"):
        raise InputError(f"--seconds {seconds:g}: has to be above 0")
    picture = claim_json(context, json_file)
    require_onnx()
    trained = open_model(folder)
    columns = columns_of(text_column, text_pair_column, label_column, trained.columns)
    dialect = dialect_of(encoding, delimiter, no_quotes)
    texts = texts_of(trained, data, columns, labelled=False, dialect=dialect)
    report = run_benchmark(trained, folder, texts.inputs, _classes(trained, texts), bar=progress_bar, seconds=seconds)
    if json_file is not None and picture is not None:
        write_json(report.to_dict(), json_file)
        save_picture(lambda: benchmark_figure(report), picture, f"{data} on this machine")
    _print_table(report, f"{data}: under 1 to 128, time of such a batch over that of full")
    if picture is not None:
        say(f"wrote {json_file} and {picture}")
    out.print(report.advice, highlight=False, markup=False, soft_wrap=True)


def _classes(trained: TrainedModel, texts: TextData) -> list[int] | None:
    """Number the labels, if the texts have labels that the model knows."""
    label2id = trained.model.config.class_indices
    if texts.labels is None or not set(texts.labels) <= label2id.keys():
        return None
    return [label2id[label] for label in texts.labels]


def _print_table(report: BenchmarkReport, title: str) -> None:
    from sharcs.benchmark.measure import BATCH_SIZES

    # Narrow enough for a terminal of 80 characters.
    table = Table(title=Text(title), title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    headings = ("acc.,\n%", "texts/s", "p50,\nms", "p99,\nms", *map(str, BATCH_SIZES), "FLOPs,\n%", "peak,\nMiB")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in report.rows:
        table.add_row(
            row.name,
            percent(row.accuracy),
            f"{row.texts_per_second:.0f}",
            f"{row.p50_ms:.4g}",
            f"{row.p99_ms:.4g}",
            *(f"{row.time_ratio[size]:.2f}" for size in BATCH_SIZES),
            percent(row.flops_ratio),
            f"{row.peak_mb:.0f}",
        )
    out.print(table)
