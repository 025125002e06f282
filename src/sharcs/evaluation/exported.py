"""Runs an export at every width on every input: its own graphs, in the numbers that they compute in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sharcs.errors import InputError
from sharcs.evaluation.record import record_answers
from sharcs_runtime.ways import ways_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import ArrayLike

    from sharcs.evaluation.answers import AllAnswers
    from sharcs_runtime.bundle import Bundle
    from sharcs_runtime.onnx import OnnxRunner
    from sharcs_runtime.tokens import Text
    from sharcs_runtime.ways import Doubles, Numbers, Singles


def export_batches(
    runner: OnnxRunner, texts: Sequence[Text], on_batch: Callable[[int], None] | None = None
) -> tuple[Iterator[tuple[Numbers, Singles, Singles]], Numbers, int, Doubles]:
    """Prepare to run every text at every width of an export; see :func:`sharcs.evaluation.widths.width_batches`."""
    config = runner.config
    check_comparable(config)
    lengths = np.zeros(len(texts), np.int64)

    def batches() -> Iterator[tuple[Numbers, Singles, Singles]]:
        for batch in runner.run_all(texts):
            lengths[batch.rows] = batch.lengths  # which is read when all batches are there
            yield batch.rows, batch.logits, batch.router_logits
            if on_batch:
                on_batch(len(batch.rows))

    return batches(), lengths, len(config.names), export_coefficients(config)


def run_export(
    runner: OnnxRunner,
    texts: Sequence[Text],
    on_batch: Callable[[int], None] | None = None,
    blend: float | None = None,
    labels: ArrayLike | None = None,
) -> AllAnswers:
    """Run every text at every width of an export; see :func:`sharcs.evaluation.widths.run_all_widths`.

    Args:
        runner: Of the export, without a forced width.
        texts: All strings, or all pairs of strings. They are batched as the runner batches them for its own answers,
            on which answers in int8 depend a little.
        on_batch: Called with the number of inputs after each batch, for a progress bar.
        blend: Weight of the answer at hand where an input escalates; by default the policy's.
        labels: True classes, ``[inputs]``, or None.

    Returns:
        What every sub-network says, alone and after others.

    Raises:
        InputError: If the export holds a narrow network alone, or an earlier version did not write all costs.
    """
    config = runner.config
    batches, lengths, _, coefficients = export_batches(runner, texts, on_batch)
    policy = config.routing_policy
    return record_answers(
        batches,
        tuple(config.names),
        lengths,
        coefficients,
        problem_type=config.problem_type,
        blend=policy.blend if blend is None else blend,
        signals={"probability", policy.signal},
        labels=labels,
        max_length=config.max_length,
        numbers=config.numbers,
        runtime=config.runtime,
    )


def check_comparable(config: Bundle) -> None:
    """Refuse an export without a full network to compare with, or without all costs.

    Raises:
        InputError: If it is one.
    """
    if config.trunk is None and config.widths[-1] != 1.0:
        raise InputError(
            f"{config.folder}: holds {config.names[-1]} alone, and no full network to compare it with; export "
            "without `width`, and give it here"
        )
    if config.continuation is None and len(config.names) - config.front > 1:
        raise InputError(
            f"{config.folder}: was written by a version that did not write what escalating costs; export again"
        )


def export_coefficients(config: Bundle) -> Doubles:
    """Write the FLOPs of ways, and last of the plain full network, as polynomials: ``[ways + 1, 3]``."""
    return np.stack([*config.costs.along(ways_of(len(config.names)), config.front), config.costs.alone[-1]])
