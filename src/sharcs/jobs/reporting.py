"""What else is told of a training's progress, as transformers names it: TensorBoard and others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, TensorBoardCallback

from sharcs.errors import InputError, first_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import TrainerCallback, TrainerControl, TrainerState

FULL_RUN = "full-network"


class RunsOnTensorBoard(TensorBoardCallback):
    """Writes each run of a training into a folder of its own, which stays when the checkpoints go.

    Args:
        folder: For the runs.
        first: The directory of the first run's checkpoints; a later run's is below it and has its name.
    """

    def __init__(self, folder: Path, first: Path) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._folder, self._first = folder, first

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Name the run."""
        run = Path(args.output_dir)
        self.logging_dir = str(self._folder / (FULL_RUN if run == self._first else run.name))
        super().on_train_begin(args, state, control, **kwargs)  # type: ignore[no-untyped-call]


def reporters(names: Sequence[str], folder: Path, checkpoints: Path) -> list[TrainerCallback]:
    """Make what reports.

    Args:
        names: As ``report_to`` of ``transformers.TrainingArguments`` takes them.
        folder: The output directory; TensorBoard's files go into ``runs`` there.
        checkpoints: For the checkpoints.

    Raises:
        InputError: If there is none of a name, or its package is missing.
    """
    made: list[TrainerCallback] = []
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise InputError(f"`report_to` {name}: is not known; there are {known}")
        try:
            if name == "tensorboard":
                made.append(RunsOnTensorBoard(folder / "runs", checkpoints))
            else:
                made.append(INTEGRATION_TO_CALLBACK[name]())
        except (ImportError, RuntimeError) as error:
            raise InputError(f"`report_to` {name}: {first_line(error)}; install it, or leave it out") from error
    return made
