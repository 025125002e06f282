"""Engine processes: their start, their work, their death. What a dead one had is queued again."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sharcs_runtime.errors import InputError
from sharcs_serve.flight import Flight
from sharcs_serve.wire import Link, Message, hash_of, launch

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from sharcs_serve.admission import Batch, Queue, Waiting
    from sharcs_serve.checks import Checks
    from sharcs_serve.metrics import Metrics

LOG = logging.getLogger("sharcs.serve")
MOST_TRIES = 2  # engine processes that may die of a text
LONGEST_PAUSE = 5.0  # seconds between two starts of a process that dies at once
MOST_IN_A_ROW = 8  # micro-batches, before there is time for other things
LOOKS = 20  # at the event loop's lag in the time of a deadline
SHORTEST_LOOK = 0.005  # seconds between two of them
LAG_SMOOTHING = 0.2


class PoisonError(Exception):
    """A text that engine processes have died of; says its hash."""


@dataclass
class Slot:
    """The place of one engine process, and the one that is warm to follow it."""

    next: Link | None = None


class Pool:
    """Keeps engine processes at work on a queue.

    Args:
        folder: The model or the export.
        queue: What waits.
        metrics: Counts.
        workers: How many processes.
        checks: What to do besides, while no text waits.

    Attributes:
        info: What a process says of the network; empty before the first one is ready.
        ready: How many processes are ready.
    """

    def __init__(self, folder: Path, queue: Queue, metrics: Metrics, workers: int, checks: Checks) -> None:
        self.folder, self.queue, self.metrics, self.workers, self.checks = folder, queue, metrics, workers, checks
        self.info: Message = {}
        self.ready = 0
        self._place = folder
        self._start_seconds = 0.0  # as the last start took
        self._idle = 0  # processes that wait for work
        self._work = asyncio.Event()
        self._closing = False
        self._slots = [Slot() for _ in range(workers)]
        self._burials: set[asyncio.Task[None]] = set()
        self._keepers: list[asyncio.Task[None]] = []  # asyncio itself would hold them weakly
        self._processes: set[subprocess.Popen[bytes]] = set()

    async def start(self, accept: Callable[[Message], None]) -> None:
        """Start the processes, and wait for the first.

        Args:
            accept: Is told what the network is before it answers, and may refuse it by an InputError.

        Raises:
            InputError: If the network can't be served.
        """
        self._slots[0].next = await self._load(accept)
        self._keepers = [asyncio.create_task(self._keep(slot)) for slot in self._slots]
        self._keepers.append(asyncio.create_task(self._watch()))

    async def reload(self, accept: Callable[[Message], None]) -> None:
        """Serve what the folder holds now: each process gives its place to one that is warm, one after the other.

        Args:
            accept: As for :meth:`start`.

        Raises:
            InputError: If it can't be served; all goes on as before.
        """
        link = await self._load(accept)
        for number, slot in enumerate(self._slots):
            try:
                slot.next = await self._spawn() if number else link
            except InputError as error:
                LOG.error("%s; an engine process goes on with what was there before", error)
            self._work.set()

    async def stop(self) -> None:
        """Let the processes end what they do, and go."""
        self._closing = True
        await asyncio.sleep(0)  # a keeper that has not begun would not close its socket when it is cancelled
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        for process in self._processes:
            await asyncio.to_thread(process.wait)

    def put(self, waiting: list[Waiting]) -> None:
        """Queue texts."""
        for each in waiting:
            self.queue.add(each)
        self._work.set()
        if not self._idle:
            self.checks.give_way()

    def wake(self) -> None:
        """Have idle processes look whether there is something to check."""
        if len(self.checks):
            self._work.set()

    async def _load(self, accept: Callable[[Message], None]) -> Link:
        before = self._place
        self._place = Path(os.path.realpath(self.folder))  # a link may lead elsewhere when a process is replaced
        try:
            link = await self._spawn()
            try:
                accept(link.info)
            except InputError:
                await self._bury(link)
                raise
        except InputError:
            self._place = before
            raise
        self.info = link.info
        return link

    async def _spawn(self) -> Link:
        loop = asyncio.get_running_loop()
        began = loop.time()
        link = await launch(self._place, self._processes)
        if "ready" in link.info:
            link.info = link.info["ready"]
            self._start_seconds = loop.time() - began
            return link
        await self._bury(link)
        raise InputError(f"{self.folder}: can't be served ({link.info['refused']})")

    async def _keep(self, slot: Slot) -> None:
        """Keep one process at work; start another one when it dies."""
        pause = 0.1
        link = None
        try:
            while not self._closing:
                try:
                    link, slot.next = slot.next or await self._spawn(), None
                except InputError as error:
                    LOG.error("%s", error)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                    continue
                link.on_end = self._work.set
                self._now_ready(1)
                try:
                    await self._feed(link, slot)
                    pause = 0.1
                finally:
                    self._now_ready(-1)
                if slot.next is not None:  # no step between the two, so that somebody is always ready
                    self._burials.add(burial := asyncio.create_task(self._bury(link)))
                    burial.add_done_callback(self._burials.discard)
                    continue
                await self._bury(link)
                self.metrics.add("sharcs_worker_restarts_total")
                LOG.warning("engine process %d died and is replaced", link.process.pid)
                link = None
        finally:
            for left in (link, slot.next):
                if left is not None:
                    left.close()

    def _now_ready(self, more: int) -> None:
        """Count ready processes; while there is none, what waits has to wait for a start, too."""
        self.ready += more
        now = asyncio.get_running_loop().time()
        self.queue.ready_at = 0.0 if self.ready else now + self._start_seconds

    async def _feed(self, link: Link, slot: Slot) -> None:
        """Give a process micro-batches, and checks, until it dies or gives its place to another."""
        checked = False
        while not link.ended and slot.next is None:
            idle = not len(self.queue)
            check = None if checked and not idle else self.checks.take(link.info["revision"], idle)
            checked = check is not None
            if check is not None:
                if not await self.checks.run(link, check):
                    return
                continue
            batch = self.queue.take(asyncio.get_running_loop().time())
            if not batch:
                self._work.clear()
                await self._wait()
                continue
            if not await self._run(link, slot, batch):
                return

    async def _watch(self) -> None:
        """Measure for how long what is due waits for this event loop."""
        loop, pause = asyncio.get_running_loop(), max(SHORTEST_LOOK, self.queue.deadline / LOOKS)
        while True:
            due = loop.time() + pause
            await asyncio.sleep(pause)
            self.queue.lag += LAG_SMOOTHING * (loop.time() - due - self.queue.lag)

    async def _wait(self) -> None:
        """Wait for work, or for the end of a process that has none."""
        self._idle += 1
        try:
            await self._work.wait()
        finally:
            self._idle -= 1

    async def _run(self, link: Link, slot: Slot, batch: Batch) -> bool:
        """Have a process answer a micro-batch, and those that wait meanwhile; False if it dies.

        It has the next one at hand when it is through with one, so that it doesn't wait for the front's event loop;
        unless another process is idle, which then takes it.
        """
        loop = asyncio.get_running_loop()
        flights = [self._send(link, batch)]
        sent = 1
        while flights:
            goes_on = len(flights) == 1 and sent < MOST_IN_A_ROW and slot.next is None and not self._idle
            if goes_on and (more := self.queue.take(loop.time())):
                flights.append(self._send(link, more))
                sent += 1
            part = await link.next()
            if part is None:
                self._lose(flights)
                return False
            flights[0].settle(part)
            if "done" not in part:
                continue
            flight, now = flights.pop(0), time.perf_counter()
            self.queue.done(flight.batch, flight.expected, now - flight.began)
            self.checks.earn(part["seconds"])
            for following in flights:
                following.began = now
        return True

    def _lose(self, flights: list[Flight]) -> None:
        """Queue again what a process had that has died."""
        for flight in flights:
            self.queue.done(flight.batch, flight.expected, None)
        self._again(flights[0].lost)
        self.put([waiting for flight in flights[1:] for waiting in flight.lost])  # they had not begun

    def _send(self, link: Link, batch: Batch) -> Flight:
        now = asyncio.get_running_loop().time()
        for waiting, _ in batch:
            self.metrics.observe("sharcs_queue_seconds", now - waiting.arrived)
        self.metrics.observe("sharcs_batch_texts", len(batch))
        # Not the loop's clock: uvloop's has whole milliseconds, of which a micro-batch may take less than one.
        return Flight(link, batch, self.queue.expected(batch), time.perf_counter())

    def _again(self, lost: list[Waiting]) -> None:
        """Queue what a dead process had; what two have died of is given up."""
        for waiting in lost:
            waiting.tries += 1  # the second time it ran alone
        poison = [waiting for waiting in lost if waiting.tries >= MOST_TRIES]
        for waiting in poison:
            name = hash_of(waiting.text)
            LOG.error("text %s: %d engine processes died of it; it is given up", name, MOST_TRIES)
            self.metrics.add("sharcs_poisoned_total")
            if not waiting.answer.done():
                waiting.answer.set_exception(PoisonError(name))
        again = [waiting for waiting in lost if waiting not in poison]
        self.metrics.add("sharcs_requeued_total", amount=len(again))
        self.put(again)

    async def _bury(self, link: Link) -> None:
        link.close()
        link.process.kill()
        await asyncio.to_thread(link.process.wait)
        self._processes.discard(link.process)
