"""An engine process: reads micro-batches from its socket, answers each text as soon as its answer stands."""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import socket
import sys
import time
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sharcs_runtime.bundle import DESCRIPTION_FILE
from sharcs_runtime.errors import InputError, first_line
from sharcs_runtime.policy import RoutingPolicy
from sharcs_runtime.scores import MULTI_LABEL, REGRESSION
from sharcs_serve.stored import MODEL_FILE, weights_digest
from sharcs_serve.wire import Message, is_waiting, packed, receive

if TYPE_CHECKING:
    from sharcs_runtime.pool import Flags, Numbers
    from sharcs_runtime.scheduler import PooledEngine


def main() -> None:
    """Serve the socket whose descriptor is the first argument, with the network whose directory is the second."""
    for number in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
        signal.signal(number, signal.SIG_IGN)  # the front's affair: it closes the socket
    end = socket.socket(fileno=int(sys.argv[1]))
    try:
        engine, info, around = open_engine(Path(sys.argv[2]))
        list(engine.stream(["a few words"]))  # what is made once is made before anybody waits
        gc.freeze()  # and stays; to search it for garbage again and again would hold texts up
    except (InputError, OSError, ImportError) as error:
        end.sendall(packed({"refused": first_line(error)}))
        return
    end.sendall(packed({"ready": info}))
    inbox = Inbox(end)
    with around:
        while (message := inbox.next()) is not None:
            answer(engine, inbox, message)


def open_engine(folder: Path) -> tuple[PooledEngine[Any], Message, AbstractContextManager[None]]:
    """Load an export by ONNX Runtime, or a model by PyTorch, on one thread.

    Returns:
        The engine, what there is to say of it, and what to run it in.

    Raises:
        InputError: If there is no network that names one class for each text.
    """
    if (folder / DESCRIPTION_FILE).is_file():
        from sharcs_runtime.bundle import Bundle
        from sharcs_runtime.onnx import OnnxRunner

        bundle = Bundle.read(folder)
        runner = OnnxRunner(folder, threads=1)
        _require_classes(folder, bundle.problem_type)
        info = _info(folder, DESCRIPTION_FILE, bundle.labels, bundle.names, bundle.policy, bundle.calibration)
        return runner, info | {"kind": "export", "routed": bundle.trunk is not None}, nullcontext()
    import torch

    from sharcs.inference.engine import InferenceEngine
    from sharcs.inference.folder import open_model
    from sharcs.inference.predict import class_names
    from sharcs.subnetworks.onednn import without_shape_cache

    torch.set_num_threads(1)
    trained = open_model(folder)
    config = trained.model.config
    _require_classes(folder, config.problem_type)
    names = class_names(trained.model.config)
    info = _info(folder, MODEL_FILE, names, config.names, config.routing_policy, config.calibration)
    around = without_shape_cache(trained.model.device, trained.model.dtype)
    return InferenceEngine(trained.model, trained.tokenizer), info | {"kind": "model", "routed": True}, around


def _require_classes(folder: Path, problem_type: str | None) -> None:
    if problem_type in (MULTI_LABEL, REGRESSION):
        raise InputError(
            f"{folder}: is no classifier with one label for each input (problem_type {problem_type}), and nothing "
            "else can be served; answer tables by 'sharcs predict'"
        )


def _info(
    folder: Path,
    file: str,
    labels: list[str],
    names: list[str],
    policy: RoutingPolicy,
    calibration: dict[str, Any] | None,
) -> Message:
    weights = weights_digest(folder)
    return {
        "model": folder.name,
        "revision": hashlib.sha256((folder / file).read_bytes() + weights.encode()).hexdigest()[:12],
        "weights": weights,
        "labels": labels,
        "sub_networks": names,
        "policy": policy.to_dict(),
        "calibration": calibration,
    }


class Inbox:
    """What the front sends: micro-batches, the next one early, and texts that nobody waits for any more.

    Args:
        end: The socket.
    """

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self._batches: deque[Message] = deque()
        self._dropped: set[int] = set()

    def next(self) -> Message | None:
        """Wait for a micro-batch; None at the end."""
        if not self._batches:
            self._dropped.clear()  # what had been sent is answered
        while not self._batches:
            if (message := receive(self.end)) is None:
                return None
            self._sort(message)
        return self._batches.popleft()

    def wanted(self, numbers: list[int]) -> Flags:
        """Tell which texts somebody still waits for."""
        while is_waiting(self.end) and (message := receive(self.end)) is not None:
            self._sort(message)
        return np.array([number not in self._dropped for number in numbers], np.bool_)

    def _sort(self, message: Message) -> None:
        if "texts" in message:
            self._batches.append(message)
            self._dropped.difference_update(message["numbers"])  # an earlier check had the same
        self._dropped.update(message.get("drop", ()))


def answer(engine: PooledEngine[Any], inbox: Inbox, message: Message) -> None:
    """Answer a micro-batch: parts as they come, the last one with how long all took."""
    end, policies = inbox.end, [RoutingPolicy.from_dict(policy) for policy in message["policies"]]
    began = time.perf_counter()
    kept = np.flatnonzero(inbox.wanted(message["numbers"]))
    numbers, texts, policy_of = ([message[name][row] for row in kept] for name in ("numbers", "texts", "policy_of"))
    texts = [tuple(text) if isinstance(text, list) else text for text in texts]  # JSON has no tuples

    def wanted(rows: Numbers) -> Flags:
        return inbox.wanted([numbers[row] for row in rows])

    def send(part: Message, is_last: bool) -> None:
        end.sendall(packed(part | {"done": True, "seconds": time.perf_counter() - began} if is_last else part))

    left = len(numbers)
    try:
        chosen = None if not message["routed"] else [policies[number] for number in policy_of]
        for rows, answers in engine.stream(texts, chosen, wanted):
            columns = {
                "probabilities": answers.probabilities.round(7).astype(float).tolist(),
                "answered_by": answers.answered_by.tolist(),
                "start": answers.start.tolist(),
                "tokens": answers.tokens.tolist(),
                "cost": [None if cost != cost else cost for cost in answers.cost.tolist()],
            }
            left -= len(rows)
            send({"numbers": [numbers[row] for row in rows], **columns}, is_last=not left)
    except InputError as error:
        send({"numbers": numbers, "error": str(error)}, is_last=True)
    else:
        if left or not numbers:  # somebody has left
            send({}, is_last=True)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
