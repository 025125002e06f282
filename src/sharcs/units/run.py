"""A command's part of a directory of answers: begun or gone on with, and done by its processes."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sharcs.data.files.remote import is_url
from sharcs.errors import InputError
from sharcs.inference.predict import added_columns, check_names, engine_of
from sharcs.inference.record import answer_settings
from sharcs.units.cluster import ClusterActors, check_address
from sharcs.units.place import MANIFEST, OURS, done_name, place_of
from sharcs.units.plan import Job, Plan, job_settings, make_plan
from sharcs.units.processes import Event, Processes
from sharcs.units.work import Done, UnitWorker, on_threads
from sharcs_runtime.drift import DisagreementCounter
from sharcs_runtime.policy import record_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from sharcs.config import SharcsConfig
    from sharcs.data.sources import Source
    from sharcs.inference.exported import ExportedModel
    from sharcs.inference.folder import TrainedModel
    from sharcs.inference.stream import TextStream
    from sharcs.units.plan import Unit
    from sharcs_runtime.bundle import Bundle

REFUTED = f"{OURS}/refuted.json"
ON_ERROR = ("stop", "keep", "skip")
WHEN_REFUTED = ("stop", "full", "go-on")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a directory holds when a command ends.

    Attributes:
        units: Of this command's shard.
        before: How many of these were done before it began.
        done: How many of these are done.
        rows: Of the input, in the units that are done.
        files: Tables of the input that these rows are from.
        without: Rows without a text.
        cut: How many texts have more tokens than are read.
        max_length: How many tokens are read, at most.
        full: Units that the full network answered, because the promise had been refuted.
        all_units: Of all shards.
        all_done: How many of them are done.
        checks: What the full network said of the answers, of all units that are done; None without checks.
        refuted: Whether the promise is.
        abstained: Answers that are empty, because their score is below the limit.
    """

    units: int
    before: int
    done: int
    rows: int
    files: int
    without: int
    cut: int
    max_length: int
    full: int
    all_units: int
    all_done: int
    checks: DisagreementCounter | None
    refuted: bool
    abstained: int = 0


class Run:
    """A command's part of a directory of answers.

    Args:
        job: What is asked for; its shard is claimed, by :func:`shard_name`.
        sources: The data.
        trained: The network, opened for one thread.
        check: Refuses a table.

    Attributes:
        units: Of the shard.
        rows: Of these.
        rows_before: Those of them that are done already.

    Raises:
        InputError: If a setting is out of range, the directory holds something else or was begun with something
            else, or a table can't be read.
    """

    def __init__(
        self,
        job: Job,
        sources: list[Source],
        trained: TrainedModel | ExportedModel,
        check: Callable[[TextStream], None],
    ) -> None:
        self._job, self._trained = job, trained
        self._engine = engine_of(trained, job.width)
        self._place = place_of(job.output)
        config: SharcsConfig | Bundle = trained.model.config
        self._promise = _promise_of(config, job) if job.check_share else None
        self._plan = self._planned(sources, check)
        units = self._plan.units()
        self._check_apart(units)
        part, parts = job.shard
        self.units = units[part * len(units) // parts : (part + 1) * len(units) // parts]
        self._all = units
        self._done = self._read_done()
        self._left = [unit for unit in self.units if unit.number not in self._done]
        self._check_on_error()
        self._counter = self._merged()
        self._refuted = self._place.read(REFUTED) is not None or (self._counter is not None and self._counter.alarm)
        self.rows = sum(unit.stop - unit.start for unit in self.units)
        self.rows_before = self.rows - sum(unit.stop - unit.start for unit in self._left)

    def work(self, on_rows: Callable[[int], None]) -> Outcome:
        """Do what is left.

        Args:
            on_rows: Called with the number of rows that were answered; a negative one where they have to be answered
                again.

        Raises:
            InputError: If a row has no text and the work is to stop there, an output can't be written, or two worker
                processes die of a unit.
        """
        if self._left and not self._is_stopped():
            here = self._job.workers == 1 and self._job.ray is None
            with closing(self._here(on_rows) if here else self._elsewhere()) as events:
                for rows, unit, done in events:
                    on_rows(rows)
                    if unit is not None and done is not None:
                        self._take(unit, done)
                    if self._is_stopped():
                        break
        return self._outcome()

    def _elsewhere(self) -> Generator[Event, None, None]:
        workers = Processes if self._job.ray is None else ClusterActors
        numbers = [unit.number for unit in self._left]
        return workers(self._job, self._plan, self._promise, self._is_full).answered(numbers)

    def _here(self, on_rows: Callable[[int], None]) -> Generator[Event, None, None]:
        worker = UnitWorker(self._job, self._plan, self._promise, self._trained)
        with on_threads(self._trained):
            for unit in self._left:
                yield Event(0, unit, worker.answer(unit, self._is_full(), on_rows))

    def _take(self, unit: Unit, done: Done) -> None:
        self._done[unit.number] = done
        if self._counter is None:
            return
        if done.checks is not None:
            self._counter.merge(DisagreementCounter.from_dict(done.checks))
        if self._refuted:
            return
        if self._counter.alarm:
            self._place.write(REFUTED, self._counter.to_dict())
            self._refuted = True
        else:
            self._refuted = self._place.read(REFUTED) is not None  # by another shard

    def _is_full(self) -> bool:
        return self._refuted and self._job.when_refuted == "full"

    def _is_stopped(self) -> bool:
        return self._refuted and self._job.when_refuted == "stop"

    def _planned(self, sources: list[Source], check: Callable[[TextStream], None]) -> Plan:
        """Make a plan, or take the one that is there."""
        job = self._job
        engine = self._engine
        settings = job_settings(job, answer_settings(engine, Path(job.folder), job.scores, job.abstain_below))
        added = added_columns(engine.config, job.scores)
        made = None

        def check_all(stream: TextStream, output: str) -> None:
            check(stream)
            check_names(stream.table, engine.config, f"{job.output}/{output}", added)

        if self._place.read(MANIFEST) is None:
            if not self._place.is_empty() and self._place.read(MANIFEST) is None:
                raise InputError(f"`output` {job.output}: is in use; name a new directory")
            made = make_plan(job, sources, settings, engine.window, check_all)
        content = self._place.read(MANIFEST)  # another shard may have written it meanwhile
        if content is None and made is not None:
            made.units()
            self._place.write(MANIFEST, made.to_dict())
            return made
        plan = Plan.from_dict(content or {}, f"{job.output}/{MANIFEST}")
        plan.check_same(sources, settings, job.output)
        now = {source.place: source for source in sources}
        return replace(plan, sources=[now[source.place] for source in plan.sources])

    def _check_apart(self, units: list[Unit]) -> None:
        """Refuse to write where the data is read from."""
        names = [source.name for source in self._plan.sources]
        data = {name if is_url(name) else os.path.realpath(name) for name in names}
        folder = self._place.name if is_url(self._place.name) else os.path.realpath(self._place.name)
        for unit in units:
            if f"{folder}/{unit.output}" in data:
                raise InputError(f"`output` {self._place.name}: holds the data; name another directory")

    def _read_done(self) -> dict[int, Done]:
        """Read what is known of the units whose outputs are there."""
        outputs = {unit.number: unit.output for unit in self._all}
        known = {number: content for number, content in self._place.read_done().items() if number in outputs}
        present = self._place.present([outputs[number] for number in known])
        return {
            number: Done.from_dict(content, f"{self._place.name}/{done_name(number)}")
            for number, content in known.items()
            if outputs[number] in present
        }

    def _check_on_error(self) -> None:
        others = {done.on_error for done in self._done.values()} - {None, self._job.on_error}
        if others and self._job.on_error != "stop":
            raise InputError(
                f"`on_error` {self._job.on_error}: rows without a text were treated by {sorted(map(str, others))[0]} "
                "before; give that again, or name another output"
            )

    def _merged(self) -> DisagreementCounter | None:
        """Count together what was found out about units that are done."""
        if self._promise is None:
            return None
        counter = DisagreementCounter(*self._promise, self._job.check_share)
        for _, done in sorted(self._done.items()):
            if done.checks is not None:
                counter.merge(DisagreementCounter.from_dict(done.checks))
        return counter

    def _outcome(self) -> Outcome:
        all_done = self._done | self._read_done()  # of other shards, too
        self._done = all_done
        of_shard = [(unit, all_done[unit.number]) for unit in self.units if unit.number in all_done]
        return Outcome(
            units=len(self.units),
            before=len(self.units) - len(self._left),
            done=len(of_shard),
            rows=sum(done.rows for _, done in of_shard),
            files=len({unit.source for unit, _ in of_shard}),
            without=sum(done.without for _, done in of_shard),
            cut=sum(done.cut for _, done in of_shard),
            abstained=sum(done.abstained for _, done in of_shard),
            max_length=self._engine.max_length,
            full=sum(done.full for _, done in of_shard),
            all_units=len(self._all),
            all_done=len(all_done),
            checks=self._merged(),
            refuted=self._refuted,
        )


def shard_name(job: Job) -> str:
    """Name what a command claims, below the directory, before it does anything."""
    part, parts = job.shard
    return f"{OURS}/shard-{part}-of-{parts}"


def check_job(job: Job) -> None:
    """Refuse settings that are out of range or don't go together, before any work.

    Raises:
        InputError: If there are some.
    """
    for name, choices in (("on_error", ON_ERROR), ("when_refuted", WHEN_REFUTED)):
        value = getattr(job, name)
        if value not in choices:
            raise InputError(f"`{name}` {value}: has to be one of {', '.join(choices)}")
    part, parts = job.shard
    if not 0 <= part < parts:
        raise InputError(f"`shard` {part}/{parts}: has to be from 0/{parts} to {parts - 1}/{parts}")
    if job.when_refuted != WHEN_REFUTED[0] and job.check_share == 0:
        raise InputError(f"`when_refuted` {job.when_refuted}: nothing is checked that could be; add `check_share`")
    if not 0 <= job.check_share <= 1:
        raise InputError(f"`check_share` {job.check_share:g}: has to be from 0 to 1")
    if job.check_share and job.width is not None:
        raise InputError("`check_share`: checks the policy, and `width` forces one sub-network; leave one out")
    if job.ray is not None:
        check_address(job.ray)


def _promise_of(config: Any, job: Job) -> tuple[float, float]:
    """Take the limit of disagreement that a calibration has tested, and its confidence."""
    found = record_of(config.routing_policy, config.calibration) or {}
    if found.get("kind") == "max_disagreement" and found.get("met"):
        return float(found["limit"]), float(found["confidence"])
    raise InputError(
        f"`check_share`: the policy of {job.folder} promises no limit of disagreement; calibrate it with "
        "`max_disagreement`"
    )
