"""The runs of the recipe ``sharcs+`` after the full network's: which there are, what each trains on, and how long."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import IntervalStrategy

from sharcs.data.images.pixels import ImageRows
from sharcs.data.made import TextMaker
from sharcs.tasks.base import UNLABELLED
from sharcs.training.checkpoints import FRONT, SUBNETWORKS
from sharcs.training.front import FrontTrainer
from sharcs.training.subnetworks import SubnetworkTrainer

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import TrainerCallback

    from sharcs.model.base import RoutedModel
    from sharcs.training.arguments import SharcsTrainingArguments
    from sharcs.training.base import RoutedTrainer
    from sharcs.training.later import LaterTrainer

FOLDERS: dict[type[LaterTrainer], str] = {FrontTrainer: FRONT, SubnetworkTrainer: SUBNETWORKS}
# Of texts that are made where there are no unlabelled ones: how many times the training rows, and how many at most.
MADE_TIMES, MOST_MADE = 8, 60_000
FRONT_BATCH = 2  # times the encoder's: they are small


def later_runs(model: RoutedModel) -> list[type[LaterTrainer]]:
    """List the runs that a model needs after the full network's."""
    needed = {FrontTrainer: model.tail.front, SubnetworkTrainer: model.tail.narrow}
    return [kind for kind, networks in needed.items() if networks]


def make_later(
    kind: type[LaterTrainer],
    owner: RoutedTrainer,
    folder: Path,
    callbacks: list[TrainerCallback],
    *,
    settings: SharcsTrainingArguments,
    optimizer: Any,
) -> LaterTrainer:
    """Make the trainer of a later run, with the settings of the first one's.

    Args:
        kind: Of the run.
        owner: The trainer of the whole.
        folder: For its checkpoints.
        callbacks: That it tells.
        settings: Of the run before, with the size of its batches.
        optimizer: That the user brought along, or None.
    """
    settings = copy.copy(settings)
    epochs = settings.front_epochs if kind is FrontTrainer else settings.subnetwork_epochs
    settings.output_dir, settings.num_train_epochs = str(folder), epochs
    if not settings.evaluates_later_runs:
        settings.eval_strategy, settings.load_best_model_at_end = IntervalStrategy.NO, False
    rows = owner.train_dataset
    if kind is FrontTrainer:
        settings.per_device_train_batch_size *= FRONT_BATCH
        rows = front_rows(owner, settings)
    trainer = kind(
        model=owner.accelerator.unwrap_model(owner.model, keep_fp32_wrapper=False),
        args=settings,
        data_collator=owner.data_collator,
        train_dataset=rows,
        eval_dataset=owner.eval_dataset,
        processing_class=owner.processing_class,
        compute_loss_func=owner.compute_loss_func,
        compute_metrics=owner.compute_metrics,
        optimizers=(optimizer, None),
        optimizer_cls_and_kwargs=owner.optimizer_cls_and_kwargs,
        preprocess_logits_for_metrics=owner.preprocess_logits_for_metrics,
    )
    trainer.task, trainer.facts_of_all = owner.task, owner.facts()
    for callback in list(trainer.callback_handler.callbacks):
        trainer.remove_callback(callback)
    for callback in callbacks:
        trainer.add_callback(callback)
    return trainer


def front_rows(owner: RoutedTrainer, settings: SharcsTrainingArguments) -> list[dict[str, Any]] | ImageRows:
    """Collect what the sub-networks in front learn from: training rows, and unlabelled or else made ones."""
    known = ("input_ids", "attention_mask", "token_type_ids", "pixel_values", "input_values", "labels")
    if isinstance(owner.train_dataset, ImageRows):
        return owner.train_dataset
    rows = [{name: row[name] for name in known if name in row} for row in owner.train_dataset]
    if (more := owner.unlabelled_dataset) is not None:
        return rows + [{**{n: row[n] for n in known[:-1] if n in row}, "labels": UNLABELLED} for row in more]
    count = settings.made_texts
    if count is None:
        count = min(MOST_MADE, MADE_TIMES * len(rows))
    tokenizer: Any = owner.processing_class
    if count == 0 or not hasattr(tokenizer, "all_special_ids") or "input_ids" not in rows[0]:
        return rows
    made = TextMaker(rows, tokenizer).rows_made(count, settings.seed)
    return rows + [{**row, "labels": UNLABELLED} for row in made]
