"""Files behind URLs such as ``s3://bucket/name.csv``, through fsspec where it is installed."""

from __future__ import annotations

import importlib
import io
import re
from typing import IO, Any

from sharcs.errors import InputError, first_line

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
LOCAL = "file://"
BLOCK_BYTES = 1 << 20  # that a buffer asks for at once


def is_url(name: str) -> bool:
    """Tell whether a name is a URL."""
    return URL.match(name) is not None


def without_scheme(name: str) -> str:
    """Write the URL of a local file as a path; other names stay."""
    return name.removeprefix(LOCAL)


def file_system(url: str) -> tuple[Any, str]:
    """Find what serves a URL: fsspec's file system, and the path in it.

    Raises:
        InputError: If fsspec or what it needs for the URL is not installed, or it knows no such URLs.
    """
    try:
        system, path = importlib.import_module("fsspec.core").url_to_fs(url)
    except ImportError as error:
        raise InputError(
            f"{url}: {first_line(error)}; for s3:// install the extra s3: pip install 'sharcs[s3]'"
        ) from error
    except Exception as error:  # each file system raises what its library does
        raise InputError(f"{url}: {first_line(error)}; give a file, or a URL that fsspec knows") from error
    return system, str(path)


def open_url(url: str) -> IO[bytes]:
    """Open a file behind a URL.

    Raises:
        InputError: See :func:`file_system`.
        OSError: If it is not there, or can't be read, whatever the file system raises.
    """
    return io.BufferedReader(_Remote(*file_system(url)), BLOCK_BYTES)


class _Remote(io.RawIOBase):
    """A file of fsspec whose errors are those of files."""

    def __init__(self, system: Any, path: str) -> None:
        self._file: Any = None
        self._file = self._call(system.open, path, "rb")

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that it can be sought in."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read the next bytes."""
        content = self._call(self._file.read, len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        return int(self._call(self._file.seek, offset, whence))

    def tell(self) -> int:
        """Say where it is read."""
        return int(self._file.tell())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None and not self.closed:
            self._file.close()
        super().close()

    @staticmethod
    def _call(function: Any, *arguments: Any) -> Any:
        return as_os_error(function, *arguments)


def as_os_error(function: Any, *arguments: Any, **options: Any) -> Any:
    """Call a file system of fsspec; what its library raises becomes an ``OSError``."""
    try:
        return function(*arguments, **options)
    except FileNotFoundError as error:
        raise FileNotFoundError("there is none") from error
    except Exception as error:
        raise OSError(first_line(error)) from error
