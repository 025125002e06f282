"""Classify the rows of a table of any size, each at its own width."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from contextlib import AbstractContextManager, closing, nullcontext
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from sharcs.data.delimited import check_unquoted
from sharcs.data.dialects import DELIMITERS
from sharcs.data.files.textfiles import CHUNK_ROWS
from sharcs.data.jsonlines import as_strings
from sharcs.data.labels import label_values
from sharcs.data.tables import format_of, table_writer
from sharcs.errors import InputError
from sharcs.files import is_lock, written
from sharcs.inference.engine import InferenceEngine
from sharcs.inference.exported import ExportedModel
from sharcs.inference.record import CUT, AnswerRecord, recorded
from sharcs.inference.stream import TextStream
from sharcs.subnetworks.onednn import without_shape_cache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sharcs.config import SharcsConfig
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
    """

    reused: int
    cut: int
    max_length: int


def predict_table(
    trained: TrainedModel | ExportedModel,
    folder: Path,
    stream: TextStream,
    output: Path,
    width: float | str | None = None,
    on_rows: Callable[[int], None] | None = None,
    scores: bool = False,
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

    Returns:
        How many rows a run before had answered, and how many texts were cut.

    Raises:
        InputError: If the input is malformed, or the output can't be written, or another process is writing it.
    """
    engine = _engine(trained, width)
    settings = _settings(engine, folder, scores)
    added = added_columns(engine.config, scores)
    again = "make room, and the same command goes on from the rows that are answered"
    steady: AbstractContextManager[None] = nullcontext()
    if not isinstance(trained, ExportedModel):
        steady = without_shape_cache(trained.model.device, trained.model.dtype)
    _check_unquoted(stream, engine.config, output, added)
    with written(f"{output}", again), recorded(output) as record, steady:
        reused = _answer(engine, settings, record, stream, on_rows or (lambda _: None), added)
        cut = _join(engine, settings, record, stream, output, added)
    return Predicted(reused, cut, engine.max_length)


def _engine(trained: TrainedModel | ExportedModel, width: float | str | None) -> InferenceEngine | OnnxRunner:
    """Make what answers a stream."""
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
) -> int:
    """Answer the windows that the record has no answers to; return how many rows of the others there are."""
    # Windows that wait for their answers: the engine reads ahead.
    waiting: deque[tuple[int, str, list[Text]]] = deque()
    reused = 0

    def unanswered() -> Iterator[list[Text]]:
        nonlocal reused
        for number, (_, texts) in enumerate(stream.windows(engine.window)):
            fingerprint = _fingerprint(settings, texts)
            if record.read(number, fingerprint) is None:
                waiting.append((number, fingerprint, texts))
                yield texts
            else:
                reused += len(texts)
                on_rows(len(texts))

    with closing(engine.answer_windows(unanswered())) as windows:
        for answers in windows:
            columns = _columns_of(answers, engine.config)
            written = {name: columns[name] for name in added.names}
            number, fingerprint, texts = waiting.popleft()
            cut = engine.count_cut(texts, answers.tokens)
            record.write(number, fingerprint, pa.Table.from_pydict(written, schema=added), cut)
            on_rows(len(answers))
    return reused


def _columns_of(answers: Answers, config: SharcsConfig | Bundle) -> dict[str, list[Any]]:
    """Write answers as columns, all that there may be."""
    names = class_names(config)
    values, _ = label_values(names, config.label_type)
    predictions = answers.predictions()
    columns: dict[str, list[Any]] = {
        "prediction": [values[answer.class_index] for answer in predictions],
        "score": [answer.score for answer in predictions],
        "width": [config.widths[answer.width_index] for answer in predictions],
        "sub_network": [config.names[answer.width_index] for answer in predictions],
    }
    of_classes = answers.probabilities.astype(float).T.tolist()
    return columns | {f"score_{name}": scores for name, scores in zip(names, of_classes, strict=True)}


def _check_unquoted(stream: TextStream, config: SharcsConfig | Bundle, output: Path, added: pa.Schema) -> None:
    """Refuse what can't be written without quotes, if there are to be none, before the work."""
    suffix = format_of(output)
    if suffix not in DELIMITERS or not stream.table.dialect.no_quotes:
        return
    dialect = stream.table.dialect.of_suffix(suffix)
    names = [*stream.table.schema.names, *added.names, *class_names(config)]
    check_unquoted(pa.table({"name": names}), dialect, f"{output}: the name")
    for rows, _ in stream.windows(CHUNK_ROWS):
        check_unquoted(as_strings(rows), dialect, f"{output}: a row of {stream.table.source}")


def _join(
    engine: InferenceEngine | OnnxRunner,
    settings: str,
    record: AnswerRecord,
    stream: TextStream,
    output: Path,
    added: pa.Schema,
) -> int:
    """Write the output: all rows as they were, with their answers; return how many texts were cut."""
    cut = 0
    columns = stream.table.schema
    taken = list(columns.names)
    fields = []
    for field in added:
        fields.append(field.with_name(free_name(field.name, taken)))
        taken.append(fields[-1].name)
    schema = pa.schema([*columns, *fields], metadata=columns.metadata)
    with table_writer(output, schema, record.folder / "output", stream.table.dialect) as write:
        for number, (rows, texts) in enumerate(stream.windows(engine.window)):
            answers = record.read(number, _fingerprint(settings, texts))
            if answers is None:
                raise InputError(f"{stream.table.source}: has changed while its rows were answered; run it again")
            cut += int((answers.schema.metadata or {}).get(CUT, 0))
            write(pa.Table.from_arrays([*rows.columns, *answers.columns], schema=schema))
    return cut


def class_names(config: SharcsConfig | Bundle) -> list[str]:
    """List the classes' names by index."""
    return [str(name) for _, name in sorted((config.id2label or {}).items(), key=lambda pair: int(pair[0]))]


def added_columns(config: SharcsConfig | Bundle, scores: bool = False) -> pa.Schema:
    """List the columns of an answer; a width says nothing of what stands in front of the encoder, and a name does."""
    _, kind = label_values(class_names(config), config.label_type)
    fields = [pa.field("prediction", kind), pa.field("score", pa.float64()), pa.field("width", pa.float64())]
    if config.front_count:
        fields.append(pa.field("sub_network", pa.string()))
    if scores:
        fields += [pa.field(f"score_{name}", pa.float64()) for name in class_names(config)]
    return pa.schema(fields)


def _fingerprint(settings: str, texts: list[Text]) -> str:
    """Name a window's texts and all else that the answers depend on."""
    return hashlib.sha256(f"{settings}\n{texts!r}".encode()).hexdigest()


def _settings(engine: InferenceEngine | OnnxRunner, folder: Path, scores: bool) -> str:
    """Collect what answers depend on besides the texts."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not is_lock(path):
            with path.open("rb") as file:
                files[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    settings = {
        "model": files,
        "width": engine.width,
        "scores": scores,
        "window": engine.window,
        "batch_tokens": engine.batch_tokens,
        "versions": {name: metadata.version(name) for name in ("sharcs", "torch", "transformers", "tokenizers")},
    }
    if isinstance(engine, InferenceEngine):
        settings["device"] = engine.model.device.type
    else:
        settings["runtime"] = engine.version
    return json.dumps(settings, sort_keys=True)


def free_name(name: str, taken: list[str]) -> str:
    """Find a column name that overwrites nothing: the name itself, or the first of name_2, name_3, ... ."""
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate
