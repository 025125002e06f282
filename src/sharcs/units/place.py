"""A directory of answers: on a file system, or behind a URL."""

from __future__ import annotations

import glob
import json
import os
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sharcs.data.files.remote import as_os_error, file_system, is_url, without_scheme
from sharcs.data.tables import format_of, is_table, table_writer
from sharcs.errors import InputError, first_line
from sharcs.files import claimed, is_lock, replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import pyarrow as pa

    from sharcs.data.dialects import Dialect

    Write = Callable[[pa.Table], None]

OURS = "_sharcs"  # readers of whole directories leave out what begins with an underscore
MANIFEST = f"{OURS}/manifest.json"
DONE = f"{OURS}/done-"


class Place(Protocol):
    """Where outputs go.

    Attributes:
        name: How the user calls it.
    """

    name: str

    def is_empty(self) -> bool:
        """Tell whether nothing is there yet."""

    def read(self, name: str) -> dict[str, Any] | None:
        """Read JSON; None where there is none."""

    def read_done(self) -> dict[int, dict[str, Any]]:
        """Read what was written about units that are done, by their number."""

    def present(self, names: list[str]) -> set[str]:
        """Tell which of some files are there."""

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write JSON, whole or not at all.

        Raises:
            InputError: If it can't be written.
        """

    def table(self, name: str, schema: pa.Schema, dialect: Dialect) -> AbstractContextManager[Write]:
        """Write a table, whole or not at all; see :func:`sharcs.data.tables.table_writer`."""

    def claimed(self, name: str) -> AbstractContextManager[None]:
        """Claim what is to be written, as far as there are locks.

        Raises:
            InputError: If a process that is alive has claimed it.
        """


def is_folder(output: str) -> bool:
    """Tell whether an output is a directory, or the URL of one, and no table: it has no ending, or one with digits.

    Raises:
        InputError: If it looks like a file of a format that can't be written, or like a file behind a URL.
    """
    name = without_scheme(output)
    if is_url(name):
        if is_table(name):
            raise InputError(f"`output` {output}: is a file behind a URL; name a directory there, or a file here")
        return True
    suffix = Path(name).suffix
    if name.endswith("/") or not suffix or not suffix[1:].isalpha() or (os.path.isdir(name) and not is_table(name)):
        return not is_table(name)
    format_of(name)
    return False


def place_of(output: str) -> Place:
    """Take a directory, or the URL of one, as the place for outputs."""
    output = without_scheme(output).rstrip("/")
    return RemotePlace(output) if is_url(output) else LocalPlace(output)


def done_name(number: int) -> str:
    """Name what is written about a unit that is done."""
    return f"{DONE}{number:06d}.json"


class LocalPlace:
    """A directory on a file system.

    Args:
        name: Its path.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._folder = Path(os.path.realpath(name))

    def is_empty(self) -> bool:
        """Tell whether there is nothing but locks, or no directory."""
        files = (path for path in self._folder.rglob("*") if path.is_file())
        return all(map(is_lock, files))

    def read(self, name: str) -> dict[str, Any] | None:
        """Read JSON; None where there is none."""
        try:
            return _object((self._folder / name).read_bytes(), f"{self.name}/{name}")
        except FileNotFoundError:
            return None

    def read_done(self) -> dict[int, dict[str, Any]]:
        """Read what was written about units that are done."""
        files = sorted((self._folder / OURS).glob("done-*.json"))
        found = {_number(file.name): self.read(f"{OURS}/{file.name}") for file in files if _is_done(file.name)}
        return {number: content for number, content in found.items() if content is not None}

    def present(self, names: list[str]) -> set[str]:
        """Tell which of some files are there."""
        return {name for name in names if (self._folder / name).is_file()}

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write JSON, whole or not at all."""
        with replaced(self._folder / name) as partial:
            partial.write_text(_text(content), encoding="utf-8")

    @contextmanager
    def table(self, name: str, schema: pa.Schema, dialect: Dialect) -> Iterator[Write]:
        """Write a table that is claimed; what a killed process left of it goes."""
        path = self._folder / name
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
            left.unlink(missing_ok=True)
        partial = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.partial")
        with table_writer(path, schema, partial, dialect) as write:
            yield write

    @contextmanager
    def claimed(self, name: str) -> Iterator[None]:
        """Claim what is to be written."""
        with claimed(self._folder / name, name=f"{self.name}/{name}"):
            yield


class RemotePlace:
    """A directory behind a URL; it has no locks, and who writes a unit again writes the same.

    Args:
        name: The URL.

    Raises:
        InputError: If fsspec has no file system for it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._system, self._folder = file_system(name)

    def is_empty(self) -> bool:
        """Tell whether there is nothing."""
        return not self._asked("find", self._folder, maxdepth=1)

    def read(self, name: str) -> dict[str, Any] | None:
        """Read JSON; None where there is none."""
        try:
            content = as_os_error(self._system.cat_file, f"{self._folder}/{name}")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"{self.name}/{name}: cannot be read ({first_line(error)})") from error
        return _object(content, f"{self.name}/{name}")

    def read_done(self) -> dict[int, dict[str, Any]]:
        """Read what was written about units that are done."""
        found = self._asked("find", f"{self._folder}/{OURS}")
        files = [file for file in found if f"/{DONE}" in file and _is_done(file)]
        contents = self._asked("cat", files) if files else {}
        return {_number(file): _object(content, file) for file, content in sorted(contents.items())}

    def present(self, names: list[str]) -> set[str]:
        """Tell which of some files are there; one listing for any number of them."""
        if not names:
            return set()
        files = self._asked("find", f"{self._folder}/{names[0]}" if len(names) == 1 else self._folder)
        there = {file.removeprefix(f"{self._folder}/") for file in files}
        return there & set(names)

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write JSON, whole or not at all."""
        self._put(self._system.pipe_file, name, _text(content).encode())

    @contextmanager
    def table(self, name: str, schema: pa.Schema, dialect: Dialect) -> Iterator[Write]:
        """Write a table here, and put it under its name when it is complete."""
        with tempfile.TemporaryDirectory(prefix="sharcs-") as folder:
            file = Path(folder) / Path(name).name
            with table_writer(file, schema, dialect=dialect) as write:
                yield write
            self._put(lambda target, source: self._system.put_file(source, target), name, str(file))

    @contextmanager
    def claimed(self, name: str) -> Iterator[None]:
        """Claim nothing."""
        yield

    def _put(self, put: Any, name: str, content: Any) -> None:
        target = f"{self._folder}/{name}"
        try:
            if target.startswith("/"):  # else it begins with a bucket, and there are no directories to make
                as_os_error(self._system.makedirs, target.rpartition("/")[0], exist_ok=True)
            as_os_error(put, target, content)
        except OSError as error:
            raise InputError(
                f"{self.name}/{name}: can't be written ({first_line(error)}); name another place"
            ) from error

    def _asked(self, method: str, *arguments: Any, **options: Any) -> Any:
        try:
            as_os_error(self._system.invalidate_cache)
            return as_os_error(getattr(self._system, method), *arguments, **options)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"{self.name}: cannot be read ({first_line(error)})") from error


def _is_done(name: str) -> bool:
    return Path(name).stem.rpartition("-")[2].isdecimal()


def _number(name: str) -> int:
    return int(Path(name).stem.rpartition("-")[2])


def _text(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _object(text: bytes, name: str) -> dict[str, Any]:
    try:
        content = json.loads(text.decode("utf-8"))
    except ValueError as error:
        raise InputError(f"{name}: is no valid JSON ({first_line(error)}); name another output") from error
    if not isinstance(content, dict):
        raise InputError(f"{name}: holds no plan; name another output")
    return content
