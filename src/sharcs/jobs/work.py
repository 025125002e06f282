"""What a training reads before it begins: rows, classes, tokenizer, encoder; what is wrong with them is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import transformers

from sharcs.data.named import encoder_location
from sharcs.data.texts import PAIR_COLUMN, Columns, TextData, label_names, take_rows
from sharcs.encoders.architectures import layers_config
from sharcs.errors import InputError
from sharcs.inference.folder import CHECKPOINTS
from sharcs.inference.reading import rows_of
from sharcs.jobs.arguments import check_numbers, weights_of
from sharcs.jobs.defaults import with_defaults
from sharcs.jobs.encoder import classes_of_fine_tuned, load_model, load_processor
from sharcs.jobs.given import read_given
from sharcs.jobs.held_out import (
    check_limit,
    check_same_shape,
    check_unlabelled,
    judging_rows,
    split,
    unlabelled_rows,
)
from sharcs.jobs.remarks import names_by_row, rows_and_classes, warn_of_rows
from sharcs.jobs.reporting import reporters
from sharcs.spec import FIRST
from sharcs.training.arguments import RECIPES
from sharcs.training.processes import process_count, process_number
from sharcs_runtime.scores import REGRESSION, SINGLE_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import TrainerCallback

    from sharcs.model.base import RoutedModel

# Where sub-networks stand in front of the encoder, it is trained until held-out rows are content, and of few rows for
# so many steps at least, since eight passes over them leave much unlearned (benchmarks/few_rows.py tune).
FRONT_EPOCHS, FEWEST_STEPS = 8, 600


@dataclass(frozen=True, slots=True)
class Work:
    """What a job names, read and found right.

    Attributes:
        job: With the defaults of its recipe.
        train: The rows that are trained on.
        validation: Those that are held out, or None.
        names: The classes.
        weights: What they weigh.
        told: Callbacks that report elsewhere.
        processor: The encoder's tokenizer or image processor.
        rows: ``train``, as the encoder reads them.
        more: Texts without labels, as the encoder reads them, or None.
        judging: The held-out rows that choose, as the encoder reads them, or None.
        encoder_path: Where the encoder is.
        model: With the read-out that was asked for, or the first token's.
    """

    job: Any
    train: TextData
    validation: TextData | None
    names: list[str]
    weights: str | list[float] | None
    told: list[TrainerCallback]
    processor: Any
    rows: Any
    more: Any
    judging: Any
    encoder_path: str
    model: RoutedModel

    @property
    def columns(self) -> Columns:
        """The columns' names, as the model is used later."""
        given: Columns = self.job.columns
        return replace(given, text_pair=given.text_pair or (PAIR_COLUMN if self.train.pairs else None))

    def load(self, readout: str, **parts: Any) -> RoutedModel:
        """Load the encoder with a read-out, and with other sub-networks than the job's if they are given."""
        return _load(replace(self.job, readout=readout, **parts), self.encoder_path, self.names, self.train)

    def with_front(self, front: tuple[Any, ...]) -> Work:
        """Put other sub-networks in front, by their descriptions."""
        readout = self.job.readout or FIRST
        return replace(self, job=replace(self.job, front=front), model=self.load(readout, front=front))


def prepare(given: Any, say: Callable[[str], None]) -> Work:
    """Read all that a job names, and refuse what is wrong with it.

    Args:
        given: A :class:`sharcs.jobs.train.TrainingJob`.
        say: Takes a line on the rows.

    Raises:
        InputError: If anything is wrong; nothing was written.
    """
    job = with_defaults(given, REGRESSION if given.regression else SINGLE_LABEL)
    check_numbers(job)
    told = reporters(job.report_to, job.output, job.output / CHECKPOINTS)
    if job.batch_size % process_count():
        raise InputError(f"`batch_size` {job.batch_size}: has to be a multiple of the {process_count()} processes")
    asked = REGRESSION if job.regression else None
    read = partial(read_given, columns=job.columns, dialect=job.dialect, images=job.images)
    train = read(job.data, problem_type=asked, max_samples=job.max_train_samples, seed=job.seed)
    kind = train.problem_type
    job = with_defaults(given, kind)
    names = [job.columns.labels[0]] if job.regression else label_names(train)
    check_unlabelled(job.unlabelled, job.front, job.images)
    validation, held_out = (
        read(source, problem_type=kind) if source else None for source in (job.validation, job.eval_data)
    )
    if validation is not None:
        _check_held_out(validation, train, names)
    elif job.front or job.limit or job.patience:
        train, validation = split(train, job.seed)
    if job.epochs is None:
        job = replace(job, epochs=usual_epochs(len(train), job.batch_size))
    check_limit(job.limit, validation, len(job.front) + len(job.widths), kind)
    encoder_path = encoder_location(job.model)
    if job.epochs == 0:
        names = classes_of_fine_tuned(encoder_path, names, job, kind, train.source)
    label2id = {name: index for index, name in enumerate(names)}
    weights = weights_of(job.class_weights, names, kind)
    processor, encoder_config = load_processor(encoder_path, job)
    if job.router_layer is None:
        depth = layers_config(encoder_config).num_hidden_layers
        job = replace(job, router_layer=RECIPES[job.recipe].router_layer(depth))
    if held_out is not None:
        _check_held_out(held_out, train, names)
        rows_of(take_rows(held_out, [0]), processor, encoder_config)
    rows = rows_of(train, processor, encoder_config, label2id)
    more = unlabelled_rows(job.unlabelled, job.columns, job.dialect, train, processor, encoder_config)
    judging = None if validation is None else judging_rows(validation, processor, encoder_config, label2id, job.seed)
    if job.patience and judging is None:
        raise InputError(
            f"`patience` {job.patience}: needs more held-out rows to judge by; give them as `validation`"
        )
    say(rows_and_classes(train))
    if process_number() == 0:
        warn_of_rows(train, (validation, held_out))
    model = _load(replace(job, readout=job.readout or FIRST), encoder_path, names, train)
    return Work(job, train, validation, names, weights, told, processor, rows, more, judging, encoder_path, model)


def usual_epochs(rows: int, batch_size: int) -> int:
    """Say how often so many rows are passed over where sub-networks stand in front, if the user doesn't."""
    return max(FRONT_EPOCHS, math.ceil(FEWEST_STEPS / math.ceil(rows / batch_size)))


def _load(job: Any, encoder_path: str, names: list[str], train: TextData) -> RoutedModel:
    transformers.set_seed(job.seed)
    model = load_model(job, encoder_path, names, train)
    model.config.label_type = train.label_type
    return model


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
