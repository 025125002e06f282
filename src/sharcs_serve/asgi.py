"""The service as an ASGI application: routes, keys, errors, logs, its start and its end.

Any ASGI server runs it: ``uvicorn sharcs_serve.asgi:application`` with the directory in ``SHARCS_SERVE_MODEL``.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from sharcs_runtime.errors import InputError
from sharcs_serve.formats import RefusedError
from sharcs_serve.service import Service
from sharcs_serve.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

LOG = logging.getLogger("sharcs.serve")
OPEN_ROUTES = ("/health", "/ready", "/", "/docs")  # of these, by GET, nothing needs a key
CLIENT_LEFT = 499


def create_app(service: Service) -> Starlette:
    """Make the application of a service; its engine processes live from start-up to shutdown."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        if not service.pool.ready:
            await service.start()
        yield
        await service.stop()

    def route(path: str, endpoint: Callable[[Request], Awaitable[Response]], method: str = "POST") -> Route:
        async def guarded(request: Request) -> Response:
            return await _guarded(service, path, endpoint, request)

        return Route(path, guarded, methods=[method])

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
    return Starlette(routes=routes, lifespan=lifespan)


async def _guarded(
    service: Service, path: str, endpoint: Callable[[Request], Awaitable[Response]], request: Request
) -> Response:
    """Check the key, turn errors into one line each, and take note."""
    began = time.perf_counter()
    try:
        is_open = request.method in ("GET", "HEAD") and path in OPEN_ROUTES
        if not is_open and not _may(service.settings.keys, request):
            raise RefusedError(401, "Unauthorized", "no valid API key; send it as 'Authorization: Bearer KEY'")
        response = await endpoint(request)
    except RefusedError as error:
        response = _error(error.status, error.kind, str(error), error.headers)
    except InputError as error:
        response = _error(422, "Validation", str(error))
    except ClientDisconnect:
        response = Response(status_code=CLIENT_LEFT)
    if service.draining:
        response.headers["Connection"] = "close"
    seconds = time.perf_counter() - began
    labels = (("route", path), ("code", str(response.status_code)))
    service.metrics.add("sharcs_requests_total", labels)
    if request.method == "POST":
        service.metrics.observe("sharcs_request_seconds", seconds)
        trace = request.headers.get("traceparent", "")[:64]
        line = {"route": path, "code": response.status_code, "seconds": round(seconds, 6), "traceparent": trace}
        LOG.info("%s", json.dumps(line))
    return response


def _may(keys: tuple[str, ...], request: Request) -> bool:
    """Compare with every key, in a time that tells nothing."""
    given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
    same = [hmac.compare_digest(given, key.encode()) for key in keys]  # all of them, also after a match
    return not keys or any(same)


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
