"""Toy sub-networks that answer texts with two classes, without any layer, and who runs them."""

import numpy as np

from sharcs_runtime.cascade import Cascade


class CountedWords:
    """Counts the words ``good`` and ``bad``: logits are their numbers."""

    def __call__(self, texts):
        """Answer them."""
        return np.array([[2.0 * text.count("good"), 2.0 * text.count("bad")] for text in texts], np.float32)


class TinyTable:
    """Knows a word more, and is never sure of texts with both of the others."""

    def __call__(self, texts):
        """Answer them."""
        return np.array([self._logits(text) for text in texts], np.float32)

    def sure(self, texts):
        """Answer everything by its first word."""
        return np.array([[3.0, 0.0] if text.startswith("good") else [0.0, 3.0] for text in texts], np.float32)

    @staticmethod
    def _logits(text):
        if "odd" in text:
            return [0.0, 2.0]
        return [0.1 * text.count("good"), 0.1 * text.count("bad")]


def run_cascade(policy, steps, texts):
    """Run sub-networks by name until every text is answered; the cascade, and what each sub-network was asked."""
    names = list(steps)
    cascade = Cascade(policy, names, len(texts))
    cascade.begin(np.arange(len(texts)), names.index(policy.start))
    seen = {name: [] for name in names}
    while pending := cascade.pending():
        for index, rows in pending.items():
            asked = [texts[row] for row in rows]
            seen[names[index]] += asked
            cascade.put(index, rows, steps[names[index]](asked))
    return cascade, seen


def below_threshold(scores, start, policy, names):
    """Tell which answers of sub-networks ``start``, ``[inputs]``, escalate by a cascade: bool ``[inputs]``."""
    cascade = Cascade(policy, names, len(scores))
    start = np.asarray(start)
    cascade.begin(np.arange(len(start)), start)
    below = np.zeros(len(start), bool)
    for index, rows in cascade.pending().items():
        below[rows] = cascade.put(index, rows, scores=scores[rows])
    return below
