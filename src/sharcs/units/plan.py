"""What a directory of answers is to hold: which rows are a unit of work, and what they are answered by."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sharcs.data.dialects import USUAL, Dialect
from sharcs.data.files.packed import split_packing
from sharcs.data.sources import Source
from sharcs.errors import InputError, first_line
from sharcs.inference.stream import open_texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharcs.data.texts import Columns
    from sharcs.inference.stream import TextStream

FORMAT = 1
FEW_UNITS = 256  # up to so many, units are small, so that many processes have something to do
LEAST_WINDOWS, MOST_WINDOWS = 4, 32  # of an engine, in a unit


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked for.

    Attributes:
        folder: A trained model's or an export's.
        output: A directory or the URL of one.
        columns: The names of the columns to use.
        dialect: How text files are read, and CSV and TSV files written.
        width: Forces one sub-network; None for the policy.
        scores: Whether the probabilities of all classes are written.
        on_error: What to do about a row without a text: ``stop``, ``keep`` it without an answer, or ``skip`` it.
        check_share: Share of the rows that the full network answers, too; 0 for none.
        when_refuted: What to do when these refute the model's promise: ``stop``, answer what is left by the
            ``full`` network, or ``go-on``.
        workers: Processes; of a cluster, actors, 0 for one a processor.
        ray: The address of a Ray cluster that answers, or ``auto``; None for processes of this machine.
        shard: Which part of the units, counted from 0, of how many parts.
        abstain_below: Leaves ``prediction`` empty where the score is below this; None for never.
    """

    folder: str
    output: str
    columns: Columns
    dialect: Dialect = USUAL
    width: float | str | None = None
    scores: bool = False
    on_error: str = "stop"
    check_share: float = 0.0
    when_refuted: str = "stop"
    workers: int = 1
    ray: str | None = None
    shard: tuple[int, int] = (0, 1)
    abstain_below: float | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """Rows that one process answers at a time, and writes as one file.

    Attributes:
        number: Counted from 0.
        source: Number of the table.
        start: Its first row, counted from 0.
        stop: The row behind its last one.
        output: Name of its file, below the directory.
    """

    number: int
    source: int
    start: int
    stop: int
    output: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Which rows are to be answered, by what, in which units.

    Attributes:
        sources: The tables.
        rows: How many rows each has.
        unit_rows: Rows of a unit; the last one of a table may have fewer.
        settings: What the answers depend on besides.
    """

    sources: list[Source]
    rows: list[int]
    unit_rows: int
    settings: dict[str, Any]

    def units(self) -> list[Unit]:
        """List the units: of each table one at least, and none with rows of two.

        Raises:
            InputError: If two would have one file.
        """
        found: list[Unit] = []
        for number, (source, rows) in enumerate(zip(self.sources, self.rows, strict=True)):
            count = max(1, math.ceil(rows / self.unit_rows))
            for index in range(count):
                start, name = index * self.unit_rows, source.place
                output = name if count == 1 else _numbered(name, index)
                found.append(Unit(len(found), number, start, min(rows, start + self.unit_rows), output))
        name, times = Counter(unit.output for unit in found).most_common(1)[0]
        if times > 1:
            raise InputError(f"`data`: {times} parts of it would be written as {name}; rename one of the files")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Write it as plain values."""
        return {
            "format": FORMAT,
            "settings": self.settings,
            "unit_rows": self.unit_rows,
            "data": [asdict(source) | {"rows": rows} for source, rows in zip(self.sources, self.rows, strict=True)],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str) -> Plan:
        """Read what :meth:`to_dict` wrote.

        Raises:
            InputError: If it is none of this version.
        """
        try:
            if values["format"] != FORMAT:
                raise ValueError(f"format {values['format']}")
            entries = [dict(entry) for entry in values["data"]]
            rows = [int(entry.pop("rows")) for entry in entries]
            return cls([Source(**entry) for entry in entries], rows, int(values["unit_rows"]), values["settings"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where}: is no plan of this version ({first_line(error)}); name another output"
            ) from error

    def check_same(self, sources: list[Source], settings: dict[str, Any], output: str) -> None:
        """Refuse another plan than this one.

        Raises:
            InputError: If data, model or options are others.
        """
        begun = f"`output` {output}: was begun with"
        advice = "name another output, or give what it was begun with"
        before = {source.place: source for source in self.sources}
        now = {source.place: source for source in sources}
        if before.keys() != now.keys():
            place = sorted(before.keys() ^ now.keys())[0]
            raise InputError(f"{begun}{'' if place in before else 'out'} {place} among the data; {advice}")
        for place, source in now.items():
            if (source.size, source.version) != (before[place].size, before[place].version):
                raise InputError(f"{begun} another {place}, which has been written since; {advice}")
        for name in sorted(settings.keys() | self.settings.keys()):
            if settings.get(name) != self.settings.get(name):
                raise InputError(f"{begun} another {name.replace('_', ' ')}; {advice}")


def make_plan(
    job: Job, sources: list[Source], settings: dict[str, Any], window: int, check: Callable[[TextStream, str], None]
) -> Plan:
    """Count the rows of all tables, and see that each has the columns that are needed.

    Args:
        job: What is asked for.
        sources: The tables.
        settings: What the answers depend on.
        window: Of the engine.
        check: Refuses a table, or the name of its output.

    Raises:
        InputError: If a table can't be read, or is malformed.
    """
    rows = []
    for source in sources:
        stream = open_texts(source.name, job.columns, job.dialect)
        check(stream, source.place)
        table = stream.table
        rows.append(table.parquet.count if table.parquet else sum(batch.num_rows for batch in table.batches()))
    windows = math.ceil(sum(rows) / (FEW_UNITS * window))
    return Plan(sources, rows, window * min(MOST_WINDOWS, max(LEAST_WINDOWS, windows)), settings)


def job_settings(job: Job, answer_settings: str) -> dict[str, Any]:
    """Collect what outputs depend on besides the data."""
    columns = {name: value for name, value in asdict(job.columns).items() if name != "label"}
    options = {"columns": columns, **asdict(job.dialect), "check_share": job.check_share}
    return {**json.loads(answer_settings), **options}


def _numbered(name: str, index: int) -> str:
    """Put a number before a file's endings."""
    stem = split_packing(name)[0].rpartition(".")[0]
    return f"{name[: len(stem)]}-{index:05d}{name[len(stem) :]}"
