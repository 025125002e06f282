"""What a checkpoint holds besides transformers' own, and which checkpoints are complete.

transformers writes a checkpoint's weights first and its ``trainer_state.json`` last. Ours is written before the
weights, and an older checkpoint's ``trainer_state.json`` is removed first: where a whole one stands, all files are of
one run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import TrainerCallback

from sharcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

STATE_FILE = "sharcs_state.safetensors"
LAST_FILE = "trainer_state.json"
OPTIMIZER_FILE = "optimizer.pt"
# The folders of sharcs+'s later runs, inside the first one's.
FRONT, SUBNETWORKS = "front", "subnetworks"


def save_state(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write our state into a checkpoint's folder, of which it makes an incomplete one.

    Args:
        folder: The checkpoint, which may be one of an older run.
        tensors: What a training needs to go on.
        facts: What it has to have in common with the training that goes on, and other values; as JSON.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LAST_FILE).unlink(missing_ok=True)
    save_file(dict(tensors), folder / STATE_FILE, metadata={name: json.dumps(value) for name, value in facts.items()})


def load_state(folder: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_state` wrote: tensors and facts."""
    with safe_open(Path(folder) / STATE_FILE, framework="pt") as file:
        facts = {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors, facts


def invalidate(folder: Path) -> None:
    """Let the checkpoints of an older run count as incomplete: a run begins that they are no part of."""
    for state in folder.glob(f"checkpoint-*/{STATE_FILE}"):
        state.unlink()


def check_same(folder: str | Path, facts: Mapping[str, Any]) -> None:
    """Refuse to go on from a checkpoint of another training.

    Args:
        folder: The checkpoint, a complete one.
        facts: What the training has now, by a name to show.

    Raises:
        InputError: If one of them is another one there.
    """
    then = {"processes": 1} | load_state(folder)[1]  # which those of earlier versions don't say
    for name, value in facts.items():
        if then.get(name) != value:
            was, now = ("others", "these") if name == "rows" else (then.get(name), value)
            raise InputError(
                f"{folder}: {name}: was made with {was}, not {now}; resume with the data and settings of the first "
                "start"
            )


def check_complete(folder: str | Path) -> None:
    """Refuse a checkpoint that nothing can go on from.

    Raises:
        InputError: If it was not written to its end, or without what the optimizer knows.
    """
    if not _is_complete(Path(folder)):
        raise InputError(f"{folder}: is no complete checkpoint of this recipe ({_missing(Path(folder))})")


def _missing(folder: Path) -> str:
    for name in (STATE_FILE, LAST_FILE):
        if not (folder / name).is_file():
            return f"{name} is missing"
    if not (folder / OPTIMIZER_FILE).is_file() and step_of(folder) > 0:
        return f"{OPTIMIZER_FILE} is missing; save_only_model leaves it out"
    return f"{LAST_FILE} is cut off"


def _is_complete(folder: Path) -> bool:
    if not (folder / STATE_FILE).is_file() or not (folder / LAST_FILE).is_file():
        return False
    if not (folder / OPTIMIZER_FILE).is_file() and step_of(folder) > 0:
        return False
    try:
        json.loads((folder / LAST_FILE).read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True


def step_of(checkpoint: str | Path) -> int:
    """Read a checkpoint's step off its name; −1 if it has none."""
    number = Path(checkpoint).name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else -1


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """Find the newest checkpoint in ``folder`` that was written to its end; None if there is none."""
    numbered = [path for path in Path(folder).glob("checkpoint-*") if step_of(path) >= 0]
    newest_first = sorted(numbered, key=step_of, reverse=True)
    return next((str(path) for path in newest_first if _is_complete(path)), None)


def furthest_checkpoint(folder: str | Path) -> str | None:
    """Find the newest complete checkpoint of a training's furthest run; None if there is none."""
    latest_first = (Path(folder) / SUBNETWORKS, Path(folder) / FRONT, folder)
    return next(filter(None, map(last_complete_checkpoint, latest_first)), None)


class EpochStart(TrainerCallback):
    """Keeps the state of the random numbers at the beginning of an epoch, when its batches are drawn.

    transformers restores the state at the checkpoint only after the batches of the epoch that goes on are drawn.
    """

    def __init__(self) -> None:
        self.random = torch.get_rng_state()
        self._resumed = False

    def go_on(self, random: Tensor) -> None:
        """Begin the next epoch with this state."""
        self.random, self._resumed = random, True

    def on_epoch_begin(self, *args: Any, **kwargs: Any) -> None:
        """Take the state down; of an epoch that goes on, put it back."""
        if self._resumed:
            torch.set_rng_state(self.random)
        self.random, self._resumed = torch.get_rng_state(), False
