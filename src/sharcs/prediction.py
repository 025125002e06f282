"""Classify the rows of a table, each at its own width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding

from sharcs.data import tokenise

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharcs.artifacts import TrainedModel
    from sharcs.data import TextData

__all__ = ["predict_table"]

MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@torch.inference_mode()
def predict_table(
    trained: TrainedModel,
    data: TextData,
    width: float | None = None,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> pa.Table:
    """Add prediction, score and width to the rows of a table.

    Args:
        trained: Model and tokenizer.
        data: Texts with their table.
        width: Forces one width; by default the routing policy chooses.
        batch_size: Inputs a batch; they are ordered by length, so that little is padded.
        on_batch: Called with the number of inputs after each batch, for a progress bar.

    Returns:
        The table's columns and rows as they are, then ``prediction`` (the class's name), ``score`` (its
        probability) and ``width``. A new column whose name is taken gets a number behind it.
    """
    model = trained.model
    rows = tokenise(data, trained.tokenizer, max_length=trained.tokenizer.model_max_length)
    order = torch.tensor(rows["length"]).argsort(descending=True, stable=True)
    rows = rows.select_columns([name for name in MODEL_INPUTS if name in rows.column_names])
    loader: DataLoader[Any] = DataLoader(
        rows, sampler=order.tolist(), batch_size=batch_size, collate_fn=DataCollatorWithPadding(trained.tokenizer)
    )
    best, scores, indices = [], [], []
    for batch in loader:
        outputs = model(**{name: value.to(model.device) for name, value in batch.items()}, width=width)
        top = outputs.logits.float().softmax(dim=-1).max(dim=-1)
        best.append(top.indices)
        scores.append(top.values)
        indices.append(outputs.width_index)
        if on_batch:
            on_batch(len(top.indices))
    back = order.argsort()
    classes, probabilities, widths = (torch.cat(parts).cpu()[back].tolist() for parts in (best, scores, indices))
    names = dict(model.config.id2label or {})
    added = {
        "prediction": pa.array([names[index] for index in classes], pa.string()),
        "score": pa.array(probabilities, pa.float64()),
        "width": pa.array([model.config.widths[index] for index in widths], pa.float64()),
    }
    table = data.table
    for name, values in added.items():
        table = table.append_column(free_name(name, table.column_names), values)
    return table


def free_name(name: str, taken: list[str]) -> str:
    """Find a column name that overwrites nothing: the name itself, or the first of name_2, name_3, ... ."""
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate
