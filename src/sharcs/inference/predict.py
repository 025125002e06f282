"""Classify the rows of a table of any size, each at its own width."""

from __future__ import annotations

import hashlib
from collections import deque
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa

from sharcs.data.delimited import check_unquoted
from sharcs.data.dialects import DELIMITERS
from sharcs.data.files.textfiles import CHUNK_ROWS
from sharcs.data.jsonlines import as_strings
from sharcs.data.labels import label_values
from sharcs.data.tables import format_of, table_writer
from sharcs.errors import InputError
from sharcs.files import written
from sharcs.inference.engine import InferenceEngine
from sharcs.inference.exported import ExportedModel
from sharcs.inference.folder import TrainedImages
from sharcs.inference.images import ImageEngine
from sharcs.inference.record import CUT, AnswerRecord, answer_settings, recorded
from sharcs.inference.stream import TextStream
from sharcs.subnetworks.onednn import without_shape_cache
from sharcs_runtime.scores import MULTI_LABEL, REGRESSION
from sharcs_runtime.stage.columns import added_names, answer_columns, free_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sharcs.config import SharcsConfig
    from sharcs.data.dialects import Dialect
    from sharcs.data.tables import TableStream
    from sharcs.inference.folder import TrainedModel
    from sharcs_runtime.answers import Answers
    from sharcs_runtime.bundle import Bundle
    from sharcs_runtime.onnx import OnnxRunner
    from sharcs_runtime.tokens import Text


class Predicted(NamedTuple):
    """What became of a table's rows.

    Attributes:
        reused: How many of them a run before had answered.
        cut: How many texts have more tokens than are read.
        max_length: How many tokens are read, at most.
        abstained: How many rows have no answer, because it would have a score below the limit.
    """

    reused: int
    cut: int
    max_length: int
    abstained: int = 0


def predict_table(
    trained: TrainedModel | ExportedModel,
    folder: Path,
    stream: TextStream,
    output: Path,
    width: float | str | None = None,
    on_rows: Callable[[int], None] | None = None,
    scores: bool = False,
    abstain_below: float | None = None,
) -> Predicted:
    """Write a table with the input's columns and rows as they are, then ``prediction``, ``score`` and ``width``.

    ``prediction`` is the class, of the type of the training's labels, ``score`` its probability, ``score_NAME`` that
    of each class. A new column
    whose name is taken gets a number behind it. Memory doesn't grow with the number of rows. Answers are
    recorded, window by window, in a hidden folder beside the output, and joined with the rows at the end. A run
    that ends early leaves the folder there, unless that is a window of texts or less, and the next one takes from
    it what answers the same texts by the same model and options, to the same output, byte for byte. One process
    at a time writes an output. Meanwhile a CPU runs torch's own operations without oneDNN, in the whole process,
    where that keeps memory flat: see :mod:`sharcs.subnetworks.onednn`.

    Args:
        trained: Model and tokenizer, or an export.
        folder: Where they are from.
        stream: The texts.
        output: A path that ``check_output_path`` accepts.
        width: Forces one width; by default the routing policy chooses.
        scores: Whether the probabilities of all classes are written.
        on_rows: Called with the number of rows after each window, for a progress bar; from another thread for
            windows that a run before has answered.
        abstain_below: Leaves ``prediction`` empty where the score is below this.

    Raises:
        InputError: If the input is malformed, or the output can't be written, or another process is writing it.
    """
    engine = engine_of(trained, width)
    settings = answer_settings(engine, folder, scores, abstain_below)
    added = added_columns(engine.config, scores)
    again = "make room, and the same command goes on from the rows that are answered"
    steady: AbstractContextManager[None] = nullcontext()
    if not isinstance(trained, ExportedModel):
        steady = without_shape_cache(trained.model.device, trained.model.dtype)
    _check_unquoted(stream, engine.config, output, added)
    with written(f"{output}", again), recorded(output) as record, steady:
        reused = _answer(engine, settings, record, stream, on_rows or (lambda _: None), added, abstain_below)
        cut, abstained = _join(engine, settings, record, stream, output, added)
    return Predicted(reused, cut, engine.max_length, abstained)


def check_scored(config: SharcsConfig | Bundle, scores: bool, abstain_below: float | None) -> None:
    """Refuse scores of answers that have none.

    Raises:
        InputError: If some are asked for.
    """
    if config.problem_type == REGRESSION and (scores or abstain_below is not None):
        option = "scores" if scores else "abstain_below"
        raise InputError(f"`{option}`: the model answers with numbers, which have no scores; leave it out")


def engine_of(trained: TrainedModel | ExportedModel, width: float | str | None) -> InferenceEngine | OnnxRunner:
    """Make what answers a stream."""
    if isinstance(trained, TrainedImages):
        return ImageEngine(trained.model, trained.tokenizer, width=width)
    if not isinstance(trained, ExportedModel):
        return InferenceEngine(trained.model, trained.tokenizer, width=width)
    return trained.model if width is None else trained.model.at_width(width)


def _answer(
    engine: InferenceEngine | OnnxRunner,
    settings: str,
    record: AnswerRecord,
    stream: TextStream,
    on_rows: Callable[[int], None],
    added: pa.Schema,
    abstain_below: float | None,
) -> int:
    """Answer the windows that the record has no answers to; return how many rows of the others there are."""
    # Windows that wait for their answers: the engine reads ahead.
    waiting: deque[tuple[int, str, list[Text]]] = deque()
    reused = 0

    def unanswered() -> Iterator[list[Text]]:
        nonlocal reused
        for number, (_, texts) in enumerate(stream.windows(engine.window)):
            fingerprint = _fingerprint(settings, stream.identity(texts))
            if record.read(number, fingerprint) is None:
                waiting.append((number, fingerprint, texts))
                yield texts
            else:
                reused += len(texts)
                on_rows(len(texts))

    with closing(engine.answer_windows(unanswered())) as windows:
        for answers in windows:
            number, fingerprint, texts = waiting.popleft()
            cut = engine.count_cut(texts, answers.tokens)
            record.write(number, fingerprint, answer_table(answers, engine.config, added, abstain_below), cut)
            on_rows(len(answers))
    return reused


def answer_table(
    answers: Answers, config: SharcsConfig | Bundle, added: pa.Schema, abstain_below: float | None = None
) -> pa.Table:
    """Write answers as the columns that are added to a table; ``prediction`` is null where the score is too low."""
    columns = answer_columns(answers, class_names(config), config.label_type, config.widths, config.names)
    if abstain_below is not None:
        unsure = (answers.scores < abstain_below).tolist()
        columns["prediction"] = [
            None if no else value for no, value in zip(unsure, columns["prediction"], strict=True)
        ]
    return pa.Table.from_pydict({name: columns[name] for name in added.names}, schema=added)


def check_names(table: TableStream, config: SharcsConfig | Bundle, output: str, added: pa.Schema) -> Dialect | None:
    """Refuse columns and classes whose names can't be written without quotes, if there are to be none.

    Args:
        table: The input.
        config: Says what the classes are.
        output: Name of the file.
        added: The columns of an answer.

    Returns:
        How the file is written if fields can't have all that texts can, else None.

    Raises:
        InputError: If there are such names.
    """
    suffix = format_of(output)
    if suffix not in DELIMITERS or not table.dialect.no_quotes:
        return None
    dialect = table.dialect.of_suffix(suffix)
    names = [*table.schema.names, *added.names, *class_names(config)]
    check_unquoted(pa.table({"name": names}), dialect, f"{output}: the name")
    return dialect


def _check_unquoted(stream: TextStream, config: SharcsConfig | Bundle, output: Path, added: pa.Schema) -> None:
    """Refuse what can't be written without quotes, if there are to be none, before the work."""
    dialect = check_names(stream.table, config, f"{output}", added)
    if dialect is None:
        return
    for rows, _ in stream.windows(CHUNK_ROWS):
        check_unquoted(as_strings(rows), dialect, f"{output}: a row of {stream.table.source}")


def _join(
    engine: InferenceEngine | OnnxRunner,
    settings: str,
    record: AnswerRecord,
    stream: TextStream,
    output: Path,
    added: pa.Schema,
) -> tuple[int, int]:
    """Write the output: all rows as they were, with their answers; count texts that were cut, and empty answers."""
    cut = abstained = 0
    columns = stream.table.schema
    fields = free_fields(added, columns.names)
    schema = pa.schema([*columns, *fields], metadata=columns.metadata)
    with table_writer(output, schema, record.folder / "output", stream.table.dialect) as write:
        for number, (rows, texts) in enumerate(stream.windows(engine.window)):
            answers = record.read(number, _fingerprint(settings, stream.identity(texts)))
            if answers is None:
                raise InputError(f"{stream.table.source}: has changed while its rows were answered; run it again")
            cut += int((answers.schema.metadata or {}).get(CUT, 0))
            abstained += answers["prediction"].null_count
            write(pa.Table.from_arrays([*rows.columns, *answers.columns], schema=schema))
    return cut, abstained


def class_names(config: SharcsConfig | Bundle) -> list[str]:
    """List the classes' names by index."""
    return [str(name) for _, name in sorted((config.id2label or {}).items(), key=lambda pair: int(pair[0]))]


def added_columns(config: SharcsConfig | Bundle, scores: bool = False) -> pa.Schema:
    """List the columns of an answer, and their types."""
    _, kind = label_values(class_names(config), config.label_type)
    if config.problem_type in (MULTI_LABEL, REGRESSION):
        kind = pa.list_(kind) if config.problem_type == MULTI_LABEL else pa.float64()
    kinds = {"prediction": kind, "sub_network": pa.string()}
    names = added_names(config.problem_type, class_names(config), bool(config.front_count), scores)
    return pa.schema([pa.field(name, kinds.get(name, pa.float64())) for name in names])


def _fingerprint(settings: str, texts: object) -> str:
    """Name a window's texts and all else that the answers depend on."""
    return hashlib.sha256(f"{settings}\n{texts!r}".encode()).hexdigest()


def free_fields(added: pa.Schema, names: list[str]) -> list[pa.Field]:
    """Name added columns so that they overwrite none of some names."""
    return [field.with_name(name) for field, name in zip(added, free_names(added.names, names), strict=True)]
