"""What each idea of ours is worth: ours with one taken away, or with one that was dropped put in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from common import save
from judge.data import SETS
from judge.families import Static
from judge.front import KINDS, chains
from judge.learned import LearnedChain, StackedChain
from judge.report import by_budget
from judge.scoring import OURS, PairScores, Scores, ways

if TYPE_CHECKING:
    from collections.abc import Iterable

    from judge.curves import Curve
    from judge.families import Family, View
    from judge.front import Chain
    from judge.settings import Study

COUNTED, BY_PROBABILITY = "chosen by counts", "chosen by probability"


def _with(steps: Iterable[int], every: Iterable[Chain]) -> list[Family]:
    """Keep to some of the networks, each alone too."""
    kept = set(steps)
    return [*map(Static, sorted(kept)), *(chain for chain in every if kept.issuperset(chain.steps))]


def variants(held_out: View) -> dict[str, list[Family]]:
    """Name the variants, as families of ours.

    Args:
        held_out: What the learned ones learn from.
    """
    steps = range(len(KINDS))
    every = chains()
    learned = [LearnedChain(each.steps, each.to_full, learns_from=held_out) for each in every]
    stacked = [StackedChain(each.steps, each.to_full, (0.0,), learns_from=held_out) for each in every]
    return {
        **{f"without {kind}": _with(set(steps) - {step}, every) for step, kind in enumerate(KINDS)},
        **{f"{kind} alone in front": _with([step], every) for step, kind in enumerate(KINDS)},
        "never averaged": _with(steps, [replace(chain, blends=(0.0,)) for chain in every]),
        "always averaged": _with(steps, [replace(chain, blends=(0.3,)) for chain in every]),
        "deferral by entropy": _with(steps, [replace(chain, signal="entropy") for chain in every]),
        "learned deferral": _with(steps, learned),
        "answers weighed by held-out rows": _with(steps, stacked),
    }


@dataclass
class AblationScores(PairScores):
    """A pair's curves of ours and its variants."""

    @cached_property
    def curves(self) -> dict[str, Curve]:
        """Ours as it is, chosen the other way, and every variant, chosen as ours is."""
        soft = self.study.ours_by_probability
        held_out, test = self.views(OURS, by_probability=soft)
        families = {OURS: ways()[OURS][1], **variants(held_out)}
        found = {name: self.curve_of_families(each, held_out, test) for name, each in families.items()}
        other = replace(held_out, by_probability=not soft)
        found[COUNTED if soft else BY_PROBABILITY] = self.curve_of_families(families[OURS], other, test)
        return found


def ablations(scores: Scores) -> dict[str, Any]:
    """Work out what ours loses, and how much more every variant does, per set and in the mean."""
    names = [name for name in next(iter(scores.pairs.values()))[0].curves if name != OURS]
    return {
        "sets": {name: [pair.seed for pair in pairs] for name, pairs in scores.pairs.items()},
        "lost": {OURS: by_budget(lambda budget: scores.of_all(OURS, budget))},
        "worse": {way: by_budget(lambda budget, way=way: scores.of_all(OURS, budget, way)) for way in names},
        "by_set": {
            name: {
                way: by_budget(lambda budget, way=way, name=name: scores.of_set(name, OURS, budget, way))
                for way in names
            }
            for name in scores.pairs
        },
    }


def write(study: Study) -> None:
    """Write ``ablations.json`` of a study."""
    study.freeze()
    content = {"study": study.name, **ablations(Scores.of(study, list(SETS), (OURS, "reference"), AblationScores))}
    save(study.folder / "ablations.json", content)
    print("wrote", study.folder / "ablations.json")
