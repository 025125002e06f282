"""What a policy answers, row by row, beside what every width would have said: the rows behind a report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sharcs.evaluation.widths import Costs, WidthOutputs, route, run_all_widths
from sharcs.tasks.labels import require_one_label

if TYPE_CHECKING:
    from collections.abc import Callable, Sized

    from numpy.typing import NDArray
    from torch import Tensor

    from sharcs.model.text import SharcsForSequenceClassification

__all__ = ["Answers", "answer_at_all_widths"]


@dataclass(frozen=True, slots=True)
class Answers:
    """The configured policy on some inputs, in their order.

    Attributes:
        outputs: What every width says, from :func:`sharcs.evaluation.widths.run_all_widths`.
        labels: True classes, int64 ``[inputs]``, or None.
        label_scores: Probability that each width gives to the true class, ``[inputs, widths]``, or None.
        first: Index of the width that each input runs first, int64 ``[inputs]``.
        last: Index of the one that answers.
        routed: The policy's answer, a class, int64 ``[inputs]``.
        routed_scores: Its probability, ``[inputs]``.
        spent: FLOPs, float64 ``[inputs]``.
    """

    outputs: WidthOutputs
    labels: NDArray[np.int64] | None
    label_scores: NDArray[np.float64] | None
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    routed: NDArray[np.int64]
    routed_scores: NDArray[np.float64]
    spent: NDArray[np.float64]

    def __len__(self) -> int:
        """Return the number of inputs."""
        return len(self.last)

    @property
    def predictions(self) -> NDArray[np.int64]:
        """Class that each width names, ``[inputs, widths]``."""
        found: NDArray[np.int64] = self.outputs.predictions.numpy()
        return found

    @property
    def scores(self) -> NDArray[np.float64]:
        """Its probability, ``[inputs, widths]``."""
        found: NDArray[np.float64] = self.outputs.scores.double().numpy()
        return found

    @property
    def disagrees(self) -> NDArray[np.bool_]:
        """Whether the answer is another than the full network's, ``[inputs]``."""
        found: NDArray[np.bool_] = self.routed != self.predictions[:, -1]
        return found


def answer_at_all_widths(
    model: SharcsForSequenceClassification,
    rows: Sized,
    collate: Callable[[list[dict[str, Any]]], dict[str, Tensor]],
    labels: Tensor | None,
    on_batch: Callable[[int], None] | None = None,
) -> Answers:
    """Run every input at every width, and apply the configured policy.

    Args:
        model: The routed network.
        rows: Tokenised inputs.
        collate: Pads rows into a batch.
        labels: True classes, int64 ``[inputs]``, or None.
        on_batch: Called with the number of inputs after each batch.

    Raises:
        InputError: If the model doesn't name one class for each input.
    """
    require_one_label(model.problem_type, "a report")
    shape = (len(rows), len(model.config.widths))
    # Of the labels' and the answers' classes alone: all probabilities of a thousand classes would fill the memory.
    of_labels, of_escalated = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)

    def keep(indices: Tensor, every: Tensor, mixed: Tensor) -> None:
        of_escalated[indices] = mixed.softmax(dim=-1).amax(dim=-1).T.double().cpu()
        if labels is not None:
            wanted = labels[indices].to(every.device).expand(len(every), -1).unsqueeze(-1)  # [widths, batch, 1]
            of_labels[indices] = every.softmax(dim=-1).gather(-1, wanted).squeeze(-1).T.double().cpu()

    outputs = run_all_widths(model, rows, collate, on_batch=on_batch, on_logits=keep)
    costs = Costs.of(model, outputs.lengths)
    first, last = route(outputs, costs, model.config.routing_policy)
    row = torch.arange(len(last))
    scores = torch.where(first == last, outputs.scores.double()[row, last], of_escalated[row, first])
    return Answers(
        outputs=outputs,
        labels=None if labels is None else labels.numpy(),
        label_scores=None if labels is None else of_labels.numpy(),
        first=first.numpy(),
        last=last.numpy(),
        routed=outputs.answers(first, last).numpy(),
        routed_scores=scores.numpy(),
        spent=costs.spent(first, last).numpy(),
    )
