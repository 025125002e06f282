"""The command ``sharcs report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sharcs.artifacts import open_model
from sharcs.cli_options import (
    DataOption,
    LabelOption,
    ModelArgument,
    PairOption,
    TextOption,
    check_pairs,
    columns_of,
    groups_of,
    progress_bar,
    say,
)
from sharcs.columns import Columns
from sharcs.data import TextData, load_texts
from sharcs.report import build_report
from sharcs.report_page import check_report_path, write_report

__all__ = ["report"]


def report(
    folder: ModelArgument,
    data: DataOption,
    output: Annotated[Path, typer.Option("--output", help="Page to write, .html; its charts as .png beside.")],
    group_column: Annotated[
        str | None, typer.Option("--group-column", help="Show whom routing harms for each value of this column, too.")
    ] = None,
    text_column: TextOption = None,
    text_pair_column: PairOption = None,
    label_column: LabelOption = None,
) -> None:
    """Write a page that a manager can read: what routing saves, whom it harms, and what to look at.

    One HTML file that loads nothing. Without labels it shows what can be shown without them.
    """
    check_report_path(output)
    trained = open_model(folder)
    columns = columns_of(text_column, text_pair_column, label_column, trained.columns)
    texts = _texts(data, columns, labelled=label_column is not None)
    check_pairs(trained, data, texts.pairs is not None)
    group = None if group_column is None else (group_column, groups_of(texts, group_column))
    with progress_bar("measuring", len(texts)) as advance:
        found = build_report(trained, texts, folder.resolve().name, group, on_batch=advance)
    page, *pictures = write_report(found, output)
    if not found["labelled"]:
        say("the data has no labels; the page shows what can be shown without them")
    say(f"wrote {page} and {len(pictures)} pictures beside it")


def _texts(data: str, columns: Columns, labelled: bool) -> TextData:
    """Read the data; its labels are missing if the column is, or has nothing in it, and wrong if some are."""
    texts = load_texts(data, columns, labelled=labelled)
    if texts.labels is not None or columns.label not in texts.table.column_names:
        return texts
    values = texts.table.column(columns.label)
    # -1 is how `datasets` says that a label is withheld.
    if all(str(value).strip() in ("", "-1", "nan", "None") for value in values.unique().to_pylist()):
        return texts
    return load_texts(data, columns, labelled=True)  # says which row is wrong
