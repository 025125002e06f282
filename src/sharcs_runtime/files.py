"""What is written: by one process at a time, whole or not at all, and with one line where it can't be."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from safetensors import SafetensorError

from sharcs_runtime.errors import InputError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # Windows, where two runs on one output are not told apart
    fcntl = None  # type: ignore[assignment]

LOCK_SUFFIX = ".sharcs-lock"
TORCH_WRITER = ("inline_container", "PytorchStreamWriter", "iostream error")  # in what torch.save raises

# With the process, since one that is forked inherits what it has not claimed.
_CLAIMED: ContextVar[frozenset[tuple[int, Path]]] = ContextVar("claimed", default=frozenset())


@contextmanager
def claimed(*targets: str | Path, name: str | None = None) -> Iterator[None]:
    """Claim files or directories that are to be written, for this thread of this process.

    A hidden file beside each of them holds the lock while it is claimed, and says by whom. The operating system takes
    back the lock of a process that has died. Who has claimed something may claim it again. Directories that are not
    there are made; they go again if nothing is in them.

    Args:
        *targets: What is to be written; symbolic links stand for what they point to.
        name: Stands for the targets in messages.

    Raises:
        InputError: If another process or thread that is alive has claimed one of them, or it can't be written.
    """
    paths = {Path(os.path.realpath(target)): name or f"{target}" for target in targets}
    with ExitStack() as stack:
        for path, shown in paths.items():
            if (os.getpid(), path) not in _CLAIMED.get():
                stack.enter_context(_locked(path, shown))
        before = _CLAIMED.set(_CLAIMED.get() | {(os.getpid(), path) for path in paths})
        try:
            yield
        finally:
            _CLAIMED.reset(before)


def is_lock(path: Path) -> bool:
    """Tell whether a file is the lock of something beside it."""
    return path.name.startswith(".") and path.name.endswith(LOCK_SUFFIX)


@contextmanager
def written(name: str, advice: str = "make room or name another place") -> Iterator[None]:
    """Say in one line that something can't be written, whatever noticed it.

    Args:
        name: What is written.
        advice: What to do.

    Raises:
        InputError: If it can't.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise InputError(f"{name}: can't be written ({first_line(error)}); {advice}") from error
    except RuntimeError as error:
        if not any(part in str(error) for part in TORCH_WRITER):
            raise
        raise InputError(f"{name}: can't be written (the disk is full, or gone); {advice}") from error


@contextmanager
def replaced(path: str | Path) -> Iterator[Path]:
    """Write a file beside its target and rename it, so that no reader meets half of it; links and modes stay.

    Args:
        path: The target.

    Yields:
        The path to write to.

    Raises:
        InputError: If it can't be written.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        with written(f"{path}"):
            yield partial
            if target.exists():
                shutil.copymode(target, partial)
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def write_json(content: dict[str, Any], path: str | Path) -> None:
    """Write JSON, all of it or nothing.

    Raises:
        InputError: If it can't be written.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    with replaced(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


@contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    missing = [folder for folder in path.parents if not folder.exists()]
    file = path.with_name(f".{path.name}{LOCK_SUFFIX}")
    try:
        try:
            lock = _lock(file, name)
        except OSError as error:
            raise InputError(f"{name}: can't be written ({first_line(error)}); name another place") from error
        with lock:
            try:
                if path.is_file() and not os.access(path, os.W_OK):
                    raise InputError(f"{name}: is write-protected; name another place, or make it writable")
                yield
            finally:
                with suppress(OSError):
                    file.unlink()
    finally:
        for folder in missing:
            with suppress(OSError):  # it is in use now
                folder.rmdir()


def _lock(file: Path, name: str) -> IO[str]:
    """Make a lock and take it; between the steps, whoever had it may have removed it."""
    while True:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = file.open("a+")
        except FileNotFoundError:
            continue
        except PermissionError:
            if not file.exists():
                raise
            with file.open() as others:  # of a run of another user, which may be dead
                _take(others, name)
                file.unlink()
            continue
        try:
            _take(lock, name)
            if os.path.samestat(os.fstat(lock.fileno()), file.stat()):
                _sign(lock, file)
                return lock
        except FileNotFoundError:
            pass
        except BaseException:
            lock.close()
            raise
        lock.close()


def _sign(lock: IO[str], file: Path) -> None:
    """Say in a lock that was taken who has it; without room for that there is none for the output."""
    lock.truncate(0)
    try:
        os.write(lock.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
    except OSError:
        file.unlink()
        raise


def _take(lock: IO[str], name: str) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.seek(0)
        owner = lock.read() or "another process"
        raise InputError(f"{name}: {owner} is writing it; wait for that run, or name another output") from error
    except OSError:
        pass  # a file system without locks
