"""A micro-batch on its way: sent to an engine process, and answered text by text; and clients who leave meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sharcs_runtime.errors import InputError
from sharcs_serve.stored import rung_policies

if TYPE_CHECKING:
    from starlette.types import Receive

    from sharcs_serve.admission import Batch, Waiting
    from sharcs_serve.wire import Link, Message

SOON = 0.005  # seconds that nobody looks whether a client has left: most answers are there by then
COLUMNS = ("probabilities", "answered_by", "start", "tokens", "cost")


class Flight:
    """A micro-batch that a process has.

    Args:
        link: The process.
        batch: As it was taken from the queue.
        expected: Seconds that it was expected to take.
        now: In seconds of ``time.perf_counter``.

    Attributes:
        began: When it was the next one to run.
    """

    def __init__(self, link: Link, batch: Batch, expected: float, now: float) -> None:
        self.link, self.batch, self.expected, self.began = link, batch, expected, now
        rungs = rung_policies(link.info)
        self._left = {waiting.number: (waiting, min(rung, len(rungs) - 1)) for waiting, rung in batch}
        policies = [waiting.policy or rungs[rung] for waiting, rung in self._left.values()]
        distinct = [policy for number, policy in enumerate(policies) if policy not in policies[:number]]
        message = {
            "numbers": list(self._left),
            "texts": [waiting.text for waiting, _ in batch],
            "policies": distinct,
            "policy_of": [distinct.index(policy) for policy in policies],
            "routed": link.info["routed"],
        }
        for waiting, _ in batch:
            waiting.answer.add_done_callback(lambda future, number=waiting.number: link.drop(number, future))
        link.send(message)

    def settle(self, part: Message) -> None:
        """Hand a part's answers to who waits for them."""
        for index, number in enumerate(part.get("numbers", ())):
            waiting, rung = self._left.pop(number, (None, 0))
            if waiting is None or waiting.answer.done():
                continue
            if "error" in part:
                waiting.answer.set_exception(InputError(part["error"]))
                continue
            about = {"rung": rung, "info": self.link.info}
            waiting.answer.set_result({name: part[name][index] for name in COLUMNS} | about)

    @property
    def lost(self) -> list[Waiting]:
        """Texts without an answer."""
        return [waiting for waiting, _ in self._left.values()]


class Departure:
    """Looks out for a client who leaves before its answer is there; nobody answers its texts then.

    Args:
        receive: Of the request, whose body has been read: it comes back when its client has left.
        waiting: Its texts.

    Attributes:
        seen: Whether it has left.
    """

    def __init__(self, receive: Receive, waiting: list[Waiting]) -> None:
        self.seen = False
        self._receive, self._waiting = receive, waiting
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(SOON, self._look)

    def stop(self) -> None:
        """Look out no longer."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _look(self) -> None:
        self._task = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        await self._receive()
        self.seen = True
        for each in self._waiting:
            each.answer.cancel()
