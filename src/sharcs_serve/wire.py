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
from collections import deque
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Message = dict[str, Any]
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
LENGTH = struct.Struct("!I")
as_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode  # made once, and not for each message


class Link(asyncio.Protocol):
    """An engine process and the front's end of its socket.

    Args:
        process: The process.

    Attributes:
        info: What it says of the network.
        ended: Whether it has closed its end, as it does when it dies.
        on_end: Is called then.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.info: Message = {}
        self.ended = False
        self.on_end: Callable[[], None] = lambda: None
        self._messages: deque[Message] = deque()
        self._bytes = bytearray()
        self._waiting: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the socket."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Read as many messages as are there."""
        self._bytes += data
        while len(self._bytes) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._bytes)[0]
            if len(self._bytes) < end:
                break
            self._messages.append(json.loads(self._bytes[LENGTH.size : end]))
            del self._bytes[:end]
        self._wake()

    def connection_lost(self, _error: Exception | None) -> None:
        """Take note that the process has ended."""
        self.ended = True
        self._wake()
        self.on_end()

    async def next(self) -> Message | None:
        """Wait for a message; None once the process has ended."""
        while not self._messages and not self.ended:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        return self._messages.popleft() if self._messages else None

    def send(self, message: Message) -> None:
        """Tell the process something, as long as it lives."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(packed(message))

    def close(self) -> None:
        """Close the socket, at which the process ends."""
        if self._transport is not None:
            self._transport.close()

    def drop(self, number: int, future: asyncio.Future[Message]) -> None:
        """Tell the process that nobody waits for a text any more."""
        if future.cancelled():
            self.send({"drop": [number]})

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


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
    _, link = await asyncio.get_running_loop().create_connection(lambda: Link(process), sock=ours)
    try:
        link.info = await link.next() or {"refused": "its engine process ended at once"}
    except asyncio.CancelledError:
        process.kill()
        raise
    return link


def hash_of(text: str | tuple[str, str]) -> str:
    """Name a text, or a pair of them, without saying what it is."""
    return hashlib.sha256(repr(text).encode()).hexdigest()[:16]


def packed(message: Message) -> bytes:
    """Write a message as bytes."""
    body = as_json(message).encode()
    return LENGTH.pack(len(body)) + body


def receive(end: socket.socket) -> Message | None:
    """Wait for a message; None if the other end is closed."""
    head = _exactly(end, LENGTH.size)
    body = None if head is None else _exactly(end, LENGTH.unpack(head)[0])
    return None if body is None else json.loads(body)


def is_waiting(end: socket.socket) -> bool:
    """Tell whether there is something to receive."""
    return bool(select.select([end], [], [], 0)[0])


def _exactly(end: socket.socket, count: int) -> bytes | None:
    parts = []
    while count:
        part = end.recv(min(count, 1 << 20))
        if not part:
            return None
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
