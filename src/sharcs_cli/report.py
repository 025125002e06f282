"""The command ``sharcs report``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sharcs_cli.images import ImageOption, reads_images
from sharcs_cli.options import (
    DataOption,
    DelimiterOption,
    EncodingOption,
    LabelOption,
    ModelArgument,
    NoQuotesOption,
    PairOption,
    TextOption,
    check_pairs,
    dialect_of,
    groups_of,
    inputs_of,
    progress_bar,
    say,
)

if TYPE_CHECKING:
    from sharcs.data.dialects import Dialect
    from sharcs.data.texts import Columns, TextData
    from sharcs.inference.folder import TrainedModel


def report(
    context: typer.Context,
    folder: ModelArgument,
    data: DataOption,
    output: Annotated[Path, typer.Option("--output", help="Page to write, .html; its charts as .png beside.")],
    group_column: Annotated[
        str | None, typer.Option("--group-column", help="Show whom routing harms for each value of this column, too.")
    ] = None,
    image_column: ImageOption = None,
    text_column: TextOption = None,
    text_pair_column: PairOption = None,
    label_column: LabelOption = None,
    encoding: EncodingOption = None,
    delimiter: DelimiterOption = None,
    no_quotes: NoQuotesOption = False,
) -> None:
    """Write a page that a manager can read: what routing saves, whom it harms, and what to look at.

    One HTML file that loads nothing. Without labels it shows what can be shown without them.
    """
    from sharcs.files import claimed
    from sharcs.inference.folder import open_trained
    from sharcs.report.content import build_report
    from sharcs.report.page import check_report_path, picture_paths, write_report

    check_report_path(output)
    context.with_resource(claimed(output, *picture_paths(output).values(), name=f"--output {output}"))
    trained = open_trained(folder)
    columns = inputs_of(trained, image_column, text_column, text_pair_column, label_column)
    texts = _texts(trained, data, columns, label_column is not None, dialect_of(encoding, delimiter, no_quotes))
    check_pairs(trained, data, texts.pairs is not None)
    group = None if group_column is None else (group_column, groups_of(texts, group_column))
    with progress_bar("measuring", len(texts)) as advance:
        found = build_report(trained, texts, folder.resolve().name, group, on_batch=advance)
    page, *pictures = write_report(found, output)
    if not found.labelled:
        say("the data has no labels; the page shows what can be shown without them")
    say(f"wrote {page} and {len(pictures)} pictures beside it")


def _texts(trained: TrainedModel, data: str, columns: Columns, labelled: bool, dialect: Dialect) -> TextData:
    """Read the data; its labels are missing if the column is, or holds nothing, and wrong if some of them are."""
    from sharcs.data.values import python_values
    from sharcs.jobs.given import read_given

    problem_type = trained.model.config.problem_type
    read = partial(read_given, data, columns, dialect, images=reads_images(trained), problem_type=problem_type)
    texts = read(labelled=labelled)
    if isinstance(columns.label, str) and columns.label in texts.table.column_names:
        values = set(map(str, python_values(texts.table.column(columns.label))))
        # -1 is how `datasets` says that a label is withheld.
        nothing = {"", "-1", "nan", "None"} - {str(name) for name in (trained.model.config.id2label or {}).values()}
        if all(value.strip() in nothing for value in values):
            return replace(texts, labels=None)
        if texts.labels is None:
            # Says which row is wrong.
            return read(labelled=True)
    return texts
