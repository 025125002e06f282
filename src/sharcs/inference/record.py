"""Answers that are written down as they are found, so that a run which was killed goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharcs.inference.engine import Prediction

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RecordedAnswers", "digest_of"]

RESULTS_FILE = "answers.jsonl"


def digest_of(texts: Sequence[str | tuple[str, str]]) -> str:
    """Fingerprint the texts of a window."""
    return hashlib.sha256(repr(texts).encode("utf-8", "surrogatepass")).hexdigest()


class RecordedAnswers:
    """A file of answers in a hidden folder beside an output: a line a window, with the fingerprint of its texts.

    The first line names what the answers depend on besides the texts; a file with another one is begun anew. A
    window's answers are taken only for the same texts in the same place, so a changed input gets answers of its own
    from the first change on. A line that a kill cut short counts as not written.

    Args:
        output: The file that the answers are for.
        settings: Model, options, versions.

    Attributes:
        folder: Where the file is; the output may be prepared there too.
        windows: Windows that are written down, as far as this run has come.
        reused: Answers that were taken from a run before.
    """

    def __init__(self, output: Path, settings: dict[str, Any]) -> None:
        """Open what a run before has left, or begin.

        Raises:
            OSError: If the folder can't be written.
        """
        target = Path(os.path.realpath(output))
        self.folder = target.with_name(f".{target.name}.sharcs-partial")
        self.folder.mkdir(exist_ok=True)
        self.windows = self.reused = 0
        self._file = (self.folder / RESULTS_FILE).open("a+b")
        self._file.seek(0)
        head = json.dumps(settings, sort_keys=True).encode() + b"\n"
        if self._file.readline() != head:
            self._file.truncate(0)
            self._file.write(head)

    def next_window(self, texts: Sequence[str | tuple[str, str]]) -> list[Prediction] | None:
        """Take the answers to the next window.

        Returns:
            None from the first window on for which there are none; then go on with :meth:`append`.
        """
        start = self._file.tell()
        line = self._file.readline()
        try:
            digest, *columns = json.loads(line) if line.endswith(b"\n") else [None]
        except ValueError:
            digest = None
        if digest != digest_of(texts):
            self._file.truncate(start)
            self._file.seek(start)
            return None
        answers = [Prediction(*row) for row in zip(*columns, strict=True)]
        self.windows += 1
        self.reused += len(answers)
        return answers

    def append(self, digest: str, answers: Sequence[Prediction]) -> None:
        """Write down the answers to a window, on the disk before anything else happens.

        Raises:
            OSError: If the disk is full.
        """
        self._file.write(json.dumps([digest, *zip(*answers, strict=True)]).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.windows += 1

    def close(self, keep: bool) -> None:
        """Close the file, and remove it unless it is kept for another run."""
        with suppress(OSError):  # what a full disk didn't take is not needed
            self._file.close()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)
