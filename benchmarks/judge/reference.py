"""The one reference: plain fine-tuning of the whole encoder, until held-out rows stop rising."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812

from judge.networks import READOUTS, Network, accuracy, over
from judge.training import Fit, Schedule
from sharcs.data.sampling import sampled_rows

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from judge.data import Parts

RATES = (1e-4, 2e-4)
TRIAL_ROWS = 2000
TRIAL_TOKENS = 60_000


def fine_tune(
    network: Network, parts: Parts, *, seed: int, schedule: Schedule, state: Path | None = None
) -> dict[str, Any]:
    """Fine-tune a network on labels, and leave its best weights in it; returns the training's record."""
    labels = torch.from_numpy(parts.train.labels)

    def loss(indices: list[int], _epochs: float) -> Tensor:
        return F.cross_entropy(network(parts.train.batch(indices)), labels[indices])

    def score() -> float:
        network.train(False)
        return accuracy(over(parts.held_out, network), parts.held_out.labels)

    return Fit(network, parts.train, loss, score, seed=seed, schedule=schedule, state=state).run()


def new_network(parts: Parts, readout: str, seed: int, layers: int | None = None) -> Network:
    """Take the pretrained encoder, with a classifier that the seed draws."""
    torch.manual_seed(seed)
    return Network(len(parts.classes), readout, layers)


def part_of(parts: Parts) -> Parts:
    """Keep as much of train as settings are tried on; see :func:`trial`."""
    rows = int(max(TRIAL_ROWS, TRIAL_TOKENS / parts.train.lengths.mean()))
    names = [parts.classes[label] for label in parts.train.labels]
    kept = sampled_rows(names, min(rows, len(parts.train)), seed=0)
    return replace(parts, train=parts.train.take(kept), test=parts.test.take([]))


def trial(parts: Parts) -> list[dict[str, Any]]:
    """Try both read-outs and the rates for two epochs on a part of train; held-out rows score them.

    The part has 60,000 tokens at most, so that a trial takes a few minutes; with few rows a class all read-outs look
    alike, hence at least 2,000 rows where there are.
    """
    small = part_of(parts)
    tried = []
    for readout in READOUTS:
        for rate in RATES:
            network = new_network(parts, readout, 0)
            record = fine_tune(network, small, seed=0, schedule=Schedule(rate, epochs=2))
            tried.append({"readout": readout, "rate": rate, "rows": len(small.train), **record})
    return tried
