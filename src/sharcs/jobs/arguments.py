"""The settings of the trainers that the command uses: checkpoints often enough, and nothing shown."""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers.trainer_utils import IntervalStrategy

from sharcs.training.arguments import (
    PAPER,
    PLUS,
    RECIPES,
    PaperTrainingArguments,
    RoutedTrainingArguments,
    SharcsTrainingArguments,
)
from sharcs.training.paper import PaperTrainer
from sharcs.training.trainer import SharcsTrainer

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
    judged: bool = False,
    **given: Any,
) -> RoutedTrainingArguments:
    """Complete the settings of a training.

    Args:
        recipe: The recipe's name.
        rows: How many training rows there are.
        window: W, of the paper's recipe; None for its default.
        bands: Confidence bands by width, of the paper's recipe.
        judged: Whether there are rows that say which of the full network's checkpoints is its best.
        **given: What the user decides, by the names of ``transformers.TrainingArguments``.
    """
    given |= {
        "save_strategy": "steps",
        "save_total_limit": 2,
        "logging_strategy": "epoch",
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    settings: RoutedTrainingArguments
    if recipe == PAPER:
        window = RECIPES[PAPER].window if window is None else window
        settings = PaperTrainingArguments(**given, window=window, bands=bands)
    else:
        settings = SharcsTrainingArguments(**given)
    epochs = settings.num_train_epochs + RECIPES[recipe].subnetwork_epochs
    updates = epochs * math.ceil(rows / settings.per_device_train_batch_size)
    settings.save_steps = max(STEPS_BETWEEN_SAVES, int(updates) // SAVES)
    if judged and settings.num_train_epochs > 0 and isinstance(settings, SharcsTrainingArguments):
        settings.evaluates_later_runs = False
        settings.eval_strategy, settings.eval_steps = IntervalStrategy.STEPS, settings.save_steps
        settings.load_best_model_at_end, settings.metric_for_best_model = True, "eval_accuracy"
        settings.greater_is_better = True
    return settings
