"""``sharcs predict`` with a directory as output."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sharcs_cli.images import reads_images
from sharcs_cli.options import (
    check_pairs,
    columns_of,
    cut_texts,
    number_or_auto,
    opened,
    percent,
    progress_bar,
    say,
)
from sharcs_runtime.errors import InputError

if TYPE_CHECKING:
    from sharcs.data.dialects import Dialect
    from sharcs.inference.exported import ExportedModel
    from sharcs.inference.folder import TrainedModel
    from sharcs.inference.stream import TextStream
    from sharcs.units.run import Outcome

    # Values of --workers, --ray, --shard, --on-error, --check-share, --when-refuted.
    Many = tuple[str, str | None, str, str, float, str]

NO_UNITS: Many = ("auto", None, "0/1", "stop", 0.0, "stop")
OPTIONS = ("--workers", "--ray", "--shard", "--on-error", "--check-share", "--when-refuted")
REFUTED = 3  # exit code


def needs_folder(output: str, many: Many) -> None:
    """Refuse options of a directory where a file is written.

    Raises:
        InputError: If one is given.
    """
    for option, value, usual in zip(OPTIONS, many, NO_UNITS, strict=True):
        if value != usual:
            raise InputError(f"{option}: is for a directory as output, and {output} is a file; name a directory")


def predict_many(
    context: typer.Context,
    folder: Path,
    data: list[str],
    output: str,
    width: float | str | None,
    scores: bool,
    abstain_below: float | None,
    many: Many,
    columns: tuple[str | None, str | None, list[str] | None],
    dialect: Dialect,
) -> None:
    """Fill a directory, as far as this command's shard goes."""
    from dataclasses import replace

    from sharcs.data.sources import sources_of
    from sharcs.data.texts import Columns
    from sharcs.inference.predict import check_scored
    from sharcs.units.place import place_of
    from sharcs.units.plan import Job
    from sharcs.units.processes import starter
    from sharcs.units.run import Run, check_job, shard_name
    from sharcs_runtime.stage.processors import usable_cpus

    workers, ray, shard, on_error, check_share, when_refuted = many
    job = Job(
        f"{folder}",
        output,
        Columns(),
        dialect,
        width,
        scores,
        on_error,
        check_share,
        when_refuted,
        number_or_auto("--workers", workers) or (usable_cpus() if ray is None else 0),
        ray,
        _shard(shard),
        abstain_below,
    )
    check_job(job)
    context.with_resource(place_of(output).claimed(shard_name(job)))
    if job.workers > 1 and ray is None:
        starter()  # it imports while the network is opened
    trained = opened(folder, threads=1)
    if reads_images(trained):
        raise InputError(f"--output {output}: is a directory, and of images one table is written; name a file")
    sources = sources_of(data)
    check_scored(trained.model.config, scores, abstain_below)
    if width is not None:
        trained.model.config.index_of(width)
    if workers == "auto" and ray is None and not _on_processor(trained):
        job = replace(job, workers=1)  # one process keeps a GPU busy
    job = replace(job, columns=columns_of(*columns, trained.columns))

    def check(stream: TextStream) -> None:
        check_pairs(trained, stream.table.source, stream.pair is not None)

    try:
        run = Run(job, sources, trained, check)
        with progress_bar("predicting", run.rows) as advance:
            advance(run.rows_before)
            outcome = run.work(advance)
    except KeyboardInterrupt:
        say("interrupted; the same command does the units that are left")
        raise typer.Exit(130) from None
    _say_outcome(job.shard, output, when_refuted, outcome)


def _on_processor(trained: TrainedModel | ExportedModel) -> bool:
    """Tell whether a network runs on the processor; exports do."""
    from sharcs.inference.exported import ExportedModel

    return isinstance(trained, ExportedModel) or trained.model.device.type == "cpu"


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    if match is None:
        raise InputError(f"--shard {text}: has to be a part, from 0, and how many parts there are, like 3/8")
    return int(match[1]), int(match[2])


def _say_outcome(shard: tuple[int, int], output: str, when_refuted: str, outcome: Outcome) -> None:
    """Say in one line what is there; a refuted promise ends in another line, and in exit code 3 where it stops."""
    part = "" if shard[1] == 1 else f"shard {shard[0]}/{shard[1]}: "
    found = f"{outcome.rows:,} rows of {outcome.files:,} files are in {output} ({outcome.done:,} units)"
    if outcome.before == outcome.units:
        found += "; all was done before"
    elif outcome.before:
        found += f"; {outcome.before:,} of the units were done before"
    if outcome.done < outcome.units:
        found += f"; {outcome.units - outcome.done:,} units are left"
    if outcome.without:
        found += f"; {outcome.without:,} rows had no text"
    if outcome.abstained:
        found += f"; {outcome.abstained:,} rows have no answer, because its score is too low"
    if outcome.full:
        found += f"; the full network alone answered {outcome.full:,} units"
    if shard[1] > 1:
        found += f"; of all shards, {outcome.all_done:,} of {outcome.all_units:,} units are done"
    if outcome.checks is not None and outcome.checks.checked:
        found += f"; {outcome.checks.disagreements:,} of {outcome.checks.checked:,} checked answers are not the full "
        found += "network's"
    if outcome.cut:
        say(f"sharcs: note: {cut_texts(outcome.cut, outcome.rows - outcome.without, outcome.max_length)}")
    say(part + found)
    if not outcome.refuted or outcome.checks is None:
        return
    say(
        f"sharcs: the promise is refuted: more than {percent(outcome.checks.lower_bound, 2)}% of the answers are not "
        f"the full network's, and the limit is {percent(outcome.checks.max_disagreement, 2)}%"
        + ("; calibrate again, or give --when-refuted full or go-on" if when_refuted == "stop" else "")
    )
    if when_refuted == "stop":
        raise typer.Exit(REFUTED)
