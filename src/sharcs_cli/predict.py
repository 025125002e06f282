"""The command ``sharcs predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sharcs_cli.options import (
    DataOption,
    DelimiterOption,
    EncodingOption,
    LabelOption,
    NetworkArgument,
    NoQuotesOption,
    PairOption,
    TextOption,
    WidthOption,
    check_pairs,
    columns_of,
    cut_texts,
    dialect_of,
    opened,
    progress_bar,
    say,
    width_of,
)


def predict(
    context: typer.Context,
    folder: NetworkArgument,
    data: DataOption,
    output: Annotated[Path, typer.Option("--output", help="Table to write; its ending names the format.")],
    width: WidthOption = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Add a column with the probability of each class.")
    ] = False,
    text_column: TextOption = None,
    text_pair_column: PairOption = None,
    label_column: LabelOption = None,
    encoding: EncodingOption = None,
    delimiter: DelimiterOption = None,
    no_quotes: NoQuotesOption = False,
) -> None:
    """Classify every row: the input's columns, and prediction, score and width.

    A table of any size takes the same memory. What was answered when the command was killed is kept in a hidden
    folder beside the output, and the same command goes on from there.
    """
    from sharcs.data.tables import check_output_path
    from sharcs.files import claimed
    from sharcs.inference.predict import predict_table
    from sharcs.inference.stream import open_texts

    check_output_path(output)
    context.with_resource(claimed(output))
    trained = opened(folder)
    asked = width_of(width)
    if asked is not None:
        trained.model.config.index_of(asked)
    columns = columns_of(text_column, text_pair_column, label_column, trained.columns)
    stream = open_texts(data, columns, dialect_of(encoding, delimiter, no_quotes))
    check_pairs(trained, data, stream.pair is not None)
    rows = stream.check()
    try:
        with progress_bar("predicting", rows) as advance:
            done = predict_table(trained, folder, stream, output, asked, on_rows=advance, scores=scores)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from the rows that are answered")
        raise typer.Exit(130) from None
    if done.cut:
        say(f"sharcs: note: {cut_texts(done.cut, rows, done.max_length)}")
    say(f"{rows:,} rows are in {output}" + (f"; {done.reused:,} of them were answered before" if done.reused else ""))
