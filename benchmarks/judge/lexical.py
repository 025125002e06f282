"""TF-IDF of words and characters with logistic regression: the cheapest classifier that people run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from judge import linear
from judge.answers import Answers

if TYPE_CHECKING:
    from judge.data import Parts, Rows

STRENGTHS = (1.0, 10.0, 100.0)


class Lexical:
    """TF-IDF of words, word pairs and characters; of pairs of texts, differences, products and overlaps.

    Args:
        rows: What the vocabulary is taken from.
        whole: Whether texts are read uncut; not for pairs.
        characters: Whether characters' n-grams are read beside words.
    """

    def __init__(self, rows: Rows, *, whole: bool = False, characters: bool = True) -> None:
        self.whole = whole
        self.vectorisers = [TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)]
        if characters:
            more = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2)
            self.vectorisers.append(more)
        for vectoriser in self.vectorisers:
            vectoriser.fit(rows.whole_texts if whole else rows.texts + (rows.pairs or []))

    def features(self, rows: Rows) -> Any:
        """Count, weigh and, of pairs, compare: sparse ``[rows, features]``."""
        texts = rows.whole_texts if self.whole else rows.texts
        first = self._weighed(texts)
        if rows.pairs is None or self.whole:
            return first
        second = self._weighed(rows.pairs)
        overlaps = [overlap_counts(a, b) for a, b in zip(texts, rows.pairs, strict=True)]
        return scipy.sparse.hstack([abs(first - second), first.multiply(second), np.array(overlaps)]).tocsr()

    def _weighed(self, texts: list[str]) -> Any:
        return scipy.sparse.hstack([vectoriser.transform(texts) for vectoriser in self.vectorisers]).tocsr()


def overlap_counts(first: str, second: str) -> list[float]:
    """Compare the words of two texts: shared ones over all, over each one's own; lengths; negation."""
    one, other = set(first.lower().split()), set(second.lower().split())
    shared = len(one & other)
    negations = {"no", "not", "n't", "nobody", "never", "t"}
    return [
        shared / max(1, len(one | other)),
        shared / max(1, len(one)),
        shared / max(1, len(other)),
        abs(len(one) - len(other)) / 10,
        float(bool(one & negations) != bool(other & negations)),
    ]


def lexical(parts: Parts, *, seed: int, whole: bool = False) -> tuple[dict[str, Answers], dict[str, Any]]:
    """Fit on train; the strength is chosen on held-out rows. It costs two FLOPs a feature found and class."""
    made = Lexical(parts.train, whole=whole)
    train, held = made.features(parts.train), made.features(parts.held_out)
    model, scores = linear.fitted(train, held, parts, STRENGTHS, max_iter=2000, random_state=seed)

    def answer(rows: Rows) -> Answers:
        features = made.features(rows)
        cost = features.getnnz(axis=1) * 2.0 * len(model.classes_)
        return Answers(linear.class_logits(model, features, len(parts.classes))[None], cost[None])

    return parts.measured(answer), {"strengths": dict(zip(map(str, STRENGTHS), scores, strict=True))}
