"""Ways: what an input can run, one sub-network or several, each later one continuing from what the trunk kept."""

from __future__ import annotations

from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sharcs_runtime.policy import RoutingPolicy

Numbers = NDArray[np.int64]
Singles = NDArray[np.float32]
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]
Columns = NDArray[np.int8]  # of ways
Way = tuple[int, ...]  # indices of sub-networks, ascending
MOST_NETWORKS = 6  # through which all 63 ways are recorded


class Costs(NamedTuple):
    """FLOPs as polynomials c₀ + c₁·T + c₂·T² of the tokens T.

    Attributes:
        alone: Of each sub-network, router included but for those in front, and of the plain network last:
            ``[networks + 1, 3]``.
        continuation: Of going on to the full one from what the trunk kept, ``[3]``.
    """

    alone: Doubles
    continuation: Doubles

    def along(self, ways: Sequence[Way], front: int) -> Doubles:
        """Write the costs of ways as polynomials, ``[ways, 3]``; see :func:`sum_along_ways`."""
        *alone, plain = self.alone
        return sum_along_ways(np.stack(alone), self.continuation, ways, front, alone[-1] - plain)


@cache
def ways_of(count: int) -> tuple[Way, ...]:
    """List the ways through some sub-networks that are recorded: each of them alone, then two, then three, in order.

    Of more than six sub-networks, it is each alone, and each and then the full one: all ways would be too many.
    """
    if count <= MOST_NETWORKS:
        return tuple(way for length in range(1, count + 1) for way in combinations(range(count), length))
    full = count - 1
    return (*((index,) for index in range(count)), *((index, full) for index in range(full)))


def way_taken(policy: RoutingPolicy, names: tuple[str, ...], start: int, answered_by: int) -> Way:
    """Tell by which way a policy leads from one sub-network to another one."""
    way = [start]
    while way[-1] != answered_by:
        step = policy.step_after(way[-1], names)
        assert step is not None
        way.append(step[1])
    return tuple(way)


def sum_along_ways(
    alone: Doubles, continuation: Doubles | float, ways: Sequence[Way], front: int = 0, router: Doubles | float = 0.0
) -> Doubles:
    """Sum what each way costs, in any unit.

    Args:
        alone: Of each sub-network, trunk and router included where it runs inside the encoder, ``[networks, ...]``.
        continuation: Of continuing at the full one, without the trunk, ``[...]``. Others save as much of their cost.
        ways: The ways.
        front: How many sub-networks answer before the encoder runs: who goes on from one starts anew.
        router: What the router costs, which doesn't run for inputs that begin in front, ``[...]``.

    Returns:
        ``[ways, ...]``.
    """
    later = continuation + (alone - alone[-1])
    sums = []
    for way in ways:
        before, inside = [index for index in way if index < front], [index for index in way if index >= front]
        total = np.sum(alone[before], axis=0)
        if inside:
            first = alone[inside[0]] - (router if before else 0.0)
            total = total + first + np.sum(later[inside[1:]], axis=0)
        sums.append(total)
    return np.stack(sums)
