"""Messages between the front and an engine process: JSON with its length before it. No pickle."""

from __future__ import annotations

import json
import select
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    import socket

Message = dict[str, Any]
LENGTH = struct.Struct("!I")


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
