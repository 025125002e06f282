"""Which way each input takes under each policy, for many policies at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sharcs.errors import InputError
from sharcs_runtime.policy import RoutingPolicy, choose_width
from sharcs_runtime.ways import MOST_NETWORKS, Columns, Doubles, Singles, ways_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def ways_taken(
    policies: Sequence[RoutingPolicy],
    names: tuple[str, ...],
    router_logits: Singles,
    relative_costs: Doubles,
    way_scores: Mapping[str, Singles],
) -> Columns:
    """Follow every input under every policy, as :class:`sharcs_runtime.cascade.Cascade` decides.

    Args:
        policies: One or more.
        names: Of the sub-networks, the full one last.
        router_logits: ``[inputs, networks]``.
        relative_costs: Each sub-network's cost over the full network's, ``[inputs, networks]``.
        way_scores: How sure answers are of themselves, by signal, ``[inputs, ways]`` each.

    Returns:
        The way that each input takes, as its column: int8 ``[policies, inputs]``.

    Raises:
        InputError: If a policy names a sub-network that there is not, a signal or a way that was not recorded.
    """
    for policy in policies:
        policy.check_names(names)
        if policy.signal not in way_scores:
            raise InputError(
                f"policy signal {policy.signal}: was not recorded; only {', '.join(sorted(way_scores))} was"
            )
    ways = ways_of(len(names))
    columns = {way: column for column, way in enumerate(ways)}
    taken = _starts(policies, names, router_logits, relative_costs)  # the first ways are of one sub-network
    for column, way in enumerate(ways):  # ways that go on from this one come later
        steps = [policy.step_after(way[-1], names) for policy in policies]
        nexts = [way if step is None else (*way, step[1]) for step in steps]
        if not columns.keys() >= set(nexts):
            raise InputError(
                "policy escalation_threshold: has several steps, which are recorded of up to "
                f"{MOST_NETWORKS} sub-networks; give a number"
            )
        longer = np.array([columns[next_way] for next_way in nexts], np.int8)
        here = taken == column
        if (longer > column).any() and here.any():
            # Below any score, where the answer stands.
            limits = np.array([-1.0 if step is None else step[0] for step in steps], np.float32)
            scores = np.stack([way_scores[policy.signal][:, column] for policy in policies])
            np.copyto(taken, longer[:, None], where=here & (scores < limits[:, None]))
    return taken


def _starts(
    policies: Sequence[RoutingPolicy], names: tuple[str, ...], router_logits: Singles, relative_costs: Doubles
) -> Columns:
    """Choose the sub-network that each input runs first, by its index: ``[policies, inputs]``."""
    distinct = list(dict.fromkeys((policy.start, policy.cost_weight) for policy in policies))
    choices = [
        choose_width(router_logits, relative_costs, RoutingPolicy(weight, start=start), names)
        for start, weight in distinct
    ]
    position = {start: index for index, start in enumerate(distinct)}
    choice_of_policy = [position[policy.start, policy.cost_weight] for policy in policies]
    return np.stack(choices).astype(np.int8)[choice_of_policy]
