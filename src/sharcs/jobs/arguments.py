"""The settings of the trainers that the command uses: checkpoints often enough, and nothing shown."""

from __future__ import annotations

import math
from typing import Any

import torch

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
    recipe: str, rows: int, *, window: int | None, bands: dict[float, tuple[float, float]] | None, **given: Any
) -> RoutedTrainingArguments:
    """Complete the settings of a training.

    Args:
        recipe: The recipe's name.
        rows: How many training rows there are.
        window: W, of the paper's recipe; None for its default.
        bands: Confidence bands by width, of the paper's recipe.
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
    return settings
