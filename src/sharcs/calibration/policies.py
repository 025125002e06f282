"""Which policies a calibration tries."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sharcs.evaluation.curve import curve_weights
from sharcs_runtime.policy import RoutingPolicy
from sharcs_runtime.ways import ways_of

if TYPE_CHECKING:
    from sharcs.evaluation.answers import AllAnswers
    from sharcs_runtime.ways import Way

THRESHOLDS = 61  # of a path
FIRST_CHOICES = 9  # cost weights that are combined with escalation
LONGEST_CHAIN = 3  # sub-networks with a threshold
# How much sooner or later than the first one the next ones of a chain let inputs go: powers of the quantile's level.
BENDS = (0.5, 1.0, 2.0, 4.0)


def policy_paths(answers: AllAnswers) -> list[list[RoutingPolicy]]:
    """Make the sequences of policies to choose from, out of rows that nothing is going to be tested on.

    Along a sequence every input gets cheaper or stays: the cost weight grows, or the threshold falls. All begin with
    the full network and end with the narrowest width: escalation alone (every input starts narrow); the cost weight
    alone; and combinations, where a cost weight chooses the first width and a threshold what escalates. Where
    sub-networks answer before the encoder runs, they are the chains that start with one of these.
    """
    if answers.front:
        return [_path(answers, chain, bend) for chain in _chains(answers) for bend in _bends(chain)]
    full, narrow = (RoutingPolicy(start=answers.names[index]) for index in (-1, 0))
    weights = curve_weights(answers)
    inner = np.linspace(0, len(weights) - 1, FIRST_CHOICES + 2).round().astype(int)[1:-1]
    first_choices = [
        narrow,
        *(RoutingPolicy(weight) for weight in sorted({weights[index] for index in inner} | {0.0})),
    ]
    paths = [[full, *(RoutingPolicy(weight) for weight in weights), narrow]]
    for choice in first_choices:
        routed = answers.route([choice])[0]
        scores = routed.score[routed.start < len(answers.names) - 1].astype(np.float64)
        if len(scores):
            # In the scores' own precision, so that a threshold means the same wherever it is compared.
            inside = np.quantile(scores, np.linspace(0, 1, THRESHOLDS)).astype(np.float32).tolist()
            thresholds = sorted({0.0, *inside, 1.0}, reverse=True)
            paths.append(
                [full, *(replace(choice, escalation_threshold=t, blend=answers.blend) for t in thresholds), narrow]
            )
    return [paths[1], paths[0], *paths[2:]] if len(paths) > 1 else paths


def all_policies(answers: AllAnswers) -> list[RoutingPolicy]:
    """List the policies of all sequences."""
    return [policy for path in policy_paths(answers) for policy in path]


def _chains(answers: AllAnswers) -> list[Way]:
    """List the sub-networks that inputs may run before the full one, one after the other, the first in front."""
    ways = ways_of(len(answers.names))
    full = len(answers.names) - 1
    found = [way for way in ways if way[0] < answers.front and full not in way and len(way) <= LONGEST_CHAIN]
    return [way for way in found if (*way, full) in ways]


def _bends(chain: Way) -> tuple[float, ...]:
    return BENDS if len(chain) > 1 else (1.0,)


def _path(answers: AllAnswers, chain: Way, bend: float) -> list[RoutingPolicy]:
    """Make a sequence from the full network to the chain's first sub-network alone, by falling thresholds."""
    columns = {way: column for column, way in enumerate(ways_of(len(answers.names)))}
    names = [answers.names[index] for index in chain]
    # In the scores' own precision, so that a threshold means the same wherever it is compared.
    scores = [answers.way_scores["probability"][:, columns[chain[: step + 1]]] for step in range(len(chain))]
    levels = np.linspace(1, 0, THRESHOLDS)
    limits = [
        np.quantile(of, levels if step == 0 else levels**bend).astype(np.float32).tolist()
        for step, of in enumerate(scores)
    ]
    start = RoutingPolicy(start=names[0], blend=answers.blend)
    inner = [dict(zip(names, at, strict=True)) for at in zip(*limits, strict=True)]
    thresholds = [dict.fromkeys(names, 1.0), *inner, dict.fromkeys(names, 0.0)]
    return [
        RoutingPolicy(start=answers.names[-1]),
        *(replace(start, escalation_threshold=limit) for limit in thresholds),
        RoutingPolicy(start=names[0]),
    ]
