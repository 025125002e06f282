"""The service as an ASGI application: routes, keys, errors, logs, its start and its end.

Any ASGI server runs it: ``uvicorn sharcs_serve.asgi:application`` with the directory in ``SHARCS_SERVE_MODEL``.
"""

from __future__ import annotations

import hmac
import logging
import os
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from sharcs_runtime.errors import InputError
from sharcs_serve.formats import RefusedError
from sharcs_serve.service import Service
from sharcs_serve.settings import Settings
from sharcs_serve.wire import as_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.types import Receive, Scope, Send

    Work = Callable[[Request], Awaitable[Response]]

LOG = logging.getLogger("sharcs.serve")
OPEN_ROUTES = ("/health", "/ready", "/", "/docs")  # of these, by GET, nothing needs a key
CLIENT_LEFT = 499


def create_app(service: Service) -> Router:
    """Make the application of a service; its engine processes live from start-up to shutdown."""

    @asynccontextmanager
    async def lifespan(_app: Any) -> AsyncIterator[None]:
        if not service.pool.ready:
            await service.start()
        yield
        await service.stop()

    def route(path: str, work: Work, method: str = "POST") -> Route:
        return Route(path, Guarded(service, path, work), methods=[method])

    routes = [
        route("/predict", service.predict),
        route("/", service.predict),
        route("/classify", service.classify),
        route("/", service.page, "GET"),
        route("/docs", service.docs, "GET"),
        route("/health", service.health, "GET"),
        route("/ready", service.ready, "GET"),
        route("/info", service.info, "GET"),
        route("/metrics", service.counts, "GET"),
    ]
    return Router(routes, lifespan=lifespan)  # without Starlette's layers, which catch what Guarded does


class Guarded:
    """A route: checks the key, turns errors into one line each, and takes note.

    Args:
        service: The service.
        path: Of the route.
        work: What it does.
    """

    def __init__(self, service: Service, path: str, work: Work) -> None:
        self.service, self.path, self.work = service, path, work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        began = time.perf_counter()
        request = Request(scope, receive)
        response = await self._answer(request)
        if self.service.draining:
            response.headers["Connection"] = "close"
        seconds = time.perf_counter() - began
        metrics = self.service.metrics
        metrics.add("sharcs_requests_total", (("route", self.path), ("code", str(response.status_code))))
        if scope["method"] == "POST":
            metrics.observe("sharcs_request_seconds", seconds)
            trace = request.headers.get("traceparent", "")[:64]
            line = {"route": self.path, "code": response.status_code, "seconds": round(seconds, 6)}
            LOG.info("%s", as_json(line | {"traceparent": trace}))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        try:
            is_open = request.method in ("GET", "HEAD") and self.path in OPEN_ROUTES
            if not is_open and not _may(self.service.settings.keys, request):
                raise RefusedError(401, "Unauthorized", "no valid API key; send it as 'Authorization: Bearer KEY'")
            return await self.work(request)
        except RefusedError as error:
            return _error(error.status, error.kind, str(error), error.headers)
        except InputError as error:
            return _error(422, "Validation", str(error))
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)


def _may(keys: tuple[str, ...], request: Request) -> bool:
    """Compare with every key, in a time that tells nothing."""
    if not keys:
        return True
    given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
    same = [hmac.compare_digest(given, key.encode()) for key in keys]  # all of them, also after a match
    return any(same)


def _error(status: int, kind: str, text: str, headers: dict[str, str] | None = None) -> Response:
    body = {"error": " ".join(text.split()), "error_type": kind}
    return JSONResponse(body, status_code=status, headers=headers)


def __getattr__(name: str) -> Any:
    """Make ``application`` for an ASGI server, from the environment."""
    if name != "application":
        raise AttributeError(name)
    folder = os.environ.get("SHARCS_SERVE_MODEL")
    if folder is None:
        raise InputError("SHARCS_SERVE_MODEL: has to name the directory of a model or an export")
    return create_app(Service(Settings(Path(folder), workers=int(os.environ.get("SHARCS_SERVE_WORKERS", "1")))))
