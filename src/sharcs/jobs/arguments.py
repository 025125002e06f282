"""The settings of the trainers that the command uses: sensible ones, checkpoints often enough, nothing shown."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from sharcs.errors import InputError
from sharcs.tasks.base import BALANCED
from sharcs.training.arguments import (
    PAPER,
    PLUS,
    RECIPES,
    PaperTrainingArguments,
    RoutedTrainingArguments,
    SharcsTrainingArguments,
)
from sharcs.training.hardness import confidence_bands
from sharcs.training.paper import PaperTrainer
from sharcs.training.processes import on_cpus, process_count
from sharcs.training.trainer import SharcsTrainer
from sharcs_runtime.scores import REGRESSION

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState

TRAINERS = {PLUS: SharcsTrainer, PAPER: PaperTrainer}
# Checkpoints over a training, of which two are kept, since the newest may be half-written when it is killed.
SAVES = 20
STEPS_BETWEEN_SAVES = 25  # at least, so that a short run doesn't spend its time on writing


def training_arguments(
    recipe: str,
    rows: int,
    *,
    window: int | None,
    bands: dict[float, tuple[float, float]] | None,
    judged: str | None = None,
    sub_network_epochs: int | None = None,
    **given: Any,
) -> RoutedTrainingArguments:
    """Complete the settings of a training.

    Args:
        recipe: The recipe's name.
        rows: How many training rows there are.
        window: W, of the paper's recipe; None for its default.
        bands: Confidence bands by width, of the paper's recipe.
        judged: Measure by which held-out rows say which of the full network's checkpoints is its best: ``accuracy``,
            or ``error``; None without such rows.
        sub_network_epochs: Passes in which the sub-networks learn; None for the recipe's.
        **given: What the user decides, by the names of ``transformers.TrainingArguments``.
    """
    given |= {
        "save_strategy": "steps",
        "save_total_limit": 2,
        "logging_strategy": "epoch",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": on_cpus(),
        "log_level_replica": "error",
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    settings: RoutedTrainingArguments
    if recipe == PAPER:
        window = RECIPES[PAPER].window if window is None else window
        settings = PaperTrainingArguments(**given, window=window, bands=bands)
    else:
        if sub_network_epochs is not None:
            given |= {"subnetwork_epochs": sub_network_epochs, "front_epochs": sub_network_epochs}
        settings = SharcsTrainingArguments(**given)
    epochs = settings.num_train_epochs + (sub_network_epochs or RECIPES[recipe].subnetwork_epochs)
    updates = epochs * math.ceil(rows / (settings.per_device_train_batch_size * process_count()))
    settings.save_steps = max(STEPS_BETWEEN_SAVES, int(updates) // SAVES)
    if judged and settings.num_train_epochs > 0 and isinstance(settings, SharcsTrainingArguments):
        settings.evaluates_later_runs = False
        settings.eval_strategy, settings.eval_steps = IntervalStrategy.STEPS, settings.save_steps
        settings.load_best_model_at_end, settings.metric_for_best_model = True, f"eval_{judged}"
        settings.greater_is_better = judged == "accuracy"
    return settings


def weights_of(
    class_weights: str | dict[str, float] | None, names: list[str], problem_type: str
) -> str | list[float] | None:
    """Write what classes weigh as trainers take it; those that are not named weigh 1.

    Args:
        class_weights: ``balanced``, or weights by class.
        names: The classes.
        problem_type: What the labels are.

    Raises:
        InputError: If a class is unknown, a weight is no number above 0, or there are no classes.
    """
    if class_weights is None:
        return None
    if problem_type == REGRESSION:
        raise InputError("`class_weights`: numbers have no classes; leave it out")
    if isinstance(class_weights, str):
        if class_weights != BALANCED:
            raise InputError(f"`class_weights` {class_weights}: has to be {BALANCED}, or a weight by class")
        return class_weights
    for name, weight in class_weights.items():
        if name not in names:
            shown = ", ".join(map(repr, names[:5]))
            raise InputError(f"`class_weights`: {name!r} is no class of the data, which has {shown}; correct it")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise InputError(f"`class_weights`: {name!r} weighs {weight!r}; give a finite number above 0")
    return [float(class_weights.get(name, 1.0)) for name in names]


class Patience(TrainerCallback):
    """Stops the full network's training after so many epochs that bring the judging rows nothing better.

    Args:
        epochs: How many.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Compare the step of the best checkpoint with the last; later runs have no best one."""
        waited = state.global_step - (state.best_global_step or state.global_step)
        if waited * state.num_train_epochs >= self.epochs * state.max_steps:
            control.should_training_stop = True


def check_numbers(job: Any) -> None:
    """Refuse settings of a job that no training can have.

    Args:
        job: A :class:`sharcs.jobs.train.TrainingJob`, with the defaults of its recipe.

    Raises:
        InputError: If there is one.
    """
    if not 0 < (job.learning_rate or 0) < math.inf:
        raise InputError(f"`learning_rate` {job.learning_rate}: has to be a finite number above 0")
    if not 0 <= job.seed < 2**32:
        raise InputError(f"`seed` {job.seed}: has to be from 0 to {2**32 - 1}")
    if job.epochs is not None and job.epochs < (job.recipe == PAPER):
        raise InputError(f"`epochs` {job.epochs}: has to be at least 1, or 0 for a model that is fine-tuned already")
    for option in ("sub_network_epochs", "patience"):
        if getattr(job, option) is not None and job.recipe == PAPER:
            raise InputError(f"`{option}` {getattr(job, option)}: recipe {PAPER} has none; leave it out")
    for option in ("batch_size", "window", "max_length", "max_train_samples", "sub_network_epochs", "patience"):
        if getattr(job, option) is not None and getattr(job, option) < 1:
            raise InputError(f"`{option}` {getattr(job, option)}: has to be at least 1")
    confidence_bands(job.widths, job.bands)
    window = RECIPES[PAPER].window if job.window is None else job.window
    if job.recipe == PAPER and window >= (job.epochs or 0):
        raise InputError(
            f"`window` {window}: has to be below `epochs` {job.epochs:g}: the router learns in the epochs after it"
        )
