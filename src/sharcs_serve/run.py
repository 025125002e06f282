"""Run the service on uvicorn until a signal ends it: readiness falls first, then nothing new is taken."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn

from sharcs_runtime.errors import InputError, first_line
from sharcs_runtime.files import claimed
from sharcs_serve.asgi import create_app
from sharcs_serve.connections import limited
from sharcs_serve.service import Service

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from sharcs_serve.settings import Settings

LOG = logging.getLogger("sharcs.serve")


def read_keys(file: Path | None) -> tuple[str, ...]:
    """Read API keys, one a line.

    Raises:
        InputError: If the file can't be read, or holds none.
    """
    if file is None:
        return ()
    try:
        lines = file.read_text(encoding="utf-8").split()
    except (OSError, ValueError) as error:
        raise InputError(f"`api_key_file` {file}: can't be read ({first_line(error)}); name another file") from error
    if not lines:
        raise InputError(f"`api_key_file` {file}: holds no key; write one a line")
    return tuple(lines)


class DrainingServer(uvicorn.Server):
    """Goes on serving for a while after the first signal, while nobody is sent here any more.

    Args:
        config: Uvicorn's.
        service: What is served.
        drain_seconds: How long; a second signal ends it at once.
    """

    def __init__(self, config: uvicorn.Config, service: Service, drain_seconds: float) -> None:
        super().__init__(config)
        self.service, self.drain_seconds = service, drain_seconds
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: Any = None) -> None:
        """Serve until a signal ends it; SIGHUP loads what the folder holds then."""
        self._loop = asyncio.get_running_loop()
        if hasattr(signal, "SIGHUP"):
            self._loop.add_signal_handler(signal.SIGHUP, self.service.reload)
        await super().serve(sockets)

    async def startup(self, sockets: Any = None) -> None:
        """Begin to listen, and say where."""
        await super().startup(sockets)
        if self.started:
            scheme, (host, port) = "https" if self.config.is_ssl else "http", sockets[0].getsockname()[:2]
            LOG.info("serving %s at %s://%s:%d", self.service.settings.folder, scheme, host, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; at the second signal, end."""
        if self.service.draining or sig != signal.SIGTERM or self._loop is None:
            super().handle_exit(sig, frame)
            return
        self.service.draining = True
        self._loop.call_soon_threadsafe(self._loop.call_later, self.drain_seconds, self._end)

    def _end(self) -> None:
        self.should_exit = True


def run(settings: Settings, host: str, port: int, drain_seconds: float, tls: tuple[Path | None, Path | None]) -> None:
    """Serve until a signal ends it.

    Args:
        settings: Bounds of the service.
        host: Address to listen at.
        port: Port; 0 for any that is free.
        drain_seconds: How long to go on after SIGTERM, while ``/ready`` says no.
        tls: Certificate and key, as files.

    Raises:
        InputError: If the network can't be served, the port is taken, or another process writes the monitor's file.
    """
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False  # the lines don't say them
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with claimed(*filter(None, [settings.monitor_file])):
        _run(settings, host, port, drain_seconds, tls)


def _run(
    settings: Settings, host: str, port: int, drain_seconds: float, tls: tuple[Path | None, Path | None]
) -> None:
    service = Service(settings)

    async def serve() -> None:
        await service.start()
        config = uvicorn.Config(
            create_app(service),
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            proxy_headers=False,  # nobody asks who the client is
            server_header=False,
            lifespan="on",
            http=limited(settings.max_connections, settings.body_seconds, service.metrics),
            ssl_certfile=tls[0],
            ssl_keyfile=tls[1],
            timeout_graceful_shutdown=math.ceil(settings.deadline_ms / 1000) + 1,
        )
        try:
            listening = config.bind_socket()
        except SystemExit:
            await service.stop()
            raise InputError(f"`port` {port}: can't be listened at on {host}; name another one") from None
        # asyncio sets it on sockets that say their protocol alone; without it an answer's body waits for 40 ms.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        gc.freeze()  # what is there stays; to search it for garbage again and again holds all requests up
        await DrainingServer(config, service, drain_seconds).serve([listening])

    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Take uvloop where it is installed: it sends an answer at once, and takes half of asyncio's time."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
