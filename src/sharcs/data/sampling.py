"""Some rows of many, of each class its share."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence


def sampled_rows(labels: Sequence[str], count: int, seed: int) -> list[int]:
    """Draw rows without replacement, as many of each class as its share of all rows says.

    Args:
        labels: The class of each row.
        count: How many rows to draw, at most all. Where there are as many as classes, each class keeps one at least.
        seed: The same seed draws the same rows.

    Returns:
        The indices of the rows, ascending.
    """
    sizes = Counter(labels)
    number_of = {name: number for number, name in enumerate(sizes)}
    classes = np.array([number_of[label] for label in labels])
    generator = np.random.default_rng(seed)
    shares = _shares(np.array(list(sizes.values())), count, generator)
    # All rows in random order, class by class; of each class the first ones are taken.
    order = generator.permutation(len(labels))
    order = order[np.argsort(classes[order], kind="stable")]
    place_in_class = np.arange(len(labels)) - np.searchsorted(classes[order], classes[order])
    taken: list[int] = np.sort(order[place_in_class < shares[classes[order]]]).tolist()
    return taken


def _shares(sizes: NDArray[Any], count: int, generator: np.random.Generator) -> NDArray[Any]:
    """Divide rows among classes of these sizes ``[classes]`` by largest remainders; ties are drawn."""
    exact = sizes * count / sizes.sum()
    least = 1 if count >= len(sizes) else 0
    shares: NDArray[Any] = np.maximum(np.floor(exact).astype(int), least)
    tie_break = generator.random(len(sizes)) * 1e-6
    while shares.sum() != count:
        step = 1 if shares.sum() < count else -1
        may_change = shares < sizes if step > 0 else shares > least
        distance = np.where(may_change, step * (exact - shares) + tie_break, -np.inf)
        shares[np.argmax(distance)] += step
    return shares
