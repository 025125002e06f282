"""What a method says about held-out and test rows: the file that all scores are read from, and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pathlib import Path

STEP = 64  # logits are rounded to a 64th, about what half precision keeps of them, so that they compress
PARTS = ("held_out", "test")

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of a method's steps to some rows, whether an input would have come so far or not.

    Steps are exits, sub-networks, or one for a network that always runs whole.

    Attributes:
        logits: ``[steps, rows, classes]``.
        cost: FLOPs when an input leaves after a step, ``[steps, rows]``.
        signals: Further numbers by name, ``[steps or other, rows]`` each.
    """

    logits: NDArray[np.float32]
    cost: Floats
    signals: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The classes named, ``[steps, rows]``."""
        found: NDArray[np.int64] = self.logits.argmax(-1)
        return found

    def step(self, index: int) -> Answers:
        """One step alone."""
        return Answers(self.logits[[index]], self.cost[[index]])


def save(path: Path, parts: dict[str, Answers], record: dict[str, Any]) -> None:
    """Write a method's answers and its record, in half precision and compressed; whole or not at all."""
    arrays: dict[str, Any] = {"record": np.array(json.dumps(record))}
    for part, answers in parts.items():
        centred = answers.logits - answers.logits.mean(-1, keepdims=True)
        arrays[f"{part}/logits"] = (np.round(centred * STEP) / STEP).astype(np.float16)
        arrays[f"{part}/cost"] = answers.cost.astype(np.float32)
        for name, values in answers.signals.items():
            arrays[f"{part}/signals/{name}"] = values.astype(np.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    partial.replace(path)


def read(path: Path) -> tuple[dict[str, Answers], dict[str, Any]]:
    """Read what :func:`save` wrote."""
    parts = {}
    with np.load(path, allow_pickle=False) as arrays:
        for part in PARTS:
            if f"{part}/logits" not in arrays:
                continue
            prefix = f"{part}/signals/"
            signals = {
                name.removeprefix(prefix): arrays[name].astype(np.float32)
                for name in arrays.files
                if name.startswith(prefix)
            }
            logits = arrays[f"{part}/logits"].astype(np.float32)
            parts[part] = Answers(logits, arrays[f"{part}/cost"].astype(np.float64), signals)
        return parts, json.loads(str(arrays["record"]))
