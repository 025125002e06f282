"""What every sub-network says about every text, of a trained model or of an export."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from sharcs.calibration.latency import measure_export_times, measure_times
from sharcs.data.tokens import label_ids
from sharcs.evaluation.exported import export_batches, run_export
from sharcs.evaluation.numbers import record_numbers
from sharcs.evaluation.widths import run_all_widths, width_batches
from sharcs.inference.engine import InferenceEngine
from sharcs.inference.exported import ExportedModel
from sharcs.inference.folder import TrainedImages
from sharcs.inference.reading import collator_of, rows_of
from sharcs.tasks.base import require_right_or_wrong

if TYPE_CHECKING:
    from collections.abc import Callable

    from sharcs.data.texts import TextData
    from sharcs.evaluation.answers import AllAnswers
    from sharcs.evaluation.numbers import AllNumbers
    from sharcs.inference.folder import TrainedModel


def count_cut(network: TrainedModel | ExportedModel, data: TextData, answers: AllAnswers) -> int:
    """Count texts that have more tokens than the network read of them.

    Args:
        network: A trained model, or an export.
        data: The texts.
        answers: From :func:`all_answers`.
    """
    if isinstance(network, ExportedModel):
        return network.model.count_cut(data.inputs, answers.lengths)
    if isinstance(network, TrainedImages):
        return 0
    return InferenceEngine(network.model, network.tokenizer).count_cut(data.inputs, answers.lengths)


def all_answers(
    network: TrainedModel | ExportedModel,
    data: TextData,
    *,
    labelled: bool,
    blend: float | None = None,
    timed: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> AllAnswers:
    """Run every text at every width, in the numbers and on the runtime that the network is served with.

    Args:
        network: A trained model, or an export.
        data: The texts.
        labelled: Whether labels are recorded, too.
        blend: Weight of the answer at hand where an input escalates; by default the policy's.
        timed: Whether milliseconds are measured, too.
        on_batch: Called with the number of inputs after each batch, for a progress bar.

    Raises:
        InputError: If a label is none of the network's classes, or is missing, or an export has no full network.
    """
    known = network.model.config.class_indices
    require_right_or_wrong(network.model.config.problem_type, "answers")
    if isinstance(network, ExportedModel):
        labels = label_ids(data, known) if labelled else None
        texts = data.inputs
        answers = run_export(network.model, texts, on_batch, blend, labels)
        return replace(answers, way_milliseconds=measure_export_times(network.model, texts)) if timed else answers
    model, tokenizer = network.model, network.tokenizer
    rows = rows_of(data, tokenizer, model.config.encoder, known if labelled else None)  # type: ignore[arg-type]
    collate = collator_of(tokenizer)
    answers = run_all_widths(
        model,
        rows,
        collate,
        on_batch=on_batch,
        blend=blend,
        labels=rows["labels"] if labelled else None,
        max_length=None if isinstance(network, TrainedImages) else tokenizer.model_max_length,
    )
    return replace(answers, way_milliseconds=measure_times(model, rows, collate)) if timed else answers


def all_numbers(
    network: TrainedModel | ExportedModel, data: TextData, *, on_batch: Callable[[int], None] | None = None
) -> AllNumbers:
    """Run every text at every width of a regression; see :func:`all_answers`."""
    if isinstance(network, ExportedModel):
        return record_numbers(*export_batches(network.model, data.inputs, on_batch))
    model, tokenizer = network.model, network.tokenizer
    rows = rows_of(data, tokenizer, model.config.encoder)  # type: ignore[arg-type]
    return record_numbers(*width_batches(model, rows, collator_of(tokenizer), on_batch=on_batch))
