"""One run that trains the encoder, its sub-networks and the router (paper, section 3.3)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, SequentialSampler
from transformers import Trainer
from transformers.trainer_utils import rotate_checkpoints

from sharcs.errors import InputError
from sharcs.spec import OWN, SHARED
from sharcs.tasks.losses import Task, router_loss
from sharcs.training.arguments import PAPER, PLUS, SharcsTrainingArguments
from sharcs.training.batches import NumberedRows, WidthBatchSampler, collate_numbered, single_width_batches
from sharcs.training.checkpoints import check_complete, last_complete_checkpoint, load_state, save_state, unmark
from sharcs.training.hardness import ConfidenceHistory, assign_widths, confidence_bands, hardness_labels
from sharcs.training.importance import reorder_by_importance
from sharcs.training.schedule import Phase, phase_of, separate_groups
from sharcs.training.subnetworks import SubnetworkPhase, phases_of, set_policy

if TYPE_CHECKING:
    from torch import Tensor

    from sharcs.model.base import RoutedModel

__all__ = ["SharcsTrainer"]


class SharcsTrainer(Trainer):
    """A ``transformers.Trainer`` that trains a routed network; takes what its base class takes.

    The training data has to be a map-style data set of tokenised rows with ``labels``: class indices, or floats for
    multi-label classification and regression; of token classification a class index a token, or -100 where none
    counts, which the collator pads (``transformers.DataCollatorForTokenClassification``); of question answering
    ``start_positions`` and ``end_positions`` instead, the numbers of the answer's first and last token.

    An epoch lasts as long as its balanced batches do, so the learning rate follows the share of the epochs that is
    done, not the steps.

    The task loss is what the plain model computes for its problem type, of a regression the mean squared error in
    the labels' own unit. A regression's answers have no confidence, so they never escalate, and its router decides
    alone; a trained ``sharcs+`` routes it by the router's argmax.

    Raises:
        InputError: If a band is out of range, the labels or class weights don't fit the problem type, there are no
            training rows, or a setting of the base class is asked for that this training can't follow.
    """

    args: SharcsTrainingArguments
    model: RoutedModel
    train_dataset: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Set up the base class, and the confidence history when there is training data."""
        super().__init__(*args, **kwargs)
        self.widths: list[float] = list(self.model.config.widths)
        self.bands = confidence_bands(self.widths, self.args.bands)
        if self.label_smoother is not None or self.compute_loss_func is not None:
            raise InputError("label_smoothing_factor, compute_loss_func: the loss here is SHARCS's own; drop them")
        if self.args.ignore_data_skip:
            raise InputError("ignore_data_skip: a resumed run has to go on at its place in the epoch; leave it out")
        if self.train_dataset is not None:
            if len(self.train_dataset) == 0:
                raise InputError("train_dataset: has no rows; give at least one")
            self.task = self.model.training_task(self.train_dataset, self.args.class_weights)
            if isinstance(self.task, Task):  # configurations have no name for the others
                # The policy has to know, too; by itself only the encoder finds out.
                for config in (self.model.config, self.model.encoder.config):
                    config.problem_type = self.task.problem_type  # type: ignore[assignment]
        if (self.args.recipe == PLUS) != (self.model.config.weights == OWN):
            needed = OWN if self.args.recipe == PLUS else SHARED
            raise InputError(
                f"recipe {self.args.recipe}: the model's narrow networks have {self.model.config.weights} weights; "
                f'wrap the encoder anew with weights="{needed}"'
            )
        if self.train_dataset is None:
            return
        self._lengths = self._sample_lengths()
        self._begin()

    # Planning

    def _begin(self) -> None:
        """Forget an earlier run: no confidences, everything at full width."""
        samples = len(self.train_dataset)
        self.history = ConfidenceHistory(samples, self.args.window or 1)
        self.hardness: Tensor | None = None  # [samples, widths]; only the paper's recipe has it, after W epochs
        self.width_index = torch.full((samples,), len(self.widths) - 1)
        self._sampler = WidthBatchSampler(self._plan(0), self.args.per_device_train_batch_size)
        self._epoch = 0
        self._epoch_start = 0  # the global step at which the current epoch began
        self._epoch_updates = 0  # its number of optimiser steps, 0 before training
        self._resumed_midway = False
        self._full_epochs = self._epochs = float(self.args.num_train_epochs or 0)  # of both phases: see train
        self._subnetworks: SubnetworkPhase | None = None
        self._teacher: Tensor | None = None

    def _sample_lengths(self) -> list[int] | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return None
        if "length" in getattr(self.train_dataset, "column_names", ()):
            return list(self.train_dataset["length"])
        return self._token_counts()

    def _token_counts(self) -> list[int]:
        return [self.model.token_count(row) for row in self.train_dataset]

    def _generator(self, epoch: int, purpose: int) -> torch.Generator:
        """Seed a source of randomness by epoch and purpose, so that a resumed run draws the same."""
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return torch.Generator().manual_seed((seed * 1_000_003 + epoch) * 2 + purpose)

    def _assign(self, epoch: int) -> None:
        """Label the samples' hardness and draw the width at which each is trained this epoch."""
        if self.args.recipe != PAPER or epoch < (self.args.window or 1):
            return
        self.hardness = hardness_labels(self.history.values, self.bands)
        self.width_index = assign_widths(self.hardness, self._generator(epoch, 0))
        shares = torch.bincount(self.width_index, minlength=len(self.widths)) / len(self.width_index)
        self.log({f"share_{width:g}": share for width, share in zip(self.widths, shares.tolist(), strict=True)})

    def _plan(self, epoch: int) -> list[list[int]]:
        return single_width_batches(
            self.width_index, self.args.per_device_train_batch_size, self._generator(epoch, 1), self._lengths
        )

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Build the loader of single-width batches; every batch carries ``sample_id``."""
        collate = self._get_collator_with_removed_columns(self.data_collator, description="training")
        loader = DataLoader(
            NumberedRows(self.train_dataset),
            batch_sampler=self._sampler,
            collate_fn=collate_numbered(collate),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
        )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """Keep the rows' order: with length grouping, the base class returns predictions in another one."""
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def _run_epoch(self, **kwargs: Any) -> None:  # type: ignore[override]
        """Plan the epoch, whose length depends on its groups, and run it."""
        epoch, loader = kwargs["epoch"], kwargs["train_dataloader"]
        self._epoch = epoch
        if not self._resumed_midway:
            self._assign(epoch)
            self._epoch_start = self.state.global_step
        if self.args.recipe == PLUS and epoch >= self._full_epochs:
            self._train_subnetworks()
        self._resumed_midway = False
        self._sampler.batches = self._plan(epoch)
        steps = len(loader)
        self._epoch_updates = -(-steps // self.args.gradient_accumulation_steps)
        if self.args.max_steps <= 0:
            # Exact for the last epoch; before it a forecast, which progress bars show.
            remaining = self._epochs - epoch
            self.state.max_steps = self._epoch_start + math.ceil(remaining * self._epoch_updates)
        kwargs |= {"steps_in_epoch": steps, "num_update_steps_per_epoch": self._epoch_updates}
        super()._run_epoch(**kwargs)  # type: ignore[no-untyped-call]

    def _train_subnetworks(self) -> None:
        """Begin the second phase of sharcs+, or take it up again."""
        if self._subnetworks is not None:
            return
        self._subnetworks = SubnetworkPhase(self.model, self.task, self._teacher)
        if self._teacher is None:
            lengths = self._lengths or self._token_counts()
            order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
            size = self.args.per_device_eval_batch_size
            with self.accelerator.autocast():
                ranking = self._importance_batches() if self.args.importance_samples else None
                self._subnetworks.start(ranking, self._batches(order, size))
            self._teacher = self._subnetworks.teacher
        self.log({"subnetwork_epochs": self._epochs - self._full_epochs})

    def _phases(self) -> dict[torch.nn.Parameter, Phase]:
        """Name the parameters that don't learn like the rest."""
        if self.args.recipe == PAPER:
            return {}
        return phases_of(self.model.tail, self._full_epochs, self._epochs - self._full_epochs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """Create the base class's optimiser; by sharcs+ sub-networks and router have groups of their own."""
        is_new = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if is_new:
            separate_groups(optimizer, self._phases())
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Create the base class's schedule and let each group follow the share of its epochs that is done."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if isinstance(scheduler, LambdaLR) and self.args.max_steps <= 0:
            phases, whole = self._phases(), Phase(0, self._full_epochs)
            scheduler.lr_lambdas = [
                self._by_epochs(schedule, num_training_steps, phase_of(group, phases, whole))
                for schedule, group in zip(scheduler.lr_lambdas, scheduler.optimizer.param_groups, strict=True)
            ]
        return scheduler

    def _by_epochs(self, schedule: Any, steps: int, phase: Phase) -> Any:
        def factor(step: int) -> float:
            if self._epoch_updates == 0:
                return float(schedule(step))
            # The base class counts the step after it has advanced the schedule.
            done = self._epoch + (self.state.global_step + 1 - self._epoch_start) / self._epoch_updates
            return float(schedule(phase.share_done(done) * steps))

        return factor

    # Losses

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """λ_task · task loss + λ_router · binary cross-entropy of the router.

        Outside training it is the task loss of the routed network.
        """
        sample_ids = inputs.pop("sample_id", None)
        if sample_ids is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        outputs, task, router = (self._paper_losses if self.args.recipe == PAPER else self._plus_losses)(
            model, inputs, sample_ids
        )
        loss = self.args.task_loss_weight * task
        if router is not None:
            loss = loss + self.args.router_loss_weight * router
        return (loss, outputs) if return_outputs else loss

    def _plus_losses(
        self, model: Any, inputs: dict[str, Any], sample_ids: Tensor
    ) -> tuple[Any, Tensor, Tensor | None]:
        """Train the full network; in the second phase, the sub-networks and the router."""
        if self._subnetworks is not None:
            return self._subnetworks.losses(model, inputs, sample_ids)
        outputs = model(**inputs, width=1.0)
        return outputs, self.task.loss(outputs, self.task.labels_of(inputs)), None

    def _paper_losses(
        self, model: Any, inputs: dict[str, Any], sample_ids: Tensor
    ) -> tuple[Any, Tensor, Tensor | None]:
        """Train the batch at its one width, the router on the hardness labels, and record the confidences."""
        ids = sample_ids.cpu()
        outputs = model(**inputs, width=self.widths[int(self.width_index[ids[0]])])
        labels = self.task.labels_of(inputs)
        task = self.task.loss(outputs, labels)
        self._record(sample_ids, self.task.confidence(self.model.answer_of(outputs), labels))
        if self.hardness is None:
            return outputs, task, None
        return outputs, task, router_loss(outputs.router_logits, self.hardness[ids])

    def _record(self, sample_ids: Tensor, confidence: Tensor) -> None:
        if self.accelerator.num_processes > 1:
            sample_ids, confidence = self.accelerator.gather((sample_ids, confidence))
        self.history.record(self._epoch, sample_ids, confidence)

    # Start, checkpoints

    def train(  # type: ignore[override]
        self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any
    ) -> Any:
        """Train; see ``transformers.Trainer.train``.

        Args:
            resume_from_checkpoint: True for the last complete checkpoint of the output directory, or its path.
            **kwargs: Passed to the base class.

        Raises:
            InputError: If there is no training data, no complete checkpoint, or it belongs to other data.
        """
        if self.train_dataset is None:
            raise InputError("train_dataset: is missing; give the trainer training data")
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_complete_checkpoint(str(self.args.output_dir))
            if resume_from_checkpoint is None:
                raise InputError(f"{self.args.output_dir}: has no complete checkpoint to resume from; start anew")
        if resume_from_checkpoint:
            check_complete(resume_from_checkpoint)
        self._begin()
        if self.args.recipe == PLUS:
            set_policy(self.model.config)
        if self.args.recipe == PAPER and not resume_from_checkpoint and self.args.importance_samples:
            reorder_by_importance(self.model, self._importance_batches())
        # The base class sees one run of both phases.
        more = (self.args.subnetwork_epochs or 0) if len(self.widths) > 1 else 0
        self._epochs = self.args.num_train_epochs = self._full_epochs + more
        try:
            return super().train(resume_from_checkpoint or None, **kwargs)
        finally:
            self.args.num_train_epochs = self._full_epochs
            if self._subnetworks is not None:
                self._subnetworks.end()

    def _importance_batches(self) -> Any:
        order = torch.randperm(len(self.train_dataset), generator=self._generator(0, 0))
        chosen = order[: self.args.importance_samples].tolist()
        return (batch for _, batch in self._batches(chosen, self.args.per_device_train_batch_size))

    def _batches(self, rows: list[int], size: int) -> Any:
        """Collate training rows as they come: their numbers and a batch."""
        collate = self._get_collator_with_removed_columns(self.data_collator, description="training")
        self._move_model_to_device(self.model, self.args.device)
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            yield some, self._prepare_inputs(collate([dict(self.train_dataset[row]) for row in some]))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save what the base class saves, then ours: its presence marks the checkpoint as complete."""
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            unmark(folder)
        # The base class would drop the older checkpoints before this one is complete.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        if not self.args.should_save:
            return
        tensors = {"confidences": self.history.values, "width_index": self.width_index}
        if self.hardness is not None:
            tensors["hardness"] = self.hardness
        if self._teacher is not None:
            tensors["teacher"] = self._teacher
        progress = {
            "epoch": self._epoch,
            "epoch_start": self._epoch_start,
            "updates_in_epoch": self._epoch_updates,
        }
        save_state(folder, tensors, progress)
        rotate_checkpoints(
            output_dir=self._get_output_dir(trial),
            save_total_limit=limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
            use_mtime=True,
        )

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        """Restore the base class's state, then ours: history, labels, and where in which epoch the run stood."""
        position: tuple[int, int] = super()._init_training_state(*args, **kwargs)
        checkpoint = args[3] if len(args) > 3 else kwargs.get("resume_from_checkpoint")
        if not checkpoint:
            return position
        tensors, progress = load_state(checkpoint, *self.history.values.shape)
        self.history.values = tensors["confidences"]
        self.width_index, self.hardness = tensors["width_index"], tensors.get("hardness")
        self._teacher = tensors.get("teacher")
        self._epoch, self._epoch_start = progress["epoch"], progress["epoch_start"]
        done = self.state.global_step - self._epoch_start
        if done >= progress["updates_in_epoch"]:
            return self._epoch + 1, 0
        self._resumed_midway = True
        return self._epoch, done * self.args.gradient_accumulation_steps
