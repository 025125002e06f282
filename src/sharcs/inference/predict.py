"""Classify the rows of a table of any size, each at its own width."""

from __future__ import annotations

import hashlib
from collections import deque
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sharcs.data.tables import TableStream, open_table, table_writer
from sharcs.data.textfiles import in_chunks
from sharcs.data.texts import Columns, checked_texts, pair_column
from sharcs.errors import InputError, first_line
from sharcs.inference.engine import InferenceEngine, Prediction
from sharcs.inference.record import RecordedAnswers, digest_of
from sharcs.subnetworks.onednn import without_shape_cache

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from sharcs.inference.folder import TrainedModel
    from sharcs_runtime.scheduler import Text

__all__ = ["TextStream", "open_texts", "predict_table"]


@dataclass(frozen=True, slots=True)
class TextStream:
    """The texts of a table of any size.

    Attributes:
        table: All columns.
        text: The column with the texts.
        pair: The column with the second texts, or None.
    """

    table: TableStream
    text: str
    pair: str | None

    def batches(self) -> Iterator[tuple[pa.RecordBatch, list[Text]]]:
        """Read all rows from the beginning: some rows, and their texts or pairs of texts.

        Raises:
            InputError: If a row is malformed or has no text.
        """
        count, source = 0, self.table.source
        for batch in self.table.batches():
            texts: list[Text] = list(checked_texts(batch, self.text, "text", source, count))
            if self.pair is not None:
                seconds = checked_texts(batch, self.pair, "text pair", source, count)
                texts = list(zip(texts, seconds, strict=True))  # type: ignore[arg-type]
            count += batch.num_rows
            yield batch, texts

    def check(self) -> int:
        """Read all rows and return their number, so that a wrong one is found before the work on the others.

        Raises:
            InputError: If a row is malformed or has no text, or there is none.
        """
        count = sum(len(texts) for _, texts in self.batches())
        if not count:
            raise InputError(f"{self.table.source}: the table has no rows")
        return count


def open_texts(source: str, columns: Columns, encoding: str | None = None) -> TextStream:
    """Open a table and find its texts.

    Args:
        source: What ``read_table`` takes: a file, a built-in data set or one of the hub.
        columns: The names of the columns to use.
        encoding: That of a text file, as for ``read_table``.

    Raises:
        InputError: If the source can't be read, or a column is missing or holds no texts.
    """
    table = open_table(source, encoding)
    stream = TextStream(table, columns.text, pair_column(table.schema, columns))
    checked_texts(table.schema.empty_table(), stream.text, "text", source)
    if stream.pair is not None:
        checked_texts(table.schema.empty_table(), stream.pair, "text pair", source)
    return stream


def predict_table(
    trained: TrainedModel,
    folder: Path,
    stream: TextStream,
    output: Path,
    width: float | None = None,
    on_rows: Callable[[int], None] | None = None,
) -> int:
    """Write a table with the input's columns and rows as they are, then ``prediction``, ``score`` and ``width``.

    ``prediction`` is the class's name, ``score`` its probability. A new column whose name is taken gets a number
    behind it. Memory doesn't grow with the number of rows. Answers are recorded in a hidden folder beside the
    output. A run that ends early leaves it there, unless that is a window of texts or less, and the next one with the
    same model, texts and options goes on from it to the same output, byte for byte. Meanwhile a CPU runs
    torch's own operations without oneDNN, in the whole process, where that keeps memory flat: see
    :mod:`sharcs.subnetworks.onednn`.

    Args:
        trained: Model and tokenizer.
        folder: Where they are from.
        stream: The texts.
        output: A path that ``check_output_path`` accepts.
        width: Forces one width; by default the routing policy chooses.
        on_rows: Called with the number of rows after each window, for a progress bar.

    Returns:
        How many rows a run before had answered.

    Raises:
        InputError: If the input is malformed, or the output can't be written.
    """
    engine = InferenceEngine(trained.model, trained.tokenizer, width=width)
    try:
        record = RecordedAnswers(output, _settings(engine, folder))
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({first_line(error)})") from error
    done = False
    try:
        with without_shape_cache(trained.model.device, trained.model.dtype):
            _write_answers(engine, record, stream, output, on_rows)
        done = True
        return record.reused
    finally:
        # So little is found again sooner than anybody wonders about a hidden folder.
        record.close(keep=not done and record.windows > 1)


def _write_answers(
    engine: InferenceEngine,
    record: RecordedAnswers,
    stream: TextStream,
    output: Path,
    on_rows: Callable[[int], None] | None,
) -> None:
    config = engine.model.config
    names = {int(index): name for index, name in (config.id2label or {}).items()}
    widths = list(config.widths)
    taken = list(stream.table.schema.names)
    added = [(free_name(name, taken), kind) for name, kind in ADDED_COLUMNS]
    schema = pa.schema([*stream.table.schema, *added], metadata=stream.table.schema.metadata)
    # Rows that were read and wait for their answers: the engine is a few windows ahead.
    waiting: deque[pa.RecordBatch] = deque()

    def texts() -> Iterator[Text]:
        for batch, of_batch in stream.batches():
            waiting.append(batch)
            yield from of_batch

    found: deque[Prediction] = deque()
    with (
        table_writer(output, schema, record.folder / "output") as write,
        closing(_answers(engine, record, in_chunks(texts(), engine.window))) as windows,
    ):
        for window in windows:
            found.extend(window)
            if on_rows:
                on_rows(len(window))
            while waiting and waiting[0].num_rows <= len(found):
                batch = waiting.popleft()
                rows = [found.popleft() for _ in range(batch.num_rows)]
                columns = [
                    pa.array([names[row.class_index] for row in rows], pa.string()),
                    pa.array([row.score for row in rows], pa.float64()),
                    pa.array([widths[row.width_index] for row in rows], pa.float64()),
                ]
                write(pa.Table.from_arrays([*batch.columns, *columns], schema=schema))


def _answers(
    engine: InferenceEngine, record: RecordedAnswers, windows: Iterator[list[Text]]
) -> Generator[list[Prediction], None, None]:
    """Answer windows of texts, from the record as far as it goes."""
    for window in windows:
        recorded = record.next_window(window)
        if recorded is None:
            break
        yield recorded
    else:
        return
    digests: deque[str] = deque()

    def noted() -> Iterator[list[Text]]:
        for texts in chain([window], windows):
            digests.append(digest_of(texts))
            yield texts

    with closing(engine.predict_windows(noted())) as found:
        for answers in found:
            record.append(digests.popleft(), answers)
            yield answers


ADDED_COLUMNS = (("prediction", pa.string()), ("score", pa.float64()), ("width", pa.float64()))


def _settings(engine: InferenceEngine, folder: Path) -> dict[str, Any]:
    """Collect what answers depend on besides the texts."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                files[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "model": files,
        "width": engine.width,
        "window": engine.window,
        "batch_tokens": engine.batch_tokens,
        "device": engine.model.device.type,
        "versions": {name: metadata.version(name) for name in ("sharcs", "torch", "transformers", "tokenizers")},
    }


def free_name(name: str, taken: list[str]) -> str:
    """Find a column name that overwrites nothing: the name itself, or the first of name_2, name_3, ... ."""
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate
