"""An engine process and its front: its start, and messages, which are JSON with its length before it. No pickle."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import select
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

Message = dict[str, Any]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
LENGTH = struct.Struct("!I")


class Link:
    """An engine process and the streams of its socket.

    Args:
        process: The process.
        reader: What it says.
        writer: What it is told.

    Attributes:
        info: What it says of the network.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process, self.reader, self.writer = process, reader, writer
        self.info: Message = {}

    def drop(self, number: int, future: asyncio.Future[Message]) -> None:
        """Tell the process that nobody waits for a text any more."""
        if future.cancelled() and not self.writer.is_closing():
            self.writer.write(packed({"drop": [number]}))


async def launch(folder: Path, processes: set[subprocess.Popen[bytes]]) -> Link:
    """Start an engine process, and wait for its first message, which it says when it is warm.

    Args:
        folder: The model or the export.
        processes: Takes it in at once.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "sharcs_serve.worker", str(theirs.fileno()), str(folder)],
            pass_fds=[theirs.fileno()],
            env={**os.environ, **ONE_THREAD},
        )
    processes.add(process)
    reader, writer = await asyncio.open_connection(sock=ours)
    link = Link(process, reader, writer)
    try:
        link.info = await read_message(reader)
    except asyncio.IncompleteReadError:
        link.info = {"refused": "its engine process ended at once"}
    except asyncio.CancelledError:
        process.kill()
        raise
    return link


def hash_of(text: str | tuple[str, str]) -> str:
    """Name a text, or a pair of them, without saying what it is."""
    return hashlib.sha256(repr(text).encode()).hexdigest()[:16]


def packed(message: Message) -> bytes:
    """Write a message as bytes."""
    body = json.dumps(message, separators=(",", ":")).encode()
    return LENGTH.pack(len(body)) + body


def receive(end: socket.socket) -> Message | None:
    """Wait for a message; None if the other end is closed."""
    head = _exactly(end, LENGTH.size)
    body = None if head is None else _exactly(end, LENGTH.unpack(head)[0])
    return None if body is None else json.loads(body)


def is_waiting(end: socket.socket) -> bool:
    """Tell whether there is something to receive."""
    return bool(select.select([end], [], [], 0)[0])


async def read_message(reader: asyncio.StreamReader) -> Message:
    """Wait for a message.

    Raises:
        asyncio.IncompleteReadError: If the other end is closed.
    """
    (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    message: Message = json.loads(await reader.readexactly(size))
    return message


def _exactly(end: socket.socket, count: int) -> bytes | None:
    parts = []
    while count:
        part = end.recv(min(count, 1 << 20))
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
