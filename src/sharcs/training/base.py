"""What the trainers of both recipes share: settings, model and rows are checked, and checkpoints can be resumed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from sharcs.errors import InputError
from sharcs.model.base import RoutedModel
from sharcs.model.outputs import RoutingKwargs
from sharcs.tasks.base import BaseTask
from sharcs.tasks.classification import Task
from sharcs.training.arguments import RECIPES, RoutedTrainingArguments
from sharcs.training.batches import fingerprint
from sharcs.training.checkpoints import check_complete, check_same, furthest_checkpoint, save_state
from sharcs.training.numbered import NumberedTrainer
from sharcs.training.processes import from_first, gathered, share_weights
from sharcs.training.settings import check_settings
from sharcs_runtime.policy import label_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn
    from torch.utils.data import DataLoader
    from transformers import TrainingArguments
    from transformers.trainer_utils import EvalLoopOutput

# What a pass can be told about its widths.
ROUTING = RoutingKwargs.__annotations__.keys() - {"return_dict"}
TRAINERS: dict[str | None, str] = {"own": "SharcsTrainer", "shared": "PaperTrainer"}


@contextlib.contextmanager
def at_width(model: nn.Module, width: float | str) -> Iterator[None]:
    """Let a model's passes that name no width run at this one, whoever calls it."""

    def name_width(_module: nn.Module, inputs: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return inputs, named if ROUTING & named.keys() else {**named, "width": width}

    handle = model.register_forward_pre_hook(name_width, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _in_order(settings: TrainingArguments) -> Iterator[None]:
    """Keep the rows' order: with length grouping, transformers returns predictions in another one."""
    strategy = settings.train_sampling_strategy
    settings.train_sampling_strategy = "sequential"
    try:
        yield
    finally:
        settings.train_sampling_strategy = strategy


class RoutedTrainer(NumberedTrainer):
    """A ``transformers.Trainer`` of a routed network; :class:`SharcsTrainer` and :class:`PaperTrainer` are for use.

    Args:
        model: A routed network.
        args: Settings; plain ``TrainingArguments`` get the recipe's defaults for the rest.
        train_dataset: A map-style data set of tokenised rows with ``labels``: class indices, or floats for
            multi-label classification and regression; of token classification a class index a token, or −100 where
            none counts, which the collator pads (``transformers.DataCollatorForTokenClassification``); of question
            answering ``start_positions`` and ``end_positions`` instead, the numbers of the answer's first and last
            token.
        model_init: Builds a routed network, in place of ``model``.
        unlabelled_dataset: Tokenised texts like those to come, without labels: what stands in front of the encoder
            learns the full network's answers to them. By default texts are made from the training rows.

    All other arguments are those of ``transformers.Trainer``.

    Raises:
        InputError: If the model is not routed or has the other recipe's weights, the labels or class weights don't
            fit the problem type, there are no training rows, or a setting is asked for that the recipe can't follow
            (:mod:`sharcs.training.settings`).
    """

    arguments: ClassVar[type[RoutedTrainingArguments]]  # whose settings it takes
    task: BaseTask | None = None

    def __init__(
        self,
        model: Any = None,
        args: TrainingArguments | None = None,
        data_collator: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., Any] | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Callable[..., Any] | None = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[Any, dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
        unlabelled_dataset: Any = None,
    ) -> None:
        self.unlabelled_dataset = unlabelled_dataset
        settings = self.arguments.of(args)
        given = {"train_dataset": train_dataset, "compute_loss_func": compute_loss_func}
        check_settings(settings.recipe, settings, given)
        if settings.world_size > 1:
            settings.average_tokens_across_devices = False  # each process counts whole batches
        self._checked = settings
        if model is not None:
            self._check_model(model)
        super().__init__(
            model=model,
            args=settings,
            data_collator=data_collator,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            model_init=model_init,
            compute_loss_func=compute_loss_func,
            compute_metrics=compute_metrics,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            preprocess_logits_for_metrics=preprocess_logits_for_metrics,
        )
        self._fingerprint: str | None = None
        if train_dataset is not None:
            self.task = self.model.training_task(train_dataset, settings.class_weights)
            self._tell_problem_type(self.model)
        if unlabelled_dataset is not None and not self.model.tail.front:
            raise InputError("unlabelled_dataset: is for what stands in front of the encoder; leave it out")
        self.set_up(optimizers)

    def set_up(self, optimizers: tuple[Any, Any]) -> None:
        """Check and begin what a recipe has besides."""

    # The model

    @property
    def widths(self) -> list[float | str]:
        """What its sub-networks are asked for by, the cheapest first."""
        return list(self.model.config.keys)

    def _check_model(self, model: Any) -> None:
        """Refuse a model that this trainer has no recipe for."""
        if hasattr(model, "peft_config") or getattr(getattr(model, "encoder", None), "_hf_peft_config_loaded", False):
            raise InputError(
                f"model: is a {type(model).__name__} with adapters, and all its weights learn; merge the adapters of "
                "the plain encoder (merge_and_unload), save that, wrap it, and train with num_train_epochs=0"
            )
        if not isinstance(model, RoutedModel):
            raise InputError(
                f"model: is a {type(model).__name__} and not routed; wrap its encoder with from_encoder, of "
                "SharcsForSequenceClassification or one of its siblings"
            )
        weights = RECIPES[self._checked.recipe].weights
        if model.config.weights != weights:
            raise InputError(
                f"model: its narrow networks have weights={model.config.weights!r}; train it with "
                f"{TRAINERS[model.config.weights]}, or wrap its encoder with from_encoder(..., weights={weights!r})"
            )
        # Its layers can, if the encoder's can.
        model.supports_gradient_checkpointing = model.encoder.supports_gradient_checkpointing
        if self._checked.activation_checkpointing and not model.supports_gradient_checkpointing:
            raise InputError(
                f"activation_checkpointing: {type(model.encoder).__name__} does not support it; leave it out"
            )

    def _tell_problem_type(self, model: RoutedModel) -> None:
        """Let the policy know what the labels are; by itself only the encoder finds out."""
        if isinstance(self.task, Task):  # configurations have no name for the others
            for config in (model.config, model.encoder.config):
                config.problem_type = self.task.problem_type  # type: ignore[assignment]

    def call_model_init(self, trial: Any = None) -> RoutedModel:
        """Build a model, and check it like one that is handed in."""
        model: Any = super().call_model_init(trial)
        self._check_model(model)
        self._tell_problem_type(model)
        return model  # type: ignore[no-any-return]

    # Batches

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Build the loader of evaluation rows, in their order."""
        with _in_order(self.args):
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """Build the loader of rows to predict, in their order."""
        with _in_order(self.args):
            return super().get_test_dataloader(test_dataset)

    # Evaluation

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Evaluate the routed network; then each width of :meth:`evaluated_widths`, as ``eval_width_0.25_loss``."""

        def run(prefix: str) -> EvalLoopOutput:
            return super(RoutedTrainer, self).evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, prefix
            )

        output = run(metric_key_prefix)
        for width in self.evaluated_widths() if description == "Evaluation" else []:
            with at_width(self.model, width):
                of_width = run(f"{metric_key_prefix}_width_{label_of(width)}")
            metrics = {name: value for name, value in (of_width.metrics or {}).items() if not name.endswith("_time")}
            output = output._replace(metrics=(output.metrics or {}) | metrics)
        return output

    def evaluated_widths(self) -> list[float | str]:
        """List the widths that are evaluated besides the routed network."""
        return []

    # Checkpoints

    def facts(self) -> dict[str, Any]:
        """Say what a training has to have in common with its checkpoints."""
        return {
            "recipe": self.args.recipe,
            "widths": self.widths,
            "training samples": len(self.train_dataset),
            "rows": self._rows(),
            "processes": self.args.world_size,
        }

    def _rows(self) -> str:
        """Take the fingerprint of the training rows."""
        if self._fingerprint is None:
            with torch.random.fork_rng(devices=[]):  # rows may be drawn at random
                self._fingerprint = fingerprint(self.train_dataset)
        return self._fingerprint

    def begin_together(self) -> None:
        """Let several processes begin with the same rows and weights.

        Raises:
            InputError: If they have different rows.
        """
        if self.args.world_size == 1:
            return
        of_all = gathered(self._rows())

        def check() -> None:
            if len(set(of_all)) > 1:
                raise InputError("train_dataset: has other rows in another process; give all the same, in one order")

        from_first(check)
        share_weights(self.model)

    def tensors(self) -> dict[str, Tensor]:
        """Collect what a checkpoint of ours holds besides."""
        return {}

    def progress(self) -> dict[str, Any]:
        """Say where a run stands, besides what transformers knows."""
        return {}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model; into a checkpoint, our state before it: what is written last then makes it complete."""
        if _internal_call and output_dir is not None and self.args.should_save:
            save_state(Path(output_dir), self.tensors(), {**self.facts(), **self.progress()})
        super().save_model(output_dir, _internal_call)

    def checkpoint_of(self, resume_from_checkpoint: str | bool | None) -> str | None:
        """Find the checkpoint to go on from, and check that it is one of this training.

        Raises:
            InputError: If there is no training data, no complete checkpoint, or it belongs to another training.
        """
        if self.train_dataset is None:
            raise InputError("train_dataset: is missing; give the trainer training data")
        # The first process may write there as soon as it goes on.
        return from_first(lambda: self._found(resume_from_checkpoint)) if resume_from_checkpoint else None

    def _found(self, resume_from_checkpoint: str | bool) -> str:
        if resume_from_checkpoint is True:
            folder = str(self.args.output_dir)
            checkpoint = furthest_checkpoint(folder)
            if checkpoint is None:
                raise InputError(f"{folder}: has no complete checkpoint to resume from; start anew")
        else:
            checkpoint = str(resume_from_checkpoint)
        check_complete(checkpoint)
        check_same(checkpoint, self.facts())
        return checkpoint
