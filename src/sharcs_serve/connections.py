"""How many connections are open at once, how long one may wait with the head of its request, and how long that is."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from sharcs_runtime.errors import InputError

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as Protocol
except ImportError:  # Windows, where it has to be compiled
    from uvicorn.protocols.http.h11_impl import H11Protocol as Protocol  # type: ignore[assignment]
try:
    import resource
except ImportError:  # Windows, which knows no such limit
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from sharcs_serve.metrics import Metrics

MOST = 10_000  # where nothing is said
SPARE = 100  # connections above the limit that are told so; further ones are closed at once
FILES = 64  # that a process opens besides
FILES_OF_WORKER = 8
RETRY_SECONDS = 1
HEAD_BYTES = 65_536  # of a request; a longer one is no request of ours


def connection_limit(wanted: int | None, workers: int) -> int:
    """Take a limit of connections that the limit of open files allows, which is raised as far as it may be.

    Args:
        wanted: The limit; by default as many as the files allow, and 10,000 at most.
        workers: Engine processes, which take files, too.

    Raises:
        InputError: If this process may not open so many files.
    """
    limit = MOST if wanted is None else wanted
    if resource is None:
        return limit
    others = SPARE + FILES + FILES_OF_WORKER * workers
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= limit + others:
        return limit
    allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard - others)
    if allowed < (1 if wanted is None else wanted):
        text = f"`max_connections` {limit}: this process may open {hard} files"
        raise InputError(f"{text}; give at most {max(allowed, 0)}, or raise the limit (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed + others), hard))
    return allowed


def limited(limit: int, seconds: float, metrics: Metrics) -> type[Protocol]:
    """Make the protocol of a server whose connections are limited.

    Args:
        limit: Of connections that are open at once. Those above it get status 503, but for ``/health``.
        seconds: In which the head of a request has to be there, from when the connection is open or it has begun.
        metrics: Counts.
    """

    class Limited(Protocol):
        """A connection."""

        patience: asyncio.TimerHandle | None = None
        head_bytes = 0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            """Count the connection, and refuse it above the limit."""
            super().connection_made(transport)
            metrics.put("sharcs_connections", len(self.connections))
            above = len(self.connections) - limit
            if above > 0:
                metrics.add("sharcs_connections_refused_total")
                self.app = _refusing(self.app)
            if above > SPARE:
                transport.abort()
                return
            self._wait(RETRY_SECONDS if above > 0 else seconds)

        def data_received(self, data: bytes) -> None:
            """Read on; a head that has begun may take a while."""
            super().data_received(data)
            if not self._is_between_requests():
                self.head_bytes = 0
                self._stop_waiting()
                return
            self.head_bytes += len(data)
            if self.head_bytes > HEAD_BYTES:
                self.transport.close()
            elif self.patience is None:
                self._wait(seconds)

        def connection_lost(self, exc: Exception | None) -> None:
            """Count the connection out."""
            super().connection_lost(exc)
            metrics.put("sharcs_connections", len(self.connections))
            self._stop_waiting()

        def _is_between_requests(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _wait(self, seconds: float) -> None:
            self.patience = self.loop.call_later(seconds, self._give_up)

        def _stop_waiting(self) -> None:
            if self.patience is not None:
                self.patience.cancel()
                self.patience = None

        def _give_up(self) -> None:
            if self._is_between_requests():
                self.transport.close()

    return Limited


def _refusing(app: ASGIApp) -> Any:
    """Answer in the place of an application that there are too many connections; ``/health`` says the truth."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/health":
            await app(scope, receive, send)
            return
        body = {"error": f"too many connections; come again in {RETRY_SECONDS} s", "error_type": "Overloaded"}
        headers = {"Retry-After": str(RETRY_SECONDS), "Connection": "close"}
        await JSONResponse(body, status_code=503, headers=headers)(scope, receive, send)

    return refuse
