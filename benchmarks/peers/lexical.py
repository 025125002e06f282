"""TF-IDF with logistic regression, and cascades of two models by confidence (as E-LANG does)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from peers.outputs import Outputs


def train_tfidf(texts: list[str], labels: list[int], *, seed: int) -> Any:
    """Words and pairs of words; a pair's two texts are one text, joined by a mark."""
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1),
        LogisticRegression(C=10.0, max_iter=2000, random_state=seed),
    )
    return model.fit(texts, labels)


def tfidf_outputs(model: Any, texts: list[str], labels: list[int], full: torch.Tensor) -> Outputs:
    """Its cost is two FLOPs a word found and class."""
    found = model[0].transform(texts)
    classes = len(model[1].classes_)
    probabilities = np.full((len(texts), int(max(model[1].classes_)) + 1), 1e-9)
    probabilities[:, model[1].classes_] = model[1].predict_proba(found)
    spent = torch.tensor(found.getnnz(axis=1) * 2.0 * classes).unsqueeze(0)
    return Outputs(torch.tensor(probabilities).log().unsqueeze(0), spent, full, torch.tensor(labels))


def cascade(first: Outputs, second: Outputs) -> Outputs:
    """Two models in a row: what the first is unsure of runs the second from its start."""
    logits = torch.cat([first.logits.float(), second.logits[-1:].float()])
    spent = torch.stack([first.cost[0], first.cost[0] + second.cost[-1]])
    return Outputs(logits, spent, second.full, second.labels)
