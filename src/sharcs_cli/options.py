"""Options and helpers that several commands of ``sharcs`` share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sharcs_cli.images import input_column, reads_images
from sharcs_runtime.errors import InputError

if TYPE_CHECKING:
    from sharcs.data.dialects import Dialect
    from sharcs.data.texts import Columns, TextData
    from sharcs.inference.exported import ExportedModel
    from sharcs.inference.folder import TrainedModel

out = Console()
err = Console(stderr=True)

DATA_HELP = (
    "A .csv, .tsv, .jsonl or .parquet file (.gz and .zst too), a built-in data set (reuters-r8:train), "
    "or owner/name:split for the datasets library."
)
DataOption = Annotated[str, typer.Option("--data", help=DATA_HELP)]
EncodingOption = Annotated[
    str | None,
    typer.Option(
        "--encoding",
        help="Encoding of text files, like cp1252.",
        show_default="UTF-8; with a byte-order mark, UTF-16",
    ),
]
DelimiterOption = Annotated[
    str | None,
    typer.Option(
        "--delimiter",
        help="What separates the fields of .csv and .tsv files, like ';'.",
        show_default="a comma in .csv, a tab in .tsv",
    ),
]
NoQuotesOption = Annotated[
    bool, typer.Option("--no-quotes", help="Quotes in .csv and .tsv files are letters like others.")
]
TextOption = Annotated[
    str | None,
    typer.Option("--text-column", help="Column with the texts.", show_default="text; of a model, its training's"),
]
PairOption = Annotated[
    str | None,
    typer.Option(
        "--text-pair-column",
        help="Column with the second texts of text pairs.",
        show_default="text_pair, if there is one; of a model, its training's",
    ),
]
LabelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--label-column",
        help="Column with the classes, or with lists of labels; given several times, a column a label.",
        show_default="label; of a model, its training's",
    ),
]
WidthOption = Annotated[
    str | None,
    typer.Option(
        "--width",
        help="Run every input at this width, or by the sub-network of this name.",
        show_default="what the policy chooses",
    ),
]
AbstainOption = Annotated[
    float | None,
    typer.Option("--abstain-below", help="Give no answer whose score is below this, like 0.8."),
]
BudgetOption = Annotated[float | None, typer.Option("--budget", help="Mean FLOPs over the full network's, like 0.5.")]
DropOption = Annotated[
    float | None, typer.Option("--max-accuracy-drop", help="Accuracy below the full network's; needs labels.")
]
DisagreementOption = Annotated[
    float | None,
    typer.Option("--max-disagreement", help="Share of answers unlike the full network's; needs no labels."),
]
ModelArgument = Annotated[Path, typer.Argument(metavar="DIR", help="Output directory of 'sharcs train'.")]

NetworkArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="Output directory of 'sharcs train' or 'sharcs export'.")
]


def opened(folder: Path, threads: int | None = None) -> TrainedModel | ExportedModel:
    """Open a trained model or an export, and say what its promise is not for."""
    from sharcs.inference.exported import ExportedModel, open_network

    network = open_network(folder, threads)
    if isinstance(network, ExportedModel) and network.model.config.untested is not None:
        say(f"sharcs: note: {network.model.config.untested}")
    return network


NOTHING_MEETS_IT = 3  # exit code


def check_abstaining(below: float | None) -> None:
    """Refuse a limit that no score is below, or every one is.

    Raises:
        InputError: If it is one.
    """
    if below is not None and not 0 < below < 1:
        raise InputError(f"--abstain-below {below:g}: has to be between 0 and 1, like 0.8")


def number_or_auto(option: str, text: str) -> int | None:
    """Read a number of at least 1; None stands for ``auto``."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"{option} {text}: has to be auto, or a number of at least 1")
    return int(text)


def width_of(text: str | None) -> float | str | None:
    """Read a width, or the name of a sub-network."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def say(message: str) -> None:
    """Print a line on standard error as it is: brackets in names are no markup, and long paths stay whole."""
    err.print(message, markup=False, highlight=False, soft_wrap=True)


def cut_texts(cut: int, rows: int, max_length: int) -> str:
    """Say how many of some texts were read in part only."""
    return f"{cut:,} of {rows:,} texts have more than {max_length:,} tokens, and were cut there"


def percent(value: float | None, digits: int = 1) -> str:
    """Write a fraction as a percentage for a table; nothing where there is none."""
    return "" if value is None else f"{100 * value:.{digits}f}"


def columns_of(
    text: str | None, pair: str | None, label: list[str] | None, trained: Columns | None = None
) -> Columns:
    """Take the columns that were named, else those of the training, else the defaults."""
    from sharcs.data.texts import Columns

    base = trained or Columns()
    labels = label and (label[0] if len(label) == 1 else tuple(label))
    if label and len(set(label)) < len(label):
        raise InputError(f"--label-column: {max(label, key=label.count)} is given twice; give each column once")
    return Columns(text or base.text, pair or base.text_pair, labels or base.label)


def inputs_of(
    network: TrainedModel | ExportedModel,
    image: str | None,
    text: str | None,
    pair: str | None,
    label: list[str] | None,
) -> Columns:
    """Take the columns for a network of images or texts; see :func:`columns_of`."""
    return columns_of(input_column(reads_images(network), image, text, pair), pair, label, network.columns)


def dialect_of(encoding: str | None, delimiter: str | None, no_quotes: bool) -> Dialect:
    """Take the options that say how text files are written."""
    from sharcs.data.dialects import Dialect

    return Dialect(encoding, delimiter, no_quotes)


def texts_of(
    trained: TrainedModel | ExportedModel, data: str, columns: Columns, labelled: bool, dialect: Dialect
) -> TextData:
    """Read a command's data, and refuse text pairs where the model knows single texts."""
    from sharcs.jobs.given import read_given

    problem_type = trained.model.config.problem_type
    images = reads_images(trained)
    texts = read_given(data, columns, dialect, labelled=labelled, images=images, problem_type=problem_type)
    check_pairs(trained, data, texts.pairs is not None)
    return texts


def drawn_texts(
    trained: TrainedModel | ExportedModel,
    data: list[str],
    columns: Columns,
    labelled: bool,
    dialect: Dialect,
    draw: tuple[int | None, int | None],
    group_column: str | None,
) -> tuple[TextData, dict[str, int]]:
    """Read one table, or draw rows from many, and say what there is to record of that."""
    from sharcs.data.sample import sample_texts
    from sharcs.data.sources import is_one_table

    max_samples, seed = draw
    if seed is not None and (max_samples is None or seed < 0):
        raise InputError(f"--seed {seed}: is a number from 0 on for the draw of --max-samples; give both, or neither")
    if reads_images(trained) and (len(data) > 1 or max_samples is not None):
        raise InputError("--data, --max-samples: of images one table or folder is taken, whole; name it alone")
    if (reads_images(trained) or is_one_table(data)) and max_samples is None:
        return texts_of(trained, data[0], columns, labelled=labelled, dialect=dialect), {}
    also = [] if group_column is None else [group_column]
    sample = sample_texts(
        data,
        columns,
        labelled=labelled,
        max_samples=max_samples,
        seed=seed or 0,
        dialect=dialect,
        also=also,
        problem_type=trained.model.config.problem_type,
    )
    check_pairs(trained, sample.texts.source, sample.texts.pairs is not None)
    if len(sample.texts) < sample.rows:
        say(f"{len(sample.texts):,} of {sample.rows:,} rows are drawn")
    return sample.texts, {"drawn_from": sample.rows, "draw_seed": seed or 0}


def claim_json(context: typer.Context, path: Path | None) -> Path | None:
    """Keep other runs from writing numbers and picture until the command has ended.

    Args:
        context: The command's.
        path: The value of --json.

    Returns:
        The picture beside it, or None if nothing is to be written.

    Raises:
        InputError: If another run is writing them, or they can't be written; before any work.
    """
    from sharcs.files import claimed

    if path is None:
        return None
    if not path.absolute().parent.is_dir():
        raise InputError(f"--json {path}: its directory does not exist; make it first")
    if path.is_dir():
        raise InputError(f"--json {path}: is a directory; name a file")
    if path.suffix == ".png":
        raise InputError(f"--json {path}: is the name of the picture beside the numbers; name a .json file")
    picture = path.with_suffix(".png")
    context.with_resource(claimed(path, picture, name=f"--json {path}"))
    return picture


def check_pairs(trained: TrainedModel | ExportedModel, data: str, has_pairs: bool) -> None:
    """Refuse text pairs where the model knows single texts.

    Raises:
        InputError: If it does.
    """
    if has_pairs and trained.columns.text_pair is None:
        raise InputError(f"{data}: has text pairs, but the model was trained on single texts; drop the second column")


def groups_of(texts: TextData, column: str) -> list[str]:
    """Take a column whose values split the rows into groups.

    Raises:
        InputError: If there is none of this name.
    """
    from sharcs.data.values import python_values, text_of

    if column not in texts.table.column_names:
        names = ", ".join(repr(name) for name in texts.table.column_names[:20])
        raise InputError(f"{texts.source}: no column {column!r}; it has {names}; name one with --group-column")
    values = python_values(texts.table.column(column))
    return ["" if value is None else text_of(value) for value in values]


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a progress bar on standard error and hand out its advance function."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.advance(task, count)
