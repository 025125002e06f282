"""Logistic regressions whose strength held-out rows choose."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.linear_model import LogisticRegression

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from judge.data import Parts

LEAST = -20.0  # log-probability of a class that a model has never seen


def fitted(
    train: Any, held_out: Any, parts: Parts, strengths: tuple[float, ...], **settings: Any
) -> tuple[Any, list[float]]:
    """Fit one regression a strength, and take the one that is right most often on held-out rows.

    Args:
        train: Features of train, ``[rows, features]``.
        held_out: The same of held-out rows.
        parts: Whose rows they are.
        strengths: 1 / regularisation.
        **settings: Of ``LogisticRegression``.

    Returns:
        The best one, and the scores of all.
    """
    models = [LogisticRegression(C=strength, **settings).fit(train, parts.train.labels) for strength in strengths]
    scores = [float(model.score(held_out, parts.held_out.labels)) for model in models]
    return models[int(np.argmax(scores))], scores


def class_logits(model: Any, features: Any, classes: int) -> NDArray[np.float32]:
    """Log-probabilities of all classes, ``[rows, classes]``, where a model has seen some of them only."""
    logits = np.full((features.shape[0], classes), LEAST, np.float32)
    logits[:, model.classes_] = np.maximum(model.predict_log_proba(features), LEAST)
    return logits
