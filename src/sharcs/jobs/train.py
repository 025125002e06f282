"""The whole training, from a file to a directory: what ``sharcs train`` does."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, DataCollatorWithPadding, PrinterCallback

from sharcs.config import SharcsConfig
from sharcs.data.dialects import Dialect
from sharcs.data.named import MINILM, encoder_location
from sharcs.data.texts import PAIR_COLUMN, Columns, TextData, fingerprint, label_names, take_rows
from sharcs.data.tokens import most_tokens, tokenise
from sharcs.errors import EncoderError, InputError, first_line
from sharcs.files import written
from sharcs.inference import folder as artifacts
from sharcs.jobs.arguments import TRAINERS, check_numbers, training_arguments
from sharcs.jobs.given import read_given
from sharcs.jobs.held_out import (
    check_limit,
    check_same_shape,
    check_unlabelled,
    choose_policy,
    judging_rows,
    split,
    unlabelled_rows,
)
from sharcs.jobs.remarks import learned, rows_and_classes, warn_of_rows
from sharcs.jobs.trial import Trial, accuracy_of
from sharcs.model.text import SharcsForSequenceClassification
from sharcs.spec import FIRST
from sharcs.tasks.base import problem_type_of, require_one_label
from sharcs.training.arguments import RECIPES, recipe_of
from sharcs.training.checkpoints import furthest_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase, TrainerCallback

    from sharcs.calibration.choice import Constraint

# Where sub-networks stand in front of the encoder: it is trained until held-out rows are content, and they alone
# are read from there on.
FRONT_EPOCHS, FRONT_RATE = 8, 1e-4


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
    train = read_given(job.data, job.columns, job.dialect, max_samples=job.max_train_samples, seed=job.seed)
    names = label_names(train)
    check_unlabelled(job.unlabelled, job.front)
    validation = read_given(job.validation, job.columns, job.dialect) if job.validation else None
    if validation is not None:
        _check_held_out(validation, train, names)
    elif job.front or job.limit:
        train, validation = split(train, job.seed)
    check_limit(job.limit, validation, len(job.front) + len(job.widths))
    held_out = read_given(job.eval_data, job.columns, job.dialect) if job.eval_data else None
    encoder_path = encoder_location(job.model)
    if job.epochs == 0:
        names = _classes_of_fine_tuned(encoder_path, names, job, train.source)
    label2id = {name: index for index, name in enumerate(names)}
    tokenizer, max_length, depth = _tokenizer(encoder_path, job)
    if job.router_layer is None and depth is not None:
        job = replace(job, router_layer=RECIPES[recipe].router_layer(depth))
    if held_out is not None:
        _check_held_out(held_out, train, names)
        tokenise(replace(take_rows(held_out, [0]), labels=None), tokenizer, max_length=max_length)
    rows = tokenise(train, tokenizer, max_length=max_length, label2id=label2id)
    more = unlabelled_rows(job.unlabelled, job.columns, job.dialect, train, tokenizer)
    columns = replace(job.columns, text_pair=job.columns.text_pair or (PAIR_COLUMN if train.pairs else None))
    judging = None if validation is None else judging_rows(validation, tokenizer, label2id, job.seed)

    def load(readout: str, widths: tuple[float, ...], front: tuple[str, ...]) -> SharcsForSequenceClassification:
        transformers.set_seed(job.seed)
        of = replace(job, readout=readout, widths=widths, front=front)
        model = _load_model(of, encoder_path, names, train.source, train.pairs is not None)
        model.config.label_type = train.label_type
        return model

    say(rows_and_classes(train))
    warn_of_rows(train, (validation, held_out))
    model = load(job.readout or FIRST, job.widths, job.front)
    # Everything that the job names has been found right: from here on the directory is in use.
    checkpoints = artifacts.begin(job.output, _settings(given, train, columns), job.resume)
    collate = DataCollatorWithPadding(tokenizer)
    if job.readout is None and judging is not None and job.epochs:
        tried = Trial(lambda readout: load(readout, (1.0,), ()), rows, judging, collate, job)
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
            judged=judging is not None,
            output_dir=str(checkpoints),
            seed=job.seed,
            num_train_epochs=job.epochs,
            learning_rate=job.learning_rate,
            per_device_train_batch_size=job.batch_size,
        ),
        train_dataset=rows,
        data_collator=collate,
        processing_class=tokenizer,
        callbacks=callbacks,
        **({} if judging is None else {"eval_dataset": judging, "compute_metrics": accuracy_of}),
        **({} if more is None else {"unlabelled_dataset": more}),
    )
    trainer.remove_callback(PrinterCallback)  # raw dictionaries on standard output; the callbacks show progress
    trainer.train(resume_from_checkpoint=furthest_checkpoint(checkpoints) if job.resume else None)
    artifacts.check_finite(model, f"{job.output}")
    trained = artifacts.TrainedModel(model.train(False), tokenizer, columns)
    if validation is not None:
        choose_policy(trained, validation, job.seed, job.limit)
    if model.config.promise is None:
        say(learned(trained, train, job.seed))
    artifacts.finish(job.output, model, tokenizer)
    return trained


def _check_held_out(held_out: TextData, train: TextData, names: list[str]) -> None:
    """Refuse held-out rows of another shape, or with other classes."""
    check_same_shape(train, held_out)
    unseen = sorted(set(held_out.labels or ()) - set(names))
    if unseen:
        row = (held_out.labels or []).index(unseen[0]) + 1
        trained_on = train.source if train.rows is None else f"the {len(train)} rows taken of {train.source}"
        raise InputError(
            f"{held_out.source}: row {row}: the label {unseen[0]!r} is not among the classes of {trained_on}; "
            "correct it or drop the row"
        )


def _load_model(
    job: TrainingJob, encoder_path: str, names: list[str], source: str, pairs: bool
) -> SharcsForSequenceClassification:
    """Wrap the encoder, for the classes of some source."""
    try:
        return SharcsForSequenceClassification.from_encoder(
            encoder_path,
            widths=job.widths,
            front=job.front,
            pairs=pairs,
            readout=job.readout or FIRST,
            router_layer=job.router_layer,
            weights=RECIPES[str(job.recipe)].weights,
            id2label=dict(enumerate(names)),
            problem_type="single_label_classification",
            use_safetensors=True,
        )
    except EncoderError as error:
        raise InputError(f"`model` {job.model}: {error}") from error
    except InputError:
        raise
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"`model` {job.model}: its weights can't be loaded ({first_line(error)}); it needs model.safetensors"
        ) from error
    except ValueError as error:
        raise InputError(f"`model` {job.model}: is no text encoder ({first_line(error)}); choose another") from error
    except RuntimeError as error:
        raise InputError(
            f"`model` {job.model}: its weights don't fit its configuration or the {len(names)} classes of "
            f"{source} ({first_line(error)}); name an encoder without a head"
        ) from error


def _classes_of_fine_tuned(encoder_path: str, names: list[str], job: TrainingJob, source: str) -> list[str]:
    """Look up the classes of a model that is fine-tuned already; it has to have those of the data."""
    try:
        config = AutoConfig.from_pretrained(encoder_path)
    except (OSError, ValueError, KeyError):
        return names  # what is wrong with it is found out where its tokenizer is loaded
    if not any(name.endswith("ForSequenceClassification") for name in config.architectures or ()):
        raise InputError(f"`epochs` 0: {job.model} is not fine-tuned, it has no head; give at least 1")
    require_one_label(problem_type_of(config), f"`epochs` 0: {job.model}")
    known = [str(name) for _, name in sorted((config.id2label or {}).items())]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise InputError(
            f"`epochs` 0: {job.model} has the classes {', '.join(map(repr, known[:10]))}, and {source} has "
            f"{unknown[0]!r}; correct the labels, or train the model with `epochs` 1 or more"
        )
    return known


def _tokenizer(encoder_path: str, job: TrainingJob) -> tuple[PreTrainedTokenizerBase, int, int | None]:
    """Load the tokenizer, cap the length at what the encoder has positions for, and look up the encoder's depth."""
    try:
        config = AutoConfig.from_pretrained(encoder_path)
        tokenizer = artifacts.load_tokenizer(encoder_path)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"`model` {job.model}: no encoder can be loaded from there ({first_line(error)}); give a local "
            f"model directory, a name on the hub, or {MINILM}"
        ) from error
    if not isinstance(config, SharcsConfig):
        # Refuse settings that don't fit the encoder before anything is written.
        SharcsConfig(encoder=config, widths=list(job.widths), router_layer=job.router_layer)
    embeddings = getattr(config, "vocab_size", None)
    if embeddings is not None and len(tokenizer) > embeddings:
        raise InputError(
            f"`model` {job.model}: its tokenizer has {len(tokenizer)} tokens, but it has {embeddings} embeddings; "
            "save it with its own tokenizer"
        )
    # What is routed already is refused where it is loaded.
    encoder = config.encoder if isinstance(config, SharcsConfig) else config
    max_length = min(job.max_length, most_tokens(tokenizer, encoder))
    tokenizer.model_max_length = max_length
    return tokenizer, max_length, getattr(config, "num_hidden_layers", None)


def _settings(job: TrainingJob, train: TextData, columns: Columns) -> dict[str, Any]:
    """Collect what decides the result, the training rows' fingerprint included."""
    left_out = ("output", "resume", "columns", "dialect")
    sources: dict[str, Any] = {name: getattr(job, name) for name in ("data", "validation", "unlabelled")}
    sources = {name: of.source if isinstance(of, TextData) else of for name, of in sources.items()}
    fields = {name: value for name, value in asdict(replace(job, **sources)).items() if name not in left_out}
    # What is not given is not written, as by versions that don't know it.
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
