"""When a text runs, by which rung, and whether it can be taken at all. Pure: whoever calls says what time it is."""

from __future__ import annotations

import heapq
import itertools
import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

# Of the deadline: where brown-out begins, and where the narrowest rung is reached.
FIRST_ENTRY, LAST_ENTRY = 0.4, 0.65  # earlier ones degrade more answers, and keep no more of them in time
# Parts of the deadline: what a micro-batch takes, since shorter ones answer less; and by which work is summed up.
BATCH_SHARE, PARTS = 8, 20
BATCH_TOKENS = 2048
CHARACTERS_PER_TOKEN, BASE_TOKENS = 4.0, 16.0  # and how many tokens' time a text takes besides its own, in a MiniLM
SMOOTHING = 0.1
# While a later rung answers, one text at a time measures the first one, whose pace nobody else would correct.
TRIAL_SECONDS, TRIAL_WEIGHT = 0.5, 0.5
# So many times what was expected counts of a micro-batch: a process that stood still is no slow one.
MOST_SURPRISE = 4.0
HEADROOM = 0.75  # of the time up to a deadline may be filled with expected work
TURNS = 4  # of the front's event loop that a request waits for, before and after its text runs
RETURNS = 0.5  # of the engine processes' time is promised to those who were told to come again
HORIZON = 30  # seconds after which they are told to come again at the latest


class LateError(Exception):
    """A text that could not run in time."""


@dataclass(order=True, slots=True)
class Waiting:
    """A text in the queue, ordered by its deadline and then by its arrival.

    Attributes:
        deadline: In seconds of the caller's clock.
        number: Names it.
        text: A string, or a pair of strings.
        policy: What it is answered by, as plain values; None where the rung of the moment says it.
        degradable: Whether it may be answered by another rung than the first.
        arrived: In seconds of the caller's clock.
        answer: Who waits for it: a future.
        tries: How many engine processes have died of it, or beside it.
        is_trial: Whether it measures the first rung, alone, while a later one answers the others.
    """

    deadline: float
    number: int
    text: Any = field(compare=False)
    policy: dict[str, Any] | None = field(compare=False)
    degradable: bool = field(compare=False)
    arrived: float = field(compare=False)
    answer: Any = field(compare=False)
    tries: int = field(default=0, compare=False)
    is_trial: bool = field(default=False, compare=False)

    @property
    def tokens(self) -> float:
        """A guess, before anybody has tokenised it."""
        parts = self.text if isinstance(self.text, (tuple, list)) else (self.text,)
        return 2 + sum(map(len, parts)) / CHARACTERS_PER_TOKEN


Batch = list[tuple[Waiting, int]]  # texts, each with its rung


class Queue:
    """Texts that wait for an engine process, with what their work is expected to take.

    Args:
        rung_costs: Each rung's mean cost over the full network's, the first one's first.
        deadline: Seconds that a request has by default.
        workers: How many engine processes there are.
        max_tokens: Tokens kept of a text, where it is known.

    Attributes:
        rung: That texts are answered by now.
        running: Seconds that what engine processes have taken is expected to take.
        lag: Seconds that something which is due waits for the front's event loop.
        ready_at: When an engine process will be ready, in seconds of the caller's clock; 0 where one is.
    """

    def __init__(self, rung_costs: list[float], deadline: float, workers: int, max_tokens: float = 512) -> None:
        self.rung_costs, self.deadline, self.workers, self.max_tokens = rung_costs, deadline, workers, max_tokens
        self.rung = 0
        self.running = 0.0
        self.lag = self.ready_at = 0.0
        self.seconds_per_token = 1e-4  # of the full network, as the last micro-batch lets expect
        self._paces: dict[int | None, float] = {}  # seconds a token as measured, by rung; None: a policy of their own
        self._heap: list[Waiting] = []
        self._tokens = 0.0
        self._due: dict[int, float] = defaultdict(float)  # least work by the part of time that its deadline lies in
        self._promised: dict[int, float] = defaultdict(float)  # seconds of work that were told to come in a second
        self._calm_since: float | None = None
        self._tried_at = -math.inf
        self._numbers = itertools.count()

    def __len__(self) -> int:
        """Return the number of texts that wait."""
        return len(self._heap)

    def next_number(self) -> int:
        """Name a text."""
        return next(self._numbers)

    def pace(self, rung: int | None) -> float:
        """Expect seconds a token of a rung; of texts with a policy of their own for None."""
        if rung in self._paces:
            return self._paces[rung]
        return self.seconds_per_token * self._cost(rung)

    def add(self, waiting: Waiting) -> None:
        """Let a text wait."""
        waiting.is_trial = False  # whose engine process has died, or has not begun
        heapq.heappush(self._heap, waiting)
        self._tokens += self._size(waiting)
        self._due[self._part(waiting.deadline)] += self._least(waiting)

    def refusal(self, now: float, asked: list[Waiting]) -> int | None:
        """Tell whether a request has to be refused, and after how many seconds to come again.

        It is where the narrowest rung could not answer it, or what waits and is due after it, in time. Nobody is
        refused while fewer texts wait than the workers take at once: else an estimate that is too high would never
        be corrected.

        Args:
            now: In seconds of the caller's clock.
            asked: Its texts, which share a deadline.
        """
        if len(self._heap) < self._processes:
            return None
        own = self._part(asked[0].deadline)
        work = sum(map(self._least, asked))
        # An old measurement of a rung that doesn't run any more would stand for ever: the fastest one counts.
        seconds = min(map(self.pace, range(len(self.rung_costs)))) / self._processes
        done = self.running / self._processes + TURNS * self.lag + max(0.0, self.ready_at - now)
        due = {**self._due, own: self._due.get(own, 0.0) + work}
        for part in sorted(due):
            done += due[part] * seconds
            room = HEADROOM * (asked[0].deadline if part == own else part * self._width) - HEADROOM * now
            if part >= own and done > room:
                return self._come_again(now, done - room, work * seconds)
        return None

    def take(self, now: float) -> Batch:
        """Take a micro-batch, of those first whose deadlines are, each with its rung.

        A text beside which an engine process died runs alone, so that it is found out without harm to others, and
        even late. Of all others, those that can't be in time are told so, and don't run; the last one that waits
        runs as long as its time is not over, so that an estimate that is too high is corrected.
        """
        self.look(now)
        if trial := self._trial(now):
            return trial
        batch: Batch = []
        seconds = tokens = 0.0
        begins = now + self.running / self._processes + TURNS / 2 * self.lag
        while self._heap:
            waiting = self._heap[0]
            rung = self.rung if waiting.degradable and waiting.policy is None else 0
            size = self._size(waiting)
            took = size * self.pace(_kind(waiting, rung))
            ends = begins + seconds + took if batch or len(self._heap) > 1 else now
            if waiting.answer.done():
                pass
            elif not waiting.tries and ends > waiting.deadline:
                waiting.answer.set_exception(LateError())
            else:
                is_full = seconds + took > self.deadline / BATCH_SHARE or tokens + size > BATCH_TOKENS
                if batch and (is_full or waiting.tries):
                    break
                batch.append((waiting, rung))
                seconds, tokens = seconds + took, tokens + size
            self._pop()
            if batch and batch[-1][0].tries:
                break
        self.running += self.expected(batch)
        return batch

    def _trial(self, now: float) -> Batch:
        """Take the first text alone for the first rung, while a later one answers; empty where that has to wait.

        It has half of its time left, and counts as if the rung of the moment answered it: nobody is refused for it.
        """
        if not self.rung or not self._heap or now - self._tried_at < TRIAL_SECONDS:
            return []
        first = self._heap[0]
        is_free = first.degradable and first.policy is None and not first.tries and not first.answer.done()
        if not is_free or first.deadline - now < self.deadline / 2:
            return []
        self._pop()
        self._tried_at, first.is_trial = now, True
        self.running += self.expected([(first, 0)])
        return [(first, 0)]

    def expected(self, batch: Batch) -> float:
        """Expect how many seconds a micro-batch takes."""
        kinds = [self.rung if waiting.is_trial else _kind(waiting, rung) for waiting, rung in batch]
        return sum(self._size(waiting) * self.pace(kind) for (waiting, _), kind in zip(batch, kinds, strict=True))

    def done(self, batch: Batch, expected: float, seconds: float | None) -> None:
        """Take note that a micro-batch is through.

        Args:
            batch: As it was taken.
            expected: What it added to :attr:`running`.
            seconds: What it took; None if its engine process has died.
        """
        self.running = max(0.0, self.running - expected)
        if seconds is None:
            return
        work: dict[int | None, float] = defaultdict(float)
        for waiting, rung in batch:
            work[_kind(waiting, rung)] += self._size(waiting) * self.pace(_kind(waiting, rung))
        surprise, weight = seconds / sum(work.values()), 1.0
        if self._paces:  # the first time counts whole
            smoothing = TRIAL_WEIGHT if batch[0][0].is_trial else SMOOTHING
            surprise, weight = min(MOST_SURPRISE, surprise), smoothing / sum(work.values())
        else:
            work = dict.fromkeys(work, 1.0)
        for kind, part in work.items():
            self._paces[kind] = self.pace(kind) * (1 + weight * part * (surprise - 1))
        self.seconds_per_token = max(self._paces[kind] / self._cost(kind) for kind in work)

    def look(self, now: float) -> int:
        """Set the rung: up at once, and down by one after a deadline's time below half of where it was entered.

        What decides is the time, at the first rung, of what waits behind those texts that can run at once.
        """
        last = len(self.rung_costs) - 1
        if last == 0:
            return 0
        behind = max(0.0, 1 - self._processes / len(self._heap)) if self._heap else 0.0
        share = behind * self._tokens * self.pace(0) / self._processes / self.deadline
        wanted = sum(share >= self._entry(rung) for rung in range(1, last + 1))
        if wanted > self.rung:
            self.rung, self._calm_since = wanted, None
        elif self.rung and share < self._entry(self.rung) / 2:
            if self._calm_since is None:
                self._calm_since = now
            elif now - self._calm_since >= self.deadline:
                self.rung, self._calm_since = self.rung - 1, now
        else:
            self._calm_since = None
        return self.rung

    @property
    def _processes(self) -> int:
        return max(self.workers, 1)

    @property
    def _width(self) -> float:
        """Seconds of a part of time."""
        return self.deadline / PARTS

    def _part(self, deadline: float) -> int:
        return math.floor(deadline / self._width)

    def _pop(self) -> None:
        waiting = heapq.heappop(self._heap)
        self._tokens -= self._size(waiting)
        self._due[self._part(waiting.deadline)] -= self._least(waiting)
        if not self._heap:
            self._tokens = 0.0
        if not self._heap or self._part(self._heap[0].deadline) > self._part(waiting.deadline):
            del self._due[self._part(waiting.deadline)]  # it was the last of its part

    def _come_again(self, now: float, wait: float, work: float) -> int:
        """Say after how many seconds: as late as the backlog asks, and not more at once than there is time for."""
        for second in [second for second in self._promised if second < now]:
            del self._promised[second]
        second = math.ceil(now + max(1.0, wait))
        last = max(second, math.ceil(now) + HORIZON)
        while second < last and self._promised[second] and self._promised[second] + work > RETURNS:
            second += 1
        self._promised[second] += work
        return max(1, math.ceil(second - now))

    def _entry(self, rung: int) -> float:
        last = len(self.rung_costs) - 1
        return FIRST_ENTRY + (LAST_ENTRY - FIRST_ENTRY) * (rung - 1) / max(1, last - 1)

    def _size(self, waiting: Waiting) -> float:  # in tokens' time
        return BASE_TOKENS + min(waiting.tokens, self.max_tokens)

    def _least(self, waiting: Waiting) -> float:
        """Count tokens, in those of the narrowest rung, of the cheapest way to answer a text."""
        if waiting.policy is None and waiting.degradable:
            return self._size(waiting)
        return self._size(waiting) * self._cost(_kind(waiting, 0)) / self.rung_costs[-1]

    def _cost(self, kind: int | None) -> float:
        return 1.0 if kind is None else self.rung_costs[kind]


def _kind(waiting: Waiting, rung: int) -> int | None:
    """Name what is measured by itself: a rung, or all policies that requests named."""
    return rung if waiting.policy is None else None
