"""Learning rates of parts that learn faster than the rest, in epochs of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn
    from torch.optim import Optimizer

__all__ = ["Phase", "phase_of", "separate_groups"]


@dataclass(frozen=True, slots=True)
class Phase:
    """When and how fast some parameters learn.

    Attributes:
        start: The first epoch, from 0.
        epochs: How many.
        rate: Multiple of the learning rate.
    """

    start: float
    epochs: float
    rate: float = 1.0

    def share_done(self, epochs: float) -> float:
        """Compute how much of the phase is over after that many epochs, from 0 to 1."""
        return min(max((epochs - self.start) / self.epochs, 0.0), 1.0) if self.epochs else 1.0


def separate_groups(optimizer: Optimizer, phases: Mapping[nn.Parameter, Phase]) -> None:
    """Move parameters that have a phase of their own into groups of their own, at their rate."""
    for group in list(optimizer.param_groups):
        options = {name: value for name, value in group.items() if name not in ("params", "initial_lr")}
        moved: dict[Phase, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter in phases:
                moved.setdefault(phases[parameter], []).append(parameter)
        group["params"] = [parameter for parameter in group["params"] if parameter not in phases]
        for phase, parameters in moved.items():
            optimizer.add_param_group({**options, "params": parameters, "lr": phase.rate * group["lr"]})


def phase_of(group: dict[str, Any], phases: Mapping[nn.Parameter, Phase], otherwise: Phase) -> Phase:
    """Look up the phase of an optimiser's group."""
    return phases.get(group["params"][0], otherwise) if group["params"] else otherwise
