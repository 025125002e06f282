"""Ways to average the answers of inputs that went on with those that they had."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sharcs_runtime.scores import blended

Average = Callable[[Any, Any, float], Any]
PROBABILITIES = "probabilities"


def evidence(later: Any, earlier: Any, weight: float) -> Any:
    """Add logits, so that probabilities multiply: of later and earlier answers, of which the latter weigh so much."""
    return later + weight / (1 - weight) * earlier


# The mean of the probabilities, as the package has it; and what was tried in its place.
AVERAGES: dict[str, Average] = {PROBABILITIES: blended, "evidence": evidence}
