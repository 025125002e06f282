"""The paper's recipe (section 3.3): one run in which each batch has one width, and the router learns hardness labels.

It overrides private methods of ``transformers.Trainer``: ``_run_epoch``, since an epoch is as long as its balanced
groups, and ``_init_training_state``, which has to know where in which epoch a run stood.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch.optim.lr_scheduler import LambdaLR

from sharcs.errors import InputError
from sharcs.tasks.base import router_loss
from sharcs.training.arguments import PaperTrainingArguments
from sharcs.training.base import RoutedTrainer
from sharcs.training.batches import single_width_batches
from sharcs.training.checkpoints import load_state
from sharcs.training.hardness import ConfidenceHistory, assign_widths, confidence_bands, hardness_labels
from sharcs.training.importance import reorder_by_importance
from sharcs.training.processes import share_weights

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import DataLoader


class PaperTrainer(RoutedTrainer):
    """A ``transformers.Trainer`` of a routed network whose narrow networks share the full one's weights.

    Each sample is trained at the width that its hardness label names. An epoch lasts as long as its balanced batches
    do, so the learning rate follows the share of the epochs that is done, not the steps.

    The task loss is what the plain model computes for its problem type, of a regression the mean squared error in
    the labels' own unit.

    Its arguments are those of :class:`~sharcs.training.base.RoutedTrainer`.
    """

    args: PaperTrainingArguments
    arguments: ClassVar[type[PaperTrainingArguments]] = PaperTrainingArguments
    loss_is_scaled_for_ga = False

    def set_up(self, optimizers: tuple[Any, Any]) -> None:
        """Check the bands, and begin without confidences.

        Raises:
            InputError: If a band is out of range, or a subclass has a loss of its own.
        """
        if type(self).compute_loss is not PaperTrainer.compute_loss:
            raise InputError(
                f"{type(self).__name__}.compute_loss: the loss is the paper's; give class_weights, or train the "
                "recipe sharcs+, whose full network takes any loss"
            )
        self.bands = confidence_bands(self.model.config.widths, self.args.bands)
        self._is_reordered = False
        if self.train_dataset is not None:
            self._begin()

    def _begin(self) -> None:
        """Forget an earlier run: no confidences, everything at full width."""
        samples = len(self.train_dataset)
        self.history = ConfidenceHistory(samples, self.args.window)
        self.hardness: Tensor | None = None  # [samples, widths], after W epochs
        self.width_index = torch.full((samples,), len(self.widths) - 1)
        self._epoch = 0
        self._epoch_start = 0  # the global step at which the current epoch began
        self._epoch_updates = 0  # its number of optimizer steps, 0 before training
        self._resumed_midway = False

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> Any:
        """Train; see ``transformers.Trainer.train``.

        Args:
            resume_from_checkpoint: True for the last complete checkpoint of the output directory, or its path.
            trial: Of a search for hyperparameters.
            ignore_keys_for_eval: Outputs that evaluation leaves out.

        Raises:
            InputError: If there is no training data, no complete checkpoint, or it belongs to another training.
        """
        checkpoint = self.checkpoint_of(resume_from_checkpoint)
        self._begin()
        self._is_reordered = False
        return super().train(checkpoint, trial, ignore_keys_for_eval)

    # Epochs

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Restore transformers' state, then ours: history, labels, and where in which epoch the run stood."""
        position: tuple[int, int] = super()._init_training_state(*args, **kwargs)
        self._begin()
        checkpoint = args[3] if len(args) > 3 else kwargs.get("resume_from_checkpoint")
        if not checkpoint:
            if self.args.importance_samples and not self._is_reordered:
                reorder_by_importance(self.model, self.importance_batches())
                share_weights(self.model)
                self._is_reordered = True
            return position
        tensors, progress = load_state(checkpoint)
        self.history.values = tensors["confidences"]
        self.width_index, self.hardness = tensors["width_index"], tensors.get("hardness")
        self._epoch, self._epoch_start = progress["epoch"], progress["epoch_start"]
        done = self.state.global_step - self._epoch_start
        if done >= progress["updates_in_epoch"]:
            return self._epoch + 1, 0
        self._resumed_midway = True
        return self._epoch, done * self.args.gradient_accumulation_steps

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Build the loader of single-width batches; every batch carries ``sample_id``."""
        self.begin_together()
        return self.planned_loader(self.plan)

    def plan(self, epoch: int) -> list[list[int]]:
        """Arrange an epoch's batches, by the widths at which its samples are trained."""
        return single_width_batches(self.width_index, self.whole_batch_size, self.generator(epoch, 1), self.lengths())

    def _run_epoch(self, **kwargs: Any) -> None:  # type: ignore[override]
        """Plan the epoch, whose length depends on its groups, and run it."""
        epoch, loader = kwargs["epoch"], kwargs["train_dataloader"]
        self._epoch = epoch
        if not self._resumed_midway:
            self._assign(epoch)
            self._epoch_start = self.state.global_step
        self._resumed_midway = False
        self.batches.set_epoch(epoch)
        steps = len(loader)
        self._epoch_updates = -(-steps // self.args.gradient_accumulation_steps)
        if self.args.max_steps <= 0:
            # Exact for the last epoch; before it a forecast, which progress bars show.
            remaining = self.args.num_train_epochs - epoch
            self.state.max_steps = self._epoch_start + math.ceil(remaining * self._epoch_updates)
        kwargs |= {"steps_in_epoch": steps, "num_update_steps_per_epoch": self._epoch_updates}
        super()._run_epoch(**kwargs)  # type: ignore[no-untyped-call]

    def _assign(self, epoch: int) -> None:
        """Label the samples' hardness and draw the width at which each is trained this epoch."""
        if epoch < self.args.window:
            return
        self.hardness = hardness_labels(self.history.values, self.bands)
        self.width_index = assign_widths(self.hardness, self.generator(epoch, 0))
        shares = torch.bincount(self.width_index, minlength=len(self.widths)) / len(self.width_index)
        self.log({f"share_{width:g}": share for width, share in zip(self.widths, shares.tolist(), strict=True)})

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the schedule of transformers and let it follow the share of the epochs that is done."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if isinstance(scheduler, LambdaLR) and self.args.max_steps <= 0:
            scheduler.lr_lambdas = [
                self._by_epochs(schedule, num_training_steps) for schedule in scheduler.lr_lambdas
            ]
        return scheduler

    def _by_epochs(self, schedule: Any, steps: int) -> Any:
        def factor(step: int) -> float:
            if self._epoch_updates == 0:
                return float(schedule(step))
            # transformers counts the step after it has advanced the schedule.
            done = self._epoch + (self.state.global_step + 1 - self._epoch_start) / self._epoch_updates
            return float(schedule(min(done / self.args.num_train_epochs, 1.0) * steps))

        return factor

    # Losses

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """λ_task · task loss + λ_router · binary cross-entropy of the router.

        The batch runs at its one width, and its confidences are recorded. Outside training it is the task loss of the
        routed network.
        """
        sample_ids = inputs.pop("sample_id", None)
        if sample_ids is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        assert self.task is not None
        numbers = sample_ids.cpu()
        outputs = model(**inputs, width=self.widths[int(self.width_index[numbers[0]])])
        labels = self.task.labels_of(inputs)
        loss = self.args.task_loss_weight * self.task.loss(outputs, labels)
        self.history.record(self._epoch, numbers, self.task.confidence(self.model.answer_of(outputs), labels))
        if self.hardness is not None:
            target = self.hardness[numbers]
            loss = loss + self.args.router_loss_weight * router_loss(outputs.router_logits, target)
        return (loss, outputs) if return_outputs else loss

    # Checkpoints

    def facts(self) -> dict[str, Any]:
        """Say what a training has to have in common with its checkpoints."""
        return {**super().facts(), "window": self.args.window, "bands": [list(band) for band in self.bands]}

    def progress(self) -> dict[str, Any]:
        """Say where in which epoch the run stands."""
        return {"epoch": self._epoch, "epoch_start": self._epoch_start, "updates_in_epoch": self._epoch_updates}

    def tensors(self) -> dict[str, Tensor]:
        """Collect the confidences, and what was planned for the epoch."""
        tensors = {"confidences": self.history.values, "width_index": self.width_index}
        return tensors if self.hardness is None else {**tensors, "hardness": self.hardness}
