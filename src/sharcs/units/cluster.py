"""Actors on a Ray cluster: their start, their units, their death. What a dead one had is done by another."""

from __future__ import annotations

import importlib
import os
import socket
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharcs.data.files.remote import is_url
from sharcs.errors import InputError, first_line
from sharcs.units.place import done_name, place_of
from sharcs.units.processes import Event
from sharcs.units.schedule import MOST_TRIES, Deaths, Schedule
from sharcs.units.worker import UnitActor

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from sharcs.units.plan import Job, Plan
    from sharcs.units.work import Done

AUTO = "auto"
PATIENCE = 45.0  # seconds without a processor: with what connecting takes, a minute
CONNECTING = 10.0  # seconds until somebody answers at an address
UNAUTHENTICATED = b"Unauthenticated"  # what Ray prints of a wrong token, or of none; its error says nothing of it


@dataclass(eq=False, slots=True)
class _Actor:
    handle: Any
    place: Any  # a placement group: the processor that it waits for, or has
    node: str | None = None  # where it runs; None until it does
    number: int | None = None  # of the unit that it is at


class ClusterActors:
    """Has actors answer units, on any machine of a cluster; all read the data and write the output under one name.

    Args:
        job: What is asked for; its ``workers`` are actors, 0 for one a processor.
        plan: Which rows are in which unit.
        promise: The limit of disagreement that is checked, and its confidence; None without checks.
        is_full: Asked before each unit whether the full network is to answer all of it.

    Raises:
        InputError: If Ray is not installed, or the cluster can't be reached.
    """

    def __init__(
        self, job: Job, plan: Plan, promise: tuple[float, float] | None, is_full: Callable[[], bool]
    ) -> None:
        self._ray = connect(str(job.ray))
        # Actors run in other directories.
        self._job = replace(job, folder=_whole(job.folder), output=_whole(job.output))
        self._is_full = is_full
        self._place = place_of(self._job.output)
        # A data set that comes with the package has a name, and no path.
        sources = [
            replace(source, name=_whole(source.name)) if Path(source.name).exists() else source
            for source in plan.sources
        ]
        self._units = plan.units()
        # One copy for all of them, in Ray's store.
        self._task = self._ray.put((self._job, replace(plan, sources=sources), promise))
        self._class = self._ray.remote(num_cpus=1, max_restarts=0)(UnitActor)
        self._deaths = Deaths(plan, "actors")
        self._busy: dict[Any, _Actor] = {}
        self._stillborn = 0  # actors one after the other that have died before they began
        self._alive = time.monotonic()

    def answered(self, numbers: list[int]) -> Generator[Event, None, None]:
        """Answer units in any order.

        Args:
            numbers: Of the units.

        Yields:
            Units that are done. When the generator is closed, the actors are killed.

        Raises:
            InputError: What an actor raises; if two die of one unit, or several before they begin; or if there is
                no processor for them.
        """
        schedule = Schedule(numbers)
        count = self._job.workers or int(self._ray.cluster_resources().get("CPU", 1))
        try:
            for _ in range(min(count, len(numbers))):
                self._start()
            left = len(numbers)
            while left:
                ready, _ = self._ray.wait(list(self._busy), timeout=1.0)
                for reference in ready:
                    event = self._settle(reference, schedule)
                    if event is not None:
                        left -= 1
                        yield event
                self._check_alive()
        finally:
            for actor in self._busy.values():
                self._end(actor)
            self._ray.shutdown()

    def _start(self) -> None:
        util = self._ray.util
        place = util.placement_group([{"CPU": 1}])
        strategy = util.scheduling_strategies.PlacementGroupSchedulingStrategy(place)
        actor = _Actor(self._class.options(scheduling_strategy=strategy).remote(self._task), place)
        self._busy[actor.handle.begin.remote()] = actor

    def _end(self, actor: _Actor) -> None:
        self._ray.kill(actor.handle)
        self._ray.util.remove_placement_group(actor.place)

    def _settle(self, reference: Any, schedule: Schedule) -> Event | None:
        """Take what an actor says, and hand it the next unit."""
        actor, event = self._busy.pop(reference), None
        try:
            kind, content = self._ray.get(reference)
        except self._ray.exceptions.RayActorError as error:
            self._replace(actor, schedule, error)
            return None
        except self._ray.exceptions.RayError as error:
            raise InputError(f"`ray` {self._job.ray}: an actor failed ({last_line(error)})") from error
        if kind == "error":
            raise InputError(content)
        if actor.number is None:
            actor.node, self._stillborn = content, 0
        else:
            event = self._done(actor, content)
        actor.number = schedule.take(actor.number)
        if actor.number is not None:
            self._busy[actor.handle.answer.remote(actor.number, self._is_full())] = actor
        else:
            self._end(actor)  # nothing is left but what others are at; who replaces them does it
        return event

    def _done(self, actor: _Actor, done: Done) -> Event:
        """See that what was written on another machine is here, too."""
        assert actor.number is not None
        if self._place.read(done_name(actor.number)) is None:
            raise InputError(
                f"`output` {self._job.output}: what node {actor.node} has written is not there; name a directory "
                "that all machines share, or a URL"
            )
        return Event(done.rows, self._units[actor.number], done)

    def _replace(self, actor: _Actor, schedule: Schedule, error: Exception) -> None:
        """Start another actor for one that has died; a unit is to blame unless its machine has gone."""
        self._end(actor)
        self._start()
        if actor.number is None:
            self._stillborn += 1
            if self._stillborn > MOST_TRIES:
                raise InputError(
                    f"`ray` {self._job.ray}: {self._stillborn} actors died before they began ({last_line(error)}); "
                    "each machine needs this version of sharcs"
                ) from error
            return
        schedule.put_back(actor.number)
        if actor.node in {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}:
            self._deaths.count(self._units[actor.number])

    def _check_alive(self) -> None:
        """Refuse to wait longer for a processor.

        Raises:
            InputError: If no actor has had one for a while.
        """
        if any(actor.place.wait(0) for actor in self._busy.values()):
            self._alive = time.monotonic()
        elif time.monotonic() - self._alive > PATIENCE:
            free = self._ray.available_resources().get("CPU", 0)
            raise InputError(
                f"`ray` {self._job.ray}: no processor was free for {PATIENCE:.0f} s, and {free:g} are now; wait "
                "until the cluster has some, or add machines"
            )


def check_address(address: str) -> None:
    """Refuse an address where no cluster can be; Ray itself would wait for minutes.

    Args:
        address: ``HOST:PORT`` or ``ray://HOST:PORT``; or ``auto``, for the cluster that this machine is part of, else
            a new one on it.

    Raises:
        InputError: If it is no address, Ray is not installed, or nobody answers there.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address != AUTO and not (host and port.isdecimal()):
        raise InputError(f"`ray` {address}: has to be HOST:PORT, or {AUTO}")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # of a cluster that is started here
    try:
        importlib.import_module("ray")
    except ImportError as error:
        raise InputError(f"`ray` {address}: Ray is not installed; pip install 'sharcs[ray]'") from error
    if address != AUTO:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), CONNECTING):
                pass
        except (OSError, OverflowError) as error:
            raise InputError(
                f"`ray` {address}: nobody answers there ({first_line(error)}); start the cluster"
            ) from error


def connect(address: str) -> Any:
    """Connect to a cluster at an address that :func:`check_address` has found right.

    Returns:
        The module ``ray``.

    Raises:
        InputError: If the cluster does not let us in.
    """
    import ray
    import ray.util.scheduling_strategies

    options: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    with tempfile.TemporaryFile() as said:
        try:
            with _stderr_to(said.fileno()):
                ray.init(address, **options)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            said.seek(0)
            if UNAUTHENTICATED in said.read():
                raise InputError(
                    f"`ray` {address}: the cluster does not take our token; give its own in RAY_AUTH_TOKEN, with "
                    "RAY_AUTH_MODE=token"
                ) from error
            if address != AUTO or not isinstance(error, ConnectionError):
                raise InputError(f"`ray` {address}: can't be connected to ({last_line(error)})") from error
            ray.init(include_dashboard=False, **options)
    return ray


@contextmanager
def _stderr_to(file: int) -> Generator[None]:
    """Send what Ray's own code prints while it tries, a line a second, to a file."""
    kept = os.dup(2)
    os.dup2(file, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def last_line(error: BaseException) -> str:
    """Take the last line of a message: Ray's begin with the trace of the other process."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _whole(name: str) -> str:
    return name if is_url(name) else str(Path(name).resolve())
