"""Answers that are written down as they are found, so that a run which was killed goes on where it stopped."""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from sharcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows, where two runs on one output are not told apart
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = "lock"
FINGERPRINT = b"fingerprint"


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

    def write(self, window: int, fingerprint: str, answers: pa.Table) -> None:
        """Write down the answers to a window, on the disk before anything else happens.

        Raises:
            OSError: If the disk is full.
        """
        path = self._path(window)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            pq.write_table(answers.replace_schema_metadata({FINGERPRINT: fingerprint}), file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    def _path(self, window: int) -> Path:
        return self.folder / f"part-{window:06d}.parquet"


@contextmanager
def claimed(output: Path) -> Iterator[AnswerRecord]:
    """Claim an output for this process, with the record of answers that a run before may have left.

    The record is removed at the end, unless an error ends it and it holds more than one window: so little is found
    again sooner than anybody wonders about a hidden folder.

    Raises:
        InputError: If another process that is alive has claimed the output.
        OSError: If the folder can't be written.
    """
    folder = _folder_of(output)
    lock = _locked(folder, output)
    done = False
    try:
        yield AnswerRecord(folder)
        done = True
    finally:
        if done or len(list(folder.glob("part-*.parquet"))) <= 1:
            _remove(folder)
        lock.close()


def check_unclaimed(output: Path) -> None:
    """Refuse an output that another process is writing, before any work.

    Raises:
        InputError: If there is one.
    """
    with suppress(OSError), (_folder_of(output) / LOCK_FILE).open("r+") as lock:
        _take(lock, output)


def _folder_of(output: Path) -> Path:
    target = Path(os.path.realpath(output))
    return target.with_name(f".{target.name}.sharcs-partial")


def _locked(folder: Path, output: Path) -> IO[str]:
    """Make the folder and lock it. The operating system takes back the lock of a process that has died."""
    while True:
        with suppress(FileExistsError):  # not exist_ok, which looks again and may find that it is gone by then
            folder.mkdir()
        try:
            lock = (folder / LOCK_FILE).open("a+")
        except FileNotFoundError:
            continue  # whoever had it has just removed the folder
        try:
            _take(lock, output)
            if os.path.samestat(os.fstat(lock.fileno()), (folder / LOCK_FILE).stat()):
                lock.truncate(0)
                lock.write(f"process {os.getpid()} on {socket.gethostname()}")
                lock.flush()
                return lock
        except FileNotFoundError:
            pass  # the same between the last two steps
        except BaseException:
            lock.close()
            raise
        lock.close()


def _take(lock: IO[str], output: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        owner = lock.read() or "another process"
        raise InputError(f"{output}: {owner} is writing it; wait for that run, or name another output") from error
    except OSError:
        pass  # a file system without locks


def _remove(folder: Path) -> None:
    """Remove the folder, the lock last, so that whoever takes it next finds nothing half removed."""
    for path in folder.iterdir():
        if path.name != LOCK_FILE:
            path.unlink(missing_ok=True)
    (folder / LOCK_FILE).unlink(missing_ok=True)
    with suppress(OSError):  # another process may have made a lock of its own by now
        folder.rmdir()
