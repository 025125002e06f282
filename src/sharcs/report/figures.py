"""The charts of a report, each with its words and the table of its numbers."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from sharcs.evaluation.plot import curve_figure, drawing
from sharcs.report.charts import (
    BARS,
    Cell,
    Chart,
    count_cell,
    drawn,
    named,
    number_cell,
    percentage,
    threshold_text,
    width_name,
)
from sharcs.report.drawings import bar_figure, reliability_figure
from sharcs.report.quality import quality_charts

if TYPE_CHECKING:
    from sharcs.evaluation.reliability import Reliability
    from sharcs.report.record import HarmBy, Report


def charts_of(report: Report) -> dict[str, Chart]:
    """Draw the charts.

    Args:
        report: From :func:`sharcs.report.content.build_report`.

    Returns:
        Charts by kind, those that the report has numbers for.
    """
    with drawing():
        charts = [_curve(report), _shares(report), _agreement(report)]
        charts.append(_harm(report.labelled, "classes", report.harm_by_class))
        if report.harm_by_group is not None:
            charts.append(_harm(report.labelled, "groups", report.harm_by_group))
        if report.reliability is not None:
            charts.append(_reliability(report.reliability.routed, report.reliability.full))
            charts += quality_charts(report.evaluation.quality)
    return {chart.kind: chart for chart in charts}


def _measure(report: Report) -> str:
    return "Accuracy" if report.labelled else "Agreement"


def _curve(report: Report) -> Chart:
    evaluation = report.evaluation
    measure = _measure(report)
    routed, full, oracle, random = evaluation.routed, evaluation.full, evaluation.oracle, evaluation.random
    of_full = "" if report.labelled else " with the full network"
    description = (
        f"The chosen policy reaches {percentage(routed.accuracy)} {measure.lower()}{of_full} at "
        f"{percentage(routed.flops_ratio)} of the full network's computation. "
        f"Random routing at that cost reaches {percentage(random.accuracy)}, "
        f"the full network {percentage(full.accuracy)}, and an oracle that always takes the cheapest right width "
        f"{percentage(oracle.accuracy)} at {percentage(oracle.flops_ratio)} of the computation."
    )
    rows = [
        ("chosen policy", routed.flops_ratio, routed.accuracy),
        ("full network", 1.0, full.accuracy),
        ("random routing at the policy's cost", routed.flops_ratio, random.accuracy),
        ("oracle", oracle.flops_ratio, oracle.accuracy),
    ]
    for width in evaluation.widths:
        rows.append((f"{width_name(width.width)} on every input", width.flops_ratio, width.accuracy))
    for point in evaluation.curve:
        threshold = point.escalation_threshold
        setting = f"threshold {threshold_text(threshold, 4)}"
        if threshold is None:
            setting = f"cost weight {point.cost_weight:.4g}"
        rows.append((f"router, {setting}", point.flops_ratio, point.accuracy))
    return drawn(
        "curve",
        f"{measure} against cost",
        description,
        curve_figure(evaluation, measure, _limit(report)),
        ["", "Cost, % of full", f"{measure}{of_full}"],
        [[Cell(name), number_cell(cost), number_cell(value)] for name, cost, value in rows],
    )


def _limit(report: Report) -> dict[str, float] | None:
    """Place the calibration's limit in the curve, if it has a place there."""
    calibration = report.calibration
    if calibration is None or not calibration.of_this_policy or calibration.per_class:
        return None
    if calibration.kind == "budget":
        return {"cost": calibration.limit}
    if calibration.kind == ("max_accuracy_drop" if report.labelled else "max_disagreement"):
        return {"value": report.evaluation.full.accuracy - calibration.limit}
    return None


def _shares(report: Report) -> Chart:
    widths = report.evaluation.widths
    measure = _measure(report)
    shares = [(width_name(width.width), width.share) for width in widths]
    texts = [percentage(share) for _, share in shares]
    description = "; ".join(f"{name} answers {text}" for (name, _), text in zip(shares, texts, strict=True))
    return drawn(
        "shares",
        "Share of the inputs that each width answers",
        description[0].upper() + description[1:] + " of the inputs.",
        bar_figure(shares, texts, "routed", least=1.0),
        ["Width", "Share", "Cost of every input here", f"{measure} on every input", f"{measure} where it answers"],
        [
            [
                Cell(width_name(at.width)),
                *map(number_cell, (at.share, at.flops_ratio, at.accuracy, at.accuracy_routed)),
            ]
            for at in widths
        ],
    )


def _agreement(report: Report) -> Chart:
    agreement, parts = report.agreement, report.agreement.right
    description = f"{percentage(agreement.same, 2)} of the answers are the same as the full network's"
    if parts is None:
        description += "."
        rows = [
            ("same answer as the full network", agreement.same),
            ("another answer", agreement.different),
        ]
    else:
        description += (
            f"; where they differ, routing alone is right on {percentage(parts.routed_only, 2)} of all "
            f"inputs and the full network alone on {percentage(parts.full_only, 2)}."
        )
        rows = [
            ("same answer, right", parts.both),
            ("same answer, wrong", parts.neither_same),
            ("only routing is right", parts.routed_only),
            ("only the full network is right", parts.full_only),
            ("different answers, both wrong", parts.neither_different),
        ]
    return drawn(
        "agreement",
        "Agreement with the full network",
        description,
        bar_figure(rows, [percentage(value, 2) for _, value in rows], "routed", least=1.0),
        ["", "Share of the inputs"],
        [[Cell(name), number_cell(value, 2)] for name, value in rows],
    )


def _harm(labelled: bool, kind: str, harm: HarmBy) -> Chart:
    key, what = ("accuracy_drop", "Loss of accuracy") if labelled else ("disagreement", "Disagreement")
    loss = attrgetter(key)
    shown, total = harm.worst[:BARS], harm.total
    worst = shown[0]
    sign = "a loss of " if labelled and loss(worst) > 0 else "a gain of " if labelled and loss(worst) < 0 else ""
    value = percentage(abs(loss(worst)))
    end = "." if labelled else ", where answers are other than the full network's."
    notes = []
    if total > len(shown):
        notes.append(f"The chart shows the worst {len(shown)} of {total:,}.")
    if total > len(harm.worst):
        notes.append(f"The table leaves out {total - len(harm.worst):,}, which are no worse than its last row.")
    columns = [("disagreement", "Disagreement")]
    if labelled:
        columns = [("full_accuracy", "Full network"), ("accuracy", "Routed"), (key, what), *columns]
    bars = [(named(entry.value), loss(entry)) for entry in shown]
    return drawn(
        kind,
        f"{what} by {harm.by}",
        f"The worst of {total:,}: {named(worst.value)}, with {sign}{value} on {worst.rows:,} inputs{end}",
        bar_figure(
            bars, [f"{percentage(loss(entry))}, {entry.rows:,} inputs" for entry in shown], "chosen", least=0.05
        ),
        [harm.by, "Inputs", *(heading for _, heading in columns)],
        [
            [
                Cell(named(entry.value)),
                count_cell(entry.rows),
                *(number_cell(getattr(entry, name)) for name, _ in columns),
            ]
            for entry in harm.worst
        ],
        " ".join(notes),
    )


def _reliability(routed: Reliability, full: Reliability) -> Chart:
    rows = []
    for pair in zip(routed.bins, full.bins, strict=True):
        cells = [Cell(f"{percentage(pair[0].low, 0)} to {percentage(pair[0].high, 0)}")]
        for entry in pair:
            cells += [count_cell(entry.rows), number_cell(entry.score), number_cell(entry.accuracy)]
        rows.append(cells)
    return drawn(
        "reliability",
        "Reliability of the scores",
        f"Scores and accuracy are {percentage(routed.ece, 2)} apart on average with routing, and "
        f"{percentage(full.ece, 2)} with the full network alone (expected calibration error). A line below the "
        "diagonal means scores that promise too much.",
        reliability_figure(routed, full),
        ["Score", "Routed: inputs", "mean score", "accuracy", "Full: inputs", "mean score", "accuracy"],
        rows,
    )
