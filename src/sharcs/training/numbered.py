"""Trainers that know the numbers of their rows: batches that are planned, and rows that are asked about.

Where several processes train, each loads whole batches and shares out their rows itself
(:mod:`sharcs.training.processes`); what transformers and accelerate do for several processes is kept away.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from accelerate.data_loader import prepare_data_loader  # type: ignore[import-untyped]
from accelerate.utils import send_to_device  # type: ignore[import-untyped]
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer

from sharcs.errors import InputError
from sharcs.evaluation.inputs import token_counts
from sharcs.training.batches import NumberedRows, PlannedBatches, collate_numbered, single_width_batches
from sharcs.training.processes import WholeBatch, average

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers.trainer_utils import EvalLoopOutput

    from sharcs.model.base import RoutedModel
    from sharcs.training.arguments import RoutedTrainingArguments


class NumberedTrainer(Trainer):
    """A ``transformers.Trainer`` that can hand out its training rows by their numbers."""

    args: RoutedTrainingArguments
    model: RoutedModel
    train_dataset: Any
    _token_counts: list[int] | None = None
    _loss_takes_items: bool = False  # of several micro-batches, as num_items_in_batch

    @property
    def whole_batch_size(self) -> int:
        """Rows of a batch, of all processes together."""
        return int(self._train_batch_size * self.args.world_size)

    def token_counts(self) -> list[int]:
        """Count the tokens of each training row."""
        if self._token_counts is None:
            name = self.args.length_column_name
            if name in (getattr(self.train_dataset, "column_names", None) or ()):
                self._token_counts = list(self.train_dataset[name])
            else:
                self._token_counts = token_counts(self.model, self.train_dataset)
        return self._token_counts

    def lengths(self) -> list[int] | None:
        """Count the tokens of each training row, if rows of like length are to share a batch."""
        return self.token_counts() if self.args.train_sampling_strategy == "group_by_length" else None

    def generator(self, epoch: int, purpose: int) -> torch.Generator:
        """Seed a source of randomness by epoch and purpose, so that a resumed run draws the same."""
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        return torch.Generator().manual_seed((seed * 1_000_003 + epoch) * 2 + purpose)

    def plan(self, epoch: int) -> list[list[int]]:
        """Arrange an epoch's batches: sample numbers of each."""
        rows = torch.zeros(len(self.train_dataset), dtype=torch.int64)
        return single_width_batches(rows, self.whole_batch_size, self.generator(epoch, 1), self.lengths())

    def planned_loader(self, plan: Callable[[int], list[list[int]]]) -> DataLoader[Any]:
        """Build a loader of batches that are planned by epoch; every batch carries ``sample_id``."""

        def whole(epoch: int) -> list[list[int]]:
            batches = plan(epoch)
            if not self.args.dataloader_drop_last:
                return batches
            return [batch for batch in batches if len(batch) == self.whole_batch_size]

        collate = self._get_collator_with_removed_columns(self.data_collator, description="training")
        self.batches = PlannedBatches(whole, self.whole_batch_size)
        loader = DataLoader(
            NumberedRows(self.train_dataset),
            batch_sampler=self.batches,
            collate_fn=collate_numbered(collate),
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            in_order=self.args.dataloader_in_order,
        )
        return self.accelerator.prepare(loader)  # type: ignore[no-any-return]

    def rows_in_batches(self, rows: list[int], size: int) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """Collate training rows as they come: their numbers, and a batch on the model's device."""
        collate = self._get_collator_with_removed_columns(self.data_collator, description="training")
        self.model.to(self.args.device)  # type: ignore[arg-type]
        for start in range(0, len(rows), size):
            numbers = rows[start : start + size]
            batch = collate([dict(self.train_dataset[number]) for number in numbers])
            yield numbers, send_to_device(batch, self.args.device)

    def importance_batches(self) -> Iterator[dict[str, Tensor]]:
        """Draw the training batches on which importance is measured."""
        order = torch.randperm(len(self.train_dataset), generator=self.generator(0, 0))
        chosen = order[: self.args.importance_samples].tolist()
        return (batch for _, batch in self.rows_in_batches(chosen, self.whole_batch_size))

    # Several processes

    def create_accelerator_and_postprocess(self) -> None:
        """Create the accelerator; of several processes, it leaves loaders and model whole.

        Raises:
            InputError: If the launcher asks for FSDP or DeepSpeed.
        """
        super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise InputError("fsdp, deepspeed: each process trains the whole model; leave them out of the launch")
        if self.args.world_size > 1:
            self.accelerator.prepare_data_loader = self._unshared
        if dist.is_available() and dist.is_initialized():  # by one process, too
            self.accelerator.prepare_model = functools.partial(self.accelerator.prepare_model, evaluation_mode=True)

    def _unshared(self, loader: DataLoader[Any], **_: Any) -> DataLoader[Any]:
        """Prepare a loader as where one process trains; the random numbers that order the rows are the first's."""
        return prepare_data_loader(  # type: ignore[no-any-return]
            loader,
            self.args.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            rng_types=["torch"],
            use_seedable_sampler=self.accelerator.use_seedable_sampler,
            data_seed=self.args.data_seed,
            non_blocking=self.accelerator.non_blocking,
        )

    @contextlib.contextmanager
    def _whole_batches(self) -> Iterator[None]:
        """Let transformers build loaders of whole batches."""
        args, before = self.args, self._train_batch_size
        sizes = args.per_device_train_batch_size, args.per_device_eval_batch_size
        self._train_batch_size = self.whole_batch_size
        args.per_device_train_batch_size, args.per_device_eval_batch_size = (n * args.world_size for n in sizes)
        try:
            yield
        finally:
            self._train_batch_size = before
            args.per_device_train_batch_size, args.per_device_eval_batch_size = sizes

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Build the loader of transformers."""
        with self._whole_batches():
            return super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """Build the loader of evaluation rows."""
        with self._whole_batches():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """Build the loader of rows to predict."""
        with self._whole_batches():
            return super().get_test_dataloader(test_dataset)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """Take a step; of several processes, each runs its rows, and gradients are averaged."""
        if self.args.world_size == 1:
            return super().training_step(model, inputs, num_items_in_batch)
        shared = WholeBatch(model, self.model, self._loss_takes_items)
        loss = super().training_step(shared, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            average(p.grad for p in self.model.parameters() if p.grad is not None)
        return loss

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Take a step of an evaluation; of several processes, each runs its rows."""
        if self.args.world_size > 1:
            model = WholeBatch(model, self.model)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Evaluate; every process has all answers already."""
        if self.args.world_size == 1:
            return super().evaluation_loop(*args, **kwargs)
        self.gather_function = self._all_there
        with self._whole_batches():
            return super().evaluation_loop(*args, **kwargs)

    def _all_there(self, values: Any) -> Any:
        """Cut what is repeated as often as a full batch has rows, its loss, where accelerate does."""
        state = self.accelerator.gradient_state
        is_short = state.end_of_dataloader and state.remainder > 0
        return values[: state.remainder] if is_short and isinstance(values, Tensor) else values

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Count a process's share of a batch: transformers sums them up."""
        return int(super().floating_point_ops(inputs) / self.args.world_size)

    def _save_rng_state(self, output_dir: str) -> None:
        """Save each process's random numbers before the checkpoint is complete."""
        super()._save_rng_state(output_dir)
        if self.args.world_size > 1:
            dist.barrier()
