"""What is gained if the least sure tenth of the inputs goes on to the full network, against chance and an oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from judge.families import BLENDS, scores
from judge.front import KINDS
from judge.scoring import OURS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from judge.families import View
    from judge.scoring import PairScores

SHARE = 0.1


def gains(view: View, step: int, blend: float) -> NDArray[np.float64]:
    """What every input gains if it goes on: −1, 0 or 1, ``[rows]``."""
    first, full = view.answers.logits[step], view.reference.logits[0]
    later = view.averaged(full, first, blend)
    found: NDArray[np.float64] = view.right(later).astype(float) - view.right(first)
    return found


def of_step(held_out: View, test: View, step: int) -> dict[str, float]:
    """Let the least sure tenth go on, by a limit and an average that held-out rows choose.

    Returns:
        Points gained by these, by as many at random and by as many that an oracle names; which share of the test
        rows it was; and how far from chance to the oracle that is (NaN where these are equal).
    """
    theirs, mine = (scores(view.answers.step(step), "confidence")[0] for view in (held_out, test))
    limit = np.quantile(theirs, SHARE)
    blend = max(BLENDS, key=lambda each: gains(held_out, step, each)[theirs < limit].sum())
    gained = gains(test, step, blend)
    goes_on = mine < limit
    share = float(goes_on.mean())
    ours, chance = float((gained * goes_on).mean()), share * float(gained.mean())
    oracle = min(share, float((gained > 0).mean()))
    way = (ours - chance) / (oracle - chance) if oracle > chance else float("nan")
    return {"ours": 100 * ours, "chance": 100 * chance, "oracle": 100 * oracle, "share": share, "way": way}


def of_pairs(pairs: list[PairScores]) -> dict[str, dict[str, float]]:
    """Take the mean over a set's seeds, for every sub-network in front."""
    views = [pair.views(OURS) for pair in pairs]
    found: dict[str, Any] = {}
    for step, kind in enumerate(KINDS):
        every = [of_step(*each, step) for each in views]
        found[kind] = {key: float(np.mean([entry[key] for entry in every])) for key in every[0]}
    return found
