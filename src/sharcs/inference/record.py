"""Answers that are written down as they are found, so that a run which was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from sharcs.files import claimed, is_lock
from sharcs.inference.engine import InferenceEngine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sharcs_runtime.onnx import OnnxRunner

FINGERPRINT, CUT = b"fingerprint", b"cut"


@dataclass(frozen=True, slots=True)
class AnswerRecord:
    """Answers in a hidden folder beside an output: a file a window, with the fingerprint of what they answer.

    A file is there whole or not at all, and counts only for the same fingerprint in the same place.

    Attributes:
        folder: The hidden folder; the output may be prepared there too.
    """

    folder: Path

    def read(self, window: int, fingerprint: str) -> pa.Table | None:
        """Read the answers to a window, by its number from 0; None if there are none of this fingerprint."""
        try:
            part = pq.ParquetFile(self._path(window)).read()
        except (OSError, pa.ArrowException):
            return None
        return part if (part.schema.metadata or {}).get(FINGERPRINT) == fingerprint.encode() else None

    def write(self, window: int, fingerprint: str, answers: pa.Table, cut: int = 0) -> None:
        """Write down the answers to a window and how many of its texts were cut, before anything else happens.

        Raises:
            OSError: If the disk is full.
        """
        path = self._path(window)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            pq.write_table(answers.replace_schema_metadata({FINGERPRINT: fingerprint, CUT: str(cut)}), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def _path(self, window: int) -> Path:
        return self.folder / f"part-{window:06d}.parquet"


@contextmanager
def recorded(output: Path) -> Iterator[AnswerRecord]:
    """Claim an output, with the record of answers that a run before may have left.

    The record is removed at the end, unless an error ends it and it holds more than one window: so little is found
    again sooner than anybody wonders about a hidden folder.

    Raises:
        InputError: If another process that is alive has claimed the output.
        OSError: If the folder can't be written.
    """
    target = Path(os.path.realpath(output))
    folder = target.with_name(f".{target.name}.sharcs-partial")
    with claimed(output):
        folder.mkdir(exist_ok=True)
        done = False
        try:
            yield AnswerRecord(folder)
            done = True
        finally:
            if done or len(list(folder.glob("part-*.parquet"))) <= 1:
                shutil.rmtree(folder, ignore_errors=True)


def answer_settings(
    engine: InferenceEngine | OnnxRunner, folder: Path, scores: bool, abstain_below: float | None = None
) -> str:
    """Collect what answers depend on besides the texts, as JSON."""
    files = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and not is_lock(path):
            with path.open("rb") as file:
                files[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    settings = {
        "model": files,
        "width": engine.width,
        "scores": scores,
        "abstain_below": abstain_below,
        "window": engine.window,
        "batch_tokens": engine.batch_tokens,
        "versions": {name: metadata.version(name) for name in ("sharcs", "torch", "transformers", "tokenizers")},
    }
    if isinstance(engine, InferenceEngine):
        settings["device"] = engine.model.device.type
    else:
        settings["runtime"] = engine.version
    return json.dumps(settings, sort_keys=True)
