"""When a text runs, by which rung, and whether it can be taken at all. Pure: whoever calls says what time it is."""

from __future__ import annotations

import heapq
import itertools
import math
from dataclasses import dataclass, field
from typing import Any

# Of the deadline: where brown-out begins, and where the narrowest rung is reached.
FIRST_ENTRY, LAST_ENTRY = 0.05, 0.2
CALM_SECONDS = 1.0  # below half of a rung's entry before it is left
BATCH_SHARE = 20  # a micro-batch takes a twentieth of the deadline
BATCH_TOKENS = 2048
CHARACTERS_PER_TOKEN = 4.0
SMOOTHING = 0.1


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
    """

    deadline: float
    number: int
    text: Any = field(compare=False)
    policy: dict[str, Any] | None = field(compare=False)
    degradable: bool = field(compare=False)
    arrived: float = field(compare=False)
    answer: Any = field(compare=False)
    tries: int = field(default=0, compare=False)

    @property
    def tokens(self) -> float:
        """A guess, before anybody has tokenised it."""
        parts = self.text if isinstance(self.text, (tuple, list)) else (self.text,)
        return 2 + sum(map(len, parts)) / CHARACTERS_PER_TOKEN


class Queue:
    """Texts that wait for an engine process, with what their work is expected to take.

    Args:
        rung_costs: Each rung's mean cost over the full network's, the first one's first.
        deadline: Seconds that a request has by default.
        workers: How many engine processes there are.
        max_tokens: Tokens kept of a text, where it is known.
    """

    def __init__(self, rung_costs: list[float], deadline: float, workers: int, max_tokens: float = 512) -> None:
        self.rung_costs, self.deadline, self.workers, self.max_tokens = rung_costs, deadline, workers, max_tokens
        self.rung = 0
        self.running = 0.0  # tokens that engine processes have taken
        self.seconds_per_token = 1e-4  # of the full network
        self._heap: list[Waiting] = []
        self._tokens = 0.0
        self._calm_since: float | None = None
        self._numbers = itertools.count()

    def __len__(self) -> int:
        """Return the number of texts that wait."""
        return len(self._heap)

    def next_number(self) -> int:
        """Name a text."""
        return next(self._numbers)

    def add(self, waiting: Waiting) -> None:
        """Let a text wait."""
        heapq.heappush(self._heap, waiting)
        self._tokens += self._size(waiting)

    def wait_at(self, rung: int) -> float:
        """Predict in seconds how long what is here takes at a rung."""
        tokens = self._tokens + self.running
        return tokens * self.rung_costs[rung] * self.seconds_per_token / max(self.workers, 1)

    def refusal(self, deadline: float, count: int, degradable: bool = True) -> int | None:
        """Tell whether a request has to be refused, and after how many seconds to come again.

        Nobody is refused while fewer texts wait than the workers take at once: else an estimate that is too high
        would never be corrected.

        Args:
            deadline: Seconds that it has.
            count: How many texts it has.
            degradable: Whether the narrowest rung may answer it.
        """
        if len(self._heap) < max(self.workers, 1):
            return None
        wait = self.wait_at(len(self.rung_costs) - 1 if degradable else 0)
        if wait * (1 + count / len(self._heap)) <= deadline:
            return None
        return max(1, math.ceil(wait - deadline / 2))

    def take(self, now: float) -> list[tuple[Waiting, int]]:
        """Take a micro-batch, of those first whose deadlines are, each with its rung.

        A text beside which an engine process died runs alone, so that it is found out without harm to others.
        """
        self.look(now)
        batch: list[tuple[Waiting, int]] = []
        seconds = tokens = 0.0
        while self._heap:
            waiting = self._heap[0]
            if not waiting.answer.done():
                rung = self.rung if waiting.degradable and waiting.policy is None else 0
                size = self._size(waiting)
                took = size * self.rung_costs[rung] * self.seconds_per_token
                is_full = seconds + took > self.deadline / BATCH_SHARE or tokens + size > BATCH_TOKENS
                if batch and (is_full or waiting.tries):
                    break
                batch.append((waiting, rung))
                seconds, tokens = seconds + took, tokens + size
            heapq.heappop(self._heap)
            self._tokens -= self._size(waiting)
            if batch and batch[-1][0].tries:
                break
        if not self._heap:
            self._tokens = 0.0
        self.running += tokens
        return batch

    def done(self, batch: list[tuple[Waiting, int]], seconds: float | None, full_tokens: float) -> None:
        """Take note that a micro-batch is through.

        Args:
            batch: As it was taken.
            seconds: What it took; None if its engine process has died.
            full_tokens: Tokens that were read, each times its cost over the full network's.
        """
        self.running = max(0.0, self.running - sum(self._size(waiting) for waiting, _ in batch))
        if seconds is not None and full_tokens > 0:
            self.seconds_per_token += SMOOTHING * (seconds / full_tokens - self.seconds_per_token)

    def look(self, now: float) -> int:
        """Set the rung: up at once, and down by one after a second below half of where it was entered."""
        last = len(self.rung_costs) - 1
        if last == 0:
            return 0
        share = self.wait_at(0) / self.deadline
        wanted = sum(share >= self._entry(rung) for rung in range(1, last + 1))
        if wanted > self.rung:
            self.rung, self._calm_since = wanted, None
        elif self.rung and share < self._entry(self.rung) / 2:
            if self._calm_since is None:
                self._calm_since = now
            elif now - self._calm_since >= CALM_SECONDS:
                self.rung, self._calm_since = self.rung - 1, now
        else:
            self._calm_since = None
        return self.rung

    def _entry(self, rung: int) -> float:
        last = len(self.rung_costs) - 1
        return FIRST_ENTRY + (LAST_ENTRY - FIRST_ENTRY) * (rung - 1) / max(1, last - 1)

    def _size(self, waiting: Waiting) -> float:
        return min(waiting.tokens, self.max_tokens)
