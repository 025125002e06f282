"""Exits trained together with the network, with Shallow-Deep's rising weights; read by four signals."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from judge import cost
from judge.answers import Answers
from judge.exits import FIRST_WEIGHT, RISING_EPOCHS, Exit, exit_costs
from judge.networks import Network, accuracy, mean_of_tokens, over
from judge.training import Fit, Schedule

if TYPE_CHECKING:
    from pathlib import Path

    from judge.data import Parts, Rows


class JointExits(nn.Module):
    """A copy of the reference with an exit behind every layer but the last, and a learned certainty (BERxiT's)."""

    def __init__(self, network: Network, readout: str) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.readout = readout
        self.exits = nn.ModuleList(Exit(network) for _ in range(len(network.layers) - 1))
        self.certainty = nn.Linear(network.config.hidden_size, 1)

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Answer at every exit: logits ``[exits + 1, batch, labels]`` and certainties, logits ``[exits, batch]``."""
        mask = inputs["attention_mask"]
        states = self.network.states(inputs)
        read = [hidden[:, 0] if self.readout == "cls" else mean_of_tokens(hidden, mask) for hidden in states[1:-1]]
        logits = [leave(vector) for leave, vector in zip(self.exits, read, strict=True)]
        # The certainty must not change what it judges.
        certainty = torch.stack([self.certainty(vector.detach()).squeeze(-1) for vector in read])
        return torch.stack([*logits, self.network.read(states[-1], mask)]), certainty


def exit_weights(network: Network, epochs: float) -> list[float]:
    """Weights of the exits' losses: each rises to the exit's share of the cost; the last answer's is 1 throughout.

    Kaya et al., "Shallow-Deep Networks" (ICML 2019), section 4.
    """
    count = len(network.layers)
    risen = min(1.0, epochs / RISING_EPOCHS)
    return [FIRST_WEIGHT + risen * (index / count - FIRST_WEIGHT) for index in range(1, count)] + [1.0]


def joint_loss(logits: Tensor, certainty: Tensor, labels: Tensor, weights: list[float]) -> Tensor:
    """Weigh every exit's cross-entropy, and teach the certainty which exits are right."""
    each = torch.stack([F.cross_entropy(of_exit, labels) for of_exit in logits])
    right = (logits[:-1].argmax(-1) == labels).to(certainty.dtype)
    learned = F.binary_cross_entropy_with_logits(certainty, right)
    return (each * torch.tensor(weights)).sum() + learned


def joint_exits(
    network: Network, parts: Parts, *, readout: str, seed: int, schedule: Schedule, state: Path | None = None
) -> tuple[dict[str, Answers], dict[str, Any]]:
    """Train all exits and the network together, from the reference."""
    torch.manual_seed(seed)
    model = JointExits(network, readout)
    labels = torch.from_numpy(parts.train.labels)

    def loss(indices: list[int], epochs: float) -> Tensor:
        logits, certainty = model(parts.train.batch(indices))
        return joint_loss(logits, certainty, labels[indices], exit_weights(network, epochs))

    def outputs(rows: Rows) -> tuple[Any, Any]:
        model.train(False)

        def both(inputs: dict[str, Tensor]) -> Tensor:
            logits, certainty = model(inputs)
            last = torch.zeros_like(certainty[:1])
            return torch.cat([logits, torch.cat([certainty, last]).unsqueeze(-1)], dim=-1)

        values = over(rows, both)
        return values[..., :-1], values[:-1, :, -1]

    def score() -> float:
        logits, _ = outputs(parts.held_out)
        return float(np.mean([accuracy(of_exit, parts.held_out.labels) for of_exit in logits]))

    record = Fit(model, parts.train, loss, score, seed=seed, schedule=schedule, state=state).run()
    per_exit = cost.head(network.config, network.labels) + 2.0 * network.config.hidden_size

    def answer(rows: Rows) -> Answers:
        logits, certainty = outputs(rows)
        return Answers(logits, exit_costs(network, rows.lengths, per_exit), {"certainty": certainty})

    return parts.measured(answer), record | {"readout": readout}
