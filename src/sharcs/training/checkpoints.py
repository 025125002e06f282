"""What a checkpoint holds besides transformers' own: the plan of the epoch that was under way.

Its presence marks a checkpoint as complete, so it is written last.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open
from safetensors.torch import save_file

from sharcs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["STATE_FILE", "check_complete", "last_complete_checkpoint", "load_state", "save_state", "unmark"]

STATE_FILE = "sharcs_state.safetensors"


def save_state(folder: Path, tensors: Mapping[str, Tensor], progress: Mapping[str, int]) -> None:
    """Write the state into a checkpoint's folder, beside and renamed."""
    partial = folder / f"{STATE_FILE}.partial"
    save_file(dict(tensors), partial, metadata={name: str(value) for name, value in progress.items()})
    partial.replace(folder / STATE_FILE)


def load_state(folder: str | Path, samples: int, window: int) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Read what :func:`save_state` wrote.

    Raises:
        InputError: If it is of another number of training samples or another window.
    """
    with safe_open(Path(folder) / STATE_FILE, framework="pt") as file:
        progress = {name: int(value) for name, value in file.metadata().items()}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    then = tuple(tensors["confidences"].shape)
    if then != (samples, window):
        raise InputError(
            f"{folder}: was made with {then[0]} training samples and a window of {then[1]}, not {samples} and "
            f"{window}; resume with the data and settings of the first start"
        )
    return tensors, progress


def unmark(folder: Path) -> None:
    """Drop an older run's mark, which would make a mixture of both runs count as complete."""
    (folder / STATE_FILE).unlink(missing_ok=True)


def check_complete(folder: str | Path) -> None:
    """Refuse a checkpoint that was not written to its end.

    Raises:
        InputError: If it wasn't.
    """
    if not (Path(folder) / STATE_FILE).is_file():
        raise InputError(f"{folder}: is no complete checkpoint ({STATE_FILE} is missing)")


def last_complete_checkpoint(folder: str | Path) -> str | None:
    """Find the newest checkpoint below ``folder`` that was written to its end; None if there is none."""
    complete = [path.parent for path in Path(folder).glob(f"checkpoint-*/{STATE_FILE}")]
    numbered = [path for path in complete if path.name.removeprefix("checkpoint-").isdecimal()]
    return str(max(numbered, key=lambda path: int(path.name.removeprefix("checkpoint-")))) if numbered else None
