"""Many tables: names, patterns, directories and URLs, spelled out as the files that they stand for."""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharcs.data.files.remote import as_os_error, file_system, is_url, without_scheme
from sharcs.data.tables import DATASET_NAME, SUPPORTED, format_of, is_table
from sharcs.errors import InputError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PATTERN = re.compile(r"[*?\[]")
# What says, in the words of several file systems, that a file was written again.
VERSIONS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "created")


@dataclass(frozen=True, slots=True)
class Source:
    """A table among many.

    Attributes:
        name: What ``open_table`` takes.
        place: Its path below the directory that all of them are in.
        size: Bytes; 0 where it is no file.
        version: Another one when the file is written again, as far as its file system says so.
    """

    name: str
    place: str
    size: int
    version: str


def is_one_table(names: Sequence[str]) -> bool:
    """Tell whether names can only stand for one table: neither a pattern nor a directory nor several."""
    (name, *others) = names
    if others or os.path.isdir(without_scheme(name)):
        return False
    local_file = os.path.isfile(without_scheme(name))
    return local_file or DATASET_NAME.fullmatch(name) is not None or not PATTERN.search(name)


def sources_of(names: Sequence[str]) -> list[Source]:
    """Spell out names of tables.

    Args:
        names: Files, patterns with ``*``, ``?``, ``[...]`` and ``**``, directories, URLs of any of these, and data
            sets. Of a directory all tables below it are taken but those whose path has a part that begins with a
            dot or an underscore.

    Returns:
        Each table once: the files of a name in alphabetical order, names in the order given.

    Raises:
        InputError: If a name stands for nothing, or a file has an unknown extension.
    """
    files: dict[str, tuple[str, int, str]] = {}  # by their whole names
    for name in map(without_scheme, names):
        for file in _of_url(name) if is_url(name) else _of_name(name):
            whole = os.path.abspath(file[0]) if os.path.isfile(file[0]) else file[0]
            files.setdefault(whole, file)
    folder = _common_folder([name for name in files if _is_file(name)])
    return [Source(name, _place(whole, folder), size, version) for whole, (name, size, version) in files.items()]


def _is_file(name: str) -> bool:
    """Tell whether a whole name is that of a file, and none of a data set."""
    return os.path.isabs(name) or is_url(name)


def _of_name(name: str) -> Iterable[tuple[str, int, str]]:
    if os.path.isfile(name):
        files = [name]
    elif os.path.isdir(name):
        below = (os.path.join(folder, file) for folder, _, files in os.walk(name) for file in files)
        files = _tables(below, name, name)
    elif DATASET_NAME.fullmatch(name) or not PATTERN.search(name):
        return [(name, 0, "")]  # what it is, or that there is none, says who opens it
    else:
        files = sorted(file for file in glob.glob(name, recursive=True) if os.path.isfile(file))
        if not files:
            raise InputError(f"{name}: no file has such a name; correct the pattern")
    return [(file, *_state(file)) for file in files if format_of(file)]


def _state(file: str) -> tuple[int, str]:
    try:
        found = os.stat(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({first_line(error)})") from error
    return found.st_size, str(found.st_mtime_ns)


def _of_url(url: str) -> Iterable[tuple[str, int, str]]:
    system, path = file_system(url)
    try:
        as_os_error(system.invalidate_cache)
        if PATTERN.search(path):
            paths = sorted(file for file in as_os_error(system.glob, path) if as_os_error(system.isfile, file))
        elif as_os_error(system.isfile, path):
            paths = [path]
        elif as_os_error(system.isdir, path):
            paths = _tables(as_os_error(system.find, path), path, url)
        else:
            paths = []
        infos: list[dict[str, Any]] = [as_os_error(system.info, file) for file in paths]
    except OSError as error:
        raise InputError(f"{url}: cannot be read ({first_line(error)})") from error
    if not paths:
        raise InputError(f"{url}: there is no such file; correct the name")
    return [
        (system.unstrip_protocol(file), int(info["size"] or 0), _version(info))
        for file, info in zip(paths, infos, strict=True)
        if format_of(file)
    ]


def _version(info: dict[str, Any]) -> str:
    return next((str(info[key]) for key in VERSIONS if info.get(key) is not None), "")


def _tables(files: Iterable[str], folder: str, name: str) -> list[str]:
    """Take the tables among the files of a directory, which the user calls by some name."""
    taken = []
    for file in sorted(files):
        parts = Path(os.path.relpath(file, folder)).parts
        if not any(part.startswith((".", "_")) for part in parts) and is_table(file):
            taken.append(file)
    if not taken:
        raise InputError(f"{name}: holds no table; supported are {SUPPORTED}")
    return taken


def _common_folder(names: list[str]) -> str:
    """Find the directory that all files are in."""
    folders = [name.split("/")[:-1] for name in names]
    levels = takewhile(lambda parts: len(set(parts)) == 1, zip(*folders, strict=False))
    common = [parts[0] for parts in levels]
    if names and not common:
        raise InputError(f"`data`: {names[0]} and {names[-1]} lie in different file systems; give files of one")
    return "/".join(common)


def _place(name: str, folder: str) -> str:
    if _is_file(name):
        return name.removeprefix(f"{folder}/")
    return re.sub(r"[^\w.-]+", "-", name) + ".parquet"  # a data set
