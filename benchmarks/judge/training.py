"""One way of training for every method: until held-out rows stop rising, resumable within an epoch."""

from __future__ import annotations

import copy
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from common import machine, processor_seconds
from judge.used_rows import only_used_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from judge.data import Rows

BATCH = 32
GROUP = 50  # batches that are ordered by length together
CLIP = 1.0
WEIGHT_DECAY = 0.01
SECONDS_BETWEEN_STATES = 120.0


def machine_record() -> dict[str, Any]:
    """Name the machine; every method is trained in float32, also where the processor has bfloat16."""
    return machine() | {"training_precision": "float32"}


@dataclass(frozen=True)
class Schedule:
    """How long to train, and how fast.

    Attributes:
        rate: The learning rate after a warm-up of half an epoch; constant, and falling to 0 in a last epoch.
        epochs: At most.
        patience: Epochs without a new best score on held-out rows after which training ends.
    """

    rate: float
    epochs: int = 12
    patience: int = 2


@dataclass
class Progress:
    """Where a training stands: all that another process needs to go on to the same result."""

    epoch: int = 0
    step: int = 0
    scores: list[float] = field(default_factory=list)
    best: float = float("-inf")
    last_epoch: bool = False
    seconds: float = 0.0


def batches(rows: Rows, seed: int, epoch: int) -> list[list[int]]:
    """Divide rows into batches for an epoch: at random, but rows of like lengths together."""
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(rows))
    lengths = rows.lengths
    groups = [order[start : start + GROUP * BATCH] for start in range(0, len(order), GROUP * BATCH)]
    by_length = np.concatenate([group[np.argsort(-lengths[group], kind="stable")] for group in groups])
    made = [by_length[start : start + BATCH].tolist() for start in range(0, len(by_length), BATCH)]
    return [made[i] for i in generator.permutation(len(made))]


class Fit:
    """A training that ends when held-out rows say so.

    After every epoch the held-out score is taken; when it has not risen for ``patience`` epochs, or at the last one,
    one more epoch from the best weights lets the rate fall to 0. The weights of the best score are kept, those that
    the training began with among them.

    Args:
        model: What is trained: its parameters that ask for gradients.
        rows: What it is trained on.
        loss: Of a batch of rows, by their indices.
        score: Of the model on held-out rows, higher is better.
        seed: Of the order of rows and of dropout.
        schedule: How long and how fast.
        state: Where the state is written from time to time, and read from if it is there.
    """

    def __init__(
        self,
        model: nn.Module,
        rows: Rows,
        loss: Callable[[list[int], float], Tensor],
        score: Callable[[], float],
        *,
        seed: int,
        schedule: Schedule,
        state: Path | None = None,
    ) -> None:
        self.model = model
        self.rows = rows
        self.loss = loss
        self.score = score
        self.seed = seed
        self.schedule = schedule
        self.state = state
        self.progress = Progress()
        self.saved = time.monotonic()  # when the state was written last

    def run(self) -> dict[str, Any]:
        """Train, and leave the best weights in the model.

        Returns:
            For the record: ``scores`` after each epoch, ``epochs``, ``train_seconds`` of the processor.
        """
        with only_used_rows(self.model, self.rows):
            return self._run()

    def _run(self) -> dict[str, Any]:
        torch.manual_seed(self.seed)
        self.trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        rate = self.schedule.rate
        self.optimizer = torch.optim.AdamW(self.trained, lr=rate, weight_decay=WEIGHT_DECAY, fused=True)
        self.best_weights = copy.deepcopy(self.model.state_dict())
        self._resume()
        progress = self.progress
        if progress.epoch == progress.step == 0:
            progress.best = self.score()
        while True:
            self._epoch()
            value = self.score()
            progress.scores.append(value)
            if value > progress.best:
                progress.best = value
                self.best_weights = copy.deepcopy(self.model.state_dict())
            progress.epoch += 1
            progress.step = 0
            if progress.last_epoch or progress.epoch >= self.schedule.epochs:
                break
            waited = len(progress.scores) - 1 - int(np.argmax(progress.scores))
            if waited >= self.schedule.patience or progress.epoch == self.schedule.epochs - 1:
                progress.last_epoch = True
                self.model.load_state_dict(self.best_weights)
        self.model.load_state_dict(self.best_weights)
        self.model.train(False)
        if self.state is not None:
            self.state.unlink(missing_ok=True)
        return {
            "scores": progress.scores,
            "epochs": progress.epoch,
            "train_seconds": progress.seconds,
            "rate": self.schedule.rate,
        }

    def _epoch(self) -> None:
        progress = self.progress
        started = processor_seconds()
        before = progress.seconds
        self.model.train()
        order = batches(self.rows, self.seed, progress.epoch)
        for indices in self._from(order):
            share = progress.step / len(order)
            self._set_rates(share)
            self.optimizer.zero_grad()
            self.loss(indices, progress.epoch + share).backward()
            nn.utils.clip_grad_norm_(self.trained, CLIP)
            self.optimizer.step()
            progress.step += 1
            progress.seconds = before + processor_seconds() - started
            if self.state is not None and time.monotonic() - self.saved > SECONDS_BETWEEN_STATES:
                self._save()
                self.saved = time.monotonic()

    def _from(self, order: list[list[int]]) -> Iterator[list[int]]:
        yield from order[self.progress.step :]

    def _set_rates(self, share: float) -> None:
        """Warm up in the first half epoch, fall to 0 in the last one."""
        factor = min(1.0, 2 * share + 0.01) if self.progress.epoch == 0 else 1.0
        if self.progress.last_epoch:
            factor = 1.0 - share
        for group in self.optimizer.param_groups:
            group["lr"] = factor * self.schedule.rate

    def _save(self) -> None:
        assert self.state is not None
        self.state.parent.mkdir(parents=True, exist_ok=True)
        partial = self.state.with_suffix(".partial")
        content = {
            "model": self.model.state_dict(),
            "best": self.best_weights,
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "progress": json.dumps(vars(self.progress)),
        }
        torch.save(content, partial)
        partial.replace(self.state)

    def _resume(self) -> None:
        if self.state is None or not self.state.exists():
            return
        content = torch.load(self.state, weights_only=True)
        self.model.load_state_dict(content["model"])
        self.best_weights = content["best"]
        self.optimizer.load_state_dict(content["optimizer"])
        torch.set_rng_state(content["random"])
        self.progress = Progress(**json.loads(content["progress"]))
