"""Trainers that know the numbers of their rows: batches that are planned, and rows that are asked about."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import send_to_device  # type: ignore[import-untyped]
from torch.utils.data import DataLoader
from transformers import Trainer

from sharcs.training.batches import PlannedBatches, single_width_batches
from sharcs.training.rows import NumberedRows, collate_numbered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from sharcs.model.base import RoutedModel
    from sharcs.training.arguments import RoutedTrainingArguments


class NumberedTrainer(Trainer):
    """A ``transformers.Trainer`` that can hand out its training rows by their numbers."""

    args: RoutedTrainingArguments
    model: RoutedModel
    train_dataset: Any
    _token_counts: list[int] | None = None

    def token_counts(self) -> list[int]:
        """Count the tokens of each training row."""
        if self._token_counts is None:
            name = self.args.length_column_name
            if name in (getattr(self.train_dataset, "column_names", None) or ()):
                self._token_counts = list(self.train_dataset[name])
            else:
                self._token_counts = [self.model.token_count(row) for row in self.train_dataset]
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
        return single_width_batches(rows, self._train_batch_size, self.generator(epoch, 1), self.lengths())

    def planned_loader(self, plan: Callable[[int], list[list[int]]]) -> DataLoader[Any]:
        """Build a loader of batches that are planned by epoch; every batch carries ``sample_id``."""

        def whole(epoch: int) -> list[list[int]]:
            batches = plan(epoch)
            if not self.args.dataloader_drop_last:
                return batches
            return [batch for batch in batches if len(batch) == self._train_batch_size]

        collate = self._get_collator_with_removed_columns(self.data_collator, description="training")
        self.batches = PlannedBatches(whole, self._train_batch_size)
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
        return (batch for _, batch in self.rows_in_batches(chosen, self._train_batch_size))
