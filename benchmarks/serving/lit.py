"""LitServe's side of the comparison: the same runner at full width. Its process imports this by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import litserve

from serving.servers import ENGINE_CORE
from sharcs_runtime import OnnxRunner

MOST_TEXTS = 32


class Api(litserve.LitAPI):  # type: ignore[misc]
    """Answers texts with all scores.

    Args:
        export: The full network's.
    """

    def __init__(self, export: Path) -> None:
        super().__init__(max_batch_size=MOST_TEXTS, batch_timeout=0.0)
        self.export = export

    def setup(self, _device: Any) -> None:
        os.sched_setaffinity(0, {ENGINE_CORE})
        self.runner = OnnxRunner(self.export, threads=1)

    def decode_request(self, request):  # a type would make a parameter of the address of it
        return str(request["inputs"])

    def predict(self, texts: Any) -> Any:
        return list(self.runner.answers(list(texts)))

    def encode_response(self, answer: Any) -> Any:
        named = zip(answer.classes, answer.scores, strict=True)
        return [{"label": self.runner.labels[index], "score": float(score)} for index, score in named]


def serve(export: Path, port: int) -> None:
    """Serve until a signal ends it."""
    server = litserve.LitServer(Api(export), accelerator="cpu", workers_per_device=1, timeout=False)
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False)
