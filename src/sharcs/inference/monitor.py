"""Watch, while a model serves, whether its narrow answers still agree with the full network as promised.

A share of the inputs is checked: the full network runs on them too. That every input may be drawn, one answered at
full width too, corrects for share and for inputs that can't disagree, which cost nothing to check: the rate among the
checked inputs is the rate of all. An answer that is averaged with those of smaller networks is not the full network's
own, and may disagree. Counts and alarm are :mod:`sharcs_runtime.drift`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from sharcs.config import RoutingPolicy
from sharcs.model.context import select_rows
from sharcs.tasks.base import require_one_label
from sharcs_runtime.drift import DisagreementCounter

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from sharcs.model.outputs import SharcsOutput
    from sharcs.model.text import SharcsForSequenceClassification


@dataclass(eq=False)
class DriftMonitor(DisagreementCounter):
    """Raises an alarm when narrow answers of a model disagree with its full network more often than promised.

    Args:
        max_disagreement: As for :class:`~sharcs_runtime.drift.DisagreementCounter`, like what follows.
        confidence: See there.
        check_share: See there.
        seed: See there.
        fall_back: Whether :meth:`predict` runs every input at full width after an alarm.
    """

    fall_back: bool = False

    def policy(self, model: SharcsForSequenceClassification) -> RoutingPolicy:
        """Return the model's policy, and after an alarm one that sends every input through the full network."""
        if not self.alarm:
            return model.config.routing_policy
        return RoutingPolicy(start=model.config.names[-1])

    @torch.inference_mode()
    def predict(
        self, model: SharcsForSequenceClassification, batch: dict[str, Tensor], name: str | None = None
    ) -> SharcsOutput:
        """Answer a batch by the model's policy, and run the full width on the inputs that are due.

        Args:
            model: The routed network, in evaluation mode.
            batch: Its inputs, padded, on its device; no labels.
            name: Of the batch, where it may come twice; it is counted once then. Each name is kept.

        Returns:
            The policy's answers; the full width's after an alarm, if the monitor falls back.

        Raises:
            InputError: If the model doesn't name one class for each input; use :meth:`draw` and :meth:`record`.
        """
        require_one_label(model.problem_type, "DriftMonitor.predict")
        if self.alarm and self.fall_back:
            return model(**batch, width=1.0)  # type: ignore[no-any-return]
        outputs: SharcsOutput = model(**batch)
        assert outputs.logits is not None
        assert outputs.width_index is not None
        size = len(outputs.logits)
        due = self.draw(size, name)
        disagreed = np.zeros(size, dtype=bool)
        rows = torch.from_numpy(np.flatnonzero(due & _may_disagree(model, outputs))).to(outputs.logits.device)
        if len(rows):
            full = model(**{name: select_rows(value, rows, size) for name, value in batch.items()}, width=1.0)
            other = full.logits.argmax(dim=-1) != outputs.logits[rows].argmax(dim=-1)
            disagreed[rows.cpu().numpy()] = other.cpu().numpy()
        self.record(disagreed[due], name, size)
        return outputs


def _may_disagree(model: SharcsForSequenceClassification, outputs: SharcsOutput) -> NDArray[np.bool_]:
    """Tell which answers, ``[batch]``, are not the full network's own: not asked, or others were averaged in."""
    assert outputs.width_index is not None
    full = len(model.config.widths) - 1
    asked = outputs.width_index == full
    if outputs.first_width_index is not None and model.config.routing_policy.blend > 0:
        asked &= outputs.first_width_index == full
    may: NDArray[np.bool_] = (~asked).cpu().numpy()
    return may
