"""One way of training for every method: the same trainer, optimiser, batches and choice of the epoch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from common import collator, on_gpu, training_precision
from sharcs.evaluation.inputs import model_inputs
from sharcs.inference.folder import best_device

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def training_columns(rows: Any) -> Any:
    """Leave the texts away; batches are put together by length."""
    return rows.select_columns([name for name in (*INPUTS, "labels", "length") if name in rows.column_names])


def settings(folder: str, seed: int, epochs: float, learning_rate: float) -> dict[str, Any]:
    return {
        "output_dir": folder,
        "seed": seed,
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
        "per_device_train_batch_size": 32,
        "train_sampling_strategy": "group_by_length",
        "save_strategy": "no",
        "report_to": [],
        "logging_steps": 100,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "use_cpu": not on_gpu(),
        "bf16": training_precision() == "bfloat16",
        **({"tf32": True} if training_precision() == "tfloat32" else {}),
    }


class KeepBest(TrainerCallback):
    """Scores the model on held-out rows after every epoch and keeps the best epoch's weights."""

    def __init__(self, model: nn.Module, score: Callable[[], float]) -> None:
        self.model, self.score = model, score
        self.best, self.weights, self.scores = float("-inf"), None, []

    def on_epoch_end(self, *args: Any, **kwargs: Any) -> None:
        was_training = self.model.training
        value = self.score()
        self.model.train(was_training)
        self.scores.append(value)
        if value > self.best:
            self.best, self.weights = value, copy.deepcopy(self.model.state_dict())

    def restore(self) -> None:
        assert self.weights is not None
        self.model.load_state_dict(self.weights)
        self.model.train(False)


def fit(
    model: nn.Module, rows: Any, score: Callable[[], float], *, seed: int, epochs: float, learning_rate: float
) -> list[float]:
    """Train what asks for gradients and go back to the best epoch; returns every epoch's score on held-out rows."""
    best, collate = KeepBest(model, score), collator()
    arguments = settings(f"/tmp/sharcs-peer-{seed}", seed, epochs, learning_rate)
    trainer = Trainer(
        model=model,
        # Else the trainer drops what the model's forward doesn't name.
        args=TrainingArguments(**arguments, remove_unused_columns=False),
        train_dataset=training_columns(rows),
        data_collator=lambda some: collate([{k: v for k, v in row.items() if k != "length"} for row in some]),
        callbacks=[best],
    )
    trainer.train()
    best.restore()
    return best.scores


@torch.inference_mode()
def run_all(answer: Callable[[dict[str, Any]], Any], rows: Any, batch_size: int = 64) -> tuple[Any, torch.Tensor]:
    """Apply ``answer`` to every row, by length; returns its tensors ``[..., inputs, last]`` in order, and lengths.

    It is given batches on the best device; what is returned is on the CPU.
    """
    collate = collator()
    lengths = torch.tensor(rows["length"])
    order = lengths.argsort(descending=True, stable=True)
    parts = []
    for start in range(0, len(order), batch_size):
        chosen = [rows[int(i)] for i in order[start : start + batch_size]]
        batch = collate([model_inputs(row) for row in chosen])
        found = answer({name: value.to(best_device()) for name, value in batch.items()})
        parts.append([tensor.cpu() for tensor in found])
    back = order.argsort()
    merged = [torch.cat(tensors, dim=1)[:, back] for tensors in zip(*parts, strict=True)]
    return merged, lengths
