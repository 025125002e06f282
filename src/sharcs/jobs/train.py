"""The whole training, from a file to a directory: what ``sharcs train`` does."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from transformers import DataCollatorWithPadding, PrinterCallback

from sharcs.data.dialects import Dialect
from sharcs.data.named import MINILM, encoder_location
from sharcs.data.texts import PAIR_COLUMN, Columns, TextData, fingerprint, label_names, take_rows
from sharcs.data.tokens import tokenise
from sharcs.errors import InputError
from sharcs.files import written
from sharcs.inference import folder as artifacts
from sharcs.jobs.arguments import TRAINERS, Patience, check_numbers, training_arguments, weights_of
from sharcs.jobs.encoder import classes_of_fine_tuned, load_model, load_tokenizer
from sharcs.jobs.given import read_given
from sharcs.jobs.held_out import (
    check_limit,
    check_same_shape,
    check_unlabelled,
    choose_policy,
    judging_rows,
    split,
    unlabelled_rows,
    warn_of_no_promise,
)
from sharcs.jobs.remarks import learned, names_by_row, rows_and_classes, warn_of_rows
from sharcs.jobs.trial import Trial, accuracy_of, error_of
from sharcs.spec import FIRST
from sharcs.training.arguments import RECIPES, recipe_of
from sharcs.training.checkpoints import furthest_checkpoint
from sharcs_runtime.scores import REGRESSION

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import TrainerCallback

    from sharcs.calibration.choice import Constraint
    from sharcs.model.text import SharcsForSequenceClassification

# Where sub-networks stand in front of the encoder: it is trained until held-out rows are content, and they alone
# are read from there on.
FRONT_EPOCHS, FRONT_RATE = 8, 1e-4
LATER_FIELDS = ("regression", "class_weights", "sub_network_epochs", "patience")


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What to train on what; see ``sharcs train --help`` for each field."""

    data: str | TextData
    output: Path
    model: str = MINILM
    eval_data: str | None = None
    columns: Columns = field(default_factory=Columns)
    widths: tuple[float, ...] = (0.25, 1.0)
    front: tuple[str, ...] = ()
    unlabelled: str | TextData | None = None
    validation: str | TextData | None = None
    limit: Constraint | None = None
    readout: str | None = None
    router_layer: int | None = None
    recipe: str | None = None
    window: int | None = None
    bands: dict[float, tuple[float, float]] | None = None
    epochs: float | None = None
    batch_size: int = 32
    learning_rate: float | None = None
    max_length: int = 128
    max_train_samples: int | None = None
    seed: int = 0
    dialect: Dialect = field(default_factory=Dialect)
    resume: bool = False
    regression: bool = False
    class_weights: str | dict[str, float] | None = None
    sub_network_epochs: int | None = None
    patience: int | None = None


def run_training(
    job: TrainingJob, callbacks: list[TrainerCallback], say: Callable[[str], None] | None = None
) -> artifacts.TrainedModel:
    """Train a routed classifier from a data file, or go on with a training that was interrupted.

    Args:
        job: Data, encoder and settings.
        callbacks: For progress.
        say: Takes lines on the rows, and on what was learned. What is probably wrong with them is a warning.

    Returns:
        The finished model; it is in ``job.output``, too.

    Raises:
        InputError: If anything that the job names is wrong, found before anything is written; if another process
            writes there; or if the disk is full.
    """
    again = "make room, and `resume` goes on from the last checkpoint"
    with artifacts.claimed_folder(job.output), written(f"`output` {job.output}", again):
        return _train(job, callbacks, say or (lambda _: None))


def _train(job: TrainingJob, callbacks: list[TrainerCallback], say: Callable[[str], None]) -> artifacts.TrainedModel:
    recipe, given = recipe_of(job.recipe, job.window, job.bands), job
    usual = (FRONT_EPOCHS, FRONT_RATE) if job.front else (RECIPES[recipe].epochs, RECIPES[recipe].learning_rate)
    job = replace(
        job,
        recipe=recipe,
        epochs=usual[0] if job.epochs is None else job.epochs,
        learning_rate=usual[1] if job.learning_rate is None else job.learning_rate,
    )
    check_numbers(job)
    asked = REGRESSION if job.regression else None
    draw: dict[str, Any] = {"max_samples": job.max_train_samples, "seed": job.seed}
    train = read_given(job.data, job.columns, job.dialect, problem_type=asked, **draw)
    kind = train.problem_type
    names = [job.columns.labels[0]] if job.regression else label_names(train)
    check_unlabelled(job.unlabelled, job.front)
    validation, held_out = (
        read_given(source, job.columns, job.dialect, problem_type=kind) if source else None
        for source in (job.validation, job.eval_data)
    )
    if validation is not None:
        _check_held_out(validation, train, names)
    elif job.front or job.limit or job.patience:
        train, validation = split(train, job.seed)
    check_limit(job.limit, validation, len(job.front) + len(job.widths), kind)
    encoder_path = encoder_location(job.model)
    if job.epochs == 0:
        names = classes_of_fine_tuned(encoder_path, names, job, kind, train.source)
    label2id = {name: index for index, name in enumerate(names)}
    weights = weights_of(job.class_weights, names, kind)
    tokenizer, max_length, depth = load_tokenizer(encoder_path, job)
    if job.router_layer is None and depth is not None:
        job = replace(job, router_layer=RECIPES[recipe].router_layer(depth))
    if held_out is not None:
        _check_held_out(held_out, train, names)
        tokenise(replace(take_rows(held_out, [0]), labels=None), tokenizer, max_length=max_length)
    rows = tokenise(train, tokenizer, max_length=max_length, label2id=label2id)
    more = unlabelled_rows(job.unlabelled, job.columns, job.dialect, train, tokenizer)
    columns = replace(job.columns, text_pair=job.columns.text_pair or (PAIR_COLUMN if train.pairs else None))
    judging = None if validation is None else judging_rows(validation, tokenizer, label2id, job.seed)
    if job.patience and judging is None:
        raise InputError(
            f"`patience` {job.patience}: needs more held-out rows to judge by; give them as `validation`"
        )

    def load(readout: str, widths: tuple[float, ...], front: tuple[str, ...]) -> SharcsForSequenceClassification:
        transformers.set_seed(job.seed)
        of = replace(job, readout=readout, widths=widths, front=front)
        model = load_model(of, encoder_path, names, train)
        model.config.label_type = train.label_type
        return model

    say(rows_and_classes(train))
    warn_of_rows(train, (validation, held_out))
    model = load(job.readout or FIRST, job.widths, job.front)
    # Everything that the job names has been found right: from here on the directory is in use.
    checkpoints = artifacts.begin(job.output, _settings(given, train, columns), job.resume)
    collate = DataCollatorWithPadding(tokenizer)
    measure = error_of if job.regression else accuracy_of
    if job.readout is None and judging is not None and job.epochs:
        tried = Trial(lambda readout: load(readout, (1.0,), ()), rows, judging, collate, job, measure)
        if (readout := tried.readout(checkpoints)) != FIRST:
            model = load(readout, job.widths, job.front)
    transformers.set_seed(job.seed)
    trainer = TRAINERS[recipe](
        model=model,
        args=training_arguments(
            recipe,
            len(rows),
            window=job.window,
            bands=job.bands,
            judged=None if judging is None else "error" if job.regression else "accuracy",
            sub_network_epochs=job.sub_network_epochs,
            class_weights=weights,
            output_dir=str(checkpoints),
            seed=job.seed,
            num_train_epochs=job.epochs,
            learning_rate=job.learning_rate,
            per_device_train_batch_size=job.batch_size,
        ),
        train_dataset=rows,
        data_collator=collate,
        processing_class=tokenizer,
        callbacks=[*callbacks, *([] if job.patience is None else [Patience(job.patience)])],
        **({} if judging is None else {"eval_dataset": judging, "compute_metrics": measure}),
        **({} if more is None else {"unlabelled_dataset": more}),
    )
    trainer.remove_callback(PrinterCallback)  # raw dictionaries on standard output; the callbacks show progress
    trainer.train(resume_from_checkpoint=furthest_checkpoint(checkpoints) if job.resume else None)
    artifacts.check_finite(model, f"{job.output}")
    trained = artifacts.TrainedModel(model.train(False), tokenizer, columns)
    if validation is not None and not job.regression:
        choose_policy(trained, validation, job.seed, job.limit)
    if job.front and model.config.promise is None:
        warn_of_no_promise(validation)
    if model.config.promise is None and not job.regression:
        say(learned(trained, train, job.seed))
    artifacts.finish(job.output, model, tokenizer)
    return trained


def _check_held_out(held_out: TextData, train: TextData, names: list[str]) -> None:
    """Refuse held-out rows of another shape, or with other classes."""
    check_same_shape(train, held_out)
    by_row = names_by_row(held_out)
    unseen = sorted(set(chain.from_iterable(by_row)) - set(names))
    if unseen:
        row = next(row for row, of_row in enumerate(by_row, 1) if unseen[0] in of_row)
        trained_on = train.source if train.rows is None else f"the {len(train)} rows taken of {train.source}"
        raise InputError(
            f"{held_out.source}: row {row}: the label {unseen[0]!r} is not among the classes of {trained_on}; "
            "correct it or drop the row"
        )


def _settings(job: TrainingJob, train: TextData, columns: Columns) -> dict[str, Any]:
    """Collect what decides the result, the training rows' fingerprint included."""
    left_out = ("output", "resume", "columns", "dialect")
    sources: dict[str, Any] = {name: getattr(job, name) for name in ("data", "validation", "unlabelled")}
    sources = {name: of.source if isinstance(of, TextData) else of for name, of in sources.items()}
    fields = {name: value for name, value in asdict(replace(job, **sources)).items() if name not in left_out}
    # What is not given is not written, as by versions that don't know it.
    fields = {name: value for name, value in fields.items() if value or name not in LATER_FIELDS}
    fields |= {name: value for name, value in asdict(job.dialect).items() if value}
    return {
        "format": artifacts.FORMAT,
        **fields,
        "text_column": columns.text,
        "text_pair_column": columns.text_pair,
        "label_column": columns.label,
        "rows": len(train),
        "data_sha256": fingerprint(train.texts, train.pairs, train.labels),
    }
