"""Servers that the service is compared with, each as a process: ``python -m serving.programs NAME EXPORT PORT T``.

``tei``: text-embeddings-inference's scheduler on our front and engine: first come, first served, 512 texts wait at
most, a batch is as many texts as fit into 16,384 tokens with their padding, and there is no deadline. ``poison``: our
service, whose engine processes die of the text "poison". ``noop``: an ASGI application that answers at once.
``litserve``: LitServe with the same runner.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

QUEUE_TEXTS, BATCH_TOKENS = 512, 16_384
DEADLY = """
import os
from sharcs_serve import worker
answer = worker.answer
worker.answer = lambda *given: os._exit(1) if "poison" in given[2]["texts"] else answer(*given)
worker.main()
"""


def tei(export: Path, port: int, target: float) -> None:
    from sharcs_serve import admission, service

    class Queue(admission.Queue):
        """First come, first served, bounded by count."""

        def add(self, waiting: admission.Waiting) -> None:
            waiting.deadline = float("inf") if waiting.tries == 0 else 0.0
            self._heap.append(waiting)

        def refusal(self, now: float, asked: list[admission.Waiting]) -> int | None:
            return 1 if len(self._heap) + len(asked) > QUEUE_TEXTS else None

        def take(self, now: float) -> admission.Batch:
            batch: admission.Batch = []
            longest = 0.0
            while self._heap:
                waiting = self._heap[0]
                longest = max(longest, self._size(waiting))
                if batch and longest * (len(batch) + 1) > BATCH_TOKENS:
                    break
                self._heap.pop(0)
                if not waiting.answer.done():
                    batch.append((waiting, 0))
            return batch

        def look(self, now: float) -> int:
            return 0

    service.Queue = Queue  # type: ignore[misc]
    ours(export, port, target)


def ours(export: Path, port: int, target: float) -> None:
    from sharcs_serve.run import run
    from sharcs_serve.service import Settings

    run(Settings(export, deadline_ms=1000 * target), "127.0.0.1", port, 1.0, (None, None))


def poison(export: Path, port: int, target: float) -> None:
    popen = subprocess.Popen

    def start(command: list[str], **more: Any) -> Any:
        return popen([command[0], "-c", DEADLY, *command[3:]], **more)

    subprocess.Popen = start  # type: ignore[misc,assignment]
    ours(export, port, target)


def noop(_export: Path, port: int, _target: float) -> None:
    import uvicorn

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await receive()
            headers = [(b"content-type", b"application/json"), (b"content-length", b"2")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b"{}"})

    uvicorn.run(application, port=port, log_level="warning", lifespan="off")


def litserve(export: Path, port: int, _target: float) -> None:
    from serving.lit import serve

    serve(export, port)


PROGRAMS = {"tei": tei, "ours": ours, "poison": poison, "noop": noop, "litserve": litserve}


if __name__ == "__main__":
    name, export, port, target = sys.argv[1:]
    PROGRAMS[name](Path(export), int(port), float(target))
