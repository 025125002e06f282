"""A made-up population of inputs, whose risk under any policy is known: it is the mean over all of them."""

import numpy as np

from sharcs.config import BLEND
from sharcs.evaluation.answers import AllAnswers
from sharcs_runtime.ways import sum_along_ways, ways_of

CLASSES = 3


def make_population(size, seed=0, widths=(0.35, 1.01), rare=False):
    """Make inputs whose hardness both the router and the confidences know something of.

    Args:
        size: How many.
        seed: Draws them.
        widths: Each width's cost over the full network's.
        rare: Whether the last class is a tenth of the inputs, and hard.
    """
    draw = np.random.default_rng(seed)
    labels = draw.choice(CLASSES, size, p=[0.45, 0.45, 0.1] if rare else None)
    hard = draw.beta(0.5, 2.5, size)
    if rare:
        hard = np.where(labels == 2, draw.beta(1, 2, size), hard)
    full = np.where(draw.random(size) < 1 - 0.35 * hard, labels, (labels + 1) % CLASSES)
    predictions, scores, logits = [], [], []
    for number, _ in enumerate(widths[:-1]):
        skill = 0.6 / (1 + number)
        other = (full + 1 + draw.integers(0, CLASSES - 1, size)) % CLASSES
        predictions.append(np.where(draw.random(size) < skill * hard, other, full))
        scores.append(1 - 0.6 * np.clip(hard + draw.normal(0, 0.12, size), 1e-6, 1))
        logits.append(4 * (0.25 - hard) + draw.normal(0, 1, size))
    predictions.append(full)
    scores.append(np.full(size, 0.99))
    logits.append(4 * (hard - 0.25) + draw.normal(0, 1, size))
    # Blending changes a few of the answers that go on.
    blended = [np.where(draw.random(size) < 0.03, labels, full) for _ in widths[:-1]]
    lengths = draw.integers(5, 60, size)
    ways = ways_of(len(widths))
    full_index = len(widths) - 1
    answers = [blended[way[0]] if len(way) > 1 and way[-1] == full_index else predictions[way[-1]] for way in ways]
    alone = np.array([[0.0, 1000.0 * share, 0.0] for share in widths])
    coefficients = [*sum_along_ways(alone, np.array([0.0, 670.0, 0.0]), ways), [0.0, 1000.0, 0.0]]
    return AllAnswers(
        names=("width-25", "width-50", "full")[-len(widths) :] if len(widths) > 2 else ("width-25", "full"),
        way_predictions=np.stack(answers, 1),
        way_scores={"probability": np.stack([scores[way[-1]] for way in ways], 1).astype(np.float32)},
        router_logits=np.stack(logits, 1).astype(np.float32),
        lengths=lengths,
        cost_coefficients=np.array(coefficients),
        max_length=99,  # of inputs to come
        blend=BLEND,
        labels=labels,
    )


def resample(population, rows, generator):
    """Draw rows with replacement."""
    return population.take(generator.integers(0, len(population), rows))
