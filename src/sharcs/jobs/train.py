"""The whole training, from a file to a directory: what ``sharcs train`` does."""

from __future__ import annotations

import functools
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from transformers import PrinterCallback

from sharcs.data.dialects import Dialect
from sharcs.data.named import MINILM
from sharcs.data.texts import Columns, TextData, fingerprint
from sharcs.files import written
from sharcs.inference import folder as artifacts
from sharcs.inference.reading import collator_of
from sharcs.jobs.arguments import TRAINERS, Patience, training_arguments
from sharcs.jobs.held_out import choose_policy, promise_nothing
from sharcs.jobs.remarks import learned
from sharcs.jobs.shapes import shapes_for
from sharcs.jobs.trial import Trial, declared_readout, measure_of
from sharcs.jobs.work import prepare
from sharcs.spec import AUTO, FIRST
from sharcs.training.checkpoints import furthest_checkpoint
from sharcs.training.processes import agreed, ended_elsewhere, from_first, join, process_count, process_number

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import TrainerCallback

    from sharcs.calibration.choice import Constraint
    from sharcs.jobs.work import Work
    from sharcs.model.base import RoutedModel
    from sharcs.training.base import RoutedTrainer

LATER_FIELDS = ("images", "regression", "class_weights", "sub_network_epochs", "patience")


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What to train on what; see ``sharcs train --help`` for each field."""

    data: str | TextData
    output: Path
    model: str = MINILM
    eval_data: str | None = None
    columns: Columns = field(default_factory=Columns)
    widths: tuple[float, ...] | None = None  # the usual sub-networks
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
    images: bool = False
    report_to: tuple[str, ...] = ()


def run_training(
    job: TrainingJob, callbacks: list[TrainerCallback], say: Callable[[str], None] | None = None
) -> artifacts.TrainedModel:
    """Train a routed classifier from a data file, or go on with a training that was interrupted.

    Several processes that run this together, as ``torchrun`` starts them, train one classifier: the first one writes
    and says everything.

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
    join()
    again = "make room, and `resume` goes on from the last checkpoint"
    with ExitStack() as stack, ended_elsewhere():
        stack.enter_context(written(f"`output` {job.output}", again))
        from_first(lambda: stack.enter_context(artifacts.claimed_folder(job.output)))
        return _train(job, callbacks, say if say and process_number() == 0 else lambda _: None)


def _train(
    given: TrainingJob, callbacks: list[TrainerCallback], say: Callable[[str], None]
) -> artifacts.TrainedModel:
    work = agreed(lambda: prepare(given, say))
    collate = collator_of(work.processor)
    named = replace(given, front=given.front or work.job.front, widths=work.job.widths)
    settings = _settings(named, work.train, work.columns)
    if given.front == (AUTO,):
        settings["shapes"] = from_first(lambda: shapes_for(work, collate, say))
        work = agreed(lambda: work.with_front(tuple(settings["shapes"])))
    job, model, processor = work.job, work.model, work.processor
    # Everything that the job names has been found right: from here on the directory is in use.
    checkpoints = from_first(lambda: artifacts.begin(job.output, settings, job.resume))
    if (
        job.readout is None
        and job.epochs
        and not job.images
        and ((readout := _readout(work, checkpoints, collate)) != FIRST)
    ):
        model = work.load(readout)
    transformers.set_seed(job.seed)
    trainer = agreed(lambda: _trainer(work, model, checkpoints, collate, callbacks))
    trainer.remove_callback(PrinterCallback)  # raw dictionaries on standard output; the callbacks show progress
    found = from_first(lambda: furthest_checkpoint(checkpoints)) if job.resume else None
    trainer.train(resume_from_checkpoint=found)
    agreed(lambda: artifacts.check_finite(model, f"{job.output}"))
    kind_of_model = artifacts.TrainedImages if job.images else artifacts.TrainedModel
    trained = kind_of_model(model.train(False), processor, work.columns)
    chosen = from_first(lambda: _conclude(work, trained, say))
    model.config.policy, model.config.promise, model.config.calibration = chosen
    return trained


def _readout(work: Work, checkpoints: Path, collate: Callable[[list[Any]], Any]) -> str:
    """Find out what the encoder's head should read: by a trial, or where rows are too few for one, by its files."""
    job = work.job
    full: dict[str, Any] = {"widths": (1.0,), "front": ()}
    load = functools.partial(work.load, **full)
    if work.judging is not None:
        return Trial(load, work.rows, work.judging, collate, job, measure_of(job)).readout(checkpoints)
    return declared_readout(work.encoder_path, load) if job.front else FIRST


def _trainer(
    work: Work,
    model: RoutedModel,
    checkpoints: Path,
    collate: Callable[[list[Any]], Any],
    callbacks: list[TrainerCallback],
) -> RoutedTrainer:
    job, judging = work.job, work.judging
    arguments = training_arguments(
        job.recipe,
        len(work.rows),
        window=job.window,
        bands=job.bands,
        judged=None if judging is None else "error" if job.regression else "accuracy",
        sub_network_epochs=job.sub_network_epochs,
        class_weights=work.weights,
        output_dir=str(checkpoints),
        seed=job.seed,
        num_train_epochs=job.epochs,
        learning_rate=job.learning_rate,
        per_device_train_batch_size=job.batch_size // process_count(),
    )
    return TRAINERS[job.recipe](
        model=model,
        args=arguments,
        train_dataset=work.rows,
        data_collator=collate,
        processing_class=work.processor,
        callbacks=[*callbacks, *work.told, *([] if job.patience is None else [Patience(job.patience)])],
        **({} if judging is None else {"eval_dataset": judging, "compute_metrics": measure_of(job)}),
        **({} if work.more is None else {"unlabelled_dataset": work.more}),
    )


def _conclude(work: Work, trained: artifacts.TrainedModel, say: Callable[[str], None]) -> tuple[Any, Any, Any]:
    """Choose the policy, say what was learned, and write the model: policy, promise and calibration."""
    job, config = work.job, trained.model.config
    if work.validation is not None and not job.regression:
        choose_policy(trained, work.validation, job.seed, job.limit)
    if job.front and config.promise is None:
        promise_nothing(trained, work.validation)
    if config.promise is None and not job.regression:
        say(learned(trained, work.train, job.seed))
    artifacts.finish(job.output, trained.model, trained.tokenizer)
    return config.policy, config.promise, config.calibration


def _settings(job: TrainingJob, train: TextData, columns: Columns) -> dict[str, Any]:
    """Collect what decides the result, the training rows' fingerprint included."""
    left_out = ("output", "resume", "columns", "dialect", "report_to")
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
        "data_sha256": fingerprint(
            train.table[columns.text].to_pylist() if job.images else train.texts, train.pairs, train.labels
        ),
    }
