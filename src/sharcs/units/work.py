"""One process's part: answer units, each on one thread, and write them."""

from __future__ import annotations

from collections import deque
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from sharcs.errors import InputError, first_line
from sharcs.inference.exported import ExportedModel, open_network
from sharcs.inference.predict import added_columns, answer_table, engine_of, free_fields
from sharcs.inference.stream import open_texts
from sharcs.subnetworks.onednn import without_shape_cache
from sharcs.units.place import done_name, place_of
from sharcs.units.rows import Rows, unit_windows
from sharcs_runtime.drift import DisagreementCounter

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from numpy.typing import NDArray

    from sharcs.inference.folder import TrainedModel
    from sharcs.inference.stream import TextStream
    from sharcs.units.plan import Job, Plan, Unit
    from sharcs.units.rows import Window
    from sharcs_runtime.answers import Answers
    from sharcs_runtime.stage.classify import Loaded
    from sharcs_runtime.tokens import Text

    Flags = NDArray[np.bool_]
    Disagreements = Callable[[list[Text], Answers, Flags], Flags]


@dataclass(frozen=True, slots=True)
class Done:
    """What is known of a unit that is done.

    Attributes:
        rows: Rows of the input.
        without: Those of them that had no text.
        on_error: What was done about these; None where there are none.
        cut: How many texts have more tokens than are read.
        full: Whether the full network answered all, because the promise had been refuted.
        checks: What the full network said of some answers, a counter as plain values; None without checks.
        abstained: How many answers are empty, because their score is below the limit.
    """

    rows: int
    without: int = 0
    on_error: str | None = None
    cut: int = 0
    full: bool = False
    checks: dict[str, Any] | None = None
    abstained: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Write it as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> Done:
        """Read what :meth:`to_dict` wrote.

        Raises:
            InputError: If it is nothing of the kind.
        """
        try:
            done = cls(**values)
            if not all(type(count) is int and count >= 0 for count in (done.rows, done.without, done.cut)):
                raise ValueError("counts are no numbers")
            if done.checks is not None:
                DisagreementCounter.from_dict(done.checks)
        except (TypeError, ValueError) as error:
            raise InputError(f"{where}: is no record of a unit ({first_line(error)}); name another output") from error
        return done


@contextmanager
def on_threads(trained: TrainedModel | ExportedModel, threads: int = 1) -> Iterator[None]:
    """Have torch compute on so many threads of the process meanwhile; an export was opened so."""
    if isinstance(trained, ExportedModel):
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with without_shape_cache(trained.model.device, trained.model.dtype):
            yield
    finally:
        torch.set_num_threads(before)


def open_stage(folder: str, width: float | str | None, threads: int) -> Loaded:
    """Load a network for :class:`sharcs_runtime.stage.Classify`."""
    trained = open_network(folder, threads)
    return engine_of(trained, width), lambda: on_threads(trained, threads)


class UnitWorker:
    """Answers units.

    Args:
        job: What is asked for.
        plan: Which rows are in which unit.
        promise: The limit of disagreement that is checked, and its confidence; None without checks.
        trained: The network, opened for one thread.
    """

    def __init__(
        self, job: Job, plan: Plan, promise: tuple[float, float] | None, trained: TrainedModel | ExportedModel
    ) -> None:
        self._job, self._plan, self._promise = job, plan, promise
        self._place = place_of(job.output)
        self._engine = engine_of(trained, job.width)
        self._config = self._engine.config
        self._full = engine_of(trained, self._config.keys[-1]) if promise is not None else self._engine
        self._added = added_columns(self._config, job.scores)
        self._opened: tuple[int, TextStream, Rows] | None = None

    def answer(self, unit: Unit, full: bool, on_rows: Callable[[int], None]) -> Done:
        """Answer a unit and write it, unless it is done already.

        Args:
            unit: The unit.
            full: Whether the full network answers all.
            on_rows: Called with the number of rows after each window.

        Raises:
            InputError: If its rows can't be read or have no texts, its file can't be written, or another process is
                writing it.
        """
        with self._place.claimed(unit.output):
            name = done_name(unit.number)
            before = self._place.read(name)
            if before is not None and self._place.present([unit.output]):
                done = Done.from_dict(before, f"{self._place.name}/{name}")
                on_rows(done.rows)
                return done
            done = self._write(unit, full, on_rows)
            self._place.write(name, done.to_dict())
            return done

    def _write(self, unit: Unit, full: bool, on_rows: Callable[[int], None]) -> Done:
        stream, rows = self._stream(unit.source)
        columns = stream.table.schema
        schema = pa.schema([*columns, *free_fields(self._added, columns.names)], metadata=columns.metadata)
        checks = None if full or self._promise is None else _Checks(unit, self._promise, self._job.check_share)
        engine = self._full if full else self._engine
        size, on_error = engine.window, self._job.on_error
        without = cut = abstained = 0
        with self._place.table(unit.output, schema, self._job.dialect) as write:
            windows = unit_windows(stream, rows, unit.start, unit.stop, size, on_error)
            with closing(_answered(engine, windows)) as answered:
                for window, answers in answered:
                    if checks is not None and answers is not None:
                        checks.take(window.texts, answers, self._disagreements)
                    if answers is not None:
                        cut += engine.count_cut(window.texts, answers.tokens)
                    added = None
                    if answers is not None:
                        added = answer_table(answers, self._config, self._added, self._job.abstain_below)
                        abstained += added["prediction"].null_count
                    write(_joined(window, added, schema))
                    without += window.without
                    on_rows(window.asked)
        return Done(
            rows=unit.stop - unit.start,
            without=without,
            on_error=on_error if without else None,
            cut=cut,
            full=full,
            checks=None if checks is None else checks.record(),
            abstained=abstained,
        )

    def _stream(self, source: int) -> tuple[TextStream, Rows]:
        if self._opened is None or self._opened[0] != source:
            stream = open_texts(self._plan.sources[source].name, self._job.columns, self._job.dialect)
            self._opened = source, stream, Rows(stream.table)
        return self._opened[1:]

    def _disagreements(self, texts: list[Text], answers: Answers, due: Flags) -> Flags:
        """Ask the full network about some texts: whether it answers otherwise, ``[due texts]``."""
        last = len(self._config.names) - 1
        own = answers.answered_by == last
        if self._config.routing_policy.blend > 0:
            own &= answers.start == last  # else a smaller network's answer was averaged in
        asked = np.flatnonzero(due & ~own)
        other = np.zeros(len(texts), np.bool_)
        if len(asked):
            (full,) = self._full.answer_windows([[texts[index] for index in asked]])
            differs = full.said != answers.said[asked]
            other[asked] = differs.reshape(len(asked), -1).any(axis=1)
        found: Flags = other[due]
        return found


class _Checks:
    """What the full network says of a unit's answers; the same rows are drawn whoever answers the unit."""

    def __init__(self, unit: Unit, promise: tuple[float, float], share: float) -> None:
        self._name = f"unit {unit.number}"
        self._counter = DisagreementCounter(*promise, share, seed=unit.number)
        self._found: list[Flags] = []
        self._seen = 0

    def take(self, texts: list[Text], answers: Answers, disagreements: Disagreements) -> None:
        """Draw some of the texts, and find out about them."""
        due = self._counter.draw(len(texts), self._name)
        self._found.append(disagreements(texts, answers, due))
        self._seen += len(texts)

    def record(self) -> dict[str, Any]:
        """Count, and write the counter as plain values."""
        self._counter.record(np.concatenate([*self._found, np.zeros(0, np.bool_)]), self._name, self._seen)
        return self._counter.to_dict()


def _answered(engine: Any, windows: Iterator[Window]) -> Generator[tuple[Window, Answers | None], None, None]:
    """Answer windows; those without any text have no answers. The engine reads ahead."""
    waiting: deque[Window] = deque()

    def texts() -> Iterator[list[Text]]:
        for window in windows:
            waiting.append(window)
            if window.texts:
                yield window.texts

    with closing(engine.answer_windows(texts())) as answered:
        for answers in answered:
            while not waiting[0].texts:
                yield waiting.popleft(), None
            yield waiting.popleft(), answers
    while waiting:
        yield waiting.popleft(), None


def _joined(window: Window, added: pa.Table | None, schema: pa.Schema) -> pa.Table:
    """Put answers behind the rows; rows without one have nothing there."""
    if window.places is not None or added is None:
        place_of_row = {place: index for index, place in enumerate(window.places or ())}
        indices = pa.array([place_of_row.get(row) for row in range(window.rows.num_rows)], pa.int64())
        names = schema.names[window.rows.num_columns :]
        empty = pa.table({name: pa.nulls(1, schema.field(name).type) for name in names})
        added = (empty if added is None else added).take(indices)
    return pa.Table.from_arrays([*window.rows.columns, *added.columns], schema=schema)
