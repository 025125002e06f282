"""Engine processes: their start, their work, their death. What a dead one had is queued again."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

from sharcs_runtime.errors import InputError
from sharcs_serve.wire import Message, packed, read_message

if TYPE_CHECKING:
    from pathlib import Path

    from sharcs_serve.admission import Queue, Waiting
    from sharcs_serve.metrics import Metrics

LOG = logging.getLogger("sharcs.serve")
MOST_TRIES = 2  # engine processes that may die of a text
LONGEST_PAUSE = 5.0  # seconds between two starts of a process that dies at once
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class PoisonError(Exception):
    """A text that engine processes have died of; says its hash."""


class Pool:
    """Keeps engine processes at work on a queue.

    Args:
        folder: The model or the export.
        queue: What waits.
        metrics: Counts.
        workers: How many processes.

    Attributes:
        info: What a process says of the network; empty before the first one is ready.
        rungs: The policies to narrow by, as plain values, the first one's first.
        ready: How many processes are ready.
    """

    def __init__(self, folder: Path, queue: Queue, metrics: Metrics, workers: int) -> None:
        self.folder, self.queue, self.metrics, self.workers = folder, queue, metrics, workers
        self.info: Message = {}
        self.rungs: list[Message] = []
        self.ready = 0
        self._work = asyncio.Event()
        self._closing = False
        self._keepers: list[asyncio.Task[None]] = []  # asyncio itself would hold them weakly
        self._processes: set[subprocess.Popen[bytes]] = set()

    async def start(self) -> None:
        """Start the processes, and wait for the first.

        Raises:
            InputError: If the network can't be served.
        """
        links = [await self._spawn(), *[None] * (self.workers - 1)]
        self._keepers = [asyncio.create_task(self._keep(link)) for link in links]

    async def stop(self) -> None:
        """Let the processes end what they do, and go."""
        self._closing = True
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

    async def _spawn(self) -> Link:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "sharcs_serve.worker", str(theirs.fileno()), str(self.folder)],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **ONE_THREAD},
            )
        self._processes.add(process)
        reader, writer = await asyncio.open_connection(sock=ours)
        link = Link(process, reader, writer)
        try:
            message = await read_message(reader)
        except asyncio.IncompleteReadError:
            message = {"refused": "its engine process ended at once"}
        if "ready" not in message:
            await self._bury(link)
            raise InputError(f"{self.folder}: can't be served ({message['refused']})")
        self.info = message["ready"]
        calibration = self.info["calibration"] or {}
        self.rungs = [rung["policy"] for rung in calibration.get("ladder") or []] or [self.info["policy"]]
        return link

    async def _keep(self, link: Link | None) -> None:
        """Keep one process at work; start another one when it dies."""
        pause = 0.1
        try:
            while not self._closing:
                try:
                    link = link or await self._spawn()
                except InputError as error:
                    LOG.error("%s", error)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                    continue
                self.ready += 1
                try:
                    await self._feed(link)
                    pause = 0.1
                finally:
                    self.ready -= 1
                await self._bury(link)
                self.metrics.add("sharcs_worker_restarts_total")
                LOG.warning("engine process %d died and is replaced", link.process.pid)
                link = None
        finally:
            if link is not None:
                link.writer.close()

    async def _feed(self, link: Link) -> None:
        """Give a process micro-batches until it dies."""
        while not link.reader.at_eof():
            batch = self.queue.take(asyncio.get_running_loop().time())
            if not batch:
                self._work.clear()
                if await self._dies_idle(link):
                    return
                continue
            if not await self._run(link, batch):
                return

    async def _dies_idle(self, link: Link) -> bool:
        """Wait for work; True if the process dies instead. An idle one has nothing to say."""
        tasks = [asyncio.create_task(self._work.wait()), asyncio.create_task(link.reader.read(1))]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        died = tasks[1].done()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return died

    async def _run(self, link: Link, batch: list[tuple[Waiting, int]]) -> bool:
        """Have a process answer a micro-batch; False if it dies."""
        loop = asyncio.get_running_loop()
        left = {waiting.number: (waiting, rung) for waiting, rung in batch}
        policies = [waiting.policy or self.rungs[rung] for waiting, rung in batch]
        distinct = [policy for number, policy in enumerate(policies) if policy not in policies[:number]]
        message = {
            "numbers": list(left),
            "texts": [waiting.text for waiting, _ in batch],
            "policies": distinct,
            "policy_of": [distinct.index(policy) for policy in policies],
            "routed": self.info["routed"],
        }
        for waiting, _ in batch:
            self.metrics.observe("sharcs_queue_seconds", loop.time() - waiting.arrived)
            waiting.answer.add_done_callback(lambda future, number=waiting.number: link.drop(number, future))
        self.metrics.observe("sharcs_batch_texts", len(batch))
        full_tokens = 0.0
        try:
            link.writer.write(packed(message))
            while not (part := await read_message(link.reader)).get("done"):
                full_tokens += sum(
                    tokens * (1.0 if cost is None else cost)
                    for tokens, cost in zip(part.get("tokens", ()), part.get("cost", ()), strict=True)
                )
                self._settle(part, left)
        except (asyncio.IncompleteReadError, ConnectionError, BrokenPipeError):
            self.queue.done(batch, None, 0.0)
            self._again([waiting for waiting, _ in left.values()])
            return False
        self.queue.done(batch, part["seconds"], full_tokens)
        return True

    def _settle(self, part: Message, left: dict[int, tuple[Waiting, int]]) -> None:
        """Hand a part's answers to who waits for them."""
        for index, number in enumerate(part["numbers"]):
            waiting, rung = left.pop(number, (None, 0))
            if waiting is None or waiting.answer.done():
                continue
            if "error" in part:
                waiting.answer.set_exception(InputError(part["error"]))
                continue
            columns = ("probabilities", "answered_by", "start", "tokens", "cost")
            waiting.answer.set_result({name: part[name][index] for name in columns} | {"rung": rung})

    def _again(self, lost: list[Waiting]) -> None:
        """Queue what a dead process had; what two have died of is given up."""
        for waiting in lost:
            waiting.tries += 1  # the second time it ran alone
        poison = [waiting for waiting in lost if waiting.tries >= MOST_TRIES]
        for waiting in poison:
            name = hashlib.sha256(repr(waiting.text).encode()).hexdigest()[:16]
            LOG.error("text %s: %d engine processes died of it; it is given up", name, MOST_TRIES)
            self.metrics.add("sharcs_poisoned_total")
            if not waiting.answer.done():
                waiting.answer.set_exception(PoisonError(name))
        again = [waiting for waiting in lost if waiting not in poison]
        self.metrics.add("sharcs_requeued_total", amount=len(again))
        self.put(again)

    async def _bury(self, link: Link) -> None:
        link.writer.close()
        link.process.kill()
        await asyncio.to_thread(link.process.wait)
        self._processes.discard(link.process)


class Link:
    """A process and the streams of its socket."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.process, self.reader, self.writer = process, reader, writer

    def drop(self, number: int, future: asyncio.Future[Message]) -> None:
        """Tell the process that nobody waits for a text any more."""
        if future.cancelled() and not self.writer.is_closing():
            self.writer.write(packed({"drop": [number]}))
