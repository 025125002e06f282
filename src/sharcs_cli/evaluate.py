"""The command ``sharcs evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from sharcs_cli.images import ImageOption
from sharcs_cli.numbers import report_errors
from sharcs_cli.options import (
    AbstainOption,
    DataOption,
    DelimiterOption,
    EncodingOption,
    LabelOption,
    NetworkArgument,
    NoQuotesOption,
    PairOption,
    TextOption,
    WidthOption,
    check_abstaining,
    claim_json,
    cut_texts,
    dialect_of,
    inputs_of,
    opened,
    out,
    percent,
    progress_bar,
    say,
    texts_of,
    width_of,
)
from sharcs_runtime.policy import label_of
from sharcs_runtime.scores import REGRESSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sharcs.data.texts import TextData
    from sharcs.evaluation.accuracy import AccuracyReport
    from sharcs.inference.exported import ExportedModel
    from sharcs.inference.folder import TrainedModel

LOWEST = 3  # classes that are named


def evaluate(
    context: typer.Context,
    folder: NetworkArgument,
    data: DataOption,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the numbers here, and the curve as .png beside.")
    ] = None,
    width: WidthOption = None,
    abstain_below: AbstainOption = None,
    image_column: ImageOption = None,
    text_column: TextOption = None,
    text_pair_column: PairOption = None,
    label_column: LabelOption = None,
    encoding: EncodingOption = None,
    delimiter: DelimiterOption = None,
    no_quotes: NoQuotesOption = False,
) -> None:
    """Measure accuracy against cost: each width, the router, random routing, an oracle, the curve; and F1."""
    from sharcs.inference.predict import check_scored

    check_abstaining(abstain_below)
    claim_json(context, json_file)
    trained = opened(folder)
    check_scored(trained.model.config, False, abstain_below)
    asked = width_of(width)
    if asked is not None:
        trained.model.config.index_of(asked)
    columns = inputs_of(trained, image_column, text_column, text_pair_column, label_column)
    dialect = dialect_of(encoding, delimiter, no_quotes)
    texts = texts_of(trained, data, columns, labelled=True, dialect=dialect)
    report_quality(trained, texts, json_file, asked, abstain_below)


def report_quality(
    trained: TrainedModel | ExportedModel,
    data: TextData,
    json_file: Path | None,
    width: float | str | None = None,
    abstain_below: float | None = None,
) -> None:
    """Measure accuracy, or error, against cost, print it, and write numbers and curve.

    Args:
        trained: The model, or an export.
        data: Texts with labels.
        json_file: Where the numbers go, and beside it the curve; nothing is written by default.
        width: Forces one width.
        abstain_below: Also say what comes of giving no answer below this score.
    """
    if trained.model.config.problem_type == REGRESSION:
        report_errors(trained, data, json_file, width)
        return
    from sharcs.data.tokens import label_ids
    from sharcs.evaluation.accuracy import accuracy_report
    from sharcs.evaluation.plot import curve_figure, save_picture
    from sharcs.files import write_json
    from sharcs.jobs.answers import all_answers, count_cut

    with progress_bar("evaluating", len(data)) as advance:
        answers = all_answers(trained, data, labelled=True, on_batch=advance)
    labels = label_ids(data, trained.model.config.class_indices)
    report = accuracy_report(trained.model, answers, labels, width, abstain_below=abstain_below)
    cut, longest = count_cut(trained, data, answers), answers.max_length
    picture = None if json_file is None else json_file.with_suffix(".png")
    if json_file is not None and picture is not None:
        write_json(report.to_dict() | {"cut": cut, "max_length": longest}, json_file)
        title = f"accuracy against cost, {report.samples:,} inputs"
        save_picture(lambda: curve_figure(report), picture, title)
    _print_report(report, data.source)  # after the files: who reads it may have gone
    if cut:
        say(f"sharcs: note: {cut_texts(cut, report.samples, longest)}")
    if picture is not None:
        say(f"wrote {json_file} and {picture}")


def _print_report(report: AccuracyReport, source: str) -> None:
    table = Table(title=Text(f"{source}: {report.samples:,} inputs"), title_justify="left")
    table.add_column("")
    for heading in ("accuracy, %", "FLOPs, % of full", "share, %", "accuracy where routed, %"):
        table.add_column(heading, justify="right")

    def row(name: str, *values: float | None) -> None:
        table.add_row(name, *(percent(value) for value in (*values, None, None)[:4]))

    routed, oracle = report.routed, report.oracle
    same = "shares" if report.curve[0].escalation_threshold is None else "cost"
    row("full network", report.full.accuracy, 1.0)
    row("routed", routed.accuracy, routed.flops_ratio)
    row(f"random router, same {same}", report.random.accuracy, routed.flops_ratio)
    row("oracle router", oracle.accuracy, oracle.flops_ratio)
    for at in report.widths:
        name = at.width if isinstance(at.width, str) else f"width {label_of(at.width)}"
        row(f"{name} on every input", at.accuracy, at.flops_ratio, at.share, at.accuracy_routed)
    out.print(table)
    for line in _quality_lines(report):
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def _quality_lines(report: AccuracyReport) -> Iterator[str]:
    """Say briefly how good the answers are by other measures; the JSON has all of it."""
    routed, full = report.quality.routed, report.quality.full
    yield (
        f"macro F1 {percent(routed.macro_f1)}%, of the full network {percent(full.macro_f1)}%; expected calibration "
        f"error {percent(routed.ece)}%, of the full network {percent(full.ece)}%"
    )
    worst = sorted(routed.classes, key=lambda each: each.f1)[:LOWEST]
    yield "lowest F1: " + ", ".join(f"{each.name} {percent(each.f1)}% of {each.rows:,} rows" for each in worst)
    if (at := report.abstaining) is not None:
        right = "none" if at.accuracy is None else f"{percent(at.accuracy)}%"
        yield f"below a score of {at.below:g} no answer: {percent(at.coverage)}% are answered, {right} of them right"
