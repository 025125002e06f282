"""Settings of a training: two recipes, each with its defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from transformers import TrainingArguments

from sharcs.errors import InputError
from sharcs.tasks.labels import BALANCED

__all__ = ["DEFAULT_WINDOW", "PAPER", "PLUS", "RECIPES", "SharcsTrainingArguments", "recipe_of"]

PLUS = "sharcs+"
PAPER = "paper"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a recipe sets where the user doesn't."""

    epochs: float
    learning_rate: float
    router_at: float  # k over L
    subnetwork_epochs: int | None = None

    def router_layer(self, num_layers: int) -> int:
        """Scale the router's position to an encoder's depth, at least 1."""
        return max(1, round(self.router_at * num_layers))


# The paper's are those of its reference example (section 4). benchmarks/quality_tuning.py tries other k and widths. A
# quarter of the width takes a quarter of the time, so that its epochs take no longer than the full network's.
RECIPES = {
    PAPER: Recipe(epochs=10, learning_rate=2e-5, router_at=1 / 4),
    PLUS: Recipe(epochs=5, learning_rate=5e-5, router_at=1 / 6, subnetwork_epochs=8),
}
DEFAULT_WINDOW = 3


def recipe_of(name: str | None, window: int | None, bands: object | None) -> str:
    """Resolve the recipe: the named one, else the paper's if a setting is given that only it has, else ours.

    Raises:
        InputError: If there is no such recipe, or it has no window or bands.
    """
    if name is None:
        return PLUS if window is None and bands is None else PAPER
    if name not in RECIPES:
        raise InputError(f"recipe {name!r}: there is none; choose {PLUS} or {PAPER}")
    if name != PAPER and (window is not None or bands is not None):
        raise InputError(f"window, band: recipe {name} has none; leave them out, or choose recipe {PAPER}")
    return name


def _class_weights(given: object) -> list[float] | str | None:
    if given is None or (isinstance(given, str) and given == BALANCED):
        return given
    if not isinstance(given, list | tuple):
        raise InputError(f"class_weights {given!r}: have to be {BALANCED!r} or a list of one number a class")
    for value in given:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise InputError(f"class_weights {given!r}: {value!r} is no finite number above 0; correct it")
    return [float(value) for value in given]


@dataclass
class SharcsTrainingArguments(TrainingArguments):
    """Training settings: those of ``transformers.TrainingArguments``, with the recipe's defaults, and these.

    Attributes:
        recipe: ``sharcs+`` fine-tunes the full network, as it would be without us, and then trains narrow networks
            with weights of their own that learn from it, and lets unsure answers escalate; ``paper`` trains each
            sample at the width that its hardness label names (section 3.3). By default ``sharcs+``, and ``paper`` if
            a window or bands are given.
        num_train_epochs: Passes over the training data; by default 5, and the paper's 10. By ``sharcs+`` those of
            the full network: 0 if the encoder is fine-tuned already, which is then left as it is, bit for bit.
        subnetwork_epochs: Passes in which the narrow networks learn; 8 by default.
        learning_rate: Peak learning rate; by default 5e-5, and the paper's 2e-5.
        window: W. Epochs whose confidences decide a hardness label; the first W epochs run at full width.
        bands: Confidence bands by width, ``{0.25: (0.8, 1.0)}``; the rest as in
            :func:`sharcs.training.hardness.confidence_bands`. Both belong to the recipe ``paper``; W is 3 there by
            default.
        task_loss_weight: λ_task.
        router_loss_weight: λ_router.
        class_weights: What a class weighs in the task loss, at every width: ``"balanced"``, or one positive number a
            class. Single-label: weights of the cross-entropy, whose mean over a batch is by weight, as torch's;
            balanced are samples / (classes · samples of the class). Multi-label: what the positives of a label
            weigh in the binary cross-entropy; balanced are negatives / positives. Hardness labels, importance, the
            narrow networks' divergence from the full one and evaluation stay unweighted. Token classification: as
            single-label, over the labelled tokens. Regressions and question answering have none.
        importance_samples: Training rows on which it is ranked what the narrow networks keep; 0 keeps what comes
            first.
    """

    recipe: str | None = field(default=None, metadata={"help": f"{PLUS} or {PAPER}."})
    num_train_epochs: float | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Passes over the training data."}
    )
    learning_rate: float | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "The initial learning rate for AdamW."}
    )
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Batch size per device in training."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Batch size per device elsewhere."})
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={"help": "Samples of like length share a batch, which saves padding."},
    )
    subnetwork_epochs: int | None = field(
        default=None, metadata={"help": "Passes in which the sub-networks of sharcs+ learn."}
    )
    window: int | None = field(default=None, metadata={"help": "Epochs of confidence that decide a hardness label."})
    bands: dict[float, tuple[float, float]] | None = field(
        default=None, metadata={"help": "Confidence bands by width."}
    )
    task_loss_weight: float = field(default=1.0, metadata={"help": "Weight of the task loss."})
    router_loss_weight: float = field(default=1.0, metadata={"help": "Weight of the router's loss."})
    class_weights: list[float] | str | None = field(
        default=None, metadata={"help": f"What classes weigh in the task loss: {BALANCED}, or a number a class."}
    )
    importance_samples: int = field(
        default=1024, metadata={"help": "Training rows on which importance is measured; 0 for no reordering."}
    )

    def __post_init__(self) -> None:
        """Validate what concerns SHARCS.

        Raises:
            InputError: If a setting is out of range.
        """
        self.recipe = recipe_of(self.recipe, self.window, self.bands)
        defaults = RECIPES[self.recipe]
        if self.num_train_epochs is None:
            self.num_train_epochs = defaults.epochs
        if self.learning_rate is None:
            self.learning_rate = defaults.learning_rate
        if self.window is None and self.recipe == PAPER:
            self.window = DEFAULT_WINDOW
        super().__post_init__()  # type: ignore[no-untyped-call]
        if self.window is not None and self.window < 1:
            raise InputError(f"window {self.window}: has to be at least 1 epoch")
        if self.recipe == PAPER:
            if self.subnetwork_epochs is not None:
                raise InputError(f"subnetwork_epochs: recipe {PAPER} has none; leave it out")
        elif self.max_steps > 0 or not float(self.num_train_epochs).is_integer() or self.num_train_epochs < 0:
            raise InputError(f"max_steps, num_train_epochs: recipe {self.recipe} trains whole epochs, from 0 on")
        elif self.subnetwork_epochs is None:
            self.subnetwork_epochs = defaults.subnetwork_epochs
        elif self.subnetwork_epochs < 1:
            raise InputError(f"subnetwork_epochs {self.subnetwork_epochs}: has to be at least 1")
        if self.importance_samples < 0:
            raise InputError(f"importance_samples {self.importance_samples}: has to be 0 or more")
        for name in ("task_loss_weight", "router_loss_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} {getattr(self, name)}: has to be a finite number from 0")
        self.class_weights = _class_weights(self.class_weights)
