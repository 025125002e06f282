"""Markdown tables of a study's summary; tools/docs_tables.py writes them into the docs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tables import table

# What was asked of ours at a budget, in points: of the mean over sets, of each set, of topics and intents.
ASKED = {
    "0.02": (None, None, 1.5),
    "0.05": (2.5, 5.0, 0.8),
    "0.1": (1.0, 3.0, 0.4),
    "0.25": (0.2, 1.0, 0.1),
    "0.5": (0.0, 0.5, 0.0),
}
# Of the front page.
HEADLINE = {
    "ours": "ours",
    "PICK": "PICK",
    "joint exits, confidence": "early exit, trained jointly",
    "dynabert": "DynaBERT",
    "gru → full": "GRU, then full",
    "tfidf → full": "TF-IDF, then full",
}
LEXICAL = ("tfidf", "static")
NOTHING = 0.5  # points; "loses nothing" is said where an interval's upper end is below


def points(entry: dict[str, Any] | None) -> str:
    """Show a value with its interval; a hyphen where nothing is as cheap as the budget."""
    if entry is None:
        return "-"
    reach = (entry["high"] - entry["low"]) / 2
    return f"{entry['value']:.1f} ± {reach:.1f}"


def budgets_of(content: dict[str, Any]) -> list[str]:
    """List the budgets, as they stand in the summary."""
    return list(next(iter(content["lost"].values())))


def percent(budget: str) -> str:
    """Show a budget."""
    return f"{100 * float(budget):g}%"


def by_budget(content: dict[str, Any], first: str, rows: Iterable[tuple[str, dict[str, Any]]]) -> str:
    """Lay entries out, a column a budget."""
    budgets = budgets_of(content)
    lines = [[name, *(points(entries[budget]) for budget in budgets)] for name, entries in rows]
    return table([first, *map(percent, budgets)], lines)


def lost(content: dict[str, Any]) -> str:
    """What every way loses against the reference, mean over the sets."""
    rows = [(way, entries) for way, entries in content["lost"].items() if any(entries.values())]
    return by_budget(content, f"points lost, {len(content['sets'])} sets", rows)


def headline(content: dict[str, Any]) -> str:
    """What a few ways lose, for the front page."""
    lines = [[title, *(points(content["lost"][way][budget]) for budget in ASKED)] for way, title in HEADLINE.items()]
    return table([f"points lost, {len(content['sets'])} sets", *map(percent, ASKED)], lines)


def spent(content: dict[str, Any]) -> str:
    """What every way really spends on test rows where held-out rows ask for a budget, mean over the sets."""
    budgets = budgets_of(content)
    lines = [
        [way, *("-" if entries[b] is None else f"{100 * entries[b]['cost']:.1f}" for b in budgets)]
        for way, entries in content["lost"].items()
        if any(entries.values())
    ]
    return table(["spent, %", *map(percent, budgets)], lines)


def ahead(content: dict[str, Any]) -> str:
    """How many points more than ours every way loses, mean over the sets."""
    rows = [(way, entries) for way, entries in content["ahead"].items() if any(entries.values())]
    return by_budget(content, "points that ours is ahead of", rows)


def adds(content: dict[str, Any]) -> str:
    """What routing adds on every set, over the best mix of our two networks and over random routing."""
    rows = [
        (f"{name}: over {label}", entries[way])
        for name, entries in content["adds"].items()
        for way, label in (("ours, static", "the best mix of static networks"), ("ours, random", "random routing"))
    ]
    return by_budget(content, "points gained", rows)


def verdicts(content: dict[str, Any]) -> str:
    """On how many sets ours is ahead of or behind the pick and its own static networks, by Holm's correction."""
    lines = []
    for way, by in content["verdicts"].items():
        cells = []
        for of_sets in by.values():
            counts = [list(of_sets.values()).count(verdict) for verdict in ("ahead", "behind")]
            cells.append(f"{counts[0]} / {counts[1]} of {len(of_sets)}" if of_sets else "-")
        lines.append([way, *cells])
    return table(["sets ahead / behind", *map(percent, budgets_of(content))], lines)


def references(content: dict[str, Any]) -> str:
    """What the reference reaches on every set, and what ours and the pick lose at three budgets."""
    lines = []
    shown = [budget for budget in ("0.1", "0.25", "0.5") if budget in budgets_of(content)]
    for name, values in content["reference"].items():
        chosen = content["settings"]["reference"][name]
        ways = content["by_set"][name]
        lines.append(
            [
                name,
                ", ".join(f"{value:.1f}" for value in values),
                f"{chosen['readout']}, {chosen['rate']:g}",
                *(points(ways[way][budget]) for way in ("ours", "PICK") for budget in shown),
                ", ".join(dict.fromkeys(w for b in shown for w in (ways["PICK"][b] or {"ways": []})["ways"])),
            ]
        )
    heads = [f"{way} at {percent(budget)}" for way in ("ours", "PICK") for budget in shown]
    return table(["set", "reference, %", "read-out, rate", *heads, "what PICK is"], lines)


def correlations(content: dict[str, Any]) -> str:
    """Matthews correlations of cola, whose accuracy hides how little the rarer class is found."""
    found = content["matthews"]["cola"]
    budgets = budgets_of(content)
    lines = [["reference", *[f"{found['reference']:.3f}"] * len(budgets)]]
    lines += [
        [way, *("-" if found[way][b] is None else f"{found[way][b]:.3f}" for b in budgets)]
        for way in ("ours", "PICK")
    ]
    return table(["cola, Matthews correlation", *map(percent, budgets)], lines)


def losing_nothing(content: dict[str, Any]) -> str:
    """Whose loss is surely below half a point: the least budget at which the interval's upper end is below it."""
    lines = []
    for way, entries in content["lost"].items():
        budgets = [budget for budget, entry in entries.items() if entry is not None and entry["high"] < NOTHING]
        if any(entries.values()):
            lines.append([way, percent(min(budgets, key=float)) if budgets else "-"])
    return table(["method", "loses nothing from this budget on"], lines)


def asked(content: dict[str, Any]) -> str:
    """What was asked of ours at each budget, and what it loses."""
    lines = []
    for budget, (mean, of_set, of_topics) in ASKED.items():
        ways = {name: by_way["ours"][budget] for name, by_way in content["by_set"].items()}
        worst = max(ways, key=lambda name: ways[name]["value"])
        missed = [name for name, entry in ways.items() if of_set is not None and entry["low"] > of_set]
        lines.append(
            [
                percent(budget),
                reached(content["lost"]["ours"][budget], mean),
                "-" if of_set is None else f"{of_set:g}",
                f"{worst} {points(ways[worst])}{missing(missed) if of_set is not None else ''}",
                reached(content["topics"]["ours"][budget], of_topics),
            ]
        )
    head = ["budget", "mean of all sets (asked)", "asked of a set", "the worst set", "topics and intents (asked)"]
    return table(head, lines)


def reached(entry: dict[str, Any] | None, most: float | None) -> str:
    """Show points with what was asked, and whether that is reached."""
    if entry is None or most is None:
        return points(entry)
    return f"{points(entry)} ({most:g}: {'reached' if entry['value'] <= most else 'not reached'})"


def missing(names: list[str]) -> str:
    """Name the sets that are surely above what was asked."""
    return f", not reached: {', '.join(names)}" if names else ", reached"


def recovered(content: dict[str, Any]) -> str:
    """How much of the gap from the best lexical peer to the full network ours closes at a tenth of the cost."""
    lines = []
    for name, by_way in content["by_set"].items():
        gap = min(by_way[way]["0.02"]["value"] for way in LEXICAL if by_way[way]["0.02"])
        left = by_way["ours"]["0.1"]["value"]
        lines.append([name, f"{gap:.1f}", f"{left:.1f}", "-" if gap <= 0 else f"{100 * (1 - left / gap):.0f}%"])
    return table(["set", "the best lexical peer loses at 2%", "ours loses at 10%", "recovered"], lines)


def escalated(content: dict[str, Any]) -> str:
    """What is gained if the least sure tenth goes on to the full network: how far from chance to an oracle."""
    lines = []
    for name, by_kind in content["escalated"].items():
        for kind, entry in by_kind.items():
            gained = (f"{entry[which]:.1f}" for which in ("chance", "ours", "oracle"))
            lines.append(
                [f"{name}, {kind} first", f"{100 * entry['share']:.0f}%", *gained, f"{100 * entry['way']:.0f}%"]
            )
    return table(["points gained", "goes on", "chance", "the least sure", "oracle", "of the way"], lines)


def ablations(content: dict[str, Any]) -> str:
    """How many points more ours loses without an idea, or with another one in its place."""
    return by_budget(content, f"points that ours is ahead, {len(content['sets'])} sets", content["worse"].items())


def halves(content: dict[str, Any]) -> str:
    """What rules of choice lose on held-out rows that had no part in it, mean over the sets."""
    entries: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for of_pair in content["pairs"].values():
        for entry in of_pair:
            entries.setdefault((entry["rows"], entry["rule"]), []).append(entry["lost and cost"])
    lines = []
    for (rows, rule), found in sorted(entries.items(), key=lambda item: item[0][0]):
        values = [sum(each[key][0] for each in found) / len(found) for key in (*ASKED, "nothing lost")]
        spent = sum(each["nothing lost"][1] for each in found) / len(found)
        cells = [*(f"{value:.1f}" for value in values[:-1]), f"{values[-1]:.1f} at {100 * spent:.0f}%"]
        lines.append([f"{rows} rows, {len(found)} sets: {rule}", *cells])
    return table(["points lost", *map(percent, ASKED), "to lose nothing"], lines)


def hours(content: dict[str, Any]) -> str:
    """Processor hours by method and set."""
    sets = list(content["sets"])
    lines = [
        [method, *(f"{by_set.get(name, 0):.2f}" for name in sets), f"{sum(by_set.values()):.1f}"]
        for method, by_set in content["hours"].items()
    ]
    total = sum(sum(by_set.values()) for by_set in content["hours"].values())
    lines.append(["all", *([""] * len(sets)), f"{total:.1f}"])
    return table(["processor hours", *sets, "sum"], lines)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "judge-lost": lost,
    "judge-spent": spent,
    "judge-ahead": ahead,
    "judge-adds": adds,
    "judge-verdicts": verdicts,
    "judge-references": references,
    "judge-cola": correlations,
    "judge-nothing": losing_nothing,
    "judge-hours": hours,
}
# Of the study that chooses ours by probability; and of what each idea of ours is worth there.
FRONTIER: dict[str, Callable[[dict[str, Any]], str]] = {
    "frontier-headline": headline,
    "frontier-lost": lost,
    "frontier-ahead": ahead,
    "frontier-adds": adds,
    "frontier-verdicts": verdicts,
    "frontier-sets": references,
    "frontier-asked": asked,
    "frontier-recovered": recovered,
    "frontier-escalated": escalated,
}
HALVES: dict[str, Callable[[dict[str, Any]], str]] = {"frontier-halves": halves}
ABLATIONS: dict[str, Callable[[dict[str, Any]], str]] = {"frontier-ablations": ablations}
