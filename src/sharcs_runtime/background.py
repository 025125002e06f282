"""Run an iterator ahead in a thread."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

Item = TypeVar("Item")

# How often a thread that waits for room looks whether anybody still wants its items.
LOOK_SECONDS = 0.05


class _End:
    """Comes last through the queue, with what stopped the thread if it was an error."""

    def __init__(self, error: BaseException | None) -> None:
        """Keep the error."""
        self.error = error


def in_background(items: Iterable[Item], depth: int = 1) -> Generator[Item, None, None]:
    """Yield the items, made in a thread while the caller works on earlier ones.

    Args:
        items: What to iterate over; only the thread does.
        depth: Items that may wait for the caller; the thread makes one more and then waits.

    Yields:
        The items in their order. An error of the iterator comes out here, after the items before it. Closing the
        generator stops the thread and waits for it: until the item that it is making is made.
    """
    waiting: queue.Queue[Item | _End] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Item | _End) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=LOOK_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        error = None
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as caught:  # the caller gets it, whatever it is
            error = caught
        finally:
            if (close := getattr(items, "close", None)) is not None:
                close()  # here, since a generator may hold what belongs to its thread
        put(_End(error))

    thread = threading.Thread(target=work, name="sharcs-background", daemon=True)
    thread.start()
    try:
        while not isinstance(item := waiting.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        thread.join()
