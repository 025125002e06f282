"""The command ``sharcs calibrate``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from sharcs_cli.images import ImageOption
from sharcs_cli.options import (
    DATA_HELP,
    NOTHING_MEETS_IT,
    BudgetOption,
    DelimiterOption,
    DisagreementOption,
    DropOption,
    EncodingOption,
    LabelOption,
    NetworkArgument,
    NoQuotesOption,
    PairOption,
    TextOption,
    dialect_of,
    drawn_texts,
    groups_of,
    inputs_of,
    opened,
    out,
    percent,
    progress_bar,
    say,
)
from sharcs_runtime.errors import InputError

if TYPE_CHECKING:
    from sharcs.calibration.calibrate import Calibration
    from sharcs.calibration.choice import Constraint
    from sharcs.data.texts import TextData
    from sharcs.evaluation.answers import AllAnswers
    from sharcs.inference.exported import ExportedModel
    from sharcs.inference.folder import TrainedModel

WORST = 20  # classes or values of a column that are kept and shown
UNITS = {
    "budget": "mean FLOPs, of full",
    "latency_ms": "mean milliseconds",
    "max_accuracy_drop": "loss of accuracy",
    "max_disagreement": "disagreement with the full network",
}


def calibrate(
    context: typer.Context,
    folder: NetworkArgument,
    data: Annotated[
        list[str],
        typer.Option("--data", help=f"{DATA_HELP} Also patterns, directories and URLs; may be given several times."),
    ],
    budget: BudgetOption = None,
    latency_ms: Annotated[
        float | None,
        typer.Option("--latency-ms", help="Mean milliseconds of one input; a width's time is measured here."),
    ] = None,
    max_accuracy_drop: DropOption = None,
    max_disagreement: DisagreementOption = None,
    ladder: Annotated[
        str | None,
        typer.Option("--ladder", help="Limits of disagreement, like 0.02,0.05: a policy each, for 'sharcs serve'."),
    ] = None,
    confidence: Annotated[
        float, typer.Option("--confidence", help="Probability that a policy that is chosen meets the limit.")
    ] = 0.95,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Keep the loss of every class within the limit.")
    ] = False,
    max_samples: Annotated[
        int | None,
        typer.Option(
            "--max-samples", help="Draw at most so many rows, at random, in one pass.", show_default="all rows"
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of that draw; not to be tried out.", show_default="0")
    ] = None,
    group_column: Annotated[
        str | None, typer.Option("--group-column", help="Show the loss for each value of this column.")
    ] = None,
    image_column: ImageOption = None,
    text_column: TextOption = None,
    text_pair_column: PairOption = None,
    label_column: LabelOption = None,
    encoding: EncodingOption = None,
    delimiter: DelimiterOption = None,
    no_quotes: NoQuotesOption = False,
) -> None:
    """Choose the cheapest routing policy that keeps a limit, or the best within a budget, and store it in DIR.

    Exactly one limit is given. Exit code 3: no policy meets it, and every input goes through the full network.
    """
    from sharcs.calibration.calibrate import calibrate as choose_policy
    from sharcs.calibration.choice import classes_bounded, constraint_of
    from sharcs.calibration.ladder import calibrate_ladder, constraint_of_each, ladder_record
    from sharcs.data.texts import fingerprint
    from sharcs.files import claimed
    from sharcs.tasks.base import require_right_or_wrong

    limits = {
        "budget": budget,
        "latency_ms": latency_ms,
        "max_accuracy_drop": max_accuracy_drop,
        "max_disagreement": max_disagreement,
    }
    rungs = _rungs(ladder, limits, per_class)
    constraint = constraint_of(limits | {"max_disagreement": rungs[0]} if rungs else limits, confidence, per_class)
    if constraint is None:
        options = ", ".join(f"--{kind.replace('_', '-')}" for kind in limits)
        raise InputError(f"none of {options} given; give exactly one")
    trained = opened(folder)
    require_right_or_wrong(trained.model.config.problem_type, "calibrate")
    file = _description(folder)
    context.with_resource(claimed(file))
    needs_labels = constraint.kind == "max_accuracy_drop"
    columns = inputs_of(trained, image_column, text_column, text_pair_column, label_column)
    dialect = dialect_of(encoding, delimiter, no_quotes)
    texts, drawn = drawn_texts(trained, data, columns, needs_labels, dialect, (max_samples, seed), group_column)
    groups = None if group_column is None else groups_of(texts, group_column)
    answers = _answers(trained, texts, constraint, needs_labels)
    names = [str(name) for _, name in sorted((trained.model.config.id2label or {}).items())]
    steps = calibrate_ladder(answers, rungs, len(names), confidence) if rungs else []
    found = steps[0] if steps else choose_policy(answers, constraint, len(names))
    record = found.record() | ({"ladder": ladder_record(steps)} if found.met and steps else {})
    record |= {"data": texts.source, "data_sha256": fingerprint(texts.texts, texts.pairs)} | drawn
    if per_class:
        record["classes"] = _worst(found, [names[index] for index in classes_bounded(answers, constraint)])
    if groups is not None:
        record |= {"groups": _worst(found, groups), "group_column": group_column}
    _store(file, found, record)
    if not found.met:
        tested = constraint_of_each(rungs[0], rungs, confidence) if rungs else constraint
        say(f"sharcs: no policy keeps {_limit(constraint)} on {found.rows_tested:,} rows; {_advice(found, tested)}")
        raise typer.Exit(NOTHING_MEETS_IT)
    _print_policy(found, texts.source)
    if steps:
        _print_ladder(steps, rungs)
    for title, kind in (("class", "classes"), (f"{group_column}", "groups")):
        if kind in record:
            _print_losses(title, record[kind])
    say(f"the policy is in {file}")


def _rungs(ladder: str | None, limits: dict[str, float | None], per_class: bool) -> list[float]:
    """Read the limits of a ladder; none where none is given."""
    from sharcs.calibration.ladder import check_limits

    if ladder is None:
        return []
    if per_class or any(limit is not None for limit in limits.values()):
        raise InputError("--ladder: takes neither another limit nor --per-class; give it alone")
    try:
        rungs = [float(limit) for limit in ladder.split(",")]
    except ValueError:
        raise InputError(f"--ladder {ladder}: has to be numbers with commas between them, like 0.02,0.05") from None
    check_limits(rungs)
    return rungs


def _answers(
    trained: TrainedModel | ExportedModel, texts: TextData, constraint: Constraint, needs_labels: bool
) -> AllAnswers:
    """Run every width on the texts, and measure times if they are to be kept within a limit."""
    from sharcs.config import BLEND
    from sharcs.data.tokens import has_known_labels
    from sharcs.jobs.answers import all_answers

    # Labels that are not asked for are used where they make sense, to show what a policy does to accuracy.
    labelled = needs_labels or has_known_labels(texts, trained.model.config.class_indices)
    timed = constraint.kind == "latency_ms"
    with progress_bar("calibrating", len(texts)) as advance:
        answers = all_answers(trained, texts, labelled=labelled, blend=BLEND, timed=timed, on_batch=advance)
    if answers.way_milliseconds is not None:
        each = ", ".join(f"{time:.2f}" for time in answers.way_milliseconds[: len(answers.names)])
        say(f"measured on this machine, milliseconds of one input at each width: {each}; no part of the guarantee")
    return answers


def _description(folder: Path) -> Path:
    """Name the file that holds the policy: an export's description, or a trained model's configuration."""
    from sharcs.inference.folder import CONFIG_FILE
    from sharcs_runtime.bundle import DESCRIPTION_FILE

    file = folder / DESCRIPTION_FILE
    return file if file.is_file() else folder / CONFIG_FILE


def _store(file: Path, found: Calibration, record: dict[str, Any]) -> None:
    """Put policy and evidence into the network's description, and leave the rest of the file as it is."""
    from sharcs.files import write_json

    content = json.loads(file.read_text(encoding="utf-8"))
    write_json(content | {"policy": found.policy.to_dict(), "calibration": record}, file)


def _worst(found: Calibration, values: list[str]) -> list[dict[str, Any]]:
    """Break the loss on the tested rows down by a value of each row, the worst first."""
    from sharcs.calibration.calibrate import losses_by

    losses = losses_by(found.routed, [values[index] for index in found.tested])
    return [asdict(loss) for loss in losses[:WORST]]


def _limit(constraint: Constraint) -> str:
    option = f"--{constraint.kind.replace('_', '-')} {constraint.limit:g}"
    each = " for every class" if constraint.per_class else ""
    return f"{option}{each} at confidence {constraint.confidence:g}"


def _advice(found: Calibration, constraint: Constraint) -> str:
    needed = constraint.rows_needed()
    now = "every input goes through the full network now"
    each = " of each class" if constraint.per_class else ""
    if needed > found.rows or constraint.per_class:
        return f"{now}; this limit takes at least {needed:,} rows{each}"
    return f"{now}; give more rows, or raise the limit"


def _print_policy(found: Calibration, data: str) -> None:
    title = Text(f"{data}: {found.rows:,} inputs, {found.rows_tested:,} of them test the policy")
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for heading in ("accuracy, %", "FLOPs, % of full", "saved, %", "disagreement, %"):
        table.add_column(heading, justify="right")
    table.add_row("full network", percent(found.full_accuracy), percent(1.0), percent(0.0), percent(0.0, 2))
    table.add_row(
        "calibrated",
        percent(found.accuracy),
        percent(found.cost_ratio),
        percent(1 - found.cost_ratio),
        percent(found.disagreement, 2),
    )
    out.print(table)
    policy, constraint = found.policy, found.constraint
    shares = ", ".join(percent(share) for share in found.shares)
    worst = " of the worst class" if constraint.per_class else ""
    out.print(
        f"{UNITS[constraint.kind]}{worst}: {found.observed:.4g} observed, at most {found.bound:.4g} at confidence "
        f"{constraint.confidence:g}, limit {constraint.limit:g}, tested in {found.numbers} on {found.runtime}\n"
        f"policy: {policy.label()}; answered by each width, %: {shares}",
        highlight=False,
        soft_wrap=True,
    )


def _print_ladder(steps: list[Calibration], limits: list[float]) -> None:
    table = Table(title=Text("the ladder"), title_justify="left")
    for heading in ("limit, %", "disagreement, %", "at most, %", "FLOPs, % of full"):
        table.add_column(heading, justify="right")
    for step in steps:
        numbers = (step.constraint.limit, step.observed, step.bound)
        table.add_row(*(percent(number, 2) for number in numbers), percent(step.cost_ratio))
    out.print(table)
    if missing := sorted(set(limits) - {step.constraint.limit for step in steps}):
        which = ", ".join(f"{limit:g}" for limit in missing)
        say(f"limit {which}: nothing cheaper than the rung before could be shown to keep it; give more rows")


def _print_losses(title: str, losses: list[dict[str, Any]]) -> None:
    table = Table(title=Text(f"the {len(losses)} worst, by {title}"), title_justify="left")
    table.add_column(title)
    for heading in ("inputs", "loss of accuracy, %", "disagreement, %"):
        table.add_column(heading, justify="right")
    for entry in losses:
        drop = percent(entry["accuracy_drop"], 2)
        table.add_row(Text(entry["value"]), f"{entry['rows']:,}", drop, percent(entry["disagreement"], 2))
    out.print(table)
