"""Who takes which unit next, and which unit is not taken again."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

from sharcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sharcs.units.plan import Plan, Unit

MOST_TRIES = 2  # workers that may die of a unit


class Schedule:
    """Hands out units to several threads, so that each worker reads on in its file as long as it can.

    Args:
        numbers: Of the units that are left.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self._left = set(numbers)
        self._at_work: set[int] = set()
        self._lock = threading.Lock()

    def take(self, before: int | None) -> int | None:
        """Take the unit behind the one that the worker has done, else one of the longest run of what is left.

        Args:
            before: The worker's last unit.

        Returns:
            A unit's number, or None if there is none left.
        """
        with self._lock:
            self._at_work.discard(before if before is not None else -1)
            if not self._left:
                return None
            number = before + 1 if before is not None and before + 1 in self._left else self._of_longest_run()
            self._left.remove(number)
            self._at_work.add(number)
            return number

    def put_back(self, number: int) -> None:
        """Give back a unit that was not done."""
        with self._lock:
            self._at_work.discard(number)
            self._left.add(number)

    def close(self) -> None:
        """Hand out nothing any more."""
        with self._lock:
            self._left.clear()

    def _of_longest_run(self) -> int:
        runs: list[list[int]] = []
        for number in sorted(self._left):
            if runs and runs[-1][-1] == number - 1:
                runs[-1].append(number)
            else:
                runs.append([number])
        run = max(runs, key=len)
        # Somebody who works right before the run will read on in it.
        return run[len(run) // 2] if run[0] - 1 in self._at_work else run[0]


class Deaths:
    """Counts the workers that die of a unit.

    Args:
        plan: Which rows are in which unit.
        who: What the workers are called.
    """

    def __init__(self, plan: Plan, who: str) -> None:
        self._plan, self._who = plan, who
        self._tries: Counter[int] = Counter()

    def count(self, unit: Unit) -> None:
        """Count one more.

        Raises:
            InputError: If it was the last that may die of this unit.
        """
        self._tries[unit.number] += 1
        if self._tries[unit.number] >= MOST_TRIES:
            raise InputError(
                f"{self._plan.sources[unit.source].name}: {MOST_TRIES} {self._who} died of rows {unit.start + 1} to "
                f"{unit.stop}; give fewer `workers` if memory is short"
            )
