"""Which policies a calibration tries."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sharcs.evaluation.curve import curve_weights
from sharcs_runtime.policy import RoutingPolicy

if TYPE_CHECKING:
    from sharcs.evaluation.answers import AllAnswers

THRESHOLDS = 61  # of a path
FIRST_CHOICES = 9  # cost weights that are combined with escalation


def policy_paths(answers: AllAnswers) -> list[list[RoutingPolicy]]:
    """Make the sequences of policies to choose from, out of rows that nothing is going to be tested on.

    Along a sequence every input gets cheaper or stays: the cost weight grows, or the threshold falls. All begin with
    the full network and end with the narrowest width: escalation alone (every input starts narrow); the cost weight
    alone; and combinations, where a cost weight chooses the first width and a threshold what escalates.
    """
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
