"""The command ``sharcs predict``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sharcs_cli.images import ImageOption, reads_images
from sharcs_cli.options import (
    DATA_HELP,
    AbstainOption,
    DelimiterOption,
    EncodingOption,
    LabelOption,
    NetworkArgument,
    NoQuotesOption,
    PairOption,
    TextOption,
    WidthOption,
    check_abstaining,
    check_pairs,
    cut_texts,
    dialect_of,
    inputs_of,
    opened,
    progress_bar,
    say,
    width_of,
)
from sharcs_cli.units import needs_folder, predict_many
from sharcs_runtime.errors import InputError

if TYPE_CHECKING:
    from sharcs.data.dialects import Dialect


def predict(
    context: typer.Context,
    folder: NetworkArgument,
    data: Annotated[
        list[str],
        typer.Option(
            "--data",
            help=f"{DATA_HELP} For a directory as output, also patterns ('part-*.csv'), directories and URLs; may be "
            "given several times.",
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            help="Table to write, whose ending names the format; or a directory or its URL, for a file a unit.",
        ),
    ],
    width: WidthOption = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Add a column with the probability of each class.")
    ] = False,
    abstain_below: AbstainOption = None,
    workers: Annotated[
        str,
        typer.Option("--workers", help="Processes that fill a directory; auto: one for each usable processor."),
    ] = "auto",
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            help="Fill a directory by actors on a Ray cluster, one a processor or as many as --workers: its "
            "HOST:PORT, or auto for the cluster of this machine, else a new one.",
        ),
    ] = None,
    shard: Annotated[
        str, typer.Option("--shard", help="Do one part of the units: 3/8 is the fourth of eight.")
    ] = "0/1",
    on_error: Annotated[
        str,
        typer.Option("--on-error", help="A row without a text: stop, keep it without an answer, or skip it."),
    ] = "stop",
    check_share: Annotated[
        float,
        typer.Option("--check-share", help="Share of the rows that the full network checks."),
    ] = 0.0,
    when_refuted: Annotated[
        str,
        typer.Option("--when-refuted", help="A refuted promise: stop, the full network for the rest, or go-on."),
    ] = "stop",
    image_column: ImageOption = None,
    text_column: TextOption = None,
    text_pair_column: PairOption = None,
    label_column: LabelOption = None,
    encoding: EncodingOption = None,
    delimiter: DelimiterOption = None,
    no_quotes: NoQuotesOption = False,
) -> None:
    """Classify every row: the input's columns, and prediction, score and width.

    A table of any size takes the same memory. What was answered when the command was killed is kept in a hidden
    folder beside the output, and the same command goes on from there. A directory is filled by any number of
    processes, each unit on one thread; the same command does what is left.
    """
    from sharcs.units.place import is_folder

    check_abstaining(abstain_below)
    dialect = dialect_of(encoding, delimiter, no_quotes)
    many = (workers, ray, shard, on_error, check_share, when_refuted)
    columns = (text_column, text_pair_column, label_column)
    if is_folder(output):
        predict_many(context, folder, data, output, width_of(width), scores, abstain_below, many, columns, dialect)
        return
    needs_folder(output, many)
    asked = width_of(width)
    _predict_one(context, folder, data, Path(output), asked, scores, abstain_below, columns, image_column, dialect)


def _predict_one(
    context: typer.Context,
    folder: Path,
    data: list[str],
    output: Path,
    width: float | str | None,
    scores: bool,
    abstain_below: float | None,
    columns: tuple[str | None, str | None, list[str] | None],
    image_column: str | None,
    dialect: Dialect,
) -> None:
    from sharcs.data.sources import is_one_table
    from sharcs.data.tables import check_output_path
    from sharcs.files import claimed
    from sharcs.inference.images import open_image_stream
    from sharcs.inference.predict import check_scored, predict_table
    from sharcs.inference.stream import open_texts

    check_output_path(output)
    context.with_resource(claimed(output))
    trained = opened(folder)
    check_scored(trained.model.config, scores, abstain_below)
    if width is not None:
        trained.model.config.index_of(width)
    images = reads_images(trained)
    if len(data) > 1 or not (images or is_one_table(data)):
        raise InputError(
            f"{data[0]}: may be several tables, and --output {output} is one; give one file, or name a directory"
        )
    text, pair, label = columns
    inputs = inputs_of(trained, image_column, text, pair, label)
    stream = (open_image_stream if images else open_texts)(data[0], inputs, dialect)
    check_pairs(trained, data[0], stream.pair is not None)
    rows = stream.check()
    try:
        with progress_bar("predicting", rows) as advance:
            done = predict_table(trained, folder, stream, output, width, advance, scores, abstain_below)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from the rows that are answered")
        raise typer.Exit(130) from None
    if done.cut:
        say(f"sharcs: note: {cut_texts(done.cut, rows, done.max_length)}")
    found = f"{rows:,} rows are in {output}"
    if done.reused:
        found += f"; {done.reused:,} of them were answered before"
    if done.abstained:
        found += f"; {done.abstained:,} have no answer, because its score is too low"
    say(found)
