"""The recipe sharcs+: the full network is fine-tuned, and then narrow networks learn from it; two ordinary runs."""

from __future__ import annotations

import contextlib
import copy
import inspect
from itertools import dropwhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers import TrainerCallback, TrainerState
from transformers.trainer_utils import default_compute_objective

from sharcs.data.tokens import SAMPLE_WEIGHT
from sharcs.errors import InputError
from sharcs.training.arguments import SharcsTrainingArguments
from sharcs.training.base import RoutedTrainer, at_width
from sharcs.training.batches import fingerprint
from sharcs.training.checkpoints import LAST_FILE, EpochStart, invalidate, load_state
from sharcs.training.runs import FOLDERS, later_runs, make_later
from sharcs.training.subnetworks import SubnetworkTrainer, learning_parameters

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor
    from torch.utils.data import DataLoader
    from transformers.trainer_utils import EvalLoopOutput

    from sharcs.training.later import LaterTrainer


class SharcsTrainer(RoutedTrainer):
    """A ``transformers.Trainer`` of a routed network whose narrow networks have weights of their own.

    Its :meth:`train` is two runs. The first is ordinary fine-tuning of the full network, the same bit for bit as
    that of the plain encoder by ``transformers.Trainer``; what is evaluated meanwhile is the full network. The second
    is that of :class:`~sharcs.training.subnetworks.SubnetworkTrainer`, in the folder ``subnetworks`` of the output
    directory: the full network is fixed, and narrow networks and router learn; the routed network is evaluated, and
    each width. Each run has a schedule, a best checkpoint, and copies of the callbacks of its own: shallow ones of
    the callbacks as they were before the first run, so that counters begin anew, and lists that they fill are shared.
    The second run begins with what the first one ends with, which is its best checkpoint if that is loaded.

    A regression's answers have no confidence, so they never escalate, and its router decides alone.

    Its arguments are those of :class:`~sharcs.training.base.RoutedTrainer`.

    Attributes:
        subnetwork_trainer: The trainer of the second run, with its state and log; None before. ``state`` is the first
            run's.
    """

    args: SharcsTrainingArguments
    arguments: ClassVar[type[SharcsTrainingArguments]] = SharcsTrainingArguments
    subnetwork_trainer: SubnetworkTrainer | None = None
    front_trainer: LaterTrainer | None = None
    objective: float | None
    _first_run: bool = False
    _trial_of_search: Any = None

    def facts(self) -> dict[str, Any]:
        """Say what a training has to have in common with its checkpoints."""
        facts = super().facts()
        if self.unlabelled_dataset is not None:
            facts["unlabelled rows"] = fingerprint(self.unlabelled_dataset)
        return facts

    def set_up(self, optimizers: tuple[Any, Any]) -> None:
        """Take up an optimizer that serves both runs, and keep an eye on the random numbers.

        Raises:
            InputError: If one doesn't.
        """
        optimizer, scheduler = optimizers
        if scheduler is not None:
            raise InputError("optimizers: a scheduler serves one run, and there are two; give lr_scheduler_type")
        self._given_optimizer = optimizer
        self._given_rates = [] if optimizer is None else [group["lr"] for group in optimizer.param_groups]
        if optimizer is not None:
            held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
            later = {parameter for kind in learning_parameters(self.model).values() for parameter in kind}
            later |= {parameter for part in self.model.tail.front for parameter in part.parameters()}
            if not later <= held or (self.args.num_train_epochs and held <= later):
                raise InputError(
                    "optimizers: the optimizer has to hold the full network's parameters, and the narrow networks' "
                    "and the router's; build it with model.parameters(), or give optimizer_cls_and_kwargs"
                )
        self._epoch_start = EpochStart()
        self.add_callback(self._epoch_start)

    def _check_model(self, model: Any) -> None:
        super()._check_model(model)
        # What transformers would find out of the plain encoder: whether it divides its loss by a number of labels.
        named = inspect.signature(model.encoder.forward).parameters.values()
        takes_more = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in named)
        self._encoder_scales_loss = getattr(model.encoder, "accepts_loss_kwargs", takes_more)

    # The two runs

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Train the full network, and then the narrow ones; see ``transformers.Trainer.train``.

        Args:
            resume_from_checkpoint: A checkpoint of either run; True for the furthest complete one of the output
                directory.
            trial: Of a search for hyperparameters.
            ignore_keys_for_eval: Outputs that evaluation leaves out.

        Returns:
            What the last run returns.

        Raises:
            InputError: If there is no training data, no complete checkpoint, or it belongs to another training.
        """
        checkpoint = self.checkpoint_of(resume_from_checkpoint)
        callbacks = [copy.copy(each) for each in self.callback_handler.callbacks if each is not self._epoch_start]
        folder = Path(self._get_output_dir(trial))
        output = None
        begun = None if checkpoint is None else load_state(checkpoint)[1]["run"]
        if begun not in [kind.run for kind in FOLDERS]:
            for name in FOLDERS.values() if self.args.should_save else ():
                invalidate(folder / name)
            if self.args.num_train_epochs > 0 or self.model_init is not None or len(self.widths) == 1:
                output = self._fine_tune(checkpoint, trial, ignore_keys_for_eval)
            begun = checkpoint = None
        for kind in dropwhile(lambda kind: begun not in (None, kind.run), later_runs(self.model)):
            if checkpoint is None and self.args.should_save:
                invalidate(folder / FOLDERS[kind])
            of_run = [copy.copy(each) for each in callbacks]
            output = self._train_later(kind, folder / FOLDERS[kind], checkpoint, of_run, ignore_keys_for_eval)
            checkpoint = None
        if trial is not None:
            self.objective = None  # a search then evaluates what was trained
        return output

    def _fine_tune(self, checkpoint: str | None, trial: Any, ignore_keys: list[str] | None) -> Any:
        """Train the full network."""
        if checkpoint is not None:
            tensors, _ = load_state(checkpoint)
            epochs = TrainerState.load_from_json(str(Path(checkpoint) / LAST_FILE)).epoch or 0
            self._epoch_start.go_on(tensors["now" if float(epochs).is_integer() else "epoch_start"])
        accepted = self.model_accepts_loss_kwargs
        weighted = self.args.class_weights is not None or self._has_weights
        self.model_accepts_loss_kwargs = self._encoder_scales_loss and not weighted
        self._loss_takes_items = self.model_accepts_loss_kwargs and self._divides_by_items()
        self._first_run, self._trial_of_search = True, trial
        try:
            return super().train(checkpoint, self._without_reports(trial), ignore_keys)
        finally:
            self._first_run, self._trial_of_search = False, None
            self.model_accepts_loss_kwargs, self._loss_takes_items = accepted, False
            self.optimizer, self.lr_scheduler = self._given_optimizer, None

    def _divides_by_items(self) -> bool:
        """Try out whether the plain encoder heeds ``num_items_in_batch``, where several processes need to know."""
        if self.args.world_size == 1 or self.args.gradient_accumulation_steps == 1:
            return False
        was_training = self.model.training
        self.model.train(False)
        _, batch = next(self.rows_in_batches(list(range(min(8, len(self.train_dataset)))), 8))
        with torch.no_grad():
            losses = [self.model(**batch, width=1.0, **of).loss for of in ({}, {"num_items_in_batch": 0.5})]
        self.model.train(was_training)
        return bool(losses[0] != losses[1])

    def _train_later(
        self,
        kind: type[LaterTrainer],
        folder: Path,
        checkpoint: str | None,
        callbacks: list[TrainerCallback],
        ignore_keys: list[str] | None,
    ) -> Any:
        """Train what a later run does."""
        for group, rate in zip(getattr(self._given_optimizer, "param_groups", ()), self._given_rates, strict=True):
            group["lr"] = group["initial_lr"] = rate
        settings = copy.copy(self.args)
        settings.per_device_train_batch_size = self._train_batch_size
        trainer = make_later(kind, self, folder, callbacks, settings=settings, optimizer=self._given_optimizer)
        if isinstance(trainer, SubnetworkTrainer):
            self.subnetwork_trainer = trainer
        else:
            self.front_trainer = trainer
        return trainer.train(checkpoint, ignore_keys_for_eval=ignore_keys)

    # The first run

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Build the loader of transformers; where it can't tell lengths, one of batches that are planned here."""
        self.begin_together()
        reads_tokens = self.model.main_input_name == "input_ids" and "input_ids" in self.train_dataset[0]
        if reads_tokens or self.args.train_sampling_strategy != "group_by_length":
            return super().get_train_dataloader()
        return self.planned_loader(self.plan)

    @property
    def _has_weights(self) -> bool:
        return SAMPLE_WEIGHT in (getattr(self.train_dataset, "column_names", None) or ())

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the rows' weights, which no model takes."""
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        if self._has_weights and SAMPLE_WEIGHT not in columns:
            columns.append(SAMPLE_WEIGHT)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Take a step of the full network, also where a subclass has a loss of its own."""
        inputs.pop("sample_id", None)
        with at_width(self.model, 1.0):
            return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Compute the full network's loss, by the weights of classes if there are any.

        Outside training it is the plain loss of whatever network answers.
        """
        inputs.pop("sample_id", None)
        sample_weight = inputs.pop(SAMPLE_WEIGHT, None)
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        with at_width(self.model, 1.0):
            if self.task is None or (self.args.class_weights is None and sample_weight is None):
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            outputs = model(**inputs)
        labels = self.task.labels_of(inputs)
        if sample_weight is None:
            loss = self.task.loss(outputs, labels)
        else:
            loss = self.task.weighted_loss(outputs.logits, labels, sample_weight)
        return (loss, outputs) if return_outputs else loss

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate the full network in the first run, and else the routed one and each width."""
        with at_width(self.model, 1.0) if self._first_run else contextlib.nullcontext():
            return super().evaluation_loop(*args, **kwargs)

    def evaluated_widths(self) -> list[float | str]:
        """List the widths that are evaluated besides."""
        return [] if self._first_run else self.widths

    def tensors(self) -> dict[str, Tensor]:
        """Keep the random numbers' state, of now and of the epoch's beginning: uint8, as torch has it."""
        return {"epoch_start": self._epoch_start.random, "now": torch.get_rng_state()}

    def progress(self) -> dict[str, Any]:
        """Say which run it is."""
        return {"run": "full network"}

    # Search for hyperparameters

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], dict[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        n_trials: int = 20,
        direction: str | list[str] = "minimize",
        backend: Any = None,
        hp_name: Callable[[Any], str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Search as ``transformers.Trainer`` does; the objective is that of the routed network after both runs.

        Raises:
            InputError: If the backend is ray, to which the first run would report, or there are several processes.
        """
        if self.args.world_size > 1:
            raise InputError("hyperparameter_search: searches in one process; start it with python")
        if str(getattr(backend, "value", backend)) == "ray":
            raise InputError("backend ray: is told of the full network alone; take optuna")
        objective = compute_objective or _routed_objective
        return super().hyperparameter_search(hp_space, objective, n_trials, direction, backend, hp_name, **kwargs)

    def call_model_init(self, trial: Any = None) -> Any:
        """Build a model for a trial, the real one."""
        return super().call_model_init(trial if self._trial_of_search is None else self._trial_of_search)

    def _without_reports(self, trial: Any) -> Any:
        """Make a trial of the same settings, to which nothing is reported and which never stops a run."""
        if trial is None or isinstance(trial, dict):
            return trial
        import optuna  # who has a trial has it

        self.hp_space(trial)
        return optuna.trial.FixedTrial(trial.params, trial.number)


def _routed_objective(metrics: dict[str, float]) -> float:
    """Compute the objective that transformers has by default, of the routed network alone."""
    return default_compute_objective({name: value for name, value in metrics.items() if "_width_" not in name})
