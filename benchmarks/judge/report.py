"""The summary of a study, ``summary.json``, that its tables and its picture are made of."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import matplotlib as mpl

from common import save
from judge import answers
from judge.curves import BUDGETS
from judge.data import SETS
from judge.escalated import of_pairs
from judge.intervals import holm
from judge.pair import METHODS
from judge.scoring import OURS, OWN, PICK, PICK_BY_PROBABILITY, Scores, is_peer, matthews, ways

mpl.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

    from judge.intervals import Interval
    from judge.settings import Study

SHOWN = (
    OURS,
    PICK,
    "ours, random",
    "dynabert",
    "joint exits, confidence",
    "tfidf → full",
    "gru → full",
    "linear heads",
)
TOPICS = ("agnews", "banking77", "r52", "20news")  # of which single words tell much


def as_json(entry: dict[str, Any] | None) -> dict[str, Any] | None:
    """Write an entry of a table."""
    if entry is None:
        return None
    interval: Interval = entry["interval"]
    rest = {key: value for key, value in entry.items() if key != "interval"}
    return {"value": interval.value, "low": interval.low, "high": interval.high, **rest}


def by_budget(entry_at: Any) -> dict[str, Any]:
    """Ask for every budget."""
    return {f"{budget:g}": as_json(entry_at(budget)) for budget in BUDGETS}


def verdicts(scores: Scores, way: str, budget: float) -> dict[str, str]:
    """Say for every set whether ours is ahead of a way, corrected for their number."""
    entries = {name: scores.of_set(name, OURS, budget, way) for name in scores.pairs}
    return holm({name: entry["interval"] for name, entry in entries.items() if entry is not None})


def correlations(scores: Scores, name: str) -> dict[str, Any] | None:
    """Matthews correlations of a set with two classes, seed 0: the reference's, ours' and the pick's."""
    pair = scores.pairs[name][0]
    labels = pair.parts["test"]
    if labels.max() > 1:
        return None
    found: dict[str, Any] = {"reference": matthews(labels, pair.right)}
    for way in (OURS, PICK):
        lost = {f"{budget:g}": pair.lost(way, budget) for budget in BUDGETS}
        found[way] = {
            budget: None if entry is None else matthews(labels, pair.right - entry["rows"])
            for budget, entry in lost.items()
        }
    return found


def processor_hours(study: Study) -> dict[str, dict[str, float]]:
    """Add up what every method took, by set."""
    hours: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for file in sorted(file for folder in study.folders for file in folder.glob("*/*/*.npz")):
        record = answers.read(file)[1]
        if file != study.answers_of(record["set"], record["seed"], record["method"]):
            continue  # the study's own stand in its place
        hours[record["method"]][record["set"]] += record["processor_seconds"] / 3600
    return {method: dict(by_set) for method, by_set in hours.items()}


def summary(study: Study) -> dict[str, Any]:
    """Work out everything that the tables show, of the pairs that are there."""
    scores = Scores.of(study, list(SETS), METHODS)
    picks = [PICK, PICK_BY_PROBABILITY] if study.ours_by_probability else [PICK]
    names = [*picks, *ways()]
    others = [*picks, *OWN, *(name for name in ways() if is_peer(name))]
    topics = Scores({name: pairs for name, pairs in scores.pairs.items() if name in TOPICS})
    return {
        "study": study.name,
        "studies": sorted(
            folder.name for folder in study.folder.parent.iterdir() if (folder / "frozen.json").exists()
        ),
        "sets": {name: [pair.seed for pair in pairs] for name, pairs in scores.pairs.items()},
        "reference": {
            name: [100 * float(pair.right.mean()) for pair in pairs] for name, pairs in scores.pairs.items()
        },
        "lost": {way: by_budget(lambda budget, way=way: scores.of_all(way, budget)) for way in names},
        "topics": {way: by_budget(lambda budget, way=way: topics.of_all(way, budget)) for way in (OURS, *picks)},
        "ahead": {way: by_budget(lambda budget, way=way: scores.of_all(OURS, budget, way)) for way in others},
        "by_set": {
            name: {
                way: by_budget(lambda budget, way=way, name=name: scores.of_set(name, way, budget)) for way in names
            }
            for name in scores.pairs
        },
        "adds": {
            name: {
                way: by_budget(lambda budget, way=way, name=name: scores.of_set(name, OURS, budget, way))
                for way in ("ours, static", "ours, random")
            }
            for name in scores.pairs
        },
        "verdicts": {
            way: {f"{budget:g}": verdicts(scores, way, budget) for budget in BUDGETS}
            for way in (*picks, "ours, static", "ours, random")
        },
        "escalated": {name: of_pairs(pairs) for name, pairs in scores.pairs.items()},
        "matthews": {name: correlations(scores, name) for name in scores.pairs},
        "hours": processor_hours(study),
        "settings": study.settings,
    }


def picture(content: dict[str, Any], file: Path) -> None:
    """Draw what ways lose over budgets, with intervals."""
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for way in SHOWN:
        entries = {float(budget): entry for budget, entry in content["lost"].get(way, {}).items() if entry}
        if not entries:
            continue
        budgets = [100 * budget for budget in entries]
        values = [entry["value"] for entry in entries.values()]
        line = axes.plot(budgets, values, marker="o", markersize=3, label=way, linewidth=2.5 if way == OURS else 1.2)
        low, high = ([entry[end] for entry in entries.values()] for end in ("low", "high"))
        axes.fill_between(budgets, low, high, color=line[0].get_color(), alpha=0.12, linewidth=0)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xticks([100 * budget for budget in BUDGETS], [f"{100 * budget:g}" for budget in BUDGETS])
    axes.invert_yaxis()
    axes.set_xlabel("budget, % of the full network's FLOPs")
    axes.set_ylabel("points lost against the reference, mean over sets")
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def write(study: Study) -> None:
    """Write the summary and its picture."""
    study.freeze()
    content = summary(study)
    save(study.folder / "summary.json", content)
    picture(content, study.folder / "lost.png")
    print("wrote", study.folder / "summary.json")
