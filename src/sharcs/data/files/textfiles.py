"""Text files, opened, unpacked and decoded a line at a time."""

from __future__ import annotations

import codecs
import io
import itertools
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, TypeVar

from sharcs.data.files.packed import unpacked
from sharcs.data.files.remote import is_url, open_url
from sharcs.errors import InputError, first_line

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator

Item = TypeVar("Item")

BLOCK_BYTES = 1 << 16

# Rows per chunk of a column: large enough to be quick, small enough that no chunk meets Arrow's 2 GB limit.
CHUNK_ROWS = 8192

# The byte-order marks that name an encoding.
MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file of text.

    Attributes:
        path: Where it is; its ending says whether it is to be unpacked.
        encoding: A name that Python knows. None stands for UTF-8 or, with a byte-order mark, UTF-16.
    """

    path: str
    encoding: str | None

    def lines(self, newline: str) -> Generator[str, None, None]:
        r"""Read the lines, with their ends.

        Args:
            newline: What ends a line, as for ``open``: ``"\n"`` alone, or ``""`` for ``\r`` and ``\r\n``, too.

        Raises:
            InputError: If the encoding is unknown, a line is not of this encoding, or it has a NUL byte, as binary
                files and UTF-16 without a mark have.
        """
        with open_bytes(self.path) as file:
            encoding, mark = self._encoding(file)
            file.seek(len(mark))
            text = io.TextIOWrapper(file, encoding=encoding, newline=newline)
            try:
                for number, line in enumerate(text, start=1):
                    if "\0" in line:
                        raise InputError(f"{self.path}: line {number} has a NUL byte; save the file as UTF-8 text")
                    yield line
            except UnicodeDecodeError as error:
                raise InputError(f"{self.path}: {self._undecodable(encoding, mark)}") from error

    def _encoding(self, file: IO[bytes]) -> tuple[str, bytes]:
        """Name the encoding, and the byte-order mark to skip."""
        beginning = file.read(len(codecs.BOM_UTF8))
        for mark, name in MARKS.items():
            if beginning.startswith(mark) and _same_encoding(self.encoding or name, name):
                return name, mark
        encoding = self.encoding or "utf-8"
        try:
            "text".encode(encoding)
        except (LookupError, ValueError) as error:
            raise InputError(f"{self.path}: {encoding!r} is no encoding; {ENCODING_ADVICE}") from error
        return encoding, b""

    def _undecodable(self, encoding: str, mark: bytes) -> str:
        """Say which byte can't be decoded."""
        decoder = codecs.getincrementaldecoder(encoding)()
        line = 1
        with open_bytes(self.path) as file:
            file.seek(len(mark))
            for block in itertools.chain(iter(lambda: file.read(BLOCK_BYTES), b""), [b""]):
                try:
                    line += decoder.decode(block, final=not block).count("\n")
                except UnicodeDecodeError as error:
                    line += error.object[: error.start].decode(encoding, "replace").count("\n")
                    byte = error.object[error.start]
                    return f"line {line}: the byte 0x{byte:02x} is not valid {encoding.upper()}; {ENCODING_ADVICE}"
        raise AssertionError("the whole file can be decoded")


ENCODING_ADVICE = "give the file's encoding, like cp1252, or save it as UTF-8"


def _same_encoding(one: str, other: str) -> bool:
    try:
        return codecs.lookup(one) == codecs.lookup(other)
    except LookupError:
        return False


@contextmanager
def open_bytes(path: str) -> Iterator[IO[bytes]]:
    """Open a file's bytes, unpacked; what reading them raises until it is closed is the user's to put right."""
    try:
        with open_url(path) if is_url(path) else open(path, "rb") as file, unpacked(file, path) as content:
            yield content
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({first_line(error)})") from error


def in_chunks(items: Iterable[Item], size: int = CHUNK_ROWS) -> Iterator[list[Item]]:
    """Group items into lists of ``size``, the last one shorter."""
    items = iter(items)
    while chunk := list(itertools.islice(items, size)):
        yield chunk
