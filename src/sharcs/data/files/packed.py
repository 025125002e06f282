"""Files that are compressed as a whole, by gzip or Zstandard; the ending says by which."""

from __future__ import annotations

import gzip
import io
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKINGS = (".gz", ".zst")


def split_packing(name: str) -> tuple[str, str]:
    """Split a file's name in lower case into the name of what is in it, and the ending of the compression or ''."""
    name = name.lower()
    packing = next((ending for ending in PACKINGS if name.endswith(ending)), "")
    return name.removesuffix(packing), packing


@contextmanager
def unpacked(file: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    """Read what is in a file of some name."""
    packing = split_packing(name)[1]
    if packing == ".gz":
        with gzip.GzipFile(fileobj=file) as content:
            yield content  # type: ignore[misc]
    elif packing == ".zst":
        with io.BufferedReader(_Zstandard(file)) as content:
            yield content
    else:
        yield file


@contextmanager
def packed(file: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    """Write what is to be in a file of some name; the same content gives the same bytes."""
    packing = split_packing(name)[1]
    if packing == ".gz":
        # No name and time in the header.
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as content:
            yield content  # type: ignore[misc]
    elif packing == ".zst":
        with pa.CompressedOutputStream(_LeftOpen(file), "zstd") as content:
            yield content
    else:
        yield file


def is_packed(path: str | Path) -> bool:
    """Tell whether a file is compressed as a whole."""
    return bool(split_packing(Path(path).name)[1])


class _LeftOpen:
    """A file that pyarrow reads or writes, and does not close."""

    closed = False

    def __init__(self, file: IO[bytes]) -> None:
        self.read, self.write, self.flush = file.read, file.write, file.flush

    def close(self) -> None:
        """Do nothing."""


class _Zstandard(io.RawIOBase):
    """The content of a Zstandard file; to go back, it is read from the beginning, as gzip's are.

    Args:
        file: The file, which can be sought in.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._begin()

    def _begin(self) -> None:
        self._file.seek(0)
        self._content = pa.CompressedInputStream(_LeftOpen(self._file), "zstd")
        self._position = 0

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be sought in."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes."""
        content = self._content.read(len(buffer))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place that is counted from the beginning or from here."""
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the end is not known")
        target = offset + (self._position if whence == io.SEEK_CUR else 0)
        if target < self._position:
            self._begin()
        while self._position < target and (content := self._content.read(min(1 << 16, target - self._position))):
            self._position += len(content)
        return self._position

    def tell(self) -> int:
        """Say where it is read."""
        return self._position
