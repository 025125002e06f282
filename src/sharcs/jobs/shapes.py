"""What ``--sub-networks auto`` puts in front: the largest shapes that this machine runs fast enough."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sharcs.evaluation.inputs import model_inputs, token_counts
from sharcs.inference.folder import SETTINGS_FILE, read_settings
from sharcs.spec import COMPACT, FIRST, LEXICAL, RECURRENT, SubnetworkSpec, front_spec
from sharcs_runtime.policy import flops

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedConfig

    from sharcs.jobs.work import Work
    from sharcs.model.base import RoutedModel

# What a first answer may take of the full network's time: the first of all hardly anything, since every input pays
# for it, and the last in front as much as half of the layers with a quarter of the heads do.
MOST_TIME = {LEXICAL: 0.02, RECURRENT: 0.03, COMPACT: 0.15}
RECURRENT_TIMES = (0.5, 1, 2, 4)  # of the usual size
COMPACT_SHARES = ((1 / 3, 1 / 4), (1 / 2, 1 / 4), (2 / 3, 1 / 4), (1 / 3, 1 / 2), (1 / 2, 1 / 2))
BATCH, BATCHES, ROUNDS = 32, 2, 5


@dataclass(frozen=True, slots=True)
class Shape:
    """A sub-network that was tried.

    Attributes:
        spec: Its description.
        cost: Its FLOPs over the full network's.
        time: The same of milliseconds.
    """

    spec: SubnetworkSpec
    cost: float
    time: float


def candidates(encoder_config: PreTrainedConfig, kinds: Sequence[str], *, pairs: bool) -> list[SubnetworkSpec]:
    """List shapes around the usual ones, each with a name of its own.

    Args:
        encoder_config: The full encoder's.
        kinds: Which kinds.
        pairs: Whether inputs are pairs of texts.
    """
    sizes: dict[str, list[dict[str, Any]]] = {
        RECURRENT: [{"times": times} for times in RECURRENT_TIMES],
        COMPACT: [{"shares": shares} for shares in COMPACT_SHARES],
    }
    found: list[SubnetworkSpec] = []
    for kind in kinds:
        specs = [front_spec(encoder_config, kind, pairs=pairs, **size) for size in sizes.get(kind, [{}])]
        found += [replace(spec, name=f"{kind}{number}") for number, spec in enumerate(dict.fromkeys(specs))]
    return found


@torch.inference_mode()
def measured(model: RoutedModel, rows: Any, collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> list[Shape]:
    """Time every sub-network in front of a model, and the full network, in turns, on rows of middling lengths.

    Args:
        model: With the shapes in front; its weights don't matter.
        rows: Tokenised inputs.
        collate: Pads rows into a batch.
    """
    model.train(False)
    counts = token_counts(model, rows)
    by_length = sorted(range(len(counts)), key=counts.__getitem__)
    first = max(0, (len(by_length) - BATCH * BATCHES) // 2)
    middle = by_length[first : first + BATCH * BATCHES]
    batches = [
        {name: value.to(model.device) for name, value in collate([model_inputs(rows[row]) for row in part]).items()}
        for part in (middle[start : start + BATCH] for start in range(0, len(middle), BATCH))
    ]
    front = model.config.specs[: len(model.tail.front)]
    keys = [spec.name for spec in front] + [1.0]
    taken: dict[Any, list[float]] = {key: [] for key in keys}
    for _ in range(ROUNDS + 1):
        for key in keys:
            start = time.perf_counter()
            for batch in batches:
                model(**batch, width=key).logits.sum().item()  # which waits for a device
            taken[key].append(time.perf_counter() - start)
    # The first round is a warm-up.
    seconds = {key: float(np.median(of[1:])) for key, of in taken.items()}
    every = flops(model.cost_coefficients(), torch.tensor([counts[row] for row in middle])).sum(0)
    return [
        Shape(spec, float(every[place] / every[-1]), seconds[spec.name] / seconds[1.0])
        for place, spec in enumerate(front)
    ]


def chosen(tried: Sequence[Shape]) -> list[Shape]:
    """Take of each kind the one with the most FLOPs that is fast enough, else its fastest, by the kind's name."""
    found = []
    for kind in dict.fromkeys(shape.spec.kind for shape in tried):
        of_kind = [shape for shape in tried if shape.spec.kind == kind]
        fast = [shape for shape in of_kind if shape.time <= MOST_TIME[kind]]
        best = max(fast, key=lambda shape: shape.cost) if fast else min(of_kind, key=lambda shape: shape.time)
        found.append(replace(best, spec=replace(best.spec, name=kind)))
    return found


def said(shapes: Sequence[Shape]) -> str:
    """Say in a line what was chosen."""
    parts = [f"{shape.spec.name}{_size(shape.spec)} {100 * shape.time:.1f}%" for shape in shapes]
    return f"in front, with their share of the full network's time here: {', '.join(parts)}"


def _size(spec: SubnetworkSpec) -> str:
    if spec.kind == RECURRENT:
        return f" of {spec.neurons} units"
    return f" of {spec.layers} layers with {spec.heads} heads" if spec.kind == COMPACT else ""


def shapes_for(
    work: Work, collate: Callable[[list[Any]], dict[str, Any]], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Find out which sub-networks this machine runs fast enough in front; a resumed training keeps those it has.

    Args:
        work: With the usual ones in front.
        collate: Pads rows into a batch.
        say: Takes a line on what was found.

    Returns:
        Their descriptions, the cheapest first.
    """
    file = work.job.output / SETTINGS_FILE
    if work.job.resume and file.is_file() and (before := read_settings(file).get("shapes")):
        return list(before)
    tried = candidates(work.model.encoder.config, work.job.front, pairs=work.train.pairs is not None)
    model = work.load(FIRST, front=tuple(spec.to_dict() for spec in tried))
    found = chosen(measured(model, work.rows, collate))
    say(said(found))
    return [shape.spec.to_dict() for shape in found]
