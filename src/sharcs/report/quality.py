"""The charts of what people report: F1 by class, confusions, and coverage against accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sharcs.report.charts import BARS, Cell, count_cell, drawn, named, number_cell, percentage
from sharcs.report.drawings import bar_figure, confusion_figure, coverage_figure

if TYPE_CHECKING:
    from sharcs.evaluation.quality import Qualities, Quality
    from sharcs.report.charts import Chart

MOST_CELLS = 12  # classes of a matrix that can be read on a telephone
MOST_ROWS = 50  # of a table


def quality_charts(quality: Qualities) -> list[Chart]:
    """Draw the charts, of answers whose truth is known."""
    charts = [_f1(quality.routed, quality.full), _coverage(quality)]
    if quality.routed.confusion is not None and len(quality.routed.classes) > 1:
        charts.append(_confusion(quality.routed, quality.routed.confusion))
    return charts


def _f1(routed: Quality, full: Quality) -> Chart:
    ordered = sorted(routed.classes, key=lambda each: each.f1)
    shown = ordered[:BARS]
    bars = [(named(each.name), each.f1) for each in shown]
    of_full = {each.name: each.f1 for each in full.classes}
    note = "" if len(shown) == len(ordered) else f"The chart shows the lowest {len(shown)} of {len(ordered):,}."
    if len(ordered) > MOST_ROWS:
        note += f" The table leaves out {len(ordered) - MOST_ROWS:,} higher ones."
    return drawn(
        "f1",
        "F1 by class",
        f"The mean over the classes (macro F1) is {percentage(routed.macro_f1)} with routing, and "
        f"{percentage(full.macro_f1)} of the full network. The lowest: {named(shown[0].name)}, with "
        f"{percentage(shown[0].f1)}.",
        bar_figure(bars, [percentage(value) for _, value in bars], "routed", least=1.0),
        ["Class", "Inputs", "Precision", "Recall", "F1", "F1, full network"],
        [
            [
                Cell(named(each.name)),
                count_cell(each.rows),
                *map(number_cell, (each.precision, each.recall, each.f1, of_full.get(each.name))),
            ]
            for each in ordered[:MOST_ROWS]
        ],
        note,
    )


def _confusion(routed: Quality, counts: list[list[int]]) -> Chart:
    """Draw the matrix of few classes; of many, the most frequent confusions."""
    names = [named(each.name) for each in routed.classes]
    pairs = [
        (count, row, column)
        for row, of_class in enumerate(counts)
        for column, count in enumerate(of_class)
        if count and row != column
    ]
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    wrong, total = sum(count for count, _, _ in pairs), sum(map(sum, counts))
    description = f"{wrong:,} of {total:,} answers name another class than the label."
    if pairs:
        count, row, column = pairs[0]
        description += f" The most frequent confusion: {names[row]}, answered as {names[column]}, {count:,} times."
    if len(names) <= MOST_CELLS:
        figure = confusion_figure(names, counts)
        description += " A row is a class, a column an answer; numbers are percentages of the row."
        heads = ["Class", *(f"Answered {name}" for name in names)]
        rows = [[Cell(name), *map(count_cell, of_class)] for name, of_class in zip(names, counts, strict=True)]
        return drawn("confusion", "Confusion matrix", description, figure, heads, rows)
    bars = [(f"{names[row]} → {names[column]}", float(count)) for count, row, column in pairs[:BARS]]
    rows = [[Cell(names[row]), Cell(names[column]), count_cell(count)] for count, row, column in pairs[:MOST_ROWS]]
    return drawn(
        "confusion",
        "Most frequent confusions",
        description,
        bar_figure(bars, [f"{count:,.0f} inputs" for _, count in bars], "chosen", least=1.0),
        ["Class", "Answered", "Inputs"],
        rows,
        "" if len(pairs) <= MOST_ROWS else f"The table leaves out {len(pairs) - MOST_ROWS:,} rarer ones.",
    )


def _coverage(quality: Qualities) -> Chart:
    routed = quality.routed.coverage
    half = min(routed, key=lambda at: abs(at.coverage - 0.5))
    return drawn(
        "coverage",
        "Accuracy of the surest answers",
        f"Of all answers {percentage(routed[0].accuracy)} are right; of the surest {percentage(half.coverage)}, with "
        f"scores from {half.below:.3g} on, {percentage(half.accuracy)}. Where a wrong answer costs more than none, "
        "an answer below such a score is better left out.",
        coverage_figure({"full": quality.full.coverage, "routed": routed}),
        ["No answer below a score of", "Coverage", "Accuracy of the answers"],
        [[Cell(f"{at.below:.4g}", at.below), number_cell(at.coverage), number_cell(at.accuracy)] for at in routed],
    )
