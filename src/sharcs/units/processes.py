"""Worker processes: their start, their units, their death. What a dead one had is done by another."""

from __future__ import annotations

import multiprocessing
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sharcs.errors import InputError
from sharcs.units.schedule import Deaths, Schedule
from sharcs.units.worker import main

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from multiprocessing.connection import Connection

    from sharcs.units.plan import Job, Plan, Unit
    from sharcs.units.work import Done

PRELOADED = "sharcs.units.worker"


def starter() -> Any:
    """Take what starts processes: a server that imports what takes long, and makes each in a moment.

    Called early, it imports while this process opens the network. It ends with this process.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    from multiprocessing import forkserver

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED])
    forkserver.ensure_running()
    return context


class Event(NamedTuple):
    """What a process says.

    Attributes:
        rows: So many more rows are answered; negative where a process has died of them.
        unit: A unit that is done, or None.
        done: What is known of it.
    """

    rows: int
    unit: Unit | None = None
    done: Done | None = None


@dataclass(eq=False, frozen=True, slots=True)
class _Link:
    process: Any  # a Process of some context
    connection: Connection


class Processes:
    """Has worker processes answer units.

    Args:
        job: What is asked for.
        plan: Which rows are in which unit.
        promise: The limit of disagreement that is checked, and its confidence; None without checks.
        is_full: Asked before each unit whether the full network is to answer all of it.
    """

    def __init__(
        self, job: Job, plan: Plan, promise: tuple[float, float] | None, is_full: Callable[[], bool]
    ) -> None:
        self._task = (job, plan, promise)
        self._is_full = is_full
        self._units = plan.units()
        self._events: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()
        self._deaths = Deaths(plan, "worker processes")
        self._links: set[_Link] = set()
        self._lock = threading.Lock()
        self._closing = False
        self._context = starter()

    def answered(self, numbers: list[int]) -> Generator[Event, None, None]:
        """Answer units in any order.

        Args:
            numbers: Of the units.

        Yields:
            What happens. When the generator is closed, the processes are killed.

        Raises:
            InputError: What a process raises; or if two processes die of one unit.
        """
        schedule = Schedule(numbers)
        count = min(self._task[0].workers, len(numbers))
        threads = [threading.Thread(target=self._keep, args=(schedule,), daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        try:
            while count:
                event = self._events.get()
                if event is None:
                    count -= 1
                elif isinstance(event, BaseException):
                    raise event
                else:
                    yield event
        finally:
            schedule.close()
            with self._lock:
                self._closing = True
                for link in self._links:
                    link.process.kill()
            for thread in threads:
                thread.join()

    def _keep(self, schedule: Schedule) -> None:
        """Keep one process at work; start another one when it dies."""
        link: _Link | None = None
        number: int | None = None
        try:
            while (number := schedule.take(number)) is not None:
                link = link or self._start()
                if link is None:
                    break
                if not self._run(link, self._units[number]):
                    self._bury(link)
                    link = None
                    schedule.put_back(number)
                    if not self._closing:
                        self._deaths.count(self._units[number])
        except BaseException as error:
            self._events.put(error)
        finally:
            if link is not None:
                self._bury(link)
            self._events.put(None)

    def _start(self) -> _Link | None:
        """Start a process, unless all is to end."""
        with self._lock:
            if self._closing:
                return None
            ours, theirs = self._context.Pipe()
            with theirs:
                process = self._context.Process(target=main, args=(theirs, *self._task), daemon=True)
                process.start()
            link = _Link(process, ours)
            self._links.add(link)
            return link

    def _run(self, link: _Link, unit: Unit) -> bool:
        """Have a process answer a unit; False if it dies."""
        rows = 0
        try:
            link.connection.send((unit.number, self._is_full()))
            while True:
                kind, content = link.connection.recv()
                if kind == "error":
                    raise InputError(content)
                if kind == "done":
                    self._events.put(Event(0, unit, content))
                    return True
                rows += content
                self._events.put(Event(content))
        except (EOFError, ConnectionError):
            self._events.put(Event(-rows))
            return False

    def _bury(self, link: _Link) -> None:
        link.connection.close()
        link.process.kill()
        link.process.join()
        with self._lock:
            self._links.discard(link)
