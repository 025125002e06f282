"""The stage: a network that is loaded where the rows are, once a process."""

from __future__ import annotations

import importlib
import threading
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sharcs_runtime.bundle import DESCRIPTION_FILE
from sharcs_runtime.errors import InputError
from sharcs_runtime.onnx import OnnxRunner
from sharcs_runtime.stage.columns import added_names, answer_columns, free_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sharcs_runtime.scheduler import PooledEngine
    from sharcs_runtime.tokens import Text

    Loaded = tuple[PooledEngine[Any], Callable[[], AbstractContextManager[None]]]
    Columns = dict[str, list[Any]]

ON_ERROR = ("stop", "keep")
NUMBERS: dict[type, type[np.generic]] = {float: np.float64, int: np.int64, bool: np.bool_}

_LOADED: dict[tuple[str, float | str | None, int], Loaded] = {}  # of this process
_LOADING = threading.Lock()


@dataclass  # neither frozen nor with slots: Ray Data makes a subclass of it, with attributes of its own
class Classify:
    """Answers batches of rows: takes a batch, and returns it with the columns that ``sharcs predict`` adds.

    It can be pickled, and then is a few words long: the network is loaded at the first batch, once a process. An
    export needs no torch. Each batch is answered by itself, so that a batch has the same answers wherever it is run.

    Args:
        folder: A trained model's directory or an export's, which every machine finds under this name.
        text: The column with the texts.
        text_pair: The column with the second texts, for a model of pairs.
        width: Forces one sub-network, by its width or its name; by default the policy routes.
        scores: Whether the probabilities of all classes are added.
        on_error: What to do about a row without a text: ``stop``, or ``keep`` it without an answer.
        threads: Of a matrix product; as many as the scheduler gives one process.

    Raises:
        InputError: If ``on_error`` is none of these.
    """

    folder: str | Path
    text: str = "text"
    text_pair: str | None = None
    width: float | str | None = None
    scores: bool = False
    on_error: str = "stop"
    threads: int = 1

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.on_error not in ON_ERROR:
            raise InputError(f"on_error {self.on_error}: has to be one of {', '.join(ON_ERROR)}")

    def __call__(self, batch: Any) -> Any:
        """Answer a batch, as Ray Data's ``map_batches`` hands it over.

        Args:
            batch: A dictionary of arrays or lists, a data frame of pandas, or a table or batch of Arrow.

        Returns:
            The same, with more columns; a name that is taken gets a number behind it.

        Raises:
            InputError: If it is something else, a column is missing, a row has no text and the stage is to stop
                there, or the network can't be loaded.
        """
        kind = type(batch).__module__.partition(".")[0]
        if kind == "pandas":
            answers = self._answer(list(batch.columns), {name: batch[name].tolist() for name in self._columns(batch)})
            return batch.assign(**answers)
        if kind == "pyarrow":
            texts = {name: batch.column(name).to_pylist() for name in self._columns(batch.schema.names)}
            for name, values in self._answer(batch.schema.names, texts).items():
                batch = batch.append_column(name, importlib.import_module("pyarrow").array(values))
            return batch
        if not isinstance(batch, dict):
            raise InputError(f"batch: is a {type(batch).__name__}; give a dictionary, or what pandas or Arrow has")
        answers = self._answer(list(batch), {name: list(batch[name]) for name in self._columns(batch)})
        return batch | {name: _array(values) for name, values in answers.items()}

    def frames(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Answer batches one after the other, as Spark's ``mapInPandas`` and ``mapInArrow`` hand them over."""
        yield from map(self, batches)

    def _columns(self, names: Iterable[str]) -> list[str]:
        """Name the columns with texts."""
        wanted = [self.text, *([] if self.text_pair is None else [self.text_pair])]
        there = list(names)
        for name in wanted:
            if name not in there:
                known = ", ".join(map(repr, there[:20]))
                raise InputError(f"batch: no column {name!r}; it has {known}; name the right one with text")
        return wanted

    def _answer(self, taken: list[str], texts: Columns) -> Columns:
        """Answer rows: the columns to add."""
        engine, around = _loaded(str(self.folder), self.width, self.threads)
        config: Any = engine.config  # type: ignore[attr-defined]
        labels = [str(name) for _, name in sorted(config.id2label.items(), key=lambda pair: int(pair[0]))]
        rows: list[Any] = list(zip(*texts.values(), strict=True))
        with_text = [number for number, row in enumerate(rows) if all(map(_is_text, row))]
        if len(with_text) < len(rows) and self.on_error == "stop":
            missing = min(set(range(len(rows))) - set(with_text))
            raise InputError(f"batch: row {missing + 1} has no text; fill it in, drop the row, or give on_error")
        given = [rows[number] if self.text_pair is not None else rows[number][0] for number in with_text]
        names = added_names(config.problem_type, labels, bool(config.front_count), self.scores)
        found: Columns = {name: [None] * len(rows) for name in names}
        with around():
            for start, columns in _answered(engine, given, labels):
                for name in names:
                    for number, value in enumerate(columns[name], start):
                        found[name][with_text[number]] = value
        return dict(zip(free_names(names, taken), found.values(), strict=True))


def _answered(engine: Any, texts: list[Text], labels: list[str]) -> Iterator[tuple[int, Columns]]:
    """Answer texts window by window: the number of the first one, and the columns."""
    config = engine.config
    windows = (texts[start : start + engine.window] for start in range(0, len(texts), engine.window))
    start = 0
    with closing(engine.answer_windows(windows)) as answered:
        for answers in answered:
            yield start, answer_columns(answers, labels, config.label_type, config.widths, config.names)
            start += len(answers)


def _loaded(folder: str, width: float | str | None, threads: int) -> Loaded:
    """Take the network of this process, or load it."""
    with _LOADING:
        key = (folder, width, threads)
        if key not in _LOADED:
            if (Path(folder) / DESCRIPTION_FILE).is_file():
                _LOADED[key] = OnnxRunner(folder, width=width, threads=threads), nullcontext
            else:
                # By its name: this package needs neither sharcs nor torch, and a trained model needs both.
                _LOADED[key] = importlib.import_module("sharcs.units.work").open_stage(folder, width, threads)
        return _LOADED[key]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _array(values: list[Any]) -> Any:
    """Make an array; names, and what may be missing, as objects."""
    kinds = {type(value) for value in values} or {float}
    return np.array(values, NUMBERS.get(kinds.pop(), object) if len(kinds) == 1 else object)
