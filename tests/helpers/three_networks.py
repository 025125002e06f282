"""Answers of three networks, each better and dearer than the one before, for studies of policies."""

import numpy as np

from sharcs.evaluation.record import record_answers
from sharcs_runtime.ways import sum_along_ways, ways_of

ALONE = np.array([[0.0, 1.0, 0.0], [0.0, 12.0, 0.0], [0.0, 101.0, 0.0]])


def three_networks(seed, rows=400, known=(1.0, 2.0, 4.0)):
    """Make up what they say about rows of three classes, and how much each knows of the truth."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, rows)
    logits = draw.normal(size=(3, rows, 3)).astype(np.float32)
    logits[:, np.arange(rows), labels] += np.array(known, np.float32)[:, None]
    router_logits = np.full((rows, 3), -np.inf, np.float32)
    router_logits[:, 2] = 0
    sums = sum_along_ways(ALONE, np.array([0.0, 80.0, 0.0]), ways_of(3), 2, np.array([0.0, 1.0, 0.0]))
    costs = np.stack([*sums, [0.0, 100.0, 0.0]])
    batch = np.arange(rows), logits, router_logits
    names = ("recurrent", "compact", "full")
    return record_answers([batch], names, draw.integers(3, 20, rows), costs, blend=0.3, labels=labels)
