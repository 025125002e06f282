"""Runs a model at every width on every input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from sharcs.errors import InputError
from sharcs.evaluation.inputs import model_inputs, token_counts
from sharcs.evaluation.record import record_answers
from sharcs_runtime.scores import MULTI_LABEL, SINGLE_LABEL
from sharcs_runtime.ways import ways_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence, Sized

    from numpy.typing import ArrayLike
    from torch import Tensor

    from sharcs.evaluation.answers import AllAnswers
    from sharcs.model.base import RoutedModel
    from sharcs_runtime.ways import Doubles, Numbers, Singles, Way

    Collate = Callable[[list[dict[str, Any]]], dict[str, Tensor]]


def width_batches(
    model: RoutedModel,
    rows: Sized,
    collate: Collate,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
) -> tuple[Iterator[tuple[Numbers, Singles, Singles]], Numbers, int, Doubles]:
    """Prepare to run every input at every width; the arguments are those of :func:`run_all_widths`.

    Returns:
        What :func:`sharcs.evaluation.numbers.record_numbers` takes: batches, lengths, the number of sub-networks, and
        what ways cost.
    """
    model.train(False)
    lengths = np.array(token_counts(model, rows), np.int64)
    count = len(model.config.names)
    batches = _batches(model, rows, collate, lengths, batch_size, on_batch)
    return batches, lengths, count, way_coefficients(model, ways_of(count))


def run_all_widths(
    model: RoutedModel,
    rows: Sized,
    collate: Collate,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
    blend: float | None = None,
    labels: ArrayLike | None = None,
    max_length: int | None = None,
) -> AllAnswers:
    """Run every input at every width.

    Args:
        model: The routed network; it is put into evaluation mode.
        rows: Tokenised inputs, a map-style data set; only what the tokenizer makes is read.
        collate: Pads rows into a batch.
        batch_size: Inputs a batch; they are ordered by length, so that little is padded.
        on_batch: Called with the number of inputs after each batch, for a progress bar.
        blend: Weight of the answer at hand where an input escalates; by default the policy's.
        labels: True classes, ``[inputs]``, or zeros and ones, ``[inputs, labels]``; None if there are none.
        max_length: The most tokens of any input, of those to come too; by default of these.

    Returns:
        What every sub-network says, alone and after others.

    Raises:
        InputError: If the model is a regression, or answers for tokens: that is not right or wrong as a whole. And if
            the labels are of another form than its answers.
    """
    if model.problem_type not in (SINGLE_LABEL, MULTI_LABEL):
        raise InputError(
            f"problem_type {model.problem_type}: its answers are not right or wrong as a whole; compare "
            "model(**batch, widths='all') by a measure of your own"
        )
    policy = model.config.routing_policy
    batches, lengths, _, coefficients = width_batches(model, rows, collate, batch_size, on_batch)
    return record_answers(
        batches,
        tuple(model.config.names),
        lengths,
        coefficients,
        problem_type=model.problem_type,
        blend=policy.blend if blend is None else blend,
        signals={"probability", policy.signal},
        labels=labels,
        max_length=max_length,
        numbers=str(model.dtype).removeprefix("torch."),
    )


def _batches(
    model: RoutedModel,
    rows: Sized,
    collate: Collate,
    lengths: Numbers,
    batch_size: int,
    on_batch: Callable[[int], None] | None,
) -> Iterator[tuple[Numbers, Singles, Singles]]:
    """Run batches of like lengths: the inputs' indices, the logits of every width, and the router's."""
    order = np.argsort(-lengths, kind="stable")
    loader: DataLoader[Any] = DataLoader(
        rows,  # type: ignore[arg-type]
        sampler=order.tolist(),
        batch_size=batch_size,
        collate_fn=lambda batch: collate([model_inputs(row) for row in batch]),
    )
    for number, batch in enumerate(loader):
        with torch.inference_mode():
            outputs = model(**{name: value.to(model.device) for name, value in batch.items()}, widths="all")
        indices = order[number * batch_size : (number + 1) * batch_size]
        yield indices, outputs.width_logits.float().cpu().numpy(), outputs.router_logits.float().cpu().numpy()
        if on_batch:
            on_batch(len(indices))


def way_coefficients(model: RoutedModel, ways: Sequence[Way]) -> Doubles:
    """Write the FLOPs of ways, and last of the plain full network, as polynomials: ``[ways + 1, 3]``."""
    costs = model.costs()
    return np.stack([*costs.along(ways, len(model.tail.front)), costs.alone[-1]])
