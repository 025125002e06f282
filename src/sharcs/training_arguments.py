"""Settings of a training; the paper's are the defaults (section 4 and the reference example)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from transformers import TrainingArguments

from sharcs.errors import InputError

__all__ = ["SharcsTrainingArguments"]


@dataclass
class SharcsTrainingArguments(TrainingArguments):
    """Training settings: those of ``transformers.TrainingArguments``, with the paper's defaults, and these.

    Attributes:
        window: W. Epochs whose confidences decide a hardness label; the first W epochs run at full width.
        bands: Confidence bands by width, ``{0.25: (0.8, 1.0)}``; the rest as in
            :func:`sharcs.hardness.confidence_bands`.
        task_loss_weight: λ_task.
        router_loss_weight: λ_router.
        importance_samples: Training rows on which heads and neurons are ranked before training; 0 leaves them in
            their order.
    """

    num_train_epochs: float = field(default=10, metadata={"help": "Passes over the training data."})
    learning_rate: float = field(default=2e-5, metadata={"help": "The initial learning rate for AdamW."})
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Batch size per device in training."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Batch size per device elsewhere."})
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={"help": "Samples of like length share a batch, which saves padding."},
    )
    window: int = field(default=3, metadata={"help": "Epochs of confidence that decide a hardness label."})
    bands: dict[float, tuple[float, float]] | None = field(
        default=None, metadata={"help": "Confidence bands by width."}
    )
    task_loss_weight: float = field(default=1.0, metadata={"help": "Weight of the task loss."})
    router_loss_weight: float = field(default=1.0, metadata={"help": "Weight of the router's loss."})
    importance_samples: int = field(
        default=1024, metadata={"help": "Training rows on which importance is measured; 0 for no reordering."}
    )

    def __post_init__(self) -> None:
        """Validate what concerns SHARCS.

        Raises:
            InputError: If a setting is out of range.
        """
        super().__post_init__()  # type: ignore[no-untyped-call]
        if self.window < 1:
            raise InputError(f"window {self.window}: has to be at least 1 epoch")
        if self.importance_samples < 0:
            raise InputError(f"importance_samples {self.importance_samples}: has to be 0 or more")
        for name in ("task_loss_weight", "router_loss_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} {getattr(self, name)}: has to be a finite number from 0")
