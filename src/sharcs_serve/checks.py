"""Texts that are answered once more after their answer went out: by the full network, and by a policy in the shadow.

A coin decides of each text, whatever its answer. What is drawn waits here until no text waits for its first answer;
while there are always some, checks take a twentieth of what answers take, so that they go on under any load.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sharcs_runtime.drift import DisagreementCounter
from sharcs_runtime.errors import InputError
from sharcs_runtime.files import write_json
from sharcs_runtime.policy import RoutingPolicy
from sharcs_serve.metrics import HELP
from sharcs_serve.stored import State, read_counters, rung_policies, rung_promises
from sharcs_serve.wire import hash_of

if TYPE_CHECKING:
    from pathlib import Path

    from sharcs_serve.metrics import Metrics
    from sharcs_serve.wire import Link, Message

LOG = logging.getLogger("sharcs.serve")
BACKLOG = 1000  # texts that wait to be checked; further ones are not checked
BUSY_SHARE = 0.05  # of the seconds that answers take, while texts wait
MOST_CREDIT = 0.1  # seconds
SAVE_SECONDS = 10.0
COLUMNS = ("numbers", "probabilities", "cost")


@dataclass(frozen=True, slots=True)
class Check:
    """A text to answer again.

    Attributes:
        text: A string, or a pair of strings.
        rung: That answered it.
        given: The class that was answered.
        revision: Of the network that answered.
        policies: To answer it by, as plain values: ``full`` and ``shadow``, or one of them.
    """

    text: Any
    rung: int
    given: int
    revision: str
    policies: dict[str, Message]

    def message(self) -> Message:
        """Write it for an engine process."""
        count = len(self.policies)
        policies = {"policies": list(self.policies.values()), "policy_of": list(range(count)), "routed": True}
        return {"numbers": list(range(count)), "texts": [self.text] * count, **policies}


class Checks:
    """Draws texts, keeps those that wait to be checked, and counts what came of it.

    Args:
        share: Of the texts that are checked; 0 for none.
        metrics: Counts.
        state: Counters of earlier times, as :meth:`state` wrote them.

    Raises:
        InputError: If the state is none.
    """

    def __init__(self, share: float, metrics: Metrics, state: State | None = None) -> None:
        self.share, self.metrics = share, metrics
        self.counters: list[DisagreementCounter] = []  # of the rungs
        self._known = {revision: read_counters(rungs) for revision, rungs in (state or {}).items()}
        self._waiting: deque[Check] = deque()
        self._is_running = self._is_free = False
        self._link: Link | None = None
        self._credit = 0.0
        self._random = np.random.default_rng()
        self._info: Message = {}
        self._shadow: Message | None = None

    def learn(self, info: Message, shadow: Message | None) -> None:
        """Begin to check another network.

        Args:
            info: Of the network.
            shadow: A policy to compare with, as plain values.

        Raises:
            InputError: If it promises nothing that could be checked.
        """
        if not self.share:
            return
        promises = rung_promises(info)
        if not promises and shadow is None:
            raise InputError(
                "`check_share`: the model promises no limit of disagreement; calibrate it with `max_disagreement` or "
                "`ladder`"
            )
        self.counters = self._known.setdefault(info["revision"], [])
        for limit, confidence in promises[len(self.counters) :]:
            self.counters.append(DisagreementCounter(limit, confidence))
        for counter in self.counters:
            counter.check_share = self.share
        self._info, self._shadow = info, shadow

    def take_note(self, text: Any, answer: Message) -> None:
        """Toss for a text that was answered by a rung; it waits then, if it is to be checked."""
        rung, info = answer["rung"], answer["info"]
        if not self.share or info["revision"] != self._info["revision"]:
            return
        counter = self.counters[rung] if rung < len(self.counters) else None
        due = self._random.random() < self.share if counter is None else counter.draw(1)[0]
        policies = {}
        if due and counter is not None:
            if _is_full(answer):  # it can't disagree
                self._record(rung, False)
            else:
                policies["full"] = RoutingPolicy(start=info["sub_networks"][-1]).to_dict()
        if due and self._shadow is not None and rung == 0:
            policies["shadow"] = self._shadow
        if not policies:
            return
        if len(self._waiting) >= BACKLOG:
            self.metrics.add("sharcs_checks_dropped_total")
            return
        self._waiting.append(Check(text, rung, _best(answer["probabilities"]), info["revision"], policies))

    def take(self, revision: str, idle: bool) -> Check | None:
        """Take a text to check; only one is checked at a time.

        Args:
            revision: Of the network that would run.
            idle: Whether no text waits for its first answer.
        """
        while self._waiting and self._waiting[0].revision != self._info["revision"]:
            self._waiting.popleft()  # nobody asks any more
        if self._is_running or not self._waiting or revision != self._waiting[0].revision:
            return None
        if not idle and self._credit <= 0:
            return None
        self._is_running, self._is_free = True, idle
        return self._waiting.popleft()

    def earn(self, seconds: float) -> None:
        """Take note of what answers took."""
        self.metrics.add("sharcs_engine_seconds_total", (("work", "answers"),), seconds)
        self._credit = min(MOST_CREDIT, self._credit + BUSY_SHARE * seconds)

    async def run(self, link: Link, check: Check) -> bool:
        """Have an engine process check a text; False if it dies."""
        found: dict[str, tuple[int, float]] = {}
        names, failed = list(check.policies), False
        self._link = link
        try:
            link.send(check.message())
            while (part := await link.next()) is not None:
                failed = failed or "error" in part
                for number, shares, cost in zip(*(part.get(name, ()) for name in COLUMNS), strict=False):
                    found[names[number]] = _best(shares), 1.0 if cost is None else cost
                if "done" in part:
                    break
        finally:
            self._is_running, self._link = False, None
        if part is None:
            LOG.error("text %s: an engine process died when it checked its answer", hash_of(check.text))
            return False
        self.metrics.add("sharcs_engine_seconds_total", (("work", "checks"),), part["seconds"])
        if not self._is_free:
            self._credit -= part["seconds"]
        if len(found) == len(names):
            self._count(check, found)
        elif not failed:  # it gave way
            self._waiting.appendleft(check)
        return True

    def give_way(self) -> None:
        """Give up the check that runs, for the time being: a text has come, and no process is free."""
        if self._link is not None and self._is_free:
            self._link.send({"drop": [0, 1]})

    def __len__(self) -> int:
        """Return the number of texts that wait to be checked."""
        return len(self._waiting)

    def state(self) -> State:
        """Write all counters as plain values."""
        return {
            revision: {str(rung): counter.to_dict() for rung, counter in enumerate(counters)}
            for revision, counters in self._known.items()
        }

    def summary(self) -> list[Message]:
        """Say for each rung what was counted."""
        names = ("max_disagreement", "seen", "checked", "disagreements", "estimate", "alarm")
        return [{name: getattr(counter, name) for name in names} for counter in self.counters]

    def measure(self) -> None:
        """Write the counters into the metrics."""
        for name in HELP:
            if name.startswith("sharcs_drift_"):
                self.metrics.clear(name)  # of rungs that are no more
        for rung, counter in enumerate(self.counters):
            labels = (("rung", str(rung)),)
            self.metrics.put("sharcs_drift_seen_total", counter.seen, labels)
            self.metrics.put("sharcs_drift_checked_total", counter.checked, labels)
            self.metrics.put("sharcs_drift_disagreements_total", counter.disagreements, labels)
            self.metrics.put("sharcs_drift_lower_bound", counter.lower_bound, labels)
            self.metrics.put("sharcs_drift_alarm", counter.alarm, labels)
            if counter.estimate is not None:
                self.metrics.put("sharcs_drift_estimate", counter.estimate, labels)
        self.metrics.put("sharcs_checks_waiting", len(self))

    def _count(self, check: Check, found: dict[str, tuple[int, float]]) -> None:
        if check.revision != self._info["revision"]:
            return
        if "full" in found:
            self._record(check.rung, found["full"][0] != check.given)
        if "shadow" in found:
            best, cost = found["shadow"]
            self.metrics.add("sharcs_shadow_checked_total")
            self.metrics.add("sharcs_shadow_otherwise_total", amount=best != check.given)
            self.metrics.add("sharcs_shadow_cost_sum", amount=cost)

    def _record(self, rung: int, disagreed: bool) -> None:
        counter = self.counters[rung]
        before = counter.alarm
        counter.record([disagreed])
        if counter.alarm and not before:
            LOG.warning(
                "rung %d: more than %.3g of the answers are not the full network's; the limit is %g",
                rung,
                counter.lower_bound,
                counter.max_disagreement,
            )


async def keep_state(checks: Checks, file: Path) -> None:
    """Write what checks have counted now and then, and at the end; what can't be written is a line in the log."""
    kept = checks.state()
    try:
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            kept = _saved(checks.state(), kept, file)
    finally:
        _saved(checks.state(), kept, file)


def _saved(state: State, kept: State, file: Path) -> State:
    try:
        if state != kept:
            write_json(state, file)
        return state
    except InputError as error:
        LOG.error("%s", error)
        return kept


def _is_full(answer: Message) -> bool:
    """Tell whether an answer is the full network's own: nobody else was asked, or averaged in."""
    full = len(answer["info"]["sub_networks"]) - 1
    alone = answer["start"] == full or not rung_policies(answer["info"])[answer["rung"]].get("blend")
    return bool(answer["answered_by"] == full and alone)


def _best(shares: list[float]) -> int:
    return max(range(len(shares)), key=shares.__getitem__)
