"""Settings of a training: two recipes, each with its defaults."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, field, fields
from typing import ClassVar, Self

from transformers import TrainingArguments

from sharcs.errors import InputError
from sharcs.tasks.base import BALANCED

PLUS = "sharcs+"
PAPER = "paper"


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a recipe sets where the user doesn't.

    Attributes:
        weights: Which weights the narrow networks have that it trains, as the configuration names them.
        epochs: Passes over the training data.
        learning_rate: Peak learning rate.
        router_at: k over L.
        subnetwork_epochs: Passes in which narrow networks with weights of their own learn.
        front_epochs: Passes in which those learn that answer before the encoder runs.
        window: W, in epochs.
    """

    weights: str
    epochs: float
    learning_rate: float
    router_at: float
    subnetwork_epochs: int = 0
    front_epochs: int = 0
    window: int = 0

    def router_layer(self, num_layers: int) -> int:
        """Scale the router's position to an encoder's depth, at least 1."""
        return max(1, round(self.router_at * num_layers))


# The paper's are those of its reference example (section 4). benchmarks/quality_tuning.py tries other k and widths. A
# quarter of the width takes a quarter of the time, so that its epochs take no longer than the full network's.
RECIPES = {
    PAPER: Recipe("shared", epochs=10, learning_rate=2e-5, router_at=1 / 4, window=3),
    PLUS: Recipe("own", epochs=5, learning_rate=5e-5, router_at=1 / 6, subnetwork_epochs=8, front_epochs=4),
}


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


@dataclass
class RoutedTrainingArguments(TrainingArguments):
    """What both recipes can be told besides ``transformers.TrainingArguments``.

    Attributes:
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

    recipe: ClassVar[str]

    per_device_train_batch_size: int = field(default=32, metadata={"help": "Batch size per device in training."})
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Batch size per device elsewhere."})
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={"help": "Samples of like length share a batch, which saves padding."},
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
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.check()

    @classmethod
    def of(cls, settings: TrainingArguments | None) -> Self:
        """Take settings of any kind: ours as they are, plain ones with the recipe's defaults for the rest.

        Raises:
            InputError: If they belong to the other recipe.
        """
        if settings is None:
            return cls(output_dir="tmp_trainer")
        if isinstance(settings, cls):
            return settings
        if isinstance(settings, RoutedTrainingArguments):
            raise InputError(
                f"args: {type(settings).__name__} are those of recipe {settings.recipe}; give {cls.__name__}"
            )
        taken = cls.__new__(cls)
        for own in fields(cls):
            if own.name not in vars(settings):
                default = own.default_factory() if own.default_factory is not MISSING else own.default
                setattr(taken, own.name, default)
        vars(taken).update(vars(settings))
        taken.check()
        return taken

    def check(self) -> None:
        """Check what concerns SHARCS.

        Raises:
            InputError: If a setting is out of range.
        """
        if self.importance_samples < 0:
            raise InputError(f"importance_samples {self.importance_samples}: has to be 0 or more")
        for name in ("task_loss_weight", "router_loss_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} {getattr(self, name)}: has to be a finite number from 0")
        self.class_weights = _class_weights(self.class_weights)


@dataclass
class SharcsTrainingArguments(RoutedTrainingArguments):
    """Settings of the recipe ``sharcs+``: those of ``transformers.TrainingArguments``, and these.

    Attributes:
        num_train_epochs: Passes over the training data in which the full network learns, 5 by default: 0 if it is
            fine-tuned already, and is left as it is, bit for bit.
        subnetwork_epochs: Passes in which the narrow networks and the router learn; 8 by default.
        front_epochs: Passes in which what stands in front of the encoder learns, over training rows and others; 4 by
            default.
        evaluates_later_runs: Whether the runs after the full network's are evaluated, and keep their best, too.
        made_texts: How many texts are made from the training rows for it, where there are no unlabelled ones; by
            default 8 times as many, 60,000 at most.
        learning_rate: Peak learning rate; by default 5e-5. The narrow networks learn at twice, the router at ten
            times as much, and what stands in front of the encoder at rates of its own.
        task_loss_weight: λ_task, of the narrow networks.
        router_loss_weight: λ_router.
        class_weights: See :class:`RoutedTrainingArguments`.
        importance_samples: See :class:`RoutedTrainingArguments`.
    """

    recipe: ClassVar[str] = PLUS

    num_train_epochs: float = field(
        default=RECIPES[PLUS].epochs, metadata={"help": "Passes of the full network over the training data."}
    )
    learning_rate: float = field(
        default=RECIPES[PLUS].learning_rate, metadata={"help": "The initial learning rate for AdamW."}
    )
    subnetwork_epochs: int = field(
        default=RECIPES[PLUS].subnetwork_epochs, metadata={"help": "Passes in which the sub-networks learn."}
    )
    front_epochs: int = field(
        default=RECIPES[PLUS].front_epochs, metadata={"help": "Passes in which what stands in front learns."}
    )
    evaluates_later_runs: bool = field(default=True, metadata={"help": "Whether runs after the first are evaluated."})
    made_texts: int | None = field(default=None, metadata={"help": "How many texts are made from train; 0 for none."})

    def check(self) -> None:
        """Check what concerns SHARCS.

        Raises:
            InputError: If a setting is out of range.
        """
        super().check()
        if self.max_steps > 0 or not float(self.num_train_epochs).is_integer() or self.num_train_epochs < 0:
            raise InputError(f"max_steps, num_train_epochs: recipe {self.recipe} trains whole epochs, from 0 on")
        for name in ("subnetwork_epochs", "front_epochs"):
            if getattr(self, name) < 1 or not float(getattr(self, name)).is_integer():
                raise InputError(f"{name} {getattr(self, name)}: has to be a whole number, at least 1")
        if self.made_texts is not None and self.made_texts < 0:
            raise InputError(f"made_texts {self.made_texts}: has to be 0 or more")


@dataclass
class PaperTrainingArguments(RoutedTrainingArguments):
    """Settings of the recipe ``paper`` (section 3.3): those of ``transformers.TrainingArguments``, and these.

    Attributes:
        num_train_epochs: Passes over the training data, 10 by default.
        learning_rate: Peak learning rate; by default 2e-5.
        window: W. Epochs whose confidences decide a hardness label; the first W epochs run at full width. 3 by
            default.
        bands: Confidence bands by width, ``{0.25: (0.8, 1.0)}``; the rest as in
            :func:`sharcs.training.hardness.confidence_bands`.
        task_loss_weight: λ_task.
        router_loss_weight: λ_router.
        class_weights: See :class:`RoutedTrainingArguments`.
        importance_samples: See :class:`RoutedTrainingArguments`.
    """

    recipe: ClassVar[str] = PAPER

    num_train_epochs: float = field(
        default=RECIPES[PAPER].epochs, metadata={"help": "Passes over the training data."}
    )
    learning_rate: float = field(
        default=RECIPES[PAPER].learning_rate, metadata={"help": "The initial learning rate for AdamW."}
    )
    window: int = field(
        default=RECIPES[PAPER].window, metadata={"help": "Epochs of confidence that decide a hardness label."}
    )
    bands: dict[float, tuple[float, float]] | None = field(
        default=None, metadata={"help": "Confidence bands by width."}
    )

    def check(self) -> None:
        """Check what concerns SHARCS.

        Raises:
            InputError: If a setting is out of range.
        """
        super().check()
        if self.window < 1:
            raise InputError(f"window {self.window}: has to be at least 1 epoch")


def _class_weights(given: object) -> list[float] | str | None:
    if given is None or (isinstance(given, str) and given == BALANCED):
        return given
    if not isinstance(given, list | tuple):
        raise InputError(f"class_weights {given!r}: have to be {BALANCED!r} or a list of one number a class")
    for value in given:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise InputError(f"class_weights {given!r}: {value!r} is no finite number above 0; correct it")
    return [float(value) for value in given]
